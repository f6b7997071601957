//! The HTTP endpoint for probes and Prometheus: `/metrics`, `/livez`, `/readyz`, `/statusz`.

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
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Duration, sleep};

use super::Metrics;

/// A client has this long to send its request's head.
const TO_SEND: Duration = Duration::from_secs(5);

/// It has this long to read the answer, once there is one.
const TO_READ: Duration = Duration::from_secs(5);

/// What a connection may last, the making of the answer included.
const WHOLE: Duration = Duration::from_secs(20);

/// The largest head of a request in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Connections served at once; one more, and the oldest is closed. A client that reads needs milliseconds.
const MAX_CONNECTIONS: usize = 64;

/// What the endpoint reports of the daemon.
#[async_trait]
pub trait Status: Debug + Send + Sync {
    /// Whether a mount could be served now; if not, a line for each reason.
    async fn ready(&self) -> Result<(), Vec<String>>;

    /// Sets what is measured when somebody looks.
    fn measure(&self) {}

    /// The daemon's state for a person, as JSON.
    async fn status(&self) -> serde_json::Value;
}

/// The endpoint, bound and not yet serving.
#[derive(Debug)]
pub struct Endpoint(TcpListener);

impl Endpoint {
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self(TcpListener::bind(address).await?))
    }

    /// The address in force: with port 0, the one the kernel chose.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Serves until the future is dropped.
    pub async fn serve(self, metrics: Arc<Metrics>, status: Arc<dyn Status>) -> Infallible {
        let mut connections: VecDeque<AbortHandle> = VecDeque::new();
        loop {
            let accepted = self.0.accept().await;
            connections.retain(|connection| !connection.is_finished());
            match accepted {
                Ok((stream, _)) => {
                    if connections.len() >= MAX_CONNECTIONS {
                        connections.pop_front().iter().for_each(AbortHandle::abort);
                    }
                    let connection = converse(stream, Arc::clone(&metrics), Arc::clone(&status));
                    connections.push_back(tokio::spawn(connection).abort_handle());
                }
                Err(error) => {
                    tracing::warn!(%error, "the metrics endpoint could not accept a connection");
                    connections.pop_front().iter().for_each(AbortHandle::abort);
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// One request and its answer. Connections are not kept: each has one time for all it does.
async fn converse(stream: TcpStream, metrics: Arc<Metrics>, status: Arc<dyn Status>) {
    let answered = Arc::new(Notify::new());
    let service = service_fn(|request| {
        let (metrics, status, answered) = (Arc::clone(&metrics), Arc::clone(&status), Arc::clone(&answered));
        async move {
            let answer = answer(&request, &metrics, &*status).await;
            answered.notify_one();
            Ok::<_, Infallible>(answer)
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(TO_SEND).max_buf_size(MAX_HEAD).keep_alive(false);
    let unread = async {
        answered.notified().await;
        sleep(TO_READ).await;
    };
    // A client that breaks off is its own affair.
    tokio::select! {
        _ = builder.serve_connection(TokioIo::new(stream), service) => {}
        () = unread => {}
        () = sleep(WHOLE) => {}
    }
}

async fn answer(request: &Request<Incoming>, metrics: &Metrics, status: &dyn Status) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
    }
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/metrics" => {
            status.measure();
            respond(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", metrics.encode())
        }
        "/readyz" => match status.ready().await {
            Ok(()) => text(StatusCode::OK, "ok\n"),
            Err(reasons) => text(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
        },
        "/statusz" => respond(StatusCode::OK, "application/json", format!("{:#}\n", status.status().await)),
        _ => text(StatusCode::NOT_FOUND, "not found (there are /metrics, /livez, /readyz and /statusz)\n"),
    }
}

fn text(code: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    respond(code, "text/plain; charset=utf-8", body)
}

fn respond(code: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
