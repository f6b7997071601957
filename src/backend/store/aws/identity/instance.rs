//! The role of the node's instance, by version 2 of its metadata service: first a token for the requests, then the role's name, then its
//! key.

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Method, Request, Response, Uri};
use tokio::time::{Duration, Instant};

use super::issued::Answer;
use super::session::Issued;
use crate::backend::Fault;
use crate::backend::remote::metadata::Metadata;
use crate::backend::remote::refusal::Refusal;
use crate::clock::Clock;
use crate::http::{Endpoint, HttpError};
use crate::model::SecretBytes;

const ADDRESS: &str = "http://169.254.169.254";

/// If packets may make only one hop, a Pod gets no answer at all.
const TIME: Duration = Duration::from_secs(1);

/// How long a token for the requests is valid, in seconds: there are two requests.
const GOOD_FOR: &str = "60";

const TTL: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
const TOKEN: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");

const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/";

/// The metadata of the instance that this node is.
#[derive(Debug)]
pub(super) struct Instance(Metadata);

// === impl Instance ===

impl Instance {
    /// `address`: the address of the service, if it is not the usual one.
    ///
    /// # Errors
    /// None, for an address of this node.
    pub(super) fn new(address: Option<&Endpoint>) -> Result<Self, HttpError> {
        let own = || ADDRESS.parse().map_err(|error: crate::http::InvalidEndpoint| HttpError::Request(error.to_string()));
        Ok(Self(Metadata::new(address.cloned().map_or_else(own, Ok)?, TIME)?))
    }

    /// # Errors
    /// The instance has no role, or the service does not answer.
    pub(super) async fn log_in(&self, clock: &dyn Clock, deadline: Instant) -> Result<Issued, Refusal> {
        let mut ask = Request::new(Bytes::new());
        *ask.method_mut() = Method::PUT;
        *ask.uri_mut() = Uri::from_static("/latest/api/token");
        ask.headers_mut().insert(TTL, HeaderValue::from_static(GOOD_FOR));
        let answer = self.ask(ask, deadline).await?;
        let token = HeaderValue::from_bytes(answer.body().expose().trim_ascii());
        let mut token = token.map_err(|_| self.fault(Fault::Unhelpful, "its token is not valid", "is the node an instance of EC2?"))?;
        token.set_sensitive(true);
        let answer = self.ask(get(CREDENTIALS, &token)?, deadline).await?;
        // All characters of a role's name can be in an address.
        let name = String::from_utf8_lossy(answer.body().expose());
        let name = name.lines().next().unwrap_or_default().trim();
        if name.is_empty() || name.len() > 128 || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte)) {
            return Err(self.fault(Fault::Unhelpful, "it does not name a role", "is the node an instance of EC2?"));
        }
        let answer = self.ask(get(&format!("{CREDENTIALS}{name}"), &token)?, deadline).await?;
        let unfit =
            |problem: String| self.fault(Fault::Unavailable, &format!("its answer {problem}"), "check the instance's role in EC2 and IAM");
        Answer::parse(&answer, clock.now()).map_err(unfit)
    }

    /// An answer of 200.
    async fn ask(&self, request: Request<Bytes>, deadline: Instant) -> Result<Response<SecretBytes>, Refusal> {
        let answer = self.0.ask(request, deadline).await.map_err(|error| {
            self.fault(
                Fault::Unavailable,
                &error.to_string(),
                "where the instance's hop limit is 1, a Pod without hostNetwork gets no answer: `aws ec2 modify-instance-metadata-options \
                 --http-put-response-hop-limit 2 --instance-id ...`, or use irsa or podIdentity",
            )
        })?;
        let told = format!("it answered {}", answer.status());
        Err(match answer.status().as_u16() {
            200 => return Ok(answer),
            404 => self.fault(Fault::Unauthenticated, "the instance has no role", "give it an instance profile"),
            403 => self.fault(Fault::Unauthenticated, &told, "the instance's metadata service is turned off: check its metadata options"),
            401 => self.fault(Fault::Unavailable, &told, "its token expired: kubelet tries again by itself"),
            500.. => self.fault(Fault::Unavailable, &told, "kubelet tries again by itself"),
            _ => self.fault(Fault::Unhelpful, &told, "is the node an instance of EC2?"),
        })
    }

    fn fault(&self, fault: Fault, problem: &str, remedy: &str) -> Refusal {
        Refusal::new(fault, format!("the instance's metadata service, {}: {problem} ({remedy})", self.0.endpoint()))
    }
}

fn get(path: &str, token: &HeaderValue) -> Result<Request<Bytes>, Refusal> {
    let request = Request::builder().uri(path).header(TOKEN, token).body(Bytes::new());
    request.map_err(|error| Refusal::new(Fault::Unhelpful, format!("the instance's metadata service: {error} (check auth.address)")))
}
