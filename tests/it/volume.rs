//! The atomic writer and the guard of the target on real tmpfs mounts: full, without inodes, read-only.
//!
//! Each test runs itself again inside a mount namespace of its own (`with_mounts`).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use jiff::Timestamp;
use keyferry::delivery::volume::{TargetError, VolumeError, VolumeFile, Written, open_target, write};
use keyferry::model::{FileMode, FilePath, Owner};
use rustix::io::Errno;

use crate::support::{mount, tmpfs, with_mounts};

fn put(dir: &Path, owner: Option<Owner>, files: &[(&str, &[u8])]) -> Result<Written, VolumeError> {
    let paths: Vec<FilePath> = files.iter().map(|(path, _)| path.parse().unwrap()).collect();
    let files: Vec<_> =
        files.iter().zip(&paths).map(|((_, contents), path)| VolumeFile { path, mode: FileMode::DEFAULT, contents, owner }).collect();
    write(fs::File::open(dir).unwrap(), &files, Timestamp::UNIX_EPOCH)
}

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn free(dir: &Path) -> (u64, u64) {
    let found = rustix::fs::statvfs(dir).unwrap();
    (found.f_bfree, found.f_ffree)
}

#[test]
fn a_full_tmpfs_keeps_the_former_files() {
    with_mounts("volume::a_full_tmpfs_keeps_the_former_files", |dir| {
        let volume = tmpfs(&dir.join("v"), "size=256k");
        put(&volume, None, &[("a", b"former"), ("db/b", &vec![b'x'; 50_000])]).unwrap();
        let (before, room) = (names(&volume), free(&volume));
        let error = put(&volume, None, &[("a", b"new"), ("db/b", &vec![b'y'; 300_000]), ("c", b"")]).unwrap_err();
        insta::assert_snapshot!(error, @"cannot write db/b in the volume: No space left on device (os error 28) (the former files stay; the volume's file system is full: give it more room, or deliver less)");
        assert_eq!((names(&volume), free(&volume)), (before, room), "the unfinished write is cleaned");
        assert_eq!(fs::read(volume.join("a")).unwrap(), b"former");
        assert_eq!(fs::read(volume.join("db/b")).unwrap(), vec![b'x'; 50_000]);
        // What fits beside the former files still works, and gives their room back.
        for round in 0..10 {
            assert_eq!(put(&volume, None, &[("a", &vec![round; 100_000])]).unwrap(), Written::Changed);
        }
        assert_eq!(names(&volume).len(), 3);
    });
}

#[test]
fn a_tmpfs_without_inodes_keeps_the_former_files() {
    with_mounts("volume::a_tmpfs_without_inodes_keeps_the_former_files", |dir| {
        for inodes in 8..20 {
            let volume = tmpfs(&dir.join(inodes.to_string()), &format!("nr_inodes={inodes}"));
            put(&volume, None, &[("a", b"former"), ("b", b"former")]).unwrap();
            let (before, room) = (names(&volume), free(&volume));
            match put(&volume, None, &[("a", b"new"), ("c", b"new"), ("d/e", b"new")]) {
                Ok(written) => {
                    assert_eq!((written, names(&volume).len()), (Written::Changed, 5));
                    assert!(inodes > 8, "eight are not enough");
                }
                Err(VolumeError::Failed { cause: Errno::NOSPC, .. }) => {
                    assert_eq!((names(&volume), free(&volume)), (before, room));
                    assert_eq!(fs::read(volume.join("a")).unwrap(), b"former");
                    assert!(inodes < 19, "nineteen are enough");
                }
                Err(other) => panic!("{other}"),
            }
        }
    });
}

#[test]
fn a_read_only_volume_is_refused_but_an_unchanged_one_is_fine() {
    with_mounts("volume::a_read_only_volume_is_refused_but_an_unchanged_one_is_fine", |dir| {
        let volume = tmpfs(&dir.join("v"), "size=1m");
        put(&volume, None, &[("a", b"former")]).unwrap();
        mount(&["-o", "remount,bind,ro", volume.to_str().unwrap()]);
        assert_eq!(put(&volume, None, &[("a", b"former")]).unwrap(), Written::Unchanged);
        let error = put(&volume, None, &[("a", b"new")]).unwrap_err();
        insta::assert_snapshot!(error, @"cannot make the folder ..1970_01_01_00_00_00.000000001k in the volume: Read-only file system (os error 30) (the volume is mounted read-only: mount it read-write for its writer)");
    });
}

#[test]
fn files_get_the_owner_that_was_wished_for() {
    with_mounts("volume::files_get_the_owner_that_was_wished_for", |dir| {
        let volume = tmpfs(&dir.join("v"), "size=1m");
        let owner_of = || fs::metadata(volume.join("a")).map(|found| (found.uid(), found.gid(), found.mode() & 0o7777)).unwrap();
        let own = (0, 0, 0o644);
        put(&volume, None, &[("a", b"same")]).unwrap();
        assert_eq!(owner_of(), own);
        // A user namespace of an ordinary user maps that one user alone.
        let wish = if fs::read_to_string("/proc/self/uid_map").unwrap().contains("4294967295") { 1000 } else { 0 };
        let owner = Some(Owner { uid: wish, gid: wish });
        let changed = if wish == 0 { Written::Unchanged } else { Written::Changed };
        assert_eq!(put(&volume, owner, &[("a", b"same")]).unwrap(), changed, "the owner alone is a change");
        assert_eq!(owner_of(), (wish, wish, 0o644));
        assert_eq!(put(&volume, owner, &[("a", b"same")]).unwrap(), Written::Unchanged);
        assert_eq!(put(&volume, None, &[("a", b"same")]).unwrap(), changed);
        assert_eq!(owner_of(), own);
    });
}

#[test]
fn a_target_is_opened_only_where_it_is_a_tmpfs_of_its_own() {
    with_mounts("volume::a_target_is_opened_only_where_it_is_a_tmpfs_of_its_own", |dir| {
        let kubelet = dir.join("kubelet");
        let target = kubelet.join("pods/uid/volumes/kubernetes.io~csi/secrets/mount");
        let shown = target.to_str().unwrap();
        fs::create_dir_all(&target).unwrap();
        // The kubelet's folder itself in memory is not enough: it has to be a mount of its own ...
        tmpfs(&kubelet, "size=1m");
        fs::create_dir_all(&target).unwrap();
        assert!(matches!(open_target(&kubelet, "uid", shown), Err(TargetError::NotMounted { .. })));
        // ... and that one a tmpfs.
        mount(&["--bind", "/usr", shown]);
        assert!(matches!(open_target(&kubelet, "uid", shown), Err(TargetError::NotInMemory { .. })));
        tmpfs(&target, "size=1m");
        let opened = open_target(&kubelet, "uid", shown).unwrap();
        let path: FilePath = "a".parse().unwrap();
        let file = VolumeFile { path: &path, mode: FileMode::DEFAULT, contents: b"x", owner: None };
        assert_eq!(write(&opened, &[file], Timestamp::UNIX_EPOCH).unwrap(), Written::Changed);
        assert_eq!(fs::read(target.join("a")).unwrap(), b"x");
        // The admin's own folder may be a link.
        let link = dir.join("link");
        std::os::unix::fs::symlink(&kubelet, &link).unwrap();
        open_target(&link, "uid", &shown.replace("/kubelet/", "/link/")).unwrap();
    });
}
