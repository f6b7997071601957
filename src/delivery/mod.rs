//! The answer to a mount: the files, and the ids and versions of their secrets, within the driver's limits.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::formats::pkcs12::SaltKey;
use crate::model::{FileMode, FilePath, Owner, Secret, SecretBytes, Version};

mod deliverer;
pub mod unmounted;
pub mod volume;
mod volumes;

pub use deliverer::{Deliverer, DeliveryError, DeliveryMode, Handed, Reservation};
pub use volumes::Volumes;

/// The file in the answer to an empty plan: an answer without files would leave the old ones in place (`proto/provider.proto`).
const MARKER: &str = ".keyferry";

/// The bytes that a file or an id needs on the wire in addition to its content and name: protobuf tags and lengths, at most.
const WIRE_OVERHEAD: usize = 24;

/// An answer, ready to be sent.
#[derive(Debug)]
pub struct Delivery {
    /// The whole volume.
    pub files: Vec<DeliveredFile>,
    /// Never empty, ids unique.
    pub versions: Vec<ObjectVersion>,
    /// The daemon has written the files itself: they are in the volume, and not in the answer.
    pub in_place: bool,
}

#[derive(Clone, Debug)]
pub struct DeliveredFile {
    pub path: FilePath,
    pub mode: FileMode,
    /// Only the daemon itself can correct this.
    pub owner: Option<Owner>,
    pub contents: Arc<SecretBytes>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObjectVersion {
    pub id: Arc<str>,
    pub version: Version,
}

/// The answer is larger than the driver accepts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Oversize {
    pub bytes: usize,
    pub limit: usize,
}

/// No secret's fields begin like this: memory cannot hold a text with such a length.
const OF_NO_SECRET: [u8; 8] = [0xff; 8];

/// Makes versions for secrets whose store has none. All nodes have the same key: a StatefulSet's Pod moves between nodes.
pub struct VersionKey {
    key: hmac::Key,
    salts: Arc<SaltKey>,
}

// === impl Delivery ===

impl Delivery {
    /// Makes the answer. `secrets` are the secrets that were found, in the order of the plan, each with the id of its version: ids are
    /// unique.
    ///
    /// # Errors
    /// The answer would take more than `limit` bytes on the wire.
    pub fn new(files: Vec<DeliveredFile>, secrets: &[(&Arc<str>, &Secret)], key: &VersionKey, limit: usize) -> Result<Self, Oversize> {
        let mut versions = object_versions(secrets, key);
        if versions.is_empty() {
            versions.push(ObjectVersion { id: MARKER.into(), version: Version::new("empty") });
        }
        let bytes = files.iter().map(|file| file.contents.len() + file.path.as_str().len() + WIRE_OVERHEAD).sum::<usize>()
            + versions.iter().map(|entry| entry.id.len() + entry.version.as_str().len() + WIRE_OVERHEAD).sum::<usize>();
        if bytes > limit { Err(Oversize { bytes, limit }) } else { Ok(Self { files, versions, in_place: false }) }
    }

    /// In an answer, "no file" does not mean an empty volume.
    fn mark_if_empty(&mut self) {
        if self.files.is_empty() {
            self.files.extend(marker_file());
        }
    }
}

fn marker_file() -> Option<DeliveredFile> {
    let path = MARKER.parse().ok()?;
    Some(DeliveredFile { path, mode: FileMode::DEFAULT, owner: None, contents: Arc::new(SecretBytes::new(Vec::new())) })
}

fn object_versions(secrets: &[(&Arc<str>, &Secret)], key: &VersionKey) -> Vec<ObjectVersion> {
    // Many ids may belong to one secret: it is hashed once.
    let mut digested: HashMap<*const Secret, Version> = HashMap::new();
    let named = secrets.iter().map(|(id, secret)| {
        let make = || digested.entry(std::ptr::from_ref(*secret)).or_insert_with(|| key.version_of(secret)).clone();
        ObjectVersion { id: Arc::clone(id), version: secret.version.as_ref().map_or_else(make, |told| key.shown(told)) }
    });
    named.collect()
}

// === impl VersionKey ===

impl VersionKey {
    /// The key's length in bytes.
    pub const LENGTH: usize = 32;

