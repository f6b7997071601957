//! Text that comes from outside as bytes: this module alone knows what Windows adds to it.
//!
//! Editors on Windows begin a file with a byte order mark, and PowerShell's `>` writes UTF-16. All text is read through this module. A
//! secret's value is not text, and its bytes stay unchanged.

use std::io;

use thiserror::Error;
use zeroize::Zeroizing;

/// The byte order mark, U+FEFF, in UTF-8.
pub const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// Why bytes are not text. The message follows the file's name.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum NotText {
    #[error("is UTF-16, as PowerShell writes it (save it as UTF-8)")]
    Utf16,
    #[error("is UTF-32 (save it as UTF-8)")]
    Utf32,
    #[error("is not UTF-8 text: line {line} has other bytes (save it as UTF-8)")]
    Utf8 { line: usize },
}

/// The text without its byte order mark.
///
/// # Errors
/// It is UTF-16, or not UTF-8.
pub fn read(bytes: &[u8]) -> Result<&str, NotText> {
    let bytes = without_mark(bytes)?;
    str::from_utf8(bytes).map_err(|fault| not_utf8(&bytes[..fault.valid_up_to()]))
}

/// The same, but UTF-16 with a byte order mark is accepted too: kubectl reads it in a manifest
/// (<https://pkg.go.dev/golang.org/x/text/encoding/unicode#BOMOverride> in its FileVisitor).
///
/// # Errors
/// It is UTF-16 without a byte order mark or with half a surrogate pair, or it is not UTF-8.
pub fn read_manifest(bytes: &[u8]) -> Result<Zeroizing<String>, NotText> {
    let units = match bytes {
        // UTF-32 begins with the same bytes.
        [0xff, 0xfe, 0, 0, ..] => return Err(NotText::Utf32),
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        _ => return read(bytes).map(without_later_marks),
    };
    // Room for all of it at once: a growing buffer would leave copies of secrets behind. A unit becomes at most three bytes.
    let mut text = Zeroizing::new(String::with_capacity(3 * bytes.len() / 2));
    for unit in units {
        text.push(unit.map_err(|_| NotText::Utf16)?);
    }
    Ok(without_later_marks(&text))
}

/// kubectl splits a stream at lines that start with `---`, and reads each part as a separate text that may have a byte order mark. Files
/// that were joined have such marks.
fn without_later_marks(text: &str) -> Zeroizing<String> {
    const MARK: char = '\u{feff}';
    let mut kept = Zeroizing::new(String::with_capacity(text.len()));
    let mut is_start = false;
    for line in text.split_inclusive('\n') {
        kept.push_str(if is_start { line.strip_prefix(MARK).unwrap_or(line) } else { line });
        is_start = line.starts_with("---");
    }
    kept
}

/// The content of a file with one credential, without the byte order mark: bytes, because a password does not have to be UTF-8.
///
/// # Errors
/// It is UTF-16.
pub fn without_mark(bytes: &[u8]) -> Result<&[u8], NotText> {
    match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Err(NotText::Utf32),
        // ASCII in UTF-32.
        [0, 0, 0, other, ..] | [other, 0, 0, 0, ..] if *other != 0 => Err(NotText::Utf32),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Err(NotText::Utf16),
        // ASCII in UTF-16 has a zero in every second byte. Text has none.
        [0, other, ..] | [other, 0, ..] if *other != 0 => Err(NotText::Utf16),
        _ => Ok(bytes.strip_prefix(UTF8_MARK).unwrap_or(bytes)),
    }
}

/// The same for bytes that are kept.
///
/// # Errors
/// It is UTF-16.
pub fn owned_without_mark(mut bytes: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, NotText> {
    let mark = bytes.len() - without_mark(&bytes)?.len();
    bytes.drain(..mark);
    Ok(bytes)
}

/// The lines, without their ends: `\n`, `\r\n`, or `\r` alone.
pub fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(rest.len());
        let (line, behind) = rest.split_at(end);
        rest = behind.strip_prefix(b"\r\n").or(behind.get(1..)).unwrap_or_default();
        Some(line)
    })
}

/// Without the line end that an editor adds: `\n`, `\r\n`, or `\r` alone.
pub fn without_line_end(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

impl NotText {
    /// How it is encoded.
    pub const fn encoding(self) -> &'static str {
        match self {
            Self::Utf16 => "UTF-16",
            Self::Utf32 => "UTF-32",
            Self::Utf8 { .. } => "not UTF-8",
        }
    }
}

impl From<NotText> for io::Error {
    fn from(fault: NotText) -> Self {
        Self::other(format!("it {fault}"))
    }
}

/// An odd byte at the end is half a unit. It counts like half a surrogate pair.
fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> impl Iterator<Item = Result<char, std::char::DecodeUtf16Error>> {
    const HALF_A_PAIR: u16 = 0xd800;
    let (pairs, odd) = bytes.as_chunks::<2>();
    char::decode_utf16(pairs.iter().map(move |pair| unit(*pair)).chain(odd.iter().map(|_| HALF_A_PAIR)))
}

