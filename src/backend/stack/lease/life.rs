//! How long a lease lives and when its turn comes, by two clocks. The store's times use the wall clock, and it limits how long a lease is given.
//! But somebody can set the wall clock. Therefore turns use the monotonic clock. So a wall clock that is set back does not delay every renewal, and
//! one that is set forward does not bring all of them at once.

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Duration, Instant};

use crate::model::Lease;

/// The longest wait before another try.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// One moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub wall: Timestamp,
    pub at: Instant,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    ends: Timestamp,
    ends_at: Instant,
    /// Its whole life when it was issued.
    full: Duration,
    turns_at: Instant,
}

impl Life {
    /// `None`: it has ended.
    pub fn of(lease: &Lease, now: Moment) -> Option<Self> {
        let full = length(lease.ends.duration_since(lease.since));
        let gone = length(now.wall.duration_since(lease.since));
        let left = full.checked_sub(gone).filter(|left| !left.is_zero())?;
        // If the store sets no end, it is not replaced because of its age.
        let turns = if lease.while_asked { full } else { full.mul_f64(2.0 / 3.0 + 0.1 * jitter()) };
        Some(Self { ends: lease.ends, ends_at: now.at + left, full, turns_at: now.at + turns.saturating_sub(gone) })
    }

    /// After a renewal: its new life, and whether this was the last renewal. `None`: it has ended.
    pub fn renewed(&self, lease: &Lease, now: Moment) -> Option<(Self, bool)> {
        let new = Self::of(lease, now)?;
        // Stores cut each renewal at the longest life that they allow (Vault's max_ttl). Less than a third means that this limit is near.
        let cut = new.full < self.full / 3;
        let turns_at = if cut { now.at } else { new.turns_at };
        Some((Self { full: self.full, turns_at, ..new }, cut || !lease.renewable))
    }

    /// A lease of a former process, which knew its whole life.
    pub fn resumed(lease: &Lease, full: Duration, now: Moment) -> Option<Self> {
        Some(Self { full, ..Self::of(lease, now)? })
    }

    pub fn full(&self) -> Duration {
        self.full
    }

    /// Whether it may still be given.
    pub fn lasts(&self, now: Moment) -> bool {
        now.at < self.ends_at && now.wall < self.ends
    }

    /// Its turn has come now.
    pub fn turn(&mut self, now: Instant) {
        self.turns_at = now;
    }

    /// What is left of its life, and its whole life.
    pub fn left(&self, now: Instant) -> (Duration, Duration) {
        (self.ends_at.saturating_duration_since(now), self.full)
    }

    /// When it has certainly ended, and nothing is left to renew or revoke.
    pub fn ends_at(&self) -> Instant {
        self.ends_at
    }

    /// When to renew it, or to replace it if it cannot be renewed. This is after two thirds of its life, and up to a tenth later, so that leases
    /// that were issued together are not renewed together.
    pub fn turns_at(&self) -> Instant {
        self.turns_at
    }
}

/// How long to wait before the next try, after this number of failed tries.
pub(super) fn backoff(tries: u32) -> Duration {
    let wait = Duration::from_secs(2_u64.saturating_pow(tries.clamp(1, 6))).min(LONGEST_WAIT);
    wait.mul_f64(0.75 + 0.5 * jitter())
}

/// A random number from 0 to 1.
fn jitter() -> f64 {
    let mut random = [0; 4];
    // Without randomness all turns come at the same time. That is worse, but not a fault.
    let _ = aws_lc_rs::rand::fill(&mut random);
    f64::from(u32::from_ne_bytes(random)) / f64::from(u32::MAX)
}

/// A negative time counts as zero.
fn length(span: SignedDuration) -> Duration {
    span.try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::stack::lease::tests::lease;

    const HOUR: Duration = Duration::from_hours(1);

    fn moment(wall: i64) -> Moment {
        Moment { wall: Timestamp::from_second(wall).unwrap(), at: Instant::now() }
    }

    #[tokio::test(start_paused = true)]
    async fn the_turn_comes_at_two_thirds_and_not_for_all_at_once() {
        let now = moment(0);
        let turns: Vec<_> = (0..50).map(|_| Life::of(&lease(0, 3600), now).unwrap().turns_at() - now.at).collect();
        assert!(turns.iter().all(|turn| (HOUR * 2 / 3..=HOUR * 7 / 9).contains(turn)), "{turns:?}");
        assert!(turns.iter().max().unwrap().abs_diff(*turns.iter().min().unwrap()) > Duration::from_mins(1), "{turns:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_began_in_a_former_process_goes_on_where_it_was() {
        let now = moment(3000);
        let life = Life::of(&lease(0, 3600), now).unwrap();
        assert_eq!((life.turns_at(), life.ends_at()), (now.at, now.at + Duration::from_mins(10)));
        assert!(Life::of(&lease(0, 3600), moment(3600)).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_set_back_makes_no_life_longer() {
        let life = Life::of(&lease(10_000, 13_600), moment(0)).unwrap();
        assert_eq!(life.ends_at() - Instant::now(), HOUR);
        assert!(!life.lasts(Moment { wall: Timestamp::UNIX_EPOCH, at: Instant::now() + HOUR }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_cut_to_under_a_third_is_the_last() {
        let life = Life::of(&lease(0, 3600), moment(0)).unwrap();
        let (longer, last) = life.renewed(&lease(2400, 6000), moment(2400)).unwrap();
        assert!(!last);
        let (_, last) = longer.renewed(&lease(4800, 6100), moment(4800)).unwrap();
        assert!(!last, "1300 s of 3600 s");
        let (_, last) = longer.renewed(&lease(4800, 5900), moment(4800)).unwrap();
        assert!(last, "1100 s of 3600 s");
    }

    #[test]
    fn waits_grow_to_about_a_minute() {
        let waits: Vec<_> = (1..20).map(|tries| backoff(tries).as_secs_f64()).collect();
        assert!((1.5..=2.5).contains(&waits[0]) && (45.0..=75.0).contains(&waits[18]), "{waits:?}");
    }
}
