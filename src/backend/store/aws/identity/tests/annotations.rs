use serde_json::json;

use super::*;
use crate::backend::remote::annotation::{MAX_NOTED, NOTED};
use crate::kube::api_server::{Answer, ApiServer};
use crate::kube::{KubeClient, KubeConfig};

struct Scene {
    _folder: Folder,
    server: ApiServer,
    sts: Server,
    identities: Arc<Identities>,
}

impl Scene {
    async fn new(annotations: &serde_json::Value) -> Self {
        let (server, folder) = (ApiServer::start(account("sa-shop-web", annotations)).await, Folder::new());
        server.service_account(folder.0.path(), "own-canary");
        let (host, port) = (server.address.ip().to_string(), server.address.port().to_string());
        let kube = KubeClient::new(KubeConfig::of(Some(host), Some(port), folder.0.path()).unwrap()).unwrap();
        let sts = fake::sts();
        let config = config(&sts.url(), "auth: { method: irsa }");
        let identities = Identities::with(&config, || Annotations::of(ANNOTATION, Ok(kube)), Arc::new(SystemClock)).unwrap();
        Self { _folder: folder, server, sts, identities: Arc::new(identities) }
    }

    async fn refused(&self, answer: Answer) -> String {
        self.server.answer(answer);
        let pod = pod("shop", "x", "web");
        let uid = format!("uid-{}", crate::clock::Clock::now(&SystemClock));
        let refusal = refused(&self.identities, None, &PodIdentity { uid: uid.as_str().into(), ..pod }).await;
        if refusal.is_of_store() {
            // All Pods share the failure for a moment.
            tokio::time::sleep(Duration::from_millis(2_001)).await;
        }
        format!("{:?}: {}", refusal.fault, refusal.reason.replace(&self.server.address.to_string(), "[address]"))
    }
}

fn account(uid: &str, annotations: &serde_json::Value) -> Answer {
    Answer::Text(200, json!({ "kind": "ServiceAccount", "metadata": { "uid": uid, "annotations": annotations } }).to_string())
}

fn role(arn: &str) -> serde_json::Value {
    json!({ "eks.amazonaws.com/role-arn": arn, "other": "x" })
}

#[tokio::test]
async fn an_annotation_names_the_role_and_is_read_once_for_all_pods() {
    let scene = Scene::new(&role(ROLE)).await;
    let mut running = JoinSet::new();
    for n in 0..100 {
        let identities = Arc::clone(&scene.identities);
        running.spawn(async move { key_of(&identities, None, &pod("shop", &format!("web-{n}"), "web")).await.unwrap() });
    }
    running.join_all().await;
    let calls = scene.server.calls();
    assert_eq!((calls.len(), calls[0].path.as_str()), (1, "/api/v1/namespaces/shop/serviceaccounts/web"));
    let logins = scene.sts.asked();
    assert_eq!((logins.len(), logins[0].parameter("RoleArn").unwrap()), (1, ROLE.to_owned()));

    key_of(&scene.identities, Some("arn:aws:iam::123456789012:role/other"), &web()).await.unwrap();
    assert!(scene.server.calls().is_empty(), "a class that names its role needs none");
}

