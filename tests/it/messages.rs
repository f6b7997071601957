//! Bad input, and the exact words it is answered with. After every refusal the same daemon serves a good mount.
//!
//! A snapshot holds a table of cases: what is wrong, and below it the gRPC code and the message.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use keyferry::clock::{Clock, ManualClock, SystemClock};
use keyferry::identity::Issuer;
use keyferry::model::PodClaims;
use keyferry::server::proto::MountRequest;
use serde_json::{Value, json};
use tokio::time::Duration;
use tonic::{Code, Status};

use crate::support::{Client, House, ISSUER, Provider, TOKENS, pod, request, shown, tokens, web};

/// The codes that kubelet takes for "still going on" (PROTOCOL: The trap).
const TRAP: [Code; 5] = [Code::Aborted, Code::Cancelled, Code::DeadlineExceeded, Code::ResourceExhausted, Code::Unavailable];

/// What kubelet and driver let through at most, with room for their own words.
const LONGEST: usize = 4096;

const GOOD: &str = "- {secret: shop/db, field: username}";

/// A daemon that is asked for what it must refuse.
struct Asked {
    house: House,
    provider: Provider,
    client: Client,
}

/// What is wrong, and a request with it.
type Case = (&'static str, MountRequest);

impl Asked {
    async fn new(house: House) -> Self {
        let provider = house.serve();
        let client = provider.client().await;
        Self { house, provider, client }
    }

    /// The table of a snapshot.
    async fn refusals(&self, cases: impl IntoIterator<Item = Case>) -> String {
        let mut table = Vec::new();
        for (what, request) in cases {
            let refusal = self.refusal(request).await;
            table.push(format!("# {what}\n{refusal}"));
        }
        table.join("\n")
    }

    /// Code and message, the house's own folder replaced. The daemon goes on serving.
    async fn refusal(&self, request: MountRequest) -> String {
        let status = self.client.clone().mount(request).await.map(|_| ()).unwrap_err();
        self.goes_on().await;
        self.words(&status)
    }

    fn words(&self, status: &Status) -> String {
        assert!(!TRAP.contains(&status.code()), "{status}");
        assert!(status.message().len() <= LONGEST, "{} bytes: {status}", status.message().len());
        assert!(status.details().is_empty() && status.message().contains(": "), "{status}");
        let message = status.message().replace(self.house.folder.path().to_str().unwrap(), "<house>");
        format!("{:?} {message}", status.code())
    }

    async fn goes_on(&self) {
        let answer = self.client.clone().mount(self.house.request(&web(), GOOD)).await.unwrap();
        assert_eq!(shown(answer.get_ref()), ["username 0644 app"]);
    }

    /// A case of one class.
    fn class(&self, what: &'static str, objects: &str) -> Case {
        (what, self.house.request(&web(), objects))
    }

    /// A case of a class's parameters.
    fn parameters(&self, what: &'static str, parameters: Value) -> Case {
        (what, self.house.asking(&web(), parameters))
    }
}

// === the request ===

#[tokio::test]
async fn attributes_that_cannot_be_read() {
    let asked = Asked::new(House::new("")).await;
    let raw = |what, attributes: &str| (what, MountRequest { attributes: attributes.to_owned(), ..asked.house.request(&web(), GOOD) });
    let table = asked
        .refusals([
            raw("empty", ""),
            raw("null", "null"),
            raw("cut", r#"{"objects": "- sec"#),
            raw("a list", r#"["objects"]"#),
            raw("not all strings", r#"{"objects": ["shop/db"], "mode": 420, "optional": null}"#),
            raw("two texts", "{} {}"),
            raw("a key twice", r#"{"objects": "[]", "objects": "[]"}"#),
            raw("1 MiB", &json!({ "objects": "#".repeat(1024 * 1024) }).to_string()),
        ])
        .await;
    insta::assert_snapshot!(table, @r#"
    # empty
    InvalidArgument InvalidRequest: attributes: is not JSON: EOF while parsing a value at line 1 column 0
    # null
    InvalidArgument InvalidRequest: attributes: is not a JSON object of strings, at line 1 column 4
    # cut
    InvalidArgument InvalidRequest: attributes: is not JSON: EOF while parsing a string at line 1 column 18
    # a list
    InvalidArgument InvalidRequest: attributes: is not a JSON object of strings, at line 1 column 0
    # not all strings
    InvalidArgument InvalidRequest: attributes: the value of "objects" is a list, but must be a string; attributes: the value of "mode" is a number, but must be a string; attributes: the value of "optional" is null, but must be a string; csi.storage.k8s.io/pod.name: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true); csi.storage.k8s.io/pod.namespace: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true); csi.storage.k8s.io/pod.uid: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true); csi.storage.k8s.io/serviceAccount.name: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true)
    # two texts
    InvalidArgument InvalidRequest: attributes: is not JSON: trailing characters at line 1 column 4
    # a key twice
    InvalidArgument InvalidRequest: attributes: holds the key "objects" twice; csi.storage.k8s.io/pod.name: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true); csi.storage.k8s.io/pod.namespace: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true); csi.storage.k8s.io/pod.uid: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true); csi.storage.k8s.io/serviceAccount.name: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true)
    # 1 MiB
    FailedPrecondition TooLarge: attributes: 1048590 bytes; at most 786432 are read (make the class or the volume's attributes smaller)
    "#);
}

