//! HPACK's Huffman code (RFC 7541, section 5.2 and Appendix B). It is in a separate file because it is one table and two loops over it.

use super::malformed::Malformed;

/// The code's symbols by code length in bits (RFC 7541, Appendix B). The code is canonical: lengths and this order give every code. The
/// end-of-string symbol, the last one with 30 bits, is left out, because no string may have it.
const SYMBOLS: [(u32, &[u8]); 21] = [
    (5, b"012aceiost"),
    (6, b" %-./3456789=A_bdfghlmnpru"),
    (7, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, b"&*,;XZ"),
    (10, b"!\"()?"),
    (11, b"'+|"),
    (12, b"#>"),
    (13, b"\x00$@[]~"),
    (14, b"^}"),
    (15, b"<`{"),
    (19, b"\\\xc3\xd0"),
    (20, b"\x80\x82\x83\xa2\xb8\xc2\xe0\xe2"),
    (21, b"\x99\xa1\xa7\xac\xb0\xb1\xb3\xd1\xd8\xd9\xe3\xe5\xe6"),
    (22, b"\x81\x84\x85\x86\x88\x92\x9a\x9c\xa0\xa3\xa4\xa9\xaa\xad\xb2\xb5\xb9\xba\xbb\xbd\xbe\xc4\xc6\xe4\xe8\xe9"),
    (23, b"\x01\x87\x89\x8a\x8b\x8c\x8d\x8f\x93\x95\x96\x97\x98\x9b\x9d\x9e\xa5\xa6\xa8\xae\xaf\xb4\xb6\xb7\xbc\xbf\xc5\xe7\xef"),
    (24, b"\x09\x8e\x90\x91\x94\x9f\xab\xce\xd7\xe1\xec\xed"),
    (25, b"\xc7\xcf\xea\xeb"),
    (26, b"\xc0\xc1\xc8\xc9\xca\xcd\xd2\xd5\xda\xdb\xee\xf0\xf2\xf3\xff"),
    (27, b"\xcb\xcc\xd3\xd4\xd6\xdd\xde\xdf\xf1\xf4\xf5\xf6\xf7\xf8\xfa\xfb\xfc\xfd\xfe"),
    (28, b"\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f\x10\x11\x12\x13\x14\x15\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x7f\xdc\xf9"),
    (30, b"\x0a\x0d\x16"),
];

/// The code of the first symbol of each length in `SYMBOLS`.
const FIRST: [u32; SYMBOLS.len()] = first_codes();

/// Each octet's code and its length in bits.
const CODES: [(u32, u32); 256] = codes();

/// Decodes `coded`, and gives each octet to `emit`. An invalid code, the end-of-string symbol, or padding that is not fewer than eight one
/// bits is malformed; the octets before the fault have been given to `emit` by then.
pub fn decode(coded: &[u8], mut emit: impl FnMut(u8)) -> Result<(), Malformed> {
    let mut window = 0_u64; // the bits not yet decoded, from the top
    let mut held = 0; // how many they are: at most 29 left over, and 8 more
    for &octet in coded {
        window |= u64::from(octet) << (56 - held);
        held += 8;
        while let Some((bits, symbol)) = first_symbol(window, held)? {
            emit(symbol);
            window <<= bits;
            held -= bits;
        }
    }
    let padding = !(u64::MAX >> held);
    if held < 8 && window == padding { Ok(()) } else { Err(Malformed("Huffman padding")) }
}

/// The symbol at the top of `window`, or `None` where its code is longer than the `held` bits.
fn first_symbol(window: u64, held: u32) -> Result<Option<(u32, u8)>, Malformed> {
    for ((bits, symbols), first) in SYMBOLS.iter().zip(FIRST) {
        if *bits > held {
            return Ok(None);
        }
        // A canonical code: shorter codes were excluded above, so the code is `first` or higher.
        let offset = (window >> (64 - bits)) - u64::from(first);
        if let Some(&symbol) = usize::try_from(offset).ok().and_then(|offset| symbols.get(offset)) {
            return Ok(Some((*bits, symbol)));
        }
    }
    Err(Malformed("Huffman code"))
}

