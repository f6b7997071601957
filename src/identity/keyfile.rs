//! The file the issuer's keys are in: read again when it changes, so that a new key is known and a withdrawn one is refused without a
//! restart. A ConfigMap's symlink swap, a rename over it and a write in place are all changes.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::time::{Duration, Instant};

use super::keys::KeySet;

/// The largest file in bytes. Kubernetes' have two or three keys in under 2 KiB.
const MAX_SIZE: u64 = 1024 * 1024;

/// How often a file that is faulty, or may have been read in the middle of a change, is read again. Also how old the last look at the
/// file may be for a token that has been verified before: [`KeyFile::recent`] counts in whole seconds.
const INTERVAL: Duration = Duration::from_secs(1);

/// The keys in a file, as they are now.
///
/// The file is looked at on the caller's thread: a stat of a local file takes about a microsecond, a read happens once a change.
pub(super) struct KeyFile {
    path: PathBuf,
    born: Instant,
    /// When the file was last looked at, in whole seconds since birth.
    looked: AtomicU64,
    keys: ArcSwap<KeySet>,
    state: Mutex<State>,
}

/// What the last read found.
struct State {
    read_at: Instant,
    stamp: Option<Stamp>,
    /// Whether two reads, an interval apart, found the same. Until then a change within the file system's clock tick may have gone
    /// unseen.
    settled: bool,
    /// The text the keys come from.
    text: Vec<u8>,
    problem: Option<String>,
}

/// What tells one state of a file from another; of the file itself, not of a symlink to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl KeyFile {
    /// # Errors
    /// The file cannot be read, or holds no usable key.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let (stamp, text) = read(path)?;
        let keys = KeySet::parse(&text)?;
        report(path, &keys);
        let now = Instant::now();
        let state = State { read_at: now, stamp: Some(stamp), settled: false, text, problem: None };
        let keys = ArcSwap::from_pointee(keys);
        Ok(Self { path: path.to_owned(), born: now, looked: AtomicU64::new(0), keys, state: Mutex::new(state) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The keys as they were within the last second: for tokens already verified.
    pub(super) fn recent(&self) -> Arc<KeySet> {
        if self.age() != self.looked.load(Ordering::Relaxed) {
            self.look();
        }
        self.keys.load_full()
    }

    /// The keys as they are now.
    pub(super) fn latest(&self) -> Arc<KeySet> {
        self.look();
        self.keys.load_full()
    }

    /// What is wrong with the file, if the keys in use are not what it holds.
    pub(super) fn health(&self) -> Result<(), String> {
        self.recent();
        self.state().problem.clone().map_or(Ok(()), Err)
    }

    fn look(&self) {
        let mut state = self.state();
        self.looked.store(self.age(), Ordering::Relaxed);
        let changed = fs::metadata(&self.path).ok().as_ref().map(Stamp::of) != state.stamp;
        let again = !state.settled && state.read_at.elapsed() >= INTERVAL;
        if changed || again {
            self.reload(&mut state);
        }
    }

    fn reload(&self, state: &mut State) {
        state.read_at = Instant::now();
        match read(&self.path).map(|(stamp, text)| (stamp, (text != state.text).then(|| KeySet::parse(&text).map(|keys| (text, keys))))) {
            Ok((stamp, None)) => {
                state.settled = state.stamp == Some(stamp);
                state.stamp = Some(stamp);
                self.recovered(state);
            }
            Ok((stamp, Some(Ok((text, keys))))) => {
                tracing::info!(file = %self.path.display(), keys = keys.iter().count(), "the issuer's keys have changed");
                report(&self.path, &keys);
                self.keys.store(Arc::new(keys));
                (state.stamp, state.settled, state.text) = (Some(stamp), false, text);
                self.recovered(state);
            }
            Ok((stamp, Some(Err(problem)))) => self.failed(state, Some(stamp), problem),
            Err(problem) => self.failed(state, None, problem),
        }
    }

    fn failed(&self, state: &mut State, stamp: Option<Stamp>, problem: String) {
        (state.stamp, state.settled) = (stamp, false);
        if state.problem.as_ref() != Some(&problem) {
            tracing::warn!(file = %self.path.display(), "the issuer's keys cannot be read anew, the former ones stay in force: {problem}");
        }
        state.problem = Some(problem);
    }

    fn recovered(&self, state: &mut State) {
        if state.problem.take().is_some() {
            tracing::info!(file = %self.path.display(), "the issuer's keys can be read again");
        }
    }

    fn age(&self) -> u64 {
        self.born.elapsed().as_secs()
    }

    /// A panic elsewhere leaves at worst a state that is read anew.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stamp is the open file's own: of two files that are swapped in between, never one's stamp with the other's text.
fn read(path: &Path) -> Result<(Stamp, Vec<u8>), String> {
    let unreadable = |error: std::io::Error| format!("it cannot be read: {error}");
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err("it is not a file".to_owned());
    }
    let mut text = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_SIZE {
        return Err(format!("it is over {MAX_SIZE} bytes"));
    }
    Ok((Stamp::of(&metadata), text))
}

fn report(path: &Path, keys: &KeySet) {
    for why in &keys.skipped {
        tracing::warn!(file = %path.display(), "a key is left out: {why}");
    }
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFile").field("path", &self.path).field("keys", &self.keys.load()).finish_non_exhaustive()
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Issuer;

    /// A second write within the file system's clock tick, after the first was read: same inode, size and times.
    #[tokio::test(start_paused = true)]
    async fn a_change_that_leaves_no_trace_is_seen_a_second_later() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("jwks.json");
        let (first, second) = (Issuer::new("x").unwrap().jwks(), Issuer::new("x").unwrap().jwks());
        fs::write(&path, &first).unwrap();
        let file = KeyFile::open(&path).unwrap();
        fs::write(&path, &second).unwrap();
        file.state().stamp = Some(Stamp::of(&fs::metadata(&path).unwrap()));
        file.latest();
        assert_eq!(file.state().text, first.as_bytes());
        tokio::time::advance(INTERVAL).await;
        file.recent();
        assert_eq!(file.state().text, second.as_bytes());
        assert!(!file.state().settled);
        tokio::time::advance(INTERVAL).await;
        file.recent();
        assert!(file.state().settled, "read twice, the same");
    }
}
