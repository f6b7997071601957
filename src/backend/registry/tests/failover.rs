//! A failover above two complete stacks: the effect of its members' caches, circuits and old answers, and what a reload leaves.

use tokio::time::{Instant, advance};

use super::*;
use crate::backend::failover::{Failover, tests as bench};
use crate::backend::testing::fake::text;
use crate::backend::{Backend, FetchContext};
use crate::clock::ManualClock;
use crate::model::SecretRef;

mod model;

const FRESH: Duration = Duration::from_mins(2);
const STALE: Duration = Duration::from_hours(6);
const SECOND: Duration = Duration::from_secs(1);

/// Two stores, the stacks around them, and a failover above these.
struct Pair {
    stores: [Arc<Fake>; 2],
    backends: Backends,
    metrics: Arc<Metrics>,
    leases: Arc<Leases>,
}

fn name(text: &str) -> BackendName {
    text.parse().unwrap()
}

/// The stacks `bao` and `bao-dr` around these stores, and `both` above them.
fn stacked(stores: [Arc<dyn Backend>; 2], (metrics, leases): (&Arc<Metrics>, &Arc<Leases>), former: Option<&Backends>) -> Backends {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(jiff::Timestamp::UNIX_EPOCH));
    let parts = BackendParts { clock: &clock, metrics, leases, kept: Ceilings::of(64 << 20), archive: None };
    let config = BackendConfig::File(FileConfig { vault: "/v".into(), identity: Vec::new() });
    let mut backends = empty();
    for (store, name) in stores.into_iter().zip(["bao", "bao-dr"].map(name)) {
        let cache = Some(CacheConfig { fresh: FRESH, stale: STALE });
        let plan = StackPlan { config: config.clone(), calls: 64, secret_bytes: 1 << 20, cache, kept: 8 << 20, clients: 0, held: 1 << 20 };
        let known = former.and_then(|former| former.stacks.get(&name));
        let (answers, circuits) = (plan.answers(&name, parts, known), plan.circuits(&name, parts, known));
        let top = plan.decorate(store, &name, parts, answers.as_ref(), circuits.as_ref());
        backends.stacks.insert(name, Stack { top, answers, circuits, plan: Some(plan) });
    }
    let failover = BackendConfig::Failover(Box::new(bench::config()));
    let configured = Configured::new([(name("both"), failover)].into(), &BTreeMap::new());
    backends.failovers = failovers(&configured, &backends.stacks, parts, former);
    backends
}

impl Pair {
    fn new() -> Self {
        let (clock, metrics): (Arc<dyn Clock>, Arc<Metrics>) = (Arc::new(SystemClock), Arc::default());
        let (leases, stores) = (leases(&clock, &metrics), [Fake::new(), Fake::new()]);
        for (store, text) in stores.iter().zip(["first", "second"]) {
            for secret in ["kv/db", "kv/other"] {
                store.put(secret, &[("password", text.as_bytes())]);
            }
        }
        let backends = stacked(stores.each_ref().map(|store| Arc::clone(store) as Arc<dyn Backend>), (&metrics, &leases), None);
        Self { stores, backends, metrics, leases }
    }

    /// Like a reload that builds every stack again.
    fn reload(&mut self) {
        let stores = self.stores.each_ref().map(|store| Arc::clone(store) as Arc<dyn Backend>);
        self.backends = stacked(stores, (&self.metrics, &self.leases), Some(&self.backends));
    }

    fn both(&self) -> &Failover {
        &self.backends.failovers[&name("both")]
    }

