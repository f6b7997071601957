//! The integration tests: one binary, one module a subject.

#![allow(clippy::unwrap_used)] // all of it is tests, helper functions too

mod api_server;
mod architecture;
mod authority;
mod confined;
mod corpus;
mod delivery;
mod deploy;
mod examples;
mod identity;
mod isolation;
mod leaks;
mod memory;
mod messages;
mod mount;
mod reload;
mod support;
mod volume;
