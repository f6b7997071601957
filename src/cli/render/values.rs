//! Made-up values: a mapping of fields for each secret, or its text, in YAML or JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::backend::store::file::read_exchange;
use crate::cli::Failure;
use crate::cli::check::UNNAMED;
use crate::cli::manifest::ManifestFaults;
use crate::model::{Field, FieldKind, FieldName, Method, Plan, Response, Secret, SecretBytes, SecretName, SecretRef, Select};
use crate::nearest::nearest;
use crate::steps::Steps;
use crate::yaml::{Faults, Kind, Node, Reader, Value, parse};

/// The values of a file.
#[derive(Debug)]
pub struct Values {
    /// For messages.
    file: String,
    /// By the names that the file has. `None`: the store does not have this secret.
    secrets: BTreeMap<String, Option<Arc<Secret>>>,
}

// === impl Values ===

impl Values {
    /// Reads a file's text.
    ///
    /// # Errors
    /// Everything that is wrong with it, with its line.
    pub fn read(file: &str, text: &str) -> Result<Self, Failure> {
        let file = file.to_owned();
        if let Ok(exported) = read_exchange(text.as_bytes()) {
            let mut secrets = BTreeMap::new();
            for secret in exported {
                let fields = secret.fields.map_err(|fault| Failure::fault(format!("{file}: {:?} {fault}", secret.name)))?;
                secrets.insert(secret.name, Some(Arc::new(of_fields(fields))));
            }
            return Ok(Self { file, secrets });
        }
        let refuse = |faults| Failure::fault(ManifestFaults { file: file.clone(), faults });
        let document = match (parse(text), of_json(text)) {
            (Ok(document), _) => document,
            // Such as half of a surrogate pair in an escape: that is JSON, but some readers of YAML refuse it.
            (Err(_), Some(secrets)) => return Ok(Self { file, secrets }),
            (Err(fault), None) => return Err(refuse(vec![fault])),
        };
        let mut faults = Faults::default();
        let mut secrets = BTreeMap::new();
        // An empty file has no values. That is enough for a class with only optional secrets.
        if let Some(reader) =
            Some(&document).filter(|document| !document.is_null()).and_then(|document| Reader::of(document, "", &mut faults))
        {
            for (name, node) in reader.entries() {
                secrets.insert(name.text.clone(), secret(&name.text, node, &mut faults).map(Arc::new));
            }
        }
        if faults.is_empty() { Ok(Self { file, secrets }) } else { Err(refuse(faults.into_sorted())) }
    }

    /// Completes the objects that ask for all secrets below a prefix, with the names of this file that begin with it.
    ///
    /// # Errors
    /// No name begins with it.
    pub fn put_below(&self, plan: &mut Plan, steps: &Steps) -> Result<(), Failure> {
        let mut faults = String::new();
        for at in plan.prefixes.clone() {
            let object = &plan.objects[at];
            let folder = plan.secrets[object.secret].clone();
            let mut parts = Vec::new();
            for name in self.names_below(&folder) {
                if !object.takes(&name, steps).map_err(|spent| Failure::fault(format!("TooLarge: {}: it {spent}", object.label())))? {
                    continue;
                }
                let whole: SecretName =
                    format!("{}{name}", folder.name).parse().map_err(|cause| Failure::fault(format!("{}: {name:?} {cause}", self.file)))?;
                plan.secrets.push(folder.with(|parts| (parts.name, parts.method) = (whole, Method::Get)));
                parts.push(object.part_below(name, plan.secrets.len() - 1));
            }
            if parts.is_empty() && !object.optional {
                faults.push_str(&format!("{}: {}: has no secret below it that the class needs (add one)\n", self.file, named(&folder)));
            }
            plan.objects[at].parts = parts;
        }
        if faults.is_empty() { Ok(()) } else { Err(Failure::fault(faults)) }
    }

    /// The names below the folder, without the prefix, each once.
    fn names_below(&self, folder: &SecretRef) -> BTreeSet<String> {
        let prefixes = names(folder);
        let below = |name: &String| prefixes.iter().find_map(|prefix| name.strip_prefix(prefix.as_str())).map(str::to_owned);
        self.secrets.keys().filter_map(below).filter(|name| !name.is_empty()).collect()
    }

