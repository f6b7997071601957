//! The one task behind the table: it renews leases when their turn comes, revokes those whose Pods are gone, and sleeps in between. It costs
//! nothing while the daemon keeps no lease.
//!
//! Calls to stores, writes to the disk and looks at kubelet's folder do not wait for each other, and no store waits for another (`calls.rs`). Each
//! kind of work has its own places, and each call has its own deadline.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::stream::{self, FuturesUnordered};
use futures_util::{FutureExt, StreamExt};
use tokio::task::spawn_blocking;
use tokio::time::{Duration, Instant, sleep_until, timeout_at};

use super::calls::{AT_ONCE, Slot, StoreName};
use super::record::{FarewellId, Record, RecordId, Stage};
use super::records::Task;
use super::state::State;
use super::{Leases, Store, pods};
use crate::backend::{Backend, BackendError, Fault};
use crate::model::{BackendName, Lease, Tenant};
use crate::telemetry::LeaseEvent;

/// Records that the keeper writes at once.
const SAVES: usize = 8;

/// How long one call may take.
const CALL: Duration = Duration::from_secs(30);

/// How long the disk may take at the end of the process.
const CLOSE: Duration = Duration::from_secs(1);

/// Work that is due.
enum Job {
    Ask(Call, Slot),
    /// A look at kubelet's folder.
    Look,
    /// A write to the disk.
    Save(RecordId),
}

/// One call to a store.
enum Call {
    /// A Pod is gone: the store may give back what it kept for it.
    Forget(FarewellId, Arc<str>, Store),
    Renew(About),
    Revoke(About),
}

struct About {
    id: RecordId,
    backend: Arc<dyn Backend>,
    name: BackendName,
    lease: Lease,
    /// When it ends if nothing is done. No call about it may take longer.
    ends: Instant,
}

/// What a failed call means for its lease.
enum Meaning {
    /// Another try may succeed.
    Again,
    /// The store cannot do such a thing.
    Never,
    /// The store does not know the lease or refuses it: an operator revoked it, or its role or token is gone.
    Over,
}

impl Leases {
    /// Works until the future is dropped.
    pub async fn run(&self) {
        self.warn_of_orphans();
        let mut work = FuturesUnordered::new();
        loop {
            let (jobs, wake) = self.due();
            work.extend(jobs.into_iter().map(|job| self.perform(job)));
            tokio::select! {
                () = self.changed.notified() => {}
                Some(()) = work.next() => {}
                () = async { sleep_until(wake.unwrap_or_else(Instant::now)).await }, if wake.is_some() => {}
            }
        }
    }

    /// Called at the end of the process, when no mount is under way and [`Self::run`] has been dropped. Revokes everything before the deadline if
    /// the configuration says so, and writes the rest to the disk.
    pub async fn close(&self, deadline: Instant) {
        if self.revoke_at_end.load(Ordering::Relaxed) {
            let stores = self.leave_all().into_values().map(|tenants| self.revoke_all(tenants));
            let _ = timeout_at(deadline, futures_util::future::join_all(stores)).await;
        }
        let (unsaved, left) = {
            let mut state = self.lock();
            (self.unsaved(&mut state, usize::MAX), state.records.len())
        };
        let _ = timeout_at(deadline + CLOSE, stream::iter(unsaved).for_each_concurrent(None, |id| self.save(id))).await;
        match (left, &self.disk) {
            (0, _) => {}
            (_, Some(_)) => tracing::info!(leases = left, "leases stay for the next process"),
            (_, None) => {
                tracing::info!(
                    leases = left,
                    "leases end by themselves: the Pods get others from the next process (set cache.sealed to keep them)"
                );
            }
        }
    }

    /// By store and tenant.
    fn leave_all(&self) -> HashMap<StoreName, BTreeMap<Tenant, Vec<Call>>> {
        let mut state = self.lock();
        state.leave_all(Instant::now());
        let mut all: HashMap<_, BTreeMap<_, Vec<_>>> = HashMap::new();
        for record in state.records.ids().filter_map(|id| state.records.get(id)) {
            let tenants = all.entry(record.lane.store.clone()).or_default();
            tenants.entry(record.lane.tenant.clone()).or_default().push(Call::of(record));
        }
        all
    }

