//! A reader can type what a page or a help shows. The command's own parser parses each `keyferry` command. The test runs what needs nothing but the
//! binary, in one folder per page and in the page's order. It must end as the page says.
//!
//! In a page, `<!-- not run: WHY -->` is before a block that is parsed only. A comment that starts with `<!-- run` in a line of its own is a script
//! of the page that readers do not see: it makes the files that the next blocks name.

mod shell;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory};
use keyferry::cli::Cli;
use keyferry::model::Code;

use crate::bao::free_port;
use crate::support::{apart, files_below, run};

/// A part of a page that shows commands.
struct Block {
    /// Of its first line, from 1.
    line: usize,
    script: bool,
    text: String,
    runs: bool,
}

/// A command to type, and what the page shows behind it.
#[derive(Default)]
struct Typed {
    line: usize,
    text: String,
    shows: String,
    /// What it shows is an error.
    fails: bool,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<PathBuf> = docs.filter(|path| path.extension().is_some_and(|ending| ending == "md")).collect();
    pages.extend(["README.md", "deploy/examples/README.md"].map(|page| root().join(page)));
    pages.sort();
    pages
}

/// The blocks that show a command: fenced ones, and paragraphs of indented ones.
fn blocks(page: &str) -> Vec<Block> {
    let (mut blocks, mut runs) = (Vec::new(), true);
    let mut lines = (1..).zip(page.lines()).peekable();
    let mut blank = true;
    while let Some((line, text)) = lines.next() {
        let mut take = |indent: &str, end: &dyn Fn(&str) -> bool| {
            let mut taken = String::new();
            while let Some((_, text)) = lines.next_if(|(_, text)| !end(text)) {
                taken.push_str(text.strip_prefix(indent).unwrap_or(text));
                taken.push('\n');
            }
            taken
        };
        if text.starts_with("<!-- not run") {
            runs = false;
        } else if text == "<!-- run" {
            let text = take("", &|text| text == "-->");
            blocks.push(Block { line: line + 1, script: true, text, runs: true });
        } else if let Some(language) = text.strip_prefix("```") {
            let text = take("", &|text| text.starts_with("```"));
            lines.next();
            if ["sh", "console"].contains(&language) {
                blocks.push(Block { line: line + 1, script: language == "sh", text, runs });
            }
            runs = true;
        } else if let Some(first) = text.strip_prefix("    ").filter(|_| blank) {
            let text = format!("{first}\n{}", take("    ", &|text| !text.starts_with("    ")));
            let session = text.starts_with("$ ");
            if session || shell::commands(&text).iter().any(|simple| arguments(&simple.words).is_some()) {
                blocks.push(Block { line, script: !session, text, runs });
            }
            // A mark is for all paragraphs of the block.
            runs |= lines.clone().nth(1).is_none_or(|(_, text)| !text.starts_with("    "));
        }
        blank = text.is_empty() || text.starts_with("<!--") || text == "-->";
    }
    blocks
}

impl Block {
    fn typed(&self) -> Vec<Typed> {
        if self.script {
            return vec![Typed { line: self.line, text: self.text.clone(), ..Typed::default() }];
        }
        let mut typed: Vec<Typed> = Vec::new();
        let mut goes_on = false;
        for (line, text) in (self.line..).zip(self.text.lines()) {
            // `#`: as root.
            match (text.strip_prefix("$ ").or_else(|| text.strip_prefix("# ")), typed.last_mut()) {
                (Some(text), _) => typed.push(Typed { line, text: text.to_owned(), ..Typed::default() }),
                (None, Some(last)) if goes_on => last.text.push_str(&format!("\n{text}")),
                (None, Some(last)) => {
                    last.fails |= tells_failure(text);
                    last.shows.push_str(&format!("{text}\n"));
                }
                (None, None) => {}
            }
            goes_on = text.ends_with('\\');
        }
        typed
    }
}

fn tells_failure(output: &str) -> bool {
    ["error: ", "no: ", "fail ", "::error "].iter().any(|start| output.starts_with(start)) || output.contains(": error: ")
}

