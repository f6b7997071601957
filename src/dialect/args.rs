//! A request's arguments: YAML as a class writes it, as the JSON that a store reads.
//!
//! Keyferry makes the same JSON as the providers for Vault and OpenBao (yaml.v3, then Go's `encoding/json`), or reports a fault. Native
//! classes work in the same way. No message shows a value, since arguments may be secret.

use crate::model::{Args, clean};
use crate::yaml::{Faults, Key, Kind, Node, Reader, Value};

/// How many characters of a place are written: more than a message shows.
const SHOWN: usize = 128;

/// Where a value is, from the inside out. Its text is written only for a fault: a key can be as long as the class, and have a hundred
/// thousand values in it.
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
        // Something is there, and it is not a mapping.
        return reader.get(key).is_none().then_some(args);
    };
    let before = faults.len();
    let place = Place { outer: None, step: Step::Key(key) };
    for (name, node) in inner.entries() {
        if let Some(value) = json(&place.within(Step::Key(&name.text)), node, faults) {
            args.insert_json(&name.text, value);
        }
    }
    (faults.len() == before).then_some(args)
}

fn json(place: &Place<'_>, node: &Node, faults: &mut Faults) -> Option<String> {
    match &node.value {
        Value::Null => Some("null".to_owned()),
        Value::Scalar { text, kind } => {
            let fault =
                |problem| faults.add_with(node.at, || (clean(&place.shown()), format!("{problem} (put it in quotes for the text)")));
            kind.to_json(text).map_err(fault).ok()
        }
        Value::Sequence(items) => {
            // Every item is read, so that every fault is reported.
            let items: Vec<_> = (0..).zip(items).map(|(at, item)| json(&place.within(Step::Item(at)), item, faults)).collect();
            Some(format!("[{}]", items.into_iter().collect::<Option<Vec<_>>>()?.join(",")))
        }
        Value::Mapping(entries) => {
            // In the order of their names, as Go writes them.
            let mut members: Vec<(&str, Option<String>)> =
                entries.iter().map(|(key, node)| (&*key.text, member(place, key, node, faults))).collect();
            members.sort_by_key(|(name, _)| *name);
            Some(format!("{{{}}}", members.into_iter().map(|(_, member)| member).collect::<Option<Vec<_>>>()?.join(",")))
        }
    }
}

/// A member of a mapping within the arguments. The providers fail if its key is not a text.
fn member(place: &Place<'_>, key: &Key, node: &Node, faults: &mut Faults) -> Option<String> {
    let within = place.within(Step::Key(&key.text));
    if key.kind != Kind::Text {
        faults.add_with(key.at, || (clean(&within.shown()), "the key is not a text (put the key in quotes)".to_owned()));
        return None;
    }
    Some(format!("{}:{}", serde_json::Value::from(key.text.as_str()), json(&within, node, faults)?))
}

// === impl Place ===

impl<'p> Place<'p> {
    fn within(&'p self, step: Step<'p>) -> Self {
        Self { outer: Some(self), step }
    }

    /// Such as `args.list[2].deep`, cut where nobody reads further.
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
        insta::assert_snapshot!(args.unwrap(), @r#"{"address":"10.0.0.1","block":"a\nb\n","common_name":"web.shop","date":"2026-01-31T00:00:00Z","empty":null,"exponent":1000,"fraction":1.5,"large":18446744073709551615,"negative":-3,"nested":{"deeper":{"n":null},"list":["a",1,[true]]},"nothing":null,"number":24,"quoted":"24","single":"true","truth":true,"ttl":"24h","version":"1.2.3","yes":"yes"}"#);
    }

    #[test]
    fn nothing_is_no_arguments() {
        for text in ["other: 1", "args:", "args: {}", "args: ~"] {
            assert_eq!(read_from(text), (Some("{}".to_owned()), String::new()), "{text}");
        }
    }

    #[test]
    fn what_json_does_not_have_is_refused_without_being_shown() {
        let text = r"args:
  nan: .nan
  list: [1, .inf, { deep: -.inf }]
  time: 2026-01-31T10:00:00+24:00
  map: { 12345: a }
";
        let (args, faults) = read_from(text);
        assert_eq!(args, None);
        insta::assert_snapshot!(faults, @"
        2:8 args.nan: is a number that JSON does not have (put it in quotes for the text)
        3:13 args.list[1]: is a number that JSON does not have (put it in quotes for the text)
        3:27 args.list[2].deep: is a number that JSON does not have (put it in quotes for the text)
        4:9 args.time: is a time with an offset of a day or more, which JSON does not have (put it in quotes for the text)
        5:10 args.map.12345: the key is not a text (put the key in quotes)
        ");
        let long = format!("args: {{ {}: [[1, .inf]], \"a\\n\": [[{{ {}: .inf }}]] }}", "k".repeat(500), "x".repeat(200));
        insta::assert_snapshot!(read_from(&long).1, @r"
        1:516 args.kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk...: is a number that JSON does not have (put it in quotes for the text)
        1:737 args.a\n[0][0].xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...: is a number that JSON does not have (put it in quotes for the text)
        ");
        insta::assert_snapshot!(read_from("args: common_name=web").1, @"1:7 args: is a text, but must be a mapping (write a line `key: value` for each key)");
        insta::assert_snapshot!(read_from("args: [a]").1, @"1:7 args: is a list, but must be a mapping (write a line `key: value` for each key)");
    }

    /// The name of a place is written only for a fault. With one name per item, a key of 500 KB with 99,000 items took 9.7 s.
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
