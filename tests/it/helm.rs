//! The Helm chart, rendered by the oldest and the newest Helm that it is for. It makes what kustomize makes of `deploy/manifests`, it asks for no
//! more than its configuration needs, and it refuses wrong values in words that help.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value, json};

use crate::deploy::{configurations, deploy};
use crate::folder;
use crate::support::{apart, files_below, keyferry, run, tool};

mod copies;

pub const CHART: &str = "helm/keyferry";

const HELMS: [&str; 2] = ["helm-3.17.3", "helm-4.1.4"];
const NEWEST: &str = HELMS[1];

/// Names of policies: a component's, and the chart's.
const COMPONENTS: [(&str, &str); 3] = [
    ("keyferry-to-aws", "keyferry-to-stores"),
    ("keyferry-to-openbao", "keyferry-to-stores"),
    ("keyferry-events-to-api-server", "keyferry-to-api-server"),
];

// === Running ===

/// A program of `.tools`.
fn fetched(name: &str) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = root.join(".tools").join(name);
    assert!(program.exists(), "no .tools/{name}: run `make tools` in {}", root.display());
    apart(program)
}

/// `helm template` with values (YAML) and further arguments: the rendered text, or what is wrong.
fn template(helm: &str, values: &str, more: &[&str]) -> Result<String, String> {
    let mut command = fetched(helm);
    command.args(["template", "keyferry", "--namespace", "keyferry", "--values", "-"]).args(more).arg(deploy(CHART));
    let (code, out, err) = run(&mut command, values);
    if code == 0 { Ok(out) } else { Err(err) }
}

fn rendered(helm: &str, values: &str) -> String {
    template(helm, values, &[]).unwrap_or_else(|error| panic!("{helm}: {error}"))
}

fn values_of(name: &str) -> String {
    fs::read_to_string(deploy(CHART).join("ci").join(format!("{name}-values.yaml"))).unwrap()
}

fn all_values() -> Vec<PathBuf> {
    files_below(&deploy(CHART).join("ci"), "yaml")
}

fn kustomized(folder: &Path) -> String {
    let (code, out, err) = run(fetched("kubectl-1.35.2").arg("kustomize").arg(folder), "");
    assert_eq!(code, 0, "{err}");
    out
}

/// The documents of several streams, read by a reader that is not ours, with the types that Kubernetes would see.
fn objects(streams: &[&str]) -> Vec<Vec<Value>> {
    let script = "import json, sys, yaml\nprint(json.dumps([[d for d in yaml.safe_load_all(s) if d] for s in json.load(sys.stdin)]))";
    let (code, out, err) = run(tool("python").arg("-c").arg(script), &json!(streams).to_string());
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

fn one<'o>(objects: &'o [Value], kind: &str) -> &'o Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

fn daemonset(objects: &[Value]) -> &Value {
    &one(objects, "DaemonSet")["spec"]["template"]["spec"]
}

// === Compared with kustomize ===

/// Where the chart must differ, the test makes both equal:
///
/// - Helm's own labels distinguish its releases, and kustomize has none;
/// - the ConfigMap's name ends in a hash of its content, and each of both has its own way of hashing. What remains of it are the labels and
///   annotations by which Helm keeps it, and a text with or without comments;
/// - the chart makes one policy for all stores of the configuration, and one for the API server, and each component has one of its own name;
/// - the release's namespace exists before the chart does.
///
/// The order of volumes and of what is projected means nothing to Kubernetes.
fn comparable(objects: &[Value]) -> BTreeMap<String, Value> {
    let kept = objects.iter().filter(|object| object["kind"] != "Namespace");
    kept.map(|object| {
        let mut object = object.clone();
        if object["kind"] == "ConfigMap" {
            let text = object["data"]["keyferry.yaml"].as_str().unwrap();
            object["data"]["keyferry.yaml"] = crate::helm::objects(&[text])[0][0].clone();
            object["metadata"] = json!({ "name": "keyferry-config", "namespace": object["metadata"]["namespace"] });
        }
        without_helms_labels(&mut object["metadata"]["labels"]);
        for (component, chart) in COMPONENTS {
            if object["metadata"]["name"] == component {
                object["metadata"]["name"] = chart.into();
            }
        }
        if object["kind"] == "DaemonSet" {
            let template = &mut object["spec"]["template"];
            without_helms_labels(&mut template["metadata"]["labels"]);
            sort(&mut template["spec"]["volumes"]);
            sort(&mut template["spec"]["containers"][0]["volumeMounts"]);
            for volume in template["spec"]["volumes"].as_array_mut().unwrap() {
                if volume["name"] == "etc" {
                    let sources = &mut volume["projected"]["sources"];
                    sources[0]["configMap"]["name"] = "keyferry-config".into();
                    sort(sources);
                }
            }
        }
        (format!("{} {}", object["kind"], object["metadata"]["name"]), object)
    })
    .collect()
}

