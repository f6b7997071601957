use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::yaml;

const CANARY: &str = "canary-77aa01";

struct Folder {
    root: TempDir,
}

impl Folder {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn key(&self, name: &str, byte: u8) -> PathBuf {
        let path = self.root.path().join(name);
        fs::write(&path, [byte; KEY]).unwrap();
        path
    }

    fn config(&self, keys: &[u8]) -> SealedConfig {
        let keys = keys.iter().map(|byte| self.key(&format!("{byte}.key"), *byte)).collect();
        SealedConfig { dir: self.root.path().join("a/cache"), keys, bytes: BYTES }
    }

    fn room(&self, keys: &[u8]) -> Room {
        Sealed::open(&self.config(keys)).unwrap().room("leases")
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(self.root.path().join("a/cache/leases")).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }
}

fn contents(room: &Room) -> BTreeSet<String> {
    room.read_all().unwrap().contents.iter().map(|content| String::from_utf8(content.expose().to_vec()).unwrap()).collect()
}

fn unopened(room: &Room) -> String {
    let (count, first) = room.read_all().unwrap().unopened.unwrap();
    let problem = first.split_once(' ').unwrap().1;
    format!("{count}: {problem}")
}

#[test]
fn what_is_written_is_found_by_the_next_process() {
    let folder = Folder::new();
    let room = folder.room(&[1]);
    assert!(contents(&room).is_empty(), "a room that was never written is empty");
    room.write("a", b"1").unwrap();
    room.write("b", CANARY.as_bytes()).unwrap();
    room.write("a", b"2").unwrap();
    assert_eq!(contents(&folder.room(&[1])), BTreeSet::from(["2".to_owned(), CANARY.to_owned()]));
    room.remove("a").unwrap();
    room.remove("never").unwrap();
    assert_eq!(contents(&folder.room(&[1])), BTreeSet::from([CANARY.to_owned()]));
}

#[test]
fn the_disk_shows_neither_contents_nor_ids_and_is_the_daemons_own() {
    let folder = Folder::new();
    folder.room(&[1]).write("shop/db", CANARY.as_bytes()).unwrap();
    let file = &folder.files()[0];
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}");
    let bytes = fs::read(file).unwrap();
    assert!(!bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(file), mode(file.parent().unwrap()), mode(file.parent().unwrap().parent().unwrap())), (0o600, 0o700, 0o700));
}

#[test]
fn one_content_written_twice_looks_different() {
    let folder = Folder::new();
    let room = folder.room(&[1]);
    room.write("a", b"1").unwrap();
    let first = fs::read(&folder.files()[0]).unwrap();
    room.write("a", b"1").unwrap();
    assert_ne!(fs::read(&folder.files()[0]).unwrap(), first);
}

#[test]
fn what_was_moved_cut_altered_or_made_by_others_is_passed_over() {
    let folder = Folder::new();
    let room = folder.room(&[1]);
    room.write("a", b"1").unwrap();
    let file = folder.files().remove(0);
    let whole = fs::read(&file).unwrap();
    for at in [0, 6, 20, 45, whole.len() - 1] {
        let mut altered = whole.clone();
        altered[at] ^= 1;
        fs::write(&file, altered).unwrap();
        assert!(contents(&room).is_empty(), "{at}");
    }
    insta::assert_snapshot!(unopened(&room), @"1: was changed, moved, or encrypted with a key that is not configured");
    for length in 0..whole.len() {
        fs::write(&file, &whole[..length]).unwrap();
        assert!(contents(&room).is_empty(), "{length}");
    }
    fs::write(&file, &whole[..50]).unwrap();
    insta::assert_snapshot!(unopened(&room), @"1: is truncated");
    let mut newer = whole.clone();
    newer[6] = 2;
    fs::write(&file, newer).unwrap();
    insta::assert_snapshot!(unopened(&room), @"1: is not a sealed file of this version");

    fs::write(&file, &whole).unwrap();
    fs::rename(&file, file.with_file_name("0".repeat(32))).unwrap();
    assert!(contents(&room).is_empty());
    let other = Sealed::open(&folder.config(&[1])).unwrap().room("other");
    other.write("a", b"other").unwrap();
    fs::write(&file, fs::read(fs::read_dir(other.dir()).unwrap().next().unwrap().unwrap().path()).unwrap()).unwrap();
    assert!(contents(&room).is_empty(), "of another room");
    fs::write(file.with_file_name("ff"), "").unwrap();
    std::os::unix::fs::symlink("/dev/zero", file.with_file_name("link")).unwrap();
    room.write("b", b"good").unwrap();
    assert_eq!(contents(&room), BTreeSet::from(["good".to_owned()]), "the others are not harmed");
}

#[test]
fn a_new_key_takes_over_file_by_file() {
    let folder = Folder::new();
    let old = folder.room(&[1]);
    old.write("a", b"1").unwrap();
    old.write("b", b"2").unwrap();
    let both = folder.room(&[2, 1]);
    assert_eq!(contents(&both).len(), 2);
    both.write("a", b"3").unwrap();
    assert_eq!((folder.files().len(), contents(&both)), (2, BTreeSet::from(["2".to_owned(), "3".to_owned()])));
    assert_eq!(contents(&folder.room(&[2])), BTreeSet::from(["3".to_owned()]));
    both.remove("b").unwrap();
    assert_eq!(contents(&folder.room(&[1, 2])), BTreeSet::from(["3".to_owned()]));
}

