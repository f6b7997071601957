//! The log's lines about failed mounts, and about classes and secrets with warnings. kubelet keeps 50 MiB of a container's output
//! (`containerLogMaxSize`, `containerLogMaxFiles`), and a Pod that cannot start tries again for ever. Each namespace has a share, so that
//! none pushes the others' lines out.

use std::fmt;
use std::mem;
use std::sync::{Mutex, PoisonError};

use tokio::time::{Duration, Instant};

use super::watch::Subject;
use super::{MountContext, MountError};
use crate::model::Tenant;
use crate::window::Window;

/// Bytes of lines in one hour. A namespace that is alone on the node may use half of it.
const HOUR_BYTES: usize = 4 * 1024 * 1024;

/// The bytes of a line without its message.
const LINE: usize = 200;

/// How often the log reports that lines were left out.
const SAY_AGAIN: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(super) struct Told(Mutex<Lines>);

#[derive(Debug)]
struct Lines {
    spent: Window,
    left_out: usize,
    said: Option<Instant>,
}

/// What happens to one line.
#[derive(Debug, Eq, PartialEq)]
enum Fate {
    Written,
    /// Instead of the line, the log reports how many lines were left out.
    Counted(usize),
    LeftOut,
}

// === impl Told ===

impl Told {
    /// `tenant` is empty if the call did not say whose it is.
    pub(super) fn tell(&self, error: &MountError, tenant: &Tenant, cx: &MountContext) {
        let message = error.in_full();
        if self.may(tenant, message.len()) {
            let code = error.code().as_str();
            tracing::warn!(request = %cx.request, provider = &*cx.provider, code, error = message, "a mount failed");
        }
    }

    /// A volume could not be written after its secrets changed.
    pub(super) fn tell_change(&self, error: &MountError, tenant: &Tenant, subject: &Subject, cx: &MountContext) {
        let message = error.in_full();
        let Subject { claims, target, .. } = subject;
        if self.may(tenant, message.len() + target.len()) {
            let (code, pod) = (error.code().as_str(), &claims.name);
            tracing::warn!(
                request = %cx.request, namespace = %tenant, pod, target_path = &**target, code, error = message,
                "a secret changed, but its volume could not be written: the former files stay until the next mount"
            );
        }
    }

    /// A warning about a class that is served all the same.
    pub(super) fn warn_of_class(&self, tenant: &Tenant, class: &str, warning: &impl fmt::Display) {
        let warning = warning.to_string();
        if self.may(tenant, class.len() + warning.len()) {
            tracing::warn!(namespace = %tenant, class, warning, "a class has a warning");
        }
    }

    /// A warning about secrets that were delivered all the same.
    pub(super) fn warn_of_secret(&self, tenant: &Tenant, class: &str, warning: &impl fmt::Display) {
        let warning = warning.to_string();
        if self.may(tenant, class.len() + warning.len()) {
            tracing::warn!(namespace = %tenant, class, warning, "a secret has a field without a value");
        }
    }

    /// Whether the tenant has a share left for a line with this many bytes, in addition to the fixed part. If not, the log reports how many
    /// lines were left out.
    fn may(&self, tenant: &Tenant, bytes: usize) -> bool {
        let fate = self.0.lock().unwrap_or_else(PoisonError::into_inner).fate(tenant, LINE + bytes, Instant::now());
        if let Fate::Counted(lines) = fate {
            tracing::warn!(
                lines,
                latest = %tenant,
                "lines about mounts were left out: their namespaces have used up their share of the log for this hour (the metrics \
                 count these mounts, and the audit log shows them)"
            );
        }
        fate == Fate::Written
    }
}

impl Default for Told {
    fn default() -> Self {
        Self(Mutex::new(Lines { spent: Window::new(HOUR_BYTES, Duration::from_hours(1)), left_out: 0, said: None }))
    }
}

// === impl Lines ===

impl Lines {
    fn fate(&mut self, tenant: &Tenant, bytes: usize, now: Instant) -> Fate {
        if self.spent.spend(tenant, bytes, now) {
            return Fate::Written;
        }
        self.left_out += 1;
        if self.said.is_some_and(|said| now - said < SAY_AGAIN) {
            return Fate::LeftOut;
        }
        self.said = Some(now);
        Fate::Counted(mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_fails_without_end_leaves_the_others_their_lines() {
        let told = Told::default();
        let mut lines = told.0.lock().unwrap();
        let (evil, shop, now) = (Tenant::from("evil"), Tenant::from("shop"), Instant::now());
        let written = (0..100_000).take_while(|_| lines.fate(&evil, 4_300, now) == Fate::Written).count() * 4_300;
        assert!((HOUR_BYTES / 2 - 4_300..=HOUR_BYTES / 2).contains(&written), "{written}");
        assert_eq!(lines.fate(&evil, 4_300, now), Fate::LeftOut, "it was just said");
        assert_eq!(lines.fate(&shop, 4_300, now), Fate::Written);
        assert_eq!(lines.fate(&evil, 4_300, now + SAY_AGAIN), Fate::Counted(2));
        assert_eq!(lines.fate(&evil, 4_300, now + Duration::from_hours(1)), Fate::Written, "an hour later there is another share");
    }
}
