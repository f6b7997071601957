//! What is written is read again, with any values. Python reads YAML and TOML in `tests/it/formats.rs`.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::Value as Json;

use super::*;

fn written(format: Format, values: &[(&str, Value<'_>)]) -> Result<String, String> {
    let refused = |(position, unfit): (usize, Unfit)| format!("{}: {unfit}", values[position].0);
    let mut counter = Out::counting();
    format.write(values, &mut counter).map_err(refused)?;
    let length = counter.len();
    let write = |most: usize, guess: usize| {
        let mut out = Out::within(most, guess);
        format.write(values, &mut out).map(|()| out.into_bytes()).map_err(refused)
    };
    let bytes = write(length, length)?.unwrap();
    assert_eq!(bytes.len(), length, "it is counted as it is written");
    assert_eq!(write(usize::MAX, 0)?.unwrap(), bytes, "whatever the room at first");
    if length > 0 {
        assert_eq!(write(length - 1, 0)?.unwrap_err(), length, "a byte too many, and nothing is kept");
    }
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

fn texts(format: Format, values: &BTreeMap<String, String>) -> Result<String, String> {
    let values: Vec<_> = values.iter().map(|(name, text)| (name.as_str(), Value::Text(text))).collect();
    written(format, &values)
}

fn of(format: Format, json: &str) -> Result<String, String> {
    written(format, &[("x", Value::Json(json))])
}

/// Texts that some reader of some format takes for another kind of value.
const HARD: [&str; 26] = [
    "",
    " ",
    " x ",
    "no",
    "1e3",
    "~",
    "null",
    "0x1f",
    "=",
    "a: b",
    "# c",
    "\"",
    "\\",
    "'",
    "\n",
    "\r\n",
    "\t",
    "\u{0}",
    "\u{7f}",
    "\u{85}",
    "\u{2028}",
    "\u{feff}x",
    "\u{ffff}",
    "\u{10ffff}",
    "ü€",
    "\u{1f600}",
];

fn some_text() -> impl Strategy<Value = String> {
    prop_oneof![proptest::sample::select(HARD.as_slice()).prop_map(str::to_owned), any::<String>(), "[ -~]{0,20}"]
}

fn some_values() -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map(some_text(), some_text(), 0..6)
}

fn some_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![some_text().prop_map(Json::from), any::<i64>().prop_map(Json::from), any::<bool>().prop_map(Json::from)];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            proptest::collection::btree_map(some_text(), inner, 0..4).prop_map(|members| Json::Object(members.into_iter().collect())),
        ]
    })
}

