//! The main job: a class in, the files of its secrets out. Every way to ask for a file of a vault.

use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{House, Provider, TOKENS, pod, request, shown, tokens, web};
use keyferry::server::proto::{MountRequest, MountResponse};

/// Asks as the Pod `web-0`, and shows the files: path, mode and contents, one line each.
async fn files(provider: &Provider, request: MountRequest) -> String {
    shown(&provider.mount(request).await.unwrap()).join("\n")
}

/// The ids and versions of an answer, one line each.
fn versions(answer: &MountResponse) -> String {
    let lines: Vec<_> = answer.object_version.iter().map(|entry| format!("{}={}", entry.id, entry.version)).collect();
    lines.join("\n")
}

/// Objects that ask for the fields of `shop/db`.
const DB: &str = "- secret: shop/db\n  fields: '*'\n  path: db";

#[tokio::test]
async fn every_way_to_ask_for_a_file() {
    let house = House::new("");
    house.set("shop/one", &[("value", b"alone")]);
    house.set("shop/tls", &[("tls.crt", b"CRT"), ("tls.key", b"KEY"), ("ca.crt", b"CA")]);
    house.set("shop/config", &[("app", br#"{"port": 80, "hosts": ["a", "b"]}"#), ("name", b"shop")]);
    let provider = house.serve();
    for (what, objects, expected) in [
        ("a whole secret is JSON of its fields", "- secret: shop/db", r#"db 0644 {"password":"correct horse","username":"app"}"#),
        ("a lone field is the whole secret", "- secret: shop/one", "one 0644 alone"),
        ("one field, named after itself", "- secret: shop/db\n  field: password", "password 0644 correct horse"),
        ("a field with a dot in its name", "- secret: shop/tls\n  field: tls.key", "tls.key 0644 KEY"),
        ("a path of its own, nested", "- {secret: shop/db, field: password, path: a/b/c/pw}", "a/b/c/pw 0644 correct horse"),
        ("a dotfile", "- {secret: shop/db, field: password, path: .pw}", ".pw 0644 correct horse"),
        ("an expression", "- {secret: shop/db, field: '[username, password]', path: login}", r#"login 0644 ["app","correct horse"]"#),
        ("a list of fields", "- {secret: shop/tls, fields: [tls.key, tls.crt], path: tls/}", "tls/tls.crt 0644 CRT\ntls/tls.key 0644 KEY"),
        ("globs of fields", "- {secret: shop/tls, fields: ['*.crt'], path: tls}", "tls/ca.crt 0644 CA\ntls/tls.crt 0644 CRT"),
        (
            "all fields, into a folder of the secret's name",
            "- {secret: shop/db, fields: '*'}",
            "db/password 0644 correct horse\ndb/username 0644 app",
        ),
        ("all fields, at the volume's root", "- {secret: shop/db, fields: '*', path: .}", "password 0644 correct horse\nusername 0644 app"),
        (
            "several secrets, in the class's order",
            "- {secret: shop/tls, field: tls.key}\n- {secret: shop/one}\n- {secret: shop/db, field: username, path: tls.user}",
            "tls.key 0644 KEY\none 0644 alone\ntls.user 0644 app",
        ),
        (
            "one secret in many ways",
            "- {secret: shop/db, field: username}\n- {secret: shop/db, path: all}\n- {secret: shop/db, field: username, path: u2}",
            "username 0644 app\nall 0644 {\"password\":\"correct horse\",\"username\":\"app\"}\nu2 0644 app",
        ),
        ("flow YAML, comments and anchors", "[{secret: &s shop/one}, {secret: *s, path: two}] # fine", "one 0644 alone\ntwo 0644 alone"),
        ("JSON, which is YAML", r#"[{"secret": "shop/one", "path": "j"}]"#, "j 0644 alone"),
    ] {
        assert_eq!(files(&provider, house.request(&web(), objects)).await, expected, "{what}");
    }
}

#[tokio::test]
async fn the_mode_comes_from_the_object_the_class_or_the_driver() {
    let house = House::new("");
    let provider = house.serve();
    let mode = async |parameters: serde_json::Value, permission: &str| {
        let request = MountRequest { permission: permission.to_owned(), ..house.asking(&web(), parameters) };
        provider.mount(request).await.unwrap().files[0].mode
    };
    for (own, expected) in
        [("0440", 0o440), ("0o440", 0o440), ("\"0440\"", 0o440), ("288", 0o440), ("0", 0), ("0777", 0o777), ("511", 0o777)]
    {
        let objects = format!("- {{secret: shop/db, mode: {own}}}");
        assert_eq!(mode(json!({ "objects": objects, "mode": "0400" }), "420").await, expected, "{own}");
    }
    for (class, expected) in [("0440", 0o440), ("0o440", 0o440), ("288", 0o440)] {
        assert_eq!(mode(json!({ "objects": "- secret: shop/db", "mode": class }), "420").await, expected, "{class}");
    }
    for (driver, expected) in [("256", 0o400), ("0", 0), ("511", 0o777), ("", 0o644)] {
        assert_eq!(mode(json!({ "objects": "- secret: shop/db" }), driver).await, expected, "{driver}");
    }
}

#[tokio::test]
async fn encoded_texts_and_binary_fields_become_their_bytes() {
    let house = House::new("");
    let bytes = [0u8, 0xff, b'\n', 0x80, 0xfe];
    house.set("shop/key", &[("raw", &bytes), ("b64", b"AP8K\ngP4=\n"), ("url", b"AP8KgP4"), ("hex", b"00FF0a80fe"), ("empty", b"")]);
    house.set("shop/blob", &[("only", &bytes)]);
    let provider = house.serve();
    for objects in [
        "- {secret: shop/key, field: raw}",
        "- {secret: shop/key, field: b64, encoding: base64}",
        "- {secret: shop/key, field: url, encoding: base64url}",
        "- {secret: shop/key, field: hex, encoding: hex}",
        "- {secret: shop/key, fields: [raw], path: x}",
        "- {secret: shop/blob}",
    ] {
        let answer = provider.mount(house.request(&web(), objects)).await.unwrap();
        assert_eq!(&answer.files[0].contents[..], bytes, "{objects}");
    }
    let empty = provider.mount(house.request(&web(), "- {secret: shop/key, field: empty}")).await.unwrap();
    assert!(empty.files[0].contents.is_empty());
}

#[tokio::test]
async fn ids_name_secrets_and_versions_are_the_vaults_revisions() {
    let house = House::new("");
    house.set("shop/db", &[("username", b"app"), ("password", b"second")]);
    house.set("shop/db", &[("username", b"app"), ("password", b"third")]);
    house.set("shop/one", &[("value", b"alone")]);
    let provider = house.serve();
    let objects = "
        - {secret: shop/db, field: password, path: now}
        - {secret: shop/db, field: password, path: first, version: 1}
        - {secret: shop/db, field: password, path: two, version: '2'}
        - {secret: shop/db, field: password, path: three, version: '3'}
        - {secret: shop/db, field: username}
        - {secret: shop/one}";
    let answer = provider.mount(house.request(&web(), objects)).await.unwrap();
    insta::assert_snapshot!(shown(&answer).join("\n"), @"
    now 0644 third
    first 0644 correct horse
    two 0644 second
    three 0644 third
    username 0644 app
    one 0644 alone
    ");
    insta::assert_snapshot!(versions(&answer), @"
    files/shop/db=3
    files/shop/db@1=1
    files/shop/db@2=2
    files/shop/db@3=3
    files/shop/one=1
    ");
    assert!(answer.error.is_none());
}

#[tokio::test]
async fn an_object_of_many_files_is_one_entry_of_the_audit() {
    let house = House::new("");
    let provider = house.serve();
    let names: Vec<String> = (0..100).map(|number| format!("field-{number:02}")).collect();
    let fields: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), b"x".as_slice())).collect();
    house.set("shop/many", &fields);
    let objects = "
        - {secret: shop/many, fields: ['*'], path: many}
        - {secret: shop/db, field: password}
        - {secret: shop/db, fields: [nothing, none, username], path: db, optional: true}";
    provider.mount(house.request(&web(), objects)).await.unwrap();
    let audit = house.audit();
    let shown = audit[0]["objects"].as_array().unwrap().iter().map(|entry| {
        let names = entry["first"].as_array().map_or(0, Vec::len);
        format!("{} {} {} {} {} {names}", entry["object"], entry["outcome"], entry["field"], entry["file"], entry["files"])
    });
    insta::assert_snapshot!(shown.collect::<Vec<_>>().join("\n"), @r#"
    1 "delivered" null null 100 16
    2 "delivered" "password" "password" null 0
    3 "delivered" "username" "db/username" null 0
    3 "absent" null null 2 0
    "#);
}

#[tokio::test]
async fn what_is_optional_may_be_absent() {
    let house = House::new("");
    let provider = house.serve();
    let objects = "
        - {secret: shop/none, optional: true}
        - {secret: shop/db, field: nothing, optional: true}
        - {secret: shop/db, fields: [nothing, username], path: db, optional: true}
        - {secret: shop/db, version: '9', path: nine, optional: true}
        - {secret: shop/db, field: password, optional: true}";
    let request = house.request(&web(), objects);
    let answer = provider.mount(request.clone()).await.unwrap();
    insta::assert_snapshot!(shown(&answer).join("\n"), @"
    db/username 0644 app
    password 0644 correct horse
    ");
    insta::assert_snapshot!(versions(&answer), @"files/shop/db=1");
    // Keyferry delivers it as soon as it is there.
    house.set("shop/none", &[("value", b"now")]);
    assert!(files(&provider, request).await.starts_with("none 0644 now\n"));
}

#[tokio::test]
async fn an_object_names_its_backend_or_takes_the_classes() {
    let house = House::new("");
    let root = house.folder.path().display().to_string();
    house.reconfigure("backends: {", &format!("backends: {{ other: {{ kind: file, vault: {root}/other, identity: {root}/age.key }},"));
    house.reconfigure("[\"files/shop/**\"]", "[\"*/shop/**\"]");
    house.vault(&["init", "--vault", house.path("other").to_str().unwrap()]);
    house.vault(&["set", "shop/db", "password=another", "--vault", house.path("other").to_str().unwrap()]);
    let provider = house.serve();
    let objects = "[{secret: shop/db, field: password, path: a}, {secret: shop/db, field: password, path: b, backend: files}]";
    let answer = provider.mount(house.asking(&web(), json!({ "backend": "other", "objects": objects }))).await.unwrap();
    insta::assert_snapshot!(shown(&answer).join("\n"), @"
    a 0644 another
    b 0644 correct horse
    ");
    insta::assert_snapshot!(versions(&answer), @"
    other/shop/db=1
    files/shop/db=1
    ");
}

/// An answer without files would mean "the provider wrote them itself" (`proto/provider.proto`).
#[tokio::test]
async fn an_empty_plan_withdraws_every_file() {
    let house = House::new("");
    let provider = house.serve();
    for objects in [
        "[]",
        "",
        "# nothing yet\n",
        "- {secret: shop/none, optional: true}",
        "- {secret: shop/db, fields: ['x*'], path: d, optional: true}",
    ] {
        let answer = provider.mount(house.request(&web(), objects)).await.unwrap();
        assert_eq!(shown(&answer), [".keyferry 0644 "], "{objects}");
        assert!(!answer.object_version.is_empty(), "{objects}");
    }
    let answer = provider.mount(house.request(&web(), "[]")).await.unwrap();
    insta::assert_snapshot!(versions(&answer), @".keyferry=empty");
}

#[tokio::test]
async fn a_change_in_the_vault_is_in_the_next_mount() {
    let house = House::new("");
    let provider = house.serve();
    let request = house.request(&web(), DB);
    let mount = async || {
        let answer = provider.mount(request.clone()).await.unwrap();
        (shown(&answer).join(" "), versions(&answer))
    };
    let first = mount().await;
    assert_eq!(first, mount().await, "equal content, equal version");
    for round in 2..12 {
        house.set("shop/db", &[("password", format!("round {round}").as_bytes())]);
        assert_eq!(mount().await, (format!("db/password 0644 round {round}"), format!("files/shop/db={round}")));
    }
}

#[tokio::test]
async fn a_removed_secret_fails_the_next_mount_and_a_new_one_never_reuses_its_version() {
    let house = House::new("");
    let provider = house.serve();
    let request = house.request(&web(), DB);
    assert_eq!(versions(&provider.mount(request.clone()).await.unwrap()), "files/shop/db=1");
    house.vault(&["remove", "shop/db"]);
    assert_eq!(provider.mount(request.clone()).await.unwrap_err().code(), tonic::Code::NotFound);
    house.set("shop/db", &[("password", b"newer")]);
    let answer = provider.mount(request).await.unwrap();
    assert_eq!((shown(&answer).join(" ").as_str(), versions(&answer).as_str()), ("db/password 0644 newer", "files/shop/db=2"));
}

#[tokio::test]
async fn a_node_publish_secret_is_accepted_and_not_delivered() {
    let house = House::new("");
    let provider = house.serve();
    for secrets in [r#"{"clientid":"x","clientsecret":"y"}"#, "{}", "null", ""] {
        let request = MountRequest { secrets: secrets.to_owned(), ..house.request(&web(), "- {secret: shop/db, field: username}") };
        assert_eq!(files(&provider, request).await, "username 0644 app", "{secrets}");
    }
}

/// A way to write a text in JSON, with its name.
type Spelling = (&'static str, fn(&str) -> String);

/// A text in JSON.
fn plain(text: &str) -> String {
    json!(text).to_string()
}

/// A text in JSON, with an escape for each character.
fn escaped(text: &str) -> String {
    format!("\"{}\"", text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect::<String>())
}

/// Go writes `<`, `>` and `&` as escapes, and others escape as they like. A class is found again by its spelling, so each is asked for twice.
#[tokio::test]
async fn a_class_is_the_same_however_its_json_is_spelled() {
    let house = House::new("");
    house.set("shop/a", &[("value", b"A")]);
    house.set("shop/b", &[("value", b"B")]);
    let provider = house.serve();
    let spellings: [Spelling; 5] = [
        ("as it is", plain),
        ("as Go writes it", |text| plain(text).replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")),
        ("with escaped slashes", |text| plain(text).replace('/', "\\/")),
        ("all escaped", escaped),
        ("all escaped, in capitals", |text| escaped(text).to_uppercase().replace("\\U", "\\u")),
    ];
    for (what, spell) in spellings {
        for again in [false, true] {
            for (secret, expected) in [("a", "value 0644 A"), ("b", "value 0644 B")] {
                let objects = format!("# <é & 🔑>\n- secret: shop/{secret}\n  path: value\n");
                let mut asked = house.request(&web(), &objects);
                let spelled = asked.attributes.replace(&plain(&objects), &spell(&objects));
                assert_eq!(spelled == asked.attributes, what == "as it is", "{what}");
                asked.attributes = spelled;
                assert_eq!(files(&provider, asked).await, expected, "{what}, again: {again}");
            }
        }
    }
    // The key too can be escaped, and the last of two equal keys does not win in silence.
    let objects = "- secret: shop/a\n  path: value\n";
    let mut asked = house.request(&web(), objects);
    asked.attributes = asked.attributes.replace("\"objects\"", "\"\\u006fbjects\"");
    assert_eq!(files(&provider, asked.clone()).await, "value 0644 A");
    asked.attributes = asked.attributes.replacen('{', &format!("{{\"objects\":{},", plain("- secret: shop/b\n")), 1);
    insta::assert_snapshot!(provider.mount(asked).await.unwrap_err().message(), @r#"InvalidRequest: attributes: holds the key "objects" twice (the driver sends it; any other caller must send a JSON object of strings, each key once)"#);
}

/// Drivers before v1.6.0 say what is mounted; all send keys that mean nothing here.
#[tokio::test]
async fn what_drivers_add_does_no_harm() {
    let house = House::new("");
    let provider = house.serve();
    let parameters = json!({
        "objects": "- {secret: shop/db, field: username}",
        "providerName": "keyferry",
        "csi.storage.k8s.io/something.new": "x",
        "secrets-store.csi.x-k8s.io/other": "{}",
        "csi.storage.k8s.io/ephemeral": "false",
        "secretProviderClass": null,
    });
    let mounted = keyferry::server::proto::ObjectVersion { id: "files/shop/db".into(), version: "0".into() };
    let request = MountRequest { current_object_version: vec![mounted], ..house.asking(&web(), parameters) };
    assert_eq!(files(&provider, request).await, "username 0644 app");
}

/// With `serviceAccountTokenInSecrets` kubelet puts tokens into `secrets` (KEP-5538), and the driver may copy them.
#[tokio::test]
async fn tokens_are_found_in_both_places_and_those_in_secrets_win() {
    let house = House::new("");
    let provider = house.serve();
    let (good, bad) = (house.token(&web(), "keyferry"), house.token(&pod("shop", "web-1", "web"), "keyferry"));
    let (good, bad) = (tokens(&[("", &good), ("keyferry", &good)]), tokens(&[("keyferry", &bad)]));
    for (attributes, secrets, served) in [
        (Some(&good), None, true),
        (None, Some(&good), true),
        (Some(&good), Some(&good), true),
        (Some(&bad), Some(&good), true),
        (Some(&good), Some(&bad), false),
        (Some(&bad), None, false),
        (None, None, false),
    ] {
        let mut request = request(&web(), json!({ "objects": DB, TOKENS: attributes }));
        request.secrets = secrets.map_or("null".to_owned(), |tokens| json!({ TOKENS: tokens, "user": "x" }).to_string());
        let answer = provider.mount(request).await;
        assert_eq!(answer.is_ok(), served, "{attributes:?} {secrets:?}");
    }
}

#[tokio::test]
async fn with_verify_driver_the_drivers_word_is_enough() {
    let house = House::new("identity: { verify: driver }");
    let provider = house.serve();
    for tokens in [None, Some(tokens(&[])), Some(tokens(&[("keyferry", "no token at all")]))] {
        assert_eq!(shown(&provider.mount(request(&web(), json!({ "objects": DB, TOKENS: tokens }))).await.unwrap()).len(), 2);
    }
    let denied = provider.mount(request(&pod("bank", "web-0", "web"), json!({ "objects": DB }))).await.unwrap_err();
    assert_eq!(denied.code(), tonic::Code::PermissionDenied);
}

#[tokio::test]
async fn a_thousand_secrets_are_one_mount() {
    let house = House::new("limits: { objects: 1000 }");
    let mut objects = String::new();
    for n in 0..1000 {
        house.set(&format!("shop/many/{n}"), &[("value", format!("secret {n}").as_bytes())]);
        objects += &format!("- {{secret: shop/many/{n}, path: d{}/{n}}}\n", n % 10);
    }
    let provider = house.serve();
    for _ in 0..2 {
        let answer = provider.mount(house.request(&web(), &objects)).await.unwrap();
        assert_eq!((answer.files.len(), answer.object_version.len()), (1000, 1000));
        for (n, file) in answer.files.iter().enumerate() {
            assert_eq!((file.path.as_str(), &file.contents[..]), (format!("d{}/{n}", n % 10).as_str(), format!("secret {n}").as_bytes()));
        }
    }
}

#[tokio::test]
async fn many_pods_at_once_each_get_their_own() {
    let house = House::new("");
    house.reconfigure("namespace: shop }", "namespace: \"*\" }");
    house.reconfigure("files/shop/**", "files/${namespace}/**");
    for n in 0..20 {
        house.set(&format!("team-{n}/db"), &[("password", format!("of {n}").as_bytes())]);
    }
    let provider = house.serve();
    let mut mounts = JoinSet::new();
    for call in 0..200 {
        let (n, mut client) = (call % 20, provider.client().await);
        let request = house.request(&pod(&format!("team-{n}"), &format!("web-{call}"), "web"), &format!("- secret: team-{n}/db"));
        mounts.spawn(async move { (n, client.mount(request).await.unwrap().into_inner()) });
    }
    while let Some(answer) = mounts.join_next().await {
        let (n, answer) = answer.unwrap();
        assert_eq!(shown(&answer), [format!("db 0644 of {n}")]);
    }
}
