//! The one thread that writes answers to the disk and removes them. Removals, marks and denials are first, because mounts wait for them. New
//! answers are written every few seconds, so that answers that change all the time do not keep the disk busy.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use aws_lc_rs::hmac;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use super::content::{Answer, Id};
use super::index::{Index, Ticket, Written};
use super::ledger::{Ledger, Pages};
use super::space::{Space, is_enough};
use super::wipes::Wipes;
use crate::backend::stack::cache::rule::Rule;
use crate::backend::stack::sealed::Room;
use crate::clock::Clock;
use crate::files::Stamp;

/// The time between two writes of new answers. A kill loses no more than this, and the time of the write.
const PACE: Duration = Duration::from_secs(4);

/// How often to try a disk that cannot be written, and how often to look at one that is full.
const AGAIN: Duration = Duration::from_secs(5);

/// How often to remove what is too old.
const SWEEP: Duration = Duration::from_mins(1);

/// What a file has besides its content: the sealed folder's header and tag.
const SEAL: usize = 67;

pub(super) struct Shared {
    pub answers: Room,
    pub logins: Room,
    pub wipes: Room,
    pub denials: Room,
    pub clock: Arc<dyn Clock>,
    pub space: Space,
    pub digests: hmac::Key,
    pub state: Mutex<State>,
    pub changed: Condvar,
    /// How far the writer has come.
    pub done: watch::Sender<Ticket>,
    /// Whether it has read what a former process has left.
    pub complete: watch::Sender<bool>,
    /// Whether there is no thread: then the caller that wakes the writer does its work. For tests on paused time.
    pub inline: bool,
    /// The folder where kubelet has a folder for each Pod.
    pub pods: PathBuf,
    #[cfg(test)]
    pub off: Mutex<Option<Rule>>,
    /// While a test holds this, the disk does not answer.
    #[cfg(test)]
    pub stall: Mutex<()>,
}

pub(super) struct State {
    pub index: Index,
    pub ledger: Ledger,
    /// Why the disk cannot be written.
    pub fault: Option<String>,
    /// The state of the folder of wipes when it was last read.
    pub seen: Option<Stamp>,
    /// The removals that are done.
    done: Ticket,
    /// The removals that were tried.
    tried: Ticket,
    /// When new answers were last written.
    wrote: Instant,
    swept: Instant,
    /// Whether new answers are written at once.
    flush: bool,
    trouble: Trouble,
    closed: bool,
}

/// What the last look found. The log says it once.
#[derive(Debug, Default)]
struct Trouble {
    /// The disk has too little space.
    is_full: bool,
    /// The clock is behind.
    is_behind: bool,
}

/// What to remove and mark in one round.
struct Job {
    unlinks: Vec<Id>,
    marks: Vec<(Id, bool)>,
    pages: Pages,
    ticket: Ticket,
    /// Only checks whether the disk can be written again.
    probe: bool,
}

// === impl State ===

impl State {
    pub fn new(index: Index) -> Self {
        let now = Instant::now();
        Self {
            index,
            ledger: Ledger::default(),
            fault: None,
            seen: None,
            done: 0,
            tried: 0,
            wrote: now,
            swept: now,
            flush: false,
            trouble: Trouble::default(),
            closed: false,
        }
    }

    /// Whether the clock is so far behind the folder that ages mean nothing. The log says it once.
    pub fn is_behind(&mut self, now: Timestamp) -> bool {
        let behind = self.index.behind_by(now);
        if let (Some(behind), false) = (behind, self.trouble.is_behind) {
            tracing::warn!(
                seconds = behind.as_secs(),
                "the clock is behind the newest answer in the sealed folder: no answer is given from there (set the clock; or, if it was ahead before, `keyferry cache wipe`)"
            );
        }
        self.trouble.is_behind = behind.is_some();
        self.trouble.is_behind
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    pub fn removes(&self) -> bool {
        !self.index.unlinks.is_empty() || !self.index.marks.is_empty() || self.ledger.has_changes()
    }

    fn job(&mut self) -> Job {
        let unlinks: Vec<Id> = self.index.unlinks.drain().collect();
        self.index.under_way.extend(&unlinks);
        let marks: Vec<_> = self.index.marks.drain().collect();
        self.tried = self.index.ticket;
        let pages = self.ledger.changes();
        let probe = self.fault.is_some() && unlinks.is_empty() && marks.is_empty() && pages.is_empty();
        Job { unlinks, marks, pages, ticket: self.index.ticket, probe }
    }

    /// What has failed must be done again.
    fn failed(&mut self, job: Job) {
        for (login, shut) in job.marks {
            self.index.marks.entry(login).or_insert(shut);
        }
        self.index.unlinks.extend(job.unlinks);
        self.ledger.again(job.pages);
    }
}

// === impl Shared ===

impl Shared {
    /// Reads what is there, and then works until it is closed.
    pub fn start(self: &Arc<Self>, read: impl FnOnce(&Self) + Send + 'static) -> io::Result<()> {
        if self.inline {
            read(self);
        } else {
            let shared = Arc::clone(self);
            thread::Builder::new().name("answers".to_owned()).spawn(move || {
                read(&shared);
                while let Some(writes) = shared.due() {
                    shared.round(writes);
                }
            })?;
        }
        Ok(())
    }

