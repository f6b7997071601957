//! What a former process has left: read once, at the start. What does not open, is past its bound, was wiped, or is of a Pod that is gone
//! is not taken up.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use aws_lc_rs::hmac;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use super::content::{Answer, Head, Id, split};
use super::index::{Index, Known, Written};
use super::space::{Space, of_disk};
use super::wipes::Wipes;
use super::writer::{Shared, State};
use super::{Archive, THREADS};
use crate::backend::Scope;
use crate::backend::stack::cache::since::Since;
use crate::backend::stack::sealed::{Room, Sealed};
use crate::clock::Clock;
use crate::files::{Desk, Stamp};
use crate::model::{PodIdentity, Secret};

/// How long reading may take: a daemon starts in time, with less to give.
const READING: Duration = Duration::from_secs(10);

/// A file that does not open is removed when it is so old: whatever it was, it is past every bound.
const FOREIGN: Duration = Duration::from_hours(30 * 24 + 1);

/// What an archive is opened with.
#[derive(Debug)]
pub struct Opening<'o> {
    pub sealed: &'o Arc<Sealed>,
    /// Of the disk, and of memory.
    pub bytes: usize,
    pub memory: usize,
    /// Where kubelet has a folder for each Pod.
    pub pods: PathBuf,
    pub clock: &'o Arc<dyn Clock>,
}

/// The rooms that answers have.
pub(super) fn rooms(sealed: &Arc<Sealed>) -> [Room; 3] {
    ["answers", "logins", "wipes"].map(|name| sealed.room(name))
}

#[derive(Default)]
struct Tally {
    found: usize,
    skipped: usize,
    unopened: Option<(usize, String)>,
}

/// Reads the room into the index.
struct Reading<'r> {
    shared: &'r Shared,
    pods: Option<HashSet<String>>,
    /// The same ServiceAccount of many answers is kept once.
    accounts: HashMap<(String, String), Arc<PodIdentity>>,
    origins: HashSet<Arc<str>>,
    now: Timestamp,
    began: Instant,
    tally: Tally,
}

// === impl Archive ===

impl Archive {
    /// Reads what is there, and begins to write. It blocks.
    ///
    /// # Errors
    /// The folder cannot be read, or no thread can be had.
    pub fn open(opening: &Opening<'_>) -> Result<Arc<Self>, String> {
        Self::with(opening, of_disk(), false)
    }

    pub(super) fn with(opening: &Opening<'_>, space: Space, inline: bool) -> Result<Arc<Self>, String> {
        let [answers, logins, wipes] = rooms(opening.sealed);
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| "no randomness".to_owned())?;
        let shared = Shared {
            answers,
            logins,
            wipes,
            clock: Arc::clone(opening.clock),
            space,
            digests: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            state: Mutex::new(State::new(Index::new(opening.bytes, opening.memory))),
            changed: Condvar::new(),
            done: watch::Sender::new(0),
            inline,
            #[cfg(test)]
            off: Mutex::default(),
            #[cfg(test)]
            stall: Mutex::default(),
        };
        Reading::new(&shared, &opening.pods)
            .read()
            .map_err(|error| format!("the sealed answers cannot be read: {error} (may the daemon read there?)"))?;
        // A disk that cannot be written may have what the store has taken back since.
        if let Err(error) = shared.probe() {
            shared.lock().fault = Some(error.to_string());
            tracing::warn!(%error, "the sealed folder cannot be written: no answer is given from there until it can");
        }
        let shared = Arc::new(shared);
        shared.start().map_err(|error| error.to_string())?;
        shared.wake();
        Ok(Arc::new(Self { shared, desk: Desk::new(THREADS) }))
    }
}

// === impl Reading ===

impl<'r> Reading<'r> {
    fn new(shared: &'r Shared, pods: &Path) -> Self {
        let pods = fs::read_dir(pods)
            .ok()
            .map(|entries| entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect());
        Self {
            shared,
            // Empty: kubelet's folder is not mounted, or kubelet starts.
            pods: pods.filter(|pods: &HashSet<String>| !pods.is_empty()),
            accounts: HashMap::new(),
            origins: HashSet::new(),
            now: shared.clock.now(),
            began: Instant::now(),
            tally: Tally::default(),
        }
    }

