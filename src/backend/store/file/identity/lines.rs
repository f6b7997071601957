//! The lines of an identity file: which of them are identities, and what the others are. Messages name lines, and never quote one.

use age::x25519::Identity;

use crate::text;

/// How many lines are named.
const NAMED: usize = 5;

/// What the file holds.
pub(super) struct Lines {
    /// At least one.
    pub(super) identities: Vec<Identity>,
    /// Of the other lines, what they are. Follows the file's name.
    pub(super) left_out: Option<String>,
}

impl Lines {
    /// An identity a line; empty lines and `#` comments between them.
    ///
    /// # Errors
    /// There is no X25519 identity. Follows the file's name.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.starts_with(b"age-encryption.org/") || bytes.starts_with(b"-----BEGIN AGE") {
            return Err("is itself encrypted, and a daemon cannot type a passphrase (decrypt it with `age -d`)".to_owned());
        }
        let text = text::read(bytes).map_err(|fault| fault.to_string())?;
        let (mut identities, mut others, mut within) = (Vec::new(), Vec::new(), false);
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            // A PEM block is one thing.
            let inside = within;
            within = (within || line.starts_with("-----BEGIN")) && !line.starts_with("-----END");
            if inside || line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.parse::<Identity>() {
                Ok(identity) => identities.push(identity),
                Err(_) => others.push((number, kind(line))),
            }
        }
        let left_out = (!others.is_empty()).then(|| told(&others));
        match (identities.is_empty(), left_out) {
            (true, None) => Err("holds no identity (`keyferry vault init` makes one)".to_owned()),
            (true, Some(others)) => Err(format!("holds no X25519 identity: {others} ({READ})")),
            (false, left_out) => {
                let left_out = left_out.map(|others| format!("has lines that are left out: {others} ({READ})"));
                Ok(Self { identities, left_out })
            }
        }
    }
}

const READ: &str = "those start with AGE-SECRET-KEY-1; plugin, ssh and post-quantum keys are not read";

fn told(others: &[(usize, &str)]) -> String {
    let shown = others.iter().take(NAMED).map(|(line, kind)| format!("line {line} is {kind}")).collect::<Vec<_>>().join(", ");
    match others.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// What a line is that is no identity.
fn kind(line: &str) -> &'static str {
    let upper: String = line.chars().take(32).collect::<String>().to_ascii_uppercase();
    match upper.as_str() {
        line if line.starts_with("AGE-SECRET-KEY-PQ-") => "a post-quantum identity",
        line if line.starts_with("AGE-SECRET-KEY-1") => "an X25519 identity that is damaged",
        line if line.starts_with("AGE-PLUGIN-") => "a plugin's identity",
        line if line.starts_with("AGE1") => "a recipient, which opens nothing",
        line if line.starts_with("-----BEGIN") => "a key in PEM",
        _ => "no identity",
    }
}

#[cfg(test)]
mod tests {
    use age::secrecy::ExposeSecret;
    use insta::assert_snapshot;

    use super::*;

    fn refusal(text: &[u8]) -> String {
        Lines::parse(text).err().unwrap()
    }

    #[test]
    fn what_is_no_identity_is_named_by_its_line_and_never_quoted() {
        assert_snapshot!(refusal(b""), @"holds no identity (`keyferry vault init` makes one)");
        assert_snapshot!(refusal(b"# x\n\nAGE-SECRET-KEY-1CANARY"), @"holds no X25519 identity: line 3 is an X25519 identity that is damaged (those start with AGE-SECRET-KEY-1; plugin, ssh and post-quantum keys are not read)");
        assert_snapshot!(refusal(b"age-encryption.org/v1\n"), @"is itself encrypted, and a daemon cannot type a passphrase (decrypt it with `age -d`)");
        assert_snapshot!(refusal(b"\xff"), @"is not UTF-8 text: line 1 has other bytes (save it as UTF-8)");
    }

    #[test]
    fn lines_of_other_kinds_are_left_out_and_named() {
        let secret = Identity::generate().to_string();
        let text = format!(
            "\u{feff}{}\r\n# comment\nAGE-SECRET-KEY-PQ-1CANARY\nage-plugin-yubikey-1canary\n-----BEGIN OPENSSH PRIVATE KEY-----\nCANARY\nCANARY\n-----END OPENSSH PRIVATE KEY-----\n\
             AGE-SECRET-KEY-1CANARY\nage1canary\nhunter2\nssh-ed25519 CANARY\n  {}  \n",
            secret.expose_secret(),
            Identity::generate().to_string().expose_secret(),
        );
        let Lines { identities, left_out } = Lines::parse(text.as_bytes()).ok().unwrap();
        assert_eq!(identities.len(), 2);
        assert_snapshot!(left_out.unwrap(), @"has lines that are left out: line 3 is a post-quantum identity, line 4 is a plugin's identity, line 5 is a key in PEM, line 9 is an X25519 identity that is damaged, line 10 is a recipient, which opens nothing and 2 more (those start with AGE-SECRET-KEY-1; plugin, ssh and post-quantum keys are not read)");
    }
}
