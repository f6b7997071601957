//! The file with the issuer's keys. Keyferry reads it again when it changes: so a new key is known and a withdrawn one is refused without a
//! restart. A ConfigMap's symlink swap, a rename over it and a write into it are all changes.
//!
//! If the file can be read, exactly its keys are in force, even if it has none. If it is gone or is not a JWKS, its last keys stay in force
//! for a moment ([`crate::grace`]).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::task::spawn_blocking;
use tokio::time::{Duration, Instant, timeout_at};

use super::keys::KeySet;
use crate::files::{MAX_FILE, Stamp, Unreadable, WholeFile};
use crate::grace::{GRACE, Outage};
use crate::text;

/// How old the last look at the file may be. If the file is faulty, or may have been read in the middle of a change, it is also read again
/// after this time.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long a mount waits for a look: far less than its own time. A file system that takes longer is taken as hanging, and the keys stay as
/// they are.
const PATIENCE: Duration = Duration::from_secs(2);

/// The keys in a file, as they are now.
///
/// While mounts come, one thread looks at the file once per second. It may block: a network's file system may hang for hours. The mounts
/// between two looks neither wait nor change threads.
#[derive(Debug)]
pub(super) struct KeyFile(Arc<Shared>);

/// What is wrong with the file, and the effect on its keys.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Trouble {
    /// It cannot be read or used; the last keys stay in force for a moment.
    Faulty(String),
    /// Its file system does not answer; the last keys stay in force.
    Hangs,
    /// No key is in force.
    NoKeys(String),
}

struct Shared {
    path: PathBuf,
    born: Instant,
    /// When the last finished look began, in nanoseconds since this was made.
    looked: AtomicU64,
    /// Whether mounts no longer wait for the present look.
    hangs: AtomicBool,
    keys: ArcSwap<KeySet>,
    outage: Mutex<Option<Outage<String>>>,
    /// Held by the one thread that looks, however long that takes: no file system blocks a second thread.
    state: Arc<AsyncMutex<State>>,
}

/// The result of the last read.
struct State {
    read_at: Instant,
    stamp: Option<Stamp>,
    /// Whether two reads, an interval apart, had the same result. Until then a change in the same tick of the file system's clock may have
    /// been missed.
    settled: bool,
    /// The text the keys come from.
    text: Vec<u8>,
}

// === impl KeyFile ===

impl KeyFile {
    /// Reads the file on the caller's thread.
    ///
    /// # Errors
    /// The file cannot be read, or has no usable key.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let (stamp, text) = read(path)?;
        let keys = KeySet::parse(&text)?;
        keys.emptiness().map_or(Ok(()), Err)?;
        report(path, &keys);
        let now = Instant::now();
        Ok(Self(Arc::new(Shared {
            path: path.to_owned(),
            born: now,
            looked: AtomicU64::new(0),
            hangs: AtomicBool::new(false),
            keys: ArcSwap::from_pointee(keys),
            outage: Mutex::default(),
            state: Arc::new(AsyncMutex::new(State { read_at: now, stamp: Some(stamp), settled: false, text })),
        })))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0.path
    }

    /// The keys as they were within the last second.
    pub(super) async fn recent(&self) -> Arc<KeySet> {
        let age = self.0.age();
        if age.saturating_sub(self.0.looked.load(Ordering::Acquire)) >= nanos(INTERVAL) {
            self.0.look_since(age.saturating_sub(nanos(INTERVAL))).await;
        }
        self.0.in_force()
    }

    /// The keys for a token that names this one: read again now, unless the keys of the last second have it.
    pub(super) async fn for_key(&self, id: Option<&str>) -> Arc<KeySet> {
        let recent = self.recent().await;
        if id.is_some() && recent.iter().any(|key| key.id() == id) {
            return recent;
        }
        self.0.look_since(self.0.age()).await;
        self.0.in_force()
    }

    /// What is wrong with the file, if it has no key, or if the keys in use may not be its keys.
    pub(super) async fn health(&self) -> Result<(), Trouble> {
        if let Some(problem) = self.recent().await.emptiness() {
            return Err(Trouble::NoKeys(problem));
        }
        if self.0.hangs.load(Ordering::Acquire) {
            return Err(Trouble::Hangs);
        }
        self.0.outage().as_ref().map_or(Ok(()), |outage| Err(Trouble::Faulty(outage.problem.clone())))
    }
}

// === impl Shared ===

impl Shared {
    /// Looks at the file, unless another look began after `since`, or such a look ends while this waits.
    async fn look_since(self: &Arc<Self>, since: u64) {
        let until = Instant::now() + PATIENCE;
        let Ok(state) = self.turn(until).await else { return self.gave_up() };
        if self.hangs.swap(false, Ordering::AcqRel) {
            tracing::info!(file = %self.path.display(), "the file system of the issuer's keys answers again");
        }
        if self.looked.load(Ordering::Acquire) > since {
            return;
        }
        let shared = Arc::clone(self);
        // The panic hook logs a panic, and the keys stay as they are.
        if timeout_at(until, spawn_blocking(move || shared.look(state))).await.is_err() {
            self.gave_up();
        }
    }

