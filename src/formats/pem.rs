//! PEM (RFC 7468) in one form: the certificates from the leaf to the root, each once, then the private key. Lines have 64 characters, and
//! there is no text between the blocks. Servers need the leaf first, and stores give the parts in any order.

use std::fmt;

use data_encoding::BASE64;
use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use super::Out;

#[cfg(test)]
mod tests;

/// The most certificates of a file: each is compared with every other one.
pub const MAX_CERTIFICATES: usize = 32;

/// How a block begins, and how it ends.
const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// The label of a certificate.
pub(super) const CERTIFICATE: &str = "CERTIFICATE";

/// Characters of base64 on a line.
const WIDTH: usize = 64;

/// Which blocks a file has.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Part {
    /// All that there are: the certificates, then the private key.
    #[default]
    All,
    /// The certificates.
    Chain,
    /// The private key.
    Key,
    /// The first of the certificates.
    Leaf,
}

/// Why there is no such file. The message follows the name of the field or file.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Fault {
    #[error("PEM block {0} is not base64 (store the block as the tool that made it writes it)")]
    Body(usize),
    #[error("PEM block {0} is a certificate that cannot be read (store it again)")]
    Certificate(usize),
    #[error("PEM block {0} has a beginning and no end of the same kind (it seems cut: store it again)")]
    Cut(usize),
    #[error("PEM block {0} is an encrypted key with headers (convert it with `openssl pkcs8 -topk8`)")]
    Headers(usize),
    #[error("there is no certificate")]
    NoCertificate,
    #[error("there is no private key")]
    NoKey,
    #[error("there is no certificate and no private key")]
    Nothing,
    #[error("the {0} certificates are not one chain from a leaf to its root (store the chain of one certificate)")]
    Scattered(usize),
    #[error("there are more than {0} certificates (store fewer, or use several files)")]
    TooMany(usize),
    #[error("there are two private keys (store one of them, or name the field with `fields`)")]
    TwoKeys,
    #[error("PEM block {0} is neither a certificate nor a private key (remove it)")]
    Unknown(usize),
}

/// Blocks in the order in which they were found.
#[derive(Default)]
pub struct Bundle {
    /// Each once.
    certificates: Vec<Zeroizing<Vec<u8>>>,
    key: Option<Key>,
    /// How many blocks were read.
    blocks: usize,
    /// The most certificates; `None`: [`MAX_CERTIFICATES`].
    most: Option<usize>,
}

struct Key {
    label: &'static str,
    bytes: Zeroizing<Vec<u8>>,
}

