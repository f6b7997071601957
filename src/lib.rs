//! Keyferry: a Secrets Store CSI driver provider. It carries secrets from any store to the Pods that may have them, as files.
//!
//! A mount is one walk through six rooms, and the modules read in the same order:
//!
//! 1. [`identity`]: who the Pod is, proven by its token.
//! 2. [`dialect`]: what its class asks for, as a plan.
//! 3. [`policy`]: whether it may; without a permit nothing is fetched.
//! 4. [`backend`]: the stores.
//! 5. [`render`]: secrets become files.
//! 6. [`delivery`]: the answer; [`audit`], who got what; and [`events`], what the Pod's own users should know.
//!
//! [`pipeline`] is that walk as one function. Around it: [`server`] (gRPC on a Unix socket), [`app`] (everything built from [`config`]),
//! [`cli`] (the commands). Below it: [`model`] (parsed values, no I/O), [`http`] (the client that stores are reached with), [`kube`]
//! (the few calls of the Kubernetes API), [`telemetry`] and a few leaves: [`clock`], [`dotenv`], [`files`], [`formats`], [`gathered`], [`glob`], [`memo`], [`nearest`], [`redact`],
//! [`shelf`], [`steps`], [`text`], [`units`], [`yaml`]; and who may use how much of what all tenants share: [`shares`], [`budget`] (bytes), [`turns`], [`work`].

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
