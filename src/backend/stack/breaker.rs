//! A decorator: Keyferry does not ask again and again what is out (docs/outage.md). [`Circuits`] has what is known about servers and requests. The
//! decorator asks the circuits, reports results to them, and starts a task that looks at a server in doubt.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use tokio::time::{Duration, Instant, sleep, timeout};

use super::asked::Asked;
use super::circuits::{Circuits, Looking};
use crate::backend::{Backend, BackendError, FetchContext};
use crate::model::{Fetched, SecretRef};

/// The longest time of one look.
const LOOK: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Breaker {
    inner: Arc<dyn Backend>,
    circuits: Arc<Circuits>,
}

// === impl Breaker ===

impl Breaker {
    pub(in crate::backend) fn new(inner: Arc<dyn Backend>, circuits: Arc<Circuits>) -> Self {
        Self { inner, circuits }
    }

    /// Starts a task that looks at the request's server, if it is in doubt.
    fn look(&self, secret: &SecretRef) {
        if let Some((server, looking)) = self.circuits.look(secret) {
            tokio::spawn(look(Arc::downgrade(&self.inner), Arc::clone(&self.circuits), server, looking));
        }
    }
}

#[async_trait]
impl crate::backend::stack::Decorator for Breaker {
    fn inner(&self) -> &dyn Backend {
        &*self.inner
    }

    async fn fetch(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError> {
        let asked = Asked { scope: self.inner.scope(secret, &cx.pod), secret: secret.clone() };
        let tenant = cx.tenant();
        if let Some(refused) = self.circuits.refuse(&asked, &tenant) {
            self.look(secret);
            return Err(refused);
        }
        let began = Instant::now();
        let answer = self.inner.fetch(secret, cx).await;
        self.circuits.note(&asked, &tenant, answer.as_ref().err(), (began, cx.patience.is_some()));
        self.look(secret);
        answer
    }

    fn recall(&self, secret: &SecretRef, cx: &FetchContext, now: Instant) -> Option<Fetched> {
        self.inner.recall(secret, cx, now)
    }

    fn is_out(&self, secret: &SecretRef, cx: &FetchContext) -> bool {
        let asked = Asked { scope: self.inner.scope(secret, &cx.pod), secret: secret.clone() };
        self.circuits.would_refuse(&asked, &cx.tenant()).is_some()
    }
}

/// Looks at a server until it answers, or until no mount needs it any more.
async fn look(store: Weak<dyn Backend>, circuits: Arc<Circuits>, server: &'static str, looking: Looking) {
    for probes in 0.. {
        match circuits.next_probe(server, probes) {
            Some(wait) => sleep(wait).await,
            // A request has failed just now: that is a reason for one look.
            None if probes == 0 => {}
            None => break,
        }
        // Its backend may be gone after a reload.
        let Some(store) = store.upgrade() else { break };
        // If our own file system hangs, that says nothing about the store.
        let Ok(found) = timeout(LOOK, store.probe(server)).await else { break };
        circuits.probed(server, &found);
    }
    drop(looking);
}

#[cfg(test)]
mod tests;