fn without_helms_labels(labels: &mut Value) {
    if let Some(labels) = labels.as_object_mut() {
        labels.retain(|label, _| label == "app.kubernetes.io/name");
    }
}

fn sort(list: &mut Value) {
    list.as_array_mut().unwrap().sort_by_key(|item| sorted(item).to_string());
}

/// With keys in order, so that equal mappings are equal texts.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(entries) => {
            entries.iter().map(|(key, value)| (key.clone(), sorted(value))).collect::<BTreeMap<_, _>>().into_iter().collect()
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        Value::Bool(_) | Value::Null | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

fn assert_same(name: &str, chart: &[Value], kustomize: &[Value]) {
    let (chart, kustomize) = (comparable(chart), comparable(kustomize));
    assert_eq!(chart.keys().collect::<Vec<_>>(), kustomize.keys().collect::<Vec<_>>(), "{name}");
    for (object, expected) in &kustomize {
        let (seen, expected) = (sorted(&chart[object]), sorted(expected));
        assert!(seen == expected, "{name}: {object}:\n{seen:#}\nand by kustomize\n{expected:#}");
    }
}

#[test]
fn the_chart_makes_what_the_base_and_each_overlay_make() {
    let overlays = fs::read_dir(deploy("manifests/overlays")).unwrap().map(|entry| entry.unwrap().path());
    let folders: Vec<PathBuf> = overlays.chain([deploy("manifests")]).collect();
    assert_eq!(folders.len(), 7);
    for folder in folders {
        let name = folder.file_name().unwrap().to_str().unwrap().replace("manifests", "base");
        let streams = [kustomized(&folder), rendered(HELMS[0], &values_of(&name)), rendered(HELMS[1], &values_of(&name))];
        let objects = objects(&streams.each_ref().map(String::as_str));
        for (helm, chart) in HELMS.iter().zip(&objects[1..]) {
            assert_same(&format!("{name}, {helm}"), chart, &objects[0]);
        }
    }
}

/// The chart lets Prometheus in if the configuration listens for it. With kustomize this is a component, whose configuration says so itself.
#[test]
fn the_chart_makes_what_the_base_and_the_metrics_component_make() {
    assert_as_with_component("metrics", &|text| text.replace("127.0.0.1:8095", "0.0.0.0:8095"));
}

/// The same for Events.
#[test]
fn the_chart_makes_what_the_base_and_the_events_component_make() {
    assert_as_with_component("events", &|text| text.replace("\nlog:", "\nevents: { enabled: true }\n\nlog:"));
}

/// The base with a component, and a configuration that is changed the same way in both.
fn assert_as_with_component(name: &str, changed: &dyn Fn(&str) -> String) {
    let home = folder::new();
    for part in ["base", &format!("components/{name}")] {
        for file in files_below(&deploy("manifests").join(part), "yaml") {
            let copy = home.path().join(file.strip_prefix(deploy("manifests")).unwrap());
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::write(copy, changed(&fs::read_to_string(file).unwrap())).unwrap();
        }
    }
    let kustomization = format!("resources: [base]\ncomponents: [components/{name}]\n");
    fs::write(home.path().join("kustomization.yaml"), kustomization).unwrap();
    let default = fs::read_to_string(deploy(CHART).join("files/keyferry.yaml")).unwrap();
    assert_ne!(changed(&default), default);
    let objects = objects(&[&kustomized(home.path()), &rendered(NEWEST, &as_values(&changed(&default)))]);
    assert_same(name, &objects[1], &objects[0]);
}

/// A configuration as values, as the chart's README says.
fn as_values(config: &str) -> String {
    config.lines().fold("config:\n".to_owned(), |mut values, line| {
        let _ = writeln!(values, "  {line}");
        values
    })
}

