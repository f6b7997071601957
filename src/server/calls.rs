//! Places for calls that have begun: a number for each connection, and more that all share. A peer that begins calls and does not end them
//! uses up the shared places, but never the own places of other connections.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::seats::SEATS;

/// Calls that every connection may have begun, whatever others do.
const OWN: usize = 16;

/// Calls beyond these, over all connections: 16,384 in all.
const SHARED: usize = 16_384 - SEATS * OWN;

/// What all connections share.
#[derive(Clone, Debug)]
pub(super) struct Calls(Arc<Semaphore>);

/// One connection's.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    own: Arc<Semaphore>,
    shared: Arc<Semaphore>,
}

impl Calls {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(SHARED)))
    }

    pub(super) fn lane(&self) -> Lane {
        Lane { own: Arc::new(Semaphore::new(OWN)), shared: Arc::clone(&self.0) }
    }
}

impl Lane {
    /// A place, kept while the answer lives. The semaphores are never closed: `None` does not happen.
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.own).try_acquire_owned() {
            return Some(place);
        }
        tokio::select! {
            place = Arc::clone(&self.own).acquire_owned() => place.ok(),
            place = Arc::clone(&self.shared).acquire_owned() => place.ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_connection_cannot_take_anothers_places() {
        let calls = Calls::new();
        let (greedy, other) = (calls.lane(), calls.lane());
        // Without the runtime's own limit for one task.
        let now = |lane: &Lane| {
            let lane = lane.clone();
            tokio::task::unconstrained(Box::pin(async move { lane.place().await })).now_or_never()
        };
        let mut held = Vec::new();
        while let Some(place) = now(&greedy) {
            held.push(place);
        }
        assert_eq!(held.len(), OWN + SHARED);
        let mut others: Vec<_> = (0..OWN).map(|_| now(&other).unwrap()).collect();
        assert!(now(&other).is_none());
        // Its own places come back, however many calls of the greedy connection wait.
        let waiting = tokio::spawn(async move { greedy.place().await });
        tokio::task::yield_now().await;
        others.pop();
        assert!(now(&other).is_some());
        held.pop();
        assert!(waiting.await.unwrap().is_some());
    }
}
