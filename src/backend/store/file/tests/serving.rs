//! What Keyferry serves, how often it opens a file, and what it does not touch.

use super::*;
use crate::backend::Kind;
use crate::model::Method;
use crate::model::Version;

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
    assert!(reader.recall(&key("db"), Instant::now()).is_none());
    let first = reader.read(&key("db")).unwrap();
    assert!(Arc::ptr_eq(&first.secret, &reader.recall(&key("db"), Instant::now()).unwrap().secret));
    assert!(Arc::ptr_eq(&first.secret, &reader.read(&key("db")).unwrap().secret));

    bench.set("db", "new");
    assert!(reader.recall(&key("db"), Instant::now()).is_none());
    assert_eq!(password(&reader.read(&key("db")).unwrap()), "new");
    bench.vault.lock().unwrap().remove(&secret("db")).unwrap();
    assert!(reader.recall(&key("db"), Instant::now()).is_none());
    assert_eq!(reader.read(&key("db")).unwrap_err().fault, Fault::NotFound);
}

/// In every way of changing a file, and also where the kernel's notes were read a moment before.
#[test]
fn whatever_changes_a_file_the_next_mount_has_it() {
    type Change = fn(&Bench);
    let changes: [(&str, Change, Option<&str>); 9] = [
        ("written in place", |bench| copy_over(&bench.at("other/vault/team/db.age"), &bench.at("vault/team/db.age")), Some("new")),
        ("written by its other name", |bench| copy_over(&bench.at("other/vault/team/db.age"), &bench.at("second")), Some("new")),
        ("written where its link leads", |bench| copy_over(&bench.at("other/vault/team/db.age"), &bench.at("elsewhere")), Some("new")),
        ("renamed over", |bench| fs::rename(bench.at("other/vault/team/db.age"), bench.at("vault/team/db.age")).unwrap(), Some("new")),
        (
            "its folder replaced",
            |bench| {
                fs::rename(bench.at("vault/team"), bench.at("vault/.gone")).unwrap();
                fs::rename(bench.at("other/vault/team"), bench.at("vault/team")).unwrap();
            },
            Some("new"),
        ),
        (
            "its folder replaced by a link",
            |bench| {
                fs::rename(bench.at("vault/team"), bench.at("vault/.gone")).unwrap();
                symlink(bench.at("other/vault/team"), bench.at("vault/team")).unwrap();
            },
            Some("new"),
        ),
        (
            "the vault replaced",
            |bench| {
                fs::rename(bench.at("vault"), bench.at("gone")).unwrap();
                fs::rename(bench.at("other/vault"), bench.at("vault")).unwrap();
            },
            Some("new"),
        ),
        ("removed", |bench| fs::remove_file(bench.at("vault/team/db.age")).unwrap(), None),
        ("the vault gone", |bench| fs::rename(bench.at("vault"), bench.at("gone")).unwrap(), None),
    ];
    for (name, change, expected) in changes {
        let bench = Bench::new();
        bench.set("team/db", "old");
        bench.set("calm", "calm");
        copy_all(&bench.at("vault"), &bench.at("other/vault"));
        Vault::open_for_writing(bench.at("other/vault")).unwrap().set(&secret("team/db"), &fields(&[("password", b"new")])).unwrap();
        match name {
            "written by its other name" => fs::hard_link(bench.at("vault/team/db.age"), bench.at("second")).unwrap(),
            "written where its link leads" => {
                fs::rename(bench.at("vault/team/db.age"), bench.at("elsewhere")).unwrap();
                symlink(bench.at("elsewhere"), bench.at("vault/team/db.age")).unwrap();
            }
            _ => {}
        }
        let reader = bench.reader();
        assert_eq!(password(&reader.read(&key("team/db")).unwrap()), "old", "{name}");
        reader.read(&key("calm")).unwrap();
        for _ in 0..3 {
            assert!(reader.recall(&key("calm"), Instant::now()).is_some(), "{name}");
            assert!(reader.recall(&key("team/db"), Instant::now()).is_some(), "{name}");
        }
        change(&bench);
        assert!(reader.recall(&key("team/db"), Instant::now()).is_none(), "{name}");
        let read = reader.read(&key("team/db"));
        assert_eq!(read.as_ref().ok().map(password), expected, "{name}: {read:?}");
        assert!(read.is_err() || reader.recall(&key("team/db"), Instant::now()).is_some(), "{name}: known again");
    }
}

fn copy_over(from: &Path, to: &Path) {
    fs::write(to, fs::read(from).unwrap()).unwrap();
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    assert!(Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap().success());
}

