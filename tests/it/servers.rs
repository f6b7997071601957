//! The real servers behind the tests of backends, each piece of them tested: so tests that use `bao` can trust it.

use std::os::unix::fs::PermissionsExt;

use keyferry::clock::SystemClock;
use keyferry::identity::Issuer;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, sleep, timeout};

use crate::bao::{Bao, Life, Options, Postgres, Proxy, Reviews, eventually};
use crate::support::{ISSUER, apart, pod, web};

const READ: &str = "path \"kv/data/shop/*\" { capabilities = [\"read\"] }";

async fn shop(options: Options) -> Bao {
    let bao = Bao::configured(options).await;
    bao.kv2("kv").await;
    bao.put("kv", "shop/db", json!({ "username": "app", "password": "correct horse" })).await;
    bao.policy("shop", READ).await;
    bao
}

fn web_token(issuer: &Issuer, audience: &str) -> String {
    issuer.token(&web(), audience, Duration::from_hours(1), &SystemClock).unwrap()
}

#[tokio::test]
async fn secrets_are_kept_in_both_versions_of_kv() {
    let bao = shop(Options::default()).await;
    assert_eq!(bao.put("kv", "shop/db", json!({ "password": "next" })).await, 2);
    let read = async |path: &str| bao.api("GET", path, Value::Null).await;
    assert_eq!(read("kv/data/shop/db").await.1["data"]["data"], json!({ "password": "next" }));
    assert_eq!(read("kv/data/shop/db?version=1").await.1["data"]["data"]["password"], "correct horse");
    bao.must("POST", "kv/delete/shop/db", json!({ "versions": [2] })).await;
    let (status, deleted) = read("kv/data/shop/db").await;
    assert!(status == 404 && deleted["data"]["metadata"]["deletion_time"] != "", "{status} {deleted}");
    assert_eq!(read("kv/data/shop/none").await, (404, json!({ "errors": [] })));

    bao.kv1("secret1").await;
    bao.must("POST", "secret1/shop/db", json!({ "password": "old" })).await;
    assert_eq!(read("secret1/shop/db").await.1["data"], json!({ "password": "old" }));
}

#[tokio::test]
async fn a_pods_token_logs_in_by_jwt_and_the_log_of_requests_tells() {
    let (bao, issuer) = (shop(Options::default()).await, Issuer::new(ISSUER).unwrap());
    bao.jwt("jwt", &issuer.jwks()).await;
    let bound = json!({ "policies": ["shop"], "ttl": "1h", "bound_claims": { "/kubernetes.io/namespace": "shop" } });
    bao.jwt_role("jwt", "csi", "bao", bound).await;
    assert_eq!(bao.requests(), []);

    let web = bao.login("jwt", json!({ "role": "csi", "jwt": web_token(&issuer, "bao") })).await.unwrap();
    for _ in 0..3 {
        web.must("GET", "kv/data/shop/db", Value::Null).await;
    }
    assert_eq!(web.api("GET", "kv/data/bank/db", Value::Null).await.0, 403);
    let requests = bao.requests();
    let read = "read kv/data/shop/db";
    let shown: Vec<String> = requests.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["update auth/jwt/login", read, read, read, "read kv/data/bank/db"]);
    assert!(requests.iter().all(|request| request.display_name == "jwt-system:serviceaccount:shop:web"), "{requests:#?}");
    assert!(requests.iter().all(|request| request.accessor == requests[0].accessor && !request.accessor.is_empty()), "{requests:#?}");
    assert!(requests[4].error.as_ref().unwrap().contains("permission denied"), "{requests:#?}");
    assert_eq!(bao.requests(), []);
    for _ in 0..3 {
        web.must("GET", "kv/data/shop/db", Value::Null).await;
    }
    assert_eq!(json!(bao.counted()), json!({ read: 3 }));

    let live = bao.token_of(&requests[0].accessor).await.unwrap();
    assert_eq!((&live["policies"], &live["path"]), (&json!(["default", "shop"]), &json!("auth/jwt/login")));
    bao.revoke_token(&requests[0].accessor).await;
    assert!(bao.token_of(&requests[0].accessor).await.is_none());

    let other = issuer.token(&pod("bank", "web-0", "web"), "bao", Duration::from_hours(1), &SystemClock).unwrap();
    for wrong in [web_token(&issuer, "other"), other, web_token(&Issuer::new(ISSUER).unwrap(), "bao")] {
        assert_eq!(bao.login("jwt", json!({ "role": "csi", "jwt": wrong })).await.err().unwrap().0, 400);
    }
}

