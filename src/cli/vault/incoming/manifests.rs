//! Kubernetes Secrets as manifests: what `kubectl get secret -o yaml` and `kubectl get --raw` print, and what people write.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use zeroize::Zeroizing;

use crate::cli::manifest::{field, strings};
use crate::cli::vault::marks;
use crate::model::{clean, is_label, is_subdomain};
use crate::yaml::{Faults, Node, Reader, Value, unknown_key};

/// Secrets that Kubernetes and Helm keep for themselves.
const THEIR_OWN: [&str; 3] = ["kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token", "helm.sh/release.v1"];

/// The keys of a Secret that the API server knows or prints.
const SECRET_KEYS: [&str; 7] = ["apiVersion", "data", "immutable", "kind", "metadata", "stringData", "type"];

/// An object of Kubernetes. If an object in a list has no kind or apiVersion, those of the list apply.
#[derive(Clone, Copy, Debug)]
pub struct Object<'n> {
    pub node: &'n Node,
    pub kind: &'n str,
    pub api_version: &'n str,
}

/// The objects of a stream, also those in lists.
pub fn objects<'n>(documents: impl IntoIterator<Item = &'n Node>) -> Vec<Object<'n>> {
    let mut objects = Vec::new();
    for document in documents.into_iter().filter(|document| !document.is_null()) {
        flatten(document, "", "", &mut objects);
    }
    objects
}

/// Opens lists in lists. The parser of YAML bounds the depth.
fn flatten<'n>(node: &'n Node, kind: &'n str, api_version: &'n str, objects: &mut Vec<Object<'n>>) {
    let text = |key| field(node, key).and_then(Node::text);
    let (kind, api_version) = (text("kind").unwrap_or(kind), text("apiVersion").unwrap_or(api_version));
    match (kind.strip_suffix("List"), field(node, "items").map(|items| &items.value)) {
        // A `List` has objects of any kind. A `SecretList` has Secrets, and its items have no kind.
        (Some(of), Some(Value::Sequence(items))) => items.iter().for_each(|item| flatten(item, of, api_version, objects)),
        (Some(_), Some(Value::Null)) => {}
        _ => objects.push(Object { node, kind, api_version }),
    }
}

impl<'n> Object<'n> {
    pub fn is_secret(&self) -> bool {
        self.kind == "Secret" && self.api_version == "v1"
    }

    /// What is in `metadata`, such as `name`.
    pub fn metadata(&self, key: &str) -> Option<&'n str> {
        field(self.node, "metadata").and_then(|metadata| field(metadata, key)).and_then(Node::text).filter(|text| !text.is_empty())
    }

    /// A Secret's type, if it is not empty and not `Opaque`.
    pub fn secret_type(&self) -> Option<&'n str> {
        field(self.node, "type").and_then(Node::text).filter(|text| !text.is_empty() && *text != "Opaque")
    }

    /// What the API server would refuse in a Secret: keys that it does not know, and names that it does not accept.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if let Value::Mapping(entries) = &self.node.value {
            let unknown = entries.iter().filter(|(key, _)| !SECRET_KEYS.contains(&key.text.as_str()));
            faults.extend(unknown.map(|(key, _)| format!("{:?} {}", clean(&key.text), unknown_key(&key.text, &SECRET_KEYS))));
        }
        let names = [
            ("metadata.name", self.metadata("name"), is_subdomain as fn(&str) -> bool),
            ("metadata.namespace", self.metadata("namespace"), is_label),
        ];
        for (key, name, fits) in names {
            if let Some(name) = name.filter(|name| !fits(name)) {
                faults.push(no_name(key, name, "Kubernetes takes small letters, digits and `-`"));
            }
        }
        if let Some(secret_type) = self.secret_type().filter(|secret_type| secret_type.contains(['{', '}', '[', ' '])) {
            faults.push(no_name("type", secret_type, "such as kubernetes.io/tls"));
        }
        for section in ["data", "stringData"] {
            let Some(Value::Mapping(entries)) = field(self.node, section).map(|node| &node.value) else { continue };
            let wrong = entries.iter().filter(|(key, _)| !is_key(&key.text));
            faults.extend(wrong.map(|(key, _)| no_name(section, &key.text, "keys have letters, digits, `-`, `_` and `.`")));
        }
        faults
    }

    pub fn is_their_own(&self) -> bool {
        self.secret_type().is_some_and(|secret_type| THEIR_OWN.contains(&secret_type))
    }
}

/// The message about a name that Kubernetes does not accept.
fn no_name(key: &str, name: &str, takes: &str) -> String {
    let why = marks::of_broken(name).or_else(|| marks::of_value(name.as_bytes())).map(|mark| format!("is {} ({})", mark.what, mark.remedy));
    format!("{key}: {:?} {}", clean(name), why.unwrap_or_else(|| format!("is not allowed ({takes})")))
}

/// Whether a Secret can have it as a key.
fn is_key(key: &str) -> bool {
    !matches!(key, "" | "." | "..") && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// A Secret's values. `stringData` replaces `data`, as in the API server.
///
/// # Errors
/// All faults. For a text that is not base64, `explain` may give the message.
pub fn values(node: &Node, explain: impl Fn(&str) -> Option<String>) -> Result<Vec<(String, Vec<u8>)>, Vec<String>> {
    let (mut values, mut faults) = (BTreeMap::new(), Faults::default());
    let section = |key: &'static str, faults: &mut Faults| {
        let node = field(node, key)?;
        Reader::of(node, key, faults).map(|reader| (node.at, strings(&reader, faults)))
    };
    if let Some((at, data)) = section("data", &mut faults) {
        for (key, text) in data {
            let squeezed = Zeroizing::new(text.split_ascii_whitespace().collect::<String>());
            if let Ok(value) = BASE64.decode(squeezed.as_bytes()) {
                values.insert(key, value);
            } else {
                let problem = explain(&text).unwrap_or_else(|| "is not valid base64".to_owned());
                faults.add(at, format!("data.{key}"), problem);
            }
        }
    }
    if let Some((_, data)) = section("stringData", &mut faults) {
        values.extend(data.into_iter().map(|(key, text)| (key, text.into_bytes())));
    }
    if faults.is_empty() {
        return Ok(values.into_iter().collect());
    }
    Err(faults.into_sorted().iter().map(ToString::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::parse_all;

    #[test]
    fn lists_are_looked_into_and_say_what_their_items_are() {
        let text = "kind: SecretList\napiVersion: v1\nitems: [{ metadata: { name: a } }, { kind: Secret, apiVersion: v1, metadata: { name: b } }]\n---\n\
                    kind: List\napiVersion: v1\nitems: [{ kind: SecretList, apiVersion: v1, items: [{ metadata: { name: c } }] }, { kind: ConfigMap, apiVersion: v1 }]\n---\n---\n\
                    kind: SecretList\napiVersion: v1\nitems:\n---\nkind: Secret\napiVersion: v2\n";
        let documents = parse_all(text).unwrap();
        let seen: Vec<_> = objects(&documents).iter().map(|object| (object.kind, object.is_secret(), object.metadata("name"))).collect();
        let secret = |name| ("Secret", true, Some(name));
        assert_eq!(seen, [secret("a"), secret("b"), secret("c"), ("ConfigMap", false, None), ("Secret", false, None)]);
    }
}
