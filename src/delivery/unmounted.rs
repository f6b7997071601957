//! Running Pods that do not have their volume. If a first mount got no answer, the driver may have reported success (docs/errors.md, "A
//! running Pod with an empty folder"). No call tells a provider about that, so Keyferry looks at kubelet's own folder:
//!
//! - `pods/<uid>/volumes/kubernetes.io~csi/<volume>/vol_data.json` names the driver of each volume (kubelet, `pkg/volume/csi/csi_mounter.go`);
//! - `pods/<uid>/containers/<name>/` gets a file for each container that starts, and kubelet starts none before all volumes are mounted
//!   (`pkg/kubelet/kuberuntime/kuberuntime_container.go`);
//! - the kernel's list of mounts says whether the volume is mounted. If a volume was mounted only after the last container started, no
//!   container sees it, because a later mount does not reach a container.
//!
//! A volume can look so for a moment while its Pod ends: so Keyferry looks twice before it reports it.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::io::Errno;
use thiserror::Error;

use super::volumes::unescaped;
use crate::files::{Named, Unreadable};
use crate::model::CSI_DRIVER;
use crate::steps::Steps;

/// The most Pods, volumes of one Pod, and containers of one Pod that Keyferry looks at. kubelet runs 110 Pods by default.
const MOST_PODS: usize = 8192;
const MOST_VOLUMES: usize = 512;
const MOST_CONTAINERS: usize = 512;

/// The largest `vol_data.json` in bytes. kubelet's has some 300.
const MAX_DATA: usize = 64 * 1024;

/// The most bytes of the kernel's list of mounts that are read: some 100,000 mounts.
const LIST: u64 = 16 * 1024 * 1024;

/// The cost of a look at one file: some system calls.
const LOOK: u64 = 1024;

/// The most that a whole look may cost: about 64,000 files.
pub const STEPS: u64 = 64 * 1024 * 1024;

/// The result of one look.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Found {
    /// The Pods for which kubelet has a folder.
    pub pods: HashSet<String>,
    /// Volumes of the Secrets Store CSI driver.
    pub volumes: usize,
    /// The volumes that a running Pod does not have, by Pod and name.
    pub unmounted: Vec<Unmounted>,
}

/// A volume that a running Pod does not have.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Unmounted {
    pub pod_uid: String,
    pub volume: String,
}

/// Why Keyferry cannot know this on this node, or from inside this container.
#[derive(Debug, Error)]
pub enum Blind {
    #[error("{}: {cause} (mount kubelet's folder of Pods there, read-only, with mountPropagation: HostToContainer)", folder.display())]
    Folder { folder: PathBuf, cause: io::Error },
    #[error("the kernel's list of mounts cannot be read: {0}")]
    List(io::Error),
    #[error("{}: Keyferry does not see here what the node mounts later (mount it with mountPropagation: HostToContainer)", folder.display())]
    Private { folder: PathBuf },
    #[error("kubelet's folder has too many Pods or volumes to look at: {0}")]
    TooMuch(String),
}

/// What is mounted below kubelet's folder of Pods.
#[derive(Debug, Default)]
struct Mounts {
    points: HashSet<PathBuf>,
    /// The mount that the folder itself is in, and whether it receives later mounts.
    under: (PathBuf, bool),
}

/// Looks at this node. Blocks.
///
/// # Errors
/// Keyferry cannot know.
pub fn look(kubelet_dir: &Path, steps: &Steps) -> Result<Found, Blind> {
    let list = File::open("/proc/self/mountinfo").map_err(Blind::List)?;
    look_at(kubelet_dir, list, booted(), steps)
}

