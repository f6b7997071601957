//! The JSON Schemas that `keyferry check` publishes. An independent validator compares them with the examples. The tests compare them with the
//! parser, key by key.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use keyferry::config::Config;
use keyferry::dialect::{self, ClassLimits};
use keyferry::model::{Ask, Catalogue, ClassFaults, SecretRef, Serving, Unresolved, Version};
use keyferry::steps::Steps;
use serde_json::{Map, Value, json};

use crate::deploy::configurations;
use crate::support::{apart, keyferry, run};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn schema(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(root().join(format!("schemas/{name}.json"))).unwrap()).unwrap()
}

fn examples() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(root().join("deploy/examples")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|kind| kind == "yaml"));
    files.sort();
    assert!(files.len() > 10);
    files
}

#[test]
fn what_is_printed_stands_in_the_folder_too() {
    for name in ["audit", "class", "config"] {
        let (code, out, _) = run(keyferry().args(["check", "--schema", name]), "");
        assert_eq!((code, out), (0, fs::read_to_string(root().join(format!("schemas/{name}.json"))).unwrap()));
    }
}

/// What the validator says of documents: lines for each one that is not valid.
pub fn validate(schema: &str, definition: &str, documents: &Value) -> String {
    let python = root().join(".venv/bin/python");
    assert!(python.exists(), "no .venv: run `make tools` in {}", root().display());
    let script = r"
import json, sys
import jsonschema
schema = json.load(open(sys.argv[1]))
jsonschema.Draft202012Validator.check_schema(schema)
if sys.argv[2]:
    schema = {**schema, '$ref': sys.argv[2]} if sys.argv[2] == '#' else {'$schema': schema['$schema'], '$defs': schema['$defs'], '$ref': sys.argv[2]}
validator = jsonschema.Draft202012Validator(schema)
for name, document in json.load(sys.stdin).items():
    for error in validator.iter_errors(document):
        print(name, error.json_path, error.message[:200])
";
    let mut command = apart(python);
    command.arg("-c").arg(script).arg(root().join(format!("schemas/{schema}.json"))).arg(definition);
    let (code, out, err) = run(&mut command, &documents.to_string());
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    out
}

