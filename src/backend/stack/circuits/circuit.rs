//! The circuit of one server: closed while the server answers, open while it is out. Nothing here waits or asks; the caller gives the time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::time::{Duration, Instant};

use super::{Cause, Sign};
use crate::model::{SecretName, Tenant};

/// Requests alone open a circuit only if this many secrets, of this many namespaces, fail with no answer between them. One broken path is not an
/// outage of the store, and neither is anything that a single tenant breaks.
const NAMES: usize = 3;
const NAMESPACES: usize = 2;

/// How long to wait between two requests while requests are let through one by one.
const BETWEEN: Duration = Duration::from_secs(1);

/// A tenant that had no turn for this time has one at once, even if others ask: kubelet may come back only after two minutes.
const TURN: Duration = Duration::from_secs(15);

/// The waits before the probes of an open circuit.
const PROBES: [Duration; 5] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(8), Duration::from_secs(15)];

/// After this time without a mount that needs it, an open circuit is not probed any more: no store is asked without a mount that asks. The time is
/// longer than kubelet waits between two tries (2 minutes and 2 seconds).
const WANTED: Duration = Duration::from_mins(5);

#[derive(Debug, Default)]
pub(super) struct Circuit {
    inside: Mutex<Inside>,
    /// No task looks at its server.
    unprobed: bool,
}

#[derive(Debug, Default)]
struct Inside {
    state: State,
    /// Alive while a task looks at the server.
    looking: Weak<()>,
    last_look: Option<Instant>,
    /// A probe has failed while a request was answered: probes do not count until one succeeds.
    blind: bool,
    /// The last outage.
    outage: Option<Ended>,
}

/// A task looks at the server while this is alive.
#[derive(Debug)]
pub(in crate::backend::stack) struct Looking {
    _alive: Arc<()>,
}

#[derive(Debug)]
enum State {
    Closed(Failures),
    Open(Open),
}

/// The failures since the last answer.
#[derive(Debug, Default)]
struct Failures {
    names: Vec<SecretName>,
    namespaces: Vec<Tenant>,
    /// Whether somebody should look at the server.
    doubtful: bool,
}

#[derive(Debug)]
struct Open {
    since: Instant,
    cause: Cause,
    way: Way,
    /// When a mount last needed it closed.
    wanted: Instant,
    /// When a request was last let through, and the tenants of the last requests.
    last: Instant,
    turns: HashMap<Tenant, Instant>,
}

/// What closes it. In both cases an answered request does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    /// A probe that succeeds. Now and then a request is let through, in case probes never succeed.
    Probe,
    /// A mount's own request, if probes say that all is well or if there are none: one each second.
    Trial,
}

/// When an outage ended, and how long it was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) at: Instant,
    pub(super) lasted: Duration,
}

/// Whether a request may be sent.
#[derive(Debug)]
pub(super) enum Admission {
    Go,
    Refused { since: Instant, cause: Cause },
}

/// What has changed.
#[derive(Debug)]
pub(super) enum Change {
    Opened(Cause),
    Closed(Ended),
}

// === impl Circuit ===

impl Circuit {
    pub(super) fn admit(&self, tenant: &Tenant, now: Instant) -> Admission {
        match &mut self.lock().state {
            State::Closed(_) => Admission::Go,
            State::Open(open) => open.admit(tenant, now),
        }
    }

    /// What [`Circuit::admit`] would say. It is for a request that is not sent in any case, so it uses nobody's turn.
    pub(super) fn would_admit(&self, tenant: &Tenant, now: Instant) -> Admission {
        match &mut self.lock().state {
            State::Closed(_) => Admission::Go,
            State::Open(open) => open.would_admit(tenant, now),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.lock().state, State::Open(_))
    }

    /// The last outage, if it has ended.
    pub(super) fn ended(&self) -> Option<Ended> {
        let inside = self.lock();
        inside.outage.filter(|_| matches!(inside.state, State::Closed(_)))
    }

    /// The circuit of a server that no task looks at.
    pub(super) fn without_probes() -> Self {
        Self { unprobed: true, ..Self::default() }
    }

