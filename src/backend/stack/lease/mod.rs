//! Leases: credentials that a store makes for one caller and ends by itself unless they are renewed. Keyferry gets them once and keeps them for
//! later mounts. It renews them, replaces them before they end, and revokes them when their Pod is gone.
//!
//! [`Leased`] is the decorator, the outermost one of a stack. [`Leases`] is the table behind all of them. They are separate because a lease lives
//! longer than its stack: a reload builds other stacks, and the table stays. docs/leases.md says what users may rely on.

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

/// The largest answer, in bytes as counted while it is read, that Keyferry reads in any case, even if the mount has no memory for it.
const CREDENTIAL: usize = 64 * 1024;

/// The mapping `leases`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LeasesConfig {
    /// Whether an orderly shutdown revokes all leases. Default: no, because they are found again after a restart.
    pub revoke_at_shutdown: bool,
}

/// The leases of one backend now.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LeaseSummary {
    /// Leases that are given.
    pub kept: usize,
    /// Those of them whose last renewal or replacement failed.
    pub failing: usize,
    /// When the next of them ends, unless it is renewed.
    pub next_end: Option<Timestamp>,
}

/// A store whose leases are kept. Answers without a lease pass through.
#[derive(Debug)]
pub struct Leased {
    store: Store,
    leases: Arc<Leases>,
}

/// What leases must know about a stack.
#[derive(Clone, Debug)]
struct Store {
    inner: Arc<dyn Backend>,
    name: BackendName,
    /// Names the store, and who the daemon is there. A lease of another origin is not used here.
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
    /// Whether it is the same stack.
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

// === impl Leased ===

impl Leased {
    /// `inner` is the rest of the stack, and `name` the backend's name. Leases of this backend from a former process, or from a former stack of the
    /// same `origin`, go on here.
    pub fn new(inner: Arc<dyn Backend>, name: &BackendName, origin: Origin, leases: Arc<Leases>) -> Self {
        leases.metrics.expect_leases(name.as_str());
        let store = Store { inner, name: name.clone(), origin };
        leases.attach(&store);
        Self { store, leases }
    }
}

/// Who has the credential. With `lease: shared` it is the ServiceAccount, however the daemon logs in. The class decides that the credential is for
/// all Pods of its ServiceAccount, and it cannot decide this for another tenant. The scope for *reads* can be wider and does not apply here: if the
/// daemon logs in as itself, every Pod is the same to the store.
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

    /// [`FetchContext::fresh`] does not limit the age of a kept credential. It is good until its end, and another one would be another user.
    async fn fetch(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError> {
        let key = Key { holder: holder(secret, &cx.pod), secret: secret.clone() };
        // What a store has made must not be lost because there is no memory: this many bytes of its answer are read in any case. The limit on calls
        // to a store bounds the total.
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
