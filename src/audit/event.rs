//! The line itself. Every field is an identifier, a count or a word of ours; there is no field for a value.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::model::{Code, FieldName, FilePath, PodClaims, RequestId, SecretRef, Version};

/// One mount, or several that said the same.
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
    /// The message the user is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The socket's provider name.
    pub provider: Arc<str>,
    #[serde(flatten, serialize_with = "pod")]
    pub pod: Option<PodClaims>,
    /// Whether a token proved the Pod's identity.
    pub verified: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    pub milliseconds: f64,
    pub objects: Vec<ObjectEvent>,
    /// How many equal mounts this line stands for besides the one written before it; absent where none.
    #[serde(skip_serializing_if = "is_zero")]
    pub repeats: u64,
}

/// One object of a mount, or one file of an object that makes several.
#[derive(Clone, Debug, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectEvent {
    pub object: usize,
    #[serde(flatten, serialize_with = "reference")]
    pub secret: SecretRef,
    #[serde(serialize_with = "maybe", skip_serializing_if = "Option::is_none")]
    pub field: Option<FieldName>,
    #[serde(serialize_with = "maybe", skip_serializing_if = "Option::is_none")]
    pub file: Option<FilePath>,
    #[serde(serialize_with = "maybe", skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    pub outcome: Outcome,
    /// The policy rule that allowed or denied it, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<usize>,
    /// How fresh: `store`, `fresh` or `stale`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<&'static str>,
}

/// What became of a mount or an object.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// Optional, and not there.
    Absent,
    Delivered,
    Denied,
    Failed,
    /// Another object failed, so nothing was delivered.
    Withheld,
}

// === impl Event ===

impl Event {
    /// What a volume's mounts are counted under: one Pod may have several volumes.
    pub(super) fn volume(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.provider, &self.pod, &self.class, &self.target).hash(&mut hasher);
        hasher.finish()
    }

    /// Equal for mounts that say the same: all but time, request and duration.
    pub(super) fn substance(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.outcome, self.code, &self.error, self.verified, &self.objects).hash(&mut hasher);
        hasher.finish()
    }

    /// About how many bytes of memory it keeps while it waits, what it shares with others included.
    pub(super) fn weight(&self) -> usize {
        let texts = [&self.error, &self.class, &self.target].into_iter().flatten().map(String::len).sum::<usize>();
        let pod = self.pod.as_ref().map_or(0, |pod| pod.namespace.len() + pod.name.len() + pod.uid.len() + pod.service_account.len());
        size_of::<Self>() + texts + pod + self.objects.iter().map(ObjectEvent::weight).sum::<usize>()
    }
}

impl ObjectEvent {
    fn weight(&self) -> usize {
        let texts = [self.field.as_ref().map(|field| field.as_str().len()), self.file.as_ref().map(|file| file.as_str().len())];
        let secret = size_of::<SecretRef>() + self.secret.name.as_str().len() + self.secret.args.bytes();
        size_of::<Self>() + secret + texts.into_iter().flatten().sum::<usize>()
    }
}

fn display<T: ToString, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&value.to_string())
}

#[allow(clippy::ref_option)] // serde's signature
fn maybe<T: ToString, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(ToString::to_string).serialize(serializer)
}

#[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref)] // serde's signature
fn code<S: Serializer>(code: &Option<Code>, serializer: S) -> Result<S::Ok, S::Error> {
    code.map(Code::as_str).serialize(serializer)
}

#[allow(clippy::ref_option)] // serde's signature
fn pod<S: Serializer>(claims: &Option<PodClaims>, serializer: S) -> Result<S::Ok, S::Error> {
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

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(number: &u64) -> bool {
    *number == 0
}
