//! Compares Keyferry with other YAML readers: `tests/golden/yaml.json` has the answers of kubectl's reader and of the providers' (`make
//! golden-yaml`).
//!
//! Keyferry reads the same value as they do, or reports a fault. What they read and Keyferry refuses on purpose is in
//! `tests/golden/yaml-refused.txt`, each kind with its message. With `GOLDEN=write` in the environment the test writes that file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value as Json, json};

use super::vault::{VAULT, parse};
use super::{ClassLimits, args};
use crate::model::{Ask, Catalogue, FileMode, Object, Plan, RefParts, SecretRef, Select, Serving, Unresolved};
use crate::steps::Steps;
use crate::yaml::{self, Faults, Kind, Node, Reader, Value, parse_all};

const LIMITS: ClassLimits = ClassLimits { objects: 512, files: 4096, bytes: 262_144, owners: false };

/// What Keyferry accepts and the providers do not: a mode in quotes, and values that a chart leaves empty.
const OURS_ALONE: [&str; 4] = ["filePermission: \"\"", "secretArgs: \"\"", "filePermission: \"0400\"", "filePermission: !!str 0400"];

/// How the others and Keyferry read the inputs.
#[derive(Default)]
struct Replay {
    inputs: usize,
    /// Keyferry reads another value, or reads one where they have none.
    wrong: Vec<String>,
    /// What they read and Keyferry does not, by our message: how often, and the first one.
    refused: BTreeMap<String, (usize, String)>,
}

fn golden(list: &str) -> Vec<Json> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/yaml.json");
    let golden: Json = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    golden[list].as_array().unwrap().clone()
}

impl Replay {
    fn compare(&mut self, text: &str, theirs: &Json, ours: Result<String, String>) {
        self.inputs += 1;
        match (theirs["json"].as_str(), ours) {
            (None, Err(_)) => {}
            (Some(theirs), Ok(ours)) if is_same(theirs, &ours) => {}
            (Some(_), Err(problem)) => {
                let place = problem.find(|c: char| c.is_alphabetic() || c == '`').unwrap_or_default();
                self.refused.entry(problem[place..].to_owned()).or_insert((0, text.to_owned())).0 += 1;
            }
            (None, Ok(_)) if OURS_ALONE.iter().any(|word| text.contains(word)) => {}
            (theirs, Ok(ours)) => self.wrong.push(format!("{text:?}: theirs {theirs:?} {}, ours {ours:?}", theirs_error(theirs.is_none()))),
        }
    }

    fn refused(&self) -> String {
        self.refused.iter().map(|(problem, (count, first))| format!("{count} x {problem}\n      {first:?}\n")).collect()
    }
}

fn theirs_error(is: bool) -> &'static str {
    if is { "(a fault)" } else { "" }
}

/// Exact text, except for escapes: some characters need no escape, and the writers differ.
fn is_same(theirs: &str, ours: &str) -> bool {
    let parsed = |text| serde_json::from_str::<Json>(text).unwrap();
    theirs == ours || theirs.contains('\\') && parsed(theirs) == parsed(ours)
}

#[test]
fn manifests_are_what_kubectl_makes_of_them() {
    assert_eq!(manifests().wrong, [""; 0]);
}

#[test]
fn arguments_are_the_json_that_the_providers_send() {
    assert_eq!(arguments_alone().wrong, [""; 0]);
}

#[test]
fn objects_are_what_the_providers_read() {
    assert_eq!(objects().wrong, [""; 0]);
}

#[test]
fn what_is_refused_on_purpose_is_listed() {
    let lists = [("manifests", manifests()), ("arguments", arguments_alone()), ("objects", objects())];
    let shown: String = lists.iter().map(|(name, replay)| format!("{name}: {} inputs\n{}\n", replay.inputs, replay.refused())).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/yaml-refused.txt");
    if std::env::var_os("GOLDEN").is_some_and(|value| value == "write") {
        fs::write(&path, &shown).unwrap();
    }
    let recorded = fs::read_to_string(path).unwrap();
    let differs = |(now, before): &(&str, &str)| now != before;
    let lines = shown.lines().chain([""]).zip(recorded.lines().chain([""]));
    assert_eq!(lines.into_iter().find(differs), None, "now, and as recorded");
}

fn manifests() -> Replay {
    let mut replay = Replay::default();
    for input in golden("documents") {
        let text = input["text"].as_str().unwrap();
        let ours = parse_all(text).map_err(|fault| fault.to_string());
        let ours =
            ours.and_then(|documents| documents.iter().filter(|node| !node.is_null()).map(as_kubernetes).collect::<Result<Vec<_>, _>>());
        // Keys come in another order, and JSON is passed on as it is written.
        let sorted = input["manifest"]["json"].as_str().map(|text| sorted(&serde_json::from_str(text).unwrap()));
        let theirs = json!({ "json": sorted.map(|json| json.to_string()) });
        replay.compare(text, &theirs, ours.map(|documents| sorted_list(documents).to_string()));
    }
    replay
}

