//! A slot keeps what a login gave. Of many who ask at the same time, one logs in; and one logs in again before it ends.
//!
//! A login may give a store token, an access key, or the role that a ServiceAccount's annotation names: that is each store's own. Who shares
//! it, who waits for whom, and who shares a failure, is the same for all stores and is here.
//!
//! Classes name roles, and a namespace may make up as many as it likes: slots are shared by namespace, so that it pushes out its own.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant, timeout_at};

use super::refusal::Refusal;
use crate::backend::Fault;
use crate::shelf::Shelf;

/// The most Pods a slot knows by name; one that more have used is kept until its login ends.
const MAX_PODS: usize = 4_096;

/// The longest that a login may take which is made before it has to be: what there is still serves.
const EARLY: Duration = Duration::from_secs(5);

/// How long after such a login, however it went, no other is made before it has to be.
const REST: Duration = Duration::from_secs(30);

/// What a login gave.
pub(in crate::backend) trait Pass: Send + Sync {
    /// How long a failed login is not tried again by those whose failure it was, where the slot stays: a mount of a hundred objects asks
    /// again and again.
    const REMEMBERED: Duration = Duration::ZERO;

    fn standing(&self) -> Standing;
}

/// Whether it can be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::backend) enum Standing {
    /// It serves, and somebody may make the next one meanwhile.
    Due,
    /// It serves.
    Fresh,
    /// It ended, or was refused.
    Spent,
}

/// The slots of a store, by who shares them. Not synchronised: its owner has a lock around it.
#[derive(Debug)]
pub(in crate::backend) struct Slots<K, T>(Shelf<Arc<K>, Arc<Slot<T>>>);

/// A slot, and others that went for it.
type Entered<T> = (Arc<Slot<T>>, Vec<Arc<Slot<T>>>);

/// What a login gave, and who uses it.
#[derive(Debug)]
pub(in crate::backend) struct Slot<T> {
    /// Held by the one who logs in, or asks whether what there is still lives: the others wait for what comes of it.
    pub(in crate::backend) turn: tokio::sync::Mutex<()>,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    pass: Option<Arc<T>>,
    /// The Pods that use it, by uid.
    pods: HashSet<Arc<str>>,
    /// More than are known by name.
    crowded: bool,
    /// Logins that came to an end, and how the last one failed.
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
    /// For slots of so many bytes together, but for those in use.
    pub(in crate::backend) fn of_bytes(bytes: usize) -> Self {
        Self(Shelf::of_bytes(bytes))
    }

    /// The slot of a login, with this Pod among its users; and others that went for it.
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

    /// After a login that failed: nothing is kept of one that there may never be.
    pub(in crate::backend) fn leave(&mut self, key: &K, slot: &Arc<Slot<T>>) {
        let is_the_one = self.0.find(key).is_some_and(|known| Arc::ptr_eq(known, slot));
        // The table's and the caller's. Others would have to come by the table.
        if is_the_one && slot.pass().is_none() && Arc::strong_count(slot) <= 2 {
            self.0.remove(key);
        }
    }

    /// The Pod is gone: the slots that nobody uses any more go with it.
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

/// A caller that uses a slot now holds it beside the table.
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

    /// Whether nobody is left by it, of those that there were.
    fn left_by(&self, pod: &str) -> bool {
        let mut state = self.state();
        state.pods.remove(pod) && state.pods.is_empty() && !state.crowded
    }

    /// A panic elsewhere cannot leave it half-changed: each step is one assignment or one call of a set's.
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Pass> Slot<T> {
    /// What there is, other than `spent`, or what `log_in` gives. Of many who come at once one logs in. A login that is made before it
    /// has to be keeps nobody else waiting, and if it fails by trouble of the server's, what there is serves on.
    ///
    /// A failure is shared by those who waited for it, if it is the server's own trouble or was the same Pod's; any other is its own.
    ///
    /// # Errors
    /// What `log_in` says, or there was no turn in time.
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
                tracing::debug!(reason = refusal.for_admin(), "a login could not be renewed; what it gave serves until it ends");
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
            // Who is refused now has nothing from before, either.
            Err(refusal) if is_an_answer(refusal.fault) && !refusal.is_of_store() => state.pass = None,
            Err(_) => {}
        }
        made
    }

    /// How the last login failed, if that is this Pod's failure as well. `seen`: the logins before it began to wait.
    fn failure(&self, seen: u64, pod: &Arc<str>) -> Option<Refusal> {
        let state = self.state();
        let Failed { at, pod: whose, refusal } = state.failed.as_ref()?;
        let is_shared = refusal.is_of_store() || whose == pod;
        let is_recent = state.logins > seen || at.elapsed() < T::REMEMBERED;
        (is_shared && is_recent).then(|| refusal.clone())
    }
}

/// Whether somebody has said no. What came too late may be in time for the next one.
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
    Refusal::new(Fault::TimedOut, "others were logging in there, and did not come to an end in time (is the store slow?)")
}

#[cfg(test)]
mod tests;
