//! Files that the configuration or a class names: only this module opens and reads them.
//!
//! Before a file is opened, nobody knows what it is: a pipe without a writer, a device without an end, a link to another place, a file of
//! 10 GB, a file system that does not answer. So Keyferry opens a file without waiting; it must be a regular file, and its size has a
//! limit. A file that a class names ([`Named::below`]) must also be below a folder that the admin has chosen: Keyferry follows links within
//! that folder (kubelet mounts Secrets as links) and refuses links out of it.
//!
//! All of this blocks for as long as the file system does. [`Desk`] does it on threads that may block, and has only a few of them.

use std::ffi::{CStr, CString, OsString};
use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Statx, StatxFlags, StatxTimestamp};
use rustix::io::retry_on_intr;
use thiserror::Error;
use zeroize::Zeroizing;

mod beneath;
mod desk;
mod inotify;

pub use desk::{Desk, Late};
pub use inotify::{Epoch, Inotify};

/// The largest file in bytes, if its kind has no lower limit.
pub const MAX_FILE: usize = 1024 * 1024;

/// How often Keyferry reads a file again that changes while it is read.
const ATTEMPTS: usize = 5;

/// A file or a folder by its name, and where it may be.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Named {
    path: PathBuf,
    /// `None`: anywhere. The admin has named it.
    folder: Option<PathBuf>,
}

/// Identifies one state of a file: a file that is replaced has another inode, and a write changes the ctime, which no program can set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    /// In bytes.
    pub size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

/// Where a file is or would be: a folder, and the path from there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Located {
    pub folder: Arc<Path>,
    pub file: Arc<CStr>,
}

/// A folder in which files are looked at. It is opened once for many files. All of them are looked at below this same folder, even if
/// another folder takes its name in the meantime.
#[derive(Debug)]
pub struct Outlook {
    folder: OwnedFd,
    /// The folder's device, if its file system is one of this machine.
    device: Option<u64>,
}

/// A file as it was found by its path, with links followed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Found {
    pub stamp: Stamp,
    /// Whether the kernel notes each change of it by way of the folders on its path, so that [`Inotify`] reports it. Not for a link, for a
    /// file with a second name, or for a file on another file system.
    pub is_noted: bool,
}

/// A file's content, and the state in which it was read. `Debug` does not show it: it may be a key.
pub struct WholeFile {
    pub bytes: Zeroizing<Vec<u8>>,
    pub stamp: Stamp,
    pub mode: u32,
    /// Whether its file system always answers at once: a disk or memory of this machine.
    pub local: bool,
}

/// Why a file could not be read. The message follows the file's name.
#[derive(Debug, Error)]
pub enum Unreadable {
    #[error("is absent")]
    Absent,
    #[error("cannot be read: {0}")]
    Io(io::Error),
    #[error("is not a regular file")]
    NotAFile,
    #[error("is {size} bytes long; at most {limit} are read")]
    TooLarge { size: u64, limit: usize },
    #[error("has more than {0} entries")]
    TooMany(usize),
    #[error("keeps changing while it is read")]
    Unstable,
}

/// A path in the daemon's configuration. It must be absolute, because the folder in which a daemon runs is not known.
///
/// # Errors
/// It is relative or empty, or has control characters.
pub fn absolute(text: &str) -> Result<PathBuf, String> {
    match text {
        text if text.contains(char::is_control) => {
            Err(format!("{text:?} has a control character (is there a quote or an escape too many?)"))
        }
        "" => Err("is empty (write a path that starts with /, or leave the key out)".to_owned()),
        text if text.starts_with('/') => Ok(PathBuf::from(text)),
        text => Err(format!("{text:?} is not an absolute path (start it with /)")),
    }
}

// === impl Named ===

