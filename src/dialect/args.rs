//! A request's arguments: YAML as a class writes it, as the JSON that a store reads.
//!
//! A plain `true`, a number and a null are what YAML 1.2's core schema says they are; everything else is a text. What one YAML reads so
//! and another otherwise is refused: nobody would look for the cause of a wrong argument there. No message shows a value, since
//! arguments may be secret.

use serde_json::{Map, Number, Value as Json};

use crate::model::{Args, clean};
use crate::yaml::{Faults, Node, Reader, Value};

/// How many characters of a place are written: more than a message shows.
const SHOWN: usize = 128;

/// Where a value stands, from the inside out. It is written for a fault alone: a key can be as long as the class, and have a hundred thousand
/// values in it.
#[derive(Clone, Copy)]
struct Place<'p> {
    outer: Option<&'p Place<'p>>,
    step: Step<'p>,
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Item(usize),
    Key(&'p str),
}

/// The arguments under a key.
pub(super) fn read(key: &'static str, reader: &mut Reader<'_>, faults: &mut Faults) -> Option<Args> {
    let mut args = Args::default();
    let Some(inner) = reader.reader(key, faults) else {
        // Something is there, and is no mapping.
        return reader.get(key).is_none().then_some(args);
    };
    let before = faults.len();
    let place = Place { outer: None, step: Step::Key(key) };
    for (name, node) in inner.entries() {
        if let Some(value) = json(&place.within(Step::Key(&name.text)), node, faults) {
            args.insert(&name.text, &value);
        }
    }
    (faults.len() == before).then_some(args)
}

fn json(place: &Place<'_>, node: &Node, faults: &mut Faults) -> Option<Json> {
    match &node.value {
        Value::Null => Some(Json::Null),
        Value::Scalar { text, quoted: true } => Some(Json::from(text.as_str())),
        Value::Scalar { text, quoted: false } => {
            let fault =
                |problem| faults.add_with(node.at, || (clean(&place.shown()), format!("{problem} (put it in quotes for the text)")));
            plain(text).map_err(fault).ok()
        }
        Value::Sequence(items) => {
            // Every item is read, so that every fault is told.
            let items: Vec<_> = (0..).zip(items).map(|(at, item)| json(&place.within(Step::Item(at)), item, faults)).collect();
            items.into_iter().collect::<Option<Vec<_>>>().map(Json::from)
        }
        Value::Mapping(entries) => {
            let members =
                entries.iter().map(|(key, node)| Some((key.text.clone(), json(&place.within(Step::Key(&key.text)), node, faults)?)));
            let members: Vec<_> = members.collect();
            members.into_iter().collect::<Option<Map<_, _>>>().map(Json::Object)
        }
    }
}

// === impl Place ===

impl<'p> Place<'p> {
    fn within(&'p self, step: Step<'p>) -> Self {
        Self { outer: Some(self), step }
    }

    /// Such as `args.list[2].deep`, as far as anybody reads it.
    fn shown(&self) -> String {
        let mut shown = self.outer.map_or_else(String::new, Self::shown);
        let room = SHOWN.saturating_sub(shown.chars().count());
        match self.step {
            Step::Key(key) => {
                let separator = if shown.is_empty() { "" } else { "." };
                shown.extend(separator.chars().chain(key.chars()).take(room));
            }
            Step::Item(at) => shown.extend(format!("[{at}]").chars().take(room)),
        }
        shown
    }
}

/// A text without quotes.
fn plain(text: &str) -> Result<Json, &'static str> {
    match text {
        "true" | "True" | "TRUE" => return Ok(Json::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Json::Bool(false)),
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|first: char| first.is_ascii_digit()) {
        return Ok(Json::from(text));
    }
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return whole_number(text, digits).map(Json::Number);
    }
    let prefixed = |prefix: &str, radix| digits.strip_prefix(prefix).is_some_and(|rest| u64::from_str_radix(rest, radix).is_ok());
    if prefixed("0x", 16) || prefixed("0o", 8) || prefixed("0b", 2) {
        return Err("is a number that JSON cannot write so: write it in decimal");
    }
    let is_decimal = digits.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'));
    match text.parse::<f64>().ok().filter(|_| is_decimal).map(Number::from_f64) {
        // A version such as 1.2.3, a duration, a date, an address: texts.
        None => Ok(Json::from(text)),
        Some(None) => Err("is too large a number for JSON"),
        Some(Some(number)) => Ok(Json::Number(number)),
    }
}

