//! An HTTP server that answers as a test says, and remembers the requests: an HTTP store, a cloud's services, or a service of the node. A
//! store's tests write only the usual answers of theirs.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};
use tokio_rustls::TlsAcceptor;

use crate::http::tests::server::bind;

/// One request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// How many came before it.
    pub before: usize,
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
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

struct State {
    usual: Box<dyn Fn(&Asked) -> Answer + Send + Sync>,
    saying: Mutex<Option<Saying>>,
    asked: Mutex<(usize, Vec<Asked>)>,
}

type Saying = Box<dyn Fn(&Asked) -> Option<Answer> + Send + Sync>;

// === impl Server ===

impl Server {
    /// Without TLS.
    pub fn plain(usual: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(None, usual)
    }

    pub fn secured(acceptor: TlsAcceptor, usual: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(Some(acceptor), usual)
    }

    fn start(acceptor: Option<TlsAcceptor>, usual: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let state = Arc::new(State { usual: Box::new(usual), saying: Mutex::default(), asked: Mutex::default() });
        let (listener, serving, mut tasks) = (bind(0), Arc::clone(&state), JoinSet::new());
        let address = listener.local_addr().unwrap();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, state) = (acceptor.clone(), Arc::clone(&serving));
                connections.spawn(async move {
                    match acceptor {
                        None => serve(stream, state).await,
                        Some(acceptor) => {
                            let Ok(stream) = acceptor.accept(stream).await else { return };
                            serve(stream, state).await;
                        }
                    }
                });
            }
        });
        Self { address, state, _tasks: tasks }
    }

    /// Its origin, if it is without TLS.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets its answers from now on; `None`: the usual answer.
    pub fn says(&self, saying: impl Fn(&Asked) -> Option<Answer> + Send + Sync + 'static) {
        *self.state.saying.lock().unwrap() = Some(Box::new(saying));
    }

    /// Since the last time.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.asked.lock().unwrap().1)
    }

    pub fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line).collect()
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, state: Arc<State>) {
    let service = service_fn(move |request| answer(request, Arc::clone(&state)));
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let body = String::from_utf8(body.collect().await?.to_bytes().to_vec()).unwrap();
    let header = |name: &str| parts.headers.get(name).map_or(String::new(), |value| value.to_str().unwrap().to_owned());
    let host = parts.uri.authority().map_or_else(|| header("host"), ToString::to_string);
    let line = format!("{} {}", parts.method, parts.uri.path_and_query().unwrap());
    let asked = state.remember(Asked { before: 0, line, host, headers: parts.headers, body });
    let said = state.saying.lock().unwrap().as_ref().and_then(|saying| saying(&asked));
    let answer = said.unwrap_or_else(|| (state.usual)(&asked));
    sleep(answer.after).await;
    let mut response = Response::builder().status(answer.status);
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::from(answer.body)).unwrap())
}

impl State {
    fn remember(&self, asked: Asked) -> Asked {
        let (count, all) = &mut *self.asked.lock().unwrap();
        let asked = Asked { before: *count, ..asked };
        *count += 1;
        all.push(asked.clone());
        asked
    }
}

// === impl Asked ===

impl Asked {
    /// With the query.
    pub fn path(&self) -> &str {
        self.line.split_once(' ').unwrap().1
    }

    /// Empty: it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The body; null, if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// A parameter of a form, with escapes resolved.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let found = self.body.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
        let mut bytes = Vec::new();
        let mut rest = found.as_bytes();
        while let [first, behind @ ..] = rest {
            if *first == b'%' {
                bytes.push(u8::from_str_radix(str::from_utf8(&behind[..2]).unwrap(), 16).unwrap());
                rest = &behind[2..];
            } else {
                bytes.push(*first);
                rest = behind;
            }
        }
        Some(String::from_utf8(bytes).unwrap())
    }
}

// === impl Answer ===

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), after: Duration::ZERO }
    }

    pub fn json(body: &Value) -> Self {
        Self::new(200, body.to_string())
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }
}
