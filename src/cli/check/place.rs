//! Finds where a part of a YAML text is in the file that has the text.
//!
//! `objects` is YAML inside a YAML text: its parser counts lines and columns from the start of the text. In a literal block (`|`), and in a text
//! on one line without escapes, each place of the text has a place in the file. In any other text (folded, quoted over several lines, with
//! escapes, an alias) it has none. Then the place of the key is used.

use crate::yaml::Position;

/// Maps places within one text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Places {
    /// A literal block: the header's line, and how far the content is indented.
    Block { header: usize, indent: usize },
    /// The place of the key.
    Key(Position),
    /// A text on one line: the place of its first character.
    Line(Position),
}

impl Places {
    /// For the scalar `text` at `at` in the file, which is the value of the key at `key`. For a block, the parser reports where the content starts,
    /// without empty lines.
    pub fn of(file: &str, key: Position, at: Position, text: &str) -> Self {
        let line = |number: usize| number.checked_sub(1).and_then(|index| file.lines().nth(index)).unwrap_or_default();
        let rest: String = line(at.line).chars().skip(at.column.saturating_sub(1)).collect();
        let empty = text.len() - text.trim_start_matches('\n').len();
        let header = at.line.saturating_sub(1 + empty);
        if header >= key.line && is_literal_header(line(header)) && text[empty..].lines().next() == Some(&rest) {
            return Self::Block { header, indent: at.column - 1 };
        }
        let quote = usize::from(rest.starts_with(['"', '\'']));
        // A quote is one byte: both are ASCII.
        if !text.is_empty() && !text.contains('\n') && rest[quote..].starts_with(text) {
            return Self::Line(Position { line: at.line, column: at.column + quote });
        }
        Self::Key(key)
    }

    /// The place in the file of a line and a column within the text, both from 1.
    pub fn place(&self, line: usize, column: usize) -> Position {
        match *self {
            Self::Block { header, indent } => Position { line: header + line, column: indent + column },
            Self::Key(key) => key,
            Self::Line(start) => Position { line: start.line, column: start.column + column.saturating_sub(1) },
        }
    }
}

/// `key: |`, with or without indicators and a comment.
fn is_literal_header(line: &str) -> bool {
    let line = line.split(" #").next().unwrap_or_default().trim_end();
    line.trim_end_matches(|c: char| c.is_ascii_digit() || c == '+' || c == '-').ends_with('|')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::{Value, parse};

    /// The text in the file at the place of `needle`, which is in the text of the key `objects`.
    fn pointed_at(file: &str, needle: &str) -> String {
        let document = parse(file).unwrap();
        let Value::Mapping(entries) = &document.value else { panic!("a mapping") };
        let (key, node) = entries.iter().find(|(key, _)| key.text == "objects").unwrap();
        let text = node.text().unwrap();
        let before = &text[..text.find(needle).unwrap()];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        let at = Places::of(file, key.at, node.at, text).place(line, column);
        file.lines().nth(at.line - 1).unwrap().chars().skip(at.column - 1).take(needle.len()).collect()
    }

    #[test]
    fn literal_blocks_and_single_lines_are_exact() {
        for file in [
            "objects: |\n  - secret: a\n    mode: NEEDLE\n",
            "objects: |-   # a comment\n\n  \n     - secret: a\n       mode: NEEDLE",
            "objects:\n  |2\n    - secret: a\n      mode: NEEDLE\n",
            "a: b\nobjects: |+\n    - secret: ü\n      x: \"ü\" # NEEDLE\n",
            "backend: x\nobjects: [ NEEDLE ]\n".replace("[ NEEDLE ]", "\"[ { secret: NEEDLE } ]\"").as_str(),
            "objects: '- secret: NEEDLE'",
            "{ objects: \"- secret: ü NEEDLE\" }",
        ] {
            assert_eq!(pointed_at(file, "NEEDLE"), "NEEDLE", "{file}");
        }
    }

    #[test]
    fn everything_else_points_at_the_key() {
        for file in [
            "objects: >\n  - secret: a\n\n    mode: NEEDLE\n",
            "objects: \"- secret: a\\n  mode: NEEDLE\"",
            "objects: '- secret: it''s NEEDLE'",
            "a: &x |\n  - secret: NEEDLE\nobjects: *x\n",
            "objects: \"- secret: a\n\n  NEEDLE\"",
        ] {
            assert!(pointed_at(file, "NEEDLE").starts_with("object"), "{file}");
        }
    }
}
