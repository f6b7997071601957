//! A vault's files are read as every named file is: [`crate::files`].

pub use crate::files::{Stamp, Unreadable, WholeFile, is_absence};
