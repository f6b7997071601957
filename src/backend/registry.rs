//! The configured backends by name: built once from the configuration, asked by the pipeline.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::{Duration, Instant};

use super::file::{FileBackend, FileConfig};
use super::limit::Limited;
use super::vault::{VaultBackend, VaultConfig};
use super::{Backend, BackendError, Fault, FetchContext, Inadmissible};
use crate::clock::Clock;
use crate::model::{Ask, BackendName, Catalogue, Fetched, InvalidName, PodTokens, SecretName, SecretRef, Unresolved, Version};
use crate::nearest::nearest;
use crate::policy::{ClassMay, Permit};
use crate::telemetry::Metrics;
use crate::yaml::{Faults, Reader};

/// Kinds that are designed and not built; their configuration is refused with these words.
const NOT_YET: [&str; 5] = ["aws", "azure", "failover", "gcp", "http"];

/// One entry under `backends`.
#[derive(Clone, Debug)]
pub enum BackendConfig {
    File(FileConfig),
    Vault(VaultConfig),
}

/// What bounds every backend, from `limits`.
#[derive(Clone, Copy, Debug)]
pub struct BackendLimits {
    /// Calls to one backend at once.
    pub per_backend: usize,
    /// The largest secret in bytes.
    pub secret_bytes: usize,
}

/// Every backend, each behind its decorators.
#[derive(Debug)]
pub struct Backends(BTreeMap<BackendName, Arc<dyn Backend>>);

// === impl BackendConfig ===

impl BackendConfig {
    /// Reads one entry; `kind` says which store it is.
    pub fn parse(mut reader: Reader<'_>, faults: &mut Faults) -> Option<Self> {
        let Some(node) = reader.get("kind") else {
            reader.missing("kind", "which store it is, such as kind: file", faults);
            return None;
        };
        let config = match node.text() {
            Some("file") => FileConfig::parse(&mut reader, faults).map(Self::File),
            Some("vault") => VaultConfig::parse(&mut reader, faults).map(Self::Vault),
            Some(kind) if NOT_YET.contains(&kind) => {
                faults.add(node.at, reader.path("kind"), format!("{kind:?} is not yet supported (it serves: file, vault)"));
                return None;
            }
            Some(kind) => {
                faults.add(node.at, reader.path("kind"), format!("{kind:?} is no kind of backend (this version serves: file, vault)"));
                return None;
            }
            None => {
                faults.add(node.at, reader.path("kind"), format!("is {}, but must be a text", node.kind()));
                return None;
            }
        };
        reader.finish(faults);
        config
    }

    /// What classes may say of its login; `None`: nothing.
    pub fn class_may(&self) -> Option<&ClassMay> {
        match self {
            Self::File(_) => None,
            Self::Vault(config) => Some(&config.class_may),
        }
    }

    /// As [`Backend::canonical`], of a backend that is not opened.
    pub fn canonical(&self, name: &str) -> Result<SecretName, InvalidName> {
        match self {
            Self::File(_) => FileConfig::canonical(name),
            Self::Vault(_) => VaultConfig::canonical(name),
        }
    }

    /// As [`Backend::pin`], of a backend that is not opened.
    pub fn pin(&self, version: &str) -> Result<Version, String> {
        match self {
            Self::File(_) => FileConfig::pin(version),
            Self::Vault(_) => VaultConfig::pin(version),
        }
    }

    /// As [`Backend::admit`], of a backend that is not opened.
    pub fn admit(&self, asked: SecretRef) -> Result<SecretRef, Inadmissible> {
        match self {
            Self::File(_) => FileConfig::admit(asked),
            Self::Vault(config) => config.admit(asked),
        }
    }

