//! Answers over restarts (`cache.sealed`): each answer that may be given while a store is out is also on the node's disk, in a room of the sealed
//! folder. Memory has the names, ages, sizes and what a review needs. The rest is read when it is needed.
//!
//! If the store, policy or the admin revokes an answer, it is gone from memory at once. It is also gone from the disk before the denied mount gets
//! its error: the caller waits for the [`Ticket`]. One thread writes. If the disk cannot be written, no answer is given from it: nobody can say
//! then whether an answer there may still be given.

mod content;
mod index;
mod ledger;
mod open;
mod space;
mod wipes;
mod wiping;
mod writer;

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::{Duration, Instant, timeout_at};

use super::rule::Rule;
use super::since::Since;
use super::table::Judge;
use crate::backend::Scope;
use crate::backend::stack::asked::Asked;
use crate::files::{Desk, Late};
use crate::model::{BackendName, Login, PodIdentity, SecretRef};

pub use open::Opening;
pub use wiping::{Listed, Target, list, wipe};

pub(super) use content::Answer;
pub(in crate::backend) use index::Ticket;
pub(in crate::backend) use ledger::{Denied, Section};

use content::Id;
use index::Known;
use writer::Shared;

/// Files that are read at once, each on a thread. One tenant has at most half of them.
const THREADS: usize = 16;

/// How long a mount waits for a file that it could get instead of the store's answer.
const READ: Duration = Duration::from_secs(2);

/// How long a mount waits for the folder to be read, just after the start.
const START: Duration = Duration::from_secs(10);

/// How long a removal may take. After that, the disk counts as one that does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The part of a mount's time that is left after it has waited for a removal.
const REST: Duration = Duration::from_secs(1);

/// The answers of all backends on the disk. A reload does not change it.
pub struct Archive {
    shared: Arc<Shared>,
    desk: Desk,
}

/// The part of one backend, as it is configured.
#[derive(Clone, Debug)]
pub(in crate::backend) struct Drawer {
    archive: Arc<Archive>,
    backend: BackendName,
    /// The address, the login, and everything else in its entry.
    origin: Arc<str>,
}

/// An answer that could be given.
enum Servable {
    /// It waits to be written.
    Here(Arc<Answer>),
    /// The time that the disk has for it, when the store last gave the same answer, and the Pod.
    There(Timestamp, Since, Arc<PodIdentity>),
}

// === impl Archive ===

impl Archive {
    /// The part of a backend with this entry.
    pub(in crate::backend) fn drawer(self: &Arc<Self>, backend: &BackendName, origin: &str) -> Drawer {
        Drawer { archive: Arc::clone(self), backend: backend.clone(), origin: origin.into() }
    }

    /// Removes the answers of all other backends.
    pub(in crate::backend) fn retain(&self, in_force: &[Drawer]) -> Ticket {
        let ticket = self.shared.lock().index.retain(|known| in_force.iter().any(|drawer| drawer.has(known)));
        self.shared.wake();
        ticket
    }

    /// Waits until what was removed is gone from the disk, or until the writer has found that it cannot be removed. In that case nothing is given
    /// from the disk.
    pub(in crate::backend) async fn settled(&self, ticket: Ticket, deadline: Instant) {
        if ticket == 0 {
            return;
        }
        let now = Instant::now();
        let until = deadline - REST.min(deadline.saturating_duration_since(now) / 10);
        let mut done = self.shared.done.subscribe();
        if timeout_at(until.min(now + PATIENCE), done.wait_for(|done| *done >= ticket)).await.is_ok() {
            return;
        }
        self.shared.hangs();
        let _ = timeout_at(until, done.wait_for(|done| *done >= ticket)).await;
    }

    /// The same, for a thread that may block.
    pub(in crate::backend) fn wait(&self, ticket: Ticket) {
        if !self.shared.wait(ticket, PATIENCE) {
            self.shared.hangs();
        }
    }

