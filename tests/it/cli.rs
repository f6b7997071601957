//! Every command as a user sees it: exit codes, which stream has what, and the words.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::support::{House, keyferry, run};

/// Runs `keyferry` with nothing of ours in its environment.
fn command(arguments: &[&str]) -> Command {
    let mut command = keyferry();
    command.args(arguments);
    for name in ["KEYFERRY_CONFIG", "KEYFERRY_VAULT", "KEYFERRY_IDENTITY", "KEYFERRY_SOCKET", "COLUMNS"] {
        command.env_remove(name);
    }
    command
}

fn keyferry_with(arguments: &[&str]) -> (i32, String, String) {
    run(&mut command(arguments), "")
}

/// In place of a text's temporary folder, ROOT.
fn rooted(text: &str, root: &Path) -> String {
    text.replace(root.to_str().unwrap(), "ROOT")
}

// === Help and version ===

#[test]
fn without_a_command_it_names_them() {
    let (code, out, errors) = keyferry_with(&[]);
    assert_eq!((code, out.as_str()), (2, ""));
    insta::assert_snapshot!(errors, @"
    error: 'keyferry' requires a subcommand but one was not provided [subcommands: serve, demo, mount, check, render, can, cache, vault, exec, doctor, status, health, explain, example, completion, man, version, help]
    note: usage: keyferry <COMMAND>
    note: `keyferry --help` explains the arguments and has examples
    ");
    let (code, _, errors) = keyferry_with(&["serve", "--confg", "x"]);
    assert_eq!(code, 2);
    insta::assert_snapshot!(errors, @"
    error: unexpected argument '--confg' found
    note: a similar argument exists: '--config'
    note: usage: keyferry serve --config <FILE>
    note: `keyferry serve --help` explains the arguments and has examples
    ");
    let (code, _, errors) = keyferry_with(&["check", "-o", "yaml", "x"]);
    assert_eq!(code, 2);
    insta::assert_snapshot!(errors, @"
    error: invalid value 'yaml' for '--output <FORMAT>' [possible values: json, text, github]
    note: `keyferry check --help` explains the arguments and has examples
    ");
}

#[test]
fn cache_says_what_is_missing() {
    let house = House::new("");
    let config = house.path("keyferry.yaml");
    let (code, out, errors) = keyferry_with(&["cache", "wipe", "--config", config.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (2, ""));
    insta::assert_snapshot!(rooted(&errors, house.folder.path()), @"error: ROOT/keyferry.yaml: has no `cache.sealed`, so no answers are on this node's disk (a restart of the daemon removes those in memory)");
    fs::write(house.path("cache.key"), [7; 32]).unwrap();
    let root = house.folder.path().display();
    // Other keys may have faults.
    fs::write(&config, format!("nonsense: 1\ncache: {{ stale: soon, sealed: {{ dir: {root}/cache, key: {root}/cache.key }} }}\n")).unwrap();
    let (code, out, errors) = keyferry_with(&["cache", "list", "--config", config.to_str().unwrap()]);
    assert_eq!((code, errors.as_str()), (0, ""));
    insta::assert_snapshot!(rooted(&out, house.folder.path()), @"no answers are kept in ROOT/cache");
    fs::write(house.path("cache/answers"), "").unwrap();
    let (code, _, errors) = keyferry_with(&["cache", "list", "--config", config.to_str().unwrap()]);
    assert_eq!(code, 1);
    insta::assert_snapshot!(rooted(&errors, house.folder.path()), @"error: ROOT/cache: Not a directory (os error 20) (run it as the daemon's user)");
}

#[test]
fn the_help() {
    let (code, out, errors) = keyferry_with(&["--help"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    insta::assert_snapshot!(out, @r#"
    Keyferry carries secrets from any store to the Pods that may have them, as files: a provider for the
    Kubernetes Secrets Store CSI driver

    Usage: keyferry <COMMAND>

    Commands:
      serve       Run the provider: answer the Secrets Store CSI driver on its sockets until SIGTERM
      demo        Show the whole job on this machine, with no cluster
      mount       Ask a provider for a Pod's volume, as the driver would, and write it
      check       Find what is wrong with classes and with the configuration
      render      Render a class's files with made-up values
      can         Ask the policy: may the Pods of a ServiceAccount have this secret, and by which rule?
      cache       List and remove the answers that this node keeps for the time when a store is out
      vault       Keep secrets in a file vault: a folder with one age file per secret
      exec        Run a command with environment variables from mounted files
      doctor      Find what is wrong on this node
      status      Show what this node's daemon does now
      health      Ask the provider at a socket whether it is well
      explain     Explain an error code, or a key of a class or of the configuration
      example     Print an example: a class with a Pod that mounts it, or a configuration
      completion  Print a script that completes commands and options in a shell
      man         Print the manual page
      version     Print the version
      help        Print this message or the help of the given subcommand(s)

    Options:
      -h, --help     Print help
      -V, --version  Print version

    New here? `keyferry demo` shows the whole job on this machine, with no cluster.
    `keyferry explain CODE` explains an error, `keyferry COMMAND --help` has examples.

    Exit codes: 0 done; 1 it failed; 2 wrong arguments or configuration.
    "#);
}

#[test]
fn every_command_has_help_on_standard_output() {
    let names = [
        "serve",
        "demo",
        "mount",
        "check",
        "render",
        "can",
        "exec",
        "doctor",
        "health",
        "explain",
        "example",
        "completion",
        "man",
        "version",
        "vault",
    ];
    let commands = names.map(|name| vec![name]).into_iter();
    let vault = ["init", "set", "get", "list", "remove"].map(|name| vec!["vault", name]);
    for command in commands.chain(vault) {
        for flag in ["--help", "-h"] {
            let arguments: Vec<&str> = command.iter().copied().chain([flag]).collect();
            let (code, out, errors) = keyferry_with(&arguments);
            assert_eq!((code, errors.as_str()), (0, ""), "{arguments:?}");
            assert!(out.contains("Usage: keyferry ") && !out.contains('\u{1b}'), "{out}");
            // It fits a page, and it says what the command does before it says how to call it.
            assert!(out.lines().all(|line| line.chars().count() <= 160), "{out}");
            assert!(!out.starts_with("Usage"), "{out}");
        }
    }
}

#[test]
fn a_misspelt_command_or_flag_is_a_usage_error() {
    for arguments in [&["serv"][..], &["serve", "--confg", "x"], &["vault"], &["vault", "sett"], &["mount"], &["serve"]] {
        let (code, out, errors) = keyferry_with(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}");
        assert!(errors.contains("keyferry"), "{errors}");
    }
}

#[test]
fn the_version() {
    let line = format!("keyferry {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(keyferry_with(&["version"]), (0, line.clone(), String::new()));
    assert_eq!(keyferry_with(&["--version"]), (0, line, String::new()));
}

#[test]
fn the_version_for_scripts() {
    let (code, out, errors) = keyferry_with(&["version", "-o", "json"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    let about: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(about["version"], env!("CARGO_PKG_VERSION"));
    assert!(about["target"].as_str().unwrap().contains("linux") && about.get("commit").is_some(), "{about}");
}

#[test]
fn a_link_makes_it_a_plugin_of_kubectl() {
    let house = House::bare();
    let link = house.path("kubectl-keyferry");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_keyferry"), &link).unwrap();
    let (code, out, _) = run(crate::support::apart(&link).args(["explain", "TooLarge"]), "");
    assert_eq!((code, out.lines().next()), (0, Some("TooLarge")));
    let (code, _, errors) = run(crate::support::apart(&link).args(["check", "/nowhere", "--outptu", "json"]), "");
    assert_eq!(code, 2);
    assert!(errors.contains("--output"), "{errors}");
}

#[test]
fn shells_and_man_know_every_command() {
    for shell in ["bash", "fish", "zsh"] {
        let (code, out, errors) = keyferry_with(&["completion", shell]);
        assert_eq!((code, errors.as_str()), (0, ""));
        for word in ["doctor", "suggest-policy", "completion", "recipients"] {
            assert!(out.contains(word) || word == "recipients", "{shell}: {word}");
        }
        let checked = match shell {
            "bash" => run(crate::support::apart("bash").arg("-n"), &out),
            _ => (0, String::new(), String::new()),
        };
        assert_eq!(checked, (0, String::new(), String::new()));
    }
    let (code, out, errors) = keyferry_with(&["man"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    assert!(out.contains(".TH keyferry 1") && out.contains("keyferry\\-check(1)"), "{out}");
    let house = House::bare();
    let pages = house.path("man/man1");
    assert_eq!(keyferry_with(&["man", "--to", pages.to_str().unwrap()]), (0, String::new(), String::new()));
    assert!(pages.join("keyferry-check.1").exists() && pages.join("keyferry-vault-set.1").exists());
    let (code, _, errors) = keyferry_with(&["man", "--to", "/dev/null/man"]);
    assert_eq!((code, errors.as_str()), (1, "error: /dev/null/man: Not a directory (os error 20)\n"));
}

// === can ===

#[test]
fn can_says_yes_or_no_and_by_which_rule() {
    let house = House::new("");
    let config = "identity: { verify: token-review }\nbackends:\n  files: { kind: file, vault: /v, identity: /k }\n\
                  \x20 bao: { kind: vault, address: https://bao:8200, auth: { method: jwt } }\npolicy:\n\
                  \x20 - pods: { namespace: \"*\" }\n    read: [\"files/${namespace}/**\"]\n\
                  \x20 - pods: { namespace: shop, serviceAccount: web }\n    update: [\"bao/pki/issue/web\"]\n\
                  \x20 - pods: { namespace: \"*\" }\n    deny: [\"*/**/root/**\"]\n";
    fs::write(house.path("can.yaml"), config).unwrap();
    let can = |arguments: &[&str]| {
        let mut command = command(&["can"]);
        let (code, out, errors) = run(command.args(arguments).arg("--config").arg(house.path("can.yaml")), "");
        rooted(&format!("{code}\n{out}{errors}"), house.folder.path())
    };
    insta::assert_snapshot!(can(&["read", "files/shop/db", "--as", "shop/web"]), @r#"
    0
    yes: rule 1 (ROOT/can.yaml:6) reads "files/${namespace}/**"
    "#);
    insta::assert_snapshot!(can(&["read", "files/shop/root/x", "--as", "shop/web"]), @r#"
    1
    no: rule 3 (ROOT/can.yaml:10): files/shop/root/x: policy rule 3 denies it to ServiceAccount shop/web by its pattern "*/**/root/**" (a deny beats every allow; only the cluster's admin can change the rule)
    "#);
    insta::assert_snapshot!(can(&["read", "files/bank/db", "--as", "shop/web"]), @r#"
    1
    no: files/bank/db: no rule of the policy allows ServiceAccount shop/web to read it (the cluster's admin can add a rule with read: ["files/bank/db"])
    This rule would allow it (under `policy`):
      - pods: { namespace: "shop", serviceAccount: "web" }
        read:
          - "files/bank/db"
    "#);
    insta::assert_snapshot!(can(&["update", "bao/pki/issue/web", "--as", "shop/web"]), @r#"
    0
    yes: rule 2 (ROOT/can.yaml:8) updates "bao/pki/issue/web"
    "#);
    insta::assert_snapshot!(can(&["read", "bao/pki/issue/web", "--as", "shop/web", "-o", "json"]), @r#"
    1
    {
      "allowed": false,
      "rule": null,
      "why": "bao/pki/issue/web: no rule of the policy allows ServiceAccount shop/web to read it (the cluster's admin can add a rule with read: [\"bao/pki/issue/web\"])\nThis rule would allow it (under `policy`):\n  - pods: { namespace: \"shop\", serviceAccount: \"web\" }\n    read:\n      - \"bao/pki/issue/web\""
    }
    "#);
    insta::assert_snapshot!(can(&["read", "bao/pki/issue/web", "--as", "shop/web", "-q"]), @r#"1"#);
    insta::assert_snapshot!(can(&["read", "fiels/shop/db", "--as", "shop/web"]), @r#"
    2
    error: "fiels/shop/db": there is no backend "fiels" (did you mean "files"?)
    "#);
    insta::assert_snapshot!(can(&["read", "files/shop//db", "--as", "shop/web"]), @r#"
    2
    error: "files/shop//db": has an empty element (`//`, or a `/` at its start or end)
    "#);
    insta::assert_snapshot!(can(&["update", "files/shop/db", "--as", "shop/web"]), @r#"
    2
    error: "files/shop/db": files only reads, and nothing is updated there (ask for `read`)
    "#);
    insta::assert_snapshot!(can(&["read", "files", "--as", "shop/web"]), @r#"
    2
    error: "files": has no `/` (write BACKEND/NAME, such as files/shop/db)
    "#);
    fs::write(house.path("can.yaml"), "policy: []").unwrap();
    insta::assert_snapshot!(can(&["read", "files/shop/db", "--as", "shop/web"]), @"
    2
    error: ROOT/can.yaml:1:1: backends: is missing (at least one store, such as files: { kind: file, vault: ..., identity: ... })
    ");
}

#[test]
fn the_environment_names_the_configuration() {
    let house = House::new("");
    let with = |arguments: &[&str]| {
        let mut command = command(arguments);
        run(command.env("KEYFERRY_CONFIG", house.path("keyferry.yaml")), "")
    };
    let (code, out, _) = with(&["check"]);
    assert!(code == 0 && out.contains("keyferry.yaml: no fault ("), "{out}");
    let (code, out, _) = with(&["check", "--schema", "class"]);
    assert!(code == 0 && out.starts_with('{'), "{out}");
    let (code, out, _) = with(&["can", "read", "files/shop/db", "--as", "shop/web"]);
    assert!(code < 2 && (out.starts_with("yes: ") || out.starts_with("no: ")), "{out}");
    let (code, out, errors) = run(command(&["check"]).env("KEYFERRY_CONFIG", ""), "");
    assert_eq!((code, out.as_str()), (2, ""));
    insta::assert_snapshot!(errors, @"
    error: a value is required for '--config <FILE>' but none was supplied
    note: `keyferry check --help` explains the arguments and has examples
    ");
}

// === serve ===

#[test]
fn serve_prints_all_faults_of_the_configuration_with_their_places() {
    let house = House::bare();
    let faulty = "socketDir: run/sockets\nsocketMode: \"0666\"\nallowedPeers: [root]\n\
                  identity: { verify: jwks, audience: keyferry }\n\
                  backends:\n  files: { kind: fil, vault: /v }\n\
                  polcy: []\nlimits: { mounts: 0 }\n";
    fs::write(house.path("keyferry.yaml"), faulty).unwrap();
    let (code, out, errors) = run(&mut house.serve_command(), "");
    assert_eq!((code, out.as_str()), (2, ""));
    insta::assert_snapshot!(rooted(&errors, house.folder.path()), @r#"
    error: ROOT/keyferry.yaml:1:1: policy: is missing (nothing is allowed without rules; an empty list [] denies everything)
    error: ROOT/keyferry.yaml:1:12: socketDir: "run/sockets" is not an absolute path (start it with /)
    error: ROOT/keyferry.yaml:2:13: socketMode: "0666" would let every user of the node ask for any Pod's secrets (use "0600")
    error: ROOT/keyferry.yaml:3:16: allowedPeers: "root" is not a user id (write a number, such as 0 for root)
    error: ROOT/keyferry.yaml:6:18: backends.files.kind: "fil" is not a kind of backend (this version serves: failover, aws, file, http, vault)
    error: ROOT/keyferry.yaml:7:1: polcy: is not a known key (did you mean `policy`?)
    error: ROOT/keyferry.yaml:8:19: limits.mounts: "0" is not a count (write a whole number from 1 to 100000)
    "#);
}

#[test]
fn serve_says_which_configuration_is_missing() {
    let house = House::bare();
    let (code, out, errors) = run(&mut house.serve_command(), "");
    assert_eq!((code, out.as_str()), (2, ""));
    insta::assert_snapshot!(rooted(&errors, house.folder.path()), @"error: ROOT/keyferry.yaml: No such file or directory (os error 2) (name the configuration with --config FILE or the environment's KEYFERRY_CONFIG)");
}

#[test]
fn serve_says_what_keeps_it_from_starting() {
    let house = House::new("versionKey: /nowhere/version.key");
    fs::remove_file(house.path("age.key")).unwrap();
    fs::write(house.path("jwks.json"), "{}").unwrap();
    let (code, out, errors) = run(&mut house.serve_command(), "");
    assert_eq!((code, out.as_str()), (2, ""));
    insta::assert_snapshot!(rooted(&errors, house.folder.path()), @"
    error: versionKey: /nowhere/version.key: No such file or directory (os error 2) (make one: head -c 32 /dev/urandom)
    error: identity: ROOT/jwks.json: it holds no key that could be used: it has no list `keys` (write the cluster's keys into it: kubectl get --raw /openid/v1/jwks)
    error: backends.files: the identity file ROOT/age.key is absent (is its volume mounted, and may this user read it?)
    ");
    assert!(!house.path("sockets/keyferry.sock").exists(), "the socket is not bound before mounts can be served");
}

#[test]
fn serve_names_what_it_cannot_open() {
    let refusal = |extra| {
        let (code, out, errors) = run(&mut House::new(extra).serve_command(), "");
        assert_eq!((code, out.as_str()), (2, ""));
        errors.lines().last().unwrap().to_owned()
    };
    insta::assert_snapshot!(refusal("audit: { file: /nowhere/audit.log }"), @"error: audit.file: /nowhere/audit.log: No such file or directory (os error 2) (make its folder, and let the daemon write there)");
    // An address that nobody has (RFC 5737).
    insta::assert_snapshot!(refusal("metrics: { listen: \"203.0.113.1:8095\" }"), @"error: metrics.listen: 203.0.113.1:8095: Cannot assign requested address (os error 99) (choose another address, or leave `metrics` out)");
}

#[tokio::test]
async fn serve_finds_its_configuration_in_the_environment() {
    let house = House::new("");
    let mut child =
        command(&["serve"]).env("KEYFERRY_CONFIG", house.path("keyferry.yaml")).stderr(std::process::Stdio::null()).spawn().unwrap();
    let socket = house.path("sockets/keyferry.sock");
    crate::support::eventually("it serves", async || socket.exists()).await;
    let (code, _, errors) = keyferry_with(&["health", "--socket", socket.to_str().unwrap()]);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!((code, errors.as_str()), (0, ""));
}

// === health ===

#[test]
fn health_is_one_line_and_an_exit_code() {
    let house = House::new("");
    let provider = house.serve();
    let socket = provider.socket.to_str().unwrap().to_owned();
    let (code, out, errors) = keyferry_with(&["health", "--socket", &socket]);
    assert_eq!((code, errors.as_str()), (0, ""));
    assert_eq!(
        rooted(&out, house.folder.path()),
        format!("ok: keyferry {} answers at ROOT/sockets/keyferry.sock\n", env!("CARGO_PKG_VERSION"))
    );
    assert!(provider.stop().success());
    let (code, out, errors) = keyferry_with(&["health", "--socket", &socket]);
    assert_eq!((code, out.as_str()), (1, ""));
    insta::assert_snapshot!(rooted(&errors, house.folder.path()), @"error: cannot connect to ROOT/sockets/keyferry.sock: No such file or directory (os error 2) (no socket is there: is `keyferry serve` running, and is --socket its socket?)");
    fs::write(&socket, "").unwrap();
    let (code, _, errors) = keyferry_with(&["health", "--socket", &socket]);
    assert_eq!(code, 1);
    insta::assert_snapshot!(rooted(&errors, house.folder.path()), @"error: cannot connect to ROOT/sockets/keyferry.sock: Connection refused (os error 111) (nobody listens there: is it a socket, and is `keyferry serve` running?)");
}

#[test]
fn health_does_not_wait_for_a_silent_provider_for_ever() {
    let folder = crate::folder::new();
    let socket = folder.path().join("silent.sock");
    let _silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let (code, out, errors) = keyferry_with(&["health", "--socket", socket.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (1, ""));
    insta::assert_snapshot!(errors, @"error: no answer within 5s (is the provider overloaded, or stopped? see its log)");
}

// === vault ===

struct VaultHouse(tempfile::TempDir);

impl VaultHouse {
    fn run(&self, arguments: &[&str], input: &str) -> (i32, String, String) {
        let mut command = command(&["vault"]);
        command.args(arguments).env("KEYFERRY_VAULT", self.0.path().join("v")).env("KEYFERRY_IDENTITY", self.0.path().join("age.key"));
        let (code, out, errors) = run(&mut command, input);
        (code, rooted(&out, self.0.path()), rooted(&errors, self.0.path()))
    }

    fn done(&self, arguments: &[&str], input: &str) -> String {
        let (code, out, errors) = self.run(arguments, input);
        assert_eq!((code, errors.as_str()), (0, ""), "{arguments:?}");
        out
    }
}

#[test]
fn a_vault_from_its_making_to_its_last_secret() {
    let house = VaultHouse(crate::folder::new());
    let made = house.done(&["init"], "");
    assert!(
        made.starts_with("made the identity ROOT/age.key of age1") && made.ends_with("made the vault ROOT/v with 1 recipient\n"),
        "{made}"
    );
    assert_eq!(house.done(&["init"], ""), "ROOT/v is a vault already, with 1 recipient; nothing to change\n");
    assert_eq!(house.done(&["set", "shop/db", "password=-"], "from stdin"), "shop/db: revision 1, 1 field, encrypted for 1 recipient\n");
    let file = house.0.path().join("binary");
    fs::write(&file, [0, 255, 10]).unwrap();
    let from_file = format!("password=@{}", file.display());
    assert_eq!(house.done(&["set", "shop/db", &from_file], ""), "shop/db: revision 2, 1 field, encrypted for 1 recipient\n");
    house.done(&["set", "shop/web", "key=-"], "hunter2");
    assert_eq!(house.done(&["list"], ""), "shop/db\nshop/web\n");
    assert_eq!(house.done(&["list", "shop/w"], ""), "shop/web\n");
    // Names and sizes, never a value. The bytes as they are, if the user asks for them.
    let table = house.done(&["get", "shop/web"], "");
    assert!(table.contains("key") && table.contains("text") && !table.contains("hunter2"), "{table}");
    assert_eq!(house.done(&["get", "shop/db", "--field", "password", "--version", "1"], ""), "from stdin");
    assert_eq!(house.done(&["remove", "shop/db"], ""), "removed shop/db and 1 earlier revision\n");
    assert_eq!(house.done(&["list"], ""), "shop/web\n");
}

#[test]
fn a_value_in_the_arguments_is_warned_of_and_not_repeated() {
    let house = VaultHouse(crate::folder::new());
    house.done(&["init"], "");
    let (code, out, errors) = house.run(&["set", "shop/db", "username=hunter2", "password=hunter2"], "");
    assert_eq!((code, out.as_str()), (0, "shop/db: revision 1, 2 fields, encrypted for 1 recipient\n"));
    insta::assert_snapshot!(errors, @"warning: other users of this machine can see the values of username, password, because they are on the command line (for secrets use FIELD=@FILE or FIELD=-)");
    // Nor where the `=` was forgotten.
    let (code, out, errors) = house.run(&["set", "shop/db", "hunter2"], "");
    assert_eq!((code, out.as_str(), errors.contains("hunter2")), (2, "", false), "{errors}");
}

#[test]
fn a_vaults_errors_go_to_standard_error() {
    let house = VaultHouse(crate::folder::new());
    let (code, out, _) = house.run(&["list"], "");
    assert_eq!((code, out.as_str()), (2, ""));
    house.done(&["init"], "");
    house.done(&["set", "shop/db", "password=-"], "x");
    let failing: [(&[&str], i32); 6] = [
        (&["get", "shop/bd"], 1),
        (&["get", "shop/db", "--field", "pasword"], 1),
        (&["get", "shop/db", "--version", "7"], 1),
        (&["remove", "shop/gone"], 1),
        (&["set", "../escape", "a=-"], 2),
        (&["set", "shop/db", "password=@/nowhere/at/all"], 2),
    ];
    let mut said = String::new();
    for (arguments, expected) in failing {
        let (code, out, errors) = house.run(arguments, "");
        assert_eq!((code, out.as_str()), (expected, ""), "{arguments:?}: {errors}");
        said += &format!("{}\n", errors.lines().next().unwrap());
    }
    insta::assert_snapshot!(said, @r#"
    error: shop/bd: there is no such secret in the vault: ROOT/v/shop/bd.age is absent (make it with `keyferry vault set shop/bd FIELD=@FILE`); did you mean shop/db?
    error: shop/db has no field "pasword" (it has: password)
    error: shop/db: there is no revision 7: the current one is 1, and no earlier one is kept (pin another, or leave `version` out)
    error: there is no secret shop/gone in the vault (`keyferry vault list` shows what there is)
    error: invalid value '../escape' for '<NAME>': the name has the element ".."
    error: cannot read the field password from /nowhere/at/all: No such file or directory (os error 2)
    "#);
}

// === mount ===

/// `keyferry mount` against a house's provider, with a class of these objects and a good token.
fn mount(house: &House, namespace: &str, objects: &str, more: &[&str]) -> (i32, String, String) {
    let class = json!({
        "apiVersion": "secrets-store.csi.x-k8s.io/v1",
        "kind": "SecretProviderClass",
        "metadata": { "name": "shop" },
        "spec": { "provider": "keyferry", "parameters": { "objects": objects } },
    });
    let (class_file, token_file) = (house.path("class.yaml"), house.path("token.jwt"));
    fs::write(&class_file, class.to_string()).unwrap();
    let pod = crate::support::pod(namespace, "web-0", "web");
    fs::write(&token_file, house.token(&pod, "keyferry")).unwrap();
    let mut command = command(&["mount", "--namespace", namespace, "--pod", "web-0", "--service-account", "web"]);
    command.arg("--socket").arg(house.path("sockets/keyferry.sock")).arg("--class").arg(class_file).args(["--uid", &pod.uid]);
    command.arg("--token").arg(format!("keyferry={}", token_file.display())).args(more);
    let (code, out, errors) = run(&mut command, "");
    (code, rooted(&out, house.folder.path()), rooted(&errors, house.folder.path()))
}

const OBJECTS: &str = "- { secret: shop/db, field: password, path: db/password, mode: 0400 }\n- { secret: shop/db, path: db.json }\n";

fn target(house: &House) -> PathBuf {
    house.path("target")
}

#[test]
fn mount_writes_the_files_and_draws_their_tree() {
    let house = House::new("");
    let _provider = house.serve();
    let target = target(&house);
    let arguments = ["--target", target.to_str().unwrap()];
    let (code, out, errors) = mount(&house, "shop", OBJECTS, &arguments);
    assert_eq!(code, 0, "{errors}");
    insta::assert_snapshot!(out, @r"
    ROOT/target
    ├── 0755 db/
    │   └── 0400 password  13 bytes
    └── 0644 db.json  45 bytes

    Written.
    ");
    assert_eq!(fs::read_to_string(target.join("db/password")).unwrap(), "correct horse");
    // A remount removes the files that the class does not ask for any more.
    let (code, _, errors) = mount(&house, "shop", "- { secret: shop/db, path: db.json }\n", &arguments);
    assert_eq!(code, 0, "{errors}");
    assert!(!target.join("db").exists() && target.join("db.json").exists());
}

#[test]
fn mount_dry_run_is_a_table_without_values() {
    let house = House::new("");
    let _provider = house.serve();
    let (code, out, errors) = mount(&house, "shop", OBJECTS, &["--dry-run"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    insta::assert_snapshot!(out, @r"
    PATH         MODE  SIZE  FROM           VERSION
    db/password  0400  13    files/shop/db  1
    db.json      0644  45    files/shop/db  1

    Dry run: nothing was written.
    ");
    assert!(!out.contains("correct horse"));
}

#[test]
fn mount_speaks_to_scripts() {
    let house = House::new("");
    let _provider = house.serve();
    let (code, out, errors) = mount(&house, "shop", OBJECTS, &["--dry-run", "--output", "json"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["written"], "dry-run");
    assert_eq!(report["files"][1]["path"], "db.json");
    assert_eq!(
        report["files"][0],
        json!({ "path": "db/password", "mode": "0400", "size": 13, "from": "files/shop/db", "version": report["objects"][0]["version"] })
    );
    let target = target(&house);
    let (code, out, _) = mount(&house, "shop", OBJECTS, &["--output", "json", "--target", target.to_str().unwrap()]);
    assert_eq!((code, serde_json::from_str::<Value>(&out).is_ok()), (0, true), "{out}");
}

#[test]
fn mount_exits_1_where_the_provider_says_no_and_2_where_it_was_asked_wrongly() {
    let house = House::new("");
    let provider = house.serve();
    let (code, out, errors) = mount(&house, "bank", OBJECTS, &["--dry-run"]);
    assert_eq!((code, out.as_str()), (1, ""));
    insta::assert_snapshot!(errors, @r#"error: rpc error: code = PermissionDenied desc = PolicyDenied: object 1 (db/password): files/shop/db: no rule of the policy allows ServiceAccount bank/web to read it (the cluster's admin can add a rule with read: ["files/shop/db"]); object 2 (db.json): files/shop/db: no rule of the policy allows ServiceAccount bank/web to read it (the cluster's admin can add a rule with read: ["files/shop/db"])"#);
    let (code, out, errors) = mount(&house, "shop", OBJECTS, &["--dry-run", "--token", "other=/nowhere/token"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(errors.starts_with("error: cannot read /nowhere/token: "), "{errors}");
    let (code, out, errors) = mount(&house, "shop", OBJECTS, &[]);
    assert_eq!((code, out.as_str()), (2, ""), "{errors}");
    assert!(provider.stop().success());
    let (code, out, errors) = mount(&house, "shop", OBJECTS, &["--dry-run"]);
    assert_eq!((code, out.as_str()), (1, ""));
    insta::assert_snapshot!(errors, @"error: cannot connect to ROOT/sockets/keyferry.sock: No such file or directory (os error 2) (no socket is there: is `keyferry serve` running, and is --socket its socket?)");
}

// === demo ===

#[test]
fn the_demo_does_what_it_says_and_leaves_nothing() {
    let temp = crate::folder::new();
    let (code, out, errors) = run(command(&["demo"]).env("TMPDIR", temp.path()), "");
    assert_eq!(code, 0, "{errors}");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0, "nothing is left behind");
    assert!(!out.contains('\u{1b}') && !errors.contains('\u{1b}'), "no colours where there is no terminal");
    assert!(!out.contains("correct horse") && !out.contains("Tr0ub4dor"), "values are in files alone");
    for words in ["1. ", "2. ", "3. ", "4. ", "5. ", "0400", "PolicyDenied: ", "nothing left behind"] {
        assert!(out.contains(words), "{words} is not in\n{out}");
    }
}

/// The folder's name and the sizes of encrypted files differ from run to run. The README leaves out the commands at the end.
#[test]
fn the_readme_shows_what_the_demo_prints() {
    let temp = crate::folder::new();
    let (_, out, _) = run(command(&["demo"]).env("TMPDIR", temp.path()), "");
    let neutral = |text: &str| {
        let line = |line: &str| match (line.split_once(".age "), line.split_once("/keyferry-demo")) {
            (Some((name, _)), _) => format!("{name}.age"),
            (None, Some((_, rest))) => format!("FOLDER/{}", rest.split_once('/').unwrap().1),
            (None, None) => line.to_owned(),
        };
        text.trim().lines().map(line).collect::<Vec<_>>().join("\n")
    };
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, shown) = readme.split_once("```text\n").unwrap();
    let (printed, _) = out.split_once("\nNext, ").unwrap();
    assert_eq!(neutral(shown.split_once("```").unwrap().0), neutral(printed));
}

/// Whatever ends it: Ctrl-C, a terminal that is closed, `timeout`.
#[test]
fn a_demo_that_is_interrupted_leaves_nothing() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let temp = crate::folder::new();
        let mut demo = command(&["demo"])
            .env("TMPDIR", temp.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It prints its first line when the provider runs.
        let mut out = std::io::BufReader::new(demo.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut String::new()).unwrap();
        rustix::process::kill_process(Pid::from_child(&demo), signal).unwrap();
        let ended = demo.wait().unwrap();
        // It may have been quicker.
        assert!(matches!(ended.code(), Some(0 | 130)), "{signal:?}: {ended}");
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0, "{signal:?}: nothing is left behind");
    }
}

#[test]
fn a_log_that_is_no_terminal_has_no_colours() {
    let house = House::new("log: { format: text, level: debug }");
    let provider = house.serve();
    let log = provider.log();
    assert!(log.contains("ready") && !log.contains('\u{1b}'), "{log}");
}
