//! Who got what: one JSON line a mount, written in order by a thread of its own behind a queue that is bounded in lines and in bytes.
//!
//! A line says everything about a mount but values: the Pod, the class, and for each object its secret, file, version and outcome.
//! kubelet asks again each minute; mounts that say the same as the one before are counted, not repeated.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use rustix::fs::OFlags;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Duration, timeout};

use crate::telemetry::Metrics;
use crate::telemetry::outlet::{Patient, own_descriptor};
use crate::yaml::{Faults, Reader};

mod event;
mod repeats;

pub use event::{Event, ObjectEvent, Outcome};

use repeats::Repeats;

/// Lines that may wait to be written.
const QUEUE: usize = 4096;

/// Bytes that they may keep in memory meanwhile.
const QUEUE_BYTES: u32 = 8 * 1024 * 1024;

/// The mapping under `audit`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AuditConfig {
    /// `None`: standard output.
    pub file: Option<PathBuf>,
    /// A mount whose line cannot be written fails.
    pub fail_closed: bool,
}

/// Takes a mount's line.
#[async_trait]
pub trait AuditSink: Debug + Send + Sync {
    /// # Errors
    /// The line could not be written, and the admin wants the mount to fail then.
    async fn record(&self, event: Event) -> Result<(), AuditUnavailable>;
}

/// The audit line of a mount could not be written, and `audit.failClosed` is set.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error(
    "the audit line could not be written, and audit.failClosed is set: {0} (free the disk or mend the file named by audit.file; mounts go on by themselves)"
)]
pub struct AuditUnavailable(String);

impl AuditUnavailable {
    /// The line was not written in the mount's time.
    pub fn late() -> Self {
        Self("it was not written in time".to_owned())
    }
}

/// The audit log: a queue, and the thread that empties it.
#[derive(Debug)]
pub struct AuditLog {
    queue: mpsc::Sender<Message>,
    /// A permit for each byte.
    room: Arc<Semaphore>,
    fail_closed: bool,
    losses: Losses,
}

/// Lines that were not written: counted at once, and said in the log when lines are written again.
#[derive(Clone, Debug)]
struct Losses {
    unsaid: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
enum Message {
    Event {
        event: Box<Event>,
        written: Option<oneshot::Sender<Result<(), String>>>,
        _room: OwnedSemaphorePermit,
    },
    /// Writes what is held back, and answers when all is written.
    Flush(oneshot::Sender<()>),
}

// === impl AuditConfig ===

impl AuditConfig {
    pub fn parse(reader: &mut Reader<'_>, faults: &mut Faults) -> Self {
        let file = reader.text("file", faults).filter(|file| *file != "stdout").map(PathBuf::from);
        let fail_closed = reader.boolean("failClosed", faults).unwrap_or(false);
        if let Some(alerts) = reader.get("alerts") {
            faults.add(alerts.at, reader.path("alerts"), "is not yet supported (leave it out)");
        }
        Self { file, fail_closed }
    }
}

// === impl AuditLog ===

impl AuditLog {
    /// Opens the file and starts the writing thread. It ends when the log is dropped.
    ///
    /// # Errors
    /// The file cannot be opened for appending, it is a pipe that nobody reads, or no thread can be had.
    pub fn open(config: &AuditConfig, metrics: Arc<Metrics>) -> io::Result<Self> {
        let file = match &config.file {
            None => own_descriptor(&io::stdout())?,
            Some(path) => open(path)?,
        };
        Self::start(Box::new(Patient(file)), config.fail_closed, metrics)
    }

    /// Writes to any writer.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn start(writer: Box<dyn Write + Send>, fail_closed: bool, metrics: Arc<Metrics>) -> io::Result<Self> {
        let (queue, messages) = mpsc::channel(QUEUE);
        let losses = Losses { unsaid: Arc::default(), metrics };
        let counted = losses.clone();
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || write_all(messages, writer, &counted))?;
        Ok(Self { queue, room: Arc::new(Semaphore::new(QUEUE_BYTES as usize)), fail_closed, losses })
    }

    /// Waits until everything recorded so far is written, the counts of repeats included; for at most `limit`. Whether it is.
    pub async fn flush(&self, limit: Duration) -> bool {
        let (done, written) = oneshot::channel();
        let flushed = async { self.queue.send(Message::Flush(done)).await.is_ok() && written.await.is_ok() };
        timeout(limit, flushed).await.unwrap_or(false)
    }
}

/// For appending. A pipe without a reader is an error rather than a wait (`O_NONBLOCK`, open(2)); it is opened, then writes wait.
fn open(path: &Path) -> io::Result<File> {
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(nonblocking).open(path)?;
    rustix::fs::fcntl_setfl(&file, rustix::fs::fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}

#[async_trait]
impl AuditSink for AuditLog {
    async fn record(&self, event: Event) -> Result<(), AuditUnavailable> {
        let weight = u32::try_from(event.weight()).unwrap_or(u32::MAX).min(QUEUE_BYTES);
        let (event, room) = (Box::new(event), Arc::clone(&self.room));
        if !self.fail_closed {
            let room = room.try_acquire_many_owned(weight).ok();
            let sent = room.map(|_room| self.queue.try_send(Message::Event { event, written: None, _room }).is_ok());
            if sent != Some(true) {
                self.losses.add(1);
            }
            return Ok(());
        }
        let gone = || AuditUnavailable("the writing thread is gone".to_owned());
        let (written, answer) = oneshot::channel();
        let room = room.acquire_many_owned(weight).await.map_err(|_| gone())?;
        self.queue.send(Message::Event { event, written: Some(written), _room: room }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?.map_err(AuditUnavailable)
    }
}

impl Losses {
    fn add(&self, lines: u64) {
        self.unsaid.fetch_add(lines, Ordering::Relaxed);
        self.metrics.audit_lines_lost(lines);
    }

    /// A line was written.
    fn say(&self) {
        let lines = self.unsaid.swap(0, Ordering::Relaxed);
        if lines > 0 {
            tracing::error!(lines, "audit lines were lost: what audit.file names did not take them in time, or refused them");
        }
    }
}

/// The writing thread: lines in order, one write each, until every sender is gone.
fn write_all(mut messages: mpsc::Receiver<Message>, mut writer: Box<dyn Write + Send>, losses: &Losses) {
    let mut repeats = Repeats::default();
    while let Some(message) = messages.blocking_recv() {
        match message {
            Message::Event { event, written, _room } => {
                let volume = event.volume();
                let lines = repeats.pass(*event);
                let outcome = write_lines(&mut *writer, &lines, losses);
                if outcome.is_err() {
                    repeats.forget(volume);
                }
                if let Some(written) = written {
                    let _ = written.send(outcome.map_err(|error| error.to_string()));
                }
            }
            Message::Flush(done) => {
                let _ = write_lines(&mut *writer, &repeats.drain(), losses);
                let _ = done.send(());
            }
        }
    }
    let _ = write_lines(&mut *writer, &repeats.drain(), losses);
}

/// Writes all, or counts what is left as lost.
fn write_lines(writer: &mut dyn Write, events: &[Event], losses: &Losses) -> io::Result<()> {
    for (written, event) in events.iter().enumerate() {
        if let Err(error) = write_line(writer, event) {
            losses.add((events.len() - written) as u64);
            tracing::error!(%error, "an audit line could not be written");
            return Err(error);
        }
        losses.say();
    }
    Ok(())
}

fn write_line(writer: &mut dyn Write, event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    writer.write_all(&line)?;
    writer.flush()
}

#[cfg(test)]
mod tests;
