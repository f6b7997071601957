//! A text in double quotes with JSON's escapes, which every reader of JSON, YAML 1.1, YAML 1.2 and TOML takes for the same characters.

use super::Out;

/// What one of those readers refuses, folds or takes for a mark when it is not escaped is escaped; none of it has more than 16 bits.
pub fn quote(text: &str, out: &mut Out) {
    out.push("\"");
    let mut plain = 0;
    for (at, c) in text.char_indices() {
        if is_plain(c) {
            continue;
        }
        out.push(&text[plain..at]);
        plain = at + c.len_utf8();
        match c {
            '"' => out.push("\\\""),
            '\\' => out.push("\\\\"),
            '\n' => out.push("\\n"),
            '\r' => out.push("\\r"),
            '\t' => out.push("\\t"),
            other => escape_unit(other as u16, out),
        }
    }
    out.push(&text[plain..]);
    out.push("\"");
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