fn arguments_alone() -> Replay {
    let mut replay = Replay::default();
    for input in golden("documents") {
        let text = input["text"].as_str().unwrap();
        let ours = yaml::parse(text).map_err(|fault| fault.to_string()).and_then(|node| arguments(&node));
        let is_nothing = input["arguments"]["json"] == "null";
        let theirs = if is_nothing { json!({ "json": "{}" }) } else { input["arguments"].clone() };
        replay.compare(text, &theirs, ours);
    }
    replay
}

fn objects() -> Replay {
    let mut replay = Replay::default();
    for input in golden("objects") {
        let text = input["text"].as_str().unwrap();
        let theirs = input["objects"]["json"].as_str().map(|json| serde_json::from_str::<Json>(json).unwrap());
        // They refuse a class without objects, and later remove objects that are null.
        let theirs = theirs.filter(|objects| objects.as_array().is_some_and(|objects| !objects.is_empty()));
        let parameters = BTreeMap::from([("roleName".to_owned(), "r".to_owned()), ("objects".to_owned(), text.to_owned())]);
        let ours = parse(&VAULT, &parameters, &Anything, LIMITS, &Steps::unbounded())
            .map_err(|faults| faults.0.iter().next().unwrap().to_string());
        let ours =
            ours.map(|plan| Json::from(plan.objects.iter().map(|object| as_provider(&plan, object)).collect::<Vec<_>>()).to_string());
        replay.compare(text, &json!({ "json": theirs.map(|json| normal(json).to_string()) }), ours);
    }
    replay
}

/// What Kubernetes gets from a manifest.
fn as_kubernetes(node: &Node) -> Result<Json, String> {
    Ok(match &node.value {
        Value::Null => Json::Null,
        Value::Mapping(entries) => {
            let members = entries.iter().map(|(key, node)| Ok((key.text.clone(), as_kubernetes(node)?)));
            Json::Object(members.collect::<Result<_, String>>()?)
        }
        Value::Sequence(items) => Json::from(items.iter().map(as_kubernetes).collect::<Result<Vec<_>, _>>()?),
        Value::Scalar { text, kind: Kind::Text | Kind::Time } => Json::from(text.as_str()),
        Value::Scalar { text, kind } => serde_json::from_str(&kind.to_json(text)?).unwrap(),
    })
}

fn sorted_list(documents: Vec<Json>) -> Json {
    sorted(&Json::from(documents))
}

/// Members sorted by name, whole floats as integers: `1e3` of a JSON manifest is 1000.
fn sorted(json: &Json) -> Json {
    match json {
        Json::Object(members) => {
            let members: BTreeMap<&String, Json> = members.iter().map(|(name, value)| (name, sorted(value))).collect();
            Json::Object(members.into_iter().map(|(name, value)| (name.clone(), value)).collect())
        }
        Json::Array(items) => Json::from(items.iter().map(sorted).collect::<Vec<_>>()),
        Json::Number(number) => number.as_f64().map_or(Json::Null, Json::from),
        Json::Null | Json::Bool(_) | Json::String(_) => json.clone(),
    }
}

fn arguments(node: &Node) -> Result<String, String> {
    let wrapped = Node {
        at: node.at,
        value: Value::Mapping(vec![(yaml::Key { at: node.at, text: "args".to_owned(), kind: Kind::Text }, node.clone())]),
    };
    let mut faults = Faults::default();
    let mut reader = Reader::of(&wrapped, "", &mut faults).unwrap();
    let args = args::read("args", &mut reader, &mut faults);
    args.map(|args| args.to_json()).ok_or_else(|| faults.into_sorted()[0].problem.clone())
}

/// One object in the providers' words.
fn as_provider(plan: &Plan, object: &Object) -> Json {
    let secret = plan.secret(object);
    let (path, key) = if let Select::Key { key, path } = &object.select {
        (path.as_str(), key.as_str())
    } else if let Select::Response { path } = &object.select {
        (path.as_str(), "")
    } else {
        unreachable!("not in this dialect")
    };
    let args: Json = serde_json::from_str(&secret.args.to_json()).unwrap();
    json!({
        "objectName": path, "secretPath": secret.name.as_str(), "secretKey": key, "method": secret.method.as_str(), "secretArgs": args,
        "filePermission": object.mode.map_or(0, FileMode::bits), "encoding": ""
    })
}

/// Their struct, with the defaults that they use for what it leaves out.
fn normal(mut objects: Json) -> Json {
    for object in objects.as_array_mut().unwrap() {
        if object["method"] == "" {
            object["method"] = json!("GET");
        }
        if object["secretArgs"].is_null() {
            object["secretArgs"] = json!({});
        }
    }
    objects
}

/// A store that accepts any name.
#[derive(Debug)]
struct Anything;

impl Catalogue for Anything {
    fn resolve(&self, ask: &Ask<'_>) -> Result<SecretRef, Unresolved> {
        let backend = "store".parse().unwrap();
        let name = ask.name.parse().map_err(|cause| Unresolved::Name { name: ask.name.to_owned(), cause })?;
        let Ask { method, args, lease, keep, login, .. } = ask.clone();
        Ok(RefParts { backend, name, version: None, method, args, lease, keep, login }.into())
    }

    fn serving(&self, _: &str, _: Option<&str>, _: Option<&str>) -> Result<Serving, Unresolved> {
        Ok(Serving { backend: "store".parse().unwrap(), by_address: false, names_audience: true })
    }
}
