//! Secrets as a template sees them: a mapping of names to mappings of fields. A text is a text, what its store keeps as JSON is a list, a
//! mapping or a number, and binary is bytes.
//!
//! Lists and mappings are types of our own, since the engine's cost nothing when they are counted, searched or written out. All are trees: a
//! template makes none itself.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectExt, ObjectRepr, Value, ValueKind};
use serde_json::value::RawValue;

use super::Unrendered;
use crate::formats::{MAX_DEPTH, in_quotes};
use crate::model::{Field, FieldKind, FieldName, Secret};
use crate::steps::{Spent, Steps};

/// What a value takes besides its text, in bytes.
pub(super) const VALUE: usize = 128;

/// A number whose digits a 64-bit number would not keep.
pub(super) struct Digits(pub Box<str>);

pub(super) struct List(pub Vec<Value>);

/// By name, in order.
pub(super) struct Map(Vec<(FieldName, Value)>);

/// The secrets, and how many bytes they take.
pub(super) fn of_secrets(secrets: &[(&str, Option<&Secret>)], most: usize, steps: &Steps) -> Result<(Value, usize), Unrendered> {
    let fields = secrets.iter().filter_map(|(_, secret)| *secret).flat_map(|secret| &secret.fields);
    let values = |field: &Field| if field.kind == FieldKind::Json { separators(field.bytes.expose()) } else { 1 };
    let made = fields.map(|(name, field)| name.as_str().len() + field.bytes.len() + VALUE * (1 + values(field))).sum::<usize>();
    let made = made + VALUE * (1 + secrets.len());
    steps.charge(4 * made as u64)?;
    if made > most {
        return Err(Unrendered::Memory);
    }
    let mut all = Vec::with_capacity(secrets.len());
    for (name, secret) in secrets {
        let value = match secret {
            Some(secret) => of_secret(secret, steps)?,
            None => Value::from(()),
        };
        all.push((FieldName::new(name), value));
    }
    Ok((map(all), made))
}

/// Texts by their names, and how many bytes they take.
pub(super) fn of_texts(texts: &[(&str, &str)], most: usize, steps: &Steps) -> Result<(Value, usize), Unrendered> {
    let made = texts.iter().map(|(name, text)| name.len() + text.len() + 2 * VALUE).sum::<usize>() + VALUE;
    steps.charge(4 * made as u64)?;
    if made > most {
        return Err(Unrendered::Memory);
    }
    Ok((map(texts.iter().map(|(name, text)| (FieldName::new(name), Value::from(*text))).collect()), made))
}

fn of_secret(secret: &Secret, steps: &Steps) -> Result<Value, Spent> {
    let mut fields = Vec::with_capacity(secret.fields.len());
    for (name, field) in &secret.fields {
        let bytes = field.bytes.expose();
        let value = match (field.kind, str::from_utf8(bytes)) {
            (FieldKind::Json, Ok(json)) => of_json(json, 0, steps)?.unwrap_or_else(|| Value::from(json)),
            (FieldKind::Text, Ok(text)) => Value::from(text),
            (FieldKind::Binary, _) | (FieldKind::Json | FieldKind::Text, Err(_)) => Value::from_bytes(bytes.to_vec()),
        };
        fields.push((name.clone(), value));
    }
    Ok(map(fields))
}

/// No name is there twice.
fn map(mut members: Vec<(FieldName, Value)>) -> Value {
    members.sort_unstable_by(|(name, _), (other, _)| name.cmp(other));
    Value::from_object(Map(members))
}

