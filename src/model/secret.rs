//! A secret: its bytes, its fields, how it is asked for and what came back.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::ops::Deref;
use std::sync::{Arc, LazyLock};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Duration;
use zeroize::{Zeroizing, optimization_barrier};

use super::{Args, BackendName, FieldName, Login, SecretName, Version, visible};
use crate::redact::is_invisible;

/// Bytes that must not be seen: wiped when dropped, redacted in `Debug`, never copied by accident.
/// There is one way to the content, and it is easy to search for.
pub struct SecretBytes(Vec<u8>);

/// How long what a store has made without an end is kept while nobody asks for it.
pub const UNASKED: Duration = Duration::from_hours(24);

/// What a field costs besides its name and content, in bytes: a place in a tree, two pointers with counts.
const FIELD: usize = 160;

/// What kind of value a field holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FieldKind {
    /// Not UTF-8.
    Binary,
    /// A value that is not a string in its store (number, list, object ...), here as JSON.
    Json,
    /// UTF-8 text.
    Text,
}

/// One field. The bytes are shared: files, caches and answers in flight hold the same ones.
#[derive(Clone, Debug)]
pub struct Field {
    pub bytes: Arc<SecretBytes>,
    pub kind: FieldKind,
}

/// A secret as its store answered it.
#[derive(Debug)]
pub struct Secret {
    pub fields: BTreeMap<FieldName, Field>,
    pub response: Option<Response>,
    /// The store's own version. Where a store has none, delivery makes one (an HMAC of the fields). Of Vault's answers, those of KV v2
    /// alone have one.
    pub version: Option<Version>,
    pub lease: Option<Lease>,
}

/// What a store gave as a whole, for classes that deliver it as it is. Shared, as fields are.
#[derive(Clone, Debug)]
pub enum Response {
    /// The store's words around the secret, too. The classes of the peers ask for it.
    Answer(Arc<SecretBytes>),
    /// What is stored under the name, to the byte: it is the whole secret for every class.
    Stored(Arc<SecretBytes>),
}

/// A secret whose life the store ends unless it is renewed. Everything that renewing and revoking need is in it: a lease outlives the
/// mount it was issued for, and the process.
///
/// What a store makes without a lease of its own has one here, too ([`Lease::of_made`]), so that it is made once: nobody can renew or revoke
/// it.
#[derive(Clone, Debug)]
pub struct Lease {
    pub id: Arc<SecretBytes>,
    pub renewable: bool,
    /// When it was issued or last renewed.
    pub since: Timestamp,
    /// Its own end or that of the token it lives by, whichever is first.
    pub ends: Timestamp,
    /// The store token the lease lives by: when that ends, so does the lease.
    pub token: Arc<SecretBytes>,
    /// What it was issued for: says where it is renewed and revoked.
    pub secret: SecretRef,
    /// The store has not said when it ends: `ends` is put off while somebody asks for it.
    pub while_asked: bool,
}

/// Whether a request only reads, or makes something in the store.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Verb {
    Read,
    Update,
}

/// How a request is put to a store that speaks HTTP.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Method {
    #[default]
    Get,
    List,
    Post,
    Put,
}

/// For whom a credential is issued.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum LeaseFor {
    /// One for each Pod.
    #[default]
    Pod,
    /// One for all Pods of the ServiceAccount on this node.
    Shared,
}

/// One request to a store: shared, and with its own hash, since a mount looks it up in several tables. Equal ones are one request.
#[derive(Clone)]
pub struct SecretRef(Arc<Hashed>);

struct Hashed {
    hash: u64,
    parts: RefParts,
}

/// What a [`SecretRef`] is made of: everything that changes a store's answer.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct RefParts {
    pub backend: BackendName,
    pub name: SecretName,
    /// A pinned version; `None` is the latest.
    pub version: Option<Version>,
    pub method: Method,
    pub args: Args,
    /// For whom what it makes is kept.
    pub lease: LeaseFor,
    /// The longest that what it makes is kept, unless it has a lease of the store's; `Some(0)`: not at all.
    pub keep: Option<Duration>,
    /// Where the class enters the store otherwise than the backend's configuration says; what is equal to it is left out.
    pub login: Login,
}

/// All secrets whose name starts so.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SecretPrefix {
    pub backend: BackendName,
    pub prefix: String,
    pub login: Login,
}

