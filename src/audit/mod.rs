//! Who got what: one JSON line per mount. A thread writes the lines in order. Its queue is bounded in bytes.
//!
//! A line has everything about a mount except values: the Pod, the class, and for each object its secret, files, version and outcome.
//! kubelet asks again each minute; Keyferry counts mounts that say the same as the one before, and does not repeat the line. Namespaces
//! share the queue, the counted volumes and the lines of an hour, so none can take the others' lines away.
//!
//! Reading order: `event` and `files` (what a line says), `line` (how it is written), `repeats` (which mounts need no line), `window` (who
//! may write how much), `trail` (which lines are written, and how long they are), `destination` (where they go), `losses` (the lines that
//! are not written), `alerts` (what is unusual).

use std::fmt::Debug;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError, RecvTimeoutError, Sender, channel};

use async_trait::async_trait;
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant, timeout};

use crate::model::Tenant;
use crate::shares::{Held, Shares};
use crate::telemetry::Metrics;
use crate::telemetry::outlet::{Patient, own_descriptor};

mod alerts;
mod config;
mod destination;
mod event;
mod files;
mod line;
mod losses;
mod repeats;
mod trail;

pub use alerts::{AlertRule, Watched};
pub use config::{AuditConfig, Rotate};
pub use destination::OpenError;
pub use event::{Age, Event, Gist, ObjectEvent, OtherEvent, Outcome};
pub use files::Files;

use alerts::{Alarms, Alert, Noted};
use destination::{Destination, LineFile};
use losses::{Cause, Losses};
use repeats::Repeats;
use trail::{Trail, Unwritten};

/// The bytes that lines may keep in memory while they wait to be written. The lines of one namespace may take no more than they leave free.
const QUEUE_BYTES: usize = 8 * 1024 * 1024;

/// Takes a mount's line.
#[async_trait]
pub trait AuditSink: Debug + Send + Sync {
    /// Counts a delivery that says the same as the volume's last mount, where no line is due; returns whether it did. It needs a gist, and
    /// no objects.
    fn count(&self, event: &Event) -> bool;

    /// # Errors
    /// The line could not be written, and `audit.failClosed` is set.
    async fn record(&self, event: Event) -> Result<(), AuditUnavailable>;
}

/// The audit line of a mount could not be written, and `audit.failClosed` is set.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("the audit line could not be written, and audit.failClosed is set: {why} ({remedy})")]
pub struct AuditUnavailable {
    why: String,
    remedy: &'static str,
}

/// The audit log: a queue, and the thread that empties it.
#[derive(Debug)]
pub struct AuditLog {
    /// Bounded by the room that each event takes.
    queue: Sender<Message>,
    room: Shares,
    fail_closed: bool,
    /// A mount that says nothing new is counted here, without the thread.
    repeats: Arc<Repeats>,
    losses: Arc<Losses>,
    alarms: Alarms,
}

#[derive(Debug)]
enum Message {
    Alert(Box<Alert>, Held),
    Event(Waiting),
    /// Writes what waits, and answers when all of it is written.
    Flush(oneshot::Sender<()>),
    /// Opens the file again.
    Reopen,
}

#[derive(Debug)]
struct Waiting {
    event: Box<Event>,
    tenant: Tenant,
    /// With `failClosed`: the mount waits for this.
    written: Option<oneshot::Sender<Result<(), AuditUnavailable>>>,
    held: Held,
}

// === impl AuditLog ===

impl AuditLog {
    /// Opens the file and starts the writing thread. It ends when the log is dropped.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or cannot be rotated where the configuration says so; it is a pipe that nobody reads; or no
    /// thread can be started.
    pub fn open(config: &AuditConfig, metrics: Arc<Metrics>) -> Result<Self, OpenError> {
        let destination = match &config.file {
            None => Destination::Writer(Box::new(Patient(own_descriptor(&io::stdout())?))),
            Some(path) => Destination::File(LineFile::open(path, config.rotate)?),
        };
        let log = Self::to(destination, config.fail_closed, metrics)?;
        log.configure(&config.alerts);
        Ok(log)
    }

