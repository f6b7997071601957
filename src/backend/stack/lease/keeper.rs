//! The one task behind the table: it renews leases in their turn, revokes those whose Pods are gone, and sleeps in between. A daemon
//! that keeps no lease costs nothing.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::stream::{self, FuturesUnordered};
use futures_util::{FutureExt, StreamExt};
use tokio::task::spawn_blocking;
use tokio::time::{Duration, Instant, sleep_until, timeout_at};

use super::record::{Record, RecordId, Stage};
use super::state::{Farewell, State};
use super::{Leases, pods};
use crate::backend::{Backend, BackendError, Fault};
use crate::model::{BackendName, Lease};
use crate::telemetry::LeaseEvent;

/// Calls under way at once: fewer than a backend's places, so that mounts get through when hundreds of leases come up after an outage.
const AT_ONCE: usize = 8;

/// How long one call may take.
const CALL: Duration = Duration::from_secs(30);

/// How long the disk may take at the end of the process.
const CLOSE: Duration = Duration::from_secs(1);

/// What is due.
enum Job {
    /// Whose Pod is gone: the stores may give back what they kept for it.
    Forget(Farewell),
    /// At kubelet's folder.
    Look,
    Renew(Call),
    Revoke(Call),
    /// To the disk.
    Save(RecordId),
}

struct Call {
    id: RecordId,
    backend: Arc<dyn Backend>,
    name: BackendName,
    lease: Lease,
}

/// What a failure means for its lease.
enum Meaning {
    /// Another try may do better.
    Again,
    /// The store cannot do such a thing.
    Never,
    /// The store does not know the lease, or will not have it: an operator revoked it, its role or its token is gone.
    Over,
}

impl Leases {
    /// Works until the future is dropped.
    pub async fn run(&self) {
        self.warn_of_orphans();
        let mut work = FuturesUnordered::new();
        loop {
            let (jobs, wake) = self.due(AT_ONCE.saturating_sub(work.len()));
            work.extend(jobs.into_iter().map(|job| self.perform(job)));
            tokio::select! {
                () = self.changed.notified() => {}
                Some(()) = work.next() => {}
                () = async { sleep_until(wake.unwrap_or_else(Instant::now)).await }, if wake.is_some() => {}
            }
        }
    }

    /// At the end of the process, when no mount is under way any more and [`Self::run`] has been dropped: revokes
    /// everything by the deadline if it is told to, and brings the disk up to date.
    pub async fn close(&self, deadline: Instant) {
        let calls = if self.revoke_at_end.load(Ordering::Relaxed) { self.leave_all() } else { Vec::new() };
        let _ = timeout_at(deadline, stream::iter(calls).for_each_concurrent(AT_ONCE, |job| self.perform(job))).await;
        let (unsaved, left) = {
            let mut state = self.lock();
            (self.unsaved(&mut state, usize::MAX), state.records.len())
        };
        let _ = timeout_at(deadline + CLOSE, stream::iter(unsaved).for_each_concurrent(None, |job| self.perform(job))).await;
        match (left, &self.disk) {
            (0, _) => {}
            (_, Some(_)) => tracing::info!(leases = left, "leases are left to the next process"),
            (_, None) => {
                tracing::info!(leases = left, "leases are left to their ends: the next process issues others (cache.sealed keeps them)");
            }
        }
    }

    fn leave_all(&self) -> Vec<Job> {
        let now = Instant::now();
        let mut state = self.lock();
        let State { records, unsaved, .. } = &mut *state;
        // Those that are not revoked in time are written so: the next process goes on.
        unsaved.extend(records.keys());
        let all = records.values_mut().map(|record| {
            record.leave(now);
            Job::of(record)
        });
        all.collect()
    }

    /// What is to be done now, what ends soonest first, and when to look again.
    fn due(&self, places: usize) -> (Vec<Job>, Option<Instant>) {
        let now = Instant::now();
        let mut state = self.lock();
        self.end(&mut state, now);
        let mut jobs = Vec::new();
        if state.pods.due().is_some_and(|due| due <= now) && places > 0 {
            state.pods.looking();
            jobs.push(Job::Look);
        }
        jobs.extend(state.departed(places.saturating_sub(jobs.len())).into_iter().map(Job::Forget));
        jobs.extend(self.unsaved(&mut state, places.saturating_sub(jobs.len())));
        let idle = || state.records.values().filter(|record| !record.busy);
        let mut due: Vec<_> = idle().filter(|record| record.due() <= now).map(|record| (record.life.ends_at(), record.id)).collect();
        due.sort_unstable();
        due.truncate(places.saturating_sub(jobs.len()));
        let wake = idle().map(Record::due).chain(state.pods.due()).filter(|due| *due > now).min();
        state.wakes = wake;
        jobs.extend(due.into_iter().filter_map(|(_, id)| state.records.get_mut(&id).map(Job::of)));
        (jobs, wake)
    }

    fn unsaved(&self, state: &mut State, most: usize) -> Vec<Job> {
        if self.disk.is_none() {
            state.unsaved.clear();
        }
        let some: Vec<_> = state.unsaved.iter().copied().take(most).collect();
        for id in &some {
            state.unsaved.remove(id);
        }
        some.into_iter().map(Job::Save).collect()
    }

    /// Lets go of what has come to its end.
    fn end(&self, state: &mut State, now: Instant) {
        let over = state.records.values().filter(|record| !record.busy && record.life.ends_at() <= now);
        let over: Vec<_> = over.map(|record| record.id).collect();
        for record in over.into_iter().filter_map(|id| state.remove(id)) {
            let message = match record.stage {
                Stage::Kept | Stage::Last => "a lease has ended: the next mount issues another",
                Stage::Retired => "a replaced lease has ended",
                Stage::Leaving => "a lease has ended before it could be revoked",
            };
            self.tell(&record, LeaseEvent::Ended, message);
        }
    }

