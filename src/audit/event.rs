//! What an audit line says about a mount. Every field is an identifier, a count or one of Keyferry's own words; there is no field for a
//! value.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock};

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use tokio::time::Duration;

use super::files::Files;
use crate::gathered::Gathering;
use crate::model::{BackendName, Code, Fetched, FieldName, FilePath, PodClaims, RefParts, RequestId, SecretRef, Source, Tenant, Version};

/// The longest namespace, name or class in bytes, as in Kubernetes. Together with the other limits: even if each byte takes six when it is
/// escaped, these texts leave room in a line.
const MAX_NAME: usize = 253;

/// The longest target path in bytes (Linux `PATH_MAX`).
const MAX_TARGET: usize = 4096;

/// The longest message in bytes: as long as a mount's error.
const MAX_ERROR: usize = 4096;

/// The longest message in a shortened line.
const SHORT_ERROR: usize = 256;

/// One mount. As JSON it is the beginning of its line: `line` adds the objects and the counts.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    pub time: Timestamp,
    pub event: &'static str,
    #[serde(serialize_with = "display")]
    pub request: RequestId,
    pub outcome: Outcome,
    #[serde(serialize_with = "code", skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// The message for the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The socket's provider name.
    pub provider: Arc<str>,
    #[serde(flatten, serialize_with = "pod")]
    pub pod: Option<Arc<PodClaims>>,
    /// Whether a token proved the Pod's identity.
    pub verified: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Arc<str>>,
    pub milliseconds: f64,
    #[serde(skip)]
    pub objects: Vec<ObjectEvent>,
    /// A short form of the objects: it shows whether something is new, without the list of the objects.
    #[serde(skip)]
    pub gist: Option<Gist>,
    /// How many more objects there are: a short line leaves them out.
    #[serde(skip)]
    pub more: usize,
}

/// A hash: equal for two mounts that would have the same text.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Gist(u64);

/// The key of all gists: only this process has it, so nobody can find two mounts that count as the same.
static GISTS: LazyLock<Gathering> = LazyLock::new(Gathering::default);

/// One object of a mount, with all files that it delivers.
#[derive(Clone, Debug, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectEvent {
    pub object: usize,
    #[serde(flatten, serialize_with = "reference")]
    pub secret: SecretRef,
    /// All secrets but the first, where the object is made of several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<OtherEvent>,
    #[serde(serialize_with = "maybe", skip_serializing_if = "Option::is_none")]
    pub field: Option<FieldName>,
    #[serde(serialize_with = "maybe", skip_serializing_if = "Option::is_none")]
    pub file: Option<FilePath>,
    /// Where there are several files; `field` and `file` are `None` then.
    #[serde(flatten)]
    pub files: Files,
    #[serde(serialize_with = "maybe", skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    pub outcome: Outcome,
    /// The policy rule that allowed or denied it, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<usize>,
    /// How fresh: `store`, `fresh` or `stale`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<&'static str>,
    /// The backend that answered, if it is not the one that the class names: with a failover.
    #[serde(serialize_with = "maybe", skip_serializing_if = "Option::is_none")]
    pub by: Option<BackendName>,
    /// For an answer that is given because the store is out.
    #[serde(skip_serializing_if = "Age::is_unknown")]
    pub age: Age,
}

/// A further secret of an object: the same facts that an [`ObjectEvent`] has of the first.
#[derive(Clone, Debug, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OtherEvent {
    #[serde(flatten, serialize_with = "reference")]
    pub secret: SecretRef,
    #[serde(serialize_with = "maybe", skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<usize>,
    /// `None`, with a rule: the secret is absent and optional.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<&'static str>,
    #[serde(serialize_with = "maybe", skip_serializing_if = "Option::is_none")]
    pub by: Option<BackendName>,
    #[serde(skip_serializing_if = "Age::is_unknown")]
    pub age: Age,
}

/// How long ago the store was asked, in whole seconds. Mounts that differ only in this say the same.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Age(Option<u64>);

/// How a mount or an object ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// Optional, and absent.
    Absent,
    Delivered,
    Denied,
    Failed,
    /// Another object failed, so Keyferry delivered nothing.
    Withheld,
}

// === impl Age ===

impl Age {
    pub fn of(age: Option<Duration>) -> Self {
        Self(age.map(|age| age.as_secs()))
    }

    #[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
    fn is_unknown(&self) -> bool {
        self.0.is_none()
    }
}

impl Hash for Age {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

// === impl Gist ===

impl Gist {
    pub fn of(parts: impl Hash) -> Self {
        Self(GISTS.hash_one(parts))
    }
}

// === impl Event ===

impl Event {
    /// The namespace; empty if the request could not be read.
    pub(super) fn namespace(&self) -> &str {
        self.pod.as_ref().map_or("", |pod| &pod.namespace)
    }

    pub(super) fn tenant(&self) -> Tenant {
        Tenant::from(self.namespace())
    }

    /// The key under which a volume's mounts are counted: one Pod may have several volumes.
    pub(super) fn volume(&self, hasher: &Gathering) -> u64 {
        hasher.hash_one((&self.provider, &self.pod, &self.class, &self.target))
    }

    /// Equal for mounts that say the same: everything but time, request and duration.
    pub(super) fn substance(&self, hasher: &Gathering) -> u64 {
        let objects = if self.gist.is_some() { &[][..] } else { &self.objects };
        hasher.hash_one((self.event, self.outcome, self.code, &self.error, self.verified, self.gist, objects, self.more))
    }

