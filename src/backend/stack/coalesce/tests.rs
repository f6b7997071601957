//! On paused time: only the times of two callers decide what happens between them.

mod schedule;

use insta::assert_snapshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use super::*;
use crate::backend::Fault;
use crate::backend::stack::limit::Limited;
use crate::backend::testing::conformance;
use crate::backend::testing::fake::{Around, Fake, Then, context, secret, text};
use crate::model::{Method, Version};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

type Answer = Result<Fetched, BackendError>;

fn coalesced(store: &Arc<Fake>) -> Arc<Coalesced> {
    Arc::new(Coalesced::new(Arc::clone(store) as Arc<dyn Backend>, "bao".parse().unwrap(), &Metrics::new()))
}

/// A caller in a task of its own.
fn ask(backend: &Arc<Coalesced>, pod: &str, time: Duration) -> JoinHandle<Answer> {
    let (backend, cx) = (Arc::clone(backend), context(pod, "web", time));
    tokio::spawn(async move { backend.fetch(&secret("kv/db"), &cx).await })
}

/// This many callers at once, and their answers in order.
async fn ask_many(backend: &Arc<Coalesced>, count: usize) -> Vec<Answer> {
    let callers: Vec<_> = (0..count).map(|n| ask(backend, &format!("uid-{n}"), 60 * SECOND)).collect();
    let mut answers = Vec::new();
    for caller in callers {
        answers.push(caller.await.unwrap());
    }
    answers
}

#[tokio::test(start_paused = true)]
async fn equal_requests_in_the_air_become_one() {
    let store = Fake::new();
    let backend = coalesced(&store);
    store.next([(5 * MS, Then::Answer)]);
    let answers = ask_many(&backend, 250).await;
    assert!(answers.iter().all(|answer| text(answer.as_ref().unwrap()) == "v1"));
    let first = &answers[0].as_ref().unwrap().secret;
    assert!(answers.iter().all(|answer| Arc::ptr_eq(&answer.as_ref().unwrap().secret, first)), "one copy of the secret");
    assert_eq!((store.calls(), backend.spared.get()), (1, 249));
    ask(&backend, "uid-1", SECOND).await.unwrap().unwrap();
    assert_eq!(store.calls(), 2, "an answer that has come is not given out again");
    assert_eq!(format!("{:?}", backend.flights), "Flights(0)");
}

