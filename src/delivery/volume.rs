//! The atomic writer: one rename replaces all former files of a volume by the new ones, or nothing changes.
//!
//! It is separate from the rest of delivery because only this part touches a file system. It must be right under `kill -9`, on a full
//! tmpfs, and with links that somebody has put into the folder. The layout is the kubelet's (Kubernetes,
//! `pkg/volume/util/atomic_writer.go`). The Secrets Store CSI driver also uses it, so another writer can take a volume over.
//!
//! ```text
//! ..2026_01_02_03_04_05.678901234k/   the data folder: the files themselves
//! ..data -> ..2026_01_02_...          the pointer: to rename another over it switches every file at once
//! db -> ..data/db                     one link for each top-level name; what a Pod opens goes through the pointer
//! ```
//!
//! The other writers end the data folder's name with a number. This writer puts a letter after it, so it can tell its own volumes.
//!
//! The steps, and the state after a crash in each:
//!
//! 1. Remove what an earlier crash left. The former files stay in force.
//! 2. If content, modes and owners are already right: stop, and touch nothing.
//! 3. Fill a new data folder, to which nothing points yet. A crash leaves it for the next cleaning.
//! 4. Make the links of new names. Until the switch they lead nowhere: a program that opens one gets "does not exist".
//! 5. Rename the new pointer over the old one: the switch. Every name now opens its new file.
//! 6. In a Pod's volume, exchange each link with what has its name, if that is something else: a provider that was here before may have
//!    written the file itself. A crash leaves some of its files for the next write.
//! 7. Remove the former data folder and the links of removed names, which lead nowhere since the switch.
//!
//! So at any moment every name opens its former file or its new one, or does not exist. This is the same for all names, except in step 6. Nothing is
//! synced to a disk: a volume is a tmpfs, and a power cut deletes it.
//!
//! The writer opens each folder as a file descriptor, and reaches everything in it from there. It never follows a link.

mod folder;
mod target;
mod weight;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;
use thiserror::Error;

use crate::model::{FileMode, FilePath};
use folder::{File, entries, make_folder, open_folder, open_in, remove_tree, walk};

pub use crate::model::Owner;
pub use target::{TargetError, check_target, is_in_memory, open_target};
pub use weight::{PAGE, measure, weight};

/// The link to the data folder that is in force.
const POINTER: &str = "..data";

/// The next pointer, before the switch.
const NEXT_POINTER: &str = "..data_tmp";

/// A link that is about to take the place of something else; then that thing, until it is removed.
const EXCHANGED: &str = "..link_tmp";

/// The last letter of the name of each data folder that this writer made.
const OWN: u8 = b'k';

/// Everybody may open and list folders; the files' own modes protect the files.
const FOLDER_MODE: u16 = 0o755;

/// A file as it should be in the volume.
pub struct VolumeFile<'a> {
    pub path: &'a FilePath,
    pub mode: FileMode,
    pub contents: &'a [u8],
    /// `None`: the user and group of this process.
    pub owner: Option<Owner>,
}

/// The result of a write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Written {
    Changed,
    /// The volume already had these files: none was touched, and the folder kept its times.
    Unchanged,
}

/// Why a volume could not be written. Except with [`VolumeError::Untidy`], the former files are in force, complete.
#[derive(Debug, Error)]
pub enum VolumeError {
    #[error("cannot write the volume: another mount is writing it (ask again when that one is done)")]
    Busy,
    #[error("cannot write the volume: {path} is delivered twice, or is also the folder of another file (give each its own path)")]
    Clash { path: String },
    #[error("cannot {step} {path} in the volume: {cause}{}", remedy(*step, *cause))]
    Failed { step: Step, path: String, cause: Errno },
    #[error(
        "cannot write the volume: it needs {kib} KiB of limits.volumeBytes, and its namespace cannot have that much now (the former files stay: \
         deliver fewer files, stop Pods of the namespace on this node, or ask for a higher limits.volumeBytes)"
    )]
    NoRoom { kib: usize },
    #[error("cannot write the volume: {name} is already there, and no writer of volumes made it (move it elsewhere)")]
    Occupied { name: String },
    #[error("the volume's new files are in force, but not all former files could be removed: {0} (the next mount tries again)")]
    Untidy(Box<Self>),
}

/// The steps of the writer. Each is one or a few system calls; a crash can happen between any two.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    Create,
    Fill,
    Link,
    MakeFolder,
    Own,
    Read,
    Remove,
    Replace,
    SetMode,
    Switch,
}

