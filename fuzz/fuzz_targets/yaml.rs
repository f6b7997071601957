//! YAML and the configuration: no text makes either panic, and a faulty configuration has at least one fault to show.

#![no_main]

use keyferry::config::Config;
use keyferry::yaml::parse_all;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: String| {
    let _ = parse_all(&text);
    if let Err(faults) = Config::parse(&text) {
        assert!(!faults.is_empty(), "refused without a word");
    }
});
