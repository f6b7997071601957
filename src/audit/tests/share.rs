//! No namespace takes the others' lines: not in the queue, and not out of what kubelet keeps.

use super::super::line::LINE;
use super::super::trail::{HOUR_BYTES, MINUTE_BYTES};
use super::*;
use crate::window::Window;

/// A line of nearly this many bytes.
fn large(namespace: &str, volume: usize, bytes: usize) -> Event {
    let mut mount = mount_of(namespace, volume, 0);
    let file: crate::model::FilePath = "/element".repeat(100)[1..].parse().unwrap();
    let object = ObjectEvent { file: Some(file), ..mount.objects.remove(0) };
    mount.objects = vec![object; bytes / 1_000];
    mount
}

fn tenant_of(name: &str, number: usize) -> Tenant {
    Tenant::from(format!("{name}-{number:02}").as_str())
}

struct Recorded {
    trail: Trail,
    losses: Arc<Losses>,
    written: Shared,
}

impl Recorded {
    fn new() -> Self {
        let (written, losses) = (Shared::default(), Arc::new(Losses::new(Arc::default())));
        Self { trail: Trail::new(Destination::Writer(Box::new(written.clone())), Arc::default(), Arc::clone(&losses)), losses, written }
    }

    /// As the writing thread does it, without `failClosed`.
    fn pass(&mut self, mut event: Event, now: Instant) -> bool {
        let tenant = event.tenant();
        let written = self.trail.pass(&mut event, &tenant, now).is_ok();
        if !written {
            self.losses.lost(&tenant, Cause::Share, true, event.time);
        }
        self.trail.say_in_time(now);
        written
    }

    fn of(&self, namespace: &str) -> (usize, Vec<serde_json::Value>) {
        let lines: Vec<_> = self.written.lines().into_iter().filter(|line| line["namespace"] == namespace).collect();
        (lines.iter().map(|line| line.to_string().len() + 1).sum(), lines)
    }
}

// === The queue ===

#[tokio::test]
async fn who_fills_the_queue_loses_its_own_lines() {
    let ((hold, stall), written, metrics) = (mpsc::channel(), Shared::default(), Arc::new(Metrics::new()));
    let log = AuditLog::start(Box::new(Stalled(stall, written.clone())), false, Arc::clone(&metrics)).unwrap();
    for volume in 0..2_000 {
        log.record(large("evil", volume, 8_000)).await.unwrap();
    }
    let lost = |text: String| text.lines().find_map(|line| line.strip_prefix("keyferry_audit_lines_lost_total ")?.parse::<u64>().ok());
    let of_evil = lost(metrics.encode()).unwrap();
    assert!(of_evil > 0);
    for volume in 0..300 {
        log.record(large("shop", volume, 4_000)).await.unwrap();
    }
    assert_eq!(lost(metrics.encode()), Some(of_evil), "of the other, none");
    assert!(!log.flush(Duration::from_millis(50)).await, "it does not wait for ever");
    drop(hold);
    assert!(log.flush(Duration::from_mins(1)).await);
    let lines = written.lines();
    let of = |namespace: &str, event: &str| {
        let is_of = |line: &&serde_json::Value| line["namespace"] == namespace && line["event"] == event;
        lines.iter().filter(is_of).cloned().collect::<Vec<_>>()
    };
    let shop = of("shop", "mount");
    assert_eq!((shop.len(), shop.iter().filter(|line| line.get("more").is_some()).count()), (300, 0), "and all of them whole");
    assert_eq!(of("evil", "mount").len() as u64 + of_evil, 2_000);
    assert!(of("evil", "mount").iter().any(|line| line["more"] == 8), "the last ones without objects");
    assert_eq!(of("evil", "leftOut").iter().map(|line| line["lines"].as_u64().unwrap()).sum::<u64>(), of_evil);
    assert_eq!(of("evil", "leftOut").iter().map(|line| line["delivered"].as_u64().unwrap()).sum::<u64>(), of_evil);
}

