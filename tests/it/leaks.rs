//! Keyferry never writes a value, token or key anywhere but into the volume. The tests put canaries in everywhere. They search everything that comes
//! out for them, whole or in pieces, as they are or encoded.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use data_encoding::{BASE64, BASE64URL, HEXLOWER, HEXUPPER};
use keyferry::server::proto::MountRequest;
use serde_json::{Value, json};

use crate::support::{House, Provider, TOKENS, keyferry, pod, request, run, shown, tokens, web};

/// A secret's text. Nothing else in the tests has any eight letters of it.
const TEXT: &str = "Kx7vQ2mZ9pLw4RtY8sNb3HcJ6fGd1Va5";

/// One that needs escapes.
const ESCAPED: &str = "Wq8\"eR3\\tZ6\nuI9'oP2\u{e9}aS5dF7\tgH4jK1";

/// One that is not a text.
const BINARY: &[u8] = b"\xff\xfeMn4bV7cX1zL8\x00kJ5hG2fD9sA6\x80qP3";

/// In `nodePublishSecretRef`.
const NODE_SECRET: &str = "Yt5rE8wQ1uI4oP7aS2dF6gH9jK3lZ0xC";

/// A secret in a wrong place: in a class, a token, a key file.
const PASTED: &str = "Bv3nM6qW9eR2tY5uI8oP1aS4dF7gH0jX";

/// The shortest piece that counts as a leak, in bytes.
const PIECE: usize = 8;

/// What must not be seen, by name.
#[derive(Default)]
struct Canaries(Vec<(String, Vec<Vec<u8>>)>);

impl Canaries {
    fn new(house: &House) -> Self {
        let mut canaries = Self::default();
        for (name, value) in [("text", TEXT), ("escaped text", ESCAPED), ("node publish secret", NODE_SECRET), ("pasted", PASTED)] {
            canaries.watch(name, value.as_bytes());
        }
        canaries.watch("binary", BINARY);
        let identity = fs::read_to_string(house.path("age.key")).unwrap();
        canaries.watch("age identity", identity.lines().find_map(|line| line.strip_prefix("AGE-SECRET-KEY-1")).unwrap().as_bytes());
        canaries
    }

    fn watch(&mut self, name: &str, value: &[u8]) {
        self.0.push((name.to_owned(), value.chunks(PIECE * 2).filter(|piece| piece.len() >= PIECE).flat_map(forms).collect()));
    }

    /// A token's claims and its signature. The header is the same in all.
    fn watch_token(&mut self, token: &str) {
        for part in token.split('.').skip(1) {
            self.0.push((
                "token".to_owned(),
                part.as_bytes().chunks(PIECE * 4).filter(|piece| piece.len() >= PIECE * 2).map(<[u8]>::to_vec).collect(),
            ));
        }
    }

    /// The names of those that are in a text.
    fn seen_in(&self, text: &[u8]) -> Vec<&str> {
        let has = |form: &Vec<u8>| text.windows(form.len()).any(|window| window == form);
        self.0.iter().filter(|(_, forms)| forms.iter().any(has)).map(|(name, _)| name.as_str()).collect()
    }

    fn assert_unseen(&self, place: &str, text: &str) {
        assert_eq!(self.seen_in(text.as_bytes()), Vec::<&str>::new(), "in {place}:\n{text}");
    }
}

/// A value as it might be written: itself, escaped by Rust or JSON, as numbers, in hex, in base64 of any alignment.
fn forms(value: &[u8]) -> Vec<Vec<u8>> {
    let text = String::from_utf8_lossy(value).into_owned();
    let inner = |quoted: String| quoted[1..quoted.len() - 1].to_owned().into_bytes();
    let numbers = |format: fn(&u8) -> String| value.iter().map(format).collect::<Vec<_>>().join(", ").into_bytes();
    let mut forms = vec![
        value.to_vec(),
        inner(format!("{text:?}")),
        inner(json!(text).to_string()),
        value.escape_ascii().to_string().into_bytes(),
        numbers(u8::to_string),
        numbers(|byte| format!("0x{byte:02x}")),
        HEXLOWER.encode(value).into_bytes(),
        HEXUPPER.encode(value).into_bytes(),
    ];
    for before in 0..3 {
        let shifted = [&b"xx"[..before], value].concat();
        for encoding in [BASE64, BASE64URL] {
            let encoded = encoding.encode(&shifted).into_bytes();
            // The characters at both ends also depend on the neighbours of the value.
            forms.push(encoded[before.div_ceil(3) * 4..encoded.len() - 4].to_vec());
        }
    }
    forms
}

