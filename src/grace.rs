//! A list of keys whose file is gone or cannot be used any more: it keeps its last entries for a moment, because the file may be in the
//! middle of a change. Afterwards it has none: a list that nobody can read any more must not let anybody in.

use tokio::time::{Duration, Instant};

/// How long the last entries stay in force.
pub const GRACE: Duration = Duration::from_secs(10);

/// Why a list cannot be used, and since when.
#[derive(Clone, Debug)]
pub struct Outage<P> {
    pub problem: P,
    since: Instant,
}

impl<P> Outage<P> {
    /// It has begun with the former one, if there is one.
    pub fn after(former: Option<&Self>, problem: P) -> Self {
        Self { problem, since: former.map_or_else(Instant::now, |former| former.since) }
    }

    /// Whether the last entries are out of force.
    pub fn is_final(&self) -> bool {
        self.since.elapsed() >= GRACE
    }
}
