//! The table of leases: what is kept, for whom, and the way a mount comes by it. Made once a process; a reload leaves it as it is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Duration, Instant, timeout_at};

use super::disk::Disk;
use super::flight::{Flight, HandOver, Landing};
use super::life::Moment;
use super::pods::has_folder;
use super::record::{Key, Record};
use super::state::State;
use super::{LeasesConfig, Store};
use crate::backend::stack::sealed::Sealed;
use crate::backend::{Backend, BackendError, Fault, FetchContext};
use crate::clock::Clock;
use crate::memo::Memo;
use crate::model::{Fetched, PodIdentity, SecretRef};
use crate::telemetry::{LeaseEvent, Metrics};

/// How long a mount waits for a new credential while the old one is good: a slow store costs no mount its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long after its mount's deadline a store may still answer: a credential that it is about to make is kept for the next try, which
/// would make another.
const LATE: Duration = Duration::from_secs(15);

/// Requests that are known to come without a lease.
const PLAIN: usize = 4096;

/// Every lease of the process.
pub struct Leases {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
    /// kubelet's folder of Pods.
    pub(super) pods: PathBuf,
    /// Where leases outlive the process.
    pub(super) disk: Option<Disk>,
    pub(super) revoke_at_end: AtomicBool,
    pub(super) changed: Notify,
    /// What came without a lease when it was last asked for.
    plain: Memo<SecretRef, ()>,
    state: Mutex<State>,
}

/// How a mount goes on.
enum Way {
    Given(Fetched),
    /// Somebody is issuing.
    Follow(Flight, Old),
    Lead(Runway, Old),
}

/// Whether a credential is there that is still good.
type Old = bool;

/// The right to issue for a key. Dropped, it lets the next one try.
struct Runway {
    leases: Arc<Leases>,
    key: Key,
    waiting: Option<oneshot::Sender<Landing>>,
}

// === impl Leases ===

