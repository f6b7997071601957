//! The fields of a secret that came as JSON: split without a copy of what is not delivered, and without rounding a number.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Deserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::refusal::Refusal;
use crate::backend::Fault;
use crate::model::{Field, FieldKind, FieldName, SecretBytes, quoted};

/// The most fields of a secret, as in the file vault. Each field takes about 200 bytes of memory besides its text, even if that is short.
const MAX_FIELDS: usize = 4096;

/// An object's members. Each is still the JSON that the store wrote.
pub(in crate::backend) type Members<'a> = BTreeMap<String, &'a RawValue>;

/// The members of an object that are asked for. If a name is there twice, the last one counts. No more are kept than a secret may have
/// fields.
struct Kept<'a> {
    members: Members<'a>,
    are_all: bool,
}

/// Reads all members, or the one of this name.
struct Reading<'n>(Option<&'n str>);

/// `None`: it is not an object.
///
/// # Errors
/// A member's name is not Unicode: nobody could ask for it, and without it the object would differ from the store's. Or there are too many
/// members.
pub(in crate::backend) fn members(value: &RawValue) -> Result<Option<Members<'_>>, Refusal> {
    let Some(Kept { members, are_all }) = read(value, Reading(None))? else { return Ok(None) };
    if !are_all {
        let reason = format!("it has more than {MAX_FIELDS} fields; no secret may have more (split the secret)");
        return Err(Refusal::new(Fault::TooLarge, reason));
    }
    Ok(Some(members))
}

/// One member of an object that may have any number of them; `None`: it has none of this name, or is not an object.
///
/// # Errors
/// A member's name is not Unicode.
pub(in crate::backend) fn member<'a>(value: &'a RawValue, name: &str) -> Result<Option<&'a RawValue>, Refusal> {
    Ok(read(value, Reading(Some(name)))?.and_then(|kept| kept.members.into_values().next()))
}

fn read<'a>(value: &'a RawValue, reading: Reading<'_>) -> Result<Option<Kept<'a>>, Refusal> {
    if !is_object(value) {
        return Ok(None);
    }
    // The text is valid JSON: only a name can still be wrong.
    serde_json::Deserializer::from_str(value.get()).deserialize_map(reading).map(Some).map_err(|_| half("a member's name"))
}

impl<'de> Visitor<'de> for Reading<'_> {
    type Value = Kept<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kept<'de>, A::Error> {
        let mut kept = Kept { members: Members::new(), are_all: true };
        while let Some(name) = map.next_key::<String>()? {
            let is_wanted = self.0.is_none_or(|wanted| wanted == name);
            let has_room = kept.members.len() < MAX_FIELDS || kept.members.contains_key(&name);
            if is_wanted && has_room {
                kept.members.insert(name, map.next_value()?);
            } else {
                kept.are_all &= has_room;
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(kept)
    }
}

/// `None`: it is not a text, or it has half a character in it.
pub(in crate::backend) fn text(value: &RawValue) -> Option<SecretBytes> {
    serde_json::from_str::<String>(value.get()).ok().map(|text| SecretBytes::new(text.into_bytes()))
}

pub(in crate::backend) fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

/// Every member as a field, with any name. A member that was left out would be missing from the whole secret, and nobody would know.
///
/// # Errors
/// A text is not Unicode, or all of them together are too large.
pub(in crate::backend) fn fields(members: &Members<'_>, max_bytes: usize) -> Result<BTreeMap<FieldName, Field>, Refusal> {
    let (mut fields, mut bytes, mut names) = (BTreeMap::new(), 0, 0);
    for (name, value) in members {
        let field = field(value).ok_or_else(|| half(&format!("field {}", quoted(name))))?;
        bytes += field.bytes.len();
        names += name.len();
        fields.insert(FieldName::new(name), field);
    }
    check_size(bytes, max_bytes)?;
    if names > max_bytes {
        let reason = format!(
            "the names of its fields have {names} bytes; at most {max_bytes} are allowed (split the secret, or raise limits.secretBytes)"
        );
        return Err(Refusal::new(Fault::TooLarge, reason));
    }
    Ok(fields)
}

/// # Errors
/// The fields of a secret are too large.
pub(in crate::backend) fn check_size(bytes: usize, max_bytes: usize) -> Result<(), Refusal> {
    if bytes > max_bytes {
        let reason = format!("its fields have {bytes} bytes; at most {max_bytes} are allowed (raise limits.secretBytes)");
        return Err(Refusal::new(Fault::TooLarge, reason));
    }
    Ok(())
}

