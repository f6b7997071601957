//! A secret's revision: this is what the vault calls a version.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use crate::model::Version;

/// Counted from 1, and one more with each change. Never used twice for a name, also not after the secret was removed.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Revision(NonZeroU64);

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is not a revision of a file vault: a revision is a whole number from 1, as `keyferry vault get NAME` shows it")]
pub struct InvalidRevision(String);

impl Revision {
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    pub const fn new(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    pub const fn number(self) -> u64 {
        self.0.get()
    }

    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl From<Revision> for Version {
    fn from(revision: Revision) -> Self {
        Self::new(revision.to_string())
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Digits without a leading zero: there is one spelling per revision, so that equal pins are equal requests.
impl FromStr for Revision {
    type Err = InvalidRevision;

    fn from_str(text: &str) -> Result<Self, InvalidRevision> {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
        let number = if plain { text.parse().ok() } else { None };
        number.and_then(Self::new).ok_or_else(|| InvalidRevision(text.chars().take(80).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_each() {
        assert_eq!("17".parse::<Revision>().unwrap().to_string(), "17");
        for text in ["", "0", "03", "+3", "-1", "v3", "latest", "3 ", "18446744073709551616"] {
            assert!(text.parse::<Revision>().is_err(), "{text:?}");
        }
    }
}
