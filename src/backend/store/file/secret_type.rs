//! A Secret's `type`, as Kubernetes calls it. The vault keeps it with the fields, so that an imported Secret can be written back as it was.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The longest type in bytes. Kubernetes has no limit; its own types have at most 35 bytes.
const MAX: usize = 253;

/// Such as `kubernetes.io/tls`. Never `Opaque`: that is the type of all other Secrets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SecretType(String);

#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("a Secret's type has 1 to {MAX} bytes and no control character")]
pub struct InvalidSecretType;

impl SecretType {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretType {
    type Err = InvalidSecretType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = (1..=MAX).contains(&text.len()) && !text.chars().any(char::is_control);
        if fits { Ok(Self(text.to_owned())) } else { Err(InvalidSecretType) }
    }
}

impl fmt::Display for SecretType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
