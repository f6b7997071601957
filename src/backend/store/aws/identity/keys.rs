//! The daemon's own access key, in files: a file for each part, or one file in the form of AWS's own tools.

use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::backend::Fault;
use crate::backend::remote::credential;
use crate::backend::remote::refusal::Refusal;
use crate::backend::store::aws::config::KeyFiles;
use crate::backend::store::aws::credentials::Credentials;
use crate::files::Desk;
use crate::model::SecretBytes;

/// Entries of a profile that say how to get an access key. They are not an access key.
const OTHER_WAYS: [&str; 5] = ["credential_process", "credential_source", "role_arn", "sso_session", "sso_start_url"];

/// The key that the files have now.
///
/// # Errors
/// A file cannot be read, or has no key.
pub(super) async fn read(desk: &Desk, files: &KeyFiles, deadline: Instant) -> Result<Credentials, Refusal> {
    let (parts, shown) = match files {
        KeyFiles::Apart { id, secret, token } => {
            let token = match token {
                Some(token) => Some(text(&credential::read(desk, token, deadline).await?, &token.display())?),
                None => None,
            };
            let id = text(&credential::read(desk, id, deadline).await?, &id.display())?;
            let shown = secret.display().to_string();
            (Parts { id, secret: text(&credential::read(desk, secret, deadline).await?, &shown)?, token }, shown)
        }
        KeyFiles::Profile { file, profile } => {
            let shown = file.display().to_string();
            let content = text(&credential::read(desk, file, deadline).await?, &shown)?;
            (of_profile(&content, profile).map_err(|problem| unfit(&shown, &problem))?, shown)
        }
    };
    Credentials::new(parts.id.to_string(), parts.secret, parts.token, None).map_err(|problem| unfit(&shown, &format!("has {problem}")))
}

struct Parts {
    id: Zeroizing<String>,
    secret: Zeroizing<String>,
    token: Option<Zeroizing<String>>,
}

fn text(secret: &SecretBytes, shown: &dyn std::fmt::Display) -> Result<Zeroizing<String>, Refusal> {
    let text = str::from_utf8(secret.expose()).map(|text| Zeroizing::new(text.to_owned()));
    text.map_err(|_| unfit(shown, "is not a text (write the key into it as AWS shows it)"))
}

/// `[profile]`, and `key = value` below it. Empty lines and those that begin with # or ; are comments.
fn of_profile(content: &str, profile: &str) -> Result<Parts, String> {
    let (mut inside, mut found) = (false, false);
    let (mut id, mut secret, mut token, mut other) = (None, None, None, None);
    for line in content.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';'])) {
        if let Some(name) = line.strip_prefix('[') {
            inside = name.split(']').next().is_some_and(|name| name.trim() == profile);
            found |= inside;
        } else if let Some((key, value)) = line.split_once('=').filter(|_| inside) {
            let value = Some(value.trim()).filter(|value| !value.is_empty());
            match key.trim().to_ascii_lowercase().as_str() {
                "aws_access_key_id" => id = value,
                "aws_secret_access_key" => secret = value,
                "aws_session_token" => token = value,
                key => other = other.or_else(|| OTHER_WAYS.into_iter().find(|way| *way == key)),
            }
        }
    }
    if !found {
        return Err(format!("has no [{profile}] (add that profile, or name another one in auth.profile of the backend)"));
    }
    let kept = |text: &str| Zeroizing::new(text.to_owned());
    match (id, secret, other) {
        (Some(id), Some(secret), _) => Ok(Parts { id: kept(id), secret: kept(secret), token: token.map(kept) }),
        (_, _, Some(other)) => {
            Err(format!("has {other} in [{profile}], and no access key (Keyferry reads only access keys there; `assumeRole` is for roles)"))
        }
        (None, _, None) => Err(format!("has no aws_access_key_id in [{profile}] (write it there)")),
        (_, None, None) => Err(format!("has no aws_secret_access_key in [{profile}] (write it there)")),
    }
}