    /// The right to look. When it is known that the holder hangs, it is given at once or not at all.
    async fn turn(&self, until: Instant) -> Result<OwnedMutexGuard<State>, Late> {
        let state = Arc::clone(&self.state);
        if self.hangs.load(Ordering::Acquire) {
            return state.try_lock_owned().map_err(|_| Late);
        }
        timeout_at(until, state.lock_owned()).await.map_err(|_| Late)
    }

    fn gave_up(&self) {
        if !self.hangs.swap(true, Ordering::AcqRel) {
            let file = self.path.display();
            tracing::warn!(%file, "the file system of the issuer's keys does not answer, the former keys stay in force (is a network volume down?)");
        }
    }

    fn look(&self, mut state: OwnedMutexGuard<State>) {
        let began = self.age();
        let changed = Stamp::of(&self.path).ok() != state.stamp;
        let again = !state.settled && state.read_at.elapsed() >= INTERVAL;
        if changed || again {
            self.reload(&mut state);
        }
        self.looked.store(began, Ordering::Release);
    }

    fn reload(&self, state: &mut State) {
        state.read_at = Instant::now();
        let is_new = |text: &[u8]| text != state.text || self.keys.load().is_withdrawn();
        match read(&self.path).map(|(stamp, text)| (stamp, is_new(&text).then(|| KeySet::parse(&text).map(|keys| (text, keys))))) {
            Ok((stamp, None)) => {
                state.settled = state.stamp == Some(stamp);
                state.stamp = Some(stamp);
                self.recovered();
            }
            Ok((stamp, Some(Ok((text, keys))))) => {
                tracing::info!(file = %self.path.display(), keys = keys.iter().count(), "the issuer's keys have changed");
                report(&self.path, &keys);
                self.keys.store(Arc::new(keys));
                (state.stamp, state.settled, state.text) = (Some(stamp), false, text);
                self.recovered();
            }
            Ok((stamp, Some(Err(problem)))) => self.failed(state, Some(stamp), problem),
            Err(problem) => self.failed(state, None, problem),
        }
    }

    fn failed(&self, state: &mut State, stamp: Option<Stamp>, problem: String) {
        (state.stamp, state.settled) = (stamp, false);
        let mut known = self.outage();
        if known.as_ref().is_none_or(|outage| outage.problem != problem) {
            let grace = GRACE.as_secs();
            tracing::warn!(file = %self.path.display(), "the issuer's keys cannot be read; the last ones stay in force for {grace} s: {problem}");
        }
        *known = Some(Outage::after(known.as_ref(), problem));
    }

    /// The keys in force: none if the file has been unusable for too long. This is decided here and not by a look, which may hang.
    fn in_force(&self) -> Arc<KeySet> {
        let problem = self.outage().as_ref().filter(|outage| outage.is_final()).map(|outage| outage.problem.clone());
        if let Some(problem) = problem.filter(|_| !self.keys.load().is_withdrawn()) {
            tracing::warn!(file = %self.path.display(), "the issuer's keys are no longer in force, tokens are refused: {problem}");
            self.keys.store(Arc::new(KeySet::withdrawn(problem)));
        }
        self.keys.load_full()
    }

    fn recovered(&self) {
        if self.outage().take().is_some() {
            tracing::info!(file = %self.path.display(), "the issuer's keys can be read again");
        }
    }

    fn age(&self) -> u64 {
        nanos(self.born.elapsed())
    }

    /// A panic elsewhere leaves at worst a problem that the next read replaces.
    fn outage(&self) -> MutexGuard<'_, Option<Outage<String>>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFile").field("path", &self.path).field("keys", &self.keys.load()).finish_non_exhaustive()
    }
}

/// Another thread looks, and hangs.
struct Late;

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The stamp is of the open file itself: if two files are swapped, a stamp never belongs to the other file's text.
fn read(path: &Path) -> Result<(Stamp, Vec<u8>), String> {
    match WholeFile::read(path, MAX_FILE) {
        Ok(file) => {
            let text = text::without_mark(&file.bytes).map_err(|fault| format!("it {fault}"))?;
            Ok((file.stamp, text.to_vec()))
        }
        Err(Unreadable::Absent) => Err("it cannot be read: No such file or directory (os error 2)".to_owned()),
        Err(Unreadable::NotAFile) => Err("it is not a file".to_owned()),
        Err(Unreadable::TooLarge { .. }) => Err(format!("it is over {MAX_FILE} bytes")),
        Err(error @ (Unreadable::Io(_) | Unreadable::TooMany(_) | Unreadable::Unstable)) => Err(format!("it {error}")),
    }
}

