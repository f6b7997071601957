//! What can go wrong when Keyferry reads a vault, still without the backend's name.

use std::fmt;
use std::path::Path;

use crate::backend::Fault;

/// A failed read: what kind of failure, and a reason that names file and cause and says what to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReadFault {
    pub fault: Fault,
    /// For the node's admin: with whole paths.
    pub reason: String,
    /// The same for a class's author, who must not see the node's paths.
    pub told: String,
}

impl ReadFault {
    pub(super) fn new(fault: Fault, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { fault, told: reason.clone(), reason }
    }

    /// About something that has one name for the admin, and another for a class's author.
    pub(super) fn about(fault: Fault, whole: &str, told: &str, say: impl Fn(&str) -> String) -> Self {
        Self { fault, reason: say(whole), told: say(told) }
    }

    /// About a file or folder of a vault. Class authors see its path within the vault.
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
