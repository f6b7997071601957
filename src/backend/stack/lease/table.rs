//! The table of leases: what is kept, for whom, and how a mount gets it. There is one per process, and a reload does not change it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Duration, Instant, timeout_at};

use super::disk::Disk;
use super::flight::{Flight, HandOver, Landing};
use super::life::{Life, Moment};
use super::plain::Plain;
use super::pods::has_folder;
use super::record::{Key, Record, RecordId};
use super::room::{Booking, Full, POD, Room, weight_of_record};
use super::state::{State, too_large};
use super::{LeaseSummary, LeasesConfig, Store};
use crate::backend::stack::sealed::Sealed;
use crate::backend::{BackendError, Called, Fault, FetchContext};
use crate::budget::Ceilings;
use crate::clock::Clock;
use crate::files::Desk;
use crate::model::{BackendName, Fetched, Lease, PodIdentity, Tenant};
use crate::telemetry::{LeaseEvent, Metrics};

/// How long a mount waits for a new credential while the old one is good. So a slow store does not make a mount fail.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a store may still answer after its mount's deadline. The table keeps the credential that the store is making for the next try, which
/// otherwise would make another one.
const LATE: Duration = Duration::from_secs(15);

/// Threads that look for Pods' folders. One tenant has at most half of them.
const LOOKERS: usize = 4;

/// How long a mount waits for kubelet's folder. If there is no answer, the keeper sees the Pod at its next look.
const LOOK: Duration = Duration::from_secs(1);

/// Every lease of the process.
pub struct Leases {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
    /// kubelet's folder of Pods.
    pub(super) pods: PathBuf,
    /// Where leases are kept over restarts.
    pub(super) disk: Option<Disk>,
    pub(super) revoke_at_end: AtomicBool,
    pub(super) changed: Notify,
    pub(super) room: Room,
    pub(super) plain: Plain,
    pub(super) lookers: Desk,
    state: Mutex<State>,
}

/// What a mount does next.
enum Way {
    Given(Fetched),
    /// Another mount is asking the store already.
    Follow(Flight, Old),
    Lead(Runway, Old),
}

/// Whether there is a credential that is still good.
type Old = bool;

/// A lease that is not given.
struct Unkept {
    error: BackendError,
    /// Revoke it at once: the table has no room for it.
    lease: Option<Lease>,
}

/// The right to ask the store for a key. If it is dropped, the next caller may try.
struct Runway {
    leases: Arc<Leases>,
    key: Key,
    waiting: Option<oneshot::Sender<Landing>>,
}

// === impl Leases ===

