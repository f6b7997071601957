//! A store over a network: it speaks as much of Vault's API as a mount needs, and is as quick, large or slow as a secret's name says.
//!
//! It has a thread of its own, so that the crowd in this process does not slow it down.

use std::convert::Infallible;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::{Duration, sleep};

use super::node::SMALL_VALUE;

/// Bytes of a large answer's value.
const LARGE: usize = 250_000;

/// How long a slow answer takes: longer than a trial.
const SLOW: Duration = Duration::from_secs(20);

/// The server. It is gone when dropped.
pub struct Store {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

/// What it answers with again and again.
struct Bodies {
    large: Bytes,
    entries: Bytes,
    /// Requests so far: each is another token, or another lease.
    asked: AtomicUsize,
}

impl Store {
    pub fn start() -> Self {
        let (stop, stopped) = oneshot::channel();
        let (told, address) = std::sync::mpsc::channel();
        let bodies = Arc::new(Bodies { large: large(), entries: entries(), asked: AtomicUsize::new(0) });
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                told.send(listener.local_addr().unwrap()).unwrap();
                tokio::select! {
                    () = serve(listener, bodies) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address: address.recv().unwrap(), _stop: stop }
    }

    /// The backend `bao` of a configuration.
    pub fn backend(&self) -> String {
        let auth = "auth: { method: jwt, mount: jwt, role: csi, audience: bao }";
        format!("  bao: {{ kind: vault, address: \"http://{}\", {auth} }}\n", self.address)
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

async fn serve(listener: TcpListener, bodies: Arc<Bodies>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let bodies = Arc::clone(&bodies);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, Arc::clone(&bodies)));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: hyper::Request<Incoming>, bodies: Arc<Bodies>) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let number = bodies.asked.fetch_add(1, Ordering::Relaxed);
    let (head, body) = request.into_parts();
    drop(body.collect().await);
    let path = head.uri.path().trim_start_matches("/v1/");
    let small = json!({ "password": SMALL_VALUE });
    let name = path.split('/').nth(1).unwrap_or_default();
    let text = match (path, name) {
        ("sys/health", _) => json!({ "initialized": true, "sealed": false, "standby": false }).to_string().into(),
        ("auth/jwt/login" | "auth/token/renew-self", _) => json!({ "auth": token(number) }).to_string().into(),
        (_, "db") => json!({ "data": small }).to_string().into(),
        (_, "large") => bodies.large.clone(),
        (_, "entries") => bodies.entries.clone(),
        (_, "leased") => leased(number, &small).into(),
        (_, "slow") => {
            sleep(SLOW).await;
            json!({ "data": small }).to_string().into()
        }
        _ => Bytes::from_static(b"{}"),
    };
    Ok(hyper::Response::new(Full::from(text)))
}

fn token(number: usize) -> serde_json::Value {
    json!({ "client_token": format!("a-token-of-the-store-{number}"), "accessor": format!("accessor-{number}"), "lease_duration": 3600, "renewable": true })
}

fn leased(number: usize, data: &serde_json::Value) -> String {
    json!({ "lease_id": format!("database/creds/app/{number}"), "lease_duration": 3600, "renewable": true, "data": data }).to_string()
}
