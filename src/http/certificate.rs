//! What a server's certificate said, if it is the reason that there is no connection: the person who must correct it needs its names and
//! dates.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, OtherError};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::words;
use crate::model::clean;

/// What is trusted without `ca`.
const SYSTEM: &str = "a CA that the system trusts";

/// The most names of a certificate in a message.
const NAMES: usize = 8;

/// A server's certificate that Keyferry does not trust, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateFault {
    pub problem: CertificateProblem,
    /// The names and addresses that it is for, as it says.
    pub names: Vec<String>,
    /// Who signed it, as it says.
    pub issuer: String,
    /// The start and end of its validity, as it says. `None`: it cannot be read.
    pub valid: Option<(Timestamp, Timestamp)>,
    /// The name that it should be for.
    pub wanted: String,
    /// What should have signed it: the path of `ca`. `None`: one of the system's CAs.
    pub trusted: Option<String>,
}

/// What is wrong with a certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CertificateProblem {
    /// It is a CA's certificate (CA:TRUE), and is not itself trusted.
    Authority {
        /// Whether it says that it signed itself.
        is_own: bool,
    },
    Expired,
    NotYetValid,
    /// As text that follows a colon.
    Other(String),
    OtherName,
    /// It names no server at all.
    Nameless,
    /// It is itself in `ca`, but is not a CA's, and its issuer is not in `ca`.
    NotAnAuthority,
    /// No trusted CA has signed it.
    UnknownIssuer,
}

// === impl CertificateFault ===

impl CertificateFault {
    /// The fault that one of our verifiers has put into an error.
    pub(super) fn of(error: &rustls::Error) -> Option<&Self> {
        let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(fault))) = error else { return None };
        fault.downcast_ref()
    }

    pub(super) fn new(
        error: &CertificateError,
        certificate: &CertificateDer<'_>,
        wanted: &ServerName<'_>,
        trusted: Option<&str>,
        is_listed: bool,
    ) -> Self {
        let facts = Facts::of(certificate);
        let problem = CertificateProblem::of(error, &facts);
        let is_leaf = is_listed && problem == CertificateProblem::UnknownIssuer;
        let problem = if is_leaf { CertificateProblem::NotAnAuthority } else { problem };
        Self {
            problem,
            names: facts.names,
            issuer: facts.issuer,
            valid: facts.valid,
            wanted: wanted.to_str().into_owned(),
            trusted: trusted.map(str::to_owned),
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self.problem {
            CertificateProblem::Authority { is_own: true } => {
                "name this very certificate as the backend's `ca`, or issue one with CA:FALSE"
            }
            CertificateProblem::Authority { is_own: false } => "issue the server a certificate with CA:FALSE",
            CertificateProblem::Expired => "renew the server's certificate",
            CertificateProblem::NotYetValid => "check that this node's clock is right",
            CertificateProblem::Other(_) => "give the server another certificate",
            CertificateProblem::OtherName => "use an address that it is for, or name the server that it is for",
            CertificateProblem::Nameless => "issue the server a certificate with a subjectAltName",
            CertificateProblem::NotAnAuthority | CertificateProblem::UnknownIssuer => "name the CA that issued it",
        }
    }

    /// As an error of rustls: the server gets the alert for a certificate that is not trusted.
    pub(super) fn into_tls(self) -> rustls::Error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(self))))
    }
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = match self.names.as_slice() {
            [] => "no name".to_owned(),
            names if names.len() > NAMES => format!("{} and {} more", names[..NAMES].join(", "), names.len() - NAMES),
            names => names.join(", "),
        };
        let day = |time: Timestamp| time.strftime("%Y-%m-%d");
        let valid = self.valid.map_or_else(String::new, |(from, to)| format!(" (valid {} to {})", day(from), day(to)));
        match &self.problem {
            CertificateProblem::Authority { is_own: true } => {
                write!(f, "the server's certificate for {names}{valid} is a CA's own (CA:TRUE), and ")?;
                match &self.trusted {
                    Some(ca) => write!(f, "not byte for byte in {ca}: name this very certificate there")?,
                    None => write!(f, "no `ca` is configured: name this very certificate as the backend's `ca`")?,
                }
                f.write_str(", or give the server one with CA:FALSE")
            }
            CertificateProblem::Authority { is_own: false } => write!(
                f,
                "the server's certificate for {names}{valid}, issued by {}, is itself a CA's (CA:TRUE): give the server one with CA:FALSE",
                self.issuer
            ),
            CertificateProblem::Expired => write!(f, "the server's certificate for {names} has expired{valid}"),
            CertificateProblem::NotYetValid => write!(f, "the server's certificate for {names} is not valid yet{valid}"),
            CertificateProblem::Other(problem) => write!(f, "the server's certificate for {names}{valid} cannot be used: {problem}"),
            CertificateProblem::OtherName => write!(f, "the server's certificate is for {names}{valid}, not for {}", self.wanted),
            CertificateProblem::Nameless => {
                write!(f, "the server's certificate{valid} has no subjectAltName, so it is not for {}", self.wanted)
            }
            CertificateProblem::NotAnAuthority => {
                let ca = self.trusted.as_deref().unwrap_or(SYSTEM);
                write!(
                    f,
                    "the server's certificate for {names}{valid}, issued by {}, is itself in {ca}, but is not a CA's (CA:FALSE): name the one that issued it",
                    self.issuer
                )
            }
            CertificateProblem::UnknownIssuer => {
                let ca = self.trusted.as_deref().unwrap_or(SYSTEM);
                write!(f, "the server's certificate for {names}{valid}, issued by {}, does not lead to {ca}", self.issuer)
            }
        }
    }
}

