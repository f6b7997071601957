//! Whether any file below a folder has changed: one question to the kernel for all of them, by inotify(7), instead of a look at each file.
//!
//! The kernel notes a change before the call that makes it returns. So a question after a change finds it. The kernel notes what happens by
//! way of the watched folders: Keyferry still looks at each file that is a link or has a second name. The kernel notes no change by way of
//! a memory map, and no file system that is mounted over a folder below the root. For these cases, and for others that we do not know, all
//! files count as changed every [`BELIEVED`].
//!
//! Only for file systems of this machine: the kernel does not see the writes of another machine.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::time::{Duration, Instant};

/// How long Keyferry believes the kernel before it looks at each file once more.
const BELIEVED: Duration = Duration::from_secs(10);

/// How long Keyferry asks nothing if the kernel has no watch left (`fs.inotify.max_user_watches`, `max_user_instances`).
const REFUSED: Duration = Duration::from_mins(1);

/// The most watched folders. Each takes about a KiB of the kernel's memory. Files in further folders are looked at one by one.
const MOST: usize = 1024;

/// The most events that are read at once.
const EVENTS: usize = 256;

/// The events that mean a change of a file, its name, or a folder.
const WATCHED: WatchFlags = WatchFlags::ATTRIB
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// After these, the path may lead to another folder than the watched one.
const SELF: ReadFlags = ReadFlags::DELETE_SELF.union(ReadFlags::MOVE_SELF).union(ReadFlags::QUEUE_OVERFLOW).union(ReadFlags::UNMOUNT);

/// After these, another folder may have this name.
const NAME: ReadFlags = ReadFlags::DELETE.union(ReadFlags::MOVED_FROM).union(ReadFlags::MOVED_TO);

/// The files below one folder.
pub struct Inotify {
    root: PathBuf,
    born: Instant,
    watches: Mutex<Watches>,
    epoch: AtomicU64,
    /// When the kernel was last asked, in nanoseconds since `born`. Written after the epoch.
    asked: AtomicU64,
}

/// The time between two changes. While it is the same, no file has changed that was [covered](Inotify::cover) in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Epoch(pub u64);

struct Watches {
    /// `None`: not needed yet, or refused. It is kept when the watches go: to close it can block the caller.
    queue: Option<OwnedFd>,
    /// The watched folder's device and inode; `None`: nothing is watched.
    root: Option<(u64, u64)>,
    /// The watched folders, beginning with the root. For each of them, the folders above it are watched too.
    folders: HashMap<PathBuf, i32>,
    /// When the present epoch began.
    since: Instant,
    refused_until: Option<Instant>,
}

/// What the kernel has noted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum News {
    Nothing,
    Changes,
    /// The watched folders may be other folders by now.
    Folders,
    /// Also, there is more than one read can take.
    More,
}

// === impl Inotify ===

impl Inotify {
    pub fn below(root: impl Into<PathBuf>) -> Self {
        let born = Instant::now();
        let watches = Watches { queue: None, root: None, folders: HashMap::new(), since: born, refused_until: None };
        Self { root: root.into(), born, watches: Mutex::new(watches), epoch: AtomicU64::new(1), asked: AtomicU64::new(0) }
    }

    /// The epoch at some moment after `since`; `None`: this cannot be known without waiting.
    pub fn epoch(&self, since: Instant) -> Option<Epoch> {
        // Equal is not enough: the clock may give the same time twice.
        if self.asked.load(Ordering::Acquire) > self.nanos(since) {
            return Some(self.current());
        }
        let mut watches = self.watches.try_lock().ok()?;
        self.ask(&mut watches)
    }

    /// From now on the kernel notes each change of this file. The state that a look finds after this call stays the same for as long as
    /// this epoch lasts, if the file is [noted](super::Found::is_noted) at all. `None`: changes of this file are not noted.
    pub fn cover(&self, file: &Path) -> Option<Epoch> {
        let folder = file.strip_prefix(&self.root).ok()?.parent()?;
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        match watches.add(&self.root, folder) {
            Ok(covered) => covered.then(|| self.current()),
            Err(refusal) => {
                tracing::debug!(folder = %self.root.display(), "inotify: {refusal}; each file is looked at instead");
                watches.refused_until = Some(Instant::now() + REFUSED);
                self.begin_again(&mut watches);
                None
            }
        }
    }

