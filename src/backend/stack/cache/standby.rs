//! A decorator: while the store is out, the last good answer is given in its place, for `cache.stale`.
//!
//! It stands outside of what makes one request of many: whether an answer of before may serve hangs on who waits, and not on who was first to
//! ask. What is kept, and what goes when the store says no, is the [`Table`]'s business, which [`Cached`](super::Cached) fills.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::time::{Duration, Instant};

use super::rule::Rule;
use super::table::Table;
use crate::backend::stack::asked::Asked;
use crate::backend::stack::outage::Outage;
use crate::backend::{Backend, BackendError, FetchContext};
use crate::model::{Fetched, SecretRef, Source, Verb};

/// How long a store may take while an answer of before is at hand: as long as the client's tries may take where nobody listens.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is left of a mount's time at least, for what comes after its secrets.
const REST: Duration = Duration::from_secs(1);

/// How often the log says that such answers are given though the store is not out. What begins an outage is not said before that is known.
const SAY_AGAIN: Duration = Duration::from_mins(1);

/// After so long without such an answer, the next one begins something new.
const SAID: Duration = Duration::from_mins(10);

#[derive(Debug)]
pub struct Standby {
    inner: Arc<dyn Backend>,
    table: Arc<Table>,
    stale: Duration,
    outage: Arc<Outage>,
    /// When the last such answer was given, and when the log was last due.
    said: Mutex<Option<Said>>,
}

#[derive(Clone, Copy, Debug)]
struct Said {
    given: Instant,
    due: Instant,
}

// === impl Standby ===

impl Standby {
    /// Gives what the `table` keeps, as long as it is younger than `stale`.
    pub(in crate::backend) fn new(inner: Arc<dyn Backend>, table: Arc<Table>, stale: Duration, outage: Arc<Outage>) -> Self {
        Self { inner, table, stale, outage, said: Mutex::default() }
    }

    /// What is kept for this request and young enough for this class.
    fn find(&self, asked: &Asked, cx: &FetchContext, cause: &str) -> Option<Fetched> {
        let (kept, age) = self.table.find_stale(asked, cx.stale_within(self.stale))?;
        let source = Source::Stale { age, bound: self.stale, cause: cause.to_owned() };
        Some(Fetched { secret: Arc::clone(&kept.answer), source, by: kept.by.clone() })
    }

    /// Where there is something to fall back on, nobody waits for as long as they can.
    async fn ask(&self, asked: &Asked, cx: &FetchContext) -> Result<Fetched, BackendError> {
        if self.find(asked, cx, "").is_none() {
            return self.inner.fetch(&asked.secret, cx).await;
        }
        let rest = REST.min(cx.deadline.saturating_duration_since(Instant::now()) / 10);
        let cx = FetchContext { patience: Some(PATIENCE), deadline: cx.deadline - rest, ..cx.clone() };
        self.inner.fetch(&asked.secret, &cx).await
    }

    /// One secret's requests fail while the store answers others: its outage is nobody else's, and so nothing else says it.
    fn tell(&self, given: &Fetched, asked: &Asked) {
        let Source::Stale { age, cause, .. } = &given.source else { return };
        if self.is_due() && !self.outage.is_on() {
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
        if secret.verb() != Verb::Read {
            return self.inner.fetch(secret, cx).await;
        }
        let asked = Asked { scope: self.inner.scope(secret, &cx.pod), secret: secret.clone() };
        let error = match self.ask(&asked, cx).await {
            Ok(fetched) => return Ok(fetched),
            Err(error) => error,
        };
        if !error.fault.is_outage() && self.table.holds(Rule::Outage) {
            return Err(error);
        }
        let Some(given) = self.find(&asked, cx, &error.reason) else { return Err(error) };
        self.table.counters.stales.inc();
        self.tell(&given, &asked);
        Ok(given)
    }

    fn recall(&self, secret: &SecretRef, cx: &FetchContext) -> Option<Fetched> {
        self.inner.recall(secret, cx)
    }
}

#[cfg(test)]
mod tests;
