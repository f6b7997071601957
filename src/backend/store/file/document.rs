//! The content of a vault's file after it is opened: a JSON document that says which secret it is.
//!
//! The name inside binds an encrypted file to its place: age itself would open it anywhere. The format is documented in
//! `docs/file-vault.md`; a change to it that older readers cannot understand gets a new `format` number.

use std::collections::BTreeMap;
use std::fmt;

use data_encoding::BASE64;
use jiff::Timestamp;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use super::{InvalidSecretType, Revision, SecretType};
use crate::model::{Field, FieldKind, FieldName, SecretBytes};

/// The newest format that this code reads: format 1 with the `type` of a Secret. A document without one is written as format 1, so that
/// version 0.1.0 reads it too.
const FORMAT: u32 = 2;
const FORMAT_WITHOUT_TYPE: u32 = 1;

/// The most fields a secret may have.
pub const MAX_FIELDS: usize = 4096;

/// One revision of a secret.
#[derive(Debug)]
pub struct Document {
    pub name: String,
    pub revision: Revision,
    pub time: Timestamp,
    pub secret_type: Option<SecretType>,
    pub fields: BTreeMap<FieldName, Field>,
}

/// Why a plaintext is not a document. The message completes "what it holds ..."; it never quotes the plaintext.
#[derive(Debug, Error)]
pub enum InvalidDocument {
    #[error("has the field `{field}`, which is not valid base64")]
    Base64 { field: FieldName },
    #[error("has a bad field name: {0}")]
    FieldName(#[from] crate::model::InvalidFieldName),
    #[error("is in format {0}; this keyferry reads formats up to {FORMAT} (use a newer one)")]
    Format(u32),
    #[error("is not the vault's JSON: it is wrong at line {line}, column {column}")]
    Json { line: usize, column: usize },
    #[error("has no revision above 0")]
    Revision,
    #[error("has a time that is not an RFC 3339 timestamp")]
    Time,
    #[error("has a bad type: {0}")]
    Type(#[from] InvalidSecretType),
    #[error("has more than {MAX_FIELDS} fields")]
    TooManyFields,
    #[error("has the field `{field}` twice")]
    TwiceTheField { field: FieldName },
}

impl Document {
    /// Reads a plaintext strictly: it does not guess at what it does not understand.
    pub fn parse(plaintext: &[u8]) -> Result<Self, InvalidDocument> {
        let wire: Wire =
            serde_json::from_slice(plaintext).map_err(|error| newer_format(plaintext).unwrap_or_else(|| json_fault(&error)))?;
        if !is_known(wire.format) {
            return Err(InvalidDocument::Format(wire.format));
        }
        Ok(Self {
            name: wire.name,
            revision: Revision::new(wire.revision).ok_or(InvalidDocument::Revision)?,
            time: wire.time.parse().map_err(|_| InvalidDocument::Time)?,
            secret_type: wire.secret_type.map(|text| text.parse()).transpose()?,
            fields: fields(wire.fields)?,
        })
    }

    /// The plaintext, on one line.
    pub fn write(
        name: &str,
        revision: Revision,
        time: Timestamp,
        secret_type: Option<&SecretType>,
        fields: &BTreeMap<FieldName, Field>,
    ) -> Zeroizing<Vec<u8>> {
        let values: BTreeMap<&str, Written<'_>> = fields.iter().map(|(name, field)| (name.as_str(), Written::of(field))).collect();
        let format = if secret_type.is_some() { FORMAT } else { FORMAT_WITHOUT_TYPE };
        let (revision, time, secret_type) = (revision.number(), time.to_string(), secret_type.map(SecretType::as_str));
        let document = WrittenDocument { format, name, revision, time, secret_type, fields: values };
        // Room for everything at once: a buffer that grows leaves copies of secrets behind. JSON's longest escape is six bytes.
        let room: usize = fields.iter().map(|(name, field)| 6 * (name.as_str().len() + field.bytes.len()) + 32).sum();
        let mut plaintext = Zeroizing::new(Vec::with_capacity(room + 6 * (name.len() + 256) + 256));
        // It writes strings and numbers to memory: nothing can fail.
        let written = serde_json::to_writer(&mut *plaintext, &document);
        debug_assert!(written.is_ok());
        plaintext.push(b'\n');
        plaintext
    }
}

/// A document as it is in JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    format: u32,
    name: String,
    revision: u64,
    time: String,
    #[serde(default, rename = "type")]
    secret_type: Option<String>,
    fields: WireFields,
}

/// Pairs, not a map: a name that is there twice must be seen.
pub(super) struct WireFields(Vec<(String, WireValue)>);

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum WireValue {
    Base64(Zeroizing<String>),
    Text(Zeroizing<String>),
}

#[derive(Serialize)]
struct WrittenDocument<'a> {
    format: u32,
    name: &'a str,
    revision: u64,
    time: String,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    secret_type: Option<&'a str>,
    fields: BTreeMap<&'a str, Written<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Written<'a> {
    Base64(Zeroizing<String>),
    Text(&'a str),
}

impl<'a> Written<'a> {
    /// A person who opens the file with age can read a field that is text.
    pub(super) fn of(field: &'a Field) -> Self {
        let bytes = field.bytes.expose();
        match (field.kind, str::from_utf8(bytes)) {
            (FieldKind::Json | FieldKind::Text, Ok(text)) => Self::Text(text),
            (FieldKind::Binary, _) | (_, Err(_)) => Self::Base64(Zeroizing::new(BASE64.encode(bytes))),
        }
    }
}

/// A newer document may differ in anything but its `format`.
fn newer_format(plaintext: &[u8]) -> Option<InvalidDocument> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let head: Head = serde_json::from_slice(plaintext).ok()?;
    (!is_known(head.format)).then_some(InvalidDocument::Format(head.format))
}

fn is_known(format: u32) -> bool {
    (FORMAT_WITHOUT_TYPE..=FORMAT).contains(&format)
}

/// serde_json's own message quotes values; only its position may be shown.
fn json_fault(error: &serde_json::Error) -> InvalidDocument {
    InvalidDocument::Json { line: error.line(), column: error.column() }
}

pub(super) fn fields(wire: WireFields) -> Result<BTreeMap<FieldName, Field>, InvalidDocument> {
    if wire.0.len() > MAX_FIELDS {
        return Err(InvalidDocument::TooManyFields);
    }
    let mut fields = BTreeMap::new();
    for (name, value) in wire.0 {
        let name: FieldName = name.parse()?;
        let field = value.field(&name)?;
        if fields.insert(name.clone(), field).is_some() {
            return Err(InvalidDocument::TwiceTheField { field: name });
        }
    }
    Ok(fields)
}

impl WireValue {
    fn field(self, name: &FieldName) -> Result<Field, InvalidDocument> {
        let (bytes, kind) = match self {
            Self::Text(mut text) => (std::mem::take(&mut *text).into_bytes(), FieldKind::Text),
            Self::Base64(text) => {
                let bytes = BASE64.decode(text.as_bytes()).map_err(|_| InvalidDocument::Base64 { field: name.clone() })?;
                (bytes, FieldKind::Binary)
            }
        };
        Ok(Field { bytes: std::sync::Arc::new(SecretBytes::new(bytes)), kind })
    }
}

impl<'de> Deserialize<'de> for WireFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = WireFields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("fields")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WireFields, A::Error> {
                let mut pairs = Vec::new();
                // One more than allowed is enough to know that there are too many.
                while pairs.len() <= MAX_FIELDS
                    && let Some(pair) = map.next_entry()?
                {
                    pairs.push(pair);
                }
                while map.next_entry::<serde::de::IgnoredAny, serde::de::IgnoredAny>()?.is_some() {}
                Ok(WireFields(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use proptest::prelude::*;

    use super::*;

    fn refusal(plaintext: &str) -> String {
        Document::parse(plaintext.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn the_format_is_what_the_documentation_says() {
        let fields = BTreeMap::from([
            ("user".parse().unwrap(), Field::of_bytes(SecretBytes::new(b"app".to_vec()))),
            ("key.bin".parse().unwrap(), Field::of_bytes(SecretBytes::new(vec![0xff, 0]))),
        ]);
        let written = Document::write("shop/db", Revision::new(7).unwrap(), "2026-01-02T03:04:05Z".parse().unwrap(), None, &fields);
        assert_snapshot!(str::from_utf8(&written).unwrap().trim_end(), @r#"{"format":1,"name":"shop/db","revision":7,"time":"2026-01-02T03:04:05Z","fields":{"key.bin":{"base64":"/wA="},"user":{"text":"app"}}}"#);
    }

    #[test]
    fn a_type_makes_it_format_2() {
        let fields = BTreeMap::from([("a".parse().unwrap(), Field::of_bytes(SecretBytes::new(b"x".to_vec())))]);
        let (time, tls) = ("2026-01-02T03:04:05Z".parse().unwrap(), "kubernetes.io/tls".parse().unwrap());
        let written = Document::write("shop/tls", Revision::FIRST, time, Some(&tls), &fields);
        assert_snapshot!(str::from_utf8(&written).unwrap().trim_end(), @r#"{"format":2,"name":"shop/tls","revision":1,"time":"2026-01-02T03:04:05Z","type":"kubernetes.io/tls","fields":{"a":{"text":"x"}}}"#);
        assert_eq!(Document::parse(&written).unwrap().secret_type, Some(tls));
        let bad = str::from_utf8(&written).unwrap().replace("kubernetes.io/tls", "canary\\n");
        assert_snapshot!(refusal(&bad), @"has a bad type: a Secret's type has 1 to 253 bytes and no control character");
    }

    #[test]
    fn what_is_not_understood_is_refused_without_a_word_of_its_content() {
        let with = |fields: &str| format!(r#"{{"format":1,"name":"a","revision":1,"time":"2026-01-02T03:04:05Z","fields":{fields}}}"#);
        assert_snapshot!(refusal("canary"), @"is not the vault's JSON: it is wrong at line 1, column 1");
        assert_snapshot!(refusal(""), @"is not the vault's JSON: it is wrong at line 1, column 0");
        assert_snapshot!(refusal(r#"{"format":3,"sealed":"canary"}"#), @"is in format 3; this keyferry reads formats up to 2 (use a newer one)");
        assert_snapshot!(refusal(&with(r#"{"f":"canary"}"#)), @"is not the vault's JSON: it is wrong at line 1, column 88");
        assert_snapshot!(refusal(&with(r#"{"f":{"hex":"canary"}}"#)), @"is not the vault's JSON: it is wrong at line 1, column 86");
        assert_snapshot!(refusal(&with(r#"{"f":{"base64":"canary!"}}"#)), @"has the field `f`, which is not valid base64");
        assert_snapshot!(refusal(&with(r#"{"f":{"text":"canary"},"f":{"text":""}}"#)), @"has the field `f` twice");
        assert_snapshot!(refusal(&with(r#"{"":{"text":"canary"}}"#)), @"has a bad field name: a field name has 1 to 253 bytes and no control character");
        assert_snapshot!(refusal(&with("{}").replace(":1,\"time", ":0,\"time")), @"has no revision above 0");
        assert_snapshot!(refusal(&with("{}").replace("2026-01", "yesterday")), @"has a time that is not an RFC 3339 timestamp");
        assert_snapshot!(refusal(&with("{}").replace("\"a\"", "\"a\",\"nmae\":1")), @"is not the vault's JSON: it is wrong at line 1, column 29");
        let many: Vec<String> = (0..=MAX_FIELDS).map(|n| format!(r#""{n}":{{"text":""}}"#)).collect();
        assert_snapshot!(refusal(&with(&format!("{{{}}}", many.join(",")))), @"has more than 4096 fields");
    }

    proptest! {
        #[test]
        fn every_secret_round_trips(pairs in proptest::collection::btree_map("[^\\p{Cc}]{1,20}", proptest::collection::vec(any::<u8>(), 0..50), 0..5)) {
            let fields: BTreeMap<FieldName, Field> =
                pairs.iter().map(|(name, bytes)| (name.parse().unwrap(), Field::of_bytes(SecretBytes::new(bytes.clone())))).collect();
            let time = "2026-01-02T03:04:05Z".parse().unwrap();
            let written = Document::write("a/\"b", Revision::FIRST, time, None, &fields);
            let read = Document::parse(&written).unwrap();
            prop_assert_eq!((read.name.as_str(), read.revision, read.time), ("a/\"b", Revision::FIRST, time));
            prop_assert_eq!(read.fields.len(), pairs.len());
            for (name, bytes) in &pairs {
                let field = &read.fields[name.as_str()];
                prop_assert_eq!(field.bytes.expose(), bytes.as_slice());
                prop_assert_eq!(field.kind, Field::of_bytes(SecretBytes::new(bytes.clone())).kind);
            }
        }
    }
}
