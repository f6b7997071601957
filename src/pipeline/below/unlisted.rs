//! Why a prefix gives no secrets, as text.

use super::LISTS;
use crate::backend::{BackendError, Fault};
use crate::glob::LEVELS;
use crate::model::{InvalidName, SecretRef, quoted};
use crate::steps;

/// Why a prefix gives no secrets.
#[derive(Debug)]
pub(super) struct Unlisted {
    pub fault: Fault,
    pub reason: String,
}

impl Unlisted {
    /// As text about the prefix.
    pub fn of(&self, prefix: &SecretRef) -> BackendError {
        let (backend, secret) = (prefix.backend.clone(), Some(prefix.name.clone()));
        BackendError { fault: self.fault, backend, secret, reason: self.reason.clone(), retry_after: None, source: None }
    }

    pub fn nothing() -> Self {
        let reason = "there are no secrets below it that this object asks for (correct `include` and `exclude`, store one, or set \
                      `optional: true`)";
        Self { fault: Fault::NotFound, reason: reason.to_owned() }
    }

    pub fn too_deep() -> Self {
        let reason = format!(
            "it has folders more than {LEVELS} levels deep: no more are listed (name a longer prefix, or leave them out with `exclude`)"
        );
        Self { fault: Fault::TooLarge, reason }
    }

    pub fn too_many(most: usize) -> Self {
        let reason = format!(
            "there are more than {most} secrets below it: no more are delivered on this node (choose with `include` and `exclude`, name a \
             longer prefix, or ask for a higher limits.objects)"
        );
        Self { fault: Fault::TooLarge, reason }
    }

    pub fn too_many_folders() -> Self {
        let reason = format!(
            "more than {LISTS} folders would have to be listed for this volume (name longer prefixes, or leave folders out with `exclude`)"
        );
        Self { fault: Fault::TooLarge, reason }
    }

    pub fn too_many_in_all(most: usize) -> Self {
        let reason = format!(
            "with what is below it, the class has more than {most} secrets: no more are delivered on this node (choose with `include` and \
             `exclude`, split the class, or ask for a higher limits.objects)"
        );
        Self { fault: Fault::TooLarge, reason }
    }

    /// A name that the store lists, but that cannot be requested.
    pub fn unasked(name: &str, cause: &InvalidName) -> Self {
        let reason =
            format!("the name {} below it {cause} (store the secret under another name, or leave it out with `exclude`)", quoted(name));
        Self { fault: Fault::Invalid, reason }
    }

    pub fn unnamed(name: &str) -> Self {
        let reason = format!("its listing has {}, which is not a name in a folder (look at the store)", quoted(name));
        Self { fault: Fault::Corrupt, reason }
    }

    pub fn unreadable() -> Self {
        Self { fault: Fault::Corrupt, reason: "its listing is not a list of names (is it a folder of secrets?)".to_owned() }
    }
}

impl From<steps::Spent> for Unlisted {
    fn from(spent: steps::Spent) -> Self {
        let reason = format!("to choose from what is below it {spent} (use fewer patterns, or name a longer prefix)");
        Self { fault: Fault::TooLarge, reason }
    }
}
