//! What the daemon says of itself: logs ([`logs`], which leave by an [`outlet`]), metrics ([`metrics`]) and the HTTP endpoint that serves them ([`endpoint`]).
//! A leaf: every room may use it, and it uses none.

pub mod endpoint;
pub mod logs;
pub mod metrics;
pub mod outlet;

pub use metrics::{CacheCounters, CallCounters, LeaseEvent, LeaseKept, Metrics};
pub use outlet::Outlet;
