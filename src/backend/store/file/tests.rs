//! The whole vault: one side writes, the other reads. Also everything that may happen to the files in between.

mod age;
mod batches;
mod conformance;
mod faults;
mod forgetting;
mod making;
mod revisions;
mod serving;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier, Mutex};

use insta::assert_snapshot;
use jiff::Timestamp;
use rustix::fs::inotify;

use super::*;
use crate::backend::Called;
use crate::clock::{ManualClock, SystemClock};
use crate::model::{Field, FieldKind, FieldName, PodTokens, SecretBytes};
use crate::yaml::{Faults, parse};

/// A value that may be only in a field's bytes, and nowhere else.
const CANARY: &str = "canary-7f3a";

/// A vault and its identity in a separate folder.
struct Bench {
    folder: tempfile::TempDir,
    vault: Vault,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let recipient = generate_identity(&folder.path().join("age.key"), now()).unwrap();
        let vault = Vault::init(folder.path().join("vault"), &[recipient]).unwrap().vault;
        Self { folder, vault }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn set(&self, name: &str, value: &str) -> Revision {
        self.vault.set(&secret(name), &fields(&[("password", value.as_bytes())])).unwrap()
    }

    /// A clock an hour ahead: every file is settled, so what the reader keeps does not depend on the speed of the test.
    fn reader(&self) -> Reader {
        let clock = ManualClock::at(now());
        clock.advance(3_600);
        Reader::open(&self.at("vault"), &[self.at("age.key")], 1 << 20, Arc::new(clock)).unwrap()
    }

    fn config(&self) -> FileConfig {
        FileConfig { vault: self.at("vault"), identity: vec![self.at("age.key")] }
    }

    fn backend(&self) -> FileBackend {
        FileBackend::open("files".parse().unwrap(), &self.config(), 1 << 20, Arc::new(SystemClock)).unwrap()
    }

    /// A message without the test's own folder in it.
    #[allow(clippy::needless_pass_by_value)] // shorter where it is called
    fn shown(&self, message: impl std::fmt::Display) -> String {
        let recipient = recipients_of(&self.at("age.key")).map_or_else(|_| "none".to_owned(), |keys| keys[0].to_string());
        message.to_string().replace(self.folder.path().to_str().unwrap(), "").replace(&recipient, "age1us")
    }

    fn refusal(&self, name: &str) -> (Fault, String) {
        let fault = self.reader().read(&key(name)).unwrap_err();
        assert!(!format!("{fault:?}").contains(CANARY));
        (fault.fault, self.shown(fault))
    }
}

fn now() -> Timestamp {
    crate::clock::Clock::now(&SystemClock)
}

fn secret(name: &str) -> SecretName {
    name.parse().unwrap()
}

fn key(name: &str) -> Key {
    Key { name: secret(name), pin: None }
}

fn pinned(name: &str, revision: u64) -> Key {
    Key { name: secret(name), pin: Revision::new(revision) }
}

fn fields(pairs: &[(&str, &[u8])]) -> BTreeMap<FieldName, Field> {
    pairs.iter().map(|(name, bytes)| (name.parse().unwrap(), Field::of_bytes(SecretBytes::new(bytes.to_vec())))).collect()
}

fn password(opened: &Opened) -> &str {
    str::from_utf8(opened.secret.fields["password"].bytes.expose()).unwrap()
}

fn cx() -> FetchContext {
    let pod = PodIdentity {
        namespace: "shop".into(),
        name: "web-1".to_owned(),
        uid: "u1".into(),
        service_account: "web".into(),
        service_account_uid: None,
        verified: false,
    };
    FetchContext {
        pod: Arc::new(pod),
        tokens: Arc::new(PodTokens::default()),
        fresh: None,
        max_stale: None,
        patience: None,
        live: false,
        payer: None,
        party: None,
        called: Called::default(),
        deadline: Instant::now() + Duration::from_secs(30),
    }
}

fn reference(name: &str) -> SecretRef {
    SecretRef::read("files".parse().unwrap(), secret(name))
}

/// What is logged while `work` runs on this thread.
fn logged(work: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).without_time().with_ansi(false).finish();
    tracing::subscriber::with_default(subscriber, work);
    let bytes = log.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}
