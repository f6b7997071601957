//! What version 0.1.0 left on a node: this version reads all of it. `tests/fixtures/state-0.1.0` was written by that version's own binary, and
//! [`make`] makes it again. `tests/e2e/scenarios/upgrade.py` has the same on a node, and the way back.

mod make;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use keyferry::server::proto::MountResponse;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tonic::Status;

use crate::audit::schema::problem;
use crate::bao::Bao;
use crate::deploy::documents;
use crate::support::{House, Provider, connect, keyferry, request, run, web};

/// What is copied from the fixture to the node. The rest of it says what to do with that.
const LEFT: [&str; 6] = ["age.key", "ca.crt", "cache.key", "state", "vault", "classes.yaml"];

/// The classes whose credentials Keyferry finds again.
const LEASED: [&str; 3] = ["certificate", "database", "vault-class"];

/// What version 0.1.0 answered, and where its servers were.
#[derive(Deserialize, Serialize)]
struct Recorded {
    bao: String,
    keys: String,
    mounts: BTreeMap<String, Mounted>,
}

/// A mount of a class.
#[derive(Deserialize, Serialize)]
struct Mounted {
    /// As the driver sent them, with the Pod's tokens.
    attributes: Value,
    answer: Delivered,
}

/// What a mount delivered.
#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Delivered {
    /// Mode and content (base64) by path.
    files: BTreeMap<String, (String, String)>,
    /// By id.
    versions: BTreeMap<String, String>,
}

impl From<MountResponse> for Delivered {
    fn from(answer: MountResponse) -> Self {
        let file = |file: keyferry::server::proto::File| (file.path, (format!("{:04o}", file.mode), BASE64.encode(&file.contents)));
        Self {
            files: answer.files.into_iter().map(file).collect(),
            versions: answer.object_version.into_iter().map(|entry| (entry.id, entry.version)).collect(),
        }
    }
}

/// A node where version 0.1.0 ran. One of its two stores is gone, with all that it could say of its leases.
struct Node {
    house: House,
    recorded: Recorded,
    /// Has the same secrets as the other had then.
    _live: Bao,
}

impl Node {
    async fn new() -> Self {
        let (house, live) = (House::bare(), Bao::dev().await);
        for name in LEFT {
            copy(&fixture(name), &house.path(name));
        }
        let recorded: Recorded = serde_json::from_slice(&fs::read(fixture("mounts.json")).unwrap()).unwrap();
        let kept: Value = serde_json::from_slice(&fs::read(fixture("state/jwks.state")).unwrap()).unwrap();
        make::fill(&live, kept["jwks"].as_str().unwrap()).await;
        configure(&house, &recorded.bao, &recorded.keys, &live.address().to_string());
        Self { house, recorded, _live: live }
    }

    async fn mount(&self, provider: &Provider, class: &str) -> Result<Delivered, Status> {
        let socket = if class == "vault-class" { self.house.path("sockets/vault.sock") } else { provider.socket.clone() };
        let request = request(&web(), self.recorded.mounts[class].attributes.clone());
        Ok(connect(&socket).await.unwrap().mount(request).await?.into_inner().into())
    }

