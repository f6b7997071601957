//! What `deploy/` promises, read from the files themselves: how the daemon is confined, what rights it asks for, and that paths, versions and limits
//! in several files agree. `make manifests` compares the same files with Kubernetes' own schemas.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use keyferry::config::{Config, Limits};
use keyferry::yaml::{Node, Value as Yaml, parse_all};
use serde_json::{Map, Value, json};

use crate::support::files_below;

const SOCKETS: &str = "/var/run/secrets-store-csi-providers";

/// Files that are not Kubernetes objects: configurations, Helm values, a patch without a kind.
const OTHER: [&str; 4] = ["keyferry.yaml", "rules.yaml", "token-requests.yaml", "values.yaml"];

/// A file below `deploy/`.
pub fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

/// A file's documents as JSON, where every scalar is the text that was written.
pub fn documents(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    parse_all(&text).unwrap_or_else(|fault| panic!("{}:{}: {fault}", path.display(), fault.at.line)).iter().map(plain).collect()
}

pub fn plain(node: &Node) -> Value {
    match &node.value {
        Yaml::Mapping(entries) => entries.iter().map(|(key, node)| (key.text.clone(), plain(node))).collect::<Map<_, _>>().into(),
        Yaml::Null => Value::Null,
        Yaml::Scalar { text, .. } => text.clone().into(),
        Yaml::Sequence(items) => items.iter().map(plain).collect(),
    }
}

/// Every YAML file below a folder of `deploy/`, sorted. Without those of the chart, which are templates and values (`helm` has their tests).
pub fn yaml_files(folder: &str) -> Vec<PathBuf> {
    files_below(&deploy(folder), "yaml").into_iter().filter(|file| !file.starts_with(deploy("helm"))).collect()
}

fn only(path: &str) -> Value {
    let mut documents = documents(&deploy(path));
    assert_eq!(documents.len(), 1, "{path}");
    documents.remove(0)
}

fn daemonset() -> Value {
    only("manifests/base/daemonset.yaml")
}

/// The value at a path such as `/spec/hostUsers`; null if there is none.
fn at<'v>(value: &'v Value, path: &str) -> &'v Value {
    value.pointer(path).unwrap_or(&Value::Null)
}

fn list<'v>(value: &'v Value, path: &str) -> &'v [Value] {
    at(value, path).as_array().map_or(&[], Vec::as_slice)
}

fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    at(value, path).as_str().unwrap_or_else(|| panic!("no text at {path} of {value:#}"))
}

/// All containers of a Pod, or of what makes Pods.
pub fn containers(object: &Value) -> Vec<&Value> {
    ["/spec", "/spec/template/spec"]
        .iter()
        .flat_map(|spec| ["initContainers", "containers"].map(|kind| format!("{spec}/{kind}")))
        .flat_map(|path| list(object, &path))
        .collect()
}

#[test]
fn every_yaml_file_is_read_and_says_what_it_is() {
    for file in yaml_files("") {
        let documents = documents(&file);
        assert!(!documents.is_empty(), "{} is empty", file.display());
        if OTHER.iter().any(|other| file.ends_with(other)) {
            continue;
        }
        for document in documents {
            assert!(at(&document, "/apiVersion").is_string() && at(&document, "/kind").is_string(), "{}: {document:#}", file.display());
        }
    }
}

#[test]
fn the_daemon_is_confined() {
    let daemonset = daemonset();
    let pod = at(&daemonset, "/spec/template/spec");
    assert_eq!(at(pod, "/hostUsers"), "true", "inside a user namespace every peer is 65534, which Keyferry refuses");
    for shared in ["/hostNetwork", "/hostPID", "/hostIPC"] {
        assert!(at(pod, shared).is_null(), "{shared}");
    }
    let [container] = list(pod, "/containers") else { panic!("one container") };
    assert_eq!(
        *at(container, "/securityContext"),
        json!({
            "runAsUser": "0",
            "runAsGroup": "0",
            "privileged": "false",
            "allowPrivilegeEscalation": "false",
            "readOnlyRootFilesystem": "true",
            "capabilities": { "drop": ["ALL"] },
            "seccompProfile": { "type": "RuntimeDefault" },
            "seLinuxOptions": { "type": "spc_t" },
        })
    );
}

