//! The Pod a mount is for: what the driver says of it, and what has been proven.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::SecretBytes;

/// The Secrets Store CSI driver's name. It is a flag of the driver, but for most that is its default.
pub const CSI_DRIVER: &str = "secrets-store.csi.k8s.io";

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
    pub namespace: Arc<str>,
    pub name: String,
    pub uid: Arc<str>,
    pub service_account: Arc<str>,
    /// From the token alone: a ServiceAccount made anew under an old name is another one.
    pub service_account_uid: Option<Arc<str>>,
    /// Whether a token proved it.
    pub verified: bool,
}

/// A ServiceAccount. What it is the key of is shared by its Pods.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Account {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// `None`: nothing has proven which one of this name it is.
    pub uid: Option<Arc<str>>,
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

// === impl PodClaims ===

impl PodClaims {
    /// Each of them.
    pub fn names(&self) -> [&String; 4] {
        [&self.namespace, &self.name, &self.uid, &self.service_account]
    }
}

// === impl PodIdentity ===

impl PodIdentity {
    /// The driver's word, believed as it is.
    pub fn believed(claims: &PodClaims) -> Self {
        Self {
            namespace: claims.namespace.as_str().into(),
            name: claims.name.clone(),
            uid: claims.uid.as_str().into(),
            service_account: claims.service_account.as_str().into(),
            service_account_uid: None,
            verified: false,
        }
    }

    pub fn account(&self) -> Account {
        let Self { namespace, service_account, service_account_uid, .. } = self;
        Account { namespace: Arc::clone(namespace), name: Arc::clone(service_account), uid: service_account_uid.clone() }
    }

    /// The ServiceAccount, where a verified token said its uid: the only thing that makes two Pods one.
    pub fn proven_account(&self) -> Option<Account> {
        let proven = self.verified && self.service_account_uid.as_ref().is_some_and(|uid| !uid.is_empty());
        proven.then(|| self.account())
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
