//! Any store that answers over HTTP: one request per secret, as the configuration describes it. See `docs/http-store.md`.
//!
//! Reading order: `config` (what the admin chose), `url` and `template` (the address; a class cannot change the host), `credentials` (who
//! asks), `content`, `version` and `exact` (what an answer holds), `status` (what an answer without a secret means), `health`.

mod config;
mod content;
mod credentials;
mod exact;
mod health;
mod kind;
mod status;
mod template;
mod url;
mod version;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request};
use tokio::time::Instant;

pub use config::HttpBackendConfig;

use config::{Asking, Auth, Pins, Share};
use credentials::{Credentials, whom};
use status::words;
use template::{Slot, Values, escape_json};

use crate::backend::remote::health::Health;
use crate::backend::remote::refusal::Refusal;
use crate::backend::{Backend, BackendError, Fault, FetchContext, Scope};
use crate::files::Desk;
use crate::http::{ClientCertificate, HttpClient, HttpConfig, Repeat, escape_element};
use crate::model::{
    BackendName, Fetched, Lease, LoginTls, PodIdentity, Secret, SecretName, SecretPrefix, SecretRef, Source, Verb, Version,
};
use crate::steps::{self, Steps};

/// Threads that read files: a file system that hangs cannot take more threads.
const THREADS: usize = 4;

/// Serves the secrets of one HTTP API.
#[derive(Debug)]
pub struct HttpBackend {
    name: BackendName,
    config: HttpBackendConfig,
    /// The most bytes that the fields of one secret may hold.
    max_secret_bytes: usize,
    client: HttpClient,
    /// The threads that read its credential files.
    desk: Desk,
    health: Health,
}

impl HttpBackend {
    /// Nothing is connected before the first call. `max_secret_bytes` is the configuration's `limits.secretBytes`.
    ///
    /// # Errors
    /// The CA or the client certificate cannot be used.
    pub fn open(name: BackendName, config: &HttpBackendConfig, max_secret_bytes: usize) -> Result<Self, BackendError> {
        let LoginTls { ca, client, server_name, skip_verify } = config.tls.clone();
        let reached = HttpConfig {
            ca,
            certificate: client.map(|(chain, key)| ClientCertificate { chain, key }),
            // JSON makes text longer: a quote takes two bytes, a control character six. And an answer has more than the fields.
            max_body: max_secret_bytes.saturating_mul(4).saturating_add(64 * 1024),
            server_name,
            verify: !skip_verify,
            ..HttpConfig::default()
        };
        let server = &config.url.endpoint;
        match HttpClient::new(server.clone(), reached) {
            Ok(client) => {
                let (desk, health) = (Desk::new(THREADS), Health::default());
                Ok(Self { name, config: config.clone(), max_secret_bytes, client, desk, health })
            }
            Err(error) => Err(Refusal::unanswered(server, &error, "").into_error(name, None)),
        }
    }

