//! Globs: a pattern's match agrees with its definition, and takes no time to speak of.

#![no_main]

use keyferry::glob::{matches, matches_path};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (String, String)| {
    let (pattern, name) = input;
    let path = matches_path(&pattern, &name);
    if !pattern.contains('*') {
        assert_eq!(path, pattern == name);
        assert_eq!(matches(&pattern, &name), pattern == name);
    }
    // Within one element both say the same.
    if !pattern.contains('/') && !name.contains('/') && pattern != "**" {
        assert_eq!(path, matches(&pattern, &name));
    }
    assert!(matches_path("**", &name));
});
