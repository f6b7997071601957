//! On paused time: the test decides the age of an answer.

use std::collections::BTreeSet;

use tokio::time::{Duration, advance, sleep};

use super::*;
use crate::backend::stack::limit::Limited;
use crate::backend::testing::conformance;
use crate::backend::testing::fake::{Around, Fake, Then, context, secret, text};
use crate::clock::SystemClock;
use crate::model::{BackendName, LeaseFor, Version};
use crate::telemetry::Metrics;

const FRESH: Duration = Duration::from_mins(2);
const TIMES: CacheConfig = CacheConfig { fresh: FRESH, stale: Duration::ZERO };
const MS: Duration = Duration::from_millis(1);

struct Bench {
    store: Arc<Fake>,
    backend: Arc<Cached>,
    metrics: Arc<Metrics>,
}

/// The total weight that the answers may have.
const BYTES: usize = 16 << 20;

impl Bench {
    fn new() -> Self {
        let (store, metrics) = (Fake::new(), Arc::new(Metrics::new()));
        let table = Table::new(BYTES, TIMES, metrics.cache("bao"), Arc::new(SystemClock));
        let backend = Arc::new(Cached::new(Arc::clone(&store) as Arc<dyn Backend>, table, TIMES));
        Self { store, backend, metrics }
    }

    /// A Pod of the ServiceAccount `web` asks.
    async fn ask(&self, pod: &str, secret: &SecretRef) -> Result<Fetched, BackendError> {
        self.backend.fetch(secret, &context(pod, "web", Duration::from_mins(1))).await
    }

    async fn ask_within(&self, fresh: Duration) -> Fetched {
        let cx = FetchContext { fresh: Some(fresh), ..context("uid-1", "web", Duration::from_mins(1)) };
        self.backend.fetch(&secret("kv/db"), &cx).await.unwrap()
    }

    fn metric(&self, line: &str) -> u64 {
        let text = self.metrics.encode();
        let found = text.lines().find_map(|found| found.strip_prefix(&format!("keyferry_cache_{line} ")));
        found.map_or(0, |count| count.parse().unwrap())
    }

