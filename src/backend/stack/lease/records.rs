//! All records, and the answers that are needed all the time: how many a holder has, which ones a Pod uses, which one is next. Each answer takes
//! about the same time for one record or for thousands. Only this module changes a record ([`Records::change`]), so that the answers stay right.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tokio::time::Instant;

use super::Store;
use super::calls::{Calls, Slot};
use super::life::Moment;
use super::record::{Booked, FarewellId, Record, RecordId, Stage};
use crate::backend::Scope;
use crate::model::PodIdentity;

pub(super) struct Records {
    all: HashMap<RecordId, Record>,
    /// How many each holder has, without those that nobody uses any more.
    each: HashMap<Scope, usize>,
    by_pod: BTreeMap<Arc<str>, BTreeSet<RecordId>>,
    /// When to look at each record next, without those that have a call under way.
    diary: BTreeSet<(Instant, RecordId)>,
    pub calls: Calls<Task>,
}

/// What a call to a store is about.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Task {
    Lease(RecordId),
    /// What a store kept for a Pod that is gone.
    Tokens(FarewellId),
}

// === impl Records ===

impl Records {
    pub fn new() -> Self {
        Self { all: HashMap::new(), each: HashMap::new(), by_pod: BTreeMap::new(), diary: BTreeSet::new(), calls: Calls::new() }
    }

    pub fn get(&self, id: RecordId) -> Option<&Record> {
        self.all.get(&id)
    }

    pub fn ids(&self) -> impl Iterator<Item = RecordId> {
        self.all.keys().copied()
    }

    pub fn values(&self) -> impl Iterator<Item = &Record> {
        self.all.values()
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// How many a holder has that may still be used.
    pub fn of_holder(&self, holder: &Scope) -> usize {
        self.each.get(holder).copied().unwrap_or(0)
    }

    /// The records that a Pod has.
    pub fn of_pod(&self, pod: &str) -> Vec<RecordId> {
        self.by_pod.get(pod).into_iter().flatten().copied().collect()
    }

    pub fn insert(&mut self, mut record: Record) {
        self.calls.join(&record.lane);
        for pod in &record.pods {
            self.by_pod.entry(Arc::clone(pod)).or_default().insert(record.id);
        }
        if record.is_out() {
            *self.each.entry(record.key.holder.clone()).or_default() += 1;
        }
        book(&mut self.diary, &mut record);
        self.all.insert(record.id, record);
    }

    pub fn remove(&mut self, id: RecordId) -> Option<Record> {
        let mut record = self.all.remove(&id)?;
        unbook(&mut self.diary, &mut self.calls, &mut record);
        self.calls.leave(&record.lane);
        for pod in &record.pods {
            self.unlink(pod, id);
        }
        if record.is_out() {
            self.one_less(&record.key.holder);
        }
        Some(record)
    }

    /// Changes anything in a record except the Pods that use it.
    pub fn change<T>(&mut self, id: RecordId, change: impl FnOnce(&mut Record) -> T) -> Option<T> {
        let record = self.all.get_mut(&id)?;
        let was_out = record.is_out();
        unbook(&mut self.diary, &mut self.calls, record);
        let changed = change(record);
        book(&mut self.diary, record);
        if was_out && !record.is_out() {
            let holder = record.key.holder.clone();
            self.one_less(&holder);
        }
        Some(changed)
    }

    /// A Pod uses it. Returns whether this is new.
    pub fn used_by(&mut self, id: RecordId, pod: &PodIdentity) -> bool {
        let Some(new) = self.all.get_mut(&id).and_then(|record| record.used_by(pod)) else { return false };
        self.by_pod.entry(new).or_default().insert(id);
        true
    }

    /// A mount asked for it. Returns whether its end has changed.
    pub fn asked_for(&mut self, id: RecordId, now: Moment) -> bool {
        let is_due = self.all.get(&id).is_some_and(|record| record.is_to_be_put_off(now.at));
        if is_due {
            self.change(id, |record| record.put_off(now));
        }
        is_due
    }

    /// A Pod that uses it is gone.
    pub fn left_by(&mut self, id: RecordId, pod: &str) {
        if self.all.get_mut(&id).is_some_and(|record| record.left_by(pod)) {
            self.unlink(pod, id);
        }
    }

    /// A stack was built again: it renews what the former stack of this store issued.
    pub fn move_to(&mut self, store: &Store) {
        for record in self.all.values_mut().filter(|record| record.store.name == store.name && record.store.origin == store.origin) {
            store.inner.adopt(&record.lease);
            record.store = store.clone();
        }
    }

    /// Puts the records whose time has come into their stores' queues. Takes out those that have ended and have no call under way.
    pub fn come_due(&mut self, now: Instant) -> Vec<Record> {
        let mut over = Vec::new();
        while let Some((_, id)) = self.diary.first().copied().filter(|(due, _)| *due <= now) {
            match self.all.get_mut(&id) {
                Some(record) if record.life.ends_at() > now => {
                    unbook(&mut self.diary, &mut self.calls, record);
                    let ends = record.life.ends_at();
                    self.calls.put(&record.lane, ends, Task::Lease(id));
                    // It still ends if its turn does not come.
                    self.diary.insert((ends, id));
                    record.booked = Booked::Due(ends);
                }
                Some(_) => over.extend(self.remove(id)),
                None => _ = self.diary.pop_first(),
            }
        }
        over
    }

    /// When the next record is due or ends.
    pub fn soonest(&self) -> Option<Instant> {
        self.diary.first().map(|(due, _)| *due)
    }

    /// The next call to make. The record is busy until the caller says otherwise.
    pub fn next_call(&mut self) -> Option<(Task, Slot)> {
        let (task, slot) = self.calls.next()?;
        if let Task::Lease(id) = task {
            self.change(id, |record| record.busy = true);
        }
        Some((task, slot))
    }

    fn one_less(&mut self, holder: &Scope) {
        if let Some(each) = self.each.get_mut(holder) {
            *each -= 1;
            if *each == 0 {
                self.each.remove(holder);
            }
        }
    }

    fn unlink(&mut self, pod: &str, id: RecordId) {
        if let Some(records) = self.by_pod.get_mut(pod) {
            records.remove(&id);
            if records.is_empty() {
                self.by_pod.remove(pod);
            }
        }
    }
}

fn book(diary: &mut BTreeSet<(Instant, RecordId)>, record: &mut Record) {
    if !record.busy {
        let due = record.due();
        diary.insert((due, record.id));
        record.booked = Booked::Later(due);
    }
}

fn unbook(diary: &mut BTreeSet<(Instant, RecordId)>, calls: &mut Calls<Task>, record: &mut Record) {
    match std::mem::replace(&mut record.booked, Booked::No) {
        Booked::No => {}
        Booked::Later(due) => _ = diary.remove(&(due, record.id)),
        Booked::Due(ends) => {
            diary.remove(&(ends, record.id));
            calls.withdraw(&record.lane, ends, Task::Lease(record.id));
        }
    }
}

impl Record {
    /// Whether somebody may still use it.
    fn is_out(&self) -> bool {
        self.stage != Stage::Leaving
    }
}