#[tokio::test]
async fn with_fail_closed_who_finds_no_room_fails_alone() {
    let ((hold, stall), written, metrics) = (mpsc::channel(), Shared::default(), Arc::new(Metrics::new()));
    let log = Arc::new(AuditLog::start(Box::new(Stalled(stall, written.clone())), true, Arc::clone(&metrics)).unwrap());
    let record = |event| {
        let log = Arc::clone(&log);
        tokio::spawn(async move { log.record(event).await })
    };
    let of_evil: Vec<_> = (0..8_000).map(|volume| record(large("evil", volume, 2_000))).collect();
    tokio::task::yield_now().await;
    let of_shop: Vec<_> = (0..100).map(|volume| record(large("shop", volume, 2_000))).collect();
    while !of_evil.last().unwrap().is_finished() {
        tokio::task::yield_now().await;
    }
    drop(hold);
    for shop in of_shop {
        assert_eq!(shop.await.unwrap(), Ok(()));
    }
    let mut refused = Vec::new();
    for evil in of_evil {
        refused.extend(evil.await.unwrap().err());
    }
    assert!((1_000..8_000).contains(&refused.len()), "{}", refused.len());
    insta::assert_snapshot!(refused[0], @r#"the audit line could not be written, and audit.failClosed is set: the lines of the namespace "evil" that wait to be written fill its share of the queue (free space on the disk, or repair the file that audit.file names; mounts then go on by themselves)"#);
    assert!(metrics.encode().contains("keyferry_audit_lines_lost_total 0\n"), "none is lost: their mounts fail");
}

// === What is written in an hour ===

/// 50 MiB within an hour, which is what kubelet keeps of a container's output.
#[test]
fn who_writes_much_is_cut_short_and_nobody_else_is() {
    let mut recorded = Recorded::new();
    let start = Instant::now();
    let mut mounts = 0;
    for second in 0..3600 {
        let now = start + Duration::from_secs(second);
        // 16 KiB of lines a second: 56 MiB.
        for _ in 0..2 {
            mounts += 1;
            let mut mount = large("evil", mounts % 1_000, 8_000);
            // Each says something new.
            mount.error = Some(mounts.to_string());
            recorded.pass(mount, now);
        }
        if second % 60 == 30 {
            assert!(recorded.pass(large("shop", usize::try_from(second).unwrap(), 4_000), now), "{second}");
        }
    }
    let (bytes, lines) = recorded.of("evil");
    assert!((HOUR_BYTES / 2..HOUR_BYTES / 2 + 30 * MINUTE_BYTES + 60 * 256).contains(&bytes), "{bytes}");
    let left_out: Vec<_> = lines.iter().filter(|line| line["event"] == "leftOut").collect();
    assert!((30..=60).contains(&left_out.len()), "one a minute: {}", left_out.len());
    let left_out: u64 = left_out.iter().map(|line| line["lines"].as_u64().unwrap()).sum();
    let mounts = lines.iter().filter(|line| line["event"] == "mount").count() as u64;
    assert!(mounts + left_out <= 2 * 3600 && mounts + left_out > 2 * 3600 - 2 * 60, "{mounts} {left_out}");
    let (_, shop) = recorded.of("shop");
    assert_eq!((shop.len(), shop.iter().filter(|line| line.get("more").is_some()).count()), (60, 0));
    // The next hour has a share of its own.
    recorded.written.0.lock().unwrap().clear();
    assert!(recorded.pass(large("evil", 0, 4_000), start + Duration::from_hours(1)));
    assert!(recorded.of("evil").1[0].get("more").is_none());
}

#[test]
fn a_shortened_line_says_who_and_how_it_went() {
    let mut recorded = Recorded::new();
    let now = Instant::now();
    for volume in 0..100 {
        let mut failed = large("evil", volume, 60_000);
        failed.error = Some("TooLarge: ".to_owned() + &"x".repeat(1_000));
        (failed.outcome, failed.code) = (Outcome::Failed, Some(Code::TooLarge));
        recorded.pass(failed, now);
    }
    let mut short = recorded.of("evil").1.into_iter().find(|line| line.get("more").is_some()).unwrap();
    let error = short["error"].as_str().unwrap();
    assert_eq!(error.len(), 256);
    (short["error"], short["target"]) = (error.replace(&"x".repeat(233), "x").into(), "/pods/1".into());
    insta::assert_snapshot!(serde_json::to_string_pretty(&short).unwrap(), @r#"
    {
      "v": 1,
      "time": "1970-01-01T00:00:00Z",
      "event": "mount",
      "request": "0000000000000007",
      "outcome": "failed",
      "code": "TooLarge",
      "error": "TooLarge: xxxxxxxxxxx...",
      "provider": "keyferry",
      "namespace": "evil",
      "pod": "web-0",
      "uid": "u-1",
      "serviceAccount": "web",
      "verified": true,
      "class": "shop",
      "target": "/pods/1",
      "milliseconds": 1.5,
      "objects": [],
      "more": 60
    }
    "#);
}

#[tokio::test]
async fn with_fail_closed_no_secret_goes_without_a_line_and_a_few_mounts_go_on() {
    let written = Shared::default();
    let log = AuditLog::start(Box::new(written.clone()), true, Arc::default()).unwrap();
    let mut refused = Vec::new();
    for volume in 0..200 {
        refused.extend(log.record(large("evil", volume, 60_000)).await.err());
    }
    let lines: Vec<_> = written.lines().into_iter().filter(|line| line["event"] == "mount").collect();
    let short = lines.iter().filter(|line| line.get("more").is_some()).count();
    assert!(short >= 50 && lines.len() + refused.len() == 200, "{} {short}", lines.len());
    insta::assert_snapshot!(refused[0], @r#"the audit line could not be written, and audit.failClosed is set: the namespace "evil" has used up its share of the audit log (start fewer of its Pods on this node at a time; kubelet tries again by itself)"#);
    assert_eq!(log.record(mount_of("shop", 0, 0)).await, Ok(()));
    // A mount that was refused is not delivered.
    assert!(log.flush(Duration::from_secs(10)).await);
    let lines = written.lines();
    let left_out = lines.iter().filter(|line| line["event"] == "leftOut");
    let (mut lines, mut delivered) = (0, 0);
    for line in left_out {
        lines += line["lines"].as_u64().unwrap();
        delivered += line["delivered"].as_u64().unwrap();
    }
    assert_eq!((lines, delivered), (refused.len() as u64, 0));
}

/// The first mount after one that was left out does not count as its repeat.
#[test]
fn what_was_left_out_is_not_repeated() {
    let mut recorded = Recorded::new();
    let now = Instant::now();
    let volume = (0..1_000).find(|volume| !recorded.pass(large("evil", *volume, 60_000), now)).unwrap();
    let hour = now + Duration::from_hours(1);
    assert!(recorded.pass(large("evil", volume, 60_000), hour));
    let line = recorded.of("evil").1.pop().unwrap();
    assert_eq!((&line["target"], line.get("repeats"), line.get("more")), (&format!("/pods/{volume}").into(), None, None));
}

#[test]
fn sixteen_namespaces_a_minute_are_named() {
    let mut recorded = Recorded::new();
    let now = Instant::now();
    for number in 0..40 {
        let tenant = tenant_of("evil", number);
        for _ in 0..=number {
            recorded.losses.lost(&tenant, Cause::Share, true, jiff::Timestamp::UNIX_EPOCH);
        }
    }
    let mut shown = Vec::new();
    for minute in 0..4 {
        let before = recorded.written.lines().len();
        recorded.trail.say_in_time(now + Duration::from_secs(60 * minute));
        recorded.trail.say_in_time(now + Duration::from_secs(60 * minute + 59));
        let lines = recorded.written.lines();
        shown.push((lines.len() - before, lines.get(before).map_or(0, |line| line["lines"].as_u64().unwrap())));
    }
    assert_eq!(shown, [(16, 40), (16, 24), (8, 8), (0, 0)]);
    assert_eq!(recorded.losses.wait(now + Duration::from_hours(1)), None);
}

/// A report of lost lines is not lost itself: it is made again a minute later.
#[test]
fn what_cannot_be_said_is_said_later() {
    struct Twice(usize, Shared);
    impl Write for Twice {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += 1;
            if self.0 < 3 { Err(io::ErrorKind::StorageFull.into()) } else { self.1.write(bytes) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (written, metrics) = (Shared::default(), Arc::new(Metrics::new()));
    let losses = Arc::new(Losses::new(Arc::clone(&metrics)));
    let mut trail = Trail::new(Destination::Writer(Box::new(Twice(0, written.clone()))), Arc::default(), Arc::clone(&losses));
    let (now, tenant): (_, Tenant) = (Instant::now(), "shop".into());
    losses.lost(&tenant, Cause::File, true, jiff::Timestamp::UNIX_EPOCH);
    for second in [0, 30, 60, 90, 120, 150, 180] {
        trail.say_in_time(now + Duration::from_secs(second));
        assert_eq!(written.lines().len(), usize::from(second >= 120), "{second}");
    }
    assert!(metrics.encode().contains("keyferry_audit_lines_lost_total 1\n"));
}

// === Shares ===

/// More than the capacity in parts of 64 bytes.
const TRIES: usize = HOUR_BYTES / 32;

/// What tenants get that come one after the other and take all they can.
fn spent(window: &mut Window, tenants: usize, now: Instant) -> Vec<usize> {
    let names = (0..tenants).map(|number| tenant_of("evil", number));
    names.map(|tenant| (0..TRIES).take_while(|_| window.spend(&tenant, 64, now)).count() * 64).collect()
}

#[test]
fn a_newcomer_finds_a_part_after_any_others() {
    for (tenants, percent) in [(1, 50), (2, 84), (8, 183), (110, 440)] {
        let now = Instant::now();
        let mut window = Window::new(HOUR_BYTES, Duration::from_hours(1));
        let spent = spent(&mut window, tenants, now);
        let all: usize = spent.iter().sum();
        assert!(all * 100 <= HOUR_BYTES * percent, "{tenants}: {all}");
        for (before, bytes) in spent.iter().enumerate() {
            assert!(*bytes + 64 > HOUR_BYTES / (before + 2), "{before}: {bytes}");
        }
        // Earlier, honest tenants go on, up to the part of a newcomer.
        let shop: Tenant = "shop".into();
        assert!(window.spend(&shop, HOUR_BYTES / (tenants + 2), now));
        assert!(!window.spend(&shop, 64, now));
    }
}

#[test]
fn what_is_unused_is_anybodys() {
    let mut window = Window::new(1_000, Duration::from_hours(1));
    let now = Instant::now();
    for number in 0..50 {
        assert!(window.spend(&tenant_of("small", number), 1, now));
    }
    assert!(window.spend(&"large".into(), 475, now), "half of what they left");
    assert!(!window.spend(&"large".into(), 1, now));
}

/// The table has a limit. Late tenants share one part; no tenant is removed, so none gets a second share by that.
#[test]
fn namespaces_without_end_share_one_part() {
    let now = Instant::now();
    let mut window = Window::new(HOUR_BYTES, Duration::from_hours(1));
    let evil: Tenant = "evil".into();
    assert!((0..TRIES).any(|_| !window.spend(&evil, 64, now)));
    for number in 0..5_000 {
        window.spend(&tenant_of("other", number), 64, now);
    }
    assert_eq!(window.tenants(), 1024 + 1);
    assert!(!window.spend(&evil, 64, now), "no share but its own");
    let part = HOUR_BYTES / (1024 + 2);
    let of_late = (0..TRIES).take_while(|number| window.spend(&tenant_of("late", *number), 64, now)).count() * 64;
    assert!(of_late <= HOUR_BYTES / 2 && of_late + 64 > part, "{of_late}");
    assert!(window.spend(&evil, LINE, now + Duration::from_hours(1)));
}
