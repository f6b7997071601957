//! Java's properties, as `Properties.store` writes them: ASCII alone, so that a reader of ISO-8859-1 and one of UTF-8 see the same.
//! (<https://docs.oracle.com/en/java/javase/21/docs/api/java.base/java/util/Properties.html>)

use super::Out;
use super::text::escape_unit;

pub fn write(name: &str, value: &str, out: &mut Out) {
    escape(name, true, out);
    out.push("=");
    escape(value, false, out);
    out.push("\n");
}

/// In a name every blank is escaped, in a value the first: readers skip blanks before it.
fn escape(text: &str, is_name: bool, out: &mut Out) {
    for (at, c) in text.char_indices() {
        match c {
            ' ' if is_name || at == 0 => out.push("\\ "),
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
