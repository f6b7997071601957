//! Reads a template before the engine sees it: its tags, one by one, each as its tokens.
//!
//! What is refused here cannot happen while a template is rendered. The engine looks up filters and tests only when it reaches them. Its
//! parser recurses along each expression. Some of its operators cost too little: it compares two values, or writes out a list, for one unit
//! of fuel, with any size; and lists of lists of lists can be very large. So the language here is smaller than the engine's. It has no
//! arithmetic, no lists or mappings that a template makes itself, and no functions. A comparison must have a text, a number or a word such
//! as `none` on one side.
//!
//! Tags begin and end here in the same places as in the engine; the tests compare both.

use super::TemplateFault;
use super::filters::{FILTERS, SPELLING};
use crate::model::quoted;
use crate::nearest::nearest;

/// The tests there are.
const TESTS: [&str; 3] = ["defined", "none", "undefined"];

/// Tags that have an end, each with it.
const PAIRS: [(&str, &str); 5] = [("filter", "endfilter"), ("for", "endfor"), ("if", "endif"), ("set", "endset"), ("with", "endwith")];

/// Words that are values.
const CONSTANTS: [&str; 6] = ["true", "True", "false", "False", "none", "None"];

/// Words between values, such as operators.
const LINKS: [&str; 7] = ["and", "or", "not", "in", "is", "if", "else"];

/// Names that a template cannot use for a secret or a variable.
pub(super) const RESERVED: [&str; 15] =
    ["and", "else", "false", "False", "if", "in", "is", "loop", "none", "None", "not", "or", "self", "true", "True"];

/// The most tokens of one tag: parser, compiler and destructor each recurse about this deep.
const MAX_TOKENS: usize = 256;

/// The most brackets within brackets.
const MAX_BRACKETS: usize = 16;

/// The most tags within tags. An `elif` counts as one within the tag before it.
const MAX_DEPTH: usize = 24;

/// The longest text in a comparison or within `[ ]`, in bytes: comparing a value with it costs no more.
const MAX_COMPARED: usize = 256;

/// What was found in a template without a fault so far.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Names that lead into a secret, such as `db.password`, in order.
    pub paths: Vec<Path>,
    /// The line of the first value that is written without a filter.
    pub bare: Option<usize>,
    /// Each name that is used as a value, with its line.
    pub names: Vec<(usize, String)>,
}

/// A name in a template, with its line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Path {
    pub line: usize,
    pub steps: Vec<String>,
}

/// Reads a whole template. `secrets`: the names that it may use.
pub(super) fn scan(text: &str, secrets: &[&str]) -> Result<Scan, TemplateFault> {
    let mut reader = Reader { text, at: 0 };
    let mut scan = Scan::default();
    let (mut open, mut lines) = (Open::default(), Lines { text, at: 0, line: 1 });
    while let Some(tag) = reader.tag()? {
        let fault = |(at, problem): (usize, String)| TemplateFault { line: Some(line(text, at)), problem };
        let filters = check(&tag, secrets).map_err(fault)?;
        if tag.is_statement {
            open.statement(&tag).map_err(fault)?;
        } else if scan.bare.is_none() && !open.is_spelled() && is_bare(&tag.tokens, &filters) {
            scan.bare = Some(line(text, tag.at));
        }
        note_names(&tag, secrets, &filters, &mut lines, &mut scan);
    }
    match open.0.last() {
        Some(level) => Err(TemplateFault { line: Some(line(text, level.at)), problem: no_end(level.name) }),
        None => Ok(scan),
    }
}

fn line(text: &str, at: usize) -> usize {
    Lines { text, at: 0, line: 1 }.of(at)
}

/// Lines of places that are given in order: no byte is looked at twice.
struct Lines<'t> {
    text: &'t str,
    at: usize,
    line: usize,
}

impl Lines<'_> {
    fn of(&mut self, at: usize) -> usize {
        self.line += self.text.get(self.at..at).map_or(0, |between| between.matches('\n').count());
        self.at = self.at.max(at);
        self.line
    }
}

// === tags ===

