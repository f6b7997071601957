//! A task that wipes what has had its time. It sleeps while something is kept and is gone when nothing is: an idle daemon has no timer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;
use tokio::time::{Duration, Instant, sleep_until, timeout_at};

/// What keeps things for a time.
pub(in crate::backend) trait Swept: Send + Sync + 'static {
    /// The least time between two sweeps: what is kept goes at most this much after its time.
    const SPACING: Duration;

    /// Wipes what has had its time, and tells when the next will have; `None`: nothing is kept.
    fn sweep(&self) -> Option<Instant>;

    fn sweeping(&self) -> &Sweeping;
}

#[derive(Debug, Default)]
pub(in crate::backend) struct Sweeping {
    /// Whether the task is there: at most one for each that is swept.
    is_there: AtomicBool,
    sooner: Arc<Notify>,
}

impl Sweeping {
    /// Has what is kept wiped in time. Called inside a runtime, after something is kept until `first`.
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
                // Whatever it kept may be gone with its backend by now.
                let Some(swept) = swept.upgrade() else { return };
                let Some(then) = swept.sweeping().sweep(&*swept) else { return };
                next = then;
            }
        });
    }

    /// What is kept may have its time before the task expects it.
    pub(in crate::backend) fn sooner(&self) {
        if self.is_there.load(Ordering::Acquire) {
            self.sooner.notify_one();
        }
    }

    /// When to sweep again; `None`: nothing is kept, and whoever keeps the next thing sees to it.
    fn sweep(&self, swept: &impl Swept) -> Option<Instant> {
        if let Some(next) = swept.sweep() {
            return Some(next);
        }
        self.is_there.store(false, Ordering::Release);
        // Something may have been kept since, by somebody who still saw us at work.
        let next = swept.sweep()?;
        (!self.is_there.swap(true, Ordering::AcqRel)).then_some(next)
    }
}