#[test]
fn a_file_changed_a_moment_ago_is_served_but_not_remembered() {
    let bench = Bench::new();
    bench.set("db", "value");
    let clock = Arc::new(ManualClock::at(now()));
    let reader = Reader::open(&bench.at("vault"), &[bench.at("age.key")], 1 << 20, Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
    assert_eq!(password(&reader.read(&key("db")).unwrap()), "value");
    assert!(reader.recall(&key("db"), Instant::now()).is_none(), "a second write in the same tick would go unnoticed");
    clock.advance(2);
    reader.read(&key("db")).unwrap();
    assert!(reader.recall(&key("db"), Instant::now()).is_some());
}

#[test]
fn a_folder_of_a_projected_volume_or_git_sync_is_followed_when_it_is_swapped() {
    let bench = Bench::new();
    bench.set("shop/db", "old");
    // kubelet's layout: one folder per state, `..data` leads to the present one, and the entries lead through it.
    let root = bench.at("mounted");
    fs::create_dir(&root).unwrap();
    let publish = |state: &str| {
        copy_all(&bench.at("vault"), &root.join(state));
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
    assert!(reader.recall(&key("shop/db"), Instant::now()).is_some());

    bench.set("shop/db", "new");
    publish("..2026_2");
    assert_eq!(password(&reader.read(&key("shop/db")).unwrap()), "new");
    assert_eq!(password(&reader.read(&pinned("shop/db", 1)).unwrap()), "old");
    assert_eq!(reader.list("").unwrap(), [secret("shop/db")]);
}

/// inotify reports every file and folder that is opened.
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
    reader.recall(&key("many/wanted"), Instant::now()).unwrap();
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
    let update = reference("pki/issue").with(|asked| asked.method = Method::Post);
    let error = backend.fetch(&update, &cx()).await.unwrap_err();
    assert_eq!(error.fault, Fault::Unsupported);
    assert_snapshot!(error, @"files/pki/issue: a file vault only reads secrets: it makes none, and takes no arguments (leave out `method` and `args`)");
    assert_eq!(backend.scope(&update, &cx().pod), Scope::Pod("u1".into()));
    assert_eq!(backend.scope(&reference("a"), &cx().pod), Scope::Node);
    let kind = bench.config();
    assert_eq!(kind.pin("7").unwrap().as_str(), "7");
    assert_snapshot!(kind.pin("AWSCURRENT").unwrap_err(), @r#""AWSCURRENT" is not a revision of a file vault: a revision is a whole number from 1, as `keyferry vault get NAME` shows it"#);
    assert!(kind.canonical("a/.history").is_err());
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
    let within = |millis| Instant::now() + Duration::from_millis(millis);
    // Long enough for the queue to take every thread, one after another.
    let shop = "shop".into();
    let hang = |_| {
        let held = Arc::clone(&held);
        backend.read(&shop, within(2_000), move |_| held.lock().unwrap().recv().map_err(|_| ReadFault::new(Fault::Unavailable, "")))
    };
    for hung in futures_util::future::join_all((0..queue::AT_ONCE).map(hang)).await {
        assert_eq!(hung.unwrap_err().fault, Fault::TimedOut);
    }
    let late = FetchContext { deadline: within(200), ..cx() };
    let error = backend.fetch(&reference("db"), &late).await.unwrap_err();
    assert_eq!(error.fault, Fault::TimedOut);
    assert_snapshot!(error, @"files/db: the vault's file system did not answer in time (is a network volume down?)");
    drop(release);
    backend.fetch(&reference("db"), &cx()).await.unwrap();
}

/// As the pipeline asks: first for what is already in memory.
#[tokio::test(start_paused = true)]
async fn what_an_identity_opened_is_not_served_a_second_after_it_is_gone() {
    let bench = Bench::new();
    bench.set("db", "value");
    let backend = FileBackend { name: "files".parse().unwrap(), reader: Arc::new(bench.reader()), queue: Arc::default() };
    backend.fetch(&reference("db"), &cx()).await.unwrap();
    assert!(backend.recall(&reference("db"), &cx(), Instant::now()).is_some());
    let other = generate_identity(&bench.at("other.key"), now()).unwrap();
    fs::rename(bench.at("other.key"), bench.at("age.key")).unwrap();
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(backend.recall(&reference("db"), &cx(), Instant::now()).is_none());
    let error = backend.fetch(&reference("db"), &cx()).await.unwrap_err();
    assert!(error.to_string().contains(&other.to_string()), "{error}");
}
