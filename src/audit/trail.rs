//! Which lines are written, and how long they are: the writing thread's own state.
//!
//! kubelet keeps 50 MiB of a container's output. No namespace may push the others' lines out of it, so each has a share of bytes for its
//! lines. After that its lines have no objects, and they have a second share. After that it has no lines.

use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::time::{Duration, Instant};

use super::alerts::Alert;
use super::destination::Destination;
use super::event::Event;
use super::line::{self, Count};
use super::losses::{Cause, Losses, MINUTE};
use super::repeats::Repeats;
use crate::model::Tenant;
use crate::window::Window;

/// Bytes of lines in one hour. A namespace that is alone on the node may use half of it.
pub(super) const HOUR_BYTES: usize = 8 * 1024 * 1024;

/// Bytes of shortened lines in one minute, in addition: half a KiB for each line, so about one line per second for a namespace that is
/// alone.
pub(super) const MINUTE_BYTES: usize = 64 * 1024;

pub(super) struct Trail {
    destination: Destination,
    repeats: Arc<Repeats>,
    whole: Window,
    short: Window,
    losses: Arc<Losses>,
    /// When the log last reported that a line could not be written.
    complained: Option<Instant>,
}

/// Why an event has no line.
#[derive(Debug)]
pub(super) enum Unwritten {
    File(io::Error),
    Share,
}

// === impl Trail ===

impl Trail {
    pub(super) fn new(destination: Destination, repeats: Arc<Repeats>, losses: Arc<Losses>) -> Self {
        let (whole, short) = (Window::new(HOUR_BYTES, Duration::from_hours(1)), Window::new(MINUTE_BYTES, MINUTE));
        Self { destination, repeats, whole, short, losses, complained: None }
    }

    /// Writes the event, or counts it as a repeat; before it, writes what was counted until then.
    ///
    /// # Errors
    /// It is not written, so the volume's next mount does not repeat it. The caller counts that.
    pub(super) fn pass(&mut self, event: &mut Event, tenant: &Tenant, now: Instant) -> Result<(), Unwritten> {
        let passed = self.repeats.pass(event, tenant);
        let written = self.counts(&passed.counts, now).and_then(|()| match passed.repeats {
            Some(repeats) => self.event(event, repeats, tenant, now),
            None => Ok(()),
        });
        if written.is_err() {
            self.repeats.forget(event);
        }
        written
    }

    /// Writes an alert even if its namespace has no share left: a namespace that fills the audit must not hide its alerts by that. There
    /// are few alerts.
    pub(super) fn alert(&mut self, alert: &Alert, now: Instant) {
        if line::of(alert).and_then(|line| self.write(&line, now)).is_err() {
            self.losses.lost(&alert.tenant(), Cause::File, false, alert.time());
        }
    }

    /// Opens the file again that has the name now.
    pub(super) fn reopen(&mut self) {
        self.destination.reopen();
    }

    /// Writes the counts so far, and a report of the lines that were left out.
    pub(super) fn flush(&mut self, now: Instant) {
        let counts = self.repeats.drain();
        // A failure is counted there.
        let _ = self.counts(&counts, now);
        if self.losses.wait(now).is_some() {
            self.say(now);
        }
    }

    /// Reports the lines that were left out, if the minute has ended; else returns how long that takes.
    pub(super) fn say_in_time(&mut self, now: Instant) -> Option<Duration> {
        if self.losses.wait(now)?.is_zero() {
            self.say(now);
        }
        self.losses.wait(now)
    }

    fn say(&mut self, now: Instant) {
        let losses = Arc::clone(&self.losses);
        losses.say(now, |left_out| line::of(left_out).and_then(|line| self.write(&line, now)).is_ok());
    }

    fn event(&mut self, event: &mut Event, repeats: u64, tenant: &Tenant, now: Instant) -> Result<(), Unwritten> {
        let line = line::of_event(event, repeats).map_err(Unwritten::File)?;
        if self.whole.spend(tenant, line.len(), now) {
            return self.write(&line, now).map_err(Unwritten::File);
        }
        event.shorten();
        let line = line::of_event(event, repeats).map_err(Unwritten::File)?;
        if !self.short.spend(tenant, line.len(), now) {
            return Err(Unwritten::Share);
        }
        self.write(&line, now).map_err(Unwritten::File)
    }

    /// A line without a share is left out; the first line that cannot be written ends this.
    fn counts(&mut self, counts: &[Count], now: Instant) -> Result<(), Unwritten> {
        for (at, count) in counts.iter().enumerate() {
            let line = line::of(count).map_err(Unwritten::File)?;
            let tenant = &count.tenant;
            if !self.whole.spend(tenant, line.len(), now) && !self.short.spend(tenant, line.len(), now) {
                self.losses.lost(tenant, Cause::Share, false, count.time);
            } else if let Err(error) = self.write(&line, now) {
                for lost in &counts[at..] {
                    self.losses.lost(&lost.tenant, Cause::File, false, lost.time);
                }
                return Err(Unwritten::File(error));
            }
        }
        Ok(())
    }

    fn write(&mut self, line: &[u8], now: Instant) -> io::Result<()> {
        let written = self.destination.write(line, now);
        if let Err(error) = &written
            && self.complained.is_none_or(|complained| now >= complained + MINUTE)
        {
            self.complained = Some(now);
            tracing::error!(%error, "an audit line could not be written");
        }
        written
    }
}

impl fmt::Debug for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trail")
    }
}
