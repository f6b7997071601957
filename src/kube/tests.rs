//! Against a server that answers as the API server does.

use std::fs;

use data_encoding::BASE64URL_NOPAD;
use tempfile::TempDir;

use super::api_server::{Answer, ApiServer};
use super::*;

const RIGHT: &str = "bind the role";

struct Scene {
    folder: TempDir,
    server: ApiServer,
    client: KubeClient,
}

impl Scene {
    async fn new(answer: Answer) -> Self {
        let (server, folder) = (ApiServer::start(answer).await, tempfile::tempdir().unwrap());
        server.service_account(folder.path(), "own-canary\n");
        let (host, port) = (server.address.ip().to_string(), server.address.port().to_string());
        let client = KubeClient::new(KubeConfig::of(Some(host), Some(port), folder.path()).unwrap()).unwrap();
        Self { folder, server, client }
    }

    async fn refused(&self) -> String {
        let error = self.client.get("/x", RIGHT).await.unwrap_err();
        self.shown(&error)
    }

    async fn refused_for(&self, answer: Answer) -> String {
        self.server.answer(answer);
        self.refused().await
    }

    fn shown(&self, error: &dyn fmt::Display) -> String {
        let text = error.to_string();
        assert!(!text.contains("canary"), "{text}");
        text.replace(&self.folder.path().display().to_string(), "[folder]").replace(&self.server.address.to_string(), "[address]")
    }
}

