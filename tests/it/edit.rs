//! `keyferry vault edit` at a terminal, with editors that are scripts, and with real ones where they are installed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::support::{House, apart, keyferry, run};
use crate::terminal::Terminal;

/// A house with a vault, and a folder in memory in place of the person's own.
struct Study {
    house: House,
    memory: tempfile::TempDir,
}

/// How an edit ended: its exit code, and what the terminal shows.
type Ended = (Option<i32>, String);

impl Study {
    fn new() -> Self {
        let house = House::bare();
        house.vault(&["init"]);
        house.set("shop/db", &[("password", b"correct horse"), ("username", b"app")]);
        Self { house, memory: tempfile::tempdir_in("/dev/shm").expect("these tests need a tmpfs at /dev/shm") }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = keyferry();
        command.args(["vault", "edit"]).args(arguments);
        command.env("KEYFERRY_VAULT", self.house.path("vault")).env("KEYFERRY_IDENTITY", self.house.path("age.key"));
        command.env("XDG_RUNTIME_DIR", self.memory.path()).env("HOME", self.home()).env("KEYFERRY", env!("CARGO_BIN_EXE_keyferry"));
        command
    }

    /// An empty home.
    fn home(&self) -> PathBuf {
        let home = self.house.path("home");
        fs::create_dir_all(&home).unwrap();
        home
    }

    /// An editor that is a shell script. `$1` is the file, and `$OUT` a folder to write to.
    fn editor(&self, script: &str) -> String {
        let path = self.house.path("editor");
        let out = self.house.folder.path().display();
        fs::write(&path, format!("#!/bin/sh\nOUT={out}\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn start(&self, editor: &str, arguments: &[&str]) -> Terminal {
        Terminal::run(self.command(arguments).env("EDITOR", editor))
    }

    /// Edits to the end, after which nothing is left in memory.
    #[track_caller]
    fn edit(&self, script: &str, arguments: &[&str]) -> Ended {
        self.end(&mut self.start(&self.editor(script), arguments))
    }

    #[track_caller]
    fn end(&self, terminal: &mut Terminal) -> Ended {
        let (status, shown) = terminal.end();
        assert_eq!(self.in_memory(), 0, "{status}: something is left behind:\n{shown}");
        assert!(terminal.is_in_order(), "the terminal is left in disorder");
        (status.code(), shown)
    }

    fn in_memory(&self) -> usize {
        fs::read_dir(self.memory.path()).unwrap().count()
    }

    fn value(&self, field: &str) -> String {
        self.house.vault(&["get", "shop/db", "--field", field])
    }

    fn vault(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        files(&self.house.path("vault"))
    }

    /// What an editor has written to `$OUT`.
    fn noted(&self, name: &str) -> String {
        fs::read_to_string(self.house.path(name)).unwrap()
    }
}

/// All that is below a folder.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { drop(found.insert(path.clone(), fs::read(path).unwrap())) }
    }
    found
}

/// The last line that is shown.
fn last(ended: &Ended) -> (Option<i32>, &str) {
    (ended.0, ended.1.lines().last().unwrap_or_default())
}

