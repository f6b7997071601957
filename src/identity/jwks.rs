//! `verify: jwks`: Keyferry believes a Pod's token if one of the issuer's keys has signed it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::attest::{Attest, Attested, IdentityError, Proof};
use super::keys::{Algorithm, Key, KeySet};
use super::keysource::KeySource;
use super::token::{self, Jws, OWN_TOKEN, TokenDigest, Verified};
use crate::clock::Clock;
use crate::model::{PodClaims, PodToken, PodTokens, RawTokens, SecretBytes, quoted};

/// The most keys that are tried for a token that names none, or for a name that several keys share.
const MAX_TRIES: usize = 8;

/// Verifies tokens with the issuer's keys, from a file or an address.
///
/// A token is verified once for its audience and then remembered until it expires or the keys change. If the same token comes again, it
/// costs a SHA-256 and a look at the clock.
#[derive(Debug)]
pub struct JwksVerifier {
    keys: KeySource,
    issuer: String,
    audience: String,
    clock: Arc<dyn Clock>,
}

#[async_trait]
impl Attest for JwksVerifier {
    async fn attest(&self, claims: &PodClaims, tokens: &RawTokens) -> Result<Attested, IdentityError> {
        let now = self.clock.now();
        let own = tokens.get(&self.audience).ok_or_else(|| token::missing(&self.audience, tokens))?;
        let (own, keys) = self.verify(own, &self.audience, claims, now).await?;
        let mut verified = BTreeMap::new();
        for (audience, jwt) in token::for_stores(tokens, &self.audience) {
            match self.verify(jwt, audience, claims, now).await {
                Ok((token, _)) if token.is_for_daemon => tracing::debug!(audience = %quoted(audience), "{}", token::FOR_DAEMON),
                Ok((token, _)) => _ = verified.insert(audience.clone(), PodToken { jwt: jwt.clone(), expires: token.expires }),
                Err(error) => tracing::debug!(audience = %quoted(audience), %error, "a token is kept from the backends"),
            }
        }
        Ok(Attested { pod: own.identity(), tokens: PodTokens::new(verified), proof: Proof::new(own.expires, &keys.mark) })
    }

    async fn still_holds(&self, proof: &Proof) -> Result<(), IdentityError> {
        let keys = self.keys.recent().await;
        proof.check(keys.as_ref().map(|keys| &keys.mark), self.clock.now())
    }

    async fn health(&self) -> Result<(), String> {
        self.keys.health().await
    }

    fn keys_fetched(&self) -> Option<Timestamp> {
        self.keys.fetched()
    }
}

impl JwksVerifier {
    /// Takes the `issuer`'s tokens for the `audience`, signed with a key of the `file`.
    ///
    /// # Errors
    /// The file cannot be read, is larger than 1 MiB, or has no usable key.
    pub fn open(file: &Path, issuer: &str, audience: &str, clock: Arc<dyn Clock>) -> Result<Self, String> {
        Ok(Self::with_keys(KeySource::open(file)?, issuer, audience, clock))
    }

    pub(super) fn with_keys(keys: KeySource, issuer: &str, audience: &str, clock: Arc<dyn Clock>) -> Self {
        Self { keys, issuer: issuer.to_owned(), audience: audience.to_owned(), clock }
    }

    /// The token's claims, and the keys that have verified it.
    async fn verify(
        &self,
        jwt: &SecretBytes,
        audience: &str,
        claims: &PodClaims,
        now: Timestamp,
    ) -> Result<(Arc<Verified>, Arc<KeySet>), IdentityError> {
        let digest = token::digest(jwt.expose(), audience);
        let known = self.keys.recent().await.and_then(|keys| Some((keys.verified.find(&digest)?, keys)));
        let (token, keys) = match known {
            Some(known) => known,
            None => self.verify_anew(digest, jwt.expose(), audience).await?,
        };
        token.check_time(now)?;
        token.check_pod(claims)?;
        Ok((token, keys))
    }