#[tokio::test]
async fn a_pods_token_logs_in_by_review() {
    let (bao, issuer, reviews) = (shop(Options::default()).await, Issuer::new(ISSUER).unwrap(), Reviews::start());
    bao.kubernetes("kubernetes", &reviews).await;
    bao.kubernetes_role("kubernetes", "csi", json!({ "policies": ["shop"], "audience": "bao", "bound_service_account_names": ["web"] }))
        .await;
    let parameters = json!({ "role": "csi", "jwt": web_token(&issuer, "bao") });
    let web = bao.login("kubernetes", parameters.clone()).await.unwrap();
    web.must("GET", "kv/data/shop/db", Value::Null).await;
    assert_eq!(reviews.count(), 1);

    let status = async |parameters: &Value| bao.login("kubernetes", parameters.clone()).await.map(|_| ()).map_err(|(status, _)| status);
    reviews.refuse(true);
    assert_eq!(status(&parameters).await, Err(403));
    reviews.refuse(false);
    reviews.go_down();
    assert_eq!(status(&parameters).await, Err(403));
    reviews.go_up();
    assert_eq!(status(&parameters).await, Ok(()));
    assert_eq!(status(&json!({ "role": "csi", "jwt": web_token(&issuer, "other") })).await, Err(403));
    let other = issuer.token(&pod("shop", "api-0", "api"), "bao", Duration::from_hours(1), &SystemClock).unwrap();
    assert_eq!(status(&json!({ "role": "csi", "jwt": other })).await, Err(403));
}

#[tokio::test]
async fn approles_and_tokens_log_in() {
    let bao = shop(Options::default()).await;
    let (role_id, secret_id) = bao.approle("approle", "csi", json!({ "token_policies": ["shop"], "token_period": "10m" })).await;
    let app = bao.login("approle", json!({ "role_id": role_id, "secret_id": secret_id })).await.unwrap();
    app.must("GET", "kv/data/shop/db", Value::Null).await;
    let token = bao.new_token(json!({ "policies": ["shop"], "ttl": "1h" })).await;
    bao.with_token(&token).must("GET", "kv/data/shop/db", Value::Null).await;
    assert_eq!(bao.with_token("").api("GET", "kv/data/shop/db", Value::Null).await.0, 403);
    assert_eq!(bao.accessors().await.len(), 3);
}

#[tokio::test]
async fn a_database_login_works_until_its_lease_is_revoked() {
    let (bao, postgres) = tokio::join!(Bao::dev(), Postgres::start());
    bao.database("database", &postgres, "app", "1h", "2h").await;
    let issued = bao.must("GET", "database/creds/app", Value::Null).await;
    let text = |name: &str| issued["data"][name].as_str().unwrap();
    let lets_in = || postgres.lets_in(text("username"), text("password"));
    assert!(issued["renewable"] == true && issued["lease_duration"] == 3600 && lets_in());
    assert!(!postgres.lets_in(text("username"), "wrong"));

    let lease = issued["lease_id"].as_str().unwrap();
    assert_eq!(bao.leases("database/creds/app").await, [lease]);
    assert!(bao.lease(lease).await.unwrap()["ttl"].as_u64().unwrap() > 3590);
    bao.revoke(lease).await;
    assert!(!lets_in() && bao.lease(lease).await.is_none() && bao.leases("database").await.is_empty());

    postgres.stop();
    assert_eq!(bao.api("GET", "database/creds/app", Value::Null).await.0, 500);
    postgres.start_again().await;
    eventually("logins are issued again", async || bao.api("GET", "database/creds/app", Value::Null).await.0 == 200).await;

    bao.database_role("database", "brief", "1s", "1s").await;
    let brief = bao.must("GET", "database/creds/brief", Value::Null).await["data"].clone();
    eventually("a login expires", async || !postgres.lets_in(brief["username"].as_str().unwrap(), brief["password"].as_str().unwrap()))
        .await;
}

#[tokio::test]
async fn certificates_and_one_time_passwords_are_issued() {
    let bao = Bao::dev().await;
    for (mount, leased) in [("pki", false), ("pki-leased", true)] {
        bao.pki(mount, "web", "1h", leased).await;
        let issued = bao.must("POST", &format!("{mount}/issue/web"), json!({ "common_name": "web.example" })).await;
        assert!(issued["data"]["certificate"].as_str().unwrap().contains("BEGIN CERTIFICATE"));
        assert_eq!((issued["lease_id"] != "", issued["renewable"].clone()), (leased, json!(false)));
    }
    bao.ssh_otp("ssh", "otp", "10m").await;
    let issued = bao.must("POST", "ssh/creds/otp", json!({ "ip": "10.0.0.1" })).await;
    assert_eq!((&issued["lease_duration"], &issued["renewable"]), (&json!(600), &json!(false)));
    assert!(issued["data"]["key"].is_string());
}

