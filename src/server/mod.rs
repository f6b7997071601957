//! gRPC on Unix sockets.
//!
//! The service runs directly on hyper, not on tonic's transport: that answers CANCELLED when a call's `grpc-timeout` has passed, and a
//! mount must never get the code CANCELLED (`status.rs`). Here every answer is Keyferry's own.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Duration, sleep};
use tonic::{Request, Response, Status};

use crate::delivery::Delivery;
use crate::model::{Code, MountCall, SecretBytes};
use crate::pipeline::{MountContext, Mounted, Pipeline};
use crate::telemetry::Metrics;
use authority::RepairAuthority;
use calls::Calls;
use connection::{Connection, greets, has_greeted, tend};
use gather::Gather;
use intake::Room;
use seats::{Peer, Seats, Taken};
use timed::Timed;
use wire::csi_driver_provider_server::{CsiDriverProvider, CsiDriverProviderServer};

pub mod authority;
mod calls;
pub mod codec;
mod connection;
mod gather;
pub mod group;
mod intake;
mod lock;
pub mod place;
pub mod proto;
mod seats;
pub mod socket;
pub mod status;
mod timed;
mod wire;

pub use lock::{LockError, StartLock};
pub use socket::{BoundSocket, Displaced, Mark, SocketConfig, SocketError};

/// The version of the contract between driver and provider, asked and answered in `Version`.
pub const CONTRACT: &str = "v1alpha1";

/// The user id of every process of another user namespace.
const OVERFLOW_UID: u32 = 65534;

/// The largest request in bytes; its parts have lower limits, with messages that name them.
const MAX_REQUEST: usize = 8 * 1024 * 1024;

/// How many bytes a client may send in advance on a connection, and on one call.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const STREAM_WINDOW: u32 = 256 * 1024;

/// The most connections of a socket that have not sent anything yet; if there is one more, the oldest is closed.
const SILENT: usize = 1024;

/// How long a connection waits until one of its user's connections ends. After that it is served and asked to leave at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// The gRPC server: the part that is the same for all sockets.
#[derive(Clone, Debug)]
pub struct Server {
    /// The pipeline in force; a reload replaces it.
    pub pipeline: Arc<ArcSwap<Pipeline>>,
    pub metrics: Arc<Metrics>,
    pub allowed_peers: Arc<[u32]>,
    /// The longest a mount may take.
    pub timeout: Duration,
}

/// What all connections share.
#[derive(Clone)]
struct Shared {
    seats: Arc<Seats>,
    calls: Calls,
    /// Becomes true when the daemon ends.
    stop: watch::Receiver<bool>,
    /// Every connection holds one: when all are dropped, no connection is left.
    alive: mpsc::Sender<()>,
}

/// The two kinds of calls, for one socket.
#[derive(Clone, Debug)]
struct Provider {
    pipeline: Arc<ArcSwap<Pipeline>>,
    name: Arc<str>,
}

/// A mount's contents as they are sent: the shared bytes themselves, not a copy.
struct Contents(Arc<SecretBytes>);

// === impl Server ===

impl Server {
    /// Serves the sockets until `stop` resolves; then removes them, lets running calls finish for up to `drain`, and returns whether all
    /// did.
    pub async fn serve(self, sockets: Vec<BoundSocket>, stop: impl Future<Output = ()>, drain: Duration) -> bool {
        let (stopping, stopped) = watch::channel(false);
        let (alive, mut all_gone) = mpsc::channel(1);
        let shared = Shared { seats: Arc::default(), calls: Calls::new(), stop: stopped, alive };
        let mut listeners = tokio::task::JoinSet::new();
        for socket in sockets {
            listeners.spawn(self.clone().listen(socket, shared.clone()));
        }
        drop(shared);
        stop.await;
        stopping.send_replace(true);
        // Each removes its socket first: a successor may bind while we finish.
        while listeners.join_next().await.is_some() {}
        tokio::select! {
            _ = all_gone.recv() => true,
            () = sleep(drain) => false,
        }
    }