#[test]
fn the_daemon_is_on_every_node_and_never_twice() {
    let daemonset = daemonset();
    assert_eq!(*at(&daemonset, "/spec/updateStrategy/rollingUpdate"), json!({ "maxSurge": "0", "maxUnavailable": "1" }));
    let pod = at(&daemonset, "/spec/template/spec");
    assert_eq!(*at(pod, "/tolerations"), json!([{ "operator": "Exists" }]));
    assert_eq!(*at(pod, "/nodeSelector"), json!({ "kubernetes.io/os": "linux" }));
    assert_eq!(at(pod, "/priorityClassName"), "system-node-critical");
    // The daemon gives mounts under way 10 s.
    let grace: u32 = text(pod, "/terminationGracePeriodSeconds").parse().unwrap();
    assert!(grace > 10);
}

#[test]
fn the_probes_ask_at_the_socket_that_the_driver_uses() {
    let daemonset = daemonset();
    let container = at(&daemonset, "/spec/template/spec/containers/0");
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let probe = at(container, &format!("/{probe}"));
        assert_eq!(*at(probe, "/exec/command"), json!(["/keyferry", "health", "--socket", format!("{SOCKETS}/keyferry.sock")]));
        // `keyferry health` gives the daemon 5 s, and should report a fault itself before it is cut off.
        assert_eq!(at(probe, "/timeoutSeconds"), "6");
    }
    let pod = at(&daemonset, "/spec/template/spec");
    let sockets = list(pod, "/volumes").iter().find(|volume| at(volume, "/name") == "sockets").unwrap();
    assert_eq!(at(sockets, "/hostPath/path"), SOCKETS);
}

#[test]
fn every_configuration_is_sound() {
    for file in configurations() {
        let parsed = Config::parse(&fs::read_to_string(&file).unwrap());
        assert!(parsed.is_ok(), "{}: {:?}", file.display(), parsed.unwrap_err());
    }
}

/// A new Pod of a new configuration must not wait for a file that nobody mounts.
#[test]
fn every_file_a_configuration_names_is_mounted() {
    let daemonset = daemonset();
    let pod = at(&daemonset, "/spec/template/spec");
    let mounted: Vec<&str> = list(pod, "/containers/0/volumeMounts").iter().map(|mount| text(mount, "/mountPath")).collect();
    let sources = list(pod, "/volumes/0/projected/sources");
    let items = sources.iter().flat_map(|source| ["/configMap/items", "/secret/items"].map(|items| list(source, items)));
    let files: BTreeSet<String> = items.flatten().map(|item| format!("/etc/keyferry/{}", text(item, "/path"))).collect();
    for config in configurations() {
        let store = config.ends_with("overlays/openbao/keyferry.yaml");
        for path in absolute_paths(&documents(&config)[0]) {
            let there = match path.as_str() {
                // The last is a folder that the daemon makes in its state folder, which is mounted.
                "/etc/keyferry/bao-ca.crt" | "/etc/keyferry/cache.key" | "/var/lib/keyferry/cache" => store,
                "/var/lib/kubelet" => true,
                path if path.starts_with("/etc/keyferry/") => files.contains(path),
                path => mounted.contains(&path),
            };
            assert!(there, "{} names {path}, which is not mounted", config.display());
        }
    }
}

/// The component mounts what the overlay's configuration names in addition to the base's; and nothing of it is writable.
#[test]
fn a_store_over_the_network_gets_its_files_and_a_look_at_the_pods() {
    let component = only("manifests/components/openbao/kustomization.yaml");
    let patch = parse_all(text(&component, "/patches/0/patch")).unwrap();
    let added: Vec<Value> =
        list(&plain(&patch[0]), "").iter().filter(|step| step["op"] == "add").map(|step| step["value"].clone()).collect();
    let pods = json!({ "name": "pods", "mountPath": "/var/lib/kubelet/pods", "readOnly": "true", "mountPropagation": "HostToContainer" });
    let items = ["bao-ca.crt", "cache.key"].map(|file| json!({ "key": file, "path": file }));
    assert_eq!(
        added,
        [
            json!({ "secret": { "name": "keyferry-bao", "items": items } }),
            pods,
            json!({ "name": "pods", "hostPath": { "path": "/var/lib/kubelet/pods", "type": "Directory" } }),
        ]
    );
    let config = only("manifests/overlays/openbao/keyferry.yaml");
    assert_eq!(
        (text(&config, "/backends/bao/ca"), text(&config, "/cache/sealed/key")),
        ("/etc/keyferry/bao-ca.crt", "/etc/keyferry/cache.key")
    );
    let state = list(&daemonset(), "/spec/template/spec/containers/0/volumeMounts").iter().any(|mount| {
        at(mount, "/readOnly").is_null() && text(&config, "/cache/sealed/dir").starts_with(&format!("{}/", text(mount, "/mountPath")))
    });
    assert!(state, "cache.sealed.dir must be in a folder of the node that is writable");
}

