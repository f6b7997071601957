//! What happens while the folder is read, and just after.

use std::thread;

use super::*;
use crate::backend::Origin;
use crate::backend::stack::lease::{Leased, Leases};
use crate::budget::Ceilings;

/// The reader waits while a test holds this.
#[derive(Debug)]
struct Gate {
    clock: Arc<ManualClock>,
    shut: Mutex<()>,
}

impl Clock for Gate {
    fn now(&self) -> Timestamp {
        if thread::current().name() == Some("answers") {
            drop(self.shut.lock());
        }
        self.clock.now()
    }
}

/// The store denies a request while the folder is still being read. In any order, the revoked answer is gone afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_back_while_the_folder_is_read_is_gone() {
    const MANY: usize = 60;
    let mut node = Node::new();
    node.inline = false;
    let daemon = node.start();
    let names: Vec<_> = (0..MANY).map(|n| format!("kv/{n}")).collect();
    for name in &names {
        daemon.put(name, CANARY);
        daemon.ask(name).await.unwrap();
    }
    daemon.archive.flush(Instant::now() + Duration::from_mins(1)).await;
    assert_eq!(node.files("answers").len(), MANY);
    drop(daemon);
    let gate = Arc::new(Gate { clock: Arc::clone(&node.clock), shut: Mutex::new(()) });
    let held = gate.shut.lock();
    let archive = node.archive_by(&(Arc::clone(&gate) as Arc<dyn Clock>));
    let daemon = node.start_with(archive, "one");
    daemon.store.is_out(Some(Fault::NotFound));
    let deny = async |name: &String| {
        let cx = context("uid-1", "web", Duration::from_secs(30));
        daemon.backend.fetch(&secret(name), &cx).await.unwrap_err().fault
    };
    let (early, late) = names.split_at(MANY / 2);
    let release = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!*daemon.archive.shared.complete.borrow());
        drop(held);
    };
    // The second half of the denials comes while the files are read.
    let deny_late = async {
        tokio::time::sleep(Duration::from_millis(301)).await;
        futures_util::future::join_all(late.iter().map(deny)).await
    };
    let (denied, (), denied_late) = tokio::join!(futures_util::future::join_all(early.iter().map(deny)), release, deny_late);
    assert!(denied.iter().chain(&denied_late).all(|fault| *fault == Fault::NotFound));
    daemon.archive.complete().await;
    assert_eq!((node.files("answers").len(), daemon.archive.fault()), (0, None));
    assert_eq!(daemon.archive.shared.lock().index.all().count(), 0);
    daemon.store.is_out(None);
    for name in &names {
        assert_eq!(daemon.stale(name).await, None, "{name}");
    }
}

/// A Pod went while the daemon was down. Its answers are removed: at the start, or as soon as kubelet's folder can be seen.
#[tokio::test(start_paused = true)]
async fn a_pod_that_went_while_the_daemon_was_down_takes_its_own_along() {
    let pods = |node: &Node| node.folder.path().join("pods");
    for is_seen_at_once in [true, false] {
        let node = Node::new();
        fs::create_dir(pods(&node).join("uid-2")).unwrap();
        let daemon = node.start();
        for (pod, name) in [("uid-1", "own/db"), ("uid-2", "own/db"), ("uid-1", "kv/db")] {
            daemon.put("own/db", CANARY);
            daemon.ask_by(pod, &secret(name), None).await.unwrap();
        }
        drop(daemon);
        assert_eq!(node.files("answers").len(), 3);
        fs::remove_dir(pods(&node).join("uid-1")).unwrap();
        if !is_seen_at_once {
            fs::remove_dir(pods(&node).join("uid-2")).unwrap();
        }
        let daemon = node.start();
        if !is_seen_at_once {
            assert_eq!(node.files("answers").len(), 3, "an empty folder says nothing: kubelet may be starting");
            daemon.archive.shared.sweep();
            daemon.archive.shared.wake();
            assert_eq!(node.files("answers").len(), 3);
            fs::create_dir(pods(&node).join("uid-2")).unwrap();
            daemon.archive.shared.sweep();
            daemon.archive.shared.wake();
        }
        assert_eq!(node.files("answers").len(), 2, "the other Pod's, and what the ServiceAccount shares");
        daemon.store.is_out(Some(Fault::Unavailable));
        let ask =
            async |pod: &str, name: &str| daemon.backend.fetch(&secret(name), &context(pod, "web", Duration::from_mins(1))).await.is_ok();
        assert!(!ask("uid-1", "own/db").await && ask("uid-2", "own/db").await && ask("uid-1", "kv/db").await);
    }
}

/// After a restart, nobody knows which requests return a lease. A mount with little time gets the kept answer all the same.
#[tokio::test(start_paused = true)]
async fn a_mount_with_little_time_is_given_what_the_disk_has() {
    let node = Node::new();
    let daemon = node.start();
    daemon.ask("kv/db").await.unwrap();
    let daemon = node.restart(daemon);
    let clock = Arc::clone(&node.clock) as Arc<dyn Clock>;
    let leases = Leases::open(Path::new("/nonexistent"), None, clock, Arc::new(Metrics::new()), &Ceilings::of(64 * MIB)).0;
    let top = Leased::new(Arc::clone(&daemon.backend), &"bao".parse().unwrap(), Origin::default(), leases);
    for seconds in [2, 6, 9, 60] {
        daemon.store.next([(Duration::from_hours(1), Then::Answer)]);
        let (began, limit) = (Instant::now(), Duration::from_secs(seconds));
        let given = Backend::fetch(&top, &secret("kv/db"), &context("uid-1", "web", limit)).await.unwrap();
        assert!(given.source.stale().is_some() && began.elapsed() < limit.min(Duration::from_secs(11)), "{:?}", began.elapsed());
    }
    // If nothing is kept, the mount waits for the store as long as it can.
    daemon.store.next([(Duration::from_hours(1), Then::Answer)]);
    let error = Backend::fetch(&top, &secret("kv/other"), &context("uid-1", "web", Duration::from_secs(6))).await.unwrap_err();
    assert_eq!(error.fault, Fault::TimedOut);
}

