//! One entry under `backends`: which kind of store it is.

use std::sync::Arc;

use super::examine::{Visitor, failure};
use super::failover::{Beside, FailoverConfig};
use super::kind::{Kind, StoreLimits};
use super::store::aws::AwsConfig;
use super::store::file::FileConfig;
use super::store::http::HttpBackendConfig;
use super::store::vault::VaultConfig;
use crate::clock::Clock;
use crate::model::{BackendName, Diagnosis};
use crate::yaml::{Faults, Node, Reader, Value};

/// A configured store. Its [`Kind`] says what is known of it. Two equal ones would become the same backend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum BackendConfig {
    Aws(Box<AwsConfig>),
    Failover(Box<FailoverConfig>),
    File(FileConfig),
    Http(Box<HttpBackendConfig>),
    Vault(Box<VaultConfig>),
}

/// Reads what an entry says besides its `kind`; the caller ends the reading.
type Parse = fn(&mut Reader<'_>, &mut Faults) -> Option<BackendConfig>;

/// The kinds that this version serves, as the key `kind` has them.
const KINDS: [(&str, Parse); 4] = [
    ("aws", |reader, faults| AwsConfig::parse(reader, faults).map(|config| BackendConfig::Aws(Box::new(config)))),
    ("file", |reader, faults| FileConfig::parse(reader, faults).map(BackendConfig::File)),
    ("http", |reader, faults| HttpBackendConfig::parse(reader, faults).map(|config| BackendConfig::Http(Box::new(config)))),
    ("vault", |reader, faults| VaultConfig::parse(reader, faults).map(|config| BackendConfig::Vault(Box::new(config)))),
];

/// Kinds that are planned but not built. Keyferry refuses their configuration with a message of their own.
const NOT_YET: [&str; 2] = ["azure", "gcp"];

/// The kind of an entry whose members are other entries.
pub(super) const FAILOVER: &str = "failover";

impl BackendConfig {
    /// Reads one entry. `beside` has the others: a failover depends on the entries that it names, so it is read after them.
    pub fn parse(mut reader: Reader<'_>, beside: Beside<'_>, faults: &mut Faults) -> Option<Self> {
        let Some(node) = reader.get("kind") else {
            reader.missing("kind", "which store it is, such as kind: file", faults);
            return None;
        };
        let served = || [FAILOVER].into_iter().chain(KINDS.map(|(kind, _)| kind)).collect::<Vec<_>>().join(", ");
        let problem = match node.text() {
            Some(FAILOVER) => {
                let config = FailoverConfig::parse(&mut reader, beside, faults);
                reader.finish(faults);
                return config.map(|config| Self::Failover(Box::new(config)));
            }
            Some(kind) => match KINDS.iter().find(|(known, _)| *known == kind) {
                Some((_, parse)) => {
                    let config = parse(&mut reader, faults);
                    reader.finish(faults);
                    return config;
                }
                None if NOT_YET.contains(&kind) => format!("{kind:?} is not yet supported (this version serves: {})", served()),
                None => format!("{kind:?} is not a kind of backend (this version serves: {})", served()),
            },
            None => format!("is {}, but must be a text (such as kind: file)", node.kind()),
        };
        faults.add(node.at, reader.path("kind"), problem);
        None
    }

    /// The kind that an entry names. The rest of the entry does not matter.
    pub fn kind_in(entry: &Node) -> Option<&str> {
        let Value::Mapping(entries) = &entry.value else { return None };
        entries.iter().find(|(key, _)| key.text == "kind").and_then(|(_, node)| node.text())
    }

    /// Whether an entry is one of [`BackendConfig::Failover`].
    pub fn is_failover(entry: &Node) -> bool {
        Self::kind_in(entry) == Some(FAILOVER)
    }

    /// Looks at the store for `keyferry doctor`, as [`Kind::examine`] does.
    pub async fn examine(
        &self,
        name: &BackendName,
        limits: StoreLimits,
        clock: &Arc<dyn Clock>,
        visitor: Option<Visitor>,
    ) -> Vec<Diagnosis> {
        let looked = self.kind().examine(name, limits, clock, visitor).await;
        looked.unwrap_or_else(|error| vec![failure(name, &error)])
    }

    pub fn kind(&self) -> &dyn Kind {
        match self {
            Self::Aws(config) => &**config,
            Self::Failover(config) => &**config,
            Self::File(config) => config,
            Self::Http(config) => &**config,
            Self::Vault(config) => &**config,
        }
    }
}
