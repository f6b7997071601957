//! The few calls of the Kubernetes API, over [`crate::http`]: where the API server is, the daemon's token there, and what an answer means.
//! It is a separate module, so that all callers (identity, events) have the same deadlines, limits and messages.

use std::fmt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode, Uri};
use tokio::time::{Duration, Instant};
use zeroize::Zeroizing;

use crate::files::Desk;
use crate::http::{Endpoint, HttpClient, HttpConfig, HttpError, foreign_charset};
use crate::model::SecretBytes;

mod csi_driver;
mod event;
mod own_token;
mod review;
mod service_account;

pub use csi_driver::{CsiDriver, TokenRequest};
pub use event::{EventError, MAX_NOTE, PodEvent};
pub use own_token::{OwnToken, OwnTokenError};
pub use review::{ReviewError, TokenStatus};
pub use service_account::{ServiceAccount, ServiceAccountError};

/// How long a call may take, with the connection. The API server answers within milliseconds; kubelet waits two minutes for a mount.
pub const CALL: Duration = Duration::from_secs(5);

/// Threads that read the token: a file system that hangs blocks no more.
const THREADS: usize = 2;

/// The largest answer in bytes.
const MAX_ANSWER: usize = 1024 * 1024;

/// Where kubelet puts a ServiceAccount's token and the cluster's CA (Kubernetes: "Accessing the Kubernetes API from a Pod").
const OWN_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// An API server, and the daemon's token there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KubeConfig {
    /// `https://host:port`, or a whole address if only that one is called.
    pub base: String,
    /// PEM certificates of the CAs that are trusted for the server. `None`: the system's.
    pub ca: Option<PathBuf>,
    /// A file with the token to send. `None`: no token.
    pub token: Option<OwnToken>,
}

/// A client for one API server.
#[derive(Clone, Debug)]
pub struct KubeClient {
    config: KubeConfig,
    http: HttpClient,
    /// Where the token is read at each call.
    desk: Desk,
}

/// A call that failed. It has neither the token nor the answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KubeError {
    /// Method and address.
    pub call: String,
    pub problem: String,
    pub remedy: String,
}

// === impl KubeConfig ===

impl KubeConfig {
    /// The API server of the cluster that this process runs in, called with the Pod's own token.
    ///
    /// # Errors
    /// What is missing, for a process that does not run in a cluster.
    pub fn in_cluster() -> Result<Self, String> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self::of(variable("KUBERNETES_SERVICE_HOST"), variable("KUBERNETES_SERVICE_PORT"), Path::new(OWN_FOLDER))
    }

    /// As kubelet gives it to each container: in two variables and a folder.
    pub(crate) fn of(host: Option<String>, port: Option<String>, folder: &Path) -> Result<Self, String> {
        let (Some(host), Some(port)) = (host, port) else {
            return Err("this process is not in a Pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set".to_owned());
        };
        // An IPv6 address is in brackets (RFC 3986, section 3.2.2).
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let token = Some(OwnToken::at(folder.join("token")));
        Ok(Self { base: format!("https://{host}:{port}"), ca: Some(folder.join("ca.crt")), token })
    }
}

/// The token that kubelet mounts for this Pod's own ServiceAccount.
impl Default for OwnToken {
    fn default() -> Self {
        Self::at(Path::new(OWN_FOLDER).join("token"))
    }
}

// === impl KubeClient ===

impl KubeClient {
    /// # Errors
    /// The base is not an address, or the CA cannot be read or has no certificate. The token is read at each call.
    pub fn new(config: KubeConfig) -> Result<Self, HttpError> {
        let endpoint = config.base.parse::<Uri>().ok().and_then(|uri| Endpoint::of(&uri).ok());
        let endpoint = endpoint.ok_or_else(|| HttpError::Request("its address has no host, or a user".to_owned()))?;
        let http = HttpClient::new(endpoint, HttpConfig { ca: config.ca.clone(), max_body: MAX_ANSWER, ..HttpConfig::default() })?;
        Ok(Self { config, http, desk: Desk::new(THREADS) })
    }

    pub fn config(&self) -> &KubeConfig {
        &self.config
    }

    /// Gets the answer for a path below the base. `right` says what is needed after a 403.
    ///
    /// # Errors
    /// No answer within [`CALL`], an answer over 1 MiB, or any status except 200.
    pub async fn get(&self, path: &str, right: &str) -> Result<SecretBytes, KubeError> {
        self.call(Method::GET, path, Bytes::new(), right).await
    }

    /// Posts a JSON object to a path below the base; the body is wiped when it has been sent.
    ///
    /// # Errors
    /// As [`KubeClient::get`]; 201 is accepted too.
    pub async fn post(&self, path: &str, body: Zeroizing<Vec<u8>>, right: &str) -> Result<SecretBytes, KubeError> {
        self.call(Method::POST, path, Bytes::from_owner(body), right).await
    }

