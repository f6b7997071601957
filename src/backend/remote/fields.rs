//! The fields of a secret that came as JSON: told apart without a copy of what is not delivered, and without rounding a number.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::refusal::Refusal;
use crate::backend::Fault;
use crate::model::{Field, FieldKind, FieldName, SecretBytes};

/// An object's members, each still the JSON that the store wrote.
pub(in crate::backend) type Members<'a> = BTreeMap<String, &'a RawValue>;

/// `None`: it is not an object.
///
/// # Errors
/// A member's name is not Unicode: nobody could ask for it, and without it the object would not be the store's.
pub(in crate::backend) fn members(value: &RawValue) -> Result<Option<Members<'_>>, Refusal> {
    if !is_object(value) {
        return Ok(None);
    }
    // The text is JSON already: what can still fail is a name.
    serde_json::from_str(value.get()).map(Some).map_err(|_| half("a member's name"))
}

/// `None`: it is not a text, or one with half a character in it.
pub(in crate::backend) fn text(value: &RawValue) -> Option<SecretBytes> {
    serde_json::from_str::<String>(value.get()).ok().map(|text| SecretBytes::new(text.into_bytes()))
}

pub(in crate::backend) fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

/// The fields, and the number of those whose names cannot be asked for.
///
/// # Errors
/// A text that is not Unicode, or all of them together are over the bound.
pub(in crate::backend) fn fields(members: &Members<'_>, max_bytes: usize) -> Result<(BTreeMap<FieldName, Field>, usize), Refusal> {
    let (mut fields, mut unnamed, mut bytes) = (BTreeMap::new(), 0, 0);
    for (name, value) in members {
        let Ok(name) = name.parse::<FieldName>() else {
            unnamed += 1;
            continue;
        };
        let field = field(value).ok_or_else(|| half(&format!("field {:?}", name.as_str())))?;
        bytes += field.bytes.len();
        fields.insert(name, field);
    }
    check_size(bytes, max_bytes)?;
    Ok((fields, unnamed))
}

/// # Errors
/// The fields of a secret are over the bound.
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

/// Whether JSON has half of a surrogate pair in a text or a name (RFC 8259, section 8.2): a parser either refuses that, or puts
/// something else in its place, and a secret would be delivered that the store does not have.
pub(in crate::backend) fn has_half(json: &str) -> bool {
    let mut rest = json.as_bytes();
    // Only texts and names have a backslash.
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        let escape = &rest[at..];
        let length = match (unit(escape), escape.get(6..).and_then(unit)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 12,
            (Some(0xD800..=0xDFFF), _) => return true,
            (Some(_), _) => 6,
            // Another escape, such as `\\`, is two signs long.
            (None, _) => 2,
        };
        rest = escape.get(length..).unwrap_or_default();
    }
    false
}

/// The number of an escape `\uXXXX` at the start.
fn unit(escape: &[u8]) -> Option<u16> {
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
}
