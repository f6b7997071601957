//! TokenReview (authentication.k8s.io/v1): what the API server says about a token.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use super::{KubeClient, KubeError};
use crate::model::SecretBytes;

const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// What the daemon needs after a 403.
const RIGHT: &str = "the daemon's ServiceAccount needs a ClusterRole with the verb `create` on tokenreviews of authentication.k8s.io, and a \
                     ClusterRoleBinding to it";

/// The API server's result (TokenReviewStatus). The token is not in it.
#[derive(Debug, Default, Deserialize)]
pub struct TokenStatus {
    #[serde(default)]
    pub authenticated: bool,
    /// The requested audiences for which the token is valid. Empty with `authenticated`: the token is valid only for the API server.
    #[serde(default)]
    pub audiences: Vec<String>,
    /// Why the API server could not authenticate it.
    #[serde(default)]
    pub error: String,
    #[serde(default)]
    user: User,
}

#[derive(Debug, Default, Deserialize)]
struct User {
    #[serde(default)]
    username: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    extra: BTreeMap<String, Vec<String>>,
}

/// Why there is no status.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum ReviewError {
    #[error(transparent)]
    Call(#[from] KubeError),
    /// A token is ASCII text.
    #[error("the token is not text")]
    NotText,
}

impl KubeClient {
    /// Asks whose token it is, and whether it is for this audience.
    ///
    /// # Errors
    /// The API server could not be asked, or did not answer with a TokenReview. A refused token is not an error here.
    pub async fn review_token(&self, token: &SecretBytes, audience: &str) -> Result<TokenStatus, ReviewError> {
        #[derive(Deserialize)]
        struct Answer {
            kind: String,
            status: TokenStatus,
        }
        let token = str::from_utf8(token.expose()).map_err(|_| ReviewError::NotText)?;
        let answer = self.post(PATH, body(token, audience), RIGHT).await?;
        match serde_json::from_slice::<Answer>(answer.expose()) {
            Ok(answer) if answer.kind == "TokenReview" => Ok(answer.status),
            Ok(_) | Err(_) => Err(KubeError {
                call: format!("POST {}{PATH}", self.config().base),
                problem: "the answer is not a TokenReview".to_owned(),
                remedy: "check that the address is that of an API server".to_owned(),
            }
            .into()),
        }
    }
}

fn body(token: &str, audience: &str) -> Zeroizing<Vec<u8>> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Review<'t> {
        api_version: &'t str,
        kind: &'t str,
        spec: Spec<'t>,
    }
    #[derive(Serialize)]
    struct Spec<'t> {
        token: &'t str,
        audiences: [&'t str; 1],
    }
    let review = Review { api_version: "authentication.k8s.io/v1", kind: "TokenReview", spec: Spec { token, audiences: [audience] } };
    // At most six bytes for each character: a buffer that grows leaves copies behind.
    let mut body = Zeroizing::new(Vec::with_capacity(256 + 6 * (token.len() + audience.len())));
    // Text can always be serialised, and a vector takes all of it.
    let _ = serde_json::to_writer(&mut *body, &review);
    body
}

// === impl TokenStatus ===

impl TokenStatus {
    pub fn username(&self) -> &str {
        &self.user.username
    }

    pub fn uid(&self) -> &str {
        &self.user.uid
    }

    /// What the token is bound to: `authentication.kubernetes.io/pod-name` and so on. If there are several values: none.
    pub fn extra(&self, key: &str) -> Option<&str> {
        match self.user.extra.get(key).map(Vec::as_slice) {
            Some([one]) => Some(one),
            Some(_) | None => None,
        }
    }
}
