//! Reading a class in any format: its list of objects, the secrets that they share, and all faults.
//!
//! Reading never stops at a fault. Each object gives what it can, so that one answer shows everything that must be corrected. A format adds
//! its words ([`Format`]) and how it reads one object.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::arn;
use super::keys::Keys;
use super::layout::{Layout, Room};
use super::{ClassLimits, bounded, class_fault, too_much_work, twice};
use crate::model::{
    Ask, Catalogue, ClassFault, ClassFaults, ClassWarning, Code, FaultList, FilePath, FolderPath, InvalidName, InvalidPath, Label,
    LeaseFor, LoginKey, MAX_FAULTS, Method, Object, Parse, Plan, SecretRef, Select, Unresolved, clean, quoted,
};
use crate::steps::{Spent, Steps};
use crate::yaml::{Faults, Node, Position, Reader, Unparsed, Value};

/// The most names in one `fields`: each must exist, and becomes a file. A pattern with a `*` does not count.
const MAX_NAMES: usize = 512;

/// The most such names in a class.
const MAX_NAMES_OF_CLASS: usize = 4096;

/// The most keystores of a class, written and read: each one needs keys that are derived from its password.
const MAX_KEYSTORES: usize = 8;

/// The steps that reading a YAML value takes after parsing: a mapping is searched once for each known key.
const VALUE: u64 = 32;

/// Attributes of the volume that the driver puts between the parameters; they are not the class's.
const VOLUME_KEYS: [&str; 2] = ["secretProviderClass", "providerName"];

/// A format's own words.
#[derive(Debug)]
pub(super) struct Format {
    pub class_keys: Keys,
    pub object_keys: Keys,
    /// Parses the text under `objects`.
    pub document: fn(&str, &Steps) -> Result<Node, Unparsed>,
    /// The key under which an object names its file.
    pub path: &'static str,
    pub request: RequestKeys,
    /// Keys of an object that count as left out where they are `""`: a chart writes that for a value that is not set.
    pub blank: &'static [&'static str],
    /// The start of an object, for messages.
    pub sample: &'static str,
    /// What to do where `objects` is missing.
    pub without_objects: &'static str,
    /// Whether a class may have no objects.
    pub may_be_empty: bool,
}

/// The keys with which an object says what it asks for.
#[derive(Debug)]
pub(super) struct RequestKeys {
    pub name: &'static str,
    pub version: &'static str,
    pub method: &'static str,
    pub args: &'static str,
    pub lease: &'static str,
}

/// A class being read.
pub(super) struct Class<'c> {
    pub format: Format,
    /// The class's words for the parts of a login, where they differ from the native ones.
    pub login_words: BTreeMap<LoginKey, String>,
    catalogue: &'c dyn Catalogue,
    limits: ClassLimits,
    steps: &'c Steps,
    /// The steps are used up: nothing more is read.
    spent: Option<Spent>,
    /// Paths that are known without any secret.
    layout: Layout,
    /// Names under `fields` so far.
    names: usize,
    /// Keystores written so far, and keystores read, each once.
    written: usize,
    opened: Vec<(usize, Parse)>,
    /// Objects with the same secret share its place in the plan.
    secrets: Vec<SecretRef>,
    /// The same request with another one for failover is a different key.
    places: HashMap<(SecretRef, Option<usize>), usize>,
    /// As [`Plan::instead`].
    instead: BTreeMap<usize, usize>,
    told: Told,
    /// The object that is read now.
    reading: Option<Label>,
    faults: FaultList<ClassFault>,
    warnings: FaultList<ClassWarning>,
}

/// What is reported once for the class, not once per object.
#[derive(Default)]
struct Told {
    backend_is_unknown: bool,
    logins: HashSet<LoginKey>,
    /// About stores without logins. It is reported only if no store of the class has logins.
    no_logins: BTreeMap<LoginKey, String>,
    logs_in: bool,
}

// === impl Class ===

impl<'c> Class<'c> {
    pub(super) fn new(format: Format, catalogue: &'c dyn Catalogue, limits: ClassLimits, steps: &'c Steps) -> Self {
        Self {
            format,
            login_words: BTreeMap::new(),
            catalogue,
            limits,
            steps,
            spent: None,
            layout: Layout::new(limits.files),
            names: 0,
            written: 0,
            opened: Vec::new(),
            secrets: Vec::new(),
            places: HashMap::new(),
            instead: BTreeMap::new(),
            told: Told::default(),
            reading: None,
            faults: FaultList::default(),
            warnings: FaultList::default(),
        }
    }

