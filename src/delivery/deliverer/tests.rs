use tokio::time::Duration;

use super::*;
use crate::clock::SystemClock;
use crate::delivery::VersionKey;
use crate::delivery::volume::Step;
use crate::delivery::volumes::tests::{FakeNode, KUBELET, target};
use crate::model::{FileMode, PodClaims, SecretBytes};

fn delivery(files: Vec<DeliveredFile>) -> Delivery {
    Delivery::new(files, &[], &VersionKey::new(&vec![7; VersionKey::LENGTH].into()), 1 << 30).unwrap()
}

/// A Pod of a namespace; its uid is the namespace's name.
fn pod(namespace: &str) -> PodIdentity {
    let claims = PodClaims { namespace: namespace.into(), name: "p".into(), uid: namespace.into(), service_account: "s".into() };
    PodIdentity::believed(&claims)
}

/// A daemon that writes volumes on a test node.
struct Daemon {
    node: Arc<FakeNode>,
    deliverer: Deliverer,
}

impl Daemon {
    fn new() -> Self {
        Self::on(Arc::new(FakeNode::default()), 64 * 1024 * 1024)
    }

    /// Its volumes may use this many bytes.
    fn on(node: Arc<FakeNode>, bytes: usize) -> Self {
        let volumes = Arc::new(Volumes::on(Arc::clone(&node) as Arc<_>, bytes));
        Self { node, deliverer: Deliverer::new(DeliveryMode::Provider, Path::new(KUBELET), Arc::new(SystemClock), volumes) }
    }

    /// Pages that a tenant has.
    fn of(&self, tenant: &str) -> usize {
        self.deliverer.volumes.memory().of(tenant)
    }

