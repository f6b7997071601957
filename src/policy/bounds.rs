//! What the policy knows about one store besides the rules: what classes may set for its login, and which names the store keeps for itself.

use super::ClassMay;
use crate::model::{BackendName, SecretRef};

/// Of one backend.
#[derive(Clone, Debug, Default)]
pub struct Bounds {
    /// `None`: classes may set nothing for its login.
    pub class_may: Option<ClassMay>,
    /// `None`: all its names are secrets.
    pub own: Option<Own>,
    /// Other backends that its secrets come from: a `deny` for a name there is also for the name here. Empty: none.
    pub members: Vec<BackendName>,
}

/// How a store says which names belong to itself and are not secrets: the store knows its API, and the policy does not.
#[derive(Clone, Debug)]
pub struct Own {
    /// The namespace at the beginning of names, if a class sets none; empty: the root.
    pub namespace: String,
    pub judge: fn(&SecretRef, &str) -> Reserve,
}

/// What a store says about one request.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reserve {
    /// The elements of the name, counted from 0, that a rule must spell: no `*` and no placeholder may match them.
    pub spelled: Vec<usize>,
    /// Why no rule at all can allow it. Completes "no rule can allow it: ...".
    pub never: Option<&'static str>,
}

impl Own {
    pub(super) fn judge(&self, secret: &SecretRef) -> Reserve {
        (self.judge)(secret, &self.namespace)
    }
}
