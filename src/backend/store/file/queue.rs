//! Files to read and open. Many mounts ask for them at once, and few threads do the work: to wake a thread for each file would cost more
//! than to open a small file.
//!
//! Two threads are enough while they make progress. A thread may wait for a file system that does not answer. Then others do not wait long:
//! if files wait and no thread begins one, the queue takes another thread, up to [`AT_ONCE`].
//!
//! Each tenant has its own line of files, and the lines are served in turn: a tenant that asks for many files waits for many.
//!
//! Answers are handed out together: to wake a mount for each of its files would cost a change of threads each time.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::{spawn_blocking, yield_now};
use tokio::time::{Duration, Instant, sleep};

use crate::model::Tenant;

/// The most threads: a file system that hangs takes no more than these.
pub(super) const AT_ONCE: usize = 8;

/// The most threads while they make progress.
const USUAL: usize = 2;

/// If files wait this long and no thread begins one, a thread hangs.
const PATIENCE: Duration = Duration::from_millis(50);

/// How long an answer is held back so that others go out with it, and how many at most.
const TOGETHER: (Duration, usize) = (Duration::from_millis(1), 16);

/// Reads and opens a file, and gives the function that hands out the answer.
type Job = Box<dyn FnOnce() -> Answer + Send>;

type Answer = Box<dyn FnOnce() + Send>;

#[derive(Default)]
pub(super) struct Queue(Mutex<State>);

#[derive(Default)]
struct State {
    /// Without empty lines.
    lines: HashMap<Tenant, VecDeque<Job>>,
    /// The tenants of the lines, the next to be served first.
    round: VecDeque<Tenant>,
    threads: usize,
    /// Whether a task looks after the threads.
    is_watched: bool,
    /// How many jobs have begun so far.
    begun: u64,
    /// Answers that are not handed out yet.
    answers: Vec<Answer>,
    /// Since when they are held back.
    held: Option<Instant>,
}

