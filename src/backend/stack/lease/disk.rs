//! Leases over restarts: written to the sealed folder as they change, and taken up again once their backend is built.

use std::array;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use super::record::{Key, RecordId};
use super::saved::Saved;
use super::state::State;
use super::{Leases, Store};
use crate::backend::stack::sealed::{Room, Sealed};
use crate::model::BackendName;
use crate::telemetry::LeaseEvent;

/// Writings at once. Those of one record follow one another.
const LANES: usize = 16;

/// The leases' part of the sealed folder.
pub(super) struct Disk {
    room: Room,
    lanes: [Mutex<()>; LANES],
}

// === impl Disk ===

impl Disk {
    pub fn new(sealed: &Arc<Sealed>) -> Self {
        Self { room: sealed.room("leases"), lanes: array::from_fn(|_| Mutex::default()) }
    }

    /// What is there and has not ended.
    pub fn read(&self, now: Timestamp) -> Result<HashMap<BackendName, Vec<Saved>>, String> {
        let found =
            self.room.read_all().map_err(|error| format!("the sealed leases cannot be read: {error} (may the daemon read there?)"))?;
        if let Some((count, first)) = found.unopened {
            tracing::warn!(count, first, "sealed leases do not open and are passed over: their Pods are issued others (remove the files)");
        }
        let mut awaiting: HashMap<_, Vec<_>> = HashMap::new();
        for saved in found.contents.iter().filter_map(Saved::decode) {
            match saved.backend() {
                Some(backend) if !saved.is_over(now) => awaiting.entry(backend).or_default().push(saved),
                Some(_) | None => drop(self.room.remove(saved.id())),
            }
        }
        Ok(awaiting)
    }

    /// Makes the disk as the table is now.
    async fn save(&self, leases: &Leases, id: RecordId) -> io::Result<()> {
        let _turn = self.lanes[id.lane(LANES)].lock().await;
        let content = {
            let state = leases.lock();
            state.records.get(&id).map(|record| Saved::of(record, |uid| state.pods.is_seen(uid), &leases.pods, leases.now()).encode())
        };
        let (room, id) = (self.room.clone(), id.to_string());
        let written = spawn_blocking(move || match content {
            Some(content) => room.write(&id, &content),
            None => room.remove(&id),
        });
        written.await.unwrap_or_else(|_| Err(io::Error::other("the daemon is ending")))
    }
}

// === impl Leases ===

impl Leases {
    /// A backend was built: what a former process had of it goes on.
    pub(super) fn attach(&self, name: &BackendName, store: &Store) {
        let mut state = self.lock();
        if self.disk.is_none() && !state.told {
            state.told = true;
            tracing::info!(backend = %name, "leases are kept in memory only: after a restart every Pod is issued others (cache.sealed keeps them)");
        }
        for record in state.records.values_mut().filter(|record| record.key.secret.backend == *name && record.store.origin == store.origin)
        {
            store.inner.adopt(&record.lease);
            record.store = store.clone();
        }
        let awaiting = state.awaiting.remove(name).unwrap_or_default();
        let (mut resumed, mut others) = (0_usize, 0_usize);
        for saved in awaiting {
            if saved.origin() == store.origin.as_str() {
                resumed += usize::from(self.resume(&mut state, saved, store));
            } else {
                // Its token is nothing to show to another store.
                others += 1;
                state.unsaved.extend(saved.id().parse::<RecordId>());
            }
        }
        if others > 0 {
            tracing::warn!(backend = %name, leases = others,
                "leases of a former process are left to their ends: the backend was configured otherwise then");
        }
        if resumed > 0 {
            tracing::info!(backend = %name, leases = resumed, "leases of a former process are taken up");
        }
        self.changed.notify_one();
    }

    fn resume(&self, state: &mut State, saved: Saved, store: &Store) -> bool {
        let now = self.now();
        let (pods, id) = (saved.pods(&self.pods), saved.id().parse::<RecordId>().ok());
        let Some(record) = saved.resume(store.clone(), &self.metrics, now) else {
            state.unsaved.extend(id);
            return false;
        };
        store.inner.adopt(&record.lease);
        for (uid, seen) in pods {
            state.pods.add(&uid, &store.inner, seen, now.at);
        }
        self.tell(&record, LeaseEvent::Resumed, "a lease of a former process is taken up");
        state.insert(record);
        true
    }

    /// Before a credential is handed out: a process that is killed the moment after finds it again.
    pub(super) async fn save_given(&self, key: &Key) {
        let id = self.lock().slots.get(key).and_then(|slot| slot.given);
        if let Some(id) = id {
            self.save(id).await;
        }
    }

    pub(super) async fn save(&self, id: RecordId) {
        let Some(disk) = &self.disk else { return };
        if let Err(error) = disk.save(self, id).await {
            tracing::warn!(%error, "a lease could not be written to the sealed folder: a restart would not know of it");
        }
    }

    /// What is kept of backends that are not configured any more.
    pub(super) fn warn_of_orphans(&self) {
        for (backend, saved) in &self.lock().awaiting {
            tracing::warn!(%backend, leases = saved.len(), "leases of a former process belong to no backend: they are left to their end");
        }
    }
}