/// The words after `keyferry`, also if `kubectl exec` or `env` is before it.
fn arguments(words: &[String]) -> Option<&[String]> {
    let rest = &words[words.iter().take_while(|word| word.split_once('=').is_some_and(|(name, _)| !name.contains('-'))).count()..];
    let is_ours = |word: &String| word == "keyferry" || word.ends_with("/keyferry");
    let after =
        |before: &str| rest.iter().position(|word| word == before).filter(|at| rest.get(at + 1).is_some_and(is_ours)).map(|at| at + 2);
    match rest.first() {
        Some(first) if is_ours(first) => Some(&rest[1..]),
        Some(first) if first == "kubectl" && rest.get(1).is_some_and(|word| word == "keyferry") => Some(&rest[2..]),
        Some(first) if first == "kubectl" => after("--").map(|at| &rest[at..]),
        Some(_) | None => None,
    }
}

/// The parser's error, if there is one. The environment may give what is required, so a missing value is not an error.
fn fault(arguments: &[String]) -> Option<String> {
    fn apart(command: Command) -> Command {
        command.mut_args(|arg| arg.env(None::<&str>)).mut_subcommands(apart)
    }
    let words = std::iter::once("keyferry".to_owned()).chain(arguments.iter().cloned()).map(OsString::from);
    let error = apart(Cli::command()).try_get_matches_from(words).err()?;
    let missing = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(missing)) => missing.as_slice(),
        _ => &[],
    };
    let from_environment = |arg: &String| ["--config", "--vault", "--identity"].iter().any(|known| arg.starts_with(known));
    let kind = error.kind();
    let known = matches!(kind, ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)
        || kind == ErrorKind::MissingRequiredArgument && missing.iter().all(from_environment);
    (!known).then(|| error.to_string().lines().next().unwrap_or_default().to_owned())
}

/// The faults of a script's commands, with their lines.
fn faults(place: &str, first_line: usize, script: &str) -> Vec<String> {
    let fault = |simple: shell::Simple| {
        let why = fault(arguments(&simple.words)?)?;
        Some(format!("{place}:{}: {}: {why}", first_line + simple.line - 1, simple.words.join(" ")))
    };
    shell::commands(script).into_iter().filter_map(fault).collect()
}

#[test]
fn every_command_of_a_page_is_one() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for page in pages() {
        let shown = page.strip_prefix(root()).unwrap().display().to_string();
        for typed in blocks(&fs::read_to_string(&page).unwrap()).iter().flat_map(Block::typed) {
            seen += shell::commands(&typed.text).iter().filter(|simple| arguments(&simple.words).is_some()).count();
            wrong.extend(faults(&shown, typed.line, &typed.text));
        }
    }
    assert!(wrong.is_empty(), "pages show what cannot be typed:\n{}", wrong.join("\n"));
    assert!(seen > 70, "only {seen} commands were found");
}

#[test]
fn every_command_has_an_example_that_is_one() {
    fn walk(path: &str, command: &Command, wrong: &mut Vec<String>) {
        let help = command.get_after_long_help().or(command.get_after_help()).map(ToString::to_string).unwrap_or_default();
        // Some examples have a sentence before them, with apostrophes that no quote closes: so a line is read by itself.
        let lines: Vec<String> =
            help.replace("\\\n", " ").lines().filter_map(|line| Some(line.strip_prefix("  ")?.trim().to_owned())).collect();
        let own: Vec<&str> = path.split(' ').skip(1).collect();
        let is_own =
            |simple: &shell::Simple| arguments(&simple.words).is_some_and(|words| words.get(..own.len()).is_some_and(|start| start == own));
        if !own.is_empty() && !lines.iter().flat_map(|line| shell::commands(line)).any(|simple| is_own(&simple)) {
            wrong.push(format!("{path} --help: has no example of {path}"));
        }
        wrong.extend((1..).zip(&lines).flat_map(|(number, line)| faults(&format!("{path} --help, example line"), number, line)));
        // A terminal of 80 columns would break it, and a shell would run the second part as another command.
        let is_long =
            |line: &&str| line.len() > 80 && ["keyferry ", "kubectl ", "helm "].iter().any(|first| line.trim_start().starts_with(first));
        wrong.extend(help.lines().filter(is_long).map(|line| format!("{path} --help: is longer than 80 columns: {line}")));
        for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
            walk(&format!("{path} {}", below.get_name()), below, wrong);
        }
    }
    let mut wrong = Vec::new();
    walk("keyferry", &Cli::command(), &mut wrong);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What runs before a page's own commands. The daemon starts in the background, as in a second terminal. The test plays what only a reader has.
