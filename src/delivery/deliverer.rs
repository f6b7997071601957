//! How the files reach the volume: in the answer, for the driver to write; or written by the daemon itself, before it answers.
//!
//! Apart from the answer's shape and from the writer of volumes, because this is where the two meet the clock: which mount's turn it is,
//! how many write at once, and what a deadline does to a write.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use thiserror::Error;
use tokio::sync::{OwnedMutexGuard, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::volume::{self, TargetError, VolumeError, VolumeFile, open_target};
use super::{DeliveredFile, Delivery};
use crate::clock::Clock;
use crate::model::{Code, PodIdentity};

/// Volumes written at once. Writing to memory is quick: more would only wait for each other.
const WRITERS: usize = 16;

/// Who writes the volume, by the configuration's `delivery`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum DeliveryMode {
    /// The driver, from the files in the answer.
    #[default]
    Driver,
    /// The daemon. The answer has no files, and the driver leaves the volume alone (`proto/provider.proto`).
    Provider,
}

/// The last step of a mount.
#[derive(Clone, Debug)]
pub struct Deliverer {
    mode: DeliveryMode,
    kubelet_dir: Arc<Path>,
    clock: Arc<dyn Clock>,
}

/// The right to deliver one volume. While it is held no other mount delivers it, so what was fetched later is written later.
#[derive(Debug)]
pub struct Reservation(Option<Volume>);

/// A volume that the daemon writes, and its turn at it.
#[derive(Debug)]
struct Volume {
    kubelet_dir: Arc<Path>,
    pod_uid: Arc<str>,
    target_path: String,
    clock: Arc<dyn Clock>,
    _turn: Turn,
}

/// Why a volume was not written. Unless it is [`VolumeError::Untidy`], the former files are in force, whole.
#[derive(Debug, Error)]
pub enum DeliveryError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("target_path: the mount's time was over before the volume could be written (kubelet tries again by itself)")]
    TooLate,
    #[error("target_path: {0}")]
    Volume(#[from] VolumeError),
}

type Turn = OwnedMutexGuard<()>;

/// Whose turn it is at each volume. Of the process, not of a configuration: a mount under way when the configuration is taken up anew
/// still has its turn.
static TURNS: Mutex<Option<HashMap<String, Arc<tokio::sync::Mutex<()>>>>> = Mutex::new(None);

static WRITING: Semaphore = Semaphore::const_new(WRITERS);

// === impl Deliverer ===

impl Deliverer {
    pub fn new(mode: DeliveryMode, kubelet_dir: &Path, clock: Arc<dyn Clock>) -> Self {
        Self { mode, kubelet_dir: kubelet_dir.into(), clock }
    }

    pub fn mode(&self) -> DeliveryMode {
        self.mode
    }

    /// Whether volumes could be written at all.
    ///
    /// # Errors
    /// What is wrong, in words for the admin.
    pub fn check(&self) -> Result<(), String> {
        let pods: PathBuf = self.kubelet_dir.join("pods");
        match (self.mode, std::fs::metadata(&pods)) {
            (DeliveryMode::Driver, _) => Ok(()),
            (DeliveryMode::Provider, Ok(found)) if found.is_dir() => Ok(()),
            (DeliveryMode::Provider, Ok(_)) => Err(format!("{}: is no folder (is kubeletDir right?)", pods.display())),
            (DeliveryMode::Provider, Err(error)) => {
                let remedy = "is kubeletDir right, and mounted into the provider with mount propagation HostToContainer?";
                Err(format!("{}: {error} ({remedy})", pods.display()))
            }
        }
    }

    /// Waits for the Pod's turn at the volume, and checks that it is one to write: before anything is fetched for it.
    ///
    /// # Errors
    /// The target is not a volume of this Pod, or not in memory, or out of reach. Nothing where the driver writes.
    pub async fn reserve(&self, pod: &PodIdentity, target_path: &str) -> Result<Reservation, DeliveryError> {
        if self.mode == DeliveryMode::Driver {
            return Ok(Reservation(None));
        }
        let volume = Volume {
            kubelet_dir: Arc::clone(&self.kubelet_dir),
            pod_uid: Arc::clone(&pod.uid),
            target_path: target_path.to_owned(),
            clock: Arc::clone(&self.clock),
            _turn: turn(target_path).await,
        };
        // Not kept open until the secrets are there: an open folder would keep the driver from unmounting it.
        blocking(move || {
            volume.open()?;
            Ok(Reservation(Some(volume)))
        })
        .await
    }
}

// === impl Reservation ===

impl Reservation {
    /// Whether the daemon itself writes.
    pub fn writes(&self) -> bool {
        self.0.is_some()
    }

    /// Delivers: afterwards the answer is whole, and where the daemon writes, so is the volume.
    ///
    /// A write that has begun ends by itself, whatever becomes of the caller: it holds the turn until then. One whose time is over
    /// before it begins never does.
    ///
    /// # Errors
    /// The volume could not be written; the former files stay in force.
    pub async fn deliver(self, mut delivery: Delivery, deadline: Instant) -> Result<Delivery, DeliveryError> {
        let Some(volume) = self.0 else {
            delivery.mark_if_empty();
            return Ok(delivery);
        };
        // The semaphore is never closed.
        let place = WRITING.acquire().await;
        blocking(move || {
            if Instant::now() >= deadline {
                return Err(DeliveryError::TooLate);
            }
            volume.write(&delivery.files)?;
            drop((volume, place));
            delivery.in_place = true;
            Ok(delivery)
        })
        .await
    }
}

// === impl Volume ===

