//! The contract with the driver, fact by fact, against the real binary over its socket.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use data_encoding::BASE64;
use keyferry::server::proto::{MountRequest, MountResponse, VersionRequest};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};
use tonic::Code;

use crate::hang::hanging;
use crate::support::{House, apart, assert_no_trap, keyferry, pod, run, shown, tool, web};

const DB: &str = "- secret: shop/db\n  field: password\n  path: db/password\n  mode: 0400\n";
const DB_SHOWN: &str = "db/password 0400 correct horse";

/// The request as JSON: protobuf's own spelling, and what `driver.py` takes too.
fn as_json(request: &MountRequest) -> Value {
    json!({
        "attributes": request.attributes,
        "secrets": request.secrets,
        "target_path": request.target_path,
        "permission": request.permission,
    })
}

// === Version ===

#[tokio::test]
async fn version_answers_with_the_contract_and_a_semantic_version() {
    let house = House::new("");
    let provider = house.serve();
    let mut client = provider.client().await;
    for asked in ["v1alpha1", "", "v2"] {
        let answer = client.version(VersionRequest { version: asked.into() }).await.unwrap().into_inner();
        assert_eq!((answer.version.as_str(), answer.runtime_name.as_str()), ("v1alpha1", "keyferry"));
        assert_eq!(answer.runtime_version, env!("CARGO_PKG_VERSION"));
        assert_eq!(answer.runtime_version.split('.').filter(|part| part.parse::<u32>().is_ok()).count(), 3, "semver");
    }
}

// === Other clients, other authorities ===

/// Runs the gRPC C-core client, whose `:authority` is the socket's path. Returns its answers, one per call.
fn c_core(socket: &Path, arguments: &[&str], input: &str) -> (i32, Vec<Value>) {
    let mut command = tool("python");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/driver.py")).arg(socket).args(arguments);
    let (code, out, errors) = run(&mut command, input);
    assert_eq!(errors, "");
    (code, out.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

#[tokio::test]
async fn drivers_before_v1_6_0_send_the_sockets_path_as_authority_and_are_served() {
    let house = House::new("");
    let provider = house.serve();
    let request = as_json(&house.request(&web(), DB)).to_string();
    let (code, answers) = c_core(&provider.socket, &["version", "--repeat", "50"], "");
    let version = json!({ "version": "v1alpha1", "runtime_name": "keyferry", "runtime_version": env!("CARGO_PKG_VERSION") });
    assert_eq!((code, answers), (0, vec![version; 50]));
    let (code, answers) = c_core(&provider.socket, &["mount", "--json", "-", "--repeat", "50"], &request);
    assert_eq!((code, answers.len()), (0, 50), "{answers:?}");
    let files = json!([{ "path": "db/password", "mode": 0o400, "contents_base64": BASE64.encode(b"correct horse") }]);
    for answer in answers {
        assert_eq!((&answer["files"], answer.get("error")), (&files, None), "the error stays unset");
    }
}

#[tokio::test]
async fn every_spelling_of_the_authority_is_served() {
    let house = House::new("");
    let provider = house.serve();
    let request = as_json(&house.request(&web(), DB)).to_string();
    let path = provider.socket.to_str().unwrap();
    let encoded = path.trim_start_matches('/').replace('/', "%2F");
    for authority in ["localhost", path, &encoded, "/var/run/secrets-store-csi-providers/keyferry.sock", "unix:///a/b.sock"] {
        for call in ["version", "mount"] {
            let (code, answers) = c_core(&provider.socket, &[call, "--json", "-", "--repeat", "3", "--authority", authority], &request);
            assert_eq!((code, answers.len()), (0, 3), "{call} with {authority}: {answers:?}");
        }
    }
}

#[tokio::test]
async fn a_refusal_reaches_a_c_core_client_with_its_message() {
    let house = House::new("");
    let provider = house.serve();
    let request = as_json(&house.request(&pod("bank", "web-0", "web"), DB)).to_string();
    let (code, answers) = c_core(&provider.socket, &["mount", "--json", "-"], &request);
    assert_eq!((code, &answers[0]["code"]), (1, &json!("PERMISSION_DENIED")));
    let message = answers[0]["message"].as_str().unwrap();
    assert!(message.starts_with("PolicyDenied: object 1 (db/password): files/shop/db: "), "{message}");
}

/// `buf curl`: connect-go's client, with our `.proto` as its schema.
fn buf_curl(socket: &Path, method: &str, request: &Value) -> (i32, String, String) {
    let mut command = tool("buf");
    command.args(["curl", "--protocol", "grpc", "--http2-prior-knowledge", "--schema", "proto", "--data", "@-", "--unix-socket"]);
    command.arg(socket).arg(format!("http://localhost/v1alpha1.CSIDriverProvider/{method}"));
    // buf keeps a cache: in a folder that goes with the socket's.
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("HOME", socket.parent().unwrap()).env("XDG_CACHE_HOME", socket.parent().unwrap());
    run(&mut command, &request.to_string())
}

#[tokio::test]
async fn an_independent_client_gets_version_mount_and_refusal() {
    let house = House::new("");
    let provider = house.serve();
    let (code, out, errors) = buf_curl(&provider.socket, "Version", &json!({ "version": "v1alpha1" }));
    assert_eq!(code, 0, "{errors}");
    let version = json!({ "version": "v1alpha1", "runtimeName": "keyferry", "runtimeVersion": env!("CARGO_PKG_VERSION") });
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), version);

    let (code, out, errors) = buf_curl(&provider.socket, "Mount", &as_json(&house.request(&web(), DB)));
    assert_eq!(code, 0, "{errors}");
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(answer["files"], json!([{ "path": "db/password", "mode": 256, "contents": BASE64.encode(b"correct horse") }]));
    assert_eq!(answer["objectVersion"].as_array().unwrap().len(), 1);
    assert_eq!(answer.get("error"), None);

    let (code, _, errors) = buf_curl(&provider.socket, "Mount", &as_json(&house.request(&pod("bank", "a", "a"), DB)));
    assert!(code != 0 && errors.contains("permission_denied") && errors.contains("PolicyDenied: "), "{code}: {errors}");
}

