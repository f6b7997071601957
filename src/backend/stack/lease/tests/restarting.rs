//! Leases are kept over a restart: a process that is killed writes nothing at its end.

use std::fs;

use super::*;
use crate::backend::stack::lease::record::Record;
use crate::model::{Args, LeaseFor, Login, LoginTls};

pub(super) struct Node {
    folder: TempDir,
}

impl Node {
    pub(super) fn new() -> Self {
        let folder = crate::backend::testing::folder();
        fs::write(folder.path().join("key"), [7; 32]).unwrap();
        Self { folder }
    }

    pub(super) fn sealed(&self) -> Arc<Sealed> {
        Sealed::open(&SealedConfig { dir: self.folder.path().join("cache"), keys: vec![self.folder.path().join("key")], bytes: 1 << 20 })
            .unwrap()
    }

    fn files(&self) -> usize {
        fs::read_dir(self.folder.path().join("cache/leases")).map_or(0, Iterator::count)
    }
}

impl Bench {
    /// The process is killed, and another one starts with the same store, kubelet and disk.
    pub(super) fn killed(self, node: &Node) -> Self {
        self.moved(node, "https://bao")
    }

    fn moved(self, node: &Node, origin: &str) -> Self {
        self.task.abort();
        let metrics = Arc::new(Metrics::new());
        let clock = Arc::clone(&self.clock);
        let leases =
            Leases::open(self.kubelet.path(), Some(&node.sealed()), clock as Arc<dyn Clock>, Arc::clone(&metrics), &Ceilings::of(64 << 20))
                .0;
        let stack = Arc::new(leased(&self.fake, origin, &leases));
        let run = Arc::clone(&leases);
        let task = tokio::spawn(async move { run.run().await });
        let kubelet = tempfile::tempdir().unwrap();
        let (fake, clock) = (Arc::clone(&self.fake), Arc::clone(&self.clock));
        let mut next = Self { fake, leases, leased: stack, metrics, clock, kubelet, task };
        let mut former = self;
        std::mem::swap(&mut next.kubelet, &mut former.kubelet);
        next
    }
}

#[tokio::test(start_paused = true)]
async fn a_killed_process_loses_no_lease() {
    let node = Node::new();
    let bench = Bench::with(Some(&node.sealed()));
    let first = bench.fetch("a", "db/creds/app").await.unwrap();
    assert_eq!(node.files(), 1, "on the disk before it is handed out");
    sleep(Duration::from_secs(100)).await;
    let bench = bench.killed(&node);
    assert_eq!(bench.fake.adopted.load(Ordering::Relaxed), 1);
    let again = bench.fetch("a", "db/creds/app").await.unwrap();
    assert_eq!((user(&again), again.source), (user(&first), Source::Fresh { age: Duration::from_secs(100) }));
    pass(4 * 3600).await;
    assert_eq!((bench.user("a").await.as_str(), bench.fake.issued()), ("user-1", 1), "renewed on and on");
    assert!(bench.counts("event=\"resumed\"} 1") && bench.counts("keyferry_leases{backend=\"bao\"} 1"));
    let bench = bench.killed(&node);
    assert_eq!(bench.user("a").await, "user-1", "with the times of its last renewal");
}

#[tokio::test(start_paused = true)]
async fn everything_about_it_is_as_it_was() {
    let node = Node::new();
    let bench = Bench::with(Some(&node.sealed()));
    let mut args = Args::default();
    args.insert("ttl", &serde_json::json!("24h"));
    args.insert("names", &serde_json::json!(["a", { "b": 1.5 }, u64::MAX]));
    let tls =
        LoginTls { ca: Some("/ca".into()), client: Some(("/c".into(), "/k".into())), server_name: Some("s".into()), skip_verify: true };
    let login = Login { role: Some("r".into()), namespace: Some("n".into()), tls: Some(Box::new(tls)), ..Login::default() };
    let asked = secret("pki/issue/web").with(|asked| {
        (asked.method, asked.args, asked.login, asked.lease, asked.version) =
            (Method::Post, args, login, LeaseFor::Shared, Some(Version::new("3")));
    });
    let first = bench.leased.fetch(&asked, &context("a")).await.unwrap();
    let bench = bench.killed(&node);
    let again = bench.leased.fetch(&asked, &context("a")).await.unwrap();
    assert_eq!((user(&first), bench.fake.issued()), (user(&again), 1));
    let (was, is) = (first.secret.lease.as_ref().unwrap(), again.secret.lease.as_ref().unwrap());
    assert_eq!((was.id.expose(), was.token.expose(), was.since, was.ends), (is.id.expose(), is.token.expose(), is.since, is.ends));
    assert_eq!(was.secret, is.secret);
}

#[tokio::test(start_paused = true)]
async fn what_another_store_issued_is_nothing_to_this_one() {
    let node = Node::new();
    let bench = Bench::with(Some(&node.sealed()));
    bench.user("a").await;
    let bench = bench.moved(&node, "https://other");
    pass(10).await;
    assert_eq!((bench.fake.adopted.load(Ordering::Relaxed), node.files()), (0, 0), "its token is shown to nobody");
    assert_eq!(bench.user("a").await, "user-2");
}

