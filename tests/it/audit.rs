//! The audit's lines as programs read them, its file, and its alerts, all from the daemon itself. `src/audit` has the tests of its parts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use crate::check::validate;
use crate::support::{House, Provider, apart, eventually, pod, run, shown, tmpfs, web, with_mounts};

pub mod schema;

const DB: &str = "[{ secret: shop/db, field: password, path: password }]";
const SHOP: &str = "pods: { namespace: \"*\" }\n    read: [\"files/shop/**\"]";
const METRICS: &str = "metrics: { listen: 127.0.0.1:0 }";

/// A house whose audit goes to a file in a folder of its own.
fn house(audit: &str) -> House {
    let house = House::new("");
    fs::create_dir(house.path("audit")).unwrap();
    configure(&house, audit);
    house
}

fn configure(house: &House, audit: &str) {
    house.configure(SHOP, &format!("{METRICS}\naudit: {{ file: {}, {audit} }}", house.path("audit/audit.jsonl").display()));
}

/// The lines of all files in a folder, the oldest file first: whole ones, checked with the schema.
fn lines(folder: &Path) -> Vec<Value> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let number = name.strip_prefix("audit.jsonl").unwrap().trim_start_matches('.');
        if number != "lock" {
            files.insert(number.parse().unwrap_or(0), fs::read_to_string(path).unwrap());
        }
    }
    assert!(files.values().all(|text| text.is_empty() || text.ends_with('\n')), "a line is cut");
    let lines: Vec<Value> = files.values().rev().flat_map(|text| text.lines()).map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines {
        assert_eq!(schema::problem(line), None, "{line}");
    }
    lines
}

// === What lines are ===

/// Lines of every kind.
async fn every_kind() -> (House, Vec<Value>) {
    let alerts = "alerts: [{ rule: manySecrets, secrets: 3, within: 10m }, { rule: denials, count: 5, within: 5m }]";
    let house = House::new("");
    house.configure("pods: { namespace: shop }\n    read: [\"files/shop/**\"]", &format!("{METRICS}\naudit: {{ {alerts} }}"));
    for number in 0..3 {
        house.set(&format!("shop/more-{number}"), &[("value", b"x")]);
    }
    let provider = house.serve();
    let mount = async |number: usize, account: &str, objects: &str| {
        provider.mount(house.request(&pod("shop", &format!("{account}-{number}"), account), objects)).await.is_ok()
    };
    // Delivered: a file, several, a pinned one, an optional one that is not there, a repeat, a change.
    assert!(mount(1, "web", DB).await);
    assert!(mount(1, "web", DB).await);
    assert!(mount(2, "web", "[{ secret: shop/db, fields: \"*\" }]").await);
    assert!(
        mount(3, "web", "[{ secret: shop/db, version: \"1\", field: password, path: p }, { secret: shop/none, optional: true }]").await
    );
    house.set("shop/db", &[("password", b"newer")]);
    assert!(mount(1, "web", DB).await);
    assert!(mount(1, "web", DB).await);
    // Failed: no such secret, no such class, no request at all.
    assert!(!mount(4, "web", "[{ secret: shop/none }, { secret: shop/db }]").await);
    assert!(!mount(5, "web", "[{ secrte: shop/db }]").await);
    let mut unreadable = house.request(&web(), DB);
    "{".clone_into(&mut unreadable.attributes);
    provider.mount(unreadable).await.unwrap_err();
    // Alerts.
    for number in 0..3 {
        assert!(mount(number, "reader", &format!("[{{ secret: shop/more-{number} }}]")).await);
    }
    for number in 0..6 {
        assert!(!mount(number, "curious", "[{ secret: bank/db }]").await);
    }
    // More than a namespace may write: lines without objects, and then none.
    let deep = format!("bank/{}", format!("{}/", "x".repeat(220)).repeat(4));
    let long: String = (0..66).map(|number| format!("- {{ secret: {deep}{number}, path: \"{number}\" }}\n")).collect();
    let client = provider.client().await;
    // As many at a time as a namespace may have under way: Keyferry would refuse more before it reads their classes.
    for round in 0..10 {
        let mut calls = JoinSet::new();
        for number in 0..16 {
            let (mut client, request) = (client.clone(), house.request(&pod("shop", &format!("loud-{round}-{number}"), "loud"), &long));
            calls.spawn(async move { client.mount(request).await.unwrap_err() });
        }
        for refused in calls.join_all().await {
            assert!(refused.message().starts_with("PolicyDenied"), "{refused}");
        }
    }
    eventually("a line says what was left out", async || house.audit().iter().any(|line| line["event"] == "leftOut")).await;
    assert!(provider.stop().success());
    let lines = house.audit();
    (house, lines)
}