impl Leases {
    /// Reads the leases of a former process from the sealed folder. Without that folder, leases live as long as the process.
    ///
    /// `kubelet_dir` is where kubelet keeps its Pods. `kept` says how many bytes leases may use with their credentials, and how many bytes the list
    /// of requests without a lease may use.
    ///
    /// The second part of the result says why the sealed folder cannot be read, if so. Then no lease is read from it.
    pub fn open(
        kubelet_dir: &Path,
        sealed: Option<&Arc<Sealed>>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        kept: &Ceilings,
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
                room: Room::new(kept.leases),
                plain: Plain::new(kept.plain),
                lookers: Desk::new(LOOKERS),
                state: Mutex::new(state),
            }),
            problem,
        )
    }

    /// Bytes that leases use, and the most they may use.
    pub fn bytes(&self) -> (usize, usize) {
        let bytes = self.room.bytes();
        (bytes.used(), bytes.capacity())
    }

    /// What mounts get now, by backend.
    pub fn summary(&self) -> BTreeMap<BackendName, LeaseSummary> {
        let mut all: BTreeMap<BackendName, LeaseSummary> = BTreeMap::new();
        let state = self.lock();
        for record in state.records.values().filter(|record| record.secret.is_some()) {
            let summary = all.entry(record.key.secret.backend.clone()).or_default();
            summary.kept += 1;
            summary.failing += usize::from(record.tries > 0);
            summary.next_end = summary.next_end.into_iter().chain([record.lease.ends]).min();
        }
        all
    }

    /// Called at the start and after a reload.
    pub fn configure(&self, config: LeasesConfig) {
        self.revoke_at_end.store(config.revoke_at_shutdown, Ordering::Relaxed);
    }

    /// What is kept for this holder and request; otherwise the store's answer, which is kept if it has a lease.
    pub(super) async fn fetch(self: &Arc<Self>, store: &Store, key: Key, cx: &FetchContext) -> Result<Fetched, BackendError> {
        let tenant = cx.tenant();
        self.note(&tenant, store, cx).await;
        if self.is_plain(&tenant, &key, store, cx) {
            return self.pass(&tenant, &key, store, cx).await;
        }
        let (began, secret) = (Instant::now(), &key.secret);
        let late = || BackendError::late(&secret.backend, Some(&secret.name), began, true);
        let or_old = |error| self.given(&key, &cx.pod).ok_or(error);
        loop {
            match self.way(&key, store, &cx.pod) {
                Way::Given(given) => return Ok(given),
                Way::Lead(runway, old) => {
                    let until = until(old, cx);
                    let answer = match self.book(&tenant, &key, until).await {
                        Ok(booking) => {
                            let called = Called::default();
                            let cx = FetchContext { called: called.clone(), ..cx.clone() };
                            let issuing = HandOver::new(called, runway.issue(store.clone(), cx, booking));
                            timeout_at(until, issuing).await.unwrap_or_else(|_| Err(late()))
                        }
                        Err(full) => {
                            let error = full.reason().map_or_else(late, |reason| too_large(&key, reason));
                            self.not_issued(&key, &error);
                            Err(error)
                        }
                    };
                    return answer.or_else(or_old);
                }
                Way::Follow(flight, old) => match timeout_at(until(old, cx), flight).await {
                    Err(_) => return or_old(late()),
                    Ok(Ok(Landing::Failed(error))) if old || concerns_all(&error) => return or_old(error),
                    Ok(Ok(Landing::Plain)) => return self.pass(&tenant, &key, store, cx).await,
                    // The failure may have its cause in the other caller: its token, its time. So this caller also tries, unless another one is
                    // trying by now.
                    Ok(Ok(Landing::Failed(_) | Landing::Kept) | Err(_)) => {}
                },
            }
        }
    }

    /// Whether the last answer to it had no lease. After a restart this follows from the answers that are kept for outages, because those never
    /// have a lease. So the mount gets such an answer, and does not wait until its time ends for a store that does not answer.
    fn is_plain(&self, tenant: &Tenant, key: &Key, store: &Store, cx: &FetchContext) -> bool {
        if self.plain.knows(tenant, &key.secret) {
            return true;
        }
        let has_lease = self.lock().slots.get(key).is_some_and(|slot| slot.given.is_some());
        let is_plain = !has_lease && store.inner.keeps(&key.secret, cx);
        if is_plain {
            self.plain.note(tenant, &key.secret);
        }
        is_plain
    }

    /// Books room for a possible lease, before the request is sent.
    async fn book(&self, tenant: &Tenant, key: &Key, until: Instant) -> Result<Booking, Full> {
        if let Some(full) = self.lock().full(key) {
            return Err(full);
        }
        self.room.book(tenant, &key.secret, until).await
    }

    /// Asks the store directly, if the last answer had no lease: nothing is lost if nobody gets the answer.
    async fn pass(&self, tenant: &Tenant, key: &Key, store: &Store, cx: &FetchContext) -> Result<Fetched, BackendError> {
        let fetched = store.inner.fetch(&key.secret, cx).await?;
        let Some(lease) = fetched.secret.lease.clone() else { return Ok(fetched) };
        self.plain.forget(tenant, &key.secret);
        // It needed no room when it was sent. Now it takes the room that is there.
        let kept = match self.room.book(tenant, &key.secret, Instant::now()).await {
            Ok(booking) => self.keep(key, store, fetched, &cx.pod, booking),
            Err(full) => {
                let full = if let Full::Late = full { self.room.full(tenant) } else { full };
                Err(Unkept::new(key, &full, Some(lease)))
            }
        };
        self.save_given(key).await;
        self.or_give_up(kept, store, cx.deadline).await
    }

    /// If there is no room for a lease, it is revoked at once, and never later: nothing piles up if a store does not revoke.
    async fn or_give_up(&self, kept: Result<Fetched, Box<Unkept>>, store: &Store, deadline: Instant) -> Result<Fetched, BackendError> {
        let Unkept { error, lease } = match kept {
            Ok(fetched) => return Ok(fetched),
            Err(unkept) => *unkept,
        };
        if let Some(lease) = lease {
            self.give_up(store, lease, deadline).await;
        }
        Err(error)
    }

    /// What is kept and good for this Pod; or an answer of an inner decorator, if the last answer had no lease.
    pub(super) fn recall(&self, store: &Store, key: &Key, cx: &FetchContext, at: Instant) -> Option<Fetched> {
        if self.plain.knows(&cx.tenant(), &key.secret) {
            // If something is kept only for this Pod, the Pod is already known.
            return store.inner.recall(&key.secret, cx, at);
        }
        let now = self.now();
        let mut state = self.lock();
        // A Pod that gets a lease must be watched. To find its folder may take a while, so that is not done here.
        if !state.pods.ask(&cx.pod.uid, store, now.at) {
            return None;
        }
        match self.kept(&mut state, key, store, &cx.pod, now) {
            Some((given, false)) => Some(given),
            Some((_, true)) | None => None,
        }
    }

    /// What is kept and still good, and whether to replace it. If it is not replaced, this Pod is one of its users from now on.
    fn kept(&self, state: &mut State, key: &Key, store: &Store, pod: &PodIdentity, now: Moment) -> Option<(Fetched, bool)> {
        let id = state.slots.get(key)?.given?;
        let record = state.records.get(id)?;
        let (given, wanting) = (record.give(now)?, record.wants_replacing(store, now));
        if !wanting {
            self.use_by(state, id, pod, now);
        }
        Some((given, wanting))
    }

    fn use_by(&self, state: &mut State, id: RecordId, pod: &PodIdentity, now: Moment) {
        let is_new = state.records.used_by(id, pod);
        if state.records.asked_for(id, now) || is_new {
            state.unsaved.insert(id);
            self.changed.notify_one();
        }
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

    /// Watches the Pod from now on: everything that it gets here is revoked when it is gone.
    async fn note(&self, tenant: &Tenant, store: &Store, cx: &FetchContext) {
        let (now, uid) = (Instant::now(), &cx.pod.uid);
        {
            let mut state = self.lock();
            if state.pods.ask(uid, store, now) {
                return;
            }
            // At once, so that other requests of the Pod do not look as well.
            if state.pods.add(tenant, uid, store, false, now) {
                self.changed.notify_one();
            }
            if !state.pods.is_sought(uid) {
                return;
            }
        }
        // On another thread, because the folder may be on a file system that hangs.
        let (root, name) = (self.pods.clone(), Arc::clone(uid));
        let looking = self.lookers.run(tenant.as_str(), cx.deadline.min(now + LOOK), move || has_folder(&root, &name));
        if looking.await == Ok(true) {
            self.lock().pods.add(tenant, uid, store, true, Instant::now());
        }
    }

    /// What is kept and still good, whether or not it should be replaced.
    fn given(&self, key: &Key, pod: &PodIdentity) -> Option<Fetched> {
        let now = self.now();
        let mut state = self.lock();
        let id = state.slots.get(key)?.given?;
        let given = state.records.get(id)?.give(now);
        self.use_by(&mut state, id, pod, now);
        given
    }

    /// Stores a new answer in place of the former one. An answer without a lease is only passed on.
    fn keep(&self, key: &Key, store: &Store, fetched: Fetched, pod: &PodIdentity, booking: Booking) -> Result<Fetched, Box<Unkept>> {
        let now = self.now();
        let mut state = self.lock();
        let Some(lease) = fetched.secret.lease.clone() else {
            if state.retire(key).is_none() {
                self.plain.note(booking.tenant(), &key.secret);
            }
            return Ok(fetched);
        };
        let Some(life) = Life::of(&lease, now) else {
            tracing::warn!(secret = %key.secret, "a lease had already ended when it came: Keyferry gives it once and does not keep it (is this node's clock right?)");
            return Ok(fetched);
        };
        let weight = weight_of_record(&key.secret, &lease) + fetched.secret.weight() + POD;
        let place = match booking.keep(weight) {
            Ok(place) => place,
            Err(full) => {
                self.metrics.lease(key.secret.backend.as_str(), LeaseEvent::Issued);
                return Err(Unkept::new(key, &full, Some(lease)));
            }
        };
        let gauge = self.metrics.lease_kept(key.secret.backend.as_str());
        let mut record = Record::issued(key.clone(), store.clone(), place, (&fetched.secret, lease, life), pod, gauge, now);
        let issued = if record.lease.is_of_made() { "Keyferry keeps what a store made without a lease" } else { "a lease was issued" };
        self.tell(&record, LeaseEvent::Issued, issued);
        if self.disk.is_none() && !state.told {
            state.told = true;
            tracing::info!(backend = %key.secret.backend,
                "leases are kept in memory only: after a restart every Pod gets others (set cache.sealed to keep them)");
        }
        // Other leases may have been issued meanwhile.
        let full = state.full(key);
        if full.is_some() {
            record.leave(now.at);
            state.unsaved.insert(record.id);
        } else if let Some(old) = state.retire(key) {
            self.tell(old, LeaseEvent::Replaced, "a lease was replaced: the former one ends by itself");
        }
        if state.wakes.is_none_or(|wakes| record.due() < wakes) || !state.unsaved.is_empty() {
            self.changed.notify_one();
        }
        state.insert(record);
        full.map_or(Ok(fetched), |full| Err(Unkept::new(key, &full, None)))
    }

    /// The store refused, or there is no room for its lease. If an old one is good, the next try is postponed.
    fn not_issued(&self, key: &Key, error: &BackendError) {
        let now = self.now();
        let mut state = self.lock();
        let Some(id) = state.slots.get(key).and_then(|slot| slot.given) else { return };
        if !state.records.get(id).is_some_and(|old| old.life.lasts(now)) {
            return;
        }
        state.records.change(id, |old| old.failed(now.at));
        let Some(old) = state.records.get(id) else { return };
        let error = old.told(error);
        self.metrics.lease(key.secret.backend.as_str(), LeaseEvent::ReplaceFailed);
        tracing::warn!(secret = %key.secret, pod = &*old.issued_for, ends = %old.lease.ends, %error,
            "a lease could not be replaced: mounts get the old one until it ends");
    }

    /// Reports one event of a lease: in the metrics, and in the log without a value.
    pub(super) fn tell(&self, record: &Record, event: LeaseEvent, message: &'static str) {
        self.metrics.lease(record.key.secret.backend.as_str(), event);
        tracing::info!(secret = %record.key.secret, pod = &*record.issued_for, ends = %record.lease.ends, "{message}");
    }

    pub(super) fn now(&self) -> Moment {
        Moment { wall: self.clock.now(), at: Instant::now() }
    }

    /// A panic elsewhere leaves complete records: each is changed only by its own methods.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leases").finish_non_exhaustive()
    }
}

