//! The HTTP endpoint for probes and Prometheus: `/metrics`, `/livez`, `/readyz`, `/statusz`.

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
use tokio::sync::Semaphore;
use tokio::time::Duration;

use super::Metrics;

/// A client has this long to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections served at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;

/// What the endpoint reports of the daemon.
#[async_trait]
pub trait Status: Debug + Send + Sync {
    /// Whether a mount could be served now; if not, a line for each reason.
    async fn ready(&self) -> Result<(), Vec<String>>;

    /// The daemon's state for a person, as JSON.
    async fn status(&self) -> serde_json::Value;
}

/// The endpoint, bound and not yet serving.
#[derive(Debug)]
pub struct Endpoint {
    listener: TcpListener,
    metrics: Arc<Metrics>,
    status: Arc<dyn Status>,
}

impl Endpoint {
    pub async fn bind(address: SocketAddr, metrics: Arc<Metrics>, status: Arc<dyn Status>) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await?, metrics, status })
    }

    /// The address in force: with port 0, the one the kernel chose.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the future is dropped.
    pub async fn serve(self) -> Infallible {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let place = Arc::clone(&places).acquire_owned().await;
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let connection = converse(stream, Arc::clone(&self.metrics), Arc::clone(&self.status));
                    tokio::spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the metrics endpoint could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn converse(stream: TcpStream, metrics: Arc<Metrics>, status: Arc<dyn Status>) {
    let service = service_fn(move |request| {
        let (metrics, status) = (Arc::clone(&metrics), Arc::clone(&status));
        async move { Ok::<_, Infallible>(answer(&request, &metrics, &*status).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).keep_alive(true);
    // A client that breaks off is its own affair.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: &Request<Incoming>, metrics: &Metrics, status: &dyn Status) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
    }
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/metrics" => respond(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", metrics.encode()),
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
