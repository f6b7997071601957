//! Keys made from passwords: PBKDF2 (RFC 8018), and the way of PKCS#12 itself (RFC 7292, appendix B), which its MAC and its old ciphers
//! use. All work is paid for before it runs, since a stored file chooses how long it takes.

use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2};
use zeroize::Zeroizing;

use super::der::Bytes;
use crate::steps::{Spent, Steps};

/// Hashes of one iteration of an HMAC.
const OF_AN_HMAC: u64 = 2;

/// What a derived key is for (RFC 7292, appendix B.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Purpose {
    Key = 1,
    Iv = 2,
    Mac = 3,
}

/// The hashes that keystores use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Hash {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

/// A password, in the two spellings from which keys are made.
pub(super) struct Password<'p> {
    /// For PBKDF2.
    pub text: &'p str,
    /// UTF-16, and a zero at its end: for the way of PKCS#12.
    pub wide: Bytes,
}

// === impl Password ===

impl<'p> Password<'p> {
    pub(super) fn of(text: &'p str) -> Self {
        let mut wide = Zeroizing::new(Vec::with_capacity(2 * text.len() + 2));
        for unit in text.encode_utf16().chain([0]) {
            wide.extend_from_slice(&unit.to_be_bytes());
        }
        Self { text, wide }
    }

    /// No password, which some programs use where others use an empty one.
    pub(super) fn none() -> Self {
        Self { text: "", wide: Bytes::default() }
    }
}

// === impl Hash ===

impl Hash {
    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        }
    }

    pub(super) fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha384 => hmac::HMAC_SHA384,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }

    fn pbkdf2(self) -> pbkdf2::Algorithm {
        match self {
            Self::Sha1 => pbkdf2::PBKDF2_HMAC_SHA1,
            Self::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Self::Sha384 => pbkdf2::PBKDF2_HMAC_SHA384,
            Self::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        }
    }

    /// The steps of one hash of a block: about 200 ns, as measured, and twice that for the long hashes.
    const fn steps(self) -> u64 {
        match self {
            Self::Sha1 | Self::Sha256 => 100,
            Self::Sha384 | Self::Sha512 => 250,
        }
    }

    /// Bytes of a hash.
    pub(super) fn length(self) -> usize {
        self.digest().output_len()
    }
}

/// A key of this many bytes, made with PBKDF2.
///
/// # Errors
/// It takes more than `steps`.
pub(super) fn pbkdf2(
    hash: Hash,
    password: &Password<'_>,
    salt: &[u8],
    iterations: NonZeroU32,
    length: usize,
    steps: &Steps,
) -> Result<Bytes, Spent> {
    let blocks = length.div_ceil(hash.length()) as u64;
    steps.charge(blocks * hash.steps() * OF_AN_HMAC * u64::from(iterations.get()))?;
    let mut key = Zeroizing::new(vec![0; length]);
    pbkdf2::derive(hash.pbkdf2(), iterations, salt, password.text.as_bytes(), &mut key);
    Ok(key)
}

/// A key of this many bytes, made in the way of PKCS#12 (RFC 7292, appendix B.2).
///
/// # Errors
/// It takes more than `steps`.
pub(super) fn pkcs12(
    hash: Hash,
    purpose: Purpose,
    password: &Password<'_>,
    salt: &[u8],
    iterations: NonZeroU32,
    length: usize,
    steps: &Steps,
) -> Result<Bytes, Spent> {
    let (algorithm, hashed) = (hash.digest(), hash.length());
    let block = algorithm.block_len();
    let blocks = length.div_ceil(hashed) as u64;
    let longer = ((salt.len() + password.wide.len()) / block) as u64;
    steps.charge(blocks * hash.steps() * (u64::from(iterations.get()) + 2 * longer + 4))?;
    let mut mixed = Zeroizing::new(Vec::with_capacity(repeated(salt, block) + repeated(&password.wide, block)));
    for text in [salt, &password.wide] {
        mixed.extend(text.iter().cycle().take(repeated(text, block)));
    }
    let mut key = Zeroizing::new(Vec::with_capacity(length + hashed));
    while key.len() < length {
        let mut context = digest::Context::new(algorithm);
        context.update(&vec![purpose as u8; block]);
        context.update(&mixed);
        let mut last = context.finish();
        for _ in 1..iterations.get() {
            last = digest::digest(algorithm, last.as_ref());
        }
        key.extend_from_slice(last.as_ref());
        let added: Bytes = Zeroizing::new(last.as_ref().iter().copied().cycle().take(block).collect());
        for piece in mixed.chunks_mut(block) {
            add(piece, &added);
        }
    }
    key.truncate(length);
    Ok(key)
}

