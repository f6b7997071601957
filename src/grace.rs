//! For a list whose file is gone or cannot be used any more: the last entries stay in force for a moment, because the file may just be
//! changing. After that the list is empty: a list that nobody can read must let nobody in.

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
    /// The failure began with the former one, if there was one.
    pub fn after(former: Option<&Self>, problem: P) -> Self {
        Self { problem, since: former.map_or_else(Instant::now, |former| former.since) }
    }

    /// Whether the last entries are no longer in force.
    pub fn is_final(&self) -> bool {
        self.since.elapsed() >= GRACE
    }
}