const STAGE: &str = r#"
in_background() {
    "$@" >>"$HOME/serve.log" 2>&1 &
    echo $! >>"$HOME/pids"
    for _ in $(seq 300); do
        if find . -name keyferry.sock | grep -q .; then return 0; fi
        kill -0 $! 2>/dev/null || { wait $!; return; }
        sleep 0.1
    done
    return 1
}
cargo() { :; }
make() { :; }
man() { cat >/dev/null; }
kubectl() { if [ "$1" = keyferry ]; then shift; kubectl-keyferry "$@"; fi; }
"#;

/// A script stops at its first failure, and says where.
const STRICT: &str = r#"
set -Eeo pipefail
trap 'echo "$at: exit code $?" >&2' ERR
"#;

/// A shell's message about text that it does not understand in the way that the page means it.
const MISUNDERSTOOD: [&str; 6] = ["command not found", "no matches found", "event not found", "parse error", "syntax error", "bad pattern"];

/// Makes an interactive shell print each exit code but 0: that of each command of a block, not only of the last.
const REPORTS: [(&str, &str); 2] = [("bash", "trap 'echo __fa''ult:$?' ERR\n"), ("zsh", "TRAPZERR() { echo __fa''ult:$? }\n")];
const REPORTED: &str = "__fault:";

/// What the server of a page's OpenBao has by itself.
const OPENBAO: &str = "127.0.0.1:8200";

/// What a page shows for typing, in its order.
fn typed(page: &str) -> Vec<Typed> {
    blocks(page).into_iter().filter(|block| block.runs).flat_map(|block| block.typed()).collect()
}

/// A server that the page itself starts in the background is only noted, so that it ends with the page.
fn staged(text: &str) -> String {
    let line = |line: &str| {
        let serves = line.starts_with("keyferry serve ");
        if line.ends_with(" &") {
            format!("{line}\necho $! >>\"$HOME/pids\"")
        } else if serves {
            format!("in_background {line}")
        } else {
            line.to_owned()
        }
    };
    text.trim().lines().map(line).collect::<Vec<_>>().join("\n")
}

fn script(page: &str, typed: &[Typed]) -> String {
    let mut script = format!("{STAGE}{STRICT}");
    for Typed { line, text, fails, .. } in typed {
        let text = staged(text);
        script.push_str(&format!("at={page}:{line}\n"));
        if *fails {
            script.push_str(&format!("code=0\n{text} || code=$?\n[ $code != 0 ]\n"));
        } else {
            script.push_str(&format!("{text}\n"));
        }
    }
    script
}

/// A folder for a page, with everything that it writes, and a command that runs there.
struct Home {
    folder: tempfile::TempDir,
    openbao: String,
}

