//! Against a server that reviews as the API server does.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::clock::ManualClock;
use crate::identity::Issuer;
use crate::kube::KubeConfig;
use crate::kube::api_server::{Answer, ApiServer, Call};

struct Scene {
    folder: TempDir,
    server: ApiServer,
    issuer: Issuer,
    clock: Arc<ManualClock>,
    reviewer: TokenReviewer,
}

fn pod() -> PodClaims {
    PodClaims { namespace: "shop".into(), name: "web-1".into(), uid: "uid-1".into(), service_account: "web".into() }
}

/// What the API server says of this Pod's token, whatever the audience.
fn good(audience: &str) -> Value {
    json!({
        "authenticated": true,
        "audiences": [audience],
        "user": {
            "username": "system:serviceaccount:shop:web",
            "uid": "sa-uid",
            "groups": ["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"],
            "extra": { "authentication.kubernetes.io/pod-name": ["web-1"], "authentication.kubernetes.io/pod-uid": ["uid-1"] },
        },
    })
}

fn audience(call: &Call) -> String {
    let body: Value = serde_json::from_str(&call.body).unwrap();
    body["spec"]["audiences"][0].as_str().unwrap().to_owned()
}

fn reviewed(status: &Value) -> (u16, String) {
    (201, json!({ "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": status }).to_string())
}

fn says(change: impl Fn(&mut Value) + Send + 'static) -> Answer {
    Answer::With(Box::new(move |call| {
        let mut status = good(&audience(call));
        change(&mut status);
        reviewed(&status)
    }))
}

impl Scene {
    async fn new() -> Self {
        let (server, folder) = (ApiServer::start(says(|_| ())).await, tempfile::tempdir().unwrap());
        server.service_account(folder.path(), "own-canary");
        let (host, port) = (server.address.ip().to_string(), server.address.port().to_string());
        let client = KubeClient::new(KubeConfig::of(Some(host), Some(port), folder.path()).unwrap()).unwrap();
        let clock = Arc::new(ManualClock::at("2026-01-01T00:00:00Z".parse().unwrap()));
        let reviewer = TokenReviewer::new(client, "keyferry", clock.clone());
        Self { folder, server, issuer: Issuer::new("https://any.example").unwrap(), clock, reviewer }
    }

    fn token(&self, audience: &str) -> String {
        self.issuer.token(&pod(), audience, Duration::from_mins(10), &*self.clock).unwrap()
    }

    async fn attest(&self, token: &str) -> Result<Attested, String> {
        self.attest_all(&[("keyferry", token)]).await
    }

    async fn attest_all(&self, tokens: &[(&str, &str)]) -> Result<Attested, String> {
        let raw = |token: &str| Arc::new(SecretBytes::new(token.as_bytes().to_vec()));
        let tokens: RawTokens = tokens.iter().map(|(audience, token)| ((*audience).to_owned(), raw(token))).collect();
        self.reviewer.attest(&pod(), &tokens).await.map_err(|error| self.shown(&error.to_string()))
    }

    /// The refusal where the API server answers so.
    async fn refused(&self, answer: Answer) -> String {
        self.server.answer(answer);
        self.attest(&self.token("keyferry")).await.unwrap_err()
    }

    fn shown(&self, text: &str) -> String {
        assert!(!text.contains("canary"), "{text}");
        text.replace(&self.server.address.to_string(), "[address]").replace(&self.folder.path().display().to_string(), "[folder]")
    }
}

#[tokio::test]
async fn a_pod_is_who_the_api_server_says() {
    let scene = Scene::new().await;
    let token = scene.token("keyferry");
    let attested = scene.attest(&token).await.unwrap();
    assert_eq!(*attested.pod, PodIdentity { service_account_uid: Some("sa-uid".into()), verified: true, ..PodIdentity::believed(&pod()) });
    assert_eq!(attested.tokens.audiences().count(), 0, "no store gets the token for the daemon itself");
    let calls = scene.server.calls();
    assert_eq!((calls.len(), calls[0].authorization.as_deref()), (1, Some("Bearer own-canary")));
    assert_eq!(calls[0].path, "/apis/authentication.k8s.io/v1/tokenreviews");
    assert!(calls[0].body.contains(&token));
}