/// The documents of YAML files, read by PyYAML, which is not our own reader.
fn load(texts: &BTreeMap<String, String>) -> Value {
    let script = "import json, sys, yaml\nprint(json.dumps({k: list(yaml.safe_load_all(v)) for k, v in json.load(sys.stdin).items()}))";
    let mut command = apart(root().join(".venv/bin/python"));
    let (code, out, err) = run(command.arg("-c").arg(script), &json!(texts).to_string());
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

/// The fenced YAML blocks of a document.
fn blocks(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn examples_of_classes_and_their_objects_are_valid() {
    let mut texts: BTreeMap<String, String> =
        examples().iter().map(|file| (file.display().to_string(), fs::read_to_string(file).unwrap())).collect();
    for document in
        ["README.md", "docs/classes.md", "docs/check.md", "docs/migrate-from-vault-csi-provider.md", "docs/migrate-from-aws-provider.md"]
    {
        texts.extend((1..).zip(blocks(&root().join(document))).map(|(at, block)| (format!("{document} {at}"), block)));
    }
    let (mut classes, mut inner, mut providers) = (Map::new(), BTreeMap::new(), BTreeMap::new());
    for (file, documents) in load(&texts).as_object().unwrap() {
        for document in documents.as_array().unwrap().iter().filter(|document| document["kind"] == "SecretProviderClass") {
            let name = format!("{file} {}", document["metadata"]["name"]);
            let provider = document["spec"]["provider"].as_str().unwrap();
            providers.insert(name.clone(), provider.to_owned());
            inner.insert(name.clone(), document["spec"]["parameters"]["objects"].as_str().unwrap().to_owned());
            classes.insert(name, document.clone());
        }
    }
    assert!(classes.len() > 17, "{}", classes.len());
    assert_eq!(validate("class", "", &Value::Object(classes)), "");
    let objects: Map<String, Value> =
        load(&inner).as_object().unwrap().iter().map(|(name, docs)| (name.clone(), docs[0].clone())).collect();
    for (provider, definition) in [("keyferry", "objects"), ("vault", "peerObjects"), ("aws", "awsObjects")] {
        let of_provider: Map<String, Value> =
            objects.iter().filter(|(name, _)| providers[*name] == provider).map(|(name, list)| (name.clone(), list.clone())).collect();
        assert!(!of_provider.is_empty(), "{provider}");
        assert_eq!(validate("class", &format!("#/$defs/{definition}"), &Value::Object(of_provider)), "");
    }
}

#[test]
fn examples_of_the_configuration_are_valid() {
    let mut texts: BTreeMap<String, String> =
        configurations().iter().map(|file| (file.display().to_string(), fs::read_to_string(file).unwrap())).collect();
    let full = blocks(&root().join("docs/configuration.md")).into_iter().find(|block| block.starts_with("providers:")).unwrap();
    texts.insert("docs".to_owned(), full);
    texts.insert("http store".to_owned(), blocks(&root().join("docs/http-store.md")).remove(0));
    for text in texts.values() {
        Config::parse(text).unwrap();
    }
    let documents: Map<String, Value> =
        load(&texts).as_object().unwrap().iter().map(|(name, docs)| (name.clone(), docs[0].clone())).collect();
    assert_eq!(validate("config", "", &Value::Object(documents)), "");
}

/// A mapping of the configuration: where it is, what its schema says, and what else must be there.
struct Place {
    path: &'static [&'static str],
    schema: Value,
}

fn base() -> Value {
    json!({
        "identity": { "verify": "jwks", "issuer": "https://oidc.example", "jwks": { "file": "/jwks.json" } },
        "backends": {
            "files": { "kind": "file", "vault": "/v", "identity": "/k" },
            "intranet": { "kind": "http", "url": "https://secrets.example/v1/{name}" },
            "amazon": { "kind": "aws", "region": "eu-west-1", "auth": { "method": "irsa" } },
            "bao": { "kind": "vault", "address": "https://bao:8200", "auth": { "method": "jwt", "role": "csi" } },
            "bao-dr": { "kind": "vault", "address": "https://dr:8200", "auth": { "method": "jwt", "role": "csi" } },
            "intranet-dr": { "kind": "http", "url": "https://dr.example/v1/{name}" },
            "both": { "kind": "failover", "of": ["intranet", "intranet-dr"] },
        },
        "policy": [{ "pods": { "namespace": "*" }, "read": ["files/x"] }],
        "audit": { "file": "/audit.jsonl", "alerts": [{ "rule": "manySecrets" }, { "rule": "denials" }] },
    })
}

fn places() -> Vec<Place> {
    let schema = schema("config");
    let at = |pointer: &str| schema.pointer(pointer).unwrap().clone();
    vec![
        Place { path: &[], schema: schema.clone() },
        Place { path: &["identity"], schema: at("/properties/identity") },
        Place { path: &["identity", "jwks"], schema: at("/properties/identity/properties/jwks") },
        Place { path: &["backends", "both"], schema: at("/$defs/failoverBackend") },
        Place { path: &["backends", "files"], schema: at("/$defs/fileBackend") },
        Place { path: &["backends", "intranet"], schema: at("/$defs/httpBackend") },
        Place { path: &["backends", "intranet", "auth"], schema: at("/$defs/httpAuth") },
        Place { path: &["backends", "intranet", "auth", "bearer"], schema: at("/$defs/httpAuth/properties/bearer") },
        Place { path: &["backends", "intranet", "auth", "basic"], schema: at("/$defs/httpAuth/properties/basic") },
        Place { path: &["backends", "amazon"], schema: at("/$defs/awsBackend") },
        Place { path: &["backends", "amazon", "auth"], schema: at("/$defs/awsAuth") },
        Place { path: &["backends", "amazon", "auth", "assumeRole"], schema: at("/$defs/awsAssume") },
        Place { path: &["backends", "amazon", "classMay"], schema: at("/$defs/awsClassMay") },
        Place { path: &["backends", "amazon", "endpoints"], schema: at("/$defs/awsEndpoints") },
        Place { path: &["backends", "bao"], schema: at("/$defs/vaultBackend") },
        Place { path: &["backends", "bao", "auth"], schema: at("/$defs/vaultAuth") },
        Place { path: &["backends", "bao", "classMay"], schema: at("/$defs/classMay") },
        Place { path: &["backends", "bao", "cache"], schema: at("/$defs/cacheTimes") },
        Place { path: &["policy", "0"], schema: at("/$defs/rule") },
        Place { path: &["policy", "0", "pods"], schema: at("/$defs/rule/properties/pods") },
        Place { path: &["cache"], schema: at("/properties/cache") },
        Place { path: &["leases"], schema: at("/properties/leases") },
        Place { path: &["events"], schema: at("/properties/events") },
        Place { path: &["limits"], schema: at("/properties/limits") },
        Place { path: &["audit"], schema: at("/properties/audit") },
        Place { path: &["audit", "rotate"], schema: at("/properties/audit/properties/rotate") },
        Place { path: &["audit", "alerts", "0"], schema: at("/$defs/manySecrets") },
        Place { path: &["audit", "alerts", "1"], schema: at("/$defs/denials") },
        Place { path: &["metrics"], schema: at("/properties/metrics") },
        Place { path: &["log"], schema: at("/properties/log") },
    ]
}

/// The base with one more key.
fn with(path: &[&str], key: &str, value: &Value) -> Value {
    let mut document = base();
    let mut node = &mut document;
    for step in path {
        node = match node {
            Value::Array(items) => &mut items[step.parse::<usize>().unwrap()],
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
                node.as_object_mut().unwrap().entry(*step).or_insert_with(|| json!({}))
            }
        };
    }
    node.as_object_mut().unwrap().insert(key.to_owned(), value.clone());
    document
}