    /// Nothing that is done under the lock panics.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is something to do.
    pub fn wake(&self) {
        if self.inline {
            self.round(true);
        } else {
            self.changed.notify_all();
        }
    }

    pub fn flush(&self) -> Ticket {
        let ticket = {
            let mut state = self.lock();
            state.flush = true;
            state.index.next()
        };
        self.wake();
        ticket
    }

    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits for a removal. Returns whether it was tried in time.
    pub fn wait(&self, ticket: Ticket, limit: Duration) -> bool {
        let waiting = |state: &mut State| state.done < ticket;
        let (state, _) = self.changed.wait_timeout_while(self.lock(), limit, waiting).unwrap_or_else(PoisonError::into_inner);
        state.done >= ticket
    }

    pub fn hangs(&self) {
        self.fails("the disk does not answer".to_owned());
        self.changed.notify_all();
    }

    pub fn fails(&self, fault: String) {
        let mut state = self.lock();
        if state.fault.is_none() {
            tracing::warn!(fault, folder = %self.answers.dir().display(), "the sealed folder cannot be written: no answer is given from there until it can");
        }
        state.fault.get_or_insert(fault);
    }

    fn works(&self) {
        if self.lock().fault.take().is_some() {
            tracing::info!("the sealed folder can be written again: answers are given from there");
        }
    }

    /// Waits for work. Returns whether to write new answers too. `None`: it is closed.
    fn due(&self) -> Option<bool> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            let since = state.wrote.elapsed();
            let pace = if state.fault.is_some() || state.trouble.is_full { AGAIN } else { PACE };
            let writes = state.flush || state.index.is_waiting() && since >= pace;
            let removes = state.removes() && (state.fault.is_none() || state.tried < state.index.ticket);
            let tries = (state.fault.is_some() || state.removes()) && since >= AGAIN;
            if writes || removes || tries {
                return Some(writes);
            }
            if state.swept.elapsed() >= SWEEP {
                drop(state);
                self.sweep();
                state = self.lock();
                continue;
            }
            let rest = if state.fault.is_some() || state.index.is_waiting() { pace.saturating_sub(since) } else { SWEEP };
            let rest = rest.max(Duration::from_millis(10));
            // An idle daemon has no timer.
            state = if state.index.all().next().is_none() && state.fault.is_none() {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.changed.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }

    pub fn sweep(&self) {
        let has_pods = {
            let state = self.lock();
            state.ledger.has_pods() || state.index.all().any(|known| known.recalled_for().is_some())
        };
        // Without the lock, because kubelet's folder may be slow.
        let pods = if has_pods { self.pods() } else { None };
        let mut state = self.lock();
        state.swept = Instant::now();
        state.index.expire(self.clock.now());
        if let Some(pods) = pods {
            state.index.retain(|known| known.recalled_for().is_none_or(|uid| pods.contains(&**uid)));
            state.ledger.retain_pods(&pods);
        }
        state.index.drop_marks();
    }

    /// The Pods of this node; `None`: kubelet's folder is not mounted, or kubelet is starting, so nobody can say which Pods are gone.
    pub fn pods(&self) -> Option<HashSet<String>> {
        let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        let pods = fs::read_dir(&self.pods).ok()?.map(name).collect::<io::Result<HashSet<_>>>().ok()?;
        (!pods.is_empty()).then_some(pods)
    }

    /// Removes and marks what is due, and then writes what is new.
    pub fn round(&self, writes: bool) {
        let (job, flush, writes) = {
            let mut state = self.lock();
            let flush = std::mem::take(&mut state.flush);
            let writes = writes || state.fault.is_some();
            (state.job(), flush, writes)
        };
        let ticket = job.ticket;
        let mut outcome = self.withdraw(&job);
        self.withdrawn(job, &outcome);
        if !flush {
            self.settle(ticket);
        }
        let mut cut_short = false;
        if outcome.is_ok() && writes {
            outcome = self.write_all().map(|short| cut_short = short);
        }
        match &outcome {
            Ok(()) => self.works(),
            Err(error) => self.fails(error.to_string()),
        }
        // If a removal has interrupted the writes, they go on at once.
        if writes && !cut_short || outcome.is_err() {
            self.lock().wrote = Instant::now();
        }
        if flush {
            self.settle(ticket);
        }
    }

    fn withdrawn(&self, job: Job, outcome: &io::Result<()>) {
        if let Err(error) = outcome {
            self.fails(error.to_string());
        }
        let mut state = self.lock();
        for id in &job.unlinks {
            state.index.under_way.remove(id);
        }
        if outcome.is_err() {
            state.failed(job);
        }
    }

