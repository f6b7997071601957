//! `keyferry status` with the real daemon: what it shows, who may ask, and what a bad client can hold.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;

use serde_json::{Value, json};

use crate::support::{House, Provider, apart, eventually, keyferry, pod, run, web};

const DB: &str = "- { secret: shop/db, field: password, path: password }\n";

fn ask(house: &House, arguments: &[&str]) -> (i32, String, String) {
    run(keyferry().arg("status").args(arguments).env("KEYFERRY_CONFIG", house.path("keyferry.yaml")), "")
}

fn document(house: &House) -> Value {
    let (code, out, err) = ask(house, &["-o", "json"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    serde_json::from_str(&out).unwrap()
}

async fn two_volumes(house: &House) -> Provider {
    let provider = house.serve();
    provider.mount(house.request(&web(), DB)).await.unwrap();
    provider.mount(house.request(&pod("bank", "till-0", "web"), DB)).await.unwrap_err();
    provider
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_sees_what_is_wrong_first() {
    let house = House::new("");
    let provider = two_volumes(&house).await;
    let (code, out, err) = ask(&house, &[]);
    assert_eq!((code, err.as_str()), (0, ""));
    let place = |text: &str| out.find(text).unwrap_or_else(|| panic!("no {text:?} in\n{out}"));
    assert!(
        place("keyferry 0.") < place("Volumes: 1 failing, 1 current")
            && place("  failing    1  bank/shop for ") < place("  current    1  shop/shop for "),
        "{out}"
    );
    assert!(out.contains("PolicyDenied, never delivered (Pods: till-0)") && out.contains("\n  files: ok\n"), "{out}");
    assert!(out.lines().all(|line| line.chars().count() <= 100 || line.contains(house.folder.path().to_str().unwrap())), "{out}");
    assert_eq!(ask(&house, &["-q"]), (0, String::new(), String::new()));
    drop(provider);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_gets_one_document_without_a_secret() {
    let house = House::new("");
    let provider = two_volumes(&house).await;
    let found = document(&house);
    assert_eq!((&found["v"], &found["version"], &found["problems"]), (&json!(1), &json!(env!("CARGO_PKG_VERSION")), &json!([])));
    assert_eq!((&found["volumes"]["current"], &found["volumes"]["failing"]), (&json!(1), &json!(1)));
    assert_eq!(found["backends"], json!([{ "name": "files", "healthy": true, "error": null, "lastFault": null, "leases": null }]));
    let pots: Vec<_> = found["memory"].as_array().unwrap().iter().map(|pot| pot["pot"].as_str().unwrap()).collect();
    assert_eq!(pots, ["calls", "mounts", "plans", "volumes", "leases"]);
    let sum = run(apart("sha256sum").arg(house.path("keyferry.yaml")), "").1;
    assert_eq!(found["configuration"]["sha256"].as_str().unwrap(), sum.split(' ').next().unwrap());
    for secret in ["correct horse", "password", "shop/db", "eyJ", "username"] {
        assert!(!found.to_string().contains(secret), "{secret} is in {found:#}");
    }
    drop(provider);
}

/// If somebody asks at that time, the configuration is what is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn it_answers_while_the_configuration_has_faults() {
    let house = House::new("");
    let provider = house.serve();
    let before = document(&house)["configuration"].clone();
    house.reconfigure("policy:", "polcy:");
    provider.signal(rustix::process::Signal::HUP);
    eventually("the status has the fault", async || document(&house)["configuration"]["fault"].is_string()).await;
    let found = document(&house);
    let configuration = &found["configuration"];
    assert_eq!((&configuration["sha256"], &configuration["since"]), (&before["sha256"], &before["since"]), "the former one is in force");
    assert!(configuration["fault"].as_str().unwrap().contains("polcy: is not a known key"), "{found:#}");
    let (_, out, _) = ask(&house, &[]);
    assert!(out.contains("  NOT CURRENT: "), "{out}");
    house.reconfigure("polcy:", "policy: # again");
    provider.signal(rustix::process::Signal::HUP);
    eventually("the fault is gone", async || document(&house)["configuration"]["fault"].is_null()).await;
    assert_ne!(document(&house)["configuration"]["sha256"], before["sha256"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_is_named_in_our_own_words() {
    let house = House::new("");
    let provider = house.serve();
    fs::rename(house.path("vault"), house.path("elsewhere")).unwrap();
    provider.mount(house.request(&web(), DB)).await.unwrap_err();
    let found = document(&house);
    let backend = &found["backends"][0];
    assert_eq!((&backend["healthy"], &backend["lastFault"]["fault"]), (&json!(false), &json!("unavailable")), "{found:#}");
    assert_eq!(backend["lastFault"]["text"], "the store could not be reached, or could not serve");
    assert_eq!(found["problems"].as_array().unwrap().len(), 1);
    let (_, out, _) = ask(&house, &[]);
    assert!(out.find("Problems (1)").unwrap() < out.find("Backends").unwrap() && out.contains("  files: FAILING: "), "{out}");
}

#[test]
fn where_no_daemon_runs_the_exit_code_says_so() {
    let house = House::new("");
    let (code, out, err) = ask(&house, &[]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("status.sock: cannot connect: ") && err.contains("is `keyferry serve` running here"), "{err}");
    let (code, out, _) = ask(&house, &["-o", "json"]);
    let told: Value = serde_json::from_str(&out).unwrap();
    assert!(code == 1 && told["v"] == 1 && err.contains(told["error"].as_str().unwrap()), "{code} {out}");
    let (code, _, err) = ask(&house, &["--state-dir", "/no/such"]);
    assert!(code == 1 && err.contains("/no/such/status.sock"), "{code} {err}");
    let (code, _, err) = run(keyferry().args(["status", "--config", "/no/such.yaml"]), "");
    assert!(code == 2 && err.contains("/no/such.yaml"), "{code} {err}");
    let provider = house.serve();
    assert_eq!(ask(&house, &["-q"]).0, 0);
    assert!(provider.stop().success());
    assert!(!house.path("state/status.sock").exists(), "it goes with the daemon");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_root_and_the_daemons_user_get_an_answer() {
    let house = House::new("");
    let _provider = house.serve();
    let socket = house.path("state/status.sock");
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(socket.clone()), mode(house.path("state"))), (0o600, 0o700));
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Even where somebody has opened the way.
    for path in [house.folder.path().to_owned(), house.path("state")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let program = house.path("keyferry");
    fs::copy(env!("CARGO_BIN_EXE_keyferry"), &program).unwrap();
    let as_other = || run(apart(&program).args(["status", "--state-dir"]).arg(house.path("state")).uid(12345).gid(12345), "");
    let (code, out, err) = as_other();
    assert!(code == 1 && out.is_empty() && err.contains("Permission denied") && err.contains("run the command as root"), "{err}");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let (code, out, err) = as_other();
    assert!(code == 1 && out.is_empty() && err.contains("user id 12345 may not ask: only root and the daemon's own user (0) may"), "{err}");
}

/// Connections are few, and none of them keeps the next one out.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_hold_on_keep_nobody_out() {
    let house = House::new("");
    let provider = two_volumes(&house).await;
    let socket = house.path("state/status.sock");
    let silent: Vec<_> = (0..50).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    assert_eq!(ask(&house, &["-q"]).0, 0);
    let unread: Vec<_> = (0..50)
        .map(|_| {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.write_all(b"GET /status HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
            stream
        })
        .collect();
    assert_eq!(ask(&house, &["-q"]).0, 0);
    // All but the last few are closed by now.
    let closed = silent.iter().filter(|stream| {
        stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        matches!((&mut &**stream).read(&mut [0; 16]), Ok(0))
    });
    assert_eq!(closed.count(), silent.len());
    drop(unread);
    for (request, status) in
        [("GET / HTTP/1.1", "404"), ("POST /status HTTP/1.1", "405"), ("GET /metrics HTTP/1.1", "404"), ("nonsense", "400")]
    {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(format!("{request}\r\nhost: x\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
    }
    provider.mount(house.request(&web(), DB)).await.unwrap();
}

/// A mount is more important than the status: a daemon that cannot have the socket serves all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_folder_with_a_long_path_costs_no_mount() {
    let house = House::new("");
    let long = house.path(&"x".repeat(100));
    house.reconfigure(&format!("stateDir: {}/state", house.folder.path().display()), &format!("stateDir: {}", long.display()));
    let provider = house.serve();
    provider.mount(house.request(&web(), DB)).await.unwrap();
    assert!(
        provider.log().contains("`keyferry status` gets no answer on this node: ")
            && provider.log().contains("(choose a shorter stateDir)"),
        "{}",
        provider.log()
    );
}
