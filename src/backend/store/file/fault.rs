//! What can go wrong with reading a vault, before it is known under which backend's name.

use std::fmt;
use std::path::Path;

use crate::backend::Fault;

/// A failed read: what kind of failure, and a reason that names file and cause and says what to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReadFault {
    pub fault: Fault,
    /// For the node's admin: with whole paths.
    pub reason: String,
    /// The same for a class's author, who has no business with where things are on a node.
    pub told: String,
}

impl ReadFault {
    pub(super) fn new(fault: Fault, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { fault, told: reason.clone(), reason }
    }

    /// About something that is called one thing to the admin and another to a class's author.
    pub(super) fn about(fault: Fault, whole: &str, told: &str, say: impl Fn(&str) -> String) -> Self {
        Self { fault, reason: say(whole), told: say(told) }
    }

    /// About a file or folder of a vault, which class authors read from the vault on.
    pub(super) fn of_file(fault: Fault, root: &Path, path: &Path, say: impl Fn(&str) -> String) -> Self {
        let inside = path.strip_prefix(root).unwrap_or(Path::new("")).display().to_string();
        let told = if inside.is_empty() { "the vault's folder" } else { &inside };
        Self::about(fault, &path.display().to_string(), told, say)
    }
}

impl fmt::Display for ReadFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for ReadFault {}
