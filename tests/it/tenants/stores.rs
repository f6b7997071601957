//! What a tenant can do through a store over a network. The victim's secret is in the same store.

use std::path::Path;

use tokio::time::{Duration, sleep, timeout};

use super::flood::{Calls, Flood, Told, in_turn};
use super::kind::{Kind, PODS, objects, of_all_pods};
use super::node::{Node, SMALL};
use super::store::Store;
use super::trial::Trial;

const fn kind(name: &'static str, may: &'static [&'static str], calls: fn(&Node, &str) -> Calls) -> Kind {
    Kind { name, at_once: 64, may, victims: "bao", calls }
}

/// Calls for a class with this many objects of one secret, each another request to the store.
fn asking(node: &Node, namespace: &str, secret: &str, count: usize, field: &str) -> Calls {
    let object =
        |object: usize| format!("- {{ secret: {namespace}/{secret}, args: {{ n: {object} }}, field: \"{field}\", path: f{object} }}\n");
    of_all_pods(node, namespace, "bao", &objects(count, object))
}

/// Many objects of one own large secret that differ in `args`: as many answers, and the mount's bytes are asked for when it renders.
pub const ANSWERS_THAT_ADD_UP: Kind = kind("answers that add up", &[], |node, namespace| asking(node, namespace, "large", 400, "v"));

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_one_large_secret_that_differ_in_args() {
    ANSWERS_THAT_ADD_UP.try_out().await;
}

/// Answers of JSON whose members are many and hold nothing.
pub const TINY_ENTRIES: Kind = kind("tiny entries", &["OK"], |node, namespace| asking(node, namespace, "entries", 16, "v.nothing || '-'"));

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_many_tiny_entries() {
    TINY_ENTRIES.try_out().await;
}

/// Classes of 512 objects, each of which the store answers slowly: two mounts would take all calls to it.
pub const SLOW_OBJECTS: Kind =
    Kind { at_once: 2, ..kind("objects of a slow store", &[], |node, namespace| asking(node, namespace, "slow", 512, "password")) };

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_objects_of_a_slow_store() {
    SLOW_OBJECTS.try_out().await;
}

/// A value in a hundred thousand lists, one within the other.
pub const DEEP_VALUES: Kind = kind("deep values", &["OK", "SecretCorrupt"], |node, namespace| {
    let object = |object: usize| {
        let field = if object.is_multiple_of(2) { "v" } else { "v[0]" };
        format!("- {{ secret: {namespace}/deep, args: {{ n: {object} }}, field: \"{field}\", path: f{object} }}\n")
    };
    of_all_pods(node, namespace, "bao", &objects(16, object))
});

#[tokio::test(flavor = "multi_thread")]
async fn values_that_are_deep() {
    DEEP_VALUES.try_out().await;
}

/// Answers that have each character by which numbers in them could be told.
pub const RARE_CHARACTERS: Kind = kind("rare characters", &["OK"], |node, namespace| {
    let of = |number: usize| node.small(namespace, 1, "plain", &format!("rare/{number}"));
    in_turn((0..PODS).flat_map(of).collect())
});

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_all_rare_characters() {
    RARE_CHARACTERS.try_out().await;
}

/// How long the daemon may need until it knows how much the store can take. A Pod that asks meanwhile may get 429 too, and must wait.
const FOUND_OUT: Duration = Duration::from_secs(3);

/// A store that counts requests by node, and gets as many as it can take.
#[tokio::test(flavor = "multi_thread")]
async fn the_stores_quota_is_shared() {
    let node = Node::new(SMALL);
    let flood = Flood::new(2, asking(&node, "hostile", "counted", 400, "password"));
    let victim = node.small("victim", 4, "bao", "counted");
    let provider = node.house.serve();
    let _ = timeout(FOUND_OUT, flood.run(&provider.socket, &Told::default())).await;
    let attack = async move |socket: &Path, told: &Told| flood.run(socket, told).await;
    let trial = Trial { victim, ..Trial::new(node, "files") };
    let verdict = trial.run_on(provider, "a store's quota", 2, &["BackendUnavailable", "OK"], attack).await;
    assert!(verdict.log.contains("429"), "the store never said that it was too much:\n{}", verdict.log);
    verdict.assert();
}

/// More of them: what waits has no bytes of a secret yet, and bytes of its own.
pub const OBJECTS_THAT_WAIT: Kind = Kind { name: "objects that wait", at_once: 64, ..SLOW_OBJECTS };

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_objects_that_wait() {
    OBJECTS_THAT_WAIT.try_out().await;
}

/// Pods that have a lease for each of 128 objects, which is what one Pod may have.
pub const LEASES: Kind =
    Kind { at_once: 8, ..kind("leases", &["OK"], |node, namespace| asking(node, namespace, "leased", 128, "password")) };

/// The victim's Pods: far from its share of the leases, whatever the hostile tenant has.
const VICTIMS: usize = 300;

/// Each of the victim's Pods needs a lease of its own. It goes on until the hostile tenant gets no more, and for a second beyond.
#[tokio::test(flavor = "multi_thread")]
async fn pods_that_make_leases_in_mass() {
    let node = Node::new(SMALL);
    let flood = Flood::new(LEASES.at_once, (LEASES.calls)(&node, "hostile"));
    let victim = node.small("victim", VICTIMS, "bao", "leased");
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
    let verdict = trial.run(LEASES.name, LEASES.at_once, LEASES.may, attack).await;
    verdict.assert();
    assert!(verdict.hostile.0.of("TooLarge") > 0, "every Pod got a lease: {}", verdict.hostile.0);
}

/// How long short leases last, and a little more.
const A_LIFE: Duration = Duration::from_secs(7);

/// One store takes renewals and does not answer. Keyferry still renews the leases of another in their life.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_never_answers_renewals() {
    let (beside_nobody, beside_it) = tokio::join!(renewals_of_the_victim(0), renewals_of_the_victim(4));
    assert!(beside_nobody > 0, "this trial is worth nothing");
    assert!(beside_it > 0, "the victim's lease was not renewed in its life");
}

/// How often the victim's lease is renewed, beside so many hostile Pods with leases of the store that never answers.
async fn renewals_of_the_victim(hostile: usize) -> usize {
    let silent = Store::silent();
    let node = Node::with(SMALL, &silent.backend("silent"), "");
    let provider = node.house.serve();
    let object = |object: usize| format!("- {{ secret: hostile/short, args: {{ n: {object} }}, field: password, path: f{object} }}\n");
    for call in node.pods("hostile", hostile, "silent", &objects(32, object)) {
        provider.mount(call).await.unwrap();
    }
    for call in node.small("victim", 1, "bao", "short") {
        provider.mount(call).await.unwrap();
    }
    sleep(A_LIFE).await;
    node.store.renewed()
}
