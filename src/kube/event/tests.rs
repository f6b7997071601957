//! Against a server that answers as the API server does.

use serde_json::Value;

use super::super::KubeConfig;
use super::super::api_server::{Answer, ApiServer, Call, Reply};
use super::*;

struct Scene {
    server: ApiServer,
    client: KubeClient,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new(answer: Answer) -> Self {
        let (server, folder) = (ApiServer::start(answer).await, crate::folder::new());
        server.service_account(folder.path(), "own-canary");
        let (host, port) = (server.address.ip().to_string(), server.address.port().to_string());
        let client = KubeClient::new(KubeConfig::of(Some(host), Some(port), folder.path()).unwrap()).unwrap();
        Self { server, client, _folder: folder }
    }

    async fn tell(&self, note: &str) -> Result<(), EventError> {
        let pod = web("shop");
        self.client.tell(&event(&pod, note)).await
    }

    async fn told_to(&self, answer: Answer) -> EventError {
        self.server.answer(answer);
        self.tell("x").await.unwrap_err()
    }

    /// Each call as `METHOD path kind body`.
    fn calls(&self) -> String {
        let shown = |call: Call| {
            let kind = call.content_type.unwrap_or_default();
            format!("{} {} {kind} {}", call.method, call.path, call.body)
        };
        self.server.calls().into_iter().map(shown).collect::<Vec<_>>().join("\n")
    }

    fn shown(&self, error: &KubeError) -> String {
        error.to_string().replace(&self.server.address.to_string(), "[address]")
    }
}

fn web(namespace: &str) -> PodClaims {
    PodClaims { namespace: namespace.into(), name: "web-0".into(), uid: "uid-0".into(), service_account: "web".into() }
}

fn event<'e>(pod: &'e PodClaims, note: &'e str) -> PodEvent<'e> {
    let at = Timestamp::new(1_700_000_000, 5_000_000).unwrap();
    let (name, reason, action) = ("keyferry-0a", "SecretRotationFailing", "RotateSecret");
    PodEvent { name, pod, reason, action, is_warning: true, note, at, instance: "keyferry-x7k2p" }
}

