//! What a tenant can do through AWS: calls for many names, as many sessions as it likes, and a quota that it uses up. The victim's secret is there
//! too.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use keyferry::server::proto::MountRequest;
use serde_json::{Value, json};

use super::aws::{self, OTHER};
use super::flood::{Calls, Flood, Told, in_turn};
use super::kind::{Kind, PODS, objects, of_all_pods};
use super::node::{Node, SMALL};
use super::trial::Trial;
use crate::api_server::{Answer, ApiServer};
use crate::identity::in_a_pod;
use crate::support::pod;

const fn kind(name: &'static str, may: &'static [&'static str], calls: fn(&Node, &str) -> Calls) -> Kind {
    Kind { name, at_once: 64, may, victims: "aws", calls }
}

/// Calls for a class with this many secrets of one kind.
fn asking(node: &Node, namespace: &str, kind: &str, count: usize) -> Calls {
    let object = |n: usize| format!("- {{ secret: secretsmanager/{namespace}/{kind}/{n}, field: password, path: f{n} }}\n");
    of_all_pods(node, namespace, "aws", &objects(count, object))
}

/// The same for parameters.
fn asking_parameters(node: &Node, namespace: &str, kind: &str, count: usize) -> Calls {
    let object = |n: usize| format!("- {{ secret: ssm/{namespace}/{kind}/{n}, field: value, path: f{n} }}\n");
    of_all_pods(node, namespace, "aws", &objects(count, object))
}

/// As many names of another account as a class may have; below `folder` there.
fn of_another_account(node: &Node, namespace: &str, folder: &str) -> Calls {
    let arn = |n: usize| format!("arn:aws:secretsmanager:eu-west-1:{OTHER}:secret:{folder}/{n}-AbCdEf");
    let object = |n: usize| format!("- {{ secret: \"{}\", field: password, path: f{n} }}\n", arn(n));
    of_all_pods(node, namespace, "aws", &objects(512, object))
}

/// Policy says no.
pub const FOREIGN_NAMES: Kind =
    kind("names of another account", &["PolicyDenied"], |node, namespace| of_another_account(node, namespace, namespace));

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_names_of_another_account() {
    FOREIGN_NAMES.try_out().await;
}

/// Policy lets them ask, and AWS says no to each.
pub const FOREIGN_NAMES_DENIED_BY_AWS: Kind =
    kind("names that AWS denies", &["BackendDenied"], |node, namespace| of_another_account(node, namespace, "allowed"));

/// 512 calls and 512 refusals are too much for an unoptimised daemon: it needs about a second of each core for one mount.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "an unoptimised daemon has no time for it: `make soak` runs it"]
async fn hundreds_of_names_that_aws_denies() {
    FOREIGN_NAMES_DENIED_BY_AWS.try_out().await;
}

/// Its account's quota is used up: each call gets a 400, and Keyferry tries it again because of its code.
pub const THROTTLED: Kind = kind("throttled calls", &["BackendUnavailable"], |node, namespace| asking(node, namespace, "throttled", 512));

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_all_throttled() {
    THROTTLED.try_out().await;
}

/// The same for parameters, whose batches Keyferry does not split.
pub const THROTTLED_PARAMETERS: Kind =
    kind("throttled parameters", &["BackendUnavailable"], |node, namespace| asking_parameters(node, namespace, "throttled", 512));

#[tokio::test(flavor = "multi_thread")]
async fn parameters_that_are_all_throttled() {
    THROTTLED_PARAMETERS.try_out().await;
}

/// Batches of 1.2 MB, more of them than a mount may have bytes.
pub const LARGE_BATCHES: Kind = kind("large batches", &[], |node, namespace| asking(node, namespace, "large", 400));

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_are_large() {
    LARGE_BATCHES.try_out().await;
}

/// Parameters of 8 KB, which together are more than a mount may have, also in the long forms.
pub const LARGE_PARAMETERS: Kind = kind("large parameters", &[], |node, namespace| asking_parameters(node, namespace, "large", 512));

#[tokio::test(flavor = "multi_thread")]
async fn parameters_that_are_large() {
    LARGE_PARAMETERS.try_out().await;
}

/// Batches that AWS answers slowly.
pub const SLOW_BATCHES: Kind = kind("slow batches", &[], |node, namespace| asking(node, namespace, "slow", 512));

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_are_slow() {
    Kind { at_once: 2, ..SLOW_BATCHES }.try_out().await;
    SLOW_BATCHES.try_out().await;
}

/// Sixteen patterns over ten thousand names of a hundred pages, for each of sixty objects.
pub const PREFIXES: Kind = kind("prefixes over many names of AWS", &["SecretNotFound"], |node, namespace| {
    let patterns = (0..16).map(|number| format!("\"*a*a*a*a*x{number}\"")).collect::<Vec<_>>().join(", ");
    let object = |object: usize| {
        let service = if object.is_multiple_of(2) { "secretsmanager" } else { "ssm" };
        format!("- {{ prefix: {service}/{namespace}/many-{object}/, include: [{patterns}], path: d{object}/ }}\n")
    };
    of_all_pods(node, namespace, "aws", &objects(60, object))
});

#[tokio::test(flavor = "multi_thread")]
async fn prefixes_over_many_names() {
    PREFIXES.try_out().await;
}

/// Each call with a role of its own, which a class may name: one more login and one more session.
fn roles(node: &Node, namespace: &str, beginning: &str) -> Calls {
    let objects = format!("- {{ secret: secretsmanager/{namespace}/db, field: password, path: password }}\n");
    let call = node.call(namespace, 0, &json!({ "backend": "aws", "objects": objects, "role": aws::role(&format!("{beginning}-NUMBER")) }));
    Arc::new(move |number| MountRequest { attributes: call.attributes.replacen("NUMBER", &number.to_string(), 1), ..call.clone() })
}

pub const ROLES: Kind = kind("a session for each call", &["OK"], |node, namespace| roles(node, namespace, "made-up"));

/// The victim logs in once, however many sessions another namespace has.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_for_each_call() {
    let node = Node::new(SMALL);
    let flood = Flood::new(ROLES.at_once, (ROLES.calls)(&node, "hostile"));
    let provider = node.house.serve();
    let attack = async |socket: &Path, told: &Told| {
        flood.run(socket, told).await;
    };
    let aws = node.aws.clone();
    let verdict = Trial::new(node, "aws").run_on(provider, ROLES.name, ROLES.at_once, ROLES.may, attack).await;
    verdict.assert();
    let (all, victims) = aws.logins();
    assert!(all > 100, "this trial is worth nothing: {all} logins");
    assert_eq!(victims, 1, "of {all}");
}

