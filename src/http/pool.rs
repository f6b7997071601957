//! The connections to an endpoint: made when they are first needed, and again when the files have changed.
//!
//! Files that can be read are in force from the next look on, with exactly their content. If they are gone or cannot be used, the last ones
//! stay in force for a moment ([`crate::grace`]); after that no call is made.
//!
//! One thread looks at the files, and may block: a file system that does not answer delays one call for a moment, and leaves the
//! connections as they are.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Duration, Instant, timeout};
use tokio_rustls::TlsConnector;

use super::connect::{Connector, Seen};
use super::error::Failed;
use super::files::Files;
use super::proxy::Proxy;
use super::{Endpoint, HttpConfig, HttpError, Names, Tuning, tls};
use crate::grace::{GRACE, Outage};

/// How many bytes a server may send in advance on one call, and on all calls of a connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// How long a call waits for the look at the files. A file system that takes longer is taken as hanging.
const PATIENCE: Duration = Duration::from_secs(2);

/// The memory for a client in bytes, with the buffers of a connection: measured with 400 of them, and rounded up.
const PLAIN: usize = 8 * 1024;
const SECURED: usize = 48 * 1024;

/// One endpoint's connections.
pub(super) struct Pool(Arc<Shared>);

struct Shared {
    endpoint: Endpoint,
    config: HttpConfig,
    names: Names,
    proxy: Option<Proxy>,
    tuning: Tuning,
    current: Mutex<Option<Current>>,
    /// Held by the one thread that looks at the files, however long that takes.
    looking: Arc<AsyncMutex<()>>,
    /// Whether the look takes too long.
    hangs: AtomicBool,
}

/// The connections in force, and the files that they were made from.
struct Current {
    connections: Arc<Connections>,
    files: Files,
    /// Why the present files cannot be used.
    outage: Option<Outage<Unusable>>,
    /// When the files were last looked at.
    looked: Instant,
}

/// Why files cannot be used. `None`: there are no files.
#[derive(Clone)]
struct Unusable {
    error: HttpError,
    files: Option<Files>,
}

struct Connections {
    client: Client<Connector, Full<Bytes>>,
    seen: Arc<Seen>,
    /// Ends when the first call has its connection, or with the reason why it got none.
    leader: Mutex<Option<watch::Receiver<Option<HttpError>>>>,
}

// === impl Pool ===

impl Pool {
    /// Reads the configured files. Without files nothing is made before the first call: the system's certificates take time and memory.
    pub(super) fn new(
        endpoint: Endpoint,
        config: HttpConfig,
        names: Names,
        proxy: Option<Proxy>,
        tuning: Tuning,
    ) -> Result<Self, HttpError> {
        if endpoint.is_https() {
            tls::server_name(&endpoint, &config)?;
        }
        let (looking, hangs) = (Arc::default(), AtomicBool::new(false));
        let shared = Shared { endpoint, config, names, proxy, tuning, current: Mutex::default(), looking, hangs };
        if shared.has_files() {
            let made = shared.made_from(shared.files()?)?;
            *shared.lock() = Some(made);
        }
        Ok(Self(Arc::new(shared)))
    }

    pub(super) async fn send(&self, request: Request<Bytes>) -> Result<Response<Incoming>, Failed> {
        let connections = self.connections().await.map_err(Failed::unseen)?;
        connections.send(request.map(Full::new)).await
    }

    /// In bytes, with what is made from the files.
    pub(super) fn weight(&self) -> usize {
        let of_files = self.0.lock().as_ref().map_or(0, |known| known.files.bytes().saturating_mul(2));
        of_files.saturating_add(if self.0.endpoint.is_https() { SECURED } else { PLAIN })
    }

