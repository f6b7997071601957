//! What a resource is meant to be. Kubernetes ignores a resource that is almost a SecretProviderClass. `check` must not ignore it, because it will
//! not work.

use crate::cli::manifest::{GROUP, KIND, NO_PROVIDER, field, is_provider};
use crate::dialect::{LATER, NATIVE, PEERS};
use crate::model::quoted;
use crate::nearest::nearest;
use crate::yaml::{Node, Position};

/// The versions of the API that the driver's CRD serves (v1.6.0).
const VERSIONS: [&str; 2] = ["v1", "v1alpha1"];

/// The other kinds of the driver's API.
const OTHERS: [&str; 3] = ["SecretProviderClassList", "SecretProviderClassPodStatus", "SecretProviderClassPodStatusList"];

/// A resource, as somebody meant it.
#[derive(Debug, Eq, PartialEq)]
pub enum Meant {
    Class,
    /// A class with a wrong `apiVersion`.
    ClassBut(Fault),
    /// Almost a class: its content is not checked.
    Nearly(Fault),
    Other,
}

#[derive(Debug, Eq, PartialEq)]
pub struct Fault {
    pub at: Position,
    pub key: &'static str,
    pub problem: String,
}

/// A provider's name that is not one of ours.
pub enum Foreign {
    /// A provider that is not ours.
    Passed(String),
    /// One of ours, misspelt.
    Wrong(String),
}

impl Meant {
    pub fn of(node: &Node) -> Self {
        let text = |key| field(node, key).and_then(Node::text);
        let (kind, version) = (text("kind").unwrap_or_default(), text("apiVersion").unwrap_or_default());
        let at = |key| field(node, key).map_or(node.at, |node| node.at);
        let (group, number) = version.split_once('/').unwrap_or(("", version));
        let own = GROUP.trim_end_matches('/');
        if kind == KIND {
            if group == own && VERSIONS.contains(&number) {
                return Self::Class;
            }
            let problem = if version.is_empty() { "is missing".to_owned() } else { format!("{} has no {KIND}", quoted(version)) };
            let problem = format!("{problem} (write {GROUP}v1)");
            return Self::ClassBut(Fault { at: at("apiVersion"), key: "apiVersion", problem });
        }
        // The core API, or a group that is almost the driver's: a class with a wrong group.
        let near_kind = nearest(kind, [KIND]).is_some() || kind.starts_with("SecretProvider");
        let is_ours = group == own && !OTHERS.contains(&kind);
        if is_ours || near_kind && !OTHERS.contains(&kind) && (group.is_empty() || nearest(group, [own]).is_some()) {
            let problem = if kind.is_empty() { "is missing".to_owned() } else { format!("{} is not a kind of {own}", quoted(kind)) };
            return Self::Nearly(Fault { at: at("kind"), key: "kind", problem: format!("{problem} (did you mean {KIND}?)") });
        }
        Self::Other
    }
}

impl Foreign {
    /// `None`: it is one of ours.
    pub fn of(provider: &str) -> Option<Self> {
        let own = || [NATIVE].into_iter().chain(PEERS);
        if own().any(|known| known == provider) {
            return None;
        }
        if !is_provider(provider) && near_provider(provider).is_none() {
            return Some(Self::Wrong(format!("{} {NO_PROVIDER}", quoted(provider))));
        }
        if LATER.contains(&provider) {
            return Some(Self::Passed(format!("Keyferry does not understand classes of the provider {provider} yet")));
        }
        Some(match near_provider(provider) {
            Some(near) => Self::Wrong(format!("{} is not a provider (did you mean {near}?)", quoted(provider))),
            None => Self::Passed(format!("its provider is {}, not one of {}", quoted(provider), own().collect::<Vec<_>>().join(", "))),
        })
    }
}

/// The provider of ours that is probably meant. Other providers have our names as a part too: azure-key-vault.
fn near_provider(provider: &str) -> Option<&'static str> {
    let own = || [NATIVE].into_iter().chain(PEERS);
    let lower = provider.trim().to_ascii_lowercase();
    if let Some(later) = LATER.into_iter().find(|later| lower == *later || lower.len() > 3 && nearest(&lower, [*later]).is_some()) {
        return Some(later);
    }
    let words: Vec<&str> = lower.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    if words.iter().any(|word| LATER.contains(word)) {
        return None;
    }
    let is_part = |known: &&str| words.contains(known) || lower.len() >= 3 && known.contains(&lower);
    nearest(&lower, own()).or_else(|| own().find(is_part))
}
