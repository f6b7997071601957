//! What is known of the answers on the disk: names, ages, sizes, and what a review needs; and what is still to be done there. The contents
//! stay on the disk.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Duration;

use super::content::{Answer, Id};
use super::wipes::Wipes;
use crate::backend::Scope;
use crate::backend::stack::cache::since::Since;
use crate::backend::stack::written::Reference;
use crate::model::{BackendName, PodIdentity, SecretRef};
use crate::shelf::Shelf;

/// How many bytes of answers may wait to be written. Memory has most of them in any case.
const QUEUE: usize = 4 << 20;

/// About what one more entry costs in memory, besides its texts.
const OVERHEAD: usize = 420;

/// How many removals may wait while the folder is still being read, and so nobody knows whether there is a file for them.
const UNREAD: usize = 65_536;

/// What a file takes of the disk at least.
const BLOCK: usize = 4096;

/// What a file has besides its content, and how much longer a content is than what it is made of.
const WRAPPING: usize = 600;

/// How far behind the newest time in the folder the clock may be.
const BEHIND: SignedDuration = SignedDuration::from_secs(60);

/// Counts what is to be removed: done once the writer has come so far.
pub(in crate::backend) type Ticket = u64;

/// One answer on the disk, or on its way there.
pub(super) struct Known {
    pub id: Id,
    pub backend: BackendName,
    pub origin: Arc<str>,
    pub scope: Scope,
    /// The request, as JSON.
    reference: Box<str>,
    pub pod: Arc<PodIdentity>,
    pub login: Id,
    /// The newest time at which the store said this. The disk's may be older.
    pub since: Since,
    pub bound: Duration,
    pub written: Option<Written>,
    /// A former process has left it: nobody tells this one when its Pod goes.
    pub is_recalled: bool,
    /// To be written.
    pub waiting: Option<Arc<Answer>>,
}

/// What the disk has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub since: Since,
    /// Of the content, by a key of this process.
    pub digest: [u8; 16],
    pub bytes: usize,
}

pub(super) struct Index {
    known: Shelf<Id, Known>,
    /// How many answers are behind a login.
    behind: HashMap<Id, usize>,
    /// Logins that were refused.
    shut: HashSet<Id>,
    pub wipes: Wipes,
    queue: Shelf<Id, Id>,
    pub unlinks: HashSet<Id>,
    /// Those that the writer removes, or writes, now.
    pub under_way: HashSet<Id>,
    /// What is to become of the marks of logins: whether each is refused.
    pub marks: HashMap<Id, bool>,
    pub ticket: Ticket,
    /// The newest time on the disk; `None`: it has to be looked for.
    newest: Option<Timestamp>,
    /// Whether all that a former process has left is known: until then any file may be there.
    pub complete: bool,
    /// Too much was taken back before that: nothing of what a former process has left is taken up any more.
    pub discard: bool,
    bytes: usize,
    memory: usize,
}

// === impl Known ===

impl Known {
    pub fn new(answer: &Answer, origin: &Arc<str>, id: Id) -> Self {
        let login = Id::of_login(&answer.asked.secret.backend, origin, &answer.asked.scope, &answer.asked.secret.login);
        Self {
            id,
            backend: answer.asked.secret.backend.clone(),
            origin: Arc::clone(origin),
            scope: answer.asked.scope.clone(),
            reference: serde_json::to_string(&Reference::of(&answer.asked.secret)).unwrap_or_default().into(),
            pod: Arc::clone(&answer.pod),
            login,
            since: answer.since,
            bound: answer.bound,
            written: None,
            is_recalled: false,
            waiting: None,
        }
    }

    pub fn secret(&self) -> Option<SecretRef> {
        serde_json::from_str::<Reference>(&self.reference).ok()?.back()
    }

    /// The Pod that it is for alone, where a former process has left it.
    pub fn recalled_for(&self) -> Option<&Arc<str>> {
        match &self.scope {
            Scope::Pod(uid) => Some(uid).filter(|_| self.is_recalled),
            Scope::Account(_) | Scope::Node => None,
        }
    }

    fn is_over(&self, now: Timestamp) -> bool {
        self.since.age(now) >= self.bound
    }

    /// What it takes of the disk, in whole blocks.
    fn on_disk(&self) -> usize {
        let written = self.written.map_or(0, |written| written.bytes);
        let waiting = self.waiting.as_ref().map_or(0, |answer| answer.secret.weight() / 3 * 4 + self.reference.len() + WRAPPING);
        written.max(waiting).max(1).next_multiple_of(BLOCK)
    }

    fn in_memory(&self) -> usize {
        self.reference.len() + OVERHEAD
    }
}

// === impl Index ===

impl Index {
    /// For so many bytes of the disk, and of memory.
    pub fn new(bytes: usize, memory: usize) -> Self {
        Self {
            known: Shelf::of_bytes(bytes),
            behind: HashMap::new(),
            shut: HashSet::new(),
            wipes: Wipes::default(),
            queue: Shelf::of_bytes(QUEUE),
            unlinks: HashSet::new(),
            under_way: HashSet::new(),
            marks: HashMap::new(),
            ticket: 0,
            newest: None,
            complete: false,
            discard: false,
            bytes,
            memory,
        }
    }

