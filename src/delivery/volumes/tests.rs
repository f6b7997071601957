use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::io::Errno;
use tempfile::TempDir;
use tokio::time::sleep;

use super::node::Target;
use super::*;
use crate::delivery::volume::{TargetError, open_target};

/// A node whose volumes are plain folders, and may hang. Its kubelet's folder is [`KUBELET`].
#[derive(Debug, Default)]
pub(in crate::delivery) struct FakeNode {
    volumes: Mutex<BTreeMap<String, TempDir>>,
    /// Mounted below others.
    below: Mutex<Vec<(String, TempDir)>>,
    hangs: Mutex<Option<Arc<Mutex<Receiver<()>>>>>,
    /// The lists of mounts that were read; this many next lists leave everything out.
    lists: AtomicUsize,
    blind: AtomicUsize,
    /// Devices of volumes that nobody opens.
    others: u64,
}

pub(in crate::delivery) const KUBELET: &str = "/kubelet";

/// Where a Pod's volume is.
pub(in crate::delivery) fn target(uid: &str, volume: &str) -> String {
    format!("{KUBELET}/pods/{uid}/volumes/kubernetes.io~csi/{volume}/mount")
}

impl FakeNode {
    /// Every volume called `slow` hangs from now on, until what this returns is dropped.
    pub(in crate::delivery) fn hang(&self) -> Sender<()> {
        let (release, held) = channel();
        *self.hangs.lock().unwrap() = Some(Arc::new(Mutex::new(held)));
        release
    }

    /// Mounts a volume, if it is not there.
    pub(in crate::delivery) fn mount(&self, target: &str) {
        self.volumes.lock().unwrap().entry(target.to_owned()).or_insert_with(|| TempDir::new().unwrap());
    }

    /// Mounts another volume over one that is there.
    pub(in crate::delivery) fn mount_over(&self, target: &str) {
        let below = self.volumes.lock().unwrap().insert(target.to_owned(), TempDir::new().unwrap()).unwrap();
        self.below.lock().unwrap().push((target.to_owned(), below));
    }

    /// Unmounts a volume; the one below it is visible again.
    pub(in crate::delivery) fn unmount(&self, target: &str) {
        let mut below = self.below.lock().unwrap();
        let next = below.iter().rposition(|(at, _)| at == target).map(|at| below.remove(at).1);
        let mut volumes = self.volumes.lock().unwrap();
        volumes.remove(target).unwrap();
        volumes.extend(next.map(|next| (target.to_owned(), next)));
    }

    pub(in crate::delivery) fn rename(&self, from: &str, to: &str) {
        let mut volumes = self.volumes.lock().unwrap();
        let volume = volumes.remove(from).unwrap();
        volumes.insert(to.to_owned(), volume);
    }

    /// The next so many lists of mounts are empty.
    pub(in crate::delivery) fn leave_out(&self, lists: usize) {
        self.blind.store(lists, Ordering::Relaxed);
    }

    pub(in crate::delivery) fn lists(&self) -> usize {
        self.lists.load(Ordering::Relaxed)
    }

    /// The data folder that is in force; `None` where the volume is empty.
    pub(in crate::delivery) fn in_force(&self, target: &str) -> Option<String> {
        let link = fs::read_link(self.volumes.lock().unwrap()[target].path().join("..data")).ok()?;
        link.into_os_string().into_string().ok()
    }

    /// When the volume's folder changed.
    pub(in crate::delivery) fn changed(&self, target: &str) -> std::time::SystemTime {
        fs::metadata(self.volumes.lock().unwrap()[target].path()).unwrap().modified().unwrap()
    }

    /// Files in all volumes.
    pub(in crate::delivery) fn files(&self) -> usize {
        let volumes = self.volumes.lock().unwrap();
        volumes.values().map(|volume| fs::read_dir(volume.path().join("..data")).map_or(0, Iterator::count)).sum()
    }
}

impl Node for FakeNode {
    fn open(&self, kubelet_dir: &Path, pod_uid: &str, target_path: &str) -> Result<OwnedFd, TargetError> {
        let hangs = self.hangs.lock().unwrap().clone().filter(|_| target_path.contains("/slow/"));
        if let Some(held) = hangs {
            // Until the sender is dropped: nothing is ever sent.
            held.lock().unwrap().recv().unwrap_or_default();
        }
        let volumes = self.volumes.lock().unwrap();
        let Some(volume) = volumes.get(target_path) else { return open_target(kubelet_dir, pod_uid, target_path) };
        Ok(fs::File::open(volume.path()).unwrap().into())
    }