/// YAML as another parser reads it. Every text must still be a text.
fn yaml(text: &str) -> Json {
    use granit_parser::{Event, Parser, ScalarStyle};
    #[allow(clippy::wildcard_enum_match_arm)] // a foreign, non-exhaustive enum
    fn node<'t>(event: Event<'t>, rest: &mut impl Iterator<Item = Event<'t>>) -> Json {
        match event {
            Event::Scalar(text, ScalarStyle::DoubleQuoted, ..) => Json::from(text.into_owned()),
            Event::Scalar(text, ..) => serde_json::from_str(&text).unwrap(),
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match rest.next().unwrap() {
                        Event::SequenceEnd => return Json::from(items),
                        item => items.push(node(item, rest)),
                    }
                }
            }
            Event::MappingStart(..) => {
                let mut members = serde_json::Map::new();
                loop {
                    match rest.next().unwrap() {
                        Event::MappingEnd => return Json::Object(members),
                        Event::Scalar(name, ScalarStyle::DoubleQuoted, ..) => {
                            let value = rest.next().unwrap();
                            members.insert(name.into_owned(), node(value, rest));
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
            other => panic!("{other:?}"),
        }
    }
    let mut events = Parser::new_from_str(text).map(|event| event.unwrap().0);
    let first = events.find(|event| !matches!(event, Event::StreamStart | Event::DocumentStart(..))).unwrap();
    node(first, &mut events)
}

/// Java's rules, from its documentation (`Properties.load`), in other code than the writer's.
fn properties(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for line in text.split('\n').filter(|line| !line.is_empty()) {
        let units: Vec<u16> = line.encode_utf16().collect();
        let (mut name, mut value, mut in_value, mut skips) = (Vec::new(), Vec::new(), false, false);
        let mut at = 0;
        while at < units.len() {
            let unit = char::from_u32(u32::from(units[at])).unwrap();
            let target = if in_value { &mut value } else { &mut name };
            match unit {
                '\\' => {
                    let next = char::from_u32(u32::from(units[at + 1])).unwrap();
                    let digits = || String::from_utf16(&units[at + 2..at + 6]).unwrap();
                    target.push(match next {
                        'u' => u16::from_str_radix(&digits(), 16).unwrap(),
                        't' => 9,
                        'n' => 10,
                        'f' => 12,
                        'r' => 13,
                        other => other as u16,
                    });
                    at += if next == 'u' { 6 } else { 2 };
                    skips = false;
                    continue;
                }
                '=' | ':' | ' ' if !in_value => (in_value, skips) = (true, true),
                ' ' | '\t' | '\u{c}' if skips => {}
                other => {
                    assert!(other.is_ascii(), "readers of ISO-8859-1 and of UTF-8 agree on ASCII alone");
                    target.push(other as u16);
                    skips = false;
                }
            }
            at += 1;
        }
        found.insert(String::from_utf16(&name).unwrap(), String::from_utf16(&value).unwrap());
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn json_is_read_back(values in some_values()) {
        let read: BTreeMap<String, String> = serde_json::from_str(&texts(Format::Json, &values).unwrap()).unwrap();
        prop_assert_eq!(read, values);
    }

    #[test]
    fn yaml_is_read_back(values in some_values()) {
        let expected = Json::Object(values.iter().map(|(name, text)| (name.clone(), Json::from(text.as_str()))).collect());
        prop_assert_eq!(yaml(&texts(Format::Yaml, &values).unwrap()), expected);
    }

    #[test]
    fn properties_are_read_back(values in some_values()) {
        prop_assert_eq!(properties(&texts(Format::Properties(Names::AsStored), &values).unwrap()), values);
    }

    /// The reader finds each value that is not refused ([`crate::dotenv::read`] reads as node's dotenv does).
    #[test]
    fn dotenv_is_read_back(values in proptest::collection::btree_map("[A-Z][A-Z0-9_]{0,6}", some_text(), 0..4)) {
        if let Ok(text) = texts(Format::Dotenv(Names::AsStored), &values) {
            let read: BTreeMap<String, String> = crate::dotenv::read(&text).unwrap().into_iter().map(|entry| (entry.name.to_string(), entry.value.to_string())).collect();
            prop_assert_eq!(read, values);
        }
    }

    #[test]
    fn what_is_nested_is_read_back(value in some_json()) {
        let json = value.to_string();
        let read: Json = serde_json::from_str(&of(Format::Json, &json).unwrap()).unwrap();
        prop_assert_eq!(&read["x"], &value);
        prop_assert_eq!(&yaml(&of(Format::Yaml, &json).unwrap())["x"], &value);
    }

    /// Any text is read or refused, and nothing else is taken for JSON.
    #[test]
    fn no_text_is_too_much(json in r#"[\[\]{},:"a\\ud8 0-9.eE+tn-]{0,40}"#) {
        let is_json = serde_json::from_str::<Json>(&json).is_ok();
        prop_assert!(!is_json || check_json(&json).is_ok(), "{}", json);
        for format in [Format::Json, Format::Yaml, Format::Toml] {
            let _ = of(format, &json);
        }
    }
}

#[test]
fn one_of_each() {
    let values = [
        ("db.password", Value::Text("p\"w: no # €\u{85}")),
        ("hosts", Value::Json(r#"[{"a\/b": 1.50, "c": null}, true]"#)),
        ("port", Value::Json("5432")),
        ("ratio", Value::Json("1E3")),
    ];
    insta::assert_snapshot!(written(Format::Json, &values).unwrap(), @r#"{"db.password":"p\"w: no # €\u0085","hosts":[{"a/b":1.50,"c":null},true],"port":5432,"ratio":1E3}"#);
    insta::assert_snapshot!(written(Format::Yaml, &values).unwrap(), @r#"
    "db.password": "p\"w: no # €\u0085"
    "hosts": [{"a/b": 1.50, "c": null}, true]
    "port": 5432
    "ratio": 1.0e+3
    "#);
    insta::assert_snapshot!(written(Format::Properties(Names::AsStored), &values).unwrap(), @r#"
    db.password=p"w\: no \# \u20ac\u0085
    hosts=[{"a\\/b"\: 1.50, "c"\: null}, true]
    port=5432
    ratio=1E3
    "#);
    let values = [values[0], values[2], values[3], ("tags", Value::Json(r#"{"a": [1, "b"]}"#))];
    insta::assert_snapshot!(written(Format::Toml, &values).unwrap(), @r#"
    "db.password" = "p\"w: no # €\u0085"
    "port" = 5432
    "ratio" = 1E3
    "tags" = {"a" = [1, "b"]}
    "#);
    assert_eq!([Format::Json, Format::Yaml, Format::Toml].map(|format| written(format, &[]).unwrap()), ["{}", "{}\n", ""]);
}

#[test]
fn what_has_no_place() {
    let refusals = [
        written(Format::Yaml, &[("key", Value::Binary(&[0xff]))]),
        of(Format::Toml, "null"),
        of(Format::Toml, "[1, null]"),
        of(Format::Properties(Names::AsStored), "null"),
        of(Format::Dotenv(Names::AsStored), "null"),
        of(Format::Toml, "123456789012345678901234567890"),
        of(Format::Yaml, r#"{"a": 1, "\u0061": 2}"#),
        of(Format::Toml, r#"{"a": 1, "a": 2}"#),
        of(Format::Json, r#"["\ud800"]"#),
        of(Format::Json, &format!("{}{}", "[".repeat(10_000), "]".repeat(10_000))),
        of(Format::Yaml, &format!("{{\"{}\": 1}}", "k".repeat(1_000))),
        written(Format::Yaml, &[(&"k".repeat(1_000), Value::Text(""))]).map_err(|refused| refused[1_000..].to_owned()),
        of(Format::Json, "nope"),
        written(Format::Dotenv(Names::AsStored), &[("db.password", Value::Text("x"))]),
        written(Format::Dotenv(Names::AsStored), &[("UID", Value::Text("x"))]),
        written(Format::Dotenv(Names::AsStored), &[("PS4", Value::Text("x"))]),
        written(Format::Dotenv(Names::AsStored), &[("PASSWORD", Value::Text("it's `id`"))]),
        written(Format::Dotenv(Names::AsStored), &[("PASSWORD", Value::Text("${HOME}"))]),
    ];
    insta::assert_snapshot!(refusals.map(Result::unwrap_err).join("\n"), @"
    key: is binary, which yaml cannot hold (deliver it with `field`, and name the other fields with `fields`)
    x: is null in the store, or has a null in it, which toml cannot hold (give it a value, or name the other fields with `fields`)
    x: is null in the store, or has a null in it, which toml cannot hold (give it a value, or name the other fields with `fields`)
    x: is null in the store, or has a null in it, which properties cannot hold (give it a value, or name the other fields with `fields`)
    x: is null in the store, or has a null in it, which dotenv cannot hold (give it a value, or name the other fields with `fields`)
    x: is or has a number that TOML cannot hold: an integer has 64 bits there (store it as a text)
    x: has a member twice in one object, which yaml does not allow (write the secret again)
    x: has a member twice in one object, which toml does not allow (write the secret again)
    x: has half a character in it (half of a surrogate pair: write the secret again)
    x: is nested more than 64 levels deep (store it flatter, or deliver it with `field`)
    x: has a name of more than 1000 characters, which not every YAML reader takes (use a shorter name)
    : has a name of more than 1000 characters, which not every YAML reader takes (use a shorter name)
    x: came as JSON and cannot be read as such
    db.password: has a name that cannot be a variable's: use letters, digits and `_`, no digit first, and not a variable that a shell sets itself (add `keys: env`, or rename it)
    UID: has a name that cannot be a variable's: use letters, digits and `_`, no digit first, and not a variable that a shell sets itself (add `keys: env`, or rename it)
    PS4: has the name of a variable whose value bash runs or computes (rename it)
    PASSWORD: has quotes, `$`, backticks or backslashes that sh, node's dotenv and python-dotenv do not read alike (store another value, or deliver it with `field`)
    PASSWORD: has `${`, which python-dotenv replaces (store another value, or deliver it with `field`)
    ");
}

#[test]
fn names_of_variables() {
    let env = |field| Format::Dotenv(Names::Env).name(field);
    for (field, name) in
        [("db.password", "DB_PASSWORD"), ("tls.crt", "TLS_CRT"), ("1st", "_1ST"), ("aB-c", "AB_C"), ("x", "X"), ("aö", "A_")]
    {
        assert_eq!(env(field).as_deref(), Some(name));
    }
    for field in ["", "_", "...", "ö"] {
        assert_eq!(env(field), None, "{field:?}");
    }
    assert_eq!(Format::Yaml.name("db.password").as_deref(), Some("db.password"));
}
