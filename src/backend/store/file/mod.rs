//! The file vault: a folder of age files, one per secret. It is the simplest store, and always current: Keyferry serves what is in the
//! folder. `docs/file-vault.md` describes layout and format.
//!
//! Reading and writing are separate: the daemon only reads ([`reader`]), and the command line writes ([`vault`]).

mod document;
mod exchange;
mod fault;
mod history;
mod identity;
mod key;
mod kind;
mod layout;
mod lock;
mod names;
mod queue;
mod read;
mod reader;
mod recipients;
mod rekey;
mod revision;
mod seal;
mod secret_type;
mod vault;
mod write;
mod writer;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::{Duration, Instant, timeout_at};

pub use age::x25519::Recipient;
pub use exchange::{Exchanged, InvalidExchange, Outgoing, read_exchange, write_exchange};
pub use fault::ReadFault;
pub use identity::{generate_identity, recipients_of};
pub use layout::{Layout, VaultName};
pub use reader::{Key, Opened, Reader};
pub use recipients::InvalidRecipients;
pub use rekey::{RekeyError, Rekeyed, Rekeying};
pub use revision::{InvalidRevision, Revision};
pub use secret_type::{InvalidSecretType, SecretType};
pub use vault::{Initialised, KEPT, MAX_BYTES, Vault, VaultError};
pub use writer::{Revisions, Writer};

use queue::Queue;
use reader::UNUSED;

use crate::backend::sweep::Swept;
use crate::backend::{Backend, BackendError, Fault, FetchContext, Scope};
use crate::clock::Clock;
use crate::files::{Located, absolute};
use crate::model::{BackendName, Fetched, Lease, PodIdentity, SecretName, SecretPrefix, SecretRef, Source, Tenant};
use crate::yaml;

/// How long a [`Backend::check`] may take.
const CHECK_TIME: Duration = Duration::from_secs(5);

/// The configuration of a file vault.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileConfig {
    /// The vault's folder.
    pub vault: PathBuf,
    /// age identity files: at least one.
    pub identity: Vec<PathBuf>,
}

/// Serves the secrets of one vault.
#[derive(Debug)]
pub struct FileBackend {
    name: BackendName,
    reader: Arc<Reader>,
    queue: Arc<Queue>,
}

// === impl FileConfig ===

impl FileConfig {
    /// Reads `vault` (a folder) and `identity` (a file, or a list of files).
    pub fn parse(reader: &mut yaml::Reader<'_>, faults: &mut yaml::Faults) -> Option<Self> {
        let vault = reader.parsed("vault", faults, absolute);
        let given = reader.texts("identity", faults);
        let mut identity = Vec::new();
        for (at, text) in given.iter().flatten() {
            match absolute(text) {
                Ok(path) => identity.push(path),
                Err(problem) => faults.add(*at, reader.path("identity"), problem),
            }
        }
        let named = reader.get("vault").is_some();
        if !named {
            reader.missing("vault", "the folder of age files, such as /var/lib/keyferry/vault", faults);
        }
        if given.is_none_or(|given| given.is_empty()) {
            reader.missing("identity", "the age identity file that opens them, such as /etc/keyferry/age.key, or a list of such", faults);
        }
        (!identity.is_empty()).then_some(Self { vault: vault?, identity })
    }
}

// === impl FileBackend ===

impl FileBackend {
    /// Reads the identity files. The vault itself may come later: until it is there, mounts say so.
    ///
    /// `max_secret_bytes` is the configuration's `limits.secretBytes`: the most bytes that the fields of one secret may hold.
    ///
    /// # Errors
    /// None of the identity files holds an X25519 identity.
    pub fn open(name: BackendName, config: &FileConfig, max_secret_bytes: usize, clock: Arc<dyn Clock>) -> Result<Self, BackendError> {
        match Reader::open(&config.vault, &config.identity, max_secret_bytes, clock) {
            Ok(reader) => Ok(Self { name, reader: Arc::new(reader), queue: Arc::default() }),
            Err(fault) => Err(error(name, None, fault)),
        }
    }

    /// With another limit in bytes for the opened secrets that it keeps.
    pub fn remembering(self, bytes: usize) -> Self {
        // Nobody else has the reader yet.
        match Arc::try_unwrap(self.reader) {
            Ok(reader) => Self { reader: Arc::new(reader.remembering(bytes)), ..self },
            Err(reader) => Self { reader, ..self },
        }
    }

