//! How a mount ended, as far as its volume keeps it. Apart from who keeps what of it.

use jiff::SignedDuration;
use tokio::time::Duration;

use crate::model::Code;

/// How a mount ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ended {
    /// Why it failed; `None`: it was delivered.
    pub code: Option<Code>,
    pub stale: Option<Stale>,
    /// Whether a token has proven in it whose volume it is.
    pub proven: bool,
}

/// What a mount was given because a store is out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stale {
    /// Of the oldest answer.
    age: Duration,
    /// How long ago the first of them had used up half of its time; less than nothing: it has not.
    past_half: SignedDuration,
}

// === impl Stale ===

impl Stale {
    /// One answer more, of this age; at this `bound` none is given.
    pub(super) fn with(others: Option<Self>, age: Duration, bound: Duration) -> Self {
        let signed = |duration| SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
        let past_half = signed(age).saturating_sub(signed(bound / 2));
        others.map_or(Self { age, past_half }, |others| Self { age: others.age.max(age), past_half: others.past_half.max(past_half) })
    }

    /// Of the oldest answer.
    pub(super) fn age(self) -> Duration {
        self.age
    }

    /// How long ago the first of them had used up half of its time; less than nothing: it has not.
    pub(super) fn past_half(self) -> SignedDuration {
        self.past_half
    }
}
