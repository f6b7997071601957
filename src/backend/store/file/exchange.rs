//! Secrets in the clear, as JSON: what `keyferry vault export` writes and `import` reads.
//!
//! Fields are written as in a vault's document, so a binary value stays the same on the way out and back. An export has no revisions and
//! times: the vault that imports the secrets counts its own.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use super::document::{InvalidDocument, WireFields, Written, fields};
use super::{InvalidSecretType, SecretType};
use crate::model::{Field, FieldName, SecretName};

/// The values of `format` that this code writes and reads. The second format has the types of Secrets. An export without types has the first
/// format, so that version 0.1.0 reads it too.
const FORMATS: [&str; 2] = ["keyferry-export-1", "keyferry-export-2"];

/// A secret on its way. Its name is not yet compared with a vault's rules.
#[derive(Debug)]
pub struct Exchanged {
    pub name: String,
    pub secret_type: Option<SecretType>,
    pub fields: Result<BTreeMap<FieldName, Field>, InvalidDocument>,
}

/// A secret on its way out.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    pub name: &'a SecretName,
    pub secret_type: Option<&'a SecretType>,
    pub fields: &'a BTreeMap<FieldName, Field>,
}

/// Why a text is not an export. It never quotes the text.
#[derive(Debug, Error)]
pub enum InvalidExchange {
    #[error("has another `format` than {} (use a newer keyferry)", FORMATS.map(|format| format!("{format:?}")).join(" and "))]
    Format,
    #[error("is not an export's JSON: it is wrong at line {line}, column {column} (give it what `keyferry vault export` wrote)")]
    Json { line: usize, column: usize },
}

/// Reads an export.
///
/// # Errors
/// It is not JSON of that form. A fault of one secret comes with that secret.
pub fn read_exchange(text: &[u8]) -> Result<Vec<Exchanged>, InvalidExchange> {
    let fault = |error: serde_json::Error| InvalidExchange::Json { line: error.line(), column: error.column() };
    let wire: Wire = serde_json::from_slice(text).map_err(fault)?;
    if !FORMATS.contains(&wire.format.as_str()) {
        return Err(InvalidExchange::Format);
    }
    let mut types = wire.types;
    let exchanged = wire.secrets.0.into_iter().map(|(name, wire)| match types.remove(&name).map(|text| text.parse()).transpose() {
        Ok(secret_type) => Exchanged { name, secret_type, fields: fields(wire) },
        Err::<_, InvalidSecretType>(fault) => Exchanged { name, secret_type: None, fields: Err(fault.into()) },
    });
    Ok(exchanged.collect())
}

/// Writes an export, one line per secret.
pub fn write_exchange<'a>(secrets: impl IntoIterator<Item = Outgoing<'a>>) -> Zeroizing<Vec<u8>> {
    let (mut lines, mut types) = (Vec::new(), BTreeMap::new());
    for secret in secrets {
        lines.push(line(secret.name, secret.fields));
        types.extend(secret.secret_type.map(|secret_type| (secret.name.as_str(), secret_type.as_str())));
    }
    let [without_types, with_types] = FORMATS;
    let (format, types) =
        if types.is_empty() { (without_types, String::new()) } else { (with_types, format!("\"types\":{},", serde_json::json!(types))) };
    // Room for everything at once: a buffer that grows leaves copies of secrets behind.
    let mut text = Zeroizing::new(Vec::with_capacity(lines.iter().map(|line| line.len() + 8).sum::<usize>() + types.len() + 128));
    text.extend_from_slice(format!("{{\"format\":{format:?},{types}\"secrets\":{{").as_bytes());
    for (at, line) in lines.iter().enumerate() {
        text.extend_from_slice(if at == 0 { b"\n" } else { b",\n" });
        text.extend_from_slice(line);
    }
    text.extend_from_slice(b"\n}}\n");
    text
}

