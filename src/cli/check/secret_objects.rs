//! `secretObjects`: the Secrets that the driver makes from delivered files. A mount does not fail because of them. If the driver cannot make one, it
//! writes an event, and a Pod that waits for the Secret waits for ever.
//!
//! The rules of the driver are in its `pkg/util/secretutil` and its CRD (v1.6.0). The rules of the API server are in `ValidateSecret` in
//! `pkg/apis/core/validation` (Kubernetes 1.36).

use std::fmt;

use super::finding::{Severity, Warned};
use crate::cli::manifest::{field, string};
use crate::model::{is_subdomain, quoted};
use crate::nearest::nearest;
use crate::yaml::{Node, Position, Value, unknown_key};

const SECRET_KEYS: [&str; 5] = ["secretName", "type", "data", "labels", "annotations"];
const DATA_KEYS: [&str; 2] = ["objectName", "key"];

/// The start of Kubernetes' types.
const KUBERNETES: &str = "kubernetes.io";
const TLS: &str = "kubernetes.io/tls";
const SERVICE_ACCOUNT: &str = "kubernetes.io/service-account-token";

/// The longest name of a Secret, and of a key in it, in bytes.
const MAX_NAME: usize = 253;

/// Types that Kubernetes knows, with the keys that they need: all of them, or with `false` at least one.
const TYPES: [(&str, bool, &[&str]); 8] = [
    ("Opaque", true, &[]),
    ("bootstrap.kubernetes.io/token", true, &[]),
    ("kubernetes.io/basic-auth", false, &["username", "password"]),
    ("kubernetes.io/dockercfg", true, &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", true, &[".dockerconfigjson"]),
    (SERVICE_ACCOUNT, true, &[]),
    ("kubernetes.io/ssh-auth", true, &["ssh-privatekey"]),
    (TLS, true, &["tls.crt", "tls.key"]),
];

/// A finding about one key.
#[derive(Debug)]
pub struct Doubt {
    pub severity: Severity,
    /// The id of a warning.
    pub id: Option<Warned>,
    pub at: Position,
    pub key: &'static str,
    /// With the place in the list before it.
    pub message: String,
}

#[derive(Default)]
struct Doubts {
    found: Vec<Doubt>,
    /// The names of Secrets so far.
    names: Vec<String>,
}

/// One Secret, or one entry of its data.
struct Part<'n> {
    node: &'n Node,
    /// Its place in the list, for messages.
    place: String,
}

/// Judges the list.
pub fn judge(node: &Node) -> Vec<Doubt> {
    let mut doubts = Doubts::default();
    match &node.value {
        Value::Null => {}
        Value::Sequence(secrets) => {
            for (number, node) in (1..).zip(secrets) {
                doubts.secret(&Part { node, place: format!("secretObjects {number}") });
            }
        }
        Value::Mapping(_) | Value::Scalar { .. } => {
            let problem = format!("is {}, but must be a list (start each Secret with `- `)", node.kind());
            doubts.found.push(Doubt::error(node.at, "secretObjects", format!("secretObjects: {problem}")));
        }
    }
    doubts.found
}

impl Doubts {
    fn secret(&mut self, secret: &Part<'_>) {
        if !self.has_keys(secret, &SECRET_KEYS) {
            return;
        }
        if let Some((name, at)) = self.text(secret, "secretName", "the name of the Secret that the driver makes") {
            self.name(secret, name, at);
        }
        let kind = self.text(secret, "type", "such as Opaque or kubernetes.io/tls: the driver makes no Secret without a type");
        let of_tls = kind.is_some_and(|(kind, _)| kind == TLS);
        let keys = self.data(secret, of_tls);
        for what in ["labels", "annotations"] {
            self.texts(secret, what);
        }
        if let Some((kind, at)) = kind {
            self.kind(secret, kind, at, keys.as_deref());
        }
    }

    fn name(&mut self, secret: &Part<'_>, name: &str, at: Position) {
        if !is_subdomain(name) {
            let near = name.to_ascii_lowercase().replace(['_', ' ', '/'], "-");
            let remedy = if is_subdomain(&near) { format!("did you mean {}?", quoted(&near)) } else { "choose another".to_owned() };
            let rule = "1 to 253 of a-z, 0-9, `-` and `.`, a letter or digit beside each `.` and at both ends";
            self.error(secret, at, "secretName", format!("{} is not a name of a Secret: {rule} ({remedy})", quoted(name)));
        }
        if let Some(before) = self.names.iter().position(|known| known == name) {
            let problem = format!(
                "{} is also the Secret of secretObjects {}, and each overwrites the other (merge them, or choose another name)",
                quoted(name),
                before + 1
            );
            self.error(secret, at, "secretName", problem);
        }
        self.names.push(name.to_owned());
    }