#[tokio::test]
async fn namespaces_are_apart() {
    let bao = shop(Options::default()).await;
    let team = bao.namespace("team-a").await;
    let web = team.namespace("web").await;
    web.kv2("kv").await;
    web.put("kv", "x", json!({ "a": "b" })).await;
    assert_eq!(web.api("GET", "kv/data/shop/db", Value::Null).await.0, 404);
    assert_eq!(bao.api("GET", "team-a/web/kv/data/x", Value::Null).await.1["data"]["data"], json!({ "a": "b" }));
    web.policy("all", "path \"*\" { capabilities = [\"read\"] }").await;
    let token = web.new_token(json!({ "policies": ["all"] })).await;
    bao.requests();
    web.with_token(&token).must("GET", "kv/data/x", Value::Null).await;
    bao.with_token(&token).must("GET", "team-a/web/kv/data/x", Value::Null).await;
    assert_eq!(json!(bao.counted()), json!({ "team-a/web: read kv/data/x": 2 }));
}

#[tokio::test]
async fn it_is_sealed_and_has_its_data_again_after_a_restart() {
    let bao = shop(Options { raft: true, ..Options::default() }).await;
    let read = async || bao.api("GET", "kv/data/shop/db", Value::Null).await.0;
    bao.seal().await;
    assert_eq!(read().await, 503);
    bao.unseal().await;
    assert_eq!(read().await, 200);
    bao.restart().await;
    assert_eq!(read().await, 200);
    bao.shut_down().await;
    assert!(TcpStream::connect(bao.address()).await.is_err());
    bao.start_sealed().await;
    assert_eq!(read().await, 503);
    bao.unseal().await;
    assert_eq!(read().await, 200);

    let new = Bao::configured(Options { uninitialised: true, ..Options::default() }).await;
    assert_eq!(new.api("GET", "sys/health", Value::Null).await.0, 501);
    assert_eq!(new.api("GET", "kv/data/x", Value::Null).await.0, 503);
}

#[tokio::test]
async fn a_standby_hands_on() {
    let bao = shop(Options { raft: true, tls: true, ..Options::default() }).await;
    let other = bao.standby().await;
    let status = async |path: &str| other.api("GET", path, Value::Null).await.0;
    assert_eq!((status("kv/data/shop/db").await, status("sys/health").await), (200, 429));
    bao.stop();
    let redirect = other.request("GET", "kv/data/shop/db", Value::Null, &[]).await;
    let there = format!("{}/v1/kv/data/shop/db", bao.url());
    assert_eq!(
        (redirect.status, redirect.header("location")),
        (307, Some(there.as_str())),
        "it sends clients to the last leader that it knew"
    );
}

#[tokio::test]
async fn a_quota_answers_429_and_says_when_to_come_again() {
    let bao = shop(Options::default()).await;
    let token = bao.new_token(json!({ "policies": ["shop"] })).await;
    for retry_after in [true, false] {
        bao.rate_limit("kv", 2, 60, retry_after).await;
        let mut answers = Vec::new();
        for _ in 0..3 {
            answers.push(bao.with_token(&token).request("GET", "kv/data/shop/db", Value::Null, &[]).await);
        }
        assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [200, 200, 429], "{answers:#?}");
        let seconds = answers[2].header("retry-after").map(|seconds| seconds.parse::<u64>().unwrap());
        assert!(if retry_after { seconds.is_some_and(|seconds| seconds <= 60) } else { seconds.is_none() }, "{seconds:?}");
        bao.lift_rate_limit().await;
    }
    assert_eq!(bao.with_token(&token).api("GET", "kv/data/shop/db", Value::Null).await.0, 200);
}

/// One request by hand, on a connection of its own: the whole answer.
async fn ask(proxy: &Proxy) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(proxy.address).await?;
    stream.write_all(b"GET /v1/sys/health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map(|_| answer)
}

#[tokio::test]
async fn the_proxy_delays_and_counts() {
    let bao = Bao::dev().await;
    let proxy = Proxy::start(bao.address());
    assert!(ask(&proxy).await.unwrap().starts_with("HTTP/1.1 200"));
    proxy.delay(Duration::from_millis(50));
    let began = Instant::now();
    assert!(ask(&proxy).await.unwrap().starts_with("HTTP/1.1 200"));
    // Connecting is a round trip, asking another.
    let took = began.elapsed().as_millis();
    assert!((200..2000).contains(&took), "{took} ms");
    eventually("both connections have ended", async || (proxy.accepted(), proxy.open()) == (2, 0)).await;
}

