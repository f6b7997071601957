//! The input of `keyferry vault import`. It is read completely before anything is written. All faults are reported together, without values.

mod manifests;
mod sources;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, Read};
use std::path::Path;

use self::manifests::{Object, objects, values};
pub use self::sources::secret_name;
use super::arguments::{Format, Import};
use super::marks::{self, Mark};
use super::{VaultCliError, count, usage};
use crate::backend::store::file::{InvalidExchange, SecretType, Vault, VaultName, read_exchange};
use crate::dotenv::{self, Difference};
use crate::model::{Field, FieldName, SecretBytes, SecretName, clean};
use crate::text;
use crate::yaml::{Fault, parse_all};

type Fields = BTreeMap<FieldName, Field>;

/// All secrets that are to be set.
#[derive(Debug, Default)]
pub struct Incoming {
    pub secrets: BTreeMap<SecretName, Given>,
    /// What was left out, and what may be a mistake.
    pub notes: Vec<String>,
    faults: Vec<String>,
    /// Whether a file cannot be read.
    unreadable: bool,
    /// Whether `--as-is`, `--name` and `--namespace` had an effect.
    used: Used,
}

/// A secret to set.
#[derive(Debug)]
pub struct Given {
    pub secret_type: Option<SecretType>,
    pub fields: Fields,
}

#[derive(Debug, Default)]
struct Used {
    as_is: bool,
    name: bool,
    namespace: bool,
}

/// Reads every file.
///
/// # Errors
/// Everything that is wrong with them.
pub fn read_all(arguments: &Import, input: &mut dyn Read) -> Result<Incoming, VaultCliError> {
    let mut incoming = Incoming::default();
    for path in &arguments.files {
        incoming.read(arguments, path, input);
    }
    if incoming.secrets.is_empty() && incoming.faults.is_empty() {
        let mut nothing = vec![
            "there is no secret in the input (give an export, Kubernetes Secrets or dotenv; dotenv from standard input, \
                      or from a file with another name, needs --format dotenv)"
                .to_owned(),
        ];
        nothing.extend(incoming.notes.iter().map(|note| format!("note: {note}")));
        return Err(VaultCliError::Faults(nothing));
    }
    if incoming.unreadable {
        return Err(VaultCliError::Unreadable(incoming.faults));
    }
    if !incoming.faults.is_empty() {
        return Err(VaultCliError::Faults(incoming.faults));
    }
    incoming.check_options(arguments)?;
    Ok(incoming)
}

impl Incoming {
    fn read(&mut self, arguments: &Import, path: &Path, input: &mut dyn Read) {
        if !path.is_dir() {
            let shown = if path == Path::new("-") { "<stdin>".to_owned() } else { path.display().to_string() };
            return self.read_file(arguments, None, path, &shown, input);
        }
        match sources::below(path, arguments.format) {
            Ok(found) => {
                found.files.iter().for_each(|file| self.read_file(arguments, Some(path), file, &file.display().to_string(), input));
                if found.others > 0 {
                    let (others, folder) = (count(found.others, "file"), path.display());
                    self.notes.push(format!(
                        "{folder}: not read: {others} (name them, or give --format; without it a folder's dotenv files are read)"
                    ));
                }
            }
            Err(cause) => self.cannot_read(&path.display().to_string(), &cause),
        }
    }