impl Home {
    fn new() -> Self {
        let home = Self { folder: crate::folder::new(), openbao: format!("127.0.0.1:{}", free_port()) };
        for folder in ["tmp", "dev/shm", ".local/bin"] {
            fs::create_dir_all(home.path().join(folder)).unwrap();
        }
        // Otherwise zsh asks a new user what to do.
        fs::write(home.path().join(".zshrc"), "").unwrap();
        // A page's commands run from the top of a checkout.
        std::os::unix::fs::symlink(root().join(".venv"), home.path().join(".venv")).unwrap();
        home
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn typed(&self, page: &str) -> Vec<Typed> {
        let own = |text: String| {
            let moved = |text: String, path| text.replace(path, &format!("{}{path}", self.path().display()));
            ["/tmp/ferry", "/dev/shm"].into_iter().fold(text, moved).replace(OPENBAO, &self.openbao)
        };
        typed(page).into_iter().map(|typed| Typed { text: own(typed.text), shows: own(typed.shows), ..typed }).collect()
    }

    fn command(&self, program: impl AsRef<Path>) -> std::process::Command {
        let (home, programs) = (self.path(), Path::new(env!("CARGO_BIN_EXE_keyferry")).parent().unwrap());
        let mut command = apart(program.as_ref());
        command.current_dir(home).env("HOME", home).env("REPOSITORY", root()).env("TMPDIR", home.join("tmp")).env("TERM", "xterm");
        let tools = ["age", "zsh"].map(|tool| root().join(".tools").join(tool).join("usr/bin"));
        let path = [&home.join(".local/bin"), programs, &tools[0], &tools[1]].map(|folder| folder.display().to_string()).join(":");
        command.env("PATH", format!("{path}:/usr/local/bin:/usr/bin:/bin")).env("BAO_DEV_LISTEN_ADDRESS", &self.openbao);
        command
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path().join("serve.log")).unwrap_or_default()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for pid in fs::read_to_string(self.path().join("pids")).unwrap_or_default().lines() {
            if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
                // It may have ended.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
    }
}

/// A page that shows no command that can be tried is not run.
fn play(page: &Path) -> Result<(), String> {
    let (home, shown) = (Home::new(), page.strip_prefix(root()).unwrap().display().to_string());
    let typed = home.typed(&fs::read_to_string(page).unwrap());
    if !typed.iter().flat_map(|typed| shell::commands(&typed.text)).any(|simple| arguments(&simple.words).is_some()) {
        return Ok(());
    }
    fs::write(home.path().join("script"), script(&shown, &typed)).unwrap();
    // The one value that a page's reader types.
    let (code, out, errors) = run(home.command("bash").arg("script"), "correct-horse");
    if code == 0 { Ok(()) } else { Err(format!("{shown}:\n{out}{errors}{}", home.log())) }
}

/// What a shell on a terminal did with the pasted texts: `tests/paste.py`.
#[derive(serde::Deserialize)]
struct Pasted {
    ends: Vec<(i32, String)>,
    left: Vec<String>,
}

/// Terminals of today mark what is pasted ("bracketed"), others do not.
const SHELLS: [(&str, bool); 4] = [("bash", true), ("bash", false), ("zsh", true), ("zsh", false)];

/// As a person pastes it into a terminal: there zsh knows no comments, and `!` has a meaning. The answer has the faults and their lines.
fn paste(shell: &str, bracketed: bool, page: &str) -> Vec<(usize, String)> {
    let home = Home::new();
    let found = run(home.command("sh").args(["-c", &format!("command -v {shell}")]), "").0 == 0;
    assert!(found, "there is no {shell}: run `make tools` in {}", root().display());
    let (typed, reports) = (home.typed(page), REPORTS.iter().find(|(name, _)| *name == shell).unwrap().1);
    let texts: Vec<&str> = [STAGE, reports].into_iter().chain(typed.iter().map(|typed| typed.text.as_str())).collect();
    let job = serde_json::json!({ "shell": [shell, "-i"], "bracketed": bracketed, "texts": texts });
    let (code, out, errors) = run(home.command(root().join(".venv/bin/python")).arg(root().join("tests/paste.py")), &job.to_string());
    assert_eq!(code, 0, "{errors}");
    let Pasted { ends, left } = serde_json::from_str(&out).unwrap();
    let fault = |(typed, (code, terminal)): (&Typed, &(i32, String))| {
        Some((typed.line, format!("{}:\n{terminal}", pasted_fault(typed, *code, terminal)?)))
    };
    let processes = left.iter().map(|process| (page.lines().count(), format!("still runs at the end: {process}")));
    typed.iter().zip(&ends[2..]).filter_map(fault).chain(processes).collect()
}

/// Why a pasted text did not do what the page says.
fn pasted_fault(typed: &Typed, code: i32, terminal: &str) -> Option<String> {
    if code < 0 {
        Some("it does not end".to_owned())
    } else if typed.fails != (code != 0) {
        Some(format!("exit code {code}"))
    } else if let Some(words) = MISUNDERSTOOD.iter().find(|words| terminal.contains(*words)) {
        Some((*words).to_owned())
    } else if !typed.fails && terminal.contains(REPORTED) {
        Some("a command in it fails".to_owned())
    } else if !masked(terminal).contains(&masked(&typed.shows)) {
        Some(format!("it does not show what the page shows:\n{}", typed.shows))
    } else {
        None
    }
}

/// The words of a text without what differs from run to run: times, public keys, the names of folders, the sizes of certificates.
fn masked(text: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let is_time = word.len() > 19 && word.ends_with('Z') && word.as_bytes()[10] == b'T';
        let is_size = words.last().is_some_and(|last| last == "certificate") && word.parse::<u64>().is_ok();
        words.push(match word.split_once("/ferry.") {
            _ if is_time => "TIME".to_owned(),
            _ if is_size => "SIZE".to_owned(),
            _ if word.starts_with("age1") && word.len() == 62 => "KEY".to_owned(),
            Some((before, rest)) => format!("{before}/FOLDER{}", rest.get(6..).unwrap_or_default()),
            None => word.to_owned(),
        });
    }
    words.join(" ")
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(page: &str) -> Vec<String> {
    // A `#` in a block is a comment.
    let mut fenced = false;
    let headings = page.lines().filter(|line| {
        fenced ^= line.starts_with("```");
        !fenced && line.starts_with('#')
    });
    let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
    headings
        .map(|line| line.trim_start_matches('#').trim().to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-"))
        .collect()
}

#[test]
fn every_link_of_a_page_leads_somewhere() {
    let mut wrong = Vec::new();
    let others = ["CHANGELOG.md", "CONTRIBUTING.md", "README.md", "SECURITY.md"].map(|page| root().join(page));
    let pages = ["docs", "deploy", "tests"].into_iter().flat_map(|folder| files_below(&root().join(folder), "md")).chain(others);
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let links = text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
        for link in links.filter(|link| !link.starts_with("http")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let found =
                target.exists() && (anchor.is_empty() || anchors(&fs::read_to_string(&target).unwrap()).iter().any(|one| one == anchor));
            if !found {
                wrong.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "links that lead nowhere:\n{}", wrong.join("\n"));
}

/// The decisions have an index of their own.
#[test]
fn the_index_has_every_page() {
    let docs = root().join("docs");
    let index = fs::read_to_string(docs.join("README.md")).unwrap();
    let pages = files_below(&docs, "md").into_iter().map(|page| page.strip_prefix(&docs).unwrap().display().to_string());
    let is_listed = |page: &String| page == "README.md" || page.starts_with("adr/0") || index.contains(&format!("]({page})"));
    let missing: Vec<String> = pages.filter(|page| !is_listed(page)).collect();
    assert!(missing.is_empty(), "docs/README.md does not list {missing:?}");
}

/// What a reader needs on the first day, in the order of the page.
const NEEDED: [(&str, &[&str]); 4] = [
    (
        "README.md",
        &[
            "```text\n1. A vault",
            "```sh\nmake demo\nmake test\n```",
            "\n| system | Linux",
            "\n| the build needs | Rust",
            "\n| the first build | about",
            "## Quick start: a file vault by hand\n\nYou need one terminal",
            "FERRY=$(mktemp -d",
            "## Quick start: OpenBao by hand",
            "FERRY=$(mktemp -d",
        ],
    ),
    ("docs/install.md", &["The builds of the image and of the program come on top", "## Uninstall\n", "Keep the vault's key."]),
    (
        "docs/keys.md",
        &["## Backup\n", "## Restore\n", "## A lost key\n", "## A leaked key\n", "## Rotation on a cluster\n", "kubectl replace -f -"],
    ),
    ("docs/upgrade.md", &["## Downgrade\n"]),
];

#[test]
fn pages_have_what_the_first_day_needs() {
    for (page, texts) in NEEDED {
        let whole = fs::read_to_string(root().join(page)).unwrap();
        let mut rest = whole.as_str();
        for text in texts {
            let (_, after) = rest.split_once(text).unwrap_or_else(|| panic!("{page} does not have, or not in this order: {text}"));
            rest = after;
        }
    }
}

#[test]
fn the_readme_says_what_the_tests_fetch() {
    let read = |file: &str| fs::read_to_string(root().join(file)).unwrap();
    let (makefile, readme) = (read("Makefile"), read("README.md"));
    let lines: Vec<&str> = makefile.lines().filter(|line| line.starts_with("tools:") || line.starts_with("KUBERNETES_TOOLS :=")).collect();
    let names: Vec<&str> =
        lines.iter().flat_map(|line| line.split(".tools/").skip(1)).filter_map(|tool| tool.split(['/', '-']).next()).collect();
    assert!(names.len() > 5, "{names:?}");
    let rows: String = readme.lines().filter(|line| line.starts_with("| `make test` fetches once")).map(str::to_lowercase).collect();
    for name in names {
        assert!(rows.contains(name), "README.md does not say that `make test` fetches {name}");
    }
}

/// The index groups the pages by reader.
#[test]
fn each_page_begins_with_its_reader() {
    let docs = root().join("docs");
    let index = fs::read_to_string(docs.join("README.md")).unwrap();
    let mut wrong = Vec::new();
    for (group, reader) in [
        ("## For developers", "For developers"),
        ("## For cluster admins", "For cluster admins"),
        ("## For the person on call", "For the person on call"),
    ] {
        let section = index.split(group).nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
        let linked = section.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
        // An alert's page begins with what happened.
        for link in linked.filter(|link| !link.starts_with("runbooks/")) {
            let page = fs::read_to_string(docs.join(link)).unwrap();
            if !page.split("\n\n").nth(1).is_some_and(|paragraph| paragraph.trim_start().starts_with(reader)) {
                wrong.push(format!("{link}: does not begin with {reader:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_page_for_trouble_has_every_code_and_every_alert() {
    let page = fs::read_to_string(root().join("docs/trouble.md")).unwrap();
    for code in Code::ALL {
        assert!(page.contains(&format!("| [{code}](errors.md#")), "docs/trouble.md has no row for {code}");
    }
    for alert in files_below(&root().join("docs/runbooks"), "md") {
        let name = alert.file_name().unwrap().to_str().unwrap();
        assert!(page.contains(&format!("](runbooks/{name})")), "docs/trouble.md has no row for {name}");
    }
}

#[test]
fn what_a_page_shows_works() {
    let played: Vec<Result<(), String>> = thread::scope(|scope| {
        let running: Vec<_> = pages().into_iter().map(|page| scope.spawn(move || play(&page))).collect();
        running.into_iter().map(|page| page.join().unwrap()).collect()
    });
    let wrong: Vec<String> = played.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_readme_can_be_pasted_into_a_terminal() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let pasted: Vec<Vec<String>> = thread::scope(|scope| {
        let paste = |(shell, bracketed)| {
            let faults = paste(shell, bracketed, &readme).into_iter();
            faults.map(|(line, why)| format!("{shell}, bracketed {bracketed}, README.md:{line}: {why}")).collect()
        };
        let running = SHELLS.map(|way| scope.spawn(move || paste(way)));
        running.map(|way| way.join().unwrap()).into()
    });
    let wrong = pasted.concat();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the test above would find.
#[test]
fn a_block_that_a_terminal_does_not_take_is_found() {
    let blocks = [
        "sh\necho good; cat <<'EOF'\n!! # ~ [\nEOF",
        "console\n$ date -u +%Y-%m-%dT%H:%M:%SZ\n2026-01-02T03:04:05Z",
        "console\n$ echo one\ntwo",
        "sh\nfalse\ntrue",
        "sh\necho \"now!then\"",
        "sh\n# a comment\ntrue",
        "sh\necho wax=[1]",
        "sh\nsleep 60 &",
    ];
    let page = blocks.map(|block| format!("```{block}\n```\n")).concat();
    for (shell, bracketed) in SHELLS {
        let faults = paste(shell, bracketed, &page);
        let lines: Vec<usize> = faults.iter().map(|(line, _)| *line).collect();
        let expected: &[usize] = if shell == "zsh" { &[11, 15, 19, 22, 26, 30] } else { &[11, 15, 19, 30] };
        assert_eq!(lines, expected, "{shell}, bracketed {bracketed}: {faults:#?}");
    }
}