#[tokio::test(start_paused = true)]
async fn only_reads_of_one_reference_in_one_scope_are_one() {
    let store = Fake::new();
    store.put("own/db", &[("password", b"v1")]);
    let backend = coalesced(&store);
    let pinned = secret("kv/db").with(|asked| asked.version = Some(Version::new("1")));
    let update = secret("kv/db").with(|asked| asked.method = Method::Post);
    let mut callers = JoinSet::new();
    for (pod, account, secret) in [
        ("uid-1", "web", secret("kv/db")),
        ("uid-1", "api", secret("kv/db")),
        ("uid-1", "web", pinned),
        ("uid-1", "web", secret("own/db")),
        ("uid-2", "web", secret("own/db")),
        ("uid-1", "web", update.clone()),
        ("uid-1", "web", update),
    ] {
        store.next([(5 * MS, Then::Answer)]);
        let (backend, cx) = (Arc::clone(&backend), context(pod, account, SECOND));
        callers.spawn(async move { backend.fetch(&secret, &cx).await.unwrap() });
    }
    let answers = callers.join_all().await;
    assert_eq!((answers.len(), store.calls(), backend.spared.get()), (7, 7, 0));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_fails_does_not_fail_the_others() {
    let store = Fake::new();
    let backend = coalesced(&store);
    store.next([(5 * MS, Then::Fail(Fault::Unauthenticated)), (5 * MS, Then::Answer)]);
    let answers = ask_many(&backend, 250).await;
    assert_eq!(answers[0].as_ref().unwrap_err().fault, Fault::Unauthenticated);
    assert!(answers[1..].iter().all(Result::is_ok));
    assert_eq!((store.calls(), backend.spared.get()), (2, 248));
}

#[tokio::test(start_paused = true)]
async fn a_dead_store_is_called_twice_and_not_250_times() {
    let store = Fake::new();
    let backend = coalesced(&store);
    store.next([(SECOND, Then::Fail(Fault::Unavailable)); 250]);
    let began = Instant::now();
    let answers = ask_many(&backend, 250).await;
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap_err().fault == Fault::Unavailable));
    assert_eq!((store.calls(), began.elapsed().as_secs()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_leader_hands_over() {
    let store = Fake::new();
    let backend = coalesced(&store);
    store.next([(SECOND, Then::Answer)]);
    let leader = ask(&backend, "uid-1", 60 * SECOND);
    sleep(MS).await;
    let waiter = ask(&backend, "uid-2", 60 * SECOND);
    sleep(MS).await;
    leader.abort();
    assert_eq!(text(&waiter.await.unwrap().unwrap()), "v1");
    assert_eq!(store.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_flight_that_nobody_waits_for_is_given_up() {
    let store = Fake::new();
    let backend = coalesced(&store);
    store.next([(30 * SECOND, Then::Answer)]);
    let callers = [ask(&backend, "uid-1", 60 * SECOND), ask(&backend, "uid-2", 60 * SECOND)];
    sleep(MS).await;
    callers[0].abort();
    sleep(MS).await;
    assert_eq!(store.in_the_air(), 1, "the other one still waits");
    callers[1].abort();
    sleep(MS).await;
    assert_eq!((store.in_the_air(), format!("{:?}", backend.flights)), (0, "Flights(0)".to_owned()));
    assert!(ask(&backend, "uid-3", SECOND).await.unwrap().is_ok(), "and is in nobody's way");
}

#[tokio::test(start_paused = true)]
async fn a_leader_with_little_time_does_not_cut_a_waiter_with_much() {
    let store = Fake::new();
    let backend = coalesced(&store);
    store.next([(10 * SECOND, Then::Answer); 4]);
    let began = Instant::now();
    let (leader, waiter) = (ask(&backend, "uid-1", 3 * SECOND), ask(&backend, "uid-2", 60 * SECOND));
    let error = leader.await.unwrap().unwrap_err();
    assert_eq!((error.fault, began.elapsed().as_secs_f64().ceil()), (Fault::TimedOut, 3.0));
    assert_snapshot!(error, @"bao/kv/db: the store is slow");
    assert!(waiter.await.unwrap().is_ok());
    assert_eq!((store.calls(), began.elapsed().as_secs()), (2, 12));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_cut_time_and_again_by_those_who_come_later_with_less() {
    let store = Fake::new();
    let backend = coalesced(&store);
    store.next([(10 * SECOND, Then::Answer); 100]);
    let patient = async {
        sleep(MS).await;
        ask(&backend, "uid-patient", 60 * SECOND).await.unwrap()
    };
    let hasty = async {
        for n in 0..100 {
            drop(ask(&backend, &format!("uid-{n}"), SECOND));
            sleep(300 * MS).await;
        }
    };
    let (answer, ()) = tokio::join!(patient, hasty);
    assert!(answer.is_ok(), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn waiters_whose_times_end_one_by_one_make_three_calls() {
    let store = Fake::new();
    let backend = coalesced(&store);
    store.next(std::iter::repeat_n((3_600 * SECOND, Then::Answer), 1_000));
    let mut callers = JoinSet::new();
    for n in 0..250 {
        let (deadline, caller) = (Instant::now() + 85 * SECOND, ask(&backend, &format!("uid-{n}"), 85 * SECOND));
        callers.spawn(async move { (caller.await.unwrap(), Instant::now() <= deadline + 10 * MS) });
        sleep(300 * MS).await;
    }
    for (answer, in_time) in callers.join_all().await {
        assert!(in_time && answer.unwrap_err().fault == Fault::TimedOut);
    }
    assert_eq!(store.calls(), 3, "one until the first one's time ends, one for all others, and the last try of who is left then");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_keeps_its_own_deadline_and_hears_what_went_wrong() {
    let store = Fake::new();
    let backend = coalesced(&store);
    store.next([(10 * SECOND, Then::Fail(Fault::Unavailable)), (10 * SECOND, Then::Answer)]);
    let (began, leader) = (Instant::now(), ask(&backend, "uid-1", 60 * SECOND));
    sleep(MS).await;
    let hasty = ask(&backend, "uid-2", 2 * SECOND).await.unwrap().unwrap_err();
    assert_eq!((hasty.fault, began.elapsed().as_secs()), (Fault::TimedOut, 2));
    assert_snapshot!(hasty, @"bao/kv/db: no answer within 2 s (is the store slow or out of reach? kubelet tries again by itself)");
    let (short, long) = (ask(&backend, "uid-3", 12 * SECOND), ask(&backend, "uid-4", 30 * SECOND));
    assert_eq!(leader.await.unwrap().unwrap_err().fault, Fault::Unavailable);
    // Chance decides which of the two leads now: it gets the store's error, or the earlier failure before its time ended.
    let error = short.await.unwrap().unwrap_err().to_string();
    assert!(["bao/kv/db: the store is slow", "bao/kv/db: as it was told"].contains(&error.as_str()), "{error}");
    assert!((13_900..=14_010).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert!(long.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_answer_with_a_lease_is_the_leaders_alone() {
    let store = Fake::new();
    let backend = coalesced(&store);
    store.next([(5 * MS, Then::Leased); 10]);
    let began = Instant::now();
    let answers = ask_many(&backend, 10).await;
    let mut made: Vec<_> = answers.iter().map(|answer| text(answer.as_ref().unwrap())).collect();
    made.sort();
    made.dedup();
    assert_eq!((made.len(), store.calls(), began.elapsed()), (10, 10, 10 * MS), "ten credentials, nine of them at once");
    assert_eq!(store.revoked.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lease_whose_leader_is_gone_is_revoked() {
    let store = Fake::new();
    let backend = coalesced(&store);
    store.next([(SECOND, Then::Leased); 2]);
    let (leader, waiter) = (ask(&backend, "uid-1", 60 * SECOND), ask(&backend, "uid-2", 60 * SECOND));
    sleep(MS).await;
    leader.abort();
    assert_eq!(text(&waiter.await.unwrap().unwrap()), "uid-2#2", "its own");
    assert_eq!(store.revoked.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_reaches_the_leader_alone() {
    let store = Fake::new();
    let backend = coalesced(&store);
    store.next([(5 * MS, Then::Panic), (5 * MS, Then::Answer)]);
    let callers: Vec<_> = (0..10).map(|n| ask(&backend, &format!("uid-{n}"), SECOND)).collect();
    let mut panics = 0;
    for caller in callers {
        match caller.await {
            Ok(answer) => assert_eq!(text(&answer.unwrap()), "v1"),
            Err(died) => panics += usize::from(died.is_panic()),
        }
    }
    assert_eq!((panics, store.calls()), (1, 2));
    // A bug that is always there reaches everybody.
    store.next([(5 * MS, Then::Panic); 10]);
    let callers: Vec<_> = (0..5).map(|n| ask(&backend, &format!("uid-{n}"), SECOND)).collect();
    for caller in callers {
        assert!(caller.await.unwrap_err().is_panic());
    }
}

#[tokio::test]
async fn it_conforms_around_a_store_and_around_a_limited_one() {
    let store = Fake::new();
    conformance::hold(&Around { backend: coalesced(&store), store, lag: Duration::ZERO }).await;
    let store = Fake::new();
    let name: BackendName = "bao".parse().unwrap();
    let limited = Limited::new(Arc::clone(&store) as Arc<dyn Backend>, name.clone(), 2, Arc::default());
    let backend = Arc::new(Coalesced::new(Arc::new(limited), name, &Metrics::new()));
    conformance::hold(&Around { store, backend, lag: Duration::ZERO }).await;
}