fn line(name: &SecretName, fields: &BTreeMap<FieldName, Field>) -> Zeroizing<Vec<u8>> {
    let room: usize = fields.iter().map(|(name, field)| 6 * (name.as_str().len() + field.bytes.len()) + 32).sum();
    let mut line = Zeroizing::new(Vec::with_capacity(room + 6 * name.as_str().len() + 16));
    line.extend_from_slice(serde_json::Value::from(name.as_str()).to_string().as_bytes());
    line.push(b':');
    let values = Values(fields.iter().map(|(name, field)| (name.as_str(), Written::of(field))).collect());
    // It writes strings to memory: nothing can fail.
    let written = serde_json::to_writer(&mut *line, &values);
    debug_assert!(written.is_ok());
    line
}

#[derive(Serialize)]
#[serde(transparent)]
struct Values<'a>(BTreeMap<&'a str, Written<'a>>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    format: String,
    #[serde(default)]
    types: BTreeMap<String, String>,
    secrets: WireSecrets,
}

/// Pairs, not a map: a name that is there twice must be seen.
struct WireSecrets(Vec<(String, WireFields)>);

impl<'de> Deserialize<'de> for WireSecrets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = WireSecrets;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("secrets")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WireSecrets, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(WireSecrets(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::model::SecretBytes;

    #[test]
    fn what_is_written_is_read() {
        let fields = BTreeMap::from([
            ("user".parse().unwrap(), Field::of_bytes(SecretBytes::new(b"app\n\"".to_vec()))),
            ("key.bin".parse().unwrap(), Field::of_bytes(SecretBytes::new(vec![0xff, 0]))),
        ]);
        let (a, b) = ("shop/db".parse().unwrap(), "b".parse().unwrap());
        let without_type = |name| Outgoing { name, secret_type: None, fields: &fields };
        let text = write_exchange([&a, &b].map(without_type));
        assert_snapshot!(str::from_utf8(&text).unwrap(), @r#"
        {"format":"keyferry-export-1","secrets":{
        "shop/db":{"key.bin":{"base64":"/wA="},"user":{"text":"app\n\""}},
        "b":{"key.bin":{"base64":"/wA="},"user":{"text":"app\n\""}}
        }}
        "#);
        let read = read_exchange(&text).unwrap();
        assert_eq!(read.iter().map(|secret| secret.name.as_str()).collect::<Vec<_>>(), ["shop/db", "b"]);
        assert_eq!(read[1].fields.as_ref().unwrap()["key.bin"].bytes.expose(), [0xff, 0]);
    }

    #[test]
    fn types_make_it_the_second_format() {
        let fields = BTreeMap::from([("a".parse().unwrap(), Field::of_bytes(SecretBytes::new(b"x".to_vec())))]);
        let (name, tls) = ("shop/tls".parse().unwrap(), "kubernetes.io/tls".parse().unwrap());
        let text = write_exchange([Outgoing { name: &name, secret_type: Some(&tls), fields: &fields }]);
        assert_snapshot!(str::from_utf8(&text).unwrap(), @r#"
        {"format":"keyferry-export-2","types":{"shop/tls":"kubernetes.io/tls"},"secrets":{
        "shop/tls":{"a":{"text":"x"}}
        }}
        "#);
        assert_eq!(read_exchange(&text).unwrap()[0].secret_type, Some(tls));
    }

    #[test]
    fn what_is_no_export_is_refused_without_a_word_of_it() {
        let refusal = |text: &str| read_exchange(text.as_bytes()).unwrap_err().to_string();
        assert_snapshot!(refusal("canary"), @"is not an export's JSON: it is wrong at line 1, column 1 (give it what `keyferry vault export` wrote)");
        assert_snapshot!(refusal(r#"{"format":"keyferry-export-3","secrets":{}}"#), @r#"has another `format` than "keyferry-export-1" and "keyferry-export-2" (use a newer keyferry)"#);
        assert_snapshot!(refusal(r#"{"format":"keyferry-export-1","secrets":{"a":{"f":"canary"}}}"#), @"is not an export's JSON: it is wrong at line 1, column 58 (give it what `keyferry vault export` wrote)");
    }
}
