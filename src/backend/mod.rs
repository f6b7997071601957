//! Stores: the trait that they implement, what can go wrong with them, and the registry that the pipeline asks.

use std::error::Error;
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tokio::time::{Duration, Instant};

use crate::budget::Payer;
use crate::files::{Late, Located};
use crate::model::{
    Account, BackendName, Code, Fetched, Lease, PodIdentity, PodTokens, SecretName, SecretPrefix, SecretRef, Shown, Tenant,
};
use crate::turns::Party;

mod caching;
mod catalogue;
mod config;
mod examine;
mod failover;
mod instead;
mod kind;
mod registry;
mod remote;
mod serving;
pub mod stack;
pub mod store;
mod sweep;
#[cfg(test)]
pub mod testing;

pub use caching::{CacheConfig, CacheTimes};
pub use catalogue::Configured;
pub use config::BackendConfig;
pub use examine::Visitor;
pub use failover::{Beside, FailoverConfig};
pub use kind::{Audience, Facts, HangsOn, Inadmissible, Kind, StoreLimits, check_read, only_reads};
pub use registry::{BackendParts, BackendSettings, Backends};
pub use serving::ServedDialects;
pub(crate) use serving::{logs_in_as_pod, methods_as_pod};
pub use stack::lease::LeasesConfig;

/// A store of secrets. A [`Decorator`](stack::Decorator) (a limit, a cache ...) is a Backend around another Backend.
#[async_trait]
pub trait Backend: Debug + Send + Sync {
    async fn fetch(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError>;

    /// The answer, if it is here and fresh enough for this caller. It neither waits nor asks the store. `now`: the clock is read once for all
    /// secrets of a mount. A decorator that must act on each answer keeps this default.
    fn recall(&self, _secret: &SecretRef, _cx: &FetchContext, _now: Instant) -> Option<Fetched> {
        None
    }

    /// Whether the store is known to be out for this request, so that Keyferry would not ask it now.
    fn is_out(&self, _secret: &SecretRef, _cx: &FetchContext) -> bool {
        false
    }

    /// The age of the answer that Keyferry may give while the store is out; `None`: there is none.
    async fn stale_age(&self, _secret: &SecretRef, _cx: &FetchContext) -> Option<Duration> {
        None
    }

    /// Whether there certainly is such an answer, found out without waiting. It never has a lease.
    fn keeps(&self, _secret: &SecretRef, _cx: &FetchContext) -> bool {
        false
    }

    /// That answer, given because of `cause`. Keyferry does not ask the store.
    async fn stale(&self, _secret: &SecretRef, _cx: &FetchContext, _cause: &str) -> Option<Fetched> {
        None
    }

    /// The names under a prefix. [`Fault::Unsupported`] where a store cannot say.
    async fn list(&self, prefix: &SecretPrefix, cx: &FetchContext) -> Result<Vec<SecretName>, BackendError>;

    /// There is no Pod here, because leases live longer than mounts.
    async fn renew(&self, lease: Lease, deadline: Instant) -> Result<Lease, BackendError>;

    async fn revoke(&self, lease: Lease, deadline: Instant) -> Result<(), BackendError>;

    /// Takes over a lease of a former process: keeps what the lease needs (its token), as if it had been issued here.
    fn adopt(&self, lease: &Lease);

    /// The Pod with this uid is gone: gives back what was kept only for it, such as a store token that nobody else uses.
    async fn forget(&self, pod: &str, deadline: Instant);

    /// Whether a mount could be served now: for readiness and doctor.
    async fn check(&self) -> Result<(), BackendError>;

    /// Whether the store is there and serves anybody. Whatever else this daemon needs does not count. A success closes the circuit again. `server`:
    /// one of [`Facts::servers`]; empty if there is only one server.
    async fn probe(&self, _server: &str) -> Result<(), BackendError> {
        self.check().await
    }

    /// The file that an answer is read from, if a look at the file shows whether the answer is still the same. `None`: only a call can show that.
    fn file(&self, _secret: &SecretRef) -> Option<Located> {
        None
    }

    /// How widely an answer may be shared.
    fn scope(&self, secret: &SecretRef, pod: &PodIdentity) -> Scope;
}

/// For whom, with which tokens and until when Keyferry asks. It owns its data, because a shared fetch can live longer than its first caller.
#[derive(Clone, Debug)]
pub struct FetchContext {
    pub pod: Arc<PodIdentity>,
    pub tokens: Arc<PodTokens>,
    /// The oldest answer that may come from a cache, if the class sets less than the configuration.
    pub fresh: Option<Duration>,
    /// The same for an answer that Keyferry gives because the store is out.
    pub max_stale: Option<Duration>,
    /// How long the store may take after it is asked, if that is less than the time until the deadline.
    pub patience: Option<Duration>,
    /// Whether an old answer must not be given when the store is out, because there is another store to ask first.
    pub live: bool,
    /// Who pays for the memory that the answer takes; `None`: the daemon.
    pub payer: Option<Payer>,
    /// In whose lines the request waits at a store; `None`: in those of its own tenant.
    pub party: Option<Party>,
    pub called: Called,
    pub deadline: Instant,
}

/// Whether a store was called for a fetch. A fetch that only waits for its turn may be dropped, and nothing is lost.
#[derive(Clone, Debug, Default)]
pub struct Called(Arc<AtomicBool>);

/// What is the same for all secrets of a mount. Its permits say whose mount it is. The fields are those of [`FetchContext`].
#[derive(Clone, Debug)]
pub struct Terms {
    pub tokens: Arc<PodTokens>,
    pub fresh: Option<Duration>,
    pub max_stale: Option<Duration>,
    pub payer: Option<Payer>,
    pub deadline: Instant,
}

/// Which Pods may get the same answer to the same request. Each of them needs its own permit first.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Scope {
    /// All Pods of one ServiceAccount.
    Account(Account),
    /// All Pods of this node: to the store they are the same.
    Node,
    /// Only the Pod with this uid.
    Pod(Arc<str>),
}