impl Named {
    /// A file that the admin has named. Links are followed wherever they lead.
    pub fn anywhere(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), folder: None }
    }

    /// A file that a class has named: absolute, or relative to the folder.
    pub fn below(folder: impl Into<PathBuf>, path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), folder: Some(folder.into()) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The present state of the file or folder, with links followed. Only its name is opened.
    pub fn stamp(&self) -> io::Result<Stamp> {
        Ok(Stamp::from(&self.metadata()?))
    }

    /// When the file was made; `None`: its file system does not store that.
    pub fn born(&self) -> io::Result<Option<Timestamp>> {
        let found = rustix::fs::statx(self.open(OFlags::PATH)?, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME)?;
        let known = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
        let nanos = i32::try_from(found.stx_btime.tv_nsec).unwrap_or_default();
        Ok(Timestamp::new(found.stx_btime.tv_sec, nanos).ok().filter(|_| known))
    }

    /// When its content last changed.
    pub fn changed(&self) -> io::Result<Timestamp> {
        let (second, nanos) = self.stamp()?.mtime;
        Timestamp::new(second, i32::try_from(nanos).unwrap_or_default()).map_err(io::Error::other)
    }

    pub fn is_folder(&self) -> io::Result<bool> {
        Ok(self.metadata()?.is_dir())
    }

    /// Reads a regular file of at most `limit` bytes. The result is one state of the file: if it changed in the meantime, Keyferry reads it
    /// again.
    pub fn read(&self, limit: usize) -> Result<WholeFile, Unreadable> {
        for _ in 0..ATTEMPTS {
            if let Some(whole) = self.read_once(limit)? {
                return Ok(whole);
            }
        }
        Err(Unreadable::Unstable)
    }

    /// The entries of a folder, by name. A folder with more than `most` entries is not read to its end.
    pub fn entries(&self, most: usize) -> Result<Vec<Self>, Unreadable> {
        let folder = self.open(OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&folder).map_err(io::Error::from)? {
            let name = OsString::from_vec(entry.map_err(io::Error::from)?.file_name().to_bytes().to_vec());
            if name == "." || name == ".." {
                continue;
            }
            if entries.len() == most {
                return Err(Unreadable::TooMany(most));
            }
            entries.push(Self { path: self.path.join(name), folder: self.folder.clone() });
        }
        entries.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(entries)
    }

    /// `None`: it changed while it was read.
    fn read_once(&self, limit: usize) -> Result<Option<WholeFile>, Unreadable> {
        // To open a device or a pipe already has effects: so Keyferry looks at the file first.
        if !self.metadata()?.is_file() {
            return Err(Unreadable::NotAFile);
        }
        // Another file may have taken its place in the meantime: the open must not wait for a writer, and must not make a terminal ours.
        let mut file = File::from(self.open(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?);
        let before = file.metadata()?;
        if !before.is_file() {
            return Err(Unreadable::NotAFile);
        }
        let too_large = |size| Unreadable::TooLarge { size, limit };
        let size = usize::try_from(before.size()).ok().filter(|size| *size <= limit).ok_or_else(|| too_large(before.size()))?;
        let bytes = read_to_end(&mut file, size, limit)?;
        if bytes.len() > limit {
            return Err(too_large(bytes.len() as u64));
        }
        let stamp = Stamp::from(&before);
        // Some file systems say 0 for every file (procfs, some of FUSE).
        let whole = bytes.len() == size || size == 0;
        if !whole || Stamp::from(&file.metadata()?) != stamp {
            return Ok(None);
        }
        Ok(Some(WholeFile { bytes, stamp, mode: before.mode(), local: is_local(&file) }))
    }

    fn metadata(&self) -> io::Result<Metadata> {
        File::from(self.open(OFlags::PATH)?).metadata()
    }

    fn open(&self, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        Ok(match &self.folder {
            None => retry_on_intr(|| rustix::fs::openat(CWD, &self.path, flags, Mode::empty()))?,
            Some(folder) => beneath::open(folder, &self.path, flags)?,
        })
    }
}

// === impl Located ===

impl Located {
    /// `None`: the path is not below the folder, or cannot be used.
    pub fn below(folder: &Arc<Path>, path: &Path) -> Option<Self> {
        let file = CString::new(path.strip_prefix(folder).ok()?.as_os_str().as_bytes()).ok()?;
        Some(Self { folder: Arc::clone(folder), file: file.into() })
    }
}

// === impl Found ===

impl Found {
    /// One system call, or two for a link. The file's file system is known to be one of this machine.
    pub fn at(path: &Path) -> io::Result<Self> {
        let found = std::fs::symlink_metadata(path)?;
        if found.is_symlink() {
            return Ok(Self { stamp: Stamp::of(path)?, is_noted: false });
        }
        Ok(Self { stamp: Stamp::from(&found), is_noted: found.is_file() && found.nlink() == 1 })
    }
}

// === impl Outlook ===

impl Outlook {
    /// # Errors
    /// The folder does not exist, or something else has its name.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = retry_on_intr(|| rustix::fs::openat(CWD, folder, flags, Mode::empty()))?;
        let found = statx(&folder, c"", AtFlags::EMPTY_PATH)?;
        let device = is_local(&folder).then(|| Stamp::from(&found).device);
        Ok(Self { folder, device })
    }

    /// Whether the folder's file system is one of this machine.
    pub fn is_local(&self) -> bool {
        self.device.is_some()
    }

    /// The present state of a file: one system call, or two for a link. No file is opened.
    pub fn look(&self, file: &CStr) -> io::Result<Found> {
        let found = statx(&self.folder, file, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(found.stx_mode.into());
        if kind == FileType::Symlink {
            let stamp = Stamp::from(&statx(&self.folder, file, AtFlags::empty())?);
            return Ok(Found { stamp, is_noted: false });
        }
        let stamp = Stamp::from(&found);
        let is_noted = kind == FileType::RegularFile && found.stx_nlink == 1 && self.device == Some(stamp.device);
        Ok(Found { stamp, is_noted })
    }
}

