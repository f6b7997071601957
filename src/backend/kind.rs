//! What Keyferry knows of a configured store before it opens it. All of this depends on the configuration alone, and is here once. So `keyferry
//! check`, which has no key and no store, judges a class exactly as the daemon does.

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

    /// The one spelling of a name that policy sees and that Keyferry sends to the store.
    fn canonical(&self, name: &str) -> Result<SecretName, InvalidName>;

    /// The version that a class pins, in the store's spelling. The error says which versions the store has.
    fn pin(&self, version: &str) -> Result<Version, String>;

    /// Judges a request whose name and version are in the store's own spelling: refuses it, or returns it as it will be sent. Parts of the login
    /// that equal the configuration are left out, so that equal requests are equal references.
    fn admit(&self, asked: RefParts) -> Result<RefParts, Inadmissible>;

    /// The parts of an admitted login that differ from the configuration.
    fn own_login(&self, login: &Login) -> Login {
        login.clone()
    }

    /// What an answer depends on that outlives the process: where the store is, who asks there, and how. Answers with another text do not belong to
    /// this configuration. The text is written to disk in full, so that the next release finds what this one has kept.
    fn hangs_on(&self) -> HangsOn;

    /// Whether Keyferry logs in apart from its requests. If so, a refused login says nothing about the request. If not, each request contains the
    /// credential.
    fn logs_in(&self) -> bool {
        true
    }

    /// The store alone, without the decorators around it.
    ///
    /// # Errors
    /// The store needs something on this node that cannot be used. It is not an error if the store is out of reach.
    fn open(&self, name: &BackendName, limits: StoreLimits, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Backend>, BackendError>;

    /// Opens the store and asks it, as a mount would, for `keyferry doctor`. With a visitor, it also logs in and out again.
    async fn examine(
        &self,
        name: &BackendName,
        limits: StoreLimits,
        clock: &Arc<dyn Clock>,
        visitor: Option<Visitor>,
    ) -> Result<Vec<Diagnosis>, BackendError>;
}

/// The limits of one store that are not in its own entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StoreLimits {
    /// The largest secret in bytes: the configuration's `limits.secretBytes`.
    pub secret_bytes: usize,
    /// How many bytes the secrets may have that the store itself remembers.
    pub remembered: usize,
    /// How many bytes the HTTP clients may have that the store makes because classes name addresses or TLS files.
    pub clients: usize,
    /// The most calls at once, for a store that may be asked for more secrets at once than that ([`Facts::batch`]): the configuration's
    /// `limits.perBackend`.
    pub calls: usize,
}

/// What the rest of the configuration, policy and the commands must know about a store.
#[derive(Debug, Default)]
pub struct Facts<'k> {
    /// The dialects whose classes it can serve.
    pub dialects: &'static [&'static str],
    /// The store's address; `None`: it is on this node.
    pub address: Option<&'k Endpoint>,
    /// The audience that the Pods' tokens for this store must have; `None`: it needs no token.
    pub audience: Option<Audience<'k>>,
    /// The most secrets in one call. Such a store limits its calls itself, so Keyferry may ask it for so many times more secrets at once. 0 or 1:
    /// each secret is a call.
    pub batch: usize,
    /// What policy must know about it.
    pub bounds: Bounds,
    /// What its entry sets for caching; `None`: it is not reached over a network, and there is nothing to keep.
    pub cache: Option<CacheTimes>,
    /// The ending that some names must have. A star at the end of a rule's pattern also matches it. Empty: none.
    pub ending: &'static str,
    /// The first element of every name must be one of these; empty: any.
    pub firsts: &'static [&'static str],
    /// The files that its entry names, each under its key.
    pub files: Vec<NamedFile>,
    /// What its leases depend on; empty: it gives no leases.
    pub origin: Origin,
    /// Its region, if classes choose it by region and not by address.
    pub region: Option<&'k str>,
    /// How Keyferry logs in to it as the Pod, if the dialect's classes choose between several ways.
    pub way: Option<&'static str>,
    /// The first elements of names that lead to separate servers. Each server has its own outages. Empty: there is one server.
    pub servers: &'static [&'static str],
    /// Whether any request to it can be an update for policy.
    pub updates: bool,
    /// The part of its API that comes before every name and does not belong to any name.
    pub version: Option<&'static str>,
}

/// The parts of [`Kind::hangs_on`], each under its key of the configuration.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HangsOn(Vec<(String, String)>);

/// The audience of a Pod's token for a store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Audience<'k> {
    /// The key that sets it, or would set it.
    pub key: &'static str,
    pub text: &'k str,
    /// Whether the entry sets it; otherwise it is the default of the kind.
    pub named: bool,
}

/// A part of a request that a store cannot use.
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

/// For stores that only read, and where a class cannot set a login. `kind` completes "a ...".
///
/// # Errors
/// The request sets a login, a method, arguments or a shared lease.
pub fn only_reads(asked: RefParts, kind: &str) -> Result<RefParts, Inadmissible> {
    if let Some((key, _)) = asked.login.said().first() {
        return Err(Inadmissible::NoLogin { key: *key, problem: format!("means nothing to a {kind}: nobody logs in there (remove it)") });
    }
    check_read(&asked, Method::Get, &format!("a {kind}"))?;
    Ok(asked)
}

/// For stores that only read. `method`: the one of such a read. `store` completes "means nothing to ...".
///
/// # Errors
/// The request sets another method, arguments or a shared lease.
pub fn check_read(asked: &RefParts, method: Method, store: &str) -> Result<(), Inadmissible> {
    let request = |key, problem: String| Err(Inadmissible::Request { key, problem: format!("{problem} (remove it)") });
    match () {
        () if asked.method != method => {
            request("method", format!("{} means nothing to {store}, whose secrets are only read", asked.method))
        }
        () if !asked.args.is_empty() => request("args", format!("mean nothing to {store}, whose secrets are asked for by name alone")),
        () if asked.lease != LeaseFor::Pod => request("lease", format!("means nothing to {store}, which gives no leases")),
        () => Ok(()),
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

    /// Without the parts that are not set: if a later release adds a part, nothing changes where it is not used.
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

    /// One text for all parts. It is a JSON list, so one part never looks like two.
    pub fn to_text(&self) -> String {
        serde_json::to_string(&self.0).unwrap_or_default()
    }
}

// === impl Facts ===

impl Facts<'_> {
    /// Every audience of Pods' tokens that the entry names, or its default audience, each with its key. An audience from `classMay` may be a
    /// pattern.
    pub fn audiences(&self) -> Vec<(&'static str, &str)> {
        let own = self.audience.map(|audience| (audience.key, audience.text));
        let granted = self.bounds.class_may.iter().flat_map(|may| may.patterns(LoginKey::Audience));
        own.into_iter().chain(granted.map(|pattern| ("classMay.audience", pattern.as_str()))).collect()
    }
}
