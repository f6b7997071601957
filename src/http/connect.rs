//! A new connection to an endpoint: TCP (the name is looked up again each time), through a proxy where there is one, and TLS; or a Unix
//! socket.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Duration, timeout};
use tokio_rustls::TlsConnector;
use tower::Service;

use super::error::chain;
use super::proxy::Proxy;
use super::{Endpoint, HttpError, Names, Tuning};

/// Connects to one endpoint, whatever address it is asked for. Clones share what they have learned about it.
#[derive(Clone)]
pub(super) struct Connector(Arc<Route>);

/// The way to an endpoint.
struct Route {
    endpoint: Endpoint,
    proxy: Option<Proxy>,
    tcp: HttpConnector<Names>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    limit: Duration,
    seen: Arc<Seen>,
}

/// What Keyferry knows about the endpoint's protocol.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Whether the last connection uses HTTP/1.1: there each call needs its own connection.
    is_http1: AtomicBool,
    /// HTTP/2 connections that are open.
    open: AtomicUsize,
}

/// A connection.
pub(super) struct Stream {
    io: TokioIo<Box<dyn Io>>,
    is_proxied: bool,
    counted: Option<Counted>,
}

/// An HTTP/2 connection, open until this is dropped.
struct Counted(Arc<Seen>);

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

// === impl Connector ===

impl Connector {
    pub(super) fn new(
        endpoint: Endpoint,
        names: Names,
        proxy: Option<Proxy>,
        tls: Option<(TlsConnector, ServerName<'static>)>,
        tuning: &Tuning,
        seen: Arc<Seen>,
    ) -> Self {
        if tls.is_none() {
            seen.is_http1.store(true, Ordering::Relaxed);
        }
        let mut tcp = HttpConnector::new_with_resolver(names);
        tcp.enforce_http(false);
        // The time is divided among the addresses of a name: one dead address leaves time for the next.
        tcp.set_connect_timeout(Some(tuning.connect));
        tcp.set_nodelay(true);
        // The kernel notices a peer that is gone silently: on an idle connection, and on one where a request was written.
        tcp.set_keepalive(Some(tuning.keepalive));
        tcp.set_keepalive_interval(Some(tuning.keepalive));
        tcp.set_keepalive_retries(Some(2));
        tcp.set_tcp_user_timeout(Some(tuning.ping + tuning.pong));
        Self(Arc::new(Route { endpoint, proxy, tcp, tls, limit: tuning.connect, seen }))
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, HttpError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), HttpError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let route = Arc::clone(&self.0);
        Box::pin(async move {
            let late = || HttpError::Connect(format!("none could be made in {} s", route.limit.as_secs_f32()));
            timeout(route.limit, route.dial()).await.unwrap_or_else(|_| Err(late()))
        })
    }
}

impl Route {
    async fn dial(&self) -> Result<Stream, HttpError> {
        if let Some(path) = self.endpoint.socket() {
            let fault = |error: io::Error| HttpError::Connect(format!("{}: {error}", path.display()));
            return Ok(Stream::new(UnixStream::connect(path).await.map_err(fault)?));
        }
        match (&self.tls, &self.proxy) {
            (Some((tls, name)), _) => self.secure(self.reach().await?, tls, name).await,
            // The proxy reads the plain request and passes it on.
            (None, Some(proxy)) => Ok(Stream { is_proxied: true, ..Stream::new(self.tcp_to_proxy(proxy).await?) }),
            (None, None) => Ok(Stream::new(self.reach().await?)),
        }
    }

    /// TCP to the server itself.
    async fn reach(&self) -> Result<TcpStream, HttpError> {
        match &self.proxy {
            Some(proxy) => proxy.tunnel(self.tcp_to_proxy(proxy).await?, &self.endpoint.authority()).await,
            None => self.tcp_to(self.endpoint.uri("/")?).await.map_err(HttpError::Connect),
        }
    }

    async fn tcp_to_proxy(&self, proxy: &Proxy) -> Result<TcpStream, HttpError> {
        self.tcp_to(proxy.uri()?).await.map_err(|problem| HttpError::Connect(proxy.told(&problem)))
    }

    async fn tcp_to(&self, uri: Uri) -> Result<TcpStream, String> {
        self.tcp.clone().call(uri).await.map(TokioIo::into_inner).map_err(|error| chain(&error))
    }

    async fn secure(&self, tcp: TcpStream, tls: &TlsConnector, name: &ServerName<'static>) -> Result<Stream, HttpError> {
        let secured = tls.connect(name.clone(), tcp).await.map_err(|error| HttpError::of_handshake(&error))?;
        let is_http2 = secured.get_ref().1.alpn_protocol() == Some(b"h2");
        self.seen.is_http1.store(!is_http2, Ordering::Relaxed);
        Ok(Stream { counted: is_http2.then(|| Counted::new(&self.seen)), ..Stream::new(secured) })
    }
}

// === impl Seen ===

impl Seen {
    /// Whether a call should wait for another one that makes a connection for both.
    pub(super) fn is_cold(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0 && !self.is_http1.load(Ordering::Relaxed)
    }
}

impl Counted {
    fn new(seen: &Arc<Seen>) -> Self {
        seen.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(seen))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Stream ===

impl Stream {
    fn new(io: impl Io + 'static) -> Self {
        Self { io: TokioIo::new(Box::new(io)), is_proxied: false, counted: None }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let connected = Connected::new().proxy(self.is_proxied);
        if self.counted.is_some() { connected.negotiated_h2() } else { connected }
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }
}
