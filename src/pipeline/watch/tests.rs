use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FileType, Mode};

use super::*;

/// The weight of all volumes together.
const BYTES: usize = 4 * 1024 * 1024;

struct Bench {
    watch: Arc<Watch>,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { watch: Arc::new(Watch::of_bytes(BYTES)), folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// As `keyferry vault set` does: written to another file and renamed.
    fn set(&self, file: &str, content: &str) {
        fs::write(self.path("draft"), content).unwrap();
        fs::rename(self.path("draft"), self.path(file)).unwrap();
    }

    /// A mount of a Pod's volume that has fetched now.
    fn mount(&self, namespace: &str, pod: &str, files: &[&str]) {
        self.watch.keep(self.delivered(namespace, pod, files));
    }

    fn delivered(&self, namespace: &str, pod: &str, files: &[&str]) -> Delivered {
        let claims = PodClaims { namespace: namespace.into(), name: pod.into(), uid: pod.into(), service_account: "web".into() };
        let subject = Subject {
            pod: Arc::new(PodIdentity::believed(&claims)),
            class: Some("shop".into()),
            target: target(pod),
            provider: "keyferry".into(),
            permission: FileMode::DEFAULT,
            plan: Arc::default(),
            configured: Arc::default(),
            limits: MountLimits { objects: 1, class_bytes: 1, files: 1, secret_bytes: 1, mount_bytes: 1 },
            proof: Proof::default(),
            claims: Arc::new(claims),
        };
        let folder = self.folder.path().into();
        let files = files.iter().map(|file| Located::below(&folder, &self.path(file)).unwrap()).collect();
        Delivered { subject, files, former: Former::default(), plan_weight: 0, fetched: Instant::now(), asked: Instant::now() }
    }

    /// One second: a look, and then what is due.
    async fn second(&self) -> Vec<Due> {
        tokio::time::advance(Duration::from_secs(1)).await;
        self.look();
        self.watch.due(Instant::now())
    }

    fn look(&self) {
        for look in self.watch.looks(Instant::now()) {
            look.run();
        }
    }

    /// Makes all changes that are due, for some seconds: after that nothing is due.
    async fn settle(&self) {
        for _ in 0..10 {
            for due in self.second().await {
                end(&due, Ended::Same).await;
            }
        }
        assert_eq!(names(&self.second().await), [""; 0]);
    }

    fn files(&self) -> usize {
        self.watch.lock().files.count()
    }
}

/// A moment after the look, the secrets are fetched.
async fn end(due: &Due, ended: Ended) {
    tokio::time::advance(Duration::from_millis(1)).await;
    due.note(ended, Instant::now());
}

fn target(pod: &str) -> Arc<str> {
    format!("/var/lib/kubelet/pods/{pod}/volumes/kubernetes.io~csi/secrets/mount").into()
}

fn names(due: &[Due]) -> Vec<&str> {
    let mut names: Vec<_> = due.iter().map(|due| due.subject.claims.name.as_str()).collect();
    names.sort_unstable();
    names
}

#[tokio::test(start_paused = true)]
async fn a_volume_is_due_when_one_of_its_files_changed_after_its_fetch() {
    let bench = Bench::new();
    bench.set("db", "1");
    bench.set("api", "1");
    bench.mount("shop", "web", &["db", "api"]);
    bench.mount("shop", "worker", &["api", "absent"]);
    assert_eq!(names(&bench.second().await), ["web", "worker"], "nobody knows what the files were when they were fetched");
    bench.settle().await;

    bench.set("db", "2");
    assert_eq!(names(&bench.second().await), ["web"]);
    bench.settle().await;
    bench.set("absent", "it is there now");
    assert_eq!(names(&bench.second().await), ["worker"]);
    bench.settle().await;
    fs::remove_file(bench.path("api")).unwrap();
    assert_eq!(names(&bench.second().await), ["web", "worker"]);
    bench.settle().await;

    // Of the same size, written in place, and with its time set back: only ctime tells.
    fs::write(bench.path("db"), "3").unwrap();
    fs::File::options().write(true).open(bench.path("db")).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(names(&bench.second().await), ["web"]);
    bench.settle().await;

    // What a mount fetched after the change was seen is up to date.
    bench.set("db", "4");
    bench.look();
    tokio::time::advance(Duration::from_millis(1)).await;
    bench.mount("shop", "web", &["db", "api"]);
    assert_eq!(names(&bench.watch.due(Instant::now())), [""; 0]);
}

/// kubelet asks for each volume about once per minute: that alone is not a change, and Keyferry does not do the work twice.
#[tokio::test(start_paused = true)]
async fn a_mount_of_the_same_files_is_not_a_change() {
    let bench = Bench::new();
    bench.set("db", "1");
    bench.mount("shop", "web", &["db"]);
    bench.settle().await;
    let remount = async |pod: &str, file: &str| {
        let former = bench.watch.forget(&target(pod));
        assert_eq!(names(&bench.second().await), [""; 0]);
        bench.watch.keep(Delivered { former, ..bench.delivered("shop", pod, &[file]) });
    };
    remount("web", "db").await;
    assert_eq!((names(&bench.second().await), bench.files()), (vec![], 1));
    // But a change during the mount counts: it is not known what the mount has read.
    let former = bench.watch.forget(&target("web"));
    let mount = Delivered { former, ..bench.delivered("shop", "web", &["db"]) };
    bench.set("db", "2");
    bench.second().await;
    bench.watch.keep(mount);
    assert_eq!(names(&bench.second().await), ["web"]);
    bench.settle().await;
    // And the files of a former class are not looked at any more.
    remount("web", "api").await;
    bench.settle().await;
    assert_eq!(bench.files(), 1);
    // Nor those of a mount that failed.
    drop(bench.watch.forget(&target("web")));
    bench.look();
    assert_eq!(bench.files(), 0);
}

/// What else may have a file's name, and how it may come there.
#[tokio::test(start_paused = true)]
async fn whatever_takes_the_place_of_a_file_is_a_change() {
    let bench = Bench::new();
    bench.set("db", "1");
    bench.mount("shop", "web", &["db"]);
    bench.settle().await;
    let due = async |what: &str| {
        assert_eq!(names(&bench.second().await), ["web"], "{what}");
        bench.settle().await;
    };
    let db = bench.path("db");
    let made_of = |kind: FileType| rustix::fs::mknodat(rustix::fs::CWD, &db, kind, Mode::RUSR, 0).unwrap();
    fs::remove_file(&db).unwrap();
    fs::create_dir(&db).unwrap();
    due("a folder").await;
    fs::remove_dir(&db).unwrap();
    made_of(FileType::Fifo);
    due("a pipe that nobody writes to: a look does not open it").await;
    fs::remove_file(&db).unwrap();
    made_of(FileType::RegularFile);
    due("an empty file").await;
    fs::write(bench.path("other"), "1").unwrap();
    fs::remove_file(&db).unwrap();
    symlink("other", &db).unwrap();
    due("a link").await;
    fs::write(bench.path("other"), "2").unwrap();
    due("what a link leads to").await;
    fs::remove_file(bench.path("other")).unwrap();
    due("a link that leads nowhere").await;
    symlink("db", bench.path("other")).unwrap();
    assert_eq!(names(&bench.second().await), [""; 0], "links in a circle: nobody can tell");
    fs::remove_file(&db).unwrap();
    bench.set("db", "3");
    due("a file again").await;
    // Between two looks, with the same bytes.
    fs::remove_file(&db).unwrap();
    bench.set("db", "3");
    due("removed and made again").await;
    fs::set_permissions(&db, fs::Permissions::from_mode(0o600)).unwrap();
    due("its mode: the daemon may not read it any more").await;
}

/// A vault may be a link (git-sync), or be renamed: a look uses one folder, and while there is none nothing counts as changed.
#[tokio::test(start_paused = true)]
async fn a_vault_that_is_swapped_for_another_changes_all_its_files_once() {
    let bench = Bench::new();
    for revision in ["r1", "r2"] {
        fs::create_dir(bench.path(revision)).unwrap();
        fs::write(bench.path(revision).join("db"), revision).unwrap();
    }
    let link = |to: &str| {
        symlink(to, bench.path("draft")).unwrap();
        fs::rename(bench.path("draft"), bench.path("vault")).unwrap();
    };
    link("r1");
    let vault = bench.path("vault").into();
    let files = vec![Located::below(&vault, &vault.join("db")).unwrap()];
    bench.watch.keep(Delivered { files, ..bench.delivered("shop", "web", &[]) });
    bench.settle().await;
    link("r2");
    assert_eq!(names(&bench.second().await), ["web"]);
    bench.settle().await;
    fs::rename(bench.path("r2"), bench.path("r3")).unwrap();
    assert_eq!(names(&bench.second().await), [""; 0], "the folder is on its way");
    fs::rename(bench.path("r3"), bench.path("r2")).unwrap();
    assert_eq!(names(&bench.second().await), [""; 0], "and it is the same one");
    fs::remove_file(bench.path("vault")).unwrap();
    fs::write(bench.path("vault"), "no folder").unwrap();
    assert_eq!(names(&bench.second().await), [""; 0]);
    fs::remove_file(bench.path("vault")).unwrap();
    fs::rename(bench.path("r1"), bench.path("vault")).unwrap();
    assert_eq!(names(&bench.second().await), ["web"]);
    bench.settle().await;
    fs::remove_file(bench.path("vault/db")).unwrap();
    assert_eq!(names(&bench.second().await), ["web"]);
}

/// A second write within the tick of the first, on a file system whose times are in seconds, changes nothing that can be seen.
#[tokio::test(start_paused = true)]
async fn a_change_counts_once_more_when_its_tick_has_passed() {
    let bench = Bench::new();
    bench.mount("shop", "web", &["db"]);
    bench.settle().await;
    bench.set("db", "1");
    let mut seconds = Vec::new();
    for second in 0..20 {
        for due in bench.second().await {
            end(&due, Ended::Same).await;
            seconds.push(second);
        }
    }
    assert_eq!(seconds, [0, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_volume_is_written_once_in_five_seconds() {
    let bench = Bench::new();
    bench.mount("shop", "web", &["db"]);
    bench.settle().await;
    let mut writes = Vec::new();
    for second in 0..30 {
        bench.set("db", &second.to_string());
        for due in bench.second().await {
            end(&due, Ended::Written).await;
            writes.push(second);
        }
    }
    assert_eq!(writes, [0, 5, 10, 15, 20, 25]);
    // The last one is not lost.
    for _ in 0..5 {
        for due in bench.second().await {
            end(&due, Ended::Written).await;
            writes.push(30);
        }
    }
    assert_eq!(writes.len(), 7);
}

#[tokio::test(start_paused = true)]
async fn what_is_at_work_is_not_due_and_is_due_again_if_nothing_came_of_it() {
    let bench = Bench::new();
    bench.mount("shop", "web", &["db"]);
    let first = bench.second().await;
    assert_eq!(names(&first), ["web"]);
    assert_eq!(names(&bench.second().await), [""; 0]);
    drop(first);
    assert_eq!(names(&bench.second().await), ["web"], "a mount had its turn");
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_said_once_until_the_next_mount() {
    let bench = Bench::new();
    let failed = Ended::Failed(Code::SecretNotFound);
    bench.mount("shop", "web", &["db"]);
    let due = bench.second().await.remove(0);
    assert!(due.note(failed, Instant::now()));
    assert!(!due.note(failed, Instant::now()));
    assert!(due.note(Ended::Failed(Code::PolicyDenied), Instant::now()), "another one");
    due.note(Ended::Written, Instant::now());
    assert!(due.note(failed, Instant::now()));
    bench.mount("shop", "web", &["db"]);
    bench.look();
    assert!(!due.is_current(), "the mount has brought another class");
    drop(due);
    bench.set("db", "1");
    let due = bench.second().await.remove(0);
    assert!(due.is_current() && due.note(failed, Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn a_mount_that_begins_or_fails_takes_the_volume_away() {
    let bench = Bench::new();
    bench.mount("shop", "web", &["db"]);
    let due = bench.second().await.remove(0);
    bench.watch.forget(&target("web"));
    assert!(!due.is_current());
    due.forget();
    drop(due);
    bench.set("db", "1");
    assert_eq!(names(&bench.second().await), [""; 0]);
    bench.look();
    assert_eq!((bench.watch.count(), bench.files()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_asks_for_is_forgotten_with_its_files() {
    let bench = Bench::new();
    bench.mount("shop", "web", &["db", "api"]);
    tokio::time::advance(Duration::from_mins(9)).await;
    bench.mount("shop", "worker", &["api"]);
    bench.settle().await;
    assert_eq!((bench.watch.count(), bench.files()), (2, 2));
    tokio::time::advance(Duration::from_mins(1)).await;
    bench.settle().await;
    assert_eq!((bench.watch.count(), bench.files()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn one_file_is_looked_at_once_however_many_volumes_use_it() {
    let bench = Bench::new();
    for pod in 0..100 {
        bench.mount("shop", &format!("web-{pod}"), &["db"]);
    }
    let looks = bench.watch.looks(Instant::now());
    assert_eq!(looks.iter().map(|look| look.at().1).collect::<Vec<_>>(), [1]);
    looks[0].run();
    assert_eq!(bench.watch.due(Instant::now()).len(), 100);
}

/// A look that hangs keeps one thread; the files of another vault are looked at all the same.
#[tokio::test(start_paused = true)]
async fn there_is_one_look_at_a_vault_at_a_time() {
    let bench = Bench::new();
    bench.mount("shop", "web", &["db"]);
    let mut other = bench.delivered("shop", "worker", &["db"]);
    let elsewhere: Arc<Path> = bench.path("elsewhere").into();
    other.files[0].folder = Arc::clone(&elsewhere);
    bench.watch.keep(other);
    let hangs = bench.watch.looks(Instant::now()).into_iter().find(|look| look.at().0 == bench.folder.path()).unwrap();
    for _ in 0..3 {
        let looks = bench.watch.looks(Instant::now());
        assert_eq!(looks.iter().map(|look| look.at().0).collect::<Vec<_>>(), [&*elsewhere]);
    }
    // Not even when all its volumes are gone, and another one comes.
    bench.watch.clear();
    assert_eq!(bench.watch.looks(Instant::now()).len(), 0);
    bench.mount("shop", "web", &["db"]);
    assert_eq!(bench.watch.looks(Instant::now()).len(), 0);
    drop(hangs);
    assert_eq!(bench.watch.looks(Instant::now()).len(), 1);
}

/// One namespace makes as many volumes as it likes: the table keeps its limit, and the others keep theirs.
#[tokio::test(start_paused = true)]
async fn a_namespace_with_many_volumes_pushes_out_its_own() {
    let bench = Bench::new();
    for n in 0..20 {
        bench.mount("shop", &format!("web-{n}"), &["db"]);
    }
    for n in 0..MOST + 100 {
        bench.mount("evil", &format!("evil-{n}"), &["db", &format!("{n}")]);
    }
    let of = |namespace: &str| bench.watch.lock().volumes.values().filter(|entry| entry.tenant.as_str() == namespace).count();
    assert_eq!(of("shop"), 20);
    assert!((1_000..MOST).contains(&of("evil")) && bench.watch.lock().volumes.weight() <= BYTES, "{}", of("evil"));
    let mut heavy = bench.delivered("bank", "heavy", &["db"]);
    heavy.plan_weight = BYTES;
    bench.watch.keep(heavy);
    assert_eq!((of("bank"), of("shop")), (0, 20));
    // However much memory there is.
    let large = Bench { watch: Arc::new(Watch::of_bytes(1 << 30)), ..Bench::new() };
    for n in 0..MOST + 100 {
        large.mount("shop", &format!("web-{n}"), &["db"]);
    }
    assert_eq!(large.watch.count(), MOST);
}

/// It counts at least the memory that it needs.
#[test]
fn a_volume_counts_what_it_takes() {
    // Twice in the shelf's maps, and the counts of what it shares.
    assert!(size_of::<Entry>() + size_of::<Subject>() + size_of::<PodIdentity>() + size_of::<PodClaims>() + 200 <= VOLUME);
    // In a map, in a list, in the volume; and the counts of what it shares.
    assert!(size_of::<Watched>() + 7 * size_of::<usize>() + 64 <= FILE, "{}", size_of::<Watched>());
}
