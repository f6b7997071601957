//! Reads what a former process has left. The thread that writes later reads it once. A daemon does not wait for that when it starts, because a slow
//! disk with many files takes minutes. It does not use a file that does not open, is too old, was wiped, or belongs to a Pod that is gone.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use aws_lc_rs::hmac;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Duration;

use super::content::{Answer, Head, Id, split};
use super::index::{Index, Known, Written};
use super::ledger::Ledger;
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

/// A file that does not open is removed at this age: whatever it was, it is too old by then.
const FOREIGN: Duration = Duration::from_hours(30 * 24 + 1);

/// The most marks of refused logins that are read. There is at most one mark for each login that answers depend on, so there are never this many.
const MARKS: usize = if cfg!(test) { 64 } else { 65_536 };

/// What an archive needs to open.
#[derive(Debug)]
pub struct Opening<'o> {
    pub sealed: &'o Arc<Sealed>,
    /// The limit on the disk, and in memory.
    pub bytes: usize,
    pub memory: usize,
    /// The folder where kubelet has a folder for each Pod.
    pub pods: PathBuf,
    pub clock: &'o Arc<dyn Clock>,
}

/// The rooms of the answers, and of what is known besides them.
pub(super) fn rooms(sealed: &Arc<Sealed>) -> [Room; 4] {
    ["answers", "logins", "wipes", "denials"].map(|name| sealed.room(name))
}

#[derive(Default)]
struct Tally {
    found: usize,
    unopened: Option<(usize, String)>,
}

/// Reads the room into the index.
struct Reading<'r> {
    shared: &'r Shared,
    pods: Option<HashSet<String>>,
    /// Many answers can have the same ServiceAccount: it is kept once.
    accounts: HashMap<(String, String), Arc<PodIdentity>>,
    origins: HashSet<Arc<str>>,
    now: Timestamp,
    tally: Tally,
}

// === impl Archive ===

impl Archive {
    /// Reads what is there, and begins to write. It blocks.
    ///
    /// # Errors
    /// The folder cannot be read, or no thread can be started.
    pub fn open(opening: &Opening<'_>) -> Result<Arc<Self>, String> {
        Self::with(opening, of_disk(), false)
    }

    pub(super) fn with(opening: &Opening<'_>, space: Space, inline: bool) -> Result<Arc<Self>, String> {
        let [answers, logins, wipes, denials] = rooms(opening.sealed);
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| "no randomness".to_owned())?;
        let shared = Shared {
            answers,
            logins,
            wipes,
            denials,
            clock: Arc::clone(opening.clock),
            space,
            digests: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            state: Mutex::new(State::new(Index::new(opening.bytes, opening.memory))),
            changed: Condvar::new(),
            done: watch::Sender::new(0),
            complete: watch::Sender::new(false),
            inline,
            pods: opening.pods.clone(),
            #[cfg(test)]
            off: Mutex::default(),
            #[cfg(test)]
            stall: Mutex::default(),
        };
        let problem = |error: std::io::Error| format!("the sealed answers cannot be read: {error} (may the daemon read there?)");
        marks(&shared).map_err(problem)?;
        // If the disk cannot be written, it may have answers that the store has revoked since.
        if let Err(error) = shared.probe() {
            shared.lock().fault = Some(error.to_string());
            tracing::warn!(%error, "the sealed folder cannot be written: no answer is given from there until it can");
        }
        let shared = Arc::new(shared);
        shared.start(|shared| Reading::new(shared).read()).map_err(|error| error.to_string())?;
        shared.wake();
        Ok(Arc::new(Self { shared, desk: Desk::new(THREADS) }))
    }
}

