//! What the daemon says of itself: logs ([`logs`]), metrics ([`metrics`]) and the HTTP endpoint that serves them ([`endpoint`]).
//! A leaf: every room may use it, and it uses none.

pub mod endpoint;
pub mod logs;
pub mod metrics;

pub use metrics::{CacheCounters, LeaseEvent, LeaseKept, Metrics};
