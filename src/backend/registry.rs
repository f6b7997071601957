//! The configured backends by name: built once from the configuration, asked by the pipeline.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::{Duration, Instant};

use super::stack::cache::Cached;
use super::stack::coalesce::Coalesced;
use super::stack::lease::{Leased, Leases};
use super::stack::limit::Limited;
use super::store::file::{FileBackend, FileConfig};
use super::store::http::{HttpBackend, HttpBackendConfig};
use super::store::vault::{VaultBackend, VaultConfig};
use super::{Backend, BackendError, CacheConfig, CacheTimes, Fault, FetchContext, Inadmissible, ServedDialects};
use crate::clock::Clock;
use crate::http::Endpoint;
use crate::model::{
    Ask, BackendName, Catalogue, Fetched, InvalidName, LoginKey, PodTokens, SecretName, SecretRef, Serving, Unresolved, Version,
};
use crate::nearest::nearest;
use crate::policy::{Bounds, Permit};
use crate::telemetry::Metrics;
use crate::yaml::{Faults, Reader};

/// Kinds that are designed and not built; their configuration is refused with these words.
const NOT_YET: [&str; 4] = ["aws", "azure", "failover", "gcp"];

/// Kinds that are served, as messages name them.
const SERVED: &str = "file, http, vault";

/// One entry under `backends`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum BackendConfig {
    File(FileConfig),
    Http(Box<HttpBackendConfig>),
    Vault(Box<VaultConfig>),
}

/// What every backend is built with besides its own entry, from `limits` and `cache`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BackendSettings {
    /// Calls to one backend at once.
    pub per_backend: usize,
    /// The largest secret in bytes.
    pub secret_bytes: usize,
    /// For those that are reached over a network, as far as their own entry says nothing else.
    pub cache: CacheConfig,
}

/// What backends share with the rest of the process, and with those of another configuration.
#[derive(Clone, Copy, Debug)]
pub struct BackendParts<'p> {
    pub clock: &'p Arc<dyn Clock>,
    pub metrics: &'p Arc<Metrics>,
    pub leases: &'p Arc<Leases>,
}

/// Every backend, each behind its decorators.
#[derive(Debug)]
pub struct Backends {
    stacks: BTreeMap<BackendName, Stack>,
    dialects: ServedDialects,
}

/// A backend behind its decorators, with all it has learnt: opened secrets, answers, logins.
#[derive(Clone, Debug)]
struct Stack {
    top: Arc<dyn Backend>,
    /// `None`: it was built elsewhere.
    plan: Option<StackPlan>,
}