    /// The keys of the Secret; `None`: not all of them are known.
    fn data<'n>(&mut self, secret: &Part<'n>, of_tls: bool) -> Option<Vec<&'n str>> {
        const REMEDY: &str = "say which file becomes which key, such as - { objectName: db/password, key: password }";
        let entries = match secret.get("data").map(|node| (node, &node.value)) {
            Some((_, Value::Sequence(entries))) if !entries.is_empty() => entries,
            None | Some((_, Value::Sequence(_))) => {
                self.error(secret, secret.at("data"), "data", format!("is missing ({REMEDY})"));
                return None;
            }
            Some((node, Value::Mapping(_) | Value::Null | Value::Scalar { .. })) => {
                self.error(secret, node.at, "data", format!("is {}, but must be a list ({REMEDY})", node.kind()));
                return None;
            }
        };
        let keys = (1..).zip(entries).map(|(number, node)| {
            let entry = Part { node, place: format!("{}: data {number}", secret.place) };
            let (key, at) = self.entry(&entry)?;
            self.key(&entry, key, at, of_tls);
            Some((entry, key, at))
        });
        let keys: Vec<_> = keys.collect();
        for (place, found) in keys.iter().enumerate() {
            let Some((entry, key, at)) = found else { continue };
            if keys[..place].iter().flatten().any(|(_, before, _)| before == key) {
                let problem = format!("{} is there twice, and the driver takes the last one (remove one)", quoted(key));
                self.warn(Warned::DuplicateKey, entry, *at, "key", problem);
            }
        }
        keys.into_iter().map(|found| found.map(|(_, key, _)| key)).collect()
    }

    fn entry<'n>(&mut self, entry: &Part<'n>) -> Option<(&'n str, Position)> {
        if !self.has_keys(entry, &DATA_KEYS) {
            return None;
        }
        self.text(entry, "objectName", "the path of a file that the class delivers");
        self.text(entry, "key", "the key in the Secret")
    }

    fn key(&mut self, entry: &Part<'_>, key: &str, at: Position, of_tls: bool) {
        let is_fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if key.len() > MAX_NAME || !key.chars().all(is_fit) || key == "." || key.starts_with("..") {
            let problem = format!(
                "{} is not a key of a Secret: 1 to 253 of a-z, A-Z, 0-9, `-`, `_` and `.`, not `.` and not with `..` at its start",
                quoted(key)
            );
            self.error(entry, at, "key", format!("{problem} (choose another)"));
        } else if of_tls && !["tls.crt", "tls.key"].contains(&key) {
            let problem = format!("{key:?} cannot be in a Secret of the type {TLS}: the driver accepts only tls.crt and tls.key");
            self.error(entry, at, "key", format!("{problem} (put it into another Secret, of the type Opaque)"));
        }
    }

    fn kind(&mut self, secret: &Part<'_>, kind: &str, at: Position, keys: Option<&[&str]>) {
        let Some((_, all, wanted)) = TYPES.iter().find(|(known, ..)| *known == kind) else {
            if let Some(near) = near_type(kind) {
                let problem = format!("Kubernetes does not know {}, and checks no keys for it (did you mean {near}?)", quoted(kind));
                self.warn(Warned::NearType, secret, at, "type", problem);
            }
            return;
        };
        if kind == SERVICE_ACCOUNT && !names_account(secret) {
            let problem = format!("{kind} needs the annotation kubernetes.io/service-account.name (add it under `annotations`)");
            self.error(secret, at, "type", problem);
        }
        let Some(keys) = keys else { return };
        let missing: Vec<&str> = wanted.iter().copied().filter(|wanted| !keys.contains(wanted)).collect();
        let problem = match (*all, missing.as_slice()) {
            (true, []) => return,
            (true, missing) => {
                format!("{kind} needs {} among its keys (add {} under `data`)", wanted.join(" and "), missing.join(" and "))
            }
            (false, missing) if missing.len() < wanted.len() => return,
            (false, _) => format!("{kind} needs {} among its keys (add one of them under `data`)", wanted.join(" or ")),
        };
        self.error(secret, at, "type", problem);
    }

    /// A mapping of texts to texts.
    fn texts(&mut self, secret: &Part<'_>, what: &'static str) {
        let Some(node) = secret.get(what) else { return };
        let Value::Mapping(entries) = &node.value else {
            return self.error(
                secret,
                node.at,
                what,
                format!("is {}, but must be a mapping (write a line `key: value` for each)", node.kind()),
            );
        };
        for (key, value) in entries {
            if !is_qualified(&key.text, what == "annotations") {
                let rule = "up to 63 of letters, digits, `-`, `_` and `.`, perhaps with a domain and a `/` before it";
                self.error(secret, key.at, what, format!("{} is not a valid key: {rule} (choose another)", quoted(&key.text)));
            }
            match string(value) {
                Err(problem) => self.error(secret, value.at, what, format!("{}: {problem}", key.text)),
                Ok(text) if what == "labels" && !text.is_empty() && !is_word(text) => {
                    let rule = "up to 63 of letters, digits, `-`, `_` and `.`, a letter or digit at both ends";
                    self.error(
                        secret,
                        value.at,
                        what,
                        format!("{}: {} is not a value of a label: {rule} (choose another)", key.text, quoted(text)),
                    );
                }
                Ok(_) => {}
            }
        }
    }

    /// Whether it is a mapping. Unknown keys are faults.
    fn has_keys(&mut self, part: &Part<'_>, known: &[&'static str]) -> bool {
        let Value::Mapping(entries) = &part.node.value else {
            let problem = format!("is {}, but must be a mapping (write a line `key: value` for each key)", part.node.kind());
            self.found.push(Doubt::error(part.node.at, "secretObjects", format!("{}: {problem}", part.place)));
            return false;
        };
        for (key, _) in entries.iter().filter(|(key, _)| !known.contains(&key.text.as_str())) {
            let problem = format!("{}: {}: {}", part.place, key.text, unknown_key(&key.text, known));
            self.found.push(Doubt::error(key.at, "secretObjects", problem));
        }
        true
    }

    /// A text that must be there. The driver removes blanks at both ends.
    fn text<'n>(&mut self, part: &Part<'n>, key: &'static str, what: &str) -> Option<(&'n str, Position)> {
        let node = part.get(key);
        match node.map(|node| (string(node), node.at)) {
            Some((Ok(text), at)) if !text.trim().is_empty() => return Some((text.trim(), at)),
            Some((Err(problem), at)) => self.error(part, at, key, problem),
            Some((Ok(_), at)) => self.error(part, at, key, format!("is empty ({what})")),
            None => self.error(part, part.node.at, key, format!("is missing ({what})")),
        }
        None
    }

    fn error(&mut self, part: &Part<'_>, at: Position, key: &'static str, problem: impl fmt::Display) {
        self.found.push(Doubt::error(at, key, format!("{}: {key}: {problem}", part.place)));
    }

    fn warn(&mut self, id: Warned, part: &Part<'_>, at: Position, key: &'static str, problem: impl fmt::Display) {
        let message = format!("{}: {key}: {problem}", part.place);
        self.found.push(Doubt { severity: Severity::Warning, id: Some(id), at, key, message });
    }
}

