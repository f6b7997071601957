//! Names: of backends, secrets, fields, versions and requests. They are parsed once, where they come in: a value of these types is valid.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use thiserror::Error;

use super::clean;

/// The longest secret name in bytes; a store's own limit may be lower.
const MAX_SECRET_NAME: usize = 1024;

/// The longest field name in bytes that Keyferry writes: a key of a Kubernetes Secret may be as long.
const MAX_FIELD_NAME: usize = 253;

/// A configured store, by its key under `backends`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BackendName(Arc<str>);

/// A secret's name as its store has it, in the one spelling that the policy sees and the store gets.
#[derive(Clone)]
pub struct SecretName {
    text: Arc<str>,
    hash: u64,
}

/// One field of a secret. A store's answer may have any text here, also an empty one: `Display` shows it escaped and cut.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FieldName(Arc<str>);

/// A secret's version: from the store, or an HMAC. The version that is delivered shows nothing of the value (`delivery` makes sure of
/// that).
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Version(Arc<str>);

/// Connects the log lines, the audit line and the error of one mount.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct RequestId(u64);

#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{0:?} is not a backend name: 1 to 63 of a-z, A-Z, 0-9, `-` and `_`")]
pub struct InvalidBackendName(String);

/// Why a name is not canonical. Its message completes "the name ...".
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum InvalidName {
    #[error("has a control character")]
    ControlCharacter,
    #[error("has the element {0:?}")]
    DotElement(String),
    #[error("is empty")]
    Empty,
    #[error("has an empty element (`//`, or a `/` at its start or end)")]
    EmptyElement,
    #[error("has the character {0:?}, which stores read as an escape or a query")]
    Escape(char),
    #[error("{0}")]
    Store(String),
    #[error("is {0} bytes long; at most {MAX_SECRET_NAME} are allowed")]
    TooLong(usize),
    #[error("has {0:?}, which cannot be asked for safely: some servers read it as another name")]
    Unsafe(String),
}

#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("a field name has 1 to {MAX_FIELD_NAME} bytes and no control character")]
pub struct InvalidFieldName;

// === impl BackendName ===

impl BackendName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BackendName {
    type Err = InvalidBackendName;

    fn from_str(text: &str) -> Result<Self, InvalidBackendName> {
        let fits = (1..=63).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if fits { Ok(Self(text.into())) } else { Err(InvalidBackendName(text.chars().take(80).collect())) }
    }
}

impl fmt::Display for BackendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl SecretName ===

