//! The requests that a failover's first member has denied. The second member is not asked for them until the first one allows them again, even if
//! the first is out meanwhile.
//!
//! This memory is limited in bytes, and tenants share it. If there is no more room for a tenant's denials, the tenant is *marked*: from then on the
//! second member is asked only for what the first has answered well since. So the second member is never asked because a denial was forgotten. And
//! if somebody makes many denials in a namespace, only that namespace loses its second member.
//!
//! A denial for one Pod only is not needed after the Pod is gone. If it is dropped then, nobody is marked.
//!
//! If all tenants are the same to the store (the daemon logs in as itself), a denial for one of them holds for all. It is also kept for each tenant
//! that got it: what happens in one tenant's room has no effect on another.
//!
//! With a sealed folder, all this is also on the disk. A denied mount gets its error when the denial is there.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant};

use crate::backend::Scope;
use crate::backend::stack::asked::Asked;
use crate::backend::stack::cache::archive::{Archive, Denied, Section, Ticket};
use crate::model::{BackendName, Tenant};
use crate::shelf::Shelf;

/// The weight of an entry, here and in what is known about the disk. Only a hash of the request is kept.
const ENTRY: usize = 512;

/// The highest weight of all entries: a start reads no more of them from the disk than a few such tables have.
const LARGEST: usize = 8 << 20;

/// The most tenants that are marked one by one. If there are more, all are marked.
const TENANTS: usize = 1024;

/// If nobody has asked for a Pod for this time, it is gone: kubelet tries failed mounts every few minutes, and renews running ones as often or
/// never.
const GONE: Duration = Duration::from_hours(1);

/// What the first member has said. Reloads do not change it, whatever they change: if a denial is no longer true, the next answer ends it.
pub(in crate::backend) struct Denials(Mutex<Inside>);

/// A place in the order of events here. What a former process knew comes before everything.
pub(super) type Moment = u64;

struct Inside {
    verdicts: Shelf<Denied, Verdict>,
    marked: HashSet<Tenant>,
    /// There are more marked tenants than can be kept apart: all are marked.
    all: bool,
    moment: Moment,
    /// `None`: nothing is kept over a restart.
    disk: Option<Section>,
    /// A test switches the rule off, to see that the model notices.
    #[cfg(test)]
    off: bool,
}

struct Verdict {
    request: Denied,
    tenant: Tenant,
    /// When it was denied; `None`: it was answered well, and its tenant is marked.
    denied: Option<Moment>,
    /// The only Pod that the request is for.
    pod: Option<Arc<str>>,
    /// When it was last asked for.
    asked: Instant,
}

// === impl Denials ===

impl Denials {
    /// With this limit in bytes; with the denials from before this start, if the disk has them.
    pub(in crate::backend) fn new(failover: &BackendName, bytes: usize, archive: Option<&Arc<Archive>>) -> Arc<Self> {
        let mut inside = Inside {
            verdicts: Shelf::of_bytes(bytes.min(LARGEST)),
            marked: HashSet::new(),
            all: false,
            moment: 0,
            disk: archive.map(|archive| archive.denials(failover)),
            #[cfg(test)]
            off: false,
        };
        inside.recall();
        Arc::new(Self(Mutex::new(inside)))
    }

    pub(in crate::backend) fn resize(&self, bytes: usize) {
        let mut inside = self.lock();
        let gone = inside.verdicts.resize(bytes.min(LARGEST));
        inside.lose(gone);
    }

    /// The first member is about to be asked.
    pub(super) fn begin(&self) -> Moment {
        let mut inside = self.lock();
        inside.moment += 1;
        inside.moment
    }

    /// Whether the second member may be asked.
    pub(super) fn allow(&self, asked: &Asked, tenant: &Tenant) -> bool {
        if self.lock().has_nothing_for(tenant) {
            return true;
        }
        let requests = requests(asked, tenant);
        let mut inside = self.lock();
        #[cfg(test)]
        if inside.off {
            return true;
        }
        let is_marked = inside.is_marked(tenant);
        let said = requests.map(|request| {
            let verdict = inside.verdicts.find_mut(&request?)?;
            verdict.asked = Instant::now();
            Some(verdict.denied.is_some())
        });
        let is_denied = said.contains(&Some(true));
        !is_denied && (!is_marked || said.contains(&Some(false)))
    }

    /// The first member has denied it to this tenant. The tenant gets its error when the disk has the denial: see [`Denials::settled`].
    pub(super) fn denied(&self, asked: &Asked, tenant: &Tenant) -> Ticket {
        let requests = requests(asked, tenant);
        let mut inside = self.lock();
        inside.moment += 1;
        let now = inside.moment;
        let tickets = requests.into_iter().flatten().map(|request| inside.put(request, asked, tenant, Some(now)));
        tickets.max().unwrap_or_default()
    }