    /// Reads on a thread that may have to wait. A file system of a network may hang for hours. Then this thread hangs, but not the mount,
    /// and no other backend.
    async fn read<T: Send + 'static>(
        &self,
        tenant: &Tenant,
        deadline: Instant,
        work: impl FnOnce(&Arc<Reader>) -> Result<T, ReadFault> + Send + 'static,
    ) -> Result<T, ReadFault> {
        let reader = Arc::clone(&self.reader);
        match timeout_at(deadline, self.queue.run(tenant, move || work(&reader))).await {
            Ok(Ok(answer)) => answer,
            // A bug: the handler of this mount answers for it.
            Ok(Err(Some(panic))) => std::panic::resume_unwind(panic),
            Ok(Err(None)) => Err(ReadFault::new(Fault::Unavailable, "the daemon is ending")),
            Err(_) => {
                let reason = "the vault's file system did not answer in time (is a network volume down?)";
                Err(ReadFault::new(Fault::TimedOut, reason))
            }
        }
    }

    /// Opens a secret, and makes sure that it is forgotten in time. The same thread does both: the mount may have given up by then.
    fn opening(key: Key, tenant: Tenant) -> impl FnOnce(&Arc<Reader>) -> Result<Opened, ReadFault> + Send {
        move |reader| {
            let opened = reader.read_for(&key, tenant.as_str());
            reader.sweeping().watch(reader, Instant::now() + UNUSED);
            opened
        }
    }

    /// What to read, if it is a read.
    fn key(secret: &SecretRef) -> Result<Key, ReadFault> {
        if !secret.is_plain() {
            let reason = "a file vault only reads secrets: it makes none, and takes no arguments (leave out `method` and `args`)";
            return Err(ReadFault::new(Fault::Unsupported, reason));
        }
        let pin = match &secret.version {
            None => None,
            Some(version) => Some(version.as_str().parse().map_err(|error: InvalidRevision| {
                let reason = error.to_string();
                ReadFault::new(Fault::Invalid, reason)
            })?),
        };
        Ok(Key { name: secret.name.clone(), pin })
    }

    fn fetched(&self, opened: Opened) -> Fetched {
        Fetched { secret: opened.secret, source: Source::Store, by: self.name.clone() }
    }

    fn error(&self, secret: Option<&SecretName>, fault: ReadFault) -> BackendError {
        error(self.name.clone(), secret.cloned(), fault)
    }

    fn no_leases(&self) -> BackendError {
        self.error(None, ReadFault::new(Fault::Unsupported, "a file vault gives no leases"))
    }
}

fn error(backend: BackendName, secret: Option<SecretName>, fault: ReadFault) -> BackendError {
    let ReadFault { fault, reason, told } = fault;
    BackendError::with(fault, backend, secret, told.clone(), (told != reason).then_some(reason))
}

#[async_trait]
impl Backend for FileBackend {
    async fn fetch(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError> {
        if let Some(known) = self.recall(secret, cx, Instant::now()) {
            return Ok(known);
        }
        let failed = |fault| self.error(Some(&secret.name), fault);
        if secret.name.is_folder() {
            let folder = secret.name.clone();
            let listing = self.read(&cx.tenant(), cx.deadline, move |reader| reader.listing(&folder)).await.map_err(failed)?;
            return Ok(Fetched { secret: Arc::new(listing), source: Source::Store, by: self.name.clone() });
        }
        let key = Self::key(secret).map_err(failed)?;
        let opened = self.read(&cx.tenant(), cx.deadline, Self::opening(key, cx.tenant())).await.map_err(failed)?;
        Ok(self.fetched(opened))
    }

    /// A secret that was opened before, if its file is still the same. Looks at a local file system only, because that does not hang.
    fn recall(&self, secret: &SecretRef, _: &FetchContext, now: Instant) -> Option<Fetched> {
        let key = Self::key(secret).ok()?;
        self.reader.recall(&key, now).map(|opened| self.fetched(opened))
    }

    async fn list(&self, prefix: &SecretPrefix, cx: &FetchContext) -> Result<Vec<SecretName>, BackendError> {
        let start = prefix.prefix.clone();
        self.read(&cx.tenant(), cx.deadline, move |reader| reader.list(&start)).await.map_err(|fault| self.error(None, fault))
    }

    async fn renew(&self, _: Lease, _: Instant) -> Result<Lease, BackendError> {
        Err(self.no_leases())
    }

    async fn revoke(&self, _: Lease, _: Instant) -> Result<(), BackendError> {
        Err(self.no_leases())
    }

    fn adopt(&self, _: &Lease) {}

    async fn forget(&self, _: &str, _: Instant) {}

    async fn check(&self) -> Result<(), BackendError> {
        self.read(&Tenant::from(""), Instant::now() + CHECK_TIME, |reader| reader.check()).await.map_err(|fault| self.error(None, fault))
    }

    /// Looks for a pinned revision among the earlier ones first.
    fn file(&self, secret: &SecretRef) -> Option<Located> {
        if secret.name.is_folder() {
            return self.reader.folder(&secret.name);
        }
        self.reader.file(&Self::key(secret).ok()?)
    }

    /// A vault does not know Pods: all Pods that may have a secret get the same answer.
    fn scope(&self, secret: &SecretRef, pod: &PodIdentity) -> Scope {
        if secret.is_plain() || secret.name.is_folder() { Scope::Node } else { Scope::Pod(Arc::clone(&pod.uid)) }
    }
}
