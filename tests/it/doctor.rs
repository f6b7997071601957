//! `keyferry doctor` on nodes that are well, and on nodes where one thing is broken.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use keyferry::server::proto::csi::identity_server::{Identity, IdentityServer};
use keyferry::server::proto::csi::{GetPluginInfoRequest, GetPluginInfoResponse};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use crate::api_server::{Answer, ApiServer};
use crate::bao::{Bao, Life, Options};
use crate::identity::in_a_pod;
use crate::moto::Moto;
use crate::support::{House, eventually, on_a_bare_node, run, tool, web};

/// A driver's side of kubelet's folders: it says who it is, and is registered. It is gone when dropped.
struct Driver(JoinHandle<()>);

impl Driver {
    fn start(kubelet: &Path) -> Self {
        struct Own;
        #[tonic::async_trait]
        impl Identity for Own {
            async fn get_plugin_info(&self, _: Request<GetPluginInfoRequest>) -> Result<Response<GetPluginInfoResponse>, Status> {
                let (name, vendor_version) = ("secrets-store.csi.k8s.io".to_owned(), "v1.6.0".to_owned());
                Ok(Response::new(GetPluginInfoResponse { name, vendor_version }))
            }
        }
        for folder in ["pods/uid-shop-web-0", "plugins/csi-secrets-store", "plugins_registry"] {
            fs::create_dir_all(kubelet.join(folder)).unwrap();
        }
        fs::write(kubelet.join("plugins_registry/secrets-store.csi.k8s.io-reg.sock"), "").unwrap();
        let listener = UnixListener::bind(kubelet.join("plugins/csi-secrets-store/csi.sock")).unwrap();
        let server = tonic::transport::Server::builder().add_service(IdentityServer::new(Own));
        Self(tokio::spawn(async move { server.serve_with_incoming(UnixListenerStream::new(listener)).await.unwrap() }))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A house whose node has a driver.
fn house() -> (House, Driver) {
    let house = House::new("");
    with(&house, &format!("kubeletDir: {}/kubelet\n", house.folder.path().display()));
    for file in ["age.key", "jwks.json"] {
        fs::set_permissions(house.path(file), fs::Permissions::from_mode(0o400)).unwrap();
    }
    let driver = Driver::start(&house.path("kubelet"));
    (house, driver)
}

/// Adds keys to the configuration.
fn with(house: &House, keys: &str) {
    let config = fs::read_to_string(house.path("keyferry.yaml")).unwrap();
    fs::write(house.path("keyferry.yaml"), format!("{keys}{config}")).unwrap();
}

/// Its exit code, and what it prints on both channels, without what differs from run to run.
async fn doctor(house: &House, arguments: &[&str]) -> (i32, String) {
    let mut command = on_a_bare_node("");
    command.arg("doctor").arg("--config").arg(house.path("keyferry.yaml")).args(arguments);
    command.current_dir(house.folder.path());
    let (code, out, errors) = tokio::task::spawn_blocking(move || run(&mut command, "")).await.unwrap();
    let text = (out + &errors).replace(house.folder.path().to_str().unwrap(), "ROOT");
    let owner = format!("owner {}", rustix::process::geteuid().as_raw());
    let lines = text.lines().filter(|line| !line.contains(": memory: ")).map(|line| {
        let line = line.replace(&owner, "owner UID");
        let words = line.split(' ').collect::<Vec<_>>();
        let steady = |at: usize, word: &&str| match () {
            () if at > 0 && words[at - 1] == "process" => "PID:".to_owned(),
            () if words.get(at + 1) == Some(&"MiB") || words.get(at + 1) == Some(&"bytes") => "N".to_owned(),
            () => (*word).to_owned(),
        };
        words.iter().enumerate().map(|(at, word)| steady(at, word)).collect::<Vec<_>>().join(" ") + "\n"
    });
    (code, lines.collect())
}

/// The lines that are not ok.
async fn troubles(house: &House, arguments: &[&str]) -> (i32, String) {
    let (code, text) = doctor(house, arguments).await;
    let usual = ["token audiences: not known", "a driver looks for providers in", "this node has a key of its own"];
    let told = |line: &&str| !line.starts_with("ok ") && !usual.iter().any(|usual| line.contains(usual)) && !line.contains(" ok, ");
    (code, text.lines().filter(told).map(|line| format!("{line}\n")).collect())
}

/// Every file of the house, with all that would be different after a change.
fn everything(folder: &Path) -> BTreeMap<PathBuf, (u32, u64, i64, i64)> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let it = fs::symlink_metadata(&path).unwrap();
            if it.is_dir() {
                folders.push(path.clone());
            }
            found.insert(path, (it.mode(), it.ino(), it.mtime(), it.mtime_nsec()));
        }
    }
    found
}

