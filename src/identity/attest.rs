//! Proofs of identity: the trait, its result, and its errors.

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
    /// Proves that the request is from the Pod that the claims name.
    ///
    /// # Errors
    /// The token for the daemon's audience is missing, cannot be verified, or is about another Pod.
    async fn attest(&self, claims: &PodClaims, tokens: &RawTokens) -> Result<Attested, IdentityError>;

    /// Whether an earlier proof is still valid, without the token that it was made from.
    ///
    /// # Errors
    /// The token has expired, or the keys that verified it are not in force any more.
    async fn still_holds(&self, proof: &Proof) -> Result<(), IdentityError>;

    /// For readiness: whether the base of all proofs is as it should be; the error says what is wrong. Mounts may go on all the same.
    async fn health(&self) -> Result<(), String> {
        Ok(())
    }

    /// When the issuer's keys were fetched; `None`: they are not fetched, or not yet.
    fn keys_fetched(&self) -> Option<Timestamp> {
        None
    }
}

/// A proven Pod, and the tokens that were verified as its own. Backends get no others.
#[derive(Clone, Debug)]
pub struct Attested {
    pub pod: Arc<PodIdentity>,
    pub tokens: PodTokens,
    pub proof: Proof,
}

/// The part of a proof that is kept: its end and what verified it, but no token.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    /// When the verified token expires; `None`: there was no token.
    ends: Option<Timestamp>,
    /// Until when Keyferry believes the API server's review.
    until: Option<Instant>,
    by: Option<Mark>,
}

/// Names the verifier, such as a set of keys. Two marks are never equal, but a mark and its clone are.
#[derive(Clone, Debug, Default)]
pub(super) struct Mark(Arc<()>);

/// Why an identity is not valid. The message names the wrong claim and says what to do; it never has a token.
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

    /// `by`: what verifies now. The end is exact, with no allowance for a wrong clock.
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

/// What gives the next proof.
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

    /// The wrong claim.
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
