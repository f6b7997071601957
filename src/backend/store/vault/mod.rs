//! HashiCorp Vault and OpenBao: any path of their API, read with the Pod's own login or the daemon's. `docs/vault.md` describes it.
//!
//! Reading order: `config` (what the admin chose, and how that changes a class's request), `own` (which names are the store's own), `entry`
//! (with which login a request goes), `sessions` and `token` (who is logged in, and for how long), `login`, `read` (a request and its
//! answer), `answer` (what an answer means), `made` (when things without a lease end), `lease` (renewing and revoking), `health`, `probe`
//! (for the doctor), `wire` (one call) and `fault` (the message for a call that failed).

mod answer;
mod config;
mod entry;
mod fault;
mod health;
mod kind;
mod lease;
mod login;
mod made;
mod own;
mod probe;
mod raw;
mod read;
mod sessions;
mod ssh;
mod token;
mod wire;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

pub use config::{Auth, PodMethod, RoleId, Share, VaultConfig};

use entry::sharers;
use fault::Refusal;
use sessions::Sessions;
use wire::Clients;

use crate::backend::remote::health::Health;
use crate::backend::{Backend, BackendError, Fault, FetchContext, Scope, StoreLimits};
use crate::clock::Clock;
use crate::memo::Memo;
use crate::model::{BackendName, Fetched, Lease, PodIdentity, SecretName, SecretPrefix, SecretRef, Source, Verb};

/// The most warnings of the store that Keyferry remembers as logged.
const MAX_WARNED: usize = 256;

/// Serves the secrets of one server.
#[derive(Debug)]
pub struct VaultBackend {
    name: BackendName,
    config: VaultConfig,
    /// The most bytes that the fields of one secret may hold.
    max_secret_bytes: usize,
    clock: Arc<dyn Clock>,
    clients: Arc<Clients>,
    sessions: Sessions,
    health: Health,
    warned: Memo<String, ()>,
}

// === impl VaultBackend ===

impl VaultBackend {
    /// Connects to nothing before the first call.
    ///
    /// # Errors
    /// The CA or the client certificate cannot be used.
    pub fn open(name: BackendName, config: &VaultConfig, limits: StoreLimits, clock: Arc<dyn Clock>) -> Result<Self, BackendError> {
        // JSON makes text longer: a quote becomes two bytes, a control character six; and an answer has metadata.
        let max_body = limits.secret_bytes.saturating_mul(4).saturating_add(64 * 1024);
        let clients = Arc::new(Clients::new(max_body, limits.clients, config.store_words));
        let backend = Self {
            name,
            config: config.clone(),
            max_secret_bytes: limits.secret_bytes,
            clock,
            clients,
            sessions: Sessions::default(),
            health: Health::default(),
            warned: Memo::with_capacity(MAX_WARNED),
        };
        let server = wire::Server { endpoint: config.address.clone(), tls: config.tls.clone(), below: None, named_by: None };
        match backend.clients.open(&server) {
            Ok(()) => Ok(backend),
            Err(refusal) => Err(backend.error(None, refusal)),
        }
    }

    fn error(&self, secret: Option<&SecretName>, refusal: Refusal) -> BackendError {
        refusal.into_error(self.name.clone(), secret.cloned())
    }
}

#[async_trait]
impl Backend for VaultBackend {
    async fn fetch(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError> {
        match self.read(secret, cx).await {
            Ok(read) => Ok(Fetched { secret: Arc::new(read), source: Source::Store, by: self.name.clone() }),
            Err(refusal) => Err(self.error(Some(&secret.name), refusal)),
        }
    }

    async fn list(&self, _: &SecretPrefix, _: &FetchContext) -> Result<Vec<SecretName>, BackendError> {
        let reason = "names below a prefix cannot be listed here yet (name each secret; `method: LIST` reads one folder's names)";
        Err(self.error(None, Refusal::new(Fault::Unsupported, reason)))
    }

    async fn renew(&self, lease: Lease, deadline: Instant) -> Result<Lease, BackendError> {
        let name = lease.secret.name.clone();
        self.lengthen(lease, deadline).await.map_err(|refusal| self.error(Some(&name), refusal))
    }

    async fn revoke(&self, lease: Lease, deadline: Instant) -> Result<(), BackendError> {
        self.give_back(&lease, deadline).await.map_err(|refusal| self.error(Some(&lease.secret.name), refusal))
    }

    fn adopt(&self, lease: &Lease) {
        self.take_in(lease);
    }

    async fn forget(&self, pod: &str, deadline: Instant) {
        for token in self.sessions.forget(pod) {
            if let Err(refusal) = token.revoke(&self.clients, deadline).await {
                tracing::debug!(backend = %self.name, reason = refusal.for_admin(), "a store token that nobody uses was not revoked; it ends by itself");
            }
        }
    }

    async fn check(&self) -> Result<(), BackendError> {
        self.health.check(self.ask_health()).await.map_err(|refusal| self.error(None, refusal))
    }

    async fn probe(&self, _: &str) -> Result<(), BackendError> {
        self.look_at_health().await.map_err(|refusal| self.error(None, refusal))
    }

    /// A read has the same answer for all Pods that share a login: to the store they are the same. The reference says which login it is.
    fn scope(&self, secret: &SecretRef, pod: &PodIdentity) -> Scope {
        match secret.verb() {
            Verb::Read => sharers(&self.config, pod),
            Verb::Update => Scope::Pod(Arc::clone(&pod.uid)),
        }
    }
}