    pub fn find(&mut self, id: Id) -> Option<&Known> {
        self.known.find(&id)
    }

    pub fn all(&self) -> impl Iterator<Item = &Known> {
        self.known.values()
    }

    /// The larger part of two: of the disk, and of the memory for this index. So neither is ever exceeded, and tenants share both.
    fn weight(&self, known: &Known) -> usize {
        let part = known.in_memory().saturating_mul(self.bytes) / self.memory.max(1);
        known.on_disk().max(part)
    }

    /// Takes an answer up; what its tenant has to lose for it goes.
    pub fn add(&mut self, known: Known) {
        let (weight, tenant) = (self.weight(&known), Arc::clone(&known.pod.namespace));
        *self.behind.entry(known.login).or_default() += 1;
        self.newest = self.newest.map(|newest| newest.max(known.since.at));
        for gone in self.known.put(&tenant, known.id, known, weight, |_| false) {
            self.left(&gone);
        }
    }

    /// As it was, to be added again once it is changed.
    pub fn take(&mut self, id: Id) -> Option<Known> {
        let known = self.known.remove(&id)?;
        self.unlisted(&known);
        Some(known)
    }

    /// An answer that is to be written, unless the disk has just this, and young enough. `same_as`: when the store was asked for the answer
    /// that memory has had, if it says the same.
    pub fn put(&mut self, id: Id, answer: Answer, origin: &Arc<str>, same_as: Option<Since>) {
        let former = self.take(id);
        let mut known = Known::new(&answer, origin, id);
        // What could not be written of memory's is not the disk's.
        let same = same_as.is_some() && former.as_ref().map(|former| former.since) == same_as;
        if let Some(former) = former {
            (known.written, known.waiting) = (former.written, former.waiting);
        }
        let is_young = |written: Written| {
            answer.since.at.duration_since(written.since.at) < SignedDuration::try_from(answer.bound / 8).unwrap_or_default()
        };
        if !(same && known.waiting.is_none() && known.written.is_some_and(is_young)) {
            let (weight, tenant) = (answer.secret.weight() + answer.asked.weight() + 512, Arc::clone(&answer.pod.namespace));
            known.waiting = Some(Arc::new(answer));
            self.add(known);
            if self.known.find(&id).is_some() {
                for gone in self.queue.put(&tenant, id, id, weight, |_| false) {
                    self.drop_waiting(gone);
                }
            }
            return;
        }
        self.add(known);
    }

    /// There is no room for it among what waits: the disk keeps what it has of it, and that is nothing if it is new.
    fn drop_waiting(&mut self, id: Id) {
        let Some(mut known) = self.take(id) else { return };
        known.waiting = None;
        if let Some(written) = known.written {
            known.since = written.since;
            self.add(known);
        } else if self.under_way.contains(&id) {
            self.unlinks.insert(id);
            self.next();
        }
    }

    /// Takes an answer out, here at once and on the disk by the writer. Also if it is on its way there.
    pub fn remove(&mut self, id: Id) -> Ticket {
        let known = self.take(id);
        self.queue.remove(&id);
        // Else a disk that hangs would have more and more to remove: what was never written needs no removal.
        let is_there = known.is_some_and(|known| known.written.is_some()) || !self.complete;
        if !self.complete && self.unlinks.len() >= UNREAD {
            self.discard = true;
            return self.next();
        }
        if !is_there && !self.unlinks.contains(&id) && !self.under_way.contains(&id) {
            return 0;
        }
        self.unlinks.insert(id);
        self.next()
    }

    /// Takes out what is not to be kept.
    pub fn retain(&mut self, keep: impl Fn(&Known) -> bool) -> Ticket {
        let gone: Vec<Id> = self.known.values().filter(|known| !keep(known)).map(|known| known.id).collect();
        gone.into_iter().map(|id| self.remove(id)).max().unwrap_or(0)
    }

    /// Takes out what is past its bound, and what was wiped.
    pub fn expire(&mut self, now: Timestamp) -> Ticket {
        let wipes = std::mem::take(&mut self.wipes);
        let is_wiped = |known: &Known, at: Timestamp| !wipes.is_empty() && known.secret().is_none_or(|secret| wipes.cover(&secret, at));
        let ticket = self.retain(|known| !known.is_over(now) && !is_wiped(known, known.since.at));
        // The store has said it since, and that is to be written: what the disk had of it is gone.
        for known in self.known.values_mut().filter(|known| known.waiting.is_some()) {
            known.written = known.written.filter(|written| !is_wiped(known, written.since.at));
        }
        self.wipes = wipes;
        ticket
    }

