//! The alert rules and the dashboard. Prometheus' own tool runs the cases of `tests/alerts`, and each name in a query is a metric of a real daemon.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::api_server::{Answer, ApiServer};
use crate::deploy::{deploy, documents};
use crate::support::{House, ISSUER, apart, eventually, http, keyferry, pod, web};

/// The labels that Prometheus adds to a target, and those of a histogram.
const NOT_OURS: [&str; 3] = ["instance", "job", "le"];

/// A metric as a query selects it.
#[derive(Debug)]
struct Selector {
    metric: String,
    /// Label, operator and value.
    matchers: Vec<(String, String, String)>,
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn promtool(arguments: &[&str]) -> String {
    let own = root(".tools/prometheus/usr/bin/promtool");
    let program = if own.exists() { own } else { PathBuf::from("promtool") };
    let output = apart(&program).args(arguments).current_dir(root("")).output();
    let output = output.unwrap_or_else(|error| panic!("promtool: {error} (run `make tools`)"));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said
}

/// Name and expression of each alert, with its annotations.
fn rules() -> Vec<(String, String, Value)> {
    let document = documents(&deploy("prometheus/rules.yaml")).remove(0);
    let groups = document["groups"].as_array().unwrap().clone();
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone());
    let text = |rule: &Value, key: &str| rule[key].as_str().unwrap().to_owned();
    rules.map(|rule| (text(&rule, "alert"), text(&rule, "expr"), rule["annotations"].clone())).collect()
}

