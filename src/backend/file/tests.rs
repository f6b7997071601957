//! The vault as a whole: what one side writes, the other reads; and everything that may befall the files in between.

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
use crate::clock::{ManualClock, SystemClock};
use crate::model::{Field, FieldKind, FieldName, PodTokens, SecretBytes};
use crate::yaml::{Faults, parse};

/// A value that may be seen nowhere but in a field's bytes.
const CANARY: &str = "canary-7f3a";

/// A vault and its identity in a folder of their own.
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

    /// A clock an hour ahead: every file is settled, so that what is remembered does not depend on how fast the test runs.
    fn reader(&self) -> Reader {
        let clock = ManualClock::at(now());
        clock.advance(3_600);
        Reader::open(&self.at("vault"), &[self.at("age.key")], 1 << 20, Arc::new(clock)).unwrap()
    }

    fn backend(&self) -> FileBackend {
        let config = FileConfig { vault: self.at("vault"), identity: vec![self.at("age.key")] };
        FileBackend::open("files".parse().unwrap(), &config, 1 << 20, Arc::new(SystemClock)).unwrap()
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
        namespace: "shop".to_owned(),
        name: "web-1".to_owned(),
        uid: "u1".to_owned(),
        service_account: "web".to_owned(),
        service_account_uid: None,
        verified: false,
    };
    FetchContext { pod: Arc::new(pod), tokens: Arc::new(PodTokens::default()), deadline: Instant::now() + Duration::from_secs(30) }
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

// === Serving ===

#[tokio::test]
async fn a_secret_is_served_with_its_fields_kinds_and_version() {
    let bench = Bench::new();
    bench.vault.set(&secret("shop/db"), &fields(&[("password", b"hunter2\n"), ("tls.p12", &[0xff, 0])])).unwrap();
    let backend = bench.backend();
    let fetched = backend.fetch(&reference("shop/db"), &cx()).await.unwrap();
    assert_eq!((fetched.source, fetched.by.as_str()), (Source::Store, "files"));
    assert_eq!(fetched.secret.version, Some(Version::new("1")));
    assert_eq!(fetched.secret.fields["password"].bytes.expose(), b"hunter2\n");
    assert_eq!(fetched.secret.fields["password"].kind, FieldKind::Text);
    assert_eq!(fetched.secret.fields["tls.p12"].bytes.expose(), [0xff, 0]);
    assert_eq!(fetched.secret.fields["tls.p12"].kind, FieldKind::Binary);
    backend.check().await.unwrap();
}

#[test]
fn an_unchanged_file_is_opened_once_and_a_change_is_seen_at_once() {
    let bench = Bench::new();
    bench.set("db", "old");
    let reader = bench.reader();
    assert!(reader.recall(&key("db")).is_none());
    let first = reader.read(&key("db")).unwrap();
    assert!(Arc::ptr_eq(&first.secret, &reader.recall(&key("db")).unwrap().secret));
    assert!(Arc::ptr_eq(&first.secret, &reader.read(&key("db")).unwrap().secret));

    bench.set("db", "new");
    assert!(reader.recall(&key("db")).is_none());
    assert_eq!(password(&reader.read(&key("db")).unwrap()), "new");
    bench.vault.remove(&secret("db")).unwrap();
    assert!(reader.recall(&key("db")).is_none());
    assert_eq!(reader.read(&key("db")).unwrap_err().fault, Fault::NotFound);
}