#[tokio::test(start_paused = true)]
async fn what_ended_meanwhile_is_gone() {
    let node = Node::new();
    let bench = Bench::with(Some(&node.sealed()));
    bench.user("a").await;
    bench.task.abort();
    pass(3700).await;
    let bench = bench.killed(&node);
    assert_eq!((bench.user("a").await.as_str(), node.files()), ("user-2", 1));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_went_meanwhile_is_missed_by_the_next_process() {
    let node = Node::new();
    let bench = Bench::with(Some(&node.sealed()));
    for uid in ["a", "other"] {
        fs::create_dir_all(bench.kubelet.path().join("pods").join(uid)).unwrap();
    }
    bench.user("a").await;
    fs::remove_dir(bench.kubelet.path().join("pods/a")).unwrap();
    let bench = bench.killed(&node);
    pass(200).await;
    assert_eq!((bench.fake.revoked(), node.files()), (vec!["lease-1".to_owned()], 0));
}

#[tokio::test(start_paused = true)]
async fn revoking_that_was_cut_short_goes_on() {
    let node = Node::new();
    let bench = Bench::with(Some(&node.sealed()));
    bench.user("a").await;
    bench.fake.rule(|rules| rules.slow = Duration::from_secs(1000));
    bench.task.abort();
    bench.leases.configure(LeasesConfig { revoke_at_shutdown: true });
    bench.leases.close(Instant::now() + Duration::from_secs(1)).await;
    bench.fake.rule(|rules| rules.slow = Duration::ZERO);
    let bench = bench.killed(&node);
    pass(20).await;
    assert_eq!((bench.fake.revoked(), node.files()), (vec!["lease-1".to_owned()], 0));
    assert_eq!(bench.user("a").await, "user-2");
}

#[tokio::test(start_paused = true)]
async fn what_was_replaced_is_not_given_again() {
    let node = Node::new();
    let bench = Bench::with(Some(&node.sealed()));
    bench.fake.rule(|rules| rules.renewable = false);
    bench.user("a").await;
    pass(2900).await;
    assert_eq!(bench.user("a").await, "user-2");
    pass(10).await;
    let bench = bench.killed(&node);
    assert_eq!((bench.user("a").await.as_str(), node.files()), ("user-2", 2));
    pass(900).await;
    assert_eq!(node.files(), 1, "nothing that has ended stays on the disk");
}

#[tokio::test(start_paused = true)]
async fn a_shared_lease_remembers_all_its_pods() {
    let node = Node::new();
    let bench = Bench::with(Some(&node.sealed()));
    for uid in ["a", "b"] {
        fs::create_dir_all(bench.kubelet.path().join("pods").join(uid)).unwrap();
        let shared = secret("db/creds/app").with(|asked| asked.lease = LeaseFor::Shared);
        bench.leased.fetch(&shared, &context(uid)).await.unwrap();
    }
    sleep(Duration::from_secs(1)).await;
    fs::remove_dir(bench.kubelet.path().join("pods/a")).unwrap();
    let bench = bench.killed(&node);
    pass(300).await;
    assert!(bench.fake.revoked().is_empty(), "b uses it still");
}

/// A namespace keeps everything that it had, and all of it counts.
#[tokio::test(start_paused = true)]
async fn what_a_former_process_left_counts_on_its_namespaces_share_and_beyond() {
    let node = Node::new();
    let bench = Bench::with(Some(&node.sealed()));
    bench.fill("evil", 300).await;
    let shared = secret("db/creds/app").with(|asked| asked.lease = LeaseFor::Shared);
    bench.leased.fetch(&shared, &context("a")).await.unwrap();
    bench.task.abort();
    // As if there had been more room than there is.
    as_many_as(&node, 2500);
    let bench = bench.killed(&node);
    let of = |bench: &Bench, namespace: &str| bench.leases.room.leases().of(namespace);
    assert_eq!((of(&bench, "evil"), of(&bench, "shop"), bench.given_to("evil")), (2500, 1, 300));
    assert_eq!(bench.ask("evil", "evil-0", "evil/0").await.map(|given| user(&given)).unwrap(), "user-1");
    let error = bench.ask("evil", "evil-9", "evil/new").await.unwrap_err();
    assert_eq!((error.fault, bench.fake.issued()), (Fault::TooLarge, 301));
    assert_eq!(bench.fill("shop", 1000).await.0, 797, "of 1,596 that are left half, with the one it had");
    pass(3700).await;
    assert_eq!((of(&bench, "evil"), bench.given_to("evil")), (300, 300), "what was not given ended by itself");
    bench.ask("evil", "evil-9", "evil/new").await.unwrap();
}

impl Bench {
    fn given_to(&self, namespace: &str) -> usize {
        let of = |record: &&Record| *record.place.tenant() == namespace.into() && record.secret.is_some();
        self.leases.lock().records.values().filter(of).count()
    }
}

/// Also with retired leases of the same kind.
fn as_many_as(node: &Node, count: usize) {
    let room = node.sealed().room("leases");
    let contents = room.read_all().unwrap().contents;
    let evil = |content: &&SecretBytes| String::from_utf8_lossy(content.expose()).contains("\"evil/0\"");
    let mut saved: serde_json::Value = serde_json::from_slice(contents.iter().find(evil).unwrap().expose()).unwrap();
    (saved["given"], saved["stage"]) = (serde_json::Value::Null, "Retired".into());
    for n in 300..count {
        let id = format!("{n:032x}");
        saved["id"] = id.as_str().into();
        room.write(&id, saved.to_string().as_bytes()).unwrap();
    }
}

/// Version 0.1.0 kept a shared lease for everybody who was the same to the store.
#[tokio::test(start_paused = true)]
async fn a_shared_lease_of_version_0_1_0_is_given_to_nobody_and_left_to_its_pods() {
    let node = Node::new();
    let bench = Bench::with(Some(&node.sealed()));
    for uid in ["a", "other"] {
        fs::create_dir_all(bench.kubelet.path().join("pods").join(uid)).unwrap();
    }
    let shared = secret("db/creds/app").with(|asked| asked.lease = LeaseFor::Shared);
    assert_eq!(user(&bench.leased.fetch(&shared, &context("a")).await.unwrap()), "user-1");
    bench.task.abort();
    as_version_0_1_0_wrote_it(&node);
    let bench = bench.killed(&node);
    let evil = FetchContext { pod: Arc::new(PodIdentity { namespace: "evil".into(), ..pod("b") }), ..context("b") };
    assert_eq!(user(&bench.leased.fetch(&shared, &evil).await.unwrap()), "user-2");
    assert_eq!(user(&bench.leased.fetch(&shared, &context("a")).await.unwrap()), "user-3", "nobody can say whose it was");
    pass(300).await;
    assert!(bench.fake.revoked().is_empty(), "a running Pod has it in a file");
    let bench = bench.killed(&node);
    assert_eq!(user(&bench.leased.fetch(&shared, &context("a")).await.unwrap()), "user-3");
    fs::remove_dir(bench.kubelet.path().join("pods/a")).unwrap();
    pass(200).await;
    assert_eq!(bench.fake.revoked(), ["lease-1", "lease-3"]);
}

/// Content exactly as version 0.1.0 wrote it: if a name in it changes here, every lease is lost at an upgrade.
#[tokio::test(start_paused = true)]
async fn a_pods_lease_of_version_0_1_0_is_found() {
    let node = Node::new();
    let origin =
        r#"(Endpoint(https://bao:8200), \"\", Pod { method: Kubernetes, mount: \"kubernetes\", role: Some(\"csi\"), audience: None })"#;
    let saved = r#"{"id":"0000000000000000000000000000002a","origin":"ORIGIN","holder":{"Pod":"a"},"secret":{"backend":"bao",
"name":"db/creds/app","version":null,"method":"GET","args":"{}","shared":false,"login":{"address":null,"audience":null,"mount":null,
"namespace":null,"role":null,"tls":null}},"given":{"fields":{"username":["Text","dXNlci00Mg=="]},"response":null,"version":null},
"lease":{"id":"bGVhc2UtNDI=","token":"dG9rZW4=","renewable":true,"since":"2026-01-02T03:00:00Z","ends":"2026-01-02T04:00:00Z"},
"life":3600000,"stage":"Kept","issued_for":"shop/web-a","issued":"2026-01-02T03:00:00Z","pods":{"a":false},"seen_in":"/pods"}"#;
    let content = saved.replace("ORIGIN", origin).replace('\n', "");
    let bench = Bench::with(Some(&node.sealed()));
    let room = node.sealed().room("leases");
    room.write("0000000000000000000000000000002a", content.as_bytes()).unwrap();
    let bench = bench.moved(&node, &origin.replace('\\', ""));
    assert_eq!((bench.user("a").await.as_str(), bench.fake.issued()), ("user-42", 0));
    let bench = bench.moved(&node, "https://elsewhere");
    assert_eq!((bench.user("a").await.as_str(), bench.fake.issued()), ("user-1", 1), "another origin is another store");
}

fn as_version_0_1_0_wrote_it(node: &Node) {
    let room = node.sealed().room("leases");
    for content in room.read_all().unwrap().contents {
        let mut saved: serde_json::Value = serde_json::from_slice(content.expose()).unwrap();
        let holder = &mut saved["holder"];
        assert!(holder["Account"].is_object(), "{holder}");
        *holder = serde_json::json!({ "Shared": "(BackendName(\"bao\"), Node, Entry)" });
        room.write(saved["id"].as_str().unwrap(), saved.to_string().as_bytes()).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_cannot_be_written_costs_no_mount() {
    let node = Node::new();
    let bench = Bench::with(Some(&node.sealed()));
    fs::remove_dir_all(node.folder.path().join("cache")).unwrap();
    fs::write(node.folder.path().join("cache"), "").unwrap();
    assert_eq!((bench.user("a").await, bench.user("a").await), ("user-1".into(), "user-1".into()));
}