impl Queue {
    /// Does the work on one of the threads. Dropping the future withdraws it, unless it has begun.
    ///
    /// # Errors
    /// The work panicked; or `None`, the runtime is ending.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        tenant: &Tenant,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Option<Box<dyn Any + Send>>> {
        let (answer, answered) = oneshot::channel();
        let pushed = self.push(
            tenant,
            Box::new(move || -> Answer {
                let outcome = (!answer.is_closed()).then(|| catch_unwind(AssertUnwindSafe(work)));
                // Perhaps nobody waits for it any more.
                Box::new(move || drop(outcome.map(|outcome| answer.send(outcome))))
            }),
        );
        // All files of a mount get in line first. A thread that wakes up takes this one's processor at once, and would wake up for each file.
        yield_now().await;
        drop(pushed);
        match answered.await {
            Ok(outcome) => outcome.map_err(Some),
            Err(_) => Err(None),
        }
    }

    fn push(self: &Arc<Self>, tenant: &Tenant, job: Job) -> Pushed {
        self.state().line_up(tenant, job);
        Pushed(Arc::clone(self))
    }

    /// Takes the usual threads, as far as there is work for them.
    fn attend(self: &Arc<Self>, runtime: &Handle) {
        let mut state = self.state();
        let more = USUAL.min(state.waiting()).saturating_sub(state.threads);
        state.threads += more;
        let begun = (more > 0 && !std::mem::replace(&mut state.is_watched, true)).then_some(state.begun);
        // A thread that begins needs this lock at once.
        drop(state);
        (0..more).for_each(|_| self.begin());
        if let Some(begun) = begun {
            runtime.spawn(Arc::clone(self).watch(begun));
        }
    }

    /// Looks after the threads until there are none. One timer for all jobs: a timer for each would cost more than to open a small file.
    async fn watch(self: Arc<Self>, mut begun: u64) {
        loop {
            sleep(PATIENCE).await;
            match self.look_after(begun) {
                Some(now) => begun = now,
                None => return,
            }
        }
    }

    /// Takes another thread if no job began since `before` and something waits. Answers that a hanging thread held back go out. `None`: no
    /// thread is left, so nobody watches from now on.
    fn look_after(self: &Arc<Self>, before: u64) -> Option<u64> {
        let mut state = self.state();
        let answers = state.answers();
        let is_stuck = state.begun == before && !state.round.is_empty() && state.threads < AT_ONCE;
        state.threads += usize::from(is_stuck);
        state.is_watched = state.threads > 0;
        let begun = state.is_watched.then_some(state.begun);
        drop(state);
        if is_stuck {
            self.begin();
        }
        hand_out(answers);
        begun
    }

    /// Takes a thread, which is counted already.
    fn begin(self: &Arc<Self>) {
        let queue = Arc::clone(self);
        spawn_blocking(move || while queue.work_one() {});
    }

    /// Whether there was something to do. If not, the thread is subtracted under the same lock, so that no new job is missed.
    fn work_one(&self) -> bool {
        let mut state = self.state();
        let Some(job) = state.next() else {
            state.threads -= 1;
            let answers = state.answers();
            drop(state);
            hand_out(answers);
            return false;
        };
        state.begun += 1;
        drop(state);
        let answer = job();
        let mut state = self.state();
        let due = state.hold(answer);
        drop(state);
        hand_out(due);
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hand_out(answers: Vec<Answer>) {
    for answer in answers {
        answer();
    }
}

/// Makes sure that a thread takes the pushed job, also where nobody waits for it any more.
struct Pushed(Arc<Queue>);

impl Drop for Pushed {
    fn drop(&mut self) {
        // A runtime that ends drops its tasks too.
        if let Ok(runtime) = Handle::try_current() {
            self.0.attend(&runtime);
        }
    }
}

impl State {
    fn line_up(&mut self, tenant: &Tenant, job: Job) {
        let line = self.lines.entry(tenant.clone()).or_default();
        if line.is_empty() {
            self.round.push_back(tenant.clone());
        }
        line.push_back(job);
    }

    fn next(&mut self) -> Option<Job> {
        let tenant = self.round.pop_front()?;
        let line = self.lines.get_mut(&tenant)?;
        let job = line.pop_front();
        if line.is_empty() {
            self.lines.remove(&tenant);
        } else {
            self.round.push_back(tenant);
        }
        job
    }

    /// Keeps an answer until the next ones come. Gives all of them, if they have waited long enough.
    fn hold(&mut self, answer: Answer) -> Vec<Answer> {
        let (long, many) = TOGETHER;
        self.answers.push(answer);
        let since = *self.held.get_or_insert_with(Instant::now);
        if self.answers.len() >= many || since.elapsed() >= long { self.answers() } else { Vec::new() }
    }

    /// The answers that are held back.
    fn answers(&mut self) -> Vec<Answer> {
        self.held = None;
        std::mem::take(&mut self.answers)
    }

    fn waiting(&self) -> usize {
        self.lines.values().map(VecDeque::len).sum()
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state();
        f.debug_struct("Queue").field("waiting", &state.waiting()).field("threads", &state.threads).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn many_are_worked_off_and_threads_are_given_back() {
        let queue = Arc::new(Queue::default());
        let shop = "shop".into();
        let all = (0..500).map(|n| queue.run(&shop, move || n));
        let answers: Vec<_> = futures_util::future::join_all(all).await.into_iter().map(|answer| answer.ok().unwrap()).collect();
        assert_eq!(answers, (0..500).collect::<Vec<_>>());
        while queue.state().threads > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Otherwise a daemon would wake up 20 times per second for ever after its first file.
    #[tokio::test(start_paused = true)]
    async fn nobody_watches_where_nothing_runs() {
        let queue = Arc::new(Queue::default());
        for _ in 0..3 {
            assert_eq!(queue.run(&"shop".into(), || 7).await.ok(), Some(7));
            assert!(queue.state().is_watched);
            while queue.state().is_watched {
                sleep(PATIENCE).await;
            }
            assert_eq!(queue.state().threads, 0);
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
            hanging.push(tokio::spawn(async move { queue.run(&"shop".into(), move || held.lock().unwrap().recv().is_ok()).await.is_ok() }));
        }
        let began = Instant::now();
        assert_eq!(queue.run(&"shop".into(), || 7).await.ok(), Some(7));
        assert!(began.elapsed() < Duration::from_secs(5));
        for _ in 0..4 {
            release.send(()).unwrap();
        }
        for call in hanging {
            assert!(call.await.unwrap());
        }
    }

    /// One of two threads reads a file at once, and holds its answer back for others. Then both threads hang at the next file.
    #[tokio::test]
    async fn a_thread_that_hangs_keeps_no_answer() {
        let queue = Arc::new(Queue::default());
        let shop = "shop".into();
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let hang = || {
            let held = Arc::clone(&held);
            queue.run(&shop, move || held.lock().unwrap().recv().is_ok())
        };
        let answered = async {
            let answer = timeout(Duration::from_secs(5), queue.run(&shop, || 7)).await;
            for _ in 0..2 {
                release.send(()).unwrap();
            }
            answer.expect("it is held back").ok()
        };
        let (answer, one, other) = tokio::join!(answered, hang(), hang());
        assert_eq!((answer, one.ok(), other.ok()), (Some(7), Some(true), Some(true)));
    }

    #[test]
    fn lines_are_served_round() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut state = State::default();
        for (tenant, n) in [("evil", 0), ("evil", 1), ("evil", 2), ("shop", 3), ("bank", 4), ("evil", 5), ("shop", 6)] {
            let order = Arc::clone(&order);
            state.line_up(&tenant.into(), Box::new(move || -> Answer { Box::new(move || order.lock().unwrap().push(n)) }));
        }
        assert_eq!(state.waiting(), 7);
        while let Some(job) = state.next() {
            job()();
        }
        assert_eq!((&*order.lock().unwrap(), state.lines.len(), state.round.len()), (&vec![0, 3, 4, 1, 6, 2, 5], 0, 0));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_is_its_callers_alone() {
        let queue = Arc::new(Queue::default());
        assert!(matches!(queue.run(&"shop".into(), || panic!("a bug")).await, Err::<(), _>(Some(_))));
        assert_eq!(queue.run(&"shop".into(), || 7).await.ok(), Some(7));
    }
}
