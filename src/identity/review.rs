//! `verify: token-review`: the API server says which Pod a token belongs to. A token without a recent review costs one call. In return, a
//! deleted Pod's token is refused within minutes, and the daemon needs no keys.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt};
use jiff::Timestamp;
use tokio::time::{Duration, Instant};

use super::attest::{Attest, Attested, IdentityError, Mark, Proof};
use super::token::{self, Jws, OWN_TOKEN, TokenDigest};
use crate::clock::Clock;
use crate::kube::{KubeClient, ReviewError, TokenStatus};
use crate::model::{PodClaims, PodIdentity, PodToken, PodTokens, RawTokens, SecretBytes, quoted};
use crate::redact::Hidden;
use crate::shelf::Shelf;
use crate::turns::Turns;

/// How long Keyferry believes a good answer. A deleted Pod's token stays valid here for this time.
const BELIEVED: Duration = Duration::from_mins(2);

/// Answers that are remembered. A namespace with more tokens than others loses its own answers first.
const KNOWN: usize = 4096;

/// The most calls under way at once, of all mounts together. Namespaces share them: each invalid token costs a call, and a namespace that
/// sends many of them waits for its own calls.
const CALLS: usize = 32;

/// The most calls under way at once for the further tokens of one mount.
const CALLS_PER_MOUNT: usize = 4;

/// How long a review waits for the calls before it: as long as kubelet waits for a mount. The mount's own deadline is earlier.
const PATIENCE: Duration = Duration::from_mins(2);

/// How long readiness reports a failed call.
const TOLD: Duration = Duration::from_mins(5);

/// What the API server calls a ServiceAccount's user (Kubernetes: "User impersonation and ServiceAccount usernames").
const USER: &str = "system:serviceaccount:";

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Lets the API server review tokens.
#[derive(Debug)]
pub struct TokenReviewer {
    client: KubeClient,
    audience: String,
    clock: Arc<dyn Clock>,
    calls: Turns,
    seen: Mutex<Shelf<TokenDigest, Arc<Reviewed>>>,
    trouble: Mutex<Option<(Instant, String)>>,
    mark: Mark,
}

/// A token that the API server calls valid.
#[derive(Debug)]
struct Reviewed {
    username: String,
    pod: Option<String>,
    uid: Option<String>,
    service_account_uid: String,
    expires: Timestamp,
    /// Whether it is also valid for the daemon, whatever audience it was reviewed for.
    is_for_daemon: bool,
    until: Instant,
}

#[async_trait]
impl Attest for TokenReviewer {
    async fn attest(&self, claims: &PodClaims, tokens: &RawTokens) -> Result<Attested, IdentityError> {
        let own = tokens.get(&self.audience).ok_or_else(|| token::missing(&self.audience, tokens))?;
        let own = self.verify(own, &self.audience, claims).await?;
        let mut verified = BTreeMap::new();
        // Each with its own review.
        let reviews = token::for_stores(tokens, &self.audience)
            .map(|(audience, jwt)| async move { (audience, jwt, self.verify(jwt, audience, claims).await) });
        let mut reviews = stream::iter(reviews.collect::<Vec<_>>()).buffer_unordered(CALLS_PER_MOUNT);
        while let Some((audience, jwt, result)) = reviews.next().await {
            match result {
                Ok(token) if token.is_for_daemon => tracing::debug!(audience = %quoted(audience), "{}", token::FOR_DAEMON),
                Ok(token) => _ = verified.insert(audience.clone(), PodToken { jwt: jwt.clone(), expires: token.expires }),
                Err(error) => tracing::debug!(audience = %quoted(audience), %error, "a token is kept from the backends"),
            }
        }
        let proof = Proof::new(own.expires, &self.mark).believed_until(own.until);
        Ok(Attested { pod: Arc::new(own.identity(claims)), tokens: PodTokens::new(verified), proof })
    }

    async fn still_holds(&self, proof: &Proof) -> Result<(), IdentityError> {
        proof.check(Some(&self.mark), self.clock.now())
    }

    /// Whether the API server answers as it should.
    async fn health(&self) -> Result<(), String> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match trouble.as_ref().filter(|(at, _)| at.elapsed() < TOLD) {
            Some((_, problem)) => Err(format!("tokens cannot be reviewed: {problem}")),
            None => Ok(()),
        }
    }
}

impl TokenReviewer {
    pub fn new(client: KubeClient, audience: &str, clock: Arc<dyn Clock>) -> Self {
        let (calls, seen) = (Turns::new(CALLS), Mutex::new(Shelf::new(KNOWN)));
        Self { client, audience: audience.to_owned(), clock, calls, seen, trouble: Mutex::default(), mark: Mark::default() }
    }

