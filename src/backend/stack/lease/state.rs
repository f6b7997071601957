//! What the table has, behind its lock: records, what is given for which key, the Pods, and what is still to do.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::{Duration, Instant};

use super::Store;
use super::calls::{Lane, Server, StoreName};
use super::flight::Flight;
use super::pods::{Gone, Pods};
use super::record::{FarewellId, Key, Record, RecordId, Stage};
use super::records::{Records, Task};
use super::room::{Full, MOST_EACH};
use super::saved::Saved;
use crate::backend::{BackendError, Fault};
use crate::model::{BackendName, RefParts};
use crate::shares::Held;

/// Store tokens are given back as if they were leases with this time left: after leases of the same tenant that end sooner.
const TOKENS_LAST: Duration = Duration::from_hours(1);

pub(super) struct State {
    pub records: Records,
    pub slots: HashMap<Key, Slot>,
    pub pods: Pods,
    /// The farewells of Pods that are gone: one for each of a Pod's stores.
    pub farewells: HashMap<FarewellId, Farewell>,
    /// The number of farewells so far.
    pub farewell: FarewellId,
    /// Leases of a former process, until their backend is built.
    pub awaiting: HashMap<BackendName, Vec<Saved>>,
    /// Records that differ from those on the disk.
    pub unsaved: HashSet<RecordId>,
    /// How many of those the keeper is writing now.
    pub saving: usize,
    /// When the log last said that the disk cannot be written.
    pub unwritten: Option<Instant>,
    /// Whether the log has said that no Pod can be seen.
    pub blind: bool,
    /// Whether the log has said that no lease outlives the process.
    pub told: bool,
    /// When the keeper looks again; `None`: when it gets a signal.
    pub wakes: Option<Instant>,
    /// How often the keeper has looked.
    #[cfg(test)]
    pub rounds: usize,
}

/// What is known about one key.
#[derive(Default)]
pub(super) struct Slot {
    pub given: Option<RecordId>,
    pub flight: Option<Flight>,
}

/// A Pod whose store tokens one store must give back. This comes after the Pod's leases there are revoked: if a token is revoked, its leases go
/// with it, and the store does not say how that went.
pub(super) struct Farewell {
    pub pod: Arc<str>,
    pub store: Store,
    pub lane: Arc<Lane>,
    /// Leases that are still to be revoked.
    left: usize,
    /// The Pod's place among the watched Pods: it counts until its last farewell.
    _room: Arc<Held>,
}

// === impl State ===

impl State {
    pub fn new() -> Self {
        Self {
            records: Records::new(),
            slots: HashMap::new(),
            pods: Pods::new(),
            farewells: HashMap::new(),
            farewell: 0,
            awaiting: HashMap::new(),
            unsaved: HashSet::new(),
            saving: 0,
            unwritten: None,
            blind: false,
            told: false,
            wakes: None,
            #[cfg(test)]
            rounds: 0,
        }
    }

    pub fn insert(&mut self, record: Record) {
        if record.secret.is_some() {
            self.slots.entry(record.key.clone()).or_default().given = Some(record.id);
        }
        self.records.insert(record);
    }

    /// What was given for the key is not given any more.
    pub fn retire(&mut self, key: &Key) -> Option<&Record> {
        let id = self.slots.get_mut(key)?.given.take()?;
        self.records.change(id, Record::retire)?;
        self.unsaved.insert(id);
        self.records.get(id)
    }

    pub fn remove(&mut self, id: RecordId) -> Option<Record> {
        let record = self.records.remove(id)?;
        self.forget(&record);
        Some(record)
    }

    /// A record was taken out.
    pub fn forget(&mut self, record: &Record) {
        // What was never written needs no removal: nothing piles up while a disk hangs.
        if record.written.load(Ordering::Relaxed) {
            self.unsaved.insert(record.id)
        } else {
            self.unsaved.remove(&record.id)
        };
        self.forsake(&record.key, record.id);
        for id in &record.farewells {
            let Some(farewell) = self.farewells.get_mut(id) else { continue };
            farewell.left -= 1;
            if farewell.left == 0 {
                self.records.calls.put(&farewell.lane, Instant::now() + TOKENS_LAST, Task::Tokens(*id));
            }
        }
    }

