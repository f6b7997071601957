//! On paused time, with a writer that does its work at once: so the test decides what a restart finds. `Threads` has the real writer.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;
use tokio::time::advance;

use super::*;
use crate::backend::stack::cache::{Cached, Refusals, Standby, Table};
use crate::backend::stack::circuits::Circuits;
use crate::backend::stack::limit::Limited;
use crate::backend::stack::sealed::{Sealed, SealedConfig};
use crate::backend::testing::fake::{Fake, Then, context, secret, text};
use crate::backend::{Backend, BackendError, CacheConfig, Fault, FetchContext};
use crate::clock::{Clock, ManualClock};
use crate::model::{Fetched, Source};
use crate::telemetry::Metrics;

const STALE: Duration = Duration::from_hours(24);
const TIMES: CacheConfig = CacheConfig { fresh: Duration::ZERO, stale: STALE };
const MIB: usize = 1 << 20;
const CANARY: &[u8] = b"canary-51d0c7";

mod bounds;
mod ledger;
mod starting;

/// A node with a disk. What is there outlives the daemon.
struct Node {
    folder: TempDir,
    clock: Arc<ManualClock>,
    free: Arc<AtomicU64>,
    bytes: usize,
    keys: Mutex<Vec<u8>>,
    inline: bool,
    /// The memory for what is known about the disk.
    memory: usize,
    refusals: Refusals,
}

/// The daemon.
struct Daemon {
    store: Arc<Fake>,
    backend: Arc<dyn Backend>,
    table: Arc<Table>,
    archive: Arc<Archive>,
}

impl Node {
    fn new() -> Self {
        let folder = crate::backend::testing::folder();
        fs::create_dir_all(folder.path().join("pods/uid-1")).unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp::from_second(1_700_000_000).unwrap()));
        let free = Arc::new(AtomicU64::new(1 << 40));
        let (memory, refusals) = (8 * MIB, Refusals::OfLogin);
        Self { folder, clock, free, bytes: 64 * MIB, keys: Mutex::new(vec![1]), inline: true, memory, refusals }
    }

    fn sealed(&self) -> Arc<Sealed> {
        let key = |byte: &u8| {
            let path = self.folder.path().join(format!("{byte}.key"));
            fs::write(&path, [*byte; 32]).unwrap();
            path
        };
        let keys = self.keys.lock().unwrap().iter().map(key).collect();
        Sealed::open(&SealedConfig { dir: self.folder.path().join("cache"), keys, bytes: self.bytes }).unwrap()
    }

    fn archive(&self) -> Arc<Archive> {
        self.archive_by(&(Arc::clone(&self.clock) as Arc<dyn Clock>))
    }

    fn archive_by(&self, clock: &Arc<dyn Clock>) -> Arc<Archive> {
        let (sealed, free) = (self.sealed(), Arc::clone(&self.free));
        let opening = Opening { sealed: &sealed, bytes: self.bytes, memory: self.memory, pods: self.folder.path().join("pods"), clock };
        Archive::with(&opening, Arc::new(move |_| Ok((free.load(Ordering::SeqCst), 1 << 41))), self.inline).unwrap()
    }

    /// The daemon starts with this entry of the configuration.
    fn start_as(&self, origin: &str) -> Daemon {
        self.start_with(self.archive(), origin)
    }

    fn start_with(&self, archive: Arc<Archive>, origin: &str) -> Daemon {
        let store = Fake::new();
        let (name, metrics): (BackendName, _) = ("bao".parse().unwrap(), Arc::new(Metrics::new()));
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let table =
            Table::with(16 * MIB, TIMES, metrics.cache("bao"), Arc::clone(&clock), (Some(archive.drawer(&name, origin)), self.refusals));
        let limited = Limited::new(Arc::clone(&store) as Arc<dyn Backend>, name.clone(), 64, Arc::clone(&metrics));
        let cached = Cached::new(Arc::new(limited), Arc::clone(&table), TIMES);
        let circuits = Circuits::new(&name, &[], MIB, &clock);
        let backend = Arc::new(Standby::new(Arc::new(cached), Arc::clone(&table), TIMES, circuits));
        Daemon { store, backend, table, archive }
    }

    fn start(&self) -> Daemon {
        self.start_as("one")
    }

    /// The daemon is killed and starts again: a new process has other clocks, and nothing in memory.
    fn restart(&self, daemon: Daemon) -> Daemon {
        drop(daemon);
        self.start()
    }

    fn files(&self, room: &str) -> BTreeSet<std::path::PathBuf> {
        let entries = fs::read_dir(self.folder.path().join("cache").join(room)).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    fn later(&self, seconds: i64) {
        self.clock.advance(seconds);
    }
}

