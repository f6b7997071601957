//! Credentials that a store makes and ends: issued once, kept, renewed, replaced, revoked.

use std::fs;

use serde_json::json;
use tokio::time::{Duration, sleep};

use super::{Store, metric, only_file};
use crate::bao::Postgres;
use crate::support::{Provider, eventually, pod, shown, web};

const CREDENTIAL: &str = r"
- {secret: database/creds/app, field: username, path: username}
- {secret: database/creds/app, field: password, path: password}
";

async fn with_database(ttl: &str, max_ttl: &str) -> (Store, Postgres) {
    let (store, postgres) = (Store::new().await, Postgres::start().await);
    store.bao.database("database", &postgres, "app", ttl, max_ttl).await;
    (store, postgres)
}

/// Username and password.
async fn credential(provider: &Provider, store: &Store) -> (String, String) {
    let files = provider.mount(store.asking(&web(), CREDENTIAL)).await.unwrap().files;
    let text = |at: usize| String::from_utf8(files[at].contents.to_vec()).unwrap();
    (text(0), text(1))
}

#[tokio::test]
async fn a_credential_is_issued_once_for_each_pod_and_kept_over_polls() {
    let (store, postgres) = with_database("1h", "24h").await;
    let provider = store.house.serve();
    let first = credential(&provider, &store).await;
    assert!(postgres.lets_in(&first.0, &first.1));
    for _ in 0..5 {
        assert_eq!(credential(&provider, &store).await, first, "a poll makes no new credential");
    }
    let other = provider.mount(store.asking(&pod("shop", "web-1", "web"), CREDENTIAL)).await.unwrap();
    assert_ne!(other.files[0].contents, first.0.as_bytes(), "another Pod has its own");
    assert_eq!(store.bao.leases("database/creds/app").await.len(), 2);
    assert!((metric(&provider, &["keyferry_leases{", "bao"]).await - 2.0).abs() < 0.1);
}

#[tokio::test]
async fn it_is_kept_when_another_object_of_the_mount_failed() {
    let (store, _postgres) = with_database("1h", "24h").await;
    let provider = store.house.serve();
    let objects = format!("{CREDENTIAL}- {{secret: kv/data/shop/none, path: none}}\n");
    for _ in 0..3 {
        provider.mount(store.asking(&web(), &objects)).await.unwrap_err();
    }
    assert_eq!(store.bao.leases("database/creds/app").await.len(), 1);
    credential(&provider, &store).await;
    assert_eq!(store.bao.leases("database/creds/app").await.len(), 1, "the next good mount gives that one");
}

#[tokio::test]
async fn pods_of_a_serviceaccount_share_one_where_the_class_says_so() {
    let (store, _postgres) = with_database("1h", "24h").await;
    let provider = store.house.serve();
    let objects = "- {secret: database/creds/app, field: username, path: u, lease: shared}";
    let one = only_file(&provider.mount(store.asking(&web(), objects)).await.unwrap());
    let other = only_file(&provider.mount(store.asking(&pod("shop", "web-1", "web"), objects)).await.unwrap());
    let foreign = only_file(&provider.mount(store.asking(&pod("shop", "batch-1", "batch"), objects)).await.unwrap());
    assert_eq!(one, other);
    assert_ne!(one, foreign);
}

#[tokio::test]
async fn it_is_renewed_through_an_outage_of_the_database() {
    let (store, postgres) = with_database("12s", "10m").await;
    let provider = store.house.serve();
    let first = credential(&provider, &store).await;
    postgres.stop();
    sleep(Duration::from_millis(9300)).await;
    postgres.start_again().await;
    sleep(Duration::from_secs(4)).await;
    assert_eq!(credential(&provider, &store).await, first, "after its first life it is still the same one: {}", provider.log());
    assert!(postgres.lets_in(&first.0, &first.1), "{}", provider.log());
}

#[tokio::test]
async fn at_the_end_of_all_renewing_it_is_replaced_while_it_works() {
    let (store, postgres) = with_database("3s", "6s").await;
    let provider = store.house.serve();
    let first = credential(&provider, &store).await;
    let mut next = first.clone();
    while next == first {
        assert!(postgres.lets_in(&first.0, &first.1), "the old one works until there is a new one");
        sleep(Duration::from_millis(200)).await;
        next = credential(&provider, &store).await;
    }
    assert!(postgres.lets_in(&next.0, &next.1));
}

#[tokio::test]
async fn one_that_an_operator_revoked_is_replaced() {
    let (store, postgres) = with_database("3s", "10m").await;
    let provider = store.house.serve();
    let first = credential(&provider, &store).await;
    for lease in store.bao.leases("database/creds/app").await {
        store.bao.revoke(&lease).await;
    }
    eventually("a new one is given", async || credential(&provider, &store).await != first).await;
    let next = credential(&provider, &store).await;
    assert!(postgres.lets_in(&next.0, &next.1));
}

#[tokio::test]
async fn a_killed_provider_finds_its_leases_where_they_are_sealed() {
    let (store, postgres) = with_database("1h", "24h").await;
    fs::write(store.house.path("cache.key"), [7; 32]).unwrap();
    let root = store.house.folder.path().display().to_string();
    let sealed = format!("cache: {{ sealed: {{ dir: {root}/cache, key: {root}/cache.key }} }}\n");
    store.configure(&store.bao.url(), "", &sealed);
    let mut provider = store.house.serve();
    let first = credential(&provider, &store).await;
    eventually("the lease is on disk", async || fs::read_dir(store.house.path("cache")).is_ok_and(|dir| dir.count() > 0)).await;
    sleep(Duration::from_millis(300)).await;
    provider.signal(rustix::process::Signal::KILL);
    provider.wait();
    let provider = store.house.serve();
    assert_eq!(credential(&provider, &store).await, first);
    assert!(postgres.lets_in(&first.0, &first.1));
    assert_eq!(store.bao.leases("database/creds/app").await.len(), 1);
    let files = fs::read_dir(store.house.path("cache")).unwrap().flatten();
    for file in files.filter(|file| file.path().is_file()) {
        let bytes = fs::read(file.path()).unwrap();
        let seen = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(!seen(&first.1) && !seen("database"), "{:?} is readable", file.path());
    }
}