/// What a stack is built by: from an equal plan comes an equal stack, so that one is kept.
#[derive(Clone, Debug, Eq, PartialEq)]
struct StackPlan {
    config: BackendConfig,
    calls: usize,
    secret_bytes: usize,
    /// `None`: the store is on this node, and always current.
    cache: Option<CacheConfig>,
}

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
            Some("http") => HttpBackendConfig::parse(&mut reader, faults).map(|config| Self::Http(Box::new(config))),
            Some("vault") => VaultConfig::parse(&mut reader, faults).map(|config| Self::Vault(Box::new(config))),
            Some(kind) if NOT_YET.contains(&kind) => {
                faults.add(node.at, reader.path("kind"), format!("{kind:?} is not yet supported (it serves: {SERVED})"));
                return None;
            }
            Some(kind) => {
                faults.add(node.at, reader.path("kind"), format!("{kind:?} is no kind of backend (this version serves: {SERVED})"));
                return None;
            }
            None => {
                faults.add(node.at, reader.path("kind"), format!("is {}, but must be a text (such as kind: file)", node.kind()));
                return None;
            }
        };
        reader.finish(faults);
        config
    }

    /// Whether it can serve the classes of this peer's dialect.
    pub fn speaks(&self, dialect: &str) -> bool {
        match self {
            Self::File(_) | Self::Http(_) => false,
            Self::Vault(_) => matches!(dialect, "openbao" | "vault"),
        }
    }

    /// Whether it says which audience a Pod's token has, where it is entered with one.
    pub fn names_audience(&self) -> bool {
        match self {
            Self::File(_) => false,
            Self::Http(config) => config.audience().is_some(),
            Self::Vault(config) => config.names_audience(),
        }
    }

    /// Every audience of Pods' tokens that its entry names, or has where it names none, each with its key. What `classMay` has may be a
    /// pattern.
    pub fn audiences(&self) -> Vec<(&'static str, &str)> {
        match self {
            Self::File(_) => Vec::new(),
            Self::Http(config) => config.audience().map(|audience| ("auth.bearer.podToken", audience)).into_iter().collect(),
            Self::Vault(config) => {
                let granted = config.class_may.patterns(LoginKey::Audience).iter().map(|pattern| ("classMay.audience", pattern.as_str()));
                config.audience().map(|audience| ("auth.audience", audience)).into_iter().chain(granted).collect()
            }
        }
    }

    /// Where it is reached, if there is such a place.
    pub fn address(&self) -> Option<&Endpoint> {
        match self {
            Self::File(_) => None,
            Self::Http(config) => Some(config.server()),
            Self::Vault(config) => Some(&config.address),
        }
    }

    /// What policy has to know of it.
    pub fn bounds(&self) -> Bounds {
        match self {
            Self::File(_) | Self::Http(_) => Bounds::default(),
            Self::Vault(config) => Bounds { class_may: Some(config.class_may.clone()), own: Some(config.own()) },
        }
    }

    /// As [`Backend::canonical`], of a backend that is not opened.
    pub fn canonical(&self, name: &str) -> Result<SecretName, InvalidName> {
        match self {
            Self::File(_) => FileConfig::canonical(name),
            Self::Http(_) => HttpBackendConfig::canonical(name),
            Self::Vault(_) => VaultConfig::canonical(name),
        }
    }

    /// As [`Backend::pin`], of a backend that is not opened.
    pub fn pin(&self, version: &str) -> Result<Version, String> {
        match self {
            Self::File(_) => FileConfig::pin(version),
            Self::Http(config) => config.pin(version),
            Self::Vault(_) => VaultConfig::pin(version),
        }
    }

    /// As [`Backend::admit`], of a backend that is not opened.
    pub fn admit(&self, asked: SecretRef) -> Result<SecretRef, Inadmissible> {
        match self {
            Self::File(_) => FileConfig::admit(asked),
            Self::Http(_) => HttpBackendConfig::admit(asked),
            Self::Vault(config) => config.admit(asked),
        }
    }

    /// What its entry says of caching; `None`: it is not reached over a network, and there is nothing to keep.
    pub fn cache(&self) -> Option<CacheTimes> {
        match self {
            Self::File(_) => None,
            Self::Http(config) => Some(config.cache),
            Self::Vault(config) => Some(config.cache),
        }
    }

    /// What its leases hang on: where the store is, and who the daemon is there. A lease of another origin is nothing to a backend.
    fn origin(&self) -> String {
        match self {
            // They give none.
            Self::File(_) | Self::Http(_) => String::new(),
            Self::Vault(config) => format!("{:?}", (&config.address, &config.namespace, &config.auth)),
        }
    }

    /// Alone, without its decorators.
    fn open(&self, name: &BackendName, secret_bytes: usize, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Backend>, BackendError> {
        match self {
            Self::File(config) => Ok(Arc::new(FileBackend::open(name.clone(), config, secret_bytes, Arc::clone(clock))?)),
            Self::Http(config) => Ok(Arc::new(HttpBackend::open(name.clone(), config, secret_bytes)?)),
            Self::Vault(config) => Ok(Arc::new(VaultBackend::open(name.clone(), config, secret_bytes, Arc::clone(clock))?)),
        }
    }
}

// === impl StackPlan ===

impl StackPlan {
    fn new(config: &BackendConfig, settings: BackendSettings) -> Self {
        let BackendSettings { per_backend: calls, secret_bytes, cache } = settings;
        Self { config: config.clone(), calls, secret_bytes, cache: config.cache().map(|own| own.or(cache)) }
    }

    fn build(self, name: &BackendName, parts: BackendParts<'_>) -> Result<Stack, BackendError> {
        let store = self.config.open(name, self.secret_bytes, parts.clock)?;
        Ok(Stack { top: self.decorate(store, name, parts), plan: Some(self) })
    }

