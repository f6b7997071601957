//! Threads for work that would block one of the runtime's threads for long; each tenant has its share of them.

use std::fmt;

use thiserror::Error;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout_at};

use crate::model::Tenant;
use crate::turns::Turns;

/// Turns at the threads. Clones share them.
#[derive(Clone)]
pub struct Workroom(Turns);

/// Why there is no result.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Unfinished {
    /// The work had not begun by then, or has not ended.
    #[error("there was no time left to work it out")]
    Late,
    /// A bug. The panic's own message is on stderr.
    #[error("the work panicked")]
    Panicked,
}

// === impl Workroom ===

impl Workroom {
    /// Half of the cores, at least 1: the other half stays for the runtime, for short work.
    pub fn new() -> Self {
        Self::with_threads(std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2))
    }

    /// This many threads at once, at least 1.
    pub fn with_threads(threads: usize) -> Self {
        Self(Turns::new(threads))
    }

    /// Does the work on one of the threads, and waits for its end until then. Its thread counts until the work has really ended, even if
    /// nobody waits for it any more. Work that has not begun when the future is dropped, or in time, never begins.
    ///
    /// # Errors
    /// No thread was free in time, the work was not done in time, or it panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        tenant: &Tenant,
        until: Instant,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unfinished> {
        let turn = self.0.take(tenant, until).await.ok_or(Unfinished::Late)?;
        let mut working = Withdrawn(spawn_blocking(move || {
            let _turn = turn;
            work()
        }));
        match timeout_at(until, &mut working.0).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) if error.is_panic() => Err(Unfinished::Panicked),
            // The runtime ends.
            Ok(Err(_)) | Err(_) => Err(Unfinished::Late),
        }
    }

    pub fn turns(&self) -> &Turns {
        &self.0
    }
}

impl Default for Workroom {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Workroom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Workroom").field(&self.0).finish()
    }
}

/// Work that is withdrawn when this is dropped, unless it has begun.
struct Withdrawn<T>(JoinHandle<T>);

impl<T> Drop for Withdrawn<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex, mpsc};

    use tokio::time::{Duration, sleep};

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(100)
    }

    fn late() -> Instant {
        Instant::now() + Duration::from_mins(1)
    }

    /// Work that does not end before the sender says so, or is dropped.
    fn hangs() -> (mpsc::Sender<()>, impl Fn() -> Box<dyn FnOnce() + Send>) {
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        (release, move || {
            let held = Arc::clone(&held);
            Box::new(move || held.lock().unwrap().recv().unwrap_or_default())
        })
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_thread_is_counted_until_its_work_has_ended() {
        let room = Workroom::with_threads(4);
        let (release, work) = hangs();
        let (evil, shop) = (Tenant::from("evil"), Tenant::from("shop"));
        // One is late, one caller leaves; both hold their threads, which are the share of their tenant.
        assert_eq!(room.run(&evil, soon(), work()).await, Err(Unfinished::Late));
        let gone = tokio::spawn({
            let (room, evil, work) = (room.clone(), evil.clone(), work());
            async move { room.run(&evil, late(), work).await }
        });
        // It must have begun.
        sleep(Duration::from_millis(100)).await;
        assert_eq!(room.turns().slots().of("evil"), 2);
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        assert_eq!(room.run(&evil, soon(), || 7).await, Err(Unfinished::Late));
        assert_eq!((room.run(&shop, late(), || 7).await, room.turns().slots().of("evil")), (Ok(7), 2));
        drop(release);
        assert_eq!(room.run(&evil, late(), || 7).await, Ok(7));
        while room.turns().slots().used() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_gives_the_thread_back() {
        let room = Workroom::with_threads(1);
        for _ in 0..3 {
            assert_eq!(room.run(&"shop".into(), late(), || panic!("a bug")).await, Err::<(), _>(Unfinished::Panicked));
        }
        assert_eq!(room.run(&"shop".into(), late(), || 7).await, Ok(7));
    }

    #[test]
    fn there_are_never_more_at_work_than_threads() {
        // More turns than the runtime's own threads: work that has not begun is withdrawn too.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).max_blocking_threads(2).enable_time().build().unwrap();
        runtime.block_on(async {
            let room = Workroom::with_threads(8);
            let (at_work, most, begun) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let (release, work) = hangs();
            for _ in 0..2 {
                assert_eq!(room.run(&"a".into(), soon(), work()).await, Err(Unfinished::Late));
            }
            let count = Arc::clone(&begun);
            assert_eq!(room.run(&"b".into(), soon(), move || count.fetch_add(1, Ordering::Relaxed)).await, Err(Unfinished::Late));
            drop(release);
            while room.turns().slots().used() > 0 {
                sleep(Duration::from_millis(1)).await;
            }
            let all = (0..200).map(|n| {
                let (room, at_work, most) = (room.clone(), Arc::clone(&at_work), Arc::clone(&most));
                tokio::spawn(async move {
                    let work = move || {
                        most.fetch_max(at_work.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        at_work.fetch_sub(1, Ordering::SeqCst);
                    };
                    room.run(&Tenant::from(["a", "b", "c"][n % 3]), late(), work).await
                })
            });
            for done in all.collect::<Vec<_>>() {
                done.await.unwrap().unwrap();
            }
            assert_eq!(begun.load(Ordering::Relaxed), 0, "what was withdrawn is not done");
            assert!(most.load(Ordering::Relaxed) <= 8);
        });
    }
}
