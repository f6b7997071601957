//! Looks at broken things that only a test can make: other sockets, an API server, a process.
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::*;
use crate::cli::Format;
use crate::delivery::DeliveryMode;
use crate::kube::api_server::{Answer, ApiServer};
use crate::kube::{CsiDriver, KubeConfig};
use crate::server::SocketConfig;

fn shown(found: Vec<Diagnosis>, folder: &Path) -> String {
    let owner = format!("owner {}", rustix::process::geteuid().as_raw());
    Report::of(found).show(Shown::TEXT, false).replace(folder.to_str().unwrap(), "DIR").replace(&owner, "owner UID")
}

fn sockets(dir: &Path) -> SocketConfig {
    let uid = rustix::process::geteuid().as_raw();
    SocketConfig { providers: vec!["keyferry".into()], dir: dir.to_owned(), mode: 0o600, allowed_peers: vec![uid] }
}

#[tokio::test]
async fn a_leftover_of_another_provider_is_told() {
    let folder = crate::folder::new();
    let (first, second) = (folder.path().join("etc"), folder.path().join("var"));
    for dir in [&first, &second] {
        fs::create_dir(dir).unwrap();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        drop(UnixListener::bind(dir.join("keyferry.sock")).unwrap());
        fs::set_permissions(dir.join("keyferry.sock"), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let look = async |dir: &Path| shown(sockets::look(&sockets(dir), &[&first, &second]).await, folder.path());
    insta::assert_snapshot!(look(&second).await, @"
    ok   socket folder DIR/var: mode 0755, owner UID
    fail socket DIR/var/keyferry.sock: nobody answers: Connection refused (os error 111) (start keyferry serve; its log says why it ended)
    fail socket DIR/etc/keyferry.sock: comes before Keyferry's socket: the driver looks there first, and never gets to DIR/var/keyferry.sock (rm DIR/etc/keyferry.sock, then delete the driver's Pod on this node: it keeps the path it found until it restarts)
    ");
    insta::assert_snapshot!(look(&first).await, @"
    ok   socket folder DIR/etc: mode 0755, owner UID
    fail socket DIR/etc/keyferry.sock: nobody answers: Connection refused (os error 111) (start keyferry serve; its log says why it ended)
    warn socket DIR/var/keyferry.sock: has the same name as DIR/etc/keyferry.sock: a driver that found it earlier still calls it (rm DIR/var/keyferry.sock, then delete the driver's Pod on this node: it keeps the path it found until it restarts)
    ");
    // Two names of one folder are the same folder.
    let alias = folder.path().join("run");
    std::os::unix::fs::symlink(&second, &alias).unwrap();
    let found = sockets::look(&sockets(&alias), &[&second]).await;
    assert_eq!(found.len(), 2, "{found:?}");
}

#[tokio::test]
async fn each_trouble_of_a_socket_is_told() {
    let folder = crate::folder::new();
    let dir = folder.path().join("sockets");
    let look = async || shown(sockets::look(&sockets(&dir), &[&dir]).await, folder.path());
    insta::assert_snapshot!(look().await, @"
    fail socket folder DIR/sockets: is not there (keyferry serve makes it: does it run?)
    fail socket DIR/sockets/keyferry.sock: is not there: no provider runs under this name (start keyferry serve; its log says why it ended)
    ");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(dir.join("keyferry.sock"), "").unwrap();
    insta::assert_snapshot!(look().await, @"
    fail socket folder DIR/sockets: DIR/sockets: every user can write this folder (mode 1777), so any of them can replace what Keyferry puts there (chmod o-w DIR/sockets)
    fail socket DIR/sockets/keyferry.sock: is not a socket (remove it: the daemon does not replace it)
    ");
    fs::remove_file(dir.join("keyferry.sock")).unwrap();
    let silent = UnixListener::bind(dir.join("keyferry.sock")).unwrap();
    fs::set_permissions(dir.join("keyferry.sock"), fs::Permissions::from_mode(0o666)).unwrap();
    insta::assert_snapshot!(look().await, @"
    fail socket folder DIR/sockets: DIR/sockets: every user can write this folder (mode 1777), so any of them can replace what Keyferry puts there (chmod o-w DIR/sockets)
    fail socket DIR/sockets/keyferry.sock: mode 0666: any user of the node can ask for any Pod's secrets (chmod 0600 DIR/sockets/keyferry.sock)
    ");
    fs::set_permissions(dir.join("keyferry.sock"), fs::Permissions::from_mode(0o600)).unwrap();
    insta::assert_snapshot!(look().await, @"
    fail socket folder DIR/sockets: DIR/sockets: every user can write this folder (mode 1777), so any of them can replace what Keyferry puts there (chmod o-w DIR/sockets)
    fail socket DIR/sockets/keyferry.sock: no answer within 3s (is the provider overloaded, or stopped? see its log)
    ");
    drop(silent);
}

#[tokio::test]
async fn what_is_left_of_a_driver_is_told() {
    let folder = crate::folder::new();
    let kubelet = folder.path().join("kubelet");
    let look = async |delivery, in_pod| shown(driver::look(&kubelet, delivery, in_pod).await, folder.path());
    insta::assert_snapshot!(look(DeliveryMode::Driver, true).await, @"
    warn kubelet's folder DIR/kubelet: not known: this Pod does not see its pods/ (run the doctor on the node itself to see it)
    warn driver: not known: this Pod does not see DIR/kubelet/plugins/csi-secrets-store/csi.sock (run the doctor on the node itself to see it)
    warn driver: rotation poll interval: not known: this Pod does not see the driver's process (with driver 1.6.0 and later it must be 0s: kubectl get daemonsets -A -o yaml | grep rotation-poll-interval; docs/errors.md says why)
    0 ok, 3 warnings, 0 failing
    ");
    insta::assert_snapshot!(look(DeliveryMode::Driver, false).await, @"
    warn kubelet's folder DIR/kubelet: pods/: No such file or directory (os error 2) (kubeletDir must be kubelet's own folder: /var/lib/k0s/kubelet with k0s, /var/snap/microk8s/common/var/lib/kubelet with microk8s)
    fail driver: is not on this node: neither DIR/kubelet/plugins/csi-secrets-store/csi.sock nor secrets-store.csi.k8s.io-reg.sock in DIR/kubelet/plugins_registry (install the Secrets Store CSI driver; if it is installed, kubeletDir must be kubelet's own folder)
    ");
    fs::create_dir_all(kubelet.join("plugins/csi-secrets-store")).unwrap();
    fs::create_dir_all(kubelet.join("plugins_registry")).unwrap();
    insta::assert_snapshot!(look(DeliveryMode::Provider, false).await, @"
    fail kubelet's folder DIR/kubelet: pods/: No such file or directory (os error 2), so Keyferry cannot write volumes (delivery: provider) (kubeletDir must be kubelet's own folder: /var/lib/k0s/kubelet with k0s, /var/snap/microk8s/common/var/lib/kubelet with microk8s)
    fail driver: is not on this node: neither DIR/kubelet/plugins/csi-secrets-store/csi.sock nor secrets-store.csi.k8s.io-reg.sock in DIR/kubelet/plugins_registry (install the Secrets Store CSI driver; if it is installed, kubeletDir must be kubelet's own folder)
    ");
    // A driver that has its socket elsewhere, and one that has died.
    fs::write(kubelet.join("plugins_registry/secrets-store.csi.k8s.io-reg.sock"), "").unwrap();
    fs::create_dir(kubelet.join("pods")).unwrap();
    insta::assert_snapshot!(look(DeliveryMode::Provider, false).await, @"
    ok   kubelet's folder DIR/kubelet: is there (entries in pods/: 0)
    ok   driver: secrets-store.csi.k8s.io is registered with kubelet; its version is not known: there is no DIR/kubelet/plugins/csi-secrets-store/csi.sock
    warn driver: rotation poll interval: not known: the driver's socket is elsewhere (with driver 1.6.0 and later it must be 0s: kubectl get daemonsets -A -o yaml | grep rotation-poll-interval; docs/errors.md says why)
    2 ok, 1 warning, 0 failing
    ");
    drop(UnixListener::bind(kubelet.join("plugins/csi-secrets-store/csi.sock")).unwrap());
    insta::assert_snapshot!(look(DeliveryMode::Driver, false).await, @"
    ok   kubelet's folder DIR/kubelet: is there (entries in pods/: 0)
    fail driver: DIR/kubelet/plugins/csi-secrets-store/csi.sock: does not answer: Connection refused (os error 111) (see the state of the driver's Pod on this node, and its log)
    ");
}

/// Flags as Go's `flag` package reads them.
#[test]
fn a_poll_interval_that_can_leave_a_folder_empty_is_told() {
    let judged = |version: &str, flags: &str| {
        let arguments: Vec<_> = ["/secrets-store-csi"].into_iter().chain(flags.split_whitespace()).chain([""]).collect();
        let found = rotation::judge(version, &arguments);
        format!("{:?} {}", found.level, found.why)
    };
    let on = "--endpoint=unix:///csi/csi.sock --enable-secret-rotation=true";
    for zero in ["0s", "0", "0m0s", "0.0h", "-1s", "+0s"] {
        assert_eq!(
            judged("v1.6.0", &format!("{on} --rotation-poll-interval={zero}")),
            format!("Ok is {zero}, so the driver skips no mount")
        );
    }
    for longer in ["2m", "15s", "1h0m0s", "1ns", "0h0m1s", ".5s"] {
        assert!(
            judged("v1.6.0", &format!("{on} --rotation-poll-interval={longer}")).starts_with(&format!("Warn is {longer}: ")),
            "{longer}"
        );
    }
    for (version, flags, expected) in [
        ("v1.6.0", on, "Warn is 2m (the driver's default): "),
        ("v1.7.1", "-enable-secret-rotation -rotation-poll-interval 1h", "Warn is 1h: "),
        ("v1.6.0", "--rotation-poll-interval 0s --enable-secret-rotation", "Ok is 0s, so"),
        ("v1.6.0", "--enable-secret-rotation --rotation-poll-interval=0s --rotation-poll-interval=2m", "Warn is 2m: "),
        ("v1.6.0", "--enable-secret-rotation --rotation-poll-interval=2m --rotation-poll-interval=0s", "Ok is 0s, so"),
        ("local-dev", "--enable-secret-rotation", "Warn is 2m "),
        ("", "--enable-secret-rotation", "Warn is 2m "),
        ("2.0", "--enable-secret-rotation", "Warn is 2m "),
        ("v1.6.0", "", "Ok rotation is off"),
        ("v1.6.0", "--enable-secret-rotation=false --rotation-poll-interval=2m", "Ok rotation is off"),
        ("v1.6.0", "--enable-secret-rotation=true --enable-secret-rotation=false", "Ok rotation is off"),
        ("v1.5.6", "--enable-secret-rotation --rotation-poll-interval=1m", "Ok is 1m: drivers before 1.6.0"),
        ("v0.3.0", "--enable-secret-rotation", "Ok is 2m "),
    ] {
        assert!(judged(version, flags).starts_with(expected), "{version} {flags}: {}", judged(version, flags));
    }
    insta::assert_snapshot!(shown(vec![rotation::judge("v1.6.0", &["--enable-secret-rotation"])], Path::new("/nowhere")), @"
    warn driver: rotation poll interval: is 2m (the driver's default): if a Pod's first mount gets no answer, the driver may skip the next try, and the Pod starts with an empty folder (set rotationPollInterval: 0s in the values of the driver's chart (--rotation-poll-interval=0s); docs/errors.md says why)
    0 ok, 1 warning, 0 failing
    ");
}

#[tokio::test]
async fn the_tokens_that_the_driver_asks_for_are_held_against_those_needed() {
    let folder = crate::folder::new();
    let server = ApiServer::start(Answer::Status(403)).await;
    server.service_account(folder.path(), "token");
    let cluster = || KubeConfig::of(Some("127.0.0.1".into()), Some(server.address.port().to_string()), folder.path()).unwrap();
    let wanted = [("bao", "backend bao"), ("keyferry", "identity")].map(|(audience, by)| (audience.to_owned(), vec![by.to_owned()]));
    let ask = async || {
        let found = shown(audiences::ask(cluster(), &wanted.clone().into()).await, folder.path());
        found.replace(&server.address.to_string(), "SERVER")
    };
    insta::assert_snapshot!(ask().await, @r#"
    warn token audiences: not known: GET https://SERVER/apis/storage.k8s.io/v1/csidrivers/secrets-store.csi.k8s.io: it answered 403 Forbidden. Needed in tokenRequests of secrets-store.csi.k8s.io: bao (backend bao), keyferry (identity) (check that the object has them, or let the daemon read it (`get` on csidrivers); if the object has no other audiences, run: kubectl patch csidriver secrets-store.csi.k8s.io --type=merge --patch='{"spec":{"tokenRequests":[{"audience":"bao"},{"audience":"keyferry"}]}}')
    0 ok, 1 warning, 0 failing
    "#);
    assert_eq!(server.calls()[0].path, "/apis/storage.k8s.io/v1/csidrivers/secrets-store.csi.k8s.io");
    server.answer(Answer::Status(404));
    insta::assert_snapshot!(ask().await, @"fail token audiences: there is no CSIDriver object secrets-store.csi.k8s.io: the driver is not installed in this cluster (install the Secrets Store CSI driver)");
    server.answer(Answer::Text(200, r#"{"spec":{"podInfoOnMount":true,"requiresRepublish":true,"tokenRequests":[{"audience":""},{"audience":"bao"},{"audience":"keyferry"}]}}"#.into()));
    insta::assert_snapshot!(ask().await, @"
    ok   token audience bao: the driver asks kubelet for it, and backend bao needs it
    ok   token audience keyferry: the driver asks kubelet for it, and identity needs it
    2 ok, 0 warnings, 0 failing
    ");
    server.answer(Answer::Text(200, r#"{"spec":{"tokenRequests":[{"audience":"other"},{"audience":"bao"}]}}"#.into()));
    insta::assert_snapshot!(ask().await, @r#"
    ok   token audience bao: the driver asks kubelet for it, and backend bao needs it
    fail token audience keyferry: the driver does not ask kubelet for it, and identity needs it (kubectl patch csidriver secrets-store.csi.k8s.io --type=merge --patch='{"spec":{"tokenRequests":[{"audience":"other"},{"audience":"bao"},{"audience":"keyferry"}]}}')
    fail CSIDriver secrets-store.csi.k8s.io: podInfoOnMount is not true: kubelet does not say whose volume it is (set it in the driver's manifest, then delete the object and create it again)
    warn CSIDriver secrets-store.csi.k8s.io: requiresRepublish is not true: with driver 1.6.0 and newer, running Pods get no new secrets (kubectl patch csidriver secrets-store.csi.k8s.io --type=merge --patch='{"spec":{"requiresRepublish":true}}', or ignore this with older drivers)
    "#);
    for garbage in ["", "{}", "<html>", r#"{"spec":3}"#] {
        server.answer(Answer::Text(200, garbage.into()));
        assert!(ask().await.contains("it answered with something other than a CSIDriver"), "{garbage}");
    }
    assert_eq!(audiences::held_against(&CsiDriver::default(), &[].into()).len(), 2);
}

#[test]
fn what_may_reach_a_disk_is_told() {
    let folder = crate::folder::new();
    let (process, swaps) = (folder.path().join("42"), folder.path().join("swaps"));
    fs::create_dir(&process).unwrap();
    let heading = "Filename Type Size Used Priority\n";
    let look = |core: &str, locked: u64, swap: &str| {
        fs::write(process.join("limits"), format!("Limit  Soft Limit  Hard Limit  Units\nMax core file size  {core}  unlimited  bytes\n"))
            .unwrap();
        fs::write(process.join("status"), format!("Name:\tkeyferry\nVmLck:\t     {locked} kB\n")).unwrap();
        fs::write(&swaps, format!("{heading}{swap}")).unwrap();
        shown(process::look(&process, &swaps), folder.path())
    };
    insta::assert_snapshot!(look("0", 0, ""), @"
    ok   process 42: core dumps: are off
    ok   process 42: memory: is not locked, and the node has no swap
    2 ok, 0 warnings, 0 failing
    ");
    insta::assert_snapshot!(look("0", 8192, "/dev/sda2 partition 8 0 -2\n"), @"
    ok   process 42: core dumps: are off
    ok   process 42: memory: is locked
    2 ok, 0 warnings, 0 failing
    ");
    insta::assert_snapshot!(look("unlimited", 0, "/dev/sda2 partition 8 0 -2\n"), @"
    fail process 42: core dumps: are allowed up to unlimited bytes: a crash would write secrets to a disk (see the start of its log; does a security profile forbid setrlimit?)
    warn process 42: memory: is not locked, and the node has swap: secrets in memory may be written to it (give the daemon CAP_IPC_LOCK or an infinite RLIMIT_MEMLOCK, or encrypt the swap)
    ");
    fs::remove_file(process.join("limits")).unwrap();
    assert!(shown(process::look(&process, &swaps), folder.path()).contains("not known"));
}

#[test]
fn a_report_is_for_a_person_or_a_script() {
    let report =
        Report::of(vec![Diagnosis::ok("a", "fine"), Diagnosis::warn("b", "two\nlines", "fix it"), Diagnosis::fail("c", "broken", "")]);
    insta::assert_snapshot!(report.show(Shown::TEXT, false), @"
    ok   a: fine
    warn b: two lines (fix it)
    fail c: broken
    ");
    assert!(report.show(Shown::TEXT, true).starts_with("\u{1b}[32mok  \u{1b}[0m a: fine\n"));
    insta::assert_snapshot!(report.show(Shown { output: Format::Json, quiet: false }, true), @r#"
    {
      "ok": 1,
      "warnings": 1,
      "failing": 1,
      "diagnoses": [
        {
          "level": "ok",
          "what": "a",
          "why": "fine",
          "remedy": null
        },
        {
          "level": "warn",
          "what": "b",
          "why": "two\nlines",
          "remedy": "fix it"
        },
        {
          "level": "fail",
          "what": "c",
          "why": "broken",
          "remedy": null
        }
      ]
    }
    "#);
    insta::assert_snapshot!(report.show(Shown { quiet: true, ..Shown::TEXT }, false), @"fail c: broken");
    insta::assert_snapshot!(report.summary(), @"1 ok, 1 warning, 1 failing");
}
