//! `rename`, `copy`, `remove`, `recipients` and `prune`.

use super::*;

fn bench() -> Bench {
    let bench = Bench::with_vault();
    for n in 1..=3 {
        bench.on(&format!("set shop/db password=v{n}"));
    }
    bench
}

fn history(bench: &Bench, name: &str) -> String {
    bench.run(&format!("history --vault DIR/vault {name}")).out.replace('\n', " ")
}

#[test]
fn rename_takes_the_history_along_and_no_version_means_two_things() {
    let bench = bench();
    let done = bench.on("rename shop/db shop/database");
    assert_eq!((done.code, done.out.as_str()), (0, "shop/db: is now shop/database, revision 3, with 2 earlier revisions\n"));
    assert_snapshot!(done.err, @"note: Pods' classes still name shop/db (change them to shop/database)");
    assert_eq!(bench.run("list --vault DIR/vault").out, "shop/database\n");
    assert_eq!(history(&bench, "shop/database"), "3 2 1 ");
    assert_eq!(bench.on("get shop/database --version 1 --field password").out, "v1");
    // The old name goes on counting.
    assert_eq!(bench.on("set shop/db password=new").out, "shop/db: revision 4, 1 field, encrypted for 1 recipient\n");
    // A name that was in use before goes on counting too.
    assert_eq!(bench.on("remove shop/db").code, 0);
    assert_eq!(bench.on("rename shop/database shop/db").out, "shop/database: is now shop/db, revision 7, with 2 earlier revisions\n");
    assert_eq!(history(&bench, "shop/db"), "7 6 5 ");
    assert_eq!(
        (bench.value("shop/db", "password"), bench.on("get shop/db --version 5 --field password").out),
        ("v3".to_owned(), "v1".to_owned())
    );
}

