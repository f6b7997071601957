//! On paused time: the test decides the age of an answer.

use tokio::time::{advance, sleep};

use super::*;
use crate::backend::stack::cache::Cached;
use crate::backend::stack::coalesce::Coalesced;
use crate::backend::stack::limit::Limited;
use crate::backend::testing::fake::{Fake, Then, context, secret, text};
use crate::backend::{CacheConfig, Fault};
use crate::clock::{Clock, ManualClock};
use crate::model::{BackendName, Login, Method};
use crate::telemetry::Metrics;

const FRESH: Duration = Duration::from_mins(2);
const STALE: Duration = Duration::from_hours(24);
const MS: Duration = Duration::from_millis(1);

/// All decorators around a store, except for leases.
struct Bench {
    store: Arc<Fake>,
    backend: Arc<dyn Backend>,
    table: Arc<Table>,
    metrics: Arc<Metrics>,
    clock: Arc<ManualClock>,
}

impl Bench {
    fn new() -> Self {
        Self::with(FRESH, 64)
    }

    fn with(fresh: Duration, calls: usize) -> Self {
        let (store, metrics, name): (_, _, BackendName) = (Fake::new(), Arc::new(Metrics::new()), "bao".parse().unwrap());
        store.put("own/db", &[("password", b"own")]);
        let clock = Arc::new(ManualClock::at(jiff::Timestamp::UNIX_EPOCH));
        let circuits = Circuits::new(&name, &[], 1 << 20, &(Arc::clone(&clock) as Arc<dyn Clock>));
        let limited = Limited::new(Arc::clone(&store) as Arc<dyn Backend>, name, calls, Arc::clone(&metrics));
        let table = Table::new(1 << 20, CacheConfig { fresh, stale: STALE }, metrics.cache("bao"), Arc::clone(&clock) as Arc<dyn Clock>);
        let times = CacheConfig { fresh, stale: STALE };
        let cached = Cached::new(Arc::new(limited), Arc::clone(&table), times);
        let coalesced = Coalesced::new(Arc::new(cached), "bao".parse().unwrap(), &metrics);
        let backend = Arc::new(Standby::new(Arc::new(coalesced), Arc::clone(&table), times, circuits));
        Self { store, backend, table, metrics, clock }
    }

    /// The store fails the next call in this way.
    fn fail(&self, fault: Fault) {
        self.store.next([(MS, Then::Fail(fault))]);
    }

    /// A Pod of the ServiceAccount `web` asks the store, even if there is a fresh answer.
    async fn ask(&self, pod: &str, secret: &SecretRef) -> Result<Fetched, BackendError> {
        let cx = FetchContext { fresh: Some(Duration::ZERO), ..context(pod, "web", Duration::from_mins(1)) };
        self.backend.fetch(secret, &cx).await
    }

    /// The same while the store is out.
    async fn ask_in_vain(&self, pod: &str, secret: &SecretRef) -> Result<Fetched, BackendError> {
        self.fail(Fault::Unavailable);
        self.ask(pod, secret).await
    }

