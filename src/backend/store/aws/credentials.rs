//! The key that signs a request to AWS. Each login makes one. It is checked here, once, so that every header made of it is valid.

use std::fmt;

use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::backend::remote::refusal::Needles;
use crate::model::SecretBytes;

/// The longest parts in bytes. AWS gives no limit for a session token, and advises against relying on its size.
const MAX_ID: usize = 128;
const MAX_SECRET: usize = 1024;
const MAX_TOKEN: usize = 16 * 1024;

/// An access key, for a while or for ever. `Debug` shows only the end of its id.
pub(super) struct Credentials {
    id: String,
    secret: Zeroizing<String>,
    token: Option<Zeroizing<String>>,
    /// `None`: never, or unknown.
    expires: Option<Timestamp>,
}

// === impl Credentials ===

impl Credentials {
    /// # Errors
    /// A part is empty, too long, or has characters that it cannot have. The error continues a sentence that ends with "has", and repeats
    /// nothing of the key.
    pub(super) fn new(
        id: String,
        secret: Zeroizing<String>,
        token: Option<Zeroizing<String>>,
        expires: Option<Timestamp>,
    ) -> Result<Self, &'static str> {
        // The id goes between slashes and commas of a header. AWS's own have letters and digits, and those of simulators also a `-`.
        if id.is_empty() || id.len() > MAX_ID || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')) {
            return Err("an access key id that is not valid (16 to 128 letters and digits, such as AKIA...)");
        }
        if !is_printable(&secret, MAX_SECRET) {
            return Err("a secret access key that is not valid (one line of ASCII characters, without blanks)");
        }
        if token.as_ref().is_some_and(|token| !is_printable(token, MAX_TOKEN)) {
            return Err("a session token that is not valid (one line of ASCII characters, without blanks)");
        }
        Ok(Self { id, secret, token, expires })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn secret(&self) -> &str {
        &self.secret
    }

    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_ref().map(|token| token.as_str())
    }

    /// Its secret parts.
    pub(super) fn secrets(&self) -> impl Iterator<Item = SecretBytes> {
        [Some(self.secret()), self.token()].into_iter().flatten().map(|text| SecretBytes::new(text.into()))
    }

    /// The texts that must be removed from AWS's words.
    pub(super) fn needles(&self) -> Needles {
        self.secrets().fold(Needles::default(), |needles, secret| needles.secret(&secret))
    }

    /// The key's name in messages and logs: an id is not a secret, but they do not show all of it.
    pub(super) fn shown(&self) -> String {
        format!("…{}", &self.id[self.id.len().saturating_sub(4)..])
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("id", &self.shown()).field("expires", &self.expires).finish_non_exhaustive()
    }
}

fn is_printable(text: &str, most: usize) -> bool {
    !text.is_empty() && text.len() <= most && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(id: &str, secret: &str, token: Option<&str>) -> Result<Credentials, &'static str> {
        Credentials::new(id.to_owned(), Zeroizing::new(secret.to_owned()), token.map(|token| Zeroizing::new(token.to_owned())), None)
    }

    #[test]
    fn debug_shows_the_end_of_the_id_alone() {
        let credentials = of("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG", Some("AQoDYXdzEPT")).unwrap();
        assert_eq!(format!("{credentials:?}"), r#"Credentials { id: "…MPLE", expires: None, .. }"#);
        assert_eq!(of("a", "b", None).unwrap().shown(), "…a");
    }

    #[test]
    fn what_no_header_could_carry_is_refused() {
        for id in ["", "AK IA", "AKIA\n", "AKIA/x", "AKIA,x", "ÄKIA", &"A".repeat(MAX_ID + 1)] {
            assert!(of(id, "secret", None).is_err(), "{id:?}");
        }
        for secret in ["", "a b", "a\n", "ä", "\0", &"a".repeat(MAX_SECRET + 1)] {
            assert!(of("AKIA", secret, None).is_err(), "{secret:?}");
        }
        for token in ["", "a b", "a\r\nx-amz: y", "ä", &"a".repeat(MAX_TOKEN + 1)] {
            assert!(of("AKIA", "secret", Some(token)).is_err(), "{token:?}");
        }
    }
}
