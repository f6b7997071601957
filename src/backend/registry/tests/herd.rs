//! Ten thousand Pods on forty nodes, and a store that is out for twenty minutes: how many requests it gets when it answers again.

use tokio::time::sleep;

use super::*;
use crate::backend::{Fault, FetchContext};

const NODES: usize = 40;
const PODS: usize = 250;

/// ServiceAccounts of a node, each with one secret.
const ACCOUNTS: usize = 50;

const FRESH: Duration = Duration::from_mins(10);

struct Herd {
    store: Arc<Fake>,
    nodes: Vec<Arc<dyn Backend>>,
    secrets: Vec<crate::model::SecretRef>,
    pods: Vec<FetchContext>,
    /// The store's calls in each minute.
    calls: Vec<usize>,
}

impl Herd {
    fn new() -> Self {
        let (clock, metrics): (Arc<dyn Clock>, Arc<Metrics>) = (Arc::new(SystemClock), Arc::default());
        let leases = leases(&clock, &metrics);
        let parts = BackendParts { clock: &clock, metrics: &metrics, leases: &leases, kept: Ceilings::of(64 << 20), archive: None };
        let (store, name): (_, BackendName) = (Fake::new(), "bao".parse().unwrap());
        let secrets: Vec<_> = (0..ACCOUNTS).map(|n| secret(&format!("kv/{n}"))).collect();
        for secret in &secrets {
            store.put(secret.name.as_str(), &[("password", b"v1")]);
        }
        let config = BackendConfig::File(FileConfig { vault: "/v".into(), identity: Vec::new() });
        let cache = Some(CacheConfig { fresh: FRESH, stale: Duration::from_hours(24) });
        let nodes = (0..NODES).map(|_| {
            let plan =
                StackPlan { config: config.clone(), calls: 64, secret_bytes: 1 << 20, cache, kept: 8 << 20, clients: 0, held: 1 << 20 };
            let (answers, circuits) = (plan.answers(&name, parts, None), plan.circuits(&name, parts, None));
            plan.decorate(Arc::clone(&store) as Arc<dyn Backend>, &name, parts, answers.as_ref(), circuits.as_ref())
        });
        let pods = (0..PODS).map(|n| context(&format!("uid-{n}"), &format!("sa-{}", n % ACCOUNTS), Duration::from_hours(24)));
        Self { store: Arc::clone(&store), nodes: nodes.collect(), secrets, pods: pods.collect(), calls: Vec::new() }
    }

    /// Each Pod mounts once, each in another second.
    async fn minute(&mut self) -> usize {
        let before = self.store.calls();
        for second in 0..60 {
            for (at, node) in self.nodes.iter().enumerate() {
                for (n, cx) in self.pods.iter().enumerate().filter(|(n, _)| (n * 7 + at) % 60 == second) {
                    let secret = &self.secrets[n % ACCOUNTS];
                    if node.recall(secret, cx, Instant::now()).is_none() {
                        node.fetch(secret, cx).await.unwrap();
                    }
                }
            }
            sleep(Duration::from_secs(1)).await;
        }
        self.calls.push(self.store.calls() - before);
        self.store.calls() - before
    }
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_the_store_gets_at_most_twice_its_usual_calls() {
    let mut herd = Herd::new();
    for _ in 0..21 {
        herd.minute().await;
    }
    // Without the first ten minutes, when all secrets are asked for the first time.
    let usual = herd.calls[10..].iter().sum::<usize>() / 11;
    herd.store.is_out(Some(Fault::Down));
    for _ in 0..20 {
        herd.minute().await;
    }
    let out = &herd.calls[21..];
    assert!(out.iter().all(|calls| *calls <= 5 * NODES), "each node asks now and then: {out:?}");
    herd.store.is_out(None);
    for _ in 0..12 {
        let calls = herd.minute().await;
        // About twice as many: the first answers are too old again before the last ones are asked for.
        assert!(calls <= 2 * usual + 80, "{calls} of usually {usual} a minute: {:?}", herd.calls);
    }
    let after = &herd.calls[41..];
    assert!(after.iter().sum::<usize>() >= NODES * ACCOUNTS, "each is asked for again: {after:?}");
}
