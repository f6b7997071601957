//! A mount's purse: the bytes that one mount holds while it is under way.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Budget;
use crate::model::Tenant;
use crate::turns::{Drawn, Turn, Turns};

/// Bytes that each place has for its mount: no other can hold them.
pub const FREE: usize = 32 * 1024;

/// What a mount has spent, and from what. It has the mount's place, whose free bytes it spends first: so whatever is paid from here keeps
/// the place until it is given back.
pub struct Purse {
    moving: Turns,
    place: Turn,
    account: Mutex<Account>,
    came_short: Notify,
    emptied: Notify,
}

/// Bytes that are paid for, until this is dropped.
#[must_use = "it is given back when it is dropped"]
pub struct Spent {
    purse: Arc<Purse>,
    n: usize,
}

/// A purse in the hands of those who ask stores on the mount's behalf.
#[derive(Clone, Debug)]
pub struct Payer {
    purse: Arc<Purse>,
    prepaid: usize,
}

/// Something that grows, and is paid for as it does.
#[derive(Debug, Default)]
pub struct Growing {
    payer: Option<Payer>,
    bytes: usize,
    spent: Option<Spent>,
}

/// Why bytes were not paid for.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Unpaid {
    /// The others have not left enough. The mount gives everything back and waits for a whole.
    #[error("there is not enough memory at the moment")]
    Short,
    /// More than a whole: no mount may hold as much.
    #[error("it needs more than the {most} bytes that a mount may hold")]
    TooLarge { most: usize },
}

/// Why there is no whole.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum NoWhole {
    /// A fault of ours: who holds something does not wait.
    #[error("{0} bytes are held by the mount that waits")]
    Holding(usize),
    #[error("there was not enough memory in time")]
    Late,
}

/// Without a whole, what is spent beyond [`FREE`] is drawn, to the byte.
#[derive(Default)]
struct Account {
    spent: usize,
    drawn: Option<Drawn>,
    whole: Option<Turn>,
    /// It came short, or waits for a whole: until it has one, nothing is spent.
    short: bool,
}

// === impl Purse ===

impl Purse {
    /// For the mount that has this place.
    pub fn new(budget: &Budget, place: Turn) -> Arc<Self> {
        let (moving, account) = (budget.moving().clone(), Mutex::default());
        Arc::new(Self { moving, place, account, came_short: Notify::new(), emptied: Notify::new() })
    }

    /// Pays for `n` bytes, without waiting.
    ///
    /// # Errors
    /// [`Unpaid::Short`], never with a whole; or [`Unpaid::TooLarge`], with and without one.
    pub fn spend(self: &Arc<Self>, n: usize) -> Result<Spent, Unpaid> {
        self.pay(n)?;
        Ok(Spent { purse: Arc::clone(self), n })
    }

    /// Waits in the tenant's line for a whole. Nothing is spent meanwhile, and nothing may be held.
    ///
    /// # Errors
    /// None came by then; or something is held, and nothing was waited for.
    pub async fn whole(&self, until: Instant) -> Result<(), NoWhole> {
        let waiting = {
            let mut account = self.account();
            if account.whole.is_some() {
                return Ok(());
            }
            if account.spent > 0 {
                return Err(NoWhole::Holding(account.spent));
            }
            account.short = true;
            self.moving.line_up(self.tenant())
        };
        self.came_short.notify_waiters();
        let whole = waiting.turn(until).await.ok_or(NoWhole::Late)?;
        let mut account = self.account();
        account.short = false;
        let spare = account.whole.replace(whole);
        drop((account, spare));
        Ok(())
    }

    /// Gives back what is not spent of a whole. From then on more is drawn, as without one.
    pub fn settle(&self) {
        let mut account = self.account();
        if let Some(whole) = account.whole.take() {
            account.drawn = Some(whole.keep(beyond_free(account.spent))).filter(|drawn| drawn.n() > 0);
        }
    }

    /// Resolves when the purse has come short, for those who spend from it in tasks of their own: they give back what they have.
    pub async fn came_short(&self) {
        loop {
            let came_short = self.came_short.notified();
            if self.account().short {
                return;
            }
            came_short.await;
        }
    }

