//! Classes that ask for what is not possible, or ask in a wrong way.

use serde_json::json;

use super::Asked;
use crate::support::{House, web};

#[tokio::test]
async fn keys_of_a_class() {
    let asked = Asked::new(House::new("")).await;
    let table = asked
        .refusals([
            asked.parameters("no objects", json!({})),
            asked.parameters("misspelt", json!({ "object": "[]", "objects": "[]", "Mode": "0400" })),
            asked.parameters("nothing like it", json!({ "objects": "[]", "zzzzzz": "x" })),
            asked.parameters("no bound", json!({ "objects": "[]", "maxStale": "soon" })),
            asked.parameters("a dialect to come", json!({ "objects": "[]", "dialect": "azure" })),
            asked.parameters("a login where there is none", json!({ "objects": "- {secret: shop/db}", "role": "x", "mount": "y" })),
            asked.parameters(
                "a peer's class without a store for it",
                json!({ "objects": "- {objectName: a, secretPath: kv/data/a}", "dialect": "vault", "roleName": "x" }),
            ),
            asked.parameters("no dialect", json!({ "objects": "[]", "dialect": "keyfery" })),
            asked.parameters(
                "an unknown backend, class-wide",
                json!({ "objects": "[{secret: a}, {secret: b, path: x}]", "backend": "flies" }),
            ),
            asked.class("an unknown backend", "- {secret: shop/db, backend: vault}"),
            asked.class("misspelt in an object", "- {secrt: shop/db, secret: shop/db, pth: x, filed: y}"),
            asked.class("a prefix that is not a folder", "- {prefix: shop, path: x}"),
            asked.class("a request that makes something", "- {secret: shop/db, method: POST, args: {a: b}, lease: shared}"),
            asked.class("no request", "- {secret: shop/db, method: post, args: x, lease: me}"),
            asked.class("no secret", "- {path: x}\n- {}\n-"),
            asked.class("field and fields", "- {secret: shop/db, field: a, fields: [b]}"),
            asked.class("no fields", "- {secret: shop/db, fields: []}"),
            asked.class("no truth", "- {secret: shop/db, optional: maybe}"),
            asked.class("no encoding", "- {secret: shop/db, encoding: base46}\n- {secret: shop/db, path: x, encoding: rot13}"),
            asked.class("no version", "- {secret: shop/db, version: latest}\n- {secret: shop/db, path: x, version: '03'}"),
            asked.class("no expression", "- {secret: shop/db, field: 'a[', path: x}"),
        ])
        .await;
    insta::assert_snapshot!(table, @r#"
    # no objects
    InvalidArgument InvalidRequest: objects: is missing (add it: a list of objects, each with at least `secret: <name>`; `objects: "[]"` for an empty volume)
    # misspelt
    InvalidArgument InvalidRequest: Mode: is not a known key (did you mean `mode`?); object: is not a known key (did you mean `objects`?)
    # nothing like it
    InvalidArgument InvalidRequest: zzzzzz: is not a known key (known here: objects, backend, mode, role, audience, mount, namespace, address, fresh, maxStale, dialect)
    # no bound
    InvalidArgument InvalidRequest: maxStale: "soon" is not a duration (write for example 500ms, 90s, 2m or 24h)
    # a dialect to come
    InvalidArgument InvalidRequest: dialect: `azure` is not yet supported (write the class in the native format, and leave the key out)
    # a login where there is none
    InvalidArgument InvalidRequest: mount: means nothing to a file vault: nobody logs in there (remove it); role: means nothing to a file vault: nobody logs in there (remove it)
    # a peer's class without a store for it
    InvalidArgument InvalidRequest: dialect: no backend of this node serves classes of the dialect `vault` (the cluster's admin can add one of the kind vault)
    # no dialect
    InvalidArgument InvalidRequest: dialect: there is no dialect "keyfery" (did you mean `keyferry`?)
    # an unknown backend, class-wide
    InvalidArgument InvalidRequest: backend: there is no backend "flies" on this node (did you mean `files`?)
    # an unknown backend
    InvalidArgument InvalidRequest: object 1 (db): backend: there is no backend "vault" on this node (there are: files)
    # misspelt in an object
    InvalidArgument InvalidRequest: object 1 (db): secrt: is not a known key (did you mean `secret`?); object 1 (db): pth: is not a known key (did you mean `path`?); object 1 (db): filed: is not a known key (did you mean `field`?)
    # a prefix that is not a folder
    InvalidArgument InvalidRequest: object 1 (x): prefix: "shop" does not end with `/`: a prefix is a folder (did you mean "shop/"?)
    # a request that makes something
    InvalidArgument InvalidRequest: object 1 (db): method: POST means nothing to a file vault, whose secrets are only read (remove it); object 1 (db): args: mean nothing to a file vault, whose secrets are asked for by name alone (remove it); object 1 (db): lease: means nothing to a file vault, which gives no leases (remove it)
    # no request
    InvalidArgument InvalidRequest: object 1 (db): method: there is no method "post" (did you mean `POST`?); object 1 (db): args: is a text, but must be a mapping (write a line `key: value` for each key); object 1 (db): lease: there is no lease "me" (there are: pod, shared)
    # no secret
    InvalidArgument InvalidRequest: object 1 (x): secret: is missing (write the secret's name, such as `secret: shop/db`); object 2: secret: is missing (write the secret's name, such as `secret: shop/db`); object 3: secret: is missing (write the secret's name, such as `secret: shop/db`)
    # field and fields
    InvalidArgument InvalidRequest: object 1 (a): fields: cannot be used together with `field` (keep one: `field` makes one file, `fields` makes a folder of files)
    # no fields
    InvalidArgument InvalidRequest: object 1 (db): fields: is an empty list (name fields, or write "*" for all)
    # no truth
    InvalidArgument InvalidRequest: object 1 (db): optional: must be true or false (write one of them, without quotes)
    # no encoding
    InvalidArgument InvalidRequest: object 1 (db): encoding: there is no encoding "base46" (did you mean `base64`?); object 2 (x): encoding: there is no encoding "rot13" (there are: utf-8, base64, base64url, hex)
    # no version
    InvalidArgument InvalidRequest: object 1 (db): version: "latest" is not a revision of a file vault: a revision is a whole number from 1, as `keyferry vault get NAME` shows it (pin one that the store has, or leave the version out for the latest); object 2 (x): version: "03" is not a revision of a file vault: a revision is a whole number from 1, as `keyferry vault get NAME` shows it (pin one that the store has, or leave the version out for the latest)
    # no expression
    NotFound SecretNotFound: object 1 (x): files/shop/db: has no field "a["; as a JMESPath expression it is wrong at character 3 (it has "password", "username")
    "#);
}

#[tokio::test]
async fn paths_and_modes_of_a_class() {
    let asked = Asked::new(House::new("")).await;
    let path = |what, path: &str| asked.class(what, &json!([{ "secret": "shop/db", "path": path }]).to_string());
    let table = asked
        .refusals([
            path("the parent", ".."),
            path("through the parent", "a/../../etc/passwd"),
            path("the driver's own", "..data"),
            path("absolute", "/etc/passwd"),
            path("empty", ""),
            path("a folder", "a/"),
            path("an empty element", "a//b"),
            path("itself", "./a"),
            path("NUL", "a\0b"),
            path("a newline", "a\nb"),
            path("a name of 256 bytes", &"n".repeat(256)),
            path("a path of 5,000 bytes", &"n/".repeat(2500)),
            asked.class("one path twice", "- {secret: shop/db}\n- {secret: shop/one, path: db}"),
            asked.class("a file that is another's folder", "- {secret: shop/db, path: a/b/c}\n- {secret: shop/one, path: a/b}"),
            asked.class("a file within a file", "- {secret: shop/db, path: a}\n- {secret: shop/one, path: a/b}"),
            asked.class("a folder that is a file", "- {secret: shop/db, path: a}\n- {secret: shop/one, fields: '*', path: a}"),
            asked.class("fields that meet at the root", "- {secret: shop/db, fields: '*', path: .}\n- {secret: shop/db, path: username}"),
            asked.class("over 0777", "- {secret: shop/db, mode: 01000}\n- {secret: shop/db, path: x, mode: 512}"),
            asked.class("setuid", "- {secret: shop/db, mode: 04755}\n- {secret: shop/db, path: x, mode: '02755'}"),
            asked.class("a forgotten 0", "- {secret: shop/db, mode: 644}"),
            asked.class("letters", "- {secret: shop/db, mode: rw-r--r--}\n- {secret: shop/db, path: x, mode: 0x1ff}"),
            asked.parameters("class-wide", json!({ "objects": "[]", "mode": "0888" })),
        ])
        .await;
    insta::assert_snapshot!(table, @r#"
    # the parent
    InvalidArgument InvalidRequest: object 1 (..): path: ".." has the element ".." (write the path without it)
    # through the parent
    InvalidArgument InvalidRequest: object 1 (a/../../etc/passwd): path: "a/../../etc/passwd" has the element ".." (write the path without it)
    # the driver's own
    InvalidArgument InvalidRequest: object 1 (..data): path: "..data" starts with `..`, which the driver keeps for itself (choose another name)
    # absolute
    InvalidArgument InvalidRequest: object 1 (/etc/passwd): path: "/etc/passwd" is absolute: paths are relative to the volume (remove the `/` at its start)
    # empty
    InvalidArgument InvalidRequest: object 1: path: "" is empty (name the file, or leave `path` out)
    # a folder
    InvalidArgument InvalidRequest: object 1 (a/): path: "a/" has an empty element (`//`, or a `/` at its end) (name a file; only an object with `fields` makes a folder)
    # an empty element
    InvalidArgument InvalidRequest: object 1 (a//b): path: "a//b" has an empty element (`//`, or a `/` at its end) (name a file; only an object with `fields` makes a folder)
    # itself
    InvalidArgument InvalidRequest: object 1 (./a): path: "./a" has the element "." (write the path without it)
    # NUL
    InvalidArgument InvalidRequest: object 1 (a\0b): path: "a\0b" has a control character (remove it)
    # a newline
    InvalidArgument InvalidRequest: object 1 (a\nb): path: "a\nb" has a control character (remove it)
    # a name of 256 bytes
    InvalidArgument InvalidRequest: object 1 (nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn...): path: "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"... has an element of 256 bytes: a file name has at most 255 (shorten it)
    # a path of 5,000 bytes
    InvalidArgument InvalidRequest: object 1 (n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/...): path: "n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/"... is 5000 bytes long: at most 4096 are allowed (shorten it)
    # one path twice
    InvalidArgument InvalidRequest: object 2 (db): path: "db" is also the path of object 1 (db) (give each object a different path)
    # a file that is another's folder
    InvalidArgument InvalidRequest: object 2 (a/b): path: "a/b" would be a file, but object 1 (a/b/c) needs a folder there (change one of the paths)
    # a file within a file
    InvalidArgument InvalidRequest: object 2 (a/b): path: "a" is the file of object 1 (a): nothing can be below a file (change one of the paths)
    # a folder that is a file
    InvalidArgument InvalidRequest: object 2 (a): path: "a" is the file of object 1 (a): nothing can be below a file (change one of the paths)
    # fields that meet at the root
    InvalidArgument InvalidRequest: object 2 (username): files/shop/db: it would deliver "username", which cannot be in one volume with "username" of object 1 (./) (name the fields, or change a path)
    # over 0777
    InvalidArgument InvalidRequest: object 1 (db): mode: 01000 is over 0777: the set-user-id, set-group-id and sticky bits cannot be delivered (write an octal mode up to 0777); object 2 (x): mode: 512 is decimal without a 0 before it, and over 0777 (did you mean 0512?)
    # setuid
    InvalidArgument InvalidRequest: object 1 (db): mode: 04755 is over 0777: the set-user-id, set-group-id and sticky bits cannot be delivered (write an octal mode up to 0777); object 2 (x): mode: 02755 is over 0777: the set-user-id, set-group-id and sticky bits cannot be delivered (write an octal mode up to 0777)
    # a forgotten 0
    InvalidArgument InvalidRequest: object 1 (db): mode: 644 is decimal without a 0 before it, and over 0777 (did you mean 0644?)
    # letters
    InvalidArgument InvalidRequest: object 1 (db): mode: "rw-r--r--" is not a file mode: a mode is octal such as 0444, 0o444 or "0444", or decimal such as 292 (write it in octal, such as 0444); object 2 (x): mode: "0x1ff" is not a file mode: a mode is octal such as 0444, 0o444 or "0444", or decimal such as 292 (write it in octal, such as 0444)
    # class-wide
    InvalidArgument InvalidRequest: mode: "0888" is not a file mode: a mode is octal such as 0444, 0o444 or "0444", or decimal such as 292 (write it in octal, such as 0444)
    "#);
}

#[tokio::test]
async fn names_that_are_not_canonical() {
    let asked = Asked::new(House::new("")).await;
    let name = |what, name: &str| asked.class(what, &json!([{ "secret": name, "path": "x" }]).to_string());
    let table = asked
        .refusals([
            name("empty", ""),
            name("the parent", "shop/../bank/db"),
            name("itself", "shop/./db"),
            name("absolute", "/shop/db"),
            name("an empty element", "shop//db"),
            name("a folder", "shop/"),
            name("an escape", "shop%2fdb"),
            name("a query", "shop/db?version=1"),
            name("a fragment", "shop/db#x"),
            name("a backslash", "shop\\db"),
            name("NUL", "shop/db\0"),
            name("the vault's own", ".history/shop/db/1"),
            name("the file's ending", "shop/db.age"),
            name("a pin in the name", "shop/db@1"),
            name("an element of 252 bytes", &"n".repeat(252)),
            name("1,025 bytes", &"n/".repeat(513)),
        ])
        .await;
    insta::assert_snapshot!(table, @r#"
    # empty
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "" is empty (write the name as its store lists it)
    # the parent
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "shop/../bank/db" has the element ".." (write the name as its store lists it)
    # itself
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "shop/./db" has the element "." (write the name as its store lists it)
    # absolute
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "/shop/db" has an empty element (`//`, or a `/` at its start or end) (write the name as its store lists it)
    # an empty element
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "shop//db" has an empty element (`//`, or a `/` at its start or end) (write the name as its store lists it)
    # a folder
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "shop/" has an empty element (`//`, or a `/` at its start or end) (write the name as its store lists it)
    # an escape
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "shop%2fdb" has the character '%', which stores read as an escape or a query (write the name as its store lists it)
    # a query
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "shop/db?version=1" has the character '?', which stores read as an escape or a query (write the name as its store lists it)
    # a fragment
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "shop/db#x" has the character '#', which stores read as an escape or a query (write the name as its store lists it)
    # a backslash
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "shop\\db" has the character '\\', which stores read as an escape or a query (write the name as its store lists it)
    # NUL
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "shop/db\0" has a control character (write the name as its store lists it)
    # the vault's own
    InvalidArgument InvalidRequest: object 1 (x): secret: the name ".history/shop/db/1" has the element ".history": what starts with a dot is the vault's own (choose another name)
    # the file's ending
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "shop/db.age" has the element "db.age": the vault adds `.age` by itself (write "db")
    # a pin in the name
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "shop/db@1" ends in `@1`, which reads as a pinned version (write `version: "1"` for that)
    # an element of 252 bytes
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"... has an element of 252 bytes; in a vault at most 251 are allowed (shorten it)
    # 1,025 bytes
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/"... is 1026 bytes long; at most 1024 are allowed (write the name as its store lists it)
    "#);
}

#[tokio::test]
async fn yaml_that_cannot_be_read() {
    let asked = Asked::new(House::new("")).await;
    let bomb = (b'b'..=b'i').fold("- &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, letter| {
        let (this, last) = (letter as char, (letter - 1) as char);
        format!("{text}- &{this} [{}]\n", vec![format!("*{last}"); 10].join(", "))
    });
    let many = |count: usize| "- secret: shop/db\n".repeat(count);
    let table = asked
        .refusals([
            asked.class("a text", "shop/db"),
            asked.class("a mapping", "secret: shop/db"),
            asked.class("a list of texts", "- shop/db"),
            asked.class("a list of lists", "- [shop/db]"),
            asked.class("an open bracket", "- {secret: shop/db"),
            asked.class("an open quote", "- secret: \"shop/db\n"),
            asked.class("a tab", "- secret: shop/db\n\tpath: x"),
            asked.class("wrong indentation", "- secret: shop/db\n path: x\n   mode: 1"),
            asked.class("a key twice", "- {secret: shop/db, path: x, path: y}"),
            asked.class("two documents", "- secret: shop/db\n---\n- secret: shop/db"),
            asked.class("an alias of nothing", "- *x"),
            asked.class("an alias of itself", "- &x {secret: shop/db, path: *x}"),
            asked.class("an alias bomb", &bomb),
            asked.class("nested 10,000 deep", &"[".repeat(10_000)),
            asked.class("a control character", "- secret: shop/\u{7}db"),
            asked.class("513 objects", &many(513)),
            asked.class("10,000 objects", &many(10_000)),
        ])
        .await;
    insta::assert_snapshot!(table, @"
    # a text
    InvalidArgument InvalidRequest: objects: line 1: is a text, but must be a list (start each object with `- `, such as `- secret: shop/db`)
    # a mapping
    InvalidArgument InvalidRequest: objects: line 1: is a mapping, but must be a list (start each object with `- `, such as `- secret: shop/db`)
    # a list of texts
    InvalidArgument InvalidRequest: object 1: objects: is a text, but an object must be a mapping (write for example `- secret: shop/db`)
    # a list of lists
    InvalidArgument InvalidRequest: object 1: objects: is a list, but an object must be a mapping (write for example `- secret: shop/db`)
    # an open bracket
    InvalidArgument InvalidRequest: objects: line 1: not valid YAML: unclosed bracket '{' (look there and just above for an open bracket or quote, a tab, uneven indentation, or a value that needs quotes)
    # an open quote
    InvalidArgument InvalidRequest: objects: line 2: not valid YAML: invalid indentation in multiline quoted scalar (look there and just above for an open bracket or quote, a tab, uneven indentation, or a value that needs quotes)
    # a tab
    InvalidArgument InvalidRequest: objects: line 1: not valid YAML: while scanning a plain scalar, found a tab (look there and just above for an open bracket or quote, a tab, uneven indentation, or a value that needs quotes)
    # wrong indentation
    InvalidArgument InvalidRequest: objects: line 2: not valid YAML: while parsing a block collection, did not find expected '-' indicator (look there and just above for an open bracket or quote, a tab, uneven indentation, or a value that needs quotes)
    # a key twice
    InvalidArgument InvalidRequest: objects: line 1: `path` is given twice in one mapping (remove one)
    # two documents
    InvalidArgument InvalidRequest: objects: line 3: a second YAML document starts here; only one is read (remove the `---`)
    # an alias of nothing
    InvalidArgument InvalidRequest: objects: line 1: not valid YAML: while parsing node, found unknown anchor (look there and just above for an open bracket or quote, a tab, uneven indentation, or a value that needs quotes)
    # an alias of itself
    InvalidArgument InvalidRequest: objects: line 1: an alias of a value that it is part of (write the value out)
    # an alias bomb
    InvalidArgument InvalidRequest: objects: line 5: over the budget of 100000 YAML values, aliases expanded (write less, with fewer aliases)
    # nested 10,000 deep
    InvalidArgument InvalidRequest: objects: line 1: not valid YAML: recursion limit exceeded (look there and just above for an open bracket or quote, a tab, uneven indentation, or a value that needs quotes)
    # a control character
    InvalidArgument InvalidRequest: objects: line 1: the character U+0007 is not allowed in YAML (remove it, or write an escape in double quotes)
    # 513 objects
    FailedPrecondition TooLarge: objects: has 513 objects: at most 512 are allowed on this node (split the class, or ask for a higher limits.objects)
    # 10,000 objects
    FailedPrecondition TooLarge: objects: has 10000 objects: at most 512 are allowed on this node (split the class, or ask for a higher limits.objects)
    ");
}

#[tokio::test]
async fn every_fault_of_a_class_is_told_at_once() {
    let asked = Asked::new(House::new("")).await;
    let objects = "
        - {secret: shop/../db, path: /x, mode: 0999}
        - {secret: shop/db, pth: y, encoding: base46}
        - {path: ../z}
        - {secret: shop/db, path: a}
        - {secret: shop/db, path: a}";
    let table = asked.refusal(asked.house.asking(&web(), json!({ "objects": objects, "mode": "1000", "rolle": "x" }))).await;
    insta::assert_snapshot!(table.replace("; ", ";\n"), @r#"
    InvalidArgument InvalidRequest: rolle: is not a known key (did you mean `role`?);
    mode: 1000 is over 0777: the set-user-id, set-group-id and sticky bits cannot be delivered (write an octal mode up to 0777);
    object 1 (/x): secret: the name "shop/../db" has the element ".." (write the name as its store lists it);
    object 1 (/x): path: "/x" is absolute: paths are relative to the volume (remove the `/` at its start);
    object 1 (/x): mode: "0999" is not a file mode: a mode is octal such as 0444, 0o444 or "0444", or decimal such as 292 (write it in octal, such as 0444);
    object 2 (db): pth: is not a known key (did you mean `path`?);
    object 2 (db): encoding: there is no encoding "base46" (did you mean `base64`?);
    object 3 (../z): secret: is missing (write the secret's name, such as `secret: shop/db`);
    object 3 (../z): path: "../z" has the element ".." (write the path without it);
    object 5 (a): path: "a" is also the path of object 4 (a) (give each object a different path)
    "#);
    let many = (0..500).map(|n| format!("- {{secret: shop/../{n}, path: /{n}}}")).collect::<Vec<_>>().join("\n");
    let long = asked.refusal(asked.house.request(&web(), &many)).await;
    assert!(long.len() > 3800 && long.ends_with(" more"), "{long}");
}