    /// For one store. All tenants get equal parts of the calls at once: there is no time to wait for each other.
    async fn revoke_all(&self, tenants: BTreeMap<Tenant, Vec<Call>>) {
        let each = (AT_ONCE / tenants.len().max(1)).max(1);
        let of_tenant = |calls| stream::iter(calls).for_each_concurrent(each, |call| async { _ = self.ask(call).await });
        stream::iter(tenants.into_values()).for_each_concurrent(AT_ONCE / each, of_tenant).await;
    }

    /// What to do now, and when to look again.
    fn due(&self) -> (Vec<Job>, Option<Instant>) {
        let now = Instant::now();
        let mut state = self.lock();
        #[cfg(test)]
        {
            state.rounds += 1;
        }
        self.end(&mut state, now);
        let mut jobs = Vec::new();
        if state.pods.due().is_some_and(|due| due <= now) {
            state.pods.looking();
            jobs.push(Job::Look);
        }
        let free = SAVES.saturating_sub(state.saving);
        let unsaved = self.unsaved(&mut state, free);
        state.saving += unsaved.len();
        jobs.extend(unsaved.into_iter().map(Job::Save));
        while let Some((task, slot)) = state.records.next_call() {
            let call = match task {
                Task::Lease(id) => state.records.get(id).map(Call::of),
                Task::Tokens(id) => {
                    state.farewells.get(&id).map(|farewell| Call::Forget(id, Arc::clone(&farewell.pod), farewell.store.clone()))
                }
            };
            match call {
                Some(call) => jobs.push(Job::Ask(call, slot)),
                // What is gone is no longer due.
                None => state.records.calls.over(slot, true),
            }
        }
        let wake = state.records.soonest().into_iter().chain(state.pods.due()).min();
        state.wakes = wake;
        (jobs, wake)
    }

    #[cfg(test)]
    pub(super) fn rounds(&self) -> usize {
        self.lock().rounds
    }

    fn unsaved(&self, state: &mut State, most: usize) -> Vec<RecordId> {
        if self.disk.is_none() {
            state.unsaved.clear();
        }
        let some: Vec<_> = state.unsaved.iter().copied().take(most).collect();
        for id in &some {
            state.unsaved.remove(id);
        }
        some
    }

    /// Removes what has ended.
    fn end(&self, state: &mut State, now: Instant) {
        for record in state.records.come_due(now) {
            state.forget(&record);
            let message = match record.stage {
                Stage::Kept | Stage::Last if record.lease.is_of_made() => "what the store made has ended: the next mount gets another",
                Stage::Kept | Stage::Last => "a lease has ended: the next mount gets another",
                Stage::Retired => "a replaced lease has ended",
                Stage::Leaving => "a lease has ended before it could be revoked",
            };
            self.tell(&record, LeaseEvent::Ended, message);
        }
    }

    async fn perform(&self, job: Job) {
        match job {
            Job::Ask(call, slot) => {
                let answered = self.ask(call).await;
                self.lock().records.calls.over(slot, answered);
            }
            Job::Look => self.look().await,
            Job::Save(id) => {
                self.save(id).await;
                self.lock().saving -= 1;
            }
        }
    }

    /// Whether the store answered in time.
    async fn ask(&self, call: Call) -> bool {
        let deadline = Instant::now() + CALL;
        match call {
            Call::Forget(id, pod, Store { inner, .. }) => {
                // What the store keeps for the Pod also ends by itself.
                let forgotten = timeout_at(deadline, AssertUnwindSafe(inner.forget(&pod, deadline)).catch_unwind()).await;
                self.lock().departed(id);
                // `forget` returns nothing, even if it found no answer.
                forgotten.is_ok() && Instant::now() < deadline
            }
            Call::Renew(About { id, backend, name, lease, ends }) => {
                let deadline = deadline.min(ends);
                let answer = guarded(&name, deadline, backend.renew(lease, deadline)).await;
                let answered = is_answer(&answer);
                self.renewed(id, answer);
                answered
            }
            Call::Revoke(About { id, backend, name, lease, ends }) => {
                let deadline = deadline.min(ends);
                // If the store does not know it, there is nothing to revoke.
                let answer = if lease.is_of_made() { Ok(()) } else { guarded(&name, deadline, backend.revoke(lease, deadline)).await };
                let answered = is_answer(&answer);
                self.revoked(id, answer);
                answered
            }
        }
    }

