//! The fields of a secret that came as JSON: told apart without a copy of what is not delivered, and without rounding a number.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::Fault;
use super::refusal::Refusal;
use crate::model::{Field, FieldKind, FieldName, SecretBytes};

/// An object's members, each still the JSON that the store wrote.
pub(super) type Members<'a> = BTreeMap<String, &'a RawValue>;

/// `None`: it is no object.
pub(super) fn members(value: &RawValue) -> Option<Members<'_>> {
    serde_json::from_str(value.get()).ok()
}

/// `None`: it is no text, or one with half a character in it.
pub(super) fn text(value: &RawValue) -> Option<SecretBytes> {
    serde_json::from_str::<String>(value.get()).ok().map(|text| SecretBytes::new(text.into_bytes()))
}

pub(super) fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

/// The fields, and the number of those whose names cannot be asked for.
///
/// # Errors
/// A text that is not Unicode, or all of them together are over the bound.
pub(super) fn fields(members: &Members<'_>, max_bytes: usize) -> Result<(BTreeMap<FieldName, Field>, usize), Refusal> {
    let (mut fields, mut unnamed, mut bytes) = (BTreeMap::new(), 0, 0);
    for (name, value) in members {
        let Ok(name) = name.parse::<FieldName>() else {
            unnamed += 1;
            continue;
        };
        let field = field(value).ok_or_else(|| {
            let reason = format!("field {:?} is a text with half a character in it (write the secret anew)", name.as_str());
            Refusal::new(Fault::Corrupt, reason)
        })?;
        bytes += field.bytes.len();
        fields.insert(name, field);
    }
    check_size(bytes, max_bytes)?;
    Ok((fields, unnamed))
}

/// # Errors
/// The fields of a secret are over the bound.
pub(super) fn check_size(bytes: usize, max_bytes: usize) -> Result<(), Refusal> {
    if bytes > max_bytes {
        let reason = format!("its fields have {bytes} bytes; at most {max_bytes} are allowed (raise limits.secretBytes)");
        return Err(Refusal::new(Fault::TooLarge, reason));
    }
    Ok(())
}

/// A text becomes its own bytes; everything else stays the JSON that the store wrote, to the digit.
pub(super) fn field(value: &RawValue) -> Option<Field> {
    if value.get().starts_with('"') {
        return text(value).map(Field::of_bytes);
    }
    let bytes = SecretBytes::new(value.get().as_bytes().to_vec());
    Some(Field { bytes: Arc::new(bytes), kind: FieldKind::Json })
}
