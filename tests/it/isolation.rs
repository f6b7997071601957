//! No Pod gets another's secrets, whatever it, its class or a forged call says; and no bad mount harms a good one.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;

use keyferry::clock::SystemClock;
use keyferry::identity::Issuer;
use keyferry::model::PodClaims;
use keyferry::server::proto::MountRequest;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Duration;
use tonic::Code;

use crate::support::{House, ISSUER, Provider, TOKENS, pod, request, shown, tokens, web};

/// Is in each secret, with the name of its namespace: one Pod must never see that of another.
const SHOPS: &str = "the shop's own";
const BANKS: &str = "the bank's own";

/// Asks for the secret of one namespace.
const ASK_SHOP: &str = "- secret: shop/db";
const ASK_BANK: &str = "- secret: bank/db";

/// Two tenants of one vault: each may read what is under its namespace.
fn two_tenants(extra: &str) -> House {
    let house = House::new(extra);
    house.reconfigure("{ namespace: shop }", "{ namespace: \"*\" }");
    house.reconfigure("files/shop/**", "files/${namespace}/**");
    house.set("shop/db", &[("value", SHOPS.as_bytes())]);
    house.set("bank/db", &[("value", BANKS.as_bytes())]);
    house
}

fn vault_0() -> PodClaims {
    pod("bank", "vault-0", "vault")
}

/// Asks, and shows what the Pod sees: its files, or the code of the refusal. A refusal has no contents.
async fn seen(provider: &Provider, request: MountRequest) -> Result<String, Code> {
    match provider.mount(request).await {
        Ok(answer) => Ok(shown(&answer).join("\n")),
        Err(status) => {
            assert!(![SHOPS, BANKS].iter().any(|secret| format!("{status:?}").contains(secret)), "{status:?}");
            Err(status.code())
        }
    }
}

/// A request with any claims and any tokens.
fn forged(claims: &PodClaims, tokens: &str, objects: &str) -> MountRequest {
    request(claims, json!({ "objects": objects, TOKENS: tokens }))
}

#[tokio::test]
async fn each_tenant_gets_its_own_and_nothing_else() {
    let house = two_tenants("");
    let provider = house.serve();
    for _ in 0..3 {
        assert_eq!(seen(&provider, house.request(&web(), ASK_SHOP)).await, Ok(format!("db 0644 {SHOPS}")));
        assert_eq!(seen(&provider, house.request(&vault_0(), ASK_BANK)).await, Ok(format!("db 0644 {BANKS}")));
        // What the other one has just got, and what Keyferry remembers, changes nothing.
        assert_eq!(seen(&provider, house.request(&web(), ASK_BANK)).await, Err(Code::PermissionDenied));
        assert_eq!(seen(&provider, house.request(&vault_0(), ASK_SHOP)).await, Err(Code::PermissionDenied));
    }
}