/// Everything but the policy, which knows where its rules are in the file.
fn shown(document: &Value) -> Option<String> {
    let same = Config::parse(&base().to_string()).unwrap().policy;
    let config = Config { policy: same, ..Config::parse(&document.to_string()).ok()? };
    Some(format!("{config:?}"))
}

/// A configuration that writes a default is the same as one without the key.
#[test]
fn defaults_of_the_schema_are_those_of_the_program() {
    let (mut count, mut different, mut refused) = (0, Vec::new(), Vec::new());
    for Place { path, schema } in places() {
        let properties = schema["properties"].as_object().into_iter().flatten();
        for (key, default) in properties.filter_map(|(key, property)| Some((key, property.get("default")?))) {
            let written = with(path, key, default);
            let mut without = written.clone();
            let pointer: String = path.iter().map(|step| format!("/{step}")).collect();
            without.pointer_mut(&pointer).unwrap().as_object_mut().unwrap().remove(key);
            count += 1;
            match (shown(&written), shown(&without)) {
                (Some(written), Some(without)) if written == without => {}
                (Some(_), Some(_)) => different.push(format!("{pointer}/{key}")),
                _ => refused.push(format!("{pointer}/{key}")),
            }
        }
    }
    assert!(count > 30, "{count}");
    // If nobody writes the first, the program's list also has `*`, which `**` includes. If nobody writes the second, a class may name one of two
    // audiences.
    assert_eq!(different, ["/backends/amazon/classMay/role", "/backends/bao/auth/audience"]);
    // Both need other keys, which the base does not have.
    assert_eq!(refused, ["/backends/intranet/share", "/backends/amazon/auth/profile"]);
}

/// The keys that a reader knows, from its own message about a key that it does not know.
fn known_keys(problem: &str) -> BTreeSet<String> {
    let list = problem.rsplit_once("(known here: ").unwrap_or_else(|| panic!("{problem}")).1;
    list.trim_end_matches(')').split(", ").map(str::to_owned).collect()
}

