//! Leases are renewed in time, and renewals are tried again until the end.

use super::*;
use crate::http::tests::log::Log;

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_for_as_long_as_the_store_lets_it() {
    let bench = Bench::new();
    let first = bench.user("a").await;
    pass(10 * 3600).await;
    assert_eq!((bench.user("a").await, bench.fake.issued()), (first, 1));
    assert!((12..=15).contains(&bench.fake.renewed()), "each 40 to 47 minutes: {}", bench.fake.renewed());
    assert!(bench.counts("keyferry_lease_events_total{backend=\"bao\",event=\"renewed\"}"));
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_waited_out() {
    for fault in [Fault::Unavailable, Fault::Throttled, Fault::TimedOut] {
        let bench = Bench::new();
        bench.fake.rule(|rules| rules.renew = Some(fault));
        bench.user("a").await;
        pass(3500).await;
        assert!((10..40).contains(&bench.fake.renewed()), "{}", bench.fake.renewed());
        bench.fake.rule(|rules| rules.renew = None);
        pass(4 * 3600).await;
        assert_eq!((bench.user("a").await.as_str(), bench.fake.issued()), ("user-1", 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_credential_that_the_store_quotes_is_not_logged() {
    let (log, _logging) = Log::start();
    let bench = Bench::new();
    bench.fake.rule(|rules| (rules.renew, rules.fetch) = (None, None));
    bench.user("a").await;
    bench.fake.rule(|rules| (rules.renew, rules.fetch) = (Some(Fault::Unavailable), Some(Fault::Denied)));
    pass(3000).await;
    bench.fake.rule(|rules| (rules.renew, rules.renewable) = (Some(Fault::Unsupported), false));
    pass(300).await;
    assert_eq!(bench.user("a").await, "user-1", "it cannot be replaced");
    for told in ["a lease could not be renewed", "a lease could not be replaced", "as ordered: role \"[redacted]\" is in the way"] {
        assert!(log.text().contains(told), "{told}: {}", log.text());
    }
    assert!(!log.text().to_lowercase().contains("user-1"), "{}", log.text());
}

#[tokio::test(start_paused = true)]
async fn an_outage_until_the_end_costs_the_lease() {
    let bench = Bench::new();
    bench.fake.rule(|rules| rules.renew = Some(Fault::Unavailable));
    bench.user("a").await;
    pass(3610).await;
    assert!(bench.leases.lock().records.is_empty(), "nothing past its end is kept");
    assert_eq!(bench.user("a").await, "user-2");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_the_store_does_not_know_any_more_is_dropped() {
    for fault in [Fault::NotFound, Fault::Denied, Fault::Invalid, Fault::Unauthenticated] {
        let bench = Bench::new();
        bench.fake.rule(|rules| rules.renew = Some(fault));
        bench.user("a").await;
        pass(3000).await;
        assert_eq!((bench.fake.renewed(), bench.user("a").await.as_str()), (1, "user-2"), "{fault:?}");
        assert!(bench.counts("event=\"dropped\"} 1"));
        bench.fake.rule(|rules| rules.fetch = Some(Fault::Denied));
        pass(3000).await;
        assert_eq!(bench.fetch("a", "db/creds/app").await.unwrap_err().fault, Fault::Denied, "what a store will not give is not given");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_one_renewal_ends_no_other() {
    let bench = Bench::new();
    bench.user("a").await;
    bench.fake.rule(|rules| rules.panics = true);
    pass(2900).await;
    bench.fake.rule(|rules| rules.panics = false);
    pass(3600).await;
    assert_eq!((bench.user("a").await.as_str(), bench.fake.issued()), ("user-1", 1));
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_back_neither_lengthens_a_life_nor_brings_all_turns_at_once() {
    let bench = Bench::new();
    bench.user("a").await;
    bench.clock.set.advance(-100 * HOUR);
    pass(2300).await;
    assert_eq!((bench.fake.renewed(), bench.user("a").await.as_str()), (0, "user-1"));
    bench.fake.rule(|rules| rules.renew = Some(Fault::Unavailable));
    pass(1400).await;
    assert_eq!(bench.user("a").await, "user-2", "an hour is an hour");
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_forward_past_the_end_means_that_nothing_is_given() {
    let bench = Bench::new();
    bench.user("a").await;
    bench.clock.set.advance(2 * HOUR);
    assert_eq!(bench.user("a").await, "user-2");
    assert_eq!((bench.user("a").await.as_str(), bench.fake.renewed()), ("user-2", 0));
}

#[tokio::test(start_paused = true)]
async fn many_that_come_up_at_once_are_all_renewed() {
    let bench = Bench::new();
    for number in 0..100 {
        bench.fetch("a", &format!("db/creds/{number}")).await.unwrap();
    }
    bench.fake.rule(|rules| rules.slow = Duration::from_secs(1));
    pass(3600).await;
    bench.fake.rule(|rules| rules.slow = Duration::ZERO);
    for number in 0..100 {
        bench.fetch("a", &format!("db/creds/{number}")).await.unwrap();
    }
    assert_eq!((bench.fake.issued(), bench.fake.renewed()), (100, 100));
}