#[tokio::test]
async fn without_a_sealed_folder_a_restart_issues_anew_and_says_so() {
    let (store, _postgres) = with_database("1h", "24h").await;
    let mut provider = store.house.serve();
    let first = credential(&provider, &store).await;
    provider.signal(rustix::process::Signal::TERM);
    provider.wait();
    let provider = store.house.serve();
    assert!(!provider.log().contains("cache.sealed"), "there is no lease yet: {}", provider.log());
    assert_ne!(credential(&provider, &store).await, first);
    eventually("the log says so", async || provider.log().contains("cache.sealed")).await;
}

#[tokio::test]
async fn a_reload_keeps_what_is_out() {
    let (store, _postgres) = with_database("1h", "24h").await;
    let provider = store.house.serve();
    let first = credential(&provider, &store).await;
    store.configure(&store.bao.url(), ", cache: { fresh: 7s }", "limits: { objects: 99 }\n");
    provider.signal(rustix::process::Signal::HUP);
    eventually("the new configuration is in force", async || provider.log().contains("the configuration is reloaded")).await;
    assert_eq!(credential(&provider, &store).await, first);
}

#[tokio::test]
async fn certificates_are_kept_until_they_near_their_end() {
    let store = Store::new().await;
    store.bao.pki("pki", "web", "24h", false).await;
    let provider = store.house.serve();
    let objects = r"
- {secret: pki/issue/web, method: POST, args: {common_name: web.shop, ttl: 24h}, field: certificate, path: tls.crt}
- {secret: pki/issue/web, method: POST, args: {common_name: web.shop, ttl: 24h}, field: private_key, path: tls.key, mode: 0400}
";
    let first = provider.mount(store.asking(&web(), objects)).await.unwrap();
    assert!(shown(&first)[0].contains("BEGIN CERTIFICATE") && shown(&first)[1].contains("PRIVATE KEY"));
    let again = provider.mount(store.asking(&web(), objects)).await.unwrap();
    assert_eq!(first.files, again.files);
    assert_eq!(store.bao.counted().get("update pki/issue/web"), Some(&1));
}

#[tokio::test]
async fn a_signed_ssh_key_is_kept_until_it_nears_its_end() {
    let store = Store::new().await;
    store.bao.mount("ssh", "ssh").await;
    store.bao.must("POST", "ssh/config/ca", json!({ "generate_signing_key": true })).await;
    let role = json!({ "key_type": "ca", "allow_user_certificates": true, "allowed_users": "*", "default_user": "app", "ttl": "1h" });
    store.bao.must("POST", "ssh/roles/web", role).await;
    let provider = store.house.serve();
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
    let objects = format!("- {{secret: ssh/sign/web, method: POST, args: {{public_key: {key}}}, field: signed_key, path: id-cert.pub}}");
    let first = provider.mount(store.asking(&web(), &objects)).await.unwrap();
    assert!(only_file(&first).starts_with("ssh-ed25519-cert-v01@openssh.com "));
    assert_eq!(provider.mount(store.asking(&web(), &objects)).await.unwrap().files, first.files);
    assert_eq!(store.bao.counted().get("update ssh/sign/web"), Some(&1));
}

/// In real time: Keyferry looks at kubelet's folder once a minute, and a Pod must be absent twice.
#[tokio::test]
#[ignore = "takes five minutes: `make soak` runs it"]
async fn what_a_pod_had_is_given_back_when_it_is_gone() {
    let (store, postgres) = with_database("1h", "24h").await;
    let revoking = format!("{}path \"sys/leases/revoke\" {{ capabilities = [\"update\"] }}\n", super::POLICY);
    store.bao.policy("csi", &revoking).await;
    let other = pod("shop", "web-1", "web");
    for uid in [&web().uid, &other.uid] {
        fs::create_dir_all(store.house.path(&format!("kubelet/pods/{uid}"))).unwrap();
    }
    let provider = store.house.serve();
    let (username, password) = credential(&provider, &store).await;
    provider.mount(store.asking(&other, CREDENTIAL)).await.unwrap();
    fs::remove_dir(store.house.path(&format!("kubelet/pods/{}", web().uid))).unwrap();
    let mut waited = 0;
    while store.bao.leases("database/creds/app").await.len() > 1 {
        assert!(waited < 240, "it is still out: {}", provider.log());
        sleep(Duration::from_secs(5)).await;
        waited += 5;
    }
    assert!(waited >= 60, "it is not revoked at the first look: {waited} s");
    assert!(!postgres.lets_in(&username, &password));
    assert!(provider.log().contains("a lease was revoked"));

    // Without that right, what the other one had ends with the token, because it was the token's last user.
    store.bao.policy("csi", super::POLICY).await;
    fs::remove_dir(store.house.path(&format!("kubelet/pods/{}", other.uid))).unwrap();
    fs::create_dir_all(store.house.path("kubelet/pods/somebody-else")).unwrap();
    waited = 0;
    while !store.bao.leases("database/creds/app").await.is_empty() {
        assert!(waited < 240, "it is still out: {}", provider.log());
        sleep(Duration::from_secs(5)).await;
        waited += 5;
    }
}