/// Logins that STS answers slowly.
pub const SLOW_LOGINS: Kind = kind("slow logins", &[], |node, namespace| roles(node, namespace, "slow"));

#[tokio::test(flavor = "multi_thread")]
async fn logins_that_are_slow() {
    SLOW_LOGINS.try_out().await;
}

// === ServiceAccounts' annotations ===

/// Says of each ServiceAccount that it has a role of its name. Its uid is the one in its tokens.
fn annotated(uids: BTreeMap<String, String>) -> Answer {
    Answer::With(Box::new(move |call| {
        let names: Vec<&str> = call.path.split('/').collect();
        let [.., namespace, "serviceaccounts", name] = names[..] else { return (404, String::new()) };
        let annotations = json!({ "eks.amazonaws.com/role-arn": aws::role(&format!("{namespace}.{name}")) });
        let metadata = json!({ "uid": uids[&format!("{namespace}/{name}")], "annotations": annotations });
        (200, json!({ "kind": "ServiceAccount", "metadata": metadata }).to_string())
    }))
}

/// The uid of a ServiceAccount, as its tokens have it.
fn uid_of(node: &Node, namespace: &str, service_account: &str) -> String {
    let token = node.house.token(&pod(namespace, "pod-0", service_account), "bao");
    let claims = BASE64URL_NOPAD.decode(token.split('.').nth(1).unwrap().as_bytes()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    claims["kubernetes.io"]["serviceaccount"]["uid"].as_str().unwrap().to_owned()
}

/// A ServiceAccount for each call, whose annotation Keyferry reads. It reads the victim's once.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_for_each_call() {
    const ACCOUNTS: usize = 2_000;
    let rule = "  - { pods: { namespace: \"*\" }, read: [\"annotated/*/${namespace}/**\"] }\n";
    let aws = super::aws::Aws::start();
    let node = Node::with(SMALL, &aws.backend("annotated", ""), rule);
    let made_up = (0..ACCOUNTS).map(|n| ("hostile", format!("sa-{n}")));
    let accounts = made_up.chain(["honest", "victim"].map(|namespace| (namespace, "sa".to_owned())));
    let uids = accounts.map(|(namespace, name)| (format!("{namespace}/{name}"), uid_of(&node, namespace, &name))).collect();
    let server = ApiServer::start(annotated(uids)).await;
    server.service_account(&node.house.path("own"), "own-token");
    let class = |namespace: &str| -> Value {
        let objects = format!("- {{ secret: secretsmanager/{namespace}/db, field: password, path: password }}\n");
        json!({ "backend": "annotated", "objects": objects, "fresh": "0" })
    };
    let calls = (0..ACCOUNTS).map(|n| node.call_as("hostile", n, &format!("sa-{n}"), &class("hostile"))).collect();
    let flood = Flood::new(64, in_turn(calls));
    let victim = (0..4).map(|n| node.call("victim", n, &class("victim"))).collect();
    let honest = (0..PODS).map(|n| node.call("honest", n, &class("honest"))).collect();
    let provider = node.house.serve_by(in_a_pod(&server, &node.house.path("own")));
    let attack = async |socket: &Path, told: &Told| {
        flood.run(socket, told).await;
    };
    let trial = Trial { victim, honest, ..Trial::new(node, "aws") };
    let verdict = trial.run_on(provider, "a ServiceAccount for each call", 64, &["OK"], attack).await;
    verdict.assert();
    let calls = server.calls();
    let of = |namespace: &str| calls.iter().filter(|call| call.path.contains(&format!("/namespaces/{namespace}/"))).count();
    assert!(of("hostile") > 100, "this trial is worth nothing: {} look-ups", of("hostile"));
    assert_eq!((of("victim"), aws.logins().1), (1, 1), "look-ups and logins for the victim");
}
