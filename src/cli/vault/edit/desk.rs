//! Where a secret is edited: a folder in memory. It is removed however the command ends, except by SIGKILL.
//!
//! The main thread waits for the editor, or for the vault's lock. So another thread handles signals: it ends the editor, removes the folder, and ends
//! the process. Meanwhile the main thread waits for a lock that it never gets, so that it writes nothing more.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use futures_util::future::select_all;
use rustix::process::{Pid, Signal, geteuid, kill_process};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::time::{Duration, Instant, sleep};
use zeroize::Zeroizing;

use super::editor::Editor;
use crate::backend::store::file::MAX_BYTES;
use crate::cli::TempFolder;
use crate::cli::vault::{VaultCliError, fault, progress};
use crate::delivery::volume::is_in_memory;
use crate::model::SecretName;

/// The most bytes of the edited text that are read: the longest secret, written with the longest escapes.
const LONGEST: usize = 8 * MAX_BYTES;

/// If an editor ends sooner than this, the person has not seen the text.
const AT_ONCE: Duration = Duration::from_millis(500);

/// How long an editor may take to end after SIGTERM, and to be gone after SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// The signals that end a process if it does not catch them, and that it can catch.
const ENDING: [SignalKind; 7] = [
    SignalKind::alarm(),
    SignalKind::hangup(),
    SignalKind::interrupt(),
    SignalKind::quit(),
    SignalKind::terminate(),
    SignalKind::user_defined1(),
    SignalKind::user_defined2(),
];

#[derive(Debug)]
pub struct Desk {
    name: SecretName,
    folder: TempFolder,
    terminal: Termios,
    work: Arc<Mutex<Work>>,
}

/// How soon a successful editor ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ended {
    AtOnce,
    Later,
}

/// What is running when a signal comes.
#[derive(Debug)]
enum Work {
    Editor(Pid),
    /// No editor runs: it is enough to remove the folder.
    Reading,
    /// The work on the vault is over.
    Done,
}

impl Desk {
    pub fn set(name: &SecretName) -> Result<Self, VaultCliError> {
        let terminal = tcgetattr(io::stdin()).map_err(|cause| fault(format!("{name}: the terminal does not answer: {cause}")))?;
        let work = Arc::new(Mutex::new(Work::Reading));
        let heard = Watch::begin().map_err(|cause| fault(format!("{name}: cannot wait for signals: {cause}")))?;
        let folder = folder_in_memory(name, places())?;
        heard.watch(name.clone(), folder.path().to_owned(), terminal.clone(), Arc::clone(&work));
        Ok(Self { name: name.clone(), folder, terminal, work })
    }

