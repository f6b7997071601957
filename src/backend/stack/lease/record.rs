//! One credential with its lease, as the table has it: who has it, what is given, and what to do with it next.

use std::collections::BTreeSet;
use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use jiff::Timestamp;
use tokio::time::{Duration, Instant};

use super::Store;
use super::calls::{Lane, Server, StoreName};
use super::life::{Life, Moment, backoff};
use super::room::{POD, Place};
use crate::backend::{BackendError, Scope};
use crate::model::{Fetched, Lease, PodIdentity, Secret, SecretRef, Source, Tenant};
use crate::redact::Hidden;
use crate::telemetry::Counted;

/// The longest reason of a failure in the log, in characters.
const LONGEST: usize = 2_000;

/// Represents those Pods of a record that it has no room to remember. No Pod has an empty uid, so this one is never gone.
const OTHERS: &str = "";

/// The shortest time between two renewals of a lease, however short its life is.
const PACE: Duration = Duration::from_millis(500);

/// What one holder gets for one request.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Key {
    pub holder: Scope,
    pub secret: SecretRef,
}

/// Names a record, in this process and on the disk.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct RecordId(u128);

/// Names a farewell: one store gives back what it kept for a Pod that is gone.
pub(super) type FarewellId = u64;

/// The stage of a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// Mounts get it, and it is renewed in its turn.
    Kept,
    /// Mounts get it, and it is replaced in its turn, because it cannot be renewed any more.
    Last,
    /// Mounts no longer get it. It ends by itself: a Pod may still use it.
    Retired,
    /// Nobody uses it: it must be revoked.
    Leaving,
}

/// Where the table has noted the next turn of a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Booked {
    /// In its store's queue of calls; it ends at this time.
    Due(Instant),
    Later(Instant),
    /// Nowhere: a call is under way.
    No,
}

#[derive(Debug)]
pub(super) struct Record {
    pub id: RecordId,
    pub key: Key,
    /// Its part of the tenant's share, until it is gone.
    pub place: Place,
    /// The lane for calls about it.
    pub lane: Arc<Lane>,
    /// The stack that issued it. After a reload this can be a former stack.
    pub store: Store,
    /// What mounts get. The lease in it is as it was when it was issued.
    pub secret: Option<Arc<Secret>>,
    /// The lease as it is now.
    pub lease: Lease,
    pub life: Life,
    pub stage: Stage,
    /// The Pods that have it, by uid.
    pub pods: BTreeSet<Arc<str>>,
    /// Whom it was issued for, in words for people.
    pub issued_for: Arc<str>,
    pub issued: Timestamp,
    /// Whether a call about it is under way.
    pub busy: bool,
    /// How many calls in a row have failed.
    pub tries: u32,
    /// There is no call before this time.
    pub next: Instant,
    /// Counts it in the metrics while mounts get it.
    pub gauge: Option<Counted>,
    pub booked: Booked,
    /// Whether the disk has it, or may have it: set when a write begins.
    pub written: Arc<AtomicBool>,
    /// The farewells that wait until it is gone.
    pub farewells: Vec<FarewellId>,
}

// === impl RecordId ===

impl RecordId {
    pub fn random() -> Self {
        let mut random = [0; 16];
        // The caller makes sure that no two ids are equal.
        let _ = aws_lc_rs::rand::fill(&mut random);
        Self(u128::from_ne_bytes(random))
    }

