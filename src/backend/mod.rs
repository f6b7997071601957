//! Stores: the trait they answer to, what can go wrong with them, and the registry that the pipeline asks.

use std::error::Error;
use std::fmt::{self, Debug};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::{Duration, Instant};

use crate::files::Late;
use crate::model::{
    BackendName, Code, Fetched, InvalidName, Lease, LeaseFor, LoginKey, Method, PodIdentity, PodTokens, SecretName, SecretPrefix,
    SecretRef, Version,
};

mod caching;
mod examine;
mod registry;
mod remote;
mod serving;
pub mod stack;
pub mod store;
mod sweep;
#[cfg(test)]
pub mod testing;

pub use caching::{CacheConfig, CacheTimes};
pub use examine::Visitor;
pub use registry::{BackendConfig, BackendParts, BackendSettings, Backends};
pub use serving::ServedDialects;
pub use stack::lease::LeasesConfig;

/// A store that secrets come from. A [`Decorator`](stack::Decorator) (a limit, a cache ...) is a Backend around a Backend.
#[async_trait]
pub trait Backend: Debug + Send + Sync {
    async fn fetch(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError>;

    /// The answer, where it is at hand and fresh enough for this caller: told without waiting, and without asking the store. A decorator
    /// that may have to do something about each answer leaves this as it is.
    fn recall(&self, _secret: &SecretRef, _cx: &FetchContext) -> Option<Fetched> {
        None
    }

    /// The names under a prefix. [`Fault::Unsupported`] where a store cannot say.
    async fn list(&self, prefix: &SecretPrefix, cx: &FetchContext) -> Result<Vec<SecretName>, BackendError>;

    /// Leases outlive mounts: no Pod here.
    async fn renew(&self, lease: Lease, deadline: Instant) -> Result<Lease, BackendError>;

    async fn revoke(&self, lease: Lease, deadline: Instant) -> Result<(), BackendError>;

    /// Takes a lease of a former process as its own: what the lease lives by is kept as if it had been issued here.
    fn adopt(&self, lease: &Lease);

    /// The Pod with this uid is gone: gives back what was kept for it alone, such as a store token that nobody else uses.
    async fn forget(&self, pod: &str, deadline: Instant);

    /// Whether a mount could be served now: for readiness and doctor.
    async fn check(&self) -> Result<(), BackendError>;

    /// The one spelling of a name that policy sees and the store is sent.
    fn canonical(&self, name: &str) -> Result<SecretName, InvalidName>;

    /// The version a class pins, in the store's spelling; the error says which versions the store has.
    fn pin(&self, version: &str) -> Result<Version, String>;

    /// What this store makes of a request whose name and version are in its own spelling: refused, or as it is to be sent. Parts of
    /// the login that are equal to the configuration are left out of it, so that equal requests are equal references.
    fn admit(&self, asked: SecretRef) -> Result<SecretRef, Inadmissible>;

    /// How widely an answer may be shared.
    fn scope(&self, secret: &SecretRef, pod: &PodIdentity) -> Scope;
}

/// For whom, with which tokens and until when. Owned: a shared fetch outlives its first caller.
#[derive(Clone, Debug)]
pub struct FetchContext {
    pub pod: Arc<PodIdentity>,
    pub tokens: Arc<PodTokens>,
    /// The oldest answer that may come from a cache, where the class says less than the configuration.
    pub fresh: Option<Duration>,
    pub deadline: Instant,
}

/// Which Pods may be given one and the same answer (each after its own permit).
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Scope {
    /// The Pod with this uid alone.
    Pod(String),
    /// All whose request has this key: they are the same to the store, or are of one ServiceAccount.
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
    /// Why, and in brackets what to do: in words that a class's author may read, without the node's paths.
    pub reason: String,
    /// The same for the node's admin, where that says more.
    pub source: Option<Arc<dyn Error + Send + Sync>>,
}

/// A reason with all that only the node's admin may know: for logs, readiness and commands.
#[derive(Debug)]
struct InFull(String);

/// A part of a request that a store has no use for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Inadmissible {
    Login {
        key: LoginKey,
        problem: String,
    },
    /// The store has no logins at all.
    NoLogin {
        key: LoginKey,
        problem: String,
    },
    /// `method`, `args` or `lease`.
    Request {
        key: &'static str,
        problem: String,
    },
}

/// For stores that only read, and that the daemon enters as itself: `kind` completes "a ...".
///
/// # Errors
/// The request says how, with what or as whom.
pub fn only_reads(asked: SecretRef, kind: &str) -> Result<SecretRef, Inadmissible> {
    if let Some((key, _)) = asked.login.said().first() {
        return Err(Inadmissible::NoLogin { key: *key, problem: format!("means nothing to a {kind}: nobody logs in there (remove it)") });
    }
    let request = |key, problem: &str| Err(Inadmissible::Request { key, problem: format!("{problem} (remove it)") });
    match () {
        () if asked.method != Method::Get => {
            request("method", &format!("{} means nothing to a {kind}, whose secrets are only read", asked.method))
        }
        () if !asked.args.is_empty() => request("args", &format!("mean nothing to a {kind}, whose secrets are asked for by name alone")),
        () if asked.lease != LeaseFor::Pod => request("lease", &format!("means nothing to a {kind}, which gives no leases")),
        () => Ok(asked),
    }
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

impl From<Late> for Fault {
    fn from(late: Late) -> Self {
        match late {
            Late::Deadline => Self::TimedOut,
            // Everybody who needs the file fares alike.
            Late::Hangs => Self::Unavailable,
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

impl BackendError {
    /// `full`: the reason in words for the node's admin; `None`: they are the same.
    fn with(fault: Fault, backend: BackendName, secret: Option<SecretName>, reason: String, full: Option<String>) -> Self {
        let source = full.map(|full| Arc::new(InFull(full)) as Arc<dyn Error + Send + Sync>);
        Self { fault, backend, secret, reason, source }
    }

    /// As it is shown to the node's admin.
    pub fn in_full(&self) -> Self {
        Self { reason: self.reason_in_full(), ..self.clone() }
    }

    fn reason_in_full(&self) -> String {
        self.source.as_ref().map_or_else(|| self.reason.clone(), ToString::to_string)
    }
}

impl fmt::Display for InFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for InFull {}

impl Error for BackendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}
