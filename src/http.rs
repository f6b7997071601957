//! The one HTTP client: hyper and rustls, with a deadline and a size bound on every call.
//!
//! A client is made for one [`Endpoint`] and reaches no other: neither a request's address nor a redirect leads it to another host. All
//! callers share its connections; each call has its own credentials, so the client keeps nothing of a Pod. Answers may be secrets: bodies
//! are gathered in memory that is wiped, and errors and logs never have a body, a header or a query.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderValue, LOCATION, PROXY_AUTHORIZATION, USER_AGENT};
use http::{Method, Request, Response, StatusCode, Uri};
use tokio::time::{Duration, Instant, sleep, timeout_at};

use crate::budget::Payer;
use crate::model::SecretBytes;

mod body;
mod certificate;
mod coding;
mod connect;
mod endpoint;
mod error;
mod files;
mod location;
mod names;
mod pace;
mod pool;
mod proxy;
mod retry;
mod tls;
mod words;

pub use certificate::{CertificateFault, CertificateProblem};
pub use coding::foreign_charset;
pub use endpoint::{Endpoint, InvalidEndpoint, escape_element, escape_path};
pub use error::HttpError;
pub use names::Names;
pub use retry::{Outcome, Repeat, TRIES, TRYING};

use error::Failed;
use pace::Pace;
use pool::Pool;
use proxy::Proxy;

/// The most redirects that are followed.
const HOPS: usize = 3;

/// How an endpoint is reached. If the endpoint is not `https`, only `max_body` and `proxy` have an effect.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct HttpConfig {
    /// PEM certificates of the CAs that Keyferry trusts for the server: a file, or a folder of `.crt`, `.pem` and `.cer` files. `None`: the
    /// system's. They are read again when they change.
    pub ca: Option<PathBuf>,
    /// The client certificate, if the server asks for one. It is read again when the files change.
    pub certificate: Option<ClientCertificate>,
    /// The folder that must contain all these files, if a class has named them. `None`: the admin has named them, and they may be anywhere.
    pub files_below: Option<PathBuf>,
    /// The largest answer in bytes.
    pub max_body: usize,
    /// Whether the environment's `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` are used. A node's own services need none.
    pub proxy: bool,
    /// The name that the server's certificate must be for. `None`: the endpoint's host.
    pub server_name: Option<String>,
    /// Whether the server must prove who it is. Without it, anybody on the way to the server can read and forge everything.
    pub verify: bool,
}

/// PEM files.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ClientCertificate {
    /// The certificate, and the certificates from it to the server's CA.
    pub chain: PathBuf,
    /// Its private key: PKCS#8, PKCS#1 or SEC 1.
    pub key: PathBuf,
}

/// A client for one endpoint. Clones share its connections.
#[derive(Clone, Debug)]
pub struct HttpClient(Arc<Shared>);

struct Shared {
    endpoint: Endpoint,
    config: HttpConfig,
    tuning: Tuning,
    /// Sent with the request if a proxy reads the request itself.
    proxy_authorization: Option<HeaderValue>,
    pool: Pool,
    pace: Pace,
}

/// Times that only tests change.
#[derive(Clone, Copy, Debug)]
struct Tuning {
    /// The first wait before a retry.
    backoff: Duration,
    /// A connection that is not made in this time, with TLS, is given up.
    connect: Duration,
    /// The least time between two looks at the files.
    files: Duration,
    /// An idle connection is closed after this time: before most servers and load balancers would drop it silently.
    idle: Duration,
    /// Between the kernel's probes of an idle connection.
    keepalive: Duration,
    /// An HTTP/2 connection with running calls is tested when it has been silent for this time...
    ping: Duration,
    /// ... and given up when it does not answer in this time. If the other end is gone silently, all calls would otherwise wait until TCP
    /// gives up, after a quarter of an hour. Both times together are less than [`TRYING`]: a retry is still in time.
    pong: Duration,
}

// === impl HttpConfig ===

impl Default for HttpConfig {
    /// The system's CAs, 4 MiB per answer (a secret of 1 MiB in base64 and JSON, with room), and the environment's proxies.
    fn default() -> Self {
        Self { ca: None, certificate: None, files_below: None, max_body: 4 * 1024 * 1024, proxy: true, server_name: None, verify: true }
    }
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            backoff: Duration::from_millis(250),
            connect: Duration::from_secs(5),
            files: Duration::from_secs(1),
            idle: Duration::from_secs(50),
            keepalive: Duration::from_secs(15),
            ping: Duration::from_secs(1),
            pong: Duration::from_secs(3),
        }
    }
}

