//! Encrypting a vault again: every revision of every secret, for the recipients that the vault has now.
//!
//! Keyferry writes nothing before it has opened every file, so a file that does not open stops it before the first change. Then it replaces
//! each file as a whole, and the list of recipients last. If it is cut short, the vault still works, and the same command finishes the work.
//! It encrypts the same text as before. So the revisions stay as they are, and with them the versions that Pods see.

use std::fs;
use std::mem;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use age::x25519::Recipient;
use thiserror::Error;
use zeroize::Zeroizing;

use super::document::Document;
use super::identity::{Identities, Keys};
use super::layout::{Layout, VaultName};
use super::names;
use super::recipients::Recipients;
use super::vault::{doing, vault_name};
use super::writer::lock;
use super::{ReadFault, Revision, Vault, VaultError, seal, write};

/// How many files are written with one sync.
const BATCH: usize = 2_000;

/// How many bytes of new files it keeps in memory until every file has been opened. It opens and encrypts all others a second time.
const KEPT: usize = if cfg!(test) { 1024 } else { 64 * 1024 * 1024 };

/// The result of a rekey.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rekeyed {
    pub secrets: usize,
    /// Earlier revisions, also those of removed secrets.
    pub earlier: usize,
    /// How many recipients the vault has now, and how many were added and removed.
    pub recipients: usize,
    pub added: usize,
    pub removed: usize,
    /// One line per file that was left as it was.
    pub skipped: Vec<String>,
}

/// What to do with a vault.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rekeying<'a> {
    pub add: &'a [Recipient],
    pub remove: &'a [Recipient],
    /// Leave files that cannot be opened as they are, instead of changing nothing.
    pub skip_unreadable: bool,
    pub dry_run: bool,
}

/// Why a vault could not be encrypted again.
#[derive(Debug, Error)]
pub enum RekeyError {
    #[error(transparent)]
    Identity(ReadFault),
    /// One line per file; nothing was changed.
    #[error("{}\nnote: nothing was changed: every file must open first (give each identity that is needed, or leave these files as they are: --skip-unreadable)", .0.join("\n"))]
    Unopened(Vec<String>),
    #[error(transparent)]
    Vault(#[from] VaultError),
}

/// One encrypted file.
pub(super) struct Sealed {
    path: PathBuf,
    pub(super) name: VaultName,
    /// `None`: the current one.
    pub(super) revision: Option<Revision>,
}

impl Vault {
    /// Encrypts everything again. `progress` gets how many files are done, and how many there are.
    pub fn rekey(
        &self,
        identities: &[PathBuf],
        wanted: Rekeying<'_>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Rekeyed, RekeyError> {
        let keys = Identities::open_all(identities).and_then(|identities| identities.refresh()).map_err(RekeyError::Identity)?;
        self.recipients()?;
        let layout = self.layout();
        let _lock = lock(layout)?;
        let mut list = Recipients::read(layout).map_err(VaultError::from)?;
        let (added, removed) = list.change(layout, wanted.add, wanted.remove).map_err(VaultError::from)?;
        let list = list.usable(layout).map_err(VaultError::from)?;
        let files = sealed_files(layout)?;
        let work = Work { keys: &keys, recipients: &list.keys, room: AtomicUsize::new(KEPT), done: AtomicUsize::new(0), all: files.len() };
        let mut secrets = work.encrypt_all(&files, progress);
        let skipped: Vec<String> = secrets.iter_mut().flat_map(|secret| mem::take(&mut secret.faults)).collect();
        if !skipped.is_empty() && !wanted.skip_unreadable {
            return Err(RekeyError::Unopened(skipped));
        }
        let opened = || secrets.iter().flat_map(|secret| &secret.files);
        let earlier = opened().filter(|file| file.revision.is_some()).count();
        let current = opened().count() - earlier;
        if !wanted.dry_run {
            if current + earlier > 0 {
                work.write_all(layout, secrets, progress)?;
            }
            if added + removed > 0 {
                write::replace(&layout.recipients(), list.as_str().as_bytes()).map_err(doing("write", &layout.recipients()))?;
            }
        }
        Ok(Rekeyed { secrets: current, earlier, recipients: list.keys.len(), added, removed, skipped })
    }
}

/// The work of encrypting again, for all threads.
struct Work<'w> {
    keys: &'w Keys,
    recipients: &'w [Recipient],
    /// How many bytes of [`KEPT`] are left.
    room: AtomicUsize,
    /// Each file counts twice: when it is encrypted, and when it is written.
    done: AtomicUsize,
    /// How many files there are.
    all: usize,
}

/// The files of one secret.
struct Encrypted<'f> {
    /// Those that open.
    files: Vec<&'f Sealed>,
    /// The new content of these files; `None`: there was no room to keep it.
    again: Option<Vec<Vec<u8>>>,
    /// One line per file that does not open.
    faults: Vec<String>,
}

