//! Secrets that are denied, absent, broken, too large or out of reach.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{Asked, GOOD};
use crate::support::{House, pod, shown, web};

#[tokio::test]
async fn what_policy_denies() {
    let house = House::new("");
    house.configure(
        "pods: { namespace: shop }\n    read: [\"files/shop/**\"]\n  - pods: { namespace: \"*\" }\n    deny: [\"files/**/root/*\"]\n  \
         - pods: { namespace: shop, serviceAccount: admin }\n    read: [\"files/admin/*\"]",
        "",
    );
    let asked = Asked::new(house).await;
    let table = asked
        .refusals([
            asked.class("by no rule", "- {secret: bank/db}"),
            asked.class("by a rule", "- {secret: shop/root/db}"),
            asked.class("another ServiceAccount's", "- {secret: admin/db}"),
            asked.class("whether it exists or not", "- {secret: bank/there-is-no-such}\n- {secret: shop/db, path: ok}"),
            asked.class(
                "several, one of them optional",
                "- {secret: shop/root/a}\n- {secret: bank/db, optional: true}\n- {secret: bank/db, path: x, field: y}",
            ),
            ("a Pod of another namespace", asked.house.request(&pod("bank", "web-0", "web"), GOOD)),
        ])
        .await;
    insta::assert_snapshot!(table, @r#"
    # by no rule
    PermissionDenied PolicyDenied: object 1 (db): files/bank/db: no rule of the policy allows ServiceAccount shop/web to read it (the cluster's admin can add a rule with read: ["files/bank/db"])
    # by a rule
    PermissionDenied PolicyDenied: object 1 (db): files/shop/root/db: policy rule 2 denies it to ServiceAccount shop/web by its pattern "files/**/root/*" (a deny beats every allow; only the cluster's admin can change the rule)
    # another ServiceAccount's
    PermissionDenied PolicyDenied: object 1 (db): files/admin/db: no rule of the policy allows ServiceAccount shop/web to read it (the cluster's admin can add a rule with read: ["files/admin/db"])
    # whether it exists or not
    PermissionDenied PolicyDenied: object 1 (there-is-no-such): files/bank/there-is-no-such: no rule of the policy allows ServiceAccount shop/web to read it (the cluster's admin can add a rule with read: ["files/bank/there-is-no-such"])
    # several, one of them optional
    PermissionDenied PolicyDenied: object 1 (a): files/shop/root/a: policy rule 2 denies it to ServiceAccount shop/web by its pattern "files/**/root/*" (a deny beats every allow; only the cluster's admin can change the rule); object 2 (db): files/bank/db: no rule of the policy allows ServiceAccount shop/web to read it (the cluster's admin can add a rule with read: ["files/bank/db"]); object 3 (x): files/bank/db: no rule of the policy allows ServiceAccount shop/web to read it (the cluster's admin can add a rule with read: ["files/bank/db"])
    # a Pod of another namespace
    PermissionDenied PolicyDenied: object 1 (username): files/shop/db: no rule of the policy allows ServiceAccount bank/web to read it (the cluster's admin can add a rule with read: ["files/shop/db"])
    "#);
}

#[tokio::test]
async fn what_is_not_there() {
    let house = House::new("");
    for n in 0..8 {
        house.set("shop/changed", &[("value", format!("{n}").as_bytes())]);
    }
    let asked = Asked::new(house).await;
    let table = asked
        .refusals([
            asked.class("no secret", "- {secret: shop/none}"),
            asked.class("no folder", "- {secret: shop/none/at/all}"),
            asked.class("a secret taken for a folder", "- {secret: shop/db/password}"),
            asked.class("no field", "- {secret: shop/db, field: pasword}"),
            asked.class("no field of a list", "- {secret: shop/db, fields: [username, nothing], path: x}"),
            asked.class("an expression that finds nothing", "- {secret: shop/db, field: 'a.b', path: x}"),
            asked.class("no version", "- {secret: shop/db, version: '7'}"),
            asked.class("a version that is not kept any more", "- {secret: shop/changed, version: '1'}"),
            asked.class("several", "- {secret: shop/none}\n- {secret: shop/db, field: x}\n- {secret: shop/nor, path: y}"),
            asked.class("required and optional", "- {secret: shop/none, optional: true}\n- {secret: shop/none, path: y}"),
        ])
        .await;
    insta::assert_snapshot!(table, @r#"
    # no secret
    NotFound SecretNotFound: object 1 (none): files/shop/none: there is no such secret in the vault: shop/none.age is absent (make it with `keyferry vault set shop/none FIELD=@FILE`)
    # no folder
    NotFound SecretNotFound: object 1 (all): files/shop/none/at/all: there is no such secret in the vault: shop/none/at/all.age is absent (make it with `keyferry vault set shop/none/at/all FIELD=@FILE`)
    # a secret taken for a folder
    NotFound SecretNotFound: object 1 (password): files/shop/db/password: there is no such secret in the vault: shop/db/password.age is absent (make it with `keyferry vault set shop/db/password FIELD=@FILE`)
    # no field
    NotFound SecretNotFound: object 1 (pasword): files/shop/db: has no field "pasword" (did you mean "password"? It has "password", "username")
    # no field of a list
    NotFound SecretNotFound: object 1 (x/): files/shop/db: has no field "nothing" (it has "password", "username")
    # an expression that finds nothing
    NotFound SecretNotFound: object 1 (x): files/shop/db: has no field "a.b" (it has "password", "username")
    # no version
    NotFound SecretNotFound: object 1 (db): files/shop/db: there is no revision 7: the current one is 1, and no earlier one is kept (pin another, or leave `version` out)
    # a version that is not kept any more
    NotFound SecretNotFound: object 1 (changed): files/shop/changed: there is no revision 1: the current one is 8, and kept are 3, 4, 5, 6, 7 (pin another, or leave `version` out)
    # several
    NotFound SecretNotFound: object 1 (none): files/shop/none: there is no such secret in the vault: shop/none.age is absent (make it with `keyferry vault set shop/none FIELD=@FILE`); object 3 (y): files/shop/nor: there is no such secret in the vault: shop/nor.age is absent (make it with `keyferry vault set shop/nor FIELD=@FILE`)
    # required and optional
    NotFound SecretNotFound: object 2 (y): files/shop/none: there is no such secret in the vault: shop/none.age is absent (make it with `keyferry vault set shop/none FIELD=@FILE`)
    "#);
}

#[tokio::test]
async fn texts_that_are_not_what_the_class_says() {
    let house = House::new("");
    house.set("shop/bad", &[("b64", b"!!!!"), ("cut", b"QUJ"), ("odd", b"abc"), ("url", b"_-_-"), ("bin", &[0xff, 0])]);
    house.set("shop/names", &[("a/../b", b"x"), ("..data", b"y")]);
    let asked = Asked::new(house).await;
    let table = asked
        .refusals([
            asked.class("not base64", "- {secret: shop/bad, field: b64, encoding: base64}"),
            asked
                .class("cut base64", "- {secret: shop/bad, field: cut, encoding: base64}\n- {secret: shop/bad, field: odd, encoding: hex}"),
            asked.class("the other base64", "- {secret: shop/bad, field: url, encoding: base64}"),
            asked.class("not hex", "- {secret: shop/bad, field: url, encoding: hex}"),
            asked.class("binary, to be decoded", "- {secret: shop/bad, field: bin, encoding: base64}"),
            asked.class("binary, in a whole secret", "- {secret: shop/bad}"),
            asked.class("a whole secret, to be decoded", "- {secret: shop/bad, encoding: base64}"),
            asked.class("fields that are not file names", "- {secret: shop/names, fields: '*'}"),
        ])
        .await;
    insta::assert_snapshot!(table, @r#"
    # not base64
    DataLoss SecretCorrupt: object 1 (b64): files/shop/bad: is not base64: a character outside its alphabet at byte 0 of 4 (store it as base64, or leave `encoding` out to deliver the text as it is)
    # cut base64
    DataLoss SecretCorrupt: object 1 (cut): files/shop/bad: is not base64: bits are left over at byte 2 of 3: it seems cut (store it as base64, or leave `encoding` out to deliver the text as it is); object 2 (odd): files/shop/bad: is not hex: it ends in the middle of a group, after 3 bytes (store it as hex, or leave `encoding` out to deliver the text as it is)
    # the other base64
    DataLoss SecretCorrupt: object 1 (url): files/shop/bad: is not base64: a character outside its alphabet at byte 0 of 4 (it may be base64url: set `encoding: base64url`)
    # not hex
    DataLoss SecretCorrupt: object 1 (url): files/shop/bad: is not hex: a character outside its alphabet at byte 0 of 4 (store it as hex, or leave `encoding` out to deliver the text as it is)
    # binary, to be decoded
    DataLoss SecretCorrupt: object 1 (bin): files/shop/bad: is not base64: a character outside its alphabet at byte 0 of 2 (store it as base64, or leave `encoding` out to deliver the text as it is)
    # binary, in a whole secret
    InvalidArgument InvalidRequest: object 1 (bad): files/shop/bad: its field "bin" is binary, which JSON cannot hold (deliver it with `field`, or all with `fields: "*"`)
    # a whole secret, to be decoded
    InvalidArgument InvalidRequest: object 1 (bad): files/shop/bad: `encoding` decodes one text, and the secret has 5 fields (add `field`, or `fields` for one file per field)
    # fields that are not file names
    InvalidArgument InvalidRequest: object 1 (names/): files/shop/names: its field "a/../b" cannot name a file: the path has the element ".." (name the fields, or write a separate object for this one)
    "#);
}

#[tokio::test]
async fn secrets_and_answers_over_a_limit() {
    let house = House::new("limits: { secretBytes: 4KiB, mountBytes: 12KiB, objects: 3 }");
    house.set("shop/big", &[("value", &[b'x'; 4097])]);
    house.set("shop/huge", &[("value", &vec![b'x'; 1024 * 1024])]);
    house.set("shop/fits", &[("value", &[b'x'; 4096])]);
    house.set("shop/quotes", &[("a", &[b'"'; 3000]), ("b", b"x")]);
    // The format pads a file by a random length.
    let size = fs::metadata(house.path("vault/shop/huge.age")).unwrap().len().to_string();
    let asked = Asked::new(house).await;
    let table = asked
        .refusals([
            asked.class("a secret, a byte too large", "- {secret: shop/big}"),
            asked.class("a secret, far too large", "- {secret: shop/huge}"),
            asked.class("a file that JSON makes too large", "- {secret: shop/quotes}"),
            asked.class("an answer", "- {secret: shop/fits, path: a}\n- {secret: shop/fits, path: b}\n- {secret: shop/fits, path: c}"),
            asked.class("objects", "- {secret: a}\n- {secret: b}\n- {secret: c}\n- {secret: d}"),
        ])
        .await;
    insta::assert_snapshot!(table.replace(&size, "<size>"), @"
    # a secret, a byte too large
    FailedPrecondition TooLarge: object 1 (big): files/shop/big: shop/big.age holds 4097 bytes; at most 4096 are served (make it smaller, or ask for a higher limits.secretBytes)
    # a secret, far too large
    FailedPrecondition TooLarge: object 1 (huge): files/shop/huge: shop/huge.age is <size> bytes long; at most 90112 are read, as secrets of up to 4096 bytes need no more (make it smaller, or ask for a higher limits.secretBytes)
    # a file that JSON makes too large
    FailedPrecondition TooLarge: object 1 (quotes): files/shop/quotes: is 6016 bytes as a file: at most 4096 are allowed on this node (deliver single fields, or ask for a higher limits.secretBytes)
    # an answer
    FailedPrecondition TooLarge: object 3 (c): files/shop/fits: with this object the volume has more than 12288 bytes (split the class over several volumes, or ask for a higher limits.mountBytes)
    # objects
    FailedPrecondition TooLarge: objects: has 4 objects: at most 3 are allowed on this node (split the class, or ask for a higher limits.objects)
    ");
}

/// A change of a vault's file.
type Damage = fn(&mut Vec<u8>);

#[tokio::test]
async fn vault_files_that_do_not_open() {
    let house = House::new("");
    let other = house.path("other").display().to_string();
    house.vault(&["init", "--vault", &other, "--identity", house.path("other.key").to_str().unwrap()]);
    house.vault(&["set", "shop/wrong-key", "password=x", "--vault", &other]);
    fs::copy(house.path("other/shop/wrong-key.age"), house.path("vault/shop/wrong-key.age")).unwrap();
    fs::copy(house.path("vault/shop/db.age"), house.path("vault/shop/moved.age")).unwrap();
    fs::create_dir(house.path("vault/shop/folder.age")).unwrap();
    let damages: [(&str, Damage); 8] = [
        ("empty", Vec::clear),
        ("cut-header", |file| file.truncate(60)),
        ("cut-payload", |file| file.truncate(file.len() - 1)),
        // Another letter of base64, so that the header can still be read.
        ("flip-header", |file| file[100] = if file[100] == b'A' { b'B' } else { b'A' }),
        ("flip-payload", |file| *file.last_mut().unwrap() ^= 1),
        ("longer", |file| file.push(0)),
        ("text", |file| *file = b"password: x\n".to_vec()),
        ("armoured", |file| *file = b"-----BEGIN AGE ENCRYPTED FILE-----\n".to_vec()),
    ];
    for (name, damage) in damages {
        house.set(&format!("shop/{name}"), &[("password", b"x")]);
        let path = house.path(&format!("vault/shop/{name}.age"));
        let mut file = fs::read(&path).unwrap();
        damage(&mut file);
        fs::write(path, file).unwrap();
    }
    let asked = Asked::new(house).await;
    let mut table = Vec::new();
    for name in damages.map(|(name, _)| name).into_iter().chain(["wrong-key", "moved", "folder"]) {
        table.push(asked.refusal(asked.house.request(&web(), &format!("- secret: shop/{name}"))).await);
    }
    let recipient = asked.house.recipient();
    insta::assert_snapshot!(table.join("\n").replace(&recipient, "<recipient>"), @r#"
    DataLoss SecretCorrupt: object 1 (empty): files/shop/empty: shop/empty.age is empty (restore it, or set the secret again)
    DataLoss SecretCorrupt: object 1 (cut-header): files/shop/cut-header: shop/cut-header.age is truncated (restore it, or set the secret again)
    DataLoss SecretCorrupt: object 1 (cut-payload): files/shop/cut-payload: shop/cut-payload.age was altered after it was encrypted, or is damaged (restore it, or set the secret again)
    DataLoss SecretCorrupt: object 1 (flip-header): files/shop/flip-header: shop/flip-header.age cannot be opened with any identity of the backend (<recipient>): it is encrypted for other recipients, or its header was altered (list this recipient in the vault and set the secret again, or give the daemon the right identity file)
    DataLoss SecretCorrupt: object 1 (flip-payload): files/shop/flip-payload: shop/flip-payload.age was altered after it was encrypted, or is damaged (restore it, or set the secret again)
    DataLoss SecretCorrupt: object 1 (longer): files/shop/longer: shop/longer.age was altered after it was encrypted, or is damaged (restore it, or set the secret again)
    DataLoss SecretCorrupt: object 1 (text): files/shop/text: shop/text.age is not an age file (restore it, or set the secret again)
    DataLoss SecretCorrupt: object 1 (armoured): files/shop/armoured: shop/armoured.age is age's text form; the vault's files are binary (decode it with `age -d` and set the secret again)
    DataLoss SecretCorrupt: object 1 (wrong-key): files/shop/wrong-key: shop/wrong-key.age cannot be opened with any identity of the backend (<recipient>): it is encrypted for other recipients, or its header was altered (list this recipient in the vault and set the secret again, or give the daemon the right identity file)
    DataLoss SecretCorrupt: object 1 (moved): files/shop/moved: shop/moved.age was encrypted as "shop/db", and is not served under another name (it was moved or copied: set the secret again)
    DataLoss SecretCorrupt: object 1 (folder): files/shop/folder: shop/folder.age is not a regular file (remove it, and set the secret again)
    "#);
    // The same daemon serves the file after its repair.
    asked.house.set("shop/empty", &[("password", b"repaired")]);
    let answer = asked.provider.mount(asked.house.request(&web(), "- secret: shop/empty")).await.unwrap();
    assert_eq!(shown(&answer), ["empty 0644 repaired"]);
}

#[tokio::test]
async fn a_vault_that_vanishes_and_comes_back() {
    let asked = Asked::new(House::new("")).await;
    let (vault, away) = (asked.house.path("vault"), asked.house.path("away"));
    let refused = async || asked.words(&asked.provider.mount(asked.house.request(&web(), GOOD)).await.unwrap_err());
    asked.goes_on().await;
    fs::rename(&vault, &away).unwrap();
    insta::assert_snapshot!(refused().await, @"FailedPrecondition BackendUnavailable: object 1 (username): files/shop/db: the vault's folder is not there (is its volume mounted, and synced?)");
    // An empty mount point in its place must not look like a vault whose secrets were removed.
    fs::create_dir(&vault).unwrap();
    insta::assert_snapshot!(refused().await, @"FailedPrecondition BackendUnavailable: object 1 (username): files/shop/db: the vault's folder is not a vault: it has no list of recipients, .recipients (is its volume mounted, and synced? `keyferry vault init` makes a vault)");
    fs::remove_dir(&vault).unwrap();
    fs::rename(&away, &vault).unwrap();
    asked.goes_on().await;
}

#[tokio::test]
async fn files_that_the_daemon_may_not_read() {
    let house = House::new("");
    for name in ["locked", "under/locked"] {
        house.set(&format!("shop/{name}"), &[("password", b"x")]);
    }
    let provider = house.serve_as(1234);
    let close = |path: &str, mode: u32| fs::set_permissions(house.path(path), fs::Permissions::from_mode(mode)).unwrap();
    close("vault/shop/locked.age", 0o000);
    close("vault/shop/under", 0o000);
    let client = provider.client().await;
    let asked = Asked { house, provider, client };
    let table =
        asked.refusals([asked.class("a file", "- secret: shop/locked"), asked.class("a folder", "- secret: shop/under/locked")]).await;
    let uid = if rustix::process::geteuid().is_root() { 1234 } else { rustix::process::geteuid().as_raw() };
    insta::assert_snapshot!(table.replace(&format!("uid {uid} "), "uid <its> "), @"
    # a file
    FailedPrecondition BackendUnavailable: object 1 (locked): files/shop/locked: shop/locked.age cannot be read: Permission denied (os error 13) (let uid <its> enter the vault's folders and read its files)
    # a folder
    FailedPrecondition BackendUnavailable: object 1 (locked): files/shop/under/locked: shop/under/locked.age cannot be read: Permission denied (os error 13) (let uid <its> enter the vault's folders and read its files)
    ");
    fs::set_permissions(asked.house.path("vault/shop/under"), fs::Permissions::from_mode(0o700)).unwrap();
}
