//! The text in which a secret is edited: YAML, with one entry per text field.
//!
//! It is YAML because a person reads a key or a certificate best line by line, below `|`. YAML has two problems for passwords. First, a value can be
//! written in many ways. Keyferry tries them, and uses the first one that gives exactly the same bytes back. Second, without quotes YAML may drop
//! a part of the value (`a #b` is `a`): such a value is a fault.

use zeroize::Zeroizing;

use crate::backend::store::file::{Opened, Vault, VaultError};
use crate::cli::vault::fields::Fields;
use crate::model::{Field, FieldKind, FieldName, SecretBytes, SecretName};
use crate::redact::is_invisible;
use crate::text::{self, NotText, UTF8_MARK};
use crate::yaml::{self, Node, Position, Value};

/// At the start of each line that Keyferry puts above the person's text.
const MARK: &str = "#! ";

/// A fault of a text, and its line. Lines with the mark do not count.
#[derive(Debug, Eq, PartialEq)]
pub struct Fault {
    line: Option<usize>,
    problem: String,
}

/// The text fields of a secret.
pub fn write(name: &SecretName, opened: &Opened) -> Zeroizing<Vec<u8>> {
    // No colon with a blank after it: if a person types something before a `#` by mistake, it must not become a field.
    let mut head = format!(
        "# {}, revision {}. Each entry is a field. Change, add or remove some, save, and leave the editor.\n\
         # Below `|-` every character counts, except the line break at the end. Below `|` it counts too.\n\
         # If you change nothing, or remove all of this text, the secret stays as it is.\n",
        *spelling(name.as_str()),
        opened.revision
    );
    let (unseen, shown): (Vec<_>, Vec<_>) = opened.secret.fields.iter().partition(|(_, field)| field.kind == FieldKind::Binary);
    for (field, value) in unseen {
        let (field, size) = (spelling(field.as_str()), value.bytes.len());
        head.push_str(&format!("# The field {} is not shown, and stays as it is (binary, {size} bytes).\n", *field));
    }
    head.push('\n');
    let entries: Vec<_> = shown.into_iter().map(|(field, value)| entry(field, value.bytes.expose())).collect();
    // Room for the whole text: a growing buffer leaves copies of secrets in memory.
    let mut text = Zeroizing::new(Vec::with_capacity(head.len() + entries.iter().map(|entry| entry.len()).sum::<usize>()));
    text.extend_from_slice(head.as_bytes());
    for entry in &entries {
        text.extend_from_slice(entry.as_bytes());
    }
    text
}

/// The fields of a text, and the binary fields of `former`, which the text does not have.
pub fn read(typed: &[u8], name: &SecretName, former: &Fields) -> Result<Fields, Vec<Fault>> {
    let text = text::read(without_marks(typed)).map_err(|cause| vec![Fault::of_bytes(cause)])?;
    let mut fields: Fields = former.clone();
    fields.retain(|_, field| field.kind == FieldKind::Binary);
    let mut faults = Vec::new();
    for (at, field, value) in entries(text)? {
        let mut fault = |problem| faults.push(Fault { line: Some(at.line), problem });
        match (field.parse::<FieldName>(), value) {
            (Err(cause), _) => fault(cause.to_string()),
            (Ok(field), Err(problem)) => fault(format!("{field}: {problem}")),
            (Ok(field), Ok(_)) if fields.contains_key(&field) => {
                fault(format!("{field}: is a binary field, which you cannot edit here (`keyferry vault patch {name} {field}=@FILE`)"));
            }
            (Ok(field), Ok(value)) => drop(fields.insert(field, Field::of_bytes(SecretBytes::new(value.into_bytes())))),
        }
    }
    if faults.is_empty() {
        match Vault::check(name, &fields) {
            Ok(()) => return Ok(fields),
            Err(VaultError::NoFields) => {
                let problem = format!("no field is left (to remove the secret: `keyferry vault remove {name}`)");
                faults.push(Fault { line: None, problem });
            }
            Err(cause) => faults.push(Fault { line: None, problem: cause.to_string() }),
        }
    }
    Err(faults)
}

