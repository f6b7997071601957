use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

const KIB: u64 = 1024;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("audit.jsonl")
    }

    fn open(&self, keep: usize) -> LineFile {
        LineFile::open(&self.path(), Some(Rotate { size: 64 * KIB, keep })).unwrap()
    }

    /// The text of each file, by its number: 0 has no number.
    fn files(&self) -> BTreeMap<usize, String> {
        let entries = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap());
        let number = |name: &str| match name.strip_prefix("audit.jsonl")? {
            "" => Some(0),
            rest => rest.strip_prefix('.')?.parse().ok(),
        };
        let found = entries.filter_map(|entry| Some((number(entry.file_name().to_str()?)?, fs::read_to_string(entry.path()).ok()?)));
        found.collect()
    }

    /// All lines, the oldest first.
    fn lines(&self) -> Vec<String> {
        let files = self.files();
        assert!(files.values().all(|text| text.is_empty() || text.ends_with('\n')), "a line is cut");
        files.values().rev().flat_map(|text| text.lines()).map(str::to_owned).collect()
    }
}

/// A line of about this many bytes, which has its number.
fn line(number: usize, bytes: usize) -> String {
    format!("{number} {}\n", "x".repeat(bytes))
}

fn write(file: &mut LineFile, numbers: std::ops::Range<usize>, bytes: impl Fn(usize) -> usize) -> Vec<String> {
    let lines: Vec<String> = numbers.map(|number| line(number, bytes(number))).collect();
    for line in &lines {
        file.write(line.as_bytes(), Instant::now()).unwrap();
    }
    lines.into_iter().map(|line| line.trim_end_matches('\n').to_owned()).collect()
}

#[test]
fn it_rotates_at_the_ends_of_lines_and_loses_none() {
    let folder = Folder::new();
    let mut file = folder.open(100);
    let written = write(&mut file, 0..1_000, |number| number * 7 % 5_000);
    assert_eq!(folder.lines(), written);
    let files = folder.files();
    let sizes: Vec<_> = files.values().map(String::len).collect();
    assert!(
        sizes.len() > 30 && sizes.iter().all(|size| *size <= 64 * 1024) && sizes[1..].iter().all(|size| *size > 58 * 1024),
        "{sizes:?}"
    );
    let mode = |number| fs::metadata(numbered(&folder.path(), number)).unwrap().permissions().mode() & 0o777;
    assert_eq!((fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777, mode(1)), (0o600, 0o600));
}

#[test]
fn the_longest_lines_have_a_file_each_and_are_whole() {
    let folder = Folder::new();
    let mut file = folder.open(10);
    let written = write(&mut file, 0..8, |_| LINE - 3);
    assert_eq!(folder.lines(), written);
    assert_eq!(folder.files().len(), 8);
}

#[test]
fn so_many_are_kept_and_the_oldest_goes() {
    for keep in [1, 2, 4] {
        let folder = Folder::new();
        let mut file = folder.open(keep);
        let written = write(&mut file, 0..1_000, |_| 1_000);
        let lines = folder.lines();
        assert_eq!(folder.files().len(), keep + 1);
        assert!(lines.len() > keep * 64 && written.ends_with(&lines), "the newest, without a gap");
    }
}

/// Wherever a rotation was stopped, the next one continues from there.
#[test]
fn a_rotation_that_was_stopped_loses_nothing() {
    for steps in 0..=3 {
        let folder = Folder::new();
        let mut file = folder.open(9);
        let mut written = write(&mut file, 0..150, |_| 1_000);
        drop(file);
        assert_eq!(folder.files().len(), 3);
        let path = folder.path();
        let renames =
            [(numbered(&path, 2), numbered(&path, 3)), (numbered(&path, 1), numbered(&path, 2)), (path.clone(), numbered(&path, 1))];
        for (from, to) in &renames[..steps] {
            fs::rename(from, to).unwrap();
        }
        let mut file = folder.open(9);
        written.extend(write(&mut file, 150..400, |_| 1_000));
        assert_eq!(folder.lines(), written, "stopped after {steps} steps");
    }
}

