//! What Keyferry may repeat of somebody else's words: a store's error may quote the token that it got, or a value that it has. The store's
//! words go into a Pod's event and into logs, so all of them come through here.
//!
//! Two things are removed: any run of [`RUN`] characters that the words have in common with a hidden text, and any whole value of [`WHOLE`]
//! or more. Case, white space and invisible characters do not count. The windows of the words are looked up for each hidden text, and not
//! the other way round: that takes time proportional to both together, and memory only for the words, of which a limited part is looked at.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

use data_encoding::{BASE64_NOPAD, HEXLOWER, HEXUPPER};
use zeroize::Zeroizing;

/// The shortest common part that is removed, in characters: a shorter one may be chance.
pub const RUN: usize = 12;

/// The shortest whole value that is removed, in characters: a shorter one looks like any word, and is not a secret.
pub const WHOLE: usize = 5;

/// How many characters of the words are looked at. A message shows far fewer.
const LOOKED_AT: usize = 8 * 1024;

/// The text in place of a removed part.
const REMOVED: &str = "[redacted]";

/// What the words must not show.
#[derive(Default)]
pub struct Hidden(Vec<Zeroizing<String>>);

/// The words, with what was found in them.
struct Search {
    source: Vec<char>,
    /// The characters that count, in small letters, each with its place in `source`.
    folded: Vec<(usize, char)>,
    /// Of only this many characters at the start.
    prefixes: Vec<u64>,
    powers: [u64; RUN + 1],
    base: u64,
    /// By length and hash of a window: whether a hidden text has it too.
    windows: HashMap<(usize, u64), bool>,
}

// === impl Hidden ===

impl Hidden {
    /// Hides a value; of bytes that are not text, as much as is text. A value that is too short is not kept: an answer may have a hundred
    /// thousand of them.
    pub fn value(&mut self, value: &[u8]) {
        if value.len() >= WHOLE {
            self.0.push(Zeroizing::new(String::from_utf8_lossy(value).into_owned()));
        }
    }

    /// Hides a token or a similar text: also in base64 and hex.
    pub fn credential(&mut self, credential: &[u8]) {
        self.value(credential);
        if credential.len() >= RUN {
            self.0.extend(encodings(credential));
        }
    }

    /// The words on one line, at most `most` characters of them. Go's list of errors (`1 error occurred:`, each with a star) becomes a
    /// sentence.
    pub fn clean(&self, words: &str, most: usize) -> String {
        let mut search = Search::of(words);
        for hidden in &self.0 {
            search.look_for(hidden);
        }
        let (shown, cut) = search.shown();
        let line = one_line(&shown);
        match line.char_indices().nth(most) {
            Some((end, _)) => format!("{}...", &line[..end]),
            None if cut => format!("{line}..."),
            None => line,
        }
    }
}

/// The base64 and hex form of bytes, wherever they are in the encoded text: the part that does not depend on the bytes around them.
pub fn encodings(bytes: &[u8]) -> Vec<Zeroizing<String>> {
    let mut encodings = vec![HEXLOWER.encode(bytes), HEXUPPER.encode(bytes)];
    for before in 0..3 {
        let shifted = Zeroizing::new([&[0; 2][..before], bytes].concat());
        let encoded = Zeroizing::new(BASE64_NOPAD.encode(&shifted));
        // The first characters have bits of the bytes before, and the last one may have bits of the bytes after.
        let inner = &encoded[(before * 8).div_ceil(6)..shifted.len() * 8 / 6];
        encodings.push(inner.replace('+', "-").replace('/', "_"));
        encodings.push(inner.to_owned());
    }
    encodings.into_iter().map(Zeroizing::new).collect()
}

/// Whether a character is invisible, or changes the order of the characters around it: no such character belongs in a message.
pub fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Without line ends, control characters and invisible ones.
fn one_line(text: &str) -> String {
    let is_end = |c: char| matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let lines = text.split(is_end).map(str::trim).filter(|line| !line.is_empty());
    let lines = lines.filter(|line| !(line.ends_with("occurred:") && line.contains(" error")));
    let joined = lines.map(|line| line.trim_start_matches("* ")).collect::<Vec<_>>().join("; ");
    joined.chars().filter(|c| !is_invisible(*c)).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Only how much, and not the texts.
impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hidden({})", self.0.len())
    }
}