    fn current(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.born).as_nanos()).unwrap_or(u64::MAX)
    }

    fn begin_again(&self, watches: &mut Watches) {
        watches.clear();
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Reads what the kernel has noted.
    fn ask(&self, watches: &mut Watches) -> Option<Epoch> {
        watches.root?;
        let now = Instant::now();
        let news = watches.news(&self.root);
        if news == News::Folders {
            self.begin_again(watches);
            return None;
        }
        if news != News::Nothing || now.saturating_duration_since(watches.since) >= BELIEVED {
            self.epoch.fetch_add(1, Ordering::AcqRel);
            watches.since = now;
        }
        if news == News::More {
            return None;
        }
        self.asked.store(self.nanos(now), Ordering::Release);
        Some(self.current())
    }
}

impl fmt::Debug for Inotify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inotify").field("root", &self.root).finish_non_exhaustive()
    }
}

// === impl Watches ===

impl Watches {
    /// Watches a folder and all folders above it, up to the root, which must exist. `false`: one of them is not a folder, or there are too
    /// many.
    ///
    /// # Errors
    /// The kernel has no watch left.
    fn add(&mut self, root: &Path, folder: &Path) -> Result<bool, Errno> {
        if self.root.is_some() && self.folders.contains_key(folder) {
            return Ok(true);
        }
        if self.refused_until.is_some_and(|until| Instant::now() < until) || self.folders.len() >= MOST {
            return Ok(false);
        }
        if let Some(above) = folder.parent() {
            return Ok(self.add(root, above)? && self.watch(&root.join(folder), folder, WATCHED | WatchFlags::DONT_FOLLOW)?);
        }
        let Ok(found) = identity(root) else { return Ok(false) };
        // Links on the path are followed: `news` checks whether they still lead there.
        let watched = self.watch(root, folder, WATCHED)? && !self.folders.is_empty();
        (self.root, self.since) = (watched.then_some(found), Instant::now());
        Ok(watched)
    }

    fn watch(&mut self, at: &Path, folder: &Path, flags: WatchFlags) -> Result<bool, Errno> {
        let queue = match &self.queue {
            Some(queue) => queue,
            None => self.queue.insert(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?),
        };
        match inotify::add_watch(queue, at, flags) {
            Ok(watch) => {
                self.folders.insert(folder.to_owned(), watch);
                Ok(true)
            }
            // When somebody makes it, the watch on the folder above notes that.
            Err(Errno::NOENT) => Ok(true),
            Err(Errno::NOTDIR | Errno::ACCESS | Errno::LOOP | Errno::NAMETOOLONG) => Ok(false),
            Err(refusal) => Err(refusal),
        }
    }

    /// Removes all watches.
    fn clear(&mut self) {
        self.root = None;
        for (_, watch) in self.folders.drain() {
            // The watch went with its folder, or goes now.
            let _ = self.queue.as_ref().map(|queue| inotify::remove_watch(queue, watch));
        }
    }

    fn news(&self, root: &Path) -> News {
        let Some(queue) = &self.queue else { return News::Folders };
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        let mut events = inotify::Reader::new(queue, &mut buffer);
        let mut news = News::Nothing;
        for _ in 0..EVENTS {
            match events.next().map(|event| event.events()) {
                Ok(of) if of.intersects(SELF) || (of.contains(ReadFlags::ISDIR) && of.intersects(NAME)) => return News::Folders,
                // After each removed watch, and after an event of `SELF`.
                Ok(of) if of.contains(ReadFlags::IGNORED) => {}
                Ok(_) => news = News::Changes,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if identity(root).ok() == self.root => return news,
                Err(_) => return News::Folders,
            }
        }
        News::More
    }
}