#[test]
fn our_proto_is_sound() {
    let home = crate::folder::new();
    let mut command = tool("buf");
    // The linter does not judge what the driver's contract decides: the package's folder and name, the service's suffix, shared messages.
    let except = "PACKAGE_DIRECTORY_MATCH, PACKAGE_VERSION_SUFFIX, SERVICE_SUFFIX";
    let config = format!("version: v2\nlint: {{ use: [STANDARD], except: [{except}] }}\n");
    command.args(["lint", "--config", &config]).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/proto")).env("HOME", home.path());
    command.env("XDG_CACHE_HOME", home.path());
    assert_eq!(run(&mut command, ""), (0, String::new(), String::new()));
}

// === The socket ===

#[tokio::test]
async fn the_socket_is_guarded_and_its_folder_is_made() {
    for (extra, mode) in [("", 0o600), ("socketMode: \"0660\"", 0o660)] {
        let house = House::new(extra);
        let provider = house.serve();
        let found = fs::symlink_metadata(&provider.socket).unwrap();
        assert!(found.file_type().is_socket());
        assert_eq!(found.permissions().mode() & 0o7777, mode);
        let folder = fs::metadata(house.path("sockets")).unwrap().permissions().mode();
        assert_eq!(folder & 0o7022, 0, "others may not put a socket there: {folder:o}");
        assert_eq!(fs::read_dir(house.path("sockets")).unwrap().count(), 1, "nothing else is left there");
    }
}

#[test]
fn a_folder_that_everyone_may_write_is_refused() {
    let house = House::new("");
    fs::create_dir(house.path("sockets")).unwrap();
    fs::set_permissions(house.path("sockets"), fs::Permissions::from_mode(0o1777)).unwrap();
    let (code, out, errors) = run(&mut house.serve_command(), "");
    assert_eq!((code, out.as_str()), (2, ""));
    insta::assert_snapshot!(last_line(&house, &errors), @"error: socketDir: ROOT/sockets: every user can write this folder (mode 1777), so any of them can replace what Keyferry puts there (chmod o-w ROOT/sockets)");
}