/// The person's text, with its faults above it.
pub fn with_faults(typed: &[u8], faults: &[Fault]) -> Zeroizing<Vec<u8>> {
    let typed = without_marks(typed);
    let above = faults.len() + 1;
    let mut head =
        format!("{MARK}Nothing is changed yet. Correct this, save, and leave the editor. If you leave it as it is, nothing changes.\n");
    for Fault { line, problem } in faults {
        let place = line.map(|line| format!("line {}: ", line + above)).unwrap_or_default();
        // On one line, also if a name has a line break.
        head.push_str(&format!("{MARK}{place}{}\n", problem.replace(['\n', '\r'], " ")));
    }
    let mut text = Zeroizing::new(Vec::with_capacity(head.len() + typed.len()));
    text.extend_from_slice(head.as_bytes());
    text.extend_from_slice(typed);
    text
}

impl Fault {
    fn of_bytes(cause: NotText) -> Self {
        match cause {
            NotText::Utf8 { line } => {
                Self { line: Some(line), problem: "has bytes that are not UTF-8 (save the text as UTF-8)".to_owned() }
            }
            NotText::Utf16 | NotText::Utf32 => Self { line: None, problem: format!("the text {cause}") },
        }
    }
}

fn without_marks(text: &[u8]) -> &[u8] {
    // An editor of Windows may have put a mark there.
    let mut text = text.strip_prefix(UTF8_MARK).unwrap_or(text);
    while text.starts_with(MARK.as_bytes()) {
        let end = text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |end| end + 1);
        text = &text[end..];
    }
    text
}

// === Reading ===

type Entry = (Position, String, Result<String, String>);

/// The entries of a text: the place of each, its field, and its value or its fault.
fn entries(text: &str) -> Result<Vec<Entry>, Vec<Fault>> {
    let root = yaml::parse(text).map_err(|fault| vec![Fault { line: Some(fault.at.line), problem: fault.to_string() }])?;
    match root.value {
        Value::Null => Ok(Vec::new()),
        Value::Mapping(entries) => {
            let mut source = Source { text, offset: 0, at: Position { line: 1, column: 1 } };
            Ok(entries.into_iter().map(|(key, node)| (key.at, key.text, value(node, &mut source))).collect())
        }
        Value::Scalar { .. } | Value::Sequence(_) => {
            let problem = "the text is not a list of fields (write `FIELD: VALUE`, one below the other)".to_owned();
            Err(vec![Fault { line: Some(root.at.line), problem }])
        }
    }
}

fn value(node: Node, source: &mut Source<'_>) -> Result<String, String> {
    match node.value {
        Value::Scalar { text, .. } if source.says(&text, node.at) => Ok(text),
        Value::Scalar { .. } => {
            Err("YAML does not read this value as you typed it (write it in the lines below `|-`, or in quotes)".to_owned())
        }
        Value::Null => Err("has no value (an empty one is \"\", and the word null needs quotes)".to_owned()),
        Value::Mapping(_) | Value::Sequence(_) => {
            Err("is a list or a mapping, and a field is a text (write it in the lines below `|-`, or in quotes)".to_owned())
        }
    }
}

/// The text, and the place up to which it is read.
struct Source<'t> {
    text: &'t str,
    offset: usize,
    at: Position,
}

impl Source<'_> {
    /// Whether a value is below `|` or `>`, or in quotes, or exactly the rest of its line: without comment, tag or anchor, and not an alias.
    fn says(&mut self, value: &str, at: Position) -> bool {
        let Some(start) = self.offset_of(at) else { return false };
        let (before, after) = self.text.split_at(start);
        let outer = before.trim_end();
        if before[outer.len()..].contains('\n') {
            return begins_block(outer.rsplit('\n').next().unwrap_or_default());
        }
        let rest = after.strip_prefix(value).map(|rest| rest.trim_start_matches([' ', '\t', '\r']));
        let is_all = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('\n'));
        outer.ends_with(':') && (is_all || after.starts_with(['"', '\'', '|', '>']))
    }

    /// Values come in the order of the text. If one does not, it is the value of an alias.
    fn offset_of(&mut self, at: Position) -> Option<usize> {
        while self.at < at {
            let c = self.text[self.offset..].chars().next()?;
            self.offset += c.len_utf8();
            self.at = match c {
                '\n' => Position { line: self.at.line + 1, column: 1 },
                _ => Position { column: self.at.column + 1, ..self.at },
            };
        }
        (self.at == at).then_some(self.offset)
    }
}

