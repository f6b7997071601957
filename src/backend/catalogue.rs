//! Turns what a class asks for into requests to the configured stores. No store is opened for this.

use std::collections::BTreeMap;

use super::{BackendConfig, Inadmissible, Kind, ServedDialects};
use crate::model::{Ask, BackendName, Catalogue, InvalidName, Method, RefParts, SecretName, SecretRef, Serving, Unresolved};
use crate::nearest::nearest;

/// The configured stores by name. A mount and `keyferry check` judge classes by them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Configured {
    stores: BTreeMap<BackendName, BackendConfig>,
    dialects: ServedDialects,
    /// The backend for classes that name none.
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

impl Configured {
    /// The request for a secret or folder that a listing names. It uses the login of the listing. `name` begins at the listed folder.
    ///
    /// # Errors
    /// The store cannot have such a name, so nobody can ask for it.
    pub fn listed(&self, listing: &SecretRef, name: &str) -> Result<SecretRef, InvalidName> {
        let whole = format!("{}{name}", listing.name);
        let Some(config) = self.stores.get(&listing.backend) else { return whole.parse().map(|name| found(listing, name)) };
        let kind = config.kind();
        let name = match whole.strip_suffix('/') {
            Some(whole) => folder(kind, whole),
            None => kind.canonical(&whole),
        };
        name.map(|name| found(listing, name))
    }
}

/// The folder's name, if names inside of it are possible.
fn folder(kind: &dyn Kind, name: &str) -> Result<SecretName, InvalidName> {
    kind.canonical(&format!("{name}/x"))?.folder().ok_or(InvalidName::Empty)
}

fn found(listing: &SecretRef, name: SecretName) -> SecretRef {
    let method = if name.is_folder() { Method::List } else { Method::Get };
    listing.with(|parts| (parts.name, parts.method) = (name, method))
}

impl Catalogue for Configured {
    fn resolve(&self, ask: &Ask<'_>) -> Result<SecretRef, Unresolved> {
        let (backend, config) = self.find(ask.backend)?;
        let kind = config.kind();
        let named = |cause| Unresolved::Name { name: ask.name.chars().take(200).collect(), cause };
        let name = if ask.below { folder(kind, ask.name) } else { kind.canonical(ask.name) }.map_err(named)?;
        let version = ask.version.map(|version| kind.pin(version)).transpose().map_err(Unresolved::Version)?;
        let Ask { method, args, lease, keep, login, .. } = ask.clone();
        let method = if ask.below { Method::List } else { method };
        let asked = RefParts { backend: backend.clone(), name, version, method, args, lease, keep, login };
        kind.admit(asked).map(SecretRef::from).map_err(|refused| match refused {
            Inadmissible::Login { key, problem } => Unresolved::Login { key, problem },
            Inadmissible::NoLogin { key, problem } => Unresolved::NoLogin { key, problem },
            Inadmissible::Request { key, problem } => Unresolved::Request { key, problem },
        })
    }

    fn serving(&self, dialect: &str, address: Option<&str>, way: Option<&str>) -> Result<Serving, Unresolved> {
        self.dialects.find(dialect, address, way)
    }
}
