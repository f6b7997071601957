//! gRPC on Unix sockets.
//!
//! The service runs on hyper itself, not on tonic's transport: that answers CANCELLED when a call's `grpc-timeout` is over, and
//! CANCELLED is one of the codes a mount must never be answered with (`status.rs`). Here every answer is ours.

use std::convert::Infallible;
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use bytes::Bytes;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::{Duration, Instant, sleep, timeout, timeout_at};
use tonic::body::Body;
use tonic::{Request, Response, Status};
use tower::Service;

use crate::delivery::Delivery;
use crate::model::{Code, MountCall, RequestId, SecretBytes};
use crate::pipeline::{MountContext, Pipeline};
use crate::telemetry::Metrics;
use authority::RepairAuthority;
use proto::csi_driver_provider_server::{CsiDriverProvider, CsiDriverProviderServer};
use seats::{Busy, Seat, Seats};

pub mod authority;
pub mod proto;
mod seats;
pub mod socket;
pub mod status;

pub use socket::{BoundSocket, SocketConfig, SocketError};

/// The contract that driver and provider both speak, asked and answered in `Version`.
pub const CONTRACT: &str = "v1alpha1";

/// What every process of another user namespace looks like.
const OVERFLOW_UID: u32 = 65534;

/// The largest request in bytes; its parts have lower limits of their own, with messages that name them.
const MAX_REQUEST: usize = 8 * 1024 * 1024;

/// Calls in flight on one connection; a client with more waits.
const MAX_STREAMS: u32 = 2048;

/// Connections served at once over all sockets; one more, and the idlest is closed. The driver keeps one.
const MAX_CONNECTIONS: usize = 256;

/// Calls in flight over all connections; more wait.
const MAX_CALLS: u32 = 16_384;

/// When no call is left, a connection has this long to hear that we go. A client that does not listen is not waited for.
const FAREWELL: Duration = Duration::from_secs(1);

/// The gRPC server: what is the same for all sockets.
#[derive(Clone, Debug)]
pub struct Server {
    /// The pipeline in force; a reload puts another in its place.
    pub pipeline: Arc<ArcSwap<Pipeline>>,
    pub metrics: Arc<Metrics>,
    pub allowed_peers: Arc<[u32]>,
    /// The longest a mount may take.
    pub timeout: Duration,
}

/// One connection, being served.
type Connection =
    http2::Connection<TokioIo<RepairAuthority<UnixStream>>, TowerToHyperService<Timed<CsiDriverProviderServer<Provider>>>, TokioExecutor>;

/// What all connections share.
#[derive(Clone)]
struct Shared {
    graceful: Arc<GracefulShutdown>,
    seats: Arc<Seats>,
    calls: Arc<Semaphore>,
}

/// The two calls, for one socket.
#[derive(Clone, Debug)]
struct Provider {
    pipeline: Arc<ArcSwap<Pipeline>>,
    name: Arc<str>,
}

/// Gives every call its time, and answers in its place when that is over.
#[derive(Clone, Debug)]
struct Timed<S> {
    inner: S,
    name: Arc<str>,
    longest: Duration,
    /// A place a call: how many are left tells whether any runs.
    calls: Arc<Semaphore>,
    /// Set where the peer may not connect at all: every call is answered with this.
    refusal: Option<Arc<str>>,
    /// The connection's own.
    seat: Arc<Seat>,
}

/// A mount's contents as they go on the wire: the shared bytes themselves, not a copy.
struct Contents(Arc<SecretBytes>);

// === impl Server ===

impl Server {
    /// Serves the sockets until `stop` resolves; then takes them away, lets what runs finish for up to `drain`, and returns whether all did.
    pub async fn serve(self, sockets: Vec<BoundSocket>, stop: impl Future<Output = ()>, drain: Duration) -> bool {
        let shared = Shared {
            graceful: Arc::new(GracefulShutdown::new()),
            seats: Arc::new(Seats::new(MAX_CONNECTIONS)),
            calls: Arc::new(Semaphore::new(MAX_CALLS as usize)),
        };
        let mut listeners = tokio::task::JoinSet::new();
        for socket in sockets {
            listeners.spawn(self.clone().listen(socket, shared.clone()));
        }
        stop.await;
        // Ends the listeners and with them the sockets: a successor may bind while we drain.
        listeners.shutdown().await;
        let Shared { graceful, seats: _, calls } = shared;
        let Some(graceful) = Arc::into_inner(graceful) else { return false };
        let farewell = graceful.shutdown();
        tokio::pin!(farewell);
        tokio::select! {
            () = &mut farewell => true,
            _ = calls.acquire_many(MAX_CALLS) => {
                let _ = timeout(FAREWELL, farewell).await;
                true
            }
            () = sleep(drain) => false,
        }
    }

