//! Hostile tenants against the real daemon: one namespace does its worst, and another's mounts go on (`docs/security.md`).
//!
//! Each kind is a function that makes the calls, and a test: [`kind::Kind::try_out`] runs it for a while together with a victim in another
//! namespace, and judges. The limits are small, so the test sees within seconds if a kind takes more than its share.
//!
//! It judges, in the same run of the same daemon:
//! - the victim's every mount is served, the longest under 1 s, or under five times what it takes with as many honest mounts;
//! - no call gets one of the five codes of the trap;
//! - the daemon lives, its memory stays under 70 % of the limit, and is back within 10 MiB of idle 10 s later.
//!
//! The long forms are `#[ignore]`d: `make soak` runs them.

mod aws;
mod flood;
mod kind;
mod meter;
mod node;
pub mod store;
mod trial;
mod victim;

mod amazon;
mod calls;
mod classes;
mod mixed;
mod names;
mod prefixes;
mod stores;
mod volumes;