    fn evicted(&self, reason: &str) -> u64 {
        self.metric(&format!("evictions_total{{backend=\"bao\",reason=\"{reason}\"}}"))
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_serves_its_scope_for_its_time_and_says_its_age() {
    let bench = Bench::new();
    let first = bench.ask("uid-1", &secret("kv/db")).await.unwrap();
    assert_eq!(first.source, Source::Store);
    bench.store.put("kv/db", &[("password", b"v2")]);
    advance(Duration::from_secs(89)).await;
    let again = bench.ask("uid-2", &secret("kv/db")).await.unwrap();
    assert_eq!((again.source, text(&first)), (Source::Fresh { age: Duration::from_secs(89) }, "v1".to_owned()));
    assert!(Arc::ptr_eq(&again.secret, &first.secret), "one copy of the secret");
    advance(Duration::from_secs(31)).await;
    let new = bench.ask("uid-1", &secret("kv/db")).await.unwrap();
    assert_eq!((new.source.clone(), text(&new)), (Source::Store, "v2".to_owned()), "never longer than `fresh`");
    assert_eq!(bench.metric("lookups_total{backend=\"bao\",outcome=\"hit\"}"), 1);
    assert_eq!(bench.metric("lookups_total{backend=\"bao\",outcome=\"miss\"}"), 2);
}

#[tokio::test(start_paused = true)]
async fn answers_end_at_their_own_times() {
    let bench = Bench::new();
    let mut lifetimes = BTreeSet::new();
    for n in 0..40 {
        let name = format!("kv/s{n}");
        bench.store.put(&name, &[("v", b"1")]);
        bench.ask("uid-1", &secret(&name)).await.unwrap();
        let since = Instant::now();
        advance(Duration::from_millis(500)).await;
        while bench.ask("uid-1", &secret(&name)).await.unwrap().source != Source::Store {
            advance(Duration::from_millis(500)).await;
        }
        lifetimes.insert(since.elapsed().as_millis());
    }
    let (shortest, longest) = (lifetimes.first().unwrap(), lifetimes.last().unwrap());
    assert!(*shortest >= 90_000 && *longest <= 120_000, "{shortest} to {longest} ms");
    assert!(lifetimes.len() > 10 && longest - shortest > 10_000, "{lifetimes:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_shared_beyond_its_scope_and_reference() {
    let bench = Bench::new();
    bench.store.put("own/db", &[("password", b"v1")]);
    let pinned = secret("kv/db").with(|asked| asked.version = Some(Version::new("1")));
    let other_login = secret("kv/db").with(|asked| asked.login = crate::model::Login { role: Some("r".into()), ..Default::default() });
    for (pod, account, secret) in [
        ("uid-1", "web", secret("kv/db")),
        ("uid-1", "api", secret("kv/db")),
        ("uid-1", "web", pinned),
        ("uid-1", "web", other_login),
        ("uid-1", "web", secret("kv/db").with(|asked| asked.lease = LeaseFor::Shared)),
        ("uid-1", "web", secret("own/db")),
        ("uid-2", "web", secret("own/db")),
    ] {
        for source in ["store", "fresh"] {
            let fetched = bench.backend.fetch(&secret, &context(pod, account, FRESH)).await.unwrap();
            assert_eq!(fetched.source.as_str(), source, "{pod} {account} {secret}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_makes_something_and_what_has_a_lease_is_never_kept() {
    let bench = Bench::new();
    let update = secret("kv/db").with(|asked| asked.method = Method::Put);
    let made = [bench.ask("uid-1", &update).await.unwrap(), bench.ask("uid-1", &update).await.unwrap()];
    assert_ne!(text(&made[0]), text(&made[1]));
    bench.store.next([(MS, Then::Leased), (MS, Then::Leased)]);
    let leased = [bench.ask("uid-1", &secret("kv/db")).await.unwrap(), bench.ask("uid-1", &secret("kv/db")).await.unwrap()];
    assert_ne!(text(&leased[0]), text(&leased[1]));
    assert_eq!(bench.store.calls(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_class_may_want_it_fresher() {
    let bench = Bench::new();
    bench.ask_within(FRESH).await;
    advance(Duration::from_secs(10)).await;
    assert_eq!(bench.ask_within(Duration::from_secs(11)).await.source.as_str(), "fresh");
    assert_eq!(bench.ask_within(Duration::from_secs(10)).await.source.as_str(), "store");
    assert_eq!(bench.ask_within(Duration::from_secs(10)).await.source.as_str(), "fresh", "the newer answer took the place");
    assert_eq!(bench.ask_within(Duration::ZERO).await.source.as_str(), "store");
    advance(Duration::from_secs(89)).await;
    assert_eq!(bench.ask_within(Duration::from_hours(1)).await.source.as_str(), "fresh");
    advance(Duration::from_secs(31)).await;
    assert_eq!(bench.ask_within(Duration::from_hours(1)).await.source.as_str(), "store", "never older than the configuration says");
}

#[tokio::test(start_paused = true)]
async fn a_no_of_the_store_evicts_at_once_and_an_outage_does_not() {
    for (fault, evicts) in [
        (Fault::Denied, true),
        (Fault::NotFound, true),
        (Fault::Unauthenticated, true),
        (Fault::Unavailable, false),
        (Fault::Throttled, false),
        (Fault::TimedOut, false),
    ] {
        let bench = Bench::new();
        bench.ask("uid-1", &secret("kv/db")).await.unwrap();
        bench.store.next([(MS, Then::Fail(fault))]);
        let cx = FetchContext { fresh: Some(Duration::ZERO), ..context("uid-2", "web", FRESH) };
        bench.backend.fetch(&secret("kv/db"), &cx).await.unwrap_err();
        let source = bench.ask("uid-1", &secret("kv/db")).await.unwrap().source;
        assert_eq!(source == Source::Store, evicts, "{fault:?}");
        assert_eq!(bench.evicted(fault.as_str()), u64::from(evicts));
    }
}

/// One Pod asks, and its answer comes late; meanwhile another Pod's request was denied.
#[tokio::test(start_paused = true)]
async fn an_answer_older_than_a_no_is_not_kept() {
    let bench = Bench::new();
    bench.store.next([(100 * MS, Then::Answer), (MS, Then::Fail(Fault::Denied))]);
    let secret = secret("kv/db");
    let (late, denied) = tokio::join!(bench.ask("uid-1", &secret), async {
        sleep(10 * MS).await;
        bench.ask("uid-2", &secret).await
    });
    assert!(late.is_ok() && denied.is_err());
    assert_eq!(bench.ask("uid-1", &secret).await.unwrap().source, Source::Store);
}

#[tokio::test(start_paused = true)]
async fn an_older_answer_does_not_replace_a_newer_one() {
    let bench = Bench::new();
    bench.store.next([(100 * MS, Then::Answer)]);
    let secret = secret("kv/db");
    let (late, early) = tokio::join!(bench.ask("uid-1", &secret), async {
        sleep(10 * MS).await;
        bench.store.put("kv/db", &[("password", b"v2")]);
        bench.ask("uid-2", &secret).await
    });
    assert_eq!((text(&late.unwrap()), text(&early.unwrap())), ("v1".to_owned(), "v2".to_owned()));
    assert_eq!(text(&bench.ask("uid-3", &secret).await.unwrap()), "v2");
}

#[tokio::test(start_paused = true)]
async fn what_nobody_asks_for_is_wiped_when_its_time_is_over() {
    let bench = Bench::new();
    let held = Arc::downgrade(&bench.ask("uid-1", &secret("kv/db")).await.unwrap().secret);
    bench.store.given.lock().unwrap().clear();
    sleep(Duration::from_mins(1)).await;
    assert!(held.upgrade().is_some());
    bench.store.put("kv/other", &[("v", b"1")]);
    let later = Arc::downgrade(&bench.ask("uid-1", &secret("kv/other")).await.unwrap().secret);
    bench.store.given.lock().unwrap().clear();
    sleep(Duration::from_secs(66)).await;
    assert!(held.upgrade().is_none() && later.upgrade().is_some(), "each at its own time");
    sleep(Duration::from_mins(1)).await;
    assert!(later.upgrade().is_none());
    assert_eq!(bench.evicted("expired"), 2);
    // And again, after there was nothing to sweep.
    let held = Arc::downgrade(&bench.ask("uid-1", &secret("kv/db")).await.unwrap().secret);
    bench.store.given.lock().unwrap().clear();
    sleep(Duration::from_secs(126)).await;
    assert!(held.upgrade().is_none());
    let Bench { backend, .. } = bench;
    assert_eq!(Arc::strong_count(&backend.table), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_gone_takes_its_own_answers_along() {
    let bench = Bench::new();
    bench.store.put("own/db", &[("password", b"v1")]);
    for (pod, name) in [("uid-1", "own/db"), ("uid-2", "own/db"), ("uid-1", "kv/db")] {
        bench.ask(pod, &secret(name)).await.unwrap();
    }
    bench.backend.forget("uid-1", Instant::now() + FRESH).await;
    let mut sources = Vec::new();
    for (pod, name) in [("uid-1", "own/db"), ("uid-2", "own/db"), ("uid-2", "kv/db")] {
        sources.push(bench.ask(pod, &secret(name)).await.unwrap().source == Source::Store);
    }
    assert_eq!(sources, [true, false, false]);
    assert_eq!((bench.evicted("pod_gone"), bench.store.forgotten.lock().unwrap().as_slice()), (1, &["uid-1".to_owned()][..]));
}

#[tokio::test(start_paused = true)]
async fn it_is_bounded() {
    let bench = Bench::new();
    let large = vec![b'x'; 1 << 20];
    for n in 0..40 {
        let name = format!("kv/large{n}");
        bench.store.put(&name, &[("v", &large)]);
        bench.ask("uid-1", &secret(&name)).await.unwrap();
        bench.store.given.lock().unwrap().clear();
    }
    assert!(bench.evicted("full") >= 20, "{}", bench.evicted("full"));
    let calls = bench.store.calls();
    for n in 0..40 {
        bench.ask("uid-1", &secret(&format!("kv/large{n}"))).await.unwrap();
    }
    assert!(bench.store.calls() - calls >= 24, "16 MiB at most");
}

#[tokio::test]
async fn it_conforms_but_for_its_time() {
    let lag = 25 * MS;
    let store = Fake::new();
    let times = CacheConfig { fresh: lag, stale: Duration::ZERO };
    let table = || Table::new(BYTES, times, Metrics::new().cache("bao"), Arc::new(SystemClock));
    let cached = Cached::new(Arc::clone(&store) as Arc<dyn Backend>, table(), times);
    conformance::hold(&Around { store, backend: Arc::new(cached), lag }).await;
    let (store, name): (_, BackendName) = (Fake::new(), "bao".parse().unwrap());
    let limited = Limited::new(Arc::clone(&store) as Arc<dyn Backend>, name, 1, Arc::default());
    let cached = Cached::new(Arc::new(limited), table(), times);
    conformance::hold(&Around { store, backend: Arc::new(cached), lag }).await;
}