// === impl Search ===

impl Search {
    fn of(words: &str) -> Self {
        let source: Vec<char> = words.chars().take(LOOKED_AT + 1).collect();
        let folded: Vec<(usize, char)> =
            source.iter().take(LOOKED_AT).enumerate().flat_map(|(at, c)| fold(*c).map(move |c| (at, c))).collect();
        // For this call alone: nobody can choose words with the same hash. Such words would only hide too much.
        let base = RandomState::new().hash_one(folded.len()) | 1;
        let mut powers = [1_u64; RUN + 1];
        for at in 1..=RUN {
            powers[at] = powers[at - 1].wrapping_mul(base);
        }
        let mut prefixes = Vec::with_capacity(folded.len() + 1);
        prefixes.push(0_u64);
        for (at, (_, c)) in folded.iter().enumerate() {
            prefixes.push(step(prefixes[at], base, *c));
        }
        let mut search = Self { source, folded, prefixes, powers, base, windows: HashMap::new() };
        for length in WHOLE..=RUN {
            for at in 0..(search.folded.len() + 1).saturating_sub(length) {
                search.windows.insert((length, search.window(at, length)), false);
            }
        }
        search
    }

    fn window(&self, at: usize, length: usize) -> u64 {
        self.prefixes[at + length].wrapping_sub(self.prefixes[at].wrapping_mul(self.powers[length]))
    }

    /// Notes the windows of a hidden text: each of [`RUN`] characters, or the whole text if it is shorter.
    fn look_for(&mut self, hidden: &str) {
        let (mut last, mut count, mut hash) = (Zeroizing::new(['\0'; RUN]), 0, 0_u64);
        for c in hidden.chars().flat_map(fold) {
            let out = std::mem::replace(&mut last[count % RUN], c);
            let leaving = if count >= RUN { value(out).wrapping_mul(self.powers[RUN]) } else { 0 };
            hash = step(hash, self.base, c).wrapping_sub(leaving);
            count += 1;
            if count >= RUN {
                self.windows.entry((RUN, hash)).and_modify(|found| *found = true);
            }
        }
        if (WHOLE..RUN).contains(&count) {
            self.windows.entry((count, hash)).and_modify(|found| *found = true);
        }
    }

    /// The words without the found parts, and whether there are more words.
    fn shown(self) -> (Zeroizing<String>, bool) {
        let mut removed = vec![false; self.source.len()];
        let mut until = 0;
        for at in 0..self.folded.len() {
            let longest =
                (WHOLE..=RUN).rev().find(|length| at + length <= self.folded.len() && self.windows[&(*length, self.window(at, *length))]);
            if let Some(length) = longest {
                let (first, last) = (self.folded[at].0, self.folded[at + length - 1].0);
                // The characters between are white space or invisible.
                removed[first.max(until)..=last].fill(true);
                until = last + 1;
            }
        }
        let end = self.end();
        extend(&self.source, &mut removed);
        let mut shown = Zeroizing::new(String::with_capacity(self.source.len() * 4));
        for (at, c) in self.source[..end].iter().enumerate() {
            match (removed[at], at > 0 && removed[at - 1]) {
                (true, false) => shown.push_str(REMOVED),
                (true, true) => {}
                (false, _) => shown.push(*c),
            }
        }
        (shown, end < self.source.len())
    }

    /// Where to stop: near the end of the part that was looked at, a value may begin whose rest was not looked at.
    fn end(&self) -> usize {
        if self.source.len() <= LOOKED_AT {
            return self.source.len();
        }
        let kept = self.folded.len().saturating_sub(RUN - 1);
        self.folded.get(kept).map_or(0, |(at, _)| *at)
    }
}

/// The rest of a word shows something about its removed part.
fn extend(source: &[char], removed: &mut [bool]) {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_');
    for at in 1..source.len() {
        removed[at] |= removed[at - 1] && is_part(source[at]) && is_part(source[at - 1]);
    }
    for at in (1..source.len()).rev() {
        removed[at - 1] |= removed[at] && is_part(source[at]) && is_part(source[at - 1]);
    }
}