#[test]
fn what_has_no_number_of_ours_is_left_alone() {
    let folder = Folder::new();
    for name in [".old", ".1.gz", ".7", "2"] {
        fs::write(format!("{}{name}", folder.path().display()), "kept\n").unwrap();
    }
    let mut file = folder.open(3);
    write(&mut file, 0..1_000, |_| 1_000);
    for name in [".old", ".1.gz", ".7", "2"] {
        assert_eq!(fs::read_to_string(format!("{}{name}", folder.path().display())).unwrap(), "kept\n");
    }
    assert_eq!(folder.files().keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3, 7]);
}

#[test]
fn a_part_of_a_line_at_the_end_is_removed_or_ended() {
    let (rotating, growing) = (Folder::new(), Folder::new());
    for folder in [&rotating, &growing] {
        fs::write(folder.path(), "whole\npart").unwrap();
    }
    write(&mut rotating.open(1), 0..1, |_| 1);
    write(&mut LineFile::open(&growing.path(), None).unwrap(), 0..1, |_| 1);
    assert_eq!((rotating.lines().join("|"), growing.lines().join("|")), ("whole|0 x".to_owned(), "whole|part|0 x".to_owned()));
    // Only a part; nothing at all; a text that is not one of our lines.
    for (found, left) in
        [("part".to_owned(), ""), (String::new(), ""), ("\n".to_owned(), "\n"), ("y".repeat(2 * LINE), &*"y".repeat(2 * LINE))]
    {
        fs::write(rotating.path(), &found).unwrap();
        rotating.open(1);
        assert_eq!(fs::read_to_string(rotating.path()).unwrap(), left);
    }
    let mut file = LineFile::open(&rotating.path(), None).unwrap();
    write(&mut file, 0..2, |_| 1);
    assert!(fs::read_to_string(rotating.path()).unwrap().ends_with("y\n0 x\n1 x\n"));
}

#[test]
fn where_it_cannot_rotate_it_grows_and_tries_again() {
    let folder = Folder::new();
    let mut file = folder.open(1);
    let in_the_way = numbered(&folder.path(), 1);
    fs::create_dir(&in_the_way).unwrap();
    let mut written = write(&mut file, 0..100, |_| 1_000);
    assert_eq!(folder.lines(), written);
    fs::remove_dir(&in_the_way).unwrap();
    written.extend(write(&mut file, 100..101, |_| 1_000));
    assert_eq!(folder.files().len(), 1, "not at each line");
    file.write(b"later\n", Instant::now() + MINUTE).unwrap();
    written.push("later".to_owned());
    assert_eq!((folder.lines(), folder.files().len()), (written, 2));
}

#[test]
fn a_file_that_was_moved_is_not_moved_again() {
    let folder = Folder::new();
    let mut file = folder.open(3);
    let mut written = write(&mut file, 0..60, |_| 1_000);
    // As by hand, and nobody tells Keyferry: the next rotation begins a new file.
    fs::rename(folder.path(), folder.0.path().join("audit.jsonl.9")).unwrap();
    written.extend(write(&mut file, 60..70, |_| 1_000));
    assert_eq!(folder.files().keys().copied().collect::<Vec<_>>(), [0, 9]);
    assert_eq!(folder.lines(), written);
}

#[test]
fn it_is_opened_again_where_another_file_has_its_name() {
    for rotate in [None, Some(Rotate::default())] {
        let folder = Folder::new();
        let mut file = LineFile::open(&folder.path(), rotate).unwrap();
        write(&mut file, 0..1, |_| 1);
        file.reopen();
        write(&mut file, 1..2, |_| 1);
        fs::rename(folder.path(), numbered(&folder.path(), 1)).unwrap();
        write(&mut file, 2..3, |_| 1);
        file.reopen();
        write(&mut file, 3..4, |_| 1);
        assert_eq!(folder.files().into_values().collect::<Vec<_>>(), ["3 x\n", "0 x\n1 x\n2 x\n"]);
        // As logrotate's `create` does it.
        fs::rename(folder.path(), numbered(&folder.path(), 2)).unwrap();
        fs::write(folder.path(), "").unwrap();
        file.reopen();
        write(&mut file, 4..5, |_| 1);
        assert_eq!(folder.files()[&0], "4 x\n");
    }
}