// === What is rendered ===

#[test]
fn both_helms_render_the_same_bytes_each_time() {
    for file in all_values() {
        let values = fs::read_to_string(&file).unwrap();
        let first = rendered(NEWEST, &values);
        assert!(first.contains("kind: DaemonSet"), "{}", file.display());
        for helm in HELMS {
            assert_eq!(rendered(helm, &values), first, "{}, {helm}", file.display());
        }
    }
}

/// The rendered text depends on the values alone: Argo CD renders without a cluster, and again at each sync.
#[test]
fn templates_ask_no_cluster_and_make_nothing_up() {
    let files =
        files_below(&deploy(CHART).join("templates"), "yaml").into_iter().chain(files_below(&deploy(CHART).join("templates"), "tpl"));
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for word in [
            "lookup",
            "randA",
            "randB",
            "randI",
            "randN",
            "uuid",
            "now",
            "Capabilities",
            "gen",
            "htpasswd",
            "derivePassword",
            "getHostByName",
            "Release.Is",
        ] {
            let called =
                text.match_indices(word).any(|(at, _)| !text[..at].ends_with(|before: char| before.is_alphanumeric() || before == '-'));
            assert!(!called, "{} has {word}", file.display());
        }
    }
}

#[test]
fn every_rendered_configuration_passes_keyferry_check() {
    for file in all_values() {
        let stream = rendered(NEWEST, &fs::read_to_string(&file).unwrap());
        let (code, out, err) = run(keyferry().args(["check", "--config", "-"]), &stream);
        assert_eq!((code, err.as_str()), (0, ""), "{}: {out}", file.display());
    }
    for file in configurations() {
        let stream = rendered(NEWEST, &as_values(&fs::read_to_string(&file).unwrap()));
        let (code, out, _) = run(keyferry().args(["check", "--config", "-"]), &stream);
        assert_eq!(code, 0, "{}: {out}", file.display());
    }
}

