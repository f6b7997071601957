//! `format: pkcs12`: which fields of which secrets make a keystore.

use super::parts::{Asked, Named, OF_A_SECRET, read_named, read_parse};
use super::values::read_path;
use super::{Defaults, ObjectReader};
use crate::dialect::class::{Class, position};
use crate::model::{Ask, FieldOf, FilePath, Keystore, Part, Select, quoted};
use crate::yaml::{Faults, Node, Reader, Value};

/// The most fields under `chain` and under `trust`.
const MAX_FIELDS: usize = 32;

/// The longest alias, in characters.
const MAX_ALIAS: usize = 64;

/// What Java calls the key where the class does not say.
const ALIAS: &str = "keyferry";

/// These make a keystore.
const OWN: [&str; 5] = ["key", "chain", "trust", "alias", "password"];

/// These keys choose fields in another way.
const BESIDE_NO_KEYSTORE: [&str; 6] = ["field", "fields", "keys", "part", "prefix", "secrets"];

/// Whether the object is a keystore.
pub(super) fn is_meant(reader: &mut Reader<'_>) -> bool {
    reader.get("template").is_none() && reader.get("format").and_then(Node::text) == Some("pkcs12")
}

/// Reports keys that have a meaning only in a keystore. For `format: jks` another message says what to write; that is enough.
pub(super) fn refuse(reader: &mut Reader<'_>, faults: &mut Faults) {
    if reader.get("format").and_then(Node::text) == Some("jks") {
        return;
    }
    for key in OWN {
        if reader.get(key).is_some() {
            faults.add(position(reader, key), key, "works only with `format: pkcs12` (add that, or remove this key)");
        }
    }
}

/// The secrets that a keystore is made of.
struct Parts<'r, 'c, 'd> {
    class: &'r mut Class<'c>,
    defaults: &'d Defaults<'d>,
    /// The key `secret` is present.
    has_own: bool,
    /// The object's own secret; `None`: it has none, or a fault was reported.
    own: Option<Part>,
    all: Vec<Part>,
}

// === impl ObjectReader ===

impl ObjectReader<'_, '_> {
    pub(super) fn read_keystore(
        &mut self,
        ask: Option<Ask<'_>>,
        reader: &mut Reader<'_>,
        faults: &mut Faults,
    ) -> (Option<Asked>, Option<Select>) {
        let before = faults.len();
        for key in BESIDE_NO_KEYSTORE {
            if reader.get(key).is_some() {
                let problem =
                    "cannot be used together with `format: pkcs12`, which is made of `key`, `chain`, `trust` and `password` (remove it)";
                faults.add(position(reader, key), key, problem);
            }
        }
        let has_own = reader.get("secret").is_some();
        for key in OF_A_SECRET {
            if !has_own && reader.get(key).is_some() {
                faults.add(position(reader, key), key, "needs `secret`, and there is none (write it in the entry of its secret)");
            }
        }
        let own_backend = reader.get("backend").is_some();
        let secret = ask.and_then(|ask| self.class.resolve(ask, own_backend, reader, faults));
        let parse = read_parse(self.class, self.defaults, secret, reader, faults);
        let own = secret.map(|secret| Part { name: String::new(), secret, optional: false, parse });
        let mut parts = Parts { class: self.class, defaults: self.defaults, has_own, own, all: Vec::new() };
        let keystore = parts.read(reader, faults);
        let parts = parts.all;
        if reader.get("path").is_none() {
            reader.missing("path", "name the file, such as `path: keystore.p12`", faults);
        }
        let path: Option<FilePath> = read_path(reader, None, faults);
        if let Some(path) = &path {
            self.class.claim_file(self.label, position(reader, "path"), path);
        }
        if faults.len() > before {
            return (None, None);
        }
        let asked = parts.first().map(|first| first.secret).map(|secret| Asked { secret, parts, parse: None });
        (asked, keystore.zip(path).map(|(keystore, path)| Select::Keystore { keystore: Box::new(keystore), path }))
    }
}

// === impl Parts ===

