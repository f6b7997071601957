//! A file in a volume: its path and its mode, within what the driver accepts (`proto/provider.proto`).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// The longest path in bytes (Linux `PATH_MAX`).
const MAX_PATH: usize = 4096;

/// The longest element of a path in bytes (Linux `NAME_MAX`).
const MAX_ELEMENT: usize = 255;

/// Where a file is in the volume: relative and clean.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FilePath(Arc<str>);

/// A folder in the volume that gets several files. The volume's root is one.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct FolderPath(Option<FilePath>);

/// Permission bits, 0 to 0777.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FileMode(u16);

/// The owner of a file, by number. A name would be one of the node, not of the container.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

/// Why a path cannot be in a volume. The message completes "the path ...".
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum InvalidPath {
    #[error("is absolute: paths are relative to the volume")]
    Absolute,
    #[error("has a control character")]
    ControlCharacter,
    #[error("has the element {0:?}")]
    DotElement(&'static str),
    #[error("is empty")]
    Empty,
    #[error("has an empty element (`//`, or a `/` at its end)")]
    EmptyElement,
    #[error("has an element of {0} bytes: a file name has at most {MAX_ELEMENT}")]
    LongElement(usize),
    #[error("starts with `..`, which the driver keeps for itself")]
    Reserved,
    #[error("is {0} bytes long: at most {MAX_PATH} are allowed")]
    TooLong(usize),
}

#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum InvalidMode {
    #[error("{0} is over 0777: the set-user-id, set-group-id and sticky bits cannot be delivered")]
    OutOfRange(String),
    #[error("{0:?} is not a file mode: a mode is octal such as 0444, 0o444 or \"0444\", or decimal such as 292")]
    Unreadable(String),
}

#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{0:?} is not an owner: an owner is the user's and the group's number, such as \"1000:1000\"")]
pub struct InvalidOwner(String);

// === impl FilePath ===

impl FilePath {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folders that the file is in, outermost first.
    pub fn parents(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').map(|(at, _)| &self.0[..at])
    }
}

impl FromStr for FilePath {
    type Err = InvalidPath;

    fn from_str(text: &str) -> Result<Self, InvalidPath> {
        if text.is_empty() {
            return Err(InvalidPath::Empty);
        }
        if text.len() > MAX_PATH {
            return Err(InvalidPath::TooLong(text.len()));
        }
        if text.starts_with('/') {
            return Err(InvalidPath::Absolute);
        }
        if text.chars().any(char::is_control) {
            return Err(InvalidPath::ControlCharacter);
        }
        for element in text.split('/') {
            match element {
                "" => return Err(InvalidPath::EmptyElement),
                "." => return Err(InvalidPath::DotElement(".")),
                ".." => return Err(InvalidPath::DotElement("..")),
                long if long.len() > MAX_ELEMENT => return Err(InvalidPath::LongElement(long.len())),
                _ => {}
            }
        }
        if text.starts_with("..") {
            return Err(InvalidPath::Reserved);
        }
        Ok(Self(text.into()))
    }
}

impl From<FilePath> for Arc<str> {
    fn from(path: FilePath) -> Self {
        path.0
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl FolderPath ===

impl FolderPath {
    pub const ROOT: Self = Self(None);

    /// Its path; the volume's root has none.
    pub fn as_path(&self) -> Option<&FilePath> {
        self.0.as_ref()
    }

    /// The path of a file in this folder.
    pub fn join(&self, name: &str) -> Result<FilePath, InvalidPath> {
        match &self.0 {
            Some(folder) => format!("{folder}/{name}").parse(),
            None => name.parse(),
        }
    }
}

/// One `/` at the end is fine. An empty text, `.` and `./` mean the volume's root.
impl FromStr for FolderPath {
    type Err = InvalidPath;

    fn from_str(text: &str) -> Result<Self, InvalidPath> {
        match text {
            "" | "." | "./" => Ok(Self::ROOT),
            _ => text.strip_suffix('/').unwrap_or(text).parse().map(|path| Self(Some(path))),
        }
    }
}

impl fmt::Display for FolderPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(folder) => write!(f, "{folder}/"),
            None => f.write_str("./"),
        }
    }
}

// === impl FileMode ===

impl FileMode {
    /// What a file gets if neither the class nor the driver says anything.
    pub const DEFAULT: Self = Self(0o644);

    /// No rights at all.
    pub const NONE: Self = Self(0);

    pub fn from_bits(bits: u64) -> Option<Self> {
        u16::try_from(bits).ok().filter(|bits| *bits <= 0o777).map(Self)
    }

