//! One JSON object, a member at a time: so that each fault can name its key, and repeated keys are seen. serde's own maps keep the last of
//! them in silence, and its words on wrong types quote the input.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

/// A member of an object that should hold strings alone.
pub(super) enum Member<'de> {
    Text(Cow<'de, str>),
    /// Something else; what it is, for the message.
    Other(&'static str),
}

/// A key, borrowed from the input where it holds no escape.
struct Key<'de>(Cow<'de, str>);

/// Hands on each member of an object as it is read.
struct Members<V, F>(F, PhantomData<V>);

/// Reads one JSON object, and nothing behind it. Repeated keys are the caller's to notice.
pub(super) fn read_object<'de, V: Deserialize<'de>>(text: &'de str, member: impl FnMut(Cow<'de, str>, V)) -> Result<(), serde_json::Error> {
    let mut json = serde_json::Deserializer::from_str(text);
    json.deserialize_map(Members(member, PhantomData))?;
    json.end()
}

/// The JSON library's words on syntax are constants; those on types quote the input, and are left out.
pub(super) fn not_json(error: &serde_json::Error, what: &str, remedy: &str) -> String {
    match error.classify() {
        Category::Syntax | Category::Eof => format!("is not JSON: {error} ({remedy})"),
        Category::Data | Category::Io => format!("is not a JSON {what}, at line {} column {} ({remedy})", error.line(), error.column()),
    }
}

impl<'de, V: Deserialize<'de>, F: FnMut(Cow<'de, str>, V)> Visitor<'de> for Members<V, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(Key(key)) = map.next_key()? {
            let value = map.next_value()?;
            (self.0)(key, value);
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Member::deserialize(deserializer)? {
            Member::Text(text) => Ok(Self(text)),
            Member::Other(_) => Err(Error::custom("a key is not a string")),
        }
    }
}

impl<'de> Deserialize<'de> for Member<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        match raw.as_bytes().first() {
            Some(b'"') => unescaped(raw).map(Self::Text).map_err(Error::custom),
            Some(b'{') => Ok(Self::Other("an object")),
            Some(b'[') => Ok(Self::Other("a list")),
            Some(b't' | b'f') => Ok(Self::Other("true or false")),
            Some(b'n') => Ok(Self::Other("null")),
            Some(_) | None => Ok(Self::Other("a number")),
        }
    }
}

/// A string without its quotes and escapes. Its room is made once: the library's own grows step by step, and all of it is wiped.
fn unescaped(raw: &str) -> Result<Cow<'_, str>, serde_json::Error> {
    let inner = &raw[1..raw.len() - 1];
    let Some(first) = inner.find('\\') else { return Ok(Cow::Borrowed(inner)) };
    let (mut text, mut rest) = (String::with_capacity(inner.len()), inner);
    let mut next = Some(first);
    while let Some(at) = next {
        text.push_str(&rest[..at]);
        text.push(match rest.as_bytes()[at + 1] {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            // By its number: the library knows about halves of a character.
            b'u' => return serde_json::from_str(raw).map(Cow::Owned),
            itself => char::from(itself),
        });
        rest = &rest[at + 2..];
        next = rest.find('\\');
    }
    text.push_str(rest);
    Ok(Cow::Owned(text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As the library reads it, whatever is escaped.
        #[test]
        fn strings_are_read_as_json_says(parts in prop::collection::vec("[a-zäß😀 ]{0,4}|\\\\[\"\\\\/bfnrt]|\\\\u(00e4|d83d\\\\ude00|dead|0000)", 0..12)) {
            let raw = format!("\"{}\"", parts.concat());
            let wanted = serde_json::from_str::<String>(&raw);
            match (unescaped(&raw), wanted) {
                (Ok(read), Ok(wanted)) => prop_assert_eq!(read, wanted),
                (read, wanted) => prop_assert!(read.is_err() && wanted.is_err(), "{raw}"),
            }
        }
    }
}
