//! What the table holds, behind its lock: records, what is given for which key, the Pods, and what is still to be done.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::time::Instant;

use super::flight::Flight;
use super::pods::{Gone, Pods};
use super::record::{Key, Record, RecordId, Stage};
use super::saved::Saved;
use crate::backend::{Backend, BackendError, Fault, Scope};
use crate::model::{BackendName, RefParts};

/// The most leases of one Pod, or of one ServiceAccount's Pods that share theirs. A class has at most `limits.objects` of them, and a
/// class that is changed again and again asks for ever more.
const MOST_EACH: usize = 128;

/// The most leases on this node.
const MOST: usize = 4096;

pub(super) struct State {
    pub records: HashMap<RecordId, Record>,
    pub slots: HashMap<Key, Slot>,
    pub pods: Pods,
    /// Those that are gone, until their leases are revoked.
    pub farewells: Vec<Farewell>,
    /// What a former process left, until its backend is built.
    pub awaiting: HashMap<BackendName, Vec<Saved>>,
    /// Records that are otherwise than the disk has them.
    pub unsaved: HashSet<RecordId>,
    /// That no Pod can be seen was said.
    pub blind: bool,
    /// That nothing outlives the process was said.
    pub told: bool,
    /// When the keeper looks again; `None`: when it is told to.
    pub wakes: Option<Instant>,
}

/// What is known of one key.
#[derive(Default)]
pub(super) struct Slot {
    pub given: Option<RecordId>,
    pub flight: Option<Flight>,
}

/// A Pod whose store tokens are given back once its leases are revoked: a token takes its leases with it, and says nothing of how that went.
pub(super) struct Farewell {
    pub pod: Arc<str>,
    pub asked_of: Vec<Arc<dyn Backend>>,
    pub leases: Vec<RecordId>,
}

// === impl State ===

impl State {
    pub fn new() -> Self {
        Self {
            records: HashMap::new(),
            slots: HashMap::new(),
            pods: Pods::new(),
            farewells: Vec::new(),
            awaiting: HashMap::new(),
            unsaved: HashSet::new(),
            blind: false,
            told: false,
            wakes: None,
        }
    }

    pub fn insert(&mut self, record: Record) {
        if record.secret.is_some() {
            self.slots.entry(record.key.clone()).or_default().given = Some(record.id);
        }
        self.records.insert(record.id, record);
    }

    /// What was given for the key is not given any more.
    pub fn retire(&mut self, key: &Key) -> Option<&Record> {
        let id = self.slots.get_mut(key)?.given.take()?;
        let record = self.records.get_mut(&id)?;
        record.retire();
        self.unsaved.insert(id);
        Some(record)
    }

    pub fn remove(&mut self, id: RecordId) -> Option<Record> {
        let record = self.records.remove(&id)?;
        self.unsaved.insert(id);
        self.forsake(&record.key.clone(), id);
        Some(record)
    }

    /// The next mount issues anew; what was given is left to its end.
    pub fn drop_out(&mut self, id: RecordId) {
        if let Some(record) = self.records.get_mut(&id) {
            if record.stage != Stage::Leaving {
                record.retire();
            }
            let key = record.key.clone();
            self.unsaved.insert(id);
            self.forsake(&key, id);
        }
    }

    /// A Pod is gone: what nobody else uses is to be revoked. On the disk that stays as it was until it is done, so that the next process
    /// would miss the Pod, too.
    pub fn gone(&mut self, Gone { pod, asked_of }: Gone, now: Instant) {
        let mut leaving = Vec::new();
        for record in self.records.values_mut().filter(|record| record.pods.contains(&pod)) {
            if record.pods.len() == 1 {
                record.leave(now);
                leaving.push((record.id, record.key.clone()));
            } else {
                record.pods.remove(&pod);
                self.unsaved.insert(record.id);
            }
        }
        for (id, key) in &leaving {
            self.forsake(key, *id);
        }
        self.farewells.push(Farewell { pod, asked_of, leases: leaving.into_iter().map(|(id, _)| id).collect() });
    }

    /// The Pods whose leases are all revoked, or over.
    pub fn departed(&mut self, most: usize) -> Vec<Farewell> {
        let records = &self.records;
        let done = self.farewells.extract_if(.., |farewell| !farewell.leases.iter().any(|id| records.contains_key(id)));
        done.take(most).collect()
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

    /// Why there is no room for one more, if there is none.
    pub fn full(&self, key: &Key) -> Option<BackendError> {
        let replaces = self.slots.get(key).is_some_and(|slot| slot.given.is_some());
        let each = self.records.values().filter(|record| record.stage != Stage::Leaving && record.key.holder == key.holder).count();
        let reason = match () {
            () if replaces => return None,
            () if each >= MOST_EACH => format!(
                "{MOST_EACH} leases are out for this {}, the most there may be (ask for fewer leased secrets; those of a deleted Pod are revoked)",
                match key.holder {
                    Scope::Pod(_) => "Pod",
                    Scope::Account(_) | Scope::Node => "ServiceAccount on this node",
                }
            ),
            () if self.records.len() >= MOST => {
                format!("{MOST} leases are out on this node, the most there may be (share leases with `lease: shared`, or spread the Pods)")
            }
            () => return None,
        };
        let RefParts { backend, name, .. } = &*key.secret;
        Some(BackendError { fault: Fault::TooLarge, backend: backend.clone(), secret: Some(name.clone()), reason, source: None })
    }
}