/// Whether a block (`|` or `>`) begins on this line, such as `key: |2-`.
fn begins_block(line: &str) -> bool {
    let line = line.split_once(" #").map_or(line, |(line, _)| line);
    let word = line.split_ascii_whitespace().next_back().unwrap_or_default();
    word.strip_prefix(['|', '>']).is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || "+-".contains(c)))
}

// === Writing ===

/// A field in the first form that reads back as exactly the value.
fn entry(field: &FieldName, value: &[u8]) -> Zeroizing<String> {
    let key = spelling(field.as_str());
    // A field that is not binary is text.
    let value = str::from_utf8(value).unwrap_or_default();
    let plain = (!value.contains('\n')).then(|| line(&key, value)).filter(|line| reads_as(line, field.as_str(), value));
    let block = || block(value).map(|block| line(&key, &block)).filter(|line| reads_as(line, field.as_str(), value));
    plain.or_else(block).unwrap_or_else(|| line(&key, &quoted(value)))
}

/// A name as a key of YAML. It can be in a comment too.
fn spelling(name: &str) -> Zeroizing<String> {
    let is_plain = !name.contains(is_invisible) && reads_as(&line(name, "x"), name, "x");
    if is_plain { Zeroizing::new(name.to_owned()) } else { quoted(name) }
}

fn line(key: &str, value: &str) -> Zeroizing<String> {
    let mut line = Zeroizing::new(String::with_capacity(key.len() + value.len() + 3));
    line.extend([key, ": ", value, "\n"]);
    line
}

fn reads_as(line: &str, field: &str, value: &str) -> bool {
    entries(line).is_ok_and(|found| matches!(found.as_slice(), [(_, name, Ok(text))] if name == field && text == value))
}

/// The value as a literal block. Many editors remove blanks and empty lines at the ends, so a value that has such does not get this form.
fn block(value: &str) -> Option<Zeroizing<String>> {
    let (body, end) = value.strip_suffix('\n').map_or((value, "-"), |body| (body, ""));
    if body.is_empty() || body.ends_with('\n') || body.split('\n').any(|line| line.ends_with([' ', '\t'])) {
        return None;
    }
    // Without this number, the first line decides the indentation of the others.
    let depth = if body.starts_with([' ', '\n']) { "2" } else { "" };
    let mut text = Zeroizing::new(String::with_capacity(value.len() + 2 * body.split('\n').count() + 8));
    text.extend(["|", depth, end]);
    for line in body.split('\n') {
        text.extend(if line.is_empty() { ["\n", ""] } else { ["\n  ", line] });
    }
    Some(text)
}

/// Any text in quotes, one line of it per line.
fn quoted(value: &str) -> Zeroizing<String> {
    // A line end has the longest form.
    let mut text = Zeroizing::new(String::with_capacity(6 * value.len() + 2));
    text.push('"');
    let mut is_first = false;
    for (at, c) in value.char_indices() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '\t' => text.push_str("\\t"),
            '\r' => text.push_str("\\r"),
            // YAML drops the blanks before the next part of the value.
            '\n' if at + 1 < value.len() => text.push_str("\\n\\\n  "),
            '\n' => text.push_str("\\n"),
            ' ' if is_first => text.push_str("\\x20"),
            // Readers of YAML, and people, may read these characters differently.
            c if c.is_control() || is_invisible(c) || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                text.push_str(&format!("\\U{:08x}", u32::from(c)));
            }
            c => text.push(c),
        }
        is_first = c == '\n';
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests;
