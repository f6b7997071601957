//! The keeper's calls: what one store, disk or namespace does has no effect on the others.

use std::sync::mpsc;

use super::*;

/// Another store with this name and the table of the bench.
fn another(name: &str, bench: &Bench) -> (Arc<Fake>, Leased) {
    let fake = Arc::new(fake(&bench.clock));
    let stack = store(name, &fake, "https://other", &bench.leases);
    (fake, stack)
}

async fn issue(stack: &Leased, namespace: &str, backend: &str, names: impl Iterator<Item = String>) {
    for name in names {
        let asked = SecretRef::read(backend.parse().unwrap(), name.parse().unwrap());
        stack.fetch(&asked, &context_in(namespace, &format!("of-{backend}"))).await.unwrap();
    }
}

impl Bench {
    /// How many leases of a backend mounts get.
    fn given(&self, backend: &str) -> usize {
        self.leases.lock().records.values().filter(|record| record.store.name.as_str() == backend && record.secret.is_some()).count()
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_answers_costs_another_no_lease() {
    let bench = Bench::new();
    let (healthy, stack) = another("quick", &bench);
    bench.fake.rule(|rules| (rules.ttl, rules.silent) = (60, Some("")));
    healthy.rule(|rules| (rules.ttl, rules.slow) = (20, Duration::from_millis(100)));
    issue(&bench.leased, "shop", "bao", (0..120).map(|n| format!("db/creds/{n}"))).await;
    issue(&stack, "shop", "quick", (0..40).map(|n| format!("db/creds/{n}"))).await;
    for _ in 0..60 {
        pass(10).await;
        assert_eq!(bench.given("quick"), 40, "none is lost");
    }
    assert!(healthy.renewed() >= 40 * 600 / 16 && healthy.most() <= 8);
    assert_eq!((bench.given("bao"), bench.fake.most()), (0, 4), "a lone namespace has half of the calls at once");
}

#[tokio::test(start_paused = true)]
async fn thousands_that_are_due_at_once_are_renewed_eight_at_a_time() {
    let bench = Bench::new();
    for n in 0..13 {
        bench.fill(&format!("t{n}"), 4096).await;
    }
    assert_eq!(bench.given("bao"), 4096);
    // All of them are due before anything is done, and the store is slow.
    bench.task.abort();
    pass(2800).await;
    bench.fake.rule(|rules| rules.slow = Duration::from_millis(500));
    let leases = Arc::clone(&bench.leases);
    let keeper = tokio::spawn(async move { leases.run().await });
    pass(800).await;
    keeper.abort();
    let most = bench.fake.most();
    assert!((7..=8).contains(&most), "{most}");
    assert_eq!((bench.given("bao"), bench.fake.renewed(), bench.fake.issued()), (4096, 4096, 4096), "all in time, and once");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_timed_out_is_asked_one_at_a_time_until_it_answers() {
    let bench = Bench::new();
    for namespace in ["shop", "bank", "mill"] {
        bench.fill(namespace, 60).await;
    }
    // All of them are due before anything is done.
    bench.task.abort();
    pass(2760).await;
    bench.fake.rule(|rules| rules.silent = Some(""));
    let leases = Arc::clone(&bench.leases);
    let keeper = tokio::spawn(async move { leases.run().await });
    pass(10).await;
    assert_eq!(bench.fake.most(), 6, "nobody knows that they will not be answered");
    pass(60).await;
    bench.fake.most();
    pass(120).await;
    assert_eq!(bench.fake.most(), 1);
    let asked = bench.fake.renewed();
    pass(120).await;
    assert!((3..=5).contains(&(bench.fake.renewed() - asked)), "each for its 30 s");
    bench.fake.rule(|rules| (rules.silent, rules.slow) = (None, Duration::from_millis(100)));
    pass(70).await;
    assert!(bench.fake.most() > 1);
    assert_eq!((bench.given("bao"), bench.fake.issued()), (180, 180), "not one was lost");
    pass(4 * 3600).await;
    assert_eq!(bench.fake.issued(), 180);
    keeper.abort();
}

#[tokio::test(start_paused = true)]
async fn a_thousand_leases_of_one_namespace_delay_no_other_namespaces() {
    let bench = Bench::new();
    // There is more to renew than is possible: 2,000 leases of 30 s, and each call takes a tenth of a second.
    bench.fake.rule(|rules| rules.ttl = 30);
    assert!(bench.fill("evil", 2000).await.1.is_none());
    bench.ask("shop", "a", "db/creds/app").await.unwrap();
    bench.fake.rule(|rules| rules.slow = Duration::from_millis(100));
    for _ in 0..60 {
        pass(10).await;
        let records = bench.leases.lock().records.values().filter(|record| *record.place.tenant() == "shop".into()).count();
        assert_eq!(records, 1);
    }
    bench.fake.rule(|rules| rules.slow = Duration::ZERO);
    assert_eq!(bench.ask("shop", "a", "db/creds/app").await.map(|given| user(&given)).unwrap(), "user-2001");
}

/// The store works, but something behind one namespace's engine hangs.
#[tokio::test(start_paused = true)]
async fn a_path_that_hangs_is_its_namespaces_own_trouble() {
    let bench = Bench::new();
    bench.fake.rule(|rules| (rules.ttl, rules.silent) = (30, Some("evil")));
    for n in 0..8 {
        bench.fill(&format!("evil-{n}"), 100).await;
    }
    bench.fake.rule(|rules| rules.ttl = 20);
    for n in 0..20 {
        bench.ask("shop", "a", &format!("db/creds/{n}")).await.unwrap();
    }
    let shops = || bench.leases.lock().records.values().filter(|record| *record.place.tenant() == "shop".into()).count();
    for round in 0..60 {
        // The namespaces that hang always have new ones.
        for n in 0..8 {
            let _ = bench.ask(&format!("evil-{n}"), &format!("r-{round}"), &format!("evil-{n}/{round}")).await;
        }
        pass(10).await;
        assert_eq!(shops(), 20, "round {round}");
    }
    assert!(bench.fake.most() <= 8);
}

#[tokio::test(start_paused = true)]
async fn a_class_that_leads_to_a_silent_server_silences_no_other() {
    let bench = Bench::new();
    bench.fake.rule(|rules| (rules.ttl, rules.silent) = (30, Some("evil")));
    for n in 0..200 {
        let asked = secret(&format!("evil/{n}")).with(|asked| asked.login.address = Some(format!("https://evil-{n}")));
        bench.leased.fetch(&asked, &context_in("evil", &format!("p-{}", n / 100))).await.unwrap();
    }
    bench.ask("shop", "a", "db/creds/app").await.unwrap();
    pass(600).await;
    assert_eq!(bench.ask("shop", "a", "db/creds/app").await.map(|given| user(&given)).unwrap(), "user-201");
    let most = bench.fake.most();
    assert!(most <= 5, "its share of four, and one: {most}");
}

/// Writes that never end.
#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_delays_no_renewal_and_no_mount_for_long() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), [7; 32]).unwrap();
    let config = SealedConfig { dir: folder.path().join("cache"), keys: vec![folder.path().join("key")], bytes: 1 << 20 };
    let bench = Bench::with(Some(&Sealed::open(&config).unwrap()));
    bench.fake.rule(|rules| rules.ttl = 20);
    bench.user("a").await;
    let hung = bench.leases.disk.as_ref().unwrap().hang().await;
    let began = Instant::now();
    let given = bench.fetch("b", "db/creds/app").await.unwrap();
    assert_eq!((user(&given).as_str(), began.elapsed()), ("user-2", Duration::from_secs(5)), "given without it");
    for _ in 0..30 {
        pass(10).await;
        assert_eq!((bench.user("a").await.as_str(), bench.given("bao")), ("user-1", 2));
    }
    // Leases that come and go meanwhile leave nothing to write.
    bench.fake.rule(|rules| rules.renewable = false);
    for n in 0..50 {
        let _ = timeout(Duration::from_millis(1), bench.fetch("c", &format!("db/creds/{n}"))).await;
    }
    pass(60).await;
    assert!(bench.leases.lock().unsaved.len() <= 2, "{}", bench.leases.lock().unsaved.len());
    drop(hung);
    pass(10).await;
    assert!(bench.leases.lock().unsaved.is_empty());
    let files = std::fs::read_dir(folder.path().join("cache/leases")).unwrap().count();
    assert_eq!(files, 2);
}

/// kubelet's folder is on a file system that does not answer: threads hang, and nothing else.
#[tokio::test]
async fn a_folder_of_pods_that_hangs_delays_no_mount_for_long() {
    let bench = Bench::new();
    let (release, held) = mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    for tenant in ["shop", "bank", "mill", "farm"] {
        let held = Arc::clone(&held);
        let hangs = move || held.lock().unwrap().recv().unwrap_or_default();
        let soon = Instant::now() + Duration::from_millis(20);
        let _ = bench.leases.lookers.run(tenant, soon, hangs).await;
    }
    let began = Instant::now();
    assert_eq!(bench.user("a").await, "user-1");
    assert!((900..3000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert_eq!(bench.user("a").await, "user-1");
    assert!(began.elapsed() < Duration::from_secs(3), "it is not looked for again at once");
    drop(release);
}

#[tokio::test(start_paused = true)]
async fn leases_of_a_second_are_renewed_twice_a_second_at_the_most() {
    let bench = Bench::new();
    bench.fake.rule(|rules| rules.ttl = 1);
    assert!(bench.fill("evil", 100).await.1.is_none());
    bench.ask("shop", "a", "db/creds/app").await.unwrap();
    let before = bench.leases.rounds();
    pass(60).await;
    let (renewed, rounds) = (bench.fake.renewed(), bench.leases.rounds() - before);
    assert_eq!(bench.given("bao"), 101, "they live all the same");
    assert!((101 * 60..=101 * 120).contains(&renewed), "{renewed}");
    assert!(rounds <= 2 * renewed + 100, "{rounds} rounds for {renewed} calls");
}

#[tokio::test(start_paused = true)]
async fn an_idle_keeper_does_nothing() {
    let bench = Bench::new();
    pass(24 * 3600).await;
    assert!(bench.leases.rounds() <= 2, "no lease, no Pod, no timer: {}", bench.leases.rounds());
    bench.user("a").await;
    let before = bench.leases.rounds();
    pass(3600).await;
    let rounds = bench.leases.rounds() - before;
    assert!((60..=140).contains(&rounds), "a look each minute, and a renewal: {rounds}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_take_a_token_back_keeps_no_other_from_it() {
    let bench = Bench::new();
    let (other, stack) = another("quick", &bench);
    let folder = bench.kubelet.path().join("pods");
    for uid in ["of-bao", "of-quick", "other"] {
        std::fs::create_dir_all(folder.join(uid)).unwrap();
    }
    bench.fake.rule(|rules| rules.silent = Some(""));
    issue(&bench.leased, "shop", "bao", std::iter::once("db/creds/app".to_owned())).await;
    issue(&stack, "shop", "quick", std::iter::once("db/creds/app".to_owned())).await;
    // One Pod uses both.
    stack.fetch(&SecretRef::read("quick".parse().unwrap(), "db/creds/b".parse().unwrap()), &context_in("shop", "of-bao")).await.unwrap();
    std::fs::remove_dir(folder.join("of-bao")).unwrap();
    pass(200).await;
    assert_eq!((other.revoked(), other.forgotten.lock().unwrap().clone()), (vec!["lease-2".to_owned()], vec!["of-bao".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn at_shutdown_a_silent_namespace_or_store_keeps_no_other_from_being_revoked() {
    let bench = Bench::new();
    let (other, stack) = another("quick", &bench);
    bench.fill("evil", 500).await;
    for n in 0..20 {
        bench.ask("shop", "a", &format!("db/creds/{n}")).await.unwrap();
    }
    issue(&stack, "shop", "quick", (0..20).map(|n| format!("db/creds/{n}"))).await;
    bench.fake.rule(|rules| (rules.silent, rules.slow) = (Some("evil"), Duration::from_millis(500)));
    bench.leases.configure(LeasesConfig { revoke_at_shutdown: true });
    bench.leases.close(Instant::now() + Duration::from_secs(10)).await;
    assert_eq!((bench.fake.revoked().len(), other.revoked().len(), bench.fake.most()), (20, 20, 8));
}
