use std::collections::BTreeMap;

use insta::assert_snapshot;

use crate::dialect::{ClassLimits, parse};
use crate::model::{
    Ask, Catalogue, ClassFault, FaultList, InvalidName, LoginKey, Object, Plan, RefParts, SecretName, SecretRef, Select, Serving,
    Unresolved, Version, VersionIds,
};
use crate::steps::Steps;

/// Two backends: `ireland` in eu-west-1, where Pods log in with irsa, and `frankfurt` in eu-central-1. ARNs of the account 111122223333
/// become names.
struct FakeCatalogue;

impl FakeCatalogue {
    /// The folding that the backend does.
    fn fold(name: &str) -> Result<SecretName, InvalidName> {
        if !name.starts_with("arn:") {
            return name.parse();
        }
        let parts: Vec<&str> = name.splitn(6, ':').collect();
        if parts[4] != "111122223333" {
            return Err(InvalidName::Store("is an ARN of another account (...)".to_owned()));
        }
        match parts[2] {
            "ssm" => format!("ssm/{}", parts[5].trim_start_matches("parameter/")).parse(),
            _ => format!("secretsmanager/{}", parts[5].trim_start_matches("secret:").rsplit_once('-').unwrap().0).parse(),
        }
    }
}

impl Catalogue for FakeCatalogue {
    fn resolve(&self, ask: &Ask<'_>) -> Result<SecretRef, Unresolved> {
        let named = |cause| Unresolved::Name { name: ask.name.to_owned(), cause };
        let (backend, name) = (ask.backend.unwrap().parse().unwrap(), Self::fold(ask.name).map_err(named)?);
        let mut login = ask.login.clone();
        if login.mount.as_deref() == Some("podIdentity") && ask.backend == Some("ireland") {
            let problem = "this backend logs in by irsa (leave `usePodIdentity` out)".to_owned();
            return Err(Unresolved::Login { key: LoginKey::Mount, problem });
        }
        login.mount = login.mount.filter(|mount| mount != "irsa");
        let version = match ask.version {
            Some(bad) if bad.contains(' ') => return Err(Unresolved::Version(format!("{bad:?} is not a label"))),
            version => version.map(Version::new),
        };
        let (method, args, lease) = (ask.method, ask.args.clone(), ask.lease);
        Ok(RefParts { backend, name, version, method, args, lease, keep: None, login }.into())
    }

    fn serving(&self, dialect: &str, address: Option<&str>, way: Option<&str>) -> Result<Serving, Unresolved> {
        assert_eq!(dialect, "aws");
        assert!(matches!(way, Some("irsa" | "podIdentity")));
        let backend = match address {
            None | Some("eu-west-1") => "ireland",
            Some("eu-central-1") => "frankfurt",
            Some("eu-north-1") => return Err(Unresolved::Backend("several backends could serve it: a, b".to_owned())),
            Some(other) => return Err(Unresolved::Backend(format!("no backend is in the region {other:?}"))),
        };
        Ok(Serving { backend: backend.parse().unwrap(), by_address: address.is_some(), names_audience: backend == "frankfurt" })
    }
}

const SECRET: &str = "- {objectName: shop/db, objectType: secretsmanager}";
const ID: &str = "EXAMPLE1-90ab-cdef-fedc-ba987EXAMPLE";

fn parse_class(pairs: &[(&str, &str)]) -> Result<Plan, FaultList<ClassFault>> {
    let mut parameters: BTreeMap<String, String> = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    parameters.insert("dialect".to_owned(), "aws".to_owned());
    let limits = ClassLimits { objects: 20, files: 60, bytes: 1 << 20, owners: false };
    parse(&parameters, &FakeCatalogue, limits, &Steps::unbounded()).map_err(|faults| faults.0)
}

