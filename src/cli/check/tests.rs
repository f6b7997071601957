//! The command as a person types it, on files of a temporary folder. `DIR` is that folder.

mod synced;

use clap::Parser;
use insta::assert_snapshot;

use super::*;
use crate::model::ClassFaults;
use crate::steps::Steps;

const HEAD: &str = "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\n";

const CONFIG: &str = r#"
identity: { verify: driver }
backends:
  files: { kind: file, vault: /nowhere/vault, identity: /nowhere/age.key }
  spare: { kind: file, vault: /nowhere/spare, identity: /nowhere/age.key }
policy:
  - pods: { namespace: shop, serviceAccount: web }
    read: ["files/shop/**"]
  - pods: { namespace: "*" }
    deny: ["files/shop/root"]
limits: { objects: 3 }
"#;

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    args: CheckArgs,
}

struct Bench(tempfile::TempDir);

impl Bench {
    fn with(files: &[(&str, &str)]) -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            std::fs::write(bench.0.path().join(name), text).unwrap();
        }
        bench
    }

    /// The exit code, what was written, and after a `!` what went to standard error.
    fn run_with(&self, line: &str, mut input: &[u8]) -> String {
        let folder = self.0.path().to_str().unwrap();
        let words = std::iter::once("check".to_owned()).chain(line.split(' ').map(|word| word.replace("DIR", folder)));
        let program = match super::super::parsed::<Program>(words) {
            Ok(program) => program,
            Err(error) => return error.to_string().lines().next().unwrap().to_owned(),
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let (code, failure) = match run(program.args, &mut input, &mut out, &mut err, false) {
            Ok(()) => (0, String::new()),
            Err(failure) => (failure.code(), failure.to_string()),
        };
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let err = text(err).lines().map(|line| format!("! {line}\n")).collect::<String>();
        let failure = if failure.is_empty() { failure } else { format!("! {failure}\n") };
        format!("{code}\n{}{err}{failure}", text(out)).replace(folder, "DIR")
    }

    fn run(&self, line: &str) -> String {
        self.run_with(line, b"")
    }
}

fn class(name: &str, objects: &str) -> String {
    let objects: String = objects.lines().map(|line| format!("      {line}\n")).collect();
    format!(
        "{HEAD}metadata: {{ name: {name}, namespace: shop }}\nspec:\n  provider: keyferry\n  parameters:\n    backend: files\n    objects: |\n{objects}"
    )
}

/// A configuration with a store that has its own form of names.
const WITH_BAO: &str = r#"
identity: { verify: token-review }
backends:
  bao: { kind: vault, address: "https://bao:8200", auth: { method: approle, roleId: r }, classMay: { namespace: ["**"] } }
  pods: { kind: vault, address: "https://bao:8200", auth: { method: jwt, role: r, audience: bao }, classMay: { audience: ["*"] } }
policy:
"#;

