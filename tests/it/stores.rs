//! Whole mounts from a real OpenBao: the provider's binary over its socket, the server, PostgreSQL and a bad network between them.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use keyferry::model::PodClaims;
use keyferry::server::proto::{MountRequest, MountResponse};
use serde_json::{Value, json};
use tonic::Status;

use crate::bao::{Bao, Options};
use crate::support::{House, ISSUER, Provider, TOKENS, connect, request, tokens};

mod aws;
mod bounds;
mod failover;
mod files;
mod http;
mod leases;
mod made;
mod mounts;
mod outage;
mod prefixes;
mod shapes;
mod trouble;
mod words;

/// A server with secrets of the namespace `shop`, and a house whose backend `bao` leads there with the Pods' own tokens.
pub struct Store {
    pub house: House,
    pub bao: Bao,
}

/// The store's policy of the role `csi`.
const POLICY: &str = r#"
path "kv/*" { capabilities = ["read", "list"] }
path "database/creds/*" { capabilities = ["read"] }
path "pki/issue/*" { capabilities = ["update"] }
path "ssh/sign/*" { capabilities = ["update"] }
"#;

/// The node's policy.
const RULE: &str = r#"  - pods: { namespace: shop }
    read: ["bao/kv/data/shop/**", "bao/database/creds/*"]
    update: ["bao/pki/issue/*", "bao/ssh/sign/*"]"#;

impl Store {
    pub async fn new() -> Self {
        Self::with(Options::default()).await
    }

    pub async fn with(options: Options) -> Self {
        let (house, bao) = (House::bare(), Bao::configured(options).await);
        bao.kv2("kv").await;
        bao.put("kv", "shop/db", json!({ "username": "app", "password": "correct horse", "port": 5432 })).await;
        bao.policy("csi", POLICY).await;
        bao.jwt("jwt", &house.issuer.jwks()).await;
        bao.jwt_role("jwt", "csi", "bao", json!({ "policies": ["csi"], "ttl": "1h" })).await;
        let store = Self { house, bao };
        store.configure(&store.bao.url(), "", "");
        store
    }

    /// Writes `keyferry.yaml`: the backend at this address with `more` of its keys (`, cache: ...`), and further keys of the file.
    pub fn configure(&self, address: &str, more: &str, extra: &str) {
        let auth = "{ method: jwt, mount: jwt, role: csi, audience: bao }";
        self.configure_as(auth, address, more, extra, RULE);
    }

    /// The same with another login and another policy.
    pub fn configure_as(&self, auth: &str, address: &str, more: &str, extra: &str, rules: &str) {
        let (root, uid) = (self.house.folder.path().display(), rustix::process::geteuid().as_raw());
        let ca = if address.starts_with("https") { format!("ca: {}, ", self.bao.ca_file().display()) } else { String::new() };
        fs::create_dir_all(self.house.path("kubelet/pods")).unwrap();
        let config = format!(
            "socketDir: {root}/sockets\nstateDir: {root}/state\nkubeletDir: {root}/kubelet\nallowedPeers: [{uid}]\n\
             identity: {{ verify: jwks, audience: keyferry, issuer: \"{ISSUER}\", jwks: {{ file: {root}/jwks.json }} }}\n\
             metrics: {{ listen: 127.0.0.1:0 }}\n\
             backends:\n  bao: {{ kind: vault, address: \"{address}\", {ca}auth: {auth}{more} }}\n\
             policy:\n{rules}\n\
             {extra}\n"
        );
        fs::write(self.house.path("keyferry.yaml"), config).unwrap();
    }

    /// As [`Store::configure`], through a proxy.
    pub fn by_way_of(&self, proxy: SocketAddr, more: &str) {
        self.configure(&self.bao.url_at(proxy), more, "");
    }

    /// What the driver would send for these objects, with a token for the provider and one for the store.
    pub fn asking(&self, pod: &PodClaims, objects: &str) -> MountRequest {
        self.asking_with(pod, &json!({ "objects": objects }))
    }

    pub fn asking_with(&self, pod: &PodClaims, parameters: &Value) -> MountRequest {
        self.asking_as(pod, "bao", parameters)
    }

    /// The same with the store's token for another audience.
    pub fn asking_as(&self, pod: &PodClaims, audience: &str, parameters: &Value) -> MountRequest {
        let (own, store) = (self.house.token(pod, "keyferry"), self.house.token(pod, audience));
        let mut attributes = json!({ TOKENS: tokens(&[("keyferry", &own), (audience, &store)]) });
        attributes.as_object_mut().unwrap().extend(parameters.as_object().unwrap().clone());
        request(pod, attributes)
    }

    pub fn socket(&self, provider: &str) -> PathBuf {
        self.house.path(&format!("sockets/{provider}.sock"))
    }

    /// One mount at a peer's socket.
    pub async fn mount_at(&self, provider: &str, request: MountRequest) -> Result<MountResponse, Status> {
        connect(&self.socket(provider)).await.unwrap().mount(request).await.map(tonic::Response::into_inner)
    }
}

/// The only file of an answer.
pub fn only_file(answer: &MountResponse) -> String {
    assert_eq!(answer.files.len(), 1, "{answer:?}");
    String::from_utf8(answer.files[0].contents.to_vec()).unwrap()
}

/// The sum of a metric's lines that contain all of these texts.
pub async fn metric(provider: &Provider, parts: &[&str]) -> f64 {
    let metrics = provider.get("/metrics").await;
    let lines = metrics.lines().filter(|line| !line.starts_with('#') && parts.iter().all(|part| line.contains(part)));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
