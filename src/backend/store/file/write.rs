//! Writes files that are either whole or not there, also after a power cut.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::files::{create_new, write_draft};

/// The name of a file until it is whole. One per folder is enough, since writers hold the vault's lock. If a crash leaves it behind, the
/// next write there replaces it.
pub const UNFINISHED: &str = ".unfinished";

/// Writes a file (0600) next to its place, then moves it there: a reader sees the old or the new content.
/// When this returns, the content is on the disk.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let unfinished = folder_of(path).join(UNFINISHED);
    step()?;
    write_draft(&unfinished, content)?;
    step()?;
    fs::rename(&unfinished, path)?;
    sync_folder_of(path)
}

/// Files that go to their places together: one sync of the file system is enough for all, where [`replace`] needs two for each.
///
/// They are written in a separate folder. All files of the first turn are in their places before the first one of the second turn is, also
/// after a power cut.
#[derive(Debug)]
pub struct Batch {
    folder: PathBuf,
    turns: [Vec<(PathBuf, PathBuf)>; 2],
}

/// When a file of a batch goes to its place.
#[derive(Clone, Copy, Debug)]
pub enum Turn {
    First,
    Second,
}

impl Batch {
    /// Only the batch uses `folder`. Removes what an earlier batch, which was cut short, has left there.
    pub fn begin(folder: PathBuf) -> io::Result<Self> {
        make_folder(&folder)?;
        for entry in fs::read_dir(&folder)? {
            fs::remove_file(entry?.path())?;
        }
        Ok(Self { folder, turns: [Vec::new(), Vec::new()] })
    }

    /// Writes a file (0600) for this path.
    pub fn put(&mut self, turn: Turn, path: PathBuf, content: &[u8]) -> io::Result<()> {
        let [first, second] = &mut self.turns;
        let draft = self.folder.join((first.len() + second.len()).to_string());
        step()?;
        create_new(&draft)?.write_all(content)?;
        match turn {
            Turn::First => first.push((draft, path)),
            Turn::Second => second.push((draft, path)),
        }
        Ok(())
    }

    /// Moves every file to its place. When this returns, all are on the disk.
    pub fn commit(self) -> io::Result<()> {
        let folders: BTreeSet<&Path> = self.turns.iter().flatten().map(|(_, path)| folder_of(path)).collect();
        for folder in folders {
            DirBuilder::new().mode(0o700).recursive(true).create(folder)?;
        }
        sync_file_system(&self.folder)?;
        for turn in self.turns.iter().filter(|turn| !turn.is_empty()) {
            for (draft, path) in turn {
                step()?;
                match fs::rename(draft, path) {
                    // A folder of the vault may be a link to another file system.
                    Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                        replace(path, &fs::read(draft)?)?;
                        fs::remove_file(draft)?;
                    }
                    done => done?,
                }
            }
            sync_file_system(&self.folder)?;
        }
        fs::remove_dir(&self.folder)
    }
}

#[cfg(target_os = "linux")]
fn sync_file_system(folder: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(folder)?)?)
}

#[cfg(not(target_os = "linux"))]
fn sync_file_system(_: &Path) -> io::Result<()> {
    rustix::fs::sync();
    Ok(())
}

/// The process may end at this moment: tests end the work here.
#[cfg(not(test))]
#[allow(clippy::unnecessary_wraps)] // in tests it fails
fn step() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
fn step() -> io::Result<()> {
    STEPS.with(|steps| match steps.get() {
        Some(0) => Err(io::Error::other("cut short")),
        left => {
            steps.set(left.map(|left| left - 1));
            Ok(())
        }
    })
}

#[cfg(test)]
thread_local! {
    /// How many steps this thread may take before it is cut short.
    pub static STEPS: std::cell::Cell<Option<usize>> = const { std::cell::Cell::new(None) };
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

/// A new, renamed or removed entry is on the disk only when its folder is.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

/// The folder that a path is in; for a name without a folder, the current one.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ if path.has_root() => Path::new("/"),
        _ => Path::new("."),
    }
}
