//! The native format: `objects` is a list of mappings, one an object (`docs/classes.md`).
//!
//! Reading never stops at a fault: each object yields what it can, so that one answer tells everything there is to mend.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use self::values::{encoding, mode, owner, position, query, read_path, read_patterns};
use super::{ClassLimits, bounded, class_fault};
use crate::model::{
    Ask, Catalogue, Claim, ClassFault, ClassFaults, Code, FieldPattern, FileMode, FilePath, FolderPath, InvalidName, Label, Object, Owner,
    Plan, Query, SecretRef, Select, Unresolved, clashes, clean, quoted,
};
use crate::nearest::nearest;
use crate::yaml::{self, Faults, Node, Position, Reader, Value, unknown_key};

#[cfg(test)]
mod tests;
mod values;

/// Keys of the class as a whole.
const CLASS_KEYS: [&str; 4] = ["objects", "backend", "mode", "dialect"];

/// Attributes of the volume that the driver puts between the parameters; they are not the class's.
const VOLUME_KEYS: [&str; 2] = ["secretProviderClass", "providerName"];

/// Keys of the class that this version knows and refuses, each with what to do until then.
const LATER_CLASS_KEYS: [(&str, &str); 7] = [
    ("address", LOGIN_REMEDY),
    ("audience", LOGIN_REMEDY),
    ("fresh", CACHE_REMEDY),
    ("maxStale", CACHE_REMEDY),
    ("mount", LOGIN_REMEDY),
    ("namespace", LOGIN_REMEDY),
    ("role", LOGIN_REMEDY),
];
const LOGIN_REMEDY: &str = "remove it: how a backend is entered is the node's configuration alone";
const CACHE_REMEDY: &str = "remove it: nothing is cached";

/// Keys of an object.
const OBJECT_KEYS: [&str; 10] = ["secret", "field", "fields", "path", "mode", "owner", "encoding", "version", "optional", "backend"];

/// Keys of an object that this version knows and refuses, each with what to do until then.
const LATER_OBJECT_KEYS: [(&str, &str); 7] = [
    ("args", "remove it: secrets are only read"),
    ("format", "remove it for JSON of the fields, or store the finished text as one field"),
    ("lease", "remove it: secrets are only read"),
    ("method", "remove it: secrets are only read"),
    ("prefix", "write an object for each secret"),
    ("secrets", "deliver the fields as files of their own"),
    ("template", "deliver the fields as files of their own"),
];

/// How many faulty keys are told of one object.
const MAX_KEY_FAULTS: usize = 64;

/// These stand in `secret`'s place.
const IN_PLACE_OF_SECRET: [&str; 3] = ["prefix", "secrets", "template"];

pub(super) fn parse(parameters: &BTreeMap<String, String>, catalogue: &dyn Catalogue, limits: ClassLimits) -> Result<Plan, ClassFaults> {
    let mut class = Class {
        backend: parameters.get("backend").map(String::as_str),
        backend_is_unknown: false,
        mode: None,
        owners: limits.owners,
        catalogue,
        secrets: HashSet::new(),
        claims: Vec::new(),
        faults: Vec::new(),
    };
    class.check_keys(parameters);
    class.read_mode(parameters);
    let objects = class.read_objects(parameters, limits);
    class.check_layout();
    let mut faults = class.faults;
    // The class's own first, then object by object, each in the order of the text.
    faults.sort_by_key(|fault| (fault.object.as_ref().map_or(0, |label| label.index), fault.at));
    if faults.is_empty() { Ok(Plan { objects, ..Plan::default() }) } else { Err(ClassFaults(faults)) }
}

/// A class being read.
struct Class<'c> {
    backend: Option<&'c str>,
    /// Said once for the class, not once for each object.
    backend_is_unknown: bool,
    mode: Option<FileMode>,
    owners: bool,
    catalogue: &'c dyn Catalogue,
    /// Objects of one secret share one reference.
    secrets: HashSet<Arc<SecretRef>>,
    /// The paths that are known before a secret is.
    claims: Vec<Claimed>,
    faults: Vec<ClassFault>,
}

/// A path, and the object that wants it.
struct Claimed {
    label: Label,
    at: Position,
    path: FilePath,
    folder: bool,
}

