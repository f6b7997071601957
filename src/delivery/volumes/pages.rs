//! Who has how much of the memory that own volumes take: the table of volumes, in pages.
//!
//! The kernel charges the pages of a tmpfs to the control group that wrote them, for as long as the tmpfs exists: with
//! `delivery: provider` that is the daemon's. So each volume counts on its tenant's share of `limits.volumeBytes`, until it is
//! mounted nowhere.
//!
//! **A volume counts twice.** While a volume changes, its former and its new files are there at once. A volume that has been written can so
//! always be written again with as much as it has, however full the node is.
//!
//! **A volume is a mounted file system**, and not a path: it is known by its device and root. It may be renamed, or have another mounted over
//! it, and is still there. That costs no look at any path, which could hang: the kernel's list of mounts says what is there.
//!
//! The table needs no bound of its own: each volume in it has at least two pages, and far less than a page of the table.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant};

use super::{Id, Node};
use crate::delivery::volume::PAGE;
use crate::model::Tenant;
use crate::shares::{Held, Shares};

/// Copies of a volume that it has room for.
const COPIES: usize = 2;

/// The table is cleared of volumes that are gone when a volume is written, at most once in this time.
const LOOK: Duration = Duration::from_mins(1);

/// As [`LOOK`], where there was no room.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How often the log names who has most.
const TELL: Duration = Duration::from_mins(1);

/// Whose volumes are that were found at the start, until their next mount: no namespace's.
const NOBODY: &str = "";

pub(in crate::delivery) struct Pages {
    shares: Shares,
    node: Arc<dyn Node>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    volumes: HashMap<Id, Entry>,
    /// Counts changes and looks, to tell which came first.
    time: u64,
    looked: Option<Instant>,
    told: Option<Instant>,
}

struct Entry {
    held: Held,
    /// When it was written last.
    written: u64,
}

/// Room for one volume's new files, beside the former ones; it is given back when this is dropped, unless it is [kept](Pages::keep).
#[must_use = "the room is given back when it is dropped"]
pub(in crate::delivery) struct Room {
    /// Beyond what the volume has already.
    more: Held,
    /// What the volume has once they are there.
    wanted: usize,
}

/// The tenant has its share.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::delivery) struct NoRoom {
    /// What the volume would have to have.
    pub pages: usize,
}

// === impl Pages ===

impl Pages {
    /// For volumes of so many bytes together.
    pub(super) fn new(bytes: usize, node: Arc<dyn Node>) -> Self {
        Self { shares: Shares::new(bytes / PAGE), node, state: Mutex::default() }
    }

    /// Room for a volume whose new files take so many pages. `former`: the volume has files now. May read the kernel's list of mounts:
    /// not for the runtime's own threads.
    ///
    /// # Errors
    /// The tenant has its share, even without the volumes that are gone.
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

    /// The new files are there; and where the volume is not `tidy`, so are former ones.
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

    /// The volume has files of so many pages, which this process or a former one has written.
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

    /// As [`Pages::has`], for a volume of before the start, unless a mount was quicker.
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

    /// What a volume needs beyond what it has.
    fn take(&self, tenant: &Tenant, id: Id, former: bool, wanted: usize) -> Option<Held> {
        let mut state = self.lock();
        // An empty one is new: the kernel gives the device of one that is gone to the next.
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

    /// Gives back what volumes have that are gone, unless somebody has looked within this time.
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
        // While mounts come and go, old kernels may leave one out of the list (before Linux 5.8): what is gone is in neither of two.
        let Some(mut there) = self.devices() else { return };
        if self.lock().volumes.keys().any(|(device, _)| !there.contains(device)) {
            let Some(again) = self.devices() else { return };
            there.extend(again);
            // What was written since may have been mounted since.
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
                "a volume was not written: its namespace has its share of limits.volumeBytes"
            );
        }
        NoRoom { pages }
    }

    /// A panic elsewhere cannot leave the table half-changed: nothing in here panics.
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
