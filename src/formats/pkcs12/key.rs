//! Private keys and certificates: a key in the one form that a keystore has (PKCS#8, RFC 5958), and whether a certificate was issued for
//! it.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256K1_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use super::Fault;
use super::der::{Bytes, CONTEXT_0, Der, INTEGER, OCTETS, OID, SEQUENCE, null, number, octets, oid, sequence, unsigned};

// === Object identifiers ===

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const RSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

const CURVES: [(&[u8], &EcdsaSigningAlgorithm); 4] = [
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07], &ECDSA_P256_SHA256_ASN1_SIGNING),
    (&[0x2b, 0x81, 0x04, 0x00, 0x22], &ECDSA_P384_SHA384_ASN1_SIGNING),
    (&[0x2b, 0x81, 0x04, 0x00, 0x23], &ECDSA_P521_SHA512_ASN1_SIGNING),
    (&[0x2b, 0x81, 0x04, 0x00, 0x0a], &ECDSA_P256K1_SHA256_ASN1_SIGNING),
];

/// A private key, in PKCS#8.
pub struct PrivateKey {
    pkcs8: Bytes,
    public: Public,
}

/// What a certificate has of its public key.
#[derive(Eq, PartialEq)]
enum Public {
    /// The point, in its written form.
    Point(Vec<u8>),
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
}

/// A certificate that can be read.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Certificate<'c> {
    pub der: &'c [u8],
    subject: &'c [u8],
    issuer: &'c [u8],
    /// The bits of its public key.
    public: &'c [u8],
}

// === impl PrivateKey ===

impl PrivateKey {
    /// A key as PEM has it under a label.
    ///
    /// # Errors
    /// It cannot be read, it is encrypted, or its kind is not known.
    pub fn of_pem(label: &str, bytes: &[u8]) -> Result<Self, Fault> {
        match label {
            "PRIVATE KEY" => Self::of_pkcs8(bytes),
            "RSA PRIVATE KEY" => Self::of_pkcs8(&wrapped(&[&oid(RSA), &null()], bytes)),
            "EC PRIVATE KEY" => Self::of_pkcs8(&wrapped(&[&oid(EC), &oid(curve(bytes).map_err(|_| Fault::Key)?)], bytes)),
            _ => Err(Fault::KeyKind),
        }
    }

    /// # Errors
    /// As [`Self::of_pem`].
    pub fn of_pkcs8(pkcs8: &[u8]) -> Result<Self, Fault> {
        let public = public(pkcs8)?;
        Ok(Self { pkcs8: Zeroizing::new(pkcs8.to_vec()), public })
    }

    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// Whether the certificate was issued for it.
    pub fn fits(&self, certificate: &Certificate<'_>) -> bool {
        match &self.public {
            Public::Point(point) => point == certificate.public,
            Public::Rsa { .. } => rsa(certificate.public).is_ok_and(|public| public == self.public),
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(redacted)")
    }
}

fn public(pkcs8: &[u8]) -> Result<Public, Fault> {
    let unreadable = |_| Fault::Key;
    let mut all = Der::of(pkcs8);
    let mut parts = all.within(SEQUENCE).map_err(unreadable)?;
    all.end().map_err(unreadable)?;
    parts.number().map_err(unreadable)?;
    let mut algorithm = parts.within(SEQUENCE).map_err(unreadable)?;
    let name = algorithm.take(OID).map_err(unreadable)?;
    let key = parts.take(OCTETS).map_err(unreadable)?;
    match name {
        RSA | RSA_PSS => {
            let mut numbers = Der::of(key).within(SEQUENCE).map_err(unreadable)?;
            numbers.number().map_err(unreadable)?;
            numbers_of(&mut numbers).map_err(unreadable)
        }
        EC => {
            let curve = algorithm.take(OID).map_err(|_| Fault::KeyKind)?;
            let signing = CURVES.iter().find(|(known, _)| *known == curve).ok_or(Fault::KeyKind)?.1;
            let pair = EcdsaKeyPair::from_pkcs8(signing, pkcs8).map_err(|_| Fault::Key)?;
            Ok(Public::Point(pair.public_key().as_ref().to_vec()))
        }
        ED25519 => {
            let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).map_err(|_| Fault::Key)?;
            Ok(Public::Point(pair.public_key().as_ref().to_vec()))
        }
        _ => Err(Fault::KeyKind),
    }
}

/// A public RSA key, as a certificate has it.
fn rsa(public: &[u8]) -> Result<Public, super::der::Malformed> {
    numbers_of(&mut Der::of(public).within(SEQUENCE)?)
}

fn numbers_of(numbers: &mut Der<'_>) -> Result<Public, super::der::Malformed> {
    let [modulus, exponent] = [numbers.take(INTEGER)?, numbers.take(INTEGER)?].map(|number| unsigned(number).to_vec());
    Ok(Public::Rsa { modulus, exponent })
}

/// Turns a key in its algorithm's own form into PKCS#8.
fn wrapped(algorithm: &[&[u8]], key: &[u8]) -> Bytes {
    sequence(&[&number(0), &sequence(algorithm), &octets(key)])
}

/// The curve that a key of SEC 1 names itself (RFC 5915).
fn curve(key: &[u8]) -> Result<&[u8], super::der::Malformed> {
    let mut parts = Der::of(key).within(SEQUENCE)?;
    parts.number()?;
    parts.take(OCTETS)?;
    Der::of(parts.take(CONTEXT_0)?).take(OID)
}

// === impl Certificate ===

impl<'c> Certificate<'c> {
    /// `None`: it cannot be read.
    pub fn of(der: &'c [u8]) -> Option<Self> {
        let (rest, read) = X509Certificate::from_der(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        // Each is a part of the certificate's bytes.
        let tbs = &read.tbs_certificate;
        let (subject, issuer) = (tbs.subject.as_raw(), tbs.issuer.as_raw());
        Some(Self { der, subject, issuer, public: bits(tbs.subject_pki.raw)? })
    }

    /// Whether this is its issuer, by name.
    pub fn is_issued_by(&self, other: &Self) -> bool {
        self.issuer == other.subject
    }
}

impl fmt::Debug for Certificate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("bytes", &self.der.len()).finish_non_exhaustive()
    }
}

/// The bits of a `SubjectPublicKeyInfo`, whole bytes.
fn bits(info: &[u8]) -> Option<&[u8]> {
    const BITS: u8 = 0x03;
    let mut parts = Der::of(info).within(SEQUENCE).ok()?;
    parts.take(SEQUENCE).ok()?;
    match parts.take(BITS).ok()? {
        [0, bytes @ ..] => Some(bytes),
        _ => None,
    }
}
