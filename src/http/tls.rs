//! TLS to an endpoint: whom we trust, who we are, and which name the server must prove.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::certificate::CertificateFault;
use super::files::{self, Of};
use super::{ClientCertificate, Endpoint, HttpConfig, HttpError, words};

pub(super) fn server_name(endpoint: &Endpoint, config: &HttpConfig) -> Result<ServerName<'static>, HttpError> {
    endpoint.server_name(config.server_name.as_deref()).map_err(HttpError::Tls)
}

/// Reads the files of a configuration.
pub(super) fn client_config(config: &HttpConfig) -> Result<ClientConfig, HttpError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = verifier(config, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| HttpError::Tls(words::of_tls(&error)))?
        .dangerous() // either our own wrapper around the usual verifier, or what `verify: false` asks for
        .with_custom_certificate_verifier(verifier);
    let mut tls = match &config.certificate {
        Some(certificate) => {
            let (chain, key) = certificate.read(config)?;
            builder.with_client_auth_cert(chain, key).map_err(|error| certificate.unusable(config, &error))?
        }
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

fn verifier(config: &HttpConfig, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, HttpError> {
    let (roots, trusted) = match &config.ca {
        // Also where nothing is verified: it is in force again once something is.
        Some(path) => (Arc::new(roots_of(config, path)?), path.display().to_string()),
        None if config.verify => (system_roots()?, "a CA that the system trusts".to_owned()),
        None => return Ok(Arc::new(Verifier { usual: None, provider: Arc::clone(provider) })),
    };
    let inner = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider)).build();
    let usual = Usual { inner: inner.map_err(|error| HttpError::Tls(words::plain(&error.to_string())))?, trusted };
    Ok(Arc::new(Verifier { usual: config.verify.then_some(usual), provider: Arc::clone(provider) }))
}

fn roots_of(config: &HttpConfig, path: &Path) -> Result<RootCertStore, HttpError> {
    let fault = |problem: String| files::fault(config, Of::Ca, path, problem);
    let mut roots = RootCertStore::empty();
    for file in files::read_ca(config, path)? {
        for certificate in CertificateDer::pem_slice_iter(&file) {
            let certificate = certificate.map_err(|error| fault(pem_problem(&error)))?;
            roots.add(certificate).map_err(|error| fault(format!("not a usable certificate: {}", words::of_tls(&error))))?;
        }
    }
    if roots.is_empty() { Err(fault("holds no certificate".to_owned())) } else { Ok(roots) }
}

/// What the system trusts, read once for all endpoints: it comes with the image.
fn system_roots() -> Result<Arc<RootCertStore>, HttpError> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(Arc::clone(roots));
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(HttpError::Tls("the system trusts no CA, for its bundle is missing or empty (configure the server's CA)".to_owned()));
    }
    Ok(Arc::clone(ROOTS.get_or_init(|| Arc::new(roots))))
}

/// Without what the file holds: a parser's words might quote it.
#[allow(clippy::wildcard_enum_match_arm)] // all the others say what is wrong with the text
fn pem_problem(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => "nothing of that kind is in it".to_owned(),
        _ => "it is no PEM".to_owned(),
    }
}

// === impl ClientCertificate ===

impl ClientCertificate {
    fn read(&self, config: &HttpConfig) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), HttpError> {
        let fault = |path: &Path, problem: String| files::fault(config, Of::Client, path, problem);
        let of_chain = |error: pem::Error| fault(&self.chain, pem_problem(&error));
        let chain = files::read(config, Of::Client, &self.chain)?;
        let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>().map_err(of_chain)?;
        if chain.is_empty() {
            return Err(fault(&self.chain, "holds no certificate".to_owned()));
        }
        let key = files::read(config, Of::Client, &self.key)?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| fault(&self.key, pem_problem(&error)))?;
        Ok((chain, key))
    }

    #[allow(clippy::wildcard_enum_match_arm)] // rustls's errors may become more; its words will do
    fn unusable(&self, config: &HttpConfig, error: &rustls::Error) -> HttpError {
        let problem = match error {
            rustls::Error::InconsistentKeys(_) => format!("{} is not its private key", self.key.display()),
            other => words::of_tls(other),
        };
        files::fault(config, Of::Client, &self.chain, problem)
    }
}

/// The usual verifier, which also says what the certificate was; or, as `verify: false` asks, one that takes any. That the server holds
/// the certificate's key is seen to in either case.
#[derive(Debug)]
struct Verifier {
    usual: Option<Usual>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
struct Usual {
    inner: Arc<WebPkiServerVerifier>,
    trusted: String,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(Usual { inner, trusted }) = &self.usual else { return Ok(ServerCertVerified::assertion()) };
        inner.verify_server_cert(certificate, intermediates, name, ocsp, now).map_err(|error| {
            let rustls::Error::InvalidCertificate(why) = &error else { return error };
            CertificateFault::new(why, certificate, name, trusted).into_tls()
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
