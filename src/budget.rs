//! Bytes: what the daemon's memory is for, and who may have how much of it.
//!
//! Of the memory M a quarter is never given out: code, stacks, the allocator, the windows of HTTP/2. A quarter is *kept*: each table has a
//! [ceiling](Ceilings). An eighth is for *calls*, whose requests are read before anybody knows whose they are. The rest, three eighths, is
//! *moving*: what mounts under way hold, each in its [`Purse`]. Of that, each place for a mount has [`FREE`] bytes of its own.
//!
//! The largest mount needs a *whole*: four times what it may answer (the store's answers, the secrets, the files and the encoded answer are
//! there at the same time) and one raw body of a store. A mount spends what it needs as it comes, and needs no whole as long as the others
//! leave it enough. One that comes short gives everything back and waits for a whole; with it, it cannot come short again.
//!
//! # Why everybody gets a whole who waits for it
//!
//! 1. A mount that waits for a whole holds nothing of what is moving, so that those who hold something wait for nobody who waits. A
//!    mount that holds something ends: it waits for the network under its deadline, and computes a bounded number of steps.
//! 2. While a tenant that holds nothing waits, nothing is drawn by anybody, and no tenant draws while it waits for its first whole
//!    (`turns.rs`). So what it holds itself comes back and is not replaced; and then what all others have drawn comes back too.
//! 3. What is left then are wholes. By the rule of shares a tenant that holds nothing may have a whole where two are free, and there is room
//!    for at least two. One that comes back goes to the first of the round that may have it: each tenant before it is served once at most, and
//!    one that came later is not served before it.

use std::fmt;
use std::path::Path;

use crate::model::Tenant;
use crate::shares::{Held, Shares};
use crate::turns::Turns;

mod ceilings;
mod memory;
mod purse;

pub use ceilings::Ceilings;
pub use memory::memory_of_cgroup;
pub use purse::{FREE, Growing, NoWhole, Payer, Purse, Spent, Unpaid};

/// The memory in bytes where neither the configuration nor a cgroup says one.
pub const MEMORY: usize = 256 * MIB;

/// Requests of up to so many bytes have room apart: large ones never keep them out.
const SMALL: usize = 16 * 1024;

const MIB: usize = 1024 * 1024;

/// The parts of the memory, built once for the life of the process.
#[derive(Debug)]
pub struct Budget {
    calls: Calls,
    moving: Turns,
    kept: Ceilings,
    /// The free parts of all places, in bytes.
    free: usize,
}

/// For requests, from the moment their length is known.
#[derive(Debug)]
struct Calls {
    small: Shares,
    large: Shares,
}

/// Room for a request that nobody has read yet: of no tenant, or of one that is called "", which no namespace is. All of these together
/// have a tenant's share.
#[derive(Debug)]
#[must_use = "the room is given back when it is dropped"]
pub struct Unread(Held);

/// The memory in bytes: as configured, else the cgroup's, else [`MEMORY`].
pub fn memory(configured: Option<usize>) -> usize {
    configured.or_else(|| memory_of_cgroup(Path::new("/"))?.try_into().ok()).unwrap_or(MEMORY)
}

// === impl Budget ===

impl Budget {
    /// Of `memory` bytes, for `places` mounts at once that answer with up to `mount_bytes` each; `body` is the largest raw body of a store.
    ///
    /// # Errors
    /// There is no room for two wholes: the text names the limits at fault.
    pub fn new(memory: usize, mount_bytes: usize, body: usize, places: usize) -> Result<Self, String> {
        let (whole, free) = (mount_bytes.saturating_mul(4).saturating_add(body).max(1), places.saturating_mul(FREE));
        let Parts { kept, calls, moving } = Parts::of(memory);
        let Some(moving) = moving.checked_sub(free).filter(|moving| moving / 2 >= whole) else {
            return Err(too_little(memory, mount_bytes, places, whole));
        };
        let calls = Calls { small: Shares::new(calls / 2), large: Shares::new(calls / 2) };
        Ok(Self { calls, moving: Turns::of_units(moving, whole), kept: Ceilings::of(kept), free })
    }

