//! The dotenv form of a secret: a line `NAME=value` for each field.
//!
//! There is no standard; what is written here is read alike by the common readers: bare where no character could mean anything, else in single
//! quotes (literal), else in double quotes with escapes. What is read: comments, `export`, and the same three forms. `$NAME` is never expanded:
//! a secret may hold a dollar.

use zeroize::Zeroizing;

/// A field's name and value.
pub type Entry = (String, Zeroizing<Vec<u8>>);

/// Reads a file. A fault names its line and never quotes it.
pub fn read(text: &str) -> Result<Vec<Entry>, Vec<String>> {
    let (mut entries, mut faults): (Vec<Entry>, Vec<String>) = (Vec::new(), Vec::new());
    let mut scanner = Scanner { rest: text.trim_start_matches('\u{feff}'), line: 1 };
    while let Some(line) = scanner.skip_to_entry() {
        match scanner.entry() {
            Ok((name, _)) if entries.iter().any(|(known, _)| *known == name) => {
                faults.push(format!("line {line}: {name} is given twice (remove one)"));
            }
            Ok(entry) => entries.push(entry),
            Err(problem) => {
                faults.push(format!("line {line}: {problem}"));
                scanner.skip_line();
            }
        }
    }
    if faults.is_empty() { Ok(entries) } else { Err(faults) }
}

/// One line; `None` where the name or the value has no such form.
pub fn write(name: &str, value: &[u8]) -> Option<Zeroizing<String>> {
    let value = str::from_utf8(value).ok().filter(|value| !value.contains('\0'))?;
    if !is_name(name) {
        return None;
    }
    let mut line = Zeroizing::new(String::with_capacity(name.len() + 2 * value.len() + 4));
    line.push_str(name);
    line.push('=');
    if value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-./:@%+,=".contains(&byte)) {
        line.push_str(value);
    } else if !value.contains(['\'', '\\', '\n', '\r']) {
        line.push('\'');
        line.push_str(value);
        line.push('\'');
    } else {
        line.push('"');
        for c in value.chars() {
            match c {
                '\n' => line.push_str("\\n"),
                '\r' => line.push_str("\\r"),
                '"' | '\\' | '$' => line.extend(['\\', c]),
                c => line.push(c),
            }
        }
        line.push('"');
    }
    line.push('\n');
    Some(line)
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

struct Scanner<'t> {
    rest: &'t str,
    line: usize,
}

impl Scanner<'_> {
    /// Past empty lines and comments; the number of the line that comes next.
    fn skip_to_entry(&mut self) -> Option<usize> {
        loop {
            let line = self.rest.lines().next()?;
            if !line.trim().is_empty() && !line.trim_start().starts_with('#') {
                return Some(self.line);
            }
            self.skip_line();
        }
    }

    fn skip_line(&mut self) {
        let end = self.rest.find('\n').map_or(self.rest.len(), |at| at + 1);
        self.take(end);
    }

    fn entry(&mut self) -> Result<Entry, &'static str> {
        let line = self.rest.lines().next().unwrap_or_default();
        let Some(equals) = line.find('=') else { return Err("has no `=`") };
        let name = line[..equals].trim();
        let name = name.strip_prefix("export ").unwrap_or(name).trim();
        if !is_name(name) {
            return Err("what stands before the `=` is no name (letters, digits, `_`, `-` and `.`)");
        }
        let name = name.to_owned();
        self.take(equals + 1);
        let blanks = self.rest.len() - self.rest.trim_start_matches([' ', '\t']).len();
        self.take(blanks);
        let value = match self.rest.chars().next() {
            Some('\'') => self.single_quoted()?,
            Some('"') => self.double_quoted()?,
            _ => return Ok((name, self.bare())),
        };
        let line = self.rest.lines().next().unwrap_or_default().trim();
        if !line.is_empty() && !line.starts_with('#') {
            return Err("something stands after the closing quote");
        }
        self.skip_line();
        Ok((name, value))
    }

    fn bare(&mut self) -> Zeroizing<Vec<u8>> {
        let line = self.rest.lines().next().unwrap_or_default();
        let end = if line.starts_with('#') { 0 } else { line.find(" #").or_else(|| line.find("\t#")).unwrap_or(line.len()) };
        let value = Zeroizing::new(line[..end].trim_end().as_bytes().to_vec());
        self.skip_line();
        value
    }

    fn single_quoted(&mut self) -> Result<Zeroizing<Vec<u8>>, &'static str> {
        let end = self.rest[1..].find('\'').ok_or("the closing quote is missing")?;
        let value = Zeroizing::new(self.rest.as_bytes()[1..=end].to_vec());
        self.take(end + 2);
        Ok(value)
    }

    fn double_quoted(&mut self) -> Result<Zeroizing<Vec<u8>>, &'static str> {
        let mut value = Zeroizing::new(Vec::with_capacity(self.rest.len().min(4096)));
        let mut chars = self.rest.char_indices().skip(1);
        let mut push = |c: char| value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        let end = loop {
            match chars.next() {
                None => return Err("the closing quote is missing"),
                Some((at, '"')) => break at,
                Some((_, '\\')) => match chars.next() {
                    Some((_, 'n')) => push('\n'),
                    Some((_, 'r')) => push('\r'),
                    Some((_, 't')) => push('\t'),
                    Some((_, c @ ('"' | '\\' | '$' | '\''))) => push(c),
                    Some((_, c)) => {
                        push('\\');
                        push(c);
                    }
                    None => return Err("the closing quote is missing"),
                },
                Some((_, c)) => push(c),
            }
        };
        self.take(end + 1);
        Ok(value)
    }

    fn take(&mut self, bytes: usize) {
        self.line += self.rest[..bytes].matches('\n').count();
        self.rest = &self.rest[bytes..];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> Vec<(String, String)> {
        read(text).unwrap().into_iter().map(|(name, value)| (name, String::from_utf8(value.to_vec()).unwrap())).collect()
    }

    #[test]
    fn the_common_forms_are_read() {
        let text = "\u{feff}# a comment\n\nA=plain # why\nexport B = 'it is $literal\\n'\r\nC=\"two\\nlines \\\"quoted\\\" \\$5\" # c\nD=\nE='over\ntwo'\nF=a#b\nG=x=y\n";
        let expected = [
            ("A", "plain"),
            ("B", "it is $literal\\n"),
            ("C", "two\nlines \"quoted\" $5"),
            ("D", ""),
            ("E", "over\ntwo"),
            ("F", "a#b"),
            ("G", "x=y"),
        ];
        assert_eq!(shown(text), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn every_fault_is_told_by_its_line_alone() {
        let faults = read("A=1\nhunter2\nA=hunter2\nB='hunter2\n").unwrap_err().join("\n");
        insta::assert_snapshot!(faults, @r"
        line 2: has no `=`
        line 3: A is given twice (remove one)
        line 4: the closing quote is missing
        ");
    }

    #[test]
    fn what_has_no_such_form_is_not_written() {
        assert!(write("a b", b"x").is_none() && write("a", &[0xff]).is_none() && write("a", &[0]).is_none());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value in "[^\0]{0,40}") {
            let line = write("NAME", value.as_bytes()).unwrap();
            prop_assert_eq!(shown(&line), vec![("NAME".to_owned(), value)]);
        }
    }
}
