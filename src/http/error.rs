//! Why a call got no answer. No variant has a body, a header or a query; addresses appear as host and port.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use http::StatusCode;
use hyper_util::client::legacy;

use super::certificate::CertificateFault;
use super::words;
use crate::budget::Unpaid;

/// Why a call failed before there was an answer, or while the answer was read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HttpError {
    /// There was a connection, and it broke before the answer was complete.
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("the CA cannot be read: {path}: {problem} (name PEM certificates; kubelet mounts them from a ConfigMap or Secret)")]
    Ca { path: PathBuf, problem: String },
    /// A server answered with a certificate that Keyferry does not trust.
    #[error(transparent)]
    Certificate(Box<CertificateFault>),
    #[error(
        "the client certificate cannot be used: {path}: {problem} (name PEM files: the certificate with its chain, and its private key)"
    )]
    ClientCertificate { path: PathBuf, problem: String },
    /// A file that a class names cannot be used. The file and the reason are only for the node's admin.
    #[error("a TLS file that the class names cannot be used")]
    ClassFiles(String),
    /// The answer's body is encoded. `value` is quoted.
    #[error("its answer ({status}) has {header} {value}, which Keyferry does not take: it asks for the plain body")]
    Coded { status: StatusCode, header: &'static str, value: String },
    /// Nothing was sent: no server is there, or it cannot be reached.
    #[error("no connection: {0}")]
    Connect(String),
    /// A proxy of the environment cannot be used, or refuses the connection.
    #[error("{0}")]
    Proxy(String),
    /// Nothing was sent to the redirect's target.
    #[error("it redirects to {to}, which is not followed: {why}")]
    Redirect { to: String, why: &'static str },
    /// The request itself cannot be sent.
    #[error("the request cannot be sent: {0}")]
    Request(String),
    /// There is no memory for its answer now.
    #[error("there is no room for its answer at the moment")]
    Short,
    #[error("no answer in time")]
    TimedOut,
    /// A server answered, but there is no secure connection, for another reason than the server's certificate.
    #[error("no secure connection: {0}")]
    Tls(String),
    #[error("the answer is larger than {limit} bytes")]
    TooLarge { limit: usize },
}

/// An error, and whether the server may have seen any of the request.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: HttpError,
    pub(super) seen: bool,
}

// === impl HttpError ===

impl HttpError {
    /// With details that only the node's admin may know.
    pub fn for_admin(&self) -> String {
        match self {
            Self::ClassFiles(why) => format!("{self}: {why}"),
            Self::Broken(_)
            | Self::Ca { .. }
            | Self::Certificate(_)
            | Self::ClientCertificate { .. }
            | Self::Coded { .. }
            | Self::Connect(_)
            | Self::Proxy(_)
            | Self::Redirect { .. }
            | Self::Request(_)
            | Self::Short
            | Self::TimedOut
            | Self::Tls(_)
            | Self::TooLarge { .. } => self.to_string(),
        }
    }

    /// Whether the same call may succeed a moment later.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::Broken(_) | Self::Connect(_) => true,
            Self::Ca { .. }
            | Self::Certificate(_)
            | Self::ClassFiles(_)
            | Self::ClientCertificate { .. }
            | Self::Coded { .. }
            | Self::Proxy(_)
            | Self::Redirect { .. }
            | Self::Request(_)
            | Self::Short
            | Self::TimedOut
            | Self::Tls(_)
            | Self::TooLarge { .. } => false,
        }
    }

    /// A handshake that failed.
    pub(super) fn of_handshake(error: &io::Error) -> Self {
        match find(error) {
            Some(cause) => Self::of_tls(cause),
            None => Self::Connect(format!("it was cut in the TLS handshake: {}", chain(error))),
        }
    }

    /// An answer that broke off.
    pub(super) fn of_body(error: &hyper::Error) -> Self {
        Self::Broken(chain(error))
    }

    #[allow(clippy::wildcard_enum_match_arm)] // rustls's errors may become more; its words will do
    fn of_tls(error: &rustls::Error) -> Self {
        if let Some(fault) = CertificateFault::of(error) {
            return Self::Certificate(Box::new(fault.clone()));
        }
        let told = match error {
            rustls::Error::AlertReceived(alert) => refusal(&words::name_of(&format!("{alert:?}"))),
            rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
                "the server does not speak TLS (should the address begin with http://?)".to_owned()
            }
            other => words::of_tls(other),
        };
        Self::Tls(told)
    }
}

/// rustls begins its message with this if a server has ended the connection. HTTP/2 keeps only this text of the error.
const ALERT: &str = "received fatal alert: ";

/// What the server's alert means (RFC 8446, section 6.2).
fn refusal(alert: &str) -> String {
    let meant = match alert {
        "CertificateRequired" => "it needs a client certificate, and none is configured",
        "AccessDenied"
        | "BadCertificate"
        | "CertificateExpired"
        | "CertificateRevoked"
        | "CertificateUnknown"
        | "DecryptError"
        | "UnknownCA"
        | "UnsupportedCertificate" => "it does not take the client certificate",
        "UnrecognisedName" => "it has no certificate for that server name",
        "HandshakeFailure" | "InsufficientSecurity" | "ProtocolVersion" => {
            "it does not speak TLS as Keyferry does (1.2 or 1.3 with modern ciphers), or needs a client certificate"
        }
        _ => "it gave no reason that Keyferry knows",
    };
    format!("the server refused: {alert}: {meant}")
}

// === impl Failed ===

impl Failed {
    pub(super) fn unseen(error: HttpError) -> Self {
        Self { error, seen: false }
    }

    pub(super) fn seen(error: HttpError) -> Self {
        Self { error, seen: true }
    }

    /// What hyper's pool reports. Errors of Keyferry's own connector come back unchanged.
    pub(super) fn of(error: &legacy::Error) -> Self {
        if let Some(ours) = find::<HttpError>(error) {
            return Self::unseen(ours.clone());
        }
        let said = error.source().map_or_else(|| words::plain(&error.to_string()), chain);
        // The server refused only after the handshake: TLS 1.3 servers refuse a client certificate like this.
        let told = match said.split_once(ALERT) {
            Some((_, rest)) => HttpError::Tls(refusal(&words::name_of(rest))),
            None => HttpError::Broken(said),
        };
        // Only a request that had a connection reports one; and hyper cancels a request that it has not begun to send.
        let unsent = error.connect_info().is_none() || find::<hyper::Error>(error).is_some_and(hyper::Error::is_canceled);
        Self { error: told, seen: !unsent }
    }
}

// === chains of causes ===

fn find<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
    error.downcast_ref().or_else(|| find(cause(error)?))
}

/// An [`io::Error`] skips the error that it wraps when it is asked for its source.
fn cause<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref).map(|inner| inner as &(dyn Error + 'static));
    wrapped.or_else(|| error.source())
}

/// An error and its causes, in one line.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut said = words::plain(&error.to_string());
    let mut next = cause(error);
    while let Some(inner) = next {
        let text = inner.downcast_ref().map_or_else(|| words::plain(&inner.to_string()), words::of_tls);
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        next = cause(inner);
    }
    said
}

impl From<Unpaid> for HttpError {
    fn from(unpaid: Unpaid) -> Self {
        match unpaid {
            Unpaid::Short => Self::Short,
            Unpaid::TooLarge { most } => Self::TooLarge { limit: most },
        }
    }
}