    /// Room for a request of so many bytes, before it is read: twice as many, since it is there twice while it is decoded. `None`: there is
    /// none now; nor ever, beyond [`Budget::largest_request`].
    pub fn read(&self, length: usize) -> Option<Unread> {
        let calls = if length <= SMALL { &self.calls.small } else { &self.calls.large };
        calls.take(&Tenant::from(""), length.checked_mul(2)?).map(Unread)
    }

    /// The length in bytes of the largest request that there is room for when no other is there.
    pub fn largest_request(&self) -> usize {
        self.calls.large.capacity() / 4
    }

    /// What works, but should be known: a tenant that holds its share for long leaves no other a whole. So it is
    /// where half of what is moving has no room for two wholes.
    pub fn doubt(&self) -> Option<String> {
        let (slots, whole) = (self.moving.slots(), self.moving.each());
        let enough = enough_for(whole.saturating_mul(4).saturating_add(self.free));
        (slots.capacity() / 4 < whole).then(|| {
            format!(
                "limits.memory: while the mounts of one namespace wait for a slow store, the largest mounts of all others may have to wait too \
                 (set limits.memory, or the container's memory limit, to at least {enough}MiB, or lower limits.mountBytes or limits.mounts)"
            )
        })
    }

    /// Bytes in use by requests: those of up to 16 KiB, and the larger ones.
    pub fn calls(&self) -> [&Shares; 2] {
        [&self.calls.small, &self.calls.large]
    }

    /// What is moving, beyond the free part of each place; its turns are wholes.
    pub fn moving(&self) -> &Turns {
        &self.moving
    }

    pub fn kept(&self) -> &Ceilings {
        &self.kept
    }
}

/// What is given out of the memory: the rest, a quarter, is not.
struct Parts {
    kept: usize,
    calls: usize,
    moving: usize,
}

impl Parts {
    fn of(memory: usize) -> Self {
        let (kept, calls) = (memory / 4, memory / 8);
        Self { kept, calls, moving: memory - memory / 4 - kept - calls }
    }
}

/// The memory in MiB of which so many bytes are moving: three eighths.
fn enough_for(moving: usize) -> usize {
    (moving / 3).saturating_add(1).saturating_mul(8).div_ceil(MIB)
}

fn too_little(memory: usize, mount_bytes: usize, places: usize, whole: usize) -> String {
    let (moving, free) = (Parts::of(memory).moving, places.saturating_mul(FREE));
    let needed = whole.saturating_mul(2).saturating_add(free);
    let enough = enough_for(needed);
    format!(
        "limits.memory: {} is not enough. Mounts can use {} of it, and need {}: {} for two mounts of limits.mountBytes = {}, and {} for \
         limits.mounts = {places} small ones (set limits.memory, or the container's memory limit, to at least {enough}MiB, or lower \
         limits.mountBytes or limits.mounts)",
        Mib(memory),
        Mib(moving),
        Mib(needed),
        Mib(whole.saturating_mul(2)),
        Mib(mount_bytes),
        Mib(free),
    )
}

/// Bytes as the configuration writes them, to a tenth of a MiB.
struct Mib(usize);

impl fmt::Display for Mib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = self.0 / (MIB / 10);
        match (self.0 / MIB, self.0 % MIB) {
            (whole, 0) => write!(f, "{whole}MiB"),
            _ => write!(f, "{}.{}MiB", tenths / 10, tenths % 10),
        }
    }
}

// === impl Unread ===

impl Unread {
    /// The request has been read, and is this tenant's: it counts on the tenant's share from now on, until that is shrunk to what is kept of
    /// the request. `None`: the tenant has its share.
    pub fn of(self, tenant: &Tenant) -> Option<Held> {
        self.0.pass_to(tenant)
    }
}

#[cfg(test)]
mod tests;
