//! What a configured store knows before it is opened. All of it is a function of the configuration alone, and stands here once: so that
//! `keyferry check`, where there is neither key nor store, cannot judge a class otherwise than the daemon does.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use super::{Backend, BackendError, CacheTimes, Origin, Visitor};
use crate::clock::Clock;
use crate::http::Endpoint;
use crate::model::{
    BackendName, Diagnosis, InvalidName, LeaseFor, Login, LoginKey, LoginTls, Method, NamedFile, RefParts, SecretName, Version,
};
use crate::policy::Bounds;

/// One kind of store, as an entry under `backends` configures it.
#[async_trait]
pub trait Kind: Debug + Send + Sync {
    fn facts(&self) -> Facts<'_>;

    /// The one spelling of a name that policy sees and the store is sent.
    fn canonical(&self, name: &str) -> Result<SecretName, InvalidName>;

    /// The version a class pins, in the store's spelling; the error says which versions the store has.
    fn pin(&self, version: &str) -> Result<Version, String>;

    /// What this store makes of a request whose name and version are in its own spelling: refused, or as it is to be sent. Parts of
    /// the login that are equal to the configuration are left out of it, so that equal requests are equal references.
    fn admit(&self, asked: RefParts) -> Result<RefParts, Inadmissible>;

    /// What of an admitted login is not as the configuration says it.
    fn own_login(&self, login: &Login) -> Login {
        login.clone()
    }

    /// What an answer that outlives the process hangs on: where the store is, who asks there, and how. Answers of another text are nothing to
    /// this configuration. The text is written out, so that the next release finds what this one has kept.
    fn hangs_on(&self) -> HangsOn;

    /// Whether a login is more than a part of each request: where it is refused, that says nothing of the request.
    fn logs_in(&self) -> bool {
        true
    }

    /// The store alone, without what stands around it.
    ///
    /// # Errors
    /// What it needs on this node cannot be used. A store that is out of reach is no error.
    fn open(&self, name: &BackendName, limits: StoreLimits, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Backend>, BackendError>;

    /// Opens it and asks it, as a mount would, for `keyferry doctor`; with a visitor it is logged in to, and out of again.
    async fn examine(
        &self,
        name: &BackendName,
        limits: StoreLimits,
        clock: &Arc<dyn Clock>,
        visitor: Option<Visitor>,
    ) -> Result<Vec<Diagnosis>, BackendError>;
}

/// What bounds one store, besides its own entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StoreLimits {
    /// The largest secret in bytes: the configuration's `limits.secretBytes`.
    pub secret_bytes: usize,
    /// For the secrets that it remembers itself, in bytes.
    pub remembered: usize,
    /// For the HTTP clients that it makes because classes name addresses or TLS files, in bytes.
    pub clients: usize,
    /// Calls at once, for a store that is let ask for more secrets than that ([`Facts::batch`]): the configuration's `limits.perBackend`.
    pub calls: usize,
}

/// What the rest of the configuration, policy and the commands have to know of a store.
#[derive(Debug, Default)]
pub struct Facts<'k> {
    /// The peers' dialects whose classes it can serve.
    pub dialects: &'static [&'static str],
    /// Where it is reached; `None`: on this node.
    pub address: Option<&'k Endpoint>,
    /// For whom the Pods' tokens must be that it is entered with; `None`: it is entered without one.
    pub audience: Option<Audience<'k>>,
    /// The most secrets of one call: it bounds its calls itself, and is let ask for so many times more secrets at once. 0 or 1: each secret
    /// is a call.
    pub batch: usize,
    /// What policy has to know of it.
    pub bounds: Bounds,
    /// What its entry says of caching; `None`: it is not reached over a network, and there is nothing to keep.
    pub cache: Option<CacheTimes>,
    /// What some names have to end with, for which a star at the end of a rule's pattern stands as well; empty: nothing.
    pub ending: &'static str,
    /// The first element of every name there is one of these; empty: any.
    pub firsts: &'static [&'static str],
    /// The files that its entry names, each under its key.
    pub files: Vec<NamedFile>,
    /// What its leases hang on; empty: it gives none.
    pub origin: Origin,
    /// The region that it is in, where its addresses are told apart by that.
    pub region: Option<&'k str>,
    /// How it is logged in to as the Pod, where the peers' classes choose between several ways.
    pub way: Option<&'static str>,
    /// The first elements of names that lead to servers of their own, each with its own outages; empty: there is one server.
    pub servers: &'static [&'static str],
    /// Whether it is ever asked for something that policy calls an update.
    pub updates: bool,
    /// What stands before every name in its API, and is no part of any.
    pub version: Option<&'static str>,
}

/// The parts of [`Kind::hangs_on`], each under its key of the configuration.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HangsOn(Vec<(String, String)>);

/// The audience of a Pod's token for a store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Audience<'k> {
    /// Where the entry says it, or would.
    pub key: &'static str,
    pub text: &'k str,
    /// Whether the entry says it; else it is the kind's own.
    pub named: bool,
}

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
    /// `method`, `args`, `lease` or `prefix`.
    Request {
        key: &'static str,
        problem: String,
    },
}

/// For stores that only read, and that the daemon enters as itself: `kind` completes "a ...".
///
/// # Errors
/// The request says how, with what or as whom.
pub fn only_reads(asked: RefParts, kind: &str) -> Result<RefParts, Inadmissible> {
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

// === impl HangsOn ===

impl HangsOn {
    #[must_use]
    #[allow(clippy::needless_pass_by_value)] // mostly made for it
    pub fn and(mut self, key: impl Into<String>, text: impl ToString) -> Self {
        self.0.push((key.into(), text.to_string()));
        self
    }

    /// Without those that are not set: what a later release adds changes nothing where it is not used.
    #[must_use]
    pub fn and_some(self, key: impl Into<String>, text: Option<impl ToString>) -> Self {
        match text {
            Some(text) => self.and(key, text),
            None => self,
        }
    }

    #[must_use]
    pub fn and_tls(self, tls: &LoginTls) -> Self {
        let LoginTls { ca, client, server_name, skip_verify } = tls;
        let path = |path: &PathBuf| path.display().to_string();
        let (chain, key) = client.as_ref().map(|(chain, key)| (path(chain), path(key))).unzip();
        self.and_some("ca", ca.as_ref().map(path))
            .and_some("clientCert", chain)
            .and_some("clientKey", key)
            .and_some("serverName", server_name.as_ref())
            .and_some("skipVerify", skip_verify.then_some("true"))
    }

    /// One text for all: a JSON list, in which no part can pass for two.
    pub fn to_text(&self) -> String {
        serde_json::to_string(&self.0).unwrap_or_default()
    }
}

// === impl Facts ===

impl Facts<'_> {
    /// Every audience of Pods' tokens that the entry names, or has where it names none, each with its key. What `classMay` has may be a
    /// pattern.
    pub fn audiences(&self) -> Vec<(&'static str, &str)> {
        let own = self.audience.map(|audience| (audience.key, audience.text));
        let granted = self.bounds.class_may.iter().flat_map(|may| may.patterns(LoginKey::Audience));
        own.into_iter().chain(granted.map(|pattern| ("classMay.audience", pattern.as_str()))).collect()
    }
}
