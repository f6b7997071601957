//! What the daemon reports about itself: logs ([`logs`], written by an [`outlet`]), metrics ([`metrics`]) and the HTTP endpoint that serves
//! them ([`endpoint`]).
//! Every module may use this one, and it uses no other.

pub mod endpoint;
mod known;
pub mod logs;
pub mod metrics;
pub mod outlet;
mod process;

pub use metrics::{CacheCounters, CallCounters, Counted, EventOutcome, LastFault, LeaseEvent, Metrics, VolumeCounts};
pub use outlet::Outlet;
