//! Tokens that prove nothing, or the wrong thing.

use std::fs;

use keyferry::clock::{Clock, ManualClock, SystemClock};
use keyferry::identity::Issuer;
use keyferry::model::PodClaims;
use keyferry::server::proto::MountRequest;
use serde_json::{Value, json};
use tokio::time::Duration;

use super::{Asked, GOOD};
use crate::support::{House, ISSUER, TOKENS, pod, request, tokens, web};

/// A request with this token under the daemon's audience.
fn with_token(token: &str) -> MountRequest {
    request(&web(), json!({ "objects": GOOD, TOKENS: tokens(&[("keyferry", token)]) }))
}

/// A token made at another time, good for an hour.
fn token_at(house: &House, seconds_from_now: i64) -> String {
    let clock = ManualClock::at(SystemClock.now());
    clock.advance(seconds_from_now);
    house.issuer.token(&web(), "keyferry", Duration::from_hours(1), &clock).unwrap()
}

/// The times in a message, which differ from run to run.
fn timeless(message: &str) -> String {
    let words = message.split(' ').map(|word| if word.starts_with("20") && word.ends_with('Z') { "<time>" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

/// Key ids differ from run to run as well.
fn keyless(message: &str, issuers: &[&Issuer]) -> String {
    issuers.iter().enumerate().fold(message.to_owned(), |message, (n, issuer)| {
        let jwks: Value = serde_json::from_str(&issuer.jwks()).unwrap();
        message.replace(jwks["keys"][0]["kid"].as_str().unwrap(), &format!("<key {n}>"))
    })
}

#[tokio::test]
async fn tokens_that_prove_nothing() {
    let house = House::bare();
    // A second issuer whose key is known too: a cluster's JWKS may hold keys of several.
    let (elsewhere, unknown) = (Issuer::new("https://elsewhere.example").unwrap(), Issuer::new(ISSUER).unwrap());
    let keys = [&house.issuer, &elsewhere].map(|issuer| serde_json::from_str::<Value>(&issuer.jwks()).unwrap()["keys"][0].clone());
    fs::write(house.path("jwks.json"), json!({ "keys": keys }).to_string()).unwrap();
    house.vault(&["init"]);
    house.vault(&["set", "--replace", "shop/db", "username=app"]);
    house.configure("pods: { namespace: shop }\n    read: [\"files/shop/**\"]", "");
    let asked = Asked::new(house).await;
    let house = &asked.house;

    let life = Duration::from_hours(1);
    let good = house.token(&web(), "keyferry");
    let parts: Vec<&str> = good.split('.').collect();
    let base64 = |value: Value| data_encoding::BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let of = |claims: PodClaims| with_token(&house.token(&claims, "keyferry"));
    let foreign = unknown.token(&web(), "keyferry", life, &SystemClock).unwrap();
    let foreign_signature = foreign.rsplit('.').next().unwrap();
    let plain = |tokens: Option<String>| request(&web(), json!({ "objects": GOOD, TOKENS: tokens }));
    let table = asked
        .refusals([
            ("none at all", plain(None)),
            ("an empty list", plain(Some("{}".to_owned()))),
            ("tokens that are not JSON", plain(Some(good.clone()))),
            ("an audience without a token", plain(Some(r#"{"keyferry": {}}"#.to_owned()))),
            ("an empty token", with_token("")),
            ("only for other audiences", plain(Some(tokens(&[("", &good), ("vault", &good)])))),
            ("another audience's under ours", with_token(&house.token(&web(), "vault"))),
            ("the API server's under ours", with_token(&house.token(&web(), ""))),
            ("another Pod of the same ServiceAccount", of(pod("shop", "web-1", "web"))),
            ("another namespace", of(pod("bank", "web-0", "web"))),
            ("another ServiceAccount", of(PodClaims { service_account: "admin".to_owned(), ..web() })),
            ("the Pod's predecessor of the same name", of(PodClaims { uid: "uid-older".to_owned(), ..web() })),
            ("another issuer's", with_token(&elsewhere.token(&web(), "keyferry", life, &SystemClock).unwrap())),
            ("expired", with_token(&token_at(house, -7200))),
            ("not yet valid", with_token(&token_at(house, 7200))),
            ("a key that is not known", with_token(&foreign)),
            ("a known key's name, another key's signature", with_token(&format!("{}.{}.{foreign_signature}", parts[0], parts[1]))),
            ("claims changed after signing", with_token(&format!("{}.{}.{}", parts[0], base64(json!({ "iss": ISSUER })), parts[2]))),
            ("alg none", with_token(&format!("{}.{}.", base64(json!({ "alg": "none" })), parts[1]))),
            ("alg HS256", with_token(&format!("{}.{}.{}", base64(json!({ "alg": "HS256" })), parts[1], parts[2]))),
            ("no signature", with_token(&format!("{}.{}.", parts[0], parts[1]))),
            ("two parts", with_token(&format!("{}.{}", parts[0], parts[1]))),
            ("no token", with_token("hello")),
            ("29 KiB", with_token(&good.repeat(40))),
        ])
        .await;
    insta::assert_snapshot!(keyless(&timeless(&table), &[&asked.house.issuer, &unknown, &elsewhere]), @r#"
    # none at all
    Unauthenticated IdentityUnverified: token: the driver sent none, and one for "keyferry" is needed (add the audience keyferry to tokenRequests of the CSIDriver object secrets-store.csi.k8s.io)
    # an empty list
    Unauthenticated IdentityUnverified: token: the driver sent none, and one for "keyferry" is needed (add the audience keyferry to tokenRequests of the CSIDriver object secrets-store.csi.k8s.io)
    # tokens that are not JSON
    InvalidArgument InvalidRequest: csi.storage.k8s.io/serviceAccount.tokens: is not JSON: expected value at line 1 column 1 (kubelet sends it: take it out of the class's parameters and the volume's attributes)
    # an audience without a token
    InvalidArgument InvalidRequest: csi.storage.k8s.io/serviceAccount.tokens: is not a JSON object {"<audience>": {"token": "<JWT>"}}, at line 1 column 15 (kubelet sends it: take it out of the class's parameters and the volume's attributes)
    # an empty token
    InvalidArgument InvalidRequest: csi.storage.k8s.io/serviceAccount.tokens: the token for the audience "keyferry" is empty (kubelet sends it: take it out of the class's parameters and the volume's attributes)
    # only for other audiences
    Unauthenticated IdentityUnverified: audience: the driver sent tokens for "", "vault", but none for "keyferry" (add the audience keyferry to tokenRequests of the CSIDriver object secrets-store.csi.k8s.io)
    # another audience's under ours
    Unauthenticated IdentityUnverified: audience: the token is for "vault", but this daemon takes tokens for "keyferry" (add the audience keyferry to tokenRequests of the CSIDriver object secrets-store.csi.k8s.io)
    # the API server's under ours
    Unauthenticated IdentityUnverified: audience: the token is for "", but this daemon takes tokens for "keyferry" (add the audience keyferry to tokenRequests of the CSIDriver object secrets-store.csi.k8s.io)
    # another Pod of the same ServiceAccount
    Unauthenticated IdentityUnverified: name: the token is that of the Pod "web-1", but the mount is for "web-0" (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)
    # another namespace
    Unauthenticated IdentityUnverified: namespace: the token is that of a Pod in the namespace "bank", but the mount is for "shop" (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)
    # another ServiceAccount
    Unauthenticated IdentityUnverified: serviceAccount: the token is that of a Pod of the ServiceAccount "admin", but the mount is for "web" (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)
    # the Pod's predecessor of the same name
    Unauthenticated IdentityUnverified: uid: the token is that of the Pod with the uid "uid-older", but the mount is for "uid-shop-web-0" (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)
    # another issuer's
    Unauthenticated IdentityUnverified: issuer: the token is from "https://elsewhere.example", but this daemon takes tokens from "https://oidc.example" (identity.issuer must be the issuer of this cluster's tokens: kubectl get --raw /.well-known/openid-configuration shows it)
    # expired
    Unauthenticated IdentityUnverified: expired: the token expired at <time> by the API server's clock, while this node's clock says <time> (kubelet renews tokens in time and tries again by itself; if this stays, the node's clock is ahead: set it, for example by NTP)
    # not yet valid
    Unauthenticated IdentityUnverified: notBefore: the token is valid from <time> on by the API server's clock, while this node's clock says <time> (the node's clock is behind: set it, for example by NTP)
    # a key that is not known
    Unauthenticated IdentityUnverified: key: the token is signed with the key "<key 1>", which is not in <house>/jwks.json; there is key "<key 0>" (P-256), key "<key 2>" (P-256) (write the cluster's keys into that file again: kubectl get --raw /openid/v1/jwks; Keyferry then reads it again by itself)
    # a known key's name, another key's signature
    Unauthenticated IdentityUnverified: signature: the token's signature was not made by key "<key 0>" (P-256) of <house>/jwks.json (compare that file with the cluster's keys: kubectl get --raw /openid/v1/jwks; if they are the same, the token is not this cluster's)
    # claims changed after signing
    Unauthenticated IdentityUnverified: signature: the token's signature was not made by key "<key 0>" (P-256) of <house>/jwks.json (compare that file with the cluster's keys: kubectl get --raw /openid/v1/jwks; if they are the same, the token is not this cluster's)
    # alg none
    Unauthenticated IdentityUnverified: algorithm: the token is not signed: its `alg` is "none" (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)
    # alg HS256
    Unauthenticated IdentityUnverified: algorithm: the token is signed with "HS256", an algorithm with a shared secret, which does not prove the issuer (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)
    # no signature
    Unauthenticated IdentityUnverified: signature: the token's signature was not made by key "<key 0>" (P-256) of <house>/jwks.json (compare that file with the cluster's keys: kubectl get --raw /openid/v1/jwks; if they are the same, the token is not this cluster's)
    # two parts
    Unauthenticated IdentityUnverified: token: it cannot be read: it is not three parts joined by dots (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)
    # no token
    Unauthenticated IdentityUnverified: token: it cannot be read: it is not three parts joined by dots (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)
    # 29 KiB
    Unauthenticated IdentityUnverified: token: it cannot be read: 29200 bytes, and at most 16384 are read (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)
    "#);
}