    fn build(&self, name: &BackendName, limits: BackendLimits, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Backend>, BackendError> {
        match self {
            Self::File(config) => Ok(Arc::new(FileBackend::open(name.clone(), config, limits.secret_bytes, Arc::clone(clock))?)),
            Self::Vault(config) => Ok(Arc::new(VaultBackend::open(name.clone(), config, limits.secret_bytes, Arc::clone(clock))?)),
        }
    }
}

// === impl Backends ===

impl Backends {
    /// Builds every backend and puts its decorators around it.
    ///
    /// # Errors
    /// A line for each backend that cannot be built, naming it.
    pub fn build(
        configs: &BTreeMap<BackendName, BackendConfig>,
        limits: BackendLimits,
        clock: &Arc<dyn Clock>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, Vec<String>> {
        let (mut built, mut faults) = (BTreeMap::new(), Vec::new());
        for (name, config) in configs {
            match config.build(name, limits, clock) {
                Ok(backend) => {
                    let limited = Limited::new(backend, name.clone(), limits.per_backend, Arc::clone(metrics));
                    built.insert(name.clone(), Arc::new(limited) as Arc<dyn Backend>);
                }
                Err(error) => faults.push(format!("backends.{error}")),
            }
        }
        if faults.is_empty() { Ok(Self(built)) } else { Err(faults) }
    }

    /// Backends that were built elsewhere.
    pub fn new(backends: BTreeMap<BackendName, Arc<dyn Backend>>) -> Self {
        Self(backends)
    }

    /// Fetches what the permit allows: there is no way to a store without one. An answer from a cache is at most `fresh` old.
    pub async fn fetch(
        &self,
        permit: &Permit,
        tokens: Arc<PodTokens>,
        fresh: Option<Duration>,
        deadline: Instant,
    ) -> Result<Fetched, BackendError> {
        let secret = permit.secret();
        let Some(backend) = self.0.get(&secret.backend) else {
            let reason = "the backend is not configured any more (try again)".to_owned();
            let (backend, secret) = (secret.backend.clone(), Some(secret.name.clone()));
            return Err(BackendError { fault: Fault::Invalid, backend, secret, reason, source: None });
        };
        backend.fetch(secret, &FetchContext { pod: Arc::clone(permit.pod()), tokens, fresh, deadline }).await
    }

    /// Asks each backend whether it could serve a mount now; the faults of those that could not.
    pub async fn check(&self) -> Vec<BackendError> {
        let checks = self.0.values().map(|backend| backend.check());
        futures_util::future::join_all(checks).await.into_iter().filter_map(Result::err).collect()
    }

    pub fn names(&self) -> impl Iterator<Item = &BackendName> {
        self.0.keys()
    }

    fn known(&self) -> String {
        self.names().map(BackendName::as_str).collect::<Vec<_>>().join(", ")
    }

    fn find(&self, backend: Option<&str>) -> Result<(&BackendName, &Arc<dyn Backend>), Unresolved> {
        let Some(wanted) = backend else {
            let mut all = self.0.iter();
            return match (all.next(), all.next()) {
                (Some(only), None) => Ok(only),
                _ => Err(Unresolved::Backend(format!(
                    "no backend is named, and this node has several (set backend to one of: {})",
                    self.known()
                ))),
            };
        };
        self.0.iter().find(|(name, _)| name.as_str() == wanted).ok_or_else(|| {
            let shown: String = wanted.chars().take(80).collect();
            Unresolved::Backend(match nearest(wanted, self.names().map(BackendName::as_str)) {
                Some(near) => format!("there is no backend {shown:?} on this node (did you mean `{near}`?)"),
                None => format!("there is no backend {shown:?} on this node (there are: {})", self.known()),
            })
        })
    }
}

impl Catalogue for Backends {
    fn resolve(&self, ask: &Ask<'_>) -> Result<SecretRef, Unresolved> {
        let (name, backend) = self.find(ask.backend)?;
        let canonical = backend.canonical(ask.name);
        let canonical = canonical.map_err(|cause| Unresolved::Name { name: ask.name.chars().take(200).collect(), cause })?;
        let version = ask.version.map(|version| backend.pin(version)).transpose().map_err(Unresolved::Version)?;
        let Ask { method, args, lease, login, .. } = ask.clone();
        let asked = SecretRef { backend: name.clone(), name: canonical, version, method, args, lease, login };
        backend.admit(asked).map_err(|refused| match refused {
            Inadmissible::Login { key, problem } => Unresolved::Login { key, problem },
            Inadmissible::Request { key, problem } => Unresolved::Request { key, problem },
        })
    }
}
