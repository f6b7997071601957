//! The one HTTP client: hyper and rustls, with a deadline and a size bound on every call.
//!
//! A client is made for one endpoint, with that endpoint's CA; each call carries its own credentials, so nothing of a Pod's stays in
//! the client. Answers may be secrets: bodies are gathered in memory that is wiped.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::time::{Duration, Instant, timeout_at};
use zeroize::Zeroizing;

use crate::model::SecretBytes;

/// An idle connection is closed after this time: before most servers and balancers would drop it in silence.
const IDLE: Duration = Duration::from_secs(50);

/// A connection that is not made in this time will not be.
const CONNECT: Duration = Duration::from_secs(5);

/// How often an HTTP/2 connection with calls on it is tried, and how long it may take to answer: one whose other end is gone without a
/// word would otherwise take every call down with it until TCP gives up, after a quarter of an hour.
const PING: Duration = Duration::from_secs(5);

/// How an endpoint is reached.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HttpConfig {
    /// PEM certificates that the server's must lead to: a file, or a folder of `.crt` and `.pem` files. `None`: the system's.
    pub ca: Option<PathBuf>,
    /// The largest answer in bytes.
    pub max_body: usize,
}

/// A client for one endpoint. Clones share its connections.
#[derive(Clone, Debug)]
pub struct HttpClient(Arc<Shared>);

struct Shared {
    config: HttpConfig,
    current: Mutex<Current>,
}

/// The hyper client in force, and the CA files it was made from.
#[derive(Clone)]
struct Current {
    client: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    ca: Vec<FileIdentity>,
}

/// Changes whenever a file does: Kubernetes swaps a link, others write in place.
type FileIdentity = (PathBuf, u64, u64, i64, i64, u64);

/// Why a call failed before an answer was there, or while it was read. No variant holds a body or a header.
#[derive(Debug, Error)]
pub enum HttpError {
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("the CA cannot be read: {path}: {problem} (name PEM certificates; kubelet mounts them from a ConfigMap or Secret)")]
    Ca { path: PathBuf, problem: String },
    #[error("no connection: {0}")]
    Connect(String),
    #[error("no answer in time")]
    TimedOut,
    /// Somebody answered, but not with a certificate that leads to the CA, or no secure connection came about for another reason.
    #[error("no connection: {0}")]
    Tls(String),
    #[error("the answer is larger than {limit} bytes")]
    TooLarge { limit: usize },
}

// === impl HttpClient ===

impl HttpClient {
    /// # Errors
    /// The CA cannot be read, or holds no certificate.
    pub fn new(config: HttpConfig) -> Result<Self, HttpError> {
        let current = Mutex::new(Current::of(&config)?);
        Ok(Self(Arc::new(Shared { config, current })))
    }

    /// Sends a request and reads its whole answer, whatever its status. Nothing is tried twice and no redirect is followed.
    ///
    /// # Errors
    /// No connection, no answer by the deadline, or an answer over the size bound.
    pub async fn send(&self, request: Request<Bytes>, deadline: Instant) -> Result<Response<SecretBytes>, HttpError> {
        let client = self.client();
        let limit = self.0.config.max_body;
        let call = async move {
            let answer = client.request(request.map(Full::new)).await.map_err(|error| HttpError::of_client(&error))?;
            let (head, body) = answer.into_parts();
            Ok(Response::from_parts(head, gather(body, limit).await?))
        };
        timeout_at(deadline, call).await.unwrap_or(Err(HttpError::TimedOut))
    }

    /// The client in force; made anew when the CA's files have changed. Faulty new files leave the old ones in force.
    fn client(&self) -> legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>> {
        let mut current = self.0.current.lock().unwrap_or_else(PoisonError::into_inner);
        if self.0.config.ca.is_some() && ca_files(&self.0.config).is_ok_and(|files| files != current.ca) {
            match Current::of(&self.0.config) {
                Ok(renewed) => *current = renewed,
                Err(error) => tracing::warn!(%error, "a changed CA cannot be used; the former one stays in force"),
            }
        }
        current.client.clone()
    }
}

