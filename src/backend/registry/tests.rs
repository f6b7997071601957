//! The stack around each kind of store, and what a reload keeps of it.

use std::path::Path;

use tokio::time::Duration;

use super::*;
use crate::backend::store::file::{FileConfig, generate_identity};
use crate::backend::testing::fake::{Fake, Then, context, secret};
use crate::budget::Ceilings;
use crate::clock::SystemClock;
use crate::model::Source;

mod failover;
mod herd;
mod instead;
mod outages;

fn empty() -> Backends {
    Backends::new(Configured::default(), BTreeMap::new())
}

fn settings() -> BackendSettings {
    BackendSettings { per_backend: 4, secret_bytes: 1 << 20, cache: CacheConfig::default() }
}

fn build(configs: &BTreeMap<BackendName, BackendConfig>, settings: BackendSettings, former: Option<&Backends>) -> Backends {
    let (clock, metrics): (Arc<dyn Clock>, _) = (Arc::new(SystemClock), Arc::default());
    let leases = leases(&clock, &metrics);
    let configured = Configured::new(configs.clone(), &BTreeMap::new());
    Backends::build(
        configured,
        settings,
        BackendParts { clock: &clock, metrics: &metrics, leases: &leases, kept: Ceilings::of(64 << 20), archive: None },
        former,
    )
    .unwrap()
}

fn leases(clock: &Arc<dyn Clock>, metrics: &Arc<Metrics>) -> Arc<Leases> {
    Leases::open(Path::new("/nonexistent"), None, Arc::clone(clock), Arc::clone(metrics), &Ceilings::of(64 << 20)).0
}

fn same(one: &Backends, other: &Backends, name: &str) -> bool {
    let name = name.parse().unwrap();
    Arc::ptr_eq(&one.stacks[&name].top, &other.stacks[&name].top)
}

#[test]
fn what_would_become_the_same_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("age.key");
    generate_identity(&key, SystemClock.now()).unwrap();
    let file = |vault: &str| BackendConfig::File(FileConfig { vault: folder.path().join(vault), identity: vec![key.clone()] });
    let configs = |one: &str| BTreeMap::from([("one".parse().unwrap(), file(one)), ("two".parse().unwrap(), file("b"))]);
    let first = build(&configs("a"), settings(), None);

    let again = build(&configs("a"), settings(), Some(&first));
    assert!(same(&first, &again, "one") && same(&first, &again, "two"));

    let changed = build(&configs("c"), settings(), Some(&first));
    assert!(!same(&first, &changed, "one") && same(&first, &changed, "two"));

    let other = BackendSettings { per_backend: 5, ..settings() };
    let limited = build(&configs("a"), other, Some(&first));
    assert!(!same(&first, &limited, "one") && !same(&first, &limited, "two"));

    let other = BackendSettings { cache: CacheConfig { fresh: Duration::ZERO, ..CacheConfig::default() }, ..settings() };
    assert!(same(&first, &build(&configs("a"), other, Some(&first)), "one"), "a file vault has no use for a cache");

    let elsewhere = Backends::new(
        Configured::default(),
        BTreeMap::from([("one".parse().unwrap(), Arc::clone(&first.stacks[&"one".parse().unwrap()].top))]),
    );
    assert!(!same(&elsewhere, &build(&configs("a"), settings(), Some(&elsewhere)), "one"), "nobody knows what that was built from");
}

