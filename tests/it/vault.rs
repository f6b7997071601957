//! `keyferry vault rekey|export|import` by the real binary: secrets go out and come back whole, and every file opens with age itself.

use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::support::{House, apart, files_below, keyferry, run};

/// A vault with text, odd text, binary, and a history.
fn house() -> House {
    let house = House::bare();
    house.vault(&["init"]);
    fs::write(house.path("binary"), [0xff, 0, 1, 0xfe]).unwrap();
    house.vault(&["set", "shop/db", "username=app", "password=one"]);
    house.vault(&["set", "shop/db", "username=app", "password=correct 'horse' \"$x\" \\\nline two"]);
    house.vault(&["set", "shop/tls", "tls.crt=c", &format!("key.bin=@{}", house.path("binary").display())]);
    house.vault(&["set", "shop/removed", "a=b"]);
    house.vault(&["remove", "shop/removed"]);
    house
}

fn vault(house: &House, folder: &str, arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut command = keyferry();
    command.arg("vault").args(arguments).env("KEYFERRY_VAULT", house.path(folder)).env("KEYFERRY_IDENTITY", house.path("age.key"));
    let (code, out, err) = run(&mut command, input);
    let shown = |text: String| text.replace(house.folder.path().to_str().unwrap(), "DIR");
    (code, shown(out), shown(err))
}

fn identity(house: &House, name: &str) -> String {
    let (_, out, _) = vault(house, &format!("other-{name}"), &["init", "--identity", house.path(name).to_str().unwrap()], "");
    out.split_whitespace().find(|word| word.starts_with("age1")).unwrap().to_owned()
}

/// What the age command line tool makes of a file.
fn age(key: &Path, file: &Path) -> Option<String> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/age/usr/bin/age");
    let age = if tools.exists() { tools } else { PathBuf::from("age") };
    let output =
        apart(age).arg("-d").arg("-i").arg(key).arg(file).output().expect("age is missing: run `make tools`, or `apt-get install age`");
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

