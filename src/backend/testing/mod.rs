//! What every store and every decorator is tried by.

pub mod conformance;
pub mod fake;
