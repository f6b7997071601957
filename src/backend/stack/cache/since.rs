//! When a store was asked. This has its own module, because nothing may get an answer's age wrong: in memory, on the disk and over a restart it is
//! calculated in one way.

use jiff::Timestamp;
use tokio::time::{Duration, Instant};

/// A moment on both clocks. The monotonic clock does not run while the machine sleeps, and begins again at a restart; the wall clock may be set
/// back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Since {
    pub at: Timestamp,
    pub begun: Instant,
    /// The age that it had at `begun`: 0, unless it is from a former process.
    pub aged: Duration,
}

// === impl Since ===

impl Since {
    pub fn now(at: Timestamp) -> Self {
        Self { at, begun: Instant::now(), aged: Duration::ZERO }
    }

    /// As a former process has written it.
    pub fn recalled(at: Timestamp, now: Timestamp) -> Self {
        Self { at, begun: Instant::now(), aged: Duration::try_from(now.duration_since(at)).unwrap_or_default() }
    }

    /// The age by the time that the machine has run.
    pub fn elapsed(&self) -> Duration {
        self.at(Instant::now())
    }

    /// The same at another moment.
    pub fn at(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.begun) + self.aged
    }

    /// The age by the clock that shows the higher one.
    pub fn age(&self, now: Timestamp) -> Duration {
        self.elapsed().max(Duration::try_from(now.duration_since(self.at)).unwrap_or_default())
    }

    /// When it reaches this age, by the time that the machine runs.
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