impl Doubt {
    fn error(at: Position, key: &'static str, message: String) -> Self {
        Self { severity: Severity::Error, id: None, at, key, message }
    }
}

impl<'n> Part<'n> {
    fn get(&self, key: &str) -> Option<&'n Node> {
        field(self.node, key).filter(|node| !node.is_null())
    }

    fn at(&self, key: &str) -> Position {
        self.get(key).unwrap_or(self.node).at
    }
}

fn names_account(secret: &Part<'_>) -> bool {
    let annotation = secret.get("annotations").and_then(|node| field(node, "kubernetes.io/service-account.name"));
    annotation.and_then(Node::text).is_some_and(|name| !name.is_empty())
}

/// The known type that is probably meant, also without the domain before the `/`.
fn near_type(kind: &str) -> Option<&'static str> {
    let known = || TYPES.iter().map(|(known, ..)| *known);
    let lower = kind.to_ascii_lowercase();
    let (domain, short) = lower.rsplit_once('/').unwrap_or(("", &lower));
    let short_of = |known: &'static str| known.rsplit('/').next().unwrap_or(known);
    // A type with another domain is not a type of Kubernetes.
    if !domain.is_empty() && domain != "k8s.io" && domain != KUBERNETES && nearest(domain, [KUBERNETES]).is_none() {
        return None;
    }
    // The names that `kubectl create secret` uses.
    let called = match short {
        "generic" => Some("Opaque"),
        "docker-registry" => Some("kubernetes.io/dockerconfigjson"),
        _ => None,
    };
    let same = || known().find(|known| short_of(known).eq_ignore_ascii_case(short));
    let begun = || known().find(|known| short.len() >= 3 && short_of(known).starts_with(short));
    let near = || nearest(short, known().map(short_of)).and_then(|near| known().find(|known| short_of(known) == near));
    called.or_else(same).or_else(begun).or_else(near)
}

fn is_qualified(key: &str, any_case: bool) -> bool {
    let (domain, name) = key.split_once('/').map_or((None, key), |(domain, name)| (Some(domain), name));
    let fits = |domain: &str| is_subdomain(&if any_case { domain.to_ascii_lowercase() } else { domain.to_owned() });
    domain.is_none_or(fits) && is_word(name)
}

fn is_word(text: &str) -> bool {
    let is_end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    (1..=63).contains(&text.len())
        && is_end(text.chars().next())
        && is_end(text.chars().next_back())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}
