use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::dialect::{ClassLimits, parse};
use crate::formats::{Format, Names, pem};
use crate::model::{
    Ask, Catalogue, ClassFault, Code, Encoding, FaultList, FieldName, FieldOf, FileMode, InvalidName, LeaseFor, Method, Newline, Parse,
    Plan, RefParts, SecretRef, Select, Unresolved, Version,
};
use crate::steps::Steps;

/// Knows the backends `files` and `bao`; where `only` is set, `files` alone. Versions are numbers.
#[derive(Default)]
struct FakeCatalogue {
    only: bool,
}

impl Catalogue for FakeCatalogue {
    fn resolve(&self, ask: &Ask<'_>) -> Result<SecretRef, Unresolved> {
        let backend = match ask.backend {
            Some(known @ ("files" | "bao")) => known,
            None if self.only => "files",
            None => {
                return Err(Unresolved::Backend(
                    "no backend is named, and this node has several (set backend to one of: bao, files)".into(),
                ));
            }
            Some(other) => return Err(Unresolved::Backend(format!("there is no backend {other:?} on this node (there are: bao, files)"))),
        };
        if let (true, Some((key, _))) = (backend == "files", ask.login.said().first()) {
            return Err(Unresolved::NoLogin { key: *key, problem: "means nothing to a file vault (remove it)".to_owned() });
        }
        for (key, said) in [("method", ask.method != Method::Get), ("args", !ask.args.is_empty()), ("lease", ask.lease == LeaseFor::Shared)]
        {
            if backend == "files" && said {
                return Err(Unresolved::Request { key, problem: "means nothing to a file vault (remove it)".to_owned() });
            }
        }
        let name = ask.name.parse().map_err(|cause: InvalidName| Unresolved::Name { name: ask.name.to_owned(), cause })?;
        let version = ask.version.map(|version| match version.parse::<u64>() {
            Ok(number) => Ok(Version::new(number.to_string())),
            Err(_) => Err(Unresolved::Version(format!("{version:?} is not a revision: a file vault counts them from 1"))),
        });
        let Ask { method, args, lease, keep, login, .. } = ask.clone();
        Ok(RefParts { backend: backend.parse().unwrap(), name, version: version.transpose()?, method, args, lease, keep, login }.into())
    }
}

