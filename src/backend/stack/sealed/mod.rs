//! The sealed folder (`cache.sealed`): what Keyferry must find again after a restart, encrypted on the node's disk. Without the key, its files and
//! their names are noise. The folder knows nothing about its content: each user has a [`Room`] with ids of its own.
//!
//! A file has `kfseal`, a version byte, 32 bytes of salt, a nonce of 12 bytes, and the content with its tag, encrypted with AES-256-GCM. Each write
//! has a key of its own (HKDF-SHA256, RFC 5869, from the folder's key and the salt), so that no number of writes wears a key out. The associated
//! data are version, room and file name: a file that was renamed, moved or made up does not open. If a file does not open, Keyferry logs a warning
//! and skips it, because the store can give its content again.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, process};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::{hkdf, hmac};
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use crate::files::{Unreadable, WholeFile, absolute, write_draft};
use crate::model::SecretBytes;
use crate::units::parse_size;
use crate::yaml::{Faults, Reader};

/// The bytes of a key.
const KEY: usize = 32;

/// The first bytes of a file: a name and the format's version.
const MAGIC: &[u8; 7] = b"kfseal\x01";

const SALT: usize = 32;
const NONCE: usize = 12;
/// The bytes of a file's name, before they become hexadecimal digits.
const NAME: usize = 16;
const HEADER: usize = MAGIC.len() + SALT + NONCE;

/// The largest file in bytes. A secret has at most `limits.secretBytes`; base64 and names need some more.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// The most files of one room that are read at once.
const MAX_FILES: usize = 16_384;

/// How much of the disk answers may use by default, and the smallest value that may be set.
const BYTES: usize = 64 << 20;
const LEAST: usize = 1 << 20;

/// The mapping `cache.sealed`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SealedConfig {
    /// Created (0700) if it is missing.
    pub dir: PathBuf,
    /// Files of exactly 32 bytes: the first usable key encrypts, and the others still decrypt. At least one.
    pub keys: Vec<PathBuf>,
    /// How much of the disk answers may use. Leases have a limit of their own.
    pub bytes: usize,
}

/// The folder with its keys.
#[derive(Debug)]
pub struct Sealed {
    dir: PathBuf,
    keys: Vec<Key>,
}

/// One user's part of the folder. Its calls block, because they read and write files.
#[derive(Clone, Debug)]
pub struct Room {
    sealed: Arc<Sealed>,
    name: &'static str,
}

/// What was read from a room.
#[derive(Debug)]
pub struct Found {
    pub contents: Vec<SecretBytes>,
    /// How many files did not open, and why the first of them did not.
    pub unopened: Option<(usize, String)>,
}

struct Key {
    bytes: Zeroizing<Vec<u8>>,
    names: hmac::Key,
}

// === impl SealedConfig ===

impl SealedConfig {
    /// Reads `dir` and `key` (a file, or a list of files).
    pub fn parse(reader: &mut Reader<'_>, faults: &mut Faults) -> Option<Self> {
        let dir = reader.parsed("dir", faults, absolute);
        if reader.get("dir").is_none() {
            reader.missing("dir", "a folder that is still there after a restart, such as /var/lib/keyferry/cache", faults);
        }
        let given = reader.texts("key", faults);
        if given.as_ref().is_none_or(Vec::is_empty) {
            reader.missing("key", "the file of 32 bytes that encrypts it, such as /etc/keyferry/cache.key, or a list of such", faults);
        }
        let bytes = reader.parsed("bytes", faults, |text| match parse_size(text)? {
            few if few < LEAST => Err(format!("{text:?} is less than 1MiB (leave `stale` out to keep no answers)")),
            bytes => Ok(bytes),
        });
        let mut keys = Vec::new();
        for (at, text) in given.into_iter().flatten() {
            match absolute(text) {
                Ok(path) => keys.push(path),
                Err(problem) => faults.add(at, reader.path("key"), problem),
            }
        }
        (!keys.is_empty()).then_some(Self { dir: dir?, keys, bytes: bytes.unwrap_or(BYTES) })
    }
}

