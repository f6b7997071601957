//! One token: a JWS in compact form (RFC 7515), and the claims of a Pod-bound ServiceAccount token (RFC 7519, KEP-1205).
//!
//! Only `alg`, `kid` and `crit` of the header are read: keys or addresses of keys in the token itself (`jwk`, `jku`, `x5c` ...) have no
//! effect here.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::attest::IdentityError;
use crate::model::{PodClaims, PodIdentity, RawTokens, SecretBytes, quoted};

/// The longest token in bytes. Tokens of Kubernetes have about 1 KiB.
pub(super) const MAX_LEN: usize = 16 * 1024;

/// How many seconds the clocks of API server and node may differ: as the API server itself allows (Kubernetes'
/// pkg/serviceaccount/claims.go, with go-jose's default leeway).
const LEEWAY: i64 = 60;

/// The remedy for a token that cannot have come from kubelet.
pub(super) const OWN_TOKEN: &str = "remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's \
                                    attributes: kubelet sends the Pod's own token";

/// A token and the audience it was verified for, without the token.
pub(super) type TokenDigest = [u8; SHA256_OUTPUT_LEN];

/// A token in its parts; nothing of it is believed.
pub(super) struct Jws<'t> {
    pub(super) algorithm: String,
    pub(super) key_id: Option<String>,
    /// The signed part: header and payload as they came.
    pub(super) message: &'t [u8],
    pub(super) signature: Vec<u8>,
    payload: &'t [u8],
}

/// The content of a verified token. No part of it is secret.
#[derive(Debug)]
pub(super) struct Verified {
    /// All mounts of the token share it.
    pod: Arc<PodIdentity>,
    not_before: Timestamp,
    pub(super) expires: Timestamp,
    /// Whether it is also valid for the daemon, whatever audience it was verified for.
    pub(super) is_for_daemon: bool,
}

/// What a token says about itself. Nothing of it is verified, and nothing of it is secret.
#[derive(Clone, Debug)]
pub struct TokenClaims {
    /// Empty: none.
    pub issuer: String,
    pub audiences: Vec<String>,
    pub expires: Option<Timestamp>,
    /// `None`: it is not bound to a Pod.
    pub pod: Option<PodClaims>,
    /// Of the Pod's ServiceAccount.
    pub service_account_uid: Option<String>,
}

/// The claims, as a token writes them.
#[derive(Deserialize)]
struct Claims {
    iss: Option<String>,
    aud: Option<Audience>,
    exp: Option<f64>,
    nbf: Option<f64>,
    iat: Option<f64>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Kubernetes>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    Many(Vec<String>),
    One(String),
}

#[derive(Deserialize)]
struct Kubernetes {
    namespace: String,
    pod: Option<Reference>,
    serviceaccount: Reference,
}

#[derive(Deserialize)]
struct Reference {
    name: String,
    uid: String,
}

/// Why a token for a store is not handed on.
pub(super) const FOR_DAEMON: &str =
    "a token is kept from the backends: it is for the daemon too, so a store that has it could ask the daemon as its Pod";

/// The tokens that may go to stores, if they are valid. Not among them: the token for the daemon itself, and the token for the API server
/// (kubelet sends that one under the audience `""`), whose audiences are not known here.
pub(super) fn for_stores<'t>(tokens: &'t RawTokens, own: &str) -> impl Iterator<Item = (&'t String, &'t Arc<SecretBytes>)> {
    tokens.iter().filter(move |(audience, _)| !audience.is_empty() && *audience != own)
}