/// Writes a volume: afterwards it has these files and no others.
///
/// `dir` is the volume's folder, opened in any way that allows to reach files in it. `now` goes into the data folder's name. Keyferry
/// leaves alone what is in the folder and was not made by a writer of volumes, and refuses to write if such a thing is in the way. Two writes to one volume at the same time are kept apart
/// within this process, not between processes. Blocks for as long as the file system does.
pub fn write(dir: impl AsFd, files: &[VolumeFile<'_>], now: Timestamp) -> Result<Written, VolumeError> {
    write_watched(dir, files, now, InTheWay::Refused, &mut |_| Ok(()), &mut |_| Ok(()))
}

/// As [`write()`], for the volume of a Pod: what is in the way of a file is replaced, as the driver does it. Such things are files that
/// another provider wrote itself. `room` is asked before anything new is written: is there room for the files? Its argument says whether the
/// volume has files now. If nothing has to be written, the question is not asked.
pub fn write_of_pod(dir: impl AsFd, files: &[VolumeFile<'_>], now: Timestamp, room: Room<'_>) -> Result<Written, VolumeError> {
    write_watched(dir, files, now, InTheWay::Replaced, room, &mut |_| Ok(()))
}

/// Whether the volume already has these files and no others: then a write would touch nothing.
///
/// # Errors
/// As [`write()`], where Keyferry could write nothing at all.
pub fn holds(dir: impl AsFd, files: &[VolumeFile<'_>]) -> Result<bool, VolumeError> {
    let names = top_level_names(files)?;
    let dir = open_folder(dir.as_fd(), Path::new(".")).map_err(|cause| failed(Step::Read, ".", cause))?;
    let volume = Volume { dir, hook: &mut |_| Ok(()) };
    let in_force = volume.in_force()?;
    Ok(in_force.is_some_and(|data| data.holds(files)) && names.iter().all(|name| volume.is_link(OsStr::new(name))))
}

/// Whether the files in force were written by this writer.
pub fn is_own(dir: impl AsFd) -> bool {
    let target = rustix::fs::readlinkat(dir, POINTER, Vec::new());
    target.is_ok_and(|target| is_own_data_folder(target.to_bytes()))
}

/// With a hook that is called before each step and can make it fail: for tests that stop the writer at every step.
fn write_watched(
    dir: impl AsFd,
    files: &[VolumeFile<'_>],
    now: Timestamp,
    in_the_way: InTheWay,
    room: Room<'_>,
    hook: Hook<'_>,
) -> Result<Written, VolumeError> {
    let names = top_level_names(files)?;
    // A descriptor of its own: the caller's may be a bare path (`O_PATH`), which cannot be listed.
    let dir = open_folder(dir.as_fd(), Path::new(".")).map_err(|cause| failed(Step::Read, ".", cause))?;
    let _turn = Turn::take(&dir)?;
    let mut volume = Volume { dir, hook };
    let former = volume.in_force()?;
    let strangers = volume.strangers(&names)?;
    if let (Some(name), InTheWay::Refused) = (strangers.first(), in_the_way) {
        return Err(VolumeError::Occupied { name: (*name).to_owned() });
    }
    volume.sweep(former.as_ref())?;
    if former.as_ref().is_some_and(|data| data.holds(files)) {
        volume.link(&names, &strangers)?; // a no-op, unless a link was lost
        volume.replace_strangers(&strangers)?;
        return Ok(Written::Unchanged);
    }
    room(former.is_some())?;
    match volume.replace(files, &names, &strangers, now) {
        Ok(new) => {
            let tidied = volume.replace_strangers(&strangers).and_then(|()| volume.sweep(Some(&new)));
            tidied.map(|()| Written::Changed).map_err(|error| VolumeError::Untidy(Box::new(error)))
        }
        Err(error) => {
            // Gives back the room that was taken. The next write removes what cannot be removed now.
            let _ = volume.sweep(former.as_ref());
            Err(error)
        }
    }
}

/// Whether there is room for a volume's new files together with the former ones, if there are any.
pub type Room<'r> = &'r mut dyn FnMut(bool) -> Result<(), VolumeError>;

type Hook<'h> = &'h mut dyn FnMut(Step) -> Result<(), Errno>;

/// What happens to a thing that has the name of a file of ours, and was not made by a writer of volumes.
#[derive(Clone, Copy, Eq, PartialEq)]
enum InTheWay {
    Refused,
    Replaced,
}

/// A volume's folder, used by its one writer.
struct Volume<'h> {
    dir: OwnedFd,
    hook: Hook<'h>,
}

/// A data folder.
struct Data {
    name: String,
    dir: OwnedFd,
}

/// The right to write one volume, which is known by its device and inode, among the threads of this process. It is not a lock on the
/// folder: a Pod could take such a lock too, and so keep a withdrawn secret.
struct Turn((u64, u64));

static TURNS: Mutex<BTreeSet<(u64, u64)>> = Mutex::new(BTreeSet::new());

// === impl Volume ===

impl Volume<'_> {
    /// Takes one step, if the hook lets it.
    fn step<T>(&mut self, step: Step, path: &str, call: impl FnOnce(BorrowedFd<'_>) -> Result<T, Errno>) -> Result<T, VolumeError> {
        (self.hook)(step).and_then(|()| call(self.dir.as_fd())).map_err(|cause| failed(step, path, cause))
    }

    /// The data folder to which the pointer leads. A pointer that leads nowhere counts as none.
    fn in_force(&self) -> Result<Option<Data>, VolumeError> {
        let target = match rustix::fs::readlinkat(&self.dir, POINTER, Vec::new()) {
            Ok(target) => target,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::INVAL) => return Err(VolumeError::Occupied { name: POINTER.to_owned() }),
            Err(cause) => return Err(failed(Step::Read, POINTER, cause)),
        };
        let Some(name) = target.to_str().ok().filter(|name| is_data_folder(name.as_bytes())) else {
            return Err(VolumeError::Occupied { name: POINTER.to_owned() });
        };
        match open_folder(self.dir.as_fd(), Path::new(name)) {
            Ok(dir) => Ok(Some(Data { name: name.to_owned(), dir })),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(cause) => Err(failed(Step::Read, name, cause)),
        }
    }

    /// The names that something else already has, which cannot become one of our links.
    fn strangers<'n>(&self, names: &BTreeSet<&'n str>) -> Result<BTreeSet<&'n str>, VolumeError> {
        let mut strangers = BTreeSet::new();
        for name in names {
            match rustix::fs::statat(&self.dir, *name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => {}
                Err(cause) => return Err(failed(Step::Read, name, cause)),
                Ok(_) if self.is_link(OsStr::new(name)) => {}
                Ok(_) => drop(strangers.insert(*name)),
            }
        }
        Ok(strangers)
    }

    /// Each name goes from the other thing to our link at once. It is always there.
    fn replace_strangers(&mut self, names: &BTreeSet<&str>) -> Result<(), VolumeError> {
        for name in names {
            self.step(Step::Link, name, |dir| rustix::fs::symlinkat(format!("{POINTER}/{name}"), dir, EXCHANGED))?;
            self.step(Step::Replace, name, |dir| rustix::fs::renameat_with(dir, EXCHANGED, dir, *name, RenameFlags::EXCHANGE))?;
            self.remove_tree(OsStr::new(EXCHANGED))?;
        }
        Ok(())
    }

    /// Removes everything of this layout that `keep` does not need: other data folders, a pointer without a switch, and links of names that
    /// do not exist any more.
    fn sweep(&mut self, keep: Option<&Data>) -> Result<(), VolumeError> {
        let kept = match keep {
            Some(data) => entries(data.dir.as_fd()).map_err(|cause| failed(Step::Read, &data.name, cause))?,
            None => Vec::new(),
        };
        let kept: BTreeSet<_> = kept.into_iter().map(|entry| entry.name).collect();
        for entry in entries(self.dir.as_fd()).map_err(|cause| failed(Step::Read, ".", cause))? {
            let shown = entry.name.to_string_lossy();
            if is_data_folder(entry.name.as_bytes()) {
                if keep.is_none_or(|data| data.name.as_bytes() != entry.name.as_bytes()) {
                    self.remove_tree(&entry.name)?;
                }
            } else if entry.name == EXCHANGED {
                self.remove_tree(&entry.name)?;
            } else if entry.name == NEXT_POINTER || (!kept.contains(&entry.name) && self.is_link(&entry.name)) {
                self.step(Step::Remove, &shown, |dir| rustix::fs::unlinkat(dir, &entry.name, AtFlags::empty()))?;
            }
        }
        Ok(())
    }

    fn remove_tree(&mut self, name: &OsStr) -> Result<(), VolumeError> {
        let hook = &mut *self.hook;
        let removed = remove_tree(self.dir.as_fd(), name, &mut || hook(Step::Remove));
        removed.map_err(|cause| failed(Step::Remove, &name.to_string_lossy(), cause))
    }

    /// Fills a new data folder and switches to it.
    fn replace(
        &mut self,
        files: &[VolumeFile<'_>],
        names: &BTreeSet<&str>,
        strangers: &BTreeSet<&str>,
        now: Timestamp,
    ) -> Result<Data, VolumeError> {
        let data = self.make_data_folder(now)?;
        for folder in files.iter().flat_map(|file| file.path.parents()).collect::<BTreeSet<_>>() {
            self.step(Step::MakeFolder, folder, |_| make_folder(data.dir.as_fd(), Path::new(folder), FOLDER_MODE.into()))?;
        }
        for file in files {
            self.write_file(&data, file)?;
        }
        // Last, so that only this process's user can see a volume that is half full.
        self.step(Step::SetMode, &data.name, |_| rustix::fs::fchmod(&data.dir, Mode::from(u32::from(FOLDER_MODE))))?;
        self.link(names, strangers)?;
        self.step(Step::Link, NEXT_POINTER, |dir| rustix::fs::symlinkat(&*data.name, dir, NEXT_POINTER))?;
        self.step(Step::Switch, POINTER, |dir| rustix::fs::renameat(dir, NEXT_POINTER, dir, POINTER))?;
        Ok(data)
    }

    fn make_data_folder(&mut self, now: Timestamp) -> Result<Data, VolumeError> {
        let second = now.strftime("..%Y_%m_%d_%H_%M_%S");
        let mut nanosecond = now.subsec_nanosecond().unsigned_abs();
        loop {
            let name = format!("{second}.{nanosecond:09}{}", char::from(OWN));
            let made = self.step(Step::MakeFolder, &name, |dir| match rustix::fs::mkdirat(dir, &*name, Mode::RWXU) {
                Err(Errno::EXIST) => Ok(None),
                made => made.and_then(|()| open_folder(dir, Path::new(&name))).map(Some),
            })?;
            match made {
                Some(dir) => return Ok(Data { name, dir }),
                None => nanosecond += 1, // a clock that does not move
            }
        }
    }

    /// The mode is set independently of the umask, and before the owner: to set the mode of another user's file needs one more capability
    /// (`CAP_FOWNER`). Until the switch, only this user can enter the data folder.
    fn write_file(&mut self, data: &Data, wish: &VolumeFile<'_>) -> Result<(), VolumeError> {
        let path = wish.path.as_str();
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        let file = self.step(Step::Create, path, |_| open_in(data.dir.as_fd(), Path::new(path), flags))?;
        self.step(Step::Fill, path, |_| file.fill(wish.contents))?;
        self.step(Step::SetMode, path, |_| rustix::fs::fchmod(&file, Mode::from(u32::from(wish.mode.bits()))))?;
        let Some(Owner { uid, gid }) = wish.owner else { return Ok(()) };
        let (uid, gid) = (Uid::from_raw_unchecked(uid), Gid::from_raw_unchecked(gid));
        self.step(Step::Own, path, |_| rustix::fs::fchown(&file, Some(uid), Some(gid)))
    }

    /// Makes the links that are not there yet.
    fn link(&mut self, names: &BTreeSet<&str>, strangers: &BTreeSet<&str>) -> Result<(), VolumeError> {
        for name in names.difference(strangers) {
            if !self.is_link(OsStr::new(name)) {
                self.step(Step::Link, name, |dir| rustix::fs::symlinkat(format!("{POINTER}/{name}"), dir, *name))?;
            }
        }
        Ok(())
    }

    /// Whether this is one of our links: `name -> ..data/name`.
    fn is_link(&self, name: &OsStr) -> bool {
        let target = rustix::fs::readlinkat(&self.dir, name, Vec::new());
        target.is_ok_and(|target| target.to_bytes().strip_prefix(b"..data/") == Some(name.as_bytes()))
    }
}

// === impl Data ===

impl Data {
    /// Whether these files, and nothing else, are already here. A file that cannot be read counts as different: it will be written again.
    fn holds(&self, files: &[VolumeFile<'_>]) -> bool {
        self.compare(files).unwrap_or(false)
    }

    fn compare(&self, files: &[VolumeFile<'_>]) -> Result<bool, Errno> {
        let mut wanted: BTreeMap<&Path, &VolumeFile<'_>> = files.iter().map(|file| (Path::new(file.path.as_str()), file)).collect();
        let mut folders: BTreeSet<&Path> = files.iter().flat_map(|file| file.path.parents()).map(Path::new).collect();
        folders.insert(Path::new(""));
        for folder in walk(self.dir.as_fd())? {
            if folder.mode != FOLDER_MODE || !folders.remove(folder.path.as_path()) {
                return Ok(false);
            }
            for entry in folder.entries.iter().filter(|entry| !entry.is_folder) {
                let path = folder.path.join(&entry.name);
                match wanted.remove(path.as_path()) {
                    Some(wish) if wish.is_met_by(&open_in(self.dir.as_fd(), &path, OFlags::RDONLY)?)? => {}
                    Some(_) | None => return Ok(false),
                }
            }
        }
        Ok(wanted.is_empty() && folders.is_empty())
    }
}

// === impl VolumeFile ===

impl VolumeFile<'_> {
    fn is_met_by(&self, file: &File) -> Result<bool, Errno> {
        let found = file.look()?;
        let own = || Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
        let same = found.regular && found.mode == self.mode.bits() && found.owner == self.owner.unwrap_or_else(own);
        Ok(same && found.size == self.contents.len() as u64 && file.equals(self.contents)?)
    }
}

/// The contents are secret.
impl fmt::Debug for VolumeFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VolumeFile")
            .field("path", &self.path)
            .field("mode", &self.mode)
            .field("contents", &format_args!("({} bytes, redacted)", self.contents.len()))
            .field("owner", &self.owner)
            .finish()
    }
}

