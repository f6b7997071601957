//! A node with small limits: a house with a victim's namespace, a hostile one, and an honest one.

use std::fs;

use keyferry::server::proto::MountRequest;
use serde_json::{Value, json};

use super::aws::{self, Aws};
use super::store::Store;
use crate::support::{House, ISSUER, TOKENS, pod, request, tokens};

/// Whether the configuration names `limits.memory`.
const KNOWS_MEMORY: bool = true;

pub const MIB: u64 = 1024 * 1024;

/// The limits of the trials.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes the daemon may have in memory.
    pub memory: u64,
    pub mount_bytes: usize,
    pub secret_bytes: usize,
    pub mounts: usize,
    /// Calls to one backend at once.
    pub per_backend: usize,
}

/// Those of the short trials.
pub const SMALL: Limits = Limits { memory: 64 * MIB, mount_bytes: 512 * 1024, secret_bytes: 256 * 1024, mounts: 128, per_backend: 32 };

/// Those of the long ones: what the manifests have.
pub const LARGE: Limits = Limits { memory: 256 * MIB, mount_bytes: 3584 * 1024, secret_bytes: 1024 * 1024, mounts: 512, per_backend: 32 };

/// What the daemon may have of its limit, in percent.
const SHARE: u64 = 70;

impl Limits {
    /// How many bytes more than when it was idle it may have 10 s later.
    pub fn left(&self) -> u64 {
        // All kinds together may fill all tables, which have a quarter of the memory.
        if self.memory > SMALL.memory { self.memory / 4 } else { 10 * MIB }
    }

    /// What the daemon may have at most, in bytes.
    pub fn most(&self) -> u64 {
        self.memory * SHARE / 100
    }
}

/// A house whose namespaces may each read their own secrets, of any backend: a file vault, `files`; a store over a network, `bao` and, without a
/// login, `plain`; and `aws`.
pub struct Node {
    pub house: House,
    pub limits: Limits,
    pub store: Store,
    pub aws: Aws,
}

/// The small secret that each namespace has, in either backend.
pub const SMALL_VALUE: &str = "correct horse";

impl Node {
    pub fn new(limits: Limits) -> Self {
        Self::with(limits, "", "")
    }

    /// With further backends (lines below `backends`), and further keys of the configuration.
    pub fn with(limits: Limits, backends: &str, extra: &str) -> Self {
        let (house, store, aws) = (House::bare(), Store::start(), Aws::start());
        house.vault(&["init"]);
        let own = format!("{}{}{}", store.backend("bao"), store.plain_backend("plain"), aws.backend("aws", aws::ROLE));
        write_configuration(&house, limits, &format!("{own}{backends}"), extra);
        let node = Self { house, limits, store, aws };
        for namespace in ["victim", "hostile", "honest"] {
            node.set_small(namespace, "db");
        }
        node
    }

    pub fn set_small(&self, namespace: &str, secret: &str) {
        self.house.set(&format!("{namespace}/{secret}"), &[("password", SMALL_VALUE.as_bytes())]);
    }

    /// What the driver sends for a Pod of a namespace and these parameters, with tokens for the daemon and for the store.
    pub fn call(&self, namespace: &str, number: usize, parameters: &Value) -> MountRequest {
        self.call_as(namespace, number, "sa", parameters)
    }

    /// The same for a Pod of this ServiceAccount.
    pub fn call_as(&self, namespace: &str, number: usize, service_account: &str, parameters: &Value) -> MountRequest {
        let pod = pod(namespace, &format!("pod-{number}"), service_account);
        let (own, store) = (self.house.token(&pod, "keyferry"), self.house.token(&pod, "bao"));
        let mut attributes = json!({ TOKENS: tokens(&[("keyferry", &own), ("bao", &store)]) });
        attributes.as_object_mut().unwrap().extend(parameters.as_object().unwrap().clone());
        request(&pod, attributes)
    }

    /// Calls of several Pods of one namespace for one class.
    pub fn pods(&self, namespace: &str, count: usize, backend: &str, objects: &str) -> Vec<MountRequest> {
        (0..count).map(|number| self.call(namespace, number, &json!({ "backend": backend, "objects": objects }))).collect()
    }

    /// One file of a small secret: this is what all honest Pods ask for. Each mount asks the store.
    pub fn small(&self, namespace: &str, count: usize, backend: &str, secret: &str) -> Vec<MountRequest> {
        // The one store whose names begin with a service.
        let service = if backend == "aws" { "secretsmanager/" } else { "" };
        let objects = format!("- {{ secret: {service}{namespace}/{secret}, field: password, path: password }}\n");
        let class = json!({ "backend": backend, "objects": objects, "fresh": "0" });
        (0..count).map(|number| self.call(namespace, number, &class)).collect()
    }
}

fn write_configuration(house: &House, limits: Limits, backends: &str, extra: &str) {
    let Limits { memory, mount_bytes, secret_bytes, mounts, per_backend } = limits;
    let memory = if KNOWS_MEMORY { format!("memory: {}MiB, ", memory / MIB) } else { String::new() };
    let limits = format!("{memory}mountBytes: {mount_bytes}, secretBytes: {secret_bytes}, mounts: {mounts}, perBackend: {per_backend}");
    let (root, uid) = (house.folder.path().display(), rustix::process::geteuid().as_raw());
    let config = format!(
        "socketDir: {root}/sockets\nstateDir: {root}/state\nallowedPeers: [{uid}]\n\
         identity: {{ verify: jwks, audience: keyferry, issuer: \"{ISSUER}\", jwks: {{ file: {root}/jwks.json }} }}\n\
         limits: {{ {limits} }}\nmetrics: {{ listen: \"127.0.0.1:0\" }}\n\
         backends:\n  files: {{ kind: file, vault: {root}/vault, identity: {root}/age.key }}\n{backends}\
         policy:\n  - {{ pods: {{ namespace: \"*\" }}, read: [\"*/${{namespace}}/**\"] }}\n{}\
         {extra}",
        aws::RULES
    );
    fs::write(house.path("keyferry.yaml"), config).unwrap();
}