impl Leases {
    /// Reads what a former process has left in the sealed folder; without one, leases live as long as the process.
    ///
    /// `kubelet_dir` is where kubelet keeps its Pods.
    ///
    /// The second of the answer says why the sealed folder cannot be read, if it cannot: nothing of it is taken up then.
    pub fn open(
        kubelet_dir: &Path,
        sealed: Option<&Arc<Sealed>>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> (Arc<Self>, Option<String>) {
        let mut state = State::new();
        let disk = sealed.map(Disk::new);
        let problem = match disk.as_ref().map(|disk| disk.read(clock.now())).transpose() {
            Ok(awaiting) => {
                state.awaiting = awaiting.unwrap_or_default();
                None
            }
            Err(problem) => Some(problem),
        };
        let (pods, revoke_at_end) = (kubelet_dir.join("pods"), AtomicBool::new(false));
        (
            Arc::new(Self {
                clock,
                metrics,
                pods,
                disk,
                revoke_at_end,
                changed: Notify::new(),
                plain: Memo::with_capacity(PLAIN),
                state: Mutex::new(state),
            }),
            problem,
        )
    }

    /// At the start, and after a reload.
    pub fn configure(&self, config: LeasesConfig) {
        self.revoke_at_end.store(config.revoke_at_shutdown, Ordering::Relaxed);
    }

    /// What is kept for this holder and request, else the store's answer, which is kept if it has a lease.
    pub(super) async fn fetch(self: &Arc<Self>, store: &Store, key: Key, cx: &FetchContext) -> Result<Fetched, BackendError> {
        self.note(&cx.pod.uid, &store.inner);
        if self.plain.find(&key.secret).is_some() {
            return self.pass(&key, store, cx).await;
        }
        let (began, secret) = (Instant::now(), &key.secret);
        let or_old = |error| self.given(&key, &cx.pod).ok_or(error);
        loop {
            match self.way(&key, store, &cx.pod) {
                Way::Given(given) => return Ok(given),
                Way::Lead(runway, old) => {
                    let issuing = HandOver::new(runway.issue(store.clone(), cx.clone()));
                    let answer = within(issuing, old, cx)
                        .await
                        .unwrap_or_else(|| Err(BackendError::late(&secret.backend, Some(&secret.name), began)));
                    return answer.or_else(or_old);
                }
                Way::Follow(flight, old) => match within(flight, old, cx).await {
                    None => return or_old(BackendError::late(&secret.backend, Some(&secret.name), began)),
                    Some(Ok(Landing::Failed(error))) if old || concerns_all(&error) => return or_old(error),
                    Some(Ok(Landing::Plain)) => return self.pass(&key, store, cx).await,
                    // The failure may be that one's own: its token, its time. A try of our own, unless somebody else is at it by now.
                    Some(Ok(Landing::Failed(_) | Landing::Kept) | Err(_)) => {}
                },
            }
        }
    }

    /// Straight to the store, for what came without a lease before: nothing is lost if it comes to nobody.
    async fn pass(&self, key: &Key, store: &Store, cx: &FetchContext) -> Result<Fetched, BackendError> {
        let fetched = store.inner.fetch(&key.secret, cx).await?;
        if fetched.secret.lease.is_none() {
            return Ok(fetched);
        }
        self.plain.remove(&key.secret);
        let kept = self.keep(key, store, fetched, &cx.pod);
        self.save_given(key).await;
        kept
    }

    /// What is kept and good for this Pod; or what came without a lease before and is at hand further in.
    pub(super) fn recall(&self, store: &Store, key: &Key, cx: &FetchContext) -> Option<Fetched> {
        if self.plain.find(&key.secret).is_some() {
            // Whatever is kept for this Pod alone, it was seen to ask for.
            return store.inner.recall(&key.secret, cx);
        }
        let now = self.now();
        let mut state = self.lock();
        // Whoever is given a lease is watched; to find a Pod's folder may take a while.
        if !state.pods.ask(&cx.pod.uid, &store.inner, now.at) {
            return None;
        }
        match self.kept(&mut state, key, store, &cx.pod, now) {
            Some((given, false)) => Some(given),
            Some((_, true)) | None => None,
        }
    }

    /// What is kept and still good, and whether it is to be replaced. What is not, is this Pod's from now on, too.
    fn kept(&self, state: &mut State, key: &Key, store: &Store, pod: &PodIdentity, now: Moment) -> Option<(Fetched, bool)> {
        let record = state.records.get_mut(&state.slots.get(key)?.given?)?;
        let given = record.give(now)?;
        let wanting = record.wants_replacing(store, now);
        if !wanting && record.used_by(pod) {
            state.unsaved.insert(record.id);
            self.changed.notify_one();
        }
        Some((given, wanting))
    }

    fn way(self: &Arc<Self>, key: &Key, store: &Store, pod: &PodIdentity) -> Way {
        let now = self.now();
        let mut state = self.lock();
        let old = match self.kept(&mut state, key, store, pod, now) {
            Some((given, false)) => return Way::Given(given),
            Some((_, true)) => true,
            None => false,
        };
        let slot = state.slots.entry(key.clone()).or_default();
        if let Some(flight) = &slot.flight {
            return Way::Follow(flight.clone(), old);
        }
        let (waiting, flight) = oneshot::channel();
        slot.flight = Some(flight.shared());
        Way::Lead(Runway { leases: Arc::clone(self), key: key.clone(), waiting: Some(waiting) }, old)
    }

    /// The Pod is watched from now on: whatever it is given here is taken back when it is gone.
    fn note(&self, uid: &str, backend: &Arc<dyn Backend>) {
        let now = Instant::now();
        if self.lock().pods.ask(uid, backend, now) {
            return;
        }
        let seen = has_folder(&self.pods, uid);
        if self.lock().pods.add(uid, backend, seen, now) {
            self.changed.notify_one();
        }
    }

    /// What is kept and still good, whether a newer one is wanted or not.
    fn given(&self, key: &Key, pod: &PodIdentity) -> Option<Fetched> {
        let now = self.now();
        let mut state = self.lock();
        let id = state.slots.get(key)?.given?;
        let record = state.records.get_mut(&id)?;
        let (news, given) = (record.used_by(pod), record.give(now));
        if news {
            state.unsaved.insert(id);
            self.changed.notify_one();
        }
        given
    }

    /// Takes a fresh answer in, in the place of a former one. Without a lease it is only passed on.
    fn keep(&self, key: &Key, store: &Store, fetched: Fetched, pod: &PodIdentity) -> Result<Fetched, BackendError> {
        let now = self.now();
        let mut state = self.lock();
        if fetched.secret.lease.is_none() {
            if state.retire(key).is_none() {
                self.plain.insert(key.secret.clone(), ());
            }
            return Ok(fetched);
        }
        let gauge = self.metrics.lease_kept(key.secret.backend.as_str());
        let Some(mut record) = Record::issued(key.clone(), store.clone(), &fetched.secret, pod, gauge, now) else {
            tracing::warn!(secret = %key.secret, "a lease was over when it came: it is given once and not kept (is this node's clock right?)");
            return Ok(fetched);
        };
        self.tell(&record, LeaseEvent::Issued, "a lease was issued");
        let full = state.full(key);
        if full.is_some() {
            record.leave(now.at);
            state.unsaved.insert(record.id);
        } else if let Some(old) = state.retire(key) {
            self.tell(old, LeaseEvent::Replaced, "a lease was replaced: the former one is left to its end");
        }
        if state.wakes.is_none_or(|wakes| record.due() < wakes) || !state.unsaved.is_empty() {
            self.changed.notify_one();
        }
        state.insert(record);
        full.map_or(Ok(fetched), Err)
    }

    /// A store would not issue. Where an old one is good, the next try is put off.
    fn not_issued(&self, key: &Key, error: &BackendError) {
        let now = self.now();
        let mut state = self.lock();
        let State { records, slots, .. } = &mut *state;
        let old = slots.get(key).and_then(|slot| slot.given).and_then(|id| records.get_mut(&id));
        if let Some(old) = old.filter(|old| old.life.lasts(now)) {
            old.failed(now.at);
            let error = old.told(error);
            self.metrics.lease(key.secret.backend.as_str(), LeaseEvent::ReplaceFailed);
            tracing::warn!(secret = %key.secret, pod = &*old.issued_for, ends = %old.lease.ends, %error,
                "a lease could not be replaced: the old one is given until its end");
        }
    }

    /// One event of a lease: in the metrics, and in the log without a value.
    pub(super) fn tell(&self, record: &Record, event: LeaseEvent, message: &'static str) {
        self.metrics.lease(record.key.secret.backend.as_str(), event);
        tracing::info!(secret = %record.key.secret, pod = &*record.issued_for, ends = %record.lease.ends, "{message}");
    }

    pub(super) fn now(&self) -> Moment {
        Moment { wall: self.clock.now(), at: Instant::now() }
    }

    /// A panic elsewhere leaves whole records: each is changed by its own methods.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leases").finish_non_exhaustive()
    }
}