    fn read(mut self) -> std::io::Result<()> {
        let seen = Stamp::of(&self.shared.wipes.dir()).ok();
        {
            let wipes = Wipes::read(&self.shared.wipes)?;
            let mut state = self.shared.lock();
            (state.index.wipes, state.seen) = (wipes, seen);
        }
        self.shared.answers.clone().visit(true, |path, content| {
            if self.began.elapsed() > READING {
                self.tally.skipped += 1;
                let _ = fs::remove_file(path);
                return ControlFlow::Continue(());
            }
            let taken = content.and_then(|content| self.take(content.expose()));
            if let Err(problem) = taken {
                self.unopened(path, problem);
            }
            ControlFlow::Continue(())
        })?;
        self.logins()?;
        self.shared.lock().index.expire(self.now);
        self.tell();
        Ok(())
    }

    fn take(&mut self, content: &[u8]) -> Result<(), String> {
        let foreign = || "is no answer of this version".to_owned();
        let (head, given) = split(content).ok_or_else(foreign)?;
        let asked = head.asked().ok_or_else(foreign)?;
        let id = Id::of(&head.origin, &asked);
        let since = Since::recalled(head.at, self.now);
        let written = Written { since, digest: self.shared.digest(given), bytes: content.len() };
        let is_gone = matches!(&asked.scope, Scope::Pod(uid) if self.pods.as_ref().is_some_and(|pods| !pods.contains(&**uid)));
        let (origin, pod) = (self.origin(&head.origin), self.account(&head));
        // Its value stays where it is.
        let nothing = Arc::new(Secret { fields: std::collections::BTreeMap::new(), response: None, version: None, lease: None });
        let (by, bound) = (head.by.parse().map_err(|_| foreign())?, Duration::from_millis(head.bound));
        let answer = Answer { asked, secret: nothing, by, since, bound, pod };
        let mut known = Known::new(&answer, &origin, id);
        known.written = Some(written);
        let mut state = self.shared.lock();
        state.index.add(known);
        if is_gone {
            state.index.remove(id);
        }
        self.tally.found += 1;
        Ok(())
    }

    fn origin(&mut self, origin: &str) -> Arc<str> {
        if let Some(known) = self.origins.get(origin) {
            return Arc::clone(known);
        }
        let origin: Arc<str> = origin.into();
        self.origins.insert(Arc::clone(&origin));
        origin
    }

    fn account(&mut self, head: &Head) -> Arc<PodIdentity> {
        let key = (head.namespace.clone(), head.account.clone());
        let new = || {
            Arc::new(PodIdentity {
                namespace: head.namespace.as_str().into(),
                name: String::new(),
                uid: "".into(),
                service_account: head.account.as_str().into(),
                service_account_uid: None,
                verified: false,
            })
        };
        Arc::clone(self.accounts.entry(key).or_insert_with(new))
    }

    /// Marks of refused logins.
    fn logins(&self) -> std::io::Result<()> {
        let found = self.shared.logins.read_all()?;
        let mut state = self.shared.lock();
        for mark in &found.contents {
            if let Some(login) = std::str::from_utf8(mark.expose()).ok().and_then(Id::parse) {
                state.index.recall_shut(login);
            }
        }
        Ok(())
    }

    fn unopened(&mut self, path: &Path, problem: String) {
        let age = fs::symlink_metadata(path).and_then(|found| found.modified()).ok().and_then(|changed| Timestamp::try_from(changed).ok());
        if age.is_some_and(|changed| Duration::try_from(self.now.duration_since(changed)).is_ok_and(|age| age > FOREIGN)) {
            let _ = fs::remove_file(path);
            return;
        }
        let (count, _) = self.tally.unopened.get_or_insert_with(|| (0, format!("{} {problem}", path.display())));
        *count += 1;
    }

    fn tell(&self) {
        let Tally { found, skipped, unopened } = &self.tally;
        if let Some((count, first)) = unopened {
            tracing::warn!(count, first, "sealed answers do not open and are ignored (remove the files)");
        }
        if *skipped > 0 {
            tracing::warn!(skipped, "the disk was too slow to read all sealed answers within 10 s: the others were removed");
        }
        if *found > 0 {
            tracing::info!(answers = found, "sealed answers of a former process are there, for when their store is out");
        }
    }
}