/// Whether it is a failure of the whole store, and not of one caller. Then another call would only add load.
fn concerns_all(error: &BackendError) -> bool {
    matches!(error.fault, Fault::Down | Fault::Throttled | Fault::Unavailable | Fault::Unhelpful)
}

/// How long a mount waits. If it has an old credential, this is short.
fn until(old: Old, cx: &FetchContext) -> Instant {
    if old { cx.deadline.min(Instant::now() + PATIENCE) } else { cx.deadline }
}

// === impl Unkept ===

impl Unkept {
    fn new(key: &Key, full: &Full, lease: Option<Lease>) -> Box<Self> {
        Box::new(Self { error: too_large(key, full.reason().unwrap_or_default()), lease })
    }
}

// === impl Runway ===

impl Runway {
    async fn issue(mut self, store: Store, cx: FetchContext, booking: Booking) -> Result<Fetched, BackendError> {
        let seen = self.leases.lock().pods.is_seen(&cx.pod.uid);
        let cx = FetchContext { deadline: cx.deadline + LATE, ..cx };
        let answer = match store.inner.fetch(&self.key.secret, &cx).await {
            Ok(fetched) => {
                let is_leased = fetched.secret.lease.is_some();
                let kept = self.leases.keep(&self.key, &store, fetched, &cx.pod, booking);
                if is_leased {
                    // This may have taken long, and the Pod may have been taken for gone meanwhile. If it is gone, the keeper finds it again.
                    if self.leases.lock().pods.add(&cx.tenant(), &cx.pod.uid, &store, seen, Instant::now()) {
                        self.leases.changed.notify_one();
                    }
                    self.leases.save_given(&self.key).await;
                }
                self.leases.or_give_up(kept, &store, Instant::now() + LATE).await
            }
            Err(error) => {
                drop(booking);
                // No memory is not a failed try: the mount asks again when it has memory for the answer.
                if error.fault != Fault::Short {
                    self.leases.not_issued(&self.key, &error);
                }
                Err(error)
            }
        };
        let landing = match &answer {
            Ok(fetched) if fetched.secret.lease.is_some() => Landing::Kept,
            Ok(_) => Landing::Plain,
            Err(error) => Landing::Failed(error.clone()),
        };
        if let Some(waiting) = self.waiting.take() {
            // The way must be free before the others hear the result, because they may come at once.
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