    /// One of this number of lanes, always the same one.
    pub fn lane(self, lanes: usize) -> usize {
        usize::from(self.0.to_ne_bytes()[0]) % lanes
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for RecordId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

// === impl Record ===

impl Record {
    /// `life` is the life of the secret's lease.
    pub fn issued(
        key: Key,
        store: Store,
        place: Place,
        (secret, lease, life): (&Arc<Secret>, Lease, Life),
        pod: &PodIdentity,
        gauge: Counted,
        now: Moment,
    ) -> Self {
        Self {
            id: RecordId::random(),
            lane: lane(&store, &key.secret, place.tenant()),
            key,
            place,
            store,
            secret: Some(Arc::clone(secret)),
            stage: if lease.renewable { Stage::Kept } else { Stage::Last },
            lease,
            life,
            pods: BTreeSet::from([Arc::clone(&pod.uid)]),
            issued_for: format!("{}/{}", pod.namespace, pod.name).into(),
            issued: now.wall,
            busy: false,
            tries: 0,
            next: now.at,
            gauge: Some(gauge),
            booked: Booked::No,
            written: Arc::default(),
            farewells: Vec::new(),
        }
    }

    /// What a mount gets, while this is allowed.
    pub fn give(&self, now: Moment) -> Option<Fetched> {
        let secret = self.secret.clone().filter(|_| self.life.lasts(now))?;
        let age = Duration::try_from(now.wall.duration_since(self.issued)).unwrap_or_default();
        Some(Fetched { secret, source: Source::Fresh { age }, by: self.key.secret.backend.clone() })
    }

    /// A failure that is safe to show: the store may quote the credential that it could not renew or replace.
    pub fn told(&self, error: &BackendError) -> BackendError {
        let mut hidden = Hidden::default();
        for field in self.secret.iter().flat_map(|secret| secret.fields.values()) {
            hidden.value(field.bytes.expose());
        }
        BackendError { reason: hidden.clean(&error.reason, LONGEST), ..error.clone() }
    }

    /// A Pod uses it. Returns the Pod's name in the table, if that is new.
    pub fn used_by(&mut self, pod: &PodIdentity) -> Option<Arc<str>> {
        if self.pods.contains(&*pod.uid) || self.pods.contains(OTHERS) {
            return None;
        }
        let pod = if self.place.grow(POD) { Arc::clone(&pod.uid) } else { OTHERS.into() };
        self.pods.insert(Arc::clone(&pod));
        Some(pod)
    }

    /// A Pod does not use it any more. Returns whether it did before.
    pub fn left_by(&mut self, pod: &str) -> bool {
        let was = self.pods.remove(pod);
        if was {
            self.place.shrink_by(POD);
        }
        was
    }

    /// Whether a mount should ask this stack for another one now.
    pub fn wants_replacing(&self, by: &Store, now: Moment) -> bool {
        let last = self.stage == Stage::Last && now.at >= self.life.turns_at();
        // The backend's configuration has changed since.
        let other = self.store.origin != by.origin;
        (last || other) && now.at >= self.next
    }

    /// Whether to postpone its end, because a mount asked for it. Not each time, because each change is written to the disk.
    pub fn is_to_be_put_off(&self, now: Instant) -> bool {
        let (left, full) = self.life.left(now);
        self.lease.while_asked && left < full / 8 * 7
    }

    pub fn put_off(&mut self, now: Moment) {
        self.lease.put_off(now.wall);
        if let Some(life) = Life::of(&self.lease, now) {
            self.life = life;
        }
    }

    /// Mounts no longer get it. It is still revoked if its Pods go before it ends.
    pub fn retire(&mut self) {
        if let Some(secret) = self.secret.take() {
            self.place.shrink_by(secret.weight());
        }
        self.gauge = None;
        self.stage = Stage::Retired;
    }

    pub fn leave(&mut self, now: Instant) {
        self.retire();
        (self.stage, self.tries, self.next) = (Stage::Leaving, 0, now);
    }

    /// Takes the renewed lease. Returns whether it lives.
    pub fn renew(&mut self, lease: Lease, now: Moment) -> bool {
        let Some((life, last)) = self.life.renewed(&lease, now) else { return false };
        (self.lease, self.life, self.tries, self.next) = (lease, life, 0, now.at + PACE);
        if last && self.stage == Stage::Kept {
            self.stage = Stage::Last;
        }
        true
    }

    /// The next mount asks for another one.
    pub fn last(&mut self, now: Instant) {
        if self.stage == Stage::Kept {
            self.stage = Stage::Last;
            self.life.turn(now);
        }
    }

    pub fn failed(&mut self, now: Instant) {
        self.tries += 1;
        self.next = now + backoff(self.tries);
    }

    /// When the keeper has something to do for it.
    pub fn due(&self) -> Instant {
        let turn = match self.stage {
            Stage::Kept => self.life.turns_at().max(self.next),
            Stage::Last | Stage::Retired => self.life.ends_at(),
            Stage::Leaving => self.next,
        };
        turn.min(self.life.ends_at())
    }
}

/// The lane for calls about a lease.
pub(super) fn lane(store: &Store, secret: &SecretRef, tenant: &Tenant) -> Arc<Lane> {
    let server = Server::Leases(secret.login.address.as_deref().map(Arc::from));
    Arc::new(Lane { store: StoreName::of(store), server, tenant: tenant.clone() })
}
