//! A TLS server that answers as a test says, and otherwise as the API server does. The unit tests of the crate use it too.

#![allow(clippy::unwrap_used, dead_code)] // tests; and neither of the two crates that it is a module of needs all of it

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// The server. It is gone when dropped.
pub struct ApiServer {
    pub address: SocketAddr,
    /// The CA that its certificate leads to.
    pub ca: String,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    answer: Mutex<Option<Answer>>,
    calls: Mutex<VecDeque<Call>>,
}

/// A call as it came.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: String,
    pub path: String,
    pub authorization: Option<String>,
    pub content_type: Option<String>,
    pub body: String,
}

/// Status and body.
pub type Reply = Box<dyn Fn(&Call) -> (u16, String) + Send>;

/// What to answer.
pub enum Answer {
    Never,
    Status(u16),
    Text(u16, String),
    /// By the call.
    With(Reply),
}

impl ApiServer {
    /// Starts one at a free port of 127.0.0.1, with a CA of its own.
    pub async fn start(answer: Answer) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap().pem();
        let acceptor = acceptor(&Issuer::new(params, key));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { answer: Mutex::new(Some(answer)), calls: Mutex::default() });
        let serving = tokio::spawn(serve(listener, acceptor, Arc::clone(&shared)));
        Self { address, ca, shared, serving }
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    pub fn answer(&self, answer: Answer) {
        *self.shared.answer.lock().unwrap() = Some(answer);
    }

    /// Cuts every connection as soon as it is made.
    pub fn go_down(&self) {
        *self.shared.answer.lock().unwrap() = None;
    }

    /// The calls since this function was last called.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().unwrap().drain(..).collect()
    }

    /// Writes `ca.crt` and `token` into a folder, as kubelet does.
    pub fn service_account(&self, folder: &Path, token: &str) {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("ca.crt"), &self.ca).unwrap();
        std::fs::write(folder.join("token"), token).unwrap();
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn acceptor(issuer: &Issuer<'_, KeyPair>) -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, issuer).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        if shared.answer.lock().unwrap().is_none() {
            continue;
        }
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| respond(request, Arc::clone(&shared)));
            // One connection per call: a server that goes down is down at once.
            let _ = hyper::server::conn::http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn respond(request: hyper::Request<Incoming>, shared: Arc<Shared>) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    let header = |name| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let (authorization, content_type) = (header("authorization"), header("content-type"));
    let call = Call { method: head.method.to_string(), path: head.uri.to_string(), authorization, content_type, body };
    shared.calls.lock().unwrap().push_back(call.clone());
    let answer = match &*shared.answer.lock().unwrap() {
        None | Some(Answer::Never) => None,
        Some(Answer::Status(code)) => Some((*code, String::new())),
        Some(Answer::Text(code, text)) => Some((*code, text.clone())),
        Some(Answer::With(answer)) => Some(answer(&call)),
    };
    let Some((code, text)) = answer else { return std::future::pending().await };
    Ok(hyper::Response::builder().status(code).body(Full::from(text)).unwrap())
}