/// Names token and audience in the memory of verified tokens.
pub(super) fn digest(token: &[u8], audience: &str) -> TokenDigest {
    let mut context = Context::new(&SHA256);
    // The length keeps ("ab", "c") and ("a", "bc") apart.
    context.update(&audience.len().to_le_bytes());
    context.update(audience.as_bytes());
    context.update(token);
    let mut digest = [0; SHA256_OUTPUT_LEN];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

// === impl TokenClaims ===

impl TokenClaims {
    /// # Errors
    /// It is not a JWT of a ServiceAccount.
    pub fn read(token: &[u8]) -> Result<Self, IdentityError> {
        let Claims { iss, aud, exp, kubernetes, .. } = Jws::parse(token)?.read_claims()?;
        let audiences = match aud {
            Some(Audience::Many(audiences)) => audiences,
            Some(Audience::One(one)) => vec![one],
            None => Vec::new(),
        };
        let service_account_uid = kubernetes.as_ref().map(|kubernetes| kubernetes.serviceaccount.uid.clone());
        let pod = kubernetes.and_then(|Kubernetes { namespace, pod, serviceaccount }| {
            pod.map(|pod| PodClaims { namespace, name: pod.name, uid: pod.uid, service_account: serviceaccount.name })
        });
        Ok(Self { issuer: iss.unwrap_or_default(), audiences, expires: exp.map(timestamp), pod, service_account_uid })
    }
}

// === impl Jws ===

impl<'t> Jws<'t> {
    pub(super) fn parse(token: &'t [u8]) -> Result<Self, IdentityError> {
        #[derive(Deserialize)]
        struct Header {
            alg: String,
            kid: Option<String>,
            crit: Option<IgnoredAny>,
        }
        if token.len() > MAX_LEN {
            return Err(not_a_token(&format!("{} bytes, and at most {MAX_LEN} are read", token.len())));
        }
        let mut dots = token.iter().enumerate().filter(|(_, byte)| **byte == b'.').map(|(at, _)| at);
        let (Some(first), Some(second), None) = (dots.next(), dots.next(), dots.next()) else {
            return Err(not_a_token("it is not three parts joined by dots"));
        };
        let header = BASE64URL_NOPAD.decode(&token[..first]).ok().and_then(|json| serde_json::from_slice::<Header>(&json).ok());
        let Some(header) = header else {
            return Err(not_a_token("its header is not JSON with an `alg` in base64url"));
        };
        if header.crit.is_some() {
            return Err(not_a_token("its header has critical extensions (`crit`), and none is known here"));
        }
        let Ok(signature) = BASE64URL_NOPAD.decode(&token[second + 1..]) else {
            return Err(not_a_token("its signature is not base64url"));
        };
        let (message, payload) = (&token[..second], &token[first + 1..second]);
        Ok(Self { algorithm: header.alg, key_id: header.kid, message, signature, payload })
    }

    /// Reads the claims and compares issuer and audience with the expected ones. Only for a token whose signature has been verified. `own`
    /// is the daemon's audience.
    pub(super) fn claims(&self, issuer: &str, audience: &str, own: &str) -> Result<Verified, IdentityError> {
        let claims = self.read_claims()?;
        claims.check_issuer(issuer)?;
        claims.check_audience(audience)?;
        claims.into_verified(own)
    }

    /// For a token that somebody else has verified: when it expires, and whether it is valid for this audience.
    pub(super) fn expiry(&self, own: &str) -> Result<(Timestamp, bool), IdentityError> {
        let claims = self.read_claims()?;
        let ours = claims.is_for(own);
        Ok((claims.exp.map(timestamp).ok_or_else(endless)?, ours))
    }

    fn read_claims(&self) -> Result<Claims, IdentityError> {
        let claims = BASE64URL_NOPAD.decode(self.payload).ok().and_then(|json| serde_json::from_slice(&json).ok());
        claims.ok_or_else(|| not_a_token("its claims are not those of a ServiceAccount token"))
    }
}

fn not_a_token(why: &str) -> IdentityError {
    IdentityError::new("token", format!("it cannot be read: {why}"), OWN_TOKEN)
}

// === impl Claims ===

impl Claims {
    fn check_issuer(&self, issuer: &str) -> Result<(), IdentityError> {
        if self.iss.as_deref() == Some(issuer) {
            return Ok(());
        }
        let from = self.iss.as_deref().map_or_else(|| "has no `iss`".to_owned(), |iss| format!("is from {}", quoted(iss)));
        let remedy = "identity.issuer must be the issuer of this cluster's tokens: kubectl get --raw /.well-known/openid-configuration \
                      shows it";
        Err(IdentityError::new("issuer", format!("the token {from}, but this daemon takes tokens from {issuer:?}"), remedy))
    }

    fn check_audience(&self, audience: &str) -> Result<(), IdentityError> {
        if self.is_for(audience) {
            return Ok(());
        }
        let named = listed(self.audiences().iter().map(String::as_str));
        let problem = format!("the token is for {named}, but this daemon takes tokens for {audience:?}");
        Err(IdentityError::new("audience", problem, add_audience(audience)))
    }

    fn is_for(&self, audience: &str) -> bool {
        self.audiences().iter().any(|one| one == audience)
    }

    fn audiences(&self) -> &[String] {
        match &self.aud {
            Some(Audience::Many(audiences)) => audiences,
            Some(Audience::One(one)) => std::slice::from_ref(one),
            None => &[],
        }
    }

    fn into_verified(self, own: &str) -> Result<Verified, IdentityError> {
        let is_for_daemon = self.is_for(own);
        let exp = self.exp.ok_or_else(endless)?;
        let Some(Kubernetes { namespace, pod: Some(pod), serviceaccount }) = self.kubernetes else {
            return Err(IdentityError::new(
                "pod",
                "the token is not bound to a Pod: it has no claim `kubernetes.io` with a `pod`",
                BOUND_TOKEN,
            ));
        };
        // Kubernetes writes both, with the same value: a token is not valid before it was issued.
        let not_before = timestamp(self.nbf.unwrap_or(0.0).max(self.iat.unwrap_or(0.0)));
        Ok(Verified {
            pod: Arc::new(PodIdentity {
                namespace: namespace.into(),
                name: pod.name,
                uid: pod.uid.into(),
                service_account: serviceaccount.name.into(),
                service_account_uid: Some(serviceaccount.uid.into()),
                verified: true,
            }),
            not_before,
            expires: timestamp(exp),
            is_for_daemon,
        })
    }
}

fn endless() -> IdentityError {
    IdentityError::new("expired", "the token has no `exp`: it would never expire", BOUND_TOKEN)
}

pub(super) const BOUND_TOKEN: &str = "a token from a Secret or from a plain `kubectl create token` does not name a Pod; tokenRequests of the CSIDriver object \
                           secrets-store.csi.k8s.io makes kubelet send one that does";

/// Seconds since 1970 (RFC 7519, NumericDate). They may be fractions, and out of any range.
#[allow(clippy::cast_possible_truncation)] // saturates, and is then clamped
fn timestamp(seconds: f64) -> Timestamp {
    let bounds = (Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
    Timestamp::from_second((seconds.floor() as i64).clamp(bounds.0, bounds.1)).unwrap_or(Timestamp::MIN)
}

// === impl Verified ===

impl Verified {
    /// Compares the token's time with the clock: at each use, because a token may be remembered for longer than it is valid.
    pub(super) fn check_time(&self, now: Timestamp) -> Result<(), IdentityError> {
        let clocks = "by the API server's clock, while this node's clock says";
        let second = now.as_second();
        if second < self.not_before.as_second().saturating_sub(LEEWAY) {
            let problem = format!("the token is valid from {} on {clocks} {now}", self.not_before);
            return Err(IdentityError::new("notBefore", problem, "the node's clock is behind: set it, for example by NTP"));
        }
        if second >= self.expires.as_second().saturating_add(LEEWAY) {
            let problem = format!("the token expired at {} {clocks} {now}", self.expires);
            let remedy = "kubelet renews tokens in time and tries again by itself; if this stays, the node's clock is ahead: set it, for \
                          example by NTP";
            return Err(IdentityError::new("expired", problem, remedy));
        }
        Ok(())
    }

    /// Whether it is the token of the Pod that the claims name.
    pub(super) fn check_pod(&self, claims: &PodClaims) -> Result<(), IdentityError> {
        let PodIdentity { namespace, name, uid, service_account, .. } = &*self.pod;
        check_same([namespace, name, uid, service_account], claims)
    }

    pub(super) fn identity(&self) -> Arc<PodIdentity> {
        Arc::clone(&self.pod)
    }
}

/// Compares a token's namespace, Pod, uid and ServiceAccount with those of the request.
pub(super) fn check_same(token: [&str; 4], claims: &PodClaims) -> Result<(), IdentityError> {
    let [namespace, pod, uid, service_account] = token;
    for (claim, what, token, request) in [
        ("namespace", "a Pod in the namespace", namespace, &claims.namespace),
        ("name", "the Pod", pod, &claims.name),
        ("uid", "the Pod with the uid", uid, &claims.uid),
        ("serviceAccount", "a Pod of the ServiceAccount", service_account, &claims.service_account),
    ] {
        if token != request {
            let problem = format!("the token is that of {what} {}, but the mount is for {}", quoted(token), quoted(request));
            return Err(IdentityError::new(claim, problem, OWN_TOKEN));
        }
    }
    Ok(())
}

/// The driver sent no token for this audience.
pub(super) fn missing(audience: &str, tokens: &RawTokens) -> IdentityError {
    let remedy = add_audience(audience);
    if tokens.is_empty() {
        return IdentityError::new("token", format!("the driver sent none, and one for {audience:?} is needed"), remedy);
    }
    let sent = listed(tokens.keys().map(String::as_str));
    IdentityError::new("audience", format!("the driver sent tokens for {sent}, but none for {audience:?}"), remedy)
}

pub(super) fn add_audience(audience: &str) -> String {
    format!("add the audience {audience} to tokenRequests of the CSIDriver object secrets-store.csi.k8s.io")
}

/// `"a", "b"`; only a few of them.
pub(super) fn listed<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    const FEW: usize = 5;
    let more = names.len().saturating_sub(FEW);
    let shown: Vec<_> = names.take(FEW).map(quoted).collect();
    match (shown.is_empty(), more) {
        (true, _) => "nobody".to_owned(),
        (false, 0) => shown.join(", "),
        (false, more) => format!("{} and {more} more", shown.join(", ")),
    }
}
