//! A SecretProviderClass as its author wrote it: found in a stream of YAML documents, and read as far as the Kubernetes API server reads it.
//!
//! The dialects know what its parameters mean. This module gives `keyferry mount` the same map of strings that the driver gets from the API
//! server, and reports what the API server would refuse.

use std::collections::BTreeMap;
use std::fmt;

use crate::model::{is_label, is_subdomain, quoted};
use crate::yaml::{Fault, Faults, Kind, Node, Position, Reader, Value, parse_all};

pub(super) const GROUP: &str = "secrets-store.csi.x-k8s.io/";
pub(super) const KIND: &str = "SecretProviderClass";

/// A SecretProviderClass.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClassManifest {
    pub name: String,
    /// `None`: the Pod's.
    pub namespace: Option<String>,
    /// The socket's name, without `.sock`.
    pub provider: String,
    pub parameters: BTreeMap<String, String>,
}

/// Why a text has no class that could be mounted. Never empty.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ManifestFaults {
    /// The file's name, at the start of each line.
    pub file: String,
    pub faults: Vec<Fault>,
}

// === impl ClassManifest ===

impl ClassManifest {
    /// Finds the class in a stream: the only one, or the one of that name. Other kinds are skipped, and lists are opened.
    /// `file` is for messages.
    pub fn read(file: &str, text: &str, name: Option<&str>) -> Result<Self, ManifestFaults> {
        let documents = parse_all(text).map_err(|fault| ManifestFaults { file: file.to_owned(), faults: vec![fault] })?;
        Self::among(file, &documents, name).map(|(_, class)| class)
    }

    /// The same for parsed documents, with the node of the class.
    pub(super) fn among<'n>(file: &str, documents: &'n [Node], name: Option<&str>) -> Result<(&'n Node, Self), ManifestFaults> {
        let refuse = |faults| ManifestFaults { file: file.to_owned(), faults };
        let node = choose(&resources(documents), name).map_err(|fault| refuse(vec![fault]))?;
        let mut faults = Faults::default();
        match Self::of(node, &mut faults) {
            Some(class) if faults.is_empty() => Ok((node, class)),
            Some(_) | None => Err(refuse(faults.into_sorted())),
        }
    }

    /// Reads one class. What is wrong goes into `faults`.
    pub(super) fn of(node: &Node, faults: &mut Faults) -> Option<Self> {
        let mut class = Reader::of(node, "", faults)?;
        for key in ["apiVersion", "kind", "status"] {
            class.get(key);
        }
        let mut metadata = section(&mut class, "metadata", "it holds the class's `name`", faults)?;
        let name = required(&mut metadata, "name", "the class's name, as the Pod's volume names it", faults);
        check_name(&mut metadata, "name", is_subdomain, "1 to 253 of a-z, 0-9, `-` and `.`, with a letter or digit at both ends", faults);
        let namespace = metadata.text("namespace", faults).map(str::to_owned);
        check_name(&mut metadata, "namespace", is_label, "1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends", faults);
        let mut spec = section(&mut class, "spec", "it holds `provider` and `parameters`", faults)?;
        let provider = provider(&mut spec, faults);
        let parameters = spec.reader("parameters", faults).map(|parameters| strings(&parameters, faults)).unwrap_or_default();
        spec.get("secretObjects");
        spec.finish(faults);
        class.finish(faults);
        Some(Self { name: name?, namespace, provider: provider?, parameters })
    }
}

impl fmt::Display for ManifestFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{}:{}:{}: {fault}", self.file, fault.at.line, fault.at.column)?;
        }
        Ok(())
    }
}

impl std::error::Error for ManifestFaults {}

/// The scalars of a text by key: what Kubernetes calls a map of strings. `nodePublishSecretRef` data has this form too.
///
/// A value that Kubernetes would read as a number or a boolean is a fault: its API server refuses it.
pub fn strings(reader: &Reader<'_>, faults: &mut Faults) -> BTreeMap<String, String> {
    let mut strings = BTreeMap::new();
    for (key, node) in reader.entries() {
        match string(node) {
            Ok(text) => drop(strings.insert(key.text.clone(), text.to_owned())),
            Err(problem) => faults.add(node.at, reader.path(&key.text), problem),
        }
    }
    strings
}

/// A value of a map of strings.
pub(super) fn string(node: &Node) -> Result<&str, String> {
    let kind = match &node.value {
        Value::Scalar { text, kind: Kind::Text | Kind::Time } => return Ok(text),
        Value::Scalar { kind: Kind::Boolean(_), .. } => "a boolean",
        Value::Scalar { kind: Kind::Float(_) | Kind::Integer(_), .. } => "a number",
        Value::Null => return Err("has no value, but must be a text (an empty one is \"\")".to_owned()),
        Value::Mapping(_) | Value::Sequence(_) => {
            return Err(format!("is {}, but must be a text (a YAML list goes into a text with `|` after the key)", node.kind()));
        }
    };
    Err(format!("is {kind} to Kubernetes, but must be a text (put it in quotes)"))
}

