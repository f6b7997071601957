//! The dialects `vault` and `openbao`: classes written for vault-csi-provider and openbao-csi-provider. The two differ only in the names of
//! their parameters.
//!
//! This module follows the source of the peers (vault-csi-provider 1.7.4, openbao-csi-provider main, `internal/config`, `internal/client`,
//! `internal/provider`). It is stricter where a peer would mount a class only in part, or only by chance: such a class is refused, and the
//! message says what to write.

use std::collections::{BTreeMap, HashMap};

use self::parameters::Entry;
use self::path::SecretPath;
use super::class::{Class, Format, RequestKeys, position};
use super::keys::{Keys, one_of};
use super::native::values::mode;
use super::{ClassLimits, args};
use crate::model::{
    Args, Ask, Catalogue, ClassFaults, Encoding, FieldName, FileMode, FilePath, InvalidPath, Label, LeaseFor, Method, Object, Plan, Select,
    Unresolved, Verb, VersionIds, quoted,
};
use crate::steps::Steps;
use crate::yaml::{self, Faults, Node, Reader, Value};

mod parameters;
mod path;
#[cfg(test)]
mod tests;

pub(super) use parameters::{OPENBAO, Peer, VAULT};

const OBJECT_KEYS: &[&str] = &["objectName", "secretPath", "secretKey", "method", "secretArgs", "filePermission", "encoding"];

const ENCODINGS: [(&str, Encoding); 3] = [("utf-8", Encoding::Utf8), ("base64", Encoding::Base64), ("hex", Encoding::Hex)];

pub(super) fn parse(
    peer: &'static Peer,
    parameters: &BTreeMap<String, String>,
    catalogue: &dyn Catalogue,
    limits: ClassLimits,
    steps: &Steps,
) -> Result<Plan, ClassFaults> {
    let mut class = Class::new(format(peer), catalogue, limits, steps);
    class.check_keys(parameters);
    let mut entry = Entry::read(peer, parameters, &mut class);
    let backend = choose_backend(peer, &mut entry, catalogue, &mut class);
    let mut asked = Vec::new();
    let mut objects = class.objects(parameters, path_for_messages, |class, label, reader, faults| {
        let (object, request) = ObjectReader { peer, class, backend: backend.as_deref(), entry: &entry, label }.read(reader, faults)?;
        asked.push(request);
        Some(object)
    });
    share(&mut objects, &asked);
    class.finish(objects).map(|plan| Plan { version_ids: VersionIds::Paths, ..plan })
}

fn format(peer: &'static Peer) -> Format {
    Format {
        class_keys: peer.keys(),
        object_keys: Keys {
            known: OBJECT_KEYS,
            shown: OBJECT_KEYS,
            later: &[],
            foreign: &[
                ("args", "here it is `secretArgs`"),
                ("field", "here it is `secretKey`"),
                ("mode", "here it is `filePermission`"),
                ("objectPath", "here it is `secretPath`"),
                ("objectVersion", "here it is a query after the path, such as `secretPath: kv/data/shop/db?version=3`"),
                ("path", "here it is `objectName`"),
                ("secret", "here it is `secretPath`"),
                ("version", "here it is a query after the path, such as `secretPath: kv/data/shop/db?version=3`"),
            ],
            of_others: |_| None,
        },
        document: yaml::parse_within,
        path: "objectName",
        request: RequestKeys { name: "secretPath", version: "secretPath", method: "method", args: "secretArgs", lease: "secretPath" },
        blank: &["method", "encoding", "filePermission", "secretArgs"],
        sample: "{objectName: password, secretPath: kv/data/shop/db, secretKey: password}",
        without_objects: "add it: a list of objects, each with `objectName` and `secretPath`",
        may_be_empty: false,
    }
}

