//! Room for leases: how many there may be on this node, how many bytes they may hold, and each tenant's share of both.
//!
//! A request that may come with a lease has its room *before* it is sent ([`Room::book`]), so that nothing is issued that could not be kept.
//! What it comes with keeps the room ([`Booking::keep`]) until the lease is gone from the table: while it is given, and retired, and until
//! it is revoked. What comes without a lease gives it back.
//!
//! Nobody knows beforehand which requests come with a lease. Where it is such requests that have the tenant's share, and not leases, one
//! more waits until one of them has come to its end. It waits holding its mount's place alone; who holds a turn at a store has its room.

use std::sync::{Mutex, PoisonError};

use tokio::time::{Duration, Instant};

use crate::backend::Scope;
use crate::model::{Lease, Login, RefParts, SecretRef, Tenant};
use crate::shares::{Held, Shares};
use crate::turns::{Drawn, Turn, Turns};

/// The most leases on this node, those of requests under way included.
pub(super) const MOST: usize = 4096;

/// The most leases of one Pod, or of one ServiceAccount's Pods that share theirs. A class has at most `limits.objects` of them, and a
/// class that is changed again and again asks for ever more.
pub(super) const MOST_EACH: usize = 128;

/// What a record weighs besides texts and bytes.
const RECORD: usize = 1536;

/// What is taken for granted of an answer's weight before it is there.
const ANSWER: usize = 1024;

/// What it weighs that a record remembers a Pod.
pub(super) const POD: usize = 192;

/// How often a refusal is told in the log.
const TELL: Duration = Duration::from_mins(1);

pub(super) struct Room {
    /// A turn: a request under way. What is kept of it, a lease.
    leases: Turns,
    bytes: Shares,
    told: Mutex<Option<Instant>>,
}

/// For one request that may come with a lease.
pub(super) struct Booking {
    turn: Turn,
    bytes: Shares,
}

/// What a lease in the table takes up.
#[derive(Debug)]
pub(super) struct Place {
    _lease: Drawn,
    held: Held,
    bytes: Shares,
}

/// Why there is no room.
#[derive(Debug)]
pub(super) enum Full {
    /// What the tenant's leases hold has as many bytes as it may.
    Bytes { tenant: Tenant, held: usize, capacity: usize },
    /// One Pod, or ServiceAccount, has as many as it may.
    Holder(Scope),
    /// There may be some once other requests have come to their ends. None did in time.
    Late,
    /// There is none for anybody.
    Node,
    /// The tenant has its share.
    Share { tenant: Tenant, held: usize },
}

// === impl Room ===

impl Room {
    /// `bytes` for all leases together.
    pub fn new(bytes: usize) -> Self {
        Self { leases: Turns::new(MOST), bytes: Shares::new(bytes), told: Mutex::default() }
    }

    /// Room for what a request may come with. Waits until then for requests under way.
    pub async fn book(&self, tenant: &Tenant, secret: &SecretRef, until: Instant) -> Result<Booking, Full> {
        // The store's answer is not known yet; what the class asks for is.
        let bare = RECORD + weight_of(secret) + ANSWER;
        if self.bytes.take(tenant, bare).is_none() {
            return Err(self.refuse(self.full_of_bytes(tenant)));
        }
        if !self.leases.may_come(tenant) {
            return Err(self.refuse(self.full(tenant)));
        }
        match self.leases.take(tenant, until).await {
            Some(turn) => Ok(Booking { turn, bytes: self.bytes.clone() }),
            // Those that were waited for came with leases.
            None if !self.leases.may_come(tenant) => Err(self.refuse(self.full(tenant))),
            None => Err(Full::Late),
        }
    }

    /// What a former process left is counted, whatever the shares say: nothing of it is thrown away.
    pub fn count(&self, tenant: &Tenant, weight: usize) -> Place {
        Place { _lease: self.leases.count(tenant, 1), held: self.bytes.count(tenant, weight), bytes: self.bytes.clone() }
    }

    /// Leases by tenant, with requests under way.
    #[cfg(test)]
    pub fn leases(&self) -> &Shares {
        self.leases.slots()
    }

    /// Bytes of leases, with their credentials and requests under way.
    pub fn bytes(&self) -> &Shares {
        &self.bytes
    }

    pub fn full(&self, tenant: &Tenant) -> Full {
        match self.leases.slots().of(tenant.as_str()) {
            0 => Full::Node,
            held => Full::Share { tenant: tenant.clone(), held },
        }
    }

