//! Encrypting and opening files: the only place that calls age.
//!
//! Only for X25519 recipients. It refuses a file with a passphrase without opening it: the file's author chooses how much work opening is.

use std::io::{self, Read, Write};

use age::{DecryptError, Decryptor, Encryptor};
use thiserror::Error;
use zeroize::Zeroizing;

use super::key::Key;

/// The longest header in bytes: about a hundred recipients. age reads the header again for each of its lines, so the time grows with the
/// square of its length.
const MAX_HEADER: usize = 16 * 1024;

/// How a file of age's binary format, version 1, starts (<https://age-encryption.org/v1>).
const MAGIC: &[u8] = b"age-encryption.org/v1\n";

/// Why an encrypted file does not open.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Unopened {
    #[error("was altered after it was encrypted, or is damaged")]
    Altered,
    #[error("is age's text form; the vault's files are binary (decode it with `age -d` and set the secret again)")]
    Armoured,
    #[error("is empty")]
    Empty,
    #[error("is only a Git LFS pointer (fetch the files: `git lfs pull`)")]
    GitLfsPointer,
    #[error("has an age header of more than {MAX_HEADER} bytes")]
    LongHeader,
    #[error("is not an age file")]
    NotAge,
    #[error("is encrypted with a passphrase; the vault's files are encrypted for X25519 recipients")]
    Passphrase,
    #[error("is truncated")]
    Truncated,
    /// Or its header was altered: age cannot tell the two apart.
    #[error("is encrypted for other recipients")]
    WrongIdentity,
}

/// Encrypts a plaintext for every recipient.
///
/// # Errors
/// The list of recipients is empty.
pub fn seal(plaintext: &[u8], recipients: &[age::x25519::Recipient]) -> io::Result<Vec<u8>> {
    let encryptor = Encryptor::with_recipients(recipients.iter().map(|recipient| recipient as &dyn age::Recipient))
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))?;
    let mut sealed = Vec::with_capacity(plaintext.len() + 1024);
    let mut writer = encryptor.wrap_output(&mut sealed)?;
    writer.write_all(plaintext)?;
    writer.finish()?;
    Ok(sealed)
}

/// Opens an encrypted file with the first identity that fits.
pub fn open(sealed: &[u8], identities: &[Key]) -> Result<Zeroizing<Vec<u8>>, Unopened> {
    check_head(sealed)?;
    let decryptor = Decryptor::new_buffered(sealed).map_err(|error| unopened(&error))?;
    if decryptor.is_scrypt() {
        return Err(Unopened::Passphrase);
    }
    let identities = identities.iter().map(|identity| identity as &dyn age::Identity);
    let mut reader = decryptor.decrypt(identities).map_err(|error| unopened(&error))?;
    // Large enough from the start: a reallocation would leave a copy of the plaintext behind.
    let mut plaintext = Zeroizing::new(Vec::with_capacity(sealed.len()));
    reader.read_to_end(&mut plaintext).map_err(|error| unread(&error))?;
    Ok(plaintext)
}

fn check_head(sealed: &[u8]) -> Result<(), Unopened> {
    if sealed.is_empty() {
        return Err(Unopened::Empty);
    }
    if sealed.starts_with(MAGIC) {
        let head = &sealed[..sealed.len().min(MAX_HEADER)];
        let ends = head.windows(5).any(|window| window == b"\n--- ");
        return match (ends, sealed.len() > MAX_HEADER) {
            (true, _) => Ok(()),
            (false, true) => Err(Unopened::LongHeader),
            (false, false) => Err(Unopened::Truncated),
        };
    }
    Err(match sealed {
        start if MAGIC.starts_with(start) => Unopened::Truncated,
        start if start.starts_with(b"-----BEGIN AGE") => Unopened::Armoured,
        start if start.starts_with(b"version https://git-lfs") => Unopened::GitLfsPointer,
        _ => Unopened::NotAge,
    })
}

/// By variant: age's own messages are translated into the language of the machine.
#[allow(clippy::wildcard_enum_match_arm)] // a foreign, non-exhaustive enum
fn unopened(error: &DecryptError) -> Unopened {
    match error {
        DecryptError::Io(error) => unread(error),
        DecryptError::NoMatchingKeys => Unopened::WrongIdentity,
        DecryptError::UnknownFormat => Unopened::NotAge,
        DecryptError::ExcessiveWork { .. } => Unopened::Passphrase,
        _ => Unopened::Altered,
    }
}

fn unread(error: &io::Error) -> Unopened {
    if error.kind() == io::ErrorKind::UnexpectedEof { Unopened::Truncated } else { Unopened::Altered }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_of_several_identities_opens_what_any_of_several_recipients_may() {
        let keys: Vec<_> = (0..3).map(|_| Key::new(age::x25519::Identity::generate())).collect();
        let sealed = seal(b"plain", &[keys[0].to_public(), keys[1].to_public()]).unwrap();
        assert_eq!(open(&sealed, &keys[..1]).unwrap().as_slice(), b"plain");
        assert_eq!(open(&sealed, &[keys[2].clone(), keys[1].clone()]).unwrap().as_slice(), b"plain");
        assert_eq!(open(&sealed, &keys[2..]), Err(Unopened::WrongIdentity));
        assert_eq!(open(&sealed, &[]), Err(Unopened::WrongIdentity));
        assert!(seal(b"plain", &[]).is_err());
    }

    #[test]
    fn no_cut_and_no_flipped_bit_goes_unnoticed() {
        let key = Key::new(age::x25519::Identity::generate());
        let sealed = seal(b"plain", &[key.to_public()]).unwrap();
        for at in 0..sealed.len() {
            assert!(open(&sealed[..at], std::slice::from_ref(&key)).is_err(), "cut at {at}");
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(open(&altered, std::slice::from_ref(&key)).is_err(), "flipped at {at}");
        }
        assert_eq!(open(&sealed[..10], std::slice::from_ref(&key)), Err(Unopened::Truncated));
        assert_eq!(open(&sealed[..60], std::slice::from_ref(&key)), Err(Unopened::Truncated));
        let longer = [&sealed[..], b"x"].concat();
        assert_eq!(open(&longer, &[key]), Err(Unopened::Altered));
    }

    #[test]
    fn what_else_may_lie_there_is_told_apart() {
        let passphrase = Encryptor::with_user_passphrase("x".to_owned().into());
        let mut sealed = Vec::new();
        let mut writer = passphrase.wrap_output(&mut sealed).unwrap();
        writer.write_all(b"plain").unwrap();
        writer.finish().unwrap();
        assert_eq!(open(&sealed, &[]), Err(Unopened::Passphrase));

        assert_eq!(open(b"", &[]), Err(Unopened::Empty));
        assert_eq!(open(b"password=x", &[]), Err(Unopened::NotAge));
        assert_eq!(open(b"-----BEGIN AGE ENCRYPTED FILE-----\n", &[]), Err(Unopened::Armoured));
        assert_eq!(open(b"version https://git-lfs.github.com/spec/v1\n", &[]), Err(Unopened::GitLfsPointer));
        let endless = [MAGIC, "-> X25519 x\n".repeat(10_000).as_bytes()].concat();
        assert_eq!(open(&endless, &[]), Err(Unopened::LongHeader));
    }
}
