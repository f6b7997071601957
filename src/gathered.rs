//! Hashes of many small parts. `SipHash` spends more time on a part than on its bytes: so the parts are gathered and hashed together. A key
//! that already has a hash is not hashed again.

use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};

/// The most bytes that are gathered.
const PIECE: usize = 128;

/// Hashes with its own key: a user who writes the hashed text cannot find two texts with the same hash.
#[derive(Clone, Debug, Default)]
pub struct Gathering(RandomState);

#[derive(Debug)]
pub struct Gathered {
    hasher: DefaultHasher,
    bytes: [u8; PIECE],
    filled: usize,
}

impl BuildHasher for Gathering {
    type Hasher = Gathered;

    fn build_hasher(&self) -> Gathered {
        Gathered { hasher: self.0.build_hasher(), bytes: [0; PIECE], filled: 0 }
    }
}

impl Hasher for Gathered {
    #[inline]
    fn write(&mut self, part: &[u8]) {
        if part.len() > PIECE - self.filled {
            self.hasher.write(&self.bytes[..self.filled]);
            self.filled = 0;
            if part.len() > PIECE {
                return self.hasher.write(part);
            }
        }
        self.bytes[self.filled..self.filled + part.len()].copy_from_slice(part);
        self.filled += part.len();
    }

    #[inline]
    fn write_u8(&mut self, part: u8) {
        self.write(&[part]);
    }

    #[inline]
    fn write_u64(&mut self, part: u64) {
        self.write(&part.to_ne_bytes());
    }

    #[inline]
    fn write_usize(&mut self, part: usize) {
        self.write(&part.to_ne_bytes());
    }

    fn finish(&self) -> u64 {
        let mut hasher = self.hasher.clone();
        hasher.write(&self.bytes[..self.filled]);
        hasher.finish()
    }
}

/// For keys whose hash is one number that was made with a key of this process: this number is used directly.
#[derive(Clone, Copy, Debug, Default)]
pub struct Prehashed;

/// The number.
#[derive(Debug, Default)]
pub struct Number(u64);

impl BuildHasher for Prehashed {
    type Hasher = Number;

    fn build_hasher(&self) -> Number {
        Number::default()
    }
}

impl Hasher for Number {
    /// Only for completeness: a key with several parts needs [`Gathering`].
    fn write(&mut self, part: &[u8]) {
        for byte in part {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    #[inline]
    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_hash_as_they_do_one_by_one(texts in prop::collection::vec("[a-z]{0,300}", 0..20), number: u64) {
            let gathering = Gathering::default();
            let bytes: Vec<_> = texts.iter().map(String::as_bytes).collect();
            prop_assert_eq!(gathering.hash_one((&bytes, number)), gathering.0.hash_one((&bytes, number)));
        }

        #[test]
        fn each_change_of_a_text_is_seen(texts in prop::collection::vec("[a-z]{0,300}", 1..20), at: prop::sample::Index) {
            let gathering = Gathering::default();
            let hash = gathering.hash_one(&texts);
            let mut longer = texts.clone();
            at.get_mut(&mut longer).push('a');
            prop_assert_ne!(hash, gathering.hash_one(&longer));
            prop_assert_ne!(hash, gathering.hash_one([&texts[..], &[String::new()]].concat()));
            prop_assert_ne!(hash, Gathering::default().hash_one(&texts), "another key");
        }
    }
}
