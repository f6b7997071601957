use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use tempfile::TempDir;

use super::*;

/// A set of files: path, mode, contents.
type Set = Vec<(FilePath, FileMode, Vec<u8>)>;

/// What a Pod sees: by path, mode and contents.
type Seen = BTreeMap<String, (u32, Vec<u8>)>;

fn set(files: &[(&str, u64, &str)]) -> Set {
    files.iter().map(|(path, mode, text)| (path.parse().unwrap(), FileMode::from_bits(*mode).unwrap(), text.as_bytes().to_vec())).collect()
}

fn put_watched(dir: &Path, files: &Set, hook: Hook<'_>) -> Result<Written, VolumeError> {
    put_over(dir, files, InTheWay::Refused, hook)
}

fn put_over(dir: &Path, files: &Set, in_the_way: InTheWay, hook: Hook<'_>) -> Result<Written, VolumeError> {
    let files: Vec<_> = files.iter().map(|(path, mode, contents)| VolumeFile { path, mode: *mode, contents, owner: None }).collect();
    let now = Timestamp::new(1_767_323_045, 678_901_234).unwrap();
    write_watched(fs::File::open(dir).unwrap(), &files, now, in_the_way, &mut |_| Ok(()), hook)
}

fn put(dir: &Path, files: &Set) -> Result<Written, VolumeError> {
    put_watched(dir, files, &mut |_| Ok(()))
}

fn wished(files: &Set) -> Seen {
    files.iter().map(|(path, mode, contents)| (path.to_string(), (u32::from(mode.bits()), contents.clone()))).collect()
}

/// Looks as a Pod does: through the links. A link that leads nowhere does not exist.
fn seen(dir: &Path) -> Seen {
    fn look(path: &Path, shown: &str, seen: &mut Seen) {
        let Ok(found) = fs::metadata(path) else { return };
        if found.is_dir() {
            for name in names(path) {
                look(&path.join(&name), &format!("{shown}/{name}"), seen);
            }
        } else {
            seen.insert(shown.to_owned(), (found.mode() & 0o7777, fs::read(path).unwrap()));
        }
    }
    let mut seen = Seen::new();
    for name in names(dir).into_iter().filter(|name| !name.starts_with("..")) {
        look(&dir.join(&name), &name, &mut seen);
    }
    seen
}

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The volume holds these files, and its folder nothing but what they need.
#[track_caller]
fn assert_tidy(dir: &Path, files: &Set) {
    assert_eq!(seen(dir), wished(files));
    let data = fs::read_link(dir.join(POINTER)).unwrap().into_os_string().into_string().unwrap();
    let mut expected: BTreeSet<String> = wished(files).keys().map(|path| path.split('/').next().unwrap().to_owned()).collect();
    for link in &expected {
        assert_eq!(fs::read_link(dir.join(link)).unwrap(), Path::new(POINTER).join(link));
    }
    assert_eq!(fs::metadata(dir.join(&data)).unwrap().mode() & 0o7777, 0o755);
    expected.extend([POINTER.to_owned(), data]);
    assert_eq!(names(dir), expected);
}

/// Everything that can be seen of a folder's entries, with times.
fn photograph(dir: &Path) -> Vec<String> {
    let mut shots = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let found = fs::symlink_metadata(&path).unwrap();
        let times = (found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec());
        shots.push(format!("{} {} {:o} {times:?}", path.display(), found.ino(), found.mode()));
        if found.is_dir() {
            todo.extend(names(&path).into_iter().map(|name| path.join(name)));
        }
    }
    shots
}

fn before() -> Set {
    set(&[("a", 0o644, "one"), ("db/user", 0o444, "u"), ("db/deep/password", 0o400, "p"), ("gone", 0o600, "x"), ("kind", 0o644, "file")])
}

fn after() -> Set {
    set(&[("a", 0o644, "two"), ("db/user", 0o440, "u"), ("kind/folder", 0o644, "now"), ("new", 0o777, ""), (".env", 0o666, "E=1\n")])
}

