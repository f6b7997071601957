//! One JSON object, a member at a time: so that each fault can name its key, and repeated keys are seen. serde's own maps keep the last of
//! them in silence, and its words on wrong types quote the input.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

/// A member of an object that should hold strings alone.
pub(super) enum Member<'de> {
    Text(Cow<'de, str>),
    /// A string as it is spelled, with its quotes and at least one escape.
    Spelled(&'de str),
    /// Something else; what it is, for the message.
    Other(&'static str),
}

/// A key, borrowed from the input where it holds no escape.
struct Key<'de>(Cow<'de, str>);

/// How a member is read.
pub(super) enum As {
    Text,
    /// A string with escapes stays as it is spelled.
    Spelled,
}

/// Hands on each member of an object as it is read: how to read it, by its key, and what to do with it.
struct Members<S, F>(S, F);

/// Reads one JSON object, and nothing behind it. Repeated keys are the caller's to notice.
pub(super) fn read_object<'de, V: Deserialize<'de>>(text: &'de str, member: impl FnMut(Cow<'de, str>, V)) -> Result<(), serde_json::Error> {
    read_object_as(text, |_| PhantomData, member)
}

/// The same; `how`: how the value of a key is read.
pub(super) fn read_object_as<'de, S: DeserializeSeed<'de>>(
    text: &'de str,
    how: impl Fn(&str) -> S,
    member: impl FnMut(Cow<'de, str>, S::Value),
) -> Result<(), serde_json::Error> {
    let mut json = serde_json::Deserializer::from_str(text);
    json.deserialize_map(Members(how, member))?;
    json.end()
}

/// The JSON library's words on syntax are constants; those on types quote the input, and are left out.
pub(super) fn not_json(error: &serde_json::Error, what: &str, remedy: &str) -> String {
    match error.classify() {
        Category::Syntax | Category::Eof => format!("is not JSON: {error} ({remedy})"),
        Category::Data | Category::Io => format!("is not a JSON {what}, at line {} column {} ({remedy})", error.line(), error.column()),
    }
}

impl<'de, S: DeserializeSeed<'de>, H: Fn(&str) -> S, F: FnMut(Cow<'de, str>, S::Value)> Visitor<'de> for Members<H, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(Key(key)) = map.next_key()? {
            let value = map.next_value_seed((self.0)(&key))?;
            (self.1)(key, value);
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_str(MemberVisitor)? {
            Member::Text(text) => Ok(Self(text)),
            Member::Spelled(_) | Member::Other(_) => Err(serde::de::Error::custom("a key is not a string")),
        }
    }
}

impl<'de> Deserialize<'de> for Member<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MemberVisitor)
    }
}

impl<'de> DeserializeSeed<'de> for As {
    type Value = Member<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Member<'de>, D::Error> {
        let Self::Spelled = self else { return Member::deserialize(deserializer) };
        let spelled = <&RawValue>::deserialize(deserializer)?.get();
        if spelled.starts_with('"') && spelled.contains('\\') {
            return Ok(Member::Spelled(spelled));
        }
        // The text has been read once, so that it is JSON.
        serde_json::from_str(spelled).map_err(serde::de::Error::custom)
    }
}

struct MemberVisitor;

impl<'de> Visitor<'de> for MemberVisitor {
    type Value = Member<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Member<'de>, E> {
        Ok(Member::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Member<'de>, E> {
        Ok(Member::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Member<'de>, E> {
        Ok(Member::Other("true or false"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Member<'de>, E> {
        Ok(Member::Other("a number"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Member<'de>, E> {
        Ok(Member::Other("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Member<'de>, E> {
        Ok(Member::Other("a number"))
    }

    fn visit_unit<E>(self) -> Result<Member<'de>, E> {
        Ok(Member::Other("null"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Member<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Member::Other("an object"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Member<'de>, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Member::Other("a list"))
    }
}