    async fn listen(self, socket: BoundSocket, shared: Shared) {
        let name: Arc<str> = socket.provider.as_str().into();
        let mut silent: VecDeque<oneshot::Sender<()>> = VecDeque::new();
        let mut stop = shared.stop.clone();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                accepted = socket.listener.accept() => accepted,
            };
            silent.retain(|greeting| !greeting.is_closed());
            match accepted {
                Ok((stream, _)) => {
                    if silent.len() >= SILENT {
                        silent.pop_front();
                    }
                    silent.push_back(self.welcome(stream, &name, &shared));
                }
                Err(error) => {
                    tracing::warn!(%error, socket = %socket.path().display(), "a connection could not be accepted");
                    // Usually because there are not enough descriptors.
                    silent.drain(..silent.len().div_ceil(2));
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
        socket.withdraw();
        // Clients that have connected by now may have called: they are served, and asked to leave.
        while let Some(Ok((stream, _))) = socket.listener.accept().now_or_never() {
            drop(self.welcome(stream, &name, &shared));
        }
    }

    /// Waits for the client's first bytes, then serves the connection in its own task. When the sender is dropped, no code waits for
    /// further first bytes: the connection is closed when they come.
    fn welcome(&self, stream: UnixStream, name: &Arc<str>, shared: &Shared) -> oneshot::Sender<()> {
        let (server, name, shared) = (self.clone(), Arc::clone(name), shared.clone());
        let (patience, no_patience) = oneshot::channel();
        tokio::spawn(async move {
            let mut stop = shared.stop.clone();
            let greeted = tokio::select! {
                biased;
                greeted = greets(&stream) => greeted,
                _ = no_patience => has_greeted(&stream),
                _ = stop.wait_for(|stop| *stop) => has_greeted(&stream),
            };
            if greeted {
                server.converse(stream, name, shared).await;
            }
        });
        patience
    }

    async fn converse(self, stream: UnixStream, name: Arc<str>, shared: Shared) {
        let refusal = self.refusal(&stream);
        let peer = match (&refusal, stream.peer_cred()) {
            (None, Ok(peer)) => Peer::Allowed(peer.uid()),
            (Some(_), _) | (_, Err(_)) => Peer::Stranger,
        };
        let Shared { seats, calls, stop, alive } = shared;
        let Some(taken) = seats.take(peer, PATIENCE).await else {
            tracing::warn!("Keyferry refused a connection: its user has too many, and all have calls under way");
            return;
        };
        let (stream, gathered) = Gather::new(stream);
        let connection = self.connection(stream, name, &taken, &calls, refusal);
        tend(connection, gathered, taken, stop).await;
        drop(alive);
    }

    fn connection(
        &self,
        stream: Gather<UnixStream>,
        name: Arc<str>,
        taken: &Taken,
        calls: &Calls,
        refusal: Option<Arc<str>>,
    ) -> Connection {
        let provider = Provider { pipeline: Arc::clone(&self.pipeline), name: Arc::clone(&name) };
        let inner = CsiDriverProviderServer::new(provider).max_decoding_message_size(MAX_REQUEST);
        let commons = Arc::clone(&self.pipeline.load().commons);
        let service = Timed::new(inner, name, self.timeout, calls.lane(), refusal, Arc::clone(&taken.seat), commons);
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new()).max_concurrent_streams(taken.streams);
        // h2's buffers of bytes that nobody has read yet are in no budget: this is the most.
        http.initial_connection_window_size(CONNECTION_WINDOW).initial_stream_window_size(STREAM_WINDOW);
        http.serve_connection(TokioIo::new(RepairAuthority::new(stream)), TowerToHyperService::new(service))
    }

    /// Why this peer may not ask, if it may not. It gets the reason as an answer: a closed connection would look like an outage.
    fn refusal(&self, stream: &UnixStream) -> Option<Arc<str>> {
        let problem = match stream.peer_cred() {
            Ok(peer) if peer.uid() == OVERFLOW_UID => {
                format!(
                    "the peer has user id {OVERFLOW_UID}, so it is in another user namespace (run the driver's Pod with hostUsers: true)"
                )
            }
            Ok(peer) if self.allowed_peers.contains(&peer.uid()) => return None,
            Ok(peer) => format!(
                "the peer has user id {}, and allowedPeers is {:?} (add the user that the driver runs as, if this is the driver)",
                peer.uid(),
                self.allowed_peers
            ),
            Err(error) => format!("the peer's user id cannot be read: {error} (connect again)"),
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

    /// Written out, without `async`: the request would need room until the mount ends.
    fn mount<'s, 'f>(&'s self, mut request: Request<proto::MountRequest>) -> BoxFuture<'f, Result<Response<wire::MountResponse>, Status>>
    where
        's: 'f,
    {
        let Some(cx) = request.extensions_mut().remove::<MountContext>() else {
            return ready(Err(Status::internal("Internal: a call without its time"))).boxed();
        };
        let room = request.extensions_mut().remove::<Room>().and_then(|room| room.take());
        let proto::MountRequest { attributes, secrets, target_path, permission, current_object_version: _ } = request.into_inner();
        let call = MountCall { attributes, secrets, target_path, permission };
        let pipeline = self.pipeline.load_full();
        async move {
            match pipeline.mount(call, room, &cx).await {
                Ok(Mounted { delivery, paid }) => {
                    tracing::debug!(request = %cx.request, provider = &*self.name, files = delivery.files.len(), "mounted");
                    let mut answer = Response::new(answer(delivery));
                    answer.extensions_mut().insert(Arc::new(Mutex::new(Some(paid))));
                    Ok(answer)
                }
                Err(error) => Err(error.into()),
            }
        }
        .boxed()
    }
}

fn answer(delivery: Delivery) -> wire::MountResponse {
    let files = if delivery.in_place { Vec::new() } else { delivery.files };
    let files = files.into_iter().map(|file| wire::File {
        path: Arc::<str>::from(file.path).into(),
        mode: i32::from(file.mode.bits()),
        contents: Bytes::from_owner(Contents(file.contents)),
    });
    let versions = delivery
        .versions
        .into_iter()
        .map(|entry| wire::ObjectVersion { id: entry.id.into(), version: Arc::<str>::from(entry.version).into() });
    wire::MountResponse { object_version: versions.collect(), error: None, files: files.collect() }
}

impl AsRef<[u8]> for Contents {
    fn as_ref(&self) -> &[u8] {
        self.0.expose()
    }
}
