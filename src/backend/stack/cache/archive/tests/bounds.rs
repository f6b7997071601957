//! What is in the folder, and what waits for it. However much there is, nothing hangs, nothing grows, and no foreign file is given.

use std::os::unix::fs::symlink;

use rustix::fs::{CWD, Mode, mkfifoat};

use super::*;

/// The real time: the clock of a test with paused time does not run.
#[allow(clippy::disallowed_methods)]
fn real_time() -> std::time::Instant {
    std::time::Instant::now()
}

/// A possible name of a sealed file.
fn name(n: usize) -> String {
    format!("{n:032x}")
}

fn of_tenant(namespace: &str) -> FetchContext {
    let mut cx = context("uid-9", "web", STALE);
    cx.pod = Arc::new(PodIdentity { namespace: namespace.into(), ..(*cx.pod).clone() });
    cx
}

#[tokio::test(start_paused = true)]
async fn a_folder_full_of_junk_is_read_in_time_and_nothing_of_it_is_kept() {
    const JUNK: usize = 200_000;
    let node = Node::new();
    let daemon = node.start();
    daemon.ask("kv/db").await.unwrap();
    daemon.fail("kv/db", Fault::Unauthenticated).await;
    daemon.ask("kv/db").await.unwrap();
    drop(daemon);
    let own = node.files("answers").first().unwrap().clone();
    for room in ["answers", "logins", "wipes"] {
        let folder = node.folder.path().join("cache").join(room);
        fs::create_dir_all(&folder).unwrap();
        // A sparse file can have any size.
        fs::File::create(folder.join(name(1))).unwrap().set_len(1 << 36).unwrap();
        mkfifoat(CWD, folder.join(name(2)), Mode::RUSR | Mode::WUSR).unwrap();
        symlink("/dev/zero", folder.join(name(3))).unwrap();
        symlink(&own, folder.join(name(4))).unwrap();
        fs::create_dir(folder.join(name(5))).unwrap();
        fs::copy(&own, folder.join(name(6))).unwrap();
        for n in 10..1_000 {
            fs::write(folder.join(name(n)), b"kfseal\x01 and no more").unwrap();
        }
        let many = if room == "answers" { JUNK } else { 2_000 };
        for n in 0..many {
            fs::File::create(folder.join(format!("junk-{n}"))).unwrap();
        }
    }
    let began = real_time();
    let daemon = node.start();
    assert!(began.elapsed() < Duration::from_mins(3), "{:?}", began.elapsed());
    {
        let state = daemon.archive.shared.lock();
        assert_eq!((state.index.all().count(), state.index.has_shut(), state.index.wipes.is_empty()), (1, false, true));
        assert!(state.index.unlinks.is_empty() && state.index.marks.is_empty());
    }
    assert_eq!((daemon.archive.fault(), daemon.stale("kv/db").await), (None, given("v1", 0)));
    assert_eq!(node.files("answers").len(), JUNK + 1_000 - 10 + 7, "what is not ours stays where it is");
    let sealed = node.sealed();
    let problem = sealed.room("answers").find("x").unwrap();
    assert!(problem.is_none());
    let (listed, unopened) = list(&sealed).unwrap();
    assert_eq!((listed.len(), unopened), (1, JUNK + 1_000 - 10 + 6));
}