    /// The values of a plan's secrets, in the same order.
    ///
    /// # Errors
    /// A secret that the class needs has no values.
    pub fn of(&self, plan: &Plan) -> Result<Vec<Option<Arc<Secret>>>, Failure> {
        let mut faults = String::new();
        let mut secrets = Vec::with_capacity(plan.secrets.len());
        let unused = self.unused_names(plan);
        for (place, secret) in plan.secrets.iter().enumerate() {
            let found = names(secret).into_iter().find_map(|name| self.secrets.get(&name));
            if found.is_none() && is_needed(plan, place) {
                let name = secret.name.as_str();
                let values = if is_delivered_as_stored(plan, place) { "'TEXT'" } else { "{ FIELD: VALUE }" };
                let remedy = match nearest(name, unused.iter().copied()) {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("add `{name}: {values}`, or `{name}: null` for a secret that is absent"),
                };
                let fault = format!("{}: {name}: has no values ({remedy})\n", self.file);
                // Two backends may have a secret of one name.
                if !faults.contains(&fault) {
                    faults.push_str(&fault);
                }
            }
            let found = found.cloned().flatten();
            if found.as_ref().is_some_and(|found| found.response.is_none()) && is_delivered_as_stored(plan, place) {
                let name = secret.name.as_str();
                faults.push_str(&format!(
                    "{}: {name}: has fields, and the class delivers the whole text that the store has (write the text: `{name}: '{{\"FIELD\": \"VALUE\"}}'`)\n",
                    self.file
                ));
            }
            secrets.push(found);
        }
        if faults.is_empty() { Ok(secrets) } else { Err(Failure::fault(faults)) }
    }

    /// A sentence for each secret that the class does not have.
    pub fn unused(&self, plan: &Plan) -> Vec<String> {
        let is_absent = |names: &Vec<String>| !names.iter().any(|name| self.secrets.contains_key(name));
        let absent: Vec<String> = plan.secrets.iter().map(names).filter(is_absent).flatten().collect();
        let sentence = |name| {
            let remedy = match nearest(name, absent.iter().map(String::as_str)) {
                Some(near) => format!("did you mean {near}?"),
                None => "remove it, or correct the name".to_owned(),
            };
            format!("{}: {name}: the class does not use this secret ({remedy})", self.file)
        };
        self.unused_names(plan).into_iter().map(sentence).collect()
    }

    fn unused_names(&self, plan: &Plan) -> Vec<&str> {
        let used: BTreeSet<String> = plan.secrets.iter().flat_map(names).collect();
        self.secrets.keys().map(String::as_str).filter(|name| !used.contains(*name)).collect()
    }
}

/// A secret's name for messages: with its backend, if the class names one.
pub fn named(secret: &SecretRef) -> String {
    if secret.backend.as_str() == UNNAMED { secret.name.as_str().to_owned() } else { secret.to_string() }
}

/// The names that a secret may have in the file, the most exact first.
fn names(secret: &SecretRef) -> Vec<String> {
    let (backend, name) = (secret.backend.as_str(), secret.name.as_str());
    let with_backend = (backend != UNNAMED).then(|| format!("{backend}/{name}"));
    let plain: Vec<String> = with_backend.into_iter().chain([name.to_owned()]).collect();
    let pinned = secret.version.iter().flat_map(|version| plain.iter().map(move |name| format!("{name}@{version}")));
    let pinned: Vec<String> = pinned.collect();
    pinned.into_iter().chain(plain).collect()
}

/// Whether an object fails without this secret.
fn is_needed(plan: &Plan, place: usize) -> bool {
    plan.objects.iter().filter(|object| object.secrets().any(|other| other == place)).any(|object| {
        let may_be_absent = object.parts.iter().filter(|part| part.secret == place).all(|part| part.optional) && !object.parts.is_empty();
        !object.optional && !may_be_absent
    })
}

/// The same in JSON, where numbers keep their digits. `None`: the text is not JSON of this form.
fn of_json(text: &str) -> Option<BTreeMap<String, Option<Arc<Secret>>>> {
    let secrets: BTreeMap<String, Option<BTreeMap<String, Box<RawValue>>>> = serde_json::from_str(text).ok()?;
    let mut read = BTreeMap::new();
    for (name, fields) in secrets {
        let fields = match fields {
            Some(fields) => Some(Arc::new(of_fields(fields.into_iter().map(member).collect::<Option<_>>()?))),
            None => None,
        };
        read.insert(name, fields);
    }
    Some(read)
}

