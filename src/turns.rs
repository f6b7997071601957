//! Turns at things that tenants share and may wait for: places, calls to a store, threads, whole purses. Each tenant has its own line, and
//! the lines are served in a round.
//!
//! [`Shares`] says how many turns a tenant may have at once. A tenant that has its share waits until one of its own comes back. Within a
//! line, the first is served first. Each line gets one turn before any line gets a second. A line that cannot be served now keeps its place
//! before later ones. So while a tenant that holds nothing waits, each tenant that waited before it gets at most one turn, and later
//! tenants get none.
//!
//! # What a mount may wait for, and in which order
//!
//! A mount waits in three lines, in this order only: for its place, for a whole purse, for a turn at a store or a thread. While it waits,
//! it holds only things from earlier lines. So no two mounts wait for each other.
//!
//! For bytes, a mount can wait (a whole purse), or take them without waiting: [`Turns::draw`] takes from the same units, outside of the
//! lines. The lines go first. While a tenant that holds nothing waits, nobody draws. While a tenant that holds something but has no turn
//! waits, only that tenant does not draw: its own units are in its way, so there is no reason to stop others. So drawn units come back,
//! nothing replaces them, and nobody waits for ever because of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::model::Tenant;
use crate::shares::{Held, Shares};

/// The turns. Clones share them.
#[derive(Clone)]
pub struct Turns(Arc<Shared>);

/// A turn, held until this is dropped.
#[must_use = "the turn ends when it is dropped"]
pub struct Turn {
    turns: Turns,
    held: Held,
}

/// Units that were taken outside of the lines, held until this is dropped.
#[must_use = "it is given back when it is dropped"]
pub struct Drawn {
    turns: Turns,
    held: Held,
}

/// One that waits in the lines. When it is dropped, it leaves all of them.
#[must_use = "they leave the lines when it is dropped"]
pub struct Waiting {
    turns: Turns,
    ticket: u64,
    served: oneshot::Receiver<Turn>,
}

/// With this, others can put a waiting one into their lines too: the first turn of any line counts.
#[derive(Clone)]
pub struct Ticket {
    turns: Turns,
    number: u64,
}

/// The tenants that one piece of work is for: it waits in all their lines at once, with one ticket. Clones share it.
#[derive(Clone)]
pub struct Party(Arc<Mutex<Members>>);

struct Members {
    /// The leading tenant first; each tenant once.
    tenants: Vec<Tenant>,
    /// While it waits.
    ticket: Option<Ticket>,
}

struct Shared {
    slots: Shares,
    /// Units per turn.
    each: usize,
    lines: Mutex<Lines>,
}

/// The waiting ones. Those that have left are not in here, and no line is empty.
#[derive(Default)]
struct Lines {
    /// Numbers of tickets, of places in a line and of lines in the round: the lower number is first.
    next: u64,
    waiting: BTreeMap<u64, Waiter>,
    by: BTreeMap<Tenant, Line>,
    /// The tenants of the lines, in the order in which they are served.
    round: BTreeMap<u64, Tenant>,
    /// Units drawn outside of the lines, by tenant.
    drawn: BTreeMap<Tenant, usize>,
}

struct Waiter {
    serve: oneshot::Sender<Turn>,
    /// One in each line that the ticket is in.
    places: Vec<(Tenant, u64)>,
}

struct Line {
    /// In the round.
    place: u64,
    /// The tickets, by their places.
    tickets: BTreeMap<u64, u64>,
}

/// Turns that are handed out when no lock is held.
type Served = Vec<(oneshot::Sender<Turn>, Turn)>;

// === impl Turns ===

impl Turns {
    /// This many at once, at least 1.
    pub fn new(turns: usize) -> Self {
        Self::of_units(turns.max(1), 1)
    }

    /// Turns of `each` units out of all units. By the rule of shares there is a turn only if there are at least two.
    pub fn of_units(units: usize, each: usize) -> Self {
        Self::of(Shares::new(units), each)
    }

    /// This many at once, at least 1; every fifth is for a tenant that has none.
    pub fn with_firsts(turns: usize) -> Self {
        let firsts = turns / 5;
        Self::of(Shares::with_firsts(turns.max(1) - firsts, firsts), 1)
    }

    fn of(slots: Shares, each: usize) -> Self {
        Self(Arc::new(Shared { slots, each: each.max(1), lines: Mutex::default() }))
    }

    /// Waits for a turn until then. `None`: there was none. If the future is dropped, it leaves the line.
    pub async fn take(&self, tenant: &Tenant, until: Instant) -> Option<Turn> {
        match self.at_once(tenant) {
            Some(turn) => Some(turn),
            None => self.line_up(tenant).turn(until).await,
        }
    }

