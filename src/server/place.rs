//! Whether a folder is a safe place for our files: only root and we can change it or make its path lead to another place.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::process::geteuid;
use thiserror::Error;

/// The most links on the path to a folder, as in the kernel (path_resolution(7)).
const MAX_LINKS: usize = 40;

const STICKY: u32 = 0o1000;
const GROUP_WRITES: u32 = 0o020;
const ALL_WRITE: u32 = 0o002;

/// Why a folder is not a safe place. The message names the wrong folder, which may be one above it.
#[derive(Debug, Error)]
pub enum Unsafe {
    #[error("{path}: every user can write this folder (mode {mode:04o}), so any of them can replace what Keyferry puts there (chmod o-w {path})", path = path.display())]
    AllWrite { path: PathBuf, mode: u32 },
    #[error("{path}: belongs to user {uid}, who can replace what Keyferry puts there (chown -h {} {path})", us(), path = path.display())]
    Foreign { path: PathBuf, uid: u32 },
    #[error("{path}: group {gid} can write this folder (mode {mode:04o}), so its users can replace what Keyferry puts there (chmod g-w {path})", path = path.display())]
    GroupWrites { path: PathBuf, gid: u32, mode: u32 },
    #[error("{path}: is a link to {to} (name the folder itself)", path = path.display(), to = to.display())]
    Link { path: PathBuf, to: PathBuf },
    #[error("{path}: is not a folder (remove it, or name another)", path = path.display())]
    NotAFolder { path: PathBuf },
    #[error("{path}: more than {MAX_LINKS} links lead there (name the folder itself)", path = path.display())]
    TooManyLinks { path: PathBuf },
    #[error("{path}: {cause} (make the folder, or name another)", path = path.display())]
    Unknown { path: PathBuf, cause: io::Error },
}

/// Whether the last element of the path may be a link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LastLink {
    Followed,
    Refused,
}

/// Checks a folder, and each folder and link on the path to it, from `/` on. Links that belong to root or to us are followed, such as
/// `/var/run` to `/run`.
///
/// # Errors
/// The first on the path that somebody else can change. [`Unsafe::Unknown`] with `NotFound`: it does not exist, and the existing part of
/// the path is safe.
pub fn judge(dir: &Path, last: LastLink) -> Result<(), Unsafe> {
    let mut at = PathBuf::from("/");
    let mut found = look(&at)?;
    let trusted = [0, us(), found.uid()];
    let mut way: VecDeque<OsString> = elements(dir).collect();
    let mut links = 0;
    of_folder(&at, &found, trusted, way.is_empty())?;
    while let Some(element) = way.pop_front() {
        if element == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&element);
        found = look(&next)?;
        if found.is_symlink() {
            of_owner(&next, &found, trusted)?;
            let to = fs::read_link(&next).map_err(|cause| Unsafe::Unknown { path: next.clone(), cause })?;
            links += 1;
            if links > MAX_LINKS {
                return Err(Unsafe::TooManyLinks { path: dir.to_owned() });
            }
            if way.is_empty() && last == LastLink::Refused {
                return Err(Unsafe::Link { path: next, to });
            }
            if to.is_absolute() {
                at = PathBuf::from("/");
            }
            for element in elements(&to).collect::<Vec<_>>().into_iter().rev() {
                way.push_front(element);
            }
            continue;
        }
        of_folder(&next, &found, trusted, way.is_empty())?;
        at = next;
    }
    Ok(())
}

/// The owner of `/` can change everything: it is root or, in a user namespace, the user in root's place.
fn of_folder(path: &Path, found: &Metadata, trusted: [u32; 3], is_last: bool) -> Result<(), Unsafe> {
    let (path, mode) = (path.to_owned(), found.mode() & 0o7777);
    if !found.is_dir() {
        return Err(Unsafe::NotAFolder { path });
    }
    of_owner(&path, found, trusted)?;
    // The sticky bit keeps others from moving away what is in a folder, but they can still put something where our file will be.
    let guarded = mode & STICKY != 0 && !is_last;
    match mode {
        mode if mode & ALL_WRITE != 0 && !guarded => Err(Unsafe::AllWrite { path, mode }),
        mode if mode & GROUP_WRITES != 0 && !guarded => Err(Unsafe::GroupWrites { path, gid: found.gid(), mode }),
        _ => Ok(()),
    }
}

fn of_owner(path: &Path, found: &Metadata, trusted: [u32; 3]) -> Result<(), Unsafe> {
    if trusted.contains(&found.uid()) { Ok(()) } else { Err(Unsafe::Foreign { path: path.to_owned(), uid: found.uid() }) }
}

fn look(path: &Path) -> Result<Metadata, Unsafe> {
    fs::symlink_metadata(path).map_err(|cause| Unsafe::Unknown { path: path.to_owned(), cause })
}

/// The names on the path, and `..`.
fn elements(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(_) | Component::ParentDir => Some(component.as_os_str().to_owned()),
        Component::CurDir | Component::Prefix(_) | Component::RootDir => None,
    })
}

fn us() -> u32 {
    geteuid().as_raw()
}

