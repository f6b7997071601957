//! On paused time, around a store that counts its calls.

use tokio::task::JoinHandle;
use tokio::time::{Duration, advance};

use super::*;
use crate::backend::stack::cache::{Cached, Standby, Table};
use crate::backend::stack::coalesce::Coalesced;
use crate::backend::stack::limit::Limited;
use crate::backend::testing::fake::{Fake, Then, context, secret, text};
use crate::backend::{CacheConfig, Called, Fault};
use crate::clock::{Clock, ManualClock};
use crate::model::{PodClaims, PodIdentity, Source};
use crate::telemetry::Metrics;

const NOW: Duration = Duration::ZERO;
const FRESH: Duration = Duration::from_mins(2);

struct Bench {
    store: Arc<Fake>,
    circuits: Arc<Circuits>,
    backend: Arc<dyn Backend>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

impl Bench {
    fn new() -> Self {
        let (store, metrics, clock) = (Fake::new(), Arc::new(Metrics::new()), ManualClock::at(jiff::Timestamp::UNIX_EPOCH));
        for name in ["a", "b", "c", "d"] {
            store.put(name, &[("password", b"v1")]);
        }
        let clock: Arc<dyn Clock> = Arc::new(clock);
        let circuits = Circuits::new(&"bao".parse().unwrap(), &[], 1 << 20, &clock);
        let backend = Arc::new(Breaker::new(Arc::clone(&store) as Arc<dyn Backend>, Arc::clone(&circuits)));
        Self { store, circuits, backend, metrics, clock }
    }

    /// With a cache inside, and a standby outside that gives what the cache keeps.
    fn with_standby() -> (Self, Arc<dyn Backend>) {
        let bench = Self::new();
        let (times, clock) = (CacheConfig { fresh: FRESH, stale: Duration::from_hours(24) }, Arc::clone(&bench.clock));
        let table = Table::new(8 << 20, times, bench.metrics.cache("bao"), clock);
        let cached = Arc::new(Cached::new(Arc::clone(&bench.backend), Arc::clone(&table), times));
        let standby = Arc::new(Standby::new(cached, table, times, Arc::clone(&bench.circuits)));
        (bench, standby)
    }

    async fn ask(&self, namespace: &str, secret: &SecretRef) -> Result<Fetched, BackendError> {
        self.backend.fetch(secret, &of(namespace)).await
    }

    /// The store fails this call in this way; returns the message.
    async fn fail(&self, namespace: &str, name: &str, fault: Fault) -> String {
        self.store.next([(NOW, Then::Fail(fault))]);
        self.ask(namespace, &secret(name)).await.unwrap_err().reason
    }