    /// The next mount gets another one. What was given ends by itself.
    pub fn drop_out(&mut self, id: RecordId) {
        let retired = self.records.change(id, |record| {
            if record.stage != Stage::Leaving {
                record.retire();
            }
            record.key.clone()
        });
        if let Some(key) = retired {
            self.unsaved.insert(id);
            self.forsake(&key, id);
        }
    }

    /// A Pod is gone: what nobody else uses must be revoked. The disk does not change until that is done, so that the next process also misses the
    /// Pod.
    pub fn gone(&mut self, Gone { pod, asked_of, room }: Gone, now: Instant) {
        let mut leaving = Vec::new();
        for id in self.records.of_pod(&pod) {
            if self.records.get(id).is_some_and(|record| record.pods.len() > 1) {
                self.records.left_by(id, &pod);
                self.unsaved.insert(id);
            } else if let Some(key) = self.leave(id, now) {
                leaving.push((id, key.secret.backend.clone()));
            }
        }
        let room = Arc::new(room);
        for store in asked_of {
            let leaves = leaving.iter().filter(|(_, backend)| *backend == store.name).map(|(id, _)| *id).collect();
            self.bid_farewell(Arc::clone(&pod), store, leaves, Arc::clone(&room), now);
        }
    }

    /// From now on it must be revoked, and mounts no longer get it.
    fn leave(&mut self, id: RecordId, now: Instant) -> Option<Key> {
        let key = self.records.change(id, |record| {
            record.leave(now);
            record.key.clone()
        })?;
        self.forsake(&key, id);
        Some(key)
    }

    fn bid_farewell(&mut self, pod: Arc<str>, store: Store, leases: Vec<RecordId>, room: Arc<Held>, now: Instant) {
        self.farewell += 1;
        let (id, tenant) = (self.farewell, room.tenant().clone());
        let lane = Arc::new(Lane { store: StoreName::of(&store), server: Server::Tokens, tenant });
        self.records.calls.join(&lane);
        if leases.is_empty() {
            self.records.calls.put(&lane, now + TOKENS_LAST, Task::Tokens(id));
        }
        self.farewells.insert(id, Farewell { pod, store, lane, left: leases.len(), _room: room });
        for lease in leases {
            self.records.change(lease, |record| record.farewells.push(id));
        }
    }

    /// The store knows now that the Pod is gone.
    pub fn departed(&mut self, id: FarewellId) {
        if let Some(farewell) = self.farewells.remove(&id) {
            self.records.calls.leave(&farewell.lane);
        }
    }

    /// Everything must be revoked, and only the caller does it.
    pub fn leave_all(&mut self, now: Instant) {
        let all: Vec<_> = self.records.ids().collect();
        for id in all {
            self.leave(id, now);
            self.records.change(id, |record| record.busy = true);
            // Leases that are not revoked in time are written in this stage: the next process goes on.
            self.unsaved.insert(id);
        }
    }

    fn forsake(&mut self, key: &Key, id: RecordId) {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.given = slot.given.filter(|given| *given != id);
            self.tidy(key);
        }
    }

    pub fn landed(&mut self, key: &Key) {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.flight = None;
            self.tidy(key);
        }
    }

    fn tidy(&mut self, key: &Key) {
        if self.slots.get(key).is_some_and(|slot| slot.given.is_none() && slot.flight.is_none()) {
            self.slots.remove(key);
        }
    }

    /// Whether a new lease for this key would only replace another one.
    pub fn replaces(&self, key: &Key) -> bool {
        self.slots.get(key).is_some_and(|slot| slot.given.is_some())
    }

    /// Whether this holder has as many leases as it may.
    pub fn full(&self, key: &Key) -> Option<Full> {
        let is_full = !self.replaces(key) && self.records.of_holder(&key.holder) >= MOST_EACH;
        is_full.then(|| Full::Holder(key.holder.clone()))
    }
}

/// The error if there is no room.
pub(super) fn too_large(key: &Key, reason: String) -> BackendError {
    let RefParts { backend, name, .. } = &*key.secret;
    BackendError { fault: Fault::TooLarge, backend: backend.clone(), secret: Some(name.clone()), reason, retry_after: None, source: None }
}