impl std::error::Error for CertificateFault {}

impl CertificateProblem {
    #[allow(clippy::wildcard_enum_match_arm)] // rustls's errors may become more; its words will do
    fn of(error: &CertificateError, facts: &Facts) -> Self {
        // Perhaps not the server's own certificate has expired, but one between it and the CA.
        let own = |time: &UnixTime, end: fn((Timestamp, Timestamp)) -> Timestamp| {
            i64::try_from(time.as_secs()).ok() == facts.valid.map(|valid| end(valid).as_second())
        };
        match error {
            CertificateError::Expired => Self::Expired,
            CertificateError::ExpiredContext { not_after, .. } if own(not_after, |(_, to)| to) => Self::Expired,
            CertificateError::ExpiredContext { .. } => Self::Other("a CA that it leads to has expired".to_owned()),
            CertificateError::NotValidYet => Self::NotYetValid,
            CertificateError::NotValidYetContext { not_before, .. } if own(not_before, |(from, _)| from) => Self::NotYetValid,
            CertificateError::NotValidYetContext { .. } => Self::Other("a CA that it leads to is not valid yet".to_owned()),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } if facts.names.is_empty() => Self::Nameless,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::OtherName,
            // The signature does not fit: another CA has the same name.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownIssuer,
            other if is_ca(other) => Self::Authority { is_own: facts.is_own },
            other => Self::Other(words::of_certificate(other)),
        }
    }
}

/// Whether a server's certificate is refused only because it is a CA's. The usual verifier has no separate error for this.
pub(super) fn is_of_authority(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(why) if is_ca(why))
}

fn is_ca(error: &CertificateError) -> bool {
    matches!(error, CertificateError::Other(OtherError(inner)) if inner.to_string() == "CaUsedAsEndEntity")
}

/// Whether a certificate is valid now and may be a server's, by its own fields (RFC 5280, sections 4.1.2.5 and 4.2.1.12).
///
/// # Errors
/// It is not valid, or cannot be read.
pub(super) fn check_dates_and_usage(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let Ok(([], parsed)) = X509Certificate::from_der(certificate) else { return Err(CertificateError::BadEncoding) };
    let now = i64::try_from(now.as_secs()).map_err(|_| CertificateError::Expired)?;
    if now < parsed.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet);
    }
    if now > parsed.validity().not_after.timestamp() {
        return Err(CertificateError::Expired);
    }
    match parsed.extended_key_usage() {
        Ok(None) => Ok(()),
        Ok(Some(usage)) if usage.value.server_auth => Ok(()),
        Ok(Some(_)) => Err(CertificateError::InvalidPurpose),
        Err(_) => Err(CertificateError::BadEncoding),
    }
}

/// What a certificate says about itself. It comes from somebody who is not trusted, so its text is made harmless.
#[derive(Default)]
struct Facts {
    names: Vec<String>,
    issuer: String,
    is_own: bool,
    valid: Option<(Timestamp, Timestamp)>,
}

impl Facts {
    fn of(certificate: &CertificateDer<'_>) -> Self {
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Self::default() };
        let names = match parsed.subject_alternative_name() {
            Ok(Some(extension)) => extension.value.general_names.iter().filter_map(name).collect(),
            Ok(None) | Err(_) => Vec::new(),
        };
        let validity = parsed.validity();
        let at = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
        let valid = at(validity.not_before).zip(at(validity.not_after));
        Self { names, issuer: clean(&parsed.issuer().to_string()), is_own: parsed.issuer() == parsed.subject(), valid }
    }
}

/// A name that a client may look for (RFC 6125): a host's, or an address.
#[allow(clippy::wildcard_enum_match_arm)] // the other kinds of names are not for TLS
fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(host) => Some(clean(host)),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv4Addr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
        },
        _ => None,
    }
}
