//! The calls that Keyferry owes to stores, and which of them is next. Nothing here waits or calls.
//!
//! Each store has its own queue, with at most [`AT_ONCE`] calls under way. So what one store does has no effect on another. Within a queue:
//!
//! - Each tenant has a share of the calls under way ([`Shares`]). So one tenant leaves some of the eight to others, however long its calls take.
//! - Tenants take turns: between two calls of one tenant, each other tenant has a turn, if its call is due and it has not used its share.
//! - Among the calls of one tenant, the one whose lease ends first is first.
//!
//! The calls of one tenant to one server are a *lane*. If a call got no answer in its time, the lane is *silent* until one of its calls is
//! answered. Silent lanes get one call at a time: one per lane, and one per server, however many tenants' lanes are silent there. Lanes that are
//! not silent go on as before, because perhaps only a path hangs, and not the store. Two of the eight calls are for lanes whose last call was
//! answered. So these lanes go on, however many other tenants' calls hang.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tokio::time::Instant;

use super::Store;
use crate::backend::Origin;
use crate::model::{BackendName, Tenant};
use crate::shares::{Held, Shares};

/// Calls to one store under way at once. There are fewer than the backend's places, so that mounts get through when hundreds of leases are due
/// after an outage.
pub(super) const AT_ONCE: usize = 8;

/// Calls under way at once in lanes where nobody knows whether the store will answer.
const DOUBTFUL: usize = AT_ONCE - 2;

/// Where a call goes, and for whom.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Lane {
    pub store: StoreName,
    pub server: Server,
    pub tenant: Tenant,
}

/// A store as it was configured. If a reload changes the address or login, it is another store.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct StoreName {
    pub backend: BackendName,
    pub origin: Origin,
}

/// A part of a store that may be silent while the rest answers.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Server {
    /// Leases, at the address that the class chose; `None`: at the backend's own address.
    Leases(Option<Arc<str>>),
    /// Store tokens, at any address.
    Tokens,
}

/// The calls by their stores. `T` says what a call is about.
#[derive(Debug)]
pub(super) struct Calls<T>(HashMap<StoreName, Queue<T>>);

/// The right to one call. [`Calls::over`] must get it back when the call ends.
#[derive(Debug)]
#[must_use = "the store's queue waits for it to come back"]
pub(super) struct Slot {
    lane: Arc<Lane>,
    /// What was known about the lane.
    was: Word,
    _held: Held,
}

#[derive(Debug)]
struct Queue<T> {
    slots: Shares,
    tenants: BTreeMap<Tenant, Tenancy<T>>,
    /// Tenants that have something due, in the order of their turns.
    round: BTreeMap<u64, Tenant>,
    /// The last place in the round.
    last: u64,
    /// How many calls are under way in lanes whose last call was not answered.
    doubtful: usize,
    /// Servers that are called for a silent lane now.
    probed: BTreeSet<Server>,
}

#[derive(Debug)]
struct Tenancy<T> {
    /// Its place in the round, if something is due.
    place: Option<u64>,
    /// How many calls are due.
    due: usize,
    /// By server.
    lanes: BTreeMap<Server, Work<T>>,
}

#[derive(Debug)]
struct Work<T> {
    /// How many records may have calls here, due or not.
    members: usize,
    under_way: usize,
    word: Word,
    /// When it was last called, as a place in the round.
    asked: u64,
    /// The one that ends first is first.
    due: BTreeSet<(Instant, T)>,
}

/// What became of a lane's last call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Word {
    Answered,
    Silent,
    /// There was none.
    Unknown,
}

// === impl StoreName ===

impl StoreName {
    pub fn of(store: &Store) -> Self {
        Self { backend: store.name.clone(), origin: store.origin.clone() }
    }
}

// === impl Calls ===

impl<T: Copy + Ord> Calls<T> {
    pub fn new() -> Self {
        Self(HashMap::new())
    }

    /// One more record may have calls in this lane from now on. What is known about a lane is kept as long as it has members.
    pub fn join(&mut self, lane: &Lane) {
        self.0.entry(lane.store.clone()).or_insert_with(Queue::new).work(lane).members += 1;
    }

    /// A record has no more calls in this lane. None of its calls may be due.
    pub fn leave(&mut self, lane: &Lane) {
        self.change(lane, |queue| queue.work(lane).members -= 1);
    }

    /// A call is due. It is about something that ends at `ends`.
    pub fn put(&mut self, lane: &Lane, ends: Instant, task: T) {
        self.change(lane, |queue| {
            let new = queue.work(lane).due.insert((ends, task));
            queue.count(lane, usize::from(new), 0);
        });
    }

    /// A call is no longer due.
    pub fn withdraw(&mut self, lane: &Lane, ends: Instant, task: T) {
        self.change(lane, |queue| {
            let gone = queue.work(lane).due.remove(&(ends, task));
            queue.count(lane, 0, usize::from(gone));
        });
    }

    /// The next call to make.
    pub fn next(&mut self) -> Option<(T, Slot)> {
        self.0.iter_mut().find_map(|(store, queue)| queue.next(store))
    }

    /// A call has ended; `answered`: whether there was any answer.
    pub fn over(&mut self, slot: Slot, answered: bool) {
        let Slot { lane, was, _held: held } = slot;
        drop(held);
        self.change(&lane, |queue| {
            let work = queue.work(&lane);
            work.under_way -= 1;
            work.word = if answered { Word::Answered } else { Word::Silent };
            queue.doubtful -= usize::from(was != Word::Answered);
            if was == Word::Silent {
                queue.probed.remove(&lane.server);
            }
        });
    }

