//! What tenants share: no namespace gets all leases, bytes or Pods of the node.

use std::fs;

use futures_util::future::join_all;

use super::*;
use crate::backend::stack::lease::record::Stage;
use crate::backend::stack::lease::{pods, room};
use crate::model::Args;

impl Bench {
    /// Leases by namespace, including requests under way.
    fn of(&self, namespace: &str) -> usize {
        self.leases.room.leases().of(namespace)
    }

    /// Whether nothing is left at all.
    fn is_empty(&self) -> bool {
        let state = self.leases.lock();
        let room = &self.leases.room;
        let counts = [room.leases().used(), room.bytes().used(), state.pods.room().used(), state.slots.len(), state.farewells.len()];
        counts == [0; 5] && state.records.is_empty() && state.records.calls.is_empty()
    }
}

fn with_args(name: &str, value: &str) -> SecretRef {
    let mut args = Args::default();
    args.insert("x", &serde_json::json!(value));
    secret(name).with(|asked| asked.args = args)
}

#[tokio::test(start_paused = true)]
async fn one_namespace_has_half_of_the_leases_and_others_find_room() {
    let bench = Bench::new();
    let (got, error) = bench.fill("evil", 32 * 128).await;
    let error = error.unwrap();
    assert_eq!((got, bench.fake.issued(), error.fault), (2048, 2048, Fault::TooLarge));
    insta::assert_snapshot!(error, @"bao/evil/2048: namespace evil has 2048 of 4096 leases on this node, and a namespace must leave as many free for others as it has (ask for fewer leased secrets, share them with `lease: shared`, or spread the Pods)");
    assert!(bench.fake.revoked().is_empty(), "nothing was issued that could not be kept");
    assert_eq!(bench.ask("shop", "a", "db/creds/app").await.map(|given| user(&given)).unwrap(), "user-2049");
    // Hours of renewals change nothing.
    pass(4 * 3600).await;
    assert_eq!((bench.of("evil"), bench.of("shop"), bench.fake.issued()), (2048, 1, 2049));
    assert_eq!(bench.ask("evil", "evil-0", "evil/0").await.map(|given| user(&given)).unwrap(), "user-1", "what it has is given");
    let (got, _) = bench.fill("shop", 4096).await;
    assert_eq!(got, 1024 - 1, "half of what is left, with the one it had");
}

#[tokio::test(start_paused = true)]
async fn eight_namespaces_at_once_leave_room_for_a_ninth() {
    let bench = Arc::new(Bench::new());
    bench.fake.rule(|rules| rules.slow = Duration::from_millis(10));
    let names: Vec<_> = (0..8).map(|n| format!("evil-{n}")).collect();
    join_all(names.iter().map(|name| bench.fill(name, 1000))).await;
    let held: Vec<_> = names.iter().map(|name| bench.of(name)).collect();
    assert!(held.iter().all(|held| (440..=470).contains(held)), "a ninth each: {held:?}");
    assert!(bench.fill("shop", 200).await.1.is_none());
}

#[tokio::test(start_paused = true)]
async fn where_nothing_is_free_that_is_said() {
    let bench = Bench::new();
    for n in 0..13 {
        bench.fill(&format!("t{n}"), 4096).await;
    }
    assert_eq!(bench.leases.room.leases().free(), 0, "each has had half of the rest");
    let error = bench.ask("shop", "a", "db/creds/app").await.unwrap_err();
    insta::assert_snapshot!(error, @"bao/db/creds/app: there are 4096 leases on this node, the most that it can have (share leases with `lease: shared`, or spread the Pods)");
}

