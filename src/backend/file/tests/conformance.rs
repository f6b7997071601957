use super::*;
use crate::backend::conformance::{self, Store};
use crate::backend::limit::Limited;

struct Filled {
    bench: Bench,
    backend: Arc<dyn Backend>,
}

impl Store for Filled {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.backend)
    }

    fn put(&self, name: &str, fields: &[(&str, &[u8])]) {
        self.bench.vault.set(&secret(name), &conformance::fields(fields)).unwrap();
    }

    fn remove(&self, name: &str) {
        self.bench.vault.remove(&secret(name)).unwrap();
    }

    fn name(&self) -> &'static str {
        "files"
    }
}

#[tokio::test]
async fn the_file_vault_conforms() {
    let bench = Bench::new();
    let backend = Arc::new(bench.backend());
    conformance::hold(&Filled { bench, backend }).await;
}

#[tokio::test]
async fn a_limited_vault_conforms_with_places_for_all_and_with_one() {
    for places in [64, 1] {
        let bench = Bench::new();
        let backend = Arc::new(Limited::new(Arc::new(bench.backend()), "files".parse().unwrap(), places, Arc::default()));
        conformance::hold(&Filled { bench, backend }).await;
    }
}
