//! One entry under `backends`: which kind of store it is.

use std::sync::Arc;

use super::examine::{Visitor, failure};
use super::kind::{Kind, StoreLimits};
use super::store::file::FileConfig;
use super::store::http::HttpBackendConfig;
use super::store::vault::VaultConfig;
use crate::clock::Clock;
use crate::model::{BackendName, Diagnosis};
use crate::yaml::{Faults, Reader};

/// A configured store. What it knows, it says as a [`Kind`]; two that are equal would become the same backend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum BackendConfig {
    File(FileConfig),
    Http(Box<HttpBackendConfig>),
    Vault(Box<VaultConfig>),
}

/// Reads what an entry says besides its `kind`; the caller ends the reading.
type Parse = fn(&mut Reader<'_>, &mut Faults) -> Option<BackendConfig>;

/// The kinds that are served, as `kind` writes them.
const KINDS: [(&str, Parse); 3] = [
    ("file", |reader, faults| FileConfig::parse(reader, faults).map(BackendConfig::File)),
    ("http", |reader, faults| HttpBackendConfig::parse(reader, faults).map(|config| BackendConfig::Http(Box::new(config)))),
    ("vault", |reader, faults| VaultConfig::parse(reader, faults).map(|config| BackendConfig::Vault(Box::new(config)))),
];

/// Kinds that are designed and not built; their configuration is refused with these words.
const NOT_YET: [&str; 4] = ["aws", "azure", "failover", "gcp"];

impl BackendConfig {
    /// Reads one entry.
    pub fn parse(mut reader: Reader<'_>, faults: &mut Faults) -> Option<Self> {
        let Some(node) = reader.get("kind") else {
            reader.missing("kind", "which store it is, such as kind: file", faults);
            return None;
        };
        let served = || KINDS.map(|(kind, _)| kind).join(", ");
        let problem = match node.text() {
            Some(kind) => match KINDS.iter().find(|(known, _)| *known == kind) {
                Some((_, parse)) => {
                    let config = parse(&mut reader, faults);
                    reader.finish(faults);
                    return config;
                }
                None if NOT_YET.contains(&kind) => format!("{kind:?} is not yet supported (it serves: {})", served()),
                None => format!("{kind:?} is no kind of backend (this version serves: {})", served()),
            },
            None => format!("is {}, but must be a text (such as kind: file)", node.kind()),
        };
        faults.add(node.at, reader.path("kind"), problem);
        None
    }

    /// A look at it, for `keyferry doctor`: as [`Kind::examine`].
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
            Self::File(config) => config,
            Self::Http(config) => &**config,
            Self::Vault(config) => &**config,
        }
    }
}
