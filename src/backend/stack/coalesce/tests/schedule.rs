//! Any number of callers, which come and go at any time, whatever the store does: nobody hangs, and nobody gets another caller's answer.

use proptest::prelude::*;
use tokio::time::{sleep_until, timeout};

use super::*;
use crate::backend::Scope;

/// One caller.
#[derive(Clone, Debug)]
struct Caller {
    pod: u8,
    account: u8,
    secret: &'static str,
    comes: u64,
    patience: u64,
    /// When its client goes away, if ever.
    goes: Option<u64>,
    update: bool,
}

fn caller() -> impl Strategy<Value = Caller> {
    let secret = prop_oneof![Just("kv/db"), Just("kv/other"), Just("own/db")];
    let (comes, patience) = (prop_oneof![Just(0), 0..3_000_u64], prop_oneof![Just(0), 0..5_000_u64, Just(90_000)]);
    let goes = prop::option::weighted(0.2, 0..3_000_u64);
    (0..4_u8, 0..2_u8, secret, comes, patience, goes, prop::bool::weighted(0.1))
        .prop_map(|(pod, account, secret, comes, patience, goes, update)| Caller { pod, account, secret, comes, patience, goes, update })
}

fn call() -> impl Strategy<Value = (Duration, Then)> {
    let then = prop_oneof![
        5 => Just(Then::Answer),
        1 => Just(Then::Leased),
        1 => Just(Then::Fail(Fault::Unavailable)),
        1 => Just(Then::Fail(Fault::NotFound)),
        1 => Just(Then::Panic),
    ];
    let after = prop_oneof![Just(0), 1..50_u64, 500..3_000_u64, Just(1_000_000)];
    (after.prop_map(Duration::from_millis), then)
}

/// What one caller got: an answer with whom it is for, an error, or a panic.
async fn play(backend: Arc<Coalesced>, caller: Caller) -> Option<(Scope, SecretRef, Answer)> {
    let start = Instant::now();
    sleep_until(start + Duration::from_millis(caller.comes)).await;
    let method = if caller.update { Method::Post } else { Method::Get };
    let secret = secret(caller.secret).with(|asked| asked.method = method);
    // Some Pods are of one ServiceAccount, and some of another.
    let cx = context(
        &format!("uid-{}-{}", caller.account, caller.pod),
        &format!("account-{}", caller.account),
        Duration::from_millis(caller.patience),
    );
    let (scope, asked, deadline) = (backend.scope(&secret, &cx.pod), secret.clone(), cx.deadline);
    let call = tokio::spawn(async move { backend.fetch(&secret, &cx).await });
    let gone = caller.goes.map_or(start + Duration::from_hours(24), |goes| start + Duration::from_millis(goes));
    let abort = call.abort_handle();
    let mut call = pin!(call);
    let answer = tokio::select! {
        answer = &mut call => answer,
        () = sleep_until(gone) => {
            abort.abort();
            call.await
        }
    };
    assert!(Instant::now() <= deadline.max(gone.min(deadline)) + 2 * MS, "it waited past its deadline");
    answer.ok().map(|answer| (scope, asked, answer))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nobody_hangs_and_nobody_gets_what_is_anothers(
        callers in prop::collection::vec(caller(), 1..24),
        calls in prop::collection::vec(call(), 0..24),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let store = Fake::new();
            for name in ["kv/other", "own/db"] {
                store.put(name, &[("password", b"v1")]);
            }
            store.next(calls);
            let backend = coalesced(&store);
            let mut playing = JoinSet::new();
            for caller in callers {
                playing.spawn(play(Arc::clone(&backend), caller));
            }
            let played = timeout(Duration::from_secs(200), playing.join_all()).await.expect("somebody hangs");
            let mut alone: Vec<*const crate::model::Secret> = Vec::new();
            for (scope, asked, answer) in played.into_iter().flatten() {
                let Ok(fetched) = answer else { continue };
                let given = store.given.lock().unwrap();
                let (_, for_scope, for_secret) = given.iter().find(|(secret, ..)| Arc::ptr_eq(secret, &fetched.secret)).unwrap();
                assert_eq!((for_scope, for_secret), (&scope, &asked));
                if fetched.secret.lease.is_some() || asked.verb() == Verb::Update {
                    assert!(!alone.contains(&Arc::as_ptr(&fetched.secret)), "two have what one alone may have");
                    alone.push(Arc::as_ptr(&fetched.secret));
                }
            }
            sleep(MS).await;
            assert_eq!((store.in_the_air(), format!("{:?}", backend.flights)), (0, "Flights(0)".to_owned()));
        });
    }
}