/// A text becomes its own bytes; everything else stays the JSON that the store wrote, to the digit. `None`: half a character is in it.
pub(in crate::backend) fn field(value: &RawValue) -> Option<Field> {
    if has_half(value.get()) {
        return None;
    }
    if value.get().starts_with('"') {
        return text(value).map(Field::of_bytes);
    }
    let bytes = SecretBytes::new(value.get().as_bytes().to_vec());
    Some(Field { bytes: Arc::new(bytes), kind: FieldKind::Json })
}

/// Whether JSON has half of a surrogate pair in a text or a name (RFC 8259, section 8.2): a parser either refuses that, or puts something
/// else in its place. Then Keyferry would deliver a secret that the store does not have.
pub(in crate::backend) fn has_half(json: &str) -> bool {
    let mut rest = json.as_bytes();
    // Only texts and names have a backslash.
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        let escape = &rest[at..];
        let length = match (unit(escape), escape.get(6..).and_then(unit)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 12,
            (Some(0xD800..=0xDFFF), _) => return true,
            (Some(_), _) => 6,
            // Another escape, such as `\\`, has two characters.
            (None, _) => 2,
        };
        rest = escape.get(length..).unwrap_or_default();
    }
    false
}

/// The number of an escape `\uXXXX` at the start.
pub(in crate::backend) fn unit(escape: &[u8]) -> Option<u16> {
    let digits = escape.strip_prefix(b"\\u")?.get(..4)?;
    u16::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

/// `what` has half a character in it.
pub(in crate::backend) fn half(what: &str) -> Refusal {
    Refusal::new(Fault::Corrupt, format!("{what} has half a character in it (half of a surrogate pair: write the secret again)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_character_is_found_wherever_it_is() {
        for json in [
            r#""\ud800""#,
            r#""\uD800""#,
            r#""\udfff""#,
            r#""\ude00\ud83d""#,
            r#""\ud83d\ud83d\ude00""#,
            r#""\ud83dx\ude00""#,
            r#""\ud83d\\ude00""#,
            r#""\\\ud800""#,
            r#"{"\ud800":1}"#,
            r#"[{"a":["b\udc00"]}]"#,
        ] {
            assert!(has_half(json), "{json}");
        }
        for json in [r#""\ud83d\ude00""#, r#""\\ud800""#, r#""\u0000\n\"""#, r#""\ud7ff\ue000""#, "1e999", r#""x\\""#, ""] {
            assert!(!has_half(json), "{json}");
        }
    }

    fn raw(json: &str) -> &RawValue {
        serde_json::from_str(json).unwrap()
    }

    /// `n` members of a few bytes each.
    fn of_many(n: usize) -> String {
        let members: Vec<String> = (0..n).map(|n| format!("\"{n:05}\":\"\"")).collect();
        format!("{{{}}}", members.join(","))
    }

    #[test]
    fn a_secret_has_a_bound_of_fields() {
        assert_eq!(members(raw(&of_many(MAX_FIELDS))).unwrap().unwrap().len(), MAX_FIELDS);
        let refusal = members(raw(&of_many(90_000))).unwrap_err();
        assert_eq!(refusal.fault, Fault::TooLarge);
        insta::assert_snapshot!(refusal.reason, @"it has more than 4096 fields; no secret may have more (split the secret)");
        let twice = format!("{{{}\"a\":2}}", "\"a\":1,".repeat(MAX_FIELDS + 1));
        assert_eq!(members(raw(&twice)).unwrap().unwrap()["a"].get(), "2", "one that is there often is one");
    }

    #[test]
    fn every_member_is_a_field_whatever_its_name() {
        let long = "x".repeat(300);
        let json = format!(r#"{{"":"1","a\nb":"2","\u202ec":null,"{long}":"3","a/b":[]}}"#);
        let fields = fields(&members(raw(&json)).unwrap().unwrap(), 1000).unwrap();
        let names: Vec<&str> = fields.keys().map(FieldName::as_str).collect();
        assert_eq!(names, ["", "a\nb", "a/b", &long, "\u{202e}c"]);
        assert!(fields["\u{202e}c"].is_null() && !fields[""].is_null());
    }

    #[test]
    fn one_member_is_found_among_any_number() {
        let many = of_many(90_000);
        assert_eq!(member(raw(&many), "89999").unwrap().unwrap().get(), "\"\"");
        assert!(member(raw(&many), "x").unwrap().is_none() && member(raw("[1]"), "x").unwrap().is_none());
        assert_eq!(member(raw(r#"{"a":1,"b":2,"\u0061":[3]}"#), "a").unwrap().unwrap().get(), "[3]");
        assert!(member(raw(r#"{"a":1,"\ud800":2}"#), "a").is_err());
    }
}
