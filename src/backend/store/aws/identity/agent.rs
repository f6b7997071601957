//! EKS Pod Identity: an agent on the node takes a Pod's token, and gives a key for the role that EKS has for the Pod's ServiceAccount.

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use http::{Request, Response};
use tokio::time::{Duration, Instant};

use super::issued::Answer;
use super::session::Issued;
use crate::backend::Fault;
use crate::backend::remote::metadata::Metadata;
use crate::backend::remote::refusal::{Needles, Refusal};
use crate::backend::store::aws::error::MAX_WORDS;
use crate::clock::Clock;
use crate::http::{Endpoint, HttpError};
use crate::model::{PodIdentity, SecretBytes};

/// The agent's addresses: it refuses any other `Host`.
const ADDRESSES: [&str; 2] = ["http://169.254.170.23", "http://[fd00:ec2::23]"];

/// The agent waits a second for EKS, and then answers 500.
const TIME: Duration = Duration::from_secs(3);

/// The agent. Its addresses are tried one after the other.
#[derive(Debug)]
pub(super) struct Agent {
    servers: Vec<Metadata>,
    words: bool,
}

// === impl Agent ===

impl Agent {
    /// `address`: the agent's address, if it is not a usual one.
    ///
    /// # Errors
    /// None, for an address of this node.
    pub(super) fn new(address: Option<&Endpoint>, words: bool) -> Result<Self, HttpError> {
        let own = ADDRESSES.into_iter().filter_map(|address| address.parse().ok());
        Self::at(address.map_or_else(|| own.collect(), |address| vec![address.clone()]), words)
    }

    /// With these addresses: the first that answers counts.
    pub(super) fn at(addresses: Vec<Endpoint>, words: bool) -> Result<Self, HttpError> {
        let servers = addresses.into_iter().map(|address| Metadata::new(address, TIME)).collect::<Result<_, _>>()?;
        Ok(Self { servers, words })
    }

    /// # Errors
    /// The agent refuses, or does not answer.
    pub(super) async fn log_in(
        &self,
        token: &SecretBytes,
        pod: &PodIdentity,
        clock: &dyn Clock,
        deadline: Instant,
    ) -> Result<Issued, Refusal> {
        let answer = self.ask(request(token)?, deadline).await?;
        if answer.status().as_u16() != 200 {
            return Err(self.refused(token, pod, &answer));
        }
        Answer::parse(&answer, clock.now()).map_err(|problem| {
            Refusal::new(
                Fault::Unhelpful,
                format!("the answer of the EKS Pod Identity agent {problem} (is the server the agent? check auth.address)"),
            )
        })
    }

    async fn ask(&self, request: Request<Bytes>, deadline: Instant) -> Result<Response<SecretBytes>, Refusal> {
        let mut problem = String::new();
        for server in &self.servers {
            match server.ask(request.clone(), deadline).await {
                Ok(answer) => return Ok(answer),
                Err(error) if problem.is_empty() => problem = format!("{}: {error}", server.endpoint()),
                Err(error) => problem += &format!("; {}: {error}", server.endpoint()),
            }
        }
        let remedy = "is the add-on eks-pod-identity-agent installed, is its Pod on this node ready, and do network policies let the daemon \
                      out to it?";
        Err(Refusal::new(Fault::Unavailable, format!("the EKS Pod Identity agent does not answer: {problem} ({remedy})")))
    }

    /// Its words are `[request id]: (Code): message, fault: client`.
    fn refused(&self, token: &SecretBytes, pod: &PodIdentity, answer: &Response<SecretBytes>) -> Refusal {
        let status = answer.status();
        let said = String::from_utf8_lossy(answer.body().expose());
        let code = said.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map_or("", |(code, _)| code);
        let words = if self.words { Needles::default().secret(token).clean(said.trim(), MAX_WORDS) } else { String::new() };
        let told = if words.is_empty() { status.to_string() } else { format!("{}: {words}", status.as_u16()) };
        let account = format!("{}/{}", pod.namespace, pod.service_account);
        let (fault, remedy) = match (status.as_u16(), code) {
            (429, _) | (_, "ThrottlingException") => (Fault::Throttled, "kubelet tries again by itself".to_owned()),
            (500.., _) => (Fault::Unavailable, "see its log; kubelet tries again by itself".to_owned()),
            (404, _) => (
                Fault::Unauthenticated,
                format!(
                    "EKS has no role for ServiceAccount {account}: `aws eks create-pod-identity-association --namespace {} --service-account {} \
                 --cluster-name ... --role-arn ...`; a new one takes some seconds",
                    pod.namespace, pod.service_account
                ),
            ),
            (403, _) => {
                (Fault::Unhelpful, format!("the agent answers only at {}: correct auth.address of the backend", ADDRESSES.join(" and ")))
            }
            (_, "AccessDeniedException") => (
                Fault::Unauthenticated,
                "the node's role needs eks-auth:AssumeRoleForPodIdentity, and the association's role must trust pods.eks.amazonaws.com"
                    .to_owned(),
            ),
            (_, "ExpiredTokenException") => (Fault::Unauthenticated, "kubelet renews the token; check the node's clock".to_owned()),
            _ => (Fault::Unauthenticated, "is the token's audience the one of EKS, pods.eks.amazonaws.com? check auth.audience".to_owned()),
        };
        Refusal::new(fault, format!("the EKS Pod Identity agent does not log in ServiceAccount {account}: {told} ({remedy})"))
    }
}

fn request(token: &SecretBytes) -> Result<Request<Bytes>, Refusal> {
    let unfit = |_| Refusal::new(Fault::Unauthenticated, "the Pod's token has characters that a token cannot have (check what issues it)");
    let mut bare = HeaderValue::from_bytes(token.expose()).map_err(unfit)?;
    bare.set_sensitive(true);
    let mut request = Request::new(Bytes::new());
    *request.uri_mut() = http::Uri::from_static("/v1/credentials");
    request.headers_mut().insert(AUTHORIZATION, bare);
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
    Ok(request)
}