/// The age is known without reading the file.
#[tokio::test(start_paused = true)]
async fn the_age_of_an_answer_is_known_without_reading_it() {
    let node = Node::new();
    let daemon = node.start();
    daemon.ask("kv/db").await.unwrap();
    node.later(100);
    let daemon = node.restart(daemon);
    let file = node.files("answers").first().unwrap().clone();
    fs::rename(&file, node.folder.path().join("away")).unwrap();
    let cx = context("uid-1", "web", Duration::from_mins(1));
    let age = async |name: &str, cx: &FetchContext| daemon.backend.stale_age(&secret(name), cx).await.map(|age| age.as_secs());
    assert_eq!((age("kv/db", &cx).await, age("kv/other", &cx).await), (Some(100), None));
    assert!(daemon.backend.keeps(&secret("kv/db"), &cx) && !daemon.backend.keeps(&secret("kv/other"), &cx));
    let strict = FetchContext { max_stale: Some(Duration::from_secs(100)), ..cx.clone() };
    assert_eq!((age("kv/db", &strict).await, daemon.backend.keeps(&secret("kv/db"), &strict)), (None, false));
    fs::rename(node.folder.path().join("away"), &file).unwrap();
    assert_eq!(daemon.stale("kv/db").await, given("v1", 100));
    node.later(1);
    assert_eq!(age("kv/db", &cx).await, Some(101), "memory's");
    assert_eq!(daemon.fail("kv/db", Fault::Denied).await, Fault::Denied);
    assert_eq!((age("kv/db", &cx).await, daemon.backend.keeps(&secret("kv/db"), &cx)), (None, false));
}

/// The login is a part of each request, and all tenants have the same one.
#[tokio::test(start_paused = true)]
async fn one_tenants_refused_path_leaves_the_others_their_answers() {
    let mut node = Node::new();
    node.refusals = Refusals::OfRequest;
    let daemon = node.start();
    let of = |namespace: &str| {
        let mut cx = context("uid-1", "web", Duration::from_mins(1));
        cx.pod = Arc::new(PodIdentity { namespace: namespace.into(), ..(*cx.pod).clone() });
        cx
    };
    let ask = async |daemon: &Daemon, namespace: &str, name: &str, fault: Option<Fault>| {
        daemon.store.next([(Duration::ZERO, fault.map_or(Then::Answer, Then::Fail))]);
        daemon.backend.fetch(&secret(name), &of(namespace)).await.map(|given| given.source.stale().is_some()).map_err(|error| error.fault)
    };
    let [refused, out] = [Some(Fault::Unauthenticated), Some(Fault::Unavailable)];
    for name in ["node/a", "node/b", "node/c", "node/d"] {
        daemon.put(name, CANARY);
        assert_eq!(ask(&daemon, "bank", name, None).await, Ok(false));
    }
    for name in ["node/a", "node/x", "node/y"] {
        assert_eq!(ask(&daemon, "evil", name, refused).await, Err(Fault::Unauthenticated));
    }
    assert_eq!((node.files("answers").len(), node.files("logins").len()), (3, 0), "what was refused is gone from the disk, too");
    assert_eq!(ask(&daemon, "bank", "node/a", out).await, Err(Fault::Unavailable));
    assert_eq!(ask(&daemon, "bank", "node/b", out).await, Ok(true), "others' paths");
    let daemon = node.restart(daemon);
    assert_eq!(ask(&daemon, "bank", "node/b", out).await, Ok(true));
    assert_eq!(ask(&daemon, "bank", "node/a", out).await, Err(Fault::Unavailable));
    // A second tenant's other request is refused: so it is the login.
    assert_eq!(ask(&daemon, "evil", "node/x", refused).await, Err(Fault::Unauthenticated));
    assert_eq!(ask(&daemon, "shop", "node/c", refused).await, Err(Fault::Unauthenticated));
    assert_eq!((ask(&daemon, "bank", "node/b", out).await, node.files("logins").len()), (Err(Fault::Unavailable), 1));
    let daemon = node.restart(daemon);
    assert_eq!(ask(&daemon, "bank", "node/d", out).await, Err(Fault::Unavailable), "over a restart");
    // A store may look at the path before it looks at the credential.
    for fault in [Fault::NotFound, Fault::Denied] {
        assert_eq!(ask(&daemon, "evil", "node/none", Some(fault)).await, Err(fault));
        assert_eq!(ask(&daemon, "bank", "node/d", out).await, Err(Fault::Unavailable), "{fault:?} says nothing of the credential");
    }
    daemon.put("node/c", CANARY);
    assert_eq!(ask(&daemon, "shop", "node/c", None).await, Ok(false));
    assert_eq!(ask(&daemon, "bank", "node/b", out).await, Ok(true), "it is taken again");
    // A ServiceAccount's own login is another matter.
    daemon.put("kv/other", CANARY);
    assert_eq!(ask(&daemon, "bank", "kv/other", None).await, Ok(false));
    assert_eq!(ask(&daemon, "bank", "kv/db", refused).await, Err(Fault::Unauthenticated));
    assert_eq!(ask(&daemon, "bank", "kv/other", out).await, Err(Fault::Unavailable));
}
