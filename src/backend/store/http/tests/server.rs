//! A small HTTP store: it answers as a test says, and remembers the requests.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};
use tokio_rustls::TlsAcceptor;

use crate::http::tests::server::bind;

/// One request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `GET /path?query`.
    pub line: String,
    pub host: String,
    pub headers: HeaderMap,
    pub body: String,
}

#[derive(Clone, Debug)]
pub struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    after: Duration,
}

/// It and all its connections are gone when dropped.
pub struct Server {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    _tasks: JoinSet<()>,
}

type Answering = Arc<dyn Fn(&Asked) -> Answer + Send + Sync>;

impl Server {
    pub fn start(acceptor: TlsAcceptor, answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let (listener, answering, asked) = (bind(0), Arc::new(answer) as Answering, Arc::<Mutex<Vec<Asked>>>::default());
        let (address, heard, mut tasks) = (listener.local_addr().unwrap(), Arc::clone(&asked), JoinSet::new());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answering, heard) = (acceptor.clone(), Arc::clone(&answering), Arc::clone(&heard));
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| serve(request, Arc::clone(&answering), Arc::clone(&heard)));
                    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, asked, _tasks: tasks }
    }

    /// Since the last time.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().drain(..).collect()
    }

    pub fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line).collect()
    }
}

async fn serve(
    request: Request<Incoming>,
    answering: Answering,
    heard: Arc<Mutex<Vec<Asked>>>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let body = String::from_utf8(body.collect().await?.to_bytes().to_vec()).unwrap();
    let header = |name: &str| parts.headers.get(name).map_or(String::new(), |value| value.to_str().unwrap().to_owned());
    let host = parts.uri.authority().map_or_else(|| header("host"), ToString::to_string);
    let line = format!("{} {}", parts.method, parts.uri.path_and_query().unwrap());
    let asked = Asked { line, host, headers: parts.headers, body };
    let answer = answering(&asked);
    heard.lock().unwrap().push(asked);
    sleep(answer.after).await;
    let mut response = Response::builder().status(answer.status);
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::from(answer.body)).unwrap())
}

impl Asked {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), after: Duration::ZERO }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }
}