#[tokio::test]
async fn a_good_answer_is_believed_for_two_minutes_and_no_longer_than_the_token() {
    let scene = Scene::new().await;
    let token = scene.token("keyferry");
    for _ in 0..3 {
        scene.attest(&token).await.unwrap();
    }
    assert_eq!(scene.server.calls().len(), 1);
    tokio::time::pause();
    tokio::time::advance(BELIEVED).await;
    tokio::time::resume();
    scene.attest(&token).await.unwrap();
    assert_eq!(scene.server.calls().len(), 1);
    scene.clock.advance(600);
    scene.attest(&token).await.unwrap();
    assert_eq!(scene.server.calls().len(), 1, "the token has ended by our clock: the API server is asked");
}

#[tokio::test]
async fn a_refusal_is_never_remembered() {
    let scene = Scene::new().await;
    let token = scene.token("keyferry");
    scene.server.answer(says(|status| *status = json!({ "error": "[invalid bearer token, token lookup failed]" })));
    insta::assert_snapshot!(scene.attest(&token).await.unwrap_err(), @r#"token: the API server refuses it: "[invalid bearer token, token lookup failed]" (kubelet renews tokens in time and tries again by itself; the token of a Pod that is gone is never valid again)"#);
    scene.server.answer(says(|_| ()));
    scene.attest(&token).await.unwrap();
    assert_eq!(scene.server.calls().len(), 2);
}

#[tokio::test]
async fn each_further_token_has_its_own_review() {
    let scene = Scene::new().await;
    let tokens = ["keyferry", "vault", "neighbour", "refused"].map(|audience| (audience, scene.token(audience)));
    scene.server.answer(Answer::With(Box::new(|call| {
        let mut status = good(&audience(call));
        match audience(call).as_str() {
            "neighbour" => status["user"]["extra"]["authentication.kubernetes.io/pod-uid"] = json!(["uid-2"]),
            "refused" => status["authenticated"] = json!(false),
            _ => (),
        }
        reviewed(&status)
    })));
    let mut sent: Vec<_> = tokens.iter().map(|(audience, token)| (*audience, token.as_str())).collect();
    // Whatever the API server says about it: no store may get a token for the daemon.
    let both = scene.issuer.sign(&json!({ "aud": ["both", "keyferry"], "exp": 2_000_000_000 })).unwrap();
    sent.extend([("", "x.y.z"), ("garbage", "x"), ("both", both.as_str())]);
    for _ in 0..2 {
        let attested = scene.attest_all(&sent).await.unwrap();
        assert_eq!(attested.tokens.audiences().collect::<Vec<_>>(), ["vault"]);
        let handed = attested.tokens.find("vault").unwrap();
        assert_eq!((handed.jwt.expose(), handed.expires.to_string().as_str()), (tokens[1].1.as_bytes(), "2026-01-01T00:10:00Z"));
    }
    let mut asked: Vec<_> = scene.server.calls().iter().map(audience).collect();
    asked.sort();
    assert_eq!(asked, ["both", "keyferry", "neighbour", "refused", "refused", "vault"]);
    scene.server.answer(Answer::Status(500));
    assert!(scene.attest(&scene.issuer.token(&pod(), "other", Duration::from_mins(1), &*scene.clock).unwrap()).await.is_err());
}

/// Pods of one namespace come with 31 tokens each, which the API server refuses slowly: another namespace's Pod does not wait for them.
#[tokio::test]
async fn tokens_that_do_not_verify_cost_no_other_namespace_a_review() {
    let scene = Arc::new(Scene::new().await);
    let own = scene.token("keyferry");
    scene.attest(&own).await.unwrap();
    scene.server.calls();
    scene.server.answer(Answer::Never);
    let bad: Vec<(String, String)> = (0..31).map(|n| format!("audience-{n}")).map(|name| (name.clone(), scene.token(&name))).collect();
    let mut asked = 0;
    let mut evil = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let (scene, own, bad) = (Arc::clone(&scene), own.clone(), bad.clone());
        evil.spawn(async move {
            let mut sent: Vec<_> = bad.iter().map(|(audience, token)| (audience.as_str(), token.as_str())).collect();
            sent.push(("keyferry", &own));
            scene.attest_all(&sent).await.is_ok()
        });
    }
    // Until it has all the turns that it can get.
    while asked < CALLS / 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        asked += scene.server.calls().len();
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    asked += scene.server.calls().len();
    assert_eq!(asked, CALLS / 2, "the other half is left to others");
    scene.server.answer(says(|status| status["user"]["username"] = json!("system:serviceaccount:bank:web")));
    let claims = PodClaims { namespace: "bank".into(), ..pod() };
    let token = scene.issuer.token(&claims, "keyferry", Duration::from_mins(10), &*scene.clock).unwrap();
    let tokens = RawTokens::from([("keyferry".to_owned(), Arc::new(SecretBytes::new(token.into_bytes())))]);
    scene.reviewer.attest(&claims, &tokens).await.unwrap();
    evil.abort_all();
}

