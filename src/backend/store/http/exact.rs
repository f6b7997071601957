//! Turns JSON into the values that expressions search, and back, without rounding a number.
//!
//! JMESPath has only numbers of 64 bits. A number that does not fit exactly goes through an expression as a text with a mark before it, and
//! comes out as the same number. The mark is a character that the document does not have.

use std::collections::BTreeMap;

use jmespath::{Rcvar, Variable};
use serde_json::value::RawValue;
use serde_json::{Number, Value};
use zeroize::Zeroizing;

use crate::backend::remote::fields::unit;
use crate::steps::{Spent, Steps};

/// The deepest nesting: reading, searching and writing recurse to this depth.
const MAX_DEPTH: usize = 64;

/// The most values of a document. Each takes about 100 bytes of memory, even if its text is short.
pub(super) const MAX_VALUES: usize = 100_000;

/// How many steps it takes to read a byte, and a value.
const BYTE: u64 = 2;
const VALUE: u64 = 32;

/// The possible marks: the last plane of Unicode, which is for private use.
const FIRST: char = '\u{10_0000}';
const LAST: char = '\u{10_FFFD}';

/// Why a document cannot be searched.
#[derive(Debug)]
pub(super) enum Unsearchable {
    /// A text or a name has half a character in it.
    Half,
    Spent(Spent),
    /// It is nested too deep.
    TooDeep,
    /// It has more than [`MAX_VALUES`].
    TooMany,
}

/// Marks the numbers of one document.
#[derive(Clone, Copy)]
pub(super) struct Mark(char);

/// A document as a value, and how many values there are in it.
pub(super) struct Read {
    pub(super) value: Rcvar,
    pub(super) values: usize,
}

/// A document being read.
struct Reader<'d> {
    mark: Mark,
    /// The rest of it: JSON that has been checked.
    rest: &'d str,
    values: usize,
    steps: &'d Steps,
}

// === impl Mark ===

impl Mark {
    /// A mark that the document does not have, also not as an escape: almost always the last of them.
    pub(super) fn of(document: &str) -> Self {
        let mut is_there = vec![false; (u32::from(LAST) - u32::from(FIRST)) as usize + 1];
        let mut note = |c: u32| {
            if let Some(there) = c.checked_sub(u32::from(FIRST)).and_then(|at| is_there.get_mut(at as usize)) {
                *there = true;
            }
        };
        document.chars().map(u32::from).for_each(&mut note);
        // This also takes an escaped backslash for an escape: one possible mark less does no harm.
        let mut rest = document.as_bytes();
        while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
            let escape = &rest[at..];
            if let (Some(high @ 0xD800..=0xDBFF), Some(low @ 0xDC00..=0xDFFF)) = (unit(escape), escape.get(6..).and_then(unit)) {
                note(0x1_0000 + ((u32::from(high) - 0xD800) << 10) + (u32::from(low) - 0xDC00));
            }
            rest = &escape[1..];
        }
        let absent = (FIRST..=LAST).rev().zip(is_there.into_iter().rev()).find(|(_, is_there)| !is_there);
        Self(absent.map_or(LAST, |(mark, _)| mark))
    }

    pub(super) fn read(self, document: &RawValue, steps: &Steps) -> Result<Read, Unsearchable> {
        steps.charge(BYTE * document.get().len() as u64)?;
        let mut reader = Reader { mark: self, rest: document.get(), values: 0, steps };
        let value = Rcvar::new(reader.value(MAX_DEPTH)?);
        Ok(Read { value, values: reader.values })
    }

    /// What an expression found, as JSON.
    pub(super) fn write(self, found: &Variable) -> Zeroizing<String> {
        let mut json = Zeroizing::new(String::new());
        self.append(&mut json, found);
        json
    }

    fn append(self, json: &mut String, found: &Variable) {
        match found {
            Variable::Null | Variable::Expref(_) => json.push_str("null"),
            Variable::Bool(bool) => json.push_str(if *bool { "true" } else { "false" }),
            Variable::Number(number) => json.push_str(&number.to_string()),
            Variable::String(text) => self.append_text(json, text),
            Variable::Array(items) => {
                json.push('[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        json.push(',');
                    }
                    self.append(json, item);
                }
                json.push(']');
            }
            Variable::Object(members) => {
                json.push('{');
                for (at, (name, member)) in members.iter().enumerate() {
                    if at > 0 {
                        json.push(',');
                    }
                    json.push_str(&Value::from(name.as_str()).to_string());
                    json.push(':');
                    self.append(json, member);
                }
                json.push('}');
            }
        }
    }

    /// A text that is only a marked number is that number. Inside a longer text that an expression made, it is part of the text.
    fn append_text(self, json: &mut String, text: &str) {
        match text.strip_prefix(self.0) {
            Some(number) if !number.contains(self.0) && is_number(number) => json.push_str(number),
            _ => json.push_str(&Value::from(text.replace(self.0, "")).to_string()),
        }
    }
}