    /// Every class is delivered as version 0.1.0 delivered it.
    async fn delivers_what_it_did(&self, provider: &Provider) {
        for class in LEASED.into_iter().chain(["files", "without-versions"]) {
            let answer = self.mount(provider, class).await.unwrap_or_else(|status| panic!("{class}: {}", status.message()));
            assert_eq!(answer, self.recorded.mounts[class].answer, "{class}");
        }
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/state-0.1.0").join(name)
}

/// Git keeps no modes: here every file is for its owner alone.
fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
        for entry in fs::read_dir(from).unwrap().flatten() {
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::copy(from, to).unwrap();
        fs::set_permissions(to, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// Writes the configuration of version 0.1.0 for a house and these addresses, and makes the folders that it names: its audit file's, kubelet's
/// with the Pod's.
fn configure(house: &House, bao: &str, keys: &str, live: &str) {
    let (root, uid) = (house.folder.path().display().to_string(), rustix::process::geteuid().as_raw().to_string());
    let mut text = fs::read_to_string(fixture("keyferry.yaml")).unwrap();
    for (name, value) in [("ROOT", root.as_str()), ("UID", &uid), ("BAO", bao), ("KEYS", keys), ("LIVE", live)] {
        text = text.replace(name, value);
    }
    fs::write(house.path("keyferry.yaml"), text).unwrap();
    for folder in ["state".to_owned(), format!("kubelet/pods/{}", web().uid)] {
        fs::create_dir_all(house.path(&folder)).unwrap();
    }
}

/// The classes' parameters by name.
fn classes() -> impl Iterator<Item = (String, Value)> {
    documents(&fixture("classes.yaml")).into_iter().map(|class| {
        let name = class["metadata"]["name"].as_str().unwrap().to_owned();
        (name, class["spec"]["parameters"].clone())
    })
}

#[tokio::test]
async fn what_version_0_1_0_left_is_found_again() {
    let node = Node::new().await;
    let path = |name: &str| node.house.path(name);
    let read = |name: &str| fs::read(path(name)).unwrap();
    let kept = ["state/version.key", "state/jwks.state", "vault/.recipients"].map(|name| (name, read(name)));
    let former_lines = fs::read_to_string(path("state/audit.jsonl")).unwrap();

    let provider = node.house.serve();
    node.delivers_what_it_did(&provider).await;
    assert!(provider.log().contains("leases of a former process are taken up"), "{}", provider.log());
    assert!(!provider.log().contains("do not open"), "{}", provider.log());
    let shared = node.mount(&provider, "shared").await.unwrap_err();
    assert!(shared.message().starts_with("BackendUnavailable: "), "a lease without a holder is given to nobody: {}", shared.message());
    provider.stop();
    for (name, content) in kept {
        assert_eq!(read(name), content, "{name}");
    }

    let lines = fs::read_to_string(path("state/audit.jsonl")).unwrap();
    let ours = lines.strip_prefix(&former_lines).expect("the former audit lines stay");
    let ours: Vec<Value> = ours.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(ours.iter().find_map(problem), None);
    for class in LEASED {
        let line = ours.iter().find(|line| line["class"] == class).unwrap();
        assert!(line["objects"].as_array().unwrap().iter().all(|object| object["source"] == "fresh"), "{line}");
    }

    let again = node.house.serve();
    node.delivers_what_it_did(&again).await;
}

#[tokio::test]
async fn its_configuration_and_classes_pass_check() {
    let node = Node::new().await;
    let path = |name: &str| node.house.path(name).display().to_string();
    let (config, classes) = (path("keyferry.yaml"), path("classes.yaml"));
    let (code, out, err) = run(keyferry().args(["check", "--config", &config, "--as", "shop/web", &classes]), "");
    assert_eq!(code, 0, "{out}{err}");
    let shown = (out + &err).replace(&node.house.folder.path().display().to_string(), "ROOT");
    insta::assert_snapshot!(shown.lines().filter(|line| !line.contains(": note: ")).collect::<Vec<_>>().join("\n"), @"
    ROOT/classes.yaml:16:15: warning: class files: object 2 (db/password): mode: 0400 lets only root read the file: the driver's files belong to root and fsGroup does not reach them (0444 for a container that runs as another user) [root-only-mode]
    ROOT/keyferry.yaml: no fault (3 backends, 3 rules)
    15 objects in 6 classes, 1 file: no fault, 1 warning
    ");
}

#[tokio::test]
async fn its_vault_opens_and_takes_new_revisions() {
    let node = Node::new().await;
    let vault = |arguments: &[&str]| node.house.vault(arguments);
    assert_eq!(vault(&["list"]), "shop/blob\nshop/db\nshop/tls\n");
    assert_eq!(vault(&["get", "shop/db", "--field", "password"]), "second");
    assert_eq!(vault(&["get", "shop/db", "--field", "password", "--version", "1"]), "first");
    let history: Value = serde_json::from_str(&vault(&["history", "shop/db", "-o", "json"])).unwrap();
    let revisions = history["revisions"].as_array().unwrap().iter().map(|of| (&of["revision"], &of["changed"], &of["added"]));
    assert_eq!(
        revisions.collect::<Vec<_>>(),
        [(&json!(2), &json!(["password"]), &json!(["port"])), (&json!(1), &json!([]), &json!(["password", "username"]))]
    );
    vault(&["patch", "shop/db", "password=third"]);
    vault(&["rollback", "shop/db", "--to", "1"]);
    assert_eq!(vault(&["get", "shop/db", "--field", "password"]), "first");
    let all = vault(&["export"]);
    vault(&["rekey"]);
    assert_eq!(vault(&["export"]), all);
}
