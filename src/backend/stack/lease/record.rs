//! One credential with its lease, as the table has it: whose it is, what it is given as, and what is to be done with it next.

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

/// Stands among the Pods of a record for those that it has no room to remember. No Pod's uid is empty, and so this one is never gone.
const OTHERS: &str = "";

/// How often a lease is renewed at the most, however short its life is.
const PACE: Duration = Duration::from_millis(500);

/// What one holder is given for one request.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Key {
    pub holder: Scope,
    pub secret: SecretRef,
}

/// Names a record, in this process and on the disk.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct RecordId(u128);

/// Names a farewell: of a Pod that is gone, from one of its stores.
pub(super) type FarewellId = u64;

/// What becomes of a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// Given, and renewed in its turn.
    Kept,
    /// Given, and replaced in its turn: it cannot be renewed any further.
    Last,
    /// Not given any more, and left to its end: a Pod may still use it.
    Retired,
    /// Nobody uses it: to be revoked.
    Leaving,
}

/// Where the table has noted when a record's turn comes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Booked {
    /// Its store is to be called; it ends then.
    Due(Instant),
    Later(Instant),
    /// Nowhere: a call is under way.
    No,
}

#[derive(Debug)]
pub(super) struct Record {
    pub id: RecordId,
    pub key: Key,
    /// Its share of what tenants have, until it is gone.
    pub place: Place,
    /// Where its store is called about it, and for whom.
    pub lane: Arc<Lane>,
    /// The stack that issued it: after a reload not always the one in force.
    pub store: Store,
    /// What is given; the lease in it is as it was at issue.
    pub secret: Option<Arc<Secret>>,
    /// As it is now.
    pub lease: Lease,
    pub life: Life,
    pub stage: Stage,
    /// Who was given it, by uid.
    pub pods: BTreeSet<Arc<str>>,
    /// Whom it was issued for, as people call it.
    pub issued_for: Arc<str>,
    pub issued: Timestamp,
    /// A call about it is under way.
    pub busy: bool,
    /// How many calls in a row have failed.
    pub tries: u32,
    /// No call before.
    pub next: Instant,
    /// Counts it while it is given.
    pub gauge: Option<Counted>,
    pub booked: Booked,
    /// Whether the disk has it, or may: set when writing begins.
    pub written: Arc<AtomicBool>,
    /// Who takes leave once it is gone.
    pub farewells: Vec<FarewellId>,
}

// === impl RecordId ===

impl RecordId {
    pub fn random() -> Self {
        let mut random = [0; 16];
        // Its user sees to it that no two are equal.
        let _ = aws_lc_rs::rand::fill(&mut random);
        Self(u128::from_ne_bytes(random))
    }

    /// One of so many, always the same.
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
    /// `life`: of the lease that the secret has.
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

    /// What a mount is given, as long as it may be.
    pub fn give(&self, now: Moment) -> Option<Fetched> {
        let secret = self.secret.clone().filter(|_| self.life.lasts(now))?;
        let age = Duration::try_from(now.wall.duration_since(self.issued)).unwrap_or_default();
        Some(Fetched { secret, source: Source::Fresh { age }, by: self.key.secret.backend.clone() })
    }

    /// A failure as it may be told: the store may quote the credential that it could not renew or replace.
    pub fn told(&self, error: &BackendError) -> BackendError {
        let mut hidden = Hidden::default();
        for field in self.secret.iter().flat_map(|secret| secret.fields.values()) {
            hidden.value(field.bytes.expose());
        }
        BackendError { reason: hidden.clean(&error.reason, LONGEST), ..error.clone() }
    }

    /// As whom the table knows this Pod from now on, if that is news.
    pub fn used_by(&mut self, pod: &PodIdentity) -> Option<Arc<str>> {
        if self.pods.contains(&*pod.uid) || self.pods.contains(OTHERS) {
            return None;
        }
        let pod = if self.place.grow(POD) { Arc::clone(&pod.uid) } else { OTHERS.into() };
        self.pods.insert(Arc::clone(&pod));
        Some(pod)
    }

    /// Whether it was one of those that use it.
    pub fn left_by(&mut self, pod: &str) -> bool {
        let was = self.pods.remove(pod);
        if was {
            self.place.shrink_by(POD);
        }
        was
    }

    /// Whether a mount should try for another one now, by this stack.
    pub fn wants_replacing(&self, by: &Store, now: Moment) -> bool {
        let last = self.stage == Stage::Last && now.at >= self.life.turns_at();
        // The backend was configured otherwise since.
        let other = self.store.origin != by.origin;
        (last || other) && now.at >= self.next
    }

    /// Whether its end is to be put off, since it was asked for. Not each time: each change is written to the disk.
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

    /// Not given any more; still revoked if its Pods go before it ends.
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

    /// Takes a renewed lease over. Whether it lives.
    pub fn renew(&mut self, lease: Lease, now: Moment) -> bool {
        let Some((life, last)) = self.life.renewed(&lease, now) else { return false };
        (self.lease, self.life, self.tries, self.next) = (lease, life, 0, now.at + PACE);
        if last && self.stage == Stage::Kept {
            self.stage = Stage::Last;
        }
        true
    }

    /// The next mount tries for another.
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

    /// When the keeper has something to do with it.
    pub fn due(&self) -> Instant {
        let turn = match self.stage {
            Stage::Kept => self.life.turns_at().max(self.next),
            Stage::Last | Stage::Retired => self.life.ends_at(),
            Stage::Leaving => self.next,
        };
        turn.min(self.life.ends_at())
    }
}

/// Where a store is called about a lease.
pub(super) fn lane(store: &Store, secret: &SecretRef, tenant: &Tenant) -> Arc<Lane> {
    let server = Server::Leases(secret.login.address.as_deref().map(Arc::from));
    Arc::new(Lane { store: StoreName::of(store), server, tenant: tenant.clone() })
}