#[test]
fn files_stand_with_their_exact_modes_behind_the_pointer() {
    let dir = TempDir::new().unwrap();
    assert_eq!(put(dir.path(), &before()).unwrap(), Written::Changed);
    assert_tidy(dir.path(), &before());
    assert_eq!(fs::read_link(dir.path().join(POINTER)).unwrap(), Path::new("..2026_01_02_03_04_05.678901234k"));
    assert_eq!(fs::metadata(dir.path().join("db/deep")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn an_unchanged_volume_is_not_touched() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), &before()).unwrap();
    let shot = photograph(dir.path());
    assert_eq!(put_watched(dir.path(), &before(), &mut |step| panic!("{step}")).unwrap(), Written::Unchanged);
    assert_eq!(photograph(dir.path()), shot);
}

#[test]
fn every_kind_of_change_is_seen() {
    let changes = [
        set(&[("a", 0o644, "onE"), ("db/user", 0o444, "u")]),
        set(&[("a", 0o640, "onE"), ("db/user", 0o444, "u")]),
        set(&[("a", 0o640, "onE and more"), ("db/user", 0o444, "u")]),
        set(&[("a", 0o640, "onE and more")]),
        set(&[("a", 0o640, "onE and more"), ("b", 0o640, "")]),
        set(&[("a/was/file", 0o640, ""), ("b", 0o640, "")]),
        set(&[("a/was", 0o640, ""), ("b", 0o640, "")]),
        set(&[]),
        before(),
        after(),
    ];
    let dir = TempDir::new().unwrap();
    for files in changes {
        assert_eq!(put(dir.path(), &files).unwrap(), Written::Changed);
        assert_tidy(dir.path(), &files);
        assert_eq!(put(dir.path(), &files).unwrap(), Written::Unchanged);
    }
}

#[test]
fn contents_around_the_size_of_a_comparison_are_told_apart() {
    let dir = TempDir::new().unwrap();
    for size in [65_535, 65_536, 65_537, 200_000] {
        let mut files = set(&[("big", 0o600, &"x".repeat(size))]);
        assert_eq!(put(dir.path(), &files).unwrap(), Written::Changed);
        assert_eq!(put(dir.path(), &files).unwrap(), Written::Unchanged);
        *files[0].2.last_mut().unwrap() = b'y';
        assert_eq!(put(dir.path(), &files).unwrap(), Written::Changed);
        assert_eq!(seen(dir.path()), wished(&files));
    }
}

#[test]
fn a_lost_link_and_tampered_files_are_mended() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), &before()).unwrap();
    fs::remove_file(dir.path().join("a")).unwrap();
    assert_eq!(put(dir.path(), &before()).unwrap(), Written::Unchanged);
    assert_tidy(dir.path(), &before());
    let tampers: [fn(&Path); 4] = [
        |data| fs::write(data.join("stranger"), "").unwrap(),
        |data| fs::create_dir(data.join("db/empty")).unwrap(),
        |data| fs::set_permissions(data.join("db"), fs::Permissions::from_mode(0o700)).unwrap(),
        |data| {
            fs::remove_file(data.join("a")).unwrap();
            assert!(Command::new("mkfifo").arg(data.join("a")).status().unwrap().success());
        },
    ];
    for tamper in tampers {
        tamper(&dir.path().join(POINTER));
        assert_eq!(put(dir.path(), &before()).unwrap(), Written::Changed);
        assert_tidy(dir.path(), &before());
    }
}