#[test]
fn a_draft_that_a_crash_left_is_removed() {
    let folder = Folder::new();
    let room = folder.room(&[1]);
    room.write("a", b"1").unwrap();
    fs::write(folder.files()[0].with_file_name(".draft.1"), "half").unwrap();
    assert_eq!(contents(&room).len(), 1);
    assert_eq!(folder.files().len(), 1);
}

/// One key takes nothing from the others: a file that only it opens stays where it is.
#[test]
fn a_key_that_is_none_is_left_out() {
    let folder = Folder::new();
    folder.room(&[1]).write("a", b"1").unwrap();
    folder.room(&[2]).write("b", b"2").unwrap();
    let config = folder.config(&[1, 2, 3]);
    for unusable in [&config.keys[0], &config.keys[2]] {
        fs::write(unusable, [0; 33]).unwrap();
    }
    let room = Sealed::open(&config).unwrap().room("leases");
    assert_eq!(contents(&room), BTreeSet::from(["2".to_owned()]));
    room.write("c", b"3").unwrap();
    assert_eq!(contents(&folder.room(&[2])), BTreeSet::from(["2".to_owned(), "3".to_owned()]), "the first usable key seals");
    assert_eq!(contents(&folder.room(&[1])), BTreeSet::from(["1".to_owned()]));
}

#[test]
fn a_key_that_is_none_is_said_at_start() {
    let folder = Folder::new();
    let mut config = folder.config(&[1]);
    fs::write(&config.keys[0], [0; 31]).unwrap();
    config.keys.push(folder.root.path().join("absent.key"));
    config.keys.push(folder.root.path().join("long.key"));
    fs::write(&config.keys[2], [0; 33]).unwrap();
    config.dir = config.keys[0].join("dir");
    let problems = Sealed::open(&config).unwrap_err().join("\n").replace(folder.root.path().to_str().unwrap(), "");
    insta::assert_snapshot!(problems, @r"
    cache.sealed.key: /1.key: has 31 bytes; a key has exactly 32 (make one: head -c 32 /dev/urandom)
    cache.sealed.key: /absent.key: No such file or directory (os error 2) (make one: head -c 32 /dev/urandom)
    cache.sealed.key: /long.key: has more than 32 bytes; a key has exactly 32 (make one: head -c 32 /dev/urandom)
    cache.sealed.dir: /1.key/dir: Not a directory (os error 20) (let the daemon write there)
    ");
    let shown = format!("{:?}", Sealed::open(&folder.config(&[65])).unwrap());
    assert!(!shown.contains("65") && !shown.contains("AAAA"), "{shown}");
}

#[test]
fn the_configuration_names_what_is_missing() {
    let read = |text: &str| {
        let node = yaml::parse(text).unwrap();
        let mut faults = Faults::default();
        let mut reader = Reader::of(&node, "cache.sealed", &mut faults).unwrap();
        let config = SealedConfig::parse(&mut reader, &mut faults);
        reader.finish(&mut faults);
        let faults: Vec<_> = faults.into_sorted().iter().map(ToString::to_string).collect();
        (config, faults.join("\n"))
    };
    let config = SealedConfig { dir: "/c".into(), keys: vec!["/a".into(), "/b".into()], bytes: 64 << 20 };
    assert_eq!(read("{ dir: /c, key: [/a, /b] }"), (Some(config), String::new()));
    assert_eq!(read("{ dir: /c, key: /a }").0.unwrap().keys, [PathBuf::from("/a")]);
    assert_eq!(read("{ dir: /c, key: /a, bytes: 128MiB }").0.unwrap().bytes, 128 << 20);
    insta::assert_snapshot!(read("{ dir: /c, key: /a, bytes: 64KiB }").1, @r#"cache.sealed.bytes: "64KiB" is less than 1MiB (leave `stale` out to keep no answers)"#);
    insta::assert_snapshot!(read("{}").1, @r"
    cache.sealed.dir: is missing (a folder that is still there after a restart, such as /var/lib/keyferry/cache)
    cache.sealed.key: is missing (the file of 32 bytes that encrypts it, such as /etc/keyferry/cache.key, or a list of such)
    ");
    insta::assert_snapshot!(read("{ dir: c, key: [k], keys: x }").1, @r#"
    cache.sealed.dir: "c" is not an absolute path (start it with /)
    cache.sealed.key: "k" is not an absolute path (start it with /)
    cache.sealed.keys: is not a known key (did you mean `key`?)
    "#);
}

/// A link in a draft's place, to another file or to nothing, is not followed when a draft is written.
#[test]
fn a_draft_follows_no_link() {
    let folder = Folder::new();
    let room = folder.room(&[1]);
    room.write("a", b"1").unwrap();
    let place = folder.files().remove(0);
    let draft = place.with_file_name(format!(".{}.{}", place.file_name().unwrap().to_str().unwrap(), process::id()));
    let precious = folder.root.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    for target in [precious.clone(), folder.root.path().join("made-by-it")] {
        std::os::unix::fs::symlink(&target, &draft).unwrap();
        room.write("a", b"2").unwrap();
        assert!(!place.is_symlink() && !draft.is_symlink());
    }
    assert_eq!(fs::read(&precious).unwrap(), b"precious");
    assert!(!folder.root.path().join("made-by-it").exists());
    assert_eq!(contents(&room), BTreeSet::from(["2".to_owned()]));
}

#[test]
fn a_key_is_a_regular_file() {
    let folder = Folder::new();
    for path in ["/dev/zero", "/dev/random"] {
        let config = SealedConfig { keys: vec![path.into()], ..folder.config(&[]) };
        assert_eq!(Sealed::open(&config).unwrap_err().len(), 1, "{path}");
    }
}