/// What is between `{{` and `}}`, or `{%` and `%}`.
struct Tag<'t> {
    at: usize,
    tokens: Vec<Token<'t>>,
    is_statement: bool,
}

#[derive(Clone, Copy, Debug)]
struct Token<'t> {
    at: usize,
    kind: Kind,
    text: &'t str,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Number,
    Sign,
    /// With its quotes.
    Text,
    Word,
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

// === impl Reader ===

impl<'t> Reader<'t> {
    /// The next tag. Comments and raw text are skipped.
    fn tag(&mut self) -> Result<Option<Tag<'t>>, TemplateFault> {
        loop {
            let rest = &self.text[self.at..];
            let Some(opens) = rest.find('{') else { return Ok(None) };
            let (begins, sign) = (self.at + opens, rest.as_bytes().get(opens + 1).copied());
            // A sign for white space belongs to the start of the tag.
            let controls = usize::from(matches!(rest.as_bytes().get(opens + 2), Some(b'-' | b'+')));
            let starts = begins + 2 + controls;
            match sign {
                Some(b'#') => {
                    let end = self.text[starts..].find("#}").ok_or_else(|| self.fault(begins, "a comment `{#` is not closed with `#}`"))?;
                    self.at = starts + end + 2;
                }
                Some(b'{') => return self.tokens(begins, starts, "}}").map(Some),
                Some(b'%') => {
                    let Some(after) = basic_tag(&self.text[starts..], "raw", false) else {
                        return self.tokens(begins, starts, "%}").map(Some);
                    };
                    self.at = starts + after;
                    self.skip_raw(begins)?;
                }
                Some(_) | None => self.at = begins + 1,
            }
        }
    }

    fn skip_raw(&mut self, begins: usize) -> Result<(), TemplateFault> {
        while let Some(found) = self.text[self.at..].find("{%") {
            self.at += found + 2;
            if let Some(after) = basic_tag(&self.text[self.at..], "endraw", true) {
                self.at += after;
                return Ok(());
            }
        }
        Err(self.fault(begins, no_end("raw")))
    }

    fn tokens(&mut self, begins: usize, starts: usize, end: &str) -> Result<Tag<'t>, TemplateFault> {
        let (bytes, mut at, mut tokens, mut brackets) = (self.text.as_bytes(), starts, Vec::new(), 0_usize);
        loop {
            let rest = &self.text[at..];
            let Some(byte) = rest.bytes().next() else {
                return Err(self.fault(begins, format!("a tag `{}` is not closed with `{end}`", &self.text[begins..begins + 2])));
            };
            if byte.is_ascii_whitespace() {
                at += 1;
                continue;
            }
            let controls = usize::from(matches!(byte, b'-' | b'+'));
            if brackets == 0 && rest[controls..].starts_with(end) {
                self.at = at + controls + end.len();
                return Ok(Tag { at: begins, tokens, is_statement: end == "%}" });
            }
            let token = self.token(at)?;
            match token.text {
                "(" | "[" if brackets == MAX_BRACKETS => {
                    return Err(self.fault(at, format!("has more than {MAX_BRACKETS} brackets within brackets (split it with `set`)")));
                }
                "(" | "[" => brackets += 1,
                ")" | "]" => brackets = brackets.checked_sub(1).ok_or_else(|| self.fault(at, "has one closing bracket too many"))?,
                _ => {}
            }
            if tokens.len() == MAX_TOKENS {
                return Err(self.fault(begins, format!("has more than {MAX_TOKENS} words and signs in one tag (split it with `set`)")));
            }
            at += token.text.len();
            debug_assert!(at <= bytes.len());
            tokens.push(token);
        }
    }

    fn token(&self, at: usize) -> Result<Token<'t>, TemplateFault> {
        let rest = &self.text[at..];
        let length = |is: fn(u8) -> bool| rest.bytes().take_while(|byte| is(*byte)).count();
        let (kind, length) = match rest.as_bytes().first().copied().unwrap_or_default() {
            quote @ (b'"' | b'\'') => {
                let end = end_of_quotes(&rest.as_bytes()[1..], quote).ok_or_else(|| self.fault(at, "a text in quotes has no end"))?;
                (Kind::Text, end + 1)
            }
            byte if byte.is_ascii_digit() => (Kind::Number, self.number(at)?),
            byte if byte.is_ascii_alphabetic() || byte == b'_' => (Kind::Word, length(|byte| byte.is_ascii_alphanumeric() || byte == b'_')),
            _ => match SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
                Some(sign) => (Kind::Sign, sign.len()),
                None => return Err(self.fault(at, strange(rest))),
            },
        };
        Ok(Token { at, kind, text: &rest[..length] })
    }

    /// Digits, or digits with a point between them.
    fn number(&self, at: usize) -> Result<usize, TemplateFault> {
        let rest = &self.text[at..];
        let run = rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || b"._".contains(byte)).count();
        let (whole, part) = rest[..run].split_once('.').unwrap_or((&rest[..run], "0"));
        let is_number = |digits: &str| (1..=18).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
        if is_number(whole) && is_number(part) {
            return Ok(run);
        }
        Err(self.fault(at, format!("{} is not a number that templates take (write digits, or a text in quotes)", quoted(&rest[..run]))))
    }

    fn fault(&self, at: usize, problem: impl Into<String>) -> TemplateFault {
        TemplateFault { line: Some(line(self.text, at)), problem: problem.into() }
    }
}

