//! A text in double quotes with JSON's escapes. Every reader of JSON, YAML 1.1, YAML 1.2 and TOML reads it as the same characters.

use super::Out;

/// Escapes each character that one of those readers would refuse, fold or take for a mark. None of these has more than 16 bits.
pub fn quote(text: &str, out: &mut Out) {
    out.push("\"");
    let mut rest = text;
    loop {
        let ascii = plain_ascii(rest.as_bytes(), *b"\"\\");
        let end = rest[ascii..].find(|c| !is_plain(c)).map_or(rest.len(), |at| ascii + at);
        let (plain, special) = rest.split_at(end);
        out.push(plain);
        let Some(c) = special.chars().next() else { break };
        rest = &special[c.len_utf8()..];
        match c {
            '"' => out.push("\\\""),
            '\\' => out.push("\\\\"),
            '\n' => out.push("\\n"),
            '\r' => out.push("\\r"),
            '\t' => out.push("\\t"),
            other => escape_unit(other as u16, out),
        }
    }
    out.push("\"");
}

/// The same as a text of its own.
pub fn in_quotes(text: &str) -> String {
    if plain_ascii(text.as_bytes(), *b"\"\\") == text.len() {
        return ["\"", text, "\""].concat();
    }
    let mut out = Out::within(usize::MAX, text.len() + 2);
    quote(text, &mut out);
    out.into_text()
}

/// How many bytes at the start are ASCII, without controls and these characters. It looks at eight bytes at once, since most text is plain.
pub fn plain_ascii<const SIGNS: usize>(text: &[u8], signs: [u8; SIGNS]) -> usize {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !signs.contains(byte);
    let mut plain = 0;
    for word in text.as_chunks::<8>().0 {
        let word = u64::from_le_bytes(*word);
        // The highest bit of a byte is set if the byte is too large, too small or one of the characters. A carry can set the next bit as
        // well: then the bytes are checked one by one.
        let outside = word | word.wrapping_add(EACH) | word.wrapping_sub(EACH * u64::from(b' '));
        let sign = signs.iter().fold(0, |found, sign| found | (word ^ (EACH * u64::from(*sign))).wrapping_sub(EACH));
        if (outside | sign) & (EACH << 7) != 0 {
            break;
        }
        plain += 8;
    }
    plain + text[plain..].iter().take_while(|byte| is_plain(byte)).count()
}

/// `\uXXXX`.
pub fn escape_unit(unit: u16, out: &mut Out) {
    out.push("\\u");
    for place in [12, 8, 4, 0] {
        out.push_char(char::from_digit(u32::from((unit >> place) & 0xf), 16).unwrap_or('0'));
    }
}

fn is_plain(c: char) -> bool {
    !matches!(c, '"' | '\\' | '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every byte at every place of two words, next to plain bytes and next to itself.
    #[test]
    fn plain_ascii_ends_before_the_first_byte_that_is_not() {
        for byte in 0..=u8::MAX {
            let is_plain = (b' '..=b'~').contains(&byte) && !b"\"\\".contains(&byte);
            for at in 0..20 {
                let mut text = [b'x'; 20];
                text[at] = byte;
                assert_eq!(plain_ascii(&text, *b"\"\\"), if is_plain { 20 } else { at }, "{byte} at {at}");
                text[at..].fill(byte);
                assert_eq!(plain_ascii(&text, *b"\"\\"), if is_plain { 20 } else { at }, "{byte} from {at} on");
            }
        }
        assert_eq!(plain_ascii(b"", *b""), 0);
    }
}