    /// Notes how a request for this secret ended, and when it began.
    pub(super) fn note(&self, tenant: &Tenant, secret: &SecretName, sign: Sign, (begun, now): (Instant, Instant)) -> Option<Change> {
        let mut inside = self.lock();
        let of_down = if self.unprobed || inside.blind { Way::Trial } else { Way::Probe };
        let (cause, way) = match (sign, &mut inside.state) {
            (Sign::Answered, State::Open(Open { way: Way::Probe, since, .. })) if begun > *since => {
                inside.blind = true;
                let change = inside.close(now);
                // Or the store had come back just before: one look shows that.
                inside.state = State::Closed(Failures { doubtful: true, ..Failures::default() });
                return change;
            }
            (Sign::Answered, _) => return inside.close(now),
            (Sign::Down(cause), State::Closed(_)) => (cause, of_down),
            (Sign::Failed(cause), State::Closed(failures)) => {
                if !failures.add(tenant, secret) {
                    return None;
                }
                (cause, Way::Trial)
            }
            (Sign::Late, State::Closed(failures)) => {
                failures.doubtful = true;
                return None;
            }
            (Sign::Nothing, _) | (Sign::Down(_) | Sign::Failed(_) | Sign::Late, State::Open(_)) => return None,
        };
        let change = inside.open(cause, way, now);
        if let State::Open(open) = &mut inside.state {
            open.turns.insert(tenant.clone(), now);
        }
        Some(change)
    }

    /// A probe has ended: with success, or with why the server is out.
    pub(super) fn probed(&self, found: Option<Cause>, now: Instant) -> Option<Change> {
        let mut inside = self.lock();
        inside.last_look = Some(now);
        inside.blind &= found.is_some();
        let believed = found.filter(|_| !inside.blind);
        match (believed, &mut inside.state) {
            (None, State::Open(Open { way: Way::Probe, .. })) => inside.close(now),
            (None, State::Open(_)) => None,
            (None, State::Closed(failures)) => {
                failures.doubtful = false;
                None
            }
            (Some(cause), State::Open(open)) => {
                (open.cause, open.way) = (cause, Way::Probe);
                None
            }
            (Some(cause), State::Closed(_)) => Some(inside.open(cause, Way::Probe, now)),
        }
    }

    /// While a task holds this, it may look at the server; `None`: another one does so already, or there is nothing to see now.
    pub(super) fn look(&self, now: Instant) -> Option<Looking> {
        let mut inside = self.lock();
        let is_due = match &inside.state {
            State::Open(Open { way: Way::Probe, .. }) => true,
            State::Closed(Failures { doubtful: false, .. }) => false,
            State::Closed(_) | State::Open(_) => inside.last_look.is_none_or(|last| now.duration_since(last) >= BETWEEN),
        };
        (is_due && inside.looking.strong_count() == 0).then(|| {
            let looking = Arc::new(());
            inside.looking = Arc::downgrade(&looking);
            Looking { _alive: looking }
        })
    }

    /// How long after the last of the `probes` that failed the next one is due; `None`: none is due.
    pub(super) fn next_probe(&self, probes: usize, now: Instant) -> Option<Duration> {
        match &self.lock().state {
            State::Open(Open { way: Way::Probe, wanted, .. }) if now.duration_since(*wanted) < WANTED => {
                Some(PROBES[probes.min(PROBES.len() - 1)])
            }
            State::Open(_) | State::Closed(_) => None,
        }
    }

    /// Nothing that is done under the lock panics.
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Inside ===

impl Inside {
    fn open(&mut self, cause: Cause, way: Way, now: Instant) -> Change {
        self.state = State::Open(Open { since: now, cause: cause.clone(), way, wanted: now, last: now, turns: HashMap::new() });
        Change::Opened(cause)
    }

    fn close(&mut self, now: Instant) -> Option<Change> {
        let State::Open(Open { since, .. }) = std::mem::take(&mut self.state) else { return None };
        let ended = Ended { at: now, lasted: now.duration_since(since) };
        self.outage = Some(ended);
        Some(Change::Closed(ended))
    }
}

impl Default for State {
    fn default() -> Self {
        Self::Closed(Failures::default())
    }
}

// === impl Failures ===

impl Failures {
    /// Adds a failure. Returns whether there are enough. It keeps no more than it needs for that.
    fn add(&mut self, tenant: &Tenant, secret: &SecretName) -> bool {
        self.doubtful = true;
        if self.names.len() < NAMES && !self.names.contains(secret) {
            self.names.push(secret.clone());
        }
        if self.namespaces.len() < NAMESPACES && !self.namespaces.contains(tenant) {
            self.namespaces.push(tenant.clone());
        }
        self.names.len() >= NAMES && self.namespaces.len() >= NAMESPACES
    }
}

// === impl Open ===

impl Open {
    fn admit(&mut self, tenant: &Tenant, now: Instant) -> Admission {
        let admission = self.would_admit(tenant, now);
        if matches!(admission, Admission::Go) {
            self.last = now;
            self.turns.insert(tenant.clone(), now);
        }
        admission
    }