/// The error at the end of the output, with the house's folder called ROOT.
fn last_line(house: &House, errors: &str) -> String {
    errors.lines().last().unwrap_or_default().replace(house.folder.path().to_str().unwrap(), "ROOT")
}

#[tokio::test]
async fn a_peer_that_is_not_listed_is_told_so() {
    let house = House::new("allowedPeers: [4242, 4243]");
    let provider = house.serve();
    let uid = rustix::process::geteuid().as_raw();
    let refused = provider.mount(house.request(&web(), DB)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    insta::assert_snapshot!(refused.message().replace(&format!("id {uid}"), "id UID"), @"PolicyDenied: the peer has user id UID, and allowedPeers is [4242, 4243] (add the user that the driver runs as, if this is the driver)");
    let refused = provider.client().await.version(VersionRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "Version too");
    assert!(provider.log().contains("a peer was refused"));
}

/// The peer's own uid counts, not the daemon's.
#[tokio::test]
async fn another_uid_is_refused_and_served_where_it_is_listed() {
    let health = |socket: &Path| {
        let root = rustix::process::geteuid().is_root();
        assert!(root, "this test becomes another user: run it as root (or in `unshare --user --map-auto --map-root-user`)");
        let mut other = apart("setpriv");
        // The capability: only root can open the test's folder.
        other.args(["--reuid=4242", "--clear-groups", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]);
        run(other.arg(keyferry().get_program()).arg("health").arg("--socket").arg(socket), "")
    };
    let house = House::new("");
    let provider = house.serve();
    let (code, out, errors) = health(&provider.socket);
    assert_eq!((code, out.as_str()), (1, ""));
    insta::assert_snapshot!(errors, @"error: rpc error: code = PermissionDenied desc = PolicyDenied: the peer has user id 4242, and allowedPeers is [0] (add the user that the driver runs as, if this is the driver)");
    let house = House::new("allowedPeers: [0, 4242]");
    let provider = house.serve();
    let (code, out, errors) = health(&provider.socket);
    assert_eq!((code, errors.as_str()), (0, ""), "{out}");
}

/// In a user namespace that maps no users, every peer looks like 65534.
#[tokio::test]
async fn the_overflow_uid_is_always_refused() {
    let house = House::new("");
    let mut command = apart("unshare");
    command.arg("--user").arg(keyferry().get_program());
    let provider = house.serve_by(command);
    let refused = provider.mount(house.request(&web(), DB)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    insta::assert_snapshot!(refused.message(), @"PolicyDenied: the peer has user id 65534, so it is in another user namespace (run the driver's Pod with hostUsers: true)");
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let house = House::new("");
    fs::create_dir(house.path("sockets")).unwrap();
    drop(UnixListener::bind(house.path("sockets/keyferry.sock")).unwrap());
    let killed = house.serve();
    killed.mount(house.request(&web(), DB)).await.unwrap();
    drop(killed);
    assert!(house.path("sockets/keyferry.sock").exists(), "killed: nobody was there to remove it");
    house.serve().mount(house.request(&web(), DB)).await.unwrap();
}

#[tokio::test]
async fn a_live_socket_is_refused_and_lives_on() {
    let house = House::new("");
    let first = house.serve();
    let inode = fs::metadata(&first.socket).unwrap().ino();
    let (code, out, errors) = run(&mut house.serve_command(), "");
    assert_eq!((code, out.as_str()), (2, ""));
    insta::assert_snapshot!(last_line(&house, &errors), @"error: socketDir: ROOT/sockets/keyferry.sock: another provider is listening there (stop it first; two providers of one name cannot share a node)");
    assert_eq!(fs::metadata(&first.socket).unwrap().ino(), inode);
    first.mount(house.request(&web(), DB)).await.unwrap();
}

#[test]
fn what_is_no_socket_is_refused_and_left_alone() {
    let house = House::new("");
    fs::create_dir(house.path("sockets")).unwrap();
    fs::write(house.path("sockets/keyferry.sock"), "precious").unwrap();
    let (code, out, errors) = run(&mut house.serve_command(), "");
    assert_eq!((code, out.as_str()), (2, ""));
    insta::assert_snapshot!(last_line(&house, &errors), @"error: socketDir: ROOT/sockets/keyferry.sock: is not a socket, so Keyferry leaves it alone (remove it if nothing needs it)");
    assert_eq!(fs::read_to_string(house.path("sockets/keyferry.sock")).unwrap(), "precious");
    assert_eq!(fs::read_dir(house.path("sockets")).unwrap().count(), 1);
}

#[test]
fn on_exit_only_our_own_socket_is_unlinked() {
    let house = House::new("");
    let provider = house.serve();
    assert!(provider.stop().success());
    assert_eq!(fs::read_dir(house.path("sockets")).unwrap().count(), 0);
    let provider = house.serve();
    fs::remove_file(&provider.socket).unwrap();
    let successor = UnixListener::bind(&provider.socket).unwrap();
    assert!(provider.stop().success());
    assert!(house.path("sockets/keyferry.sock").exists(), "the successor's socket stays");
    drop(successor);
}

// === Mount ===

/// What the driver refuses in an answer, and what kubelet's atomic writer does.
fn assert_acceptable(answer: &MountResponse) {
    assert_eq!(answer.error, None, "the driver would drop the message");
    assert!(!answer.object_version.is_empty(), "the driver: missing object versions");
    let ids: BTreeSet<_> = answer.object_version.iter().map(|object| &object.id).collect();
    assert_eq!(ids.len(), answer.object_version.len(), "ids are unique");
    assert!(answer.object_version.iter().all(|object| !object.id.is_empty() && !object.version.is_empty()));
    assert!(!answer.files.is_empty(), "the driver would think that we wrote the volume");
    let paths: BTreeSet<_> = answer.files.iter().map(|file| &file.path).collect();
    assert_eq!(paths.len(), answer.files.len(), "paths are unique");
    for file in &answer.files {
        let path = &file.path;
        assert!((0..=0o777).contains(&file.mode), "{path}: {:o}", file.mode);
        assert!(path.len() <= 4096 && !path.starts_with("..") && !path.contains('\0'), "{path}");
        assert!(path.split('/').all(|name| !matches!(name, "" | "." | "..") && name.len() <= 255), "{path}");
        assert!(!paths.iter().any(|other| other.starts_with(&format!("{path}/"))), "{path} is another file's folder");
    }
}

#[tokio::test]
async fn every_answer_is_one_the_driver_takes() {
    let house = House::new("");
    house.vault(&["set", "shop/flags", "dark-mode=on", "beta=off", "..dots=1", "with space=2"]);
    let provider = house.serve();
    let longest = format!("- {{ secret: shop/db, field: username, path: {}/{} }}", "d".repeat(255), "f".repeat(255));
    for objects in [
        DB,
        "- secret: shop/db\n",
        "- { secret: shop/db, field: username, path: .hidden/.file, mode: \"0777\" }\n- { secret: shop/db, path: db.json, mode: 0 }",
        "- { secret: shop/db, field: username, path: a }\n- { secret: shop/db, field: username, path: b }\n- secret: shop/db\n",
        "- { secret: shop/flags, fields: [\"dark*\", beta], path: flags/ }\n",
        "- { secret: shop/gone, optional: true }\n- secret: shop/db\n",
        "- { secret: shop/gone, optional: true }\n",
        &longest,
    ] {
        let answer = provider.mount(house.request(&web(), objects)).await.unwrap_or_else(|status| panic!("{objects}: {status:?}"));
        assert_acceptable(&answer);
    }
    // A field that cannot be a file's name fails the mount. Keyferry never puts it into an answer.
    let refused = provider.mount(house.request(&web(), "- { secret: shop/flags, fields: \"*\", path: \"\" }\n")).await.unwrap_err();
    assert_no_trap(&refused);
}

#[tokio::test]
async fn an_empty_plan_is_one_empty_file_with_a_marker() {
    let house = House::new("");
    let provider = house.serve();
    let answer = provider.mount(house.request(&web(), "- { secret: shop/gone, optional: true }\n")).await.unwrap();
    assert_eq!(shown(&answer), [".keyferry 0644 "]);
    assert_eq!(answer.object_version.len(), 1);
    // The whole volume: what is there now withdraws the marker.
    house.vault(&["set", "shop/gone", "here=now"]);
    let answer = provider.mount(house.request(&web(), "- { secret: shop/gone, optional: true }\n")).await.unwrap();
    assert_eq!(shown(&answer), ["gone 0644 now"]);
}

#[tokio::test]
async fn a_version_reveals_nothing_and_changes_with_the_secret_alone() {
    let house = House::new("");
    let provider = house.serve();
    let version = async || provider.mount(house.request(&web(), DB)).await.unwrap().object_version[0].clone();
    let first = version().await;
    assert_eq!(first.id, "files/shop/db");
    assert_eq!(version().await, first);
    house.vault(&["set", "shop/db", "username=app", "password=rotated"]);
    let second = version().await;
    assert_eq!(second.id, first.id);
    assert_ne!(second.version, first.version);
    // A restart changes nothing: it does not rewrite a Pod's files.
    drop(provider);
    let provider = house.serve();
    assert_eq!(provider.mount(house.request(&web(), DB)).await.unwrap().object_version[0], second);
}

#[tokio::test]
async fn what_older_drivers_send_besides_is_no_matter() {
    use keyferry::server::proto::ObjectVersion;
    let house = House::new("");
    let provider = house.serve();
    let mut request = house.request(&web(), DB);
    request.current_object_version = vec![ObjectVersion { id: "files/shop/db".into(), version: "1".into() }];
    assert_eq!(shown(&provider.mount(request).await.unwrap()), [DB_SHOWN]);
}

#[tokio::test]
async fn a_mount_answers_before_the_callers_deadline() {
    let house = House::new("");
    let provider = house.serve_hanging();
    for (number, seconds) in [1, 2, 4].into_iter().enumerate() {
        let (limit, began) = (Duration::from_secs(seconds), Instant::now());
        let status = provider.mount_within(house.request(&web(), &hanging(number)), limit).await.unwrap_err();
        assert!(began.elapsed() < limit, "{:?} of {limit:?}", began.elapsed());
        assert_no_trap(&status);
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        assert!(status.message().starts_with("BackendTimeout: "), "{status:?}");
    }
    assert_eq!(shown(&provider.mount(house.request(&web(), DB)).await.unwrap()), [DB_SHOWN]);
}

/// Every republish becomes a mount, each minute, for each Pod. It must cost almost nothing, and say nothing new.
#[tokio::test]
async fn republishing_is_cheap() {
    let house = House::new("");
    let provider = house.serve();
    let mut client = provider.client().await;
    let request = house.request(&web(), DB);
    tokio::time::sleep(Duration::from_millis(200)).await; // until the vault's file is old enough to be known again
    let ticks = || provider_ticks(&provider);
    client.mount(request.clone()).await.unwrap();
    let before = ticks();
    for _ in 0..1000 {
        client.mount(request.clone()).await.unwrap();
    }
    let milliseconds = (ticks() - before) * 10;
    assert!(milliseconds < 3000, "1000 mounts took {milliseconds} ms of processor, unoptimised");
    assert_eq!(house.audit().len(), 1, "the audit has the same thing once");
    assert!(provider.end().await.success());
    let audit = house.audit();
    assert_eq!((audit.len(), &audit[1]["repeats"]), (2, &json!(1000)), "and counted");
}

/// Processor time so far, in hundredths of a second (`/proc/PID/stat`, fields 14 and 15).
fn provider_ticks(provider: &crate::support::Provider) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", provider.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