#[test]
fn a_failure_at_any_step_leaves_the_former_files_or_the_new_ones() {
    for fails_at in 0.. {
        let dir = TempDir::new().unwrap();
        put(dir.path(), &before()).unwrap();
        let listed = names(dir.path());
        let (mut steps, mut switched) = (0, false);
        let written = put_watched(dir.path(), &after(), &mut |step| {
            steps += 1;
            if steps == fails_at + 1 {
                return Err(Errno::NOSPC);
            }
            switched |= step == Step::Switch;
            Ok(())
        });
        match written {
            Ok(_) => {
                assert!(fails_at > 20, "{fails_at}");
                break;
            }
            Err(VolumeError::Untidy(_)) => assert_eq!((seen(dir.path()), switched), (wished(&after()), true), "{fails_at}"),
            Err(_) => {
                assert_eq!((seen(dir.path()), switched), (wished(&before()), false), "{fails_at}");
                assert_eq!(names(dir.path()), listed, "what was begun is gone again");
            }
        }
        let _ = put(dir.path(), &after()).unwrap();
        assert_tidy(dir.path(), &after());
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]

    /// Any set of files after any other, with a failure at any step: one of the two sets is there, and then the new set is reached.
    #[test]
    fn any_volume_follows_any_other(sets in proptest::collection::vec(any_set(), 2..5), fails_at in 0_usize..60) {
        let dir = TempDir::new().unwrap();
        for pair in sets.windows(2) {
            let (former, new) = (&pair[0], &pair[1]);
            let _ = put(dir.path(), former).unwrap();
            let mut left = fails_at;
            let _ = put_watched(dir.path(), new, &mut |_| left.checked_sub(1).map(|less| left = less).ok_or(Errno::IO));
            let found = seen(dir.path());
            assert!(found == wished(former) || found == wished(new), "{found:?}");
            let _ = put(dir.path(), new).unwrap();
            assert_tidy(dir.path(), new);
        }
    }
}

/// Few names, so that files, folders and links with the same name follow each other.
fn any_set() -> impl proptest::strategy::Strategy<Value = Set> {
    use proptest::prelude::*;
    let file = ("[ab](/[ab]){0,2}", prop::sample::select(vec![0o600, 0o644]), "[xy]{0,2}");
    prop::collection::vec(file, 0..6).prop_map(|files| {
        let mut kept = Set::new();
        for (path, mode, text) in files {
            let folder_of = |inner: &str, outer: &str| inner.starts_with(&format!("{outer}/"));
            let clash = |(other, ..): &(FilePath, FileMode, Vec<u8>)| {
                other.as_str() == path || folder_of(other.as_str(), &path) || folder_of(&path, other.as_str())
            };
            if !kept.iter().any(clash) {
                kept.extend(set(&[(&path, mode, &text)]));
            }
        }
        kept
    })
}

/// Which step a child of `kill_nine_at_any_step...` dies before, and in which folder it writes.
const KILL_AT: &str = "KEYFERRY_TEST_KILL_AT";
const KILL_IN: &str = "KEYFERRY_TEST_KILL_IN";

#[test]
fn kill_nine_at_any_step_leaves_the_former_files_or_the_new_ones() {
    for dies_at in 0.. {
        let dir = TempDir::new().unwrap();
        put(dir.path(), &before()).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "delivery::volume::tests::a_writer_that_is_killed", "--quiet"])
            .envs([(KILL_AT, dies_at.to_string().as_str()), (KILL_IN, dir.path().to_str().unwrap())])
            .output()
            .unwrap();
        if child.status.success() {
            assert_tidy(dir.path(), &after());
            assert!(dies_at > 20, "the child was killed {dies_at} times");
            break;
        }
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.status), Some(9), "{child:?}");
        let found = seen(dir.path());
        assert!(found == wished(&before()) || found == wished(&after()), "killed before step {dies_at}: {found:?}");
        // The next write succeeds, whichever it is: the same set again, or the former one.
        let next = if dies_at % 2 == 0 { after() } else { before() };
        let _ = put(dir.path(), &next).unwrap();
        assert_tidy(dir.path(), &next);
    }
}

/// The child of the test above; on its own it does nothing.
#[test]
fn a_writer_that_is_killed() {
    let (Ok(at), Ok(dir)) = (std::env::var(KILL_AT), std::env::var(KILL_IN)) else { return };
    let mut left: usize = at.parse().unwrap();
    let _ = put_watched(Path::new(&dir), &after(), &mut |_| {
        if left == 0 {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
        }
        left -= 1;
        Ok(())
    })
    .unwrap();
}