    async fn listen(self, socket: BoundSocket, shared: Shared) {
        let name: Arc<str> = socket.provider.as_str().into();
        loop {
            let stream = match socket.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, socket = %socket.path().display(), "a connection could not be accepted");
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let taken = shared.seats.take().await;
            let connection = shared.graceful.watch(self.connection(stream, &name, &shared.calls, &taken.seat));
            tokio::spawn(async move {
                tokio::select! {
                    ended = connection => if let Err(error) = ended {
                        tracing::debug!(%error, "a connection ended with an error");
                    },
                    () = taken.seat.asked_to_leave() => {
                        tracing::info!("too many connections: one that was idle was closed, to make room for another");
                    }
                }
            });
        }
    }

    fn connection(&self, stream: UnixStream, name: &Arc<str>, calls: &Arc<Semaphore>, seat: &Arc<Seat>) -> Connection {
        let refusal = self.refusal(&stream);
        let provider = Provider { pipeline: Arc::clone(&self.pipeline), name: Arc::clone(name) };
        let inner = CsiDriverProviderServer::new(provider).max_decoding_message_size(MAX_REQUEST);
        let service =
            Timed { inner, name: Arc::clone(name), longest: self.timeout, calls: Arc::clone(calls), refusal, seat: Arc::clone(seat) };
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS);
        http.serve_connection(TokioIo::new(RepairAuthority::new(stream)), TowerToHyperService::new(service))
    }

    /// Why this peer may not ask, if it may not. It is told so in an answer: a closed connection would only look like an outage.
    fn refusal(&self, stream: &UnixStream) -> Option<Arc<str>> {
        let problem = match stream.peer_cred() {
            Ok(peer) if peer.uid() == OVERFLOW_UID => {
                format!("the peer has user id {OVERFLOW_UID}, that of another user namespace (run the driver's Pod with hostUsers: true)")
            }
            Ok(peer) if self.allowed_peers.contains(&peer.uid()) => return None,
            Ok(peer) => format!(
                "the peer has user id {}, and allowedPeers is {:?} (add the user that the driver runs as, if this is the driver)",
                peer.uid(),
                self.allowed_peers
            ),
            Err(error) => format!("the peer's user id cannot be told: {error} (connect again)"),
        };
        self.metrics.peer_refused();
        tracing::warn!(problem, "a peer was refused");
        Some(format!("{}: {problem}", Code::PolicyDenied).into())
    }
}

// === impl Provider ===

