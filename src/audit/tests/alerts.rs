//! What raises an alert, once, and what does not.

use tokio::time::advance;

use super::super::alerts::Alarms;
use super::*;
use crate::model::FieldName;

const MINUTE: Duration = Duration::from_mins(1);

fn rules(secrets: usize, count: usize) -> [AlertRule; 2] {
    [
        AlertRule { watched: Watched::ManySecrets, number: secrets, within: 10 * MINUTE },
        AlertRule { watched: Watched::Denials, number: count, within: 5 * MINUTE },
    ]
}

/// A mount of its own Pod and volume, which delivers these secrets.
fn of(namespace: &str, account: &str, pod: usize, secrets: impl IntoIterator<Item = usize>) -> Event {
    let mut mount = mount_of(namespace, pod, 0);
    let claims = Arc::make_mut(mount.pod.as_mut().unwrap());
    (claims.name, claims.service_account) = (format!("pod-{pod}"), account.to_owned());
    mount.request = RequestId::new(pod as u64);
    let object = mount.objects.remove(0);
    let secret = |number: usize| SecretRef::read("files".parse().unwrap(), format!("{namespace}/{number}").parse().unwrap());
    mount.objects = secrets.into_iter().map(|number| ObjectEvent { secret: secret(number), ..object.clone() }).collect();
    mount
}

/// An object that is made of several secrets counts each of them that exists.
#[tokio::test]
async fn every_secret_of_an_object_counts() {
    let (alarms, now) = (Alarms::new(Arc::default()), Instant::now());
    alarms.configure(&rules(3, 5));
    let rendered = |pod: usize, others: [Option<&'static str>; 2]| {
        let mut mount = of("shop", "web", pod, [1]);
        for (number, source) in (2..).zip(others) {
            let name = format!("shop/{number}").parse().unwrap();
            let other = OtherEvent::of(&SecretRef::read("files".parse().unwrap(), name));
            mount.objects[0].others.push(OtherEvent { source, ..other });
        }
        mount
    };
    let raised = |mount: &Event| alarms.note(mount).and_then(|noted| alarms.count(&noted, now)).is_some();
    assert!(!raised(&rendered(1, [Some("store"), None])), "one of three is absent");
    assert!(raised(&rendered(2, [Some("store"), Some("fresh")])));
}

fn denied(namespace: &str, account: &str, pod: usize) -> Event {
    let mut mount = of(namespace, account, pod, [1]);
    (mount.outcome, mount.code) = (Outcome::Denied, Some(Code::PolicyDenied));
    mount.objects[0].outcome = Outcome::Denied;
    mount
}

struct Watching {
    log: AuditLog,
    written: Shared,
    metrics: Arc<Metrics>,
}

impl Watching {
    fn new(rules: &[AlertRule]) -> Self {
        let (written, metrics) = (Shared::default(), Arc::new(Metrics::new()));
        let log = AuditLog::start(Box::new(written.clone()), false, Arc::clone(&metrics)).unwrap();
        log.configure(rules);
        Self { log, written, metrics }
    }

    async fn record(&self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.log.record(event).await.unwrap();
        }
    }

    fn until_written(&self) {
        while self.log.room.used() > 0 {
            std::thread::yield_now();
        }
    }

    /// `rule namespace/account` of each alert so far.
    async fn alerts(&self) -> Vec<String> {
        let (done, written) = oneshot::channel();
        self.log.queue.send(Message::Flush(done)).unwrap();
        written.await.unwrap();
        let alerts = self.written.lines().into_iter().filter(|line| line["event"] == "alert");
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        alerts
            .map(|line| {
                let uncounted = if line["uncounted"] == true { " uncounted" } else { "" };
                format!("{} {}/{}{uncounted}", text(&line["rule"]), text(&line["namespace"]), text(&line["serviceAccount"]))
            })
            .collect()
    }

    fn counted(&self, rule: &str) -> Option<u64> {
        let name = format!("keyferry_audit_alerts_total{{rule=\"{rule}\"}} ");
        self.metrics.encode().lines().find_map(|line| line.strip_prefix(&*name)?.parse().ok())
    }
}