    /// None of these serves for longer than so long.
    pub fn shorten(&mut self, which: impl Fn(&Known) -> bool, stale: Duration) {
        for known in self.known.values_mut().filter(|known| which(known)) {
            known.bound = known.bound.min(stale);
        }
    }

    /// What the shelf had to let go.
    fn left(&mut self, known: &Known) {
        self.unlisted(known);
        self.queue.remove(&known.id);
        if known.written.is_some() || self.under_way.contains(&known.id) {
            self.unlinks.insert(known.id);
            self.next();
        }
    }

    fn unlisted(&mut self, known: &Known) {
        if self.newest.is_some_and(|newest| newest <= known.since.at) {
            self.newest = None;
        }
        let Some(many) = self.behind.get_mut(&known.login) else { return };
        *many -= 1;
        if *many == 0 {
            self.behind.remove(&known.login);
        }
    }

    // --- logins ---

    /// A login is refused: what is behind it is unservable, also for the next process.
    pub fn shut(&mut self, login: Id) -> Ticket {
        if self.complete && !self.behind.contains_key(&login) {
            return 0;
        }
        self.shut.insert(login);
        // While the disk hangs, marks wait: no more of them than there are logins with something behind them.
        if self.marks.len() > 2 * self.behind.len() + 64 {
            self.marks.retain(|login, shut| !*shut || self.behind.contains_key(login));
        }
        self.marks.insert(login, true);
        self.next()
    }

    pub fn open(&mut self, login: Id) {
        if self.shut.remove(&login) {
            self.marks.insert(login, false);
            self.next();
        }
    }

    pub fn has_shut(&self) -> bool {
        !self.shut.is_empty()
    }

    pub fn is_shut(&self, login: Id) -> bool {
        self.shut.contains(&login)
    }

    /// A mark that a former process has left.
    pub fn recall_shut(&mut self, login: Id) {
        self.shut.insert(login);
    }

    /// The marks on the disk are gone.
    pub fn mark_again(&mut self) {
        self.marks.extend(self.shut.iter().map(|login| (*login, true)));
        self.next();
    }

    /// What a former process has left, unless it was taken back, or is younger here.
    pub fn recall(&mut self, known: Known) {
        if self.unlinks.contains(&known.id) || self.under_way.contains(&known.id) {
            return;
        }
        match self.take(known.id) {
            Some(mut younger) => {
                younger.written = younger.written.or(known.written);
                self.add(younger);
            }
            None => self.add(known),
        }
    }

    /// Marks of logins that nothing is behind any more.
    pub fn drop_marks(&mut self) {
        if !self.complete {
            return;
        }
        let idle: Vec<Id> = self.shut.iter().filter(|login| !self.behind.contains_key(*login)).copied().collect();
        for login in idle {
            self.open(login);
        }
    }

    // --- the writer's ---

    pub fn next(&mut self) -> Ticket {
        self.ticket += 1;
        self.ticket
    }

    pub fn is_waiting(&self) -> bool {
        self.queue.weight() > 0
    }

    pub fn next_write(&mut self) -> Option<(Arc<Answer>, Arc<str>, Option<Written>)> {
        loop {
            // What is to be removed is removed first.
            let id = *self.queue.values().find(|id| !self.unlinks.contains(id))?;
            self.queue.remove(&id);
            let Some(known) = self.known.find(&id) else { continue };
            let Some(answer) = known.waiting.clone() else { continue };
            let next = (answer, Arc::clone(&known.origin), known.written);
            self.under_way.insert(id);
            return Some(next);
        }
    }

    /// What became of a writing.
    pub fn wrote(&mut self, id: Id, answer: &Arc<Answer>, written: Option<Written>) {
        self.under_way.remove(&id);
        // What was removed meanwhile is not taken up; its removal comes after.
        let Some(mut known) = self.take(id) else { return };
        let is_last = known.waiting.as_ref().is_some_and(|waiting| Arc::ptr_eq(waiting, answer));
        if let Some(written) = written {
            known.written = Some(written);
        }
        if is_last && written.is_some() {
            known.waiting = None;
        }
        let again = known.waiting.is_some().then(|| (Arc::clone(&known.pod.namespace), answer.secret.weight()));
        self.add(known);
        if let Some((tenant, weight)) = again {
            let _ = self.queue.put(&tenant, id, id, weight, |_| false);
        }
    }

    // --- times ---

    /// How far the clock is behind the newest time in the folder, where that is too far.
    pub fn behind_by(&mut self, now: Timestamp) -> Option<SignedDuration> {
        if self.newest.is_none() {
            self.newest = self.known.values().map(|known| known.since.at).max();
        }
        let newest = self.newest.max(self.wipes.newest())?;
        let behind = newest.duration_since(now);
        (behind > BEHIND).then_some(behind)
    }

    #[cfg(test)]
    pub fn weight_in_all(&self) -> usize {
        self.known.weight()
    }

    /// What waits to be written, as it is counted.
    #[cfg(test)]
    pub fn weight_of_queue(&self) -> usize {
        self.queue.weight()
    }
}