    async fn perform(&self, job: Job) {
        let deadline = Instant::now() + CALL;
        match job {
            Job::Forget(Farewell { pod, asked_of, leases: _ }) => {
                for backend in asked_of {
                    // What it keeps for the Pod ends by itself, too.
                    let _ = timeout_at(deadline, AssertUnwindSafe(backend.forget(&pod, deadline)).catch_unwind()).await;
                }
            }
            Job::Look => self.look().await,
            Job::Renew(Call { id, backend, name, lease }) => {
                let answer = guarded(&name, deadline, backend.renew(lease, deadline)).await;
                self.renewed(id, answer);
            }
            Job::Revoke(Call { id, backend, name, lease }) => {
                let answer = guarded(&name, deadline, backend.revoke(lease, deadline)).await;
                self.revoked(id, answer);
            }
            Job::Save(id) => self.save(id).await,
        }
    }

    /// Which Pods are gone.
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
        state.unsaved.insert(id);
        let Some(record) = state.records.get_mut(&id) else { return };
        record.busy = false;
        if record.stage != Stage::Kept {
            // Not given any more, or revoked soon: of a renewal only its times matter.
            let _ = answer.map(|lease| record.renew(lease, now));
            return;
        }
        let error = match answer {
            Ok(lease) => {
                if record.renew(lease, now) {
                    self.tell(record, LeaseEvent::Renewed, "a lease was renewed");
                } else {
                    self.tell(record, LeaseEvent::Dropped, "a lease was renewed to nothing: the next mount issues another");
                    state.drop_out(id);
                }
                return;
            }
            Err(error) => record.told(&error),
        };
        let pod = Arc::clone(&record.issued_for);
        match Meaning::of(&error) {
            Meaning::Again => {
                record.failed(now.at);
                self.metrics.lease(error.backend.as_str(), LeaseEvent::RenewFailed);
                tracing::warn!(secret = %record.key.secret, pod = &*pod, ends = %record.lease.ends, tries = record.tries, %error,
                    "a lease could not be renewed; it is tried again until its end");
            }
            Meaning::Never => record.last(now.at),
            Meaning::Over => {
                self.metrics.lease(error.backend.as_str(), LeaseEvent::Dropped);
                tracing::warn!(secret = %record.key.secret, pod = &*pod, %error, "the store will not renew a lease: the next mount issues another");
                state.drop_out(id);
            }
        }
    }

    fn revoked(&self, id: RecordId, answer: Result<(), BackendError>) {
        let now = Instant::now();
        let mut state = self.lock();
        let Some(record) = state.records.get_mut(&id) else { return };
        record.busy = false;
        match answer.map_err(|error| (Meaning::of(&error), error)) {
            Ok(()) => self.tell(record, LeaseEvent::Revoked, "a lease was revoked"),
            Err((_, error)) if error.fault == Fault::NotFound => {
                self.tell(record, LeaseEvent::Revoked, "a lease was gone before it was revoked");
            }
            Err((Meaning::Never | Meaning::Over, error)) => {
                self.metrics.lease(error.backend.as_str(), LeaseEvent::RevokeFailed);
                tracing::warn!(secret = %record.key.secret, ends = %record.lease.ends, %error, "a lease cannot be revoked: it is left to its end");
            }
            Err((Meaning::Again, error)) => {
                record.failed(now);
                self.metrics.lease(error.backend.as_str(), LeaseEvent::RevokeFailed);
                tracing::warn!(secret = %record.key.secret, ends = %record.lease.ends, tries = record.tries, %error,
                    "a lease could not be revoked; it is tried again until its end");
                return;
            }
        }
        state.remove(id);
    }
}

// === impl Job ===

impl Job {
    fn of(record: &mut Record) -> Self {
        record.busy = true;
        let (id, name) = (record.id, record.key.secret.backend.clone());
        let call = Call { id, backend: Arc::clone(&record.store.inner), name, lease: record.lease.clone() };
        match record.stage {
            Stage::Kept | Stage::Last | Stage::Retired => Self::Renew(call),
            Stage::Leaving => Self::Revoke(call),
        }
    }
}

// === impl Meaning ===

impl Meaning {
    fn of(error: &BackendError) -> Self {
        match error.fault {
            Fault::Corrupt | Fault::Short | Fault::Throttled | Fault::TimedOut | Fault::TooLarge | Fault::Unavailable => Self::Again,
            Fault::Denied | Fault::Invalid | Fault::NotFound | Fault::Unauthenticated => Self::Over,
            Fault::Unsupported => Self::Never,
        }
    }
}

/// In time, and with an error rather than a panic: one store's bug does not end the others' renewals.
async fn guarded<T>(
    backend: &BackendName,
    deadline: Instant,
    call: impl Future<Output = Result<T, BackendError>>,
) -> Result<T, BackendError> {
    let fail =
        |fault, reason: &str| BackendError { fault, backend: backend.clone(), secret: None, reason: reason.to_owned(), source: None };
    match timeout_at(deadline, AssertUnwindSafe(call).catch_unwind()).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_panic)) => Err(fail(Fault::Unavailable, "the call panicked (a bug: please report it with the log)")),
        Err(_) => Err(fail(Fault::TimedOut, "no answer in time (is the store slow or out of reach?)")),
    }
}
