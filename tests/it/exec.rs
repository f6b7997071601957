//! `keyferry exec` with real processes: what runs in its place, what it gets, and what must not run.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use keyferry::clock::{Clock, SystemClock};
use keyferry::delivery::volume::{VolumeFile, write};
use keyferry::model::FileMode;
use rustix::fs::{CWD, Mode};
use rustix::process::{Pid, Signal};
use tokio::time::Duration;

use crate::support::{House, apart, keyferry, run, web};

/// A folder with files, and what `keyferry exec` does there.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        Self(crate::folder::new())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn with(name: &str, contents: impl AsRef<[u8]>) -> Self {
        let desk = Self::new();
        desk.write(name, contents);
        desk
    }

    fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), contents).unwrap();
    }

    /// `@` in an argument is the folder.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = keyferry();
        command.arg("exec").args(arguments.iter().map(|argument| argument.replace('@', self.0.path().to_str().unwrap())));
        command
    }

    fn exec(&self, arguments: &[&str]) -> (i32, String, String) {
        let (code, out, errors) = run(&mut self.command(arguments), "");
        (code, out, errors.replace(self.0.path().to_str().unwrap(), "@"))
    }

    /// The message about arguments with which nothing may run.
    fn refused(&self, arguments: &[&str]) -> String {
        let mark = self.path("ran");
        let (code, out, errors) = self.exec(&[arguments, &["--", "touch", mark.to_str().unwrap()]].concat());
        assert!(!mark.exists(), "{arguments:?}: it was run");
        assert_eq!(out, "");
        format!("{code}\n{errors}")
    }
}

