//! A decorator: an answer serves equal requests for a while (`cache.fresh`), so that a store is not asked by each Pod at each minute; and the
//! last good one may serve for longer while the store is out (`cache.stale`), by [`Standby`].
//!
//! Only what a store was asked to read is kept, for the [`Scope`](crate::backend::Scope) that the store gives it, and never an answer that has a lease. It is wiped
//! when its time is over, whether anybody asks or not; at once when the store says no to the same request; with its Pod, where it was
//! for that alone; and at a reload, where policy does not allow it any more. With a sealed folder, what may serve while a store is out is on
//! the disk as well ([`archive`]).

pub mod archive;
mod door;
mod rule;
mod since;
mod standby;
mod table;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use super::asked::Asked;
use crate::backend::{Backend, BackendError, CacheConfig, Fault, FetchContext};
use crate::model::{Fetched, Method, SecretRef, Source, Verb};

pub(in crate::backend) use rule::Rule;
pub use standby::Standby;
pub(in crate::backend) use table::{Judge, Refusals, Table};

use table::Kept;

/// Puts what comes from the store into a [`Table`], and gives what is fresh there.
#[derive(Debug)]
pub struct Cached {
    inner: Arc<dyn Backend>,
    table: Arc<Table>,
    times: CacheConfig,
}

// === impl Cached ===

impl Cached {
    /// An answer is fresh for at most `times.fresh`, and for three quarters of it at least: each for its own time, so that neither nodes nor
    /// Pods come to ask in step. For `times.stale` it is kept.
    pub(in crate::backend) fn new(inner: Arc<dyn Backend>, table: Arc<Table>, times: CacheConfig) -> Self {
        Self { inner, table, times }
    }

    /// Nothing, where no answer is ever fresh.
    fn find(&self, secret: &SecretRef, cx: &FetchContext, now: Instant) -> Option<Fetched> {
        if self.times.fresh.is_zero() {
            return None;
        }
        let Kept { answer, by, since, .. } = &*self.table.find(&self.asked(secret, cx), cx.fresh, now)?;
        Some(Fetched { secret: Arc::clone(answer), source: Source::Fresh { age: since.at(now) }, by: by.clone() })
    }

    fn asked(&self, secret: &SecretRef, cx: &FetchContext) -> Asked {
        Asked { scope: self.inner.scope(secret, &cx.pod), secret: secret.clone() }
    }

    /// What is made is not kept; but a login that is refused for it is that of the Pod's reads, too.
    async fn make(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError> {
        let made = self.inner.fetch(secret, cx).await;
        if made.as_ref().is_err_and(|error| error.fault == Fault::Unauthenticated) {
            let read = secret.with(|asked| asked.method = Method::Get);
            let ticket = self.table.shut(&self.inner.scope(&read, &cx.pod), &read.login);
            self.table.settled(ticket, cx.deadline).await;
        }
        made
    }
}

#[async_trait]
impl crate::backend::stack::Decorator for Cached {
    fn inner(&self) -> &dyn Backend {
        &*self.inner
    }

    async fn fetch(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError> {
        if secret.verb() != Verb::Read {
            return self.make(secret, cx).await;
        }
        if let Some(known) = self.find(secret, cx, Instant::now()) {
            return Ok(known);
        }
        let asked = self.asked(secret, cx);
        let question = self.table.ask(asked.clone(), &cx.pod);
        let answer = self.inner.fetch(secret, cx).await;
        let ticket = question.answered(&answer, self.times);
        // What the store takes back is gone from the disk, too, before anybody hears of it.
        self.table.settled(ticket, cx.deadline).await;
        // What an answer of before stands in for is counted as that alone, by who gives it.
        let is_out = answer.as_ref().is_err_and(|error| error.fault.is_outage());
        if !(is_out && self.table.has_stale(&asked, cx.stale_within(self.times.stale)).is_some()) {
            self.table.counters.misses.inc();
        }
        answer
    }

    fn recall(&self, secret: &SecretRef, cx: &FetchContext, now: Instant) -> Option<Fetched> {
        if secret.verb() != Verb::Read {
            return None;
        }
        self.find(secret, cx, now)
    }

    async fn forget(&self, pod: &str, deadline: Instant) {
        let ticket = self.table.forget(pod);
        self.table.settled(ticket, deadline).await;
        self.inner.forget(pod, deadline).await;
    }
}

#[cfg(test)]
mod tests;
