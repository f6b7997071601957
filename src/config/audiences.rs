//! No store may have `identity.audience`: a store that receives a Pod's token for the daemon could ask the daemon for that Pod's secrets.

use std::collections::BTreeMap;

use crate::backend::BackendConfig;
use crate::model::BackendName;
use crate::yaml::{Faults, Node, Position, Reader, Value};

/// The key whose list also has entries that are not in the file.
const CLASS_MAY: &str = "classMay.audience";

/// Every place where a backend's entry names the daemon's own audience.
pub(super) fn check(reader: &mut Reader<'_>, backends: &BTreeMap<BackendName, BackendConfig>, own: &str, faults: &mut Faults) {
    let Some(node) = reader.get("backends") else { return };
    for (name, backend) in backends {
        for (key, audience) in backend.kind().facts().audiences().into_iter().filter(|(_, audience)| *audience == own) {
            let (at, said) = find(node, [name.as_str()].into_iter().chain(key.split('.')), audience);
            // A class of another provider may get that provider's own audience where none is named; the policy refuses this audience if a
            // class names it.
            if !said && key == CLASS_MAY {
                continue;
            }
            let is = if said {
                format!("{audience:?} is identity.audience")
            } else {
                format!("is {audience:?} by default, and so is identity.audience")
            };
            let problem = format!(
                "{is}: Keyferry gives no store a Pod's token for Keyferry itself (name the store's own audience, \
                 and add it to tokenRequests of the CSIDriver object)"
            );
            faults.add(at, format!("backends.{name}.{key}"), problem);
        }
    }
}

/// Checks each backend where Keyferry logs in with the Pods' tokens: without verified tokens, no mount from it could ever work.
pub(super) fn check_verified(reader: &mut Reader<'_>, backends: &BTreeMap<BackendName, BackendConfig>, faults: &mut Faults) {
    let Some(node) = reader.get("backends") else { return };
    for (name, backend) in backends {
        let Some(audience) = backend.kind().facts().audience else { continue };
        let (at, _) = find(node, [name.as_str()].into_iter().chain(audience.key.split('.')), audience.text);
        let problem = "Keyferry logs in here with the Pods' own tokens, but with identity.verify: driver it verifies no token and \
                       sends none to a store (set identity.verify to jwks or token-review, or choose a login with the daemon's own \
                       credentials)";
        faults.add(at, format!("backends.{name}.auth"), problem);
    }
}

/// The place of a key, or of the part of its path that exists; and whether the audience is written there, alone or in a list.
fn find<'k>(node: &Node, keys: impl Iterator<Item = &'k str>, audience: &str) -> (Position, bool) {
    let mut found = node;
    for key in keys {
        let inner = match &found.value {
            Value::Mapping(entries) => entries.iter().find(|(known, _)| known.text == key).map(|(_, node)| node),
            Value::Null | Value::Scalar { .. } | Value::Sequence(_) => None,
        };
        match inner {
            Some(inner) => found = inner,
            None => return (found.at, false),
        }
    }
    match &found.value {
        Value::Sequence(items) => (items.iter().find(|item| item.text() == Some(audience)).map_or(found.at, |item| item.at), true),
        Value::Mapping(_) | Value::Null | Value::Scalar { .. } => (found.at, found.text() == Some(audience)),
    }
}
