//! Several kinds at once, several namespaces that are one tenant, and what happens to the daemon in the middle of it. The long forms.

use std::path::Path;

use futures_util::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::time::{Duration, Instant, sleep, timeout};
use tonic::Status;

use super::amazon::{
    FOREIGN_NAMES, FOREIGN_NAMES_DENIED_BY_AWS, LARGE_BATCHES, LARGE_PARAMETERS, PREFIXES, ROLES, SLOW_BATCHES, SLOW_LOGINS, THROTTLED,
    THROTTLED_PARAMETERS,
};
use super::calls::LARGE_CALLS;
use super::classes::{
    ABSENT_LITERALS, ALL_NAMES, ARGS_WITH_A_LONG_KEY, DIFFERING_IN_FRESH, EXPRESSIONS_IN_TURN, FORMATS_OF_WIDE_SECRETS,
    GLOBS_OVER_LONG_NAMES, GREEDY_TEMPLATES, KEYSTORES, LARGE_SECRETS, LONG_TEMPLATES, MANY_FILES, NESTED_ANCHORS, PATHS_OF_MANY_FOLDERS,
    TOO_MANY_NAMES,
};
use super::flood::{Flood, Told, patiently};
use super::kind::{Kind, together};
use super::meter::Meter;
use super::node::{LARGE, Limits, MIB, Node, SMALL};
use super::stores::{ANSWERS_THAT_ADD_UP, DEEP_VALUES, LEASES, OBJECTS_THAT_WAIT, RARE_CHARACTERS, SLOW_OBJECTS, TINY_ENTRIES};
use super::trial::{Trial, Verdict, alone};

const KINDS: [Kind; 33] = [
    ABSENT_LITERALS,
    ALL_NAMES,
    ANSWERS_THAT_ADD_UP,
    ARGS_WITH_A_LONG_KEY,
    DEEP_VALUES,
    DIFFERING_IN_FRESH,
    EXPRESSIONS_IN_TURN,
    FOREIGN_NAMES,
    FOREIGN_NAMES_DENIED_BY_AWS,
    FORMATS_OF_WIDE_SECRETS,
    GLOBS_OVER_LONG_NAMES,
    GREEDY_TEMPLATES,
    KEYSTORES,
    LARGE_BATCHES,
    LARGE_CALLS,
    LARGE_PARAMETERS,
    LARGE_SECRETS,
    LEASES,
    LONG_TEMPLATES,
    MANY_FILES,
    NESTED_ANCHORS,
    OBJECTS_THAT_WAIT,
    PATHS_OF_MANY_FOLDERS,
    PREFIXES,
    RARE_CHARACTERS,
    ROLES,
    SLOW_BATCHES,
    SLOW_LOGINS,
    SLOW_OBJECTS,
    THROTTLED,
    THROTTLED_PARAMETERS,
    TINY_ENTRIES,
    TOO_MANY_NAMES,
];

/// Of the long forms.
const LONG: Duration = Duration::from_secs(10);

/// All codes that any kind may have.
const ANY: &[&str] =
    &["BackendDenied", "BackendUnavailable", "InvalidRequest", "OK", "PolicyDenied", "SecretCorrupt", "SecretNotFound", "TooLarge"];

