//! Bytes: how the daemon's memory is divided, and who may have how much of it.
//!
//! A quarter of the memory M is never given out: it is for code, stacks, the allocator and the windows of HTTP/2. A quarter is *kept*: each
//! table has a [ceiling](Ceilings). An eighth is for *calls*: Keyferry reads their requests before it knows their tenants. The rest, three
//! eighths, is *moving*: mounts under way hold it, each in its [`Purse`]. Of this part, each place for a mount has its own [`FREE`] bytes.
//!
//! The largest mount needs a *whole*: four times the bytes that it may answer with (the store's answers, the secrets, the files and the
//! encoded answer exist at the same time) and one raw body of a store. A mount takes bytes when it needs them, and needs no whole as long
//! as the others leave enough. If there is not enough, the mount gives everything back and waits for a whole. With a whole it always has
//! enough.
//!
//! # Why every mount that waits for a whole gets one
//!
//! 1. A mount that waits for a whole holds nothing of the moving part. So a mount that holds something does not wait for mounts that wait.
//!    A mount that holds something ends: it waits for the network until its deadline, and computes a limited number of steps.
//! 2. While a tenant that holds nothing waits, no tenant draws. No tenant draws while it waits for its own first whole (`turns.rs`). So the
//!    bytes that it holds come back and are not taken again; after that, the bytes of all other tenants come back too.
//! 3. What is then left is wholes. By the rule of shares, a tenant that holds nothing may have a whole where two are free, and there is
//!    room for at least two. A whole that comes back goes to the first tenant of the round that may have it: each tenant before this one is
//!    served at most once, and a later tenant is not served before it.

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

/// The memory in bytes, where neither the configuration nor a cgroup sets it.
pub const MEMORY: usize = 256 * MIB;

/// Requests of up to this many bytes have their own room: large requests never keep them out.
const SMALL: usize = 16 * 1024;

const MIB: usize = 1024 * 1024;

/// The parts of the memory, built once for the life of the process.
#[derive(Debug)]
pub struct Budget {
    calls: Calls,
    moving: Turns,
    kept: Ceilings,
    /// The free parts of all places together, in bytes.
    free: usize,
}

/// For requests, from the moment when their length is known.
#[derive(Debug)]
struct Calls {
    small: Shares,
    large: Shares,
}

/// Room for a request that is not read yet. Its tenant is "", a name that no namespace has. All of these together have one tenant's share.
#[derive(Debug)]
#[must_use = "the room is given back when it is dropped"]
pub struct Unread(Held);

/// The memory in bytes: from the configuration, else from the cgroup, else [`MEMORY`].
pub fn memory(configured: Option<usize>) -> usize {
    configured.or_else(|| memory_of_cgroup(Path::new("/"))?.try_into().ok()).unwrap_or(MEMORY)
}

// === impl Budget ===

impl Budget {
    /// Divides `memory` bytes, for `places` mounts at once that answer with up to `mount_bytes` each; `body` is the largest raw body of a
    /// store.
    ///
    /// # Errors
    /// There is no room for two wholes: the text names the limits that are wrong.
    pub fn new(memory: usize, mount_bytes: usize, body: usize, places: usize) -> Result<Self, String> {
        let (whole, free) = (mount_bytes.saturating_mul(4).saturating_add(body).max(1), places.saturating_mul(FREE));
        let Parts { kept, calls, moving } = Parts::of(memory);
        let Some(moving) = moving.checked_sub(free).filter(|moving| moving / 2 >= whole) else {
            return Err(too_little(memory, mount_bytes, places, whole));
        };
        let calls = Calls { small: Shares::new(calls / 2), large: Shares::new(calls / 2) };
        Ok(Self { calls, moving: Turns::of_units(moving, whole), kept: Ceilings::of(kept), free })
    }

    /// Takes room for a request of this many bytes, before it is read: twice as many, because it exists twice while it is decoded. `None`:
    /// there is none now, and never for a request that is larger than [`Budget::largest_request`].
    pub fn read(&self, length: usize) -> Option<Unread> {
        let calls = if length <= SMALL { &self.calls.small } else { &self.calls.large };
        calls.take(&Tenant::from(""), length.checked_mul(2)?).map(Unread)
    }

    /// The length in bytes of the largest request that fits when there is no other request.
    pub fn largest_request(&self) -> usize {
        self.calls.large.capacity() / 4
    }

    /// A warning about something that works: a tenant that holds its share for long leaves no whole to the others. This is the case where
    /// half of the moving part has no room for two wholes.
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

    /// Bytes that requests use: requests of up to 16 KiB, and larger ones.
    pub fn calls(&self) -> [&Shares; 2] {
        [&self.calls.small, &self.calls.large]
    }

    /// The moving part, except the free part of each place; its turns are wholes.
    pub fn moving(&self) -> &Turns {
        &self.moving
    }

    pub fn kept(&self) -> &Ceilings {
        &self.kept
    }
}

/// All memory that is given out: the rest, a quarter, is not.
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

/// The memory in MiB whose moving part (three eighths) has this many bytes.
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

/// Bytes in the units of the configuration, with one decimal for MiB.
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
    /// The request has been read, and this is its tenant: from now on it counts for the tenant's share, until it is reduced to the part of
    /// the request that is kept. `None`: the tenant has used its share.
    pub fn of(self, tenant: &Tenant) -> Option<Held> {
        self.0.pass_to(tenant)
    }
}

#[cfg(test)]
mod tests;
