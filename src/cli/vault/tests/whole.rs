//! `rekey`, `export` and `import`.

use super::*;

#[test]
fn rekey_says_who_there_is_and_leaves_what_it_cannot_open_only_if_told() {
    let bench = Bench::with_vault();
    bench.on("set a f=1");
    bench.on("set b f=1");
    let (stranger, new) = (age::x25519::Identity::generate().to_public(), age::x25519::Identity::generate().to_public());
    let before = bench.files();
    let unknown = bench.on(&format!("rekey --remove {stranger} --add {new}"));
    assert_snapshot!(anonymous(&unknown.err), @"error: DIR/vault/.recipients: AGE1 is not on the list (remove one of these: AGE1");
    let tried = bench.on(&format!("rekey --add {new} --dry-run"));
    assert_eq!(
        (tried.code, tried.out.as_str()),
        (0, "recipients: 1 added, 0 removed\nwould be encrypted again: 2 secrets and 0 earlier revisions, for 2 recipients\n")
    );
    assert_eq!(bench.files(), before);

    bench.write("vault/a.age", b"garbage");
    let before = bench.files();
    let refused = bench.on("rekey");
    assert_eq!((refused.code, bench.files() == before), (1, true));
    let done = bench.on(&format!("rekey --add {new} --skip-unreadable"));
    assert_eq!(
        (done.code, done.out.as_str()),
        (1, "recipients: 1 added, 0 removed\nencrypted again: 1 secret and 0 earlier revisions, for 2 recipients\n")
    );
    assert_snapshot!(done.err, @"
    error: DIR/vault/a.age is not an age file
    note: 1 file skipped, encrypted as before (give the identities that open them, and run it again)
    ");
    assert_eq!(bench.files()[&bench.0.path().join("vault/a.age")], b"garbage");
}

#[test]
fn what_export_writes_to_a_folder_import_reads_from_it() {
    for format in ["json", "kubernetes", "dotenv"] {
        let bench = Bench::with_vault();
        bench.on("set shop/db username=app password=x");
        bench.on("set shop/web.v2 token=y");
        assert_eq!(bench.on(&format!("export --format {format} --to DIR/out")).code, 0, "{format}");
        bench.write("out/README.md", b"x");
        bench.write("out/other.yaml", b"kind: ConfigMap");
        bench.run("init --vault DIR/copy --identity DIR/age.key");
        let done = bench.run("import --vault DIR/copy DIR/out");
        assert_eq!(
            done.out, "shop/db: revision 1, 2 fields\nshop/web.v2: revision 1, 1 field\n2 secrets set, 0 skipped\n",
            "{format}: {}",
            done.err
        );
        assert!(done.err.contains("not read: 2 files"), "{}", done.err);
    }
}

#[test]
fn a_name_that_a_dotenv_file_would_lose_is_a_fault() {
    let bench = Bench::with_vault();
    bench.on("set shop/a.env.b f=x");
    bench.on("set shop/c.env f=x");
    let done = bench.on("export --format dotenv --to DIR/out");
    assert_snapshot!(done.err, @r"
    error: shop/a.env.b: a dotenv file with this name would be read as another secret (use json)
    shop/c.env: a dotenv file with this name would be read as another secret (use json)
    ");
    assert!(done.code == 1 && !bench.0.path().join("out").exists());
    assert_eq!(bench.on("export none/ --format json").code, 1);
}