    fn read_file(&mut self, arguments: &Import, root: Option<&Path>, path: &Path, shown: &str, input: &mut dyn Read) {
        let bytes = match sources::open(path, input) {
            Ok(bytes) => bytes,
            Err(cause) => return self.cannot_read(shown, &cause),
        };
        if let Some(mark) = marks::of_file(&bytes) {
            return self.not_values(shown, mark);
        }
        // kubectl reads UTF-16, so a manifest may be UTF-16. In other formats it is a fault, see below.
        let manifest = text::read_manifest(&bytes);
        let format = arguments.format.unwrap_or_else(|| sources::guess(path, manifest.as_ref().map_or("", |text| text.as_str())));
        let text = text::read(&bytes);
        match (format, manifest, text) {
            (Format::Kubernetes, Ok(text), _) => self.read_manifests(arguments, shown, &text),
            (Format::Dotenv, _, Ok(text)) => self.read_dotenv(arguments, sources::secret_name(root, path).as_deref(), shown, text),
            (Format::Json, _, Ok(text)) => self.read_json(arguments, shown, text),
            (Format::Kubernetes, Err(fault), _) | (Format::Dotenv | Format::Json, _, Err(fault)) => {
                self.faults.push(format!("{shown}: {fault}"));
            }
        }
    }

    fn cannot_read(&mut self, shown: &str, cause: &io::Error) {
        self.unreadable = true;
        self.faults.push(format!("{shown}: cannot be read: {cause}"));
    }

    fn read_dotenv(&mut self, arguments: &Import, name: Option<&str>, file: &str, text: &str) {
        let entries = match dotenv::read(text) {
            Ok(entries) => entries,
            Err(faults) => return self.faults.extend(faults.into_iter().map(|fault| format!("{file}: {fault}"))),
        };
        if let Some(mark) = marks::of_names(entries.iter().map(|entry| entry.name)) {
            return self.not_values(file, mark);
        }
        let Some(name) = self.named(arguments, "{name}", file, None, name) else { return };
        self.note_differences(file, &entries);
        let mut fields = Vec::new();
        for entry in entries {
            let at = format!("{file}: line {}: {}", entry.line, entry.name);
            // In a reference such as vault:path#key, the part after `#` belongs to it.
            let mark = marks::of_value(entry.value.as_bytes()).or_else(|| marks::of_value(entry.whole.as_bytes()));
            self.check_value(arguments, &at, mark);
            fields.push((entry.name.to_owned(), entry.value.as_bytes().to_vec()));
        }
        self.add(&name, file, None, fields);
    }

