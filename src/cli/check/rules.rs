//! The least policy under which classes can be mounted: exact names, each once, always in the same order.

use std::collections::{BTreeMap, BTreeSet};

use super::catalogue::UNNAMED;
use crate::model::{SecretRef, Verb};

/// The rules by whom they are for.
#[derive(Debug, Default)]
pub struct Rules(BTreeMap<Whom, Patterns>);

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
    /// Why it allows more than the one secret.
    wider: Option<&'static str>,
}

impl Rules {
    pub fn add(&mut self, namespace: &str, account: Option<&str>, secret: &SecretRef) {
        let patterns = self.0.entry((namespace.to_owned(), account.map(str::to_owned))).or_default();
        match secret.verb() {
            Verb::Read => patterns.read.insert(Pattern::of(secret)),
            Verb::Update => patterns.update.insert(Pattern::of(secret)),
        };
    }

    /// The list under `policy`, as it can stand in a configuration.
    pub fn to_yaml(&self) -> String {
        if self.0.is_empty() {
            return "policy: []\n".to_owned();
        }
        let mut yaml = "policy:\n".to_owned();
        for ((namespace, account), patterns) in &self.0 {
            let account = account.as_ref().map(|account| format!(", serviceAccount: {}", quoted(account))).unwrap_or_default();
            yaml.push_str(&format!("  - pods: {{ namespace: {}{account} }}\n", quoted(namespace)));
            for (verb, patterns) in [("read", &patterns.read), ("update", &patterns.update)] {
                if !patterns.is_empty() {
                    yaml.push_str(&format!("    {verb}:\n"));
                    yaml.extend(patterns.iter().map(Pattern::line));
                }
            }
        }
        yaml
    }
}

impl Pattern {
    fn of(secret: &SecretRef) -> Self {
        // A pattern has no escapes: what it would read as something else becomes `*`.
        let name = secret.name.as_str();
        let mut text = name.replace("${", "*{");
        while text.contains("**") {
            text = text.replace("**", "*");
        }
        let (backend, unnamed) = match secret.backend.as_str() {
            UNNAMED => ("*", true),
            backend => (backend, false),
        };
        let wider = match (unnamed, text.contains('*')) {
            (true, _) => Some("the class names no backend: give --config, or write its name for the `*`"),
            (false, true) => Some("allows more than this one name: a pattern cannot say `*` or `${` itself"),
            (false, false) => None,
        };
        Self { text: format!("{backend}/{text}"), wider }
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