    async fn is_asked(&self, namespace: &str, secret: &SecretRef) -> bool {
        let before = self.store.calls();
        let _ = self.ask(namespace, secret).await;
        self.store.calls() > before
    }
}

fn of(namespace: &str) -> FetchContext {
    let claims = PodClaims { namespace: namespace.into(), name: "pod".into(), uid: "uid".into(), service_account: "web".into() };
    FetchContext {
        pod: Arc::new(PodIdentity::believed(&claims)),
        called: Called::default(),
        ..context("pod", "web", Duration::from_mins(1))
    }
}

fn at(address: &str, name: &str) -> SecretRef {
    secret(name).with(|asked| asked.login.address = Some(address.to_owned()))
}

/// Lets the tasks run that are due.
async fn pass(time: Duration) {
    sleep(time).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_failed_is_not_sent_again_at_once() {
    let bench = Bench::new();
    bench.fail("shop", "a", Fault::Unavailable).await;
    let refused = bench.ask("shop", &secret("a")).await.unwrap_err();
    assert_eq!(refused.fault, Fault::Unavailable);
    insta::assert_snapshot!(refused.reason, @"not asked again for 1 s, because the store failed 0 s ago: as it was told");
    assert!(bench.is_asked("shop", &secret("b")).await && bench.is_asked("bank", &secret("a")).await, "others' requests");
    for wait in [1, 2, 4, 8, 15, 15] {
        advance(Duration::from_secs(wait)).await;
        assert_eq!(bench.fail("shop", "a", Fault::Unavailable).await, "as it was told", "{wait}");
        advance(Duration::from_millis(700 * wait)).await;
        assert!(!bench.is_asked("shop", &secret("a")).await, "{wait}");
    }
    advance(Duration::from_secs(15)).await;
    assert!(bench.ask("shop", &secret("a")).await.is_ok());
    bench.fail("shop", "a", Fault::Unavailable).await;
    advance(Duration::from_secs(1)).await;
    assert!(bench.is_asked("shop", &secret("a")).await, "an answer has ended it");
}

#[tokio::test(start_paused = true)]
async fn what_the_store_says_of_the_request_holds_nothing_back() {
    let bench = Bench::new();
    for fault in [Fault::Denied, Fault::NotFound, Fault::Unauthenticated, Fault::Invalid, Fault::Corrupt, Fault::TooLarge, Fault::Short] {
        bench.fail("shop", "a", fault).await;
        assert!(bench.is_asked("shop", &secret("a")).await, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_is_not_asked_until_a_probe_finds_it_up() {
    let bench = Bench::new();
    bench.store.fails_probes(Some(Fault::Down));
    bench.fail("shop", "a", Fault::Down).await;
    for name in ["a", "b", "c"] {
        assert!(!bench.is_asked("bank", &secret(name)).await, "{name}");
    }
    pass(Duration::from_secs(14)).await;
    let refused = bench.ask("bank", &secret("b")).await.unwrap_err();
    insta::assert_snapshot!(refused.reason, @"not asked, because the store has been out for 14 s: as it was told");
    pass(Duration::from_secs(28)).await;
    // After 1, 3, 7, 15, 30 s; each wait may be a quarter shorter.
    assert!((4..=6).contains(&bench.store.probes()), "{}", bench.store.probes());
    assert!(bench.circuits.state().0);
    bench.store.fails_probes(None);
    pass(Duration::from_secs(15)).await;
    assert!(bench.is_asked("bank", &secret("b")).await);
    let probes = bench.store.probes();
    pass(Duration::from_mins(10)).await;
    assert_eq!(bench.store.probes(), probes, "nobody looks at a store that answers");
    assert!(!bench.circuits.state().0);
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_out_an_answer_of_before_is_at_hand() {
    let (bench, standby) = Bench::with_standby();
    let (a, cx) = (secret("a"), of("shop"));
    standby.fetch(&a, &cx).await.unwrap();
    advance(FRESH).await;
    assert!(standby.recall(&a, &cx, Instant::now()).is_none(), "the store is asked first");
    bench.store.fails_probes(Some(Fault::Down));
    bench.store.next([(NOW, Then::Fail(Fault::Down))]);
    assert!(standby.fetch(&a, &cx).await.unwrap().source.stale().is_some());
    let calls = bench.store.calls();
    for _ in 0..14 {
        advance(Duration::from_secs(1)).await;
        let given = standby.recall(&a, &cx, Instant::now()).unwrap();
        assert!(given.source.stale().is_some() && text(&given) == "v1");
        assert!(standby.recall(&secret("b"), &cx, Instant::now()).is_none(), "nothing is kept of it");
        assert!(standby.recall(&a, &FetchContext { max_stale: Some(NOW), ..cx.clone() }, Instant::now()).is_none());
    }
    assert_eq!(bench.store.calls(), calls);
    advance(Duration::from_secs(1)).await;
    assert!(standby.recall(&a, &cx, Instant::now()).is_none(), "now and then a mount asks");
    bench.store.next([(NOW, Then::Fail(Fault::Down))]);
    standby.fetch(&a, &cx).await.unwrap();
    assert_eq!(bench.store.calls(), calls + 1, "who looks for what is at hand takes no turn");
    assert!(standby.recall(&a, &cx, Instant::now()).is_some());
}

#[tokio::test(start_paused = true)]
async fn nobody_asks_a_store_without_a_mount_that_wants_it() {
    let bench = Bench::new();
    bench.store.fails_probes(Some(Fault::Unavailable));
    bench.fail("shop", "a", Fault::Down).await;
    pass(Duration::from_mins(6)).await;
    let probes = bench.store.probes();
    pass(Duration::from_hours(6)).await;
    assert_eq!(bench.store.probes(), probes);
    bench.store.fails_probes(None);
    assert!(bench.is_asked("shop", &secret("b")).await, "the first mount is let through");
    assert!(bench.is_asked("shop", &secret("c")).await);
}

#[tokio::test(start_paused = true)]
async fn one_tenants_broken_path_is_no_outage() {
    let bench = Bench::new();
    for _ in 0..100 {
        for n in 0..20 {
            bench.store.put(&format!("broken-{n}"), &[("password", b"v1")]);
            let _ = bench.fail("hostile", &format!("broken-{n}"), Fault::Unavailable).await;
            bench.store.next([]);
        }
        advance(Duration::from_secs(15)).await;
        assert!(bench.ask("shop", &secret("a")).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_fails_after_a_request_has_shows_an_outage() {
    let bench = Bench::new();
    bench.store.fails_probes(Some(Fault::Down));
    bench.fail("shop", "a", Fault::TimedOut).await;
    pass(Duration::from_millis(1)).await;
    assert!(!bench.is_asked("bank", &secret("b")).await);
    // A fault of the daemon itself is not an outage.
    let bench = Bench::new();
    bench.store.fails_probes(Some(Fault::Invalid));
    bench.fail("shop", "a", Fault::TimedOut).await;
    pass(Duration::from_millis(1)).await;
    assert!(bench.is_asked("bank", &secret("b")).await);
}

/// For example, a full audit disk fails every request while `sys/health` answers 200.
#[tokio::test(start_paused = true)]
async fn a_store_that_only_looks_well_is_asked_by_one_mount_each_second() {
    let bench = Bench::new();
    bench.fail("shop", "a", Fault::Unavailable).await;
    bench.fail("shop", "b", Fault::Unavailable).await;
    bench.fail("bank", "c", Fault::Unavailable).await;
    pass(Duration::from_millis(10)).await;
    assert!(!bench.is_asked("bank", &secret("d")).await);
    let before = bench.store.calls();
    for _ in 0..100 {
        bench.store.next([(NOW, Then::Fail(Fault::Unavailable)); 4]);
        for namespace in ["shop", "bank"] {
            let _ = (bench.ask(namespace, &secret("c")).await, bench.ask(namespace, &secret("d")).await);
        }
        pass(Duration::from_millis(100)).await;
    }
    assert!((7..=13).contains(&(bench.store.calls() - before)), "{}", bench.store.calls() - before);
    bench.store.clear();
    pass(Duration::from_secs(1)).await;
    assert!(bench.is_asked("new", &secret("d")).await && bench.is_asked("bank", &secret("d")).await, "an answer closes it");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_throttles_is_up_and_its_wish_is_that_logins() {
    let bench = Bench::new();
    for (namespace, name) in [("shop", "a"), ("shop", "b"), ("bank", "c"), ("bank", "d")] {
        bench.fail(namespace, name, Fault::Throttled).await;
    }
    assert!(bench.is_asked("new", &secret("a")).await);
    bench.store.next([(NOW, Then::RetryAfter(Duration::from_secs(20)))]);
    assert!(bench.ask("login", &secret("a")).await.is_err());
    pass(Duration::from_secs(19)).await;
    assert!(!bench.is_asked("login", &secret("b")).await, "another of its secrets");
    assert!(bench.is_asked("shop", &secret("b")).await, "another login");
    pass(Duration::from_secs(1)).await;
    assert!(bench.is_asked("login", &secret("b")).await);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_a_class_names_is_out_by_itself() {
    let bench = Bench::new();
    bench.store.next([(NOW, Then::Fail(Fault::Down))]);
    bench.ask("shop", &at("https://theirs", "a")).await.unwrap_err();
    assert!(!bench.is_asked("shop", &at("https://theirs", "b")).await);
    assert!(bench.is_asked("shop", &at("https://other", "b")).await && bench.is_asked("shop", &secret("b")).await);
    let trusted = secret("c").with(|asked| asked.login.tls = Some(Box::default()));
    assert!(bench.is_asked("shop", &trusted).await, "other TLS settings");
    pass(Duration::from_secs(1)).await;
    assert!(bench.is_asked("shop", &at("https://theirs", "c")).await && bench.is_asked("shop", &at("https://theirs", "b")).await);
    assert_eq!(bench.store.probes(), 0);
    assert!(!bench.circuits.state().0);
}

#[tokio::test(start_paused = true)]
async fn what_classes_name_is_bounded_and_pushes_out_its_own() {
    let bench = Bench::new();
    bench.store.next([(NOW, Then::Fail(Fault::Down))]);
    bench.ask("shop", &at("https://theirs", "a")).await.unwrap_err();
    for n in 0..2000 {
        bench.store.next([(NOW, Then::Fail(Fault::Down))]);
        bench.ask("hostile", &at(&format!("https://{n}.{}", "x".repeat(200)), "a")).await.unwrap_err();
    }
    let (all, own) = bench.circuits.weight_of_named("shop");
    assert!(all <= 1 << 18 && own > 0, "{all} {own}");
}

#[tokio::test(start_paused = true)]
async fn what_grew_old_in_an_outage_is_asked_for_over_a_while() {
    const SECRETS: usize = 400;
    let (bench, standby) = Bench::with_standby();
    let secrets: Vec<_> = (0..SECRETS).map(|n| secret(&format!("kv/{n}"))).collect();
    for secret in &secrets {
        bench.store.put(secret.name.as_str(), &[("password", b"v1")]);
        standby.fetch(secret, &of("shop")).await.unwrap();
    }
    bench.store.is_out(Some(Fault::Down));
    pass(FRESH).await;
    for _ in 0..20 {
        for secret in &secrets {
            let given = standby.fetch(secret, &of("shop")).await.unwrap();
            assert!(matches!(given.source, Source::Stale { .. }), "{given:?}");
        }
        pass(Duration::from_mins(1)).await;
    }
    bench.store.is_out(None);
    bench.store.put("kv/new", &[("password", b"v1")]);
    while bench.circuits.is_open(&secret("a")) {
        pass(Duration::from_millis(100)).await;
    }
    let mut asked = Vec::new();
    for _ in 0..12 {
        pass(FRESH / 12).await;
        let before = bench.store.calls();
        for secret in &secrets {
            standby.fetch(secret, &of("shop")).await.unwrap();
        }
        asked.push(bench.store.calls() - before);
    }
    // Before any of these answers can be too old again.
    assert!(asked.iter().take(8).all(|asked| (10..=70).contains(asked)), "{asked:?}");
    assert!(asked.iter().sum::<usize>() > SECRETS * 8 / 10, "{asked:?}");
    assert_eq!(text(&standby.fetch(&secret("kv/new"), &of("shop")).await.unwrap()), "v1", "what is new goes at once");
    let current = FetchContext { fresh: Some(Duration::ZERO), ..of("shop") };
    let (bench, standby) = Bench::with_standby();
    standby.fetch(&secret("a"), &of("shop")).await.unwrap();
    pass(FRESH).await;
    bench.fail("shop", "b", Fault::Down).await;
    pass(Duration::from_mins(3)).await;
    assert_eq!(standby.fetch(&secret("a"), &current).await.unwrap().source, Source::Store, "a class that accepts only current answers");
}

/// All decorators around a store, except for leases.
struct Stack {
    store: Arc<Fake>,
    top: Arc<dyn Backend>,
    circuits: Arc<Circuits>,
}

impl Stack {
    fn new() -> Self {
        let (bench, name) = (Bench::new(), || "bao".parse().unwrap());
        let limited = Limited::new(Arc::clone(&bench.store) as Arc<dyn Backend>, name(), 64, Arc::clone(&bench.metrics));
        let breaker = Breaker::new(Arc::new(limited), Arc::clone(&bench.circuits));
        let times = CacheConfig { fresh: Duration::from_secs(30), stale: Duration::from_hours(24) };
        let table = Table::new(8 << 20, times, bench.metrics.cache("bao"), Arc::clone(&bench.clock));
        let cached = Cached::new(Arc::new(breaker), Arc::clone(&table), times);
        let coalesced = Coalesced::new(Arc::new(cached), name(), &bench.metrics);
        let top = Arc::new(Standby::new(Arc::new(coalesced), table, times, Arc::clone(&bench.circuits)));
        Self { store: bench.store, top, circuits: bench.circuits }
    }

    /// A mount that has this many seconds; it goes on by itself.
    fn ask(&self, name: &str, cx: FetchContext, seconds: u64) -> JoinHandle<Result<Fetched, BackendError>> {
        let (top, secret) = (Arc::clone(&self.top), secret(name));
        let cx = FetchContext { deadline: Instant::now() + Duration::from_secs(seconds), ..cx };
        tokio::spawn(async move { top.fetch(&secret, &cx).await })
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_little_time_cuts_nobody_who_has_more() {
    let stack = Stack::new();
    stack.store.next([(Duration::from_secs(10), Then::Answer); 4]);
    let short = stack.ask("a", of("shop"), 3);
    pass(Duration::from_millis(1)).await;
    let long = stack.ask("a", of("shop"), 60);
    assert!(short.await.unwrap().is_err());
    long.await.unwrap().unwrap();
}

/// A mount that has an old answer waits 10 s for a store. This store answers after 12 s.
#[tokio::test(start_paused = true)]
async fn a_slow_store_is_not_taken_for_one_that_is_out() {
    let stack = Stack::new();
    let all = [("shop", "a"), ("shop", "b"), ("bank", "c")];
    for (namespace, name) in all {
        stack.ask(name, of(namespace), 60).await.unwrap().unwrap();
    }
    pass(Duration::from_mins(1)).await;
    stack.store.next([(Duration::from_secs(12), Then::Answer); 100]);
    let asked: Vec<_> = all.iter().map(|(namespace, name)| stack.ask(name, of(namespace), 110)).collect();
    pass(Duration::from_millis(1)).await;
    let current = stack.ask("a", FetchContext { max_stale: Some(NOW), ..of("shop") }, 110);
    for asked in asked {
        assert!(matches!(asked.await.unwrap().unwrap().source, Source::Stale { .. }));
    }
    assert_eq!(current.await.unwrap().unwrap().source, Source::Store, "a mount that accepts no stale answer waits for its own");
    assert!(!stack.circuits.is_open(&secret("a")));
    stack.ask("d", of("shop"), 110).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_held_back_takes_no_turn() {
    let bench = Bench::new();
    for (namespace, name) in [("shop", "a"), ("shop", "b"), ("bank", "c")] {
        bench.fail(namespace, name, Fault::Unavailable).await;
    }
    assert!(bench.circuits.is_open(&secret("a")));
    pass(Duration::from_millis(500)).await;
    bench.store.next([(NOW, Then::Fail(Fault::Unavailable))]);
    assert!(bench.is_asked("new", &secret("a")).await);
    pass(Duration::from_secs(1)).await;
    assert!(bench.is_asked("new", &secret("a")).await, "its first second is over");
}

/// Only the server's health page fails, for a day.
#[tokio::test(start_paused = true)]
async fn a_probe_that_never_succeeds_turns_no_store_off() {
    let bench = Bench::new();
    bench.store.fails_probes(Some(Fault::TimedOut));
    for _ in 0..24 * 60 {
        let _ = bench.fail("hostile", "broken", Fault::Unavailable).await;
        bench.store.clear();
        pass(Duration::from_mins(1)).await;
        assert!(bench.ask("bank", &secret("a")).await.is_ok());
    }
}

/// A login that a namespace may have chosen, so that it never succeeds.
#[tokio::test(start_paused = true)]
async fn a_login_that_nobody_can_judge_is_held_back_and_opens_nothing() {
    let bench = Bench::new();
    for (namespace, name) in [("evil", "a"), ("worse", "b"), ("evil", "c"), ("worse", "d")] {
        bench.fail(namespace, name, Fault::NoLogin).await;
        assert!(!bench.is_asked(namespace, &secret(name)).await, "{name}");
    }
    assert!(!bench.circuits.state().0 && bench.is_asked("shop", &secret("x")).await);
    assert_eq!(bench.store.probes(), 0, "it says nothing of the store");
}

#[tokio::test(start_paused = true)]
async fn each_server_of_a_configuration_has_its_own_circuit() {
    let mut bench = Bench::new();
    bench.circuits = Circuits::new(&"bao".parse().unwrap(), &["a", "b"], 1 << 20, &bench.clock);
    bench.backend = Arc::new(Breaker::new(Arc::clone(&bench.store) as Arc<dyn Backend>, Arc::clone(&bench.circuits)));
    bench.store.fails_probes(Some(Fault::Down));
    bench.fail("shop", "a", Fault::Down).await;
    assert!(!bench.is_asked("bank", &secret("a")).await && !bench.is_asked("bank", &secret("a/b")).await);
    assert!(bench.is_asked("bank", &secret("b")).await && bench.circuits.state().0);
    assert!(bench.circuits.is_open(&secret("a/x")) && !bench.circuits.is_open(&secret("b/x")));
    bench.fail("shop", "b", Fault::Down).await;
    bench.store.fails_probes(None);
    pass(Duration::from_secs(20)).await;
    assert!(!bench.circuits.state().0 && bench.is_asked("bank", &secret("a")).await && bench.is_asked("bank", &secret("b")).await);
}