    /// Waits until a restart would find the denial, or the disk is known not to work.
    pub(super) async fn settled(&self, ticket: Ticket, deadline: Instant) {
        let archive = self.lock().disk.as_ref().map(|disk| Arc::clone(disk.archive()));
        if let Some(archive) = archive {
            archive.settled(ticket, deadline).await;
        }
    }

    /// The first member has answered well a request that began at `begun`. A denial since then still holds.
    pub(super) fn allowed(&self, asked: &Asked, tenant: &Tenant, begun: Moment) {
        if self.lock().has_nothing_for(tenant) {
            return;
        }
        let requests = requests(asked, tenant);
        let mut inside = self.lock();
        let is_marked = inside.is_marked(tenant);
        let mut own = None;
        for request in requests.into_iter().flatten() {
            let at = inside.verdicts.find(&request).and_then(|verdict| verdict.denied);
            if at.is_some_and(|at| at < begun)
                && let Some(verdict) = inside.verdicts.remove(&request)
            {
                inside.strike_out(&verdict);
            }
            own = at.is_none_or(|at| at < begun).then_some(request);
        }
        if let Some(request) = own.filter(|_| is_marked) {
            inside.put(request, asked, tenant, None);
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

    /// Whether no request of this tenant can be barred.
    fn has_nothing_for(&self, tenant: &Tenant) -> bool {
        !self.is_marked(tenant) && self.verdicts.weight() == 0
    }

    /// Reads what the disk has.
    fn recall(&mut self) {
        let Some(left) = self.disk.as_ref().map(Section::left) else { return };
        (self.all, self.marked) = (left.all, left.marked.into_iter().collect());
        for (tenant, request, pod) in left.denied {
            self.insert(Verdict { request, tenant, denied: Some(0), pod, asked: Instant::now() });
        }
    }

    fn put(&mut self, request: Denied, asked: &Asked, tenant: &Tenant, denied: Option<Moment>) -> Ticket {
        // What holds for all is kept once, for the tenant that got it first. So the disk also has it once.
        if let Some(known) = self.verdicts.find_mut(&request)
            && known.tenant != *tenant
            && known.denied.is_some()
        {
            (known.denied, known.asked) = (denied, Instant::now());
            return self.disk.as_ref().map_or(0, Section::ticket);
        }
        let pod = match &asked.scope {
            Scope::Pod(uid) => Some(Arc::clone(uid)),
            Scope::Account(_) | Scope::Node => None,
        };
        // The tenant's mark has the same effect, unless the denial is for all.
        let is_said = self.marked.contains(tenant) && asked.scope != Scope::Node;
        let ticket = match &self.disk {
            Some(disk) if denied.is_some() && !is_said => disk.denied(tenant, request, pod.as_ref()),
            Some(disk) => disk.ticket(),
            None => 0,
        };
        self.insert(Verdict { request, tenant: tenant.clone(), denied, pod, asked: Instant::now() }).max(ticket)
    }

    fn insert(&mut self, verdict: Verdict) -> Ticket {
        let tenant = verdict.tenant.clone();
        let gone = self.verdicts.put(tenant.as_str(), verdict.request, verdict, ENTRY, |_| false);
        self.lose(gone)
    }

    /// There was no more room for these.
    fn lose(&mut self, gone: Vec<Verdict>) -> Ticket {
        let is_needed = |verdict: &Verdict| verdict.denied.is_some() && !(verdict.pod.is_some() && verdict.asked.elapsed() >= GONE);
        let mut ticket = 0;
        for verdict in gone {
            if is_needed(&verdict) {
                ticket = self.mark(&verdict.tenant).max(ticket);
            }
            self.strike_out(&verdict);
        }
        ticket
    }

    fn mark(&mut self, tenant: &Tenant) -> Ticket {
        let is_apart = self.marked.len() < TENANTS || self.marked.contains(tenant);
        let is_new = if is_apart { self.marked.insert(tenant.clone()) } else { !std::mem::replace(&mut self.all, true) };
        if is_new {
            let namespace = if is_apart { tenant.as_str() } else { "all" };
            tracing::warn!(
                namespace,
                "a failover's first member has denied more requests than Keyferry keeps: it asks the second only for what the first has answered since"
            );
        }
        self.disk.as_ref().map_or(0, |disk| disk.marked(Some(tenant).filter(|_| is_apart)))
    }

    /// The disk no longer needs it.
    fn strike_out(&self, verdict: &Verdict) {
        if let Some(disk) = self.disk.as_ref().filter(|_| verdict.denied.is_some()) {
            disk.forgotten(&verdict.tenant, verdict.request);
        }
    }
}

/// The keys of a request's verdicts; the last one is the tenant's own.
fn requests(asked: &Asked, tenant: &Tenant) -> [Option<Denied>; 2] {
    match asked.scope {
        Scope::Node => [Some(Denied::of(asked, None)), Some(Denied::of(asked, Some(tenant)))],
        Scope::Account(_) | Scope::Pod(_) => [Some(Denied::of(asked, None)), None],
    }
}