/// The file in an answer's place is not read to its end, and not given.
#[tokio::test(start_paused = true)]
async fn what_takes_an_answers_place_is_not_read_to_its_end() {
    type Place = fn(&Path);
    let places: [Place; 5] = [
        |path| fs::File::create(path).unwrap().set_len(1 << 36).unwrap(),
        |path| mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).unwrap(),
        |path| symlink("/dev/zero", path).unwrap(),
        |path| symlink(path.with_file_name("away"), path).unwrap(),
        |path| fs::create_dir(path).unwrap(),
    ];
    for (at, place) in places.into_iter().enumerate() {
        let node = Node::new();
        let daemon = node.start();
        daemon.ask("kv/db").await.unwrap();
        let daemon = node.restart(daemon);
        let file = node.files("answers").first().unwrap().clone();
        fs::rename(&file, file.with_file_name("away")).unwrap();
        place(&file);
        let began = real_time();
        assert_eq!(daemon.stale("kv/db").await, None, "{at}");
        assert!(began.elapsed() < Duration::from_secs(5), "{at}: {:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn more_answers_than_memory_has_room_for_are_removed() {
    let mut node = Node::new();
    let daemon = node.start();
    daemon.ask("kv/db").await.unwrap();
    daemon.store.put("kv/x", &[("password", b"x")]);
    for n in 0..300 {
        daemon.put(&format!("kv/{n}"), b"v");
        daemon.backend.fetch(&secret(&format!("kv/{n}")), &of_tenant("evil")).await.unwrap();
    }
    drop(daemon);
    assert_eq!(node.files("answers").len(), 301);
    node.memory = 64 << 10;
    let daemon = node.start();
    let known = daemon.archive.shared.lock().index.all().count();
    assert!((20..160).contains(&known), "{known}");
    assert_eq!(node.files("answers").len(), known, "an unknown file belongs to nobody: it is removed");
    assert_eq!(daemon.stale("kv/db").await, given("v1", 0), "the other tenant's");
}

/// The disk is slow or full, and the answers of one tenant change all the time.
#[tokio::test(start_paused = true)]
async fn what_waits_to_be_written_is_bounded_and_shared() {
    let node = Node::new();
    node.free.store(0, Ordering::SeqCst);
    let daemon = node.start();
    daemon.ask("kv/db").await.unwrap();
    let large = vec![b'x'; 100_000];
    let waiting = || {
        let state = daemon.archive.shared.lock();
        let held: usize = state.index.all().filter_map(|known| known.waiting.as_ref()).map(|answer| answer.secret.weight()).sum();
        (held, state.index.weight_of_queue(), state.index.all().count())
    };
    for n in 0..200 {
        let name = format!("kv/large{n}");
        daemon.put(&name, &large);
        daemon.backend.fetch(&secret(&name), &of_tenant("evil")).await.unwrap();
        let (held, counted, _) = waiting();
        assert!(held <= 4 * MIB && counted <= 4 * MIB, "{held} and {counted}");
    }
    let (held, _, known) = waiting();
    assert!(held > 3 * MIB && known < 50, "{held} and {known}: what finds no room to wait is not known");
    node.free.store(1 << 40, Ordering::SeqCst);
    daemon.archive.shared.wake();
    let daemon = node.restart(daemon);
    assert_eq!(daemon.stale("kv/db").await, given("v1", 0), "the other tenant's was written");
}

/// There are ever more wipes: the marks do not fill the memory, and what they covered stays covered.
#[tokio::test(start_paused = true)]
async fn many_wipes_become_one() {
    let node = Node::new();
    let daemon = node.start();
    daemon.ask("kv/db").await.unwrap();
    let sealed = node.sealed();
    let room = sealed.room("wipes");
    for n in 0..1_030 {
        let mark = format!(r#"{{"backend":"other","prefix":"{n}","at":"{}"}}"#, node.clock.now());
        room.write(&n.to_string(), mark.as_bytes()).unwrap();
    }
    assert_eq!(daemon.stale("kv/db").await, None, "nobody can keep all of them apart: it is as if all was wiped");
    node.later(1);
    daemon.ask("kv/db").await.unwrap();
    assert_eq!(daemon.stale("kv/db").await, given("v1", 0), "what the store said since");
}

/// With marks, a person who can write the folder can only take answers away.
#[tokio::test(start_paused = true)]
async fn more_marks_of_logins_than_are_read_leave_nothing() {
    let node = Node::new();
    let daemon = node.start();
    daemon.ask("kv/db").await.unwrap();
    drop(daemon);
    let sealed = node.sealed();
    let mark = |n: usize| {
        let id = name(n);
        sealed.room("logins").write(&id, id.as_bytes()).unwrap();
    };
    (0..64).for_each(mark);
    let daemon = node.start();
    assert_eq!(daemon.stale("kv/db").await, given("v1", 0), "marks of other logins");
    assert!(node.files("logins").is_empty(), "and they are removed, since nothing is behind them");
    drop(daemon);
    (0..65).for_each(mark);
    let daemon = node.start();
    assert_eq!((daemon.stale("kv/db").await, node.files("answers").len()), (None, 0));
    daemon.ask("kv/db").await.unwrap();
    let daemon = node.restart(daemon);
    assert_eq!((daemon.stale("kv/db").await, node.files("logins").len()), (given("v1", 0), 0), "what came since is kept");
}
