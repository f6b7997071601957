//! `properties::template`, fed by the fuzzer.

#![no_main]
#![allow(dead_code)] // the other properties

#[path = "../properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::template(input));
