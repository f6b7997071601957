//! The logins to AWS: one for each role and the Pods that share it. It is made once, again before it ends, and forgotten with the last Pod
//! that used it.
//!
//! Reading order: this file (which login a request takes), `session` (what a login gives), `sts` (the service that gives it), `agent`,
//! `instance`, `keys` and `issued` (other sources of keys), `name` (what CloudTrail shows).
//!
//! The daemon's own key (`keys`, `instance`) is never used for a role that a class names. With that key, AWS gives every role that trusts
//! it, and only the configuration says which role is for whom. With a Pod's token, AWS gives only roles that trust that ServiceAccount.

mod agent;
mod instance;
mod issued;
mod keys;
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
use session::Issued;
use sts::{Becoming, Sts};

use super::config::{Assume, Auth, AwsConfig, KeyFiles, Share};
use super::endpoint::Service;
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
use crate::model::{PodIdentity, PodToken, Secret, SecretBytes, SecretRef, clean, quoted};

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
            (None, None) => annotations.of_pod(&cx.pod, cx.deadline).await.map(Role::Annotated),
        }
    }

    fn filled(&self, key: &str, template: &RoleTemplate, pod: &PodIdentity) -> Result<String, Refusal> {
        template.fill(&pod.namespace, &pod.service_account).map_err(|problem| {
            let place = if matches!(self.way, Way::Irsa { .. }) && key == "auth.role" { ", or name a `role` in the class" } else { "" };
            Refusal::new(Fault::Unauthenticated, format!("{key} of the backend: {problem}{place}"))
        })
    }

    // === logging in ===

    async fn log_in(&self, role: &Role, who: &Scope, cx: &FetchContext) -> Result<Session, Refusal> {
        let session = name::of(who, &cx.pod);
        let first = match &self.way {
            Way::Agent { audience, agent } => {
                let token = token(audience, cx)?;
                agent.log_in(&token.jwt, &cx.pod, &*self.clock, cx.deadline).await?
            }
            Way::Irsa { audience, .. } => self.with_token(role, &session, audience, cx).await?,
            Way::Instance(_) | Way::Keys { .. } => return self.with_own(&session, cx).await,
        };
        self.chain(Session::issued(first, None), &session, cx).await.map_err(|(refusal, _)| refusal)
    }

    async fn with_token(&self, role: &Role, session: &str, audience: &str, cx: &FetchContext) -> Result<Issued, Refusal> {
        let (token, arn) = (token(audience, cx)?, role.as_text().unwrap_or_default());
        let becoming = Becoming { role: arn, session, external_id: None };
        let issued = self.sts.with_token(becoming, &token.jwt, cx.deadline).await;
        issued.map_err(|failure| {
            let account = format!("{}/{}", cx.pod.namespace, cx.pod.service_account);
            let whence = match role {
                Role::Annotated(_) => format!(", the role that ServiceAccount {account} is annotated with,"),
                Role::Chosen(_) | Role::Filled(_) | Role::Unsaid => String::new(),
            };
            let audience = clean(audience);
            let remedy = match failure.code() {
                "InvalidIdentityToken" => format!(
                    "the role's account needs the cluster's OIDC issuer as an identity provider, with {audience} among its audiences: `aws \
                     iam create-open-id-connect-provider`"
                ),
                "ExpiredTokenException" => "kubelet renews the token; check the node's clock".to_owned(),
                "RegionDisabledException" => "turn STS on for this region in the role's account: IAM, account settings".to_owned(),
                _ => format!(
                    "does the role exist, and does its trust policy allow sts:AssumeRoleWithWebIdentity to the cluster's OIDC provider, for \
                     the subject system:serviceaccount:{}:{} and the audience {audience}?",
                    cx.pod.namespace, cx.pod.service_account
                ),
            };
            let is_said = matches!(failure, Failure::Said(_));
            let refusal = failure.of_login(&format!("{arn}{whence} with the Pod's token for {audience}"), &remedy);
            // The namespace has chosen this role, and AWS may never answer for it.
            let is_chosen = is_said && refusal.fault == Fault::Unavailable && matches!(role, Role::Annotated(_) | Role::Chosen(_));
            if is_chosen { Refusal { fault: Fault::NoLogin, ..refusal } } else { refusal }
        })
    }

    /// Assumes a role with the daemon's own key. If AWS no longer accepts that key, this tries once more with another one.
    async fn with_own(&self, name: &str, cx: &FetchContext) -> Result<Session, Refusal> {
        let own = self.own(cx.deadline).await?;
        match self.chain(Session::again(&own), name, cx).await {
            Ok(session) => Ok(session),
            Err((refusal, false)) => Err(refusal),
            Err((refusal, true)) => {
                own.refuse();
                let other = self.own(cx.deadline).await?;
                if Arc::ptr_eq(&own, &other) {
                    return Err(refusal);
                }
                self.chain(Session::again(&other), name, cx).await.map_err(|(refusal, is_of_the_key)| {
                    if is_of_the_key {
                        other.refuse();
                    }
                    refusal
                })
            }
        }
    }

    /// Assumes one role after the other. The error says whether the first key is the reason.
    async fn chain(&self, first: Session, name: &str, cx: &FetchContext) -> Result<Session, (Refusal, bool)> {
        let mut session = first;
        for (at, Assume { role, external_id }) in self.assume.iter().enumerate() {
            let arn = self.filled("auth.assumeRole", role, &cx.pod).map_err(|refusal| (refusal, false))?;
            let becoming = Becoming { role: &arn, session: name, external_id: external_id.as_deref() };
            let issued = self.sts.assume(becoming, &session.credentials(), cx.deadline).await.map_err(|failure| {
                let is_first = at == 0 && failure.is_of_the_key();
                let remedy = "the role's trust policy must allow sts:AssumeRole to the one before it in the chain, with auth.assumeRole's \
                              externalId if it asks for one, and that one must be allowed to assume it";
                let remedy = if is_first { self.own_remedy() } else { remedy };
                (failure.of_login(&format!("{arn}, auth.assumeRole of the backend"), remedy), is_first)
            })?;
            session = Session::issued(issued, session.own().cloned());
        }
        Ok(session)
    }

    // === the daemon's own key ===

    async fn own(&self, deadline: Instant) -> Result<Arc<Session>, Refusal> {
        self.own.enter(None, &NOBODY.into(), deadline, async { Box::pin(self.own_login(deadline)).await }).await
    }

    async fn own_login(&self, deadline: Instant) -> Result<Arc<Session>, Refusal> {
        let before = self.own.pass();
        match &self.way {
            Way::Instance(instance) => {
                let issued = instance.log_in(&*self.clock, deadline).await?;
                Ok(Arc::new(Session::own_issued(issued).in_place_of(before.as_deref())))
            }
            Way::Keys { files, desk } => {
                let read = keys::read(desk, files, deadline).await?;
                // If the key is the same, the session stays the same.
                let same = before.as_ref().filter(|known| !known.is_refused() && known.holds(&read));
                same.inspect(|known| known.seen());
                Ok(same.map_or_else(|| Arc::new(Session::kept(read, before.as_deref())), Arc::clone))
            }
            Way::Agent { .. } | Way::Irsa { .. } => {
                Err(Refusal::new(Fault::Unauthenticated, "the Pods log in themselves here (check auth.method)"))
            }
        }
    }

    fn own_remedy(&self) -> &'static str {
        match &self.way {
            Way::Keys { .. } => {
                "is the key in the files of `auth` the right one, and is it still active? if not, write a new one into them"
            }
            Way::Instance(_) => "check the instance's role in EC2 and IAM",
            Way::Agent { .. } | Way::Irsa { .. } => "kubelet tries again by itself",
        }
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

fn token<'c>(audience: &str, cx: &'c FetchContext) -> Result<&'c PodToken, Refusal> {
    cx.tokens.find(audience).ok_or_else(|| {
        let audience = clean(audience);
        let sent: Vec<String> = cx.tokens.audiences().map(quoted).collect();
        let sent = if sent.is_empty() {
            "no verified token of it came".to_owned()
        } else {
            format!("verified tokens came for {}", sent.join(", "))
        };
        let reason = format!(
            "to log in to AWS, the Pod's token for the audience {audience:?} is needed, and {sent} (add audience: {audience} to \
             tokenRequests of the CSIDriver object secrets-store.csi.k8s.io; identity.verify must be jwks or token-review)"
        );
        Refusal::new(Fault::Unauthenticated, reason)
    })
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