/// The kind of a line, for the list of kinds.
fn kind(line: &Value) -> String {
    let mut words = vec![line["event"].as_str().unwrap().to_owned()];
    words.extend(["outcome", "rule"].into_iter().filter_map(|key| Some(line[key].as_str()?.to_owned())));
    words.extend(["pod", "class", "more", "repeats", "repeatOf"].into_iter().filter(|key| line.get(key).is_some()).map(str::to_owned));
    words.join(" ")
}

#[tokio::test]
async fn every_line_is_by_the_schema() {
    let (house, lines) = every_kind().await;
    let kinds: BTreeSet<String> = lines.iter().map(kind).collect();
    insta::assert_snapshot!(kinds.into_iter().collect::<Vec<_>>().join("\n"), @"
    alert denials
    alert manySecrets
    leftOut
    mount delivered pod class
    mount delivered pod class repeats repeatOf
    mount delivered repeats repeatOf
    mount denied pod class
    mount denied pod class more
    mount failed
    mount failed pod class
    ");
    let outcomes: BTreeSet<&str> =
        lines.iter().filter_map(|line| line["objects"].as_array()).flatten().map(|object| object["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes.into_iter().collect::<Vec<_>>(), ["absent", "delivered", "denied", "failed", "withheld"]);
    // The long ones only once: an independent validator is slow.
    let mut documents: Map<String, Value> =
        (0..).zip(&lines).filter(|(_, line)| line["serviceAccount"] != "loud").map(|(at, line)| (format!("{at}"), line.clone())).collect();
    documents.extend(lines.iter().find(|line| line["serviceAccount"] == "loud").map(|line| ("loud".to_owned(), line.clone())));
    documents.extend(lines.iter().find(|line| line.get("more").is_some()).map(|line| ("more".to_owned(), line.clone())));
    assert_eq!(validate("audit", "", &Value::Object(documents)), "");
    for line in &lines {
        assert_eq!(schema::problem(line), None, "{line}");
    }
    assert_bad_lines_are_refused(&lines);
    the_examples_of_the_documentation(&house);
}

/// By both validators.
fn assert_bad_lines_are_refused(lines: &[Value]) {
    let mut bad = Map::new();
    for (at, line) in lines.iter().filter(|line| line["serviceAccount"] != "loud").enumerate() {
        for key in ["v", "time", "event", "request", "objects", "rule", "lines"] {
            let mut without = line.clone();
            if without.as_object_mut().unwrap().remove(key).is_some() {
                bad.insert(format!("{at} without {key}"), without);
            }
        }
    }
    let line = lines.iter().find(|line| line["event"] == "mount" && line["objects"][0]["file"].is_string()).unwrap();
    let alert = lines.iter().find(|line| line["event"] == "alert").unwrap();
    for (of, pointer, key, value) in [
        (line, "", "value", json!("correct horse")),
        (line, "", "v", json!(2)),
        (line, "", "event", json!("alert")),
        (line, "", "outcome", json!("withheld")),
        (line, "", "request", json!("00000000000000G0")),
        (line, "", "milliseconds", json!("1")),
        (line, "", "repeats", json!(0)),
        (line, "", "namespace", json!("x".repeat(254))),
        (line, "/objects/0", "object", json!(0)),
        (line, "/objects/0", "value", json!("correct horse")),
        (line, "/objects/0", "first", json!([7])),
        (line, "/objects/0", "source", json!("cache")),
        (alert, "", "rule", json!("other")),
        (alert, "", "uncounted", json!(false)),
        (alert, "", "seconds", json!(86_401)),
    ] {
        let mut changed = of.clone();
        changed.pointer_mut(pointer).unwrap().as_object_mut().unwrap().insert(key.to_owned(), value.clone());
        bad.insert(format!("{pointer}{key}={}", value.to_string().replace(' ', "")).chars().take(60).collect(), changed);
    }
    let refused = validate("audit", "", &Value::Object(bad.clone()));
    for (name, line) in &bad {
        assert!(schema::problem(line).is_some(), "{name}");
        assert!(refused.lines().any(|refusal| refusal.starts_with(&format!("{name} $"))), "{name} is not in\n{refused}");
    }
}

/// Runs each block of docs/audit.md that has jq in it, over the lines of a daemon.
fn the_examples_of_the_documentation(house: &House) {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/audit.md")).unwrap();
    let blocks: Vec<&str> =
        text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).filter(|block| block.contains("jq ")).collect();
    assert!(blocks.len() >= 3);
    let answers = blocks.iter().map(|block| {
        let mut command = apart("sh");
        command.args(["-euc", block]).current_dir(house.folder.path());
        let (code, out, err) = run(&mut command, "");
        assert_eq!((code, err.as_str()), (0, ""), "{block}\n(jq is needed: apt-get install jq)");
        // Without times.
        let shown = out.lines().map(|line| line.split(' ').filter(|word| !word.ends_with('Z')).collect::<Vec<_>>().join(" "));
        // How many lines of this kind there are depends on how long the test takes.
        shown.filter(|line| !line.contains("shop/loud")).map(|line| format!("{line}\n")).collect::<String>()
    });
    insta::assert_snapshot!(answers.collect::<Vec<_>>().join("--\n"), @"
          2 shop/web web-1
          1 shop/web web-2
          1 shop/web web-3
    --
          1 -/- InvalidRequest
          6 shop/curious PolicyDenied
          1 shop/web InvalidRequest
          1 shop/web SecretNotFound
    --
    manySecrets shop/reader
    denials shop/curious
    --
    shop/web files/shop/db
    shop/reader files/shop/more-0
    shop/reader files/shop/more-1
    shop/reader files/shop/more-2
    ");
}

// === Its file ===

/// Mounts of this many Pods, several at a time. Returns which of them got an answer.
async fn mounts(house: &House, provider: &Provider, pods: std::ops::Range<usize>) -> BTreeSet<String> {
    let (client, mut calls, mut answered) = (provider.client().await, JoinSet::new(), BTreeSet::new());
    for number in pods {
        let (pod, mut client) = (pod("shop", &format!("web-{number}"), "web"), client.clone());
        let request = house.request(&pod, DB);
        calls.spawn(async move { client.mount(request).await.is_ok().then_some(pod.name) });
    }
    while let Some(call) = calls.join_next().await {
        answered.extend(call.unwrap());
    }
    answered
}

/// With failClosed, each mount that gets an answer has a line, even if the daemon is killed at any moment.
#[tokio::test]
async fn a_killed_daemon_leaves_whole_lines_and_each_answer_has_one() {
    let house = house("failClosed: true, rotate: { size: 64KiB, keep: 50 }");
    let mut answered = BTreeSet::new();
    for round in 0..4 {
        let provider = house.serve();
        let pods = round * 400..(round + 1) * 400;
        let killed = async {
            tokio::time::sleep(tokio::time::Duration::from_millis(150 + 130 * round as u64)).await;
            provider.signal(Signal::KILL);
        };
        let (of_this_round, ()) = tokio::join!(mounts(&house, &provider, pods), killed);
        answered.extend(of_this_round);
    }
    let provider = house.serve();
    answered.extend(mounts(&house, &provider, 5_000..5_400).await);
    assert!(provider.stop().success());
    let lines = lines(&house.path("audit"));
    let with_a_line: BTreeSet<String> = lines.iter().filter_map(|line| Some(line["pod"].as_str()?.to_owned())).collect();
    assert!(answered.len() >= 400 && answered.is_subset(&with_a_line), "{:?}", answered.difference(&with_a_line).collect::<Vec<_>>());
    assert!(house.path("audit/audit.jsonl.2").exists());
}

/// As logrotate does it: move the file, then SIGHUP. No line is lost, and none is there twice.
#[tokio::test]
async fn at_sighup_the_file_is_opened_again() {
    for rotate in ["", "rotate: {}"] {
        let house = house(rotate);
        let provider = house.serve();
        let at = |name: &str| house.path("audit").join(name);
        let written = |name: &str| fs::read_to_string(at(name)).unwrap_or_default().lines().count();
        assert_eq!(mounts(&house, &provider, 0..20).await.len(), 20);
        eventually("lines", async || written("audit.jsonl") == 20).await;
        fs::rename(at("audit.jsonl"), at("audit.jsonl.1")).unwrap();
        assert_eq!(mounts(&house, &provider, 20..30).await.len(), 10);
        eventually("lines in the former file", async || written("audit.jsonl.1") == 30).await;
        provider.signal(Signal::HUP);
        eventually("a new file", async || at("audit.jsonl").exists()).await;
        assert_eq!(mounts(&house, &provider, 30..40).await.len(), 10);
        eventually("lines in the new file", async || written("audit.jsonl") == 10).await;
        // A faulty configuration changes nothing here.
        fs::write(house.path("keyferry.yaml"), "nonsense: 1\n").unwrap();
        fs::rename(at("audit.jsonl.1"), at("audit.jsonl.2")).unwrap();
        fs::rename(at("audit.jsonl"), at("audit.jsonl.1")).unwrap();
        provider.signal(Signal::HUP);
        eventually("a new file", async || at("audit.jsonl").exists()).await;
        assert!(provider.stop().success());
        let pods: Vec<_> = lines(&house.path("audit")).iter().filter_map(|line| Some(line["pod"].as_str()?.to_owned())).collect();
        assert_eq!((pods.len(), pods.iter().collect::<BTreeSet<_>>().len()), (40, 40));
    }
}

#[test]
fn a_full_disk_cuts_no_line() {
    with_mounts("audit::a_full_disk_cuts_no_line", |dir| {
        let small = tmpfs(&dir.join("small"), "size=100k");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let house = House::new("");
            let file = small.join("audit.jsonl");
            let audit = format!("{METRICS}\naudit: {{ file: {}, failClosed: true, rotate: {{ size: 64KiB, keep: 3 }} }}", file.display());
            house.configure(SHOP, &audit);
            let provider = house.serve();
            let answered = mounts(&house, &provider, 0..400).await;
            assert!((50..300).contains(&answered.len()), "{}", answered.len());
            let another = house.request(&pod("shop", "another-with-a-longer-name", "web"), DB);
            let refused = provider.mount(another.clone()).await.unwrap_err();
            insta::assert_snapshot!(refused.message(), @"AuditUnavailable: the audit line could not be written, and audit.failClosed is set: No space left on device (os error 28) (free space on the disk, or repair the file that audit.file names; mounts then go on by themselves)");
            let with_a_line = |lines: Vec<Value>| lines.iter().filter_map(|line| Some(line["pod"].as_str()?.to_owned())).collect::<BTreeSet<_>>();
            assert_eq!(with_a_line(lines(&small)), answered, "who has an answer, and nobody else");
            fs::remove_file(small.join("audit.jsonl.1")).unwrap();
            assert_eq!(shown(&provider.mount(another).await.unwrap()), ["password 0644 correct horse"]);
            assert!(with_a_line(lines(&small)).contains("another-with-a-longer-name"));
            assert!(provider.stop().success());
        });
    });
}

/// The second one waits for the first to end, and then says who is in its way.
#[tokio::test]
async fn two_daemons_do_not_rotate_one_file() {
    let (first, second) = (house("rotate: {}"), House::new(""));
    let provider = first.serve();
    let file = first.path("audit/audit.jsonl");
    second.configure(SHOP, &format!("audit: {{ file: {}, rotate: {{}} }}", file.display()));
    let mut command = crate::support::keyferry();
    command.arg("serve").arg("--config").arg(second.path("keyferry.yaml"));
    let (code, _, err) = run(&mut command, "");
    assert_eq!(code, 2, "{err}");
    let refusal = err.lines().last().unwrap().replace(first.folder.path().to_str().unwrap(), "");
    insta::assert_snapshot!(refusal, @"error: audit.file: /audit/audit.jsonl: another process writes it, and holds /audit/audit.jsonl.lock (end that process, or give each daemon a file of its own)");
    assert!(provider.stop().success());
    assert!(second.serve().stop().success());
}

// === Alerts ===

#[tokio::test]
async fn alerts_are_a_line_a_metric_and_a_log_line_and_change_at_a_reload() {
    let house = house("alerts: [{ rule: denials, count: 3, within: 10m }]");
    let provider = house.serve();
    let denied = |number: usize| house.request(&pod("shop", &format!("web-{number}"), "web"), "[{ secret: bank/db }]");
    for _ in 0..4 {
        // The same mount each time, as when kubelet tries again.
        let status = provider.mount(denied(1)).await.unwrap_err();
        assert!(status.message().starts_with("PolicyDenied: ") && !status.message().contains("alert"), "{status:?}");
    }
    let alerts = || lines(&house.path("audit")).into_iter().filter(|line| line["event"] == "alert").collect::<Vec<_>>();
    eventually("an alert", async || alerts().len() == 1).await;
    assert_eq!(provider.metric("keyferry_audit_alerts_total{rule=\"denials\"}").await, 1);
    let logged = provider.log().lines().find(|line| line.contains("an audit alert")).unwrap().to_owned();
    let logged: Value = serde_json::from_str(&logged).unwrap();
    assert_eq!((&logged["level"], &logged["namespace"], &logged["service_account"]), (&json!("WARN"), &json!("shop"), &json!("web")));
    // Another rule takes effect at once, and the former one is gone.
    configure(&house, "alerts: [{ rule: manySecrets, secrets: 1, within: 10m }]");
    provider.signal(Signal::HUP);
    eventually("a reload", async || provider.log().contains("the configuration is reloaded")).await;
    assert!(!provider.log().contains("next restart"), "{}", provider.log());
    for number in 10..20 {
        provider.mount(denied(number)).await.unwrap_err();
    }
    assert!(provider.mount(house.request(&web(), DB)).await.is_ok());
    eventually("another alert", async || alerts().len() == 2).await;
    assert_eq!(alerts()[1]["rule"], "manySecrets");
    configure(&house, "failClosed: true");
    provider.signal(Signal::HUP);
    eventually("a word on what waits", async || provider.log().contains("audit.file, audit.rotate or audit.failClosed")).await;
    assert!(provider.stop().success());
}

// === Objects of several secrets ===

const SEVERAL: &str = "[{ secrets: [shop/db, { secret: shop/none, optional: true }, shop/api], format: json, path: all.json }]";

#[tokio::test]
async fn an_object_lists_each_of_its_secrets() {
    let house = House::new("");
    house.set("shop/api", &[("token", b"t")]);
    let provider = house.serve();
    let answer = provider.mount(house.request(&web(), SEVERAL)).await.unwrap();
    let ids: Vec<&str> = answer.object_version.iter().map(|version| version.id.as_str()).collect();
    assert_eq!(ids, ["files/shop/db", "files/shop/api"], "each with its own version");
    let object = house.audit().pop().unwrap()["objects"][0].clone();
    let seen = json!([object["secret"], object["rule"], object["file"], object["outcome"]]);
    assert_eq!(seen, json!(["shop/db", 1, "all.json", "delivered"]));
    let others = json!([
        { "backend": "files", "secret": "shop/none", "rule": 1 },
        { "backend": "files", "secret": "shop/api", "version": "1", "rule": 1, "source": "store" },
    ]);
    assert_eq!(object["others"], others);
}

/// If policy denies one of the secrets, the object is denied, and Keyferry fetches nothing.
#[tokio::test]
async fn each_secret_of_an_object_needs_a_rule() {
    let house = House::new("");
    let provider = house.serve();
    let denied = "[{ secrets: [shop/db, { secret: bank/db, optional: true }], format: json, path: all.json }]";
    let status = provider.mount(house.request(&web(), denied)).await.unwrap_err();
    assert!(status.message().starts_with("PolicyDenied: object 1 (all.json): files/bank/db: "), "{}", status.message());
    let object = house.audit().pop().unwrap()["objects"][0].clone();
    assert_eq!(json!([object["outcome"], object["others"][0]["secret"], object["source"]]), json!(["denied", "bank/db", null]));
}
