//! What the node's kernel knows about volumes. It is separate, so that a test can replace the node without the right to mount anything.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::delivery::volume::{TargetError, open_target};

/// The most bytes of the kernel's list of mounts that are read: some 100,000 mounts.
const LIST: u64 = 16 * 1024 * 1024;

/// A volume: the device of its file system, and the inode of its folder.
pub(in crate::delivery) type Id = (u64, u64);

pub(in crate::delivery) trait Node: fmt::Debug + Send + Sync {
    /// As [`open_target`].
    fn open(&self, kubelet_dir: &Path, pod_uid: &str, target_path: &str) -> Result<OwnedFd, TargetError>;

    fn id(&self, volume: BorrowedFd<'_>) -> Result<Id, Errno>;

    /// The devices of everything that is mounted in memory. Waits for no file system.
    fn devices(&self) -> io::Result<HashSet<u64>>;

    /// The volumes that are mounted in memory for kubelet's Pods.
    fn targets(&self, kubelet_dir: &Path) -> io::Result<Vec<Target>>;
}

/// Where a volume is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::delivery) struct Target {
    pub pod_uid: String,
    pub target_path: String,
}

/// The node that this process runs on.
#[derive(Debug)]
pub(super) struct ThisNode;

/// A line of the kernel's list.
#[derive(Debug, Eq, PartialEq)]
struct Mounted {
    device: u64,
    at: PathBuf,
}

// === impl ThisNode ===

impl Node for ThisNode {
    fn open(&self, kubelet_dir: &Path, pod_uid: &str, target_path: &str) -> Result<OwnedFd, TargetError> {
        open_target(kubelet_dir, pod_uid, target_path)
    }

    fn id(&self, volume: BorrowedFd<'_>) -> Result<Id, Errno> {
        rustix::fs::fstat(volume).map(|stat| (stat.st_dev, stat.st_ino))
    }

    fn devices(&self) -> io::Result<HashSet<u64>> {
        Ok(list(File::open("/proc/self/mountinfo")?)?.into_iter().map(|mounted| mounted.device).collect())
    }

    fn targets(&self, kubelet_dir: &Path) -> io::Result<Vec<Target>> {
        // The paths in the list have no links.
        let real = fs::canonicalize(kubelet_dir)?;
        let mounted = list(File::open("/proc/self/mountinfo")?)?.into_iter();
        Ok(mounted.filter_map(|mounted| target(kubelet_dir, mounted.at.strip_prefix(&real).ok()?)).collect())
    }
}

/// The mounts in memory, from a text in the form of `/proc/self/mountinfo` (proc(5)).
fn list(text: impl Read) -> io::Result<Vec<Mounted>> {
    let mut text = BufReader::new(text.take(LIST));
    let (mut line, mut read, mut mounts) = (Vec::new(), 0, Vec::new());
    loop {
        line.clear();
        read += match text.read_until(b'\n', &mut line)? {
            0 => return Ok(mounts),
            length => length as u64,
        };
        if read >= LIST {
            return Err(io::Error::other("/proc/self/mountinfo: too many mounts to read"));
        }
        mounts.extend(in_memory(line.trim_ascii_end()));
    }
}

/// `36 35 0:57 / /mnt rw,noatime master:1 - tmpfs tmpfs rw`: an id, its parent's id, the device, the root, the mount point, options and,
/// after the `-`, the kind.
fn in_memory(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let (major, minor) = str::from_utf8(fields.nth(2)?).ok()?.split_once(':')?;
    let at = fields.nth(1)?;
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    let device = rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?);
    matches!(kind, b"tmpfs" | b"ramfs").then(|| Mounted { device, at: unescaped(at) })
}

/// A path in the list. Space, tab, line feed and backslash are written as `\` and three octal digits.
pub(in crate::delivery) fn unescaped(text: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, more)) = rest.split_first() {
        let escaped = (*first == b'\\').then(|| more.get(..3)).flatten().and_then(|octal| str::from_utf8(octal).ok());
        if let Some(byte) = escaped.and_then(|octal| u8::from_str_radix(octal, 8).ok()) {
            plain.push(byte);
            rest = &more[3..];
        } else {
            plain.push(*first);
            rest = more;
        }
    }
    PathBuf::from(OsString::from_vec(plain))
}

/// The volume at a path below kubelet's folder, if the path has the form of a volume.
fn target(kubelet_dir: &Path, below: &Path) -> Option<Target> {
    let elements: Option<Vec<_>> = below.components().map(|element| element.as_os_str().to_str()).collect();
    match elements?.as_slice() {
        ["pods", uid, "volumes", "kubernetes.io~csi", _, "mount"] => {
            Some(Target { pod_uid: (*uid).to_owned(), target_path: kubelet_dir.join(below).to_str()?.to_owned() })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_in_memory_is_read_from_the_kernels_list() {
        let text = b"22 27 0:21 / /proc rw,relatime - proc proc rw\n\
            31 22 0:57 / /var/lib/kube\\040let/pods/u1/volumes/kubernetes.io~csi/a/mount rw shared:1 master:2 - tmpfs tmpfs rw,size=4k\n\
            garbage\n\
            32 22 1:300 / /\\134x\\9 rw - ramfs none rw\n\
            33 22 0:58 / /var/lib/kube\\040let/pods/u1/volumes/kubernetes.io~projected/t rw - tmpfs tmpfs rw\n";
        let mounts = list(&text[..]).unwrap();
        let shown: Vec<_> = mounts.iter().map(|mounted| (mounted.device, mounted.at.to_str().unwrap())).collect();
        assert_eq!(
            shown,
            [
                (57, "/var/lib/kube let/pods/u1/volumes/kubernetes.io~csi/a/mount"),
                (rustix::fs::makedev(1, 300), "/\\x\\9"),
                (58, "/var/lib/kube let/pods/u1/volumes/kubernetes.io~projected/t"),
            ]
        );
        let below = |mounted: &Mounted| mounted.at.strip_prefix("/var/lib/kube let").ok().and_then(|below| target(Path::new("/k"), below));
        let found: Vec<_> = mounts.iter().filter_map(below).collect();
        let target_path = "/k/pods/u1/volumes/kubernetes.io~csi/a/mount".to_owned();
        assert_eq!(found, [Target { pod_uid: "u1".to_owned(), target_path }]);
    }

    #[test]
    fn a_list_without_an_end_is_not_believed() {
        assert!(list(io::repeat(b'x')).is_err());
        assert!(list(io::repeat(b'\n')).is_err());
    }
}
