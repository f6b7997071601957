//! The requests that a failover's first member has denied: the second one is not asked for them until the first allows them again, also where
//! the first is out meanwhile.
//!
//! What is kept is bounded in bytes and shared by tenants. A tenant whose denials had no more room is *marked*: from then on the second member
//! is asked only for what the first has answered well since. So nothing is ever asked there because a denial was forgotten, and whoever
//! makes a namespace's denials many loses that namespace's second member, and nobody else's.
//!
//! What is for one Pod alone is no more needed once the Pod is gone, and then its going marks nobody.
//!
//! Where all tenants are one to the store (the daemon logs in as itself), a denial of one's request holds for all. It is kept for each tenant
//! that was told of it as well: what becomes of one's room is nothing to another.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant};

use crate::backend::Scope;
use crate::backend::stack::asked::Asked;
use crate::model::{Login, Tenant};
use crate::shelf::Shelf;

/// What an entry weighs besides the texts of its request.
const ENTRY: usize = 768;

/// The most tenants that are marked one by one; with more, all are.
const TENANTS: usize = 1024;

/// A Pod for which nobody asked for so long is gone: kubelet tries what fails each few minutes, and renews what runs as often or never.
const GONE: Duration = Duration::from_hours(1);

/// What the first member has said. It outlives reloads, whatever they change: a denial that is no longer true ends with the next answer.
pub(in crate::backend) struct Denials(Mutex<Inside>);

/// A place in the order of what happens here.
pub(super) type Moment = u64;

struct Inside {
    verdicts: Shelf<Key, Verdict>,
    marked: HashSet<Tenant>,
    /// More tenants than are told apart.
    all: bool,
    moment: Moment,
    /// A test sees whether somebody notices.
    #[cfg(test)]
    off: bool,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Key {
    asked: Asked,
    /// `None`: of all who share the request.
    tenant: Option<Tenant>,
}

struct Verdict {
    tenant: Tenant,
    /// When it was denied; `None`: it was answered well, by a tenant that is marked.
    denied: Option<Moment>,
    of_pod: bool,
    /// When it was last asked for.
    asked: Instant,
}

// === impl Denials ===

impl Denials {
    /// For so many bytes.
    pub(in crate::backend) fn new(bytes: usize) -> std::sync::Arc<Self> {
        let verdicts = Shelf::of_bytes(bytes);
        std::sync::Arc::new(Self(Mutex::new(Inside {
            verdicts,
            marked: HashSet::new(),
            all: false,
            moment: 0,
            #[cfg(test)]
            off: false,
        })))
    }

    pub(in crate::backend) fn resize(&self, bytes: usize) {
        let mut inside = self.lock();
        let gone = inside.verdicts.resize(bytes);
        inside.mark(gone);
    }

    /// The first member is about to be asked.
    pub(super) fn begin(&self) -> Moment {
        let mut inside = self.lock();
        inside.moment += 1;
        inside.moment
    }

    /// Whether the second member may be asked.
    pub(super) fn allow(&self, asked: &Asked, tenant: &Tenant) -> bool {
        let mut inside = self.lock();
        #[cfg(test)]
        if inside.off {
            return true;
        }
        let is_marked = inside.is_marked(tenant);
        if !is_marked && inside.verdicts.weight() == 0 {
            return true;
        }
        let said = keys(asked, tenant).map(|key| {
            let verdict = inside.verdicts.find_mut(&key?)?;
            verdict.asked = Instant::now();
            Some(verdict.denied.is_some())
        });
        let is_denied = said.contains(&Some(true));
        !is_denied && (!is_marked || said.contains(&Some(false)))
    }

    /// The first member has denied it to this tenant.
    pub(super) fn denied(&self, asked: &Asked, tenant: &Tenant) {
        let mut inside = self.lock();
        inside.moment += 1;
        let now = inside.moment;
        for key in keys(asked, tenant).into_iter().flatten() {
            inside.put(key, tenant, Some(now));
        }
    }

    /// The first member has answered well what it was asked then. A denial since then stands.
    pub(super) fn allowed(&self, asked: &Asked, tenant: &Tenant, begun: Moment) {
        let mut inside = self.lock();
        let is_marked = inside.is_marked(tenant);
        if !is_marked && inside.verdicts.weight() == 0 {
            return;
        }
        let mut own = None;
        for key in keys(asked, tenant).into_iter().flatten() {
            let at = inside.verdicts.find(&key).and_then(|verdict| verdict.denied);
            if at.is_some_and(|at| at < begun) {
                inside.verdicts.remove(&key);
            }
            own = at.is_none_or(|at| at < begun).then_some(key);
        }
        if let Some(key) = own.filter(|_| is_marked) {
            inside.put(key, tenant, None);
        }
    }

    #[cfg(test)]
    pub(in crate::backend) fn switch_off(&self, off: bool) {
        self.lock().off = off;
    }

    #[cfg(test)]
    pub(super) fn weight(&self, tenant: &str) -> (usize, usize) {
        let inside = self.lock();
        (inside.verdicts.weight_of(tenant), inside.verdicts.weight())
    }

    #[cfg(test)]
    pub(super) fn marks(&self) -> usize {
        self.lock().marked.len()
    }

    /// Nothing that is done under the lock panics.
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Denials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Denials")
    }
}

// === impl Inside ===

impl Inside {
    fn is_marked(&self, tenant: &Tenant) -> bool {
        self.all || self.marked.contains(tenant)
    }

    fn put(&mut self, key: Key, tenant: &Tenant, denied: Option<Moment>) {
        let weight = ENTRY + 2 * (key.asked.weight() + weight_of(&key.asked.secret.login));
        let of_pod = matches!(key.asked.scope, Scope::Pod(_));
        let verdict = Verdict { tenant: tenant.clone(), denied, of_pod, asked: Instant::now() };
        let gone = self.verdicts.put(tenant.as_str(), key, verdict, weight, |_| false);
        self.mark(gone);
    }

    /// These had no room any more.
    fn mark(&mut self, gone: Vec<Verdict>) {
        let is_needed = |verdict: &Verdict| verdict.denied.is_some() && !(verdict.of_pod && verdict.asked.elapsed() >= GONE);
        for verdict in gone.into_iter().filter(is_needed) {
            if self.marked.len() < TENANTS || self.marked.contains(&verdict.tenant) {
                self.marked.insert(verdict.tenant);
            } else {
                self.all = true;
            }
        }
    }
}

/// Under which keys a request's verdicts are; the last one is the tenant's own.
fn keys(asked: &Asked, tenant: &Tenant) -> [Option<Key>; 2] {
    let key = |tenant| Key { asked: asked.clone(), tenant };
    match asked.scope {
        Scope::Node => [Some(key(None)), Some(key(Some(tenant.clone())))],
        Scope::Account(_) | Scope::Pod(_) => [Some(key(None)), None],
    }
}

/// The bytes of its texts; one of a failover's class names neither address nor files.
fn weight_of(login: &Login) -> usize {
    login.said().iter().map(|(_, text)| text.len()).sum()
}
