//! TLS to an endpoint: which CAs are trusted, the client's own certificate, and the name that the server must prove.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::certificate::{self, CertificateFault};
use super::files::{self, Ca, Of};
use super::{ClientCertificate, Endpoint, HttpConfig, HttpError, words};
use crate::model::quoted;

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
    let (roots, own, trusted) = match &config.ca {
        // Also if nothing is verified: the file is used when verification is on again.
        Some(path) => {
            let (roots, own) = roots_of(config, path)?;
            (Arc::new(roots), own, Some(path.display().to_string()))
        }
        None if config.verify => (system_roots()?, Vec::new(), None),
        None => return Ok(Arc::new(Verifier { usual: None, provider: Arc::clone(provider) })),
    };
    let inner = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider)).build();
    let usual = Usual { inner: inner.map_err(|error| HttpError::Tls(words::plain(&error.to_string())))?, own, trusted };
    Ok(Arc::new(Verifier { usual: config.verify.then_some(usual), provider: Arc::clone(provider) }))
}

/// The certificates that are trusted, each with its bytes in the files. A certificate that cannot be used is left out, with a warning: a
/// bundle may have one that only another library can read.
///
/// # Errors
/// No certificate is left.
fn roots_of(config: &HttpConfig, path: &Path) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), HttpError> {
    let Ca { files, left_out: mut unusable, ignored } = files::read_ca(config, path)?;
    let (mut roots, mut own) = (RootCertStore::empty(), Vec::new());
    for file in files {
        if let Some(problem) = unread(&file.bytes) {
            tracing::warn!(file = %file.path.display(), problem, "a part of a CA file is not read (correct or remove it; the others are in force)");
            unusable
                .get_or_insert_with(|| if file.path == path { problem.to_owned() } else { format!("{} {problem}", file.path.display()) });
        } else if ignored.is_some() && blocks(&file.bytes).next().is_none() {
            tracing::warn!(file = %file.path.display(), "a file of the CA folder holds no certificate in PEM (correct or remove it; the others are in force)");
        }
        for (number, block) in (1..).zip(blocks(&file.bytes)) {
            let certificate = CertificateDer::from_pem_slice(block).map_err(|error| pem_problem(&error));
            let added = certificate.and_then(|certificate| {
                roots.add(certificate.clone()).map_err(|error| format!("not a usable certificate: {}", words::of_tls(&error)))?;
                own.push(certificate);
                Ok(())
            });
            if let Err(problem) = added {
                tracing::warn!(file = %file.path.display(), certificate = number, problem,
                    "a certificate of a CA file cannot be used and is left out (correct or remove it; the others are in force)");
                unusable.get_or_insert_with(|| format!("certificate {number} of {}: {problem}", file.path.display()));
            }
        }
    }
    let problem = || unusable.unwrap_or_else(|| nothing_in(ignored.as_deref()));
    if roots.is_empty() { Err(files::fault(config, Of::Ca, path, problem())) } else { Ok((roots, own)) }
}

/// For a folder: which files are read there, and which are not.
fn nothing_in(ignored: Option<&[String]>) -> String {
    const FEW: usize = 3;
    match ignored {
        None => "holds no certificate".to_owned(),
        Some([]) => format!("holds no certificate: {}", files::NAMES),
        Some(ignored) => {
            let shown = ignored.iter().take(FEW).map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
            let more = ignored.len().saturating_sub(FEW);
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            format!("holds no certificate: {}, not {shown}{more}", files::NAMES)
        }
    }
}