fn unfit(shown: &dyn std::fmt::Display, problem: &str) -> Refusal {
    Refusal::new(Fault::Unauthenticated, format!("{shown}: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# made by hand\n[default]\naws_access_key_id = AKIADEFAULT\r\nAWS_SECRET_ACCESS_KEY=s3cr3t/+=x\nregion = eu-west-1\n\n\
                        ; another\n[ ci ] ; x\naws_access_key_id=AKIACI\naws_secret_access_key = other\naws_session_token = t==\n\
                        [empty]\n[half]\naws_access_key_id = AKIAHALF\naws_secret_access_key =\n[role]\nrole_arn = arn:aws:iam::1:role/x\n";

    fn of(profile: &str) -> Result<String, String> {
        let shown = |Parts { id, secret, token }: Parts| format!("{} {} {:?}", *id, *secret, token.as_deref());
        of_profile(FILE, profile).map(shown)
    }

    #[test]
    fn a_profile_is_read_as_awss_own_tools_do() {
        assert_eq!(of("default").unwrap(), "AKIADEFAULT s3cr3t/+=x None");
        assert_eq!(of("ci").unwrap(), "AKIACI other Some(\"t==\")");
    }

    #[test]
    fn what_has_no_key_says_so() {
        let said: Vec<_> = ["", "Default", "empty", "half", "role"].map(|profile| of(profile).unwrap_err()).into();
        insta::assert_snapshot!(said.join("\n"), @"
        has no [] (add that profile, or name another one in auth.profile of the backend)
        has no [Default] (add that profile, or name another one in auth.profile of the backend)
        has no aws_access_key_id in [empty] (write it there)
        has no aws_secret_access_key in [half] (write it there)
        has role_arn in [role], and no access key (Keyferry reads only access keys there; `assumeRole` is for roles)
        ");
        assert!(of_profile("aws_access_key_id = AKIA\naws_secret_access_key = s", "default").is_err(), "it is in no profile");
    }

    #[tokio::test]
    async fn files_that_hold_no_key_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            std::fs::write(folder.path().join(name), content).unwrap();
            folder.path().join(name)
        };
        let (desk, deadline) = (Desk::new(2), Instant::now() + tokio::time::Duration::from_secs(5));
        let apart =
            |id: &str, secret: &str| KeyFiles::Apart { id: folder.path().join(id), secret: folder.path().join(secret), token: None };
        file("id", b"AKIAEXAMPLE\n");
        file("secret", b" wJalrXUtnFEMI/K7MDENG \n");
        let read_as = read(&desk, &apart("id", "secret"), deadline).await.unwrap();
        assert_eq!((read_as.id(), read_as.secret(), read_as.token()), ("AKIAEXAMPLE", "wJalrXUtnFEMI/K7MDENG", None));
        file("binary", b"\xff\xfe\xfd");
        file("two", b"canary canary");
        file("empty", b"\n");
        let mut said = Vec::new();
        for (id, secret) in [("id", "absent"), ("id", "binary"), ("id", "two"), ("id", "empty"), ("two", "secret"), ("secret", "secret")] {
            let refusal = read(&desk, &apart(id, secret), deadline).await.unwrap_err();
            assert_eq!(refusal.fault, Fault::Unauthenticated);
            said.push(refusal.reason.replace(&folder.path().display().to_string(), "[folder]"));
        }
        assert!(!said.join("").contains("canary"));
        insta::assert_snapshot!(said.join("\n"), @"
        [folder]/absent: cannot be read: No such file or directory (os error 2) (the daemon logs in to the store with what is in this file)
        [folder]/binary: is UTF-16, as PowerShell writes it (save it as UTF-8)
        [folder]/two: has a secret access key that is not valid (one line of ASCII characters, without blanks)
        [folder]/empty: is empty (the daemon logs in to the store with what is in this file)
        [folder]/secret: has an access key id that is not valid (16 to 128 letters and digits, such as AKIA...)
        [folder]/secret: has an access key id that is not valid (16 to 128 letters and digits, such as AKIA...)
        ");
    }
}