// === impl Sealed ===

impl Sealed {
    /// Reads the keys and creates the folder. A key that cannot be used is left out, with a warning: files that need it stay where they are.
    ///
    /// # Errors
    /// No key can be used, or the folder cannot be created: one line for each, with the configuration's key.
    pub fn open(config: &SealedConfig) -> Result<Arc<Self>, Vec<String>> {
        let (mut keys, mut problems) = (Vec::new(), Vec::new());
        for path in &config.keys {
            match Key::read(path) {
                Ok(key) => keys.push(key),
                Err(problem) => problems.push(format!("cache.sealed.key: {}: {problem}", path.display())),
            }
        }
        if !keys.is_empty() {
            for problem in problems.drain(..) {
                tracing::warn!("{problem}; Keyferry uses the other keys of the sealed folder, and encrypts with the first of them");
            }
        }
        if let Err(error) = make_folder(&config.dir) {
            problems.push(format!("cache.sealed.dir: {}: {error} (let the daemon write there)", config.dir.display()));
        }
        if problems.is_empty() { Ok(Arc::new(Self { dir: config.dir.clone(), keys })) } else { Err(problems) }
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The part of one user. Rooms know nothing about each other.
    pub fn room(self: &Arc<Self>, name: &'static str) -> Room {
        Room { sealed: Arc::clone(self), name }
    }
}

fn make_folder(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mode = fs::metadata(dir)?.mode();
    if mode & 0o077 != 0 {
        tracing::warn!(dir = %dir.display(), mode = %format!("{:04o}", mode & 0o7777),
            "the sealed folder is open to other users (chmod 0700: they could delete what is kept)");
    }
    Ok(())
}

// === impl Room ===

impl Room {
    /// Writes content under an id, in place of the former content, whichever key that was encrypted with.
    ///
    /// # Errors
    /// The folder cannot be written. Then the former content is still there.
    pub fn write(&self, id: &str, content: &[u8]) -> io::Result<()> {
        let Some(key) = self.sealed.keys.first() else { return Err(io::Error::other("no key")) };
        let dir = self.dir();
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let name = key.name_of(self.name, id);
        let file = key.seal(self.name, &name, content).map_err(|Unspecified| io::Error::other("cannot be encrypted"))?;
        let draft = dir.join(format!(".{name}.{}", process::id()));
        let written = write_draft(&draft, &file).and_then(|()| fs::rename(&draft, dir.join(&name)));
        if written.is_err() {
            let _ = fs::remove_file(&draft);
        }
        written?;
        for former in self.sealed.keys.iter().skip(1) {
            remove(&dir.join(former.name_of(self.name, id)))?;
        }
        Ok(())
    }

    /// Removes the content under an id; does nothing if there is none.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn remove(&self, id: &str) -> io::Result<()> {
        self.sealed.keys.iter().try_for_each(|key| remove(&self.dir().join(key.name_of(self.name, id))))
    }