    fn settle(&self, ticket: Ticket) {
        let mut state = self.lock();
        state.done = state.done.max(ticket);
        drop(state);
        self.done.send_if_modified(|done| std::mem::replace(done, ticket.max(*done)) < ticket);
        self.changed.notify_all();
    }

    fn withdraw(&self, job: &Job) -> io::Result<()> {
        self.stalls();
        // A full disk accepts only removals, and one part that fails does not stop another one.
        let parts = [self.unlink(&job.unlinks), self.mark(&job.marks), job.pages.write(&self.denials)];
        parts.into_iter().collect::<io::Result<()>>()?;
        if job.probe { self.probe() } else { Ok(()) }
    }

    fn unlink(&self, ids: &[Id]) -> io::Result<()> {
        ids.iter().try_for_each(|id| self.answers.remove(&id.text()))?;
        if ids.is_empty() { Ok(()) } else { self.answers.sync() }
    }

    fn mark(&self, marks: &[(Id, bool)]) -> io::Result<()> {
        for (login, shut) in marks {
            let id = login.text();
            if *shut {
                self.logins.write(&id, id.as_bytes())?;
            } else {
                self.logins.remove(&id)?;
            }
        }
        if marks.is_empty() { Ok(()) } else { self.logins.sync() }
    }

    /// Whether the disk can be written.
    pub fn probe(&self) -> io::Result<()> {
        self.logins.write("probe", b"probe")?;
        self.logins.remove("probe")?;
        if self.answers.dir().exists() { self.answers.sync() } else { Ok(()) }
    }

    /// Writes until a removal waits, which goes first. Returns whether there was one.
    fn write_all(&self) -> io::Result<bool> {
        let (mut wrote, mut cut_short) = (false, false);
        // Otherwise an answer could count as written although its file is gone.
        let is_waiting = self.lock().index.is_waiting();
        if is_waiting && !self.is_current() {
            self.read_wipes();
        }
        while self.has_space() {
            let Some((answer, origin, former)) = self.lock().index.next_write() else { break };
            let id = Id::of(&origin, &answer.asked);
            let written = self.write(id, &answer, &origin, former);
            let mut state = self.lock();
            state.index.wrote(id, &answer, written.as_ref().ok().copied());
            written?;
            wrote = true;
            cut_short = state.removes();
            if cut_short {
                break;
            }
        }
        if wrote {
            self.answers.sync()?;
        }
        Ok(cut_short)
    }

    fn write(&self, id: Id, answer: &Answer, origin: &str, former: Option<Written>) -> io::Result<Written> {
        self.stalls();
        let (content, given) = answer.encode(origin);
        let digest = self.digest(content.get(given..).unwrap_or_default());
        let is_young = |former: &Written| {
            let eighth = jiff::SignedDuration::try_from(answer.bound / 8).unwrap_or_default();
            answer.since.at.duration_since(former.since.at) < eighth
        };
        if let Some(former) = former.filter(|former| former.digest == digest && is_young(former)) {
            return Ok(former);
        }
        self.answers.write(&id.text(), &content)?;
        Ok(Written { since: answer.since, digest, bytes: content.len() + SEAL })
    }

    pub fn digest(&self, given: &[u8]) -> [u8; 16] {
        let mut digest = [0; 16];
        digest.copy_from_slice(hmac::sign(&self.digests, given).as_ref().first_chunk::<16>().unwrap_or(&[0; 16]));
        digest
    }

    fn has_space(&self) -> bool {
        let folder = self.answers.dir();
        let found = (self.space)(folder.parent().unwrap_or(&folder));
        let is_full = !found.is_ok_and(is_enough);
        let mut state = self.lock();
        if is_full && !state.trouble.is_full {
            tracing::warn!(folder = %folder.display(), "the disk has less than 256 MiB or 5 % free: Keyferry writes no answers until it has more");
        }
        state.trouble.is_full = is_full;
        !is_full
    }

    // --- wipes ---

    /// Whether the folder of wipes has not changed since it was last read: one system call.
    pub fn is_current(&self) -> bool {
        let folder: PathBuf = self.wipes.dir();
        let now = Stamp::of(&folder).ok();
        let seen = self.lock().seen;
        now == seen && now.is_none_or(|stamp| stamp.settled(self.clock.now(), true))
    }

    pub fn read_wipes(&self) {
        let seen = Stamp::of(&self.wipes.dir()).ok();
        match Wipes::read(&self.wipes) {
            Ok(wipes) => {
                let mut state = self.lock();
                (state.index.wipes, state.seen) = (wipes, seen);
                state.index.expire(self.clock.now());
            }
            Err(error) => self.fails(error.to_string()),
        }
        if !self.inline {
            self.changed.notify_all();
        }
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self)] // a test's archive may differ
    pub const fn holds(&self, _: Rule) -> bool {
        true
    }

    #[cfg(test)]
    pub fn holds(&self, rule: Rule) -> bool {
        *self.off.lock().unwrap() != Some(rule)
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self)]
    const fn stalls(&self) {}

    #[cfg(test)]
    fn stalls(&self) {
        drop(self.stall.lock());
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}