#[tokio::test]
async fn a_call_says_who_asks() {
    let scene = Scene::new(Answer::Text(200, "hello".into())).await;
    assert_eq!(scene.client.get("/x?y=z", RIGHT).await.unwrap().expose(), b"hello");
    scene.server.answer(Answer::Text(201, "made".into()));
    fs::write(scene.folder.path().join("token"), "renewed").unwrap();
    assert_eq!(scene.client.post("/y", Zeroizing::new(b"{}".to_vec()), RIGHT).await.unwrap().expose(), b"made");
    let calls: Vec<_> = scene
        .server
        .calls()
        .into_iter()
        .map(|call| format!("{} {} {:?} {:?}", call.method, call.path, call.authorization, call.body))
        .collect();
    insta::assert_snapshot!(calls.join("\n"), @r#"
    GET /x?y=z Some("Bearer own-canary") ""
    POST /y Some("Bearer renewed") "{}"
    "#);
}

#[tokio::test]
async fn every_answer_but_the_right_one_says_what_to_do() {
    let scene = Scene::new(Answer::Status(401)).await;
    insta::assert_snapshot!(scene.refused().await, @"GET https://[address]/x: it answered 401 Unauthorized (it does not take the daemon's own token, [folder]/token: kubelet renews that in time; if this stays, delete the daemon's Pod)");
    insta::assert_snapshot!(scene.refused_for(Answer::Text(403, "canary".into())).await, @"GET https://[address]/x: it answered 403 Forbidden (bind the role)");
    insta::assert_snapshot!(scene.refused_for(Answer::Status(404)).await, @"GET https://[address]/x: it answered 404 Not Found (check that the address is the right one)");
    insta::assert_snapshot!(scene.refused_for(Answer::Status(429)).await, @"GET https://[address]/x: it answered 429 Too Many Requests (it is overloaded, starting or stopping)");
    insta::assert_snapshot!(scene.refused_for(Answer::Status(500)).await, @"GET https://[address]/x: it answered 500 Internal Server Error (it is overloaded, starting or stopping)");
    insta::assert_snapshot!(scene.refused_for(Answer::Status(302)).await, @"GET https://[address]/x: it answered 302 Found (check that the address is that of an API server)");
    insta::assert_snapshot!(scene.refused_for(Answer::Text(200, "x".repeat(MAX_ANSWER + 1))).await, @"GET https://[address]/x: the answer is larger than 1048576 bytes (check that the address is the right one)");
    scene.server.go_down();
    assert!(scene.refused().await.contains("GET https://[address]/x: "));
}

#[tokio::test]
async fn a_slow_server_is_not_waited_for() {
    let scene = Scene::new(Answer::Never).await;
    // While the clock is paused, time jumps to the next timer as soon as nothing else happens: the call must be under way by then.
    let client = scene.client.clone();
    let call = tokio::spawn(async move { client.get("/x", RIGHT).await });
    while scene.server.calls().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::pause();
    insta::assert_snapshot!(scene.shown(&call.await.unwrap().unwrap_err()), @"GET https://[address]/x: no answer in 5 s (it is overloaded, starting or stopping)");
}

#[tokio::test]
async fn no_server_and_the_wrong_server_are_told_apart() {
    let scene = Scene::new(Answer::Status(200)).await;
    let stranger = ApiServer::start(Answer::Status(200)).await;
    let config = |base: String| KubeConfig { base, ..scene.client.config().clone() };
    let refused = async |base: String| KubeClient::new(config(base)).unwrap().get("/x", RIGHT).await.unwrap_err().to_string();
    let words = refused(stranger.url("")).await;
    let words = words.replace(&stranger.address.to_string(), "[stranger]").replace(&scene.folder.path().display().to_string(), "[folder]");
    insta::assert_snapshot!(words, @"GET https://[stranger]/x: the server's certificate for 127.0.0.1 (valid 1975-01-01 to 4096-01-01), issued by CN=rcgen self signed cert, does not lead to [folder]/ca.crt (name the CA that issued it)");
    insta::assert_snapshot!(refused("https://127.0.0.1:1".to_owned()).await, @"GET https://127.0.0.1:1/x: no connection: tcp connect error: Connection refused (os error 111) (check that the server is up, and that network policies let the daemon out to it)");
}

#[tokio::test]
async fn the_own_token_must_be_there() {
    let scene = Scene::new(Answer::Status(200)).await;
    let token = scene.folder.path().join("token");
    fs::write(&token, " \n").unwrap();
    insta::assert_snapshot!(scene.refused().await, @"GET https://[address]/x: the daemon's own token, [folder]/token: it is empty (kubelet mounts it where the Pod's automountServiceAccountToken is true)");
    fs::write(&token, "canary\0").unwrap();
    insta::assert_snapshot!(scene.refused().await, @"GET https://[address]/x: the daemon's own token, [folder]/token: it has control characters, which no token has (kubelet mounts it where the Pod's automountServiceAccountToken is true)");
    fs::write(&token, "canary".repeat(4_000)).unwrap();
    insta::assert_snapshot!(scene.refused().await, @"GET https://[address]/x: the daemon's own token, [folder]/token: it is over 16384 bytes (kubelet mounts it where the Pod's automountServiceAccountToken is true)");
    fs::remove_file(&token).unwrap();
    insta::assert_snapshot!(scene.refused().await, @"GET https://[address]/x: the daemon's own token, [folder]/token: it cannot be read: No such file or directory (os error 2) (kubelet mounts it where the Pod's automountServiceAccountToken is true)");
    fs::create_dir(&token).unwrap();
    insta::assert_snapshot!(scene.refused().await, @"GET https://[address]/x: the daemon's own token, [folder]/token: it is not a regular file (kubelet mounts it where the Pod's automountServiceAccountToken is true)");
    assert!(scene.server.calls().is_empty(), "nobody is asked without it");
}

#[test]
fn the_own_token_names_its_issuer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let token = OwnToken::at(&path);
    let payload = BASE64URL_NOPAD.encode(br#"{"iss":"https://oidc.example","sub":"x"}"#);
    fs::write(&path, format!("e30.{payload}.c2ln\n")).unwrap();
    assert_eq!(token.issuer().unwrap(), "https://oidc.example");
    fs::write(&path, format!("\u{feff}e30.{payload}.c2ln\r\n")).unwrap();
    assert_eq!(token.issuer().unwrap(), "https://oidc.example");
    for text in ["canary", "a.b.c", "e30.e30.e30", "e30.eyJpc3MiOiIifQ.e30"] {
        fs::write(&path, text).unwrap();
        let error = token.issuer().unwrap_err().to_string().replace(path.to_str().unwrap(), "[token]");
        insta::allow_duplicates! { insta::assert_snapshot!(error, @"the daemon's own token, [token]: it is not a ServiceAccount token with an `iss`"); }
    }
}

#[test]
fn outside_of_a_cluster_there_is_no_api_server() {
    insta::assert_snapshot!(KubeConfig::of(None, Some("443".into()), Path::new("/x")).unwrap_err(), @"this process is not in a Pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set");
    assert_eq!(KubeConfig::of(Some("fd00::1".into()), Some("443".into()), Path::new("/x")).unwrap().base, "https://[fd00::1]:443");
}

#[tokio::test]
async fn a_review_is_what_the_api_takes_and_gives() {
    let status = r#"{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","metadata":{"creationTimestamp":null},"spec":{"token":"pod-canary"},
        "status":{"authenticated":true,"audiences":["keyferry"],"user":{"username":"system:serviceaccount:shop:web","uid":"u","groups":["g"],
        "extra":{"authentication.kubernetes.io/pod-name":["web-1"],"two":["a","b"]}}}}"#;
    let scene = Scene::new(Answer::Text(201, status.into())).await;
    let token = SecretBytes::new(b"pod\"canary".to_vec());
    let status = scene.client.review_token(&token, "keyferry").await.unwrap();
    assert!(status.authenticated && status.audiences == ["keyferry"] && !format!("{status:?}").contains("canary"));
    assert_eq!((status.username(), status.uid()), ("system:serviceaccount:shop:web", "u"));
    assert_eq!(
        (status.extra("authentication.kubernetes.io/pod-name"), status.extra("two"), status.extra("x")),
        (Some("web-1"), None, None)
    );
    insta::assert_snapshot!(scene.server.calls()[0].body, @r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":"pod\"canary","audiences":["keyferry"]}}"#);

    scene.server.answer(Answer::Text(200, "<html>canary</html>".into()));
    insta::assert_snapshot!(scene.shown(&scene.client.review_token(&token, "keyferry").await.unwrap_err()), @"POST https://[address]/apis/authentication.k8s.io/v1/tokenreviews: the answer is not a TokenReview (check that the address is that of an API server)");
    scene.server.answer(Answer::Text(200, r#"{"kind":"Status","status":{}}"#.into()));
    assert!(scene.client.review_token(&token, "keyferry").await.is_err());
    scene.server.answer(Answer::Status(403));
    insta::assert_snapshot!(scene.shown(&scene.client.review_token(&token, "keyferry").await.unwrap_err()), @"POST https://[address]/apis/authentication.k8s.io/v1/tokenreviews: it answered 403 Forbidden (the daemon's ServiceAccount needs a ClusterRole with the verb `create` on tokenreviews of authentication.k8s.io, and a ClusterRoleBinding to it)");
    assert_eq!(scene.client.review_token(&SecretBytes::new(vec![0xff]), "keyferry").await.unwrap_err(), ReviewError::NotText);
}