/// The key with which names are hashed. Only this process has it, so that the author of names cannot choose names that collide.
static HASH_KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl SecretName {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The hash of the name, computed once.
    pub fn hash_code(&self) -> u64 {
        self.hash
    }

    /// A name for a store that gets every byte escaped. It may have a `#`, and a `%` without two hexadecimal digits after it. A server that
    /// decodes it once or twice sees this name. With `%2f` it would not; and some servers take `\` for a slash.
    ///
    /// # Errors
    /// As [`FromStr`], for other faults.
    pub fn escapable(text: &str) -> Result<Self, InvalidName> {
        let is_digit = |at: usize| text.as_bytes().get(at).is_some_and(u8::is_ascii_hexdigit);
        Self::checked(text, || {
            if let Some((at, _)) = text.match_indices('%').find(|(at, _)| is_digit(at + 1) && is_digit(at + 2)) {
                return Some(InvalidName::Unsafe(text[at..at + 3].to_owned()));
            }
            let escape = text.chars().find(|c| matches!(c, '?' | '\\'))?;
            Some(if escape == '?' { InvalidName::Escape(escape) } else { InvalidName::Unsafe(escape.to_string()) })
        })
    }

    fn checked(text: &str, escape: impl FnOnce() -> Option<InvalidName>) -> Result<Self, InvalidName> {
        if text.is_empty() {
            return Err(InvalidName::Empty);
        }
        if text.len() > MAX_SECRET_NAME {
            return Err(InvalidName::TooLong(text.len()));
        }
        if text.chars().any(char::is_control) {
            return Err(InvalidName::ControlCharacter);
        }
        if let Some(escape) = escape() {
            return Err(escape);
        }
        for element in text.split('/') {
            match element {
                "" => return Err(InvalidName::EmptyElement),
                "." | ".." => return Err(InvalidName::DotElement(element.to_owned())),
                _ => {}
            }
        }
        Ok(Self { text: text.into(), hash: HASH_KEY.hash_one(text) })
    }

    /// The folder of this name, with its `/`. Keyferry uses this name to ask for the folder's listing, and a secret cannot have it. `None`:
    /// the name is in no folder.
    pub fn folder(&self) -> Option<Self> {
        let text = &self.text[..=self.text.rfind('/')?];
        Some(Self { text: text.into(), hash: HASH_KEY.hash_one(text) })
    }

    pub fn is_folder(&self) -> bool {
        self.text.ends_with('/')
    }

    /// Without the `/` of a folder.
    pub fn without_slash(&self) -> &str {
        self.text.strip_suffix('/').unwrap_or(&self.text)
    }

    /// As [`Self::escapable`], for a secret or a folder.
    ///
    /// # Errors
    /// As [`Self::escapable`].
    pub fn escapable_or_folder(text: &str) -> Result<Self, InvalidName> {
        if !text.ends_with('/') {
            return Self::escapable(text);
        }
        Self::escapable(&format!("{text}x"))?.folder().ok_or(InvalidName::Empty)
    }

    /// The spelling of a name for a store that has empty elements, and no element `~`: `/a//b` is `~/a/~/b`.
    pub fn without_empty(text: &str) -> String {
        text.split('/').map(|element| if element.is_empty() { "~" } else { element }).collect::<Vec<_>>().join("/")
    }

    /// The reverse of [`Self::without_empty`].
    pub fn with_empty(text: &str) -> String {
        text.split('/').map(|element| if element == "~" { "" } else { element }).collect::<Vec<_>>().join("/")
    }

    /// The part after the last `/`: the default file name.
    pub fn last_element(&self) -> &str {
        self.text.rsplit('/').next().unwrap_or(&self.text)
    }
}

/// The rules of every store. A store with more rules calls this first, from its `canonical`.
impl FromStr for SecretName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::checked(text, || text.chars().find(|c| matches!(c, '%' | '?' | '#' | '\\')).map(InvalidName::Escape))
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SecretName").field(&self.text).finish()
    }
}

impl PartialEq for SecretName {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.text, &other.text) || self.hash == other.hash && self.text == other.text
    }
}

impl Eq for SecretName {}

impl Hash for SecretName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Ord for SecretName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl PartialOrd for SecretName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

// === impl FieldName ===

impl FieldName {
    /// A name as a store has it.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A name that Keyferry writes into a vault: its rules are stricter than for a store's answer.
impl FromStr for FieldName {
    type Err = InvalidFieldName;

    fn from_str(text: &str) -> Result<Self, InvalidFieldName> {
        let fits = (1..=MAX_FIELD_NAME).contains(&text.len()) && !text.chars().any(char::is_control);
        if fits { Ok(Self(text.into())) } else { Err(InvalidFieldName) }
    }
}

impl fmt::Display for FieldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&clean(&self.0))
    }
}

/// A map of fields can be asked with a plain `&str`.
impl std::borrow::Borrow<str> for FieldName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

// === impl Version ===

impl Version {
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the version is a number that counts up: decimal, of at most 64 bits, in its one spelling. Longer digits may be those of a
    /// digest.
    pub fn is_number(&self) -> bool {
        let is_spelled_once = matches!(self.0.as_bytes(), [b'0'] | [b'1'..=b'9', ..]);
        is_spelled_once && self.0.parse::<u64>().is_ok()
    }
}

