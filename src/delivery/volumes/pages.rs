//! How the memory for the daemon's own volumes is shared: the table of volumes, in pages.
//!
//! The kernel charges the pages of a tmpfs to the control group that wrote them, for as long as the tmpfs exists: with `delivery: provider`
//! this is the daemon's group. So each volume counts for its tenant's share of `limits.volumeBytes`, until it is mounted nowhere.
//!
//! **A volume counts twice.** While a volume changes, its former and its new files exist at the same time. So a volume can always be
//! written again at its present size, even on a full node.
//!
//! **A volume is a mounted file system**, not a path: Keyferry knows it by its device and root. It may be renamed, or another volume may be
//! mounted over it, but it still exists. So Keyferry needs no look at any path, which could hang: the kernel's list of mounts says what
//! exists.
//!
//! The table needs no limit of its own: each volume in it has at least two pages, and its entry needs far less than a page.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant};

use super::{Id, Node};
use crate::delivery::volume::PAGE;
use crate::model::Tenant;
use crate::shares::{Held, Shares};

/// How often each volume is counted.
const COPIES: usize = 2;

/// When a volume is written, Keyferry removes the volumes from the table that are gone: at most once in this time.
const LOOK: Duration = Duration::from_mins(1);

/// As [`LOOK`], after a write for which there was no room.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How often the log names the tenants that have most.
const TELL: Duration = Duration::from_mins(1);

/// The tenant of the volumes that were found at the start, until their next mount: a name that no namespace has.
const NOBODY: &str = "";

pub(in crate::delivery) struct Pages {
    shares: Shares,
    node: Arc<dyn Node>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    volumes: HashMap<Id, Entry>,
    /// Counts changes and looks, to know which came first.
    time: u64,
    looked: Option<Instant>,
    told: Option<Instant>,
}

struct Entry {
    held: Held,
    /// When it was last written.
    written: u64,
}

/// Room for one volume's new files, in addition to the former ones; it is given back when this is dropped, unless it is
/// [kept](Pages::keep).
#[must_use = "the room is given back when it is dropped"]
pub(in crate::delivery) struct Room {
    /// The part that the volume did not have before.
    more: Held,
    /// What the volume has after the write.
    wanted: usize,
}

/// The tenant has used its share.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::delivery) struct NoRoom {
    /// The pages that the volume would need.
    pub pages: usize,
}

// === impl Pages ===

impl Pages {
    /// For volumes of this many bytes together.
    pub(super) fn new(bytes: usize, node: Arc<dyn Node>) -> Self {
        Self { shares: Shares::new(bytes / PAGE), node, state: Mutex::default() }
    }

    /// Takes room for a volume whose new files need this many pages. `former`: the volume has files now. This may read the kernel's list of
    /// mounts, so it must not run on the runtime's own threads.
    ///
    /// # Errors
    /// The tenant has used its share, even without the volumes that are gone.
    pub(in crate::delivery) fn room(&self, tenant: &Tenant, id: Id, former: bool, pages: usize) -> Result<Room, NoRoom> {
        let wanted = pages.saturating_mul(COPIES);
        self.look(LOOK);
        if let Some(more) = self.take(tenant, id, former, wanted) {
            return Ok(Room { more, wanted });
        }
        self.look(LOOK_AGAIN);
        let more = self.take(tenant, id, former, wanted);
        more.map(|more| Room { more, wanted }).ok_or_else(|| self.refuse(wanted))
    }

    /// The new files are there. If the volume is not `tidy`, former files are there too.
    pub(in crate::delivery) fn keep(&self, id: Id, room: Room, tidy: bool) {
        let Room { more: mut held, wanted } = room;
        let mut state = self.lock();
        if let Some(Entry { held: before, .. }) = state.volumes.remove(&id)
            && before.tenant() == held.tenant()
        {
            held.join(before);
        }
        if tidy {
            held.shrink(wanted);
        }
        state.put(id, held);
    }

