//! Identity with the real binary: keys from an address, and everything that you can leave out in a cluster.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use keyferry::clock::SystemClock;
use keyferry::identity::Issuer;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::api_server::{Answer, ApiServer, Call};
use crate::hang::SLOW;
use crate::support::{House, ISSUER, Provider, TOKENS, on_a_bare_node, pod, request, run, shown, tokens, web};

const CLASS: &str = "- { path: password, backend: files, secret: shop/db, field: password }";

/// Where kubelet puts a ServiceAccount's token.
const OWN_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Makes the folder `$KUBELET` appear at that place, for the program alone.
const AS_A_POD: &str = r#"mount -t tmpfs tmpfs /var/run && mkdir -p "$OWN_FOLDER" && mount --bind "$KUBELET" "$OWN_FOLDER" || exit 3"#;

/// The daemon's command, as if it ran in a container of a Pod.
pub fn in_a_pod(server: &ApiServer, kubelet: &Path) -> Command {
    let mut command = on_a_bare_node(AS_A_POD);
    command.env("KUBERNETES_SERVICE_HOST", server.address.ip().to_string());
    command.env("KUBERNETES_SERVICE_PORT", server.address.port().to_string());
    command.env("KUBELET", kubelet).env("OWN_FOLDER", OWN_FOLDER);
    command
}

fn house(identity: &str) -> House {
    // Inside a user namespace, the user who runs the tests looks like root.
    House::new(&format!("allowedPeers: [0, {}]\n{identity}", rustix::process::geteuid().as_raw()))
}

async fn mounted(house: &House, provider: &Provider) -> Result<Vec<String>, String> {
    let answer = provider.mount(house.request(&web(), CLASS)).await;
    answer.map(|answer| shown(&answer)).map_err(|status| status.message().to_owned())
}

#[tokio::test]
async fn keys_from_an_address_are_kept_over_a_restart() {
    let server = ApiServer::start(Answer::Status(500)).await;
    let folder = crate::folder::new();
    server.service_account(folder.path(), "own-canary");
    let (url, files) = (server.url("/keys"), folder.path().display());
    let jwks = format!("{{ url: \"{url}\", ca: {files}/ca.crt, tokenFile: {files}/token }}");
    let house = house(&format!("identity: {{ issuer: \"{ISSUER}\", jwks: {jwks} }}"));
    server.answer(Answer::Text(200, house.issuer.jwks()));

    let provider = house.serve();
    assert_eq!(mounted(&house, &provider).await.unwrap(), ["password 0644 correct horse"]);
    let calls = server.calls();
    assert_eq!((calls.len(), calls[0].path.as_str(), calls[0].authorization.as_deref()), (1, "/keys", Some("Bearer own-canary")));
    let stranger = Issuer::new(ISSUER).unwrap().token(&web(), "keyferry", Duration::from_mins(10), &SystemClock).unwrap();
    let tokens = json!({ "keyferry": { "token": stranger, "expirationTimestamp": "2099-01-01T00:00:00Z" } }).to_string();
    let refused = provider.mount(request(&web(), json!({ "objects": CLASS, "csi.storage.k8s.io/serviceAccount.tokens": tokens }))).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    assert!(refused.message().starts_with("IdentityUnverified: key: the token is signed with the key "), "{}", refused.message());
    assert!(!provider.log().contains("canary"));
    provider.stop();

    server.go_down();
    let provider = house.serve();
    assert_eq!(mounted(&house, &provider).await.unwrap(), ["password 0644 correct horse"], "with the API server down");
    provider.stop();

    std::fs::remove_file(house.path("state/jwks.state")).unwrap();
    server.answer(Answer::Status(403));
    let provider = house.serve();
    let refused = mounted(&house, &provider).await.unwrap_err().replace(&url, "[url]");
    insta::assert_snapshot!(refused, @"IdentityUnverified: key: the issuer's keys could not be fetched yet: GET [url]: it answered 403 Forbidden (let the daemon read it, or name a file with another token in identity.jwks.tokenFile; kubelet tries again by itself)");
    assert!(provider.log().contains("cannot be fetched, mounts fail until they are there"), "{}", provider.log());
}

#[tokio::test]
async fn in_a_cluster_nothing_need_be_set() {
    let server = ApiServer::start(Answer::Status(500)).await;
    let house = house("identity: {}");
    server.answer(Answer::Text(200, house.issuer.jwks()));
    // The daemon's own token comes from the Pods' issuer.
    let own = house.token(&pod("keyferry", "keyferry-x", "keyferry"), "https://kubernetes.default.svc");
    server.service_account(&house.path("kubelet"), &own);

    let provider = house.serve_by(in_a_pod(&server, &house.path("kubelet")));
    assert_eq!(mounted(&house, &provider).await.unwrap(), ["password 0644 correct horse"]);
    let calls = server.calls();
    assert_eq!((calls.len(), calls[0].path.as_str()), (1, "/openid/v1/jwks"));
    assert_eq!(calls[0].authorization, Some(format!("Bearer {own}")));
}