#[test]
fn what_cannot_be_opened_again_stays_open() {
    let folder = Folder::new();
    let mut file = folder.open(1);
    fs::rename(folder.path(), numbered(&folder.path(), 1)).unwrap();
    symlink("elsewhere", folder.path()).unwrap();
    file.reopen();
    write(&mut file, 0..1, |_| 1);
    assert_eq!(fs::read_to_string(numbered(&folder.path(), 1)).unwrap(), "0 x\n");
    assert!(!folder.0.path().join("elsewhere").exists());
}

#[test]
fn only_a_file_of_ours_is_rotated() {
    let folder = Folder::new();
    let at = |name: &str| folder.0.path().join(name);
    fs::write(at("file"), "").unwrap();
    symlink(at("file"), at("link")).unwrap();
    symlink(at("gone"), at("dangling")).unwrap();
    fs::create_dir(at("folder")).unwrap();
    rustix::fs::mkfifoat(CWD, at("pipe"), rustix::fs::Mode::RWXU).unwrap();
    let refused = |path: &Path, rotate| match LineFile::open(path, rotate) {
        Ok(_) => "taken".to_owned(),
        Err(error) => error.to_string(),
    };
    let mut all = String::new();
    for name in ["file", "link", "dangling", "folder", "pipe", "file/under", "absent/file", "/dev/null"] {
        let both = [Some(Rotate::default()), None].map(|rotate| refused(&at(name), rotate));
        all.push_str(&format!("{name}: {}\n    without: {}\n", both[0], both[1]));
    }
    insta::assert_snapshot!(all, @"
    file: taken
        without: taken
    link: is a link, which a rotation would replace (name the file that it leads to, or remove `rotate`)
        without: taken
    dangling: is a link, which a rotation would replace (name the file that it leads to, or remove `rotate`)
        without: taken
    folder: is a folder (name a file in it)
        without: is a folder (name a file in it)
    pipe: is not a regular file, so it cannot be rotated (name another file, or remove `rotate`)
        without: nobody reads this pipe (start its reader first, or name a file)
    file/under: Not a directory (os error 20) (make its folder, and let the daemon write there)
        without: Not a directory (os error 20) (make its folder, and let the daemon write there)
    absent/file: No such file or directory (os error 2) (make its folder, and let the daemon write there)
        without: No such file or directory (os error 2) (make its folder, and let the daemon write there)
    /dev/null: is not a regular file, so it cannot be rotated (name another file, or remove `rotate`)
        without: taken
    ");
    assert!(!at("link.lock").exists() && !at("pipe.lock").exists(), "what is refused leaves nothing behind");
}

/// Only root can give a file away.
#[test]
fn a_file_of_another_user_is_refused() {
    let folder = Folder::new();
    fs::write(folder.path(), "").unwrap();
    if !geteuid().is_root() {
        return;
    }
    std::os::unix::fs::chown(folder.path(), Some(4242), None).unwrap();
    let refused = LineFile::open(&folder.path(), Some(Rotate::default())).unwrap_err();
    insta::assert_snapshot!(refused, @"belongs to user 4242, and the daemon runs as user 0: that user could change the lines (chown it to 0, or move it away)");
    assert!(LineFile::open(&folder.path(), None).is_ok());
}

#[test]
fn one_process_at_a_time_rotates() {
    let folder = Folder::new();
    let first = folder.open(1);
    let refused = lock(&folder.path(), Duration::from_millis(20)).unwrap_err();
    assert!(refused.to_string().starts_with("another process writes it, and holds "), "{refused}");
    drop(first);
    folder.open(1);
    fs::remove_file(folder.0.path().join("audit.jsonl.lock")).unwrap();
    symlink(folder.path(), folder.0.path().join("audit.jsonl.lock")).unwrap();
    assert!(matches!(lock(&folder.path(), Duration::ZERO), Err(OpenError::Lock { .. })), "it follows no link");
}