// === impl HttpClient ===

impl HttpClient {
    /// Nothing is connected before the first call. It may be made inside or outside of a runtime, and is used inside. Reads files on the
    /// caller's thread.
    ///
    /// # Errors
    /// A file cannot be read or used, no certificate can have the server name, or the environment names a proxy for this endpoint that
    /// cannot be used.
    pub fn new(endpoint: Endpoint, config: HttpConfig) -> Result<Self, HttpError> {
        Self::with_names(endpoint, config, Names::default())
    }

    /// As [`HttpClient::new`], with threads for name look-ups that it shares with other clients.
    ///
    /// # Errors
    /// As for [`HttpClient::new`].
    pub fn with_names(endpoint: Endpoint, config: HttpConfig, names: Names) -> Result<Self, HttpError> {
        Self::tuned(endpoint, config, names, Tuning::default(), |name| std::env::var(name).ok())
    }

    fn tuned(
        endpoint: Endpoint,
        config: HttpConfig,
        names: Names,
        tuning: Tuning,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, HttpError> {
        let proxy = if config.proxy { Proxy::of(&endpoint, variable)? } else { None };
        let read_by_proxy = proxy.as_ref().filter(|_| !endpoint.is_https());
        let proxy_authorization = read_by_proxy.and_then(Proxy::authorization).cloned();
        let pool = Pool::new(endpoint.clone(), config.clone(), names, proxy, tuning)?;
        if endpoint.is_https() && !config.verify {
            tracing::warn!(%endpoint, "the server's certificate is not verified: anybody on the way to the server can read and forge secrets");
        }
        Ok(Self(Arc::new(Shared { endpoint, config, tuning, proxy_authorization, pool, pace: Pace::new() })))
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    pub fn config(&self) -> &HttpConfig {
        &self.0.config
    }

    /// The memory that it takes, in bytes: an estimate, rather too large.
    pub fn weight(&self) -> usize {
        self.0.pool.weight()
    }

    /// For readiness: whether the files (`ca`, the client certificate) can be used as they are now. If they cannot, the last ones stay in
    /// force for a moment; after that no call is made.
    ///
    /// # Errors
    /// What is wrong with them.
    pub async fn check_files(&self) -> Result<(), HttpError> {
        self.0.pool.check_files().await
    }

    /// Sends a request once and reads its whole answer, whatever its status. With a [`Payer`] in the request's extensions, each part of the
    /// answer is paid when it comes, and until the answer's own extensions are dropped. The request's address is a path (with a query)
    /// below the endpoint, or an absolute address of the endpoint's own origin. A redirect of a GET to the same origin is followed, three
    /// times at most.
    ///
    /// # Errors
    /// No connection, no answer before the deadline, an answer that is too large or encoded, or a redirect that is not followed.
    pub async fn send(&self, request: Request<Bytes>, deadline: Instant) -> Result<Response<SecretBytes>, HttpError> {
        let request = self.prepared(request)?;
        self.try_once(request, deadline).await.map_err(|failed| failed.error).and_then(coding::plain)
    }

    /// As [`HttpClient::send`], and again after a failure that may pass: at most [`TRIES`] times. No try begins later than [`TRYING`] after
    /// the first. The waits grow and are jittered. Failures that may pass: no connection, a broken one, 412, 429, and 5xx except 501.
    /// Keyferry obeys `Retry-After` of a 429 or 503 if it is not too late. A request with [`Repeat::Never`] is tried again only if the
    /// server has seen nothing. After a 429, requests leave one by one, and the tenants that pay for them take turns.
    pub async fn call(&self, request: Request<Bytes>, repeat: Repeat, deadline: Instant) -> Outcome {
        let request = match self.prepared(request) {
            Ok(request) => request,
            Err(error) => return Outcome { answer: Err(error), tries: 1, retry_after: None },
        };
        let tenant = request.extensions().get::<Payer>().map(|payer| payer.purse().tenant().clone());
        let (began, mut tries) = (Instant::now(), 1);
        loop {
            self.0.pace.wait(tenant.as_ref(), deadline).await;
            let came = self.try_once(request.clone(), deadline).await;
            self.learn(&came);
            let wait = retry::wait(repeat, self.0.tuning.backoff, tries, &came);
            let Some(wait) = wait.filter(|wait| retry::is_in_time(*wait, began, deadline)) else {
                let retry_after = came.as_ref().ok().and_then(retry::asked_for);
                return Outcome { answer: came.map_err(|failed| failed.error).and_then(coding::plain), tries, retry_after };
            };
            sleep(wait).await;
            tries += 1;
        }
    }

    /// Learns from an answer how fast Keyferry may ask this store.
    fn learn(&self, came: &Result<Response<SecretBytes>, Failed>) {
        match came {
            Ok(answer) if answer.status() == StatusCode::TOO_MANY_REQUESTS => {
                if let Some(rate) = self.0.pace.refused(retry::asked_for(answer)) {
                    let store = &self.0.endpoint;
                    tracing::warn!(%store, "the store answers 429 (too many requests): Keyferry asks it at most {rate:.0} times per second for now");
                }
            }
            Ok(_) => self.0.pace.answered(),
            Err(_) => {}
        }
    }

    /// A request with the endpoint's whole address, Keyferry's name, and a header that asks for an unencoded body.
    fn prepared(&self, mut request: Request<Bytes>) -> Result<Request<Bytes>, HttpError> {
        let uri = request.uri();
        if uri.authority().is_none() {
            *request.uri_mut() = self.0.endpoint.uri(uri.path_and_query().map_or("/", |path| path.as_str()))?;
        } else if !self.0.endpoint.is_origin_of(uri) {
            return Err(HttpError::Request(format!("its address is not below {}", self.0.endpoint)));
        }
        let agent = HeaderValue::from_static(concat!("keyferry/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().entry(USER_AGENT).or_insert(agent);
        coding::ask_for_none(&mut request);
        if let Some(authorization) = &self.0.proxy_authorization {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }

    async fn try_once(&self, request: Request<Bytes>, deadline: Instant) -> Result<Response<SecretBytes>, Failed> {
        timeout_at(deadline, self.follow(request)).await.unwrap_or_else(|_| Err(Failed::seen(HttpError::TimedOut)))
    }

    async fn follow(&self, mut request: Request<Bytes>) -> Result<Response<SecretBytes>, Failed> {
        for _ in 0..=HOPS {
            let next = request.clone();
            let answer = self.exchange(request).await?;
            let Some(to) = self.redirect(next.method(), next.uri(), &answer).map_err(Failed::seen)? else { return Ok(answer) };
            request = next;
            *request.uri_mut() = to;
        }
        Err(Failed::seen(HttpError::Redirect { to: self.0.endpoint.to_string(), why: "it has redirected three times already" }))
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<SecretBytes>, Failed> {
        let payer = request.extensions().get::<Payer>().cloned();
        let (mut head, body) = self.0.pool.send(request).await?.into_parts();
        let (body, cost) = body::gather(body, self.0.config.max_body, payer).await.map_err(Failed::seen)?;
        if let Some(cost) = cost {
            head.extensions.insert(Arc::new(cost));
        }
        Ok(Response::from_parts(head, body))
    }

    /// Where an answer redirects us, if it does. Never to another host: the request has credentials.
    fn redirect(&self, method: &Method, from: &Uri, answer: &Response<SecretBytes>) -> Result<Option<Uri>, HttpError> {
        let Some(location) = answer.headers().get(LOCATION).filter(|_| matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308))
        else {
            return Ok(None);
        };
        let unreadable =
            || HttpError::Redirect { to: "an address that cannot be read".to_owned(), why: "check which server answers there" };
        let to = location::resolved(from, location).ok_or_else(unreadable)?;
        if !self.0.endpoint.is_origin_of(&to) {
            let other = Endpoint::of(&to).map_err(|_| unreadable())?;
            return Err(HttpError::Redirect {
                to: other.to_string(),
                why: "it is another host; configure the address that answers without a redirect",
            });
        }
        if method != Method::GET {
            let to = self.0.endpoint.to_string();
            return Err(HttpError::Redirect {
                to,
                why: "only a redirect of a GET is followed; configure the address that answers without a redirect",
            });
        }
        Ok(Some(to))
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").field("endpoint", &self.endpoint).field("config", &self.config).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests;
