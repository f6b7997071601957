//! What every command has in common: what goes to which stream, exit codes, `-o json` and `-q`, colours. The commands come from the parser's own
//! definitions, so the tests also check a new one: it needs a line in [`FAILING`].

use std::fs::{self, File};
use std::process::{Command, Stdio};

use clap::CommandFactory;
use keyferry::cli::Cli;
use serde_json::Value;

use crate::support::{House, keyferry, run};

/// Each command with arguments by which it fails, and the exit code. ROOT is a house's folder.
const FAILING: &[(&str, &str, i32)] = &[
    ("cache list", "--config ROOT/keyferry.yaml", 2),
    ("cache wipe", "--config ROOT/gone.yaml", 2),
    ("can", "read files/bank/db --as shop/web --config ROOT/gone.yaml", 2),
    ("check", "--config ROOT/gone.yaml ROOT/class.yaml", 2),
    ("completion", "tcsh", 2),
    ("demo", "--keep --wrong", 2),
    ("doctor", "--config ROOT/gone.yaml", 2),
    ("example", "nonsense-of-all-kinds", 1),
    ("exec", "--env-file ROOT/gone.env -- true", 2),
    ("explain", "nonsense-of-all-kinds", 1),
    ("health", "--socket ROOT/gone.sock", 1),
    ("man", "--to /dev/null/man", 1),
    ("mount", "-f ROOT/gone.yaml --as shop/web --dry-run", 2),
    ("render", "-f ROOT/class.yaml --values ROOT/gone.yaml", 2),
    ("serve", "--config ROOT/gone.yaml", 2),
    ("status", "--state-dir ROOT/gone", 1),
    ("vault copy", "shop/gone shop/new VAULT", 1),
    ("vault diff", "shop/gone VAULT", 1),
    ("vault edit", "shop/db VAULT", 2),
    ("vault export", "gone/ VAULT", 1),
    ("vault get", "shop/db --field gone VAULT", 1),
    ("vault history", "shop/gone VAULT", 1),
    ("vault import", "ROOT/gone.json --vault ROOT/vault", 2),
    ("vault init", "--vault ROOT/vault/inner --identity ROOT/new.key", 1),
    ("vault list", "--vault ROOT/gone", 2),
    ("vault patch", "shop/db a=@ROOT/gone VAULT", 2),
    ("vault prune", "gone/ --vault ROOT/vault", 1),
    ("vault recipients", "--vault ROOT/gone", 2),
    ("vault rekey", "--vault ROOT/vault --identity ROOT/gone.key", 2),
    ("vault remove", "shop/gone --vault ROOT/vault", 1),
    ("vault rename", "shop/gone shop/new VAULT", 1),
    ("vault rollback", "shop/db --to 7 VAULT", 1),
    ("vault set", "shop/db a=b VAULT", 1),
    ("version", "--wrong", 2),
];

/// Each command that prints a result, with arguments by which it does.
const PRINTING: &[(&str, &str)] = &[
    ("cache list", "--config ROOT/sealed.yaml"),
    ("cache wipe", "files/shop --config ROOT/sealed.yaml"),
    ("can", "read files/shop/db --as shop/web --config ROOT/keyferry.yaml"),
    ("check", "--config ROOT/keyferry.yaml"),
    ("example", "tls"),
    ("explain", "limits.mounts"),
    ("health", "--socket ROOT/sockets/keyferry.sock"),
    (
        "mount",
        "-f ROOT/class.yaml --as shop/web --token keyferry=ROOT/token --dry-run --socket ROOT/sockets/keyferry.sock --uid uid-shop-web-0",
    ),
    ("render", "-f ROOT/class.yaml --values ROOT/values.yaml"),
    ("status", "--config ROOT/keyferry.yaml"),
    ("vault copy", "shop/db shop/new --dry-run VAULT"),
    ("vault diff", "shop/db 1 2 VAULT"),
    ("vault get", "shop/db VAULT"),
    ("vault history", "shop/db VAULT"),
    ("vault import", "--dry-run --name shop/new ROOT/new.env --vault ROOT/vault"),
    ("vault init", "--dry-run --vault ROOT/new --identity ROOT/new.key"),
    ("vault list", "--vault ROOT/vault"),
    ("vault patch", "shop/db --dry-run a=@ROOT/token VAULT"),
    ("vault prune", "--dry-run --vault ROOT/vault"),
    ("vault recipients", "--vault ROOT/vault"),
    ("vault rekey", "--dry-run VAULT"),
    ("vault remove", "--dry-run shop/db VAULT"),
    ("vault rename", "--dry-run shop/db shop/new VAULT"),
    ("vault rollback", "--dry-run shop/db --to 1 VAULT"),
    ("vault set", "--dry-run shop/db --replace a=@ROOT/token VAULT"),
    ("version", ""),
];

