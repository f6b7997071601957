//! Opens a path below a folder, with any links in it: a path that leaves the folder is refused.
//!
//! The kernel can do this since Linux 5.6 (`openat2(2)`, `RESOLVE_BENEATH`). If it cannot, or a sandbox refuses the call, this code walks
//! the path one element at a time, by the same rules.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, retry_on_intr};

/// The most links in one path, as in the kernel (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// The most levels of a walk: each level is an open folder.
const MAX_DEPTH: usize = 64;

/// How often Keyferry asks the kernel again if it could not be sure, since something on the path was renamed.
const TRIES: usize = 8;

/// Opens `path`, absolute or relative to `folder`.
///
/// # Errors
/// `EXDEV`: it is not below the folder, or a link on the path leads out of it or is absolute.
pub(super) fn open(folder: &Path, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let path = relative(folder, path)?;
    let root = retry_on_intr(|| rustix::fs::openat(CWD, folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()))?;
    match by_kernel(&root, path, flags) {
        // Linux 5.6 is not everywhere; and some sandboxes answer "not permitted" for every call that they do not know.
        Err(Errno::NOSYS | Errno::PERM) => Ok(by_walk(root, path, flags)?),
        opened => Ok(opened?),
    }
}

/// Relative to the folder. A class may not write `..`, but links within the folder may have it.
fn relative<'p>(folder: &Path, path: &'p Path) -> io::Result<&'p Path> {
    let inside = if path.is_absolute() { path.strip_prefix(folder).map_err(|_| Errno::XDEV)? } else { path };
    if inside.components().any(|element| !matches!(element, Component::Normal(_) | Component::CurDir)) {
        return Err(Errno::XDEV.into());
    }
    Ok(if inside.as_os_str().is_empty() { Path::new(".") } else { inside })
}

fn by_kernel(root: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut opened = Err(Errno::AGAIN);
    for _ in 0..TRIES {
        opened = retry_on_intr(|| rustix::fs::openat2(root, path, flags, Mode::empty(), resolve));
        if !matches!(opened, Err(Errno::AGAIN)) {
            break;
        }
    }
    opened
}

/// Every folder on the path stays open, so that `..` leads back to the folder before it, even if something is moved in the meantime.
fn by_walk(root: OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let (mut above, mut here, mut links) = (Vec::new(), root, 0);
    let mut rest: VecDeque<OsString> = elements(path).collect();
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            here = above.pop().ok_or(Errno::XDEV)?;
            continue;
        }
        let found = open_at(&here, &name, OFlags::PATH)?;
        match FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) {
            FileType::Symlink => {
                links += 1;
                let target = rustix::fs::readlinkat(&found, "", Vec::new())?;
                let target = OsString::from_vec(target.into_bytes());
                if links > MAX_LINKS || rest.len() > MAX_DEPTH {
                    return Err(Errno::LOOP);
                }
                if Path::new(&target).is_absolute() {
                    return Err(Errno::XDEV);
                }
                for element in elements(Path::new(&target)).rev() {
                    rest.push_front(element);
                }
            }
            FileType::Directory => {
                if above.len() >= MAX_DEPTH {
                    return Err(Errno::LOOP);
                }
                above.push(std::mem::replace(&mut here, found));
            }
            FileType::BlockDevice
            | FileType::CharacterDevice
            | FileType::Fifo
            | FileType::RegularFile
            | FileType::Socket
            | FileType::Unknown => {
                // The look follows no link, so the open follows none.
                return if rest.is_empty() { open_at(&here, &name, flags) } else { Err(Errno::NOTDIR) };
            }
        }
    }
    open_at(&here, OsStr::new("."), flags)
}

fn open_at(folder: &OwnedFd, name: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    retry_on_intr(|| rustix::fs::openat(folder, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()))
}

