//! Leases are replaced only if they cannot be renewed any more, and while the old one works.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_lease_at_its_longest_life_is_replaced_at_a_mount_while_the_old_one_works() {
    let bench = Bench::new();
    bench.fake.rule(|rules| rules.max_ttl = 3 * HOUR);
    bench.user("a").await;
    let (mut users, mut last) = (Vec::new(), String::new());
    for minute in 0..180 {
        let user = bench.user("a").await;
        if user != last {
            users.push((minute, user.clone()));
            last = user;
        }
        pass(60).await;
    }
    assert_eq!(users.len(), 2, "{users:?}");
    assert!((130..180).contains(&users[1].0), "in the last hour, before the end: {users:?}");
    assert!(bench.fake.revoked().is_empty(), "a Pod may still hold connections with the old one");
    assert!(bench.counts("event=\"replaced\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_renewed_is_replaced_from_two_thirds_of_its_life() {
    let bench = Bench::new();
    bench.fake.rule(|rules| rules.renewable = false);
    bench.user("a").await;
    pass(2390).await;
    assert_eq!(bench.user("a").await, "user-1");
    pass(420).await;
    assert_eq!((bench.user("a").await.as_str(), bench.fake.renewed()), ("user-2", 0));
    pass(900).await;
    assert_eq!(bench.leases.lock().records.len(), 1, "the old one ended by itself");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_renew_at_all_is_not_asked_twice() {
    let bench = Bench::new();
    bench.fake.rule(|rules| rules.renew = Some(Fault::Unsupported));
    bench.user("a").await;
    pass(2900).await;
    assert_eq!((bench.user("a").await.as_str(), bench.fake.renewed()), ("user-2", 1));
}

#[tokio::test(start_paused = true)]
async fn an_old_one_is_given_to_its_end_when_it_cannot_be_replaced_and_never_after() {
    for fault in [Fault::Unavailable, Fault::Denied, Fault::Invalid] {
        let bench = Bench::new();
        bench.fake.rule(|rules| rules.renewable = false);
        bench.user("a").await;
        bench.fake.rule(|rules| rules.fetch = Some(fault));
        pass(3500).await;
        assert_eq!(bench.user("a").await, "user-1", "{fault:?}");
        assert!(bench.counts("event=\"replace_failed\"} 1"));
        pass(110).await;
        assert_eq!(bench.fetch("a", "db/creds/app").await.unwrap_err().fault, fault);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_replacement_is_not_tried_at_every_mount() {
    let bench = Bench::new();
    bench.fake.rule(|rules| rules.renewable = false);
    bench.user("a").await;
    bench.fake.rule(|rules| rules.fetch = Some(Fault::Unavailable));
    pass(3000).await;
    for _ in 0..100 {
        bench.user("a").await;
    }
    assert!(bench.counts("event=\"replace_failed\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_costs_no_mount_its_answer_while_the_old_one_is_good() {
    let bench = Bench::new();
    bench.fake.rule(|rules| rules.renewable = false);
    bench.user("a").await;
    pass(3000).await;
    bench.fake.rule(|rules| rules.slow = Duration::from_secs(20));
    let began = Instant::now();
    assert_eq!((bench.user("a").await.as_str(), began.elapsed()), ("user-1", Duration::from_secs(5)));
    pass(20).await;
    assert_eq!((bench.user("a").await.as_str(), bench.fake.issued()), ("user-2", 2));
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_builds_the_stack_anew_keeps_its_leases() {
    let bench = Bench::new();
    bench.user("a").await;
    let next = Arc::new(fake(&bench.clock));
    let stack = leased(&next, "https://bao", &bench.leases);
    assert_eq!(next.adopted.load(Ordering::Relaxed), 1, "with the token that they live by");
    assert_eq!(user(&stack.fetch(&secret("db/creds/app"), &context("a")).await.unwrap()), "user-1");
    pass(3600).await;
    assert_eq!((bench.fake.renewed(), next.renewed(), next.issued()), (0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_another_store_issued_is_replaced_at_the_next_mount() {
    let bench = Bench::new();
    bench.user("a").await;
    let other = Arc::new(fake(&bench.clock));
    let stack = leased(&other, "https://other", &bench.leases);
    other.rule(|rules| rules.fetch = Some(Fault::Unavailable));
    assert_eq!(user(&stack.fetch(&secret("db/creds/app"), &context("a")).await.unwrap()), "user-1", "never an error before its end");
    other.rule(|rules| rules.fetch = None);
    pass(10).await;
    stack.fetch(&secret("db/creds/app"), &context("a")).await.unwrap();
    assert_eq!((bench.fake.issued(), other.issued(), other.adopted.load(Ordering::Relaxed)), (1, 1, 0));
}