fn keys(properties: &Value) -> BTreeSet<String> {
    properties.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn schema_and_parser_know_the_same_keys_of_the_configuration() {
    for Place { path, schema } in places() {
        let unknown = with(path, "qqqqqqqqqqqq", &json!(1));
        let faults = Config::parse(&unknown.to_string()).unwrap_err();
        let fault = faults.iter().find(|fault| fault.key.ends_with("qqqqqqqqqqqq")).unwrap();
        assert_eq!(keys(&schema["properties"]), known_keys(&fault.problem), "{path:?}");
        assert_ne!(validate("config", "", &json!({ "unknown": unknown })), "", "{path:?}");
    }
}

/// Values of `audit` that both refuse.
const BAD_AUDITS: [&str; 10] = [
    r#"{ "rotate": {} }"#,
    r#"{ "file": "stdout", "rotate": { "size": "1MiB" } }"#,
    r#"{ "file": "/a", "rotate": { "size": 64 } }"#,
    r#"{ "file": "/a", "rotate": { "size": "64B", "keep": 4 } }"#,
    r#"{ "file": "/a", "rotate": { "keep": 0 } }"#,
    r#"{ "file": "/a", "rotate": { "keep": 101 } }"#,
    r#"{ "alerts": [{}] }"#,
    r#"{ "alerts": [{ "rule": "everything" }] }"#,
    r#"{ "alerts": [{ "rule": "denials", "secrets": 5 }] }"#,
    r#"{ "alerts": [{ "rule": "manySecrets", "secrets": 0, "within": "10m" }] }"#,
];

/// Values of an HTTP store that both refuse.
fn bad_of_http() -> Vec<(&'static str, Value)> {
    let bad = vec![
        ("url", json!("https://{name}.example/x")),
        ("url", json!("https://user@secrets.example/{name}")),
        ("url", json!("https://secrets.example/x")),
        ("url", json!("https://secrets.example/{name}/{version}")),
        ("headers", json!({ "X-Api-Key": {} })),
        ("auth", json!({ "bearer": { "podToken": "a", "file": "/f" } })),
        ("auth", json!({ "bearer": { "file": "/t" }, "basic": { "user": "a", "passwordFile": "/p" } })),
        ("statuses", json!({ "200": "notFound" })),
        ("statuses", json!({ "404": "absent" })),
        ("check", json!("healthz")),
    ];
    for (key, value) in &bad {
        assert!(Config::parse(&with(&["backends", "intranet"], key, value).to_string()).is_err(), "{key}={value}");
    }
    bad
}

#[test]
fn schema_and_parser_agree_on_a_value_for_each_key_of_the_configuration() {
    let (mut documents, mut refused) = (Map::new(), BTreeSet::new());
    for Place { path, schema } in places() {
        for (key, property) in schema["properties"].as_object().unwrap() {
            let values = property["examples"].as_array().unwrap_or_else(|| panic!("{path:?} {key} has no examples"));
            for value in values {
                let (name, document) = (format!("{}/{key}={value}", path.join("/")).replace(' ', ""), with(path, key, value));
                if Config::parse(&document.to_string()).is_err() {
                    refused.insert(name.clone());
                }
                documents.insert(name, document);
            }
        }
    }
    for (key, value) in bad_of_http() {
        let name = format!("bad/{key}={value}").replace(' ', "");
        documents.insert(name.clone(), with(&["backends", "intranet"], key, &value));
        refused.insert(name);
    }
    for value in BAD_AUDITS {
        let (name, document) = (format!("bad/{value}").replace(' ', ""), with(&[], "audit", &serde_json::from_str(value).unwrap()));
        assert!(Config::parse(&document.to_string()).is_err(), "{value}");
        documents.insert(name.clone(), document);
        refused.insert(name);
    }
    let invalid = validate("config", "", &Value::Object(documents));
    let invalid: BTreeSet<String> = invalid.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(invalid, refused);
    // Keys that need another key, and keys that cannot be used together with those of the base.
    let expected = ["jwks/url", "jwks/ca", "jwks/tokenFile", "sealed", "amazon/auth", "bao/auth", "bao/client", "classMay/tlsDir", "bad/"];
    let of_http = ["auth/basic", "body", "client", "latest", "share"].map(|key| format!("intranet/{key}"));
    let expected: Vec<&str> = expected.into_iter().chain(of_http.iter().map(String::as_str)).collect();
    assert!(refused.iter().all(|name| expected.iter().any(|expected| name.contains(expected))), "{refused:?}");
}

/// One backend with every name and version there could be.
struct Any;

impl Catalogue for Any {
    fn resolve(&self, ask: &Ask<'_>) -> Result<SecretRef, Unresolved> {
        let cause = |cause| Unresolved::Name { name: ask.name.to_owned(), cause };
        let backend = ask.backend.unwrap_or("files").parse().map_err(|_| Unresolved::Backend("no name".to_owned()))?;
        Ok(SecretRef::read(backend, ask.name.parse().map_err(cause)?).with(|asked| asked.version = ask.version.map(Version::new)))
    }

    fn serving(&self, _: &str, _: Option<&str>, _: Option<&str>) -> Result<Serving, Unresolved> {
        Ok(Serving { backend: "bao".parse().unwrap(), by_address: false, names_audience: true })
    }
}

fn parse(parameters: &Map<String, Value>) -> Result<(), ClassFaults> {
    let parameters = parameters.iter().map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned())).collect();
    dialect::parse(&parameters, &Any, ClassLimits { objects: 512, files: 4096, bytes: 1 << 20, owners: true }, &Steps::unbounded())
        .map(drop)
}

fn objects(object: &Value) -> Map<String, Value> {
    Map::from_iter([("objects".to_owned(), json!(json!([object]).to_string()))])
}