    /// As [`Turns::take`], in the lines of all tenants in the party, also of those that join during the wait. The turn belongs to the
    /// tenant whose line came first.
    pub async fn take_for(&self, party: &Party, until: Instant) -> Option<Turn> {
        let waiting = {
            let mut members = party.lock();
            let leader = members.tenants.first()?;
            if let Some(turn) = self.at_once(leader) {
                return Some(turn);
            }
            let waiting = self.line_up(leader);
            let ticket = waiting.ticket();
            members.tenants[1..].iter().for_each(|tenant| ticket.stand(tenant));
            members.ticket = Some(ticket);
            waiting
        };
        waiting.turn(until).await
    }

    /// Goes into the tenant's line, and does not wait yet.
    pub fn line_up(&self, tenant: &Tenant) -> Waiting {
        let (serve, served) = oneshot::channel();
        let mut number = 0;
        self.change(|lines| {
            number = lines.number();
            lines.waiting.insert(number, Waiter { serve, places: Vec::new() });
            lines.stand(number, tenant);
        });
        Waiting { turns: self.clone(), ticket: number, served }
    }

    /// Takes `n` units outside of the lines, by the same shares and without waiting; `None` also if somebody in a line goes first.
    pub fn draw(&self, tenant: &Tenant, n: usize) -> Option<Drawn> {
        let mut lines = self.lock();
        if lines.go_before(tenant, &self.0.slots) {
            return None;
        }
        let held = self.0.slots.take(tenant, n)?;
        lines.drew(tenant, n);
        Some(Drawn { turns: self.clone(), held })
    }

    /// As [`Shares::count`]: what a tenant already has, as if it were drawn.
    pub fn count(&self, tenant: &Tenant, n: usize) -> Drawn {
        let mut lines = self.lock();
        lines.drew(tenant, n);
        Drawn { turns: self.clone(), held: self.0.slots.count(tenant, n) }
    }

    /// Whether a tenant would get a turn if all others came back and the drawn units stayed.
    pub fn may_come(&self, tenant: &Tenant) -> bool {
        let lines = self.lock();
        let drawn = lines.drawn.get(tenant).copied().unwrap_or(0);
        self.0.slots.would_give(drawn, lines.drawn.values().sum(), self.0.each)
    }

    /// Units per turn.
    pub fn each(&self) -> usize {
        self.0.each
    }

    pub fn slots(&self) -> &Shares {
        &self.0.slots
    }

    /// How many are in the lines.
    pub fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// For the case that nobody waits.
    fn at_once(&self, tenant: &Tenant) -> Option<Turn> {
        let lines = self.lock();
        if !lines.by.is_empty() {
            return None;
        }
        let held = self.0.slots.take(tenant, self.0.each)?;
        Some(Turn { turns: self.clone(), held })
    }

    /// Makes a change, and then serves those that may have a turn. Units come back only in here, and the lines are served before anybody
    /// else looks: a newcomer cannot take what the lines wait for.
    fn change(&self, change: impl FnOnce(&mut Lines)) {
        let mut lines = self.lock();
        change(&mut lines);
        let served = self.serve(&mut lines);
        drop(lines);
        for (waiting, turn) in served {
            // If the waiting one has left in the meantime, its turn comes back and goes to the next.
            drop(waiting.send(turn));
        }
    }

    /// Afterwards nobody waits that may have a turn.
    fn serve(&self, lines: &mut Lines) -> Served {
        let Shared { slots, each, .. } = &*self.0;
        let (mut served, mut from) = (Vec::new(), 0);
        while slots.may_give(*each)
            && let Some((place, tenant)) = lines.round.range(from..).next()
        {
            let (place, tenant) = (*place, tenant.clone());
            match slots.take(&tenant, *each).and_then(|held| Some((lines.take_first(&tenant)?, held))) {
                Some((waiting, held)) => served.push((waiting, Turn { turns: self.clone(), held })),
                // Nor may it have one after others were served: then less is free.
                None => from = place + 1,
            }
        }
        served
    }

    /// A panic elsewhere cannot leave the lines half-changed: no code here panics.
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Lines ===

impl Lines {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Puts a ticket at the end of a tenant's line, unless it is already there or was served.
    fn stand(&mut self, ticket: u64, tenant: &Tenant) {
        let (place, in_round) = (self.number(), self.number());
        let Some(waiter) = self.waiting.get_mut(&ticket) else { return };
        if waiter.places.iter().any(|(of, _)| of == tenant) {
            return;
        }
        waiter.places.push((tenant.clone(), place));
        let line = self.by.entry(tenant.clone()).or_insert_with(|| {
            self.round.insert(in_round, tenant.clone());
            Line { place: in_round, tickets: BTreeMap::new() }
        });
        line.tickets.insert(place, ticket);
    }

    /// Takes the first of a line out of all lines; from then on this line is the last of the round.
    fn take_first(&mut self, tenant: &Tenant) -> Option<oneshot::Sender<Turn>> {
        let (_, ticket) = self.by.get(tenant)?.tickets.first_key_value()?;
        let serve = self.leave(*ticket)?;
        let last = self.number();
        if let Some(line) = self.by.get_mut(tenant) {
            self.round.remove(&line.place);
            self.round.insert(last, tenant.clone());
            line.place = last;
        }
        Some(serve)
    }

