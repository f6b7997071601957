//! The commands, one file each.

pub mod client;
pub mod health;
pub mod manifest;
pub mod mount;
pub mod vault;