#[tokio::test]
async fn one_that_waits_too_long_for_its_review_says_so() {
    let scene = Scene::new().await;
    let token = scene.token("keyferry");
    let mut held = Vec::new();
    for _ in 0..CALLS / 2 {
        held.push(scene.reviewer.calls.take(&"shop".into(), Instant::now()).await.unwrap());
    }
    tokio::time::pause();
    insta::assert_snapshot!(scene.attest(&token).await.unwrap_err(), @"token: it was not reviewed within 120 s: other tokens of its namespace came first (kubelet tries again by itself)");
}

#[tokio::test]
async fn anybody_elses_token_is_refused() {
    let scene = Scene::new().await;
    let extra = |key: &'static str, value: Value| says(move |status| status["user"]["extra"][key] = value.clone());
    let user = |name: &'static str| says(move |status| status["user"]["username"] = json!(name));
    insta::assert_snapshot!(scene.refused(extra("authentication.kubernetes.io/pod-name", json!(["web-2"]))).await, @r#"name: the token is that of the Pod "web-2", but the mount is for "web-1" (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)"#);
    insta::assert_snapshot!(scene.refused(extra("authentication.kubernetes.io/pod-uid", json!(["uid-2"]))).await, @r#"uid: the token is that of the Pod with the uid "uid-2", but the mount is for "uid-1" (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)"#);
    insta::assert_snapshot!(scene.refused(extra("authentication.kubernetes.io/pod-uid", json!(["uid-1", "uid-2"]))).await, @"pod: the token is not bound to a Pod: the API server names none for it (a token from a Secret or from a plain `kubectl create token` does not name a Pod; tokenRequests of the CSIDriver object secrets-store.csi.k8s.io makes kubelet send one that does)");
    insta::assert_snapshot!(scene.refused(says(|status| status["user"]["extra"] = json!({}))).await, @"pod: the token is not bound to a Pod: the API server names none for it (a token from a Secret or from a plain `kubectl create token` does not name a Pod; tokenRequests of the CSIDriver object secrets-store.csi.k8s.io makes kubelet send one that does)");
    insta::assert_snapshot!(scene.refused(user("system:serviceaccount:bank:web")).await, @r#"namespace: the token is that of a Pod in the namespace "bank", but the mount is for "shop" (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)"#);
    insta::assert_snapshot!(scene.refused(user("system:serviceaccount:shop:root")).await, @r#"serviceAccount: the token is that of a Pod of the ServiceAccount "root", but the mount is for "web" (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)"#);
    insta::assert_snapshot!(scene.refused(user("kubernetes-admin")).await, @r#"serviceAccount: the token is that of "kubernetes-admin", which is not a ServiceAccount (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)"#);
    insta::assert_snapshot!(scene.refused(says(|status| status["audiences"] = json!([]))).await, @r#"audience: the API server does not say that the token is for "keyferry" (add the audience keyferry to tokenRequests of the CSIDriver object secrets-store.csi.k8s.io)"#);
    insta::assert_snapshot!(scene.refused(says(|status| status["audiences"] = json!(["https://kubernetes.default.svc"]))).await, @r#"audience: the API server does not say that the token is for "keyferry" (add the audience keyferry to tokenRequests of the CSIDriver object secrets-store.csi.k8s.io)"#);
    insta::assert_snapshot!(scene.refused(says(|status| *status = json!({}))).await, @"token: the API server refuses it: it gives no reason (kubelet renews tokens in time and tries again by itself; the token of a Pod that is gone is never valid again)");
    scene.server.answer(says(|_| ()));
    assert_eq!(scene.reviewer.health().await, Ok(()), "refusals are not a trouble");
    scene.server.calls();
    insta::assert_snapshot!(scene.attest("canary").await.unwrap_err(), @"token: it cannot be read: it is not three parts joined by dots (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)");
    insta::assert_snapshot!(scene.attest_all(&[("vault", "x")]).await.unwrap_err(), @r#"audience: the driver sent tokens for "vault", but none for "keyferry" (add the audience keyferry to tokenRequests of the CSIDriver object secrets-store.csi.k8s.io)"#);
    assert!(scene.server.calls().is_empty(), "a text that is not a token causes no call");
}

#[tokio::test]
async fn an_api_server_that_cannot_be_asked_is_named() {
    let scene = Scene::new().await;
    insta::assert_snapshot!(scene.refused(Answer::Status(401)).await, @"token: the API server could not be asked about it: POST https://[address]/apis/authentication.k8s.io/v1/tokenreviews: it answered 401 Unauthorized (it does not take the daemon's own token, [folder]/token: kubelet renews that in time; if this stays, delete the daemon's Pod; kubelet tries again by itself)");
    insta::assert_snapshot!(scene.refused(Answer::Status(403)).await, @"token: the API server could not be asked about it: POST https://[address]/apis/authentication.k8s.io/v1/tokenreviews: it answered 403 Forbidden (the daemon's ServiceAccount needs a ClusterRole with the verb `create` on tokenreviews of authentication.k8s.io, and a ClusterRoleBinding to it; kubelet tries again by itself)");
    insta::assert_snapshot!(scene.refused(Answer::Status(500)).await, @"token: the API server could not be asked about it: POST https://[address]/apis/authentication.k8s.io/v1/tokenreviews: it answered 500 Internal Server Error (it is overloaded, starting or stopping; kubelet tries again by itself)");
    insta::assert_snapshot!(scene.refused(Answer::Text(200, "<html>canary".into())).await, @"token: the API server could not be asked about it: POST https://[address]/apis/authentication.k8s.io/v1/tokenreviews: the answer is not a TokenReview (check that the address is that of an API server; kubelet tries again by itself)");
    insta::assert_snapshot!(scene.shown(&scene.reviewer.health().await.unwrap_err()), @"tokens cannot be reviewed: POST https://[address]/apis/authentication.k8s.io/v1/tokenreviews: the answer is not a TokenReview (check that the address is that of an API server)");
    assert!(scene.refused(Answer::Text(201, " ".repeat(2 << 20))).await.contains("larger than"));
    scene.server.go_down();
    let down = scene.attest(&scene.token("keyferry")).await.unwrap_err();
    assert!(down.starts_with("token: the API server could not be asked about it: POST https://[address]/apis/"), "{down}");
    scene.server.answer(says(|_| ()));
    scene.attest(&scene.token("keyferry")).await.unwrap();
    assert_eq!(scene.reviewer.health().await, Ok(()));
}

#[tokio::test]
async fn what_was_reviewed_outlives_an_outage_for_two_minutes() {
    let scene = Scene::new().await;
    let token = scene.token("keyferry");
    scene.attest(&token).await.unwrap();
    scene.server.go_down();
    scene.attest(&token).await.unwrap();
    let neighbour = PodClaims { uid: "uid-2".into(), ..pod() };
    let tokens = RawTokens::from([("keyferry".to_owned(), Arc::new(SecretBytes::new(token.into_bytes())))]);
    assert_eq!(scene.reviewer.attest(&neighbour, &tokens).await.unwrap_err().claim, "uid", "but never for another Pod");
}
