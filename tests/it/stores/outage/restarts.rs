//! Answers that outlive the daemon, encrypted on the node's disk. The tests stop, kill and start the daemon, while its store is up, is down, or
//! denies.

use std::fs;
use std::mem;
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use super::{Outage, sealed};
use crate::support::{eventually, keyferry, pod, run, web};

/// One secret of several.
fn class(n: usize) -> Value {
    json!({ "objects": format!("- {{secret: kv/data/shop/s{n}, field: password, path: p}}") })
}

impl Outage {
    async fn sealed() -> Self {
        Self::with(sealed).await
    }

    /// Without a word: what is in memory is lost.
    fn kill(&mut self) {
        self.provider.signal(Signal::KILL);
        self.provider.wait();
        self.provider = self.store.house.serve();
    }

    fn stop(&mut self) {
        self.provider.signal(Signal::TERM);
        self.provider.wait();
        self.provider = self.store.house.serve();
    }

    fn files(&self, room: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.store.house.path("cache").join(room)).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).filter(|path| !path.file_name().unwrap().to_str().unwrap().starts_with('.')).collect()
    }

    /// Runs `keyferry cache ...`.
    fn cache(&self, arguments: &[&str]) -> (i32, String, String) {
        let config = self.store.house.path("keyferry.yaml");
        run(keyferry().arg("cache").args(arguments).arg("--config").arg(config), "")
    }

    fn listed(&self) -> Vec<String> {
        let (code, out, errors) = self.cache(&["list", "-o", "json"]);
        assert_eq!((code, errors.as_str()), (0, ""), "{out}");
        let document: Value = serde_json::from_str(&out).unwrap();
        document["answers"].as_array().unwrap().iter().map(|answer| answer["secret"].as_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test]
async fn pods_start_after_a_restart_while_the_store_is_down() {
    let mut outage = Outage::sealed().await;
    let good = Ok("correct horse".to_owned());
    assert_eq!(outage.mount(&web()).await, good);
    outage.stop();
    outage.cut();
    outage.stop();
    assert_eq!(outage.mount(&pod("shop", "web-1", "web")).await, good, "{}", outage.provider.log());
    assert_eq!(outage.last_object()["source"], "stale");
    assert!(outage.provider.get("/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(outage.mount(&pod("shop", "api-0", "api")).await.unwrap_err().starts_with("BackendUnavailable: "));
    assert!(outage.mount(&pod("bank", "web-0", "web")).await.unwrap_err().starts_with("PolicyDenied: "));
    let all = outage.files("answers").into_iter().flat_map(|file| fs::read(file).unwrap()).collect::<Vec<u8>>();
    assert!(!all.windows(7).any(|window| window == b"correct" || window == b"shop/db"));
    outage.repair();
    assert_eq!(outage.ask(&web()).await, good);
}

#[tokio::test]
async fn a_kill_loses_five_seconds_at_most() {
    let mut outage = Outage::sealed().await;
    assert_eq!(outage.mount(&web()).await, Ok("correct horse".to_owned()));
    eventually("it is on disk", async || outage.files("answers").len() == 1).await;
    outage.store.bao.put("kv", "shop/db", json!({ "password": "battery staple" })).await;
    assert_eq!(outage.mount(&web()).await, Ok("battery staple".to_owned()));
    sleep(Duration::from_secs(5)).await;
    outage.kill();
    outage.cut();
    assert_eq!(outage.mount(&web()).await, Ok("battery staple".to_owned()));
}

/// The daemon is killed directly after it has said no. What the store withdrew is not there, and Keyferry never gives it again.
#[tokio::test]
async fn what_was_taken_back_does_not_outlive_a_kill() {
    let mut outage = Outage::sealed().await;
    for round in 0..6 {
        for n in 0..4 {
            outage.store.bao.put("kv", &format!("shop/s{n}"), json!({ "password": format!("canary-{round}-{n}") })).await;
            assert_eq!(outage.mount_with(&web(), &class(n)).await, Ok(format!("canary-{round}-{n}")));
        }
        // At another moment each time: before, while and after it is written.
        let before = outage.files("answers").len();
        sleep(Duration::from_millis(900 * round)).await;
        outage.store.bao.must("DELETE", "kv/data/shop/s1", Value::Null).await;
        assert!(outage.mount_with(&web(), &class(1)).await.unwrap_err().starts_with("SecretNotFound: "));
        outage.provider.signal(Signal::KILL);
        outage.provider.wait();
        assert!(!outage.listed().contains(&"kv/data/shop/s1".to_owned()), "round {round}, {before} files before");
        outage.provider = outage.store.house.serve();
        outage.cut();
        let refused = outage.mount_with(&web(), &class(1)).await.unwrap_err();
        assert!(refused.starts_with("BackendUnavailable: "), "{refused}");
        if let Ok(value) = outage.mount_with(&web(), &class(2)).await {
            assert!(value.starts_with("canary-") && value.ends_with("-2"), "another's: {value}");
        }
        outage.repair();
        outage.kill();
    }
}

/// The store is silent and the daemon is new: a mount with little time gets what the disk has.
#[tokio::test]
async fn a_short_mount_after_a_restart_gets_its_answer_while_the_store_is_silent() {
    let mut outage = Outage::with(|store| format!("{}\nlimits: {{ timeout: 6s }}", sealed(store))).await;
    let good = Ok("correct horse".to_owned());
    assert_eq!(outage.mount(&web()).await, good);
    outage.stop();
    outage.proxy.blackhole(true);
    let began = Instant::now();
    assert_eq!(outage.mount(&web()).await, good);
    assert_eq!(outage.last_object()["source"], "stale");
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_refused_login_and_a_withdrawn_rule_outlive_a_restart() {
    let mut outage = Outage::sealed().await;
    let good = Ok("correct horse".to_owned());
    assert_eq!(outage.mount(&web()).await, good);
    outage.stop();
    let bao = &outage.store.bao;
    bao.must("DELETE", "auth/jwt/role/csi", Value::Null).await;
    assert!(outage.mount(&web()).await.unwrap_err().starts_with("BackendLoginFailed: "));
    assert_eq!((outage.files("logins").len(), outage.files("answers").len()), (1, 1));
    outage.kill();
    outage.cut();
    assert!(outage.mount(&web()).await.unwrap_err().starts_with("BackendUnavailable: "));
    outage.repair();
    outage.store.bao.jwt_role("jwt", "csi", "bao", json!({ "policies": ["csi"], "ttl": "1h" })).await;
    assert_eq!(outage.ask(&web()).await, good);
    outage.stop();
    outage.cut();
    assert_eq!(outage.mount(&web()).await, good, "it succeeds again");
    // Two starts: the rule is gone at the first, and comes back at the second.
    outage.store.house.reconfigure("bao/kv/data/shop/**", "bao/kv/data/other/**");
    outage.stop();
    // The daemon reads the disk in the background.
    eventually("the answer is gone with its rule", async || outage.files("answers").is_empty()).await;
    outage.store.house.reconfigure("bao/kv/data/other/**", "bao/kv/data/shop/**");
    outage.stop();
    assert!(outage.mount(&web()).await.unwrap_err().starts_with("BackendUnavailable: "));
}

#[tokio::test]
async fn a_wipe_works_on_a_running_daemon() {
    let outage = Outage::sealed().await;
    let good = Ok("correct horse".to_owned());
    assert_eq!(outage.mount(&web()).await, good);
    outage.store.bao.put("kv", "shop/s1", json!({ "password": "one" })).await;
    assert_eq!(outage.mount_with(&web(), &class(1)).await, Ok("one".to_owned()));
    eventually("both are on disk", async || outage.files("answers").len() == 2).await;
    let (code, out, errors) = outage.cache(&["list"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    let shown: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(shown[0], ["BACKEND", "SECRET", "NAMESPACE/SERVICEACCOUNT", "AGE", "BYTES"]);
    assert_eq!(shown[1][..3], ["bao", "kv/data/shop/db", "shop/web"]);
    assert!(!out.contains("horse"));
    outage.cut();
    assert_eq!(outage.mount(&web()).await, good);
    let (code, out, _) = outage.cache(&["wipe", "bao/kv/data/shop/d"]);
    assert_eq!(
        (code, out.as_str()),
        (0, "removed 1 answer of bao/kv/data/shop/d: Pods on this node do not get these earlier answers any more\n")
    );
    assert!(outage.mount(&web()).await.unwrap_err().starts_with("BackendUnavailable: "), "from memory neither");
    assert_eq!(outage.mount_with(&web(), &class(1)).await, Ok("one".to_owned()));
    let (code, out, errors) = outage.cache(&["wipe", "boa"]);
    assert_eq!((code, out.as_str()), (0, "removed 0 answers of boa: Pods on this node do not get these earlier answers any more\n"));
    assert_eq!(errors, "note: boa: no answer on this node's disk has a name that begins with this (`keyferry cache list` shows all)\n");
    let (code, out, _) = outage.cache(&["wipe", "-o", "json"]);
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &document["removed"], &document["wiped"]), (0, &json!(1), &Value::Null));
    assert!(outage.mount_with(&web(), &class(1)).await.is_err());
    outage.repair();
    assert_eq!(outage.ask(&web()).await, good);
    outage.cut();
    assert_eq!(outage.mount(&web()).await, good, "what the store said since");
}

/// With `stale: 0` the folder has leases only.
#[tokio::test]
async fn without_stale_no_answer_is_on_disk() {
    let mut outage = Outage::sealed().await;
    outage.store.house.reconfigure("stale: 24h", "stale: 0");
    outage.stop();
    assert_eq!(outage.mount(&web()).await, Ok("correct horse".to_owned()));
    outage.stop();
    let until = Instant::now() + Duration::from_secs(1);
    sleep(until - Instant::now()).await;
    assert!(outage.files("answers").is_empty());
    let Outage { provider, .. } = outage;
    mem::drop(provider);
}