#[tokio::test]
async fn the_proxy_cuts_resets_keeps_silent_and_fails_over() {
    let (bao, other) = tokio::join!(Bao::dev(), Bao::configured(Options { uninitialised: true, ..Options::default() }));
    let proxy = Proxy::start(bao.address());
    let reset = |result: std::io::Result<String>| result.unwrap_err().kind() == std::io::ErrorKind::ConnectionReset;

    let mut idle = TcpStream::connect(proxy.address).await.unwrap();
    eventually("it is carried", async || proxy.open() == 1).await;
    proxy.cut();
    assert!(reset(idle.read_to_string(&mut String::new()).await.map(|_| String::new())));
    assert!(ask(&proxy).await.is_ok(), "a new connection is not cut");

    proxy.reset_after(100, 2);
    assert!(reset(ask(&proxy).await) && reset(ask(&proxy).await));
    assert!(ask(&proxy).await.unwrap().len() > 100);

    proxy.blackhole(true);
    assert!(timeout(Duration::from_millis(300), ask(&proxy)).await.is_err());
    proxy.blackhole(false);
    assert!(ask(&proxy).await.is_ok());

    proxy.switch(other.address());
    assert!(ask(&proxy).await.unwrap().starts_with("HTTP/1.1 501"));
    other.stop();
    assert!(reset(ask(&proxy).await), "a server that is down");
}

#[tokio::test]
async fn https_is_served_with_any_certificate_and_clients_show_theirs() {
    let bao = shop(Options { tls: true, ..Options::default() }).await;
    let (good, client) = (bao.authority().server(&["127.0.0.1"], Life::Good), bao.authority().client("web"));
    bao.cert("cert", "web", &bao.authority().ca, json!({ "token_policies": ["shop"] })).await;
    let folder = crate::folder::new();
    let file = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    let (certificate, key) = (file("web.pem", &client.certificate), file("web.key", &client.key));
    let curl = async || {
        let mut curl = tokio::process::Command::from(apart("curl"));
        // Without a file of settings that the user may have.
        curl.args(["-q", "-sS", "-X", "POST", "-d", "{\"name\":\"web\"}"]).arg(format!("{}/v1/auth/cert/login", bao.url()));
        curl.arg("--cacert").arg(bao.ca_file()).arg("--cert").arg(&certificate).arg("--key").arg(&key);
        let output = curl.output().await.unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (answer, complaint) = curl().await;
    assert!(answer.contains("client_token"), "{answer} {complaint}");
    bao.certify(&bao.authority().server(&["127.0.0.1"], Life::Expired)).await;
    assert!(curl().await.1.contains("expired"));
    bao.certify(&bao.authority().server(&["other.example"], Life::Good)).await;
    assert!(curl().await.1.contains("127.0.0.1"));
    bao.certify(&good).await;
    assert!(curl().await.0.contains("client_token"));
}

/// Nothing outlives a test, not even a killed one: here the servers' parent is a process that the test kills.
#[tokio::test]
async fn servers_die_with_the_test() {
    const INSIDE: &str = "KEYFERRY_TEST_SERVERS";
    if std::env::var_os(INSIDE).is_some() {
        let (bao, postgres) = tokio::join!(Bao::dev(), Postgres::start());
        println!("pids {} {}", bao.pid(), postgres.pid());
        sleep(Duration::from_mins(1)).await;
    }
    let mut child = tokio::process::Command::from(apart(std::env::current_exe().unwrap()));
    child.args(["--exact", "servers::servers_die_with_the_test", "--nocapture"]).env(INSIDE, "1").kill_on_drop(true);
    // A killed process cannot tidy up, so the test does it here. PostgreSQL's user must be able to reach its own files.
    let folder = crate::folder::new();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    child.env("TMPDIR", folder.path());
    let mut child = child.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(child.stdout.take().unwrap()));
    let pids: Vec<String> = loop {
        let line = lines.next_line().await.unwrap().expect("the child prints its servers");
        if let Some((_, pids)) = line.split_once("pids ") {
            break pids.split(' ').map(str::to_owned).collect();
        }
    };
    let runs = |pid: &String| std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    assert!(pids.len() == 2 && pids.iter().all(runs));
    child.kill().await.unwrap();
    eventually("the servers are gone", async || !pids.iter().any(runs)).await;
}
