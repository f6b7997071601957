//! PKCS#12 (RFC 7292): a private key with its certificates, and trusted certificates, in one encrypted file. Java, Windows and OpenSSL read
//! it.
//!
//! Keyferry writes it in one way, OpenSSL's default: PBES2 with AES-256-CBC and HMAC-SHA-256, 2,048 iterations, and a MAC. More iterations
//! would not help, since the password is in the same volume. Salts are made of the content ([`salts`]), not drawn, so that the same content
//! gives the same file. A file that Keyferry reads may be older, and chooses its own iterations: all that can be known are added up before
//! the first one.
//!
//! Reading and writing are our own code, with the crypto library that Keyferry has anyway. p12-keystore draws its salts itself, brings
//! three dozen crates, and derives keys of any length that the file asks for. The tests compare our code with it.

use thiserror::Error;

use crate::steps::Spent;

mod cipher;
mod der;
mod kdf;
mod key;
mod mac;
mod open;
mod salts;
#[cfg(test)]
mod tests;
mod write;

pub use key::{Certificate, PrivateKey};
pub use open::{Opened, open};
pub use salts::SaltKey;
pub use write::{Keystore, write};

/// The iterations of each key that is derived for a file that is written: OpenSSL's default.
pub const ITERATIONS: u32 = 2_048;

/// The most iterations of a stored file, all added up. Java's keytool has written 200,000 for a file with one key.
pub const MAX_ITERATIONS: u64 = 200_000;

/// The most certificates of a file.
pub const MAX_CERTIFICATES: usize = 256;

/// The longest password in bytes.
pub const MAX_PASSWORD: usize = 1024;

/// What to do about a file that another program wrote.
const CONVERT: &str = "convert it: `openssl pkcs12 -in OLD -noenc -out x.pem`, then `openssl pkcs12 -export -in x.pem -out NEW`";

/// Why a file cannot be made, or not be read. The message follows the name of the file or of its part.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Fault {
    #[error("is PKCS#12 in BER with indefinite lengths, which Keyferry does not read; some browsers write it ({CONVERT})")]
    Ber,
    #[error("has a certificate that cannot be read (make the file again)")]
    Certificate,
    #[error(
        "is encrypted or signed in a way that Keyferry does not read: it reads AES, 3DES and RC2, with PBKDF2 or PKCS#12's own derivation ({CONVERT})"
    )]
    Cipher,
    #[error("is PKCS#12, but cut or damaged (store the file again)")]
    Damaged,
    #[error("takes {0} iterations to open: at most {MAX_ITERATIONS} are allowed for all keys of the file together ({CONVERT})")]
    Iterations(u64),
    #[error("has a key that cannot be read (store it as `openssl pkcs8 -topk8 -nocrypt` writes it)")]
    Key,
    #[error(
        "has a key of a kind that Keyferry does not know: it knows RSA, EC (P-256, P-384, P-521, secp256k1) and Ed25519 (use one of them)"
    )]
    KeyKind,
    #[error("cannot be encrypted or decrypted by the crypto library (this is a bug: please report it)")]
    Library,
    #[error("is not a PKCS#12 file (store the file as it is, or as base64)")]
    NotPkcs12,
    #[error("needs a password to open (add `password: {{ secret: NAME, field: NAME }}` under `parse`)")]
    Locked,
    #[error("is empty, and not every program opens a keystore without a password (store one)")]
    NoPassword,
    #[error("does not open with this password (correct the password: a line end at its end counts, too)")]
    Password,
    #[error("has more than {MAX_PASSWORD} bytes, and the password of a keystore cannot be longer (store a shorter one)")]
    PasswordLength,
    #[error(
        "has a character that Java does not allow in a keystore's password: use ASCII from the space to `~` (store another \
         password; `newline: strip` removes a line end)"
    )]
    PasswordSign,
    #[error("has more than {MAX_CERTIFICATES} certificates (use several files)")]
    TooManyCertificates,
    #[error("has more than one private key (store each in a separate file)")]
    TwoKeys,
    #[error("has a private key that fits none of its certificates (store the certificate that was issued for the key)")]
    Unfit,
}

/// Why a file cannot be made, or nothing could be read from it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Undone {
    Fault(Fault),
    Spent(Spent),
}

// === impl Undone ===

impl From<Fault> for Undone {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Spent> for Undone {
    fn from(spent: Spent) -> Self {
        Self::Spent(spent)
    }
}

impl From<der::Malformed> for Fault {
    fn from(malformed: der::Malformed) -> Self {
        match malformed {
            der::Malformed::Ber => Self::Ber,
            der::Malformed::Wrong => Self::Damaged,
        }
    }
}

impl From<der::Malformed> for Undone {
    fn from(malformed: der::Malformed) -> Self {
        Self::Fault(malformed.into())
    }
}