    /// The content under an id, whichever key it was encrypted with.
    ///
    /// # Errors
    /// There is a file, and it does not open.
    pub fn find(&self, id: &str) -> Result<Option<SecretBytes>, String> {
        let mut problem = None;
        for key in &self.sealed.keys {
            let name = key.name_of(self.name, id);
            let path = self.dir().join(&name);
            match fs::symlink_metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Ok(_) | Err(_) => {}
            }
            match self.read(&path, &name) {
                Ok(content) => return Ok(Some(content)),
                Err(why) => problem = Some(why),
            }
        }
        problem.map_or(Ok(None), Err)
    }

    /// All content of this room that opens, in no order. Drafts that a crash left are removed.
    ///
    /// # Errors
    /// The folder exists and cannot be read.
    pub fn read_all(&self) -> io::Result<Found> {
        let mut found = Found { contents: Vec::new(), unopened: None };
        let mut left = MAX_FILES;
        self.visit(true, |path, content| {
            match content {
                Ok(content) => found.contents.push(content),
                Err(problem) => found.unopened(path, &problem),
            }
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(found)
    }

    /// Calls `visit` for each file, in no order, with its content or why it does not open. With `clear`, drafts that a crash left are removed: only
    /// the owner of the room may do this, before it writes.
    ///
    /// # Errors
    /// The folder exists and cannot be read.
    pub fn visit(&self, clear: bool, mut visit: impl FnMut(&Path, Result<SecretBytes, String>) -> ControlFlow<()>) -> io::Result<()> {
        let entries = match fs::read_dir(self.dir()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if name.starts_with('.') {
                if clear {
                    let _ = fs::remove_file(&path);
                }
                continue;
            }
            let content = if is_name(name) { self.read(&path, name) } else { Err("does not have the name of a sealed file".to_owned()) };
            if visit(&path, content).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Returns when everything that was written and removed here would survive a power cut.
    ///
    /// # Errors
    /// The disk does not accept it.
    pub fn sync(&self) -> io::Result<()> {
        for dir in [self.dir(), self.sealed.dir.clone()] {
            match fs::File::open(dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                folder => folder?.sync_all()?,
            }
        }
        Ok(())
    }

    /// Whether the file is the one that [`Room::write`] writes under this id now, and not one of a former key.
    pub fn is_newest(&self, id: &str, path: &Path) -> bool {
        let newest = self.sealed.keys.first().map(|key| key.name_of(self.name, id));
        newest.is_some_and(|newest| path.file_name().is_some_and(|name| *name == *newest))
    }

    /// The folder with its files.
    pub fn dir(&self) -> PathBuf {
        self.sealed.dir.join(self.name)
    }

    fn read(&self, path: &Path, name: &str) -> Result<SecretBytes, String> {
        let mut file = Vec::new();
        let opened = OpenOptions::new().read(true).custom_flags(no_follow()).open(path).map_err(|error| error.to_string())?;
        let size = match opened.metadata() {
            Ok(found) if found.is_file() => found.len(),
            Ok(_) | Err(_) => return Err("is not a regular file".to_owned()),
        };
        if size > MAX_FILE {
            return Err(format!("has {size} bytes, and no sealed file has more than {MAX_FILE}"));
        }
        file.reserve_exact(usize::try_from(size).unwrap_or_default() + 1);
        opened.take(MAX_FILE).read_to_end(&mut file).map_err(|error| error.to_string())?;
        match file.first_chunk() {
            Some(MAGIC) if file.len() > HEADER => {}
            Some(MAGIC) | None => return Err("is truncated".to_owned()),
            Some(_) => return Err("is not a sealed file of this version".to_owned()),
        }
        let opened = self.sealed.keys.iter().find_map(|key| key.open(self.name, name, &file).ok());
        opened.ok_or_else(|| "was changed, moved, or encrypted with a key that is not configured".to_owned())
    }
}

impl Found {
    fn unopened(&mut self, path: &Path, problem: &str) {
        let (count, _) = self.unopened.get_or_insert_with(|| (0, format!("{} {problem}", path.display())));
        *count += 1;
    }
}

/// A link in the folder is not ours, so it is not followed (`O_NOFOLLOW`). A pipe is not waited for (`O_NONBLOCK`).
fn no_follow() -> i32 {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    i32::try_from(flags.bits()).unwrap_or_default()
}

/// Whether [`Key::name_of`] makes such names. A file with another name is not opened: there may be any number of such files.
fn is_name(name: &str) -> bool {
    name.len() == 2 * NAME && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

// === impl Key ===

impl Key {
    fn read(path: &Path) -> Result<Self, String> {
        const REMEDY: &str = "make one: head -c 32 /dev/urandom";
        let wrong = |held: &str| format!("has {held} bytes; a key has exactly {KEY} ({REMEDY})");
        let WholeFile { bytes, mode, .. } = WholeFile::read(path, KEY).map_err(|error| match error {
            // The operating system's own words.
            Unreadable::Absent => format!("No such file or directory (os error 2) ({REMEDY})"),
            Unreadable::Io(error) => format!("{error} ({REMEDY})"),
            Unreadable::TooLarge { .. } => wrong("more than 32"),
            Unreadable::NotAFile | Unreadable::TooMany(_) | Unreadable::Unstable => format!("{error} ({REMEDY})"),
        })?;
        if bytes.len() != KEY {
            return Err(wrong(&bytes.len().to_string()));
        }
        if mode & 0o077 != 0 {
            tracing::warn!(file = %path.display(), mode = %format!("{:04o}", mode & 0o7777),
                "the key of the sealed folder is open to other users (chmod 0400; in a volume of a Secret: defaultMode: 0400)");
        }
        let names = derived(&bytes, &[], b"keyferry sealed names").map_err(|Unspecified| "cannot be used".to_owned())?;
        Ok(Self { bytes, names: hmac::Key::new(hmac::HMAC_SHA256, &*names) })
    }

    /// Without the key, the name says nothing about the id.
    fn name_of(&self, room: &str, id: &str) -> String {
        let tag = hmac::sign(&self.names, [room, id].join("\0").as_bytes());
        HEXLOWER.encode(tag.as_ref().first_chunk::<NAME>().map_or(&[][..], |half| half))
    }

    fn seal(&self, room: &str, name: &str, content: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let (mut salt, mut nonce) = ([0; SALT], [0; NONCE]);
        aws_lc_rs::rand::fill(&mut salt)?;
        aws_lc_rs::rand::fill(&mut nonce)?;
        // Encrypted in place, and wiped if that fails.
        let mut body = Zeroizing::new(Vec::with_capacity(content.len() + AES_256_GCM.tag_len()));
        body.extend_from_slice(content);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let mut file = [MAGIC, salt.as_slice(), nonce.as_ref()].concat();
        self.of_file(&salt)?.seal_in_place_append_tag(nonce, Aad::from(bound_to(room, name)), &mut *body)?;
        file.extend_from_slice(&body);
        Ok(file)
    }

    fn open(&self, room: &str, name: &str, file: &[u8]) -> Result<SecretBytes, Unspecified> {
        let (header, body) = file.split_at_checked(HEADER).ok_or(Unspecified)?;
        let (salt, nonce) = header.get(MAGIC.len()..).and_then(|rest| rest.split_at_checked(SALT)).ok_or(Unspecified)?;
        let mut body = Zeroizing::new(body.to_vec());
        let nonce = Nonce::try_assume_unique_for_key(nonce)?;
        let length = self.of_file(salt)?.open_in_place(nonce, Aad::from(bound_to(room, name)), &mut body)?.len();
        body.truncate(length);
        Ok(SecretBytes::from(body))
    }

    fn of_file(&self, salt: &[u8]) -> Result<LessSafeKey, Unspecified> {
        let key = derived(&self.bytes, salt, b"keyferry sealed content")?;
        UnboundKey::new(&AES_256_GCM, &*key).map(LessSafeKey::new)
    }
}

fn derived(key: &[u8], salt: &[u8], purpose: &[u8]) -> Result<Zeroizing<[u8; KEY]>, Unspecified> {
    let mut derived = Zeroizing::new([0; KEY]);
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(key);
    extracted.expand(&[purpose], hkdf::HKDF_SHA256)?.fill(&mut *derived)?;
    Ok(derived)
}

fn bound_to(room: &str, name: &str) -> Vec<u8> {
    [MAGIC, room.as_bytes(), b"\0", name.as_bytes()].concat()
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(redacted)")
    }
}

#[cfg(test)]
mod tests;