    pub fn new(key: &Zeroizing<Vec<u8>>) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        let salts = Arc::new(SaltKey::new(hmac::sign(&key, &[&OF_NO_SECRET[..], b"salts"].concat()).as_ref()));
        Self { key, salts }
    }

    /// The key of keystores' salts. It is made from this key, so it is also the same on all nodes.
    pub fn salts(&self) -> &Arc<SaltKey> {
        &self.salts
    }

    /// A secret's version in public form: from the store, else from its content.
    pub fn version(&self, secret: &Secret) -> Version {
        secret.version.as_ref().map_or_else(|| self.version_of(secret), |told| self.shown(told))
    }

    /// A store's version in public form. A number counts changes and says nothing about the value. Any other text may be made from the
    /// content (object stores send its MD5 as ETag), so anyone could check a guess of the value: Keyferry sends its HMAC instead.
    fn shown(&self, told: &Version) -> Version {
        if told.is_number() {
            return told.clone();
        }
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&OF_NO_SECRET);
        context.update(b"version");
        context.update(told.as_str().as_bytes());
        Self::cut(context)
    }

    /// An HMAC-SHA-256 over all fields, cut to 128 bits. Each length comes before its content, so two different secrets never give the same
    /// input.
    fn version_of(&self, secret: &Secret) -> Version {
        let mut context = hmac::Context::with_key(&self.key);
        let mut part = |bytes: &[u8]| {
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        };
        for (name, field) in &secret.fields {
            part(name.as_str().as_bytes());
            part(field.bytes.expose());
        }
        if let Some(response) = &secret.response {
            part(response.bytes().expose());
        }
        Self::cut(context)
    }

    fn cut(context: hmac::Context) -> Version {
        Version::new(data_encoding::HEXLOWER.encode(&context.sign().as_ref()[..16]))
    }
}

impl fmt::Debug for VersionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VersionKey(redacted)")
    }
}

impl fmt::Display for Oversize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, limit } = self;
        write!(
            f,
            "the volume's files take {bytes} bytes together; at most {limit} can be delivered \
             (split the class over several volumes; the admin's limits.mountBytes cannot exceed what the driver accepts, 4 MiB by default)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Field;

    fn key(byte: u8) -> VersionKey {
        VersionKey::new(&Zeroizing::new(vec![byte; VersionKey::LENGTH]))
    }

    fn secret(fields: &[(&str, &str)], version: Option<&str>) -> Secret {
        let fields =
            fields.iter().map(|(name, value)| (name.parse().unwrap(), Field::of_bytes(SecretBytes::new((*value).into())))).collect();
        Secret { fields, response: None, version: version.map(Version::new), lease: None }
    }

    #[test]
    fn a_stores_version_goes_out_as_it_is_only_if_it_is_a_number() {
        let shown = |told: &str, byte| {
            let secret = secret(&[("a", "hunter2")], Some(told));
            Delivery::new(Vec::new(), &[(&"web/db".into(), &secret)], &key(byte), 4096).unwrap().versions[0].version.to_string()
        };
        for number in ["0", "7", "1795328111", "18446744073709551615"] {
            assert_eq!(shown(number, 1), number);
        }
        let md5 = "2ab96390c7dbe3439de74d0c9b0b1767";
        let all_digits = "12345678901234567890123456789012";
        for other in [md5, all_digits, "v7", "1.2.3", "-1", "+7", "007", "0x7", "7 ", "٧", "1e3", "18446744073709551616", "2026-11-26"] {
            assert_eq!(shown(other, 1).len(), 32, "{other}");
            assert_ne!(shown(other, 1), other);
            assert_eq!(shown(other, 1), shown(other, 1));
            assert_ne!(shown(other, 1), shown(other, 2), "{other}: without the key nobody can make it");
        }
        assert_ne!(shown("v7", 1), shown("v8", 1));
    }

    #[test]
    fn an_empty_plan_withdraws_all_files() {
        let mut delivery = Delivery::new(Vec::new(), &[], &key(1), 4096).unwrap();
        delivery.mark_if_empty();
        assert_eq!(delivery.files.len(), 1);
        assert_eq!(delivery.files[0].path.as_str(), ".keyferry");
        assert!(delivery.files[0].contents.is_empty());
        assert_eq!(delivery.versions.len(), 1);
    }

    #[test]
    fn a_made_version_depends_on_content_and_key_and_shows_neither() {
        let version = |fields: &[(&str, &str)], byte| key(byte).version_of(&secret(fields, None));
        assert_eq!(version(&[("a", "1")], 1), version(&[("a", "1")], 1));
        assert_ne!(version(&[("a", "1")], 1), version(&[("a", "1")], 2));
        assert_ne!(version(&[("a", "1")], 1), version(&[("a", "2")], 1));
        assert_ne!(version(&[("a", "1b2")], 1), version(&[("a", "1"), ("b", "2")], 1));
        assert_eq!(version(&[("a", "1")], 1).as_str().len(), 32);
        assert!(!format!("{:?}", key(9)).contains('9'));
    }

    #[test]
    fn an_answer_over_the_limit_says_both_sizes() {
        let file = DeliveredFile {
            path: "big".parse().unwrap(),
            mode: FileMode::DEFAULT,
            owner: None,
            contents: Arc::new(SecretBytes::new(vec![b'x'; 5_000])),
        };
        let oversize = Delivery::new(vec![file], &[], &key(1), 4096).unwrap_err();
        assert!(oversize.to_string().starts_with("the volume's files take 50"), "{oversize}");
    }
}