async fn gather(mut body: Incoming, limit: usize) -> Result<SecretBytes, HttpError> {
    let too_large = || HttpError::TooLarge { limit };
    let announced = usize::try_from(body.size_hint().lower()).map_err(|_| too_large())?;
    if announced > limit {
        return Err(too_large());
    }
    // Room for all that is announced: a buffer that grows leaves copies behind.
    let mut gathered = Zeroizing::new(Vec::with_capacity(announced));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| HttpError::Broken(chain(&error)))?;
        let Some(data) = frame.data_ref() else { continue };
        if gathered.len() + data.len() > limit {
            return Err(too_large());
        }
        if gathered.len() + data.len() > gathered.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity((2 * gathered.capacity()).max(gathered.len() + data.len())));
            larger.extend_from_slice(&gathered);
            gathered = larger;
        }
        gathered.extend_from_slice(data);
    }
    Ok(SecretBytes::from(gathered))
}

// === impl Current ===

impl Current {
    fn of(config: &HttpConfig) -> Result<Self, HttpError> {
        let ca = ca_files(config)?;
        let roots = match &config.ca {
            Some(path) => roots_of(path, &ca)?,
            None => system_roots(),
        };
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| HttpError::Connect(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_nodelay(true);
        let connector =
            hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_all_versions().wrap_connector(tcp);
        let client = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(PING)
            .build(connector);
        Ok(Self { client, ca })
    }
}

fn ca_files(config: &HttpConfig) -> Result<Vec<FileIdentity>, HttpError> {
    let Some(path) = &config.ca else { return Ok(Vec::new()) };
    let fault = |error: io::Error| HttpError::Ca { path: path.clone(), problem: error.to_string() };
    let mut files = vec![path.clone()];
    if fs::metadata(path).map_err(fault)?.is_dir() {
        let entries = fs::read_dir(path).map_err(fault)?;
        files = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|file| is_certificate(file)).collect();
        files.sort();
    }
    files
        .into_iter()
        .map(|file| file_identity(&file).map(|identity| (file, identity.0, identity.1, identity.2, identity.3, identity.4)).map_err(fault))
        .collect()
}

fn is_certificate(file: &Path) -> bool {
    file.is_file() && file.extension().is_some_and(|kind| kind == "crt" || kind == "pem")
}

fn file_identity(file: &Path) -> io::Result<(u64, u64, i64, i64, u64)> {
    let found = fs::metadata(file)?;
    Ok((found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.len()))
}

fn roots_of(path: &Path, files: &[FileIdentity]) -> Result<RootCertStore, HttpError> {
    let fault = |problem: String| HttpError::Ca { path: path.to_owned(), problem };
    let mut roots = RootCertStore::empty();
    for (file, ..) in files {
        for certificate in CertificateDer::pem_file_iter(file).map_err(|error| fault(error.to_string()))? {
            let certificate = certificate.map_err(|error| fault(format!("not a PEM certificate: {error}")))?;
            roots.add(certificate).map_err(|error| fault(format!("not a usable certificate: {error}")))?;
        }
    }
    if roots.is_empty() { Err(fault("holds no certificate".to_owned())) } else { Ok(roots) }
}

/// What the system trusts; a machine without a bundle (an empty image) trusts nobody, and the connection's error says so.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    roots
}

// === impl HttpError ===

impl HttpError {
    fn of_client(error: &legacy::Error) -> Self {
        let words = chain(error);
        match error.is_connect() {
            true if is_of_tls(error) => Self::Tls(words),
            true => Self::Connect(words),
            false => Self::Broken(words),
        }
    }
}

/// Whether TLS is what failed. An [`io::Error`] passes over the error it wraps when it is asked for its source.
fn is_of_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref).map(|inner| inner as &(dyn std::error::Error + 'static));
    error.is::<rustls::Error>() || wrapped.or_else(|| error.source()).is_some_and(is_of_tls)
}

/// An error and its causes, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !words.contains(&text) {
            words = format!("{words}: {text}");
        }
        cause = inner.source();
    }
    words
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").field("config", &self.config).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
