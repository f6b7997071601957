//! What the configured backends know, without opening them: a class can be judged where there is neither key nor vault.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::backend::file::{InvalidRevision, Revision, VaultName};
use crate::backend::{Backend, BackendConfig, BackendError, Backends, Fault, FetchContext, Scope};
use crate::model::{
    BackendName, Catalogue, Fetched, InvalidName, Lease, PodIdentity, SecretName, SecretPrefix, SecretRef, Unresolved, Version,
};

/// Stands for the backend that a class does not name, where nothing says what there is. No configuration is likely to have it.
pub const UNNAMED: &str = "-";

/// The configured names, each with its kind's rules for names and versions. The registry around them speaks as it does in a mount.
pub fn of(configs: &BTreeMap<BackendName, BackendConfig>) -> Backends {
    let offline = |(name, config): (&BackendName, &BackendConfig)| {
        let kind = match config {
            BackendConfig::File(_) => Kind::File,
        };
        (name.clone(), Arc::new(Offline { name: name.clone(), kind }) as Arc<dyn Backend>)
    };
    Backends::new(configs.iter().map(offline).collect())
}

/// Without a configuration: every backend there could be, and the rules for names that all of them share.
#[derive(Debug)]
pub struct Anything;

/// A backend that can be asked for its spelling and nothing else.
#[derive(Debug)]
struct Offline {
    name: BackendName,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    File,
}

impl Catalogue for Anything {
    fn resolve(&self, backend: Option<&str>, name: &str) -> Result<(BackendName, SecretName), Unresolved> {
        let backend = backend.unwrap_or(UNNAMED).parse::<BackendName>().map_err(|error| Unresolved::Backend(error.to_string()))?;
        let name = name.parse().map_err(|cause| Unresolved::Name { name: name.chars().take(200).collect(), cause })?;
        Ok((backend, name))
    }

    fn pin(&self, _: &BackendName, version: &str) -> Result<Version, Unresolved> {
        Ok(Version::new(version))
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

    async fn check(&self) -> Result<(), BackendError> {
        Err(self.asked())
    }

    fn canonical(&self, name: &str) -> Result<SecretName, InvalidName> {
        match self.kind {
            Kind::File => name.parse().map(VaultName::into),
        }
    }

    fn pin(&self, version: &str) -> Result<Version, String> {
        match self.kind {
            Kind::File => version.parse().map(Revision::into).map_err(|error: InvalidRevision| error.to_string()),
        }
    }

    fn scope(&self, _: &SecretRef, pod: &PodIdentity) -> Scope {
        Scope::Pod(pod.uid.clone())
    }
}