#[tokio::test(start_paused = true)]
async fn many_different_secrets_of_one_service_account_raise_one_alert() {
    let watching = Watching::new(&rules(50, 20));
    assert_eq!(watching.counted("manySecrets"), Some(0));
    watching.record((0..49).map(|n| of("shop", "web", n, [n]))).await;
    assert_eq!(watching.alerts().await, [""; 0]);
    watching.record((0..20).map(|n| of("shop", "web", 100 + n, [40 + n]))).await;
    assert_eq!(watching.alerts().await, ["manySecrets shop/web"]);
    assert_eq!(watching.counted("manySecrets"), Some(1));
    let lines = watching.written.lines();
    let alert = lines.iter().find(|line| line["event"] == "alert").unwrap();
    insta::assert_snapshot!(alert, @r#"{"v":1,"time":"1970-01-01T00:00:00Z","event":"alert","rule":"manySecrets","namespace":"shop","serviceAccount":"web","secrets":50,"seconds":600,"request":"000000000000006d"}"#);
    let at = lines.iter().position(|line| line == alert).unwrap();
    assert_eq!(lines[at - 1]["request"], alert["request"], "right behind the line of its mount");
}

#[tokio::test(start_paused = true)]
async fn what_is_the_same_secret_counts_once() {
    let watching = Watching::new(&rules(3, 20));
    // A hundred Pods of one class; then other versions, fields and files of the same secrets.
    watching.record((0..100).map(|pod| of("shop", "web", pod, [1, 2]))).await;
    let mut other = of("shop", "web", 200, [1, 2, 1, 2]);
    for (number, object) in other.objects.iter_mut().enumerate() {
        object.version = Some(Version::new(number.to_string()));
        object.field = Some(format!("field-{number}").parse::<FieldName>().unwrap());
        object.secret = object.secret.clone().with(|asked| asked.version = Some(Version::new(number.to_string())));
    }
    watching.record([other]).await;
    assert_eq!(watching.alerts().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn one_mount_of_many_objects_is_enough() {
    let watching = Watching::new(&rules(50, 20));
    watching.record([of("shop", "web", 0, 0..64)]).await;
    assert_eq!(watching.alerts().await, ["manySecrets shop/web"]);
}

#[tokio::test(start_paused = true)]
async fn only_what_was_delivered_counts() {
    let watching = Watching::new(&rules(2, 20));
    let mut absent = of("shop", "web", 0, 0..64);
    absent.objects.iter_mut().skip(1).for_each(|object| object.outcome = Outcome::Absent);
    let mut failed = of("shop", "web", 1, 100..164);
    (failed.outcome, failed.code) = (Outcome::Failed, Some(Code::SecretNotFound));
    failed.objects.iter_mut().for_each(|object| object.outcome = Outcome::Withheld);
    watching.record([absent, failed, of("shop", "web", 2, [])]).await;
    assert_eq!(watching.alerts().await, [""; 0]);
    let refusing = AuditLog::start(Box::new(Full), true, Arc::default()).unwrap();
    refusing.configure(&rules(2, 1));
    refusing.record(of("shop", "web", 0, 0..64)).await.unwrap_err();
    assert_eq!(refusing.alarms.kept(), [(0, 0, 0), (0, 0, 0)], "without its line the mount fails");
    refusing.record(denied("shop", "web", 1)).await.unwrap_err();
    assert_eq!(refusing.alarms.kept()[1], (1, 1, 1), "a denial counts without its line");
}

#[tokio::test(start_paused = true)]
async fn the_time_slides_and_an_alert_is_raised_once_in_it() {
    let watching = Watching::new(&rules(3, 20));
    watching.record([of("shop", "web", 1, [1])]).await;
    advance(6 * MINUTE).await;
    watching.record([of("shop", "web", 2, [2])]).await;
    advance(6 * MINUTE).await;
    watching.record([of("shop", "web", 3, [3])]).await;
    assert_eq!(watching.alerts().await, [""; 0], "the first is 12 minutes old");
    advance(3 * MINUTE).await;
    watching.record([of("shop", "web", 4, [4])]).await;
    assert_eq!(watching.alerts().await.len(), 1, "the last three are of 9 minutes");
    watching.record((10..20).map(|n| of("shop", "web", n, [n]))).await;
    advance(Duration::from_secs(599)).await;
    watching.record((20..30).map(|n| of("shop", "web", n, [n]))).await;
    assert_eq!(watching.alerts().await.len(), 1, "still of its time");
    advance(Duration::from_secs(1)).await;
    watching.record([of("shop", "web", 30, [30, 31])]).await;
    assert_eq!(watching.alerts().await.len(), 1, "counted from zero");
    watching.record([of("shop", "web", 31, [32])]).await;
    assert_eq!(watching.alerts().await.len(), 2);
}

/// A secret that is delivered again becomes the newest: it is in the time before now.
#[tokio::test(start_paused = true)]
async fn a_secret_that_comes_again_stays_counted() {
    let watching = Watching::new(&rules(3, 20));
    watching.record([of("shop", "web", 1, [1, 2])]).await;
    advance(9 * MINUTE).await;
    watching.record([of("shop", "web", 2, [1, 2])]).await;
    advance(9 * MINUTE).await;
    watching.record([of("shop", "web", 3, [3])]).await;
    assert_eq!(watching.alerts().await, ["manySecrets shop/web"]);
}

/// The driver asks for each volume again about once per minute, and each hour its line is written.
#[tokio::test(start_paused = true)]
async fn regular_mounts_deliver_nothing_new() {
    let watching = Watching::new(&rules(3, 20));
    for minute in 0..180 {
        for pod in 0..4 {
            // They started one hour apart.
            if minute >= pod * 15 {
                let mut mount = of("shop", "web", pod, [pod]);
                mount.time = jiff::Timestamp::from_second(i64::try_from(minute).unwrap() * 60).unwrap();
                watching.record([mount]).await;
                // A minute is long for the writing thread.
                watching.until_written();
            }
        }
        advance(MINUTE).await;
    }
    assert_eq!(watching.alerts().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn each_denial_counts_also_of_the_same_mount() {
    let watching = Watching::new(&rules(50, 20));
    let mut by_the_store = of("shop", "web", 7, [1]);
    (by_the_store.outcome, by_the_store.code) = (Outcome::Failed, Some(Code::BackendDenied));
    watching.record([by_the_store]).await;
    for number in 10..28 {
        let mut again = denied("shop", "web", 1);
        again.request = RequestId::new(number);
        watching.record([again]).await;
    }
    assert_eq!(watching.alerts().await, [""; 0]);
    // A failure for another reason does not count.
    let mut failed = of("shop", "web", 8, [1]);
    (failed.outcome, failed.code) = (Outcome::Failed, Some(Code::BackendTimeout));
    watching.record([failed]).await;
    assert_eq!(watching.alerts().await, [""; 0]);
    let mut last = denied("shop", "web", 1);
    last.request = RequestId::new(99);
    watching.record([last]).await;
    assert_eq!(watching.alerts().await, ["denials shop/web"]);
    let alert = watching.written.lines().into_iter().find(|line| line["event"] == "alert").unwrap();
    insta::assert_snapshot!(alert, @r#"{"v":1,"time":"1970-01-01T00:00:00Z","event":"alert","rule":"denials","namespace":"shop","serviceAccount":"web","count":20,"seconds":300,"request":"0000000000000063"}"#);
    watching.record((0..100).map(|pod| denied("shop", "web", pod))).await;
    assert_eq!(watching.alerts().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn each_service_account_is_counted_apart() {
    let watching = Watching::new(&rules(3, 20));
    watching.record((0..300).map(|n| of(&format!("team-{n}"), "web", n, [1, 2]))).await;
    watching.record((0..300).map(|n| of("shop", &format!("web-{n}"), n, [n, n + 1]))).await;
    assert_eq!(watching.alerts().await, [""; 0]);
    watching.record([of("team-7", "web", 900, [3]), of("shop", "web-7", 901, [900])]).await;
    assert_eq!(watching.alerts().await, ["manySecrets team-7/web", "manySecrets shop/web-7"]);
}

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_the_counts_of_a_rule_that_stays() {
    let watching = Watching::new(&rules(3, 3));
    watching.record([of("shop", "web", 0, [1, 2]), denied("shop", "web", 1), denied("shop", "web", 2)]).await;
    watching.log.configure(&[rules(3, 3)[1], rules(4, 3)[0]]);
    watching.record([of("shop", "web", 3, [3]), denied("shop", "web", 4)]).await;
    assert_eq!(watching.alerts().await, ["denials shop/web"], "the other one counts from zero");
    watching.record([of("shop", "web", 5, [4, 5, 6])]).await;
    assert_eq!(watching.alerts().await.len(), 2);
    watching.log.configure(&[]);
    watching.record([of("bank", "web", 6, 0..64), denied("bank", "web", 7)]).await;
    assert_eq!((watching.alerts().await.len(), watching.log.alarms.kept()), (2, Vec::new()));
}

/// Whatever time the wall clock gives for the mounts.
#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_changes_nothing() {
    let watching = Watching::new(&rules(3, 20));
    for (pod, second) in [(0, 1_000_000), (1, 0), (2, 2_000_000)] {
        let mut mount = of("shop", "web", pod, [pod]);
        mount.time = jiff::Timestamp::from_second(second).unwrap();
        watching.record([mount]).await;
    }
    assert_eq!(watching.alerts().await, ["manySecrets shop/web"]);
}

// === Shared by tenant ===

#[tokio::test(start_paused = true)]
async fn a_tenant_that_fills_the_table_raises_an_alert_and_hides_nothing() {
    let watching = Watching::new(&rules(50, 20));
    watching.record([of("shop", "web", 0, 0..40)]).await;
    // Many accounts, each below the rule's number.
    watching.record((0..1_000).map(|n| of("evil", &format!("sa-{n}"), n, 0..49))).await;
    let alerts = watching.alerts().await;
    assert_eq!(alerts.len(), 1, "once: {alerts:?}");
    assert!(alerts[0].starts_with("manySecrets evil/sa-") && alerts[0].ends_with(" uncounted"), "{alerts:?}");
    let (accounts, things, _) = watching.log.alarms.kept()[0];
    assert!(accounts < 200 && things <= 8_192 + 40, "{accounts} {things}");
    // No other tenant's counts are gone, and a newcomer is counted.
    watching.record([of("shop", "web", 1, 40..50), of("bank", "web", 2, 0..50)]).await;
    assert_eq!(watching.alerts().await[1..], ["manySecrets shop/web", "manySecrets bank/web"]);
    advance(10 * MINUTE).await;
    watching.record([of("shop", "web", 3, [1])]).await;
    assert_eq!(watching.log.alarms.kept()[0], (1, 1, 1), "nothing is kept for longer");
}

#[tokio::test(start_paused = true)]
async fn one_account_of_ten_thousand_secrets_costs_no_more_than_the_number() {
    let watching = Watching::new(&rules(50, 20));
    watching.record((0..10_000).map(|n| of("shop", "web", n, [n]))).await;
    assert_eq!(watching.alerts().await, ["manySecrets shop/web"]);
    assert_eq!(watching.log.alarms.kept()[0], (1, 50, 50));
}

/// Its namespace's lines are left out by then; the alert is written.
#[tokio::test(start_paused = true)]
async fn an_alert_is_written_whatever_its_namespace_has_spent() {
    let watching = Watching::new(&rules(50, 2_000));
    for n in 0..2_100 {
        let mut mount = denied("evil", "web", n);
        mount.error = Some("x".repeat(4_000));
        watching.record([mount]).await;
        watching.until_written();
    }
    assert!(watching.written.lines().iter().any(|line| line["event"] == "mount" && line["more"] == 1), "shortened");
    assert_eq!(watching.alerts().await, ["denials evil/web"]);
}

#[test]
fn of_a_secret_no_name_is_kept() {
    let alarms = Alarms::new(Arc::default());
    alarms.configure(&rules(50, 20));
    let noted = alarms.note(&of("shop", "web", 0, [4242])).unwrap();
    alarms.count(&noted, Instant::now());
    assert!(!format!("{noted:?} {alarms:?}").contains("shop/4242"));
}