    /// Writes to any writer.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(writer: Box<dyn Write + Send>, fail_closed: bool, metrics: Arc<Metrics>) -> io::Result<Self> {
        Self::to(Destination::Writer(writer), fail_closed, metrics)
    }

    fn to(destination: Destination, fail_closed: bool, metrics: Arc<Metrics>) -> io::Result<Self> {
        let (queue, messages) = channel();
        let losses = Arc::new(Losses::new(Arc::clone(&metrics)));
        let repeats: Arc<Repeats> = Arc::default();
        let trail = Trail::new(destination, Arc::clone(&repeats), Arc::clone(&losses));
        let thread_losses = Arc::clone(&losses);
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || write_all(&messages, trail, &thread_losses))?;
        Ok(Self { queue, room: Shares::new(QUEUE_BYTES), fail_closed, repeats, losses, alarms: Alarms::new(metrics) })
    }

    /// Puts alert rules in force. The counts of a rule that stays the same are kept.
    pub fn configure(&self, alerts: &[AlertRule]) {
        self.alarms.configure(alerts);
    }

    /// Opens again the file that has the name now, after the lines recorded so far. If it is the file that is open, nothing happens.
    pub fn reopen(&self) {
        // Without the thread no file is open.
        let _ = self.queue.send(Message::Reopen);
    }

    /// Waits until everything recorded so far is written, with the counts of repeats; for at most `limit`. Returns whether all is written.
    pub async fn flush(&self, limit: Duration) -> bool {
        let (done, written) = oneshot::channel();
        self.queue.send(Message::Flush(done)).is_ok() && timeout(limit, written).await.is_ok_and(|written| written.is_ok())
    }

    /// Takes room in the queue; if there is not enough, room for the event without its objects.
    fn room_for(&self, event: &mut Event, tenant: &Tenant) -> Option<Held> {
        self.room.take(tenant, event.weight()).or_else(|| {
            event.shorten();
            self.room.take(tenant, event.weight())
        })
    }
}

#[async_trait]
impl AuditSink for AuditLog {
    fn count(&self, event: &Event) -> bool {
        let may_count = event.gist.is_some() && event.outcome == Outcome::Delivered;
        // A waiting line keeps its room until it is written. A tenant without waiting lines has its volumes' last mounts in the table.
        may_count && self.room.of(event.namespace()) == 0 && self.repeats.count(event)
    }

    async fn record(&self, mut event: Event) -> Result<(), AuditUnavailable> {
        event.bound();
        // For the same reason.
        if self.room.of(event.namespace()) == 0 && self.repeats.count(&event) {
            // A repeated delivery delivers nothing new. A mount that is denied again is another denial.
            if alerts::is_denial(&event) {
                self.alarm(self.alarms.note(&event));
            }
            return Ok(());
        }
        let noted = self.alarms.note(&event).filter(|noted| noted.is_certain() || !self.repeats.knows(&event));
        let is_certain = noted.as_ref().is_some_and(Noted::is_certain);
        let recorded = self.write(event).await;
        if recorded.is_ok() || is_certain {
            self.alarm(noted);
        }
        recorded
    }
}

