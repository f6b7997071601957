//! Many files at once, cut short at each step that changes a file.

use super::super::write::STEPS;
use super::*;

/// Runs the work for this many steps, and then ends it. Gives whether the work was complete.
fn cut_after<T, E: std::fmt::Display>(steps: usize, work: impl FnOnce() -> Result<T, E>) -> bool {
    STEPS.set(Some(steps));
    let done = work();
    STEPS.set(None);
    match done {
        Ok(_) => true,
        Err(error) => {
            assert!(error.to_string().ends_with("cut short"), "{error}");
            false
        }
    }
}

#[test]
fn an_import_cut_short_at_any_step_leaves_old_or_new_secrets_with_their_history() {
    let mut cuts = 0;
    for steps in 0.. {
        let bench = Bench::new();
        bench.set("a", "old");
        bench.set("b/c", "older");
        bench.set("b/c", "old");
        let names = [secret("a"), secret("b/c"), secret("b/new")];
        let new = fields(&[("password", b"new")]);
        let all = || names.iter().map(|name| (name, None, &new));
        let done = cut_after(steps, || bench.vault.lock().unwrap().set_all(all()));
        let reader = bench.reader();
        let (mut changed, mut last) = (0, Vec::new());
        for (name, before) in names.iter().zip([1, 2, 0]) {
            let current = reader.read(&Key { name: name.clone(), pin: None });
            if before == 0 && !done && current.is_err() {
                continue;
            }
            let current = current.unwrap();
            let number = current.revision.number();
            match password(&current) {
                "old" => assert_eq!(number, before, "cut after {steps}"),
                "new" => {
                    assert_eq!(number, before + 1, "cut after {steps}");
                    changed += 1;
                    if before > 0 {
                        let earlier = reader.read(&Key { name: name.clone(), pin: Revision::new(before) }).unwrap();
                        assert_eq!(password(&earlier), "old", "cut after {steps}");
                    }
                }
                other => panic!("{other}"),
            }
            last.push(number);
        }
        assert!(!done || changed == 3);
        cuts += usize::from(!done);
        // The same work again is complete, and no number is given twice.
        let again = bench.vault.lock().unwrap().set_all(all()).unwrap();
        assert!(again.iter().zip(&last).all(|(again, before)| again.number() > *before), "cut after {steps}");
        let reader = bench.reader();
        assert_eq!(password(&reader.read(&pinned("b/c", 2)).unwrap()), "old");
        assert_eq!(password(&reader.read(&key("b/new")).unwrap()), "new");
        assert!(!bench.at("vault/.history/.unfinished").exists());
        if done {
            break;
        }
    }
    assert_eq!(cuts, 2 * 8, "five files before their turn, three in it: each is written, then moved");
}

#[test]
fn a_rekey_cut_short_at_any_step_leaves_files_that_one_of_both_opens() {
    let (mut cuts, mut mixed) = (0, 0);
    for steps in 0.. {
        let bench = Bench::new();
        bench.set("a", "1");
        bench.set("a", "2");
        bench.set("b/c", "3");
        let old = recipients_of(&bench.at("age.key")).unwrap();
        let new = [generate_identity(&bench.at("new.key"), now()).unwrap()];
        let wanted = Rekeying { add: &new, remove: &old, ..Rekeying::default() };
        let done = cut_after(steps, || bench.vault.rekey(&[bench.at("age.key")], wanted, &mut |_, _| {}));
        let both = [bench.at("age.key"), bench.at("new.key")];
        let opened = |identities: &[PathBuf]| {
            let reader = Reader::open(&bench.at("vault"), identities, 1 << 20, Arc::new(SystemClock)).unwrap();
            [pinned("a", 1), key("a"), key("b/c")].map(|key| reader.read(&key).ok().map(|opened| password(&opened).to_owned()))
        };
        assert_eq!(opened(&both), ["1", "2", "3"].map(|value| Some(value.to_owned())), "cut after {steps}");
        let by_new = opened(&both[1..]).iter().flatten().count();
        mixed += usize::from((1..3).contains(&by_new));
        if done {
            break;
        }
        cuts += 1;
        // The list is written last, so the same command finishes the work.
        let again = bench.vault.rekey(&both, wanted, &mut |_, _| {}).unwrap();
        assert_eq!((again.secrets, again.earlier, again.added, again.removed), (2, 1, 1, 1));
        assert_eq!(opened(&both[1..]).iter().flatten().count(), 3);
        assert_eq!(opened(&both[..1]).iter().flatten().count(), 0);
    }
    assert_eq!((cuts, mixed), (2 * 3 + 2, 2), "three files and the list: each is written, then moved");
}

/// More bytes than it keeps in memory, several threads, and a file in the middle that does not open.
#[test]
fn a_rekey_of_many_keeps_each_in_its_place() {
    let bench = Bench::new();
    let names: Vec<String> = (0..40).map(|n| format!("ns{}/s{n}", n % 3)).collect();
    for name in &names {
        bench.set(name, &format!("{name} old"));
        bench.set(name, name);
    }
    // Cut short after it was kept: the current revision is in the history too.
    fs::copy(bench.at("vault/ns0/s0.age"), bench.at("vault/.history/ns0/s0/2.age")).unwrap();
    fs::write(bench.at("vault/ns1/s1.age"), "broken").unwrap();
    let identity = [bench.at("age.key")];
    let refused = bench.vault.rekey(&identity, Rekeying::default(), &mut |_, _| {}).unwrap_err().to_string();
    assert!(refused.contains("ns1/s1.age is not an age file") && refused.contains("nothing was changed"), "{refused}");

    let new = generate_identity(&bench.at("new.key"), now()).unwrap();
    let wanted = Rekeying { add: &[new], remove: &recipients_of(&identity[0]).unwrap(), skip_unreadable: true, dry_run: false };
    let mut told = Vec::new();
    let done = bench.vault.rekey(&identity, wanted, &mut |done, all| told.push((done, all))).unwrap();
    assert_eq!((done.secrets, done.earlier, done.skipped.len()), (39, 41, 1));
    assert!(told.is_sorted() && told.iter().all(|(done, all)| done <= all && *all == 81), "{told:?}");
    assert_eq!(fs::read(bench.at("vault/ns0/s0.age")).unwrap(), fs::read(bench.at("vault/.history/ns0/s0/2.age")).unwrap());
    let reader = Reader::open(&bench.at("vault"), &[bench.at("new.key")], 1 << 20, Arc::new(SystemClock)).unwrap();
    for name in names.iter().filter(|name| *name != "ns1/s1") {
        assert_eq!(password(&reader.read(&key(name)).unwrap()), name);
        assert_eq!(password(&reader.read(&pinned(name, 1)).unwrap()), format!("{name} old"));
    }
}

/// Nothing is made for it.
#[test]
fn a_rekey_of_an_empty_vault_changes_the_list_alone() {
    let bench = Bench::new();
    let new = generate_identity(&bench.at("new.key"), now()).unwrap();
    let wanted = Rekeying { add: &[new], ..Rekeying::default() };
    assert_eq!(bench.vault.rekey(&[bench.at("age.key")], wanted, &mut |_, _| {}).unwrap().added, 1);
    assert!(!bench.at("vault/.history").exists());
}