fn parameters(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn parse_class(pairs: &[(&str, &str)]) -> Result<Plan, FaultList<ClassFault>> {
    parse(
        &parameters(pairs),
        &FakeCatalogue { only: true },
        ClassLimits { objects: 512, files: 4096, bytes: 1 << 20, owners: true },
        &Steps::unbounded(),
    )
    .map_err(|faults| faults.0)
}

fn plan(objects: &str) -> Plan {
    parse_class(&[("objects", objects)]).unwrap()
}

/// The messages, a line each, with the place in the text before each.
fn faults_of(pairs: &[(&str, &str)]) -> String {
    let faults = parse_class(pairs).unwrap_err();
    let lines = faults.iter().map(|fault| match fault.at {
        Some((line, column)) => format!("{line}:{column} {fault}"),
        None => format!("- {fault}"),
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn faults(objects: &str) -> String {
    faults_of(&[("objects", objects)])
}

#[test]
fn every_key_of_an_object() {
    let objects = r#"
- secret: shop/db
- secret: shop/db
  field: password
  path: user/password
  mode: 0444
  encoding: base64
  version: "3"
  optional: true
  backend: bao
- secret: shop/flags
  fields: "*"
  path: flags/
- secret: shop/tls
  fields: [tls.crt, "ca*", tls.crt]
  version: 7
"#;
    let plan = plan(objects);
    let whole = &plan.objects[0];
    assert_eq!(plan.secret(whole).to_string(), "files/shop/db");
    assert!(matches!(&whole.select, Select::Whole { path } if path.as_str() == "db"));
    assert_eq!((whole.mode, whole.encoding, whole.optional), (None, Encoding::Utf8, false));
    let field = &plan.objects[1];
    assert_eq!(plan.secret(field).to_string(), "bao/shop/db@3");
    assert!(matches!(&field.select, Select::Field { query, path } if query.as_str() == "password" && path.as_str() == "user/password"));
    assert_eq!((field.mode, field.encoding, field.optional), (FileMode::from_bits(0o444), Encoding::Base64, true));
    assert_eq!(plan.objects[2].label().to_string(), "object 3 (flags/)");
    let list = &plan.objects[3];
    assert_eq!((list.index, plan.secret(list).to_string().as_str()), (4, "files/shop/tls@7"));
    assert!(matches!(&list.select, Select::Fields { patterns, folder } if patterns.len() == 3 && folder.to_string() == "tls/"));
}

#[test]
fn defaults_of_the_class_and_their_exceptions() {
    let class = [("backend", "bao"), ("mode", "0400"), ("objects", "[{secret: a}, {secret: b, backend: files, mode: 0444}]")];
    let plan = parse_class(&class).unwrap();
    assert_eq!(plan.secrets[0].to_string(), "bao/a");
    assert_eq!(plan.objects[0].mode, FileMode::from_bits(0o400));
    assert_eq!(plan.secrets[1].to_string(), "files/b");
    assert_eq!(plan.objects[1].mode, FileMode::from_bits(0o444));
}

#[test]
fn every_spelling_of_a_mode() {
    for (text, bits) in
        [("0444", 0o444), ("0o444", 0o444), ("\"0444\"", 0o444), ("292", 0o444), ("\"292\"", 0o444), ("0", 0), ("0777", 0o777)]
    {
        let plan = plan(&format!("- {{secret: a, mode: {text}}}"));
        assert_eq!(plan.objects[0].mode, FileMode::from_bits(bits), "{text}");
    }
}

#[test]
fn paths_that_are_left_out() {
    let objects =
        "[{secret: shop/db}, {secret: shop/db, field: tls.crt}, {secret: shop/db, field: .dockerconfigjson}, {secret: shop/x, fields: a}]";
    let paths: Vec<String> = plan(objects).objects.iter().map(|object| object.label().path).collect();
    assert_eq!(paths, ["db", "tls.crt", ".dockerconfigjson", "x/"]);
    for root in ["''", ".", "./"] {
        let plan = plan(&format!("- {{secret: a, fields: '*', path: {root}}}"));
        assert!(matches!(&plan.objects[0].select, Select::Fields { folder, .. } if folder.as_path().is_none()));
    }
}

#[test]
fn an_empty_plan_is_a_plan() {
    for objects in ["[]", "", "  \n", "# nothing\n", "~"] {
        assert!(plan(objects).objects.is_empty(), "{objects:?}");
    }
    insta::assert_snapshot!(faults_of(&[]), @r#"- objects: is missing (add it: a list of objects, each with at least `secret: <name>`; `objects: "[]"` for an empty volume)"#);
}

#[test]
fn objects_of_one_secret_share_one_reference() {
    let plan = plan("[{secret: a, field: x}, {secret: a, field: y}, {secret: a, field: x, path: z, version: 1}]");
    assert!(plan.objects[0].secret == plan.objects[1].secret);
    assert_ne!(plan.objects[0].secret, plan.objects[2].secret);
}

#[test]
fn what_the_driver_adds_is_passed_over() {
    let class = [
        ("objects", "[]"),
        ("csi.storage.k8s.io/pod.name", "web-0"),
        ("example.com/owner", "shop"),
        ("secretProviderClass", "shop"),
        ("providerName", "keyferry"),
        ("dialect", "keyferry"),
    ];
    assert!(parse_class(&class).is_ok());
}

#[test]
fn unknown_keys_name_the_nearest() {
    let class = [
        ("object", "[]"),
        ("objects", "- secret: a\n  feild: x\n  moed: 0444\n- secret: b\n  filePermission: 0444\n  ? \"a\\nb\\e\"\n  : x\n"),
        ("roleName", "x"),
        ("clientID", "y"),
    ];
    insta::assert_snapshot!(faults_of(&class), @r"
    - clientID: is not a known key (known here: objects, backend, mode, role, audience, mount, namespace, address, fresh, maxStale, dialect)
    - object: is not a known key (did you mean `objects`?)
    - roleName: is not a known key (here it is `role`; a class in the format of the vault provider says `dialect: vault`)
    2:3 object 1 (a): feild: is not a known key (did you mean `field`?)
    3:3 object 1 (a): moed: is not a known key (did you mean `mode`?)
    5:3 object 2 (b): filePermission: is not a known key (here it is `mode`)
    6:5 object 2 (b): a\nb\u{1b}: is not a known key (known here: secret, field, fields, path, mode, owner, encoding, version, optional, backend, method, args, lease, keep, parse, newline, format, keys, part, secrets, template, prefix, include, exclude, rename, key, chain, trust, alias, password)
    ");
}

#[test]
fn an_owner_is_given_only_where_the_daemon_writes() {
    let objects = "- {secret: a, owner: \"1000:2000\"}\n- {secret: b, owner: 0:0}\n- {secret: c}";
    let owners: Vec<_> = plan(objects).objects.iter().map(|object| object.owner.map(|owner| owner.to_string())).collect();
    assert_eq!(owners, [Some("1000:2000".to_owned()), Some("0:0".to_owned()), None]);
    let wrong =
        "- {secret: a, owner: app}\n- {secret: b, owner: 1000}\n- {secret: c, owner: [1, 2]}\n- {secret: d, owner: \"4294967295:0\"}";
    insta::assert_snapshot!(faults_of(&[("objects", wrong)]), @r#"
    1:22 object 1 (a): owner: "app" is not an owner: an owner is the user's and the group's number, such as "1000:1000" (write both numbers, in quotes)
    2:22 object 2 (b): owner: "1000" is not an owner: an owner is the user's and the group's number, such as "1000:1000" (write both numbers, in quotes)
    3:22 object 3 (c): owner: is a list, but must be a text (write one value; one that starts with `[` or `{` needs quotes)
    4:22 object 4 (d): owner: "4294967295:0" is not an owner: an owner is the user's and the group's number, such as "1000:1000" (write both numbers, in quotes)
    "#);
    let driver = ClassLimits { objects: 512, files: 4096, bytes: 1 << 20, owners: false };
    let faults = parse(&parameters(&[("objects", objects)]), &FakeCatalogue { only: true }, driver, &Steps::unbounded()).unwrap_err();
    assert_eq!(faults.0.len(), 2);
    insta::assert_snapshot!(faults.0[0], @"object 1 (a): owner: works with `delivery: provider` only: on this node the driver writes the files, and they belong to root (remove it, and let others read the file with `mode`)");
}

#[test]
fn keys_to_come_say_so() {
    insta::assert_snapshot!(faults_of(&[("dialect", "azure")]), @"- dialect: `azure` is not yet supported (write the class in the native format, and leave the key out)");
    insta::assert_snapshot!(faults_of(&[("dialect", "valut")]), @r#"- dialect: there is no dialect "valut" (did you mean `vault`?)"#);
    insta::assert_snapshot!(faults_of(&[("dialect", "cyberspace")]), @r#"- dialect: there is no dialect "cyberspace" (leave the key out for the native format)"#);
}

#[test]
fn how_a_request_is_put_and_for_whom() {
    let objects = r"
- secret: pki/issue/web
  backend: bao
  method: POST
  args: { common_name: web.shop, ttl: 24h, ip_sans: [10.0.0.1], n: 3 }
  lease: shared
  field: certificate
- { secret: database/creds/shop, backend: bao, field: username }
- { secret: database/creds/shop, backend: bao, field: password, lease: pod, method: GET, args: {} }
- { secret: kv/metadata/shop, backend: bao, method: LIST }
";
    let plan = plan(objects);
    let issued = &plan.secrets[0];
    assert_eq!((issued.method, issued.lease), (Method::Post, LeaseFor::Shared));
    assert_eq!(issued.args.to_json(), r#"{"common_name":"web.shop","ip_sans":["10.0.0.1"],"n":3,"ttl":"24h"}"#);
    assert!(plan.objects[1].secret == plan.objects[2].secret);
    assert!(plan.secret(&plan.objects[1]).is_plain());
    assert_eq!(plan.secret(&plan.objects[3]).method, Method::List);

    let wrong = r"
- { secret: a, method: post, lease: node, args: [a] }
- { secret: b, method: DELETE, lease: shared, args: { serial: .inf } }
- { secret: c, method: PUT, args: { a: b }, lease: shared }
";
    insta::assert_snapshot!(faults(wrong), @r#"
    2:24 object 1 (a): method: there is no method "post" (did you mean `POST`?)
    2:37 object 1 (a): lease: there is no lease "node" (there are: pod, shared)
    2:49 object 1 (a): args: is a list, but must be a mapping (write a line `key: value` for each key)
    3:24 object 2 (b): method: there is no method "DELETE" (there are: GET, LIST, POST, PUT)
    3:39 object 2 (b): lease: means nothing to a file vault (remove it)
    3:63 object 2 (b): args.serial: is a number that JSON does not have (put it in quotes for the text)
    4:24 object 3 (c): method: means nothing to a file vault (remove it)
    4:35 object 3 (c): args: means nothing to a file vault (remove it)
    4:52 object 3 (c): lease: means nothing to a file vault (remove it)
    "#);
}

#[test]
fn how_long_what_is_made_is_kept() {
    let objects = r#"
- { secret: auth/approle/role/web/secret-id, backend: bao, method: POST, keep: 12h }
- { secret: transit/datakey/plaintext/web, backend: bao, method: PUT, keep: 0 }
- { secret: pki/issue/web, backend: bao, method: POST, keep: "", path: one }
- { secret: pki/issue/web, backend: bao, method: POST, keep: 1h, path: other }
"#;
    let plan = plan(objects);
    let kept: Vec<_> = plan.secrets.iter().map(|secret| secret.keep.map(|keep| keep.as_secs())).collect();
    assert_eq!(kept, [Some(43_200), Some(0), None, Some(3600)]);
    let warnings: Vec<_> = plan.warnings.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(warnings.join("\n"), @"object 4 (other): args: the store creates one thing for this object and another one for object 3 (one): both send POST pki/issue/web, with another `keep` (write the same `keep` if the two belong together, such as a certificate and its key)");

    let wrong = r"
- { secret: a, backend: bao, keep: 12h }
- { secret: b, backend: bao, method: LIST, keep: 0 }
- { secret: c, backend: bao, method: POST, keep: for ever }
- { secret: d, backend: bao, method: post, keep: 1h }
- { secret: e, backend: bao, method: POST, keep: 12 }
- { secret: f, keep: 1h }
";
    insta::assert_snapshot!(faults(wrong), @r#"
    2:36 object 1 (a): keep: works only with POST and PUT: it says how long Keyferry keeps what these requests create (remove it, or write the `method` that you mean)
    3:50 object 2 (b): keep: works only with POST and PUT: it says how long Keyferry keeps what these requests create (remove it, or write the `method` that you mean)
    4:50 object 3 (c): keep: "for ever" is not a duration (write for example 500ms, 90s, 2m or 24h)
    5:38 object 4 (d): method: there is no method "post" (did you mean `POST`?)
    6:50 object 5 (e): keep: "12" is not a duration (write for example 500ms, 90s, 2m or 24h)
    7:22 object 6 (f): keep: works only with POST and PUT: it says how long Keyferry keeps what these requests create (remove it, or write the `method` that you mean)
    "#);
}

#[test]
fn a_login_is_the_whole_classs() {
    let login = [
        ("role", "web"),
        ("audience", "https://bao.example"),
        ("mount", "/clusters/eu/"),
        ("namespace", "team-a/"),
        ("address", "https://bao:8200"),
        ("fresh", "30s"),
        ("maxStale", "1h"),
    ];
    let class = [&login[..], &[("objects", "[{secret: a, backend: bao}, {secret: b, backend: bao}, {secret: c}]")]].concat();
    let plan = parse_class(&class).unwrap();
    assert_eq!(plan.fresh, Some(std::time::Duration::from_secs(30)));
    assert_eq!(plan.max_stale, Some(std::time::Duration::from_hours(1)));
    let said: Vec<_> = plan.secret(&plan.objects[0]).login.said().into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(said.join(" "), "address=https://bao:8200 audience=https://bao.example mount=clusters/eu namespace=team-a role=web");
    assert_eq!(plan.secret(&plan.objects[1]).login, plan.secret(&plan.objects[0]).login);
    assert!(plan.secret(&plan.objects[2]).login.is_empty(), "a file vault beside the other store takes no part in the login");
    assert!(plan.parameters.is_empty(), "the words are the native ones");

    let unused = [&login[..1], &[("mount", "x"), ("objects", "[{secret: a}, {secret: b}]")]].concat();
    insta::assert_snapshot!(faults_of(&unused), @"
    - mount: means nothing to a file vault (remove it)
    - role: means nothing to a file vault (remove it)
    ");
    let long = "x".repeat(1025);
    let wrong = [
        ("role", "a\nb"),
        ("audience", long.as_str()),
        ("mount", "a/../b"),
        ("namespace", "a?b"),
        ("fresh", "soon"),
        ("maxStale", "ever"),
        ("objects", "[{secret: a, backend: bao}]"),
    ];
    insta::assert_snapshot!(faults_of(&wrong), @r#"
    - audience: is 1025 bytes long; at most 1024 are allowed (shorten it)
    - mount: "a/../b" has the element ".." (write it as the store lists it)
    - namespace: "a?b" has the character '?', which stores read as an escape or a query (write it as the store lists it)
    - role: "a\nb" has a control character (remove it)
    - fresh: "soon" is not a duration (write for example 500ms, 90s, 2m or 24h)
    - maxStale: "ever" is not a duration (write for example 500ms, 90s, 2m or 24h)
    "#);
    let empty = [("role", ""), ("mount", "/"), ("namespace", " "), ("address", ""), ("objects", "[{secret: a}]")];
    assert!(parse_class(&empty).unwrap().secrets[0].login.is_empty());
}

#[test]
fn two_requests_for_one_path_are_warned_of() {
    let objects = "
- { backend: bao, secret: pki/issue/web, method: POST, args: { common_name: web, ttl: 3600 }, field: certificate, path: tls.crt }
- { backend: bao, secret: pki/issue/web, method: POST, args: { common_name: web, ttl: '3600' }, field: private_key, path: tls.key }
- { backend: bao, secret: pki/issue/web, method: POST, field: issuing_ca, path: ca.crt }
";
    let plan = plan(objects);
    assert_eq!(plan.objects.iter().map(|object| object.secret).collect::<Vec<_>>(), [0, 1, 2], "nothing is shared that was not asked for");
    insta::assert_snapshot!(plan.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"), @"
    object 2 (tls.key): args: the store creates one thing for this object and another one for object 1 (tls.crt): both send POST pki/issue/web, with arguments that differ only in their spelling (write the same arguments if the two belong together, such as a certificate and its key)
    object 3 (ca.crt): args: the store creates one thing for this object and another one for object 1 (tls.crt): both send POST pki/issue/web, with different arguments (write the same arguments if the two belong together, such as a certificate and its key)
    ");
}

/// As in classes of the AWS provider.
#[test]
fn an_arn_that_may_end_before_its_end_is_warned_of() {
    let arn = |end: &str| format!("'arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop/db-{end}'");
    let plan = plan(&format!(
        "- {{ secret: {}, path: a }}\n- {{ secrets: {{ db: {} }}, template: x, path: b }}\n- {{ secret: {}, path: c }}",
        arn("backup"),
        arn("202401"),
        arn("AbCdEf")
    ));
    insta::assert_snapshot!(plan.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"), @"
    object 1 (a): secret: ends with `-backup`: as in AWS, this counts as the six characters that AWS adds to a name, and not as a part of the name (if it is a part of the name, write the whole ARN, or only the name)
    object 2 (b): secret: ends with `-202401`: as in AWS, this counts as the six characters that AWS adds to a name, and not as a part of the name (if it is a part of the name, write the whole ARN, or only the name)
    ");
}

/// A chart writes this for values that are not set.
#[test]
fn what_is_empty_is_left_out() {
    let rest = r#", backend: "", mode: "", version: "", encoding: "", method: "", lease: "", keep: "", owner: """#;
    let class = |rest: &str| {
        [
            ("backend", ""),
            ("mode", ""),
            ("fresh", ""),
            ("maxStale", ""),
            ("dialect", ""),
            ("objects", "[{secret: a, field: b REST}, {secret: c, fields: [d], path: \"\" REST}]"),
        ]
        .map(|(key, value)| (key, value.replace("REST", rest)))
    };
    let plan = |rest: &str| {
        let class = class(rest);
        format!("{:?}", parse_class(&class.each_ref().map(|(key, value)| (*key, value.as_str()))).unwrap())
    };
    assert_eq!(plan(rest), plan(""));
    assert_eq!(plan(&rest.replace("\"\"", "")), plan(""), "as is a key without a value");
    insta::assert_snapshot!(faults_of(&[("objects", "[{secret: \"\"}, {secret: a, field: \"\"}, {secret: b, fields: \"\", path: b/}, {secret: c, path: \"\"}, {secret: d, optional: \"\"}, {secret: e, fields: [\"\"], path: e/}]")]), @r#"
    1:11 object 1: secret: the name "" is empty (write the name as its store lists it)
    1:35 object 2: field: is empty (write a field's name, or a simpler JMESPath expression)
    1:60 object 3 (b/): fields: "" cannot name a field: a field's name has 1 to 253 bytes and no control character (write a name, or "*" for all)
    1:93 object 4: path: "" is empty (name the file, or leave `path` out)
    1:120 object 5 (d): optional: must be true or false (write one of them, without quotes)
    1:146 object 6 (e/): fields: "" cannot name a field: a field's name has 1 to 253 bytes and no control character (write a name, or "*" for all)
    "#);
}

#[test]
fn words_of_the_peers_are_known_for_what_they_are() {
    let class = [
        ("roleName", "x"),
        ("vaultAddress", "x"),
        ("objects", "- {objectName: a, secretPath: b, secretKey: c, filePermission: 0400, secretArgs: {}}"),
    ];
    insta::assert_snapshot!(faults_of(&class), @"
    - roleName: is not a known key (here it is `role`; a class in the format of the vault provider says `dialect: vault`)
    - vaultAddress: is not a known key (here it is `address`; a class in the format of the vault provider says `dialect: vault`)
    1:3 object 1: secret: is missing (write the secret's name, such as `secret: shop/db`)
    1:4 object 1: objectName: is not a known key (here it is `path`)
    1:19 object 1: secretPath: is not a known key (here it is `secret`)
    1:34 object 1: secretKey: is not a known key (here it is `field`)
    1:48 object 1: filePermission: is not a known key (here it is `mode`)
    1:70 object 1: secretArgs: is not a known key (here it is `args`)
    ");
}

#[test]
fn all_faults_of_a_class_at_once() {
    let objects = r#"
- secret: shop/db
  field: password
  path: db/password
  mode: 04755
  optional: "yes"
  encoding: base46
- path: x
- secret: [a, b]
- just a text
- secret: shop/tls
  field: a
  fields: b
"#;
    insta::assert_snapshot!(faults_of(&[("mode", "rw-r--r--"), ("objects", objects), ("bakend", "files")]), @r#"
    - bakend: is not a known key (did you mean `backend`?)
    - mode: "rw-r--r--" is not a file mode: a mode is octal such as 0444, 0o444 or "0444", or decimal such as 292 (write it in octal, such as 0444)
    5:9 object 1 (db/password): mode: 04755 is over 0777: the set-user-id, set-group-id and sticky bits cannot be delivered (write an octal mode up to 0777)
    6:13 object 1 (db/password): optional: must be true or false (write one of them, without quotes)
    7:13 object 1 (db/password): encoding: there is no encoding "base46" (did you mean `base64`?)
    8:3 object 2 (x): secret: is missing (write the secret's name, such as `secret: shop/db`)
    9:11 object 3: secret: is a list, but must be a text (write one value; one that starts with `[` or `{` needs quotes)
    10:3 object 4: objects: is a text, but an object must be a mapping (write for example `- secret: shop/db`)
    13:11 object 5 (a): fields: cannot be used together with `field` (keep one: `field` makes one file, `fields` makes a folder of files)
    "#);
}

#[test]
fn bad_modes() {
    let objects = "[{secret: a, mode: 01777}, {secret: b, mode: 644}, {secret: c, mode: 0888}, {secret: d, mode: u+r}, {secret: e, mode: [4]}, {secret: f, mode: 0x1ff}, {secret: g, mode: 4294967296}]";
    insta::assert_snapshot!(faults(objects), @r#"
    1:20 object 1 (a): mode: 01777 is over 0777: the set-user-id, set-group-id and sticky bits cannot be delivered (write an octal mode up to 0777)
    1:46 object 2 (b): mode: 644 is decimal without a 0 before it, and over 0777 (did you mean 0644?)
    1:70 object 3 (c): mode: "0888" is not a file mode: a mode is octal such as 0444, 0o444 or "0444", or decimal such as 292 (write it in octal, such as 0444)
    1:95 object 4 (d): mode: "u+r" is not a file mode: a mode is octal such as 0444, 0o444 or "0444", or decimal such as 292 (write it in octal, such as 0444)
    1:119 object 5 (e): mode: is a list, but must be a text (write one value; one that starts with `[` or `{` needs quotes)
    1:143 object 6 (f): mode: "0x1ff" is not a file mode: a mode is octal such as 0444, 0o444 or "0444", or decimal such as 292 (write it in octal, such as 0444)
    1:169 object 7 (g): mode: 4294967296 is over 0777: the set-user-id, set-group-id and sticky bits cannot be delivered (write an octal mode up to 0777)
    "#);
    for blank in [" ", "\t", "  "] {
        assert!(faults_of(&[("mode", blank), ("objects", "[]")]).contains("mode: "), "{blank:?}");
        assert!(faults_of(&[("fresh", blank), ("objects", "[]")]).contains("fresh: "), "{blank:?}");
    }
    insta::assert_snapshot!(faults_of(&[("mode", "7777"), ("objects", "[]")]), @"- mode: 7777 is over 0777: the set-user-id, set-group-id and sticky bits cannot be delivered (write an octal mode up to 0777)");
}

#[test]
fn bad_paths() {
    let long = format!("[{{secret: a, path: {}}}, {{secret: b, path: {}}}]", "x".repeat(256), "y/".repeat(2048) + "z");
    insta::assert_snapshot!(faults(&long), @r#"
    1:20 object 1 (xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...): path: "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"... has an element of 256 bytes: a file name has at most 255 (shorten it)
    1:297 object 2 (y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/...): path: "y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/y/"... is 4097 bytes long: at most 4096 are allowed (shorten it)
    "#);
    let objects = r#"
- {secret: a, path: ../etc/passwd}
- {secret: b, path: a/../b}
- {secret: c, path: /etc/passwd}
- {secret: d, path: a//b}
- {secret: e, path: "a\0b"}
- {secret: f, path: ""}
- {secret: g, path: certs/}
- {secret: h, path: ..data}
- {secret: i, fields: "*", path: /certs}
- {secret: j, field: "a\tb"}
- {secret: ..k}
- {secret: l, fields: ["..", ok]}
"#;
    insta::assert_snapshot!(faults(objects), @r#"
    2:21 object 1 (../etc/passwd): path: "../etc/passwd" has the element ".." (write the path without it)
    3:21 object 2 (a/../b): path: "a/../b" has the element ".." (write the path without it)
    4:21 object 3 (/etc/passwd): path: "/etc/passwd" is absolute: paths are relative to the volume (remove the `/` at its start)
    5:21 object 4 (a//b): path: "a//b" has an empty element (`//`, or a `/` at its end) (name a file; only an object with `fields` makes a folder)
    6:21 object 5 (a\0b): path: "a\0b" has a control character (remove it)
    7:21 object 6: path: "" is empty (name the file, or leave `path` out)
    8:21 object 7 (certs/): path: "certs/" has an empty element (`//`, or a `/` at its end) (name a file; only an object with `fields` makes a folder)
    9:21 object 8 (..data): path: "..data" starts with `..`, which the driver keeps for itself (choose another name)
    10:34 object 9 (/certs): path: "/certs" is absolute: paths are relative to the volume (remove the `/` at its start)
    11:3 object 10 (a\tb): path: is missing, and "a\tb" cannot be used instead: it has a control character (add a path)
    12:3 object 11 (..k): path: is missing, and "..k" cannot be used instead: it starts with `..`, which the driver keeps for itself (add a path)
    13:23 object 12 (l): fields: the field ".." cannot name a file: the path has the element ".." (write a separate object for it, with `field` and `path`)
    "#);
}

#[test]
fn paths_that_exclude_each_other() {
    let objects = r#"
- {secret: a, path: db/password}
- {secret: b, path: db/password}
- {secret: c, path: db}
- {secret: d, path: x}
- {secret: e, path: x/y}
- {secret: f, fields: "*", path: x/}
- {secret: g, fields: [p, q], path: many/}
- {secret: h, path: many/q}
- {secret: i, path: many/r}
- {secret: j, fields: "*", path: many}
- {secret: k, path: many}
"#;
    insta::assert_snapshot!(faults(objects), @r#"
    3:21 object 2 (db/password): path: "db/password" is also the path of object 1 (db/password) (give each object a different path)
    4:21 object 3 (db): path: "db" would be a file, but object 1 (db/password) needs a folder there (change one of the paths)
    6:21 object 5 (x/y): path: "x" is the file of object 4 (x): nothing can be below a file (change one of the paths)
    7:34 object 6 (x/): path: "x" is the file of object 4 (x): nothing can be below a file (change one of the paths)
    9:21 object 8 (many/q): path: "many/q" is also the path of object 7 (many/) (give each object a different path)
    12:21 object 11 (many): path: "many" would be a file, but object 7 (many/) needs a folder there (change one of the paths)
    "#);
}

#[test]
fn bad_names_versions_and_backends() {
    let objects = r#"
- {secret: ../a}
- {secret: a%2fb}
- {secret: a//b}
- {secret: ""}
- {secret: "a\0b"}
- {secret: "/v1/a"}
- {secret: a, version: latest}
- {secret: a, path: x, backend: files2}
"#;
    insta::assert_snapshot!(faults(objects), @r#"
    2:12 object 1 (a): secret: the name "../a" has the element ".." (write the name as its store lists it)
    3:12 object 2 (a%2fb): secret: the name "a%2fb" has the character '%', which stores read as an escape or a query (write the name as its store lists it)
    4:12 object 3 (b): secret: the name "a//b" has an empty element (`//`, or a `/` at its start or end) (write the name as its store lists it)
    5:12 object 4: secret: the name "" is empty (write the name as its store lists it)
    6:12 object 5 (a\0b): secret: the name "a\0b" has a control character (write the name as its store lists it)
    7:12 object 6 (a): secret: the name "/v1/a" has an empty element (`//`, or a `/` at its start or end) (write the name as its store lists it)
    8:24 object 7 (a): version: "latest" is not a revision: a file vault counts them from 1 (pin one that the store has, or leave the version out for the latest)
    9:33 object 8 (x): backend: there is no backend "files2" on this node (there are: bao, files)
    "#);
    let long = format!("- secret: {}", "x".repeat(2_000));
    insta::assert_snapshot!(faults(&long), @r#"1:11 object 1 (xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...): secret: the name "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"... is 2000 bytes long; at most 1024 are allowed (write the name as its store lists it)"#);
}

#[test]
fn a_backend_that_is_unknown_is_told_once() {
    let objects = "[{secret: a}, {secret: b}, {secret: c, backend: files, mode: 9}, {secret: d, mode: 0999}]";
    insta::assert_snapshot!(faults_of(&[("backend", "boa"), ("objects", objects)]), @r#"
    - backend: there is no backend "boa" on this node (there are: bao, files)
    1:84 object 4 (d): mode: "0999" is not a file mode: a mode is octal such as 0444, 0o444 or "0444", or decimal such as 292 (write it in octal, such as 0444)
    "#);
    let class = parameters(&[("objects", objects)]);
    let found = parse(
        &class,
        &FakeCatalogue { only: false },
        ClassLimits { objects: 9, files: 4096, bytes: 1 << 20, owners: true },
        &Steps::unbounded(),
    )
    .unwrap_err()
    .0;
    insta::assert_snapshot!(found[0], @"backend: no backend is named, and this node has several (set backend to one of: bao, files)");
}

#[test]
fn bad_fields() {
    let globs = ["\"a*\""; 17].join(", ");
    let objects = format!(
        r#"
- {{secret: a, fields: []}}
- {{secret: b, fields: ["", {{x: y}}]}}
- {{secret: c, fields: [{globs}]}}
- {{secret: d, fields: {}}}
- {{secret: e, field: "join(a, b)", path: x}}
- {{secret: f, field: "[&a]", path: y}}
- {{secret: g, field: "", path: z}}
- {{secret: h, field: {}}}
"#,
        "x".repeat(300),
        "(".repeat(1000)
    );
    insta::assert_snapshot!(faults(&objects), @r#"
    2:23 object 1 (a): fields: is an empty list (name fields, or write "*" for all)
    3:24 object 2 (b): fields: "" cannot name a field: a field's name has 1 to 253 bytes and no control character (write a name, or "*" for all)
    3:28 object 2 (b): fields: holds a mapping, but must be a list of texts (write each on a separate line, after `- `)
    4:120 object 3 (c): fields: has more than 16 patterns with a `*` (name the fields, or use fewer patterns)
    5:23 object 4 (d): fields: "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"... cannot name a field: a field's name has 1 to 253 bytes and no control character (write a name, or "*" for all)
    6:22 object 5 (x): field: joins with a text that is not a literal, so the result could have any size (write a field's name, or a simpler JMESPath expression)
    7:22 object 6 (y): field: uses `&` outside the arguments of map, max_by, min_by and sort_by (write a field's name, or a simpler JMESPath expression)
    8:22 object 7 (z): field: is empty (write a field's name, or a simpler JMESPath expression)
    9:22 object 8 (((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((...): field: has more than 64 operators (1000) (write a field's name, or a simpler JMESPath expression)
    "#);
    let deep = format!("- {{secret: a, field: '{}'}}", "(".repeat(100_000));
    insta::assert_snapshot!(faults(&deep), @"1:22 object 1 (((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((...): field: is 100000 bytes long: at most 1024 are allowed (write a field's name, or a simpler JMESPath expression)");
}

#[test]
fn bad_yaml() {
    insta::assert_snapshot!(faults("- secret: a\n  path: [x\n"), @"2:9 objects: line 2: not valid YAML: unclosed bracket '[' (look there and just above for an open bracket or quote, a tab, uneven indentation, or a value that needs quotes)");
    insta::assert_snapshot!(faults("- secret: a\n  path: x\n  path: y\n"), @"3:3 objects: line 3: `path` is given twice in one mapping (remove one)");
    insta::assert_snapshot!(faults("secret: a\npath: x\n"), @"1:1 objects: line 1: is a mapping, but must be a list (start each object with `- `, such as `- secret: shop/db`)");
    insta::assert_snapshot!(faults("shop/db"), @"1:1 objects: line 1: is a text, but must be a list (start each object with `- `, such as `- secret: shop/db`)");
    insta::assert_snapshot!(faults("[]\n---\n[]"), @"3:1 objects: line 3: a second YAML document starts here; only one is read (remove the `---`)");
    insta::assert_snapshot!(faults(&"[".repeat(1_000)), @"1:256 objects: line 1: not valid YAML: recursion limit exceeded (look there and just above for an open bracket or quote, a tab, uneven indentation, or a value that needs quotes)");
    let mut bomb = "- &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..12 {
        bomb += &format!("- &a{level} [{}]\n", format!("*a{},", level - 1).repeat(10));
    }
    insta::assert_snapshot!(faults(&bomb), @"5:32 objects: line 5: over the budget of 100000 YAML values, aliases expanded (write less, with fewer aliases)");
}

#[test]
fn too_many_objects() {
    let objects = (0..10_000).map(|n| format!("- secret: s{n}")).collect::<Vec<_>>().join("\n");
    let found = parse_class(&[("objects", &objects)]).unwrap_err();
    assert_eq!((found.len(), found[0].code), (1, Code::TooLarge));
    insta::assert_snapshot!(found[0], @"objects: has 10000 objects: at most 512 are allowed on this node (split the class, or ask for a higher limits.objects)");
}

#[test]
fn hostile_text_is_cut_and_escaped() {
    let objects = format!(
        "- {{secret: \"{}\\n{}\", path: \"\\e[31m{}\", \"{}\": 1}}",
        "%".repeat(200),
        "x".repeat(5_000),
        "z".repeat(100_000),
        "k".repeat(100_000)
    );
    for fault in parse_class(&[("objects", &objects), ("backend", &"b".repeat(100_000)), (&"K".repeat(100_000), "x")]).unwrap_err() {
        let shown = fault.to_string();
        assert!(shown.len() < 1_000 && !shown.contains(char::is_control), "{shown}");
    }
}

/// A class with many secrets needs no more time per secret than a class with few. Prints its figures; `--nocapture` shows them.
#[test]
fn time_to_parse_grows_with_the_class_alone() {
    let best = [10, 1_000].map(|objects| {
        let object = |n| format!("- secret: shop/s{n}\n  field: password\n  path: a/b{n}/password\n  mode: 0444\n");
        let class = parameters(&[("objects", &(0..objects).map(object).collect::<Vec<_>>().concat())]);
        let time = |_| {
            let start = Instant::now();
            parse(
                &class,
                &FakeCatalogue { only: true },
                ClassLimits { objects, files: 4096, bytes: 1 << 20, owners: true },
                &Steps::unbounded(),
            )
            .unwrap();
            start.elapsed()
        };
        let best = (0..10_000 / objects).map(time).min().unwrap();
        println!("{objects} objects: {best:?}");
        best.as_nanos() / objects as u128
    });
    // A generous limit, for busy machines: quadratic growth would be a hundredfold.
    assert!(best[1] < 10 * best[0], "{best:?} ns an object");
}

/// Every class in the documentation works.
#[test]
fn the_documented_classes_parse() {
    let page = include_str!("../../../docs/classes.md");
    let mut classes = 0;
    for block in page.split("```yaml").skip(1) {
        let block = block.split("```").next().unwrap();
        let Some((before, after)) =
            block.split_once("objects: |\n").filter(|_| !block.contains("provider: vault") && !block.contains("provider: aws"))
        else {
            continue;
        };
        let depth = before.len() - before.trim_end_matches(' ').len();
        let inside = |line: &&str| line.trim().is_empty() || line.len() - line.trim_start().len() > depth;
        let objects = after.lines().take_while(inside).collect::<Vec<_>>().join("\n");
        assert!(!plan(&objects).objects.is_empty());
        classes += 1;
    }
    assert_eq!(classes, 9);
}

#[test]
fn a_class_has_a_bound_of_bytes() {
    let parse = |bytes| {
        let class = parameters(&[("objects", "- secret: shop/db"), ("driver/key", "counts too")]);
        parse(&class, &FakeCatalogue { only: true }, ClassLimits { objects: 512, files: 4096, bytes, owners: true }, &Steps::unbounded())
    };
    assert!(parse(44).is_ok());
    let faults = parse(43).unwrap_err().0;
    assert_eq!((faults.len(), faults[0].code), (1, Code::TooLarge));
    insta::assert_snapshot!(faults[0], @"parameters: have 44 bytes: at most 43 are read on this node (split the class, or ask for a higher limits.classBytes)");
}

#[test]
fn many_faults_are_counted_and_not_kept() {
    let unknown: String = (0..1_000).map(|n| format!(", feild{n}: x")).collect();
    let faults = parse_class(&[("objects", &format!("- {{secret: shop/db{unknown}}}\n- {{secret: shop/a, feild: x}}"))]).unwrap_err();
    assert_eq!((faults.len(), faults.more()), (64, 1_001 - 64));
    assert_eq!((faults[0].key.as_str(), faults[63].key.as_str()), ("feild0", "feild63"));
}

/// `n` names, as the items of a list.
fn names(n: usize) -> String {
    (0..n).map(|n| format!("field{n:05}, ")).collect()
}

#[test]
fn names_and_files_and_paths_have_bounds() {
    let too_large = |objects: &str| {
        let faults = parse_class(&[("objects", objects)]).unwrap_err();
        assert!(faults.iter().all(|fault| fault.code == Code::TooLarge), "{faults:?}");
        faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let object = |number: usize, names: &str| format!("- {{secret: a, fields: [{names}], path: \"d{number}\"}}\n");
    assert!(parse_class(&[("objects", &object(1, &(names(512) + "\"*\"")))]).is_ok());
    insta::assert_snapshot!(too_large(&object(1, &names(513))), @r#"object 1 (d1): fields: names 513 fields: at most 512 are allowed (use patterns such as "*", or split the object)"#);
    assert!(parse_class(&[("objects", &(0..8).map(|n| object(n, &names(511))).collect::<String>())]).is_ok());
    insta::assert_snapshot!(too_large(&(0..12).map(|n| object(n, &names(500))).collect::<String>()), @r#"object 9 (d8): fields: with this object the class names more than 4096 fields (use patterns such as "*", or split the class)"#);
    let folder = "f/".repeat(2_000);
    let deep =
        format!("- {{secret: a, fields: [{}], path: {folder}}}\n- {{secret: b, fields: [{}], path: {folder}b}}", names(200), names(200));
    insta::assert_snapshot!(too_large(&deep), @"object 2 (f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/...): path: with this object the paths of the class have more than 1048576 bytes together (shorten them, or split the class)");
    let others: String = (0..5).map(|n| format!("- secret: x{n}\n")).collect();
    let class = parameters(&[("objects", &format!("- {{secret: a, fields: [{}]}}\n{others}", names(8)))]);
    let limits = ClassLimits { objects: 512, files: 10, bytes: 1 << 20, owners: true };
    let faults = parse(&class, &FakeCatalogue { only: true }, limits, &Steps::unbounded()).unwrap_err().0;
    insta::assert_snapshot!(faults[0], @"object 4 (x2): path: with this object the class has more than 10 files: no more are allowed on this node (split the class, or ask for a higher limits.files)");
}

/// The steps of a class, with any result.
fn steps_of(class: &BTreeMap<String, String>) -> u64 {
    let steps = Steps::unbounded();
    let limits = ClassLimits { objects: 100_000, files: 100_000, bytes: 1 << 30, owners: true };
    let _ = parse(class, &FakeCatalogue { only: true }, limits, &steps);
    steps.spent()
}

/// A kind of class, and the parameters of one of this size.
type Kind = (&'static str, fn(usize) -> Vec<(String, String)>);

/// What a tenant may try.
fn kinds() -> Vec<Kind> {
    vec![
        ("objects", |n| objects_of((0..n).map(|n| format!("- {{secret: s{n}, field: f, path: p{n}}}\n")).collect())),
        ("objects of one path", |n| objects_of("- {secret: s, field: f, path: p}\n".repeat(n))),
        ("objects in each other", |n| objects_of((0..n).map(|n| format!("- {{secret: s, path: {}a}}\n", "a/".repeat(n % 100))).collect())),
        ("faulty objects", |n| objects_of("- {secret: a//b, field: \"\", path: /x, mode: 9999, encoding: base46}\n".repeat(n))),
        ("objects of unknown backends", |n| objects_of("- {secret: a, backend: flies}\n".repeat(n))),
        ("names", |n| objects_of(format!("- {{secret: s, fields: [{}]}}", names(n)))),
        ("long names", |n| objects_of(format!("- {{secret: s, fields: [{}]}}", format!("{}, ", "x".repeat(200)).repeat(n / 20)))),
        ("no names", |n| objects_of(format!("- {{secret: s, fields: [{}]}}", "[], ".repeat(n)))),
        ("unknown keys", |n| objects_of(format!("- {{secret: s{}}}", (0..n).map(|n| format!(", feild{n}: x")).collect::<String>()))),
        ("unknown keys of many objects", |n| {
            let keys: String = (0..40).map(|n| format!(", fie{n:02}d: x")).collect();
            objects_of((0..n / 20).map(|n| format!("- {{secret: s{n}{keys}}}\n")).collect())
        }),
        ("merge keys", |n| objects_of(format!("- &a {{secret: s}}\n{}", "- {<<: *a}\n".repeat(n)))),
        ("control characters", |n| objects_of("- {secret: \"\\x01\\x1b[31m\", path: \"\\x01\", args: {a: \"\\x01\"}}\n".repeat(n))),
        ("long versions", |n| objects_of(format!("- {{secret: s, version: \"{}\", path: p}}\n", "9".repeat(200)).repeat(n))),
        ("unknown keys of the class", |n| (0..n).map(|n| (format!("objetcs{n}"), String::new())).collect()),
        ("arguments", |n| objects_of(format!("- {{secret: s, args: {{{}}}}}", (0..n).map(|n| format!("a{n}: 1, ")).collect::<String>()))),
        ("items under a long key", |n| objects_of(format!("- {{secret: s, args: {{? {} : [{}]}}}}", "k".repeat(n), "x, ".repeat(n)))),
        ("faulty items under a long key", |n| {
            objects_of(format!("- {{secret: s, args: {{? {} : [{}]}}}}", "k".repeat(n), "08, ".repeat(n)))
        }),
        ("items in deep keys", |n| {
            let key = "k".repeat(n / 20);
            objects_of(format!("- {{secret: s, args: {}[{}]{}}}", format!("{{? {key} : ").repeat(20), "08, ".repeat(n), "}".repeat(20)))
        }),
        ("copies", |n| objects_of(format!("- &a {{secret: s, args: {{a: [x, y, z]}}}}\n{}", "- *a\n".repeat(n)))),
        ("a long expression", |n| objects_of(format!("- {{secret: s, field: \"{}\"}}", "a|".repeat(n)))),
        ("expressions", |n| objects_of("- {secret: s, field: \"a[?b == 'c'] | [0].d[*].{x: e, y: f}\", path: p}\n".repeat(n))),
    ]
}

fn objects_of(objects: String) -> Vec<(String, String)> {
    vec![("objects".to_owned(), objects)]
}

#[test]
fn twice_the_class_takes_twice_the_steps() {
    for (kind, class) in kinds() {
        let [once, twice] = [800, 1_600].map(|n| steps_of(&class(n).into_iter().collect()));
        assert!(once > 10_000 && twice * 10 <= once * 22, "{kind}: {once}, {twice}");
    }
}

/// The clock finds what the steps do not count: one class is read as fast as sixteen classes of a sixteenth of the size. Quadratic work
/// would take 16 times as long.
#[test]
fn the_time_of_a_class_grows_with_its_steps() {
    for (kind, class) in kinds() {
        let [small, large] = [60, 960].map(|n| class(n).into_iter().collect());
        let time = |class, times| {
            let start = Instant::now();
            (0..times).for_each(|_| _ = steps_of(class));
            start.elapsed()
        };
        // By turns: a busy machine then slows both.
        let tries: Vec<_> = (0..4).map(|_| (time(&small, 16), time(&large, 1))).collect();
        let [small, large] = [tries.iter().map(|(small, _)| small).min(), tries.iter().map(|(_, large)| large).min()];
        assert!(large.unwrap() < &(5 * *small.unwrap()), "{kind}: {small:?}, {large:?}");
    }
}

#[test]
fn a_class_ends_with_the_steps() {
    let class = parameters(&[("objects", &(0..512).map(|n| format!("- secret: s{n}\n")).collect::<String>())]);
    let limits = ClassLimits { objects: 512, files: 4096, bytes: 1 << 20, owners: true };
    let steps = Steps::new(200_000, Instant::now() + tokio::time::Duration::from_mins(1));
    let faults = parse(&class, &FakeCatalogue { only: true }, limits, &steps).unwrap_err().0;
    assert_eq!((faults.len(), faults[0].code), (1, Code::TooLarge));
    insta::assert_snapshot!(faults[0], @"objects: takes more than 200000 steps of work (split the class)");
    assert!(steps_of(&class) < 400_000, "{}", steps_of(&class));
}

/// 90,000 names and a path of 4 KB, as the largest class has them: refused before any path is made.
#[test]
fn names_that_are_too_many_make_no_paths() {
    let class = |names: usize| {
        let objects = format!("- {{secret: s, fields: [{}], path: {}}}", "f, ".repeat(names), "p/".repeat(2_000));
        steps_of(&parameters(&[("objects", &objects)]))
    };
    let (some, many) = (class(513), class(80_000));
    assert!(many / 80_000 < 200, "{some}, {many}");
}

#[test]
fn a_file_in_a_format() {
    let objects = r#"
- { secret: shop/db, format: dotenv, keys: env, path: .env }
- { secret: shop/db, fields: [user, "p*"], format: properties }
- { secret: shop/tls, format: pem, part: leaf, path: leaf.pem, encoding: base64, newline: ensure }
- { secret: shop/api, parse: json, format: toml, path: api.toml }
- secrets: [shop/db, { secret: shop/api, backend: bao, version: 7, optional: true, parse: { field: value, as: json } }, shop/db]
  format: yaml
  path: all.yaml
"#;
    let plan = plan(objects);
    let formats = plan.objects.iter().map(|object| match &object.select {
        Select::Formatted { format, patterns, path } => (*format, patterns.len(), path.as_str()),
        Select::Each { .. }
        | Select::Field { .. }
        | Select::Fields { .. }
        | Select::Key { .. }
        | Select::Keystore { .. }
        | Select::Response { .. }
        | Select::Searched { .. }
        | Select::Template { .. }
        | Select::Whole { .. } => panic!("{object:?}"),
    });
    let formats: Vec<_> = formats.collect();
    assert_eq!(
        formats,
        [
            (Format::Dotenv(Names::Env), 0, ".env"),
            (Format::Properties(Names::AsStored), 2, "db"),
            (Format::Pem(pem::Part::Leaf), 0, "leaf.pem"),
            (Format::Toml, 0, "api.toml"),
            (Format::Yaml, 0, "all.yaml"),
        ]
    );
    assert_eq!((plan.objects[2].newline, plan.objects[3].parse.clone()), (Newline::Ensure, Some(Parse::Lone)));
    let merged = &plan.objects[4];
    assert_eq!(plan.secrets_of(merged).map(ToString::to_string).collect::<Vec<_>>(), ["files/shop/db", "bao/shop/api@7"]);
    let parts: Vec<_> = merged.parts.iter().map(|part| (part.secret, part.optional, part.parse.clone())).collect();
    assert_eq!(parts, [(0, false, None), (3, true, Some(Parse::Field(FieldName::new("value")))), (0, false, None)]);
}

/// A secret that only a refused object asks for is not asked for, and the others keep their places.
#[test]
fn secrets_of_a_list_share_their_places() {
    let plan = plan("[{secret: b}, {secrets: [a, b, c], format: json, path: x}, {secret: c, path: y}]");
    assert_eq!(plan.secrets.iter().map(ToString::to_string).collect::<Vec<_>>(), ["files/b", "files/a", "files/c"]);
    assert_eq!(plan.objects[1].secrets().collect::<Vec<_>>(), [1, 0, 2]);
    assert_eq!(plan.objects[2].secret, 2);
}

#[test]
fn what_goes_with_a_format_and_what_does_not() {
    let wrong = r"
- { secret: a, format: ini }
- { secret: b, format: pkcs12 }
- { secret: c, format: json, field: x, path: c1 }
- { secret: d, keys: env }
- { secret: e, format: yaml, keys: env, path: e }
- { secret: f, format: json, part: leaf, path: f }
- { secret: g, format: dotenv, keys: upper, path: g }
- { secret: h, newline: crlf }
- { secret: i, parse: xml }
- { secret: j, parse: { as: json, feild: x } }
- { secret: k, parse: { field: [x], as: yaml } }
- { secrets: [a, b], path: l }
- { secrets: [a], format: json }
- { secrets: [], format: json, path: n }
- { secrets: shop/db, format: json, path: o }
- { secrets: [[a]], format: json, path: p }
- { secrets: [{ secert: a }], format: json, path: q }
- { secret: a, secrets: [b], version: 1, format: json, path: r }
- { secrets: [a/../b, { secret: c, backend: flies }, { secret: d, version: x }], format: json, path: s }
";
    insta::assert_snapshot!(faults(wrong), @r#"
    2:24 object 1 (a): format: there is no format "ini" (there are: json, yaml, toml, properties, dotenv, pem, pkcs12)
    3:3 object 2 (b): key: is missing (name the fields of a key and its certificates, with `key` and `chain`, or `trust` for a truststore)
    3:3 object 2 (b): password: is missing (name the field that has it, such as `password: { secret: shop/keystore, field: password }`)
    3:3 object 2 (b): path: is missing (name the file, such as `path: keystore.p12`)
    4:37 object 3 (c1): field: cannot be used together with `format`, which writes fields under their names (write `fields` to choose the fields)
    5:22 object 4 (d): keys: works only with `format: dotenv` and `format: properties` (remove it)
    6:36 object 5 (e): keys: works only with `format: dotenv` and `format: properties` (remove it)
    7:36 object 6 (f): part: works only with `format: pem` (remove it)
    8:38 object 7 (g): keys: there is no spelling of keys "upper" (there are: env)
    9:25 object 8 (h): newline: there is no rule for line ends "crlf" (there are: keep, strip, ensure)
    10:23 object 9 (i): parse: there is no form of text "xml" (there are: json, pkcs12)
    11:23 object 10 (j): parse.field: is missing (name the field that is read)
    11:35 object 10 (j): parse.feild: is not a known key (did you mean `field`?)
    12:32 object 11 (k): parse.field: is a list, but must be a text (write one value; one that starts with `[` or `{` needs quotes)
    12:41 object 11 (k): parse.as: there is no form of text "yaml" (there are: json, pkcs12)
    13:14 object 12 (l): secrets: needs `format`, which makes one file of several secrets (add it, such as `format: json`)
    14:3 object 13: path: is missing (name the file: it is made of several secrets)
    15:14 object 14 (n): secrets: has 0 secrets: a file is made of 1 to 64 (add or remove secrets, or split the object)
    16:14 object 15 (o): secrets: is a text, but must be a list (start each secret with `- `, such as `- shop/db`)
    17:15 object 16 (p): secrets: is a list, but must be a text (write one value; one that starts with `[` or `{` needs quotes)
    18:15 object 17 (q): secrets.secret: is missing (write the secret's name, such as `secret: shop/db`)
    18:17 object 17 (q): secrets.secert: is not a known key (did you mean `secret`?)
    19:13 object 18 (r): secret: cannot be used together with `secrets` (write it in the entry of each secret that it is for, such as `{ secret: shop/db, version: 3 }`)
    19:39 object 18 (r): version: cannot be used together with `secrets` (write it in the entry of each secret that it is for, such as `{ secret: shop/db, version: 3 }`)
    20:15 object 19 (s): secret: the name "a/../b" has the element ".." (write the name as its store lists it)
    20:45 object 19 (s): backend: there is no backend "flies" on this node (there are: bao, files)
    20:76 object 19 (s): version: "x" is not a revision: a file vault counts them from 1 (pin one that the store has, or leave the version out for the latest)
    "#);
    let many = vec!["a"; 65].join(", ");
    insta::assert_snapshot!(faults(&format!("[{{ secrets: [{many}], format: json, path: x }}]")), @"1:13 object 1 (x): secrets: has 65 secrets: a file is made of 1 to 64 (add or remove secrets, or split the object)");
}

#[test]
fn a_template_names_its_secrets() {
    let objects = r#"
- template: "url = {{ db.user | urlencode }}@{{ api.host }}\n"
  secrets: { db: shop/db, api: { secret: shop/api, backend: bao, version: 7, optional: true, parse: json } }
  path: app.conf
- { template: "{{ db.user }}", secrets: { db: shop/db }, path: app.json }
"#;
    let plan = plan(objects);
    let named = &plan.objects[0];
    assert_eq!(plan.secrets_of(named).map(ToString::to_string).collect::<Vec<_>>(), ["files/shop/db", "bao/shop/api@7"]);
    let parts: Vec<_> = named.parts.iter().map(|part| (part.name.as_str(), part.secret, part.optional, part.parse.clone())).collect();
    assert_eq!(parts, [("db", 0, false, None), ("api", 1, true, Some(Parse::Lone))]);
    assert_eq!((plan.templates().count(), plan.objects[1].secret, plan.compiled() > 1_000), (2, 0, true));
    let warnings: Vec<_> = plan.warnings.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(warnings.join("\n"), @r#"object 2 (app.json): template: line 1 writes a value without a filter, so the author of the secret could add more than a value to "app.json" (add a filter: `json`, `yaml`, `toml`, `properties`, `dotenv`, `quote` or `shellquote`)"#);
}

#[test]
fn what_goes_with_a_template_and_what_does_not() {
    let wrong = r#"
- { template: "{{ db.user", secrets: { db: a }, path: a }
- { template: "x", path: b }
- { template: "x", secrets: [a], path: c }
- { template: "x", secrets: {}, path: d }
- { template: "x", secrets: { d-b: a, if: b, loop: c, "": d }, path: e }
- { template: "x", secrets: { db: a } }
- { template: "x", secrets: { db: a }, path: g, format: json, newline: strip, encoding: hex }
- { template: "x", secrets: { db: a }, path: h, secret: b, version: 3 }
- { template: "x\n{{ dv.user }}", secrets: { db: a }, path: i }
- { template: "x\n{{ db.user | b64 }}", secrets: { db: { secert: a } }, path: j }
- { template: [x], secrets: { db: a }, path: k }
- { template: "x", secrets: { db: a }, path: a/l }
- { format: json, secrets: { db: a }, path: m }
"#;
    insta::assert_snapshot!(faults(wrong), @r#"
    2:15 object 1 (a): template: line 1: a tag `{{` is not closed with `}}`
    3:3 object 2 (b): secrets: is missing (name the secrets that the template uses, such as `secrets: { db: shop/db }`)
    4:29 object 3 (c): secrets: is a list, but a template has a mapping (write `name: shop/db` for each secret)
    5:29 object 4 (d): secrets: has 0 secrets: a file is made of 1 to 64 (add or remove secrets, or split the object)
    6:31 object 5 (e): secrets: "d-b" is not a name for a template: letters, digits and `_`, and not a word of its language (use another one)
    6:39 object 5 (e): secrets: "if" is not a name for a template: letters, digits and `_`, and not a word of its language (use another one)
    6:46 object 5 (e): secrets: "loop" is not a name for a template: letters, digits and `_`, and not a word of its language (use another one)
    6:55 object 5 (e): secrets: "" is not a name for a template: letters, digits and `_`, and not a word of its language (use another one)
    7:3 object 6: path: is missing (name the file that the template makes)
    8:57 object 7 (g): format: cannot be used together with `template`, which makes the whole file (remove it)
    8:72 object 7 (g): newline: cannot be used together with `template`, which makes the whole file (remove it)
    8:89 object 7 (g): encoding: cannot be used together with `template`, which makes the whole file (remove it)
    9:57 object 8 (h): secret: cannot be used together with `secrets` (write it in the entry of each secret that it is for, such as `{ secret: shop/db, version: 3 }`)
    9:69 object 8 (h): version: cannot be used together with `secrets` (write it in the entry of each secret that it is for, such as `{ secret: shop/db, version: 3 }`)
    10:15 object 9 (i): template: line 2: uses "dv", which is not a name under `secrets` (did you mean `db`?)
    11:15 object 10 (j): template: line 2: there is no filter "b64" (there are: b64decode, b64encode, default, dotenv, first, fromjson, hex, indent, jmespath, join, json, last, length, lower, pem_chain, pem_key, pem_leaf, properties, quote, replace, sha256, shellquote, split, squote, toml, trim, upper, urlencode, yaml)
    11:56 object 10 (j): secrets.secret: is missing (write the secret's name, such as `secret: shop/db`)
    11:58 object 10 (j): secrets.secert: is not a known key (did you mean `secret`?)
    12:15 object 11 (k): template: is a list, but must be a text (write one value; one that starts with `[` or `{` needs quotes)
    13:46 object 12 (a/l): path: "a" is the file of object 1 (a): nothing can be below a file (change one of the paths)
    14:28 object 13 (m): secrets: is a mapping, but must be a list (start each secret with `- `, such as `- shop/db`)
    "#);
    let many = (0..65).map(|n| format!("s{n}: a")).collect::<Vec<_>>().join(", ");
    insta::assert_snapshot!(faults(&format!("[{{ template: x, secrets: {{ {many} }}, path: x }}]")), @"1:26 object 1 (x): secrets: has 65 secrets: a file is made of 1 to 64 (add or remove secrets, or split the object)");
}

#[test]
fn a_keystore_names_its_fields() {
    let objects = r"
- secret: shop/tls
  version: 3
  format: pkcs12
  key: tls.key
  chain: [tls.crt, { secret: shop/ca, field: ca_chain, parse: json }]
  trust: [{ secret: shop/ca, field: ca.crt, parse: json }, { secret: shop/more, field: ca.crt, optional: true }]
  alias: kafka
  password: { secret: shop/keystore, field: password }
  path: keystore.p12
  newline: strip
- { format: pkcs12, trust: { secret: shop/ca, field: ca.crt }, password: { secret: shop/keystore, field: password }, path: trust.p12 }
- { secret: shop/pfx, parse: { field: pfx, as: pkcs12, password: { secret: shop/keystore, field: password } }, fields: '*', path: tls/ }
- { secret: shop/pfx, parse: { field: pfx, as: pkcs12, password: pass }, field: key, path: key.pem }
- { secret: shop/azure, parse: { field: pfx, as: pkcs12 }, format: pem, path: azure.pem }
";
    let plan = plan(objects);
    let names = |at: usize| plan.secrets_of(&plan.objects[at]).map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(0), ["files/shop/tls@3", "files/shop/ca", "files/shop/more", "files/shop/keystore"]);
    assert_eq!(names(1), ["files/shop/ca", "files/shop/keystore"]);
    assert_eq!(names(2), ["files/shop/pfx", "files/shop/keystore"]);
    assert_eq!((names(3), names(4)), (vec!["files/shop/pfx".to_owned()], vec!["files/shop/azure".to_owned()]));
    let Select::Keystore { keystore, path } = &plan.objects[0].select else { panic!("{:?}", plan.objects[0]) };
    let shown = |field: &FieldOf| format!("{} {}", field.part, field.field);
    assert_eq!(keystore.key.as_ref().map(shown).as_deref(), Some("0 tls.key"));
    assert_eq!(keystore.chain.iter().map(shown).collect::<Vec<_>>(), ["0 tls.crt", "1 ca_chain"]);
    assert_eq!(keystore.trust.iter().map(shown).collect::<Vec<_>>(), ["1 ca.crt", "2 ca.crt"]);
    assert_eq!((shown(&keystore.password), keystore.alias.as_str(), path.as_str()), ("3 password".to_owned(), "kafka", "keystore.p12"));
    let more = plan.objects[0].parts[2].secret;
    assert!(plan.objects[0].may_lack(more) && !plan.objects[0].may_lack(plan.objects[0].secret));
    let Some(Parse::Pkcs12 { password: Some(password), .. }) = &plan.objects[2].parse else { panic!("{:?}", plan.objects[2]) };
    assert_eq!(plan.secrets[password.secret].to_string(), "files/shop/keystore");
    assert!(!plan.objects[2].may_lack(password.secret));
}

#[test]
fn what_goes_with_a_keystore_and_what_does_not() {
    let wrong = r"
- { secret: a, format: jks, path: a }
- { secret: b, format: pkcs12, path: b }
- { secret: c, format: pkcs12, key: k, password: p, path: c }
- { secret: d, format: pkcs12, chain: c, password: p, path: d }
- { secret: e, format: pkcs12, key: k, chain: c, path: e }
- { secret: f, format: pkcs12, key: k, chain: c, password: p }
- { format: pkcs12, key: k, chain: [], trust: [[x]], password: { field: x }, path: g }
- { secret: h, format: pkcs12, key: [k], chain: { secret: h2 }, password: { secret: h2, feild: p }, path: h }
- { secrets: [i], format: pkcs12, trust: { secret: i, field: c }, password: { secret: i, field: p }, path: i }
- { secret: j, format: pkcs12, trust: c, password: p, field: x, keys: env, part: leaf, path: j }
- { secret: k, key: k, trust: t, alias: a, path: k }
- { version: 3, format: pkcs12, trust: { secret: l, field: c }, password: { secret: l, field: p }, path: l }
- { secret: m, format: pkcs12, trust: c, password: { secret: m2, field: p, optional: true }, alias: '', path: m }
- { secret: n, format: pkcs12, trust: c, password: p, alias: '🔑', path: n }
- { secret: o, parse: pkcs12, path: o }
- { secret: p, parse: { as: pkcs12, password: [x] }, path: p }
- { secret: q, parse: { field: x, as: json, password: y }, path: q }
- { secret: r, parse: { field: x, as: pkcs12, password: { secret: r2, field: p, parse: json, optional: true } }, path: r }
- { secret: s, format: pkcs12, trust: c, password: p, path: k/s }
- { secret: t, format: PKCS12, path: t }
";
    insta::assert_snapshot!(faults(wrong), @r#"
    2:24 object 1 (a): format: there is no format "jks": Java reads PKCS#12 under the type JKS, too (write `format: pkcs12`)
    3:3 object 2 (b): key: is missing (name the fields of a key and its certificates, with `key` and `chain`, or `trust` for a truststore)
    3:3 object 2 (b): password: is missing (name the field that has it, such as `password: { secret: shop/keystore, field: password }`)
    4:3 object 3 (c): chain: is missing (name the field with the key's certificate, and those with its issuers)
    5:39 object 4 (d): chain: needs `key` (add it; write trusted certificates under `trust`)
    6:3 object 5 (e): password: is missing (name the field that has it, such as `password: { secret: shop/keystore, field: password }`)
    7:3 object 6 (f): path: is missing (name the file, such as `path: keystore.p12`)
    8:26 object 7 (g): key: names the field "k", and the object has no `secret` (add it, or write `{ secret: NAME, field: NAME }`)
    8:36 object 7 (g): chain: has 0 fields: 1 to 32 are allowed (add or remove fields)
    8:48 object 7 (g): trust: is a list, but must be a field (write its name, or `{ secret: NAME, field: NAME }`)
    8:64 object 7 (g): password.secret: is missing (write the secret's name, such as `secret: shop/db`)
    9:37 object 8 (h): key: is a list, but must be a field (write its name, or `{ secret: NAME, field: NAME }`)
    9:49 object 8 (h): chain.field: is missing (name the secret's field)
    9:75 object 8 (h): password.field: is missing (name the secret's field)
    9:89 object 8 (h): password.feild: is not a known key (did you mean `field`?)
    10:14 object 9 (i): secrets: cannot be used together with `format: pkcs12`, which is made of `key`, `chain`, `trust` and `password` (remove it)
    11:62 object 10 (j): field: cannot be used together with `format: pkcs12`, which is made of `key`, `chain`, `trust` and `password` (remove it)
    11:71 object 10 (j): keys: cannot be used together with `format: pkcs12`, which is made of `key`, `chain`, `trust` and `password` (remove it)
    11:82 object 10 (j): part: cannot be used together with `format: pkcs12`, which is made of `key`, `chain`, `trust` and `password` (remove it)
    12:21 object 11 (k): key: works only with `format: pkcs12` (add that, or remove this key)
    12:31 object 11 (k): trust: works only with `format: pkcs12` (add that, or remove this key)
    12:41 object 11 (k): alias: works only with `format: pkcs12` (add that, or remove this key)
    13:14 object 12 (l): version: needs `secret`, and there is none (write it in the entry of its secret)
    14:52 object 13 (m): password: cannot be optional here (write `optional: true` in the object: without this secret the object has no file)
    14:101 object 13 (m): alias: "" is not an alias: an alias has 1 to 64 characters, no control character, and none above U+FFFF (write another one)
    15:62 object 14 (n): alias: "🔑" is not an alias: an alias has 1 to 64 characters, no control character, and none above U+FFFF (write another one)
    16:23 object 15 (o): parse: needs the name of a field (write `parse: { field: NAME, as: pkcs12, password: { secret: NAME, field: NAME } }`)
    17:23 object 16 (p): parse.field: is missing (name the field that is read)
    17:47 object 16 (p): parse.password: is a list, but must be a field (write its name, or `{ secret: NAME, field: NAME }`)
    18:55 object 17 (q): parse.password: works only with `as: pkcs12` (remove it)
    19:57 object 18 (r): parse.password: cannot be optional here (write `optional: true` in the object: without this secret the object has no file)
    19:57 object 18 (r): parse.password: is a field as the store has it, so `parse` has no use here (remove it)
    20:61 object 19 (k/s): path: "k" is the file of object 11 (k): nothing can be below a file (change one of the paths)
    21:24 object 20 (t): format: there is no format "PKCS12" (did you mean `pkcs12`?)
    "#);
}

#[test]
fn a_class_has_few_keystores() {
    let written = |n: usize| format!("- {{ secret: a, format: pkcs12, trust: c, password: p, path: w{n} }}\n");
    let read = |n: usize, password: &str| {
        format!("- {{ secret: a, parse: {{ field: pfx, as: pkcs12, password: {password} }}, field: key, path: r{n} }}\n")
    };
    let of_list =
        |n: usize| format!("- {{ secrets: [{{ secret: b{n}, parse: {{ field: pfx, as: pkcs12 }} }}], format: pem, path: l{n} }}\n");
    let eight = (0..4).map(written).chain((0..3).map(|n| read(n, "p"))).chain([read(3, "q"), of_list(1), of_list(2)]).collect::<String>();
    assert_eq!(plan(&eight).objects.len(), 10, "one file that several objects read is one");
    insta::assert_snapshot!(faults(&(eight.clone() + &written(9) + &of_list(3))), @r#"11:3 object 11 (w9): format: with this object the class has more than 8 keystores; the stored keystores that it reads count too (split the class over several volumes)"#);
    // With any number of them, the others are not searched again and again.
    let many = (0..400).map(of_list).collect::<String>();
    assert_eq!(faults(&many).lines().count(), 1);
}
