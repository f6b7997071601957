//! AWS: Secrets Manager and Parameter Store of one region, read with the Pod's own role or the daemon's. See `docs/aws.md`.
//!
//! Reading order: `config` (what the admin chose), `endpoint` and `role` (what it names), `name` and `pin` (what a class asks for),
//! `identity` (the login), `core` (requests, and how an answer is compared with them), `secretsmanager`, `parameters` and `content` (what
//! is sent, and what an answer holds), `batch` (several secrets in one call), `listing`, `health`. Below them: `wire` (the calls), `line`
//! (one of them), `credentials` and `sign` (its signature), `error` (the message about a failed call), `xml`.

mod batch;
mod config;
mod content;
mod core;
mod credentials;
mod endpoint;
mod error;
mod health;
mod identity;
mod kind;
mod line;
mod listing;
mod name;
mod parameters;
mod pin;
mod role;
mod secretsmanager;
mod sign;
mod wire;
mod xml;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

pub use config::AwsConfig;

use batch::{Batches, Who};
use core::{Account, Asked, Core};
use endpoint::Service;
use identity::{Identities, Session};
use listing::Listings;
use wire::Wire;

use crate::backend::remote::health::{Health, TIME};
use crate::backend::remote::refusal::Refusal;
use crate::backend::{Backend, BackendError, Fault, FetchContext, Scope, StoreLimits};
use crate::clock::Clock;
use crate::model::{BackendName, Fetched, Lease, PodIdentity, RefParts, Secret, SecretName, SecretPrefix, SecretRef, Source, Verb};

/// Serves the secrets of one region.
#[derive(Debug)]
pub struct AwsBackend {
    name: BackendName,
    core: Arc<Core>,
    batches: Arc<Batches>,
    identities: Identities,
    listings: Listings,
    health: Health,
}

// === impl AwsBackend ===

impl AwsBackend {
    /// Nothing is connected before the first call.
    ///
    /// # Errors
    /// The CA cannot be used.
    pub fn open(name: BackendName, config: &AwsConfig, limits: StoreLimits, clock: Arc<dyn Clock>) -> Result<Self, BackendError> {
        let refused = |refusal: Refusal| refusal.into_error(name.clone(), None);
        let wire = Wire::open(config, limits.calls, &clock).map_err(refused)?;
        let identities =
            Identities::open(config, clock).map_err(|error| refused(Refusal::unanswered(config.endpoint(Service::Tokens), &error, "")))?;
        let core = Arc::new(Core { config: config.clone(), wire, max_secret_bytes: limits.secret_bytes });
        Ok(Self { name, core, batches: Arc::default(), identities, listings: Listings::default(), health: Health::default() })
    }

    /// If AWS no longer accepts a session, Keyferry makes a new one, once.
    async fn read(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Secret, Refusal> {
        let session = self.identities.session(secret, cx).await?;
        match self.checked(&session, secret, cx).await {
            Err(refusal) if refusal.fault == Fault::Unauthenticated => {
                self.identities.refused(&session);
                let other = self.identities.session(secret, cx).await?;
                // It replaced another session a moment ago, and that did not help.
                if Arc::ptr_eq(&session, &other) {
                    return Err(refusal);
                }
                self.checked(&other, secret, cx).await
            }
            read => read,
        }
    }

    async fn checked(&self, session: &Arc<Session>, secret: &SecretRef, cx: &FetchContext) -> Result<Secret, Refusal> {
        let read = self.read_with(session, secret, cx).await?;
        if self.identities.is_in(session, &read, cx.deadline).await {
            let reason = "it holds the access key that Keyferry asked for it with, and is not delivered (remove the object from the class, or \
                          change the key)";
            return Err(Refusal::new(Fault::Denied, reason));
        }
        Ok(read)
    }

    async fn read_with(&self, session: &Arc<Session>, secret: &SecretRef, cx: &FetchContext) -> Result<Secret, Refusal> {
        let asked = || Asked::of(&self.core.config, secret, cx);
        let first = asked()?;
        let who = Who { service: first.service, role: secret.login.role.clone(), scope: self.identities.scope(secret, &cx.pod) };
        if secret.name.is_folder() {
            return self.listings.folder(&self.core, session, &who, &secret.name, &Account::of(cx)).await;
        }
        if first.can_be_batched()
            && let Some(read) = self.batches.read(&self.core, session, who, first).await
        {
            return read;
        }
        self.core.one(session, &asked()?).await
    }

    fn error(&self, secret: Option<&SecretName>, refusal: Refusal) -> BackendError {
        refusal.into_error(self.name.clone(), secret.cloned())
    }
}

#[async_trait]
impl Backend for AwsBackend {
    async fn fetch(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError> {
        match self.read(secret, cx).await {
            Ok(read) => Ok(Fetched { secret: Arc::new(read), source: Source::Store, by: self.name.clone() }),
            Err(refusal) => Err(self.error(Some(&secret.name), refusal)),
        }
    }

    async fn list(&self, prefix: &SecretPrefix, cx: &FetchContext) -> Result<Vec<SecretName>, BackendError> {
        let SecretPrefix { backend, prefix, login } = prefix;
        let unnamed = |cause: &dyn std::fmt::Display| self.error(None, Refusal::new(Fault::Invalid, format!("{prefix}: the name {cause}")));
        let folder = name::canonical(&self.core.config, &format!("{prefix}x")).map_err(|cause| unnamed(&cause))?;
        let folder = folder.folder().ok_or_else(|| unnamed(&"has no folder (write secretsmanager/ or ssm/ in front)"))?;
        let asked = RefParts { login: login.clone(), ..RefParts::read(backend.clone(), folder.clone()) };
        let listed = async {
            let session = self.identities.session(&asked.into(), cx).await?;
            listing::below(&self.core, &session, &folder, &Account::of(cx)).await
        };
        let below = listed.await.map_err(|refusal| self.error(None, refusal))?;
        // A secret without a name here cannot be asked for.
        Ok(below.names.iter().filter_map(|name| name::canonical(&self.core.config, &format!("{folder}{name}")).ok()).collect())
    }

    async fn renew(&self, _: Lease, _: Instant) -> Result<Lease, BackendError> {
        Err(self.error(None, Refusal::new(Fault::Unsupported, "AWS gives no leases")))
    }

    async fn revoke(&self, _: Lease, _: Instant) -> Result<(), BackendError> {
        Err(self.error(None, Refusal::new(Fault::Unsupported, "AWS gives no leases")))
    }

    /// There are no leases.
    fn adopt(&self, _: &Lease) {}

    async fn forget(&self, pod: &str, _: Instant) {
        self.identities.forget(pod);
    }

    async fn check(&self) -> Result<(), BackendError> {
        self.health.check(Box::pin(self.ask_health())).await.map_err(|refusal| self.error(None, refusal))
    }

    async fn probe(&self, server: &str) -> Result<(), BackendError> {
        let service = if server == Service::Parameters.as_str() { Service::Parameters } else { Service::SecretsManager };
        self.reach(service, Instant::now() + TIME).await.map_err(|refusal| self.error(None, refusal))
    }

    /// All who share a login read the same: they are the same to AWS. The reference has the role.
    fn scope(&self, secret: &SecretRef, pod: &PodIdentity) -> Scope {
        match secret.verb() {
            Verb::Read => self.identities.scope(secret, pod),
            Verb::Update => Scope::Pod(Arc::clone(&pod.uid)),
        }
    }
}