    fn would_admit(&mut self, tenant: &Tenant, now: Instant) -> Admission {
        self.wanted = now;
        let waited = now.duration_since(self.last);
        let goes = match self.way {
            Way::Probe => waited >= TURN,
            Way::Trial => {
                self.turns.retain(|_, at| now.duration_since(*at) < TURN);
                waited >= BETWEEN || !self.turns.contains_key(tenant)
            }
        };
        if goes { Admission::Go } else { Admission::Refused { since: self.since, cause: self.cause.clone() } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(reason: &str) -> Cause {
        Cause { reason: reason.to_owned(), full: None }
    }

    struct Bench {
        circuit: Circuit,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self { circuit: Circuit::default(), now: Instant::now() }
        }

        fn note(&self, tenant: &str, secret: &str, sign: Sign) -> bool {
            let _ = self.circuit.note(&tenant.into(), &secret.parse().unwrap(), sign, (self.now, self.now));
            self.circuit.is_open()
        }

        fn fails(&self, tenant: &str, secret: &str) -> bool {
            self.note(tenant, secret, Sign::Failed(cause("500")))
        }

        fn goes(&self, tenant: &str) -> bool {
            matches!(self.circuit.admit(&tenant.into(), self.now), Admission::Go)
        }

        fn later(&mut self, millis: u64) -> &mut Self {
            self.now += Duration::from_millis(millis);
            self
        }

        fn tried(&self) -> Self {
            let bench = Self { circuit: Circuit::default(), now: self.now };
            for (tenant, secret) in [("shop", "a"), ("shop", "b"), ("bank", "c")] {
                bench.fails(tenant, secret);
            }
            assert!(bench.circuit.is_open());
            bench
        }
    }

    #[tokio::test]
    async fn three_names_of_two_namespaces_open_it() {
        let bench = Bench::new();
        for _ in 0..50 {
            assert!(!bench.fails("shop", "a") && !bench.fails("bank", "a") && !bench.fails("shop", "b"));
            assert!(!bench.note("shop", "c", Sign::Nothing));
            assert!(!bench.note("other", "a", Sign::Answered));
        }
        for secret in ["a", "b", "c", "d"] {
            assert!(!bench.fails("shop", secret), "one tenant's own trouble");
        }
        assert!(bench.fails("bank", "a"));
        assert!(!bench.note("bank", "a", Sign::Answered));
    }

    #[tokio::test]
    async fn a_server_that_is_down_opens_it_at_once_and_a_probe_closes_it() {
        let mut bench = Bench::new();
        assert!(bench.note("shop", "a", Sign::Down(cause("no connection"))));
        assert!(!bench.later(14_000).goes("shop") && !bench.goes("bank"));
        assert!(bench.circuit.probed(Some(cause("sealed")), bench.now).is_none() && bench.circuit.is_open());
        let Admission::Refused { cause, .. } = bench.circuit.admit(&"shop".into(), bench.now) else { panic!() };
        assert_eq!(cause.reason, "sealed");
        let Some(Change::Closed(ended)) = bench.circuit.probed(None, bench.now) else { panic!() };
        assert_eq!((ended.lasted, bench.goes("shop")), (Duration::from_secs(14), true));
    }

    /// A gateway that has no health page, or a store whose look takes long.
    #[tokio::test]
    async fn a_probe_that_fails_while_requests_are_answered_is_not_believed() {
        let mut bench = Bench::new();
        bench.fails("shop", "a");
        bench.circuit.probed(Some(cause("502")), bench.now);
        assert!(!bench.goes("bank") && bench.later(15_000).goes("bank") && !bench.goes("bank"), "one now and then");
        let _ = bench.circuit.note(&"bank".into(), &"b".parse().unwrap(), Sign::Answered, (bench.now, bench.now));
        assert!(!bench.circuit.is_open());
        for _ in 0..3 {
            assert!(!bench.fails("shop", "a"));
            assert!(bench.circuit.probed(Some(cause("502")), bench.now).is_none() && !bench.circuit.is_open());
        }
        bench.circuit.probed(None, bench.now);
        bench.fails("shop", "a");
        assert!(bench.circuit.probed(Some(cause("sealed")), bench.now).is_some(), "it has succeeded, and is believed again");
    }

    /// The request came first, and the next probe only after it.
    #[tokio::test]
    async fn a_store_that_is_back_before_its_probe_is_looked_at_once() {
        let mut bench = Bench::new();
        bench.note("shop", "a", Sign::Down(cause("refused")));
        assert!(bench.later(15_000).goes("shop"));
        assert!(!bench.note("shop", "a", Sign::Answered));
        assert!(bench.circuit.look(bench.now).is_some());
        bench.circuit.probed(None, bench.now);
        assert!(bench.circuit.look(bench.now).is_none());
        bench.fails("shop", "a");
        assert!(bench.circuit.probed(Some(cause("sealed")), bench.now).is_some(), "probes are believed");
    }

    #[tokio::test]
    async fn an_answer_that_was_under_way_says_nothing_of_the_probe() {
        let mut bench = Bench::new();
        let begun = bench.now;
        bench.later(10).note("shop", "a", Sign::Down(cause("refused")));
        let _ = bench.circuit.note(&"bank".into(), &"b".parse().unwrap(), Sign::Answered, (begun, bench.now));
        bench.fails("shop", "a");
        assert!(bench.circuit.probed(Some(cause("sealed")), bench.now).is_some());
    }

    #[tokio::test]
    async fn what_a_class_names_is_not_probed() {
        let mut bench = Bench { circuit: Circuit::without_probes(), ..Bench::new() };
        bench.note("shop", "a", Sign::Down(cause("refused")));
        assert!(bench.circuit.next_probe(0, bench.now).is_none());
        assert!(!bench.goes("shop") && bench.later(1000).goes("shop") && !bench.goes("shop"));
    }

    #[tokio::test]
    async fn a_probe_that_fails_opens_it_and_takes_over() {
        let bench = Bench::new();
        assert!(bench.circuit.look(bench.now).is_none(), "nothing has failed");
        bench.note("shop", "a", Sign::Late);
        let looking = bench.circuit.look(bench.now).unwrap();
        assert!(bench.circuit.look(bench.now).is_none(), "one at a time");
        assert!(matches!(bench.circuit.probed(Some(cause("sealed")), bench.now), Some(Change::Opened(_))));
        drop(looking);
        assert!(bench.circuit.look(bench.now).is_some());
        let mut tried = Bench::new().tried();
        tried.circuit.probed(None, tried.now);
        assert!(tried.circuit.is_open(), "what probes find nothing wrong with is closed by a request");
        tried.circuit.probed(Some(cause("sealed")), tried.now);
        assert!(!tried.later(14_000).goes("shop"));
    }

    #[tokio::test]
    async fn who_asks_often_takes_nobodys_turn() {
        let mut bench = Bench::new().tried();
        assert!(!bench.goes("bank") && !bench.later(999).goes("bank"));
        assert!(bench.later(1).goes("bank") && !bench.goes("bank"), "one each second");
        for minute in 0..5 {
            for _ in 0..1200 {
                bench.later(100).goes("bank");
            }
            assert!(bench.goes("victim"), "{minute}");
        }
    }

    #[tokio::test]
    async fn who_does_not_ask_takes_nobodys_turn() {
        let mut bench = Bench::new().tried();
        bench.later(1000);
        for _ in 0..3 {
            assert!(matches!(bench.circuit.would_admit(&"bank".into(), bench.now), Admission::Go));
        }
        assert!(bench.goes("bank"));
        assert!(matches!(bench.circuit.would_admit(&"bank".into(), bench.now), Admission::Refused { .. }));
    }

    #[tokio::test]
    async fn probes_grow_apart_and_end_when_nobody_wants_it() {
        let mut bench = Bench::new();
        bench.note("shop", "a", Sign::Down(cause("refused")));
        let waits: Vec<_> = (0..7).map(|probes| bench.circuit.next_probe(probes, bench.now).unwrap().as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 15, 15, 15]);
        bench.later(299_000);
        assert!(bench.circuit.next_probe(9, bench.now).is_some());
        bench.later(1000);
        assert!(bench.circuit.next_probe(9, bench.now).is_none());
        bench.goes("shop");
        assert!(bench.circuit.next_probe(9, bench.now).is_some() && bench.circuit.look(bench.now).is_some());
    }
}
