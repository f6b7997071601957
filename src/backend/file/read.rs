//! Reading a file whole, and knowing later whether it is still the same one.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use rustix::fs::{Mode, OFlags};
use thiserror::Error;
use zeroize::Zeroizing;

/// How often a file that changes while it is read is read again.
const ATTEMPTS: usize = 5;

/// What tells one state of a file from every other: a file that is replaced has another inode, one that is written to another ctime,
/// which no program can set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

/// A file's content, and the state it was read in. No `Debug`: it may be an identity.
pub struct WholeFile {
    pub bytes: Zeroizing<Vec<u8>>,
    pub stamp: Stamp,
    pub mode: u32,
    /// Whether its file system is known to answer at once: a disk or memory of this machine.
    pub local: bool,
}

/// Why a file could not be read. The message follows the file's name.
#[derive(Debug, Error)]
pub enum Unreadable {
    #[error("is absent")]
    Absent,
    #[error("cannot be read: {0}")]
    Io(io::Error),
    #[error("is no regular file")]
    NotAFile,
    #[error("is {size} bytes long; at most {limit} are read")]
    TooLarge { size: u64, limit: usize },
    #[error("keeps changing while it is read")]
    Unstable,
}

impl Stamp {
    /// The present state of the file at this path, symlinks followed: one system call.
    pub fn of(path: &Path) -> io::Result<Self> {
        std::fs::metadata(path).map(|metadata| Self::from(&metadata))
    }

    /// Whether a later write must give another stamp. Times are counted in ticks: one write more within the tick of the last would
    /// not be seen, so a file is only remembered once that tick is surely over.
    pub fn settled(&self, now: Timestamp, local: bool) -> bool {
        // A tick is at most 10 ms on Linux; a server's clock may differ from ours, and may tick in seconds.
        let margin = if local { SignedDuration::from_millis(100) } else { SignedDuration::from_secs(3) };
        let nanos = i32::try_from(self.ctime.1).unwrap_or_default();
        Timestamp::new(self.ctime.0, nanos).is_ok_and(|changed| now.duration_since(changed) > margin)
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

impl WholeFile {
    /// Reads a regular file of at most `limit` bytes, symlinks followed. What is read is one state of the file: if it changed in
    /// the meantime it is read again.
    pub fn read(path: &Path, limit: usize) -> Result<Self, Unreadable> {
        for _ in 0..ATTEMPTS {
            if let Some(whole) = read_once(path, limit)? {
                return Ok(whole);
            }
        }
        Err(Unreadable::Unstable)
    }
}

/// `None`: it changed while it was read.
fn read_once(path: &Path, limit: usize) -> Result<Option<WholeFile>, Unreadable> {
    // Not blocking: where a pipe lies in a file's place, opening it must not wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)?);
    let before = file.metadata()?;
    if !before.is_file() {
        return Err(Unreadable::NotAFile);
    }
    let size = usize::try_from(before.size()).ok().filter(|size| *size <= limit);
    let Some(size) = size else { return Err(Unreadable::TooLarge { size: before.size(), limit }) };
    // Exactly its size, and one byte more to see whether it grew.
    let mut bytes = Zeroizing::new(vec![0; size + 1]);
    let length = fill(&mut file, &mut bytes)?;
    let stamp = Stamp::from(&before);
    if length != size || Stamp::from(&file.metadata()?) != stamp {
        return Ok(None);
    }
    bytes.truncate(size);
    Ok(Some(WholeFile { bytes, stamp, mode: before.mode(), local: is_local(&file) }))
}

fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// File systems that answer at once are listed by their magic number (linux/magic.h, statfs(2)); any other may be a network's.
fn is_local(file: &File) -> bool {
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
    // The field is signed or not, 32 or 64 bits wide, by architecture: its low 32 bits are the magic number everywhere.
    #[allow(clippy::cast_sign_loss, clippy::cast_lossless, clippy::unnecessary_cast)]
    rustix::fs::fstatfs(file).is_ok_and(|statfs| LOCAL.contains(&(statfs.f_type as u64 & 0xFFFF_FFFF)))
}

/// A path through something that is no folder names nothing, as one through an absent folder does.
pub fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        if is_absence(&error) { Self::Absent } else { Self::Io(error) }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

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
    }

    #[test]
    fn a_change_gives_another_stamp_once_settled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "old").unwrap();
        let whole = WholeFile::read(&path, 9).unwrap();
        assert_eq!(Stamp::of(&path).unwrap(), whole.stamp);
        let changed = Timestamp::new(whole.stamp.ctime.0, 0).unwrap();
        assert!(!whole.stamp.settled(changed, true));
        assert!(whole.stamp.settled(changed + SignedDuration::from_secs(2), true));
        assert!(!whole.stamp.settled(changed + SignedDuration::from_secs(2), false));
        fs::write(folder.path().join("new"), "new").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_ne!(Stamp::of(&path).unwrap(), whole.stamp);
    }
}
