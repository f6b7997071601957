//! Logins, and whether the store refused each of them at the last request with it. They are kept apart from the answers, because many answers
//! depend on one login: while it is refused, none of these answers is given in an outage.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::table::Moment;
use crate::backend::Scope;
use crate::model::{Login, SecretRef, Tenant};

/// The logins of the answers that are kept, and of the requests under way. A door is forgotten when nothing uses it.
#[derive(Debug, Default)]
pub(super) struct Doors {
    by: HashMap<(Scope, Login), Weak<Door>>,
    /// How many there may be before the forgotten ones are removed.
    room: usize,
}

/// One login of the Pods that share it.
#[derive(Debug, Default)]
pub(super) struct Door {
    /// When it was refused; 0: it was not refused since it last succeeded.
    shut: AtomicU64,
    /// The last request that was refused, perhaps only because of its path.
    doubt: Mutex<Option<Doubt>>,
}

#[derive(Debug)]
struct Doubt {
    at: Moment,
    secret: SecretRef,
    tenant: Tenant,
}

// === impl Doors ===

impl Doors {
    pub(super) fn of(&mut self, scope: &Scope, login: &Login) -> Arc<Door> {
        if let Some(door) = self.find(scope, login) {
            return door;
        }
        if self.by.len() >= self.room {
            self.by.retain(|_, door| door.strong_count() > 0);
            self.room = 2 * self.by.len() + 16;
        }
        let door = Arc::new(Door::default());
        self.by.insert((scope.clone(), login.clone()), Arc::downgrade(&door));
        door
    }

    pub(super) fn find(&self, scope: &Scope, login: &Login) -> Option<Arc<Door>> {
        self.by.get(&(scope.clone(), login.clone()))?.upgrade()
    }
}

// === impl Door ===

impl Door {
    pub(super) fn is_open(&self) -> bool {
        self.shut.load(Ordering::Acquire) == 0
    }

    /// The store has refused the login.
    pub(super) fn shut(&self, now: Moment) {
        self.shut.store(now, Ordering::Release);
    }

    /// The store has refused this request of a tenant, and nobody knows whether the cause is the login or the path. If two requests of two tenants
    /// are refused with no success between them, the cause is the login. Returns whether that is so now.
    pub(super) fn doubt(&self, now: Moment, secret: &SecretRef, tenant: &Tenant) -> bool {
        let mut doubt = self.doubt.lock().unwrap_or_else(PoisonError::into_inner);
        let is_second = doubt.as_ref().is_some_and(|first| first.tenant != *tenant && first.secret != *secret);
        if is_second {
            self.shut(now);
        }
        *doubt = Some(Doubt { at: now, secret: secret.clone(), tenant: tenant.clone() });
        !self.is_open()
    }

    /// The store has accepted the login for a request that began at `begun`. Called under the table's lock, as [`Door::shut`] is. Returns whether
    /// the door is open now.
    pub(super) fn open(&self, begun: Moment) -> bool {
        if self.shut.load(Ordering::Acquire) < begun {
            self.shut.store(0, Ordering::Release);
        }
        let mut doubt = self.doubt.lock().unwrap_or_else(PoisonError::into_inner);
        if doubt.as_ref().is_some_and(|doubt| doubt.at < begun) {
            *doubt = None;
        }
        self.is_open()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_opens_for_what_was_asked_after_the_refusal() {
        let door = Door::default();
        door.shut(5);
        door.open(4);
        assert!(!door.is_open(), "that login was before");
        door.open(6);
        assert!(door.is_open());
    }

    #[test]
    fn two_requests_of_two_tenants_shut_a_door_that_one_path_may_have() {
        let secret = |name: &str| SecretRef::read("api".parse().unwrap(), name.parse().unwrap());
        let (shop, bank) = (Tenant::from(Arc::from("shop")), Tenant::from(Arc::from("bank")));
        let door = Door::default();
        for at in 1..50 {
            assert!(!door.doubt(at, &secret(&format!("a{at}")), &shop), "one tenant's alone");
        }
        assert!(!door.doubt(50, &secret("a49"), &bank), "the same request");
        assert!(door.open(51));
        assert!(!door.doubt(52, &secret("b"), &bank), "a success was between");
        assert!(door.open(52), "that request was begun before");
        assert!(door.doubt(53, &secret("c"), &shop) && !door.is_open());
        assert!(!door.open(53) && door.open(54));
        assert!(!door.doubt(55, &secret("b"), &bank), "it begins again");
    }

    #[test]
    fn doors_that_nothing_is_behind_are_forgotten() {
        let mut doors = Doors::default();
        let role = |n: usize| Login { role: Some(n.to_string()), ..Login::default() };
        let held = doors.of(&Scope::Node, &role(0));
        held.shut(1);
        for n in 1..10_000 {
            doors.of(&Scope::Node, &role(n));
        }
        assert!(doors.by.len() < 100, "{}", doors.by.len());
        assert!(!doors.of(&Scope::Node, &role(0)).is_open() && doors.of(&Scope::Node, &role(1)).is_open());
        assert!(doors.of(&Scope::Pod("uid".into()), &role(0)).is_open(), "another's login");
    }
}