fn is_number(text: &str) -> bool {
    let begins = text.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    begins && text.ends_with(|last: char| last.is_ascii_digit()) && serde_json::from_str::<&RawValue>(text).is_ok()
}

impl From<Spent> for Unsearchable {
    fn from(spent: Spent) -> Self {
        Self::Spent(spent)
    }
}

// === impl Reader ===

impl Reader<'_> {
    /// Each byte is read once: no code searches for the end of a value before it reads the value.
    fn value(&mut self, depth: usize) -> Result<Variable, Unsearchable> {
        let inner = depth.checked_sub(1).ok_or(Unsearchable::TooDeep)?;
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(Unsearchable::TooMany);
        }
        self.steps.charge(VALUE)?;
        Ok(match self.peek() {
            Some(b'{') => {
                self.skip(1);
                let mut members = BTreeMap::new();
                while self.goes_on(b'}') {
                    let name = self.text()?;
                    self.peek();
                    self.skip(1);
                    members.insert(name, Rcvar::new(self.value(inner)?));
                }
                Variable::Object(members)
            }
            Some(b'[') => {
                self.skip(1);
                let mut items = Vec::new();
                while self.goes_on(b']') {
                    items.push(Rcvar::new(self.value(inner)?));
                }
                Variable::Array(items)
            }
            Some(b'"') => Variable::String(self.text()?),
            Some(b'-' | b'0'..=b'9') => self.number(),
            word => {
                self.skip(if word == Some(b'f') { 5 } else { 4 });
                word.filter(|word| *word != b'n').map_or(Variable::Null, |word| Variable::Bool(word == b't'))
            }
        })
    }

    /// The next byte that is not a blank.
    fn peek(&mut self) -> Option<u8> {
        self.rest = self.rest.trim_ascii_start();
        self.rest.bytes().next()
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    /// Whether an item or a member follows. This reads its comma, or the character that closes the list.
    fn goes_on(&mut self, close: u8) -> bool {
        let next = self.peek();
        if next == Some(close) || next == Some(b',') {
            self.skip(1);
        }
        next.is_some_and(|next| next != close)
    }

    /// A text or a name. It can still have half a character in it. Without that half, an expression would find something else than the
    /// store has.
    fn text(&mut self) -> Result<String, Unsearchable> {
        self.peek();
        let (bytes, mut end) = (self.rest.as_bytes(), 1);
        while let Some(byte) = bytes.get(end).filter(|byte| **byte != b'"') {
            end += if *byte == b'\\' { 2 } else { 1 };
        }
        let (text, rest) = self.rest.split_at_checked(end + 1).ok_or(Unsearchable::Half)?;
        self.rest = rest;
        serde_json::from_str(text).map_err(|_| Unsearchable::Half)
    }

    fn number(&mut self) -> Variable {
        let is_part = |byte: u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
        let end = self.rest.bytes().position(|byte| !is_part(byte)).unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        match serde_json::from_str::<Number>(text) {
            Ok(number) if number.to_string() == text => Variable::Number(number),
            Ok(_) | Err(_) => Variable::String(format!("{}{text}", self.mark.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A kind of text, and a function that makes one of this size.
    type Kind = (&'static str, fn(usize) -> String);

    fn through(document: &str, expression: &str) -> String {
        let mark = Mark::of(document);
        let read = mark.read(serde_json::from_str(document).unwrap(), &Steps::unbounded()).unwrap();
        let found = jmespath::compile(expression).unwrap().search(read.value).unwrap();
        mark.write(&found).to_string()
    }

    #[test]
    fn numbers_stay_what_they_are() {
        let numbers = "[1,-7,0.1,1.10,1e3,12345678901234567890123,0.1234567890123456789,1e400,-0,18446744073709551616]";
        assert_eq!(through(numbers, "@"), numbers);
        assert_eq!(through(r#"{"a":{"n":1.10,"b":[2.50]}}"#, "a.{x: n, y: b[0]}"), r#"{"x":1.10,"y":2.50}"#);
        assert_eq!(through(r#"{"n":5,"m":1.10}"#, "[n > `4`, to_string(m), join('-', ['v', to_string(m)])]"), r#"[true,1.10,"v-1.10"]"#);
    }

    #[test]
    fn texts_stay_what_they_are() {
        for text in ["{\"a\":\"\u{10FFFD}1\"}", r#"{"a":"\uDBFF\udffd2"}"#, r#"{"a":"\"\\\n\u0000ü"}"#] {
            let same: Value = serde_json::from_str(&through(text, "@")).unwrap();
            assert_eq!(same, serde_json::from_str::<Value>(text).unwrap());
        }
    }

    #[test]
    fn deep_documents_are_refused() {
        let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
        assert!(Mark::of(&deep).read(serde_json::from_str(&deep).unwrap(), &Steps::unbounded()).is_err());
        let deeper = "[".repeat(10_000) + &"]".repeat(10_000);
        if let Ok(raw) = serde_json::from_str::<&RawValue>(&deeper) {
            assert!(Mark::of(&deeper).read(raw, &Steps::unbounded()).is_err());
        }
    }

    fn steps_of(document: &str) -> u64 {
        let steps = Steps::unbounded();
        let _ = Mark::of(document).read(serde_json::from_str(document).unwrap(), &steps);
        steps.spent()
    }

    #[test]
    fn twice_the_answer_takes_twice_the_steps() {
        let kinds: [Kind; 4] = [
            ("items", |n| format!("[{}0]", "0,".repeat(n))),
            ("members", |n| format!("{{{}\"z\":0}}", (0..n).map(|n| format!("\"a{n:05}\":\"\",")).collect::<String>())),
            ("lists in lists", |n| format!("{}{}0{}", "[".repeat(60), "[0,0],".repeat(n), "]".repeat(60))),
            ("a text of escapes", |n| format!("\"{}\"", r"\u00e9".repeat(n))),
        ];
        for (kind, document) in kinds {
            let [once, twice] = [2_000, 4_000].map(|n| steps_of(&document(n)));
            assert!(once > 10_000 && twice * 10 <= once * 22, "{kind}: {once}, {twice}");
        }
    }

    /// Deep lists are read once, not once for each level.
    #[test]
    fn depth_costs_nothing() {
        let items = "0,".repeat(10_000) + "0";
        let nested = |depth: usize| format!("{}{items}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(steps_of(&nested(60)) < steps_of(&nested(1)) + 60 * 100);
    }

    /// All marks except one, some as escapes. One pass through the answer finds the free mark. A search for each mark took 17 s.
    #[test]
    fn an_answer_of_many_rare_characters_has_its_mark() {
        let escape = |c: char| c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!(r"\u{unit:04X}")).collect::<String>();
        let marks = (FIRST..=LAST).filter(|c| *c != '\u{10_1234}');
        let text: String = marks.map(|c| if u32::from(c) % 3 == 0 { escape(c) } else { c.to_string() }).collect();
        let document = format!(r#"{{"a":"{text}","n":1.10}}"#);
        let start = tokio::time::Instant::now();
        assert_eq!(Mark::of(&document).0, '\u{10_1234}');
        assert!(start.elapsed() < tokio::time::Duration::from_secs(5), "{:?}", start.elapsed());
        assert_eq!(through(&document, "n"), "1.10");
        let full: String = (FIRST..=LAST).collect();
        assert_eq!(Mark::of(&full).0, LAST);
    }

    #[test]
    fn an_answer_has_a_bound_of_values() {
        let items = |n: usize| format!("[{}0]", "0,".repeat(n - 1));
        let read =
            |document: &str| Mark::of(document).read(serde_json::from_str(document).unwrap(), &Steps::unbounded()).map(|read| read.values);
        assert_eq!(read(&items(MAX_VALUES - 1)).unwrap(), MAX_VALUES);
        assert!(matches!(read(&items(MAX_VALUES)), Err(Unsearchable::TooMany)));
        assert_eq!(read(r#" { "a" : [ 1 , "x\"]}" ] , "b" : { } , "c" : null } "#).unwrap(), 6);
        let document = items(1_000);
        let steps = Steps::new(1_000, tokio::time::Instant::now() + tokio::time::Duration::from_mins(1));
        let read = Mark::of(&document).read(serde_json::from_str(&document).unwrap(), &steps);
        assert!(matches!(read, Err(Unsearchable::Spent(Spent::Steps(1_000)))));
    }

    #[test]
    fn the_deepest_answer_fits_the_stack() {
        let deepest = || {
            let document = format!("{}{{\"a\":1}}{}", "[".repeat(62), "]".repeat(62));
            assert_eq!(through(&document, "[[[[[[[[@]]]]]]]] == [[[[[[[[@]]]]]]]]"), "true");
            assert_eq!(through(&document, "@"), document);
        };
        std::thread::Builder::new().stack_size(2 << 20).spawn(deepest).unwrap().join().unwrap();
    }

    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::vec((".{0,4}", inner), 0..6).prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_document_stays_what_it_is(document in documents(), is_pretty in any::<bool>()) {
            let text = if is_pretty { serde_json::to_string_pretty(&document).unwrap() } else { document.to_string() };
            // Exact to the digit: the text itself says which number it is.
            let [same, was] = [&through(&text, "@"), &text].map(|text| serde_json::from_str::<Value>(text).unwrap());
            prop_assert_eq!(same, was);
        }
    }
}