#[test]
fn what_is_saved_becomes_a_revision() {
    let study = Study::new();
    study.house.vault(&["patch", "shop/db", &format!("tls.p12=@{}", binary(&study).display())]);
    let ended = study.edit(
        r#"cp "$1" $OUT/text; echo "$TMPDIR" > $OUT/tmpdir; stat -c %a "$1" "$(dirname "$1")" > $OUT/modes
        stat -f -c %T "$1" >> $OUT/modes; echo "$1" > $OUT/file
        sed -i -e 's/correct horse/new: #1/' -e 's/^password: .*/password: |-\n  new: #1/' -e '/^username/d' "$1"; echo 'port: 5432' >> "$1""#,
        &["shop/db"],
    );
    assert_eq!(last(&ended), (Some(0), "shop/db: revision 3: password changed, port added, username removed, tls.p12 kept"));
    assert_eq!((study.value("password"), study.value("port")), ("new: #1".to_owned(), "5432".to_owned()));
    assert_eq!(study.noted("modes"), "600\n700\ntmpfs\n");
    let folder = Path::new(study.noted("file").trim()).parent().unwrap().to_owned();
    assert_eq!((folder.parent(), study.noted("tmpdir").trim()), (Some(study.memory.path()), folder.to_str().unwrap()));
    insta::assert_snapshot!(study.noted("text"), @r"
    # shop/db, revision 2. Each entry is a field. Change, add or remove some, save, and leave the editor.
    # Below `|-` every character counts, except the line break at the end. Below `|` it counts too.
    # If you change nothing, or remove all of this text, the secret stays as it is.
    # The field tls.p12 is not shown, and stays as it is (binary, 3 bytes).

    password: correct horse
    username: app
    ");
    assert!(!ended.1.contains("new: #1"), "{}", ended.1);
    assert_eq!(ended.1.matches("Keyferry does not know this editor").count(), 1, "{}", ended.1);
}

fn binary(study: &Study) -> PathBuf {
    let path = study.house.path("binary");
    fs::write(&path, [0xff, 0, 10]).unwrap();
    path
}

#[test]
fn what_is_not_changed_is_not_written() {
    let study = Study::new();
    let before = study.vault();
    for script in [":", "sed -i 's/^username: app/username: \"app\"/' \"$1\"", "sed -i '/^#/d' \"$1\"", "sed -i 's/$/\\r/' \"$1\""] {
        let ended = study.edit(script, &["shop/db"]);
        assert_eq!(last(&ended).0, Some(0), "{script}: {}", ended.1);
        assert!(ended.1.contains("shop/db: unchanged, revision 1\n"), "{script}: {}", ended.1);
        assert_eq!(study.vault(), before, "{script}");
    }
    let dry = study.edit("sed -i s/horse/cow/ \"$1\"", &["shop/db", "--dry-run"]);
    assert_eq!(last(&dry), (Some(0), "shop/db: would be revision 2: password changed, username kept"));
    assert_eq!(study.vault(), before);
    let quiet = study.edit("sed -i s/horse/cow/ \"$1\"", &["shop/db", "-q", "--keep", "0"]);
    assert_eq!((quiet.0, study.value("password").as_str()), (Some(0), "correct cow"));
    assert!(!quiet.1.contains("revision"), "{}", quiet.1);
    assert_eq!(study.house.vault(&["history", "shop/db"]).lines().count(), 2, "--keep 0");
}

/// As with git: `VISUAL` before `EDITOR`, and a shell reads it.
#[test]
fn the_editor_may_have_arguments() {
    let study = Study::new();
    let editor = study.editor(r#"shift $(($# - 1)); sed -i s/horse/cow/ "$1""#);
    let mut terminal = Terminal::run(study.command(&["shop/db"]).env("VISUAL", format!("{editor} --wait 'a b'")).env("EDITOR", "false"));
    assert_eq!(study.end(&mut terminal).0, Some(0));
    assert_eq!(study.value("password"), "correct cow");
    let mut terminal = Terminal::run(study.command(&["shop/db"]).env("VISUAL", " ").env("EDITOR", "x=cow; sed -i s/$x/horse/"));
    assert_eq!(study.end(&mut terminal).0, Some(0));
    assert_eq!(study.value("password"), "correct horse");
}

#[test]
fn it_is_for_a_person_who_has_an_editor() {
    let study = Study::new();
    let (code, out, errors) = run(study.command(&["shop/db"]).env("EDITOR", "true"), "");
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(
        errors.contains("shop/db: only a person at a terminal can edit (scripts use `keyferry vault patch shop/db FIELD=-`)"),
        "{errors}"
    );
    let ended = study.end(&mut Terminal::run(&study.command(&["shop/db"])));
    assert_eq!(ended.0, Some(2));
    assert!(ended.1.contains("shop/db: no editor is set (set VISUAL or EDITOR: `EDITOR=nano keyferry vault edit shop/db`)"), "{}", ended.1);
    let ended = study.edit("touch $OUT/started", &["shop/bd"]);
    assert_eq!(ended.0, Some(1));
    assert!(ended.1.contains("did you mean shop/db?") && !study.house.path("started").exists(), "{}", ended.1);
}

#[test]
fn a_text_with_a_fault_comes_back_with_what_was_typed() {
    let study = Study::new();
    let ended = study.edit(
        r#"n=$(cat $OUT/n 2>/dev/null || echo 0); n=$((n + 1)); echo $n > $OUT/n; cp "$1" $OUT/text$n
        case $n in
            1) echo 'port: 1 # typed' >> "$1";;
            2) sed -i 's/ # typed//' "$1"; echo 'port: 2' >> "$1";;
            3) sed -i '/^port: 1/d' "$1";;
        esac"#,
        &["shop/db"],
    );
    assert_eq!(last(&ended), (Some(0), "shop/db: revision 2: port added, password kept, username kept"));
    assert_eq!(study.value("port"), "2");
    insta::assert_snapshot!(study.noted("text2"), @r"
    #! Nothing is changed yet. Correct this, save, and leave the editor. If you leave it as it is, nothing changes.
    #! line 9: port: YAML does not read this value as you typed it (write it in the lines below `|-`, or in quotes)
    # shop/db, revision 1. Each entry is a field. Change, add or remove some, save, and leave the editor.
    # Below `|-` every character counts, except the line break at the end. Below `|` it counts too.
    # If you change nothing, or remove all of this text, the secret stays as it is.

    password: correct horse
    username: app
    port: 1 # typed
    ");
    insta::assert_snapshot!(study.noted("text3").lines().take(3).collect::<Vec<_>>().join("\n"), @r"
    #! Nothing is changed yet. Correct this, save, and leave the editor. If you leave it as it is, nothing changes.
    #! line 10: port: given twice in one mapping (remove one)
    # shop/db, revision 1. Each entry is a field. Change, add or remove some, save, and leave the editor.
    ");
}

#[test]
fn who_gives_up_has_changed_nothing() {
    let study = Study::new();
    let before = study.vault();
    for (script, message) in [
        ("grep -q '^#!' \"$1\" || echo hunter2 >> \"$1\"", "shop/db: the text still has faults, and nothing was changed"),
        (": > \"$1\"", "shop/db: the text is empty, and nothing was changed (to remove the secret: `keyferry vault remove shop/db`)"),
        ("grep -q '^#!' \"$1\" && : > \"$1\" || echo hunter2 >> \"$1\"", "shop/db: the text is empty, and nothing was changed"),
        ("rm \"$1\"", "shop/db: the text cannot be read, and nothing was changed: No such file or directory (os error 2)"),
        ("echo hunter2: x >> \"$1\"; exit 3", "shop/db: the editor ended with exit code 3, and nothing was changed"),
        ("echo hunter2: x >> \"$1\"; kill -SEGV $$", "shop/db: the editor was ended by signal 11, and nothing was changed"),
        ("stty raw -echo; exit 1", "shop/db: the editor ended with exit code 1, and nothing was changed"),
        ("truncate -s 40M \"$1\"", "shop/db: the text has more than 33554432 bytes, and nothing was changed"),
    ] {
        let ended = study.edit(script, &["shop/db"]);
        assert!(ended.0 == Some(1) && ended.1.contains(message), "{script}: {:?}: {}", ended.0, ended.1);
        assert!(!ended.1.contains("hunter2"), "{}", ended.1);
        assert_eq!(study.vault(), before, "{script}");
    }
    for editor in ["/nowhere/editor", "'", "/etc/passwd"] {
        let ended = study.end(&mut study.start(editor, &["shop/db"]));
        assert_eq!((ended.0, study.vault() == before), (Some(1), true), "{editor}: {}", ended.1);
    }
}

/// While a person types, the vault is not locked, and what somebody else does meanwhile stays.
#[test]
fn what_has_moved_meanwhile_is_not_written_over() {
    let study = Study::new();
    let other = "\"$KEYFERRY\" vault patch shop/db username=other > $OUT/other 2>&1 || exit 9";
    let ended = study.edit(&format!("{other}\nsed -i s/horse/hunter2/ \"$1\"; echo 'port: 1' >> \"$1\""), &["shop/db"]);
    assert_eq!(ended.0, Some(1), "{}", ended.1);
    let message = "shop/db: is revision 2 now, and you edited revision 1: nothing was changed (run `keyferry vault edit shop/db` again; \
                   your changes, which are not kept: password changed, port added)";
    assert!(ended.1.contains(message) && !ended.1.contains("hunter2"), "{}", ended.1);
    assert_eq!((study.value("username"), study.value("password")), ("other".to_owned(), "correct horse".to_owned()));

    let ended = study.edit("\"$KEYFERRY\" vault remove shop/db > $OUT/other; echo 'port: 1' >> \"$1\"", &["shop/db"]);
    assert!(ended.0 == Some(1) && ended.1.contains("nothing was changed (your changes, which are not kept: port added)"), "{}", ended.1);
    assert_eq!(study.house.vault(&["list"]), "");
}

// === Signals ===

/// An editor that says when it runs, and runs until it is ended.
const WAITS: &str = "echo 'port: 1' >> \"$1\"; touch $OUT/runs; while :; do sleep 0.05; done";

impl Study {
    /// A terminal where an editor runs.
    fn waiting(&self, script: &str) -> Terminal {
        let _ = fs::remove_file(self.house.path("runs"));
        let terminal = self.start(&self.editor(script), &["shop/db"]);
        terminal.until("the editor does not start", || self.house.path("runs").exists());
        assert_eq!(self.in_memory(), 1);
        terminal
    }
}

#[test]
fn a_signal_leaves_nothing_behind() {
    let study = Study::new();
    let before = study.vault();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::ALARM] {
        let mut terminal = study.waiting(WAITS);
        terminal.signal(signal);
        let ended = study.end(&mut terminal);
        assert_eq!(ended.0, Some(128 + signal.as_raw()), "{}", ended.1);
        let message = "interrupted: shop/db is not changed (run `keyferry vault edit shop/db` again)";
        assert!(ended.1.contains(message), "{signal:?}: {}", ended.1);
        assert_eq!(study.vault(), before);
    }
}