/// Formats that somebody may take for certificates in PEM.
fn unread(file: &[u8]) -> Option<&'static str> {
    const OTHERS: [(&[u8], &str); 4] = [
        (
            b"-----BEGIN TRUSTED CERTIFICATE-----",
            "has a certificate in OpenSSL's own form (convert it: `openssl x509 -in FILE -out ca.pem`)",
        ),
        (b"-----BEGIN X509 CERTIFICATE-----", "has a certificate under an old title (convert it: `openssl x509 -in FILE -out ca.pem`)"),
        (b"-----BEGIN PKCS7-----", "is in PKCS#7 (convert it: `openssl pkcs7 -print_certs -in FILE -out ca.pem`)"),
        (b"-----BEGIN CERTIFICATE REQUEST-----", "has a request for a certificate, not a certificate (name the certificate)"),
    ];
    // A sequence of ASN.1, longer than 127 bytes.
    if file.starts_with(&[0x30, 0x81]) || file.starts_with(&[0x30, 0x82]) {
        return Some("is in DER (convert it: `openssl x509 -inform der -in FILE -out ca.pem`)");
    }
    let titles = file.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"-----BEGIN"));
    titles.filter_map(|line| OTHERS.iter().find(|(title, _)| line.starts_with(title))).map(|(_, problem)| *problem).next()
}

/// The certificates of a PEM file, each as text. A broken certificate does not stop those after it.
fn blocks(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    let mut starts = (0..file.len()).filter(|at| file[*at..].starts_with(BEGIN)).peekable();
    std::iter::from_fn(move || {
        let start = starts.next()?;
        Some(&file[start..starts.peek().copied().unwrap_or(file.len())])
    })
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

/// Without the file's content: a parser's message might quote it.
#[allow(clippy::wildcard_enum_match_arm)] // all the others say what is wrong with the text
fn pem_problem(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => "nothing of that kind is in it".to_owned(),
        _ => "it is not PEM".to_owned(),
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

/// The usual verifier, which also reports the certificate's content and accepts one that is itself in `ca`; or, with `verify: false`, a
/// verifier that accepts any. Both check that the server has the certificate's key.
#[derive(Debug)]
struct Verifier {
    usual: Option<Usual>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
struct Usual {
    inner: Arc<WebPkiServerVerifier>,
    /// The certificates in this endpoint's own `ca`, without those that the system trusts.
    own: Vec<CertificateDer<'static>>,
    /// The path of `ca`. `None`: what the system trusts.
    trusted: Option<String>,
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
        let Some(usual) = &self.usual else { return Ok(ServerCertVerified::assertion()) };
        let verified = usual.inner.verify_server_cert(certificate, intermediates, name, ocsp, now);
        let verified =
            verified.or_else(|error| if usual.is_pinned(&error, certificate) { itself(certificate, name, now) } else { Err(error) });
        verified.map_err(|error| {
            let rustls::Error::InvalidCertificate(why) = &error else { return error };
            CertificateFault::new(why, certificate, name, usual.trusted.as_deref(), usual.has(certificate)).into_tls()
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

// === impl Usual ===

impl Usual {
    /// Whether a server's certificate has no other fault than that it is a CA's, and it is byte for byte in this endpoint's own `ca`.
    ///
    /// `openssl req -x509` makes such certificates (CA:TRUE), and other clients accept them. The author who named it as `ca` already trusts
    /// its key to sign for any server; a server that shows it itself needs less trust.
    fn is_pinned(&self, error: &rustls::Error, certificate: &CertificateDer<'_>) -> bool {
        certificate::is_of_authority(error) && self.has(certificate)
    }

    fn has(&self, certificate: &CertificateDer<'_>) -> bool {
        self.own.iter().any(|own| own.as_ref() == certificate.as_ref())
    }
}

/// The checks that the usual verifier would make next, for a certificate that is itself trusted: dates, extended key usage and the name. It
/// is an anchor, so the only signature is the handshake's, which is verified as always.
fn itself(certificate: &CertificateDer<'_>, name: &ServerName<'_>, now: UnixTime) -> Result<ServerCertVerified, rustls::Error> {
    certificate::check_dates_and_usage(certificate, now)?;
    verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
    Ok(ServerCertVerified::assertion())
}
