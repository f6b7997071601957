//! What a page quotes of the program's messages, log lines and reports. The program's texts are the string literals of `src`, without the
//! tests. A literal has placeholders, and the texts between them are its pieces. A quote is a row of whole pieces: only at its two ends, and at
//! `...`, it may begin or end within one. Between two pieces a value may be, but no word that the program does not know.

use std::collections::HashMap;
use std::fs;

use keyferry::model::Code;

use super::{Found, pages, quoted, root};
use crate::support::files_below;

/// Texts of others in the program's messages: the system's, a store's and a library's.
const OTHER_TEXTS: [&str; 22] = [
    "(os error",
    "Cannot allocate memory",
    "Connection refused",
    "Field validation failed: error converting input for field",
    "No space left on device",
    "Operation not permitted",
    "Permission denied",
    "Too many levels of symbolic links",
    "Too many open files",
    "client error (Connect)",
    "could not be found",
    "invalid bearer token, token lookup failed",
    "invalid duration",
    "invalid role or secret ID",
    "not yours",
    "permission denied",
    "rate limit quota exceeded",
    "request path",
    "service account name not authorized",
    "tcp connect error",
    "unclosed bracket",
    "unsupported operation",
];

/// Names in quoted messages that look like words: of a role, a backend and two keys.
const VALUES: [&str; 4] = ["csi", "intranet", "moed", "nonsense"];

/// Quotes of other programs, by their first words.
const OTHER_PROGRAMS: [&str; 10] = [
    "(echo config:",
    "configmap \"keyferry-jwks\"",
    "diff NAME",
    "driver name secrets-store.csi.k8s.io not found",
    "failed to get secretproviderclass",
    "insufficient quota",
    "nginx -s",
    "no ConfigMap with the name",
    "original object ConfigMap",
    "provider not found",
];

/// Where a quote leaves something out.
const CUT: &str = "...";

/// The words between two placeholders of a literal.
type Piece = Vec<String>;

/// The program's texts, and where each word is in them.
struct Texts {
    pieces: Vec<Piece>,
    places: HashMap<String, Vec<(usize, usize)>>,
}

fn bare(word: &str) -> &str {
    word.trim_matches(|c: char| !c.is_ascii_alphanumeric())
}

fn is_plain(word: &str) -> bool {
    word != CUT && word.chars().all(|c| c.is_ascii_alphabetic() || c == '\'')
}

fn plain(text: &str) -> usize {
    text.split_whitespace().map(bare).filter(|word| !word.is_empty() && is_plain(word)).count()
}

/// The words of a quote. Texts of others, texts in double quotes and an object's path are values.
fn words(quote: &str) -> Vec<String> {
    let mut text = OTHER_TEXTS.iter().fold(quote.to_owned(), |text, other| text.replace(other, " 0 "));
    let parts: Vec<&str> = text.split('"').collect();
    let is_value = |at: usize| at % 2 == 1 && at + 1 < parts.len();
    text = parts.iter().enumerate().map(|(at, part)| if is_value(at) { " 0 " } else { part }).collect();
    let mut words: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        // `object 2 (tls/)`
        let is_path = word.starts_with('(') && words.iter().rev().nth(1).is_some_and(|before| before == "object");
        let known = if is_path { "0" } else { bare(word) };
        words.extend(Some(CUT).filter(|_| word.starts_with(CUT)).map(str::to_owned));
        words.extend(Some(known).filter(|known| !known.is_empty()).map(str::to_owned));
        words.extend(Some(CUT).filter(|_| word.ends_with(CUT) && word != CUT).map(str::to_owned));
    }
    words
}

/// The string literals of a source file, without those of its tests and comments.
fn literals(source: &str) -> Vec<String> {
    let (mut found, mut rest) = (Vec::new(), source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default());
    while let Some(at) = rest.find(['"', '/', '\'']) {
        let before = &rest[..at];
        rest = &rest[at..];
        if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if let Some(text) = rest.strip_prefix('"') {
            let before_hashes = before.trim_end_matches('#');
            if before_hashes.ends_with('r') {
                let end = format!("\"{}", &before[before_hashes.len()..]);
                let (text, after) = text.split_once(&end).unwrap_or((text, ""));
                found.push(text.to_owned());
                rest = after;
            } else {
                let end = end_of_text(text);
                found.push(text[..end].replace("\\\"", "\"").replace("\\n", "\n"));
                rest = text.get(end + 1..).unwrap_or("");
            }
        } else if rest.starts_with("'\\") {
            // A character such as '\'' or '\u{1}'.
            rest = rest.get(3..).and_then(|after| after.split_once('\'')).map_or("", |(_, after)| after);
        } else {
            // A character such as '"', a lifetime, or a slash.
            let character = rest.chars().nth(1).filter(|_| rest.starts_with('\'') && rest.chars().nth(2) == Some('\''));
            rest = &rest[1 + character.map_or(0, |c| c.len_utf8() + 1)..];
        }
    }
    found
}

