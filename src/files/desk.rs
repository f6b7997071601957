//! The threads that read files: a file system may block them for hours, and there are only as many as the desk has.

use std::fmt;

use tokio::task::spawn_blocking;
use tokio::time::{Duration, Instant, timeout_at};

use crate::turns::Turns;

/// How long a file may take. A file system that takes longer is taken as hanging, and the caller goes on without the file.
const PATIENCE: Duration = Duration::from_secs(5);

/// Each job takes one thread. One tenant gets at most half of the threads: if a file system hangs that only one tenant's classes use, the
/// other tenants still have threads.
#[derive(Clone)]
pub struct Desk(Turns);

/// The work was not done in time. It may still run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Late {
    /// The caller has no more time.
    Deadline,
    /// The file system does not answer, or all threads wait for one that does not.
    Hangs,
}

impl Desk {
    /// For at most this many threads; at least 2.
    pub fn new(threads: usize) -> Self {
        Self(Turns::new(threads.max(2)))
    }

    /// Does work that blocks, until the deadline and within 5 s.
    ///
    /// # Errors
    /// No thread was free in time, or the file system did not answer. A thread that waits for it counts until it comes back.
    ///
    /// # Panics
    /// As the work does.
    pub async fn run<T: Send + 'static>(
        &self,
        tenant: &str,
        deadline: Instant,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Late> {
        let patience = Instant::now() + PATIENCE;
        let (until, late) = if deadline < patience { (deadline, Late::Deadline) } else { (patience, Late::Hangs) };
        let Some(turn) = self.0.take(&tenant.into(), until).await else { return Err(late) };
        let working = spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        match timeout_at(until, working).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime ends.
            Ok(Err(_)) | Err(_) => Err(late),
        }
    }
}

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deadline => f.write_str("there was no time left to read it"),
            Self::Hangs => write!(f, "its file system did not answer within {} s (is a network volume down?)", PATIENCE.as_secs()),
        }
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Desk")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A desk with a tenant whose file system hangs: it takes half of the threads, and the others go on.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_system_that_hangs_takes_no_thread_of_others() {
        let desk = Desk::new(4);
        let (release, held) = mpsc::channel::<()>();
        let held = std::sync::Arc::new(std::sync::Mutex::new(held));
        let soon = || Instant::now() + Duration::from_millis(200);
        for _ in 0..6 {
            let held = std::sync::Arc::clone(&held);
            let work = move || held.lock().unwrap().recv().unwrap_or_default();
            assert_eq!(desk.run("evil", soon(), work).await, Err(Late::Deadline));
        }
        for tenant in ["shop", "bank"] {
            assert_eq!(desk.run(tenant, Instant::now() + PATIENCE, || 7).await, Ok(7), "{tenant}");
        }
        assert_eq!(desk.run("evil", soon(), || 7).await, Err(Late::Deadline), "it holds two threads, and gets no third");
        drop(release);
        while desk.run("evil", soon(), || 7).await != Ok(7) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    #[should_panic(expected = "a bug")]
    async fn a_panic_is_its_callers() {
        let _ = Desk::new(2).run("", Instant::now() + PATIENCE, || panic!("a bug")).await;
    }
}