    /// Resolves when nothing is spent.
    pub async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.spent() == 0 {
                return;
            }
            emptied.await;
        }
    }

    pub fn tenant(&self) -> &Tenant {
        self.place.tenant()
    }

    /// Bytes that are paid for now.
    pub fn spent(&self) -> usize {
        self.account().spent
    }

    pub fn has_whole(&self) -> bool {
        self.account().whole.is_some()
    }

    fn pay(&self, n: usize) -> Result<(), Unpaid> {
        let most = FREE.saturating_add(self.moving.each());
        let mut account = self.account();
        let spent = account.spent.checked_add(n).filter(|spent| *spent <= most).ok_or(Unpaid::TooLarge { most })?;
        let more = beyond_free(spent) - beyond_free(account.spent);
        if account.short && n > 0 {
            return Err(Unpaid::Short);
        }
        if account.whole.is_none() && more > 0 {
            match (self.moving.draw(self.tenant(), more), &mut account.drawn) {
                (Some(drawn), Some(before)) => before.join(drawn),
                (Some(drawn), none) => *none = Some(drawn),
                (None, _) => {
                    account.short = true;
                    drop(account);
                    self.came_short.notify_waiters();
                    return Err(Unpaid::Short);
                }
            }
        }
        account.spent = spent;
        Ok(())
    }

    fn give_back(&self, n: usize) {
        let mut account = self.account();
        account.spent = account.spent.saturating_sub(n);
        let (spent, drawn) = (account.spent, &mut account.drawn);
        if let Some(some) = drawn {
            some.shrink(beyond_free(spent));
            if some.n() == 0 {
                *drawn = None;
            }
        }
        drop(account);
        if spent == 0 {
            self.emptied.notify_waiters();
        }
    }

    /// A panic elsewhere cannot leave the account half-changed: nothing that is done with it panics.
    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn beyond_free(spent: usize) -> usize {
    spent.saturating_sub(FREE)
}

// === impl Spent ===

impl Spent {
    pub fn n(&self) -> usize {
        self.n
    }

    /// Pays for `n` bytes more, for what grows.
    ///
    /// # Errors
    /// As [`Purse::spend`]; what was paid before stays.
    pub fn more(&mut self, n: usize) -> Result<(), Unpaid> {
        self.purse.pay(n)?;
        self.n += n;
        Ok(())
    }

    /// Gives back all but `to` bytes; a higher number changes nothing.
    pub fn shrink(&mut self, to: usize) {
        let n = self.n.saturating_sub(to);
        if n > 0 {
            self.n -= n;
            self.purse.give_back(n);
        }
    }
}

impl Drop for Spent {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

// === impl Payer ===

impl Payer {
    pub fn new(purse: &Arc<Purse>) -> Self {
        Self { purse: Arc::clone(purse), prepaid: 0 }
    }

    /// For something of which so many bytes are paid already, by who asks for it.
    pub fn prepaid(&self, bytes: usize) -> Self {
        Self { prepaid: bytes, ..self.clone() }
    }

    pub fn purse(&self) -> &Arc<Purse> {
        &self.purse
    }
}

// === impl Growing ===

impl Growing {
    /// Without a payer it costs nothing: it is the daemon's own.
    pub fn new(payer: Option<Payer>) -> Self {
        Self { payer, ..Self::default() }
    }

    /// Pays for `n` bytes more.
    ///
    /// # Errors
    /// As [`Purse::spend`].
    pub fn add(&mut self, n: usize) -> Result<(), Unpaid> {
        self.bytes = self.bytes.saturating_add(n);
        let Some(Payer { purse, prepaid }) = &self.payer else { return Ok(()) };
        let more = self.bytes.saturating_sub(*prepaid).saturating_sub(self.spent.as_ref().map_or(0, Spent::n));
        match &mut self.spent {
            Some(spent) => spent.more(more),
            None => purse.spend(more).map(|spent| self.spent = Some(spent)),
        }
    }

    /// What it has cost, to be kept as long as it is.
    pub fn spent(self) -> Option<Spent> {
        self.spent
    }
}

impl fmt::Debug for Purse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let account = self.account();
        let mut shown = f.debug_struct("Purse");
        shown.field("tenant", self.tenant()).field("spent", &account.spent).field("whole", &account.whole.is_some());
        shown.finish_non_exhaustive()
    }
}

impl fmt::Debug for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spent").field("n", &self.n).finish_non_exhaustive()
    }
}