/// Every query of the dashboard, and that of its variable.
fn queries() -> Vec<String> {
    fn below(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(entries) => {
                for (key, value) in entries {
                    if let (Some(text), "expr" | "query") = (value.as_str(), key.as_str()) {
                        found.push(text.to_owned());
                    }
                    below(value, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| below(item, found)),
            Value::Bool(_) | Value::Null | Value::Number(_) | Value::String(_) => {}
        }
    }
    let dashboard = serde_json::from_str(&fs::read_to_string(deploy("grafana/keyferry.json")).unwrap()).unwrap();
    let mut found = Vec::new();
    below(&dashboard, &mut found);
    found
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn selectors(query: &str) -> Vec<Selector> {
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(at) = ["keyferry_", "process_"].iter().filter_map(|prefix| rest.find(prefix)).min() {
        let inside = rest[..at].matches('"').count() % 2 == 1;
        let metric: String = rest[at..].chars().take_while(|c| is_name(*c)).collect();
        rest = &rest[at + metric.len()..];
        let mut matchers = Vec::new();
        if let Some(braces) = rest.strip_prefix('{') {
            let end = braces.find('}').unwrap();
            for matcher in braces[..end].split("\", ").flat_map(|part| part.split("\",")) {
                let label: String = matcher.trim().chars().take_while(|c| is_name(*c)).collect();
                let (operator, value) = matcher.trim()[label.len()..].split_once('"').unwrap();
                matchers.push((label, operator.trim().to_owned(), value.trim_end_matches('"').to_owned()));
            }
            rest = &braces[end..];
        }
        if !inside {
            found.push(Selector { metric, matchers });
        }
    }
    found
}

/// The labels that a query groups or matches by.
fn grouped_by(query: &str) -> BTreeSet<String> {
    let mut labels = BTreeSet::new();
    for word in ["by (", "on (", "ignoring ("] {
        for part in query.split(word).skip(1) {
            labels.extend(part.split(')').next().unwrap().split(',').map(|label| label.trim().to_owned()));
        }
    }
    labels
}

#[test]
fn each_alert_fires_for_its_cause_and_no_other() {
    promtool(&["check", "rules", "deploy/prometheus/rules.yaml"]);
    promtool(&["test", "rules", "tests/alerts/rules.yaml"]);
    let cases = fs::read_to_string(root("tests/alerts/rules.yaml")).unwrap();
    for (alert, ..) in rules() {
        assert!(cases.contains(&format!("alertname: {alert}\n")), "{alert} has no case in which it fires");
    }
}

#[test]
fn each_alert_has_a_page() {
    let mut pages: BTreeSet<PathBuf> = fs::read_dir(root("docs/runbooks")).unwrap().map(|entry| entry.unwrap().path()).collect();
    for (alert, _, annotations) in rules() {
        let path = format!("docs/runbooks/{alert}.md");
        assert_eq!(annotations["runbook_url"], format!("https://keyferry.example/{path}"));
        assert!(annotations["summary"].is_string() && annotations["description"].is_string(), "{alert}");
        assert!(pages.remove(&root(&path)), "there is no {path}");
        let page = fs::read_to_string(root(&path)).unwrap();
        assert!(page.starts_with(&format!("# {alert}\n")), "{path}");
        for heading in ["## Who is hurt", "## How to look", "## What to do"] {
            assert!(page.contains(&format!("\n{heading}\n\n")), "{path} has no {heading:?}");
        }
    }
    assert!(pages.is_empty(), "pages without an alert: {pages:?}");
}

/// All that a page tells a person to run exists: commands, their options, and the links.
#[test]
fn what_the_pages_tell_to_do_can_be_done() {
    for entry in fs::read_dir(root("docs/runbooks")).unwrap() {
        let path = entry.unwrap().path();
        let page = fs::read_to_string(&path).unwrap();
        for line in page.lines() {
            for (_, after) in line.match_indices("keyferry ").map(|(at, found)| (at, &line[at + found.len()..])) {
                let is_command = line[..line.len() - after.len()].ends_with("`keyferry ") || line.starts_with("    ");
                let words: Vec<&str> = after.split(['`', '|', ' ']).collect();
                let command = words[0];
                if !is_command || command.is_empty() || !command.chars().all(|c| c.is_ascii_lowercase()) {
                    continue;
                }
                let help = keyferry().args([command, "--help"]).output().unwrap();
                assert!(help.status.success(), "{}: there is no `keyferry {command}`", path.display());
                let help = String::from_utf8(help.stdout).unwrap();
                for option in words.iter().filter(|word| word.starts_with("--")) {
                    assert!(help.contains(option), "{}: `keyferry {command}` has no {option}", path.display());
                }
            }
        }
        for link in page.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = path.parent().unwrap().join(file);
            let text = fs::read_to_string(&target).unwrap_or_else(|error| panic!("{}: {link}: {error}", path.display()));
            let slug = |heading: &str| {
                let kept = heading
                    .trim_start_matches('#')
                    .trim()
                    .to_lowercase()
                    .chars()
                    .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
                    .collect::<String>();
                kept.replace(' ', "-")
            };
            let found = anchor.is_empty() || text.lines().filter(|line| line.starts_with('#')).any(|line| slug(line) == anchor);
            assert!(found, "{}: {link}: no such heading", path.display());
        }
    }
}

/// A daemon that had a success, failures, keys from an address, a store with leases, a store that is out, and kubelet's folder.
pub async fn metrics() -> String {
    let server = ApiServer::start(Answer::Status(500)).await;
    let own = crate::folder::new();
    server.service_account(own.path(), "token");
    let house = House::new("");
    server.answer(Answer::Text(200, house.issuer.jwks()));
    let (at, files, url, far) = (house.folder.path().display(), own.path().display(), server.url("/keys"), server.url("/far"));
    fs::create_dir_all(house.path("kubelet/pods/uid-shop-web-0")).unwrap();
    let config = format!(
        "socketDir: {at}/sockets\nstateDir: {at}/state\nkubeletDir: {at}/kubelet\nallowedPeers: [0, {uid}]\n\
         identity: {{ issuer: \"{ISSUER}\", jwks: {{ url: \"{url}\", ca: {files}/ca.crt, tokenFile: {files}/token }} }}\n\
         backends:\n  files: {{ kind: file, vault: {at}/vault, identity: {at}/age.key }}\n  \
         bao: {{ kind: vault, address: \"http://127.0.0.1:9\", auth: {{ method: jwt, role: csi, audience: bao }} }}\n  \
         far: {{ kind: http, url: \"{far}/{{name}}\", ca: {files}/ca.crt, cache: {{ fresh: 0, stale: 24h }} }}\n  \
         farther: {{ kind: http, url: \"https://127.0.0.1:9/{{name}}\" }}\n  both: {{ kind: failover, of: [far, farther] }}\n\
         defaultBackend: files\npolicy:\n  - pods: {{ namespace: shop }}\n    read: [\"files/shop/**\", \"far/db\"]\n\
         audit: {{ alerts: [{{ rule: manySecrets, secrets: 50, within: 10m }}, {{ rule: denials, count: 20, within: 5m }}] }}\n\
         metrics: {{ listen: \"127.0.0.1:0\" }}\n",
        uid = rustix::process::geteuid().as_raw()
    );
    fs::write(house.path("keyferry.yaml"), config).unwrap();
    // The program must see mounts of the node, as in kubelet's folder of the manifests.
    let mut command = apart("unshare");
    command.args(["--mount", "--propagation", "shared"]);
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-current-user", "--keep-caps"]);
    }
    command.arg(env!("CARGO_BIN_EXE_keyferry"));
    let provider = house.serve_by(command);
    let class = "- { secret: shop/db, field: password, path: password }\n";
    provider.mount(house.request(&web(), class)).await.unwrap();
    provider.mount(house.request(&pod("bank", "web-0", "web"), class)).await.unwrap_err();
    let far = house.request(&web(), "- { backend: far, secret: db, field: password, path: password }\n");
    server.answer(Answer::Text(200, r#"{"password": "v"}"#.to_owned()));
    provider.mount(far.clone()).await.unwrap();
    server.answer(Answer::Status(500));
    provider.mount(far).await.unwrap();
    let text = async || http(&provider.metrics_address(), "GET", "/metrics").await.body;
    eventually("kubelet's folder is looked at", async || text().await.contains("keyferry_pods_without_volume 0")).await;
    text().await
}

/// The lines of a metric.
fn series<'t>(text: &'t str, metric: &str) -> Vec<&'t str> {
    text.lines().filter(|line| line.strip_prefix(metric).is_some_and(|rest| rest.starts_with(['{', ' ']))).collect()
}

