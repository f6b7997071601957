//! What Keyferry knows of a configured server before the first call.

use std::sync::Arc;

use async_trait::async_trait;

use super::config::{Share, VaultConfig, canonical, canonical_namespace, check_request, refused};
use super::{VaultBackend, own};
use crate::backend::{Backend, BackendError, Facts, HangsOn, Inadmissible, Kind, StoreLimits, Visitor};
use crate::clock::Clock;
use crate::model::{BackendName, Diagnosis, InvalidName, Login, LoginKey, RefParts, SecretName, Version, quoted};
use crate::policy::{Bounds, Own};

#[async_trait]
impl Kind for VaultConfig {
    fn facts(&self) -> Facts<'_> {
        let own = Own { namespace: self.namespace.clone(), judge: own::judge };
        Facts {
            ending: "",
            firsts: &[],
            dialects: &["openbao", "vault"],
            address: Some(&self.address),
            audience: self.audience(),
            batch: 0,
            bounds: Bounds { class_may: Some(self.class_may.clone()), own: Some(own), members: Vec::new() },
            cache: Some(self.cache),
            files: self.files(),
            origin: self.origin(),
            region: None,
            way: None,
            servers: &[],
            updates: true,
            version: Some("v1"),
        }
    }

    fn hangs_on(&self) -> HangsOn {
        let shared = match self.share {
            Share::Pod => Some("pod"),
            Share::ServiceAccount => None,
        };
        HangsOn::default().and("kind", "vault").and("entered", self.origin().as_str()).and_tls(&self.tls).and_some("share", shared)
    }

    /// Refuses a name that is not canonical: the server would read another one. Also refuses a name that begins with `v1/`, as in an
    /// address, unless the backend's namespace is called `v1`.
    fn canonical(&self, name: &str) -> Result<SecretName, InvalidName> {
        let rest = name.strip_prefix("v1/").filter(|rest| !rest.is_empty() && self.namespace.split('/').next() != Some("v1"));
        match rest {
            Some(rest) => {
                let problem = format!("begins with `v1/`, which belongs to the API, not to a name (write {})", quoted(rest));
                Err(InvalidName::Store(problem))
            }
            None => canonical(name),
        }
    }

    /// KV v2 counts versions.
    fn pin(&self, version: &str) -> Result<Version, String> {
        match version.parse::<u64>() {
            Ok(number) if number > 0 => Ok(Version::new(number.to_string())),
            Ok(_) | Err(_) => {
                let shown: String = version.chars().take(40).collect();
                Err(format!("{shown:?} is not a version: KV v2 counts them from 1"))
            }
        }
    }

    /// Drops login keys that the class sets as the configuration does, and puts the namespace in front of the name.
    fn admit(&self, mut asked: RefParts) -> Result<RefParts, Inadmissible> {
        check_request(&asked)?;
        self.check_login(&asked.login)?;
        let login = std::mem::take(&mut asked.login);
        let namespace = match &login.namespace {
            Some(namespace) => canonical_namespace(namespace).map_err(|problem| refused(LoginKey::Namespace, problem))?,
            None => self.namespace.clone(),
        };
        asked.login = self.without_equals(&login)?;
        if !namespace.is_empty() {
            let within = format!("{namespace}/{}", asked.name);
            let too_long = |cause: InvalidName| refused(LoginKey::Namespace, format!("with it the name {cause}"));
            asked.name = SecretName::escapable_or_folder(&within).map_err(too_long)?;
        }
        Ok(asked)
    }

    fn own_login(&self, login: &Login) -> Login {
        self.without_equals(login).unwrap_or_else(|_| login.clone())
    }

    fn open(&self, name: &BackendName, limits: StoreLimits, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Backend>, BackendError> {
        Ok(Arc::new(VaultBackend::open(name.clone(), self, limits, Arc::clone(clock))?))
    }

    async fn examine(
        &self,
        name: &BackendName,
        limits: StoreLimits,
        clock: &Arc<dyn Clock>,
        visitor: Option<Visitor>,
    ) -> Result<Vec<Diagnosis>, BackendError> {
        let backend = VaultBackend::open(name.clone(), self, limits, Arc::clone(clock))?;
        Ok(backend.examine(visitor).await)
    }
}
