//! The MAC of a keystore (RFC 7292, 4): it is checked first, and shows whether a password is right.

use std::num::NonZeroU32;

use aws_lc_rs::hmac;

use super::Fault;
use super::cipher::iterations;
use super::der::{Bytes, Der, OCTETS, OID, SEQUENCE, null, number, octets, oid, sequence};
use super::kdf::{Hash, Password, Purpose, pkcs12};
use crate::steps::{Spent, Steps};

const SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];

const HASHES: [(&[u8], Hash); 4] = [
    (&[0x2b, 0x0e, 0x03, 0x02, 0x1a], Hash::Sha1),
    (SHA256, Hash::Sha256),
    (&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02], Hash::Sha384),
    (&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03], Hash::Sha512),
];

/// A stored file's MAC.
pub(super) struct Mac<'f> {
    hash: Hash,
    tag: &'f [u8],
    salt: &'f [u8],
    pub iterations: NonZeroU32,
}

// === impl Mac ===

impl<'f> Mac<'f> {
    pub(super) fn read(mut data: Der<'f>) -> Result<Self, Fault> {
        let mut signed = data.within(SEQUENCE)?;
        let name = signed.within(SEQUENCE)?.take(OID)?;
        let hash = HASHES.iter().find(|(known, _)| *known == name).ok_or(Fault::Cipher)?.1;
        let tag = signed.take(OCTETS)?;
        let salt = data.take(OCTETS)?;
        // If the number is left out, it is one (RFC 7292, appendix D).
        let iterations = if data.is_empty() { NonZeroU32::MIN } else { iterations(&mut data)? };
        Ok(Self { hash, tag, salt, iterations })
    }

    /// Whether the MAC belongs to the content under this password.
    pub(super) fn verify(&self, content: &[u8], password: &Password<'_>, steps: &Steps) -> Result<bool, Spent> {
        steps.charge(content.len() as u64)?;
        let key = pkcs12(self.hash, Purpose::Mac, password, self.salt, self.iterations, self.hash.length(), steps)?;
        Ok(hmac::verify(&hmac::Key::new(self.hash.hmac(), &key), content, self.tag).is_ok())
    }
}

/// The `MacData` of a file that Keyferry writes.
pub(super) fn of(content: &[u8], password: &Password<'_>, salt: &[u8], count: NonZeroU32, steps: &Steps) -> Result<Bytes, Spent> {
    steps.charge(content.len() as u64)?;
    let key = pkcs12(Hash::Sha256, Purpose::Mac, password, salt, count, Hash::Sha256.length(), steps)?;
    let tag = hmac::sign(&hmac::Key::new(Hash::Sha256.hmac(), &key), content);
    let signed = sequence(&[&sequence(&[&oid(SHA256), &null()]), &octets(tag.as_ref())]);
    Ok(sequence(&[&signed, &octets(salt), &number(count.get())]))
}
