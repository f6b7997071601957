//! `delivery: provider`: a secret of a file vault changes, and the real binary writes the volumes without a mount, on real tmpfs mounts.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use keyferry::clock::SystemClock;
use keyferry::identity::Issuer;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::delivery::{Node, names, seen};
use crate::support::{ISSUER, Provider, TOKENS, apart, eventually, pod, tmpfs, tokens, web, with_mounts};

const PASSWORD: &str = "- { secret: shop/db, field: password }";

const BOTH: &str = "- { secret: shop/db, field: password }\n- { secret: shop/api, field: token }";

/// Longer than a look, a rest and a second look together. What has not happened by then does not happen.
const LONG: Duration = Duration::from_secs(9);

impl Node {
    fn set_password(&self, value: &str) {
        self.house.set("shop/db", &[("username", b"app"), ("password", value.as_bytes())]);
    }

    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        self.runtime.block_on(eventually(what, async || holds()));
    }

    fn sleep(&self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    /// The audit's lines of changes.
    fn changes(&self) -> Vec<Value> {
        self.house.audit().into_iter().filter(|line| line["event"] == "change").collect()
    }

    /// The first change: the audit has it once, as denied or failed with this code, and the volume keeps its files. Returns the line's error.
    fn refused(&self, provider: &Provider, volume: &Path, code: &str) -> String {
        let before = seen(volume);
        self.set_password("new");
        self.until("a line about it", || !self.changes().is_empty());
        self.set_password("newer");
        self.sleep(LONG);
        assert_eq!(seen(volume), before, "the former files stay");
        let lines = self.changes();
        assert_eq!((lines.len(), lines[0]["code"].as_str().unwrap()), (1, code), "{lines:?}");
        assert_eq!(provider.log().matches("a secret changed, but its volume could not be written").count(), 1, "{}", provider.log());
        let metrics = self.runtime.block_on(provider.get("/metrics"));
        assert!(metrics.contains(&format!("keyferry_changes_total{{outcome=\"failed\",code=\"{code}\"}} 1")), "{metrics}");
        assert!(metrics.contains("keyferry_changes_total{outcome=\"ok\",code=\"OK\"} 0"), "{metrics}");
        lines[0]["error"].as_str().unwrap().replace(self.kubelet.to_str().unwrap(), "KUBELET")
    }
}

const METRICS: &str = "metrics: { listen: 127.0.0.1:0 }";

/// A time long ago, like that of the folder of an unchanged volume.
fn make_old(volume: &Path) -> SystemTime {
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    fs::File::open(volume).unwrap().set_modified(old).unwrap();
    old
}

