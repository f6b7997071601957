//! What a person reads, and the message if nobody answers.

use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value as Json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::*;
use crate::app::status::*;

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn ago(seconds: i64) -> Timestamp {
    now() - SignedDuration::from_secs(seconds)
}

fn fine() -> Report {
    let backend = |name: &str| BackendReport { name: name.into(), healthy: true, error: None, last_fault: None, leases: None };
    let group = GroupReport {
        namespace: "shop".into(),
        class: "db".into(),
        state: "current".into(),
        stale: None,
        code: None,
        volumes: 12,
        since: ago(7_300),
        delivered: Some(ago(60)),
        pods: Vec::new(),
    };
    Report {
        v: FORM,
        version: "0.1.0".into(),
        now: now(),
        started: ago(200_000),
        configuration: Some(ConfigurationReport {
            file: "/etc/keyferry/keyferry.yaml".into(),
            sha256: Some("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".into()),
            since: ago(3_600),
            fault: None,
        }),
        problems: Vec::new(),
        backends: vec![backend("bao"), backend("files")],
        volumes: VolumesReport { current: 12, failing: 0, stale: 0, groups: vec![group], more: 0 },
        pods_without_volume: PodsReport { looked: Some(ago(70)), ..PodsReport::default() },
        memory: vec![
            PotReport { pot: "calls".into(), used: 0, limit: 32 << 20 },
            PotReport { pot: "mounts".into(), used: 4_300, limit: 96 << 20 },
        ],
        waiting: vec![WaitReport { what: "place".into(), mounts: 0 }, WaitReport { what: "memory".into(), mounts: 3 }],
    }
}

/// A report in which everything is wrong.
fn broken() -> Report {
    let mut report = fine();
    let outage = "POST https://bao.bao.svc:8200/v1/auth/kubernetes/login: cannot connect: Connection refused (os error 111) (is the store up, and does a NetworkPolicy let this Pod reach it?)";
    report.problems = vec![format!("backend bao: {outage}"), "socket /run/keyferry.sock: is gone (restart the provider)".into()];
    report.configuration.as_mut().unwrap().fault =
        Some("/etc/keyferry/keyferry.yaml:3:1: polcy: is not a known key (did you mean `policy`?)".into());
    report.backends[1].healthy = true;
    report.backends[0] = BackendReport {
        name: "bao".into(),
        healthy: false,
        error: Some(outage.into()),
        last_fault: Some(FaultReport {
            fault: "unavailable".into(),
            operation: "fetch".into(),
            text: "the store could not be reached, or could not serve".into(),
            seconds_ago: 12,
        }),
        leases: Some(LeasesReport { kept: 7, failing: 2, next_end: Some(now() + SignedDuration::from_secs(1_000)) }),
    };
    let failing = GroupReport {
        namespace: "shop".into(),
        class: "a-class-with-a-rather-long-name-as-generated-ones-have-7f9c".into(),
        state: "failing".into(),
        stale: None,
        code: Some("BackendUnavailable".into()),
        volumes: 4,
        since: ago(900),
        delivered: Some(ago(960)),
        pods: vec!["web-5d8f7c9b64-2xkqp".into(), "web-5d8f7c9b64-8r7zt".into(), "web-5d8f7c9b64-lq2mn".into()],
    };
    let never = GroupReport {
        code: Some("PolicyDenied".into()),
        volumes: 1,
        delivered: None,
        class: String::new(),
        pods: vec!["x".into()],
        ..failing.clone()
    };
    let stale = GroupReport {
        state: "stale".into(),
        code: None,
        volumes: 2,
        stale: Some(now() - SignedDuration::from_hours(3)),
        pods: Vec::new(),
        ..report.volumes.groups[0].clone()
    };
    report.volumes =
        VolumesReport { current: 12, failing: 5, stale: 2, groups: vec![failing, never, stale, report.volumes.groups[0].clone()], more: 3 };
    let pod = |namespace: Option<&str>, name: Option<&str>| PodReport {
        uid: "0b5a2c1e-6a52-4c55-9b1e-9d2f6c0c7f31".into(),
        volume: "secrets".into(),
        namespace: namespace.map(Into::into),
        name: name.map(Into::into),
    };
    report.pods_without_volume.pods = vec![pod(Some("shop"), Some("web-0")), pod(None, None)];
    report.pods_without_volume.more = 1;
    report
}

