//! A decorator: it limits the calls to a store at once, ends each call at its deadline, and counts it.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use tokio::sync::Semaphore;
use tokio::time::{Duration, Instant, timeout_at};

use crate::backend::{Backend, BackendError, FetchContext};
use crate::model::{BackendName, Fetched, Lease, SecretName, SecretPrefix, SecretRef};
use crate::telemetry::{CallCounters, Metrics};
use crate::turns::Turns;

/// The daemon's own calls to one store at once.
const OWN: usize = 16;

#[derive(Debug)]
pub struct Limited {
    inner: Arc<dyn Backend>,
    name: BackendName,
    places: Turns,
    /// For the daemon's own calls, about leases: tenants have no part in these.
    own: Semaphore,
    metrics: Arc<Metrics>,
    /// Set by the first answer from memory.
    recalled: OnceLock<CallCounters>,
}

impl Limited {
    /// Allows at most `calls` calls of mounts at once, which tenants share. Other calls wait in their tenants' lines until their deadlines. Every
    /// fifth place is for a tenant that has no call under way, because the other calls to a slow store may all take minutes.
    pub fn new(inner: Arc<dyn Backend>, name: BackendName, calls: usize, metrics: Arc<Metrics>) -> Self {
        metrics.backend_begins(name.as_str());
        let (places, own) = (Turns::with_firsts(calls), Semaphore::new(OWN));
        Self { inner, name, places, own, metrics, recalled: OnceLock::new() }
    }

    async fn within<T>(
        &self,
        operation: &'static str,
        secret: Option<&SecretName>,
        whose: Option<&FetchContext>,
        deadline: Instant,
        call: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let began = Instant::now();
        let late = |since, asked| Err(BackendError::late(&self.name, secret, since, asked));
        let placed = async {
            let (_turn, _place);
            if let Some(cx) = whose {
                let turn = match &cx.party {
                    Some(party) => self.places.take_for(party, deadline).await,
                    None => self.places.take(&cx.tenant(), deadline).await,
                };
                // Without a turn before the deadline, the call's time has ended as well.
                let Some(turn) = turn else { return late(began, false) };
                _turn = turn;
                cx.called.mark();
            } else {
                // The semaphore is never closed.
                _place = self.own.acquire().await;
            }
            let asked = Instant::now();
            let until = whose.and_then(|cx| cx.patience).map_or(deadline, |patience| deadline.min(asked + patience));
            timeout_at(until, call).await.unwrap_or_else(|_| late(asked, true))
        };
        let was_asked = || whose.is_none_or(|cx| cx.called.is_marked());
        let answer = timeout_at(deadline, placed).await.unwrap_or_else(|_| late(began, was_asked()));
        let fault = answer.as_ref().err().map(|error| error.fault.as_str());
        self.metrics.backend_call(self.name.as_str(), operation, fault, began.elapsed());
        answer
    }
}

#[async_trait]
impl crate::backend::stack::Decorator for Limited {
    fn inner(&self) -> &dyn Backend {
        &*self.inner
    }

    async fn fetch(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError> {
        self.within("fetch", Some(&secret.name), Some(cx), cx.deadline, self.inner.fetch(secret, cx)).await
    }

    /// It takes no place, because nothing waits for it. It counts as the call that it saves, with zero duration: reading the clock would take
    /// longer.
    fn recall(&self, secret: &SecretRef, cx: &FetchContext, now: Instant) -> Option<Fetched> {
        let known = self.inner.recall(secret, cx, now)?;
        self.recalled.get_or_init(|| self.metrics.backend_calls(self.name.as_str(), "fetch")).count(Duration::ZERO);
        Some(known)
    }

    async fn list(&self, prefix: &SecretPrefix, cx: &FetchContext) -> Result<Vec<SecretName>, BackendError> {
        self.within("list", None, Some(cx), cx.deadline, self.inner.list(prefix, cx)).await
    }

    async fn renew(&self, lease: Lease, deadline: Instant) -> Result<Lease, BackendError> {
        self.within("renew", None, None, deadline, self.inner.renew(lease, deadline)).await
    }

    async fn revoke(&self, lease: Lease, deadline: Instant) -> Result<(), BackendError> {
        self.within("revoke", None, None, deadline, self.inner.revoke(lease, deadline)).await
    }
}
