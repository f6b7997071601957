//! Reads as node's dotenv does: <https://www.npmjs.com/package/dotenv> 18, whose grammar is one regular expression.
//!
//! - `NAME=value` or `NAME: value`, with or without `export ` before it. `#` begins a comment, even without a blank before it.
//! - Quotes are `'`, `"` and a backtick; a value in quotes may have several lines. `\n` and `\r` in double quotes are line ends; there is no other escape.
//! - Nothing is expanded.
//!
//! That expression silently leaves some text out, or continues after a line end. Here this is a fault.

use zeroize::Zeroizing;

use super::is_name_byte;

/// A field of the file.
#[derive(Debug)]
pub struct Entry<'t> {
    pub name: &'t str,
    pub value: Zeroizing<String>,
    /// The whole line after its `=`, unchanged: kubectl reads this.
    pub whole: &'t str,
    /// From 1.
    pub line: usize,
    /// Set if kubectl reads another value.
    pub kubectl: Option<Difference>,
}

/// What `kubectl create secret --from-env-file` takes as a part of the value: it takes the line unchanged, up to its end.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Difference {
    Blanks,
    Comment,
    Quotes,
}

/// Reads a file.
///
/// # Errors
/// All faults, with lines. A value is never quoted.
pub fn read(text: &str) -> Result<Vec<Entry<'_>>, Vec<String>> {
    let (mut entries, mut faults): (Vec<Entry<'_>>, Vec<String>) = (Vec::new(), Vec::new());
    let mut names = std::collections::HashSet::new();
    let mut scanner = Scanner { rest: text, line: 1 };
    while scanner.skip_to_entry() {
        let line = scanner.line;
        match scanner.entry() {
            Ok(entry) if !names.insert(entry.name) => faults.push(format!("line {line}: {} is given twice (remove one)", entry.name)),
            Ok(entry) => entries.push(entry),
            Err(problem) => {
                faults.push(format!("line {line}: {problem}"));
                scanner.skip_line();
            }
        }
    }
    if faults.is_empty() { Ok(entries) } else { Err(faults) }
}

struct Scanner<'t> {
    rest: &'t str,
    line: usize,
}

impl<'t> Scanner<'t> {
    /// Skips blanks, empty lines and comments. Says whether any text follows.
    fn skip_to_entry(&mut self) -> bool {
        loop {
            let blanks = self.rest.len() - self.rest.trim_start_matches(is_blank).len();
            self.take(blanks);
            if !self.rest.starts_with('#') {
                return !self.rest.is_empty();
            }
            self.skip_line();
        }
    }

    fn entry(&mut self) -> Result<Entry<'t>, &'static str> {
        let line = self.line;
        let (name, after) = split_name(self.this_line())?;
        // kubectl accepts no blank around the `=`, no `export` and no `:`. It refuses such a file, and so reads no other value.
        let plain = self.rest.strip_prefix(name).is_some_and(|rest| rest.starts_with('='));
        let separator = if after.starts_with('=') { 1 } else { ": ".len() };
        let raw = &after[separator..];
        self.take(self.this_line().len() - raw.len());
        // For kubectl, a carriage return alone does not end a line.
        let whole = self.rest.split('\n').next().unwrap_or_default();
        let whole = whole.strip_suffix('\r').unwrap_or(whole);
        let (value, difference) = self.value(raw)?;
        let kubectl = (plain && value.as_str() != whole).then_some(difference);
        Ok(Entry { name, value, whole, line, kubectl })
    }

    /// The value, and the difference if kubectl reads another one. `raw` is the rest of the line.
    fn value(&mut self, raw: &str) -> Result<(Zeroizing<String>, Difference), &'static str> {
        let inside = raw.trim_start_matches(is_blank);
        let quote = inside.chars().next().filter(|first| matches!(first, '\'' | '"' | '`'));
        let Some(quote) = quote else {
            self.skip_line();
            let (value, difference) = uncommented(raw);
            return Ok((Zeroizing::new(value.to_owned()), difference));
        };
        let opening = raw.len() - inside.len();
        let inner = if let Some(length) = closing(&self.rest[opening + 1..], quote) {
            let inner = &self.rest[opening + 1..][..length];
            self.take(opening + 1 + length + 1);
            inner
        } else {
            // Such as "{"a": 1}": the first and the last quote of the line are the quotes.
            let (value, _) = uncommented(raw);
            let inner = value[1..].strip_suffix(quote);
            let missing = "the closing quote is missing (add it; a value that begins with a quote goes into other quotes)";
            let after = "something follows the closing quote (put all of the value into quotes)";
            inner.ok_or(if inside[1..].contains(quote) { after } else { missing })?
        };
        self.skip_line();
        Ok((unquoted(inner, quote), Difference::Quotes))
    }

    fn this_line(&self) -> &'t str {
        &self.rest[..line_length(self.rest)]
    }

    fn skip_line(&mut self) {
        let line = line_length(self.rest);
        let end = if self.rest[line..].starts_with("\r\n") { 2 } else { usize::from(line < self.rest.len()) };
        self.take(line + end);
    }

    fn take(&mut self, bytes: usize) {
        let taken = &self.rest.as_bytes()[..bytes];
        let ends = taken.iter().enumerate().filter(|(at, byte)| **byte == b'\n' || **byte == b'\r' && taken.get(at + 1) != Some(&b'\n'));
        self.line += ends.count();
        self.rest = &self.rest[bytes..];
    }
}

