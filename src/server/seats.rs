//! Seats for connections: a limit for all, and for each peer a part that always leaves some for others. If a peer has used its share, its
//! connection that has been idle longest is asked to leave, by GOAWAY: calls that have begun still get their answers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore};
use tokio::time::{Duration, Instant, sleep, sleep_until, timeout};

/// Connections that are served at once, over all sockets. The driver keeps one.
pub(super) const SEATS: usize = 512;

/// Seats for all users together that can connect but may not ask: each of their calls is refused at once.
const STRANGERS: usize = 32;

/// Seats of one peer for connections that were asked to leave: they do not count for its share unless a call is under way on them.
const LEAVING: usize = 128;

/// Connections of one peer that wait for a seat.
const WAITING: usize = 1024;

/// A connection without a call for this time may be asked to leave, to make room for another.
const IDLE: Duration = Duration::from_secs(2);

/// The same, if it never had a call: a client that connects has a call to make.
const UNUSED: Duration = Duration::from_millis(500);

/// If none may be asked to leave, Keyferry looks at them again after this time.
const AGAIN: Duration = Duration::from_millis(50);

/// How long a connection that was asked to leave may stay without a call.
const FAREWELL: Duration = Duration::from_secs(5);

/// The same while the daemon ends: it does not wait for a client that does not listen.
const LAST_FAREWELL: Duration = Duration::from_secs(1);

/// How often the log reports that connections make room for others.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// The most calls at once on the first connections of a peer, and on each further one. A client with more must wait.
const STREAMS: u32 = 2048;
const FURTHER_STREAMS: u32 = 128;
const FIRST: usize = 4;

/// The other end, as far as the kernel shows it: processes of one user are not distinguished.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Peer {
    /// A user of `allowedPeers`.
    Allowed(u32),
    Stranger,
}

/// All seats.
#[derive(Debug, Default)]
pub(super) struct Seats {
    taken: Mutex<BTreeMap<u64, Arc<Seat>>>,
    next: AtomicU64,
    lines: Mutex<BTreeMap<Peer, Arc<Line>>>,
    freed: Notify,
    said: Mutex<Option<Instant>>,
}

/// Where one peer's connections wait: the first of them searches for a seat.
#[derive(Debug)]
struct Line {
    places: Semaphore,
    turn: tokio::sync::Mutex<()>,
}

/// One connection's.
#[derive(Debug)]
pub(super) struct Seat {
    peer: Peer,
    calls: AtomicUsize,
    came: Instant,
    /// When its last call ended, in milliseconds since it came; 0: never.
    heard: AtomicU64,
    /// When the last of its calls has no time left, in milliseconds since it came.
    until: AtomicU64,
    begun: Notify,
    leaves: AtomicBool,
    leave: Notify,
    is_cut: AtomicBool,
    cut: Notify,
}

/// Holds a seat until it is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) seat: Arc<Seat>,
    /// The most calls that it may have at once.
    pub(super) streams: u32,
    seats: Arc<Seats>,
    id: u64,
}

/// Marks that a call is under way, until it is dropped.
#[derive(Debug)]
pub(super) struct Busy(Arc<Seat>);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed(uid) => write!(f, "user {uid}"),
            Self::Stranger => f.write_str("users that allowedPeers does not name"),
        }
    }
}

// === impl Seats ===

impl Seats {
    /// A seat within `patience`; after that one of the seats for connections that leave, which is asked to leave at once. `None`: the peer
    /// has so many that Keyferry can only refuse it.
    pub(super) async fn take(self: &Arc<Self>, peer: Peer, patience: Duration) -> Option<Taken> {
        let line = self.line(peer);
        let Ok(_place) = line.places.try_acquire() else { return self.take_to_leave(peer) };
        let seated = async {
            let _turn = line.turn.lock().await;
            loop {
                let freed = self.freed.notified();
                if let Some(taken) = self.try_take(peer) {
                    return taken;
                }
                let _ = timeout(AGAIN, freed).await;
            }
        };
        match timeout(patience, seated).await {
            Ok(taken) => Some(taken),
            Err(_) => self.take_to_leave(peer),
        }
    }

