//! The examples of `deploy/examples`, each checked word by word. `keyferry check` finds no fault, and the script makes the secrets. A daemon with
//! the examples' own configuration mounts the class for its Pod, and the files are those that the example's first lines promise.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyferry::formats::pkcs12::open;
use keyferry::model::PodClaims;
use keyferry::server::proto::{File, MountRequest};
use keyferry::steps::Steps;
use keyferry::yaml::{Kind, Node, Value as Yaml, parse_all};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tonic::Status;

use super::confined::confined;
use super::delivery::{other_id, seen};
use super::deploy::{containers, deploy, documents, yaml_files};
use super::support::{House, ISSUER, Provider, apart, keyferry, pod, request, run, tmpfs, with_mounts};

mod aws;
mod openbao;

/// Files that are not examples.
const OTHER: [&str; 2] = ["keyferry.yaml", "namespace.yaml"];

/// Examples that need a daemon that writes the volumes itself.
const PROVIDER_DELIVERY: [&str; 1] = ["owner"];

const PROVIDER_DELIVERY_CONFIGURATION: &str = "manifests/overlays/provider-delivery/keyferry.yaml";

/// Examples for stores over the network: see `aws` and `openbao`.
const AWS: &str = "aws";
const OPENBAO: &str = "openbao-";

const AWS_CONFIGURATION: &str = "manifests/overlays/aws/keyferry.yaml";

const OPENBAO_CONFIGURATION: &str = "manifests/overlays/openbao/keyferry.yaml";

fn examples() -> Vec<(String, PathBuf)> {
    let files = yaml_files("examples").into_iter().filter(|file| !OTHER.iter().any(|other| file.ends_with(other)));
    files.map(|file| (file.file_stem().unwrap().to_str().unwrap().to_owned(), file)).collect()
}

/// The examples of the file vault.
fn vault_examples() -> impl Iterator<Item = (String, PathBuf)> {
    examples().into_iter().filter(|(name, _)| !name.starts_with(AWS) && !name.starts_with(OPENBAO))
}

/// The examples that any daemon serves.
fn plain_examples() -> impl Iterator<Item = (String, PathBuf)> {
    vault_examples().filter(|(name, _)| !PROVIDER_DELIVERY.contains(&name.as_str()))
}

fn provider_of(example: &str) -> &'static str {
    match example {
        "aws-provider-class" => "aws",
        "openbao-vault-class" => "vault",
        _ => "keyferry",
    }
}

/// The configuration that an example is for.
fn configuration_of(example: &str) -> &'static str {
    match example {
        example if PROVIDER_DELIVERY.contains(&example) => PROVIDER_DELIVERY_CONFIGURATION,
        example if example.starts_with(AWS) => AWS_CONFIGURATION,
        example if example.starts_with(OPENBAO) => OPENBAO_CONFIGURATION,
        _ => "examples/keyferry.yaml",
    }
}

/// `keyferry check` with a configuration, as the Pod's ServiceAccount: the exit code and all that it says.
fn check(example: &Path, configuration: &str) -> (i32, String) {
    check_with(example, &deploy(configuration))
}

fn check_with(example: &Path, configuration: &Path) -> (i32, String) {
    let (_, pod) = parts(example);
    let account = format!("{}/{}", pod["metadata"]["namespace"].as_str().unwrap(), pod["spec"]["serviceAccountName"].as_str().unwrap());
    let mut command = keyferry();
    command.arg("check").arg("--config").arg(configuration).args(["--as", &account]).arg(example);
    let (code, out, err) = run(&mut command, "");
    (code, (out + &err).replace(&format!("{}/", deploy("examples").display()), ""))
}

/// An example's class and Pod.
fn parts(file: &Path) -> (Value, Value) {
    let [class, pod] = <[Value; 2]>::try_from(documents(file)).unwrap_or_else(|_| panic!("{}: a class and a Pod", file.display()));
    assert_eq!((&class["apiVersion"], &class["kind"]), (&"secrets-store.csi.x-k8s.io/v1".into(), &"SecretProviderClass".into()));
    assert_eq!((&pod["apiVersion"], &pod["kind"]), (&"v1".into(), &"Pod".into()));
    (class, pod)
}

