//! One answer as the sealed folder has it: two lines of JSON. The first says what it is an answer to, for whom, and when the store was
//! asked; the second is the answer. So what is needed of all of them at a start is read without what is in them.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Duration;
use zeroize::Zeroizing;

use crate::backend::Scope;
use crate::backend::stack::asked::Asked;
use crate::backend::stack::cache::since::Since;
use crate::backend::stack::written::{Entry, Given, Reference, millis};
use crate::model::{Account, BackendName, Login, PodIdentity, Secret};

/// An answer to be kept.
#[derive(Clone, Debug)]
pub(in crate::backend::stack::cache) struct Answer {
    pub asked: Asked,
    pub secret: Arc<Secret>,
    pub by: BackendName,
    pub since: Since,
    /// How old it may become, by the configuration in force when the store was asked.
    pub bound: Duration,
    /// For whom the store was asked.
    pub pod: Arc<PodIdentity>,
}

/// Names an answer, or a login. Says nothing of it; on the disk it is a name's HMAC once more.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Id([u8; 16]);

/// The first line.
#[derive(Deserialize, Serialize)]
pub(super) struct Head {
    pub origin: String,
    pub by: String,
    pub scope: Holder,
    pub secret: Reference,
    pub namespace: String,
    pub account: String,
    pub at: Timestamp,
    /// In milliseconds.
    pub bound: u64,
}

#[derive(Clone, Deserialize, Serialize)]
pub(super) enum Holder {
    Account { namespace: String, name: String, uid: Option<String> },
    Node,
    Pod(String),
}

// === impl Id ===

impl Id {
    /// Of what is asked of a backend, by this configuration of it.
    pub fn of(origin: &str, asked: &Asked) -> Self {
        Self::hashed(&(origin, Holder::of(&asked.scope), Reference::of(&asked.secret)))
    }

    /// Of a login that is behind answers.
    pub fn of_login(backend: &BackendName, origin: &str, scope: &Scope, login: &Login) -> Self {
        Self::hashed(&("login", backend.as_str(), origin, Holder::of(scope), Entry::of(login)))
    }

    pub fn hashed(what: &impl Serialize) -> Self {
        let text = Zeroizing::new(serde_json::to_vec(what).unwrap_or_default());
        let mut id = [0; 16];
        id.copy_from_slice(digest(&SHA256, &text).as_ref().first_chunk::<16>().unwrap_or(&[0; 16]));
        Self(id)
    }

    pub fn text(self) -> String {
        data_encoding::HEXLOWER.encode(&self.0)
    }

    pub fn parse(text: &str) -> Option<Self> {
        data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok().map(Self)
    }
}

// === impl Holder ===

impl Holder {
    pub fn of(scope: &Scope) -> Self {
        match scope {
            Scope::Account(Account { namespace, name, uid }) => {
                Self::Account { namespace: namespace.to_string(), name: name.to_string(), uid: uid.as_ref().map(ToString::to_string) }
            }
            Scope::Node => Self::Node,
            Scope::Pod(uid) => Self::Pod(uid.to_string()),
        }
    }

    pub fn back(self) -> Scope {
        match self {
            Self::Account { namespace, name, uid } => {
                Scope::Account(Account { namespace: namespace.into(), name: name.into(), uid: uid.map(Arc::from) })
            }
            Self::Node => Scope::Node,
            Self::Pod(uid) => Scope::Pod(uid.into()),
        }
    }
}

// === impl Answer ===

impl Answer {
    /// The file's content, and where the second line begins.
    pub fn encode(&self, origin: &str) -> (Zeroizing<Vec<u8>>, usize) {
        let head = Head {
            origin: origin.to_owned(),
            by: self.by.to_string(),
            scope: Holder::of(&self.asked.scope),
            secret: Reference::of(&self.asked.secret),
            namespace: self.pod.namespace.to_string(),
            account: self.pod.service_account.to_string(),
            at: self.since.at,
            bound: millis(self.bound),
        };
        // Of these shapes nothing fails to become JSON; an empty content is nothing when it is read.
        let given = Zeroizing::new(serde_json::to_vec(&Given::of(&self.secret)).unwrap_or_default());
        let head = serde_json::to_vec(&head).unwrap_or_default();
        let mut content = Zeroizing::new(Vec::with_capacity(head.len() + 1 + given.len()));
        content.extend_from_slice(&head);
        content.push(b'\n');
        content.extend_from_slice(&given);
        (content, head.len() + 1)
    }

    /// What a file has, if it is the answer to just this, of this origin and time.
    pub fn decode(content: &[u8], origin: &str, asked: &Asked, at: Timestamp, pod: &Arc<PodIdentity>, since: Since) -> Option<Self> {
        let (head, given) = split(content)?;
        let by = head.by.parse().ok()?;
        let (bound, is_same) = (Duration::from_millis(head.bound), head.origin == origin && head.at == at);
        let is_asked = head.scope.back() == asked.scope && head.secret.back()? == asked.secret;
        let given: Given = serde_json::from_slice(given).ok()?;
        let secret = given.back(None).filter(|_| is_same && is_asked)?;
        Some(Self { asked: asked.clone(), secret: Arc::new(secret), by, since, bound, pod: Arc::clone(pod) })
    }
}

/// Both lines of a file; `None`: it is none of ours.
pub(super) fn split(content: &[u8]) -> Option<(Head, &[u8])> {
    let end = content.iter().position(|byte| *byte == b'\n')?;
    let (head, given) = content.split_at_checked(end)?;
    Some((serde_json::from_slice(head).ok()?, given.get(1..)?))
}

impl Head {
    /// What it is the answer to.
    pub fn asked(&self) -> Option<Asked> {
        Some(Asked { scope: self.scope.clone().back(), secret: self.secret.clone().back()? })
    }
}
