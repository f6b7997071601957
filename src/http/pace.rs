//! How fast Keyferry asks a store: as fast as its callers like, until the store says 429 (Too Many Requests). From then on its requests
//! leave one by one, with a pause between them, and the tenants take turns: a store counts all requests of a node together, so one tenant
//! could use everything that the store allows.
//!
//! Keyferry does not know the store's limit, so it searches for it. The first 429 halves the rate at which the store has just answered.
//! Each further 429 does the same, at most once per second. Each second without a 429 makes the rate a tenth higher. After [`CALM`] without
//! a 429 there is no limit.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant, sleep_until};

use crate::model::Tenant;
use crate::turns::Turns;

/// After this time without a 429, requests are sent as they come.
const CALM: Duration = Duration::from_mins(1);

/// The rate is checked again after this time.
const STEP: Duration = Duration::from_secs(1);

/// The longest pause between two requests: when a store refuses for a while, Keyferry soon finds that it answers again.
const SLOWEST: Duration = Duration::from_millis(500);

/// The shortest one: timers cannot measure less.
const FASTEST: Duration = Duration::from_millis(1);

/// The longest time for which a store's `Retry-After` stops all requests.
const HELD_BACK: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Pace {
    /// One tenant after the other.
    line: Turns,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Requests with another answer than 429, in this second and in the one before.
    answered: (u32, u32),
    second: Instant,
    limit: Option<Limit>,
}

#[derive(Debug)]
struct Limit {
    /// The time between two requests.
    between: Duration,
    next: Instant,
    /// When the rate was last halved.
    halved: Instant,
    /// When the rate last changed, or the store last refused a request: for one second after that the rate is not raised.
    settled: Instant,
    refused: Instant,
}

// === impl Pace ===

impl Pace {
    pub(super) fn new() -> Self {
        Self { line: Turns::new(1), state: Mutex::new(State { answered: (0, 0), second: Instant::now(), limit: None }) }
    }

    /// Waits until a request may be sent, or until the deadline. The daemon's own requests (`None`) do not wait: there are few.
    pub(super) async fn wait(&self, tenant: Option<&Tenant>, deadline: Instant) {
        let Some(tenant) = tenant.filter(|_| self.lock().limit.is_some()) else { return };
        let Some(_turn) = self.line.take(tenant, deadline).await else { return };
        let at = self.lock().next();
        if let Some(at) = at {
            sleep_until(at.min(deadline)).await;
        }
    }

    /// The store has given another answer than 429.
    pub(super) fn answered(&self) {
        self.lock().answered(Instant::now());
    }

    /// The store has answered with 429, and asks for no request for `asked`. `Some`: from now on it gets this many requests per second.
    pub(super) fn refused(&self, asked: Option<Duration>) -> Option<f64> {
        self.lock().refused(Instant::now(), asked.unwrap_or_default().min(HELD_BACK))
    }

    /// A panic elsewhere cannot leave the state half-changed: no code here panics.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// When the next request may be sent; from now on it counts as sent at that time.
    fn next(&mut self) -> Option<Instant> {
        let limit = self.limit.as_mut()?;
        let at = limit.next.max(Instant::now());
        limit.next = at + limit.between;
        Some(at)
    }

    fn answered(&mut self, now: Instant) {
        self.turn_over(now);
        self.answered.0 += 1;
        let Some(limit) = &mut self.limit else { return };
        if now.duration_since(limit.refused) >= CALM {
            self.limit = None;
        } else if now.duration_since(limit.settled) >= STEP {
            limit.between = (limit.between * 10 / 11).max(FASTEST);
            limit.settled = now;
        }
    }

    fn refused(&mut self, now: Instant, asked: Duration) -> Option<f64> {
        self.turn_over(now);
        let Some(limit) = &mut self.limit else {
            let between = (STEP * 2 / self.answered.0.max(self.answered.1).max(1)).clamp(FASTEST, SLOWEST);
            self.limit = Some(Limit { between, next: now + asked.max(between), halved: now, settled: now, refused: now });
            return Some(between.as_secs_f64().recip());
        };
        if now.duration_since(limit.halved) >= STEP {
            limit.between = (limit.between * 2).min(SLOWEST);
            limit.halved = now;
        }
        (limit.settled, limit.refused) = (now, now);
        limit.next = limit.next.max(now + asked.max(limit.between));
        None
    }