    pub const fn bits(self) -> u16 {
        self.0
    }
}

/// As in Kubernetes: a leading `0` or `0o` is octal, anything else decimal.
impl FromStr for FileMode {
    type Err = InvalidMode;

    fn from_str(text: &str) -> Result<Self, InvalidMode> {
        let (digits, radix) = match text.strip_prefix("0o").or_else(|| text.strip_prefix('0').filter(|rest| !rest.is_empty())) {
            Some(octal) => (octal, 8),
            None => (text, 10),
        };
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) || digits.len() > 12 {
            return Err(InvalidMode::Unreadable(text.chars().take(40).collect()));
        }
        let bits = u64::from_str_radix(digits, radix).map_err(|_| InvalidMode::Unreadable(text.to_owned()))?;
        Self::from_bits(bits).ok_or_else(|| InvalidMode::OutOfRange(text.to_owned()))
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

// === impl Owner ===

/// `<uid>:<gid>`. 4294967295 is not an id: for the kernel it means "leave as it is" (chown(2)).
impl FromStr for Owner {
    type Err = InvalidOwner;

    fn from_str(text: &str) -> Result<Self, InvalidOwner> {
        let id = |text: &str| text.parse().ok().filter(|id| *id != u32::MAX && text.bytes().all(|byte| byte.is_ascii_digit()));
        let both = text.split_once(':').and_then(|(uid, gid)| Some(Self { uid: id(uid)?, gid: id(gid)? }));
        both.ok_or_else(|| InvalidOwner(text.chars().take(40).collect()))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_mode() {
        for (text, bits) in
            [("0444", 0o444), ("0o444", 0o444), ("292", 0o444), ("0", 0), ("00", 0), ("0777", 0o777), ("511", 0o777), ("420", 0o644)]
        {
            assert_eq!(text.parse::<FileMode>().map(FileMode::bits), Ok(bits), "{text}");
        }
        for text in ["01777", "04755", "512", "0o1000", "4294967296"] {
            assert!(matches!(text.parse::<FileMode>(), Err(InvalidMode::OutOfRange(_))), "{text}");
        }
        for text in ["", "0o", "0x1ff", "rw-r--r--", "0888", "-1", "+0444", "0 444", "9999999999999"] {
            assert!(matches!(text.parse::<FileMode>(), Err(InvalidMode::Unreadable(_))), "{text}");
        }
    }

    #[test]
    fn paths_the_driver_would_refuse_are_refused_here() {
        for path in ["", "/etc/passwd", "a//b", "./a", "a/./b", "..", "../a", "a/../b", "..data", "..2026/x", "a/", "a\0b", "a\nb"] {
            assert!(path.parse::<FilePath>().is_err(), "{path:?}");
        }
        assert!(format!("a/{}", "x".repeat(256)).parse::<FilePath>().is_err());
        assert!("x/".repeat(2048).parse::<FilePath>().is_err());
        for path in ["a", ".env", "a/..b", "a/.b/c", "tls.crt", "x y"] {
            assert_eq!(path.parse::<FilePath>().unwrap().as_str(), path);
        }
    }

    #[test]
    fn a_folder_may_be_the_root() {
        for root in ["", ".", "./"] {
            assert_eq!(root.parse::<FolderPath>().unwrap().join("x").unwrap().as_str(), "x");
        }
        assert_eq!("a/b/".parse::<FolderPath>().unwrap().join("c").unwrap().as_str(), "a/b/c");
        assert!("/".parse::<FolderPath>().is_err());
        assert!("a//".parse::<FolderPath>().is_err());
        assert!(FolderPath::ROOT.join("..data").is_err());
    }

    #[test]
    fn an_owner_is_two_numbers() {
        for (text, uid, gid) in [("0:0", 0, 0), ("1000:2000", 1000, 2000), ("4294967294:1", 4_294_967_294, 1)] {
            let owner: Owner = text.parse().unwrap();
            assert_eq!((owner, owner.to_string().as_str()), (Owner { uid, gid }, text));
        }
        for text in ["", ":", "1000", "1000:", ":1000", "app:app", "-1:0", "+1:0", "1:2:3", " 1:1", "4294967295:0", "0:4294967296", "1.1"] {
            assert!(text.parse::<Owner>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn parents_are_outermost_first() {
        let path: FilePath = "a/b/c".parse().unwrap();
        assert_eq!(path.parents().collect::<Vec<_>>(), ["a", "a/b"]);
    }
}