    /// Why nothing is given from the disk, if the reason is that it cannot be written.
    pub fn fault(&self) -> Option<String> {
        self.shared.lock().fault.clone()
    }

    /// Returns when everything that a former process has left is known.
    pub async fn complete(&self) {
        let _ = self.shared.complete.subscribe().wait_for(|complete| *complete).await;
    }

    /// Writes what waits, because the process ends.
    pub async fn flush(&self, deadline: Instant) {
        let ticket = self.shared.flush();
        let mut done = self.shared.done.subscribe();
        let _ = timeout_at(deadline, done.wait_for(|done| *done >= ticket)).await;
    }

    /// With a writer that does its work at once, and with room on the disk. For tests on paused time.
    #[cfg(test)]
    pub(in crate::backend) fn at_once(
        sealed: &Arc<crate::backend::stack::sealed::Sealed>,
        clock: &Arc<dyn crate::clock::Clock>,
    ) -> Arc<Self> {
        let opening = Opening { sealed, bytes: 1 << 20, memory: 1 << 20, pods: "/no/such/folder".into(), clock };
        Self::with(&opening, Arc::new(|_| Ok((1 << 40, 1 << 41))), true).unwrap()
    }

    /// As if the disk could not be written.
    #[cfg(test)]
    pub(in crate::backend) fn fails(&self) {
        self.shared.lock().fault = Some("as it was told".to_owned());
    }

    #[cfg(test)]
    pub(in crate::backend) fn switch_off(&self, rule: Option<Rule>) {
        *self.shared.off.lock().unwrap() = rule;
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archive").finish_non_exhaustive()
    }
}

// === impl Drawer ===

impl Drawer {
    pub(in crate::backend) fn archive(&self) -> &Arc<Archive> {
        &self.archive
    }

    /// An answer must be written. `same_as`: if the answer is the same as the one in memory, when the store was asked for that one.
    pub(super) fn put(&self, answer: Answer, same_as: Option<Since>) {
        let id = self.id(&answer.asked);
        // If the answer was wiped since, the disk does not have it any more, although the index does not know this: the writer finds out.
        let has_fault = self.shared().lock().fault.is_some();
        let same_as = same_as.filter(|_| !has_fault && self.shared().is_current());
        self.shared().lock().index.put(id, answer, &self.origin, same_as);
        self.shared().wake();
    }

    pub(super) fn remove(&self, asked: &Asked) -> Ticket {
        let id = self.id(asked);
        let ticket = self.shared().lock().index.remove(id);
        self.shared().wake();
        ticket
    }

    /// The Pod is gone.
    pub(super) fn forget(&self, pod: &str) -> Ticket {
        let is_of_pod = |known: &Known| matches!(&known.scope, Scope::Pod(uid) if **uid == *pod);
        let ticket = self.shared().lock().index.retain(|known| !(self.has(known) && is_of_pod(known)));
        self.shared().wake();
        ticket
    }

    /// Another configuration applies: no answer is given for longer than `stale`, and those that policy no longer allows are removed.
    pub(super) fn review(&self, stale: Duration, allows: &Judge<'_>) -> Ticket {
        let mut accounts = std::collections::HashMap::<_, Vec<(Id, Arc<PodIdentity>, SecretRef)>>::new();
        let mut ticket = {
            let mut inner = self.shared().lock();
            inner.index.shorten(|known| self.has(known), stale);
            let now = self.shared().clock.now();
            let ticket = inner.index.expire(now);
            for known in inner.index.all().filter(|known| self.has(known)) {
                let Some(secret) = known.secret() else { continue };
                let account = (Arc::clone(&known.pod.namespace), Arc::clone(&known.pod.service_account));
                accounts.entry(account).or_default().push((known.id, Arc::clone(&known.pod), secret));
            }
            ticket
        };
        // Policy decides without the lock.
        for known in accounts.into_values() {
            let secrets: Vec<&SecretRef> = known.iter().map(|(_, _, secret)| secret).collect();
            let allowed = known.first().map(|(_, pod, _)| allows(pod, &secrets)).unwrap_or_default();
            let mut inner = self.shared().lock();
            for ((id, ..), _) in known.iter().zip(allowed).filter(|(_, allowed)| !allowed) {
                ticket = ticket.max(inner.index.remove(*id));
            }
        }
        self.shared().wake();
        ticket
    }

