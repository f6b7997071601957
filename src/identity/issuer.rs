//! The other side: the issuer of tokens. The demo uses it in place of the API server on a machine without a cluster; tests and benches make
//! their tokens with it. The daemon never does.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::time::Duration;

use crate::clock::Clock;
use crate::model::PodClaims;

/// The node that all its Pods are on.
const NODE: &str = "node-1";

/// Issues ServiceAccount tokens as the API server does (bound to a Pod, KEP-1205), signed with ES256 by a new key.
pub struct Issuer {
    name: String,
    key_id: String,
    key: EcdsaKeyPair,
}

/// The crypto library could not make a key or a signature: for example, it has no randomness.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("cannot make a key or a signature")]
pub struct IssuerError;

impl Issuer {
    /// An issuer with a new key; `issuer` is the `iss` of its tokens.
    pub fn new(issuer: impl Into<String>) -> Result<Self, IssuerError> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| IssuerError)?;
        let key_id = BASE64URL_NOPAD.encode(digest(&SHA256, key.public_key().as_ref()).as_ref());
        Ok(Self { name: issuer.into(), key_id, key })
    }

    /// The `iss` of its tokens.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its public key as a JWKS (RFC 7517), as the API server answers at `/openid/v1/jwks`.
    pub fn jwks(&self) -> String {
        json!({ "keys": [self.jwk()] }).to_string()
    }

    /// A Pod's token for an audience, valid from now on for `ttl` (whole seconds).
    pub fn token(&self, pod: &PodClaims, audience: &str, ttl: Duration, clock: &dyn Clock) -> Result<String, IssuerError> {
        self.sign(&self.claims(pod, audience, ttl, clock))
    }

    /// The claims that [`Issuer::token`] signs.
    pub(super) fn claims(&self, pod: &PodClaims, audience: &str, ttl: Duration, clock: &dyn Clock) -> Value {
        let now = clock.now().as_second();
        let ends = now.saturating_add(i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX));
        let PodClaims { namespace, name, uid, service_account } = pod;
        json!({
            "aud": [audience],
            "exp": ends,
            "iat": now,
            "iss": self.name,
            "jti": stable_uid(uid, &format!("{audience} {ends}")),
            "kubernetes.io": {
                "namespace": namespace,
                "node": { "name": NODE, "uid": stable_uid("", NODE) },
                "pod": { "name": name, "uid": uid },
                "serviceaccount": { "name": service_account, "uid": stable_uid(namespace, service_account) },
            },
            "nbf": now,
            "sub": format!("system:serviceaccount:{namespace}:{service_account}"),
        })
    }

    /// Signs any claims.
    pub(super) fn sign(&self, claims: &Value) -> Result<String, IssuerError> {
        self.sign_with(&json!({ "alg": "ES256", "kid": self.key_id }), claims)
    }

    /// Signs any claims under any header: tests make false tokens with it.
    pub(super) fn sign_with(&self, header: &Value, claims: &Value) -> Result<String, IssuerError> {
        let message = [header, claims].map(|part| BASE64URL_NOPAD.encode(part.to_string().as_bytes())).join(".");
        let signature = self.key.sign(&SystemRandom::new(), message.as_bytes()).map_err(|_| IssuerError)?;
        Ok(format!("{message}.{}", BASE64URL_NOPAD.encode(signature.as_ref())))
    }

    pub(super) fn jwk(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.key.public_key().as_ref();
        let (x, y) = point[1..].split_at(point.len() / 2);
        json!({
            "alg": "ES256",
            "crv": "P-256",
            "kid": self.key_id,
            "kty": "EC",
            "use": "sig",
            "x": BASE64URL_NOPAD.encode(x),
            "y": BASE64URL_NOPAD.encode(y),
        })
    }
}

/// The same uid for the same name in the same group, in the form of a uid.
fn stable_uid(group: &str, name: &str) -> String {
    let hash = HEXLOWER.encode(digest(&SHA256, format!("{group}/{name}").as_bytes()).as_ref());
    [&hash[..8], &hash[8..12], &hash[12..16], &hash[16..20], &hash[20..32]].join("-")
}

/// Without the key.
impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("name", &self.name).field("key_id", &self.key_id).finish_non_exhaustive()
    }
}
