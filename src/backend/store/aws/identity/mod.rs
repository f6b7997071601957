//! The logins to AWS: one for each role and the Pods that share it. It is made once, again before it ends, and forgotten with the last Pod
//! that used it.
//!
//! Reading order: this file (which login a request takes), `login` (how it is made), `session` (what it gives), `sts` (the service that gives
//! it), `agent`, `instance`, `keys` and `issued` (other sources of keys), `name` (what CloudTrail shows).
//!
//! The daemon's own key (`keys`, `instance`) is never used for a role that a class names. With that key, AWS gives every role that trusts
//! it, and only the configuration says which role is for whom. With a Pod's token, AWS gives only roles that trust that ServiceAccount.

mod agent;
mod instance;
mod issued;
mod keys;
mod login;
mod name;
mod session;
mod sts;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

pub(super) use session::Session;

use agent::Agent;
use instance::Instance;
use sts::Sts;

use super::config::{Assume, Auth, AwsConfig, KeyFiles, Share};
use super::endpoint::{Region, Service};
use super::error::Failure;
use super::line::Line;
use super::role::{self, RoleTemplate};
use crate::backend::remote::annotation::{Annotation, Annotations, Noted};
use crate::backend::remote::echo;
use crate::backend::remote::refusal::Refusal;
use crate::backend::remote::slot::{Slot, Slots};
use crate::backend::{Fault, FetchContext, Scope};
use crate::clock::Clock;
use crate::files::Desk;
use crate::http::HttpError;
use crate::model::{PodIdentity, Secret, SecretBytes, SecretRef, quoted};

/// The most sessions that are kept, besides those in use; fewer if their roles have long names. A node has a few hundred Pods.
const MAX_SESSIONS: usize = 1_536;

/// The bytes that a session counts for: AWS's session tokens are 1 to 2 KiB long, and may become longer.
const SESSION: usize = 4 * 1024;

/// The largest answer of STS in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// Threads that read key files: a file system that hangs cannot take more threads.
const THREADS: usize = 2;

/// The annotation in which EKS tools write the role of a ServiceAccount.
const ANNOTATION: Annotation = Annotation {
    key: "eks.amazonaws.com/role-arn",
    names: "role",
    example: "arn:aws:iam::111122223333:role/...",
    in_class: "name a `role` in the class",
    in_configuration: "auth.role of the backend",
    check: role::check,
};

/// The tenant and Pod of all logins of the daemon itself.
const NOBODY: &str = "";

/// All logins of a backend.
#[derive(Debug)]
pub(super) struct Identities {
    way: Way,
    share: Share,
    assume: Vec<Assume>,
    /// The partition of a role must be the region's.
    region: Region,
    sts: Sts,
    clock: Arc<dyn Clock>,
    /// The daemon's own key, if the daemon logs in with one.
    own: Slot<Session>,
    sessions: Mutex<Slots<Key, Session>>,
}

/// How Keyferry gets the first key, before it assumes other roles with it.
#[derive(Debug)]
enum Way {
    Agent { audience: String, agent: Agent },
    Instance(Instance),
    Irsa { audience: String, role: Option<RoleTemplate>, annotations: Box<Annotations> },
    Keys { files: KeyFiles, desk: Desk },
}

/// A login and those who share it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Key {
    /// Only for [`Way::Irsa`].
    role: Option<String>,
    who: Scope,
}

/// The role of a Pod's login, and who named it.
enum Role {
    Annotated(Arc<Noted>),
    /// The class named it.
    Chosen(String),
    /// The configuration named it.
    Filled(String),
    /// EKS has it, or it is the daemon's own.
    Unsaid,
}

// === impl Identities ===

impl Identities {
    /// Nothing is connected before the first login.
    ///
    /// # Errors
    /// The CA cannot be used.
    pub(super) fn open(config: &AwsConfig, clock: Arc<dyn Clock>) -> Result<Self, HttpError> {
        Self::with(config, || Annotations::in_cluster(ANNOTATION), clock)
    }

