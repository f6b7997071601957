//! A slot keeps the result of a login. If many ask at the same time, only one of them logs in. Before that result ends, one logs in again.
//!
//! A login may give a store token, an access key, or the role that a ServiceAccount's annotation names. That differs from store to store.
//! The same for all stores, and here, is who shares a result, who waits for whom, and who shares a failure.
//!
//! Classes name roles, and a namespace may invent as many as it likes. So each namespace has its share of the slots, and too many roles
//! push out only the slots of their own namespace.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant, timeout_at};

use super::refusal::Refusal;
use crate::backend::Fault;
use crate::shelf::Shelf;

/// The most Pods that a slot knows by name. If more Pods have used it, the slot is kept until its login ends.
const MAX_PODS: usize = 4_096;

/// How long an early login may take: the former result still works.
const EARLY: Duration = Duration::from_secs(5);

/// How long after an early login, good or bad, no other early login is made.
const REST: Duration = Duration::from_secs(30);

/// The result of a login.
pub(in crate::backend) trait Pass: Send + Sync {
    /// How long those who share a failed login do not try again, if the slot stays. A mount of a hundred objects asks again and again.
    const REMEMBERED: Duration = Duration::ZERO;

    fn standing(&self) -> Standing;
}

/// Whether the result can be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::backend) enum Standing {
    /// It works, and somebody may already make the next one.
    Due,
    /// It works.
    Fresh,
    /// It expired, or was refused.
    Spent,
}

/// The slots of a store, by who shares them. There is no lock inside: the owner has a lock around it.
#[derive(Debug)]
pub(in crate::backend) struct Slots<K, T>(Shelf<Arc<K>, Arc<Slot<T>>>);

/// A slot, and the slots that had to go to make room for it.
type Entered<T> = (Arc<Slot<T>>, Vec<Arc<Slot<T>>>);

/// The result of a login, and who uses it.
#[derive(Debug)]
pub(in crate::backend) struct Slot<T> {
    /// Locked by the one who logs in, or who asks whether the present result still works. The others wait for that.
    pub(in crate::backend) turn: tokio::sync::Mutex<()>,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    pass: Option<Arc<T>>,
    /// The Pods that use it, by uid.
    pods: HashSet<Arc<str>>,
    /// More Pods use it than are known by name.
    crowded: bool,
    /// How many logins have ended, and how the last one failed.
    logins: u64,
    failed: Option<Failed>,
    rests_until: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Failed {
    at: Instant,
    /// The Pod that logged in.
    pod: Arc<str>,
    refusal: Refusal,
}

// === impl Slots ===

impl<K: Eq + Hash, T> Slots<K, T> {
    /// For slots of so many bytes together. Slots in use may exceed that.
    pub(in crate::backend) fn of_bytes(bytes: usize) -> Self {
        Self(Shelf::of_bytes(bytes))
    }

    /// The slot of a login, with this Pod among its users; and the slots that had to go to make room for it.
    pub(in crate::backend) fn enter(&mut self, tenant: &str, key: K, pod: &Arc<str>, weight: usize) -> Entered<T> {
        if let Some(slot) = self.0.find(&key) {
            slot.used_by(pod);
            return (Arc::clone(slot), Vec::new());
        }
        let slot = Arc::new(Slot::default());
        slot.used_by(pod);
        let gone = self.0.put(tenant, Arc::new(key), Arc::clone(&slot), weight, is_in_use);
        (slot, gone)
    }

    /// After a login that failed: its slot is not kept, since that login may never work.
    pub(in crate::backend) fn leave(&mut self, key: &K, slot: &Arc<Slot<T>>) {
        let is_the_one = self.0.find(key).is_some_and(|known| Arc::ptr_eq(known, slot));
        // These two are the table's and the caller's. Anybody else could get it only from the table.
        if is_the_one && slot.pass().is_none() && Arc::strong_count(slot) <= 2 {
            self.0.remove(key);
        }
    }

    /// The Pod is gone. Slots that no other Pod uses are removed too.
    pub(in crate::backend) fn forget(&mut self, pod: &str) -> Vec<Arc<Slot<T>>> {
        let mut idle = Vec::new();
        self.0.retain(|slot| {
            if !slot.left_by(pod) || is_in_use(slot) {
                return true;
            }
            idle.push(Arc::clone(slot));
            false
        });
        idle
    }

    pub(in crate::backend) fn values(&self) -> impl Iterator<Item = &Arc<Slot<T>>> {
        self.0.values()
    }

    #[cfg(test)]
    pub(in crate::backend) fn find(&mut self, key: &K) -> Option<&Arc<Slot<T>>> {
        self.0.find(key)
    }

    #[cfg(test)]
    pub(in crate::backend) fn weight(&self) -> usize {
        self.0.weight()
    }

    #[cfg(test)]
    pub(in crate::backend) fn weight_of(&self, tenant: &str) -> usize {
        self.0.weight_of(tenant)
    }
}

/// A caller that uses a slot now holds a second reference, besides the table's.
fn is_in_use<T>(slot: &Arc<Slot<T>>) -> bool {
    Arc::strong_count(slot) > 1
}

// === impl Slot ===

impl<T> Default for Slot<T> {
    fn default() -> Self {
        let state = State { pass: None, pods: HashSet::new(), crowded: false, logins: 0, failed: None, rests_until: None };
        Self { turn: tokio::sync::Mutex::default(), state: Mutex::new(state) }
    }
}

impl<T> Slot<T> {
    pub(in crate::backend) fn pass(&self) -> Option<Arc<T>> {
        self.state().pass.clone()
    }