    /// Whether the present files can be used. If not, the last ones may still be in force.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) async fn check_files(&self) -> Result<(), HttpError> {
        // An error of the connections is an error of the files, or of what the system trusts.
        self.connections().await?;
        let outage = self.0.lock().as_ref().and_then(|known| known.outage.as_ref().map(|outage| outage.problem.error.clone()));
        outage.map_or(Ok(()), Err)
    }

    /// The connections in force; made again when the files have changed.
    async fn connections(&self) -> Result<Arc<Connections>, HttpError> {
        if self.0.is_due() {
            self.0.look().await;
        }
        match self.0.at_hand() {
            Some(connections) => connections,
            None => self.0.make_first().await,
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Whether it is time to look at the files: of several callers, only one gets `true`.
    fn is_due(&self) -> bool {
        let mut current = self.lock();
        let Some(known) = current.as_mut().filter(|known| self.has_files() && known.looked.elapsed() >= self.tuning.files) else {
            return false;
        };
        known.looked = Instant::now();
        true
    }

    /// The connections in force, or why there are none any more. `None`: none were made yet.
    fn at_hand(&self) -> Option<Result<Arc<Connections>, HttpError>> {
        self.lock().as_ref().map(|known| match &known.outage {
            Some(outage) if outage.is_final() => Err(outage.problem.error.clone()),
            Some(_) | None => Ok(Arc::clone(&known.connections)),
        })
    }

    /// Without files: what the system trusts is read once, for all.
    async fn make_first(self: &Arc<Self>) -> Result<Arc<Connections>, HttpError> {
        let turn = Arc::clone(&self.looking).lock_owned().await;
        if let Some(connections) = self.at_hand() {
            return connections;
        }
        let shared = Arc::clone(self);
        let made = spawn_blocking(move || {
            let made = shared.made_from(Files::default())?;
            let connections = Arc::clone(&made.connections);
            *shared.lock() = Some(made);
            drop(turn);
            Ok(connections)
        });
        made.await.unwrap_or_else(|_| Err(HttpError::Connect("none could be prepared (the daemon is ending, or has a bug)".to_owned())))
    }

    /// Looks at the files, unless another call does already.
    async fn look(self: &Arc<Self>) {
        let Ok(turn) = Arc::clone(&self.looking).try_lock_owned() else { return };
        // In the caller's own log, like everything about a call.
        let (shared, log) = (Arc::clone(self), tracing::dispatcher::get_default(Clone::clone));
        let looking = spawn_blocking(move || tracing::dispatcher::with_default(&log, || shared.renew(turn)));
        if timeout(PATIENCE, looking).await.is_err() && !self.hangs.swap(true, Ordering::AcqRel) {
            tracing::warn!(endpoint = %self.endpoint,
                "the file system of the TLS files does not answer, the former ones stay in force (is a network volume down?)");
        }
    }

    fn renew(&self, _turn: OwnedMutexGuard<()>) {
        match self.made_again() {
            Ok(None) => {}
            Ok(Some(renewed)) => {
                tracing::info!(endpoint = %self.endpoint, "changed TLS files are in force");
                *self.lock() = Some(renewed);
            }
            Err(problem) => self.failed(problem),
        }
        if self.hangs.swap(false, Ordering::AcqRel) {
            tracing::info!(endpoint = %self.endpoint, "the file system of the TLS files answers again");
        }
    }

    /// Connections from the present files. `None`: the connections in force are from the same files.
    fn made_again(&self) -> Result<Option<Current>, Unusable> {
        let files = self.files().map_err(|error| Unusable { error, files: None })?;
        match self.lock().as_ref() {
            Some(Current { outage: None, files: known, .. }) if *known == files => return Ok(None),
            // So the log does not report again and again the files that are left out.
            Some(Current { outage: Some(Outage { problem, .. }), .. }) if problem.files.as_ref() == Some(&files) => {
                return Err(problem.clone());
            }
            Some(_) | None => {}
        }
        self.made_from(files.clone()).map(Some).map_err(|error| Unusable { error, files: Some(files) })
    }

    /// The log reports each problem once.
    fn failed(&self, problem: Unusable) {
        let (endpoint, told) = (&self.endpoint, problem.error.for_admin());
        let mut current = self.lock();
        let Some(known) = current.as_mut() else { return };
        if known.outage.as_ref().is_none_or(|outage| outage.problem.error.for_admin() != told) {
            let grace = GRACE.as_secs();
            tracing::warn!(%endpoint, error = told, "the TLS files cannot be used; the last ones stay in force for {grace} s, then calls fail");
        }
        known.outage = Some(Outage::after(known.outage.as_ref(), problem));
    }

    /// An endpoint without TLS has none.
    fn has_files(&self) -> bool {
        self.endpoint.is_https() && (self.config.ca.is_some() || self.config.certificate.is_some())
    }

    fn files(&self) -> Result<Files, HttpError> {
        if self.has_files() { Files::of(&self.config) } else { Ok(Files::default()) }
    }

    fn made_from(&self, files: Files) -> Result<Current, HttpError> {
        let tls = self.endpoint.is_https().then(|| tls::client_config(&self.config)).transpose()?;
        let connections = Arc::new(self.connect_with(tls)?);
        Ok(Current { connections, files, outage: None, looked: Instant::now() })
    }

    fn connect_with(&self, tls: Option<ClientConfig>) -> Result<Connections, HttpError> {
        let tls = match tls {
            Some(tls) => Some((TlsConnector::from(Arc::new(tls)), tls::server_name(&self.endpoint, &self.config)?)),
            None => None,
        };
        let seen = Arc::new(Seen::default());
        let connector = Connector::new(self.endpoint.clone(), self.names.clone(), self.proxy.clone(), tls, &self.tuning, Arc::clone(&seen));
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(self.tuning.idle)
            // No purse pays for what a server sends in advance until it is read.
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(self.tuning.ping)
            .http2_keep_alive_timeout(self.tuning.pong)
            // For a moment, hyper does not count a request that was just sent. A ping that is due in that moment would never be sent.
            .http2_keep_alive_while_idle(true)
            .build(connector);
        Ok(Connections { client, seen, leader: Mutex::default() })
    }

    /// After a panic elsewhere, the same connections stay in force.
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Connections ===

impl Connections {
    /// If many calls come at once to an endpoint without a connection, each would make one, with a TLS handshake; with HTTP/2 all but one
    /// would be closed again. So one call goes first. The others wait until it has its connection, or get its failure.
    async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failed> {
        let Some(lead) = self.lead_or_follow().await.map_err(Failed::unseen)? else {
            return self.client.request(request).await.map_err(|error| Failed::of(&error));
        };
        let mut connection = capture_connection(&mut request);
        let mut call = self.client.request(request);
        let answer = tokio::select! {
            answer = &mut call => Some(answer),
            _ = connection.wait_for_connection_metadata() => None,
        };
        let Some(answer) = answer else {
            drop(lead);
            return call.await.map_err(|error| Failed::of(&error));
        };
        answer.map_err(|error| {
            let failed = Failed::of(&error);
            if !failed.seen {
                lead.send_replace(Some(failed.error.clone()));
            }
            failed
        })
    }

    /// The lead, which the caller drops when there is a connection; or nothing, after the wait for the call that had it.
    ///
    /// # Errors
    /// Why the leader got no connection.
    async fn lead_or_follow(&self) -> Result<Option<watch::Sender<Option<HttpError>>>, HttpError> {
        if !self.seen.is_cold() {
            return Ok(None);
        }
        let mut ahead = {
            let mut leader = self.leader.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(ahead) = leader.clone().filter(|ahead| ahead.has_changed().is_ok()) else {
                let (lead, following) = watch::channel(None);
                *leader = Some(following);
                return Ok(Some(lead));
            };
            ahead
        };
        // The leader dropped it without a word: it has its connection, or its caller has given up.
        let _ = ahead.changed().await;
        let failed = ahead.borrow().clone();
        failed.map_or(Ok(None), Err)
    }
}