/// Where a store is, and as whom Keyferry logs in there. A backend ignores a lease of another origin: neither the lease nor its token is shown
/// there.
///
/// The text goes to the sealed folder. Its form is part of that format: a release that writes another text would not find the leases of the release
/// before it.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Origin(Arc<str>);

/// What went wrong, as far as the answer to the mount depends on it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Fault {
    /// The answer cannot be decrypted or read.
    Corrupt,
    /// The store denies the request.
    Denied,
    /// No connection to the store is possible. For a probe: the store says that it serves nobody now (sealed, not initialised).
    Down,
    /// The store cannot understand the request.
    Invalid,
    /// Nobody can say now whether a login is good that a namespace may have chosen. That says nothing about the store or about other logins.
    NoLogin,
    NotFound,
    /// The time ended before this request had a turn among those of its tenant: the store was not asked.
    NoTurn,
    /// There is no memory for the answer now: the mount gives back what it has, and waits until it can have enough. This is not a failed try.
    Short,
    Throttled,
    TimedOut,
    TooLarge,
    /// The store refuses the login.
    Unauthenticated,
    /// The store cannot be reached, or says itself that it has failed.
    Unavailable,
    /// There is no secret, and nothing shows that the store is out: it redirects, its replica is behind, or a file of the node hangs.
    Unhelpful,
    Unsupported,
}

/// A failed call to a store. The message names backend, secret and cause, never a value.
#[derive(Clone, Debug)]
pub struct BackendError {
    pub fault: Fault,
    pub backend: BackendName,
    /// `None`: the store as a whole.
    pub secret: Option<SecretName>,
    /// The cause, and in brackets what to do. The author of a class may read it, so it does not contain the node's paths.
    pub reason: String,
    /// The earliest time for the next request, if the store set one (`Retry-After`).
    pub retry_after: Option<Duration>,
    /// A longer `reason` for the node's admin, if there is one.
    pub source: Option<Arc<dyn Error + Send + Sync>>,
}

/// What the allocations of an error's texts, and its places in tables, take besides, in bytes.
const WORDS: usize = 256;

/// The reason with everything that only the node's admin may know: for logs, readiness and commands.
#[derive(Debug)]
struct InFull(String);

// === impl Terms ===

impl Terms {
    fn of(&self, pod: &Arc<PodIdentity>) -> FetchContext {
        let Self { tokens, fresh, max_stale, payer, deadline } = self;
        let (fresh, max_stale, payer) = (*fresh, *max_stale, payer.clone());
        FetchContext { fresh, max_stale, payer, ..FetchContext::new(Arc::clone(pod), Arc::clone(tokens), *deadline) }
    }
}

// === impl Called ===

