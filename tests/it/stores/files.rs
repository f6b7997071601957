//! Files that a class or the configuration names. Whatever is behind the name, the daemon lives, serves others, and shows nothing of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use rustix::fs::{CWD, Mode, mkfifoat};
use tokio::time::{Duration, Instant, timeout};
use tonic::Code;

use super::*;
use crate::support::{eventually, pod, web};

const OBJECTS: &str = "- { objectName: pw, secretPath: kv/data/shop/db, secretKey: password }";

/// A store over TLS whose classes may name files below this folder of the house.
async fn store(may: &str) -> (Store, PathBuf) {
    let store = Store::with(Options { tls: true, ..Options::default() }).await;
    let folder = store.house.path("tls");
    fs::create_dir(&folder).unwrap();
    fs::copy(store.bao.ca_file(), folder.join("ca.pem")).unwrap();
    let may = may.replace("DIR", &folder.display().to_string());
    store.configure(&store.bao.url(), &format!(", classMay: {{ role: [\"*\"], address: [\"https://localhost:*\"], {may} }}"), "");
    (store, folder)
}

impl Store {
    /// A peer's class with these keys in addition to its role. At the backend's own address it would get the backend's TLS settings.
    fn class(&self, pod: &PodClaims, more: &[(&str, &str)]) -> MountRequest {
        let mut class = json!({ "dialect": "vault", "roleName": "csi", "audience": "bao", "objects": OBJECTS });
        if !more.is_empty() {
            class["vaultAddress"] = json!(self.bao.url().replace("127.0.0.1", "localhost"));
        }
        for (key, value) in more {
            class[*key] = json!(value);
        }
        self.asking_with(pod, &class)
    }
}

