//! Files of whole secrets, read back by other people's programs: PyYAML, which reads YAML 1.1, and Python's own readers of TOML and JSON. A thousand
//! random secrets for each.

use std::path::Path;

use keyferry::formats::{Format, Out, Value};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Map, Value as Json, json};

use crate::support::{apart, run};

const SECRETS: usize = 1_000;

/// Texts that some reader takes for something else.
const HARD: [&str; 28] = [
    "",
    " ",
    " x ",
    "no",
    "y",
    "1e3",
    "~",
    "null",
    "0o17",
    "12:30:00",
    "2026-01-31",
    "=",
    "<<",
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
];

fn text() -> impl Strategy<Value = String> {
    prop_oneof![proptest::sample::select(HARD.as_slice()).prop_map(str::to_owned), any::<String>(), "[ -~]{0,20}"]
}

/// A value as a store may have it.
fn value() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![text().prop_map(Json::from), any::<i64>().prop_map(Json::from), any::<bool>().prop_map(Json::from)];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            proptest::collection::btree_map(text(), inner, 0..4).prop_map(|members| Json::Object(members.into_iter().collect())),
        ]
    })
}

fn secrets() -> Vec<Json> {
    let mut runner = TestRunner::deterministic();
    let secret = proptest::collection::btree_map(text(), value(), 0..6);
    let drawn = (0..SECRETS).map(|_| secret.new_tree(&mut runner).unwrap().current());
    drawn.map(|fields| Json::Object(fields.into_iter().collect::<Map<_, _>>())).collect()
}

fn written(format: Format, secret: &Json) -> String {
    let fields: Vec<(&String, String)> = secret.as_object().unwrap().iter().map(|(name, value)| (name, value.to_string())).collect();
    let values: Vec<(&str, Value<'_>)> = fields
        .iter()
        .map(|(name, json)| match &secret[name.as_str()] {
            Json::String(text) => (name.as_str(), Value::Text(text)),
            Json::Array(_) | Json::Bool(_) | Json::Null | Json::Number(_) | Json::Object(_) => (name.as_str(), Value::Json(json)),
        })
        .collect();
    let mut out = Out::within(usize::MAX, 0);
    format.write(&values, &mut out).unwrap();
    String::from_utf8(out.into_bytes().unwrap().to_vec()).unwrap()
}

/// What Python makes of each text: `reader` is an expression of the text `t`.
fn read(reader: &str, texts: &[String]) -> Vec<Json> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    assert!(python.exists(), "no .venv: run `make tools`");
    let script = format!("import json, sys, tomllib, yaml\nprint(json.dumps([{reader} for t in json.load(sys.stdin)]))");
    let (code, out, err) = run(apart(python).arg("-c").arg(script), &json!(texts).to_string());
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

fn is_read_back(format: Format, reader: &str) {
    let secrets = secrets();
    let texts: Vec<String> = secrets.iter().map(|secret| written(format, secret)).collect();
    for ((secret, text), found) in secrets.iter().zip(&texts).zip(read(reader, &texts)) {
        assert_eq!(&found, secret, "{text}");
    }
}

#[test]
fn json_is_read_back() {
    is_read_back(Format::Json, "json.loads(t)");
}

#[test]
fn toml_is_read_back() {
    is_read_back(Format::Toml, "tomllib.loads(t)");
}

#[test]
fn yaml_is_read_back() {
    is_read_back(Format::Yaml, "yaml.safe_load(t)");
}

/// Readers of YAML 1.1 take `1e3` for a text.
#[test]
fn numbers_are_numbers() {
    let digits = ["0", "-7", "1.50", "1e3", "1E-3", "-2.5e+10", "1e400", "123456789012345678901234567890"];
    let texts: Vec<String> = digits
        .iter()
        .map(|digits| {
            let mut out = Out::within(100, 0);
            Format::Yaml.write(&[("n", Value::Json(digits))], &mut out).unwrap();
            String::from_utf8(out.into_bytes().unwrap().to_vec()).unwrap()
        })
        .collect();
    let kinds = read("type(yaml.safe_load(t)['n']).__name__", &texts);
    assert_eq!(kinds, ["int", "int", "float", "float", "float", "float", "float", "int"]);
}
