//! The table of leases: what is kept, for whom, and the way a mount comes by it. Made once a process; a reload leaves it as it is.

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

/// How long a mount waits for a new credential while the old one is good: a slow store costs no mount its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long after its mount's deadline a store may still answer: a credential that it is about to make is kept for the next try, which
/// would make another.
const LATE: Duration = Duration::from_secs(15);

/// Threads that look for Pods' folders. One tenant has at most half of them.
const LOOKERS: usize = 4;

/// How long a mount waits for kubelet's folder. Without an answer the Pod is seen at the keeper's next look.
const LOOK: Duration = Duration::from_secs(1);

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
    pub(super) room: Room,
    pub(super) plain: Plain,
    pub(super) lookers: Desk,
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

/// What became of a lease that is not given.
struct Unkept {
    error: BackendError,
    /// To be revoked at once: the table has no room for it.
    lease: Option<Lease>,
}

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
    /// `kubelet_dir` is where kubelet keeps its Pods; `kept` says how many bytes leases may hold, with their credentials, and how many what is
    /// known to come without.
    ///
    /// The second of the answer says why the sealed folder cannot be read, if it cannot: nothing of it is taken up then.
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

    /// Bytes that leases hold, and the most they may.
    pub fn bytes(&self) -> (usize, usize) {
        let bytes = self.room.bytes();
        (bytes.used(), bytes.capacity())
    }

    /// What is given now, by backend.
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

    /// At the start, and after a reload.
    pub fn configure(&self, config: LeasesConfig) {
        self.revoke_at_end.store(config.revoke_at_shutdown, Ordering::Relaxed);
    }

    /// What is kept for this holder and request, else the store's answer, which is kept if it has a lease.
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
                    // The failure may be that one's own: its token, its time. A try of our own, unless somebody else is at it by now.
                    Ok(Ok(Landing::Failed(_) | Landing::Kept) | Err(_)) => {}
                },
            }
        }
    }

    /// Whether it came without a lease before. After a restart that is known of what is kept for when the store is out, since nothing with a
    /// lease is: so its mount does not wait for a store that does not answer until its time is over, and is given what is kept.
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

    /// Room for what may come with a lease, before it is asked for.
    async fn book(&self, tenant: &Tenant, key: &Key, until: Instant) -> Result<Booking, Full> {
        if let Some(full) = self.lock().full(key) {
            return Err(full);
        }
        self.room.book(tenant, &key.secret, until).await
    }

    /// Straight to the store, for what came without a lease before: nothing is lost if it comes to nobody.
    async fn pass(&self, tenant: &Tenant, key: &Key, store: &Store, cx: &FetchContext) -> Result<Fetched, BackendError> {
        let fetched = store.inner.fetch(&key.secret, cx).await?;
        let Some(lease) = fetched.secret.lease.clone() else { return Ok(fetched) };
        self.plain.forget(tenant, &key.secret);
        // It needed none to be asked for; what is there is there.
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

    /// What there is no room for is revoked at once, and by nobody later: nothing piles up where a store does not revoke.
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

    /// What is kept and good for this Pod; or what came without a lease before and is at hand further in.
    pub(super) fn recall(&self, store: &Store, key: &Key, cx: &FetchContext, at: Instant) -> Option<Fetched> {
        if self.plain.knows(&cx.tenant(), &key.secret) {
            // Whatever is kept for this Pod alone, it was seen to ask for.
            return store.inner.recall(&key.secret, cx, at);
        }
        let now = self.now();
        let mut state = self.lock();
        // Whoever is given a lease is watched; to find a Pod's folder may take a while.
        if !state.pods.ask(&cx.pod.uid, store, now.at) {
            return None;
        }
        match self.kept(&mut state, key, store, &cx.pod, now) {
            Some((given, false)) => Some(given),
            Some((_, true)) | None => None,
        }
    }

    /// What is kept and still good, and whether it is to be replaced. What is not, is this Pod's from now on, too.
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

    /// The Pod is watched from now on: whatever it is given here is taken back when it is gone.
    async fn note(&self, tenant: &Tenant, store: &Store, cx: &FetchContext) {
        let (now, uid) = (Instant::now(), &cx.pod.uid);
        {
            let mut state = self.lock();
            if state.pods.ask(uid, store, now) {
                return;
            }
            // At once: who asks meanwhile does not look, too.
            if state.pods.add(tenant, uid, store, false, now) {
                self.changed.notify_one();
            }
            if !state.pods.is_sought(uid) {
                return;
            }
        }
        // On a thread apart: the folder may be of a file system that hangs.
        let (root, name) = (self.pods.clone(), Arc::clone(uid));
        let looking = self.lookers.run(tenant.as_str(), cx.deadline.min(now + LOOK), move || has_folder(&root, &name));
        if looking.await == Ok(true) {
            self.lock().pods.add(tenant, uid, store, true, Instant::now());
        }
    }

    /// What is kept and still good, whether a newer one is wanted or not.
    fn given(&self, key: &Key, pod: &PodIdentity) -> Option<Fetched> {
        let now = self.now();
        let mut state = self.lock();
        let id = state.slots.get(key)?.given?;
        let given = state.records.get(id)?.give(now);
        self.use_by(&mut state, id, pod, now);
        given
    }

    /// Takes a fresh answer in, in the place of a former one. Without a lease it is only passed on.
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
        // Others may have been issued meanwhile.
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

    /// A store would not issue, or there is no room for what it would. Where an old one is good, the next try is put off.
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
    matches!(error.fault, Fault::Down | Fault::Throttled | Fault::Unavailable | Fault::Unhelpful)
}

/// How long a mount waits. With an old credential at hand that is not long.
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
                    // It may have been long under way, and the Pod taken for gone meanwhile: it will be again.
                    if self.leases.lock().pods.add(&cx.tenant(), &cx.pod.uid, &store, seen, Instant::now()) {
                        self.leases.changed.notify_one();
                    }
                    self.leases.save_given(&self.key).await;
                }
                self.leases.or_give_up(kept, &store, Instant::now() + LATE).await
            }
            Err(error) => {
                drop(booking);
                // Short is no failed try: the mount asks again once it has memory for the answer.
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
