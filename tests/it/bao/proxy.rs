//! A bad network between client and server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustix::net::sockopt::set_socket_linger;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, Instant};

use super::Elsewhere;

/// Nobody listens there. A port that was free a moment ago may be another test's server by now.
pub const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

/// Hands TCP connections on, as badly as the test says. It runs next to the test, also while the test blocks.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    _elsewhere: Elsewhere,
}

struct Shared {
    settings: Mutex<Settings>,
    /// Counted up to cut the open connections.
    cuts: watch::Sender<u64>,
    silent: watch::Sender<bool>,
    accepted: AtomicUsize,
    open: AtomicUsize,
}

struct Settings {
    upstream: SocketAddr,
    /// One way.
    delay: Duration,
    fuse: Option<Fuse>,
}

/// Resets connections after this many bytes of answers on each, this many times.
struct Fuse {
    bytes: usize,
    times: usize,
}

impl Proxy {
    /// Listens at a free port of 127.0.0.1, for a server.
    pub fn start(upstream: SocketAddr) -> Self {
        let elsewhere = Elsewhere::new();
        let listener = elsewhere.run(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            settings: Mutex::new(Settings { upstream, delay: Duration::ZERO, fuse: None }),
            cuts: watch::Sender::new(0),
            silent: watch::Sender::new(false),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
        });
        elsewhere.handle().spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, _elsewhere: elsewhere }
    }

    /// How far away the server is, one way. A new connection costs one more round trip, as its handshake would.
    pub fn delay(&self, one_way: Duration) {
        self.shared.settings.lock().unwrap().delay = one_way;
    }

    /// Resets every open connection.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Resets a connection after this many bytes of answers (since it was made), `times` times in all: in the middle of a body.
    pub fn reset_after(&self, bytes: usize, times: usize) {
        self.shared.settings.lock().unwrap().fuse = Some(Fuse { bytes, times });
    }

    /// Goes on accepting, but answers nothing on any connection; or lets all of it through again.
    pub fn blackhole(&self, silent: bool) {
        self.shared.silent.send_replace(silent);
    }

    /// New connections go to another server. Open ones stay where they are: see [`Proxy::lead_to`].
    pub fn switch(&self, upstream: SocketAddr) {
        self.shared.settings.lock().unwrap().upstream = upstream;
    }

    /// New connections go to another server, and open ones are reset.
    pub fn lead_to(&self, upstream: SocketAddr) {
        self.switch(upstream);
        self.cut();
    }

    /// The server is gone: all connections are reset.
    pub fn lead_nowhere(&self) {
        self.lead_to(NOBODY);
    }

    /// How many connections were made in all.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        // Before it is counted: a test that sees it open may cut it.
        let mut cuts = shared.cuts.subscribe();
        set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        shared.open.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            tokio::select! {
                () = carry(client, &shared) => {}
                _ = cuts.changed() => {}
            }
            shared.open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// Copies both ways, until both have ended or one breaks. A connection that breaks, or that is dropped before its end, is reset and not closed.
async fn carry(mut client: TcpStream, shared: &Shared) {
    let (upstream, delay) = {
        let settings = shared.settings.lock().unwrap();
        (settings.upstream, settings.delay)
    };
    client.set_nodelay(true).unwrap();
    until(Instant::now() + 2 * delay).await;
    shared.heard().await;
    let Ok(mut server) = TcpStream::connect(upstream).await else { return };
    server.set_nodelay(true).unwrap();
    // By reference: owned halves close the connection in order when dropped.
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    let asked = pump(from_client, to_server, shared, false);
    let answered = pump(from_server, to_client, shared, true);
    if tokio::try_join!(asked, answered).is_ok() {
        set_socket_linger(&client, None).unwrap();
    }
}

/// One way. It writes what it has read when the time has come, with any amount under way.
async fn pump(from: ReadHalf<'_>, to: WriteHalf<'_>, shared: &Shared, answers: bool) -> std::io::Result<()> {
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::try_join!(take(from, sender, shared), give(to, receiver, shared, answers)).map(|_| ())
}

type Parcel = (Instant, Vec<u8>);

async fn take(mut from: ReadHalf<'_>, parcels: mpsc::UnboundedSender<Parcel>, shared: &Shared) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        let due = Instant::now() + shared.settings.lock().unwrap().delay;
        // An empty one is the end.
        if parcels.send((due, buffer[..read].to_vec())).is_err() || read == 0 {
            return Ok(());
        }
    }
}

async fn give(mut to: WriteHalf<'_>, mut parcels: mpsc::UnboundedReceiver<Parcel>, shared: &Shared, answers: bool) -> std::io::Result<()> {
    let mut sent = 0;
    while let Some((due, bytes)) = parcels.recv().await {
        until(due).await;
        shared.heard().await;
        if bytes.is_empty() {
            return to.shutdown().await;
        }
        if let Some(left) = shared.blows(sent, bytes.len()).filter(|_| answers) {
            to.write_all(&bytes[..left]).await?;
            return Err(std::io::ErrorKind::ConnectionReset.into());
        }
        to.write_all(&bytes).await?;
        sent += bytes.len();
    }
    Ok(())
}

/// tokio's timers round up to the next millisecond, and often to one more. That is too much for a delay of a few milliseconds. A thread's timers do
/// not.
async fn until(due: Instant) {
    if due > Instant::now() {
        let waited = tokio::task::spawn_blocking(move || {
            while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                std::thread::park_timeout(left);
            }
        });
        let _ = waited.await;
    }
}

impl Shared {
    /// Waits while the proxy lets nothing through.
    async fn heard(&self) {
        let _ = self.silent.subscribe().wait_for(|silent| !silent).await;
    }

    /// How many of the bytes to be sent still go before the reset, if this is the moment of it.
    fn blows(&self, sent: usize, bytes: usize) -> Option<usize> {
        let mut settings = self.settings.lock().unwrap();
        let fuse = settings.fuse.as_mut().filter(|fuse| fuse.times > 0 && sent + bytes > fuse.bytes)?;
        fuse.times -= 1;
        Some(fuse.bytes.saturating_sub(sent))
    }
}