// === impl Class ===

impl Class<'_> {
    /// Names every key that means nothing here. A key with a `/` is the driver's or somebody else's.
    fn check_keys(&mut self, parameters: &BTreeMap<String, String>) {
        for key in parameters.keys().map(String::as_str).filter(|key| !key.contains('/')) {
            if let Some((_, remedy)) = LATER_CLASS_KEYS.iter().find(|(later, _)| *later == key) {
                self.faults.push(class_fault(key, format!("is not yet supported ({remedy})")));
            } else if !CLASS_KEYS.contains(&key) && !VOLUME_KEYS.contains(&key) {
                self.faults.push(class_fault(key, unknown(key, &CLASS_KEYS, &LATER_CLASS_KEYS)));
            }
        }
    }

    fn read_mode(&mut self, parameters: &BTreeMap<String, String>) {
        match parameters.get("mode").map(|text| mode(text.trim())) {
            Some(Ok(mode)) => self.mode = Some(mode),
            Some(Err(problem)) => self.faults.push(class_fault("mode", problem)),
            None => {}
        }
    }

    fn read_objects(&mut self, parameters: &BTreeMap<String, String>, limits: ClassLimits) -> Vec<Object> {
        let Some(text) = parameters.get("objects") else {
            self.faults.push(class_fault(
                "objects",
                "is missing (add it: a list of objects, each with at least `secret: <name>`; `objects: \"[]\"` for an empty volume)",
            ));
            return Vec::new();
        };
        let document = match yaml::parse(text) {
            Ok(document) => document,
            Err(fault) => {
                let problem = if fault.key.is_empty() { fault.problem } else { format!("`{}` is {}", clean(&fault.key), fault.problem) };
                self.objects_fault(fault.at, problem);
                return Vec::new();
            }
        };
        let items = match &document.value {
            Value::Sequence(items) => items.as_slice(),
            Value::Null => &[],
            Value::Mapping(_) | Value::Scalar { .. } => {
                let problem =
                    format!("is {}, but must be a list (start each object with `- `, such as `- secret: shop/db`)", document.kind());
                self.objects_fault(document.at, problem);
                return Vec::new();
            }
        };
        if items.len() > limits.objects {
            let problem = format!(
                "has {} objects: at most {} are allowed on this node (split the class, or ask for a higher limits.objects)",
                items.len(),
                limits.objects
            );
            self.faults.push(ClassFault { code: Code::TooLarge, ..class_fault("objects", problem) });
            return Vec::new();
        }
        items.iter().enumerate().filter_map(|(place, item)| self.read_object(place + 1, item)).collect()
    }

    fn objects_fault(&mut self, at: Position, problem: impl AsRef<str>) {
        self.faults.push(ClassFault { at: Some((at.line, at.column)), ..class_fault("objects", problem) });
    }

    fn read_object(&mut self, index: usize, node: &Node) -> Option<Object> {
        let label = Label { index, path: path_for_messages(node) };
        let mut faults = Faults::default();
        let object = self.read(&label, node, &mut faults);
        self.faults.extend(faults.into_sorted().into_iter().map(|fault| ClassFault {
            object: Some(label.clone()),
            key: clean(&fault.key),
            problem: bounded(&fault.problem),
            code: Code::InvalidRequest,
            at: Some((fault.at.line, fault.at.column)),
        }));
        object
    }

    fn read(&mut self, label: &Label, node: &Node, faults: &mut Faults) -> Option<Object> {
        if !matches!(node.value, Value::Mapping(_) | Value::Null) {
            faults.add(node.at, "objects", format!("is {}, but an object is a mapping (write `- secret: shop/db`, say)", node.kind()));
            return None;
        }
        let mut reader = Reader::of(node, "", faults)?;
        check_object_keys(&reader, faults);
        let secret = self.read_secret(&mut reader, faults);
        let mode = reader.parsed("mode", faults, mode);
        let owner = self.read_owner(&mut reader, faults);
        let encoding = reader.parsed("encoding", faults, encoding).unwrap_or_default();
        let optional = reader.boolean("optional", faults).unwrap_or(false);
        // Read even without a secret: its faults are to be told too.
        let default_name = secret.as_ref().map(|secret| secret.name.last_element());
        let select = self.read_select(label, &mut reader, default_name, faults);
        Some(Object { index: label.index, secret: secret?, select: select?, mode: mode.or(self.mode), owner, encoding, optional })
    }

    fn read_owner(&self, reader: &mut Reader<'_>, faults: &mut Faults) -> Option<Owner> {
        let owner = reader.parsed("owner", faults, owner)?;
        if !self.owners {
            let problem = "works with `delivery: provider` only: on this node the driver writes the files, and they belong to root \
                           (remove it, and let others read by `mode`)";
            faults.add(position(reader, "owner"), "owner", problem);
        }
        Some(owner)
    }

    fn read_secret(&mut self, reader: &mut Reader<'_>, faults: &mut Faults) -> Option<Arc<SecretRef>> {
        let own_backend = reader.text("backend", faults);
        let version = reader.text("version", faults);
        if reader.get("secret").is_none() && !IN_PLACE_OF_SECRET.iter().any(|key| reader.get(key).is_some()) {
            reader.missing("secret", "write the secret's name, such as `secret: shop/db`", faults);
        }
        let name = reader.text("secret", faults)?;
        match self.catalogue.resolve(&Ask { backend: own_backend.or(self.backend), name, version, ..Ask::default() }) {
            Ok(secret) => Some(self.share(secret)),
            Err(unresolved) => {
                self.note_unresolved(own_backend.is_some(), unresolved, reader, faults);
                None
            }
        }
    }

    fn note_unresolved(&mut self, own_backend: bool, unresolved: Unresolved, reader: &mut Reader<'_>, faults: &mut Faults) {
        match unresolved {
            Unresolved::Backend(problem) if own_backend => faults.add(position(reader, "backend"), "backend", problem),
            Unresolved::Backend(problem) => {
                if !std::mem::replace(&mut self.backend_is_unknown, true) {
                    self.faults.push(class_fault("backend", problem));
                }
            }
            Unresolved::Name { name, cause } => {
                // A store's own rule brings its own remedy.
                let remedy = if matches!(cause, InvalidName::Store(_)) { "" } else { " (write the name as its store lists it)" };
                let problem = format!("the name {} {cause}{remedy}", quoted(&name));
                faults.add(position(reader, "secret"), "secret", problem);
            }
            Unresolved::Login { key, problem } => self.faults.push(class_fault(key.as_str(), problem)),
            Unresolved::Request { key, problem } => faults.add(position(reader, key), key, problem),
            Unresolved::Version(problem) => {
                let problem = format!("{problem} (pin one that the store has, or leave `version` out for the latest)");
                faults.add(position(reader, "version"), "version", problem);
            }
        }
    }

    fn share(&mut self, secret: SecretRef) -> Arc<SecretRef> {
        if let Some(same) = self.secrets.get(&secret) {
            return Arc::clone(same);
        }
        let secret = Arc::new(secret);
        self.secrets.insert(Arc::clone(&secret));
        secret
    }

    fn read_select(&mut self, label: &Label, reader: &mut Reader<'_>, default_name: Option<&str>, faults: &mut Faults) -> Option<Select> {
        if reader.get("field").is_some() && reader.get("fields").is_some() {
            faults.add(
                position(reader, "fields"),
                "fields",
                "stands beside `field` (keep one: `field` is one file, `fields` a folder of them)",
            );
            return None;
        }
        if reader.get("fields").is_some() {
            let patterns = read_patterns(reader, faults);
            let folder: FolderPath = read_path(reader, default_name, faults)?;
            return self.claim_folder(label, reader, patterns?, folder, faults);
        }
        let query = reader.get("field").is_some().then(|| reader.parsed("field", faults, query));
        let default_name = query.as_ref().map_or(default_name, |query| query.as_ref().map(Query::as_str));
        let path: FilePath = read_path(reader, default_name, faults)?;
        let at = position(reader, "path");
        self.claims.push(Claimed { label: label.clone(), at, path: path.clone(), folder: false });
        match query {
            Some(query) => query.map(|query| Select::Field { query, path }),
            None => Some(Select::Whole { path }),
        }
    }

    /// Claims the folder, and the files that are known before the secret is: those of patterns without `*`.
    fn claim_folder(
        &mut self,
        label: &Label,
        reader: &mut Reader<'_>,
        patterns: Vec<FieldPattern>,
        folder: FolderPath,
        faults: &mut Faults,
    ) -> Option<Select> {
        let at = position(reader, "path");
        let claim = |path: FilePath, folder: bool| Claimed { label: label.clone(), at, path, folder };
        self.claims.extend(folder.as_path().map(|path| claim(path.clone(), true)));
        let mut fine = true;
        for pattern in patterns.iter().filter(|pattern| pattern.is_literal()) {
            match folder.join(pattern.as_str()) {
                Ok(path) => self.claims.push(claim(path, false)),
                Err(cause) => {
                    let problem = format!(
                        "the field {} cannot name a file: the path {cause} (give it to an object of its own, with `field` and `path`)",
                        quoted(pattern.as_str())
                    );
                    faults.add(position(reader, "fields"), "fields", problem);
                    fine = false;
                }
            }
        }
        fine.then_some(Select::Fields { patterns, folder })
    }

    /// No two objects the same path, none a folder of another.
    fn check_layout(&mut self) {
        let claims: Vec<Claim<'_>> =
            self.claims.iter().map(|claimed| Claim { path: claimed.path.as_str(), folder: claimed.folder }).collect();
        let (mut faults, mut told) = (Vec::new(), HashSet::new());
        for clash in clashes(&claims) {
            let (file, other) = (&self.claims[clash.file], &self.claims[clash.other]);
            // A field that is named twice is one file.
            if file.label.index == other.label.index && file.path == other.path && !other.folder {
                continue;
            }
            // The later object is the one to change, and needs to be told only once what stands in the way of a path.
            let file_is_later = file.label.index > other.label.index;
            let (later, earlier) = if file_is_later { (file, other) } else { (other, file) };
            if !told.insert((later.label.index, &file.path)) {
                continue;
            }
            let problem = if file.path == other.path && !other.folder {
                format!("{} is also the path of {} (give each object a path of its own)", quoted(file.path.as_str()), earlier.label)
            } else if file_is_later {
                format!(
                    "{} would be a file, but {} needs a folder there (change one of the paths)",
                    quoted(file.path.as_str()),
                    earlier.label
                )
            } else {
                format!(
                    "{} is a file, that of {}: nothing can stand within it (change one of the paths)",
                    quoted(file.path.as_str()),
                    earlier.label
                )
            };
            faults.push(ClassFault {
                object: Some(later.label.clone()),
                at: Some((later.at.line, later.at.column)),
                ..class_fault("path", problem)
            });
        }
        self.faults.extend(faults);
    }
}

