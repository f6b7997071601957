//! When a store was asked. Apart, because an answer's age is the rule that nothing may get wrong: in memory, on the disk and over a restart
//! it is told in one way.

use jiff::Timestamp;
use tokio::time::{Duration, Instant};

/// A moment by both clocks: the monotonic one does not run while the machine sleeps and ends with it, and the wall's may be set back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Since {
    pub at: Timestamp,
    pub begun: Instant,
    /// How old it was at `begun`: 0, unless a former process had it.
    pub aged: Duration,
}

// === impl Since ===

impl Since {
    pub fn now(at: Timestamp) -> Self {
        Self { at, begun: Instant::now(), aged: Duration::ZERO }
    }

    /// As a former process wrote it down.
    pub fn recalled(at: Timestamp, now: Timestamp) -> Self {
        Self { at, begun: Instant::now(), aged: Duration::try_from(now.duration_since(at)).unwrap_or_default() }
    }

    /// By the time that the machine has run.
    pub fn elapsed(&self) -> Duration {
        self.at(Instant::now())
    }

    /// The same at this moment.
    pub fn at(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.begun) + self.aged
    }

    /// By the clock that tells more.
    pub fn age(&self, now: Timestamp) -> Duration {
        self.elapsed().max(Duration::try_from(now.duration_since(self.at)).unwrap_or_default())
    }

    /// When it is so old, by the time that the machine runs.
    pub fn plus(&self, age: Duration) -> Instant {
        self.begun + age.saturating_sub(self.aged)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_clock_that_tells_more_counts() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let since = Since::recalled(at(100), at(160));
        assert_eq!((since.elapsed().as_secs(), since.age(at(190)).as_secs(), since.age(at(0)).as_secs()), (60, 90, 60));
        advance(Duration::from_secs(40)).await;
        assert_eq!((since.age(at(0)).as_secs(), since.plus(Duration::from_secs(100)) <= Instant::now()), (100, true));
        assert_eq!(Since::recalled(at(160), at(100)).age(at(100)), Duration::ZERO, "a clock that was set back");
    }
}
