//! The parts of the chart that are made of other files of this repository. `make chart` writes them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::CHART;
use crate::deploy::deploy;
use crate::support::{keyferry, run};

/// A chart can read only its own folder, so it has copies.
const COPIES: [(&str, &str); 3] = [
    ("manifests/base/keyferry.yaml", "files/keyferry.yaml"),
    ("prometheus/rules.yaml", "files/rules.yaml"),
    ("grafana/keyferry.json", "files/keyferry.json"),
];

#[test]
fn the_schema_of_values_has_that_of_the_configuration() {
    let path = deploy(CHART).join("values.schema.json");
    let written: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let made = with_the_configurations(written);
    same(&path, &format!("{}\n", serde_json::to_string_pretty(&made).unwrap()));
}

#[test]
fn files_of_the_chart_are_those_of_the_repository() {
    for (original, copy) in COPIES {
        same(&deploy(CHART).join(copy), &fs::read_to_string(deploy(original)).unwrap());
    }
}

#[test]
fn the_version_is_the_programs() {
    let chart = fs::read_to_string(deploy(CHART).join("Chart.yaml")).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    for line in [format!("version: {version}"), format!("appVersion: {version:?}")] {
        assert!(chart.lines().any(|found| found == line), "Chart.yaml has no line {line}");
    }
}

fn same(path: &PathBuf, made: &str) {
    if std::env::var_os("GOLDEN").is_some_and(|value| value == "write") {
        fs::write(path, made).unwrap();
    }
    let found = fs::read_to_string(path).unwrap();
    assert!(found == made, "{} is not up to date: run `make chart`", relative(path).display());
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap()
}

/// The schema of values with `config` as the program knows it. The values' own definitions have names such as `chart...`.
fn with_the_configurations(mut values: Value) -> Value {
    let (code, schema, _) = run(keyferry().args(["check", "--schema", "config"]), "");
    assert_eq!(code, 0);
    let Value::Object(mut config) = draft_7(serde_json::from_str(&schema).unwrap()) else { panic!("{schema}") };
    config.shift_remove("$schema");
    // An `$id` inside another schema would be the base of the references below it.
    config.shift_remove("$id");
    let definitions = config.shift_remove("definitions").unwrap();
    // An empty `config` is the default one. Only another one must be complete.
    let required = config.shift_remove("required").unwrap();
    config.insert("if".to_owned(), json!({ "minProperties": 1 }));
    config.insert("then".to_owned(), json!({ "required": required }));
    values["properties"]["config"] = config.into();
    let own = values["definitions"].as_object_mut().unwrap();
    own.retain(|name, _| name.starts_with("chart"));
    own.extend(definitions.as_object().unwrap().clone());
    values
}

/// A schema of draft 2020-12 in the words of draft 7, as far as ours use them. Helm 3.17 knows no newer draft.
/// <https://json-schema.org/draft/2019-09/release-notes>
fn draft_7(schema: Value) -> Value {
    match schema {
        Value::Array(items) => items.into_iter().map(draft_7).collect(),
        Value::Object(entries) => entries.into_iter().fold(Map::new(), entry_of_draft_7).into(),
        Value::String(text) => text.replace("#/$defs/", "#/definitions/").into(),
        Value::Bool(_) | Value::Null | Value::Number(_) => schema,
    }
}

fn entry_of_draft_7(mut made: Map<String, Value>, (key, value): (String, Value)) -> Map<String, Value> {
    match (key.as_str(), value) {
        ("$defs", value) => made.insert("definitions".to_owned(), draft_7(value)),
        ("dependentRequired", value) => made.insert("dependencies".to_owned(), draft_7(value)),
        // Helm 4 takes "0600" and 600 for the same, and refuses a list that has both.
        ("enum", Value::Array(values)) if values.iter().any(Value::is_string) && !values.iter().all(Value::is_string) => {
            let (texts, others): (Vec<_>, Vec<_>) = values.into_iter().partition(Value::is_string);
            made.insert("anyOf".to_owned(), json!([{ "enum": texts }, { "enum": others }]))
        }
        (_, value) => made.insert(key, draft_7(value)),
    };
    made
}