/// What was wiped, which logins were refused, and what the first members of failovers denied. All this is known before any answer is given.
fn marks(shared: &Shared) -> std::io::Result<()> {
    let seen = Stamp::of(&shared.wipes.dir()).ok();
    let (wipes, mut logins) = (Wipes::read(&shared.wipes)?, Vec::new());
    shared.logins.visit(true, |_, mark| {
        logins.extend(mark.ok().and_then(|mark| std::str::from_utf8(mark.expose()).ok().and_then(Id::parse)));
        if logins.len() > MARKS { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let mut ledger = Ledger::read(&shared.denials)?;
    if let Some(pods) = shared.pods() {
        ledger.retain_pods(&pods);
    }
    let mut state = shared.lock();
    state.ledger = ledger;
    (state.index.wipes, state.seen) = (wipes, seen);
    if logins.len() > MARKS {
        tracing::warn!(most = MARKS, "the sealed folder has too many marks of refused logins: Keyferry removes its answers and gives none");
        state.index.discard = true;
        return Ok(());
    }
    for login in logins {
        state.index.recall_shut(login);
    }
    Ok(())
}

// === impl Reading ===

impl<'r> Reading<'r> {
    fn new(shared: &'r Shared) -> Self {
        Self {
            shared,
            pods: shared.pods(),
            accounts: HashMap::new(),
            origins: HashSet::new(),
            now: shared.clock.now(),
            tally: Tally::default(),
        }
    }

    fn read(mut self) {
        let read = self.shared.answers.clone().visit(true, |path, content| {
            let (discard, removes, closed) = {
                let state = self.shared.lock();
                (state.index.discard, state.removes(), state.is_closed())
            };
            if discard {
                let _ = fs::remove_file(path);
            } else if let Err(problem) = content.and_then(|content| self.take(content.expose())) {
                self.unopened(path, &problem);
            }
            // Mounts wait for these removals.
            if removes {
                self.shared.round(false);
            }
            if closed { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if let Err(error) = read {
            self.shared.fails(format!("cannot be read: {error}"));
        }
        self.drop_old_marks();
        let mut state = self.shared.lock();
        state.index.complete = true;
        state.index.expire(self.now);
        state.index.drop_marks();
        drop(state);
        self.shared.complete.send_replace(true);
        self.tell();
    }

    /// Nothing from a former process is there any more, so no answer depends on its marks.
    fn drop_old_marks(&self) {
        let is_empty = {
            let state = self.shared.lock();
            state.index.discard && !state.is_closed()
        };
        if is_empty {
            let _ = self.shared.logins.visit(true, |path, _| {
                let _ = fs::remove_file(path);
                ControlFlow::Continue(())
            });
            self.shared.lock().index.mark_again();
        }
    }

    fn take(&mut self, content: &[u8]) -> Result<(), String> {
        let foreign = || "is not an answer of this version".to_owned();
        let (head, given) = split(content).ok_or_else(foreign)?;
        let asked = head.asked().ok_or_else(foreign)?;
        let id = Id::of(&head.origin, &asked);
        let since = Since::recalled(head.at, self.now);
        let written = Written { since, digest: self.shared.digest(given), bytes: content.len() };
        let is_gone = matches!(&asked.scope, Scope::Pod(uid) if self.pods.as_ref().is_some_and(|pods| !pods.contains(&**uid)));
        let (origin, pod) = (self.origin(&head.origin), self.account(&head));
        // The secret's value stays on the disk.
        let nothing = Arc::new(Secret { fields: std::collections::BTreeMap::new(), response: None, version: None, lease: None });
        let (by, bound) = (head.by.parse().map_err(|_| foreign())?, Duration::from_millis(head.bound));
        let answer = Answer { asked, secret: nothing, by, since, bound, pod };
        let mut known = Known::new(&answer, &origin, id);
        (known.written, known.is_recalled) = (Some(written), true);
        let mut state = self.shared.lock();
        state.index.recall(known);
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

    fn unopened(&mut self, path: &Path, problem: &str) {
        let age = fs::symlink_metadata(path).and_then(|found| found.modified()).ok().and_then(|changed| Timestamp::try_from(changed).ok());
        if age.is_some_and(|changed| Duration::try_from(self.now.duration_since(changed)).is_ok_and(|age| age > FOREIGN)) {
            let _ = fs::remove_file(path);
            return;
        }
        let (count, _) = self.tally.unopened.get_or_insert_with(|| (0, format!("{} {problem}", path.display())));
        *count += 1;
    }

    fn tell(&self) {
        let Tally { found, unopened } = &self.tally;
        if let Some((count, first)) = unopened {
            tracing::warn!(count, first, "sealed answers do not open, and Keyferry ignores them (remove the files)");
        }
        if *found > 0 {
            tracing::info!(answers = found, "Keyferry has sealed answers of a former process, for when their store is out");
        }
    }
}