#[test]
fn each_is_a_class_and_a_pod_that_mounts_it() {
    for (name, file) in examples() {
        let (class, pod) = parts(&file);
        assert_eq!(class["spec"]["provider"], provider_of(&name), "{name}");
        for object in [&class, &pod] {
            assert_eq!((&object["metadata"]["name"], &object["metadata"]["namespace"]), (&name.as_str().into(), &"shop".into()));
        }
        let spec = &pod["spec"];
        assert_eq!(spec["serviceAccountName"], "web", "{name}: the policy names it");
        let csi = &spec["volumes"][0]["csi"];
        assert_eq!((&csi["driver"], &csi["readOnly"]), (&"secrets-store.csi.k8s.io".into(), &"true".into()), "{name}");
        assert_eq!(csi["volumeAttributes"]["secretProviderClass"], name.as_str());
        assert!(containers(&pod).iter().any(|container| container["volumeMounts"][0]["name"] == "secrets"), "{name} mounts nothing");
    }
}

/// The API server refuses a number where the class's schema needs a text, and YAML reads `mode: 0444` as a number.
#[test]
fn parameters_are_texts_for_every_reader_of_yaml() {
    for (name, file) in examples() {
        let class = parse_all(&fs::read_to_string(file).unwrap()).unwrap().remove(0);
        let parameters = under(under(&class, "spec"), "parameters");
        let Yaml::Mapping(entries) = &parameters.value else { panic!("{name}") };
        for (key, value) in entries {
            assert!(matches!(&value.value, Yaml::Scalar { kind: Kind::Text, .. }), "{name}: {} is not a text", key.text);
        }
    }
}

fn under<'n>(node: &'n Node, key: &str) -> &'n Node {
    let Yaml::Mapping(entries) = &node.value else { panic!("{key}: not a mapping") };
    entries.iter().find(|(found, _)| found.text == key).map_or_else(|| panic!("no {key}"), |(_, node)| node)
}

#[test]
fn the_list_of_examples_is_complete() {
    let list = fs::read_to_string(deploy("examples/README.md")).unwrap();
    for (name, _) in examples() {
        assert!(list.contains(&format!("[{name}.yaml]({name}.yaml)")), "{name} is not in README.md");
    }
}

