//! A record as the sealed folder has it: JSON, with bytes in base64. The folder has the format's version. Content that cannot be read is skipped,
//! and its lease ends by itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Duration;
use zeroize::Zeroizing;

use super::Store;
use super::life::{Life, Moment};
use super::record::{Booked, Key, Record, Stage, lane};
use super::room::{POD, Room, weight_of_record};
use crate::backend::Scope;
use crate::backend::stack::written::{Bytes, Given, Reference, decoded, encoded, millis};
use crate::model::{Account, BackendName, Lease, SecretBytes, SecretRef, Tenant};
use crate::telemetry::Metrics;

#[derive(Deserialize, Serialize)]
pub(super) struct Saved {
    id: String,
    origin: String,
    holder: Holder,
    secret: Reference,
    given: Option<Given>,
    lease: Times,
    /// Its whole life when it was issued, in milliseconds.
    life: u64,
    stage: Word,
    issued_for: String,
    issued: Timestamp,
    /// The Pods by uid, and whether each one's folder was seen below [`Saved::seen_in`].
    pods: BTreeMap<String, bool>,
    seen_in: PathBuf,
}

#[derive(Deserialize, Serialize)]
enum Holder {
    /// The ServiceAccount of all Pods that share it.
    Account {
        namespace: String,
        name: String,
        uid: Option<String>,
    },
    Pod(String),
    /// Version 0.1.0 wrote this: all who were the same to the store, possibly Pods of several tenants. It is written again without an owner.
    Shared(String),
}

#[derive(Clone, Copy, Deserialize, Serialize)]
enum Word {
    Kept,
    Last,
    /// Like `Last`, and its turn has come.
    Due,
    Retired,
    Leaving,
}

#[derive(Deserialize, Serialize)]
struct Times {
    id: Bytes,
    token: Bytes,
    renewable: bool,
    since: Timestamp,
    ends: Timestamp,
    #[serde(default)]
    while_asked: bool,
}

// === impl Saved ===

impl Saved {
    pub fn of(record: &Record, seen: impl Fn(&str) -> bool, seen_in: &Path, now: Moment) -> Self {
        Self {
            id: record.id.to_string(),
            origin: record.store.origin.as_str().to_owned(),
            holder: match &record.key.holder {
                Scope::Pod(uid) => Holder::Pod(uid.to_string()),
                Scope::Account(Account { namespace, name, uid }) => {
                    Holder::Account { namespace: namespace.to_string(), name: name.to_string(), uid: uid.as_ref().map(ToString::to_string) }
                }
                Scope::Node => Holder::Shared(String::new()),
            },
            secret: Reference::of(&record.key.secret),
            given: record.secret.as_deref().map(Given::of),
            lease: Times::of(&record.lease),
            life: millis(record.life.full()),
            stage: match record.stage {
                Stage::Kept => Word::Kept,
                Stage::Last if record.life.turns_at() <= now.at => Word::Due,
                Stage::Last => Word::Last,
                Stage::Retired => Word::Retired,
                Stage::Leaving => Word::Leaving,
            },
            issued_for: record.issued_for.to_string(),
            issued: record.issued,
            pods: record.pods.iter().map(|uid| (uid.to_string(), seen(uid))).collect(),
            seen_in: seen_in.to_owned(),
        }
    }

    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        // This type can always become JSON. Empty content would be skipped when it is read.
        Zeroizing::new(serde_json::to_vec(self).unwrap_or_default())
    }

    /// `None`: Keyferry did not write it.
    pub fn decode(content: &SecretBytes) -> Option<Self> {
        serde_json::from_slice(content.expose()).ok()
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn backend(&self) -> Option<BackendName> {
        self.secret.backend.parse().ok()
    }

    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether its lease has ended.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.lease.ends <= now
    }

    /// The Pods, and whether their folders were seen below `root`.
    pub fn pods(&self, root: &Path) -> Vec<(String, bool)> {
        self.pods.iter().map(|(uid, seen)| (uid.clone(), *seen && self.seen_in == root)).collect()
    }

    /// The tenant: a Pod's lease was issued for that Pod, and a shared one for a Pod of the account.
    fn tenant(&self) -> Tenant {
        match &self.holder {
            Holder::Account { namespace, .. } => namespace.as_str().into(),
            Holder::Pod(_) | Holder::Shared(_) => self.issued_for.split_once('/').map_or("", |(namespace, _)| namespace).into(),
        }
    }

    /// The record in this process. It counts in its tenant's share, also if that makes the share too large. `None`: it has ended, or this version
    /// does not understand a part of it.
    pub fn resume(self, store: Store, room: &Room, metrics: &Metrics, now: Moment) -> Option<Record> {
        let tenant = self.tenant();
        let secret = self.secret.back()?;
        let lease = self.lease.back(&secret)?;
        let mut life = Life::resumed(&lease, Duration::from_millis(self.life), now)?;
        if let Word::Due = self.stage {
            life.turn(now.at);
        }
        let (holder, known) = match self.holder {
            Holder::Account { namespace, name, uid } => {
                (Scope::Account(Account { namespace: namespace.into(), name: name.into(), uid: uid.map(Arc::from) }), true)
            }
            Holder::Pod(uid) => (Scope::Pod(uid.into()), true),
            // Nobody can say any more who has it, so no mount gets it. Pods that have it may use it until its end, or theirs.
            Holder::Shared(_) => (Scope::Node, false),
        };
        let given = match self.given.filter(|_| known) {
            Some(given) => Some(Arc::new(given.back(Some(lease.clone()))?)),
            None => None,
        };
        let stage = match self.stage {
            Word::Leaving => Stage::Leaving,
            Word::Kept | Word::Due | Word::Last | Word::Retired if !known => Stage::Retired,
            Word::Kept => Stage::Kept,
            Word::Due | Word::Last => Stage::Last,
            Word::Retired => Stage::Retired,
        };
        let gauge = given.as_ref().map(|_| metrics.lease_kept(secret.backend.as_str()));
        let weight = weight_of_record(&secret, &lease) + given.as_ref().map_or(0, |secret| secret.weight()) + POD * self.pods.len();
        Some(Record {
            id: self.id.parse().ok()?,
            place: room.count(&tenant, weight),
            lane: lane(&store, &secret, &tenant),
            key: Key { holder, secret },
            store,
            secret: given,
            lease,
            life,
            stage,
            pods: self.pods.into_keys().map(Arc::from).collect(),
            issued_for: self.issued_for.into(),
            issued: self.issued,
            busy: false,
            tries: 0,
            next: now.at,
            gauge,
            booked: Booked::No,
            written: Arc::new(AtomicBool::new(true)),
            farewells: Vec::new(),
        })
    }
}

// === impl Times ===

impl Times {
    fn of(lease: &Lease) -> Self {
        let Lease { id, renewable, since, ends, token, secret: _, while_asked } = lease;
        Self { id: encoded(id), token: encoded(token), renewable: *renewable, since: *since, ends: *ends, while_asked: *while_asked }
    }

    fn back(self, secret: &SecretRef) -> Option<Lease> {
        let Self { id, token, renewable, since, ends, while_asked } = self;
        let (id, token) = (Arc::new(decoded(&id)?), Arc::new(decoded(&token)?));
        Some(Lease { id, renewable, since, ends, token, secret: secret.clone(), while_asked })
    }
}
