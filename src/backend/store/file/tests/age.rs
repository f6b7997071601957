//! The age command opens what Keyferry encrypts, and Keyferry opens what age encrypts.

use super::*;

fn age() -> Command {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/age/usr/bin/age");
    let program = if tools.exists() { tools } else { PathBuf::from("age") };
    let found = Command::new(&program).arg("--version").stdout(Stdio::null()).status();
    assert!(found.is_ok(), "the age command is missing: run `make tools`, or `apt-get install age`");
    Command::new(program)
}

#[test]
fn the_age_command_opens_every_file_and_what_it_seals_is_served() {
    let bench = Bench::new();
    bench.vault.set(&secret("db"), &fields(&[("password", b"hunter2"), ("key", &vec![0xff; 70_000])])).unwrap();
    bench.set("db", "hunter3");
    for (file, expected) in
        [("vault/.history/db/1.age", r#""password":{"text":"hunter2"}"#), ("vault/db.age", r#""password":{"text":"hunter3"}"#)]
    {
        let output = age().arg("-d").arg("-i").arg(bench.at("age.key")).arg(bench.at(file)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let plaintext = String::from_utf8(output.stdout).unwrap();
        assert!(plaintext.starts_with(r#"{"format":1,"name":"db","revision":"#) && plaintext.contains(expected));
    }

    // And back: a document that age has encrypted for the vault's list of recipients.
    let document =
        r#"{"format":1,"name":"made/by-age","revision":1,"time":"2026-01-02T03:04:05+01:00","fields":{"password":{"text":"x"}}}"#;
    fs::create_dir(bench.at("vault/made")).unwrap();
    let mut sealing = age();
    sealing.arg("-R").arg(bench.at("vault/.recipients")).arg("-o").arg(bench.at("vault/made/by-age.age")).stdin(Stdio::piped());
    let mut child = sealing.spawn().unwrap();
    child.stdin.take().unwrap().write_all(document.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(password(&bench.reader().read(&key("made/by-age")).unwrap()), "x");
}