fn statx(folder: &OwnedFd, file: &CStr, flags: AtFlags) -> io::Result<Statx> {
    Ok(retry_on_intr(|| rustix::fs::statx(folder, file, flags, StatxFlags::BASIC_STATS))?)
}

impl fmt::Debug for WholeFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WholeFile").field("stamp", &self.stamp).finish_non_exhaustive()
    }
}

/// All bytes, and one more than `limit` if there are more. `size` is the size that the file system gives.
fn read_to_end(file: &mut File, size: usize, limit: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    // Room for everything, and more to see the end: a buffer that grows leaves copies behind, and a small read goes through the stack.
    let mut bytes = Zeroizing::new(Vec::with_capacity(size + 64));
    let most = (limit as u64).saturating_add(1);
    Read::by_ref(file).take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

// === impl WholeFile ===

impl WholeFile {
    /// As [`Named::read`], for a file that may be anywhere.
    pub fn read(path: &Path, limit: usize) -> Result<Self, Unreadable> {
        Named::anywhere(path).read(limit)
    }
}

// === impl Stamp ===

impl Stamp {
    /// The present state of the file at this path, with links followed: one system call.
    pub fn of(path: &Path) -> io::Result<Self> {
        std::fs::metadata(path).map(|metadata| Self::from(&metadata))
    }

    /// Whether a later write must give another stamp. Times are counted in ticks: a second write in the same tick would not be seen. So
    /// Keyferry remembers a file only when that tick has surely passed.
    pub fn settled(&self, now: Timestamp, local: bool) -> bool {
        // A tick is at most 10 ms on Linux; a server's clock may differ from ours, and may tick in seconds.
        let margin = if local { SignedDuration::from_millis(100) } else { SignedDuration::from_secs(3) };
        let nanos = i32::try_from(self.ctime.1).unwrap_or_default();
        Timestamp::new(self.ctime.0, nanos).is_ok_and(|changed| now.duration_since(changed) > margin)
    }
}

impl From<&Statx> for Stamp {
    fn from(found: &Statx) -> Self {
        let time = |at: StatxTimestamp| (at.tv_sec, i64::from(at.tv_nsec));
        Self {
            device: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            size: found.stx_size,
            mtime: time(found.stx_mtime),
            ctime: time(found.stx_ctime),
        }
    }
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// These file systems answer at once, by their magic number (linux/magic.h, statfs(2)); any other may be on a network.
fn is_local(file: impl AsFd) -> bool {
    const LOCAL: [u64; 10] = [
        0x0000_EF53, // ext2, ext3, ext4
        0x0102_1994, // tmpfs
        0x2FC1_2FC1, // zfs
        0x5846_5342, // xfs
        0x7371_7368, // squashfs
        0x794C_7630, // overlayfs
        0x8584_58F6, // ramfs
        0x9123_683E, // btrfs
        0xE0F5_E1E2, // erofs
        0xF2F5_2010, // f2fs
    ];
    // The field is signed or unsigned, with 32 or 64 bits, by architecture: its low 32 bits are the magic number everywhere.
    #[allow(clippy::cast_sign_loss, clippy::cast_lossless, clippy::unnecessary_cast)]
    rustix::fs::fstatfs(file).is_ok_and(|statfs| LOCAL.contains(&(statfs.f_type as u64 & 0xFFFF_FFFF)))
}

// === impl Unreadable ===

/// A path through something that is not a folder names nothing, like a path through a missing folder.
pub fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        if is_absence(&error) { Self::Absent } else { Self::Io(error) }
    }
}

// === drafts ===

/// Writes a new file (0600) to the disk, which will be renamed into its place. A file that a crash has left under this name is removed
/// first. Keyferry never follows the name, and never uses a file that somebody else has made in the meantime.
///
/// # Errors
/// The file cannot be made or written, or another one exists again (`AlreadyExists`).
pub fn write_draft(path: &Path, content: &[u8]) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = create_new(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Makes a new file (0600): not through a link, and not where a link leads.
pub fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(flag(OFlags::NOFOLLOW)).open(path)
}