    /// Begins the next second if the last one has ended.
    fn turn_over(&mut self, now: Instant) {
        let passed = now.duration_since(self.second);
        if passed >= STEP {
            self.answered = (0, if passed < 2 * STEP { self.answered.0 } else { 0 });
            self.second = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::sleep;

    use super::*;

    /// A store that allows this many requests per second, and its callers.
    struct Store {
        pace: Pace,
        quota: u32,
        second: Mutex<(Instant, u32)>,
    }

    impl Store {
        fn new(quota: u32) -> Arc<Self> {
            Arc::new(Self { pace: Pace::new(), quota, second: Mutex::new((Instant::now(), 0)) })
        }

        /// One request, with all its tries.
        async fn ask(&self, tenant: &str) -> u32 {
            let tenant = Tenant::from(tenant);
            let mut tries = 0;
            loop {
                tries += 1;
                self.pace.wait(Some(&tenant), Instant::now() + Duration::from_hours(1)).await;
                let within = {
                    let mut second = self.second.lock().unwrap();
                    if second.0.elapsed() >= Duration::from_secs(1) {
                        *second = (Instant::now(), 0);
                    }
                    second.1 += 1;
                    second.1 <= self.quota
                };
                if within {
                    self.pace.answered();
                    return tries;
                }
                self.pace.refused(None);
                sleep(Duration::from_millis(250)).await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_leave_as_they_come_while_the_store_takes_them() {
        let store = Store::new(u32::MAX);
        for _ in 0..10_000 {
            assert_eq!(store.ask("shop").await, 1);
        }
        assert_eq!(store.second.lock().unwrap().0.elapsed(), Duration::ZERO);
    }

    /// Without the pace, the victim's request is refused like others in the rest of each second.
    #[tokio::test(start_paused = true)]
    async fn a_tenant_that_uses_up_the_stores_quota_costs_others_little() {
        let store = Store::new(100);
        let flood = (0..64).map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                loop {
                    store.ask("hostile").await;
                }
            })
        });
        let flood: Vec<_> = flood.collect();
        // Only a refusal shows the limit.
        sleep(Duration::from_secs(3)).await;
        let mut longest = Duration::ZERO;
        for _ in 0..200 {
            let began = Instant::now();
            store.ask("victim").await;
            longest = longest.max(began.elapsed());
            sleep(Duration::from_millis(100)).await;
        }
        assert!(longest < Duration::from_millis(700), "{longest:?}");
        flood.iter().for_each(tokio::task::JoinHandle::abort);
    }

    /// Keyferry uses what the store allows: at least two thirds of it.
    #[tokio::test(start_paused = true)]
    async fn little_of_the_quota_is_left_unused() {
        let store = Store::new(100);
        let asked = (0..64).map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for _ in 0..100 {
                    store.ask(if n % 2 == 0 { "a" } else { "b" }).await;
                }
            })
        });
        let began = Instant::now();
        for all in asked.collect::<Vec<_>>() {
            all.await.unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(96), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_ends_when_the_store_has_refused_nothing_for_a_minute() {
        let store = Store::new(1);
        store.ask("a").await;
        assert_eq!(store.pace.refused(None), Some(2.0), "the slowest");
        store.pace.answered();
        assert_eq!(store.pace.refused(None), None, "it is reported once");
        sleep(CALM).await;
        store.pace.answered();
        assert!(store.pace.lock().limit.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_wants_to_be_left_alone_is_for_seconds_at_most() {
        let pace = Pace::new();
        pace.refused(Some(Duration::from_hours(1)));
        let began = Instant::now();
        pace.wait(None, began + Duration::from_mins(1)).await;
        assert_eq!(began.elapsed(), Duration::ZERO, "the daemon's own");
        pace.wait(Some(&"shop".into()), began + Duration::from_mins(1)).await;
        assert_eq!(began.elapsed(), HELD_BACK);
        let late = Instant::now();
        pace.refused(Some(Duration::from_secs(5)));
        pace.wait(Some(&"shop".into()), late + Duration::from_secs(1)).await;
        assert_eq!(late.elapsed(), Duration::from_secs(1), "no longer than its deadline");
    }
}