/// Namespace, name, uid and ServiceAccount of two Pods in all sixteen combinations, with the token of either.
#[tokio::test]
async fn no_mix_of_one_pods_claims_and_anothers_token_is_served() {
    let house = two_tenants("");
    let provider = house.serve();
    let (shop, bank) = (web(), vault_0());
    for (owner, own, secret) in [(&shop, 0b0000, SHOPS), (&bank, 0b1111, BANKS)] {
        let token = tokens(&[("keyferry", &house.token(owner, "keyferry"))]);
        for mix in 0..16 {
            let pick = |bit: u8, of: fn(&PodClaims) -> &String| of(if mix >> bit & 1 == 1 { &bank } else { &shop }).clone();
            let claims = PodClaims {
                namespace: pick(0, |pod| &pod.namespace),
                name: pick(1, |pod| &pod.name),
                uid: pick(2, |pod| &pod.uid),
                service_account: pick(3, |pod| &pod.service_account),
            };
            for (ask, asked) in [(ASK_SHOP, SHOPS), (ASK_BANK, BANKS)] {
                let answer = seen(&provider, forged(&claims, &token, ask)).await;
                match (mix == own, asked == secret) {
                    (true, true) => assert_eq!(answer, Ok(format!("db 0644 {secret}"))),
                    (true, false) => assert_eq!(answer, Err(Code::PermissionDenied), "{claims:?}"),
                    (false, _) => assert_eq!(answer, Err(Code::Unauthenticated), "{claims:?}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn a_token_counts_only_under_its_own_audience() {
    let house = two_tenants("");
    let provider = house.serve();
    let (shop, bank) = (web(), vault_0());
    let own = house.token(&bank, "keyferry");
    let (other_audience, api_server) = (house.token(&bank, "vault"), house.token(&bank, ""));
    let others = house.token(&shop, "keyferry");
    for (what, tokens) in [
        ("for another audience, under ours", tokens(&[("keyferry", &other_audience)])),
        ("for the API server, under ours", tokens(&[("keyferry", &api_server)])),
        ("ours, under another", tokens(&[("vault", &own)])),
        ("ours, under another spelling", tokens(&[("Keyferry", &own), ("keyferry ", &own), ("", &own)])),
        ("another Pod's under ours, ours under another", tokens(&[("keyferry", &others), ("vault", &own)])),
    ] {
        assert_eq!(seen(&provider, forged(&bank, &tokens, ASK_BANK)).await, Err(Code::Unauthenticated), "{what}");
    }
    // A foreign token together with the good one is a tenant's own matter. It gives nothing.
    let beside = tokens(&[("keyferry", &own), ("vault", &house.token(&shop, "vault"))]);
    assert_eq!(seen(&provider, forged(&bank, &beside, ASK_SHOP)).await, Err(Code::PermissionDenied));
}

/// Only kubelet writes the tokens in `secrets`. Keyferry does not use what a tenant writes into attributes together with them.
#[tokio::test]
async fn tokens_in_attributes_cannot_replace_those_in_secrets() {
    let house = two_tenants("");
    let provider = house.serve();
    let (stolen, own) =
        (tokens(&[("keyferry", &house.token(&vault_0(), "keyferry"))]), tokens(&[("keyferry", &house.token(&web(), "keyferry"))]));
    let secrets = json!({ TOKENS: own }).to_string();
    let as_bank = MountRequest { secrets: secrets.clone(), ..forged(&vault_0(), &stolen, ASK_BANK) };
    assert_eq!(seen(&provider, as_bank).await, Err(Code::Unauthenticated));
    let as_shop = MountRequest { secrets, ..forged(&web(), &stolen, ASK_BANK) };
    assert_eq!(seen(&provider, as_shop).await, Err(Code::PermissionDenied));
}

#[tokio::test]
async fn an_issuer_of_the_tenants_own_is_nobody() {
    let house = two_tenants("");
    let provider = house.serve();
    let own = Issuer::new(ISSUER).unwrap();
    let token = own.token(&vault_0(), "keyferry", Duration::from_mins(1), &SystemClock).unwrap();
    assert_eq!(seen(&provider, forged(&vault_0(), &tokens(&[("keyferry", &token)]), ASK_BANK)).await, Err(Code::Unauthenticated));
}

/// Kubelet's keys win over a class's, but a class can write keys that look like them.
#[tokio::test]
async fn keys_that_look_like_kubelets_grant_nothing() {
    let house = two_tenants("");
    let provider = house.serve();
    let lookalikes = json!({
        "csi.storage.k8s.io/pod.Namespace": "bank",
        "csi.storage.k8s.io/pod.namespace ": "bank",
        "csi.storage.k8s.io/namespace": "bank",
        "csi.storage.k8s.io/serviceaccount.name": "vault",
        "csi.storage.k8s.io/serviceAccount.token": "x",
        "kubernetes.io/namespace": "bank",
    });
    for (ask, expected) in [(ASK_SHOP, Ok(format!("db 0644 {SHOPS}"))), (ASK_BANK, Err(Code::PermissionDenied))] {
        let mut parameters = lookalikes.clone();
        parameters["objects"] = json!(ask);
        assert_eq!(seen(&provider, house.asking(&web(), parameters)).await, expected);
    }
    for key in ["namespace", "serviceAccount", "pod", "uid", "identity", "verify", "tokens", "role", "audience"] {
        let answer = seen(&provider, house.asking(&web(), json!({ "objects": ASK_BANK, key: "bank" }))).await;
        assert_eq!(answer, Err(Code::InvalidArgument), "{key}");
    }
}

/// Which of the two wins would depend on the reader: so neither does.
#[tokio::test]
async fn a_key_given_twice_is_refused() {
    let house = two_tenants("");
    let provider = house.serve();
    for key in ["csi.storage.k8s.io/pod.namespace", "csi.storage.k8s.io/serviceAccount.name", TOKENS, "objects"] {
        for first in [true, false] {
            let mut request = house.request(&web(), ASK_SHOP);
            let twin = format!("{}: \"bank\"", json!(key));
            let inner = &request.attributes[1..request.attributes.len() - 1];
            request.attributes = if first { format!("{{{twin},{inner}}}") } else { format!("{{{inner},{twin}}}") };
            assert_eq!(seen(&provider, request).await, Err(Code::InvalidArgument), "{key}");
        }
    }
}

#[tokio::test]
async fn another_dialect_is_no_way_around_the_policy() {
    let house = two_tenants("");
    let provider = house.serve();
    for dialect in ["vault", "openbao", "aws", "azure", "gcp", "KEYFERRY", "keyferry ", "", "../keyferry"] {
        let parameters = json!({ "dialect": dialect, "objects": "- {secret: bank/db, objectName: db, secretPath: bank/db}" });
        assert_eq!(seen(&provider, house.asking(&web(), parameters)).await, Err(Code::InvalidArgument), "{dialect}");
    }
    let own = json!({ "dialect": "keyferry", "objects": ASK_BANK });
    assert_eq!(seen(&provider, house.asking(&web(), own)).await, Err(Code::PermissionDenied));
}

#[tokio::test]
async fn no_spelling_of_a_name_reaches_another_tenants_secret() {
    let house = two_tenants("");
    // What a tenant might try who can write its own part of the vault. A copy is the same.
    symlink("../bank/db.age", house.path("vault/shop/link.age")).unwrap();
    symlink("../bank", house.path("vault/shop/folder")).unwrap();
    let provider = house.serve();
    for name in [
        "bank/db",
        "/bank/db",
        "shop/../bank/db",
        "shop/./../bank/db",
        "shop//../bank/db",
        "shop/..%2fbank/db",
        "shop/%2e%2e/bank/db",
        "shop\\..\\bank/db",
        "files/bank/db",
        "BANK/db",
        "bank/db.age",
        "bank/db@1",
        ".history/bank/db/1",
        "shop/link",
        "shop/folder/db",
        "bank/db\0",
        "shop/\u{202e}",
        "ｂank/db",
        "*/db",
        "**",
        "${namespace}/db",
        "bank/*",
    ] {
        let objects = |value: Value| json!([value]).to_string();
        for objects in [
            objects(json!({ "secret": name, "path": "x" })),
            objects(json!({ "secret": name, "path": "x", "optional": true })),
            objects(json!({ "secret": name, "path": "x", "version": "1" })),
            objects(json!({ "secret": name, "path": "x", "backend": "files", "fields": "*" })),
        ] {
            let answer = seen(&provider, house.request(&web(), &objects)).await;
            assert!(!answer.as_ref().is_ok_and(|files| files.contains(BANKS)), "{objects}: {answer:?}");
        }
    }
}

/// A placeholder matches one literal element, whatever a forged namespace has in it.
#[tokio::test]
async fn hostile_namespaces_do_not_widen_a_pattern() {
    let house = two_tenants("identity: { verify: driver }");
    house.reconfigure("files/${namespace}/**", "files/${namespace}/**\", \"files/by-account/${serviceAccount}/*");
    house.set("by-account/vault/db", &[("value", BANKS.as_bytes())]);
    let provider = house.serve();
    assert_eq!(seen(&provider, request(&web(), json!({ "objects": ASK_SHOP }))).await, Ok(format!("db 0644 {SHOPS}")));
    let hostile = [
        "*",
        "**",
        "b*",
        "*k",
        "ban?",
        "[a-z]ank",
        "{bank,shop}",
        "bank/",
        "bank/db",
        "shop/../bank",
        "..",
        ".",
        "",
        " bank",
        "Bank",
        "bank\0",
        "bank\n",
        "${serviceAccount}",
        "${namespace}",
        "%62ank",
        "bank%2f",
        "ｂank",
    ];
    for text in hostile {
        for claims in [
            PodClaims { namespace: text.to_owned(), ..web() },
            PodClaims { service_account: text.to_owned(), ..web() },
            PodClaims { namespace: text.to_owned(), service_account: "bank".to_owned(), ..web() },
            PodClaims { namespace: text.to_owned(), service_account: text.to_owned(), name: text.to_owned(), uid: text.to_owned() },
        ] {
            for ask in [ASK_BANK, "- secret: by-account/vault/db"] {
                let answer = seen(&provider, request(&claims, json!({ "objects": ask }))).await;
                assert!(matches!(answer, Err(Code::InvalidArgument | Code::PermissionDenied)), "{claims:?}: {answer:?}");
            }
        }
    }
}

/// A volume of another Pod is never a target, for any caller.
#[tokio::test]
async fn a_mount_is_for_the_pods_own_folder() {
    let house = two_tenants("");
    let provider = house.serve();
    let target_path = request(&vault_0(), json!({})).target_path;
    let request = MountRequest { target_path, ..house.request(&web(), ASK_SHOP) };
    assert_eq!(seen(&provider, request).await, Err(Code::InvalidArgument));
}

#[tokio::test]
async fn bad_mounts_by_the_hundred_leave_good_ones_alone() {
    let house = two_tenants("limits: { mounts: 32 }");
    house.set("shop/broken", &[("value", b"!")]);
    std::fs::write(house.path("vault/shop/broken.age"), b"age-encryption.org/v1\nnot at all").unwrap();
    let provider = house.serve();
    let bad = [
        "- {secret: shop/broken}",
        "- {secret: shop/none}",
        "- {secret: bank/db}",
        "- {secret: shop/../db}",
        "- [",
        "- &a [*a]",
        "- {secret: shop/db, path: /x}",
        &"- {secret: shop/db}\n".repeat(5_000),
        &"[".repeat(20_000),
        "- {secret: shop/db, field: nothing}\n- {secret: shop/broken, path: y}",
    ];
    let clients = [provider.client().await, provider.client().await];
    let mut mounts = JoinSet::new();
    for call in 0..600 {
        let mut client = clients[call % 2].clone();
        let request = match call % 4 {
            0 => house.request(&web(), ASK_SHOP),
            1 => house.request(&vault_0(), ASK_BANK),
            2 => house.request(&web(), bad[call / 4 % bad.len()]),
            _ => forged(&vault_0(), &tokens(&[("keyferry", &house.token(&web(), "keyferry"))]), ASK_BANK),
        };
        mounts.spawn(async move { (call, client.mount(request).await) });
    }
    let mut refused = BTreeSet::new();
    while let Some(done) = mounts.join_next().await {
        match done.unwrap() {
            (call, Ok(answer)) if call % 4 == 0 => assert_eq!(shown(answer.get_ref()), [format!("db 0644 {SHOPS}")]),
            (call, Ok(answer)) if call % 4 == 1 => assert_eq!(shown(answer.get_ref()), [format!("db 0644 {BANKS}")]),
            (call, Err(status)) if call % 4 > 1 => _ = refused.insert(format!("{:?}", status.code())),
            (call, answer) => panic!("{call}: {answer:?}"),
        }
    }
    assert_eq!(
        Vec::from_iter(refused),
        ["DataLoss", "FailedPrecondition", "InvalidArgument", "NotFound", "PermissionDenied", "Unauthenticated"]
    );
}