#[test]
fn a_changed_secret_is_in_the_pod_within_seconds() {
    with_mounts("changes::a_changed_secret_is_in_the_pod_within_seconds", |dir| {
        let (node, volume, provider) = Node::serving(dir, METRICS, "1m");
        let quiet = node.volume(&pod("shop", "quiet", "web"), "size=1m");
        node.house.set("shop/api", &[("token", b"1")]);
        node.mount(&provider, BOTH).unwrap();
        node.runtime.block_on(provider.mount(node.request(&pod("shop", "quiet", "web"), "- { secret: shop/api, field: token }"))).unwrap();
        let (old, untouched) = (make_old(&volume), fs::read_link(quiet.join("..data")).unwrap());
        node.sleep(Duration::from_secs(5));
        assert_eq!(node.changes(), [Value::Null; 0], "nothing changed yet");

        node.set_password("new");
        node.until("the new password", || seen(&volume)[0].ends_with(" new"));
        assert_eq!(seen(&volume), ["password 0644 0:0 new", "token 0644 0:0 1"]);
        assert_eq!(fs::metadata(&volume).unwrap().modified().unwrap(), old, "otherwise the driver skips its next mount");
        assert_eq!(fs::read_link(quiet.join("..data")).unwrap(), untouched);
        assert_eq!(names(&volume).len(), 4, "the former files are gone: {:?}", names(&volume));

        let lines = node.changes();
        assert_eq!(lines.len(), 1);
        let line = &lines[0];
        assert_eq!(
            json!([line["outcome"], line["pod"], line["uid"], line["class"], line["provider"], line["verified"], line["target"]]),
            json!(["delivered", "web-0", web().uid, "shop", "keyferry", true, volume.to_str().unwrap()])
        );
        let object = |n: usize| json!([line["objects"][n]["secret"], line["objects"][n]["version"], line["objects"][n]["outcome"]]);
        assert_eq!([object(0), object(1)], [json!(["shop/db", "2", "delivered"]), json!(["shop/api", "1", "delivered"])]);
        let metrics = node.runtime.block_on(provider.get("/metrics"));
        assert!(metrics.contains("keyferry_changes_total{outcome=\"ok\",code=\"OK\"} 1"), "{metrics}");
        assert!(metrics.contains("keyferry_volumes_watched 2"), "{metrics}");

        // The next mount finds it done, and tells the driver the new version.
        let data = fs::read_link(volume.join("..data")).unwrap();
        assert_eq!(node.mount(&provider, BOTH).unwrap().object_version[0].version, "2");
        assert_eq!(fs::read_link(volume.join("..data")).unwrap(), data);
        assert_eq!(provider.stop().code(), Some(0));
    });
}

/// Secrets below a prefix that come, change and go. Keyferry looks at the folders too.
#[test]
fn a_volume_follows_its_prefix() {
    with_mounts("changes::a_volume_follows_its_prefix", |dir| {
        let (node, volume, provider) = Node::serving(dir, METRICS, "1m");
        let files = || seen(&volume).join(" ");
        node.mount(&provider, "- { prefix: shop/certs/, fields: '*', optional: true, path: certs/ }").unwrap();
        assert_eq!(files(), "");
        node.house.set("shop/certs/web", &[("crt", b"1")]);
        node.until("the first secret", || fs::read_to_string(volume.join("certs/web/crt")).is_ok_and(|crt| crt == "1"));
        node.house.set("shop/certs/team/api", &[("crt", b"2")]);
        node.until("one in a folder", || fs::read_to_string(volume.join("certs/team/api/crt")).is_ok_and(|crt| crt == "2"));
        fs::remove_file(node.house.path("vault/shop/certs/web.age")).unwrap();
        node.until("one less", || !volume.join("certs/web/crt").exists());
        assert!(node.changes().iter().all(|line| line["outcome"] == "delivered"), "{:?}", node.changes());
    });
}

/// Each write changes the folder for a program that reads it. So there is at most one write in five seconds, and the last change counts.
#[test]
fn a_secret_that_changes_all_the_time_is_written_now_and_then() {
    with_mounts("changes::a_secret_that_changes_all_the_time_is_written_now_and_then", |dir| {
        let (node, volume, provider) = Node::serving(dir, METRICS, "1m");
        node.mount(&provider, PASSWORD).unwrap();
        let began = Instant::now();
        let (mut writes, mut last) = (0, fs::read_link(volume.join("..data")).unwrap());
        for n in 0..120 {
            node.set_password(&n.to_string());
            node.sleep(Duration::from_millis(100));
            let now = fs::read_link(volume.join("..data")).unwrap();
            writes += u32::from(now != last);
            last = now;
        }
        let most = began.elapsed().as_secs() / 5 + 1;
        assert!((2..=most).contains(&u64::from(writes)), "{writes} of at most {most}");
        node.until("the last one", || seen(&volume)[0].ends_with(" 119"));
    });
}