    /// Notes a fault of the class as a whole.
    pub(super) fn fault(&mut self, key: &str, problem: impl AsRef<str>) {
        self.faults.add(class_fault(key, problem));
    }

    /// Notes what is not used, or what the author may have meant in another way.
    pub(super) fn warn(&mut self, object: Option<&Label>, key: &str, problem: impl AsRef<str>) {
        self.warnings.add_with(|| ClassWarning { object: object.cloned(), key: clean(key), problem: bounded(problem.as_ref()) });
    }

    /// Notes that an object is larger than allowed.
    fn too_large(&mut self, label: &Label, at: Position, key: &str, problem: impl AsRef<str>) {
        let (object, at) = (Some(label.clone()), Some((at.line, at.column)));
        self.faults.add(ClassFault { object, code: Code::TooLarge, at, ..class_fault(key, problem) });
    }

    /// Pays for work before it is done. `false`: it is too much.
    pub(super) fn charge(&mut self, steps: u64) -> bool {
        let spent = self.steps.charge(steps).err();
        self.spent = self.spent.or(spent);
        self.spent.is_none()
    }

    /// Work that pays while it runs. `None`: it is too much.
    pub(super) fn within<T>(&mut self, work: impl FnOnce(&Steps) -> Result<T, Spent>) -> Option<T> {
        work(self.steps).map_err(|spent| self.spent = self.spent.or(Some(spent))).ok()
    }

    /// Reports every key that has no meaning here. A key with a `/` belongs to the driver or another program.
    pub(super) fn check_keys(&mut self, parameters: &BTreeMap<String, String>) {
        let own = |key: &&str| !key.contains('/') && !VOLUME_KEYS.contains(key);
        self.charge(parameters.keys().map(|key| key.len() as u64 + VALUE).sum());
        for key in parameters.keys().map(String::as_str).filter(own) {
            let keys = &self.format.class_keys;
            if !keys.known.contains(&key) {
                self.faults.add_with(|| class_fault(key, keys.problem(key)));
            }
        }
    }

    /// A class-wide value, read by `parse`. An empty text counts as left out. A text of blanks counts as a value, and is wrong.
    pub(super) fn parsed<T>(
        &mut self,
        parameters: &BTreeMap<String, String>,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = parameters.get(key).filter(|text| !text.is_empty())?;
        self.parse(key, if text.trim().is_empty() { text } else { text.trim() }, parse)
    }

    /// The same for a login, where a text of blanks counts as left out too.
    pub(super) fn parsed_login<T>(
        &mut self,
        parameters: &BTreeMap<String, String>,
        key: &str,
        parse: impl FnOnce(&str) -> Result<Option<T>, String>,
    ) -> Option<T> {
        let text = Some(parameters.get(key)?.trim()).filter(|text| !text.is_empty())?;
        self.parse(key, text, parse).flatten()
    }

    fn parse<T>(&mut self, key: &str, text: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        parse(text).map_err(|problem| self.fault(key, problem)).ok()
    }

