//! A decorator: what is out is not asked again and again (docs/outage.md). What is known of servers and requests is in [`Circuits`]; this asks,
//! notes, and has somebody look at a server that is in doubt.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use tokio::time::{Duration, Instant, sleep, timeout};

use super::asked::Asked;
use super::circuits::{Circuits, Looking};
use crate::backend::{Backend, BackendError, FetchContext};
use crate::model::{Fetched, SecretRef};

/// How long a look may take.
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

    /// Has somebody look at the request's server, if it is in doubt.
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

/// Looks at a server until it is found to answer, or nobody wants it any more.
async fn look(store: Weak<dyn Backend>, circuits: Arc<Circuits>, server: &'static str, looking: Looking) {
    for probes in 0.. {
        match circuits.next_probe(server, probes) {
            Some(wait) => sleep(wait).await,
            // A request has failed just now: that is worth one look.
            None if probes == 0 => {}
            None => break,
        }
        // Its backend may be gone by a reload.
        let Some(store) = store.upgrade() else { break };
        // A file system of ours that hangs says nothing of the store.
        let Ok(found) = timeout(LOOK, store.probe(server)).await else { break };
        circuits.probed(server, &found);
    }
    drop(looking);
}

#[cfg(test)]
mod tests;
