//! How the files reach the volume: in the answer, so the driver writes them; or the daemon writes them itself before it answers.
//!
//! This is separate from the answer's form and from the writer of volumes, because here both depend on the clock: which mount's turn it is,
//! how many write at once, and what a deadline does to a write.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rustix::io::Errno;
use thiserror::Error;
use tokio::time::Instant;

use super::volume::{self, TargetError, VolumeError, VolumeFile, Written, check_target};
use super::volumes::{Id, NoRoom, VolumeTurn, Volumes};
use super::{DeliveredFile, Delivery};
use crate::clock::Clock;
use crate::model::{Code, PodIdentity, Tenant};
use crate::work::Unfinished;

/// Who writes the volume, as `delivery` in the configuration says.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum DeliveryMode {
    /// The driver writes, from the files in the answer.
    #[default]
    Driver,
    /// The daemon writes. The answer has no files, and the driver leaves the volume alone (`proto/provider.proto`).
    Provider,
}

/// The last step of a mount.
#[derive(Clone, Debug)]
pub struct Deliverer {
    mode: DeliveryMode,
    kubelet_dir: Arc<Path>,
    clock: Arc<dyn Clock>,
    volumes: Arc<Volumes>,
}

/// The right to deliver one volume. While it is held, no other mount delivers this volume: so files that were fetched later are written
/// later.
#[derive(Debug)]
pub struct Reservation(Option<Box<Volume>>);

/// A volume that the daemon writes, with the turn at it.
#[derive(Debug)]
struct Volume {
    kubelet_dir: Arc<Path>,
    pod_uid: Arc<str>,
    target_path: String,
    clock: Arc<dyn Clock>,
    volumes: Arc<Volumes>,
    tenant: Tenant,
    /// Whether the folder's modification time stays the same: no mount has asked for this write.
    unasked: bool,
    turn: VolumeTurn,
}

/// The turn at a volume that has been delivered: until this is dropped, no other mount delivers the volume.
#[derive(Debug)]
#[must_use = "the turn ends when it is dropped"]
pub struct Handed {
    _turn: Option<VolumeTurn>,
}

/// Why a volume was not written. Except with [`VolumeError::Untidy`], the former files are in force, complete.
#[derive(Debug, Error)]
pub enum DeliveryError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("target_path: the mount's time ended before the volume could be written (kubelet tries again by itself)")]
    TooLate,
    #[error("target_path: {0}")]
    Volume(#[from] VolumeError),
}

// === impl Deliverer ===

impl Deliverer {
    pub fn new(mode: DeliveryMode, kubelet_dir: &Path, clock: Arc<dyn Clock>, volumes: Arc<Volumes>) -> Self {
        Self { mode, kubelet_dir: kubelet_dir.into(), clock, volumes }
    }

    pub fn mode(&self) -> DeliveryMode {
        self.mode
    }

    /// Whether Keyferry could write volumes at all.
    ///
    /// # Errors
    /// What is wrong, for the admin.
    pub fn check(&self) -> Result<(), String> {
        let pods: PathBuf = self.kubelet_dir.join("pods");
        match (self.mode, std::fs::metadata(&pods)) {
            (DeliveryMode::Driver, _) => Ok(()),
            (DeliveryMode::Provider, Ok(found)) if found.is_dir() => Ok(()),
            (DeliveryMode::Provider, Ok(_)) => Err(format!("{}: is not a folder (is kubeletDir right?)", pods.display())),
            (DeliveryMode::Provider, Err(error)) => {
                let remedy = "is kubeletDir right, and mounted into the provider with mount propagation HostToContainer?";
                Err(format!("{}: {error} ({remedy})", pods.display()))
            }
        }
    }

    /// Waits for the turn at the volume, and checks that Keyferry may write it: before any secret is fetched for it.
    ///
    /// # Errors
    /// The target is not a volume of this Pod, or not in memory, or cannot be reached, or there was no turn. No error where the driver
    /// writes.
    pub async fn reserve(
        &self,
        tenant: &Tenant,
        pod: &PodIdentity,
        target_path: &str,
        until: Instant,
    ) -> Result<Reservation, DeliveryError> {
        if self.mode == DeliveryMode::Driver {
            return Ok(Reservation(None));
        }
        check_target(&self.kubelet_dir, &pod.uid, target_path)?;
        self.volumes.find(&self.kubelet_dir, until).await;
        let turn = self.volumes.turn(tenant, target_path, until).await.ok_or(DeliveryError::TooLate)?;
        self.open(tenant, pod, target_path, turn, false, until).await
    }

