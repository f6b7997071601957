//! Real servers for the client's tests: HTTP/1.1 and HTTP/2, over TLS of a CA made for the test, over a Unix socket, and behind a TCP proxy
//! that can cut connections in silence.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A CA.
pub struct Authority {
    pub pem: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What a server is like, but for its answers.
pub struct Manner {
    pub alpn: &'static [&'static str],
    /// Not only encrypted: it asks for a client certificate.
    pub asks: bool,
    pub params: CertificateParams,
}

/// A server. It and all its connections are gone when dropped.
pub struct Server {
    pub address: SocketAddr,
    pub shared: Arc<Calls>,
    tasks: JoinSet<()>,
}

/// What came in.
#[derive(Default)]
pub struct Calls {
    pub connections: AtomicUsize,
    pub requests: Mutex<Vec<String>>,
    script: Mutex<VecDeque<Answer>>,
}

/// A status with headers.
pub type Answer = (u16, Vec<(&'static str, String)>);

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { pem: issuer.pem(), issuer }
    }

    pub fn issue(&self, params: &CertificateParams) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A client's certificate and key.
    pub fn write_client(&self, folder: &Path, name: &str) -> ClientCertificate {
        let (certificate, key) = self.issue(&CertificateParams::new(vec![name.to_owned()]).unwrap());
        let files = ClientCertificate { chain: folder.join("tls.crt"), key: folder.join("tls.key") };
        fs::write(&files.chain, certificate.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    pub fn acceptor(&self, manner: &Manner) -> TlsAcceptor {
        let (certificate, key) = self.issue(&manner.params);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
        let builder = if manner.asks {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(self.issuer.as_ref().der().clone()).unwrap();
            builder.with_client_cert_verifier(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = manner.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

impl Manner {
    pub fn named(name: &str) -> Self {
        Self { alpn: &["h2", "http/1.1"], asks: false, params: CertificateParams::new(vec![name.to_owned()]).unwrap() }
    }
}

impl Default for Manner {
    fn default() -> Self {
        // By its address: not every machine has the name `localhost` with the same address.
        Self::named("127.0.0.1")
    }
}

impl Server {
    pub fn start(authority: &Authority, manner: &Manner) -> Self {
        Self::at(bind(0), Some(authority.acceptor(manner)))
    }

    pub fn plain() -> Self {
        Self::at(bind(0), None)
    }

    /// Shows these certificates, and signs with this key, whether it is theirs or not.
    pub fn showing(chain: &[&Certificate], key: &KeyPair) -> Self {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let signer = provider.key_provider.load_private_key(PrivateKeyDer::try_from(key.serialize_der()).unwrap()).unwrap();
        let shown = CertifiedKey::new(chain.iter().map(|certificate| certificate.der().clone()).collect(), signer);
        let builder = ServerConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions().unwrap();
        let config = builder.with_no_client_auth().with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
        Self::at(bind(0), Some(TlsAcceptor::from(Arc::new(config))))
    }

    /// The server is gone, with all its connections; returns its address.
    pub async fn stop(mut self) -> SocketAddr {
        self.tasks.shutdown().await;
        // The connections' tasks end when they are next looked at.
        tokio::time::sleep(Duration::from_millis(2)).await;
        self.address
    }

    /// A new server in place of a former one.
    pub fn again(authority: &Authority, manner: &Manner, address: SocketAddr) -> Self {
        Self::at(bind(address.port()), Some(authority.acceptor(manner)))
    }

    fn at(listener: TcpListener, acceptor: Option<TlsAcceptor>) -> Self {
        let (address, shared) = (listener.local_addr().unwrap(), Arc::new(Calls::default()));
        let mut tasks = JoinSet::new();
        let calls = Arc::clone(&shared);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                calls.connections.fetch_add(1, Ordering::SeqCst);
                let (acceptor, calls) = (acceptor.clone(), Arc::clone(&calls));
                connections.spawn(async move {
                    match acceptor {
                        Some(acceptor) => {
                            let Ok(stream) = acceptor.accept(stream).await else { return };
                            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                            serve(stream, is_http2, calls).await;
                        }
                        None => serve(stream, false, calls).await,
                    }
                });
            }
        });
        Self { address, shared, tasks }
    }

    pub fn unix(path: &Path) -> JoinSet<()> {
        let (listener, mut tasks) = (UnixListener::bind(path).unwrap(), JoinSet::new());
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(stream, false, Arc::default()).await;
            }
        });
        tasks
    }

    /// These answers come first; then every path gets its own answer.
    pub fn script(&self, answers: impl IntoIterator<Item = Answer>) {
        *self.shared.script.lock().unwrap() = answers.into_iter().collect();
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().drain(..).collect()
    }
}

