//! What a volume's mounts show over time, as far as its Pod's users should know: a rotation that fails for long, a start with a stale
//! answer, and the end of either.
//!
//! This is separate from [`live`](super::live), which says how a volume is now: here it is decided when that is worth an Event. The end of
//! a trouble is reported only if its beginning was.

use tokio::time::{Duration, Instant};

use super::ended::{Ended, Stale};
use crate::events::Said;

/// A rotation that fails for this long is reported. Trouble that passes by itself, such as a restart of the store, has ended by then.
const LONG: Duration = Duration::from_mins(10);

/// The state of one volume.
#[derive(Clone, Debug, Default)]
pub(super) struct Troubles {
    /// It was delivered before, and its mounts fail since then.
    failing: Option<Trouble>,
    /// Its first delivery was stale, and all later ones too.
    started_stale: Option<Trouble>,
}

#[derive(Clone, Debug)]
struct Trouble {
    since: Instant,
    /// `None`: no report was due so far, or there was no place for it.
    said: Option<Said>,
}

/// What to report.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    /// Its mounts succeed again, after this long.
    Recovered {
        after: Duration,
    },
    RotationFailing,
    StaleReplaced,
    StartedStale(Stale),
}

impl Troubles {
    /// Notes how a mount ended. `had_files`: the volume was delivered before. `tell` gets the report and passes it on; if it returns
    /// `None`, the report was not passed on.
    pub(super) fn note(&mut self, ended: &Ended, had_files: bool, asked: Instant, tell: &mut dyn FnMut(Change) -> Option<Said>) {
        if ended.code.is_some() {
            // kubelet itself reports a first mount that fails.
            if had_files {
                self.failed(asked, tell);
            }
            return;
        }
        if let Some(failing) = self.failing.take().filter(Trouble::is_said) {
            tell(Change::Recovered { after: asked.saturating_duration_since(failing.since) });
        }
        match ended.stale {
            Some(stale) => self.was_stale(stale, had_files, asked, tell),
            None if self.started_stale.take().is_some_and(|started| started.is_said()) => _ = tell(Change::StaleReplaced),
            None => {}
        }
    }

    fn failed(&mut self, asked: Instant, tell: &mut dyn FnMut(Change) -> Option<Said>) {
        let failing = self.failing.get_or_insert(Trouble { since: asked, said: None });
        if failing.said.is_none() && asked.saturating_duration_since(failing.since) >= LONG {
            failing.said = tell(Change::RotationFailing);
        }
    }

    fn was_stale(&mut self, stale: Stale, had_files: bool, asked: Instant, tell: &mut dyn FnMut(Change) -> Option<Said>) {
        if !had_files {
            self.started_stale = Some(Trouble { since: asked, said: None });
        }
        if let Some(started) = self.started_stale.as_mut().filter(|started| started.said.is_none()) {
            started.said = tell(Change::StartedStale(stale));
        }
    }
}

impl Trouble {
    fn is_said(&self) -> bool {
        self.said.as_ref().is_some_and(Said::is_said)
    }
}

#[cfg(test)]
mod tests;
