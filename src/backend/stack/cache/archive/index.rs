//! What is known about the answers on the disk: names, ages, sizes, and what a review needs; and what is still to do there. The contents stay on
//! the disk.

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

/// The approximate memory for one more entry, besides its texts.
const OVERHEAD: usize = 420;

/// How many removals may wait while the folder is still being read. Until then nobody knows whether there is a file for them.
const UNREAD: usize = 65_536;

/// The smallest space that a file uses on the disk.
const BLOCK: usize = 4096;

/// What a file has besides its content, and how much the content is longer than the secret and the request.
const WRAPPING: usize = 600;

/// How far the clock may be behind the newest time in the folder.
const BEHIND: SignedDuration = SignedDuration::from_secs(60);

/// Counts the removals: one is done when the writer has come so far.
pub(in crate::backend) type Ticket = u64;

/// One answer that is on the disk or will be written there.
pub(super) struct Known {
    pub id: Id,
    pub backend: BackendName,
    pub origin: Arc<str>,
    pub scope: Scope,
    /// The request, as JSON.
    reference: Box<str>,
    pub pod: Arc<PodIdentity>,
    pub login: Id,
    /// The newest time at which the store gave this answer. The time on the disk may be older.
    pub since: Since,
    pub bound: Duration,
    pub written: Option<Written>,
    /// Whether a former process has left it. Then nobody tells this process when its Pod goes.
    pub is_recalled: bool,
    /// The answer that will be written.
    pub waiting: Option<Arc<Answer>>,
}

/// What the disk has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub since: Since,
    /// A digest of the content, with a key of this process.
    pub digest: [u8; 16],
    pub bytes: usize,
}

pub(super) struct Index {
    known: Shelf<Id, Known>,
    /// How many answers depend on a login.
    behind: HashMap<Id, usize>,
    /// Logins that were refused.
    shut: HashSet<Id>,
    pub wipes: Wipes,
    queue: Shelf<Id, Id>,
    pub unlinks: HashSet<Id>,
    /// The answers that the writer removes or writes now.
    pub under_way: HashSet<Id>,
    /// Changes to the marks of logins that must be written: whether each login is refused.
    pub marks: HashMap<Id, bool>,
    pub ticket: Ticket,
    /// The newest time on the disk; `None`: it must be looked for.
    newest: Option<Timestamp>,
    /// Whether everything that a former process has left is known. Until then, any file may be there.
    pub complete: bool,
    /// Whether too many answers were revoked before that. Then nothing that a former process has left is used any more.
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

    /// The only Pod that it is for, if a former process has left it.
    pub fn recalled_for(&self) -> Option<&Arc<str>> {
        match &self.scope {
            Scope::Pod(uid) => Some(uid).filter(|_| self.is_recalled),
            Scope::Account(_) | Scope::Node => None,
        }
    }

    fn is_over(&self, now: Timestamp) -> bool {
        self.since.age(now) >= self.bound
    }

    /// The space that it uses on the disk, in whole blocks.
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
    /// With these limits in bytes: of the disk, and of memory.
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

    /// The larger one of two parts: of the disk, and of the memory for this index. So neither limit is ever exceeded, and tenants share both.
    fn weight(&self, known: &Known) -> usize {
        let part = known.in_memory().saturating_mul(self.bytes) / self.memory.max(1);
        known.on_disk().max(part)
    }

    /// Adds an answer. If there is no room, other answers of its tenant are removed.
    pub fn add(&mut self, known: Known) {
        let (weight, tenant) = (self.weight(&known), Arc::clone(&known.pod.namespace));
        *self.behind.entry(known.login).or_default() += 1;
        self.newest = self.newest.map(|newest| newest.max(known.since.at));
        for gone in self.known.put(&tenant, known.id, known, weight, |_| false) {
            self.left(&gone);
        }
    }

    /// Takes an entry out, to change it and add it again.
    pub fn take(&mut self, id: Id) -> Option<Known> {
        let known = self.known.remove(&id)?;
        self.unlisted(&known);
        Some(known)
    }

