//! `set`, `patch` and `rollback`.

use super::*;

/// Two fields, revision 1.
fn bench() -> Bench {
    let bench = Bench::with_vault();
    bench.write("p", b"hunter2");
    assert_eq!(bench.run("set --vault DIR/vault shop/db username=app password=@DIR/p").code, 0);
    bench
}

#[test]
fn nobody_loses_a_field_without_replace() {
    let bench = bench();
    let before = bench.files();
    let blind = bench.run("set --vault DIR/vault shop/db username=x password=@DIR/p");
    assert_eq!(blind.code, 1);
    assert_snapshot!(blind.err.lines().last().unwrap(), @"error: shop/db: is in the vault already, and without an identity Keyferry cannot see which fields it would lose (to change single fields: `keyferry vault patch`; to replace all of them: --replace)");
    let seen = bench.on("set shop/db password=@DIR/p port=1");
    assert_snapshot!(seen.err, @"error: shop/db: would lose username (to keep what is not named: `keyferry vault patch`; to replace everything: --replace)");
    assert_eq!((seen.code, bench.files() == before), (1, true));
    // An identity that does not open it does not help.
    bench.run("init --vault DIR/other --identity DIR/other.key");
    let wrong = bench.run("set --vault DIR/vault --identity DIR/other.key shop/db username=x password=@DIR/p");
    assert_eq!((wrong.code, bench.files() == before), (1, true), "{}", wrong.err);

    assert_eq!(
        bench.on("set shop/db username=app password=@DIR/p port=1").out,
        "shop/db: revision 2, 3 fields, encrypted for 1 recipient\n"
    );
    assert_eq!(bench.on("set shop/db a=1 --replace").out, "shop/db: revision 3, 1 field, encrypted for 1 recipient\n");
    assert_eq!(bench.run("set --vault DIR/vault shop/db b=1 --replace").code, 0);
    assert_eq!(bench.run("set --vault DIR/vault --identity DIR/none new a=1").code, 0, "a new name needs no identity");
}

#[test]
fn a_type_is_not_lost_without_replace() {
    let bench = Bench::with_vault();
    bench.write("s.yaml", b"apiVersion: v1\nkind: Secret\nmetadata: { name: tls, namespace: shop }\ntype: kubernetes.io/tls\nstringData: { tls.crt: a, tls.key: b }\n");
    assert_eq!(bench.run("import --vault DIR/vault DIR/s.yaml").code, 0);
    assert_snapshot!(bench.on("set shop/tls tls.crt=a tls.key=c").err.lines().last().unwrap(), @"error: shop/tls: would lose its type kubernetes.io/tls (to keep what is not named: `keyferry vault patch`; to replace everything: --replace)");
    assert_eq!(bench.on("patch shop/tls tls.key=c").out, "shop/tls: revision 2: tls.key changed, tls.crt kept\n");
    assert!(bench.on("get shop/tls").out.contains("type kubernetes.io/tls"));
}

#[test]
fn empty_values_are_meant_or_refused() {
    let bench = bench();
    bench.write("empty", b"");
    let before = bench.files();
    for line in ["set new a=", "set new a=@DIR/empty", "set new a=-", "patch shop/db password=-", "set new b=x a="] {
        let done = bench.on(line);
        assert_eq!(done.code, 2, "{line}");
        assert!(done.err.contains("the value is empty (if that is meant: --allow-empty)"), "{}", done.err);
    }
    assert_eq!(bench.files(), before);
    assert_eq!(bench.on("patch shop/db password= --allow-empty").out, "shop/db: revision 2: password changed, username kept\n");
    assert_eq!(bench.value("shop/db", "password"), "");
}

#[test]
fn what_echo_adds_is_warned_of_and_what_has_several_lines_is_not() {
    let bench = bench();
    for (value, warned) in [("a\n", true), ("a\r\n", true), ("\n", true), ("a", false), ("a\nb\n", false), ("a\n\n", false), ("\na", false)]
    {
        let done = bench.run_with("set --vault DIR/vault x a=- --replace", value.as_bytes());
        assert_eq!((done.code, done.err.contains("ends in a line break")), (0, warned), "{value:?}");
        assert_eq!(bench.value("x", "a"), value, "{value:?}");
    }
}

