//! Salts and vectors are made of the content, not drawn. So a file that is made again at a poll, after a restart or on another node has the
//! same bytes, as long as its content does not change.
//!
//! Each one is an HMAC with a key that only this cluster has. Its input is its purpose, the number of the encrypted part, and a hash of
//! *all* content of the file. So another password, key, certificate, order or name has other salts and vectors, and no two contents are
//! ever encrypted with the same key and vector. It shows one thing: two equal files have equal content.

use std::fmt;

use aws_lc_rs::{digest, hmac};

/// The key for all salts.
pub struct SaltKey(hmac::Key);

/// The purpose of a value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Use {
    Iv,
    Salt,
}

/// A hash of all content of a file. Each length comes before its content, so that no two files have the same input.
pub(super) struct Inputs(digest::Context);

/// The salts of one file.
pub(super) struct Salts<'k> {
    key: &'k SaltKey,
    inputs: digest::Digest,
}

// === impl SaltKey ===

impl SaltKey {
    /// The bytes of the key must be secret, and used for nothing else.
    pub fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }
}

impl fmt::Debug for SaltKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SaltKey(redacted)")
    }
}

// === impl Inputs ===

impl Inputs {
    pub(super) fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    pub(super) fn add(&mut self, input: &[u8]) {
        self.0.update(&(input.len() as u64).to_be_bytes());
        self.0.update(input);
    }

    /// Adds a list: its length, and each item.
    pub(super) fn add_all<'i>(&mut self, inputs: impl ExactSizeIterator<Item = &'i [u8]>) {
        self.0.update(&(inputs.len() as u64).to_be_bytes());
        inputs.for_each(|input| self.add(input));
    }

    pub(super) fn salts(self, key: &SaltKey) -> Salts<'_> {
        Salts { key, inputs: self.0.finish() }
    }
}

// === impl Salts ===

impl Salts<'_> {
    /// For the part with this number.
    pub(super) fn of(&self, what: Use, part: u8) -> [u8; 16] {
        let mut context = hmac::Context::with_key(&self.key.0);
        context.update(match what {
            Use::Iv => b"iv",
            Use::Salt => b"salt",
        });
        context.update(&[0, part]);
        context.update(self.inputs.as_ref());
        let mut salt = [0; 16];
        salt.copy_from_slice(&context.sign().as_ref()[..16]);
        salt
    }
}