/// A port is free again at once when its server is gone.
pub fn bind(port: u16) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(([127, 0, 0, 1], port).into()).unwrap();
    socket.listen(256).unwrap()
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, is_http2: bool, calls: Arc<Calls>) {
    let service = service_fn(move |request| answer(request, Arc::clone(&calls)));
    if is_http2 {
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        let _ = builder.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
    }
}

async fn answer(request: Request<Incoming>, calls: Arc<Calls>) -> Result<Response<Full<Bytes>>, io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_or_else(|_| Bytes::new(), http_body_util::Collected::to_bytes);
    let path = head.uri.path_and_query().map_or("", |path| path.as_str());
    let told = |name: &str| head.headers.get(name).map_or(String::new(), |value| format!(" {name}={}", value.to_str().unwrap()));
    let proxied = if head.version < http::Version::HTTP_2 && head.uri.authority().is_some() { " absolute" } else { "" };
    assert_eq!(told("accept-encoding"), " accept-encoding=identity");
    calls.requests.lock().unwrap().push(format!(
        "{:?} {} {path}{}{}{proxied}",
        head.version,
        head.method,
        told("authorization"),
        told("proxy-authorization")
    ));
    let scripted = { calls.script.lock().unwrap().pop_front() };
    if let Some((status, headers)) = scripted {
        let mut answer = Response::builder().status(status);
        for (name, value) in headers {
            answer = answer.header(name, value);
        }
        return Ok(answer.body(Full::default()).unwrap());
    }
    match head.uri.path() {
        "/slow" => std::future::pending().await,
        "/large" => Ok(Response::new(Full::from(vec![b'x'; 5_000]))),
        "/breaks" => Err(io::Error::other("gone")),
        "/echo" => Ok(Response::new(Full::from(body))),
        _ => Ok(Response::new(Full::from(path.to_owned()))),
    }
}

/// A TCP proxy: passes bytes on, cuts silently, or (after CONNECT) passes bytes on to the named target.
pub struct Middle {
    pub address: SocketAddr,
    /// The CONNECT requests that came.
    pub asked: Arc<Mutex<Vec<String>>>,
    silent: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Middle {
    pub fn before(target: SocketAddr) -> Self {
        Self::start(target, None)
    }

    /// A proxy that answers CONNECT with a status, and leads to `target` for any request.
    pub fn proxy(target: SocketAddr, status: &'static str) -> Self {
        Self::start(target, Some(status))
    }

    fn start(target: SocketAddr, status: Option<&'static str>) -> Self {
        let listener = bind(0);
        let (address, asked, silent) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default(), watch::Sender::new(false));
        let (mut tasks, heard, hush) = (JoinSet::new(), Arc::clone(&asked), silent.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                // A new connection works: only the connections at the moment of the cut are dead.
                hush.send_replace(false);
                let (mut hush, heard) = (hush.subscribe(), Arc::clone(&heard));
                connections.spawn(async move {
                    if let Some(status) = status {
                        let connect = head(&mut stream).await;
                        heard.lock().unwrap().push(connect);
                        stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).await.unwrap();
                    }
                    let Ok(mut server) = TcpStream::connect(target).await else { return };
                    let cut = tokio::select! {
                        _ = copy_bidirectional(&mut stream, &mut server) => false,
                        _ = hush.wait_for(|silent| *silent) => true,
                    };
                    if cut {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self { address, asked, silent, _tasks: tasks }
    }

    /// From now on no bytes pass in either direction on the present connections, and neither side gets a signal.
    pub fn cut(&self) {
        self.silent.send_replace(true);
    }
}

/// The head of a request, byte by byte: the rest is not ours.
async fn head(stream: &mut TcpStream) -> String {
    use tokio::io::AsyncReadExt;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}