/// Names and `..`, without `.`.
fn elements(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().filter_map(|element| match element {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::CurDir | Component::Prefix(_) | Component::RootDir => None,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    /// The result for a path, by both ways: they are always the same.
    fn found(folder: &Path, path: &str) -> Result<String, Errno> {
        let root = || rustix::fs::openat(CWD, folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let inside = relative(folder, Path::new(path)).map_err(|error| Errno::from_io_error(&error).unwrap())?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let (kernel, walk) = (by_kernel(&root(), inside, flags), by_walk(root(), inside, flags));
        let read = |opened: Result<OwnedFd, Errno>| {
            let mut text = String::new();
            opened.map(|opened| {
                let _ = fs::File::from(opened).read_to_string(&mut text);
                text
            })
        };
        let (kernel, walk) = (read(kernel), read(walk));
        assert_eq!(kernel, walk, "{path}");
        kernel
    }

    #[test]
    fn links_stay_inside_or_are_refused() {
        let house = tempfile::tempdir().unwrap();
        let (folder, outside) = (house.path().join("tls"), house.path().join("outside"));
        let at = |name: &str| folder.join(name);
        fs::create_dir_all(at("..2026_11_26")).unwrap();
        fs::create_dir_all(at("team/deep")).unwrap();
        fs::write(at("..2026_11_26/ca.crt"), "mounted").unwrap();
        fs::write(at("team/ca.crt"), "team").unwrap();
        fs::write(&outside, "outside").unwrap();
        // As kubelet mounts a Secret.
        symlink("..2026_11_26", at("..data")).unwrap();
        symlink("..data/ca.crt", at("ca.crt")).unwrap();
        symlink("../team/ca.crt", at("team/round")).unwrap();
        symlink("../../ca.crt", at("team/deep/up")).unwrap();
        symlink("../outside", at("out")).unwrap();
        symlink("../../outside", at("team/out")).unwrap();
        symlink(&outside, at("absolute")).unwrap();
        symlink(at("team/ca.crt"), at("absolute-inside")).unwrap();
        symlink("../tls/team/ca.crt", at("out-and-in")).unwrap();
        symlink("..", at("parent")).unwrap();
        symlink("loop", at("loop")).unwrap();
        symlink("gone", at("dangling")).unwrap();
        symlink("/proc/self/fd", at("fds")).unwrap();
        symlink(".", at("self")).unwrap();

        for (path, text) in [
            ("ca.crt", "mounted"),
            ("./ca.crt", "mounted"),
            ("..data/ca.crt", "mounted"),
            ("team/round", "team"),
            ("team/deep/up", "mounted"),
            ("self/self/team//ca.crt", "team"),
            ("team", ""),
            ("", ""),
        ] {
            assert_eq!(found(&folder, path), Ok(text.to_owned()), "{path}");
            let absolute = at(path).display().to_string();
            assert_eq!(found(&folder, &absolute), Ok(text.to_owned()), "{absolute}");
        }
        for path in ["out", "team/out", "absolute", "absolute-inside", "out-and-in", "parent/outside", "parent", "fds/0"] {
            assert_eq!(found(&folder, path), Err(Errno::XDEV), "{path}");
        }
        for path in ["../outside", "team/../ca.crt", "..", "/", "/etc/passwd", "/proc/self/fd/0", "/dev/zero"] {
            assert_eq!(found(&folder, path), Err(Errno::XDEV), "{path}");
        }
        let beside = house.path().join("tls-other/x").display().to_string();
        assert_eq!(found(&folder, &beside), Err(Errno::XDEV), "a name that only begins like the folder's");
        assert_eq!(found(&folder, "gone"), Err(Errno::NOENT));
        assert_eq!(found(&folder, "dangling"), Err(Errno::NOENT));
        assert_eq!(found(&folder, "ca.crt/x"), Err(Errno::NOTDIR));
        assert_eq!(found(&folder, "loop"), Err(Errno::LOOP));
        // A link of procfs that is not a path. The two ways differ only in the error for it.
        assert!(open(Path::new("/proc"), Path::new("self/root/etc/passwd"), OFlags::RDONLY).is_err());
        assert!(open(Path::new("/proc"), Path::new("self/fd/0"), OFlags::RDONLY).is_err());
    }

    #[test]
    fn the_folder_itself_may_be_a_link() {
        let house = tempfile::tempdir().unwrap();
        let (folder, link) = (house.path().join("true"), house.path().join("link"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("x"), "x").unwrap();
        symlink(&folder, &link).unwrap();
        assert_eq!(found(&link, "x"), Ok("x".to_owned()));
        assert!(open(&link, Path::new("x"), OFlags::RDONLY).is_ok());
        assert!(open(&house.path().join("gone"), Path::new("x"), OFlags::RDONLY).is_err());
        assert!(open(&folder.join("x"), Path::new("x"), OFlags::RDONLY).is_err(), "a file is not a folder");
    }
}
