//! Keyferry: a Secrets Store CSI driver provider. It carries secrets from any store to the Pods that may have them, as files.
//!
//! A mount goes through six modules, in this order:
//!
//! 1. [`identity`]: who the Pod is, proven by its token.
//! 2. [`dialect`]: what its class asks for, as a plan.
//! 3. [`policy`]: whether the Pod may have it. Without a permit, Keyferry fetches nothing.
//! 4. [`backend`]: the stores.
//! 5. [`render`]: secrets become files.
//! 6. [`delivery`]: the answer. [`audit`]: who got what. [`events`]: what the Pod's users should know.
//!
//! [`pipeline`] does these steps in one function. Around it: [`server`] (gRPC on a Unix socket), [`app`] (everything built from [`config`]),
//! [`cli`] (the commands). Below it: [`model`] (parsed values, no I/O), [`http`] (the client that stores are reached with), [`kube`]
//! (the few calls of the Kubernetes API), [`telemetry`] and small helpers: [`clock`], [`dotenv`], [`files`], [`formats`], [`gathered`], [`glob`],
//! [`memo`], [`nearest`], [`redact`], [`shelf`], [`steps`], [`text`], [`units`], [`yaml`]. These modules share out what all tenants use: [`shares`],
//! [`budget`] (bytes), [`turns`], [`work`].

pub mod app;
pub mod cli;
pub mod config;
pub mod server;

pub mod pipeline;

pub mod audit;
pub mod backend;
pub mod delivery;
pub mod dialect;
pub mod events;
pub mod identity;
pub mod policy;
pub mod render;

pub mod http;
pub mod kube;
pub mod model;

pub mod budget;
pub mod clock;
pub mod dotenv;
pub mod files;
pub mod formats;
pub mod gathered;
pub mod glob;
pub mod grace;
pub mod memo;
pub mod nearest;
pub mod redact;
pub mod shares;
pub mod shelf;
pub mod steps;
pub mod telemetry;
pub mod text;
pub mod turns;
pub mod units;
pub mod window;
pub mod work;
pub mod yaml;

#[cfg(test)]
#[path = "../tests/it/folder.rs"]
mod folder;
