//! The commands as a person types them.

use clap::Parser;
use insta::assert_snapshot;

use super::*;

mod change;
mod list;
mod past;
mod place;
mod whole;

#[derive(Parser)]
struct Program {
    #[command(subcommand)]
    command: VaultCommand,
}

struct Bench(tempfile::TempDir);

/// The result of a command: its output, its warnings, its exit code and message.
struct Done {
    out: String,
    err: String,
    code: u8,
}

impl Bench {
    /// With a vault and its identity.
    fn on(&self, line: &str) -> Done {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        self.run(&format!("{command} --vault DIR/vault --identity DIR/age.key {rest}"))
    }

    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with_vault() -> Self {
        let bench = Self::new();
        assert_eq!(bench.run("init --vault DIR/vault --identity DIR/age.key").code, 0);
        bench
    }

    fn run(&self, line: &str) -> Done {
        self.run_with(line, b"")
    }

    /// `DIR` in the line is the test's folder, and is shown so again.
    fn run_with(&self, line: &str, mut input: &[u8]) -> Done {
        let folder = self.0.path().to_str().unwrap();
        let arguments = line.split(' ').filter(|word| !word.is_empty()).map(|word| word.replace("DIR", folder));
        let show = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).replace(folder, "DIR");
        let program = match super::super::parsed::<Program>(std::iter::once("vault".to_owned()).chain(arguments)) {
            Ok(program) => program,
            Err(error) => return Done { out: String::new(), err: error.to_string(), code: u8::try_from(error.exit_code()).unwrap() },
        };
        assert!(!format!("{:?}", program.command).contains("hunter2"));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let input = &mut Input { stream: &mut input, terminal: false, shows_progress: false };
        let code = match run(program.command, input, &mut out, &mut err) {
            Ok(()) => 0,
            Err(error) => {
                assert!(!format!("{error:?}").contains("hunter2"));
                writeln!(err, "error: {error}").unwrap();
                error.exit_code()
            }
        };
        Done { out: show(out), err: show(err), code }
    }

    fn failure(&self, line: &str) -> String {
        let done = self.run(line);
        assert!(done.out.is_empty() && !done.err.contains("hunter2"), "{}{}", done.out, done.err);
        format!("{} {}", done.code, done.err.trim_end())
    }

    /// Every file of the vault, with its content.
    fn files(&self) -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
        let (mut files, mut folders) = (std::collections::BTreeMap::new(), vec![self.0.path().join("vault")]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { drop(files.insert(path.clone(), std::fs::read(path).unwrap())) }
            }
        }
        files
    }

    fn value(&self, name: &str, field: &str) -> String {
        let done = self.on(&format!("get {name} --field {field}"));
        assert_eq!(done.code, 0, "{}", done.err);
        done.out
    }

    fn write(&self, file: &str, content: &[u8]) {
        std::fs::write(self.0.path().join(file), content).unwrap();
    }
}

/// The recipient differs each time, and so does the time.
fn anonymous(text: &str) -> String {
    text.split_inclusive([' ', '\n'])
        .map(|word| match word.trim() {
            key if key.starts_with("age1") => word.replace(key, "AGE1"),
            time if time.ends_with('Z') && time.contains('T') => word.replace(time, "TIME"),
            _ => word.to_owned(),
        })
        .collect()
}

