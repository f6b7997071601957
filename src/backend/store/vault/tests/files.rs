//! Files that a class names. They must be below the admin's folder, and only the log says what is wrong with one.

use super::*;
use crate::model::LoginTls;

struct Scene {
    bench: Bench,
    folder: PathBuf,
    backend: Arc<VaultBackend>,
}

impl Scene {
    async fn new() -> Self {
        let bench = Bench::with(Options { tls: true, ..Options::default() }).await;
        let folder = bench.folder.path().join("tls");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("ca.pem"), &bench.bao.authority().ca).unwrap();
        std::fs::write(bench.folder.path().join("outside.pem"), &bench.bao.authority().ca).unwrap();
        let own = bench.file("own.pem", &bench.bao.authority().ca);
        let rest = format!(
            "ca: {}\nauth: {{ method: jwt, role: csi, audience: bao }}\nclassMay: {{ tls: true, tlsDir: {} }}",
            own.display(),
            folder.display()
        );
        let backend = bench.backend(&rest);
        Self { bench, folder, backend }
    }

    fn asked(&self, tls: LoginTls) -> SecretRef {
        secret_as(&self.backend, "kv/data/shop/db", Login { tls: Some(Box::new(tls)), ..Login::default() })
    }

    async fn with_ca(&self, ca: impl Into<PathBuf>) -> Result<Arc<Secret>, BackendError> {
        let asked = self.asked(LoginTls { ca: Some(ca.into()), ..LoginTls::default() });
        fetch(&self.backend, &asked, &self.bench.cx(&web())).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_names_files_below_the_folder() {
    let scene = Scene::new().await;
    let at = |name: &str| scene.folder.join(name);
    // As kubelet mounts a Secret, and a folder of certificates.
    std::fs::create_dir_all(at("..2026/x")).unwrap();
    std::fs::copy(at("ca.pem"), at("..2026/mounted.pem")).unwrap();
    std::os::unix::fs::symlink("..2026", at("..data")).unwrap();
    std::os::unix::fs::symlink("..data/mounted.pem", at("mounted.pem")).unwrap();
    std::fs::create_dir(at("many")).unwrap();
    std::os::unix::fs::symlink("../ca.pem", at("many/ca.crt")).unwrap();
    std::os::unix::fs::symlink("gone", at("many/gone.crt")).unwrap();
    std::fs::create_dir(at("many/folder.crt")).unwrap();
    std::fs::write(at("many/README"), "no certificate").unwrap();
    for ca in ["ca.pem", "./ca.pem", "mounted.pem", "..data/mounted.pem", "many"] {
        scene.with_ca(ca).await.unwrap_or_else(|error| panic!("{ca}: {error}"));
        scene.with_ca(at(ca)).await.unwrap_or_else(|error| panic!("{ca}: {error}"));
    }
    let client = scene.bench.bao.authority().client("pod");
    std::fs::write(at("client.pem"), &client.certificate).unwrap();
    std::fs::write(at("client.key"), &client.key).unwrap();
    let tls = LoginTls { ca: Some("ca.pem".into()), client: Some(("client.pem".into(), "client.key".into())), ..LoginTls::default() };
    fetch(&scene.backend, &scene.asked(tls), &scene.bench.cx(&web())).await.unwrap();
}

/// Whatever is there or not, the words are the same: a class author learns nothing about the node.
#[tokio::test(flavor = "multi_thread")]
async fn all_faults_of_a_classes_file_are_told_alike() {
    let scene = Scene::new().await;
    let at = |name: &str| scene.folder.join(name);
    std::fs::write(at("text.pem"), "no certificate").unwrap();
    std::fs::write(at("empty.pem"), "").unwrap();
    std::fs::write(at("broken.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    std::fs::write(at("large.pem"), vec![b'x'; (1 << 20) + 1]).unwrap();
    std::fs::write(at("denied.pem"), "x").unwrap();
    std::fs::set_permissions(at("denied.pem"), std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    std::fs::create_dir(at("none")).unwrap();
    std::fs::create_dir(at("crowd")).unwrap();
    for n in 0..4097 {
        std::fs::write(at(&format!("crowd/{n}")), "").unwrap();
    }
    std::os::unix::fs::symlink("../outside.pem", at("out.pem")).unwrap();
    std::os::unix::fs::symlink(scene.bench.folder.path().join("outside.pem"), at("far.pem")).unwrap();
    std::os::unix::fs::symlink("loop.pem", at("loop.pem")).unwrap();
    std::os::unix::fs::symlink("/proc/self/fd", at("fds")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe.pem"), rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket.pem")).unwrap();
    let mut told = std::collections::BTreeSet::new();
    let inside = ["gone.pem", "gone/x.pem", "ca.pem/x", "text.pem", "empty.pem", "broken.pem", "large.pem", "denied.pem", "none", "crowd"];
    let links = ["out.pem", "far.pem", "loop.pem", "fds/1", "pipe.pem", "socket.pem", "../outside.pem", "x/../ca.pem", ".."];
    let outside =
        ["/dev/zero", "/dev/null", "/proc/self/fd/1", "/proc/self/environ", "/etc/passwd", "/no/such", "/", "/dev/stdin", "/dev/tty"];
    let beside = scene.bench.folder.path().join("outside.pem").display().to_string();
    for ca in inside.into_iter().chain(links).chain(outside).chain([beside.as_str()]) {
        let began = Instant::now();
        let error = scene.with_ca(ca).await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(3), "{ca}");
        assert_eq!(error.fault, Fault::Invalid, "{ca}: {error}");
        assert!(error.in_full().to_string().contains(ca), "the log has the path: {}", error.in_full());
        told.insert(error.to_string());
    }
    for client in [("gone.pem", "ca.pem"), ("ca.pem", "gone.key"), ("ca.pem", "ca.pem"), ("/dev/zero", "/dev/zero")] {
        let tls = LoginTls { client: Some((client.0.into(), client.1.into())), ..LoginTls::default() };
        told.insert(fetch(&scene.backend, &scene.asked(tls), &scene.bench.cx(&web())).await.unwrap_err().to_string());
    }
    let told: Vec<_> = told.into_iter().collect();
    insta::assert_snapshot!(told.join("\n"), @"bao/kv/data/shop/db: a TLS file that the class names cannot be used (each must be a PEM file of at most 1 MiB below the folder that the backend's classMay.tlsDir names; the daemon's log has the reason)");
}

/// The bundle in the admin's folder counts once per server that a class makes up.
#[tokio::test(flavor = "multi_thread")]
async fn clients_for_classes_weigh_what_their_files_do() {
    let scene = Scene::new().await;
    let ca = scene.bench.bao.authority().ca.repeat(200);
    std::fs::write(scene.folder.join("bundle.pem"), &ca).unwrap();
    for n in 0..20 {
        let tls = LoginTls { ca: Some("bundle.pem".into()), server_name: Some(format!("name-{n}")), ..LoginTls::default() };
        fetch(&scene.backend, &scene.asked(tls), &scene.bench.cx(&web())).await.unwrap_err();
        let weight = scene.backend.clients.weight();
        assert!((2 * ca.len()..=LIMITS.clients).contains(&weight), "{n}: {weight}");
    }
    std::fs::write(scene.folder.join("bundle.pem"), scene.bench.bao.authority().ca.repeat(1000)).unwrap();
    scene.with_ca("bundle.pem").await.expect("a client larger than the limit for all is still used");
    assert_eq!(scene.backend.clients.weight(), LIMITS.clients, "and alone there");
}

#[tokio::test]
async fn a_class_that_leads_to_many_servers_pushes_out_its_own() {
    let bench = Bench::start().await;
    let backend = bench.backend("auth: { method: jwt, role: csi, audience: bao }\nclassMay: { tls: true, address: [\"**\"] }");
    bench.read(&backend, "kv/data/shop/db").await.unwrap();
    for n in 0..100 {
        let tls = LoginTls { server_name: Some(format!("name-{n}")), ..LoginTls::default() };
        let login = Login { tls: Some(Box::new(tls)), ..Login::default() };
        let evil = bench.cx(&pod("evil", "x", "y"));
        let _ = fetch(&backend, &secret_as(&backend, "kv/data/shop/db", login), &evil).await;
    }
    let own = wire::Server { endpoint: backend.config.address.clone(), tls: LoginTls::default(), below: None, named_by: None };
    assert!(backend.clients.knows(&own), "the backend's own is still connected");
    assert!(backend.clients.weight() <= LIMITS.clients, "{}", backend.clients.weight());
}