/// Commands without `-o`: their output is a story, a script, a page, a log, secrets in a format of their own, or another
/// program's.
const WITHOUT_FORM: &[&str] = &["completion", "demo", "exec", "man", "serve", "vault export"];

/// Every command that does something, such as `vault set`.
fn commands() -> Vec<(String, clap::Command)> {
    fn walk(path: &str, command: &clap::Command, all: &mut Vec<(String, clap::Command)>) {
        for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
            let path = format!("{path} {}", below.get_name()).trim().to_owned();
            if below.has_subcommands() { walk(&path, below, all) } else { all.push((path, below.clone())) }
        }
    }
    let mut all = Vec::new();
    walk("", &Cli::command(), &mut all);
    all
}

fn command(house: &House, name: &str, arguments: &str) -> Command {
    let root = house.folder.path().to_str().unwrap();
    let arguments = arguments.replace("VAULT", "--vault ROOT/vault --identity ROOT/age.key").replace("ROOT", root);
    let mut command = keyferry();
    command.args(name.split(' ')).args(arguments.split_whitespace());
    command
}

fn house() -> House {
    let house = House::new("");
    house.vault(&["set", "shop/db", "username=app", "password=other"]);
    let class = "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: { name: c, namespace: shop }\n\
                 spec: { provider: keyferry, parameters: { objects: \"[{ secret: shop/db }]\" } }\n";
    fs::write(house.path("class.yaml"), class).unwrap();
    fs::write(house.path("new.env"), "A=b\n").unwrap();
    fs::write(house.path("values.yaml"), "shop/db: { username: app }\n").unwrap();
    fs::write(house.path("cache.key"), [7; 32]).unwrap();
    let root = house.folder.path().display();
    fs::write(house.path("sealed.yaml"), format!("cache: {{ sealed: {{ dir: {root}/cache, key: {root}/cache.key }} }}\n")).unwrap();
    fs::write(house.path("token"), house.token(&crate::support::web(), "keyferry")).unwrap();
    house
}

/// Standard error is lines with one of three words, the first of them an error, and without an escape sequence.
#[track_caller]
fn check_errors(what: &str, errors: &str) {
    assert!(errors.starts_with("error: "), "{what}: {errors:?}");
    check_lines(what, errors);
}

#[track_caller]
fn check_lines(what: &str, errors: &str) {
    let known = |line: &str| ["error: ", "warning: ", "note: "].iter().any(|word| line.starts_with(word));
    assert!(errors.is_empty() || errors.ends_with('\n'), "{what}: {errors:?}");
    assert!(errors.lines().all(known) && !errors.contains('\u{1b}'), "{what}: {errors}");
}

#[test]
fn a_wrong_argument_is_an_error_with_exit_code_2_and_nothing_on_standard_output() {
    let house = house();
    for (name, _) in commands() {
        for wrong in ["--no-such-option", "--no-such-option=\u{1b}[31m", "-Z"] {
            let (code, out, errors) = run(&mut command(&house, &name, wrong), "");
            assert_eq!((code, out.as_str()), (2, ""), "{name} {wrong}");
            check_errors(&format!("{name} {wrong}"), &errors);
            assert!(errors.contains(&format!("`keyferry {name} --help`")), "{name}: {errors}");
        }
    }
    for wrong in ["", "vault", "vault nonsense", "nonsense", "--nonsense", "help nonsense"] {
        let (code, out, errors) = run(keyferry().args(wrong.split_whitespace()), "");
        assert_eq!((code, out.as_str()), (2, ""), "{wrong}");
        check_errors(wrong, &errors);
    }
}

