//! Requests that are held back: those that failed at the store, and all requests of a login if the store said when to come back.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant};

use super::{Cause, weight_of};
use crate::backend::Scope;
use crate::backend::stack::asked::Asked;
use crate::model::{Login, Tenant};
use crate::shelf::Shelf;

/// How long a request is held back after its first failure. Each further failure doubles this, up to the longest.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(15);

/// The longest time that a `Retry-After` holds a login's requests back: a proxy may say an hour.
const LONGEST_ASKED: Duration = Duration::from_mins(1);

/// If a request was free for this time and was not sent again, it begins again with the shortest wait. Running Pods ask about once a minute.
const FORGOTTEN: Duration = Duration::from_mins(10);

/// The bytes of an entry besides its texts.
const ENTRY: usize = 512;

/// What is held back.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Key {
    Request(Asked),
    /// Everything that a tenant requests with this login. If the daemon itself logs in, other tenants have the same login.
    Login(Scope, Login, Tenant),
}

/// Limited in bytes, and shared by tenants: a request that is pushed out is sent again.
#[derive(Debug)]
pub(super) struct HeldBack(Mutex<Shelf<Key, Hold>>);

#[derive(Clone, Debug)]
pub(super) struct Hold {
    pub(super) failed: Instant,
    pub(super) until: Instant,
    pub(super) cause: Cause,
    wait: Duration,
}

// === impl Hold ===

impl Hold {
    fn is_forgotten(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.until) >= FORGOTTEN
    }
}

// === impl HeldBack ===

impl HeldBack {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Mutex::new(Shelf::of_bytes(bytes)))
    }

    /// Why this request is not sent now.
    pub(super) fn find(&self, asked: &Asked, tenant: &Tenant, now: Instant) -> Option<Hold> {
        let mut held = self.lock();
        // This is almost always so.
        if held.weight() == 0 {
            return None;
        }
        let keys = [key_of_login(asked, tenant), Key::Request(asked.clone())];
        let found = keys.iter().find_map(|key| held.find(key).filter(|hold| hold.until > now).cloned());
        if found.is_none() {
            for key in &keys {
                if held.find(key).is_some_and(|hold| hold.is_forgotten(now)) {
                    held.remove(key);
                }
            }
        }
        found
    }

    /// The request has failed once more. Returns whether that is new. `jitter` is from 0 to 1.
    pub(super) fn failed(&self, asked: &Asked, tenant: &Tenant, cause: Cause, jitter: f64, now: Instant) -> bool {
        let key = Key::Request(asked.clone());
        let mut held = self.lock();
        let before = held.find(&key).filter(|hold| !hold.is_forgotten(now)).map(|hold| hold.wait);
        let wait = before.map_or(FIRST, |wait| (wait * 2).min(LONGEST));
        let until = now + wait.mul_f64(0.75 + 0.25 * jitter);
        keep(&mut held, tenant, key, Hold { failed: now, until, cause, wait });
        before.is_none()
    }

    /// The store asks for no request of this login for this time.
    pub(super) fn wished(&self, asked: &Asked, tenant: &Tenant, cause: Cause, wait: Duration, now: Instant) {
        let until = now + wait.min(LONGEST_ASKED);
        keep(&mut self.lock(), tenant, key_of_login(asked, tenant), Hold { failed: now, until, cause, wait });
    }

    /// The request has been answered.
    pub(super) fn answered(&self, asked: &Asked) {
        let mut held = self.lock();
        if held.weight() > 0 {
            held.remove(&Key::Request(asked.clone()));
        }
    }

    pub(super) fn resize(&self, bytes: usize) {
        self.lock().resize(bytes);
    }

    /// Each change is one call of the shelf.
    fn lock(&self) -> MutexGuard<'_, Shelf<Key, Hold>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key_of_login(asked: &Asked, tenant: &Tenant) -> Key {
    Key::Login(asked.scope.clone(), asked.secret.login.clone(), tenant.clone())
}