/// The resources of a stream, those within lists too.
pub(super) fn resources(documents: &[Node]) -> Vec<&Node> {
    let mut resources = Vec::new();
    for document in documents {
        flatten(document, &mut resources);
    }
    resources
}

/// Lists hold resources; everything else is one.
fn flatten<'n>(node: &'n Node, resources: &mut Vec<&'n Node>) {
    let is_list = field(node, "kind").and_then(Node::text).is_some_and(|kind| kind.ends_with("List"));
    match field(node, "items").map(|items| &items.value) {
        Some(Value::Sequence(items)) if is_list => resources.extend(items),
        _ => resources.push(node),
    }
}

/// The class that is meant.
fn choose<'n>(resources: &[&'n Node], name: Option<&str>) -> Result<&'n Node, Fault> {
    let classes: Vec<_> = resources.iter().copied().filter(|node| is_class(node)).collect();
    let names = || classes.iter().map(|node| name_of(node)).collect::<Vec<_>>().join(", ");
    let fault = |at, problem| Err(Fault { at, key: String::new(), problem });
    let start = Position { line: 1, column: 1 };
    let matching: Vec<_> = classes.iter().copied().filter(|node| name.is_none_or(|name| name_of(node) == name)).collect();
    match (matching.as_slice(), name) {
        ([class], _) => Ok(class),
        ([], _) if classes.is_empty() => fault(start, format!("no {KIND} is in here ({})", others(resources))),
        ([], Some(name)) => fault(start, format!("no {KIND} is called {name:?} (there are: {})", names())),
        ([_, second, ..], Some(name)) => fault(second.at, format!("a second {KIND} called {name:?} (keep one of them)")),
        _ => fault(start, format!("{} classes are in here: {} (choose one with --class-name)", classes.len(), names())),
    }
}

pub(super) fn is_class(node: &Node) -> bool {
    let text = |key| field(node, key).and_then(Node::text).unwrap_or_default();
    text("kind") == KIND && text("apiVersion").starts_with(GROUP)
}

/// The kinds that are there, for the message that no class is there.
pub(super) fn others(resources: &[&Node]) -> String {
    let kinds: Vec<_> = resources.iter().filter_map(|node| field(node, "kind")?.text()).collect();
    match kinds.as_slice() {
        [] => format!("it starts with `apiVersion: {GROUP}v1` and `kind: {KIND}`"),
        kinds if kinds.contains(&KIND) => format!("its apiVersion must be {GROUP}v1"),
        kinds => format!("kinds found: {}", kinds.join(", ")),
    }
}

pub(super) fn name_of(node: &Node) -> &str {
    field(node, "metadata").and_then(|metadata| field(metadata, "name")?.text()).unwrap_or_default()
}

pub(super) fn field<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    match &node.value {
        Value::Mapping(entries) => entries.iter().find(|(found, _)| found.text == key).map(|(_, node)| node),
        Value::Null | Value::Scalar { .. } | Value::Sequence(_) => None,
    }
}

fn section<'n>(class: &mut Reader<'n>, key: &'static str, remedy: &str, faults: &mut Faults) -> Option<Reader<'n>> {
    if class.get(key).is_none() {
        class.missing(key, remedy, faults);
    }
    class.reader(key, faults)
}

fn required(reader: &mut Reader<'_>, key: &'static str, remedy: &str, faults: &mut Faults) -> Option<String> {
    let Some(node) = reader.get(key) else {
        reader.missing(key, remedy, faults);
        return None;
    };
    let text = string(node).map_err(|problem| faults.add(node.at, reader.path(key), problem));
    text.ok().map(str::to_owned)
}

/// The API server accepts no other names.
fn check_name(metadata: &mut Reader<'_>, key: &'static str, fits: fn(&str) -> bool, rule: &str, faults: &mut Faults) {
    let Some(node) = metadata.get(key) else { return };
    if let Some(name) = string(node).ok().filter(|name| !fits(name)) {
        let near = name.trim().to_ascii_lowercase().replace(['_', ' ', '/'], "-");
        let remedy = if fits(&near) { format!("did you mean {}?", quoted(&near)) } else { "choose another".to_owned() };
        faults.add(node.at, metadata.path(key), format!("{} is not a name in Kubernetes: {rule} ({remedy})", quoted(name)));
    }
}

/// The driver finds the provider's socket by this name, and accepts only such names.
fn provider(spec: &mut Reader<'_>, faults: &mut Faults) -> Option<String> {
    let name = required(spec, "provider", "the provider's name, such as keyferry", faults)?;
    let fits = is_provider(&name);
    if !fits {
        let at = spec.get("provider").map_or(spec.at(), |node| node.at);
        faults.add(at, spec.path("provider"), NO_PROVIDER);
    }
    fits.then_some(name)
}

/// The message after the name or the key.
pub const NO_PROVIDER: &str = "is not a provider name: 1 to 30 of a-z, A-Z, 0-9, `-` and `_`";