    // --- logins ---

    pub(super) fn shut(&self, scope: &Scope, login: &Login) -> Ticket {
        let login = Id::of_login(&self.backend, &self.origin, scope, login);
        let ticket = self.shared().lock().index.shut(login);
        self.shared().wake();
        ticket
    }

    pub(super) fn open(&self, scope: &Scope, login: &Login) {
        if !self.shared().lock().index.has_shut() {
            return;
        }
        let login = Id::of_login(&self.backend, &self.origin, scope, login);
        self.shared().lock().index.open(login);
        self.shared().wake();
    }

    pub(super) fn is_shut(&self, scope: &Scope, login: &Login) -> bool {
        if !self.shared().lock().index.has_shut() {
            return false;
        }
        let login = Id::of_login(&self.backend, &self.origin, scope, login);
        self.shared().lock().index.is_shut(login)
    }

    // --- serving ---

    /// Whether the answer could be given, as far as this is known without reading it.
    pub(super) fn could_serve(&self, asked: &Asked, bound: Duration) -> bool {
        // Nobody knows before everything is read.
        !*self.shared().complete.borrow() || self.has_servable(asked, bound)
    }

    /// Whether it is known that the answer could be given.
    pub(super) fn has_servable(&self, asked: &Asked, bound: Duration) -> bool {
        self.servable(self.id(asked), &asked.secret, bound).is_some()
    }

    /// Whether any answer could be given.
    pub(super) fn can_serve(&self, stale: Duration) -> bool {
        let now = self.shared().clock.now();
        let mut inner = self.shared().lock();
        if inner.fault.is_some() || inner.index.behind_by(now).is_some() {
            return false;
        }
        let index = &inner.index;
        index.all().any(|known| self.has(known) && known.since.age(now) < stale.min(known.bound) && !index.is_shut(known.login))
    }

    /// Whether the disk has it with its newest time, so that memory may drop it.
    pub(super) fn is_safe(&self, asked: &Asked, since: &Since) -> bool {
        let id = self.id(asked);
        let mut state = self.shared().lock();
        let has_fault = state.fault.is_some();
        let known = state.index.find(id);
        !has_fault && known.is_some_and(|known| known.written.is_some() && known.waiting.is_none() && known.since == *since)
    }

    /// Whether `keyferry cache wipe` has wiped what the store answered at that time.
    pub(super) fn is_wiped(&self, secret: &SecretRef, at: Timestamp) -> bool {
        self.shared().holds(Rule::Wiped) && self.shared().lock().index.wipes.cover(secret, at)
    }

    /// Whether the wipes are known without reading them.
    pub(super) fn has_wipes(&self) -> bool {
        // If the disk does not answer, no wipe has finished either.
        self.shared().lock().fault.is_some() || self.shared().is_current()
    }

    /// Reads the wipes if they have changed. `false`: nobody can say now what was wiped.
    pub(super) async fn knows_wipes(&self, tenant: &str, deadline: Instant) -> bool {
        let shared = self.shared();
        if self.has_wipes() {
            return true;
        }
        let reader = Arc::clone(shared);
        let read = self.archive.desk.run(tenant, deadline.min(Instant::now() + READ), move || reader.read_wipes()).await;
        match read {
            Ok(()) => true,
            Err(Late::Hangs) => {
                shared.hangs();
                false
            }
            Err(Late::Deadline) => false,
        }
    }

