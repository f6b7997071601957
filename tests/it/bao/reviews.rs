//! An API server that reviews tokens (`authentication.k8s.io/v1`, TokenReview), for the server's `kubernetes` login.

use std::sync::{Arc, Mutex};

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

use super::super::api_server::{Answer, ApiServer, Call};
use super::Elsewhere;

/// The API server. It serves also while the test's own thread blocks.
pub struct Reviews {
    server: ApiServer,
    refused: Arc<Mutex<bool>>,
    _elsewhere: Elsewhere,
}

impl Reviews {
    /// Every readable token for the requested audience is authentic. It does not look at signatures.
    pub fn start() -> Self {
        let refused = Arc::new(Mutex::new(false));
        let elsewhere = Elsewhere::new();
        let answer = review_unless(Arc::clone(&refused));
        let server = elsewhere.run(async { ApiServer::start(answer).await });
        Self { server, refused, _elsewhere: elsewhere }
    }

    pub fn url(&self) -> String {
        self.server.url("")
    }

    /// Its CA (PEM).
    pub fn ca(&self) -> &str {
        &self.server.ca
    }

    /// From now on no token is authentic, or each one is again.
    pub fn refuse(&self, refused: bool) {
        *self.refused.lock().unwrap() = refused;
    }

    /// Cuts every connection as soon as it is made, until [`Reviews::go_up`]. The server's login then answers 403, as for a bad token.
    pub fn go_down(&self) {
        self.server.go_down();
    }

    pub fn go_up(&self) {
        self.server.answer(review_unless(Arc::clone(&self.refused)));
    }

    /// How many reviews came since this function was last called.
    pub fn count(&self) -> usize {
        self.server.calls().len()
    }
}

fn review_unless(refused: Arc<Mutex<bool>>) -> Answer {
    Answer::With(Box::new(move |call| (201, review(call, *refused.lock().unwrap()).to_string())))
}

fn review(call: &Call, refused: bool) -> Value {
    let spec = serde_json::from_str::<Value>(&call.body).unwrap()["spec"].clone();
    let claims = claims(spec["token"].as_str().unwrap_or_default()).filter(|_| !refused);
    let asked = spec["audiences"].as_array().cloned().unwrap_or_default();
    let status = match claims {
        Some(claims) if asked.is_empty() || asked.iter().any(|audience| is_for(&claims, audience)) => {
            let account = &claims["kubernetes.io"]["serviceaccount"];
            let user = json!({ "username": claims["sub"], "uid": account["uid"], "groups": ["system:serviceaccounts"] });
            json!({ "authenticated": true, "user": user, "audiences": claims["aud"] })
        }
        _ => json!({ "authenticated": false, "error": "the token is not good" }),
    };
    json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status })
}

fn is_for(claims: &Value, audience: &Value) -> bool {
    claims["aud"].as_array().is_some_and(|audiences| audiences.contains(audience))
}

/// The payload of a JWT.
fn claims(token: &str) -> Option<Value> {
    let payload = token.split('.').nth(1)?;
    serde_json::from_slice(&BASE64URL_NOPAD.decode(payload.as_bytes()).ok()?).ok()
}