/// Device and inode, with links followed.
fn identity(folder: &Path) -> io::Result<(u64, u64)> {
    std::fs::metadata(folder).map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A folder, a second path to it, and a file below it.
    struct Bench {
        house: tempfile::TempDir,
        inotify: Inotify,
    }

    impl Bench {
        fn new() -> Self {
            let house = tempfile::tempdir().unwrap();
            fs::create_dir_all(house.path().join("v1/team/deep")).unwrap();
            fs::create_dir_all(house.path().join("v2/team/deep")).unwrap();
            symlink("v1", house.path().join("vault")).unwrap();
            for file in ["v1/top", "v1/team/db", "v1/team/deep/key", "v2/team/db", "v2/other"] {
                fs::write(house.path().join(file), "old").unwrap();
            }
            let inotify = Inotify::below(house.path().join("vault"));
            Self { house, inotify }
        }

        fn at(&self, file: &str) -> PathBuf {
            self.house.path().join(file)
        }

        fn cover(&self, file: &str) -> Option<Epoch> {
            self.inotify.cover(&self.at("vault").join(file))
        }

        fn epoch(&self) -> Option<Epoch> {
            self.inotify.epoch(Instant::now())
        }
    }

    #[test]
    fn each_change_ends_the_epoch_before_the_next_question() {
        type Change = fn(&Bench);
        let changes: [(&str, Change); 16] = [
            ("written to", |bench| fs::write(bench.at("v1/team/db"), "new").unwrap()),
            ("written to by an open descriptor", |bench| {
                let mut file = fs::OpenOptions::new().append(true).open(bench.at("v1/team/db")).unwrap();
                io::Write::write_all(&mut file, b"more").unwrap();
                std::mem::forget(file);
            }),
            ("cut", |bench| fs::File::options().write(true).open(bench.at("v1/team/db")).unwrap().set_len(1).unwrap()),
            ("replaced", |bench| fs::rename(bench.at("v2/other"), bench.at("v1/team/db")).unwrap()),
            ("removed", |bench| fs::remove_file(bench.at("v1/team/db")).unwrap()),
            ("moved away", |bench| fs::rename(bench.at("v1/team/db"), bench.at("v2/away")).unwrap()),
            ("given another mode", |bench| fs::set_permissions(bench.at("v1/team/db"), fs::Permissions::from_mode(0o600)).unwrap()),
            ("made", |bench| fs::write(bench.at("v1/team/new"), "new").unwrap()),
            ("in another folder", |bench| fs::write(bench.at("v1/top"), "new").unwrap()),
            ("its folder moved", |bench| fs::rename(bench.at("v1/team"), bench.at("v1/gone")).unwrap()),
            ("its folder moved out", |bench| fs::rename(bench.at("v1/team"), bench.at("v2/gone")).unwrap()),
            ("its folder replaced", |bench| {
                fs::rename(bench.at("v1/team"), bench.at("v1/gone")).unwrap();
                fs::rename(bench.at("v2/team"), bench.at("v1/team")).unwrap();
            }),
            ("its folder removed", |bench| fs::remove_dir_all(bench.at("v1/team")).unwrap()),
            ("the way in leads elsewhere", |bench| {
                symlink("v2", bench.at("new")).unwrap();
                fs::rename(bench.at("new"), bench.at("vault")).unwrap();
            }),
            ("the root replaced", |bench| {
                fs::rename(bench.at("v1"), bench.at("v0")).unwrap();
                fs::rename(bench.at("v2"), bench.at("v1")).unwrap();
            }),
            ("the root removed", |bench| fs::remove_dir_all(bench.at("v1")).unwrap()),
        ];
        for (name, change) in changes {
            let bench = Bench::new();
            for file in ["top", "team/db"] {
                bench.cover(file).unwrap();
            }
            let epoch = bench.epoch();
            assert!(epoch.is_some(), "{name}");
            assert_eq!(bench.epoch(), epoch, "{name}: nothing has happened");
            change(&bench);
            assert_ne!(bench.epoch(), epoch, "{name}");
            // And again, after the file is covered once more.
            if bench.cover("top").is_some() && bench.at("vault/top").exists() {
                let epoch = bench.epoch();
                assert_eq!(bench.epoch(), epoch, "{name}: nothing more has happened");
                fs::write(bench.at("vault/top"), "newer").unwrap();
                assert_ne!(bench.epoch(), epoch, "{name}, and once more");
            }
        }
    }

    #[test]
    fn a_question_is_answered_for_its_own_time_and_later_ones_for_theirs() {
        let bench = Bench::new();
        bench.cover("top").unwrap();
        let before = Instant::now();
        let epoch = bench.epoch();
        fs::write(bench.at("v1/top"), "new").unwrap();
        assert_eq!(bench.inotify.epoch(before), epoch, "the kernel was asked since then");
        assert_ne!(bench.epoch(), epoch);
        let _asking = bench.inotify.watches.lock().unwrap();
        assert_eq!(bench.epoch(), None, "nobody waits for another's question");
    }

    #[tokio::test(start_paused = true)]
    async fn the_kernel_is_believed_for_ten_seconds() {
        let bench = Bench::new();
        let epoch = bench.cover("top");
        assert_eq!(bench.epoch(), epoch);
        tokio::time::advance(Duration::from_millis(9_999)).await;
        assert_eq!(bench.epoch(), epoch);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_ne!(bench.epoch(), epoch);
        assert_eq!(bench.cover("top"), bench.epoch());
    }

    #[test]
    fn what_leads_elsewhere_is_not_known() {
        let bench = Bench::new();
        symlink("../v2/team", bench.at("v1/linked")).unwrap();
        assert_eq!(bench.cover("linked/db"), None, "a folder that is a link");
        assert_eq!(bench.cover("top/db"), None, "a file in a file");
        assert_eq!(bench.inotify.cover(&bench.at("v2/team/db")), None, "a file elsewhere");
        assert!(bench.cover("top").is_some());
        symlink("team/db", bench.at("v1/link")).unwrap();
        fs::hard_link(bench.at("v1/team/db"), bench.at("v1/second")).unwrap();
        let outlook = super::super::Outlook::open(&bench.at("vault")).unwrap();
        for (file, is_noted) in [("top", true), ("link", false), ("second", false), ("team/db", false), ("team", false)] {
            assert_eq!(super::super::Found::at(&bench.at("vault").join(file)).unwrap().is_noted, is_noted, "{file}");
            let name = std::ffi::CString::new(file).unwrap();
            assert_eq!(outlook.look(&name).unwrap().is_noted, is_noted, "{file}");
        }
        assert_eq!(Inotify::below(bench.at("nowhere")).cover(&bench.at("nowhere/top")), None);
        assert_eq!(Inotify::below(bench.at("v1/top")).cover(&bench.at("v1/top/x")), None);
    }

    #[test]
    fn a_folder_that_is_made_later_is_noticed() {
        let bench = Bench::new();
        let epoch = bench.cover(".history/team/db/1.age");
        assert!(epoch.is_some());
        assert_eq!(bench.epoch(), epoch);
        fs::create_dir_all(bench.at("v1/.history/team")).unwrap();
        assert_ne!(bench.epoch(), epoch);
        let epoch = bench.cover(".history/team/db/1.age");
        assert_eq!(bench.epoch(), epoch);
        fs::create_dir(bench.at("v1/.history/team/db")).unwrap();
        assert_ne!(bench.epoch(), epoch);
    }

    #[test]
    fn a_storm_of_changes_is_read_in_parts() {
        let bench = Bench::new();
        let epoch = bench.cover("top");
        for n in 0..2 * EVENTS {
            fs::write(bench.at(&format!("v1/{n}")), "new").unwrap();
        }
        assert_eq!(bench.epoch(), None, "not all was read");
        let calm = (0..100).find_map(|_| bench.epoch());
        assert!(calm.is_some() && calm != epoch, "{calm:?}");
        assert_eq!(bench.epoch(), calm);
    }

    #[test]
    fn there_is_an_end_to_the_folders() {
        let bench = Bench::new();
        for n in 0..MOST + 10 {
            fs::create_dir(bench.at(&format!("v1/{n}"))).unwrap();
        }
        let epoch = bench.cover("top");
        let covered = (0..MOST + 10).filter(|n| bench.cover(&format!("{n}/x")).is_some()).count();
        assert_eq!(covered, MOST - 1, "and the root");
        assert_eq!(bench.epoch(), epoch, "what is watched goes on");
        fs::write(bench.at("v1/0/x"), "new").unwrap();
        assert_ne!(bench.epoch(), epoch);
    }
}
