//! A node with small limits: a house with a namespace that is the victim's, one that is hostile, and one that is honest.

use std::fs;

use keyferry::model::PodClaims;
use keyferry::server::proto::MountRequest;
use serde_json::{Value, json};

use crate::support::{House, ISSUER, pod};

/// Whether the configuration knows `limits.memory` by now. Where it does not, memory is judged against [`Limits::memory`] all the same.
const KNOWS_MEMORY: bool = false;

pub const MIB: u64 = 1024 * 1024;

/// What the trials are held to.
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

/// A house whose namespaces each may read what is theirs, of any backend.
pub struct Node {
    pub house: House,
    pub limits: Limits,
}

/// The small secret that each namespace has.
pub const SMALL_VALUE: &str = "correct horse";

/// A class of that one secret.
pub const SMALL_CLASS: &str = "- { secret: NAMESPACE/db, backend: files, field: password, path: password }\n";

impl Node {
    /// With a file vault alone.
    pub fn new(limits: Limits) -> Self {
        Self::with(limits, "", "")
    }

    /// With further backends (lines below `backends`), and further keys of the configuration.
    pub fn with(limits: Limits, backends: &str, extra: &str) -> Self {
        let house = House::bare();
        house.vault(&["init"]);
        let node = Self { house, limits };
        for namespace in ["victim", "hostile", "honest"] {
            node.set_small(&format!("{namespace}/db"));
        }
        node.configure(backends, extra);
        node
    }

    pub fn set_small(&self, secret: &str) {
        self.house.set(secret, &[("password", SMALL_VALUE.as_bytes())]);
    }

    fn configure(&self, backends: &str, extra: &str) {
        let Limits { memory, mount_bytes, secret_bytes, mounts, per_backend } = self.limits;
        let memory = if KNOWS_MEMORY { format!("memory: {}MiB, ", memory / MIB) } else { String::new() };
        let limits =
            format!("{{ {memory}mountBytes: {mount_bytes}, secretBytes: {secret_bytes}, mounts: {mounts}, perBackend: {per_backend} }}");
        let (root, uid) = (self.house.folder.path().display(), rustix::process::geteuid().as_raw());
        let config = format!(
            "socketDir: {root}/sockets\nstateDir: {root}/state\nallowedPeers: [{uid}]\n\
             identity: {{ verify: jwks, audience: keyferry, issuer: \"{ISSUER}\", jwks: {{ file: {root}/jwks.json }} }}\n\
             limits: {limits}\n\
             backends:\n  files: {{ kind: file, vault: {root}/vault, identity: {root}/age.key }}\n{backends}\
             policy:\n  - {{ pods: {{ namespace: \"*\" }}, read: [\"*/${{namespace}}/**\"], update: [\"*/${{namespace}}/**\"] }}\n\
             {extra}"
        );
        fs::write(self.house.path("keyferry.yaml"), config).unwrap();
    }

    /// What the driver sends for a Pod of a namespace and these parameters.
    pub fn call(&self, namespace: &str, number: usize, parameters: Value) -> MountRequest {
        self.house.asking(&a_pod(namespace, number), parameters)
    }

    /// The same for objects alone.
    pub fn objects(&self, namespace: &str, number: usize, objects: &str) -> MountRequest {
        self.call(namespace, number, json!({ "objects": objects }))
    }

    /// Calls of several Pods of one namespace for one class.
    pub fn pods(&self, namespace: &str, count: usize, objects: &str) -> Vec<MountRequest> {
        (0..count).map(|number| self.objects(namespace, number, objects)).collect()
    }

    /// What everybody asks for who means no harm.
    pub fn small(&self, namespace: &str, count: usize) -> Vec<MountRequest> {
        self.pods(namespace, count, &SMALL_CLASS.replace("NAMESPACE", namespace))
    }
}

fn a_pod(namespace: &str, number: usize) -> PodClaims {
    pod(namespace, &format!("pod-{number}"), "sa")
}