#[test]
fn schema_and_parser_know_the_same_keys_of_a_class() {
    let schema = schema("class");
    let said = |parameters: &Map<String, Value>| parse(parameters).unwrap_err().0[0].problem.clone();
    let unknown = json!({ "secret": "x", "qqqqqqqqqqqq": 1 });
    assert_eq!(keys(&schema["$defs"]["object"]["properties"]), known_keys(&said(&objects(&unknown))));
    assert_ne!(validate("class", "#/$defs/object", &json!({ "unknown": unknown })), "");

    let mut parameters = objects(&json!({ "secret": "x" }));
    parameters.insert("qqqqqqqqqqqq".to_owned(), json!("1"));
    let mut known = known_keys(&said(&parameters));
    known.extend(["providerName", "secretProviderClass"].map(str::to_owned));
    assert_eq!(keys(&schema["$defs"]["parameters"]["properties"]), known);
    assert_ne!(validate("class", "#/$defs/parameters", &json!({ "unknown": parameters })), "");
}

/// An object for each example that the schema gives for a key, with the other keys that it needs.
fn good_objects(schema: &Value) -> Map<String, Value> {
    let mut good = Map::new();
    for (key, property) in schema["$defs"]["object"]["properties"].as_object().unwrap() {
        for value in property["examples"].as_array().unwrap() {
            // What each one needs.
            let object = match key.as_str() {
                "keep" => json!({ "secret": "shop/db", "method": "POST", key: value }),
                "keys" => json!({ "secret": "shop/db", "format": "dotenv", key: value }),
                "part" => json!({ "secret": "shop/db", "format": "pem", key: value }),
                "template" => json!({ key: value, "secrets": { "db": "shop/db" }, "path": "app.conf" }),
                "prefix" => json!({ key: value, "path": "certs/" }),
                "include" | "exclude" | "rename" => json!({ "prefix": "shop/certs/", key: value, "path": "certs/" }),
                "key" | "chain" | "trust" | "alias" | "password" => {
                    let mut keystore = json!({
                        "secret": "shop/tls", "format": "pkcs12", "key": "tls.key", "chain": "tls.crt",
                        "password": { "secret": "shop/keystore", "field": "password" }, "path": "web.p12"
                    });
                    keystore[key] = value.clone();
                    keystore
                }
                "secret" => json!({ key: value, "method": "GET" }),
                "secrets" => json!({ key: value, "format": "yaml", "path": "all.yaml" }),
                _ => json!({ "secret": "shop/db", "method": "GET", key: value }),
            };
            good.insert(format!("{key}={value}"), object);
        }
    }
    good
}

