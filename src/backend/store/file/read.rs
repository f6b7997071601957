//! Keyferry reads a vault's files as every other named file: [`crate::files`].

pub use crate::files::{Stamp, Unreadable, WholeFile, is_absence};