impl From<Version> for Arc<str> {
    fn from(version: Version) -> Self {
        version.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl RequestId ===

impl RequestId {
    pub const fn new(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_names_round_trip() {
        for name in ["db", "kv/data/shop/db", "team-a/x.y_z", "a@b", "ünïcode/ключ", ".hidden", "..x"] {
            assert_eq!(name.parse::<SecretName>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn names_that_could_mean_two_things_are_refused() {
        for name in ["", "/a", "a/", "a//b", "a/../b", "..", ".", "a/./b", "a%2fb", "a?x", "a#x", "a\0b", "a\nb", "a\\b"] {
            assert!(name.parse::<SecretName>().is_err(), "{name:?}");
        }
        assert_eq!("x".repeat(1025).parse::<SecretName>(), Err(InvalidName::TooLong(1025)));
    }

    #[test]
    fn a_folder_has_a_name_that_no_secret_has() {
        let name = |text: &str| text.parse::<SecretName>().unwrap();
        let folder = name("shop/certs/web").folder().unwrap();
        assert_eq!((folder.as_str(), folder.without_slash(), folder.is_folder()), ("shop/certs/", "shop/certs", true));
        assert_eq!(SecretName::escapable_or_folder("shop/certs/"), Ok(folder.clone()));
        assert_eq!(name("db").folder(), None);
        assert!(!name("shop/certs").is_folder() && name("shop/certs") != folder);
        for text in ["/", "", "a//", "../", "a/./", "a%2f/", "a\n/"] {
            assert!(SecretName::escapable_or_folder(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_escaped_byte_by_byte_may_have_more_characters() {
        for name in ["a#b", "100%", "a%", "a%/b", "a%2", "%zz", "a%2/f", "#", "a%%b", "a%ü", "50% off", "a%2g", "a%\u{2f1}"] {
            assert_eq!(SecretName::escapable(name).unwrap().as_str(), name);
        }
        let told = ["a%2fb", "a%2Fb", "%41", "a%%41", "%00", "a%25", "a\\b", "a?b", "a/../b", "a//b", "a\nb", ""];
        let told = told.map(|name| format!("{name:?} {}", SecretName::escapable(name).unwrap_err()));
        insta::assert_snapshot!(told.join("\n"), @r#"
        "a%2fb" has "%2f", which cannot be asked for safely: some servers read it as another name
        "a%2Fb" has "%2F", which cannot be asked for safely: some servers read it as another name
        "%41" has "%41", which cannot be asked for safely: some servers read it as another name
        "a%%41" has "%41", which cannot be asked for safely: some servers read it as another name
        "%00" has "%00", which cannot be asked for safely: some servers read it as another name
        "a%25" has "%25", which cannot be asked for safely: some servers read it as another name
        "a\\b" has "\\", which cannot be asked for safely: some servers read it as another name
        "a?b" has the character '?', which stores read as an escape or a query
        "a/../b" has the element ".."
        "a//b" has an empty element (`//`, or a `/` at its start or end)
        "a\nb" has a control character
        "" is empty
        "#);
        assert_eq!(SecretName::escapable(&"x".repeat(1025)), Err(InvalidName::TooLong(1025)));
    }

    #[test]
    fn field_names_of_a_store_are_any_text_and_are_shown_escaped_and_cut() {
        let shown = |name: &str| FieldName::new(name).to_string();
        assert_eq!(shown("tls.crt"), "tls.crt");
        assert_eq!(shown(""), "");
        assert_eq!(shown("a\nb\u{202e}c"), r"a\nb\u{202e}c");
        assert_eq!(shown(&"x".repeat(300)), format!("{}...", "x".repeat(80)));
        assert!("".parse::<FieldName>().is_err() && "a\nb".parse::<FieldName>().is_err(), "Keyferry writes none of these");
    }

    #[test]
    fn backend_names_cannot_hold_the_separators_of_ids_and_policies() {
        for name in ["", "a/b", "a@b", "a#b", "a b", "*"] {
            assert!(name.parse::<BackendName>().is_err(), "{name:?}");
        }
        assert_eq!("bao-dr_2".parse::<BackendName>().unwrap().as_str(), "bao-dr_2");
    }
}
