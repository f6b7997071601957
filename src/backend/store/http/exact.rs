//! JSON as the values that expressions search, and back, without rounding a number.
//!
//! JMESPath knows numbers of 64 bits alone. One that those cannot hold to the digit travels through an expression as a text behind a mark,
//! and comes out as the number it was. The mark is a character that the document has not.

use std::collections::BTreeMap;

use jmespath::{Rcvar, Variable};
use serde_json::value::RawValue;
use serde_json::{Number, Value};
use zeroize::Zeroizing;

/// The deepest nesting: reading, searching and writing each recurse that deep.
const MAX_DEPTH: usize = 64;

/// Why a document cannot be searched.
#[derive(Debug)]
pub(super) enum Unsearchable {
    /// A text or a name has half a character in it.
    Half,
    /// It is nested too deep.
    TooDeep,
}

/// Marks the numbers of one document.
#[derive(Clone, Copy)]
pub(super) struct Mark(char);

impl Mark {
    /// Of the last plane, which is for private use: nearly always its last character.
    pub(super) fn of(document: &str) -> Self {
        let absent = |mark: &char| {
            let mut units = [0; 2];
            mark.encode_utf16(&mut units);
            let escaped = format!("\\u{:x}\\u{:x}", units[0], units[1]);
            !document.contains(*mark) && !contains_ignoring_case(document, &escaped)
        };
        Self(('\u{10_0000}'..='\u{10_FFFD}').rev().find(absent).unwrap_or('\u{10_FFFD}'))
    }

    pub(super) fn read(self, document: &RawValue) -> Result<Rcvar, Unsearchable> {
        self.value(document, MAX_DEPTH).map(Rcvar::new)
    }

    fn value(self, raw: &RawValue, depth: usize) -> Result<Variable, Unsearchable> {
        let (text, inner) = (raw.get(), depth.checked_sub(1).ok_or(Unsearchable::TooDeep)?);
        // Each part is JSON already. What can still fail is a text with half a character in it: were it left out, an expression would find
        // something else than what the store has.
        let half = |_| Unsearchable::Half;
        Ok(match text.as_bytes().first() {
            Some(b'{') => {
                let members: BTreeMap<String, &RawValue> = serde_json::from_str(text).map_err(half)?;
                let members = members.into_iter().map(|(name, raw)| Ok((name, Rcvar::new(self.value(raw, inner)?))));
                Variable::Object(members.collect::<Result<_, _>>()?)
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(text).map_err(half)?;
                Variable::Array(items.into_iter().map(|raw| self.value(raw, inner).map(Rcvar::new)).collect::<Result<_, _>>()?)
            }
            Some(b'"') => serde_json::from_str(text).map(Variable::String).map_err(half)?,
            Some(b't') => Variable::Bool(true),
            Some(b'f') => Variable::Bool(false),
            Some(b'-' | b'0'..=b'9') => match serde_json::from_str::<Number>(text) {
                Ok(number) if number.to_string() == text => Variable::Number(number),
                Ok(_) | Err(_) => Variable::String(format!("{}{text}", self.0)),
            },
            _ => Variable::Null,
        })
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

    /// A marked number alone is that number; within a text that an expression made, it is part of the text.
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

fn contains_ignoring_case(text: &str, part: &str) -> bool {
    text.as_bytes().windows(part.len()).any(|window| window.eq_ignore_ascii_case(part.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(document: &str, expression: &str) -> String {
        let mark = Mark::of(document);
        let read = mark.read(serde_json::from_str(document).unwrap()).unwrap();
        let found = jmespath::compile(expression).unwrap().search(read).unwrap();
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
        assert!(Mark::of(&deep).read(serde_json::from_str(&deep).unwrap()).is_err());
        let deeper = "[".repeat(10_000) + &"]".repeat(10_000);
        if let Ok(raw) = serde_json::from_str::<&RawValue>(&deeper) {
            assert!(Mark::of(&deeper).read(raw).is_err());
        }
    }
}