    async fn call(&self, method: Method, path: &str, body: Bytes, right: &str) -> Result<SecretBytes, KubeError> {
        let call = self.name_of(&method, path);
        let answer = self.exchange(method, path, body).await?;
        self.body(answer, right).map_err(|(problem, remedy)| KubeError { call, problem, remedy })
    }

    /// The answer, whatever its status.
    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Response<SecretBytes>, KubeError> {
        let call = self.name_of(&method, path);
        let fault = |(problem, remedy): (String, String)| KubeError { call: call.clone(), problem, remedy };
        let deadline = Instant::now() + CALL;
        let request = self.request(method, path, body, deadline).await.map_err(fault)?;
        self.http.send(request, deadline).await.map_err(|error| fault(Self::unanswered(&error)))
    }

    fn name_of(&self, method: &Method, path: &str) -> String {
        format!("{method} {}{path}", self.config.base)
    }

    async fn request(&self, method: Method, path: &str, body: Bytes, deadline: Instant) -> Result<Request<Bytes>, (String, String)> {
        let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.config.base));
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, kind).header(ACCEPT, "application/json");
        }
        if let Some(token) = &self.config.token {
            let own = token.clone();
            let bearer = self.desk.run("", deadline, move || own.bearer()).await;
            let bearer = bearer.unwrap_or_else(|late| Err(token.fault(late.to_string())));
            request = request.header(AUTHORIZATION, bearer.map_err(OwnTokenError::into_parts)?);
        }
        request.body(body).map_err(|error| (error.to_string(), "correct the address".to_owned()))
    }

    /// What to do about a call without an answer.
    fn unanswered(error: &HttpError) -> (String, String) {
        let remedy = match error {
            HttpError::Broken(_) | HttpError::Short | HttpError::TimedOut => AGAIN.to_owned(),
            HttpError::Ca { .. } | HttpError::ClassFiles(_) | HttpError::ClientCertificate { .. } => {
                "name a file with PEM certificates".to_owned()
            }
            HttpError::Certificate(fault) => fault.remedy().to_owned(),
            HttpError::Connect(_) => "check that the server is up, and that network policies let the daemon out to it".to_owned(),
            HttpError::Proxy(_) => "check the proxy, or name this host in NO_PROXY".to_owned(),
            HttpError::Coded { .. } => "check what is between the daemon and the server".to_owned(),
            HttpError::Redirect { .. } | HttpError::Request(_) | HttpError::Tls(_) | HttpError::TooLarge { .. } => {
                "check that the address is the right one".to_owned()
            }
        };
        let is_late = matches!(error, HttpError::TimedOut);
        (if is_late { format!("no answer in {} s", CALL.as_secs()) } else { error.to_string() }, remedy)
    }

    /// The body of a successful answer.
    fn body(&self, answer: Response<SecretBytes>, right: &str) -> Result<SecretBytes, (String, String)> {
        let remedy = match answer.status() {
            StatusCode::OK | StatusCode::CREATED => {
                let charset = foreign_charset(answer.headers());
                let fault = |charset| {
                    (format!("its answer has the charset {charset}: JSON is UTF-8"), "check that the address is the right one".to_owned())
                };
                return charset.map_or_else(|| Ok(answer.into_body()), |charset| Err(fault(charset)));
            }
            StatusCode::UNAUTHORIZED => match &self.config.token {
                Some(token) => {
                    let path = token.path().display();
                    format!(
                        "it does not take the daemon's own token, {path}: kubelet renews that in time; if this stays, delete the daemon's Pod"
                    )
                }
                None => "it needs to know who asks: name a file with a token".to_owned(),
            },
            StatusCode::FORBIDDEN => right.to_owned(),
            StatusCode::NOT_FOUND => "check that the address is the right one".to_owned(),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => AGAIN.to_owned(),
            _ => "check that the address is that of an API server".to_owned(),
        };
        Err((format!("it answered {}", answer.status()), remedy))
    }
}

/// The remedy for a failure that passes.
const AGAIN: &str = "it is overloaded, starting or stopping";

// === impl KubeError ===

impl KubeError {
    /// Call and problem, without what to do.
    pub fn what(&self) -> String {
        format!("{}: {}", self.call, self.problem)
    }
}

impl fmt::Display for KubeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.call, self.problem, self.remedy)
    }
}

impl std::error::Error for KubeError {}

#[cfg(test)]
#[path = "../tests/it/api_server.rs"]
pub(crate) mod api_server;

#[cfg(test)]
mod tests;