    async fn verify(&self, jwt: &SecretBytes, audience: &str, claims: &PodClaims) -> Result<Arc<Reviewed>, IdentityError> {
        let digest = token::digest(jwt.expose(), audience);
        let known = self.seen().find(&digest).map(Arc::clone);
        let token = match known.filter(|known| known.until > Instant::now() && known.expires > self.clock.now()) {
            Some(token) => token,
            None => self.review(digest, jwt, audience, &claims.namespace).await?,
        };
        token.check_pod(claims)?;
        Ok(token)
    }

    /// Charged to the namespace that the driver names.
    async fn review(
        &self,
        digest: TokenDigest,
        jwt: &SecretBytes,
        audience: &str,
        namespace: &str,
    ) -> Result<Arc<Reviewed>, IdentityError> {
        // A text that is not a token, or is too long, is not worth a call.
        let jws = Jws::parse(jwt.expose())?;
        let status = {
            let _turn = self.calls.take(&namespace.into(), Instant::now() + PATIENCE).await.ok_or_else(crowded)?;
            self.client.review_token(jwt, audience).await
        };
        let status = status.inspect_err(|error| self.troubled(error)).map_err(unreviewed)?;
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
        check_status(&status, jwt, audience)?;
        // The API server has authenticated exactly these bytes: so Keyferry now believes their content.
        let (expires, is_for_daemon) = jws.expiry(&self.audience)?;
        let token = Arc::new(Reviewed {
            username: status.username().to_owned(),
            pod: status.extra(POD_NAME).map(ToOwned::to_owned),
            uid: status.extra(POD_UID).map(ToOwned::to_owned),
            service_account_uid: status.uid().to_owned(),
            expires,
            is_for_daemon,
            until: Instant::now() + BELIEVED,
        });
        self.seen().insert(namespace, digest, Arc::clone(&token), |_| false);
        Ok(token)
    }

    /// A panic elsewhere cannot leave the shelf half-changed: each step is one call of a map.
    fn seen(&self) -> MutexGuard<'_, Shelf<TokenDigest, Arc<Reviewed>>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In the log once for each kind of trouble.
    fn troubled(&self, error: &ReviewError) {
        let ReviewError::Call(error) = error else { return };
        let problem = error.to_string();
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.as_ref().is_none_or(|(_, former)| *former != problem) {
            tracing::warn!("tokens cannot be reviewed, and mounts fail: {problem}");
        }
        *trouble = Some((Instant::now(), problem));
    }
}

fn crowded() -> IdentityError {
    let problem = format!("it was not reviewed within {} s: other tokens of its namespace came first", PATIENCE.as_secs());
    IdentityError::new("token", problem, "kubelet tries again by itself")
}

fn unreviewed(error: ReviewError) -> IdentityError {
    match error {
        ReviewError::Call(error) => {
            let problem = format!("the API server could not be asked about it: {}", error.what());
            IdentityError::new("token", problem, format!("{}; kubelet tries again by itself", error.remedy))
        }
        ReviewError::NotText => IdentityError::new("token", "it cannot be read: it is not text", OWN_TOKEN),
    }
}

fn check_status(status: &TokenStatus, jwt: &SecretBytes, audience: &str) -> Result<(), IdentityError> {
    if !status.authenticated {
        // It may quote the token.
        let mut hidden = Hidden::default();
        hidden.credential(jwt.expose());
        let why = hidden.clean(&status.error, 200);
        let why = if why.is_empty() { "it gives no reason".to_owned() } else { quoted(&why) };
        let remedy = "kubelet renews tokens in time and tries again by itself; the token of a Pod that is gone is never valid again";
        return Err(IdentityError::new("token", format!("the API server refuses it: {why}"), remedy));
    }
    if !status.audiences.iter().any(|one| one == audience) {
        let problem = format!("the API server does not say that the token is for {audience:?}");
        return Err(IdentityError::new("audience", problem, token::add_audience(audience)));
    }
    Ok(())
}

// === impl Reviewed ===

impl Reviewed {
    fn check_pod(&self, claims: &PodClaims) -> Result<(), IdentityError> {
        let account = self.username.strip_prefix(USER).and_then(|rest| rest.split_once(':'));
        let Some((namespace, service_account)) = account else {
            let problem = format!("the token is that of {}, which is not a ServiceAccount", quoted(&self.username));
            return Err(IdentityError::new("serviceAccount", problem, OWN_TOKEN));
        };
        let (Some(pod), Some(uid)) = (&self.pod, &self.uid) else {
            return Err(IdentityError::new("pod", "the token is not bound to a Pod: the API server names none for it", token::BOUND_TOKEN));
        };
        token::check_same([namespace, pod, uid, service_account], claims)
    }

    /// Only for claims that have been compared with it.
    fn identity(&self, claims: &PodClaims) -> PodIdentity {
        // If the API server names no uid, nothing distinguishes two ServiceAccounts with the same name.
        let uid = Some(Arc::from(self.service_account_uid.as_str())).filter(|uid: &Arc<str>| !uid.is_empty());
        PodIdentity { service_account_uid: uid, verified: true, ..PodIdentity::believed(claims) }
    }
}

#[cfg(test)]
mod tests;
