//! `keyferry render`: a class's files with made-up values, and the messages about classes and values that have none.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::support::{House, keyferry, run};

const CLASS: &str = "\
apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: { name: shop }
spec:
  provider: keyferry
  parameters:
    mode: '0440'
    objects: |
      - template: |
          url = {{ db.username | toml }}
          {% if mail is not none %}mail = {{ mail.from | toml }}{% endif %}
        secrets: { db: shop/db, mail: { secret: shop/mail, optional: true } }
        path: app.toml
      - { secret: shop/db, backend: bao, format: json, path: db.json, mode: '0400' }
      - { secret: shop/token, field: token, path: a/token, optional: true }
";

const VALUES: &str = "\
shop/db: { username: \"a \\\"b\\\"\", port: 5432, ratio: 1.50, tags: [x, {y: null}] }
shop/mail: null
";

/// Runs it on a class and values; the folder's name is `@`.
fn render(class: &str, values: &str, more: &[&str]) -> (i32, String, String) {
    let house = House::bare();
    fs::write(house.path("class.yaml"), class).unwrap();
    fs::write(house.path("values.yaml"), values).unwrap();
    let mut command = keyferry();
    command.current_dir(house.folder.path()).args(["render", "-f", "class.yaml", "--values", "values.yaml"]).args(more);
    let (code, out, errors) = run(&mut command, "");
    let root = house.folder.path().to_str().unwrap();
    (code, out.replace(root, "@"), errors.replace(root, "@"))
}

fn refused(class: &str, values: &str) -> String {
    let (code, out, errors) = render(class, values, &[]);
    assert_eq!(out, "", "{errors}");
    format!("{code}\n{errors}")
}