fn plan(pairs: &[(&str, &str)]) -> Plan {
    parse_class(&[&[("objects", SECRET)], pairs].concat()).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn plan_of(objects: &str) -> Plan {
    plan(&[("objects", objects)])
}

/// The messages, a line each, with the place in the text before each.
fn faults(pairs: &[(&str, &str)]) -> String {
    let lines = parse_class(pairs).unwrap_err().into_iter().map(|fault| match fault.at {
        Some((line, column)) => format!("{line}:{column} {fault}"),
        None => format!("- {fault}"),
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn faults_of(objects: &str) -> String {
    faults(&[("objects", objects)])
}

fn warnings(plan: &Plan) -> String {
    plan.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Everything of a plan that a mount uses, one line per file.
fn shown(plan: &Plan) -> String {
    plan.objects.iter().map(|object| shown_object(plan, object)).collect::<Vec<_>>().join("\n")
}

fn shown_object(plan: &Plan, object: &Object) -> String {
    let mode = |mode: Option<crate::model::FileMode>| mode.map_or_else(|| "driver's".to_owned(), |mode| mode.to_string());
    let of = |secret: &SecretRef| {
        let said: Vec<_> = secret.login.said().into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        format!("{} {secret} {}", secret.method, said.join(" ")).trim_end().to_owned()
    };
    let instead = plan.instead.get(&object.secret).map(|place| format!(" else {}", of(&plan.secrets[*place]))).unwrap_or_default();
    assert!(matches!(object.select, Select::Response { .. } | Select::Searched { .. }));
    let mut lines = vec![format!("{} {} = {}{instead}", object.label().path, mode(object.mode), of(plan.secret(object)))];
    lines.extend(object.searches().iter().map(|search| format!("  {} {} = {}", search.path, mode(search.mode), search.query)));
    lines.join("\n")
}

fn ids(plan: &Plan) -> String {
    plan.versioned().iter().map(|(id, _)| &**id).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_key_of_a_class() {
    let objects = format!(
        "
- objectName: shop/db
  objectType: secretsmanager
  objectAlias: db.json
  objectVersion: {ID}
  objectVersionLabel: AWSPREVIOUS
  filePermission: \"0400\"
  jmesPath:
    - path: username
      objectAlias: user
    - path: '\"tls.crt\"'
      objectAlias: tls/crt
      filePermission: \"0444\"
- objectName: /shop/url
  objectType: ssmparameter
  objectVersion: 3
- objectName: top
  objectType: ssmparameter
  objectVersionLabel: prod
- objectName: arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop/api-AbCdEf
- objectName: arn:aws:ssm:eu-west-1:111122223333:parameter/a/b
  objectType: ssmparameter
"
    );
    let plan = plan(&[("region", "eu-west-1"), ("objects", &objects)]);
    assert_snapshot!(shown(&plan), @r#"
    db.json 0400 = GET ireland/secretsmanager/shop/db@EXAMPLE1-90ab-cdef-fedc-ba987EXAMPLE:stage:AWSPREVIOUS
      user driver's = username
      tls_crt 0444 = "tls.crt"
    _shop_url driver's = GET ireland/ssm/shop/url@3
    top driver's = GET ireland/ssm/top@prod
    arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop_api-AbCdEf driver's = GET ireland/secretsmanager/shop/api
    arn:aws:ssm:eu-west-1:111122223333:parameter_a_b driver's = GET ireland/ssm/a/b
    "#);
    assert_eq!(plan.version_ids, VersionIds::Paths);
    assert_snapshot!(ids(&plan), @"db.json user tls_crt _shop_url top arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop_api-AbCdEf arn:aws:ssm:eu-west-1:111122223333:parameter_a_b");
    assert_eq!((warnings(&plan).as_str(), plan.needed()), ("", 5));
}

/// The classes of the peer's end-to-end tests have keys in this spelling.
#[test]
fn keys_of_objects_have_any_case() {
    let plan = plan_of(
        "
- ObjectName: shop/db
  objecttype: secretsmanager
  OBJECTALIAS: db
  jmespath:
    - Path: username
      ObjectAlias: user
      FilePermission: '0600'
",
    );
    assert_snapshot!(shown(&plan), @"
    db driver's = GET ireland/secretsmanager/shop/db
      user 0600 = username
    ");
    let doubled = "- {objectName: a, ObjectName: b, objectType: secretsmanager, jmesPath: [{path: a, Path: b, objectAlias: x}]}";
    assert_snapshot!(faults_of(doubled), @"
    1:19 object 1 (a): objectName: is there twice: upper and lower case are the same here (remove one)
    1:83 object 1 (a): jmesPath.path: is there twice: upper and lower case are the same here (remove one)
    ");
    assert_snapshot!(faults(&[("Region", "eu-west-1"), ("objects", SECRET)]), @"- Region: is not a known key (did you mean `region`?)");
}

#[test]
fn files_are_named_as_the_peer_names_them() {
    let objects = "
- {objectName: /a/b, objectType: ssmparameter}
- {objectName: c/d, objectType: secretsmanager}
- {objectName: e, objectType: secretsmanager, objectAlias: /f/g, jmesPath: [{path: h, objectAlias: i/j}]}
- {objectName: 'arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop/db-AbCdEf'}
";
    assert_snapshot!(ids(&plan_of(objects)), @"_a_b c_d _f_g i_j arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop_db-AbCdEf");
    assert_snapshot!(ids(&plan(&[("pathTranslation", "+"), ("objects", objects)])), @"+a+b c+d +f+g i+j arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop+db-AbCdEf");
    // Nested paths mount, with the driver and with the provider as the writer of the volume (the peer's fault 12).
    let off = ["False", "false", "FALSE"].map(|off| ids(&plan(&[("pathTranslation", off), ("objects", objects)])));
    assert_snapshot!(off.join("\n"), @"
    a/b c/d f/g i/j arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop/db-AbCdEf
    a/b c/d f/g i/j arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop/db-AbCdEf
    a/b c/d f/g i/j arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop/db-AbCdEf
    ");
    assert_eq!(ids(&plan(&[("pathTranslation", ""), ("objects", objects)])), ids(&plan_of(objects)));
    let refused = ["True", "__", "/", "ü", "\t\t"].map(|text| faults(&[("pathTranslation", text), ("objects", SECRET)]));
    assert_snapshot!(refused.join("\n"), @r#"
    - pathTranslation: "True" is not one ASCII character (write one, such as "_", or "False" to keep each `/`)
    - pathTranslation: "__" is not one ASCII character (write one, such as "_", or "False" to keep each `/`)
    - pathTranslation: "/" would change nothing (write "False" to keep each `/`)
    - pathTranslation: "ü" is not one ASCII character (write one, such as "_", or "False" to keep each `/`)
    - pathTranslation: "\t\t" is not one ASCII character (write one, such as "_", or "False" to keep each `/`)
    "#);
    let outside = "
- {objectName: a/../b, objectType: secretsmanager}
- {objectName: ../c, objectType: secretsmanager}
- {objectName: d/.., objectType: secretsmanager}
- {objectName: e, objectType: secretsmanager, objectAlias: ..data}
- {objectName: f, objectType: secretsmanager, objectAlias: g/}
- {objectName: h, objectType: secretsmanager, jmesPath: [{path: x, objectAlias: ../y}]}
";
    assert_snapshot!(faults(&[("pathTranslation", "false"), ("objects", outside)]), @r#"
    2:16 object 1 (a/../b): objectName: "a/../b" cannot name a file: it has the element ".." (choose another name with `objectAlias`)
    2:16 object 1 (a/../b): objectName: the name "secretsmanager/a/../b" has the element ".." (write the name as its store lists it)
    3:16 object 2 (../c): objectName: "../c" cannot name a file: it has the element ".." (choose another name with `objectAlias`)
    3:16 object 2 (../c): objectName: the name "secretsmanager/../c" has the element ".." (write the name as its store lists it)
    4:16 object 3 (d/..): objectName: "d/.." cannot name a file: it has the element ".." (choose another name with `objectAlias`)
    4:16 object 3 (d/..): objectName: the name "secretsmanager/d/.." has the element ".." (write the name as its store lists it)
    5:60 object 4 (..data): objectAlias: "..data" cannot name a file: it starts with `..`, which the driver keeps for itself (choose another name with `objectAlias`)
    6:60 object 5 (g/): objectAlias: "g/" cannot name a file: it has an empty element (`//`, or a `/` at its end) (choose another name with `objectAlias`)
    7:81 object 6 (h): jmesPath.objectAlias: "../y" cannot name a file: it has the element ".." (choose another name with `objectAlias`)
    "#);
}

/// Fault 18 of the peer: its README writes such an alias, and then the file's name has the quotes.
#[test]
fn quotes_are_for_expressions_alone() {
    let of = |path: &str, alias: &str| {
        let object = format!("- {{objectName: a, objectType: secretsmanager, jmesPath: [{{path: {path}, objectAlias: {alias}}}]}}");
        let plan = plan_of(&object);
        format!("{} | {}", ids(&plan), warnings(&plan)).trim_end().to_owned()
    };
    let read = [
        of("'\"a-b\"'", "'\"a-b\"'"),
        of("'\"a-b\"'", "\"a-b\""),
        of("x", "\"'a'\""),
        of("x", "'a\"b'"),
        of("x", "'\"'"),
        of("x", "'\"\"'"),
    ];
    assert_snapshot!(read.join("\n"), @r#"
    a "a-b" | object 1 (a): jmesPath.objectAlias: "\"a-b\"" has quotes, and so the file's name has them too (write a-b for a name without quotes)
    a a-b |
    a 'a' | object 1 (a): jmesPath.objectAlias: "'a'" has quotes, and so the file's name has them too (write a for a name without quotes)
    a a"b |
    a " |
    a "" |
    "#);
    let whole = plan_of("- {objectName: a, objectType: secretsmanager, objectAlias: '\"b\"'}");
    assert_snapshot!(warnings(&whole), @r#"object 1 (\"b\"): objectAlias: "\"b\"" has quotes, and so the file's name has them too (write b for a name without quotes)"#);
}

#[test]
fn numbers_and_truths_become_texts_as_the_peer_reads_them() {
    let plan = plan_of(
        "
- {objectName: a, objectType: ssmparameter, objectVersion: 3}
- {objectName: b, objectType: ssmparameter, objectVersionLabel: 1.10}
- {objectName: c, objectType: ssmparameter, objectAlias: y}
- {objectName: 0x10, objectType: ssmparameter, objectAlias: d}
- {objectName: 1e3, objectType: ssmparameter}
- {objectName: 12345678.9, objectType: secretsmanager, objectAlias: f}
",
    );
    assert_snapshot!(shown(&plan), @"
    a driver's = GET ireland/ssm/a@3
    b driver's = GET ireland/ssm/b@1.1
    true driver's = GET ireland/ssm/c
    d driver's = GET ireland/ssm/16
    1000 driver's = GET ireland/ssm/1000
    f driver's = GET ireland/secretsmanager/1.2345679e+07
    ");
    assert_snapshot!(warnings(&plan), @r#"
    object 2 (b): objectVersionLabel: is read as "1.1" (put "1.10" in quotes if you mean the text)
    object 3 (y): objectAlias: is read as "true" (put "y" in quotes if you mean the text)
    object 4 (d): objectName: is read as "16" (put "0x10" in quotes if you mean the text)
    object 5 (1e3): objectName: is read as "1000" (put "1e3" in quotes if you mean the text)
    object 6 (f): objectName: is read as "1.2345679e+07" (put "12345678.9" in quotes if you mean the text)
    "#);
}

/// Fault 2 of the peer: a mode without quotes. Fault 5: each request has its own default mode, which is not in the plan.
#[test]
fn modes() {
    let modes = ["0644", "'0644'", "0o644", "420", "'1777'", "7000", "''", "~"].map(|mode| {
        let plan = plan_of(&format!("- {{objectName: a, objectType: secretsmanager, filePermission: {mode}}}"));
        let shown = plan.objects[0].mode.map_or_else(|| "driver's".to_owned(), |mode| mode.to_string());
        format!("{mode}: {shown} {}", warnings(&plan)).trim_end().to_owned()
    });
    assert_snapshot!(modes.join("\n"), @"
    0644: 0644
    '0644': 0644
    0o644: 0644
    420: 0644
    '1777': 0777 object 1 (a): filePermission: its first digit is not used: the driver does not set these bits (write 0777)
    7000: 0000 object 1 (a): filePermission: its first digit is not used: the driver does not set these bits (write 0000)
    '': driver's
    ~: driver's
    ");
    let refused = ["'644'", "'444'", "'0888'", "rw", "0x1ff", "[4]", "-1", "'00644'", "99999"];
    let refused = refused.map(|mode| faults_of(&format!("- {{objectName: a, objectType: secretsmanager, filePermission: {mode}}}")));
    assert_snapshot!(refused.join("\n"), @r#"
    1:63 object 1 (a): filePermission: "644" does not have four digits (write for example "0644")
    1:63 object 1 (a): filePermission: "444" does not have four digits (write for example "0644")
    1:63 object 1 (a): filePermission: "0888" is not a file mode: a mode is octal such as 0444, 0o444 or "0444", or decimal such as 292 (write it in octal, such as 0444)
    1:63 object 1 (a): filePermission: "rw" is not a file mode: a mode is octal such as 0444, 0o444 or "0444", or decimal such as 292 (write it in octal, such as 0444)
    1:63 object 1 (a): filePermission: "0x1ff" is not a file mode: a mode is octal such as 0444, 0o444 or "0444", or decimal such as 292 (write it in octal, such as 0444)
    1:63 object 1 (a): filePermission: is a list, but must be a text (write one value; one that starts with `[` or `{` needs quotes)
    1:63 object 1 (a): filePermission: "-1" is not a file mode: a mode is octal such as 0444, 0o444 or "0444", or decimal such as 292 (write it in octal, such as 0444)
    1:63 object 1 (a): filePermission: "00644" does not have four digits (write for example "0644")
    1:63 object 1 (a): filePermission: 99999 is over 0777: the set-user-id, set-group-id and sticky bits cannot be delivered (write an octal mode up to 0777)
    "#);
}

#[test]
fn versions_and_labels() {
    let of = |service: &str, keys: &str| {
        let plan = parse_class(&[("objects", &format!("- {{objectName: a, objectType: {service}, {keys}}}"))]);
        plan.map_or_else(|faults| faults.iter().map(ToString::to_string).collect(), |plan| plan.secrets[0].to_string())
    };
    let (id, other) = (ID, "release.of_2026+with/other=characters");
    let lines = [
        of("secretsmanager", &format!("objectVersion: {id}")),
        of("secretsmanager", &format!("objectVersion: {id}, objectVersionLabel: AWSCURRENT")),
        of("secretsmanager", "objectVersionLabel: AWSPREVIOUS"),
        of("secretsmanager", &format!("objectVersionLabel: {id}")),
        of("secretsmanager", "objectVersionLabel: 'stage:x'"),
        of("secretsmanager", &format!("objectVersionLabel: '{id}:stage:x'")),
        of("secretsmanager", &format!("objectVersion: '{other}'")),
        of("secretsmanager", &format!("objectVersion: '{other}', objectVersionLabel: AWSCURRENT")),
        of("secretsmanager", &format!("objectVersionLabel: '{other}'")),
        of("secretsmanager", &format!("objectVersionLabel: 'id:{other}'")),
        of("secretsmanager", "objectVersion: '', objectVersionLabel: ''"),
        of("ssmparameter", "objectVersion: 7"),
        of("ssmparameter", "objectVersion: prod"),
        of("ssmparameter", "objectVersionLabel: prod"),
    ];
    assert_snapshot!(lines.join("\n"), @"
    ireland/secretsmanager/a@EXAMPLE1-90ab-cdef-fedc-ba987EXAMPLE
    ireland/secretsmanager/a@EXAMPLE1-90ab-cdef-fedc-ba987EXAMPLE:stage:AWSCURRENT
    ireland/secretsmanager/a@AWSPREVIOUS
    ireland/secretsmanager/a@stage:EXAMPLE1-90ab-cdef-fedc-ba987EXAMPLE
    ireland/secretsmanager/a@stage:stage:x
    ireland/secretsmanager/a@stage:EXAMPLE1-90ab-cdef-fedc-ba987EXAMPLE:stage:x
    ireland/secretsmanager/a@id:release.of_2026+with/other=characters
    ireland/secretsmanager/a@id:release.of_2026+with/other=characters:stage:AWSCURRENT
    ireland/secretsmanager/a@release.of_2026+with/other=characters
    ireland/secretsmanager/a@stage:id:release.of_2026+with/other=characters
    ireland/secretsmanager/a
    ireland/ssm/a@7
    ireland/ssm/a@prod
    ireland/ssm/a@prod
    ");
    let refused = [
        of("secretsmanager", "objectVersion: 3"),
        of("secretsmanager", &format!("objectVersion: {}", "a".repeat(65))),
        of("secretsmanager", &format!("objectVersion: '{} '", "a".repeat(40))),
        of("secretsmanager", &format!("objectVersion: '{}:'", "a".repeat(40))),
        of("secretsmanager", "objectVersion: [1]"),
        of("ssmparameter", "objectVersion: 3, objectVersionLabel: prod"),
        of("ssmparameter", "objectVersionLabel: a b"),
    ];
    assert_snapshot!(refused.join("\n"), @r#"
    object 1 (a): objectVersion: "3" is not the VersionId of a secret, which has 32 to 64 ASCII characters without blanks and `:` (write a stage as `objectVersionLabel`)
    object 1 (a): objectVersion: "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" is not the VersionId of a secret, which has 32 to 64 ASCII characters without blanks and `:` (write a stage as `objectVersionLabel`)
    object 1 (a): objectVersion: "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa " is not the VersionId of a secret, which has 32 to 64 ASCII characters without blanks and `:` (write a stage as `objectVersionLabel`)
    object 1 (a): objectVersion: "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa:" is not the VersionId of a secret, which has 32 to 64 ASCII characters without blanks and `:` (write a stage as `objectVersionLabel`)
    object 1 (a): objectVersion: is a list, but must be a text (write one value; one that starts with `[` or `{` needs quotes)
    object 1 (a): objectVersionLabel: cannot be used together with `objectVersion`: a parameter has only one of the two (remove one)
    object 1 (a): objectVersionLabel: "a b" is not a label (pin one that the store has, or leave the version out for the latest)
    "#);
}

#[test]
fn what_an_object_must_say() {
    assert_snapshot!(faults_of("
- {objectType: secretsmanager}
- {objectName: '', objectType: secretsmanager}
- {objectName: a}
- {objectName: b, objectType: ssm}
- {objectName: c, objectType: secretmanager}
- {objectName: d, objectType: SecretsManager}
-
- text
- {objectName: [e], objectType: secretsmanager}
- {objectName: f/g, objectType: ssmparameter}
- {objectName: '/h:3', objectType: ssmparameter}
- {objectName: 'i:3', objectType: secretsmanager}
- {objectName: //j, objectType: ssmparameter}
"), @r#"
    2:3 object 1: objectName: is missing (write the secret's name or its ARN, such as `objectName: shop/db`)
    3:3 object 2: objectName: is missing (write the secret's name or its ARN, such as `objectName: shop/db`)
    4:3 object 3 (a): objectType: is missing (write `secretsmanager` or `ssmparameter`)
    5:31 object 4 (b): objectType: there is no type "ssm" (write ssmparameter)
    6:31 object 5 (c): objectType: there is no type "secretmanager" (did you mean `secretsmanager`?)
    7:31 object 6 (d): objectType: there is no type "SecretsManager" (did you mean `secretsmanager`?)
    8:2 object 7: objectName: is missing (write the secret's name or its ARN, such as `objectName: shop/db`)
    9:3 object 8: objects: is a text, but an object must be a mapping (write for example `- {objectName: shop/db, objectType: secretsmanager}`)
    10:16 object 9: objectName: is a list, but must be a text (write one value; one that starts with `[` or `{` needs quotes)
    11:16 object 10 (f/g): objectName: "f/g" is not the full name of a parameter: one with a `/` in it begins with a `/` (write /f/g)
    12:16 object 11 (/h:3): objectName: "/h:3" has a `:`, which the name of a parameter cannot have (write a version or label as `objectVersion` or `objectVersionLabel`)
    13:16 object 12 (i:3): objectName: "i:3" has a `:`, which the name of a secret cannot have (write the name, or the whole ARN)
    14:16 object 13 (//j): objectName: the name "ssm//j" has an empty element (`//`, or a `/` at its start or end) (write the name as its store lists it)
    "#);
    assert_snapshot!(faults_of("{objectName: a, objectType: secretsmanager}"), @"1:1 objects: line 1: is a mapping, but must be a list (start each object with `- `, such as `- {objectName: shop/db, objectType: secretsmanager}`)");
    assert_snapshot!(faults(&[("region", "eu-west-1")]), @"- objects: is missing (add it: a list of objects, each with `objectName` and `objectType`)");
}

/// AWS removes blanks at the ends of a parameter's name, and refuses the other names. `~` is an empty element only in the native format.
#[test]
fn names_that_aws_cannot_have_are_refused() {
    assert_snapshot!(faults_of("
- {objectName: 'a ', objectType: secretsmanager}
- {objectName: bé, objectType: secretsmanager}
- {objectName: ~/c, objectType: secretsmanager}
- {objectName: ' /d', objectType: ssmparameter}
- {objectName: /e+, objectType: ssmparameter}
- {objectName: 'arn:aws:secretsmanager:eu-west-1:111122223333:secret:f~-AbCdEf', objectAlias: f}
- {objectName: rds!g_+=.@-, objectType: secretsmanager}
"), @r#"
    2:16 object 1 (a ): objectName: "a " has ' ', which the name of a secret cannot have (letters, digits and /_+=.@!-)
    3:16 object 2 (bé): objectName: "bé" has 'é', which the name of a secret cannot have (letters, digits and /_+=.@!-)
    4:16 object 3 (~/c): objectName: "~/c" has '~', which the name of a secret cannot have (letters, digits and /_+=.@!-)
    5:16 object 4 ( /d): objectName: " /d" has ' ', which the name of a parameter cannot have (letters, digits and /_.-)
    6:16 object 5 (/e+): objectName: "/e+" has '+', which the name of a parameter cannot have (letters, digits and /_.-)
    7:16 object 6 (f): objectName: "arn:aws:secretsmanager:eu-west-1:111122223333:secret:f~-AbCdEf" has '~', which the name of a secret cannot have (letters, digits and /_+=.@!-)
    "#);
}

/// Fault 14 of the peer: what it does not know, it ignores.
#[test]
fn unknown_keys_name_the_nearest() {
    assert_snapshot!(faults(&[("objects", "
- {objectName: a, objectType: secretsmanager, objectaliass: b}
- {objectName: c, objectType: secretsmanager, path: d, secretKey: e}
- {objectName: f, objectType: secretsmanager, jmesPath: [{path: g, objectAlias: h, mode: '0400'}]}
- {objectName: i, objectType: secretsmanager, failoverObject: {objectType: secretsmanager}}
"), ("regoin", "eu-west-1"), ("roleArn", "arn:x"), ("usePodIdentitty", "true")]), @"
    - regoin: is not a known key (did you mean `region`?)
    - roleArn: is not a known key (here the ServiceAccount's annotation or the node's configuration names it)
    - usePodIdentitty: is not a known key (did you mean `usePodIdentity`?)
    2:47 object 1 (a): objectaliass: is not a known key (did you mean `objectAlias`?)
    3:47 object 2 (c): path: is not a known key (here it is `objectAlias`)
    3:56 object 2 (c): secretKey: is not a known key (known here: objectName, objectType, objectAlias, objectVersion, objectVersionLabel, filePermission, jmesPath, failoverObject)
    4:84 object 3 (f): jmesPath.mode: is not a known key (known here: path, objectAlias, filePermission)
    5:64 object 4 (i): failoverObject.objectType: is not a known key (did you mean `objectName`?)
    ");
}

/// Fault 10 of the peer: it accepts an ARN of any service as a parameter.
#[test]
fn arns() {
    let objects = "
- {objectName: 'arn:aws:s3:::bucket', objectType: ssmparameter}
- {objectName: 'arn:aws:ssm:eu-west-1:111122223333:parameter/a', objectType: secretsmanager}
- {objectName: 'arn:aws:secretsmanager:us-east-1:111122223333:secret:a-AbCdEf'}
- {objectName: 'arn:aws:secretsmanager:eu-west-1:111122223333'}
- {objectName: 'arn:aws:secretsmanager:eu-west-1:999922223333:secret:a-AbCdEf'}
- {objectName: 'arn:aws:kms:eu-west-1:111122223333:key/x'}
- {objectName: 'ARN:aws:secretsmanager:eu-west-1:111122223333:secret:a-AbCdEf', objectType: secretsmanager}
- {objectName: 'arn:secretsmanager:eu-west-1:111122223333:secret:a-AbCdEf'}
- {objectName: 'arn:aws:secretsmanager:eu-west-1:111122223333:secret:'}
- {objectName: 'arn:aws:secretsmanager:eu-west-1:111122223333:a-AbCdEf'}
- {objectName: 'arn:aws:secretsmanager:eu-west-1:111122223333:secret:a-AbCdEf:password::'}
- {objectName: 'arn:aws:ssm:eu-west-1:111122223333:parameter/a:3'}
- {objectName: 'arn:aws:ssm:eu-west-1:111122223333:document/a'}
";
    assert_snapshot!(faults(&[("region", "eu-west-1"), ("objects", objects)]), @r#"
    2:16 object 1 (arn:aws:s3:::bucket): objectName: "arn:aws:s3:::bucket" is an ARN of the service "s3", which is not a store of secrets (use secretsmanager or ssm)
    3:16 object 2 (arn:aws:ssm:eu-west-1:111122223333:parameter/a): objectName: "arn:aws:ssm:eu-west-1:111122223333:parameter/a" is the ARN of a parameter, but the object's `objectType` says something else (correct one of them)
    4:16 object 3 (arn:aws:secretsmanager:us-east-1:111122223333:secret:a-AbCdEf): objectName: "arn:aws:secretsmanager:us-east-1:111122223333:secret:a-AbCdEf" is an ARN of the region "us-east-1", but Keyferry asks for it in eu-west-1 (correct one of them)
    5:16 object 4 (arn:aws:secretsmanager:eu-west-1:111122223333): objectName: "arn:aws:secretsmanager:eu-west-1:111122223333" is not an ARN (write for example arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop/db-AbCdEf)
    6:16 object 5 (arn:aws:secretsmanager:eu-west-1:999922223333:secret:a-AbCdEf): objectName: the name "arn:aws:secretsmanager:eu-west-1:999922223333:secret:a-AbCdEf" is an ARN of another account (...)
    7:16 object 6 (arn:aws:kms:eu-west-1:111122223333:key/x): objectName: "arn:aws:kms:eu-west-1:111122223333:key/x" is an ARN of the service "kms", which is not a store of secrets (use secretsmanager or ssm)
    8:16 object 7 (ARN:aws:secretsmanager:eu-west-1:111122223333:secret:a-AbCdEf): objectName: "ARN:aws:secretsmanager:eu-west-1:111122223333:secret:a-AbCdEf" is not an ARN, which begins with `arn:` in small letters (copy it from AWS)
    9:16 object 8 (arn:secretsmanager:eu-west-1:111122223333:secret:a-AbCdEf): objectName: "arn:secretsmanager:eu-west-1:111122223333:secret:a-AbCdEf" has no partition after `arn:` (write arn:aws:..., as AWS shows it)
    10:16 object 9 (arn:aws:secretsmanager:eu-west-1:111122223333:secret:): objectName: "arn:aws:secretsmanager:eu-west-1:111122223333:secret:" ends before the name (copy the whole ARN from AWS)
    11:16 object 10 (arn:aws:secretsmanager:eu-west-1:111122223333:a-AbCdEf): objectName: "arn:aws:secretsmanager:eu-west-1:111122223333:a-AbCdEf" is not the ARN of a secret (copy it from AWS)
    12:16 object 11 (arn:aws:secretsmanager:eu-west-1:111122223333:secret:a-AbCdEf:password::): objectName: "arn:aws:secretsmanager:eu-west-1:111122223333:secret:a-AbCdEf:password::" has more than the name at its end (write a part of the secret as `jmesPath`, and its version as `objectVersion`)
    13:16 object 12 (arn:aws:ssm:eu-west-1:111122223333:parameter/a:3): objectName: "arn:aws:ssm:eu-west-1:111122223333:parameter/a:3" has a version or label at its end (write it as `objectVersion` or `objectVersionLabel`)
    14:16 object 13 (arn:aws:ssm:eu-west-1:111122223333:document/a): objectName: "arn:aws:ssm:eu-west-1:111122223333:document/a" is not the ARN of a parameter (copy it from AWS)
    "#);
    // If the class names no region, the backend compares the region of an ARN with its own.
    let plan = plan_of("- {objectName: 'arn:aws:secretsmanager:eu-west-1:111122223333:secret:a-AbCdEf', objectAlias: a}");
    assert_eq!(plan.secrets[0].to_string(), "ireland/secretsmanager/a");
}

/// AWS reads a partial ARN in this way too: it looks for the secret `shop/db`.
#[test]
fn an_arn_that_may_end_before_its_end_is_warned_of() {
    let of = |end: &str| {
        let arn = format!("arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop/db-{end}");
        warnings(&plan_of(&format!("- {{objectName: '{arn}', objectAlias: a}}")))
    };
    assert_snapshot!(["backup", "202401"].map(of).join("\n"), @"
    object 1 (a): objectName: ends with `-backup`: as in AWS, this counts as the six characters that AWS adds to a name, and not as a part of the name (if it is a part of the name, write the whole ARN, or only the name)
    object 1 (a): objectName: ends with `-202401`: as in AWS, this counts as the six characters that AWS adds to a name, and not as a part of the name (if it is a part of the name, write the whole ARN, or only the name)
    ");
    for end in ["AbCdEf", "abcde1", "backup-GhIjKl", "backups"] {
        assert_eq!(of(end), "", "{end}");
    }
    let other = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:shop/db-backup";
    let instead =
        plan_of_two(&format!("- {{objectName: a, objectType: secretsmanager, objectAlias: b, failoverObject: {{objectName: '{other}'}}}}"));
    assert!(warnings(&instead).starts_with("object 1 (b): failoverObject.objectName: ends with `-backup`"), "{}", warnings(&instead));
}

/// Fault 8 of the peer: files of one name overwrite each other.
#[test]
fn two_files_of_one_name_are_refused() {
    let clashes = [
        "
- {objectName: a/b, objectType: secretsmanager}
- {objectName: a_b, objectType: secretsmanager}",
        "
- {objectName: a, objectType: secretsmanager}
- {objectName: b, objectType: secretsmanager, objectAlias: a}",
        "
- {objectName: a, objectType: secretsmanager, objectAlias: x}
- {objectName: b, objectType: secretsmanager}
- {objectName: a, objectType: secretsmanager, objectAlias: x}",
        "
- {objectName: a, objectType: ssmparameter, objectVersionLabel: one}
- {objectName: a, objectType: ssmparameter, objectVersionLabel: two}",
        "
- {objectName: a, objectType: ssmparameter}
- {objectName: a, objectType: secretsmanager}",
        "
- {objectName: a, objectType: secretsmanager, jmesPath: [{path: x, objectAlias: a}, {path: y, objectAlias: b}, {path: z, objectAlias: b}]}",
        "
- {objectName: a, objectType: secretsmanager, jmesPath: [{path: x, objectAlias: b}]}
- {objectName: b, objectType: secretsmanager}",
    ];
    assert_snapshot!(clashes.map(faults_of).join("\n"), @r#"
    3:16 object 2 (a_b): objectAlias: "a_b" is also the path of object 1 (a/b) (give each object a different path)
    3:60 object 2 (a): objectAlias: "a" is also the path of object 1 (a) (give each object a different path)
    4:60 object 3 (x): objectAlias: "x" is also the path of object 1 (x) (give each object a different path)
    3:16 object 2 (a): objectAlias: "a" is also the path of object 1 (a) (give each object a different path)
    3:16 object 2 (a): objectAlias: "a" is also the path of object 1 (a) (give each object a different path)
    2:57 object 1 (a): jmesPath.objectAlias: "a" is the name of two files of this object (give each a different name)
    2:57 object 1 (a): jmesPath.objectAlias: "b" is the name of two files of this object (give each a different name)
    3:16 object 2 (b): objectAlias: "b" is also the path of object 1 (a) (give each object a different path)
    "#);
    let folder = "
- {objectName: a, objectType: secretsmanager, jmesPath: [{path: x, objectAlias: a/b}]}";
    assert_snapshot!(faults(&[("pathTranslation", "false"), ("objects", folder)]), @r#"2:81 object 1 (a): objectAlias: "a" is the file of object 1 (a): nothing can be below a file (change one of the paths)"#);
}

/// Fault 1 of the peer: two versions of one parameter in a batch go to one file.
#[test]
fn two_versions_of_one_parameter_are_two_files() {
    let plan = plan_of(
        "
- {objectName: a, objectType: ssmparameter, objectVersion: 1, objectAlias: former}
- {objectName: a, objectType: ssmparameter, objectVersion: 2, objectAlias: latter}
- {objectName: /a, objectType: ssmparameter, objectVersion: 2, objectAlias: again}
",
    );
    assert_snapshot!(shown(&plan), @"
    former driver's = GET ireland/ssm/a@1
    latter driver's = GET ireland/ssm/a@2
    again driver's = GET ireland/ssm/a@2
    ");
    assert_eq!(plan.secrets.len(), 2, "one request for each version");
}

/// Fault 15 of the peer: the driver refuses its answer without a version.
#[test]
fn no_objects_are_an_empty_volume() {
    for empty in ["", "[]", "null", "# none\n"] {
        let plan = plan_of(empty);
        assert_eq!((plan.objects.len(), plan.secrets.len()), (0, 0), "{empty:?}");
    }
}

#[test]
fn expressions_are_never_the_name_of_a_field() {
    let of =
        |path: &str| faults_of(&format!("- {{objectName: a, objectType: secretsmanager, jmesPath: [{{path: {path}, objectAlias: x}}]}}"));
    let refused = [
        "a-b",
        "'a['",
        "'['",
        "''",
        "~",
        "'&a'",
        "'lenght(a)'",
        "'length(a, b)'",
        "'join(a, b)'",
        &format!("'{}'", "a.".repeat(70)),
        "[1]",
    ]
    .map(of);
    assert_snapshot!(refused.join("\n"), @r#"
    1:65 object 1 (a): jmesPath.path: "a-b" is not a JMESPath expression: it is wrong at character 2 (write a member whose name has such characters in quotes: '"a-b"')
    1:65 object 1 (a): jmesPath.path: "a[" is not a JMESPath expression: it is wrong at character 3 (see https://jmespath.org)
    1:65 object 1 (a): jmesPath.path: "[" is not a JMESPath expression: it is wrong at character 2 (see https://jmespath.org)
    1:58 object 1 (a): jmesPath.path: is missing (a JMESPath expression, such as `path: username`)
    1:58 object 1 (a): jmesPath.path: is missing (a JMESPath expression, such as `path: username`)
    1:65 object 1 (a): jmesPath.path: "&a" uses `&` outside the arguments of map, max_by, min_by and sort_by (see https://jmespath.org)
    1:65 object 1 (a): jmesPath.path: "lenght(a)" is a JMESPath expression that always fails: there is no function "lenght" (see https://jmespath.org)
    1:65 object 1 (a): jmesPath.path: "length(a, b)" is a JMESPath expression that always fails: `length`: a function takes 1 argument, but gets 2 (see https://jmespath.org)
    1:65 object 1 (a): jmesPath.path: "join(a, b)" joins with a text that is not a literal, so the result could have any size (write the separator itself, in quotes: join(', ', hosts))
    1:65 object 1 (a): jmesPath.path: "a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a."... has more than 64 operators (70) (write a simpler expression)
    1:65 object 1 (a): jmesPath.path: is a list, but must be a text (write one value; one that starts with `[` or `{` needs quotes)
    "#);
    assert_snapshot!(faults_of("- {objectName: a, objectType: secretsmanager, jmesPath: {path: x, objectAlias: y}}"), @"1:57 object 1 (a): jmesPath: is a mapping, but must be a list (write for example `- {path: username, objectAlias: user}`)");
    assert_snapshot!(faults_of("- {objectName: a, objectType: secretsmanager, jmesPath: [x, ~, {objectAlias: ''}]}"), @"
    1:58 object 1 (a): jmesPath: is a text, but must be a mapping (write a line `key: value` for each key)
    1:61 object 1 (a): jmesPath.path: is missing (a JMESPath expression, such as `path: username`)
    1:61 object 1 (a): jmesPath.objectAlias: is missing (the file's name, such as `objectAlias: user`)
    1:64 object 1 (a): jmesPath.path: is missing (a JMESPath expression, such as `path: username`)
    1:64 object 1 (a): jmesPath.objectAlias: is missing (the file's name, such as `objectAlias: user`)
    ");
    let fine = ["tls.crt", "'[0].a'", "'\"a-b\"'", "'@'", "true"];
    for path in fine {
        let plan = plan_of(&format!("- {{objectName: a, objectType: secretsmanager, jmesPath: [{{path: {path}, objectAlias: x}}]}}"));
        assert!(plan.objects[0].searches()[0].query.is_expression(), "{path}");
    }
}

#[test]
fn too_much_is_refused() {
    let many = |n: usize| (0..n).map(|n| format!("- {{objectName: s{n}, objectType: secretsmanager}}\n")).collect::<String>();
    assert_eq!(plan_of(&many(20)).objects.len(), 20);
    assert_snapshot!(faults_of(&many(21)), @"- objects: has 21 objects: at most 20 are allowed on this node (split the class, or ask for a higher limits.objects)");
    let searches: String = (0..60).map(|n| format!("{{path: x, objectAlias: f{n}}},")).collect();
    assert_snapshot!(faults_of(&format!("- {{objectName: a, objectType: secretsmanager, jmesPath: [{searches}]}}")), @"1:1723 object 1 (a): objectAlias: with this object the class has more than 60 files: no more are allowed on this node (split the class, or ask for a higher limits.files)");
}

// === the class as a whole ===

#[test]
fn the_region_chooses_the_backend() {
    for pairs in [&[][..], &[("region", "eu-west-1")], &[("region", "")]] {
        assert_eq!(shown(&plan(pairs)), "shop_db driver's = GET ireland/secretsmanager/shop/db", "{pairs:?}");
    }
    assert_eq!(plan(&[("region", "eu-central-1")]).secrets[0].backend.as_str(), "frankfurt");
    let refused = ["us-east-1", "eu-north-1", "Europe (Ireland)", "eu-west-1;x", "moon-base-7"];
    let refused = refused.map(|region| faults(&[("region", region), ("objects", SECRET)]));
    assert_snapshot!(refused.join("\n"), @r#"
    - region: no backend is in the region "us-east-1"
    - region: several backends could serve it: a, b
    - region: "Europe (Ireland)" is not a region (write its code, such as eu-west-1)
    - region: "eu-west-1;x" is not a region (write its code, such as eu-west-1)
    - region: no backend is in the region "moon-base-7"
    "#);
}

#[test]
fn how_the_pod_logs_in() {
    let of = |region: &str, said: &[(&str, &str)]| {
        parse_class(&[&[("region", region), ("objects", SECRET)], said].concat())
            .map_or_else(|faults| faults.iter().map(ToString::to_string).collect(), |plan| shown(&plan))
    };
    let lines = [
        of("eu-west-1", &[]),
        of("eu-west-1", &[("usePodIdentity", "f")]),
        of("eu-west-1", &[("usePodIdentity", "true")]),
        of("eu-central-1", &[("usePodIdentity", "1")]),
        of("eu-central-1", &[("usePodIdentity", "False")]),
        of("eu-west-1", &[("usePodIdentity", "")]),
        of("eu-west-1", &[("usePodIdentity", "yes")]),
    ];
    assert_snapshot!(lines.join("\n"), @r#"
    shop_db driver's = GET ireland/secretsmanager/shop/db
    shop_db driver's = GET ireland/secretsmanager/shop/db
    usePodIdentity: this backend logs in by irsa (leave `usePodIdentity` out)
    shop_db driver's = GET frankfurt/secretsmanager/shop/db mount=podIdentity
    shop_db driver's = GET frankfurt/secretsmanager/shop/db
    shop_db driver's = GET ireland/secretsmanager/shop/db
    usePodIdentity: "yes" is neither true nor false (write "true" or "false")
    "#);
    let warned = ["auto", "", "IPv6", "ipv4", "ipv5"].map(|kind| warnings(&plan(&[("preferredAddressType", kind)])));
    assert_snapshot!(warned.join("\n"), @r#"
    preferredAddressType: is not used: the node's configuration has the address of the agent of EKS Pod Identity (remove it if the class is only for Keyferry)
    preferredAddressType: is not used: the node's configuration has the address of the agent of EKS Pod Identity (remove it if the class is only for Keyferry)
    preferredAddressType: "ipv5" is not one of ipv4, ipv6 and auto, so it is not used (correct it)
    "#);
}

// === failover ===

const REGIONS: [(&str, &str); 2] = [("region", "eu-west-1"), ("failoverRegion", "eu-central-1")];

fn plan_of_two(objects: &str) -> Plan {
    plan(&[&REGIONS[..], &[("objects", objects)]].concat())
}

fn faults_of_two(objects: &str) -> String {
    faults(&[&REGIONS[..], &[("objects", objects)]].concat())
}

#[test]
fn a_failover_region_is_asked_for_the_same_or_for_what_the_object_says() {
    let objects = format!(
        "
- {{objectName: a, objectType: secretsmanager, objectVersionLabel: AWSPREVIOUS}}
- {{objectName: a, objectType: secretsmanager, objectVersionLabel: AWSPREVIOUS, objectAlias: again}}
- {{objectName: a, objectType: secretsmanager, objectVersionLabel: AWSPREVIOUS, objectAlias: other, failoverObject: {{objectName: a-dr}}}}
- objectName: arn:aws:secretsmanager:eu-west-1:111122223333:secret:b-AbCdEf
  objectAlias: b
  objectVersion: {ID}
  failoverObject:
    ObjectName: arn:aws:secretsmanager:eu-central-1:111122223333:secret:b-GhIjKl
    objectVersion: {ID}
    objectVersionLabel: AWSCURRENT
- {{objectName: /c, objectType: ssmparameter, objectVersionLabel: one, failoverObject: {{objectVersionLabel: two}}}}
- {{objectName: d, objectType: secretsmanager, failoverObject: {{objectName: ''}}}}
"
    );
    let plan = plan_of_two(&objects);
    assert_snapshot!(shown(&plan), @"
    a driver's = GET ireland/secretsmanager/a@AWSPREVIOUS else GET frankfurt/secretsmanager/a@AWSPREVIOUS
    again driver's = GET ireland/secretsmanager/a@AWSPREVIOUS else GET frankfurt/secretsmanager/a@AWSPREVIOUS
    other driver's = GET ireland/secretsmanager/a@AWSPREVIOUS else GET frankfurt/secretsmanager/a-dr@AWSPREVIOUS
    b driver's = GET ireland/secretsmanager/b@EXAMPLE1-90ab-cdef-fedc-ba987EXAMPLE else GET frankfurt/secretsmanager/b@EXAMPLE1-90ab-cdef-fedc-ba987EXAMPLE:stage:AWSCURRENT
    _c driver's = GET ireland/ssm/c@one else GET frankfurt/ssm/c@two
    d driver's = GET ireland/secretsmanager/d else GET frankfurt/secretsmanager/d
    ");
    let backends: Vec<&str> = plan.secrets.iter().map(|secret| secret.backend.as_str()).collect();
    assert_snapshot!(backends.join(" "), @"ireland ireland ireland ireland ireland frankfurt frankfurt frankfurt frankfurt frankfurt");
    assert_eq!(plan.needed(), 5);
    let asked: Vec<String> = plan.asked().map(|(object, place)| format!("{}: {}", object.index, plan.secrets[place])).collect();
    assert_snapshot!(asked.join("\n"), @"
    1: ireland/secretsmanager/a@AWSPREVIOUS
    1: frankfurt/secretsmanager/a@AWSPREVIOUS
    2: ireland/secretsmanager/a@AWSPREVIOUS
    2: frankfurt/secretsmanager/a@AWSPREVIOUS
    3: ireland/secretsmanager/a@AWSPREVIOUS
    3: frankfurt/secretsmanager/a-dr@AWSPREVIOUS
    4: ireland/secretsmanager/b@EXAMPLE1-90ab-cdef-fedc-ba987EXAMPLE
    4: frankfurt/secretsmanager/b@EXAMPLE1-90ab-cdef-fedc-ba987EXAMPLE:stage:AWSCURRENT
    5: ireland/ssm/c@one
    5: frankfurt/ssm/c@two
    6: ireland/secretsmanager/d
    6: frankfurt/secretsmanager/d
    ");
}

/// Fault 11 of the peer: it sends the ARN of one region to the other region.
#[test]
fn what_no_failover_could_serve_is_refused() {
    let arn = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:b-AbCdEf";
    assert_snapshot!(faults_of_two(&format!("
- {{objectName: '{arn}'}}
- {{objectName: c, objectType: secretsmanager, failoverObject: {{objectName: d}}}}
- {{objectName: e, objectType: secretsmanager, objectAlias: e2, failoverObject: {{objectName: '{arn}'}}}}
- {{objectName: f, objectType: ssmparameter, objectAlias: f2, objectVersion: 1, failoverObject: {{objectName: f}}}}
- {{objectName: g, objectType: ssmparameter, objectVersion: 1, failoverObject: {{objectVersionLabel: x}}}}
- {{objectName: h, objectType: secretsmanager, objectAlias: h2, failoverObject: {{objectName: h, objectname: i}}}}
- {{objectName: j, objectType: secretsmanager, objectAlias: j2, failoverObject: k}}
- {{objectName: /../l, objectType: ssmparameter}}
")), @r#"
    2:16 object 1 (arn:aws:secretsmanager:eu-west-1:111122223333:secret:b-AbCdEf): objectName: is an ARN of one region, but the class has a `failoverRegion` (add `failoverObject` with the ARN or the name there, or write only the name)
    3:63 object 2 (c): objectAlias: is missing: with `failoverObject` Keyferry needs it for the name of the file (add it)
    4:80 object 3 (e2): failoverObject.objectName: "arn:aws:secretsmanager:eu-west-1:111122223333:secret:b-AbCdEf" is an ARN of the region "eu-west-1", but Keyferry asks for it in eu-central-1 (correct one of them)
    5:96 object 4 (f2): failoverObject.objectVersion: is different from the object's `objectVersion`: a secret and its replica have the same versions (write the same in both)
    6:79 object 5 (g): failoverObject.objectVersionLabel: cannot be used together with `objectVersion`: a parameter has only one of the two (remove one)
    7:96 object 6 (h2): failoverObject.objectName: is there twice: upper and lower case are the same here (remove one)
    8:80 object 7 (j2): failoverObject: is a text, but must be a mapping (write a line `key: value` for each key)
    9:16 object 8 (/../l): objectName: the name "ssm/../l" has the element ".." (write the name as its store lists it)
    "#);
    let without = "- {objectName: a, objectType: secretsmanager, objectAlias: b, failoverObject: {objectName: c}}";
    assert_snapshot!(faults_of(without), @"1:79 object 1 (b): failoverObject: needs `failoverRegion` in the class, which is missing (add that, or remove this key)");
    let regions = [
        faults(&[("region", "eu-west-1"), ("failoverRegion", "eu-west-1"), ("objects", SECRET)]),
        faults(&[("failoverRegion", "eu-west-1"), ("objects", SECRET)]),
        faults(&[("failoverRegion", "us-east-1"), ("objects", SECRET)]),
        faults(&[("region", "eu-west-1"), ("failoverRegion", "the moon"), ("objects", SECRET)]),
    ];
    assert_snapshot!(regions.join("\n"), @r#"
    - failoverRegion: is the same as `region` (write another region, or remove it)
    - failoverRegion: is the region of the node's backend itself (write another region, or remove it)
    - failoverRegion: no backend is in the region "us-east-1"
    - failoverRegion: "the moon" is not a region (write its code, such as eu-west-1)
    "#);
}
