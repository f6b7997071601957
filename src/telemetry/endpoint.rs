//! Small HTTP endpoints: the one for probes and Prometheus (`/metrics`, `/livez`, `/readyz`, `/statusz`), and other pages at a port or a
//! Unix socket. A client cannot block anything for long: connections are few, and each has one request and one time limit for everything.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Duration, sleep};

use super::Metrics;

/// A client must send its request's head within this time.
const TO_SEND: Duration = Duration::from_secs(5);

/// It must read the answer within this time, once there is one.
const TO_READ: Duration = Duration::from_secs(5);

/// How long a connection may last, with the time to make the answer.
const WHOLE: Duration = Duration::from_secs(20);

/// The largest head of a request in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Connections to a port that are served at once; if there is one more, the oldest is closed. A client that reads needs milliseconds.
const MAX_CONNECTIONS: usize = 64;

/// The same at a Unix socket: only people ask there, and an answer may be long.
const MAX_PEOPLE: usize = 8;

/// What the endpoint reports about the daemon.
#[async_trait]
pub trait Status: Debug + Send + Sync {
    /// Whether a mount could be served now; if not, a line for each reason.
    async fn ready(&self) -> Result<(), Vec<String>>;

    /// Sets the gauges that are measured only at a request.
    fn measure(&self) {}

    /// The daemon's state for a person, as JSON.
    async fn status(&self) -> serde_json::Value;
}

/// The pages for GET.
#[async_trait]
pub trait Pages: Debug + Send + Sync {
    async fn page(&self, path: &str) -> Page;

    /// Why this user may not ask, if that is so. Over a network the user is not known.
    fn refusal(&self, _uid: u32) -> Option<String> {
        None
    }
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Page {
    code: StatusCode,
    kind: &'static str,
    body: Bytes,
}

/// The pages for probes and Prometheus.
#[derive(Debug)]
pub struct Probes {
    pub metrics: Arc<Metrics>,
    pub status: Arc<dyn Status>,
}

/// An endpoint, bound and not yet serving.
#[derive(Debug)]
pub struct Endpoint(Listener);

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection of either kind.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

// === impl Page ===

impl Page {
    pub fn json(document: &serde_json::Value) -> Self {
        Self { code: StatusCode::OK, kind: "application/json", body: format!("{document:#}\n").into() }
    }

    pub fn text(code: StatusCode, body: impl Into<Bytes>) -> Self {
        Self { code, kind: "text/plain; charset=utf-8", body: body.into() }
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.code;
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(self.kind));
        response
    }
}

#[async_trait]
impl Pages for Probes {
    async fn page(&self, path: &str) -> Page {
        match path {
            "/livez" => Page::text(StatusCode::OK, "ok\n"),
            "/metrics" => {
                self.status.measure();
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                Page { code: StatusCode::OK, kind, body: self.metrics.encode().into() }
            }
            "/readyz" => match self.status.ready().await {
                Ok(()) => Page::text(StatusCode::OK, "ok\n"),
                Err(reasons) => Page::text(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
            },
            "/statusz" => Page::json(&self.status.status().await),
            _ => Page::text(StatusCode::NOT_FOUND, "not found (there are /metrics, /livez, /readyz and /statusz)\n"),
        }
    }
}

// === impl Endpoint ===

impl Endpoint {
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self(Listener::Tcp(TcpListener::bind(address).await?)))
    }

    /// At a Unix socket that is already bound.
    pub fn at(socket: UnixListener) -> Self {
        Self(Listener::Unix(socket))
    }

    /// The address in force: with port 0, the one the kernel chose. `None` at a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.0 {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(_) => None,
        }
    }

    /// Serves until the future is dropped.
    pub async fn serve(self, pages: Arc<dyn Pages>) -> Infallible {
        let most = match &self.0 {
            Listener::Tcp(_) => MAX_CONNECTIONS,
            Listener::Unix(_) => MAX_PEOPLE,
        };
        let mut connections = Connections(VecDeque::new());
        loop {
            let accepted = self.0.accept(&*pages).await;
            connections.0.retain(|connection| !connection.is_finished());
            match accepted {
                Ok((stream, refusal)) => {
                    if connections.0.len() >= most {
                        connections.0.pop_front().iter().for_each(AbortHandle::abort);
                    }
                    let connection = converse(stream, refusal, Arc::clone(&pages));
                    connections.0.push_back(tokio::spawn(connection).abort_handle());
                }
                Err(error) => {
                    tracing::warn!(%error, "an endpoint could not accept a connection");
                    connections.0.pop_front().iter().for_each(AbortHandle::abort);
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// The connections that are served now. They end with the endpoint.
struct Connections(VecDeque<AbortHandle>);

impl Drop for Connections {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

impl Listener {
    /// A connection, and why its user may not ask, if that is so.
    async fn accept(&self, pages: &dyn Pages) -> io::Result<(Box<dyn Stream>, Option<String>)> {
        match self {
            Self::Tcp(listener) => Ok((Box::new(listener.accept().await?.0), None)),
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let refusal = match stream.peer_cred() {
                    Ok(peer) => pages.refusal(peer.uid()),
                    Err(error) => Some(format!("your user id cannot be read: {error}")),
                };
                Ok((Box::new(stream), refusal))
            }
        }
    }
}

/// One request and its answer. Connections are not reused: each has one time limit for everything.
async fn converse(stream: Box<dyn Stream>, refusal: Option<String>, pages: Arc<dyn Pages>) {
    let answered = Arc::new(Notify::new());
    let service = service_fn(|request| {
        let (refusal, pages, answered) = (refusal.clone(), Arc::clone(&pages), Arc::clone(&answered));
        async move {
            let page = answer(&request, refusal, &*pages).await;
            answered.notify_one();
            Ok::<_, Infallible>(page.into_response())
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(TO_SEND).max_buf_size(MAX_HEAD).keep_alive(false);
    let unread = async {
        answered.notified().await;
        sleep(TO_READ).await;
    };
    // If a client breaks off, that is not the daemon's problem.
    tokio::select! {
        _ = builder.serve_connection(TokioIo::new(stream), service) => {}
        () = unread => {}
        () = sleep(WHOLE) => {}
    }
}

async fn answer(request: &Request<Incoming>, refusal: Option<String>, pages: &dyn Pages) -> Page {
    match refusal {
        Some(refusal) => Page::text(StatusCode::FORBIDDEN, refusal + "\n"),
        None if request.method() != Method::GET => Page::text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n"),
        None => pages.page(request.uri().path()).await,
    }
}
