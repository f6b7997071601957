//! Against a server that first answers as the API server does, and later does not.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;
use tokio::time::sleep;

use super::*;
use crate::clock::ManualClock;
use crate::identity::keysource::KeySource;
use crate::identity::{Attest, Issuer, JwksVerifier};
use crate::kube::api_server::{Answer, ApiServer};
use crate::kube::{KubeConfig, OwnToken};
use crate::model::{PodClaims, RawTokens, SecretBytes};

const ISSUER: &str = "https://oidc.example";

struct Scene {
    folder: TempDir,
    server: ApiServer,
    issuer: Issuer,
    clock: Arc<ManualClock>,
}

impl Scene {
    /// An API server that answers with the issuer's keys.
    async fn new() -> Self {
        let issuer = Issuer::new(ISSUER).unwrap();
        let (server, folder) = (ApiServer::start(Answer::Text(200, issuer.jwks())).await, tempfile::tempdir().unwrap());
        server.service_account(folder.path(), "own-canary");
        Self { folder, server, issuer, clock: Arc::new(ManualClock::at("2026-01-01T00:00:00Z".parse().unwrap())) }
    }

    /// The same, and a verifier that has fetched them.
    async fn with_keys() -> (Self, JwksVerifier) {
        let scene = Self::new().await;
        let verifier = scene.verifier();
        scene.attest(&verifier, &scene.issuer).await.unwrap();
        scene.called(1).await;
        (scene, verifier)
    }

    fn verifier(&self) -> JwksVerifier {
        let (ca, token) = (self.folder.path().join("ca.crt"), OwnToken::at(self.folder.path().join("token")));
        let kept = KeyState::new(self.folder.path(), &self.server.url("/openid/v1/jwks"), Some(&ca));
        let config = KubeConfig { base: self.server.url(""), ca: Some(ca), token: Some(token) };
        let keys = KeyUrl::start(KubeClient::new(config).unwrap(), "/openid/v1/jwks", kept, self.clock.clone());
        JwksVerifier::with_keys(KeySource::Url(keys), ISSUER, "keyferry", self.clock.clone())
    }

    async fn attest(&self, verifier: &JwksVerifier, issuer: &Issuer) -> Result<(), String> {
        let pod = PodClaims { namespace: "shop".into(), name: "web-1".into(), uid: "uid-1".into(), service_account: "web".into() };
        let token = issuer.token(&pod, "keyferry", Duration::from_hours(10), &*self.clock).unwrap();
        let tokens = RawTokens::from([("keyferry".to_owned(), Arc::new(SecretBytes::new(token.into_bytes())))]);
        verifier.attest(&pod, &tokens).await.map(drop).map_err(|error| self.shown(&error.to_string()))
    }

    fn shown(&self, text: &str) -> String {
        assert!(!text.contains("canary"), "{text}");
        let kid = self.issuer.jwk()["kid"].as_str().unwrap().to_owned();
        text.replace(&self.server.address.to_string(), "[address]")
            .replace(&kid, "[kid]")
            .replace(&self.folder.path().display().to_string(), "[folder]")
    }

    async fn health(&self, verifier: &JwksVerifier) -> Result<(), String> {
        verifier.health().await.map_err(|problem| self.shown(&problem))
    }

    fn kept(&self) -> PathBuf {
        self.folder.path().join("jwks.state")
    }

    /// Waits for so many calls.
    async fn called(&self, count: usize) {
        let mut seen = 0;
        while seen < count {
            sleep(Duration::from_millis(5)).await;
            seen += self.server.calls().len();
        }
        // The answer is on its way.
        sleep(Duration::from_millis(200)).await;
        assert_eq!(self.server.calls().len(), 0, "no more calls than that");
    }
}

/// Afterwards time runs by itself again: a paused clock would jump over the network's answers.
async fn later(by: Duration) {
    tokio::time::pause();
    tokio::time::advance(by).await;
    tokio::time::resume();
}

#[tokio::test]
async fn the_first_mount_waits_for_the_keys_and_the_next_does_not_ask() {
    let scene = Scene::new().await;
    let verifier = scene.verifier();
    insta::assert_snapshot!(scene.health(&verifier).await.unwrap_err(), @"the issuer's keys could not be fetched yet: GET https://[address]/openid/v1/jwks: no answer yet (Keyferry waits for it)");
    for _ in 0..3 {
        scene.attest(&verifier, &scene.issuer).await.unwrap();
    }
    assert_eq!(scene.health(&verifier).await, Ok(()));
    let calls = scene.server.calls();
    assert_eq!(calls.len(), 1);
    assert_eq!((calls[0].path.as_str(), calls[0].authorization.as_deref()), ("/openid/v1/jwks", Some("Bearer own-canary")));
}

