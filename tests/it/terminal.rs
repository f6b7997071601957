//! A person at a terminal: a command on a pseudoterminal of its own, which is also its controlling terminal.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{ffi::OsStr, thread};

use rustix::process::{Pid, Signal};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::support::apart;

const PATIENCE: Duration = Duration::from_secs(30);

pub struct Terminal {
    keyboard: File,
    child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Starts a command there; of its environment what is not inherited is passed on.
    pub fn run(command: &Command) -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let name = Path::new(OsStr::from_bytes(name.as_bytes())).to_owned();
        let open = || OpenOptions::new().read(true).write(true).open(&name).unwrap();
        let mut session = apart("setsid");
        session.arg("--ctty").arg(command.get_program()).args(command.get_args());
        session.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("TERM", "xterm");
        let child = session.stdin(open()).stdout(open()).stderr(open()).spawn().unwrap();
        let keyboard = File::from(keyboard);
        let (shown, mut screen) = (Arc::default(), keyboard.try_clone().unwrap());
        let gathered: Arc<Mutex<Vec<u8>>> = Arc::clone(&shown);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The last process that has the other side is gone: EIO.
            while let Ok(read) = screen.read(&mut bytes) {
                gathered.lock().unwrap().extend_from_slice(&bytes[..read]);
            }
        });
        Self { keyboard, child, shown }
    }

    pub fn type_keys(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Whether what is typed is shown and comes line by line, as a shell needs it.
    pub fn is_in_order(&self) -> bool {
        tcgetattr(&self.keyboard).unwrap().local_modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).replace("\r\n", "\n")
    }

    /// Waits until a condition is true.
    #[track_caller]
    pub fn until(&self, what: &str, holds: impl Fn() -> bool) {
        wait_until(holds, || format!("{what}:\n{}", self.shown()));
    }

    /// How it ended, and all that was shown.
    #[track_caller]
    pub fn end(&mut self) -> (ExitStatus, String) {
        let mut ended = None;
        let shown = Arc::clone(&self.shown);
        wait_until(
            || {
                ended = self.child.try_wait().unwrap();
                ended.is_some()
            },
            || format!("it does not end:\n{}", String::from_utf8_lossy(&shown.lock().unwrap())),
        );
        (ended.unwrap(), self.last_shown())
    }

    /// What is written last may still be on its way.
    fn last_shown(&self) -> String {
        let mut before = self.shown();
        loop {
            pause(20);
            let now = self.shown();
            if now == before {
                return now;
            }
            before = now;
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[allow(clippy::disallowed_methods)] // another process is waited for
#[track_caller]
fn wait_until(mut holds: impl FnMut() -> bool, what: impl Fn() -> String) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{}", what());
        pause(5);
    }
}

#[allow(clippy::disallowed_methods)] // another process is waited for
fn pause(milliseconds: u64) {
    thread::sleep(Duration::from_millis(milliseconds));
}