    /// Cuts texts that are longer than Kubernetes and Linux allow.
    pub(super) fn bound(&mut self) {
        if let Some(claims) = &mut self.pod
            && claims.names().into_iter().any(|name| name.len() > MAX_NAME)
        {
            let PodClaims { namespace, name, uid, service_account } = Arc::make_mut(claims);
            for name in [namespace, name, uid, service_account] {
                cut(name, MAX_NAME);
            }
        }
        for (text, most) in [(&mut self.class, MAX_NAME), (&mut self.target, MAX_TARGET)] {
            if let Some(text) = text.as_mut().filter(|text| text.len() > most) {
                let mut whole = text.as_ref().to_owned();
                cut(&mut whole, most);
                *text = whole.into();
            }
        }
        if let Some(error) = &mut self.error {
            cut(error, MAX_ERROR);
        }
    }

    /// Leaves out what makes a line long: the objects, and most of a long message.
    pub(super) fn shorten(&mut self) {
        self.more += std::mem::take(&mut self.objects).len();
        if let Some(error) = &mut self.error {
            cut(error, SHORT_ERROR);
        }
    }

    /// About how many bytes of memory it takes while it waits, with what it shares with others.
    pub(super) fn weight(&self) -> usize {
        let texts =
            [self.error.as_deref(), self.class.as_deref(), self.target.as_deref()].into_iter().flatten().map(str::len).sum::<usize>();
        let pod = self.pod.as_ref().map_or(0, |pod| pod.names().map(String::len).iter().sum());
        size_of::<Self>() + texts + pod + self.objects.iter().map(ObjectEvent::weight).sum::<usize>()
    }
}

impl ObjectEvent {
    /// Adds a file that the object delivers. An entry with one file names it; an entry with several has their number and the first few
    /// names.
    pub fn add_file(&mut self, file: &FilePath, field: Option<&FieldName>) {
        if self.files.count() == 1 {
            self.field = field.cloned().or_else(|| self.field.take());
            self.file = Some(file.clone());
            return;
        }
        let former = (self.field.take(), self.file.take());
        if let (field, Some(file)) = former {
            self.files.name(&file, field.as_ref());
        }
        self.files.name(file, field);
    }

    /// Counts one field or pattern of the object for which there is no value. An entry with one names it.
    pub fn add_absent(&mut self, field: Option<&str>) {
        let is_first = self.files.count() == 1;
        self.field = field.filter(|_| is_first).and_then(|field| field.parse().ok());
    }

    fn weight(&self) -> usize {
        let texts = [self.field.as_ref().map(|field| field.as_str().len()), self.file.as_ref().map(|file| file.as_str().len())];
        let others: usize = self.others.iter().map(|other| size_of::<OtherEvent>() + weight_of(&other.secret)).sum();
        size_of::<Self>() + weight_of(&self.secret) + others + texts.into_iter().flatten().sum::<usize>() + self.files.weight()
    }
}

fn weight_of(secret: &SecretRef) -> usize {
    size_of::<RefParts>() + secret.name.as_str().len() + secret.args.bytes()
}

// === impl OtherEvent ===

impl OtherEvent {
    pub fn of(secret: &SecretRef) -> Self {
        Self { secret: secret.clone(), version: None, rule: None, source: None, by: None, age: Age::default() }
    }

    /// Adds what was found, by which rule and with which version; `None`: the secret is absent.
    pub fn found(&mut self, rule: usize, fetched: Option<&Fetched>, version: Option<&Version>) {
        let source = fetched.map(|fetched| &fetched.source);
        self.rule = Some(rule);
        self.source = source.map(Source::as_str);
        self.by = fetched.map(|fetched| &fetched.by).filter(|by| **by != self.secret.backend).cloned();
        self.age = Age::of(source.and_then(Source::stale).map(|(age, _)| age));
        self.version = version.cloned();
    }
}

fn cut(text: &mut String, most: usize) {
    const MARK: &str = "...";
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most - MARK.len()));
        text.push_str(MARK);
    }
}

pub(super) fn display<T: ToString, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&value.to_string())
}

#[allow(clippy::ref_option)] // serde's signature
fn maybe<T: ToString, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(ToString::to_string).serialize(serializer)
}

#[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref)] // serde's signature
pub(super) fn code<S: Serializer>(code: &Option<Code>, serializer: S) -> Result<S::Ok, S::Error> {
    code.map(Code::as_str).serialize(serializer)
}

#[allow(clippy::ref_option)] // serde's signature
pub(super) fn pod<S: Serializer>(claims: &Option<Arc<PodClaims>>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Claims<'a> {
        namespace: &'a str,
        #[serde(rename = "pod")]
        name: &'a str,
        uid: &'a str,
        service_account: &'a str,
    }
    let shown = claims.as_ref().map(|claims| Claims {
        namespace: &claims.namespace,
        name: &claims.name,
        uid: &claims.uid,
        service_account: &claims.service_account,
    });
    shown.serialize(serializer)
}

fn reference<S: Serializer>(secret: &SecretRef, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Reference<'a> {
        backend: &'a str,
        secret: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        pinned: Option<&'a str>,
    }
    let pinned = secret.version.as_ref().map(Version::as_str);
    Reference { backend: secret.backend.as_str(), secret: secret.name.as_str(), pinned }.serialize(serializer)
}