#[tonic::async_trait]
impl CsiDriverProvider for Provider {
    async fn version(&self, request: Request<proto::VersionRequest>) -> Result<Response<proto::VersionResponse>, Status> {
        tracing::debug!(asked = request.get_ref().version.chars().take(40).collect::<String>(), "version");
        Ok(Response::new(proto::VersionResponse {
            version: CONTRACT.to_owned(),
            runtime_name: env!("CARGO_PKG_NAME").to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    async fn mount(&self, mut request: Request<proto::MountRequest>) -> Result<Response<proto::MountResponse>, Status> {
        let Some(cx) = request.extensions_mut().remove::<MountContext>() else {
            return Err(Status::internal("Internal: a call without its time"));
        };
        let proto::MountRequest { attributes, secrets, target_path, permission, current_object_version: _ } = request.into_inner();
        let call = MountCall { attributes, secrets, target_path, permission };
        let pipeline = self.pipeline.load_full();
        match pipeline.mount(call, &cx).await {
            Ok(delivery) => {
                tracing::debug!(request = %cx.request, provider = &*self.name, files = delivery.files.len(), "mounted");
                Ok(Response::new(answer(delivery)))
            }
            Err(error) => {
                tracing::warn!(request = %cx.request, provider = &*self.name, code = error.code().as_str(), error = error.in_full(), "a mount failed");
                Err(error.into())
            }
        }
    }
}

fn answer(delivery: Delivery) -> proto::MountResponse {
    let files = if delivery.in_place { Vec::new() } else { delivery.files };
    let files = files.into_iter().map(|file| proto::File {
        path: file.path.as_str().to_owned(),
        mode: i32::from(file.mode.bits()),
        contents: Bytes::from_owner(Contents(file.contents)),
    });
    let versions =
        delivery.versions.into_iter().map(|entry| proto::ObjectVersion { id: entry.id, version: entry.version.as_str().to_owned() });
    proto::MountResponse { object_version: versions.collect(), error: None, files: files.collect() }
}

impl AsRef<[u8]> for Contents {
    fn as_ref(&self) -> &[u8] {
        self.0.expose()
    }
}

// === impl Timed ===

impl<S> Service<http::Request<hyper::body::Incoming>> for Timed<S>
where
    S: Service<http::Request<hyper::body::Incoming>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<hyper::body::Incoming>) -> Self::Future {
        if let Some(refusal) = &self.refusal {
            let status = Status::permission_denied(&**refusal);
            return Box::pin(std::future::ready(Ok(status.into_http())));
        }
        let caller = request.headers().get("grpc-timeout").and_then(|value| parse_grpc_timeout(value.to_str().ok()?));
        let cx = MountContext::new(next_request_id(), Arc::clone(&self.name), Instant::now(), caller, self.longest);
        let last = cx.last;
        let busy = Busy::new(&self.seat);
        request.extensions_mut().insert(cx);
        let calls = Arc::clone(&self.calls);
        let call = self.inner.call(request);
        let placed = async move {
            // The semaphore is never closed.
            let _place = calls.acquire().await;
            call.await
        };
        Box::pin(async move {
            let _busy = busy;
            timeout_at(last, placed).await.unwrap_or_else(|_| {
                let words = "the call was not complete in time (did the client send its whole request?)";
                Ok(Status::failed_precondition(format!("{}: {words}", Code::BackendTimeout)).into_http())
            })
        })
    }
}

/// Different for each call of this process, and unlikely to be met in another's log.
fn next_request_id() -> RequestId {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static START: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    let start = *START.get_or_init(|| {
        let mut bytes = [0; 8];
        // Without randomness ids merely start at zero.
        let _ = aws_lc_rs::rand::fill(&mut bytes);
        u64::from_be_bytes(bytes)
    });
    RequestId::new(start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// `TimeoutValue TimeoutUnit` of the gRPC wire protocol (gRPC over HTTP/2, "Request-Headers"): 1 to 8 digits and one of H M S m u n.
fn parse_grpc_timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let digits = text.strip_suffix(unit)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(number * 3600)),
        'M' => Some(Duration::from_secs(number * 60)),
        'S' => Some(Duration::from_secs(number)),
        'm' => Some(Duration::from_millis(number)),
        'u' => Some(Duration::from_micros(number)),
        'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts() {
        for (text, millis) in [("2M", 120_000), ("119999m", 119_999), ("5S", 5_000), ("1H", 3_600_000), ("99999999n", 99), ("2500u", 2)] {
            assert_eq!(parse_grpc_timeout(text).map(|time| time.as_millis()), Some(millis), "{text}");
        }
        for text in ["", "S", "5", "5s", "-5S", "123456789S", "5 S", "５S"] {
            assert_eq!(parse_grpc_timeout(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn answers_come_before_the_callers_deadline() {
        let now = Instant::now();
        let times = |caller: Option<u64>| {
            let cx = MountContext::new(RequestId::new(1), "keyferry".into(), now, caller.map(Duration::from_secs), Duration::from_secs(90));
            ((cx.queue_until - now).as_secs_f64(), (cx.deadline - now).as_secs_f64())
        };
        assert_eq!(times(Some(120)), (85.0, 90.0));
        assert_eq!(times(Some(60)), (50.0, 55.0));
        assert_eq!(times(Some(4)), (1.8, 2.0));
        assert_eq!(times(None), (85.0, 90.0));
    }
}