fn keep(shelf: &mut Shelf<Key, Hold>, tenant: &Tenant, key: Key, hold: Hold) {
    let texts = match &key {
        Key::Request(asked) => weight_of(&asked.secret.login) + asked.weight(),
        Key::Login(_, login, _) => weight_of(login),
    };
    // The key is there twice.
    let weight = 2 * texts + hold.cause.weight() + ENTRY;
    shelf.put(tenant.as_str(), key, hold, weight, |_| false);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::testing::fake::secret;

    struct Bench {
        held: HeldBack,
        now: Instant,
    }

    impl Bench {
        fn new(bytes: usize) -> Self {
            Self { held: HeldBack::new(bytes), now: Instant::now() }
        }

        fn fails(&self, tenant: &str, role: &str, secret: &str, jitter: f64) {
            let cause = Cause { reason: "500".to_owned(), full: None };
            self.held.failed(&asked(role, secret), &tenant.into(), cause, jitter, self.now);
        }

        /// For how many milliseconds it is held back.
        fn held(&self, role: &str, secret: &str) -> u128 {
            let hold = self.held.find(&asked(role, secret), &"shop".into(), self.now);
            hold.map_or(0, |hold| (hold.until - self.now).as_millis())
        }
    }

    fn asked(role: &str, name: &str) -> Asked {
        Asked { scope: Scope::Node, secret: secret(name).with(|asked| asked.login.role = Some(role.to_owned())) }
    }

    #[tokio::test]
    async fn waits_grow_to_fifteen_seconds_and_an_answer_ends_them() {
        let mut bench = Bench::new(1 << 20);
        assert_eq!(bench.held("csi", "a"), 0);
        let mut waits = Vec::new();
        for _ in 0..7 {
            bench.fails("shop", "csi", "a", 1.0);
            waits.push(bench.held("csi", "a"));
            bench.now += Duration::from_secs(20);
        }
        assert_eq!(waits, [1000, 2000, 4000, 8000, 15_000, 15_000, 15_000]);
        assert_eq!(bench.held("csi", "a"), 0);
        bench.held.answered(&asked("csi", "a"));
        bench.fails("shop", "csi", "a", 0.0);
        assert_eq!(bench.held("csi", "a"), 750);
        assert_eq!((bench.held("csi", "b"), bench.held("other", "a")), (0, 0), "another request, another login");
        bench.fails("shop", "csi", "a", 1.0);
        bench.now += Duration::from_secs(602);
        bench.fails("shop", "csi", "a", 1.0);
        assert_eq!(bench.held("csi", "a"), 1000, "it begins again");
    }

    #[tokio::test]
    async fn a_login_is_held_back_as_long_as_the_store_wants_but_a_minute_at_most() {
        let mut bench = Bench::new(1 << 20);
        let cause = || Cause { reason: "429".to_owned(), full: None };
        bench.held.wished(&asked("csi", "a"), &"shop".into(), cause(), Duration::from_secs(7), bench.now);
        assert_eq!((bench.held("csi", "a"), bench.held("csi", "b"), bench.held("other", "a")), (7000, 7000, 0));
        bench.held.wished(&asked("csi", "a"), &"shop".into(), cause(), Duration::from_hours(1), bench.now);
        assert_eq!(bench.held("csi", "a"), 60_000);
        let others = bench.held.find(&asked("csi", "a"), &"bank".into(), bench.now);
        assert!(others.is_none(), "the daemon's own login is that of all tenants");
        bench.now += Duration::from_mins(1);
        assert_eq!(bench.held("csi", "a"), 0);
    }

    #[tokio::test]
    async fn other_arguments_are_another_request() {
        let bench = Bench::new(1 << 20);
        let odd = Asked { secret: secret("a").with(|asked| asked.version = Some(crate::model::Version::new("99"))), ..asked("csi", "a") };
        bench.held.failed(&odd, &"hostile".into(), Cause { reason: "500".to_owned(), full: None }, 1.0, bench.now);
        let find = |asked: &Asked| bench.held.find(asked, &"shop".into(), bench.now).is_some();
        assert!(find(&odd) && !find(&Asked { secret: secret("a"), ..odd.clone() }));
    }

    #[tokio::test]
    async fn whoever_has_many_pushes_out_their_own() {
        let bench = Bench::new(64 * 1024);
        bench.fails("shop", "csi", "a", 1.0);
        for n in 0..10_000 {
            bench.fails("hostile", "csi", &format!("broken-{n}"), 1.0);
        }
        assert!(bench.held("csi", "a") > 0 && bench.held("csi", "broken-9999") > 0);
        assert!(bench.held.lock().weight() <= 64 * 1024 && bench.held("csi", "broken-0") == 0);
    }
}
