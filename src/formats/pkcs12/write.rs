//! Writes a keystore. It has two encrypted parts: the certificates, then the key; and a MAC over both.

use std::num::NonZeroU32;

use super::cipher::Sealing;
use super::der::{BMP, Bytes, CONTEXT_0, CONTEXT_0_OCTETS, number, octets, oid, sequence, set, value};
use super::kdf::Password;
use super::key::{Certificate, PrivateKey};
use super::salts::{Inputs, SaltKey, Salts, Use};
use super::{Fault, ITERATIONS, MAX_CERTIFICATES, MAX_PASSWORD, Undone, mac};
use crate::steps::Steps;

/// How files are written, besides their content: written in another way, a file has other bytes.
const FORM: &[u8] = b"1: PBES2, PBKDF2, HMAC-SHA-256, AES-256-CBC; MAC of SHA-256; certificates, key";

/// The numbers of the parts.
const CERTIFICATES: u8 = 0;
const KEY: u8 = 1;
const MAC: u8 = 2;

// === Object identifiers ===

pub(super) const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
pub(super) const ENCRYPTED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x06];
pub(super) const SHROUDED_KEY_BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x02];
pub(super) const CERTIFICATE_BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x03];
pub(super) const X509: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x16, 0x01];
const FRIENDLY_NAME: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x14];
const LOCAL_KEY_ID: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x15];
/// Java trusts a certificate only with this attribute (sun.security.pkcs12.PKCS12KeyStore).
pub(super) const TRUSTED_KEY_USAGE: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x86, 0xf9, 0x66, 0xad, 0xca, 0x7b, 0x01, 0x01];
const ANY_USAGE: &[u8] = &[0x55, 0x1d, 0x25, 0x00];

/// The key's number, which its certificate has too: a file has one key.
const LOCAL_ID: &[u8] = &[1];

/// What goes into a file.
#[derive(Debug)]
pub struct Keystore<'k> {
    pub key: Option<&'k PrivateKey>,
    /// From the key's certificate to the root.
    pub chain: &'k [Certificate<'k>],
    pub trust: &'k [Certificate<'k>],
    /// Java's name for the key, and the start of the names of trusted certificates. Characters of the Basic Multilingual Plane.
    pub alias: &'k str,
}

/// The file.
///
/// # Errors
/// The key belongs to another certificate, readers do not accept the password, or it takes more than `steps`.
pub fn write(keystore: &Keystore<'_>, password: &str, key: &SaltKey, steps: &Steps) -> Result<Bytes, Undone> {
    check_password(password)?;
    if keystore.chain.len() + keystore.trust.len() > MAX_CERTIFICATES {
        return Err(Fault::TooManyCertificates.into());
    }
    if let (Some(key), Some(leaf)) = (keystore.key, keystore.chain.first())
        && !key.fits(leaf)
    {
        return Err(Fault::Unfit.into());
    }
    let (salts, password) = (keystore.salts(password, key), Password::of(password));
    let mut parts = Vec::with_capacity(2);
    if !keystore.chain.is_empty() || !keystore.trust.is_empty() {
        let (identifier, sealed) = sealing(&salts, CERTIFICATES).encrypt(&keystore.certificates(), &password, steps)?;
        let content = sequence(&[&oid(DATA), &identifier, &value(CONTEXT_0_OCTETS, &[&sealed])]);
        parts.push(info(ENCRYPTED_DATA, &sequence(&[&number(0), &content])));
    }
    if let Some(key) = keystore.key {
        let (identifier, sealed) = sealing(&salts, KEY).encrypt(key.pkcs8(), &password, steps)?;
        let shrouded = sequence(&[&identifier, &octets(&sealed)]);
        let attributes = set(&[&friendly_name(keystore.alias), &local_id()]);
        let bag = sequence(&[&oid(SHROUDED_KEY_BAG), &value(CONTEXT_0, &[&shrouded]), &attributes]);
        parts.push(info(DATA, &octets(&sequence(&[&bag]))));
    }
    let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_slice()).collect();
    let content = sequence(&parts);
    let mac = mac::of(&content, &password, &salts.of(Use::Salt, MAC), count(), steps)?;
    Ok(sequence(&[&number(3), &info(DATA, &octets(&content)), &mac]))
}

/// Java's ciphers accept no other characters (com.sun.crypto.provider.PBEKey).
fn check_password(password: &str) -> Result<(), Fault> {
    match password {
        "" => Err(Fault::NoPassword),
        long if long.len() > MAX_PASSWORD => Err(Fault::PasswordLength),
        other if other.bytes().any(|byte| !(b' '..=b'~').contains(&byte)) => Err(Fault::PasswordSign),
        _ => Ok(()),
    }
}

// === impl Keystore ===

impl Keystore<'_> {
    /// Made of all content, the password too.
    fn salts<'k>(&self, password: &str, key: &'k SaltKey) -> Salts<'k> {
        let Self { key: private, chain, trust, alias } = self;
        let mut inputs = Inputs::new();
        for input in [FORM, &ITERATIONS.to_be_bytes(), password.as_bytes(), alias.as_bytes()] {
            inputs.add(input);
        }
        inputs.add_all(private.iter().map(|private| private.pkcs8()));
        inputs.add_all(chain.iter().map(|certificate| certificate.der));
        inputs.add_all(trust.iter().map(|certificate| certificate.der));
        inputs.salts(key)
    }

    /// All certificates, those of the chain first.
    fn certificates(&self) -> Bytes {
        let usage = attribute(TRUSTED_KEY_USAGE, &oid(ANY_USAGE));
        let chain = self.chain.iter().enumerate().map(|(place, certificate)| match place {
            0 => bag(certificate, &set(&[&friendly_name(self.alias), &local_id()])),
            _ => bag(certificate, &[]),
        });
        let trust = (1..).zip(self.trust).map(|(number, certificate)| {
            let name = friendly_name(&format!("{}-trust-{number}", self.alias));
            bag(certificate, &set(&[&name, &usage]))
        });
        let bags: Vec<Bytes> = chain.chain(trust).collect();
        sequence(&bags.iter().map(|bag| bag.as_slice()).collect::<Vec<_>>())
    }
}

fn sealing(salts: &Salts<'_>, part: u8) -> Sealing {
    Sealing { salt: salts.of(Use::Salt, part), iv: salts.of(Use::Iv, part), iterations: count() }
}

fn count() -> NonZeroU32 {
    NonZeroU32::new(ITERATIONS).unwrap_or(NonZeroU32::MIN)
}

/// Content with its kind.
fn info(kind: &[u8], content: &[u8]) -> Bytes {
    sequence(&[&oid(kind), &value(CONTEXT_0, &[content])])
}

/// `attributes`: a set, or nothing.
fn bag(certificate: &Certificate<'_>, attributes: &[u8]) -> Bytes {
    let content = sequence(&[&oid(X509), &value(CONTEXT_0, &[&octets(certificate.der)])]);
    sequence(&[&oid(CERTIFICATE_BAG), &value(CONTEXT_0, &[&content]), attributes])
}

fn attribute(name: &[u8], value: &[u8]) -> Bytes {
    sequence(&[&oid(name), &set(&[value])])
}

fn friendly_name(name: &str) -> Bytes {
    let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_be_bytes).collect();
    attribute(FRIENDLY_NAME, &value(BMP, &[&units]))
}

fn local_id() -> Bytes {
    attribute(LOCAL_KEY_ID, &octets(LOCAL_ID))
}