/// Objects with one fault each, by what is wrong with them.
fn bad_objects() -> Map<String, Value> {
    let mut bad = Map::new();
    for (key, value) in [
        ("secret", json!("")),
        ("secret", json!(["x"])),
        ("mode", json!("9999x")),
        ("mode", json!(512)),
        ("mode", json!("0888x")),
        ("encoding", json!("base32")),
        ("optional", json!("yes")),
        ("fields", json!([])),
        ("fields", json!({})),
        ("path", json!("/etc")),
        ("backend", json!("a b")),
        ("method", json!("DELETE")),
        ("lease", json!("node")),
        ("keep", json!("1h")),
        ("args", json!(["a"])),
        ("parse", json!("yaml")),
        ("parse", json!({ "field": "value" })),
        ("parse", json!({ "field": "value", "as": "xml" })),
        ("format", json!("ini")),
        ("format", json!("pkcs12")),
        ("keys", json!("env")),
        ("part", json!("leaf")),
        ("newline", json!("crlf")),
    ] {
        bad.insert(format!("{key}={value}"), json!({ "secret": "shop/db", key: value }));
    }
    for keep in [json!("for ever"), json!(12), json!(-1), json!(["1h"])] {
        bad.insert(format!("POST keep={keep}"), json!({ "secret": "x", "method": "POST", "keep": keep }));
    }
    for (name, keystore) in [
        ("no certificates", json!({ "key": "k", "password": "p", "path": "x" })),
        ("no key", json!({ "chain": "c", "password": "p", "path": "x" })),
        ("nothing in it", json!({ "password": "p", "path": "x" })),
        ("no password", json!({ "trust": "t", "path": "x" })),
        ("no path", json!({ "trust": "t", "password": "p" })),
        ("fields", json!({ "trust": "t", "password": "p", "path": "x", "fields": "*" })),
        ("no field", json!({ "trust": { "secret": "a" }, "password": "p", "path": "x" })),
    ] {
        let mut object = keystore;
        object["secret"] = json!("a");
        object["format"] = json!("pkcs12");
        bad.insert(format!("keystore: {name}"), object);
    }
    for (name, object) in [
        ("a password of JSON", json!({ "secret": "a", "parse": { "field": "x", "as": "json", "password": "p" } })),
        ("a key of no keystore", json!({ "secret": "a", "format": "pem", "key": "k", "path": "x" })),
        ("no secret", json!({ "path": "x" })),
        ("format and field", json!({ "secret": "x", "field": "a", "format": "json" })),
        ("a list for a template", json!({ "template": "{{ db.user }}", "secrets": ["db"], "path": "x" })),
        ("a mapping for a format", json!({ "format": "json", "secrets": { "db": "db" }, "path": "x" })),
        ("a template without secrets", json!({ "template": "{{ db.user }}", "path": "x" })),
        ("a template without a path", json!({ "template": "{{ db.user }}", "secrets": { "db": "db" } })),
        ("a template and a format", json!({ "template": "{{ db.user }}", "secrets": { "db": "db" }, "path": "x", "format": "json" })),
        ("no name", json!({ "template": "x", "secrets": { "d-b": "db" }, "path": "x" })),
        ("no secrets", json!({ "secrets": [], "format": "json", "path": "x" })),
        ("no format", json!({ "secrets": ["a"], "path": "x" })),
        ("no path", json!({ "secrets": ["a"], "format": "json" })),
        ("secret and secrets", json!({ "secret": "x", "secrets": ["a"], "format": "json", "path": "x" })),
        ("version and secrets", json!({ "version": "1", "secrets": ["a"], "format": "json", "path": "x" })),
        ("unknown in secrets", json!({ "secrets": [{ "secret": "a", "field": "b" }], "format": "json", "path": "x" })),
        ("prefix and secret", json!({ "prefix": "a/", "secret": "x", "path": "x/" })),
        ("prefix and version", json!({ "prefix": "a/", "version": "1", "path": "x/" })),
        ("rename and format", json!({ "prefix": "a/", "rename": "{{ name }}", "format": "json", "path": "x" })),
        ("include without prefix", json!({ "secret": "x", "include": ["*"] })),
        (
            "a keystore below a prefix",
            json!({ "prefix": "a/", "format": "pkcs12", "key": "k", "chain": "c", "password": { "secret": "x", "field": "p" }, "path": "x" }),
        ),
        ("alias without a keystore", json!({ "secret": "x", "alias": "web" })),
        ("both", json!({ "secret": "x", "field": "a", "fields": "*" })),
    ] {
        bad.insert(name.to_owned(), object);
    }
    bad
}

#[test]
fn schema_and_parser_agree_on_values_of_a_class() {
    let schema = schema("class");
    let good = good_objects(&schema);
    for (name, object) in &good {
        assert_eq!(parse(&objects(object)), Ok(()), "{name}");
    }
    assert_eq!(validate("class", "#/$defs/object", &Value::Object(good)), "");
    for (name, object) in bad_objects() {
        assert!(parse(&objects(&object)).is_err(), "{name}");
        assert_ne!(validate("class", "#/$defs/object", &json!({ &name: object })), "", "{name}");
    }
    for (key, property) in schema["$defs"]["parameters"]["properties"].as_object().unwrap() {
        for value in property["examples"].as_array().unwrap() {
            let mut parameters = objects(&json!({ "secret": "x" }));
            parameters.insert(key.clone(), value.clone());
            assert_eq!(parse(&parameters), Ok(()), "{key}");
            assert_eq!(validate("class", "#/$defs/parameters", &json!({ key: parameters })), "");
        }
    }
}

/// A class of a peer's, whole: the schema chooses by the provider.
fn of_peer(provider: &str, parameters: &Map<String, Value>) -> Value {
    json!({
        "apiVersion": "secrets-store.csi.x-k8s.io/v1",
        "kind": "SecretProviderClass",
        "metadata": { "name": "x" },
        "spec": { "provider": provider, "parameters": parameters },
    })
}

fn parse_of_peer(provider: &str, parameters: &Map<String, Value>) -> Result<(), ClassFaults> {
    let mut parameters = parameters.clone();
    parameters.insert("dialect".to_owned(), json!(provider));
    parse(&parameters)
}

fn peer_parameters(pairs: &[(&str, &str)]) -> Map<String, Value> {
    let object = json!([{ "objectName": "a", "secretPath": "b" }]).to_string();
    let base = [("roleName", "web"), ("objects", object.as_str())];
    base.iter().chain(pairs).map(|(key, value)| ((*key).to_owned(), json!(value))).collect()
}

