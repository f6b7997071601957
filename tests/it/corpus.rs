//! The fuzzers' seeds, replayed without a fuzzer. (The authority's are replayed beside its own tests.)

#[path = "../../fuzz/properties.rs"]
mod properties;

use std::fs;
use std::path::Path;

fn replay(target: &str, property: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut seeds: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    seeds.sort();
    assert!(seeds.len() >= 5, "{target} has no seeds");
    for seed in seeds {
        let held = std::panic::catch_unwind(|| property(&fs::read(&seed).unwrap()));
        assert!(held.is_ok(), "{} does not hold", seed.display());
    }
}

#[test]
fn every_seed_holds() {
    replay("attributes", properties::attributes);
    replay("class", properties::class);
    replay("dotenv", properties::dotenv);
    replay("keys", properties::keys);
    replay("paths", properties::paths);
    replay("patterns", properties::patterns);
    replay("peers", properties::peers);
    replay("pkcs12", properties::pkcs12);
    replay("template", properties::template);
    replay("token", properties::token);
    replay("vault", properties::vault);
    replay("yaml", properties::yaml);
    fs::remove_dir_all(properties::scratch("x").parent().unwrap()).unwrap();
}
