//! `list` and `get` for programs, and where a vault may be made.

use super::*;

#[test]
fn lists_for_people_and_for_programs_have_no_values() {
    let bench = Bench::with_vault();
    bench.on("set shop/db username=app password=hunter2");
    bench.on("set a b=hunter2");
    assert_snapshot!(anonymous(&bench.on("list -o wide").out).replace("TIME", "2026-01-02T03:04:05Z"), @r"
    NAME     REVISION  SET                   FIELDS
    a        1         2026-01-02T03:04:05Z  b
    shop/db  1         2026-01-02T03:04:05Z  password, username
    ");
    let json: Value = serde_json::from_str(&bench.on("list shop/ -o json").out).unwrap();
    assert_eq!(json["secrets"][0]["fields"][0], json!({ "name": "password", "kind": "text", "bytes": 7 }));
    let names: Value = serde_json::from_str(&bench.run("list --vault DIR/vault -o json").out).unwrap();
    assert_eq!(names, json!({ "secrets": [{ "name": "a" }, { "name": "shop/db" }] }));
    assert_eq!(bench.run("list --vault DIR/vault -o wide").code, 2);
    let get: Value = serde_json::from_str(&bench.on("get shop/db -o json").out).unwrap();
    assert_eq!((&get["revision"], &get["fields"][1]["name"]), (&json!(1), &json!("username")));
    assert!(!get.to_string().contains("hunter2") && !json.to_string().contains("hunter2"));
    assert_eq!(bench.on("get shop/db --field password -o json").code, 2);

    bench.write("vault/a.age", b"garbage");
    let done = bench.on("list -o wide");
    assert!(done.code == 1 && done.out.contains("cannot be opened") && done.out.contains("shop/db") && done.err.contains("error: a: "));
}

#[test]
fn a_vault_is_not_made_within_a_vault() {
    let bench = Bench::with_vault();
    assert_snapshot!(bench.failure("init --vault DIR/vault/inner/v --identity DIR/other.key"), @"1 error: DIR/vault/inner/v: is inside the vault DIR/vault (make the vault elsewhere)");
    assert!(!bench.0.path().join("vault/inner").exists() && !bench.0.path().join("other.key").exists());
}