/// What a query names that is not in the text of the metrics.
pub fn missing(query: &str, text: &str) -> Vec<String> {
    let mut missing = Vec::new();
    for Selector { metric, matchers } in selectors(query) {
        let series = series(text, &metric);
        if series.is_empty() {
            missing.push(format!("{query}: there is no {metric}"));
        }
        for (label, operator, value) in matchers.iter().filter(|(label, ..)| !NOT_OURS.contains(&label.as_str())) {
            for value in value.split('|').filter(|_| operator == "=" || operator == "=~") {
                let pair = format!("{label}=\"{value}\"");
                if !series.iter().any(|line| line.contains(&pair)) {
                    missing.push(format!("{query}: no {metric} has {pair}"));
                }
            }
        }
    }
    missing
}

#[tokio::test]
async fn whatever_a_query_names_is_in_the_metrics() {
    let text = metrics().await;
    let mut queries = queries();
    assert!(queries.len() > 15, "the search finds nothing: {queries:?}");
    queries.extend(rules().into_iter().map(|(_, expr, _)| expr));
    let mut count = 0;
    for query in queries {
        count += selectors(&query).len();
        let missing = missing(&query, &text);
        assert!(missing.is_empty(), "{missing:#?} in\n{text}");
        for label in grouped_by(&query).iter().filter(|label| !NOT_OURS.contains(&label.as_str())) {
            let has = selectors(&query)
                .iter()
                .any(|selector| series(&text, &selector.metric).iter().any(|line| line.contains(&format!("{label}=\""))));
            assert!(has, "{query}: no metric of it has the label {label}");
        }
    }
    assert!(count > 30, "{count}");
    // The rules name no other metric than these and Prometheus' own.
    for word in ["shop", "web-0", "bank", "uid-"] {
        assert!(!text.contains(word), "{word} is in\n{text}");
    }
}

#[test]
fn the_reader_of_queries_sees_them() {
    let query = "sum by (job, code) (increase(keyferry_mounts_total{outcome=\"failed\", code=~\"A|B\"}[5m])) > 0 or process_open_fds";
    let found = selectors(query);
    assert_eq!(found.iter().map(|one| one.metric.as_str()).collect::<Vec<_>>(), ["keyferry_mounts_total", "process_open_fds"]);
    let matchers: Vec<_> = found[0].matchers.iter().map(|(label, operator, value)| format!("{label} {operator} {value}")).collect();
    assert_eq!(matchers, ["outcome = failed", "code =~ A|B"]);
    assert_eq!(grouped_by(query).into_iter().collect::<Vec<_>>(), ["code", "job"]);
    assert!(selectors("up{job=~\".*keyferry_x.*\"} == 0").is_empty());
}
