//! What a proof is: the trait, what it gives, and why there is none.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use thiserror::Error;
use tokio::time::Instant;

use crate::model::{PodClaims, PodIdentity, PodTokens, RawTokens};

/// A way to prove a Pod's identity.
#[async_trait]
pub trait Attest: Debug + Send + Sync {
    /// Proves that the request is from the Pod the claims speak of.
    ///
    /// # Errors
    /// The token for the daemon's audience is missing, cannot be verified, or speaks of another Pod.
    async fn attest(&self, claims: &PodClaims, tokens: &RawTokens) -> Result<Attested, IdentityError>;

    /// Whether a proof that was given before still stands, without the token that it was made of.
    ///
    /// # Errors
    /// The token has ended, or what verified it is not in force any more.
    async fn stands(&self, proof: &Proof) -> Result<(), IdentityError>;

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
    pub proof: Proof,
}

/// What is kept of a proof: when it ends and what verified it, but no token.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    /// The verified end of the token; `None`: there was no token.
    ends: Option<Timestamp>,
    /// Until when the word of somebody else is believed.
    until: Option<Instant>,
    by: Option<Mark>,
}

/// Names what has verified something, such as a set of keys. Two marks are never equal, but a mark and its clone are.
#[derive(Clone, Debug, Default)]
pub(super) struct Mark(Arc<()>);

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

// === impl Proof ===

impl Proof {
    pub(super) fn new(ends: Timestamp, by: &Mark) -> Self {
        Self { ends: Some(ends), until: None, by: Some(by.clone()) }
    }

    pub(super) fn believed_until(self, until: Instant) -> Self {
        Self { until: Some(until), ..self }
    }

    /// `by`: what verifies now. The end is exact: no clock may be wrong for the Pod's benefit.
    pub(super) fn check(&self, by: Option<&Mark>, now: Timestamp) -> Result<(), IdentityError> {
        if let Some(ends) = self.ends.filter(|ends| *ends <= now) {
            return Err(IdentityError::new("expired", format!("the token of the last mount expired at {ends}"), NEXT_MOUNT));
        }
        if self.by.as_ref().map(Mark::address) != by.map(Mark::address) {
            return Err(IdentityError::new("key", "the keys changed after the token of the last mount was verified", NEXT_MOUNT));
        }
        if self.until.is_some_and(|until| until <= Instant::now()) {
            return Err(IdentityError::new("token", "the API server reviewed the token of the last mount too long ago", NEXT_MOUNT));
        }
        Ok(())
    }
}

/// What brings another proof.
const NEXT_MOUNT: &str = "the next mount of the volume brings a token; kubelet asks for it about once a minute";

impl Mark {
    fn address(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }
}

impl IdentityError {
    pub(super) fn new(claim: &'static str, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { claim, problem: problem.into(), remedy: remedy.into() }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Duration, advance};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// At fault.
    fn claim(proof: &Proof, by: Option<&Mark>, second: i64) -> Option<&'static str> {
        proof.check(by, at(second)).err().map(|error| error.claim)
    }

    #[tokio::test(start_paused = true)]
    async fn a_proof_stands_until_its_end_and_for_what_made_it() {
        let (keys, others) = (Mark::default(), Mark::default());
        let proof = Proof::new(at(100), &keys);
        assert_eq!(claim(&proof, Some(&keys.clone()), 99), None);
        assert_eq!(claim(&proof, Some(&keys), 100), Some("expired"), "without any leeway");
        assert_eq!(claim(&proof, Some(&others), 99), Some("key"));
        assert_eq!(claim(&proof, None, 99), Some("key"), "the keys are gone, or the driver is believed now");
        assert_eq!(claim(&Proof::default(), Some(&keys), 99), Some("key"), "the driver was believed, and is not any more");
        assert_eq!(claim(&Proof::default(), None, 99), None);
        let reviewed = proof.believed_until(Instant::now() + Duration::from_mins(2));
        advance(Duration::from_secs(119)).await;
        assert_eq!(claim(&reviewed, Some(&keys), 99), None);
        advance(Duration::from_secs(1)).await;
        assert_eq!(claim(&reviewed, Some(&keys), 99), Some("token"));
    }
}