    /// Mounts a volume for a Pod of a namespace, where it is not there yet, and delivers these files.
    async fn mount(&self, namespace: &str, volume: &str, files: Vec<DeliveredFile>, until: Instant) -> Result<(), DeliveryError> {
        let target = target(namespace, volume);
        self.node.mount(&target);
        let reservation = self.deliverer.reserve(&namespace.into(), &pod(namespace), &target, until).await?;
        reservation.deliver(delivery(files), until).await.map(drop)
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(100)
}

fn late() -> Instant {
    Instant::now() + Duration::from_mins(1)
}

/// This many files of this many bytes.
fn files(count: usize, bytes: usize) -> Vec<DeliveredFile> {
    let contents = Arc::new(SecretBytes::new(vec![b'x'; bytes]));
    let file =
        |n| DeliveredFile { path: format!("f{n}").parse().unwrap(), mode: FileMode::DEFAULT, owner: None, contents: Arc::clone(&contents) };
    (0..count).map(file).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_hangs_costs_another_tenant_nothing() {
    let daemon = Arc::new(Daemon::new());
    let release = daemon.node.hang();
    let stuck = (0..40).map(|n| {
        let daemon = Arc::clone(&daemon);
        // Three wait for one volume, the others have each their own.
        let uid = format!("evil{}", n.max(2));
        tokio::spawn(async move {
            let target = target(&uid, "slow");
            daemon.deliverer.reserve(&"evil".into(), &pod(&uid), &target, late()).await.map(drop)
        })
    });
    let stuck: Vec<_> = stuck.collect();
    let writers = daemon.deliverer.volumes.writers();
    while writers.slots().of("evil") < 8 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..100 {
        daemon.mount("shop", "secrets", files(2, 1), late()).await.unwrap();
    }
    assert_eq!(writers.slots().of("evil"), 8, "they hang still");
    assert_eq!(daemon.mount("evil", "quick", files(2, 1), soon()).await.unwrap_err().code(), Code::BackendTimeout);
    drop(release);
    for mount in stuck {
        // No such folder: it was never mounted.
        assert_eq!(mount.await.unwrap().unwrap_err().code(), Code::InvalidRequest);
    }
    daemon.mount("evil", "quick", files(2, 1), late()).await.unwrap();
    assert_eq!((writers.slots().used(), writers.waiting()), (0, 0));
}

#[tokio::test]
async fn a_wait_for_the_volumes_turn_has_an_end() {
    let daemon = Daemon::new();
    let target = target("shop", "secrets");
    daemon.node.mount(&target);
    let (tenant, pod) = ("shop".into(), pod("shop"));
    let reserve = |until| daemon.deliverer.reserve(&tenant, &pod, &target, until);
    let first = reserve(late()).await.unwrap();
    assert_eq!(reserve(soon()).await.unwrap_err().code(), Code::BackendTimeout);
    drop(first);
    assert!(reserve(late()).await.unwrap().writes());
}

/// A request for another path than kubelet's own fails without a wait.
#[tokio::test]
async fn a_path_of_another_shape_has_no_turn() {
    let daemon = Daemon::new();
    let right = target("shop", "secrets");
    daemon.node.mount(&right);
    let _turn = daemon.deliverer.reserve(&"shop".into(), &pod("shop"), &right, late()).await.unwrap();
    for wrong in [format!("{right}/"), right.replace("/pods", "//pods"), right.replace("shop", "other"), right.replace("secrets", "..")] {
        let error = daemon.deliverer.reserve(&"shop".into(), &pod("shop"), &wrong, late()).await.unwrap_err();
        assert!(matches!(error, DeliveryError::Target(TargetError::Elsewhere { .. })), "{wrong}: {error}");
    }
}

/// A write that no mount asks for never comes between mounts, and never waits for one.
#[tokio::test]
async fn what_nobody_asked_for_is_written_only_while_no_mount_has_the_turn() {
    let daemon = Daemon::new();
    let target = target("shop", "secrets");
    daemon.node.mount(&target);
    let (tenant, pod) = ("shop".into(), pod("shop"));
    let unasked = || daemon.deliverer.reserve_unasked(&tenant, &pod, &target, late());
    let mount = daemon.deliverer.reserve(&tenant, &pod, &target, late()).await.unwrap();
    assert!(unasked().await.unwrap().is_none());
    // As long as the turn is held, also after the write.
    let (_, handed) = mount.deliver(delivery(files(1, 1)), late()).await.unwrap();
    assert!(unasked().await.unwrap().is_none());
    drop(handed);
    let change = unasked().await.unwrap().unwrap();
    assert!(unasked().await.unwrap().is_none());
    assert_eq!(
        daemon.deliverer.reserve(&tenant, &pod, &target, soon()).await.unwrap_err().code(),
        Code::BackendTimeout,
        "a mount waits for it"
    );
    drop(change);
    daemon.node.unmount(&target);
    assert!(unasked().await.unwrap_err().is_of_target());
    let driver = Deliverer::new(DeliveryMode::Driver, Path::new(KUBELET), Arc::new(SystemClock), Arc::new(Volumes::new(0)));
    assert!(driver.reserve_unasked(&tenant, &pod, &target, late()).await.unwrap().is_none());
}

/// The driver skips its mount of a folder that changed a short time ago.
#[tokio::test]
async fn what_nobody_asked_for_leaves_the_folders_time_as_it_was() {
    let daemon = Daemon::new();
    daemon.mount("shop", "secrets", files(2, 1), late()).await.unwrap();
    let target = target("shop", "secrets");
    let (before, data) = (daemon.node.changed(&target), daemon.node.in_force(&target));
    let (tenant, pod) = ("shop".into(), pod("shop"));
    let reserve = || async { daemon.deliverer.reserve_unasked(&tenant, &pod, &target, late()).await.unwrap().unwrap() };
    assert!(reserve().await.if_it_differs(delivery(files(2, 1)), late()).await.unwrap().is_none(), "it has these files");
    for new in [files(2, 2), files(0, 0), files(3, 1)] {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let (change, new) = reserve().await.if_it_differs(delivery(new), late()).await.unwrap().unwrap();
        drop(change.deliver(new, late()).await.unwrap());
        assert_eq!(daemon.node.changed(&target), before);
    }
    assert_ne!(daemon.node.in_force(&target), data);
    // Also a write that fails: it makes folders, and removes them.
    let (change, new) = reserve().await.if_it_differs(delivery(files(1, 100_000_000)), late()).await.unwrap().unwrap();
    assert!(change.deliver(new, late()).await.is_err());
    assert_eq!(daemon.node.changed(&target), before);
    daemon.mount("shop", "secrets", files(1, 1), late()).await.unwrap();
    assert_ne!(daemon.node.changed(&target), before, "a mount's own write is one");
}

#[tokio::test]
async fn a_write_whose_time_is_over_never_begins() {
    let daemon = Daemon::new();
    let target = target("shop", "secrets");
    daemon.node.mount(&target);
    let reservation = daemon.deliverer.reserve(&"shop".into(), &pod("shop"), &target, late()).await.unwrap();
    let error = reservation.deliver(delivery(files(1, 1)), Instant::now()).await.unwrap_err();
    assert_eq!(error.code(), Code::BackendTimeout);
    insta::assert_snapshot!(error, @"target_path: the mount's time ended before the volume could be written (kubelet tries again by itself)");
    let _turn = daemon.deliverer.reserve(&"shop".into(), &pod("shop"), &target, late()).await.unwrap();
    assert_eq!(daemon.node.in_force(&target), None);
}

#[tokio::test]
async fn an_empty_answer_has_the_marker_only_where_the_driver_writes() {
    let deliverer = Deliverer::new(DeliveryMode::Driver, Path::new("/nonexistent"), Arc::new(SystemClock), Arc::new(Volumes::new(0)));
    deliverer.check().unwrap();
    let reservation = deliverer.reserve(&"n".into(), &pod("n"), "anywhere", late()).await.unwrap();
    assert!(!reservation.writes());
    let (delivery, _) = reservation.deliver(delivery(Vec::new()), Instant::now()).await.unwrap();
    assert_eq!((delivery.files.len(), delivery.in_place), (1, false));
}

#[test]
fn what_failed_has_the_code_of_its_cause() {
    let failed = |cause| VolumeError::Failed { step: Step::Fill, path: "a".to_owned(), cause };
    let untidy = VolumeError::Untidy(Box::new(failed(Errno::PERM)));
    let codes = [
        (failed(Errno::NOSPC), Code::TooLarge),
        (failed(Errno::NOMEM), Code::Overloaded),
        (failed(Errno::ROFS), Code::InvalidRequest),
        (VolumeError::Busy, Code::Overloaded),
        (untidy, Code::InvalidRequest),
    ];
    for (error, code) in codes {
        assert_eq!(DeliveryError::from(error).code(), code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_one_byte_take_no_more_than_their_share() {
    let daemon = Daemon::new();
    let mut refused = 0;
    // 108,000 files: 422 MiB in a tmpfs.
    for n in 0..108 {
        match daemon.mount("evil", &format!("v{n}"), files(1000, 1), late()).await {
            Ok(()) => {}
            Err(error) => {
                refused += 1;
                assert_eq!(error.code(), Code::TooLarge);
                if refused == 1 {
                    insta::assert_snapshot!(error, @"target_path: cannot write the volume: it needs 13008 KiB of limits.volumeBytes, and its namespace cannot have that much now (the former files stay: deliver fewer files, stop Pods of the namespace on this node, or ask for a higher limits.volumeBytes)");
                }
            }
        }
    }
    // 4 KiB and two names for each; and all twice.
    assert_eq!((refused, daemon.node.files()), (106, 2000));
    assert!(daemon.of("evil") <= 8192);
    for n in 0..20 {
        daemon.mount("shop", &format!("v{n}"), files(3, 5000), late()).await.unwrap();
    }
    // What it has it can change and remove.
    daemon.mount("evil", "v0", files(1000, 2), late()).await.unwrap();
    daemon.mount("evil", "v0", files(0, 0), late()).await.unwrap();
    daemon.mount("evil", "v2", files(900, 1), late()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_change_leaves_the_former_files() {
    let daemon = Daemon::on(Arc::default(), 1024 * 1024);
    daemon.mount("shop", "secrets", files(10, 1), late()).await.unwrap();
    let (before, has) = (daemon.node.in_force(&target("shop", "secrets")), daemon.of("shop"));
    assert_eq!(daemon.mount("shop", "secrets", files(10, 50_000), late()).await.unwrap_err().code(), Code::TooLarge);
    assert_eq!((daemon.node.in_force(&target("shop", "secrets")), daemon.of("shop")), (before, has));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_come_back_when_a_volume_is_gone() {
    let daemon = Daemon::on(Arc::default(), 1024 * 1024);
    let full = || files(1, 200_000);
    daemon.mount("shop", "old", full(), late()).await.unwrap();
    assert!(daemon.mount("shop", "new", full(), late()).await.is_err());
    daemon.node.unmount(&target("shop", "old"));
    // It was looked for less than a second ago.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    daemon.mount("shop", "new", full(), late()).await.unwrap();
    assert_eq!(daemon.deliverer.volumes.pages().volumes(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_finds_what_was_written() {
    let node = Arc::new(FakeNode::default());
    let daemon = Daemon::on(Arc::clone(&node), 1024 * 1024);
    for (namespace, volume) in [("shop", "a"), ("shop", "b"), ("bank", "a")] {
        daemon.mount(namespace, volume, files(3, 5000), late()).await.unwrap();
    }
    let (shop, bank) = (daemon.of("shop"), daemon.of("bank"));
    node.mount(&target("shop", "empty"));
    drop(daemon);

    let daemon = Daemon::on(Arc::clone(&node), 1024 * 1024);
    // The first mount waits for it, whatever it comes to.
    assert!(daemon.mount("evil", "a", files(1, 900_000), late()).await.is_err());
    assert_eq!((daemon.of(""), daemon.deliverer.volumes.memory().used()), (shop + bank, shop + bank));
    // Nothing changes, and each has its own again.
    for (namespace, volume) in [("shop", "a"), ("shop", "b"), ("bank", "a")] {
        daemon.mount(namespace, volume, files(3, 5000), late()).await.unwrap();
    }
    assert_eq!((daemon.of(""), daemon.of("shop"), daemon.of("bank")), (0, shop, bank));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wait_for_former_volumes_ends_with_the_mounts_time() {
    let node = Arc::new(FakeNode::default());
    node.mount(&target("evil", "slow"));
    let release = node.hang();
    let daemon = Daemon::on(node, 1024 * 1024);
    assert!(daemon.mount("shop", "a", files(1, 1), soon()).await.is_err());
    drop(release);
    daemon.mount("shop", "a", files(1, 1), late()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_counts_once_wherever_it_is() {
    let daemon = Daemon::on(Arc::default(), 1024 * 1024);
    let (here, there) = (target("shop", "here"), target("shop", "there"));
    daemon.mount("shop", "here", files(1, 100_000), late()).await.unwrap();
    let one = daemon.of("shop");
    daemon.node.rename(&here, &there);
    daemon.mount("shop", "there", files(1, 100_001), late()).await.unwrap();
    assert_eq!(daemon.of("shop"), one, "renamed");
    daemon.node.mount_over(&there);
    daemon.mount("shop", "there", files(1, 100_000), late()).await.unwrap();
    assert_eq!(daemon.of("shop"), 2 * one, "what is below is still there");
    assert!(daemon.mount("shop", "there", files(1, 400_000), late()).await.is_err());
    assert_eq!(daemon.of("shop"), 2 * one);
    daemon.node.unmount(&there);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(daemon.mount("shop", "other", files(1, 400_000), late()).await.is_err());
    assert_eq!((daemon.of("shop"), daemon.deliverer.volumes.pages().volumes()), (one, 1));
}