#[test]
fn what_fails_says_so_on_standard_error_with_exit_code_1_or_2() {
    let house = house();
    for (name, _) in commands() {
        let Some((_, arguments, expected)) = FAILING.iter().find(|(known, ..)| *known == name) else {
            panic!("a new command {name:?}: add a line to FAILING in tests/it/streams.rs");
        };
        let (code, out, errors) = run(&mut command(&house, &name, arguments), "");
        assert_eq!((code, out.as_str()), (*expected, ""), "{name} {arguments}: {errors}");
        check_errors(&format!("{name} {arguments}"), &errors);
    }
}

#[test]
fn each_has_its_form_and_is_quiet_on_demand() {
    for (name, command) in commands() {
        let has = |short: char| command.get_arguments().any(|argument| argument.get_short() == Some(short));
        assert!(has('q') || ["completion", "exec", "man", "serve"].contains(&&*name), "{name} has no -q");
        assert!(has('o') || WITHOUT_FORM.contains(&&*name), "{name} has no -o");
    }
    let house = house();
    let _provider = house.serve();
    for (name, arguments) in PRINTING {
        let (code, out, errors) = run(&mut command(&house, name, arguments), "");
        assert!(code == 0 && !out.is_empty() && !out.contains('\u{1b}'), "{name}: {code}: {out}{errors}");
        check_lines(name, &errors);
        let (code, out, errors) = run(&mut command(&house, name, &format!("{arguments} -o json")), "");
        let document: Result<Value, _> = serde_json::from_str(&out);
        assert!(code == 0 && document.is_ok_and(|document| document.is_object()), "{name} -o json: {code}: {out}{errors}");
        assert_eq!(run(&mut command(&house, name, &format!("{arguments} -q")), ""), (0, String::new(), String::new()), "{name} -q");
        // A disk that is full.
        let full = command(&house, name, arguments).stdin(Stdio::null()).stdout(File::create("/dev/full").unwrap()).output().unwrap();
        let errors = String::from_utf8_lossy(&full.stderr);
        assert_eq!(full.status.code(), Some(1), "{name} >/dev/full: {errors}");
        assert!(errors.contains("error: cannot write the output: No space left"), "{name} >/dev/full: {errors}");
    }
}

/// On a terminal that `script` makes.
fn on_a_terminal(house: &House, name: &str, arguments: &str, variable: (&str, &str)) -> String {
    let typed = command(house, name, arguments);
    let words: Vec<_> = std::iter::once(typed.get_program()).chain(typed.get_args()).map(|word| word.to_str().unwrap()).collect();
    let mut script = crate::support::apart("script");
    let (_, out, errors) = run(script.args(["-qec", &words.join(" "), "/dev/null"]).env("TERM", "xterm").env(variable.0, variable.1), "");
    out + &errors
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let house = house();
    fs::write(house.path("faulty.yaml"), "kind: SecretProviderClass\n").unwrap();
    fs::remove_file(house.path("age.key")).unwrap();
    house.reconfigure("policy:", "log: { format: text }\npolicy:");
    for (name, arguments) in [
        ("check", "ROOT/faulty.yaml"),
        ("doctor", "--config ROOT/keyferry.yaml"),
        ("check", "--help"),
        ("serve", "--config ROOT/keyferry.yaml"),
    ] {
        let refused = name == "serve";
        assert!(refused || on_a_terminal(&house, name, arguments, ("A", "b")).contains("\u{1b}["), "{name} {arguments}: no colours");
        for variable in [("NO_COLOR", "1"), ("TERM", "dumb")] {
            let shown = on_a_terminal(&house, name, arguments, variable);
            assert!(!shown.is_empty() && !shown.contains('\u{1b}'), "{name} {arguments} {variable:?}: {shown}");
        }
    }
}

// === A refused start, as JSON lines ===

