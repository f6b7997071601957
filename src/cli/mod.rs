//! The commands, one file each.

pub mod answer;
pub mod client;
pub mod health;
pub mod manifest;
pub mod mount;
mod report;
pub mod vault;
