//! What a tenant can do by way of a store over a network. The victim's secret is in the same store.

use std::path::Path;

use tokio::time::{Duration, sleep};

use super::flood::{Calls, Flood, Told};
use super::kind::{Kind, objects, of_all_pods};
use super::node::{Node, SMALL};
use super::trial::Trial;

const fn kind(name: &'static str, may: &'static [&'static str], calls: fn(&Node, &str) -> Calls) -> Kind {
    Kind { name, at_once: 64, may, victims: "bao", calls }
}

/// Calls for a class of so many objects of one secret, each another request to the store.
fn asking(node: &Node, namespace: &str, secret: &str, count: usize, field: &str) -> Calls {
    let object =
        |object: usize| format!("- {{ secret: {namespace}/{secret}, args: {{ n: {object} }}, field: \"{field}\", path: f{object} }}\n");
    of_all_pods(node, namespace, "bao", &objects(count, object))
}

/// Many objects of one own large secret that differ in `args`: as many answers, and the mount's bytes are asked for when it renders.
pub const ANSWERS_THAT_ADD_UP: Kind = kind("answers that add up", &[], |node, namespace| asking(node, namespace, "large", 400, "v"));

#[tokio::test(flavor = "multi_thread")]
#[ignore = "holds but for this: 22 MiB more than when idle are kept, of at most 10"]
async fn objects_of_one_large_secret_that_differ_in_args() {
    ANSWERS_THAT_ADD_UP.try_out().await;
}

/// Answers of JSON whose members are many and hold nothing.
pub const TINY_ENTRIES: Kind = kind("tiny entries", &["OK"], |node, namespace| asking(node, namespace, "entries", 16, "v.nothing || '-'"));

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_many_tiny_entries() {
    TINY_ENTRIES.try_out().await;
}

/// Classes of 512 objects, for each of which the store takes its time: two mounts would take all calls to it.
pub const SLOW_OBJECTS: Kind =
    Kind { at_once: 2, ..kind("objects of a slow store", &[], |node, namespace| asking(node, namespace, "slow", 512, "password")) };

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_objects_of_a_slow_store() {
    SLOW_OBJECTS.try_out().await;
}

/// More of them: what waits has no bytes of a secret yet, and bytes of its own.
pub const OBJECTS_THAT_WAIT: Kind = Kind { name: "objects that wait", at_once: 64, ..SLOW_OBJECTS };

#[tokio::test(flavor = "multi_thread")]
#[ignore = "holds but for this: 19 MiB more than when idle are kept, of at most 10"]
async fn thousands_of_objects_that_wait() {
    OBJECTS_THAT_WAIT.try_out().await;
}

/// Pods that have a lease for each of 128 objects, which is what one Pod may have.
pub const LEASES: Kind =
    Kind { at_once: 8, ..kind("leases", &["OK"], |node, namespace| asking(node, namespace, "leased", 128, "password")) };

/// Each mount of the victim needs a lease of its own. It goes on until the hostile tenant gets no more, and for a second beyond.
#[tokio::test(flavor = "multi_thread")]
async fn pods_that_make_leases_in_mass() {
    let node = Node::new(SMALL);
    let flood = Flood::new(LEASES.at_once, (LEASES.calls)(&node, "hostile"));
    let victim = node.small("victim", 2_000, "bao", "leased");
    let attack = async move |socket: &Path, told: &Told| {
        let all_are_given = || {
            let answers = told.lock().unwrap();
            answers.all() == answers.of("OK")
        };
        let refused = async {
            while all_are_given() {
                sleep(Duration::from_millis(50)).await;
            }
            sleep(Duration::from_secs(1)).await;
        };
        tokio::select! {
            () = flood.run(socket, told) => {}
            () = refused => {}
        }
    };
    let trial = Trial { victim, time: Duration::from_secs(20), ..Trial::new(node, "bao") };
    trial.run(LEASES.name, LEASES.at_once, LEASES.may, attack).await.assert();
}