    /// As [`Deliverer::reserve`], for a write that no mount asks for: only where no mount has the turn or waits for it, and only where the
    /// daemon writes. The folder's modification time is restored afterwards, because the driver skips its next mount of a folder that
    /// changed a short time ago (`docs/delivery.md`).
    ///
    /// `None`: a mount has the turn, or the driver writes.
    ///
    /// # Errors
    /// As [`Deliverer::reserve`].
    pub async fn reserve_unasked(
        &self,
        tenant: &Tenant,
        pod: &PodIdentity,
        target_path: &str,
        until: Instant,
    ) -> Result<Option<Reservation>, DeliveryError> {
        if self.mode == DeliveryMode::Driver {
            return Ok(None);
        }
        check_target(&self.kubelet_dir, &pod.uid, target_path)?;
        let Some(turn) = self.volumes.turn(tenant, target_path, Instant::now()).await else { return Ok(None) };
        self.open(tenant, pod, target_path, turn, true, until).await.map(Some)
    }

    async fn open(
        &self,
        tenant: &Tenant,
        pod: &PodIdentity,
        target_path: &str,
        turn: VolumeTurn,
        unasked: bool,
        until: Instant,
    ) -> Result<Reservation, DeliveryError> {
        let volume = Box::new(Volume {
            kubelet_dir: Arc::clone(&self.kubelet_dir),
            pod_uid: Arc::clone(&pod.uid),
            target_path: target_path.to_owned(),
            clock: Arc::clone(&self.clock),
            volumes: Arc::clone(&self.volumes),
            tenant: tenant.clone(),
            unasked,
            turn,
        });
        // The folder is not kept open until the secrets are there: the driver could not unmount it.
        let open = move || {
            volume.open()?;
            Ok(Reservation(Some(volume)))
        };
        on_a_thread(&self.volumes, tenant, until, open).await
    }
}

// === impl Reservation ===

impl Reservation {
    /// Whether the daemon itself writes.
    pub fn writes(&self) -> bool {
        self.0.is_some()
    }

    /// Checks whether the volume has these files already. If not, both are given back.
    ///
    /// # Errors
    /// The volume cannot be read.
    pub async fn if_it_differs(self, delivery: Delivery, deadline: Instant) -> Result<Option<(Self, Delivery)>, DeliveryError> {
        let Some(volume) = self.0 else { return Ok(Some((self, delivery))) };
        let (volumes, tenant) = (Arc::clone(&volume.volumes), volume.tenant.clone());
        let look = move || {
            let files: Vec<_> = delivery.files.iter().map(VolumeFile::from).collect();
            let same = volume::holds(volume.open()?, &files)?;
            Ok((!same).then(|| (Self(Some(volume)), delivery)))
        };
        on_a_thread(&volumes, &tenant, deadline, look).await
    }

    /// Delivers: afterwards the answer is complete, and where the daemon writes, so is the volume. The turn is given back together with the
    /// answer.
    ///
    /// A write that has begun finishes even if the caller is gone: it holds the turn until then. A write whose time has ended before it
    /// begins never begins.
    ///
    /// # Errors
    /// The volume could not be written; the former files stay in force.
    pub async fn deliver(self, mut delivery: Delivery, deadline: Instant) -> Result<(Delivery, Handed), DeliveryError> {
        let Some(volume) = self.0 else {
            delivery.mark_if_empty();
            return Ok((delivery, Handed { _turn: None }));
        };
        let (volumes, tenant) = (Arc::clone(&volume.volumes), volume.tenant.clone());
        let write = move || {
            if Instant::now() >= deadline {
                return Err(DeliveryError::TooLate);
            }
            volume.write(&delivery.files)?;
            delivery.in_place = true;
            Ok((delivery, Handed { _turn: Some(volume.turn) }))
        };
        on_a_thread(&volumes, &tenant, deadline, write).await
    }
}

// === impl Volume ===

impl Volume {
    fn open(&self) -> Result<OwnedFd, TargetError> {
        self.volumes.node().open(&self.kubelet_dir, &self.pod_uid, &self.target_path)
    }