impl Volume {
    fn open(&self) -> Result<impl AsFd + use<>, TargetError> {
        open_target(&self.kubelet_dir, &self.pod_uid, &self.target_path)
    }

    fn write(&self, files: &[DeliveredFile]) -> Result<(), DeliveryError> {
        let files: Vec<_> = files.iter().map(VolumeFile::from).collect();
        let target = self.open()?;
        let written = volume::write(&target, &files, self.clock.now())?;
        // Unmounted in the meantime, the files went with the old mount: no success without them in the Pod's volume.
        let now_there = self.open()?;
        if identity(&target)? != identity(&now_there)? {
            return Err(TargetError::Replaced { target: self.target_path.clone() }.into());
        }
        tracing::debug!(target_path = self.target_path, ?written, "a volume was written");
        Ok(())
    }
}

fn identity(dir: impl AsFd) -> Result<(u64, u64), VolumeError> {
    let stat = rustix::fs::fstat(dir).map_err(|cause| VolumeError::Failed { step: volume::Step::Read, path: ".".to_owned(), cause })?;
    Ok((stat.st_dev, stat.st_ino))
}

impl<'f> From<&'f DeliveredFile> for VolumeFile<'f> {
    fn from(file: &'f DeliveredFile) -> Self {
        Self { path: &file.path, mode: file.mode, contents: file.contents.expose(), owner: file.owner }
    }
}

// === impl DeliveryError ===

impl DeliveryError {
    pub fn code(&self) -> Code {
        match self {
            Self::Target(_) => Code::InvalidRequest,
            Self::TooLate => Code::BackendTimeout,
            Self::Volume(error) => code_of(error),
        }
    }
}

fn code_of(error: &VolumeError) -> Code {
    match error {
        VolumeError::Failed { cause: Errno::NOSPC | Errno::DQUOT, .. } => Code::TooLarge,
        VolumeError::Busy | VolumeError::Failed { cause: Errno::MFILE | Errno::NFILE | Errno::NOMEM, .. } => Code::Overloaded,
        // What is left of failures is the target's: read-only, gone, or not for us.
        VolumeError::Clash { .. } | VolumeError::Failed { .. } | VolumeError::Occupied { .. } => Code::InvalidRequest,
        VolumeError::Untidy(cause) => code_of(cause),
    }
}

/// The turn at a volume: first come, first served.
async fn turn(target_path: &str) -> Turn {
    let volume = {
        let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
        let turns = turns.get_or_insert_default();
        // Those that nobody has or waits for.
        turns.retain(|_, volume| Arc::strong_count(volume) > 1);
        Arc::clone(turns.entry(target_path.to_owned()).or_default())
    };
    volume.lock_owned().await
}

/// Runs on a thread that may block. A panic there is a panic here.
async fn blocking<T: Send + 'static>(job: impl FnOnce() -> Result<T, DeliveryError> + Send + 'static) -> Result<T, DeliveryError> {
    match spawn_blocking(job).await {
        Ok(outcome) => outcome,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::delivery::VersionKey;
    use crate::delivery::volume::Step;

    fn delivery() -> Delivery {
        Delivery::new(Vec::new(), &[], &VersionKey::new(&vec![7; VersionKey::LENGTH].into()), 4096).unwrap()
    }

    #[tokio::test]
    async fn a_volume_is_one_mounts_at_a_time() {
        let first = turn("/one").await;
        let second = tokio::spawn(async { turn("/one").await });
        drop(turn("/another").await);
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        drop(second.await.unwrap());
        drop(turn("/one").await);
    }

    #[tokio::test]
    async fn a_write_whose_time_is_over_never_begins() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume {
            kubelet_dir: dir.path().into(),
            pod_uid: "uid".into(),
            target_path: "/late".to_owned(),
            clock: Arc::new(SystemClock),
            _turn: turn("/late").await,
        };
        let error = Reservation(Some(volume)).deliver(delivery(), Instant::now()).await.unwrap_err();
        assert_eq!(error.code(), Code::BackendTimeout);
        insta::assert_snapshot!(error, @"target_path: the mount's time was over before the volume could be written (kubelet tries again by itself)");
        drop(turn("/late").await);
    }

    #[tokio::test]
    async fn an_empty_answer_has_the_marker_only_where_the_driver_writes() {
        let deliverer = Deliverer::new(DeliveryMode::Driver, Path::new("/nonexistent"), Arc::new(SystemClock));
        deliverer.check().unwrap();
        let pod = crate::model::PodClaims { namespace: "n".into(), name: "p".into(), uid: "u".into(), service_account: "s".into() };
        let reservation = deliverer.reserve(&PodIdentity::believed(&pod), "anywhere").await.unwrap();
        assert!(!reservation.writes());
        let delivery = reservation.deliver(delivery(), Instant::now()).await.unwrap();
        assert_eq!((delivery.files.len(), delivery.in_place), (1, false));
    }

    #[test]
    fn what_failed_has_the_code_of_its_cause() {
        let failed = |cause| VolumeError::Failed { step: Step::Fill, path: "a".to_owned(), cause };
        let untidy = VolumeError::Untidy(Box::new(failed(Errno::PERM)));
        let codes = [
            (failed(Errno::NOSPC), Code::TooLarge),
            (failed(Errno::NOMEM), Code::Overloaded),
            (failed(Errno::ROFS), Code::InvalidRequest),
            (VolumeError::Busy, Code::Overloaded),
            (untidy, Code::InvalidRequest),
        ];
        for (error, code) in codes {
            assert_eq!(DeliveryError::from(error).code(), code);
        }
    }
}
