//! What can go wrong with reading a vault, before it is known under which backend's name.

use std::fmt;

use crate::backend::Fault;

/// A failed read: what kind of failure, and a reason that names file and cause and says what to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReadFault {
    pub fault: Fault,
    pub reason: String,
}

impl ReadFault {
    pub(super) fn new(fault: Fault, reason: impl Into<String>) -> Self {
        Self { fault, reason: reason.into() }
    }
}

impl fmt::Display for ReadFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for ReadFault {}
