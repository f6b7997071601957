//! Files that have to be read and opened: asked for by many mounts at once, worked off by few threads. To wake a thread for each would
//! cost more than to open a small file.
//!
//! Two threads are enough while they get on. One that waits for a file system that does not answer holds nobody up for long: where
//! files wait and none is begun, another thread is taken, up to [`AT_ONCE`].

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::{Duration, timeout};

/// The most threads: a file system that hangs takes no more than these.
pub(super) const AT_ONCE: usize = 8;

/// The most threads while they get on.
const USUAL: usize = 2;

/// Files that wait this long without one being begun wait for a thread that hangs.
const PATIENCE: Duration = Duration::from_millis(50);

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
pub(super) struct Queue(Mutex<State>);

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    /// Jobs begun so far.
    begun: u64,
}

impl Queue {
    /// Does the work on one of the threads. Dropping the future withdraws it, unless it has begun.
    ///
    /// # Errors
    /// The work panicked; or `None`, the runtime is ending.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Option<Box<dyn Any + Send>>> {
        let (answer, mut answered) = oneshot::channel();
        let mut begun = self.push(Box::new(move || {
            if !answer.is_closed() {
                // Nobody may be left to hear it.
                let _ = answer.send(catch_unwind(AssertUnwindSafe(work)));
            }
        }));
        loop {
            match timeout(PATIENCE, &mut answered).await {
                Ok(Ok(outcome)) => return outcome.map_err(Some),
                Ok(Err(_)) => return Err(None),
                Err(_) => begun = self.look_after(begun),
            }
        }
    }

    fn push(self: &Arc<Self>, job: Job) -> u64 {
        let mut state = self.state();
        state.jobs.push_back(job);
        if state.threads < USUAL.min(state.jobs.len()) {
            self.take_thread(&mut state);
        }
        state.begun
    }

    /// Takes another thread if nothing was begun since `before` and something waits.
    fn look_after(self: &Arc<Self>, before: u64) -> u64 {
        let mut state = self.state();
        if state.begun == before && !state.jobs.is_empty() && state.threads < AT_ONCE {
            self.take_thread(&mut state);
        }
        state.begun
    }

    fn take_thread(self: &Arc<Self>, state: &mut State) {
        state.threads += 1;
        let queue = Arc::clone(self);
        tokio::task::spawn_blocking(move || while queue.work_one() {});
    }

    /// Whether there was something to do; if not, the thread is counted out in the same breath, so that nothing pushed is overlooked.
    fn work_one(&self) -> bool {
        let mut state = self.state();
        let Some(job) = state.jobs.pop_front() else {
            state.threads -= 1;
            return false;
        };
        state.begun += 1;
        drop(state);
        job();
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state();
        f.debug_struct("Queue").field("waiting", &state.jobs.len()).field("threads", &state.threads).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn many_are_worked_off_and_threads_are_given_back() {
        let queue = Arc::new(Queue::default());
        let all = (0..500).map(|n| queue.run(move || n));
        let answers: Vec<_> = futures_util::future::join_all(all).await.into_iter().map(|answer| answer.ok().unwrap()).collect();
        assert_eq!(answers, (0..500).collect::<Vec<_>>());
        while queue.state().threads > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn threads_that_hang_hold_nobody_up_for_long() {
        let queue = Arc::new(Queue::default());
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let mut hanging = Vec::new();
        for _ in 0..4 {
            let (queue, held) = (Arc::clone(&queue), Arc::clone(&held));
            hanging.push(tokio::spawn(async move { queue.run(move || held.lock().unwrap().recv().is_ok()).await.is_ok() }));
        }
        let began = Instant::now();
        assert_eq!(queue.run(|| 7).await.ok(), Some(7));
        assert!(began.elapsed() < Duration::from_secs(5));
        for _ in 0..4 {
            release.send(()).unwrap();
        }
        for call in hanging {
            assert!(call.await.unwrap());
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_is_its_callers_alone() {
        let queue = Arc::new(Queue::default());
        assert!(matches!(queue.run(|| panic!("a bug")).await, Err::<(), _>(Some(_))));
        assert_eq!(queue.run(|| 7).await.ok(), Some(7));
    }
}