/// Every configuration of `deploy/`: the base's, the examples' and the overlays'.
pub fn configurations() -> Vec<PathBuf> {
    let found: Vec<_> = yaml_files("").into_iter().filter(|file| file.ends_with("keyferry.yaml")).collect();
    assert_eq!(found.len(), 7, "{found:?}");
    found
}

fn absolute_paths(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().flat_map(absolute_paths).collect(),
        Value::Object(entries) => entries.values().flat_map(absolute_paths).collect(),
        Value::String(text) if text.starts_with('/') => vec![text.clone()],
        Value::Bool(_) | Value::Null | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

#[test]
fn the_configurations_differ_only_in_what_they_are_about() {
    let base = only("manifests/base/keyferry.yaml");
    for (file, about) in [
        ("examples/keyferry.yaml", &["policy"][..]),
        ("manifests/overlays/aws/keyferry.yaml", &["backends", "cache", "limits", "policy"]),
        ("manifests/overlays/jwks-in-cluster/keyferry.yaml", &["identity"]),
        ("manifests/overlays/openbao/keyferry.yaml", &["backends", "cache", "dialects", "limits", "policy"]),
        ("manifests/overlays/provider-delivery/keyferry.yaml", &["delivery"]),
        ("manifests/overlays/token-review/keyferry.yaml", &["identity"]),
    ] {
        let other = only(file);
        let keys: BTreeSet<&String> = [&base, &other].iter().flat_map(|config| config.as_object().unwrap().keys()).collect();
        let different: Vec<&str> = keys.into_iter().filter(|key| base.get(*key) != other.get(*key)).map(String::as_str).collect();
        assert_eq!(different, about, "{file}");
    }
}

/// With as much memory as the container has, every namespace always has room for its largest mount.
#[test]
fn the_memory_limit_covers_the_mounts_that_are_let_in() {
    let mounts = text(&only("manifests/base/keyferry.yaml"), "/limits/mounts").parse().unwrap();
    let daemonset = daemonset();
    let limit = text(&daemonset, "/spec/template/spec/containers/0/resources/limits/memory");
    let memory = limit.strip_suffix("Mi").unwrap().parse::<usize>().unwrap() << 20;
    let budget = Limits { mounts, ..Limits::default() }.budget(memory).unwrap();
    assert_eq!(budget.doubt(), None);
}

/// With a bare 0 the chart leaves the flag out, and the driver takes 2 minutes.
#[test]
fn the_driver_skips_no_mount() {
    let values = only("manifests/driver/values.yaml");
    assert_eq!((text(&values, "/enableSecretRotation"), text(&values, "/rotationPollInterval")), ("true", "0s"));
}

#[test]
fn the_base_asks_for_no_right_and_the_overlays_for_the_least() {
    for file in yaml_files("manifests/base") {
        for document in documents(&file) {
            assert!(!at(&document, "/kind").as_str().is_some_and(|kind| kind.contains("Role")), "{}", file.display());
        }
    }
    assert_eq!(at(&only("manifests/base/serviceaccount.yaml"), "/automountServiceAccountToken"), "false");
    assert_eq!(at(&daemonset(), "/spec/template/spec/automountServiceAccountToken"), "false");
    let review = documents(&deploy("manifests/overlays/token-review/rbac.yaml"));
    assert_eq!(
        *at(&review[0], "/rules"),
        json!([{ "apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"] }])
    );
    let events = documents(&deploy("manifests/components/events/rbac.yaml"));
    assert_eq!(
        *at(&events[0], "/rules"),
        json!([{ "apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"] }])
    );
    let annotations = documents(&deploy("manifests/components/service-account-annotations/rbac.yaml"));
    assert_eq!(*at(&annotations[0], "/rules"), json!([{ "apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["get"] }]));
    let discovery = only("manifests/overlays/jwks-in-cluster/rbac.yaml");
    assert_eq!(at(&discovery, "/roleRef/name"), "system:service-account-issuer-discovery");
    let delivery = only("manifests/components/provider-delivery/daemonset.yaml");
    let capabilities = at(&delivery, "/spec/template/spec/containers/0/securityContext/capabilities");
    assert_eq!(*capabilities, json!({ "add": ["CHOWN", "DAC_READ_SEARCH"] }));
}

#[test]
fn no_secret_lies_in_the_repository() {
    for file in yaml_files("") {
        for document in documents(&file) {
            assert_ne!(at(&document, "/kind"), "Secret", "{}", file.display());
        }
    }
}

#[test]
fn images_are_pinned_and_ours_is_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    let image = &only("manifests/base/kustomization.yaml")["images"][0];
    assert_eq!(*image, json!({ "name": "keyferry", "newName": "registry.example/keyferry", "newTag": version }));
    for file in yaml_files("") {
        for document in documents(&file) {
            for image in containers(&document).into_iter().filter_map(|container| at(container, "/image").as_str()) {
                let tag = image.rsplit_once(':').map(|(_, tag)| tag);
                assert!(image == "keyferry" || tag.is_some_and(is_pin), "{}: {image} is not pinned", file.display());
            }
        }
    }
    let dockerfile = fs::read_to_string(deploy("Dockerfile")).unwrap();
    let froms: Vec<_> = dockerfile.lines().filter_map(|line| line.strip_prefix("FROM ")).collect();
    assert_eq!(froms, ["${BUILD_IMAGE} AS build", "scratch"]);
    let image = dockerfile.lines().find_map(|line| line.strip_prefix("ARG BUILD_IMAGE=")).unwrap();
    assert!(image.rsplit_once(':').is_some_and(|(_, tag)| is_pin(tag)), "{image} is not pinned");
    assert!(dockerfile.contains(&format!("org.opencontainers.image.version=\"{version}\"")), "the label says another version");
}

/// A whole version, such as `1.37.0` or `1.95.0-bookworm`.
fn is_pin(tag: &str) -> bool {
    let numbers: Vec<&str> = tag.split('-').next().unwrap_or(tag).split('.').collect();
    numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u32>().is_ok())
}

#[test]
fn the_image_starts_as_the_manifests_have_it() {
    let dockerfile = fs::read_to_string(deploy("Dockerfile")).unwrap();
    let end = dockerfile.split("FROM scratch").nth(1).expect("ends in FROM scratch");
    for line in [
        "USER 0:0",
        r#"ENTRYPOINT ["/keyferry"]"#,
        r#"CMD ["serve", "--config", "/etc/keyferry/keyferry.yaml"]"#,
        "ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
    ] {
        assert!(end.lines().any(|found| found == line), "no line {line}");
    }
    assert_eq!(*at(&daemonset(), "/spec/template/spec/containers/0/args"), json!(["serve", "--config", "/etc/keyferry/keyferry.yaml"]));
}

/// The list has what the builder gets, not what it does not get. So all that the code includes must be in the list.
#[test]
fn the_builder_gets_what_the_code_includes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ignored = fs::read_to_string(root.join(".dockerignore")).unwrap();
    let mut lines = ignored.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(lines.next(), Some("*"));
    let listed: BTreeSet<&str> = lines.map(|line| line.strip_prefix('!').unwrap()).collect();
    let mut needed = BTreeSet::from(["Cargo.lock", "Cargo.toml", "build.rs", "proto", "src"].map(str::to_owned));
    for file in files_below(&root.join("src"), "rs") {
        let code = fs::read_to_string(&file).unwrap();
        let included = code.split("include_str!(\"").skip(1).map(|rest| rest.split('"').next().unwrap());
        for path in included {
            let path = file.parent().unwrap().join(path).canonicalize().unwrap();
            let top = path.strip_prefix(root.canonicalize().unwrap()).unwrap().components().next().unwrap();
            needed.insert(top.as_os_str().to_str().unwrap().to_owned());
        }
    }
    assert!(needed.contains("schemas"), "the search finds nothing: {needed:?}");
    let missing: Vec<_> = needed.iter().filter(|name| !listed.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "not in .dockerignore: {missing:?}");
    for name in listed {
        assert!(root.join(name).exists(), ".dockerignore lists {name}, which is not there");
    }
}
