//! Whether `schemas/audit.json` describes a line. The tests look at every line that a test's daemon writes, so this is quick: it knows the keywords
//! of that schema and no others. `audit.rs` compares it with an independent validator.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;

/// How every line begins.
const BEGINNING: &str = "{\"v\":1,\"time\":";

/// Looks at the whole lines of a file, if there is one. A daemon that was killed in the middle of a write may have left a part of a line. Then the
/// next daemon's first line follows directly: here standard output is a file, and nobody adds the end of the line.
pub fn hold(file: &Path) {
    let Ok(text) = fs::read_to_string(file) else { return };
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let line = last_begun(line);
        let parsed: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{}: {error}: {line}", file.display()));
        if let Some(problem) = problem(&parsed) {
            panic!("{}: not by schemas/audit.json: {problem}: {line}", file.display());
        }
    }
}

fn last_begun(line: &str) -> &str {
    line.rfind(BEGINNING).map_or(line, |begins| &line[begins..])
}

#[test]
fn a_line_that_follows_a_part_of_one_is_found() {
    let line = r#"{"v":1,"time":"2026-11-27T19:19:03.996170406Z","event":"mount"}"#;
    for killed_after in 0..line.len() {
        assert_eq!(last_begun(&format!("{}{line}", &line[..killed_after])), line);
    }
    assert_eq!(last_begun("no line at all"), "no line at all");
}

/// What is wrong with a line.
pub fn problem(line: &Value) -> Option<String> {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    let schema = SCHEMA.get_or_init(|| serde_json::from_str(include_str!("../../../schemas/audit.json")).unwrap());
    of(schema, schema, line, "$")
}

fn of(schema: &Value, root: &Value, value: &Value, path: &str) -> Option<String> {
    schema.as_object().unwrap().iter().find_map(|(keyword, rule)| match keyword.as_str() {
        "$defs" | "$id" | "$schema" | "description" | "format" | "title" => None,
        "$ref" => of(root.pointer(rule.as_str().unwrap().trim_start_matches('#')).unwrap(), root, value, path),
        "oneOf" => {
            let problems: Vec<_> = rule.as_array().unwrap().iter().filter_map(|one| of(one, root, value, path)).collect();
            (problems.len() + 1 != rule.as_array().unwrap().len()).then(|| problems.join("; or "))
        }
        "properties" => value.as_object()?.iter().find_map(|(key, value)| of(rule.get(key)?, root, value, &format!("{path}.{key}"))),
        "items" => value.as_array()?.iter().find_map(|item| of(rule, root, item, &format!("{path}[]"))),
        keyword => (!fits(keyword, rule, schema, value)).then(|| format!("{path}: {keyword}")),
    })
}

fn fits(keyword: &str, rule: &Value, schema: &Value, value: &Value) -> bool {
    let length = || value.as_str().map_or(0, |text| text.chars().count());
    let number = || value.as_f64().unwrap_or_default();
    let most = || usize::try_from(rule.as_u64().unwrap()).unwrap();
    match keyword {
        "additionalProperties" => value.as_object().is_none_or(|object| object.keys().all(|key| schema["properties"].get(key).is_some())),
        "const" => value == rule,
        "enum" => rule.as_array().unwrap().contains(value),
        "maxItems" => value.as_array().is_none_or(|items| items.len() <= most()),
        "maxLength" => length() <= most(),
        "maximum" => number() <= rule.as_f64().unwrap(),
        "minimum" => !value.is_number() || number() >= rule.as_f64().unwrap(),
        "pattern" => {
            assert_eq!(rule, "^[0-9a-f]{16}$", "a new pattern: add it here");
            length() == 16 && value.as_str().unwrap().bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        }
        "required" => rule.as_array().unwrap().iter().all(|key| value.get(key.as_str().unwrap()).is_some()),
        "type" => match rule.as_str().unwrap() {
            "array" => value.is_array(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_u64() || value.is_i64(),
            "number" => value.is_number(),
            "object" => value.is_object(),
            "string" => value.is_string(),
            other => panic!("a new type {other}: add it here"),
        },
        other => panic!("a new keyword {other}: add it here"),
    }
}