#[test]
fn schema_and_parser_agree_on_classes_of_the_peers() {
    let schema = schema("class");
    let (mut good, mut bad) = (Map::new(), Map::new());
    let mut put = |name: String, provider: &str, parameters: Map<String, Value>| {
        let documents = if parse_of_peer(provider, &parameters).is_ok() { &mut good } else { &mut bad };
        documents.insert(name.replace(' ', ""), of_peer(provider, &parameters));
    };
    for (provider, definition) in [("vault", "vaultParameters"), ("openbao", "openbaoParameters")] {
        for (key, property) in schema["$defs"][definition]["properties"].as_object().unwrap() {
            for value in property["examples"].as_array().into_iter().flatten() {
                let mut parameters = peer_parameters(&[]);
                parameters.insert(key.clone(), value.clone());
                put(format!("{provider}/{key}"), provider, parameters);
            }
        }
        for pairs in [
            &[("vaultTLSClientCertPath", "/c"), ("vaultTLSClientKeyPath", "/k")][..],
            &[("zzz", "x")],
            &[("vaultSkipTLSVerify", "yes")],
            &[("baoAddress", "https://bao")],
            &[("objectName", "x")],
        ] {
            put(format!("{provider}/{pairs:?}"), provider, peer_parameters(pairs));
        }
        put(format!("{provider}/nothing"), provider, Map::new());
    }
    put("both-mounts".to_owned(), "vault", peer_parameters(&[("vaultAuthMountPath", "a"), ("vaultKubernetesMountPath", "b")]));
    let said = |documents: &Map<String, Value>| validate("class", "", &Value::Object(documents.clone()));
    assert_eq!(said(&good), "");
    let told: BTreeSet<String> = said(&bad).lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    // One without the other is a fault of both: the schema of OpenBao's three names does not say which go together.
    let expected: BTreeSet<String> = bad.keys().cloned().collect();
    assert_eq!(told, expected);
    assert!(good.len() > 15 && bad.len() > 8, "{} {}", good.len(), bad.len());
}

#[test]
fn schema_and_parser_agree_on_objects_of_the_peers() {
    let schema = schema("class");
    let of = |object: &Value| {
        Map::from_iter([("roleName".to_owned(), json!("web")), ("objects".to_owned(), json!(json!([object]).to_string()))])
    };
    let with = |key: &str, value: &Value| {
        let mut object = json!({ "objectName": "a", "secretPath": "b" });
        object[key] = value.clone();
        object
    };
    let (mut good, mut bad) = (Map::new(), Map::new());
    for (key, property) in schema["$defs"]["peerObject"]["properties"].as_object().unwrap() {
        for value in property["examples"].as_array().unwrap() {
            good.insert(format!("{key}={value}"), with(key, value));
        }
    }
    for (key, value) in [
        ("objectName", json!("")),
        ("objectName", json!("/etc")),
        ("secretPath", json!(["x"])),
        ("method", json!("DELETE")),
        ("secretArgs", json!("x")),
        ("filePermission", json!(512)),
        ("filePermission", json!("rw")),
        ("encoding", json!("base64url")),
        ("secret", json!("x")),
    ] {
        bad.insert(format!("{key}={value}"), with(key, &value));
    }
    for (name, object) in &good {
        assert_eq!(parse_of_peer("vault", &of(object)), Ok(()), "{name}");
    }
    assert_eq!(validate("class", "#/$defs/peerObject", &Value::Object(good)), "");
    for (name, object) in bad {
        assert!(parse_of_peer("openbao", &of(&object)).is_err(), "{name}");
        assert_ne!(validate("class", "#/$defs/peerObject", &json!({ &name: object })), "", "{name}");
    }
}

fn aws_objects(object: &Value) -> Map<String, Value> {
    Map::from_iter([("objects".to_owned(), json!(json!([object]).to_string()))])
}

