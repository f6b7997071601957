//! Java's properties, as `Properties.store` writes them: only ASCII, so that a reader of ISO-8859-1 and a reader of UTF-8 see the same.
//! (<https://docs.oracle.com/en/java/javase/21/docs/api/java.base/java/util/Properties.html>)

use super::Out;
use super::text::{escape_unit, plain_ascii};

pub fn write(name: &str, value: &str, out: &mut Out) {
    escape(name, true, out);
    out.push("=");
    escape(value, false, out);
    out.push("\n");
}

/// Only a value.
pub fn escape_value(value: &str, out: &mut Out) {
    escape(value, false, out);
}

/// In a name every blank is escaped, in a value only the first: readers skip blanks before it.
fn escape(text: &str, is_name: bool, out: &mut Out) {
    let mut rest = text;
    loop {
        let is_first = rest.len() == text.len();
        let plain = match () {
            () if is_name => plain_ascii(rest.as_bytes(), *b"\\=:#! "),
            () if is_first && text.starts_with(' ') => 0,
            () => plain_ascii(rest.as_bytes(), *b"\\=:#!"),
        };
        let (plain, special) = rest.split_at(plain);
        out.push(plain);
        let Some(c) = special.chars().next() else { break };
        rest = &special[c.len_utf8()..];
        match c {
            ' ' if is_name || is_first => out.push("\\ "),
            '\t' => out.push("\\t"),
            '\n' => out.push("\\n"),
            '\r' => out.push("\\r"),
            '\u{c}' => out.push("\\f"),
            '\\' | '=' | ':' | '#' | '!' => {
                out.push("\\");
                out.push_char(c);
            }
            ' '..='~' => out.push_char(c),
            other => other.encode_utf16(&mut [0; 2]).iter().for_each(|unit| escape_unit(*unit, out)),
        }
    }
}