    async fn read(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Secret, Refusal> {
        if !secret.is_plain() {
            let reason = "Keyferry only reads from an HTTP store (leave out `method` and `args`)";
            return Err(Refusal::new(Fault::Unsupported, reason));
        }
        let mut credentials = Credentials::gather(&self.desk, &self.config, cx).await?;
        let mut request = self.request(secret, &cx.pod)?;
        *request.headers_mut() = std::mem::take(&mut credentials.headers);
        if let Some(payer) = cx.payer.clone() {
            request.extensions_mut().insert(payer);
        }
        // The store may count, log or limit requests by POST.
        let repeat = if self.config.asking == Asking::Get { Repeat::Safe } else { Repeat::Never };
        let outcome = self.client.call(request, repeat, cx.deadline).await;
        let (after, retry_after) = (outcome.after(), outcome.retry_after);
        let answer = outcome.answer.map_err(|error| Refusal::unanswered(self.client.endpoint(), &error, &after))?;
        if !answer.status().is_success() {
            let said = words(answer.body(), credentials.needles, self.config.store_words);
            let refusal = self.config.statuses.refusal(answer.status(), &said, &whom(&self.config, &cx.pod), &after);
            return Err(refusal.until(retry_after));
        }
        Refusal::of_partial(answer.status())?;
        let steps = Steps::new(steps::OF_A_MOUNT, cx.deadline);
        let read = self.config.format.secret(answer.headers(), answer.body(), self.max_secret_bytes, &steps)?;
        credentials.check_answer(&read)?;
        Ok(read)
    }

    /// The request, without headers.
    fn request(&self, secret: &SecretRef, pod: &PodIdentity) -> Result<Request<Bytes>, Refusal> {
        let pinned = secret.version.as_ref().map(Version::as_str);
        let latest = if let Pins::Slot { latest } = &self.config.pins { latest.as_str() } else { "" };
        let values = Values {
            name: secret.name.as_str(),
            namespace: &pod.namespace,
            service_account: &pod.service_account,
            version: pinned.unwrap_or(latest),
        };
        let parameter = if let Pins::Query(name) = &self.config.pins { pinned.map(|version| (name.as_str(), version)) } else { None };
        let (method, body) = match &self.config.asking {
            Asking::Get => (Method::GET, String::new()),
            Asking::Post(body) => (
                Method::POST,
                body.as_ref().map_or(String::new(), |body| {
                    body.fill(values, |slot, value| match slot {
                        Slot::NameEscaped => escape_element(value),
                        Slot::Name | Slot::Namespace | Slot::ServiceAccount | Slot::Version => escape_json(value),
                    })
                }),
            ),
        };
        let mut request = Request::new(Bytes::from(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.config.url.fill(values, parameter)?;
        Ok(request)
    }

    fn error(&self, secret: Option<&SecretName>, refusal: Refusal) -> BackendError {
        refusal.into_error(self.name.clone(), secret.cloned())
    }
}

#[async_trait]
impl Backend for HttpBackend {
    async fn fetch(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError> {
        match self.read(secret, cx).await {
            Ok(read) => Ok(Fetched { secret: Arc::new(read), source: Source::Store, by: self.name.clone() }),
            Err(refusal) => Err(self.error(Some(&secret.name), refusal)),
        }
    }

    async fn list(&self, _: &SecretPrefix, _: &FetchContext) -> Result<Vec<SecretName>, BackendError> {
        Err(self.error(None, Refusal::new(Fault::Unsupported, "an HTTP store cannot list its secrets (name each secret)")))
    }

    async fn renew(&self, _: Lease, _: Instant) -> Result<Lease, BackendError> {
        Err(self.error(None, Refusal::new(Fault::Unsupported, "an HTTP store gives no leases")))
    }

    async fn revoke(&self, _: Lease, _: Instant) -> Result<(), BackendError> {
        Err(self.error(None, Refusal::new(Fault::Unsupported, "an HTTP store gives no leases")))
    }

    /// There are no leases.
    fn adopt(&self, _: &Lease) {}

    /// Nothing is kept for a Pod.
    async fn forget(&self, _: &str, _: Instant) {}

    async fn check(&self) -> Result<(), BackendError> {
        self.health.check(health::ask(&self.client, &self.desk, &self.config)).await.map_err(|refusal| self.error(None, refusal))
    }

    async fn probe(&self, _: &str) -> Result<(), BackendError> {
        health::reach(&self.client).await.map_err(|refusal| self.error(None, refusal))
    }

    /// Pods that are the same to the store share its answers. With its token, each Pod is different, unless the admin says that only the
    /// ServiceAccount counts.
    fn scope(&self, secret: &SecretRef, pod: &PodIdentity) -> Scope {
        match (secret.verb(), &self.config.auth, self.config.share) {
            (Verb::Update, _, _) | (Verb::Read, Auth::BearerPod(_), Share::Pod) => Scope::Pod(Arc::clone(&pod.uid)),
            (Verb::Read, Auth::BearerPod(_), Share::ServiceAccount) => {
                pod.proven_account().map_or_else(|| Scope::Pod(Arc::clone(&pod.uid)), Scope::Account)
            }
            (Verb::Read, Auth::Basic { .. } | Auth::BearerFile(_) | Auth::None, _) => {
                if self.config.names_pod() {
                    Scope::Account(pod.account())
                } else {
                    Scope::Node
                }
            }
        }
    }
}