/// The labels of private keys.
const KEYS: [&str; 6] =
    ["DSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "OPENSSH PRIVATE KEY", "PRIVATE KEY", "RSA PRIVATE KEY"];

// === impl Bundle ===

impl Bundle {
    /// For certificates that do not have to be one chain.
    pub fn of_at_most(certificates: usize) -> Self {
        Self { most: Some(certificates), ..Self::default() }
    }

    /// The certificates as they were found, each once: their DER.
    pub fn certificates(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.certificates.iter().map(|bytes| bytes.as_slice())
    }

    /// The private key: its label, and its bytes.
    pub fn key(&self) -> Option<(&'static str, &[u8])> {
        self.key.as_ref().map(|key| (key.label, key.bytes.as_slice()))
    }

    /// Adds the blocks of a text, and returns how many there are.
    ///
    /// # Errors
    /// A block that cannot be read, or does not belong in a file with one certificate.
    pub fn read(&mut self, text: &str) -> Result<usize, Fault> {
        let (before, mut rest) = (self.blocks, text);
        while let Some(at) = rest.find(BEGIN) {
            self.blocks += 1;
            let number = self.blocks;
            let (label, body) = rest[at + BEGIN.len()..].split_once(DASHES).ok_or(Fault::Cut(number))?;
            let (body, end) = body.split_once(END).ok_or(Fault::Cut(number))?;
            rest = end.strip_prefix(label).and_then(|end| end.strip_prefix(DASHES)).ok_or(Fault::Cut(number))?;
            self.take(label, body, number)?;
        }
        Ok(self.blocks - before)
    }

    fn take(&mut self, label: &str, body: &str, number: usize) -> Result<(), Fault> {
        // openssl writes this before a key on a named curve; the key itself names the curve.
        if label == "EC PARAMETERS" {
            return Ok(());
        }
        if body.contains(':') {
            return Err(Fault::Headers(number));
        }
        let bytes = decode(body).ok_or(Fault::Body(number))?;
        if label == CERTIFICATE {
            names(&bytes).ok_or(Fault::Certificate(number))?;
            if !self.certificates.contains(&bytes) {
                self.certificates.push(bytes);
            }
            let most = self.most.unwrap_or(MAX_CERTIFICATES);
            return if self.certificates.len() > most { Err(Fault::TooMany(most)) } else { Ok(()) };
        }
        let label = KEYS.into_iter().find(|key| *key == label).ok_or(Fault::Unknown(number))?;
        match &self.key {
            Some(key) if key.bytes != bytes => Err(Fault::TwoKeys),
            Some(_) => Ok(()),
            None => {
                self.key = Some(Key { label, bytes });
                Ok(())
            }
        }
    }

    /// Writes the blocks that are asked for.
    ///
    /// # Errors
    /// There are none, or the certificates are not one chain.
    pub fn write(&self, part: Part, out: &mut Out) -> Result<(), Fault> {
        let chain = || if self.certificates.is_empty() { Err(Fault::NoCertificate) } else { self.chain() };
        match part {
            Part::All if self.certificates.is_empty() && self.key.is_none() => return Err(Fault::Nothing),
            Part::All => {
                self.chain()?.into_iter().for_each(|bytes| write(CERTIFICATE, bytes, out));
                self.key.iter().for_each(|key| write(key.label, &key.bytes, out));
            }
            Part::Chain => chain()?.into_iter().for_each(|bytes| write(CERTIFICATE, bytes, out)),
            Part::Key => {
                let key = self.key.as_ref().ok_or(Fault::NoKey)?;
                write(key.label, &key.bytes, out);
            }
            Part::Leaf => chain()?.into_iter().take(1).for_each(|bytes| write(CERTIFICATE, bytes, out)),
        }
        Ok(())
    }

    /// From the leaf, which issued no other certificate, to the root: each is followed by its issuer.
    fn chain(&self) -> Result<Vec<&[u8]>, Fault> {
        let scattered = Fault::Scattered(self.certificates.len());
        let mut left: Vec<(&[u8], Names<'_>)> =
            self.certificates.iter().filter_map(|bytes| Some((bytes.as_slice(), names(bytes)?))).collect();
        let issued = |(at, (_, names)): (usize, &(&[u8], Names<'_>))| {
            left.iter().enumerate().any(|(other, (_, theirs))| other != at && theirs.issuer == names.subject)
        };
        let mut leaves = left.iter().enumerate().filter(|one| !issued((one.0, one.1))).map(|(at, _)| at);
        let (first, second) = (leaves.next(), leaves.next());
        let mut chain = Vec::with_capacity(left.len());
        let mut next = match (first, second, left.is_empty()) {
            (None, None, true) => return Ok(chain),
            (first @ Some(_), None, _) => first,
            (Some(_) | None, _, _) => return Err(scattered),
        };
        while let Some(at) = next {
            let (bytes, Names { issuer, .. }) = left.remove(at);
            chain.push(bytes);
            next = left.iter().position(|(_, names)| names.subject == issuer);
        }
        if left.is_empty() { Ok(chain) } else { Err(scattered) }
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle").field("certificates", &self.certificates.len()).field("key", &self.key.is_some()).finish_non_exhaustive()
    }
}

/// A certificate's names, as they are in it.
struct Names<'c> {
    subject: &'c [u8],
    issuer: &'c [u8],
}

fn names(certificate: &[u8]) -> Option<Names<'_>> {
    let (_, read) = X509Certificate::from_der(certificate).ok()?;
    Some(Names { subject: read.tbs_certificate.subject.as_raw(), issuer: read.tbs_certificate.issuer.as_raw() })
}

fn decode(body: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut packed = Zeroizing::new(Vec::with_capacity(body.len()));
    packed.extend(body.bytes().filter(|byte| !byte.is_ascii_whitespace()));
    let bytes = BASE64.decode(&packed).ok().filter(|bytes| !bytes.is_empty())?;
    Some(Zeroizing::new(bytes))
}

/// Writes one block.
pub(super) fn write(label: &str, bytes: &[u8], out: &mut Out) {
    let text = Zeroizing::new(BASE64.encode(bytes));
    for piece in [BEGIN, label, DASHES, "\n"] {
        out.push(piece);
    }
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(WIDTH));
        out.push(line);
        out.push("\n");
        rest = after;
    }
    for piece in [END, label, DASHES, "\n"] {
        out.push(piece);
    }
}