#[test]
fn what_is_the_stores_own_is_refused_as_a_mount_would_and_suggested_as_it_works() {
    let objects = "- {secret: auth/token/lookup-self, path: a}\n- {secret: sys/mounts, path: b}\n- {secret: kv/data/auth/x/y, path: c}\n\
                   - {secret: team-a/auth/approle/role/r/secret-id, method: POST, path: d}";
    let own = class("own", objects).replace("backend: files", "backend: bao");
    let audience = class("audience", "- {secret: kv/data/x, path: a}").replace("backend: files", "backend: pods\n    audience: keyferry");
    let wildcard = format!("{WITH_BAO}  - pods: {{ namespace: shop }}\n    read: [\"bao/**\", \"pods/**\"]\n    update: [\"bao/**\"]\n");
    let bench = Bench::with(&[("a.yaml", &own), ("b.yaml", &audience), ("c.yaml", &wildcard)]);
    assert_snapshot!(bench.run("--config DIR/c.yaml --as shop/web DIR/a.yaml DIR/b.yaml"), @r#"
    1
    DIR/a.yaml:9:18: error: class own: object 1 (a): bao/auth/token/lookup-self: no rule can allow it: auth/token is for Keyferry's own store token (remove the object from the class)
    DIR/a.yaml:10:18: error: class own: object 2 (b): bao/sys/mounts: policy rule 1 would allow it to ServiceAccount shop/web by "bao/**", but no wildcard or placeholder reaches "sys/mounts", which belongs to the store itself (the cluster's admin can add a rule that spells it, with read: ["bao/sys/mounts"])
    DIR/a.yaml:11:18: note: class own: object 3 (c): ServiceAccount shop/web may read bao/kv/data/auth/x/y, by policy rule 1
    DIR/a.yaml:12:18: error: class own: object 4 (d): bao/team-a/auth/approle/role/r/secret-id: policy rule 1 would allow it to ServiceAccount shop/web by "bao/**", but no wildcard or placeholder reaches "auth/approle", which belongs to the store itself (the cluster's admin can add a rule that spells it, with update: ["bao/team-a/auth/approle/role/r/secret-id"])
    DIR/b.yaml:10:18: error: class audience: object 1 (a): pods/kv/data/x: the class sets audience to "keyferry", which is Keyferry's own audience (identity.audience): Keyferry gives no store a token for it (leave audience out, or name the store's audience)

    These rules would allow it (under `policy`):
      - pods: { namespace: "shop", serviceAccount: "web" }
        read:
          - "bao/sys/mounts"
        update:
          - "bao/team-a/auth/approle/role/r/secret-id"

    DIR/c.yaml: no fault (2 backends, 1 rule)
    5 objects in 2 classes, 2 files: 4 faults
    "#);
    assert_snapshot!(bench.run("--config DIR/c.yaml DIR/a.yaml DIR/b.yaml"), @r#"
    1
    DIR/a.yaml:9:18: error: class own: object 1 (a): bao/auth/token/lookup-self: no rule can allow it: auth/token is for Keyferry's own store token (remove the object from the class)
    DIR/b.yaml:10:18: error: class audience: object 1 (a): pods/kv/data/x: the class sets audience to "keyferry", which is Keyferry's own audience (identity.audience): Keyferry gives no store a token for it (leave audience out, or name the store's audience)
    DIR/c.yaml: no fault (2 backends, 1 rule)
    5 objects in 2 classes, 2 files: 2 faults
    "#);
    let suggested = bench.run("--config DIR/c.yaml --suggest-policy --as shop/web DIR/a.yaml");
    assert_snapshot!(suggested, @r#"
    1
    policy:
      - pods: { namespace: "shop", serviceAccount: "web" }
        read:
          - "bao/kv/data/auth/x/y"
          - "bao/sys/mounts"
        update:
          - "bao/team-a/auth/approle/role/r/secret-id"
    ! error: DIR/a.yaml:9:18: class own: object 1 (a): bao/auth/token/lookup-self: no rule can allow it: auth/token is for Keyferry's own store token (remove the object from the class)
    ! error: DIR/a.yaml:10:18: class own: object 2 (b): bao/sys/mounts: policy rule 1 would allow it to ServiceAccount shop/web by "bao/**", but no wildcard or placeholder reaches "sys/mounts", which belongs to the store itself (the cluster's admin can add a rule that spells it, with read: ["bao/sys/mounts"])
    ! note: DIR/a.yaml:11:18: class own: object 3 (c): ServiceAccount shop/web may read bao/kv/data/auth/x/y, by policy rule 1
    ! error: DIR/a.yaml:12:18: class own: object 4 (d): bao/team-a/auth/approle/role/r/secret-id: policy rule 1 would allow it to ServiceAccount shop/web by "bao/**", but no wildcard or placeholder reaches "auth/approle", which belongs to the store itself (the cluster's admin can add a rule that spells it, with update: ["bao/team-a/auth/approle/role/r/secret-id"])
    ! note: DIR/c.yaml: no fault (2 backends, 1 rule)
    ! note: 4 objects in 1 class, 1 file: 3 faults
    "#);
    let rules: String = suggested.lines().skip(2).take_while(|line| !line.starts_with('!')).map(|line| format!("{line}\n")).collect();
    let without = class("own", &objects.lines().skip(1).collect::<Vec<_>>().join("\n")).replace("backend: files", "backend: bao");
    let bench = Bench::with(&[("a.yaml", &without), ("c.yaml", &format!("{WITH_BAO}{rules}"))]);
    assert_snapshot!(bench.run("--config DIR/c.yaml --as shop/web DIR/a.yaml"), @r#"
    0
    DIR/a.yaml:9:18: note: class own: object 1 (b): ServiceAccount shop/web may read bao/sys/mounts, by policy rule 1
    DIR/a.yaml:10:18: note: class own: object 2 (c): ServiceAccount shop/web may read bao/kv/data/auth/x/y, by policy rule 1
    DIR/a.yaml:11:18: note: class own: object 3 (d): ServiceAccount shop/web may update bao/team-a/auth/approle/role/r/secret-id, by policy rule 1
    DIR/c.yaml: no fault (2 backends, 1 rule)
    3 objects in 1 class, 1 file: no fault
    "#);
}

#[test]
fn every_fault_has_its_place_in_the_file() {
    let faulty = class("shop", "- secret: shop/db\n  feild: password\n  mode: 9999\n- secret: shop//db\n  path: ../x\n- shop/db");
    let text = format!("kind: Service\napiVersion: v1\n---\n{}", faulty.replace("backend:", "bakend:"));
    assert_snapshot!(Bench::with(&[("a.yaml", &text)]).run("DIR/a.yaml"), @r#"
    1
    DIR/a.yaml:10:5: error: class shop: bakend: is not a known key (did you mean `backend`?)
    DIR/a.yaml:13:9: error: class shop: object 1 (db): feild: is not a known key (did you mean `field`?)
    DIR/a.yaml:14:15: error: class shop: object 1 (db): mode: 9999 is over 0777: the set-user-id, set-group-id and sticky bits cannot be delivered (write an octal mode up to 0777)
    DIR/a.yaml:15:17: error: class shop: object 2 (../x): secret: the name "shop//db" has an empty element (`//`, or a `/` at its start or end) (write the name as its store lists it)
    DIR/a.yaml:16:15: error: class shop: object 2 (../x): path: "../x" has the element ".." (write the path without it)
    DIR/a.yaml:17:9: error: class shop: object 3: objects: is a text, but an object must be a mapping (write for example `- secret: shop/db`)
    3 objects in 1 class, 1 file: 6 faults
    "#);
    let yaml = class("shop", "- secret: [");
    assert_snapshot!(Bench::with(&[("a.yaml", &yaml)]).run("DIR/a.yaml"), @r#"
    1
    DIR/a.yaml:9:17: error: class shop: objects: not valid YAML: unclosed bracket '[' (look there and just above for an open bracket or quote, a tab, uneven indentation, or a value that needs quotes)
    0 objects in 1 class, 1 file: 1 fault
    "#);
    let outer = format!("{HEAD}metadata: {{ nmae: x }}\nspec: {{ provider: keyferry, parameters: {{ mode: 0444, objects: [] }} }}\n");
    assert_snapshot!(Bench::with(&[("a.yaml", &outer)]).run("DIR/a.yaml"), @r#"
    1
    DIR/a.yaml:3:11: error: metadata.name: is missing (the class's name, as the Pod's volume names it)
    DIR/a.yaml:4:49: error: spec.parameters.mode: is a number to Kubernetes, but must be a text (put it in quotes)
    DIR/a.yaml:4:64: error: spec.parameters.objects: is a list, but must be a text (a YAML list goes into a text with `|` after the key)
    0 objects in 1 class, 1 file: 3 faults
    "#);
}

#[test]
fn the_words_are_those_of_a_mount() {
    let objects = "- secret: shop/db\n  mode: 9999\n- secret: .x";
    let shown = Bench::with(&[("c.yaml", CONFIG), ("a.yaml", &class("shop", objects))]).run("--config DIR/c.yaml DIR/a.yaml");
    let parameters = [("backend".to_owned(), "files".to_owned()), ("objects".to_owned(), objects.to_owned())].into();
    let config = Config::parse(CONFIG).unwrap();
    let ClassFaults(faults) = crate::dialect::parse(
        &parameters,
        &config.configured(),
        ClassLimits { objects: 9, files: 4096, bytes: 1 << 20, owners: false },
        &Steps::unbounded(),
    )
    .unwrap_err();
    assert_eq!(faults.len(), 2);
    for fault in faults {
        assert!(shown.contains(&format!(": error: class shop: {fault}\n")), "{fault}\n{shown}");
    }
}

#[test]
fn lists_streams_and_standard_input_are_looked_into() {
    let list = "kind: List\napiVersion: v1\nitems:\n  - apiVersion: secrets-store.csi.x-k8s.io/v1\n    kind: SecretProviderClass\n    metadata: { name: a }\n    spec:\n      provider: keyferry\n      parameters: { objects: '[ { secrte: x } ]' }\n  - apiVersion: secrets-store.csi.x-k8s.io/v1\n    kind: SecretProviderClass\n    metadata: { name: b }\n    spec: { provider: vault }\n";
    let bench = Bench::with(&[("none.yaml", "kind: Pod\n"), ("empty.yaml", "")]);
    assert_snapshot!(bench.run_with("- DIR/none.yaml DIR/empty.yaml", list.as_bytes()), @r#"
    1
    <stdin>:9:33: error: class a: object 1: secret: is missing (write the secret's name, such as `secret: shop/db`)
    <stdin>:9:35: error: class a: object 1: secrte: is not a known key (did you mean `secret`?)
    <stdin>:10:5: error: class b: roleName: is missing (add it: the role that the Pod's ServiceAccount logs in with)
    <stdin>:10:5: error: class b: objects: is missing (add it: a list of objects, each with `objectName` and `secretPath`)
    DIR/none.yaml:1:1: note: no SecretProviderClass is in here (kinds found: Pod)
    DIR/empty.yaml:1:1: note: no SecretProviderClass is in here (it starts with `apiVersion: secrets-store.csi.x-k8s.io/v1` and `kind: SecretProviderClass`)
    1 object in 2 classes, 3 files: 4 faults
    "#);
}

#[test]
fn the_configuration_is_judged_too_and_says_which_backends_there_are() {
    let bench = Bench::with(&[
        ("bad.yaml", "identity: { verify: driver }\nbackends: { files: { kind: flie } }\npolicy: [{ raed: [] }]\n"),
        ("good.yaml", CONFIG),
        ("a.yaml", &class("a", "- secret: shop/db\n  backend: flies\n- secret: shop/db.age\n- secret: shop/x\n  version: latest\n")),
        ("b.yaml", &class("b", "[{secret: a}, {secret: b}, {secret: c}, {secret: d}]")),
        ("c.yaml", &class("c", "- secret: a").replace("    backend: files\n", "")),
    ]);
    assert_snapshot!(bench.run("--config DIR/bad.yaml"), @r#"
    1
    DIR/bad.yaml:2:28: error: backends.files.kind: "flie" is not a kind of backend (this version serves: failover, aws, file, http, vault)
    DIR/bad.yaml:3:10: error: policy rule 1.pods: is missing (say which Pods the rule is for, such as pods: { namespace: shop })
    DIR/bad.yaml:3:10: error: policy rule 1.read: is missing (a rule has at least one of read, update and deny)
    DIR/bad.yaml:3:12: error: policy rule 1.raed: is not a known key (did you mean `read`?)
    DIR/bad.yaml: 4 faults
    "#);
    assert_snapshot!(bench.run("--config DIR/good.yaml"), @r#"
    0
    DIR/good.yaml: no fault (2 backends, 2 rules)
    "#);
    assert_snapshot!(bench.run("--config DIR/good.yaml DIR/a.yaml DIR/b.yaml DIR/c.yaml"), @r#"
    1
    DIR/a.yaml:10:18: error: class a: object 1 (db): backend: there is no backend "flies" on this node (did you mean `files`?)
    DIR/a.yaml:11:17: error: class a: object 2 (db.age): secret: the name "shop/db.age" has the element "db.age": the vault adds `.age` by itself (write "db")
    DIR/a.yaml:13:18: error: class a: object 3 (x): version: "latest" is not a revision of a file vault: a revision is a whole number from 1, as `keyferry vault get NAME` shows it (pin one that the store has, or leave the version out for the latest)
    DIR/b.yaml:8:5: error: class b: objects: has 4 objects: at most 3 are allowed on this node (split the class, or ask for a higher limits.objects)
    DIR/c.yaml:7:5: error: class c: backend: no backend is named, and this node has several (set backend to one of: files, spare; or the cluster's admin can set defaultBackend)
    DIR/good.yaml: no fault (2 backends, 2 rules)
    8 objects in 3 classes, 3 files: 5 faults
    "#);
    assert_snapshot!(bench.run("DIR/a.yaml DIR/b.yaml DIR/c.yaml"), @r#"
    0
    8 objects in 3 classes, 3 files: no fault
    "#);
}

#[test]
fn policy_is_asked_for_a_service_account() {
    let bench = Bench::with(&[
        ("c.yaml", CONFIG),
        ("a.yaml", &class("a", "- secret: shop/db\n- secret: shop/root\n- secret: other/x")),
        ("b.yaml", &class("b", "- secret: shop/db").replace("namespace: shop", "namespace: other")),
    ]);
    assert_snapshot!(bench.run("--config DIR/c.yaml --as shop/web DIR/a.yaml DIR/b.yaml"), @r#"
    1
    DIR/a.yaml:9:17: note: class a: object 1 (db): ServiceAccount shop/web may read files/shop/db, by policy rule 1
    DIR/a.yaml:10:17: error: class a: object 2 (root): files/shop/root: policy rule 2 denies it to ServiceAccount shop/web by its pattern "files/shop/root" (a deny beats every allow; only the cluster's admin can change the rule)
    DIR/a.yaml:11:17: error: class a: object 3 (x): files/other/x: no rule of the policy allows ServiceAccount shop/web to read it (the cluster's admin can add a rule with read: ["files/other/x"])
    DIR/b.yaml:7:5: note: class b: Pods of shop cannot mount this class: it is in the namespace other

    These rules would allow it (under `policy`):
      - pods: { namespace: "shop", serviceAccount: "web" }
        read:
          - "files/other/x"

    DIR/c.yaml: no fault (2 backends, 2 rules)
    4 objects in 2 classes, 2 files: 2 faults
    "#);
    assert_snapshot!(bench.run("--as shop/web DIR/a.yaml"), @r#"
    2
    ! --as asks the policy, which is in the configuration (add --config FILE)
    "#);
    assert_snapshot!(bench.run("--config DIR/c.yaml --as web DIR/a.yaml"), @"error: invalid value 'web' for '--as <NAMESPACE/SERVICEACCOUNT>': write a namespace and the name of a ServiceAccount in it, such as shop/web");
}

#[test]
fn the_rules_that_are_needed_are_exact_and_in_order() {
    let bench = Bench::with(&[
        ("c.yaml", CONFIG),
        ("b.yaml", &class("b", "- secret: z/last\n- secret: shop/db\n  field: a\n- secret: shop/db\n  field: b")),
        ("a.yaml", &class("a", "- secret: shop/db\n- secret: odd/**/${x}\n  backend: spare")),
        ("d.yaml", &class("d", "- secret: shop/db").replace("    backend: files\n", "")),
        ("n.yaml", &class("nameless", "- secret: shop/db").replace(", namespace: shop", "")),
    ]);
    assert_snapshot!(bench.run("--suggest-policy DIR/b.yaml DIR/a.yaml"), @r#"
    0
    policy:
      - pods: { namespace: "shop" }
        read:
          - "files/shop/db"
          - "files/z/last"
          - "spare/odd/*/*" # allows more than this one name: a pattern cannot match exactly this name
    ! note: 5 objects in 2 classes, 2 files: no fault
    "#);
    assert_snapshot!(bench.run("--suggest-policy --as shop/web DIR/b.yaml DIR/d.yaml"), @r#"
    0
    policy:
      - pods: { namespace: "shop", serviceAccount: "web" }
        read:
          - "*/shop/db" # the class names no backend: give --config, or write its name instead of the `*`
          - "files/shop/db"
          - "files/z/last"
    ! note: 4 objects in 2 classes, 2 files: no fault
    "#);
    assert_snapshot!(bench.run("--suggest-policy DIR/n.yaml"), @"
    1
    policy: []
    ! error: DIR/n.yaml:7:5: class nameless: the class names no namespace, so Keyferry does not know for which Pods its rules are (add metadata.namespace, or use --as)
    ! note: 1 object in 1 class, 1 file: 1 fault
    ");
    let rules = bench.run("--suggest-policy --as shop/web DIR/b.yaml DIR/a.yaml");
    let rules: String = rules.lines().skip(1).filter(|line| !line.starts_with('!')).map(|line| format!("{line}\n")).collect();
    let config = format!("{}{rules}", CONFIG.split("policy:").next().unwrap());
    std::fs::write(bench.0.path().join("c.yaml"), config).unwrap();
    let allowed = bench.run("--config DIR/c.yaml --as shop/web DIR/a.yaml DIR/b.yaml");
    assert!(allowed.starts_with("0\n"), "{allowed}");
}

#[test]
fn what_a_mount_lets_pass_is_warned_of() {
    let objects = "- secret: a\n  mode: 444\n- secret: b\n  mode: 0400\n- secret: c\n  mode: '0640'\n- secret: d\n  mode: 420\n- secret: e\n  mode: 0o444\n- secret: f";
    let text = class("shop", objects).replace("backend: files\n", "mode: \"0400\"\n");
    assert_snapshot!(Bench::with(&[("a.yaml", &text)]).run("DIR/a.yaml"), @r#"
    0
    DIR/a.yaml:7:11: warning: class shop: mode: 0400 lets only root read the file: the driver's files belong to root and fsGroup does not reach them (0444 for a container that runs as another user) [root-only-mode]
    DIR/a.yaml:10:15: warning: class shop: object 1 (a): mode: 444 is decimal without a 0 before it, and means 0674 (did you mean 0444?) [decimal-mode]
    DIR/a.yaml:12:15: warning: class shop: object 2 (b): mode: 0400 lets only root read the file: the driver's files belong to root and fsGroup does not reach them (0444 for a container that runs as another user) [root-only-mode]
    DIR/a.yaml:14:15: warning: class shop: object 3 (c): mode: 0640 lets only root read the file: the driver's files belong to root and fsGroup does not reach them (0444 for a container that runs as another user) [root-only-mode]
    6 objects in 1 class, 1 file: no fault, 4 warnings
    "#);
}

#[test]
fn synced_secrets_name_files_that_are_delivered() {
    let objects = "- secret: a\n  field: tls.crt\n  path: tls/tls.crt\n- secret: b\n  fields: [user, 'k*']\n  path: db/";
    let synced = |names: &[&str]| {
        let data: String = (1..).zip(names).map(|(n, name)| format!("        - {{ objectName: {name}, key: k{n} }}\n")).collect();
        format!("{}  secretObjects:\n    - secretName: x\n      type: Opaque\n      data:\n{data}", class("shop", objects))
    };
    let bench = Bench::with(&[
        ("good.yaml", &synced(&["tls/tls.crt", "db/user", "db/key"])),
        ("bad.yaml", &synced(&["tls/tls.cert", "db/pass", "db/user/x"])),
    ]);
    assert_snapshot!(bench.run("DIR/good.yaml"), @r#"
    0
    2 objects in 1 class, 1 file: no fault
    "#);
    assert_snapshot!(bench.run("DIR/bad.yaml"), @r#"
    1
    DIR/bad.yaml:19:25: error: class shop: secretObjects 1: data 1: objectName: "tls/tls.cert" is not a file of this class, so the driver could not sync the Secret (did you mean "tls/tls.crt"?)
    DIR/bad.yaml:20:25: error: class shop: secretObjects 1: data 2: objectName: "db/pass" is not a file of this class, so the driver could not sync the Secret (it delivers: tls/tls.crt, db/user)
    DIR/bad.yaml:21:25: error: class shop: secretObjects 1: data 3: objectName: "db/user/x" is not a file of this class, so the driver could not sync the Secret (did you mean "db/user"?)
    2 objects in 1 class, 1 file: 3 faults
    "#);
}

#[test]
fn scripts_and_github_get_their_own_form() {
    let text = class("shop", "- secret: a%b\n  mode: 0400");
    let bench = Bench::with(&[("a,b:c.yaml", &text)]);
    assert_snapshot!(bench.run("--output github DIR/a,b:c.yaml"), @r#"
    1
    ::error file=DIR/a%2Cb%3Ac.yaml,line=9,col=17::class shop: object 1 (a%25b): secret: the name "a%25b" has the character '%25', which stores read as an escape or a query (write the name as its store lists it)
    "#);
    assert_snapshot!(bench.run("--output json DIR/a,b:c.yaml"), @r#"
    1
    {
      "files": 1,
      "classes": 1,
      "objects": 1,
      "faults": 1,
      "warnings": 0,
      "unreadable": [],
      "configuration": null,
      "findings": [
        {
          "severity": "error",
          "id": null,
          "file": "DIR/a,b:c.yaml",
          "line": 9,
          "column": 17,
          "class": "shop",
          "object": 1,
          "key": "secret",
          "code": "InvalidRequest",
          "message": "object 1 (a%b): secret: the name \"a%b\" has the character '%', which stores read as an escape or a query (write the name as its store lists it)"
        }
      ]
    }
    "#);
    assert_eq!(super::finding::Output::Text.to_possible_value().unwrap().get_name(), "text");
}

#[test]
fn what_cannot_be_judged_has_exit_code_2() {
    let bench = Bench::with(&[("a.yaml", &class("a", "- secret: x\n  mode: 9999"))]);
    assert_snapshot!(bench.run("DIR/none.yaml DIR/a.yaml"), @r#"
    2
    DIR/none.yaml:1:1: error: cannot be read: No such file or directory (os error 2)
    DIR/a.yaml:10:15: error: class a: object 1 (x): mode: 9999 is over 0777: the set-user-id, set-group-id and sticky bits cannot be delivered (write an octal mode up to 0777)
    1 object in 1 class, 1 file: 2 faults
    "#);
    assert_snapshot!(bench.run("--config DIR/none.yaml DIR/a.yaml"), @"
    2
    ! DIR/none.yaml: No such file or directory (os error 2) (name the configuration with --config FILE or the environment's KEYFERRY_CONFIG)
    ");
    assert_snapshot!(bench.run("- -"), @r#"
    2
    ! the standard input can be read only once (write `-` once)
    "#);
    assert_snapshot!(bench.run("--suggest-policy"), @"error: the following required arguments were not provided:");
    assert_snapshot!(bench.run("DIR"), @r#"
    1
    DIR/a.yaml:10:15: error: class a: object 1 (x): mode: 9999 is over 0777: the set-user-id, set-group-id and sticky bits cannot be delivered (write an octal mode up to 0777)
    1 object in 1 class, 1 file: 1 fault
    "#);
}

/// A class of a peer, at line 1 of its file; its parameters start at line 6.
#[test]
fn objects_that_are_no_text_and_empty_documents_are_judged_once() {
    let class =
        |objects: &str| format!("{HEAD}metadata: {{ name: a }}\nspec: {{ provider: keyferry, parameters: {{ objects: {objects} }} }}\n");
    let bench = Bench::with(&[
        ("null.yaml", &class("null")),
        ("list.yaml", &class("[{ secret: a }]")),
        ("empty.yaml", &(class("\"[{ secret: a }]\"") + "---\n# nothing\n---\n")),
    ]);
    assert_snapshot!(bench.run("DIR/null.yaml DIR/list.yaml DIR/empty.yaml"), @r#"
    1
    DIR/null.yaml:4:52: error: class a: spec.parameters.objects: has no value, but must be a text (an empty one is "")
    DIR/list.yaml:4:52: error: class a: spec.parameters.objects: is a list, but must be a text (a YAML list goes into a text with `|` after the key)
    1 object in 3 classes, 3 files: 2 faults
    "#);
}

fn peers_class(provider: &str, parameters: &str, objects: &str) -> String {
    let indented = |text: &str, depth: &str| text.lines().map(|line| format!("{depth}{line}\n")).collect::<String>();
    let (parameters, objects) = (indented(parameters, "    "), indented(objects, "      "));
    format!(
        "{HEAD}metadata: {{ name: peer, namespace: shop }}\nspec:\n  provider: {provider}\n  parameters:\n{parameters}    objects: |\n{objects}"
    )
}

#[test]
fn classes_of_the_peers_are_judged_in_their_own_words() {
    let faulty = peers_class(
        "vault",
        "rolName: web\nvaultTLSClientKeyPath: /tls/key",
        "- objectName: password\n  secretPath: kv/data/../db\n- objectName: token\n  secretpath: kv/data/token\n  filePermission: 9999",
    );
    let warned = peers_class(
        "openbao",
        "roleName: web\nbaoNamespace: team-a\nvaultNamespace: team-b",
        "- objectName: db.json\n  secretPath: kv/data/db\n  encoding: hex\n- objectName: key\n  secretPath: kv/data/db\n  secretKey: key\n  filePermission: 0400",
    );
    let own_socket = peers_class("keyferry", "dialect: vault", "- objectName: a\n  secretPath: b");
    let bench = Bench::with(&[
        ("faulty.yaml", &faulty),
        ("warned.yaml", &warned),
        ("own.yaml", &own_socket),
        ("later.yaml", &peers_class("azure", "keyvaultName: x", "array: []")),
        ("other.yaml", &peers_class("thales", "x: y", "[]")),
        ("c.yaml", CONFIG),
    ]);
    assert_snapshot!(bench.run("DIR/faulty.yaml DIR/warned.yaml DIR/own.yaml DIR/later.yaml DIR/other.yaml"), @r#"
    1
    DIR/faulty.yaml:7:5: error: class peer: rolName: is not a known key (did you mean `roleName`?)
    DIR/faulty.yaml:7:5: error: class peer: roleName: is missing (add it: the role that the Pod's ServiceAccount logs in with)
    DIR/faulty.yaml:8:5: error: class peer: vaultTLSClientKeyPath: needs `vaultTLSClientCertPath`: a certificate and its key belong together (add `vaultTLSClientCertPath`, or remove it)
    DIR/faulty.yaml:11:21: error: class peer: object 1 (password): secretPath: the name "kv/data/../db" has the element ".." (write the name as its store lists it)
    DIR/faulty.yaml:12:9: error: class peer: object 2 (token): secretPath: is missing (write the path of the store's API, such as `secretPath: kv/data/shop/db`)
    DIR/faulty.yaml:13:9: error: class peer: object 2 (token): secretpath: is not a known key (did you mean `secretPath`?)
    DIR/faulty.yaml:14:25: error: class peer: object 2 (token): filePermission: 9999 is over 0777: the set-user-id, set-group-id and sticky bits cannot be delivered (write an octal mode up to 0777)
    DIR/warned.yaml:9:5: warning: class peer: vaultNamespace: is not used: `baoNamespace` has another value, and Keyferry uses that (remove one) [unused-parameter]
    DIR/warned.yaml:13:19: warning: class peer: object 1 (db.json): encoding: is not used without `secretKey`: Keyferry delivers a whole response as JSON (remove it) [unused-parameter]
    DIR/warned.yaml:17:25: warning: class peer: object 2 (key): filePermission: 0400 lets only root read the file: the driver's files belong to root and fsGroup does not reach them (0444 for a container that runs as another user) [root-only-mode]
    DIR/own.yaml:7:5: error: class peer: roleName: is missing (add it: the role that the Pod's ServiceAccount logs in with)
    DIR/later.yaml:5:13: note: class peer: the class is not checked: Keyferry does not understand classes of the provider azure yet
    DIR/other.yaml:5:13: note: class peer: the class is not checked: its provider is "thales", not one of keyferry, vault, openbao, aws
    5 objects in 3 classes, 5 files: 8 faults, 3 warnings
    "#);
    assert_snapshot!(bench.run("--config DIR/c.yaml DIR/warned.yaml"), @r#"
    1
    DIR/warned.yaml:5:13: warning: class peer: this node does not answer for the provider openbao (the cluster's admin can add openbao to `providers`) [unanswered-provider]
    DIR/warned.yaml:7:5: error: class peer: dialect: no backend of this node serves classes of the dialect `openbao` (the cluster's admin can add one of the kind vault)
    DIR/c.yaml: no fault (2 backends, 2 rules)
    2 objects in 1 class, 1 file: 1 fault, 1 warning
    "#);
}

#[test]
fn rules_for_classes_of_the_peers_have_namespaces_updates_and_grants() {
    let class = peers_class(
        "vault",
        "roleName: web\nvaultAddress: https://vault.example:8200\nvaultNamespace: team-a/web\nvaultSkipTLSVerify: \"true\"\naudience: bao",
        "- objectName: a\n  secretPath: /v1/kv/data/db?version=3\n- objectName: b\n  secretPath: pki/issue/web\n  method: PUT",
    );
    let bench = Bench::with(&[("a.yaml", &class)]);
    assert_snapshot!(bench.run("--suggest-policy --as shop/web DIR/a.yaml"), @r#"
    0
    policy:
      - pods: { namespace: "shop", serviceAccount: "web" }
        read:
          - "*/team-a/web/kv/data/db" # the class names no backend: give --config, or write its name instead of the `*`
        update:
          - "*/team-a/web/pki/issue/web" # the class names no backend: give --config, or write its name instead of the `*`
    # The classes ask for a login that backends.* does not have. Its classMay has to grant it (a list there replaces the default):
    #   address: ["https://vault.example:8200"]
    #   audience: ["bao"]
    #   namespace: ["team-a/web"]
    #   tls: true
    ! note: 2 objects in 1 class, 1 file: no fault
    "#);
}

/// Without a configuration nobody knows which name an ARN means, and a rule with an ARN would be refused.
#[test]
fn a_suggested_rule_says_that_an_arn_is_not_a_name_yet() {
    let arn = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop/db-AbCdEf";
    let class = peers_class("aws", "region: eu-west-1", &format!("- {{objectName: '{arn}', objectAlias: db}}"));
    let node = "identity: { verify: token-review }\nproviders: [aws]\npolicy: []\nbackends:\n  \
                amazon: { kind: aws, region: eu-west-1, account: \"111122223333\", auth: { method: irsa } }\n";
    let bench = Bench::with(&[("a.yaml", &class), ("c.yaml", node)]);
    assert_snapshot!(bench.run("--suggest-policy DIR/a.yaml"), @r#"
    0
    policy:
      - pods: { namespace: "shop" }
        read:
          - "*/arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop/db-AbCdEf" # an ARN never matches in a rule: give --config, which also turns it into the name that policy sees
    ! note: 1 object in 1 class, 1 file: no fault
    "#);
    assert_snapshot!(bench.run("--config DIR/c.yaml --suggest-policy DIR/a.yaml"), @r#"
    0
    policy:
      - pods: { namespace: "shop" }
        read:
          - "amazon/secretsmanager/shop/db"
    ! note: DIR/c.yaml: no fault (1 backend, 0 rules)
    ! note: 1 object in 1 class, 1 file: no fault
    "#);
}

/// In AWS an empty element is a part of a name. The daemon reads both spellings.
#[test]
fn an_empty_element_of_aws_is_no_fault_without_a_configuration() {
    let objects = "- {secret: secretsmanager//prod/db, path: a}\n- {secret: secretsmanager/~/prod/db, path: b}\n\
                   - {prefix: secretsmanager//prod/, path: c/}\n- {prefix: secretsmanager//, path: d/}\n- {secret: ssm//db, path: e}\n\
                   - {secret: secretsmanager/, path: f}";
    let bench = Bench::with(&[("a.yaml", &class("own", objects))]);
    assert_snapshot!(bench.run("DIR/a.yaml"), @r#"
    1
    DIR/a.yaml:13:18: error: class own: object 5 (e): secret: the name "ssm//db" has an empty element (`//`, or a `/` at its start or end) (write the name as its store lists it)
    DIR/a.yaml:14:18: error: class own: object 6 (f): secret: the name "secretsmanager/" has an empty element (`//`, or a `/` at its start or end) (write the name as its store lists it)
    6 objects in 1 class, 1 file: 2 faults
    "#);
}

/// Also for the files that `jmesPath` finds, and for keys in another case.
#[test]
fn modes_of_all_files_of_an_aws_class_are_looked_at() {
    let objects = "- ObjectName: a\n  objectType: secretsmanager\n  FilePermission: 400\n  JMESPath:\n    - path: b\n      objectAlias: b\n      \
                   filePermission: 444\n    - {Path: c, ObjectAlias: c, FILEPERMISSION: '0400'}\n    - {path: d, objectAlias: d, filePermission: '0444'}";
    let bench = Bench::with(&[("a.yaml", &peers_class("aws", "region: eu-west-1", objects))]);
    assert_snapshot!(bench.run("DIR/a.yaml"), @"
    0
    DIR/a.yaml:11:25: warning: class peer: object 1 (a): filePermission: 400 is decimal without a 0 before it, and means 0620 (did you mean 0400?) [decimal-mode]
    DIR/a.yaml:15:29: warning: class peer: object 1 (a): jmesPath.filePermission: 444 is decimal without a 0 before it, and means 0674 (did you mean 0444?) [decimal-mode]
    DIR/a.yaml:16:55: warning: class peer: object 1 (a): jmesPath.filePermission: 0400 lets only root read the file: the driver's files belong to root and fsGroup does not reach them (0444 for a container that runs as another user) [root-only-mode]
    1 object in 1 class, 1 file: no fault, 3 warnings
    ");
}

/// A message has one remedy, the store's own if it has one.
#[test]
fn a_version_that_cannot_be_pinned_has_one_remedy() {
    let class = peers_class("aws", "region: eu-west-1", "- {objectName: a, objectType: secretsmanager, objectVersionLabel: AWSPREVIOUS}");
    let node = "identity: { verify: token-review }\nproviders: [aws]\npolicy: []\nbackends:\n  \
                ireland: { kind: aws, region: eu-west-1, auth: { method: irsa } }\n  \
                frankfurt: { kind: aws, region: eu-central-1, auth: { method: irsa } }\n  \
                both: { kind: failover, of: [ireland, frankfurt] }\ndialects: { aws: { backend: both } }\n";
    let bench = Bench::with(&[("a.yaml", &class.replace("    region: eu-west-1\n", "")), ("c.yaml", node)]);
    let said = bench.run("--config DIR/c.yaml DIR/a.yaml");
    let told = "each count their own versions (remove it; or name one of them as the backend)\n";
    assert!(said.contains(told), "{said}");
}

/// Two servers, and which of them each provider's classes use.
const SERVERS: &str = r#"
providers: [keyferry, vault]
identity: { verify: token-review }
backends:
  files: { kind: file, vault: /nowhere/vault, identity: /nowhere/age.key }
  bao: { kind: vault, address: https://bao:8200, namespace: team-a, auth: { method: jwt, audience: bao } }
  hashi: { kind: vault, address: https://vault:8200, auth: { method: kubernetes }, classMay: { namespace: ["team-${namespace}"] } }
dialects: { vault: { backend: hashi } }
policy:
  - pods: { namespace: shop }
    read: ["hashi/kv/data/*", "hashi/team-shop/kv/data/*", "bao/team-a/kv/data/*"]
"#;

#[test]
fn a_configuration_says_which_backend_serves_a_peers_class() {
    let password = "- objectName: password\n  secretPath: kv/data/db\n  secretKey: password";
    let of = |provider, parameters: &str| peers_class(provider, &format!("roleName: web\n{parameters}"), password);
    let bench = Bench::with(&[
        ("c.yaml", SERVERS),
        ("named.yaml", &of("vault", "")),
        ("address.yaml", &of("vault", "vaultAddress: HTTPS://BAO:8200/\nvaultCACertPath: /tls/ca.crt")),
        ("namespace.yaml", &of("vault", "vaultNamespace: team-shop")),
        ("denied.yaml", &of("vault", "vaultNamespace: team-b\naudience: other\nvaultAddress: https://elsewhere")),
        ("openbao.yaml", &of("openbao", "")),
        ("openbao2.yaml", &of("openbao", "baoAddress: https://vault:8200")),
        (
            "own.yaml",
            &class("own", "- { secret: kv/data/db, backend: bao, method: PUT, args: { a: b }, lease: shared, field: x }\n- { secret: b }")
                .replace("    backend: files\n", "    backend: files\n    role: web\n    mount: jwt\n"),
        ),
    ]);
    let all = "DIR/named.yaml DIR/address.yaml DIR/namespace.yaml DIR/denied.yaml DIR/openbao.yaml DIR/openbao2.yaml DIR/own.yaml";
    assert_snapshot!(bench.run(&format!("--config DIR/c.yaml --as shop/web {all}")), @r#"
    1
    DIR/named.yaml:10:21: note: class peer: object 1 (password): ServiceAccount shop/web may read hashi/kv/data/db, by policy rule 1
    DIR/address.yaml:9:5: warning: class peer: vaultCACertPath: is not used: the class's address is that of the backend `bao`, so this backend's TLS settings apply (remove it if the class is only for Keyferry) [unused-parameter]
    DIR/address.yaml:12:21: note: class peer: object 1 (password): ServiceAccount shop/web may read bao/team-a/kv/data/db, by policy rule 1
    DIR/namespace.yaml:11:21: note: class peer: object 1 (password): ServiceAccount shop/web may read hashi/team-shop/kv/data/db, by policy rule 1
    DIR/denied.yaml:13:21: error: class peer: object 1 (password): hashi/team-b/kv/data/db: the class sets vaultAddress to "https://elsewhere", and backends.hashi.classMay.address does not grant that to ServiceAccount shop/web (leave vaultAddress out; or the cluster's admin can add it there)
    DIR/openbao.yaml:5:13: warning: class peer: this node does not answer for the provider openbao (the cluster's admin can add openbao to `providers`) [unanswered-provider]
    DIR/openbao.yaml:7:5: error: class peer: dialect: several backends of this node could serve this class of the dialect `openbao`: bao, hashi (write the address of one of them, as it is configured; or the cluster's admin can set dialects.openbao.backend)
    DIR/openbao2.yaml:5:13: warning: class peer: this node does not answer for the provider openbao (the cluster's admin can add openbao to `providers`) [unanswered-provider]
    DIR/openbao2.yaml:11:21: note: class peer: object 1 (password): ServiceAccount shop/web may read hashi/kv/data/db, by policy rule 1
    DIR/own.yaml:11:19: error: class own: object 1 (x): bao/team-a/kv/data/db: no rule of the policy allows ServiceAccount shop/web to update it (the cluster's admin can add a rule with update: ["bao/team-a/kv/data/db"])
    DIR/own.yaml:12:19: error: class own: object 2 (b): files/b: no rule of the policy allows ServiceAccount shop/web to read it (the cluster's admin can add a rule with read: ["files/b"])

    These rules would allow it (under `policy`):
      - pods: { namespace: "shop", serviceAccount: "web" }
        read:
          - "files/b"
        update:
          - "bao/team-a/kv/data/db"

    DIR/c.yaml: no fault (3 backends, 1 rule)
    8 objects in 7 classes, 7 files: 4 faults, 3 warnings
    "#);
    assert_snapshot!(bench.run(&format!("--config DIR/c.yaml --suggest-policy {all}")), @r#"
    1
    policy:
      - pods: { namespace: "shop" }
        read:
          - "bao/team-a/kv/data/db"
          - "files/b"
          - "hashi/kv/data/db"
          - "hashi/team-b/kv/data/db"
          - "hashi/team-shop/kv/data/db"
        update:
          - "bao/team-a/kv/data/db"
    # The classes ask for a login that backends.hashi does not have. Its classMay has to grant it (a list there replaces the default):
    #   address: ["https://elsewhere"]
    #   audience: ["other"]
    #   namespace: ["team-b"]
    ! warning: DIR/address.yaml:9:5: class peer: vaultCACertPath: is not used: the class's address is that of the backend `bao`, so this backend's TLS settings apply (remove it if the class is only for Keyferry) [unused-parameter]
    ! warning: DIR/openbao.yaml:5:13: class peer: this node does not answer for the provider openbao (the cluster's admin can add openbao to `providers`) [unanswered-provider]
    ! error: DIR/openbao.yaml:7:5: class peer: dialect: several backends of this node could serve this class of the dialect `openbao`: bao, hashi (write the address of one of them, as it is configured; or the cluster's admin can set dialects.openbao.backend)
    ! warning: DIR/openbao2.yaml:5:13: class peer: this node does not answer for the provider openbao (the cluster's admin can add openbao to `providers`) [unanswered-provider]
    ! note: DIR/c.yaml: no fault (3 backends, 1 rule)
    ! note: 8 objects in 7 classes, 7 files: 1 fault, 3 warnings
    "#);
}

#[test]
fn what_is_nearly_a_class_is_none_and_says_so() {
    let good = class("shop", "- secret: a");
    let bench = Bench::with(&[
        ("provider.yaml", &good.replace("provider: keyferry", "provider: keyfery")),
        ("socket.yaml", &good.replace("provider: keyferry", "provider: keyferry.sock")),
        ("word.yaml", &good.replace("provider: keyferry", "provider: hashicorp-vault")),
        ("part.yaml", &good.replace("provider: keyferry", "provider: bao")),
        ("number.yaml", &good.replace("provider: keyferry", "provider: 1")),
        ("another.yaml", &good.replace("provider: keyferry", "provider: azure-key-vault")),
        ("case.yaml", &good.replace("provider: keyferry", "provider: Vault")),
        ("kind.yaml", &good.replace("kind: SecretProviderClass", "kind: SecretProvider")),
        ("case-of-kind.yaml", &good.replace("kind: SecretProviderClass", "kind: SecretproviderClass")),
        ("no-kind.yaml", &good.replace("kind: SecretProviderClass\n", "")),
        ("version.yaml", &good.replace("x-k8s.io/v1", "x-k8s.io/v1beta1")),
        ("group.yaml", &good.replace("secrets-store.csi.x-k8s.io/v1", "secret-store.csi.k8s.io/v1").replace("secret: a", "secert: a")),
        ("core.yaml", &good.replace("secrets-store.csi.x-k8s.io/v1", "v1")),
        ("no-version.yaml", &good.replace("apiVersion", "apiversion")),
        ("alpha.yaml", &good.replace("x-k8s.io/v1", "x-k8s.io/v1alpha1")),
        (
            "other.yaml",
            "apiVersion: example.org/v1\nkind: SecretProvider\n---\napiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClassPodStatus\n",
        ),
    ]);
    let all = "DIR/provider.yaml DIR/socket.yaml DIR/word.yaml DIR/part.yaml DIR/number.yaml DIR/another.yaml DIR/case.yaml DIR/kind.yaml DIR/case-of-kind.yaml DIR/no-kind.yaml DIR/version.yaml DIR/group.yaml \
               DIR/core.yaml DIR/no-version.yaml DIR/alpha.yaml DIR/other.yaml";
    assert_snapshot!(bench.run(all), @r#"
    1
    DIR/provider.yaml:5:13: error: class shop: spec.provider: "keyfery" is not a provider (did you mean keyferry?)
    DIR/socket.yaml:5:13: error: class shop: spec.provider: "keyferry.sock" is not a provider (did you mean keyferry?)
    DIR/word.yaml:5:13: error: class shop: spec.provider: "hashicorp-vault" is not a provider (did you mean vault?)
    DIR/part.yaml:5:13: error: class shop: spec.provider: "bao" is not a provider (did you mean openbao?)
    DIR/number.yaml:5:13: error: class shop: spec.provider: is a number to Kubernetes, but must be a text (put it in quotes)
    DIR/another.yaml:5:13: note: class shop: the class is not checked: its provider is "azure-key-vault", not one of keyferry, vault, openbao, aws
    DIR/case.yaml:5:13: error: class shop: spec.provider: "Vault" is not a provider (did you mean vault?)
    DIR/kind.yaml:2:7: error: class shop: kind: "SecretProvider" is not a kind of secrets-store.csi.x-k8s.io (did you mean SecretProviderClass?)
    DIR/case-of-kind.yaml:2:7: error: class shop: kind: "SecretproviderClass" is not a kind of secrets-store.csi.x-k8s.io (did you mean SecretProviderClass?)
    DIR/no-kind.yaml:1:1: error: class shop: kind: is missing (did you mean SecretProviderClass?)
    DIR/version.yaml:1:13: error: class shop: apiVersion: "secrets-store.csi.x-k8s.io/v1beta1" has no SecretProviderClass (write secrets-store.csi.x-k8s.io/v1)
    DIR/group.yaml:1:13: error: class shop: apiVersion: "secret-store.csi.k8s.io/v1" has no SecretProviderClass (write secrets-store.csi.x-k8s.io/v1)
    DIR/group.yaml:9:9: error: class shop: object 1: secert: is not a known key (did you mean `secret`?)
    DIR/group.yaml:9:9: error: class shop: object 1: secret: is missing (write the secret's name, such as `secret: shop/db`)
    DIR/core.yaml:1:13: error: class shop: apiVersion: "v1" has no SecretProviderClass (write secrets-store.csi.x-k8s.io/v1)
    DIR/no-version.yaml:1:1: error: class shop: apiVersion: is missing (write secrets-store.csi.x-k8s.io/v1)
    DIR/no-version.yaml:1:1: error: class shop: apiversion: is not a known key (did you mean `apiVersion`?)
    DIR/other.yaml:1:1: note: no SecretProviderClass is in here (kinds found: SecretProvider, SecretProviderClassPodStatus)
    5 objects in 11 classes, 16 files: 16 faults
    "#);
}

#[test]
fn a_class_that_overwrites_another_is_warned_of() {
    let (a, b) = (class("a", "- secret: a"), class("b", "- secret: b"));
    let elsewhere = a.replace("namespace: shop", "namespace: other");
    let bench = Bench::with(&[("all.yaml", &format!("{a}---\n{b}---\n{elsewhere}---\n{a}")), ("again.yaml", &a)]);
    assert_snapshot!(bench.run("DIR/all.yaml DIR/again.yaml"), @r#"
    0
    DIR/all.yaml:31:1: warning: class a: metadata.name: overwrites the class "a" of line 1 (keep one, or rename it) [same-name]
    5 objects in 5 classes, 2 files: no fault, 1 warning
    "#);
}

#[test]
fn files_that_together_hold_no_class_are_a_fault() {
    let bench = Bench::with(&[
        ("empty.yaml", ""),
        ("pod.yaml", "kind: Pod\n---\nkind: Service\n"),
        ("class.yaml", &class("shop", "- secret: a")),
        ("azure.yaml", &peers_class("azure", "keyvaultName: x", "array: []")),
        ("c.yaml", CONFIG),
    ]);
    assert_snapshot!(bench.run("DIR/pod.yaml"), @r#"
    1
    DIR/pod.yaml:1:1: error: no SecretProviderClass is in here (kinds found: Pod, Service), so no class was checked (name other files, or use --allow-none)
    0 objects in 0 classes, 1 file: 1 fault
    "#);
    assert_snapshot!(bench.run("DIR/empty.yaml DIR/pod.yaml"), @r#"
    1
    DIR/empty.yaml:1:1: error: no SecretProviderClass is in here (it starts with `apiVersion: secrets-store.csi.x-k8s.io/v1` and `kind: SecretProviderClass`), so no class was checked (name other files, or use --allow-none)
    DIR/pod.yaml:1:1: note: no SecretProviderClass is in here (kinds found: Pod, Service)
    0 objects in 0 classes, 2 files: 1 fault
    "#);
    assert_snapshot!(bench.run("--allow-none DIR/empty.yaml DIR/pod.yaml"), @r#"
    0
    DIR/empty.yaml:1:1: note: no SecretProviderClass is in here (it starts with `apiVersion: secrets-store.csi.x-k8s.io/v1` and `kind: SecretProviderClass`)
    DIR/pod.yaml:1:1: note: no SecretProviderClass is in here (kinds found: Pod, Service)
    0 objects in 0 classes, 2 files: no fault
    "#);
    assert_snapshot!(bench.run("DIR/empty.yaml DIR/class.yaml"), @r#"
    0
    DIR/empty.yaml:1:1: note: no SecretProviderClass is in here (it starts with `apiVersion: secrets-store.csi.x-k8s.io/v1` and `kind: SecretProviderClass`)
    1 object in 1 class, 2 files: no fault
    "#);
    assert_snapshot!(bench.run("DIR/azure.yaml"), @r#"
    0
    DIR/azure.yaml:5:13: note: class peer: the class is not checked: Keyferry does not understand classes of the provider azure yet
    0 objects in 0 classes, 1 file: no fault
    "#);
    assert_snapshot!(bench.run("--config DIR/c.yaml"), @r#"
    0
    DIR/c.yaml: no fault (2 backends, 2 rules)
    "#);
    assert!(bench.run("--config DIR/c.yaml DIR/c.yaml").starts_with("1\n"));
    assert!(bench.run("--suggest-policy DIR/pod.yaml").starts_with("1\n"));
    assert!(bench.run_with("-", b"# rendered: nothing\n---\n").starts_with("1\n"));
}

#[test]
fn folders_are_read_without_links_hidden_files_and_templates_of_charts() {
    let bench = Bench::with(&[]);
    let root = bench.0.path();
    for dir in ["all/sub", "all/.git", "all/chart/templates", "all/plain/templates", "none", "empty"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    let faulty = class("a", "- secrte: x");
    for file in
        ["all/b.yml", "all/sub/a.YAML", "all/.git/c.yaml", "all/note.txt", "all/chart/templates/d.yaml", "all/plain/templates/e.yaml"]
    {
        std::fs::write(root.join(file), &faulty).unwrap();
    }
    std::fs::write(root.join("all/chart/Chart.yaml"), "name: shop\n").unwrap();
    std::fs::write(root.join("all/f.json"), r#"{"kind": "Pod", "apiVersion": "v1"}"#).unwrap();
    std::fs::write(root.join("none/pod.yaml"), "kind: Pod\n").unwrap();
    std::os::unix::fs::symlink("/", root.join("all/link")).unwrap();
    std::os::unix::fs::symlink(root.join("all/b.yml"), root.join("all/z.yaml")).unwrap();
    assert_snapshot!(bench.run("DIR/all"), @r#"
    1
    DIR/all/chart/templates:1:1: note: the templates of a chart are not read (render them: helm template CHART | keyferry check -)
    DIR/all/b.yml:9:9: error: class a: object 1: secrte: is not a known key (did you mean `secret`?)
    DIR/all/b.yml:9:9: error: class a: object 1: secret: is missing (write the secret's name, such as `secret: shop/db`)
    DIR/all/plain/templates/e.yaml:9:9: error: class a: object 1: secrte: is not a known key (did you mean `secret`?)
    DIR/all/plain/templates/e.yaml:9:9: error: class a: object 1: secret: is missing (write the secret's name, such as `secret: shop/db`)
    DIR/all/sub/a.YAML:9:9: error: class a: object 1: secrte: is not a known key (did you mean `secret`?)
    DIR/all/sub/a.YAML:9:9: error: class a: object 1: secret: is missing (write the secret's name, such as `secret: shop/db`)
    3 objects in 3 classes, 5 files: 6 faults
    "#);
    assert_snapshot!(bench.run("DIR/none DIR/empty"), @r#"
    1
    DIR/none:1:1: error: no SecretProviderClass is in the 1 file of this folder, so no class was checked (name other files, or use --allow-none)
    DIR/empty:1:1: note: no *.yaml, *.yml or *.json file is in this folder
    0 objects in 0 classes, 1 file: 1 fault
    "#);
    assert_snapshot!(bench.run("DIR/all/chart/templates --allow-none"), @r#"
    0
    DIR/all/chart/templates:1:1: note: the templates of a chart are not read (render them: helm template CHART | keyferry check -)
    DIR/all/chart/templates:1:1: note: no *.yaml, *.yml or *.json file is in this folder
    0 objects in 0 classes, 0 files: no fault
    "#);
    std::fs::write(root.join("none/template.yaml"), "{{ if .Values.x }}\nkind: Pod\n{{ end }}\n").unwrap();
    assert_snapshot!(bench.run("DIR/none"), @r#"
    1
    DIR/none/template.yaml:1:2: error: a key is a list or a mapping; keys are texts (one that starts with `[` or `{` needs quotes)
    DIR/none/template.yaml:1:2: note: looks like a template (render it first: helm template CHART | keyferry check -)
    DIR/none:1:1: note: no SecretProviderClass is in the 2 files of this folder
    0 objects in 0 classes, 2 files: 1 fault
    "#);
}

#[test]
fn helms_stream_names_the_template() {
    let stream = format!(
        "---\n# Source: shop/templates/a.yaml\n{}---\n# Source: shop/charts/db/templates/b.yaml\n{}---\nkind: Pod\n---\n{}",
        class("a", "- secrte: x"),
        class("a", "- secret: x\n  mode: 0400"),
        class("c", "- secret: ../x"),
    );
    let bench = Bench::with(&[]);
    assert_snapshot!(bench.run_with("-", stream.as_bytes()), @r#"
    1
    shop/templates/a.yaml:9:9: error: class a: object 1: secrte: is not a known key (did you mean `secret`?)
    shop/templates/a.yaml:9:9: error: class a: object 1: secret: is missing (write the secret's name, such as `secret: shop/db`)
    shop/charts/db/templates/b.yaml:1:1: warning: class a: metadata.name: overwrites the class "a" of shop/templates/a.yaml, line 1 (keep one, or rename it) [same-name]
    shop/charts/db/templates/b.yaml:10:15: warning: class a: object 1 (x): mode: 0400 lets only root read the file: the driver's files belong to root and fsGroup does not reach them (0444 for a container that runs as another user) [root-only-mode]
    <stdin>:35:17: error: class c: object 1 (x): secret: the name "../x" has the element ".." (write the name as its store lists it)
    3 objects in 3 classes, 1 file: 3 faults, 2 warnings
    "#);
    assert_snapshot!(bench.run_with("--output github --stdin-name chart/out.yaml -", stream.as_bytes()), @r#"
    1
    ::error file=shop/templates/a.yaml,line=9,col=9::class a: object 1: secrte: is not a known key (did you mean `secret`?)
    ::error file=shop/templates/a.yaml,line=9,col=9::class a: object 1: secret: is missing (write the secret's name, such as `secret: shop/db`)
    ::warning file=shop/charts/db/templates/b.yaml,line=1,col=1::class a: metadata.name: overwrites the class "a" of shop/templates/a.yaml, line 1 (keep one, or rename it) [same-name]
    ::warning file=shop/charts/db/templates/b.yaml,line=10,col=15::class a: object 1 (x): mode: 0400 lets only root read the file: the driver's files belong to root and fsGroup does not reach them (0444 for a container that runs as another user) [root-only-mode]
    ::error file=chart/out.yaml,line=35,col=17::class c: object 1 (x): secret: the name "../x" has the element ".." (write the name as its store lists it)
    "#);
}

#[test]
fn strict_fails_for_warnings_that_are_not_allowed() {
    let bench = Bench::with(&[("a.yaml", &class("a", "- secret: a\n  mode: 444\n- secret: b\n  mode: 0400"))]);
    let code = |line: &str| bench.run(line).lines().next().unwrap().to_owned();
    assert_eq!(code("DIR/a.yaml"), "0");
    assert_eq!(code("--strict DIR/a.yaml"), "1");
    assert_eq!(code("--strict --allow root-only-mode DIR/a.yaml"), "1");
    assert_snapshot!(bench.run("--strict --allow root-only-mode --allow decimal-mode DIR/a.yaml"), @r#"
    0
    2 objects in 1 class, 1 file: no fault
    "#);
    assert_snapshot!(bench.run("--strict --allow decimal-mode DIR/a.yaml"), @r#"
    1
    DIR/a.yaml:12:15: warning: class a: object 2 (b): mode: 0400 lets only root read the file: the driver's files belong to root and fsGroup does not reach them (0444 for a container that runs as another user) [root-only-mode]
    2 objects in 1 class, 1 file: no fault, 1 warning
    "#);
    assert_snapshot!(bench.run("--strict --quiet DIR/a.yaml"), @r#"1"#);
    assert_snapshot!(bench.run("--allow root-only DIR/a.yaml"), @r#"error: invalid value 'root-only' for '--allow <ID>'"#);
}

#[test]
fn a_rendered_config_map_is_a_configuration() {
    let map = |key: &str, text: &str| {
        let text: String = text.lines().map(|line| format!("    {line}\n")).collect();
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: keyferry-x7 }}\ndata:\n  jwks.json: '{{}}'\n  {key}: |\n{text}")
    };
    let faulty = CONFIG.replace("objects: 3", "objcts: 3");
    let bench = Bench::with(&[
        ("good.yaml", &format!("kind: Service\napiVersion: v1\n---\n{}", map("keyferry.yaml", CONFIG))),
        ("bad.yaml", &map("config.yml", &faulty)),
        ("none.yaml", "apiVersion: v1\nkind: ConfigMap\ndata: { a: b }\n"),
        ("two.yaml", &format!("{}---\n{}", map("keyferry.yaml", CONFIG), map("keyferry.yaml", CONFIG))),
        ("a.yaml", &class("a", "- secret: shop/db")),
    ]);
    assert_snapshot!(bench.run("--config DIR/good.yaml --as shop/web DIR/a.yaml"), @r#"
    0
    DIR/a.yaml:9:17: note: class a: object 1 (db): ServiceAccount shop/web may read files/shop/db, by policy rule 1
    DIR/good.yaml: no fault (2 backends, 2 rules)
    1 object in 1 class, 1 file: no fault
    "#);
    assert_snapshot!(bench.run("--config DIR/bad.yaml"), @r#"
    1
    DIR/bad.yaml:17:15: error: limits.objcts: is not a known key (did you mean `objects`?)
    DIR/bad.yaml: 1 fault
    "#);
    assert_snapshot!(bench.run("--config DIR/none.yaml"), @r#"
    1
    DIR/none.yaml:1:1: error: no ConfigMap with a key keyferry.yaml is in here (kinds found: ConfigMap)
    DIR/none.yaml: 1 fault
    "#);
    assert_snapshot!(bench.run("--config DIR/two.yaml"), @r#"
    1
    DIR/two.yaml:24:3: error: keyferry.yaml: a second ConfigMap has a configuration (keep one of them in the file)
    DIR/two.yaml: 1 fault
    "#);
    assert_snapshot!(bench.run_with("--config - DIR/a.yaml", CONFIG.as_bytes()), @r#"
    0
    <stdin>: no fault (2 backends, 2 rules)
    1 object in 1 class, 1 file: no fault
    "#);
}

#[test]
fn a_second_backend_needs_a_default_one() {
    let one = CONFIG.replace("  spare: { kind: file, vault: /nowhere/spare, identity: /nowhere/age.key }\n", "");
    let with = |default: &str| format!("{CONFIG}defaultBackend: {default}\n");
    let bench = Bench::with(&[
        ("one.yaml", &one),
        ("two.yaml", CONFIG),
        ("files.yaml", &with("files")),
        ("spare.yaml", &with("spare")),
        ("typo.yaml", &with("flies")),
        ("a.yaml", &class("a", "- secret: shop/db").replace("    backend: files\n", "")),
    ]);
    assert_snapshot!(bench.run("--former DIR/one.yaml --config DIR/two.yaml DIR/a.yaml"), @r#"
    1
    DIR/two.yaml:4:3: error: defaultBackend: is missing: classes that name no backend get their secrets from files today, and will fail at their next mount or rotation (set defaultBackend: files)
    DIR/a.yaml:7:5: error: class a: backend: no backend is named, and this node has several (set backend to one of: files, spare; or the cluster's admin can set defaultBackend)
    DIR/two.yaml: no fault (2 backends, 2 rules)
    1 object in 1 class, 1 file: 2 faults
    "#);
    assert_snapshot!(bench.run("--former DIR/one.yaml --config DIR/files.yaml --as shop/web DIR/a.yaml"), @r#"
    0
    DIR/a.yaml:8:17: note: class a: object 1 (db): ServiceAccount shop/web may read files/shop/db, by policy rule 1
    DIR/files.yaml: no fault (2 backends, 2 rules)
    1 object in 1 class, 1 file: no fault
    "#);
    assert_snapshot!(bench.run("--former DIR/one.yaml --config DIR/spare.yaml"), @r#"
    0
    DIR/spare.yaml:4:3: warning: defaultBackend: classes that name no backend get their secrets from files today, and would get them from spare (set defaultBackend: files, or name the backend in those classes) [default-backend]
    DIR/spare.yaml: no fault, 1 warning (2 backends, 2 rules)
    "#);
    assert_snapshot!(bench.run("--former DIR/files.yaml --config DIR/one.yaml"), @r#"
    0
    DIR/one.yaml:4:3: warning: backends.spare: DIR/files.yaml has it, and this configuration does not: classes that name it will fail at their next mount or rotation (keep it until no class names it) [removed-backend]
    DIR/one.yaml: no fault, 1 warning (1 backend, 2 rules)
    "#);
    assert_snapshot!(bench.run("--config DIR/typo.yaml"), @r#"
    1
    DIR/typo.yaml:12:17: error: defaultBackend: there is no backend "flies" (did you mean "files"?)
    DIR/typo.yaml: 1 fault
    "#);
}