    // === who uses it ===

    fn used_by(&self, pod: &Arc<str>) {
        let mut state = self.state();
        if state.pods.contains(pod) {
            return;
        }
        if state.pods.len() < MAX_PODS {
            state.pods.insert(Arc::clone(pod));
        } else {
            state.crowded = true;
        }
    }

    /// Whether this Pod was the last that used it.
    fn left_by(&self, pod: &str) -> bool {
        let mut state = self.state();
        state.pods.remove(pod) && state.pods.is_empty() && !state.crowded
    }

    /// A panic elsewhere cannot leave it half-changed: each step is one assignment or one call of a set's method.
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Pass> Slot<T> {
    /// The present result, if it is another than `spent`, or else what `log_in` gives. If many come at the same time, one logs in. Nobody
    /// else waits for an early login. If an early login fails because of the server's trouble, the present result stays in use.
    ///
    /// Those who waited for a login share its failure, if the failure is the server's trouble or the login was the same Pod's.
    ///
    /// # Errors
    /// The error of `log_in`, or there was no turn in time.
    pub(in crate::backend) async fn enter(
        &self,
        spent: Option<&Arc<T>>,
        pod: &Arc<str>,
        deadline: Instant,
        log_in: impl Future<Output = Result<Arc<T>, Refusal>>,
    ) -> Result<Arc<T>, Refusal> {
        let usable = |found: Standing| {
            let pass = self.pass().filter(|pass| spent.is_none_or(|spent| !Arc::ptr_eq(spent, pass)))?;
            (pass.standing() == found).then_some(pass)
        };
        if let Some(pass) = usable(Standing::Fresh) {
            return Ok(pass);
        }
        if let Some(pass) = usable(Standing::Due) {
            return self.renew(pass, pod, deadline, log_in).await;
        }
        let seen = self.state().logins;
        let Ok(_turn) = timeout_at(deadline, self.turn.lock()).await else { return Err(no_turn()) };
        if let Some(pass) = usable(Standing::Fresh).or_else(|| usable(Standing::Due)) {
            return Ok(pass);
        }
        match self.failure(seen, pod) {
            Some(refusal) => Err(refusal),
            None => self.ended(pod, log_in.await),
        }
    }

    async fn renew(
        &self,
        pass: Arc<T>,
        pod: &Arc<str>,
        deadline: Instant,
        log_in: impl Future<Output = Result<Arc<T>, Refusal>>,
    ) -> Result<Arc<T>, Refusal> {
        let now = Instant::now();
        let rests = |state: &State<T>| state.rests_until.is_some_and(|until| now < until);
        if rests(&self.state()) {
            return Ok(pass);
        }
        let Ok(_turn) = self.turn.try_lock() else { return Ok(pass) };
        // Somebody may have been quicker.
        if rests(&self.state()) {
            return Ok(self.pass().unwrap_or(pass));
        }
        self.state().rests_until = Some(now + REST);
        let Ok(made) = timeout_at(deadline.min(now + EARLY), log_in).await else { return Ok(pass) };
        match made {
            Err(refusal) if refusal.is_of_store() || !is_an_answer(refusal.fault) => {
                tracing::debug!(reason = refusal.for_admin(), "a login could not be renewed; Keyferry uses the former one until it ends");
                Ok(pass)
            }
            made => self.ended(pod, made),
        }
    }

    fn ended(&self, pod: &Arc<str>, made: Result<Arc<T>, Refusal>) -> Result<Arc<T>, Refusal> {
        let mut state = self.state();
        state.logins += 1;
        let failed = made.as_ref().err().filter(|refusal| refusal.is_of_store() || is_an_answer(refusal.fault));
        state.failed = failed.map(|refusal| Failed { at: Instant::now(), pod: Arc::clone(pod), refusal: refusal.clone() });
        match &made {
            Ok(pass) => state.pass = Some(Arc::clone(pass)),
            // After a refusal, the former result is not used either.
            Err(refusal) if is_an_answer(refusal.fault) && !refusal.is_of_store() => state.pass = None,
            Err(_) => {}
        }
        made
    }

    /// How the last login failed, if this Pod shares that failure. `seen`: the number of logins when the Pod began to wait.
    fn failure(&self, seen: u64, pod: &Arc<str>) -> Option<Refusal> {
        let state = self.state();
        let Failed { at, pod: whose, refusal } = state.failed.as_ref()?;
        let is_shared = refusal.is_of_store() || whose == pod;
        let is_recent = state.logins > seen || at.elapsed() < T::REMEMBERED;
        (is_shared && is_recent).then(|| refusal.clone())
    }
}

/// Whether somebody has said no. A call that was too late for this one may be in time for the next one.
fn is_an_answer(fault: Fault) -> bool {
    match fault {
        Fault::NoTurn | Fault::Short | Fault::TimedOut => false,
        Fault::Corrupt
        | Fault::Denied
        | Fault::Down
        | Fault::Invalid
        | Fault::NoLogin
        | Fault::NotFound
        | Fault::Throttled
        | Fault::TooLarge
        | Fault::Unauthenticated
        | Fault::Unavailable
        | Fault::Unhelpful
        | Fault::Unsupported => true,
    }
}

pub(in crate::backend) fn no_turn() -> Refusal {
    Refusal::new(Fault::TimedOut, "the request waited for the login of another one, and that did not end in time (is the store slow?)")
}

#[cfg(test)]
mod tests;
