//! One lease per holder and request, and it is kept.

use super::*;
use crate::model::LeaseFor;

#[tokio::test(start_paused = true)]
async fn a_credential_is_issued_once_a_pod_and_given_at_every_mount() {
    let bench = Bench::new();
    let first = bench.fetch("a", "db/creds/app").await.unwrap();
    assert_eq!((first.source.clone(), user(&first).as_str()), (Source::Store, "user-1"));
    pass(60).await;
    let again = bench.fetch("a", "db/creds/app").await.unwrap();
    assert_eq!((again.source, again.by.as_str()), (Source::Fresh { age: Duration::from_mins(1) }, "bao"));
    assert!(Arc::ptr_eq(&first.secret, &again.secret), "the very same bytes: the same version, and no file is written again");
    assert_eq!(bench.user("b").await, "user-2", "another Pod has its own");
    assert_eq!(user(&bench.fetch("a", "db/creds/other").await.unwrap()), "user-3", "and so has another request");
    assert!(bench.counts("keyferry_leases{backend=\"bao\"} 3"));
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_a_lease_passes_through() {
    let bench = Bench::new();
    bench.fake.rule(|rules| rules.leased = false);
    assert_eq!((bench.user("a").await, bench.user("a").await), ("user-1".into(), "user-2".into()));
    assert!(bench.leases.lock().records.is_empty());
}

#[tokio::test(start_paused = true)]
async fn mounts_at_once_share_one_issuing() {
    let bench = Arc::new(Bench::new());
    bench.fake.rule(|rules| rules.slow = Duration::from_secs(2));
    let users = futures_util::future::join_all((0..20).map(|_| bench.user("a"))).await;
    assert!(users.iter().all(|user| user == "user-1"), "{users:?}");
    assert_eq!(bench.fake.issued(), 1);
}

#[tokio::test(start_paused = true)]
async fn plain_answers_are_fetched_by_each_who_waits() {
    let bench = Bench::new();
    bench.fake.rule(|rules| (rules.slow, rules.leased) = (Duration::from_secs(2), false));
    let began = Instant::now();
    futures_util::future::join_all((0..20).map(|_| bench.user("a"))).await;
    assert_eq!((bench.fake.issued(), began.elapsed()), (20, Duration::from_secs(4)), "one after the first, not one after another");
    futures_util::future::join_all((0..20).map(|_| bench.user("a"))).await;
    assert_eq!(began.elapsed(), Duration::from_secs(6), "and then it is known");
    bench.fake.rule(|rules| rules.leased = true);
    assert_eq!((bench.user("a").await, bench.user("a").await), ("user-41".into(), "user-41".into()), "until it comes with a lease");
}

#[tokio::test(start_paused = true)]
async fn what_is_issued_after_its_caller_has_gone_is_kept() {
    let bench = Bench::new();
    bench.fake.rule(|rules| rules.slow = Duration::from_secs(20));
    timeout(Duration::from_secs(5), bench.user("a")).await.unwrap_err();
    pass(20).await;
    bench.fake.rule(|rules| rules.fetch = Some(Fault::Unavailable));
    assert_eq!(bench.user("a").await, "user-1");
    assert_eq!(bench.fake.issued(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_comes_after_the_deadline_is_kept_for_the_next_try() {
    let bench = Bench::new();
    bench.fake.rule(|rules| rules.slow = Duration::from_secs(40));
    let error = bench.fetch("a", "db/creds/app").await.unwrap_err();
    insta::assert_snapshot!(error, @"bao/db/creds/app: no answer within 30 s (is the store slow or out of reach? kubelet tries again by itself)");
    assert_eq!(error.fault, Fault::TimedOut);
    pass(10).await;
    assert_eq!((bench.user("a").await.as_str(), bench.fake.issued()), ("user-1", 1));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_is_gone_hands_over_to_those_who_wait() {
    let bench = Arc::new(Bench::new());
    bench.fake.rule(|rules| rules.slow = Duration::from_secs(4));
    let first = {
        let bench = Arc::clone(&bench);
        tokio::spawn(async move { bench.user("a").await })
    };
    sleep(Duration::from_secs(1)).await;
    let second = {
        let bench = Arc::clone(&bench);
        tokio::spawn(async move { bench.user("a").await })
    };
    sleep(Duration::from_secs(1)).await;
    first.abort();
    assert_eq!((second.await.unwrap().as_str(), bench.fake.issued()), ("user-1", 1));
}

#[tokio::test(start_paused = true)]
async fn one_that_only_waits_for_its_turn_ends_with_its_caller() {
    let bench = Arc::new(Bench::new());
    bench.fake.rule(|rules| rules.queue = Duration::from_secs(4));
    let start = |bench: &Arc<Bench>| {
        let bench = Arc::clone(bench);
        tokio::spawn(async move { bench.user("a").await })
    };
    let first = start(&bench);
    sleep(Duration::from_secs(1)).await;
    first.abort();
    sleep(Duration::from_mins(1)).await;
    assert_eq!(bench.fake.issued(), 0, "nobody needs it");
    // A caller that waits for the same goes on by itself.
    let first = start(&bench);
    sleep(Duration::from_secs(1)).await;
    let second = start(&bench);
    sleep(Duration::from_secs(1)).await;
    first.abort();
    assert_eq!((second.await.unwrap().as_str(), bench.fake.issued()), ("user-1", 1));
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_ones_own_is_not_the_others() {
    let bench = Arc::new(Bench::new());
    bench.fake.rule(|rules| (rules.slow, rules.fetch) = (Duration::from_secs(1), Some(Fault::Denied)));
    let after_it = async {
        sleep(Duration::from_millis(100)).await;
        bench.fetch("a", "db/creds/app").await
    };
    let (first, second, ()) = tokio::join!(bench.fetch("a", "db/creds/app"), after_it, async {
        sleep(Duration::from_millis(500)).await;
        bench.fake.rule(|rules| rules.fetch = None);
    });
    assert_eq!(first.unwrap_err().fault, Fault::Denied);
    assert_eq!(user(&second.unwrap()), "user-1");
}

#[tokio::test(start_paused = true)]
async fn a_panic_under_way_leaves_the_way_free() {
    let bench = Bench::new();
    bench.fake.rule(|rules| rules.panics = true);
    let leased = Arc::clone(&bench.leased);
    let panicked = tokio::spawn(async move { leased.fetch(&secret("db/creds/app"), &context("a")).await }).await;
    assert!(panicked.unwrap_err().is_panic());
    bench.fake.rule(|rules| rules.panics = false);
    assert_eq!(bench.user("a").await, "user-1");
}

#[tokio::test(start_paused = true)]
async fn a_shared_lease_is_one_for_the_account_whatever_the_method() {
    let bench = Bench::new();
    let shared = secret("pki/issue/web").with(|asked| (asked.lease, asked.method) = (LeaseFor::Shared, Method::Post));
    let a = bench.leased.fetch(&shared, &context("a")).await.unwrap();
    let b = bench.leased.fetch(&shared, &context("b")).await.unwrap();
    assert!(Arc::ptr_eq(&a.secret, &b.secret));
    let unproven = [
        PodIdentity { service_account_uid: None, ..pod("c") },
        PodIdentity { service_account_uid: Some("".into()), ..pod("d") },
        PodIdentity { verified: false, ..pod("e") },
    ];
    for pod in unproven {
        let c = bench.leased.fetch(&shared, &FetchContext { pod: Arc::new(pod), ..context("x") }).await.unwrap();
        assert!(!Arc::ptr_eq(&a.secret, &c.secret), "without a proven account there is none to share with");
    }
}

#[tokio::test(start_paused = true)]
async fn a_shared_lease_is_no_other_accounts() {
    let bench = Bench::new();
    for method in [Method::Get, Method::Post] {
        let shared = secret("db/creds/app").with(|asked| (asked.lease, asked.method) = (LeaseFor::Shared, method));
        let ask = async |pod| {
            let cx = FetchContext { pod: Arc::new(pod), ..context("x") };
            user(&bench.leased.fetch(&shared, &cx).await.unwrap())
        };
        let mine = ask(pod("a")).await;
        assert_eq!(ask(pod("b")).await, mine);
        let others = [
            PodIdentity { namespace: "evil".into(), ..pod("c") },
            of_account("d", "other", "sa-1"),
            // Made again under the old name.
            of_account("e", "web", "sa-2"),
            // If these were written one after another, they would be the same.
            PodIdentity { namespace: "shop\", \"web".into(), ..pod("f") },
        ];
        let mut seen = vec![mine];
        for other in others {
            let given = ask(other).await;
            assert!(!seen.contains(&given), "{given}");
            seen.push(given);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn there_are_at_most_so_many_a_pod() {
    let bench = Bench::new();
    for number in 0..128 {
        bench.fetch("a", &format!("db/creds/{number}")).await.unwrap();
    }
    let error = bench.fetch("a", "db/creds/more").await.unwrap_err();
    assert_eq!(error.fault, Fault::TooLarge);
    insta::assert_snapshot!(error, @"bao/db/creds/more: there are 128 leases for this Pod, the most that it can have (ask for fewer leased secrets; Keyferry revokes those of deleted Pods)");
    assert_eq!(bench.fake.issued(), 128, "the store was not asked");
    bench.fetch("b", "db/creds/more").await.unwrap();
    pass(10).await;
    assert!(bench.fake.revoked().is_empty());
    assert_eq!(user(&bench.fetch("a", "db/creds/0").await.unwrap()), "user-1");
}

/// Nobody knows which of many requests return a lease.
#[tokio::test(start_paused = true)]
async fn what_is_issued_at_once_beyond_so_many_a_pod_is_revoked() {
    let bench = Arc::new(Bench::new());
    bench.fake.rule(|rules| rules.slow = Duration::from_secs(1));
    let names: Vec<_> = (0..130).map(|number| format!("db/creds/{number}")).collect();
    let all = futures_util::future::join_all(names.iter().map(|name| bench.fetch("a", name))).await;
    let refused: Vec<_> = all.iter().filter_map(|given| given.as_ref().err()).collect();
    assert!(refused.len() == 2 && refused.iter().all(|error| error.reason.starts_with("there are 128 leases for this Pod")));
    pass(10).await;
    assert_eq!((bench.fake.revoked().len(), bench.leases.lock().records.len()), (2, 128));
    bench.fake.rule(|rules| rules.leased = false);
    let all = futures_util::future::join_all(names.iter().map(|name| bench.fetch("b", &name[3..]))).await;
    assert!(all.iter().all(Result::is_ok), "what comes without one is not counted");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_over_when_it_comes_is_not_kept() {
    let bench = Bench::new();
    bench.fake.rule(|rules| rules.ttl = 0);
    assert_eq!((bench.user("a").await, bench.user("a").await), ("user-1".into(), "user-2".into()));
}