/// A secret, and how fresh it is.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub secret: Arc<Secret>,
    pub source: Source,
    /// The backend that answered: with `failover`, not always the one that was asked.
    pub by: BackendName,
}

/// How fresh an answer is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// From a cache, within its `fresh` time.
    Fresh { age: Duration },
    /// From a cache, because the store is out. `bound`: at that age no answer of this store is given.
    Stale { age: Duration, bound: Duration, cause: String },
    /// From the store, now.
    Store,
}

// === impl SecretBytes ===

impl SecretBytes {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The content. The caller is responsible for where it goes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(redacted)")
    }
}

impl From<Zeroizing<Vec<u8>>> for SecretBytes {
    fn from(mut bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(std::mem::take(&mut *bytes))
    }
}

/// As `Zeroizing` does it, but many bytes at a time instead of one: each mount wipes its tokens and the files that it made.
impl Drop for SecretBytes {
    fn drop(&mut self) {
        // What there is room for may have been in use.
        self.0.resize(self.0.capacity(), 0);
        self.0.fill(0);
        optimization_barrier(&*self.0);
    }
}

// === impl Field ===

impl Field {
    /// A field whose store keeps plain bytes: text where they are UTF-8.
    pub fn of_bytes(bytes: SecretBytes) -> Self {
        let kind = if str::from_utf8(bytes.expose()).is_ok() { FieldKind::Text } else { FieldKind::Binary };
        Self { bytes: Arc::new(bytes), kind }
    }

    /// Whether the store has a JSON `null` there: a member without a value.
    pub fn is_null(&self) -> bool {
        self.kind == FieldKind::Json && self.bytes.expose() == b"null"
    }
}

// === impl Secret ===

impl Secret {
    /// About what it costs to hold, in bytes.
    pub fn weight(&self) -> usize {
        let fields: usize = self.fields.iter().map(|(name, field)| name.as_str().len() + field.bytes.len() + FIELD).sum();
        fields + self.response.as_ref().map_or(0, |response| response.bytes().len())
    }

    /// Whether it says the same: fields, the whole answer, and version.
    pub fn is_as(&self, other: &Self) -> bool {
        let is_same = |(one, other): (&Field, &Field)| one.kind == other.kind && one.bytes.expose() == other.bytes.expose();
        let response = match (&self.response, &other.response) {
            (Some(Response::Answer(one)), Some(Response::Answer(other))) | (Some(Response::Stored(one)), Some(Response::Stored(other))) => {
                one.expose() == other.expose()
            }
            (None, None) => true,
            (Some(_), Some(_) | None) | (None, Some(_)) => false,
        };
        self.version == other.version
            && response
            && self.fields.len() == other.fields.len()
            && self.fields.keys().eq(other.fields.keys())
            && self.fields.values().zip(other.fields.values()).all(is_same)
    }
}

// === impl Response ===

impl Response {
    pub fn bytes(&self) -> &Arc<SecretBytes> {
        let (Self::Answer(bytes) | Self::Stored(bytes)) = self;
        bytes
    }
}

// === impl Lease ===

impl Lease {
    /// Of what a store has made without a lease. `ends`: as the answer says; `None`: it does not say.
    pub fn of_made(secret: &SecretRef, since: Timestamp, ends: Option<Timestamp>) -> Self {
        let nothing = || Arc::new(SecretBytes::new(Vec::new()));
        let keep = secret.keep.map(|keep| after(since, keep));
        let known = ends.into_iter().chain(keep).min();
        let ends = known.unwrap_or_else(|| after(since, UNASKED));
        Self { id: nothing(), renewable: false, since, ends, token: nothing(), secret: secret.clone(), while_asked: known.is_none() }
    }

    /// Whether the store does not know it: it cannot be renewed or revoked.
    pub fn is_of_made(&self) -> bool {
        self.id.is_empty()
    }

    /// One without a known end was asked for.
    pub fn put_off(&mut self, now: Timestamp) {
        (self.since, self.ends) = (now, after(now, UNASKED));
    }
}

fn after(since: Timestamp, time: Duration) -> Timestamp {
    SignedDuration::try_from(time).ok().and_then(|time| since.checked_add(time).ok()).unwrap_or(Timestamp::MAX)
}

// === impl SecretRef ===

