//! The integration tests: one binary, one module per subject.

#![allow(clippy::unwrap_used)] // all of it is tests, helper functions too

mod alerts;
mod api_server;
mod architecture;
mod audit;
mod authority;
mod aws_classes;
mod bao;
mod bugs;
mod changes;
mod check;
mod cli;
mod confined;
mod contract;
mod corpus;
mod crowd;
mod delivery;
mod deploy;
mod dialects;
mod doctor;
mod doors;
mod edit;
mod endpoint;
mod events;
mod examples;
mod exec;
mod faults;
mod folder;
mod formats;
mod golden;
mod hang;
mod helm;
mod identity;
mod import;
mod isolation;
mod keystores;
mod leaks;
mod lookup;
mod memory;
mod messages;
mod moto;
mod mount;
mod pages;
mod parts;
mod prefixes;
mod proto;
mod refused;
mod release;
mod reload;
mod render;
mod servers;
mod shutdown;
mod snippets;
mod status;
mod stores;
mod streams;
mod support;
mod templates;
mod tenants;
mod terminal;
mod unread;
mod upgrade;
mod vault;
mod volume;
mod windows;
mod words;
mod workflows;

/// As in the daemon: freed memory is wiped (`memory` looks into this process too).
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<tikv_jemallocator::Jemalloc> = zeroizing_alloc::ZeroAlloc(tikv_jemallocator::Jemalloc);