/// Whether the driver accepts it as the name of a provider (its `PluginNameRe`, v1.6.0).
pub fn is_provider(name: &str) -> bool {
    (1..=30).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\n";

    fn class(name: &str) -> String {
        format!("{HEAD}metadata: {{ name: {name} }}\nspec:\n  provider: keyferry\n  parameters:\n    objects: |\n      - secret: {name}\n")
    }

    fn fault(text: &str, name: Option<&str>) -> String {
        ClassManifest::read("shop.yaml", text, name).unwrap_err().to_string()
    }

    #[test]
    fn the_only_class_of_a_stream_is_found_among_other_kinds() {
        let stream = format!("# Source: chart\n---\nkind: Service\napiVersion: v1\n---\n{}---\n---\nkind: Pod\n", class("shop"));
        let found = ClassManifest::read("-", &stream, None).unwrap();
        assert_eq!((found.name.as_str(), found.provider.as_str(), found.namespace), ("shop", "keyferry", None));
        assert_eq!(found.parameters["objects"], "- secret: shop\n");
    }

    #[test]
    fn one_of_several_is_chosen_by_name_and_lists_are_looked_into() {
        let both = format!("{}---\n{}", class("a"), class("b"));
        assert_eq!(ClassManifest::read("-", &both, Some("b")).unwrap().name, "b");
        insta::assert_snapshot!(fault(&both, None), @"shop.yaml:1:1: 2 classes are in here: a, b (choose one with --class-name)");
        insta::assert_snapshot!(fault(&both, Some("c")), @r#"shop.yaml:1:1: no SecretProviderClass is called "c" (there are: a, b)"#);
        insta::assert_snapshot!(fault(&format!("{both}---\n{}", class("a")), Some("a")), @r#"shop.yaml:19:1: a second SecretProviderClass called "a" (keep one of them)"#);
        let list = format!("kind: List\napiVersion: v1\nitems:\n- {}", class("in-list").replace('\n', "\n  "));
        assert_eq!(ClassManifest::read("-", &list, None).unwrap().name, "in-list");
    }

    #[test]
    fn a_stream_without_a_class_says_what_is_there() {
        insta::assert_snapshot!(fault("", None), @"shop.yaml:1:1: no SecretProviderClass is in here (it starts with `apiVersion: secrets-store.csi.x-k8s.io/v1` and `kind: SecretProviderClass`)");
        insta::assert_snapshot!(fault("kind: Pod\n---\nkind: Service", None), @"shop.yaml:1:1: no SecretProviderClass is in here (kinds found: Pod, Service)");
        insta::assert_snapshot!(fault("kind: SecretProviderClass\napiVersion: v1", None), @"shop.yaml:1:1: no SecretProviderClass is in here (its apiVersion must be secrets-store.csi.x-k8s.io/v1)");
        insta::assert_snapshot!(fault("a: [", None), @"shop.yaml:1:4: not valid YAML: unclosed bracket '[' (look there and just above for an open bracket or quote, a tab, uneven indentation, or a value that needs quotes)");
    }

    #[test]
    fn every_fault_is_named_with_its_line() {
        let named = |name: &str| fault(&class(name), None);
        insta::assert_snapshot!([named("Shop_DB"), named("\"-\""), named("12"), named("shop, namespace: Team A")].join("\n"), @r#"
        shop.yaml:3:19: metadata.name: "Shop_DB" is not a name in Kubernetes: 1 to 253 of a-z, 0-9, `-` and `.`, with a letter or digit at both ends (did you mean "shop-db"?)
        shop.yaml:3:19: metadata.name: "-" is not a name in Kubernetes: 1 to 253 of a-z, 0-9, `-` and `.`, with a letter or digit at both ends (choose another)
        shop.yaml:3:19: metadata.name: is a number to Kubernetes, but must be a text (put it in quotes)
        shop.yaml:3:36: metadata.namespace: "Team A" is not a name in Kubernetes: 1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends (did you mean "team-a"?)
        "#);
        let text = format!(
            "{HEAD}metadata: {{ labels: {{}} }}\nspec:\n  provider: key ferry\n  paramters: {{}}\n  parameters:\n    mode: 0444\n    backend: yes\n    role:\n    objects:\n      - secret: db\nextra: 1\n"
        );
        insta::assert_snapshot!(fault(&text, None), @r#"
        shop.yaml:3:11: metadata.name: is missing (the class's name, as the Pod's volume names it)
        shop.yaml:5:13: spec.provider: is not a provider name: 1 to 30 of a-z, A-Z, 0-9, `-` and `_`
        shop.yaml:6:3: spec.paramters: is not a known key (did you mean `parameters`?)
        shop.yaml:8:11: spec.parameters.mode: is a number to Kubernetes, but must be a text (put it in quotes)
        shop.yaml:9:14: spec.parameters.backend: is a boolean to Kubernetes, but must be a text (put it in quotes)
        shop.yaml:10:9: spec.parameters.role: has no value, but must be a text (an empty one is "")
        shop.yaml:12:7: spec.parameters.objects: is a list, but must be a text (a YAML list goes into a text with `|` after the key)
        shop.yaml:13:1: extra: is not a known key (known here: apiVersion, kind, status, metadata, spec)
        "#);
        insta::assert_snapshot!(fault(HEAD, None), @"shop.yaml:1:1: metadata: is missing (it holds the class's `name`)");
    }
}
