//! A decorator: equal requests on their way to a store at the same time become one.
//!
//! Who asks first, for a [`Scope`](crate::backend::Scope) and a reference, leads: its request goes out as a *flight*, a task of its own. Who asks for
//! the same while that is in the air waits for it. What becomes of the others when something befalls the leader:
//!
//! - **It is cancelled** (its client went away): the flight goes on while anybody waits for it, and is given up when nobody does.
//! - **It fails**: each waiter may try anew, once; these tries are coalesced as well, so that 250 waiters on a dead store make one more call,
//!   not 249 after one another. What the second try says is final.
//! - **Its deadline is short**: the flight ends with it. Of the waiters with more time one leads the next flight, which lasts as long as the
//!   most patient of them may wait: 250 waiters whose times end one by one make three calls, whichever of them wakes first. From then on they
//!   wait only for a flight that lasts at least half as long as they may wait themselves, so that nobody is cut by each that comes later.
//! - **It panics**: that reaches the leader alone. The waiters try anew.
//! - **It comes short of memory**: that is no failed try. A waiter with a whole purse leads anew; each other comes short itself.
//! - **Its answer has a lease**: the answer is the leader's, and each waiter asks for itself. Where the leader is gone, it is revoked.
//!
//! Each waiter keeps its own deadline. Requests that make something in the store are never shared.

use std::any::Any;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::FutureExt;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{oneshot, watch};
use tokio::time::{Duration, Instant, timeout_at};

use super::asked::Asked;
use crate::backend::{Backend, BackendError, Called, Fault, FetchContext};
use crate::model::{BackendName, Fetched, SecretRef, Source, Verb};
use crate::telemetry::Metrics;
use crate::turns::Party;

/// A flight ends this much before its leader's deadline, so that the leader still hears what the store's client has to say of it.
const MARGIN: Duration = Duration::from_millis(20);

/// Deadlines that differ by less are one: for mounts that arrive together, the end of one's time is the end of all.
const TOGETHER: Duration = Duration::from_secs(1);

/// How many flights may fail a waiter.
const TRIES: usize = 2;

/// How long the revoking of an unclaimed lease may take.
const REVOKE_TIME: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Coalesced {
    inner: Arc<dyn Backend>,
    name: BackendName,
    flights: Arc<Flights>,
    spared: Counter,
}

/// The requests in the air.
#[derive(Default)]
struct Flights(Mutex<HashMap<Asked, Flight>>);

/// One request in the air, as those see it who may board.
struct Flight {
    ends: Instant,
    patience: Arc<Mutex<Patience>>,
    landing: watch::Sender<Option<Landing>>,
    /// Whoever boards it from another tenant has it wait in that tenant's line too: nobody waits behind what the leader's tenant asked for
    /// before.
    party: Party,
    /// Of the leader: whether the store has been asked.
    called: Called,
}

/// What a flight brings home for all but its leader.
#[derive(Clone)]
enum Landing {
    Answer(Fetched),
    Failed(BackendError, Patience),
    /// The answer has a lease: it is the leader's alone.
    Leased,
    Panicked,
}

/// The latest deadline of those who waited for a flight.
type Patience = Instant;

/// What it brings home for its leader.
type Own = Result<Result<Fetched, BackendError>, Box<dyn Any + Send>>;

/// Who waits for a flight: while there is one of these, it stays in the air.
type Waiting = watch::Receiver<Option<Landing>>;

enum Boarded {
    Leader(Departure),
    Waiter { waiting: Waiting, ends: Instant, called: Called },
}

/// A flight that has its place, and is still on the ground.
struct Departure {
    place: Place,
    waiting: Waiting,
    party: Party,
    ends: Instant,
}

/// A flight's place among those in the air: given back whatever ends it, so that nobody boards what is not there.
struct Place {
    flights: Arc<Flights>,
    asked: Asked,
    landing: watch::Sender<Option<Landing>>,
    patience: Arc<Mutex<Patience>>,
}

// === impl Coalesced ===

impl Coalesced {
    pub fn new(inner: Arc<dyn Backend>, name: BackendName, metrics: &Metrics) -> Self {
        let spared = metrics.coalesced(name.as_str());
        Self { inner, name, flights: Arc::default(), spared }
    }

