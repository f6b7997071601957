//! A decorator: equal requests that are on their way to a store at the same time become one.
//!
//! The first caller with a [`Scope`](crate::backend::Scope) and a reference leads: its request goes out as a *flight*, a task of its own. Others
//! that ask for the same meanwhile wait for it. If something happens to the leader, this becomes of the others:
//!
//! - **It is cancelled** (its client went away): the flight goes on while anybody waits for it, and is given up when nobody does.
//! - **It fails**: each waiter may try again, once. These tries are combined as well: if 250 waiters wait for a dead store, they make one more
//!   call, and not 249 one after another. The result of the second try is final.
//! - **Its deadline is short**: the flight ends with it. One of the waiters with more time leads the next flight, which lasts as long as the most
//!   patient waiter may wait. So 250 waiters whose times end one by one make three calls, whichever wakes first. From then on they wait only for a
//!   flight that lasts at least half as long as they may wait themselves, so that they are not cut off by each later flight.
//! - **It panics**: only the leader gets the panic. The waiters try again.
//! - **It has too little memory**: this is not a failed try. A waiter with a whole purse leads again; each other waiter also fails with too little
//!   memory.
//! - **Its answer has a lease**: only the leader gets the answer, and each waiter asks for itself. If the leader is gone, the lease is revoked.
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

/// A flight ends this long before its leader's deadline, so that the leader still gets what the store's client says about it.
const MARGIN: Duration = Duration::from_millis(20);

/// Deadlines that differ by less count as one: for mounts that arrive together, all times end when the first one ends.
const TOGETHER: Duration = Duration::from_secs(1);

/// How many flights may fail for one waiter.
const TRIES: usize = 2;

/// How long it may take to revoke a lease that nobody has.
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

/// One request in the air, for callers that may board it.
struct Flight {
    ends: Instant,
    patience: Arc<Mutex<Patience>>,
    landing: watch::Sender<Option<Landing>>,
    /// If another tenant boards the flight, the request also waits in that tenant's line. So nobody waits behind the earlier requests of the
    /// leader's tenant.
    party: Party,
    /// Whether the leader's request has reached the store.
    called: Called,
}

/// The result of a flight for all except its leader.
#[derive(Clone)]
enum Landing {
    Answer(Fetched),
    Failed(BackendError, Patience),
    /// The answer has a lease: only the leader gets it.
    Leased,
    Panicked,
}

/// The latest deadline of those who waited for a flight.
type Patience = Instant;

/// The result for the leader.
type Own = Result<Result<Fetched, BackendError>, Box<dyn Any + Send>>;

/// A waiter of a flight: while one of these exists, the flight goes on.
type Waiting = watch::Receiver<Option<Landing>>;

enum Boarded {
    Leader(Departure),
    Waiter { waiting: Waiting, ends: Instant, called: Called },
}

/// A flight that has its place but has not started.
struct Departure {
    place: Place,
    waiting: Waiting,
    party: Party,
    ends: Instant,
}

/// A flight's place among those in the air. It is given back however the flight ends, so that nobody boards a flight that is gone.
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
                    // A caller with a whole purse leads again, and then has enough memory; a caller without one also fails with too little memory.
                    if !cx.payer.as_ref().is_some_and(|payer| payer.purse().has_whole()) {
                        return Err(error);
                    }
                }
                Ok(Landing::Failed(_, theirs)) if was_cut(ends, cx.deadline) => (cut, patience) = (true, theirs),
                Ok(Landing::Failed(error, theirs)) => (failures, failure, patience) = (failures + 1, Some(error), theirs),
                Ok(Landing::Panicked) => failures += 1,
                // The earlier failure says more than that the time has ended.
                Err(_) => return failure.map_or_else(|| late(called.is_marked()), Err),
            }
            if cx.deadline <= Instant::now() {
                return failure.map_or_else(|| late(called.is_marked()), Err);
            }
        }
        match failure {
            Some(error) => Err(error),
            // Two leaders panicked, so it is not the fault of one of them.
            None => self.inner.fetch(secret, cx).await,
        }
    }

    /// `failure` is the earlier failure: it says more than that the time has ended.
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
            // The time has ended; or the runtime ends, and the task with it.
            Ok(Err(_)) | Err(_) => Err(failure.unwrap_or_else(|| {
                let asked = called.is_marked();
                BackendError::late(&self.name, Some(&name), began, asked)
            })),
        }
    }
}

/// The flight itself: from its start to its result, or until nobody waits for it any more.
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
    // The place is free first: a caller that comes now asks again, and finds in the cache what there is.
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

/// Otherwise the lease for a mount that is gone would live on unused.
async fn revoke_lease(inner: &dyn Backend, unclaimed: Fetched) {
    let Some(lease) = unclaimed.secret.lease.clone() else { return };
    if let Err(error) = inner.revoke(lease, Instant::now() + REVOKE_TIME).await {
        tracing::warn!(%error, "a lease came after its mount was gone, and it could not be revoked; it ends by itself");
    }
}

async fn landed(mut waiting: Waiting) -> Landing {
    match waiting.wait_for(Option::is_some).await {
        Ok(landing) => landing.clone().unwrap_or(Landing::Panicked),
        // The task was dropped because the runtime ends. The next try would be dropped as well.
        Err(_) => Landing::Panicked,
    }
}

/// Whether an answer for another caller is fresh enough for this class.
fn suits(fetched: &Fetched, cx: &FetchContext) -> bool {
    match (&fetched.source, cx.fresh) {
        (Source::Fresh { age } | Source::Stale { age, .. }, Some(bound)) => *age < bound,
        (Source::Fresh { .. } | Source::Stale { .. }, None) | (Source::Store, _) => true,
    }
}

/// Whether a flight that has just failed was at the end of its time, while its waiter has time left.
fn was_cut(ends: Instant, deadline: Instant) -> bool {
    ends <= Instant::now() + 2 * MARGIN && ends + TOGETHER < deadline
}

/// Whether a flight lasts at least half as long as its waiter may wait.
fn lasts(ends: Instant, deadline: Instant) -> bool {
    let now = Instant::now();
    ends + TOGETHER >= deadline || 2 * ends.saturating_duration_since(now) >= deadline.saturating_duration_since(now)
}

/// Each change is one call or one assignment: a panic elsewhere cannot leave it half done.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Flights ===

impl Flights {
    /// Boards a flight, or gives a place to a new one. A caller that was `cut` off before boards only a flight that lasts. A leader uses the
    /// deadline of the most patient of those with whom it waited.
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
        // The former flight goes on for those who wait for it.
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
    /// Gives a flight up, unless somebody has boarded it meanwhile.
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

/// The number, without the contents.
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