fn not_utf8(before: &[u8]) -> NotText {
    // What follows belongs to the line of the first wrong byte.
    NotText::Utf8 { line: lines(&[before, b"?"].concat()).count() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16_of(text: &str, mark: bool, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        mark.then_some(0xfeff).into_iter().chain(text.encode_utf16()).flat_map(bytes).collect()
    }

    #[test]
    fn a_byte_order_mark_at_the_start_goes() {
        assert_eq!(read(b"\xef\xbb\xbfa: 1\r\n"), Ok("a: 1\r\n"));
        assert_eq!(read(b"a\xef\xbb\xbf"), Ok("a\u{feff}"), "elsewhere it is a character");
        assert_eq!(read(b"\xef\xbb\xbf\xef\xbb\xbfa"), Ok("\u{feff}a"), "one of them");
        assert_eq!(read(b""), Ok(""));
        assert_eq!(without_mark(b"\xef\xbb\xbf\xff"), Ok(&b"\xff"[..]));
        assert_eq!(owned_without_mark(Zeroizing::new(b"\xef\xbb\xbfa".to_vec())).unwrap().as_slice(), b"a");
    }

    #[test]
    fn utf16_is_read_in_manifests_and_named_elsewhere() {
        let text = "kind: Sécret 🔑\n";
        for bytes in [utf16_of(text, true, u16::to_le_bytes), utf16_of(text, true, u16::to_be_bytes)] {
            assert_eq!(read_manifest(&bytes).unwrap().as_str(), text);
            assert_eq!((read(&bytes), without_mark(&bytes)), (Err(NotText::Utf16), Err(NotText::Utf16)));
            assert_eq!(read_manifest(&bytes[..bytes.len() - 1]), Err(NotText::Utf16), "cut in the middle");
        }
        for bytes in [utf16_of(text, false, u16::to_le_bytes), utf16_of(text, false, u16::to_be_bytes)] {
            assert_eq!((read(&bytes), read_manifest(&bytes)), (Err(NotText::Utf16), Err(NotText::Utf16)));
        }
        assert_eq!(read_manifest(&[0xff, 0xfe, 0x3d, 0xd8, b'a', 0]), Err(NotText::Utf16), "half a surrogate pair");
        for utf32 in [&b"\xff\xfe\0\0a\0\0\0"[..], b"\0\0\xfe\xff\0\0\0a", b"a\0\0\0b\0\0\0", b"\0\0\0a\0\0\0b"] {
            assert_eq!((read(utf32), read_manifest(utf32).map(|_| ())), (Err(NotText::Utf32), Err(NotText::Utf32)), "{utf32:?}");
        }
    }

    /// The result of `cat` with two files from Windows. kubectl accepts it.
    #[test]
    fn each_document_of_a_manifest_may_have_a_mark() {
        let read = |text: &str| read_manifest(text.as_bytes()).unwrap().to_string();
        assert_eq!(read("\u{feff}a: 1\n---\n\u{feff}b: 2\r\n--- # x\r\n\u{feff}c: 3"), "a: 1\n---\nb: 2\r\n--- # x\r\nc: 3");
        assert_eq!(read("a: |\n  ---\n\u{feff}b: 2\n\u{feff}"), "a: |\n  ---\n\u{feff}b: 2\n\u{feff}", "elsewhere it is what it is");
    }

    #[test]
    fn other_bytes_are_named_by_their_line() {
        insta::assert_snapshot!(read(b"a: 1\nb: caf\xe9\n").unwrap_err(), @"is not UTF-8 text: line 2 has other bytes (save it as UTF-8)");
        insta::assert_snapshot!(NotText::Utf16, @"is UTF-16, as PowerShell writes it (save it as UTF-8)");
    }

    #[test]
    fn a_line_ends_as_anybody_writes_it() {
        for text in ["a\nb\n\nc", "a\r\nb\r\n\r\nc\r\n", "a\rb\r\rc\r", "a\rb\n\r\nc\r"] {
            assert_eq!(lines(text.as_bytes()).collect::<Vec<_>>(), [&b"a"[..], b"b", b"", b"c"], "{text:?}");
        }
        assert_eq!(lines(b"").count(), 0);
        assert_eq!(read(b"a\rb\r\n\xe9"), Err(NotText::Utf8 { line: 3 }));
    }

    #[test]
    fn one_line_end_is_not_the_credentials() {
        for (file, credential) in
            [("pw", "pw"), ("pw\n", "pw"), ("pw\r\n", "pw"), ("pw\r", "pw"), ("pw\n\n", "pw\n"), (" pw \r\n", " pw "), ("\n", ""), ("", "")]
        {
            assert_eq!(without_line_end(file.as_bytes()), credential.as_bytes(), "{file:?}");
        }
    }
}
