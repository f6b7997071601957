//! Calls of the server's API, for setting up and for looking.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Duration, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Bao;

/// What the server answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    /// Null where there was no body.
    pub body: Value,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

impl Bao {
    /// One call below `/v1/`, on a connection of its own. It accepts any certificate of the server. A body of null is none. The headers go out in
    /// addition to those of token and namespace.
    pub async fn request(&self, method: &str, path: &str, body: Value, headers: &[(&str, &str)]) -> Answer {
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let mut request = hyper::Request::builder().method(method).uri(format!("/v1/{path}")).header("host", "localhost");
        if !self.token.is_empty() {
            request = request.header("x-vault-token", &self.token);
        }
        if !self.namespace.is_empty() {
            request = request.header("x-vault-namespace", &self.namespace);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).unwrap();
        let answered = timeout(Duration::from_mins(1), send(self.address(), self.server.options.tls, request));
        let answer = answered.await.unwrap_or_else(|_| panic!("{method} {path}: no answer in 60 s"));
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", self.log()))
    }

    /// [`Bao::request`], but only the status and the body.
    pub async fn api(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let answer = self.request(method, path, body, &[]).await;
        (answer.status, answer.body)
    }

    /// [`Bao::api`] for a call that must succeed.
    pub async fn must(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, body) = self.api(method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {body}");
        body
    }
}

/// Whether a server listens there and answers.
pub async fn answers(address: SocketAddr, tls: bool) -> bool {
    let request = hyper::Request::get("/v1/sys/seal-status").header("host", "localhost").body(Full::default()).unwrap();
    send(address, tls, request).await.is_ok()
}

type Failure = Box<dyn Error + Send + Sync>;

async fn send(address: SocketAddr, tls: bool, request: hyper::Request<Full<Bytes>>) -> Result<Answer, Failure> {
    let stream = TcpStream::connect(address).await?;
    if tls { exchange(trusting(stream).await?, request).await } else { exchange(stream, request).await }
}

async fn exchange<S>(stream: S, request: hyper::Request<Full<Bytes>>) -> Result<Answer, Failure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    connection.abort();
    let body = if body.is_empty() { Value::Null } else { json(&body) };
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
}

/// Metrics and the like are text.
fn json(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(body).into_owned()))
}

/// The certificate that a server shows now, valid or not.
pub async fn certificate(address: SocketAddr) -> Vec<u8> {
    let stream = trusting(TcpStream::connect(address).await.unwrap()).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

async fn trusting(stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    let name = ServerName::from(stream.peer_addr()?.ip());
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
