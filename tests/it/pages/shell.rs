//! As much of a shell as the test needs to find the commands in a script: words, quotes, comments, operators, redirections, here-documents.

use std::iter::Peekable;
use std::str::Chars;

/// A command: the line where it starts, from 1, and its words. A substitution in it becomes commands of its own.
#[derive(Debug, Eq, PartialEq)]
pub struct Simple {
    pub line: usize,
    pub words: Vec<String>,
}

pub fn commands(script: &str) -> Vec<Simple> {
    let mut reader = Reader { rest: script.chars().peekable(), line: 1, found: Vec::new(), documents: Vec::new() };
    reader.list(None);
    reader.found
}

struct Reader<'s> {
    rest: Peekable<Chars<'s>>,
    line: usize,
    found: Vec<Simple>,
    /// The ends of the here-documents that start after this line.
    documents: Vec<String>,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        self.line += usize::from(c == '\n');
        Some(c)
    }

    /// Commands up to the end, or to this closing bracket.
    fn list(&mut self, end: Option<char>) {
        let (mut simple, mut word, mut quoted) = (Simple { line: self.line, words: Vec::new() }, String::new(), false);
        let mut skip = false;
        loop {
            let c = self.rest.peek().copied();
            let at_a_words_start = word.is_empty() && !quoted;
            let ends_word = c.is_none_or(|c| c.is_whitespace() || "|&;<>()".contains(c)) || c == end;
            if ends_word && !at_a_words_start {
                let whole = std::mem::take(&mut word);
                quoted = false;
                if !std::mem::take(&mut skip) {
                    if simple.words.is_empty() {
                        simple.line = self.line;
                    }
                    simple.words.push(whole);
                }
            }
            let Some(c) = c else { break };
            match c {
                _ if Some(c) == end => break,
                '#' if at_a_words_start => {
                    while self.rest.peek().is_some_and(|c| *c != '\n') {
                        self.next();
                    }
                }
                '\n' | '|' | '&' | ';' | '(' | ')' => {
                    self.next();
                    self.end(&mut simple);
                    if c == '\n' {
                        self.skip_documents();
                    }
                }
                ' ' | '\t' | '\r' => drop(self.next()),
                '<' | '>' => {
                    self.next();
                    match (c, self.rest.peek()) {
                        (_, Some('(')) => {
                            self.nested(')');
                            word.push_str("SUBSTITUTION");
                        }
                        ('<', Some('<')) => {
                            self.next();
                            let end = self.here_document();
                            self.documents.push(end);
                        }
                        _ => {
                            while self.rest.peek().is_some_and(|c| "&>".contains(*c)) {
                                self.next();
                            }
                            // `2>`: the number belongs to the redirection.
                            if simple.words.last().is_some_and(|word| word == "1" || word == "2") {
                                simple.words.pop();
                            }
                            skip = true;
                        }
                    }
                }
                '\'' => {
                    quoted = true;
                    self.next();
                    while let Some(c) = self.next().filter(|c| *c != '\'') {
                        word.push(c);
                    }
                }
                '"' => {
                    quoted = true;
                    self.next();
                    while let Some(c) = self.rest.peek().copied().filter(|c| *c != '"') {
                        if c == '$' {
                            self.variable(&mut word);
                        } else {
                            self.next();
                            word.push(if c == '\\' { self.next().unwrap_or(c) } else { c });
                        }
                    }
                    self.next();
                }
                '$' => self.variable(&mut word),
                '\\' => {
                    self.next();
                    // A line that goes on in the next one.
                    word.extend(self.next().filter(|c| *c != '\n'));
                }
                _ => word.extend(self.next()),
            }
        }
        self.end(&mut simple);
    }

    fn end(&mut self, simple: &mut Simple) {
        let done = std::mem::replace(simple, Simple { line: self.line, words: Vec::new() });
        if !done.words.is_empty() {
            self.found.push(done);
        }
    }

    fn nested(&mut self, end: char) {
        self.next();
        self.list(Some(end));
        self.next();
    }

    fn variable(&mut self, word: &mut String) {
        self.next();
        if self.rest.peek() == Some(&'(') {
            self.nested(')');
            word.push_str("SUBSTITUTION");
        } else {
            word.push('$');
        }
    }

    fn here_document(&mut self) -> String {
        let mut end = String::new();
        while let Some(c) = self.rest.peek().copied().filter(|c| !c.is_whitespace() && !"|&;<>".contains(*c)) {
            end.extend(Some(c).filter(|c| !"'\"-".contains(*c)));
            self.next();
        }
        end
    }

    fn skip_documents(&mut self) {
        for end in std::mem::take(&mut self.documents) {
            loop {
                let mut line = String::new();
                while let Some(c) = self.next().filter(|c| *c != '\n') {
                    line.push(c);
                }
                if line == end || self.rest.peek().is_none() {
                    break;
                }
            }
        }
    }
}

#[test]
fn commands_are_found_where_a_shell_finds_them() {
    let script = "\
# keyferry no
a 'b c' \"d $(keyferry version -o json) e\"f >out 2>&1 | FOO=1 keyferry x \\
  --y=z <in && source <(keyferry completion bash)   # comment
cat > file <<'END'
keyferry not this
END
(umask 077; keyferry last) & ''
";
    let found: Vec<String> = commands(script).iter().map(|simple| format!("{}: {}", simple.line, simple.words.join("|"))).collect();
    insta::assert_snapshot!(found.join("\n"), @"
    2: keyferry|version|-o|json
    2: a|b c|d SUBSTITUTION ef
    2: FOO=1|keyferry|x|--y=z
    3: keyferry|completion|bash
    3: source|SUBSTITUTION
    4: cat
    7: umask|077
    7: keyferry|last
    7:
    ");
}