/// Whether an object delivers the store's whole response.
fn is_delivered_as_stored(plan: &Plan, place: usize) -> bool {
    plan.objects.iter().any(|object| object.secret == place && matches!(object.select, Select::Response { .. } | Select::Searched { .. }))
}

/// A secret in a store that keeps texts: the members of a JSON object are its fields. Any other text is the field `value`.
fn of_text(text: &str) -> Secret {
    let content = || SecretBytes::new(text.as_bytes().to_vec());
    let members = serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(text).ok();
    let fields = members.and_then(|members| members.into_iter().map(member).collect::<Option<BTreeMap<FieldName, Field>>>());
    let fields = fields.unwrap_or_else(|| BTreeMap::from([(FieldName::new("value"), Field::of_bytes(content()))]));
    Secret { response: Some(Response::Stored(Arc::new(content()))), ..of_fields(fields) }
}

/// A text is a text; everything else is JSON.
fn member((name, value): (String, Box<RawValue>)) -> Option<(FieldName, Field)> {
    let field = match serde_json::from_str::<String>(value.get()) {
        Ok(text) => Field::of_bytes(SecretBytes::new(text.into_bytes())),
        Err(_) => Field { bytes: Arc::new(SecretBytes::new(value.get().as_bytes().to_vec())), kind: FieldKind::Json },
    };
    Some((name.parse::<FieldName>().ok()?, field))
}

fn of_fields(fields: BTreeMap<FieldName, Field>) -> Secret {
    Secret { fields, response: None, version: None, lease: None }
}

/// `None`: the secret is absent, or it has a fault, which goes into `faults`.
fn secret(name: &str, node: &Node, faults: &mut Faults) -> Option<Secret> {
    if node.is_null() {
        return None;
    }
    if let Value::Scalar { text, .. } = &node.value {
        return Some(of_text(text));
    }
    let Value::Mapping(entries) = &node.value else {
        let problem = format!("is {}, but must be a mapping of fields, or a text (write the value under its field's name)", node.kind());
        faults.add(node.at, name.to_owned(), problem);
        return None;
    };
    let mut fields = BTreeMap::new();
    for (key, node) in entries {
        let path = || format!("{name}.{}", key.text);
        match (key.text.parse::<FieldName>(), field(node)) {
            (Ok(name), Ok(field)) => drop(fields.insert(name, field)),
            (Err(cause), _) => faults.add(key.at, path(), cause.to_string()),
            (_, Err(problem)) => faults.add(node.at, path(), problem),
        }
    }
    Some(of_fields(fields))
}

/// A text is a text; everything else is JSON, as in stores that keep JSON.
fn field(node: &Node) -> Result<Field, String> {
    if let Value::Scalar { text, kind: Kind::Text | Kind::Time } = &node.value {
        return Ok(Field::of_bytes(SecretBytes::new(text.clone().into_bytes())));
    }
    Ok(Field { bytes: Arc::new(SecretBytes::new(json(node)?.into_bytes())), kind: FieldKind::Json })
}

/// The parser has bounded the depth.
fn json(node: &Node) -> Result<String, String> {
    Ok(match &node.value {
        Value::Null => "null".to_owned(),
        Value::Scalar { text, kind: Kind::Text | Kind::Time } => serde_json::Value::from(text.as_str()).to_string(),
        // A number keeps its digits.
        Value::Scalar { text, kind: Kind::Float(_) | Kind::Integer(_) } if serde_json::from_str::<serde_json::Number>(text).is_ok() => {
            text.clone()
        }
        Value::Scalar { text, kind } => kind.to_json(text).map_err(|problem| format!("{problem} (put it in quotes for the text)"))?,
        Value::Sequence(items) => format!("[{}]", items.iter().map(json).collect::<Result<Vec<_>, _>>()?.join(",")),
        Value::Mapping(entries) => {
            let member = |(key, node): &(_, Node)| {
                let key: &crate::yaml::Key = key;
                Ok(format!("{}:{}", serde_json::Value::from(key.text.as_str()), json(node)?))
            };
            format!("{{{}}}", entries.iter().map(member).collect::<Result<Vec<_>, String>>()?.join(","))
        }
    })
}
