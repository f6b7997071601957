//! The value in place of an authority that h2 refuses: valid, and with the same length on the wire and decoded.

use super::huffman;
use http::uri::Authority;

/// For each code length that a harmless character has: that character, longest code first.
const FILLERS: [(u32, u8); 7] = [(13, b'~'), (11, b'+'), (10, b'!'), (8, b'X'), (7, b'z'), (6, b'-'), (SHORTEST, b'a')];

/// The shortest code, in bits.
const SHORTEST: u32 = 5;

/// Whether h2 accepts `value` as an authority; h2 itself asks `Authority`.
pub fn is_accepted(value: &[u8]) -> bool {
    Authority::try_from(value).is_ok()
}

/// Makes the refused plain `value` acceptable. An empty value stays empty: no valid value has that length.
pub fn plain(value: &mut [u8]) {
    for octet in value {
        if !is_harmless(*octet) {
            *octet = b'-';
        }
    }
}

/// The coded form of an acceptable authority that has as many characters as the refused `text` and, coded, as many octets as the text's
/// `coded` form.
///
/// Each character that is not harmless becomes one with a code of the same length. If there is none (`^ { \`, most controls, all of UTF-8
/// beyond ASCII), fillers with the same number of octets replace the whole value. `None`: no authority can be that long, because the codes
/// of `text` have more than 13 bits on average (or it is empty). Senders that use the shorter of the two codings, like those of Go and
/// nghttp2, send no such value.
pub fn coded(text: &mut [u8], coded: &[u8]) -> Option<Vec<u8>> {
    if !replace_each(text) {
        fill(text, coded.len());
    }
    let substitute = huffman::encode(text);
    (substitute.len() == coded.len() && !text.is_empty()).then_some(substitute)
}

/// Replaces each character that is not harmless by one with a code of the same length; returns false if there is none.
fn replace_each(text: &mut [u8]) -> bool {
    text.iter_mut().filter(|octet| !is_harmless(**octet)).all(|octet| {
        let bits = huffman::code_bits(*octet);
        let fellow = FILLERS.iter().find(|(length, _)| *length == bits);
        fellow.inspect(|(_, filler)| *octet = *filler).is_some()
    })
}

/// Overwrites `text` with fillers whose codes use as much of `octets` as possible. The rest is padding, fewer than eight bits, unless 13
/// bits for each character are too few.
fn fill(text: &mut [u8], octets: usize) {
    let mut budget = octets * 8;
    let mut to_come = text.len();
    for octet in text {
        to_come -= 1;
        let most = budget.saturating_sub(to_come * SHORTEST as usize);
        let (bits, filler) = FILLERS.into_iter().find(|(bits, _)| *bits as usize <= most).unwrap_or((SHORTEST, b'a'));
        *octet = filler;
        budget = budget.saturating_sub(bits as usize);
    }
}

/// Unreserved characters and sub-delimiters (RFC 3986, section 2): in an authority they mean themselves, anywhere and any number of times,
/// unlike `: @ [ ] %`.
fn is_harmless(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&octet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use insta::assert_snapshot;
    use proptest::prelude::*;

    fn plain_of(text: &str) -> String {
        let mut value = text.as_bytes().to_vec();
        plain(&mut value);
        String::from_utf8(value).unwrap()
    }

    fn coded_of(text: &[u8]) -> Option<String> {
        let was = huffman::encode(text);
        let mut text = text.to_vec();
        let now = coded(&mut text, &was)?;
        let mut decoded = Vec::new();
        huffman::decode(&now, |octet| decoded.push(octet)).unwrap();
        assert_eq!((decoded.len(), now.len()), (text.len(), was.len()));
        Some(String::from_utf8(decoded).unwrap())
    }

    #[test]
    fn what_http_refuses() {
        for fine in ["localhost", "localhost:80", "[::1]:80", "user%2Fname@host", "a", "1"] {
            assert!(is_accepted(fine.as_bytes()), "{fine}");
        }
        for refused in ["", "/run/a.sock", "var%2Frun", "a/b", "a?b", "a#b", "a:b:c", "a@", "[::1", "a b", "\u{e9}"] {
            assert!(!is_accepted(refused.as_bytes()), "{refused}");
        }
    }

    #[test]
    fn plain_values_keep_their_letters() {
        assert_snapshot!(plain_of("/var/run/secrets-store-csi-providers/keyferry.sock"), @"-var-run-secrets-store-csi-providers-keyferry.sock");
        assert_snapshot!(plain_of("var%2Frun%2Fkeyferry.sock"), @"var-2Frun-2Fkeyferry.sock");
        assert_snapshot!(plain_of("a:b@[c]\u{e9} %"), @"a-b--c-----");
    }

    #[test]
    fn coded_values_keep_their_letters_where_they_can() {
        assert_snapshot!(coded_of(b"/run/keyferry.sock").unwrap(), @"-run-keyferry.sock");
        assert_snapshot!(coded_of(b"var%2Frun%2Fkeyferry.sock").unwrap(), @"var-2Frun-2Fkeyferry.sock");
        assert_snapshot!(coded_of(b"/a:b?c|d@e[f]g \"").unwrap(), @"-azb!c+d~e~f~g-!");
    }

    #[test]
    fn a_character_without_a_fellow_gives_the_whole_value_up() {
        assert_snapshot!(coded_of(b"/run/{a}.sock").unwrap(), @"~~~+-aaaaaaaa");
        assert_snapshot!(coded_of("/run/cl\u{e9}.sock".as_bytes()).unwrap(), @"~~~~~zaaaaaaaa");
        assert_snapshot!(coded_of(b"<").unwrap(), @"~");
        assert_snapshot!(coded_of(b"#>").unwrap(), @"~+");
    }

    #[test]
    fn a_value_too_long_in_octets_has_no_substitute() {
        assert_eq!(coded_of(b""), None);
        assert_eq!(coded_of(b"\\"), None);
        assert_eq!(coded_of(b"\n\n\n\n"), None);
    }

    /// Mostly characters of paths, so that the coding sometimes makes it shorter.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let octet = prop_oneof![12 => prop::sample::select(b"/run%2F.sock-:_".to_vec()), 1 => any::<u8>()];
        prop::collection::vec(octet, 1..80)
    }

    proptest! {
        #[test]
        fn a_substitute_is_accepted(text in prop_oneof![text(), prop::collection::vec(any::<u8>(), 1..80)]) {
            let mut value = text.clone();
            plain(&mut value);
            prop_assert!(is_accepted(&value));
            prop_assert_eq!(value.len(), text.len());

            match coded_of(&text) {
                Some(substitute) => prop_assert!(is_accepted(substitute.as_bytes())),
                None => prop_assert!(huffman::encode(&text).len() > (13 * text.len()).div_ceil(8)),
            }
        }

        #[test]
        fn whatever_coding_does_not_lengthen_has_a_substitute(text in text()) {
            if huffman::encode(&text).len() <= text.len() {
                prop_assert!(coded_of(&text).is_some());
            }
        }
    }
}