/// Why a sign is refused.
fn strange(rest: &str) -> String {
    let sign = rest.chars().next().unwrap_or_default();
    match sign {
        '+' | '-' | '*' | '/' | '%' => {
            format!("templates have no `{sign}`: they do not compute (join texts with `~`, or store the result)")
        }
        '{' | '}' | ':' => {
            format!("templates have no `{sign}`: they make no mappings and no slices (use `first`, `last`, `split` or `jmespath`)")
        }
        _ => format!("{} has no meaning within a tag", quoted(sign.encode_utf8(&mut [0; 4]))),
    }
}

/// Signs of two characters are tried before signs of one.
const SIGNS: [&str; 15] = ["==", "!=", "<=", ">=", "<", ">", "=", ".", ",", "|", "~", "(", ")", "[", "]"];

/// The end of a tag such as `raw %}`, if one is here.
fn basic_tag(text: &str, name: &str, controls: bool) -> Option<usize> {
    let signs = ['-', '+'];
    let rest = if controls { text.strip_prefix(signs).unwrap_or(text) } else { text };
    let rest = rest.trim_ascii_start().strip_prefix(name)?.trim_ascii_start();
    let rest = rest.strip_prefix(signs).unwrap_or(rest).strip_prefix("%}")?;
    Some(text.len() - rest.len())
}

/// The place after the closing quote.
fn end_of_quotes(bytes: &[u8], quote: u8) -> Option<usize> {
    let mut escaped = false;
    let end = bytes.iter().position(|byte| {
        let ends = *byte == quote && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    });
    end.map(|end| end + 1)
}

fn no_end(name: &str) -> String {
    format!("`{{% {name} %}}` has no `{{% end{name} %}}`")
}

// === statements ===

/// The tags that are open.
#[derive(Default)]
struct Open(Vec<Level>);

struct Level {
    name: &'static str,
    at: usize,
    /// How many `elif` it has.
    more: usize,
    /// A filter around its content makes the values safe to write.
    is_spelled: bool,
}

impl Open {
    fn is_spelled(&self) -> bool {
        self.0.iter().any(|level| level.is_spelled)
    }

    fn statement(&mut self, tag: &Tag<'_>) -> Result<(), (usize, String)> {
        let name = tag.tokens.first().map_or("", |token| token.text);
        if let Some((begin, end)) = PAIRS.into_iter().find(|(_, end)| *end == name) {
            return match self.0.pop() {
                Some(level) if level.name == begin => Ok(()),
                Some(level) => Err((level.at, no_end(level.name))),
                None => Err((tag.at, format!("`{end}` ends nothing (remove it)"))),
            };
        }
        let opens = PAIRS.into_iter().find(|(begin, _)| *begin == name).filter(|_| name != "set" || is_block(tag));
        if let Some((name, _)) = opens {
            let is_spelled = name == "filter" && tag.tokens.last().is_some_and(|last| SPELLING.contains(&last.text));
            self.0.push(Level { name, at: tag.at, more: 0, is_spelled });
        }
        if let Some(level) = self.0.last_mut().filter(|_| name == "elif") {
            level.more += 1;
        }
        if self.0.iter().map(|level| 1 + level.more).sum::<usize>() > MAX_DEPTH {
            return Err((tag.at, format!("is more than {MAX_DEPTH} tags deep; each `elif` counts (nest less)")));
        }
        Ok(())
    }
}

