//! The keys that open a vault: age identity files, read again when they change.
//!
//! The keys in force are those that the files hold now. A line that Keyferry cannot read does not affect the other lines, and a file does not
//! affect the other files.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use age::secrecy::ExposeSecret;
use age::x25519::{Identity, Recipient};
use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::ReadFault;
use super::key::Key;
use super::read::{Stamp, Unreadable, WholeFile};
use crate::backend::Fault;
use crate::clock::{Clock, SystemClock};
use crate::files::create_new;
use crate::grace::Outage;

mod lines;

use lines::Lines;

/// The longest identity file in bytes.
const MAX_FILE: usize = 64 * 1024;

/// How long Keyferry believes the files' state without another look, in milliseconds.
const BELIEVED: u64 = 1_000;

/// The identity files of a backend, and what they last held.
#[derive(Debug)]
pub struct Identities {
    paths: Vec<PathBuf>,
    clock: Arc<dyn Clock>,
    keys: ArcSwap<Keys>,
    /// Changes with the keys: what other keys have opened does not count any more.
    generation: AtomicU64,
    since: Instant,
    checked: AtomicU64,
}

/// The identities of all files, and the state the files were in.
pub struct Keys {
    pub identities: Vec<Key>,
    files: Vec<KeyFile>,
}

/// One file, as Keyferry last saw it.
struct KeyFile {
    identities: Vec<Key>,
    state: State,
    /// What the admin should know about it.
    doubts: Option<String>,
}

enum State {
    /// There is no such file.
    Absent(ReadFault),
    /// It cannot be read, or holds no identity.
    Faulty(Outage<ReadFault>),
    /// `settled`: Keyferry will certainly see a later change.
    Read { stamp: Stamp, settled: bool },
}

// === impl Identities ===

impl Identities {
    /// Reads the files.
    ///
    /// # Errors
    /// None of them holds an X25519 identity: what is wrong with the first.
    pub fn open(paths: &[PathBuf], clock: Arc<dyn Clock>) -> Result<Self, ReadFault> {
        let keys = Keys::read(paths, None, clock.now());
        keys.usable()?;
        keys.warn(None);
        Ok(Self {
            paths: paths.to_vec(),
            clock,
            keys: ArcSwap::from_pointee(keys),
            generation: AtomicU64::new(0),
            since: Instant::now(),
            checked: AtomicU64::new(0),
        })
    }

    /// For a person who has named the files: all of them must be there.
    ///
    /// # Errors
    /// One of them is absent, cannot be read, or holds no X25519 identity.
    pub fn open_all(paths: &[PathBuf]) -> Result<Self, ReadFault> {
        let identities = Self::open(paths, Arc::new(SystemClock))?;
        identities.keys.load().fault().map_or(Ok(identities), Err)
    }

    /// When Keyferry read them first.
    pub fn born(&self) -> Instant {
        self.since
    }

    /// Milliseconds since then.
    pub fn life(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.since).as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether it is time, at this [`Self::life`], to look at the files again, by [`Self::refresh`].
    pub fn due(&self, life: u64) -> bool {
        life.saturating_sub(self.checked.load(Ordering::Relaxed)) >= BELIEVED
    }

    /// Names the present keys, without a look at the files.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The keys as the files hold them now. Where nothing changed, this costs one stat per file.
    ///
    /// # Errors
    /// There are none.
    pub fn refresh(&self) -> Result<Arc<Keys>, ReadFault> {
        let (now, old) = (self.life(Instant::now()), self.keys.load_full());
        let keys = if old.are_current(&self.paths) { old } else { self.read_again(&old) };
        self.checked.store(now, Ordering::Relaxed);
        keys.usable()?;
        Ok(keys)
    }

    /// # Errors
    /// A file cannot be read, or holds no identity. This is also an error while its former identities, or those of other files, are in force.
    pub fn check(&self) -> Result<(), ReadFault> {
        let keys = self.refresh()?;
        let faulty = keys.files.iter().find_map(|file| match &file.state {
            State::Faulty(outage) => Some(outage.problem.clone()),
            State::Absent(_) | State::Read { .. } => None,
        });
        faulty.map_or(Ok(()), Err)
    }

