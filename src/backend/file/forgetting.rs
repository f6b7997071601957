//! Opened secrets that no mount asks for any more are wiped. Apart from the reader, which knows no runtime: a task does it, that sleeps
//! while something is kept and is gone when nothing is, so that an idle daemon has no timer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::{Duration, Instant, sleep_until};

use super::reader::{Reader, UNUSED};

/// The least time between two sweeps: a secret goes at most this much after its time.
const SPACING: Duration = Duration::from_mins(1);

/// The task that forgets: at most one a reader.
#[derive(Debug, Default)]
pub(super) struct Forgetting {
    at_work: AtomicBool,
}

impl Forgetting {
    /// Has what the reader keeps forgotten in time. Called inside a runtime, after each opening.
    pub(super) fn watch(self: &Arc<Self>, reader: &Arc<Reader>) {
        if self.at_work.swap(true, Ordering::AcqRel) {
            return;
        }
        let (forgetting, reader) = (Arc::clone(self), Arc::downgrade(reader));
        tokio::spawn(async move {
            let mut next = Instant::now() + UNUSED;
            loop {
                sleep_until(next).await;
                // A reload has made another reader: what this one kept went with it.
                let Some(reader) = reader.upgrade() else { return };
                let Some(unused) = forgetting.sweep(&reader) else { return };
                next = unused.max(Instant::now() + SPACING);
            }
        });
    }

    /// When to sweep again; `None`: nothing is kept, and whoever opens the next secret sees to it.
    fn sweep(&self, reader: &Reader) -> Option<Instant> {
        if let Some(next) = reader.forget_unused() {
            return Some(next);
        }
        self.at_work.store(false, Ordering::Release);
        // A secret may have been opened since, by somebody who still saw us at work.
        let next = reader.forget_unused()?;
        (!self.at_work.swap(true, Ordering::AcqRel)).then_some(next)
    }
}
