//! What policy knows of one store besides the rules: what classes may say of its login, and which names the store keeps for itself.

use super::ClassMay;
use crate::model::{BackendName, SecretRef};

/// Of one backend.
#[derive(Clone, Debug, Default)]
pub struct Bounds {
    /// `None`: classes may say nothing of its login.
    pub class_may: Option<ClassMay>,
    /// `None`: all its names are secrets.
    pub own: Option<Own>,
    /// Other backends that its secrets come from: what a `deny` says of a name there, it says of the name here. Empty: none.
    pub members: Vec<BackendName>,
}

/// How a store tells which names are its own business rather than secrets: it knows its API, and policy does not.
#[derive(Clone, Debug)]
pub struct Own {
    /// The namespace that names begin with, where a class says none; empty: the root.
    pub namespace: String,
    pub judge: fn(&SecretRef, &str) -> Reserve,
}

/// What a store says of one request.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reserve {
    /// The elements of the name, counted from 0, that a rule has to spell: no `*` and no placeholder stands for them.
    pub spelled: Vec<usize>,
    /// Why no rule at all can allow it. Completes "no rule can allow it: ...".
    pub never: Option<&'static str>,
}

impl Own {
    pub(super) fn judge(&self, secret: &SecretRef) -> Reserve {
        (self.judge)(secret, &self.namespace)
    }
}