/// The backend's name. A backend that is chosen by the class's address already knows how it is reached.
fn choose_backend(peer: &Peer, entry: &mut Entry, catalogue: &dyn Catalogue, class: &mut Class<'_>) -> Option<String> {
    match catalogue.serving(peer.name, entry.login.address.as_deref(), None) {
        Ok(serving) => {
            // The class's audience, or the configured one, or the peer's.
            if !serving.names_audience && entry.login.audience.is_none() {
                entry.login.audience = Some(peer.audience.to_owned());
            }
            // At the backend's own address its own TLS settings are right: the files that the class names are in the peer's container.
            if serving.by_address || entry.login.address.is_none() {
                let why = if serving.by_address {
                    format!("the class's address is that of the backend `{}`, so this backend's TLS settings apply", serving.backend)
                } else {
                    "the class has no address, so the TLS settings of the node's backend apply".to_owned()
                };
                for word in std::mem::take(&mut entry.tls_words) {
                    class.warn(None, word, format!("is not used: {why} (remove it if the class is only for Keyferry)"));
                }
                (entry.login.address, entry.login.tls) = (None, None);
            }
            entry.check_role(class);
            Some(serving.backend.as_str().to_owned())
        }
        // What the class says of its role has no effect then.
        Err(Unresolved::NoLogin { problem, .. }) => {
            class.fault(entry.address_word.unwrap_or("dialect"), problem);
            None
        }
        Err(Unresolved::Backend(problem)) => {
            entry.check_role(class);
            class.fault(entry.address_word.unwrap_or("dialect"), problem);
            None
        }
        Err(other) => {
            entry.check_role(class);
            class.fault("dialect", other.to_string());
            None
        }
    }
}

/// What an object asks for. The peers send one request for all objects with the same path and method, and never compare `secretArgs`.
struct Asked {
    request: (SecretPath, Method),
    has_args: bool,
}

/// An object without arguments shares the answer to the first object with the same request and with arguments, before or after it. So a key
/// belongs to its certificate. This is only for requests that create something.
fn share(objects: &mut [Object], asked: &[Asked]) {
    let mut firsts: HashMap<&(SecretPath, Method), usize> = HashMap::new();
    for (object, asked) in objects.iter().zip(asked).filter(|(_, asked)| asked.has_args) {
        firsts.entry(&asked.request).or_insert(object.secret);
    }
    let creates = |asked: &Asked| asked.request.1.verb() == Verb::Update;
    for (object, asked) in objects.iter_mut().zip(asked).filter(|(_, asked)| creates(asked) && !asked.has_args) {
        if let Some(secret) = firsts.get(&asked.request) {
            object.secret = *secret;
        }
    }
}

/// Reads one object.
struct ObjectReader<'r, 'c> {
    peer: &'static Peer,
    class: &'r mut Class<'c>,
    /// `None`: no backend could be chosen, and a fault says so.
    backend: Option<&'r str>,
    entry: &'r Entry,
    label: &'r Label,
}

// === impl ObjectReader ===

impl ObjectReader<'_, '_> {
    fn read(&mut self, reader: &mut Reader<'_>, faults: &mut Faults) -> Option<(Object, Asked)> {
        let path = self.read_name(reader, faults);
        let target = read_path(reader, faults);
        let method = reader.parsed("method", faults, |text| one_of("method", &Method::ALL.map(|method| (method.as_str(), method)), text));
        let args = args::read("secretArgs", reader, faults).unwrap_or_default();
        let key = says(reader, "secretKey").then(|| reader.text("secretKey", faults).map(FieldName::new));
        let mode = reader.parsed("filePermission", faults, mode).filter(|mode| *mode != FileMode::NONE);
        let encoding = reader.parsed("encoding", faults, encoding).unwrap_or_default();
        if key.is_none() && encoding != Encoding::Utf8 {
            self.class.warn(
                Some(self.label),
                "encoding",
                "is not used without `secretKey`: Keyferry delivers a whole response as JSON (remove it)",
            );
        }
        let (method, has_args) = (method.unwrap_or_default(), !args.is_empty());
        if has_args && method.verb() == Verb::Read {
            let problem = format!(
                "Keyferry sends them as the query of this {}; the provider for {} sends them as a body, which the store ignores (remove \
                 them, or add `method: POST`)",
                method.as_str(),
                self.peer.title
            );
            self.class.warn(Some(self.label), "secretArgs", problem);
        }
        let target = target.map(|target| target.of(method));
        let secret = target.as_ref().and_then(|target| {
            let (lease, login) = (LeaseFor::Pod, self.entry.login.clone());
            let args = merge(args, target, reader, faults);
            let (name, version) = (target.name.as_str(), target.version.as_deref());
            self.class.resolve(
                Ask { backend: Some(self.backend?), name, below: false, version, method, args, lease, keep: None, login },
                false,
                reader,
                faults,
            )
        });
        let path = path?;
        let select = match key {
            Some(key) => Select::Key { key: key?, path },
            None => Select::Response { path },
        };
        let object = Object { mode, encoding, ..Object::of_secret(self.label.index, secret?, select) };
        Some((object, Asked { request: (target?, method), has_args }))
    }

