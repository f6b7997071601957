//! Finds the template of each document. `helm template` writes `# Source: CHART/templates/FILE` at the start of each document, and a finding names
//! that file.

use crate::yaml::Position;

/// For each document of a stream: the line before its start, and its template.
#[derive(Debug)]
pub struct Origins<'t>(Vec<(usize, Option<&'t str>)>);

impl<'t> Origins<'t> {
    pub fn of(text: &'t str) -> Self {
        let mut origins = Vec::new();
        let mut lines = (1..).zip(text.lines()).peekable();
        while let Some((number, line)) = lines.next() {
            if line.trim_end() != "---" {
                continue;
            }
            let source =
                lines.peek().and_then(|(_, next)| next.strip_prefix("# Source: ")).map(str::trim).filter(|source| !source.is_empty());
            origins.push((number + usize::from(source.is_some()), source));
        }
        Self(origins)
    }

    /// The template, and the place in its output, counted from the line after the comment. `None`: Helm did not write this document.
    pub fn place(&self, at: Position) -> Option<(&'t str, Position)> {
        let next = self.0.partition_point(|(line, _)| *line < at.line);
        let (start, source) = self.0.get(next.checked_sub(1)?)?;
        Some(((*source)?, Position { line: at.line - start, column: at.column }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_counted_from_helms_comment() {
        let text = "kind: A\n---\n# Source: shop/templates/a.yaml\nkind: A\nb: c\n---\n# Source: shop/templates/b.yaml\nkind: B\n---\nkind: C\n# Source: no/document\n";
        let origins = Origins::of(text);
        let place = |line| origins.place(Position { line, column: 7 }).map(|(file, at)| format!("{file}:{}:{}", at.line, at.column));
        assert_eq!(place(1), None);
        assert_eq!(place(4).as_deref(), Some("shop/templates/a.yaml:1:7"));
        assert_eq!(place(5).as_deref(), Some("shop/templates/a.yaml:2:7"));
        assert_eq!(place(8).as_deref(), Some("shop/templates/b.yaml:1:7"));
        assert_eq!((place(10), place(11)), (None, None));
    }
}
