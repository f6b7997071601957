//! Checks the names in a class if there is no configuration.

use crate::model::{Ask, BackendName, Catalogue, Method, RefParts, SecretName, SecretRef, Serving, Unresolved, Version};

/// The backend of a class that names none, if there is no configuration. A configuration is not likely to have a backend of this name.
pub const UNNAMED: &str = "-";

/// Without a configuration: every backend exists, and only the rules for names that all backends share apply.
#[derive(Debug)]
pub struct Anything;

impl Catalogue for Anything {
    fn resolve(&self, ask: &Ask<'_>) -> Result<SecretRef, Unresolved> {
        let backend = ask.backend.unwrap_or(UNNAMED).parse::<BackendName>().map_err(|error| Unresolved::Backend(error.to_string()))?;
        // In a store with namespaces, the namespace is a part of the name.
        let namespace = ask.login.namespace.as_deref().filter(|namespace| *namespace != "root");
        let name = namespace.map_or_else(|| ask.name.to_owned(), |namespace| format!("{namespace}/{}", ask.name));
        let named = |cause| Unresolved::Name { name: ask.name.chars().take(200).collect(), cause };
        let name = with_empty(&name, ask.below).unwrap_or(name);
        let name = if ask.below { SecretName::escapable_or_folder(&format!("{name}/")) } else { name.parse() }.map_err(named)?;
        let Ask { method, args, lease, keep, login, .. } = ask.clone();
        let method = if ask.below { Method::List } else { method };
        Ok(RefParts { backend, name, version: ask.version.map(Version::new), method, args, lease, keep, login }.into())
    }

    fn serving(&self, _: &str, _: Option<&str>, _: Option<&str>) -> Result<Serving, Unresolved> {
        let backend = UNNAMED.parse::<BackendName>().map_err(|error| Unresolved::Backend(error.to_string()))?;
        // The backend's audience is not known, so it is not a fault.
        Ok(Serving { backend, by_address: false, names_audience: true })
    }
}

/// Names in AWS Secrets Manager may have empty elements. The store reads `secretsmanager//a` as `secretsmanager/~/a`.
fn with_empty(name: &str, below: bool) -> Option<String> {
    const STORE: &str = "secretsmanager/";
    let rest = name.strip_prefix(STORE).filter(|rest| below || !rest.is_empty())?;
    Some(format!("{STORE}{}", SecretName::without_empty(rest)))
}
