//! The daemon's configuration in a file: the configuration itself, or a manifest of its ConfigMap. Its faults are findings.

use std::io::Read;
use std::path::Path;

use super::finding::{Finding, count};
use super::is_standard_input;
use super::place::Places;
use crate::cli::Failure;
use crate::cli::manifest::{field, others, resources};
use crate::config::{Config, ConfigError};
use crate::text;
use crate::yaml::{self, Fault, Node, Position, Value};

/// The key under which the manifests of `deploy/` keep it.
const KEY: &str = "keyferry.yaml";

/// A configuration and its place.
#[derive(Debug)]
pub struct Settings {
    /// For messages.
    pub file: String,
    /// `None`: it has faults.
    pub config: Option<Config>,
    pub faults: Vec<Finding>,
    /// Where each rule of the policy is.
    rules: Vec<Position>,
    /// Where `backends` is.
    pub backends: Position,
}

/// The configuration's text, and where it is in the file.
struct Found {
    text: String,
    places: Option<Places>,
}

impl Settings {
    /// # Errors
    /// It cannot be read (exit code 2).
    pub fn read(path: &Path, input: &mut dyn Read) -> Result<Self, Failure> {
        let (file, outer) = if is_standard_input(path) {
            let mut bytes = Vec::new();
            let read = input.read_to_end(&mut bytes).map_err(|error| error.to_string());
            let outer = read.and_then(|_| Ok(text::read(&bytes).map_err(|error| error.to_string())?.to_owned()));
            ("<stdin>".to_owned(), outer.map_err(|cause| Failure::usage(format!("<stdin>: {cause}")))?)
        } else {
            let file = path.display().to_string();
            match Config::text(path) {
                Ok(outer) => (file, outer),
                Err(ConfigError::Faults { faults, .. }) => {
                    let faults = faults.into_iter().map(|fault| Finding::error(&file, fault.at, fault.to_string())).collect();
                    let start = Position { line: 1, column: 1 };
                    return Ok(Self { file, config: None, faults, rules: Vec::new(), backends: start });
                }
                Err(error @ ConfigError::Unreadable { .. }) => return Err(Failure::usage(error)),
            }
        };
        Ok(Self::of(file, outer))
    }

    fn of(file: String, outer: String) -> Self {
        let start = Position { line: 1, column: 1 };
        let found = match find(outer) {
            Ok(found) => found,
            Err(fault) => {
                let faults = vec![Finding::error(&file, fault.at, fault.to_string())];
                return Self { file, config: None, faults, rules: Vec::new(), backends: start };
            }
        };
        let place = |at: Position| found.places.as_ref().map_or(at, |places| places.place(at.line, at.column));
        let finding = |fault: Fault| {
            let key = fault.key.clone();
            Finding { key, ..Finding::error(&file, place(fault.at), fault.to_string()) }
        };
        let (config, faults) = match Config::parse(&found.text) {
            Ok(config) => (Some(config), Vec::new()),
            Err(faults) => (None, faults.into_iter().map(finding).collect()),
        };
        let node = yaml::parse(&found.text).ok();
        let at = |key| node.as_ref().and_then(|node| field(node, key));
        let rules = match at("policy").map(|policy| &policy.value) {
            Some(Value::Sequence(rules)) => rules.iter().map(|rule| place(rule.at)).collect(),
            Some(Value::Mapping(_) | Value::Null | Value::Scalar { .. }) | None => Vec::new(),
        };
        let backends = at("backends").map_or(start, |node| place(node.at));
        Self { file, config, faults, rules, backends }
    }

    /// What it has, for a person. Empty if it has faults.
    pub fn summary(&self) -> String {
        let Some(config) = &self.config else { return String::new() };
        format!("{}, {}", count(config.backends.len(), "backend", "backends"), count(self.rules.len(), "rule", "rules"))
    }

    /// Its faults as text, one per line.
    pub fn faults_text(&self) -> String {
        let line = |fault: &Finding| format!("{}:{}:{}: {}", fault.file, fault.at.line, fault.at.column, fault.message);
        self.faults.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// A rule by its number, with its place: `rule 2 (keyferry.yaml:14)`.
    pub fn rule(&self, number: usize) -> String {
        match number.checked_sub(1).and_then(|index| self.rules.get(index)) {
            Some(at) => format!("rule {number} ({}:{})", self.file, at.line),
            None => format!("rule {number}"),
        }
    }
}

/// A configuration has neither kind nor apiVersion. What has both is a manifest.
fn find(outer: String) -> Result<Found, Fault> {
    let documents = yaml::parse_all(&outer).unwrap_or_default();
    let resources = resources(&documents);
    let is_manifest = |node: &&Node| ["apiVersion", "kind"].iter().all(|key| field(node, key).is_some());
    if !resources.iter().any(is_manifest) {
        return Ok(Found { text: outer, places: None });
    }
    let is_map = |node: &&&Node| field(node, "kind").and_then(Node::text) == Some("ConfigMap");
    let data = resources.iter().filter(is_map).filter_map(|node| field(node, "data"));
    let entries: Vec<_> = data
        .filter_map(|data| match &data.value {
            Value::Mapping(entries) => Some(entries),
            Value::Null | Value::Scalar { .. } | Value::Sequence(_) => None,
        })
        .flatten()
        .filter(|(key, _)| Path::new(&key.text).extension().is_some_and(|kind| kind == "yaml" || kind == "yml"))
        .collect();
    let named: Vec<_> = entries.iter().filter(|(key, _)| key.text == KEY).collect();
    let fault = |at, problem| Err(Fault { at, key: String::new(), problem });
    match (named.as_slice(), entries.as_slice()) {
        ([(key, node)], _) | ([], [(key, node)]) => {
            let text = node.text().unwrap_or_default();
            Ok(Found { places: Some(Places::of(&outer, key.at, node.at, text)), text: text.to_owned() })
        }
        ([], []) => {
            let problem = format!("no ConfigMap with a key {KEY} is in here ({})", others(&resources));
            fault(Position { line: 1, column: 1 }, problem)
        }
        ([_, (second, _), ..], _) | ([], [_, (second, _), ..]) => {
            fault(second.at, format!("{}: a second ConfigMap has a configuration (keep one of them in the file)", second.text))
        }
    }
}