    fn with(config: &AwsConfig, annotations: impl FnOnce() -> Annotations, clock: Arc<dyn Clock>) -> Result<Self, HttpError> {
        let sts = Sts::new(Line::open(config, Service::Tokens, MAX_ANSWER, &clock)?);
        let (way, share) = match &config.auth {
            Auth::Instance { address } => (Way::Instance(Instance::new(address.as_ref())?), Share::ServiceAccount),
            Auth::Irsa { audience, role, share } => {
                (Way::Irsa { audience: audience.clone(), role: role.clone(), annotations: Box::new(annotations()) }, *share)
            }
            Auth::Keys(files) => (Way::Keys { files: files.clone(), desk: Desk::new(THREADS) }, Share::ServiceAccount),
            Auth::PodIdentity { audience, address, share } => {
                (Way::Agent { audience: audience.clone(), agent: Agent::new(address.as_ref(), config.store_words)? }, *share)
            }
        };
        Ok(Self {
            way,
            share,
            assume: config.assume.clone(),
            region: config.region.clone(),
            sts,
            clock,
            own: Slot::default(),
            sessions: Mutex::new(Slots::of_bytes(MAX_SESSIONS * SESSION)),
        })
    }

    /// The session for a request: the present one, or a new one. If many come at the same time, one logs in.
    ///
    /// # Errors
    /// There is no credential for the login, AWS refuses it, or there was no answer.
    pub(super) async fn session(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Arc<Session>, Refusal> {
        let who = self.scope(secret, &cx.pod);
        let named = self.role(secret, cx).await?;
        if who == Scope::Node && self.assume.is_empty() {
            return self.own(cx.deadline).await;
        }
        let tenant = if who == Scope::Node { NOBODY } else { &*cx.pod.namespace };
        let key = Key { role: named.as_text().map(str::to_owned), who: who.clone() };
        let weight = SESSION + 2 * named.as_text().map_or(0, str::len);
        let (slot, gone) = self.lock().enter(tenant, key, &cx.pod.uid, weight);
        // This is outside of the lock.
        drop(gone);
        let log_in = async {
            let before = slot.pass();
            // Few requests log in, and this future is large. In its box, it does not make the other futures larger.
            let session = Box::pin(self.log_in(&named, &who, cx)).await?;
            Ok::<_, Refusal>(Arc::new(session.in_place_of(before.as_deref())))
        };
        let entered = slot.enter(None, &cx.pod.uid, cx.deadline, log_in).await;
        if let (Role::Annotated(noted), Err(Refusal { fault: Fault::Unauthenticated, .. })) = (&named, &entered) {
            noted.doubt();
        }
        entered
    }

    /// AWS no longer accepts this session: it is not given again. The caller asks for another one.
    pub(super) fn refused(&self, session: &Session) {
        session.refuse();
        // The key that it was made with may be the reason.
        if let (Some(own), Some(used)) = (self.own.pass(), session.own())
            && Arc::ptr_eq(&own.credentials(), used)
        {
            own.refuse();
        }
    }

    /// Whether a secret holds the key of its request, or the daemon's own key: the one of the login, or the present one. No Pod may get
    /// those.
    pub(super) async fn is_in(&self, session: &Session, secret: &Secret, deadline: Instant) -> bool {
        let version = secret.version.as_ref().map(|version| SecretBytes::new(version.as_str().into()));
        let told: Vec<&SecretBytes> = secret.response.as_ref().map(|response| &**response.bytes()).into_iter().chain(&version).collect();
        // The files may have another key by now, although the session of a role is still valid.
        let own = match &self.way {
            Way::Keys { .. } => self.own(deadline).await.ok().or_else(|| self.own.pass()),
            Way::Agent { .. } | Way::Instance(_) | Way::Irsa { .. } => self.own.pass(),
        };
        let now = own.iter().flat_map(|own| own.keys()).filter(|now| session.keys().all(|key| !Arc::ptr_eq(key, now)));
        let mut keys = session.keys().chain(now).flat_map(|key| key.secrets());
        keys.any(|key| told.iter().any(|told| echo::holds(told, &key)))
    }

    /// Who may get the same answer: those who are the same to AWS.
    pub(super) fn scope(&self, _: &SecretRef, pod: &PodIdentity) -> Scope {
        let is_own = matches!(self.way, Way::Instance(_) | Way::Keys { .. });
        if is_own && self.assume.iter().all(|assume| assume.role.is_fixed()) {
            return Scope::Node;
        }
        match (self.share, pod.proven_account()) {
            (Share::ServiceAccount, Some(account)) => Scope::Account(account),
            (Share::Pod | Share::ServiceAccount, _) => Scope::Pod(Arc::clone(&pod.uid)),
        }
    }

    /// The Pod with this uid is gone: what was kept only for it is removed. AWS cannot revoke a key; each ends by itself.
    pub(super) fn forget(&self, pod: &str) {
        let gone = self.lock().forget(pod);
        drop(gone);
        if let Way::Irsa { annotations, .. } = &self.way {
            annotations.forget(pod);
        }
    }

    /// Whether AWS accepts the daemon's own key. Returns the ARN of its owner. `None`: each Pod logs in for itself.
    ///
    /// # Errors
    /// The daemon has no key, AWS refuses it, or there was no answer.
    pub(super) async fn check(&self, deadline: Instant) -> Result<Option<String>, Refusal> {
        if matches!(self.way, Way::Agent { .. } | Way::Irsa { .. }) {
            return Ok(None);
        }
        let session = self.own(deadline).await?;
        let asked = self.sts.caller(&session.credentials(), deadline).await;
        if asked.as_ref().is_err_and(Failure::is_of_the_key) {
            self.refused(&session);
        }
        asked.map(Some).map_err(|failure| failure.of_login("the daemon's own key", self.own_remedy()))
    }

    /// Whether STS answers, if Pods log in there. `None`: they do not, or [`Self::check`] asks it.
    pub(super) async fn reach(&self, deadline: Instant) -> Option<Result<(), Refusal>> {
        let is_asked = match &self.way {
            Way::Agent { .. } => !self.assume.is_empty(),
            Way::Irsa { .. } => true,
            Way::Instance(_) | Way::Keys { .. } => false,
        };
        if is_asked { Some(self.sts.reach(deadline).await) } else { None }
    }

    // === which role ===

    async fn role(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Role, Refusal> {
        let (named, chained) = (secret.login.role.as_deref(), !self.assume.is_empty());
        let Way::Irsa { role, annotations, .. } = &self.way else {
            return match named {
                Some(_) => Err(foreign("Keyferry does not log in with the Pod's token for STS here")),
                None => Ok(Role::Unsaid),
            };
        };
        match (named, role) {
            (Some(_), _) if chained => Err(foreign("the configuration has an assumeRole")),
            (Some(named), _) => match role::check(named) {
                Ok(()) => Ok(Role::Chosen(named.to_owned())),
                Err(problem) => Err(Refusal::new(Fault::Invalid, format!("role: {} {problem}", quoted(named)))),
            },
            (None, Some(template)) => self.filled("auth.role", template, &cx.pod).map(Role::Filled),
            (None, None) => self.annotated(annotations.of_pod(&cx.pod, cx.deadline).await?, &cx.pod),
        }
    }

    fn annotated(&self, noted: Arc<Noted>, pod: &PodIdentity) -> Result<Role, Refusal> {
        if let Err(problem) = self.region.check_arn(&noted.value) {
            // The next request reads it again: somebody may have corrected it.
            noted.doubt();
            let (account, key) = (format!("{}/{}", pod.namespace, pod.service_account), ANNOTATION.key);
            let reason = format!("ServiceAccount {account}: its annotation {key}: {} {problem}", quoted(&noted.value));
            return Err(Refusal::new(Fault::Unauthenticated, reason));
        }
        Ok(Role::Annotated(noted))
    }

    fn filled(&self, key: &str, template: &RoleTemplate, pod: &PodIdentity) -> Result<String, Refusal> {
        template.fill(&pod.namespace, &pod.service_account).map_err(|problem| {
            let place = if matches!(self.way, Way::Irsa { .. }) && key == "auth.role" { ", or name a `role` in the class" } else { "" };
            Refusal::new(Fault::Unauthenticated, format!("{key} of the backend: {problem}{place}"))
        })
    }

    /// A panic elsewhere cannot leave it half-changed: each step is one call of a map's method.
    fn lock(&self) -> MutexGuard<'_, Slots<Key, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The class names a role, but may not choose it.
fn foreign(why: &str) -> Refusal {
    Refusal::new(Fault::Denied, format!("role: a class cannot choose it: {why} (remove it)"))
}

// === impl Role ===

impl Role {
    fn as_text(&self) -> Option<&str> {
        match self {
            Self::Annotated(noted) => Some(&noted.value),
            Self::Chosen(role) | Self::Filled(role) => Some(role),
            Self::Unsaid => None,
        }
    }
}
