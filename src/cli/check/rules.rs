//! The least policy under which classes can be mounted: exact names, each once, always in the same order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::catalogue::UNNAMED;
use crate::model::{BackendName, LoginKey, SecretRef, Verb};
use crate::policy::literal;

/// The rules by namespace and ServiceAccount, and the logins that backends have to grant.
#[derive(Debug, Default)]
pub struct Rules {
    patterns: BTreeMap<Whom, Patterns>,
    /// By backend: the login that classes ask for and the backend does not grant.
    logins: BTreeMap<String, BTreeMap<LoginKey, BTreeSet<String>>>,
}

/// A namespace, and the one ServiceAccount of it that is meant; `None`: all.
type Whom = (String, Option<String>);

#[derive(Debug, Default)]
struct Patterns {
    read: BTreeSet<Pattern>,
    update: BTreeSet<Pattern>,
}

#[derive(Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Pattern {
    text: String,
    /// Why it allows more than one secret.
    wider: Option<&'static str>,
}

impl Rules {
    pub fn add(&mut self, namespace: &str, account: Option<&str>, secret: &SecretRef) {
        let patterns = self.patterns.entry((namespace.to_owned(), account.map(str::to_owned))).or_default();
        match secret.verb() {
            Verb::Read => patterns.read.insert(Pattern::of(secret)),
            Verb::Update => patterns.update.insert(Pattern::of(secret)),
        };
    }

    /// Adds a part of a login that a backend has to grant.
    pub fn add_login(&mut self, backend: &BackendName, key: LoginKey, value: &str) {
        let backend = shown(backend).to_owned();
        self.logins.entry(backend).or_default().entry(key).or_default().insert(value.to_owned());
    }

    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// The rules alone, to be pasted.
    pub fn list(&self) -> String {
        let yaml = self.to_yaml();
        yaml.strip_prefix("policy:\n").map(str::to_owned).unwrap_or(yaml)
    }

    /// The list under `policy`, as a configuration can have it. Comments below it have what belongs elsewhere.
    pub fn to_yaml(&self) -> String {
        let mut yaml = if self.patterns.is_empty() { "policy: []\n" } else { "policy:\n" }.to_owned();
        for ((namespace, account), patterns) in &self.patterns {
            let account = account.as_ref().map(|account| format!(", serviceAccount: {}", quoted(account))).unwrap_or_default();
            yaml.push_str(&format!("  - pods: {{ namespace: {}{account} }}\n", quoted(namespace)));
            for (verb, patterns) in [("read", &patterns.read), ("update", &patterns.update)] {
                if !patterns.is_empty() {
                    yaml.push_str(&format!("    {verb}:\n"));
                    yaml.extend(patterns.iter().map(Pattern::line));
                }
            }
        }
        for (backend, logins) in &self.logins {
            yaml.push_str(&format!(
                "# The classes ask for a login that backends.{backend} does not have. Its classMay has to grant it (a list there replaces the default):\n"
            ));
            yaml.extend(logins.iter().map(|(key, values)| grant(*key, values)));
        }
        yaml
    }
}

/// As a key of `classMay`, in a comment.
fn grant(key: LoginKey, values: &BTreeSet<String>) -> String {
    match key {
        LoginKey::Tls => "#   tls: true\n".to_owned(),
        LoginKey::TlsDir => format!("#   tlsDir: {} (classes name files below it)\n", quoted(&folder_of(values))),
        LoginKey::Address | LoginKey::Audience | LoginKey::Mount | LoginKey::Namespace | LoginKey::Role => {
            let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
            format!("#   {key}: [{}]\n", values.join(", "))
        }
    }
}

/// The deepest folder that all of these files are below.
fn folder_of(files: &BTreeSet<String>) -> String {
    let mut folders = files.iter().filter_map(|file| Path::new(file).parent());
    let first = folders.next().unwrap_or(Path::new("/"));
    let common = folders.fold(first, |common, folder| common.ancestors().find(|above| folder.starts_with(above)).unwrap_or(common));
    // Relative paths do not say where the folder is.
    if common.is_absolute() { common.display().to_string() } else { "/etc/keyferry/tls".to_owned() }
}

/// The backend in a pattern: `*` if the class names none.
fn shown(backend: &BackendName) -> &str {
    if backend.as_str() == UNNAMED { "*" } else { backend.as_str() }
}

impl Pattern {
    fn of(secret: &SecretRef) -> Self {
        // A pattern has no escapes.
        let below = if secret.name.is_folder() { "**" } else { "" };
        let text = literal(secret.name.as_str());
        let backend = shown(&secret.backend);
        let wider = match (backend == "*", text.contains('*')) {
            (true, _) if text.starts_with("arn:") => {
                Some("an ARN never matches in a rule: give --config, which also turns it into the name that policy sees")
            }
            (true, _) => Some("the class names no backend: give --config, or write its name instead of the `*`"),
            (false, true) => Some("allows more than this one name: a pattern cannot match exactly this name"),
            (false, false) => None,
        };
        Self { text: format!("{backend}/{text}{below}"), wider }
    }

    fn line(&self) -> String {
        let comment = self.wider.map(|why| format!(" # {why}")).unwrap_or_default();
        format!("      - {}{comment}\n", quoted(&self.text))
    }
}

/// As in JSON, which is YAML.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