// === impl Turn ===

impl Turn {
    fn take(dir: &OwnedFd) -> Result<Self, VolumeError> {
        let stat = rustix::fs::fstat(dir).map_err(|cause| failed(Step::Read, ".", cause))?;
        let volume = (stat.st_dev, stat.st_ino);
        let free = TURNS.lock().unwrap_or_else(PoisonError::into_inner).insert(volume);
        if free { Ok(Self(volume)) } else { Err(VolumeError::Busy) }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        TURNS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

// === impl Step ===

/// Completes "cannot ... PATH in the volume".
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Fill => "write",
            Self::Link => "make the link",
            Self::MakeFolder => "make the folder",
            Self::Own => "set the owner of",
            Self::Read => "read",
            Self::Remove => "remove",
            Self::Replace => "replace",
            Self::SetMode => "set the mode of",
            Self::Switch => "switch",
        })
    }
}

/// The first elements of all paths: the names in the volume's folder. It is a fault if two files cannot both be there.
fn top_level_names<'a>(files: &[VolumeFile<'a>]) -> Result<BTreeSet<&'a str>, VolumeError> {
    let mut paths = BTreeSet::new();
    let twice = files.iter().find(|file| !paths.insert(file.path.as_str()));
    let folder = files.iter().flat_map(|file| file.path.parents()).find(|parent| paths.contains(parent));
    match twice.map(|file| file.path.as_str()).or(folder) {
        Some(path) => Err(VolumeError::Clash { path: path.to_owned() }),
        None => Ok(paths.into_iter().map(|path| path.split_once('/').map_or(path, |(first, _)| first)).collect()),
    }
}