    fn write(&self, files: &[DeliveredFile]) -> Result<(), DeliveryError> {
        let files: Vec<_> = files.iter().map(VolumeFile::from).collect();
        let target = File::from(self.open()?);
        let id = self.id(&target)?;
        let before = target.metadata().and_then(|found| found.modified());
        let written = self.write_in_room(&target, id, &files);
        if self.unasked {
            // Also after a write that failed: it may have changed the folder.
            self.say_unless_set_back(before.and_then(|before| target.set_modified(before)));
        }
        let written = written?;
        // If the volume was unmounted in the meantime, the files went with the old mount. Keyferry reports success only if the files are in
        // the Pod's volume.
        if id != self.id(self.open()?)? {
            return Err(TargetError::Replaced { target: self.target_path.clone() }.into());
        }
        tracing::debug!(target_path = self.target_path, ?written, "a volume was written");
        Ok(())
    }

    fn say_unless_set_back(&self, set_back: io::Result<()>) {
        if let Err(error) = set_back {
            tracing::warn!(
                target_path = self.target_path,
                %error,
                "Keyferry cannot restore the modification time of a volume's folder: the driver may skip its next mount"
            );
        }
    }

    /// Counts the files that are there afterwards, and nothing else.
    fn write_in_room(&self, target: &File, id: Id, files: &[VolumeFile<'_>]) -> Result<Written, VolumeError> {
        let (pages, weight) = (self.volumes.pages(), volume::weight(files));
        let mut room = None;
        let written = volume::write_of_pod(target, files, self.clock.now(), &mut |former| {
            room = Some(pages.room(&self.tenant, id, former, weight).map_err(no_room)?);
            Ok(())
        });
        match (&written, room) {
            (Ok(Written::Changed), Some(room)) => pages.keep(id, room, true),
            (Err(VolumeError::Untidy(_)), Some(room)) => pages.keep(id, room, false),
            // The kernel charges files to the driver that the driver wrote before `delivery` was changed.
            (Ok(Written::Unchanged), _) if volume::is_own(target) => pages.has(&self.tenant, id, weight),
            (Ok(_) | Err(_), _) => {}
        }
        written
    }

    fn id(&self, target: impl AsFd) -> Result<Id, VolumeError> {
        self.volumes.node().id(target.as_fd()).map_err(read_failed)
    }
}

fn read_failed(cause: Errno) -> VolumeError {
    VolumeError::Failed { step: volume::Step::Read, path: ".".to_owned(), cause }
}

fn no_room(NoRoom { pages }: NoRoom) -> VolumeError {
    VolumeError::NoRoom { kib: pages * (volume::PAGE / 1024) }
}

impl<'f> From<&'f DeliveredFile> for VolumeFile<'f> {
    fn from(file: &'f DeliveredFile) -> Self {
        Self { path: &file.path, mode: file.mode, contents: file.contents.expose(), owner: file.owner }
    }
}

// === impl DeliveryError ===

impl DeliveryError {
    /// Whether the volume is absent, or Keyferry may not write it.
    pub fn is_of_target(&self) -> bool {
        matches!(self, Self::Target(_))
    }

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
        VolumeError::Failed { cause: Errno::NOSPC | Errno::DQUOT, .. } | VolumeError::NoRoom { .. } => Code::TooLarge,
        VolumeError::Busy | VolumeError::Failed { cause: Errno::MFILE | Errno::NFILE | Errno::NOMEM, .. } => Code::Overloaded,
        // The other failures are caused by the target: read-only, gone, or not allowed.
        VolumeError::Clash { .. } | VolumeError::Failed { .. } | VolumeError::Occupied { .. } => Code::InvalidRequest,
        VolumeError::Untidy(cause) => code_of(cause),
    }
}

/// Runs on one of the writers' threads. A panic there becomes a panic here. Boxed: where the driver writes, a mount needs no room for it.
fn on_a_thread<'a, T: Send + 'static>(
    volumes: &'a Volumes,
    tenant: &'a Tenant,
    until: Instant,
    job: impl FnOnce() -> Result<T, DeliveryError> + Send + 'static,
) -> BoxFuture<'a, Result<T, DeliveryError>> {
    let outcome = volumes.run(tenant, until, job).map(|done| match done {
        Ok(outcome) => outcome,
        Err(Unfinished::Late) => Err(DeliveryError::TooLate),
        // The panic hook has logged it, with its place.
        Err(Unfinished::Panicked) => std::panic::resume_unwind(Box::new("a writer panicked")),
    });
    outcome.boxed()
}

#[cfg(test)]
mod tests;
