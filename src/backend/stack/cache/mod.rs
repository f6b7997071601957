//! A decorator: an answer serves equal requests for a while (`cache.fresh`), so that not each Pod asks the store each minute. And the last good
//! answer may be given for longer while the store is out (`cache.stale`), by [`Standby`].
//!
//! Only what Keyferry reads from a store is kept, for the [`Scope`](crate::backend::Scope) that the store gives it, and never an answer with a
//! lease. An answer is wiped when its time has ended, whether anybody asks or not. It is wiped at once when the store denies the same request, with
//! its Pod if it was only for that Pod, and at a reload if policy no longer allows it. With a sealed folder, answers for outages are also on the
//! disk ([`archive`]).

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

/// Puts answers from the store into a [`Table`], and gives those that are fresh there.
#[derive(Debug)]
pub struct Cached {
    inner: Arc<dyn Backend>,
    table: Arc<Table>,
    times: CacheConfig,
}

// === impl Cached ===

impl Cached {
    /// An answer is fresh for at most `times.fresh`, and at least three quarters of it. Each answer has its own time, so that nodes and Pods do not
    /// all ask together. The answer is kept for `times.stale`.
    pub(in crate::backend) fn new(inner: Arc<dyn Backend>, table: Arc<Table>, times: CacheConfig) -> Self {
        Self { inner, table, times }
    }

    /// Finds nothing if the configuration keeps no answer fresh.
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

    /// What a store makes is not kept. But if the login is refused for it, the same login is refused for the Pod's reads.
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
        // If the store revokes an answer, it is also gone from the disk before the caller gets its error.
        self.table.settled(ticket, cx.deadline).await;
        // If an old answer is given instead, the one who gives it counts that, and nothing is counted here.
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
