//! One thing that `keyferry doctor` checked, and the result. It is in this module because many modules check something.

use std::path::{Path, PathBuf};

/// What was checked, the result, why, and what to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Diagnosis {
    pub level: Level,
    /// Such as `backend bao: login`.
    pub what: String,
    /// What was found.
    pub why: String,
    /// Empty if there is nothing to do, or the remedy is not known.
    pub remedy: String,
}

/// A file that the configuration names, or that the daemon keeps.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NamedFile {
    /// The configuration's key, such as `identity.jwks.file`.
    pub key: String,
    pub path: PathBuf,
    /// Whether other users must not read it.
    pub secret: bool,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Level {
    Ok,
    /// Mounts work, or this is not known; the admin should look at it.
    Warn,
    /// Mounts fail because of it, or secrets are not safe.
    Fail,
}

impl Diagnosis {
    pub fn ok(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { level: Level::Ok, what: what.into(), why: why.into(), remedy: String::new() }
    }

    pub fn warn(what: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Warn, what: what.into(), why: why.into(), remedy: remedy.into() }
    }

    pub fn fail(what: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Fail, what: what.into(), why: why.into(), remedy: remedy.into() }
    }

    /// An error in Keyferry's form: why, and what to do in brackets at its end.
    pub fn of_error(level: Level, what: impl Into<String>, words: &str) -> Self {
        let (why, remedy) = parted(words);
        Self { level, what: what.into(), why: why.to_owned(), remedy: remedy.to_owned() }
    }
}

impl NamedFile {
    /// A file that all users may read.
    pub fn public(key: impl Into<String>, path: &Path) -> Self {
        Self { key: key.into(), path: path.to_owned(), secret: false }
    }

    pub fn secret(key: impl Into<String>, path: &Path) -> Self {
        Self { key: key.into(), path: path.to_owned(), secret: true }
    }
}

/// Splits a message from the brackets at its end.
fn parted(words: &str) -> (&str, &str) {
    let Some(inside) = words.strip_suffix(')') else { return (words, "") };
    let mut open = 1;
    for (at, sign) in inside.char_indices().rev() {
        match sign {
            ')' => open += 1,
            '(' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return match inside[..at].strip_suffix(' ') {
                Some(why) if !why.is_empty() => (why, &inside[at + 1..]),
                _ => (words, ""),
            };
        }
    }
    (words, "")
}

impl Level {
    /// The word in the doctor's lines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_is_in_the_last_brackets() {
        assert_eq!(parted("it is sealed (unseal it: `bao operator unseal`)"), ("it is sealed", "unseal it: `bao operator unseal`"));
        assert_eq!(parted("for x (valid 1 to 2), not for y (name (an) other)"), ("for x (valid 1 to 2), not for y", "name (an) other"));
        for whole in ["no brackets", "read(2)", "(only this)", "unbalanced)", "", ")"] {
            assert_eq!(parted(whole), (whole, ""));
        }
    }
}