    /// From the store outwards. What is outside sees what is inside only by its answers.
    fn decorate(&self, store: Arc<dyn Backend>, name: &BackendName, parts: BackendParts<'_>) -> Arc<dyn Backend> {
        let limited = Arc::new(Limited::new(store, name.clone(), self.calls, Arc::clone(parts.metrics)));
        let Some(CacheConfig { fresh, .. }) = self.cache else { return limited };
        let cached: Arc<dyn Backend> = if fresh.is_zero() { limited } else { Arc::new(Cached::new(limited, name, fresh, parts.metrics)) };
        let coalesced = Arc::new(Coalesced::new(cached, name.clone(), parts.metrics));
        Arc::new(Leased::new(coalesced, name, &self.config.origin(), Arc::clone(parts.leases)))
    }
}

// === impl Backends ===

impl Backends {
    /// Builds every backend and puts its decorators around it. Of the `former` ones, those that would become the same are kept, so that a
    /// reload forgets nothing that it does not change.
    ///
    /// # Errors
    /// A line for each backend that cannot be built, naming it.
    pub fn build(
        configs: &BTreeMap<BackendName, BackendConfig>,
        settings: BackendSettings,
        parts: BackendParts<'_>,
        former: Option<&Self>,
    ) -> Result<Self, Vec<String>> {
        let (mut stacks, mut faults) = (BTreeMap::new(), Vec::new());
        for (name, config) in configs {
            let plan = StackPlan::new(config, settings);
            let kept = former.and_then(|former| former.stacks.get(name)).filter(|stack| stack.plan.as_ref() == Some(&plan));
            match kept.map_or_else(|| plan.build(name, parts), |stack| Ok(stack.clone())) {
                Ok(stack) => _ = stacks.insert(name.clone(), stack),
                Err(error) => faults.push(format!("backends.{}", error.in_full())),
            }
        }
        if faults.is_empty() { Ok(Self { stacks, dialects: ServedDialects::default() }) } else { Err(faults) }
    }

    /// Backends that were built elsewhere.
    pub fn new(backends: BTreeMap<BackendName, Arc<dyn Backend>>) -> Self {
        let stacks = backends.into_iter().map(|(name, top)| (name, Stack { top, plan: None })).collect();
        Self { stacks, dialects: ServedDialects::default() }
    }

    /// With these, classes of the peers' dialects find their backend.
    pub fn with_dialects(self, dialects: ServedDialects) -> Self {
        Self { dialects, ..self }
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
        let Some(Stack { top, .. }) = self.stacks.get(&secret.backend) else {
            let reason = "the backend is not configured any more (try again)".to_owned();
            let (backend, secret) = (secret.backend.clone(), Some(secret.name.clone()));
            return Err(BackendError { fault: Fault::Invalid, backend, secret, reason, source: None });
        };
        top.fetch(secret, &FetchContext { pod: Arc::clone(permit.pod()), tokens, fresh, deadline }).await
    }

    /// Asks each backend whether it could serve a mount now; the faults of those that could not.
    pub async fn check(&self) -> Vec<BackendError> {
        let checks = self.stacks.values().map(|stack| stack.top.check());
        futures_util::future::join_all(checks).await.into_iter().filter_map(Result::err).collect()
    }

    pub fn names(&self) -> impl Iterator<Item = &BackendName> {
        self.stacks.keys()
    }

    fn known(&self) -> String {
        self.names().map(BackendName::as_str).collect::<Vec<_>>().join(", ")
    }

    fn find(&self, backend: Option<&str>) -> Result<(&BackendName, &Arc<dyn Backend>), Unresolved> {
        let Some(wanted) = backend else {
            let mut all = self.stacks.iter().map(|(name, stack)| (name, &stack.top));
            return match (all.next(), all.next()) {
                (Some(only), None) => Ok(only),
                _ => Err(Unresolved::Backend(format!(
                    "no backend is named, and this node has several (set backend to one of: {})",
                    self.known()
                ))),
            };
        };
        let found = self.stacks.iter().find(|(name, _)| name.as_str() == wanted).map(|(name, stack)| (name, &stack.top));
        found.ok_or_else(|| {
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
            Inadmissible::NoLogin { key, problem } => Unresolved::NoLogin { key, problem },
            Inadmissible::Request { key, problem } => Unresolved::Request { key, problem },
        })
    }

    fn serving(&self, dialect: &str, address: Option<&str>) -> Result<Serving, Unresolved> {
        self.dialects.find(dialect, address).map_err(Unresolved::Backend)
    }
}

#[cfg(test)]
mod tests;
