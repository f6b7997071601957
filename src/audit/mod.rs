//! Who got what: one JSON line a mount, written in order by a thread of its own behind a bounded queue.
//!
//! A line says everything about a mount but values: the Pod, the class, and for each object its secret, file, version and outcome.
//! kubelet asks again each minute; mounts that say the same as the one before are counted, not repeated.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use rustix::fs::OFlags;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::telemetry::Metrics;
use crate::yaml::{Faults, Reader};

mod event;
mod repeats;

pub use event::{Event, ObjectEvent, Outcome};

use repeats::Repeats;

/// Lines that may wait to be written.
const QUEUE: usize = 4096;

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
    fail_closed: bool,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
enum Message {
    Event {
        event: Box<Event>,
        written: Option<oneshot::Sender<Result<(), String>>>,
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
    /// The file cannot be opened for appending, or no thread can be had.
    pub fn open(config: &AuditConfig, metrics: Arc<Metrics>) -> io::Result<Self> {
        let writer: Box<dyn Write + Send> = match &config.file {
            None => Box::new(io::stdout()),
            Some(path) => Box::new(open_for_appending(path)?),
        };
        Self::start(writer, config.fail_closed, metrics)
    }

    /// Writes to any writer.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn start(writer: Box<dyn Write + Send>, fail_closed: bool, metrics: Arc<Metrics>) -> io::Result<Self> {
        let (queue, messages) = mpsc::channel(QUEUE);
        let counted = Arc::clone(&metrics);
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || write_all(messages, writer, &counted))?;
        Ok(Self { queue, fail_closed, metrics })
    }

    /// Waits until everything recorded so far is written, the counts of repeats included.
    pub async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.queue.send(Message::Flush(done)).await.is_ok() {
            let _ = written.await;
        }
    }
}

#[async_trait]
impl AuditSink for AuditLog {
    async fn record(&self, event: Event) -> Result<(), AuditUnavailable> {
        let event = Box::new(event);
        if !self.fail_closed {
            if self.queue.try_send(Message::Event { event, written: None }).is_err() {
                self.metrics.audit_line_lost();
            }
            return Ok(());
        }
        let gone = || AuditUnavailable("the writing thread is gone".to_owned());
        let (written, answer) = oneshot::channel();
        self.queue.send(Message::Event { event, written: Some(written) }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?.map_err(AuditUnavailable)
    }
}

/// Opened without waiting: a pipe that nobody reads is an error (ENXIO), and no hang. Written to as any file.
fn open_for_appending(path: &Path) -> io::Result<File> {
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or_default();
    let file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
    rustix::fs::fcntl_setfl(&file, OFlags::APPEND)?;
    Ok(file)
}

/// The writing thread: lines in order, one write each, until every sender is gone.
fn write_all(mut messages: mpsc::Receiver<Message>, mut writer: Box<dyn Write + Send>, metrics: &Metrics) {
    let mut repeats = Repeats::default();
    while let Some(message) = messages.blocking_recv() {
        match message {
            Message::Event { event, written } => {
                let volume = event.volume();
                let outcome = write_lines(&mut *writer, repeats.pass(*event));
                if let Err(error) = &outcome {
                    repeats.forget(volume);
                    metrics.audit_line_lost();
                    tracing::error!(%error, "an audit line could not be written");
                }
                if let Some(written) = written {
                    let _ = written.send(outcome.map_err(|error| error.to_string()));
                }
            }
            Message::Flush(done) => {
                if let Err(error) = write_lines(&mut *writer, repeats.drain()) {
                    metrics.audit_line_lost();
                    tracing::error!(%error, "an audit line could not be written");
                }
                let _ = done.send(());
            }
        }
    }
    let _ = write_lines(&mut *writer, repeats.drain());
}

fn write_lines(writer: &mut dyn Write, events: Vec<Event>) -> io::Result<()> {
    for event in events {
        let mut line = serde_json::to_vec(&event)?;
        line.push(b'\n');
        writer.write_all(&line)?;
    }
    writer.flush()
}

#[cfg(test)]
mod tests;