#[test]
fn from_an_empty_folder_to_a_value_and_back() {
    let bench = Bench::new();
    let made = bench.run("init --vault DIR/vault --identity DIR/age.key");
    assert_snapshot!(anonymous(&made.out), @r"
    made the identity DIR/age.key of AGE1
    made the vault DIR/vault with 1 recipient
    ");
    assert_snapshot!(bench.run("init --vault DIR/vault --identity DIR/age.key").out, @"DIR/vault is a vault already, with 1 recipient; nothing to change");

    bench.write("tls.p12", &[0xff, 0, 1]);
    let set = bench.run_with("set --vault DIR/vault shop/db username=app password=- tls.p12=@DIR/tls.p12", b"hunter2\n");
    assert_snapshot!(set.out, @"shop/db: revision 1, 3 fields, encrypted for 1 recipient");
    assert_snapshot!(set.err, @r"
    warning: password: the value ends in a line break (`echo` adds one; `printf %s` does not)
    warning: other users of this machine can see the value of username, because it is on the command line (for secrets use username=@FILE or username=-)
    ");
    let get = bench.run("get --vault DIR/vault --identity DIR/age.key shop/db");
    assert_snapshot!(anonymous(&get.out), @r"
    shop/db: revision 1, set TIME
    FIELD     KIND       BYTES
    password  text           8
    tls.p12   binary         3
    username  text           3
    ");
    assert_eq!(bench.run("get --vault DIR/vault --identity DIR/age.key shop/db --field password").out, "hunter2\n");

    bench.run_with("set --vault DIR/vault shop/db password=- --replace", b"hunter3");
    assert_eq!(bench.run("get --vault DIR/vault --identity DIR/age.key shop/db --field password").out, "hunter3");
    assert_eq!(bench.run("get --vault DIR/vault --identity DIR/age.key shop/db --version 1 --field username").out, "app");
    bench.run("set --vault DIR/vault x a= --allow-empty");
    assert_eq!(bench.run("list --vault DIR/vault").out, "shop/db\nx\n");
    assert_eq!(bench.run("list --vault DIR/vault shop/").out, "shop/db\n");
    assert_snapshot!(bench.run("remove --vault DIR/vault shop/db").out, @"removed shop/db and 1 earlier revision");
    assert_eq!(bench.run("list --vault DIR/vault").out, "x\n");
}

#[test]
fn more_recipients_can_be_added() {
    let bench = Bench::with_vault();
    let key = age::x25519::Identity::generate().to_public();
    let added = bench.run(&format!("init --vault DIR/vault --recipient {key}"));
    assert_snapshot!(added.out, @r"
    added 1 recipient to the vault DIR/vault; it has 2 now
    secrets set from now on are encrypted for all of them; `keyferry vault rekey` encrypts earlier secrets again
    ");
    assert_snapshot!(bench.run_with("set --vault DIR/vault a f=-", b"x").out, @"a: revision 1, 1 field, encrypted for 2 recipients");
}

#[test]
fn what_cannot_be_done_is_said_with_exit_code_1() {
    let bench = Bench::with_vault();
    bench.run_with("set --vault DIR/vault shop/db password=-", b"hunter2");
    let get = "get --vault DIR/vault --identity DIR/age.key";
    assert_snapshot!(bench.failure(&format!("{get} shop/bd")), @"1 error: shop/bd: there is no such secret in the vault: DIR/vault/shop/bd.age is absent (make it with `keyferry vault set shop/bd FIELD=@FILE`); did you mean shop/db?");
    assert_snapshot!(bench.failure(&format!("{get} shop/db --field pass")), @r#"1 error: shop/db has no field "pass" (it has: password)"#);
    assert_snapshot!(bench.failure(&format!("{get} shop/db --version 7")), @"1 error: shop/db: there is no revision 7: the current one is 1, and no earlier one is kept (pin another, or leave `version` out)");
    assert_snapshot!(bench.failure("get --vault DIR/vault --identity DIR/none shop/db"), @"2 error: shop/db: the identity file DIR/none is absent (is its volume mounted, and may this user read it?)");
    assert_snapshot!(bench.failure("list --vault DIR/none"), @"2 error: DIR/none is not a vault: it has no list of recipients (make a vault with `keyferry vault init`)");
    assert_snapshot!(bench.failure("get --vault DIR/none --identity DIR/age.key shop/db"), @"2 error: DIR/none is not a vault: it has no list of recipients (make a vault with `keyferry vault init`)");
    assert_snapshot!(bench.failure("remove --vault DIR/vault none"), @"1 error: there is no secret none in the vault (`keyferry vault list` shows what there is)");
    assert_snapshot!(bench.failure("set --vault DIR/vault a f=@DIR/none"), @"2 error: cannot read the field f from DIR/none: No such file or directory (os error 2)");
    assert_snapshot!(bench.failure("init --vault DIR/vault --identity DIR/vault/keys/age.key"), @"1 error: DIR/vault/keys/age.key: is in the vault's folder, so everybody who gets the vault would get the key (keep the identity elsewhere)");
    std::fs::create_dir(bench.0.path().join("foreign")).unwrap();
    bench.write("foreign/README.md", b"");
    assert_snapshot!(bench.failure("init --vault DIR/foreign --identity DIR/new.key"), @r#"1 error: DIR/foreign is neither empty nor a vault: "README.md" is there (name a separate folder for the vault)"#);
    assert!(!bench.0.path().join("new.key").exists());
    // Another secret has a similar name, and the revision is missing.
    bench.run_with("set --vault DIR/vault shop/dc password=-", b"hunter2");
    assert_snapshot!(bench.failure(&format!("{get} shop/db --version 7")), @"1 error: shop/db: there is no revision 7: the current one is 1, and no earlier one is kept (pin another, or leave `version` out)");
}

#[test]
fn what_was_asked_for_wrongly_has_exit_code_2_and_quotes_no_value() {
    let bench = Bench::with_vault();
    assert_snapshot!(bench.failure("set --vault DIR/vault a hunter2"), @"2 error: field 1 after the name has no `=`: write FIELD=VALUE, FIELD=@FILE or FIELD=-");
    assert_snapshot!(bench.failure("set --vault DIR/vault a =hunter2"), @"2 error: field 1 after the name: a field name has 1 to 253 bytes and no control character");
    assert_snapshot!(bench.failure("set --vault DIR/vault a f=hunter2 f=x"), @"2 error: the field f is given twice (remove one)");
    assert_snapshot!(bench.failure("set --vault DIR/vault a f=- g=-"), @"2 error: only one field can be read from standard input (give the others by FIELD=@FILE)");
    assert_snapshot!(bench.failure("set --vault DIR/vault a f=@"), @"2 error: the field f: a file's name belongs after the @");
    assert_snapshot!(bench.failure("init --vault DIR/vault --recipient AGE-SECRET-KEY-1hunter2"), @"2 error: a secret key was given instead of a recipient, and other users of this machine may have seen it (a recipient starts with age1)");
    assert_snapshot!(bench.failure("init --vault DIR/vault --recipient hunter2"), @"2 error: the argument is not an X25519 recipient (it starts with age1; an identity file has it after `# public key:`)");
    for line in [
        "set --vault DIR/vault",
        "set --vault DIR/vault a",
        "set --vault DIR/vault db.age f=x",
        "get --vault DIR/vault a --version v1",
        "init --vault DIR/vault",
        "list",
        "rekey",
    ] {
        assert_eq!(bench.run(line).code, 2, "{line}");
    }
}

#[test]
fn a_vault_without_its_history_is_taken_up_with_the_identity() {
    let bench = Bench::with_vault();
    bench.run_with("set --vault DIR/vault db f=-", b"1");
    bench.run_with("set --vault DIR/vault db f=- --replace", b"2");
    std::fs::remove_dir_all(bench.0.path().join("vault/.history")).unwrap();
    assert_eq!(bench.run_with("set --vault DIR/vault db f=- --replace", b"3").code, 1);
    let done = bench.run_with("set --vault DIR/vault --identity DIR/age.key db f=-", b"3");
    assert_snapshot!(done.out, @"db: revision 3, 1 field, encrypted for 1 recipient");
}