/// What `serve` writes, line by line.
fn refused(house: &House) -> Vec<Value> {
    let (code, out, errors) = run(&mut house.serve_command(), "");
    assert_eq!((code, out.as_str()), (2, ""), "{errors}");
    errors.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect()
}

/// The messages of the faults. Each line has the keys of a line of the log.
fn messages(house: &House) -> String {
    let lines = refused(house);
    let faults: Vec<&Value> = lines.iter().filter(|line| line["level"] == "ERROR").collect();
    for fault in &faults {
        let time = fault["timestamp"].as_str().unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok() && fault["target"].as_str().unwrap().starts_with("keyferry::"), "{fault}");
    }
    let messages: Vec<&str> = faults.iter().map(|fault| fault["message"].as_str().unwrap()).collect();
    messages.join("\n").replace(house.folder.path().to_str().unwrap(), "ROOT")
}

const JSON: &str = "log: { format: json }";

#[test]
fn each_fault_of_the_configuration_is_a_json_line() {
    let house = House::bare();
    // The level is a fault too, and `log` itself is not the last key.
    let faulty = "log:\n  format: json\n  level: loud\nsocketDir: run\nbackends: { files: { kind: \"f\\nil\" } }\npolcy: []\n";
    fs::write(house.path("keyferry.yaml"), faulty).unwrap();
    insta::assert_snapshot!(messages(&house), @r#"
    ROOT/keyferry.yaml:1:1: policy: is missing (nothing is allowed without rules; an empty list [] denies everything)
    ROOT/keyferry.yaml:3:10: log.level: "loud" is not a log level (write error, warn, info, debug or trace)
    ROOT/keyferry.yaml:4:12: socketDir: "run" is not an absolute path (start it with /)
    ROOT/keyferry.yaml:5:28: backends.files.kind: "f\nil" is not a kind of backend (this version serves: failover, aws, file, http, vault)
    ROOT/keyferry.yaml:6:1: polcy: is not a known key (did you mean `policy`?)
    "#);
    assert_eq!(refused(&house).len(), messages(&house).lines().count(), "nothing else is written");
    // Text where nobody asks for JSON, or nobody can tell.
    for text in [
        "backends: 1\n",
        "log: { format: text }\nbackends: 1\n",
        "log: { format: jsn }\n",
        "log: [json]\n",
        "log: { format: json }\n - x: [\n",
        "log: json\n",
    ] {
        fs::write(house.path("keyferry.yaml"), text).unwrap();
        let (code, out, errors) = run(&mut house.serve_command(), "");
        assert_eq!((code, out.as_str()), (2, ""), "{errors}");
        check_errors(text, &errors);
    }
    fs::remove_file(house.path("keyferry.yaml")).unwrap();
    let (_, _, errors) = run(&mut house.serve_command(), "");
    check_errors("missing", &errors);
}

#[test]
fn each_fault_of_a_refused_start_is_a_json_line() {
    let house = House::new(&format!("{JSON}\nversionKey: /nowhere/version.key"));
    fs::write(house.path("age.key"), "not an identity\n").unwrap();
    fs::write(house.path("jwks.json"), "{}").unwrap();
    insta::assert_snapshot!(messages(&house), @"
    versionKey: /nowhere/version.key: No such file or directory (os error 2) (make one: head -c 32 /dev/urandom)
    identity: ROOT/jwks.json: it holds no key that could be used: it has no list `keys` (write the cluster's keys into it: kubectl get --raw /openid/v1/jwks)
    backends.files: the identity file ROOT/age.key holds no X25519 identity: line 1 is not an identity (those start with AGE-SECRET-KEY-1; plugin, ssh and post-quantum keys are not read)
    ");
    let house = House::new(JSON);
    fs::remove_file(house.path("age.key")).unwrap();
    insta::assert_snapshot!(messages(&house), @"backends.files: the identity file ROOT/age.key is absent (is its volume mounted, and may this user read it?)");
    let house = House::new(JSON);
    let _provider = house.serve();
    insta::assert_snapshot!(messages(&house), @"socketDir: ROOT/sockets/keyferry.sock: another provider is listening there (stop it first; two providers of one name cannot share a node)");
}
