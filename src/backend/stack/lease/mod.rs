//! Leases: credentials that a store makes for one asker and ends by itself unless they are renewed. They are issued once, kept over
//! mounts, renewed, replaced before they end, and revoked when their Pod is gone.
//!
//! [`Leased`] is the decorator, the outermost of a stack; [`Leases`] is the table behind all of them. They are apart because a lease
//! outlives the stack it was issued by: a reload builds other stacks, and the table stays. docs/leases.md says what users may rely on.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::backend::{Backend, BackendError, FetchContext, Origin, Scope};
use crate::model::{BackendName, Fetched, LeaseFor, PodIdentity, SecretRef};
use crate::yaml::{Faults, Reader};

mod calls;
mod disk;
mod flight;
mod keeper;
mod life;
mod plain;
mod pods;
mod record;
mod records;
mod room;
mod saved;
mod state;
mod table;

pub use table::Leases;

use record::Key;

/// The largest answer in bytes, as it is counted while it is read, that is read without a look at the mount's purse.
const CREDENTIAL: usize = 64 * 1024;

/// The mapping `leases`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LeasesConfig {
    /// Whether the daemon's orderly end revokes what it keeps. Default: no, since a restart finds it again.
    pub revoke_at_shutdown: bool,
}

/// The leases of one backend, as they are now.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LeaseSummary {
    /// Those that are given.
    pub kept: usize,
    /// Those of them that could not be renewed or replaced at the last try.
    pub failing: usize,
    /// When the next of them ends, unless it is renewed.
    pub next_end: Option<Timestamp>,
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
    name: BackendName,
    /// Names the store and who the daemon is there: a lease of another origin means nothing here.
    origin: Origin,
}

// === impl LeasesConfig ===

impl LeasesConfig {
    /// Reads `revokeAtShutdown`.
    pub fn parse(reader: &mut Reader<'_>, faults: &mut Faults) -> Self {
        Self { revoke_at_shutdown: reader.boolean("revokeAtShutdown", faults).unwrap_or(false) }
    }
}

// === impl Store ===

impl Store {
    /// Whether it is the very same stack.
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

// === impl Leased ===

impl Leased {
    /// `inner` is the rest of the stack, and `name` the backend's. What a former process, or a former stack of the same `origin`, had of
    /// this backend goes on from here.
    pub fn new(inner: Arc<dyn Backend>, name: &BackendName, origin: Origin, leases: Arc<Leases>) -> Self {
        leases.metrics.expect_leases(name.as_str());
        let store = Store { inner, name: name.clone(), origin };
        leases.attach(&store);
        Self { store, leases }
    }
}

/// Whose the credential is. With `lease: shared` it is the ServiceAccount's, however the daemon logs in: a class says that what is made
/// is for all Pods of its own, and cannot say it for another tenant's. Who shares a *read* is wider, and no measure: where the daemon
/// logs in as itself, every Pod is the same to the store.
fn holder(secret: &SecretRef, pod: &PodIdentity) -> Scope {
    match (secret.lease, pod.proven_account()) {
        (LeaseFor::Shared, Some(account)) => Scope::Account(account),
        (LeaseFor::Pod, _) | (LeaseFor::Shared, None) => Scope::Pod(Arc::clone(&pod.uid)),
    }
}

#[async_trait]
impl crate::backend::stack::Decorator for Leased {
    fn inner(&self) -> &dyn Backend {
        &*self.store.inner
    }

    /// [`FetchContext::fresh`] does not bound a kept credential's age: it is good until its end, and another would be another user.
    async fn fetch(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError> {
        let key = Key { holder: holder(secret, &cx.pod), secret: secret.clone() };
        // What is made is not lost for want of memory: so much of its answer is read in any case. A store's calls at once bound that.
        let payer = cx.payer.as_ref().map(|payer| payer.prepaid(CREDENTIAL));
        self.leases.fetch(&self.store, key, &FetchContext { payer, ..cx.clone() }).await
    }

    fn recall(&self, secret: &SecretRef, cx: &FetchContext, now: Instant) -> Option<Fetched> {
        let key = Key { holder: holder(secret, &cx.pod), secret: secret.clone() };
        self.leases.recall(&self.store, &key, cx, now)
    }
}

#[cfg(test)]
mod tests;
