//! The mapping under `dialects`: which backend serves the classes of another provider, where this is not clear.

use std::collections::BTreeMap;

use crate::backend::{BackendConfig, logs_in_as_pod, methods_as_pod};
use crate::model::BackendName;
use crate::nearest::nearest;
use crate::yaml::{Faults, Reader};

const DIALECTS: [&str; 5] = ["vault", "openbao", "aws", "azure", "gcp"];

/// The providers whose classes are not supported yet.
const LATER: [&str; 2] = ["azure", "gcp"];

/// Which backend serves which dialect's classes. If the backend itself has faults, that is not a fault of the dialect.
pub(super) fn parse(
    reader: &mut Reader<'_>,
    backends: &BTreeMap<BackendName, BackendConfig>,
    faults: &mut Faults,
) -> BTreeMap<String, BackendName> {
    let configured = reader.get("backends").and_then(|node| Reader::of(node, "backends", &mut Faults::default()));
    let configured = configured.map(|backends| backends.entries()).unwrap_or_default();
    let mut dialects = BTreeMap::new();
    let Some(mut all) = reader.reader("dialects", faults) else { return dialects };
    for dialect in DIALECTS {
        let Some(node) = all.get(dialect) else { continue };
        if LATER.contains(&dialect) {
            faults.add(node.at, all.path(dialect), "is not yet supported (leave it out)");
            continue;
        }
        let Some(mut inner) = all.reader(dialect, faults) else { continue };
        if inner.get("backend").is_none() {
            inner.missing("backend", "the name of the backend that serves these classes, such as backend: bao", faults);
        }
        let serves = |name: &str| match (name.parse::<BackendName>(), backends.iter().find(|(known, _)| known.as_str() == name)) {
            (Ok(name), Some((_, config))) if config.kind().facts().dialects.contains(&dialect) => {
                // 0.1.0 accepted such a backend for the other dialects. After an upgrade the daemon must still start: it refuses the classes.
                if dialect != "aws" || logs_in_as_pod(config) { Ok(name) } else { Err(no_login(dialect, &name)) }
            }
            (Ok(name), None) if configured.iter().any(|(known, _)| known.text == name.as_str()) => Ok(name),
            (_, Some(_)) => {
                Err(format!("{name:?} cannot serve classes of the dialect {dialect} (name a backend of the kind {})", kind_of(dialect)))
            }
            (_, None) => Err(no_backend(name, configured.iter().map(|(known, _)| known.text.as_str()))),
        };
        dialects.extend(inner.parsed("backend", faults, serves).map(|name| (dialect.to_owned(), name)));
        inner.finish(faults);
    }
    all.finish(faults);
    dialects
}

/// Keyferry logs in to the backend with its own credential.
fn no_login(dialect: &str, name: &BackendName) -> String {
    let methods = methods_as_pod(dialect);
    format!(
        "{:?} cannot serve classes of the dialect {dialect}: they log in as the Pod, and Keyferry logs in there with a credential of its own \
         (name a backend with auth.method {methods}, or remove `dialects.{dialect}` and write classes in the native format)",
        name.as_str()
    )
}

/// The kind of store that a provider's classes are for.
fn kind_of(dialect: &str) -> &'static str {
    if dialect == "aws" { "aws" } else { "vault" }
}

pub(super) fn no_backend<'n>(name: &str, configured: impl Iterator<Item = &'n str> + Clone) -> String {
    match nearest(name, configured.clone()) {
        Some(near) => format!("there is no backend {name:?} (did you mean {near:?}?)"),
        None => format!("there is no backend {name:?} (there are: {})", configured.collect::<Vec<_>>().join(", ")),
    }
}
