//! A look at one store, for `keyferry doctor`: what it needs, and whether it could serve a mount now, in the words of readiness.

use std::sync::Arc;

use super::BackendConfig;
use crate::clock::Clock;
use crate::model::{BackendName, Diagnosis, Level, NamedFile};

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

    /// Opens it and asks it, as a mount would.
    pub async fn examine(&self, name: &BackendName, secret_bytes: usize, clock: &Arc<dyn Clock>) -> Vec<Diagnosis> {
        let what = format!("backend {name}");
        let backend = match self.open(name, secret_bytes, clock) {
            Ok(backend) => backend,
            Err(error) => return vec![Diagnosis::of_error(Level::Fail, what, &error.reason)],
        };
        match backend.check().await {
            Ok(()) => vec![Diagnosis::ok(what, self.well())],
            Err(error) => vec![Diagnosis::of_error(Level::Fail, what, &error.reason)],
        }
    }

    /// What a good check means.
    fn well(&self) -> String {
        match self {
            Self::File(config) => format!("the vault {} is there, and its identities are read", config.vault.display()),
            Self::Http(config) => format!("the store at {} answers", config.server()),
            Self::Vault(config) => format!("the store at {} is up and unsealed", config.address),
        }
    }
}