#[test]
fn the_search_finds_every_form() {
    let mut canaries = Canaries::default();
    canaries.watch("text", TEXT.as_bytes());
    canaries.watch("escaped", ESCAPED.as_bytes());
    canaries.watch("binary", BINARY);
    for (name, value) in [("text", TEXT.as_bytes()), ("escaped", ESCAPED.as_bytes()), ("binary", BINARY)] {
        let lossy = String::from_utf8_lossy(value).into_owned();
        for written in [
            value.to_vec(),
            [b"a", value].concat(),
            format!("{lossy:?}").into_bytes(),
            format!("{value:?}").into_bytes(),
            json!({ "error": lossy }).to_string().into_bytes(),
            BASE64.encode(value).into_bytes(),
            BASE64URL.encode(&[b"a", value].concat()).into_bytes(),
            BASE64.encode(&[b"ab", value].concat()).into_bytes(),
            HEXLOWER.encode(value).into_bytes(),
            value[..PIECE * 2].to_vec(),
        ] {
            assert!(canaries.seen_in(&written).contains(&name), "{name}: {}", written.escape_ascii());
        }
    }
    assert!(canaries.seen_in(b"nothing here").is_empty());
}

/// A house whose secrets are canaries, and whose daemon logs as much as it can.
fn house_of_canaries(format: &str) -> House {
    let house = House::new(&format!("log: {{ format: {format}, level: trace }}\nmetrics: {{ listen: \"127.0.0.1:0\" }}"));
    house.set("shop/canary", &[("text", TEXT.as_bytes()), ("escaped", ESCAPED.as_bytes())]);
    house.set("shop/lone", &[("value", TEXT.as_bytes())]);
    house.set("shop/binary", &[("key", BINARY), ("text", TEXT.as_bytes())]);
    house.set("shop/old", &[("value", TEXT.as_bytes())]);
    house.set("shop/old", &[("value", ESCAPED.as_bytes())]);
    house.set("shop/big", &[("value", TEXT.repeat(60_000).as_bytes())]);
    house.set("bank/canary", &[("text", TEXT.as_bytes())]);
    damage(&house);
    house
}

