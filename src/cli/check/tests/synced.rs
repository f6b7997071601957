//! `secretObjects`: what the driver or the API server would refuse.

use super::*;

/// A class with this text under `secretObjects`, from line 12 on.
fn syncing(secrets: &str) -> String {
    let secrets: String = secrets.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "{}  secretObjects:\n{secrets}",
        class("shop", "- { secret: a, field: user, path: user }\n- { secret: a, field: key, path: key }")
    )
}

/// The findings for a class that syncs these Secrets.
fn refused(secrets: &str) -> String {
    let bench = Bench::with(&[("a.yaml", &syncing(secrets))]);
    bench.run("DIR/a.yaml").lines().filter_map(|line| line.strip_prefix("DIR/a.yaml:").map(|line| format!("{line}\n"))).collect()
}

fn of_type(kind: &str, keys: &[&str]) -> String {
    let data: String = keys.iter().map(|key| format!("\n  - {{ objectName: user, key: {key} }}")).collect();
    refused(&format!("- secretName: x\n  type: {kind}\n  data:{data}"))
}

#[test]
fn what_is_no_list_of_secrets_is_told_key_by_key() {
    let malformed = [
        "{ secretName: x, type: Opaque }",
        "- x\n-\n- [a]",
        "- {}",
        "- secretName: x\n  typ: Opaque\n  data:\n  - { objctName: user, key: k }",
        "- secretName: x\n  type: Opaque",
        "- secretName: x\n  type: Opaque\n  data: []",
        "- secretName: x\n  type: Opaque\n  data: { user: k }",
        "- secretName: x\n  type: Opaque\n  data:\n  - user\n  - { objectName: user }\n  - { key: k }\n  - { objectName: '', key: ' ' }",
        "- secretName: 1\n  type: true\n  data:\n  - { objectName: user, key: 3 }",
        "- secretName: x\n  type: Opaque\n  labels: [a]\n  annotations: { a: 1, /b: c }\n  data:\n  - { objectName: user, key: k }",
        "- secretName: x\n  type: Opaque\n  labels: { app: true, a b: c, ok.example/x: 'no!' }\n  data:\n  - { objectName: user, key: k }",
    ];
    assert_snapshot!(malformed.map(refused).join("--\n"), @r#"
    12:5: error: class shop: secretObjects: is a mapping, but must be a list (start each Secret with `- `)
    --
    12:7: error: class shop: secretObjects 1: is a text, but must be a mapping (write a line `key: value` for each key)
    13:6: error: class shop: secretObjects 2: is nothing, but must be a mapping (write a line `key: value` for each key)
    14:7: error: class shop: secretObjects 3: is a list, but must be a mapping (write a line `key: value` for each key)
    --
    12:7: error: class shop: secretObjects 1: secretName: is missing (the name of the Secret that the driver makes)
    12:7: error: class shop: secretObjects 1: type: is missing (such as Opaque or kubernetes.io/tls: the driver makes no Secret without a type)
    12:7: error: class shop: secretObjects 1: data: is missing (say which file becomes which key, such as - { objectName: db/password, key: password })
    --
    12:7: error: class shop: secretObjects 1: type: is missing (such as Opaque or kubernetes.io/tls: the driver makes no Secret without a type)
    13:7: error: class shop: secretObjects 1: typ: is not a known key (did you mean `type`?)
    15:9: error: class shop: secretObjects 1: data 1: objectName: is missing (the path of a file that the class delivers)
    15:11: error: class shop: secretObjects 1: data 1: objctName: is not a known key (did you mean `objectName`?)
    --
    12:7: error: class shop: secretObjects 1: data: is missing (say which file becomes which key, such as - { objectName: db/password, key: password })
    --
    14:13: error: class shop: secretObjects 1: data: is missing (say which file becomes which key, such as - { objectName: db/password, key: password })
    --
    14:13: error: class shop: secretObjects 1: data: is a mapping, but must be a list (say which file becomes which key, such as - { objectName: db/password, key: password })
    --
    15:9: error: class shop: secretObjects 1: data 1: is a text, but must be a mapping (write a line `key: value` for each key)
    16:9: error: class shop: secretObjects 1: data 2: key: is missing (the key in the Secret)
    17:9: error: class shop: secretObjects 1: data 3: objectName: is missing (the path of a file that the class delivers)
    18:23: error: class shop: secretObjects 1: data 4: objectName: is empty (the path of a file that the class delivers)
    18:32: error: class shop: secretObjects 1: data 4: key: is empty (the key in the Secret)
    --
    12:19: error: class shop: secretObjects 1: secretName: is a number to Kubernetes, but must be a text (put it in quotes)
    13:13: error: class shop: secretObjects 1: type: is a boolean to Kubernetes, but must be a text (put it in quotes)
    15:34: error: class shop: secretObjects 1: data 1: key: is a number to Kubernetes, but must be a text (put it in quotes)
    --
    14:15: error: class shop: secretObjects 1: labels: is a list, but must be a mapping (write a line `key: value` for each)
    15:25: error: class shop: secretObjects 1: annotations: a: is a number to Kubernetes, but must be a text (put it in quotes)
    15:28: error: class shop: secretObjects 1: annotations: "/b" is not a valid key: up to 63 of letters, digits, `-`, `_` and `.`, perhaps with a domain and a `/` before it (choose another)
    --
    14:22: error: class shop: secretObjects 1: labels: app: is a boolean to Kubernetes, but must be a text (put it in quotes)
    14:28: error: class shop: secretObjects 1: labels: "a b" is not a valid key: up to 63 of letters, digits, `-`, `_` and `.`, perhaps with a domain and a `/` before it (choose another)
    14:50: error: class shop: secretObjects 1: labels: ok.example/x: "no!" is not a value of a label: up to 63 of letters, digits, `-`, `_` and `.`, a letter or digit at both ends (choose another)
    "#);
}

#[test]
fn names_and_keys_are_those_of_kubernetes() {
    let data = "\n  data:\n  - { objectName: user, key: ";
    let names = ["Shop", "shop_db", "-a", "a..b", "a/b", "ok.1", " padded "]
        .map(|name| refused(&format!("- secretName: \"{name}\"\n  type: Opaque{data}k }}")));
    assert_snapshot!(names.join("--\n"), @r#"
    12:19: error: class shop: secretObjects 1: secretName: "Shop" is not a name of a Secret: 1 to 253 of a-z, 0-9, `-` and `.`, a letter or digit beside each `.` and at both ends (did you mean "shop"?)
    --
    12:19: error: class shop: secretObjects 1: secretName: "shop_db" is not a name of a Secret: 1 to 253 of a-z, 0-9, `-` and `.`, a letter or digit beside each `.` and at both ends (did you mean "shop-db"?)
    --
    12:19: error: class shop: secretObjects 1: secretName: "-a" is not a name of a Secret: 1 to 253 of a-z, 0-9, `-` and `.`, a letter or digit beside each `.` and at both ends (choose another)
    --
    12:19: error: class shop: secretObjects 1: secretName: "a..b" is not a name of a Secret: 1 to 253 of a-z, 0-9, `-` and `.`, a letter or digit beside each `.` and at both ends (choose another)
    --
    12:19: error: class shop: secretObjects 1: secretName: "a/b" is not a name of a Secret: 1 to 253 of a-z, 0-9, `-` and `.`, a letter or digit beside each `.` and at both ends (did you mean "a-b"?)
    --
    --
    "#);
    let keys = ["a/b", "a b", "..", "..x", ".", ".x", "a_b.C-1"].map(|key| of_type("Opaque", &[&format!("\"{key}\"")]));
    assert_snapshot!(keys.join("--\n"), @r#"
    15:34: error: class shop: secretObjects 1: data 1: key: "a/b" is not a key of a Secret: 1 to 253 of a-z, A-Z, 0-9, `-`, `_` and `.`, not `.` and not with `..` at its start (choose another)
    --
    15:34: error: class shop: secretObjects 1: data 1: key: "a b" is not a key of a Secret: 1 to 253 of a-z, A-Z, 0-9, `-`, `_` and `.`, not `.` and not with `..` at its start (choose another)
    --
    15:34: error: class shop: secretObjects 1: data 1: key: ".." is not a key of a Secret: 1 to 253 of a-z, A-Z, 0-9, `-`, `_` and `.`, not `.` and not with `..` at its start (choose another)
    --
    15:34: error: class shop: secretObjects 1: data 1: key: "..x" is not a key of a Secret: 1 to 253 of a-z, A-Z, 0-9, `-`, `_` and `.`, not `.` and not with `..` at its start (choose another)
    --
    15:34: error: class shop: secretObjects 1: data 1: key: "." is not a key of a Secret: 1 to 253 of a-z, A-Z, 0-9, `-`, `_` and `.`, not `.` and not with `..` at its start (choose another)
    --
    --
    "#);
    let twice =
        format!("- secretName: x\n  type: Opaque{data}k }}\n  - {{ objectName: key, key: k }}\n- secretName: x\n  type: Opaque{data}k }}");
    assert_snapshot!(refused(&twice), @r#"
    16:33: warning: class shop: secretObjects 1: data 2: key: "k" is there twice, and the driver takes the last one (remove one) [duplicate-key]
    17:19: error: class shop: secretObjects 2: secretName: "x" is also the Secret of secretObjects 1, and each overwrites the other (merge them, or choose another name)
    "#);
}

#[test]
fn a_type_has_the_keys_that_it_needs() {
    let types = [
        of_type("kubernetes.io/tls", &["tls.crt", "tls.key", "ca.crt"]),
        of_type("kubernetes.io/tls", &["tls.crt"]),
        of_type("kubernetes.io/basic-auth", &["user"]),
        of_type("kubernetes.io/ssh-auth", &["id_rsa"]),
        of_type("kubernetes.io/dockerconfigjson", &["config.json"]),
        of_type("kubernetes.io/dockercfg", &[".dockerconfigjson"]),
        of_type("kubernetes.io/service-account-token", &["token"]),
        of_type("kubernetes.io/TLS", &["tls.crt", "tls.key"]),
        of_type("tls", &["tls.crt", "tls.key"]),
        of_type("opaque", &["a"]),
        of_type("kubernetes.io/dockerconfig", &[".dockerconfigjson"]),
    ];
    assert_snapshot!(types.join("--\n"), @r#"
    17:34: error: class shop: secretObjects 1: data 3: key: "ca.crt" cannot be in a Secret of the type kubernetes.io/tls: the driver accepts only tls.crt and tls.key (put it into another Secret, of the type Opaque)
    --
    13:13: error: class shop: secretObjects 1: type: kubernetes.io/tls needs tls.crt and tls.key among its keys (add tls.key under `data`)
    --
    13:13: error: class shop: secretObjects 1: type: kubernetes.io/basic-auth needs username or password among its keys (add one of them under `data`)
    --
    13:13: error: class shop: secretObjects 1: type: kubernetes.io/ssh-auth needs ssh-privatekey among its keys (add ssh-privatekey under `data`)
    --
    13:13: error: class shop: secretObjects 1: type: kubernetes.io/dockerconfigjson needs .dockerconfigjson among its keys (add .dockerconfigjson under `data`)
    --
    13:13: error: class shop: secretObjects 1: type: kubernetes.io/dockercfg needs .dockercfg among its keys (add .dockercfg under `data`)
    --
    13:13: error: class shop: secretObjects 1: type: kubernetes.io/service-account-token needs the annotation kubernetes.io/service-account.name (add it under `annotations`)
    --
    13:13: warning: class shop: secretObjects 1: type: Kubernetes does not know "kubernetes.io/TLS", and checks no keys for it (did you mean kubernetes.io/tls?) [near-type]
    --
    13:13: warning: class shop: secretObjects 1: type: Kubernetes does not know "tls", and checks no keys for it (did you mean kubernetes.io/tls?) [near-type]
    --
    13:13: warning: class shop: secretObjects 1: type: Kubernetes does not know "opaque", and checks no keys for it (did you mean Opaque?) [near-type]
    --
    13:13: warning: class shop: secretObjects 1: type: Kubernetes does not know "kubernetes.io/dockerconfig", and checks no keys for it (did you mean kubernetes.io/dockerconfigjson?) [near-type]
    "#);
    let fine = [
        of_type("kubernetes.io/tls", &["tls.crt", "tls.key"]),
        of_type("kubernetes.io/basic-auth", &["password"]),
        of_type("kubernetes.io/ssh-auth", &["ssh-privatekey", "known_hosts"]),
        of_type("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
        of_type("example.org/own", &["any"]),
        refused("[]"),
        refused(
            "- secretName: x\n  type: Opaque\n  labels: { app.kubernetes.io/name: web, empty: '' }\n  annotations: { Example.org/X: any thing }\n  data:\n  - { objectName: ' user ', key: k }",
        ),
        refused(
            "- secretName: x\n  type: kubernetes.io/service-account-token\n  annotations: { kubernetes.io/service-account.name: web }\n  data:\n  - { objectName: user, key: token }",
        ),
    ];
    assert_eq!(fine.concat(), "");
    // Also if the class has other faults.
    let both = syncing("- secretName: x\n  type: Opaque").replace("field: user", "feild: user");
    assert_snapshot!(Bench::with(&[("a.yaml", &both)]).run("DIR/a.yaml"), @r#"
    1
    DIR/a.yaml:9:22: error: class shop: object 1 (user): feild: is not a known key (did you mean `field`?)
    DIR/a.yaml:12:7: error: class shop: secretObjects 1: data: is missing (say which file becomes which key, such as - { objectName: db/password, key: password })
    2 objects in 1 class, 1 file: 2 faults
    "#);
}