/// A JSON text as a value; `None`: it is not JSON, or nested too deep.
pub(super) fn of_json(json: &str, depth: usize, steps: &Steps) -> Result<Option<Value>, Spent> {
    // Each level is looked through again.
    steps.charge(4 * json.len() as u64)?;
    let json = json.trim();
    if depth > MAX_DEPTH {
        return Ok(None);
    }
    Ok(match json.as_bytes().first() {
        Some(b'{') => {
            let Ok(members) = serde_json::from_str::<BTreeMap<String, &RawValue>>(json) else { return Ok(None) };
            let mut values = Vec::with_capacity(members.len());
            for (name, member) in members {
                let Some(value) = of_json(member.get(), depth + 1, steps)? else { return Ok(None) };
                values.push((FieldName::new(&name), value));
            }
            Some(map(values))
        }
        Some(b'[') => {
            let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(json) else { return Ok(None) };
            let mut values = Vec::with_capacity(items.len());
            for item in items {
                let Some(value) = of_json(item.get(), depth + 1, steps)? else { return Ok(None) };
                values.push(value);
            }
            Some(Value::from_object(List(values)))
        }
        Some(b'"') => serde_json::from_str::<String>(json).ok().map(Value::from),
        Some(_) | None => of_word(json),
    })
}

fn of_word(word: &str) -> Option<Value> {
    match word {
        "true" => Some(Value::from(true)),
        "false" => Some(Value::from(false)),
        "null" => Some(Value::from(())),
        digits => match digits.parse::<i64>() {
            Ok(number) if number.to_string() == digits => Some(Value::from(number)),
            Ok(_) | Err(_) => serde_json::from_str::<&RawValue>(digits).ok().map(|digits| of_digits(digits.get())),
        },
    }
}

/// A fraction that is written as it was read is a number; what would lose digits keeps them.
fn of_digits(digits: &str) -> Value {
    match digits.parse::<f64>() {
        Ok(number) if number.to_string() == digits && digits.contains('.') => Value::from(number),
        Ok(_) | Err(_) => Value::from_object(Digits(digits.into())),
    }
}

/// No fewer than the values of a JSON text, itself included.
pub(super) fn separators(json: &[u8]) -> usize {
    1 + json.iter().filter(|byte| b",[{".contains(byte)).count()
}

/// Whether names such as `db` and `password` lead to nothing.
pub(super) fn is_undefined(context: &Value, steps: &[String]) -> bool {
    let mut value = context.clone();
    for step in steps {
        match value.get_attr(step) {
            Ok(next) if !next.is_undefined() => value = next,
            Ok(_) | Err(_) => return true,
        }
    }
    false
}

// === impl Digits, List, Map ===

impl Object for Digits {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.0.len())
    }

    /// As JSON: what `~` makes of it.
    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (number, item) in self.0.iter().enumerate() {
            f.write_str(if number > 0 { "," } else { "" })?;
            write_json(item, f)?;
        }
        f.write_str("]")
    }
}

impl Map {
    fn find(&self, name: &str) -> Option<Value> {
        let at = self.0.binary_search_by(|(known, _)| known.as_str().cmp(name)).ok()?;
        self.0.get(at).map(|(_, value)| value.clone())
    }

    pub(super) fn members(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

impl Object for Map {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.find(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.find(key)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.mapped_enumerator(|map| Box::new(map.0.iter().map(|(name, _)| Value::from(name.as_str()))))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.0.len())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (number, (name, value)) in self.members().enumerate() {
            f.write_str(if number > 0 { "," } else { "" })?;
            write_text(name, f)?;
            f.write_str(":")?;
            write_json(value, f)?;
        }
        f.write_str("}")
    }
}

fn write_json(value: &Value, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match (value.kind(), value.as_str()) {
        (_, Some(text)) => write_text(text, f),
        (ValueKind::Bool, None) => f.write_str(super::filters::word(value)),
        (ValueKind::None, None) => f.write_str("null"),
        (_, None) => write!(f, "{value}"),
    }
}

fn write_text(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str(&in_quotes(text))
}

impl fmt::Debug for Digits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Digits").finish_non_exhaustive()
    }
}

impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("List").field("items", &self.0.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map").field("members", &self.0.len()).finish_non_exhaustive()
    }
}
