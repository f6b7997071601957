//! The text under `objects` as the provider reads it: with sigs.k8s.io/yaml, and with keys in upper or lower case.

use crate::steps::Steps;
use crate::yaml::{self, Faults, Node, Reader, Schema, Unparsed, Value};

pub(super) const OBJECT_KEYS: &[&str] =
    &["objectName", "objectType", "objectAlias", "objectVersion", "objectVersionLabel", "filePermission", "jmesPath", "failoverObject"];

/// Of an entry of `jmesPath`.
pub(super) const JMES_KEYS: [&str; 3] = ["path", "objectAlias", "filePermission"];

pub(super) fn parse(text: &str, steps: &Steps) -> Result<Node, Unparsed> {
    let mut document = yaml::parse_as(Schema::Kubernetes, text, steps)?;
    respell(&mut document);
    Ok(document)
}

/// Writes each known key in its own spelling. `failoverObject` has keys of an object.
fn respell(node: &mut Node) {
    match &mut node.value {
        Value::Mapping(entries) => {
            for (key, node) in entries {
                let mut known = OBJECT_KEYS.iter().chain(&JMES_KEYS);
                if let Some(known) = known.find(|known| known.eq_ignore_ascii_case(&key.text)) {
                    (*known).clone_into(&mut key.text);
                }
                respell(node);
            }
        }
        Value::Sequence(items) => items.iter_mut().for_each(respell),
        Value::Null | Value::Scalar { .. } => {}
    }
}

/// A key that is written in two cases: the provider takes the last one.
pub(super) fn refuse_doubles(reader: &Reader<'_>, faults: &mut Faults) {
    let entries = reader.entries();
    for (at, (key, _)) in entries.iter().enumerate() {
        if entries[..at].iter().any(|(earlier, _)| earlier.text == key.text) {
            faults.add(key.at, reader.path(&key.text), "is there twice: upper and lower case are the same here (remove one)");
        }
    }
}