#[test]
fn a_quiet_node_is_a_short_page() {
    insta::assert_snapshot!(text::show(&fine(), 100), @"
    keyferry 0.1.0, running for 2 days
    Configuration /etc/keyferry/keyferry.yaml, sha256 9f86d081884c, in force for 60 min

    Pods without their volume: none (70 s ago)

    Volumes: 0 failing, 12 current
      current   12  shop/db for 2 h

    Backends
      bao: ok
      files: ok

    Memory
      calls          0 B of    32 MiB
      mounts       4 KiB of    96 MiB
    Mounts that wait: place 0, memory 3
    ");
}

#[test]
fn what_is_wrong_comes_first_and_fits_the_page() {
    let shown = text::show(&broken(), 100);
    assert!(shown.lines().all(|line| line.chars().count() <= 100), "{shown}");
    insta::assert_snapshot!(shown, @"
    keyferry 0.1.0, running for 2 days
    Configuration /etc/keyferry/keyferry.yaml, sha256 9f86d081884c, in force for 60 min
      NOT CURRENT: /etc/keyferry/keyferry.yaml:3:1: polcy: is not a known key (did you mean `policy`?)

    Problems (2)
      backend bao: POST https://bao.bao.svc:8200/v1/auth/kubernetes/login: cannot connect: Connection
        refused (os error 111) (is the store up, and does a NetworkPolicy let this Pod reach it?)
      socket /run/keyferry.sock: is gone (restart the provider)

    Pods without their volume (70 s ago): delete each Pod, and the next one has it
      shop/web-0, volume secrets (kubectl delete pod -n shop web-0)
      uid 0b5a2c1e-6a52-4c55-9b1e-9d2f6c0c7f31, volume secrets
      ... and 1 more
      by uid: kubectl get pods -A -o custom-columns=:.metadata.namespace,:.metadata.name,:.metadata.uid

    Volumes: 5 failing, 2 stale, 12 current
      failing    4  shop/a-class-with-a-rather-long-name-as-generated-ones-have-7f9c for 15 min:
        BackendUnavailable, last delivered 16 min ago (Pods: web-5d8f7c9b64-2xkqp, web-5d8f7c9b64-8r7zt,
        web-5d8f7c9b64-lq2mn ...)
      failing    1  shop/(no name) for 15 min: PolicyDenied, never delivered (Pods: x)
      stale      2  shop/db for 2 h: a store is out, and the oldest answer is from 3 h ago
      current   12  shop/db for 2 h
      ... and 3 more classes

    Backends
      bao: FAILING: POST https://bao.bao.svc:8200/v1/auth/kubernetes/login: cannot connect: Connection
        refused (os error 111) (is the store up, and does a NetworkPolicy let this Pod reach it?)
        last fault 12 s ago: the store could not be reached, or could not serve (unavailable, fetch)
        leases: 7, 2 NOT RENEWED, the next ends in 16 min
      files: ok

    Memory
      calls          0 B of    32 MiB
      mounts       4 KiB of    96 MiB
    Mounts that wait: place 0, memory 3
    ");
}

#[test]
fn what_is_not_known_says_why() {
    let mut report = fine();
    report.pods_without_volume = PodsReport {
        looked: Some(ago(1)),
        unknown: Some("/var/lib/kubelet/pods: No such file or directory".into()),
        ..PodsReport::default()
    };
    report.volumes = VolumesReport::default();
    report.configuration = None;
    let shown = text::show(&report, 100);
    assert!(shown.contains("Pods without their volume: not known: /var/lib/kubelet/pods: No such"), "{shown}");
    assert!(shown.contains("Volumes: no Pod asked for one in the last 10 minutes"), "{shown}");
    report.pods_without_volume = PodsReport::default();
    assert!(text::show(&report, 100).contains("not known yet"));
}

#[test]
fn the_document_is_read_back_whole() {
    let document = serde_json::to_value(broken()).unwrap();
    assert_eq!(serde_json::from_value::<Report>(document.clone()).unwrap(), broken());
    // A newer daemon of the same form may say more.
    let mut more = document;
    more["audit"] = serde_json::json!({ "linesLost": 7 });
    assert_eq!(serde_json::from_value::<Report>(more).unwrap(), broken());
}

async fn refused(socket: &Path, folder: &Path) -> String {
    ask(socket).await.unwrap_err().to_string().replace(folder.to_str().unwrap(), "DIR")
}

#[tokio::test]
async fn where_nobody_answers_the_reason_is_told() {
    let folder = crate::folder::new();
    let socket = folder.path().join("status.sock");
    insta::assert_snapshot!(refused(&socket, folder.path()).await, @"DIR/status.sock: cannot connect: No such file or directory (os error 2) (is `keyferry serve` running here, and is this its stateDir? If it is, its log says why it could not make the socket)");
    drop(StdListener::bind(&socket).unwrap());
    insta::assert_snapshot!(refused(&socket, folder.path()).await, @"DIR/status.sock: cannot connect: Connection refused (os error 111) (no daemon listens there any more: its log says why it ended)");
    std::fs::remove_file(&socket).unwrap();
    std::fs::write(&socket, "").unwrap();
    insta::assert_snapshot!(refused(&socket, folder.path()).await, @"DIR/status.sock: cannot connect: Connection refused (os error 111) (no daemon listens there any more: its log says why it ended)");
}

#[tokio::test]
async fn an_answer_that_is_cut_or_anothers_is_told() {
    let folder = crate::folder::new();
    let socket = folder.path().join("status.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let answers: Vec<String> = [
        "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"v\": 1, \"vers".to_owned(),
        String::new(),
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 403 Forbidden\r\ncontent-length: 42\r\n\r\nuser id 1000 may not ask: (run it as root)".to_owned(),
        "220 mail.example ESMTP\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{\"v\": 2}".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{\"v\": 1}".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi".to_owned(),
    ]
    .into();
    let count = answers.len();
    let served = tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let mut told = Vec::new();
    for _ in 0..count {
        told.push(refused(&socket, folder.path()).await);
    }
    served.await.unwrap();
    insta::assert_snapshot!(told.join("\n"), @"
    DIR/status.sock: the answer was cut off (the daemon may have ended meanwhile: run the command again, and see its log)
    DIR/status.sock: the answer was cut off (the daemon may have ended meanwhile: run the command again, and see its log)
    DIR/status.sock: the answer cannot be understood: it is 404 Not Found (use the `keyferry` of the daemon's version, such as the one in its container)
    DIR/status.sock: user id 1000 may not ask: (run it as root)
    DIR/status.sock: the answer cannot be understood: it is not HTTP (use the `keyferry` of the daemon's version, such as the one in its container)
    DIR/status.sock: the answer cannot be understood: its form is 2, and this command reads form 1 (use the `keyferry` of the daemon's version, such as the one in its container)
    DIR/status.sock: the answer cannot be understood: missing field `version` (use the `keyferry` of the daemon's version, such as the one in its container)
    DIR/status.sock: the answer cannot be understood: it is not JSON (use the `keyferry` of the daemon's version, such as the one in its container)
    ");
}

#[test]
fn the_state_folder_is_found_in_a_configuration_with_faults() {
    let folder = crate::folder::new();
    let file = folder.path().join("keyferry.yaml");
    let found = |text: &str, dir: Option<&str>| {
        std::fs::write(&file, text).unwrap();
        let args = StatusArgs { config: Some(file.clone()), state_dir: dir.map(Into::into), shown: Shown::TEXT };
        state_dir(&args).map_err(|error| error.to_string().replace(folder.path().to_str().unwrap(), "DIR"))
    };
    assert_eq!(found("stateDir: /srv/state\npolcy: []\n", None), Ok("/srv/state".into()));
    assert_eq!(found("policy: []\n", None), Ok(STATE_DIR.into()));
    assert_eq!(found("stateDir: [broken", Some("/srv")), Ok("/srv".into()));
    insta::assert_snapshot!(found("stateDir: relative\n", None).unwrap_err(), @r#"DIR/keyferry.yaml:1:11: stateDir: "relative" is not an absolute path (start it with /) (or name the state folder: --state-dir DIR)"#);
    insta::assert_snapshot!(found("stateDir: [broken", None).unwrap_err(), @"DIR/keyferry.yaml:1:11: not valid YAML: unclosed bracket '[' (look there and just above for an open bracket or quote, a tab, uneven indentation, or a value that needs quotes) (or name the state folder: --state-dir DIR)");
}

/// Every key of a document, at any depth.
fn keys(value: &Json) -> Vec<String> {
    match value {
        Json::Object(entries) => entries.iter().flat_map(|(key, value)| [vec![key.clone()], keys(value)].concat()).collect(),
        Json::Array(items) => items.iter().flat_map(keys).collect(),
        Json::Bool(_) | Json::Null | Json::Number(_) | Json::String(_) => Vec::new(),
    }
}

#[test]
fn the_page_has_every_key_of_the_document() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/monitoring.md")).unwrap();
    let (_, section) = page.split_once("### As JSON\n").unwrap();
    let rows: Vec<&str> = section.lines().take_while(|line| !line.starts_with('#')).filter(|line| line.starts_with("| ")).collect();
    let names = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let mut report = broken();
    report.configuration.as_mut().unwrap().fault = Some("a fault".into());
    let known = keys(&serde_json::to_value(&report).unwrap());
    let shown: Vec<String> = rows.iter().flat_map(|row| names(row)).collect();
    assert!(known.len() > 40, "{known:?}");
    for key in &known {
        assert!(shown.contains(key), "docs/monitoring.md does not have the key {key}");
    }
    for key in rows.iter().flat_map(|row| names(row.split(" | ").next().unwrap())) {
        assert!(known.contains(&key), "docs/monitoring.md: the document has no key {key}");
    }
}