    /// The volume has files of this many pages, which this process or a former one wrote.
    pub(in crate::delivery) fn has(&self, tenant: &Tenant, id: Id, pages: usize) {
        let wanted = pages.saturating_mul(COPIES);
        let mut state = self.lock();
        let known = state.volumes.get(&id).is_some_and(|entry| entry.held.tenant() == tenant && entry.held.n() == wanted);
        if !known {
            state.volumes.remove(&id);
            let held = self.shares.count(tenant, wanted);
            state.put(id, held);
        }
    }

    /// As [`Pages::has`], for a volume from before the start, unless a mount was quicker.
    pub(super) fn found(&self, id: Id, pages: usize) {
        let mut state = self.lock();
        if !state.volumes.contains_key(&id) {
            let held = self.shares.count(&NOBODY.into(), pages.saturating_mul(COPIES));
            state.put(id, held);
        }
    }

    /// In pages.
    pub(super) fn shares(&self) -> &Shares {
        &self.shares
    }

    /// Volumes in the table.
    pub(in crate::delivery) fn volumes(&self) -> usize {
        self.lock().volumes.len()
    }

    /// The pages that a volume needs in addition to what it has.
    fn take(&self, tenant: &Tenant, id: Id, former: bool, wanted: usize) -> Option<Held> {
        let mut state = self.lock();
        // An empty volume is new: the kernel gives the device of a removed volume to the next one.
        let before = if former { state.volumes.get(&id) } else { None };
        let has = before.map_or(0, |entry| entry.held.n());
        if has == 0 || before.is_some_and(|entry| entry.held.tenant() != tenant) {
            state.volumes.remove(&id);
        }
        if has > 0 && !state.volumes.contains_key(&id) {
            let held = self.shares.count(tenant, has);
            state.put(id, held);
        }
        self.shares.take(tenant, wanted.saturating_sub(has))
    }

    /// Gives back the pages of volumes that are gone, unless the last look was within this time.
    fn look(&self, within: Duration) {
        let now = Instant::now();
        let begun = {
            let mut state = self.lock();
            if state.volumes.is_empty() || state.looked.is_some_and(|looked| now < looked + within) {
                return;
            }
            state.looked = Some(now);
            state.time += 1;
            state.time
        };
        // While mounts come and go, old kernels (before Linux 5.8) may leave one out of the list: a volume is gone only if two lists in a
        // row do not have it.
        let Some(mut there) = self.devices() else { return };
        if self.lock().volumes.keys().any(|(device, _)| !there.contains(device)) {
            let Some(again) = self.devices() else { return };
            there.extend(again);
            // A volume that was written since then may also have been mounted since then.
            self.lock().volumes.retain(|(device, _), entry| there.contains(device) || entry.written > begun);
        }
    }

    fn devices(&self) -> Option<HashSet<u64>> {
        let devices = self.node.devices();
        devices.inspect_err(|error| tracing::warn!(%error, "Keyferry cannot see which volumes are gone: their memory stays counted")).ok()
    }

    fn refuse(&self, pages: usize) -> NoRoom {
        let now = Instant::now();
        let told = self.lock().told;
        if told.is_none_or(|told| told + TELL <= now) {
            self.lock().told = Some(now);
            let kib = |pages: usize| pages * (PAGE / 1024);
            let most: Vec<_> = self.shares.most(3).into_iter().map(|(tenant, pages)| format!("{tenant}: {} KiB", kib(pages))).collect();
            tracing::warn!(
                used_kib = kib(self.shares.used()),
                limit_kib = kib(self.shares.capacity()),
                most = most.join(", "),
                "a volume was not written: its namespace has used its share of limits.volumeBytes"
            );
        }
        NoRoom { pages }
    }

    /// A panic elsewhere cannot leave the table half-changed: no code here panics.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn put(&mut self, id: Id, held: Held) {
        self.time += 1;
        self.volumes.insert(id, Entry { held, written: self.time });
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").field("shares", &self.shares).field("volumes", &self.volumes()).finish_non_exhaustive()
    }
}