    fn read_again(&self, old: &Keys) -> Arc<Keys> {
        let keys = Arc::new(Keys::read(&self.paths, Some(old), self.clock.now()));
        keys.warn(Some(old));
        self.keys.store(Arc::clone(&keys));
        if keys.recipients() != old.recipients() {
            self.generation.fetch_add(1, Ordering::AcqRel);
            tracing::info!(identities = keys.identities.len(), "the identities of the file vault changed, and are in force");
        }
        keys
    }

    /// For messages: the files, and the recipients whose secrets they open.
    pub fn describe(&self, keys: &Keys) -> String {
        let files: Vec<String> = self.paths.iter().map(|path| path.display().to_string()).collect();
        format!("in {} ({})", files.join(", "), Self::recipients(keys))
    }

    /// The same without the node's paths.
    pub fn describe_to_classes(keys: &Keys) -> String {
        format!("of the backend ({})", Self::recipients(keys))
    }

    fn recipients(keys: &Keys) -> String {
        let recipients = keys.recipients();
        let shown = recipients.iter().take(3).map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let more = recipients.len().saturating_sub(3);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        format!("{shown}{more}")
    }
}

// === impl Keys ===

impl Keys {
    pub fn recipients(&self) -> Vec<Recipient> {
        self.identities.iter().map(Key::to_public).collect()
    }

    fn read(paths: &[PathBuf], former: Option<&Self>, now: Timestamp) -> Self {
        let former = |at: usize| former.and_then(|keys| keys.files.get(at));
        let files: Vec<KeyFile> = paths.iter().enumerate().map(|(at, path)| KeyFile::read(path, former(at), now)).collect();
        Self { identities: files.iter().flat_map(|file| file.identities.iter().cloned()).collect(), files }
    }

    fn are_current(&self, paths: &[PathBuf]) -> bool {
        paths.iter().zip(&self.files).all(|(path, file)| match &file.state {
            State::Absent(_) => Stamp::of(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound),
            State::Faulty(_) | State::Read { settled: false, .. } => false,
            State::Read { stamp, settled: true } => Stamp::of(path).is_ok_and(|now| now == *stamp),
        })
    }

    fn usable(&self) -> Result<(), ReadFault> {
        self.fault().filter(|_| self.identities.is_empty()).map_or(Ok(()), Err)
    }

    /// Logs the doubts about each file, unless it has logged them for the former state.
    fn warn(&self, former: Option<&Self>) {
        for (at, file) in self.files.iter().enumerate() {
            let told = former.and_then(|keys| keys.files.get(at)).and_then(|file| file.doubts.as_ref());
            if let Some(doubts) = file.doubts.as_ref().filter(|doubts| told != Some(*doubts)) {
                tracing::warn!("{doubts}");
            }
        }
    }

    /// The fault of the first file without identities.
    fn fault(&self) -> Option<ReadFault> {
        self.files.iter().find_map(|file| match &file.state {
            State::Absent(fault) | State::Faulty(Outage { problem: fault, .. }) => Some(fault.clone()),
            State::Read { .. } => None,
        })
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("recipients", &self.recipients()).finish_non_exhaustive()
    }
}

// === impl KeyFile ===

impl KeyFile {
    /// Looks at the file. If it is faulty, its former identities stay for a moment.
    fn read(path: &Path, former: Option<&Self>, now: Timestamp) -> Self {
        let unreadable =
            |cause: &Unreadable| fault_of(path, |file| format!("{file} {cause} (is its volume mounted, and may this user read it?)"));
        let file = match WholeFile::read(path, MAX_FILE) {
            Ok(file) => file,
            Err(cause @ Unreadable::Absent) => return Self::without(Vec::new(), State::Absent, unreadable(&cause)),
            Err(cause) => return Self::faulty(unreadable(&cause), former),
        };
        match Lines::parse(&file.bytes) {
            Ok(Lines { identities, left_out }) => {
                let open = (file.mode & 0o077 != 0).then(|| {
                    let mode = file.mode & 0o7777;
                    format!("is open to other users, its mode is {mode:04o} (chmod 0400; in a volume of a Secret: defaultMode: 0400)")
                });
                let doubts: Vec<String> = open.into_iter().chain(left_out).collect();
                let doubts = (!doubts.is_empty()).then(|| format!("the identity file {} {}", path.display(), doubts.join("; it ")));
                let state = State::Read { stamp: file.stamp, settled: file.stamp.settled(now, file.local) };
                Self { identities: identities.into_iter().map(Key::new).collect(), state, doubts }
            }
            Err(problem) => Self::faulty(fault_of(path, |file| format!("{file} {problem}")), former),
        }
    }

