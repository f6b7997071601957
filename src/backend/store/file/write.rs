//! Files that are there whole or not at all, also after a power cut.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::files::write_draft;

/// The name a file has until it is whole. One a folder is enough, since writers hold the vault's lock; what a crash leaves behind is
/// replaced by the next write there.
pub const UNFINISHED: &str = ".unfinished";

/// Writes a file (0600) beside its place, then moves it there: a reader sees the old or the new content.
/// When this returns, the content is on the disk.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let unfinished = folder_of(path).join(UNFINISHED);
    write_draft(&unfinished, content)?;
    fs::rename(&unfinished, path)?;
    sync_folder_of(path)
}

/// Whether there was a file to remove.
pub fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes the folder and those above it (0700) where they are missing, durably.
pub fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    make_folder(folder_of(path))?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_folder_of(path),
    }
}

/// A new, renamed or removed entry is only on the disk once its folder is.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

/// The folder a path lies in; the current one for a lone name.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ if path.has_root() => Path::new("/"),
        _ => Path::new("."),
    }
}