    /// Adds an answer that must be written, unless the disk has the same one and it is young enough. `same_as`: if the answer is the same as the
    /// one in memory, when the store was asked for that one.
    pub fn put(&mut self, id: Id, answer: Answer, origin: &Arc<str>, same_as: Option<Since>) {
        let former = self.take(id);
        let mut known = Known::new(&answer, origin, id);
        // Perhaps the answer in memory could not be written. Then the disk does not have it.
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

    /// There is no room for it among the waiting answers. The disk keeps the version that it has; a new answer is not kept there.
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

    /// Removes an answer: here at once, and from the disk by the writer. This also works if it is waiting to be written.
    pub fn remove(&mut self, id: Id) -> Ticket {
        let known = self.take(id);
        self.queue.remove(&id);
        // What was never written needs no removal. Otherwise, the removals would pile up while the disk hangs.
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

    /// Removes everything that `keep` does not accept.
    pub fn retain(&mut self, keep: impl Fn(&Known) -> bool) -> Ticket {
        let gone: Vec<Id> = self.known.values().filter(|known| !keep(known)).map(|known| known.id).collect();
        gone.into_iter().map(|id| self.remove(id)).max().unwrap_or(0)
    }

    /// Removes what is too old, and what was wiped.
    pub fn expire(&mut self, now: Timestamp) -> Ticket {
        let wipes = std::mem::take(&mut self.wipes);
        let is_wiped = |known: &Known, at: Timestamp| !wipes.is_empty() && known.secret().is_none_or(|secret| wipes.cover(&secret, at));
        let ticket = self.retain(|known| !known.is_over(now) && !is_wiped(known, known.since.at));
        // The store has given it again since, and that answer must be written. The older one on the disk is gone.
        for known in self.known.values_mut().filter(|known| known.waiting.is_some()) {
            known.written = known.written.filter(|written| !is_wiped(known, written.since.at));
        }
        self.wipes = wipes;
        ticket
    }

    /// None of these may be given for longer than `stale`.
    pub fn shorten(&mut self, which: impl Fn(&Known) -> bool, stale: Duration) {
        for known in self.known.values_mut().filter(|known| which(known)) {
            known.bound = known.bound.min(stale);
        }
    }

    /// An entry has left the shelf.
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

    /// A login is refused: answers that depend on it must not be given, also not by the next process.
    pub fn shut(&mut self, login: Id) -> Ticket {
        if self.complete && !self.behind.contains_key(&login) {
            return 0;
        }
        self.shut.insert(login);
        // While the disk hangs, marks wait. There are no more of them than logins that answers depend on.
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

    /// The marks on the disk are gone: all must be written again.
    pub fn mark_again(&mut self) {
        self.marks.extend(self.shut.iter().map(|login| (*login, true)));
        self.next();
    }

    /// Adds an answer that a former process has left, unless it was revoked, or is newer here.
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

    /// Removes the marks of logins that no answer depends on any more.
    pub fn drop_marks(&mut self) {
        if !self.complete {
            return;
        }
        let idle: Vec<Id> = self.shut.iter().filter(|login| !self.behind.contains_key(*login)).copied().collect();
        for login in idle {
            self.open(login);
        }
    }

    // --- for the writer ---

    pub fn next(&mut self) -> Ticket {
        self.ticket += 1;
        self.ticket
    }

    pub fn is_waiting(&self) -> bool {
        self.queue.weight() > 0
    }

    pub fn next_write(&mut self) -> Option<(Arc<Answer>, Arc<str>, Option<Written>)> {
        loop {
            // A removal is done before a write of the same answer.
            let id = *self.queue.values().find(|id| !self.unlinks.contains(id))?;
            self.queue.remove(&id);
            let Some(known) = self.known.find(&id) else { continue };
            let Some(answer) = known.waiting.clone() else { continue };
            let next = (answer, Arc::clone(&known.origin), known.written);
            self.under_way.insert(id);
            return Some(next);
        }
    }

    /// The result of a write.
    pub fn wrote(&mut self, id: Id, answer: &Arc<Answer>, written: Option<Written>) {
        self.under_way.remove(&id);
        // If it was removed meanwhile, it is not added again; its removal comes later.
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

    /// How far the clock is behind the newest time in the folder, if that is too far.
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

    /// The bytes that wait to be written, as they are counted.
    #[cfg(test)]
    pub fn weight_of_queue(&self) -> usize {
        self.queue.weight()
    }
}