#[tokio::test]
async fn kubelets_keys_missing_empty_or_hostile() {
    const KEYS: [&str; 4] = [
        "csi.storage.k8s.io/pod.name",
        "csi.storage.k8s.io/pod.namespace",
        "csi.storage.k8s.io/pod.uid",
        "csi.storage.k8s.io/serviceAccount.name",
    ];
    let asked = Asked::new(House::new("")).await;
    let all = |value: Value| Value::Object(KEYS.iter().map(|key| ((*key).to_owned(), value.clone())).collect());
    let table = asked
        .refusals([
            asked.parameters("one missing", json!({ KEYS[2]: null })),
            asked.parameters("all missing", all(Value::Null)),
            asked.parameters("all empty", all(json!(""))),
            asked.parameters("all globs", all(json!("*"))),
            asked.parameters("all paths", all(json!("../kube-system"))),
            asked.parameters("all placeholders", all(json!("${namespace}"))),
            asked.parameters("all with a newline", all(json!("a\nInternal: b"))),
            asked.parameters("an endless one", json!({ KEYS[1]: "x".repeat(100_000) })),
        ])
        .await;
    insta::assert_snapshot!(table, @r#"
    # one missing
    InvalidArgument InvalidRequest: csi.storage.k8s.io/pod.uid: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true)
    # all missing
    InvalidArgument InvalidRequest: csi.storage.k8s.io/pod.name: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true); csi.storage.k8s.io/pod.namespace: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true); csi.storage.k8s.io/pod.uid: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true); csi.storage.k8s.io/serviceAccount.name: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true)
    # all empty
    InvalidArgument InvalidRequest: csi.storage.k8s.io/pod.name: is empty (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true); csi.storage.k8s.io/pod.namespace: is empty (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true); csi.storage.k8s.io/pod.uid: is empty (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true); csi.storage.k8s.io/serviceAccount.name: is empty (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true)
    # all globs
    InvalidArgument InvalidRequest: csi.storage.k8s.io/pod.name: "*" is not a Pod's name (kubelet sets it; a class or volume cannot); csi.storage.k8s.io/pod.namespace: "*" is not a namespace (kubelet sets it; a class or volume cannot); csi.storage.k8s.io/pod.uid: "*" is not a Pod's uid (kubelet sets it; a class or volume cannot); csi.storage.k8s.io/serviceAccount.name: "*" is not a ServiceAccount's name (kubelet sets it; a class or volume cannot)
    # all paths
    InvalidArgument InvalidRequest: csi.storage.k8s.io/pod.name: "../kube-system" is not a Pod's name (kubelet sets it; a class or volume cannot); csi.storage.k8s.io/pod.namespace: "../kube-system" is not a namespace (kubelet sets it; a class or volume cannot); csi.storage.k8s.io/pod.uid: "../kube-system" is not a Pod's uid (kubelet sets it; a class or volume cannot); csi.storage.k8s.io/serviceAccount.name: "../kube-system" is not a ServiceAccount's name (kubelet sets it; a class or volume cannot)
    # all placeholders
    InvalidArgument InvalidRequest: csi.storage.k8s.io/pod.name: "${namespace}" is not a Pod's name (kubelet sets it; a class or volume cannot); csi.storage.k8s.io/pod.namespace: "${namespace}" is not a namespace (kubelet sets it; a class or volume cannot); csi.storage.k8s.io/serviceAccount.name: "${namespace}" is not a ServiceAccount's name (kubelet sets it; a class or volume cannot)
    # all with a newline
    InvalidArgument InvalidRequest: csi.storage.k8s.io/pod.name: "a\nInternal: b" is not a Pod's name (kubelet sets it; a class or volume cannot); csi.storage.k8s.io/pod.namespace: "a\nInternal: b" is not a namespace (kubelet sets it; a class or volume cannot); csi.storage.k8s.io/pod.uid: "a\nInternal: b" is not a Pod's uid (kubelet sets it; a class or volume cannot); csi.storage.k8s.io/serviceAccount.name: "a\nInternal: b" is not a ServiceAccount's name (kubelet sets it; a class or volume cannot)
    # an endless one
    InvalidArgument InvalidRequest: csi.storage.k8s.io/pod.namespace: "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"... is not a namespace (kubelet sets it; a class or volume cannot)
    "#);
}

