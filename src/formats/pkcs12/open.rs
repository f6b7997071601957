//! Opens a stored keystore. Somebody else wrote everything in it: each length is checked, nesting has a limit, and no key is derived before
//! all visible iterations are added up. Iterations that become visible after decryption are added up before the next key.

use std::cell::Cell;
use std::fmt;

use data_encoding::BASE64;
use zeroize::Zeroizing;

use super::cipher::Scheme;
use super::der::{Bytes, CONTEXT_0, CONTEXT_0_OCTETS, Der, Malformed, OCTETS, OID, SEQUENCE, SET, value};
use super::kdf::Password;
use super::key::{Certificate, PrivateKey};
use super::mac::Mac;
use super::write::{CERTIFICATE_BAG, DATA, ENCRYPTED_DATA, SHROUDED_KEY_BAG, TRUSTED_KEY_USAGE, X509};
use super::{Fault, MAX_CERTIFICATES, MAX_ITERATIONS, MAX_PASSWORD, Undone};
use crate::formats::{Out, pem};
use crate::steps::Steps;

/// The deepest nesting of bags.
const MAX_DEPTH: usize = 4;

/// The most parts of a file, each encrypted separately, and the most bags of one part.
const MAX_PARTS: usize = 64;
const MAX_BAGS: usize = 1024;

/// The steps to read a byte of a file with certificates, without deriving keys.
const BYTE: u64 = 64;

/// The steps to read a key: its public key is computed.
const KEY: u64 = 500_000;

const KEY_BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x01];
const SAFE_CONTENTS_BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x06];

/// The content of a file, as PEM. A part that the file does not have is empty.
#[derive(Default)]
pub struct Opened {
    pub key: Bytes,
    /// The key's certificate.
    pub leaf: Bytes,
    /// The key's certificate, and its issuers up to the root, as far as they are there.
    pub chain: Bytes,
    /// All other certificates, and those that Java would trust.
    pub trust: Bytes,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("key", &!self.key.is_empty()).field("leaf", &!self.leaf.is_empty()).finish_non_exhaustive()
    }
}

/// What was found, before it is put in order.
#[derive(Default)]
struct Found {
    key: Option<Bytes>,
    /// Each certificate, with whether it is trusted.
    certificates: Vec<(Vec<u8>, bool)>,
}

/// A file being opened.
struct Opening<'o> {
    password: Password<'o>,
    steps: &'o Steps,
    /// The iterations known so far.
    iterations: Cell<u64>,
    /// The fault if something cannot be decrypted.
    otherwise: Fault,
}

/// A part of a file, before any of it is decrypted.
enum Part<'f> {
    /// Bags that are not encrypted.
    Bags(Der<'f>),
    /// Bags that are encrypted.
    Sealed(Scheme<'f>, &'f [u8]),
}

/// Opens a file: its bytes, or their base64. `password`: `None`, it has none.
///
/// # Errors
/// It is not such a file, or a part of it cannot be read; the password is wrong; it takes too many iterations, or more than `steps`.
pub fn open(stored: &[u8], password: Option<&str>, steps: &Steps) -> Result<Opened, Undone> {
    steps.charge(BYTE * stored.len() as u64)?;
    if password.is_some_and(|password| password.len() > MAX_PASSWORD) {
        return Err(Fault::PasswordLength.into());
    }
    let file = bytes_of(stored)?;
    let (content, mac) = outermost(&file)?;
    let parts = parts(content)?;
    let password = password.filter(|password| !password.is_empty());
    let otherwise = if password.is_some() { Fault::Password } else { Fault::Locked };
    let mut opening = Opening { password: Password::of(password.unwrap_or_default()), steps, iterations: Cell::new(0), otherwise };
    opening.count_all(&parts, mac.as_ref())?;
    opening.verify(content, mac.as_ref())?;
    let mut found = Found::default();
    for part in &parts {
        match part {
            Part::Bags(bags) => opening.bags(*bags, 0, &mut found)?,
            Part::Sealed(scheme, content) => {
                let bags = opening.decrypt(scheme, content)?;
                let bags = Der::of(&bags).within(SEQUENCE).map_err(|_| opening.otherwise.clone())?;
                opening.count_bags(bags, 0)?;
                opening.check_count()?;
                opening.bags(bags, 0, &mut found)?;
            }
        }
    }
    found.in_order(steps)
}

/// A file in binary is not text: its second byte is not valid UTF-8.
fn bytes_of(stored: &[u8]) -> Result<Bytes, Fault> {
    let bytes = match str::from_utf8(stored) {
        Ok(text) => {
            let mut packed = Zeroizing::new(Vec::with_capacity(text.len()));
            packed.extend(text.bytes().filter(|byte| !byte.is_ascii_whitespace()));
            Zeroizing::new(BASE64.decode(&packed).map_err(|_| Fault::NotPkcs12)?)
        }
        Err(_) => Zeroizing::new(stored.to_vec()),
    };
    if bytes.first() == Some(&SEQUENCE) { Ok(bytes) } else { Err(Fault::NotPkcs12) }
}