    async fn coalesce(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError> {
        let began = Instant::now();
        let asked = Asked { scope: self.inner.scope(secret, &cx.pod), secret: secret.clone() };
        let late = |asked| Err(BackendError::late(&self.name, Some(&secret.name), began, asked));
        let (mut failures, mut failure, mut cut, mut patience) = (0, None, false, cx.deadline);
        while failures < TRIES {
            let (waiting, ends, called) = match self.flights.board(&asked, cx, cut, patience) {
                Boarded::Leader(departure) => return self.lead(departure, cx, began, failure).await,
                Boarded::Waiter { waiting, ends, called } => (waiting, ends, called),
            };
            match timeout_at(cx.deadline, landed(waiting)).await {
                Ok(Landing::Answer(fetched)) if suits(&fetched, cx) => {
                    self.spared.inc();
                    return Ok(fetched);
                }
                Ok(Landing::Answer(_) | Landing::Leased) => return self.inner.fetch(secret, cx).await,
                Ok(Landing::Failed(error, _)) if error.fault == Fault::Short => {
                    // Who has a whole leads anew, and cannot come short; who has none is short as well.
                    if !cx.payer.as_ref().is_some_and(|payer| payer.purse().has_whole()) {
                        return Err(error);
                    }
                }
                Ok(Landing::Failed(_, theirs)) if was_cut(ends, cx.deadline) => (cut, patience) = (true, theirs),
                Ok(Landing::Failed(error, theirs)) => (failures, failure, patience) = (failures + 1, Some(error), theirs),
                Ok(Landing::Panicked) => failures += 1,
                // What went wrong before tells more than that the time is over.
                Err(_) => return failure.map_or_else(|| late(called.is_marked()), Err),
            }
            if cx.deadline <= Instant::now() {
                return failure.map_or_else(|| late(called.is_marked()), Err);
            }
        }
        match failure {
            Some(error) => Err(error),
            // Two leaders panicked: it is not to be blamed on one of them.
            None => self.inner.fetch(secret, cx).await,
        }
    }

    /// `failure` is what went wrong before: it tells more than that the time is over.
    async fn lead(
        &self,
        departure: Departure,
        cx: &FetchContext,
        began: Instant,
        failure: Option<BackendError>,
    ) -> Result<Fetched, BackendError> {
        let Departure { place, waiting, party, ends } = departure;
        let (name, deadline) = (place.asked.secret.name.clone(), cx.deadline);
        let margin = MARGIN.min(ends.saturating_duration_since(began) / 10);
        let (own, mine) = oneshot::channel();
        let called = cx.called.clone();
        let cx = FetchContext { deadline: ends - margin, party: Some(party), ..cx.clone() };
        tokio::spawn(fly(Arc::clone(&self.inner), place, cx, own));
        let answer = timeout_at(deadline, mine).await;
        drop(waiting);
        match answer {
            Ok(Ok(Ok(answer))) => answer,
            Ok(Ok(Err(panic))) => resume_unwind(panic),
            // Out of time; or the runtime ends, and the task with it.
            Ok(Err(_)) | Err(_) => Err(failure.unwrap_or_else(|| {
                let asked = called.is_marked();
                BackendError::late(&self.name, Some(&name), began, asked)
            })),
        }
    }
}

/// The flight itself: from the ground to the landing, or until nobody waits for it any more.
async fn fly(inner: Arc<dyn Backend>, place: Place, cx: FetchContext, own: oneshot::Sender<Own>) {
    let (asked, landing) = (place.asked.clone(), place.landing.clone());
    let mut call = pin!(AssertUnwindSafe(inner.fetch(&asked.secret, &cx)).catch_unwind());
    let outcome = loop {
        tokio::select! {
            biased;
            outcome = &mut call => break outcome,
            () = landing.closed() => if place.abandon() { return },
        }
    };
    // Off the board first: who comes now asks anew, and finds in the cache what there is.
    let patience = *locked(&place.patience);
    drop(place);
    let shared = match &outcome {
        Ok(Ok(fetched)) if fetched.secret.lease.is_some() => Landing::Leased,
        Ok(Ok(fetched)) => Landing::Answer(fetched.clone()),
        Ok(Err(error)) => Landing::Failed(error.clone(), patience),
        Err(_) => Landing::Panicked,
    };
    let unclaimed = own.send(outcome).err();
    landing.send_replace(Some(shared));
    if let Some(Ok(Ok(fetched))) = unclaimed {
        revoke_lease(&*inner, fetched).await;
    }
}

/// What was issued for a mount that is gone would live on unused.
async fn revoke_lease(inner: &dyn Backend, unclaimed: Fetched) {
    let Some(lease) = unclaimed.secret.lease.clone() else { return };
    if let Err(error) = inner.revoke(lease, Instant::now() + REVOKE_TIME).await {
        tracing::warn!(%error, "a lease came after its mount was gone, and it could not be revoked; it ends by itself");
    }
}

async fn landed(mut waiting: Waiting) -> Landing {
    match waiting.wait_for(Option::is_some).await {
        Ok(landing) => landing.clone().unwrap_or(Landing::Panicked),
        // The task was dropped: the runtime ends, and so will the next try.
        Err(_) => Landing::Panicked,
    }
}

/// Whether an answer made for another is fresh enough for this class.
fn suits(fetched: &Fetched, cx: &FetchContext) -> bool {
    match (&fetched.source, cx.fresh) {
        (Source::Fresh { age } | Source::Stale { age, .. }, Some(bound)) => *age < bound,
        (Source::Fresh { .. } | Source::Stale { .. }, None) | (Source::Store, _) => true,
    }
}

/// Whether a flight that has just failed was at the end of its time, and its waiter's is not.
fn was_cut(ends: Instant, deadline: Instant) -> bool {
    ends <= Instant::now() + 2 * MARGIN && ends + TOGETHER < deadline
}

/// Whether a flight lasts half as long as one may wait for it.
fn lasts(ends: Instant, deadline: Instant) -> bool {
    let now = Instant::now();
    ends + TOGETHER >= deadline || 2 * ends.saturating_duration_since(now) >= deadline.saturating_duration_since(now)
}

/// Each change is one call or one word: a panic elsewhere cannot leave it half-changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Flights ===

impl Flights {
    /// Boards what is in the air, or gives a place to a new flight. Who was `cut` short before boards only what lasts. Who leads does
    /// so for the most patient of those with whom it waited.
    fn board(self: &Arc<Self>, asked: &Asked, cx: &FetchContext, cut: bool, patience: Patience) -> Boarded {
        let deadline = cx.deadline;
        let mut flights = self.lock();
        let entry = flights.entry(asked.clone());
        if let Entry::Occupied(flight) = &entry {
            let Flight { ends, patience: latest, landing, party, called } = flight.get();
            if !cut || lasts(*ends, deadline) {
                let mut latest = locked(latest);
                *latest = deadline.max(*latest);
                party.join(&cx.tenant());
                return Boarded::Waiter { waiting: landing.subscribe(), ends: *ends, called: called.clone() };
            }
        }
        let (landing, waiting) = watch::channel(None);
        // The one that was there goes on for those who wait for it.
        let party = Party::of(cx.tenant());
        let ends = deadline.max(patience);
        let patience = Arc::new(Mutex::new(ends));
        let (latest, called) = (Arc::clone(&patience), cx.called.clone());
        entry.insert_entry(Flight { ends, patience: latest, landing: landing.clone(), party: party.clone(), called });
        let place = Place { flights: Arc::clone(self), asked: asked.clone(), landing, patience };
        Boarded::Leader(Departure { place, waiting, party, ends })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Asked, Flight>> {
        locked(&self.0)
    }
}

// === impl Place ===

impl Place {
    /// Gives a flight up, unless somebody has boarded meanwhile.
    fn abandon(&self) -> bool {
        let mut flights = self.flights.lock();
        let abandoned = self.landing.receiver_count() == 0;
        if abandoned {
            self.leave(&mut flights);
        }
        abandoned
    }

    /// Another flight may have taken the place.
    fn leave(&self, flights: &mut HashMap<Asked, Flight>) {
        if flights.get(&self.asked).is_some_and(|flight| flight.landing.same_channel(&self.landing)) {
            flights.remove(&self.asked);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave(&mut self.flights.lock());
    }
}

/// How many, not whose.
impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flights({})", self.lock().len())
    }
}

#[async_trait]
impl crate::backend::stack::Decorator for Coalesced {
    fn inner(&self) -> &dyn Backend {
        &*self.inner
    }

    async fn fetch(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError> {
        if secret.verb() != Verb::Read {
            return self.inner.fetch(secret, cx).await;
        }
        match self.inner.recall(secret, cx, Instant::now()) {
            Some(fetched) => Ok(fetched),
            None => self.coalesce(secret, cx).await,
        }
    }

    fn recall(&self, secret: &SecretRef, cx: &FetchContext, now: Instant) -> Option<Fetched> {
        self.inner.recall(secret, cx, now)
    }
}

#[cfg(test)]
mod tests;