    async fn serves(&self, secret: &SecretRef) -> bool {
        self.ask_in_vain("uid-1", secret).await.is_ok_and(|fetched| fetched.source.stale().is_some())
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_out_the_last_good_answer_serves() {
    for (fresh, fault) in
        [(FRESH, Fault::Unavailable), (FRESH, Fault::TimedOut), (FRESH, Fault::Throttled), (Duration::ZERO, Fault::Unavailable)]
    {
        let bench = Bench::with(fresh, 64);
        let db = secret("kv/db");
        bench.ask("uid-1", &db).await.unwrap();
        bench.store.put("kv/db", &[("password", b"v2")]);
        bench.ask("uid-1", &db).await.unwrap();
        advance(Duration::from_hours(23)).await;
        bench.fail(fault);
        let given = bench.ask("uid-2", &db).await.unwrap();
        let Source::Stale { age, cause, .. } = &given.source else { panic!("{given:?}") };
        assert_eq!((age.as_secs(), cause.as_str(), text(&given)), (23 * 3600, "as it was told", "v2".to_owned()));
        let metrics = bench.metrics.encode();
        let lookups =
            |outcome, many| metrics.contains(&format!("keyferry_cache_lookups_total{{backend=\"bao\",outcome=\"{outcome}\"}} {many}\n"));
        assert!(lookups("stale", 1) && lookups("miss", 2), "a stale answer is not also a miss: {metrics}");
        assert_eq!(bench.ask("uid-2", &db).await.unwrap().source, Source::Store, "the store is asked each time");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_outage_is_told_and_changes_nothing() {
    let others = [Fault::Corrupt, Fault::Invalid, Fault::NoTurn, Fault::Short, Fault::TooLarge, Fault::Unhelpful, Fault::Unsupported];
    let bench = Bench::new();
    bench.ask("uid-1", &secret("kv/db")).await.unwrap();
    for fault in others {
        bench.fail(fault);
        assert_eq!(bench.ask("uid-1", &secret("kv/db")).await.unwrap_err().fault, fault);
    }
    assert!(bench.serves(&secret("kv/db")).await);
    assert!(!bench.serves(&secret("kv/other")).await, "there never was an answer");
}

#[tokio::test(start_paused = true)]
async fn none_is_older_than_the_configuration_and_the_class_allow() {
    let bench = Bench::new();
    let db = secret("kv/db");
    bench.ask("uid-1", &db).await.unwrap();
    let within = async |max_stale: Option<Duration>| {
        bench.fail(Fault::Unavailable);
        let cx = FetchContext { fresh: Some(Duration::ZERO), max_stale, ..context("uid-1", "web", FRESH) };
        bench.backend.fetch(&db, &cx).await.is_ok()
    };
    assert!(!within(Some(Duration::ZERO)).await);
    advance(Duration::from_hours(1).saturating_sub(3 * MS)).await;
    assert!(within(Some(Duration::from_hours(1))).await);
    advance(2 * MS).await;
    assert!(!within(Some(Duration::from_hours(1))).await);
    assert!(within(Some(Duration::from_hours(100))).await && within(None).await);
    advance(Duration::from_hours(23)).await;
    assert!(!within(Some(Duration::from_hours(100))).await && !within(None).await, "a class only lowers it");
}

#[tokio::test(start_paused = true)]
async fn the_time_that_the_machine_sleeps_counts() {
    let bench = Bench::new();
    let db = secret("kv/db");
    bench.ask("uid-1", &db).await.unwrap();
    bench.clock.advance(3_600);
    let given = bench.ask_in_vain("uid-1", &db).await.unwrap();
    assert_eq!(given.source.stale().unwrap().0.as_secs(), 3_600);
    assert!(bench.table.can_serve());
    bench.clock.advance(23 * 3_600);
    assert!(!bench.serves(&db).await && !bench.table.can_serve());
    bench.clock.advance(-48 * 3_600);
    advance(STALE.saturating_sub(Duration::from_secs(1))).await;
    assert!(bench.serves(&db).await, "a clock that is set back tells nothing");
    advance(Duration::from_secs(1)).await;
    assert!(!bench.serves(&db).await);
}

#[tokio::test(start_paused = true)]
async fn another_configuration_shortens_what_is_kept_and_brings_nothing_back() {
    let bench = Bench::new();
    let db = secret("kv/db");
    bench.ask("uid-1", &db).await.unwrap();
    advance(Duration::from_hours(2)).await;
    bench.table.review(1 << 20, CacheConfig { fresh: FRESH, stale: Duration::from_hours(3) }, &|_, all| vec![true; all.len()]);
    assert!(bench.serves(&db).await);
    sleep(Duration::from_hours(1) + Duration::from_secs(6)).await;
    assert_eq!(bench.table.weight(), 0, "it is wiped in time");
    bench.ask("uid-1", &db).await.unwrap();
    bench.table.review(1 << 20, CacheConfig { fresh: FRESH, stale: Duration::ZERO }, &|_, all| vec![true; all.len()]);
    advance(FRESH).await;
    bench.table.review(1 << 20, CacheConfig { fresh: FRESH, stale: STALE }, &|_, all| vec![true; all.len()]);
    assert!(!bench.serves(&db).await && !bench.table.can_serve());
}

#[tokio::test(start_paused = true)]
async fn its_age_counts_from_before_the_store_was_asked() {
    let bench = Bench::new();
    bench.store.next([(Duration::from_secs(5), Then::Answer)]);
    bench.ask("uid-1", &secret("kv/db")).await.unwrap();
    let given = bench.ask_in_vain("uid-1", &secret("kv/db")).await.unwrap();
    assert_eq!(given.source.stale().unwrap().0.as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn what_the_store_denies_or_does_not_have_is_gone_at_once() {
    for fault in [Fault::Denied, Fault::NotFound] {
        let bench = Bench::new();
        let db = secret("kv/db");
        bench.ask("uid-1", &db).await.unwrap();
        bench.fail(fault);
        assert_eq!(bench.ask("uid-2", &db).await.unwrap_err().fault, fault);
        assert!(!bench.serves(&db).await, "{fault:?}");
        assert_eq!(bench.table.weight(), 0);
        bench.ask("uid-1", &db).await.unwrap();
        assert!(bench.serves(&db).await, "it is allowed again");
    }
}

/// One Pod asks, and its answer comes late; meanwhile another Pod's request was denied.
#[tokio::test(start_paused = true)]
async fn an_answer_older_than_a_no_is_not_kept() {
    let bench = Bench::new();
    // A caller that waits for less time sends a request of its own.
    let cached =
        Cached::new(Arc::clone(&bench.store) as Arc<dyn Backend>, Arc::clone(&bench.table), CacheConfig { fresh: FRESH, stale: STALE });
    let (db, cx) = (secret("kv/db"), context("uid-1", "web", FRESH));
    bench.store.next([(100 * MS, Then::Answer), (MS, Then::Fail(Fault::Denied))]);
    let (late, denied) = tokio::join!(Backend::fetch(&cached, &db, &cx), async {
        sleep(10 * MS).await;
        Backend::fetch(&cached, &db, &cx).await
    });
    assert!(late.is_ok() && denied.is_err() && !bench.serves(&db).await);
}

#[tokio::test(start_paused = true)]
async fn while_its_login_is_refused_nothing_serves() {
    let bench = Bench::new();
    let [db, own] = ["kv/db", "own/db"].map(secret);
    bench.store.put("kv/other", &[("password", b"v1")]);
    let other = secret("kv/other");
    let role = db.with(|asked| asked.login = Login { role: Some("r".into()), ..Login::default() });
    for secret in [&db, &other, &own, &role] {
        bench.ask("uid-1", secret).await.unwrap();
    }
    bench.fail(Fault::Unauthenticated);
    bench.ask("uid-2", &other).await.unwrap_err();
    assert!(!bench.serves(&db).await && !bench.serves(&other).await, "all that this login has brought");
    assert!(bench.serves(&role).await && bench.serves(&own).await, "others' logins");
    let api = FetchContext { fresh: Some(Duration::ZERO), ..context("uid-9", "api", FRESH) };
    bench.backend.fetch(&db, &api).await.unwrap();
    assert!(!bench.serves(&db).await, "another ServiceAccount's login says nothing of this one");
    bench.fail(Fault::Corrupt);
    bench.ask("uid-1", &db).await.unwrap_err();
    assert!(!bench.serves(&db).await, "nobody knows whether that was the login's answer");
    bench.ask("uid-1", &db).await.unwrap();
    assert!(bench.serves(&other).await, "it succeeds again");
    bench.fail(Fault::Unauthenticated);
    bench.ask("uid-1", &db).await.unwrap_err();
    bench.fail(Fault::Denied);
    bench.ask("uid-1", &db).await.unwrap_err();
    assert!(bench.serves(&other).await && !bench.serves(&db).await, "who is denied is logged in");
}

#[tokio::test(start_paused = true)]
async fn what_makes_something_never_serves_and_its_refused_login_counts() {
    let bench = Bench::new();
    let db = secret("kv/db");
    let [post, put] = [Method::Post, Method::Put].map(|method| db.with(|asked| asked.method = method));
    for made in [&post, &put] {
        bench.ask("uid-1", made).await.unwrap();
        assert!(bench.ask_in_vain("uid-1", made).await.is_err());
    }
    bench.ask("uid-1", &db).await.unwrap();
    bench.fail(Fault::Unauthenticated);
    bench.ask("uid-1", &post).await.unwrap_err();
    assert!(!bench.serves(&db).await);
}

#[tokio::test(start_paused = true)]
async fn what_comes_with_a_lease_from_now_on_is_nobody_elses() {
    let bench = Bench::new();
    let db = secret("kv/db");
    bench.ask("uid-1", &db).await.unwrap();
    bench.store.next([(MS, Then::Leased)]);
    bench.ask("uid-1", &db).await.unwrap();
    assert!(!bench.serves(&db).await);
}

#[tokio::test(start_paused = true)]
async fn a_pod_takes_what_is_its_own_along_and_nobody_gets_anothers() {
    let bench = Bench::new();
    let [own, db] = ["own/db", "kv/db"].map(secret);
    bench.ask("uid-1", &own).await.unwrap();
    bench.ask("uid-1", &db).await.unwrap();
    assert!(bench.serves(&own).await && bench.ask_in_vain("uid-2", &own).await.is_err());
    bench.fail(Fault::Unavailable);
    let api = FetchContext { fresh: Some(Duration::ZERO), ..context("uid-1", "api", FRESH) };
    assert!(bench.backend.fetch(&db, &api).await.is_err(), "another ServiceAccount");
    bench.backend.forget("uid-1", Instant::now() + FRESH).await;
    assert!(!bench.serves(&own).await && bench.serves(&db).await);
    // Its last answer comes after it has gone.
    bench.store.next([(100 * MS, Then::Answer)]);
    let (late, ()) = tokio::join!(bench.ask("uid-1", &own), async {
        sleep(10 * MS).await;
        bench.backend.forget("uid-1", Instant::now() + FRESH).await;
    });
    assert!(late.is_ok() && !bench.serves(&own).await);
}

#[tokio::test(start_paused = true)]
async fn no_store_is_asked_without_a_mount_and_what_is_too_old_is_wiped() {
    let bench = Bench::new();
    bench.ask("uid-1", &secret("kv/db")).await.unwrap();
    let calls = bench.store.calls();
    bench.store.given.lock().unwrap().clear();
    sleep(STALE.saturating_sub(MS)).await;
    assert!(bench.table.weight() > 0);
    sleep(Duration::from_secs(6)).await;
    assert_eq!((bench.store.calls(), bench.table.weight()), (calls, 0));
}

/// If there is an old answer, a mount waits for a while; otherwise, as long as it can.
#[tokio::test(start_paused = true)]
async fn a_silent_store_keeps_nobody_waiting_for_long() {
    let bench = Bench::new();
    bench.ask("uid-1", &secret("kv/db")).await.unwrap();
    bench.store.next([(Duration::from_hours(1), Then::Answer)]);
    let began = Instant::now();
    let given = bench.ask("uid-1", &secret("kv/db")).await.unwrap();
    assert_eq!((began.elapsed(), given.source.stale()), (PATIENCE, Some((PATIENCE, STALE))));
    bench.store.next([(Duration::from_hours(1), Then::Answer)]);
    let began = Instant::now();
    assert_eq!(bench.ask("uid-1", &secret("kv/new")).await.unwrap_err().fault, Fault::TimedOut);
    assert!(began.elapsed() > Duration::from_secs(59));
}

/// If a tenant's own requests keep others from the store, that is not an outage of the store.
#[tokio::test(start_paused = true)]
async fn a_request_that_never_left_is_no_outage() {
    let bench = Bench::with(FRESH, 1);
    bench.ask("uid-1", &secret("kv/db")).await.unwrap();
    bench.store.next([(Duration::from_hours(1), Then::Answer)]);
    let slow = secret("kv/slow");
    let (_, waited) = tokio::join!(bench.ask("uid-1", &slow), async {
        sleep(MS).await;
        bench.ask("uid-1", &secret("kv/db")).await
    });
    assert_eq!(waited.unwrap_err().fault, Fault::NoTurn);
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_get_it_and_each_by_its_own_class() {
    let bench = Bench::new();
    let db = secret("kv/db");
    bench.ask("uid-1", &db).await.unwrap();
    advance(Duration::from_hours(2)).await;
    let calls = bench.store.calls();
    bench.store.next([(MS, Then::Fail(Fault::Unavailable)); 250]);
    // Every second class has its own limit, and so has the first class.
    let pods: Vec<_> = (0..250)
        .map(|n| FetchContext { max_stale: (n % 2 == 0).then_some(Duration::from_hours(1)), ..context(&format!("uid-{n}"), "web", FRESH) })
        .collect();
    let answers = futures_util::future::join_all(pods.iter().map(|cx| bench.backend.fetch(&db, cx))).await;
    for (cx, answer) in pods.iter().zip(&answers) {
        assert_eq!(answer.is_ok(), cx.max_stale.is_none());
    }
    assert_eq!(bench.store.calls() - calls, 2);
}

#[tokio::test(start_paused = true)]
async fn it_stays_within_its_ceiling_and_who_has_most_loses() {
    let bench = Bench::new();
    bench.ask("uid-1", &secret("kv/db")).await.unwrap();
    let large = vec![b'x'; 50_000];
    for n in 0..100 {
        let name = format!("kv/large{n}");
        bench.store.put(&name, &[("v", &large)]);
        let mut cx = context("uid-9", "evil", FRESH);
        cx.pod = Arc::new(crate::model::PodIdentity { namespace: "evil".into(), ..(*cx.pod).clone() });
        bench.backend.fetch(&secret(&name), &cx).await.unwrap();
        assert!(bench.table.weight() <= 1 << 20);
    }
    assert!(bench.table.weight() > 900_000 && bench.serves(&secret("kv/db")).await);
}
