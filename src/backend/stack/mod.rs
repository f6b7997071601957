//! The decorators around a store: each is a [`Backend`](super::Backend) around a `Backend`, and none of them knows which store it is.

pub(in crate::backend) mod asked;
pub mod breaker;
pub mod cache;
pub mod circuits;
pub mod coalesce;
mod decorator;
pub mod lease;
pub mod limit;
pub mod sealed;
mod written;

pub use decorator::Decorator;
