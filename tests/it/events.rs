//! Events on Pods with the real binary, an API server that keeps what it gets, and a real store behind a proxy that the test cuts.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::{Arc, Mutex};

use keyferry::model::PodClaims;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::api_server::{Answer, ApiServer, Call};
use crate::bao::Proxy;
use crate::identity::in_a_pod;
use crate::stores::{Store, metric, only_file};
use crate::support::{House, Provider, eventually, on_a_bare_node, pod, run, web};

const DB: &str = "- {secret: kv/data/shop/db, field: password, path: p}";
const MORE: &str = ", cache: { fresh: 0, stale: 24h }";

/// Events by path, as an API server keeps them.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<BTreeMap<String, Value>>>);

impl Kept {
    fn answer(&self) -> Answer {
        let kept = self.clone();
        Answer::With(Box::new(move |call| kept.take(call)))
    }

    fn take(&self, call: &Call) -> (u16, String) {
        let (mut kept, body) = (self.0.lock().unwrap(), serde_json::from_str::<Value>(&call.body).unwrap());
        if call.method == "POST" {
            let path = format!("{}/{}", call.path, body["metadata"]["name"].as_str().unwrap());
            if kept.contains_key(&path) {
                return (409, String::new());
            }
            kept.insert(path, body.clone());
            return (201, body.to_string());
        }
        let Some(event) = kept.get_mut(&call.path) else { return (404, String::new()) };
        event.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        (200, event.to_string())
    }

    /// Each as `reason type namespace/pod count`, in order.
    fn shown(&self) -> Vec<String> {
        let kept = self.0.lock().unwrap();
        let mut shown: Vec<_> = kept.values().map(shown).collect();
        shown.sort();
        shown
    }

    fn notes(&self) -> Vec<String> {
        self.0.lock().unwrap().values().map(|event| event["note"].as_str().unwrap().to_owned()).collect()
    }
}

fn shown(event: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let regarding = &event["regarding"];
    assert_eq!(event["metadata"]["namespace"], regarding["namespace"]);
    let count = event["series"]["count"].as_u64().unwrap_or(1);
    format!("{} {} {}/{} {count}", text(&event["reason"]), text(&event["type"]), text(&regarding["namespace"]), text(&regarding["name"]))
}

struct Scene {
    store: Store,
    proxy: Proxy,
    server: ApiServer,
    kept: Kept,
}

impl Scene {
    async fn new() -> Self {
        let (store, kept) = (Store::new().await, Kept::default());
        let (proxy, server) = (Proxy::start(store.bao.address()), ApiServer::start(kept.answer()).await);
        server.service_account(&store.house.path("account"), "own-canary");
        store.configure(&store.bao.url_at(proxy.address), MORE, "events: { enabled: true }");
        // Inside a user namespace, the user who runs the tests looks like root.
        let uid = rustix::process::geteuid().as_raw();
        store.house.reconfigure(&format!("allowedPeers: [{uid}]"), &format!("allowedPeers: [0, {uid}]"));
        Self { store, proxy, server, kept }
    }

    fn serve(&self) -> Provider {
        self.store.house.serve_by(self.command())
    }

    fn command(&self) -> Command {
        in_a_pod(&self.server, &self.store.house.path("account"))
    }

    fn cut(&self) {
        self.proxy.lead_nowhere();
    }

    fn repair(&self) {
        self.proxy.lead_to(self.store.bao.address());
    }

    async fn mount(&self, provider: &Provider, pod: &PodClaims) -> Result<String, String> {
        let answer = provider.mount(self.store.asking(pod, DB)).await;
        answer.map(|answer| only_file(&answer)).map_err(|status| status.message().to_owned())
    }

