//! One answer as the sealed folder has it: two lines of JSON. The first line has the request, for whom it is, and when the store was asked. The
//! second line has the answer. So a start reads only the first lines, and not the secrets.

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

/// An answer to write.
#[derive(Clone, Debug)]
pub(in crate::backend::stack::cache) struct Answer {
    pub asked: Asked,
    pub secret: Arc<Secret>,
    pub by: BackendName,
    pub since: Since,
    /// The highest age that it may have, by the configuration at the time when the store was asked.
    pub bound: Duration,
    /// The Pod for which the store was asked.
    pub pod: Arc<PodIdentity>,
}

/// Identifies an answer or a login, but does not reveal it. On the disk, the file name is an HMAC of it.
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
    /// The id of a request to a backend with this configuration.
    pub fn of(origin: &str, asked: &Asked) -> Self {
        Self::hashed(&(origin, Holder::of(&asked.scope), Reference::of(&asked.secret)))
    }

    /// The id of a login that answers depend on.
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
    /// The file's content, and the place where the second line begins.
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
        // These types can always become JSON. Empty content is ignored when it is read.
        let given = Zeroizing::new(serde_json::to_vec(&Given::of(&self.secret)).unwrap_or_default());
        let head = serde_json::to_vec(&head).unwrap_or_default();
        let mut content = Zeroizing::new(Vec::with_capacity(head.len() + 1 + given.len()));
        content.extend_from_slice(&head);
        content.push(b'\n');
        content.extend_from_slice(&given);
        (content, head.len() + 1)
    }

    /// The content of a file, if it is the answer to this request, of this origin and time.
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

/// Both lines of a file; `None`: Keyferry did not write it.
pub(super) fn split(content: &[u8]) -> Option<(Head, &[u8])> {
    let end = content.iter().position(|byte| *byte == b'\n')?;
    let (head, given) = content.split_at_checked(end)?;
    Some((serde_json::from_slice(head).ok()?, given.get(1..)?))
}

impl Head {
    /// The request that it answers.
    pub fn asked(&self) -> Option<Asked> {
        Some(Asked { scope: self.scope.clone().back(), secret: self.secret.clone().back()? })
    }
}