#[test]
fn schema_and_parser_agree_on_classes_of_the_aws_provider() {
    let schema = schema("class");
    let object = json!({ "objectName": "shop/db", "objectType": "secretsmanager" });
    let mut parameters = aws_objects(&object);
    parameters.insert("qqqqqqqqqqqq".to_owned(), json!("1"));
    let mut known = known_keys(&parse_of_peer("aws", &parameters).unwrap_err().0[0].problem);
    known.extend(["providerName", "secretProviderClass"].map(str::to_owned));
    assert_eq!(keys(&schema["$defs"]["awsParameters"]["properties"]), known);
    let unknown = aws_objects(&json!({ "objectName": "a", "objectType": "secretsmanager", "qqqqqqqqqqqq": 1 }));
    let known = known_keys(&parse_of_peer("aws", &unknown).unwrap_err().0[0].problem);
    assert_eq!(keys(&schema["$defs"]["awsObject"]["properties"]), known);

    let (mut good, mut bad) = (Map::new(), Map::new());
    let mut put = |key: &str, value: &Value| {
        let mut parameters = aws_objects(&object);
        parameters.insert(key.to_owned(), value.clone());
        let documents = if parse_of_peer("aws", &parameters).is_ok() { &mut good } else { &mut bad };
        documents.insert(format!("{key}={value}").replace(' ', ""), of_peer("aws", &parameters));
    };
    for (key, property) in schema["$defs"]["awsParameters"]["properties"].as_object().unwrap() {
        property["examples"].as_array().unwrap().iter().for_each(|value| put(key, value));
    }
    for (key, value) in [
        ("region", ""),
        ("region", "Europe (Ireland)"),
        ("region", "eu_west_1"),
        ("failoverRegion", "EU-WEST-1"),
        ("pathTranslation", ""),
        ("pathTranslation", "+"),
        ("pathTranslation", "True"),
        ("pathTranslation", "/"),
        ("pathTranslation", "ü"),
        ("usePodIdentity", ""),
        ("usePodIdentity", "yes"),
        ("roleName", "web"),
        ("somebody.example/else", "x"),
    ] {
        put(key, &json!(value));
    }
    assert!(good.len() > 14 && bad.len() > 7, "{} {}", good.len(), bad.len());
    assert_eq!(validate("class", "", &Value::Object(good)), "");
    let told: BTreeSet<String> =
        validate("class", "", &Value::Object(bad.clone())).lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(told, bad.keys().cloned().collect());
}

#[test]
fn schema_and_parser_agree_on_objects_of_the_aws_provider() {
    let schema = schema("class");
    let parse = |object: &Value| {
        let mut parameters = aws_objects(object);
        parameters.insert("failoverRegion".to_owned(), json!("eu-central-1"));
        parse_of_peer("aws", &parameters)
    };
    let with = |key: &str, value: &Value| {
        let mut object = json!({ "objectName": "a", "objectType": "secretsmanager", "objectAlias": "b" });
        if key == "objectName" && value.as_str().is_some_and(|name| name.starts_with("arn:")) {
            object["failoverObject"] = json!({ "objectName": "c" });
        }
        object[key] = value.clone();
        object
    };
    let (mut good, mut bad) = (Map::new(), Map::new());
    for (key, property) in schema["$defs"]["awsObject"]["properties"].as_object().unwrap() {
        for value in property["examples"].as_array().unwrap() {
            good.insert(format!("{key}={value}"), with(key, value));
        }
    }
    for mode in [json!(null), json!(""), json!("1777"), json!("0644"), json!("0o644"), json!(420)] {
        good.insert(format!("mode={mode}"), with("filePermission", &mode));
    }
    for (key, value) in [
        ("objectName", json!("")),
        ("objectName", json!(["a"])),
        ("objectType", json!("ssm")),
        ("objectType", json!("SecretsManager")),
        ("objectAlias", json!(["b"])),
        ("objectVersion", json!({})),
        ("filePermission", json!("rw")),
        ("filePermission", json!("06444")),
        ("filePermission", json!("420")),
        ("filePermission", json!(99999)),
        ("jmesPath", json!({ "path": "a", "objectAlias": "c" })),
        ("jmesPath", json!([{ "path": "a" }])),
        ("jmesPath", json!([{ "path": "", "objectAlias": "c" }])),
        ("jmesPath", json!([{ "path": "a", "objectAlias": "c", "mode": "0400" }])),
        ("failoverObject", json!("a")),
        ("failoverObject", json!({ "objectType": "secretsmanager" })),
        ("objectaliass", json!("a")),
    ] {
        bad.insert(format!("{key}={value}"), with(key, &value));
    }
    bad.insert("no name".to_owned(), json!({ "objectType": "secretsmanager" }));
    bad.insert("no type".to_owned(), json!({ "objectName": "a" }));
    for (name, object) in &good {
        assert_eq!(parse(object), Ok(()), "{name}");
    }
    assert_eq!(validate("class", "#/$defs/awsObject", &Value::Object(good)), "");
    for (name, object) in bad {
        assert!(parse(&object).is_err(), "{name}");
        assert_ne!(validate("class", "#/$defs/awsObject", &json!({ &name: object })), "", "{name}");
    }
}
