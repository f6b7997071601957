//! The files that volumes use, and the looks at them: each file once in a round, however many volumes use it.
//!
//! A round in which nothing changed costs one system call per file and nothing else: what a look goes through is made again only when a
//! file came or went.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CStr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant};

use crate::files::{Located, Outlook, Stamp, is_absence};

/// A file that changed counts as changed once more after this time. Times of files are counted in ticks, of up to some seconds on a network:
/// a second change within the tick of the first looks like none.
const AGAIN: Duration = Duration::from_secs(3);

/// All files, by folder.
#[derive(Debug, Default)]
pub(super) struct Files {
    folders: HashMap<Arc<Path>, Folder>,
    /// Whether a file may have lost its last volume.
    loose: bool,
}

/// The files below one folder.
#[derive(Debug, Default)]
struct Folder {
    /// In the order of their names: the files of one folder are looked at one after the other, which costs the kernel less.
    files: BTreeMap<Arc<CStr>, Arc<Watched>>,
    /// The same, for the looks; `None`: one came or went since.
    listed: Option<Arc<[Arc<Watched>]>>,
    /// A look is under way. There is never another one beside it: a file system that hangs has one thread.
    looking: Arc<AtomicBool>,
}

/// One file, however many volumes use it.
#[derive(Debug)]
pub(super) struct Watched {
    file: Arc<CStr>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// `None`: nobody has looked yet.
    state: Option<State>,
    changed: Option<Instant>,
    /// Whether it counts as changed once more.
    once_more: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Absent,
    There(Stamp),
}

/// The files of one folder, to be looked at on a thread that may be kept waiting.
#[derive(Debug)]
#[must_use = "no other look begins before it is dropped"]
pub struct Look {
    folder: Arc<Path>,
    files: Arc<[Arc<Watched>]>,
    looking: Arc<AtomicBool>,
    stirred: Arc<AtomicBool>,
}

// === impl Files ===

impl Files {
    pub fn get(&mut self, at: Located) -> Arc<Watched> {
        let Located { folder, file } = at;
        let folder = self.folders.entry(folder).or_default();
        if let Some(known) = folder.files.get(&file) {
            return Arc::clone(known);
        }
        let new = Arc::new(Watched { file: Arc::clone(&file), seen: Mutex::default() });
        folder.files.insert(file, Arc::clone(&new));
        folder.listed = None;
        new
    }

    /// A volume has gone, and perhaps the last one of a file.
    pub fn loosen(&mut self) {
        self.loose = true;
    }

    /// The looks to be made now: one for each folder whose last look has ended. `stirred` is set if a file changed.
    pub fn looks(&mut self, stirred: &Arc<AtomicBool>) -> Vec<Look> {
        if self.loose {
            self.folders.retain(|_, folder| folder.tidy() || folder.is_looking());
            // A look holds its files as a volume does.
            self.loose = self.folders.values().any(Folder::is_looking);
        }
        self.folders.iter_mut().filter_map(|(path, folder)| folder.look(path, stirred)).collect()
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.folders.values().map(|folder| folder.files.len()).sum()
    }
}

// === impl Folder ===

impl Folder {
    /// Drops the files that no volume uses. Whether one is left.
    fn tidy(&mut self) -> bool {
        let (before, own) = (self.files.len(), 1 + usize::from(self.listed.is_some()));
        self.files.retain(|_, file| Arc::strong_count(file) > own);
        if self.files.len() != before {
            self.listed = None;
        }
        !self.files.is_empty()
    }

    fn look(&mut self, path: &Arc<Path>, stirred: &Arc<AtomicBool>) -> Option<Look> {
        if self.files.is_empty() || self.looking.swap(true, Ordering::AcqRel) {
            return None;
        }
        let files = self.listed.get_or_insert_with(|| self.files.values().cloned().collect());
        let (folder, files, looking, stirred) = (Arc::clone(path), Arc::clone(files), Arc::clone(&self.looking), Arc::clone(stirred));
        Some(Look { folder, files, looking, stirred })
    }

    fn is_looking(&self) -> bool {
        self.looking.load(Ordering::Acquire)
    }
}

// === impl Look ===

impl Look {
    /// Looks at each file once. Blocks for as long as the file system does. Without the folder, no file has changed: it may be on its way
    /// from one place to another, and the next mount says what is wrong.
    pub fn run(&self) {
        let Ok(outlook) = Outlook::open(&self.folder) else { return };
        let mut changed = false;
        for file in &*self.files {
            changed |= file.look(&outlook);
        }
        if changed {
            self.stirred.store(true, Ordering::Release);
        }
    }

    #[cfg(test)]
    pub fn at(&self) -> (&Path, usize) {
        (&self.folder, self.files.len())
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        self.looking.store(false, Ordering::Release);
    }
}

// === impl Watched ===

impl Watched {
    pub fn changed(&self) -> Option<Instant> {
        self.seen().changed
    }

    /// Whether it changed. A file that cannot be looked at has not: its next mount says what is wrong.
    fn look(&self, outlook: &Outlook) -> bool {
        let Some(state) = State::of(&self.file, outlook) else { return false };
        let mut seen = self.seen();
        if seen.state == Some(state) && !seen.once_more {
            return false;
        }
        // After the look: what was fetched before now may not be what was seen.
        let (now, is_new) = (Instant::now(), seen.state != Some(state));
        let is_due = is_new || seen.changed.is_some_and(|at| now.saturating_duration_since(at) >= AGAIN);
        if is_due {
            *seen = Seen { state: Some(state), changed: Some(now), once_more: is_new };
        }
        is_due
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// `None`: nobody can tell.
    fn of(file: &CStr, outlook: &Outlook) -> Option<Self> {
        match outlook.stamp(file) {
            Ok(stamp) => Some(Self::There(stamp)),
            Err(error) => is_absence(&error).then_some(Self::Absent),
        }
    }
}
