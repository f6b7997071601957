//! A decorator: an answer serves equal requests for a while (`cache.fresh`), so that a store is not asked by each Pod at each minute.
//!
//! Only what a store was asked to read is kept, for the [`Scope`](crate::backend::Scope) that the store gives it, and never an answer that has a lease. It is wiped
//! when its time is over, whether anybody asks or not; at once when the store says no to the same request; and with its Pod, where it was
//! for that alone.

mod table;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::{Duration, Instant};

use super::asked::Asked;
use crate::backend::{Backend, BackendError, Fault, FetchContext};
use crate::model::{BackendName, Fetched, SecretRef, Source, Verb};
use crate::telemetry::Metrics;
use table::{Kept, Table};

#[derive(Debug)]
pub struct Cached {
    inner: Arc<dyn Backend>,
    table: Arc<Table>,
}

// === impl Cached ===

impl Cached {
    /// An answer is kept for at most `fresh`, and for three quarters of it at least: each for its own time, so that neither nodes nor
    /// Pods come to ask in step. All of them together weigh at most so many `bytes`.
    pub fn new(inner: Arc<dyn Backend>, name: &BackendName, fresh: Duration, bytes: usize, metrics: &Metrics) -> Self {
        Self { inner, table: Arc::new(Table::new(fresh, bytes, metrics.cache(name.as_str()))) }
    }

    fn find(&self, asked: &Asked, bound: Option<Duration>) -> Option<Fetched> {
        let Kept { answer, by, since, .. } = &*self.table.find(asked, bound)?;
        Some(Fetched { secret: Arc::clone(answer), source: Source::Fresh { age: since.elapsed() }, by: by.clone() })
    }

    fn asked(&self, secret: &SecretRef, cx: &FetchContext) -> Asked {
        Asked { scope: self.inner.scope(secret, &cx.pod), secret: secret.clone() }
    }

    async fn ask(&self, asked: Asked, cx: &FetchContext) -> Result<Fetched, BackendError> {
        let (since, refusals) = (Instant::now(), self.table.refusals(&asked));
        let answer = self.inner.fetch(&asked.secret, cx).await;
        match &answer {
            Ok(fetched) if may_be_kept(fetched) => self.table.keep(&asked, fetched, since, refusals, &cx.pod.namespace),
            Err(error) if refuses(error.fault) => self.table.refuse(&asked, error.fault),
            Ok(_) | Err(_) => {}
        }
        answer
    }
}

/// What another cache has kept is as old as that says; what has a lease is one Pod's.
fn may_be_kept(fetched: &Fetched) -> bool {
    fetched.source == Source::Store && fetched.secret.lease.is_none()
}

/// Whether the store was there, and said no to this very request.
fn refuses(fault: Fault) -> bool {
    match fault {
        Fault::Denied | Fault::NotFound | Fault::Unauthenticated => true,
        Fault::Corrupt
        | Fault::Invalid
        | Fault::Short
        | Fault::Throttled
        | Fault::TimedOut
        | Fault::TooLarge
        | Fault::Unavailable
        | Fault::Unsupported => false,
    }
}

#[async_trait]
impl crate::backend::stack::Decorator for Cached {
    fn inner(&self) -> &dyn Backend {
        &*self.inner
    }

    async fn fetch(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError> {
        if secret.verb() != Verb::Read {
            return self.inner.fetch(secret, cx).await;
        }
        let asked = self.asked(secret, cx);
        if let Some(known) = self.find(&asked, cx.fresh) {
            return Ok(known);
        }
        self.table.counters.misses.inc();
        self.ask(asked, cx).await
    }

    fn recall(&self, secret: &SecretRef, cx: &FetchContext) -> Option<Fetched> {
        if secret.verb() != Verb::Read {
            return None;
        }
        self.find(&self.asked(secret, cx), cx.fresh)
    }

    async fn forget(&self, pod: &str, deadline: Instant) {
        self.table.forget(pod);
        self.inner.forget(pod, deadline).await;
    }
}

#[cfg(test)]
mod tests;
