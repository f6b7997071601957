//! What the daemon says of itself: logs ([`logs`], which leave by an [`outlet`]), metrics ([`metrics`]) and the HTTP endpoint that serves them ([`endpoint`]).
//! A leaf: every room may use it, and it uses none.

pub mod endpoint;
mod known;
pub mod logs;
pub mod metrics;
pub mod outlet;
mod process;

pub use metrics::{CacheCounters, CallCounters, Counted, EventOutcome, LastFault, LeaseEvent, Metrics, VolumeCounts};
pub use outlet::Outlet;