#[tokio::test]
async fn without_a_folder_a_class_names_no_file() {
    let (store, folder) = store("tls: true").await;
    let provider = store.house.serve();
    let inside = folder.join("ca.pem").display().to_string();
    let mut told = BTreeSet::new();
    for path in ["/dev/zero", "/proc/self/fd/1", "/no/such", inside.as_str()] {
        let status = provider.mount(store.class(&web(), &[("vaultCACertPath", path)])).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        told.insert(status.message().replace(path, "PATH"));
    }
    let key = store.class(&web(), &[("vaultTLSClientCertPath", "/x"), ("vaultTLSClientKeyPath", "/dev/zero")]);
    told.insert(provider.mount(key).await.unwrap_err().message().to_owned());
    insta::assert_snapshot!(told.into_iter().collect::<Vec<_>>().join("\n"), @r#"
    PolicyDenied: object 1 (pw): bao/kv/data/shop/db: the class sets vaultCACertPath to "PATH", and backends.bao.classMay.tlsDir does not grant that to ServiceAccount shop/web (leave vaultCACertPath out; or the cluster's admin can add it there)
    PolicyDenied: object 1 (pw): bao/kv/data/shop/db: the class sets vaultTLSClientCertPath to "/x", and backends.bao.classMay.tlsDir does not grant that to ServiceAccount shop/web (leave vaultTLSClientCertPath out; or the cluster's admin can add it there)
    "#);
    // A class may set what is not a file: here a name that the server does not have.
    let named = provider.mount(store.class(&web(), &[("vaultTLSServerName", "elsewhere.example")])).await.unwrap_err();
    assert!(named.message().starts_with("BackendUnavailable"), "{}", named.message());
    assert_eq!(only_file(&provider.mount(store.class(&web(), &[])).await.unwrap()), "correct horse");
}

#[tokio::test]
async fn whatever_a_class_names_the_daemon_lives_and_tells_nothing() {
    let (store, folder) = store("tls: true, tlsDir: DIR").await;
    let at = |name: &str| folder.join(name);
    fs::write(at("text"), "no certificate").unwrap();
    fs::write(at("large"), vec![b'-'; 64 << 20]).unwrap();
    fs::create_dir(at("folder")).unwrap();
    fs::copy(store.bao.ca_file(), store.house.path("outside.pem")).unwrap();
    std::os::unix::fs::symlink("../outside.pem", at("out")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", at("zero")).unwrap();
    std::os::unix::fs::symlink("/proc/self/fd/1", at("stdout")).unwrap();
    mkfifoat(CWD, at("pipe"), Mode::RUSR | Mode::WUSR).unwrap();
    let provider = store.house.serve();
    let before = provider.status("VmHWM");
    let outside = store.house.path("outside.pem").display().to_string();
    let mut told = BTreeSet::new();
    let names = ["gone", "text", "large", "folder", "out", "zero", "stdout", "pipe", "../outside.pem", "ca.pem/.."];
    let paths = ["/dev/zero", "/dev/random", "/dev/stdout", "/proc/self/fd/1", "/proc/self/mem", "/etc/passwd", "/no/such", &outside];
    for path in names.into_iter().chain(paths) {
        for key in ["vaultCACertPath", "vaultCADirectory"] {
            let answer = timeout(Duration::from_secs(10), provider.mount(store.class(&web(), &[(key, path)]))).await.unwrap();
            let status = answer.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{key}: {path}: {}", status.message());
            told.insert(status.message().to_owned());
            eventually("the log has the path", async || provider.log().contains(path)).await;
        }
    }
    insta::assert_snapshot!(told.into_iter().collect::<Vec<_>>().join("\n"), @"InvalidRequest: object 1 (pw): bao/kv/data/shop/db: a TLS file that the class names cannot be used (each must be a PEM file of at most 1 MiB below the folder that the backend's classMay.tlsDir names; the daemon's log has the reason)");
    let grown = provider.status("VmHWM").saturating_sub(before);
    assert!(grown < 24 * 1024, "{grown} kB more");
    for path in ["ca.pem", &at("ca.pem").display().to_string()] {
        assert_eq!(only_file(&provider.mount(store.class(&web(), &[("vaultCACertPath", path)])).await.unwrap()), "correct horse");
    }
}

#[tokio::test]
async fn a_file_system_that_hangs_costs_the_class_that_leads_there() {
    let (store, folder) = store("tls: true, tlsDir: DIR").await;
    let provider = store.house.serve_hanging_at(&folder.join("slow"));
    let began = Instant::now();
    let mut evil = tokio::task::JoinSet::new();
    for n in 0..20 {
        let request = store.class(&pod("shop", &format!("evil-{n}"), "web"), &[("vaultCACertPath", &format!("slow/{n}/ca.pem"))]);
        let mut client = provider.client().await;
        evil.spawn(async move { client.mount(request).await.unwrap_err() });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let threads = provider.status("Threads");
    // Another class's mount goes on, also with a file in the same folder. A hundred files that hang leave no thread behind.
    for _ in 0..3 {
        let mount = provider.mount(store.class(&web(), &[]));
        assert_eq!(only_file(&timeout(Duration::from_secs(3), mount).await.unwrap().unwrap()), "correct horse");
    }
    let mut told = BTreeSet::new();
    while let Some(status) = evil.join_next().await {
        told.insert(status.unwrap().message().to_owned());
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    insta::assert_snapshot!(told.into_iter().collect::<Vec<_>>().join("\n"), @"BackendUnavailable: object 1 (pw): bao/kv/data/shop/db: a TLS file that the class names cannot be used (each must be a PEM file of at most 1 MiB below the folder that the backend's classMay.tlsDir names; the daemon's log has the reason)");
    let later = provider.status("Threads");
    assert!(later <= threads + 2, "{threads} threads, then {later}");
}

/// The configuration's own files as well: a token in the folder that hangs, and pipes and devices in their place.
#[tokio::test]
async fn a_credential_that_hangs_or_is_no_file_fails_its_own_mounts() {
    let store = Store::new().await;
    let slow = store.house.path("slow");
    let mount = |house: &House| house.path("slow/token").display().to_string();
    let text = fs::read_to_string(store.house.path("keyferry.yaml")).unwrap();
    let other = format!(
        "backends:\n  hung: {{ kind: http, url: \"{}/v1/{{name}}\", headers: {{ X-Vault-Token: {{ file: {} }} }} }}\n  zero: {{ kind: http, url: \
         \"{}/v1/{{name}}\", headers: {{ X-Vault-Token: {{ file: /dev/zero }} }} }}\n",
        store.bao.url(),
        mount(&store.house),
        store.bao.url()
    );
    let text = text.replace("backends:\n", &other).replace("read: [", "read: [\"hung/**\", \"zero/**\", ");
    fs::write(store.house.path("keyferry.yaml"), text).unwrap();
    let provider = store.house.serve_hanging_at(&slow);
    let asked = |backend: &str| {
        let objects = format!("- {{ backend: {backend}, secret: kv/data/shop/db, field: data, path: x }}");
        store.asking(&web(), &objects)
    };
    let zero = provider.mount(asked("zero")).await.unwrap_err();
    insta::assert_snapshot!(zero.message(), @"BackendLoginFailed: object 1 (x): zero/kv/data/shop/db: /dev/zero: is not a regular file (the daemon logs in to the store with what is in this file)");
    let mut hung = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (mut client, request) = (provider.client().await, asked("hung"));
        hung.spawn(async move { client.mount(request).await.unwrap_err() });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let good = provider.mount(store.asking(&web(), "- { backend: bao, secret: kv/data/shop/db, field: password, path: x }"));
    assert_eq!(only_file(&timeout(Duration::from_secs(3), good).await.unwrap().unwrap()), "correct horse");
    let mut told = BTreeSet::new();
    while let Some(status) = timeout(Duration::from_secs(20), hung.join_next()).await.unwrap() {
        told.insert(status.unwrap().message().replace(&store.house.folder.path().display().to_string(), "HOUSE"));
    }
    insta::assert_snapshot!(told.into_iter().collect::<Vec<_>>().join("\n"), @"BackendUnavailable: object 1 (x): hung/kv/data/shop/db: HOUSE/slow/token: cannot be read: its file system did not answer within 5 s (is a network volume down?) (the daemon logs in to the store with what is in this file)");
}
