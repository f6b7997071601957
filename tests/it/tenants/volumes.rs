//! What a tenant can do with its own volumes if the daemon writes them (`delivery: provider`): the kernel charges their pages to the daemon.

use std::fs;
use std::path::{Path, PathBuf};

use keyferry::server::proto::MountRequest;

use super::flood::{Flood, Told, in_turn};
use super::kind::objects;
use super::node::{Node, SMALL};
use super::trial::Trial;
use crate::support::{tmpfs, with_mounts};

const PODS: usize = 64;

/// A node that writes the volumes, with a tmpfs for each Pod of the three namespaces.
struct Writing {
    node: Node,
    kubelet: PathBuf,
    volumes: Vec<PathBuf>,
}

impl Writing {
    fn new(dir: &Path) -> Self {
        let kubelet = dir.join("kubelet");
        fs::create_dir_all(kubelet.join("pods")).unwrap();
        let node = Node::with(SMALL, "", &format!("delivery: provider\nkubeletDir: {}\n", kubelet.display()));
        let mut writing = Self { node, kubelet, volumes: Vec::new() };
        for (namespace, pods) in [("victim", 4), ("honest", PODS), ("hostile", PODS)] {
            let calls = writing.here(writing.node.small(namespace, pods, "files", "db"));
            writing.volumes.extend(calls.iter().map(|call| tmpfs(Path::new(&call.target_path), "size=256m")));
        }
        writing
    }

    /// The same calls for volumes of this node.
    fn here(&self, calls: Vec<MountRequest>) -> Vec<MountRequest> {
        let here = |target: &str| target.replace("/var/lib/kubelet", &self.kubelet.display().to_string());
        calls.into_iter().map(|call| MountRequest { target_path: here(&call.target_path), ..call }).collect()
    }

    fn trial(self) -> Trial {
        let small = |namespace, count| self.here(self.node.small(namespace, count, "files", "db"));
        let (victim, honest) = (small("victim", 4), small("honest", PODS));
        Trial { victim, honest, volumes: self.volumes, ..Trial::new(self.node, "files") }
    }
}

/// Files of one byte: each takes a page.
#[test]
fn volumes_of_thousands_of_tiny_files() {
    with_mounts("tenants::volumes::volumes_of_thousands_of_tiny_files", tiny_files);
}

#[tokio::main]
async fn tiny_files(dir: &Path) {
    let writing = Writing::new(dir);
    let names: Vec<_> = (0..4_000).map(|number| format!("{number:04}")).collect();
    writing.node.house.set("hostile/wide", &names.iter().map(|name| (name.as_str(), &b"v"[..])).collect::<Vec<_>>());
    let objects = objects(3, |object| format!("- {{ secret: hostile/wide, fields: \"*\", path: d{object}/ }}\n"));
    let flood = Flood::new(64, in_turn(writing.here(writing.node.pods("hostile", PODS, "files", &objects))));
    let attack = async move |socket: &Path, told: &Told| flood.run(socket, told).await;
    writing.trial().run("volumes of tiny files", 64, &["OK"], attack).await.assert();
}

/// A volume that never opens: its file system does not answer. Its mounts take more places than there are.
#[test]
fn volumes_on_a_path_that_does_not_answer() {
    with_mounts("tenants::volumes::volumes_on_a_path_that_does_not_answer", slow_path);
}

#[tokio::main]
async fn slow_path(dir: &Path) {
    let writing = Writing::new(dir);
    let flood = Flood::new(160, in_turn(writing.here(writing.node.small("hostile", 1, "files", "db"))));
    let provider = writing.node.house.serve_hanging_at(&writing.kubelet.join("pods/uid-hostile-pod-0"));
    let attack = async move |socket: &Path, told: &Told| flood.run(socket, told).await;
    writing.trial().run_on(provider, "volumes on a slow path", 160, &[], attack).await.assert();
}
