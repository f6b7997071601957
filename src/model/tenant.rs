//! The tenant of a mount, for what mounts share in the daemon.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// A tenant: the namespace of the Pod, as kubelet says it. A user who may start Pods in a namespace can act as any of its ServiceAccounts,
/// so a tenant is never less than a namespace. The daemon's own work (the keeper, keys, checks) has no tenant, and no share of what tenants
/// share.
///
/// A clone is the same text, not a copy.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Tenant(Arc<str>);

impl Tenant {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Tenant {
    fn from(namespace: &str) -> Self {
        Self(namespace.into())
    }
}

impl From<Arc<str>> for Tenant {
    fn from(namespace: Arc<str>) -> Self {
        Self(namespace)
    }
}

/// A map of tenants can be asked with a text.
impl Borrow<str> for Tenant {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_map_of_tenants_is_asked_with_a_text() {
        let shop = Tenant::from("shop");
        let by = HashMap::from([(shop.clone(), 7)]);
        assert_eq!((by.get("shop"), by.get("bank"), by.get(&Tenant::from("shop"))), (Some(&7), None, Some(&7)));
        assert_eq!((shop.to_string(), format!("{shop:?}")), ("shop".to_owned(), "\"shop\"".to_owned()));
        assert!(Arc::ptr_eq(&shop.0, &shop.clone().0), "a clone is not a copy");
    }
}
