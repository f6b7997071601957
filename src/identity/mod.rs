//! Who the Pod is: from the driver's claims and the Pod's token to an identity that stands.
//!
//! Nothing here takes a token's word for its own kind: algorithms are allow-listed, and each token is verified for the audience it
//! is kept under. Reading order: `config` (what the admin chose), `jwks` (the verifier), `token` (one token and its claims), `keys` and
//! `keyfile` (the issuer's public keys), `driver` (no proof at all), `issuer` (the other side, for the demo and tests).

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use thiserror::Error;

use crate::clock::Clock;
use crate::model::{PodClaims, PodIdentity, PodTokens, RawTokens};

mod config;
mod driver;
mod issuer;
mod jwks;
mod keyfile;
mod keys;
mod token;

pub use config::{IdentityConfig, Verify};
pub use driver::BelieveDriver;
pub use issuer::{Issuer, IssuerError};
pub use jwks::JwksVerifier;

/// A way to prove a Pod's identity.
#[async_trait]
pub trait Attest: Debug + Send + Sync {
    /// Proves that the request is from the Pod the claims speak of.
    ///
    /// # Errors
    /// The token for the daemon's audience is missing, cannot be verified, or speaks of another Pod.
    async fn attest(&self, claims: &PodClaims, tokens: &RawTokens) -> Result<Attested, IdentityError>;

    /// Whether what proofs rest on is as it should be, for readiness; the error says what is not. Mounts may go on all the same.
    fn health(&self) -> Result<(), String> {
        Ok(())
    }
}

/// A proven Pod, and those of its tokens that were verified as its own. Backends are handed no others.
#[derive(Clone, Debug)]
pub struct Attested {
    pub pod: PodIdentity,
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

/// Makes what the configuration asks for.
///
/// # Errors
/// The key file cannot be read, or holds no usable key.
pub fn build(config: &IdentityConfig, clock: Arc<dyn Clock>) -> Result<Arc<dyn Attest>, String> {
    Ok(match &config.verify {
        Verify::Driver => Arc::new(BelieveDriver),
        Verify::Jwks { issuer, file } => Arc::new(JwksVerifier::open(file, issuer, &config.audience, clock)?),
    })
}

impl IdentityError {
    fn new(claim: &'static str, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { claim, problem: problem.into(), remedy: remedy.into() }
    }
}

#[cfg(test)]
mod tests;