    /// The age of the answer on the disk, if it may be given. The index knows it, and no file is read.
    pub(super) async fn age(&self, asked: &Asked, bound: Duration, deadline: Instant) -> Option<Duration> {
        let _ = timeout_at(deadline.min(Instant::now() + START), self.archive.complete()).await;
        let since = match self.servable(self.id(asked), &asked.secret, bound)? {
            Servable::Here(answer) => answer.since,
            Servable::There(_, since, _) => since,
        };
        Some(since.age(self.shared().clock.now()))
    }

    /// The answer on the disk, if it is young enough and may be given.
    pub(super) async fn read(&self, asked: &Asked, bound: Duration, tenant: &str, deadline: Instant) -> Option<Answer> {
        let id = self.id(asked);
        let _ = timeout_at(deadline.min(Instant::now() + START), self.archive.complete()).await;
        let (at, since, pod) = match self.servable(id, &asked.secret, bound)? {
            Servable::Here(answer) => return Some(Answer::clone(&answer)),
            Servable::There(at, since, pod) => (at, since, pod),
        };
        let (room, origin, request) = (self.shared().answers.clone(), Arc::clone(&self.origin), asked.clone());
        let read = move || {
            let content = room.find(&id.text())?.ok_or_else(|| "is not there any more".to_owned())?;
            let answer = Answer::decode(content.expose(), &origin, &request, at, &pod, since);
            answer.ok_or_else(|| "is not the one that was written".to_owned())
        };
        match self.archive.desk.run(tenant, deadline.min(Instant::now() + READ), read).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(problem)) => {
                self.lost(id, at, &problem);
                None
            }
            Err(Late::Hangs) => {
                self.shared().hangs();
                None
            }
            Err(Late::Deadline) => None,
        }
    }

    /// Whether the answer that was read may still be given.
    pub(super) fn still_has(&self, answer: &Answer, bound: Duration) -> bool {
        let id = self.id(&answer.asked);
        match self.servable(id, &answer.asked.secret, bound) {
            Some(Servable::Here(known)) => known.since == answer.since,
            Some(Servable::There(_, since, _)) => since == answer.since,
            None => false,
        }
    }

    fn servable(&self, id: Id, secret: &SecretRef, bound: Duration) -> Option<Servable> {
        let (shared, now) = (self.shared(), self.shared().clock.now());
        let mut state = shared.lock();
        // The newest time is not known before that.
        if !state.index.complete {
            return None;
        }
        if state.fault.is_some() && shared.holds(Rule::Written) || state.is_behind(now) && shared.holds(Rule::Clock) {
            return None;
        }
        let (since, bound, login, servable) = {
            let known = state.index.find(id)?;
            let servable = match (&known.waiting, known.written) {
                (Some(answer), _) => Servable::Here(Arc::clone(answer)),
                (None, Some(written)) => Servable::There(written.since.at, known.since, Arc::clone(&known.pod)),
                (None, None) => return None,
            };
            (known.since, bound.min(known.bound), known.login, servable)
        };
        let is_young = since.age(now) < bound || !shared.holds(Rule::Bound);
        let is_shut = state.index.is_shut(login) && shared.holds(Rule::Login);
        let is_wiped = state.index.wipes.cover(secret, since.at) && shared.holds(Rule::Wiped);
        (is_young && !is_shut && !is_wiped).then_some(servable)
    }

    /// A file that is not what it should be is not used, and is removed.
    fn lost(&self, id: Id, at: Timestamp, problem: &str) {
        let mut state = self.shared().lock();
        if state.index.find(id).is_some_and(|known| known.written.is_some_and(|written| written.since.at == at)) {
            state.index.remove(id);
            drop(state);
            tracing::warn!(backend = %self.backend, problem, "a sealed answer cannot be used: Keyferry must ask the store again");
            self.shared().wake();
        }
    }

    fn has(&self, known: &Known) -> bool {
        known.backend == self.backend && *known.origin == *self.origin
    }

    fn id(&self, asked: &Asked) -> Id {
        Id::of(&self.origin, asked)
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.archive.shared
    }
}

#[cfg(test)]
mod tests;