    fn line(&self, peer: Peer) -> Arc<Line> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let line =
            lines.entry(peer).or_insert_with(|| Arc::new(Line { places: Semaphore::new(WAITING), turn: tokio::sync::Mutex::new(()) }));
        Arc::clone(line)
    }

    /// If the peer has used its share, its connection that is idle longest makes room.
    fn try_take(self: &Arc<Self>, peer: Peer) -> Option<Taken> {
        let mut taken = self.taken();
        let counted = |of: Option<Peer>| taken.values().filter(|seat| seat.counts() && of.is_none_or(|of| seat.peer == of)).count();
        let (all, own) = (counted(None), counted(Some(peer)));
        // As much as stays free: alone one half, two one third each, and a newcomer always finds something.
        let has_share = own < SEATS.saturating_sub(all + 1) && (peer != Peer::Stranger || own < STRANGERS);
        if !has_share {
            let idle = taken.values().filter(|seat| seat.peer == peer && !seat.leaves() && seat.may_leave());
            idle.max_by_key(|seat| seat.idle_for())?.ask_to_leave();
            make_room_to_leave(&taken, peer);
            self.say_that_it_is_crowded(peer);
        }
        let streams = if own < FIRST { STREAMS } else { FURTHER_STREAMS };
        Some(self.seat(&mut taken, peer, streams))
    }

    fn take_to_leave(self: &Arc<Self>, peer: Peer) -> Option<Taken> {
        let mut taken = self.taken();
        if !make_room_to_leave(&taken, peer) {
            return None;
        }
        self.say_that_it_is_crowded(peer);
        let leaving = self.seat(&mut taken, peer, FURTHER_STREAMS);
        leaving.seat.ask_to_leave();
        Some(leaving)
    }

    fn seat(self: &Arc<Self>, taken: &mut BTreeMap<u64, Arc<Seat>>, peer: Peer, streams: u32) -> Taken {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let seat = Arc::new(Seat::new(peer));
        taken.insert(id, Arc::clone(&seat));
        Taken { seat, streams, seats: Arc::clone(self), id }
    }

    fn say_that_it_is_crowded(&self, peer: Peer) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            *said = Some(Instant::now());
            tracing::warn!(%peer, "one user has too many connections: Keyferry asks idle ones to leave for new ones (what connects there?)");
        }
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Seat>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// If too many of a peer's connections are leaving, the oldest without a call is cut. Returns whether there is room for one more.
fn make_room_to_leave(taken: &BTreeMap<u64, Arc<Seat>>, peer: Peer) -> bool {
    let leaving: Vec<_> = taken.values().filter(|seat| seat.peer == peer && seat.leaves() && !seat.is_cut()).collect();
    if leaving.len() < LEAVING {
        return true;
    }
    let idle = leaving.into_iter().find(|seat| !seat.is_busy());
    if let Some(oldest) = idle {
        oldest.is_cut.store(true, Ordering::Relaxed);
        oldest.cut.notify_one();
    }
    idle.is_some()
}

// === impl Seat ===

impl Seat {
    fn new(peer: Peer) -> Self {
        Self {
            peer,
            calls: AtomicUsize::new(0),
            came: Instant::now(),
            heard: AtomicU64::new(0),
            until: AtomicU64::new(0),
            begun: Notify::new(),
            leaves: AtomicBool::new(false),
            leave: Notify::new(),
            is_cut: AtomicBool::new(false),
            cut: Notify::new(),
        }
    }

    /// Resolves when the connection must be asked to leave.
    pub(super) async fn asked_to_leave(&self) {
        self.leave.notified().await;
    }

    fn ask_to_leave(&self) {
        self.leaves.store(true, Ordering::Relaxed);
        self.leave.notify_one();
    }