/// The schema knows shapes. The rest is found in what is rendered.
#[test]
fn what_no_schema_sees_is_found_by_keyferry_check() {
    let values = "config:\n  backends: { files: { kind: file, vault: /v, identity: /etc/keyferry/age.key } }\n  policy: [{ pods: { namespace: '*' }, read: ['files/$namespace/**', 'file/x'] }]\n";
    for helm in HELMS {
        let stream = template(helm, values, &["--show-only", "templates/configmap.yaml"]).unwrap();
        let (code, out, _) = run(keyferry().args(["check", "--config", "-"]), &stream);
        assert_eq!(code, 1);
        insta::allow_duplicates!(insta::assert_snapshot!(out, @r#"
        <stdin>:31:9: error: policy rule 1.read: "files/$namespace/**": "$namespace" is not a placeholder (did you mean "files/${namespace}/**"?)
        <stdin>:32:9: error: policy rule 1.read: "file/x": there is no backend "file" (did you mean "files/x"?)
        <stdin>: 2 faults
        "#));
    }
}

#[test]
fn large_numbers_stay_numbers() {
    let values = "config:\n  backends: { files: { kind: file, vault: /v, identity: /etc/keyferry/age.key } }\n  policy: []\n  allowedPeers: [0, 1000000]\n  limits: { memory: 1073741824 }\n";
    for helm in HELMS {
        let stream = rendered(helm, values);
        assert!(stream.contains("- 1000000\n") && stream.contains("memory: 1073741824\n"), "{stream}");
    }
}

/// `--reuse-values` after an upgrade of the chart: values that the former chart did not have are missing.
#[test]
fn every_value_may_be_missing() {
    let missing: Vec<String> = values_keys().into_iter().filter(|key| !key.contains('.')).map(|key| format!("{key}=null")).collect();
    for helm in HELMS {
        let stream = template(helm, "", &["--set", &missing.join(",")]).unwrap();
        assert!(!stream.contains("nil") && !stream.contains("null"), "{stream}");
    }
}

/// Each release's ConfigMap has a name of its own, and Helm leaves it in place.
#[test]
fn a_changed_configuration_is_another_configmap() {
    let name = |values: &str| {
        let objects = objects(&[&rendered(NEWEST, values)]);
        let config = one(&objects[0], "ConfigMap")["metadata"].clone();
        let mounted = daemonset(&objects[0])["volumes"][0]["projected"]["sources"][0]["configMap"]["name"].clone();
        assert_eq!(config["name"], mounted);
        config
    };
    let (base, other) = (name(""), name(&values_of("openbao")));
    assert_ne!(base["name"], other["name"]);
    assert_eq!(base["annotations"]["helm.sh/resource-policy"], "keep");
    assert_eq!(format!("keyferry-config-{}", base["labels"]["keyferry-config"].as_str().unwrap()), base["name"]);
    // Other values leave it as it is.
    assert_eq!(name("podLabels: { a: b }")["name"], base["name"]);
    let fixed = name("rollOnChange: false");
    assert_eq!((&fixed["name"], &fixed["annotations"]), (&json!("keyferry-config"), &Value::Null));
}

/// Prometheus' own templates (`{{ $labels.instance }}`) are not Helm's, and links lead to the user's copy of the docs.
#[test]
fn rules_and_dashboard_are_rendered_to_the_letter() {
    let more = ["--set", "prometheusRule.docsUrl=https://git.example/keyferry/"];
    let rules =
        fs::read_to_string(deploy("prometheus/rules.yaml")).unwrap().replace("https://keyferry.example", "https://git.example/keyferry");
    for helm in HELMS {
        let objects = objects(&[&template(helm, &values_of("everything"), &more).unwrap(), &rules]);
        assert_eq!(one(&objects[0], "PrometheusRule")["spec"], objects[1][0], "{helm}");
        let dashboard = objects[0].iter().find_map(|object| object["data"]["keyferry.json"].as_str()).unwrap();
        let original = fs::read_to_string(deploy("grafana/keyferry.json")).unwrap();
        assert_eq!(dashboard.trim(), original.trim(), "{helm}");
        // The rules and the dashboard use this label for a node.
        assert_eq!(one(&objects[0], "PodMonitor")["spec"]["podMetricsEndpoints"][0]["relabelings"][0]["targetLabel"], "instance");
    }
}

#[test]
fn a_package_has_all_that_is_rendered() {
    let home = folder::new();
    for helm in HELMS {
        let (code, _, err) = run(fetched(helm).arg("package").arg(deploy(CHART)).arg("--destination").arg(home.path()), "");
        assert_eq!(code, 0, "{helm}: {err}");
        let package = home.path().join(format!("keyferry-{}.tgz", env!("CARGO_PKG_VERSION")));
        let mut command = fetched(helm);
        command.args(["template", "keyferry", "--namespace", "keyferry", "--values", "-"]).arg(&package);
        let (_, out, err) = run(&mut command, &values_of("everything"));
        assert_eq!(out, rendered(helm, &values_of("everything")), "{err}");
        fs::remove_file(package).unwrap();
    }
}

#[test]
fn the_linter_has_nothing_to_say() {
    for file in all_values() {
        for helm in HELMS {
            let (code, out, err) =
                run(fetched(helm).args(["lint", "--strict", "--quiet"]).arg(deploy(CHART)).arg("--values").arg(&file), "");
            assert_eq!((code, out.trim()), (0, ""), "{helm}: {err}");
        }
    }
}

// === Rights and network rules ===

/// A vault with this address, and the rules that let Keyferry out to it.
fn way_out(address: &str, more: &str) -> Value {
    let values = format!(
        "config:\n  backends: {{ bao: {{ kind: vault, address: '{address}', auth: {{ method: jwt }} }} }}\n  policy: []\n  identity: {{ issuer: x, jwks: {{ file: /etc/keyferry/jwks.json }} }}\n{more}"
    );
    let stream = rendered(NEWEST, &values);
    let objects = objects(&[&stream]);
    let policy = objects[0].iter().find(|object| object["metadata"]["name"] == "keyferry-to-stores");
    policy.map_or(Value::Null, |policy| policy["spec"]["egress"].clone())
}

#[test]
fn the_way_out_is_the_stores_address() {
    let dns = json!({
        "to": [{ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "kube-system" } } }],
        "ports": [{ "port": 53, "protocol": "UDP" }, { "port": 53, "protocol": "TCP" }],
    });
    let ports = |port: u16| json!([{ "port": port, "protocol": "TCP" }]);
    let namespace = |name: &str| json!([{ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": name } } }]);
    for (address, expected) in [
        ("https://bao.bao.svc:8200", json!([{ "ports": ports(8200), "to": namespace("bao") }, dns])),
        ("https://bao-0.bao-internal.vaults.svc.cluster.local.:8200", json!([{ "ports": ports(8200), "to": namespace("vaults") }, dns])),
        ("https://Vault.Example", json!([{ "ports": ports(443) }, dns])),
        ("http://vault.example", json!([{ "ports": ports(80) }, dns])),
        // `svc` does not mark a namespace here.
        ("https://svc.example.com:8200", json!([{ "ports": ports(8200) }, dns])),
        ("https://192.0.2.7:8200", json!([{ "ports": ports(8200), "to": [{ "ipBlock": { "cidr": "192.0.2.7/32" } }] }])),
        ("https://[2001:db8::7]:8200", json!([{ "ports": ports(8200), "to": [{ "ipBlock": { "cidr": "2001:db8::7/128" } }] }])),
        ("https://[2001:db8::7]", json!([{ "ports": ports(443), "to": [{ "ipBlock": { "cidr": "2001:db8::7/128" } }] }])),
        ("http://127.0.0.1:8200", Value::Null),
        ("http://[::1]:8200", Value::Null),
        ("http://localhost:8200", Value::Null),
        ("unix:///run/bao/bao.sock", Value::Null),
    ] {
        assert_eq!(way_out(address, ""), expected, "{address}");
    }
    let given = json!([{ "to": [{ "ipBlock": { "cidr": "192.0.2.0/24" } }] }, dns]);
    let rule = "networkPolicy: { backends: { bao: [{ to: [{ ipBlock: { cidr: 192.0.2.0/24 } }] }] } }";
    assert_eq!(way_out("https://vault.example", rule), given);
    assert_eq!(way_out("https://192.0.2.7", "networkPolicy: { backends: { bao: [] } }"), Value::Null);
    assert_eq!(way_out("https://vault.example", "networkPolicy: { enabled: false }"), Value::Null);
}

/// What Keyferry asks the API server for, by what `identity` says: names of objects, and whether the Pod has a token.
#[test]
fn rights_are_those_that_the_identity_needs() {
    let discovery = ["ClusterRoleBinding keyferry-issuer-discovery", "NetworkPolicy keyferry-to-api-server"];
    let review = ["ClusterRole keyferry-token-review", "ClusterRoleBinding keyferry-token-review", "NetworkPolicy keyferry-to-api-server"];
    let stores = ["NetworkPolicy keyferry-to-stores"];
    let file = "{ issuer: x, jwks: { file: /etc/keyferry/jwks.json } }";
    let events = ["ClusterRole keyferry-events", "ClusterRoleBinding keyferry-events", "NetworkPolicy keyferry-to-api-server"];
    let both = [&events[..], &review[..2]].concat();
    for (identity, expected, token) in [
        ("{}", &discovery[..], true),
        ("{ issuer: 'https://x' }", &discovery, true),
        ("{ jwks: {} }", &discovery, true),
        (file, &[], false),
        (&format!("{file}\n  events: {{ enabled: false }}"), &[], false),
        (&format!("{file}\n  events: {{ enabled: true }}"), &events, true),
        ("{ verify: token-review }\n  events: { enabled: true }", &both, true),
        ("{ jwks: { file: /etc/keyferry/jwks.json } }", &[], true),
        ("{ issuer: x, jwks: { url: 'https://oidc.example/keys' } }", &stores, false),
        ("{ jwks: { url: 'https://oidc.example/keys', tokenFile: /etc/keyferry/jwks.json } }", &stores, false),
        ("{ verify: token-review }", &review, true),
        ("{ verify: driver }", &[], false),
    ] {
        let values = format!(
            "config:\n  identity: {identity}\n  backends: {{ files: {{ kind: file, vault: /v, identity: /etc/keyferry/age.key }} }}\n  policy: []\n"
        );
        let objects = objects(&[&rendered(NEWEST, &values), &rendered(NEWEST, &format!("{values}rbac: {{ create: false }}\n"))]);
        let made = |objects: &[Value]| -> BTreeSet<String> {
            let asked = objects.iter().filter(|object| {
                object["kind"].as_str().unwrap().contains("Role") || object["metadata"]["name"].as_str().unwrap().contains("-to-")
            });
            asked.map(|object| format!("{} {}", object["kind"], object["metadata"]["name"]).replace('"', "")).collect()
        };
        assert_eq!(made(&objects[0]), expected.iter().map(|&name| name.to_owned()).collect(), "{identity}");
        assert!(made(&objects[1]).iter().all(|name| !name.contains("Role")), "{identity}");
        assert_eq!(daemonset(&objects[0])["automountServiceAccountToken"], token, "{identity}");
    }
}

/// The daemon reads ServiceAccounts only if nothing else says which role they have.
#[test]
fn annotations_are_read_where_they_name_the_role() {
    let right = json!([[{ "apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["get"] }]]);
    for (auth, expected) in [
        ("{ method: irsa }", &right),
        ("{ method: irsa, role: 'arn:aws:iam::111122223333:role/web' }", &json!([])),
        ("{ method: podIdentity }", &json!([])),
    ] {
        let backend = format!("{{ kind: aws, region: eu-west-1, auth: {auth} }}");
        let identity = "{ issuer: x, jwks: { file: /etc/keyferry/jwks.json } }";
        let values = format!("config:\n  identity: {identity}\n  backends: {{ amazon: {backend} }}\n  policy: []\n");
        let objects = objects(&[&rendered(NEWEST, &values)]);
        let rights: Vec<_> = objects[0].iter().filter(|object| object["kind"] == "ClusterRole").map(|object| &object["rules"]).collect();
        assert_eq!(json!(rights), *expected, "{auth}");
        assert_eq!(daemonset(&objects[0])["automountServiceAccountToken"], !rights.is_empty(), "{auth}");
    }
}

// === Wrong values ===

/// Each of the two Helms reports a schema's faults in its own words. What they name must be there.
#[test]
fn wrong_values_are_refused_and_named() {
    let config = |text: &str| {
        format!("config: {{ backends: {{ files: {{ kind: file, vault: /v, identity: /etc/keyferry/age.key }} }}, policy: [], {text} }}")
    };
    for (values, words) in [
        (config("polcy: []"), &["polcy"][..]),
        ("confg: {}".to_owned(), &["confg"]),
        ("config: |\n  backends: {}\n".to_owned(), &["config", "object"]),
        ("config: { backends: {} }".to_owned(), &["policy"]),
        ("config: { backends: { s: { kind: vualt, address: 'https://x' } }, policy: [] }".to_owned(), &["kind", "file", "http", "vault"]),
        (
            "config: { backends: { s: { kind: vault, adress: 'https://x', auth: { method: jwt } } }, policy: [] }".to_owned(),
            &["adress", "address"],
        ),
        ("config: { backends: { s: { kind: file, vault: rel, identity: /x } }, policy: [] }".to_owned(), &["vault", "'^/'"]),
        (config("cache: { fresh: soon }"), &["fresh"]),
        (config("socketMode: 0600"), &["socketMode", "0600"]),
        (config("metrics: { listen: 8095 }"), &["listen", "string"]),
        (config("events: { enabled: sometimes }"), &["enabled"]),
        ("image: registry.example/keyferry:0.1.0".to_owned(), &["image", "object"]),
        ("image: { repository: 'registry.example/keyferry:0.1.0' }".to_owned(), &["repository"]),
        ("image: { digest: latest }".to_owned(), &["digest"]),
        ("maxUnavailable: 0".to_owned(), &["maxUnavailable", "1"]),
        ("podLabels: { team: 7 }".to_owned(), &["team", "string"]),
        ("tolerations: { operator: Exists }".to_owned(), &["tolerations", "array"]),
        ("imagePullSecrets: [registry-login]".to_owned(), &["imagePullSecrets"]),
        ("files: { age.key: { secret: My_Secret } }".to_owned(), &["age.key", "secret"]),
        ("rollOnChange: 'false'".to_owned(), &["rollOnChange", "boolean"]),
    ] {
        for helm in HELMS {
            let error = template(helm, &values, &[]).expect_err(&values);
            for word in words {
                assert!(error.contains(word), "{helm}: {values}: {word} is not in: {error}");
            }
        }
    }
}

/// Helm's message, without the place in the templates.
fn faults(error: &str) -> &str {
    error.split_once('\n').unwrap().1.split("\n\n").next().unwrap()
}

#[test]
fn what_does_not_fit_together_is_refused_all_at_once() {
    let values = "
config:
  backends:
    bao: { kind: vault, address: 'https://bao:8200', ca: /etc/keyferry/my-ca.crt, auth: { method: approle, roleIdFile: /etc/keyferry/bao/role } }
  policy: []
  identity: { jwks: { file: /etc/keyferry/jwks.json } }
  cache: { sealed: { dir: /var/cache/keyferry, key: /etc/keyferry/cache.key } }
  audit: { file: /var/log/keyferry/audit.log }
files:
  cache.key: { key: sealing.key }
  jwks.json: { secret: a, configMap: b }
networkPolicy: { backends: { boa: [] } }
podMonitor: { create: true }
vaultSecrets: { folders: { shop: keyferry-vault-shop } }
";
    for helm in HELMS {
        let error = template(helm, values, &[]).unwrap_err();
        insta::allow_duplicates!(insta::assert_snapshot!(faults(&error), @r#"
        files."cache.key": must have `secret` or `configMap`, and not both
        files."jwks.json": must have `secret` or `configMap`, and not both
        config.backends.bao.auth.roleIdFile: nothing mounts /etc/keyferry/bao/role (set files."bao/role" to { secret: NAME } or { configMap: NAME })
        config.backends.bao.ca: nothing mounts /etc/keyferry/my-ca.crt (set files."my-ca.crt" to { secret: NAME } or { configMap: NAME })
        config.audit.file: the container cannot write /var/log/keyferry/audit.log (choose a path below /var/lib/keyferry, or mount a folder by extraVolumes and extraVolumeMounts)
        config.cache.sealed.dir: the container cannot write /var/cache/keyferry (choose a path below /var/lib/keyferry, or mount a folder by extraVolumes and extraVolumeMounts)
        vaultSecrets.recipients: is missing (set it to the Secret that has the vault's file .recipients)
        podMonitor.create: Prometheus cannot reach the metrics, because config.metrics.listen is missing or is an address inside the Pod (set config.metrics.listen: "0.0.0.0:8095")
        networkPolicy.backends.boa: config.backends has no backend of this name (it has: bao)
        "#));
    }
    let two = "
config:
  backends:
    a: { kind: file, vault: /srv/a, identity: /etc/keyferry/age.key }
    b: { kind: file, vault: /srv/b, identity: /etc/keyferry/age.key }
  policy: []
vaultSecrets: { recipients: keyferry-vault }
";
    let error = template(NEWEST, two, &[]).unwrap_err();
    insta::assert_snapshot!(faults(&error), @r"
    vaultSecrets: needs exactly 1 backend of `kind: file`, and config.backends has 2 (remove vaultSecrets, or correct config.backends)
    ");
}

// === Words ===

/// The keys of values.yaml with their paths, without those of mappings that have the user's own keys.
fn values_keys() -> Vec<String> {
    let text = fs::read_to_string(deploy(CHART).join("values.yaml")).unwrap();
    let values = objects(&[&text])[0][0].clone();
    let mut keys = Vec::new();
    walk("", values.as_object().unwrap(), &mut keys);
    assert!(keys.len() > 40, "{keys:?}");
    keys
}

fn walk(above: &str, values: &Map<String, Value>, keys: &mut Vec<String>) {
    for (key, value) in values {
        let path = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
        keys.push(path.clone());
        if let Some(below) = value.as_object().filter(|_| !path.ends_with("labels")) {
            walk(&path, below, keys);
        }
    }
}

/// Each value is in the README's table, or a key above it is.
#[test]
fn the_readme_has_every_value_and_no_other() {
    let readme = fs::read_to_string(deploy(CHART).join("README.md")).unwrap();
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('|')).map(|(names, _)| names);
    let listed: BTreeSet<&str> = rows.flat_map(|names| names.split('`').filter(|name| !name.trim_matches([',', ' ']).is_empty())).collect();
    let keys = values_keys();
    for key in &keys {
        let found = listed.iter().any(|row| key == row || key.starts_with(&format!("{row}.")) || row.starts_with(&format!("{key}.")));
        assert!(found, "README.md has no row for {key}");
    }
    for row in listed {
        assert!(keys.iter().any(|key| key == row), "README.md has a row for {row}, which values.yaml does not have");
    }
}

/// Helm 3 asks a cluster even for a dry run; `make e2e` reads its notes.
fn notes(values: &str) -> String {
    let mut command = fetched(NEWEST);
    command.args(["install", "keyferry", "--namespace", "keyferry", "--dry-run=client", "--values", "-"]).arg(deploy(CHART));
    let (code, out, err) = run(&mut command, values);
    assert_eq!(code, 0, "{err}");
    out.split_once("NOTES:\n").unwrap().1.to_owned()
}

#[test]
fn the_notes_say_what_is_to_be_made() {
    insta::assert_snapshot!(notes(&values_of("openbao")), @r#"
    Keyferry 0.1.0 is on its way to the nodes, and ready when this command ends:

        kubectl -n keyferry rollout status daemonset/keyferry

    1. The namespace must allow folders of the node:

        kubectl label namespace keyferry pod-security.kubernetes.io/enforce=privileged

    2. Keys and files. This chart makes no key, and it does not see which of these exist. Until all of them do, Pods of Keyferry wait, and their events name
       what is missing:

        kubectl -n keyferry get configmap/keyferry-jwks secret/keyferry-bao secret/keyferry-version-key

       These commands make them, from files on your machine:

        kubectl get --raw /openid/v1/jwks >jwks.json
        kubectl -n keyferry create configmap keyferry-jwks --from-file=jwks.json
        (umask 077; head -c 32 /dev/urandom >cache.key)
        kubectl -n keyferry create secret generic keyferry-bao --from-file=bao-ca.crt --from-file=cache.key
        rm cache.key
        (umask 077; head -c 32 /dev/urandom >version.key)
        kubectl -n keyferry create secret generic keyferry-version-key --from-file=version.key
        rm version.key

    3. Tokens. tokenRequests of the CSIDriver object must have these audiences: bao, keyferry. What it has now:

        kubectl get csidriver secrets-store.csi.k8s.io -o jsonpath='{.spec.tokenRequests}{"\n"}{.spec.requiresRepublish}{"\n"}'

       If something is missing, and Helm manages the driver (the list is replaced: add the audiences of other providers to it):

        helm -n kube-system upgrade csi-secrets-store secrets-store-csi-driver/secrets-store-csi-driver --version 1.6.0 --reuse-values \
          --set-json 'tokenRequests=[{"audience":"bao"},{"audience":"keyferry"}]' --set enableSecretRotation=true --set-string rotationPollInterval=0s

       If something else does:

        kubectl patch csidriver secrets-store.csi.k8s.io --type=merge \
          --patch='{"spec":{"requiresRepublish":true,"tokenRequests":[{"audience":"bao"},{"audience":"keyferry"}]}}'

    On a node in doubt, this command tells what is wrong, with the remedy:

        kubectl -n keyferry exec daemonset/keyferry -- /keyferry doctor

    The configuration is in configmap/keyferry-config-26eab38cee. Helm keeps those of former configurations, because Pods that are not replaced yet
    mount them. Once the rollout has ended, this command removes them:

        kubectl -n keyferry delete configmap -l 'app.kubernetes.io/instance=keyferry,keyferry-config,keyferry-config!=26eab38cee'
    "#);
}

/// The audiences are those that the program itself finds in the configuration.
#[test]
fn the_notes_and_doctor_ask_for_the_same_audiences() {
    for file in all_values() {
        let values = fs::read_to_string(&file).unwrap();
        let objects = objects(&[&rendered(NEWEST, &values)]);
        let home = folder::new();
        let config = home.path().join("keyferry.yaml");
        fs::write(&config, one(&objects[0], "ConfigMap")["data"]["keyferry.yaml"].as_str().unwrap()).unwrap();
        let (_, out, _) = run(keyferry().arg("doctor").arg("--config").arg(&config), "");
        let requests = out.lines().find_map(|line| Some(line.split_once("\"tokenRequests\":")?.1.split_once("}}'")?.0)).unwrap();
        let notes = notes(&values);
        assert!(notes.contains(&format!("--set-json 'tokenRequests={requests}'")), "{}: {requests}: {notes}", file.display());
        assert!(notes.contains(&format!("\"tokenRequests\":{requests}}}}}'")), "{}: {requests}: {notes}", file.display());
    }
}
