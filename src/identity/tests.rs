use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaEncoding, RsaKeyPair,
};
use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Duration;

use super::*;
use crate::clock::ManualClock;
use crate::model::{PodClaims, PodIdentity, RawTokens, SecretBytes};

const ISSUER: &str = "https://oidc.example";
const TTL: Duration = Duration::from_mins(10);

/// An issuer, its keys in a file, and a verifier of both.
struct Scene {
    folder: TempDir,
    issuer: Issuer,
    clock: Arc<ManualClock>,
    verifier: JwksVerifier,
}

fn start() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn pod() -> PodClaims {
    PodClaims { namespace: "shop".into(), name: "web-1".into(), uid: "uid-1".into(), service_account: "web".into() }
}

fn raw(tokens: &[(&str, &str)]) -> RawTokens {
    tokens.iter().map(|(audience, token)| ((*audience).to_owned(), Arc::new(SecretBytes::new(token.as_bytes().to_vec())))).collect()
}

fn encode(part: &Value) -> String {
    BASE64URL_NOPAD.encode(part.to_string().as_bytes())
}

impl Scene {
    fn new() -> Self {
        let issuer = Issuer::new(ISSUER).unwrap();
        let jwks = issuer.jwks();
        Self::with(issuer, &jwks)
    }

    /// With these keys in the file.
    fn with(issuer: Issuer, jwks: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("jwks.json");
        fs::write(&file, jwks).unwrap();
        let clock = Arc::new(ManualClock::at(start()));
        let verifier = JwksVerifier::open(&file, ISSUER, "keyferry", clock.clone()).unwrap();
        Self { folder, issuer, clock, verifier }
    }

    fn write(&self, jwks: &str) {
        fs::write(self.folder.path().join("jwks.json"), jwks).unwrap();
    }

    fn token(&self) -> String {
        self.issuer.token(&pod(), "keyferry", TTL, &*self.clock).unwrap()
    }

    fn claims(&self) -> Value {
        self.issuer.claims(&pod(), "keyferry", TTL, &*self.clock)
    }

    async fn attest(&self, token: &str) -> Result<Attested, IdentityError> {
        self.verifier.attest(&pod(), &raw(&[("keyferry", token)])).await
    }

    async fn refused(&self, token: &str) -> String {
        self.shown(&self.attest(token).await.unwrap_err())
    }

    async fn refused_claims(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = self.claims();
        change(&mut claims);
        self.refused(&self.issuer.sign(&claims).unwrap()).await
    }

    /// Replaces the names that differ from run to run.
    fn shown(&self, error: &dyn ToString) -> String {
        let key_id = self.issuer.jwk()["kid"].as_str().unwrap().to_owned();
        error.to_string().replace(&self.folder.path().display().to_string(), "[folder]").replace(&key_id, "[kid]")
    }
}

// === valid tokens ===

#[tokio::test]
async fn a_pods_own_token_proves_it() {
    let scene = Scene::new();
    let attested = scene.attest(&scene.token()).await.unwrap();
    let PodIdentity { namespace, name, uid, service_account, service_account_uid, verified } = PodIdentity::clone(&attested.pod);
    assert_eq!((&*namespace, name.as_str(), &*uid, &*service_account), ("shop", "web-1", "uid-1", "web"));
    assert!(verified && service_account_uid.is_some_and(|uid| uid.len() == 36));
    assert_eq!(attested.tokens.audiences().count(), 0, "no store gets the token for the daemon itself");
}

#[tokio::test]
async fn only_verified_tokens_are_handed_on() {
    let scene = Scene::new();
    let sign = |audience: &str| scene.issuer.token(&pod(), audience, TTL, &*scene.clock).unwrap();
    let neighbour = PodClaims { name: "web-2".into(), uid: "uid-2".into(), ..pod() };
    let stranger = Issuer::new(ISSUER).unwrap();
    let mut both = scene.claims();
    both["aud"] = json!(["both", "keyferry"]);
    let tokens = raw(&[
        ("keyferry", &sign("keyferry")),
        ("vault", &sign("vault")),
        ("", &sign("https://kubernetes.default.svc")),
        ("mislabelled", &sign("vault")),
        ("neighbour", &scene.issuer.token(&neighbour, "neighbour", TTL, &*scene.clock).unwrap()),
        ("stranger", &stranger.token(&pod(), "stranger", TTL, &*scene.clock).unwrap()),
        ("ended", &scene.issuer.sign(&json!({ "aud": "ended", "exp": 1, "iss": ISSUER })).unwrap()),
        ("garbage", "x"),
        ("both", &scene.issuer.sign(&both).unwrap()),
        ("keyferry ", &sign("keyferry")),
    ]);
    for _ in 0..2 {
        let attested = scene.verifier.attest(&pod(), &tokens).await.unwrap();
        assert_eq!(attested.tokens.audiences().collect::<Vec<_>>(), ["vault"]);
        let handed = attested.tokens.find("vault").unwrap();
        assert_eq!((handed.jwt.expose(), handed.expires), (tokens["vault"].expose(), start() + TTL));
    }
}

#[tokio::test]
async fn the_driver_may_be_believed_but_hands_on_nothing() {
    let attested = BelieveDriver.attest(&pod(), &raw(&[("keyferry", "x")])).await.unwrap();
    assert_eq!(*attested.pod, PodIdentity::believed(&pod()));
    assert!(!attested.pod.verified && attested.tokens.audiences().next().is_none());
    assert_eq!(BelieveDriver.health().await, Ok(()));
}

#[tokio::test]
async fn build_makes_what_was_asked_for() {
    let clock = Arc::new(ManualClock::at(start()));
    let driver = IdentityConfig { audience: "keyferry".into(), verify: Verify::Driver };
    let state = TempDir::new().unwrap();
    assert!(build(&driver, state.path(), clock.clone()).unwrap().attest(&pod(), &raw(&[])).await.is_ok());
    let scene = Scene::new();
    let file = scene.folder.path().join("jwks.json");
    let verify = Verify::Jwks { issuer: Some(ISSUER.into()), keys: Keys::File(file) };
    let jwks = IdentityConfig { audience: "keyferry".into(), verify };
    let built = build(&jwks, state.path(), clock).unwrap();
    assert!(built.attest(&pod(), &raw(&[("keyferry", &scene.token())])).await.unwrap().pod.verified);
    assert!(built.attest(&pod(), &raw(&[])).await.is_err());
}

