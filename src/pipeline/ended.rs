//! How a mount ended, as far as it is kept with its volume. It is separate from the tables that keep it.

use jiff::SignedDuration;
use tokio::time::Duration;

use crate::model::Code;

/// How a mount ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ended {
    /// Why it failed; `None`: it was delivered.
    pub code: Option<Code>,
    pub stale: Option<Stale>,
    /// Whether a token has proven in this mount which Pod the volume belongs to.
    pub proven: bool,
}

/// The answers that a mount got because a store is out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stale {
    /// The age of the oldest answer.
    age: Duration,
    /// How long ago the first of them passed half of its time; negative: not yet.
    past_half: SignedDuration,
}

// === impl Stale ===

impl Stale {
    /// Adds one answer of this age; no answer is given after this `bound`.
    pub(super) fn with(others: Option<Self>, age: Duration, bound: Duration) -> Self {
        let signed = |duration| SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
        let past_half = signed(age).saturating_sub(signed(bound / 2));
        others.map_or(Self { age, past_half }, |others| Self { age: others.age.max(age), past_half: others.past_half.max(past_half) })
    }

    /// The age of the oldest answer.
    pub(super) fn age(self) -> Duration {
        self.age
    }

    /// How long ago the first of them passed half of its time; negative: not yet.
    pub(super) fn past_half(self) -> SignedDuration {
        self.past_half
    }
}
