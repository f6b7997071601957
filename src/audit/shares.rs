//! Who may have how much of what all namespaces share: the queue's memory, and the bytes of an hour's lines.
//!
//! A tenant is the namespace that kubelet says; `""` is that of requests that could not be read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant};

/// The most tenants that a [`Window`] tells apart. Further ones have one share together.
const TENANTS: usize = 1024;

/// Bytes of memory that are given back. A tenant gets no more than it then leaves free: alone half, and another always finds something.
#[derive(Debug)]
pub(super) struct Room {
    capacity: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Without those that have none.
    by: HashMap<Arc<str>, usize>,
}

/// A part of a [`Room`], given back when dropped.
#[derive(Debug)]
pub(super) struct Held {
    room: Arc<Room>,
    tenant: Arc<str>,
    bytes: usize,
}

/// Bytes that are spent: none come back until the window ends, and then all do.
///
/// A tenant may spend as much as it then leaves; or, where others have left less, the part it would have if the capacity were shared by
/// the tenants of this window and one more. So the first may spend a half, and one that comes after `n` others a part of `n + 2`. All
/// together spend at most 1.9 times the capacity where they are 8, and 4.4 times where they are 110.
#[derive(Debug)]
pub(super) struct Window {
    capacity: usize,
    length: Duration,
    ends: Option<Instant>,
    spent: usize,
    by: HashMap<Arc<str>, usize>,
}

// === impl Room ===

impl Room {
    pub(super) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self { capacity, taken: Mutex::default() })
    }

    pub(super) fn take(self: &Arc<Self>, tenant: &Arc<str>, bytes: usize) -> Option<Held> {
        let mut taken = self.taken();
        let all = taken.all.saturating_add(bytes);
        let own = taken.by.get(tenant).copied().unwrap_or(0).saturating_add(bytes);
        if own > self.capacity.checked_sub(all)? {
            return None;
        }
        taken.all = all;
        taken.by.insert(Arc::clone(tenant), own);
        Some(Held { room: Arc::clone(self), tenant: Arc::clone(tenant), bytes })
    }

    /// A panic elsewhere leaves numbers that are right: they are set one after the other, without a call in between.
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut taken = self.room.taken();
        taken.all -= self.bytes;
        if let Some(own) = taken.by.get_mut(&self.tenant) {
            *own -= self.bytes;
            if *own == 0 {
                taken.by.remove(&self.tenant);
            }
        }
    }
}

// === impl Window ===

impl Window {
    pub(super) fn new(capacity: usize, length: Duration) -> Self {
        Self { capacity, length, ends: None, spent: 0, by: HashMap::new() }
    }

    pub(super) fn spend(&mut self, tenant: &Arc<str>, bytes: usize, now: Instant) -> bool {
        if self.ends.is_none_or(|ends| now >= ends) {
            (self.ends, self.spent) = (Some(now + self.length), 0);
            self.by.clear();
        }
        let is_known = self.by.contains_key(tenant);
        // Nobody is pushed out, or a tenant that is could spend its share again.
        let tenant = if is_known || self.by.len() < TENANTS { Arc::clone(tenant) } else { Arc::from("") };
        let own = self.by.get(&tenant).copied().unwrap_or(0) + bytes;
        let left = self.capacity.saturating_sub(self.spent + bytes);
        let tenants = self.by.len() + usize::from(!is_known);
        if own > left.max(self.capacity / (tenants + 1)) {
            return false;
        }
        self.spent += bytes;
        self.by.insert(tenant, own);
        true
    }

    #[cfg(test)]
    pub(super) fn tenants(&self) -> usize {
        self.by.len()
    }
}