/// The coded form of `text`, padded with one bits to whole octets.
pub fn encode(text: &[u8]) -> Vec<u8> {
    let mut coded = Vec::with_capacity(text.len());
    let mut window = 0_u64;
    let mut held = 0;
    for &octet in text {
        let (code, bits) = CODES[usize::from(octet)];
        held += bits;
        window |= u64::from(code) << (64 - held);
        while held >= 8 {
            coded.push(window.to_be_bytes()[0]);
            window <<= 8;
            held -= 8;
        }
    }
    if held > 0 {
        coded.push(window.to_be_bytes()[0] | (0xff >> held));
    }
    coded
}

/// How many bits the code of `octet` has: 5 to 30.
pub fn code_bits(octet: u8) -> u32 {
    CODES[usize::from(octet)].1
}

const fn first_codes() -> [u32; SYMBOLS.len()] {
    let mut first = [0; SYMBOLS.len()];
    let mut class = 1;
    while class < SYMBOLS.len() {
        let (bits, _) = SYMBOLS[class];
        let (shorter, before) = SYMBOLS[class - 1];
        first[class] = (first[class - 1] + len(before)) << (bits - shorter);
        class += 1;
    }
    first
}

const fn codes() -> [(u32, u32); 256] {
    let mut codes = [(0, 0); 256];
    let mut class = 0;
    while class < SYMBOLS.len() {
        let (bits, symbols) = SYMBOLS[class];
        let mut code = FIRST[class];
        let mut at = 0;
        while at < symbols.len() {
            codes[symbols[at] as usize] = (code, bits);
            code += 1;
            at += 1;
        }
        class += 1;
    }
    codes
}

#[allow(clippy::cast_possible_truncation)] // at most 32 symbols
const fn len(symbols: &[u8]) -> u32 {
    symbols.len() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut text = Vec::new();
        decode(coded, |octet| text.push(octet)).map(|()| text)
    }

    #[test]
    fn the_examples_of_rfc_7541_appendix_c() {
        for (text, coded) in [
            ("www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
            ("no-cache", "a8eb10649cbf"),
            ("custom-key", "25a849e95ba97d7f"),
            ("custom-value", "25a849e95bb8e8b4bf"),
            ("302", "6402"),
            ("307", "640eff"),
            ("private", "aec3771a4b"),
            ("gzip", "9bd9ab"),
            ("Mon, 21 Oct 2013 20:13:21 GMT", "d07abe941054d444a8200595040b8166e082a62d1bff"),
            ("https://www.example.com", "9d29ad171863c78f0b97c8e9ae82ae43d3"),
            (
                "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
                "94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
            ),
        ] {
            assert_eq!(HEXLOWER.encode(&encode(text.as_bytes())), coded, "{text}");
            let coded = HEXLOWER.decode(coded.as_bytes()).unwrap();
            assert_eq!(decoded(&coded).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn every_octet_has_the_code_an_independent_implementation_gives_it() {
        for octet in 0..=255_u8 {
            for repeats in 1..=8 {
                let text = vec![octet; repeats];
                let mut theirs = Vec::new();
                httlib_huffman::encode(&text, &mut theirs).unwrap();
                assert_eq!(encode(&text), theirs, "{octet:#x}");
                assert_eq!(decoded(&theirs).unwrap(), text);
            }
        }
    }

    #[test]
    fn the_code_is_complete() {
        let shares: u64 = SYMBOLS.iter().map(|(bits, symbols)| (symbols.len() as u64) << (30 - bits)).sum();
        assert_eq!(shares + 1, 1 << 30, "all of the code space but the end-of-string symbol");
    }

    #[test]
    fn bad_codes_and_paddings_are_malformed() {
        assert!(decoded(b"").unwrap().is_empty());
        for bad in [
            &[0xff][..],               // eight bits of padding
            &[0x00],                   // "0", then padding of zeros
            &[0xff, 0xff, 0xff, 0xff], // the end-of-string symbol
            &[0xff, 0xff, 0xff, 0xfc], // it, with other padding
            &[0xff, 0xff],             // a code cut short
        ] {
            assert!(decoded(bad).is_err(), "{bad:x?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes(text: Vec<u8>) {
            prop_assert_eq!(decoded(&encode(&text)).unwrap(), text);
        }

        #[test]
        fn what_decodes_is_encoded_the_same_way(coded in prop::collection::vec(any::<u8>(), 0..6)) {
            if let Ok(text) = decoded(&coded) {
                prop_assert_eq!(encode(&text), coded);
            }
        }
    }
}
