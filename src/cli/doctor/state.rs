//! The state folder: it must exist, be private and writable, and have room left.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, accessat, statvfs};
use rustix::process::geteuid;

use super::files;
use crate::app::VERSION_KEY;
use crate::model::{Diagnosis, NamedFile};

/// With fewer free bytes than this, the doctor warns. The daemon itself keeps far less.
const LITTLE: u64 = 16 * 1024 * 1024;

/// Looks at the folder; with `own_key`, also at the version key that the daemon has made there.
pub fn examine(dir: &Path, own_key: bool) -> Vec<Diagnosis> {
    let mut found = vec![folder(dir)];
    let key = dir.join(VERSION_KEY);
    if own_key && key.exists() {
        found.extend(files::examine(&[NamedFile::secret("versionKey", &key)]));
        let why = "is not set: this node has its own key, and a Pod that moves here sees all its versions change once";
        found.push(Diagnosis::warn("versionKey", why, "give all nodes the same key, from a Secret"));
    }
    found
}

fn folder(dir: &Path) -> Diagnosis {
    let (what, at) = (format!("state folder {}", dir.display()), dir.display());
    let found = match fs::metadata(dir) {
        Ok(found) if found.is_dir() => found,
        Ok(_) => return Diagnosis::fail(what, "is not a folder", "remove it, or name another folder with stateDir"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Diagnosis::warn(what, "is not there", "keyferry serve makes it when it needs it: does it run?");
        }
        Err(error) => return Diagnosis::fail(what, error.to_string(), "run the doctor as the daemon's user"),
    };
    // For the effective user: access(2) would ask for the real user. Root may write everywhere except on a read-only file system.
    if let Err(error) = accessat(CWD, dir, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        return Diagnosis::fail(
            what,
            format!("cannot be written: {error}"),
            "let the daemon write there, or name another folder with stateDir",
        );
    }
    let (mode, owner) = (found.mode() & 0o7777, found.uid());
    if owner != geteuid().as_raw() && owner != 0 {
        return Diagnosis::fail(
            what,
            format!("belongs to uid {owner}, and this user can put other keys there"),
            format!("chown root {at}"),
        );
    }
    if mode & 0o077 != 0 {
        return Diagnosis::warn(what, format!("mode {mode:04o}: other users than its owner can look into it"), format!("chmod 0700 {at}"));
    }
    room(what, dir, mode)
}

fn room(what: String, dir: &Path, mode: u32) -> Diagnosis {
    let Ok(found) = statvfs(dir) else { return Diagnosis::ok(what, format!("mode {mode:04o}, writable")) };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    // File systems without a fixed number of inodes say that they have none.
    let full = free == 0 || (found.f_files > 0 && found.f_favail == 0);
    let remedy = "make room on its file system";
    match free {
        _ if full => Diagnosis::fail(what, "its file system is full", remedy),
        free if free < LITTLE => Diagnosis::warn(what, format!("its file system has {} KiB left", free / 1024), remedy),
        free => Diagnosis::ok(what, format!("mode {mode:04o}, writable, {} MiB free", free / (1024 * 1024))),
    }
}