    fn faulty(fault: ReadFault, former: Option<&Self>) -> Self {
        let known = match former.map(|former| &former.state) {
            Some(State::Faulty(outage)) => Some(outage),
            Some(State::Absent(_) | State::Read { .. }) | None => None,
        };
        let outage = Outage::after(known, fault.clone());
        let former = former.filter(|_| !outage.is_final());
        Self::without(former.map(|former| former.identities.clone()).unwrap_or_default(), |_| State::Faulty(outage), fault)
    }

    fn without(identities: Vec<Key>, state: impl FnOnce(ReadFault) -> State, fault: ReadFault) -> Self {
        Self { identities, doubts: Some(fault.reason.clone()), state: state(fault) }
    }
}

fn fault_of(path: &Path, say: impl Fn(&str) -> String) -> ReadFault {
    ReadFault::about(Fault::Unavailable, &format!("the identity file {}", path.display()), "an identity file of the backend", say)
}

/// Makes a new X25519 identity in a new file (0600), as `age-keygen -o` does, and gives its recipient.
///
/// # Errors
/// The file exists, or cannot be written.
pub fn generate_identity(path: &Path, now: Timestamp) -> io::Result<Recipient> {
    let identity = Identity::generate();
    let recipient = identity.to_public();
    let secret = identity.to_string();
    let mut text = Zeroizing::new(String::with_capacity(512));
    text.push_str(&format!("# created: {now:.0}\n# public key: {recipient}\n"));
    text.push_str(secret.expose_secret());
    text.push('\n');
    let mut file = create_new(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    super::write::sync_folder_of(path)?;
    Ok(recipient)
}

/// The recipients of the identities in a file.
pub fn recipients_of(path: &Path) -> Result<Vec<Recipient>, ReadFault> {
    Ok(Identities::open_all(&[path.to_owned()])?.keys.load().recipients())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use insta::assert_snapshot;

    use tokio::time::Duration;

    use super::*;
    use crate::clock::ManualClock;

    const NOW: &str = "2026-01-02T03:04:05.678Z";

    fn clock() -> Arc<dyn Clock> {
        let clock = ManualClock::at(Clock::now(&SystemClock));
        clock.advance(3_600);
        Arc::new(clock)
    }

    /// A file with these lines.
    fn write(path: &Path, lines: &[&str]) {
        fs::write(path, lines.join("\n")).unwrap();
    }

    fn line(folder: &Path) -> (String, Recipient) {
        let path = folder.join("made.key");
        let recipient = generate_identity(&path, NOW.parse().unwrap()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        (text.lines().last().unwrap().to_owned(), recipient)
    }

    #[test]
    fn a_made_identity_is_private_and_never_overwritten() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("age.key");
        let recipient = generate_identity(&path, NOW.parse().unwrap()).unwrap();
        assert_eq!(recipients_of(&path).unwrap(), std::slice::from_ref(&recipient));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(&format!("# created: 2026-01-02T03:04:05Z\n# public key: {recipient}\nAGE-SECRET-KEY-1")), "{text}");
        assert_eq!(generate_identity(&path, NOW.parse().unwrap()).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn a_changed_file_is_read_again_and_what_was_opened_before_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("age.key"), folder.path().join("other.key"));
        let first = generate_identity(&path, NOW.parse().unwrap()).unwrap();
        let second = generate_identity(&other, NOW.parse().unwrap()).unwrap();
        let identities = Identities::open(std::slice::from_ref(&path), clock()).unwrap();
        assert_eq!(identities.refresh().unwrap().recipients(), std::slice::from_ref(&first));
        assert_eq!(identities.generation(), 0);

        let both = [fs::read(&path).unwrap(), fs::read(&other).unwrap()].concat();
        fs::write(&other, both).unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(identities.refresh().unwrap().recipients(), [first, second]);
        assert_eq!(identities.generation(), 1);

        fs::remove_file(&path).unwrap();
        assert!(identities.refresh().is_err());
        assert_eq!(identities.generation(), 2);
    }

    /// Each line and each file is judged separately.
    #[test]
    fn a_line_taken_out_is_gone_and_a_line_of_another_kind_takes_nothing_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one.key"), folder.path().join("two.key"));
        let ((first, ours), (second, theirs)) = (line(folder.path()), line(folder.path()));
        write(&one, &["# ours", "AGE-SECRET-KEY-PQ-1QQQ", &first, "AGE-PLUGIN-YUBIKEY-1QQQ", &second]);
        let identities = Identities::open(&[one.clone(), two.clone()], clock()).unwrap();
        let known = || identities.refresh().unwrap().recipients();
        assert_eq!(known(), [ours.clone(), theirs.clone()], "the second file is absent");
        identities.check().unwrap();
        write(&one, &[&second]);
        assert_eq!(known(), std::slice::from_ref(&theirs));
        write(&two, &[&first, "garbage"]);
        assert_eq!(known(), [theirs, ours.clone()]);
        fs::remove_file(&one).unwrap();
        assert_eq!(known(), [ours], "absent, it has none");
        identities.check().unwrap();
        fs::remove_file(&two).unwrap();
        assert_snapshot!(identities.refresh().unwrap_err().told, @"an identity file of the backend is absent (is its volume mounted, and may this user read it?)");
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_cannot_be_read_any_more_has_ten_seconds() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one.key"), folder.path().join("two.key"));
        let ((first, ours), (second, theirs)) = (line(folder.path()), line(folder.path()));
        write(&one, &[&first]);
        write(&two, &[&second]);
        let identities = Identities::open(&[one.clone(), two], clock()).unwrap();
        let known = || identities.refresh().unwrap().recipients();
        for fault in [&["garbage"][..], &[], &["# nothing", "AGE-SECRET-KEY-1CUT"], &["-----BEGIN AGE ENCRYPTED FILE-----"]] {
            write(&one, fault);
            assert_eq!(known(), [ours.clone(), theirs.clone()], "{fault:?}");
            assert!(identities.check().is_err());
            tokio::time::advance(Duration::from_millis(9_999)).await;
            assert_eq!(known().len(), 2);
            tokio::time::advance(Duration::from_millis(1)).await;
            assert_eq!(known(), std::slice::from_ref(&theirs), "{fault:?}");
            assert!(identities.check().is_err(), "not ready until it is repaired");
            write(&one, &[&first]);
            assert_eq!(known(), [ours.clone(), theirs.clone()]);
            identities.check().unwrap();
        }
        fs::remove_file(&one).unwrap();
        fs::create_dir(&one).unwrap();
        assert_eq!(known().len(), 2, "a folder is in its place");
        fs::remove_dir(&one).unwrap();
        assert_eq!(known(), [theirs], "an absent file has none, whatever was before");
    }

    #[test]
    fn without_any_identity_nothing_starts_and_the_first_file_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let [absent, bad] = ["absent.key", "bad.key"].map(|name| folder.path().join(name));
        write(&bad, &["age1qqq", "AGE-PLUGIN-X-1QQQ"]);
        let told = |paths: &[PathBuf]| Identities::open(paths, clock()).unwrap_err().told;
        assert_snapshot!(told(&[absent.clone(), bad.clone()]), @"an identity file of the backend is absent (is its volume mounted, and may this user read it?)");
        assert_snapshot!(told(&[bad, absent]), @"an identity file of the backend holds no X25519 identity: line 1 is a recipient, which opens nothing, line 2 is a plugin's identity (those start with AGE-SECRET-KEY-1; plugin, ssh and post-quantum keys are not read)");
    }

    /// Two writes within the file system's tick, of the same length.
    #[test]
    fn a_change_that_leaves_no_trace_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("age.key");
        let ((first, ours), (second, theirs)) = (line(folder.path()), line(folder.path()));
        write(&path, &[&first]);
        let identities = Identities::open(std::slice::from_ref(&path), Arc::new(SystemClock)).unwrap();
        assert_eq!(identities.refresh().unwrap().recipients(), [ours]);
        write(&path, &[&second]);
        let keys = identities.keys.load_full();
        let State::Read { settled, .. } = &keys.files[0].state else { panic!() };
        assert!(!settled, "it was written a moment ago");
        assert_eq!(identities.refresh().unwrap().recipients(), [theirs]);
    }

    #[test]
    fn debug_shows_public_keys_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("age.key");
        let recipient = generate_identity(&path, NOW.parse().unwrap()).unwrap();
        let shown = format!("{:?}", Identities::open(&[path], clock()).unwrap());
        assert!(shown.contains(&recipient.to_string()) && !shown.contains("SECRET"), "{shown}");
    }
}
