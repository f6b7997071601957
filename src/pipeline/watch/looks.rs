//! The files that volumes use, and the looks at them: one look at each file in each round, however many volumes use it.
//!
//! If the kernel notes changes for us ([`Inotify`]), a round without a change costs a few system calls for each folder; otherwise one for
//! each file. The list for a look is made again only when a file was added or removed.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant};

use crate::files::{Epoch, Found, Inotify, Located, Outlook, Stamp, is_absence};

/// A changed file counts as changed once more after this time. Times of files are counted in ticks, of up to some seconds on a network: a
/// second change in the same tick cannot be seen.
const AGAIN: Duration = Duration::from_secs(3);

/// All files, by folder.
#[derive(Debug, Default)]
pub(super) struct Files {
    folders: HashMap<Arc<Path>, Folder>,
    /// Whether a file may have lost its last volume.
    loose: bool,
}

/// The files below one folder.
#[derive(Debug)]
struct Folder {
    /// In the order of their names: the files of one folder are looked at one after the other, which costs the kernel less.
    files: BTreeMap<Arc<CStr>, Arc<Watched>>,
    /// The same, for the looks; `None`: a file was added or removed since.
    listed: Option<Listed>,
    /// How many lists there were.
    lists: u64,
    /// A look is under way. There is only one at a time: a file system that hangs blocks one thread.
    looking: Arc<AtomicBool>,
    rounds: Arc<Rounds>,
}

/// The files of one folder, and a number that no other list of them has.
#[derive(Clone, Debug)]
struct Listed {
    number: u64,
    files: Arc<[Arc<Watched>]>,
}

/// What one look at a folder leaves for the next.
#[derive(Debug)]
struct Rounds {
    inotify: Inotify,
    /// The number of the list whose files were all looked at, and for how long they are known to be the same.
    known: Mutex<Option<(u64, Epoch)>>,
}

/// One file, however many volumes use it.
#[derive(Debug)]
pub(super) struct Watched {
    file: Arc<CStr>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// `None`: not looked at yet.
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

/// The result of a look.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Looked {
    Changed,
    Same,
    /// The same, and the kernel notes whatever changes it.
    Known,
}

/// The files of one folder, for a look on a thread that may block.
#[derive(Debug)]
#[must_use = "no other look begins before it is dropped"]
pub struct Look {
    folder: Arc<Path>,
    listed: Listed,
    looking: Arc<AtomicBool>,
    rounds: Arc<Rounds>,
    stirred: Arc<AtomicBool>,
}

// === impl Files ===

impl Files {
    pub fn get(&mut self, at: Located) -> Arc<Watched> {
        let Located { folder, file } = at;
        let folder = self.folders.entry(folder).or_insert_with_key(|path| Folder::at(path));
        if let Some(known) = folder.files.get(&file) {
            return Arc::clone(known);
        }
        let new = Arc::new(Watched { file: Arc::clone(&file), seen: Mutex::default() });
        folder.files.insert(file, Arc::clone(&new));
        folder.listed = None;
        new
    }

    /// A volume is gone; it may have been the last one of a file.
    pub fn loosen(&mut self) {
        self.loose = true;
    }

    /// The looks that are due now: one for each folder whose last look has ended. `stirred` is set if a file changed.
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
    fn at(path: &Path) -> Self {
        let rounds = Rounds { inotify: Inotify::below(path), known: Mutex::default() };
        Self { files: BTreeMap::new(), listed: None, lists: 0, looking: Arc::default(), rounds: Arc::new(rounds) }
    }

    /// Drops the files that no volume uses. Returns whether one is left.
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
        let listed = self.listed.get_or_insert_with(|| {
            self.lists += 1;
            Listed { number: self.lists, files: self.files.values().cloned().collect() }
        });
        let (folder, listed, looking) = (Arc::clone(path), listed.clone(), Arc::clone(&self.looking));
        Some(Look { folder, listed, looking, rounds: Arc::clone(&self.rounds), stirred: Arc::clone(stirred) })
    }

    fn is_looking(&self) -> bool {
        self.looking.load(Ordering::Acquire)
    }
}

// === impl Look ===

impl Look {
    /// Looks at each file once, unless all are known to be the same. Blocks for as long as the file system does. If the folder is missing,
    /// no file counts as changed: the folder may be moving from one place to another, and the next mount reports what is wrong.
    pub fn run(&self) {
        if self.rounds.know(self.listed.number) {
            return;
        }
        let Ok(outlook) = Outlook::open(&self.folder) else { return };
        // Before the looks: a change after them ends the epoch.
        let epoch = self.rounds.cover(&outlook, &self.folder, &self.listed.files);
        let (mut changed, mut known) = (false, true);
        for file in &*self.listed.files {
            let looked = file.look(&outlook);
            changed |= looked == Looked::Changed;
            known &= looked == Looked::Known;
        }
        if changed {
            self.stirred.store(true, Ordering::Release);
        }
        self.rounds.put(epoch.filter(|_| known).map(|epoch| (self.listed.number, epoch)));
    }

    #[cfg(test)]
    pub fn at(&self) -> (&Path, usize) {
        (&self.folder, self.listed.files.len())
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        self.looking.store(false, Ordering::Release);
    }
}

// === impl Rounds ===

impl Rounds {
    /// Whether all files of this list are as they were at their last look.
    fn know(&self, list: u64) -> bool {
        let known = *self.lock();
        known.is_some_and(|(number, epoch)| number == list && self.inotify.epoch(Instant::now()) == Some(epoch))
    }

    /// `None`: not all of them can be known.
    fn cover(&self, outlook: &Outlook, folder: &Path, files: &[Arc<Watched>]) -> Option<Epoch> {
        if !outlook.is_local() {
            return None;
        }
        let mut all = None;
        for file in files {
            let epoch = self.inotify.cover(&folder.join(OsStr::from_bytes(file.file.to_bytes())))?;
            if *all.get_or_insert(epoch) != epoch {
                return None;
            }
        }
        all
    }

    fn put(&self, known: Option<(u64, Epoch)>) {
        *self.lock() = known;
    }

    fn lock(&self) -> MutexGuard<'_, Option<(u64, Epoch)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Watched ===

impl Watched {
    pub fn changed(&self) -> Option<Instant> {
        self.seen().changed
    }

    /// A file that cannot be looked at counts as unchanged: its next mount reports what is wrong.
    fn look(&self, outlook: &Outlook) -> Looked {
        let Some((state, is_noted)) = State::of(&self.file, outlook) else { return Looked::Same };
        let mut seen = self.seen();
        if seen.state == Some(state) && !seen.once_more {
            return if is_noted { Looked::Known } else { Looked::Same };
        }
        // After the look: a fetch before this moment may not have what the look saw.
        let (now, is_new) = (Instant::now(), seen.state != Some(state));
        let is_due = is_new || seen.changed.is_some_and(|at| now.saturating_duration_since(at) >= AGAIN);
        if !is_due {
            return Looked::Same;
        }
        *seen = Seen { state: Some(state), changed: Some(now), once_more: is_new };
        Looked::Changed
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Also whether the kernel notes each change of it. `None`: not known.
    fn of(file: &CStr, outlook: &Outlook) -> Option<(Self, bool)> {
        match outlook.look(file) {
            Ok(Found { stamp, is_noted }) => Some((Self::There(stamp), is_noted)),
            Err(error) => is_absence(&error).then_some((Self::Absent, true)),
        }
    }
}
