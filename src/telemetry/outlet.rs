//! The output of the log's lines, which never makes its caller wait: a bounded queue, and a thread that empties it.
//!
//! In a container standard error is a pipe. If a log collector stops reading, the pipe becomes full. A thread of the runtime that wrote to
//! it would then wait, and the mounts of every tenant with it.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;

/// Bytes of lines that may wait; each counts with [`OVERHEAD`].
const QUEUE: usize = 1024 * 1024;

/// What a waiting line costs in bytes, in addition to its text.
const OVERHEAD: usize = 64;

/// If a descriptor does not wait by itself, Keyferry tries again after this time.
const AGAIN: Duration = Duration::from_millis(20);

/// A queue of lines to one writer. Clones share it.
#[derive(Clone)]
pub struct Outlet(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    lost: Counter,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    /// For the lines that wait, and the line that is being written.
    bytes: usize,
    writing: bool,
    /// Lines that were lost since this was last reported.
    missed: u64,
    /// The writing thread: there is always room for its own report of lost lines.
    writer: Option<thread::ThreadId>,
}

/// Continues a write where a descriptor says that it would have to wait.
#[derive(Debug)]
pub struct Patient<W>(pub W);

// === impl Outlet ===

impl Outlet {
    /// To standard error.
    ///
    /// # Errors
    /// No thread or descriptor is available.
    pub fn stderr() -> io::Result<Self> {
        Self::to(Box::new(own_descriptor(&io::stderr())?))
    }

    /// To any writer, by its own thread, which ends with the process.
    ///
    /// # Errors
    /// No thread is available.
    pub fn to(writer: Box<dyn Write + Send>) -> io::Result<Self> {
        let outlet = Self(Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), lost: Counter::default() }));
        let shared = Arc::clone(&outlet.0);
        thread::Builder::new().name("log".to_owned()).spawn(move || shared.write_all(Patient(writer)))?;
        Ok(outlet)
    }

    /// Puts a line, with its end, into the queue. If there is no room, the line is lost and counted.
    pub fn push(&self, line: Vec<u8>) {
        let mut state = self.0.lock();
        let bytes = line.len() + OVERHEAD;
        if state.bytes + bytes > QUEUE && state.writer != Some(thread::current().id()) {
            state.missed += 1;
            self.0.lost.inc();
            return;
        }
        state.bytes += bytes;
        state.lines.push_back(line);
        self.0.changed.notify_all();
    }

    /// Waits until everything is written, for at most `limit`. Returns whether it is.
    pub fn flush(&self, limit: Duration) -> bool {
        let waiting = |state: &mut State| !state.lines.is_empty() || state.writing;
        let (state, _) = self.0.changed.wait_timeout_while(self.0.lock(), limit, waiting).unwrap_or_else(PoisonError::into_inner);
        state.lines.is_empty() && !state.writing
    }

    /// Counts the lines that were lost.
    pub fn lost(&self) -> Counter {
        self.0.lost.clone()
    }
}

impl Shared {
    fn write_all(&self, mut writer: impl Write) {
        self.lock().writer = Some(thread::current().id());
        loop {
            let line = self.next();
            let written = writer.write_all(&line).and_then(|()| writer.flush());
            let missed = self.written(line.len() + OVERHEAD, written.is_ok());
            if missed > 0 {
                tracing::warn!(lines = missed, "log lines were lost: nobody read standard error (see the node's log collector)");
            }
        }
    }

    fn next(&self) -> Vec<u8> {
        let mut state = self.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.writing = true;
                return line;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends a line. Returns how many were lost, if lines pass again and half of the queue is free: then there is room to report it.
    fn written(&self, bytes: usize, came_through: bool) -> u64 {
        let mut state = self.lock();
        state.bytes -= bytes;
        state.writing = false;
        self.changed.notify_all();
        if !came_through {
            state.missed += 1;
            self.lost.inc();
        } else if state.bytes <= QUEUE / 2 {
            return std::mem::take(&mut state.missed);
        }
        0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outlet")
    }
}

/// The writer for `tracing`: one whole event at a time.
impl Write for Outlet {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Our own descriptor for the target of a standard stream. The stream has a lock, which a hanging write would hold.
///
/// # Errors
/// No descriptor is available.
pub fn own_descriptor(stream: &impl AsFd) -> io::Result<File> {
    Ok(File::from(stream.as_fd().try_clone_to_owned()?))
}

// === impl Patient ===

/// Another process that shares a pipe may have made it non-blocking.
impl<W: Write> Write for Patient<W> {
    #[expect(clippy::disallowed_methods, reason = "it writes on a thread of its own, which has nothing else to do")]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(AGAIN),
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// A writer that takes a line when its reader does.
    struct Pipe(SyncSender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn pipe() -> (Outlet, Receiver<Vec<u8>>) {
        let (sender, receiver) = sync_channel(0);
        (Outlet::to(Box::new(Pipe(sender))).unwrap(), receiver)
    }

    #[test]
    fn lines_come_in_order_and_are_waited_for() {
        let (outlet, read) = pipe();
        for number in 0..1000 {
            outlet.push(format!("{number}").into_bytes());
        }
        assert!(!outlet.flush(Duration::from_millis(10)), "nobody has read them");
        for number in 0..1000 {
            assert_eq!(read.recv().unwrap(), format!("{number}").into_bytes());
        }
        assert!(outlet.flush(Duration::from_secs(10)));
        assert_eq!(outlet.lost().get(), 0);
    }

    #[test]
    fn without_a_reader_nobody_waits_and_memory_is_bounded() {
        let (outlet, read) = pipe();
        // Few long lines, then many short ones: bytes are counted, not lines.
        for _ in 0..10 {
            outlet.push(vec![b'x'; QUEUE / 8]);
        }
        let lost = outlet.lost().get();
        assert!((2..=3).contains(&lost), "{lost}");
        for _ in 0..10_000 {
            outlet.push(b"x".to_vec());
        }
        let state = outlet.0.lock();
        assert!(state.bytes <= QUEUE && state.lines.len() < 10_000, "{} {}", state.bytes, state.lines.len());
        assert_eq!(state.missed, outlet.lost().get());
        drop(state);
        // The lines pass again: none of the kept lines is lost.
        let kept = 10_010 - outlet.lost().get();
        for _ in 0..kept {
            read.recv().unwrap();
        }
        assert!(outlet.flush(Duration::from_secs(10)));
        assert_eq!(outlet.0.lock().missed, 0, "it was said");
    }

    #[test]
    fn a_reader_that_is_gone_costs_lines_alone() {
        let (outlet, read) = pipe();
        drop(read);
        outlet.push(b"one".to_vec());
        outlet.push(b"two".to_vec());
        assert!(outlet.flush(Duration::from_secs(10)));
        assert_eq!(outlet.lost().get(), 2);
    }

    #[test]
    fn a_non_blocking_pipe_is_waited_for() {
        struct Once(u8, SyncSender<Vec<u8>>);
        impl Write for Once {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += 1;
                if self.0 % 2 == 1 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                // One part at a time, like a pipe that is almost full.
                let part = &bytes[..1];
                self.1.send(part.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
                Ok(1)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (sender, read) = sync_channel(16);
        let outlet = Outlet::to(Box::new(Once(0, sender))).unwrap();
        outlet.push(b"abc".to_vec());
        assert!(outlet.flush(Duration::from_secs(10)));
        assert_eq!(read.try_iter().flatten().collect::<Vec<_>>(), b"abc");
    }
}