/// The key under which references are hashed: of this process alone, so that the author of names cannot choose ones that collide.
static HASH_KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl SecretRef {
    /// The latest version of a secret, read with the backend's own login.
    pub fn read(backend: BackendName, name: SecretName) -> Self {
        RefParts::read(backend, name).into()
    }

    /// `<backend>/<name>`, with `@version` where one is pinned: as it is, for the ids of versions.
    pub fn id(&self) -> String {
        match &self.version {
            Some(version) => format!("{}/{}@{version}", self.backend, self.name),
            None => format!("{}/{}", self.backend, self.name),
        }
    }

    /// Another one: the same but for what is changed.
    pub fn with(&self, change: impl FnOnce(&mut RefParts)) -> Self {
        let mut parts = self.0.parts.clone();
        change(&mut parts);
        parts.into()
    }
}

impl From<RefParts> for SecretRef {
    fn from(parts: RefParts) -> Self {
        Self(Arc::new(Hashed { hash: HASH_KEY.hash_one(&parts), parts }))
    }
}

impl Deref for SecretRef {
    type Target = RefParts;

    fn deref(&self) -> &RefParts {
        &self.0.parts
    }
}

impl PartialEq for SecretRef {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.hash == other.0.hash && self.0.parts == other.0.parts
    }
}

impl Eq for SecretRef {}

impl Hash for SecretRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash);
    }
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.parts.fmt(f)
    }
}

/// A secret as messages write it: `<backend>/<name>`, in quotes and escaped where a character would not be seen: a blank at an end, and what
/// is as wide as nothing or turns round the order of what follows.
#[derive(Debug)]
pub struct Shown<'s>(pub &'s BackendName, pub &'s SecretName);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(backend, name) = self;
        let text = name.as_str();
        let is_clear = text.trim() == text && text.chars().all(is_seen);
        if is_clear { write!(f, "{backend}/{name}") } else { f.write_str(&visible(&format!("{:?}", format!("{backend}/{name}")))) }
    }
}

/// A blank counts, between others.
pub fn is_seen(c: char) -> bool {
    c == ' ' || !(c.is_whitespace() || c.is_control() || is_invisible(c))
}

/// As [`Shown`], with `@version` where one is pinned.
impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Shown(&self.backend, &self.name).fmt(f)?;
        match &self.version {
            Some(version) => write!(f, "@{version}"),
            None => Ok(()),
        }
    }
}

// === impl RefParts ===

impl RefParts {
    /// As [`SecretRef::read`].
    pub fn read(backend: BackendName, name: SecretName) -> Self {
        let (method, args, lease, login) = (Method::default(), Args::default(), LeaseFor::default(), Login::default());
        Self { backend, name, version: None, method, args, lease, keep: None, login }
    }

    pub fn verb(&self) -> Verb {
        self.method.verb()
    }

    /// Whether it asks for nothing but a named secret: what every store can answer.
    pub fn is_plain(&self) -> bool {
        self.method == Method::Get && self.args.is_empty()
    }
}

// === impl Method ===

impl Method {
    pub const ALL: [Self; 4] = [Self::Get, Self::List, Self::Post, Self::Put];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::List => "LIST",
            Self::Post => "POST",
            Self::Put => "PUT",
        }
    }

    /// What the policy has to allow for it.
    pub const fn verb(self) -> Verb {
        match self {
            Self::Get | Self::List => Verb::Read,
            Self::Post | Self::Put => Verb::Update,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Verb ===

/// The policy's key for it.
impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Update => "update",
        })
    }
}

// === impl Source ===

impl Source {
    /// The word in metrics and audit lines.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Fresh { .. } => "fresh",
            Self::Stale { .. } => "stale",
            Self::Store => "store",
        }
    }

    /// Of an answer that was given because the store was out: its age, and how old it may be.
    pub const fn stale(&self) -> Option<(Duration, Duration)> {
        match self {
            Self::Stale { age, bound, .. } => Some((*age, *bound)),
            Self::Fresh { .. } | Self::Store => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_bytes() {
        let field = Field::of_bytes(SecretBytes::new(b"hunter2".to_vec()));
        let shown = format!("{field:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("104"), "{shown}");
    }

    #[test]
    fn binary_is_told_from_text() {
        assert_eq!(Field::of_bytes(SecretBytes::new(vec![0xff, 0])).kind, FieldKind::Binary);
        assert_eq!(Field::of_bytes(SecretBytes::new("ü\n".into())).kind, FieldKind::Text);
    }
}