impl Daemon {
    async fn ask_by(&self, pod: &str, secret: &SecretRef, fault: Option<Fault>) -> Result<Fetched, BackendError> {
        let then = fault.map_or(Then::Answer, Then::Fail);
        self.store.next([(Duration::ZERO, then)]);
        self.backend.fetch(secret, &context(pod, "web", Duration::from_mins(1))).await
    }

    async fn ask(&self, name: &str) -> Result<Fetched, BackendError> {
        self.ask_by("uid-1", &secret(name), None).await
    }

    async fn fail(&self, name: &str, fault: Fault) -> Fault {
        self.ask_by("uid-1", &secret(name), Some(fault)).await.unwrap_err().fault
    }

    /// The answer that is given while the store is out: the text, and its age in seconds.
    async fn stale(&self, name: &str) -> Option<(String, u64)> {
        self.stale_of(&secret(name)).await
    }

    async fn stale_of(&self, secret: &SecretRef) -> Option<(String, u64)> {
        let given = self.ask_by("uid-1", secret, Some(Fault::Unavailable)).await.ok()?;
        let Source::Stale { age, .. } = &given.source else { panic!("{given:?}") };
        Some((text(&given), age.as_secs()))
    }

    fn put(&self, name: &str, value: &[u8]) {
        self.store.put(name, &[("password", value)]);
    }
}

#[allow(clippy::unnecessary_wraps)] // as `Daemon::stale` says it
fn given(text: &str, age: u64) -> Option<(String, u64)> {
    Some((text.to_owned(), age))
}

#[tokio::test(start_paused = true)]
async fn a_restart_finds_the_last_good_answer_and_its_age() {
    let node = Node::new();
    let daemon = node.start();
    daemon.ask("kv/db").await.unwrap();
    node.later(100);
    let daemon = node.restart(daemon);
    assert_eq!(daemon.stale("kv/db").await, given("v1", 100));
    assert!(daemon.table.can_serve());
    node.later(100);
    assert_eq!(daemon.stale("kv/db").await, given("v1", 200), "from memory, from now on");
    assert_eq!(daemon.stale("kv/other").await, None);
    assert!(daemon.backend.fetch(&secret("kv/db"), &context("uid-2", "api", Duration::from_mins(1))).await.is_ok(), "asked for itself");
    let pinned = secret("kv/db").with(|asked| asked.version = Some(crate::model::Version::new("1")));
    assert_eq!(daemon.stale_of(&pinned).await, None, "another request");
    let daemon = node.restart(daemon);
    node.later(24 * 3600 - 201);
    assert_eq!(daemon.stale("kv/db").await, given("v1", 24 * 3600 - 1));
    node.later(1);
    assert_eq!(daemon.stale("kv/db").await, None, "past its bound");
    let daemon = node.restart(daemon);
    assert_eq!((daemon.stale("kv/db").await, node.files("answers").len()), (None, 1), "the other account's is left");
}