/// The length of a text that is repeated until it fills blocks.
fn repeated(text: &[u8], block: usize) -> usize {
    text.len().div_ceil(block) * block
}

/// Adds a number and 1 to another number; an overflow is lost.
fn add(to: &mut [u8], number: &[u8]) {
    let mut carried = true;
    for (byte, other) in to.iter_mut().zip(number).rev() {
        let (sum, is_over) = byte.overflowing_add(*other);
        let (sum, is_over_again) = sum.overflowing_add(u8::from(carried));
        *byte = sum;
        carried = is_over || is_over_again;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derived(hash: Hash, purpose: Purpose, password: &str, salt: &str, iterations: u32, length: usize) -> String {
        let (password, salt) = (Password::of(password), data_encoding::HEXLOWER.decode(salt.as_bytes()).unwrap());
        let iterations = NonZeroU32::new(iterations).unwrap();
        let key = pkcs12(hash, purpose, &password, &salt, iterations, length, &Steps::unbounded()).unwrap();
        data_encoding::HEXLOWER.encode(&key)
    }

    /// The first values are from the tests of Bouncy Castle and OpenSSL; `openssl kdf PKCS12KDF` made the last one.
    #[test]
    fn the_way_of_pkcs12_is_that_of_others() {
        let sha1 = |purpose, password, salt, iterations, length| derived(Hash::Sha1, purpose, password, salt, iterations, length);
        assert_eq!(sha1(Purpose::Key, "smeg", "0a58cf64530d823f", 1, 24), "8aaae6297b6cb04642ab5b077851284eb7128f1a2a7fbca3");
        assert_eq!(sha1(Purpose::Iv, "smeg", "0a58cf64530d823f", 1, 8), "79993dfe048d3b76");
        assert_eq!(sha1(Purpose::Key, "queeg", "05dec959acff72f7", 1000, 24), "ed2034e36328830ff09df1e1a07dd357185dac0d4f9eb3d4");
        assert_eq!(sha1(Purpose::Iv, "queeg", "05dec959acff72f7", 1000, 8), "11dedad7758d4860");
        assert_eq!(sha1(Purpose::Mac, "smeg", "3d83c0e4546ac140", 1, 20), "8d967d88f6caa9d714800ab3d48051d63f73a312");
        assert_eq!(
            derived(Hash::Sha512, Purpose::Mac, "smeg", "3d83c0e4546ac140", 7, 100),
            "25fa0a00c76035210c393cc7190774e8e0707e9a654ddde320638971f0e7207bd2a0b85d3906709403dc182232866\
             2a846d82f400c466e623abe088099bcf8e3b877ba6c033cfcf16a6273b481e09f7ddfea0476254b43a91aa737553f0fc3427fa34e19"
        );
    }

    #[test]
    fn work_is_paid_for_before_it_is_done() {
        let (most, password) = (NonZeroU32::new(u32::MAX).unwrap(), Password::of("x"));
        let steps = Steps::of(1_000_000);
        assert_eq!(pbkdf2(Hash::Sha256, &password, b"salt", most, 32, &steps), Err(Spent::Steps(1_000_000)));
        let steps = Steps::of(1_000_000);
        assert!(pkcs12(Hash::Sha1, Purpose::Mac, &password, b"salt", most, 20, &steps).is_err());
        let steps = Steps::of(1_000_000);
        assert!(pkcs12(Hash::Sha1, Purpose::Mac, &password, &vec![0; 1 << 20], NonZeroU32::MIN, 20, &steps).is_err());
    }
}
