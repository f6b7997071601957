//! What Keyferry knows about a configured store over HTTP before it opens the store.

use std::sync::Arc;

use async_trait::async_trait;

use super::HttpBackend;
use super::config::{Auth, HttpBackendConfig, Pins};
use super::version::{MAX_VERSION, is_version};
use crate::backend::examine::checked;
use crate::backend::{Audience, Backend, BackendError, Facts, HangsOn, Inadmissible, Kind, StoreLimits, Visitor, only_reads};
use crate::clock::Clock;
use crate::model::{BackendName, Diagnosis, InvalidName, RefParts, SecretName, Version};

#[async_trait]
impl Kind for HttpBackendConfig {
    fn facts(&self) -> Facts<'_> {
        let audience = match &self.auth {
            Auth::BearerPod(audience) => Some(Audience { key: "auth.bearer.podToken", text: audience, named: true }),
            Auth::Basic { .. } | Auth::BearerFile(_) | Auth::None => None,
        };
        Facts { address: Some(&self.url.endpoint), audience, cache: Some(self.cache), files: self.files(), ..Facts::default() }
    }

    fn hangs_on(&self) -> HangsOn {
        self.written()
    }

    /// Each request carries the login, and the store may answer 401 to only one of them.
    fn logs_in(&self) -> bool {
        false
    }

    fn canonical(&self, name: &str) -> Result<SecretName, InvalidName> {
        name.parse()
    }

    fn pin(&self, version: &str) -> Result<Version, String> {
        if self.pins == Pins::Never {
            return Err(
                "cannot be pinned in this store (remove it; or the cluster's admin sets versionQuery of the backend, or {version} in its \
                        url)"
                    .to_owned(),
            );
        }
        if !is_version(version) {
            let shown: String = version.chars().take(40).collect();
            return Err(format!("{shown:?} is not a version (1 to {MAX_VERSION} bytes, no control characters, not `.` or `..`)"));
        }
        Ok(Version::new(version))
    }

    /// An HTTP store only reads, and no class says who asks there.
    fn admit(&self, asked: RefParts) -> Result<RefParts, Inadmissible> {
        if asked.name.is_folder() {
            let problem = "cannot be read from a store over HTTP, which has no listings (write an object for each secret)".to_owned();
            return Err(Inadmissible::Request { key: "prefix", problem });
        }
        only_reads(asked, "store over HTTP")
    }

    fn open(&self, name: &BackendName, limits: StoreLimits, _: &Arc<dyn Clock>) -> Result<Arc<dyn Backend>, BackendError> {
        Ok(Arc::new(HttpBackend::open(name.clone(), self, limits.secret_bytes)?))
    }

    async fn examine(
        &self,
        name: &BackendName,
        limits: StoreLimits,
        clock: &Arc<dyn Clock>,
        _: Option<Visitor>,
    ) -> Result<Vec<Diagnosis>, BackendError> {
        let store = self.open(name, limits, clock)?;
        Ok(checked(&*store, name, format!("the store at {} answers", self.url.endpoint)).await)
    }
}
