//! The lines of an identity file: which of them are identities, and what the others are. Messages name lines, and never quote one. Each line
//! is judged separately, as bytes: a comment in another encoding does not affect the keys next to it.

use age::x25519::Identity;

use crate::text;

/// How many lines a message names.
const NAMED: usize = 5;

/// What the file holds.
pub(super) struct Lines {
    /// At least one.
    pub(super) identities: Vec<Identity>,
    /// What the other lines are. Follows the file's name.
    pub(super) left_out: Option<String>,
}

impl Lines {
    /// One identity per line; empty lines and `#` comments may be between them.
    ///
    /// # Errors
    /// There is no X25519 identity. Follows the file's name.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.strip_prefix(text::UTF8_MARK).unwrap_or(bytes).starts_with(b"age-encryption.org/") {
            return Err(format!("is {ENCRYPTED}"));
        }
        let bytes = text::without_mark(bytes).map_err(|fault| fault.to_string())?;
        // A line that is not UTF-8 is not an identity, so this copies no secret.
        let texts: Vec<_> = text::lines(bytes).map(String::from_utf8_lossy).collect();
        let lines: Vec<&str> = texts.iter().map(|line| line.trim()).collect();
        let (mut identities, mut others, mut at) = (Vec::new(), Vec::new(), 0);
        while let Some(line) = lines.get(at) {
            if !line.is_empty() && !line.starts_with('#') {
                match line.parse::<Identity>() {
                    Ok(identity) => identities.push(identity),
                    Err(_) => others.push((at + 1, kind(line))),
                }
            }
            at += 1 + inside(&lines[at..]);
        }
        let left_out = (!others.is_empty()).then(|| told(&others));
        match (identities.is_empty(), left_out) {
            (true, None) => Err("holds no identity (`keyferry vault init` makes one)".to_owned()),
            (true, Some(_)) if others.iter().all(|(_, kind)| *kind == ENCRYPTED) => Err(format!("is {ENCRYPTED}")),
            (true, Some(others)) => Err(format!("holds no X25519 identity: {others} ({READ})")),
            (false, left_out) => {
                let left_out = left_out.map(|others| format!("has lines that are left out: {others} ({READ})"));
                Ok(Self { identities, left_out })
            }
        }
    }
}

const READ: &str = "those start with AGE-SECRET-KEY-1; plugin, ssh and post-quantum keys are not read";

const ENCRYPTED: &str = "itself encrypted, and a daemon cannot type a passphrase (decrypt it with `age -d`)";

/// How many lines belong to the block of PEM that begins with the first line. A block without an end is only its first line, and does not
/// affect the lines after it.
fn inside(lines: &[&str]) -> usize {
    if !lines[0].starts_with("-----BEGIN") {
        return 0;
    }
    let ends = lines.iter().skip(1).position(|line| line.starts_with("-----"));
    ends.filter(|at| lines[at + 1].starts_with("-----END")).map_or(0, |at| at + 1)
}

fn told(others: &[(usize, &str)]) -> String {
    let shown = others.iter().take(NAMED).map(|(line, kind)| format!("line {line} is {kind}")).collect::<Vec<_>>().join(", ");
    match others.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// What a line is, if it is not an identity.
fn kind(line: &str) -> &'static str {
    let upper: String = line.chars().take(32).collect::<String>().to_ascii_uppercase();
    match upper.as_str() {
        line if line.starts_with("AGE-SECRET-KEY-PQ-") => "a post-quantum identity",
        line if line.starts_with("AGE-SECRET-KEY-1") => "an X25519 identity that is damaged",
        line if line.starts_with("AGE-PLUGIN-") => "a plugin's identity",
        line if line.starts_with("AGE1") => "a recipient, which opens nothing",
        line if line.starts_with("-----BEGIN AGE ENCRYPTED") => ENCRYPTED,
        line if line.starts_with("-----BEGIN") => "a key in PEM",
        line if line.contains(char::REPLACEMENT_CHARACTER) => "not UTF-8",
        _ => "not an identity",
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
        assert_snapshot!(refusal(b"\xff"), @"holds no X25519 identity: line 1 is not UTF-8 (those start with AGE-SECRET-KEY-1; plugin, ssh and post-quantum keys are not read)");
    }

    #[test]
    fn bytes_that_are_not_utf8_and_old_line_ends_spoil_no_key() {
        let key = Identity::generate().to_string();
        let key = key.expose_secret().as_bytes();
        for (text, left_out) in [
            ([b"# caf\xe9\n", key].concat(), None),
            ([key, b"\ncaf\xe9"].concat(), Some("line 2 is not UTF-8")),
            ([b"# ours\r", key, b"\rjunk\r", key, b"\r"].concat(), Some("line 3 is not an identity")),
            (
                [b"\xef\xbb\xbf# \xff\xfe\r\n\r\n", key, b"\r\n", b"AGE-SECRET-KEY-1CAN\xe9ARY"].concat(),
                Some("line 4 is an X25519 identity that is damaged"),
            ),
        ] {
            let lines = Lines::parse(&text).ok().unwrap();
            assert!(!lines.identities.is_empty());
            let told = lines.left_out.unwrap_or_default();
            assert!(left_out.map_or(told.is_empty(), |left_out| told.contains(left_out)), "{told}");
        }
    }

    #[test]
    fn a_block_that_does_not_end_spoils_nothing_behind_it() {
        let key = Identity::generate().to_string();
        let key = key.expose_secret();
        for (text, found) in [
            (format!("-----BEGIN OPENSSH PRIVATE KEY-----\nCANARY\n{key}\n"), 1),
            (format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{key}\n-----BEGIN X-----\nCANARY\n-----END X-----\n{key}\n"), 2),
            (format!("-----BEGIN AGE ENCRYPTED FILE-----\nCANARY\n-----END AGE ENCRYPTED FILE-----\n{key}\n"), 1),
            (format!("{key}\n-----END X-----\n-----BEGIN X-----"), 1),
        ] {
            let Lines { identities, left_out } = Lines::parse(text.as_bytes()).ok().unwrap();
            assert_eq!(identities.len(), found, "{}", text.replace(key, "KEY"));
            assert!(left_out.is_some_and(|left_out| !left_out.contains("CANARY") && left_out.contains("line 1 is") || found == 1));
        }
        for text in
            ["\u{feff}age-encryption.org/v1\n-> X25519 x\n", "-----BEGIN AGE ENCRYPTED FILE-----\nx\n-----END AGE ENCRYPTED FILE-----\n"]
        {
            assert!(refusal(text.as_bytes()).starts_with("is itself encrypted"), "{text}");
        }
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