/// Whether the value of a `set` is between the tag and `endset`.
fn is_block(tag: &Tag<'_>) -> bool {
    tag.tokens.get(2).is_none_or(|token| token.text == "|")
}

// === expressions ===

/// The purpose of a bracket.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Bracket {
    /// The arguments of a filter.
    Arguments,
    Group,
    Subscript,
}

/// The place, and the fault there.
type Problem = (usize, String);

/// Where an expression begins in a tag, and its filters, as places of their names.
fn check(tag: &Tag<'_>, secrets: &[&str]) -> Result<Vec<usize>, Problem> {
    let tokens = &tag.tokens;
    if !tag.is_statement {
        return Checker::new(tokens, secrets, false).expression(0);
    }
    let Some(name) = tokens.first() else { return Err((tag.at, "a tag `{%` has no word (remove it)".to_owned())) };
    let none = |from: usize| match tokens.get(from) {
        Some(more) => Err((more.at, format!("`{}` has more in it than that word (remove {})", name.text, quoted(more.text)))),
        None => Ok(Vec::new()),
    };
    match name.text {
        "if" | "elif" => Checker::new(tokens, secrets, false).expression(1),
        "else" => none(1),
        "filter" => Checker::new(tokens, secrets, false).filter_chain(1),
        "for" => {
            let comes_in = tokens.iter().position(|token| token.kind == Kind::Word && token.text == "in");
            let from = comes_in.ok_or_else(|| (tag.at, "`for` has no `in` (write `{% for x in db.hosts %}`)".to_owned()))?;
            targets(&tokens[1..from], secrets)?;
            Checker::new(tokens, secrets, false).expression(from + 1)
        }
        "set" => {
            targets(&tokens[1..tokens.len().min(2)], secrets)?;
            match tokens.get(2) {
                Some(sign) if sign.text == "=" => Checker::new(tokens, secrets, false).expression(3),
                Some(sign) if sign.text == "|" => Checker::new(tokens, secrets, false).filter_chain(3),
                Some(_) | None => none(2),
            }
        }
        "with" => Checker::new(tokens, secrets, true).expression(1),
        end if PAIRS.iter().any(|(_, known)| *known == end) => none(1),
        other => Err((name.at, no("tag", other, &["elif", "else", "filter", "for", "if", "raw", "set", "with"]))),
    }
}

/// The names that a `for` or a `set` defines.
fn targets(tokens: &[Token<'_>], secrets: &[&str]) -> Result<(), Problem> {
    for token in tokens {
        match token.kind {
            Kind::Word => is_free(token, secrets)?,
            Kind::Sign if token.text == "," => {}
            Kind::Number | Kind::Sign | Kind::Text => {
                return Err((token.at, format!("{} is not the name of a variable", quoted(token.text))));
            }
        }
    }
    Ok(())
}

fn is_free(token: &Token<'_>, secrets: &[&str]) -> Result<(), Problem> {
    if LINKS.contains(&token.text) {
        return Err((token.at, format!("`{}` is a word of the language, and cannot be a variable (use another name)", token.text)));
    }
    if secrets.contains(&token.text) {
        let problem = format!("`{}` is a name under `secrets`, and cannot be a variable too (use another name)", token.text);
        return Err((token.at, problem));
    }
    Ok(())
}

struct Checker<'a, 't> {
    tokens: &'a [Token<'t>],
    secrets: &'a [&'a str],
    /// It is a list of `name = value`.
    is_with: bool,
    brackets: Vec<Bracket>,
    filters: Vec<usize>,
}

// === impl Checker ===

