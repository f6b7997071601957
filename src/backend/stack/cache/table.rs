//! The answers of one backend that are kept, and when each of them goes.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::{Duration, Instant};

use crate::backend::stack::asked::Asked;
use crate::backend::sweep::{Sweeping, Swept};
use crate::backend::{Fault, Scope};
use crate::model::{BackendName, Fetched, Secret};
use crate::shelf;
use crate::telemetry::CacheCounters;

/// By how many counters refusals are told apart: see [`Table::refusals`].
const SHARDS: usize = 64;

/// What is kept, bounded by bytes and time.
pub(super) struct Table {
    fresh: Duration,
    /// Shared by the tenants that asked first for them.
    answers: shelf::Kept<Asked, Arc<Kept>>,
    refusals: [AtomicU64; SHARDS],
    /// Of this process alone: no two nodes cast the same dice.
    dice: RandomState,
    sweeping: Sweeping,
    pub(super) counters: CacheCounters,
}

/// One answer.
#[derive(Debug)]
pub(super) struct Kept {
    asked: Asked,
    pub(super) answer: Arc<Secret>,
    pub(super) by: BackendName,
    /// When the store was asked: the answer is no newer than that.
    pub(super) since: Instant,
    until: Instant,
}

// === impl Table ===

impl Table {
    pub(super) fn new(fresh: Duration, bytes: usize, counters: CacheCounters) -> Self {
        Self {
            fresh,
            answers: shelf::Kept::of_bytes(bytes),
            refusals: [const { AtomicU64::new(0) }; SHARDS],
            dice: RandomState::new(),
            sweeping: Sweeping::default(),
            counters,
        }
    }

    /// An answer whose time is not over and that is younger than the `bound`; it counts as a hit.
    pub(super) fn find(&self, asked: &Asked, bound: Option<Duration>) -> Option<Arc<Kept>> {
        let kept = self.answers.find(asked)?;
        let now = Instant::now();
        if kept.until <= now || bound.is_some_and(|bound| now.duration_since(kept.since) >= bound) {
            return None;
        }
        self.counters.hits.inc();
        Some(kept)
    }

    /// How often the store has said no to a request, or to one of those that are counted with it. An answer that was asked for before such
    /// a word and comes after it is not kept: it would bring back what was withdrawn.
    pub(super) fn refusals(&self, asked: &Asked) -> u64 {
        self.shard(asked).load(Ordering::SeqCst)
    }

    /// Keeps an answer that the store was asked for `since`, when there had been so many `refusals`.
    pub(super) fn keep(self: &Arc<Self>, asked: &Asked, fetched: &Fetched, since: Instant, refusals: u64, tenant: &str) {
        let until = since + self.lifetime(since);
        // Two may be under way at once, where one waited for longer than another could: the younger word counts.
        let newer = self.answers.find(asked).is_some_and(|known| known.since > since);
        if newer || until <= Instant::now() {
            return;
        }
        let (answer, by) = (Arc::clone(&fetched.secret), fetched.by.clone());
        let kept = Kept { asked: asked.clone(), answer, by, since, until };
        let weight = kept.weight();
        self.counters.evicted("full", self.answers.keep(tenant, asked.clone(), Arc::new(kept), weight));
        // After it is in: either this sees the refusal, or the refusal sees the answer.
        if self.refusals(asked) != refusals {
            self.answers.remove(asked);
        }
        self.sweeping.watch(self, until);
    }

    /// The store has said no: nobody gets the answer any more.
    pub(super) fn refuse(&self, asked: &Asked, fault: Fault) {
        self.shard(asked).fetch_add(1, Ordering::SeqCst);
        let removed = self.answers.remove(asked);
        self.counters.evicted(fault.as_str(), removed.into());
    }

    /// The Pod is gone: so are the answers for it alone.
    pub(super) fn forget(&self, pod: &str) {
        let mut gone = 0;
        self.answers.retain(|kept| {
            let stays = !matches!(&kept.asked.scope, Scope::Pod(uid) if **uid == *pod);
            gone += usize::from(!stays);
            stays
        });
        self.counters.evicted("pod_gone", gone);
    }

    /// Between three quarters of `fresh` and the whole of it.
    fn lifetime(&self, since: Instant) -> Duration {
        let dice = u32::try_from(self.dice.hash_one(since) % 1_000).unwrap_or(0);
        self.fresh.saturating_sub(self.fresh / 4_000 * dice)
    }

    fn shard(&self, asked: &Asked) -> &AtomicU64 {
        let shard = usize::try_from(self.dice.hash_one(asked) % SHARDS as u64).unwrap_or(0);
        &self.refusals[shard]
    }
}

impl Swept for Table {
    const SPACING: Duration = Duration::from_secs(5);

    fn sweep(&self) -> Option<Instant> {
        let now = Instant::now();
        let (mut next, mut gone) = (None, 0);
        self.answers.retain(|kept| {
            let stays = kept.until > now;
            if stays {
                next = Some(next.map_or(kept.until, |next: Instant| next.min(kept.until)));
            }
            gone += usize::from(!stays);
            stays
        });
        self.counters.evicted("expired", gone);
        next
    }

    fn sweeping(&self) -> &Sweeping {
        &self.sweeping
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("fresh", &self.fresh).finish_non_exhaustive()
    }
}

impl Kept {
    /// About what it costs to keep.
    fn weight(&self) -> usize {
        let args: usize = self.asked.secret.args.to_pairs().iter().map(|(name, value)| name.len() + value.len() + 80).sum();
        self.answer.weight() + args + 1024
    }
}