#[test]
fn policy_is_asked_as_it_is_now() {
    with_mounts("changes::policy_is_asked_as_it_is_now", |dir| {
        let (node, volume, provider) = Node::serving(dir, METRICS, "1m");
        node.mount(&provider, PASSWORD).unwrap();
        node.house.reconfigure("read: [\"files/shop/**\"]", "read: [\"files/shop/other\"]");
        provider.signal(rustix::process::Signal::HUP);
        node.until("a reload", || provider.log().contains("the configuration is reloaded"));
        insta::assert_snapshot!(node.refused(&provider, &volume, "PolicyDenied"), @r#"PolicyDenied: object 1 (password): files/shop/db: no rule of the policy allows ServiceAccount shop/web to read it (the cluster's admin can add a rule with read: ["files/shop/db"])"#);
    });
}

#[test]
fn a_token_that_has_ended_brings_nothing() {
    with_mounts("changes::a_token_that_has_ended_brings_nothing", |dir| {
        let (node, volume, provider) = Node::serving(dir, METRICS, "1m");
        let token = node.house.issuer.token(&web(), "keyferry", tokio::time::Duration::from_secs(4), &SystemClock).unwrap();
        let mut request = node.request(&web(), PASSWORD);
        let mut attributes: Value = serde_json::from_str(&request.attributes).unwrap();
        attributes[TOKENS] = tokens(&[("keyferry", &token)]).into();
        request.attributes = attributes.to_string();
        node.runtime.block_on(provider.mount(request)).unwrap();
        node.sleep(Duration::from_secs(5));
        let error = node.refused(&provider, &volume, "IdentityUnverified");
        assert!(error.starts_with("IdentityUnverified: expired: the token of the last mount expired at "), "{error}");
        // The next mount brings another.
        node.mount(&provider, PASSWORD).unwrap();
        node.set_password("newest");
        node.until("the new password", || seen(&volume)[0].ends_with(" newest"));
    });
}

#[test]
fn keys_that_changed_prove_nothing_any_more() {
    with_mounts("changes::keys_that_changed_prove_nothing_any_more", |dir| {
        let (node, volume, provider) = Node::serving(dir, METRICS, "1m");
        node.mount(&provider, PASSWORD).unwrap();
        fs::write(node.house.path("jwks.json"), Issuer::new(ISSUER).unwrap().jwks()).unwrap();
        insta::assert_snapshot!(node.refused(&provider, &volume, "IdentityUnverified"), @"IdentityUnverified: key: the keys changed after the token of the last mount was verified (the next mount of the volume brings a token; kubelet asks for it about once a minute)");
    });
}

#[test]
fn a_volume_that_is_gone_is_not_written() {
    with_mounts("changes::a_volume_that_is_gone_is_not_written", |dir| {
        let (node, volume, provider) = Node::serving(dir, METRICS, "1m");
        node.mount(&provider, PASSWORD).unwrap();
        assert!(apart("umount").arg(&volume).status().unwrap().success());
        insta::assert_snapshot!(node.refused(&provider, &volume, "InvalidRequest"), @"InvalidRequest: target_path: nothing is mounted at KUBELET/pods/uid-shop-web-0/volumes/kubernetes.io~csi/secrets/mount (the driver mounts a tmpfs there first)");
        assert_eq!(names(&volume).len(), 0, "written to the folder below the mount");
        fs::remove_dir_all(node.kubelet.join("pods").join(web().uid)).unwrap();
        node.set_password("gone");
        node.sleep(Duration::from_secs(3));
        assert!(!node.kubelet.join("pods").join(web().uid).exists());
    });
}

/// All files of a volume belong together. If Keyferry cannot get one, the others stay as they are.
#[test]
fn one_object_that_fails_keeps_all_files() {
    with_mounts("changes::one_object_that_fails_keeps_all_files", |dir| {
        let (node, volume, provider) = Node::serving(dir, METRICS, "1m");
        node.house.set("shop/api", &[("token", b"1")]);
        node.mount(&provider, BOTH).unwrap();
        node.house.vault(&["remove", "shop/api"]);
        insta::assert_snapshot!(node.refused(&provider, &volume, "SecretNotFound"), @"SecretNotFound: object 2 (token): files/shop/api: there is no such secret in the vault: shop/api.age is absent (make it with `keyferry vault set shop/api FIELD=@FILE`)");
        // It is back: what changed meanwhile comes with it.
        node.house.set("shop/api", &[("token", b"2")]);
        node.until("both", || seen(&volume) == ["password 0644 0:0 newer", "token 0644 0:0 2"]);
    });
}

/// `keyferry vault rekey` writes all files of the vault, and changes no secret.
#[test]
fn files_that_changed_without_their_secrets_write_nothing() {
    with_mounts("changes::files_that_changed_without_their_secrets_write_nothing", |dir| {
        let (node, volume, provider) = Node::serving(dir, METRICS, "1m");
        node.house.set("shop/api", &[("token", b"1")]);
        node.mount(&provider, BOTH).unwrap();
        node.sleep(Duration::from_secs(2));
        let (data, sealed) = (fs::read_link(volume.join("..data")).unwrap(), fs::read(node.house.path("vault/shop/db.age")).unwrap());
        node.house.vault(&["rekey"]);
        assert_ne!(fs::read(node.house.path("vault/shop/db.age")).unwrap(), sealed);
        node.sleep(LONG);
        // Another revision of the same content.
        node.set_password("correct horse");
        node.sleep(LONG);
        assert_eq!((fs::read_link(volume.join("..data")).unwrap(), node.changes()), (data, vec![]));
        assert!(!provider.log().contains("could not be written"), "{}", provider.log());
        node.set_password("new");
        node.until("the new password", || seen(&volume)[0].ends_with(" new"));
    });
}

/// Whatever replaces a vault or its files, a Pod has the former files until there is a secret again.
#[test]
fn what_is_no_secret_leaves_the_former_files() {
    with_mounts("changes::what_is_no_secret_leaves_the_former_files", |dir| {
        let (node, volume, provider) = Node::serving(dir, METRICS, "1m");
        node.mount(&provider, PASSWORD).unwrap();
        node.sleep(Duration::from_secs(5));
        let (before, file, aside) = (seen(&volume), node.house.path("vault/shop/db.age"), node.house.path("aside"));
        let errors = |count: usize| {
            node.until("a line about it", || node.changes().len() == count);
            assert_eq!(seen(&volume), before);
            let line = node.changes().pop().unwrap();
            line["error"].as_str().unwrap().replace(node.house.path("").to_str().unwrap(), "HOUSE/")
        };
        // In one step: between two steps, a look would find no file at all.
        let pipe = node.house.path("pipe");
        assert!(apart("mkfifo").arg(&pipe).status().unwrap().success());
        fs::hard_link(&file, &aside).unwrap();
        fs::rename(&pipe, &file).unwrap();
        insta::assert_snapshot!(errors(1), @"SecretCorrupt: object 1 (password): files/shop/db: shop/db.age is not a regular file (remove it, and set the secret again)");
        fs::remove_file(&file).unwrap();
        insta::assert_snapshot!(errors(2), @"SecretNotFound: object 1 (password): files/shop/db: there is no such secret in the vault: shop/db.age is absent (make it with `keyferry vault set shop/db FIELD=@FILE`)");
        fs::rename(&aside, &file).unwrap();
        // The vault is not there, while another one takes its place.
        let vault = node.house.path("vault");
        fs::rename(&vault, &aside).unwrap();
        node.sleep(LONG);
        assert_eq!((seen(&volume), node.changes().len()), (before.clone(), 2));
        fs::rename(&aside, &vault).unwrap();
        node.set_password("new");
        node.until("the new password", || seen(&volume)[0].ends_with(" new"));
        // The vault's folder without a vault in it, as when its volume is not mounted.
        fs::rename(&vault, &aside).unwrap();
        fs::create_dir(&vault).unwrap();
        node.until("a line about it", || node.changes().len() == 4);
        insta::assert_snapshot!(node.changes()[3]["error"].as_str().unwrap(), @"BackendUnavailable: object 1 (password): files/shop/db: the vault's folder is not a vault: it has no list of recipients, .recipients (is its volume mounted, and synced? `keyferry vault init` makes a vault)");
        assert!(seen(&volume)[0].ends_with(" new"));
    });
}

/// Only kubelet brings another class. After a mount that failed, Keyferry writes nothing until a mount has succeeded.
#[test]
fn the_class_is_the_last_mounts() {
    with_mounts("changes::the_class_is_the_last_mounts", |dir| {
        let (node, volume, provider) = Node::serving(dir, METRICS, "1m");
        node.house.set("shop/api", &[("token", b"1")]);
        let optional = "- { secret: shop/api, field: token, optional: true }";
        node.mount(&provider, BOTH).unwrap();
        node.mount(&provider, optional).unwrap();
        node.set_password("not asked for");
        node.house.set("shop/api", &[("token", b"2")]);
        node.until("the new class alone", || seen(&volume) == ["token 0644 0:0 2"]);
        node.sleep(Duration::from_secs(5));
        node.house.vault(&["remove", "shop/api"]);
        node.until("an optional object that is gone", || seen(&volume) == [""; 0]);
        node.sleep(Duration::from_secs(5));
        node.house.set("shop/api", &[("token", b"3")]);
        node.until("an optional object that is there again", || seen(&volume) == ["token 0644 0:0 3"]);

        node.mount(&provider, "- { secret: bank/db }").unwrap_err();
        node.sleep(Duration::from_secs(5));
        node.house.set("shop/api", &[("token", b"4")]);
        node.sleep(Duration::from_secs(3));
        assert_eq!(seen(&volume), ["token 0644 0:0 3"]);
        node.mount(&provider, optional).unwrap();
        assert_eq!(seen(&volume), ["token 0644 0:0 4"]);
    });
}

#[test]
fn without_its_audit_line_no_change_is_written() {
    with_mounts("changes::without_its_audit_line_no_change_is_written", |dir| {
        let disk = tmpfs(&dir.join("disk"), "size=64k");
        let extra = format!("{METRICS}\naudit: {{ file: {}, failClosed: true }}", disk.join("audit.jsonl").display());
        let (node, volume, provider) = Node::serving(dir, &extra, "1m");
        node.mount(&provider, PASSWORD).unwrap();
        let (before, audit) = (seen(&volume), disk.join("audit.jsonl"));
        // The last page of the file has room for other lines.
        let filler = 4096 - usize::try_from(fs::metadata(&audit).unwrap().len()).unwrap() % 4096;
        fs::OpenOptions::new().append(true).open(&audit).unwrap().write_all(&vec![b'\n'; filler]).unwrap();
        fs::write(disk.join("full"), vec![b'x'; 64 * 1024]).unwrap_err();
        node.set_password("new");
        node.until("a word on it", || provider.log().contains("AuditUnavailable: the audit line could not be written"));
        node.sleep(Duration::from_secs(2));
        assert_eq!(seen(&volume), before);
        fs::remove_file(disk.join("full")).unwrap();
        node.until("the new password", || seen(&volume)[0].ends_with(" new"));
        assert!(fs::read_to_string(&audit).unwrap().contains("\"event\":\"change\""));
    });
}

/// The driver writes: the daemon looks at no file.
#[test]
fn with_the_driver_nothing_is_watched() {
    with_mounts("changes::with_the_driver_nothing_is_watched", |dir| {
        let (node, _, provider) = Node::serving(dir, METRICS, "1m");
        node.mount(&provider, PASSWORD).unwrap();
        let watched = async || {
            let metrics = provider.get("/metrics").await;
            metrics.lines().find_map(|line| line.strip_prefix("keyferry_volumes_watched ")).unwrap().to_owned()
        };
        assert_eq!(node.runtime.block_on(watched()), "1");
        node.house.reconfigure("delivery: provider", "delivery: driver");
        provider.signal(rustix::process::Signal::HUP);
        node.runtime.block_on(eventually("none", async || watched().await == "0"));
        assert_eq!(node.mount(&provider, PASSWORD).unwrap().files.len(), 1);
        assert_eq!(node.runtime.block_on(watched()), "0");
    });
}

/// 250 volumes with ten secrets each, and what they cost: `cargo nextest run --run-ignored only changes::the_cost`. The figures are then in
/// `target/tmp/changes.txt`.
#[test]
#[ignore = "takes minutes, and needs a machine with nothing else to do"]
fn the_cost() {
    with_mounts("changes::the_cost", |dir| {
        const PODS: usize = 250;
        // As in the manifests.
        let limits = "limits: { memory: 512MiB, volumeBytes: 128MiB }";
        let (node, _, provider) = Node::serving(dir, &format!("{METRICS}\n{limits}"), "1m");
        let pods: Vec<_> = (0..PODS).map(|n| pod("shop", &format!("p{n}"), "web")).collect();
        for (n, pod) in pods.iter().enumerate() {
            let names: Vec<_> = (0..9).map(|secret| format!("shop/{n}/{secret}")).chain(["shop/db".to_owned()]).collect();
            for name in &names[..9] {
                node.house.set(name, &[("value", b"1")]);
            }
            node.volume(pod, "size=1m");
            let objects: String =
                names.iter().map(|name| format!("- {{ secret: {name}, path: \"{}\" }}\n", name.replace('/', "-"))).collect();
            node.runtime.block_on(provider.mount(node.request(pod, &objects))).unwrap();
        }
        node.sleep(Duration::from_secs(10));
        let used = || {
            let text = fs::read_to_string(format!("/proc/{}/stat", provider.pid())).unwrap();
            // proc(5): utime and stime, the fields 14 and 15, in hundredths of a second. What follows the bracket begins with field 3.
            let fields: Vec<_> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        };
        let before = used();
        node.sleep(Duration::from_secs(40));
        let mut told = format!("idle: {:.3} % of a core\n", f64::from(u32::try_from(used() - before).unwrap()) / 40.0);
        let metrics = node.runtime.block_on(provider.get("/metrics"));
        assert!(metrics.contains(&format!("keyferry_volumes_watched {PODS}")), "all have a place");

        let time_of = |pod: &keyferry::model::PodClaims, file: &str, began: Instant| {
            let (before, file) = (fs::metadata(node.target(pod).join(file)).unwrap().ino(), file.to_owned());
            move |volume: &Path| (fs::metadata(volume.join(&file)).unwrap().ino() != before).then(|| began.elapsed())
        };
        let mut report = |what: &str, mut times: Vec<Duration>| {
            times.sort_unstable();
            let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
            writeln!(told, "{what}: p50 {:?} p99 {:?} most {:?}", at(50), at(99), times.last().unwrap()).unwrap();
        };
        // One after the other, at any moment of the second.
        let mut times = Vec::new();
        for (n, pod) in pods.iter().enumerate().take(60) {
            node.sleep(Duration::from_millis(37 * (n as u64 % 27)));
            let look = time_of(pod, &format!("shop-{n}-3"), Instant::now());
            node.house.set(&format!("shop/{n}/3"), &[("value", b"2")]);
            node.until("it", || look(&node.target(pod)).map(|time| times.push(time)).is_some());
        }
        report("one", times);
        // One that all volumes use, once none rests that was written just now.
        node.sleep(Duration::from_secs(6));
        let began = Instant::now();
        let mut waiting: Vec<_> = pods.iter().map(|pod| (node.target(pod), time_of(pod, "shop-db", began))).collect();
        node.set_password("new");
        let mut times = Vec::new();
        while !waiting.is_empty() {
            waiting.retain(|(volume, look)| look(volume).map(|time| times.push(time)).is_none());
            node.sleep(Duration::from_millis(5));
        }
        report("all", times);
        fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("changes.txt"), told).unwrap();
    });
}
