//! Makes `tests/fixtures/state-0.1.0` by version 0.1.0's own binary, a real OpenBao and a real PostgreSQL, and tries the way back to it.
//! `tests/fixtures/make-state.sh` builds that binary and runs this.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;

use keyferry::clock::SystemClock;
use serde_json::json;
use tokio::time::Duration;

use super::{Delivered, LEFT, Mounted, Node, Recorded, classes, configure, copy, fixture};
use crate::api_server::{Answer, ApiServer};
use crate::bao::{Bao, Postgres};
use crate::support::{House, TOKENS, apart, connect, request, run, tokens, web};

/// A hundred years: Keyferry finds it again as long as anyone runs the tests.
const AGES: &str = "876000h";

const POLICY: &str = r#"
path "kv1/*" { capabilities = ["read"] }
path "database/creds/*" { capabilities = ["read"] }
path "pki/issue/*" { capabilities = ["update"] }
"#;

/// Secrets without a version of their own, and the login of Pods whose tokens these keys verify.
pub async fn fill(bao: &Bao, jwks: &str) {
    bao.kv1("kv1").await;
    bao.must("POST", "kv1/shop/db", json!({ "username": "app", "password": "correct horse", "port": 5432 })).await;
    bao.must("POST", "kv1/shop/api", json!({ "token": "ümlaut", "nested": { "b": [1, 2.50, true], "a": "x" } })).await;
    bao.policy("csi", POLICY).await;
    bao.jwt("jwt", jwks).await;
    tune(bao, "auth/jwt").await;
    bao.jwt_role("jwt", "csi", "bao", json!({ "policies": ["csi"], "ttl": AGES })).await;
}

/// Lets the results of a mount live for ages.
async fn tune(bao: &Bao, mount: &str) {
    let path = if mount.starts_with("auth/") { format!("sys/{mount}/tune") } else { format!("sys/mounts/{mount}/tune") };
    bao.must("POST", &path, json!({ "max_lease_ttl": AGES })).await;
}

async fn fill_with_leases(bao: &Bao, postgres: &Postgres) {
    bao.database("database", postgres, "app", AGES, AGES).await;
    tune(bao, "database").await;
    for role in ["peer", "shared"] {
        bao.database_role("database", role, AGES, AGES).await;
    }
    bao.mount("pki", "pki").await;
    tune(bao, "pki").await;
    bao.must("POST", "pki/root/generate/internal", json!({ "common_name": "Test CA", "key_type": "ec", "ttl": AGES })).await;
    let role = json!({ "allow_any_name": true, "key_type": "ec", "generate_lease": true, "ttl": AGES, "max_ttl": AGES });
    bao.must("POST", "pki/roles/web", role).await;
}

/// The vault as a user of version 0.1.0 made it.
fn make_vault(house: &House, former: &OsStr) {
    let vault = |arguments: &[&str], input: &str| {
        let mut command = apart(former);
        command.arg("vault").args(arguments).env("KEYFERRY_VAULT", house.path("vault")).env("KEYFERRY_IDENTITY", house.path("age.key"));
        let (code, out, err) = run(&mut command, input);
        assert_eq!(code, 0, "vault {arguments:?}: {out}{err}");
    };
    vault(&["init"], "");
    vault(&["set", "shop/db", "username=app", "password=first"], "");
    vault(&["set", "shop/db", "username=app", "password=second", "port=5432"], "");
    vault(&["set", "shop/tls", "tls.crt=certificate", "tls.key=key", "other=x"], "");
    fs::write(house.path("binary"), [0, 0xff, 7]).unwrap();
    vault(&["set", "shop/blob", "encoded=AP8H", &format!("binary=@{}", house.path("binary").display())], "");
}

#[tokio::test]
async fn the_state_is_made_again_where_that_is_asked_for() {
    let Some(former) = std::env::var_os("KEYFERRY_FORMER") else { return };
    let (house, bao, postgres) = (House::bare(), Bao::dev().await, Postgres::start().await);
    let keys = ApiServer::start(Answer::Text(200, house.issuer.jwks())).await;
    make_vault(&house, &former);
    fs::write(house.path("ca.crt"), &keys.ca).unwrap();
    fs::write(house.path("cache.key"), [7; 32]).unwrap();
    copy(&fixture("classes.yaml"), &house.path("classes.yaml"));
    fill(&bao, &house.issuer.jwks()).await;
    fill_with_leases(&bao, &postgres).await;
    let at = bao.address().to_string();
    configure(&house, &at, &keys.address.to_string(), &at);

    let provider = house.serve_by(apart(&former));
    let mut recorded = Recorded { bao: at, keys: keys.address.to_string(), mounts: BTreeMap::new() };
    for (name, parameters) in classes() {
        let [own, store] =
            ["keyferry", "bao"].map(|audience| house.issuer.token(&web(), audience, Duration::from_hours(876_000), &SystemClock).unwrap());
        let mut attributes = json!({ "secretProviderClass": name, TOKENS: tokens(&[("keyferry", &own), ("bao", &store)]) });
        attributes.as_object_mut().unwrap().extend(parameters.as_object().unwrap().clone());
        let socket = if name == "vault-class" { house.path("sockets/vault.sock") } else { provider.socket.clone() };
        let answer = connect(&socket).await.unwrap().mount(request(&web(), attributes.clone())).await;
        let answer: Delivered = answer.unwrap_or_else(|status| panic!("{name}: {}", status.message())).into_inner().into();
        recorded.mounts.insert(name, Mounted { attributes, answer });
    }
    assert!(provider.stop().success());

    for name in LEFT {
        let (from, to) = (house.path(name), fixture(name));
        let _ = fs::remove_dir_all(&to);
        copy(&from, &to);
    }
    fs::write(fixture("mounts.json"), serde_json::to_string_pretty(&recorded).unwrap() + "\n").unwrap();
}

/// The way back, with that binary: version 0.1.0 finds what this version left, except for shared leases.
#[tokio::test]
async fn the_way_back_is_tried_where_that_is_asked_for() {
    let Some(former) = std::env::var_os("KEYFERRY_FORMER") else { return };
    let node = Node::new().await;
    let provider = node.house.serve();
    node.delivers_what_it_did(&provider).await;
    provider.stop();
    let provider = node.house.serve_by(apart(&former));
    node.delivers_what_it_did(&provider).await;
    assert!(provider.log().contains("leases of a former process are taken up"), "{}", provider.log());
}
