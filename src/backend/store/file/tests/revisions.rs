//! Earlier revisions, their numbers, and changes at the same time or cut short.

use super::*;

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
        assert!(reader.recall(&pinned("db", n), Instant::now()).is_some());
    }
    let gone = reader.read(&pinned("db", 2)).unwrap_err();
    assert_eq!(gone.fault, Fault::NotFound);
    assert_snapshot!(gone, @"there is no revision 2: the current one is 8, and kept are 3, 4, 5, 6, 7 (pin another, or leave `version` out)");
    bench.set("db", "v9");
    assert_eq!(password(&reader.read(&pinned("db", 8)).unwrap()), "v8", "remembered as the current one, found as an earlier one");

    bench.vault.clone().keeping(1).set(&secret("db"), &fields(&[("password", b"v10")])).unwrap();
    assert_snapshot!(reader.read(&pinned("db", 8)).unwrap_err(), @"there is no revision 8: the current one is 10, and kept are 9 (pin another, or leave `version` out)");
    assert_snapshot!(bench.shown(reader.read(&pinned("none", 8)).unwrap_err()), @"there is no such secret in the vault: /vault/none.age is absent (make it with `keyferry vault set none FIELD=@FILE`)");
}

#[test]
fn a_removed_secret_is_gone_with_its_history_and_its_numbers_are_not_used_again() {
    let bench = Bench::new();
    bench.set("shop/cart/db", "1");
    bench.set("shop/cart/db", "2");
    assert_eq!(bench.vault.lock().unwrap().remove(&secret("shop/cart/db")).unwrap(), 1);
    assert!(!bench.at("vault/shop").exists(), "empty folders go");
    assert_snapshot!(bench.vault.lock().unwrap().remove(&secret("shop/cart/db")).unwrap_err(), @"there is no secret shop/cart/db in the vault (`keyferry vault list` shows what there is)");
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
    // The new file is begun, but not finished.
    fs::write(bench.at("vault/.unfinished"), "garbage").unwrap();
    sound(3);
    // The current revision is kept, the number is not yet given.
    fs::write(bench.at("vault/.history/db/2.age"), &current).unwrap();
    sound(3);
    // The number is given, the file is not yet moved.
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
    assert_snapshot!(bench.shown(log.trim()), @"WARN keyferry::backend::store::file::reader: an older revision has replaced a newer one, and is served (fine after a revert; otherwise somebody rolled the secret back) secret=shop/db file=/vault/shop/db.age revision=1 highest=2");
    assert_eq!(logged(|| drop(reader.read(&key("shop/db")))), "", "once per file");
    assert_eq!(bench.set("shop/db", "v3").number(), 3, "the numbers go on after the highest");
}

#[test]
fn a_vault_without_its_history_needs_the_identity_once() {
    let bench = Bench::new();
    bench.set("db", "v1");
    bench.set("db", "v2");
    fs::remove_dir_all(bench.at("vault/.history")).unwrap();
    let unknown = bench.vault.set(&secret("db"), &fields(&[("a", b"b")])).unwrap_err();
    assert_snapshot!(bench.shown(unknown), @"Keyferry cannot tell which revision db has now: /vault/.history/db/.revision is missing (give --identity, so that it can read the file itself; or restore the vault's .history)");
    let now = bench.reader().read(&key("db")).unwrap().revision;
    bench.vault.lock().unwrap().adopt(&secret("db"), now).unwrap();
    assert_eq!(bench.set("db", "v3").number(), 3);

    fs::write(bench.at("vault/.history/db/3.age"), "put here by hand").unwrap();
    let tangled = bench.vault.set(&secret("db"), &fields(&[("a", b"b")])).unwrap_err();
    assert_snapshot!(bench.shown(tangled), @"/vault/db.age and /vault/.history/db/3.age both claim to be the same revision and differ (one was put there by hand: move it out of the vault)");
}
