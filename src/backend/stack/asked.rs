//! What is asked, and for whom: the key under which answers are shared. Apart, because two decorators share by it, and neither may get
//! it wrong: whoever has the same key may be given the same answer, and nobody else.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::backend::Scope;
use crate::model::SecretRef;

/// A request within its scope. Equal ones may have one answer, each after its own permit.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Asked {
    pub scope: Scope,
    pub secret: SecretRef,
}

/// An [`Asked`], or its two parts: a table is searched without copying them.
pub trait Question {
    fn scope(&self) -> &Scope;

    fn secret(&self) -> &SecretRef;
}

impl Question for Arc<Asked> {
    fn scope(&self) -> &Scope {
        &self.scope
    }

    fn secret(&self) -> &SecretRef {
        &self.secret
    }
}

impl Question for (&Scope, &SecretRef) {
    fn scope(&self) -> &Scope {
        self.0
    }

    fn secret(&self) -> &SecretRef {
        self.1
    }
}

impl<'a> Borrow<dyn Question + 'a> for Arc<Asked> {
    fn borrow(&self) -> &(dyn Question + 'a) {
        self
    }
}

/// As [`Asked`]'s own: a table relies on it.
impl Hash for dyn Question + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.scope().hash(state);
        self.secret().hash(state);
    }
}

impl PartialEq for dyn Question + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.scope() == other.scope() && self.secret() == other.secret()
    }
}

impl Eq for dyn Question + '_ {}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_table_is_searched_by_the_parts() {
        let asked = |pod: &str, name: &str| Asked {
            scope: Scope::Pod(pod.to_owned()),
            secret: SecretRef::read("bao".parse().unwrap(), name.parse().unwrap()),
        };
        let table = HashMap::from([(Arc::new(asked("uid-1", "kv/db")), 1), (Arc::new(asked("uid-2", "kv/db")), 2)]);
        let find = |asked: &Asked| table.get(&(&asked.scope, &asked.secret) as &dyn Question).copied();
        assert_eq!(find(&asked("uid-1", "kv/db")), Some(1));
        assert_eq!(find(&asked("uid-2", "kv/db")), Some(2));
        assert_eq!(find(&asked("uid-3", "kv/db")), None);
        assert_eq!(find(&asked("uid-1", "kv/other")), None);
        let shared = Asked { scope: Scope::Shared("uid-1".to_owned()), ..asked("uid-1", "kv/db") };
        assert_eq!(find(&shared), None, "a Pod's uid is not a key of many");
    }
}