/// Where a literal's closing quote is.
fn end_of_text(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' if !is_escaped => return at,
            '\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
    text.len()
}

/// The texts between a literal's placeholders. A `\` at the end of a line removes the blanks before the next word.
fn pieces(literal: &str) -> Vec<Piece> {
    let mut lines = literal.split("\\\n");
    let first = lines.next().unwrap_or_default().to_owned();
    let text = lines.fold(first, |text, line| text + line.trim_start()).replace("{{", "").replace("}}", "");
    let (mut texts, mut rest) = (Vec::new(), text.as_str());
    while let Some((before, after)) = rest.split_once('{') {
        texts.push(before);
        rest = after.split_once('}').map_or("", |(_, after)| after);
    }
    texts.push(rest);
    let words = |text: &str| text.split_whitespace().map(bare).filter(|word| !word.is_empty()).map(str::to_owned).collect::<Piece>();
    texts.into_iter().map(words).filter(|piece| !piece.is_empty()).collect()
}

impl Texts {
    fn of_the_program() -> Self {
        let is_test = |path: &str| path.contains("/tests/") || path.ends_with("tests.rs") || path.contains("/testing/");
        let files = files_below(&root().join("src"), "rs").into_iter().filter(|file| !is_test(file.to_str().unwrap()));
        let literals = files.flat_map(|file| literals(&fs::read_to_string(file).unwrap()));
        let pieces: Vec<Piece> = literals.flat_map(|literal| pieces(&literal)).collect();
        assert!(pieces.len() > 5_000, "only {} pieces were found", pieces.len());
        let mut places: HashMap<String, Vec<(usize, usize)>> = HashMap::new();
        for (number, piece) in pieces.iter().enumerate() {
            for (at, word) in piece.iter().enumerate() {
                places.entry(word.clone()).or_default().push((number, at));
            }
        }
        Self { pieces, places }
    }

    /// Where pieces end that begin with this word of a quote.
    fn ends<'a>(&'a self, words: &'a [String], start: usize) -> impl Iterator<Item = usize> + 'a {
        let is_cut = |at: usize| words.get(at).is_none_or(|word| word == CUT);
        let may_begin_within = start == 0 || is_cut(start - 1);
        self.places.get(&words[start]).into_iter().flatten().filter_map(move |&(number, at)| {
            let piece = &self.pieces[number][at..];
            let length = words[start..].iter().zip(piece).take_while(|(ours, theirs)| ours == theirs).count();
            let end = start + length;
            let is_whole = length == piece.len() || is_cut(end);
            ((at == 0 || may_begin_within) && is_whole && (length > 1 || at == 0)).then_some(end)
        })
    }

    /// The words of a quote that the program does not write there, with the values next to them.
    fn strange(&self, quote: &str) -> Vec<String> {
        let words = words(quote);
        // For each word: how many plain words from there on are in no piece, and the end of the piece that begins there.
        let mut best: Vec<(usize, Option<usize>)> = vec![(0, None); words.len() + 1];
        for start in (0..words.len()).rev() {
            let without = best[start + 1].0 + usize::from(is_plain(&words[start]));
            let with = self.ends(&words, start).map(|end| (best[end].0, Some(end))).min();
            best[start] = with.filter(|(left, _)| *left <= without).unwrap_or((without, None));
        }
        let (mut strange, mut gap, mut at) = (Vec::new(), Vec::new(), 0);
        while at <= words.len() {
            if let Some((word, None)) = words.get(at).map(|word| (word, best[at].1)) {
                gap.push(word.as_str());
            } else {
                let gap = std::mem::take(&mut gap);
                if gap.iter().any(|word| is_plain(word) && !VALUES.contains(word)) {
                    strange.push(gap.join(" "));
                }
            }
            at = best.get(at).and_then(|(_, end)| *end).unwrap_or(at + 1);
        }
        strange
    }
}

/// Whether a line of a block begins a message: `Code: ...`, or that after the words of kubelet and the driver.
fn message(line: &str) -> Option<&str> {
    let message = line.rsplit("desc = ").next().unwrap_or(line).trim_start();
    let (code, _) = message.split_once(": ")?;
    Code::ALL.iter().any(|known| known.as_str() == code).then_some(message)
}

