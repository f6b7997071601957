//! What `keyferry vault import` is given, read whole before anything is written: every fault at once, and never a value in one.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use zeroize::Zeroizing;

use super::arguments::{Format, Import};
use super::{VaultCliError, dotenv};
use crate::backend::store::file::{Vault, VaultName, read_exchange};
use crate::cli::manifest::{field, resources, strings};
use crate::model::{Field, FieldName, SecretBytes, SecretName};
use crate::yaml::{Faults, Node, Reader, parse_all};

/// The longest file in bytes.
const MAX_FILE: u64 = 256 * 1024 * 1024;

/// Secrets that Kubernetes and Helm keep for themselves.
const PASSED_OVER: [&str; 3] = ["kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token", "helm.sh/release.v1"];

type Fields = BTreeMap<FieldName, Field>;

/// All secrets that are to be set.
#[derive(Default)]
pub struct Incoming {
    pub secrets: BTreeMap<SecretName, Fields>,
    /// What was passed over, and why.
    pub notes: Vec<String>,
    faults: Vec<String>,
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
        incoming
            .faults
            .push("there is no secret in what was given (it takes an export, dotenv files, or Secrets of Kubernetes)".to_owned());
    }
    if incoming.faults.is_empty() { Ok(incoming) } else { Err(VaultCliError::Faults(incoming.faults)) }
}

impl Incoming {
    fn read(&mut self, arguments: &Import, path: &Path, input: &mut dyn Read) {
        let shown = if path == Path::new("-") { "<stdin>".to_owned() } else { path.display().to_string() };
        if path.is_dir() {
            return match dotenv_files(path) {
                Ok(files) => files.iter().for_each(|(name, file)| self.read_dotenv(name, &file.display().to_string(), &open(file, input))),
                Err(cause) => self.faults.push(format!("{shown}: cannot be read: {cause}")),
            };
        }
        let text = open(path, input);
        match arguments.format.unwrap_or_else(|| guess(path, text.as_ref().map_or("", |text| text.as_str()))) {
            Format::Dotenv => self.read_dotenv(&path.file_stem().unwrap_or_default().to_string_lossy(), &shown, &text),
            Format::Json => self.read_json(&shown, &text),
            Format::Kubernetes => self.read_manifests(arguments, &shown, &text),
        }
    }

    fn read_dotenv(&mut self, name: &str, file: &str, text: &io::Result<Zeroizing<String>>) {
        let Some(text) = self.opened(file, text) else { return };
        match dotenv::read(text) {
            Ok(entries) => {
                let fields = entries.into_iter().map(|(name, value)| (name, value.to_vec()));
                self.add(name, file, fields.collect());
            }
            Err(faults) => self.faults.extend(faults.into_iter().map(|fault| format!("{file}: {fault}"))),
        }
    }

    fn read_json(&mut self, file: &str, text: &io::Result<Zeroizing<String>>) {
        let Some(text) = self.opened(file, text) else { return };
        match read_exchange(text.as_bytes()) {
            Ok(secrets) => {
                for secret in secrets {
                    match secret.fields {
                        Ok(fields) => self.insert(&secret.name, file, fields),
                        Err(fault) => self.faults.push(format!("{file}: {:?} {fault}", secret.name)),
                    }
                }
            }
            Err(fault) => self.faults.push(format!("{file} {fault}")),
        }
    }

    fn read_manifests(&mut self, arguments: &Import, file: &str, text: &io::Result<Zeroizing<String>>) {
        let Some(text) = self.opened(file, text) else { return };
        let documents = match parse_all(text) {
            Ok(documents) => documents,
            // What else the fault says may quote the text.
            Err(fault) => return self.faults.push(format!("{file}:{}:{}: is not valid YAML", fault.at.line, fault.at.column)),
        };
        for node in resources(&documents) {
            let text = |key| field(node, key).and_then(Node::text).unwrap_or_default();
            if text("kind") == "Secret" && text("apiVersion") == "v1" {
                self.read_secret(arguments, file, node);
            }
        }
    }

    fn read_secret(&mut self, arguments: &Import, file: &str, node: &Node) {
        let of = |key| field(node, "metadata").and_then(|metadata| field(metadata, key)).and_then(Node::text);
        let at = format!("{file}:{}", node.at.line);
        let Some(name) = of("name") else { return self.faults.push(format!("{at}: a Secret without metadata.name")) };
        let kind = field(node, "type").and_then(Node::text).unwrap_or_default();
        if PASSED_OVER.contains(&kind) {
            return self.notes.push(format!("{at}: the Secret {name} is passed over: its type is {kind}"));
        }
        let namespace = of("namespace").or(arguments.namespace.as_deref());
        if namespace.is_none() && arguments.name.contains("{namespace}") {
            return self.faults.push(format!("{at}: the Secret {name} names no namespace (give --namespace, or a --name without it)"));
        }
        let fields = match values(node) {
            Ok(fields) => fields,
            Err(faults) => return self.faults.extend(faults.into_iter().map(|fault| format!("{at}: the Secret {name}: {fault}"))),
        };
        if fields.is_empty() {
            return self.notes.push(format!("{at}: the Secret {name} is passed over: it has no data"));
        }
        let name = arguments.name.replace("{namespace}", namespace.unwrap_or_default()).replace("{name}", name);
        self.add(&name, &at, fields);
    }