/// A failure of the whole store, not of one asker: another call would only add to it.
fn concerns_all(error: &BackendError) -> bool {
    matches!(error.fault, Fault::Throttled | Fault::Unavailable)
}

/// `None`: out of time. With an old credential at hand that comes soon.
async fn within<T>(work: impl Future<Output = T>, old: Old, cx: &FetchContext) -> Option<T> {
    let until = if old { cx.deadline.min(Instant::now() + PATIENCE) } else { cx.deadline };
    timeout_at(until, work).await.ok()
}

// === impl Runway ===

impl Runway {
    async fn issue(mut self, store: Store, cx: FetchContext) -> Result<Fetched, BackendError> {
        let seen = self.leases.lock().pods.is_seen(&cx.pod.uid);
        let cx = FetchContext { deadline: cx.deadline + LATE, ..cx };
        let answer = match store.inner.fetch(&self.key.secret, &cx).await {
            Ok(fetched) if fetched.secret.lease.is_some() => {
                let kept = self.leases.keep(&self.key, &store, fetched, &cx.pod);
                // It may have been long under way, and the Pod taken for gone meanwhile: it will be again.
                if self.leases.lock().pods.add(&cx.pod.uid, &store.inner, seen, Instant::now()) {
                    self.leases.changed.notify_one();
                }
                self.leases.save_given(&self.key).await;
                kept
            }
            Ok(fetched) => self.leases.keep(&self.key, &store, fetched, &cx.pod),
            Err(error) => {
                self.leases.not_issued(&self.key, &error);
                Err(error)
            }
        };
        let landing = match &answer {
            Ok(fetched) if fetched.secret.lease.is_some() => Landing::Kept,
            Ok(_) => Landing::Plain,
            Err(error) => Landing::Failed(error.clone()),
        };
        if let Some(waiting) = self.waiting.take() {
            // Before the word is out the way is free: whoever hears it may come at once.
            self.leases.lock().landed(&self.key);
            let _ = waiting.send(landing);
        }
        answer
    }
}

impl Drop for Runway {
    fn drop(&mut self) {
        if self.waiting.is_some() {
            self.leases.lock().landed(&self.key);
        }
    }
}