    /// Takes a ticket out of all lines.
    fn leave(&mut self, ticket: u64) -> Option<oneshot::Sender<Turn>> {
        let Waiter { serve, places } = self.waiting.remove(&ticket)?;
        for (tenant, place) in places {
            let Some(line) = self.by.get_mut(&tenant) else { continue };
            line.tickets.remove(&place);
            if line.tickets.is_empty() {
                self.round.remove(&line.place);
                self.by.remove(&tenant);
            }
        }
        Some(serve)
    }

    /// Whether somebody in a line goes before what a tenant would draw: another tenant that holds nothing, or the tenant's own that wait
    /// for their first turn.
    fn go_before(&self, tenant: &Tenant, slots: &Shares) -> bool {
        let has_no_turn = || slots.of(tenant.as_str()) == self.drawn.get(tenant).copied().unwrap_or(0);
        self.by.contains_key(tenant) && has_no_turn() || self.by.keys().any(|waiting| slots.of(waiting.as_str()) == 0)
    }

    fn drew(&mut self, tenant: &Tenant, n: usize) {
        match self.drawn.get_mut(tenant) {
            Some(drawn) => *drawn += n,
            None if n > 0 => _ = self.drawn.insert(tenant.clone(), n),
            None => {}
        }
    }

    fn gave_back(&mut self, tenant: &Tenant, n: usize) {
        if let Some(drawn) = self.drawn.get_mut(tenant) {
            *drawn = drawn.saturating_sub(n);
            if *drawn == 0 {
                self.drawn.remove(tenant);
            }
        }
    }
}

// === impl Turn ===

impl Turn {
    pub fn tenant(&self) -> &Tenant {
        self.held.tenant()
    }

    /// Ends the turn, except for `n` of its units (or as many as it has): they are then as if drawn outside of the lines.
    pub fn keep(mut self, n: usize) -> Drawn {
        let turns = self.turns.clone();
        let mut kept = self.held.split(0);
        turns.change(|lines| {
            kept = self.held.split(n);
            lines.drew(kept.tenant(), kept.n());
            self.held.shrink(0);
        });
        Drawn { turns, held: kept }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.held.n() > 0 {
            self.turns.change(|_| self.held.shrink(0));
        }
    }
}

// === impl Drawn ===

impl Drawn {
    pub fn n(&self) -> usize {
        self.held.n()
    }

    /// Gives back all but `to` units. It never grows.
    pub fn shrink(&mut self, to: usize) {
        let n = self.held.n().saturating_sub(to);
        if n > 0 {
            self.turns.change(|lines| {
                lines.gave_back(self.held.tenant(), n);
                self.held.shrink(to);
            });
        }
    }

    /// Joins what one tenant has drawn.
    pub fn join(&mut self, mut other: Self) {
        debug_assert!(Arc::ptr_eq(&self.turns.0, &other.turns.0), "of one thing");
        self.held.join(other.held.split(usize::MAX));
    }
}

impl Drop for Drawn {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

// === impl Waiting ===

impl Waiting {
    /// Waits for the turn until then. `None`: there was none.
    pub async fn turn(mut self, until: Instant) -> Option<Turn> {
        timeout_at(until, &mut self.served).await.ok()?.ok()
    }

    /// For others that put this one into their lines too.
    pub fn ticket(&self) -> Ticket {
        Ticket { turns: self.turns.clone(), number: self.ticket }
    }
}

impl Drop for Waiting {
    /// A turn that was handed over but not taken comes back after this.
    fn drop(&mut self) {
        let left = self.turns.lock().leave(self.ticket);
        drop(left);
    }
}

// === impl Ticket ===

impl Ticket {
    /// Puts the ticket into this tenant's line too; without effect if it is already there, or nobody waits with it any more.
    pub fn stand(&self, tenant: &Tenant) {
        self.turns.change(|lines| lines.stand(self.number, tenant));
    }
}

// === impl Party ===

impl Party {
    pub fn of(leader: Tenant) -> Self {
        Self(Arc::new(Mutex::new(Members { tenants: vec![leader], ticket: None })))
    }

    /// From now on it also waits in this tenant's lines.
    pub fn join(&self, tenant: &Tenant) {
        let mut members = self.lock();
        if !members.tenants.contains(tenant) {
            members.tenants.push(tenant.clone());
            if let Some(ticket) = &members.ticket {
                ticket.stand(tenant);
            }
        }
    }

    /// Each change is one call of the list.
    fn lock(&self) -> MutexGuard<'_, Members> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").field("slots", &self.0.slots).field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("held", &self.held).finish_non_exhaustive()
    }
}

impl fmt::Debug for Drawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drawn").field("held", &self.held).finish_non_exhaustive()
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("number", &self.number).finish_non_exhaustive()
    }
}

impl fmt::Debug for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Party").field(&self.lock().tenants).finish()
    }
}

#[cfg(test)]
mod tests;
