//! A class's parameters as they are in the call. They are borrowed, and the longest is not even read, since most mounts only look up a known
//! class.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use super::RequestFault;
use super::json::not_json;
use crate::model::Code;

/// Keys and values, each key once and in order.
#[derive(Default, Eq, Hash, PartialEq)]
pub struct Parameters<'c>(Vec<(Cow<'c, str>, Spelling<'c>)>);

/// A value.
#[derive(Eq, Hash, PartialEq)]
pub(super) enum Spelling<'c> {
    Plain(Cow<'c, str>),
    /// A JSON string, with its quotes and escapes.
    Json(Cow<'c, str>),
}

// === impl Parameters ===

impl<'c> Parameters<'c> {
    /// # Errors
    /// The key is there already.
    pub(super) fn insert(&mut self, key: Cow<'c, str>, value: Spelling<'c>) -> Result<(), Cow<'c, str>> {
        // If they come in order, as the driver writes them, they go to the end.
        let place = match self.0.last() {
            Some((last, _)) if *last >= key => match self.find(&key) {
                Ok(_) => return Err(key),
                Err(place) => place,
            },
            Some(_) | None => self.0.len(),
        };
        self.0.insert(place, (key, value));
        Ok(())
    }

    /// Replaces a former value.
    pub fn replace(&mut self, key: &'c str, value: &'c str) {
        let value = Spelling::Plain(Cow::Borrowed(value));
        match self.find(key) {
            Ok(place) => self.0[place].1 = value,
            Err(place) => self.0.insert(place, (Cow::Borrowed(key), value)),
        }
    }

    /// A value that is not in JSON's spelling.
    pub fn get(&self, key: &str) -> Option<&str> {
        match &self.0[self.find(key).ok()?].1 {
            Spelling::Plain(text) => Some(text),
            Spelling::Json(_) => None,
        }
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| &**key)
    }

    /// The bytes of keys and values, as they are spelled.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(key, value)| key.len() + value.as_str().len()).sum()
    }

    /// Everything, read.
    ///
    /// # Errors
    /// A value is not JSON: a half of a character is the one fault that reading its end does not find.
    pub fn to_map(&self) -> Result<BTreeMap<String, String>, RequestFault> {
        let read = |(key, value): &(Cow<'_, str>, Spelling<'_>)| Ok((key.clone().into_owned(), value.read(key)?));
        self.0.iter().map(read).collect()
    }

    /// To be kept after the call.
    pub fn into_owned(self) -> Parameters<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        let own = |value| match value {
            Spelling::Plain(text) => Spelling::Plain(owned(text)),
            Spelling::Json(text) => Spelling::Json(owned(text)),
        };
        Parameters(self.0.into_iter().map(|(key, value)| (owned(key), own(value))).collect())
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| (**known).cmp(key))
    }
}

impl Spelling<'_> {
    /// As it is spelled.
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Plain(text) | Self::Json(text) => text,
        }
    }

    pub(super) fn read(&self, key: &str) -> Result<String, RequestFault> {
        const REMEDY: &str = "the driver sends it; any other caller must send whole characters";
        match self {
            Self::Plain(text) => Ok(text.clone().into_owned()),
            Self::Json(text) => serde_json::from_str(text).map_err(|error| RequestFault {
                key: key.to_owned(),
                problem: not_json(&error, "string", REMEDY),
                code: Code::InvalidRequest,
            }),
        }
    }
}

/// Only the keys: by mistake, a value may be a secret.
impl fmt::Debug for Parameters<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Spelling<'_> {
        Spelling::Plain(text.into())
    }

    #[test]
    fn they_are_in_order_and_each_is_there_once() {
        let mut parameters = Parameters::default();
        for key in ["c", "a", "b", "d"] {
            parameters.insert(key.into(), plain("1")).unwrap();
        }
        for key in ["a", "d", "c"] {
            assert_eq!(parameters.insert(key.into(), plain("2")).unwrap_err(), key);
        }
        parameters.replace("b", "3");
        parameters.replace("bb", "4");
        assert!(parameters.keys().eq(["a", "b", "bb", "c", "d"]));
        assert_eq!(["a", "b", "bb", "e"].map(|key| parameters.get(key)), [Some("1"), Some("3"), Some("4"), None]);
        assert_eq!(format!("{parameters:?}"), r#"["a", "b", "bb", "c", "d"]"#);
        assert_eq!(parameters.bytes(), 11);
    }

    /// Two spellings of one value are two classes to the table of plans: neither is found for the other.
    #[test]
    fn a_spelling_is_read_once_the_class_is_unknown() {
        let of = |value| Parameters(vec![("objects".into(), value)]);
        let (json, other) = (|| Spelling::Json(r#""a\n\u003e""#.into()), Spelling::Json(r#""a\n>""#.into()));
        assert!(of(json()) == of(json()).into_owned() && of(json()) != of(other));
        assert!(of(json()) != of(plain(r#""a\n\u003e""#)), "the same characters, and another value");
        assert_eq!(of(json()).to_map().unwrap()["objects"], "a\n>");
        assert_eq!(of(json()).get("objects"), None);
    }

    #[test]
    fn half_a_character_is_a_fault() {
        let fault = Spelling::Json(r#""a\ud800""#.into()).read("objects").unwrap_err();
        insta::assert_snapshot!(fault, @"objects: is not JSON: unexpected end of hex escape at line 1 column 9 (the driver sends it; any other caller must send whole characters)");
    }
}
