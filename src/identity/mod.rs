//! Who the Pod is: from the driver's claims and the Pod's token to a proven identity.
//!
//! Keyferry never believes a token about its own kind: algorithms are allow-listed, and each token is verified for the audience under which
//! it is kept. Reading order: `attest` (what a proof is), `config` (what the admin chose), `jwks` (the verifier), `token` (one token and
//! its claims), `keys` (the issuer's public keys), `keysource` (where they come from: `keyfile`, or `keyurl` with `keystate`), `review`
//! (the API server verifies), `driver` (no proof at all), `examine` (a check for the doctor), `issuer` (the other side, for the demo and
//! tests).

use std::path::Path;
use std::sync::Arc;

use crate::clock::Clock;
use crate::kube::{KubeClient, KubeConfig, OwnToken};

mod attest;
mod config;
mod driver;
mod examine;
mod issuer;
mod jwks;
mod keyfile;
mod keys;
mod keysource;
mod keystate;
mod keyurl;
mod review;
mod token;

use keysource::KeySource;
use keystate::KeyState;
use keyurl::{API_SERVER_KEYS, KeyUrl};

pub use attest::{Attest, Attested, IdentityError, Proof};
pub use config::{IdentityConfig, Keys, Verify};
pub use driver::BelieveDriver;
pub use examine::examine;
pub use issuer::{Issuer, IssuerError};
pub use jwks::JwksVerifier;
pub use review::TokenReviewer;
pub use token::TokenClaims;

/// Makes the verifier that the configuration names, from inside a runtime: keys at an address are fetched in the background until the
/// result is dropped. They are kept in the state folder.
///
/// # Errors
/// The key file cannot be read or has no usable key; there is no CA; or a key is left out and has no default here, because this process is
/// not in a Pod or has no token. An unreachable API server is not an error: mounts report it until it is back.
pub fn build(config: &IdentityConfig, state_dir: &Path, clock: Arc<dyn Clock>) -> Result<Arc<dyn Attest>, String> {
    Ok(match &config.verify {
        Verify::Driver => Arc::new(BelieveDriver),
        Verify::Jwks { issuer, keys } => {
            let issuer = issuer.clone().map_or_else(|| own_issuer(keys), Ok);
            match (issuer, key_source(keys, state_dir, &clock)) {
                (Ok(issuer), Ok(keys)) => Arc::new(JwksVerifier::with_keys(keys, &issuer, &config.audience, clock)),
                (issuer, keys) => return Err([issuer.err(), keys.err()].into_iter().flatten().collect::<Vec<_>>().join("; ")),
            }
        }
        Verify::TokenReview => {
            let client = api_server().map_err(|problem| format!("verify: token-review: {problem} (use jwks outside of a cluster)"))?;
            Arc::new(TokenReviewer::new(client, &config.audience, clock))
        }
    })
}

fn key_source(keys: &Keys, state_dir: &Path, clock: &Arc<dyn Clock>) -> Result<KeySource, String> {
    let (client, path) = match keys {
        Keys::ApiServer => {
            let left_out = |problem| {
                format!(
                    "jwks: is missing, so the keys come from the API server, but {problem} (set identity.jwks.file or identity.jwks.url)"
                )
            };
            (api_server().map_err(left_out)?, API_SERVER_KEYS)
        }
        Keys::File(file) => return KeySource::open(file),
        Keys::Url { url, ca, token } => {
            let config = KubeConfig { base: url.clone(), ca: ca.clone(), token: token.clone() };
            (KubeClient::new(config).map_err(|error| format!("jwks: {error}"))?, "")
        }
    };
    let kept = KeyState::new(state_dir, &format!("{}{path}", client.config().base), client.config().ca.as_deref());
    Ok(KeySource::Url(KeyUrl::start(client, path, kept, Arc::clone(clock))))
}

fn api_server() -> Result<KubeClient, String> {
    KubeClient::new(KubeConfig::in_cluster()?).map_err(|error| error.to_string())
}

/// The `iss` of the daemon's own token: the same issuer issues the Pods' tokens.
fn own_issuer(keys: &Keys) -> Result<String, String> {
    let token = match keys {
        Keys::Url { token: Some(token), .. } => token.clone(),
        Keys::ApiServer | Keys::File(_) | Keys::Url { token: None, .. } => OwnToken::default(),
    };
    token.issuer().map_err(|error| {
        format!(
            "issuer: is missing, so Keyferry reads it from {error} (set identity.issuer: kubectl get --raw /.well-known/openid-configuration \
             shows it; or let kubelet mount a token: automountServiceAccountToken: true)"
        )
    })
}

#[cfg(test)]
mod tests;