#[test]
fn planted_links_are_never_followed() {
    let outside = TempDir::new().unwrap();
    fs::write(outside.path().join("password"), "outside").unwrap();
    fs::create_dir(outside.path().join("deep")).unwrap();
    let shot = photograph(outside.path());
    let leftover = "..2025_01_01_00_00_00.1";
    let plants: [fn(&Path, &Path); 5] = [
        |dir, outside| symlink(outside, dir.join("..2025_01_01_00_00_00.1")).unwrap(),
        |dir, outside| symlink(outside, dir.join(NEXT_POINTER)).unwrap(),
        |dir, outside| {
            fs::create_dir_all(dir.join("..2025_01_01_00_00_00.1/x")).unwrap();
            symlink(outside, dir.join("..2025_01_01_00_00_00.1/x/deep")).unwrap();
        },
        |dir, outside| {
            fs::remove_dir_all(dir.join(POINTER).join("db")).unwrap();
            symlink(outside, dir.join(POINTER).join("db")).unwrap();
        },
        |dir, outside| {
            let data = dir.join(fs::read_link(dir.join(POINTER)).unwrap());
            fs::remove_dir_all(&data).unwrap();
            symlink(outside, data).unwrap();
        },
    ];
    for plant in plants {
        let dir = TempDir::new().unwrap();
        put(dir.path(), &before()).unwrap();
        plant(dir.path(), outside.path());
        let _ = put(dir.path(), &before()).unwrap();
        assert_tidy(dir.path(), &before());
        assert!(!names(dir.path()).contains(leftover));
        assert_eq!(photograph(outside.path()), shot);
    }
}

#[test]
fn strangers_are_left_alone_and_refused_where_they_are_in_the_way() {
    let dir = TempDir::new().unwrap();
    for name in ["mine", "..hidden", "..2026_notes"] {
        fs::write(dir.path().join(name), name).unwrap();
    }
    symlink("/etc/hostname", dir.path().join("link")).unwrap();
    put(dir.path(), &before()).unwrap();
    put(dir.path(), &after()).unwrap();
    assert!(names(dir.path()).is_superset(&["mine", "..hidden", "..2026_notes", "link"].map(str::to_owned).into()));
    for name in ["mine", "link"] {
        let error = put(dir.path(), &set(&[(name, 0o644, "x")])).unwrap_err();
        assert!(matches!(&error, VolumeError::Occupied { name: shown } if shown == name), "{error}");
    }
    fs::remove_file(dir.path().join("link")).unwrap();
    assert_eq!(fs::read(dir.path().join("mine")).unwrap(), b"mine");
    assert_eq!(seen(dir.path()).get("a"), wished(&after()).get("a"));

    for pointer in ["/etc", "elsewhere", "..data"] {
        let dir = TempDir::new().unwrap();
        symlink(pointer, dir.path().join(POINTER)).unwrap();
        insta::allow_duplicates! {
            insta::assert_snapshot!(put(dir.path(), &before()).unwrap_err(), @"cannot write the volume: ..data is already there, and no writer of volumes made it (move it elsewhere)");
        }
    }
}

/// A volume that another provider has filled: with files and folders of its own, and with a link of a name that is a file now.
fn filled_by_another(outside: &Path) -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("a"), "theirs").unwrap();
    fs::create_dir_all(dir.path().join("db/deep")).unwrap();
    fs::write(dir.path().join("db/user"), "theirs").unwrap();
    symlink(outside, dir.path().join("kind")).unwrap();
    dir
}