fn look_at(kubelet_dir: &Path, list: impl Read, booted: Option<Timestamp>, steps: &Steps) -> Result<Found, Blind> {
    // The paths in the kernel's list have no links.
    let real = fs::canonicalize(kubelet_dir).map(|real| real.join("pods"));
    let root = real.map_err(|cause| Blind::Folder { folder: kubelet_dir.join("pods"), cause })?;
    let folders = entries(&root, Path::new(""), MOST_PODS).map_err(|error| blind(&root, error))?;
    let mounts = Mounts::read(list, &root).map_err(Blind::List)?;
    // The node's own root needs no propagation: kubelet itself mounts there.
    if let (under, false) = &mounts.under
        && under != Path::new("/")
    {
        return Err(Blind::Private { folder: root });
    }
    let mut found = Found::default();
    for pod in folders {
        let volumes = volumes_of(&root, &pod, steps)?;
        found.volumes += volumes.len();
        let mut started = None;
        for volume in volumes {
            let started = *started.get_or_insert_with(|| last_start(&root, &pod, steps));
            let Some(started) = started.filter(|started| booted.is_none_or(|booted| started.at > booted)) else { continue };
            let target = Path::new(&pod).join(CSI).join(&volume).join("mount");
            let has_it = mounts.points.contains(&root.join(&target))
                && !matches!((Named::below(&root, &target).born(), started.born), (Ok(Some(mounted)), Some(started)) if mounted > started);
            if !has_it {
                found.unmounted.push(Unmounted { pod_uid: pod.clone(), volume });
            }
        }
        found.pods.insert(pod);
    }
    found.unmounted.sort();
    Ok(found)
}

/// Below a Pod's folder.
const CSI: &str = "volumes/kubernetes.io~csi";

/// The names of a Pod's volumes of our driver. A Pod that disappears in the meantime has none.
fn volumes_of(root: &Path, pod: &str, steps: &Steps) -> Result<Vec<String>, Blind> {
    let (folder, mut volumes) = (Path::new(pod).join(CSI), Vec::new());
    charge(steps)?;
    for volume in entries(root, &folder, MOST_VOLUMES).unwrap_or_default() {
        charge(steps)?;
        let data = Named::below(root, folder.join(&volume).join("vol_data.json")).read(MAX_DATA);
        let data: Option<HashMap<String, serde_json::Value>> = data.ok().and_then(|file| serde_json::from_slice(&file.bytes).ok());
        if data.is_some_and(|data| data.get("driverName").and_then(|name| name.as_str()) == Some(CSI_DRIVER)) {
            volumes.push(volume);
        }
    }
    Ok(volumes)
}

/// When a container of a Pod started.
#[derive(Clone, Copy, Debug)]
struct Start {
    /// It started at this time at the latest.
    at: Timestamp,
    /// `None`: the file system does not store when a file was made.
    born: Option<Timestamp>,
}

/// `None`: no container has started.
fn last_start(root: &Path, pod: &str, steps: &Steps) -> Option<Start> {
    starts(root, pod, steps)?.into_iter().max_by_key(|start| start.at)
}

/// All containers for which kubelet still has a file. `None`: they are too much work.
fn starts(root: &Path, pod: &str, steps: &Steps) -> Option<Vec<Start>> {
    let containers = Path::new(pod).join("containers");
    let mut starts = Vec::new();
    for container in entries(root, &containers, MOST_CONTAINERS).unwrap_or_default() {
        let folder = containers.join(container);
        for file in entries(root, &folder, MOST_CONTAINERS).unwrap_or_default() {
            steps.charge(LOOK).ok()?;
            let file = Named::below(root, folder.join(file));
            let (Ok(born), Ok(changed)) = (file.born(), file.changed()) else { continue };
            starts.push(Start { at: born.unwrap_or(changed), born });
        }
    }
    Some(starts)
}

fn charge(steps: &Steps) -> Result<(), Blind> {
    steps.charge(LOOK).map_err(|spent| Blind::TooMuch(format!("it {spent}")))
}

/// Whether a container of the Pod had started before then, and since the node started. `false`: none has, or Keyferry cannot know. Blocks.
pub fn has_run(kubelet_dir: &Path, pod_uid: &str, before: Timestamp, steps: &Steps) -> bool {
    has_run_since(booted(), &kubelet_dir.join("pods"), pod_uid, before, steps)
}

