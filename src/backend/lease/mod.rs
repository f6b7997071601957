//! Leases: credentials that a store makes for one asker and ends by itself unless they are renewed. They are issued once, kept over
//! mounts, renewed, replaced before they end, and revoked when their Pod is gone.
//!
//! [`Leased`] is the decorator, the outermost of a stack; [`Leases`] is the table behind all of them. They are apart because a lease
//! outlives the stack it was issued by: a reload builds other stacks, and the table stays. docs/leases.md says what users may rely on.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Backend, BackendError, FetchContext, Scope};
use crate::model::{BackendName, Fetched, LeaseFor, Method, PodIdentity, SecretRef};
use crate::yaml::{Faults, Reader};

mod disk;
mod flight;
mod keeper;
mod life;
mod pods;
mod record;
mod saved;
mod state;
mod table;

pub use table::Leases;

/// The mapping `leases`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LeasesConfig {
    /// Whether the daemon's orderly end revokes what it keeps. Default: no, since a restart finds it again.
    pub revoke_at_shutdown: bool,
}

/// A store whose answers with a lease are kept. Answers without one pass through.
#[derive(Debug)]
pub struct Leased {
    store: Store,
    leases: Arc<Leases>,
}

/// A stack, as far as leases care.
#[derive(Clone, Debug)]
struct Store {
    inner: Arc<dyn Backend>,
    /// Names the store and who the daemon is there: a lease of another origin means nothing here.
    origin: Arc<str>,
}

// === impl LeasesConfig ===

impl LeasesConfig {
    /// Reads `revokeAtShutdown`.
    pub fn parse(reader: &mut Reader<'_>, faults: &mut Faults) -> Self {
        Self { revoke_at_shutdown: reader.boolean("revokeAtShutdown", faults).unwrap_or(false) }
    }
}

// === impl Leased ===

impl Leased {
    /// `inner` is the rest of the stack, and `name` the backend's. What a former process, or a former stack of the same `origin`, had of
    /// this backend goes on from here.
    pub fn new(inner: Arc<dyn Backend>, name: &BackendName, origin: &str, leases: Arc<Leases>) -> Self {
        let store = Store { inner, origin: origin.into() };
        leases.attach(name, &store);
        Self { store, leases }
    }

    /// Whose the credential is. With `lease: shared` as many as may share a read, whatever the method: the class says that what is
    /// made is for all of them.
    fn holder(&self, secret: &SecretRef, pod: &PodIdentity) -> Scope {
        match secret.lease {
            LeaseFor::Pod => Scope::Pod(pod.uid.clone()),
            LeaseFor::Shared => self.store.inner.scope(&SecretRef { method: Method::Get, ..secret.clone() }, pod),
        }
    }
}

#[async_trait]
impl crate::backend::decorator::Decorator for Leased {
    fn inner(&self) -> &dyn Backend {
        &*self.store.inner
    }

    /// [`FetchContext::fresh`] does not bound a kept credential's age: it is good until its end, and another would be another user.
    async fn fetch(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError> {
        self.leases.fetch(&self.store, self.holder(secret, &cx.pod), secret, cx).await
    }
}

#[cfg(test)]
mod tests;
