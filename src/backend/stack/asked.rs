//! What is asked, and for whom: the key under which answers are shared. Apart, because several decorators share by it, and none may get
//! it wrong: whoever has the same key may be given the same answer, and nobody else.

use crate::backend::Scope;
use crate::model::SecretRef;

/// A request within its scope. Equal ones may have one answer, each after its own permit.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Asked {
    pub scope: Scope,
    pub secret: SecretRef,
}

impl Asked {
    /// About the bytes of its texts that a tenant chooses: the name, and the arguments.
    pub fn weight(&self) -> usize {
        let args: usize = self.secret.args.to_pairs().iter().map(|(name, value)| name.len() + value.len() + 80).sum();
        self.secret.name.as_str().len() + args
    }
}