    /// One note for each way in which kubectl would read values of the file differently.
    fn note_differences(&mut self, file: &str, entries: &[dotenv::Entry<'_>]) {
        let mut places: BTreeMap<Difference, Vec<String>> = BTreeMap::new();
        for entry in entries {
            if let Some(difference) = entry.kubectl {
                places.entry(difference).or_default().push(format!("line {} ({})", entry.line, entry.name));
            }
        }
        for (difference, places) in places {
            let what = match difference {
                Difference::Blanks => "the blanks around the value",
                Difference::Comment => "`#` and what follows (if that belongs to the value, put the value in quotes)",
                Difference::Quotes => "the quotes",
            };
            let places = places.join(", ");
            self.notes.push(format!("{file}: {places}: read as node's dotenv does; `kubectl create secret --from-env-file` keeps {what}"));
        }
    }

    fn read_json(&mut self, arguments: &Import, file: &str, text: &str) {
        match read_exchange(text.as_bytes()) {
            Ok(secrets) => {
                for secret in secrets {
                    match secret.fields {
                        Ok(fields) => {
                            for (field, value) in &fields {
                                let at = format!("{file}: {}: {field}", clean(&secret.name));
                                self.check_value(arguments, &at, marks::of_value(value.bytes.expose()));
                            }
                            self.insert(&secret.name, file, Given { secret_type: secret.secret_type, fields });
                        }
                        Err(fault) => self.faults.push(format!("{file}: {:?} {fault}", secret.name)),
                    }
                }
            }
            Err(fault) => self.no_exchange(file, text, &fault),
        }
    }

    /// SOPS keeps the form of a JSON text, and adds its own member beside the encrypted values.
    fn no_exchange(&mut self, file: &str, text: &str, fault: &InvalidExchange) {
        match parse_all(text).ok().and_then(|documents| documents.iter().find_map(marks::of_document)) {
            Some(mark) => self.not_values(file, mark),
            None => self.faults.push(format!("{file} {fault}")),
        }
    }

    fn read_manifests(&mut self, arguments: &Import, file: &str, text: &str) {
        let documents = match parse_all(text) {
            Ok(documents) => documents,
            Err(fault) => return self.no_manifest(file, text, &fault),
        };
        for document in &documents {
            if let Some(mark) = marks::of_document(document) {
                self.not_values(&format!("{file}:{}", document.at.line), mark);
            }
        }
        let mut others = Vec::new();
        for object in objects(documents.iter().filter(|document| marks::of_document(document).is_none())) {
            let at = format!("{file}:{}", object.node.at.line);
            if let Some(mark) = marks::of_document(object.node) {
                // An item of a list.
                self.not_values(&at, mark);
            } else if object.is_secret() {
                self.read_secret(arguments, &at, object);
            } else if marks::makes_a_secret(object.api_version, object.kind) {
                self.maker(&at, object);
            } else {
                others.push(object);
            }
        }
        if !others.is_empty() {
            self.notes.push(format!("{file}: not imported: {} (only Secrets of apiVersion v1 are)", kinds(&others)));
        }
    }

    /// The message has only the place and the key, because other words of a YAML fault may quote a secret.
    fn no_manifest(&mut self, file: &str, text: &str, fault: &Fault) {
        let at = format!("{file}:{}:{}", fault.at.line, fault.at.column);
        let problem = match marks::of_broken(text) {
            _ if !fault.key.is_empty() => format!("the key {:?} is {}", clean(&fault.key), fault.problem),
            Some(mark) => format!("is not valid YAML, perhaps because it is {} ({})", mark.what, mark.remedy),
            None => "is not valid YAML (`kubectl apply --dry-run=client -f FILE` says more, and may show values)".to_owned(),
        };
        self.faults.push(format!("{at}: {problem}"));
    }

    fn read_secret(&mut self, arguments: &Import, at: &str, object: Object<'_>) {
        let Some(name) = object.metadata("name") else { return self.faults.push(format!("{at}: the Secret has no metadata.name")) };
        if object.is_their_own() {
            let secret_type = object.secret_type().unwrap_or_default();
            return self.notes.push(format!("{at}: the Secret {name} is not imported: its type is {secret_type}"));
        }
        let shown = format!("{at}: the Secret {}", clean(name));
        let before = self.faults.len();
        self.faults.extend(object.faults().into_iter().map(|fault| format!("{shown}: {fault}")));
        if self.faults.len() > before {
            return;
        }
        let marked = |text: &str| marks::of_value(text.as_bytes()).filter(|mark| !mark.legal).map(problem);
        let values = match values(object.node, marked) {
            Ok(values) => values,
            Err(faults) => return self.faults.extend(faults.into_iter().map(|fault| format!("{shown}: {fault}"))),
        };
        if values.is_empty() {
            return self.notes.push(format!("{shown} is not imported: it has no data"));
        }
        let secret_type = match object.secret_type().map(str::parse).transpose() {
            Ok(secret_type) => secret_type,
            Err(fault) => return self.faults.push(format!("{shown}: {fault}")),
        };
        for (key, value) in &values {
            self.check_value(arguments, &format!("{shown}: {key}"), marks::of_value(value));
        }
        if let Some(name) = self.named(arguments, "{namespace}/{name}", &shown, object.metadata("namespace"), Some(name)) {
            self.add(&name, at, secret_type, values);
        }
    }

    /// An object from which a controller makes a Secret.
    fn maker(&mut self, at: &str, object: Object<'_>) {
        let (kind, name) = (object.kind, object.metadata("name").unwrap_or("NAME"));
        let namespace = object.metadata("namespace").map(|namespace| format!(" -n {namespace}")).unwrap_or_default();
        let remedy = format!("import the Secret that the cluster makes from it: kubectl get secret{namespace} {name} -o yaml");
        self.faults.push(format!("{at}: the {kind} {name} has no values ({remedy})"));
    }

    /// The secret's name in the vault, from `--name` or from the format's usual template.
    fn named(&mut self, arguments: &Import, usual: &str, at: &str, own_namespace: Option<&str>, own_name: Option<&str>) -> Option<String> {
        self.used.name |= arguments.name.is_some();
        let mut name = arguments.name.as_deref().unwrap_or(usual).to_owned();
        if name.contains("{namespace}") {
            self.used.namespace |= own_namespace.is_none();
            let Some(namespace) = own_namespace.or(arguments.namespace.as_deref()) else {
                self.faults.push(format!("{at}: has no namespace (give --namespace, or a --name without {{namespace}})"));
                return None;
            };
            name = name.replace("{namespace}", namespace);
        }
        if name.contains("{name}") {
            let Some(own_name) = own_name else {
                self.faults.push(format!("{at}: has no name for the secret (give --name)"));
                return None;
            };
            name = name.replace("{name}", own_name);
        }
        Some(name)
    }

    fn not_values(&mut self, at: &str, mark: Mark) {
        self.faults.push(format!("{at}: is {} ({})", mark.what, mark.remedy));
    }

    fn check_value(&mut self, arguments: &Import, at: &str, mark: Option<Mark>) {
        self.used.as_is |= mark.is_some();
        match mark {
            Some(mark) if mark.legal => self.notes.push(format!("{at}: is {}, and is taken as it is ({})", mark.what, mark.remedy)),
            Some(mark) if !arguments.as_is => self.faults.push(format!("{at}: {}", problem(mark))),
            Some(_) | None => {}
        }
    }

    fn add(&mut self, name: &str, from: &str, secret_type: Option<SecretType>, values: Vec<(String, Vec<u8>)>) {
        let mut fields = Fields::new();
        for (field, value) in values {
            match field.parse() {
                Ok(field) => drop(fields.insert(field, Field::of_bytes(SecretBytes::new(value)))),
                Err(cause) => self.faults.push(format!("{from}: {cause}")),
            }
        }
        self.insert(name, from, Given { secret_type, fields });
    }

    fn insert(&mut self, name: &str, from: &str, given: Given) {
        let name: SecretName = match name.parse::<VaultName>() {
            Ok(name) => name.into(),
            Err(cause) => return self.faults.push(format!("{from}: the name {name:?} {cause}")),
        };
        if let Err(fault) = Vault::check(&name, &given.fields) {
            return self.faults.push(format!("{from}: {name}: {fault}"));
        }
        match self.secrets.entry(name) {
            Entry::Vacant(place) => drop(place.insert(given)),
            Entry::Occupied(there) => self.faults.push(format!("{from}: {} is given twice (remove one)", there.key())),
        }
    }

    /// If an option has no effect, it did not do what the user expected: that is a fault.
    fn check_options(&self, arguments: &Import) -> Result<(), VaultCliError> {
        if arguments.as_is && !self.used.as_is {
            return Err(usage("--as-is has no effect: no value is ciphertext or a reference (remove it)"));
        }
        if arguments.name.is_some() && !self.used.name {
            return Err(usage("--name has no effect: an export has its secrets' names (remove it)"));
        }
        if arguments.namespace.is_some() && !self.used.namespace {
            return Err(usage("--namespace has no effect: no Secret without a namespace was read (remove it)"));
        }
        Ok(())
    }
}

fn problem(mark: Mark) -> String {
    format!("is {}, not a value ({}; --as-is takes the text itself)", mark.what, mark.remedy)
}

/// Such as `2 ConfigMap, 1 document without a kind`.
fn kinds(objects: &[Object<'_>]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for object in objects {
        let kind = match (object.kind, object.api_version) {
            ("", _) => "document without a kind".to_owned(),
            ("Secret", api_version) => format!("Secret of apiVersion {api_version:?}"),
            (kind, _) => clean(kind),
        };
        *counts.entry(kind).or_default() += 1;
    }
    counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ")
}
