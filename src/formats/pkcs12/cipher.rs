//! How the parts of a keystore are encrypted. Keyferry writes one way: PBES2 (RFC 8018) with AES-256-CBC and HMAC-SHA-256, OpenSSL's
//! default. It also reads the ways of PKCS#12 itself (RFC 7292, appendix C), with 3DES and RC2, since stored files can be old.

use std::num::NonZeroU32;

use aws_lc_rs::cipher::{AES_128, AES_192, AES_256, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::cipher::{Algorithm, PaddedBlockEncryptingKey};
use aws_lc_rs::iv::FixedLength;
use des::TdesEde3;
use rc2::Rc2;
use rc2::cipher::{Block, BlockDecrypt, BlockSizeUser, KeyInit};
use zeroize::Zeroizing;

use super::der::{Bytes, Der, INTEGER, OCTETS, OID, SEQUENCE, null, number, octets, oid, sequence};
use super::kdf::{Hash, Password, Purpose, pbkdf2, pkcs12};
use super::{Fault, Undone};
use crate::steps::{Spent, Steps};

/// The most bytes of a salt that Keyferry reads: programs write 8 to 64.
const MAX_SALT: usize = 1024;

/// The steps to decrypt a byte with the slowest cipher.
const BYTE: u64 = 32;

// === Object identifiers ===

const PBES2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0d];
const PBKDF2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0c];
const AES_256_CBC: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x2a];
const HMAC_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02, 0x09];
const HMAC_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02, 0x07];

const HMACS: [(&[u8], Hash); 4] = [
    (HMAC_SHA1, Hash::Sha1),
    (HMAC_SHA256, Hash::Sha256),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02, 0x0a], Hash::Sha384),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02, 0x0b], Hash::Sha512),
];

/// Under PBES2.
const CIPHERS: [(&[u8], Cipher); 4] = [
    (&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x02], Cipher::Aes128),
    (&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x16], Cipher::Aes192),
    (AES_256_CBC, Cipher::Aes256),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x03, 0x07], Cipher::Des3),
];

/// The ways of PKCS#12 itself, all with SHA-1.
const OLD: [(&[u8], Cipher); 3] = [
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x01, 0x03], Cipher::Des3),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x01, 0x05], Cipher::Rc2 { bytes: 16 }),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x01, 0x06], Cipher::Rc2 { bytes: 5 }),
];

/// A cipher in CBC mode.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Cipher {
    Aes128,
    Aes192,
    Aes256,
    Des3,
    Rc2 { bytes: usize },
}

/// How one part of a stored file is encrypted, as the file says.
pub(super) struct Scheme<'f> {
    cipher: Cipher,
    salt: &'f [u8],
    pub iterations: NonZeroU32,
    way: Way<'f>,
}

/// Where the key comes from.
enum Way<'f> {
    /// PBKDF2, and a vector that is in the file.
    Pbes2 { hash: Hash, iv: &'f [u8] },
    /// Key and vector are both made of the password.
    Old,
}

// === impl Scheme ===

impl<'f> Scheme<'f> {
    /// Reads an algorithm's identifier.
    pub(super) fn read(identifier: &mut Der<'f>) -> Result<Self, Fault> {
        let mut parts = identifier.within(SEQUENCE)?;
        let name = parts.take(OID)?;
        let mut parameters = parts.within(SEQUENCE)?;
        if name == PBES2 {
            return Self::read_pbes2(parameters);
        }
        let cipher = of_name(&OLD, name).ok_or(Fault::Cipher)?;
        let salt = salt(parameters.take(OCTETS)?)?;
        Ok(Self { cipher, salt, iterations: iterations(&mut parameters)?, way: Way::Old })
    }

    fn read_pbes2(mut parameters: Der<'f>) -> Result<Self, Fault> {
        let mut derivation = parameters.within(SEQUENCE)?;
        if derivation.take(OID)? != PBKDF2 {
            return Err(Fault::Cipher);
        }
        let mut derived = derivation.within(SEQUENCE)?;
        let salt = salt(derived.take(OCTETS)?)?;
        let iterations = iterations(&mut derived)?;
        derived.optional(INTEGER)?;
        let hash = match derived.optional(SEQUENCE)? {
            Some(hash) => of_name(&HMACS, Der::of(hash).take(OID)?).ok_or(Fault::Cipher)?,
            None => Hash::Sha1,
        };
        let mut encryption = parameters.within(SEQUENCE)?;
        let cipher = of_name(&CIPHERS, encryption.take(OID)?).ok_or(Fault::Cipher)?;
        Ok(Self { cipher, salt, iterations, way: Way::Pbes2 { hash, iv: encryption.take(OCTETS)? } })
    }

    /// The decrypted content. `None`: the password is wrong, or the content is damaged.
    pub(super) fn decrypt(&self, content: &[u8], password: &Password<'_>, steps: &Steps) -> Result<Option<Bytes>, Spent> {
        steps.charge(BYTE * content.len() as u64)?;
        let length = self.cipher.key_length();
        let (key, iv) = match self.way {
            Way::Pbes2 { hash, iv } => (pbkdf2(hash, password, self.salt, self.iterations, length, steps)?, Zeroizing::new(iv.to_vec())),
            Way::Old => {
                let derive = |purpose, length| pkcs12(Hash::Sha1, purpose, password, self.salt, self.iterations, length, steps);
                (derive(Purpose::Key, length)?, derive(Purpose::Iv, self.cipher.block_length())?)
            }
        };
        Ok(self.cipher.decrypt(&key, &iv, content))
    }
}