    fn full_of_bytes(&self, tenant: &Tenant) -> Full {
        full_of_bytes(&self.bytes, tenant)
    }

    /// The log names those who have most, once a minute.
    fn refuse(&self, full: Full) -> Full {
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| now.duration_since(told) >= TELL) {
            *told = Some(now);
            let names =
                |shares: &Shares| shares.most(3).iter().map(|(tenant, held)| format!("{tenant}: {held}")).collect::<Vec<_>>().join(", ");
            tracing::warn!(
                leases = names(self.leases.slots()),
                bytes = names(&self.bytes),
                "Keyferry refused a lease, because its namespace has its full share; these namespaces have the most"
            );
        }
        full
    }
}

fn full_of_bytes(bytes: &Shares, tenant: &Tenant) -> Full {
    Full::Bytes { tenant: tenant.clone(), held: bytes.of(tenant.as_str()), capacity: bytes.capacity() }
}

// === impl Booking ===

impl Booking {
    pub fn tenant(&self) -> &Tenant {
        self.turn.tenant()
    }

    /// For a lease that came with so much.
    pub fn keep(self, weight: usize) -> Result<Place, Full> {
        let Self { turn, bytes } = self;
        let tenant = turn.tenant();
        let Some(held) = bytes.take(tenant, weight) else { return Err(full_of_bytes(&bytes, tenant)) };
        Ok(Place { _lease: turn.keep(1), held, bytes })
    }
}

// === impl Place ===

impl Place {
    pub fn tenant(&self) -> &Tenant {
        self.held.tenant()
    }

    /// Some bytes more. Whether the tenant's share has them.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let Some(more) = self.bytes.take(self.held.tenant(), bytes) else { return false };
        self.held.join(more);
        true
    }

    /// Gives so many bytes back.
    pub fn shrink_by(&mut self, bytes: usize) {
        self.held.shrink(self.held.n().saturating_sub(bytes));
    }
}

// === impl Full ===

impl Full {
    /// Why, and in brackets what to do. `None`: the store is slow.
    pub fn reason(&self) -> Option<String> {
        Some(match self {
            Self::Bytes { tenant, held, capacity } => format!(
                "the leases of namespace {tenant} hold {} of {} KiB on this node, and a namespace must leave as much free for others as it \
                 holds (ask for fewer or smaller leased secrets, share them with `lease: shared`, or spread the Pods)",
                held / 1024,
                capacity / 1024
            ),
            Self::Holder(holder) => format!(
                "there are {MOST_EACH} leases for this {}, the most that it can have (ask for fewer leased secrets; Keyferry revokes those of deleted Pods)",
                match holder {
                    Scope::Pod(_) => "Pod",
                    Scope::Account(_) | Scope::Node => "ServiceAccount on this node",
                }
            ),
            Self::Late => return None,
            Self::Node => {
                format!("there are {MOST} leases on this node, the most that it can have (share leases with `lease: shared`, or spread the Pods)")
            }
            Self::Share { tenant, held } => format!(
                "namespace {tenant} has {held} of {MOST} leases on this node, and a namespace must leave as many free for others as it has \
                 (ask for fewer leased secrets, share them with `lease: shared`, or spread the Pods)"
            ),
        })
    }
}

// === weights ===

/// The texts of a request.
pub(super) fn weight_of(secret: &SecretRef) -> usize {
    let RefParts { backend, name, version, method: _, args, lease: _, keep: _, login } = &**secret;
    let Login { address, audience, mount, namespace, role, tls } = login;
    let texts = [address, audience, mount, namespace, role].into_iter().flatten().map(String::len).sum::<usize>();
    let files = tls.iter().flat_map(|tls| tls.files()).map(|file| file.as_os_str().len()).sum::<usize>();
    let of_tls = tls.iter().filter_map(|tls| tls.server_name.as_ref()).map(String::len).sum::<usize>();
    // A login that a lease lives by is kept at its store's too, and for the keeper.
    let login = 3 * (texts + files + of_tls);
    // Each argument has its own allocations.
    let args = args.bytes() + 64 * args.names().count();
    let version = version.as_ref().map_or(0, |version| version.as_str().len());
    backend.as_str().len() + name.as_str().len() + version + args + login
}

/// A record without what is given: the request, and the lease with its token.
pub(super) fn weight_of_record(secret: &SecretRef, lease: &Lease) -> usize {
    RECORD + weight_of(secret) + lease.id.len() + lease.token.len()
}