/// The characters that count, in small letters.
fn fold(c: char) -> impl Iterator<Item = char> {
    let counts = !(c.is_whitespace() || c.is_control() || is_invisible(c));
    c.to_lowercase().filter(move |_| counts)
}

fn step(hash: u64, base: u64, c: char) -> u64 {
    hash.wrapping_mul(base).wrapping_add(value(c))
}

/// Never 0, and with bits in all places: similar letters have very different hashes.
fn value(c: char) -> u64 {
    (u64::from(c) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::time::{Duration, Instant};

    use super::*;

    const TOKEN: &str = "hvs.CAESIJlU02LQZq-Gr5YnXrGhkVvT7Yc3bSUZ";

    fn told(values: &[&str], words: &str) -> String {
        let mut hidden = Hidden::default();
        for value in values {
            hidden.value(value.as_bytes());
        }
        hidden.clean(words, 400)
    }

    #[test]
    fn a_credential_is_not_told_however_it_is_written() {
        let shorter = TOKEN.replace("GhkV", "ghk");
        for quoted in [
            TOKEN.to_owned(),
            TOKEN.to_uppercase(),
            TOKEN.replace("Gr5Y", "Gr5\nY"),
            TOKEN.replace("Gr5Y", "G r 5 \r\n Y"),
            TOKEN.replace("Gr5Y", "Gr5\u{200b}Y\u{202e}"),
            TOKEN.replace("Gr5Y", "Gr5\u{2028}Y"),
            TOKEN[1..].to_owned(),
            TOKEN[..TOKEN.len() - 1].to_owned(),
            shorter.clone(),
            format!("{}...", &TOKEN[..12]),
            TOKEN.chars().map(|c| format!(" {c}")).collect::<String>().trim().to_owned(),
        ] {
            let told = told(&[TOKEN], &format!("token {quoted} is not known"));
            assert!(
                told == "token [redacted] is not known"
                    || told == "token [redacted]... is not known"
                    || told == "token [redacted].[redacted] is not known",
                "{quoted:?}: {told}"
            );
        }
        let mut hidden = Hidden::default();
        hidden.credential(TOKEN.as_bytes());
        for quoted in [data_encoding::BASE64.encode(format!("user:{TOKEN}").as_bytes()), HEXLOWER.encode(TOKEN.as_bytes())] {
            let told = hidden.clean(&format!("bad header {quoted}"), 400);
            assert!(told.starts_with("bad header ") && told.len() < 40, "{told}");
        }
    }

    #[test]
    fn a_value_is_not_told_whole_from_five_characters_on() {
        assert_eq!(told(&["hunt3"], "pq: password \"hunt3\" is wrong"), "pq: password \"[redacted]\" is wrong");
        assert_eq!(told(&["Correct Horse"], "password correcthorse is wrong"), "password [redacted] is wrong");
        assert_eq!(told(&["hunt"], "hunt has no secret"), "hunt has no secret");
        assert_eq!(told(&["hunter2"], "HUNTER2 or hunter2 or hunter3"), "[redacted] or [redacted] or hunter3");
        assert_eq!(told(&["пароль"], "bad ПАРОЛЬ here"), "bad [redacted] here");
        assert_eq!(told(&["12345"], "pin 12345; pin 1 2 3 4 5"), "pin [redacted]; pin [redacted]");
        assert_eq!(told(&["hunter2"], "xhunter2y"), "[redacted]", "the rest of the word goes with it");
        assert_eq!(told(&["aaaaa"], &"a".repeat(300)), "[redacted]");
        assert_eq!(told(&["", "   ", "\n"], "as it was"), "as it was");
    }

    #[test]
    fn runs_of_long_values_are_removed_and_chance_is_not() {
        let pem = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n-----END KEY-----\n";
        assert_eq!(told(&[pem], "cannot parse 9w0BAQEFAASC BKcwggSjAgEAAoI: bad"), "cannot parse [redacted]: bad");
        assert_eq!(told(&["permission denied for all"], "permission is needed"), "permission is needed");
        assert_eq!(told(&[pem], "no PEM data is found"), "no PEM data is found");
    }

    /// A character has at least as many bytes as the letters that it becomes: a text that is too short in bytes is too short in letters.
    #[test]
    fn what_is_too_short_is_not_kept() {
        assert!(('\0'..=char::MAX).all(|c| c.to_lowercase().count() <= c.len_utf8()));
        let mut hidden = Hidden::default();
        for value in ["", "abcd", "\u{130}\u{130}"] {
            hidden.value(value.as_bytes());
        }
        assert_eq!(format!("{hidden:?}"), "Hidden(0)");
        hidden.value(b"abcde");
        assert_eq!(format!("{hidden:?}"), "Hidden(1)");
    }

    #[test]
    fn it_is_one_line_of_seen_characters() {
        assert_eq!(told(&[], "1 error occurred:\n\t* permission denied\n\n"), "permission denied");
        assert_eq!(told(&[], "a\r\nb\u{2028}c\u{85}d\u{1b}[31m"), "a; b; c; d [31m");
        assert_eq!(told(&[], "safe\u{202e}txt.exe\u{2066}\u{200b}\u{feff}"), "safetxt.exe");
        assert_eq!(told(&[], &"x".repeat(500)), format!("{}...", "x".repeat(400)));
        assert_eq!(Hidden::default().clean("ünïcode", 3), "ünï...");
    }

    #[test]
    fn a_value_that_begins_where_the_look_ends_is_not_told_either() {
        for value in ["hunter2", TOKEN] {
            for before in 0..30 {
                // All of it is removed except the end, which is within the shown part.
                let words = format!("{}{} {value}", "a".repeat(LOOKED_AT - 30), "b".repeat(before));
                let told = told(&["aaaaaaaaaaaa", value], &words);
                let seen = (5..=value.len()).any(|length| told.contains(&value[..length]));
                assert!(!seen, "{before}: {told}");
            }
        }
    }

    #[test]
    fn it_takes_time_in_proportion() {
        // Values that share almost everything with the words, and the words with themselves.
        let time = |length: usize| {
            let value = format!("{}b", "a".repeat(length));
            let words = format!("{}c", "a".repeat(length));
            let mut hidden = Hidden::default();
            for _ in 0..4 {
                hidden.value(value.as_bytes());
            }
            let tries = (0..7).map(|_| {
                let began = Instant::now();
                assert!(hidden.clean(&words, 400).len() < 30);
                began.elapsed()
            });
            tries.min().unwrap_or(Duration::MAX)
        };
        // Each doubling may take twice the time, and another half for a busy machine; quadratic work would take four times the time.
        let times: Vec<Duration> = (13..17).map(|power| time(1 << power)).collect();
        assert!(times[3] < times[0] * 27, "{times:?}");
    }

    /// The definition, without care for speed.
    fn is_clean(value: &str, told: &str) -> bool {
        let fold = |text: &str| text.chars().flat_map(fold).collect::<Vec<char>>();
        let (value, told) = (fold(value), fold(&told.replace(REMOVED, "\u{1f600}")));
        let shares = |length: usize| value.windows(length).any(|window| told.windows(length).any(|other| other == window));
        match value.len() {
            length if length < WHOLE => true,
            length if length < RUN => !shares(length),
            _ => !shares(RUN),
        }
    }

    proptest! {
        #[test]
        fn nothing_hidden_is_told(value in "[abAB \u{e9}-]{0,20}", words in "[abAB \n\u{e9}-]{0,80}") {
            let told = told(&[&value], &words);
            prop_assert!(is_clean(&value, &told), "{:?} in {:?}", value, told);
        }

        #[test]
        fn what_is_not_hidden_is_told(value in "[a-f]{0,30}", words in "[g-z]{0,30}( [g-z]{1,10}){0,5}") {
            prop_assert_eq!(told(&[&value], &words), words.trim());
        }

        #[test]
        fn any_text_is_taken(value in ".{0,40}", words in ".{0,200}") {
            let told = told(&[&value], &words);
            prop_assert!(!told.chars().any(|c| c.is_control() || is_invisible(c)));
        }
    }
}
