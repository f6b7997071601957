//! Leases are revoked when the Pod is gone, and only then.

use std::fs;

use super::*;
use crate::model::LeaseFor;

impl Bench {
    pub(super) fn starts(&self, uid: &str) {
        fs::create_dir_all(self.kubelet.path().join("pods").join(uid)).unwrap();
    }

    fn stops(&self, uid: &str) {
        fs::remove_dir(self.kubelet.path().join("pods").join(uid)).unwrap();
    }

    fn forgotten(&self) -> Vec<String> {
        self.fake.forgotten.lock().unwrap().clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_gone_leaves_no_credential_behind() {
    let bench = Bench::new();
    bench.starts("a");
    bench.starts("b");
    bench.user("a").await;
    bench.fetch("a", "db/creds/other").await.unwrap();
    bench.user("b").await;
    pass(300).await;
    bench.stops("a");
    pass(60).await;
    assert!(bench.fake.revoked().is_empty(), "missed once");
    pass(70).await;
    assert_eq!(bench.fake.revoked(), ["lease-1", "lease-2"]);
    assert_eq!(bench.forgotten(), ["a"], "and its store token goes, too");
    pass(300).await;
    assert_eq!((bench.user("b").await.as_str(), bench.forgotten().len()), ("user-3", 1));
    assert!(bench.counts("keyferry_leases{backend=\"bao\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_without_leases_is_forgotten_as_well() {
    let bench = Bench::new();
    bench.fake.rule(|rules| rules.leased = false);
    bench.starts("a");
    bench.starts("b");
    bench.user("a").await;
    bench.stops("a");
    pass(200).await;
    assert_eq!(bench.forgotten(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_was_never_seen_is_not_missed() {
    let bench = Bench::new();
    bench.starts("other");
    bench.user("a").await;
    pass(600).await;
    assert_eq!((bench.fake.revoked(), bench.user("a").await.as_str()), (vec![], "user-1"));
    bench.starts("a");
    pass(120).await;
    bench.stops("a");
    pass(200).await;
    assert_eq!(bench.fake.revoked(), ["lease-1"], "seen later, missed later");
}

#[tokio::test(start_paused = true)]
async fn an_empty_or_absent_root_says_nothing_of_any_pod() {
    let bench = Bench::new();
    bench.starts("a");
    bench.user("a").await;
    bench.stops("a");
    pass(600).await;
    assert!(bench.fake.revoked().is_empty());
    fs::remove_dir(bench.kubelet.path().join("pods")).unwrap();
    pass(600).await;
    assert!(bench.fake.revoked().is_empty());
    bench.starts("other");
    pass(60).await;
    fs::remove_dir_all(bench.kubelet.path().join("pods")).unwrap();
    pass(60).await;
    bench.starts("other");
    pass(60).await;
    assert!(bench.fake.revoked().is_empty(), "missed twice, but not in a row");
    pass(70).await;
    assert_eq!(bench.fake.revoked(), ["lease-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_comes_back_was_not_gone() {
    let bench = Bench::new();
    bench.starts("a");
    bench.starts("other");
    bench.user("a").await;
    for _ in 0..5 {
        bench.stops("a");
        pass(60).await;
        bench.starts("a");
        pass(60).await;
    }
    assert!(bench.fake.revoked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_uid_that_leads_elsewhere_is_not_looked_for() {
    let bench = Bench::new();
    bench.starts("other");
    for uid in ["..", "../pods/other", "a/b", ""] {
        bench.user(uid).await;
    }
    pass(300).await;
    assert!(bench.fake.revoked().is_empty() && bench.forgotten().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_shared_lease_goes_with_the_last_pod_that_used_it() {
    let bench = Bench::new();
    let shared = secret("db/creds/app").with(|asked| asked.lease = LeaseFor::Shared);
    for uid in ["a", "b", "other"] {
        bench.starts(uid);
    }
    bench.leased.fetch(&shared, &context("a")).await.unwrap();
    bench.leased.fetch(&shared, &context("b")).await.unwrap();
    bench.stops("a");
    pass(200).await;
    assert_eq!((bench.fake.revoked(), bench.forgotten()), (vec![], vec!["a".to_owned()]));
    bench.stops("b");
    pass(200).await;
    assert_eq!(bench.fake.revoked(), ["lease-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_replaced_lease_is_revoked_with_its_pod_too() {
    let bench = Bench::new();
    bench.fake.rule(|rules| rules.renewable = false);
    bench.starts("a");
    bench.starts("other");
    bench.user("a").await;
    pass(2900).await;
    assert_eq!(bench.user("a").await, "user-2");
    bench.stops("a");
    pass(200).await;
    assert_eq!(bench.fake.revoked(), ["lease-1", "lease-2"]);
}

#[tokio::test(start_paused = true)]
async fn revoking_is_tried_again_until_the_end_and_the_token_goes_last() {
    let bench = Bench::new();
    bench.starts("a");
    bench.starts("other");
    bench.user("a").await;
    bench.fake.rule(|rules| rules.revoke = Some(Fault::Unavailable));
    bench.stops("a");
    pass(600).await;
    assert!(bench.fake.revoked().is_empty() && bench.forgotten().is_empty());
    assert!(bench.counts("event=\"revoke_failed\""));
    bench.fake.rule(|rules| rules.revoke = None);
    pass(100).await;
    assert_eq!((bench.fake.revoked(), bench.forgotten()), (vec!["lease-1".to_owned()], vec!["a".to_owned()]));

    bench.starts("b");
    bench.user("b").await;
    bench.fake.rule(|rules| rules.revoke = Some(Fault::Unavailable));
    bench.stops("b");
    pass(3700).await;
    assert!(bench.leases.lock().records.is_empty(), "nothing is tried past its end");
    assert_eq!(bench.forgotten(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_gone_already_or_cannot_be_revoked_is_done_with() {
    for fault in [Fault::NotFound, Fault::Denied, Fault::Unsupported] {
        let bench = Bench::new();
        bench.starts("a");
        bench.starts("other");
        bench.user("a").await;
        bench.fake.rule(|rules| rules.revoke = Some(fault));
        bench.stops("a");
        pass(200).await;
        assert!(bench.leases.lock().records.is_empty(), "{fault:?}");
        assert_eq!(bench.forgotten(), ["a"]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_issued_while_its_pod_goes_is_revoked() {
    let bench = Bench::new();
    bench.starts("a");
    bench.starts("other");
    bench.fake.rule(|rules| rules.leased = false);
    bench.fetch("a", "kv/data/app").await.unwrap();
    bench.fake.rule(|rules| (rules.leased, rules.slow) = (true, Duration::from_secs(200)));
    bench.fetch("a", "db/creds/app").await.unwrap_err();
    bench.stops("a");
    bench.fake.rule(|rules| rules.slow = Duration::ZERO);
    pass(400).await;
    assert_eq!(bench.fake.revoked(), ["lease-2"]);
}

#[tokio::test(start_paused = true)]
async fn at_shutdown_all_are_revoked_where_that_is_asked_for() {
    let bench = Bench::new();
    for uid in 0..40 {
        bench.user(&uid.to_string()).await;
    }
    bench.fake.rule(|rules| rules.slow = Duration::from_secs(1));
    let began = Instant::now();
    bench.leases.configure(LeasesConfig { revoke_at_shutdown: true });
    bench.leases.close(began + Duration::from_secs(10)).await;
    assert_eq!((bench.fake.revoked().len(), began.elapsed()), (40, Duration::from_secs(5)));
    assert!(bench.leases.lock().records.is_empty());
}

#[tokio::test(start_paused = true)]
async fn shutdown_is_over_in_time_whatever_the_store_does() {
    let bench = Bench::new();
    bench.user("a").await;
    bench.fake.rule(|rules| rules.slow = Duration::from_secs(1000));
    let began = Instant::now();
    bench.leases.configure(LeasesConfig { revoke_at_shutdown: true });
    bench.leases.close(began + Duration::from_secs(10)).await;
    assert_eq!(began.elapsed(), Duration::from_secs(10));
    bench.leases.close(Instant::now()).await;
}