#[test]
fn a_file_changed_a_moment_ago_is_served_but_not_remembered() {
    let bench = Bench::new();
    bench.set("db", "value");
    let clock = Arc::new(ManualClock::at(now()));
    let reader = Reader::open(&bench.at("vault"), &[bench.at("age.key")], 1 << 20, Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
    assert_eq!(password(&reader.read(&key("db")).unwrap()), "value");
    assert!(reader.recall(&key("db")).is_none(), "a second write in the same tick would go unnoticed");
    clock.advance(2);
    reader.read(&key("db")).unwrap();
    assert!(reader.recall(&key("db")).is_some());
}

#[test]
fn a_folder_of_a_projected_volume_or_git_sync_is_followed_when_it_is_swapped() {
    let bench = Bench::new();
    bench.set("shop/db", "old");
    // kubelet's layout: a folder a state, `..data` names the present one, and the entries lead through it.
    let root = bench.at("mounted");
    fs::create_dir(&root).unwrap();
    let publish = |state: &str| {
        let copied = Command::new("cp").arg("-r").arg(bench.at("vault")).arg(root.join(state)).status().unwrap();
        assert!(copied.success());
        symlink(state, root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    };
    publish("..2026_1");
    for entry in [".recipients", ".history", "shop"] {
        symlink(Path::new("..data").join(entry), root.join(entry)).unwrap();
    }
    let clock = ManualClock::at(now());
    clock.advance(3_600);
    let reader = Reader::open(&root, &[bench.at("age.key")], 1 << 20, Arc::new(clock)).unwrap();
    assert_eq!(password(&reader.read(&key("shop/db")).unwrap()), "old");
    assert!(reader.recall(&key("shop/db")).is_some());

    bench.set("shop/db", "new");
    publish("..2026_2");
    assert_eq!(password(&reader.read(&key("shop/db")).unwrap()), "new");
    assert_eq!(password(&reader.read(&pinned("shop/db", 1)).unwrap()), "old");
    assert_eq!(reader.list("").unwrap(), [secret("shop/db")]);
}

/// inotify tells of every file and folder that is opened.
#[test]
fn among_thousands_only_what_is_asked_for_is_opened_and_nothing_is_listed() {
    let bench = Bench::new();
    bench.set("many/wanted", "value");
    let wanted = fs::read(bench.at("vault/many/wanted.age")).unwrap();
    for n in 0..2_000 {
        fs::write(bench.at(&format!("vault/many/{n}.age")), &wanted).unwrap();
    }
    let reader = bench.reader();
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    for folder in ["vault", "vault/many", "vault/.history", "vault/.history/many"] {
        inotify::add_watch(&watch, bench.at(folder), inotify::WatchFlags::OPEN).unwrap();
    }
    reader.read(&key("many/wanted")).unwrap();
    reader.recall(&key("many/wanted")).unwrap();
    assert_eq!(reader.read(&key("many/absent")).unwrap_err().fault, Fault::NotFound);

    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    let mut opened = Vec::new();
    while let Ok(event) = events.next() {
        opened.push(event.file_name().map(|name| name.to_str().unwrap().to_owned()));
    }
    assert_eq!(opened, [Some("wanted.age".to_owned())]);
}

#[tokio::test]
async fn names_are_listed_by_prefix_without_the_vaults_own_files() {
    let bench = Bench::new();
    for name in ["shop/db", "shop/cart/a", "shop/cart/b", "shopping", "x"] {
        bench.set(name, "1");
        bench.set(name, "2");
    }
    fs::write(bench.at("vault/shop/README.md"), "").unwrap();
    fs::write(bench.at("vault/shop/.draft.age"), "").unwrap();
    symlink("..", bench.at("vault/shop/loop")).unwrap();
    symlink("nowhere", bench.at("vault/dangling.age")).unwrap();
    let backend = bench.backend();
    let list = async |prefix: &str| {
        let prefix = SecretPrefix { backend: "files".parse().unwrap(), prefix: prefix.to_owned(), login: crate::model::Login::default() };
        let names = backend.list(&prefix, &cx()).await.unwrap();
        names.iter().map(SecretName::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(list("").await, "shop/cart/a shop/cart/b shop/db shopping x");
    assert_eq!(list("shop").await, "shop/cart/a shop/cart/b shop/db shopping");
    assert_eq!(list("shop/").await, "shop/cart/a shop/cart/b shop/db");
    assert_eq!(list("shop/c").await, "shop/cart/a shop/cart/b");
    for nothing in ["shop/zz", "none/", "../", ".history/shop/", "/", "/etc/", "shop//"] {
        assert_eq!(list(nothing).await, "", "{nothing}");
    }
}

#[tokio::test]
async fn what_a_vault_cannot_do_it_says() {
    let bench = Bench::new();
    let backend = bench.backend();
    let mut update = reference("pki/issue");
    update.verb = Verb::Update;
    let error = backend.fetch(&update, &cx()).await.unwrap_err();
    assert_eq!(error.fault, Fault::Unsupported);
    assert_snapshot!(error, @"files/pki/issue: a file vault only reads secrets: it makes none, and takes no arguments (leave out `method` and `args`)");
    assert_eq!(backend.scope(&update, &cx().pod), Scope::Pod("u1".to_owned()));
    assert_eq!(backend.scope(&reference("a"), &cx().pod), Scope::Shared("files/a".to_owned()));
    assert_eq!(backend.pin("7").unwrap().as_str(), "7");
    assert_snapshot!(backend.pin("AWSCURRENT").unwrap_err(), @r#""AWSCURRENT" is no revision of a file vault: those are whole numbers from 1, as `keyferry vault get NAME` shows them"#);
    assert!(backend.canonical("a/.history").is_err());
    let reached_around = backend.fetch(&reference(".history/db/1"), &cx()).await.unwrap_err();
    assert_eq!(reached_around.fault, Fault::Invalid);
}

#[tokio::test]
async fn a_file_system_that_hangs_costs_the_mount_its_time_and_no_more() {
    let bench = Bench::new();
    bench.set("db", "value");
    let backend = Arc::new(bench.backend());
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let soon = || Instant::now() + Duration::from_millis(50);
    for _ in 0..AT_ONCE {
        let held = Arc::clone(&held);
        let hang = backend.read(soon(), move |_| held.lock().unwrap().recv().map_err(|_| ReadFault::new(Fault::Unavailable, "")));
        assert_eq!(hang.await.unwrap_err().fault, Fault::TimedOut);
    }
    let late = FetchContext { deadline: soon(), ..cx() };
    let error = backend.fetch(&reference("db"), &late).await.unwrap_err();
    assert_eq!(error.fault, Fault::TimedOut);
    assert_snapshot!(error, @"files/db: the vault's file system did not answer in time (is a network volume down?)");
    drop(release);
    backend.fetch(&reference("db"), &cx()).await.unwrap();
}

// === Revisions ===

#[test]
fn earlier_revisions_are_kept_and_can_be_pinned() {
    let bench = Bench::new();
    for n in 1..=8 {
        assert_eq!(bench.set("db", &format!("v{n}")).number(), n);
    }
    let reader = bench.reader();
    for n in 3..=8 {
        let opened = reader.read(&pinned("db", n)).unwrap();
        assert_eq!((password(&opened), opened.revision.number()), (format!("v{n}").as_str(), n));
        assert!(reader.recall(&pinned("db", n)).is_some());
    }
    let gone = reader.read(&pinned("db", 2)).unwrap_err();
    assert_eq!(gone.fault, Fault::NotFound);
    assert_snapshot!(gone, @"there is no revision 2: the current one is 8, and kept are 3, 4, 5, 6, 7");
    bench.set("db", "v9");
    assert_eq!(password(&reader.read(&pinned("db", 8)).unwrap()), "v8", "remembered as the current one, found as an earlier one");

    bench.vault.clone().keeping(1).set(&secret("db"), &fields(&[("password", b"v10")])).unwrap();
    assert_snapshot!(reader.read(&pinned("db", 8)).unwrap_err(), @"there is no revision 8: the current one is 10, and kept are 9");
    assert_snapshot!(bench.shown(reader.read(&pinned("none", 8)).unwrap_err()), @"there is no such secret in the vault: /vault/none.age is absent (make it with `keyferry vault set none FIELD=@FILE`)");
}

#[test]
fn a_removed_secret_is_gone_with_its_history_and_its_numbers_are_not_used_again() {
    let bench = Bench::new();
    bench.set("shop/cart/db", "1");
    bench.set("shop/cart/db", "2");
    assert_eq!(bench.vault.remove(&secret("shop/cart/db")).unwrap(), 1);
    assert!(!bench.at("vault/shop").exists(), "empty folders go");
    assert_snapshot!(bench.vault.remove(&secret("shop/cart/db")).unwrap_err(), @"there is no secret shop/cart/db in the vault");
    assert_eq!(bench.reader().read(&pinned("shop/cart/db", 1)).unwrap_err().fault, Fault::NotFound);
    assert_eq!(bench.set("shop/cart/db", "3").number(), 3);
}

#[test]
fn writers_at_the_same_time_lose_nothing() {
    let bench = Bench::new();
    let (writers, each) = (4, 10);
    let vault = bench.vault.clone().keeping(writers * each);
    let start = Barrier::new(writers);
    let given: Vec<u64> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..writers)
            .map(|writer| {
                let (vault, start) = (&vault, &start);
                scope.spawn(move || {
                    start.wait();
                    (0..each)
                        .map(|n| vault.set(&secret("db"), &fields(&[("password", format!("{writer}-{n}").as_bytes())])).unwrap().number())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        handles.into_iter().flat_map(|handle| handle.join().unwrap()).collect()
    });
    assert_eq!(given.iter().copied().collect::<BTreeSet<_>>(), (1..=40).collect());
    let reader = bench.reader();
    let values: BTreeSet<String> = (1..=40).map(|n| password(&reader.read(&pinned("db", n)).unwrap()).to_owned()).collect();
    assert_eq!(values.len(), writers * each);
}

#[test]
fn a_reader_never_sees_a_half_written_secret() {
    let bench = Bench::new();
    bench.set("db", "0000");
    let reader = bench.reader();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            (0..100).for_each(|n| {
                bench.set("db", &format!("{n:04}"));
            });
        });
        let mut last = Revision::FIRST;
        while !writer.is_finished() {
            let opened = reader.read(&key("db")).unwrap();
            assert!(opened.revision >= last && password(&opened).len() == 4);
            last = opened.revision;
        }
    });
    assert_eq!(password(&reader.read(&key("db")).unwrap()), "0099");
}

/// Each state that a power cut may leave behind, made by hand.
#[test]
fn a_change_cut_short_at_any_point_leaves_a_sound_vault() {
    let bench = Bench::new();
    bench.set("db", "v1");
    bench.set("db", "v2");
    let current = fs::read(bench.at("vault/db.age")).unwrap();
    let sound = |expected: u64| {
        assert_eq!(password(&bench.reader().read(&key("db")).unwrap()), "v2");
        assert_eq!(bench.set("db", "next").number(), expected);
        let reader = bench.reader();
        assert_eq!(password(&reader.read(&pinned("db", 1)).unwrap()), "v1");
        assert_eq!(password(&reader.read(&pinned("db", 2)).unwrap()), "v2");
        assert_eq!(password(&reader.read(&pinned("db", expected)).unwrap()), "next");
        // Back to the start.
        fs::write(bench.at("vault/db.age"), &current).unwrap();
        fs::write(bench.at("vault/.history/db/.revision"), "2\n").unwrap();
        fs::remove_file(bench.at("vault/.history/db/2.age")).unwrap();
    };
    sound(3);
    // The new file begun and not finished.
    fs::write(bench.at("vault/.unfinished"), "garbage").unwrap();
    sound(3);
    // The current revision kept, the number not yet given.
    fs::write(bench.at("vault/.history/db/2.age"), &current).unwrap();
    sound(3);
    // The number given, the file not yet moved.
    fs::write(bench.at("vault/.history/db/2.age"), &current).unwrap();
    fs::write(bench.at("vault/.history/db/.revision"), "3\n").unwrap();
    sound(4);
}

#[test]
fn an_older_file_put_back_is_served_and_warned_of() {
    let bench = Bench::new();
    bench.set("shop/db", "v1");
    let first = fs::read(bench.at("vault/shop/db.age")).unwrap();
    bench.set("shop/db", "v2");
    let reader = bench.reader();
    let log = logged(|| {
        reader.read(&key("shop/db")).unwrap();
        reader.read(&pinned("shop/db", 1)).unwrap();
    });
    assert_eq!(log, "");
    fs::write(bench.at("vault/shop/db.age"), first).unwrap();
    let log = logged(|| assert_eq!(password(&reader.read(&key("shop/db")).unwrap()), "v1"));
    assert_snapshot!(bench.shown(log.trim()), @"WARN keyferry::backend::file::reader: an older revision was put back over a newer one, and is served (fine after a revert; otherwise somebody rolled the secret back) secret=shop/db file=/vault/shop/db.age revision=1 highest=2");
    assert_eq!(logged(|| drop(reader.read(&key("shop/db")))), "", "once a file");
    assert_eq!(bench.set("shop/db", "v3").number(), 3, "the numbers go on after the highest");
}

#[test]
fn a_vault_without_its_history_needs_the_identity_once() {
    let bench = Bench::new();
    bench.set("db", "v1");
    bench.set("db", "v2");
    fs::remove_dir_all(bench.at("vault/.history")).unwrap();
    let unknown = bench.vault.set(&secret("db"), &fields(&[("a", b"b")])).unwrap_err();
    assert_snapshot!(bench.shown(unknown), @"which revision db has now cannot be told: /vault/.history/db/.revision is missing (give --identity, so that the file itself can be asked; or restore the vault's .history)");
    let now = bench.reader().read(&key("db")).unwrap().revision;
    bench.vault.adopt(&secret("db"), now).unwrap();
    assert_eq!(bench.set("db", "v3").number(), 3);

    fs::write(bench.at("vault/.history/db/3.age"), "put here by hand").unwrap();
    let tangled = bench.vault.set(&secret("db"), &fields(&[("a", b"b")])).unwrap_err();
    assert_snapshot!(bench.shown(tangled), @"/vault/db.age and /vault/.history/db/3.age both claim to be the same revision and differ (one was put there by hand: move it out of the vault)");
}

// === Faults ===

#[test]
fn a_file_under_another_name_or_number_is_refused() {
    let bench = Bench::new();
    bench.set("shop/db", CANARY);
    fs::copy(bench.at("vault/shop/db.age"), bench.at("vault/root.age")).unwrap();
    let (fault, reason) = bench.refusal("root");
    assert_eq!(fault, Fault::Corrupt);
    assert_snapshot!(reason, @r#"/vault/root.age was sealed as "shop/db", and is not served under another name (it was moved or copied: set the secret anew)"#);

    fs::copy(bench.at("vault/shop/db.age"), bench.at("vault/.history/shop/db/7.age")).unwrap();
    let fault = bench.reader().read(&pinned("shop/db", 7)).unwrap_err();
    assert_eq!(fault.fault, Fault::Corrupt);
    assert_snapshot!(bench.shown(fault), @"/vault/.history/shop/db/7.age was sealed as revision 1, and is not served as another (restore the vault's .history)");
}

#[test]
fn what_cannot_be_opened_is_corrupt_and_says_why() {
    let bench = Bench::new();
    bench.set("db", CANARY);
    let path = bench.at("vault/db.age");
    let sealed = fs::read(&path).unwrap();
    let refusal = |content: &[u8]| {
        fs::write(&path, content).unwrap();
        let (fault, reason) = bench.refusal("db");
        assert_eq!(fault, Fault::Corrupt);
        reason
    };
    let mut flipped = sealed.clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert_snapshot!(refusal(&flipped), @"/vault/db.age was altered after it was sealed, or damaged (restore it, or set the secret anew)");
    assert_snapshot!(refusal(&sealed[..100]), @"/vault/db.age is truncated (restore it, or set the secret anew)");
    assert_snapshot!(refusal(b""), @"/vault/db.age is empty (restore it, or set the secret anew)");
    assert_snapshot!(refusal(b"password=canary-7f3a"), @"/vault/db.age is no age file (restore it, or set the secret anew)");
    assert_snapshot!(refusal(b"-----BEGIN AGE ENCRYPTED FILE-----"), @"/vault/db.age is age's text form; the vault's files are binary (decode it with `age -d` and set the secret anew)");
    let ours = recipients_of(&bench.at("age.key")).unwrap();
    let other = seal::seal(b"password: canary-7f3a", &ours).unwrap();
    assert_snapshot!(refusal(&other), @"/vault/db.age opens, but what it holds is not the vault's JSON: it goes wrong at line 1, column 1");

    let stranger = generate_identity(&bench.at("stranger.key"), now()).unwrap();
    let theirs = seal::seal(b"{}", &[stranger]).unwrap();
    assert_snapshot!(refusal(&theirs), @"/vault/db.age cannot be opened with any identity in /age.key (age1us): it is sealed to other recipients, or its header was altered (list this recipient in the vault and set the secret anew, or give the daemon the right identity file)");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_snapshot!(bench.refusal("db").1, @"/vault/db.age is no regular file (remove it, and set the secret anew)");
}

#[test]
fn what_cannot_be_reached_is_unavailable_and_an_absent_secret_is_not() {
    let bench = Bench::new();
    bench.set("shop/db", CANARY);
    let (fault, reason) = bench.refusal("shop/bd");
    assert_eq!(fault, Fault::NotFound);
    assert_snapshot!(reason, @"there is no such secret in the vault: /vault/shop/bd.age is absent (make it with `keyferry vault set shop/bd FIELD=@FILE`)");
    assert_eq!(bench.refusal("shop/db/under-a-secret").0, Fault::NotFound);

    symlink("loop.age", bench.at("vault/loop.age")).unwrap();
    let (fault, reason) = bench.refusal("loop");
    assert_eq!(fault, Fault::Unavailable);
    assert_snapshot!(reason, @"/vault/loop.age cannot be read: Too many levels of symbolic links (os error 40) (is its volume mounted and healthy?)");

    let reader = bench.reader();
    fs::rename(bench.at("vault"), bench.at("away")).unwrap();
    let gone = reader.read(&key("shop/db")).unwrap_err();
    assert_eq!(gone.fault, Fault::Unavailable);
    assert_snapshot!(bench.shown(&gone), @"the vault's folder /vault is not there (is its volume mounted, and synced?)");
    assert_eq!(reader.check().unwrap_err(), gone);
    assert_eq!(reader.list("").unwrap_err(), gone);

    fs::create_dir(bench.at("vault")).unwrap();
    let empty = reader.read(&key("shop/db")).unwrap_err();
    assert_eq!(empty.fault, Fault::Unavailable);
    assert_snapshot!(bench.shown(empty), @"/vault is no vault: it has no list of recipients, /vault/.recipients (is its volume mounted, and synced? `keyferry vault init` makes a vault)");

    fs::remove_dir(bench.at("vault")).unwrap();
    fs::rename(bench.at("away"), bench.at("vault")).unwrap();
    assert_eq!(password(&reader.read(&key("shop/db")).unwrap()), CANARY);
}

/// root reads everything: this one asks as somebody else.
#[test]
fn a_file_that_may_not_be_read_names_the_user_who_may_not() {
    use std::os::unix::fs::PermissionsExt;
    let denied = std::io::Error::from(rustix::io::Errno::ACCESS);
    let uid = rustix::process::geteuid().as_raw();
    let expected = format!("Permission denied (os error 13) (let uid {uid} enter the vault's folders and read its files)");
    let bench = Bench::new();
    bench.set("db", CANARY);
    fs::set_permissions(bench.at("vault/db.age"), fs::Permissions::from_mode(0o000)).unwrap();
    if uid == 0 {
        assert!(reader::unavailable(Path::new("/vault/db.age"), &denied).reason.ends_with(&expected));
    } else {
        let (fault, reason) = bench.refusal("db");
        assert_eq!((fault, reason), (Fault::Unavailable, format!("/vault/db.age cannot be read: {expected}")));
    }
}

#[test]
fn a_secret_over_the_limit_is_refused_by_its_name() {
    let bench = Bench::new();
    bench.set("db", &"x".repeat(101));
    let read = |max| {
        let reader = Reader::open(&bench.at("vault"), &[bench.at("age.key")], max, Arc::new(SystemClock)).unwrap();
        reader.read(&key("db"))
    };
    assert!(read(101).is_ok());
    let fault = read(100).unwrap_err();
    assert_eq!(fault.fault, Fault::TooLarge);
    assert_snapshot!(bench.shown(fault), @"/vault/db.age holds 101 bytes; at most 100 are served (limits.secretBytes)");
    fs::write(bench.at("vault/db.age"), vec![b'x'; 70_000]).unwrap();
    let fault = read(100).unwrap_err();
    assert_eq!(fault.fault, Fault::TooLarge);
    assert_snapshot!(bench.shown(fault), @"/vault/db.age is 70000 bytes long; at most 66136 are read, as secrets of up to 100 bytes need no more (limits.secretBytes)");
    // What needs the most room in JSON is still within the limit of the file.
    bench.set("db", &"\u{1}".repeat(200_000));
    assert!(read(200_000).is_ok());

    let much = bench.vault.set(&secret("db"), &fields(&[("f", &vec![0; MAX_BYTES + 1])])).unwrap_err();
    assert_snapshot!(much, @"the fields hold 4194305 bytes; a secret has at most 4194304");
    assert_snapshot!(bench.vault.set(&secret("db"), &BTreeMap::new()).unwrap_err(), @"a secret has at least one field");
}

#[test]
fn identities_are_read_again_when_they_change() {
    let bench = Bench::new();
    bench.set("db", "value");
    let reader = bench.reader();
    reader.read(&key("db")).unwrap();
    let old = fs::read(bench.at("age.key")).unwrap();

    fs::remove_file(bench.at("age.key")).unwrap();
    let fault = reader.read(&key("db")).unwrap_err();
    assert_eq!(fault.fault, Fault::Unavailable);
    assert_snapshot!(bench.shown(&fault), @"the identity file /age.key is absent (is its volume mounted, and may this user read it?)");
    assert!(reader.recall(&key("db")).is_none(), "what the identities on disk do not open is not served");

    generate_identity(&bench.at("age.key"), now()).unwrap();
    assert_eq!(reader.read(&key("db")).unwrap_err().fault, Fault::Corrupt);
    fs::write(bench.at("age.key"), [old, fs::read(bench.at("age.key")).unwrap()].concat()).unwrap();
    assert_eq!(password(&reader.read(&key("db")).unwrap()), "value");
    assert!(reader.recall(&key("db")).is_some());
}

#[test]
fn an_identity_that_others_can_read_is_warned_of() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    fs::set_permissions(bench.at("age.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let log = logged(|| drop(bench.reader()));
    assert_snapshot!(bench.shown(log.trim()), @"WARN keyferry::backend::file::identity: the identity file is open to other users (chmod 0400; in a volume of a Secret: defaultMode: 0400) file=/age.key mode=0644");
}

// === Making a vault ===

#[test]
fn init_can_be_run_again_and_takes_no_foreign_folder() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    bench.set("db", "value");
    assert_eq!(fs::metadata(bench.at("vault")).unwrap().permissions().mode() & 0o777, 0o700);
    let ours = recipients_of(&bench.at("age.key")).unwrap();
    let again = Vault::init(bench.at("vault"), &ours).unwrap();
    assert_eq!((again.new, again.added, again.recipients), (false, 0, 1));
    let colleague = generate_identity(&bench.at("colleague.key"), now()).unwrap();
    let more = Vault::init(bench.at("vault"), &[colleague]).unwrap();
    assert_eq!((more.new, more.added, more.recipients), (false, 1, 2));

    // What is set from now on opens with either identity; what was set before does not.
    bench.set("both", "value");
    let theirs = Reader::open(&bench.at("vault"), &[bench.at("colleague.key")], 1 << 20, Arc::new(SystemClock)).unwrap();
    assert_eq!(password(&theirs.read(&key("both")).unwrap()), "value");
    assert_eq!(theirs.read(&key("db")).unwrap_err().fault, Fault::Corrupt);

    let foreign = Vault::init(bench.folder.path(), &ours).unwrap_err();
    let shown = bench.shown(foreign);
    assert!(shown.contains("is neither empty nor a vault") && shown.ends_with("(name a folder of its own for the vault)"), "{shown}");
    assert_snapshot!(bench.shown(Vault::open_for_writing(bench.at("none")).unwrap_err()), @"/none is no vault: it has no list of recipients (make a vault with `keyferry vault init`)");
    assert_snapshot!(bench.shown(Vault::init(bench.at("nobody"), &[]).unwrap_err()), @"/nobody/.recipients holds no recipient (add one with `keyferry vault init --recipient age1...`)");
}

#[test]
fn the_configuration_names_what_is_missing() {
    let read = |text: &str| {
        let mut faults = Faults::default();
        let node = parse(text).unwrap();
        let mut reader = yaml::Reader::of(&node, "backends.files", &mut faults).unwrap();
        let config = FileConfig::parse(&mut reader, &mut faults);
        reader.finish(&mut faults);
        let faults: Vec<String> = faults.into_sorted().iter().map(ToString::to_string).collect();
        (config, faults.join("\n"))
    };
    let (config, faults) = read("vault: /v\nidentity: [/a, /b]");
    assert_eq!(config, Some(FileConfig { vault: "/v".into(), identity: vec!["/a".into(), "/b".into()] }));
    assert_eq!(faults, "");
    assert_eq!(read("vault: /v\nidentity: /a").0.unwrap().identity, [PathBuf::from("/a")]);
    assert_snapshot!(read("valut: /v\nidentity: []").1, @r"
    backends.files.vault: is missing (the folder of age files, such as /var/lib/keyferry/vault)
    backends.files.identity: is missing (the age identity file that opens them, such as /etc/keyferry/age.key, or a list of such)
    backends.files.valut: is no known key (did you mean `vault`?)
    ");
    assert_snapshot!(read("vault: ''\nidentity: [{}, '']").1, @r"
    backends.files.vault: is empty, but must be a path
    backends.files.identity: holds a mapping, but must be a list of texts
    backends.files.identity: is empty, but must be a path
    ");
}

#[test]
fn nothing_shows_a_value_or_an_identity() {
    let bench = Bench::new();
    bench.set("db", CANARY);
    let backend = bench.backend();
    let opened = bench.reader().read(&key("db")).unwrap();
    let shown = format!("{backend:?} {opened:?} {:?} {:?}", bench.vault, bench.reader());
    assert!(!shown.contains(CANARY) && !shown.contains("SECRET-KEY"), "{shown}");
    let lists = [&shown, &fs::read_to_string(bench.at("vault/.recipients")).unwrap()].map(|text| text.contains(CANARY));
    assert_eq!(lists, [false, false]);
}

// === The age command line tool ===

fn age() -> Command {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/age/usr/bin/age");
    let program = if tools.exists() { tools } else { PathBuf::from("age") };
    let found = Command::new(&program).arg("--version").stdout(Stdio::null()).status();
    assert!(found.is_ok(), "the age command is missing: run `make tools`, or `apt-get install age`");
    Command::new(program)
}

#[test]
fn the_age_command_opens_every_file_and_what_it_seals_is_served() {
    let bench = Bench::new();
    bench.vault.set(&secret("db"), &fields(&[("password", b"hunter2"), ("key", &vec![0xff; 70_000])])).unwrap();
    bench.set("db", "hunter3");
    for (file, expected) in
        [("vault/.history/db/1.age", r#""password":{"text":"hunter2"}"#), ("vault/db.age", r#""password":{"text":"hunter3"}"#)]
    {
        let output = age().arg("-d").arg("-i").arg(bench.at("age.key")).arg(bench.at(file)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let plaintext = String::from_utf8(output.stdout).unwrap();
        assert!(plaintext.starts_with(r#"{"format":1,"name":"db","revision":"#) && plaintext.contains(expected));
    }

    // And back: a document sealed by age to the vault's list of recipients.
    let document =
        r#"{"format":1,"name":"made/by-age","revision":1,"time":"2026-01-02T03:04:05+01:00","fields":{"password":{"text":"x"}}}"#;
    fs::create_dir(bench.at("vault/made")).unwrap();
    let mut sealing = age();
    sealing.arg("-R").arg(bench.at("vault/.recipients")).arg("-o").arg(bench.at("vault/made/by-age.age")).stdin(Stdio::piped());
    let mut child = sealing.spawn().unwrap();
    child.stdin.take().unwrap().write_all(document.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(password(&bench.reader().read(&key("made/by-age")).unwrap()), "x");
}