    /// Revokes a lease that was issued and is not kept: one try, until the deadline.
    pub(super) async fn give_up(&self, store: &Store, lease: Lease, deadline: Instant) {
        if lease.is_of_made() {
            return;
        }
        let (name, secret, ends) = (&store.name, lease.secret.clone(), lease.ends);
        match guarded(name, deadline, store.inner.revoke(lease, deadline)).await {
            Ok(()) => {
                self.metrics.lease(name.as_str(), LeaseEvent::Revoked);
                tracing::info!(%secret, %ends, "Keyferry revoked a lease, because there is no room for it");
            }
            Err(error) => {
                self.metrics.lease(name.as_str(), LeaseEvent::RevokeFailed);
                tracing::warn!(%secret, %ends, %error, "there is no room for a lease, and it could not be revoked: it ends by itself");
            }
        }
    }

    /// Finds out which Pods are gone.
    async fn look(&self) {
        let root = self.pods.clone();
        let present = spawn_blocking(move || pods::look(&root)).await.ok().flatten();
        let now = Instant::now();
        let mut state = self.lock();
        if present.as_ref().is_none_or(HashSet::is_empty) && !state.blind {
            state.blind = true;
            tracing::warn!(folder = %self.pods.display(),
                "shows no Pod: leases and store tokens are not revoked when their Pods are gone (is kubelet's folder mounted there, and `kubeletDir` right?)");
        }
        for gone in state.pods.looked(present.as_ref(), now) {
            state.gone(gone, now);
        }
    }

    fn renewed(&self, id: RecordId, answer: Result<Lease, BackendError>) {
        let now = self.now();
        let mut state = self.lock();
        let Some(is_kept) = state.records.get(id).map(|record| record.stage == Stage::Kept) else { return };
        state.unsaved.insert(id);
        if !is_kept {
            // The lease is no longer given, or is revoked soon: only the times of a renewal matter.
            let _ = state.records.change(id, |record| {
                record.busy = false;
                answer.map(|lease| record.renew(lease, now))
            });
            return;
        }
        let error = match answer {
            Ok(lease) => {
                let lives = state.records.change(id, |record| {
                    record.busy = false;
                    record.renew(lease, now)
                });
                let Some(record) = state.records.get(id) else { return };
                if lives == Some(true) {
                    self.tell(record, LeaseEvent::Renewed, "a lease was renewed");
                } else {
                    self.tell(
                        record,
                        LeaseEvent::Dropped,
                        "the store renewed a lease, but the lease has already ended: the next mount gets another",
                    );
                    state.drop_out(id);
                }
                return;
            }
            Err(error) => error,
        };
        let meaning = Meaning::of(&error);
        let _ = state.records.change(id, |record| {
            record.busy = false;
            match meaning {
                Meaning::Again => record.failed(now.at),
                Meaning::Never => record.last(now.at),
                Meaning::Over => {}
            }
        });
        let Some(record) = state.records.get(id) else { return };
        let (error, pod) = (record.told(&error), Arc::clone(&record.issued_for));
        match meaning {
            Meaning::Again => {
                self.metrics.lease(error.backend.as_str(), LeaseEvent::RenewFailed);
                tracing::warn!(secret = %record.key.secret, pod = &*pod, ends = %record.lease.ends, tries = record.tries, %error,
                    "a lease could not be renewed; Keyferry tries again until the lease ends");
            }
            Meaning::Never => {}
            Meaning::Over => {
                self.metrics.lease(error.backend.as_str(), LeaseEvent::Dropped);
                tracing::warn!(secret = %record.key.secret, pod = &*pod, %error, "the store refuses to renew a lease: the next mount gets another");
                state.drop_out(id);
            }
        }
    }

