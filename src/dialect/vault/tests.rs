use std::collections::BTreeMap;

use insta::assert_snapshot;
use tokio::time::Instant;

use crate::dialect::{ClassLimits, parse};
use crate::model::{
    Ask, Catalogue, ClassFault, FaultList, FileMode, InvalidName, LoginKey, Plan, RefParts, SecretRef, Select, Serving, Unresolved,
    Version, VersionIds,
};
use crate::steps::Steps;

/// One backend, `bao`, at https://bao:8200. It puts its namespace before a name, its versions are numbers, and its role is `csi`.
struct FakeCatalogue;

impl Catalogue for FakeCatalogue {
    fn resolve(&self, ask: &Ask<'_>) -> Result<SecretRef, Unresolved> {
        let mut login = ask.login.clone();
        let name = login.namespace.iter().fold(ask.name.to_owned(), |name, namespace| format!("{namespace}/{name}"));
        let name = name.parse().map_err(|cause: InvalidName| Unresolved::Name { name: ask.name.to_owned(), cause })?;
        if login.address.as_ref().is_some_and(|address| !address.contains("://")) {
            return Err(Unresolved::Login { key: LoginKey::Address, problem: "is not an address (write https://host:port)".to_owned() });
        }
        login.role = login.role.filter(|role| role != "csi");
        let version = ask.version.map(|version| match version.parse::<u64>() {
            Ok(number) => Ok(Version::new(number.to_string())),
            Err(_) => Err(Unresolved::Version(format!("{version:?} is not a version of a KV secret"))),
        });
        let backend = ask.backend.unwrap_or("none").parse().unwrap();
        Ok(RefParts {
            backend,
            name,
            version: version.transpose()?,
            method: ask.method,
            args: ask.args.clone(),
            lease: ask.lease,
            keep: ask.keep,
            login,
        }
        .into())
    }

    fn serving(&self, dialect: &str, address: Option<&str>, _: Option<&str>) -> Result<Serving, Unresolved> {
        match address {
            Some("https://own") => Err(Unresolved::NoLogin {
                key: LoginKey::Role,
                problem: "that backend cannot serve them (write a native class)".to_owned(),
            }),
            Some("https://nowhere") => Err(Unresolved::Backend(format!("several backends could serve `{dialect}`: bao, dr"))),
            address => Ok(Serving {
                backend: "bao".parse().unwrap(),
                by_address: address == Some("https://bao:8200"),
                names_audience: address.is_some(),
            }),
        }
    }
}

const OBJECTS: &str = "- {objectName: password, secretPath: kv/data/shop/db, secretKey: password}";

fn parse_class(dialect: &str, pairs: &[(&str, &str)]) -> Result<Plan, FaultList<ClassFault>> {
    let mut parameters: BTreeMap<String, String> = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    parameters.insert("dialect".to_owned(), dialect.to_owned());
    parse(&parameters, &FakeCatalogue, ClassLimits { objects: 20, files: 4096, bytes: 1 << 20, owners: false }, &Steps::unbounded())
        .map_err(|faults| faults.0)
}

fn plan(pairs: &[(&str, &str)]) -> Plan {
    parse_class("vault", &[&[("roleName", "web"), ("objects", OBJECTS)], pairs].concat()).unwrap()
}

fn plan_of(objects: &str) -> Plan {
    plan(&[("objects", objects)])
}

