//! The connections to an endpoint: made when they are first needed, and again from files that have changed.
//!
//! Files that can be read are in force at the next look, with exactly what they hold. If they are gone or cannot be used, the last ones
//! stay in force for a moment ([`crate::grace`]); then no call is made.
//!
//! The files are looked at on a thread that may be kept waiting, and there is one such thread: a file system that does not answer holds
//! up one call for a moment, and leaves the connections as they are.

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

/// What a server may send ahead on one call, and on all calls of a connection, in bytes.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// How long a call waits for the files to be looked at. A file system that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a client weighs in bytes, with the buffers of a connection: measured with 400 of them, and rounded up.
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
    /// Whether it takes too long.
    hangs: AtomicBool,
}

/// What is in force, and the files it was made from.
struct Current {
    connections: Arc<Connections>,
    files: Files,
    /// That the files as they are now cannot be used.
    outage: Option<Outage<Unusable>>,
    /// When the files were last looked at.
    looked: Instant,
}

/// Why files cannot be used. `None`: there are none to be found.
#[derive(Clone)]
struct Unusable {
    error: HttpError,
    files: Option<Files>,
}

struct Connections {
    client: Client<Connector, Full<Bytes>>,
    seen: Arc<Seen>,
    /// Ends when the call that goes first has its connection, or brings why it could have none.
    leader: Mutex<Option<watch::Receiver<Option<HttpError>>>>,
}

// === impl Pool ===

impl Pool {
    /// Reads the files that are configured. Where there are none, nothing is made before the first call: what the system trusts takes time
    /// and memory.
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

    /// In bytes, with what is made of the files.
    pub(super) fn weight(&self) -> usize {
        let of_files = self.0.lock().as_ref().map_or(0, |known| known.files.bytes().saturating_mul(2));
        of_files.saturating_add(if self.0.endpoint.is_https() { SECURED } else { PLAIN })
    }

    /// Whether the files can be used as they are now. The last ones may be in force although they cannot.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) async fn check_files(&self) -> Result<(), HttpError> {
        // An error of the connections is that of the files, or of what the system trusts.
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
    /// Whether it is time to look at the files: of several callers, one hears that it is.
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

    /// Without files: what the system trusts is read, once for all.
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

    /// Looks at the files, unless somebody does already.
    async fn look(self: &Arc<Self>) {
        let Ok(turn) = Arc::clone(&self.looking).try_lock_owned() else { return };
        // In the caller's own log, as everything about a call.
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

    /// Connections from the files as they are now. `None`: those in force are from the same files.
    fn made_again(&self) -> Result<Option<Current>, Unusable> {
        let files = self.files().map_err(|error| Unusable { error, files: None })?;
        match self.lock().as_ref() {
            Some(Current { outage: None, files: known, .. }) if *known == files => return Ok(None),
            // So that what is left out of them is not told again and again.
            Some(Current { outage: Some(Outage { problem, .. }), .. }) if problem.files.as_ref() == Some(&files) => {
                return Err(problem.clone());
            }
            Some(_) | None => {}
        }
        self.made_from(files.clone()).map(Some).map_err(|error| Unusable { error, files: Some(files) })
    }

    /// The log tells of each problem once.
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

    /// A plain endpoint has none.
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
            // What a server sends ahead is in nobody's purse until it is read.
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(self.tuning.ping)
            .http2_keep_alive_timeout(self.tuning.pong)
            // hyper counts a request that was just sent as none for a moment. Its ping, due in that moment, would be left out for ever.
            .http2_keep_alive_while_idle(true)
            .build(connector);
        Ok(Connections { client, seen, leader: Mutex::default() })
    }

    /// A panic elsewhere leaves what was in force, in force.
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Connections ===

impl Connections {
    /// Calls that come at once to an endpoint without a connection would each make one, with a TLS handshake, and all but one would be
    /// closed again where it speaks HTTP/2. So one call goes first; the others wait until it has its connection, or share its failure.
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

    /// The lead, to be dropped when there is a connection; or nothing, after waiting for whoever has it.
    ///
    /// # Errors
    /// Why the leader could not have a connection.
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
        // Dropped without a word by a leader that has its connection, or was given up by whoever asked.
        let _ = ahead.changed().await;
        let failed = ahead.borrow().clone();
        failed.map_or(Ok(None), Err)
    }
}
