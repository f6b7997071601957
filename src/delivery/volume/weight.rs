//! What a volume costs in memory, in pages: for files that will be written, and for the content of a folder.
//!
//! A tmpfs stores a file's content in whole pages. In addition, each name costs the kernel an inode and a directory entry, charged to the
//! same control group: so empty files and folders also cost memory.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;

use super::folder::open_folder;
use super::{VolumeFile, is_own_data_folder};
use crate::steps::Steps;

/// A page in bytes: the smallest that Linux has.
pub const PAGE: usize = 4096;

/// What a name costs in bytes, without its content: an inode of a tmpfs and a directory entry, with a name of up to 255 bytes.
const NAME: usize = 1280;

/// A link to more than this many bytes has its own page (Linux, `mm/shmem.c`, `SHORT_SYMLINK_LEN`).
const SHORT_LINK: usize = 128;

/// What a name costs in steps: it needs a few system calls.
const STEPS: u64 = 64;

/// The pages that a volume of these files needs.
pub fn weight(files: &[VolumeFile<'_>]) -> usize {
    let folders: BTreeSet<_> = files.iter().flat_map(|file| file.path.parents()).collect();
    let top: BTreeSet<_> = files.iter().filter_map(|file| file.path.as_str().split('/').next()).collect();
    let contents: usize = files.iter().map(|file| of_file(file.contents.len())).sum();
    let links: usize = top.iter().map(|name| of_link(name.len())).sum();
    // The data folder and the pointer.
    pages(contents + links + (folders.len() + 2) * NAME)
}

/// The pages of the volume in this folder, if this writer wrote it; `None`: another writer or nobody wrote it. If there are not enough
/// steps, the pages that were counted until then.
pub fn measure(volume: BorrowedFd<'_>, steps: &Steps) -> Result<Option<usize>, Errno> {
    let (mut bytes, mut own) = (0, false);
    for entry in Dir::read_from(volume)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if steps.charge(STEPS).is_err() {
            break;
        }
        if is_own_data_folder(name.as_bytes()) {
            own = true;
            bytes += NAME + measure_folder(volume, name, steps)?;
        } else if entry.file_type() == FileType::Symlink {
            bytes += of_link(name.len());
        }
    }
    Ok(own.then(|| pages(bytes)))
}

/// The bytes of everything in a folder, however deep.
fn measure_folder(volume: BorrowedFd<'_>, name: &OsStr, steps: &Steps) -> Result<usize, Errno> {
    let (mut bytes, mut todo) = (0, vec![PathBuf::from(name)]);
    while let Some(path) = todo.pop() {
        let dir = open_folder(volume, Path::new(&path))?;
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            if steps.charge(STEPS + path.as_os_str().len() as u64).is_err() {
                return Ok(bytes);
            }
            let stat = match rustix::fs::statat(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                stat => stat?,
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                bytes += NAME;
                todo.push(path.join(name));
            } else {
                bytes += of_file(usize::try_from(stat.st_size).unwrap_or(0));
            }
        }
    }
    Ok(bytes)
}

/// At least one page: an empty file too.
fn of_file(contents: usize) -> usize {
    contents.div_ceil(PAGE).max(1) * PAGE + NAME
}

/// Of `name -> ..data/name`.
fn of_link(name: usize) -> usize {
    NAME + if name + "..data/".len() > SHORT_LINK { PAGE } else { 0 }
}

fn pages(bytes: usize) -> usize {
    bytes.div_ceil(PAGE)
}