impl Unsafe {
    /// Whether the only problem is that the folder does not exist yet.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Unknown { cause, .. } if cause.kind() == io::ErrorKind::NotFound)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Made below a folder like `/tmp`: every user can write there, and the sticky bit protects what is in it.
    fn folders() -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("above/sockets");
        fs::create_dir_all(&dir).unwrap();
        for made in [temp.path().join("above"), dir.clone()] {
            mode(&made, 0o755);
        }
        (temp, dir)
    }

    fn shown(dir: &Path, temp: &tempfile::TempDir) -> String {
        let said = judge(dir, LastLink::Refused).map_or_else(|error| error.to_string(), |()| "fine".to_owned());
        let (gid, uid) = (rustix::process::getegid().as_raw(), us());
        said.replace(temp.path().to_str().unwrap(), "DIR")
            .replace(&format!("group {gid} "), "group GID ")
            .replace(&format!("-h {uid} "), "-h US ")
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused_wherever_it_is_on_the_way() {
        let (temp, dir) = folders();
        assert_eq!(shown(&dir, &temp), "fine");
        let above = dir.parent().unwrap();
        let mut all = String::new();
        for (path, bits) in [
            (dir.as_path(), 0o777),
            (&dir, 0o1777),
            (&dir, 0o775),
            (&dir, 0o1775),
            (&dir, 0o2775),
            (above, 0o777),
            (above, 0o757),
            (above, 0o775),
            (above, 0o1777),
            (above, 0o1775),
        ] {
            mode(path, bits);
            all += &format!("{}\n", shown(&dir, &temp));
            mode(path, 0o755);
        }
        insta::assert_snapshot!(all, @"
        DIR/above/sockets: every user can write this folder (mode 0777), so any of them can replace what Keyferry puts there (chmod o-w DIR/above/sockets)
        DIR/above/sockets: every user can write this folder (mode 1777), so any of them can replace what Keyferry puts there (chmod o-w DIR/above/sockets)
        DIR/above/sockets: group GID can write this folder (mode 0775), so its users can replace what Keyferry puts there (chmod g-w DIR/above/sockets)
        DIR/above/sockets: group GID can write this folder (mode 1775), so its users can replace what Keyferry puts there (chmod g-w DIR/above/sockets)
        DIR/above/sockets: group GID can write this folder (mode 2775), so its users can replace what Keyferry puts there (chmod g-w DIR/above/sockets)
        DIR/above: every user can write this folder (mode 0777), so any of them can replace what Keyferry puts there (chmod o-w DIR/above)
        DIR/above: every user can write this folder (mode 0757), so any of them can replace what Keyferry puts there (chmod o-w DIR/above)
        DIR/above: group GID can write this folder (mode 0775), so its users can replace what Keyferry puts there (chmod g-w DIR/above)
        fine
        fine
        ");
    }

    #[test]
    fn links_are_followed_on_the_way_and_their_folders_looked_at() {
        let (temp, dir) = folders();
        let at = |name: &str| temp.path().join(name);
        symlink("above", at("relative")).unwrap();
        symlink(at("above"), at("absolute")).unwrap();
        symlink("above/../above/./sockets", at("last")).unwrap();
        symlink("circle", at("circle")).unwrap();
        symlink("gone", at("nowhere")).unwrap();
        fs::write(at("file"), "").unwrap();
        for way in ["relative/sockets", "absolute/sockets", "above/../relative/sockets", "./above//sockets/"] {
            assert_eq!(shown(&at(way), &temp), "fine", "{way}");
        }
        assert!(judge(&at("last"), LastLink::Followed).is_ok());
        let mut all = String::new();
        for way in ["last", "circle/x", "nowhere/x", "file", "file/x"] {
            all += &format!("{}\n", shown(&at(way), &temp));
        }
        assert!(judge(&at("above/absent/x"), LastLink::Refused).unwrap_err().is_absent());
        // Behind a link too.
        mode(&at("above"), 0o777);
        all += &format!("{}\n", shown(&at("relative/sockets"), &temp));
        mode(&at("above"), 0o755);
        drop(dir);
        insta::assert_snapshot!(all, @"
        DIR/last: is a link to above/../above/./sockets (name the folder itself)
        DIR/circle/x: more than 40 links lead there (name the folder itself)
        DIR/gone: No such file or directory (os error 2) (make the folder, or name another)
        DIR/file: is not a folder (remove it, or name another)
        DIR/file: is not a folder (remove it, or name another)
        DIR/above: every user can write this folder (mode 0777), so any of them can replace what Keyferry puts there (chmod o-w DIR/above)
        ");
    }

    #[test]
    fn another_users_folder_or_link_is_refused() {
        if !rustix::process::geteuid().is_root() {
            // Only root can give a file to another user; the next best test uses folders of other users that exist everywhere.
            return;
        }
        let (temp, dir) = folders();
        let give = |path: &Path| std::os::unix::fs::lchown(path, Some(12345), None).unwrap();
        give(&dir);
        let mut all = format!("{}\n", shown(&dir, &temp));
        std::os::unix::fs::lchown(&dir, Some(0), None).unwrap();
        give(dir.parent().unwrap());
        all += &format!("{}\n", shown(&dir, &temp));
        std::os::unix::fs::lchown(dir.parent().unwrap(), Some(0), None).unwrap();
        symlink("above", temp.path().join("link")).unwrap();
        give(&temp.path().join("link"));
        all += &format!("{}\n", shown(&temp.path().join("link/sockets"), &temp));
        insta::assert_snapshot!(all, @"
        DIR/above/sockets: belongs to user 12345, who can replace what Keyferry puts there (chown -h US DIR/above/sockets)
        DIR/above: belongs to user 12345, who can replace what Keyferry puts there (chown -h US DIR/above)
        DIR/link: belongs to user 12345, who can replace what Keyferry puts there (chown -h US DIR/link)
        ");
    }
}
