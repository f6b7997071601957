//! Checks the text itself: characters that YAML readers treat in different ways, and kubectl's separators.
//!
//! The parser reads YAML 1.2. The programs of Kubernetes read 1.1, with fewer escapes, and with tabs in fewer places.

use super::{Position, Schema, Unparsed, fault};

/// YAML 1.1, which the programs of Kubernetes read, also ends lines at these characters; YAML 1.2 does not.
const OTHER_LINE_ENDS: [char; 3] = ['\u{85}', '\u{2028}', '\u{2029}'];

/// # Errors
/// The first character or separator that cannot be read, and its place.
pub(super) fn check(text: &str, schema: Schema) -> Result<(), Unparsed> {
    let (mut line_start, mut is_at_start) = (0, true);
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.split('\n').enumerate() {
        let line_number = index + 1;
        check_line(line, line_number, line_start + line.len() == text.len())?;
        let content = line.trim();
        if is_at_start && line.starts_with("...") || line.starts_with('\t') && (content.is_empty() || content.starts_with('#')) {
            let problem = "is a line that not all readers take (remove it, or its tab)";
            return Err(fault(Position { line: line_number, column: 1 }, problem.to_owned()));
        }
        is_at_start &= content.is_empty() || content.starts_with('#');
        if schema == Schema::Kubernetes {
            check_separator(line, line_number)?;
        }
        line_start += line.len() + 1;
    }
    Ok(())
}

fn check_line(line: &str, number: usize, is_last: bool) -> Result<(), Unparsed> {
    // With the line feed after it, which the last line does not have.
    let line = if is_last { line } else { line.strip_suffix('\r').unwrap_or(line) };
    let Some((index, wrong)) = line.char_indices().find(|(_, c)| is_wrong(*c)) else { return Ok(()) };
    let at = Position { line: number, column: line[..index].chars().count() + 1 };
    let code = u32::from(wrong);
    Err(fault(
        at,
        match wrong {
            '\r' => "a carriage return without a line feed ends lines only for some readers (use line feeds)".to_owned(),
            wrong if OTHER_LINE_ENDS.contains(&wrong) => {
                format!("the character U+{code:04X} ends lines only for some readers (write \"\\u{code:04X}\" in double quotes)")
            }
            _ => format!("the character U+{code:04X} is not allowed in YAML (remove it, or write an escape in double quotes)"),
        },
    ))
}

/// Control characters, and code points that are not characters. A byte order mark inside the text cannot be seen, and only some readers
/// take it as a part of a value.
fn is_wrong(c: char) -> bool {
    match c {
        '\t' => false,
        '\u{feff}' | '\u{fffe}' | '\u{ffff}' => true,
        c => c.is_control() || OTHER_LINE_ENDS.contains(&c),
    }
}

/// kubectl splits a stream at lines that start with `---`, and accepts only a comment after that.
fn check_separator(line: &str, number: usize) -> Result<(), Unparsed> {
    let rest = line.strip_prefix("---").map_or("", str::trim);
    if rest.is_empty() || rest.starts_with('#') {
        return Ok(());
    }
    let problem = "has more than `---`, which kubectl refuses (start the document on the next line)";
    Err(fault(Position { line: number, column: 1 }, problem.to_owned()))
}

/// Checks a value in double quotes, as it is written: YAML 1.1 does not have all escapes, but JSON has them.
pub(super) fn check_escapes(written: &str, at: Position) -> Result<(), Unparsed> {
    let mut rest = written;
    while let Some(index) = rest.find('\\') {
        let escape = &rest[index + 1..];
        let digits = match escape.as_bytes().first() {
            Some(b'u') => escape.get(1..5),
            Some(b'U') => escape.get(1..9),
            _ => None,
        };
        let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let is_surrogate = code.is_some_and(|code| (0xd800..=0xdfff).contains(&code));
        if escape.starts_with('/') || is_surrogate {
            let problem = "an escape is not read by all readers: `\\/`, or half of a pair (write the character itself)";
            return Err(fault(at, problem.to_owned()));
        }
        rest = escape.get(1..).unwrap_or_default();
    }
    Ok(())
}

/// Checks the text before a value on its line: a tab after `-` or `?`.
pub(super) fn check_before(before: &str, at: Position) -> Result<(), Unparsed> {
    let outer = before.trim_end_matches([' ', '\t']);
    if outer.ends_with(['-', '?']) && before[outer.len()..].contains('\t') {
        return Err(fault(at, "a tab follows `-` or `?`, which not all readers take (use spaces)".to_owned()));
    }
    Ok(())
}
