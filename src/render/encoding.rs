//! Text that encodes other bytes: base64, base64url and hex (RFC 4648). Decoding is strict, except for what tools add.
//!
//! `base64` and `xxd` break lines, editors end files with a line end, and padding is often lost: white space and missing padding are fine.
//! Everything else that is not the encoding is corrupt. The message has the place of the fault and never its text.

use std::sync::Arc;

use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD, DecodeError, DecodeKind, DecodePartial, Encoding as Codec, HEXLOWER_PERMISSIVE};
use zeroize::Zeroizing;

use super::Problem;
use crate::model::{Code, Encoding, SecretBytes};

/// The bytes that a text encodes. For `utf-8` they are the bytes themselves, shared.
/// `is_native`: the class is in the native format, so a remedy may use its words.
pub(super) fn decode(encoding: Encoding, text: Arc<SecretBytes>, is_native: bool) -> Result<Arc<SecretBytes>, Problem> {
    let decoded = match encoding {
        Encoding::Utf8 => return Ok(text),
        Encoding::Base64 => decode_base64(&BASE64_NOPAD, text.expose()),
        Encoding::Base64Url => decode_base64(&BASE64URL_NOPAD, text.expose()),
        Encoding::Hex => decode_with(&HEXLOWER_PERMISSIVE, text.expose(), &without_space(text.expose())),
    };
    decoded.map(|bytes| Arc::new(SecretBytes::from(bytes))).map_err(|fault| problem(encoding, text.expose(), fault, is_native))
}

/// Why a text is not in its encoding, and at which byte, counted from 0.
#[derive(Clone, Copy)]
enum Fault {
    Character(usize),
    Ends,
    LeftOver(usize),
    Padding(usize),
}

fn decode_base64(codec: &Codec, text: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let packed = without_space(text);
    let end = packed.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
    let padding = packed.len() - end;
    if padding > 0 && (padding > 2 || !packed.len().is_multiple_of(4)) {
        return Err(Fault::Padding(place(text, end)));
    }
    decode_with(codec, text, &packed[..end])
}

/// `packed` is `text` without white space.
fn decode_with(codec: &Codec, text: &[u8], packed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let length = codec.decode_len(packed.len()).map_err(|error| fault(text, error))?;
    let mut bytes = Zeroizing::new(vec![0; length]);
    let written = codec.decode_mut(packed, &mut bytes).map_err(|DecodePartial { error, .. }| fault(text, error))?;
    bytes.truncate(written);
    Ok(bytes)
}

fn fault(text: &[u8], DecodeError { position, kind }: DecodeError) -> Fault {
    match kind {
        DecodeKind::Length => Fault::Ends,
        DecodeKind::Padding => Fault::Padding(place(text, position)),
        DecodeKind::Symbol => Fault::Character(place(text, position)),
        DecodeKind::Trailing => Fault::LeftOver(place(text, position)),
    }
}

fn without_space(text: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut packed = Zeroizing::new(Vec::with_capacity(text.len()));
    packed.extend(text.iter().filter(|byte| !byte.is_ascii_whitespace()));
    packed
}

/// The place in the text of the byte that is at `position` without white space.
fn place(text: &[u8], position: usize) -> usize {
    text.iter().enumerate().filter(|(_, byte)| !byte.is_ascii_whitespace()).nth(position).map_or(text.len(), |(place, _)| place)
}

fn problem(encoding: Encoding, text: &[u8], fault: Fault, is_native: bool) -> Problem {
    let name = match encoding {
        Encoding::Base64 => "base64",
        Encoding::Base64Url => "base64url",
        Encoding::Hex => "hex",
        Encoding::Utf8 => "utf-8",
    };
    let cause = match fault {
        Fault::Character(place) => format!("a character outside its alphabet at byte {place} of {}", text.len()),
        Fault::Ends => format!("it ends in the middle of a group, after {} bytes", text.len()),
        Fault::LeftOver(place) => format!("bits are left over at byte {place} of {}: it seems cut", text.len()),
        Fault::Padding(place) => format!("wrong padding at byte {place} of {}", text.len()),
    };
    let remedy = match (encoding, other_alphabet(encoding, text)) {
        (_, Some(other)) if !is_native => format!("it may be {other}, which only classes in the native format decode"),
        (_, Some(other)) => format!("it may be {other}: set `encoding: {other}`"),
        _ => format!("store it as {name}, or leave `encoding` out to deliver the text as it is"),
    };
    Problem { code: Code::SecretCorrupt, text: format!("is not {name}: {cause} ({remedy})") }
}

/// Whether the text has one of the two characters in which the alphabets of base64 differ: then the other alphabet is meant.
fn other_alphabet(encoding: Encoding, text: &[u8]) -> Option<&'static str> {
    let has = |characters: [u8; 2]| text.iter().any(|byte| characters.contains(byte));
    let (standard, url) = (has(*b"+/"), has(*b"-_"));
    match encoding {
        Encoding::Base64 if url && !standard => Some("base64url"),
        Encoding::Base64Url if standard && !url => Some("base64"),
        Encoding::Base64 | Encoding::Base64Url | Encoding::Hex | Encoding::Utf8 => None,
    }
}