#[tokio::test]
async fn an_annotation_that_gives_no_role_says_so() {
    let scene = Scene::new(&json!({})).await;
    let mut said = vec![scene.refused(account("sa-shop-web", &json!({}))).await];
    said.push(scene.refused(account("sa-shop-web", &json!(null))).await);
    said.push(scene.refused(account("sa-shop-web", &role("web\u{202e}"))).await);
    said.push(scene.refused(account("sa-shop-web", &role("arn:aws:iam::12345678901:role/web"))).await);
    said.push(scene.refused(account("sa-shop-web", &role("arn:aws-cn:iam::123456789012:role/web"))).await);
    said.push(scene.refused(account("another", &role(ROLE))).await);
    said.push(scene.refused(Answer::Status(404)).await);
    said.push(scene.refused(Answer::Text(403, "canary".into())).await);
    said.push(scene.refused(Answer::Text(200, "{}".into())).await);
    said.push(scene.refused(Answer::Status(500)).await);
    insta::assert_snapshot!(said.join("\n"), @r#"
    Unauthenticated: ServiceAccount shop/web: no role is known for it (kubectl annotate serviceaccount -n shop web eks.amazonaws.com/role-arn=arn:aws:iam::111122223333:role/..., or name a `role` in the class)
    Unhelpful: ServiceAccount shop/web: its annotation eks.amazonaws.com/role-arn, which names its role, cannot be read: GET https://[address]/api/v1/namespaces/shop/serviceaccounts/web: the answer is not a ServiceAccount (check that the address is that of an API server)
    Unauthenticated: ServiceAccount shop/web: its annotation eks.amazonaws.com/role-arn: "web\u{202e}" is not the ARN of a role (write for example arn:aws:iam::111122223333:role/web)
    Unauthenticated: ServiceAccount shop/web: its annotation eks.amazonaws.com/role-arn: "arn:aws:iam::12345678901:role/web" is not the ARN of a role (write for example arn:aws:iam::111122223333:role/web)
    Unauthenticated: ServiceAccount shop/web: its annotation eks.amazonaws.com/role-arn: "arn:aws-cn:iam::123456789012:role/web" is an ARN of the partition "aws-cn", and eu-west-1 is in aws (begin it with arn:aws:)
    Unauthenticated: ServiceAccount shop/web: it was deleted and made again after the Pod got its token (restart the Pod)
    Unauthenticated: ServiceAccount shop/web: there is no such ServiceAccount (any more)
    Unhelpful: ServiceAccount shop/web: its annotation eks.amazonaws.com/role-arn, which names its role, cannot be read: GET https://[address]/api/v1/namespaces/shop/serviceaccounts/web: it answered 403 Forbidden (the daemon's ServiceAccount needs a ClusterRole with the verb `get` on serviceaccounts, and a ClusterRoleBinding to it: components/service-account-annotations has both)
    Unhelpful: ServiceAccount shop/web: its annotation eks.amazonaws.com/role-arn, which names its role, cannot be read: GET https://[address]/api/v1/namespaces/shop/serviceaccounts/web: the answer is not a ServiceAccount (check that the address is that of an API server)
    NoLogin: ServiceAccount shop/web: its annotation eks.amazonaws.com/role-arn, which names its role, cannot be read: GET https://[address]/api/v1/namespaces/shop/serviceaccounts/web: it answered 500 Internal Server Error (it is overloaded, starting or stopping)
    "#);
    assert!(scene.sts.asked().is_empty());
    scene.server.answer(account("sa-shop-web", &role(ROLE)));
    key_of(&scene.identities, None, &web()).await.unwrap();

    let unproven = PodIdentity { verified: false, ..web() };
    insta::assert_snapshot!(refused(&scene.identities, None, &unproven).await.reason, @"ServiceAccount shop/web: no verified token shows which one it is (set identity.verify to jwks or token-review, or name a `role` in the class)");
    insta::assert_snapshot!(refused(&open("http://127.0.0.1:9", "auth: { method: irsa }"), None, &web()).await.reason, @"ServiceAccount shop/web: its annotation eks.amazonaws.com/role-arn, which names its role, cannot be read: this is not a Pod (name a `role` in the class, or auth.role of the backend)");
}

/// After a refusal by AWS, somebody may have corrected the annotation.
#[tokio::test]
async fn an_annotation_whose_role_was_refused_is_read_again() {
    let scene = Scene::new(&role("arn:aws:iam::123456789012:role/wrong")).await;
    let sts = Server::plain(|asked| match asked.parameter("RoleArn").unwrap().as_str() {
        ROLE => fake::key("AssumeRoleWithWebIdentity", &format!("ASIA{}", asked.before)),
        _ => fake::error(403, "AccessDenied", "no"),
    });
    let kube = scene.identities.annotations_of_test();
    let identities = Identities::with(&config(&sts.url(), "auth: { method: irsa }"), || kube, Arc::new(SystemClock)).unwrap();
    refused(&identities, None, &web()).await;
    scene.server.answer(account("sa-shop-web", &role(ROLE)));
    key_of(&identities, None, &web()).await.unwrap();
    assert_eq!(scene.server.calls().len(), 2);
}

#[tokio::test]
async fn an_annotation_that_changed_is_another_role_after_ten_minutes() {
    let scene = Scene::new(&role(ROLE)).await;
    let role_now = async || {
        key_of(&scene.identities, None, &web()).await.unwrap();
        scene.sts.asked().first().map(|call| call.parameter("RoleArn").unwrap())
    };
    assert_eq!(role_now().await.as_deref(), Some(ROLE));
    let other = "arn:aws:iam::123456789012:role/other";
    scene.server.answer(account("sa-shop-web", &role(other)));
    assert_eq!(role_now().await, None, "it is believed");
    tokio::time::pause();
    tokio::time::advance(Duration::from_mins(10)).await;
    tokio::time::resume();
    assert_eq!(role_now().await.as_deref(), Some(other), "and another role is another login");
}

/// A namespace has as many ServiceAccounts as it likes.
#[tokio::test]
async fn made_up_service_accounts_push_out_their_own_namespaces_annotations() {
    let scene = Scene::new(&json!({})).await;
    scene.server.answer(Answer::With(Box::new(|call| {
        let names: Vec<&str> = call.path.split('/').collect();
        let metadata = json!({ "uid": format!("sa-{}-{}", names[4], names[6]), "annotations": role(ROLE) });
        (200, json!({ "kind": "ServiceAccount", "metadata": metadata }).to_string())
    })));
    let one = scene.identities.annotation_of_test(&web()).await.unwrap();
    let long = "a".repeat(2_000);
    for n in 0..600 {
        scene.identities.annotation_of_test(&pod("evil", "x", &format!("{long}{n}"))).await.unwrap();
    }
    assert_eq!(scene.server.calls().len(), 601);
    let (weight, of_shop) = scene.identities.noted_of_test("shop");
    assert!(weight <= MAX_NOTED * NOTED && of_shop < 2 * NOTED, "{weight} {of_shop}");
    assert!(Arc::ptr_eq(&one, &scene.identities.annotation_of_test(&web()).await.unwrap()));
    assert!(scene.server.calls().is_empty());
}

#[tokio::test]
async fn an_annotation_serves_on_while_the_api_server_is_down() {
    let scene = Scene::new(&role(ROLE)).await;
    let noted = scene.identities.annotation_of_test(&web()).await.unwrap();
    scene.server.go_down();
    tokio::time::pause();
    tokio::time::advance(Duration::from_mins(11)).await;
    tokio::time::resume();
    assert!(Arc::ptr_eq(&noted, &scene.identities.annotation_of_test(&web()).await.unwrap()));
    tokio::time::pause();
    tokio::time::advance(Duration::from_mins(50)).await;
    tokio::time::resume();
    assert!(scene.identities.annotation_of_test(&web()).await.is_err());
}