    /// Asks like a mount: first what is here, then the store.
    async fn ask_as(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError> {
        match self.both().recall(secret, cx, Instant::now()) {
            Some(known) => Ok(known),
            None => self.both().fetch(secret, cx).await,
        }
    }

    /// The result: who answered, and how fresh it is; or the fault.
    async fn ask(&self, secret: &SecretRef, fresh: Option<Duration>) -> String {
        let cx = FetchContext { fresh, ..context("uid-1", "web", Duration::from_mins(1)) };
        told(self.ask_as(secret, &cx).await)
    }

    /// Even if there is a fresh answer.
    async fn now(&self, secret: &SecretRef) -> String {
        self.ask(secret, Some(Duration::ZERO)).await
    }

    fn calls(&self) -> [usize; 2] {
        self.stores.each_ref().map(|store| store.calls())
    }
}

fn told(answer: Result<Fetched, BackendError>) -> String {
    match answer {
        Ok(fetched) => format!("{} {} {}", fetched.by, fetched.source.as_str(), text(&fetched)),
        Err(error) => error.fault.code().to_string(),
    }
}

#[tokio::test(start_paused = true)]
async fn the_order_is_the_first_then_the_second_then_the_newest_of_before() {
    let (pair, db) = (Pair::new(), bench::both("kv/db"));
    let [first, second] = &pair.stores;
    assert_eq!(pair.ask(&db, None).await, "bao store first");
    assert_eq!((pair.ask(&db, None).await, pair.calls()), ("bao fresh first".to_owned(), [1, 0]));
    first.is_out(Some(Fault::Unavailable));
    assert_eq!(pair.ask(&db, None).await, "bao fresh first", "what is fresh is not asked for");
    assert_eq!(pair.now(&db).await, "bao-dr store second");
    assert_eq!(pair.ask(&db, None).await, "bao fresh first");
    advance(FRESH).await;
    assert_eq!(pair.ask(&db, None).await, "bao-dr store second");
    assert_eq!(pair.ask(&db, None).await, "bao-dr fresh second", "while the first would not be asked");
    second.is_out(Some(Fault::Unavailable));
    assert_eq!(pair.now(&db).await, "bao-dr stale second", "it is the newest");
    second.is_out(Some(Fault::Denied));
    advance(20 * SECOND).await;
    assert_eq!(pair.now(&db).await, "bao stale first", "the second has taken its own back");
    first.is_out(None);
    advance(20 * SECOND).await;
    assert_eq!(pair.now(&db).await, "bao store first");
    let metrics = pair.metrics.encode();
    for line in ["by=\"bao\"} 6", "by=\"bao-dr\"} 4"] {
        let line = format!("keyferry_failover_answers_total{{backend=\"both\",{line}");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    for line in
        ["{backend=\"bao\",outcome=\"stale\"} 1", "{backend=\"bao-dr\",outcome=\"stale\"} 1", "{backend=\"bao-dr\",outcome=\"hit\"} 1"]
    {
        assert!(metrics.contains(&format!("keyferry_cache_lookups_total{line}\n")), "{line} is not in\n{metrics}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fresh_answer_of_the_second_is_given_only_while_the_first_is_out() {
    let (pair, db) = (Pair::new(), bench::both("kv/db"));
    pair.stores[0].is_out(Some(Fault::Unavailable));
    assert_eq!(pair.ask(&db, None).await, "bao-dr store second");
    assert_eq!(pair.ask(&db, None).await, "bao-dr fresh second");
    pair.stores[0].is_out(None);
    advance(20 * SECOND).await;
    assert_eq!(pair.ask(&db, None).await, "bao store first", "it may be asked again");
}

#[tokio::test(start_paused = true)]
async fn a_denial_of_the_first_outlasts_its_outage_and_a_reload() {
    let (mut pair, db) = (Pair::new(), bench::both("kv/db"));
    let cx = context("uid-1", "web", Duration::from_mins(1));
    pair.stores[0].is_out(Some(Fault::Down));
    assert_eq!(pair.ask(&db, None).await, "bao-dr store second", "it has something fresh, and of before");
    for denial in [Fault::Denied, Fault::NotFound, Fault::Unauthenticated] {
        pair.stores[0].is_out(Some(denial));
        advance(20 * SECOND).await;
        assert_eq!(pair.now(&db).await, denial.code().to_string());
        pair.stores[0].is_out(Some(Fault::Down));
        let before = pair.calls()[1];
        for reloads in [false, true] {
            if reloads {
                pair.reload();
            }
            assert_eq!(pair.ask(&db, None).await, "BackendUnavailable", "neither what is fresh, nor what is of before");
            assert_eq!(pair.now(&db).await, "BackendUnavailable");
            assert_eq!(told(pair.backends.stacks[&name("bao-dr")].top.fetch(&secret_of("bao-dr"), &cx).await), "bao-dr fresh second");
            assert_eq!(pair.calls()[1], before);
        }
        pair.stores[0].is_out(None);
        advance(20 * SECOND).await;
        assert_eq!(pair.now(&db).await, "bao store first");
        pair.stores[0].is_out(Some(Fault::Down));
        assert_eq!(pair.now(&db).await, "bao-dr store second", "it was allowed again");
        pair.stores[0].is_out(None);
        advance(20 * SECOND).await;
    }
}

fn secret_of(backend: &str) -> SecretRef {
    SecretRef::read(name(backend), "kv/db".parse().unwrap())
}

/// One tenant's broken path is not an outage for others; an open circuit is one for everybody, and costs no time.
#[tokio::test(start_paused = true)]
async fn one_request_moves_no_other_and_an_open_circuit_moves_all_at_once() {
    let pair = Pair::new();
    let [first, _] = &pair.stores;
    first.next([(SECOND, Then::Fail(Fault::Unavailable))]);
    assert_eq!(pair.now(&bench::both("kv/db")).await, "bao-dr store second");
    assert_eq!(pair.now(&bench::both("kv/other")).await, "bao store first");
    assert_eq!((pair.now(&bench::both("kv/db")).await, pair.calls()[0]), ("bao-dr store second".to_owned(), 2), "it is held back");
    first.is_out(Some(Fault::Down));
    assert_eq!(pair.now(&bench::both("kv/other")).await, "bao-dr store second");
    let (before, began) = (first.calls(), Instant::now());
    for n in 0..50 {
        let cx = context(&format!("uid-{n}"), &format!("account-{n}"), Duration::from_mins(1));
        assert_eq!(told(pair.ask_as(&bench::both("kv/other"), &cx).await), "bao-dr store second");
    }
    assert_eq!((first.calls(), began.elapsed()), (before, Duration::ZERO), "no request is sent, and nobody waits");
    let issue = bench::both("pki/issue/x").with(|asked| asked.method = crate::model::Method::Post);
    assert!(pair.now(&issue).await.starts_with("bao-dr store uid-1#"), "it certainly was not sent");
    assert_eq!(first.calls(), before);
}

/// The store hangs before anything is known about it.
#[tokio::test(start_paused = true)]
async fn a_black_hole_costs_ten_seconds_and_nothing_once_it_is_known() {
    let pair = Pair::new();
    let [first, _] = &pair.stores;
    first.fails_probes(Some(Fault::TimedOut));
    first.next((0..8).map(|_| (Duration::from_hours(1), Then::Answer)));
    let began = Instant::now();
    assert_eq!(pair.now(&bench::both("kv/db")).await, "bao-dr store second");
    assert_eq!(began.elapsed().as_secs(), 10);
    advance(SECOND).await;
    let began = Instant::now();
    assert_eq!(pair.now(&bench::both("kv/other")).await, "bao-dr store second");
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_a_reload_keeps_is_what_either_name_may_have() {
    let pair = Pair::new();
    let db = bench::both("kv/db");
    let stale = async |allows: &str| {
        assert_eq!(pair.now(&db).await, "bao store first");
        pair.backends.review(&|_, secrets| secrets.iter().map(|secret| secret.backend.as_str() == allows).collect());
        pair.stores.iter().for_each(|store| store.is_out(Some(Fault::Unavailable)));
        let given = pair.now(&db).await;
        pair.stores.iter().for_each(|store| store.is_out(None));
        advance(20 * SECOND).await;
        given
    };
    assert_eq!(stale("both").await, "bao stale first");
    assert_eq!(stale("bao").await, "bao stale first");
    assert_eq!(stale("bao-dr").await, "BackendUnavailable");
}

#[tokio::test(start_paused = true)]
async fn it_is_ready_when_either_member_is() {
    let pair = Pair::new();
    let failing = async |first: bool, second: bool| {
        let error = |name: &str| BackendError {
            fault: Fault::Down,
            backend: name.parse().unwrap(),
            secret: None,
            reason: "refused".to_owned(),
            retry_after: None,
            source: None,
        };
        let mut failing: Vec<_> =
            [("bao", first), ("bao-dr", second)].iter().filter(|(_, out)| *out).map(|(name, _)| error(name)).collect();
        failing.extend(pair.both().failing(&failing));
        let shown: Vec<_> = failing.iter().map(|error| (error.to_string(), pair.backends.is_bridged(error, &failing))).collect();
        shown.into_iter().map(|(error, bridged)| format!("{error}{}", if bridged { " (bridged)" } else { "" })).collect::<Vec<_>>()
    };
    assert_eq!(failing(false, false).await, [""; 0]);
    assert_eq!(failing(true, false).await, ["bao: refused (bridged)"]);
    assert_eq!(failing(false, true).await, ["bao-dr: refused (bridged)"]);
    assert_eq!(failing(true, true).await, ["bao: refused", "bao-dr: refused", "both: bao: refused; bao-dr: refused"]);
    assert_eq!(pair.now(&bench::both("kv/db")).await, "bao store first");
    assert_eq!(failing(true, true).await, ["bao: refused (bridged)", "bao-dr: refused", "both: bao: refused; bao-dr: refused (bridged)"]);
    let (names, outages): (Vec<_>, Vec<_>) =
        (pair.backends.names().map(ToString::to_string).collect(), pair.backends.outages().map(|(name, ..)| name.to_owned()).collect());
    assert_eq!((names, outages), (vec!["bao".into(), "bao-dr".into(), "both".into()], vec!["bao".to_owned(), "bao-dr".to_owned()]));
}