    /// Resolves when a cut loses nothing: the connection was asked to leave and has had no call for long enough; or all its calls have no
    /// time left, and the client still does not read the answers.
    pub(super) async fn outstays(&self, farewell: Option<Farewell>) {
        match farewell {
            Some(farewell) => tokio::select! {
                () = self.cut.notified() => {}
                () = self.idles(farewell) => {}
            },
            None => self.is_deaf().await,
        }
    }

    async fn idles(&self, farewell: Farewell) {
        loop {
            let now = Instant::now();
            let end = if self.is_busy() { self.out_of_time() } else { farewell.since.max(self.heard()) + farewell.time };
            if end <= now {
                return;
            }
            sleep(AGAIN).await;
        }
    }

    async fn is_deaf(&self) {
        loop {
            if !self.is_busy() {
                self.begun.notified().await;
            } else if self.out_of_time() <= Instant::now() {
                return;
            } else {
                sleep_until(self.out_of_time()).await;
            }
        }
    }

    fn out_of_time(&self) -> Instant {
        self.came + Duration::from_millis(self.until.load(Ordering::Relaxed))
    }

    /// When its last call ended, or when it came.
    fn heard(&self) -> Instant {
        self.came + Duration::from_millis(self.heard.load(Ordering::Relaxed))
    }

    fn may_leave(&self) -> bool {
        let enough = match (self.peer, self.heard.load(Ordering::Relaxed)) {
            (Peer::Stranger, _) => Duration::ZERO,
            (Peer::Allowed(_), 0) => UNUSED,
            (Peer::Allowed(_), _) => IDLE,
        };
        !self.is_busy() && self.idle_for() >= enough
    }

    /// Whether it counts for its peer's share. A connection that leaves does not, until it begins another call.
    fn counts(&self) -> bool {
        !self.leaves() || self.is_busy()
    }

    fn idle_for(&self) -> Duration {
        self.heard().elapsed()
    }

    fn leaves(&self) -> bool {
        self.leaves.load(Ordering::Relaxed)
    }

    fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Relaxed)
    }

    fn is_busy(&self) -> bool {
        self.calls.load(Ordering::Relaxed) > 0
    }
}

/// When a connection was asked to leave, and how long it may stay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Farewell {
    since: Instant,
    time: Duration,
}

impl Farewell {
    /// To make room for another.
    pub(super) fn for_another() -> Self {
        Self { since: Instant::now(), time: FAREWELL }
    }

    /// The daemon ends.
    pub(super) fn last() -> Self {
        Self { since: Instant::now(), time: LAST_FAREWELL }
    }
}

// === impl Busy ===

