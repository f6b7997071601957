use std::collections::BTreeMap;
use std::fs;
use std::sync::mpsc::{Receiver, Sender, channel};

use tempfile::TempDir;
use tokio::time::{Duration, sleep};

use super::*;

/// A node whose volumes are plain folders, and may hang. Its kubelet's folder is [`KUBELET`].
#[derive(Debug, Default)]
pub(in crate::delivery) struct FakeNode {
    volumes: Mutex<BTreeMap<String, TempDir>>,
    hangs: Mutex<Option<Arc<Mutex<Receiver<()>>>>>,
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

    /// The data folder that is in force; `None` where the volume is empty.
    pub(in crate::delivery) fn in_force(&self, target: &str) -> Option<String> {
        let link = fs::read_link(self.volumes.lock().unwrap()[target].path().join("..data")).ok()?;
        link.into_os_string().into_string().ok()
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
}

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(50)
}

fn late() -> Instant {
    Instant::now() + Duration::from_mins(1)
}

#[tokio::test]
async fn a_volume_is_one_mounts_at_a_time() {
    let volumes = Arc::new(Volumes::new());
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
    let volumes = Arc::new(Volumes::new());
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
