//! The target: the folder that the driver prepared for one volume of one Pod, and the checks on the path to it.
//!
//! It is separate from the writer because the request says where to write, and any caller at the socket can send a request. Keyferry opens
//! only the verified Pod's own volume, only if it is in memory, and follows no link below the admin's `kubeletDir`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, retry_on_intr};
use thiserror::Error;

/// `f_type` of a tmpfs and of a ramfs (Linux, `include/uapi/linux/magic.h`).
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// Why Keyferry does not write to a target folder. The message begins with the request's key.
#[derive(Debug, Error)]
pub enum TargetError {
    #[error(
        "target_path: {target} is not of the form {expected} (Keyferry writes only this Pod's own CSI volumes; is `kubeletDir` right?)"
    )]
    Elsewhere { target: String, expected: String },
    #[error("target_path: {target} is not in memory (a secret must not touch a disk; the driver mounts a tmpfs there first)")]
    NotInMemory { target: String },
    #[error("target_path: nothing is mounted at {target} (the driver mounts a tmpfs there first)")]
    NotMounted { target: String },
    #[error("target_path: {target} was unmounted while it was written (kubelet tries again by itself)")]
    Replaced { target: String },
    #[error("target_path: cannot open {target}: {cause}{}", remedy(*cause))]
    Unreachable { target: String, cause: Errno },
}

/// Whether a path has the form of a volume of this Pod.
pub fn check_target(kubelet_dir: &Path, pod_uid: &str, target_path: &str) -> Result<(), TargetError> {
    relative(kubelet_dir, pod_uid, target_path).map(drop).ok_or_else(|| elsewhere(kubelet_dir, pod_uid, target_path))
}

/// Opens the target of a Pod's volume: `<kubelet_dir>/pods/<pod_uid>/volumes/kubernetes.io~csi/<volume>/mount`.
///
/// `kubelet_dir` comes from the admin and may itself be a link; below it no link is followed, and `..` is refused. The folder must be its
/// own mount, of a file system in memory. Needs Linux 5.6 (`openat2`).
pub fn open_target(kubelet_dir: &Path, pod_uid: &str, target_path: &str) -> Result<OwnedFd, TargetError> {
    let volume = relative(kubelet_dir, pod_uid, target_path).ok_or_else(|| elsewhere(kubelet_dir, pod_uid, target_path))?;
    let unreachable = |cause| TargetError::Unreachable { target: target_path.to_owned(), cause };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let open = |dir: &OwnedFd, path: &Path| retry_on_intr(|| rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve));

    let root = rustix::fs::open(kubelet_dir, flags, Mode::empty()).map_err(unreachable)?;
    let holder = open(&root, &volume).map_err(unreachable)?;
    let target = open(&holder, Path::new("mount")).map_err(unreachable)?;
    let device = |dir: &OwnedFd| rustix::fs::fstat(dir).map(|stat| stat.st_dev).map_err(unreachable);
    if device(&holder)? == device(&target)? {
        return Err(TargetError::NotMounted { target: target_path.to_owned() });
    }
    if is_in_memory(&target).map_err(unreachable)? { Ok(target) } else { Err(TargetError::NotInMemory { target: target_path.to_owned() }) }
}

/// Whether a folder is on a file system that keeps its files in memory. A tmpfs may still be swapped out, if the node has swap.
#[allow(clippy::useless_conversion)] // the field's type differs from architecture to architecture
pub fn is_in_memory(dir: impl AsFd) -> Result<bool, Errno> {
    let kind = rustix::fs::fstatfs(dir)?.f_type;
    Ok(IN_MEMORY.contains(&i64::from(kind)))
}

/// The volume's folder below the kubelet's, without the `mount` at its end. `None` where the path has another form.
fn relative(kubelet_dir: &Path, pod_uid: &str, target_path: &str) -> Option<PathBuf> {
    let rest = target_path.strip_prefix(kubelet_dir.to_str()?.trim_end_matches('/'))?;
    let elements: Vec<_> = rest.split('/').collect();
    let plain = |element: &str| !matches!(element, "" | "." | "..") && !element.contains(['/', '\0']);
    match elements.as_slice() {
        ["", "pods", uid, "volumes", "kubernetes.io~csi", volume, "mount"] if *uid == pod_uid && plain(uid) && plain(volume) => {
            Some(["pods", uid, "volumes", "kubernetes.io~csi", volume].iter().collect())
        }
        _ => None,
    }
}

fn elsewhere(kubelet_dir: &Path, pod_uid: &str, target_path: &str) -> TargetError {
    let expected = kubelet_dir.join("pods").join(pod_uid).join("volumes/kubernetes.io~csi/<volume>/mount");
    TargetError::Elsewhere { target: target_path.to_owned(), expected: expected.display().to_string() }
}

fn remedy(cause: Errno) -> &'static str {
    match cause {
        Errno::LOOP | Errno::NOTDIR => " (a link or a file is there instead of a folder; Keyferry follows no link)",
        Errno::NOENT => " (is `kubeletDir` mounted into the provider, with mount propagation HostToContainer?)",
        Errno::NOSYS => " (openat2 is needed: Linux 5.6 or newer)",
        _ => "",
    }
}
