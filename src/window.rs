//! Bytes that tenants spend in an hour or a minute. This is separate from `crate::shares`, where units come back: with that rule, each
//! tenant that has spent its share would halve what the next one gets.

use std::collections::HashMap;

use tokio::time::{Duration, Instant};

use crate::model::Tenant;

/// The most tenants that are counted separately. Further ones have one share together.
const TENANTS: usize = 1024;

/// Nothing comes back until the window ends, and then everything does.
///
/// A tenant may spend as much as it then leaves. If others have left less, it may spend the part that it would have if the tenants of this
/// window and one more shared the capacity. So the first may spend one half, and a tenant that comes after `n` others one part of `n + 2`.
/// All together spend at most 1.9 times the capacity if they are 8, and 4.4 times if they are 110.
#[derive(Debug)]
pub struct Window {
    capacity: usize,
    length: Duration,
    ends: Option<Instant>,
    spent: usize,
    by: HashMap<Tenant, usize>,
}

// === impl Window ===

impl Window {
    /// This many bytes in a window of that length.
    pub fn new(capacity: usize, length: Duration) -> Self {
        Self { capacity, length, ends: None, spent: 0, by: HashMap::new() }
    }

    /// Whether the tenant had this many bytes left; if so, they are spent.
    pub fn spend(&mut self, tenant: &Tenant, bytes: usize, now: Instant) -> bool {
        if self.ends.is_none_or(|ends| now >= ends) {
            (self.ends, self.spent) = (Some(now + self.length), 0);
            self.by.clear();
        }
        let is_known = self.by.contains_key(tenant);
        // No tenant is removed: a removed tenant could spend its share again.
        let tenant = if is_known || self.by.len() < TENANTS { tenant.clone() } else { Tenant::from("") };
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
    pub fn tenants(&self) -> usize {
        self.by.len()
    }
}