#[test]
fn files_are_shown_as_a_volume_would_have_them() {
    let (code, out, errors) = render(CLASS, VALUES, &[]);
    insta::assert_snapshot!(format!("{code}\n{out}{errors}"), @r#"
    0
    ==> app.toml (0440, 17 bytes)
    url = "a \"b\""


    ==> db.json (0400, 71 bytes)
    {"port":5432,"ratio":1.50,"tags":["x",{"y":null}],"username":"a \"b\""}
    \ no line end
    note: object 1 (app.toml): shop/mail: is absent, but it is optional
    note: object 3 (a/token): shop/token: is absent, but it is optional
    "#);
}

#[test]
fn scripts_get_the_contents_of_each_file() {
    let (code, out, _) = render(CLASS, VALUES, &["-o", "json"]);
    let document: Value = serde_json::from_str(&out).unwrap();
    let file = |n: usize| &document["files"][n];
    assert_eq!((code, &document["target"]), (0, &Value::Null));
    assert_eq!((&file(0)["path"], &file(0)["mode"], &file(0)["object"]), (&"app.toml".into(), &"0440".into(), &1.into()));
    let json: Value = serde_json::from_str(file(1)["text"].as_str().unwrap()).unwrap();
    assert_eq!(json["tags"], serde_json::json!(["x", { "y": null }]));
    assert!(file(1)["text"].as_str().unwrap().contains("1.50"), "a number keeps its digits");
}

#[test]
fn a_folder_gets_them_as_a_volume() {
    let house = House::bare();
    fs::write(house.path("class.yaml"), CLASS).unwrap();
    fs::write(house.path("values.yaml"), VALUES).unwrap();
    let to = house.path("new/volume");
    let mut command = keyferry();
    command.args(["render", "--values"]).arg(house.path("values.yaml")).arg("--file").arg(house.path("class.yaml")).arg("--to").arg(&to);
    let (code, out, errors) = run(&mut command, "");
    assert_eq!(code, 0, "{errors}");
    insta::assert_snapshot!(out.replace(house.folder.path().to_str().unwrap(), "@"), @"
    @/new/volume
    ├── 0440 app.toml  17 bytes
    └── 0400 db.json  71 bytes
    ");
    assert_eq!(fs::metadata(to.join("db.json")).unwrap().permissions().mode() & 0o777, 0o400);
    assert!(fs::read_to_string(to.join("app.toml")).unwrap().starts_with("url = \"a \\\"b\\\"\"\n"));
}

#[test]
fn what_has_no_values_or_too_many_is_said() {
    let misspelt = refused(CLASS, "shop/bd: { username: a }\n");
    let (_, _, unused) = render(CLASS, &format!("{VALUES}shop/tokn: {{ token: x }}\n"), &[]);
    let said = [misspelt, refused(CLASS, ""), refused(CLASS, "shop/db: null"), unused].join("--\n");
    insta::assert_snapshot!(said, @"
    1
    warning: values.yaml: shop/bd: the class does not use this secret (did you mean shop/db?)
    error: values.yaml: shop/db: has no values (did you mean shop/bd?)
    --
    1
    error: values.yaml: shop/db: has no values (add `shop/db: { FIELD: VALUE }`, or `shop/db: null` for a secret that is absent)
    --
    1
    error: SecretNotFound: object 1 (app.toml): shop/db: is not in its store (store it, correct the name, or set `optional: true`)
    error: SecretNotFound: object 2 (db.json): bao/shop/db: is not in its store (store it, correct the name, or set `optional: true`)
    --
    warning: values.yaml: shop/tokn: the class does not use this secret (did you mean shop/token?)
    note: object 1 (app.toml): shop/mail: is absent, but it is optional
    note: object 3 (a/token): shop/token: is absent, but it is optional
    ");
}

/// `shop/db` is near to both names, and the class uses it.
#[test]
fn a_name_that_has_its_place_is_not_proposed() {
    let class = CLASS.replace("a/token, optional: true }", "a/token, optional: true }\n      - secret: shop/da");
    let absent = refused(&class, VALUES);
    let (_, _, unused) = render(CLASS, &format!("{VALUES}shop/dc: {{ a: b }}\n"), &[]);
    insta::assert_snapshot!([absent, unused].join("--\n"), @"
    1
    error: values.yaml: shop/da: has no values (add `shop/da: { FIELD: VALUE }`, or `shop/da: null` for a secret that is absent)
    --
    warning: values.yaml: shop/dc: the class does not use this secret (remove it, or correct the name)
    note: object 1 (app.toml): shop/mail: is absent, but it is optional
    note: object 3 (a/token): shop/token: is absent, but it is optional
    ");
}

#[test]
fn values_that_are_none_have_their_line() {
    let said: Vec<String> = [
        "a: [",
        "- shop/db",
        "shop/db: [a]",
        "shop/db:\n  password: .inf\n  \"\": x\n  list: [0o8x, 1, .nan]\n",
        "shop/db: {}\nshop/db: {}",
    ]
    .map(|values| refused(CLASS, values))
    .to_vec();
    insta::assert_snapshot!(said.join("--\n"), @"
    1
    error: values.yaml:1:4: not valid YAML: unclosed bracket '[' (look there and just above for an open bracket or quote, a tab, uneven indentation, or a value that needs quotes)
    --
    1
    error: values.yaml:1:1: is a list, but must be a mapping (write a line `key: value` for each key)
    --
    1
    error: values.yaml:1:10: shop/db: is a list, but must be a mapping of fields, or a text (write the value under its field's name)
    --
    1
    error: values.yaml:2:13: shop/db.password: is a number that JSON does not have (put it in quotes for the text)
    error: values.yaml:3:3: shop/db.: a field name has 1 to 253 bytes and no control character
    error: values.yaml:4:9: shop/db.list: is a number that JSON does not have (put it in quotes for the text)
    --
    1
    error: values.yaml:2:1: shop/db: given twice in one mapping (remove one)
    ");
}

/// As in a store that keeps texts: the members of a JSON object are its fields, and the peer's classes deliver the text.
#[test]
fn a_text_is_the_stored_text() {
    let class = "
apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: { name: shop, namespace: shop }
spec:
  provider: aws
  parameters:
    objects: |
      - objectName: /shop/db
        objectType: secretsmanager
        objectAlias: db.json
        jmesPath: [{ path: user.name, objectAlias: username }]
";
    let name = "secretsmanager/~/shop/db";
    let (code, out, errors) = render(class, &format!("{name}: '{{\"user\": {{\"name\":  \"app\"}}}}'"), &["-o", "json"]);
    assert_eq!(code, 0, "{errors}");
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(document["files"][0]["text"], "{\"user\": {\"name\":  \"app\"}}");
    assert_eq!(document["files"][1]["text"], "app");
    insta::assert_snapshot!(refused(class, &format!("{name}: {{ user: app }}")), @r#"
    1
    error: values.yaml: secretsmanager/~/shop/db: has fields, and the class delivers the whole text that the store has (write the text: `secretsmanager/~/shop/db: '{"FIELD": "VALUE"}'`)
    "#);
    insta::assert_snapshot!(refused(class, ""), @"
    1
    error: values.yaml: secretsmanager/~/shop/db: has no values (add `secretsmanager/~/shop/db: 'TEXT'`, or `secretsmanager/~/shop/db: null` for a secret that is absent)
    ");
    let (_, out, errors) =
        render(CLASS, "shop/db: '{\"username\": \"app\", \"password\": \"x\"}'\nshop/mail: null\nshop/token: null", &["-o", "json"]);
    assert!(out.contains("app"), "{errors}");
}

/// What other programs write as JSON is not always YAML.
#[test]
fn json_of_other_programs_is_read() {
    let (code, out, errors) =
        render(CLASS, r#"{"shop/db": {"username": "\ud83d\udd11 \/", "n": 1.50}, "shop/mail": null}"#, &["-o", "json"]);
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &document["files"][1]["text"]), (0, &"{\"n\":1.50,\"username\":\"\u{1f511} /\"}".into()), "{errors}");
}

#[test]
fn a_class_with_faults_has_their_places() {
    let template = CLASS.replace("| toml }}\n          {% if", "| tmol }}\n          {% if");
    let second = CLASS.replace("{% if mail is not none %}", "{% if mail is not none %");
    let unknown = CLASS.replace("format: json", "fromat: json");
    let undefined = CLASS.replace("db.username", "db.usrname");
    let said: Vec<String> =
        [template.as_str(), &second, &unknown, &undefined, "kind: Pod", "a: ["].map(|class| refused(class, VALUES)).to_vec();
    insta::assert_snapshot!(said.join("--\n"), @r#"
1
error: class.yaml:10:11: object 1 (app.toml): template: line 1: there is no filter "tmol" (did you mean `toml`?)
--
1
error: class.yaml:11:11: object 1 (app.toml): template: line 2: templates have no `%`: they do not compute (join texts with `~`, or store the result)
--
1
error: class.yaml:14:42: object 2 (db.json): fromat: is not a known key (did you mean `format`?)
--
1
error: SecretNotFound: object 1 (app.toml): shop/db: template: line 1: "db.usrname" is not there (correct the name, or write `| default('')`)
--
1
error: class.yaml:1:1: no SecretProviderClass is in here (kinds found: Pod)
--
1
error: class.yaml:1:4: not valid YAML: unclosed bracket '[' (look there and just above for an open bracket or quote, a tab, uneven indentation, or a value that needs quotes)
"#);
}

/// `check` shows the template's own line, in each way that a class may write it.
#[test]
fn check_points_at_a_templates_line() {
    let house = House::bare();
    let head = "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: { name: shop }\nspec:\n  provider: keyferry\n  parameters:\n    objects: |\n";
    let rest = "        secrets: { db: shop/db }\n        path: a.env\n";
    let mut said = String::new();
    for template in [
        "      - template: |\n          a\n          b\n          {{ db.x | nofilter }}\n",
        "      - path: b\n        secret: x\n      - template: |-\n\n          a\n          {{ db.x\n",
        "      - template: \"{{ db.x | nofilter }}\"\n",
        "      - template: \"a\\n{{ db.x | nofilter }}\"\n",
        "      - template: >\n          a\n\n          {{ db.x | nofilter }}\n",
        "      - template: |\n          A=1\n          B={{ db.x }}\n",
    ] {
        let file = house.path("class.yaml");
        fs::write(&file, format!("{head}{template}{rest}")).unwrap();
        let (_, out, errors) = run(keyferry().arg("check").arg(&file), "");
        said.push_str(out.lines().next().unwrap());
        said.push_str(&errors);
        said.push('\n');
    }
    insta::assert_snapshot!(said.replace(house.folder.path().to_str().unwrap(), "@"), @r#"
    @/class.yaml:11:11: error: class shop: object 1 (a.env): template: line 3: there is no filter "nofilter" (there are: b64decode, b64encode, default, dotenv, first, fromjson, hex, indent, jmespath, join, json, last, length, lower, pem_chain, pem_key, pem_leaf, properties, quote, replace, sha256, shellquote, split, squote, toml, trim, upper, urlencode, yaml)
    @/class.yaml:13:11: error: class shop: object 2 (a.env): template: line 3: a tag `{{` is not closed with `}}`
    @/class.yaml:8:20: error: class shop: object 1 (a.env): template: line 1: there is no filter "nofilter" (there are: b64decode, b64encode, default, dotenv, first, fromjson, hex, indent, jmespath, join, json, last, length, lower, pem_chain, pem_key, pem_leaf, properties, quote, replace, sha256, shellquote, split, squote, toml, trim, upper, urlencode, yaml)
    @/class.yaml:8:19: error: class shop: object 1 (a.env): template: line 2: there is no filter "nofilter" (there are: b64decode, b64encode, default, dotenv, first, fromjson, hex, indent, jmespath, join, json, last, length, lower, pem_chain, pem_key, pem_leaf, properties, quote, replace, sha256, shellquote, split, squote, toml, trim, upper, urlencode, yaml)
    @/class.yaml:9:11: error: class shop: object 1 (a.env): template: line 2: there is no filter "nofilter" (there are: b64decode, b64encode, default, dotenv, first, fromjson, hex, indent, jmespath, join, json, last, length, lower, pem_chain, pem_key, pem_leaf, properties, quote, replace, sha256, shellquote, split, squote, toml, trim, upper, urlencode, yaml)
    @/class.yaml:10:11: warning: class shop: object 1 (a.env): template: line 2 writes a value without a filter, so the author of the secret could add more than a value to "a.env" (add a filter: `json`, `yaml`, `toml`, `properties`, `dotenv`, `quote` or `shellquote`) [template-unquoted]
    "#);
}

#[test]
fn only_one_of_both_is_the_standard_input() {
    let (code, _, errors) = run(keyferry().args(["render", "-f", "-", "--values", "-"]), "");
    assert_eq!((code, errors.as_str()), (2, "error: the standard input can be read only once (write `-` once)\n"));
    let house = House::bare();
    fs::write(house.path("class.yaml"), CLASS).unwrap();
    let mut command = keyferry();
    command.args(["render", "--values", "-", "-q", "-f"]).arg(house.path("class.yaml"));
    assert_eq!(run(&mut command, VALUES), (0, String::new(), String::new()));
    let (code, _, errors) = run(keyferry().args(["render", "-f", "/no/class", "--values", "/no/values"]), "");
    assert_eq!((code, errors.as_str()), (2, "error: /no/class: cannot be read: No such file or directory (os error 2)\n"));
}

/// A class that names no backend has no backend in its messages, also where a message names two secrets.
#[test]
fn messages_name_secrets_as_the_class_does() {
    let class = |objects: &str| {
        let head = "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: { name: shop }\n";
        format!("{head}spec: {{ provider: keyferry, parameters: {{ objects: '{objects}' }} }}\n")
    };
    let values = "shop/db: { user: a }\nshop/api: { user: b }\n";
    let merged = class("[{ path: f, format: json, secrets: [shop/db, { secret: shop/api, backend: bao }] }]");
    insta::assert_snapshot!(refused(&merged, values), @r#"
    1
    error: InvalidRequest: object 1 (f): bao/shop/api: its field "user" is a field of shop/db, too (name the fields of each with `fields`, or make a separate file for each secret)
    "#);
    let merged = class("[{ path: f, format: json, secrets: [{ secret: shop/api, backend: bao }, shop/db] }]");
    insta::assert_snapshot!(refused(&merged, values), @r#"
    1
    error: InvalidRequest: object 1 (f): shop/db: its field "user" is a field of bao/shop/api, too (name the fields of each with `fields`, or make a separate file for each secret)
    "#);
}
