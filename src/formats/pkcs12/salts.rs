//! Salts and vectors that are made, not drawn: a file that is made again at each poll, after a restart or on another node is the same, byte for
//! byte, as long as nothing of it changes.
//!
//! Each is an HMAC, under a key of this cluster alone, of what it is for, the number of the encrypted part, and a hash of *all* that the file is made
//! of. So another password, key, certificate, order or name has other salts and vectors, and no two contents are ever encrypted under the same key
//! and vector. What it shows: two files that are equal were made of the same.

use std::fmt;

use aws_lc_rs::{digest, hmac};

/// The key of all salts.
pub struct SaltKey(hmac::Key);

/// What is made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Use {
    Iv,
    Salt,
}

/// A hash of all that a file is made of. Lengths stand before contents, so that no two files share one by their seams.
pub(super) struct Inputs(digest::Context);

/// The salts of one file.
pub(super) struct Salts<'k> {
    key: &'k SaltKey,
    inputs: digest::Digest,
}

// === impl SaltKey ===

impl SaltKey {
    /// The key's bytes must be secret, and those of no other use.
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

    /// A list: how many there are, and each.
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
    /// For the part of this number.
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