impl Work<'_> {
    /// Opens every file and encrypts it again, on all processors. Nothing is written.
    fn encrypt_all<'f>(&self, files: &'f [Sealed], progress: &mut dyn FnMut(usize, usize)) -> Vec<Encrypted<'f>> {
        let secrets: Vec<&[Sealed]> = files.chunk_by(|file, next| file.name == next.name).collect();
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let mut shares = secrets.chunks(secrets.len().div_ceil(threads).max(1));
        let first = shares.next().unwrap_or_default();
        thread::scope(|scope| {
            let others: Vec<_> = shares.map(|share| scope.spawn(|| share.iter().map(|secret| self.encrypt(secret)).collect())).collect();
            let mut encrypted = Vec::with_capacity(secrets.len());
            for secret in first {
                encrypted.push(self.encrypt(secret));
                self.tell(progress);
            }
            for other in others {
                let share: Vec<_> = other.join().unwrap_or_else(|panic| resume_unwind(panic));
                encrypted.extend(share);
                self.tell(progress);
            }
            encrypted
        })
    }

    fn encrypt<'f>(&self, secret: &'f [Sealed]) -> Encrypted<'f> {
        let (mut files, mut again, mut faults) = (Vec::new(), Vec::new(), Vec::new());
        for (file, sealed) in secret.iter().zip(self.again(secret)) {
            match sealed {
                Ok(sealed) => {
                    files.push(file);
                    again.push(sealed);
                }
                Err(fault) => faults.push(fault),
            }
        }
        self.done.fetch_add(secret.len(), Ordering::Relaxed);
        let bytes = again.iter().map(Vec::len).sum();
        let kept = self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(bytes)).is_ok();
        Encrypted { files, again: kept.then_some(again), faults }
    }

    /// The new content of each of a secret's files. The history may have the current revision too (a change was cut short, a revision was put
    /// back). Then both files stay equal, so that the next change recognises this.
    fn again<'f>(&self, files: impl IntoIterator<Item = &'f Sealed>) -> Vec<Result<Vec<u8>, String>> {
        let mut known: Vec<(Zeroizing<Vec<u8>>, Vec<u8>)> = Vec::new();
        let mut again = |file: &Sealed| {
            let plaintext = file.open(self.keys)?;
            if let Some((_, sealed)) = known.iter().find(|(same, _)| *same == plaintext) {
                return Ok(sealed.clone());
            }
            let sealed = seal::seal(&plaintext, self.recipients).map_err(|cause| file.fault(&format!("cannot be encrypted: {cause}")))?;
            known.push((plaintext, sealed.clone()));
            Ok(sealed)
        };
        files.into_iter().map(&mut again).collect()
    }

    fn write_all(&self, layout: &Layout, secrets: Vec<Encrypted<'_>>, progress: &mut dyn FnMut(usize, usize)) -> Result<(), RekeyError> {
        let fault = doing("write", &layout.batch());
        let begin = || write::Batch::begin(layout.batch()).map_err(&fault);
        let (mut drafts, mut count) = (begin()?, 0);
        for Encrypted { files, again, .. } in secrets {
            let again = again.map_or_else(|| self.again(files.iter().copied()).into_iter().collect(), Ok);
            for (file, sealed) in files.iter().zip(again.map_err(|fault| RekeyError::Unopened(vec![fault]))?) {
                if count == BATCH {
                    drafts.commit().map_err(&fault)?;
                    (drafts, count) = (begin()?, 0);
                }
                drafts.put(write::Turn::Second, file.path.clone(), &sealed).map_err(&fault)?;
                count += 1;
                self.done.fetch_add(1, Ordering::Relaxed);
                self.tell(progress);
            }
        }
        Ok(drafts.commit().map_err(&fault)?)
    }

    fn tell(&self, progress: &mut dyn FnMut(usize, usize)) {
        progress(self.done.load(Ordering::Relaxed) / 2, self.all);
    }
}

/// Every encrypted file of the vault, secret by secret.
pub(super) fn sealed_files(layout: &Layout) -> Result<Vec<Sealed>, VaultError> {
    let mut files = Vec::new();
    // Below `.history` each revision is like a secret of its own: `<name>/<revision>`.
    let history = Layout::of(layout.root().join(".history"));
    for found in names::starting_with(&history, "")? {
        let revision = found.as_str().rsplit_once('/').and_then(|(name, revision)| Some((name.parse().ok()?, revision.parse().ok()?)));
        if let Some((name, revision)) = revision {
            files.push(Sealed { path: layout.earlier(&name, revision), name, revision: Some(revision) });
        }
    }
    for name in names::starting_with(layout, "")? {
        let name = vault_name(&name)?;
        files.push(Sealed { path: layout.current(&name), name, revision: None });
    }
    files.sort_by(|left, right| {
        (left.name.as_str(), left.revision.is_none(), left.revision).cmp(&(right.name.as_str(), right.revision.is_none(), right.revision))
    });
    Ok(files)
}

impl Sealed {
    /// The plaintext, if it is the one that this file should hold.
    fn open(&self, keys: &Keys) -> Result<Zeroizing<Vec<u8>>, String> {
        let sealed = fs::read(&self.path).map_err(|cause| self.fault(&format!("cannot be read: {cause}")))?;
        let plaintext = seal::open(&sealed, &keys.identities).map_err(|cause| self.fault(&cause))?;
        let document = Document::parse(&plaintext).map_err(|cause| self.fault(&format!("opens, but what it holds {cause}")))?;
        if document.name != self.name.as_str() || self.revision.is_some_and(|revision| revision != document.revision) {
            return Err(self.fault(&"was encrypted as another secret or revision"));
        }
        Ok(plaintext)
    }

    fn fault(&self, problem: &dyn std::fmt::Display) -> String {
        format!("{} {problem}", self.path.display())
    }
}
