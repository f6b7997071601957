//! A look at one store, for `keyferry doctor`: what it needs, and whether it could serve a mount now, in the words of readiness.

use std::sync::Arc;

use super::store::file::{FileBackend, FileConfig};
use super::store::http::{HttpBackend, HttpBackendConfig};
use super::store::vault::VaultBackend;
use super::{Backend, BackendConfig};
use crate::clock::Clock;
use crate::model::{BackendName, Diagnosis, Level, NamedFile, PodIdentity, PodTokens};

/// Whose tokens an admin gave to try a login with. Nobody has verified them: the store will.
#[derive(Debug)]
pub struct Visitor {
    pub pod: PodIdentity,
    pub tokens: PodTokens,
}

impl BackendConfig {
    /// The files it is configured with, each under its key.
    pub fn files(&self) -> Vec<NamedFile> {
        match self {
            Self::File(config) => config.identity.iter().map(|path| NamedFile::secret("identity", path)).collect(),
            Self::Http(config) => config.files(),
            Self::Vault(config) => config.files(),
        }
    }

    /// For whom the Pods' tokens must be that it logs in with; `None`: it needs none.
    pub fn audience(&self) -> Option<&str> {
        match self {
            Self::File(_) => None,
            Self::Http(config) => config.audience(),
            Self::Vault(config) => config.audience(),
        }
    }

    /// Opens it and asks it, as a mount would; with a visitor it is logged in to, and out of again.
    pub async fn examine(
        &self,
        name: &BackendName,
        secret_bytes: usize,
        clock: &Arc<dyn Clock>,
        visitor: Option<Visitor>,
    ) -> Vec<Diagnosis> {
        let (own, clock) = (name.clone(), Arc::clone(clock));
        let opened = match self {
            Self::File(config) => match FileBackend::open(own, config, secret_bytes, clock) {
                Ok(backend) => Ok(vec![of_vault(&backend, name, config).await]),
                Err(error) => Err(error),
            },
            Self::Http(config) => match HttpBackend::open(own, config, secret_bytes) {
                Ok(backend) => Ok(vec![of_http(&backend, name, config).await]),
                Err(error) => Err(error),
            },
            Self::Vault(config) => match VaultBackend::open(own, config, secret_bytes, clock) {
                Ok(backend) => Ok(backend.examine(visitor).await),
                Err(error) => Err(error),
            },
        };
        opened.unwrap_or_else(|error| vec![Diagnosis::of_error(Level::Fail, format!("backend {name}"), &error.reason_in_full())])
    }
}

async fn of_vault(backend: &FileBackend, name: &BackendName, config: &FileConfig) -> Diagnosis {
    checked(backend, name, format!("the vault {} is there, and its identities are read", config.vault.display())).await
}

async fn of_http(backend: &HttpBackend, name: &BackendName, config: &HttpBackendConfig) -> Diagnosis {
    checked(backend, name, format!("the store at {} answers", config.server())).await
}

/// `well` is what a good check means.
async fn checked(backend: &dyn Backend, name: &BackendName, well: String) -> Diagnosis {
    let what = format!("backend {name}");
    match backend.check().await {
        Ok(()) => Diagnosis::ok(what, well),
        Err(error) => Diagnosis::of_error(Level::Fail, what, &error.reason_in_full()),
    }
}