// === keys ===

fn check_object_keys(reader: &Reader<'_>, faults: &mut Faults) {
    for (key, _) in reader.entries() {
        if faults.len() >= MAX_KEY_FAULTS {
            return;
        }
        if let Some((_, remedy)) = LATER_OBJECT_KEYS.iter().find(|(later, _)| *later == key.text) {
            faults.add(key.at, &key.text, format!("is not yet supported ({remedy})"));
        } else if !OBJECT_KEYS.contains(&key.text.as_str()) {
            faults.add(key.at, &key.text, unknown(&key.text, &OBJECT_KEYS, &LATER_OBJECT_KEYS));
        }
    }
}

/// Names the nearest of all keys, those to come too; where none is near, the keys that work.
fn unknown(key: &str, working: &[&'static str], later: &[(&'static str, &str)]) -> String {
    let all: Vec<&'static str> = working.iter().copied().chain(later.iter().map(|(key, _)| *key)).collect();
    unknown_key(key, if nearest(key, all.iter().copied()).is_some() { &all } else { working })
}

/// The path that names an object in messages, before anything is known to be right: its own, else what it defaults to.
fn path_for_messages(node: &Node) -> String {
    let Value::Mapping(entries) = &node.value else {
        return String::new();
    };
    let text = |key: &str| entries.iter().find(|(k, _)| k.text == key).and_then(|(_, node)| node.text());
    let last_element = || text("secret").and_then(|name| name.rsplit('/').next());
    text("path").or_else(|| text("field")).or_else(last_element).unwrap_or_default().chars().take(256).collect()
}