#[test]
fn patch_changes_what_is_named_and_keeps_the_rest() {
    let bench = bench();
    let done = bench.on("patch shop/db password=new port=5432");
    assert_eq!((done.code, done.out.as_str()), (0, "shop/db: revision 2: password changed, port added, username kept\n"));
    assert_eq!(bench.on("patch shop/db --unset port").out, "shop/db: revision 3: port removed, password kept, username kept\n");
    assert_eq!((bench.value("shop/db", "password"), bench.value("shop/db", "username")), ("new".to_owned(), "app".to_owned()));
    let before = bench.files();
    assert_eq!(bench.on("patch shop/db password=new").out, "shop/db: unchanged, revision 3\n");
    assert_eq!(bench.files(), before);

    for (line, code, message) in [
        (
            "patch shop/db --unset password --unset username",
            1,
            "shop/db: would have no field left (to remove the secret: `keyferry vault remove shop/db`)",
        ),
        ("patch shop/db --unset port", 1, "shop/db has no field \"port\" (it has: password, username)"),
        ("patch shop/db password=hunter2 --unset password", 2, "the field password is both set and unset (remove one)"),
        ("patch shop/db", 2, "nothing to change (give FIELD=VALUE, FIELD=@FILE, FIELD=- or --unset FIELD)"),
        ("patch shop/dc a=hunter2", 1, "did you mean shop/db?"),
        ("patch shop/db a=- b=-", 2, "only one field can be read from standard input"),
    ] {
        let done = bench.on(line);
        assert!((done.code, done.err.contains(message)) == (code, true), "{line}: {}", done.err);
        assert!(!done.err.contains("hunter2"));
    }
    assert_eq!(bench.files(), before);
}

/// Two people change different fields at the same moment: both changes are kept.
#[test]
fn patches_at_the_same_time_lose_nothing() {
    let bench = bench();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let bench = &bench;
            scope.spawn(move || {
                for n in 0..5 {
                    assert_eq!(bench.on(&format!("patch shop/db f{writer}-{n}=x")).code, 0);
                }
            });
        }
    });
    assert!(bench.on("get shop/db").out.starts_with("shop/db: revision 21,"));
    assert_eq!(bench.on("get shop/db").out.lines().count(), 2 + 2 + 20);
}

#[test]
fn rollback_makes_a_new_revision() {
    let bench = bench();
    bench.on("patch shop/db password=new");
    bench.on("patch shop/db --unset username");
    assert_eq!(bench.on("rollback shop/db --to 1 --dry-run").out, "shop/db: would be revision 4, as revision 1\n");
    assert_eq!(bench.on("rollback shop/db --to 1").out, "shop/db: revision 4, as revision 1\n");
    assert_eq!((bench.value("shop/db", "password"), bench.value("shop/db", "username")), ("hunter2".to_owned(), "app".to_owned()));
    assert_eq!(bench.on("rollback shop/db --to 4").out, "shop/db: unchanged, revision 4 is the current one\n");
    assert_snapshot!(bench.failure("rollback --vault DIR/vault --identity DIR/age.key shop/db --to 9"), @"1 error: shop/db: revision 9 is not kept (there are: 1, 2, 3, 4)");
    assert_eq!(bench.on("rollback shop/none --to 1").code, 1);
    assert_eq!(bench.on("rollback shop/db --to 0").code, 2);
}

#[test]
fn a_dry_run_changes_nothing_and_says_what_it_would() {
    let bench = bench();
    bench.on("patch shop/db password=new");
    bench.on("set other a=1");
    let before = bench.files();
    for (line, out) in [
        ("set new a=x", "new: would be revision 1, 1 field, encrypted for 1 recipient\n"),
        ("set shop/db a=x --replace", "shop/db: would be revision 3, 1 field, encrypted for 1 recipient\n"),
        ("patch shop/db password=newer", "shop/db: would be revision 3: password changed, username kept\n"),
        ("rename shop/db shop/x", "shop/db: would become shop/x, with 1 earlier revision\n"),
        ("copy shop/db shop/x", "shop/x: would be revision 1, 2 fields, as shop/db\n"),
        ("remove shop/db other", "would remove other and 0 earlier revisions\nwould remove shop/db and 1 earlier revision\n"),
        ("prune --keep 0", "would remove 1 earlier revision of 1 secret\n"),
    ] {
        let done = bench.on(&format!("{line} --dry-run"));
        assert_eq!((done.code, done.out.as_str()), (0, out), "{line}: {}", done.err);
        assert_eq!(bench.files(), before, "{line}");
    }
    assert_eq!(
        bench.run("init --vault DIR/v2 --identity DIR/k2 --dry-run").out,
        "would make the identity DIR/k2\nwould make the vault DIR/v2\n"
    );
    assert!(!bench.0.path().join("v2").exists() && !bench.0.path().join("k2").exists());
}

#[test]
fn quiet_leaves_errors_alone() {
    let bench = bench();
    let done = bench.on("patch shop/db password=x -q");
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (0, "", ""));
    let done = bench.on("patch shop/none password=x -q");
    assert!(done.code == 1 && done.err.starts_with("error: shop/none"));
}
