//! Requests whose last answer had no lease. They need no room among the leases, and they do not queue with requests that may have one.
//!
//! Each tenant has a separate part: what one tenant learns or forgets has no effect on another.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::room::weight_of;
use crate::model::{SecretRef, Tenant};
use crate::shelf::Shelf;

/// The weight of an entry besides the texts of its request.
const ENTRY: usize = 256;

pub(super) struct Plain(Mutex<Shelf<(Tenant, SecretRef), ()>>);

impl Plain {
    /// With room for this many bytes, keys included.
    pub fn new(bytes: usize) -> Self {
        Self(Mutex::new(Shelf::of_bytes(bytes)))
    }

    pub fn knows(&self, tenant: &Tenant, secret: &SecretRef) -> bool {
        self.lock().find(&(tenant.clone(), secret.clone())).is_some()
    }

    pub fn note(&self, tenant: &Tenant, secret: &SecretRef) {
        let _ = self.lock().put(tenant.as_str(), (tenant.clone(), secret.clone()), (), ENTRY + weight_of(secret), |()| false);
    }

    pub fn forget(&self, tenant: &Tenant, secret: &SecretRef) {
        self.lock().remove(&(tenant.clone(), secret.clone()));
    }

    /// Bytes of one tenant, and of all.
    #[cfg(test)]
    pub fn weight(&self, tenant: &str) -> (usize, usize) {
        let known = self.lock();
        (known.weight_of(tenant), known.weight())
    }

    /// A panic elsewhere cannot leave the shelf half-changed: nothing in it panics.
    fn lock(&self) -> MutexGuard<'_, Shelf<(Tenant, SecretRef), ()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plain")
    }
}
