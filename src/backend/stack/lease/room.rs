//! Room for leases: how many there may be on this node, how many bytes they may use, and each tenant's share of both.
//!
//! A request that may return a lease gets its room *before* it is sent ([`Room::book`]). So no lease is issued that cannot be kept. If the answer
//! has a lease, it keeps the room ([`Booking::keep`]) until the lease is gone from the table. This includes the time when it is retired, and until
//! it is revoked. If the answer has no lease, the room is given back.
//!
//! Nobody knows in advance which requests return a lease. If such requests use up the tenant's share, and not leases, the next request waits until
//! one of them has ended. It holds only its mount's place while it waits. A request that has a turn at a store already has its room.

use std::sync::{Mutex, PoisonError};

use tokio::time::{Duration, Instant};

use crate::backend::Scope;
use crate::model::{Lease, Login, RefParts, SecretRef, Tenant};
use crate::shares::{Held, Shares};
use crate::turns::{Drawn, Turn, Turns};

/// The most leases on this node, including those of requests under way.
pub(super) const MOST: usize = 4096;

/// The most leases of one Pod, or of the Pods of one ServiceAccount that share theirs. A class has at most `limits.objects` of them, but a class
/// that changes again and again asks for more and more.
pub(super) const MOST_EACH: usize = 128;

/// The weight of a record besides texts and bytes.
const RECORD: usize = 1536;

/// The weight that is assumed for an answer before it is there.
const ANSWER: usize = 1024;

/// The weight of one Pod in a record.
pub(super) const POD: usize = 192;

/// How often the log reports a refusal.
const TELL: Duration = Duration::from_mins(1);

pub(super) struct Room {
    /// A turn is a request under way. If its lease is kept, the turn is a lease.
    leases: Turns,
    bytes: Shares,
    told: Mutex<Option<Instant>>,
}

/// The room for one request that may return a lease.
pub(super) struct Booking {
    turn: Turn,
    bytes: Shares,
}

/// The room of a lease in the table.
#[derive(Debug)]
pub(super) struct Place {
    _lease: Drawn,
    held: Held,
    bytes: Shares,
}

/// Why there is no room.
#[derive(Debug)]
pub(super) enum Full {
    /// The tenant's leases use as many bytes as they may.
    Bytes { tenant: Tenant, held: usize, capacity: usize },
    /// One Pod or ServiceAccount has as many leases as it may.
    Holder(Scope),
    /// There may be room when other requests have ended. None of them ended in time.
    Late,
    /// The node has no room for anybody.
    Node,
    /// The tenant has its full share.
    Share { tenant: Tenant, held: usize },
}

// === impl Room ===

impl Room {
    /// `bytes` is for all leases together.
    pub fn new(bytes: usize) -> Self {
        Self { leases: Turns::new(MOST), bytes: Shares::new(bytes), told: Mutex::default() }
    }

    /// Books room for what a request may return. Waits until `until` for requests under way.
    pub async fn book(&self, tenant: &Tenant, secret: &SecretRef, until: Instant) -> Result<Booking, Full> {
        // The store's answer is not known yet. But it is known what the class asks for.
        let bare = RECORD + weight_of(secret) + ANSWER;
        if self.bytes.take(tenant, bare).is_none() {
            return Err(self.refuse(self.full_of_bytes(tenant)));
        }
        if !self.leases.may_come(tenant) {
            return Err(self.refuse(self.full(tenant)));
        }
        match self.leases.take(tenant, until).await {
            Some(turn) => Ok(Booking { turn, bytes: self.bytes.clone() }),
            // The requests that it waited for returned leases.
            None if !self.leases.may_come(tenant) => Err(self.refuse(self.full(tenant))),
            None => Err(Full::Late),
        }
    }

    /// Counts a lease of a former process, whatever the shares say: none of these is thrown away.
    pub fn count(&self, tenant: &Tenant, weight: usize) -> Place {
        Place { _lease: self.leases.count(tenant, 1), held: self.bytes.count(tenant, weight), bytes: self.bytes.clone() }
    }

    /// Leases by tenant, including requests under way.
    #[cfg(test)]
    pub fn leases(&self) -> &Shares {
        self.leases.slots()
    }

    /// Bytes of leases, including their credentials and requests under way.
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

    /// Once a minute the log names the tenants that have the most.
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

    /// For a lease of this weight.
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

    /// Takes some bytes more. Returns whether the tenant's share has them.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let Some(more) = self.bytes.take(self.held.tenant(), bytes) else { return false };
        self.held.join(more);
        true
    }

    /// Gives this many bytes back.
    pub fn shrink_by(&mut self, bytes: usize) {
        self.held.shrink(self.held.n().saturating_sub(bytes));
    }
}

// === impl Full ===

impl Full {
    /// The cause, and in brackets what to do. `None`: the store is slow.
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
                format!(
                    "there are {MOST} leases on this node, the most that it can have (share leases with `lease: shared`, or spread the Pods)"
                )
            }
            Self::Share { tenant, held } => format!(
                "namespace {tenant} has {held} of {MOST} leases on this node, and a namespace must leave as many free for others as it has \
                 (ask for fewer leased secrets, share them with `lease: shared`, or spread the Pods)"
            ),
        })
    }
}

// === weights ===

/// The weight of a request's texts.
pub(super) fn weight_of(secret: &SecretRef) -> usize {
    let RefParts { backend, name, version, method: _, args, lease: _, keep: _, login } = &**secret;
    let Login { address, audience, mount, namespace, role, tls } = login;
    let texts = [address, audience, mount, namespace, role].into_iter().flatten().map(String::len).sum::<usize>();
    let files = tls.iter().flat_map(|tls| tls.files()).map(|file| file.as_os_str().len()).sum::<usize>();
    let of_tls = tls.iter().filter_map(|tls| tls.server_name.as_ref()).map(String::len).sum::<usize>();
    // A login that a lease needs is also kept at its store, and for the keeper.
    let login = 3 * (texts + files + of_tls);
    // Each argument has its own allocations.
    let args = args.bytes() + 64 * args.names().count();
    let version = version.as_ref().map_or(0, |version| version.as_str().len());
    backend.as_str().len() + name.as_str().len() + version + args + login
}

/// The weight of a record without its secret: the request, and the lease with its token.
pub(super) fn weight_of_record(secret: &SecretRef, lease: &Lease) -> usize {
    RECORD + weight_of(secret) + lease.id.len() + lease.token.len()
}
