//! A decorator: while the store is out, Keyferry gives the last good answer instead, for `cache.stale`.
//!
//! It is outside of the decorator that combines equal requests: whether an old answer may be given depends on each caller, and not on the first
//! one. The [`Table`] decides what is kept and what is removed when the store denies it, and [`Cached`](super::Cached) fills the table.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::time::{Duration, Instant};

use super::rule::Rule;
use super::table::{Kept, Table};
use crate::backend::stack::asked::Asked;
use crate::backend::stack::circuits::Circuits;
use crate::backend::{Backend, BackendError, CacheConfig, FetchContext};
use crate::model::{Fetched, SecretRef, Source, Verb};

/// How long a store may take while there is an old answer: as long as the client's tries may take if no server is there.
const PATIENCE: Duration = Duration::from_secs(10);

/// The part of a mount's time that is left for what comes after its secrets.
const REST: Duration = Duration::from_secs(1);

/// How often the log says that old answers are given although the store is not out. At the beginning of an outage the log waits until the outage is
/// known.
const SAY_AGAIN: Duration = Duration::from_mins(1);

/// If there was no such answer for this time, the next one is reported as new.
const SAID: Duration = Duration::from_mins(10);

#[derive(Debug)]
pub struct Standby {
    inner: Arc<dyn Backend>,
    table: Arc<Table>,
    times: CacheConfig,
    circuits: Arc<Circuits>,
    /// When the last such answer was given, and when the log last had to report one.
    said: Mutex<Option<Said>>,
}

#[derive(Clone, Copy, Debug)]
struct Said {
    given: Instant,
    due: Instant,
}

// === impl Standby ===

impl Standby {
    /// Gives the answers that the `table` keeps while they are younger than `times.stale`.
    pub(in crate::backend) fn new(inner: Arc<dyn Backend>, table: Arc<Table>, times: CacheConfig, circuits: Arc<Circuits>) -> Self {
        Self { inner, table, times, circuits, said: Mutex::default() }
    }

    fn asked(&self, secret: &SecretRef, cx: &FetchContext) -> Asked {
        Asked { scope: self.inner.scope(secret, &cx.pod), secret: secret.clone() }
    }

    /// The answer to this request, in memory or on the disk, if it is young enough for this class.
    async fn find(&self, asked: &Asked, cx: &FetchContext) -> Option<(Arc<Kept>, Duration)> {
        self.table.serve_stale(asked, cx.stale_within(self.times.stale), cx).await
    }

    /// Until when the answer was fresh, if there seems to be one.
    fn has(&self, asked: &Asked, cx: &FetchContext) -> Option<Instant> {
        self.table.has_stale(asked, cx.stale_within(self.times.stale))
    }

    fn give(&self, asked: &Asked, (kept, age): (Arc<Kept>, Duration), cause: &str) -> Fetched {
        let source = Source::Stale { age, bound: self.times.stale, cause: cause.to_owned() };
        let given = Fetched { secret: Arc::clone(&kept.answer), source, by: kept.by.clone() };
        self.table.counters.stales.inc();
        self.tell(&given, asked);
        given
    }

    /// Just after an outage: an answer that is asked for again at a later moment, so that not all are asked for at once.
    async fn spared(&self, asked: &Asked, cx: &FetchContext) -> Option<Fetched> {
        let until = self.has(asked, cx)?;
        let fresh = cx.fresh.map_or(self.times.fresh, |most| most.min(self.times.fresh));
        if !self.circuits.spares(asked, until, fresh) {
            return None;
        }
        let found = self.find(asked, cx).await?;
        Some(self.give(asked, found, "the store answers again, and Keyferry asks it for this secret within cache.fresh"))
    }

    /// The answer that is given in place of a request that would not be sent.
    fn instead(&self, secret: &SecretRef, cx: &FetchContext) -> Option<Fetched> {
        if secret.verb() != Verb::Read || cx.live || !self.circuits.is_open(secret) {
            return None;
        }
        let asked = self.asked(secret, cx);
        let found = self.table.recall_stale(&asked, cx.stale_within(self.times.stale))?;
        let refused = self.circuits.would_refuse(&asked, &cx.tenant())?;
        Some(self.give(&asked, found, &refused.reason))
    }

    /// If there is an old answer, the caller does not wait as long as it could.
    async fn ask(&self, asked: &Asked, cx: &FetchContext) -> Result<Fetched, BackendError> {
        if self.has(asked, cx).is_none() {
            return self.inner.fetch(&asked.secret, cx).await;
        }
        let rest = REST.min(cx.deadline.saturating_duration_since(Instant::now()) / 10);
        let cx = FetchContext { patience: Some(PATIENCE), deadline: cx.deadline - rest, ..cx.clone() };
        self.inner.fetch(&asked.secret, &cx).await
    }

    /// Requests for one secret fail while the store answers others. Nothing else reports that, because other secrets have no outage.
    fn tell(&self, given: &Fetched, asked: &Asked) {
        let Source::Stale { age, cause, .. } = &given.source else { return };
        if self.is_due() && !self.circuits.is_open(&asked.secret) {
            tracing::warn!(
                backend = %given.by,
                secret = %asked.secret.name,
                age = age.as_secs(),
                cause,
                "the store fails for this secret: Keyferry gives the answer that it got before, marked as stale"
            );
        }
    }

    fn is_due(&self) -> bool {
        let now = Instant::now();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let before = said.filter(|said| now.duration_since(said.given) < SAID);
        let is_due = before.is_some_and(|said| now >= said.due);
        let due = before.map_or(now + SAY_AGAIN, |said| if is_due { now + SAY_AGAIN } else { said.due });
        *said = Some(Said { given: now, due });
        is_due
    }
}

#[async_trait]
impl crate::backend::stack::Decorator for Standby {
    fn inner(&self) -> &dyn Backend {
        &*self.inner
    }

    async fn fetch(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError> {
        if secret.verb() != Verb::Read || cx.live {
            return self.inner.fetch(secret, cx).await;
        }
        let asked = self.asked(secret, cx);
        if let Some(spared) = self.spared(&asked, cx).await {
            return Ok(spared);
        }
        let error = match self.ask(&asked, cx).await {
            Ok(fetched) => return Ok(fetched),
            Err(error) => error,
        };
        if !error.fault.is_outage() && self.table.holds(Rule::Outage) {
            return Err(error);
        }
        let Some(found) = self.find(&asked, cx).await else { return Err(error) };
        Ok(self.give(&asked, found, &error.reason))
    }

    /// While the store is known to be out, an old answer is given as quickly as a fresh one.
    fn recall(&self, secret: &SecretRef, cx: &FetchContext, now: Instant) -> Option<Fetched> {
        self.inner.recall(secret, cx, now).or_else(|| self.instead(secret, cx))
    }

    async fn stale_age(&self, secret: &SecretRef, cx: &FetchContext) -> Option<Duration> {
        self.table.stale_age(&self.asked(secret, cx), cx.stale_within(self.times.stale), cx).await
    }

    fn keeps(&self, secret: &SecretRef, cx: &FetchContext) -> bool {
        secret.verb() == Verb::Read && self.table.keeps(&self.asked(secret, cx), cx.stale_within(self.times.stale))
    }

    async fn stale(&self, secret: &SecretRef, cx: &FetchContext, cause: &str) -> Option<Fetched> {
        let asked = self.asked(secret, cx);
        let found = self.find(&asked, cx).await?;
        Some(self.give(&asked, found, cause))
    }
}

#[cfg(test)]
mod tests;
