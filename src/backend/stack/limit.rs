//! A decorator: at most so many calls to a store at once, none past its deadline, and each one counted.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::backend::{Backend, BackendError, FetchContext};
use crate::model::{BackendName, Fetched, Lease, SecretName, SecretPrefix, SecretRef};
use crate::telemetry::Metrics;

#[derive(Debug)]
pub struct Limited {
    inner: Arc<dyn Backend>,
    name: BackendName,
    places: Semaphore,
    metrics: Arc<Metrics>,
}

impl Limited {
    /// Lets at most `calls` calls through at once; the others wait in line until their deadlines.
    pub fn new(inner: Arc<dyn Backend>, name: BackendName, calls: usize, metrics: Arc<Metrics>) -> Self {
        Self { inner, name, places: Semaphore::new(calls.clamp(1, Semaphore::MAX_PERMITS)), metrics }
    }

    async fn within<T>(
        &self,
        operation: &'static str,
        secret: Option<&SecretName>,
        deadline: Instant,
        call: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let began = Instant::now();
        let placed = async {
            // The semaphore is never closed.
            let _place = self.places.acquire().await;
            call.await
        };
        let answer = timeout_at(deadline, placed).await.unwrap_or_else(|_| Err(BackendError::late(&self.name, secret, began)));
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
        self.within("fetch", Some(&secret.name), cx.deadline, self.inner.fetch(secret, cx)).await
    }

    /// Takes no place: nothing waits for it. It is counted as the call that it spares.
    fn recall(&self, secret: &SecretRef, cx: &FetchContext) -> Option<Fetched> {
        let began = Instant::now();
        let known = self.inner.recall(secret, cx)?;
        self.metrics.backend_call(self.name.as_str(), "fetch", None, began.elapsed());
        Some(known)
    }

    async fn list(&self, prefix: &SecretPrefix, cx: &FetchContext) -> Result<Vec<SecretName>, BackendError> {
        self.within("list", None, cx.deadline, self.inner.list(prefix, cx)).await
    }

    async fn renew(&self, lease: Lease, deadline: Instant) -> Result<Lease, BackendError> {
        self.within("renew", None, deadline, self.inner.renew(lease, deadline)).await
    }

    async fn revoke(&self, lease: Lease, deadline: Instant) -> Result<(), BackendError> {
        self.within("revoke", None, deadline, self.inner.revoke(lease, deadline)).await
    }
}