/// The messages, a line each, with the place in the text before each.
fn faults(dialect: &str, pairs: &[(&str, &str)]) -> String {
    let lines = parse_class(dialect, pairs).unwrap_err().into_iter().map(|fault| match fault.at {
        Some((line, column)) => format!("{line}:{column} {fault}"),
        None => format!("- {fault}"),
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn faults_of(objects: &str) -> String {
    faults("vault", &[("roleName", "web"), ("objects", objects)])
}

fn warnings(plan: &Plan) -> String {
    plan.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Everything of a plan that a mount uses, one line per object.
fn shown(plan: &Plan) -> String {
    let line = |object: &crate::model::Object| {
        let select = if let Select::Key { key, path } = &object.select {
            format!("{path} = Query({:?})", key.as_str())
        } else if let Select::Response { path } = &object.select {
            format!("{path} = response")
        } else {
            unreachable!("not in this dialect")
        };
        let secret = plan.secret(object);
        let RefParts { method, args, login, .. } = &**secret;
        let mode = object.mode.map_or("driver's".to_owned(), |mode| mode.to_string());
        let said: Vec<_> = login.said().into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        format!("{select} of {method} {secret} {} | {mode} {:?} | {}", args.to_json(), object.encoding, said.join(" "))
    };
    plan.objects.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Database credentials, a certificate, a pinned KV secret and a listing, as classes of the peers have them.
const EVERYTHING: &str = r#"
- objectName: db/username
  secretPath: database/creds/shop
  secretKey: username
- objectName: db/password
  secretPath: "/v1/database/creds/shop"
  secretKey: password
  filePermission: 0400
- objectName: certificate.json
  secretPath: pki/issue/web
  method: PUT
  secretArgs:
    common_name: web.shop.example
    ttl: 24h
    exclude_cn_from_sans: true
    ip_sans: ["10.0.0.1"]
- objectName: former
  secretPath: v1/kv/data/shop/db?version=3
  secretKey: data.password
  encoding: BASE64
- objectName: otp
  secretPath: ssh/creds/otp?ip=10.0.0.1
  method: POST
  secretArgs: { username: deploy }
  encoding: ""
- objectName: names
  secretPath: kv/metadata/shop/
  secretKey: keys
  method: LIST
  filePermission: 0
"#;

#[test]
fn every_key_of_an_object() {
    let plan = plan_of(EVERYTHING);
    assert_snapshot!(shown(&plan), @r#"
    db/username = Query("username") of GET bao/database/creds/shop {} | driver's Utf8 | audience=vault role=web
    db/password = Query("password") of GET bao/database/creds/shop {} | 0400 Utf8 | audience=vault role=web
    certificate.json = response of PUT bao/pki/issue/web {"common_name":"web.shop.example","exclude_cn_from_sans":true,"ip_sans":["10.0.0.1"],"ttl":"24h"} | driver's Utf8 | audience=vault role=web
    former = Query("data.password") of GET bao/kv/data/shop/db@3 {} | driver's Base64 | audience=vault role=web
    otp = response of POST bao/ssh/creds/otp {"ip":"10.0.0.1","username":"deploy"} | driver's Utf8 | audience=vault role=web
    names = Query("keys") of LIST bao/kv/metadata/shop {} | driver's Utf8 | audience=vault role=web
    "#);
    assert!(plan.objects[0].secret == plan.objects[1].secret, "one credential has one username and one password");
    assert_eq!(plan.version_ids, VersionIds::Paths);
    assert_eq!(plan.objects[1].label().to_string(), "object 2 (db/password)");
    assert!(plan.warnings.is_empty() && plan.fresh.is_none());
}

#[test]
fn every_parameter_of_a_class() {
    let everything = [
        ("vaultAddress", "https://elsewhere:8200"),
        ("vaultNamespace", "/team-a/"),
        ("vaultAuthMountPath", "clusters/eu/"),
        ("audience", "https://vault.example"),
        ("vaultCACertPath", "/tls/ca.crt"),
        ("vaultTLSServerName", "vault.internal"),
        ("vaultTLSClientCertPath", "/tls/client.crt"),
        ("vaultTLSClientKeyPath", "/tls/client.key"),
        ("vaultSkipTLSVerify", "true"),
        ("csi.storage.k8s.io/pod.name", "web-0"),
        ("secretProviderClass", "shop"),
    ];
    let plan = plan(&everything);
    assert_snapshot!(shown(&plan), @r#"password = Query("password") of GET bao/team-a/kv/data/shop/db {} | driver's Utf8 | address=https://elsewhere:8200 audience=https://vault.example mount=clusters/eu namespace=team-a role=web tls=its own settings"#);
    assert_snapshot!(format!("{:#?}", plan.secret(&plan.objects[0]).login), @r#"
    Login {
        address: Some(
            "https://elsewhere:8200",
        ),
        audience: Some(
            "https://vault.example",
        ),
        mount: Some(
            "clusters/eu",
        ),
        namespace: Some(
            "team-a",
        ),
        role: Some(
            "web",
        ),
        tls: Some(
            LoginTls {
                ca: Some(
                    "/tls/ca.crt",
                ),
                client: Some(
                    (
                        "/tls/client.crt",
                        "/tls/client.key",
                    ),
                ),
                server_name: Some(
                    "vault.internal",
                ),
                skip_verify: true,
            },
        ),
    }
    "#);
    assert_snapshot!(format!("{:?}", plan.parameters), @r#"{Address: "vaultAddress", Mount: "vaultAuthMountPath", Namespace: "vaultNamespace", Role: "roleName", Tls: "vaultCACertPath", TlsDir: "vaultCACertPath"}"#);
    assert!(plan.warnings.is_empty());
}

#[test]
fn what_is_left_out_or_empty_is_left_to_the_backend() {
    let empty = [
        ("vaultAddress", ""),
        ("vaultNamespace", "/"),
        ("vaultKubernetesMountPath", ""),
        ("audience", ""),
        ("vaultCADirectory", ""),
        ("vaultSkipTLSVerify", "0"),
    ];
    for pairs in [&[] as &[_], &empty] {
        // The catalogue's backend has no audience for a class without an address: then the peer's audience is used.
        assert_eq!(plan(pairs).secrets[0].login.said(), [(LoginKey::Audience, "vault"), (LoginKey::Role, "web")]);
    }
    let openbao = parse_class("openbao", &[("roleName", "web"), ("objects", OBJECTS)]).unwrap();
    assert_eq!(openbao.secrets[0].login.audience.as_deref(), Some("openbao"));
    let named = plan(&[("vaultAddress", "https://elsewhere")]);
    assert_eq!(named.secrets[0].login.said(), [(LoginKey::Address, "https://elsewhere"), (LoginKey::Role, "web")]);
}

/// A chart writes this for values that are not set.
#[test]
fn what_is_empty_in_an_object_is_left_out() {
    let object = |rest: &str| shown(&plan_of(&format!("- {{objectName: a, secretPath: kv/data/b{rest}}}\n---\n")));
    assert_eq!(object(r#", method: "", encoding: "", filePermission: "", secretArgs: "", secretKey: """#), object(""));
}

#[test]
fn the_openbao_dialect_has_three_names_for_everything() {
    let names = [
        "RoleName",
        "Address",
        "Namespace",
        "AuthMountPath",
        "CACertPath",
        "CADirectory",
        "TLSServerName",
        "TLSClientCertPath",
        "TLSClientKeyPath",
        "SkipTLSVerify",
    ];
    let class = |prefix: &str| {
        let pairs: Vec<(String, &str)> =
            names.iter().map(|name| (format!("{prefix}{name}"), if *name == "SkipTLSVerify" { "t" } else { "x://x" })).collect();
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (name.as_str(), *value)).chain([("objects", OBJECTS)]).collect();
        let mut plan = parse_class(
            "openbao",
            &pairs
                .iter()
                .map(|(name, value)| if name.ends_with("Path") || name.ends_with("Namespace") { (*name, "x") } else { (*name, *value) })
                .collect::<Vec<_>>(),
        )
        .unwrap();
        plan.parameters.clear();
        plan.secrets[0].login.clone()
    };
    assert_eq!(class("bao"), class("openbao"));
    assert_eq!(class("bao"), class("vault"));
    let login = class("bao");
    assert_eq!(login.said().len(), 5, "{login:?}");

    let mixed = [
        ("roleName", "unheeded"),
        ("vaultRoleName", "first"),
        ("vaultNamespace", "same"),
        ("openbaoNamespace", "same"),
        ("baoAuthMountPath", ""),
        ("vaultAuthMountPath", "unheeded"),
        ("objects", OBJECTS),
    ];
    let plan = parse_class("openbao", &mixed).unwrap();
    assert_snapshot!(shown(&plan), @r#"password = Query("password") of GET bao/same/kv/data/shop/db {} | driver's Utf8 | audience=openbao namespace=same role=first"#);
    assert_snapshot!(warnings(&plan), @"
    roleName: is not used: `vaultRoleName` has another value, and Keyferry uses that (remove one)
    vaultAuthMountPath: is not used: `baoAuthMountPath` has another value, and Keyferry uses that (remove one)
    ");
}

#[test]
fn an_address_that_is_configured_stands_for_its_tls() {
    let plan = plan(&[
        ("vaultAddress", "https://bao:8200"),
        ("vaultCACertPath", "/tls/ca.crt"),
        ("vaultSkipTLSVerify", "true"),
        ("vaultNamespace", "team-a"),
    ]);
    assert_snapshot!(shown(&plan), @r#"password = Query("password") of GET bao/team-a/kv/data/shop/db {} | driver's Utf8 | namespace=team-a role=web"#);
    assert_snapshot!(warnings(&plan), @"
    vaultCACertPath: is not used: the class's address is that of the backend `bao`, so this backend's TLS settings apply (remove it if the class is only for Keyferry)
    vaultSkipTLSVerify: is not used: the class's address is that of the backend `bao`, so this backend's TLS settings apply (remove it if the class is only for Keyferry)
    ");
}

#[test]
fn without_an_address_the_backend_stands_for_the_tls() {
    let tls = [("vaultTLSServerName", "vault.example"), ("vaultSkipTLSVerify", "1"), ("vaultCACertPath", "/tls/ca.crt")];
    let plan = plan(&tls);
    assert_eq!(shown(&plan), shown(&super::tests::plan(&[])));
    assert_snapshot!(warnings(&plan), @"
    vaultCACertPath: is not used: the class has no address, so the TLS settings of the node's backend apply (remove it if the class is only for Keyferry)
    vaultTLSServerName: is not used: the class has no address, so the TLS settings of the node's backend apply (remove it if the class is only for Keyferry)
    vaultSkipTLSVerify: is not used: the class has no address, so the TLS settings of the node's backend apply (remove it if the class is only for Keyferry)
    ");
}

/// One fault, with any other part of the login present or missing.
#[test]
fn a_backend_that_cannot_serve_the_class_is_the_one_fault() {
    for role in [&[("roleName", "web")][..], &[], &[("roleName", "web"), ("audience", "x"), ("vaultCACertPath", "/tls/ca.crt")]] {
        let class = [&[("vaultAddress", "https://own"), ("objects", OBJECTS)], role].concat();
        assert_eq!(faults("vault", &class), "- vaultAddress: that backend cannot serve them (write a native class)");
    }
}

#[test]
fn a_mount_with_auth_before_it_is_warned_of() {
    let of = |word| warnings(&plan(&[(word, "/auth/kubernetes/")]));
    assert_snapshot!([of("vaultAuthMountPath"), of("vaultKubernetesMountPath")].join("\n"), @"
    vaultAuthMountPath: begins with `auth/`, which Keyferry adds itself, so the login is at auth/auth/kubernetes (write kubernetes for auth/kubernetes)
    vaultKubernetesMountPath: begins with `auth/`, which Keyferry adds itself, so the login is at auth/auth/kubernetes (write kubernetes for auth/kubernetes)
    ");
    assert_eq!(warnings(&plan(&[("vaultAuthMountPath", "authority/k8s")])), "");
}

#[test]
fn what_is_not_heeded_is_warned_of() {
    let plan = plan(&[
        ("vaultAddress", "https://elsewhere:8200"),
        ("vaultCACertPath", "/tls/ca.crt"),
        ("vaultCADirectory", "/tls"),
        ("objects", "- {objectName: a.json, secretPath: kv/data/a, encoding: base64}"),
    ]);
    assert_snapshot!(warnings(&plan), @"
    vaultCADirectory: is not used: the class has `vaultCACertPath` too, and Keyferry uses that (remove one)
    object 1 (a.json): encoding: is not used without `secretKey`: Keyferry delivers a whole response as JSON (remove it)
    ");
}

/// Which objects share a request: one number per request.
fn requests(objects: &str) -> Vec<usize> {
    plan_of(objects).objects.iter().map(|object| object.secret).collect()
}

#[test]
fn without_arguments_an_object_shares_the_request_that_has_them() {
    let of = |name: &str, rest: &str| format!("- {{objectName: {name}, secretPath: pki/issue/web, method: POST{rest}}}\n");
    let args = ", secretArgs: {common_name: web.shop}";
    for none in ["", ", secretArgs: ~", ", secretArgs: {}", ", secretArgs: \"\"", ", secretKey: certificate"] {
        let (with, without) = (of("a", args), of("b", none));
        assert_eq!(requests(&format!("{with}{without}")), [0, 0], "{none}");
        assert_eq!(requests(&format!("{without}{with}")), [0, 0], "{none}");
        assert_eq!(requests(&format!("{without}{}", of("c", none))), [0, 0], "{none}");
    }
    let other = of("c", ", secretArgs: {common_name: other.shop}");
    assert_eq!(requests(&[of("a", args), other.clone(), of("b", "")].concat()), [0, 1, 0], "the first that has them");
    assert_eq!(requests(&[of("b", ""), other, of("a", args)].concat()), [0, 0, 1], "wherever it is");
    let query = |name: &str, query: &str, rest: &str| of(name, rest).replace("pki/issue/web", &format!("/v1/pki/issue/web{query}"));
    assert_eq!(requests(&[query("a", "?ttl=1h", args), query("b", "?ttl=1h", ""), of("c", "")].concat()), [0, 0, 1]);
    assert_eq!(requests(&[of("a", args), query("b", "", "")].concat()), [0, 0]);
}

#[test]
fn other_requests_are_not_shared() {
    let args = "objectName: a, secretPath: pki/issue/web, secretArgs: {common_name: web.shop}";
    for (first, second) in [("POST", "PUT"), ("PUT", "POST"), ("POST", "GET"), ("GET", "GET"), ("LIST", "LIST"), ("LIST", "GET")] {
        let objects = format!("- {{{args}, method: {first}}}\n- {{objectName: b, secretPath: pki/issue/web, method: {second}}}");
        assert_eq!(requests(&objects), [0, 1], "{first} {second}");
    }
    assert_eq!(requests(&format!("- {{{args}, method: PUT}}\n- {{objectName: b, secretPath: pki/issue/api, method: PUT}}")), [0, 1]);
}

#[test]
fn two_requests_where_the_peer_makes_one_are_warned_of() {
    let objects = "
- {objectName: tls.crt, secretPath: pki/issue/web, secretKey: certificate, method: POST, secretArgs: {common_name: web, ttl: 3600}}
- {objectName: tls.key, secretPath: pki/issue/web, secretKey: private_key, method: POST, secretArgs: {common_name: web, ttl: '3600'}}
- {objectName: api.crt, secretPath: pki/issue/web, secretKey: certificate, method: POST, secretArgs: {common_name: api, ttl: 3600}}
- {objectName: ca.crt, secretPath: pki/issue/web, secretKey: issuing_ca, method: POST}
- {objectName: put.crt, secretPath: pki/issue/web, method: PUT, secretArgs: {common_name: api}}
- {objectName: list, secretPath: kv/metadata, method: LIST, secretArgs: {after: a}}
- {objectName: get, secretPath: kv/data/a, secretArgs: {version: 1}}
";
    let plan = plan_of(objects);
    assert_eq!(plan.objects.iter().map(|object| object.secret).collect::<Vec<_>>(), [0, 1, 2, 0, 3, 4, 5]);
    assert_snapshot!(warnings(&plan), @"
    object 6 (list): secretArgs: Keyferry sends them as the query of this LIST; the provider for Vault sends them as a body, which the store ignores (remove them, or add `method: POST`)
    object 7 (get): secretArgs: Keyferry sends them as the query of this GET; the provider for Vault sends them as a body, which the store ignores (remove them, or add `method: POST`)
    object 2 (tls.key): secretArgs: the store creates one thing for this object and another one for object 1 (tls.crt): both send POST pki/issue/web, with arguments that differ only in their spelling (write the same arguments if the two belong together, such as a certificate and its key)
    object 3 (api.crt): secretArgs: the store creates one thing for this object and another one for object 1 (tls.crt): both send POST pki/issue/web, with different arguments (write the same arguments if the two belong together, such as a certificate and its key)
    object 5 (put.crt): secretArgs: the store creates one thing for this object and another one for object 1 (tls.crt): both ask for pki/issue/web, with POST and with PUT (write the same `method` if the two belong together, such as a certificate and its key)
    ");
    let several = "- {objectName: a, secretPath: x, method: PUT, secretArgs: {a: true, b: [1, {c: 1.50}], d: 0x10}}
- {objectName: b, secretPath: x, method: PUT, secretArgs: {a: 'true', b: ['1', {c: '1.5'}], d: '16'}}
- {objectName: c, secretPath: x, method: PUT, secretArgs: {a: true, b: [1, {c: '1.50'}], d: 16}}";
    let several = warnings(&plan_of(several));
    assert_eq!(
        (several.matches("differ only in their spelling").count(), several.matches("different arguments").count()),
        (1, 1),
        "{several}"
    );
}

#[test]
fn modes_in_the_spellings_of_yaml() {
    for (text, mode) in [("0400", 0o400), ("0o400", 0o400), ("\"0400\"", 0o400), ("256", 0o400), ("0777", 0o777)] {
        let plan = plan_of(&format!("- {{objectName: a, secretPath: b, filePermission: {text}}}"));
        assert_eq!(plan.objects[0].mode, FileMode::from_bits(mode), "{text}");
    }
    for none in ["0", "0000", "", "~"] {
        assert_eq!(plan_of(&format!("- {{objectName: a, secretPath: b, filePermission: {none}}}")).objects[0].mode, None, "{none:?}");
    }
}

#[test]
fn unknown_words_and_words_of_other_formats() {
    let class = [
        ("rolName", "x"),
        ("vaultAdress", "x"),
        ("namespace", "x"),
        ("backend", "x"),
        ("baoAddress", "x"),
        ("roleName", "web"),
        ("zzz", "x"),
        ("objects", "- secret: a\n  field: b\n  path: c\n  objectPath: d\n  version: 1\n  secretpath: e\n"),
    ];
    assert_snapshot!(faults("vault", &class), @"
    - backend: is not a known key (here the address or the node's configuration chooses the backend)
    - baoAddress: is not a known key (here it is `vaultAddress`; with the provider `openbao` this name works)
    - namespace: is not a known key (here it is `vaultNamespace`)
    - rolName: is not a known key (did you mean `roleName`?)
    - vaultAdress: is not a known key (did you mean `vaultAddress`?)
    - zzz: is not a known key (known here: roleName, objects, audience, vaultAddress, vaultNamespace, vaultAuthMountPath, vaultCACertPath, vaultCADirectory, vaultTLSServerName, vaultTLSClientCertPath, vaultTLSClientKeyPath, vaultSkipTLSVerify)
    1:3 object 1: secret: is not a known key (here it is `secretPath`)
    1:3 object 1: objectName: is missing (write the file's path in the volume, such as `objectName: password`)
    1:3 object 1: secretPath: is missing (write the path of the store's API, such as `secretPath: kv/data/shop/db`)
    2:3 object 1: field: is not a known key (here it is `secretKey`)
    3:3 object 1: path: is not a known key (here it is `objectName`)
    4:3 object 1: objectPath: is not a known key (here it is `secretPath`)
    5:3 object 1: version: is not a known key (here it is a query after the path, such as `secretPath: kv/data/shop/db?version=3`)
    6:3 object 1: secretpath: is not a known key (did you mean `secretPath`?)
    ");
    let others =
        ["vaultRole", "openbaoTLSServerName", "baoRoleName", "openbaoKubernetesMountPath", "baoTlsServerName"].map(|key| (key, "x"));
    assert_snapshot!(faults("vault", &[&[("roleName", "web"), ("objects", OBJECTS)], &others[..]].concat()), @"
    - baoRoleName: is not a known key (here it is `roleName`; with the provider `openbao` this name works)
    - baoTlsServerName: is not a known key (did you mean `vaultTLSServerName`?)
    - openbaoKubernetesMountPath: is not a known key (here it is `vaultKubernetesMountPath`; with the provider `openbao` this name works)
    - openbaoTLSServerName: is not a known key (here it is `vaultTLSServerName`; with the provider `openbao` this name works)
    - vaultRole: is not a known key (here it is `roleName`)
    ");
    assert_snapshot!(faults("openbao", &[("bao_address", "x"), ("zzz", "x"), ("role", "x")]), @"
    - bao_address: is not a known key (did you mean `baoAddress`?)
    - role: is not a known key (here it is `roleName`)
    - zzz: is not a known key (known here: roleName, objects, audience, baoAddress, baoNamespace, baoAuthMountPath, baoCACertPath, baoCADirectory, baoTLSServerName, baoTLSClientCertPath, baoTLSClientKeyPath, baoSkipTLSVerify)
    - roleName: is missing (add it: the role that the Pod's ServiceAccount logs in with)
    - objects: is missing (add it: a list of objects, each with `objectName` and `secretPath`)
    ");
}

#[test]
fn all_faults_of_a_class_at_once() {
    let class = [
        ("vaultAuthMountPath", "a"),
        ("vaultKubernetesMountPath", "b"),
        ("vaultNamespace", "team/../other"),
        ("vaultAddress", "nowhere"),
        ("audience", "a\u{7}"),
        ("vaultTLSClientCertPath", "/tls/client.crt"),
        ("vaultSkipTLSVerify", "yes"),
        (
            "objects",
            r#"
- secretPath: kv/data/a
- objectName: /etc/passwd
  secretPath: kv/../a
- objectName: b
- objectName: c
  secretPath: kv/data/c?version=latest
  method: DELETE
  secretArgs: [a]
  filePermission: 0888
  encoding: base46
- objectName: d
  secretPath: kv/data/d?a=1
  secretArgs: { a: 2 }
- objectName: d/e
  secretPath: kv/data/e?a=%
  secretKey: [a]
- objectName: ..d
  secretPath: ""
- objectName: 1
  secretPath: kv/data/f
  filePermission: 01777
- just a text
"#,
        ),
    ];
    assert_snapshot!(faults("vault", &class), @r#"
    - vaultNamespace: "team/../other" has the element ".." (write it as the store lists it)
    - vaultSkipTLSVerify: "yes" is neither true nor false (write "true" or "false")
    - vaultTLSClientCertPath: needs `vaultTLSClientKeyPath`: a certificate and its key belong together (add `vaultTLSClientKeyPath`, or remove it)
    - vaultKubernetesMountPath: cannot be used together with `vaultAuthMountPath`: both mean the same (remove `vaultKubernetesMountPath`)
    - audience: "a\u{7}" has a control character (remove it)
    - roleName: is missing (add it: the role that the Pod's ServiceAccount logs in with)
    - vaultAddress: is not an address (write https://host:port)
    2:3 object 1 (a): objectName: is missing (write the file's path in the volume, such as `objectName: password`)
    3:15 object 2 (/etc/passwd): objectName: "/etc/passwd" is absolute: paths are relative to the volume (remove the `/` at its start)
    4:15 object 2 (/etc/passwd): secretPath: the name "kv/../a" has the element ".." (write the name as its store lists it)
    5:3 object 3 (b): secretPath: is missing (write the path of the store's API, such as `secretPath: kv/data/shop/db`)
    7:15 object 4 (c): secretPath: "latest" is not a version of a KV secret (pin one that the store has, or leave the version out for the latest)
    8:11 object 4 (c): method: there is no method "DELETE" (there are: GET, LIST, POST, PUT)
    9:15 object 4 (c): secretArgs: is a list, but must be a mapping (write a line `key: value` for each key)
    10:19 object 4 (c): filePermission: "0888" is not a file mode: a mode is octal such as 0444, 0o444 or "0444", or decimal such as 292 (write it in octal, such as 0444)
    11:13 object 4 (c): encoding: there is no encoding "base46" (did you mean `base64`?)
    14:15 object 5 (d): secretArgs: has "a", which is in the query of `secretPath` too (keep one of them)
    15:15 object 6 (d/e): objectName: "d" is the file of object 5 (d): nothing can be below a file (change one of the paths)
    16:15 object 6 (d/e): secretPath: has a query that cannot be read (write `name=value`, several with `&` between, other characters as %XX)
    17:14 object 6 (d/e): secretKey: is a list, but must be a text (write one value; one that starts with `[` or `{` needs quotes)
    18:3 object 7 (..d): secretPath: is missing (write the path of the store's API, such as `secretPath: kv/data/shop/db`)
    18:15 object 7 (..d): objectName: "..d" starts with `..`, which the driver keeps for itself (choose another name)
    22:19 object 8 (1): filePermission: 01777 is over 0777: the set-user-id, set-group-id and sticky bits cannot be delivered (write an octal mode up to 0777)
    23:3 object 9: objects: is a text, but an object must be a mapping (write for example `- {objectName: password, secretPath: kv/data/shop/db, secretKey: password}`)
    "#);
}

#[test]
fn a_class_without_what_it_needs() {
    assert_snapshot!(faults("vault", &[]), @"
    - roleName: is missing (add it: the role that the Pod's ServiceAccount logs in with)
    - objects: is missing (add it: a list of objects, each with `objectName` and `secretPath`)
    ");
    assert_snapshot!(faults("openbao", &[("baoTLSClientKeyPath", "/k"), ("objects", "[]")]), @"
    - baoTLSClientKeyPath: needs `baoTLSClientCertPath`: a certificate and its key belong together (add `baoTLSClientCertPath`, or remove it)
    - roleName: is missing (add it: the role that the Pod's ServiceAccount logs in with)
    - objects: has no objects (write at least one, such as `- {objectName: password, secretPath: kv/data/shop/db, secretKey: password}`)
    ");
    assert_snapshot!(faults_of(""), @"- objects: has no objects (write at least one, such as `- {objectName: password, secretPath: kv/data/shop/db, secretKey: password}`)");
    assert_snapshot!(faults_of("array:\n  - |\n    objectName: a\n"), @"1:1 objects: line 1: is a mapping, but must be a list (start each object with `- `, such as `- {objectName: password, secretPath: kv/data/shop/db, secretKey: password}`)");
    assert_snapshot!(faults("vault", &[("roleName", "web"), ("vaultAddress", "https://nowhere"), ("objects", OBJECTS)]), @"- vaultAddress: several backends could serve `vault`: bao, dr");
}

#[test]
fn the_peers_to_come_say_so() {
    for dialect in ["azure", "gcp"] {
        let fault = parse_class(dialect, &[("objects", "x")]).unwrap_err()[0].clone();
        assert!(fault.to_string().starts_with(&format!("dialect: `{dialect}` is not yet supported")), "{fault}");
    }
}

/// Queries and arguments as long as a class can be: one is read as fast as sixteen of a sixteenth of the size.
#[test]
fn long_queries_take_time_in_proportion() {
    let pairs = |n: usize| (0..n).map(|n| format!("a{n}=1&")).collect::<String>();
    let args = |n: usize| (0..n).map(|n| format!("b{n}: 1, ")).collect::<String>();
    let kinds: [(&str, &dyn Fn(usize) -> String); 3] = [
        ("a query", &|n| format!("- {{objectName: a, secretPath: \"x?{}\"}}", pairs(n))),
        ("a query beside arguments", &|n| {
            format!("- {{objectName: a, secretPath: \"x?{}\", method: PUT, secretArgs: {{{}}}}}", pairs(n), args(n))
        }),
        ("a path of nothing", &|n| format!("- {{objectName: a, secretPath: \"{}\"}}", "/a".repeat(n))),
    ];
    for (kind, objects) in kinds {
        let [small, large] = [objects(500), objects(8_000)];
        let time = |objects, times| {
            let start = Instant::now();
            (0..times).for_each(|_| drop(parse_class("vault", &[("roleName", "web"), ("objects", objects)])));
            start.elapsed()
        };
        let tries: Vec<_> = (0..5).map(|_| (time(&small, 16), time(&large, 1))).collect();
        let [small, large] = [tries.iter().map(|(small, _)| small).min(), tries.iter().map(|(_, large)| large).min()];
        assert!(large.unwrap() < &(5 * *small.unwrap()), "{kind}: {small:?}, {large:?}");
    }
}

#[test]
fn many_warnings_are_counted_and_not_kept() {
    let many = (0..1_000).map(|n| format!("- {{objectName: o{n}, secretPath: x, encoding: hex}}\n")).collect();
    let parameters = BTreeMap::from([
        ("objects".to_owned(), many),
        ("roleName".to_owned(), "web".to_owned()),
        ("dialect".to_owned(), "vault".to_owned()),
    ]);
    let limits = ClassLimits { objects: 1_000, files: 4096, bytes: 1 << 20, owners: false };
    let plan = parse(&parameters, &FakeCatalogue, limits, &Steps::unbounded()).unwrap();
    assert_eq!((plan.warnings.len(), plan.warnings.more()), (64, 936));
}