    /// Where the last answer for this mount came from.
    fn source(&self) -> String {
        self.store.house.audit().last().unwrap()["objects"][0]["source"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until Keyferry asks the store again.
    async fn is_current(&self, provider: &Provider, pod: &PodClaims) {
        eventually("the store is asked", async || {
            self.mount(provider, pod).await.unwrap();
            self.source() == "store"
        })
        .await;
    }

    async fn told(&self, expected: &[&str]) {
        eventually("the Events are there", async || self.kept.shown().len() >= expected.len()).await;
        assert_eq!(self.kept.shown(), expected);
    }
}

#[tokio::test]
async fn a_pod_that_starts_without_the_store_is_told_so_and_when_it_is_over() {
    let scene = Scene::new().await;
    let provider = scene.serve();
    let [first, next] = [web(), pod("shop", "web-1", "web")];
    scene.mount(&provider, &first).await.unwrap();
    scene.cut();
    for pod in [&first, &next, &next] {
        assert_eq!(scene.mount(&provider, pod).await.unwrap(), "correct horse");
        assert_eq!(scene.source(), "stale");
    }
    scene.told(&["StartedFromStaleSecret Warning shop/web-1 1"]).await;
    let call = &scene.server.calls()[0];
    assert_eq!(call.authorization.as_deref(), Some("Bearer own-canary"));
    // There is nothing to report of a Pod that nobody lets in.
    scene.mount(&provider, &pod("bank", "web-0", "web")).await.unwrap_err();
    scene.repair();
    scene.is_current(&provider, &next).await;
    scene.told(&["StaleSecretReplaced Normal shop/web-1 1", "StartedFromStaleSecret Warning shop/web-1 1"]).await;
    assert!((1.5..2.5).contains(&metric(&provider, &["keyferry_events_total", "sent"]).await));
    for text in scene.kept.notes().into_iter().chain([provider.log()]) {
        assert!(!text.contains("canary") && !text.contains("correct horse"), "{text}");
    }
    provider.stop();

    // Another daemon: the same Event once more, and not a new one.
    let provider = scene.serve();
    scene.mount(&provider, &first).await.unwrap();
    scene.cut();
    scene.mount(&provider, &next).await.unwrap();
    eventually("the Event is there again", async || scene.kept.shown().last().unwrap().ends_with(" 2")).await;
    scene.repair();
    scene.is_current(&provider, &next).await;
    eventually("and its end", async || scene.kept.shown().first().unwrap().ends_with(" 2")).await;
    scene.told(&["StaleSecretReplaced Normal shop/web-1 2", "StartedFromStaleSecret Warning shop/web-1 2"]).await;
    provider.stop();
}

/// kubelet has a file for each container that has started: such a Pod had its volume before this daemon knew of it.
#[tokio::test]
async fn a_pod_that_ran_before_the_daemon_has_not_started_from_anything() {
    let scene = Scene::new().await;
    let provider = scene.serve();
    let [ran, starts] = [web(), pod("shop", "web-1", "web")];
    scene.mount(&provider, &pod("shop", "web-2", "web")).await.unwrap();
    scene.cut();
    let container = scene.store.house.path(&format!("kubelet/pods/{}/containers/app", ran.uid));
    fs::create_dir_all(&container).unwrap();
    fs::write(container.join("0123abcd"), "").unwrap();
    for pod in [&ran, &starts] {
        scene.mount(&provider, pod).await.unwrap();
    }
    // They come in their order.
    scene.told(&["StartedFromStaleSecret Warning shop/web-1 1"]).await;
    provider.stop();
}

#[tokio::test]
async fn a_right_that_is_missing_is_said_once_and_a_reload_turns_events_off_and_on() {
    let scene = Scene::new().await;
    let provider = scene.serve();
    scene.mount(&provider, &web()).await.unwrap();
    scene.cut();
    scene.server.answer(Answer::Status(403));
    for n in 1..4 {
        scene.mount(&provider, &pod("shop", &format!("web-{n}"), "web")).await.unwrap();
    }
    eventually("they are refused", async || metric(&provider, &["keyferry_events_total", "refused"]).await > 2.5).await;
    let said = "Events on Pods are not sent (events.enabled): POST https://";
    assert_eq!(provider.log().matches(said).count(), 1, "{}", provider.log());
    assert!(provider.log().contains("needs a ClusterRole with the verbs `create` and `patch` on events of events.k8s.io"));

    // An API server that answers nothing, and mounts that do not need it.
    scene.server.answer(Answer::Never);
    let began = tokio::time::Instant::now();
    for n in 4..8 {
        scene.mount(&provider, &pod("shop", &format!("web-{n}"), "web")).await.unwrap();
    }
    assert!(began.elapsed() < tokio::time::Duration::from_secs(4), "{:?}", began.elapsed());
    let reload = async |from: &str, to: &str| {
        let before = provider.log().matches("the configuration is reloaded").count();
        scene.store.house.reconfigure(from, to);
        provider.signal(Signal::HUP);
        eventually("it is reloaded", async || provider.log().matches("the configuration is reloaded").count() > before).await;
    };
    reload("events: { enabled: true }", "events: { enabled: false }").await;
    scene.server.answer(scene.kept.answer());
    scene.mount(&provider, &pod("shop", "web-8", "web")).await.unwrap();
    reload("events: { enabled: false }", "events: { enabled: true }").await;
    scene.mount(&provider, &pod("shop", "web-9", "web")).await.unwrap();
    let is_told = async |name: &str| {
        let shown = scene.kept.shown();
        shown.iter().any(|line| line.contains(name))
    };
    eventually("what is new is reported", async || is_told("/web-9 ").await).await;
    assert!(!is_told("/web-8 ").await, "{:?}", scene.kept.shown());
    // It is still so, and now Keyferry can report it.
    scene.mount(&provider, &pod("shop", "web-8", "web")).await.unwrap();
    eventually("it is reported", async || is_told("/web-8 ").await).await;
    let (status, took) = {
        let began = tokio::time::Instant::now();
        (provider.stop(), began.elapsed())
    };
    assert!(status.success() && took < tokio::time::Duration::from_secs(5), "{status:?} {took:?}");
}

#[test]
fn outside_of_a_cluster_there_is_nobody_to_tell() {
    let house = House::new("events: { enabled: true }");
    let mut command = on_a_bare_node("");
    command.arg("serve").arg("--config").arg(house.path("keyferry.yaml"));
    let (code, _, errors) = run(&mut command, "");
    assert_eq!(code, 2, "{errors}");
    insta::assert_snapshot!(errors, @"error: events.enabled: this process is not in a Pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set (Keyferry sends Events with its own token to the API server of its cluster: outside of a cluster, remove `events`; in a cluster, add components/events to your overlay)");
}

/// One namespace has used up the node's share of Events. Keyferry still reports another's, and nothing waits.
#[tokio::test]
async fn a_namespace_that_starts_many_pods_leaves_others_their_events() {
    let scene = Scene::new().await;
    scene.store.house.reconfigure("  - pods: { namespace: shop }", "  - pods: { namespace: \"*\" }");
    let provider = scene.serve();
    for namespace in ["evil", "shop"] {
        scene.mount(&provider, &pod(namespace, "web-0", "web")).await.unwrap();
    }
    scene.cut();
    for n in 1..60 {
        scene.mount(&provider, &pod("evil", &format!("web-{n}"), "web")).await.unwrap();
    }
    scene.mount(&provider, &pod("shop", "web-1", "web")).await.unwrap();
    eventually("the other's is reported", async || scene.kept.shown().iter().any(|line| line.contains("shop/web-1"))).await;
    assert_eq!(scene.kept.shown().len(), 12 + 1);
    assert!((46.5..47.5).contains(&metric(&provider, &["keyferry_events_total", "dropped"]).await));
    let bodies: Vec<Value> = scene.server.calls().iter().map(|call| serde_json::from_str(&call.body).unwrap_or(json!(null))).collect();
    assert!(bodies.iter().all(|body| body["note"].as_str().is_some_and(|note| note.len() <= 1024)), "{bodies:?}");
    provider.stop();
}