impl<'a, 't> Checker<'a, 't> {
    fn new(tokens: &'a [Token<'t>], secrets: &'a [&'a str], is_with: bool) -> Self {
        Self { tokens, secrets, is_with, brackets: Vec::new(), filters: Vec::new() }
    }

    fn filter_chain(mut self, from: usize) -> Result<Vec<usize>, Problem> {
        if let Some(name) = self.tokens.get(from).filter(|name| name.kind == Kind::Word) {
            self.filter(from, name)?;
        }
        self.rest(from + 1, from)
    }

    fn expression(self, from: usize) -> Result<Vec<usize>, Problem> {
        self.rest(from, from)
    }

    /// `begins`: the start of the expression; nothing before it belongs to it.
    fn rest(mut self, from: usize, begins: usize) -> Result<Vec<usize>, Problem> {
        for at in from..self.tokens.len() {
            let token = self.tokens[at];
            let before = at.checked_sub(1).filter(|before| *before >= begins);
            match token.kind {
                Kind::Word => self.word(at, before)?,
                Kind::Sign => self.sign(at, before)?,
                Kind::Number | Kind::Text if before.is_some_and(|before| self.is_sign(before, ".")) => {
                    return Err((
                        token.at,
                        "the name of a field must follow a `.` (for an item of a list use `first`, `last` or `jmespath`)".to_owned(),
                    ));
                }
                Kind::Number | Kind::Text => {}
            }
        }
        Ok(self.filters)
    }

    fn word(&mut self, at: usize, before: Option<usize>) -> Result<(), Problem> {
        let token = self.tokens[at];
        match before.map(|before| self.tokens[before].text) {
            Some("|") => self.filter(at, &token),
            Some(".") => Ok(()),
            Some("is") if token.text != "not" && self.is_link(at - 1) => test(&token),
            Some("not") if at > 1 && self.is_link(at - 1) && self.tokens[at - 2].text == "is" && self.is_link(at - 2) => test(&token),
            _ if token.text == "in" => self.comparison(at),
            _ if token.text == "recursive" => Err((token.at, "templates have no `recursive` (remove it)".to_owned())),
            // The engine would take it as the name of a variable.
            _ if LINKS.contains(&token.text) && token.text != "not" && before.is_none_or(|before| !self.ends_a_value(before)) => {
                Err((token.at, format!("there is no value before `{}` (write one there)", token.text)))
            }
            _ => Ok(()),
        }
    }

    fn filter(&mut self, at: usize, name: &Token<'t>) -> Result<(), Problem> {
        if !FILTERS.contains(&name.text) {
            return Err((name.at, no("filter", name.text, &FILTERS)));
        }
        if self.tokens.get(at + 1).is_some_and(|next| next.text == ".") {
            return Err((name.at, format!("put brackets around the value and its filter `{}`, before the `.`", name.text)));
        }
        self.filters.push(at);
        Ok(())
    }

    fn sign(&mut self, at: usize, before: Option<usize>) -> Result<(), Problem> {
        let token = self.tokens[at];
        let top = self.brackets.last().copied();
        let fault = |problem: &str| Err((token.at, problem.to_owned()));
        match token.text {
            "(" => self.opens(at, before),
            "[" => self.subscript(at, before),
            ")" if matches!(top, Some(Bracket::Arguments | Bracket::Group)) => self.closes(),
            "]" if top == Some(Bracket::Subscript) => self.closes(),
            ")" | "]" => fault("has a closing bracket of another kind"),
            "," if top == Some(Bracket::Arguments) || top.is_none() && self.is_with => Ok(()),
            "," => fault("templates make no lists (write `{{ }}` for each value)"),
            "=" if top == Some(Bracket::Arguments) => Ok(()),
            "=" if top.is_none() && self.is_with => match before {
                Some(name) => is_free(&self.tokens[name], self.secrets),
                None => Ok(()),
            },
            "=" => fault("`=` gives a variable its value, in `set` and `with` (write `==` to compare)"),
            "==" | "!=" | "<" | "<=" | ">" | ">=" => self.comparison(at),
            _ => Ok(()),
        }
    }

    #[allow(clippy::unnecessary_wraps)] // as its neighbours
    fn closes(&mut self) -> Result<(), Problem> {
        self.brackets.pop();
        Ok(())
    }

    fn opens(&mut self, at: usize, before: Option<usize>) -> Result<(), Problem> {
        let token = self.tokens[at];
        if self.filters.last() == before.as_ref() && before.is_some() {
            self.brackets.push(Bracket::Arguments);
            return Ok(());
        }
        if let Some(before) = before.filter(|before| self.ends_a_value(*before)) {
            let name = self.tokens[before].text;
            return Err((
                token.at,
                format!("{} cannot be called: templates have filters and no functions (write `value | filter`)", quoted(name)),
            ));
        }
        if self.tokens.get(at + 1).is_some_and(|next| next.text == ")") {
            return Err((token.at, "templates make no lists (write a value between the brackets)".to_owned()));
        }
        self.brackets.push(Bracket::Group);
        Ok(())
    }

    /// Only a name is allowed within `[ ]`: the engine finds the nth character of a text without a cost.
    fn subscript(&mut self, at: usize, before: Option<usize>) -> Result<(), Problem> {
        let token = self.tokens[at];
        let Some(before) = before.filter(|before| self.ends_a_value(*before) && self.tokens[*before].kind != Kind::Text) else {
            return Err((token.at, "templates make no lists (use `split`, or store a list as JSON)".to_owned()));
        };
        let is_closed = self.tokens.get(at + 2).is_some_and(|end| end.text == "]");
        let is_secret = self.secrets.contains(&self.tokens[before].text) && !self.is_behind_point(before);
        let is_name = self.tokens.get(at + 1).is_some_and(|name| match name.kind {
            Kind::Text => name.text.len() <= MAX_COMPARED,
            Kind::Word => is_secret && !CONSTANTS.contains(&name.text),
            Kind::Number | Kind::Sign => false,
        });
        if !is_closed || !is_name {
            let problem = "within `[ ]` write a name in quotes; after a name under `secrets`, a variable works too (for an item of a list use \
                           `first`, `last` or `jmespath`)";
            return Err((token.at, problem.to_owned()));
        }
        self.brackets.push(Bracket::Subscript);
        Ok(())
    }

    /// One side must be a text, a number or a word such as `none`: the engine compares two long values without a cost.
    fn comparison(&self, at: usize) -> Result<(), Problem> {
        let token = self.tokens[at];
        let is_in = token.text == "in";
        let negated = usize::from(is_in && at > 0 && self.tokens[at - 1].text == "not");
        let left = at.checked_sub(1 + negated).is_some_and(|left| {
            let begins = left.checked_sub(1).is_none_or(|before| {
                let before = self.tokens[before];
                matches!(before.text, "(" | "," | "=") && before.kind == Kind::Sign
                    || matches!(before.text, "and" | "or" | "not" | "if" | "elif" | "else") && before.kind == Kind::Word
            });
            self.is_constant(left) && begins
        });
        let ends = self.tokens.get(at + 2).is_none_or(|after| {
            matches!(after.text, ")" | ",") && after.kind == Kind::Sign
                || matches!(after.text, "and" | "or" | "if" | "else") && after.kind == Kind::Word
        });
        let right = !is_in && at + 1 < self.tokens.len() && self.is_constant(at + 1) && ends;
        if left || right {
            return Ok(());
        }
        let problem = if is_in {
            "left of `in` there must be a text in quotes or a number".to_owned()
        } else {
            format!("one side of `{}` must be a text in quotes, a number or a word such as `none`", token.text)
        };
        Err((token.at, problem))
    }

    fn is_constant(&self, at: usize) -> bool {
        let token = self.tokens[at];
        match token.kind {
            Kind::Number => true,
            Kind::Text => token.text.len() <= MAX_COMPARED,
            Kind::Word => CONSTANTS.contains(&token.text) && !self.is_behind_point(at),
            Kind::Sign => false,
        }
    }

    fn ends_a_value(&self, at: usize) -> bool {
        let token = self.tokens[at];
        match token.kind {
            Kind::Number | Kind::Text => true,
            Kind::Sign => matches!(token.text, ")" | "]"),
            Kind::Word => !self.is_link(at),
        }
    }

    /// Whether a word is an operator between values, and not the name of a field.
    fn is_link(&self, at: usize) -> bool {
        LINKS.contains(&self.tokens[at].text) && self.tokens[at].kind == Kind::Word && !self.is_behind_point(at)
    }

    fn is_behind_point(&self, at: usize) -> bool {
        at > 0 && self.is_sign(at - 1, ".")
    }

    fn is_sign(&self, at: usize, sign: &str) -> bool {
        self.tokens[at].kind == Kind::Sign && self.tokens[at].text == sign
    }
}