    pub fn write(&self, text: &[u8]) -> Result<(), VaultCliError> {
        let path = self.file();
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&path).and_then(|mut file| file.write_all(text)).map_err(|cause| VaultCliError::Written { path, cause })
    }

    /// The file as the editor left it. The buffer has its full size from the start: a growing buffer would leave copies of the secret in memory.
    pub fn read(&self) -> Result<Zeroizing<Vec<u8>>, VaultCliError> {
        let (name, path) = (&self.name, self.file());
        let read = || -> io::Result<_> {
            let file = File::open(&path)?;
            let size = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX).min(LONGEST);
            let mut text = Zeroizing::new(Vec::with_capacity(size + 1));
            file.take(LONGEST as u64 + 1).read_to_end(&mut text)?;
            Ok(text)
        };
        match read() {
            Ok(text) if text.len() > LONGEST => {
                Err(fault(format!("{name}: the text has more than {LONGEST} bytes, and nothing was changed")))
            }
            Ok(text) => Ok(text),
            Err(cause) => Err(fault(format!("{name}: the text cannot be read, and nothing was changed: {cause}"))),
        }
    }

    /// Runs the editor to its end.
    pub fn run(&self, editor: &Editor) -> Result<Ended, VaultCliError> {
        let name = &self.name;
        let begun = Instant::now();
        let mut work = self.work();
        let mut child = editor
            .command(&self.file(), self.folder.path())
            .spawn()
            .map_err(|cause| fault(format!("{name}: /bin/sh, which runs the editor, does not start: {cause}")))?;
        *work = Work::Editor(Pid::from_child(&child));
        drop(work);
        let ended = child.wait();
        *self.work() = Work::Reading;
        let ended = ended.map_err(|cause| fault(format!("{name}: cannot wait for the editor: {cause}")))?;
        if ended.success() {
            return Ok(if begun.elapsed() < AT_ONCE { Ended::AtOnce } else { Ended::Later });
        }
        restore(&self.terminal);
        Err(self.failure(ended))
    }

    /// Runs a change that a signal does not interrupt. It must be the last call on this desk.
    pub fn uninterrupted<T>(&self, change: impl FnOnce() -> T) -> T {
        let mut work = self.work();
        let outcome = change();
        *work = Work::Done;
        outcome
    }

    fn failure(&self, ended: ExitStatus) -> VaultCliError {
        let name = &self.name;
        // A shell has a code for a signal that has ended its command.
        let signal = ended.signal().or_else(|| Some(ended.code()? - 128).filter(|signal| (1..=64).contains(signal)));
        match (signal, ended.code().unwrap_or_default()) {
            (Some(signal), _) if signal == Signal::INT.as_raw() => VaultCliError::Stopped,
            (Some(signal), _) => fault(format!("{name}: the editor was ended by signal {signal}, and nothing was changed")),
            (None, 126 | 127) => fault(format!("{name}: the editor does not start, and nothing was changed (set VISUAL or EDITOR)")),
            (None, code) => fault(format!("{name}: the editor ended with exit code {code}, and nothing was changed")),
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("secret.yaml")
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a tmpfs usually is.
fn places() -> impl Iterator<Item = PathBuf> {
    let of_session = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let of_user = PathBuf::from(format!("/run/user/{}", geteuid().as_raw()));
    of_session.into_iter().chain([of_user, PathBuf::from("/dev/shm")])
}

/// A new folder on a tmpfs, mode 0700.
fn folder_in_memory(name: &SecretName, places: impl IntoIterator<Item = PathBuf>) -> Result<TempFolder, VaultCliError> {
    let mut refusals = Vec::new();
    for place in places {
        let made = match File::open(&place).map(|opened| is_in_memory(&opened)) {
            Ok(Ok(true)) => TempFolder::within(&place, "keyferry-edit").map_err(|cause| cause.to_string()),
            Ok(Ok(false)) => Err("is not a tmpfs".to_owned()),
            Ok(Err(cause)) => Err(cause.to_string()),
            Err(cause) => Err(cause.to_string()),
        };
        match made {
            Ok(folder) => return Ok(folder),
            Err(cause) => refusals.push(format!("{}: {cause}", place.display())),
        }
    }
    let refusals = refusals.join("; ");
    let remedy = format!("set XDG_RUNTIME_DIR to a folder of yours on a tmpfs, or use `keyferry vault patch {name}`");
    Err(fault(format!("{name}: there is no folder in memory, and Keyferry does not put a secret on a disk: {refusals} ({remedy})")))
}

/// Restores the terminal after an editor that failed. If the terminal is gone, there is nothing to do.
fn restore(terminal: &Termios) {
    let _ = tcsetattr(io::stdin(), OptionalActions::Now, terminal);
}

/// Catches signals from `begin` on.
struct Watch {
    runtime: Runtime,
    signals: Vec<(SignalKind, Signals)>,
}

// === impl Watch ===

impl Watch {
    fn begin() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let signals = ENDING.into_iter().map(|kind| Ok((kind, signal(kind)?))).collect::<io::Result<_>>()?;
        drop(entered);
        Ok(Self { runtime, signals })
    }

    fn watch(mut self, name: SecretName, folder: PathBuf, terminal: Termios, work: Arc<Mutex<Work>>) {
        thread::spawn(move || {
            loop {
                let kind = self.next();
                let work = work.lock().unwrap_or_else(PoisonError::into_inner);
                match *work {
                    Work::Done => return,
                    Work::Editor(_) if is_key(kind) => continue,
                    Work::Editor(editor) => self.end(editor),
                    Work::Reading => {}
                }
                restore(&terminal);
                // If it cannot be removed: it is in memory, and only this user can read it.
                let _ = fs::remove_dir_all(&folder);
                let message = format!("interrupted: {name} is not changed (run `keyferry vault edit {name}` again)\n");
                progress::leave(&message, 128 + kind.as_raw_value());
            }
        });
    }

    fn next(&mut self) -> SignalKind {
        let received = self.signals.iter_mut().map(|(kind, signals)| Box::pin(async { signals.recv().await.map(|()| *kind) }));
        let received = select_all(received);
        // A stream of signals has no end.
        self.runtime.block_on(received).0.unwrap_or(SignalKind::terminate())
    }

    /// Asks the editor to end, and makes it end. The main thread reaps it.
    fn end(&self, editor: Pid) {
        let all = family(editor);
        for signal in [Signal::TERM, Signal::KILL] {
            for process in &all {
                let _ = kill_process(*process, signal);
            }
            let last = Instant::now() + GRACE;
            while Instant::now() < last {
                if !all.iter().any(|process| is_running(*process)) {
                    return;
                }
                self.runtime.block_on(async { sleep(Duration::from_millis(10)).await });
            }
        }
    }
}

/// A process and what it has started: a shell, perhaps a script, and below them the editor.
fn family(first: Pid) -> Vec<Pid> {
    let (mut all, mut next) = (vec![first], 0);
    while let Some(process) = all.get(next).map(|process| process.as_raw_nonzero()) {
        let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
        all.extend(children.split_ascii_whitespace().filter_map(|child| Pid::from_raw(child.parse().ok()?)));
        next += 1;
    }
    all
}

/// Whether a process still runs. After its end it has no program, also while it waits to be reaped.
fn is_running(process: Pid) -> bool {
    fs::read_link(format!("/proc/{}/exe", process.as_raw_nonzero())).is_ok()
}

/// Whether a signal may come from a key of the editor. Then the editor reads single keys, and the terminal still sends signals for some of them, as
/// with Ctrl-G in emacs. In all other cases Ctrl-C means that the person stops the command.
fn is_key(kind: SignalKind) -> bool {
    let sent_by_keys = kind == SignalKind::interrupt() || kind == SignalKind::quit();
    let modes = || tcgetattr(io::stdin()).map_or(LocalModes::ICANON, |terminal| terminal.local_modes);
    sent_by_keys && modes() & (LocalModes::ICANON | LocalModes::ISIG) == LocalModes::ISIG
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_put_into_memory_or_nowhere() {
        let name = "shop/db".parse().unwrap();
        let places = |places: &[&str]| places.iter().map(PathBuf::from).collect::<Vec<_>>();
        let refused = folder_in_memory(&name, places(&["/nowhere", "/proc"])).unwrap_err().to_string();
        insta::assert_snapshot!(refused, @"shop/db: there is no folder in memory, and Keyferry does not put a secret on a disk: /nowhere: No such file or directory (os error 2); /proc: is not a tmpfs (set XDG_RUNTIME_DIR to a folder of yours on a tmpfs, or use `keyferry vault patch shop/db`)");
        let made = folder_in_memory(&name, places(&["/nowhere", "/proc", "/dev/shm"])).unwrap();
        assert!(made.path().starts_with("/dev/shm"));
        assert_eq!(fs::metadata(made.path()).unwrap().permissions().mode() & 0o7777, 0o700);
    }

    #[test]
    fn a_panic_takes_the_folder_with_it() {
        let made = folder_in_memory(&"shop/db".parse().unwrap(), places()).unwrap();
        let path = made.path().to_owned();
        fs::write(path.join("secret.yaml"), "x").unwrap();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _made = made;
            panic!("as a bug would");
        }));
        assert!(panicked.is_err() && !path.exists());
    }
}
