//! A configuration changed while the daemon runs.

use std::fs;
use std::os::unix::fs::symlink;

use tokio::time::{Duration, Instant, sleep};

use crate::support::{House, Provider, apart, eventually, pod, shown, web};

const CLASS: &str = "[{ secret: shop/db, field: password, path: password }]";
const SHOP: &str = "pods: { namespace: shop }\n    read: [\"files/shop/**\"]";
const BANK: &str = "pods: { namespace: bank }\n    read: [\"files/shop/**\"]";

/// Waits until the log has a line with these words.
async fn until_logged(provider: &Provider, words: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !provider.log().contains(words) {
        assert!(Instant::now() < deadline, "never logged: {words}\n{}", provider.log());
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn sighup_takes_up_a_new_policy() {
    let house = House::new("");
    let provider = house.serve();
    let (ours, theirs) = (house.request(&web(), CLASS), house.request(&pod("bank", "p", "web"), CLASS));
    assert!(provider.mount(ours.clone()).await.is_ok());
    assert!(provider.mount(theirs.clone()).await.is_err());
    house.configure(BANK, "");
    provider.signal(rustix::process::Signal::HUP);
    until_logged(&provider, "the configuration is reloaded").await;
    assert!(provider.mount(ours).await.unwrap_err().message().starts_with("PolicyDenied: "));
    assert_eq!(shown(&provider.mount(theirs).await.unwrap()), ["password 0644 correct horse"]);
    assert!(provider.stop().success());
}

#[tokio::test]
async fn a_faulty_configuration_leaves_the_former_one_in_force_and_says_so() {
    let house = House::new("metrics: { listen: 127.0.0.1:0 }");
    let provider = house.serve();
    let good = fs::read_to_string(house.path("keyferry.yaml")).unwrap();
    fs::write(house.path("keyferry.yaml"), good.replace("policy:", "polcy:")).unwrap();
    provider.signal(rustix::process::Signal::HUP);
    until_logged(&provider, "the former one stays in force").await;
    assert!(provider.log().contains("did you mean `policy`?"));
    assert!(provider.mount(house.request(&web(), CLASS)).await.is_ok());
    assert!(provider.get("/readyz").await.starts_with("HTTP/1.1 503 "), "{}", provider.get("/readyz").await);
    assert!(provider.get("/readyz").await.contains("keyferry.yaml:"));
    assert!(provider.get("/metrics").await.contains("keyferry_config_current 0"));
    fs::write(house.path("keyferry.yaml"), good).unwrap();
    provider.signal(rustix::process::Signal::HUP);
    until_logged(&provider, "the configuration is reloaded").await;
    assert!(provider.get("/readyz").await.starts_with("HTTP/1.1 200 "), "{}", provider.get("/readyz").await);
    assert!(provider.get("/metrics").await.contains("keyferry_config_current 1"));
}

/// Only a process that remembers the newer revision knows that somebody put back an older one.
#[tokio::test]
async fn a_reload_forgets_nothing_of_a_backend_that_stays_the_same() {
    const OLDER: &str = "an older revision has replaced";
    let house = House::new("");
    let sealed = house.path("vault/shop/db.age");
    let first = fs::read(&sealed).unwrap();
    house.set("shop/db", &[("password", b"newer")]);
    let second = fs::read(&sealed).unwrap();
    let put_back = |content: &[u8]| {
        fs::write(house.path("draft"), content).unwrap();
        fs::rename(house.path("draft"), &sealed).unwrap();
    };
    let provider = house.serve();
    let logged = |words: &str| provider.log().matches(words).count();
    let mount = async || shown(&provider.mount(house.request(&web(), CLASS)).await.unwrap());
    for (reloads, extra, warnings) in [(1, "limits: { objects: 7 }", 1), (2, "limits: { perBackend: 7 }", 1)] {
        put_back(&second);
        assert_eq!(mount().await, ["password 0644 newer"]);
        house.configure(SHOP, extra);
        provider.signal(rustix::process::Signal::HUP);
        eventually("a reload", async || logged("the configuration is reloaded") >= reloads).await;
        put_back(&first);
        assert_eq!(mount().await, ["password 0644 correct horse"]);
        eventually("the warnings", async || logged(OLDER) >= warnings).await;
        assert_eq!(logged(OLDER), warnings, "with {extra}\n{}", provider.log());
    }
}

/// kubelet brings a changed ConfigMap by swapping the link `..data`; the file's own path stays a link through it.
#[tokio::test]
async fn a_swapped_configmap_is_taken_up_without_a_signal() {
    let house = House::new("");
    let volume = house.path("configmap");
    for (revision, rule) in [("..1", SHOP), ("..2", BANK)] {
        house.configure(rule, "");
        fs::create_dir_all(volume.join(revision)).unwrap();
        fs::rename(house.path("keyferry.yaml"), volume.join(revision).join("keyferry.yaml")).unwrap();
    }
    symlink("..1", volume.join("..data")).unwrap();
    symlink("..data/keyferry.yaml", volume.join("keyferry.yaml")).unwrap();
    symlink(volume.join("keyferry.yaml"), house.path("keyferry.yaml")).unwrap();
    let provider = house.serve();
    let theirs = house.request(&pod("bank", "p", "web"), CLASS);
    assert!(provider.mount(theirs.clone()).await.is_err());
    symlink("..2", volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    until_logged(&provider, "the configuration is reloaded").await;
    assert!(provider.mount(theirs).await.is_ok());
}

/// A FIFO in place of a secret holds the mount until somebody writes to it.
#[tokio::test]
async fn a_mount_under_way_ends_in_the_configuration_it_began_in() {
    let house = House::new("");
    let sealed = house.path("vault/shop/db.age");
    fs::rename(&sealed, house.path("kept.age")).unwrap();
    let provider = house.serve();
    let mut client = provider.client().await;
    let fifo = apart("mkfifo").arg(&sealed).status().unwrap();
    assert!(fifo.success());
    let request = house.request(&web(), CLASS);
    let under_way = tokio::spawn(async move { client.mount(request).await });
    sleep(Duration::from_millis(300)).await;
    house.configure(BANK, "");
    provider.signal(rustix::process::Signal::HUP);
    until_logged(&provider, "the configuration is reloaded").await;
    assert!(provider.mount(house.request(&web(), CLASS)).await.unwrap_err().message().starts_with("PolicyDenied: "));
    fs::remove_file(&sealed).unwrap();
    fs::rename(house.path("kept.age"), &sealed).unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(100), under_way).await.unwrap().unwrap();
    // It does not matter here whether the vault refuses a pipe or waits for it. The policy that let the mount in stays the old one.
    let refused = answer.err().map(|status| status.message().to_owned()).unwrap_or_default();
    assert!(!refused.starts_with("PolicyDenied: "), "{refused}");
}