    /// Whether nothing is known about any store.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes what is empty afterwards.
    fn change(&mut self, lane: &Lane, change: impl FnOnce(&mut Queue<T>)) {
        let Some(queue) = self.0.get_mut(&lane.store) else { return };
        change(queue);
        queue.tidy(lane);
        if queue.tenants.is_empty() {
            self.0.remove(&lane.store);
        }
    }
}

// === impl Queue ===

impl<T: Copy + Ord> Queue<T> {
    fn new() -> Self {
        Self {
            slots: Shares::new(AT_ONCE),
            tenants: BTreeMap::new(),
            round: BTreeMap::new(),
            last: 0,
            doubtful: 0,
            probed: BTreeSet::new(),
        }
    }

    fn work(&mut self, lane: &Lane) -> &mut Work<T> {
        let tenancy = self.tenants.entry(lane.tenant.clone()).or_insert_with(|| Tenancy { place: None, due: 0, lanes: BTreeMap::new() });
        tenancy.lanes.entry(lane.server.clone()).or_insert_with(|| Work {
            members: 0,
            under_way: 0,
            word: Word::Unknown,
            asked: 0,
            due: BTreeSet::new(),
        })
    }

    /// The first tenant of the round that may have a call, and the first call in those of its lanes that may be called.
    fn next(&mut self, store: &StoreName) -> Option<(T, Slot)> {
        if self.slots.free() == 0 {
            return None;
        }
        let probes = self.probes();
        let next = self.round.values().find_map(|tenant| {
            let (server, task) = self.tenants.get(tenant)?.first(|server, word| match word {
                Word::Answered => true,
                Word::Silent => probes.get(server).is_some_and(|(_, next)| *next == tenant),
                Word::Unknown => self.doubtful < DOUBTFUL,
            })?;
            Some((tenant.clone(), server.clone(), task, self.slots.take(tenant, 1)?))
        });
        let (tenant, server, due, held) = next?;
        let lane = Lane { store: store.clone(), server, tenant };
        self.last += 1;
        let asked = self.last;
        let work = self.work(&lane);
        work.due.remove(&due);
        (work.under_way, work.asked) = (work.under_way + 1, asked);
        let was = work.word;
        self.count(&lane, 0, 1);
        self.doubtful += usize::from(was != Word::Answered);
        if was == Word::Silent {
            self.probed.insert(lane.server.clone());
        }
        // From now on it is the last of the round.
        self.leave_round(&lane.tenant);
        self.tidy(&lane);
        Some((due.1, Slot { lane: Arc::new(lane), was, _held: held }))
    }

    /// For each server, the tenant whose silent lane is called next: the one that has waited longest.
    fn probes(&self) -> BTreeMap<&Server, (u64, &Tenant)> {
        let mut next = BTreeMap::new();
        if self.doubtful >= DOUBTFUL {
            return next;
        }
        for tenant in self.round.values() {
            for (server, work) in self.tenants.get(tenant).iter().flat_map(|tenancy| &tenancy.lanes) {
                let may_be = work.word == Word::Silent && work.under_way == 0 && !work.due.is_empty() && !self.probed.contains(server);
                if may_be && next.get(server).is_none_or(|(asked, _)| work.asked < *asked) {
                    next.insert(server, (work.asked, tenant));
                }
            }
        }
        next
    }

    /// After a change of a lane: its tenant is in the round exactly if it has something due, and what is empty is removed.
    fn tidy(&mut self, lane: &Lane) {
        let Some(tenancy) = self.tenants.get_mut(&lane.tenant) else { return };
        if tenancy.lanes.get(&lane.server).is_some_and(|work| work.members == 0 && work.under_way == 0 && work.due.is_empty()) {
            tenancy.lanes.remove(&lane.server);
        }
        let is_empty = tenancy.lanes.is_empty();
        match (tenancy.due > 0, tenancy.place) {
            (true, None) => {
                self.last += 1;
                tenancy.place = Some(self.last);
                self.round.insert(self.last, lane.tenant.clone());
            }
            (false, Some(_)) => self.leave_round(&lane.tenant),
            (true, Some(_)) | (false, None) => {}
        }
        if is_empty {
            self.tenants.remove(&lane.tenant);
        }
    }

    /// More of a tenant's calls are due, or fewer.
    fn count(&mut self, lane: &Lane, more: usize, fewer: usize) {
        if let Some(tenancy) = self.tenants.get_mut(&lane.tenant) {
            tenancy.due = tenancy.due + more - fewer;
        }
    }

    fn leave_round(&mut self, tenant: &Tenant) {
        if let Some(place) = self.tenants.get_mut(tenant).and_then(|tenancy| tenancy.place.take()) {
            self.round.remove(&place);
        }
    }
}

impl<T: Copy + Ord> Tenancy<T> {
    /// The call that ends first, among those that may be made.
    fn first(&self, may_ask: impl Fn(&Server, Word) -> bool) -> Option<(&Server, (Instant, T))> {
        let open = self.lanes.iter().filter(|(server, work)| may_ask(server, work.word));
        open.filter_map(|(server, work)| Some((server, *work.due.first()?))).min_by_key(|(_, due)| *due)
    }
}

#[cfg(test)]
mod tests;
