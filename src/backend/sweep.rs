//! A task that wipes what has reached its end. It exists only while something is kept, and sleeps in between. An idle daemon has no timer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;
use tokio::time::{Duration, Instant, sleep_until, timeout_at};

/// A keeper of things that end.
pub(in crate::backend) trait Swept: Send + Sync + 'static {
    /// The shortest time between two sweeps: things are wiped at most this long after their end.
    const SPACING: Duration;

    /// Wipes what has reached its end. Returns when the next thing ends; `None`: nothing is kept.
    fn sweep(&self) -> Option<Instant>;

    fn sweeping(&self) -> &Sweeping;
}

#[derive(Debug, Default)]
pub(in crate::backend) struct Sweeping {
    /// Whether the task exists: at most one for each keeper.
    is_there: AtomicBool,
    sooner: Arc<Notify>,
}

impl Sweeping {
    /// Makes sure that things are wiped in time. Called inside a runtime, after something is kept until `first`.
    pub(in crate::backend) fn watch<T: Swept>(&self, swept: &Arc<T>, first: Instant) {
        if self.is_there.swap(true, Ordering::AcqRel) {
            return;
        }
        let (swept, sooner) = (Arc::downgrade(swept), Arc::clone(&self.sooner));
        tokio::spawn(async move {
            let mut next = first;
            loop {
                let soonest = Instant::now() + T::SPACING;
                let _ = timeout_at(next.max(soonest), sooner.notified()).await;
                sleep_until(soonest).await;
                // By now, the keeper may be gone with its backend.
                let Some(swept) = swept.upgrade() else { return };
                let Some(then) = swept.sweeping().sweep(&*swept) else { return };
                next = then;
            }
        });
    }

    /// Something may end before the task expects it.
    pub(in crate::backend) fn sooner(&self) {
        if self.is_there.load(Ordering::Acquire) {
            self.sooner.notify_one();
        }
    }

    /// When to sweep again; `None`: nothing is kept, and whichever caller keeps the next thing starts a new task.
    fn sweep(&self, swept: &impl Swept) -> Option<Instant> {
        if let Some(next) = swept.sweep() {
            return Some(next);
        }
        self.is_there.store(false, Ordering::Release);
        // Since then another caller may have kept something, because it still saw the task at work.
        let next = swept.sweep()?;
        (!self.is_there.swap(true, Ordering::AcqRel)).then_some(next)
    }
}
