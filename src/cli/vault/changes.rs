//! What differs between two revisions of a secret: which fields, and never their values.

use serde_json::{Map, Value, json};

use super::count;
use super::fields::Fields;
use crate::backend::store::file::SecretType;

/// If more fields than this are kept, the sentence has only their count.
const NAMED: usize = 8;

/// The fields that were added, changed, kept and removed, in the order of their names.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Changes {
    pub added: Vec<String>,
    pub changed: Vec<String>,
    pub kept: Vec<String>,
    pub removed: Vec<String>,
    /// Whether the type of the Kubernetes Secret differs.
    pub retyped: bool,
}

/// One side of a comparison.
pub type Side<'a> = (&'a Fields, Option<&'a SecretType>);

impl Changes {
    pub fn between((old, old_type): Side<'_>, (new, new_type): Side<'_>) -> Self {
        let mut changes = Self { retyped: old_type != new_type, ..Self::default() };
        for (name, field) in new {
            let list = match old.get(name) {
                None => &mut changes.added,
                Some(old) if old.bytes.expose() == field.bytes.expose() => &mut changes.kept,
                Some(_) => &mut changes.changed,
            };
            list.push(name.to_string());
        }
        changes.removed.extend(old.keys().filter(|name| !new.contains_key(*name)).map(ToString::to_string));
        changes
    }

    pub fn is_empty(&self) -> bool {
        !self.retyped && [&self.added, &self.changed, &self.removed].iter().all(|list| list.is_empty())
    }

    /// Such as `password changed, port added, username kept`.
    pub fn sentence(&self) -> String {
        let mut parts = Vec::new();
        for (list, verb) in [(&self.changed, "changed"), (&self.added, "added"), (&self.removed, "removed")] {
            parts.extend(list.iter().map(|name| format!("{name} {verb}")));
        }
        if self.retyped {
            parts.push("its type changed".to_owned());
        }
        if self.kept.len() > NAMED {
            parts.push(format!("{} kept", count(self.kept.len(), "field")));
        } else {
            parts.extend(self.kept.iter().map(|name| format!("{name} kept")));
        }
        parts.join(", ")
    }

    /// Such as `~ password` and `+ port`.
    pub fn marks(&self) -> Vec<String> {
        let mut marks = Vec::new();
        for (list, mark) in [(&self.changed, '~'), (&self.added, '+'), (&self.removed, '-')] {
            marks.extend(list.iter().map(|name| format!("{mark} {name}")));
        }
        if self.retyped {
            marks.push("~ (the type of the Secret)".to_owned());
        }
        marks
    }

    pub fn to_json(&self) -> Map<String, Value> {
        let lists = [("added", &self.added), ("changed", &self.changed), ("removed", &self.removed)];
        let mut object: Map<String, Value> = lists.into_iter().map(|(key, list)| (key.to_owned(), json!(list))).collect();
        object.insert("typeChanged".to_owned(), json!(self.retyped));
        object
    }
}
