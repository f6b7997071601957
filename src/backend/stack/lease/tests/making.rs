//! What a store makes without a lease: it is made once for its holder, kept until its end, and never revoked.

use std::fs;

use super::*;
use crate::model::LeaseFor;

const DAY: u64 = 24 * 3600;

/// AppRole's secret ids are made like this.
fn secret_id() -> SecretRef {
    secret("auth/approle/role/web/secret-id").with(|asked| asked.method = Method::Post)
}

impl Bench {
    /// A store whose answers end after so many seconds.
    fn making(self, ttl: Option<i64>) -> Self {
        let made = if ttl.is_some() { Made::Ending } else { Made::Endless };
        self.fake.rule(|rules| (rules.made, rules.ttl) = (Some(made), ttl.unwrap_or_default()));
        self
    }

    async fn made_for(&self, uid: &str, asked: &SecretRef) -> String {
        user(&self.leased.fetch(asked, &context(uid)).await.unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_made_once_for_each_pod_or_for_all_of_the_account() {
    let bench = Bench::new().making(Some(HOUR));
    let first = bench.leased.fetch(&secret_id(), &context("a")).await.unwrap();
    pass(60).await;
    let again = bench.leased.fetch(&secret_id(), &context("a")).await.unwrap();
    assert!(Arc::ptr_eq(&first.secret, &again.secret));
    assert_eq!(again.source, Source::Fresh { age: Duration::from_mins(1) });
    assert_eq!(bench.made_for("b", &secret_id()).await, "user-2");
    let shared = secret_id().with(|asked| asked.lease = LeaseFor::Shared);
    assert_eq!((bench.made_for("a", &shared).await, bench.made_for("b", &shared).await), ("user-3".into(), "user-3".into()));
    let other = PodIdentity { namespace: "evil".into(), ..pod("c") };
    let other = bench.leased.fetch(&shared, &FetchContext { pod: Arc::new(other), ..context("c") }).await.unwrap();
    assert_eq!(user(&other), "user-4");
    assert!(bench.counts("keyferry_leases{backend=\"bao\"} 4"));
}

#[tokio::test(start_paused = true)]
async fn another_is_made_from_two_thirds_of_its_life() {
    let bench = Bench::new().making(Some(HOUR));
    assert_eq!(bench.made_for("a", &secret_id()).await, "user-1");
    pass(2390).await;
    assert_eq!(bench.made_for("a", &secret_id()).await, "user-1");
    pass(420).await;
    bench.fake.rule(|rules| rules.fetch = Some(Fault::Unavailable));
    assert_eq!(bench.made_for("a", &secret_id()).await, "user-1", "the store is down: the old one until its end");
    bench.fake.rule(|rules| rules.fetch = None);
    pass(60).await;
    assert_eq!(bench.made_for("a", &secret_id()).await, "user-2");
    pass(2390).await;
    bench.fake.rule(|rules| rules.fetch = Some(Fault::Unavailable));
    assert_eq!(bench.made_for("a", &secret_id()).await, "user-2");
    pass(1300).await;
    assert!(bench.leased.fetch(&secret_id(), &context("a")).await.is_err(), "never a moment later");
    assert_eq!((bench.fake.renewed(), bench.fake.revoked().len()), (0, 0), "there is nothing to renew or revoke");
}

#[tokio::test(start_paused = true)]
async fn without_an_end_it_is_kept_while_somebody_asks() {
    let bench = Bench::new().making(None);
    for _ in 0..6 {
        assert_eq!(bench.made_for("a", &secret_id()).await, "user-1");
        pass(DAY - 60).await;
    }
    assert_eq!(bench.made_for("a", &secret_id()).await, "user-1");
    pass(DAY + 60).await;
    assert_eq!(bench.made_for("a", &secret_id()).await, "user-2");
}

/// A mount that gets everything from memory also asks.
#[tokio::test(start_paused = true)]
async fn a_warm_mount_asks_for_it() {
    let bench = Bench::new().making(None);
    bench.made_for("a", &secret_id()).await;
    bench.starts("a");
    bench.made_for("a", &secret_id()).await;
    for _ in 0..4 {
        pass(DAY / 2).await;
        let at_hand = bench.leased.recall(&secret_id(), &context("a"), Instant::now());
        assert_eq!(at_hand.as_ref().map(user).as_deref(), Some("user-1"));
    }
}

#[tokio::test(start_paused = true)]
async fn keep_bounds_what_has_an_end_and_what_has_none() {
    for (ttl, keep, kept) in [(None, 3600, 3600), (Some(2 * HOUR), 3600, 3600), (Some(HOUR), 7200, 3600)] {
        let bench = Bench::new().making(ttl);
        let asked = secret_id().with(|asked| asked.keep = Some(Duration::from_secs(keep)));
        bench.made_for("a", &asked).await;
        bench.fake.rule(|rules| rules.fetch = Some(Fault::Unavailable));
        pass(kept - 10).await;
        assert_eq!(bench.made_for("a", &asked).await, "user-1", "{ttl:?} {keep}");
        pass(20).await;
        assert!(bench.leased.fetch(&asked, &context("a")).await.is_err(), "{ttl:?} {keep}");
        bench.fake.rule(|rules| rules.fetch = None);
        assert_eq!(bench.made_for("a", &asked).await, "user-2");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_gone_has_nothing_revoked() {
    let bench = Bench::new().making(None);
    bench.starts("a");
    bench.starts("b");
    bench.made_for("a", &secret_id()).await;
    bench.made_for("b", &secret_id()).await;
    pass(60).await;
    fs::remove_dir(bench.kubelet.path().join("pods/a")).unwrap();
    pass(200).await;
    assert!(bench.counts("keyferry_leases{backend=\"bao\"} 1"));
    assert!(bench.counts("event=\"dropped\"} 1") && bench.fake.revoked().is_empty(), "{}", bench.metrics.encode());
    assert_eq!(*bench.fake.forgotten.lock().unwrap(), ["a"], "its store token is given back all the same");
    assert_eq!(bench.made_for("b", &secret_id()).await, "user-2");
}

#[tokio::test(start_paused = true)]
async fn it_counts_among_the_pods_leases() {
    let bench = Bench::new().making(None);
    for number in 0..128 {
        bench.made_for("a", &secret(&format!("transit/datakey/{number}")).with(|asked| asked.method = Method::Post)).await;
    }
    assert_eq!(bench.leased.fetch(&secret_id(), &context("a")).await.unwrap_err().fault, Fault::TooLarge);
    assert_eq!(bench.fake.issued(), 128, "the store was not asked");
}

/// The postponed end is on the disk, and so is its limit.
#[tokio::test(start_paused = true)]
async fn a_killed_process_makes_nothing_twice() {
    let node = super::restarting::Node::new();
    let bench = Bench::with(Some(&node.sealed())).making(None);
    let kept = secret_id().with(|asked| asked.keep = Some(Duration::from_secs(3 * DAY)));
    for _ in 0..4 {
        assert_eq!(bench.made_for("a", &secret_id()).await, "user-1");
        assert_eq!(bench.made_for("a", &kept).await, "user-2");
        pass(DAY / 2).await;
    }
    let bench = bench.killed(&node);
    assert_eq!((bench.made_for("a", &secret_id()).await, bench.fake.issued()), ("user-1".into(), 2));
    pass(DAY - 60).await;
    assert_eq!(bench.made_for("a", &secret_id()).await, "user-1", "asked for after the restart");
    pass(60).await;
    assert_eq!(bench.made_for("a", &kept).await, "user-3", "three days are over");
    pass(DAY + 60).await;
    let bench = bench.killed(&node);
    assert_eq!(bench.made_for("a", &secret_id()).await, "user-4");
}

/// Another address or login: what was made there is not used here.
#[tokio::test(start_paused = true)]
async fn another_store_makes_another() {
    let bench = Bench::new().making(None);
    assert_eq!(bench.made_for("a", &secret_id()).await, "user-1");
    let moved = leased(&bench.fake, "https://other", &bench.leases);
    assert_eq!(user(&moved.fetch(&secret_id(), &context("a")).await.unwrap()), "user-2");
}
