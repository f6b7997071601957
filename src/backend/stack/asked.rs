//! What is asked, and for whom: the key under which answers are shared. Several decorators share by it, so it has its own module, and none of them
//! may get it wrong. Callers with the same key may get the same answer, and no other caller may.

use crate::backend::Scope;
use crate::model::SecretRef;

/// A request within its scope. Equal requests may get one answer; each of them needs its own permit.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Asked {
    pub scope: Scope,
    pub secret: SecretRef,
}

impl Asked {
    /// The approximate bytes of the texts that a tenant chooses: the name and the arguments.
    pub fn weight(&self) -> usize {
        let args: usize = self.secret.args.to_pairs().iter().map(|(name, value)| name.len() + value.len() + 80).sum();
        self.secret.name.as_str().len() + args
    }
}