fn test(name: &Token<'_>) -> Result<(), Problem> {
    if TESTS.contains(&name.text) { Ok(()) } else { Err((name.at, no("test", name.text, &TESTS))) }
}

fn no(what: &str, name: &str, all: &[&'static str]) -> String {
    match nearest(name, all.iter().copied()) {
        Some(near) => format!("there is no {what} {} (did you mean `{near}`?)", quoted(name)),
        None => format!("there is no {what} {} (there are: {})", quoted(name), all.join(", ")),
    }
}

// === names ===

/// Whether a tag writes a value without a filter that makes it safe. The part between `if` and `else` is not written.
fn is_bare(tokens: &[Token<'_>], filters: &[usize]) -> bool {
    let (mut depth, mut is_condition, mut last, mut spelled, mut seen) = (0_usize, false, None, false, false);
    let mut bare = false;
    for (at, token) in tokens.iter().enumerate() {
        let is_word = token.kind == Kind::Word && !(at > 0 && tokens[at - 1].text == ".") && !filters.contains(&at);
        match token.text {
            "(" | "[" if token.kind == Kind::Sign => depth += 1,
            ")" | "]" if token.kind == Kind::Sign => depth = depth.saturating_sub(1),
            "~" | "or" | "and" | "else" | "if" if depth == 0 && (is_word || token.text == "~" && token.kind == Kind::Sign) => {
                bare |= seen && !is_condition && !spelled;
                is_condition = token.text == "if" || is_condition && token.text != "else";
                (last, spelled, seen) = (None, false, false);
                continue;
            }
            _ => {}
        }
        if filters.contains(&at) && depth == 0 {
            spelled = SPELLING.contains(&token.text);
        }
        let is_own = |word: &str| CONSTANTS.contains(&word) || word == "loop";
        seen |= is_word && last.is_none() && !is_own(token.text) || token.text == "(" && last.is_none();
        last = Some(at);
    }
    bare || seen && !is_condition && !spelled
}

fn note_names(tag: &Tag<'_>, secrets: &[&str], filters: &[usize], lines: &mut Lines<'_>, scan: &mut Scan) {
    let tokens = &tag.tokens;
    for (at, token) in tokens.iter().enumerate().skip(usize::from(tag.is_statement)) {
        let is_name = token.kind == Kind::Word && !filters.contains(&at) && !(at > 0 && tokens[at - 1].text == ".");
        if !is_name || LINKS.contains(&token.text) || CONSTANTS.contains(&token.text) {
            continue;
        }
        let line = lines.of(token.at);
        scan.names.push((line, token.text.to_owned()));
        if secrets.contains(&token.text) {
            scan.paths.push(Path { line, steps: path(&tokens[at..]) });
        }
    }
}

/// The names that follow each other, as far as the template names them.
fn path(tokens: &[Token<'_>]) -> Vec<String> {
    let mut steps: Vec<String> = tokens.first().map(|token| token.text.to_owned()).into_iter().collect();
    let mut rest = tokens.get(1..).unwrap_or_default();
    loop {
        rest = match rest {
            [point, name, rest @ ..] if point.text == "." && name.kind == Kind::Word => {
                steps.push(name.text.to_owned());
                rest
            }
            [open, name, _, rest @ ..] if open.text == "[" && name.kind == Kind::Text && !name.text.contains('\\') => {
                steps.push(name.text[1..name.text.len() - 1].to_owned());
                rest
            }
            _ => return steps,
        };
    }
}