/// The messages in the blocks of a page, the lines of `keyferry doctor`, and what a page looks for in a log.
fn quotes(page: &str, text: &str) -> Vec<Found> {
    let mut quotes: Vec<Found> = Vec::new();
    let (mut fenced, mut open) = (false, false);
    for (number, line) in (1..).zip(text.lines()) {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        let inside = fenced && !fence || line.starts_with("    ");
        let is_doctors = ["ok   ", "warn ", "fail "].iter().any(|level| line.trim_start().starts_with(level));
        let found = |text: &str| Found { place: format!("{page}:{number}"), text: text.to_owned() };
        if !inside || line.trim().is_empty() || line.trim_start().starts_with("$ ") {
            open = false;
        } else if let Some(message) = message(line) {
            quotes.push(found(message));
            open = true;
        } else if is_doctors {
            quotes.push(found(line.trim_start()));
            open = false;
        } else if open {
            let last = quotes.last_mut().unwrap();
            last.text = format!("{} {}", last.text, line.trim());
        } else if line.contains("grep ") {
            quotes.extend(line.split('\'').skip(1).step_by(2).filter(|text| plain(text) > 1).map(found));
        }
    }
    quotes
}

/// Whether a text in backticks is a sentence, and not a command or a piece of a file.
fn is_sentence(text: &str) -> bool {
    let is_code = text.contains(['=', '{', '}', '$', '|', '<']) || text.contains("--");
    let command =
        ["/keyferry", "age", "aws", "bao", "cargo", "git", "helm", "jq", "keyferry", "kubectl", "make", "openssl", "promtool", "sh"];
    !is_code && plain(text) > 2 && !text.split(' ').next().is_some_and(|first| command.contains(&first))
}

#[test]
fn messages_of_the_pages_are_those_of_the_program() {
    let texts = Texts::of_the_program();
    let of_blocks = pages().into_iter().flat_map(|(page, text)| quotes(&page, &text));
    let found: Vec<Found> = of_blocks.chain(quoted().into_iter().filter(|found| is_sentence(&found.text))).collect();
    assert!(found.len() > 200, "{}", found.len());
    for known in OTHER_TEXTS.iter().chain(&OTHER_PROGRAMS).chain(&VALUES) {
        assert!(found.iter().any(|found| found.text.contains(known)), "an exception without use: {known}");
    }
    let ours = found.iter().filter(|found| !OTHER_PROGRAMS.iter().any(|start| found.text.starts_with(start)));
    let wrong = |Found { place, text }: &Found| {
        let words = texts.strange(text);
        (!words.is_empty()).then(|| format!("{place}: {text}\n  not in the program: {}", words.join(", ")))
    };
    let wrong: Vec<String> = ours.filter_map(wrong).collect();
    assert!(wrong.is_empty(), "pages quote what the program does not say:\n{}", wrong.join("\n"));
}

/// What the test above would find.
#[test]
fn a_message_that_the_program_does_not_say_is_found() {
    let source = "f(\"a {x:?} b\\\" \\\n   c\") // \"no\"\n'\"' 'a r#\"raw \"1\" {\"# '\\'' \"last\"\n#[cfg(test)]\nmod tests { \"test\" }";
    assert_eq!(literals(source), ["a {x:?} b\" \\\n   c", "raw \"1\" {", "last"]);
    assert_eq!(pieces("a {x:?} b\" \\\n   c {{d}}"), [vec!["a"], vec!["b", "c", "d"]]);
    assert_eq!(words("object 2 (tls/): `a` ... \"b c\" d..."), ["object", "2", "0", "a", "...", "0", "d", "..."]);
    let texts = Texts::of_the_program();
    for (quote, strange) in [
        (
            "PolicyDenied: object 1 (a): files/bank/db: no rule of the policy allows ServiceAccount shop/web to read it (the cluster's admin",
            "",
        ),
        ("PolicyDenied: object 1 (a): files/bank/db: no rule of the paper allows ServiceAccount shop/web to read it", "paper"),
        ("TooLarge: objects: has 10000 objects: at most 512 are permitted on this node", "permitted"),
        ("Overloaded: no seat was free for this mount in 85 s (many Pods start at once", "seat"),
        ("BackendUnavailable: object 1 (a): files/shop/db: the moon is full (wait for the sun)", "moon"),
        ("an audit line could not be written", ""),
        ("an audit line could not be painted", "painted"),
    ] {
        let found = texts.strange(quote).join(", ");
        assert!(found.contains(strange) && strange.is_empty() == found.is_empty(), "{quote}: {found}");
    }
    let page = "a\n\n    Overloaded: no\n    place `x`\n\n```console\n$ x\n  desc = a, desc = TooLarge: b\n```\n    kubectl logs | grep 'the store is out' -e x\n";
    let found: Vec<String> = quotes("p", page).into_iter().map(|Found { place, text }| format!("{place} {text}")).collect();
    assert_eq!(found, ["p:3 Overloaded: no place `x`", "p:8 TooLarge: b", "p:10 the store is out"]);
}
