//! Tokens: whatever is sent in the place of one, nobody is let in, and nothing panics.

#![no_main]

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use keyferry::clock::SystemClock;
use keyferry::identity::{Attest, Issuer, JwksVerifier};
use keyferry::model::{PodClaims, SecretBytes};
use libfuzzer_sys::fuzz_target;
use tokio::time::Duration;

struct Scene {
    verifier: Arc<dyn Attest>,
    good: String,
    pod: PodClaims,
    runtime: tokio::runtime::Runtime,
}

fn scene() -> &'static Scene {
    static SCENE: OnceLock<Scene> = OnceLock::new();
    SCENE.get_or_init(|| {
        let issuer = Issuer::new("https://oidc.example").expect("a key");
        let file = std::env::temp_dir().join(format!("keyferry-fuzz-{}.json", std::process::id()));
        std::fs::write(&file, issuer.jwks()).expect("a file");
        let pod = PodClaims { namespace: "shop".into(), name: "web".into(), uid: "u".into(), service_account: "web".into() };
        let good = issuer.token(&pod, "keyferry", Duration::from_secs(3600), &SystemClock).expect("a token");
        let verifier = JwksVerifier::open(&file, "https://oidc.example", "keyferry", Arc::new(SystemClock)).expect("a verifier");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Scene { verifier: Arc::new(verifier), good, pod, runtime }
    })
}

/// Bytes as they are, or the good token with some of its bytes changed.
fuzz_target!(|input: (bool, Vec<u8>)| {
    let scene = scene();
    let (mutate, bytes) = input;
    let token = if mutate {
        let mut token = scene.good.clone().into_bytes();
        for change in bytes.chunks_exact(3) {
            let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % token.len();
            token[at] = change[2];
        }
        token
    } else {
        bytes
    };
    let is_good = token == scene.good.as_bytes();
    let tokens = BTreeMap::from([("keyferry".to_owned(), Arc::new(SecretBytes::new(token)))]);
    let let_in = scene.runtime.block_on(scene.verifier.attest(&scene.pod, &tokens)).is_ok();
    assert_eq!(let_in, is_good);
});