fn whole_number(text: &str, digits: &str) -> Result<Number, &'static str> {
    if digits.len() > 1 && digits.starts_with('0') {
        return Err("starts with a 0: to one YAML that is an octal number, to another a decimal one");
    }
    let (signed, unsigned) = (text.parse::<i64>(), text.parse::<u64>());
    signed.map(Number::from).or_else(|_| unsigned.map(Number::from)).map_err(|_| "is a number of more than 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    fn read_from(text: &str) -> (Option<String>, String) {
        let (document, mut faults) = (yaml::parse(text).unwrap(), Faults::default());
        let mut reader = Reader::of(&document, "", &mut faults).unwrap();
        let args = read("args", &mut reader, &mut faults).map(|args| args.to_json());
        let faults: Vec<String> =
            faults.into_sorted().iter().map(|fault| format!("{}:{} {fault}", fault.at.line, fault.at.column)).collect();
        (args, faults.join("\n"))
    }

    #[test]
    fn values_are_what_yaml_says_they_are() {
        let text = r#"args:
  common_name: web.shop
  ttl: 24h
  quoted: "24"
  single: 'true'
  yes: yes
  truth: true
  nothing: ~
  empty:
  number: 24
  negative: -3
  large: 18446744073709551615
  fraction: 1.5
  exponent: 1e3
  version: 1.2.3
  date: 2026-01-31
  address: 10.0.0.1
  block: |
    a
    b
  nested: { list: [a, 1, [true]], deeper: { n: null } }
"#;
        let (args, faults) = read_from(text);
        assert_eq!(faults, "");
        insta::assert_snapshot!(args.unwrap(), @r#"{"address":"10.0.0.1","block":"a\nb\n","common_name":"web.shop","date":"2026-01-31","empty":null,"exponent":1000.0,"fraction":1.5,"large":18446744073709551615,"negative":-3,"nested":{"list":["a",1,[true]],"deeper":{"n":null}},"nothing":null,"number":24,"quoted":"24","single":"true","truth":true,"ttl":"24h","version":"1.2.3","yes":"yes"}"#);
    }

    #[test]
    fn nothing_is_no_arguments() {
        for text in ["other: 1", "args:", "args: {}", "args: ~"] {
            assert_eq!(read_from(text), (Some("{}".to_owned()), String::new()), "{text}");
        }
    }

    #[test]
    fn what_could_be_meant_otherwise_is_refused_without_being_shown() {
        let text = r"args:
  pin: 0123
  list: [1, 0777, { deep: 0x1f }]
  large: 99999999999999999999
  huge: 1e999
";
        let (args, faults) = read_from(text);
        assert_eq!(args, None);
        insta::assert_snapshot!(faults, @"
        2:8 args.pin: starts with a 0: to one YAML that is an octal number, to another a decimal one (put it in quotes for the text)
        3:13 args.list[1]: starts with a 0: to one YAML that is an octal number, to another a decimal one (put it in quotes for the text)
        3:27 args.list[2].deep: is a number that JSON cannot write so: write it in decimal (put it in quotes for the text)
        4:10 args.large: is a number of more than 64 bits (put it in quotes for the text)
        5:9 args.huge: is too large a number for JSON (put it in quotes for the text)
        ");
        assert!(!faults.contains("123") && !faults.contains("777"));
        let long = format!("args: {{ {}: [[1, 0777]], \"a\\n\": [[{{ {}: 0777 }}]] }}", "k".repeat(500), "x".repeat(200));
        insta::assert_snapshot!(read_from(&long).1, @r"
        1:516 args.kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk...: starts with a 0: to one YAML that is an octal number, to another a decimal one (put it in quotes for the text)
        1:737 args.a\n[0][0].xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...: starts with a 0: to one YAML that is an octal number, to another a decimal one (put it in quotes for the text)
        ");
        insta::assert_snapshot!(read_from("args: common_name=web").1, @"1:7 args: is a text, but must be a mapping (write a line `key: value` for each key)");
        insta::assert_snapshot!(read_from("args: [a]").1, @"1:7 args: is a list, but must be a mapping (write a line `key: value` for each key)");
    }

    /// The name of a place is written for a fault alone. With one for each item, a key of 500 KB and 99,000 items took 9.7 s.
    #[test]
    fn a_long_key_costs_its_items_nothing() {
        let documents = [1, 100_000].map(|length| yaml::parse(&format!("args: {{? {} : [{}]}}", "k".repeat(length), "x, ".repeat(20_000))));
        let [short, long] = documents.map(Result::unwrap);
        let time = |document| {
            let mut faults = Faults::default();
            let mut reader = Reader::of(document, "", &mut faults).unwrap();
            let start = tokio::time::Instant::now();
            assert!(read("args", &mut reader, &mut faults).is_some());
            start.elapsed()
        };
        let tries: Vec<_> = (0..3).map(|_| (time(&short), time(&long))).collect();
        let [short, long] = [tries.iter().map(|(short, _)| short).min(), tries.iter().map(|(_, long)| long).min()];
        assert!(long.unwrap() < &(5 * *short.unwrap()), "{short:?}, {long:?}");
    }
}
