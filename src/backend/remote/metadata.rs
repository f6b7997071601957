//! A server of the node itself, over HTTP at a link-local address: the metadata of a cloud's instance, or an agent for its Pods. If the
//! server is there, it answers at once. So Keyferry does not wait long for it.

use bytes::Bytes;
use http::{Request, Response};
use serde::{Deserialize, Deserializer};
use tokio::time::{Duration, Instant};
use zeroize::Zeroizing;

use crate::http::{Endpoint, HttpClient, HttpConfig, HttpError};
use crate::model::SecretBytes;

/// The largest answer in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// The most tries: one packet may be lost.
const TRIES: usize = 2;

/// A client of such a server.
#[derive(Clone, Debug)]
pub(in crate::backend) struct Metadata {
    http: HttpClient,
    /// How long it may take to answer.
    time: Duration,
}

/// A secret text in a JSON answer.
pub(in crate::backend) struct SecretText(pub(in crate::backend) Zeroizing<String>);

// === impl Metadata ===

impl Metadata {
    /// Keyferry calls it without a proxy, even if the environment names one.
    ///
    /// # Errors
    /// None, for an address of this node.
    pub(in crate::backend) fn new(endpoint: Endpoint, time: Duration) -> Result<Self, HttpError> {
        let config = HttpConfig { max_body: MAX_ANSWER, proxy: false, ..HttpConfig::default() };
        Ok(Self { http: HttpClient::new(endpoint, config)?, time })
    }

    pub(in crate::backend) fn endpoint(&self) -> &Endpoint {
        self.http.endpoint()
    }

    /// The answer with any status. If there is no answer, or a 5xx, the request is sent once more.
    ///
    /// # Errors
    /// There was no answer in time.
    pub(in crate::backend) async fn ask(&self, request: Request<Bytes>, deadline: Instant) -> Result<Response<SecretBytes>, HttpError> {
        let mut tried = 0;
        loop {
            tried += 1;
            let answer = self.http.send(request.clone(), deadline.min(Instant::now() + self.time)).await;
            let passes = match &answer {
                Ok(answer) => answer.status().is_server_error(),
                Err(HttpError::Broken(_) | HttpError::Connect(_) | HttpError::TimedOut) => true,
                Err(_) => false,
            };
            if !passes || tried >= TRIES || Instant::now() >= deadline {
                return answer;
            }
        }
    }
}

// === impl SecretText ===

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}
