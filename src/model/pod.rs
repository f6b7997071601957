//! The Pod a mount is for: what the driver says of it, and what has been proven.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::SecretBytes;

/// What the driver says of the Pod. kubelet sets these keys over anything a class or a Pod's author writes.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct PodClaims {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub service_account: String,
}

/// A Pod whose identity stands: by its token, or by the driver's word where the admin chose so.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct PodIdentity {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub service_account: String,
    /// From the token alone: a ServiceAccount made anew under an old name is another one.
    pub service_account_uid: Option<String>,
    /// Whether a token proved it.
    pub verified: bool,
}

/// The Pod's tokens as they arrived, by audience (`""` is the API server's own). Not verified.
pub type RawTokens = BTreeMap<String, Arc<SecretBytes>>;

/// A token that has been verified as this Pod's, for the audience it is kept under.
#[derive(Clone, Debug)]
pub struct PodToken {
    pub jwt: Arc<SecretBytes>,
    pub expires: Timestamp,
}

/// The verified tokens, by audience: the only ones a backend is ever handed.
#[derive(Clone, Debug, Default)]
pub struct PodTokens(BTreeMap<String, PodToken>);

// === impl PodIdentity ===

impl PodIdentity {
    /// The driver's word, believed as it is.
    pub fn believed(claims: &PodClaims) -> Self {
        Self {
            namespace: claims.namespace.clone(),
            name: claims.name.clone(),
            uid: claims.uid.clone(),
            service_account: claims.service_account.clone(),
            service_account_uid: None,
            verified: false,
        }
    }

    /// Namespace, name and uid of the ServiceAccount, where a verified token said them: the only thing that makes two Pods one.
    pub fn proven_account(&self) -> Option<(&str, &str, &str)> {
        let uid = self.service_account_uid.as_deref().filter(|uid| self.verified && !uid.is_empty())?;
        Some((&self.namespace, &self.service_account, uid))
    }
}

// === impl PodTokens ===

impl PodTokens {
    pub fn new(tokens: BTreeMap<String, PodToken>) -> Self {
        Self(tokens)
    }

    pub fn find(&self, audience: &str) -> Option<&PodToken> {
        self.0.get(audience)
    }

    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}