    fn opened<'t>(&mut self, file: &str, text: &'t io::Result<Zeroizing<String>>) -> Option<&'t str> {
        text.as_ref().map(|text| text.as_str()).map_err(|cause| self.faults.push(format!("{file}: cannot be read: {cause}"))).ok()
    }

    fn add(&mut self, name: &str, from: &str, values: Vec<(String, Vec<u8>)>) {
        let mut fields = Fields::new();
        for (field, value) in values {
            match field.parse() {
                Ok(field) => drop(fields.insert(field, Field::of_bytes(SecretBytes::new(value)))),
                Err(cause) => self.faults.push(format!("{from}: {cause}")),
            }
        }
        self.insert(name, from, fields);
    }

    fn insert(&mut self, name: &str, from: &str, fields: Fields) {
        let name: SecretName = match name.parse::<VaultName>() {
            Ok(name) => name.into(),
            Err(cause) => return self.faults.push(format!("{from}: the name {name:?} {cause}")),
        };
        if let Err(fault) = Vault::check(&name, &fields) {
            return self.faults.push(format!("{from}: {name}: {fault}"));
        }
        match self.secrets.entry(name) {
            Entry::Vacant(place) => drop(place.insert(fields)),
            Entry::Occupied(there) => self.faults.push(format!("{from}: {} is given twice (remove one)", there.key())),
        }
    }
}

/// `stringData` wins over `data`, as the API server has it.
fn values(node: &Node) -> Result<Vec<(String, Vec<u8>)>, Vec<String>> {
    let (mut values, mut faults) = (BTreeMap::new(), Faults::default());
    let section = |key: &'static str, faults: &mut Faults| {
        let node = field(node, key)?;
        Reader::of(node, key, faults).map(|reader| (node.at, strings(&reader, faults)))
    };
    if let Some((at, data)) = section("data", &mut faults) {
        for (key, text) in data {
            let text = Zeroizing::new(text.split_ascii_whitespace().collect::<String>());
            match BASE64.decode(text.as_bytes()) {
                Ok(value) => drop(values.insert(key, value)),
                Err(_) => faults.add(at, format!("data.{key}"), "is not valid base64"),
            }
        }
    }
    if let Some((_, data)) = section("stringData", &mut faults) {
        values.extend(data.into_iter().map(|(key, text)| (key, text.into_bytes())));
    }
    if faults.is_empty() {
        return Ok(values.into_iter().collect());
    }
    Err(faults.into_sorted().iter().map(ToString::to_string).collect())
}

/// An export says so at its start.
fn guess(path: &Path, text: &str) -> Format {
    const EXPORT: &str = "\"keyferry-export-";
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("env") => Format::Dotenv,
        _ if text.find(EXPORT).is_some_and(|at| at < 64) => Format::Json,
        _ => Format::Kubernetes,
    }
}

/// Every `*.env` below the folder, by the name it stands for.
fn dotenv_files(root: &Path) -> io::Result<BTreeMap<String, PathBuf>> {
    let (mut files, mut folders) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.strip_prefix(root).ok().and_then(Path::to_str).and_then(|name| name.strip_suffix(".env")).map(str::to_owned);
            match name {
                // A link to a folder may lead back here.
                _ if path.is_dir() && !path.is_symlink() => folders.push(path),
                Some(name) if path.is_file() => drop(files.insert(name, path)),
                _ => {}
            }
        }
    }
    Ok(files)
}

/// The buffer has its full size from the start: one that grows would leave copies behind.
fn open(path: &Path, input: &mut dyn Read) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    if path == Path::new("-") {
        input.take(MAX_FILE).read_to_string(&mut text)?;
    } else {
        let file = File::open(path)?;
        text.reserve(usize::try_from(file.metadata()?.len().min(MAX_FILE)).unwrap_or_default() + 1);
        file.take(MAX_FILE).read_to_string(&mut text)?;
    }
    if text.len() as u64 == MAX_FILE { Err(io::Error::other(format!("has {MAX_FILE} bytes or more"))) } else { Ok(text) }
}
