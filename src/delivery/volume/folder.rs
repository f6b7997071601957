//! Folders and files below a file descriptor, reached without following any link: the atomic writer is built on this.
//!
//! It is separate from the writer because it knows nothing of volumes. Only one descriptor is open at a time, however deep a tree is: a
//! path may have two thousand elements, but a process often has only a thousand descriptors.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, retry_on_intr};
use zeroize::Zeroizing;

use crate::model::Owner;

/// How many bytes of a file are compared at a time.
const CHUNK: usize = 64 * 1024;

/// A name in a folder.
pub(super) struct Entry {
    pub(super) name: OsString,
    /// A real folder: a link to one is not.
    pub(super) is_folder: bool,
}

/// A folder that a walk finds.
pub(super) struct Folder {
    /// The path from the walk's root; the root's own path is empty.
    pub(super) path: PathBuf,
    pub(super) mode: u16,
    pub(super) entries: Vec<Entry>,
}

/// An open file, or something else with its name.
pub(super) struct File(OwnedFd);

/// The kind of a file.
pub(super) struct Look {
    pub(super) regular: bool,
    pub(super) mode: u16,
    pub(super) size: u64,
    pub(super) owner: Owner,
}

/// Opens a folder below `root`, however deep. A link anywhere on the path gives `ELOOP` or `ENOTDIR`.
pub(super) fn open_folder(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    retry_on_intr(|| rustix::fs::openat2(root, path, flags, Mode::empty(), resolve))
}

/// Opens a file below `root`; a new one gets the mode 0600. `O_NONBLOCK`: the writer must not wait for a pipe of that name.
pub(super) fn open_in(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<File, Errno> {
    let (folder, name) = split(path)?;
    let folder = open_folder(root, folder)?;
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    retry_on_intr(|| rustix::fs::openat(&folder, name, flags, Mode::RUSR | Mode::WUSR)).map(File)
}

/// Makes a folder below `root`, with exactly this mode. Its parent folder must exist.
pub(super) fn make_folder(root: BorrowedFd<'_>, path: &Path, mode: u32) -> Result<(), Errno> {
    let (folder, name) = split(path)?;
    rustix::fs::mkdirat(open_folder(root, folder)?, name, Mode::RWXU)?;
    rustix::fs::fchmod(open_folder(root, path)?, Mode::from(mode))
}

/// The entries of a folder.
pub(super) fn entries(dir: BorrowedFd<'_>) -> Result<Vec<Entry>, Errno> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
        if name == "." || name == ".." {
            continue;
        }
        let mut kind = entry.file_type();
        // Some file systems do not give it in the listing.
        if kind == FileType::Unknown {
            kind = match rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(Errno::NOENT) => continue,
                Err(cause) => return Err(cause),
            };
        }
        entries.push(Entry { name, is_folder: kind == FileType::Directory });
    }
    Ok(entries)
}

/// All folders of a tree, each before the folders in it.
pub(super) fn walk(root: BorrowedFd<'_>) -> Result<Vec<Folder>, Errno> {
    let mut folders = Vec::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let dir = open_folder(root, &path)?;
        let entries = entries(dir.as_fd())?;
        todo.extend(entries.iter().filter(|entry| entry.is_folder).map(|entry| path.join(&entry.name)));
        let mode = permissions(rustix::fs::fstat(&dir)?.st_mode);
        folders.push(Folder { path, mode, entries });
    }
    Ok(folders)
}

/// Removes a tree, or whatever else has the name; of a link, only the link. `before` is called before each removal.
pub(super) fn remove_tree(root: BorrowedFd<'_>, name: &OsStr, before: &mut dyn FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    let tree = match open_folder(root, Path::new(name)) {
        Ok(tree) => tree,
        Err(Errno::NOTDIR | Errno::LOOP) => return before().and_then(|()| rustix::fs::unlinkat(root, name, AtFlags::empty())),
        Err(cause) => return Err(cause),
    };
    for folder in walk(tree.as_fd())?.iter().rev() {
        let dir = open_folder(tree.as_fd(), &folder.path)?;
        for entry in &folder.entries {
            let flags = if entry.is_folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            before()?;
            rustix::fs::unlinkat(&dir, &entry.name, flags)?;
        }
    }
    before()?;
    rustix::fs::unlinkat(root, name, AtFlags::REMOVEDIR)
}

// === impl File ===

impl File {
    pub(super) fn fill(&self, mut contents: &[u8]) -> Result<(), Errno> {
        while !contents.is_empty() {
            let written = retry_on_intr(|| rustix::io::write(&self.0, contents))?;
            contents = contents.get(written..).filter(|_| written > 0).ok_or(Errno::IO)?;
        }
        Ok(())
    }

    pub(super) fn look(&self) -> Result<Look, Errno> {
        let stat = rustix::fs::fstat(&self.0)?;
        Ok(Look {
            regular: FileType::from_raw_mode(stat.st_mode).is_file(),
            mode: permissions(stat.st_mode),
            size: u64::try_from(stat.st_size).unwrap_or(u64::MAX),
            owner: Owner { uid: stat.st_uid, gid: stat.st_gid },
        })
    }

    /// Whether the file holds exactly these bytes.
    pub(super) fn equals(&self, mut contents: &[u8]) -> Result<bool, Errno> {
        let mut buffer = Zeroizing::new(vec![0; CHUNK.min(contents.len() + 1)]);
        loop {
            let read = retry_on_intr(|| rustix::io::read(&self.0, buffer.as_mut_slice()))?;
            match contents.strip_prefix(&buffer[..read]) {
                None => return Ok(false),
                Some(rest) if read == 0 => return Ok(rest.is_empty()),
                Some(rest) => contents = rest,
            }
        }
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The permission bits of a mode, with set-user-id, set-group-id and sticky.
fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).unwrap_or(u16::MAX)
}

/// A path's folder and its last element.
fn split(path: &Path) -> Result<(&Path, &OsStr), Errno> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    Ok((path.parent().unwrap_or(Path::new("")), name))
}