#[test]
fn an_editor_that_does_not_want_to_end_is_ended() {
    let study = Study::new();
    let mut terminal = study.waiting(&format!("trap '' TERM; {WAITS}"));
    terminal.signal(Signal::TERM);
    assert_eq!(study.end(&mut terminal).0, Some(143));
}

#[test]
fn ctrl_c_ends_it_unless_it_is_a_key_of_the_editor() {
    let study = Study::new();
    let mut terminal = study.waiting(WAITS);
    terminal.type_keys(b"\x03");
    assert_eq!(study.end(&mut terminal).0, Some(130));
    // As emacs does: it reads key by key, and one of them is sent as a signal.
    let mut terminal = study.waiting(
        "trap 'echo > $OUT/key' INT; stty -icanon -echo; touch $OUT/runs; until [ -e $OUT/go ]; do sleep 0.05; done; stty icanon echo",
    );
    terminal.type_keys(b"\x03");
    terminal.until("the key does not come", || study.house.path("key").exists());
    fs::write(study.house.path("go"), "").unwrap();
    let ended = study.end(&mut terminal);
    assert!(ended.0 == Some(0) && ended.1.contains("unchanged"), "{}", ended.1);
}

/// Somebody else has the vault, and the person does not want to wait.
#[test]
fn a_signal_ends_the_wait_for_the_lock() {
    let study = Study::new();
    let before = study.vault();
    let lock = fs::OpenOptions::new().write(true).open(study.house.path("vault/.lock")).unwrap();
    lock.lock().unwrap();
    let mut terminal = study.waiting("echo 'port: 1' >> \"$1\"; touch $OUT/runs; until [ -e $OUT/go ]; do sleep 0.05; done");
    fs::write(study.house.path("go"), "").unwrap();
    terminal.until("it does not wait for the lock", || waits_for_a_lock(&study));
    terminal.type_keys(b"\x03");
    assert_eq!(study.end(&mut terminal).0, Some(130));
    assert_eq!(study.vault(), before);
}

