//! Places for connections: so many, and where all are taken, the connection that has been idle longest makes room. A client that
//! connects and says nothing, or hundreds of them, keep nobody out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, Instant, timeout};

/// A connection that has had no call for this long may be closed for another's sake. One that is new has to have its time to ask.
const IDLE: Duration = Duration::from_secs(2);

/// Where none may be closed, how long until they are looked at again.
const AGAIN: Duration = Duration::from_millis(100);

/// All places.
#[derive(Debug)]
pub(super) struct Seats {
    free: Arc<Semaphore>,
    taken: Mutex<BTreeMap<u64, Arc<Seat>>>,
    next: AtomicU64,
}

/// One connection's place.
#[derive(Debug)]
pub(super) struct Seat {
    calls: AtomicUsize,
    came: Instant,
    /// When it ended its last call, in milliseconds since it came.
    heard: AtomicU64,
    leave: Notify,
}

/// Holds a place for as long as it lives.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) seat: Arc<Seat>,
    seats: Arc<Seats>,
    id: u64,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Says that a call is under way for as long as it lives.
#[derive(Debug)]
pub(super) struct Busy(Arc<Seat>);

impl Seats {
    pub(super) fn new(places: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(places)), taken: Mutex::default(), next: AtomicU64::new(0) }
    }

    /// A place; where all are taken by connections that may not be closed, once one of them may.
    pub(super) async fn take(self: &Arc<Self>) -> Taken {
        let permit = loop {
            if self.free.available_permits() == 0 {
                self.make_room();
            }
            // The semaphore is never closed.
            if let Ok(permit) = timeout(AGAIN, Arc::clone(&self.free).acquire_owned()).await {
                break permit.ok();
            }
        };
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let seat = Arc::new(Seat { calls: AtomicUsize::new(0), came: Instant::now(), heard: AtomicU64::new(0), leave: Notify::new() });
        self.taken().insert(id, Arc::clone(&seat));
        Taken { seat, seats: Arc::clone(self), id, _permit: permit }
    }

    fn make_room(&self) {
        let taken = self.taken();
        let idle = taken.values().filter(|seat| !seat.is_busy()).map(|seat| (seat.idle_for(), seat));
        if let Some((_, idlest)) = idle.filter(|(time, _)| *time >= IDLE).max_by_key(|(time, _)| *time) {
            idlest.leave.notify_one();
        }
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Seat>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Resolves when the connection has to go. It may have begun a call since: then it stays.
    pub(super) async fn asked_to_leave(&self) {
        loop {
            self.leave.notified().await;
            if !self.is_busy() {
                return;
            }
        }
    }

    fn idle_for(&self) -> Duration {
        self.came.elapsed().saturating_sub(Duration::from_millis(self.heard.load(Ordering::Relaxed)))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.came.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn is_busy(&self) -> bool {
        self.calls.load(Ordering::Relaxed) > 0
    }
}

impl Busy {
    pub(super) fn new(seat: &Arc<Seat>) -> Self {
        seat.calls.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(seat))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.heard.store(self.0.now(), Ordering::Relaxed);
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.seats.taken().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_idlest_connection_makes_room_and_a_busy_one_never() {
        let seats = Arc::new(Seats::new(3));
        let (first, second, third) = (seats.take().await, seats.take().await, seats.take().await);
        // The first is busy, the third was heard of before the second.
        let call = Busy::new(&first.seat);
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(Busy::new(&second.seat));
        let left = async {
            tokio::select! {
                () = first.seat.asked_to_leave() => 1,
                () = second.seat.asked_to_leave() => 2,
                () = third.seat.asked_to_leave() => 3,
            }
        };
        let waiting = tokio::spawn({
            let seats = Arc::clone(&seats);
            async move { seats.take().await }
        });
        assert_eq!(left.await, 3);
        drop(third);
        let fourth = waiting.await.unwrap();
        drop((call, first, second, fourth));
        assert_eq!(seats.free.available_permits(), 3);
    }
}
