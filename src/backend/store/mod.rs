//! The stores, a folder each. None knows another, or what is around it.

pub mod aws;
pub mod file;
pub mod http;
pub mod vault;