#[tokio::test]
async fn a_flood_of_unknown_keys_makes_one_call() {
    let (scene, verifier) = Scene::with_keys().await;
    let next = Issuer::new(ISSUER).unwrap();
    scene.server.answer(Answer::Text(200, next.jwks()));
    let refused = scene.attest(&verifier, &next).await.unwrap_err();
    assert!(refused.starts_with("key: ") && scene.server.calls().is_empty(), "within 10 s of the last call: {refused}");

    later(LEAST).await;
    let stranger = Issuer::new(ISSUER).unwrap();
    let flood = (0..100).map(|_| scene.attest(&verifier, &stranger));
    let answers = futures_util::future::join_all(flood).await;
    assert!(answers.iter().all(Result::is_err));
    scene.called(1).await;
    scene.attest(&verifier, &next).await.unwrap();
    let gone = scene.attest(&verifier, &scene.issuer).await.unwrap_err();
    assert!(
        gone.starts_with("key: the token is signed with the key \"[kid]\", which is not in https://[address]/openid/v1/jwks"),
        "{gone}"
    );
    assert!(gone.ends_with("(the address is asked again at most every 10 s, and kubelet tries again by itself; if this stays, the token is not this issuer's)"), "{gone}");
}

#[tokio::test]
async fn keys_are_fetched_anew_every_hour_or_so() {
    let (scene, verifier) = Scene::with_keys().await;
    let next = Issuer::new(ISSUER).unwrap();
    scene.server.answer(Answer::Text(200, next.jwks()));
    later(REFRESH.mul_f64(0.74)).await;
    scene.called(0).await;
    later(REFRESH.mul_f64(0.52)).await;
    scene.called(1).await;
    assert!(scene.attest(&verifier, &scene.issuer).await.is_err(), "a withdrawn key is forgotten, and so are its tokens");
    scene.attest(&verifier, &next).await.unwrap();
}

/// The issuer itself says that it has no keys: this empty list is in force.
#[tokio::test]
async fn an_answer_without_a_usable_key_takes_all_keys_away() {
    for list in [r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","kid":"weak","k":"x"}]}"#] {
        let (scene, verifier) = Scene::with_keys().await;
        scene.server.answer(Answer::Text(200, list.into()));
        later(Duration::from_hours(2)).await;
        scene.called(1).await;
        let refused = scene.attest(&verifier, &scene.issuer).await.unwrap_err();
        assert!(refused.contains("it holds no key that could be used: "), "{refused}");
        assert!(scene.health(&verifier).await.unwrap_err().contains("no key is in force"));
    }
}

