//! How one thing is divided that all tenants share: bytes, places, slots, leases, pages.
//!
//! There is one rule: a tenant gets what it asks for, if after that it holds no more than is left free. So there is no list of tenants and
//! no setting. With `C` units in all, of which `F` are free, this means:
//!
//! - **Alone, half.** No tenant gets more than `C / 2`, whatever the others do (except the one unit, if there is only one).
//! - **Two have a third each**, and `k` have `C / (k + 1)` each, after they have given back what they held before: each holds as much as is
//!   free.
//! - **A newcomer gets something as long as anything is free.** A tenant that holds nothing gets any amount up to `F / 2`, and always one
//!   unit. A grant leaves at least as much free as the tenant then holds, so something stays free; only the grant of the last single unit
//!   leaves nothing.
//!
//! There may be additional units for *firsts*. A tenant that holds nothing gets one of them when nothing else is free: so this many tenants
//! get something after the others have taken all.
//!
//! Nobody is asked to give anything back: a tenant that got its share while it was alone keeps it until it has finished. Nothing here
//! waits. A request that is not granted is refused, or waits in a line (`turns.rs`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::Tenant;

/// A number of units of something. Clones share them.
#[derive(Clone)]
pub struct Shares(Arc<Shared>);

/// What a tenant holds. It is given back when this is dropped.
#[must_use = "it is given back when it is dropped"]
pub struct Held {
    shares: Shares,
    tenant: Tenant,
    n: usize,
}

struct Shared {
    capacity: usize,
    firsts: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    used: usize,
    /// What each tenant holds, without tenants that hold nothing.
    by: BTreeMap<Tenant, usize>,
}

// === impl Shares ===

impl Shares {
    pub fn new(capacity: usize) -> Self {
        Self::with_firsts(capacity, 0)
    }

    /// This many units, and additional ones for tenants that hold nothing.
    pub fn with_firsts(capacity: usize, firsts: usize) -> Self {
        Self(Arc::new(Shared { capacity, firsts, state: Mutex::default() }))
    }

    /// `n` units for a tenant, by the rule above, or none. Zero is always granted.
    pub fn take(&self, tenant: &Tenant, n: usize) -> Option<Held> {
        let mut state = self.lock();
        let first = n == 1 && state.of(tenant.as_str()) == 0 && state.used < self.0.capacity.saturating_add(self.0.firsts);
        if !first && !state.may_have(tenant, n, self.free_of(&state)) {
            return None;
        }
        state.used += n;
        state.add(tenant, n);
        Some(Held { shares: self.clone(), tenant: tenant.clone(), n })
    }

    /// `n` units that a tenant already has, for example from a former process: they are counted, whatever the rule says. After that nothing
    /// may be free, and more may be in use than there is.
    pub fn count(&self, tenant: &Tenant, n: usize) -> Held {
        let mut state = self.lock();
        state.used += n;
        state.add(tenant, n);
        Held { shares: self.clone(), tenant: tenant.clone(), n }
    }

    /// Whether a tenant that holds this many would get `n` more units, if this many were used in all.
    pub fn would_give(&self, held: usize, used: usize, n: usize) -> bool {
        may_have(held, n, self.0.capacity.saturating_sub(used))
    }

    pub fn capacity(&self) -> usize {
        self.0.capacity
    }

    /// Units that all tenants hold together.
    pub fn used(&self) -> usize {
        self.lock().used
    }

    pub fn free(&self) -> usize {
        self.free_of(&self.lock())
    }

    /// Whether any tenant could get `n` units.
    pub fn may_give(&self, n: usize) -> bool {
        let used = self.used();
        used.saturating_add(n) <= self.0.capacity || (n == 1 && used < self.0.capacity.saturating_add(self.0.firsts))
    }

    /// Units that one tenant holds.
    pub fn of(&self, tenant: &str) -> usize {
        self.lock().of(tenant)
    }

    /// The `n` tenants that hold most, largest first. For the log.
    pub fn most(&self, n: usize) -> Vec<(Tenant, usize)> {
        let mut all: Vec<_> = self.lock().by.iter().map(|(tenant, held)| (tenant.clone(), *held)).collect();
        all.sort_unstable_by(|one, other| (other.1, &one.0).cmp(&(one.1, &other.0)));
        all.truncate(n);
        all
    }

    fn free_of(&self, state: &State) -> usize {
        self.0.capacity.saturating_sub(state.used)
    }

    /// A panic elsewhere cannot leave the state half-changed: no code here panics.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn of(&self, tenant: &str) -> usize {
        self.by.get(tenant).copied().unwrap_or(0)
    }

    fn may_have(&self, tenant: &Tenant, n: usize, free: usize) -> bool {
        may_have(self.of(tenant.as_str()), n, free)
    }

    fn add(&mut self, tenant: &Tenant, n: usize) {
        match self.by.get_mut(tenant) {
            Some(held) => *held += n,
            None if n > 0 => _ = self.by.insert(tenant.clone(), n),
            None => {}
        }
    }

    fn remove(&mut self, tenant: &Tenant, n: usize) {
        if let Some(held) = self.by.get_mut(tenant) {
            *held = held.saturating_sub(n);
            if *held == 0 {
                self.by.remove(tenant);
            }
        }
    }
}

/// The rule, for a tenant that holds this many.
fn may_have(held: usize, n: usize, free: usize) -> bool {
    if n == 0 {
        return true;
    }
    let Some(left) = free.checked_sub(n) else { return false };
    // Otherwise nobody could have the only unit, or the last one.
    (held == 0 && n == 1) || held.checked_add(n).is_some_and(|held| held <= left)
}

// === impl Held ===

impl Held {
    pub fn n(&self) -> usize {
        self.n
    }

    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// Gives back all but `to` units. It never grows: a higher number changes nothing.
    pub fn shrink(&mut self, to: usize) {
        let n = self.n.saturating_sub(to);
        if n > 0 {
            self.n -= n;
            let mut state = self.shares.lock();
            state.used -= n;
            state.remove(&self.tenant, n);
        }
    }

    /// Takes `n` units out, or all of them if there are fewer, as a separate value.
    pub fn split(&mut self, n: usize) -> Self {
        let n = n.min(self.n);
        self.n -= n;
        Self { shares: self.shares.clone(), tenant: self.tenant.clone(), n }
    }

    /// Joins what one tenant holds of one thing: the sum stays the same.
    pub(crate) fn join(&mut self, mut other: Self) {
        debug_assert!(Arc::ptr_eq(&self.shares.0, &other.shares.0) && self.tenant == other.tenant, "of one thing and tenant");
        self.n += std::mem::take(&mut other.n);
    }

    /// Gives it to another tenant, by the same rule: that tenant then holds no more than is free. `None`: that tenant has its share, and
    /// all of this is given back.
    pub fn pass_to(mut self, tenant: &Tenant) -> Option<Self> {
        let shares = self.shares.clone();
        let mut state = shares.lock();
        let n = self.n;
        let free = (shares.0.capacity + n).saturating_sub(state.used);
        if *tenant != self.tenant {
            if !state.may_have(tenant, n, free) {
                drop(state);
                return None;
            }
            state.remove(&self.tenant, n);
            state.add(tenant, n);
            self.tenant = tenant.clone();
        }
        Some(self)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

impl fmt::Debug for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shares").field("capacity", &self.0.capacity).field("used", &self.used()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("tenant", &self.tenant).field("n", &self.n).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
