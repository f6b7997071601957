//! A mount's purse: the bytes that one mount holds while it is under way.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Budget;
use crate::model::Tenant;
use crate::turns::{Drawn, Turn, Turns};

/// The bytes that each place has for its mount: no other mount can hold them.
pub const FREE: usize = 32 * 1024;

/// What a mount has spent. It has the mount's place and spends the place's free bytes first. So bytes that are paid from here keep the
/// place until they are given back.
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

/// A purse for the code that asks stores for the mount.
#[derive(Clone, Debug)]
pub struct Payer {
    purse: Arc<Purse>,
    prepaid: usize,
}

/// Something that grows. Each part is paid when it comes.
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
    /// More than a whole: no mount may hold that much.
    #[error("it needs more than the {most} bytes that a mount may hold")]
    TooLarge { most: usize },
}

/// Why there is no whole.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum NoWhole {
    /// A bug: a mount that holds something must not wait.
    #[error("{0} bytes are held by the mount that waits")]
    Holding(usize),
    #[error("there was not enough memory in time")]
    Late,
}

/// Without a whole, every byte beyond [`FREE`] is drawn.
#[derive(Default)]
struct Account {
    spent: usize,
    drawn: Option<Drawn>,
    whole: Option<Turn>,
    /// The purse had not enough bytes, or waits for a whole: until it has one, nothing is spent.
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
    /// [`Unpaid::Short`], which never happens with a whole; or [`Unpaid::TooLarge`], with or without one.
    pub fn spend(self: &Arc<Self>, n: usize) -> Result<Spent, Unpaid> {
        self.pay(n)?;
        Ok(Spent { purse: Arc::clone(self), n })
    }

    /// Waits in the tenant's line for a whole. During this time the mount spends nothing and must hold nothing.
    ///
    /// # Errors
    /// No whole came in time; or the mount holds something, and did not wait.
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

    /// Gives back the part of a whole that is not spent. From then on bytes are drawn, as without a whole.
    pub fn settle(&self) {
        let mut account = self.account();
        if let Some(whole) = account.whole.take() {
            account.drawn = Some(whole.keep(beyond_free(account.spent))).filter(|drawn| drawn.n() > 0);
        }
    }

    /// Resolves when the purse has not enough bytes. Tasks that spend from it then give back what they have.
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

    /// The bytes that are paid now.
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

    /// A panic elsewhere cannot leave the account half-changed: no code panics while it holds the lock.
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

    /// Pays for `n` more bytes, for something that grows.
    ///
    /// # Errors
    /// As [`Purse::spend`]; earlier payments stay.
    pub fn more(&mut self, n: usize) -> Result<(), Unpaid> {
        self.purse.pay(n)?;
        self.n += n;
        Ok(())
    }

    /// Gives back all except `to` bytes; a higher number changes nothing.
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

    /// For something that is paid already, with this many bytes, by the code that asks for it.
    pub fn prepaid(&self, bytes: usize) -> Self {
        Self { prepaid: bytes, ..self.clone() }
    }

    pub fn purse(&self) -> &Arc<Purse> {
        &self.purse
    }
}

// === impl Growing ===

impl Growing {
    /// Without a payer it costs nothing: it belongs to the daemon itself.
    pub fn new(payer: Option<Payer>) -> Self {
        Self { payer, ..Self::default() }
    }

    /// Pays for `n` more bytes.
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

    /// What it has cost. It is kept as long as the thing itself.
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