fn salt(salt: &[u8]) -> Result<&[u8], Fault> {
    if salt.len() > MAX_SALT { Err(Fault::Damaged) } else { Ok(salt) }
}

/// A number that does not fit into 32 bits counts as the largest that fits: both are too many.
pub(super) fn iterations(der: &mut Der<'_>) -> Result<NonZeroU32, Fault> {
    let number = u32::try_from(der.number()?).unwrap_or(u32::MAX);
    NonZeroU32::new(number).ok_or(Fault::Damaged)
}

fn of_name<T: Copy>(table: &[(&[u8], T)], name: &[u8]) -> Option<T> {
    table.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

// === impl Cipher ===

impl Cipher {
    const fn key_length(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::Aes192 | Self::Des3 => 24,
            Self::Aes256 => 32,
            Self::Rc2 { bytes } => bytes,
        }
    }

    const fn block_length(self) -> usize {
        match self {
            Self::Aes128 | Self::Aes192 | Self::Aes256 => 16,
            Self::Des3 | Self::Rc2 { .. } => 8,
        }
    }

    fn decrypt(self, key: &[u8], iv: &[u8], content: &[u8]) -> Option<Bytes> {
        match self {
            Self::Aes128 => of_aes(&AES_128, key, iv, content),
            Self::Aes192 => of_aes(&AES_192, key, iv, content),
            Self::Aes256 => of_aes(&AES_256, key, iv, content),
            Self::Des3 => of_blocks(&TdesEde3::new_from_slice(key).ok()?, iv, content),
            Self::Rc2 { bytes } => of_blocks(&Rc2::new_with_eff_key_len(key, 8 * bytes), iv, content),
        }
    }
}

fn of_aes(algorithm: &'static Algorithm, key: &[u8], iv: &[u8], content: &[u8]) -> Option<Bytes> {
    let iv: [u8; 16] = iv.try_into().ok()?;
    let key = PaddedBlockDecryptingKey::cbc_pkcs7(UnboundCipherKey::new(algorithm, key).ok()?).ok()?;
    let mut bytes = Zeroizing::new(content.to_vec());
    let length = key.decrypt(&mut bytes, DecryptionContext::Iv128(FixedLength::from(iv))).ok()?.len();
    bytes.truncate(length);
    Some(bytes)
}

/// CBC, and the padding of PKCS#7.
fn of_blocks<C: BlockDecrypt + BlockSizeUser>(cipher: &C, iv: &[u8], content: &[u8]) -> Option<Bytes> {
    let size = C::block_size();
    if iv.len() != size || content.is_empty() || !content.len().is_multiple_of(size) {
        return None;
    }
    let mut bytes = Zeroizing::new(content.to_vec());
    let before = [iv].into_iter().chain(content.chunks(size));
    for (piece, before) in bytes.chunks_mut(size).zip(before) {
        cipher.decrypt_block(Block::<C>::from_mut_slice(piece));
        piece.iter_mut().zip(before).for_each(|(byte, other)| *byte ^= other);
    }
    let padding = usize::from(*bytes.last()?);
    let length = bytes.len().checked_sub(padding).filter(|_| (1..=size).contains(&padding))?;
    bytes[length..].iter().all(|byte| usize::from(*byte) == padding).then_some(())?;
    bytes.truncate(length);
    Some(bytes)
}

// === Writing ===

/// The way that Keyferry writes, with a separate salt and vector.
pub(super) struct Sealing {
    pub salt: [u8; 16],
    pub iv: [u8; 16],
    pub iterations: NonZeroU32,
}

impl Sealing {
    /// The identifier of the way, and the encrypted content.
    pub(super) fn encrypt(&self, content: &[u8], password: &Password<'_>, steps: &Steps) -> Result<(Bytes, Bytes), Undone> {
        steps.charge(BYTE * content.len() as u64)?;
        let key = pbkdf2(Hash::Sha256, password, &self.salt, self.iterations, Cipher::Aes256.key_length(), steps)?;
        // With room for the padding, so that it is not moved.
        let mut sealed = Zeroizing::new(Vec::with_capacity(content.len() + Cipher::Aes256.block_length()));
        sealed.extend_from_slice(content);
        let key = UnboundCipherKey::new(&AES_256, &key).and_then(PaddedBlockEncryptingKey::cbc_pkcs7).map_err(|_| Fault::Library)?;
        let iv = EncryptionContext::Iv128(FixedLength::from(self.iv));
        key.less_safe_encrypt(&mut *sealed, iv).map_err(|_| Fault::Library)?;
        Ok((self.identifier(), sealed))
    }

    fn identifier(&self) -> Bytes {
        let hash = sequence(&[&oid(HMAC_SHA256), &null()]);
        let derivation = sequence(&[&octets(&self.salt), &number(self.iterations.get()), &hash]);
        let derivation = sequence(&[&oid(PBKDF2), &derivation]);
        let encryption = sequence(&[&oid(AES_256_CBC), &octets(&self.iv)]);
        sequence(&[&oid(PBES2), &sequence(&[&derivation, &encryption])])
    }
}