fn report(path: &Path, keys: &KeySet) {
    if keys.emptiness().is_some() {
        tracing::warn!(file = %path.display(), "the issuer's list has no usable key, tokens are refused");
    }
    if let Some(why) = keys.left_out() {
        tracing::warn!(file = %path.display(), "Keyferry does not use some keys of the issuer: {why}");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::Mode;

    use super::*;
    use crate::identity::Issuer;

    fn file(jwks: &str) -> (tempfile::TempDir, PathBuf, KeyFile) {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("jwks.json");
        fs::write(&path, jwks).unwrap();
        let file = KeyFile::open(&path).unwrap();
        (folder, path, file)
    }

    fn jwks() -> String {
        Issuer::new("x").unwrap().jwks()
    }

    async fn text(file: &KeyFile) -> Vec<u8> {
        file.0.state.lock().await.text.clone()
    }

    /// A second write in the same tick of the file system's clock, after the first was read: same inode, size and times.
    #[tokio::test(start_paused = true)]
    async fn a_change_that_leaves_no_trace_is_seen_a_second_later() {
        let (first, second) = (jwks(), jwks());
        let (_folder, path, file) = file(&first);
        fs::write(&path, &second).unwrap();
        file.0.state.lock().await.stamp = Some(Stamp::of(&path).unwrap());
        file.for_key(None).await;
        assert_eq!(text(&file).await, first.as_bytes());
        tokio::time::advance(INTERVAL).await;
        file.recent().await;
        assert_eq!(text(&file).await, second.as_bytes());
        assert!(!file.0.state.lock().await.settled);
        tokio::time::advance(INTERVAL).await;
        file.recent().await;
        assert!(file.0.state.lock().await.settled, "read twice, the same");
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_known_costs_a_look_a_second_and_one_that_is_not_costs_one_at_once() {
        let (_folder, path, file) = file(&jwks());
        let next = Issuer::new("x").unwrap();
        fs::write(&path, next.jwks()).unwrap();
        let before = file.recent().await;
        let known = before.iter().next().unwrap().id();
        assert!(Arc::ptr_eq(&before, &file.for_key(known).await), "not looked at");
        assert!(!Arc::ptr_eq(&before, &file.for_key(Some("unknown")).await));

        fs::write(&path, jwks()).unwrap();
        let before = file.recent().await;
        tokio::time::advance(INTERVAL).await;
        assert!(!Arc::ptr_eq(&before, &file.recent().await));
    }

    /// Many ask at once: one looks, and the others use its result.
    #[tokio::test(start_paused = true)]
    async fn those_who_wait_for_a_look_do_not_look_themselves() {
        let (_folder, path, file) = file(&jwks());
        let before = file.recent().await;
        tokio::time::advance(INTERVAL).await;
        let looking = Arc::clone(&file.0.state).lock_owned().await;
        let mut asking: Vec<_> = (0..100).map(|_| Box::pin(file.recent())).collect();
        for asks in &mut asking {
            assert!(futures_util::poll!(asks.as_mut()).is_pending());
        }
        file.0.looked.store(file.0.age(), Ordering::Release);
        fs::write(&path, jwks()).unwrap();
        drop(looking);
        let answers = futures_util::future::join_all(asking).await;
        assert!(answers.iter().all(|keys| Arc::ptr_eq(keys, &before)), "the file was looked at again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_system_that_hangs_costs_one_mount_its_patience_and_leaves_the_keys() {
        let (_folder, path, file) = file(&jwks());
        let before = file.recent().await;
        // As a thread does that looks and hangs.
        let hanging = Arc::clone(&file.0.state).lock_owned().await;
        fs::write(&path, jwks()).unwrap();
        tokio::time::advance(INTERVAL).await;

        let asked = Instant::now();
        assert!(Arc::ptr_eq(&before, &file.recent().await));
        assert_eq!(asked.elapsed().as_secs(), PATIENCE.as_secs());
        let asked = Instant::now();
        for _ in 0..100 {
            assert!(Arc::ptr_eq(&before, &file.recent().await));
            assert!(Arc::ptr_eq(&before, &file.for_key(Some("unknown")).await));
        }
        assert_eq!(file.health().await, Err(Trouble::Hangs));
        assert_eq!(asked.elapsed(), Duration::ZERO, "nobody else waits");

        drop(hanging);
        assert!(!Arc::ptr_eq(&before, &file.recent().await));
        assert_eq!(file.health().await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pipe_in_the_files_place_is_not_waited_for() {
        let (_folder, path, file) = file(&jwks());
        fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        tokio::time::advance(INTERVAL).await;
        assert_eq!(file.health().await, Err(Trouble::Faulty("it is not a file".to_owned())));
    }
}
