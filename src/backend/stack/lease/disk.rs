//! Leases over restarts: Keyferry writes each change to the sealed folder, and uses the leases again when their backend is built.

use std::array;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use thiserror::Error;
use tokio::sync::Mutex;
use tokio::time::{Duration, Instant, timeout_at};

use super::record::{Key, RecordId};
use super::saved::Saved;
use super::state::State;
use super::{Leases, Store};
use crate::backend::stack::sealed::{Room, Sealed};
use crate::files::Desk;
use crate::model::{BackendName, Tenant};
use crate::telemetry::LeaseEvent;

/// Writes of one record follow one another. Two records can be in the same lane, and then wait for each other.
const LANES: usize = 256;

/// Writes at once, each on a thread. Records of one tenant have at most half of them.
const THREADS: usize = 16;

/// How long a mount or the keeper waits for a disk that does not answer. Then it goes on.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often the log says that the disk cannot be written.
const TELL: Duration = Duration::from_mins(1);

/// The leases' part of the sealed folder.
pub(super) struct Disk {
    room: Room,
    lanes: [Arc<Mutex<()>>; LANES],
    desk: Desk,
}

/// Why the disk differs from the table.
#[derive(Debug, Error)]
enum Unsaved {
    #[error("the disk does not answer")]
    Hangs,
    #[error(transparent)]
    Io(#[from] io::Error),
}

// === impl Disk ===

impl Disk {
    pub fn new(sealed: &Arc<Sealed>) -> Self {
        Self { room: sealed.room("leases"), lanes: array::from_fn(|_| Arc::default()), desk: Desk::new(THREADS) }
    }

    /// The leases on the disk that have not ended.
    pub fn read(&self, now: Timestamp) -> Result<HashMap<BackendName, Vec<Saved>>, String> {
        let found =
            self.room.read_all().map_err(|error| format!("the sealed leases cannot be read: {error} (may the daemon read there?)"))?;
        if let Some((count, first)) = found.unopened {
            tracing::warn!(count, first, "sealed leases do not open, and Keyferry skips them: their Pods get others (remove the files)");
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

    /// Writes to the disk what the table has now. A write that has begun goes on when the time is up.
    async fn save(&self, leases: &Leases, id: RecordId) -> Result<(), Unsaved> {
        let until = Instant::now() + PATIENCE;
        let lane = timeout_at(until, Arc::clone(&self.lanes[id.lane(LANES)]).lock_owned()).await.map_err(|_| Unsaved::Hangs)?;
        let (content, tenant) = {
            let state = leases.lock();
            match state.records.get(id) {
                Some(record) => {
                    let saved = Saved::of(record, |uid| state.pods.is_seen(uid), &leases.pods, leases.now());
                    (Some((saved.encode(), Arc::clone(&record.written))), record.place.tenant().clone())
                }
                // It belongs to no tenant.
                None => (None, Tenant::from("")),
            }
        };
        let (room, id) = (self.room.clone(), id.to_string());
        let write = move || {
            let _lane = lane;
            match content {
                Some((content, written)) => {
                    written.store(true, Ordering::Relaxed);
                    room.write(&id, &content)
                }
                None => room.remove(&id),
            }
        };
        Ok(self.desk.run(tenant.as_str(), until, write).await.map_err(|_| Unsaved::Hangs)??)
    }
}

#[cfg(test)]
impl Disk {
    /// Makes every write hang until the result is dropped.
    pub async fn hang(&self) -> Vec<tokio::sync::OwnedMutexGuard<()>> {
        futures_util::future::join_all(self.lanes.iter().map(|lane| Arc::clone(lane).lock_owned())).await
    }
}

// === impl Leases ===

impl Leases {
    /// A backend was built: its leases from a former process go on.
    pub(super) fn attach(&self, store: &Store) {
        let (name, mut state) = (&store.name, self.lock());
        state.records.move_to(store);
        let awaiting = state.awaiting.remove(name).unwrap_or_default();
        let (mut resumed, mut others) = (0_usize, 0_usize);
        for saved in awaiting {
            if saved.origin() == store.origin.as_str() {
                resumed += usize::from(self.resume(&mut state, saved, store));
            } else {
                // Its token must not be shown to another store.
                others += 1;
                state.unsaved.extend(saved.id().parse::<RecordId>());
            }
        }
        if others > 0 {
            tracing::warn!(backend = %name, leases = others,
                "Keyferry does not use leases of a former process: the backend was configured differently then");
        }
        if resumed > 0 {
            tracing::info!(backend = %name, leases = resumed, "leases of a former process are taken up");
        }
        self.changed.notify_one();
    }

    fn resume(&self, state: &mut State, saved: Saved, store: &Store) -> bool {
        let now = self.now();
        let (pods, id) = (saved.pods(&self.pods), saved.id().parse::<RecordId>().ok());
        let Some(record) = saved.resume(store.clone(), &self.room, &self.metrics, now) else {
            state.unsaved.extend(id);
            return false;
        };
        store.inner.adopt(&record.lease);
        for (uid, seen) in pods {
            state.pods.add(record.place.tenant(), &uid, store, seen, now.at);
        }
        self.tell(&record, LeaseEvent::Resumed, "a lease of a former process is taken up");
        state.insert(record);
        true
    }

    /// Called before a credential is handed out: if the process is killed right after, the next one finds the lease.
    pub(super) async fn save_given(&self, key: &Key) {
        let id = self.lock().slots.get(key).and_then(|slot| slot.given);
        if let Some(id) = id {
            self.save(id).await;
        }
    }

    pub(super) async fn save(&self, id: RecordId) {
        let Some(disk) = &self.disk else { return };
        let was_there = self.lock().records.get(id).is_some();
        let Err(error) = disk.save(self, id).await else { return };
        let (now, mut state) = (Instant::now(), self.lock());
        // Perhaps the write has not begun: the keeper tries again, and waits as long again. A lease that is gone by now and was never written needs
        // no removal.
        if matches!(error, Unsaved::Hangs) && (!was_there || state.records.get(id).is_some()) {
            state.unsaved.insert(id);
            self.changed.notify_one();
        }
        if state.unwritten.is_none_or(|told| now.duration_since(told) >= TELL) {
            state.unwritten = Some(now);
            tracing::warn!(%error, "a lease could not be written to the sealed folder: after a restart, Keyferry would not know it");
        }
    }

    /// Warns about leases of backends that are not configured any more.
    pub(super) fn warn_of_orphans(&self) {
        for (backend, saved) in &self.lock().awaiting {
            tracing::warn!(%backend, leases = saved.len(), "leases of a former process belong to no backend: they end by themselves");
        }
    }
}
