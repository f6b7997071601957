//! Reads what [`super::write()`] writes, and nothing else. All programs that read such files agree on these values, and on no other
//! spelling.
//!
//! No spelling has an escape. So a value is a part of the text, and is not copied.

use std::collections::HashSet;
use std::fmt;

use super::is_name;
use super::write::spelled;

/// The most faults that are reported.
const TOLD: usize = 20;

/// A variable of the file. `Debug` does not show its value.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Variable<'t> {
    pub name: &'t str,
    pub value: &'t str,
}

/// Reads a file. Empty lines are skipped: a template leaves them.
///
/// # Errors
/// All faults, with lines. A value is never quoted.
pub fn read_own(text: &str) -> Result<Vec<Variable<'_>>, Vec<String>> {
    let (mut variables, mut faults, mut names) = (Vec::new(), Vec::new(), HashSet::new());
    let (mut rest, mut line) = (text, 1);
    while !rest.is_empty() {
        let taken = match next(rest) {
            Ok((None, length)) => length,
            Ok((Some(variable), length)) => {
                if !names.insert(variable.name) {
                    faults.push(format!("line {line}: {} is given twice (remove one)", variable.name));
                }
                variables.push(variable);
                length
            }
            Err(problem) => {
                faults.push(format!("line {line}: {problem}"));
                // The end of this value is not known.
                rest.find('\n').unwrap_or(rest.len())
            }
        };
        if faults.len() == TOLD {
            faults.push(format!("what follows line {line} was not read"));
            break;
        }
        line += rest[..taken].matches('\n').count() + 1;
        rest = rest[taken..].strip_prefix('\n').unwrap_or_default();
    }
    if faults.is_empty() { Ok(variables) } else { Err(faults) }
}

/// The variable at the start of a text, and its length without the line end. `None`: the line is empty.
fn next(text: &str) -> Result<(Option<Variable<'_>>, usize), String> {
    let line = text.split('\n').next().unwrap_or_default();
    if line.is_empty() {
        return Ok((None, 0));
    }
    let Some((name, _)) = line.split_once('=') else {
        let is_comment = line.trim_start().starts_with('#');
        return Err(if is_comment { "is a comment (remove it)" } else { "has no `=` (write NAME=value)" }.to_owned());
    };
    if !is_name(name) {
        let problem =
            "what is before the `=` is not a name: letters, digits, `_`, `-` and `.` (write NAME=value, without blanks or `export`)";
        return Err(problem.to_owned());
    }
    let after = &text[name.len() + 1..];
    let (quote, value) = match after.bytes().next() {
        Some(b'\'') => ("'", enclosed(name, after, '\'')?),
        Some(b'"') => ("\"", enclosed(name, after, '"')?),
        Some(_) | None => ("", after.split('\n').next().unwrap_or_default()),
    };
    let length = value.len() + 2 * quote.len();
    if !matches!(after.as_bytes().get(length), None | Some(b'\n')) {
        return Err(format!("{name}: something follows the closing quote (put all of the value into quotes)"));
    }
    spelled(value, quote).map_err(|why| format!("{name}: {why} (write what `format: dotenv` or the filter `dotenv` writes)"))?;
    Ok((Some(Variable { name, value }), name.len() + 1 + length))
}

fn enclosed<'t>(name: &str, after: &'t str, quote: char) -> Result<&'t str, String> {
    let inner = &after[1..];
    let missing = || format!("{name}: the closing quote is missing (add it)");
    inner.find(quote).map(|end| &inner[..end]).ok_or_else(missing)
}

impl fmt::Debug for Variable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Variable").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn faults(text: &str) -> String {
        read_own(text).unwrap_err().join("\n")
    }

    #[test]
    fn what_no_writer_of_ours_writes_is_refused_by_its_line() {
        let text = "A=1\n# a comment\nexport B=2\nC = 3\nhunter2\nD=hunter 2\nE='hunter2' x\nF=\"$hunter2\"\nG='${hunter2}'\nH=\"hunter2\\n\"\nI='\r'\nA=2\n\u{f6}=1\nJ='hunter2\n";
        insta::assert_snapshot!(faults(text), @"
        line 2: is a comment (remove it)
        line 3: what is before the `=` is not a name: letters, digits, `_`, `-` and `.` (write NAME=value, without blanks or `export`)
        line 4: what is before the `=` is not a name: letters, digits, `_`, `-` and `.` (write NAME=value, without blanks or `export`)
        line 5: has no `=` (write NAME=value)
        line 6: D: needs quotes (write what `format: dotenv` or the filter `dotenv` writes)
        line 7: E: something follows the closing quote (put all of the value into quotes)
        line 8: F: has quotes, `$`, backticks or backslashes that sh, node's dotenv and python-dotenv do not read alike (write what `format: dotenv` or the filter `dotenv` writes)
        line 9: G: has `${`, which python-dotenv replaces (write what `format: dotenv` or the filter `dotenv` writes)
        line 10: H: has quotes, `$`, backticks or backslashes that sh, node's dotenv and python-dotenv do not read alike (write what `format: dotenv` or the filter `dotenv` writes)
        line 11: I: has a carriage return, which node's dotenv and python-dotenv do not keep (write what `format: dotenv` or the filter `dotenv` writes)
        line 12: A is given twice (remove one)
        line 13: what is before the `=` is not a name: letters, digits, `_`, `-` and `.` (write NAME=value, without blanks or `export`)
        line 14: J: the closing quote is missing (add it)
        ");
    }

    #[test]
    fn an_endless_list_of_faults_is_cut() {
        let faults = read_own(&"x\n".repeat(100_000)).unwrap_err();
        assert_eq!((faults.len(), faults.last().unwrap().as_str()), (TOLD + 1, "what follows line 20 was not read"));
    }

    #[test]
    fn a_value_keeps_every_byte() {
        let read = |text| read_own(text).unwrap().into_iter().map(|v| (v.name, v.value)).collect::<Vec<_>>();
        assert_eq!(
            read("A=\n\nB='two\n\nlines\n'\nC=\"it's\"\nd.e-f=x=y"),
            [("A", ""), ("B", "two\n\nlines\n"), ("C", "it's"), ("d.e-f", "x=y")]
        );
        assert_eq!(read(""), []);
        assert_eq!(read("A='# no comment'\n"), [("A", "# no comment")]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(values in proptest::collection::vec("([a-z'\"`$\\\\#={ \n\u{2028}ö]|\\$\\{|\r){0,12}", 0..4)) {
            let written: Vec<_> = values.iter().enumerate().filter_map(|(n, value)| Some((super::super::write(&format!("V{n}"), value.as_bytes()).ok()?, value))).collect();
            let text: String = written.iter().map(|(line, _)| line.as_str()).collect();
            let read: Vec<&str> = read_own(&text).unwrap().iter().map(|variable| variable.value).collect();
            prop_assert_eq!(read, written.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>());
        }

        #[test]
        fn what_is_read_is_what_node_reads(text in "([AB=:'\"`\\\\#nr \t\n\r]|export |\\$\\{){0,30}") {
            if let Ok(own) = read_own(&text) {
                let other = super::super::read(&text).unwrap();
                let own: Vec<_> = own.iter().map(|variable| (variable.name, variable.value)).collect();
                let other: Vec<_> = other.iter().map(|entry| (entry.name, entry.value.as_str())).collect();
                prop_assert_eq!(own, other);
            }
        }
    }
}