impl AuditLog {
    /// Puts a line that says something new into the queue; with `failClosed`, waits until it is written.
    async fn write(&self, mut event: Event) -> Result<(), AuditUnavailable> {
        let (tenant, time, delivered) = (event.tenant(), event.time, event.outcome == Outcome::Delivered);
        let Some(held) = self.room_for(&mut event, &tenant) else {
            if self.fail_closed {
                self.losses.refused(&tenant, Cause::File, time);
                return Err(AuditUnavailable::full(tenant.as_str()));
            }
            self.losses.lost(&tenant, Cause::File, delivered, time);
            return Ok(());
        };
        let (written, answer) = self.fail_closed.then(oneshot::channel).unzip();
        let waiting = Waiting { event: Box::new(event), tenant: tenant.clone(), written, held };
        let sent = self.queue.send(Message::Event(waiting));
        match answer {
            Some(answer) => answer.await.map_err(|_| AuditUnavailable::gone())?,
            None if sent.is_err() => {
                self.losses.lost(&tenant, Cause::File, delivered, time);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Counts it, and writes the alert that this raises.
    fn alarm(&self, noted: Option<Noted>) {
        let Some(alert) = noted.and_then(|noted| self.alarms.count(&noted, Instant::now())) else { return };
        let (tenant, time) = (alert.tenant(), alert.time());
        // The line is not charged to the namespace, which may have used its own share.
        let sent = self.room.take(&Tenant::from(""), alert.weight()).map(|held| self.queue.send(Message::Alert(Box::new(alert), held)));
        if sent.is_none_or(|sent| sent.is_err()) {
            self.losses.lost(&tenant, Cause::File, false, time);
        }
    }
}

// === impl AuditUnavailable ===

impl AuditUnavailable {
    /// The line was not written within the mount's time.
    pub fn late() -> Self {
        Self::of_file("it was not written in time".to_owned())
    }

    fn gone() -> Self {
        Self::of_file("the writing thread is gone".to_owned())
    }

    fn full(tenant: &str) -> Self {
        Self::of_file(format!("the lines of the namespace {tenant:?} that wait to be written fill its share of the queue"))
    }

    fn of_file(why: String) -> Self {
        Self { why, remedy: "free space on the disk, or repair the file that audit.file names; mounts then go on by themselves" }
    }

    fn over(tenant: &str) -> Self {
        let why = format!("the namespace {tenant:?} has used up its share of the audit log");
        Self { why, remedy: "start fewer of its Pods on this node at a time; kubelet tries again by itself" }
    }
}

/// The writing thread: lines in order, one write for each, until every sender is gone.
fn write_all(messages: &Receiver<Message>, mut trail: Trail, losses: &Losses) {
    loop {
        let received = match trail.say_in_time(Instant::now()) {
            Some(wait) => messages.recv_timeout(wait),
            None => messages.recv().map_err(|RecvError| RecvTimeoutError::Disconnected),
        };
        match received {
            // It gives its room in the queue back before the next look at the lost lines.
            Ok(Message::Event(waiting)) => waiting.write(&mut trail, losses),
            Ok(Message::Alert(alert, _held)) => trail.alert(&alert, Instant::now()),
            Ok(Message::Reopen) => trail.reopen(),
            Ok(Message::Flush(done)) => {
                trail.flush(Instant::now());
                let _ = done.send(());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    trail.flush(Instant::now());
}

impl Waiting {
    fn write(self, trail: &mut Trail, losses: &Losses) {
        let Self { mut event, tenant, written, held } = self;
        let outcome = trail.pass(&mut event, &tenant, Instant::now());
        let (time, delivered) = (event.time, event.outcome == Outcome::Delivered && written.is_none());
        match (&outcome, &written) {
            (Ok(()), _) => {}
            (Err(Unwritten::File(_)), _) => losses.lost(&tenant, Cause::File, delivered, time),
            (Err(Unwritten::Share), None) => losses.lost(&tenant, Cause::Share, delivered, time),
            (Err(Unwritten::Share), Some(_)) => losses.refused(&tenant, Cause::Share, time),
        }
        drop((event, held));
        if let Some(written) = written {
            let _ = written.send(outcome.map_err(|unwritten| match unwritten {
                Unwritten::File(error) => AuditUnavailable::of_file(error.to_string()),
                Unwritten::Share => AuditUnavailable::over(tenant.as_str()),
            }));
        }
    }
}

#[cfg(test)]
mod tests;