/// What `/proc/locks` shows with an arrow.
fn waits_for_a_lock(study: &Study) -> bool {
    use std::os::unix::fs::MetadataExt;
    let inode = fs::metadata(study.house.path("vault/.lock")).unwrap().ino();
    fs::read_to_string("/proc/locks").unwrap().lines().any(|line| line.contains("->") && line.contains(&format!(":{inode} ")))
}

// === Real editors ===

#[allow(clippy::print_stderr)] // a skipped test says so
fn is_installed(editor: &str) -> bool {
    let found = apart("sh").args(["-c", "command -v \"$0\"", editor]).output().unwrap().status.success();
    if !found {
        eprintln!("{editor} is not installed, and not tried");
    }
    found
}

/// Whatever a person's settings say, nothing of the secret is anywhere else.
#[test]
fn vim_leaves_nothing_elsewhere() {
    for editor in ["vim", "nvim", "vi"].into_iter().filter(|editor| is_installed(editor)) {
        let study = Study::new();
        let settings = "set undofile undodir=~/undo backup writebackup backupdir=~/backup directory=~/swap viminfo='10,<50,n~/info updatecount=1 modeline tabstop=8\n";
        for folder in ["undo", "backup", "swap"] {
            fs::create_dir_all(study.home().join(folder)).unwrap();
        }
        fs::write(study.home().join(".vimrc"), settings).unwrap();
        study.house.set("shop/db", &[("password", b"correct horse"), ("zz", b"x\nvim: set tabstop=13:\n")]);
        let mut terminal = study.start(editor, &["shop/db"]);
        terminal.until("vim does not start", || terminal.shown().contains("correct horse"));
        terminal.type_keys(b":set tabstop?\r");
        terminal.until("a value has set an option", || terminal.shown().contains("  tabstop=8"));
        terminal.type_keys(b":%s/correct horse/battery staple/\r:w\rGonext: typed\x1byy");
        terminal.until("it was not typed", || terminal.shown().contains("next: typed"));
        // An editor writes swap files while a person types. None is there.
        assert!(files(&study.home()).keys().all(|path| path.ends_with(".vimrc")), "{:?}", files(&study.home()));
        terminal.type_keys(b":wq\r");
        let ended = study.end(&mut terminal);
        assert!(ended.0 == Some(0) && ended.1.contains("revision 3: password changed, next added, zz kept"), "{editor}: {}", ended.1);
        assert!(!ended.1.contains("does not know"), "{}", ended.1);
        assert_eq!(study.value("password"), "battery staple");
        let left = files(&study.home());
        assert!(left.iter().all(|(path, content)| path.ends_with(".vimrc") || content.is_empty()), "{editor}: {left:?}");

        let mut terminal = study.start(editor, &["shop/db"]);
        terminal.until("vim does not start", || terminal.shown().contains("battery staple"));
        terminal.type_keys(b":q!\r");
        assert!(study.end(&mut terminal).1.contains("shop/db: unchanged, revision 3"));
        let mut terminal = study.start(editor, &["shop/db"]);
        terminal.until("vim does not start", || terminal.shown().contains("battery staple"));
        terminal.type_keys(b"ix: y\x1b");
        terminal.signal(Signal::TERM);
        assert_eq!(study.end(&mut terminal).0, Some(143));
    }
}

#[test]
fn nano_leaves_nothing_elsewhere() {
    if !is_installed("nano") {
        return;
    }
    let study = Study::new();
    fs::create_dir_all(study.home().join("backup")).unwrap();
    fs::write(
        study.home().join(".nanorc"),
        format!("set backup\nset backupdir {0}/backup\nset historylog\nset locking\n", study.home().display()),
    )
    .unwrap();
    let mut terminal = study.start("nano", &["shop/db"]);
    terminal.until("nano does not start", || terminal.shown().contains("correct horse"));
    terminal.type_keys(b"port: 1\r\x0f\r");
    terminal.until("nano does not write", || terminal.shown().contains("Wrote"));
    terminal.type_keys(b"\x18");
    let ended = study.end(&mut terminal);
    assert!(ended.0 == Some(0) && ended.1.contains("shop/db: revision 2: port added, password kept, username kept"), "{}", ended.1);
    let left = files(&study.home());
    assert!(left.keys().all(|path| path.ends_with(".nanorc")), "{left:?}");
}
