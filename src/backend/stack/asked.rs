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
