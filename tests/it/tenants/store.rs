//! A store over a network. It has as much of Vault's API as a mount needs, and is as quick, large or slow as a secret's name says.
//!
//! It has a thread of its own, so that the crowd in this process does not slow it down.

use std::convert::Infallible;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant, sleep};

use super::node::SMALL_VALUE;

/// Bytes of a large answer's value.
const LARGE: usize = 250_000;

/// How long a slow answer takes: longer than a trial.
const SLOW: Duration = Duration::from_secs(20);

/// Requests for counted secrets that it answers each second. It says 429 to more, from any caller: as a store that counts by node or token.
const QUOTA: usize = 200;

/// How long a short lease lasts.
const SHORT_SECONDS: u64 = 6;

/// Depth of a value that is deep.
const DEPTH: usize = 100_000;

/// The store. It is gone when dropped.
pub struct Store {
    server: Server,
    bodies: Arc<Bodies>,
}

/// A server on a thread of its own, which is gone when dropped.
pub struct Server {
    pub address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

pub type Answer = Result<hyper::Response<Full<Bytes>>, Infallible>;

/// What it answers with again and again.
struct Bodies {
    large: Bytes,
    entries: Bytes,
    deep: Bytes,
    rare: Bytes,
    /// Requests so far: each is another token, or another lease.
    asked: AtomicUsize,
    /// Leases renewed so far.
    renewed: AtomicUsize,
    /// Whether a renewal is never answered.
    silent: bool,
    counted: Mutex<(Instant, usize)>,
}

impl Store {
    pub fn start() -> Self {
        Self::of(Bodies::new(false))
    }

    /// One that takes renewals, and does not answer.
    pub fn silent() -> Self {
        Self::of(Bodies::new(true))
    }

    fn of(bodies: Bodies) -> Self {
        let bodies = Arc::new(bodies);
        let server = Server::start(Arc::clone(&bodies), answer);
        Self { server, bodies }
    }

    /// A backend of a configuration, of the kind vault.
    pub fn backend(&self, name: &str) -> String {
        let auth = "auth: { method: jwt, mount: jwt, role: csi, audience: bao }";
        format!("  {name}: {{ kind: vault, address: \"http://{}\", {auth} }}\n", self.server.address)
    }

    /// The same of the kind http. Its fields are found by an expression, and not by a name.
    pub fn plain_backend(&self, name: &str) -> String {
        format!("  {name}: {{ kind: http, url: \"http://{}/v1/{{name}}\", fields: \"data || data\" }}\n", self.server.address)
    }

    pub fn renewed(&self) -> usize {
        self.bodies.renewed.load(Ordering::Relaxed)
    }
}

impl Bodies {
    fn new(silent: bool) -> Self {
        let counted = Mutex::new((Instant::now(), 0));
        let (asked, renewed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { large: large(), entries: entries(), deep: deep(), rare: rare(), asked, renewed, silent, counted }
    }

    /// Whether there was room for another request in this second.
    fn within_quota(&self) -> bool {
        let mut counted = self.counted.lock().unwrap();
        if counted.0.elapsed() >= Duration::from_secs(1) {
            *counted = (Instant::now(), 0);
        }
        counted.1 += 1;
        counted.1 <= QUOTA
    }
}

fn large() -> Bytes {
    Bytes::from(json!({ "data": { "v": "x".repeat(LARGE) } }).to_string())
}

/// As many members as there is room for, each of which holds nothing.
fn entries() -> Bytes {
    let mut members = String::new();
    for number in 0..LARGE / 11 {
        let separator = if number == 0 { "" } else { "," };
        write!(members, "{separator}\"{number:05}\":\"\"").unwrap();
    }
    Bytes::from(format!("{{\"data\":{{\"v\":{{{members}}}}}}}"))
}

fn deep() -> Bytes {
    Bytes::from(format!("{{\"data\":{{\"v\":{}{}}}}}", "[".repeat(DEPTH), "]".repeat(DEPTH)))
}

/// Every character of the last plane, of which one that does not occur is looked for.
fn rare() -> Bytes {
    let characters: String = ('\u{10_0000}'..='\u{10_fffd}').collect();
    Bytes::from(json!({ "data": { "password": SMALL_VALUE }, "rest": characters }).to_string())
}

// === impl Server ===

impl Server {
    /// What it knows, and how it answers with that.
    pub fn start<K, F>(known: Arc<K>, answer: fn(hyper::Request<Incoming>, Arc<K>) -> F) -> Self
    where
        K: Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        let (told, address) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                told.send(listener.local_addr().unwrap()).unwrap();
                tokio::select! {
                    () = serve(listener, known, answer) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address: address.recv().unwrap(), _stop: stop }
    }
}

async fn serve<K, F>(listener: TcpListener, known: Arc<K>, answer: fn(hyper::Request<Incoming>, Arc<K>) -> F)
where
    K: Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let known = Arc::clone(&known);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, Arc::clone(&known)));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: hyper::Request<Incoming>, bodies: Arc<Bodies>) -> Answer {
    let number = bodies.asked.fetch_add(1, Ordering::Relaxed);
    let (head, body) = request.into_parts();
    drop(body.collect().await);
    let path = head.uri.path().trim_start_matches("/v1/");
    let small = json!({ "password": SMALL_VALUE });
    let name = path.split('/').nth(1).unwrap_or_default();
    let text = match (path, name) {
        ("sys/health", _) => json!({ "initialized": true, "sealed": false, "standby": false }).to_string().into(),
        ("auth/jwt/login" | "auth/token/renew-self", _) => json!({ "auth": token(number) }).to_string().into(),
        ("sys/leases/renew", _) if bodies.silent => std::future::pending().await,
        ("sys/leases/renew", _) => {
            bodies.renewed.fetch_add(1, Ordering::Relaxed);
            json!({ "lease_id": "as-before", "lease_duration": SHORT_SECONDS, "renewable": true }).to_string().into()
        }
        (_, "counted") if !bodies.within_quota() => return Ok(hyper::Response::builder().status(429).body(Full::default()).unwrap()),
        (_, "counted" | "db") => json!({ "data": small }).to_string().into(),
        (_, "large") => bodies.large.clone(),
        (_, "entries") => bodies.entries.clone(),
        (_, "deep") => bodies.deep.clone(),
        (_, "rare") => bodies.rare.clone(),
        (_, "leased") => leased(number, 3600, &small).into(),
        (_, "short") => leased(number, SHORT_SECONDS, &small).into(),
        (_, "slow") => {
            sleep(SLOW).await;
            json!({ "data": small }).to_string().into()
        }
        _ => Bytes::from_static(b"{}"),
    };
    Ok(hyper::Response::new(Full::from(text)))
}

fn token(number: usize) -> Value {
    let (token, accessor) = (format!("a-token-of-the-store-{number}"), format!("accessor-{number}"));
    json!({ "client_token": token, "accessor": accessor, "lease_duration": 3600, "renewable": true })
}

fn leased(number: usize, seconds: u64, data: &Value) -> String {
    json!({ "lease_id": format!("database/creds/app/{number}"), "lease_duration": seconds, "renewable": true, "data": data }).to_string()
}