    fn revoked(&self, id: RecordId, answer: Result<(), BackendError>) {
        let now = Instant::now();
        let mut state = self.lock();
        let again = answer.as_ref().is_err_and(|error| matches!(Meaning::of(error), Meaning::Again));
        let _ = state.records.change(id, |record| {
            record.busy = false;
            if again {
                record.failed(now);
            }
        });
        let Some(record) = state.records.get(id) else { return };
        match answer.map_err(|error| (Meaning::of(&error), error)) {
            Ok(()) if record.lease.is_of_made() => {
                self.tell(record, LeaseEvent::Dropped, "Keyferry drops what the store made; there is nothing to revoke at the store");
            }
            Ok(()) => self.tell(record, LeaseEvent::Revoked, "a lease was revoked"),
            Err((_, error)) if error.fault == Fault::NotFound => {
                self.tell(record, LeaseEvent::Revoked, "a lease was gone before it was revoked");
            }
            Err((Meaning::Never | Meaning::Over, error)) => {
                self.metrics.lease(error.backend.as_str(), LeaseEvent::RevokeFailed);
                tracing::warn!(secret = %record.key.secret, ends = %record.lease.ends, %error, "a lease cannot be revoked: it ends by itself");
            }
            Err((Meaning::Again, error)) => {
                self.metrics.lease(error.backend.as_str(), LeaseEvent::RevokeFailed);
                tracing::warn!(secret = %record.key.secret, ends = %record.lease.ends, tries = record.tries, %error,
                    "a lease could not be revoked; Keyferry tries again until the lease ends");
                return;
            }
        }
        state.remove(id);
    }
}

// === impl Call ===

impl Call {
    fn of(record: &Record) -> Self {
        let about = About {
            id: record.id,
            backend: Arc::clone(&record.store.inner),
            name: record.store.name.clone(),
            lease: record.lease.clone(),
            ends: record.life.ends_at(),
        };
        match record.stage {
            Stage::Kept | Stage::Last | Stage::Retired => Self::Renew(about),
            Stage::Leaving => Self::Revoke(about),
        }
    }
}

// === impl Meaning ===

impl Meaning {
    fn of(error: &BackendError) -> Self {
        match error.fault {
            Fault::Corrupt
            | Fault::Down
            | Fault::NoLogin
            | Fault::NoTurn
            | Fault::Short
            | Fault::Throttled
            | Fault::TimedOut
            | Fault::TooLarge
            | Fault::Unavailable
            | Fault::Unhelpful => Self::Again,
            Fault::Denied | Fault::Invalid | Fault::NotFound | Fault::Unauthenticated => Self::Over,
            Fault::Unsupported => Self::Never,
        }
    }
}

/// If the store refuses, or says that something else is out of reach, it has answered.
fn is_answer<T>(answer: &Result<T, BackendError>) -> bool {
    answer.as_ref().err().is_none_or(|error| error.fault != Fault::TimedOut)
}

/// Ends in time, and turns a panic into an error: a bug in one store's code does not stop the renewals of others.
async fn guarded<T>(
    backend: &BackendName,
    deadline: Instant,
    call: impl Future<Output = Result<T, BackendError>>,
) -> Result<T, BackendError> {
    let fail = |fault, reason: &str| BackendError {
        fault,
        backend: backend.clone(),
        secret: None,
        reason: reason.to_owned(),
        retry_after: None,
        source: None,
    };
    match timeout_at(deadline, AssertUnwindSafe(call).catch_unwind()).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_panic)) => Err(fail(Fault::Unavailable, "the call panicked (a bug: please report it with the log)")),
        Err(_) => Err(fail(Fault::TimedOut, "no answer in time (is the store slow or out of reach?)")),
    }
}