#[tokio::test]
async fn a_node_that_is_well() {
    let (house, _driver) = house();
    with(&house, "versionKey: /dev/null\n");
    fs::write(house.path("version.key"), [7; 32]).unwrap();
    fs::set_permissions(house.path("version.key"), fs::Permissions::from_mode(0o400)).unwrap();
    house.reconfigure("versionKey: /dev/null", &format!("versionKey: {}/version.key", house.folder.path().display()));
    fs::create_dir(house.path("state")).unwrap();
    fs::set_permissions(house.path("state"), fs::Permissions::from_mode(0o700)).unwrap();
    let _provider = house.serve();
    fs::write(house.path("web.jwt"), house.token(&web(), "keyferry")).unwrap();
    let (code, text) = doctor(&house, &["--token", "keyferry=web.jwt"]).await;
    assert_eq!(code, 0, "{text}");
    let ends = text.split("ends at ").nth(1).unwrap().split('\n').next().unwrap().to_owned();
    insta::assert_snapshot!(text.replace(&ends, "TIME"), @r#"
    ok   configuration: ROOT/keyferry.yaml: has no faults
    ok   file versionKey: ROOT/version.key: mode 0400, N bytes
    ok   file identity.jwks.file: ROOT/jwks.json: mode 0400, N bytes
    ok   file backends.files.identity: ROOT/age.key: mode 0400, N bytes
    ok   socket folder ROOT/sockets: mode 0755, owner UID
    warn socket folder ROOT/sockets: a driver looks for providers in /etc/kubernetes/secrets-store-csi-providers, then in /var/run/secrets-store-csi-providers, and here only if its flag says so (check that --provider-volume of the driver leads to this folder, or leave socketDir out)
    ok   socket ROOT/sockets/keyferry.sock: keyferry 0.1.0 answers
    ok   kubelet's folder ROOT/kubelet: is there (entries in pods/: 1)
    ok   driver: secrets-store.csi.k8s.io v1.6.0 answers, and is registered with kubelet
    ok   driver: rotation poll interval: rotation is off, so the driver skips no mount
    ok   Pods without their volume: none (volumes of the driver on this node: 0)
    warn token audiences: not known: only a Pod can ask the API server. Needed in tokenRequests of secrets-store.csi.k8s.io: keyferry (identity) (check that the object has them, or let the daemon read it (`get` on csidrivers); if the object has no other audiences, run: kubectl patch csidriver secrets-store.csi.k8s.io --type=merge --patch='{"spec":{"tokenRequests":[{"audience":"keyferry"}]}}')
    ok   identity: issuer: https://oidc.example
    ok   identity: keys: ROOT/jwks.json: 1 key
    ok   token keyferry: web.jwt: of Pod shop/web-0 and ServiceAccount web, for keyferry, issued by https://oidc.example, ends at TIME
    ok   token keyferry: verified: a mount would accept it, and would give the stores no other token
    ok   backend files: the vault ROOT/vault is there, and its identities are read
    ok   state folder ROOT/state: mode 0700, writable, N MiB free
    ok   process PID: core dumps: are off
    18 ok, 2 warnings, 0 failing
    "#);
    assert!(!text.contains(&house.token(&web(), "keyferry")[..40]));
}

/// A driver in a process of its own. Its command line says what happens to a Pod that Keyferry could not serve at first.
#[tokio::test]
async fn the_drivers_own_command_line_is_read() {
    let house = House::new("");
    with(&house, &format!("kubeletDir: {}/kubelet\n", house.folder.path().display()));
    drop(Driver::start(&house.path("kubelet")));
    let socket = house.path("kubelet/plugins/csi-secrets-store/csi.sock");
    let line = async |version: &str, flags: &[&str]| {
        fs::remove_file(&socket).unwrap();
        let mut command = tool("python");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/plugin.py")).arg(&socket).arg(version).args(flags);
        let mut driver = tokio::process::Command::from(command).kill_on_drop(true).spawn().unwrap();
        eventually("the driver listens", async || socket.exists()).await;
        let (_, text) = doctor(&house, &[]).await;
        driver.kill().await.unwrap();
        text.lines().find(|line| line.contains(" poll interval")).unwrap_or(&text).to_owned()
    };
    let warned = line("v1.6.0", &["--enable-secret-rotation=true", "--rotation-poll-interval=1h"]).await;
    insta::assert_snapshot!(warned, @"warn driver: rotation poll interval: is 1h: if a Pod's first mount gets no answer, the driver may skip the next try, and the Pod starts with an empty folder (set rotationPollInterval: 0s in the values of the driver's chart (--rotation-poll-interval=0s); docs/errors.md says why)");
    let fine = line("v1.6.0", &["--enable-secret-rotation=true", "--rotation-poll-interval=0s"]).await;
    insta::assert_snapshot!(fine, @"ok   driver: rotation poll interval: is 0s, so the driver skips no mount");
    let old = line("v1.5.6", &["--enable-secret-rotation=true", "--rotation-poll-interval=2m"]).await;
    insta::assert_snapshot!(old, @"ok   driver: rotation poll interval: is 2m: drivers before 1.6.0 use it only for a loop, and skip no mount");
}

#[tokio::test]
async fn nothing_is_changed() {
    let (house, _driver) = house();
    let before = everything(house.folder.path());
    let (code, text) = troubles(&house, &[]).await;
    assert_eq!(everything(house.folder.path()), before);
    assert_eq!(code, 1);
    insta::assert_snapshot!(text, @"
    fail socket folder ROOT/sockets: is not there (keyferry serve makes it: does it run?)
    fail socket ROOT/sockets/keyferry.sock: is not there: no provider runs under this name (start keyferry serve; its log says why it ended)
    warn state folder ROOT/state: is not there (keyferry serve makes it when it needs it: does it run?)
    ");
}

#[tokio::test]
async fn each_broken_thing_is_told() {
    let (house, driver) = house();
    let provider = house.serve();
    let mode = |file: &str, mode| fs::set_permissions(house.path(file), fs::Permissions::from_mode(mode)).unwrap();
    assert_eq!(troubles(&house, &[]).await.0, 0);

    mode("age.key", 0o444);
    let open = troubles(&house, &[]).await;
    mode("age.key", 0o400);
    fs::rename(house.path("vault"), house.path("elsewhere")).unwrap();
    let no_vault = troubles(&house, &[]).await;
    fs::rename(house.path("elsewhere"), house.path("vault")).unwrap();
    fs::rename(house.path("jwks.json"), house.path("elsewhere")).unwrap();
    let no_keys = troubles(&house, &[]).await;
    fs::rename(house.path("elsewhere"), house.path("jwks.json")).unwrap();
    fs::write(house.path("age.key.new"), "").unwrap();
    fs::rename(house.path("age.key.new"), house.path("age.key")).unwrap();
    let empty = troubles(&house, &[]).await;
    drop(driver);
    fs::remove_dir_all(house.path("kubelet/plugins_registry")).unwrap();
    fs::remove_dir_all(house.path("kubelet/plugins")).unwrap();
    mode("state", 0o755);
    let no_driver = troubles(&house, &[]).await;
    drop(provider);
    let stopped = troubles(&house, &[]).await;
    let shown = |(code, text): (i32, String)| format!("{text}exit {code}");
    insta::assert_snapshot!(shown(open), @"
    warn file backends.files.identity: ROOT/age.key: mode 0444: any user of the node can read it (chmod 0400 ROOT/age.key; in a volume of a Secret: defaultMode: 0400)
    exit 0
    ");
    insta::assert_snapshot!(shown(no_vault), @"
    fail backend files: the vault's folder ROOT/vault is not there (is its volume mounted, and synced?)
    exit 1
    ");
    insta::assert_snapshot!(shown(no_keys), @"
    fail file identity.jwks.file: ROOT/jwks.json: No such file or directory (os error 2) (is its volume mounted, and may this user read it?)
    fail identity: keys: ROOT/jwks.json: it cannot be read: No such file or directory (os error 2) (write the cluster's keys into it: kubectl get --raw /openid/v1/jwks)
    exit 1
    ");
    insta::assert_snapshot!(shown(empty), @"
    fail file backends.files.identity: ROOT/age.key: is empty (write its content)
    fail backend files: the identity file ROOT/age.key holds no identity (`keyferry vault init` makes one)
    exit 1
    ");
    insta::assert_snapshot!(shown(no_driver), @"
    fail file backends.files.identity: ROOT/age.key: is empty (write its content)
    fail driver: is not on this node: neither ROOT/kubelet/plugins/csi-secrets-store/csi.sock nor secrets-store.csi.k8s.io-reg.sock in ROOT/kubelet/plugins_registry (install the Secrets Store CSI driver; if it is installed, kubeletDir must be kubelet's own folder)
    fail backend files: the identity file ROOT/age.key holds no identity (`keyferry vault init` makes one)
    warn state folder ROOT/state: mode 0755: other users than its owner can look into it (chmod 0700 ROOT/state)
    exit 1
    ");
    insta::assert_snapshot!(shown(stopped), @"
    fail file backends.files.identity: ROOT/age.key: is empty (write its content)
    fail socket ROOT/sockets/keyferry.sock: nobody answers: Connection refused (os error 111) (start keyferry serve; its log says why it ended)
    fail driver: is not on this node: neither ROOT/kubelet/plugins/csi-secrets-store/csi.sock nor secrets-store.csi.k8s.io-reg.sock in ROOT/kubelet/plugins_registry (install the Secrets Store CSI driver; if it is installed, kubeletDir must be kubelet's own folder)
    fail backend files: the identity file ROOT/age.key holds no identity (`keyferry vault init` makes one)
    warn state folder ROOT/state: mode 0755: other users than its owner can look into it (chmod 0700 ROOT/state)
    exit 1
    ");
}

#[tokio::test]
async fn tokens_are_looked_at_and_never_shown() {
    let (house, _driver) = house();
    let _provider = house.serve();
    let strange = keyferry::identity::Issuer::new("https://oidc.example").unwrap();
    let brief = |ttl| house.issuer.token(&web(), "keyferry", std::time::Duration::from_secs(ttl), &keyferry::clock::SystemClock).unwrap();
    let hour = std::time::Duration::from_hours(1);
    let forged = strange.token(&web(), "keyferry", hour, &keyferry::clock::SystemClock).unwrap();
    for (name, token) in [("other", house.token(&web(), "other")), ("forged", forged), ("ended", brief(0)), ("garbage", "abc.def".into())] {
        fs::write(house.path(name), token).unwrap();
    }
    let mut all = String::new();
    for name in ["other", "forged", "ended", "garbage"] {
        let (code, text) = troubles(&house, &["--token", &format!("keyferry={name}")]).await;
        assert_eq!(code, 1, "{text}");
        let secret = fs::read_to_string(house.path(name)).unwrap();
        assert!(!text.contains(&secret), "{text}");
        let steady = |word: &str| match () {
            () if word.starts_with("20") && word.contains('T') => "TIME".to_owned(),
            () if word.starts_with('"') && word.len() > 43 => "KEY".to_owned(),
            () => word.to_owned(),
        };
        all += &text.split(' ').map(steady).collect::<Vec<_>>().join(" ");
    }
    insta::assert_snapshot!(all, @"
    fail token keyferry: other: is for other (make one with --audience keyferry)
    fail token keyferry: verified: key: the token is signed with the key KEY which is not in ROOT/jwks.json; there is key KEY (P-256) (write the cluster's keys into that file again: kubectl get --raw /openid/v1/jwks; Keyferry then reads it again by itself)
    fail token keyferry: ended: expired at TIME (make a new one)
    fail token keyferry: garbage: it cannot be read: it is not three parts joined by dots (make one as `keyferry doctor --help` shows)
    ");
    let (code, text) = doctor(&house, &["--token", "keyferry=absent"]).await;
    assert_eq!((code, text.as_str()), (2, "error: cannot read absent: No such file or directory (os error 2)\n"));
}

#[tokio::test]
async fn a_faulty_configuration_is_told_as_serve_tells_it() {
    let (house, _driver) = house();
    with(&house, "socketDri: /x\n");
    let (code, text) = doctor(&house, &[]).await;
    let (served, _, errors) = run(&mut house.serve_command(), "");
    assert_eq!((code, text), (served, errors.replace(house.folder.path().to_str().unwrap(), "ROOT")));
    assert_eq!(code, 2);
}

#[tokio::test]
async fn a_script_reads_json() {
    let (house, _driver) = house();
    let (code, text) = doctor(&house, &["--output", "json"]).await;
    let json = text.lines().take_while(|line| !line.contains(" ok, ")).collect::<String>();
    let found: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(code, 1);
    let all = found["diagnoses"].as_array().unwrap();
    let counted = |level: &str| all.iter().filter(|one| one["level"] == level).count();
    assert_eq!(found["ok"], json!(counted("ok")));
    assert_eq!((&found["warnings"], &found["failing"]), (&json!(counted("warn")), &json!(counted("fail"))));
    let socket = all.iter().find(|one| one["what"] == "socket ROOT/sockets/keyferry.sock").unwrap();
    assert_eq!(socket["remedy"], "start keyferry serve; its log says why it ended");
    assert_eq!(all[0], json!({ "level": "ok", "what": "configuration", "why": "ROOT/keyferry.yaml: has no faults", "remedy": null }));
}

// === A store over a network ===

/// The lines of the backend `bao` alone.
async fn of_bao(house: &House, arguments: &[&str], bao: &Bao) -> String {
    let (_, text) = doctor(house, arguments).await;
    let lines = text.lines().filter(|line| line.contains("bao") && !line.contains("token audiences"));
    lines.map(|line| format!("{line}\n")).collect::<String>().replace(&bao.address().to_string(), "SERVER")
}

/// A house with the backend `bao`, whose entry goes on with `rest`.
fn house_with(bao: &Bao, rest: &str) -> (House, Driver) {
    let (house, driver) = house();
    let entry = format!("backends: {{ bao: {{ kind: vault, address: \"{}\", {rest} }}, files:", bao.url());
    house.reconfigure("backends: { files:", &entry);
    (house, driver)
}

#[tokio::test]
async fn a_store_is_logged_in_to_and_out_of() {
    let bao = Bao::dev().await;
    let (house, _driver) = house_with(&bao, "auth: { method: jwt, role: csi, audience: bao }");
    bao.jwt("jwt", &house.issuer.jwks()).await;
    bao.policy("shop", "path \"kv/data/shop/*\" { capabilities = [\"read\"] }").await;
    fs::write(house.path("bao.jwt"), house.token(&web(), "bao")).unwrap();
    let before = bao.accessors().await;
    let token = ["--token", "bao=bao.jwt"];
    let refused = of_bao(&house, &token, &bao).await;
    bao.jwt_role("jwt", "csi", "bao", json!({ "policies": ["shop"], "ttl": "1h" })).await;
    let good = of_bao(&house, &token, &bao).await;
    assert_eq!(bao.accessors().await, before, "the store token is revoked");
    let untried = of_bao(&house, &[], &bao).await;
    let steady = |text: String| {
        let line = |line: &str| line.split_once("ends at ").map_or(line.to_owned(), |(before, _)| format!("{before}ends at TIME"));
        text.lines().map(line).collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!(steady(good), @"
    ok   token bao: bao.jwt: of Pod shop/web-0 and ServiceAccount web, for bao, issued by https://oidc.example, ends at TIME
    ok   backend bao: http://SERVER serves, 2.7.2
    ok   backend bao: clock: the server's and this node's are the same, to the second
    ok   backend bao: login: as role csi, with the policies default, shop
    ");
    insta::assert_snapshot!(steady(refused), @r#"
    ok   token bao: bao.jwt: of Pod shop/web-0 and ServiceAccount web, for bao, issued by https://oidc.example, ends at TIME
    ok   backend bao: http://SERVER serves, 2.7.2
    ok   backend bao: clock: the server's and this node's are the same, to the second
    fail backend bao: login: the store refuses to log in role csi at auth/jwt with the Pod's token for bao: role "csi" could not be found (does role csi exist at auth/jwt, with bound_audiences bao and claims that a token of ServiceAccount shop/web has?)
    "#);
    insta::assert_snapshot!(untried, @"
    ok   backend bao: http://SERVER serves, 2.7.2
    ok   backend bao: clock: the server's and this node's are the same, to the second
    warn backend bao: login: not tried: this needs the token of a Pod for the audience bao (--token bao=FILE; keyferry doctor --help shows how to make one)
    ");
    bao.seal().await;
    insta::assert_snapshot!(of_bao(&house, &[], &bao).await, @"
    fail backend bao: the store at http://SERVER is sealed (an operator must unseal it: `bao operator unseal`)
    ok   backend bao: clock: the server's and this node's are the same, to the second
    ");
    bao.stop();
    insta::assert_snapshot!(of_bao(&house, &[], &bao).await, @r#"
    fail backend bao: http://SERVER: no connection: tcp connect error: Connection refused (os error 111) after 3 tries (is the store up, and do network policies let the daemon out to it? kubelet tries again by itself)
    "#);
}

#[tokio::test]
async fn a_store_token_of_a_file_is_looked_up() {
    let bao = Bao::dev().await;
    let (house, _driver) = house_with(&bao, "auth: { method: token, tokenFile: /dev/null }");
    house.reconfigure("tokenFile: /dev/null", &format!("tokenFile: {}/bao.token", house.folder.path().display()));
    fs::write(house.path("bao.token"), bao.new_token(json!({ "policies": ["default"] })).await).unwrap();
    fs::set_permissions(house.path("bao.token"), fs::Permissions::from_mode(0o400)).unwrap();
    let good = of_bao(&house, &[], &bao).await;
    let again = of_bao(&house, &[], &bao).await;
    assert_eq!(good, again, "it is not revoked");
    fs::remove_file(house.path("bao.token")).unwrap();
    fs::write(house.path("bao.token"), "s.nonsense").unwrap();
    fs::set_permissions(house.path("bao.token"), fs::Permissions::from_mode(0o644)).unwrap();
    let bad = of_bao(&house, &[], &bao).await;
    assert!(!bad.contains("nonsense"));
    insta::assert_snapshot!(good, @"
    ok   file backends.bao.auth.tokenFile: ROOT/bao.token: mode 0400, N bytes
    ok   backend bao: http://SERVER serves, 2.7.2
    ok   backend bao: clock: the server's and this node's are the same, to the second
    ok   backend bao: login: as the token in ROOT/bao.token, with the policies default
    ");
    insta::assert_snapshot!(bad, @"
    warn file backends.bao.auth.tokenFile: ROOT/bao.token: mode 0644: any user of the node can read it (chmod 0400 ROOT/bao.token; in a volume of a Secret: defaultMode: 0400)
    ok   backend bao: http://SERVER serves, 2.7.2
    ok   backend bao: clock: the server's and this node's are the same, to the second
    fail backend bao: login: the store does not accept the token in ROOT/bao.token: 403 (write a new one)
    ");
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_told_with_its_names_and_dates() {
    let bao = Bao::configured(Options { tls: true, ..Options::default() }).await;
    let (house, _driver) = house_with(&bao, &format!("ca: \"{}\", auth: {{ method: jwt, role: csi }}", bao.ca_file().display()));
    let good = of_bao(&house, &[], &bao).await.replace(bao.ca_file().to_str().unwrap(), "CA");
    assert!(good.contains("ok   backend bao: https://SERVER serves"), "{good}");
    fs::write(house.path("other.pem"), &crate::bao::Authority::new("another CA").ca).unwrap();
    house.reconfigure(bao.ca_file().to_str().unwrap(), house.path("other.pem").to_str().unwrap());
    let wrong = of_bao(&house, &[], &bao).await;
    house.reconfigure(house.path("other.pem").to_str().unwrap(), bao.ca_file().to_str().unwrap());
    bao.certify(&bao.authority().server(&["127.0.0.1"], Life::Expired)).await;
    let expired = of_bao(&house, &[], &bao).await;
    bao.certify(&bao.authority().server(&["bao.example"], Life::Good)).await;
    let other = of_bao(&house, &[], &bao).await;
    for (text, words) in [
        (
            &wrong,
            [
                "127.0.0.1, localhost (valid ",
                "issued by CN=OpenBao\\'s CA, does not lead to ROOT/other.pem (the store's certificate must be for its address",
            ],
        ),
        (&expired, ["127.0.0.1 has expired (valid ", " to 2001-01-01)"]),
        (&other, ["the server's certificate is for bao.example (valid ", "not for 127.0.0.1"]),
    ] {
        assert!(words.iter().all(|words| text.contains(words)) && text.contains("fail backend bao: "), "{text}");
    }
}

#[tokio::test]
async fn a_new_server_and_a_standby_are_told() {
    let new = Bao::configured(Options { uninitialised: true, ..Options::default() }).await;
    let (house, _driver) = house_with(&new, "auth: { method: jwt, role: csi }");
    insta::assert_snapshot!(of_bao(&house, &[], &new).await, @"
    fail backend bao: the store at http://SERVER is not initialised (an operator must run `bao operator init`)
    ok   backend bao: clock: the server's and this node's are the same, to the second
    ");
    let leader = Bao::configured(Options { raft: true, ..Options::default() }).await;
    let standby = leader.standby().await;
    let (house, _driver) = house_with(&standby, "auth: { method: jwt, role: csi }");
    insta::assert_snapshot!(of_bao(&house, &[], &standby).await, @"
    ok   backend bao: http://SERVER serves, 2.7.2, a standby: it hands requests on
    ok   backend bao: clock: the server's and this node's are the same, to the second
    warn backend bao: login: not tried: this needs the token of a Pod for the audience vault (--token vault=FILE; keyferry doctor --help shows how to make one)
    ");
}

/// The role is in an annotation of the ServiceAccount. The doctor believes the token of the admin, so it can read the annotation as a mount does.
#[tokio::test]
async fn the_role_of_an_annotation_is_tried() {
    let (house, moto) = (House::new(""), Moto::start().await);
    let url = moto.url();
    let amazon = format!(
        "amazon: {{ kind: aws, region: eu-west-1, auth: {{ method: irsa }}, \
         endpoints: {{ secretsmanager: \"{url}\", ssm: \"{url}\", sts: \"{url}\" }} }}, "
    );
    house.reconfigure("files: {", &(amazon + "files: {"));
    let token = house.token(&web(), "sts.amazonaws.com");
    let claims = BASE64URL_NOPAD.decode(token.split('.').nth(1).unwrap().as_bytes()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    let uid = claims["kubernetes.io"]["serviceaccount"]["uid"].clone();
    fs::write(house.path("sts.jwt"), token).unwrap();
    let server = ApiServer::start(Answer::With(Box::new(move |call| {
        if !call.path.ends_with("/namespaces/shop/serviceaccounts/web") {
            return (404, String::new());
        }
        let annotations = json!({ "eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/web" });
        (200, json!({ "kind": "ServiceAccount", "metadata": { "uid": uid, "annotations": annotations } }).to_string())
    })))
    .await;
    server.service_account(&house.path("own"), "own-token");
    let mut command = in_a_pod(&server, &house.path("own"));
    command.arg("doctor").arg("--config").arg(house.path("keyferry.yaml"));
    command.arg("--token").arg(format!("sts.amazonaws.com={}", house.path("sts.jwt").display()));
    let (_, out, errors) = tokio::task::spawn_blocking(move || run(&mut command, "")).await.unwrap();
    assert!(out.contains("ok   backend amazon: login: as the Pod, with the access key "), "{out}{errors}");
}