fn flag(flags: OFlags) -> i32 {
    i32::try_from(flags.bits()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_is_no_readable_file_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "12345").unwrap();
        symlink(at("loop"), at("loop")).unwrap();
        symlink(at("gone"), at("dangling")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), Mode::RUSR | Mode::WUSR).unwrap();

        assert_eq!(WholeFile::read(&at("file"), 5).unwrap().bytes.as_slice(), b"12345");
        assert!(matches!(WholeFile::read(&at("file"), 4), Err(Unreadable::TooLarge { size: 5, limit: 4 })));
        assert!(matches!(WholeFile::read(&at("gone"), 9), Err(Unreadable::Absent)));
        assert!(matches!(WholeFile::read(&at("dangling"), 9), Err(Unreadable::Absent)));
        assert!(matches!(WholeFile::read(&at("file/under"), 9), Err(Unreadable::Absent)));
        assert!(matches!(WholeFile::read(&at("loop"), 9), Err(Unreadable::Io(_))));
        assert!(matches!(WholeFile::read(&at("pipe"), 9), Err(Unreadable::NotAFile)));
        assert!(matches!(WholeFile::read(folder.path(), 9), Err(Unreadable::NotAFile)));
        for device in ["/dev/zero", "/dev/null", "/dev/tty", "/dev/stdin/x"] {
            assert!(WholeFile::read(Path::new(device), 9).is_err(), "{device}");
        }
        // The file system gives its size as 0, but it has a content.
        assert!(WholeFile::read(Path::new("/proc/self/status"), MAX_FILE).unwrap().bytes.starts_with(b"Name:"));
        assert!(matches!(WholeFile::read(Path::new("/proc/self/status"), 9), Err(Unreadable::TooLarge { .. })));
    }

    #[test]
    fn a_socket_and_a_pipe_with_a_writer_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let (socket, pipe) = (folder.path().join("socket"), folder.path().join("pipe"));
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(matches!(WholeFile::read(&socket, 9), Err(Unreadable::NotAFile)));
        rustix::fs::mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
        let writer = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
        (&writer).write_all(b"x").unwrap();
        assert!(matches!(WholeFile::read(&pipe, 9), Err(Unreadable::NotAFile)));
        let mut still = [0; 1];
        (&writer).read_exact(&mut still).unwrap();
        assert_eq!(&still, b"x", "nothing was taken out of it");
    }

    #[test]
    fn a_class_reads_below_its_folder_alone() {
        let house = tempfile::tempdir().unwrap();
        let folder = house.path().join("tls");
        fs::create_dir_all(folder.join("many")).unwrap();
        fs::write(folder.join("ca.pem"), "inside").unwrap();
        fs::write(house.path().join("outside"), "outside").unwrap();
        symlink("../outside", folder.join("link")).unwrap();
        let read = |path: &str| Named::below(&folder, path).read(9).map(|whole| whole.bytes.to_vec());
        assert_eq!(read("ca.pem").unwrap(), b"inside");
        for path in ["link", "../outside", "/etc/hostname", "/dev/zero", "/proc/self/fd/1", "many", ""] {
            assert!(read(path).is_err(), "{path}");
        }
        for n in 0..5 {
            fs::write(folder.join(format!("many/{n}.pem")), "x").unwrap();
        }
        let many = Named::below(&folder, "many");
        assert!(many.is_folder().unwrap());
        assert_eq!(many.entries(5).unwrap().len(), 5);
        assert_eq!(many.entries(5).unwrap()[4].read(9).unwrap().bytes.as_slice(), b"x");
        assert!(matches!(many.entries(4), Err(Unreadable::TooMany(4))));
        assert!(Named::below(&folder, "ca.pem").entries(4).is_err());
        assert!(Named::below(&folder, "..").entries(4).is_err());
    }

    #[test]
    fn a_draft_is_new_and_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("precious"), "precious").unwrap();
        symlink(at("precious"), at("draft")).unwrap();
        write_draft(&at("draft"), b"new").unwrap();
        assert_eq!(fs::read(at("precious")).unwrap(), b"precious");
        assert_eq!(fs::read(at("draft")).unwrap(), b"new");
        assert_eq!(fs::metadata(at("draft")).unwrap().permissions().mode() & 0o777, 0o600);
        symlink(at("made-by-it"), at("dangling")).unwrap();
        assert_eq!(create_new(&at("dangling")).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(!at("made-by-it").exists());
        fs::create_dir(at("folder")).unwrap();
        assert!(write_draft(&at("folder"), b"").is_err());
    }

    #[test]
    fn a_change_gives_another_stamp_once_settled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "old").unwrap();
        let whole = WholeFile::read(&path, 9).unwrap();
        assert_eq!(Stamp::of(&path).unwrap(), whole.stamp);
        let at = Located::below(&folder.path().into(), &path).unwrap();
        assert_eq!(Outlook::open(&at.folder).unwrap().look(&at.file).unwrap(), Found { stamp: whole.stamp, is_noted: true });
        let changed = Timestamp::new(whole.stamp.ctime.0, 0).unwrap();
        assert!(!whole.stamp.settled(changed, true));
        assert!(whole.stamp.settled(changed + SignedDuration::from_secs(2), true));
        assert!(!whole.stamp.settled(changed + SignedDuration::from_secs(2), false));
        fs::write(folder.path().join("new"), "new").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_ne!(Stamp::of(&path).unwrap(), whole.stamp);
    }
}