/// The stack of a store that is reached over a network. The test needs no real kind of store.
#[tokio::test(start_paused = true)]
async fn over_a_network_requests_are_coalesced_and_answers_kept() {
    let metrics = Arc::new(Metrics::new());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let leases = leases(&clock, &metrics);
    let parts = BackendParts { clock: &clock, metrics: &metrics, leases: &leases, kept: Ceilings::of(64 << 20), archive: None };
    let config = BackendConfig::File(FileConfig { vault: "/v".into(), identity: Vec::new() });
    for (fresh, source) in [(Duration::from_mins(2), "fresh"), (Duration::ZERO, "store")] {
        let store = Fake::new();
        let cache = Some(CacheConfig { fresh, ..CacheConfig::default() });
        let plan = StackPlan { config: config.clone(), calls: 4, secret_bytes: 1, cache, kept: 1 << 20, clients: 0, held: 1 << 20 };
        let name = "bao".parse().unwrap();
        let answers = plan.answers(&name, parts, None);
        let top = plan.decorate(
            Arc::clone(&store) as Arc<dyn Backend>,
            &name,
            parts,
            answers.as_ref(),
            plan.circuits(&name, parts, None).as_ref(),
        );
        store.next([(Duration::from_millis(5), Then::Answer)]);
        let secret = secret("kv/db");
        let pods: Vec<_> = (0..250).map(|uid| context(&format!("uid-{uid}"), "web", Duration::from_mins(1))).collect();
        let answers = futures_util::future::join_all(pods.iter().map(|cx| top.fetch(&secret, cx))).await;
        assert!(answers.iter().all(|answer| answer.as_ref().unwrap().source == Source::Store));
        assert_eq!(store.calls(), 1);
        assert_eq!(top.fetch(&secret, &pods[0]).await.unwrap().source.as_str(), source);
    }
    let text = metrics.encode();
    for line in [
        "keyferry_backend_calls_total{backend=\"bao\",operation=\"fetch\",outcome=\"ok\"} 3",
        "keyferry_backend_requests_coalesced_total{backend=\"bao\"} 498",
        "keyferry_cache_lookups_total{backend=\"bao\",outcome=\"hit\"} 1",
        "keyferry_cache_lookups_total{backend=\"bao\",outcome=\"miss\"} 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn answers_outlive_a_reload_that_changes_neither_store_nor_login() {
    let (clock, metrics): (Arc<dyn Clock>, Arc<Metrics>) = (Arc::new(SystemClock), Arc::default());
    let leases = leases(&clock, &metrics);
    let parts = BackendParts { clock: &clock, metrics: &metrics, leases: &leases, kept: Ceilings::of(64 << 20), archive: None };
    let (store, name): (_, BackendName) = (Fake::new(), "bao".parse().unwrap());
    // The stack that applies, in place of a former one.
    let build = |vault: &str, fresh: u64, allowed: bool, former: Option<&Stack>| {
        let config = BackendConfig::File(FileConfig { vault: vault.into(), identity: Vec::new() });
        let cache = Some(CacheConfig { fresh: Duration::from_secs(fresh), stale: Duration::from_hours(1) });
        let kept = 1 << (20 + usize::from(former.is_some()));
        let plan = StackPlan { config, calls: 4, secret_bytes: 1, cache, kept, clients: 0, held: 1 << 20 };
        let answers = plan.answers(&name, parts, former);
        let circuits = plan.circuits(&name, parts, former);
        let top = plan.decorate(Arc::clone(&store) as Arc<dyn Backend>, &name, parts, answers.as_ref(), circuits.as_ref());
        let backends = Backends { stacks: [(name.clone(), Stack { top, answers, circuits, plan: Some(plan) })].into(), ..empty() };
        backends.review(&|_, secrets| vec![allowed; secrets.len()]);
        backends.stacks[&name].clone()
    };
    let source = async |stack: &Stack, in_vain: bool| {
        store.next(in_vain.then_some((Duration::ZERO, Then::Fail(crate::backend::Fault::Unavailable))));
        // A failed request is held back for a second.
        tokio::time::advance(Duration::from_secs(2)).await;
        let cx = context("uid-1", "web", Duration::from_mins(1));
        stack.top.fetch(&secret("kv/db"), &cx).await.map_or("none", |fetched| fetched.source.as_str())
    };
    let first = build("/a", 120, true, None);
    assert_eq!((source(&first, false).await, source(&first, false).await), ("store", "fresh"));
    let second = build("/a", 120, true, Some(&first));
    assert_eq!(source(&second, false).await, "fresh");
    let shorter = build("/a", 60, true, Some(&second));
    assert_eq!(source(&shorter, true).await, "stale", "it was fresh by another word");
    assert_eq!((source(&shorter, false).await, source(&shorter, false).await), ("store", "fresh"));
    let denied = build("/a", 60, false, Some(&shorter));
    assert_eq!((source(&denied, true).await, source(&denied, false).await), ("none", "store"));
    let other = build("/b", 60, true, Some(&denied));
    assert_eq!(source(&other, true).await, "none");
}
