//! The table of one rule: for each ServiceAccount, how many different things happened within the time before now.
//!
//! The tenants share it ([`crate::shares`]), one unit for each thing that is kept. A tenant that has used its share cannot be counted any
//! further, and no other tenant loses counts for it. That itself raises an alert, once within the time, so nobody can hide by filling the
//! table.

use std::collections::{BTreeMap, HashMap};

use tokio::time::{Duration, Instant};

use crate::model::Tenant;
use crate::shares::{Held, Shares};

/// The things that are kept at once, for all tenants: about 100 bytes each. One tenant alone can have half.
pub(super) const ENTRIES: usize = 16_384;

/// The largest number that a rule may have: what each of three tenants gets when all three use all they can.
pub(super) const MOST: usize = ENTRIES / 4;

/// The most tenants for which Keyferry remembers that their share was used. Further ones have one alert together.
const TENANTS: usize = 1024;

#[derive(Debug)]
pub(super) struct Tally {
    number: usize,
    within: Duration,
    room: Shares,
    accounts: HashMap<u64, Account>,
    /// Each thing's place in the order of time.
    places: HashMap<u64, u64>,
    /// The oldest one first.
    order: BTreeMap<u64, Entry>,
    next: u64,
    /// The tenants that had no share left, and until when that needs no second alert.
    full: HashMap<Tenant, Instant>,
}

/// An account is in the table as long as it has entries.
#[derive(Debug)]
struct Account {
    /// One unit for each entry.
    held: Held,
    /// Nothing more is counted. The last entry came together with the alert, so this ends when the time has ended.
    is_alarmed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Instant,
    thing: u64,
    account: u64,
}

/// Why there is an alert.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Reached {
    Number,
    /// The tenant's share has no room for more.
    Share,
}

// === impl Tally ===

impl Tally {
    pub(super) fn new(number: usize, within: Duration) -> Self {
        Self {
            number,
            within,
            room: Shares::new(ENTRIES),
            accounts: HashMap::new(),
            places: HashMap::new(),
            order: BTreeMap::new(),
            next: 0,
            full: HashMap::new(),
        }
    }

    /// Counts things of an account; a thing that the account already has becomes its newest. Two accounts never have equal things.
    pub(super) fn count(&mut self, tenant: &Tenant, account: u64, things: impl Iterator<Item = u64>, now: Instant) -> Option<Reached> {
        self.forget(now);
        if self.accounts.get(&account).is_some_and(|account| account.is_alarmed) {
            return None;
        }
        for thing in things {
            if let Some(former) = self.places.get(&thing) {
                self.order.remove(former);
            } else if !self.has_room(tenant, account) {
                return self.is_news(tenant, now).then_some(Reached::Share);
            }
            self.places.insert(thing, self.next);
            self.order.insert(self.next, Entry { at: now, thing, account });
            self.next += 1;
            if let Some(account) = self.accounts.get_mut(&account).filter(|account| account.held.n() >= self.number) {
                account.is_alarmed = true;
                return Some(Reached::Number);
            }
        }
        None
    }

    /// Removes what happened longer ago than the time. Each entry is removed once, so a count costs little on average.
    fn forget(&mut self, now: Instant) {
        while let Some(oldest) = self.order.first_entry()
            && now >= oldest.get().at + self.within
        {
            let Entry { thing, account, .. } = oldest.remove();
            self.places.remove(&thing);
            if let Some(counted) = self.accounts.get_mut(&account) {
                counted.held.shrink(counted.held.n() - 1);
                if counted.held.n() == 0 {
                    self.accounts.remove(&account);
                }
            }
        }
        if self.order.is_empty() {
            // After a burst, the memory is given back.
            (self.accounts, self.places) = (HashMap::new(), HashMap::new());
        }
    }

    /// Takes a unit for one more thing.
    fn has_room(&mut self, tenant: &Tenant, account: u64) -> bool {
        let Some(unit) = self.room.take(tenant, 1) else { return false };
        match self.accounts.get_mut(&account) {
            Some(account) => account.held.join(unit),
            None => _ = self.accounts.insert(account, Account { held: unit, is_alarmed: false }),
        }
        true
    }

    /// Whether to report that the tenant's share is used.
    fn is_news(&mut self, tenant: &Tenant, now: Instant) -> bool {
        self.full.retain(|_, until| now < *until);
        let is_told_apart = self.full.len() < TENANTS || self.full.contains_key(tenant);
        let tenant = if is_told_apart { tenant.clone() } else { Tenant::from("") };
        let is_news = !self.full.contains_key(&tenant);
        if is_news {
            self.full.insert(tenant, now + self.within);
        }
        is_news
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> (usize, usize, usize) {
        (self.accounts.len(), self.places.len(), self.order.len())
    }
}
