//! How much more work one mount may do: a purse of steps, and a deadline.
//!
//! A step is one byte that is looked at, or one node that is made. Code that works on a tenant's or a store's text pays while it works. A
//! library that cannot be stopped half-way (the YAML scanner, serde_json, JMESPath) is paid before it runs, by an upper limit of its cost.
//! So no input, however it is built, can cause more work than the purse pays for: about a tenth of a second.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

/// The steps of a mount.
pub const OF_A_MOUNT: u64 = 50_000_000;

/// The clock is looked at once per this many steps.
const BETWEEN_LOOKS: u64 = 65_536;

/// A purse of steps. Several threads can pay from it through a shared reference.
#[derive(Debug)]
pub struct Steps {
    spent: AtomicU64,
    total: u64,
    /// `None`: no deadline.
    deadline: Option<Instant>,
}

/// Why work cannot go on. `Display` completes "it ...".
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Spent {
    /// More than this many steps.
    Steps(u64),
    /// The deadline has passed.
    Time,
}

// === impl Steps ===

impl Steps {
    pub const fn new(total: u64, deadline: Instant) -> Self {
        Self { spent: AtomicU64::new(0), total, deadline: Some(deadline) }
    }

    /// This many steps, and no deadline.
    pub const fn of(total: u64) -> Self {
        Self { spent: AtomicU64::new(0), total, deadline: None }
    }

    /// For work that is not for a mount: a configuration, a command.
    pub const fn unbounded() -> Self {
        Self { spent: AtomicU64::new(0), total: u64::MAX, deadline: None }
    }

    /// Takes `n` steps out of the purse.
    ///
    /// # Errors
    /// There were not enough in it, now or at an earlier call; or the deadline has passed.
    pub fn charge(&self, n: u64) -> Result<(), Spent> {
        // The order of charges does not matter, only their sum.
        let before =
            self.spent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |spent| Some(spent.saturating_add(n))).unwrap_or(u64::MAX);
        let after = before.saturating_add(n);
        if after > self.total {
            return Err(Spent::Steps(self.total));
        }
        let looks = before / BETWEEN_LOOKS != after / BETWEEN_LOOKS;
        match self.deadline {
            Some(deadline) if looks && deadline <= Instant::now() => Err(Spent::Time),
            _ => Ok(()),
        }
    }

    /// The same for a length.
    ///
    /// # Errors
    /// As [`Self::charge`].
    pub fn charge_bytes(&self, n: usize) -> Result<(), Spent> {
        self.charge(n as u64)
    }

    /// How many steps are left.
    pub fn left(&self) -> u64 {
        self.total.saturating_sub(self.spent())
    }

    /// How many steps were charged so far.
    pub fn spent(&self) -> u64 {
        self.spent.load(Ordering::Relaxed)
    }
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(total) => write!(f, "takes more than {total} steps of work"),
            Self::Time => f.write_str("takes more time than this mount has"),
        }
    }
}

impl std::error::Error for Spent {}

#[cfg(test)]
mod tests {
    use tokio::time::{Duration, advance};

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    #[test]
    fn a_purse_is_empty_once_it_was_overdrawn() {
        let steps = Steps::new(100, soon());
        assert_eq!(steps.charge(60), Ok(()));
        assert_eq!(steps.charge(40), Ok(()));
        assert_eq!(steps.charge(1), Err(Spent::Steps(100)));
        assert_eq!(steps.charge(0), Err(Spent::Steps(100)), "nothing that follows goes on");
        assert_eq!(steps.spent(), 101);
    }

    #[test]
    fn no_charge_is_so_large_that_the_sum_turns_over() {
        let steps = Steps::new(100, soon());
        for _ in 0..3 {
            assert_eq!(steps.charge(u64::MAX), Err(Spent::Steps(100)));
        }
        let unbounded = Steps::unbounded();
        assert_eq!(unbounded.charge(u64::MAX).and_then(|()| unbounded.charge(u64::MAX)), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_is_looked_at_now_and_then() {
        let steps = Steps::new(OF_A_MOUNT, soon());
        assert_eq!(steps.charge(BETWEEN_LOOKS), Ok(()));
        advance(Duration::from_secs(1)).await;
        assert_eq!(steps.charge(BETWEEN_LOOKS - 1), Ok(()), "not at each charge");
        assert_eq!(steps.charge(1), Err(Spent::Time));
        assert_eq!(Steps::unbounded().charge(BETWEEN_LOOKS), Ok(()));
    }

    #[test]
    fn threads_share_a_purse() {
        let steps = Steps::new(u64::MAX, soon());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|_| steps.charge(3).unwrap()));
            }
        });
        assert_eq!(steps.spent(), 12_000);
    }

    #[test]
    fn it_says_what_ran_out() {
        insta::assert_snapshot!(Spent::Steps(50_000_000), @"takes more than 50000000 steps of work");
        insta::assert_snapshot!(Spent::Time, @"takes more time than this mount has");
    }
}