    /// The signature is checked first: Keyferry looks at no claim of an unsigned text.
    async fn verify_anew(&self, digest: TokenDigest, token: &[u8], audience: &str) -> Result<(Arc<Verified>, Arc<KeySet>), IdentityError> {
        let jws = Jws::parse(token)?;
        let algorithm = Algorithm::named(&jws.algorithm).ok_or_else(|| unusable(&jws.algorithm))?;
        let keys = self.keys.for_key(jws.key_id.as_deref()).await?;
        let candidates = self.candidates(&keys, &jws, algorithm)?;
        if !candidates.iter().any(|key| key.verifies(algorithm, jws.message, &jws.signature)) {
            return Err(self.forged(&candidates));
        }
        let token = Arc::new(jws.claims(&self.issuer, audience, &self.audience)?);
        keys.verified.insert(digest, token.clone());
        Ok((token, keys))
    }

    /// The keys that may have signed it: the keys with its `kid`, or all that fit if it has none.
    fn candidates<'k>(&self, keys: &'k KeySet, jws: &Jws<'_>, algorithm: Algorithm) -> Result<Vec<&'k Key>, IdentityError> {
        let found: Vec<&Key> = keys.iter().filter(|key| jws.key_id.is_none() || key.id() == jws.key_id.as_deref()).collect();
        if found.is_empty() {
            return Err(self.no_key(jws.key_id.as_deref(), keys));
        }
        let fitting: Vec<&Key> = found.iter().copied().filter(|key| key.fits(algorithm)).take(MAX_TRIES).collect();
        if fitting.is_empty() {
            let problem = format!(
                "the token says it is signed with {}, which does not fit {} of {}",
                algorithm.as_str(),
                named(&found),
                self.keys.name()
            );
            return Err(IdentityError::new("algorithm", problem, OWN_TOKEN));
        }
        Ok(fitting)
    }

    /// No key has this name; without a name: there is no key at all.
    fn no_key(&self, id: Option<&str>, keys: &KeySet) -> IdentityError {
        let source = self.keys.name();
        let left_out = id.and_then(|id| Some((id, keys.why_left_out(id)?)));
        let problem = match (left_out, keys.emptiness()) {
            (Some((id, why)), _) => format!("the key {} is in {source}, but Keyferry does not use it: it {why}", quoted(id)),
            (None, Some(why)) => format!("there is no key to verify the token with: {source}: {why}"),
            (None, None) => {
                let known: Vec<&Key> = keys.iter().collect();
                let id = quoted(id.unwrap_or_default());
                format!("the token is signed with the key {id}, which is not in {source}; there is {}", named(&known))
            }
        };
        IdentityError::new("key", problem, self.keys.renewal())
    }

    fn forged(&self, candidates: &[&Key]) -> IdentityError {
        let problem = format!("the token's signature was not made by {} of {}", named(candidates), self.keys.name());
        IdentityError::new("signature", problem, self.keys.comparison())
    }
}

/// `key "a" (RSA), key "b" (P-256)`; only a few of them.
fn named(keys: &[&Key]) -> String {
    const FEW: usize = 5;
    let shown = keys.iter().take(FEW).map(|key| format!("key {key}")).collect::<Vec<_>>().join(", ");
    match keys.len().saturating_sub(FEW) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn unusable(algorithm: &str) -> IdentityError {
    let problem = if algorithm.eq_ignore_ascii_case("none") {
        "the token is not signed: its `alg` is \"none\"".to_owned()
    } else if algorithm.starts_with("HS") {
        format!("the token is signed with {}, an algorithm with a shared secret, which does not prove the issuer", quoted(algorithm))
    } else {
        format!("the token is signed with {}, but Keyferry accepts only {}", quoted(algorithm), Algorithm::names())
    };
    IdentityError::new("algorithm", problem, OWN_TOKEN)
}