#[test]
fn rename_refuses_what_it_cannot_do_whole() {
    let bench = bench();
    bench.on("set other a=b");
    bench.write("vault/.history/shop/db/2.age", b"garbage");
    let before = bench.files();
    assert_snapshot!(bench.failure("rename --vault DIR/vault --identity DIR/age.key shop/db other"), @"1 error: other: is in the vault already (remove it first, or copy over it: `keyferry vault copy --replace shop/db other`)");
    assert_snapshot!(bench.failure("rename --vault DIR/vault --identity DIR/age.key shop/db shop/x"), @"
    1 error: shop/db: DIR/vault/.history/shop/db/2.age is not an age file (restore it, or set the secret again)
    note: nothing was changed (give each identity that is needed, or run `keyferry vault prune --unreadable` first)
    ");
    for line in ["rename shop/db shop/db", "rename none x", "rename shop/db a.age", "rename shop/db"] {
        assert_ne!(bench.on(line).code, 0, "{line}");
    }
    assert_eq!(bench.files(), before);
    assert_eq!(bench.on("prune --unreadable shop/").out, "removed 1 earlier revision of 1 secret\n");
    assert_eq!(bench.on("rename shop/db shop/x").code, 0);
    assert_eq!(history(&bench, "shop/x"), "3 1 ");
}

#[test]
fn copy_is_a_revision_of_its_own() {
    let bench = bench();
    assert_eq!(bench.on("copy shop/db staging/db").out, "staging/db: revision 1, 1 field, as shop/db\n");
    assert_eq!(bench.value("staging/db", "password"), "v3");
    assert_snapshot!(bench.failure("copy --vault DIR/vault --identity DIR/age.key shop/db staging/db"), @"1 error: staging/db: is in the vault already (to replace all its fields: --replace)");
    assert_eq!(bench.on("copy shop/db staging/db --replace").out, "staging/db: revision 2, 1 field, as shop/db\n");
    assert_eq!(bench.on("copy shop/db shop/db --replace").code, 2);
    assert_eq!(bench.on("copy none x").code, 1);
}

#[test]
fn remove_takes_all_names_or_none() {
    let bench = bench();
    bench.on("set other a=b");
    assert_snapshot!(bench.failure("remove --vault DIR/vault other shop/bd"), @"1 error: there is no secret shop/bd in the vault (`keyferry vault list` shows what there is); did you mean shop/db?");
    assert_eq!(bench.run("list --vault DIR/vault").out, "other\nshop/db\n");
    assert_eq!(
        bench.run("remove --vault DIR/vault shop/db other other").out,
        "removed other and 0 earlier revisions\nremoved shop/db and 2 earlier revisions\n"
    );
    assert_eq!(bench.run("list --vault DIR/vault").out, "");
}

#[test]
fn recipients_are_listed_with_their_comments_and_changed_without_an_identity() {
    let bench = bench();
    let (theirs, stranger) = (age::x25519::Identity::generate().to_public(), age::x25519::Identity::generate().to_public());
    let list = bench.0.path().join("vault/.recipients");
    let text = std::fs::read_to_string(&list).unwrap();
    std::fs::write(&list, format!("{text}\n# the safe\n{theirs}\n")).unwrap();
    assert_eq!(anonymous(&bench.run("recipients --vault DIR/vault").out), "AGE1\nAGE1  # the safe\n");
    let json: Value = serde_json::from_str(&bench.run("recipients --vault DIR/vault -o json").out).unwrap();
    assert_eq!(json["recipients"][1], json!({ "recipient": theirs.to_string(), "comment": "the safe" }));

    let before = bench.files();
    let unknown = bench.failure(&format!("recipients --vault DIR/vault --remove {stranger}"));
    assert_snapshot!(anonymous(&unknown), @"1 error: DIR/vault/.recipients: AGE1 is not on the list (remove one of these: AGE1 AGE1");
    let ours = text.lines().last().unwrap();
    assert_snapshot!(bench.failure(&format!("recipients --vault DIR/vault --remove {ours} --remove {theirs}")), @"1 error: DIR/vault/.recipients: the last recipient cannot be removed, because nobody could open the secrets (add another one, with --add)");
    assert_eq!(bench.run(&format!("recipients --vault DIR/vault --remove {theirs} --dry-run")).code, 0);
    assert_eq!(bench.files(), before);

    let done = bench.run(&format!("recipients --vault DIR/vault --remove {theirs}"));
    assert_eq!((done.code, anonymous(&done.out).as_str()), (0, "AGE1\n"));
    assert_snapshot!(done.err, @"note: 3 files may still be encrypted for the removed recipients (encrypt them again with `keyferry vault rekey`, and change the values: the removed recipients can still open old copies)");
    let added = bench.run(&format!("recipients --vault DIR/vault --add {stranger}"));
    assert_eq!(anonymous(&added.out), "AGE1\nAGE1\n");
    assert_eq!(bench.run("recipients --vault DIR/vault --add AGE-SECRET-KEY-1hunter2").code, 2);
}

#[test]
fn prune_keeps_the_newest_and_the_current() {
    let bench = bench();
    bench.on("set other a=1");
    bench.on("set other a=2");
    assert_snapshot!(bench.failure("prune --vault DIR/vault shop/dc"), @"1 error: shop/dc: no secret has this name (`keyferry vault list` shows what there is)");
    assert_eq!(bench.run("prune --vault DIR/vault").out, "removed 0 earlier revisions of 0 secrets\n");
    assert_eq!(bench.run("prune --vault DIR/vault --keep 1").out, "removed 1 earlier revision of 1 secret\n");
    assert_eq!((history(&bench, "shop/db"), history(&bench, "other")), ("3 2 ".to_owned(), "2 1 ".to_owned()));
    assert_eq!(bench.run("prune --vault DIR/vault --keep 0 shop/").out, "removed 1 earlier revision of 1 secret\n");
    assert_eq!((history(&bench, "shop/db"), history(&bench, "other")), ("3 ".to_owned(), "2 1 ".to_owned()));
    assert_eq!(bench.on("set shop/db password=v4").out, "shop/db: revision 4, 1 field, encrypted for 1 recipient\n");
    assert_eq!(bench.run("prune --vault DIR/vault --unreadable").code, 2);
    assert_eq!(bench.on("prune --unreadable").out, "removed 0 earlier revisions of 0 secrets\n");
}

#[test]
fn prune_asks_at_a_terminal() {
    let bench = bench();
    let command = |bench: &Bench| {
        let vault = bench.0.path().join("vault").display().to_string();
        crate::cli::parsed::<Program>(["vault", "prune", "--vault", &vault, "--keep", "0"]).unwrap().command
    };
    for (answer, code) in [("\n", Err(1)), ("", Err(1)), ("no\n", Err(1)), ("y\n", Ok(()))] {
        let (mut stream, mut out, mut err) = (answer.as_bytes(), Vec::new(), Vec::new());
        let mut input = Input { stream: &mut stream, terminal: true, shows_progress: false };
        let done = run(command(&bench), &mut input, &mut out, &mut err).map_err(|error| error.exit_code());
        assert_eq!(done, code, "{answer:?}");
        assert_eq!(String::from_utf8(err).unwrap(), "Remove 2 earlier revisions of 1 secret? [y/N] ");
    }
    assert_eq!(history(&bench, "shop/db"), "3 ");
}