    /// Each folder is a device of its own.
    fn id(&self, volume: BorrowedFd<'_>) -> Result<Id, Errno> {
        rustix::fs::fstat(volume).map(|stat| (stat.st_ino, stat.st_ino))
    }

    fn devices(&self) -> io::Result<HashSet<u64>> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        if self.blind.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            return Ok(HashSet::new());
        }
        let device = |volume: &TempDir| fs::metadata(volume.path()).unwrap().ino();
        let below = self.below.lock().unwrap();
        Ok(self.volumes.lock().unwrap().values().chain(below.iter().map(|(_, volume)| volume)).map(device).chain(0..self.others).collect())
    }

    fn targets(&self, _: &Path) -> io::Result<Vec<Target>> {
        let of = |target: &String| Target { pod_uid: target.split('/').nth(3).unwrap().to_owned(), target_path: target.clone() };
        Ok(self.volumes.lock().unwrap().keys().map(of).collect())
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(50)
}

fn late() -> Instant {
    Instant::now() + Duration::from_mins(1)
}

#[tokio::test]
async fn a_volume_is_one_mounts_at_a_time() {
    let volumes = Arc::new(Volumes::new(1 << 20));
    let shop = Tenant::from("shop");
    let first = volumes.turn(&shop, "/one", late()).await.unwrap();
    let second = tokio::spawn({
        let (volumes, shop) = (Arc::clone(&volumes), shop.clone());
        async move { volumes.turn(&shop, "/one", late()).await }
    });
    drop(volumes.turn(&shop, "/another", late()).await.unwrap());
    tokio::task::yield_now().await;
    assert!(!second.is_finished());
    assert!(volumes.turn(&shop, "/one", soon()).await.is_none(), "the wait has an end");
    drop(first);
    drop(second.await.unwrap().unwrap());
    drop(volumes.turn(&shop, "/one", late()).await.unwrap());
    drop(volumes.turn(&shop, "/third", late()).await.unwrap());
    assert_eq!(volumes.lines.lock().unwrap().len(), 1, "who is done is forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_takes_a_tenants_share_of_the_writers() {
    let volumes = Arc::new(Volumes::new(1 << 20));
    let (release, held) = channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let (evil, shop) = (Tenant::from("evil"), Tenant::from("shop"));
    for _ in 0..32 {
        let (volumes, evil, held) = (Arc::clone(&volumes), evil.clone(), Arc::clone(&held));
        tokio::spawn(async move { volumes.run(&evil, late(), move || held.lock().unwrap().recv().unwrap_or_default()).await });
    }
    while volumes.writers().waiting() < 24 {
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(volumes.writers().slots().of("evil"), WRITERS / 2);
    assert_eq!(volumes.run(&shop, late(), || 7).await, Ok(7));
    assert_eq!(volumes.run(&evil, soon(), || 7).await, Err(Unfinished::Late), "its own wait has an end");
    drop(release);
    while volumes.writers().slots().used() > 0 {
        sleep(Duration::from_millis(1)).await;
    }
}

const MIB: usize = 1024 * 1024;

/// Where nothing is mounted, or the devices below a number.
fn pages(bytes: usize, others: u64) -> (Arc<FakeNode>, Pages) {
    let node = Arc::new(FakeNode { others, ..FakeNode::default() });
    (Arc::clone(&node), Pages::new(bytes, node))
}

/// As a deliverer does. Returns whether there was room.
fn write(pages: &Pages, tenant: &str, id: Id, former: bool, size: usize) -> bool {
    pages.room(&tenant.into(), id, former, size).map(|room| pages.keep(id, room, true)).is_ok()
}

#[tokio::test]
async fn ten_thousand_volumes_of_one_tenant_are_its_share() {
    let (_, pages) = pages(64 * MIB, 30_000);
    let written = (0..10_000).filter(|n| write(&pages, "evil", (*n, *n), false, 1)).count();
    // Two pages each.
    assert_eq!((written, pages.volumes(), pages.shares().of("evil")), (4096, 4096, 8192));
    assert!(write(&pages, "shop", (20_000, 1), false, 1000));
}

#[tokio::test(start_paused = true)]
async fn the_list_of_mounts_is_read_once_a_second_at_most() {
    let (node, pages) = pages(MIB, 0);
    assert!(write(&pages, "shop", (1, 1), false, 60));
    assert_eq!(node.lists(), 0, "there is nothing to be gone");
    assert!(write(&pages, "shop", (2, 2), false, 60));
    assert_eq!((node.lists(), pages.volumes()), (2, 1), "the first is gone, and both lists say so");
    for _ in 0..1000 {
        assert!(!write(&pages, "shop", (3, 3), false, 60));
    }
    assert_eq!(node.lists(), 2);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(write(&pages, "shop", (3, 3), false, 60));
    assert_eq!(node.lists(), 4);
    // Without a refusal once a minute.
    for _ in 0..120 {
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(write(&pages, "shop", (3, 3), true, 60));
    }
    assert_eq!(node.lists(), 4 + 2 * 2);
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_one_list_leaves_out_is_not_gone() {
    let (node, pages) = pages(MIB, 0);
    let at = target("shop", "secrets");
    node.mount(&at);
    let id = node.id(node.open(Path::new(KUBELET), "shop", &at).unwrap().as_fd()).unwrap();
    assert!(write(&pages, "shop", id, false, 60));
    node.leave_out(1);
    assert!(!write(&pages, "shop", (0, 0), false, 60));
    assert_eq!((node.lists(), pages.volumes()), (2, 1));
    tokio::time::advance(Duration::from_secs(1)).await;
    node.leave_out(2);
    assert!(write(&pages, "shop", (0, 0), false, 60));
}

#[tokio::test]
async fn what_a_volume_has_is_enough_to_write_it_again() {
    let (_, pages) = pages(MIB, 10);
    let of = |tenant: &str| pages.shares().of(tenant);
    // 256 pages: half of them, and no more.
    assert!(!write(&pages, "shop", (1, 1), false, 65));
    assert!(write(&pages, "shop", (1, 1), false, 64));
    let room = pages.room(&"shop".into(), (1, 1), true, 64).unwrap();
    assert_eq!(of("shop"), 128, "nothing more is needed while both are there");
    pages.keep((1, 1), room, true);
    let larger = pages.room(&"shop".into(), (1, 1), true, 65);
    assert_eq!(larger.err(), Some(NoRoom { pages: 130 }));
    assert!(write(&pages, "shop", (1, 1), true, 10));
    assert_eq!(of("shop"), 20);
    // A write that fails gives back what it took; a write that does not clean up keeps it.
    drop(pages.room(&"shop".into(), (1, 1), true, 20).unwrap());
    assert_eq!(of("shop"), 20);
    let room = pages.room(&"shop".into(), (1, 1), true, 5).unwrap();
    pages.keep((1, 1), room, false);
    assert_eq!(of("shop"), 20);
    pages.has(&"shop".into(), (1, 1), 5);
    assert_eq!((of("shop"), pages.volumes()), (10, 1));
}

#[tokio::test]
async fn a_device_that_is_used_again_is_another_volume() {
    let (_, pages) = pages(MIB, 10);
    assert!(write(&pages, "evil", (7, 1), false, 60));
    assert!(write(&pages, "shop", (7, 1), false, 1));
    assert_eq!((pages.shares().of("evil"), pages.shares().of("shop"), pages.volumes()), (0, 2, 1));
}

#[tokio::test]
async fn what_was_found_is_its_tenants_from_the_next_mount_on() {
    let (_, pages) = pages(MIB, 10);
    pages.found((1, 1), 100);
    pages.found((1, 1), 100);
    assert_eq!((pages.shares().of(""), pages.shares().used()), (200, 200));
    assert!(!write(&pages, "evil", (2, 2), false, 20), "it is counted");
    // More than its share, but it is there.
    let room = pages.room(&"shop".into(), (1, 1), true, 100).unwrap();
    assert_eq!((pages.shares().of(""), pages.shares().of("shop")), (0, 200));
    pages.keep((1, 1), room, true);
    pages.found((1, 1), 3);
    assert_eq!(pages.shares().of("shop"), 200);
    pages.found((3, 3), 2);
    pages.has(&"shop".into(), (3, 3), 2);
    assert_eq!((pages.shares().of(""), pages.shares().of("shop")), (0, 204));
}
