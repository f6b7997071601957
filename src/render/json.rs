//! Secrets as JSON, written into memory that is wiped. It is measured before it is filled, so that a growing buffer leaves no copy.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;

use jmespath::{Rcvar, Variable};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::{Problem, too_large};
use crate::model::{Code, Field, FieldKind, Secret, SecretBytes, quoted};

/// All fields as one object, by name: texts as strings, JSON as it is.
pub(super) fn of_secret(secret: &Secret, limit: usize) -> Result<Arc<SecretBytes>, Problem> {
    if let Some((name, _)) = secret.fields.iter().find(|(_, field)| text_of(field).is_none()) {
        let text = format!(
            "its field {} is binary, which JSON cannot hold (deliver it with `field`, or all with `fields: \"*\"`)",
            quoted(name.as_str())
        );
        return Err(Problem { code: Code::InvalidRequest, text });
    }
    sized(limit, |sink| write_fields(secret, sink))
}

/// What an expression found.
pub(super) fn of_value(value: &Rcvar, limit: usize) -> Result<Arc<SecretBytes>, Problem> {
    sized(limit, |mut sink| Ok(serde_json::to_writer::<_, Variable>(&mut sink, value)?))
}

/// A field's text. A binary field has none, with any kind that its store says.
pub(super) fn text_of(field: &Field) -> Option<&str> {
    match field.kind {
        FieldKind::Binary => None,
        FieldKind::Json | FieldKind::Text => str::from_utf8(field.bytes.expose()).ok(),
    }
}

/// A member of a JSON object as a field; `None`: the object has no such member, or it is not an object. If a name is there twice, the last
/// one counts, as in Go.
pub(super) fn member(json: &str, name: &str) -> Option<Field> {
    let mut members: HashMap<String, &RawValue> = serde_json::from_str(json).ok()?;
    field(members.remove(name)?)
}

/// A text becomes its own bytes, everything else stays JSON; `None`: the text has half a character.
pub(super) fn field(value: &RawValue) -> Option<Field> {
    let value = value.get();
    if value.starts_with('"') {
        let text: String = serde_json::from_str(value).ok()?;
        return Some(Field::of_bytes(SecretBytes::new(text.into_bytes())));
    }
    Some(Field { bytes: Arc::new(SecretBytes::new(value.as_bytes().to_vec())), kind: FieldKind::Json })
}

/// How many values a JSON text has, the outermost included. For other text, at least as many as a parser makes before it finds the fault.
pub(super) fn values(text: &str) -> usize {
    let (mut values, mut in_text, mut escaped) = (1, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            // Each of these signs begins another value: the next item or member, or the first.
            b',' | b'[' | b'{' if !in_text => values += 1,
            _ => {}
        }
    }
    values
}

fn write_fields(secret: &Secret, mut sink: &mut dyn Write) -> io::Result<()> {
    let mut separator: &[u8] = b"{";
    for (name, field) in &secret.fields {
        sink.write_all(separator)?;
        separator = b",";
        serde_json::to_writer(&mut sink, name.as_str())?;
        sink.write_all(b":")?;
        match field.kind {
            FieldKind::Json => sink.write_all(field.bytes.expose())?,
            FieldKind::Binary | FieldKind::Text => serde_json::to_writer(&mut sink, text_of(field).unwrap_or_default())?,
        }
    }
    sink.write_all(if secret.fields.is_empty() { b"{}" } else { b"}" })
}

/// Writes twice: first to count, then into exactly as much memory.
fn sized(limit: usize, write: impl Fn(&mut dyn Write) -> io::Result<()>) -> Result<Arc<SecretBytes>, Problem> {
    let unwritable =
        |_| Problem { code: Code::Internal, text: "cannot be written as JSON (this is a bug of Keyferry: report it)".to_owned() };
    let mut counter = Counter(0);
    write(&mut counter).map_err(unwritable)?;
    if counter.0 > limit {
        return Err(too_large(counter.0, limit));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(counter.0));
    write(&mut *bytes).map_err(unwritable)?;
    Ok(Arc::new(SecretBytes::from(bytes)))
}

/// Keeps only the number of bytes written.
struct Counter(usize);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counted(value: &serde_json::Value) -> usize {
        1 + match value {
            serde_json::Value::Array(items) => items.iter().map(counted).sum(),
            serde_json::Value::Object(members) => members.values().map(counted).sum(),
            serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) | serde_json::Value::String(_) => 0,
        }
    }

    proptest! {
        /// Never less than there are. It may be more, by at most one for each empty list and object.
        #[test]
        fn values_are_counted(text in r#"[\[\]{},:"a\\0 ]{0,40}"#) {
            if let Ok(value) = serde_json::from_str::<serde_json::Value>(&text) {
                prop_assert!(values(&text) >= counted(&value), "{}", text);
            }
        }

        #[test]
        fn values_of_texts_are_not_counted(text in r#"[\[\]{},:"\\]{0,20}"#, items in 0_usize..20) {
            let list = serde_json::Value::from(vec![text; items]);
            prop_assert_eq!(values(&list.to_string()), items.max(1) + 1);
        }
    }
}