#[test]
fn files_of_another_provider_are_replaced_in_a_pods_volume() {
    let outside = TempDir::new().unwrap();
    fs::write(outside.path().join("a"), "outside").unwrap();
    for fails_at in 0.. {
        let dir = filled_by_another(outside.path());
        let mut steps = 0;
        let written = put_over(dir.path(), &before(), InTheWay::Replaced, &mut |_| {
            let a = fs::read_to_string(dir.path().join("a")).unwrap();
            assert!(["theirs", "one"].contains(&a.as_str()), "before step {steps}: {a}");
            steps += 1;
            if steps == fails_at + 1 { Err(Errno::IO) } else { Ok(()) }
        });
        assert!(fs::exists(dir.path().join("db/user")).unwrap(), "{fails_at}");
        if written.is_ok() {
            assert_tidy(dir.path(), &before());
            assert!(fails_at > 20, "{fails_at}");
            break;
        }
        let _ = put_over(dir.path(), &before(), InTheWay::Replaced, &mut |_| Ok(())).unwrap();
        assert_tidy(dir.path(), &before());
        assert_eq!(put(dir.path(), &before()).unwrap(), Written::Unchanged, "{fails_at}");
    }
    assert_eq!(fs::read(outside.path().join("a")).unwrap(), b"outside");
    assert_eq!(names(outside.path()).len(), 1);
}

#[test]
fn what_is_in_no_files_way_stays_in_a_pods_volume() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("withdrawn"), "theirs").unwrap();
    let _ = put_over(dir.path(), &before(), InTheWay::Replaced, &mut |_| Ok(())).unwrap();
    assert_eq!(fs::read(dir.path().join("withdrawn")).unwrap(), b"theirs");
}

#[test]
fn files_that_cannot_both_stand_are_refused_before_anything_is_written() {
    let dir = TempDir::new().unwrap();
    insta::assert_snapshot!(put(dir.path(), &set(&[("db", 0o644, ""), ("db/x", 0o644, "")])).unwrap_err(), @"cannot write the volume: db is delivered twice, or is also the folder of another file (give each its own path)");
    assert!(put(dir.path(), &set(&[("a", 0o644, ""), ("a", 0o600, "")])).is_err());
    assert!(names(dir.path()).is_empty());
}

