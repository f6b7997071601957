//! Stores: the trait they answer to, what can go wrong with them, and the registry that the pipeline asks.

use std::error::Error;
use std::fmt::{self, Debug};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::model::{BackendName, Code, Fetched, InvalidName, Lease, PodIdentity, PodTokens, SecretName, SecretPrefix, SecretRef, Version};

#[cfg(test)]
pub mod conformance;
pub mod file;
pub mod limit;
mod registry;

pub use registry::{BackendConfig, BackendLimits, Backends};

/// A store that secrets come from. A decorator (a limit, a cache ...) is a Backend around a Backend.
#[async_trait]
pub trait Backend: Debug + Send + Sync {
    async fn fetch(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError>;

    /// The names under a prefix. [`Fault::Unsupported`] where a store cannot say.
    async fn list(&self, prefix: &SecretPrefix, cx: &FetchContext) -> Result<Vec<SecretName>, BackendError>;

    /// Leases outlive mounts: no Pod here.
    async fn renew(&self, lease: Lease, deadline: Instant) -> Result<Lease, BackendError>;

    async fn revoke(&self, lease: Lease, deadline: Instant) -> Result<(), BackendError>;

    /// Whether a mount could be served now: for readiness and doctor.
    async fn check(&self) -> Result<(), BackendError>;

    /// The one spelling of a name that policy sees and the store is sent.
    fn canonical(&self, name: &str) -> Result<SecretName, InvalidName>;

    /// The version a class pins, in the store's spelling; the error says which versions the store has.
    fn pin(&self, version: &str) -> Result<Version, String>;

    /// How widely an answer may be shared.
    fn scope(&self, secret: &SecretRef, pod: &PodIdentity) -> Scope;
}

/// For whom, with which tokens and until when. Owned: a shared fetch outlives its first caller.
#[derive(Clone, Debug)]
pub struct FetchContext {
    pub pod: Arc<PodIdentity>,
    pub tokens: Arc<PodTokens>,
    pub deadline: Instant,
}

/// Which Pods may be given one and the same answer (each after its own permit).
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Scope {
    /// The Pod with this uid alone.
    Pod(String),
    /// All whose request has this key: the reference's login and namespace, the ServiceAccount's name and uid.
    Shared(String),
}

/// What went wrong, as far as a mount's answer depends on it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Fault {
    /// The answer cannot be decrypted or read.
    Corrupt,
    /// The store says no.
    Denied,
    /// The request means nothing to the store.
    Invalid,
    NotFound,
    Throttled,
    TimedOut,
    TooLarge,
    /// The store refuses the login.
    Unauthenticated,
    Unavailable,
    Unsupported,
}

/// A failed call to a store. The message names backend, secret and cause, never a value.
#[derive(Clone, Debug)]
pub struct BackendError {
    pub fault: Fault,
    pub backend: BackendName,
    /// `None`: the store as a whole.
    pub secret: Option<SecretName>,
    /// Why, and in brackets what to do.
    pub reason: String,
    pub source: Option<Arc<dyn Error + Send + Sync>>,
}

// === impl Fault ===

impl Fault {
    /// The word in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Corrupt => "corrupt",
            Self::Denied => "denied",
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Throttled => "throttled",
            Self::TimedOut => "timed_out",
            Self::TooLarge => "too_large",
            Self::Unauthenticated => "unauthenticated",
            Self::Unavailable => "unavailable",
            Self::Unsupported => "unsupported",
        }
    }

    /// The code of a mount that failed by it.
    pub const fn code(self) -> Code {
        match self {
            Self::Corrupt => Code::SecretCorrupt,
            Self::Denied => Code::BackendDenied,
            Self::Invalid | Self::Unsupported => Code::InvalidRequest,
            Self::NotFound => Code::SecretNotFound,
            Self::Throttled | Self::Unavailable => Code::BackendUnavailable,
            Self::TimedOut => Code::BackendTimeout,
            Self::TooLarge => Code::TooLarge,
            Self::Unauthenticated => Code::BackendLoginFailed,
        }
    }
}

// === impl BackendError ===

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.secret {
            Some(secret) => write!(f, "{}/{secret}: {}", self.backend, self.reason),
            None => write!(f, "{}: {}", self.backend, self.reason),
        }
    }
}

impl Error for BackendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}
