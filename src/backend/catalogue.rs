//! What the configured stores make of what a class asks for. None of them is opened for it.

use std::collections::BTreeMap;

use super::{BackendConfig, Inadmissible, ServedDialects};
use crate::model::{Ask, BackendName, Catalogue, RefParts, SecretRef, Serving, Unresolved};
use crate::nearest::nearest;

/// The configured stores by name: what classes are judged by, in a mount as in `keyferry check`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Configured {
    stores: BTreeMap<BackendName, BackendConfig>,
    dialects: ServedDialects,
    /// For classes that name none.
    default: Option<BackendName>,
}

impl Configured {
    /// `dialects` are those for which the configuration names a backend (`dialects.<name>.backend`).
    pub fn new(stores: BTreeMap<BackendName, BackendConfig>, dialects: &BTreeMap<String, BackendName>) -> Self {
        Self { dialects: ServedDialects::new(&stores, dialects), stores, default: None }
    }

    /// The backend of classes that name none (`defaultBackend`).
    pub fn with_default(self, default: Option<BackendName>) -> Self {
        Self { default, ..self }
    }

    pub fn stores(&self) -> &BTreeMap<BackendName, BackendConfig> {
        &self.stores
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.stores.keys().map(BackendName::as_str)
    }

    fn known(&self) -> String {
        self.names().collect::<Vec<_>>().join(", ")
    }

    fn find(&self, backend: Option<&str>) -> Result<(&BackendName, &BackendConfig), Unresolved> {
        let Some(wanted) = backend.or(self.default.as_ref().map(BackendName::as_str)) else {
            let mut all = self.stores.iter();
            return match (all.next(), all.next()) {
                (Some(only), None) => Ok(only),
                _ => Err(Unresolved::Backend(format!(
                    "no backend is named, and this node has several (set backend to one of: {}; or the cluster's admin can set defaultBackend)",
                    self.known()
                ))),
            };
        };
        self.stores.iter().find(|(name, _)| name.as_str() == wanted).ok_or_else(|| {
            let shown: String = wanted.chars().take(80).collect();
            Unresolved::Backend(match nearest(wanted, self.names()) {
                Some(near) => format!("there is no backend {shown:?} on this node (did you mean `{near}`?)"),
                None => format!("there is no backend {shown:?} on this node (there are: {})", self.known()),
            })
        })
    }
}

impl Catalogue for Configured {
    fn resolve(&self, ask: &Ask<'_>) -> Result<SecretRef, Unresolved> {
        let (backend, config) = self.find(ask.backend)?;
        let kind = config.kind();
        let name = kind.canonical(ask.name);
        let name = name.map_err(|cause| Unresolved::Name { name: ask.name.chars().take(200).collect(), cause })?;
        let version = ask.version.map(|version| kind.pin(version)).transpose().map_err(Unresolved::Version)?;
        let Ask { method, args, lease, keep, login, .. } = ask.clone();
        let asked = RefParts { backend: backend.clone(), name, version, method, args, lease, keep, login };
        kind.admit(asked).map(SecretRef::from).map_err(|refused| match refused {
            Inadmissible::Login { key, problem } => Unresolved::Login { key, problem },
            Inadmissible::NoLogin { key, problem } => Unresolved::NoLogin { key, problem },
            Inadmissible::Request { key, problem } => Unresolved::Request { key, problem },
        })
    }

    fn serving(&self, dialect: &str, address: Option<&str>) -> Result<Serving, Unresolved> {
        self.dialects.find(dialect, address)
    }
}