/// The content that the MAC protects, and the MAC.
fn outermost(file: &[u8]) -> Result<(&[u8], Option<Mac<'_>>), Fault> {
    let mut all = Der::of(file);
    let mut parts = all.within(SEQUENCE)?;
    // Certificates and keys begin with other numbers, or none.
    if parts.number().map_err(|_| Fault::NotPkcs12)? != 3 {
        return Err(Fault::NotPkcs12);
    }
    let mut content = parts.within(SEQUENCE)?;
    if content.take(OID)? != DATA {
        return Err(Fault::Cipher);
    }
    let content = content.within(CONTEXT_0)?.take(OCTETS)?;
    let mac = parts.optional(SEQUENCE)?.map(|data| Mac::read(Der::of(data))).transpose()?;
    parts.end()?;
    Ok((content, mac))
}

fn parts(content: &[u8]) -> Result<Vec<Part<'_>>, Fault> {
    let mut all = Der::of(content).within(SEQUENCE)?;
    let mut parts = Vec::new();
    while !all.is_empty() {
        let mut info = all.within(SEQUENCE)?;
        let (kind, mut content) = (info.take(OID)?, info.within(CONTEXT_0)?);
        parts.push(match kind {
            DATA => Part::Bags(Der::of(content.take(OCTETS)?).within(SEQUENCE)?),
            ENCRYPTED_DATA => {
                let mut data = content.within(SEQUENCE)?;
                data.number()?;
                let mut sealed = data.within(SEQUENCE)?;
                sealed.take(OID)?;
                let scheme = Scheme::read(&mut sealed)?;
                let (tag, content) = sealed.next()?;
                match tag {
                    CONTEXT_0_OCTETS => Part::Sealed(scheme, content),
                    // The same content in pieces.
                    CONTEXT_0 => return Err(Fault::Ber),
                    _ => return Err(Fault::Damaged),
                }
            }
            _ => return Err(Fault::Cipher),
        });
        if parts.len() > MAX_PARTS {
            return Err(Fault::Damaged);
        }
    }
    Ok(parts)
}

/// A bag: its kind, its content, and its attributes.
fn bag<'f>(bags: &mut Der<'f>) -> Result<(&'f [u8], Der<'f>, Der<'f>), Malformed> {
    let mut bag = bags.within(SEQUENCE)?;
    Ok((bag.take(OID)?, bag.within(CONTEXT_0)?, Der::of(bag.optional(SET)?.unwrap_or_default())))
}

// === impl Opening ===

