//! What Keyferry knows of a configured file vault before it opens it.

use std::sync::Arc;

use async_trait::async_trait;

use super::{FileBackend, FileConfig, InvalidRevision, Revision, VaultName};
use crate::backend::examine::checked;
use crate::backend::{Backend, BackendError, Facts, HangsOn, Inadmissible, Kind, StoreLimits, Visitor, only_reads};
use crate::clock::Clock;
use crate::model::{BackendName, Diagnosis, InvalidName, Method, NamedFile, RefParts, SecretName, Version};

#[async_trait]
impl Kind for FileConfig {
    fn facts(&self) -> Facts<'_> {
        let files = self.identity.iter().map(|path| NamedFile::secret("identity", path)).collect();
        Facts { files, ..Facts::default() }
    }

    fn hangs_on(&self) -> HangsOn {
        let all = HangsOn::default().and("kind", "file").and("vault", self.vault.display());
        self.identity.iter().fold(all, |all, path| all.and("identity", path.display()))
    }

    fn canonical(&self, name: &str) -> Result<SecretName, InvalidName> {
        name.parse().map(VaultName::into)
    }

    fn pin(&self, version: &str) -> Result<Version, String> {
        version.parse().map(Revision::into).map_err(|error: InvalidRevision| error.to_string())
    }

    /// A vault only reads, and nobody logs in there. It lists its folders.
    fn admit(&self, asked: RefParts) -> Result<RefParts, Inadmissible> {
        let method = if asked.name.is_folder() { Method::Get } else { asked.method };
        let admitted = only_reads(RefParts { method, ..asked.clone() }, "file vault")?;
        Ok(RefParts { method: asked.method, ..admitted })
    }

    fn open(&self, name: &BackendName, limits: StoreLimits, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Backend>, BackendError> {
        let store = FileBackend::open(name.clone(), self, limits.secret_bytes, Arc::clone(clock))?;
        Ok(Arc::new(store.remembering(limits.remembered)))
    }

    async fn examine(
        &self,
        name: &BackendName,
        limits: StoreLimits,
        clock: &Arc<dyn Clock>,
        _: Option<Visitor>,
    ) -> Result<Vec<Diagnosis>, BackendError> {
        let store = self.open(name, limits, clock)?;
        Ok(checked(&*store, name, format!("the vault {} is there, and its identities are read", self.vault.display())).await)
    }
}
