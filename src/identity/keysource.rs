//! Where the issuer's keys come from: a file or an address. The verifier asks for keys and does not know which it is.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::attest::IdentityError;
use super::keyfile::{KeyFile, Trouble};
use super::keys::KeySet;
use super::keyurl::KeyUrl;
use crate::grace::GRACE;

/// What to do about a file that has no keys.
const REWRITE: &str = "write the cluster's keys into it: kubectl get --raw /openid/v1/jwks";

#[derive(Debug)]
pub(super) enum KeySource {
    File(KeyFile),
    Url(KeyUrl),
}

impl KeySource {
    /// # Errors
    /// The file cannot be read, is larger than 1 MiB, or has no usable key.
    pub(super) fn open(file: &Path) -> Result<Self, String> {
        KeyFile::open(file).map(Self::File).map_err(|problem| format!("{}: {problem} ({REWRITE})", file.display()))
    }

    /// The name in messages.
    pub(super) fn name(&self) -> String {
        match self {
            Self::File(file) => file.path().display().to_string(),
            Self::Url(url) => url.url().to_owned(),
        }
    }

    /// The keys in force, for tokens already verified.
    pub(super) async fn recent(&self) -> Option<Arc<KeySet>> {
        match self {
            Self::File(file) => Some(file.recent().await),
            Self::Url(url) => url.recent(),
        }
    }

    /// The keys for a token that names this one.
    ///
    /// # Errors
    /// There are no keys yet.
    pub(super) async fn for_key(&self, id: Option<&str>) -> Result<Arc<KeySet>, IdentityError> {
        match self {
            Self::File(file) => Ok(file.for_key(id).await),
            Self::Url(url) => url.for_key(id).await,
        }
    }

    pub(super) async fn health(&self) -> Result<(), String> {
        match self {
            Self::File(file) => {
                let told = |trouble| {
                    let (problem, keys, remedy) = match trouble {
                        Trouble::Faulty(problem) => (problem, format!("the last keys stay in force for {} s", GRACE.as_secs()), REWRITE),
                        Trouble::Hangs => (
                            "its file system does not answer".to_owned(),
                            "the former keys stay in force".to_owned(),
                            "is a network volume down?",
                        ),
                        Trouble::NoKeys(problem) => (problem, "no key is in force".to_owned(), REWRITE),
                    };
                    format!("{}: {problem}; {keys} ({remedy})", file.path().display())
                };
                file.health().await.map_err(told)
            }
            Self::Url(url) => url.health(),
        }
    }

    /// When the keys were fetched. Those of a file are as old as the file is.
    pub(super) fn fetched(&self) -> Option<Timestamp> {
        match self {
            Self::File(_) => None,
            Self::Url(url) => url.fetched(),
        }
    }

    /// What to do if a key is missing.
    pub(super) fn renewal(&self) -> &'static str {
        match self {
            Self::File(_) => {
                "write the cluster's keys into that file again: kubectl get --raw /openid/v1/jwks; Keyferry then reads it again \
                 by itself"
            }
            Self::Url(_) => {
                "the address is asked again at most every 10 s, and kubelet tries again by itself; if this stays, the token is not this \
                 issuer's"
            }
        }
    }

    /// What to do if the key did not make the signature.
    pub(super) fn comparison(&self) -> &'static str {
        match self {
            Self::File(_) => {
                "compare that file with the cluster's keys: kubectl get --raw /openid/v1/jwks; if they are the same, the token is not \
                 this cluster's"
            }
            Self::Url(_) => "the token is not this issuer's, or was changed on its way",
        }
    }
}