/// The names that writers of this layout give their data folders: `..`, a time in UTC, a dot and a suffix.
fn is_data_folder(name: &[u8]) -> bool {
    const SHAPE: &[u8] = b"..dddd_dd_dd_dd_dd_dd.";
    let fits = |(byte, shape): (&u8, &u8)| if *shape == b'd' { byte.is_ascii_digit() } else { byte == shape };
    name.len() > SHAPE.len() && name.iter().zip(SHAPE).all(fits) && name[SHAPE.len()..].iter().all(u8::is_ascii_alphanumeric)
}

fn is_own_data_folder(name: &[u8]) -> bool {
    is_data_folder(name) && name.last() == Some(&OWN)
}

fn failed(step: Step, path: &str, cause: Errno) -> VolumeError {
    VolumeError::Failed { step, path: path.to_owned(), cause }
}

/// What to do about common causes.
fn remedy(step: Step, cause: Errno) -> &'static str {
    match cause {
        Errno::PERM if step == Step::Own => " (to change a file's owner, Keyferry needs the capability CHOWN; see docs/delivery.md)",
        Errno::NOSPC | Errno::DQUOT => " (the former files stay; the volume's file system is full: give it more room, or deliver less)",
        Errno::ROFS => " (the volume is mounted read-only: mount it read-write for its writer)",
        Errno::ACCESS | Errno::PERM => " (this process may not: run it as root, or as the folder's owner)",
        Errno::MFILE | Errno::NFILE => " (too many open files: raise the limit of the process)",
        _ => "",
    }
}

#[cfg(test)]
mod tests;