#[test]
fn each_passes_check_for_its_pod() {
    let mut warnings = Vec::new();
    for (name, file) in examples() {
        if name.starts_with(AWS) {
            continue;
        }
        let (code, said) = check(&file, configuration_of(&name));
        assert_eq!(code, 0, "{name}: {said}");
        let notes = said.lines().filter(|line| line.contains(": note: ")).count();
        assert!(notes > 0, "{name}: the policy was not asked: {said}");
        warnings.extend(said.lines().filter(|line| line.contains(": warning: ")).map(str::to_owned));
    }
    insta::assert_snapshot!(warnings.join("\n"), @"
    file-modes.yaml:25:15: warning: class file-modes: object 2 (password): mode: 0400 lets only root read the file: the driver's files belong to root and fsGroup does not reach them (0444 for a container that runs as another user) [root-only-mode]
    file-modes.yaml:28:15: warning: class file-modes: object 3 (host): mode: 0440 lets only root read the file: the driver's files belong to root and fsGroup does not reach them (0444 for a container that runs as another user) [root-only-mode]
    file-modes.yaml:31:15: warning: class file-modes: object 4 (port): mode: 0400 lets only root read the file: the driver's files belong to root and fsGroup does not reach them (0444 for a container that runs as another user) [root-only-mode]
    openbao-vault-class.yaml:12:13: warning: class openbao-vault-class: this node does not answer for the provider vault (the cluster's admin can add vault to `providers`) [unanswered-provider]
    pgpass.yaml:19:15: warning: class pgpass: object 1 (.pgpass): mode: 0400 lets only root read the file: the driver's files belong to root and fsGroup does not reach them (0444 for a container that runs as another user) [root-only-mode]
    ");
}

/// Its ARN is that of a name, and the rule has this name.
#[test]
fn the_example_of_the_aws_provider_passes_check() {
    let folder = crate::folder::new();
    let configuration = folder.path().join("keyferry.yaml");
    let text = "providers: [keyferry, aws]\nidentity: { verify: token-review }\nbackends:\n  ireland: { kind: aws, region: eu-west-1, account: \"111122223333\", \
                auth: { method: irsa } }\npolicy:\n  - pods: { namespace: shop }\n    read: [\"ireland/secretsmanager/shop/*\", \"ireland/ssm/shop/url\"]\n";
    fs::write(&configuration, text).unwrap();
    let (code, said) = check_with(&deploy("examples/aws-provider-class.yaml"), &configuration);
    assert_eq!(code, 0, "{said}");
    insta::assert_snapshot!(said.replace(&format!("{}/", folder.path().display()), ""), @"
    aws-provider-class.yaml:16:21: note: class aws-provider-class: object 1 (db.json): ServiceAccount shop/web may read ireland/secretsmanager/shop/db, by policy rule 1
    aws-provider-class.yaml:25:21: note: class aws-provider-class: object 2 (url): ServiceAccount shop/web may read ireland/ssm/shop/url, by policy rule 1
    aws-provider-class.yaml:28:21: note: class aws-provider-class: object 3 (api-key): ServiceAccount shop/web may read ireland/secretsmanager/shop/api@AWSCURRENT, by policy rule 1
    keyferry.yaml: no fault (1 backend, 1 rule)
    3 objects in 1 class, 1 file: no fault
    ");
    let mut suggest = keyferry();
    suggest.args(["check", "--suggest-policy", "--config"]).arg(&configuration).arg(deploy("examples/aws-provider-class.yaml"));
    let (code, rules, err) = run(&mut suggest, "");
    assert_eq!(code, 0, "{err}");
    insta::assert_snapshot!(rules, @r#"
    policy:
      - pods: { namespace: "shop" }
        read:
          - "ireland/secretsmanager/shop/api"
          - "ireland/secretsmanager/shop/db"
          - "ireland/ssm/shop/url"
    "#);
}

#[test]
fn an_owner_is_refused_where_the_driver_writes() {
    let (code, said) = check(&deploy("examples/owner.yaml"), "examples/keyferry.yaml");
    assert_eq!(code, 1);
    insta::assert_snapshot!(said, @r#"
    owner.yaml:22:16: error: class owner: object 1 (server.key): owner: works with `delivery: provider` only: on this node the driver writes the files, and they belong to root (remove it, and let others read the file with `mode`)
    keyferry.yaml: no fault (1 backend, 3 rules)
    2 objects in 1 class, 1 file: 1 fault
    "#);
    // Nobody knows who writes the files.
    let owner = deploy("examples/owner.yaml");
    let (code, said, err) = run(keyferry().args(["check", "--strict"]).arg(&owner), "");
    assert_eq!(code, 0, "{said}{err}");
    insta::assert_snapshot!(said.replace(&owner.display().to_string(), "owner.yaml"), @"
    owner.yaml:22:16: note: class owner: object 1 (server.key): owner: works only with `delivery: provider` in the node's configuration (add --config FILE to check that)
    2 objects in 1 class, 1 file: no fault
    ");
}

#[tokio::test]
async fn each_is_mounted_as_it_promises() {
    let shop = Shop::open("examples/keyferry.yaml");
    let missing =
        shop.mount("missing").await.unwrap_err().message().replace(shop.house.folder.path().to_str().unwrap(), "/var/lib/keyferry");
    insta::assert_snapshot!(missing, @"SecretNotFound: object 2 (token): files/shop/late: there is no such secret in the vault: shop/late.age is absent (make it with `keyferry vault set shop/late FIELD=@FILE`)");
    let told = fs::read_to_string(deploy("examples/missing.yaml")).unwrap().replace("\n#   ", " ");
    assert!(told.contains(&missing), "missing.yaml has another message");
    shop.fill(&["late"]);
    let mut shown = Vec::new();
    for (name, _) in plain_examples() {
        let files = shop.mount(&name).await.unwrap_or_else(|status| panic!("{name}: {}", status.message()));
        let files: Vec<_> = files.iter().map(|file| format!("{} {:04o}", file.path, file.mode)).collect();
        shown.push(format!("{name}: {}", files.join(", ")));
    }
    insta::assert_snapshot!(shown.join("\n"), @"
    basic-auth: username 0644, password 0644
    binary-values: cert.der 0644, from-base64.der 0644
    docker-config: config.json 0644
    dotfiles: .pgpass 0644, .config/api/token 0644
    env: username 0644, password 0644
    exec: .env 0644
    file-modes: username 0444, password 0400, host 0440, port 0400
    formats: .env 0644, application.yaml 0644, db.properties 0644, tls.pem 0644, token 0644
    git-credentials: .git-credentials 0644
    image-pull: .dockerconfigjson 0644
    kafka: client.properties 0644, keystore.pem 0644, ca.pem 0644
    key-to-path: username 0644, db-password 0644, address 0644
    large: blob 0644
    missing: username 0644, token 0644
    nested-paths: config/db/primary/user 0644, config/db/primary/password 0644, db/host 0644, db/password 0644, db/port 0644, db/username 0644
    nginx: tls/chain.pem 0644, tls/key.pem 0644
    node: config.json 0644, .env 0644
    odd-names: .hidden 0644, 1st 0644, UPPER_CASE 0644, _under 0644, ca-cert 0644, tls.crt 0644
    one-container: token 0644
    optional: username 0644
    pgpass: .pgpass 0400
    pkcs12: keystore.p12 0644, truststore.p12 0644, client.properties 0644
    prefix: tls/web/tls.crt 0644, tls/web/tls.key 0644, ca/admin.api.crt 0644, ca/web.crt 0644
    rotation: token 0644, first-token 0644
    several-secrets: db/password 0644, db/username 0644, api-token 0644, db.json 0644
    spring: application.properties 0644, application.yaml 0644
    ssh: .ssh/id 0444, .ssh/known_hosts 0444
    template: app.conf 0644, db.json 0644
    tls: ca.crt 0644, tls.crt 0644, tls.key 0644
    ");
}

/// `keyferry render` makes the same files as a daemon on a node.
#[tokio::test]
async fn render_makes_what_the_daemon_delivers() {
    let shop = Shop::open("examples/keyferry.yaml");
    shop.fill(&["late"]);
    fs::write(shop.house.path("values.json"), shop.house.vault(&["export"])).unwrap();
    for (name, file) in plain_examples() {
        let mut command = keyferry();
        command.arg("render").arg("-f").arg(file).arg("--values").arg(shop.house.path("values.json")).args(["-o", "json"]);
        let (code, out, errors) = run(&mut command, "");
        assert_eq!(code, 0, "{name}: {errors}");
        let document: Value = serde_json::from_str(&out).unwrap();
        let rendered = document["files"].as_array().unwrap().iter().map(|file| {
            let contents = match (file["text"].as_str(), file["base64"].as_str()) {
                (Some(text), _) => text.as_bytes().to_vec(),
                (None, base64) => data_encoding::BASE64.decode(base64.unwrap().as_bytes()).unwrap(),
            };
            (file["path"].as_str().unwrap().to_owned(), file["mode"].as_str().unwrap().to_owned(), contents)
        });
        let delivered = shop.mount(&name).await.unwrap();
        let delivered = delivered.into_iter().map(|file| (file.path, format!("{:04o}", file.mode), file.contents.to_vec()));
        // The salts of a keystore are made with a key of the node.
        let comparable = |(path, mode, contents): (String, String, Vec<u8>)| {
            let is_keystore = Path::new(&path).extension().is_some_and(|extension| extension == "p12");
            (path, mode, if is_keystore { contents.len().to_le_bytes().to_vec() } else { contents })
        };
        assert!(rendered.map(comparable).eq(delivered.map(comparable)), "{name}");
    }
}

#[tokio::test]
async fn the_configuration_of_the_manifests_lets_them_in_as_well() {
    let shop = Shop::open("manifests/base/keyferry.yaml");
    shop.fill(&["late"]);
    for (name, _) in plain_examples() {
        shop.mount(&name).await.unwrap_or_else(|status| panic!("{name}: {}", status.message()));
    }
    let stranger = shop.mount_for(&pod("bank", "web-0", "web"), "key-to-path").await.unwrap_err();
    assert!(stranger.message().starts_with("PolicyDenied: "), "{}", stranger.message());
}

#[tokio::test]
async fn the_examples_policy_lets_nobody_else_in() {
    let shop = Shop::open("examples/keyferry.yaml");
    for stranger in [pod("shop", "job-0", "default"), pod("bank", "web-0", "web")] {
        let denied = shop.mount_for(&stranger, "key-to-path").await.unwrap_err();
        assert!(denied.message().starts_with("PolicyDenied: "), "{}", denied.message());
    }
}

#[tokio::test]
async fn the_files_hold_what_the_examples_say() {
    let shop = Shop::open("examples/keyferry.yaml");
    assert_eq!(shop.contents("key-to-path").await["address"], "db.shop.svc:5432");
    let formats = shop.contents("formats").await;
    let lines = |file: &str| str::from_utf8(&formats[file]).unwrap().lines().count();
    assert_eq!(formats[".env"].as_ref(), b"DB_HOST=db.shop.svc\nDB_PORT=5432\n");
    assert_eq!((formats["token"].len(), lines("db.properties"), lines("application.yaml")), (32, 2, 7));
    assert!(
        formats["tls.pem"].starts_with(b"-----BEGIN CERTIFICATE-----\n") && formats["tls.pem"].ends_with(b"-----END PRIVATE KEY-----\n")
    );
    let pkcs12 = shop.contents("pkcs12").await;
    let line =
        |start: &str| str::from_utf8(&pkcs12["client.properties"]).unwrap().lines().find_map(|line| line.strip_prefix(start)).unwrap();
    let opened = |file: &str| open(&pkcs12[file], Some(line("ssl.keystore.password=")), &Steps::unbounded()).unwrap();
    let (keystore, truststore) = (opened("keystore.p12"), opened("truststore.p12"));
    assert!(!keystore.key.is_empty() && keystore.leaf == keystore.chain && keystore.trust.is_empty());
    assert!(truststore.key.is_empty() && truststore.trust == keystore.leaf, "the CA is the certificate itself");
    let template = shop.contents("template").await;
    assert_eq!(template["db.json"].as_ref(), b"{\"host\": \"db.shop.svc\", \"port\": 5432}\n");
    assert!(template["app.conf"].starts_with(b"url = \"postgres://app:"));
    let binary = shop.contents("binary-values").await;
    assert_eq!(binary["cert.der"], binary["from-base64.der"]);
    assert!(str::from_utf8(&binary["cert.der"]).is_err(), "it must not be a text");
    assert_eq!(shop.contents("large").await["blob"].len(), 1024 * 1024);
    let before = shop.contents("rotation").await;
    assert_eq!(before["token"], before["first-token"]);
    shop.fill(&[]);
    let after = shop.contents("rotation").await;
    assert!(after["token"] != before["token"] && after["first-token"] == before["first-token"], "one changes, the pinned one stays");
}

/// The driver finds a synced Secret's values by the files' paths, and fails if there is none.
#[tokio::test]
async fn synced_secrets_name_files_of_the_volume() {
    let shop = Shop::open("examples/keyferry.yaml");
    let mut kinds = BTreeSet::new();
    for (name, file) in plain_examples() {
        let (class, _) = parts(&file);
        let Some(objects) = class["spec"]["secretObjects"].as_array() else { continue };
        let files = shop.contents(&name).await;
        for object in objects {
            kinds.insert(object["type"].as_str().unwrap().to_owned());
            for entry in object["data"].as_array().unwrap() {
                assert!(files.contains_key(entry["objectName"].as_str().unwrap()), "{name}: {entry} is not a file of the volume");
            }
        }
    }
    let kinds: Vec<_> = kinds.iter().map(String::as_str).collect();
    let every_use = ["Opaque", "kubernetes.io/basic-auth", "kubernetes.io/dockerconfigjson", "kubernetes.io/ssh-auth", "kubernetes.io/tls"];
    assert_eq!(kinds, every_use);
}

/// The overlay, with the two capabilities of its DaemonSet and no others: every example, and the one that needs the overlay.
#[test]
fn under_provider_delivery_each_is_written_and_an_owner_set() {
    with_mounts("examples::under_provider_delivery_each_is_written_and_an_owner_set", |dir| {
        let kubelet = dir.join("kubelet");
        fs::create_dir_all(kubelet.join("pods")).unwrap();
        let daemon = confined(env!("CARGO_BIN_EXE_keyferry").as_ref(), ",+chown,+dac_read_search");
        let shop = Shop::open_by(daemon, PROVIDER_DELIVERY_CONFIGURATION, &kubelet);
        shop.fill(&["late"]);
        let runtime = Runtime::new().unwrap();
        for (name, _) in vault_examples() {
            let mut request = shop.request(&pod("shop", &name, "web"), &name);
            // In a user namespace of one user there is no other owner.
            request.attributes = request.attributes.replace("65532:65532", &format!("{0}:{0}", other_id()));
            request.target_path = request.target_path.replace("/var/lib/kubelet", kubelet.to_str().unwrap());
            let volume = tmpfs(request.target_path.as_ref(), "size=4m");
            let answer = runtime.block_on(shop.provider.mount(request)).unwrap_or_else(|status| panic!("{name}: {}", status.message()));
            assert!(answer.files.is_empty(), "{name}: the driver would write as well");
            assert!(fs::read_link(volume.join("..data")).is_ok(), "{name}: nothing is written");
            if name == "owner" {
                let files: Vec<_> = seen(&volume).iter().map(|file| file.split(" -----").next().unwrap().to_owned()).collect();
                let id = other_id();
                assert_eq!(files, ["server.crt 0644 0:0", &format!("server.key 0400 {id}:{id}")]);
            }
        }
    });
}

/// A node with one of the configurations of `deploy/`, and with the vault that `vault.sh` makes.
struct Shop {
    house: House,
    provider: Provider,
}

impl Shop {
    fn open(configuration: &str) -> Self {
        Self::open_by(keyferry(), configuration, Path::new("/var/lib/kubelet"))
    }

    /// Another command starts the daemon, and the kubelet's folder is elsewhere.
    fn open_by(daemon: Command, configuration: &str, kubelet: &Path) -> Self {
        let house = House::bare();
        fill(&house, &[]);
        fs::write(house.path("version.key"), [7; 32]).unwrap();
        let configuration = fs::read_to_string(deploy(configuration)).unwrap();
        fs::write(house.path("keyferry.yaml"), at_home(&house, kubelet, &configuration)).unwrap();
        let provider = house.serve_by(daemon);
        Self { house, provider }
    }

    fn fill(&self, more: &[&str]) {
        fill(&self.house, more);
    }

    /// Mounts an example for its own Pod.
    async fn mount(&self, example: &str) -> Result<Vec<File>, Status> {
        self.mount_for(&pod("shop", example, "web"), example).await
    }

    async fn mount_for(&self, pod: &PodClaims, example: &str) -> Result<Vec<File>, Status> {
        Ok(self.provider.mount(self.request(pod, example)).await?.files)
    }

    fn request(&self, pod: &PodClaims, example: &str) -> MountRequest {
        let (class, manifest) = parts(&deploy(&format!("examples/{example}.yaml")));
        let token = json!({ "keyferry": { "token": self.house.token(pod, "keyferry"), "expirationTimestamp": "2100-01-01T00:00:00Z" } });
        let mut attributes = class["spec"]["parameters"].as_object().unwrap().clone();
        attributes.extend(manifest["spec"]["volumes"][0]["csi"]["volumeAttributes"].as_object().unwrap().clone());
        attributes.insert("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), token.to_string().into());
        request(pod, attributes.into())
    }

    async fn contents(&self, example: &str) -> BTreeMap<String, bytes::Bytes> {
        self.mount(example).await.unwrap().into_iter().map(|file| (file.path, file.contents)).collect()
    }
}

fn fill(house: &House, more: &[&str]) {
    let made = apart("sh")
        .arg(deploy("examples/vault.sh"))
        .args([house.path("vault"), house.path("age.key")])
        .args(more)
        .env("KEYFERRY", env!("CARGO_BIN_EXE_keyferry"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "vault.sh needs openssl (apt-get install openssl): {said}");
    assert_eq!(said, "", "it follows the advice it gives");
}

/// A configuration with the house's paths in place of a node's, and its issuer's name in place of the cluster's. All else is as it is shipped.
fn at_home(house: &House, kubelet: &Path, configuration: &str) -> String {
    let (root, uid) = (house.folder.path().display().to_string(), rustix::process::geteuid().as_raw());
    let mut text = configuration.to_owned();
    for (shipped, here) in [
        ("/etc/keyferry/", format!("{root}/")),
        ("/var/lib/keyferry/", format!("{root}/")),
        ("/var/lib/kubelet", kubelet.display().to_string()),
        ("https://kubernetes.default.svc.cluster.local", ISSUER.to_owned()),
        ("127.0.0.1:8095", "127.0.0.1:0".to_owned()),
    ] {
        // Without a vault and without leases, nothing is there.
        assert!(text.contains(shipped) || shipped == "/var/lib/keyferry/", "{shipped} is no longer in the configuration");
        text = text.replace(shipped, &here);
    }
    format!("{text}\nsocketDir: {root}/sockets\nstateDir: {root}/state\nallowedPeers: [{uid}]\n")
}