#[test]
fn rekeyed_files_open_with_age_for_those_on_the_list_and_nobody_else() {
    let house = house();
    let new = identity(&house, "new.key");
    let old =
        fs::read_to_string(house.path("vault/.recipients")).unwrap().lines().find(|line| line.starts_with("age1")).unwrap().to_owned();
    let files = files_below(&house.path("vault"), "age");
    let before: Vec<_> = files.iter().map(|file| age(&house.path("age.key"), file).unwrap()).collect();
    assert_eq!(files.len(), 3);

    let (code, out, err) = vault(&house, "vault", &["rekey", "--add", &new, "--remove", &old], "");
    assert_eq!((code, err.as_str()), (0, ""));
    insta::assert_snapshot!(out, @r#"
    recipients: 1 added, 1 removed
    encrypted again: 2 secrets and 1 earlier revision, for 1 recipient
    "#);
    assert_eq!(files_below(&house.path("vault"), "age"), files);
    for (file, before) in files.iter().zip(before) {
        assert_eq!(age(&house.path("new.key"), file), Some(before), "the same text, revision and time");
        assert_eq!(age(&house.path("age.key"), file), None);
    }
    assert!(!fs::read_to_string(house.path("vault/.recipients")).unwrap().contains(&old));

    let (code, _, err) = vault(&house, "vault", &["rekey"], "");
    assert_eq!(code, 1);
    insta::assert_snapshot!(err, @"
    error: DIR/vault/.history/shop/db/1.age is encrypted for other recipients
    error: DIR/vault/shop/db.age is encrypted for other recipients
    error: DIR/vault/shop/tls.age is encrypted for other recipients
    note: nothing was changed: every file must open first (give each identity that is needed, or leave these files as they are: --skip-unreadable)
    ");
    // As after a run that was cut short: a part is still encrypted for the old recipient.
    let both = house.path("new.key");
    fs::write(house.path("vault/shop/x.age"), fs::read(&files[0]).unwrap()).unwrap();
    let (code, _, err) = vault(&house, "vault", &["rekey", "--identity", both.to_str().unwrap()], "");
    assert_eq!(code, 1);
    insta::assert_snapshot!(err, @"
    error: DIR/vault/shop/x.age was encrypted as another secret or revision
    note: nothing was changed: every file must open first (give each identity that is needed, or leave these files as they are: --skip-unreadable)
    ");
    fs::remove_file(house.path("vault/shop/x.age")).unwrap();
    let set = vault(&house, "vault", &["set", "shop/db", "username=app", "--replace"], "");
    assert_eq!(set.1, "shop/db: revision 3, 1 field, encrypted for 1 recipient\n", "the count goes on");
}

#[test]
fn a_run_that_was_cut_short_is_finished_by_another() {
    let house = house();
    let new = identity(&house, "new.key");
    let files = files_below(&house.path("vault"), "age");
    let untouched = fs::read(files.last().unwrap()).unwrap();
    let old =
        fs::read_to_string(house.path("vault/.recipients")).unwrap().lines().find(|line| line.starts_with("age1")).unwrap().to_owned();
    assert_eq!(vault(&house, "vault", &["rekey", "--add", &new, "--remove", &old], "").0, 0);
    fs::write(files.last().unwrap(), untouched).unwrap();

    let (age_key, new_key) = (house.path("age.key"), house.path("new.key"));
    let keys = ["--identity", age_key.to_str().unwrap(), "--identity", new_key.to_str().unwrap()];
    let (code, out, err) = vault(&house, "vault", &[&["rekey"], &keys[..]].concat(), "");
    assert_eq!((code, err.as_str()), (0, ""));
    insta::assert_snapshot!(out, @r#"
    encrypted again: 2 secrets and 1 earlier revision, for 1 recipient
    "#);
    assert!(files.iter().all(|file| age(&new_key, file).is_some()));
}

/// Runs the command until the folders have seen this many steps of writing, and then kills it. `None`: it took fewer, and ended by itself.
fn killed_after(steps: usize, command: &mut Command, folders: &[PathBuf]) -> Option<ExitStatus> {
    let watch = inotify::init(CreateFlags::NONBLOCK).unwrap();
    let written = WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::DELETE;
    for folder in folders {
        inotify::add_watch(&watch, folder, written).unwrap();
    }
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut seen = 0;
    while seen < steps {
        if events.next().is_ok() {
            seen += 1;
        } else if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return None;
        } else {
            std::thread::yield_now();
        }
    }
    child.kill().unwrap();
    Some(child.wait().unwrap())
}

#[test]
fn a_rekey_killed_at_any_step_loses_nothing_and_another_finishes_it() {
    let house = house();
    let new = identity(&house, "new.key");
    let old = house.recipient();
    let (old_key, new_key) = (house.path("age.key"), house.path("new.key"));
    let whole = files_below(&house.path("vault"), "age");
    let before: Vec<_> = whole.iter().map(|file| age(&old_key, file).unwrap()).collect();
    let both = ["--identity", old_key.to_str().unwrap(), "--identity", new_key.to_str().unwrap()];

    let mut killed = 0;
    for steps in 1.. {
        let place = house.path(&format!("vault-{steps}"));
        assert!(apart("cp").arg("-a").arg(house.path("vault")).arg(&place).status().unwrap().success());
        // As a run that was cut short leaves it: its events are to be seen from the first on.
        fs::create_dir(place.join(".history/.unfinished")).unwrap();
        let folders =
            ["", "shop", ".history", ".history/shop", ".history/shop/db", ".history/.unfinished"].map(|folder| place.join(folder));
        let mut rekey = keyferry();
        rekey.args(["vault", "rekey", "--add", &new, "--remove", &old]);
        rekey.env("KEYFERRY_VAULT", &place).env("KEYFERRY_IDENTITY", &old_key);
        let Some(status) = killed_after(steps, &mut rekey, &folders) else { break };
        // The last step leaves so little to do that the end may come first.
        killed += usize::from(status.signal() == Some(9));

        // With both identities every secret is there as it was, its history too, and nothing else.
        let files = files_below(&place, "age");
        assert_eq!(files.len(), whole.len(), "killed after {steps} steps");
        let opened_by = |key: &Path| files.iter().filter(|file| age(key, file).is_some()).count();
        let (by_old, by_new) = (opened_by(&old_key), opened_by(&new_key));
        assert_eq!(by_old + by_new, files.len(), "killed after {steps} steps");
        for (file, before) in files.iter().zip(&before) {
            assert_eq!(age(&old_key, file).or_else(|| age(&new_key, file)).as_ref(), Some(before), "killed after {steps} steps");
        }
        let name = format!("vault-{steps}");
        let (code, exported, err) = vault(&house, &name, &[&["export"], &both[..]].concat(), "");
        assert_eq!((code, exported, err.as_str()), (0, vault(&house, "vault", &["export"], "").1, ""));

        // The list is written last: with it all is done. Before that the same command finishes the work.
        if !fs::read_to_string(place.join(".recipients")).unwrap().contains(&old) {
            assert_eq!(by_new, files.len(), "killed after {steps} steps");
            continue;
        }
        let again = [&["rekey", "--add", &new, "--remove", &old], &both[..]].concat();
        let (code, out, err) = vault(&house, &name, &again, "");
        assert_eq!((code, err.as_str()), (0, ""), "killed after {steps} steps");
        assert!(out.ends_with("encrypted again: 2 secrets and 1 earlier revision, for 1 recipient\n"), "{out}");
        let after: Vec<_> = files.iter().map(|file| age(&new_key, file).unwrap()).collect();
        assert_eq!(after, before);
        assert!(files.iter().all(|file| age(&old_key, file).is_none()));
        let left =
            folders[..5].iter().flat_map(|folder| fs::read_dir(folder).unwrap()).any(|entry| entry.unwrap().file_name() == ".unfinished");
        assert!(!left, "killed after {steps} steps");
    }
    assert!(killed >= 10, "four files, of three steps and more each: {killed}");
    // Cut between two files: `store::file::tests::batches` ends the work at each step.
}

#[test]
fn the_last_recipient_stays() {
    let house = house();
    let old =
        fs::read_to_string(house.path("vault/.recipients")).unwrap().lines().find(|line| line.starts_with("age1")).unwrap().to_owned();
    let (code, _, err) = vault(&house, "vault", &["rekey", "--remove", &old], "");
    assert_eq!(code, 1);
    insta::assert_snapshot!(err, @"error: DIR/vault/.recipients: the last recipient cannot be removed, because nobody could open the secrets (add another one, with --add)");
    assert!(fs::read_to_string(house.path("vault/.recipients")).unwrap().contains(&old));
}

#[test]
fn json_and_kubernetes_round_trip_with_binary_values() {
    let house = house();
    for format in ["json", "kubernetes"] {
        let folder = format!("copy-{format}");
        let (code, exported, err) = vault(&house, "vault", &["export", "--format", format], "");
        assert_eq!((code, err.as_str()), (0, ""));
        assert_eq!(vault(&house, &folder, &["init"], "").0, 0);
        let (code, out, err) = vault(&house, &folder, &["import", "-"], &exported);
        assert_eq!(
            (code, out.as_str(), err.as_str()),
            (0, "shop/db: revision 1, 2 fields\nshop/tls: revision 1, 2 fields\n2 secrets set, 0 skipped\n", "")
        );
        assert_eq!(vault(&house, &folder, &["export"], "").1, vault(&house, "vault", &["export"], "").1);
    }
}

#[test]
fn dotenv_files_round_trip_and_are_for_their_owner_alone() {
    let house = house();
    house.vault(&["set", "shop/env", "username=app", "password=\"horse\" $x `id` \\ #\nline two", "quoted=it's", "b.c=", "--allow-empty"]);
    let to = house.path("env");
    let (code, out, err) = vault(&house, "vault", &["export", "shop/env", "--format", "dotenv", "--to", to.to_str().unwrap()], "");
    assert_eq!((code, out.as_str()), (0, "wrote 1 secret in the clear to DIR/env\n"));
    insta::assert_snapshot!(err, @"warning: shop/env: sh cannot read b.c from this file by `. FILE` (node's dotenv and python-dotenv can)");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&to), mode(&to.join("shop")), mode(&to.join("shop/env.env"))), (0o700, 0o700, 0o600));
    insta::assert_snapshot!(fs::read_to_string(to.join("shop/env.env")).unwrap(), @r#"
    b.c=
    password='"horse" $x `id` \ #
    line two'
    quoted="it's"
    username=app
    "#);

    vault(&house, "copy", &["init"], "");
    let (code, out, err) = vault(&house, "copy", &["import", to.to_str().unwrap()], "");
    assert_eq!((code, out.as_str()), (0, "shop/env: revision 1, 4 fields\n1 secret set, 0 skipped\n"));
    insta::assert_snapshot!(err, @"warning: DIR/env/shop/env.env: line 2 (password), line 4 (quoted): read as node's dotenv does; `kubectl create secret --from-env-file` keeps the quotes");
    assert_eq!(vault(&house, "copy", &["export"], "").1, vault(&house, "vault", &["export", "shop/env"], "").1);

    let again = vault(&house, "vault", &["export", "--format", "dotenv", "--to", to.to_str().unwrap()], "");
    insta::assert_snapshot!(again.2, @"
    error: shop/db: the field password has quotes, `$`, backticks or backslashes that sh, node's dotenv and python-dotenv do not read alike (use json)
    error: shop/tls: the field key.bin is not text (use json)
    ");
    assert!(again.1.is_empty());
    let again = vault(&house, "vault", &["export", "shop/env", "--format", "dotenv", "--to", to.to_str().unwrap()], "");
    assert!(again.2.ends_with("DIR/env is not empty (name a new folder)\n"), "{}", again.2);
}

#[test]
fn what_kubectl_prints_is_taken_in() {
    let house = house();
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Secret\n  metadata: { name: api, namespace: shop, uid: x }\n  type: Opaque\n  immutable: true\n  data: { token: aHVudGVyMg==, old: eA== }\n  stringData: { old: new }\n- apiVersion: v1\n  kind: Secret\n  metadata: { name: sh.helm.release.v1.x.v1, namespace: shop }\n  type: helm.sh/release.v1\n  data: { release: eA== }\n- apiVersion: v1\n  kind: Secret\n  metadata: { name: db, namespace: shop }\n  data: { a: eA== }\n- apiVersion: v1\n  kind: ConfigMap\n  metadata: { name: x }\n";
    let (code, out, err) = vault(&house, "vault", &["import", "-"], list);
    assert_eq!((code, out.as_str()), (1, ""));
    insta::assert_snapshot!(err, @"
    warning: <stdin>:11: the Secret sh.helm.release.v1.x.v1 is not imported: its type is helm.sh/release.v1
    warning: <stdin>: not imported: 1 ConfigMap (only Secrets of apiVersion v1 are)
    error: shop/db: is in the vault already (--on-conflict skip, or replace)
    ");
    let (code, out, _) = vault(&house, "vault", &["import", "--on-conflict", "replace", "--dry-run", "-"], list);
    assert_eq!(code, 0);
    insta::assert_snapshot!(out, @r#"
    shop/api: would be set, 2 fields (old, token)
    shop/db: would be replaced, 1 field (a)
    2 secrets would be set, 0 skipped
    "#);
    assert_eq!(vault(&house, "vault", &["list"], "").1, "shop/db\nshop/tls\n", "nothing was set");
    let (_, out, _) = vault(&house, "vault", &["import", "--on-conflict", "skip", "--name", "{namespace}/k8s/{name}", "-"], list);
    insta::assert_snapshot!(out, @r#"
    shop/k8s/api: revision 1, 2 fields
    shop/k8s/db: revision 1, 1 field
    2 secrets set, 0 skipped
    "#);
    let (_, out, _) = vault(&house, "vault", &["import", "--on-conflict", "skip", "-"], list);
    insta::assert_snapshot!(out, @r#"
    shop/api: revision 1, 2 fields
    shop/db: skipped, it is in the vault already
    1 secret set, 1 skipped
    "#);
    assert_eq!(vault(&house, "vault", &["get", "shop/api", "--field", "token"], "").1, "hunter2");
    assert_eq!(vault(&house, "vault", &["get", "shop/api", "--field", "old"], "").1, "new");
}

#[test]
fn every_fault_is_told_at_once_without_a_value_and_nothing_is_set() {
    let house = house();
    let folder = house.path("faulty");
    fs::create_dir(&folder).unwrap();
    let secret = |body: &str| format!("apiVersion: v1\nkind: Secret\nmetadata: {{ name: x }}\n{body}\n---\n");
    fs::write(folder.join("a.yaml"), secret("data: { a: hunter2!, b: 5, c: [hunter2] }") + &secret("stringData: { a: hunter2 }")).unwrap();
    fs::write(folder.join("broken.yaml"), "a: 'hunter2\n").unwrap();
    fs::write(folder.join("b.env"), "hunter2\nA='hunter2\n").unwrap();
    fs::write(
        folder.join("c.json"),
        r#"{"format":"keyferry-export-1","secrets":{"../x":{"a":{"text":"hunter2"}},"y":{"a":{"base64":"hunter2"}},"z":{}}}"#,
    )
    .unwrap();
    let files = ["a.yaml", "broken.yaml", "b.env", "c.json", "none.yaml"].map(|name| folder.join(name).display().to_string());
    let mut arguments = vec!["import", "--namespace", "shop"];
    arguments.extend(files.iter().map(String::as_str));
    let (code, out, err) = vault(&house, "vault", &arguments, "");
    assert_eq!((code, out.as_str()), (2, ""), "one of the files is not there");
    assert!(!err.contains("hunter2"), "{err}");
    insta::assert_snapshot!(err, @r#"
    error: DIR/faulty/a.yaml:1: the Secret x: data.a: is not valid base64
    error: DIR/faulty/a.yaml:1: the Secret x: data.b: is a number to Kubernetes, but must be a text (put it in quotes)
    error: DIR/faulty/a.yaml:1: the Secret x: data.c: is a list, but must be a text (a YAML list goes into a text with `|` after the key)
    error: DIR/faulty/broken.yaml:2:1: is not valid YAML (`kubectl apply --dry-run=client -f FILE` says more, and may show values)
    error: DIR/faulty/b.env: line 1: has no `=` (write NAME=value)
    error: DIR/faulty/b.env: line 2: the closing quote is missing (add it; a value that begins with a quote goes into other quotes)
    error: DIR/faulty/c.json: the name "../x" has the element ".."
    error: DIR/faulty/c.json: "y" has the field `a`, which is not valid base64
    error: DIR/faulty/c.json: z: a secret has at least one field (give it one)
    error: DIR/faulty/none.yaml: cannot be read: No such file or directory (os error 2)
    "#);
    assert_eq!(vault(&house, "vault", &["list"], "").1, "shop/db\nshop/tls\n");
}

/// What the API server would refuse is not a Secret here either: a key that it does not know would be lost in silence, and a name with a template's
/// placeholder would become a secret's name.
#[test]
fn a_secret_that_the_api_server_would_refuse_is_not_imported() {
    let house = house();
    let head = "apiVersion: v1\nkind: Secret\n";
    let listed = "apiVersion: v1\nkind: List\nitems:\n- { apiVersion: v1, kind: Secret, metadata: { name: a }, stringData: { p: x }, sops: { mac: m } }\n";
    let manifests = [
        format!("{head}metadata: {{ name: x }}\nstringdata: {{ p: hunter2 }}\ndata: {{ a: eA== }}\n"),
        format!("{head}metadata: {{ name: \"{{{{ .Release.Name }}}}-x\" }}\nstringData: {{ p: hunter2 }}\n"),
        format!("{head}metadata: {{ name: Big }}\nstringData: {{ p: hunter2 }}\n"),
        format!("{head}metadata: {{ name: x }}\ntype: \"{{{{ .type }}}}\"\nstringData: {{ \"a b\": hunter2 }}\n"),
        listed.to_owned(),
        format!("{head}metadata: {{ name: x }}\nstringData:\n  p: !vault |\n    $ANSIBLE_VAULT;1.1;AES256\n    6638\n"),
        format!("{head}metadata: {{ name: x }}\nstringData: {{ p: hunter2, p: hunter3 }}\n"),
        "apiVersion: kubernetes-client.io/v1\nkind: ExternalSecret\nmetadata: { name: x }\n".to_owned(),
    ];
    let told = manifests.map(|text| {
        let (code, _, err) = vault(&house, "vault", &["import", "--namespace", "shop", "--format", "kubernetes", "-"], &text);
        assert!(code == 1 && !err.contains("hunter"), "{err}");
        err
    });
    insta::assert_snapshot!(told.concat(), @r#"
    error: <stdin>:1: the Secret x: "stringdata" is not a known key (did you mean `stringData`?)
    error: <stdin>:1: the Secret {{ .Release.Name }}-x: metadata.name: "{{ .Release.Name }}-x" is a template (first run the program that fills it in, such as `helm template`)
    error: <stdin>:1: the Secret Big: metadata.name: "Big" is not allowed (Kubernetes takes small letters, digits and `-`)
    error: <stdin>:1: the Secret x: type: "{{ .type }}" is a template (first run the program that fills it in, such as `helm template`)
    error: <stdin>:1: the Secret x: stringData: "a b" is not allowed (keys have letters, digits, `-`, `_` and `.`)
    error: <stdin>:4: is encrypted by SOPS (run `sops decrypt` first)
    error: <stdin>:6:5: is not valid YAML, perhaps because it is encrypted by Ansible Vault (run `ansible-vault decrypt` first)
    error: <stdin>:4:27: the key "p" is given twice in one mapping (remove one)
    error: <stdin>:1: the ExternalSecret x has no values (import the Secret that the cluster makes from it: kubectl get secret x -o yaml)
    "#);
    assert_eq!(vault(&house, "vault", &["list"], "").1, "shop/db\nshop/tls\n");
}