#[tokio::test]
async fn the_api_server_may_review_the_tokens() {
    let server = ApiServer::start(Answer::With(Box::new(review))).await;
    let house = house("identity: { verify: token-review }");
    server.service_account(&house.path("kubelet"), "own-canary");
    let provider = house.serve_by(in_a_pod(&server, &house.path("kubelet")));
    let good = house.request(&web(), CLASS);
    for _ in 0..2 {
        assert_eq!(shown(&provider.mount(good.clone()).await.unwrap()), ["password 0644 correct horse"]);
    }
    assert_eq!(server.calls().len(), 1);

    // The token is the web Pod's, whatever Pod the request names.
    let refused = provider.mount(house.request(&pod("shop", "web-9", "web"), CLASS)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    insta::assert_snapshot!(refused.message(), @r#"IdentityUnverified: name: the token is that of the Pod "web-0", but the mount is for "web-9" (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)"#);
    server.go_down();
    assert!(provider.mount(good).await.is_ok(), "believed for two minutes");
    assert!(!provider.log().contains("canary"));
}

/// Says of every token that it is the web Pod's.
fn review(call: &Call) -> (u16, String) {
    let body: Value = serde_json::from_str(&call.body).unwrap();
    let web = web();
    let extra = json!({ "authentication.kubernetes.io/pod-name": [web.name], "authentication.kubernetes.io/pod-uid": [web.uid] });
    let user = json!({ "username": "system:serviceaccount:shop:web", "uid": "sa-uid", "extra": extra });
    let status = json!({ "authenticated": true, "audiences": body["spec"]["audiences"], "user": user });
    (201, json!({ "kind": "TokenReview", "status": status }).to_string())
}

#[test]
fn what_is_left_out_must_be_there() {
    for (identity, what) in [("identity: {}", "defaults"), ("identity: { verify: token-review }", "review")] {
        let house = house(identity);
        let mut command = on_a_bare_node("");
        command.arg("serve").arg("--config").arg(house.path("keyferry.yaml"));
        let (code, _, errors) = run(&mut command, "");
        assert_eq!(code, 2, "{what}: {errors}");
        if what == "review" {
            insta::assert_snapshot!(errors, @"error: identity: verify: token-review: this process is not in a Pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set (use jwks outside of a cluster)");
        } else {
            insta::assert_snapshot!(errors, @"error: identity: issuer: is missing, so Keyferry reads it from the daemon's own token, /var/run/secrets/kubernetes.io/serviceaccount/token: it cannot be read: No such file or directory (os error 2) (set identity.issuer: kubectl get --raw /.well-known/openid-configuration shows it; or let kubelet mount a token: automountServiceAccountToken: true); jwks: is missing, so the keys come from the API server, but this process is not in a Pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set (set identity.jwks.file or identity.jwks.url)");
        }
    }
}

/// The key file is on a network volume that is gone: stat never returns.
#[tokio::test]
async fn a_key_file_whose_file_system_hangs_holds_up_one_mount_and_leaves_the_keys() {
    let house = House::new("metrics: { listen: \"127.0.0.1:0\" }");
    let provider = house.serve_hanging();
    provider.mount(house.request(&web(), CLASS)).await.unwrap();
    std::os::unix::fs::symlink(house.path("vault").join(SLOW).join("jwks.json"), house.path("link")).unwrap();
    fs::rename(house.path("link"), house.path("jwks.json")).unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;

    let began = Instant::now();
    let request = house.request(&web(), CLASS);
    provider.mount(request.clone()).await.unwrap();
    let first = began.elapsed();
    assert!(first > Duration::from_secs(1) && first < Duration::from_secs(10), "{first:?}");
    let began = Instant::now();
    for _ in 0..10 {
        provider.mount(request.clone()).await.unwrap();
        provider.mount(house.request(&web(), CLASS)).await.unwrap();
    }
    assert!(began.elapsed() < first, "each waited for itself: {:?}", began.elapsed());
    let stranger = Issuer::new(ISSUER).unwrap().token(&web(), "keyferry", Duration::from_hours(1), &SystemClock).unwrap();
    let tokens = tokens(&[("keyferry", &stranger)]);
    let refused = provider.mount(house.asking(&web(), json!({ "objects": CLASS, TOKENS: tokens }))).await.unwrap_err();
    assert!(refused.message().starts_with("IdentityUnverified: key: "), "{refused:?}");

    let ready = provider.get("/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
    assert!(
        ready.contains("jwks.json: its file system does not answer; the former keys stay in force (is a network volume down?)"),
        "{ready}"
    );
    assert!(provider.log().contains("the file system of the issuer's keys does not answer"), "{}", provider.log());
}