/// The name at the start of a line, and the rest from its `=` or `: ` on.
fn split_name(line: &str) -> Result<(&str, &str), &'static str> {
    let exported = line.strip_prefix("export").filter(|rest| rest.starts_with(is_blank)).map(|rest| rest.trim_start_matches(is_blank));
    let names = exported.filter(|rest| rest.bytes().next().is_some_and(is_name_byte)).into_iter().chain([line]);
    for text in names {
        let (name, rest) = text.split_at(text.bytes().take_while(|byte| is_name_byte(*byte)).count());
        let equals = rest.trim_start_matches(is_blank);
        if !name.is_empty() && equals.starts_with('=') {
            return Ok((name, equals));
        }
        if !name.is_empty() && rest.strip_prefix(':').is_some_and(|value| value.starts_with([' ', '\t'])) {
            return Ok((name, rest));
        }
    }
    let problem = "what is before the `=` is not a name (letters, digits, `_`, `-` and `.`)";
    Err(if line.contains('=') { problem } else { "has no `=` (write NAME=value)" })
}

/// How many bytes are before the closing quote: the first quote without a backslash before it, or an earlier quote, if only a comment
/// follows it.
fn closing(text: &str, quote: char) -> Option<usize> {
    let mut found = None;
    for (at, _) in text.match_indices(quote) {
        let after = &text[at + 1..];
        let tail = after[..line_length(after)].trim_start_matches(is_blank);
        if tail.is_empty() || tail.starts_with('#') {
            found = Some(at);
        }
        if !text[..at].ends_with('\\') {
            break;
        }
    }
    found
}

/// A line up to its comment, without blanks at both ends.
fn uncommented(raw: &str) -> (&str, Difference) {
    match raw.split_once('#') {
        Some((value, _)) => (value.trim_matches(is_blank), Difference::Comment),
        None => (raw.trim_matches(is_blank), Difference::Blanks),
    }
}

/// One buffer with room for all of it: a growing buffer would leave copies behind.
fn unquoted(inner: &str, quote: char) -> Zeroizing<String> {
    let mut value = Zeroizing::new(String::with_capacity(inner.len()));
    let mut chars = inner.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' => {
                chars.next_if_eq(&'\n');
                value.push('\n');
            }
            '\\' if quote == '"' && chars.next_if_eq(&'n').is_some() => value.push('\n'),
            '\\' if quote == '"' && chars.next_if_eq(&'r').is_some() => value.push('\r'),
            c => value.push(c),
        }
    }
    value
}

fn line_length(text: &str) -> usize {
    text.find(['\n', '\r']).unwrap_or(text.len())
}

/// The white space of JavaScript.
fn is_blank(c: char) -> bool {
    c == '\u{feff}' || c.is_whitespace() && c != '\u{85}'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> Vec<(String, String)> {
        read(text).unwrap().into_iter().map(|entry| (entry.name.to_owned(), entry.value.to_string())).collect()
    }

    #[test]
    fn every_fault_is_told_by_its_line_alone() {
        let faults = read("A=1\nhunter2\nA=hunter2\nB='hunter2\nC='hunter2' hunter2\n\u{f6}=hunter2\nD:\n").unwrap_err().join("\n");
        insta::assert_snapshot!(faults, @r"
        line 2: has no `=` (write NAME=value)
        line 3: A is given twice (remove one)
        line 4: the closing quote is missing (add it; a value that begins with a quote goes into other quotes)
        line 5: something follows the closing quote (put all of the value into quotes)
        line 6: what is before the `=` is not a name (letters, digits, `_`, `-` and `.`)
        line 7: has no `=` (write NAME=value)
        ");
    }

    #[test]
    fn lines_are_counted_whatever_ends_them() {
        let entries = read("A='1\r\n2'\r\n\r\n# c\rB=x\nC=y").unwrap();
        let seen: Vec<_> = entries.iter().map(|entry| (entry.name, entry.value.as_str(), entry.line)).collect();
        assert_eq!(seen, [("A", "1\n2", 1), ("B", "x", 5), ("C", "y", 6)]);
    }

    #[test]
    fn where_kubectl_reads_another_value_is_known() {
        for (line, difference) in [
            ("A=abc", None),
            ("A=", None),
            ("A=abc #123", Some(Difference::Comment)),
            ("A=#abc", Some(Difference::Comment)),
            ("A=a#b", Some(Difference::Comment)),
            ("A='abc'", Some(Difference::Quotes)),
            ("A=abc ", Some(Difference::Blanks)),
            ("  A=abc", None),
            // kubectl refuses these.
            ("A = 'abc'", None),
            ("export A='abc'", None),
            ("A: 'abc'", None),
        ] {
            assert_eq!(read(line).unwrap()[0].kubectl, difference, "{line}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value in "([a-z'\"`$\\\\#={ \n\u{2028}\u{a0}ö]|\\$\\{|\r){0,12}") {
            if let Ok(line) = super::super::write("NAME", value.as_bytes()) {
                prop_assert_eq!(shown(&line), vec![("NAME".to_owned(), value)]);
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "([AB=:'\"`\\\\#nr \t\n\r]|export ){0,30}") {
            let _ = read(&text);
        }
    }
}