#[tokio::test(start_paused = true)]
async fn room_comes_back_with_the_end_of_a_lease_and_nothing_is_left_behind() {
    let bench = Bench::new();
    for uid in ["evil-0", "other"] {
        fs::create_dir_all(bench.kubelet.path().join("pods").join(uid)).unwrap();
    }
    bench.fake.rule(|rules| rules.renewable = false);
    bench.fill("evil", 2048).await;
    assert!(bench.ask("evil", "more", "evil/more").await.is_err());
    fs::remove_dir(bench.kubelet.path().join("pods/evil-0")).unwrap();
    pass(130).await;
    assert_eq!((bench.fake.revoked().len(), bench.of("evil")), (128, 2048 - 128));
    bench.ask("evil", "more", "evil/more").await.unwrap();
    bench.fake.rule(|rules| (rules.fetch, rules.revoke) = (Some(Fault::Denied), Some(Fault::Unavailable)));
    for n in 0..2100 {
        bench.ask("evil", "none", &format!("evil/none/{n}")).await.unwrap_err();
    }
    pass(26 * 3600).await;
    assert!(bench.is_empty());
}

/// A node starts: the answers for its Pods have no lease, and nobody knows that yet.
#[tokio::test(start_paused = true)]
async fn thousands_of_requests_without_a_lease_are_all_served() {
    let bench = Arc::new(Bench::new());
    bench.fake.rule(|rules| (rules.leased, rules.slow) = (false, Duration::from_secs(2)));
    let asked: Vec<_> = (0..5000).map(|n| (format!("pod-{}", n / 20), format!("kv/data/{}", n % 2500))).collect();
    let all = join_all(asked.iter().map(|(uid, name)| bench.ask("shop", uid, name))).await;
    assert!(all.iter().all(Result::is_ok), "{:?}", all.iter().find(|given| given.is_err()));
    assert_eq!((bench.of("shop"), bench.fake.issued()), (0, 5000));
    // Requests that are known to have no lease need no room.
    let full = bench.fill("evil", 1).await;
    assert!(full.1.is_none());
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_for_room_are_refused_when_leases_have_taken_it() {
    let bench = Arc::new(Bench::new());
    bench.fake.rule(|rules| rules.slow = Duration::from_secs(2));
    let asked: Vec<_> = (0..3000).map(|n| (format!("pod-{}", n / 100), format!("db/creds/{n}"))).collect();
    let (all, other) = tokio::join!(join_all(asked.iter().map(|(uid, name)| bench.ask("evil", uid, name))), async {
        sleep(Duration::from_secs(1)).await;
        (bench.ask("shop", "a", "db/creds/app").await, Instant::now())
    });
    let refused: Vec<_> = all.iter().filter_map(|given| given.as_ref().err()).collect();
    assert_eq!((refused.len(), bench.fake.issued()), (3000 - 2048, 2049), "not one that could not be kept");
    assert!(refused.iter().all(|error| error.fault == Fault::TooLarge && error.reason.contains("namespace evil")));
    assert!(other.0.is_ok() && bench.fake.revoked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn requests_that_hang_cost_others_nothing_and_say_so() {
    let bench = Arc::new(Bench::new());
    bench.fake.rule(|rules| rules.slow = Duration::from_hours(1));
    let asked: Vec<_> = (0..3000).map(|n| (format!("pod-{}", n / 100), format!("db/creds/{n}"))).collect();
    let hung = tokio::spawn({
        let bench = Arc::clone(&bench);
        async move { join_all(asked.iter().map(|(uid, name)| bench.ask("evil", uid, name))).await }
    });
    sleep(Duration::from_secs(1)).await;
    bench.fake.rule(|rules| rules.slow = Duration::ZERO);
    assert!(bench.ask("shop", "a", "db/creds/app").await.is_ok());
    let hung = hung.await.unwrap();
    assert!(hung.iter().all(|given| given.as_ref().is_err_and(|error| error.fault == Fault::TimedOut)));
    assert_eq!(bench.of("evil"), 2048, "they may still come with a lease");
    pass(3700).await;
    assert_eq!((bench.of("evil"), bench.leases.lock().records.len()), (2048, 2049), "and did");
}

#[tokio::test(start_paused = true)]
async fn leases_that_differ_in_their_arguments_alone_are_bounded_by_their_bytes() {
    let bench = Bench::new();
    let (mut given, long) = (0, "x".repeat(100_000));
    let error = loop {
        let asked = with_args("pki/issue/web", &format!("{long}{given}"));
        match bench.leased.fetch(&asked, &context_in("evil", &format!("pod-{}", given / 100))).await {
            Ok(_) => given += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((given, error.fault, bench.fake.issued()), (51, Fault::TooLarge, 51), "5 MiB, half of all; the next was not issued");
    insta::assert_snapshot!(error, @"bao/pki/issue/web: the leases of namespace evil hold 5080 of 10240 KiB on this node, and a namespace must leave as much free for others as it holds (ask for fewer or smaller leased secrets, share them with `lease: shared`, or spread the Pods)");
    assert!(bench.ask("shop", "a", "db/creds/app").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_too_large_to_keep_are_revoked_at_once() {
    let bench = Bench::new();
    bench.fake.rule(|rules| rules.large = 1_000_000);
    let (got, error) = bench.fill("evil", 100).await;
    assert_eq!((got, error.unwrap().fault, bench.fake.revoked()), (5, Fault::TooLarge, vec!["lease-6".to_owned()]));
    // A store that does not revoke leaves nothing here.
    bench.fake.rule(|rules| rules.revoke = Some(Fault::Unavailable));
    for n in 0..200 {
        bench.ask("evil", "x", &format!("evil/more/{n}")).await.unwrap_err();
    }
    assert_eq!((bench.leases.lock().records.len(), bench.of("evil")), (5, 5));
    bench.fake.rule(|rules| rules.large = 0);
    assert!(bench.ask("shop", "a", "db/creds/app").await.is_ok() && bench.ask("evil", "x", "evil/small").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_used_to_come_without_a_lease_is_revoked_where_there_is_no_room() {
    let bench = Arc::new(Bench::new());
    bench.fake.rule(|rules| rules.leased = false);
    let names: Vec<_> = (0..100).map(|n| format!("kv/data/{n}")).collect();
    for name in &names {
        bench.ask("evil", "x", name).await.unwrap();
    }
    bench.fake.rule(|rules| rules.leased = true);
    bench.fill("evil", 4096).await;
    bench.fake.rule(|rules| rules.slow = Duration::from_secs(1));
    let all = join_all(names.iter().map(|name| bench.ask("evil", "x", name))).await;
    assert!(all.iter().all(|given| given.as_ref().is_err_and(|error| error.fault == Fault::TooLarge)));
    assert_eq!((bench.fake.revoked().len(), bench.of("evil"), bench.leases.lock().records.len()), (100, 2048, 2048));
    assert!(bench.ask("evil", "x", &names[0]).await.is_err());
    assert_eq!(bench.fake.issued(), 100 + 2048 + 100, "and now it is known");
    assert!(bench.counts("event=\"revoked\"} 100"));
}

#[tokio::test(start_paused = true)]
async fn a_replacement_waits_for_the_end_of_the_old_one_where_the_share_is_full() {
    let bench = Bench::new();
    bench.fake.rule(|rules| rules.renewable = false);
    bench.fill("evil", 4096).await;
    pass(2900).await;
    let given = async |uid: &str, name: &str| bench.ask("evil", uid, name).await.map(|given| user(&given)).unwrap();
    assert_eq!(given("evil-0", "evil/0").await, "user-1", "the old one, to its end");
    assert!(bench.counts("event=\"replace_failed\"} 1"));
    assert_eq!((bench.fake.issued(), bench.of("evil")), (2048, 2048));
    pass(710).await;
    assert_eq!(given("evil-0", "evil/0").await, "user-2049");
    // If there is room, it is replaced earlier.
    assert_eq!(bench.ask("shop", "a", "db/creds/app").await.map(|given| user(&given)).unwrap(), "user-2050");
    pass(2900).await;
    assert_eq!(bench.ask("shop", "a", "db/creds/app").await.map(|given| user(&given)).unwrap(), "user-2051");
}

#[tokio::test(start_paused = true)]
async fn what_is_known_to_be_plain_is_weighed_and_each_namespaces_own() {
    let bench = Bench::new();
    bench.fake.rule(|rules| rules.leased = false);
    let plain = |namespace: &str| bench.leases.plain.weight(namespace);
    for n in 0..100 {
        bench.ask("shop", "a", &format!("kv/data/{n}")).await.unwrap();
    }
    let shop = plain("shop").0;
    let long = "x".repeat(200_000);
    for n in 0..40 {
        let asked = with_args("kv/data/app", &format!("{long}{n}"));
        bench.leased.fetch(&asked, &context_in("evil", "x")).await.unwrap();
    }
    for n in 0..10_000 {
        bench.ask("evil", "x", &format!("kv/data/{n}")).await.unwrap();
    }
    let (evil, all) = plain("evil");
    assert!(shop == plain("shop").0 && all == evil + shop && all <= 1 << 20 && all > 1_000_000, "{shop} {evil} {all}");
    // What another namespace knows about the same request does not count.
    bench.fake.rule(|rules| rules.leased = true);
    bench.ask("evil", "x", "kv/data/9999").await.unwrap();
    let knows = |n: usize| bench.leases.plain.knows(&"shop".into(), &secret(&format!("kv/data/{n}")));
    assert!((0..100).all(knows));
}

#[tokio::test(start_paused = true)]
async fn one_namespace_does_not_fill_the_pods_that_are_watched() {
    let bench = Bench::new();
    bench.fake.rule(|rules| rules.leased = false);
    for n in 0..pods::MOST {
        bench.ask("evil", &format!("evil-{n}"), "kv/data/app").await.unwrap();
    }
    assert_eq!(bench.leases.lock().pods.room().of("evil"), pods::MOST / 2);
    for uid in ["a", "other"] {
        fs::create_dir_all(bench.kubelet.path().join("pods").join(uid)).unwrap();
    }
    bench.fake.rule(|rules| rules.leased = true);
    bench.ask("shop", "a", "db/creds/app").await.unwrap();
    fs::remove_dir(bench.kubelet.path().join("pods/a")).unwrap();
    pass(200).await;
    assert_eq!(bench.fake.revoked().len(), 1, "another namespace's Pod is missed");
    assert_eq!(bench.fake.forgotten.lock().unwrap().as_slice(), ["a"]);
}

/// A Pod is deleted and made again, for ever, and its store gives nothing back.
#[tokio::test(start_paused = true)]
async fn pods_made_again_and_again_pile_nothing_up_where_a_store_does_not_revoke() {
    let bench = Bench::new();
    let folder = bench.kubelet.path().join("pods");
    fs::create_dir_all(folder.join("other")).unwrap();
    bench.fake.rule(|rules| (rules.revoke, rules.silent) = (Some(Fault::Unavailable), Some("evil-")));
    for round in 0..40 {
        let uid = format!("evil-{round}");
        fs::create_dir_all(folder.join(&uid)).unwrap();
        for n in 0..128 {
            let _ = bench.ask("evil", &uid, &format!("db/creds/{n}")).await;
        }
        fs::remove_dir(folder.join(&uid)).unwrap();
        pass(130).await;
        let state = bench.leases.lock();
        let (records, pods) = (state.records.len(), state.pods.room().of("evil"));
        assert!(records <= 2048 && bench.of("evil") == records && state.farewells.len() <= pods && pods <= round + 1);
    }
    assert!(bench.fill("shop", 1000).await.1.is_none());
    pass(26 * 3600).await;
    bench.fake.rule(|rules| rules.silent = None);
    pass(4 * 3600).await;
    let state = bench.leases.lock();
    assert_eq!((state.farewells.len(), bench.of("evil"), state.pods.room().of("evil")), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_reload_in_the_middle_counts_nothing_twice() {
    let bench = Arc::new(Bench::new());
    bench.fake.rule(|rules| rules.slow = Duration::from_secs(5));
    let names: Vec<_> = (0..100).map(|n| format!("db/creds/{n}")).collect();
    let next = Arc::new(fake(&bench.clock));
    let (former, later) = tokio::join!(join_all(names.iter().map(|name| bench.ask("evil", "x", name))), async {
        sleep(Duration::from_secs(1)).await;
        let stack = leased(&next, "https://other", &bench.leases);
        let context = context_in("evil", "x");
        let asked: Vec<_> = names.iter().map(|name| secret(name)).collect();
        let given = join_all(asked.iter().map(|asked| stack.fetch(asked, &context))).await;
        (given.iter().all(Result::is_ok), stack)
    });
    assert!(former.iter().all(Result::is_ok) && later.0);
    let used = || (bench.of("evil"), bench.leases.lock().records.len());
    assert_eq!(used(), (bench.fake.issued() + next.issued(), bench.fake.issued() + next.issued()));
    // The leases of the former store are replaced.
    pass(60).await;
    for name in &names {
        later.1.fetch(&secret(name), &context_in("evil", "x")).await.unwrap();
    }
    assert_eq!((next.issued(), used()), (100, (200, 200)), "each until it is gone");
    bench.fake.rule(|rules| rules.slow = Duration::ZERO);
    pass(3700).await;
    assert_eq!(used(), (100, 100), "what was replaced has ended");
}

/// Whatever happens to records, the counts are right.
#[tokio::test(start_paused = true)]
async fn counts_are_those_of_the_records() {
    let bench = Bench::new();
    let mut state = 7_u64;
    let folder = bench.kubelet.path().join("pods");
    fs::create_dir_all(folder.join("other")).unwrap();
    for step in 0..400 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (roll, who) = (state >> 33 & 15, state >> 40 & 7);
        let (namespace, uid) = (["evil", "shop"][usize::try_from(who & 1).unwrap()], format!("pod-{who}"));
        match roll {
            0 => bench.fake.rule(|rules| rules.renewable = !rules.renewable),
            1 => bench.fake.rule(|rules| rules.revoke = rules.revoke.is_none().then_some(Fault::Unavailable)),
            2 => bench.fake.rule(|rules| rules.renew = rules.renew.is_none().then_some(Fault::Denied)),
            3 => _ = fs::remove_dir(folder.join(&uid)),
            4 | 5 => fs::create_dir_all(folder.join(&uid)).unwrap(),
            6 => pass(state >> 50 & 1023).await,
            _ => _ = bench.ask(namespace, &uid, &format!("db/creds/{}", state >> 45 & 15)).await,
        }
        let state = bench.leases.lock();
        let records = || state.records.values();
        assert_eq!(bench.leases.room.leases().used(), state.records.len(), "step {step}");
        for holder in records().map(|record| &record.key.holder) {
            let out = records().filter(|record| record.key.holder == *holder && record.stage != Stage::Leaving).count();
            assert_eq!(state.records.of_holder(holder), out);
        }
        for uid in (0..8).map(|n| format!("pod-{n}")) {
            let mut of: Vec<_> = records().filter(|record| record.pods.contains(&*uid)).map(|record| record.id).collect();
            of.sort();
            assert_eq!(state.records.of_pod(&uid), of);
        }
        let bytes: usize = records()
            .map(|record| {
                let given = record.secret.as_ref().map_or(0, |secret| secret.weight());
                room::weight_of_record(&record.key.secret, &record.lease) + given + room::POD * record.pods.len().max(1)
            })
            .sum();
        assert_eq!(bench.leases.room.bytes().used(), bytes);
    }
}
