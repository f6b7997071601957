//! `history` and `diff`.

use super::*;

fn bench() -> Bench {
    let bench = Bench::with_vault();
    bench.on("set shop/db username=app password=hunter2");
    bench.on("patch shop/db password=hunter22 port=1");
    bench.on("patch shop/db --unset username");
    bench
}

#[test]
fn history_tells_which_fields_changed_and_never_a_value() {
    let bench = bench();
    let done = bench.on("history shop/db");
    assert_snapshot!(anonymous(&done.out).replace("TIME", "2026-01-02T03:04:05Z"), @r"
    REVISION     SET                   FIELDS
    3 (current)  2026-01-02T03:04:05Z  - username
    2            2026-01-02T03:04:05Z  ~ password, + port
    1            2026-01-02T03:04:05Z  + password, + username
    ");
    assert_eq!(bench.run("history --vault DIR/vault shop/db").out, "3\n2\n1\n", "without an identity");
    let json: Value = serde_json::from_str(&bench.on("history shop/db -o json").out).unwrap();
    assert_eq!(json["revisions"][1]["changed"], json!(["password"]));
    assert_eq!((&json["revisions"][0]["current"], &json["revisions"][2]["revision"]), (&json!(true), &json!(1)));
    assert!(!json.to_string().contains("hunter"));
    assert_snapshot!(bench.failure("history --vault DIR/vault shop/bd"), @"1 error: there is no secret shop/bd in the vault (`keyferry vault list` shows what there is); did you mean shop/db?");

    bench.on("set shop/db a=b --replace --keep 1");
    assert!(bench.on("history shop/db").out.contains("3            ") && !bench.on("history shop/db").out.contains("\n2 "));
    assert!(bench.on("history shop/db").out.contains("password, port (the revision before it is not kept)"));
}

#[test]
fn history_of_what_does_not_open_says_so() {
    let bench = bench();
    bench.write("vault/.history/shop/db/2.age", b"garbage");
    let done = bench.on("history shop/db");
    assert_eq!(done.code, 1);
    assert!(done.out.contains("2            -                     cannot be opened"), "{}", done.out);
    assert!(done.err.contains("shop/db: DIR/vault/.history/shop/db/2.age is not an age file"), "{}", done.err);
}

/// A file that was put back (a revert in git) is the current one, also if the count is higher.
#[test]
fn an_older_revision_that_was_put_back_is_the_current_one() {
    let bench = bench();
    let vault = bench.0.path().join("vault");
    std::fs::copy(vault.join(".history/shop/db/1.age"), vault.join("shop/db.age")).unwrap();
    assert_eq!(bench.run("history --vault DIR/vault shop/db").out, "2\n1\n");
    assert!(bench.on("history shop/db").out.contains("1 (current)"));
    assert_eq!(bench.on("patch shop/db a=b").out, "shop/db: revision 4: a added, password kept, username kept\n");
}

#[test]
fn diff_names_fields_and_never_values() {
    let bench = bench();
    assert_eq!(bench.on("diff shop/db").out, "- username\n");
    assert_eq!(bench.on("diff shop/db 1").out, "~ password\n+ port\n- username\n");
    assert_eq!(bench.on("diff shop/db 1 2").out, "~ password\n+ port\n");
    assert_eq!(bench.on("diff shop/db 2 1").out, "~ password\n- port\n");
    let same = bench.on("diff shop/db 2 2 --exit-code");
    assert_eq!((same.code, same.out.as_str()), (0, ""));
    let differs = bench.on("diff shop/db --exit-code");
    assert_eq!((differs.code, differs.out.as_str(), differs.err.as_str()), (1, "- username\n", "error: \n"));
    let json: Value = serde_json::from_str(&bench.on("diff shop/db 1 2 -o json").out).unwrap();
    assert_eq!(
        json,
        json!({ "added": ["port"], "changed": ["password"], "removed": [], "typeChanged": false, "name": "shop/db", "from": 1, "to": 2 })
    );
    assert_snapshot!(bench.failure("diff --vault DIR/vault --identity DIR/age.key shop/db 8"), @"1 error: shop/db: revision 8 is not kept (there are: 1, 2, 3)");
    bench.on("set x a=b");
    assert_snapshot!(bench.failure("diff --vault DIR/vault --identity DIR/age.key x"), @"1 error: x: revision 1 is the only one that is kept");
}
