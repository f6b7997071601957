use super::*;
use crate::backend::stack::breaker::Breaker;
use crate::backend::stack::cache::{Cached, Standby, Table};
use crate::backend::stack::circuits::Circuits;
use crate::backend::stack::coalesce::Coalesced;
use crate::backend::stack::lease::{Leased, Leases};
use crate::backend::stack::limit::Limited;
use crate::backend::testing::conformance::{self, Store};
use crate::backend::{CacheConfig, Kind, Origin};
use crate::budget::Ceilings;
use crate::clock::{Clock, SystemClock};
use crate::telemetry::Metrics;

struct Filled {
    bench: Bench,
    config: FileConfig,
    backend: Arc<dyn Backend>,
    lag: Duration,
}

impl Filled {
    fn new(bench: Bench, backend: Arc<dyn Backend>) -> Self {
        Self { config: bench.config(), bench, backend, lag: Duration::ZERO }
    }
}

impl Store for Filled {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.backend)
    }

    fn kind(&self) -> &dyn Kind {
        &self.config
    }

    fn put(&self, name: &str, fields: &[(&str, &[u8])]) {
        self.bench.vault.set(&secret(name), &conformance::fields(fields)).unwrap();
    }

    fn remove(&self, name: &str) {
        self.bench.vault.lock().unwrap().remove(&secret(name)).unwrap();
    }

    fn name(&self) -> &'static str {
        "files"
    }

    fn lag(&self) -> Duration {
        self.lag
    }
}

#[tokio::test]
async fn the_file_vault_conforms() {
    let bench = Bench::new();
    let backend = Arc::new(bench.backend());
    conformance::hold(&Filled::new(bench, backend)).await;
}

#[tokio::test]
async fn a_limited_vault_conforms_with_places_for_all_and_with_one() {
    for places in [64, 1] {
        let bench = Bench::new();
        let backend = Arc::new(Limited::new(Arc::new(bench.backend()), "files".parse().unwrap(), places, Arc::default()));
        conformance::hold(&Filled::new(bench, backend)).await;
    }
}

/// With the layers of a store that is reached over a network.
#[tokio::test]
async fn a_vault_in_the_whole_stack_conforms_but_for_the_time_that_answers_are_kept() {
    for lag in [Duration::ZERO, Duration::from_millis(100)] {
        let (bench, name, metrics) = (Bench::new(), "files".parse::<BackendName>().unwrap(), Arc::new(Metrics::new()));
        let limited = Arc::new(Limited::new(Arc::new(bench.backend()), name.clone(), 4, Arc::clone(&metrics)));
        let (clock, times): (Arc<dyn Clock>, _) = (Arc::new(SystemClock), CacheConfig { fresh: lag, stale: Duration::from_hours(24) });
        let circuits = Circuits::new(&name, &[], 1 << 20, &clock);
        let table = Table::new(1 << 20, times, metrics.cache("files"), clock);
        let guarded = Arc::new(Breaker::new(limited, Arc::clone(&circuits)));
        let cached = Arc::new(Cached::new(guarded, Arc::clone(&table), times));
        let coalesced = Arc::new(Coalesced::new(cached, name.clone(), &metrics));
        let standby = Arc::new(Standby::new(coalesced, table, times, circuits));
        let leases = Leases::open(bench.folder.path(), None, Arc::new(SystemClock), metrics, &Ceilings::of(64 << 20)).0;
        let backend = Arc::new(Leased::new(standby, &name, Origin::default(), leases));
        conformance::hold(&Filled { lag, ..Filled::new(bench, backend) }).await;
    }
}
