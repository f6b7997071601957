//! What the first members of failovers denied, besides the answers: it waits for the disk, and delays nothing else.

use super::*;
use crate::backend::stack::cache::archive::{Denied, Section};
use crate::model::{BackendName, Tenant};

fn asked(scope: &Scope, name: &str) -> Asked {
    Asked { scope: scope.clone(), secret: secret(name) }
}

fn deny(section: &Section, name: &str, pod: Option<&str>) -> u64 {
    let pod: Option<Arc<str>> = pod.map(Arc::from);
    let scope = pod.clone().map_or(Scope::Node, Scope::Pod);
    section.denied(&Tenant::from("shop"), Denied::of(&asked(&scope, name), None), pod.as_ref())
}

fn both(archive: &Arc<Archive>) -> Section {
    archive.denials(&"both".parse::<BackendName>().unwrap())
}

#[tokio::test]
async fn a_denial_waits_for_the_disk_and_a_second_one_of_the_same_does_too() {
    let mut node = Node::new();
    node.inline = false;
    let archive = node.archive();
    archive.complete().await;
    let (section, shared) = (both(&archive), Arc::clone(&archive.shared));
    let stall = shared.stall.lock();
    let first = deny(&section, "kv/db", None);
    // Until the writer has taken it.
    while shared.lock().ledger.has_changes() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let second = deny(&section, "kv/db", None);
    for ticket in [first, second, section.ticket()] {
        assert!(!shared.wait(ticket, Duration::from_millis(50)), "the disk has not got it");
    }
    drop(stall);
    for ticket in [first, second] {
        archive.settled(ticket, Instant::now() + PATIENCE).await;
        assert_eq!((node.files("denials").len(), archive.fault()), (1, None));
    }
}

#[tokio::test]
async fn a_denial_that_cannot_be_written_holds_up_no_removal() {
    let node = Node::new();
    let daemon = node.start();
    daemon.ask("kv/db").await.unwrap();
    assert_eq!(node.files("answers").len(), 1);
    let folder = node.folder.path().join("cache/denials");
    fs::write(&folder, "in the folder's place").unwrap();
    let _ = deny(&both(&daemon.archive), "kv/other", None);
    assert!(daemon.archive.fault().is_some(), "it is known");
    assert_eq!(daemon.fail("kv/db", Fault::Denied).await, Fault::Denied);
    assert_eq!(node.files("answers").len(), 0, "what another was denied is gone from the disk");
    fs::remove_file(&folder).unwrap();
    daemon.archive.shared.wake();
    assert_eq!((daemon.archive.fault(), node.files("denials").len()), (None, 1), "and the denial is written once it can be");
}

#[tokio::test]
async fn what_one_pod_was_denied_goes_with_the_pod() {
    let node = Node::new();
    let pods = node.folder.path().join("pods");
    for pod in ["uid-1", "uid-2"] {
        fs::create_dir_all(pods.join(pod)).unwrap();
    }
    let archive = node.archive();
    for pod in ["uid-1", "uid-2"] {
        deny(&both(&archive), "kv/db", Some(pod));
    }
    let left = |archive: &Arc<Archive>| both(archive).left().denied.len();
    archive.shared.sweep();
    assert_eq!(left(&archive), 2);
    fs::remove_dir(pods.join("uid-2")).unwrap();
    archive.shared.sweep();
    archive.shared.wake();
    assert_eq!(left(&archive), 1);
    drop(archive);
    fs::remove_dir(pods.join("uid-1")).unwrap();
    assert_eq!(left(&node.archive()), 1, "kubelet's folder is empty: nobody can say who is gone");
    fs::create_dir(pods.join("uid-3")).unwrap();
    assert_eq!((left(&node.archive()), node.files("denials").len()), (0, 0));
}
