//! Whether a store is out, as far as this node's own calls tell. The log says so once when it begins, and once when it ends.
//!
//! One path that fails alone (a broken database role answers 500) is not an outage of its store. So it takes two secrets, or a minute,
//! without an answer between.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant};

use crate::backend::{BackendError, Fault};
use crate::model::{BackendName, SecretName};

/// So long may one secret's requests fail before the store is said to be out.
const ALONE: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub struct Outage {
    backend: BackendName,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Answers,
    /// Since then it has answered nothing; who asked first.
    Silent { since: Instant, first: SecretName },
    /// The log has said so.
    Out { since: Instant },
}

/// What a call shows of the store.
enum Sign {
    Answered,
    Out,
    /// It may not have been asked.
    Nothing,
}

// === impl Outage ===

impl Outage {
    pub fn of(backend: &BackendName) -> Self {
        Self { backend: backend.clone(), state: Mutex::default() }
    }

    pub fn is_on(&self) -> bool {
        matches!(*self.lock(), State::Out { .. })
    }

    /// A call for this secret has ended, with this error if it failed.
    pub fn note(&self, secret: &SecretName, error: Option<&BackendError>) {
        match (Sign::of(error), error) {
            (Sign::Answered, _) => self.answered(),
            (Sign::Out, Some(error)) => self.failed(secret, error),
            (Sign::Nothing | Sign::Out, _) => {}
        }
    }

    fn answered(&self) {
        let before = std::mem::take(&mut *self.lock());
        if let State::Out { since } = before {
            tracing::info!(backend = %self.backend, seconds = since.elapsed().as_secs(), "the store answers again");
        }
    }

    fn failed(&self, secret: &SecretName, error: &BackendError) {
        let mut state = self.lock();
        let since = match &*state {
            State::Answers => {
                *state = State::Silent { since: Instant::now(), first: secret.clone() };
                return;
            }
            State::Silent { since, first } if first != secret || since.elapsed() >= ALONE => *since,
            State::Silent { .. } | State::Out { .. } => return,
        };
        *state = State::Out { since };
        drop(state);
        tracing::warn!(
            backend = %self.backend,
            cause = %error.in_full().reason,
            "the store is out: until it answers again, mounts get what cache.stale allows, and fail without that"
        );
    }

    /// Nothing that is done under the lock panics.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Sign ===

impl Sign {
    fn of(error: Option<&BackendError>) -> Self {
        match error.map(|error| error.fault) {
            None | Some(Fault::Corrupt | Fault::Denied | Fault::NotFound | Fault::Unauthenticated) => Self::Answered,
            Some(Fault::Throttled | Fault::TimedOut | Fault::Unavailable) => Self::Out,
            Some(Fault::Invalid | Fault::NoTurn | Fault::Short | Fault::TooLarge | Fault::Unhelpful | Fault::Unsupported) => Self::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    struct Bench(Outage);

    impl Bench {
        fn new() -> Self {
            Self(Outage::of(&"bao".parse().unwrap()))
        }

        /// Whether it is on after this call.
        fn after(&self, secret: &str, fault: Option<Fault>) -> bool {
            let error = fault.map(|fault| BackendError {
                fault,
                backend: "bao".parse().unwrap(),
                secret: None,
                reason: "as it is".to_owned(),
                source: None,
            });
            self.0.note(&secret.parse().unwrap(), error.as_ref());
            self.0.is_on()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn two_secrets_that_fail_are_an_outage_until_there_is_an_answer() {
        let bench = Bench::new();
        assert!(!bench.after("kv/a", Some(Fault::Unavailable)));
        assert!(bench.after("kv/b", Some(Fault::TimedOut)));
        for nothing in [Fault::NoTurn, Fault::Unhelpful, Fault::Invalid, Fault::Throttled] {
            assert!(bench.after("kv/c", Some(nothing)), "{nothing:?}");
        }
        for answer in [None, Some(Fault::Denied), Some(Fault::NotFound), Some(Fault::Unauthenticated), Some(Fault::Corrupt)] {
            assert!(!bench.after("kv/a", answer) && !bench.after("kv/a", Some(Fault::Throttled)), "{answer:?}");
            assert!(bench.after("kv/b", Some(Fault::Unavailable)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_secret_that_fails_alone_is_none() {
        let bench = Bench::new();
        for _ in 0..100 {
            assert!(!bench.after("db/broken", Some(Fault::Unavailable)) && !bench.after("kv/a", None));
            advance(Duration::from_mins(2)).await;
        }
        assert!(!bench.after("db/broken", Some(Fault::Unavailable)));
        advance(ALONE).await;
        assert!(bench.after("db/broken", Some(Fault::Unavailable)), "the store has answered nobody for a minute");
    }
}