#[tokio::test]
async fn no_failure_takes_the_keys_away() {
    let (scene, verifier) = Scene::with_keys().await;
    scene.clock.advance(7 * 3600);
    let answers = [
        Answer::Status(401),
        Answer::Status(403),
        Answer::Status(500),
        Answer::Text(200, "<html>canary".into()),
        Answer::Text(200, r#"{"kind":"Status"}"#.into()),
        Answer::Text(200, scene.issuer.jwks()[..100].to_owned()),
        Answer::Text(200, " ".repeat(2 << 20)),
    ];
    let mut health = Vec::new();
    for answer in answers {
        scene.server.answer(answer);
        later(Duration::from_hours(2)).await;
        scene.called(1).await;
        scene.attest(&verifier, &scene.issuer).await.unwrap();
        health.push(scene.health(&verifier).await.unwrap_err());
    }
    insta::assert_snapshot!(health.join("\n"), @r#"
    the issuer's keys are 7 h old, and stay in force: GET https://[address]/openid/v1/jwks: it answered 401 Unauthorized (it does not take the daemon's own token, [folder]/token: kubelet renews that in time; if this stays, delete the daemon's Pod)
    the issuer's keys are 7 h old, and stay in force: GET https://[address]/openid/v1/jwks: it answered 403 Forbidden (bind the ClusterRole system:service-account-issuer-discovery to the daemon's ServiceAccount)
    the issuer's keys are 7 h old, and stay in force: GET https://[address]/openid/v1/jwks: it answered 500 Internal Server Error (it is overloaded, starting or stopping)
    the issuer's keys are 7 h old, and stay in force: GET https://[address]/openid/v1/jwks: it answered with something other than keys: it is not JSON: expected value at line 1 column 1 (check that the address is that of a JWKS)
    the issuer's keys are 7 h old, and stay in force: GET https://[address]/openid/v1/jwks: it answered with something other than keys: it is not a JWKS, a JSON object {"keys": [...]} (check that the address is that of a JWKS)
    the issuer's keys are 7 h old, and stay in force: GET https://[address]/openid/v1/jwks: it answered with something other than keys: it is not JSON: EOF while parsing an object at line 1 column 100 (check that the address is that of a JWKS)
    the issuer's keys are 7 h old, and stay in force: GET https://[address]/openid/v1/jwks: the answer is larger than 1048576 bytes (check that the address is the right one)
    "#);
    scene.server.go_down();
    later(Duration::from_hours(2)).await;
    sleep(Duration::from_millis(200)).await;
    scene.attest(&verifier, &scene.issuer).await.unwrap();
    scene.server.answer(Answer::Text(200, scene.issuer.jwks()));
    later(Duration::from_hours(2)).await;
    scene.called(1).await;
    assert_eq!(scene.health(&verifier).await, Ok(()));
}

#[tokio::test]
async fn a_restart_while_the_server_is_down_goes_on_with_the_keys_kept() {
    let scene = Scene::new().await;
    let first = scene.verifier();
    scene.attest(&first, &scene.issuer).await.unwrap();
    drop(first);
    scene.server.go_down();
    let second = scene.verifier();
    scene.attest(&second, &scene.issuer).await.unwrap();
    assert_eq!(scene.health(&second).await, Ok(()));
    scene.clock.advance(6 * 3600 + 1);
    sleep(Duration::from_millis(300)).await;
    let old = scene.health(&second).await.unwrap_err();
    assert!(old.starts_with("the issuer's keys are 6 h old, and stay in force: GET https://[address]/openid/v1/jwks: "), "{old}");
}

#[tokio::test]
async fn without_any_keys_a_mount_says_why() {
    let scene = Scene::new().await;
    for (answer, spoilt) in [(403, None), (401, Some(&b"garbage"[..]))] {
        scene.server.answer(Answer::Status(answer));
        if let Some(spoilt) = spoilt {
            fs::write(scene.kept(), spoilt).unwrap();
        }
        let verifier = scene.verifier();
        let refused = scene.attest(&verifier, &scene.issuer).await.unwrap_err();
        if answer == 403 {
            insta::assert_snapshot!(refused, @"key: the issuer's keys could not be fetched yet: GET https://[address]/openid/v1/jwks: it answered 403 Forbidden (bind the ClusterRole system:service-account-issuer-discovery to the daemon's ServiceAccount; kubelet tries again by itself)");
            insta::assert_snapshot!(scene.health(&verifier).await.unwrap_err(), @"the issuer's keys could not be fetched yet: GET https://[address]/openid/v1/jwks: it answered 403 Forbidden (bind the ClusterRole system:service-account-issuer-discovery to the daemon's ServiceAccount)");
        } else {
            insta::assert_snapshot!(refused, @"key: the issuer's keys could not be fetched yet: GET https://[address]/openid/v1/jwks: it answered 401 Unauthorized (it does not take the daemon's own token, [folder]/token: kubelet renews that in time; if this stays, delete the daemon's Pod; kubelet tries again by itself)");
        }
    }
    // And it heals by itself.
    scene.server.answer(Answer::Status(503));
    let verifier = scene.verifier();
    assert!(scene.attest(&verifier, &scene.issuer).await.is_err());
    scene.server.answer(Answer::Text(200, scene.issuer.jwks()));
    scene.server.calls();
    later(LEAST.mul_f64(1.3)).await;
    scene.called(1).await;
    scene.attest(&verifier, &scene.issuer).await.unwrap();
}

#[tokio::test]
async fn what_is_dropped_fetches_no_more() {
    let (scene, verifier) = Scene::with_keys().await;
    drop(verifier);
    later(Duration::from_hours(2)).await;
    scene.called(0).await;
}

#[tokio::test]
async fn a_state_folder_that_cannot_be_written_is_no_hindrance() {
    let scene = Scene::new().await;
    fs::create_dir(scene.kept()).unwrap();
    let verifier = scene.verifier();
    scene.attest(&verifier, &scene.issuer).await.unwrap();
    assert_eq!(scene.health(&verifier).await, Ok(()));
}

#[test]
fn failures_are_tried_again_ever_later() {
    for (failures, least, most) in [(0, 2700, 4500), (1, 7, 13), (2, 15, 25), (3, 30, 50), (6, 225, 375), (1000, 225, 375)] {
        let wait = wait_after(failures).as_secs();
        assert!((least..=most).contains(&wait), "{failures}: {wait}");
    }
}
