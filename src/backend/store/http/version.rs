//! Which text is a version. It is a file of its own, because the configuration and the answers have the same rule.

use crate::redact::is_invisible;

/// The longest version in bytes.
pub(super) const MAX_VERSION: usize = 256;

/// Whether it can be sent, and shown in the driver's status.
pub(super) fn is_version(text: &str) -> bool {
    let is_seen = |c: char| !c.is_control() && !is_invisible(c);
    (1..=MAX_VERSION).contains(&text.len()) && text.chars().all(is_seen) && !matches!(text, "." | "..")
}
