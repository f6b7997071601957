//! What a proof is: the trait, what it gives, and why there is none.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use thiserror::Error;

use crate::model::{PodClaims, PodIdentity, PodTokens, RawTokens};

/// A way to prove a Pod's identity.
#[async_trait]
pub trait Attest: Debug + Send + Sync {
    /// Proves that the request is from the Pod the claims speak of.
    ///
    /// # Errors
    /// The token for the daemon's audience is missing, cannot be verified, or speaks of another Pod.
    async fn attest(&self, claims: &PodClaims, tokens: &RawTokens) -> Result<Attested, IdentityError>;

    /// Whether what proofs rest on is as it should be, for readiness; the error says what is not. Mounts may go on all the same.
    async fn health(&self) -> Result<(), String> {
        Ok(())
    }

    /// When the issuer's keys were fetched; `None`: they are not fetched, or were not yet.
    fn keys_fetched(&self) -> Option<Timestamp> {
        None
    }
}

/// A proven Pod, and those of its tokens that were verified as its own. Backends are handed no others.
#[derive(Clone, Debug)]
pub struct Attested {
    pub pod: Arc<PodIdentity>,
    pub tokens: PodTokens,
}

/// Why an identity does not stand. The message names the claim at fault and says what to do; it never holds a token.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{claim}: {problem} ({remedy})")]
pub struct IdentityError {
    /// `token`, `audience`, `issuer`, `expired`, `notBefore`, `signature`, `key`, `algorithm`, `pod`, `namespace`, `name`, `uid` or
    /// `serviceAccount`.
    pub claim: &'static str,
    pub problem: String,
    pub remedy: String,
}

impl IdentityError {
    pub(super) fn new(claim: &'static str, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { claim, problem: problem.into(), remedy: remedy.into() }
    }
}
