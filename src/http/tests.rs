//! Against a real TLS server, with a CA made for the test.

use std::net::SocketAddr;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), issuer: Issuer::new(params, key) }
    }

    /// A server for `name` that answers each path in its own way.
    async fn serve(&self, name: &str) -> SocketAddr {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        let (acceptor, listener) = (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
                });
            }
        });
        address
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, io::Error> {
    match request.uri().path() {
        "/slow" => std::future::pending().await,
        "/large" => Ok(Response::new(Full::from(vec![b'x'; 5_000]))),
        "/moved" => Ok(Response::builder().status(302).header("location", "https://elsewhere.example/").body(Full::default()).unwrap()),
        "/breaks" => Err(io::Error::other("gone")),
        path => Ok(Response::new(Full::from(path.to_owned()))),
    }
}

fn client(pem: &str, folder: &Path) -> HttpClient {
    fs::write(folder.join("ca.crt"), pem).unwrap();
    HttpClient::new(HttpConfig { ca: Some(folder.join("ca.crt")), max_body: 4096 }).unwrap()
}

async fn get(client: &HttpClient, address: SocketAddr, path: &str) -> Result<(u16, String), HttpError> {
    let request = Request::get(format!("https://localhost:{}{path}", address.port())).body(Bytes::new()).unwrap();
    let answer = client.send(request, Instant::now() + Duration::from_secs(2)).await?;
    Ok((answer.status().as_u16(), String::from_utf8(answer.body().expose().to_vec()).unwrap()))
}

#[tokio::test]
async fn answers_come_whole_and_redirects_are_not_followed() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let address = authority.serve("localhost").await;
    let client = client(&authority.pem, folder.path());
    assert_eq!(get(&client, address, "/hello").await.unwrap(), (200, "/hello".to_owned()));
    assert_eq!(get(&client, address, "/moved").await.unwrap().0, 302);
}

#[tokio::test]
async fn every_failure_is_told_apart() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let address = authority.serve("localhost").await;
    let client = client(&authority.pem, folder.path());
    assert!(matches!(get(&client, address, "/slow").await, Err(HttpError::TimedOut)));
    assert!(matches!(get(&client, address, "/large").await, Err(HttpError::TooLarge { limit: 4096 })));
    assert!(matches!(get(&client, address, "/breaks").await, Err(HttpError::Broken(_))));
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert!(matches!(get(&client, closed, "/").await, Err(HttpError::Connect(_))));
}

#[tokio::test]
async fn a_server_of_another_ca_or_name_is_refused() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let stranger = Authority::new().serve("localhost").await;
    let misnamed = authority.serve("elsewhere.example").await;
    let client = client(&authority.pem, folder.path());
    for address in [stranger, misnamed] {
        let refused = get(&client, address, "/").await.unwrap_err();
        assert!(matches!(&refused, HttpError::Tls(words) if words.contains("certificate")), "{refused}");
    }
}

#[tokio::test]
async fn a_changed_ca_is_taken_up_and_a_faulty_one_is_not() {
    let (first, second, folder) = (Authority::new(), Authority::new(), tempfile::tempdir().unwrap());
    let address = second.serve("localhost").await;
    let client = client(&first.pem, folder.path());
    assert!(get(&client, address, "/").await.is_err());
    fs::write(folder.path().join("ca.crt"), &second.pem).unwrap();
    assert!(get(&client, address, "/").await.is_ok());
    fs::write(folder.path().join("ca.crt"), "-----BEGIN CERTIFICATE-----\ngarbage").unwrap();
    assert!(get(&client, address, "/").await.is_ok());
}

#[tokio::test]
async fn a_folder_of_certificates_will_do_and_an_empty_one_will_not() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let config = HttpConfig { ca: Some(folder.path().to_owned()), max_body: 10 };
    let refused = HttpClient::new(config.clone()).unwrap_err().to_string().replace(folder.path().to_str().unwrap(), "DIR");
    insta::assert_snapshot!(refused, @"the CA cannot be read: DIR: holds no certificate (name PEM certificates; kubelet mounts them from a ConfigMap or Secret)");
    fs::write(folder.path().join("a.pem"), &authority.pem).unwrap();
    assert!(HttpClient::new(config).is_ok());
}