/// The variables of a command that prints them all, each with a zero byte after it.
fn variables(desk: &Desk, arguments: &[&str]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let output = desk.command(&[arguments, &["--", "cat", "/proc/self/environ"]].concat()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = output.stdout.split(|byte| *byte == 0).filter(|line| !line.is_empty());
    let pair = |line: &[u8]| {
        let at = line.iter().position(|byte| *byte == b'=').unwrap();
        (line[..at].to_vec(), line[at + 1..].to_vec())
    };
    lines.map(pair).collect()
}

fn value(variables: &[(Vec<u8>, Vec<u8>)], name: &str) -> Option<Vec<u8>> {
    variables.iter().find(|(found, _)| found == name.as_bytes()).map(|(_, value)| value.clone())
}

fn text(variables: &[(Vec<u8>, Vec<u8>)], name: &str) -> String {
    String::from_utf8(value(variables, name).unwrap()).unwrap()
}

// === In its place ===

#[test]
fn the_process_becomes_the_commands() {
    let desk = Desk::with(".env", "A=1\n");
    let mut child =
        desk.command(&["--env-file", "@/.env", "--", "sh", "-c", "echo $$; exec sleep 60"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut out = child.stdout.take().unwrap();
    while !line.ends_with('\n') {
        let mut byte = [0];
        out.read_exact(&mut byte).unwrap();
        line.push(char::from(byte[0]));
    }
    assert_eq!(line.trim(), child.id().to_string());
    rustix::process::kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
}

#[test]
fn exit_codes_are_the_commands_and_a_shells() {
    let desk = Desk::with(".env", "A=1\n");
    desk.write("plain", "");
    desk.write("script", "#!/nowhere/at/all\n");
    fs::set_permissions(desk.path("script"), fs::Permissions::from_mode(0o755)).unwrap();
    let exec = |command: &[&str]| desk.exec(&[&["--env-file", "@/.env", "--"], command].concat());
    for code in [0, 1, 37, 126, 255] {
        assert_eq!(exec(&["sh", "-c", &format!("exit {code}")]), (code, String::new(), String::new()));
    }
    let mut said = Vec::new();
    for command in ["no-such-command", "/no/such/command", "", "@/script", "@/plain", "@"] {
        let (code, out, errors) = exec(&[command]);
        assert_eq!(out, "");
        said.push(format!("{code} {errors}"));
    }
    insta::assert_snapshot!(said.concat(), @"
    127 error: no-such-command: cannot be run: No such file or directory (os error 2) (is it in the image and in PATH? if it is a script, is the program of its first line there too?)
    127 error: /no/such/command: cannot be run: No such file or directory (os error 2) (is it in the image and in PATH? if it is a script, is the program of its first line there too?)
    127 error: : cannot be run: No such file or directory (os error 2) (is it in the image and in PATH? if it is a script, is the program of its first line there too?)
    127 error: @/script: cannot be run: No such file or directory (os error 2) (is it in the image and in PATH? if it is a script, is the program of its first line there too?)
    126 error: @/plain: cannot be run: Permission denied (os error 13) (is it a file, and executable for this user?)
    126 error: @: cannot be run: Permission denied (os error 13) (is it a file, and executable for this user?)
    ");
    // Its input, output and errors are the same, too.
    let (code, out, errors) = run(&mut desk.command(&["--env-file", "@/.env", "--", "sh", "-c", "cat; echo oh >&2"]), "in");
    assert_eq!((code, out.as_str(), errors.as_str()), (0, "in", "oh\n"));
}

/// The signal for a broken pipe usually ends a program. std ignores it in this program, but not in the command.
#[test]
fn a_broken_pipe_ends_the_command() {
    let desk = Desk::with(".env", "A=1\n");
    let mut child = desk.command(&["--env-file", "@/.env", "--", "yes"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().signal(), Some(Signal::PIPE.as_raw()));
}

// === What it gets ===

#[test]
fn a_folders_files_are_variables_byte_for_byte() {
    let desk = Desk::new();
    let every_byte: Vec<u8> = (1..=255).collect();
    for (name, contents) in
        [("EVERY", every_byte.as_slice()), ("EMPTY", b""), ("LINE_END", b"a\n\n"), ("tls.crt", b"x"), ("a b", b"=="), (".hidden", b"h")]
    {
        desk.write(&format!("env/{name}"), contents);
    }
    desk.write("env/..own/inside", "no");
    let found = variables(&desk, &["--dir", "@/env"]);
    assert_eq!(value(&found, "EVERY").unwrap(), every_byte);
    let texts = ["EMPTY", "LINE_END", "tls.crt", "a b", ".hidden"].map(|name| text(&found, name));
    assert_eq!(texts, ["", "a\n\n", "x", "==", "h"]);
    assert_eq!((value(&found, "..own"), value(&found, "inside")), (None, None));
    assert!(value(&found, "PATH").is_some(), "what was there stays");
}

#[test]
fn a_file_of_the_daemons_own_is_read() {
    let house = House::new("");
    house.set("shop/app", &[("db.password", b"two\nlines 'x'? no: it's"), ("url", b"postgres://a:b@c/d?x=1"), ("empty", b"")]);
    house.set("shop/app", &[("db.password", b"$HOME `id` \"x\"\n#"), ("url", b"postgres://a:b@c/d?x=1"), ("empty", b"")]);
    let provider = house.serve();
    let objects = "- { secret: shop/app, format: dotenv, keys: env, path: .env }";
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let answer = runtime.block_on(provider.mount(house.request(&web(), objects))).unwrap();
    let desk = Desk::with(".env", &answer.files[0].contents);
    let found = variables(&desk, &["--env-file", "@/.env"]);
    let texts = ["DB_PASSWORD", "URL", "EMPTY"].map(|name| text(&found, name));
    assert_eq!(texts, ["$HOME `id` \"x\"\n#", "postgres://a:b@c/d?x=1", ""]);
}

#[test]
fn what_is_set_already_wins_unless_it_is_overridden() {
    let desk = Desk::with(".env", "A=file\nEMPTY=file\nNEW=file\n");
    let with = |arguments: &[&str]| {
        let mut command = desk.command(&[arguments, &["--env-file", "@/.env", "--", "sh", "-c", "echo $A,$EMPTY,$NEW"]].concat());
        run(command.env("A", "set").env("EMPTY", ""), "").1
    };
    assert_eq!(with(&[]), "set,,file\n");
    assert_eq!(with(&["--override"]), "file,file,file\n");
    assert_eq!(with(&["--override", "--only", "EMPTY,NEW"]), "set,file,file\n");
    assert_eq!(with(&["--only", "A", "--only", "NEW"]), "set,,file\n");
}

#[test]
fn only_what_is_named_is_taken_and_all_of_it() {
    let desk = Desk::with("env/DB_USER", "app");
    desk.write("env/DB_PASSWORD", "hunter2");
    desk.write("env/sub/folder", "x");
    desk.write("env/zero", "\0");
    let found = variables(&desk, &["--dir", "@/env", "--only", "DB_USER,DB_PASSWORD"]);
    assert_eq!((text(&found, "DB_USER"), text(&found, "DB_PASSWORD")), ("app".to_owned(), "hunter2".to_owned()));
    let said = [desk.refused(&["--dir", "@/env", "--only", "DB_USR,DB_USER"]), desk.refused(&["--dir", "@/env", "--only", ""])].concat();
    insta::assert_snapshot!(said, @"
    1
    error: @/env: there is no variable DB_USR (did you mean DB_USER?)
    1
    error: @/env: there is no variable  (correct --only, or the class)
    ");
}

/// Both variables are of one version, and neither is missing, at whatever moment the volume changes.
#[allow(clippy::disallowed_methods)] // another process is at work
#[test]
fn a_volume_that_changes_is_read_whole() {
    let desk = Desk::new();
    let volume = desk.path("volume");
    fs::create_dir(&volume).unwrap();
    let put = |n: usize| {
        let contents = n.to_string();
        let paths = ["env/A".parse().unwrap(), "env/B".parse().unwrap(), "TOP".parse().unwrap()];
        let files: Vec<_> =
            paths.iter().map(|path| VolumeFile { path, mode: FileMode::DEFAULT, contents: contents.as_bytes(), owner: None }).collect();
        write(File::open(&volume).unwrap(), &files, SystemClock.now()).unwrap();
    };
    put(0);
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in (1..).take_while(|_| !ended.load(Ordering::Relaxed)) {
                put(n);
                thread::sleep(Duration::from_millis(5));
            }
        });
        let said: Vec<_> = (0..20).map(|_| desk.exec(&["--dir", "@/volume/env", "--", "sh", "-c", "echo $A $B"])).collect();
        // Before anything is asserted: a panic would wait for the other thread.
        ended.store(true, Ordering::Relaxed);
        for (code, out, errors) in said {
            let words: Vec<_> = out.split_whitespace().collect();
            assert!(code == 0 && words.len() == 2 && words[0] == words[1], "{out}{errors}");
        }
    });
    let (code, _, errors) = desk.exec(&["--dir", "@/volume", "--only", "TOP", "--", "true"]);
    assert_eq!((code, errors.as_str()), (0, ""));
}

#[test]
fn a_volume_as_kubelet_makes_it_is_read() {
    let desk = Desk::with("volume/..2026_11_28/.env", "A='in the volume'\n");
    symlink("..2026_11_28", desk.path("volume/..data")).unwrap();
    symlink("..data/.env", desk.path("volume/.env")).unwrap();
    assert_eq!(text(&variables(&desk, &["--env-file", "@/volume/.env"]), "A"), "in the volume");
    assert_eq!(text(&variables(&desk, &["--dir", "@/volume"]), ".env"), "A='in the volume'\n");
}

// === What must not run ===

#[test]
fn names_that_load_code_are_refused_unless_they_are_named() {
    let desk = Desk::with(".env", "A=1\nLD_PRELOAD=/evil.so\nNODE_OPTIONS=--require=/evil.js\nPS4=x\n");
    desk.write("env/BASH_FUNC_ls%%", "() { touch ran; }");
    desk.write("env/PATH", "/evil");
    let said = [desk.refused(&["--env-file", "@/.env"]), desk.refused(&["--dir", "@/env", "--override"])].concat();
    insta::assert_snapshot!(said, @"
    1
    error: @/.env: LD_PRELOAD: a variable of this name can make a program run other code (LD_*), so it is refused (to allow it, name all variables that you need: --only LD_PRELOAD,...)
    error: @/.env: NODE_OPTIONS: a variable of this name can make a program run other code (*_OPTIONS), so it is refused (to allow it, name all variables that you need: --only NODE_OPTIONS,...)
    error: @/.env: PS4: a variable of this name can make a program run other code (shell), so it is refused (to allow it, name all variables that you need: --only PS4,...)
    1
    error: @/env: BASH_FUNC_ls%%: a variable of this name can make a program run other code (BASH*), so it is refused (to allow it, name all variables that you need: --only BASH_FUNC_ls%%,...)
    error: @/env: PATH: a variable of this name can make a program run other code (PATH), so it is refused (to allow it, name all variables that you need: --only PATH,...)
    ");
    // A user who names it means it.
    let found = variables(&desk, &["--env-file", "@/.env", "--only", "A,NODE_OPTIONS"]);
    assert_eq!((text(&found, "NODE_OPTIONS"), value(&found, "LD_PRELOAD")), ("--require=/evil.js".to_owned(), None));
    // The command is found by the path that it gets, as in a shell.
    desk.write("bin/tool", "#!/bin/sh\necho found\n");
    fs::set_permissions(desk.path("bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    desk.write("path/PATH", desk.path("bin").to_str().unwrap());
    assert_eq!(desk.exec(&["--dir", "@/path", "--only", "PATH", "--override", "--", "tool"]), (0, "found\n".to_owned(), String::new()));
}

#[test]
fn files_that_are_hostile_end_it_at_once() {
    let desk = Desk::with("file", "");
    File::create(desk.path("huge")).unwrap().set_len(1 << 40).unwrap();
    rustix::fs::mkfifoat(CWD, desk.path("pipe"), Mode::RUSR | Mode::WUSR).unwrap();
    symlink("loop", desk.path("loop")).unwrap();
    fs::create_dir(desk.path("folder")).unwrap();
    let mut said = Vec::new();
    for file in ["absent", "huge", "pipe", "loop", "folder", "file/under"] {
        said.push(desk.refused(&["--env-file", &format!("@/{file}")]));
    }
    for device in ["/dev/zero", "/dev/stdin", "/dev/tty"] {
        assert!(desk.refused(&["--env-file", device]).starts_with("2\n"), "{device}");
    }
    for (folder, name) in [("huge", "huge"), ("pipe", "pipe"), ("loop", "loop")] {
        let inside = format!("in-{folder}/{name}");
        fs::create_dir(desk.path(&format!("in-{folder}"))).unwrap();
        fs::rename(desk.path(name), desk.path(&inside)).unwrap();
    }
    fs::create_dir(desk.path("in-gone")).unwrap();
    symlink("nowhere", desk.path("in-gone/A")).unwrap();
    desk.write("in-folder/folder/A", "");
    desk.write("in-zero/A", "a\0b");
    desk.write("in-zero/B=C", "");
    desk.write("in-zero/\u{f6}", "");
    fs::write(desk.path("in-zero").join(OsStr::from_bytes(b"\xff")), "").unwrap();
    for folder in ["absent", "file", "in-huge", "in-pipe", "in-loop", "in-gone", "in-folder", "in-zero"] {
        said.push(desk.refused(&["--dir", &format!("@/{folder}")]));
    }
    let said = said.concat();
    insta::assert_snapshot!(said, @"
    2
    error: @/absent: is absent (is the volume mounted there, and the file in the class?)
    2
    error: @/huge: is 1099511627776 bytes long; at most 4194304 are read (let the application read the file)
    2
    error: @/pipe: is not a regular file (pipes and devices are not read; --dir takes a folder of files, and --only chooses some of them)
    2
    error: @/loop: cannot be read: Too many levels of symbolic links (os error 40)
    2
    error: @/folder: is not a regular file (pipes and devices are not read; --dir takes a folder of files, and --only chooses some of them)
    2
    error: @/file/under: is absent (is the volume mounted there, and the file in the class?)
    2
    error: @/absent: is absent (is the volume mounted there, and the file in the class?)
    2
    error: @/file: is absent (is the volume mounted there, and the file in the class?)
    2
    error: @/in-huge/huge: with its 1099511627776 bytes the variables have more than 4194304 bytes (let the application read the file)
    2
    error: @/in-pipe/pipe: is not a regular file (pipes and devices are not read; --dir takes a folder of files, and --only chooses some of them)
    2
    error: @/in-loop/loop: cannot be read: Too many levels of symbolic links (os error 40)
    2
    error: @/in-gone/A: is absent (is the volume mounted there, and the file in the class?)
    2
    error: @/in-folder/folder: is not a regular file (pipes and devices are not read; --dir takes a folder of files, and --only chooses some of them)
    1
    error: @/in-zero/A: has a zero byte, which no environment variable can have (let the application read the file, or deliver it as a text)
    error: @/in-zero/B=C: a variable's name has printable ASCII characters, and no `=` (rename the file, or choose with --only)
    error: @/in-zero/ö: a variable's name has printable ASCII characters, and no `=` (rename the file, or choose with --only)
    error: @/in-zero/�: a variable's name has printable ASCII characters, and no `=` (rename the file, or choose with --only)
    ");
}

#[test]
fn a_folder_of_too_many_or_too_large_files_is_not_read() {
    let desk = Desk::new();
    for n in 0..5 {
        desk.write(&format!("large/F{n}"), vec![b'x'; 1 << 20]);
    }
    fs::create_dir(desk.path("many")).unwrap();
    for n in 0..4097 {
        File::create(desk.path(&format!("many/F{n}"))).unwrap();
    }
    insta::assert_snapshot!([desk.refused(&["--dir", "@/large"]), desk.refused(&["--dir", "@/many"])].concat(), @"
    2
    error: @/large/F4: with its 1048576 bytes the variables have more than 4194304 bytes (let the application read the file)
    2
    error: @/many: has more than 4096 entries (name a folder that has only the variables)
    ");
    desk.write("one/LARGE", vec![b'x'; 200_000]);
    insta::assert_snapshot!(desk.refused(&["--dir", "@/one"]), @"
    126
    error: touch: cannot be run: Argument list too long (os error 7) (Linux takes at most 128 KiB per variable; the largest variable is LARGE, with 200000 bytes: let the application read the file)
    ");
}

#[test]
fn a_file_in_another_spelling_is_refused_and_never_shown() {
    let desk = Desk::new();
    let mut said = Vec::new();
    for text in [
        &b"A=$(touch ran)\n"[..],
        b"A=`touch ran`\n",
        b"export A=hunter2\n",
        b"# hunter2\nA=1\n",
        b"A=1\nA=2\n",
        b"A='hunter2\n",
        b"A=hunter2 hunter2\n",
        b"A=\xffhunter2\n",
        b"A='hunter2\0'\n",
        b"\xef\xbb\xbfA=1\n",
        b"hunter2\n",
        b"=hunter2\n",
    ] {
        desk.write(".env", text);
        said.push(desk.refused(&["--env-file", "@/.env"]));
    }
    let said = said.concat();
    assert!(!said.contains("hunter2"), "{said}");
    insta::assert_snapshot!(said, @"
    1
    error: @/.env: line 1: A: needs quotes (write what `format: dotenv` or the filter `dotenv` writes)
    1
    error: @/.env: line 1: A: needs quotes (write what `format: dotenv` or the filter `dotenv` writes)
    1
    error: @/.env: line 1: what is before the `=` is not a name: letters, digits, `_`, `-` and `.` (write NAME=value, without blanks or `export`)
    1
    error: @/.env: line 1: is a comment (remove it)
    1
    error: @/.env: line 2: A is given twice (remove one)
    1
    error: @/.env: line 1: A: the closing quote is missing (add it)
    1
    error: @/.env: line 1: A: needs quotes (write what `format: dotenv` or the filter `dotenv` writes)
    1
    error: @/.env: is not UTF-8 text: line 1 has other bytes (save it as UTF-8)
    1
    error: @/.env: line 1: A: is not text (write what `format: dotenv` or the filter `dotenv` writes)
    1
    error: @/.env: line 1: what is before the `=` is not a name: letters, digits, `_`, `-` and `.` (write NAME=value, without blanks or `export`)
    1
    error: @/.env: line 1: has no `=` (write NAME=value)
    1
    error: @/.env: line 1: what is before the `=` is not a name: letters, digits, `_`, `-` and `.` (write NAME=value, without blanks or `export`)
    ");
}

#[test]
fn what_is_not_a_command_line() {
    let desk = Desk::with(".env", "A=1\n");
    for arguments in [
        &["--env-file", "@/.env"][..],
        &["--env-file", "@/.env", "true"],
        &["--", "true"],
        &["--env-file", "@/.env", "--dir", "@", "--", "true"],
        &["--install", "@", "--", "true"],
        &["--install", "@", "--env-file", "@/.env"],
        &["--install", "@", "--only", "A"],
        &["--install", "@", "--override"],
    ] {
        let (code, out, errors) = desk.exec(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {errors}");
    }
    assert!(!desk.path("keyferry").exists());
}

// === The program in a volume ===

#[test]
fn the_program_is_copied_whole_and_runs() {
    let desk = Desk::with(".env", "A=1\n");
    desk.write("bin/keyferry", "an older one");
    let installed = |desk: &Desk| {
        let (code, out, errors) = run(&mut desk.command(&["--install", "@/bin"]), "");
        let program = desk.path("bin/keyferry");
        let found = fs::metadata(&program).unwrap();
        assert_eq!((code, out), (0, format!("{}: {} bytes\n", program.display(), found.len())), "{errors}");
        assert_eq!(found.permissions().mode() & 0o7777, 0o755);
        assert!(fs::read(&program).unwrap() == fs::read(env!("CARGO_BIN_EXE_keyferry")).unwrap(), "other bytes");
        assert_eq!(fs::read_dir(desk.path("bin")).unwrap().count(), 1, "a draft is left");
        // What the tests run is not static.
        assert!(errors.starts_with("warning: this program is not static"), "{errors}");
        program
    };
    let program = installed(&desk);
    let mut running =
        apart(&program).arg("exec").arg("--env-file").arg(desk.path(".env")).args(["--", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
    // Also in place of one that runs, which keeps what it has.
    installed(&desk);
    let again = run(apart(&program).arg("exec").arg("--install").arg(desk.path("bin")), "");
    assert_eq!(again.0, 0, "onto itself: {}", again.2);
    drop(running.stdin.take());
    assert!(running.wait().unwrap().success());
    assert_eq!(run(apart(&program).args(["version"]), "").0, 0);
}

#[test]
fn a_place_that_takes_no_program_is_said() {
    let desk = Desk::with("file", "");
    desk.write("taken/keyferry/inside", "");
    let mut said = Vec::new();
    for dir in ["absent", "file", "taken"] {
        let (code, out, errors) = desk.exec(&["--install", &format!("@/{dir}")]);
        assert_eq!(out, "");
        said.push(format!("{code} {}", errors.lines().last().unwrap()));
    }
    insta::assert_snapshot!(said.join("\n"), @"
    2 error: @/absent: is not a folder (mount a volume there, such as an emptyDir)
    2 error: @/file: is not a folder (mount a volume there, such as an emptyDir)
    1 error: @/taken/keyferry: Is a directory (os error 21)
    ");
    assert_eq!(fs::read_dir(desk.path("taken")).unwrap().count(), 1, "a draft is left");
    // A link that waits there is replaced, not followed.
    fs::create_dir(desk.path("linked")).unwrap();
    symlink(desk.path("file"), desk.path("linked/keyferry")).unwrap();
    assert_eq!(desk.exec(&["--install", "@/linked"]).0, 0);
    assert_eq!(fs::read(desk.path("file")).unwrap(), b"");
}

/// A file system without room for it keeps nothing of it.
#[test]
fn a_full_volume_keeps_what_it_had() {
    fn body(dir: &Path) {
        let small = crate::support::tmpfs(&dir.join("small"), "size=1m");
        fs::write(small.join("keyferry"), "older").unwrap();
        let (code, out, errors) = run(keyferry().args(["exec", "--install"]).arg(&small), "");
        assert_eq!((code, out.as_str()), (1, ""), "{errors}");
        assert!(errors.contains("No space left on device"), "{errors}");
        assert_eq!(fs::read(small.join("keyferry")).unwrap(), b"older");
        assert_eq!(fs::read_dir(&small).unwrap().count(), 1);
    }
    crate::support::with_mounts("exec::a_full_volume_keeps_what_it_had", body);
}