#[tokio::test]
async fn the_calls_other_parts() {
    let asked = Asked::new(House::new("")).await;
    let good = || asked.house.request(&web(), GOOD);
    let path = |path: &str| MountRequest { target_path: path.to_owned(), ..good() };
    let permission = |text: &str| MountRequest { permission: text.to_owned(), ..good() };
    let secrets = |text: &str| MountRequest { secrets: text.to_owned(), ..good() };
    let table = asked
        .refusals([
            ("no target", path("")),
            ("a relative target", path("var/lib/kubelet")),
            ("a target with ..", path("/var/lib/kubelet/../x")),
            ("another Pod's target", path("/var/lib/kubelet/pods/uid-bank-db-0/volumes/kubernetes.io~csi/s/mount")),
            ("a mode in octal", permission("0644")),
            ("a mode over 0777", permission("512")),
            ("a mode in letters", permission("\"rw-r--r--\"")),
            ("a negative mode", permission("-1")),
            ("secrets that are a list", secrets("[]")),
            ("secrets that are cut", secrets(r#"{"a": "b""#)),
            ("secrets that are numbers", secrets(r#"{"a": 1}"#)),
            ("secrets of 1 MiB", secrets(&json!({ "a": "x".repeat(1024 * 1024) }).to_string())),
            (
                "all at once",
                MountRequest {
                    secrets: "{".to_owned(),
                    permission: "9999".to_owned(),
                    target_path: "x".to_owned(),
                    ..asked.house.asking(&web(), json!({ "csi.storage.k8s.io/pod.uid": "", "secretProviderClass": "/" }))
                },
            ),
        ])
        .await;
    insta::assert_snapshot!(table, @r#"
    # no target
    InvalidArgument InvalidRequest: target_path: is not an absolute path: ""
    # a relative target
    InvalidArgument InvalidRequest: target_path: is not an absolute path: "var/lib/kubelet"
    # a target with ..
    InvalidArgument InvalidRequest: target_path: has an empty element, `.` or `..`: "/var/lib/kubelet/../x"
    # another Pod's target
    InvalidArgument InvalidRequest: target_path: is a volume of the Pod with the uid "uid-bank-db-0", but csi.storage.k8s.io/pod.uid is "uid-shop-web-0"
    # a mode in octal
    InvalidArgument InvalidRequest: permission: "0644" is not a file mode (a decimal number from 0 to 511, such as 420 for 0644)
    # a mode over 0777
    InvalidArgument InvalidRequest: permission: 512 is over 511, that is 0777 (a decimal number from 0 to 511, such as 420 for 0644)
    # a mode in letters
    InvalidArgument InvalidRequest: permission: "\"rw-r--r--\"" is not a file mode (a decimal number from 0 to 511, such as 420 for 0644)
    # a negative mode
    InvalidArgument InvalidRequest: permission: "-1" is not a file mode (a decimal number from 0 to 511, such as 420 for 0644)
    # secrets that are a list
    InvalidArgument InvalidRequest: secrets: is not a JSON object of strings, at line 1 column 0
    # secrets that are cut
    InvalidArgument InvalidRequest: secrets: is not JSON: EOF while parsing an object at line 1 column 9
    # secrets that are numbers
    InvalidArgument InvalidRequest: secrets: the value of "a" is a number, but must be a string
    # secrets of 1 MiB
    FailedPrecondition TooLarge: secrets: 1048584 bytes; at most 786432 are read (make the class or the volume's attributes smaller)
    # all at once
    InvalidArgument InvalidRequest: csi.storage.k8s.io/pod.uid: is empty (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true); secretProviderClass: "/" is not the name of a SecretProviderClass; secrets: is not JSON: EOF while parsing an object at line 1 column 1; permission: 9999 is over 511, that is 0777 (a decimal number from 0 to 511, such as 420 for 0644); target_path: is not an absolute path: "x"
    "#);
}

// === tokens ===

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
    house.vault(&["set", "shop/db", "username=app"]);
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
            ("100 KiB", with_token(&good.repeat(150))),
        ])
        .await;
    insta::assert_snapshot!(keyless(&timeless(&table), &[&asked.house.issuer, &unknown, &elsewhere]), @r#"
    # none at all
    Unauthenticated IdentityUnverified: token: the driver sent none, and one for "keyferry" is needed (add the audience keyferry to tokenRequests of the CSIDriver object secrets-store.csi.k8s.io)
    # an empty list
    Unauthenticated IdentityUnverified: token: the driver sent none, and one for "keyferry" is needed (add the audience keyferry to tokenRequests of the CSIDriver object secrets-store.csi.k8s.io)
    # tokens that are not JSON
    InvalidArgument InvalidRequest: csi.storage.k8s.io/serviceAccount.tokens: is not JSON: expected value at line 1 column 1
    # an audience without a token
    InvalidArgument InvalidRequest: csi.storage.k8s.io/serviceAccount.tokens: is not a JSON object {"<audience>": {"token": "<JWT>"}}, at line 1 column 15
    # an empty token
    InvalidArgument InvalidRequest: csi.storage.k8s.io/serviceAccount.tokens: the token for the audience "keyferry" is empty
    # only for other audiences
    Unauthenticated IdentityUnverified: audience: the driver sent tokens for "", "vault", but none for "keyferry" (add the audience keyferry to tokenRequests of the CSIDriver object secrets-store.csi.k8s.io)
    # another audience's under ours
    Unauthenticated IdentityUnverified: audience: the token is for "vault", but this daemon takes tokens for "keyferry" (add the audience keyferry to tokenRequests of the CSIDriver object secrets-store.csi.k8s.io)
    # the API server's under ours
    Unauthenticated IdentityUnverified: audience: the token is for "", but this daemon takes tokens for "keyferry" (add the audience keyferry to tokenRequests of the CSIDriver object secrets-store.csi.k8s.io)
    # another Pod of the same ServiceAccount
    Unauthenticated IdentityUnverified: name: the token is that of the Pod "web-1", but the mount is for "web-0" (kubelet sends the Pod's own: take csi.storage.k8s.io/serviceAccount.tokens out of the class's parameters and the volume's attributes)
    # another namespace
    Unauthenticated IdentityUnverified: namespace: the token is that of a Pod in the namespace "bank", but the mount is for "shop" (kubelet sends the Pod's own: take csi.storage.k8s.io/serviceAccount.tokens out of the class's parameters and the volume's attributes)
    # another ServiceAccount
    Unauthenticated IdentityUnverified: serviceAccount: the token is that of a Pod of the ServiceAccount "admin", but the mount is for "web" (kubelet sends the Pod's own: take csi.storage.k8s.io/serviceAccount.tokens out of the class's parameters and the volume's attributes)
    # the Pod's predecessor of the same name
    Unauthenticated IdentityUnverified: uid: the token is that of the Pod with the uid "uid-older", but the mount is for "uid-shop-web-0" (kubelet sends the Pod's own: take csi.storage.k8s.io/serviceAccount.tokens out of the class's parameters and the volume's attributes)
    # another issuer's
    Unauthenticated IdentityUnverified: issuer: the token is from "https://elsewhere.example", but this daemon takes tokens from "https://oidc.example" (identity.issuer must be the issuer of this cluster's tokens: kubectl get --raw /.well-known/openid-configuration shows it)
    # expired
    Unauthenticated IdentityUnverified: expired: the token ended at <time> by the API server's clock, while this node's clock says <time> (kubelet renews tokens in time and tries again by itself; if this stays, the node's clock is ahead: set it, by NTP say)
    # not yet valid
    Unauthenticated IdentityUnverified: notBefore: the token is good from <time> on by the API server's clock, while this node's clock says <time> (the node's clock is behind: set it, by NTP say)
    # a key that is not known
    Unauthenticated IdentityUnverified: key: the token is signed with the key "<key 1>", which is not in <house>/jwks.json; there is key "<key 0>" (P-256), key "<key 2>" (P-256) (write the cluster's keys into that file again: kubectl get --raw /openid/v1/jwks; it is read anew by itself)
    # a known key's name, another key's signature
    Unauthenticated IdentityUnverified: signature: the token's signature was not made by key "<key 0>" (P-256) of <house>/jwks.json (compare that file with the cluster's keys: kubectl get --raw /openid/v1/jwks; if they are the same, the token is not this cluster's)
    # claims changed after signing
    Unauthenticated IdentityUnverified: signature: the token's signature was not made by key "<key 0>" (P-256) of <house>/jwks.json (compare that file with the cluster's keys: kubectl get --raw /openid/v1/jwks; if they are the same, the token is not this cluster's)
    # alg none
    Unauthenticated IdentityUnverified: algorithm: the token is not signed: its `alg` is "none" (kubelet sends the Pod's own: take csi.storage.k8s.io/serviceAccount.tokens out of the class's parameters and the volume's attributes)
    # alg HS256
    Unauthenticated IdentityUnverified: algorithm: the token is signed with "HS256", a shared secret's algorithm, which proves no issuer (kubelet sends the Pod's own: take csi.storage.k8s.io/serviceAccount.tokens out of the class's parameters and the volume's attributes)
    # no signature
    Unauthenticated IdentityUnverified: signature: the token's signature was not made by key "<key 0>" (P-256) of <house>/jwks.json (compare that file with the cluster's keys: kubectl get --raw /openid/v1/jwks; if they are the same, the token is not this cluster's)
    # two parts
    Unauthenticated IdentityUnverified: token: it cannot be read: it is not three parts joined by dots (kubelet sends the Pod's own: take csi.storage.k8s.io/serviceAccount.tokens out of the class's parameters and the volume's attributes)
    # no token
    Unauthenticated IdentityUnverified: token: it cannot be read: it is not three parts joined by dots (kubelet sends the Pod's own: take csi.storage.k8s.io/serviceAccount.tokens out of the class's parameters and the volume's attributes)
    # 100 KiB
    Unauthenticated IdentityUnverified: token: it cannot be read: 86550 bytes, and at most 16384 are read (kubelet sends the Pod's own: take csi.storage.k8s.io/serviceAccount.tokens out of the class's parameters and the volume's attributes)
    "#);
}

// === classes ===

#[tokio::test]
async fn keys_of_a_class() {
    let asked = Asked::new(House::new("")).await;
    let table = asked
        .refusals([
            asked.parameters("no objects", json!({})),
            asked.parameters("misspelt", json!({ "object": "[]", "objects": "[]", "Mode": "0400" })),
            asked.parameters("nothing like it", json!({ "objects": "[]", "zzzzzz": "x" })),
            asked.parameters("to come", json!({ "objects": "[]", "role": "x", "maxStale": "1h" })),
            asked.parameters("a dialect to come", json!({ "objects": "[]", "dialect": "vault" })),
            asked.parameters("no dialect", json!({ "objects": "[]", "dialect": "keyfery" })),
            asked.parameters(
                "an unknown backend, class-wide",
                json!({ "objects": "[{secret: a}, {secret: b, path: x}]", "backend": "flies" }),
            ),
            asked.class("an unknown backend", "- {secret: shop/db, backend: vault}"),
            asked.class("misspelt in an object", "- {secrt: shop/db, secret: shop/db, pth: x, filed: y}"),
            asked.class(
                "to come in an object",
                "- {secret: shop/db, method: POST, args: {a: b}}\n- {prefix: shop/, path: x}\n- {template: x, path: y}",
            ),
            asked.class("no secret", "- {path: x}\n- {}\n-"),
            asked.class("field and fields", "- {secret: shop/db, field: a, fields: [b]}"),
            asked.class("no fields", "- {secret: shop/db, fields: []}"),
            asked.class("no truth", "- {secret: shop/db, optional: maybe}"),
            asked.class("no encoding", "- {secret: shop/db, encoding: base46}\n- {secret: shop/db, path: x, encoding: rot13}"),
            asked.class("no version", "- {secret: shop/db, version: latest}\n- {secret: shop/db, path: x, version: '03'}"),
            asked.class("no expression", "- {secret: shop/db, field: 'a[', path: x}"),
        ])
        .await;
    insta::assert_snapshot!(table, @r#"
    # no objects
    InvalidArgument InvalidRequest: objects: is missing (add it: a list of objects, each with at least `secret: <name>`; `objects: "[]"` for an empty volume)
    # misspelt
    InvalidArgument InvalidRequest: Mode: is no known key (did you mean `mode`?); object: is no known key (did you mean `objects`?)
    # nothing like it
    InvalidArgument InvalidRequest: zzzzzz: is no known key (known here: objects, backend, mode, dialect)
    # to come
    InvalidArgument InvalidRequest: maxStale: is not yet supported (remove it: nothing is cached); role: is not yet supported (remove it: how a backend is entered is the node's configuration alone)
    # a dialect to come
    InvalidArgument InvalidRequest: dialect: `vault` is not yet supported (write the class in the native format, and leave the key out)
    # no dialect
    InvalidArgument InvalidRequest: dialect: there is no dialect "keyfery" (did you mean `keyferry`?)
    # an unknown backend, class-wide
    InvalidArgument InvalidRequest: backend: there is no backend "flies" on this node (did you mean `files`?)
    # an unknown backend
    InvalidArgument InvalidRequest: object 1 (db): backend: there is no backend "vault" on this node (there are: files)
    # misspelt in an object
    InvalidArgument InvalidRequest: object 1 (db): secrt: is no known key (did you mean `secret`?); object 1 (db): pth: is no known key (did you mean `path`?); object 1 (db): filed: is no known key (did you mean `field`?)
    # to come in an object
    InvalidArgument InvalidRequest: object 1 (db): method: is not yet supported (remove it: secrets are only read); object 1 (db): args: is not yet supported (remove it: secrets are only read); object 2 (x): prefix: is not yet supported (write an object for each secret); object 3 (y): template: is not yet supported (deliver the fields as files of their own)
    # no secret
    InvalidArgument InvalidRequest: object 1 (x): secret: is missing (write the secret's name, such as `secret: shop/db`); object 2: secret: is missing (write the secret's name, such as `secret: shop/db`); object 3: secret: is missing (write the secret's name, such as `secret: shop/db`)
    # field and fields
    InvalidArgument InvalidRequest: object 1 (a): fields: stands beside `field` (keep one: `field` is one file, `fields` a folder of them)
    # no fields
    InvalidArgument InvalidRequest: object 1 (db): fields: is an empty list (name fields, or write "*" for all)
    # no truth
    InvalidArgument InvalidRequest: object 1 (db): optional: must be true or false, without quotes
    # no encoding
    InvalidArgument InvalidRequest: object 1 (db): encoding: there is no encoding "base46" (did you mean `base64`?); object 2 (x): encoding: there is no encoding "rot13" (there are: utf-8, base64, base64url, hex)
    # no version
    InvalidArgument InvalidRequest: object 1 (db): version: "latest" is no revision of a file vault: those are whole numbers from 1, as `keyferry vault get NAME` shows them; object 2 (x): version: "03" is no revision of a file vault: those are whole numbers from 1, as `keyferry vault get NAME` shows them
    # no expression
    NotFound SecretNotFound: object 1 (x): files/shop/db: has no field "a["; as a JMESPath expression it is wrong at character 3 (it has password, username)
    "#);
}

#[tokio::test]
async fn paths_and_modes_of_a_class() {
    let asked = Asked::new(House::new("")).await;
    let path = |what, path: &str| asked.class(what, &json!([{ "secret": "shop/db", "path": path }]).to_string());
    let table = asked
        .refusals([
            path("the parent", ".."),
            path("through the parent", "a/../../etc/passwd"),
            path("the driver's own", "..data"),
            path("absolute", "/etc/passwd"),
            path("empty", ""),
            path("a folder", "a/"),
            path("an empty element", "a//b"),
            path("itself", "./a"),
            path("NUL", "a\0b"),
            path("a newline", "a\nb"),
            path("a name of 256 bytes", &"n".repeat(256)),
            path("a path of 5,000 bytes", &"n/".repeat(2500)),
            asked.class("one path twice", "- {secret: shop/db}\n- {secret: shop/one, path: db}"),
            asked.class("a file that is another's folder", "- {secret: shop/db, path: a/b/c}\n- {secret: shop/one, path: a/b}"),
            asked.class("a file within a file", "- {secret: shop/db, path: a}\n- {secret: shop/one, path: a/b}"),
            asked.class("a folder that is a file", "- {secret: shop/db, path: a}\n- {secret: shop/one, fields: '*', path: a}"),
            asked.class("fields that meet at the root", "- {secret: shop/db, fields: '*', path: .}\n- {secret: shop/db, path: username}"),
            asked.class("over 0777", "- {secret: shop/db, mode: 01000}\n- {secret: shop/db, path: x, mode: 512}"),
            asked.class("setuid", "- {secret: shop/db, mode: 04755}\n- {secret: shop/db, path: x, mode: '02755'}"),
            asked.class("a forgotten 0", "- {secret: shop/db, mode: 644}"),
            asked.class("letters", "- {secret: shop/db, mode: rw-r--r--}\n- {secret: shop/db, path: x, mode: 0x1ff}"),
            asked.parameters("class-wide", json!({ "objects": "[]", "mode": "0888" })),
        ])
        .await;
    insta::assert_snapshot!(table, @r#"
    # the parent
    InvalidArgument InvalidRequest: object 1 (..): path: ".." has the element ".." (write the path without it)
    # through the parent
    InvalidArgument InvalidRequest: object 1 (a/../../etc/passwd): path: "a/../../etc/passwd" has the element ".." (write the path without it)
    # the driver's own
    InvalidArgument InvalidRequest: object 1 (..data): path: "..data" starts with `..`, which the driver keeps for itself (choose another name)
    # absolute
    InvalidArgument InvalidRequest: object 1 (/etc/passwd): path: "/etc/passwd" is absolute: paths are relative to the volume (remove the `/` at its start)
    # empty
    InvalidArgument InvalidRequest: object 1: path: "" is empty (name the file, or leave `path` out)
    # a folder
    InvalidArgument InvalidRequest: object 1 (a/): path: "a/" has an empty element (`//`, or a `/` at its end) (name a file; a folder goes with `fields`)
    # an empty element
    InvalidArgument InvalidRequest: object 1 (a//b): path: "a//b" has an empty element (`//`, or a `/` at its end) (name a file; a folder goes with `fields`)
    # itself
    InvalidArgument InvalidRequest: object 1 (./a): path: "./a" has the element "." (write the path without it)
    # NUL
    InvalidArgument InvalidRequest: object 1 (a\0b): path: "a\0b" has a control character (remove it)
    # a newline
    InvalidArgument InvalidRequest: object 1 (a\nb): path: "a\nb" has a control character (remove it)
    # a name of 256 bytes
    InvalidArgument InvalidRequest: object 1 (nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn...): path: "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"... has an element of 256 bytes: a file name has at most 255 (shorten it)
    # a path of 5,000 bytes
    InvalidArgument InvalidRequest: object 1 (n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/...): path: "n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/"... is 5000 bytes long: at most 4096 are allowed (shorten it)
    # one path twice
    InvalidArgument InvalidRequest: object 2 (db): path: "db" is also the path of object 1 (db) (give each object a path of its own)
    # a file that is another's folder
    InvalidArgument InvalidRequest: object 2 (a/b): path: "a/b" would be a file, but object 1 (a/b/c) needs a folder there (change one of the paths)
    # a file within a file
    InvalidArgument InvalidRequest: object 2 (a/b): path: "a" is a file, that of object 1 (a): nothing can stand within it (change one of the paths)
    # a folder that is a file
    InvalidArgument InvalidRequest: object 2 (a): path: "a" is a file, that of object 1 (a): nothing can stand within it (change one of the paths)
    # fields that meet at the root
    InvalidArgument InvalidRequest: object 2 (username): files/shop/db: it would deliver "username", which excludes "username" of object 1 (./) (name the fields, or change a path)
    # over 0777
    InvalidArgument InvalidRequest: object 1 (db): mode: 01000 is over 0777: the set-user-id, set-group-id and sticky bits cannot be delivered (write an octal mode up to 0777); object 2 (x): mode: 512 is decimal without a 0 before it, and over 0777 (did you mean 0512?)
    # setuid
    InvalidArgument InvalidRequest: object 1 (db): mode: 04755 is over 0777: the set-user-id, set-group-id and sticky bits cannot be delivered (write an octal mode up to 0777); object 2 (x): mode: 02755 is over 0777: the set-user-id, set-group-id and sticky bits cannot be delivered (write an octal mode up to 0777)
    # a forgotten 0
    InvalidArgument InvalidRequest: object 1 (db): mode: 644 is decimal without a 0 before it, and over 0777 (did you mean 0644?)
    # letters
    InvalidArgument InvalidRequest: object 1 (db): mode: "rw-r--r--" is no file mode: octal such as 0444, 0o444 or "0444", or decimal such as 292 (write it in octal, such as 0444); object 2 (x): mode: "0x1ff" is no file mode: octal such as 0444, 0o444 or "0444", or decimal such as 292 (write it in octal, such as 0444)
    # class-wide
    InvalidArgument InvalidRequest: mode: "0888" is no file mode: octal such as 0444, 0o444 or "0444", or decimal such as 292 (write it in octal, such as 0444)
    "#);
}

#[tokio::test]
async fn names_that_are_not_canonical() {
    let asked = Asked::new(House::new("")).await;
    let name = |what, name: &str| asked.class(what, &json!([{ "secret": name, "path": "x" }]).to_string());
    let table = asked
        .refusals([
            name("empty", ""),
            name("the parent", "shop/../bank/db"),
            name("itself", "shop/./db"),
            name("absolute", "/shop/db"),
            name("an empty element", "shop//db"),
            name("a folder", "shop/"),
            name("an escape", "shop%2fdb"),
            name("a query", "shop/db?version=1"),
            name("a fragment", "shop/db#x"),
            name("a backslash", "shop\\db"),
            name("NUL", "shop/db\0"),
            name("the vault's own", ".history/shop/db/1"),
            name("the file's ending", "shop/db.age"),
            name("a pin in the name", "shop/db@1"),
            name("an element of 252 bytes", &"n".repeat(252)),
            name("1,025 bytes", &"n/".repeat(513)),
        ])
        .await;
    insta::assert_snapshot!(table, @r#"
    # empty
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "" is empty (write the name as its store lists it)
    # the parent
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "shop/../bank/db" has the element ".." (write the name as its store lists it)
    # itself
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "shop/./db" has the element "." (write the name as its store lists it)
    # absolute
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "/shop/db" has an empty element (`//`, or a `/` at its start or end) (write the name as its store lists it)
    # an empty element
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "shop//db" has an empty element (`//`, or a `/` at its start or end) (write the name as its store lists it)
    # a folder
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "shop/" has an empty element (`//`, or a `/` at its start or end) (write the name as its store lists it)
    # an escape
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "shop%2fdb" has the character '%', which stores read as an escape or a query (write the name as its store lists it)
    # a query
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "shop/db?version=1" has the character '?', which stores read as an escape or a query (write the name as its store lists it)
    # a fragment
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "shop/db#x" has the character '#', which stores read as an escape or a query (write the name as its store lists it)
    # a backslash
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "shop\\db" has the character '\\', which stores read as an escape or a query (write the name as its store lists it)
    # NUL
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "shop/db\0" has a control character (write the name as its store lists it)
    # the vault's own
    InvalidArgument InvalidRequest: object 1 (x): secret: the name ".history/shop/db/1" has the element ".history": what starts with a dot is the vault's own (write the name as its store lists it)
    # the file's ending
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "shop/db.age" has the element "db.age": the vault adds `.age` by itself (write "db") (write the name as its store lists it)
    # a pin in the name
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "shop/db@1" ends in `@1`, which reads as a pinned version (write `version: "1"` for that) (write the name as its store lists it)
    # an element of 252 bytes
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"... has an element of 252 bytes; in a vault at most 251 are allowed (write the name as its store lists it)
    # 1,025 bytes
    InvalidArgument InvalidRequest: object 1 (x): secret: the name "n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/"... is 1026 bytes long; at most 1024 are allowed (write the name as its store lists it)
    "#);
}

#[tokio::test]
async fn yaml_that_cannot_be_read() {
    let asked = Asked::new(House::new("")).await;
    let bomb = (b'b'..=b'i').fold("- &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, letter| {
        let (this, last) = (letter as char, (letter - 1) as char);
        format!("{text}- &{this} [{}]\n", vec![format!("*{last}"); 10].join(", "))
    });
    let many = |count: usize| "- secret: shop/db\n".repeat(count);
    let table = asked
        .refusals([
            asked.class("a text", "shop/db"),
            asked.class("a mapping", "secret: shop/db"),
            asked.class("a list of texts", "- shop/db"),
            asked.class("a list of lists", "- [shop/db]"),
            asked.class("an open bracket", "- {secret: shop/db"),
            asked.class("an open quote", "- secret: \"shop/db\n"),
            asked.class("a tab", "- secret: shop/db\n\tpath: x"),
            asked.class("wrong indentation", "- secret: shop/db\n path: x\n   mode: 1"),
            asked.class("a key twice", "- {secret: shop/db, path: x, path: y}"),
            asked.class("two documents", "- secret: shop/db\n---\n- secret: shop/db"),
            asked.class("an alias of nothing", "- *x"),
            asked.class("an alias of itself", "- &x {secret: shop/db, path: *x}"),
            asked.class("an alias bomb", &bomb),
            asked.class("nested 10,000 deep", &"[".repeat(10_000)),
            asked.class("a control character", "- secret: shop/\u{7}db"),
            asked.class("513 objects", &many(513)),
            asked.class("10,000 objects", &many(10_000)),
        ])
        .await;
    insta::assert_snapshot!(table, @r#"
    # a text
    InvalidArgument InvalidRequest: objects: line 1: is a text, but must be a list (start each object with `- `, such as `- secret: shop/db`)
    # a mapping
    InvalidArgument InvalidRequest: objects: line 1: is a mapping, but must be a list (start each object with `- `, such as `- secret: shop/db`)
    # a list of texts
    InvalidArgument InvalidRequest: object 1: objects: holds a text here, but an object is a mapping such as `secret: shop/db`
    # a list of lists
    InvalidArgument InvalidRequest: object 1: objects: holds a list here, but an object is a mapping such as `secret: shop/db`
    # an open bracket
    InvalidArgument InvalidRequest: objects: line 1: not valid YAML: unclosed bracket '{'
    # an open quote
    InvalidArgument InvalidRequest: objects: line 2: not valid YAML: invalid indentation in multiline quoted scalar
    # a tab
    InvalidArgument InvalidRequest: objects: line 1: not valid YAML: while scanning a plain scalar, found a tab
    # wrong indentation
    InvalidArgument InvalidRequest: objects: line 2: not valid YAML: while parsing a block collection, did not find expected '-' indicator
    # a key twice
    InvalidArgument InvalidRequest: objects: line 1: `path` is given twice in one mapping (remove one)
    # two documents
    InvalidArgument InvalidRequest: objects: line 3: a second YAML document starts here; only one is read (remove the `---`)
    # an alias of nothing
    InvalidArgument InvalidRequest: objects: line 1: not valid YAML: while parsing node, found unknown anchor
    # an alias of itself
    InvalidArgument InvalidRequest: objects: line 1: an alias of itself
    # an alias bomb
    InvalidArgument InvalidRequest: objects: line 5: over the budget of 100000 YAML values, aliases expanded (write less, with fewer aliases)
    # nested 10,000 deep
    InvalidArgument InvalidRequest: objects: line 1: not valid YAML: recursion limit exceeded
    # a control character
    InvalidArgument InvalidRequest: objects: line 1: not valid YAML: unexpected character: `\u{7}'
    # 513 objects
    FailedPrecondition TooLarge: objects: has 513 objects: at most 512 are allowed on this node (split the class, or ask for a higher limits.objects)
    # 10,000 objects
    FailedPrecondition TooLarge: objects: has 10000 objects: at most 512 are allowed on this node (split the class, or ask for a higher limits.objects)
    "#);
}

#[tokio::test]
async fn every_fault_of_a_class_is_told_at_once() {
    let asked = Asked::new(House::new("")).await;
    let objects = "
        - {secret: shop/../db, path: /x, mode: 0999}
        - {secret: shop/db, pth: y, encoding: base46}
        - {path: ../z}
        - {secret: shop/db, path: a}
        - {secret: shop/db, path: a}";
    let table = asked.refusal(asked.house.asking(&web(), json!({ "objects": objects, "mode": "1000", "rolle": "x" }))).await;
    insta::assert_snapshot!(table.replace("; ", ";\n"), @r#"
    InvalidArgument InvalidRequest: rolle: is no known key (did you mean `role`?);
    mode: 1000 is over 0777: the set-user-id, set-group-id and sticky bits cannot be delivered (write an octal mode up to 0777);
    object 1 (/x): secret: the name "shop/../db" has the element ".." (write the name as its store lists it);
    object 1 (/x): path: "/x" is absolute: paths are relative to the volume (remove the `/` at its start);
    object 1 (/x): mode: "0999" is no file mode: octal such as 0444, 0o444 or "0444", or decimal such as 292 (write it in octal, such as 0444);
    object 2 (db): pth: is no known key (did you mean `path`?);
    object 2 (db): encoding: there is no encoding "base46" (did you mean `base64`?);
    object 3 (../z): secret: is missing (write the secret's name, such as `secret: shop/db`);
    object 3 (../z): path: "../z" has the element ".." (write the path without it);
    object 5 (a): path: "a" is also the path of object 4 (a) (give each object a path of its own)
    "#);
    let many = (0..500).map(|n| format!("- {{secret: shop/../{n}, path: /{n}}}")).collect::<Vec<_>>().join("\n");
    let long = asked.refusal(asked.house.request(&web(), &many)).await;
    assert!(long.len() > 3800 && long.ends_with(" more"), "{long}");
}

// === policy ===

#[tokio::test]
async fn what_policy_denies() {
    let house = House::new("");
    house.configure(
        "pods: { namespace: shop }\n    read: [\"files/shop/**\"]\n  - pods: { namespace: \"*\" }\n    deny: [\"files/**/root/*\"]\n  \
         - pods: { namespace: shop, serviceAccount: admin }\n    read: [\"files/admin/*\"]",
        "",
    );
    let asked = Asked::new(house).await;
    let table = asked
        .refusals([
            asked.class("by no rule", "- {secret: bank/db}"),
            asked.class("by a rule", "- {secret: shop/root/db}"),
            asked.class("another ServiceAccount's", "- {secret: admin/db}"),
            asked.class("whether it exists or not", "- {secret: bank/there-is-no-such}\n- {secret: shop/db, path: ok}"),
            asked.class(
                "several, one of them optional",
                "- {secret: shop/root/a}\n- {secret: bank/db, optional: true}\n- {secret: bank/db, path: x, field: y}",
            ),
            ("a Pod of another namespace", asked.house.request(&pod("bank", "web-0", "web"), GOOD)),
        ])
        .await;
    insta::assert_snapshot!(table, @r#"
    # by no rule
    PermissionDenied PolicyDenied: object 1 (db): files/bank/db: no rule of the policy allows ServiceAccount shop/web to read it (the cluster's admin can add a rule with read: ["files/bank/db"])
    # by a rule
    PermissionDenied PolicyDenied: object 1 (db): files/shop/root/db: policy rule 2 denies it to ServiceAccount shop/web by its pattern "files/**/root/*" (a deny beats every allow; only the cluster's admin can change the rule)
    # another ServiceAccount's
    PermissionDenied PolicyDenied: object 1 (db): files/admin/db: no rule of the policy allows ServiceAccount shop/web to read it (the cluster's admin can add a rule with read: ["files/admin/db"])
    # whether it exists or not
    PermissionDenied PolicyDenied: object 1 (there-is-no-such): files/bank/there-is-no-such: no rule of the policy allows ServiceAccount shop/web to read it (the cluster's admin can add a rule with read: ["files/bank/there-is-no-such"])
    # several, one of them optional
    PermissionDenied PolicyDenied: object 1 (a): files/shop/root/a: policy rule 2 denies it to ServiceAccount shop/web by its pattern "files/**/root/*" (a deny beats every allow; only the cluster's admin can change the rule); object 2 (db): files/bank/db: no rule of the policy allows ServiceAccount shop/web to read it (the cluster's admin can add a rule with read: ["files/bank/db"]); object 3 (x): files/bank/db: no rule of the policy allows ServiceAccount shop/web to read it (the cluster's admin can add a rule with read: ["files/bank/db"])
    # a Pod of another namespace
    PermissionDenied PolicyDenied: object 1 (username): files/shop/db: no rule of the policy allows ServiceAccount bank/web to read it (the cluster's admin can add a rule with read: ["files/shop/db"])
    "#);
}

// === secrets ===

#[tokio::test]
async fn what_is_not_there() {
    let house = House::new("");
    for n in 0..8 {
        house.set("shop/changed", &[("value", format!("{n}").as_bytes())]);
    }
    let asked = Asked::new(house).await;
    let table = asked
        .refusals([
            asked.class("no secret", "- {secret: shop/none}"),
            asked.class("no folder", "- {secret: shop/none/at/all}"),
            asked.class("a secret taken for a folder", "- {secret: shop/db/password}"),
            asked.class("no field", "- {secret: shop/db, field: pasword}"),
            asked.class("no field of a list", "- {secret: shop/db, fields: [username, nothing], path: x}"),
            asked.class("an expression that finds nothing", "- {secret: shop/db, field: 'a.b', path: x}"),
            asked.class("no version", "- {secret: shop/db, version: '7'}"),
            asked.class("a version that is no more kept", "- {secret: shop/changed, version: '1'}"),
            asked.class("several", "- {secret: shop/none}\n- {secret: shop/db, field: x}\n- {secret: shop/nor, path: y}"),
            asked.class("required and optional", "- {secret: shop/none, optional: true}\n- {secret: shop/none, path: y}"),
        ])
        .await;
    insta::assert_snapshot!(table, @r#"
    # no secret
    NotFound SecretNotFound: object 1 (none): files/shop/none: there is no such secret in the vault: <house>/vault/shop/none.age is absent (make it with `keyferry vault set shop/none FIELD=@FILE`)
    # no folder
    NotFound SecretNotFound: object 1 (all): files/shop/none/at/all: there is no such secret in the vault: <house>/vault/shop/none/at/all.age is absent (make it with `keyferry vault set shop/none/at/all FIELD=@FILE`)
    # a secret taken for a folder
    NotFound SecretNotFound: object 1 (password): files/shop/db/password: there is no such secret in the vault: <house>/vault/shop/db/password.age is absent (make it with `keyferry vault set shop/db/password FIELD=@FILE`)
    # no field
    NotFound SecretNotFound: object 1 (pasword): files/shop/db: has no field "pasword" (did you mean "password"? It has password, username)
    # no field of a list
    NotFound SecretNotFound: object 1 (x/): files/shop/db: has no field "nothing" (it has password, username)
    # an expression that finds nothing
    NotFound SecretNotFound: object 1 (x): files/shop/db: has no field "a.b" (it has password, username)
    # no version
    NotFound SecretNotFound: object 1 (db): files/shop/db: there is no revision 7: the current one is 1, and no earlier one is kept
    # a version that is no more kept
    NotFound SecretNotFound: object 1 (changed): files/shop/changed: there is no revision 1: the current one is 8, and kept are 3, 4, 5, 6, 7
    # several
    NotFound SecretNotFound: object 1 (none): files/shop/none: there is no such secret in the vault: <house>/vault/shop/none.age is absent (make it with `keyferry vault set shop/none FIELD=@FILE`); object 3 (y): files/shop/nor: there is no such secret in the vault: <house>/vault/shop/nor.age is absent (make it with `keyferry vault set shop/nor FIELD=@FILE`)
    # required and optional
    NotFound SecretNotFound: object 2 (y): files/shop/none: there is no such secret in the vault: <house>/vault/shop/none.age is absent (make it with `keyferry vault set shop/none FIELD=@FILE`)
    "#);
}

#[tokio::test]
async fn texts_that_are_not_what_the_class_says() {
    let house = House::new("");
    house.set("shop/bad", &[("b64", b"!!!!"), ("cut", b"QUJ"), ("odd", b"abc"), ("url", b"_-_-"), ("bin", &[0xff, 0])]);
    house.set("shop/names", &[("a/../b", b"x"), ("..data", b"y")]);
    let asked = Asked::new(house).await;
    let table = asked
        .refusals([
            asked.class("not base64", "- {secret: shop/bad, field: b64, encoding: base64}"),
            asked
                .class("cut base64", "- {secret: shop/bad, field: cut, encoding: base64}\n- {secret: shop/bad, field: odd, encoding: hex}"),
            asked.class("the other base64", "- {secret: shop/bad, field: url, encoding: base64}"),
            asked.class("not hex", "- {secret: shop/bad, field: url, encoding: hex}"),
            asked.class("binary, to be decoded", "- {secret: shop/bad, field: bin, encoding: base64}"),
            asked.class("binary, in a whole secret", "- {secret: shop/bad}"),
            asked.class("a whole secret, to be decoded", "- {secret: shop/bad, encoding: base64}"),
            asked.class("fields that are no file names", "- {secret: shop/names, fields: '*'}"),
        ])
        .await;
    insta::assert_snapshot!(table, @r#"
    # not base64
    DataLoss SecretCorrupt: object 1 (b64): files/shop/bad: is not base64: a character outside its alphabet at byte 0 of 4 (store it as base64, or leave `encoding` out to deliver the text as it is)
    # cut base64
    DataLoss SecretCorrupt: object 1 (cut): files/shop/bad: is not base64: bits are left over at byte 2 of 3: it seems cut (store it as base64, or leave `encoding` out to deliver the text as it is); object 2 (odd): files/shop/bad: is not hex: it ends in the middle of a group, after 3 bytes (store it as hex, or leave `encoding` out to deliver the text as it is)
    # the other base64
    DataLoss SecretCorrupt: object 1 (url): files/shop/bad: is not base64: a character outside its alphabet at byte 0 of 4 (it may be base64url: set `encoding: base64url`)
    # not hex
    DataLoss SecretCorrupt: object 1 (url): files/shop/bad: is not hex: a character outside its alphabet at byte 0 of 4 (store it as hex, or leave `encoding` out to deliver the text as it is)
    # binary, to be decoded
    DataLoss SecretCorrupt: object 1 (bin): files/shop/bad: is not base64: a character outside its alphabet at byte 0 of 2 (store it as base64, or leave `encoding` out to deliver the text as it is)
    # binary, in a whole secret
    InvalidArgument InvalidRequest: object 1 (bad): files/shop/bad: its field "bin" is binary, which JSON cannot hold (deliver it with `field`, or all with `fields: "*"`)
    # a whole secret, to be decoded
    InvalidArgument InvalidRequest: object 1 (bad): files/shop/bad: `encoding` decodes one text, and the secret has 5 fields (add `field`, or `fields` for a file each)
    # fields that are no file names
    InvalidArgument InvalidRequest: object 1 (names/): files/shop/names: its field "a/../b" cannot name a file: the path has the element ".." (name the fields, or give it an object of its own)
    "#);
}

#[tokio::test]
async fn secrets_and_answers_over_a_limit() {
    let house = House::new("limits: { secretBytes: 4KiB, mountBytes: 12KiB, objects: 3 }");
    house.set("shop/big", &[("value", &[b'x'; 4097])]);
    house.set("shop/huge", &[("value", &vec![b'x'; 1024 * 1024])]);
    house.set("shop/fits", &[("value", &[b'x'; 4096])]);
    house.set("shop/quotes", &[("a", &[b'"'; 3000]), ("b", b"x")]);
    // The format pads a file by a random length.
    let size = fs::metadata(house.path("vault/shop/huge.age")).unwrap().len().to_string();
    let asked = Asked::new(house).await;
    let table = asked
        .refusals([
            asked.class("a secret, a byte too large", "- {secret: shop/big}"),
            asked.class("a secret, far too large", "- {secret: shop/huge}"),
            asked.class("a file that JSON makes too large", "- {secret: shop/quotes}"),
            asked.class("an answer", "- {secret: shop/fits, path: a}\n- {secret: shop/fits, path: b}\n- {secret: shop/fits, path: c}"),
            asked.class("objects", "- {secret: a}\n- {secret: b}\n- {secret: c}\n- {secret: d}"),
        ])
        .await;
    insta::assert_snapshot!(table.replace(&size, "<size>"), @"
    # a secret, a byte too large
    FailedPrecondition TooLarge: object 1 (big): files/shop/big: <house>/vault/shop/big.age holds 4097 bytes; at most 4096 are served (limits.secretBytes)
    # a secret, far too large
    FailedPrecondition TooLarge: object 1 (huge): files/shop/huge: <house>/vault/shop/huge.age is <size> bytes long; at most 90112 are read, as secrets of up to 4096 bytes need no more (limits.secretBytes)
    # a file that JSON makes too large
    FailedPrecondition TooLarge: object 1 (quotes): files/shop/quotes: is 6016 bytes as a file: at most 4096 are allowed on this node (deliver single fields, or ask for a higher limits.secretBytes)
    # an answer
    FailedPrecondition TooLarge: object 3 (c): files/shop/fits: with this object the volume has more than 12288 bytes (split the class over several volumes, or ask for a higher limits.mountBytes)
    # objects
    FailedPrecondition TooLarge: objects: has 4 objects: at most 3 are allowed on this node (split the class, or ask for a higher limits.objects)
    ");
}

/// A change of a vault's file.
type Damage = fn(&mut Vec<u8>);

#[tokio::test]
async fn vault_files_that_do_not_open() {
    let house = House::new("");
    let other = house.path("other").display().to_string();
    house.vault(&["init", "--vault", &other, "--identity", house.path("other.key").to_str().unwrap()]);
    house.vault(&["set", "shop/wrong-key", "password=x", "--vault", &other]);
    fs::copy(house.path("other/shop/wrong-key.age"), house.path("vault/shop/wrong-key.age")).unwrap();
    fs::copy(house.path("vault/shop/db.age"), house.path("vault/shop/moved.age")).unwrap();
    fs::create_dir(house.path("vault/shop/folder.age")).unwrap();
    let damages: [(&str, Damage); 8] = [
        ("empty", Vec::clear),
        ("cut-header", |file| file.truncate(60)),
        ("cut-payload", |file| file.truncate(file.len() - 1)),
        ("flip-header", |file| file[100] ^= 1),
        ("flip-payload", |file| *file.last_mut().unwrap() ^= 1),
        ("longer", |file| file.push(0)),
        ("text", |file| *file = b"password: x\n".to_vec()),
        ("armoured", |file| *file = b"-----BEGIN AGE ENCRYPTED FILE-----\n".to_vec()),
    ];
    for (name, damage) in damages {
        house.set(&format!("shop/{name}"), &[("password", b"x")]);
        let path = house.path(&format!("vault/shop/{name}.age"));
        let mut file = fs::read(&path).unwrap();
        damage(&mut file);
        fs::write(path, file).unwrap();
    }
    let asked = Asked::new(house).await;
    let mut table = Vec::new();
    for name in damages.map(|(name, _)| name).into_iter().chain(["wrong-key", "moved", "folder"]) {
        table.push(asked.refusal(asked.house.request(&web(), &format!("- secret: shop/{name}"))).await);
    }
    let recipient = asked.house.recipient();
    insta::assert_snapshot!(table.join("\n").replace(&recipient, "<recipient>"), @r#"
    DataLoss SecretCorrupt: object 1 (empty): files/shop/empty: <house>/vault/shop/empty.age is empty (restore it, or set the secret anew)
    DataLoss SecretCorrupt: object 1 (cut-header): files/shop/cut-header: <house>/vault/shop/cut-header.age is truncated (restore it, or set the secret anew)
    DataLoss SecretCorrupt: object 1 (cut-payload): files/shop/cut-payload: <house>/vault/shop/cut-payload.age was altered after it was sealed, or damaged (restore it, or set the secret anew)
    DataLoss SecretCorrupt: object 1 (flip-header): files/shop/flip-header: <house>/vault/shop/flip-header.age cannot be opened with any identity in <house>/age.key (<recipient>): it is sealed to other recipients, or its header was altered (list this recipient in the vault and set the secret anew, or give the daemon the right identity file)
    DataLoss SecretCorrupt: object 1 (flip-payload): files/shop/flip-payload: <house>/vault/shop/flip-payload.age was altered after it was sealed, or damaged (restore it, or set the secret anew)
    DataLoss SecretCorrupt: object 1 (longer): files/shop/longer: <house>/vault/shop/longer.age was altered after it was sealed, or damaged (restore it, or set the secret anew)
    DataLoss SecretCorrupt: object 1 (text): files/shop/text: <house>/vault/shop/text.age is no age file (restore it, or set the secret anew)
    DataLoss SecretCorrupt: object 1 (armoured): files/shop/armoured: <house>/vault/shop/armoured.age is age's text form; the vault's files are binary (decode it with `age -d` and set the secret anew)
    DataLoss SecretCorrupt: object 1 (wrong-key): files/shop/wrong-key: <house>/vault/shop/wrong-key.age cannot be opened with any identity in <house>/age.key (<recipient>): it is sealed to other recipients, or its header was altered (list this recipient in the vault and set the secret anew, or give the daemon the right identity file)
    DataLoss SecretCorrupt: object 1 (moved): files/shop/moved: <house>/vault/shop/moved.age was sealed as "shop/db", and is not served under another name (it was moved or copied: set the secret anew)
    DataLoss SecretCorrupt: object 1 (folder): files/shop/folder: <house>/vault/shop/folder.age is no regular file (remove it, and set the secret anew)
    "#);
    // The same file mended is served by the same daemon.
    asked.house.set("shop/empty", &[("password", b"mended")]);
    let answer = asked.provider.mount(asked.house.request(&web(), "- secret: shop/empty")).await.unwrap();
    assert_eq!(shown(&answer), ["empty 0644 mended"]);
}

#[tokio::test]
async fn a_vault_that_vanishes_and_comes_back() {
    let asked = Asked::new(House::new("")).await;
    let (vault, away) = (asked.house.path("vault"), asked.house.path("away"));
    let refused = async || asked.words(&asked.provider.mount(asked.house.request(&web(), GOOD)).await.unwrap_err());
    asked.goes_on().await;
    fs::rename(&vault, &away).unwrap();
    insta::assert_snapshot!(refused().await, @"FailedPrecondition BackendUnavailable: object 1 (username): files/shop/db: the vault's folder <house>/vault is not there (is its volume mounted, and synced?)");
    // An empty mount point in its place must not look like a vault whose secrets were removed.
    fs::create_dir(&vault).unwrap();
    insta::assert_snapshot!(refused().await, @"FailedPrecondition BackendUnavailable: object 1 (username): files/shop/db: <house>/vault is no vault: it has no list of recipients, <house>/vault/.recipients (is its volume mounted, and synced? `keyferry vault init` makes a vault)");
    fs::remove_dir(&vault).unwrap();
    fs::rename(&away, &vault).unwrap();
    asked.goes_on().await;
}

#[tokio::test]
async fn files_that_the_daemon_may_not_read() {
    let house = House::new("");
    for name in ["locked", "under/locked"] {
        house.set(&format!("shop/{name}"), &[("password", b"x")]);
    }
    let provider = house.serve_as(1234);
    let close = |path: &str, mode: u32| fs::set_permissions(house.path(path), fs::Permissions::from_mode(mode)).unwrap();
    close("vault/shop/locked.age", 0o000);
    close("vault/shop/under", 0o000);
    let client = provider.client().await;
    let asked = Asked { house, provider, client };
    let table =
        asked.refusals([asked.class("a file", "- secret: shop/locked"), asked.class("a folder", "- secret: shop/under/locked")]).await;
    let uid = if rustix::process::geteuid().is_root() { 1234 } else { rustix::process::geteuid().as_raw() };
    insta::assert_snapshot!(table.replace(&format!("uid {uid} "), "uid <its> "), @"
    # a file
    FailedPrecondition BackendUnavailable: object 1 (locked): files/shop/locked: <house>/vault/shop/locked.age cannot be read: Permission denied (os error 13) (let uid <its> enter the vault's folders and read its files)
    # a folder
    FailedPrecondition BackendUnavailable: object 1 (locked): files/shop/under/locked: <house>/vault/shop/under/locked.age cannot be read: Permission denied (os error 13) (let uid <its> enter the vault's folders and read its files)
    ");
    fs::set_permissions(asked.house.path("vault/shop/under"), fs::Permissions::from_mode(0o700)).unwrap();
}
