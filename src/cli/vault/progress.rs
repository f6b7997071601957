//! The progress of work that takes long, and the message if a person stops it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process;
use std::sync::{Mutex, PoisonError};
use std::thread;

use tokio::time::{Duration, Instant};

use crate::cli::streams::errors;

/// Work that ends sooner shows no progress.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often a terminal's line is written again, and how often a line is written if there is no terminal.
const OFTEN: Duration = Duration::from_millis(200);
const SELDOM: Duration = Duration::from_secs(10);

/// The message for Ctrl-C. `None`: no work is going on.
static STOPPED: Mutex<Option<&'static str>> = Mutex::new(None);

/// A line that shows how far the work is. On a terminal it is rewritten.
pub struct Progress<'a> {
    what: &'static str,
    terminal: bool,
    next: Instant,
    shown: bool,
    err: &'a mut dyn Write,
}

impl<'a> Progress<'a> {
    pub fn of(what: &'static str, terminal: bool, err: &'a mut dyn Write) -> Self {
        Self { what, terminal, next: Instant::now() + if terminal { PATIENCE } else { SELDOM }, shown: false, err }
    }

    pub fn tick(&mut self, done: usize, all: usize) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        let line = format!("{}: {done} of {all}", self.what);
        // It does not matter if nobody reads it.
        let _ = if self.terminal { write!(self.err, "\r{line}\u{1b}[K") } else { writeln!(self.err, "note: {line}") };
        let _ = self.err.flush();
        self.shown = true;
        self.next = now + if self.terminal { OFTEN } else { SELDOM };
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if self.terminal && self.shown {
            let _ = write!(self.err, "\r\u{1b}[K");
        }
    }
}

/// While it lives, Ctrl-C ends the process with exit code 130, and the message says what to run again. The vault is valid at every moment.
pub struct Stop(());

impl Stop {
    pub fn with(message: &'static str) -> Self {
        let mut stopped = STOPPED.lock().unwrap_or_else(PoisonError::into_inner);
        *stopped = Some(message);
        thread::spawn(wait);
        Self(())
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        *STOPPED.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn wait() {
    // Without a runtime, a signal ends the process without a message.
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    if runtime.block_on(tokio::signal::ctrl_c()).is_err() {
        return;
    }
    let stopped = STOPPED.lock().unwrap_or_else(PoisonError::into_inner);
    let message = stopped.map(|message| format!("interrupted: {message}\n")).unwrap_or_default();
    leave(&message, 130);
}

/// Ends the process from a thread beside the one that works.
pub fn leave(message: &str, code: i32) -> ! {
    // The other thread may hold the lock of standard error.
    if let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned() {
        let _ = File::from(stderr).write_all(errors(message).as_bytes());
    }
    #[allow(clippy::exit)] // the work itself cannot be asked to stop: it waits for the disk, or for somebody
    process::exit(code);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn short_work_is_not_spoken_of_and_a_terminals_line_is_rewritten() {
        let mut shown = Vec::new();
        let mut progress = Progress::of("encrypting again", true, &mut shown);
        progress.tick(0, 10);
        tokio::time::advance(PATIENCE).await;
        progress.tick(3, 10);
        progress.tick(4, 10);
        tokio::time::advance(OFTEN).await;
        progress.tick(5, 10);
        drop(progress);
        assert_eq!(String::from_utf8(shown).unwrap(), "\rencrypting again: 3 of 10\u{1b}[K\rencrypting again: 5 of 10\u{1b}[K\r\u{1b}[K");
        let mut shown = Vec::new();
        let mut progress = Progress::of("importing", false, &mut shown);
        tokio::time::advance(SELDOM).await;
        progress.tick(1, 2);
        drop(progress);
        assert_eq!(shown, b"note: importing: 1 of 2\n");
    }
}