impl Called {
    pub(in crate::backend) fn mark(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(in crate::backend) fn is_marked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl Origin ===

impl Origin {
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

// === impl Fault ===

impl Fault {
    /// The word for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Corrupt => "corrupt",
            Self::Denied => "denied",
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Short => "short",
            Self::Throttled => "throttled",
            Self::NoTurn | Self::TimedOut => "timed_out",
            Self::TooLarge => "too_large",
            Self::Unauthenticated => "unauthenticated",
            Self::Down | Self::NoLogin | Self::Unavailable | Self::Unhelpful => "unavailable",
            Self::Unsupported => "unsupported",
        }
    }

    /// The code of a mount that failed because of it.
    pub const fn code(self) -> Code {
        match self {
            Self::Corrupt => Code::SecretCorrupt,
            Self::Denied => Code::BackendDenied,
            Self::Invalid | Self::Unsupported => Code::InvalidRequest,
            Self::NotFound => Code::SecretNotFound,
            Self::Short => Code::Overloaded,
            Self::Down | Self::NoLogin | Self::Throttled | Self::Unavailable | Self::Unhelpful => Code::BackendUnavailable,
            Self::NoTurn | Self::TimedOut => Code::BackendTimeout,
            Self::TooLarge => Code::TooLarge,
            Self::Unauthenticated => Code::BackendLoginFailed,
        }
    }

    /// Whether the store was asked and is out: it could not be reached, gave no complete answer in time, or answered 429 or 5xx. If the store
    /// refuses the request or the caller, that is an answer, and not an outage. The same holds for an answer that cannot be read.
    pub const fn is_outage(self) -> bool {
        match self {
            Self::Down | Self::NoLogin | Self::Throttled | Self::TimedOut | Self::Unavailable => true,
            Self::Corrupt
            | Self::Denied
            | Self::Invalid
            | Self::NotFound
            | Self::NoTurn
            | Self::Short
            | Self::TooLarge
            | Self::Unauthenticated
            | Self::Unhelpful
            | Self::Unsupported => false,
        }
    }
}

impl FetchContext {
    /// For this Pod and nothing else: with any age that the configuration allows, and without a payer.
    pub fn new(pod: Arc<PodIdentity>, tokens: Arc<PodTokens>, deadline: Instant) -> Self {
        let (fresh, max_stale, patience, payer, party) = (None, None, None, None, None);
        Self { pod, tokens, fresh, max_stale, patience, live: false, payer, party, called: Called::default(), deadline }
    }

    /// The highest age of an answer that Keyferry gives because the store is out: the admin's limit, or the class's limit if that is lower.
    pub(in crate::backend) fn stale_within(&self, stale: Duration) -> Duration {
        self.max_stale.map_or(stale, |most| most.min(stale))
    }

    /// The tenant that it counts for.
    pub fn tenant(&self) -> Tenant {
        Arc::clone(&self.pod.namespace).into()
    }
}

impl From<Late> for Fault {
    fn from(late: Late) -> Self {
        match late {
            Late::Deadline => Self::TimedOut,
            // It is the same for everybody who needs the file.
            Late::Hangs => Self::Unhelpful,
        }
    }
}

// === impl BackendError ===

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.secret {
            Some(secret) => write!(f, "{}: {}", Shown(&self.backend, secret), self.reason),
            None => write!(f, "{}: {}", self.backend, self.reason),
        }
    }
}

impl BackendError {
    /// About what it takes in memory, in bytes. The text for the admin is hardly longer than the other one.
    pub fn weight(&self) -> usize {
        let texts = if self.source.is_some() { 2 } else { 1 };
        size_of::<Self>() + texts * self.reason.len() + WORDS
    }

    /// `full`: the reason for the node's admin; `None`: it is the same.
    fn with(fault: Fault, backend: BackendName, secret: Option<SecretName>, reason: String, full: Option<String>) -> Self {
        let source = full.map(|full| Arc::new(InFull(full)) as Arc<dyn Error + Send + Sync>);
        Self { fault, backend, secret, reason, retry_after: None, source }
    }

    /// The error for a caller whose deadline comes before an answer. `began`: when the caller began to wait. `asked`: whether the store was asked.
    fn late(backend: &BackendName, secret: Option<&SecretName>, began: Instant, asked: bool) -> Self {
        let fault = if asked { Fault::TimedOut } else { Fault::NoTurn };
        let waited = began.elapsed().as_secs();
        let reason = format!("no answer within {waited} s (is the store slow or out of reach? kubelet tries again by itself)");
        Self { fault, backend: backend.clone(), secret: secret.cloned(), reason, retry_after: None, source: None }
    }

    /// As the node's admin sees it.
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