/// A server on which the Event is there already, as this text.
fn there(text: &'static str) -> Answer {
    let reply: Reply = Box::new(move |call| match call.method.as_str() {
        "POST" => (409, r#"{"kind":"Status","reason":"AlreadyExists"}"#.into()),
        _ => (200, text.to_owned()),
    });
    Answer::With(reply)
}

#[tokio::test]
async fn an_event_is_what_the_api_takes() {
    let scene = Scene::new(Answer::Text(201, "{}".into())).await;
    scene.tell("PolicyDenied: \"x\"").await.unwrap();
    insta::assert_snapshot!(scene.calls(), @r#"POST /apis/events.k8s.io/v1/namespaces/shop/events application/json {"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"name":"keyferry-0a","namespace":"shop"},"eventTime":"2023-11-14T22:13:20.005000Z","reportingController":"keyferry","reportingInstance":"keyferry-x7k2p","action":"RotateSecret","reason":"SecretRotationFailing","regarding":{"apiVersion":"v1","kind":"Pod","namespace":"shop","name":"web-0","uid":"uid-0"},"type":"Warning","note":"PolicyDenied: \"x\""}"#);
}

#[tokio::test]
async fn an_event_that_is_there_is_told_once_more() {
    let scene = Scene::new(there("{}")).await;
    scene.tell("x").await.unwrap();
    let calls = scene.calls();
    insta::assert_snapshot!(calls.split_once('\n').unwrap().1, @r#"
    PATCH /apis/events.k8s.io/v1/namespaces/shop/events/keyferry-0a application/merge-patch+json {}
    PATCH /apis/events.k8s.io/v1/namespaces/shop/events/keyferry-0a application/merge-patch+json {"series":{"count":2,"lastObservedTime":"2023-11-14T22:13:20.005000Z"}}
    "#);
}

/// Whatever is there under its name: the API server accepts no count below 2.
#[tokio::test]
async fn a_count_goes_on_from_what_is_there() {
    let scene = Scene::new(there("")).await;
    for (text, count) in [
        (r#"{"series":{"count":7,"lastObservedTime":"2023-11-14T22:13:20.000000Z"}}"#, 8),
        (r#"{"series":null}"#, 2),
        (r#"{"series":{"count":-7}}"#, 2),
        (r#"{"series":{"count":2147483647}}"#, 2_147_483_647),
        (r#"{"series":{"count":99999999999999999999}}"#, 2),
        ("<html>canary</html>", 2),
        ("", 2),
    ] {
        scene.server.answer(there(text));
        scene.tell("x").await.unwrap();
        let last: Value = serde_json::from_str(&scene.server.calls()[2].body).unwrap();
        assert_eq!(last["series"]["count"], count, "{text}");
    }
}

#[tokio::test]
async fn each_answer_is_known_for_what_it_means() {
    let scene = Scene::new(Answer::Status(403)).await;
    let EventError::Refused(error) = scene.tell("x").await.unwrap_err() else { panic!() };
    insta::assert_snapshot!(scene.shown(&error), @"POST https://[address]/apis/events.k8s.io/v1/namespaces/shop/events: it answered 403 Forbidden (the daemon's ServiceAccount needs a ClusterRole with the verbs `create` and `patch` on events of events.k8s.io, and a ClusterRoleBinding to it: deploy/manifests/components/events has both)");
    assert!(matches!(scene.told_to(Answer::Status(401)).await, EventError::Refused(_)));
    // As kube-apiserver says it.
    let terminating = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"events.events.k8s.io \"x\" is forbidden: unable to create new content in namespace shop because it is being terminated","reason":"Forbidden","details":{"name":"x","group":"events.k8s.io","kind":"events","causes":[{"reason":"NamespaceTerminating","message":"namespace shop is being terminated","field":"metadata.namespace"}]},"code":403}"#;
    assert_eq!(scene.told_to(Answer::Text(403, terminating.into())).await, EventError::Gone);
    assert_eq!(scene.told_to(Answer::Status(404)).await, EventError::Gone);
    for passing in [429, 500, 503, 504] {
        assert!(matches!(scene.told_to(Answer::Status(passing)).await, EventError::Passing(_)), "{passing}");
    }
    for wrong in [400, 422] {
        assert!(matches!(scene.told_to(Answer::Status(wrong)).await, EventError::Wrong(_)), "{wrong}");
    }
    scene.server.go_down();
    let EventError::Passing(error) = scene.tell("x").await.unwrap_err() else { panic!() };
    assert!(!error.to_string().contains("canary"));
    // The former Event is gone when this one is repeated.
    let gone: Reply = Box::new(|call| (if call.method == "POST" { 409 } else { 404 }, String::new()));
    assert_eq!(scene.told_to(Answer::With(gone)).await, EventError::Gone);
}

/// What a class's author can make long or strange, and a name that would lead to another path.
#[tokio::test]
async fn no_text_makes_an_event_that_the_api_does_not_take() {
    let scene = Scene::new(Answer::Status(201)).await;
    for note in ["ü".repeat(5_000), "x".repeat(MAX_NOTE), "\u{1f511}".repeat(257), "\"\\\n\u{0}\u{202e}".repeat(300), String::new()] {
        scene.tell(&note).await.unwrap();
        let body: Value = serde_json::from_str(&scene.server.calls()[0].body).unwrap();
        let told = body["note"].as_str().unwrap();
        assert!(told.len() <= MAX_NOTE && note.starts_with(told.strip_suffix("...").unwrap_or(told)), "{told}");
        assert_eq!(told.ends_with("..."), note.len() > MAX_NOTE);
    }
    let pod = web("../../secrets?x=");
    let long = "n".repeat(300);
    scene.client.tell(&PodEvent { instance: &long, ..event(&pod, "x") }).await.unwrap();
    let call = &scene.server.calls()[0];
    assert_eq!(call.path, "/apis/events.k8s.io/v1/namespaces/..%2F..%2Fsecrets%3Fx%3D/events");
    assert!(call.body.contains(&format!("\"{}\"", "n".repeat(MAX_INSTANCE))));
}