/// Prints what was seen of each, and fails if one does not hold.
fn assert_all(verdicts: &[Verdict]) {
    let broken: Vec<_> = verdicts.iter().filter(|verdict| !verdict.faults().is_empty()).collect();
    let stories: Vec<_> = broken.iter().map(|verdict| format!("{verdict}\n  {}", verdict.faults().join("\n  "))).collect();
    assert!(broken.is_empty(), "{} of {} do not hold:\n{}", broken.len(), verdicts.len(), stories.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: `make soak` runs it"]
async fn each_kind_for_long() {
    let mut verdicts = Vec::new();
    for kind in KINDS {
        verdicts.push(kind.try_with(LARGE, LONG, 1).await);
    }
    assert_all(&verdicts);
}

/// A tenant that may make eight namespaces gets more, but not all.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: `make soak` runs it"]
async fn eight_hostile_namespaces() {
    let mut verdicts = Vec::new();
    for kind in [ANSWERS_THAT_ADD_UP, EXPRESSIONS_IN_TURN, LARGE_SECRETS, SLOW_OBJECTS] {
        verdicts.push(Kind { at_once: 256, ..kind }.try_with(LARGE, LONG, 8).await);
    }
    assert_all(&verdicts);
}

/// Each kind in a namespace of its own.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: `make soak` runs it"]
async fn all_kinds_at_once() {
    let node = Node::new(LARGE);
    let calls = KINDS.iter().enumerate().map(|(number, kind)| (kind.calls)(&node, &format!("hostile-{number}"))).collect();
    let flood = Flood::new(256, together(calls));
    let trial = Trial { time: LONG, ..Trial::new(node, "files") };
    let attack = async move |socket: &Path, told: &Told| flood.run(socket, told).await;
    trial.run("all kinds at once", 256, ANY, attack).await.assert();
}

/// The configuration changes, is reloaded and changes back, again and again: the daemon forgets no share, turn or table.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_in_the_middle() {
    let node = Node::new(SMALL);
    let flood = Flood::new(LARGE_SECRETS.at_once, (LARGE_SECRETS.calls)(&node, "hostile"));
    let provider = node.house.serve();
    let (file, pid) = (node.house.path("keyferry.yaml"), Pid::from_raw(i32::try_from(provider.pid()).unwrap()).unwrap());
    let attack = async move |socket: &Path, told: &Told| {
        let first = std::fs::read_to_string(&file).unwrap();
        let reloading = async {
            for objects in [500, 511].into_iter().cycle() {
                std::fs::write(&file, first.replace("limits: {", &format!("limits: {{ objects: {objects},"))).unwrap();
                // It may have been killed by now.
                let _ = kill_process(pid, Signal::HUP);
                sleep(Duration::from_millis(250)).await;
            }
        };
        tokio::select! {
            () = flood.run(socket, told) => {}
            () = reloading => {}
        }
    };
    let trial = Trial::new(node, "files");
    let verdict = trial.run_on(provider, "a reload in the middle", LARGE_SECRETS.at_once, LARGE_SECRETS.may, attack).await;
    assert!(verdict.log.matches("the configuration is reloaded").count() > 2, "{}", verdict.log);
    verdict.assert();
}

// === A node starts ===

/// How many Pods a node starts with.
const STARTING: usize = 250;

/// How soon all of them have their volumes.
const STARTED: Duration = Duration::from_mins(1);

/// All Pods of one namespace need their volumes as soon as the daemon is there: this many files of this many bytes each, and nobody tries again.
async fn all_pods_start(limits: Limits, files: usize, bytes: usize) {
    let _alone = alone().await;
    let node = Node::new(limits);
    // More secrets than a Pod has files, so that not all Pods ask for the same.
    let secrets = 2 * files;
    (0..secrets).for_each(|number| node.house.set(&format!("honest/large-{number}"), &[("v", &vec![b'x'; bytes])]));
    let object = |number: usize| format!("- {{ secret: honest/large-{}, field: v, path: f{number} }}\n", number % secrets);
    let class = |pod: usize| json!({ "backend": "files", "objects": (pod..pod + files).map(object).collect::<String>() });
    let calls: Vec<_> = (0..STARTING).map(|pod| node.call("honest", pod, &class(pod))).collect();
    let provider = node.house.serve();
    let meter = Meter::start(provider.pid(), limits.memory, Vec::new());
    let client = provider.client().await;
    let began = Instant::now();
    let mounts = calls.into_iter().map(|call| {
        let mut client = client.clone();
        async move {
            let answer = client.mount(patiently(call)).await?.into_inner();
            Ok::<_, Status>(answer.files.iter().map(|file| file.contents.len()).sum::<usize>())
        }
    });
    let answers = timeout(2 * STARTED, join_all(mounts)).await;
    let (took, peak) = (began.elapsed(), meter.peak());
    let served = answers.iter().flatten().filter(|answer| answer.as_ref().is_ok_and(|all| *all == files * bytes)).count();
    let failure = answers.iter().flatten().find_map(|answer| answer.as_ref().err());
    let story =
        format!("{served} served in {:.1} s, at most {} MiB, killed: {:?}", took.as_secs_f64(), peak / MIB, meter.killed().is_some());
    assert_eq!(served, STARTING, "{story}; {failure:?}");
    assert!(took < STARTED && peak < limits.most(), "{story}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_and_fifty_pods_of_one_namespace_start_at_once() {
    all_pods_start(SMALL, 4, 100_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: `make soak` runs it"]
async fn two_hundred_and_fifty_large_pods_of_one_namespace_start_at_once() {
    all_pods_start(LARGE, 2, 700_000).await;
    all_pods_start(LARGE, 3, 1_000_000).await;
}