impl Busy {
    /// A call that has no time left at `until`: its caller has given up by then.
    pub(super) fn new(seat: &Arc<Seat>, until: Instant) -> Self {
        seat.until.fetch_max(millis(until.saturating_duration_since(seat.came)), Ordering::Relaxed);
        seat.calls.fetch_add(1, Ordering::Relaxed);
        seat.begun.notify_one();
        Self(Arc::clone(seat))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.heard.store(millis(self.0.came.elapsed()).max(1), Ordering::Relaxed);
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.seats.taken().remove(&self.id);
        self.seats.freed.notify_waiters();
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const DRIVER: Peer = Peer::Allowed(0);
    const NONE: Duration = Duration::ZERO;

    async fn fill(seats: &Arc<Seats>, peer: Peer, count: usize) -> Vec<Taken> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(seats.take(peer, Duration::from_secs(1)).await.unwrap());
        }
        all
    }

    fn busy(taken: &[Taken]) -> Vec<Busy> {
        taken.iter().map(|taken| Busy::new(&taken.seat, Instant::now() + Duration::from_secs(90))).collect()
    }

    fn leaving(taken: &[Taken]) -> usize {
        taken.iter().filter(|taken| taken.seat.leaves()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn one_peer_leaves_seats_for_others() {
        let seats = Arc::new(Seats::default());
        let first = fill(&seats, Peer::Allowed(1000), SEATS / 2).await;
        let _busy = busy(&first);
        // It has its share, and all of its connections are busy.
        let began = Instant::now();
        let one_more = seats.take(Peer::Allowed(1000), Duration::from_secs(1)).await.unwrap();
        assert!(one_more.seat.leaves() && began.elapsed() == Duration::from_secs(1));
        assert_eq!(leaving(&first), 0, "none that is busy");
        let began = Instant::now();
        let others = fill(&seats, DRIVER, SEATS / 4).await;
        let strangers = fill(&seats, Peer::Stranger, STRANGERS).await;
        assert_eq!((began.elapsed(), leaving(&others), leaving(&strangers)), (NONE, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_idlest_of_the_same_peer_makes_room_at_once_and_a_busy_one_never() {
        let seats = Arc::new(Seats::default());
        let all = fill(&seats, DRIVER, SEATS / 2).await;
        let other = fill(&seats, Peer::Allowed(1), 1).await;
        let _call = Busy::new(&all[0].seat, Instant::now() + Duration::from_secs(90));
        tokio::time::advance(UNUSED).await;
        // It had a call later than the others.
        drop(Busy::new(&all[1].seat, Instant::now()));
        for expected in 1..=3 {
            let taken = seats.take(DRIVER, NONE).now_or_never().unwrap().unwrap();
            assert!(!taken.seat.leaves());
            std::mem::forget(taken);
            assert_eq!(leaving(&all), expected);
        }
        assert!(!all[0].seat.leaves() && !all[1].seat.leaves() && !other[0].seat.leaves());
        let told = all.iter().filter(|taken| taken.seat.asked_to_leave().now_or_never().is_some()).count();
        assert_eq!(told, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_make_room_for_each_other_alone() {
        let seats = Arc::new(Seats::default());
        let driver = fill(&seats, DRIVER, 1).await;
        let mut strangers = fill(&seats, Peer::Stranger, 1000).await;
        assert_eq!(leaving(&driver), 0);
        assert_eq!(strangers.iter().filter(|taken| taken.seat.counts()).count(), STRANGERS);
        // Connections that are cut end.
        let cut = |taken: &Taken| taken.seat.leaves() && taken.seat.cut.notified().now_or_never().is_some();
        strangers.retain(|taken| !cut(taken));
        assert!(strangers.len() <= STRANGERS + LEAVING + 1, "{}", strangers.len());
    }

    #[tokio::test(start_paused = true)]
    async fn further_connections_of_a_peer_may_begin_fewer_calls() {
        let seats = Arc::new(Seats::default());
        let all = fill(&seats, DRIVER, FIRST + 2).await;
        let streams: Vec<u32> = all.iter().map(|taken| taken.streams).collect();
        assert_eq!(streams, [STREAMS, STREAMS, STREAMS, STREAMS, FURTHER_STREAMS, FURTHER_STREAMS]);
        drop(all);
        assert_eq!(seats.take(DRIVER, NONE).await.unwrap().streams, STREAMS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_cut_without_a_call_or_when_all_its_calls_are_out_of_time() {
        let seats = Arc::new(Seats::default());
        let taken = seats.take(DRIVER, NONE).await.unwrap();
        let seat = &taken.seat;
        // Idle and not asked to leave: for ever.
        assert!(timeout(Duration::from_hours(1), seat.outstays(None)).await.is_err());
        let began = Instant::now();
        seat.outstays(Some(Farewell::for_another())).await;
        assert!(began.elapsed() >= FAREWELL && began.elapsed() < FAREWELL + Duration::from_secs(1));
        // A call under way holds it, until its time has ended.
        let call = Busy::new(seat, Instant::now() + Duration::from_secs(90));
        for farewell in [None, Some(Farewell::last())] {
            assert!(timeout(Duration::from_secs(30), seat.outstays(farewell)).await.is_err());
        }
        let later = Busy::new(seat, Instant::now() + Duration::from_secs(90));
        assert!(timeout(Duration::from_secs(80), seat.outstays(None)).await.is_err(), "one of them is still in time");
        drop(call);
        timeout(Duration::from_secs(11), seat.outstays(None)).await.unwrap();
        drop(later);
        assert!(timeout(Duration::from_hours(1), seat.outstays(None)).await.is_err());
    }
}