    fn read_name(&mut self, reader: &mut Reader<'_>, faults: &mut Faults) -> Option<FilePath> {
        if !says(reader, "objectName") {
            reader.missing("objectName", "write the file's path in the volume, such as `objectName: password`", faults);
            return None;
        }
        let path: FilePath = reader.parsed("objectName", faults, file_path)?;
        self.class.claim_file(self.label, position(reader, "objectName"), &path);
        Some(path)
    }
}

/// Whether a key has a value: for the peers an empty text is none.
fn says(reader: &mut Reader<'_>, key: &'static str) -> bool {
    reader.get(key).is_some_and(|node| node.text() != Some(""))
}

fn read_path(reader: &mut Reader<'_>, faults: &mut Faults) -> Option<SecretPath> {
    if !says(reader, "secretPath") {
        reader.missing("secretPath", "write the path of the store's API, such as `secretPath: kv/data/shop/db`", faults);
        return None;
    }
    reader.parsed("secretPath", faults, str::parse)
}

/// The path's query together with the object's own arguments.
fn merge(mut args: Args, path: &SecretPath, reader: &mut Reader<'_>, faults: &mut Faults) -> Args {
    for (name, value) in &path.query {
        if args.has(name) {
            let problem = format!("has {}, which is in the query of `secretPath` too (keep one of them)", quoted(name));
            faults.add(position(reader, "secretArgs"), "secretArgs", problem);
        }
        args.insert(name, &value.as_str().into());
    }
    args
}

fn encoding(text: &str) -> Result<Encoding, String> {
    match text.to_ascii_lowercase().as_str() {
        "base64url" => {
            Err("base64url is not an encoding of this format (there are: utf-8, base64, hex; the native format has it)".to_owned())
        }
        text => one_of("encoding", &ENCODINGS, text),
    }
}

fn file_path(text: &str) -> Result<FilePath, String> {
    text.parse().map_err(|cause| {
        let remedy = match cause {
            InvalidPath::Absolute => "remove the `/` at its start",
            InvalidPath::Reserved => "choose another name",
            InvalidPath::LongElement(_) | InvalidPath::TooLong(_) => "shorten it",
            InvalidPath::ControlCharacter | InvalidPath::DotElement(_) | InvalidPath::Empty | InvalidPath::EmptyElement => {
                "write the file's path in the volume, such as db/password"
            }
        };
        format!("{} {cause} ({remedy})", quoted(text))
    })
}

/// The path that names an object in messages. Nothing of it has been checked yet.
fn path_for_messages(node: &Node) -> String {
    let Value::Mapping(entries) = &node.value else {
        return String::new();
    };
    let text = |key: &str| entries.iter().find(|(k, _)| k.text == key).and_then(|(_, node)| node.text()).filter(|text| !text.is_empty());
    let last_element = || text("secretPath").and_then(|path| path.split('?').next()?.rsplit('/').next());
    text("objectName").or_else(last_element).unwrap_or_default().chars().take(256).collect()
}
