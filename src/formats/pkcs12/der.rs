//! DER (ITU-T X.690), as far as a keystore needs it: a tag, a length and a content, nested. No value of it is kept longer than it is
//! needed.

use zeroize::Zeroizing;

pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTETS: u8 = 0x04;
pub(super) const NULL: u8 = 0x05;
pub(super) const OID: u8 = 0x06;
pub(super) const BMP: u8 = 0x1e;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;

/// `[0] EXPLICIT`, and other values with the same tag.
pub(super) const CONTEXT_0: u8 = 0xa0;

/// `[0] IMPLICIT OCTET STRING`.
pub(super) const CONTEXT_0_OCTETS: u8 = 0x80;

/// A length that is left open: BER, which some programs write and DER forbids.
const INDEFINITE: u8 = 0x80;

/// An octet string in pieces: BER too.
const PIECES: u8 = 0x24;

/// Bytes that hold secrets, or will hold them. They are wiped when dropped, and never grow, so that no copy is left.
pub(super) type Bytes = Zeroizing<Vec<u8>>;

/// Why the bytes are not as they must be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Malformed {
    /// Valid in BER, but not in DER.
    Ber,
    Wrong,
}

/// The bytes that are not read yet.
#[derive(Clone, Copy)]
pub(super) struct Der<'d>(&'d [u8]);

// === impl Der ===

impl<'d> Der<'d> {
    pub(super) const fn of(bytes: &'d [u8]) -> Self {
        Self(bytes)
    }

    /// The next value of any kind: its tag and its content.
    pub(super) fn next(&mut self) -> Result<(u8, &'d [u8]), Malformed> {
        let [tag, length, rest @ ..] = self.0 else { return Err(Malformed::Wrong) };
        if *length == INDEFINITE || *tag == PIECES {
            return Err(Malformed::Ber);
        }
        let (length, rest) = match length {
            short @ 0..INDEFINITE => (usize::from(*short), rest),
            long => {
                let (bytes, rest) = rest.split_at_checked(usize::from(long & 0x7f)).ok_or(Malformed::Wrong)?;
                if bytes.len() > 4 {
                    return Err(Malformed::Wrong);
                }
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
        };
        let (content, rest) = rest.split_at_checked(length).ok_or(Malformed::Wrong)?;
        self.0 = rest;
        Ok((*tag, content))
    }

    /// The content of the next value, which must have this tag.
    pub(super) fn take(&mut self, tag: u8) -> Result<&'d [u8], Malformed> {
        match self.next()? {
            (found, content) if found == tag => Ok(content),
            _ => Err(Malformed::Wrong),
        }
    }

    /// The values within the next value, which must have this tag.
    pub(super) fn within(&mut self, tag: u8) -> Result<Self, Malformed> {
        self.take(tag).map(Self)
    }

    /// The same, if it is there.
    pub(super) fn optional(&mut self, tag: u8) -> Result<Option<&'d [u8]>, Malformed> {
        if self.0.first() == Some(&tag) { self.take(tag).map(Some) } else { Ok(None) }
    }

    /// A number that is not negative. A number that does not fit into 64 bits becomes the largest that fits.
    pub(super) fn number(&mut self) -> Result<u64, Malformed> {
        let bytes = self.take(INTEGER)?;
        match bytes {
            [] => Err(Malformed::Wrong),
            [first, ..] if first & 0x80 != 0 => Err(Malformed::Wrong),
            _ => {
                let digits = unsigned(bytes);
                Ok(if digits.len() > 8 { u64::MAX } else { digits.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)) })
            }
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Fails if anything follows.
    pub(super) fn end(self) -> Result<(), Malformed> {
        if self.is_empty() { Ok(()) } else { Err(Malformed::Wrong) }
    }
}

/// The bytes of a number without the zeros at its start.
pub(super) fn unsigned(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}

/// A value made of these parts.
pub(super) fn value(tag: u8, parts: &[&[u8]]) -> Bytes {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let bytes = length.to_be_bytes();
    let digits = unsigned(&bytes);
    let mut out = Zeroizing::new(Vec::with_capacity(2 + digits.len() + length));
    out.push(tag);
    match u8::try_from(length) {
        Ok(short) if short < INDEFINITE => out.push(short),
        Ok(_) | Err(_) => {
            // At most eight bytes.
            out.push(INDEFINITE | u8::try_from(digits.len()).unwrap_or(8));
            out.extend_from_slice(digits);
        }
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

pub(super) fn sequence(parts: &[&[u8]]) -> Bytes {
    value(SEQUENCE, parts)
}

/// A set: its parts in the order of their bytes, as DER has it.
pub(super) fn set(parts: &[&[u8]]) -> Bytes {
    let mut parts = parts.to_vec();
    parts.sort_unstable();
    value(SET, &parts)
}

pub(super) fn oid(arcs: &[u8]) -> Bytes {
    value(OID, &[arcs])
}

pub(super) fn octets(bytes: &[u8]) -> Bytes {
    value(OCTETS, &[bytes])
}

pub(super) fn number(number: u32) -> Bytes {
    let bytes = number.to_be_bytes();
    let digits = unsigned(&bytes);
    // A first bit of 1 would be a minus.
    let zero: &[u8] = if digits.first().is_none_or(|first| first & 0x80 != 0) { &[0] } else { &[] };
    value(INTEGER, &[zero, digits])
}

pub(super) fn null() -> Bytes {
    value(NULL, &[])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_written_as_der_has_them() {
        for (number, bytes) in [
            (0, &[2, 1, 0][..]),
            (3, &[2, 1, 3]),
            (127, &[2, 1, 127]),
            (128, &[2, 2, 0, 128]),
            (2_048, &[2, 2, 8, 0]),
            (u32::MAX, &[2, 5, 0, 255, 255, 255, 255]),
        ] {
            assert_eq!(*super::number(number), bytes, "{number}");
            assert_eq!(Der::of(bytes).number(), Ok(u64::from(number)));
        }
        assert_eq!(Der::of(&[2, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0]).number(), Ok(u64::MAX));
        for wrong in [&[2, 1, 0x80][..], &[2, 0], &[2, 2, 0], &[4, 1, 0], &[2], &[]] {
            assert!(Der::of(wrong).number().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_no_der() {
        for (bytes, why) in [
            (&[0x30, 0x80, 0, 0][..], Malformed::Ber),
            (&[0x24, 2, 4, 0], Malformed::Ber),
            (&[0x30, 0x85, 0, 0, 0, 0, 1, 0], Malformed::Wrong),
            (&[0x30, 0x84, 255, 255, 255, 255], Malformed::Wrong),
            (&[0x30, 2, 0], Malformed::Wrong),
            (&[0x30, 0x82, 1], Malformed::Wrong),
        ] {
            assert_eq!(Der::of(bytes).next(), Err(why), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(tag in prop::sample::select(vec![OCTETS, SEQUENCE, SET, CONTEXT_0]), length in 0_usize..70_000) {
            let content = vec![7; length];
            let written = value(tag, &[&content, &[8]]);
            let mut der = Der::of(&written);
            let (found, read) = der.next().unwrap();
            prop_assert_eq!((found, read.len(), read.last()), (tag, length + 1, Some(&8)));
            prop_assert!(der.end().is_ok());
        }
    }
}