/// Puts files into the vault that do not open, or open to something wrong, with canaries in each.
fn damage(house: &House) {
    let write = |name: &str, bytes: &[u8]| fs::write(house.path(&format!("vault/shop/{name}.age")), bytes).unwrap();
    write("plain", TEXT.as_bytes());
    write("almost", format!("age-encryption.org/v1\n-> X25519 {TEXT}\n{TEXT}\n--- {TEXT}\n{TEXT}").as_bytes());
    fs::copy(house.path("vault/shop/canary.age"), house.path("vault/shop/moved.age")).unwrap();
    let document = |fields: &str| format!(r#"{{"format":1,"name":"shop/x","revision":1,"time":"2026-01-02T03:04:05Z","fields":{fields}}}"#);
    for (name, plaintext) in [
        ("unfit-text", TEXT.to_owned()),
        ("unfit-string", json!(TEXT).to_string()),
        ("unfit-value", document(&json!({ "f": TEXT }).to_string())),
        ("unfit-kind", document(&json!({ "f": { TEXT: TEXT } }).to_string())),
        ("unfit-base64", document(&json!({ "f": { "base64": format!("{TEXT}!") } }).to_string())),
        ("unfit-time", document("{}").replace("2026-01-02", TEXT)),
        ("unfit-key", document("{}").replace("\"format\"", &format!("\"{TEXT}\":1,\"format\""))),
        ("unfit-twice", document(&format!(r#"{{"f":{{"text":"{TEXT}"}},"f":{{"text":"{TEXT}"}}}}"#))),
        ("unfit-end", document("{}") + TEXT),
    ] {
        write(name, &seal(house, plaintext.as_bytes()));
    }
}

/// Encrypts what no vault would write.
fn seal(house: &House, plaintext: &[u8]) -> Vec<u8> {
    let recipient: age::x25519::Recipient = house.recipient().parse().unwrap();
    let mut sealed = Vec::new();
    let mut writer =
        age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient)).unwrap().wrap_output(&mut sealed).unwrap();
    writer.write_all(plaintext).unwrap();
    writer.finish().unwrap();
    sealed
}

/// Classes that succeed or fail, each in another place.
fn classes() -> Vec<String> {
    let mut classes: Vec<String> = [
        "- secret: shop/canary",
        "- {secret: shop/canary, fields: '*', path: all}\n- {secret: shop/binary, field: key}\n- {secret: shop/old, version: '1'}",
        "- {secret: shop/lone, optional: true}\n- {secret: shop/none, optional: true}",
        "- {secret: shop/canary, field: text, encoding: base64}",
        "- {secret: shop/canary, field: text, encoding: base64url}",
        "- {secret: shop/canary, field: escaped, encoding: hex}\n- {secret: shop/lone, encoding: hex}",
        "- {secret: shop/canary, fields: '*', path: all, encoding: base64}",
        "- secret: shop/binary",
        "- secret: shop/big",
        "- {secret: shop/canary, field: txet}",
        "- secret: bank/canary",
        "- {secret: shop/canary, field: 'length(to_number(text))', path: x}",
        "- {secret: shop/canary, field: 'abs(text)', path: x}",
        "- {secret: shop/canary, field: 'sum([text, escaped])', path: x}",
        "- {secret: shop/canary, field: 'sort_by([text], &abs(@))', path: x}",
        "- {secret: shop/canary, field: 'join(text, escaped)', path: x}",
        "- {secret: shop/canary, field: 'text.nothing', path: x}",
        "- {secret: shop/canary, field: 'values(text)', path: x}",
        "- {secret: shop/canary, field: '{a: text, b: escaped}', path: x}",
    ]
    .map(str::to_owned)
    .to_vec();
    classes.extend(["plain", "almost", "moved"].map(|name| format!("- secret: shop/{name}")));
    for name in ["text", "string", "value", "kind", "base64", "time", "key", "twice", "end"] {
        classes.push(format!("- secret: shop/unfit-{name}"));
    }
    // A secret in a wrong place: values that nothing reads, or that are not YAML.
    classes.extend([
        format!("- {{secret: shop/canary, password: {PASTED}}}"),
        format!("- {{secret: shop/canary, optional: {PASTED}}}"),
        format!("- {{secret: shop/canary, data: {{password: {PASTED}}}}}"),
        format!("- {{secret: shop/canary, data: {PASTED}"),
        format!("- secret: shop/canary\n\tpassword: \"{PASTED}"),
        format!("- [{PASTED}]"),
        format!("- {PASTED}"),
        format!("password: {PASTED}"),
        format!("- !{PASTED} x"),
        format!("- *{PASTED}"),
        format!("- \"\\{PASTED}\""),
        format!("%{PASTED}\n---\n[]"),
        PASTED.to_owned(),
    ]);
    classes
}

/// Requests that are wrong before Keyferry reads a class, with canaries in every part; and each token in them.
fn bad_requests(house: &House, canaries: &mut Canaries) -> Vec<MountRequest> {
    let good = house.token(&web(), "keyferry");
    let others = [house.token(&pod("bank", "web-0", "web"), "keyferry"), house.token(&web(), "vault"), house.token(&web(), "")];
    let segments: Vec<&str> = good.split('.').collect();
    let false_tokens = [
        format!("{}.{}.{PASTED}", segments[0], segments[1]),
        format!("{}.{PASTED}.{}", segments[0], segments[2]),
        format!("{PASTED}.{}.{}", segments[1], segments[2]),
        PASTED.to_owned(),
        format!("{good}.{PASTED}"),
        good.repeat(40),
        String::new(),
    ];
    others.iter().chain([&good]).for_each(|token| canaries.watch_token(token));
    let with = |tokens: Value| request(&web(), json!({ "objects": "- secret: shop/canary", TOKENS: tokens }));
    let mut requests: Vec<_> = others.iter().chain(&false_tokens).map(|token| with(json!(tokens(&[("keyferry", token)])))).collect();
    for raw in [
        good.clone(),
        json!({ "keyferry": good }).to_string(),
        json!({ "keyferry": { "token": { "token": good } } }).to_string(),
        json!({ "keyferry": { "token": [good] } }).to_string(),
        json!([good]).to_string(),
        json!(good).to_string(),
        format!("{{\"keyferry\": {{\"token\": \"{good}"),
        json!({ "keyferry": { good.as_str(): 1, "token": good }, "other": {} }).to_string(),
    ] {
        requests.push(with(json!(raw)));
        requests.push(MountRequest { secrets: json!({ TOKENS: raw }).to_string(), ..with(Value::Null) });
        requests.push(MountRequest { secrets: raw.clone(), ..with(Value::Null) });
        requests.push(MountRequest { attributes: raw, ..with(Value::Null) });
    }
    // Values that are not strings, under keys that need strings: the JSON library would quote them.
    for value in [json!({ "a": PASTED }), json!([PASTED]), json!({ "a": { "b": PASTED } })] {
        requests.push(with(value.clone()));
        requests.push(MountRequest { secrets: value.to_string(), ..with(Value::Null) });
        requests.push(MountRequest { secrets: json!({ "password": value }).to_string(), ..with(Value::Null) });
    }
    requests.push(MountRequest { secrets: format!("{{\"password\": \"{NODE_SECRET}"), ..house.request(&web(), "[]") });
    requests.push(MountRequest { secrets: format!("{{\"password\": {NODE_SECRET}}}"), ..house.request(&web(), "[]") });
    // A secret under a key of the class.
    for key in ["password", "token", "mode", "optional"] {
        requests.push(house.asking(&web(), json!({ "objects": "[]", key: if key == "mode" { "x" } else { PASTED } })));
    }
    requests
}

/// All that the daemon says, without the files: errors, ids and versions.
async fn say_everything(house: &House, provider: &Provider, canaries: &mut Canaries) -> String {
    let mut requests = bad_requests(house, canaries);
    for class in classes() {
        let request = house.request(&web(), &class);
        canaries.watch_token(token_of(&request).as_str());
        requests.push(MountRequest { secrets: json!({ "clientsecret": NODE_SECRET }).to_string(), ..request });
    }
    let (mut client, mut said) = (provider.client().await, String::new());
    let mut delivered = 0;
    for request in requests {
        said += &format!("{request:?}\n");
        match client.mount(request).await {
            Ok(answer) => {
                delivered += usize::from(canaries.seen_in(shown(answer.get_ref()).join("\n").as_bytes()).contains(&"text"));
                said += &format!("{answer:?}\n");
            }
            Err(status) => said += &format!("{status} {status:?}\n"),
        }
    }
    assert!(delivered >= 3, "the canaries never were delivered");
    said
}

fn token_of(request: &MountRequest) -> String {
    let attributes: Value = serde_json::from_str(&request.attributes).unwrap();
    let tokens: Value = serde_json::from_str(attributes[TOKENS].as_str().unwrap()).unwrap();
    tokens["keyferry"]["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_daemon_writes_no_canary_in_json() {
    the_daemon_writes_no_canary("json").await;
}

#[tokio::test]
async fn the_daemon_writes_no_canary_in_text() {
    the_daemon_writes_no_canary("text").await;
}

async fn the_daemon_writes_no_canary(format: &str) {
    let house = house_of_canaries(format);
    let mut canaries = Canaries::new(&house);
    let provider = house.serve();
    canaries.watch("version key", &fs::read(house.path("state/version.key")).unwrap());

    let mut said = say_everything(&house, &provider, &mut canaries).await;
    said += &endpoints(&provider).await;
    // Keys that are not keys, read again while mounts go on.
    let files = ["age.key", "jwks.json"].map(|name| (house.path(name), fs::read(house.path(name)).unwrap()));
    let jwk = json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": "k", "d": PASTED, "x": PASTED, "y": PASTED }, PASTED, { "kty": "oct", "k": PASTED }] });
    for content in
        [PASTED.to_owned(), format!("AGE-SECRET-KEY-1{PASTED}\n"), jwk.to_string(), format!("{{\"keys\": \"{PASTED}\"}}"), String::new()]
    {
        for (path, _) in &files {
            fs::write(path, &content).unwrap();
        }
        tokio::time::sleep(tokio::time::Duration::from_millis(1_100)).await;
        for class in ["- secret: shop/canary", "- secret: shop/lone"] {
            said += &format!("{:?}\n", provider.mount(house.request(&web(), class)).await);
        }
        said += &endpoints(&provider).await;
    }
    for (path, content) in &files {
        fs::write(path, content).unwrap();
    }

    canaries.assert_unseen("errors, versions and Debug", &said);
    let log = provider.log();
    assert!(log.contains("SecretCorrupt") && log.contains("IdentityUnverified") && log.contains("mounted"), "{log}");
    canaries.assert_unseen("the log", &log);
    assert!(provider.stop().success());
    let audit = fs::read_to_string(house.path("audit.jsonl")).unwrap();
    assert!(audit.contains("shop/canary"), "{audit}");
    canaries.assert_unseen("the audit", &audit);
}

async fn endpoints(provider: &Provider) -> String {
    let mut said = String::new();
    for path in ["/metrics", "/statusz", "/readyz", "/livez", "/none"] {
        said += &provider.get(path).await;
    }
    assert!(said.contains("keyferry_mounts_total") && said.contains("\"backends\""), "{said}");
    said
}

/// What a command printed, to standard output and standard error.
fn printed(command: &mut Command, input: &str) -> String {
    let (code, output, errors) = run(command, input);
    format!("exit code {code}\n{output}\n{errors}\n")
}

/// A class, without its objects.
const MANIFEST: &str = "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: { name: shop }\nspec:\n  \
                        provider: keyferry\n  parameters:\n    objects: |\n";

#[tokio::test]
async fn keyferry_mount_prints_no_canary() {
    let house = house_of_canaries("json");
    let mut canaries = Canaries::new(&house);
    let provider = house.serve();
    let token = house.token(&web(), "keyferry");
    canaries.watch_token(&token);
    let write = |name: &str, content: &str| fs::write(house.path(name), content).unwrap();
    write("good.jwt", &token);
    write("bad.jwt", PASTED);
    write("good.yaml", &format!("clientsecret: {NODE_SECRET}\n"));
    for (name, content) in [
        ("bad1.yaml", format!("[{NODE_SECRET}]")),
        ("bad2.yaml", format!("a: {{b: {NODE_SECRET}}}")),
        ("bad3.yaml", format!("a: \"{NODE_SECRET}")),
    ] {
        write(name, &content);
    }
    let mut said = String::new();
    let mount = |class: &str, token: &str, secrets: &str, how: &[&str]| {
        let objects = class.lines().map(|line| format!("      {line}")).collect::<Vec<_>>().join("\n");
        write("class.yaml", &format!("{MANIFEST}{objects}"));
        let mut command = keyferry();
        command.arg("mount").arg("--socket").arg(&provider.socket).arg("--class").arg(house.path("class.yaml"));
        command.args(["--namespace", "shop", "--pod", "web-0", "--uid", "uid-shop-web-0", "--service-account", "web"]);
        command.arg("--token").arg(format!("keyferry={}", house.path(token).display())).arg("--secrets").arg(house.path(secrets));
        printed(command.args(how), "")
    };
    let target = house.path("target").display().to_string();
    for how in [&["--dry-run"][..], &["--dry-run", "--output", "json"], &["--target", &target], &["--target", &target, "--output", "json"]]
    {
        for class in &classes() {
            said += &mount(class, "good.jwt", "good.yaml", how);
        }
        said += &mount("- secret: shop/canary", "bad.jwt", "good.yaml", how);
        for secrets in ["bad1.yaml", "bad2.yaml", "bad3.yaml"] {
            said += &mount("- secret: shop/canary", "good.jwt", secrets, how);
        }
    }
    said += &mount("- secret: shop/lone", "good.jwt", "good.yaml", &["--target", &target]);
    assert!(fs::read_to_string(Path::new(&target).join("lone")).is_ok_and(|text| text == TEXT), "{said}");
    assert!(said.contains("Dry run") && said.contains("SecretCorrupt"), "{said}");
    canaries.assert_unseen("the output of keyferry mount", &said);
}

#[test]
fn keyferry_vault_prints_no_canary_but_the_field_asked_for() {
    let house = house_of_canaries("json");
    let canaries = Canaries::new(&house);
    let vault = |arguments: &[&str], input: &str| {
        let mut command = keyferry();
        command.arg("vault").args(arguments).env("KEYFERRY_VAULT", house.path("vault")).env("KEYFERRY_IDENTITY", house.path("age.key"));
        printed(&mut command, input)
    };
    let mut said = String::new();
    for name in ["canary", "binary", "lone", "old", "plain", "almost", "moved", "unfit-text", "unfit-string", "unfit-value", "unfit-base64"]
    {
        said += &vault(&["get", &format!("shop/{name}")], "");
    }
    fs::write(house.path("value"), ESCAPED).unwrap();
    let at_file = format!("b=@{}", house.path("value").display());
    for fields in [
        &[&format!("a={TEXT}"), "b=x"][..],
        &[&format!("a={TEXT}"), &at_file],
        &["a=-", &at_file],
        &["a=-", "b=-"],
        &[TEXT],
        &["a=x", TEXT],
        &[&format!("={TEXT}")],
        &[&format!("a=@/nowhere/{}", "x")],
    ] {
        said += &vault(&[&["set", "shop/new"][..], fields].concat(), TEXT);
    }
    let identity = fs::read_to_string(house.path("age.key")).unwrap();
    let key = identity.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).unwrap();
    said += &vault(&["init", "--recipient", key], "");
    said += &vault(&["init", "--recipient", PASTED], "");
    said += &vault(&["list"], "");
    said += &vault(&["list", "shop/"], "");
    for arguments in [
        &["set", "shop/canary", "a=x"][..],
        &["set", "shop/new", "a=-", "--replace"],
        &["patch", "shop/new", "a=-", &at_file],
        &["patch", "shop/canary", "b=-", "--unset", "none"],
        &["patch", "shop/canary", TEXT],
        &["history", "shop/new"],
        &["history", "shop/new", "-o", "json"],
        &["diff", "shop/new"],
        &["diff", "shop/new", "-o", "json"],
        &["list", "-o", "wide"],
        &["list", "-o", "json"],
        &["get", "shop/canary", "-o", "json"],
        &["rollback", "shop/new", "--to", "1"],
        &["copy", "shop/new", "shop/copied"],
        &["rename", "shop/copied", "shop/renamed"],
        &["remove", "shop/renamed", "--dry-run"],
        &["prune", "--unreadable", "--dry-run"],
        &["recipients", "--add", PASTED],
        &["rekey", "--skip-unreadable"],
    ] {
        said += &vault(arguments, TEXT);
    }
    said += &vault(&["remove", "shop/new"], "");
    // A recipient or an identity that is not valid.
    for (file, content) in [("bad.key", format!("{PASTED}\n")), ("worse.key", format!("AGE-SECRET-KEY-1{PASTED}\n"))] {
        fs::write(house.path(file), content).unwrap();
        said += &vault(&["get", "shop/canary", "--identity", house.path(file).to_str().unwrap()], "");
        said += &vault(&["init", "--identity", house.path(file).to_str().unwrap()], "");
    }
    canaries.assert_unseen("the output of keyferry vault", &said);
    assert!(vault(&["get", "shop/canary", "--field", "text"], "").contains(TEXT));
}
