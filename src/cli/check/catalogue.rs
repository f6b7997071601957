//! What the configured backends know, without opening them: a class can be judged where there is neither key nor vault.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::backend::{Backend, BackendConfig, BackendError, Backends, Fault, FetchContext, Inadmissible, Scope};
use crate::config::Config;
use crate::model::{
    Ask, BackendName, Catalogue, Fetched, InvalidName, Lease, PodIdentity, SecretName, SecretPrefix, SecretRef, Serving, Unresolved,
    Version,
};

/// Stands for the backend that a class does not name, where nothing says what there is. No configuration is likely to have it.
pub const UNNAMED: &str = "-";

/// The configured backends, none of them opened. The registry around them speaks as it does in a mount.
pub fn of(config: &Config) -> Backends {
    let offline = |(name, config): (&BackendName, &BackendConfig)| {
        (name.clone(), Arc::new(Offline { name: name.clone(), config: config.clone() }) as Arc<dyn Backend>)
    };
    Backends::new(config.backends.iter().map(offline).collect()).with_dialects(config.served_dialects())
}

/// Without a configuration: every backend there could be, and the rules for names that all of them share.
#[derive(Debug)]
pub struct Anything;

/// A backend that can be asked for its spelling and nothing else.
#[derive(Debug)]
struct Offline {
    name: BackendName,
    config: BackendConfig,
}

impl Catalogue for Anything {
    fn resolve(&self, ask: &Ask<'_>) -> Result<SecretRef, Unresolved> {
        let backend = ask.backend.unwrap_or(UNNAMED).parse::<BackendName>().map_err(|error| Unresolved::Backend(error.to_string()))?;
        // A namespace is a part of the name wherever there are namespaces.
        let namespace = ask.login.namespace.as_deref().filter(|namespace| *namespace != "root");
        let name = namespace.map_or_else(|| ask.name.to_owned(), |namespace| format!("{namespace}/{}", ask.name));
        let name = name.parse().map_err(|cause| Unresolved::Name { name: ask.name.chars().take(200).collect(), cause })?;
        let Ask { method, args, lease, login, .. } = ask.clone();
        Ok(SecretRef { backend, name, version: ask.version.map(Version::new), method, args, lease, login })
    }

    fn serving(&self, _: &str, _: Option<&str>) -> Result<Serving, Unresolved> {
        let backend = UNNAMED.parse::<BackendName>().map_err(|error| Unresolved::Backend(error.to_string()))?;
        // What the backend says of an audience is not known, and nothing to find fault with.
        Ok(Serving { backend, by_address: false, names_audience: true })
    }
}

impl Offline {
    fn asked(&self) -> BackendError {
        let reason = "is only known by its configuration here".to_owned();
        BackendError { fault: Fault::Unsupported, backend: self.name.clone(), secret: None, reason, source: None }
    }
}

#[async_trait]
impl Backend for Offline {
    async fn fetch(&self, _: &SecretRef, _: &FetchContext) -> Result<Fetched, BackendError> {
        Err(self.asked())
    }

    async fn list(&self, _: &SecretPrefix, _: &FetchContext) -> Result<Vec<SecretName>, BackendError> {
        Err(self.asked())
    }

    async fn renew(&self, _: Lease, _: Instant) -> Result<Lease, BackendError> {
        Err(self.asked())
    }

    async fn revoke(&self, _: Lease, _: Instant) -> Result<(), BackendError> {
        Err(self.asked())
    }

    fn adopt(&self, _: &Lease) {}

    async fn forget(&self, _: &str, _: Instant) {}

    async fn check(&self) -> Result<(), BackendError> {
        Err(self.asked())
    }

    fn canonical(&self, name: &str) -> Result<SecretName, InvalidName> {
        self.config.canonical(name)
    }

    fn pin(&self, version: &str) -> Result<Version, String> {
        self.config.pin(version)
    }

    fn admit(&self, asked: SecretRef) -> Result<SecretRef, Inadmissible> {
        self.config.admit(asked)
    }

    fn scope(&self, _: &SecretRef, pod: &PodIdentity) -> Scope {
        Scope::Pod(pod.uid.clone())
    }
}