#[tokio::test(start_paused = true)]
async fn another_scope_or_entry_finds_nothing() {
    let node = Node::new();
    let daemon = node.start();
    daemon.put("own/db", CANARY);
    daemon.ask("kv/db").await.unwrap();
    daemon.ask("own/db").await.unwrap();
    drop(daemon);
    let daemon = node.start_as("two");
    assert_eq!((daemon.stale("kv/db").await, daemon.table.can_serve()), (None, false), "another address or login");
    drop(daemon);
    let daemon = node.start();
    daemon.store.is_out(Some(Fault::Unavailable));
    let ask = async |pod: &str, account: &str, name: &str| {
        daemon.backend.fetch(&secret(name), &context(pod, account, Duration::from_mins(1))).await.is_ok()
    };
    assert!(!ask("uid-1", "api", "kv/db").await && !ask("uid-2", "web", "own/db").await);
    assert!(ask("uid-2", "web", "kv/db").await && ask("uid-1", "web", "own/db").await);
    let bytes: Vec<u8> = node.files("answers").iter().flat_map(|file| fs::read(file).unwrap()).collect();
    assert!(!bytes.windows(CANARY.len()).any(|window| window == CANARY), "sealed");
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_back_is_gone_from_the_disk_before_the_answer() {
    for fault in [Fault::Denied, Fault::NotFound] {
        let node = Node::new();
        let daemon = node.start();
        daemon.ask("kv/db").await.unwrap();
        let daemon = node.restart(daemon);
        assert_eq!((daemon.fail("kv/db", fault).await, node.files("answers").len()), (fault, 0));
        assert_eq!(daemon.stale("kv/db").await, None);
        let daemon = node.restart(daemon);
        assert_eq!(daemon.stale("kv/db").await, None);
        daemon.ask("kv/db").await.unwrap();
        let daemon = node.restart(daemon);
        assert_eq!(daemon.stale("kv/db").await, given("v1", 0), "it is allowed again");
        daemon.store.next([(Duration::ZERO, Then::Leased)]);
        daemon.backend.fetch(&secret("kv/db"), &context("uid-1", "web", STALE)).await.unwrap();
        assert_eq!(node.files("answers").len(), 0, "from now on its answers are each Pod's own");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_login_is_remembered_until_one_succeeds() {
    let node = Node::new();
    let daemon = node.start();
    daemon.put("kv/other", b"o1");
    daemon.ask("kv/db").await.unwrap();
    daemon.ask("kv/other").await.unwrap();
    assert_eq!(daemon.fail("kv/db", Fault::Unauthenticated).await, Fault::Unauthenticated);
    assert_eq!((node.files("logins").len(), node.files("answers").len()), (1, 2), "nothing is thrown away");
    let daemon = node.restart(daemon);
    assert_eq!((daemon.stale("kv/db").await, daemon.stale("kv/other").await, daemon.table.can_serve()), (None, None, false));
    daemon.put("kv/third", b"t1");
    daemon.ask("kv/third").await.unwrap();
    assert_eq!((daemon.stale("kv/other").await, node.files("logins").len()), (given("o1", 0), 0));
    let daemon = node.restart(daemon);
    assert_eq!(daemon.stale("kv/db").await, given("v1", 0));
    // A login leaves no mark if no answer depends on it.
    let daemon = Daemon { store: Fake::new(), ..daemon };
    let role = secret("kv/db").with(|asked| asked.login = Login { role: Some("r".into()), ..Login::default() });
    assert!(daemon.ask_by("uid-1", &role, Some(Fault::Unauthenticated)).await.is_ok() || node.files("logins").is_empty());
}

#[tokio::test(start_paused = true)]
async fn while_the_clock_is_behind_nothing_is_given_from_the_disk() {
    let node = Node::new();
    let daemon = node.start();
    daemon.ask("kv/db").await.unwrap();
    node.later(-60);
    let daemon = node.restart(daemon);
    assert_eq!(daemon.stale("kv/db").await, given("v1", 0));
    node.later(-1);
    let daemon = node.restart(daemon);
    assert_eq!((daemon.stale("kv/db").await, daemon.table.can_serve()), (None, false));
    node.later(61);
    assert_eq!(daemon.stale("kv/db").await, given("v1", 0), "the clock is right again");
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_cannot_be_written_serves_nothing() {
    let node = Node::new();
    let daemon = node.start();
    daemon.put("kv/other", b"o1");
    daemon.ask("kv/db").await.unwrap();
    daemon.ask("kv/other").await.unwrap();
    let daemon = node.restart(daemon);
    // There is a file in the room's place: not even root can write there.
    let (room, away) = (node.folder.path().join("cache/answers"), node.folder.path().join("away"));
    fs::rename(&room, &away).unwrap();
    fs::write(&room, "").unwrap();
    assert_eq!(daemon.fail("kv/db", Fault::Denied).await, Fault::Denied);
    assert!(daemon.archive.fault().is_some());
    assert_eq!((daemon.stale("kv/other").await, daemon.stale("kv/db").await), (None, None));
    assert!(!daemon.table.can_serve());
    fs::remove_file(&room).unwrap();
    fs::rename(&away, &room).unwrap();
    daemon.archive.shared.wake();
    assert_eq!((daemon.archive.fault(), node.files("answers").len()), (None, 1), "what was to be removed is gone now");
    assert_eq!((daemon.stale("kv/other").await, daemon.stale("kv/db").await), (given("o1", 0), None));
    // The same for a daemon that starts with such a disk.
    fs::rename(node.folder.path().join("cache/logins"), &away).unwrap();
    fs::write(node.folder.path().join("cache/logins"), "").unwrap();
    drop(daemon);
    let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| node.archive().fault()));
    assert!(opened.is_err() || opened.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_not_written() {
    let node = Node::new();
    node.free.store(255 << 20, Ordering::SeqCst);
    let daemon = node.start();
    daemon.ask("kv/db").await.unwrap();
    assert!(node.files("answers").is_empty() && daemon.archive.fault().is_none());
    assert_eq!(daemon.stale("kv/db").await, given("v1", 0), "memory has it");
    node.free.store(1 << 40, Ordering::SeqCst);
    daemon.archive.shared.wake();
    assert_eq!(node.files("answers").len(), 1);
    node.free.store(0, Ordering::SeqCst);
    daemon.fail("kv/db", Fault::Denied).await;
    assert!(node.files("answers").is_empty(), "a removal needs no room");
}

#[tokio::test(start_paused = true)]
async fn it_is_written_when_it_changed_or_is_an_eighth_old() {
    let node = Node::new();
    let daemon = node.start();
    daemon.ask("kv/db").await.unwrap();
    let written = |node: &Node| fs::metadata(node.files("answers").first().unwrap()).unwrap().modified().unwrap();
    let first = written(&node);
    node.later(3 * 3600 - 1);
    daemon.ask("kv/db").await.unwrap();
    assert_eq!((written(&node), daemon.stale("kv/db").await), (first, given("v1", 0)));
    let daemon = node.restart(daemon);
    assert_eq!(daemon.stale("kv/db").await, given("v1", 3 * 3600 - 1), "the disk's time is older");
    node.later(1);
    daemon.ask("kv/db").await.unwrap();
    assert_ne!(written(&node), first);
    let daemon = node.restart(daemon);
    assert_eq!(daemon.stale("kv/db").await, given("v1", 0));
    daemon.put("kv/db", b"v2");
    daemon.ask("kv/db").await.unwrap();
    let daemon = node.restart(daemon);
    assert_eq!(daemon.stale("kv/db").await, given("v2", 0));
}

#[tokio::test(start_paused = true)]
async fn files_that_are_not_ours_are_nothing() {
    let node = Node::new();
    let daemon = node.start();
    daemon.put("kv/other", b"o1");
    daemon.ask("kv/db").await.unwrap();
    let first = node.files("answers").first().unwrap().clone();
    daemon.ask("kv/other").await.unwrap();
    let second = node.files("answers").into_iter().find(|file| *file != first).unwrap();
    let (one, other) = (fs::read(&first).unwrap(), fs::read(&second).unwrap());
    let daemon = node.restart(daemon);
    // Puts another answer in its place, after the daemon has looked.
    fs::write(&first, &other).unwrap();
    assert_eq!(daemon.stale("kv/db").await, None);
    assert_eq!(daemon.stale("kv/other").await, given("o1", 0));
    for bytes in [&b""[..], &one[..20], &[0; 4096]] {
        fs::write(&first, bytes).unwrap();
        std::os::unix::fs::symlink("/dev/zero", first.with_file_name("f".repeat(32))).unwrap();
        fs::write(first.with_file_name("notes.txt"), "mine").unwrap();
        let daemon = node.start();
        assert_eq!((daemon.stale("kv/db").await, daemon.stale("kv/other").await), (None, given("o1", 0)));
        fs::remove_file(first.with_file_name("f".repeat(32))).unwrap();
    }
    fs::write(&first, &one).unwrap();
    fs::remove_file(&second).unwrap();
    let daemon = node.start();
    fs::remove_file(&first).unwrap();
    assert_eq!((daemon.stale("kv/db").await, daemon.stale("kv/other").await), (None, None), "removed by hand");
}

#[tokio::test(start_paused = true)]
async fn a_new_key_takes_over() {
    let node = Node::new();
    let daemon = node.start();
    daemon.ask("kv/db").await.unwrap();
    *node.keys.lock().unwrap() = vec![2, 1];
    let daemon = node.restart(daemon);
    assert_eq!(daemon.stale("kv/db").await, given("v1", 0));
    node.later(3 * 3600);
    daemon.ask("kv/db").await.unwrap();
    assert_eq!(node.files("answers").len(), 1);
    *node.keys.lock().unwrap() = vec![2];
    let daemon = node.restart(daemon);
    assert_eq!(daemon.stale("kv/db").await, given("v1", 0));
    *node.keys.lock().unwrap() = vec![3];
    let daemon = node.restart(daemon);
    assert_eq!(daemon.stale("kv/db").await, None);
}

#[tokio::test(start_paused = true)]
async fn who_fills_the_disk_loses_its_own_oldest() {
    let mut node = Node::new();
    node.bytes = MIB;
    let daemon = node.start();
    daemon.ask("kv/db").await.unwrap();
    let large = vec![b'x'; 30_000];
    for n in 0..100 {
        let name = format!("kv/large{n}");
        daemon.put(&name, &large);
        let mut cx = context("uid-9", "evil", STALE);
        cx.pod = Arc::new(PodIdentity { namespace: "evil".into(), ..(*cx.pod).clone() });
        daemon.backend.fetch(&secret(&name), &cx).await.unwrap();
        assert!(daemon.archive.shared.lock().index.weight_in_all() <= MIB);
    }
    let bytes: u64 = node.files("answers").iter().map(|file| fs::metadata(file).unwrap().len().next_multiple_of(4096)).sum();
    assert!((800_000..=MIB as u64).contains(&bytes), "{bytes}");
    let daemon = node.restart(daemon);
    assert_eq!(daemon.stale("kv/db").await, given("v1", 0), "the other tenant's");
    // Tiny answers to long requests fill the index, but only their tenant's share of it.
    for n in 0..300 {
        let name = format!("kv/{}{n}", "n".repeat(400));
        daemon.put(&name, b"v");
        let mut cx = context("uid-9", "evil", STALE);
        cx.pod = Arc::new(PodIdentity { namespace: "evil".into(), ..(*cx.pod).clone() });
        daemon.backend.fetch(&secret(&name), &cx).await.unwrap();
    }
    assert!(node.files("answers").len() <= 256);
    assert_eq!(daemon.stale("kv/db").await, given("v1", 0));
}

#[tokio::test(start_paused = true)]
async fn a_wipe_is_seen_before_anything_is_given() {
    let node = Node::new();
    let daemon = node.start();
    for name in ["kv/shop/db", "kv/shop/api", "kv/bank/db"] {
        daemon.put(name, name.as_bytes());
        daemon.ask(name).await.unwrap();
    }
    assert_eq!(daemon.stale("kv/shop/db").await, given("kv/shop/db", 0));
    let (sealed, now) = (node.sealed(), || node.clock.now());
    assert_eq!(list(&sealed).unwrap().0.len(), 3);
    assert_eq!(wipe(&sealed, &Target::Backend("bao".parse().unwrap(), "kv/shop/".into()), now()).unwrap(), 2);
    for name in ["kv/shop/db", "kv/shop/api"] {
        assert_eq!(daemon.stale(name).await, None, "from memory neither: {name}");
    }
    assert_eq!(daemon.stale("kv/bank/db").await, given("kv/bank/db", 0));
    node.later(1);
    daemon.ask("kv/shop/db").await.unwrap();
    assert_eq!(daemon.stale("kv/shop/db").await, given("kv/shop/db", 0), "what the store said since");
    let daemon = node.restart(daemon);
    assert_eq!((daemon.stale("kv/shop/db").await, daemon.stale("kv/shop/api").await), (given("kv/shop/db", 0), None));
    // If somebody puts the files back, the wiped answers are still wiped.
    let kept: Vec<_> = node.files("answers").into_iter().map(|file| (fs::read(&file).unwrap(), file)).collect();
    assert_eq!(wipe(&sealed, &Target::Backend("files".parse().unwrap(), String::new()), now()).unwrap(), 0);
    assert_eq!(wipe(&sealed, &Target::All, now()).unwrap(), 2);
    for (bytes, file) in &kept {
        fs::write(file, bytes).unwrap();
    }
    assert_eq!(daemon.stale("kv/bank/db").await, None);
    let daemon = node.restart(daemon);
    assert_eq!((daemon.stale("kv/bank/db").await, daemon.stale("kv/shop/db").await), (None, None));
    assert!(node.files("answers").is_empty(), "and they are removed");
}

/// The store gives the same answer again after a wipe: it is written, although the disk had it a moment ago.
#[tokio::test(start_paused = true)]
async fn what_the_store_says_again_after_a_wipe_is_written_again() {
    let node = Node::new();
    let daemon = node.start();
    daemon.ask("kv/db").await.unwrap();
    node.later(1);
    wipe(&node.sealed(), &Target::All, node.clock.now()).unwrap();
    assert!(node.files("answers").is_empty());
    node.later(1);
    daemon.ask("kv/db").await.unwrap();
    assert_eq!(node.files("answers").len(), 1);
    let daemon = node.restart(daemon);
    assert_eq!(daemon.stale("kv/db").await, given("v1", 0));
}

#[tokio::test(start_paused = true)]
async fn a_review_and_a_pod_that_is_gone_reach_the_disk() {
    let node = Node::new();
    let daemon = node.start();
    daemon.put("own/db", b"own");
    for name in ["kv/db", "own/db"] {
        daemon.ask(name).await.unwrap();
    }
    let daemon = node.restart(daemon);
    daemon.put("own/db", b"own");
    assert_eq!(daemon.stale("own/db").await, given("own", 0));
    daemon.backend.forget("uid-1", Instant::now() + STALE).await;
    assert_eq!((daemon.stale("own/db").await, node.files("answers").len()), (None, 1));
    daemon.ask("own/db").await.unwrap();
    fs::create_dir(node.folder.path().join("pods/uid-7")).unwrap();
    fs::remove_dir(node.folder.path().join("pods/uid-1")).unwrap();
    let daemon = node.restart(daemon);
    assert_eq!((daemon.stale("own/db").await, node.files("answers").len()), (None, 1), "it went while the daemon was down");
    daemon.archive.wait(daemon.table.review(MIB, TIMES, &|pod, secrets| vec![&*pod.service_account != "web"; secrets.len()]));
    assert_eq!((daemon.stale("kv/db").await, node.files("answers").len()), (None, 0));
    // A shorter limit, and then the former one again.
    daemon.ask("kv/db").await.unwrap();
    let allow = |_: &Arc<PodIdentity>, all: &[&SecretRef]| vec![true; all.len()];
    let hour = CacheConfig { stale: Duration::from_hours(1), ..TIMES };
    daemon.table.review(MIB, hour, &allow);
    daemon.table.review(MIB, TIMES, &allow);
    tokio::time::sleep(Duration::from_secs(3_670)).await;
    assert_eq!(daemon.stale("kv/db").await, None);
}

#[tokio::test(start_paused = true)]
async fn memory_lets_go_of_what_nobody_asks_for() {
    let node = Node::new();
    let daemon = node.start();
    let held = Arc::downgrade(&daemon.ask("kv/db").await.unwrap().secret);
    daemon.store.given.lock().unwrap().clear();
    tokio::time::sleep(Duration::from_mins(9)).await;
    assert!(held.upgrade().is_some());
    tokio::time::sleep(Duration::from_mins(3)).await;
    assert!(held.upgrade().is_none() && daemon.table.weight() == 0);
    assert_eq!(daemon.stale("kv/db").await, given("v1", 720), "the disk has it");
    assert!(daemon.table.weight() > 0);
    // What the disk does not have stays in memory.
    node.free.store(0, Ordering::SeqCst);
    daemon.put("kv/other", b"o1");
    daemon.ask("kv/other").await.unwrap();
    tokio::time::sleep(Duration::from_mins(30)).await;
    assert_eq!(daemon.stale("kv/other").await, given("o1", 1800));
    advance(STALE).await;
}

/// With the thread, and a disk that does not answer: the denied mount waits as long as it can, and nothing is given from the disk.
#[tokio::test]
async fn a_disk_that_hangs_keeps_a_denied_mount_waiting_and_serves_nothing() {
    let mut node = Node::new();
    node.inline = false;
    let daemon = node.start();
    daemon.put("kv/other", b"o1");
    daemon.ask("kv/db").await.unwrap();
    daemon.ask("kv/other").await.unwrap();
    daemon.archive.flush(Instant::now() + PATIENCE).await;
    assert_eq!(node.files("answers").len(), 2);
    let daemon = node.restart(daemon);
    daemon.archive.complete().await;
    let shared = Arc::clone(&daemon.archive.shared);
    let stall = shared.stall.lock();
    let cx = FetchContext { deadline: Instant::now() + Duration::from_secs(1), ..context("uid-1", "web", STALE) };
    daemon.store.next([(Duration::ZERO, Then::Fail(Fault::Denied))]);
    let began = Instant::now();
    assert_eq!(daemon.backend.fetch(&secret("kv/db"), &cx).await.unwrap_err().fault, Fault::Denied);
    assert!((600..1_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert_eq!((daemon.archive.fault().as_deref(), node.files("answers").len()), (Some("the disk does not answer"), 2));
    assert_eq!(daemon.stale("kv/other").await, None);
    drop(stall);
    let until = Instant::now() + Duration::from_secs(20);
    while daemon.archive.fault().is_some() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let other = daemon.stale("kv/other").await.map(|(text, _)| text);
    assert_eq!((other.as_deref(), daemon.stale("kv/db").await), (Some("o1"), None));
    assert_eq!(node.files("answers").len(), 1);
}

/// While the disk hangs, one tenant's answers and refusals pile up nothing, however often they come.
#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_makes_nothing_large() {
    let node = Node::new();
    let archive = node.archive();
    let drawer = archive.drawer(&"bao".parse().unwrap(), "one");
    let mut state = archive.shared.lock();
    let cx = context("uid-1", "web", STALE);
    for n in 0..20_000 {
        let login = Login { role: Some(n.to_string()), ..Login::default() };
        let asked = Asked { scope: Scope::Account(cx.pod.account()), secret: secret("kv/db").with(|asked| asked.login = login.clone()) };
        let value =
            Arc::new(crate::model::Secret { fields: std::collections::BTreeMap::new(), response: None, version: None, lease: None });
        let (since, pod, by) = (Since::now(node.clock.now()), Arc::clone(&cx.pod), "bao".parse().unwrap());
        let (id, origin): (_, Arc<str>) = (drawer.id(&asked), "one".into());
        let behind = Id::of_login(&"bao".parse().unwrap(), "one", &asked.scope, &login);
        state.index.put(id, Answer { asked, secret: value, by, since, bound: STALE, pod }, &origin, None);
        state.index.shut(behind);
        state.index.remove(id);
    }
    let index = &state.index;
    assert!(index.unlinks.is_empty() && index.marks.len() < 100, "{} and {}", index.unlinks.len(), index.marks.len());
    assert_eq!((index.all().count(), index.is_waiting()), (0, false));
}

/// How long ten secrets take from the disk, and how much memory the index of 10,000 answers uses: `cargo test -- --nocapture --ignored` shows it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn measures() {
    let mut node = Node::new();
    node.inline = false;
    let rss = || {
        let status = fs::read_to_string(Path::new("/proc/self/status")).unwrap();
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().trim().to_owned()
    };
    let daemon = node.start();
    let name = |n: usize| format!("kv/data/shop/secret-{n}");
    for n in 0..10_000 {
        daemon.put(&name(n), &[b'x'; 1024]);
    }
    let store = rss();
    for n in 0..10_000 {
        daemon.backend.fetch(&secret(&name(n)), &context("uid-1", "web", STALE)).await.unwrap();
        daemon.store.given.lock().unwrap().clear();
        if n % 2_000 == 0 {
            daemon.archive.flush(Instant::now() + Duration::from_mins(2)).await;
        }
    }
    daemon.archive.flush(Instant::now() + Duration::from_mins(2)).await;
    println!("{} files; {store} with the store alone, {} with all answers in memory", node.files("answers").len(), rss());
    drop(daemon);
    let before = rss();
    let began = Instant::now();
    let daemon = node.start();
    println!("started in {:?}", began.elapsed());
    daemon.archive.complete().await;
    println!(
        "restarted in {:?}: {before} before, {} after; the index weighs {}",
        began.elapsed(),
        rss(),
        daemon.archive.shared.lock().index.weight_in_all()
    );
    daemon.store.is_out(Some(Fault::Down));
    let _ = daemon.stale("kv/data/shop/secret-0").await;
    for round in 1..6 {
        let names: Vec<_> = (0..10).map(|n| format!("kv/data/shop/secret-{}", round * 100 + n)).collect();
        let mut took = Vec::new();
        for _ in 0..2 {
            let began = Instant::now();
            let all = names.iter().map(|name| daemon.stale(name));
            assert!(futures_util::future::join_all(all).await.iter().all(Option::is_some));
            took.push(began.elapsed());
        }
        println!("ten secrets from the disk: {:?}, again from memory: {:?}", took[0], took[1]);
    }
}