// === invalid tokens ===

#[tokio::test]
async fn a_missing_token_says_what_was_sent() {
    let scene = Scene::new();
    let refused = async |tokens: &[(&str, &str)]| scene.shown(&scene.verifier.attest(&pod(), &raw(tokens)).await.unwrap_err());
    insta::assert_snapshot!(refused(&[]).await, @r#"token: the driver sent none, and one for "keyferry" is needed (add the audience keyferry to tokenRequests of the CSIDriver object secrets-store.csi.k8s.io)"#);
    insta::assert_snapshot!(refused(&[("", "x"), ("vault", "y")]).await, @r#"audience: the driver sent tokens for "", "vault", but none for "keyferry" (add the audience keyferry to tokenRequests of the CSIDriver object secrets-store.csi.k8s.io)"#);
    insta::assert_snapshot!(refused(&["a", "b", "c", "d", "e", "f", "g"].map(|name| (name, "x"))).await, @r#"audience: the driver sent tokens for "a", "b", "c", "d", "e" and 2 more, but none for "keyferry" (add the audience keyferry to tokenRequests of the CSIDriver object secrets-store.csi.k8s.io)"#);
}

#[tokio::test]
async fn another_pods_token_is_refused() {
    let scene = Scene::new();
    let refused =
        async |request: PodClaims| scene.shown(&scene.verifier.attest(&request, &raw(&[("keyferry", &scene.token())])).await.unwrap_err());
    insta::assert_snapshot!(refused(PodClaims { namespace: "bank".into(), ..pod() }).await, @r#"namespace: the token is that of a Pod in the namespace "shop", but the mount is for "bank" (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)"#);
    insta::assert_snapshot!(refused(PodClaims { name: "web-2".into(), ..pod() }).await, @r#"name: the token is that of the Pod "web-1", but the mount is for "web-2" (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)"#);
    insta::assert_snapshot!(refused(PodClaims { uid: "uid-2".into(), ..pod() }).await, @r#"uid: the token is that of the Pod with the uid "uid-1", but the mount is for "uid-2" (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)"#);
    insta::assert_snapshot!(refused(PodClaims { service_account: "root".into(), ..pod() }).await, @r#"serviceAccount: the token is that of a Pod of the ServiceAccount "web", but the mount is for "root" (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)"#);
    assert!(scene.attest(&scene.token()).await.is_ok(), "and the Pod itself still may");
}

#[tokio::test]
async fn names_from_tokens_are_escaped_and_cut() {
    let scene = Scene::new();
    let nasty =
        scene.refused_claims(|claims| claims["kubernetes.io"]["pod"]["name"] = json!(format!("a\n\u{202e}{}", "x".repeat(5_000)))).await;
    assert!(nasty.len() < 600 && !nasty.contains('\n') && !nasty.contains('\u{202e}'), "{nasty}");
}

#[tokio::test]
async fn another_audience_or_issuer_is_refused() {
    let scene = Scene::new();
    insta::assert_snapshot!(scene.refused_claims(|claims| claims["aud"] = json!(["vault"])).await, @r#"audience: the token is for "vault", but this daemon takes tokens for "keyferry" (add the audience keyferry to tokenRequests of the CSIDriver object secrets-store.csi.k8s.io)"#);
    insta::assert_snapshot!(scene.refused_claims(|claims| claims["aud"] = json!("keyferry-2")).await, @r#"audience: the token is for "keyferry-2", but this daemon takes tokens for "keyferry" (add the audience keyferry to tokenRequests of the CSIDriver object secrets-store.csi.k8s.io)"#);
    insta::assert_snapshot!(scene.refused_claims(|claims| claims["aud"] = json!([])).await, @r#"audience: the token is for nobody, but this daemon takes tokens for "keyferry" (add the audience keyferry to tokenRequests of the CSIDriver object secrets-store.csi.k8s.io)"#);
    insta::assert_snapshot!(scene.refused_claims(|claims| claims["iss"] = json!("https://oidc.example/")).await, @r#"issuer: the token is from "https://oidc.example/", but this daemon takes tokens from "https://oidc.example" (identity.issuer must be the issuer of this cluster's tokens: kubectl get --raw /.well-known/openid-configuration shows it)"#);
    insta::assert_snapshot!(scene.refused_claims(|claims| _ = claims.as_object_mut().unwrap().remove("iss")).await, @r#"issuer: the token has no `iss`, but this daemon takes tokens from "https://oidc.example" (identity.issuer must be the issuer of this cluster's tokens: kubectl get --raw /.well-known/openid-configuration shows it)"#);
    let mut several = scene.claims();
    several["aud"] = json!(["vault", "keyferry"]);
    assert!(scene.attest(&scene.issuer.sign(&several).unwrap()).await.is_ok());
    several["aud"] = json!("keyferry");
    assert!(scene.attest(&scene.issuer.sign(&several).unwrap()).await.is_ok());
}

#[tokio::test]
async fn a_token_is_good_for_its_time_and_a_minute() {
    let scene = Scene::new();
    let token = scene.token();
    scene.clock.advance(-60);
    assert!(scene.attest(&token).await.is_ok());
    scene.clock.advance(-1);
    insta::assert_snapshot!(scene.refused(&token).await, @"notBefore: the token is valid from 2026-01-01T00:00:00Z on by the API server's clock, while this node's clock says 2025-12-31T23:58:59Z (the node's clock is behind: set it, for example by NTP)");
    scene.clock.advance(61 + 600 + 59);
    assert!(scene.attest(&token).await.is_ok(), "from memory, too");
    scene.clock.advance(1);
    insta::assert_snapshot!(scene.refused(&token).await, @"expired: the token expired at 2026-01-01T00:10:00Z by the API server's clock, while this node's clock says 2026-01-01T00:11:00Z (kubelet renews tokens in time and tries again by itself; if this stays, the node's clock is ahead: set it, for example by NTP)");
    let wild = Scene::new();
    for (exp, nbf, good) in [(json!(1e300), json!(-1e300), true), (json!(-1e300), json!(0), false), (json!(1e300), json!(1e300), false)] {
        let mut claims = wild.claims();
        (claims["exp"], claims["nbf"]) = (exp, nbf);
        assert_eq!(wild.attest(&wild.issuer.sign(&claims).unwrap()).await.is_ok(), good, "{claims}");
    }
}

#[tokio::test]
async fn a_token_bound_to_no_pod_is_refused() {
    let scene = Scene::new();
    insta::assert_snapshot!(scene.refused_claims(|claims| _ = claims.as_object_mut().unwrap().remove("kubernetes.io")).await, @"pod: the token is not bound to a Pod: it has no claim `kubernetes.io` with a `pod` (a token from a Secret or from a plain `kubectl create token` does not name a Pod; tokenRequests of the CSIDriver object secrets-store.csi.k8s.io makes kubelet send one that does)");
    let unbound = scene.refused_claims(|claims| _ = claims["kubernetes.io"].as_object_mut().unwrap().remove("pod")).await;
    assert!(unbound.starts_with("pod: "), "{unbound}");
    insta::assert_snapshot!(scene.refused_claims(|claims| _ = claims.as_object_mut().unwrap().remove("exp")).await, @"expired: the token has no `exp`: it would never expire (a token from a Secret or from a plain `kubectl create token` does not name a Pod; tokenRequests of the CSIDriver object secrets-store.csi.k8s.io makes kubelet send one that does)");
}

#[tokio::test]
async fn an_unsigned_token_is_refused() {
    let scene = Scene::new();
    let kid = scene.issuer.jwk()["kid"].clone();
    for none in ["none", "None", "NONE"] {
        let bare = format!("{}.{}.", encode(&json!({ "alg": none, "kid": kid })), encode(&scene.claims()));
        assert!(scene.refused(&bare).await.starts_with("algorithm: "));
    }
    let bare = format!("{}.{}.", encode(&json!({ "alg": "none" })), encode(&scene.claims()));
    insta::assert_snapshot!(scene.refused(&bare).await, @r#"algorithm: the token is not signed: its `alg` is "none" (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)"#);
    // The true header, and no or an empty signature.
    let token = scene.token();
    let (message, _) = token.rsplit_once('.').unwrap();
    insta::assert_snapshot!(scene.refused(&format!("{message}.")).await, @r#"signature: the token's signature was not made by key "[kid]" (P-256) of [folder]/jwks.json (compare that file with the cluster's keys: kubectl get --raw /openid/v1/jwks; if they are the same, the token is not this cluster's)"#);
    let zero = BASE64URL_NOPAD.encode(&[0; 64]);
    assert!(scene.refused(&format!("{message}.{zero}")).await.starts_with("signature: "), "r = s = 0 verifies where nobody checks");
}

/// The classic confusion: the public key, known to all, taken as the secret of an HMAC.
#[tokio::test]
async fn a_public_key_is_no_hmac_secret() {
    let scene = Scene::with(Issuer::new(ISSUER).unwrap(), &json!({ "keys": [rsa_jwk()] }).to_string());
    let modulus = BASE64URL_NOPAD.decode(rsa_jwk()["n"].as_str().unwrap().as_bytes()).unwrap();
    let der = rsa().public_key().as_ref().to_vec();
    for (alg, algorithm) in [("HS256", hmac::HMAC_SHA256), ("HS384", hmac::HMAC_SHA384), ("HS512", hmac::HMAC_SHA512)] {
        for secret in [&modulus, &der, &rsa_jwk().to_string().into_bytes()] {
            let message = format!("{}.{}", encode(&json!({ "alg": alg, "kid": "rsa" })), encode(&scene.claims()));
            let tag = hmac::sign(&hmac::Key::new(algorithm, secret), message.as_bytes());
            let refused = scene.refused(&format!("{message}.{}", BASE64URL_NOPAD.encode(tag.as_ref()))).await;
            assert!(refused.starts_with("algorithm: "), "{refused}");
            if alg == "HS256" {
                insta::allow_duplicates! { insta::assert_snapshot!(refused, @r#"algorithm: the token is signed with "HS256", an algorithm with a shared secret, which does not prove the issuer (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)"#); }
            }
        }
    }
}

#[tokio::test]
async fn another_key_is_refused() {
    let scene = Scene::new();
    let stranger = Issuer::new(ISSUER).unwrap();
    let lying = json!({ "alg": "ES256", "kid": scene.issuer.jwk()["kid"] });
    insta::assert_snapshot!(scene.refused(&stranger.sign_with(&lying, &scene.claims()).unwrap()).await, @r#"signature: the token's signature was not made by key "[kid]" (P-256) of [folder]/jwks.json (compare that file with the cluster's keys: kubectl get --raw /openid/v1/jwks; if they are the same, the token is not this cluster's)"#);
    insta::assert_snapshot!(scene.refused(&stranger.sign_with(&json!({ "alg": "ES256", "kid": "stranger\n" }), &scene.claims()).unwrap()).await, @r#"key: the token is signed with the key "stranger\n", which is not in [folder]/jwks.json; there is key "[kid]" (P-256) (write the cluster's keys into that file again: kubectl get --raw /openid/v1/jwks; Keyferry then reads it again by itself)"#);
    // A key inside the token is not a known key.
    let bringing = json!({ "alg": "ES256", "jwk": stranger.jwk(), "jku": "https://evil.example/jwks" });
    assert!(scene.refused(&stranger.sign_with(&bringing, &scene.claims()).unwrap()).await.starts_with("signature: "));
}

#[tokio::test]
async fn the_algorithm_must_be_the_keys() {
    let scene = Scene::new();
    let kid = scene.issuer.jwk()["kid"].clone();
    insta::assert_snapshot!(scene.refused(&scene.issuer.sign_with(&json!({ "alg": "RS256", "kid": kid }), &scene.claims()).unwrap()).await, @r#"algorithm: the token says it is signed with RS256, which does not fit key "[kid]" (P-256) of [folder]/jwks.json (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)"#);
    insta::assert_snapshot!(scene.refused(&scene.issuer.sign_with(&json!({ "alg": "ES256K", "kid": kid }), &scene.claims()).unwrap()).await, @r#"algorithm: the token is signed with "ES256K", but Keyferry accepts only EdDSA, ES256, ES384, ES512, PS256, PS384, PS512, RS256, RS384, RS512 (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)"#);
    for alg in ["es256", "ES384", "EdDSA", ""] {
        let token = scene.issuer.sign_with(&json!({ "alg": alg, "kid": kid }), &scene.claims()).unwrap();
        assert!(scene.refused(&token).await.starts_with("algorithm: "), "{alg}");
    }
    // The key's own `alg` binds: an RSA key for PS256 takes no RS256.
    let mut jwk = rsa_jwk();
    jwk["alg"] = json!("PS256");
    let scene = Scene::with(Issuer::new(ISSUER).unwrap(), &json!({ "keys": [jwk] }).to_string());
    assert!(scene.refused(&rsa_token("RS256", &signature::RSA_PKCS1_SHA256, &scene.claims())).await.starts_with("algorithm: "));
    assert!(scene.attest(&rsa_token("PS256", &signature::RSA_PSS_SHA256, &scene.claims())).await.is_ok());
}

#[tokio::test]
async fn garbage_is_refused() {
    let scene = Scene::new();
    insta::assert_snapshot!(scene.refused("hunter2-canary").await, @"token: it cannot be read: it is not three parts joined by dots (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)");
    insta::assert_snapshot!(scene.refused("hunter2.canary.!").await, @"token: it cannot be read: its header is not JSON with an `alg` in base64url (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)");
    insta::assert_snapshot!(scene.refused(&"x".repeat(16 * 1024 + 1)).await, @"token: it cannot be read: 16385 bytes, and at most 16384 are read (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)");
    let header = json!({ "alg": "ES256", "kid": scene.issuer.jwk()["kid"], "crit": ["b64"], "b64": false });
    insta::assert_snapshot!(scene.refused(&scene.issuer.sign_with(&header, &scene.claims()).unwrap()).await, @"token: it cannot be read: its header has critical extensions (`crit`), and none is known here (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)");
    insta::assert_snapshot!(scene.refused(&scene.issuer.sign(&json!(["hunter2-canary"])).unwrap()).await, @"token: it cannot be read: its claims are not those of a ServiceAccount token (remove csi.storage.k8s.io/serviceAccount.tokens from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)");
    for text in ["", ".", "..", "...", "a.b.c.d", "\0.\0.\0", "e30.e30.e30", "e30.e30."] {
        assert!(scene.refused(text).await.starts_with("token: "), "{text:?}");
    }
    let deep = format!("{}.x.x", BASE64URL_NOPAD.encode(format!("{{\"alg\":{}", "[".repeat(9_000)).as_bytes()));
    assert!(scene.refused(&deep).await.starts_with("token: "));
}

/// Any change of a good token, of a character or a part, and it verifies no more. Never a panic, never the token in the message.
#[test]
fn a_changed_token_never_verifies() {
    let scene = Scene::new();
    let good = scene.token();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4), 1..4);
    proptest!(ProptestConfig::with_cases(400), |(edits in edits)| {
        let mut bytes = good.clone().into_bytes();
        for (at, byte, edit) in edits {
            let at = at.index(bytes.len());
            match edit {
                0 => bytes[at] = byte,
                1 => _ = bytes.remove(at),
                2 => bytes.insert(at, byte),
                // Enough is left for the other edits to have a place.
                _ => bytes.truncate(at.max(4)),
            }
        }
        prop_assume!(bytes != good.as_bytes() && !bytes.is_empty());
        let tokens = RawTokens::from([("keyferry".to_owned(), Arc::new(SecretBytes::new(bytes)))]);
        let error = runtime.block_on(scene.verifier.attest(&pod(), &tokens)).unwrap_err().to_string();
        prop_assert!(!good.split('.').any(|part| error.contains(part)), "{}", error);
    });
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in any::<String>()) {
        let _ = token::Jws::parse(&bytes);
        prop_assert!(!keys::KeySet::parse(text.as_bytes()).is_ok_and(|keys| keys.emptiness().is_none()));
    }
}

// === algorithms, against another hand's implementation where there is one ===

fn rsa() -> &'static RsaKeyPair {
    static KEY: OnceLock<RsaKeyPair> = OnceLock::new();
    KEY.get_or_init(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
}

fn rsa_jwk() -> Value {
    let components = signature::RsaPublicKeyComponents::<Vec<u8>>::from(rsa().public_key());
    json!({ "kty": "RSA", "kid": "rsa", "n": BASE64URL_NOPAD.encode(&components.n), "e": BASE64URL_NOPAD.encode(&components.e) })
}

fn rsa_token(alg: &str, encoding: &'static dyn RsaEncoding, claims: &Value) -> String {
    let message = format!("{}.{}", encode(&json!({ "alg": alg, "kid": "rsa" })), encode(claims));
    let mut signature = vec![0; rsa().public_modulus_len()];
    rsa().sign(encoding, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
    format!("{message}.{}", BASE64URL_NOPAD.encode(&signature))
}

#[tokio::test]
async fn every_rsa_algorithm_verifies() {
    let scene = Scene::with(Issuer::new(ISSUER).unwrap(), &json!({ "keys": [rsa_jwk()] }).to_string());
    let algorithms: [(&str, &'static dyn RsaEncoding); 6] = [
        ("RS256", &signature::RSA_PKCS1_SHA256),
        ("RS384", &signature::RSA_PKCS1_SHA384),
        ("RS512", &signature::RSA_PKCS1_SHA512),
        ("PS256", &signature::RSA_PSS_SHA256),
        ("PS384", &signature::RSA_PSS_SHA384),
        ("PS512", &signature::RSA_PSS_SHA512),
    ];
    for (alg, encoding) in algorithms {
        assert!(scene.attest(&rsa_token(alg, encoding, &scene.claims())).await.is_ok(), "{alg}");
        let other = if alg == "RS256" { "RS384" } else { "RS256" };
        assert!(scene.refused(&rsa_token(other, encoding, &scene.claims())).await.starts_with("signature: "), "{alg} as {other}");
    }
}

#[tokio::test]
async fn every_curve_verifies() {
    let coordinates = |point: &[u8]| {
        let (x, y) = point[1..].split_at(point.len() / 2);
        (BASE64URL_NOPAD.encode(x), BASE64URL_NOPAD.encode(y))
    };
    let claims = Scene::new().claims();
    for (alg, crv, signing) in [("ES384", "P-384", &ECDSA_P384_SHA384_FIXED_SIGNING), ("ES512", "P-521", &ECDSA_P521_SHA512_FIXED_SIGNING)]
    {
        let key = EcdsaKeyPair::generate(signing).unwrap();
        let (x, y) = coordinates(key.public_key().as_ref());
        let message = format!("{}.{}", encode(&json!({ "alg": alg })), encode(&claims));
        let signature = key.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        let jwks = json!({ "keys": [{ "kty": "EC", "crv": crv, "x": x, "y": y }] }).to_string();
        let scene = Scene::with(Issuer::new(ISSUER).unwrap(), &jwks);
        assert!(scene.attest(&format!("{message}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))).await.is_ok(), "{alg}");
    }
    let key = Ed25519KeyPair::generate().unwrap();
    let jwks = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": BASE64URL_NOPAD.encode(key.public_key().as_ref()) }] }).to_string();
    let message = format!("{}.{}", encode(&json!({ "alg": "EdDSA" })), encode(&claims));
    let scene = Scene::with(Issuer::new(ISSUER).unwrap(), &jwks);
    assert!(scene.attest(&format!("{message}.{}", BASE64URL_NOPAD.encode(key.sign(message.as_bytes()).as_ref()))).await.is_ok());
}

#[tokio::test]
async fn another_implementation_agrees() {
    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};

    let scene = Scene::new();
    let jwks: JwkSet = serde_json::from_str(&scene.issuer.jwks()).unwrap();
    let mut validation = Validation::new(Algorithm::ES256);
    validation.validate_exp = false;
    validation.set_audience(&["keyferry"]);
    validation.set_issuer(&[ISSUER]);
    let theirs = jsonwebtoken::decode::<Value>(scene.token(), &DecodingKey::from_jwk(&jwks.keys[0]).unwrap(), &validation).unwrap();
    assert_eq!(theirs.claims, scene.claims());

    let key = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let encoding = EncodingKey::from_ec_der(key.to_pkcs8v1().unwrap().as_ref());
    let mut jwk = serde_json::to_value(jsonwebtoken::jwk::Jwk::from_encoding_key(&encoding, Algorithm::ES256).unwrap()).unwrap();
    jwk["kid"] = json!("theirs");
    let token =
        jsonwebtoken::encode(&Header { kid: Some("theirs".into()), ..Header::new(Algorithm::ES256) }, &scene.claims(), &encoding).unwrap();
    scene.write(&json!({ "keys": [jwk] }).to_string());
    assert!(scene.attest(&token).await.is_ok());
}

// === key files ===

fn refused_file(jwks: &str) -> String {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("jwks.json");
    fs::write(&file, jwks).unwrap();
    let error = JwksVerifier::open(&file, ISSUER, "keyferry", Arc::new(ManualClock::at(start()))).unwrap_err();
    without_remedy(&error.replace(&folder.path().display().to_string(), "[folder]"))
}

/// Whatever is wrong with a key file, the remedy is the same.
fn without_remedy(error: &str) -> String {
    error.strip_suffix(" (write the cluster's keys into it: kubectl get --raw /openid/v1/jwks)").unwrap().to_owned()
}

#[test]
fn a_file_without_a_usable_key_is_refused() {
    insta::assert_snapshot!(refused_file(""), @"[folder]/jwks.json: it is not JSON: EOF while parsing a value at line 1 column 0");
    insta::assert_snapshot!(refused_file("AGE-SECRET-KEY-1CANARY"), @"[folder]/jwks.json: it is not JSON: expected value at line 1 column 1");
    insta::assert_snapshot!(refused_file(r#"{"keys": "canary"}"#), @r#"[folder]/jwks.json: it is not a JWKS, a JSON object {"keys": [...]}"#);
    insta::assert_snapshot!(refused_file(r#"{"keys": []}"#), @"[folder]/jwks.json: it holds no key that could be used: its list is empty");
    let weak = BASE64URL_NOPAD.encode(&[0xff; 128]);
    let mut off_curve = Issuer::new(ISSUER).unwrap().jwk();
    (off_curve["kid"], off_curve["x"]) = (json!("off-curve"), json!(BASE64URL_NOPAD.encode(&[7; 32])));
    let mut encryption = rsa_jwk();
    (encryption["kid"], encryption["use"]) = (json!("enc"), json!("enc"));
    let mut odd = rsa_jwk();
    (odd["kid"], odd["alg"]) = (json!("odd"), json!("RSA-OAEP"));
    let unusable = json!({ "keys": [
        { "kty": "oct", "kid": "shared", "k": "c2VjcmV0", "alg": "HS256" },
        { "kty": "RSA", "kid": "weak", "n": weak, "e": "AQAB" },
        { "kty": "EC", "crv": "secp256k1", "kid": "bitcoin", "x": "AA", "y": "AA" },
        { "kty": "EC", "crv": "P-256", "kid": "short", "x": "AA", "y": "AA" },
        off_curve,
        encryption,
        odd,
        { "kty": "RSA", "kid": "half", "e": "AQAB" },
        { "kty": "RSA", "kid": "sign", "key_ops": ["sign"] },
        7,
    ] });
    insta::assert_snapshot!(refused_file(&unusable.to_string()).replace("; ", ";\n"), @r#"
    [folder]/jwks.json: it holds no key that could be used: the key "shared" is of the type "oct", which Keyferry does not know;
    the key "weak" is RSA of 1024 bits, not 2048 to 8192;
    the key "bitcoin" is of the type "EC" on "secp256k1", which Keyferry does not know;
    the key "short" has coordinates of 1 and 1 bytes, not 32;
    the key "off-curve" is not a point on its curve;
    the key "enc" is for the use "enc", not "sig";
    the key "odd" says it is for "RSA-OAEP", which does not fit its type RSA;
    the key "half" has no member "n";
    the key "sign" does not list "verify" in its key_ops;
    keys[9] is not what RFC 7517 calls a key
    "#);
    insta::assert_snapshot!(refused_file("{}"), @"[folder]/jwks.json: it holds no key that could be used: it has no list `keys`");
    insta::assert_snapshot!(refused_file(r#"{"keys": null}"#), @"[folder]/jwks.json: it holds no key that could be used: it has no list `keys`");
    insta::assert_snapshot!(refused_file("[]"), @r#"[folder]/jwks.json: it is not a JWKS, a JSON object {"keys": [...]}"#);
    insta::assert_snapshot!(refused_file("[[]]"), @r#"[folder]/jwks.json: it is not a JWKS, a JSON object {"keys": [...]}"#);
    // Those of other kinds do not count.
    let mixed: Vec<_> = (0..200).map(|_| json!({ "kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA" })).chain([rsa_jwk()]).collect();
    let keys = super::keys::KeySet::parse(json!({ "keys": mixed }).to_string().as_bytes()).unwrap();
    assert_eq!(keys.iter().count(), 1);
    assert!(keys.left_out().unwrap().ends_with(r#"keys[9] is of the type "AKP", which Keyferry does not know; and 190 more"#));
    assert!(refused_file(&" ".repeat(1024 * 1024 + 1)).ends_with("is over 1048576 bytes"));
    let nowhere = JwksVerifier::open(Path::new("/nonexistent/jwks.json"), ISSUER, "keyferry", Arc::new(ManualClock::at(start())));
    insta::assert_snapshot!(without_remedy(&nowhere.unwrap_err()), @"/nonexistent/jwks.json: it cannot be read: No such file or directory (os error 2)");
}

#[test]
fn a_truncated_file_or_one_that_is_none_is_refused() {
    let whole = Issuer::new(ISSUER).unwrap().jwks();
    insta::assert_snapshot!(refused_file(&whole[..50]), @"[folder]/jwks.json: it is not JSON: EOF while parsing a string at line 1 column 50");
    let folder = TempDir::new().unwrap();
    let error = JwksVerifier::open(folder.path(), ISSUER, "keyferry", Arc::new(ManualClock::at(start()))).unwrap_err();
    insta::assert_snapshot!(error.replace(&folder.path().display().to_string(), "[folder]"), @"[folder]: it is not a file (write the cluster's keys into it: kubectl get --raw /openid/v1/jwks)");
}

/// Keys are public: a file that everybody may read is fine. One that we may not read is not, unless we are root.
#[test]
fn a_files_mode_matters_only_where_it_shuts_us_out() {
    use std::os::unix::fs::PermissionsExt;

    let scene = Scene::new();
    let file = scene.folder.path().join("jwks.json");
    let open = |mode| {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        JwksVerifier::open(&file, ISSUER, "keyferry", scene.clock.clone())
    };
    assert!(open(0o666).is_ok());
    if let Err(error) = open(0o000) {
        assert_eq!(without_remedy(&scene.shown(&error)), "[folder]/jwks.json: it cannot be read: Permission denied (os error 13)");
    } else {
        assert!(rustix::process::geteuid().is_root());
    }
}

/// Again and again another file is renamed into its place while tokens are verified: each key is known or not, and nothing is half read.
#[tokio::test]
async fn a_file_swapped_in_the_middle_of_a_read_is_one_or_the_other() {
    let scene = Scene::new();
    let next = Issuer::new(ISSUER).unwrap();
    let file = scene.folder.path().join("jwks.json");
    let texts = [next.jwks(), json!({ "keys": [scene.issuer.jwk(), next.jwk()] }).to_string()];
    let swaps = std::thread::spawn(move || {
        for round in 0..400 {
            let draft = file.with_extension("draft");
            fs::write(&draft, &texts[round % 2]).unwrap();
            fs::rename(&draft, &file).unwrap();
        }
    });
    while !swaps.is_finished() {
        if let Err(error) = scene.attest(&scene.token()).await {
            assert_eq!(error.claim, "key");
        }
        assert_eq!(scene.verifier.health().await, Ok(()));
    }
    swaps.join().unwrap();
    assert!(scene.attest(&scene.token()).await.is_ok(), "the last one holds both");
}

#[tokio::test]
async fn unusable_keys_do_not_spoil_the_others() {
    let issuer = Issuer::new(ISSUER).unwrap();
    let jwks = json!({ "keys": [{ "kty": "AKP", "alg": "ML-DSA-44", "pub": "x" }, 1, rsa_jwk(), issuer.jwk()] });
    let scene = Scene::with(issuer, &jwks.to_string());
    assert!(scene.attest(&scene.token()).await.is_ok());
    let nameless = scene.issuer.sign_with(&json!({ "alg": "ES256" }), &scene.claims()).unwrap();
    assert!(scene.attest(&nameless).await.is_ok(), "without a kid, every fitting key is tried");
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_changes_who_is_believed() {
    let scene = Scene::new();
    let token = scene.token();
    assert!(scene.attest(&token).await.is_ok());
    let next = Issuer::new(ISSUER).unwrap();
    scene.write(&json!({ "keys": [next.jwk()] }).to_string());
    // A new token is verified with the new keys at once; the old one, which was remembered, is forgotten with the old keys.
    let new = next.token(&pod(), "keyferry", TTL, &*scene.clock).unwrap();
    assert!(scene.attest(&new).await.is_ok());
    assert!(scene.refused(&token).await.starts_with("key: "));

    // Back again, and nobody asks for anything new: the change is used at most a second later.
    scene.write(&scene.issuer.jwks());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(scene.refused(&new).await.starts_with("key: "));
    assert!(scene.attest(&token).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_configmaps_symlink_swap_is_a_change() {
    use std::os::unix::fs::symlink;

    let issuer = Issuer::new(ISSUER).unwrap();
    let next = Issuer::new(ISSUER).unwrap();
    let folder = TempDir::new().unwrap();
    for (name, jwks) in [("..one", issuer.jwks()), ("..two", next.jwks())] {
        fs::create_dir(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(name).join("jwks.json"), jwks).unwrap();
    }
    symlink("..one", folder.path().join("..data")).unwrap();
    symlink("..data/jwks.json", folder.path().join("jwks.json")).unwrap();
    let clock = Arc::new(ManualClock::at(start()));
    let verifier = JwksVerifier::open(&folder.path().join("jwks.json"), ISSUER, "keyferry", clock.clone()).unwrap();
    let old = raw(&[("keyferry", &issuer.token(&pod(), "keyferry", TTL, &*clock).unwrap())]);
    let new = raw(&[("keyferry", &next.token(&pod(), "keyferry", TTL, &*clock).unwrap())]);
    assert!(verifier.attest(&pod(), &old).await.is_ok());
    assert!(verifier.attest(&pod(), &new).await.is_err());

    symlink("..two", folder.path().join("..data_tmp")).unwrap();
    fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).unwrap();
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(verifier.attest(&pod(), &old).await.is_err());
    assert!(verifier.attest(&pod(), &new).await.is_ok());
}

/// Each key is read separately, as it is in the file; the refusal of a token that it signed says why it is not used.
#[tokio::test]
async fn a_broken_key_takes_nothing_from_the_others_and_is_named_to_its_tokens() {
    let scene = Scene::new();
    let (ours, other) = (scene.issuer.jwk(), rsa_jwk());
    let named = |kid: &str| {
        let mut jwk = other.clone();
        jwk["kid"] = json!(kid);
        jwk
    };
    let many: Vec<Value> = (0..64).map(|at| named(&format!("k{at}"))).collect();
    let [mut odd, mut of_no_use] = [named("odd"), ours.clone()];
    odd["n"] = json!(7);
    (of_no_use["use"], of_no_use["alg"], of_no_use["far"]) = (json!(""), json!(""), json!(0));
    let of_no_use = of_no_use.to_string().replace(r#""far":0"#, r#""far":1e999"#);
    let lists = [
        format!(r#"{{"kty":"RSA","kid":"\ud800"}},{ours}"#),
        format!(r#"{odd},{{"kid":"lone"}},{{"kty":"oct","kid":"other","n":1e999}},[1,2],{of_no_use}"#),
        std::iter::once(&ours).chain(&many).map(Value::to_string).collect::<Vec<_>>().join(","),
    ];
    let mut told = Vec::new();
    for list in lists {
        scene.write(&format!(r#"{{"keys":[{list}]}}"#));
        scene.attest(&scene.token()).await.unwrap();
        for kid in ["odd", "lone", "other", "k63", "nobody"] {
            told.push(scene.refused(&scene.issuer.sign_with(&json!({ "alg": "ES256", "kid": kid }), &scene.claims()).unwrap()).await);
        }
    }
    told.retain(|told| told.contains("does not use it"));
    insta::assert_snapshot!(told.join("\n"), @r#"
    key: the key "odd" is in [folder]/jwks.json, but Keyferry does not use it: it is not what RFC 7517 calls a key (write the cluster's keys into that file again: kubectl get --raw /openid/v1/jwks; Keyferry then reads it again by itself)
    key: the key "lone" is in [folder]/jwks.json, but Keyferry does not use it: it is not what RFC 7517 calls a key (write the cluster's keys into that file again: kubectl get --raw /openid/v1/jwks; Keyferry then reads it again by itself)
    key: the key "other" is in [folder]/jwks.json, but Keyferry does not use it: it is not what RFC 7517 calls a key (write the cluster's keys into that file again: kubectl get --raw /openid/v1/jwks; Keyferry then reads it again by itself)
    key: the key "k63" is in [folder]/jwks.json, but Keyferry does not use it: it is one too many: Keyferry reads at most 64 (write the cluster's keys into that file again: kubectl get --raw /openid/v1/jwks; Keyferry then reads it again by itself)
    "#);
}

/// Nothing of the former content counts any more: also after a moment.
#[tokio::test(start_paused = true)]
async fn a_file_that_lists_no_key_takes_all_away_at_once() {
    let scene = Scene::new();
    let later = || tokio::time::advance(Duration::from_secs(1));
    let mut told = Vec::new();
    for list in [r#"{"keys":[]}"#, "{}", r#"{"keys":null}"#, r#"{"keys":[{"kty":"oct","kid":"x","k":"canary"}]}"#] {
        scene.attest(&scene.token()).await.unwrap();
        scene.write(list);
        later().await;
        let nameless = scene.issuer.sign_with(&json!({ "alg": "ES256" }), &scene.claims()).unwrap();
        told.push(scene.refused(&scene.token()).await);
        assert_eq!(scene.refused(&nameless).await, told[told.len() - 1]);
        told.push(scene.shown(&scene.verifier.health().await.unwrap_err()));
        scene.write(&scene.issuer.jwks());
        later().await;
        assert_eq!(scene.verifier.health().await, Ok(()));
    }
    insta::assert_snapshot!(told.join("\n"), @r#"
    key: there is no key to verify the token with: [folder]/jwks.json: it holds no key that could be used: its list is empty (write the cluster's keys into that file again: kubectl get --raw /openid/v1/jwks; Keyferry then reads it again by itself)
    [folder]/jwks.json: it holds no key that could be used: its list is empty; no key is in force (write the cluster's keys into it: kubectl get --raw /openid/v1/jwks)
    key: there is no key to verify the token with: [folder]/jwks.json: it holds no key that could be used: it has no list `keys` (write the cluster's keys into that file again: kubectl get --raw /openid/v1/jwks; Keyferry then reads it again by itself)
    [folder]/jwks.json: it holds no key that could be used: it has no list `keys`; no key is in force (write the cluster's keys into it: kubectl get --raw /openid/v1/jwks)
    key: there is no key to verify the token with: [folder]/jwks.json: it holds no key that could be used: it has no list `keys` (write the cluster's keys into that file again: kubectl get --raw /openid/v1/jwks; Keyferry then reads it again by itself)
    [folder]/jwks.json: it holds no key that could be used: it has no list `keys`; no key is in force (write the cluster's keys into it: kubectl get --raw /openid/v1/jwks)
    key: there is no key to verify the token with: [folder]/jwks.json: it holds no key that could be used: the key "x" is of the type "oct", which Keyferry does not know (write the cluster's keys into that file again: kubectl get --raw /openid/v1/jwks; Keyferry then reads it again by itself)
    [folder]/jwks.json: it holds no key that could be used: the key "x" is of the type "oct", which Keyferry does not know; no key is in force (write the cluster's keys into it: kubectl get --raw /openid/v1/jwks)
    "#);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_gone_or_none_has_ten_seconds() {
    let scene = Scene::new();
    let mut told = Vec::new();
    for content in [None, Some(""), Some("{\"keys\":"), Some("[]"), Some("{\"keys\":7}")] {
        scene.attest(&scene.token()).await.unwrap();
        match content {
            None => fs::remove_file(scene.folder.path().join("jwks.json")).unwrap(),
            Some(content) => scene.write(content),
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        scene.attest(&scene.token()).await.unwrap();
        assert!(scene.verifier.health().await.unwrap_err().contains("the last keys stay in force for 10 s"));
        tokio::time::advance(Duration::from_millis(9_999)).await;
        scene.attest(&scene.token()).await.unwrap();
        tokio::time::advance(Duration::from_millis(1)).await;
        told.push(scene.refused(&scene.token()).await);
        told.push(scene.shown(&scene.verifier.health().await.unwrap_err()));
        // The very keys that were there before.
        scene.write(&scene.issuer.jwks());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(scene.verifier.health().await, Ok(()));
    }
    insta::assert_snapshot!(told.join("\n"), @r#"
    key: there is no key to verify the token with: [folder]/jwks.json: it cannot be read: No such file or directory (os error 2) (write the cluster's keys into that file again: kubectl get --raw /openid/v1/jwks; Keyferry then reads it again by itself)
    [folder]/jwks.json: it cannot be read: No such file or directory (os error 2); no key is in force (write the cluster's keys into it: kubectl get --raw /openid/v1/jwks)
    key: there is no key to verify the token with: [folder]/jwks.json: it is not JSON: EOF while parsing a value at line 1 column 0 (write the cluster's keys into that file again: kubectl get --raw /openid/v1/jwks; Keyferry then reads it again by itself)
    [folder]/jwks.json: it is not JSON: EOF while parsing a value at line 1 column 0; no key is in force (write the cluster's keys into it: kubectl get --raw /openid/v1/jwks)
    key: there is no key to verify the token with: [folder]/jwks.json: it is not JSON: EOF while parsing a value at line 1 column 8 (write the cluster's keys into that file again: kubectl get --raw /openid/v1/jwks; Keyferry then reads it again by itself)
    [folder]/jwks.json: it is not JSON: EOF while parsing a value at line 1 column 8; no key is in force (write the cluster's keys into it: kubectl get --raw /openid/v1/jwks)
    key: there is no key to verify the token with: [folder]/jwks.json: it is not a JWKS, a JSON object {"keys": [...]} (write the cluster's keys into that file again: kubectl get --raw /openid/v1/jwks; Keyferry then reads it again by itself)
    [folder]/jwks.json: it is not a JWKS, a JSON object {"keys": [...]}; no key is in force (write the cluster's keys into it: kubectl get --raw /openid/v1/jwks)
    key: there is no key to verify the token with: [folder]/jwks.json: it is not a JWKS, a JSON object {"keys": [...]} (write the cluster's keys into that file again: kubectl get --raw /openid/v1/jwks; Keyferry then reads it again by itself)
    [folder]/jwks.json: it is not a JWKS, a JSON object {"keys": [...]}; no key is in force (write the cluster's keys into it: kubectl get --raw /openid/v1/jwks)
    "#);
}

#[tokio::test(start_paused = true)]
async fn a_file_gone_bad_leaves_the_keys_at_first_and_shows_in_health() {
    let scene = Scene::new();
    assert_eq!(scene.verifier.health().await, Ok(()));
    let health = async || without_remedy(&scene.shown(&scene.verifier.health().await.unwrap_err()));
    let later = || tokio::time::advance(Duration::from_secs(1));

    scene.write("{\"keys\":");
    later().await;
    assert!(scene.attest(&scene.token()).await.is_ok());
    insta::assert_snapshot!(health().await, @"[folder]/jwks.json: it is not JSON: EOF while parsing a value at line 1 column 8; the last keys stay in force for 10 s");
    fs::remove_file(scene.folder.path().join("jwks.json")).unwrap();
    later().await;
    assert!(scene.attest(&scene.token()).await.is_ok());
    insta::assert_snapshot!(health().await, @"[folder]/jwks.json: it cannot be read: No such file or directory (os error 2); the last keys stay in force for 10 s");
    scene.write(&scene.issuer.jwks());
    later().await;
    assert_eq!(scene.verifier.health().await, Ok(()));
}