#[test]
fn two_writers_do_not_meet_in_one_volume() {
    let (dir, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut met = None;
    let _ = put_watched(dir.path(), &before(), &mut |_| {
        met.get_or_insert_with(|| (put(dir.path(), &after()), put(other.path(), &after())));
        Ok(())
    })
    .unwrap();
    let (same, different) = met.unwrap();
    insta::assert_snapshot!(same.unwrap_err(), @"cannot write the volume: another mount is writing it (ask again when that one is done)");
    assert_eq!(different.unwrap(), Written::Changed);
    assert_tidy(dir.path(), &before());
    assert_eq!(put(dir.path(), &after()).unwrap(), Written::Changed, "the turn is given back");
}

#[test]
fn the_deepest_path_and_many_files_need_few_descriptors() {
    let dir = TempDir::new().unwrap();
    let deep = "x/".repeat(2000) + "end";
    let mut files: Set = (0..512).map(|n| (format!("many/{n}").parse().unwrap(), FileMode::DEFAULT, vec![b'.'; n])).collect();
    files.extend(set(&[(&deep, 0o644, "deep")]));
    assert_eq!(put(dir.path(), &files).unwrap(), Written::Changed);
    assert_eq!(put(dir.path(), &files).unwrap(), Written::Unchanged);
    assert_eq!(put(dir.path(), &after()).unwrap(), Written::Changed);
    assert_tidy(dir.path(), &after());
}

#[test]
fn messages_name_the_file_the_cause_and_the_remedy() {
    let fail = |step, cause| {
        let dir = TempDir::new().unwrap();
        put_watched(dir.path(), &after(), &mut |now| if now == step { Err(cause) } else { Ok(()) }).unwrap_err().to_string()
    };
    insta::assert_snapshot!(fail(Step::Fill, Errno::NOSPC), @"cannot write a in the volume: No space left on device (os error 28) (the former files stay; the volume's file system is full: give it more room, or deliver less)");
    insta::assert_snapshot!(fail(Step::MakeFolder, Errno::ROFS), @"cannot make the folder ..2026_01_02_03_04_05.678901234k in the volume: Read-only file system (os error 30) (the volume is mounted read-only: mount it read-write for its writer)");
    let dir = TempDir::new().unwrap();
    put(dir.path(), &before()).unwrap();
    let error = put_watched(dir.path(), &after(), &mut |step| if step == Step::Remove { Err(Errno::PERM) } else { Ok(()) }).unwrap_err();
    insta::assert_snapshot!(error, @"the volume's new files are in force, but not all former files could be removed: cannot remove ..2026_01_02_03_04_05.678901234k in the volume: Operation not permitted (os error 1) (this process may not: run it as root, or as the folder's owner) (the next mount tries again)");
}

#[test]
fn debug_shows_no_contents() {
    let path = "a".parse().unwrap();
    let file = VolumeFile { path: &path, mode: FileMode::DEFAULT, contents: b"hunter2", owner: None };
    insta::assert_snapshot!(format!("{file:?}"), @r#"VolumeFile { path: FilePath("a"), mode: FileMode(420), contents: (7 bytes, redacted), owner: None }"#);
}

#[test]
fn only_this_pods_own_volumes_have_the_right_shape() {
    let root = TempDir::new().unwrap();
    let path = |text: &str| format!("{}/{text}", root.path().display());
    for wrong in [
        "pods/other/volumes/kubernetes.io~csi/secrets/mount",
        "pods/uid/volumes/kubernetes.io~csi/secrets/mount/",
        "pods/uid/volumes/kubernetes.io~csi/secrets/mount/x",
        "pods/uid/volumes/kubernetes.io~csi/../mount",
        "pods/uid/volumes/kubernetes.io~csi//mount",
        "pods/uid/volumes/kubernetes.io~empty-dir/secrets/mount",
        "pods/uid/volumes/kubernetes.io~csi/secrets",
        "pods/../pods/uid/volumes/kubernetes.io~csi/secrets/mount",
        "",
    ] {
        let error = open_target(root.path(), "uid", &path(wrong)).unwrap_err();
        assert!(matches!(error, TargetError::Elsewhere { .. }), "{wrong}: {error}");
    }
    for uid in ["", "..", "."] {
        let target = path(&format!("pods/{uid}/volumes/kubernetes.io~csi/secrets/mount"));
        assert!(matches!(open_target(root.path(), uid, &target), Err(TargetError::Elsewhere { .. })), "{uid}");
    }
    let error = open_target(Path::new("/var/lib/kubelet"), "uid", "/etc/cron.d").unwrap_err();
    insta::assert_snapshot!(error, @"target_path: /etc/cron.d is not of the form /var/lib/kubelet/pods/uid/volumes/kubernetes.io~csi/<volume>/mount (Keyferry writes only this Pod's own CSI volumes; is `kubeletDir` right?)");
}

#[test]
fn a_target_that_is_a_link_a_disk_or_not_there_is_refused() {
    let root = TempDir::new().unwrap();
    let real = root.path().join("pods/uid/volumes/kubernetes.io~csi/secrets");
    let target = real.join("mount");
    let open = || open_target(root.path(), "uid", target.to_str().unwrap()).unwrap_err();
    assert!(matches!(open(), TargetError::Unreachable { cause: Errno::NOENT, .. }), "{}", open());
    fs::create_dir_all(&target).unwrap();
    assert!(matches!(open(), TargetError::NotMounted { .. }), "{}", open());
    fs::remove_dir(&target).unwrap();
    symlink("/dev/shm", &target).unwrap();
    assert!(matches!(open(), TargetError::Unreachable { cause: Errno::LOOP, .. }), "{}", open());
    fs::rename(&real, root.path().join("moved")).unwrap();
    symlink(root.path().join("moved"), &real).unwrap();
    assert!(matches!(open(), TargetError::Unreachable { cause: Errno::LOOP, .. }), "{}", open());
}

#[test]
fn a_volume_is_measured_as_it_was_weighed() {
    use crate::steps::Steps;
    let page = |n: usize| "x".repeat(n * PAGE);
    let long = "n".repeat(200);
    let sets = [
        (set(&[]), 1),
        (set(&[("a", 0o644, "")]), 3),
        (set(&[("a", 0o644, &page(1))]), 3),
        (set(&[("a", 0o644, &(page(1) + "x"))]), 4),
        (set(&[("a", 0o644, &page(9))]), 11),
        // A link to a name as long as this has a page of its own.
        (set(&[(&long, 0o644, "")]), 4),
        // Folders are not free.
        (set(&[(&("d/".repeat(100) + "end"), 0o644, "")]), 34),
        (before(), 10),
    ];
    let dir = TempDir::new().unwrap();
    for (files, pages) in sets {
        put(dir.path(), &files).unwrap();
        let wished: Vec<_> = files.iter().map(|(path, mode, contents)| VolumeFile { path, mode: *mode, contents, owner: None }).collect();
        let folder = fs::File::open(dir.path()).unwrap();
        assert!(is_own(&folder));
        assert_eq!((weight(&wished), measure(folder.as_fd(), &Steps::unbounded()).unwrap()), (pages, Some(pages)));
    }
    // A volume that needs too many steps is measured as far as the steps last.
    let many: Set = (0..100).map(|n| (format!("f{n}").parse().unwrap(), FileMode::DEFAULT, vec![b'x'])).collect();
    put(dir.path(), &many).unwrap();
    let folder = fs::File::open(dir.path()).unwrap();
    let seen = measure(folder.as_fd(), &Steps::new(64 * 100, tokio::time::Instant::now())).unwrap();
    assert!(seen.is_some_and(|pages| pages < 100), "{seen:?}");
}

#[test]
fn another_writers_volume_is_not_an_own_one() {
    use crate::steps::Steps;
    let dir = TempDir::new().unwrap();
    for name in ["..2026_01_02_03_04_05.678901234", "..2026_01_02_03_04_05.1", "..2026_notes_k", "mine"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    symlink("..2026_01_02_03_04_05.1", dir.path().join(POINTER)).unwrap();
    let folder = fs::File::open(dir.path()).unwrap();
    assert_eq!((is_own(&folder), measure(folder.as_fd(), &Steps::unbounded()).unwrap()), (false, None));
    put(dir.path(), &before()).unwrap();
    assert!(is_own(&folder));
}

#[test]
fn without_room_nothing_is_written_and_the_former_files_stay() {
    let dir = TempDir::new().unwrap();
    let write = |files: &Set, has_room: bool| {
        let files: Vec<_> = files.iter().map(|(path, mode, contents)| VolumeFile { path, mode: *mode, contents, owner: None }).collect();
        let mut asked = None;
        let written = write_of_pod(fs::File::open(dir.path()).unwrap(), &files, Timestamp::UNIX_EPOCH, &mut |former| {
            asked = Some(former);
            if has_room { Ok(()) } else { Err(VolumeError::NoRoom { kib: 8 }) }
        });
        (written, asked)
    };
    let (refused, asked) = write(&before(), false);
    insta::assert_snapshot!(refused.unwrap_err(), @"cannot write the volume: it needs 8 KiB of limits.volumeBytes, and its namespace cannot have that much now (the former files stay: deliver fewer files, stop Pods of the namespace on this node, or ask for a higher limits.volumeBytes)");
    assert_eq!((asked, names(dir.path()).len()), (Some(false), 0));
    assert_eq!(write(&before(), true).1, Some(false));
    let shot = photograph(dir.path());
    assert!(write(&after(), false).0.is_err());
    assert_eq!(photograph(dir.path()), shot);
    let (unchanged, asked) = write(&before(), false);
    assert_eq!((unchanged.unwrap(), asked), (Written::Unchanged, None), "what is there needs no room");
    assert_eq!(write(&after(), true).1, Some(true));
    assert_tidy(dir.path(), &after());
}
