//! The Pod of a mount: what the driver says about it, and what has been proven.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::SecretBytes;

/// The Secrets Store CSI driver's name. The driver has a flag for it, but most clusters use this default.
pub const CSI_DRIVER: &str = "secrets-store.csi.k8s.io";

/// What the driver says about the Pod. kubelet's values for these keys replace anything that a class or a Pod's author writes.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct PodClaims {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub service_account: String,
}

/// A Pod with a proven identity: its token proves it, or the driver's word counts, if the admin chose that.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct PodIdentity {
    pub namespace: Arc<str>,
    pub name: String,
    pub uid: Arc<str>,
    pub service_account: Arc<str>,
    /// Only from the token: a ServiceAccount that was deleted and made again under the same name is another one.
    pub service_account_uid: Option<Arc<str>>,
    /// Whether a token proved it.
    pub verified: bool,
}

/// A ServiceAccount. Its Pods share everything that is kept under this key.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Account {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// `None`: it is not proven which ServiceAccount of this name it is.
    pub uid: Option<Arc<str>>,
}

/// The Pod's tokens as they arrived, by audience (`""` is the API server's own). Nobody has verified them.
pub type RawTokens = BTreeMap<String, Arc<SecretBytes>>;

/// A token that has been verified: it is this Pod's, for the audience under which it is kept.
#[derive(Clone, Debug)]
pub struct PodToken {
    pub jwt: Arc<SecretBytes>,
    pub expires: Timestamp,
}

/// The verified tokens, by audience: a backend gets no others.
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
    /// The identity from the driver's word, without proof.
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

    /// The ServiceAccount, if a verified token had its uid: only then two Pods count as the same.
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
