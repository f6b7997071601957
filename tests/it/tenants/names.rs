//! Names in classes that nobody resolves. Each look-up takes a thread of the runtime as long as it lasts. There are 512 threads, and they read the
//! vault too.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use keyferry::server::proto::MountRequest;
use serde_json::json;
use tokio::time::{Duration, sleep};

use super::flood::{Calls, Flood, Told};
use super::kind::{objects, together};
use super::node::{Limits, Node, SMALL};
use super::trial::Trial;
use crate::support::{apart, keyferry};

/// Stores of the node whose address a class may choose. A mount of one object of each looks up as many names at once.
const STORES: usize = 5;

/// As many as there are places, so that two seconds are enough to take all threads.
const AT_ONCE: usize = SMALL.mounts;

fn backends() -> String {
    let may = "classMay: { role: [\"*\"], address: [\"http://*:8200\"] }";
    let auth = "auth: { method: jwt, mount: jwt, role: csi, audience: bao }";
    (0..STORES).map(|store| format!("  bao-{store}: {{ kind: vault, address: \"http://127.0.0.1:9\", {auth}, {may} }}\n")).collect()
}

/// Each call leads to a name of its own.
fn slow_names(node: &Node, namespace: &str) -> Calls {
    let object = |store: usize| format!("- {{ secret: {namespace}/db, backend: bao-{store}, field: password, path: f{store} }}\n");
    let objects = objects(STORES, object);
    let call = node.call(namespace, 0, &json!({ "objects": objects, "address": "http://name-NUMBER:8200" }));
    Arc::new(move |number| MountRequest { attributes: call.attributes.replacen("NUMBER", &number.to_string(), 1), ..call.clone() })
}

/// The daemon where looking up a name never ends: `/etc/hosts` is in a file system that nobody answers for.
fn without_names(node: &Node) -> Command {
    let (etc, hang) = (node.house.path("etc"), node.house.path("hang"));
    fs::create_dir_all(&etc).unwrap();
    fs::create_dir_all(&hang).unwrap();
    fs::write(etc.join("nsswitch.conf"), "hosts: files\n").unwrap();
    symlink(hang.join("hosts"), etc.join("hosts")).unwrap();
    let mut command = apart("unshare");
    command.args(["--mount", "--propagation", "private"]);
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-current-user", "--keep-caps"]);
    }
    let script = "exec 3<>/dev/fuse; mount -i -n -t fuse -o fd=3,rootmode=40000,user_id=$(id -u),group_id=$(id -g) hang \"$0\" || exit 3; \
                  mount --bind \"$1\" /etc || exit 3; shift; exec \"$@\"";
    command.args(["sh", "-c", script]).arg(hang).arg(etc).arg(keyferry().get_program());
    command
}

/// The victim has many secrets, so that none of them is in memory: a thread has to read each.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_nobody_resolves() {
    const SECRETS: usize = 300;
    let node = Node::with(Limits { per_backend: 128, ..SMALL }, &backends(), "");
    let small = |number: usize| {
        node.set_small("victim", &format!("db-{number}"));
        node.small("victim", 1, "files", &format!("db-{number}"))
    };
    let victim = (0..SECRETS).flat_map(small).collect();
    let flood = Flood::new(AT_ONCE, slow_names(&node, "hostile"));
    let provider = node.house.serve_by(without_names(&node));
    let attack = async move |socket: &Path, told: &Told| flood.run(socket, told).await;
    let trial = Trial { victim, ..Trial::new(node, "files") };
    trial.run_on(provider, "names that nobody resolves", AT_ONCE, &["BackendUnavailable"], attack).await.assert();
}

/// How many of the daemon's threads wait for a file system that does not answer. It is the least of a few looks, because others read a disk now and
/// then.
async fn hung(pid: u32) -> usize {
    let waits = |stat: &String| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('D'));
    let mut least = usize::MAX;
    for _ in 0..5 {
        sleep(Duration::from_millis(50)).await;
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let stats = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("stat")).ok());
        least = least.min(stats.filter(waits).count());
    }
    least
}

/// Eight namespaces whose classes lead to names that hang, at five backends each, which wait for 160 names at once: 16 threads look them
/// up. A name of the configuration's own has another.
#[tokio::test(flavor = "multi_thread")]
async fn names_of_all_classes_are_looked_up_on_sixteen_threads() {
    const NAMESPACES: usize = 8;
    let own = "  own: { kind: vault, address: \"http://own.example:8200\", auth: { method: jwt, mount: jwt, role: csi, audience: bao } }\n";
    let node = Node::with(Limits { per_backend: 128, ..SMALL }, &format!("{}{own}", backends()), "");
    let calls = (0..NAMESPACES).map(|n| slow_names(&node, &format!("hostile-{n}"))).collect();
    let (flood, told) = (Flood::new(NAMESPACES * 4, together(calls)), Told::default());
    let mut owns = node.small("victim", 1, "own", "db");
    let provider = node.house.serve_by(without_names(&node));
    let counted = async {
        // Longer than a mount waits for a connection, so that the first ones have been given up.
        sleep(Duration::from_secs(7)).await;
        let of_classes = hung(provider.pid()).await;
        let own = provider.mount(owns.remove(0));
        let counted = async {
            sleep(Duration::from_secs(1)).await;
            hung(provider.pid()).await
        };
        (of_classes, tokio::join!(counted, own).0)
    };
    let counted = tokio::select! {
        counted = counted => counted,
        () = flood.run(&provider.socket, &told) => panic!("the daemon has ended: {:?}", told.lock().unwrap()),
    };
    let (of_classes, with_own) = counted;
    // The daemon looks at its own backends at the start: that is another one.
    assert!((12..=16 + 1).contains(&of_classes), "{counted:?}");
    assert!((of_classes + 1..=16 + 2).contains(&with_own), "{counted:?}");
}
