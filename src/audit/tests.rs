use std::sync::{Mutex, mpsc};

use super::*;
use crate::model::{Code, PodClaims, RequestId, SecretRef, Version};

mod alerts;
mod config;
mod share;
mod size;

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn lines(&self) -> Vec<serde_json::Value> {
        let bytes = self.0.lock().unwrap();
        str::from_utf8(&bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

struct Full;

impl Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn event(second: i64, version: &str) -> Event {
    let claims = PodClaims { namespace: "shop".into(), name: "web-0".into(), uid: "u-1".into(), service_account: "web".into() };
    let secret = SecretRef::read("files".parse().unwrap(), "shop/db".parse().unwrap());
    Event {
        time: jiff::Timestamp::from_second(second).unwrap(),
        event: "mount",
        request: RequestId::new(7),
        outcome: Outcome::Delivered,
        code: None,
        error: None,
        provider: "keyferry".into(),
        pod: Some(Arc::new(claims)),
        verified: true,
        class: Some("shop".into()),
        target: None,
        milliseconds: 1.5,
        objects: vec![ObjectEvent {
            object: 1,
            secret,
            others: Vec::new(),
            field: Some("password".parse().unwrap()),
            file: Some("db/password".parse().unwrap()),
            files: Files::default(),
            version: Some(Version::new(version)),
            outcome: Outcome::Delivered,
            rule: Some(2),
            source: Some("store"),
            by: None,
            age: Age::default(),
        }],
        gist: None,
        more: 0,
    }
}

#[tokio::test]
async fn a_line_has_who_what_and_how_it_went() {
    let written = Shared::default();
    let log = AuditLog::start(Box::new(written.clone()), false, Arc::default()).unwrap();
    log.record(event(0, "3")).await.unwrap();
    assert!(log.flush(Duration::from_secs(10)).await);
    insta::assert_snapshot!(serde_json::to_string_pretty(&written.lines()[0]).unwrap(), @r#"
    {
      "v": 1,
      "time": "1970-01-01T00:00:00Z",
      "event": "mount",
      "request": "0000000000000007",
      "outcome": "delivered",
      "provider": "keyferry",
      "namespace": "shop",
      "pod": "web-0",
      "uid": "u-1",
      "serviceAccount": "web",
      "verified": true,
      "class": "shop",
      "milliseconds": 1.5,
      "objects": [
        {
          "object": 1,
          "backend": "files",
          "secret": "shop/db",
          "field": "password",
          "file": "db/password",
          "version": "3",
          "outcome": "delivered",
          "rule": 2,
          "source": "store"
        }
      ]
    }
    "#);
}

#[tokio::test]
async fn unchanged_repeats_are_counted_and_changes_are_written_at_once() {
    let written = Shared::default();
    let log = AuditLog::start(Box::new(written.clone()), false, Arc::default()).unwrap();
    for minute in 0..5 {
        log.record(event(minute * 60, "3")).await.unwrap();
    }
    let mut failed = event(300, "3");
    (failed.outcome, failed.code) = (Outcome::Failed, Some(Code::BackendUnavailable));
    log.record(failed).await.unwrap();
    log.record(event(360, "4")).await.unwrap();
    log.record(event(420, "4")).await.unwrap();
    assert!(log.flush(Duration::from_secs(10)).await);
    let shown: Vec<_> = written
        .lines()
        .iter()
        .map(|line| format!("{} {} repeats={}", line["time"].as_str().unwrap(), line["outcome"].as_str().unwrap(), line["repeats"]))
        .collect();
    insta::assert_snapshot!(shown.join("\n"), @"
    1970-01-01T00:00:00Z delivered repeats=null
    1970-01-01T00:04:00Z delivered repeats=4
    1970-01-01T00:05:00Z failed repeats=null
    1970-01-01T00:06:00Z delivered repeats=null
    1970-01-01T00:07:00Z delivered repeats=1
    ");
}

/// A mount that repeats an earlier one is not a repeat if another one waits to be written between them.
#[tokio::test]
async fn no_mount_is_counted_before_one_of_its_namespace_that_waits() {
    let ((open, gate), written) = (mpsc::channel(), Shared::default());
    let log = AuditLog::start(Box::new(Stalled(gate, written.clone())), false, Arc::default()).unwrap();
    open.send(()).unwrap();
    log.record(event(0, "3")).await.unwrap();
    while log.room.used() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    log.record(event(60, "3")).await.unwrap();
    assert_eq!(log.room.used(), 0, "a repeat is counted at once");
    for (second, version) in [(120, "4"), (180, "3"), (240, "3")] {
        log.record(event(second, version)).await.unwrap();
    }
    assert!(log.room.used() > 0);
    drop(open);
    assert!(log.flush(Duration::from_secs(10)).await);
    let shown: Vec<_> = written
        .lines()
        .iter()
        .map(|line| format!("{} {} repeats={}", line["time"].as_str().unwrap(), line["objects"][0]["version"], line["repeats"]))
        .collect();
    insta::assert_snapshot!(shown.join("\n"), @r#"
    1970-01-01T00:00:00Z "3" repeats=null
    1970-01-01T00:01:00Z null repeats=1
    1970-01-01T00:02:00Z "4" repeats=null
    1970-01-01T00:03:00Z "3" repeats=null
    1970-01-01T00:04:00Z null repeats=1
    "#);
}

#[tokio::test]
async fn a_count_says_whose_it_is_and_which_line_has_the_rest() {
    let written = Shared::default();
    let log = AuditLog::start(Box::new(written.clone()), false, Arc::default()).unwrap();
    for (request, version) in [(1, "3"), (2, "3"), (3, "3"), (4, "4"), (5, "4")] {
        let mut mount = event(request * 60, version);
        mount.request = RequestId::new(request.unsigned_abs());
        log.record(mount).await.unwrap();
    }
    assert!(log.flush(Duration::from_secs(10)).await);
    let lines = written.lines();
    assert_eq!(lines.len(), 4);
    insta::assert_snapshot!(serde_json::to_string_pretty(&lines[1]).unwrap(), @r#"
    {
      "v": 1,
      "time": "1970-01-01T00:03:00Z",
      "event": "mount",
      "request": "0000000000000003",
      "outcome": "delivered",
      "provider": "keyferry",
      "namespace": "shop",
      "pod": "web-0",
      "uid": "u-1",
      "serviceAccount": "web",
      "class": "shop",
      "verified": true,
      "milliseconds": 1.5,
      "objects": [],
      "repeats": 2,
      "repeatOf": "0000000000000001"
    }
    "#);
    insta::assert_snapshot!(serde_json::to_string_pretty(&lines[3]).unwrap(), @r#"
    {
      "v": 1,
      "time": "1970-01-01T00:05:00Z",
      "event": "mount",
      "request": "0000000000000005",
      "outcome": "delivered",
      "namespace": "shop",
      "verified": true,
      "milliseconds": 1.5,
      "objects": [],
      "repeats": 1,
      "repeatOf": "0000000000000004"
    }
    "#);
}

#[tokio::test]
async fn an_unchanged_volume_shows_a_sign_of_life_each_hour() {
    let written = Shared::default();
    let log = AuditLog::start(Box::new(written.clone()), false, Arc::default()).unwrap();
    for minute in 0..=120 {
        log.record(event(minute * 60, "3")).await.unwrap();
    }
    assert!(log.flush(Duration::from_secs(10)).await);
    assert_eq!(written.lines().iter().map(|line| line["repeats"].as_u64()).collect::<Vec<_>>(), [None, Some(60), Some(60)]);
}

#[tokio::test]
async fn fail_closed_refuses_the_mount_when_the_line_cannot_be_written() {
    let log = AuditLog::start(Box::new(Full), true, Arc::default()).unwrap();
    insta::assert_snapshot!(log.record(event(0, "3")).await.unwrap_err(), @"the audit line could not be written, and audit.failClosed is set: no storage space (free space on the disk, or repair the file that audit.file names; mounts then go on by themselves)");
    let lenient = AuditLog::start(Box::new(Full), false, Arc::default()).unwrap();
    assert_eq!(lenient.record(event(0, "3")).await, Ok(()));
}

#[tokio::test]
async fn a_pipe_that_nobody_reads_is_no_wait() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
    let refused = AuditLog::open(&AuditConfig { file: Some(pipe), ..AuditConfig::default() }, Arc::default()).unwrap_err();
    insta::assert_snapshot!(refused, @"nobody reads this pipe (start its reader first, or name a file)");
}

/// A mount of its own volume.
fn mount_of(namespace: &str, volume: usize, second: i64) -> Event {
    let mut mount = event(second, "3");
    Arc::make_mut(mount.pod.as_mut().unwrap()).namespace = namespace.to_owned();
    mount.target = Some(format!("/pods/{volume}").into());
    mount
}

/// A writer that takes a line only when a test allows it.
struct Stalled(mpsc::Receiver<()>, Shared);

impl Write for Stalled {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Until the sender is gone.
        let _ = self.0.recv();
        self.1.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