fn has_run_since(booted: Option<Timestamp>, root: &Path, pod_uid: &str, before: Timestamp, steps: &Steps) -> bool {
    let ran = |start: &Start| start.at < before && booted.is_none_or(|booted| start.at > booted);
    starts(root, pod_uid, steps).is_some_and(|starts| starts.iter().any(ran))
}

/// The names in a folder. Names that are not text are left out, since kubelet makes none.
fn entries(root: &Path, folder: &Path, most: usize) -> Result<Vec<String>, Unreadable> {
    let named = Named::below(root, folder).entries(most)?;
    Ok(named.iter().filter_map(|entry| Some(entry.path().file_name()?.to_str()?.to_owned())).collect())
}

fn blind(root: &Path, error: Unreadable) -> Blind {
    let folder = root.to_owned();
    match error {
        Unreadable::TooMany(most) => Blind::TooMuch(format!("more than {most} Pods")),
        Unreadable::Io(cause) => Blind::Folder { folder, cause },
        Unreadable::Absent => Blind::Folder { folder, cause: Errno::NOENT.into() },
        Unreadable::NotAFile | Unreadable::TooLarge { .. } | Unreadable::Unstable => Blind::Folder { folder, cause: Errno::NOTDIR.into() },
    }
}

/// When the node started: containers that started before do not run any more.
fn booted() -> Option<Timestamp> {
    let mut text = String::new();
    File::open("/proc/stat").ok()?.take(LIST).read_to_string(&mut text).ok()?;
    let second = text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())?;
    Timestamp::from_second(second).ok()
}

// === impl Mounts ===

impl Mounts {
    /// Reads a text in the form of `/proc/self/mountinfo` (proc_pid_mountinfo(5)): `36 35 0:57 / /mnt rw,noatime master:1 - tmpfs tmpfs rw`.
    fn read(list: impl Read, root: &Path) -> io::Result<Self> {
        let mut list = BufReader::new(list.take(LIST));
        let (mut line, mut read, mut mounts) = (Vec::new(), 0, Self::default());
        loop {
            line.clear();
            read += match list.read_until(b'\n', &mut line)? {
                0 => return Ok(mounts),
                length => length as u64,
            };
            if read >= LIST {
                return Err(io::Error::other("there are too many mounts to read"));
            }
            mounts.add(&line, root);
        }
    }

