//! One rule's table: for each ServiceAccount, how many different things happened within the time before now.
//!
//! It is shared by tenant ([`crate::shares`]), one unit for each thing that is kept. A tenant that has used up its share cannot be counted
//! any further, and nobody else's counts go for it: that itself is an alert, once within the time, so that nobody hides by filling
//! the table.

use std::collections::{BTreeMap, HashMap};

use tokio::time::{Duration, Instant};

use crate::model::Tenant;
use crate::shares::{Held, Shares};

/// Things kept at once, for all tenants: about 100 bytes each. A tenant alone has half.
pub(super) const ENTRIES: usize = 16_384;

/// The most that a rule may ask for: what each of three tenants that use all they can has.
pub(super) const MOST: usize = ENTRIES / 4;

/// The most tenants whose share's end is remembered. Further ones have one alert together.
const TENANTS: usize = 1024;

#[derive(Debug)]
pub(super) struct Tally {
    number: usize,
    within: Duration,
    room: Shares,
    accounts: HashMap<u64, Account>,
    /// Each thing's place in the order.
    places: HashMap<u64, u64>,
    /// From the one that happened longest ago.
    order: BTreeMap<u64, Entry>,
    next: u64,
    /// Tenants that had no share left, and until when that needs no other alert.
    full: HashMap<Tenant, Instant>,
}

/// It is there as long as it has entries.
#[derive(Debug)]
struct Account {
    /// A unit for each entry.
    held: Held,
    /// Nothing more is counted. The last entry came with the alert, so that this ends when the time is over.
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

    /// Counts things of an account; one that it has already is the newest from now on. A thing is the account's own: nobody else's is
    /// equal to it.
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

    /// Takes out what happened longer ago than the time. Each entry goes once, so that a count costs little on average.
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
            // A burst leaves no memory behind.
            (self.accounts, self.places) = (HashMap::new(), HashMap::new());
        }
    }

    /// Takes a unit for one thing more.
    fn has_room(&mut self, tenant: &Tenant, account: u64) -> bool {
        let Some(unit) = self.room.take(tenant, 1) else { return false };
        match self.accounts.get_mut(&account) {
            Some(account) => account.held.join(unit),
            None => _ = self.accounts.insert(account, Account { held: unit, is_alarmed: false }),
        }
        true
    }

    /// Whether the end of the tenant's share is to be said.
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