impl Parts<'_, '_, '_> {
    fn read(&mut self, reader: &mut Reader<'_>, faults: &mut Faults) -> Option<Keystore> {
        let key = self.read_one("key", reader, faults);
        let chain = self.read_many("chain", reader, faults);
        let trust = self.read_many("trust", reader, faults);
        let password = self.read_one("password", reader, faults);
        let alias = reader.parsed("alias", faults, alias);
        let (has_key, has_chain) = (reader.get("key").is_some(), reader.get("chain").is_some());
        if has_key && !has_chain {
            reader.missing("chain", "name the field with the key's certificate, and those with its issuers", faults);
        }
        if has_chain && !has_key {
            let problem = "needs `key` (add it; write trusted certificates under `trust`)";
            faults.add(position(reader, "chain"), "chain", problem);
        }
        if !has_key && !has_chain && reader.get("trust").is_none() {
            reader.missing(
                "key",
                "name the fields of a key and its certificates, with `key` and `chain`, or `trust` for a truststore",
                faults,
            );
        }
        if reader.get("password").is_none() {
            reader.missing(
                "password",
                "name the field that has it, such as `password: { secret: shop/keystore, field: password }`",
                faults,
            );
        }
        Some(Keystore { key, chain, trust, password: password?, alias: alias.unwrap_or_else(|| ALIAS.to_owned()) })
    }

    /// A required field.
    fn read_one(&mut self, key: &'static str, reader: &mut Reader<'_>, faults: &mut Faults) -> Option<FieldOf> {
        let node = reader.get(key)?;
        let field = self.field_of(key, node, faults)?;
        if self.all.get(field.part).is_some_and(|part| part.optional) {
            faults.add(
                node.at,
                key,
                "cannot be optional here (write `optional: true` in the object: without this secret the object has no file)",
            );
        }
        Some(field)
    }

    /// A field, or a list of them.
    fn read_many(&mut self, key: &'static str, reader: &mut Reader<'_>, faults: &mut Faults) -> Vec<FieldOf> {
        let Some(node) = reader.get(key) else { return Vec::new() };
        let items = match &node.value {
            Value::Sequence(items) => items.as_slice(),
            Value::Mapping(_) | Value::Null | Value::Scalar { .. } => std::slice::from_ref(node),
        };
        if !(1..=MAX_FIELDS).contains(&items.len()) {
            let problem = format!("has {} fields: 1 to {MAX_FIELDS} are allowed (add or remove fields)", items.len());
            faults.add(node.at, key, problem);
            return Vec::new();
        }
        items.iter().filter_map(|item| self.field_of(key, item, faults)).collect()
    }

    /// Secrets that are the same, and are read in the same way, are one part.
    fn field_of(&mut self, key: &'static str, node: &Node, faults: &mut Faults) -> Option<FieldOf> {
        let (part, field) = match read_named(self.class, self.defaults, key, node, faults)? {
            Named::Other(part, field) => (part, field),
            Named::Own(field) => {
                if !self.has_own {
                    let problem = format!(
                        "names the field {}, and the object has no `secret` (add it, or write `{{ secret: NAME, field: NAME }}`)",
                        quoted(field.as_str())
                    );
                    faults.add(node.at, key, problem);
                }
                (self.own.clone()?, field)
            }
        };
        let known = self.all.iter().position(|known| *known == part);
        let part = known.unwrap_or_else(|| {
            self.all.push(part);
            self.all.len() - 1
        });
        Some(FieldOf { part, field })
    }
}

/// Java ignores the case of an alias, and PKCS#12 stores it in UTF-16 with 16 bits per character.
fn alias(text: &str) -> Result<String, String> {
    let is_plain = |c: char| !c.is_control() && u16::try_from(u32::from(c)).is_ok();
    match text.chars().count() {
        1..=MAX_ALIAS if text.chars().all(is_plain) => Ok(text.to_owned()),
        _ => Err(format!(
            "{} is not an alias: an alias has 1 to {MAX_ALIAS} characters, no control character, and none above U+FFFF (write another one)",
            quoted(text)
        )),
    }
}
