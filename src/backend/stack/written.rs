//! Requests and secrets as the sealed folder has them: JSON, with bytes in base64. This has its own module, because leases and answers are both
//! kept there, in separate rooms. The next release must be able to read what a release has written.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Duration;
use zeroize::Zeroizing;

use crate::model::{
    Args, Field, FieldKind, FieldName, Lease, LeaseFor, Login, LoginTls, Method, RefParts, Response, Secret, SecretBytes, SecretName,
    SecretRef, Version,
};

/// Base64; wiped when dropped.
pub(super) type Bytes = Zeroizing<String>;

#[derive(Clone, Deserialize, Serialize)]
pub(super) struct Reference {
    pub(super) backend: String,
    name: String,
    version: Option<String>,
    method: String,
    /// A JSON object.
    args: Bytes,
    shared: bool,
    /// In milliseconds.
    #[serde(default)]
    keep: Option<u64>,
    login: Entry,
}

/// A login.
#[derive(Clone, Deserialize, Serialize)]
pub(super) struct Entry {
    address: Option<String>,
    audience: Option<String>,
    mount: Option<String>,
    namespace: Option<String>,
    role: Option<String>,
    tls: Option<Tls>,
}

#[derive(Clone, Deserialize, Serialize)]
struct Tls {
    ca: Option<PathBuf>,
    client: Option<(PathBuf, PathBuf)>,
    server_name: Option<String>,
    skip_verify: bool,
}

#[derive(Deserialize, Serialize)]
pub(super) struct Given {
    fields: BTreeMap<String, (Kind, Bytes)>,
    response: Option<Bytes>,
    /// Whether the response itself is stored.
    #[serde(default)]
    stored: bool,
    version: Option<String>,
}

#[derive(Clone, Copy, Deserialize, Serialize)]
enum Kind {
    Binary,
    Json,
    Text,
}

// === impl Reference ===

impl Reference {
    pub(super) fn of(secret: &SecretRef) -> Self {
        let RefParts { backend, name, version, method, args, lease, keep, login } = &**secret;
        Self {
            backend: backend.to_string(),
            name: name.to_string(),
            version: version.as_ref().map(Version::to_string),
            method: method.to_string(),
            args: Zeroizing::new(args.to_json()),
            shared: *lease == LeaseFor::Shared,
            keep: keep.map(millis),
            login: Entry::of(login),
        }
    }

    /// `None`: this version does not understand a part of it.
    pub(super) fn back(self) -> Option<SecretRef> {
        let mut args = Args::default();
        for (name, value) in serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(&self.args).ok()? {
            args.insert_json(name, value.get().to_owned());
        }
        let Entry { address, audience, mount, namespace, role, tls } = self.login;
        let tls = tls.map(|Tls { ca, client, server_name, skip_verify }| Box::new(LoginTls { ca, client, server_name, skip_verify }));
        let parts = RefParts {
            backend: self.backend.parse().ok()?,
            name: SecretName::escapable_or_folder(&self.name).ok()?,
            version: self.version.map(Version::new),
            method: Method::ALL.into_iter().find(|method| method.as_str() == self.method)?,
            args,
            lease: if self.shared { LeaseFor::Shared } else { LeaseFor::Pod },
            keep: self.keep.map(Duration::from_millis),
            login: Login { address, audience, mount, namespace, role, tls },
        };
        Some(parts.into())
    }
}

// === impl Entry ===

impl Entry {
    pub(super) fn of(login: &Login) -> Self {
        let Login { address, audience, mount, namespace, role, tls } = login.clone();
        let tls = tls.map(|tls| Tls { ca: tls.ca, client: tls.client, server_name: tls.server_name, skip_verify: tls.skip_verify });
        Self { address, audience, mount, namespace, role, tls }
    }
}

// === impl Given ===

impl Given {
    pub(super) fn of(secret: &Secret) -> Self {
        let fields = secret.fields.iter().map(|(name, field)| {
            let kind = match field.kind {
                FieldKind::Binary => Kind::Binary,
                FieldKind::Json => Kind::Json,
                FieldKind::Text => Kind::Text,
            };
            (name.as_str().to_owned(), (kind, encoded(&field.bytes)))
        });
        let version = secret.version.as_ref().map(Version::to_string);
        let response = secret.response.as_ref().map(|response| encoded(response.bytes()));
        let stored = matches!(secret.response, Some(Response::Stored(_)));
        Self { fields: fields.collect(), response, stored, version }
    }

    /// `None`: this version does not understand a part of it.
    pub(super) fn back(self, lease: Option<Lease>) -> Option<Secret> {
        let fields = self.fields.into_iter().map(|(name, (kind, bytes))| {
            let kind = match kind {
                Kind::Binary => FieldKind::Binary,
                Kind::Json => FieldKind::Json,
                Kind::Text => FieldKind::Text,
            };
            Some((FieldName::new(&name), Field { bytes: Arc::new(decoded(&bytes)?), kind }))
        });
        let whole = if self.stored { Response::Stored } else { Response::Answer };
        let response = match self.response {
            Some(bytes) => Some(whole(Arc::new(decoded(&bytes)?))),
            None => None,
        };
        Some(Secret { fields: fields.collect::<Option<_>>()?, response, version: self.version.map(Version::new), lease })
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn encoded(bytes: &SecretBytes) -> Bytes {
    Zeroizing::new(BASE64.encode(bytes.expose()))
}

pub(super) fn decoded(text: &Bytes) -> Option<SecretBytes> {
    BASE64.decode(text.as_bytes()).ok().map(SecretBytes::new)
}
