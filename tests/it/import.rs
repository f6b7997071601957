//! `keyferry vault import` with the real binary: the names of secrets, what is not a value, and what Windows makes of a file.

use std::fs;

use crate::support::{House, keyferry, run};

struct Bench(House);

/// Exit code, output and messages.
type Done = (i32, String, String);

impl Bench {
    fn new() -> Self {
        let house = House::bare();
        house.vault(&["init"]);
        Self(house)
    }

    fn write(&self, file: &str, content: impl AsRef<[u8]>) {
        let path = self.0.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// `DIR` in the arguments is the test's folder, and the output has `DIR` for it again.
    fn vault(&self, words: &[&str], input: &str) -> Done {
        let folder = self.0.folder.path().to_str().unwrap();
        let mut command = keyferry();
        command.arg("vault").args(words.iter().map(|word| word.replace("DIR", folder)));
        command.env("KEYFERRY_VAULT", self.0.path("vault")).env("KEYFERRY_IDENTITY", self.0.path("age.key"));
        let (code, out, err) = run(&mut command, input);
        assert!(!out.contains("hunter2") && !err.contains("hunter2"), "{out}{err}");
        (code, out.replace(folder, "DIR"), err.replace(folder, "DIR"))
    }

    fn import(&self, words: &[&str], input: &str) -> Done {
        self.vault(&[&["import", "--on-conflict", "replace"], words].concat(), input)
    }

    /// What it says of one file alone, with the exit code.
    fn refusal(&self, file: &str, content: impl AsRef<[u8]>) -> String {
        self.write(file, content);
        let (code, out, err) = self.import(&["--namespace", "shop", &format!("DIR/{file}")], "");
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        err.trim_end().to_owned()
    }

    fn value(&self, name: &str, field: &str) -> String {
        let done = self.vault(&["get", name, "--field", field], "");
        assert_eq!(done.0, 0, "{}", done.2);
        done.1
    }
}

fn utf16(text: &str) -> Vec<u8> {
    std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
}

fn secret(body: &str) -> String {
    format!("apiVersion: v1\nkind: Secret\nmetadata: {{ name: db, namespace: shop }}\n{body}\n")
}

#[test]
fn a_dotenv_file_is_the_secret_that_it_is_called_after() {
    let bench = Bench::new();
    for file in ["db.env", "shop/.env", "shop/.env.production", "shop/cache.env.local", "shop/README.md", ".env"] {
        bench.write(&format!("app/{file}"), "A=1\n");
    }
    let (code, out, err) = bench.import(&["DIR/app"], "");
    assert_eq!(code, 0, "{err}");
    insta::assert_snapshot!(out, @r"
    app: revision 1, 1 field
    db: revision 1, 1 field
    shop: revision 1, 1 field
    shop/cache/local: revision 1, 1 field
    shop/production: revision 1, 1 field
    5 secrets set, 0 skipped
    ");
    insta::assert_snapshot!(err, @"warning: DIR/app: not read: 1 file (name them, or give --format; without it a folder's dotenv files are read)");
    assert_eq!(bench.import(&["DIR/app/shop/.env"], "").1, "shop: revision 2, 1 field\n1 secret set, 0 skipped\n");
    assert_eq!(bench.import(&["--name", "a/{name}", "DIR/app/db.env"], "").1, "a/db: revision 1, 1 field\n1 secret set, 0 skipped\n");
    let named = ["--format", "dotenv", "--name", "shop/stdin", "-"];
    assert_eq!(bench.import(&named, "A=1").1, "shop/stdin: revision 1, 1 field\n1 secret set, 0 skipped\n");
    insta::assert_snapshot!(bench.import(&["--format", "dotenv", "-"], "A=1").2, @"error: <stdin>: has no name for the secret (give --name)");
    insta::assert_snapshot!(bench.import(&["--format", "dotenv", "--name", "{namespace}/db", "-"], "A=1").2, @"error: <stdin>: has no namespace (give --namespace, or a --name without {namespace})");
    insta::assert_snapshot!(bench.import(&["-"], "A=1").2, @"
    error: there is no secret in the input (give an export, Kubernetes Secrets or dotenv; dotenv from standard input, or from a file with another name, needs --format dotenv)
    note: <stdin>: not imported: 1 document without a kind (only Secrets of apiVersion v1 are)
    ");
}

#[test]
fn an_option_without_effect_is_a_fault() {
    let bench = Bench::new();
    bench.write("db.env", "A=1\n");
    bench.write("db.json", r#"{"format":"keyferry-export-1","secrets":{"db":{"a":{"text":"x"}}}}"#);
    bench.write("db.yaml", secret("stringData: { a: x }"));
    let usage = |words: &[&str]| {
        let (code, out, err) = bench.import(words, "");
        assert_eq!((code, out.as_str()), (2, ""), "{err}");
        err.lines().next().unwrap_or_default().to_owned()
    };
    insta::assert_snapshot!(usage(&["--name", "x", "DIR/db.json"]), @"error: --name has no effect: an export has its secrets' names (remove it)");
    insta::assert_snapshot!(usage(&["--namespace", "x", "DIR/db.env"]), @"error: --namespace has no effect: no Secret without a namespace was read (remove it)");
    insta::assert_snapshot!(usage(&["--namespace", "x", "DIR/db.yaml"]), @"error: --namespace has no effect: no Secret without a namespace was read (remove it)");
    insta::assert_snapshot!(usage(&["--name", "{nmae}", "DIR/db.env"]), @"error: invalid value '{nmae}' for '--name <TEMPLATE>': has braces around something else (write {namespace} or {name})");
    assert_eq!(bench.vault(&["list"], "").1, "", "nothing was set");
}

#[test]
fn where_kubectl_reads_another_value_a_warning_says_so() {
    let bench = Bench::new();
    bench.write("db.env", "A=abc #hunter2\nB=#hunter2\nC='hunter2'\r\nD=\"hunter2\"\nE=hunter2 \nF=plain\n");
    let (code, _, err) = bench.import(&["DIR/db.env"], "");
    assert_eq!(code, 0);
    insta::assert_snapshot!(err, @r"
    warning: DIR/db.env: line 5 (E): read as node's dotenv does; `kubectl create secret --from-env-file` keeps the blanks around the value
    warning: DIR/db.env: line 1 (A), line 2 (B): read as node's dotenv does; `kubectl create secret --from-env-file` keeps `#` and what follows (if that belongs to the value, put the value in quotes)
    warning: DIR/db.env: line 3 (C), line 4 (D): read as node's dotenv does; `kubectl create secret --from-env-file` keeps the quotes
    ");
    assert_eq!((bench.value("db", "A").as_str(), bench.value("db", "B").as_str()), ("abc", ""));
}

#[test]
fn a_file_from_windows_is_read() {
    let bench = Bench::new();
    bench.write("db.env", "\u{feff}A='one\r\ntwo'\r\nB=\"x\\ny\"\r\n");
    assert_eq!(bench.import(&["DIR/db.env"], "").0, 0);
    assert_eq!((bench.value("db", "A").as_str(), bench.value("db", "B").as_str()), ("one\ntwo", "x\ny"));

    let text = secret("stringData:\n  a: caf\u{e9}\n  b: |\n    one\n    two\n").replace('\n', "\r\n");
    for (file, content) in [("le.yaml", utf16(&text)), ("mark.yaml", format!("\u{feff}{text}").into_bytes())] {
        bench.write(file, content);
        assert_eq!(bench.import(&[&format!("DIR/{file}")], "").0, 0, "{file}");
        assert_eq!((bench.value("shop/db", "a").as_str(), bench.value("shop/db", "b").as_str()), ("caf\u{e9}", "one\ntwo\n"));
    }
    let json = r#"{"format":"keyferry-export-1","secrets":{"db":{"a":{"text":"\ufeffx\r\n"}}}}"#;
    bench.write("mark.json", format!("\u{feff}{json}"));
    assert_eq!(bench.import(&["DIR/mark.json"], "").0, 0);
    assert_eq!(bench.value("db", "a"), "\u{feff}x\r\n", "texts in JSON stay as they are");

    insta::assert_snapshot!(bench.refusal("utf16.env", utf16("A=hunter2")), @"error: DIR/utf16.env: is UTF-16, as PowerShell writes it (save it as UTF-8)");
    insta::assert_snapshot!(bench.refusal("utf16.json", utf16(json)), @"error: DIR/utf16.json: is UTF-16, as PowerShell writes it (save it as UTF-8)");
    insta::assert_snapshot!(bench.refusal("latin1.env", b"A=1\nB=caf\xe9hunter2"), @"error: DIR/latin1.env: is not UTF-8 text: line 2 has other bytes (save it as UTF-8)");
    insta::assert_snapshot!(bench.refusal("latin1.yaml", b"a: caf\xe9hunter2"), @"error: DIR/latin1.yaml: is not UTF-8 text: line 1 has other bytes (save it as UTF-8)");

    let value = [b"\xef\xbb\xbf".as_slice(), &utf16("x"), b"\r\n"].concat();
    bench.write("value", &value);
    assert_eq!(bench.vault(&["set", "raw", "f=@DIR/value"], "").0, 0);
    let read = keyferry()
        .args(["vault", "get", "raw", "--field", "f"])
        .env("KEYFERRY_VAULT", bench.0.path("vault"))
        .env("KEYFERRY_IDENTITY", bench.0.path("age.key"))
        .output()
        .unwrap();
    assert_eq!(read.stdout, value, "a value stays bytes");
}

#[test]
fn what_is_encrypted_as_a_document_names_the_program_to_run_first() {
    let bench = Bench::new();
    let sops = "sops: { mac: 'ENC[AES256_GCM,data:x,type:str]', version: 3.9.0 }";
    let encrypted = "ENC[AES256_GCM,data:hunter2,iv:x,tag:y,type:str]";
    insta::assert_snapshot!(bench.refusal("sops.yaml", secret(&format!("stringData: {{ a: '{encrypted}' }}\n{sops}"))), @"error: DIR/sops.yaml:1: is encrypted by SOPS (run `sops decrypt` first)");
    insta::assert_snapshot!(bench.refusal("sops.json", format!(r#"{{"apiVersion":"v1","kind":"Secret","metadata":{{"name":"x"}},"data":{{"a":"{encrypted}"}},"sops":{{"mac":"x"}}}}"#)), @"error: DIR/sops.json:1: is encrypted by SOPS (run `sops decrypt` first)");
    insta::assert_snapshot!(bench.refusal("sops-export.json", format!(r#"{{"format":"{encrypted}","secrets":{{}},"sops":{{"mac":"x"}}}}"#)), @"error: DIR/sops-export.json:1: is encrypted by SOPS (run `sops decrypt` first)");
    let list =
        format!("apiVersion: v1\nkind: List\nitems:\n- {}\n{sops}\n", secret("stringData: { a: x }").trim_end().replace('\n', "\n  "));
    insta::assert_snapshot!(bench.refusal("sops-list.yaml", list), @"error: DIR/sops-list.yaml:1: is encrypted by SOPS (run `sops decrypt` first)");
    insta::assert_snapshot!(bench.refusal("sops.env", format!("A={encrypted}\nsops_mac={encrypted}\nsops_version=3.9.0\n")), @"error: DIR/sops.env: is encrypted by SOPS (run `sops decrypt` first)");
    insta::assert_snapshot!(bench.refusal(".env.vault", "DOTENV_VAULT_PRODUCTION=\"hunter2\"\n"), @"error: DIR/.env.vault: is encrypted by dotenv-vault (run `npx dotenv-vault decrypt` first)");
    insta::assert_snapshot!(bench.refusal("ansible.yml", "$ANSIBLE_VAULT;1.1;AES256\n6638\n"), @"error: DIR/ansible.yml: is encrypted by Ansible Vault (run `ansible-vault decrypt` first)");
    insta::assert_snapshot!(bench.refusal("db.env.age", "age-encryption.org/v1\n-> X25519 x\n"), @"error: DIR/db.env.age: is encrypted by age (run `age --decrypt` first)");
    let sealed = "apiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\nmetadata: { name: db, namespace: shop }\nspec: { encryptedData: { a: hunter2 } }\n";
    insta::assert_snapshot!(bench.refusal("sealed.yaml", sealed), @"error: DIR/sealed.yaml:1: the SealedSecret db has no values (import the Secret that the cluster makes from it: kubectl get secret -n shop db -o yaml)");
    let external = "apiVersion: external-secrets.io/v1\nkind: ExternalSecret\nmetadata: { name: db }\nspec: { target: { name: app } }\n";
    insta::assert_snapshot!(bench.refusal("external.yaml", format!("{external}---\n{}", secret("data: { a: eA== }"))), @"error: DIR/external.yaml:1: the ExternalSecret db has no values (import the Secret that the cluster makes from it: kubectl get secret db -o yaml)");
    let as_is = bench.import(&["--as-is", "DIR/sops.env"], "");
    assert_eq!(as_is.0, 1, "a document has nothing to import");
}

#[test]
fn what_is_not_a_value_is_a_fault_unless_it_is_taken_as_it_is() {
    let bench = Bench::new();
    let references = "A=vault:kv/data/db#hunter2\nB='{{ .Values.hunter2 }}'\nC=op://hunter2/db/password\nD=plain\n";
    insta::assert_snapshot!(bench.refusal("db.env", references), @"
    error: DIR/db.env: line 1: A: is a reference to a field in Vault, not a value (write the value that `vault kv get -field=KEY PATH` prints; --as-is takes the text itself)
    error: DIR/db.env: line 2: B: is a template, not a value (first run the program that fills it in, such as `helm template`; --as-is takes the text itself)
    error: DIR/db.env: line 3: C: is a reference of 1Password, not a value (run `op inject` first; --as-is takes the text itself)
    ");
    let manifest = secret(
        "data: { b64: 'ENC[AES256_GCM,data:hunter2]', a: UkVG }\nstringData: { b: 'ref+vault://kv/db#/hunter2', c: \"$ANSIBLE_VAULT;1.1;AES256\\nhunter2\" }",
    );
    insta::assert_snapshot!(bench.refusal("db.yaml", manifest), @"error: DIR/db.yaml:1: the Secret db: data.b64: is encrypted by SOPS, not a value (run `sops decrypt` first; --as-is takes the text itself)");
    bench.write("db.json", r#"{"format":"keyferry-export-1","secrets":{"db":{"a":{"text":"ENC[AES256_GCM,data:hunter2]"}}}}"#);
    insta::assert_snapshot!(bench.import(&["DIR/db.json"], "").2, @"error: DIR/db.json: db: a: is encrypted by SOPS, not a value (run `sops decrypt` first; --as-is takes the text itself)");
    assert_eq!(bench.vault(&["list"], "").1, "", "nothing was set");
    assert_eq!(bench.import(&["--as-is", "DIR/db.env"], "").1, "db: revision 1, 4 fields\n1 secret set, 0 skipped\n");
    assert_eq!(bench.vault(&["get", "db", "--field", "D"], "").1, "plain");
}

#[test]
fn what_may_be_meant_is_a_warning() {
    let bench = Bench::new();
    let key = fs::read_to_string(bench.0.path("age.key")).unwrap();
    bench.write("keys.env", format!("KEY='{key}'\nFILE=age-encryption.org/v1\nVARIABLE=${{DB_PASSWORD}}\n"));
    let (code, _, err) = bench.import(&["DIR/keys.env"], "");
    assert_eq!(code, 0);
    insta::assert_snapshot!(err, @r"
    warning: DIR/keys.env: line 1 (KEY): read as node's dotenv does; `kubectl create secret --from-env-file` keeps the quotes
    warning: DIR/keys.env: line 1: KEY: is an age identity, and is taken as it is (Pods need what it decrypts, and seldom the identity)
    warning: DIR/keys.env: line 5: FILE: is encrypted by age, and is taken as it is (run `age --decrypt` first)
    warning: DIR/keys.env: line 6: VARIABLE: is a reference to a variable, and is taken as it is (write its value)
    ");
    let (code, _, err) = bench.vault(&["set", "db", "key=@DIR/age.key", "plain=x"], "");
    assert_eq!(code, 0);
    insta::assert_snapshot!(err, @r"
    warning: key: is an age identity, and is taken as it is (Pods need what it decrypts, and seldom the identity)
    warning: other users of this machine can see the value of plain, because it is on the command line (for secrets use plain=@FILE or plain=-)
    ");
}

#[test]
fn types_are_kept_and_lists_of_every_form_are_read() {
    let bench = Bench::new();
    let list = r#"{"kind":"SecretList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[
        {"metadata":{"name":"tls","namespace":"shop"},"data":{"tls.crt":"eA==","tls.key":"eQ=="},"type":"kubernetes.io/tls"},
        {"metadata":{"name":"db","namespace":"shop"},"data":{"a":"eA=="},"type":"Opaque"},
        {"metadata":{"name":"own","namespace":"shop"},"data":{"a":"eA=="},"type":"example.com/\"own\""}]}"#;
    let (code, out, err) = bench.import(&["-"], list);
    assert_eq!((code, err.as_str()), (0, ""));
    insta::assert_snapshot!(out, @r"
    shop/db: revision 1, 1 field
    shop/own: revision 1, 1 field
    shop/tls: revision 1, 2 fields
    3 secrets set, 0 skipped
    ");
    let shown = bench.vault(&["get", "shop/tls"], "").1;
    assert!(shown.lines().next().unwrap().ends_with(", type kubernetes.io/tls"), "{shown}");
    let written = bench.vault(&["export", "--format", "kubernetes"], "").1;
    insta::assert_snapshot!(written, @r#"
    ---
    apiVersion: v1
    kind: Secret
    metadata:
      name: "db"
      namespace: "shop"
    type: Opaque
    data:
      "a": "eA=="
    ---
    apiVersion: v1
    kind: Secret
    metadata:
      name: "own"
      namespace: "shop"
    type: "example.com/\"own\""
    data:
      "a": "eA=="
    ---
    apiVersion: v1
    kind: Secret
    metadata:
      name: "tls"
      namespace: "shop"
    type: "kubernetes.io/tls"
    data:
      "tls.crt": "eA=="
      "tls.key": "eQ=="
    "#);

    let export = bench.vault(&["export"], "").1;
    for (format, text) in [("kubernetes", &written), ("json", &export)] {
        let other = Bench::new();
        assert_eq!(other.import(&["--format", format, "-"], text).0, 0);
        assert_eq!(other.vault(&["export"], "").1, export, "{format}");
    }
    // Encrypted for other recipients, it is the same.
    assert_eq!(bench.vault(&["rekey"], "").0, 0);
    assert_eq!(bench.vault(&["export"], "").1, export);
}

#[test]
fn kinds_that_are_not_imported_are_named() {
    let bench = Bench::new();
    let others = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: a }\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: { name: b }\n---\napiVersion: apps/v1\nkind: Deployment\n---\nreplicas: 1\n---\n---\napiVersion: v2\nkind: Secret\n";
    let (code, out, err) = bench.import(&["-"], &format!("{others}---\n{}", secret("data: { a: eA== }")));
    assert_eq!((code, out.as_str()), (0, "shop/db: revision 1, 1 field\n1 secret set, 0 skipped\n"));
    insta::assert_snapshot!(err, @r#"warning: <stdin>: not imported: 2 ConfigMap, 1 Deployment, 1 Secret of apiVersion "v2", 1 document without a kind (only Secrets of apiVersion v1 are)"#);
    insta::assert_snapshot!(bench.import(&["-"], others).2, @r#"
    error: there is no secret in the input (give an export, Kubernetes Secrets or dotenv; dotenv from standard input, or from a file with another name, needs --format dotenv)
    note: <stdin>: not imported: 2 ConfigMap, 1 Deployment, 1 Secret of apiVersion "v2", 1 document without a kind (only Secrets of apiVersion v1 are)
    "#);
}

#[test]
fn an_export_of_nothing_is_a_fault() {
    let bench = Bench::new();
    bench.vault(&["set", "shop/db", "a=x"], "");
    let (code, out, err) = bench.vault(&["export", "shpo/"], "");
    assert_eq!((code, out.as_str()), (1, ""));
    insta::assert_snapshot!(err, @"error: shpo/: no secret has a name that starts with this (`keyferry vault list` shows them)");
}

#[test]
fn what_was_exported_to_a_folder_is_imported_from_it() {
    let bench = Bench::new();
    bench.vault(&["set", "shop/db", "a=x"], "");
    for (format, files) in [("json", "shop/db.json"), ("kubernetes", "shop/db.yaml"), ("dotenv", "shop/db.env")] {
        let folder = format!("DIR/{format}");
        assert_eq!(bench.vault(&["export", "--format", format, "--to", &folder], "").0, 0);
        assert!(bench.0.path(&format!("{format}/{files}")).exists());
        let (code, out, err) = bench.import(&["--format", format, "--dry-run", &folder], "");
        assert_eq!(
            (code, out.as_str(), err.as_str()),
            (0, "shop/db: would be replaced, 1 field (a)\n1 secret would be set, 0 skipped\n", "")
        );
    }
}