    /// Reads the list under `objects`. `label` finds the path that names an object in messages. Nothing of it has been checked yet.
    pub(super) fn objects(
        &mut self,
        parameters: &BTreeMap<String, String>,
        label: impl Fn(&Node) -> String,
        mut read: impl FnMut(&mut Self, &Label, &mut Reader<'_>, &mut Faults) -> Option<Object>,
    ) -> Vec<Object> {
        let Some(text) = parameters.get("objects") else {
            let remedy = self.format.without_objects;
            self.fault("objects", format!("is missing ({remedy})"));
            return Vec::new();
        };
        let mut objects = Vec::new();
        for (index, item) in (1..).zip(self.items(text).unwrap_or_default()) {
            if !self.charge(VALUE * item.weight() as u64) {
                break;
            }
            let (label, mut faults) = (Label { index, path: label(&item) }, Faults::at_most(MAX_FAULTS - self.faults.len()));
            objects.extend(self.object(&label, &item, &mut faults, &mut read));
            self.take_over(&label, faults);
        }
        objects
    }

    fn items(&mut self, text: &str) -> Option<Vec<Node>> {
        let most = self.limits.objects;
        let document = match (self.format.document)(text, self.steps) {
            Ok(document) => document,
            Err(Unparsed::Spent(spent)) => {
                self.spent = Some(spent);
                return None;
            }
            Err(Unparsed::Fault(fault)) => {
                let problem = if fault.key.is_empty() { fault.problem } else { format!("`{}` is {}", clean(&fault.key), fault.problem) };
                self.objects_fault(fault.at, problem);
                return None;
            }
        };
        let kind = document.kind();
        match document.value {
            Value::Null if !self.format.may_be_empty => self.no_objects(),
            Value::Sequence(items) if items.is_empty() && !self.format.may_be_empty => self.no_objects(),
            Value::Sequence(items) if items.len() <= most => Some(items),
            Value::Sequence(items) => {
                let problem = format!(
                    "has {} objects: at most {most} are allowed on this node (split the class, or ask for a higher limits.objects)",
                    items.len()
                );
                self.faults.add(ClassFault { code: Code::TooLarge, ..class_fault("objects", problem) });
                None
            }
            Value::Null => Some(Vec::new()),
            Value::Mapping(_) | Value::Scalar { .. } => {
                let sample = self.format.sample;
                let problem = format!("is {kind}, but must be a list (start each object with `- `, such as `- {sample}`)");
                self.objects_fault(document.at, problem);
                None
            }
        }
    }

    fn no_objects(&mut self) -> Option<Vec<Node>> {
        let sample = self.format.sample;
        self.fault("objects", format!("has no objects (write at least one, such as `- {sample}`)"));
        None
    }

    fn objects_fault(&mut self, at: Position, problem: impl AsRef<str>) {
        self.faults.add(ClassFault { at: Some((at.line, at.column)), ..class_fault("objects", problem) });
    }

    fn object(
        &mut self,
        label: &Label,
        node: &Node,
        faults: &mut Faults,
        read: &mut impl FnMut(&mut Self, &Label, &mut Reader<'_>, &mut Faults) -> Option<Object>,
    ) -> Option<Object> {
        if !matches!(node.value, Value::Mapping(_) | Value::Null) {
            let sample = self.format.sample;
            faults.add(node.at, "objects", format!("is {}, but an object must be a mapping (write for example `- {sample}`)", node.kind()));
            return None;
        }
        let mut reader = Reader::of(node, "", faults)?.with_blanks(self.format.blank);
        for (key, _) in reader.entries() {
            let keys = &self.format.object_keys;
            if !keys.known.contains(&key.text.as_str()) {
                faults.add_with(key.at, || (key.text.clone(), keys.problem(&key.text)));
            }
        }
        self.reading = Some(label.clone());
        read(self, label, &mut reader, faults)
    }

    fn take_over(&mut self, label: &Label, faults: Faults) {
        self.faults.count(faults.more());
        for fault in faults.into_sorted() {
            self.faults.add_with(|| ClassFault {
                object: Some(label.clone()),
                key: clean(&fault.key),
                problem: bounded(&fault.problem),
                code: Code::InvalidRequest,
                at: Some((fault.at.line, fault.at.column)),
            });
        }
    }

    /// Claims a path for a file of an object.
    pub(super) fn claim_file(&mut self, label: &Label, at: Position, path: &FilePath) {
        if self.has_room(label, at, 1, path.as_str().len()) {
            self.layout.claim_file(label, at, path.clone());
        }
    }

    /// Claims a folder, which several objects may share.
    pub(super) fn claim_folder(&mut self, label: &Label, at: Position, path: &FilePath) {
        if self.has_room(label, at, 0, path.as_str().len()) {
            self.layout.claim_folder(label, at, path.clone());
        }
    }

    /// Claims the path of a file in a folder. The path is made only if there is room for it.
    pub(super) fn claim_within(&mut self, label: &Label, at: Position, folder: &FolderPath, name: &str) -> Result<(), InvalidPath> {
        let of_folder = folder.as_path().map_or(0, |path| path.as_str().len() + 1);
        if self.has_room(label, at, 1, of_folder + name.len()) {
            self.layout.claim_file(label, at, folder.join(name)?);
        }
        Ok(())
    }

    /// Counts what is claimed. Too much is reported once.
    fn has_room(&mut self, label: &Label, at: Position, files: usize, bytes: usize) -> bool {
        match self.layout.count(files, bytes) {
            Room::Free => true,
            Room::None => false,
            Room::Over(problem) => {
                self.too_large(label, at, self.format.path, problem);
                false
            }
        }
    }

    /// Counts the names under `fields` of an object. `false`: there are too many.
    pub(super) fn has_room_for_names(&mut self, label: &Label, at: Position, names: usize) -> bool {
        let before = self.names;
        self.names += names;
        if names > MAX_NAMES {
            let problem =
                format!("names {names} fields: at most {MAX_NAMES} are allowed (use patterns such as \"*\", or split the object)");
            self.too_large(label, at, "fields", problem);
        } else if before <= MAX_NAMES_OF_CLASS && self.names > MAX_NAMES_OF_CLASS {
            let problem = format!(
                "with this object the class names more than {MAX_NAMES_OF_CLASS} fields (use patterns such as \"*\", or split the class)"
            );
            self.too_large(label, at, "fields", problem);
        }
        names <= MAX_NAMES && self.names <= MAX_NAMES_OF_CLASS
    }

    /// Counts the keystores of an object, written and read. `false`: there are too many.
    pub(super) fn has_room_for_keystores(&mut self, label: &Label, at: Position, object: &Object) -> bool {
        let before = self.written + self.opened.len();
        self.written += usize::from(matches!(object.select, Select::Keystore { .. }));
        for (place, parse) in object.opened() {
            // Keystores above the limit are not searched for.
            if self.opened.len() <= MAX_KEYSTORES && !self.opened.iter().any(|(other, known)| *other == place && known == parse) {
                self.opened.push((place, parse.clone()));
            }
        }
        let keystores = self.written + self.opened.len();
        if before <= MAX_KEYSTORES && keystores > MAX_KEYSTORES {
            let problem = format!(
                "with this object the class has more than {MAX_KEYSTORES} keystores; the stored keystores that it reads count too \
                 (split the class over several volumes)"
            );
            self.too_large(label, at, "format", problem);
        }
        keystores <= MAX_KEYSTORES
    }

    /// What an object asks for, as its backend reads it: its place among the plan's secrets. Each fault names the key that causes it.
    /// `own_backend`: Keyferry asks the object's own `backend`, not the class's.
    pub(super) fn resolve(&mut self, ask: Ask<'_>, own_backend: bool, reader: &mut Reader<'_>, faults: &mut Faults) -> Option<usize> {
        let secret = self.judge(ask, own_backend, reader, faults)?;
        Some(self.place(secret, None))
    }

    /// The same, but the secret gets no place yet.
    pub(super) fn judge(&mut self, mut ask: Ask<'_>, own_backend: bool, reader: &mut Reader<'_>, faults: &mut Faults) -> Option<SecretRef> {
        let mut sound = true;
        if let Some(problem) = arn::doubt_of_end(ask.name).filter(|_| !ask.below) {
            let object = self.reading.clone();
            self.warn(object.as_ref(), self.format.request.name, problem);
        }
        // A backend refuses one thing at a time. What it refused is removed and the backend is asked again, so that all faults are reported
        // at once.
        loop {
            match self.catalogue.resolve(&ask) {
                Ok(secret) => {
                    self.told.logs_in |= !ask.login.is_empty();
                    return sound.then_some(secret);
                }
                Err(refused) => {
                    sound &= matches!(refused, Unresolved::NoLogin { .. });
                    let can_go_on = without(&mut ask, &refused);
                    let name = if ask.below { "prefix" } else { self.format.request.name };
                    self.note_refused(refused, name, own_backend, reader, faults);
                    if !can_go_on {
                        return None;
                    }
                }
            }
        }
    }

    /// `name`: the key that names the secret.
    fn note_refused(
        &mut self,
        refused: Unresolved,
        name_key: &'static str,
        own_backend: bool,
        reader: &mut Reader<'_>,
        faults: &mut Faults,
    ) {
        let keys = &self.format.request;
        match refused {
            Unresolved::Backend(problem) if own_backend => faults.add(position(reader, "backend"), "backend", problem),
            Unresolved::Backend(problem) => {
                if !std::mem::replace(&mut self.told.backend_is_unknown, true) {
                    self.fault("backend", problem);
                }
            }
            Unresolved::Login { key, problem } => {
                if self.told.logins.insert(key) {
                    self.fault(&self.word(key), problem);
                }
            }
            Unresolved::Name { name, cause } => {
                // A store's own rule has its own remedy.
                let remedy = if matches!(cause, InvalidName::Store(_)) { "" } else { " (write the name as its store lists it)" };
                faults.add(position(reader, name_key), name_key, format!("the name {} {cause}{remedy}", quoted(&name)));
            }
            Unresolved::NoLogin { key, problem } => drop(self.told.no_logins.entry(key).or_insert(problem)),
            Unresolved::Request { key, problem } => {
                let key = match key {
                    "args" => keys.args,
                    "lease" => keys.lease,
                    "prefix" => "prefix",
                    "version" => keys.version,
                    _ => keys.method,
                };
                faults.add(position(reader, key), key, problem);
            }
            Unresolved::Version(problem) => {
                let remedy = "pin one that the store has, or leave the version out for the latest";
                // Some stores know a better remedy.
                let problem = if problem.ends_with(')') { problem } else { format!("{problem} ({remedy})") };
                faults.add(position(reader, keys.version), keys.version, problem);
            }
        }
    }

    /// The place of a secret, and of the one for failover.
    pub(super) fn place(&mut self, secret: SecretRef, instead: Option<SecretRef>) -> usize {
        let instead = instead.map(|instead| self.place(instead, None));
        *self.places.entry((secret, instead)).or_insert_with_key(|(secret, instead)| {
            let place = self.secrets.len();
            self.secrets.push(secret.clone());
            self.instead.extend(instead.map(|instead| (place, instead)));
            place
        })
    }

    fn word(&self, key: LoginKey) -> String {
        self.login_words.get(&key).cloned().unwrap_or_else(|| key.as_str().to_owned())
    }

    /// The plan, or every fault: first those of the class, then those of each object, in the order of the text.
    pub(super) fn finish(mut self, objects: Vec<Object>) -> Result<Plan, ClassFaults> {
        let layout = self.layout.faults(self.format.path, &mut self.faults, self.steps);
        if let Some(spent) = self.spent.or(layout.err()) {
            self.faults.add(too_much_work(spent));
        }
        if !self.told.logs_in {
            for (key, problem) in std::mem::take(&mut self.told.no_logins) {
                self.fault(&self.word(key), problem);
            }
        }
        let (secrets, objects, instead) = used(&self.secrets, objects, &self.instead);
        for (object, warning) in twice::warnings(&secrets, &objects) {
            self.warn(Some(&object), self.format.request.args, warning);
        }
        let Self { mut faults, warnings, login_words: parameters, .. } = self;
        faults.sort_by_key(|fault| (fault.object.as_ref().map_or(0, |label| label.index), fault.at));
        let prefixes = objects.iter().enumerate().filter(|(_, object)| object.below.is_some()).map(|(place, _)| place).collect();
        if faults.is_empty() {
            Ok(Plan { secrets, instead, objects, prefixes, parameters, warnings, ..Plan::default() })
        } else {
            Err(ClassFaults(faults))
        }
    }
}

/// The secrets that objects ask for, in their order, then those for failover; and all objects with the new places. In a format where two
/// objects can share a request, one of the secrets may not be needed.
fn used(
    secrets: &[SecretRef],
    mut objects: Vec<Object>,
    instead: &BTreeMap<usize, usize>,
) -> (Vec<SecretRef>, Vec<Object>, BTreeMap<usize, usize>) {
    let mut places = vec![None; secrets.len()];
    let asked: BTreeSet<usize> = objects.iter().flat_map(Object::secrets).collect();
    let instead: BTreeMap<usize, usize> = instead.iter().filter(|(of, _)| asked.contains(of)).map(|(of, other)| (*of, *other)).collect();
    let others: BTreeSet<usize> = instead.values().copied().filter(|other| !asked.contains(other)).collect();
    let mut kept = Vec::with_capacity(asked.len() + others.len());
    for index in asked.into_iter().chain(others) {
        places[index] = Some(kept.len());
        kept.push(secrets[index].clone());
    }
    let place = |before: usize| places[before].unwrap_or(before);
    for before in objects.iter_mut().flat_map(Object::places_mut) {
        *before = place(*before);
    }
    let instead = instead.into_iter().map(|(of, other)| (place(of), place(other))).collect();
    (kept, objects, instead)
}

/// Removes from a request what the backend refused. Says whether there was anything to remove.
fn without(ask: &mut Ask<'_>, refused: &Unresolved) -> bool {
    match refused {
        Unresolved::Backend(_) | Unresolved::Name { .. } | Unresolved::Request { key: "prefix", .. } => false,
        Unresolved::Login { key, .. } | Unresolved::NoLogin { key, .. } => ask.login.forget(*key),
        Unresolved::Request { key: "args", .. } => !std::mem::take(&mut ask.args).is_empty(),
        Unresolved::Request { key: "lease", .. } => std::mem::replace(&mut ask.lease, LeaseFor::Pod) != LeaseFor::Pod,
        Unresolved::Request { key: "version", .. } | Unresolved::Version(_) => ask.version.take().is_some(),
        Unresolved::Request { .. } => std::mem::replace(&mut ask.method, Method::Get) != Method::Get,
    }
}

/// The place of a key's value, or of the object if the key is missing.
pub(super) fn position(reader: &mut Reader<'_>, key: &'static str) -> Position {
    let object = reader.at();
    reader.get(key).map_or(object, |node| node.at)
}