impl Opening<'_> {
    /// Adds up all visible iterations. Without a password the MAC may be tried in two ways.
    fn count_all(&self, parts: &[Part<'_>], mac: Option<&Mac<'_>>) -> Result<(), Fault> {
        let tries = if self.is_without_password() { 2 } else { 1 };
        self.count(mac.map_or(0, |mac| tries * u64::from(mac.iterations.get())));
        for part in parts {
            match part {
                Part::Bags(bags) => self.count_bags(*bags, 0)?,
                Part::Sealed(scheme, _) => self.count(scheme.iterations.get().into()),
            }
        }
        self.check_count()
    }

    fn count_bags(&self, mut bags: Der<'_>, depth: usize) -> Result<(), Fault> {
        let mut number = 0;
        while !bags.is_empty() {
            let (kind, mut content, _) = bag(&mut bags)?;
            match kind {
                SHROUDED_KEY_BAG => self.count(Scheme::read(&mut content.within(SEQUENCE)?)?.iterations.get().into()),
                SAFE_CONTENTS_BAG if depth < MAX_DEPTH => self.count_bags(content.within(SEQUENCE)?, depth + 1)?,
                SAFE_CONTENTS_BAG => return Err(Fault::Damaged),
                _ => {}
            }
            number += 1;
            if number > MAX_BAGS {
                return Err(Fault::Damaged);
            }
        }
        Ok(())
    }

    fn count(&self, iterations: u64) {
        self.iterations.set(self.iterations.get().saturating_add(iterations));
    }

    fn check_count(&self) -> Result<(), Fault> {
        let iterations = self.iterations.get();
        if iterations > MAX_ITERATIONS { Err(Fault::Iterations(iterations)) } else { Ok(()) }
    }

    fn is_without_password(&self) -> bool {
        self.password.text.is_empty()
    }

    /// In a file without a MAC, decryption shows that a password is wrong.
    fn verify(&mut self, content: &[u8], mac: Option<&Mac<'_>>) -> Result<(), Undone> {
        let Some(mac) = mac else { return Ok(()) };
        let mut is_right = mac.verify(content, &self.password, self.steps)?;
        if !is_right && self.is_without_password() {
            self.password = Password::none();
            is_right = mac.verify(content, &self.password, self.steps)?;
        }
        let otherwise = std::mem::replace(&mut self.otherwise, Fault::Damaged);
        if is_right { Ok(()) } else { Err(otherwise.into()) }
    }

    fn decrypt(&self, scheme: &Scheme<'_>, content: &[u8]) -> Result<Bytes, Undone> {
        scheme.decrypt(content, &self.password, self.steps)?.ok_or_else(|| self.otherwise.clone().into())
    }

    /// Anything else than a key or a certificate is not needed.
    fn bags(&self, mut bags: Der<'_>, depth: usize, found: &mut Found) -> Result<(), Undone> {
        while !bags.is_empty() {
            let (kind, mut content, attributes) = bag(&mut bags)?;
            match kind {
                KEY_BAG => {
                    let (_, key) = content.next()?;
                    found.put_key(value(SEQUENCE, &[key]))?;
                }
                SHROUDED_KEY_BAG => {
                    let mut shrouded = content.within(SEQUENCE)?;
                    let scheme = Scheme::read(&mut shrouded)?;
                    found.put_key(self.decrypt(&scheme, shrouded.take(OCTETS)?)?)?;
                }
                CERTIFICATE_BAG => {
                    let mut certificate = content.within(SEQUENCE)?;
                    // Others have no use.
                    if certificate.take(OID)? == X509 {
                        let der = certificate.within(CONTEXT_0)?.take(OCTETS)?;
                        found.put_certificate(der, is_trusted(attributes)?)?;
                    }
                }
                SAFE_CONTENTS_BAG if depth < MAX_DEPTH => self.bags(content.within(SEQUENCE)?, depth + 1, found)?,
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_trusted(mut attributes: Der<'_>) -> Result<bool, Malformed> {
    let mut is_trusted = false;
    while !attributes.is_empty() {
        is_trusted |= attributes.within(SEQUENCE)?.take(OID)? == TRUSTED_KEY_USAGE;
    }
    Ok(is_trusted)
}

// === impl Found ===

impl Found {
    fn put_key(&mut self, key: Bytes) -> Result<(), Fault> {
        match &self.key {
            Some(known) if *known != key => Err(Fault::TwoKeys),
            Some(_) => Ok(()),
            None => {
                self.key = Some(key);
                Ok(())
            }
        }
    }

    fn put_certificate(&mut self, der: &[u8], is_trusted: bool) -> Result<(), Fault> {
        if !self.certificates.iter().any(|(known, trusted)| known == der && *trusted == is_trusted) {
            self.certificates.push((der.to_vec(), is_trusted));
        }
        if self.certificates.len() > MAX_CERTIFICATES { Err(Fault::TooManyCertificates) } else { Ok(()) }
    }

    fn in_order(self, steps: &Steps) -> Result<Opened, Undone> {
        let read = self.certificates.iter().map(|(der, is_trusted)| Some((Certificate::of(der)?, *is_trusted)));
        let certificates: Vec<_> = read.collect::<Option<_>>().ok_or(Fault::Certificate)?;
        let (trusted, mut others): (Vec<_>, Vec<_>) = certificates.into_iter().partition(|(_, is_trusted)| *is_trusted);
        let mut chain = Vec::new();
        let mut opened = Opened::default();
        if let Some(key) = &self.key {
            steps.charge(KEY)?;
            let key = PrivateKey::of_pkcs8(key)?;
            opened.key = pem_of("PRIVATE KEY", [key.pkcs8()].into_iter());
            let mut next = others.iter().position(|(certificate, _)| key.fits(certificate));
            if next.is_none() && !others.is_empty() {
                return Err(Fault::Unfit.into());
            }
            while let Some(at) = next {
                steps.charge(others.len() as u64)?;
                let (certificate, _) = others.remove(at);
                next = others.iter().position(|(other, _)| certificate.is_issued_by(other));
                chain.push(certificate);
            }
        }
        let of_all = |all: &[Certificate<'_>]| pem_of(pem::CERTIFICATE, all.iter().map(|certificate| certificate.der));
        opened.leaf = of_all(&chain[..chain.len().min(1)]);
        opened.chain = of_all(&chain);
        opened.trust = of_all(&others.iter().chain(&trusted).map(|(certificate, _)| *certificate).collect::<Vec<_>>());
        Ok(opened)
    }
}

fn pem_of<'b>(label: &str, blocks: impl Iterator<Item = &'b [u8]> + Clone) -> Bytes {
    // Four characters for three bytes, and line ends.
    let guess = blocks.clone().map(|bytes| bytes.len() * 3 / 2 + 64).sum();
    let mut out = Out::within(usize::MAX, guess);
    blocks.for_each(|bytes| pem::write(label, bytes, &mut out));
    out.into_bytes().unwrap_or_default()
}
