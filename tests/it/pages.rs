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

use crate::support::{apart, files_below, run};

/// A part of a page that shows commands.
struct Block {
    /// Of its first line, from 1.
    line: usize,
    script: bool,
    text: String,
    runs: bool,
}

/// A command to type, and whether the page shows that it fails.
struct Typed {
    line: usize,
    text: String,
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
            return vec![Typed { line: self.line, text: self.text.clone(), fails: false }];
        }
        let mut typed: Vec<Typed> = Vec::new();
        let mut goes_on = false;
        for (line, text) in (self.line..).zip(self.text.lines()) {
            // `#`: as root.
            match (text.strip_prefix("$ ").or_else(|| text.strip_prefix("# ")), typed.last_mut()) {
                (Some(text), _) => typed.push(Typed { line, text: text.to_owned(), fails: false }),
                (None, Some(last)) if goes_on => last.text.push_str(&format!("\n{text}")),
                (None, Some(last)) => last.fails |= tells_failure(text),
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

/// What a page shows for typing, in its order.
fn typed(page: &str) -> Vec<Typed> {
    let shown = blocks(page).into_iter().filter(|block| block.runs).flat_map(|block| block.typed());
    shown.map(|typed| Typed { text: staged(&typed.text), ..typed }).collect()
}

/// A daemon that the page itself starts in the background is only noted, so that it ends with the page.
fn staged(text: &str) -> String {
    let line = |line: &str| {
        let serves = line.starts_with("keyferry serve ");
        if serves && line.ends_with(" &") {
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
    for Typed { line, text, fails } in typed {
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
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(crate::folder::new());
        for folder in ["tmp", "dev/shm", ".local/bin"] {
            fs::create_dir_all(home.0.path().join(folder)).unwrap();
        }
        // Otherwise zsh asks a new user what to do.
        fs::write(home.0.path().join(".zshrc"), "").unwrap();
        home
    }

    fn typed(&self, page: &Path) -> Vec<Typed> {
        let root = self.0.path().display();
        let mut typed = typed(&fs::read_to_string(page).unwrap());
        for one in &mut typed {
            one.text = ["/tmp/ferry", "/dev/shm"].iter().fold(one.text.clone(), |text, path| text.replace(path, &format!("{root}{path}")));
        }
        typed
    }

    fn command(&self, program: impl AsRef<Path>) -> std::process::Command {
        let (home, programs) = (self.0.path(), Path::new(env!("CARGO_BIN_EXE_keyferry")).parent().unwrap());
        let mut command = apart(program.as_ref());
        command.current_dir(home).env("HOME", home).env("REPOSITORY", root()).env("TMPDIR", home.join("tmp")).env("TERM", "xterm");
        let age = root().join(".tools/age/usr/bin");
        let path = [&home.join(".local/bin"), programs, &age].map(|folder| folder.display().to_string()).join(":");
        command.env("PATH", format!("{path}:/usr/local/bin:/usr/bin:/bin"));
        command
    }

    fn log(&self) -> String {
        fs::read_to_string(self.0.path().join("serve.log")).unwrap_or_default()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for pid in fs::read_to_string(self.0.path().join("pids")).unwrap_or_default().lines() {
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
    let typed = home.typed(page);
    if !typed.iter().flat_map(|typed| shell::commands(&typed.text)).any(|simple| arguments(&simple.words).is_some()) {
        return Ok(());
    }
    fs::write(home.0.path().join("script"), script(&shown, &typed)).unwrap();
    // The one value that a page's reader types.
    let (code, out, errors) = run(home.command("bash").arg("script"), "correct-horse");
    if code == 0 { Ok(()) } else { Err(format!("{shown}:\n{out}{errors}{}", home.log())) }
}

/// As a person pastes it into a terminal: there zsh knows no comments, and `!` has a meaning.
fn paste(shell: &str, page: &Path) -> Vec<String> {
    let (home, shown) = (Home::new(), page.strip_prefix(root()).unwrap().display().to_string());
    let typed = home.typed(page);
    let texts: Vec<&str> = std::iter::once(STAGE).chain(typed.iter().map(|typed| typed.text.as_str())).collect();
    let job = serde_json::json!({ "shell": [shell, "-i"], "texts": texts });
    let (code, out, errors) = run(home.command(root().join(".venv/bin/python")).arg(root().join("tests/paste.py")), &job.to_string());
    assert_eq!(code, 0, "{errors}");
    let ends: Vec<(i32, String)> = serde_json::from_str(&out).unwrap();
    let wrong = |(typed, (code, terminal)): (&Typed, &(i32, String))| {
        let good = *code >= 0 && typed.fails == (*code != 0) && MISUNDERSTOOD.iter().all(|words| !terminal.contains(words));
        (!good).then(|| format!("{shell}: {shown}:{}: exit code {code}:\n{terminal}", typed.line))
    };
    typed.iter().zip(&ends[1..]).filter_map(wrong).collect()
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(page: &str) -> Vec<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
    headings
        .map(|line| line.trim_start_matches('#').trim().to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-"))
        .collect()
}

#[test]
fn every_link_of_a_page_leads_somewhere() {
    let mut wrong = Vec::new();
    for page in pages() {
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
    for shell in ["bash", "zsh"] {
        if run(apart("sh").args(["-c", &format!("command -v {shell}")]), "").0 != 0 {
            eprintln!("not tried in {shell}: it is not installed (apt-get install {shell})");
            continue;
        }
        let wrong = paste(shell, &root().join("README.md"));
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
