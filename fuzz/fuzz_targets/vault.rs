//! Vault files: whatever stands in the place of one, no secret comes of it, and nothing panics.

#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use keyferry::backend::file::{Vault, generate_identity, FileBackend, FileConfig};
use keyferry::backend::{Backend, FetchContext};
use keyferry::clock::{Clock, SystemClock};
use keyferry::model::{Field, PodClaims, PodIdentity, PodTokens, SecretBytes, SecretRef};
use libfuzzer_sys::fuzz_target;
use tokio::time::{Duration, Instant};

struct Scene {
    backend: FileBackend,
    file: PathBuf,
    good: Vec<u8>,
    runtime: tokio::runtime::Runtime,
}

fn scene() -> &'static Scene {
    static SCENE: OnceLock<Scene> = OnceLock::new();
    SCENE.get_or_init(|| {
        let root = std::env::temp_dir().join(format!("keyferry-fuzz-vault-{}", std::process::id()));
        fs::create_dir_all(&root).expect("a folder");
        let recipient = generate_identity(&root.join("age.key"), SystemClock.now()).expect("a key");
        let vault = Vault::init(root.join("vault"), &[recipient]).expect("a vault").vault;
        let fields = [("password".parse().expect("a name"), Field::of_bytes(SecretBytes::new(b"hunter2".to_vec())))].into();
        vault.set(&"db".parse().expect("a name"), &fields).expect("a secret");
        let file = root.join("vault/db.age");
        let good = fs::read(&file).expect("a file");
        let config = FileConfig { vault: root.join("vault"), identity: vec![root.join("age.key")] };
        let backend = FileBackend::open("files".parse().expect("a name"), &config, 1 << 20, Arc::new(SystemClock)).expect("a backend");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Scene { backend, file, good, runtime }
    })
}

/// Bytes as they are, or the good file with some of its bytes changed and its end cut off.
fuzz_target!(|input: (bool, u16, Vec<u8>)| {
    let scene = scene();
    let (mutate, cut, bytes) = input;
    let content = if mutate {
        let mut content = scene.good.clone();
        for change in bytes.chunks_exact(3) {
            let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % content.len();
            content[at] = change[2];
        }
        content.truncate(content.len().saturating_sub(usize::from(cut) % 64));
        content
    } else {
        bytes
    };
    let is_good = content == scene.good;
    let draft = scene.file.with_extension("draft");
    fs::write(&draft, &content).expect("a draft");
    fs::rename(&draft, &scene.file).expect("in place");
    let claims = PodClaims { namespace: "n".into(), name: "p".into(), uid: "u".into(), service_account: "s".into() };
    let pod = Arc::new(PodIdentity::believed(&claims));
    let cx = FetchContext { pod, tokens: Arc::new(PodTokens::default()), deadline: Instant::now() + Duration::from_secs(5) };
    let secret = SecretRef::read("files".parse().expect("a name"), "db".parse().expect("a name"));
    let fetched = scene.runtime.block_on(scene.backend.fetch(&secret, &cx)).is_ok();
    assert_eq!(fetched, is_good);
});