    fn add(&mut self, line: &[u8], root: &Path) {
        let fields: Vec<&[u8]> = line.trim_ascii_end().split(|byte| *byte == b' ').collect();
        let Some(point) = fields.get(4).map(|point| unescaped(point)) else { return };
        let optional = fields.iter().skip(6).take_while(|field| **field != b"-");
        if point.starts_with(root) && point != root {
            self.points.insert(point);
        } else if root.starts_with(&point) && point.as_os_str().len() >= self.under.0.as_os_str().len() {
            let takes_part = optional.into_iter().any(|field| field.starts_with(b"shared:") || field.starts_with(b"master:"));
            self.under = (point, takes_part);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Duration, Instant};

    use super::*;

    /// A kubelet's folder, and the mounts in it.
    struct Node {
        folder: tempfile::TempDir,
        mounts: String,
    }

    impl Node {
        fn new() -> Self {
            let folder = crate::folder::new();
            fs::create_dir(folder.path().join("pods")).unwrap();
            Self { folder, mounts: "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n".to_owned() }
        }

        fn path(&self, path: &str) -> PathBuf {
            self.folder.path().join("pods").join(path)
        }

        fn volume(&self, pod: &str, volume: &str, driver: &str) {
            let folder = self.path(&format!("{pod}/{CSI}/{volume}"));
            fs::create_dir_all(folder.join("mount")).unwrap();
            fs::write(folder.join("vol_data.json"), format!(r#"{{"driverName":"{driver}","specVolID":"{volume}"}}"#)).unwrap();
        }

        fn start(&self, pod: &str, container: &str) {
            let folder = self.path(&format!("{pod}/containers/{container}"));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("0123abcd"), "").unwrap();
        }

        fn mount(&mut self, pod: &str, volume: &str) {
            let point = self.folder.path().canonicalize().unwrap().join(format!("pods/{pod}/{CSI}/{volume}/mount"));
            self.mounts +=
                &format!("31 22 0:57 / {} rw,relatime shared:9 - tmpfs tmpfs rw\n", point.display().to_string().replace(' ', "\\040"));
        }

        fn look(&self) -> Result<Found, Blind> {
            let steps = Steps::new(STEPS, Instant::now() + Duration::from_mins(1));
            look_at(self.folder.path(), self.mounts.as_bytes(), Some(Timestamp::UNIX_EPOCH), &steps)
        }

        fn unmounted(&self) -> Vec<String> {
            self.look().unwrap().unmounted.into_iter().map(|one| format!("{} {}", one.pod_uid, one.volume)).collect()
        }
    }

    #[test]
    fn a_pod_that_runs_without_its_volume_is_found() {
        let mut node = Node::new();
        assert_eq!(node.look().unwrap(), Found::default());
        for pod in ["fine", "starting", "caught", "other-driver"] {
            let driver = if pod == "other-driver" { "nfs.csi.k8s.io" } else { CSI_DRIVER };
            node.volume(pod, "secrets", driver);
        }
        node.volume("caught", "more secrets", CSI_DRIVER);
        // Mounted first, then started, as kubelet does it.
        node.mount("fine", "secrets");
        node.mount("caught", "more secrets");
        for pod in ["fine", "caught", "other-driver"] {
            node.start(pod, "app");
        }
        assert_eq!(node.unmounted(), ["caught secrets"]);
        let found = node.look().unwrap();
        assert_eq!((found.volumes, found.pods.len()), (4, 4));
        assert!(found.pods.contains("starting"));
    }

    #[tokio::test]
    async fn a_volume_that_came_after_the_last_start_is_not_seen_by_the_pod() {
        let mut node = Node::new();
        node.start("late", "app");
        tokio::time::sleep(Duration::from_millis(50)).await;
        node.volume("late", "secrets", CSI_DRIVER);
        node.mount("late", "secrets");
        if Named::below(node.path(""), "late/containers/app/0123abcd").born().unwrap().is_none() {
            return;
        }
        assert_eq!(node.unmounted(), ["late secrets"]);
        // A container that starts again sees it.
        tokio::time::sleep(Duration::from_millis(50)).await;
        fs::write(node.path("late/containers/app/89abcdef"), "").unwrap();
        assert_eq!(node.unmounted(), [""; 0]);
    }

    #[test]
    fn what_ran_before_the_node_started_does_not_run() {
        let node = Node::new();
        node.volume("before", "secrets", CSI_DRIVER);
        node.start("before", "app");
        let steps = Steps::new(STEPS, Instant::now() + Duration::from_mins(1));
        let later = Timestamp::from_second(4_000_000_000).unwrap();
        let found = look_at(node.folder.path(), node.mounts.as_bytes(), Some(later), &steps).unwrap();
        assert_eq!((found.volumes, found.unmounted), (1, Vec::new()));
    }

    #[test]
    fn a_pod_has_run_if_a_container_started_before_and_since_the_node_did() {
        let node = Node::new();
        node.volume("waits", "secrets", CSI_DRIVER);
        node.start("runs", "app");
        let root = node.path("");
        let at = |second| Timestamp::from_second(second).unwrap();
        let has_run = |pod: &str, booted, before, steps| {
            has_run_since(booted, &root, pod, before, &Steps::new(steps, Instant::now() + Duration::from_mins(1)))
        };
        let later = at(4_000_000_000);
        assert!(has_run("runs", None, later, STEPS) && has_run("runs", Some(Timestamp::UNIX_EPOCH), later, STEPS));
        assert!(!has_run("runs", None, at(1_000_000_000), STEPS), "it started after that");
        assert!(!has_run("runs", Some(later), later, STEPS), "before the node did");
        for pod in ["waits", "gone", "../../outside", ""] {
            assert!(!has_run(pod, None, later, STEPS), "{pod}");
        }
        assert!(!has_run("runs", None, later, LOOK / 2), "too much to look at");
    }

    /// The folder may contain anything: a half-written file, a huge one, a link to another place, a pipe.
    #[test]
    fn odd_files_are_left_out() {
        let node = Node::new();
        for (pod, data) in [("cut", "{\"driverName\":\"secrets-st"), ("empty", ""), ("list", "[1]"), ("number", "{\"driverName\":7}")] {
            node.volume(pod, "secrets", CSI_DRIVER);
            node.start(pod, "app");
            fs::write(node.path(&format!("{pod}/{CSI}/secrets/vol_data.json")), data).unwrap();
        }
        node.volume("huge", "secrets", CSI_DRIVER);
        let huge = format!("{{\"driverName\":\"{CSI_DRIVER}\",\"x\":\"{}\"}}", "x".repeat(MAX_DATA));
        fs::write(node.path(&format!("huge/{CSI}/secrets/vol_data.json")), huge).unwrap();
        let outside = node.folder.path().join("outside.json");
        fs::write(&outside, format!("{{\"driverName\":\"{CSI_DRIVER}\"}}")).unwrap();
        for (pod, link) in [("link", outside.as_path()), ("device", Path::new("/dev/zero"))] {
            node.volume(pod, "secrets", "other");
            node.start(pod, "app");
            let data = node.path(&format!("{pod}/{CSI}/secrets/vol_data.json"));
            fs::remove_file(&data).unwrap();
            std::os::unix::fs::symlink(link, &data).unwrap();
        }
        node.volume("pipe", "secrets", "other");
        let pipe = node.path(&format!("pipe/{CSI}/secrets/vol_data.json"));
        fs::remove_file(&pipe).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        fs::write(node.path("a-file"), "").unwrap();
        let found = node.look().unwrap();
        assert_eq!((found.volumes, found.unmounted), (0, Vec::new()));
    }

    #[test]
    fn who_cannot_see_says_so() {
        let mut node = Node::new();
        let shown = |look: Result<Found, Blind>, node: &Node| {
            look.unwrap_err().to_string().replace(node.folder.path().canonicalize().unwrap().to_str().unwrap(), "KUBELET")
        };
        let pods = node.folder.path().canonicalize().unwrap().join("pods");
        let own = |options: &str| format!("40 22 8:1 /var/lib/kubelet/pods {} ro,relatime {options}- ext4 /dev/sda1 rw\n", pods.display());
        let root = node.mounts.clone();
        node.mounts = root.clone() + &own("master:1 ");
        assert!(node.look().is_ok());
        node.mounts = root + &own("");
        insta::assert_snapshot!(shown(node.look(), &node), @"KUBELET/pods: Keyferry does not see here what the node mounts later (mount it with mountPropagation: HostToContainer)");
        // kubelet mounts in the node's own root.
        node.mounts = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n".to_owned();
        assert!(node.look().is_ok());
        fs::remove_dir(node.path("")).unwrap();
        insta::assert_snapshot!(shown(node.look(), &node), @"KUBELET/pods: No such file or directory (os error 2) (mount kubelet's folder of Pods there, read-only, with mountPropagation: HostToContainer)");
        fs::write(node.folder.path().join("pods"), "").unwrap();
        assert!(node.look().is_err());
        fs::remove_file(node.folder.path().join("pods")).unwrap();
        fs::create_dir(node.path("")).unwrap();
        for n in 0..100 {
            node.volume(&format!("pod-{n}"), "secrets", CSI_DRIVER);
        }
        let few = Steps::new(50 * LOOK, Instant::now() + Duration::from_mins(1));
        let too_much = look_at(node.folder.path(), node.mounts.as_bytes(), None, &few);
        insta::assert_snapshot!(shown(too_much, &node), @"kubelet's folder has too many Pods or volumes to look at: it takes more than 51200 steps of work");
    }
}
