//! All secrets below a prefix, mounted from a file vault.

use std::fs;

use keyferry::server::proto::MountResponse;
use serde_json::{Value, json};

use crate::support::{House, shown, web};

fn house() -> House {
    let house = House::new("");
    house.set("shop/certs/web", &[("tls.crt", b"web cert"), ("tls.key", b"web key")]);
    house.set("shop/certs/api", &[("tls.crt", b"api cert"), ("tls.key", b"api key")]);
    house.set("shop/certs/old/batch", &[("token", b"old")]);
    house
}

fn files(answer: &MountResponse) -> String {
    let mut files = shown(answer);
    files.sort();
    files.join("\n")
}

async fn mounted(house: &House, objects: &str) -> String {
    let provider = house.serve();
    files(&provider.mount(house.request(&web(), objects)).await.unwrap())
}

async fn refused(house: &House, objects: &[&str]) -> String {
    let provider = house.serve();
    let mut said = Vec::new();
    for objects in objects {
        said.push(match provider.mount(house.request(&web(), objects)).await {
            Ok(answer) => format!("mounted: {}", files(&answer)),
            Err(status) => status.message().to_owned(),
        });
    }
    said.join("\n")
}

#[tokio::test]
async fn each_secret_is_a_file_a_folder_or_a_part_of_one_file() {
    let house = house();
    let objects = r#"
- { prefix: shop/certs/, include: "*" }
- { prefix: shop/certs/, fields: ["tls.*"], exclude: [old/**], path: tls/ }
- { prefix: shop/certs/old/, format: dotenv, keys: env, path: .env }
- { prefix: shop/certs/, fields: tls.crt, exclude: "**/batch", path: flat/, rename: "{{ name }}.{{ field | replace('tls.', '') }}" }
- { prefix: shop/none/, optional: true }
"#;
    insta::assert_snapshot!(mounted(&house, objects).await, @r#"
    .env 0644 TOKEN=old

    certs/api 0644 {"tls.crt":"api cert","tls.key":"api key"}
    certs/web 0644 {"tls.crt":"web cert","tls.key":"web key"}
    flat/api.crt 0644 api cert
    flat/web.crt 0644 web cert
    tls/api/tls.crt 0644 api cert
    tls/api/tls.key 0644 api key
    tls/web/tls.crt 0644 web cert
    tls/web/tls.key 0644 web key
    "#);
}

#[tokio::test]
async fn a_prefix_has_one_version_that_follows_all_below_it() {
    let house = house();
    let provider = house.serve();
    let objects = "- { prefix: shop/certs/ }\n- { secret: shop/certs/web, path: web }";
    let versions = async || {
        let answer = provider.mount(house.request(&web(), objects)).await.unwrap();
        let all = answer.object_version.iter().map(|version| (version.id.clone(), version.version.clone()));
        (answer.files.len(), all.collect::<Vec<_>>())
    };
    let (count, first) = versions().await;
    assert_eq!(count, 4);
    assert_eq!(first.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["files/shop/certs/", "files/shop/certs/web"]);
    assert_eq!(versions().await, (4, first.clone()), "nothing has changed");
    house.set("shop/certs/api", &[("tls.crt", b"next")]);
    let (_, second) = versions().await;
    assert_eq!((second[1].1.as_str(), second[0] == first[0]), ("1", false));
    house.set("shop/certs/new", &[("x", b"y")]);
    let (count, third) = versions().await;
    assert_eq!((count, third[0] == second[0]), (5, false));
    fs::remove_file(house.path("vault/shop/certs/new.age")).unwrap();
    assert_eq!(versions().await, (4, second), "what is there has a version, and what was there has none");
}

#[tokio::test]
async fn the_audit_has_each_secret_that_was_found() {
    let house = house();
    let provider = house.serve();
    provider.mount(house.request(&web(), "- { prefix: shop/certs/, exclude: web }")).await.unwrap();
    let line = house.audit().into_iter().find(|line| line["event"] == "mount").unwrap();
    let object = &line["objects"][0];
    assert_eq!((&object["secret"], &object["rule"], &object["source"]), (&json!("shop/certs/"), &json!(1), &json!("store")), "{object}");
    let others: Vec<_> = object["others"].as_array().unwrap().iter().map(|other| other["secret"].as_str().unwrap()).collect();
    assert_eq!(others, ["shop/certs/api", "shop/certs/old/batch"]);
    assert!(object["others"].as_array().unwrap().iter().all(|other| other["rule"] == 1 && other["version"] == "1"), "{object}");
}

#[tokio::test]
async fn a_rule_has_to_cover_all_below() {
    let house = house();
    let objects = ["- { prefix: shop/certs/ }", "- { prefix: shop/ }", "- { prefix: shop/certs/old/ }"];
    house.configure("pods: { namespace: shop }\n    read: [\"files/shop/*\", \"files/shop/certs/*\", \"files/shop/certs/old/**\"]", "");
    insta::assert_snapshot!(refused(&house, &objects).await, @r#"
    PolicyDenied: object 1 (certs/): files/shop/certs/: no rule of the policy allows ServiceAccount shop/web to read everything below it (the cluster's admin can add a rule with read: ["files/shop/certs/**"])
    PolicyDenied: object 1 (shop/): files/shop/: no rule of the policy allows ServiceAccount shop/web to read everything below it (the cluster's admin can add a rule with read: ["files/shop/**"])
    mounted: old/batch 0644 old
    "#);
}

/// Keyferry decides about each secret again, and counts what it denies: it shows no name to a Pod that may not have it.
#[tokio::test]
async fn what_is_denied_below_fails_the_mount_without_its_name() {
    let house = house();
    house.set("shop/certs/hidden-one", &[("x", b"y")]);
    let rule = "pods: { namespace: shop }\n    read: [\"files/shop/**\"]\n  - pods: { namespace: \"*\" }\n    deny: [\"files/**/hidden*\", \"files/shop/certs/old/**\"]";
    house.configure(rule, "");
    let objects = [
        "- { prefix: shop/certs/, exclude: old/** }",
        "- { prefix: shop/certs/, optional: true }",
        "- { prefix: shop/certs/, include: 'old/*' }",
        "- { prefix: shop/certs/old/ }",
        "- { prefix: shop/certs/, exclude: ['hidden*', 'old/**'], fields: tls.crt }",
    ];
    let said = refused(&house, &objects).await;
    insta::assert_snapshot!(said, @r#"
    PolicyDenied: object 1 (certs/): files/shop/certs/: policy rule 2 denies 1 of the secrets below it to ServiceAccount shop/web (leave them out with `exclude`; only the cluster's admin can change the rule)
    PolicyDenied: object 1 (certs/): files/shop/certs/: policy rule 2 denies 1 of the secrets below it to ServiceAccount shop/web (leave them out with `exclude`; only the cluster's admin can change the rule)
    PolicyDenied: object 1 (certs/): files/shop/certs/: policy rule 2 denies 1 of the secrets below it to ServiceAccount shop/web (leave them out with `exclude`; only the cluster's admin can change the rule)
    PolicyDenied: object 1 (old/): files/shop/certs/old/: policy rule 2 denies everything below it to ServiceAccount shop/web by its pattern "files/shop/certs/old/**" (a deny beats every allow; only the cluster's admin can change the rule)
    mounted: certs/api/tls.crt 0644 api cert
    certs/web/tls.crt 0644 web cert
    "#);
    assert!(!said.contains("hidden"), "{said}");
    let denied = house.audit().into_iter().find(|line| line["outcome"] == "denied").unwrap();
    let others = denied["objects"][0]["others"].as_array().unwrap();
    let hidden: Vec<&Value> = others.iter().filter(|other| other["secret"] == "shop/certs/hidden-one").collect();
    assert_eq!((hidden.len(), &hidden[0]["rule"]), (1, &json!(2)), "the audit tells the admin: {denied}");
}

#[tokio::test]
async fn what_names_cannot_become() {
    let house = house();
    house.set("shop/both/a", &[("x", b"1")]);
    house.set("shop/both/a/b", &[("x", b"2")]);
    house.set("shop/deep/1/2/3/4/5/6/7/8/9", &[("x", b"1")]);
    let many: String = (0..70).map(|n| format!("- {{ prefix: shop/p{n}/, optional: true }}\n")).collect();
    let objects = [
        "- { prefix: shop/both/ }",
        "- { prefix: shop/both/, rename: \"{{ name | replace('/', '.') }}\" }",
        "- { prefix: shop/both/, rename: same }",
        "- { prefix: shop/certs/, rename: \"../{{ name }}\" }",
        "- { prefix: shop/certs/, rename: \"{{ name.x }}\" }",
        "- { prefix: shop/certs/, fields: tls.crt, include: '*', rename: \"{{ field }}\" }",
        "- { prefix: shop/certs/, format: json, path: all.json }",
        "- { prefix: shop/deep/ }",
        "- { prefix: shop/deep/, exclude: '1/2/3/**', optional: true }",
        "- { prefix: shop/none/ }",
        "- { prefix: shop/certs/, include: nothing }",
        "- { prefix: shop/certs/, path: x }\n- { secret: shop/db, field: password, path: x/web }",
    ];
    insta::assert_snapshot!(refused(&house, &objects).await, @r#"
    InvalidRequest: object 1 (both/): files/shop/both/: "a" would be the file "both/a", and "a/b" a file below it (give them other names, such as `rename: "{{ name | replace('/', '.') }}"`)
    mounted: both/a 0644 1
    both/a.b 0644 2
    InvalidRequest: object 1 (both/): files/shop/both/: "a" and "a/b" would both become the file "both/same" (correct `rename`)
    InvalidRequest: object 1 (certs/): files/shop/certs/api: "../api" cannot name a file: the path has the element ".." (correct `rename`); object 1 (certs/): files/shop/certs/old/batch: "../old/batch" cannot name a file: the path has the element ".." (correct `rename`); object 1 (certs/): files/shop/certs/web: "../web" cannot name a file: the path has the element ".." (correct `rename`)
    InvalidRequest: object 1 (certs/): files/shop/certs/api: rename: line 1: "name.x" is not there (correct the name, or write `| default('')`); object 1 (certs/): files/shop/certs/old/batch: rename: line 1: "name.x" is not there (correct the name, or write `| default('')`); object 1 (certs/): files/shop/certs/web: rename: line 1: "name.x" is not there (correct the name, or write `| default('')`)
    InvalidRequest: object 1 (certs/): files/shop/certs/: "api" and "web" would both become the file "certs/tls.crt" (correct `rename`)
    InvalidRequest: object 1 (all.json): files/shop/certs/web: its field "tls.crt" is a field of files/shop/certs/api, too (name the fields of each with `fields`, or make a separate file for each secret); object 1 (all.json): files/shop/certs/web: its field "tls.key" is a field of files/shop/certs/api, too (name the fields of each with `fields`, or make a separate file for each secret)
    TooLarge: object 1 (deep/): files/shop/deep/: it has folders more than 8 levels deep: no more are listed (name a longer prefix, or leave them out with `exclude`)
    mounted: .keyferry 0644 
    SecretNotFound: object 1 (none/): files/shop/none/: there are no secrets below it (make them with `keyferry vault set`, correct the prefix, or set `optional: true`)
    SecretNotFound: object 1 (certs/): files/shop/certs/: there are no secrets below it that this object asks for (correct `include` and `exclude`, store one, or set `optional: true`)
    InvalidRequest: object 2 (x/web): files/shop/db: it would deliver "x/web", which cannot be in one volume with "x/web" of object 1 (x/) (name the fields, or change a path)
    "#);
    let said = refused(&house, &[&many]).await;
    assert!(
        said.starts_with("TooLarge: object 1 (p0/): files/shop/p0/: more than 64 folders would have to be listed for this volume"),
        "{said}"
    );
}

#[tokio::test]
async fn what_a_class_can_say_of_a_prefix() {
    let house = house();
    let objects = [
        "- { prefix: shop/certs }",
        "- { prefix: / }",
        "- { prefix: '' }",
        "- { prefix: shop//certs/ }",
        "- { prefix: ../ }",
        "- { prefix: .history/ }",
        "- { prefix: shop/certs/, secret: shop/db, field: x, version: 3, method: LIST, args: {a: b}, template: x }",
        "- { prefix: shop/certs/, include: [], exclude: ['a**', '/x', ''] }",
        "- { prefix: shop/certs/, rename: '{{ field }}' }",
        "- { prefix: shop/certs/, rename: '{{ name', mode: 99 }",
        "- { prefix: shop/certs/, rename: x, format: json }",
        "- { secret: shop/db, include: x, rename: y }",
        "- { prefix: shop/certs/, keys: env }",
    ];
    insta::assert_snapshot!(refused(&house, &objects).await, @r#"
    InvalidRequest: object 1: prefix: "shop/certs" does not end with `/`: a prefix is a folder (did you mean "shop/certs/"?)
    InvalidRequest: object 1: prefix: does not name a folder: Keyferry does not deliver a whole store (write a folder in it, such as "shop/certs/")
    InvalidRequest: object 1: prefix: is empty (write a folder in the store, such as "shop/certs/")
    InvalidRequest: object 1 (certs): prefix: the name "shop//certs" has an empty element (`//`, or a `/` at its start or end) (write the name as its store lists it)
    InvalidRequest: object 1 (..): path: is missing, and ".." cannot be used instead: it has the element ".." (add a path); object 1 (..): prefix: the name ".." has the element ".." (write the name as its store lists it)
    InvalidRequest: object 1 (.history): prefix: the name ".history" has the element ".history": what starts with a dot is the vault's own (choose another name)
    InvalidRequest: object 1 (x): secret: cannot be used together with `prefix` (keep one: `secret` names one secret, `prefix` finds all secrets below a folder); object 1 (x): field: cannot be used together with `prefix` (write `fields`: each secret gets a folder of files); object 1 (x): version: cannot be used together with `prefix` (Keyferry reads the latest version of each secret that it finds: write a separate object for this secret); object 1 (x): method: cannot be used together with `prefix` (Keyferry only reads the secrets that it finds: write a separate object for this secret); object 1 (x): args: cannot be used together with `prefix` (Keyferry asks for the secrets that it finds only by name: remove it); object 1 (x): template: cannot be used together with `prefix` (a template needs the names of its secrets: write them under `secrets`)
    InvalidRequest: object 1 (certs): include: is an empty list (write patterns such as "web-*", or remove it); object 1 (certs): exclude: "a**" has `**` within an element: `**` must be alone between slashes (such as "old/**"; within an element write `*`); object 1 (certs): exclude: "/x" has an empty element: a pattern describes the part of the name after the prefix (such as "web", "*" or "old/**"); object 1 (certs): exclude: "" has an empty element: a pattern describes the part of the name after the prefix (such as "web", "*" or "old/**")
    InvalidRequest: object 1 (certs): rename: line 1: uses "field", which is not a name that `rename` knows (it has: name)
    InvalidRequest: object 1 (certs): rename: line 1: a tag `{{` is not closed with `}}`
    InvalidRequest: object 1 (certs): rename: cannot be used together with `format`, which makes one file (name the file with `path`)
    InvalidRequest: object 1 (db): include: works only with `prefix` (remove it, or write `prefix` instead of `secret`); object 1 (db): rename: works only with `prefix` (remove it, or write `prefix` instead of `secret`)
    InvalidRequest: object 1 (certs): keys: works only with `format: dotenv` and `format: properties` (remove it)
    "#);
}

/// More names than one folder, one class or one mount may have.
#[tokio::test]
async fn ten_thousand_names_are_refused_and_a_few_of_them_are_not() {
    let house = House::new("");
    let folder = house.path("vault/shop/many");
    house.set("shop/many/one", &[("x", b"y")]);
    let sealed = fs::read(folder.join("one.age")).unwrap();
    for n in 0..10_000 {
        fs::write(folder.join(format!("n{n}.age")), if n == 0 { &sealed[..] } else { b"" }).unwrap();
    }
    for n in 0..70 {
        fs::create_dir_all(house.path(&format!("vault/shop/wide/f{n}"))).unwrap();
    }
    let objects = ["- { prefix: shop/many/ }", "- { prefix: shop/many/, include: one }", "- { prefix: shop/wide/, optional: true }"];
    insta::assert_snapshot!(refused(&house, &objects).await, @r#"
    TooLarge: object 1 (many/): files/shop/many/: there are more than 512 secrets below it: no more are delivered on this node (choose with `include` and `exclude`, name a longer prefix, or ask for a higher limits.objects)
    mounted: many/one 0644 y
    TooLarge: object 1 (wide/): files/shop/wide/: more than 64 folders would have to be listed for this volume (name longer prefixes, or leave folders out with `exclude`)
    "#);
}
