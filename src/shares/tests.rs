use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn tenant(name: &str) -> Tenant {
    name.into()
}

/// Takes units, one at a time, until there are no more.
fn all(shares: &Shares, name: &str) -> Vec<Held> {
    std::iter::from_fn(|| shares.take(&tenant(name), 1)).collect()
}

#[test]
fn alone_half_and_a_newcomer_half_of_what_is_free() {
    let shares = Shares::new(100);
    let held: Vec<_> = NAMES.iter().map(|name| all(&shares, name)).collect();
    assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [50, 25, 12, 6]);
    assert_eq!(shares.most(2), [(tenant("a"), 50), (tenant("b"), 25)]);
    assert_eq!((shares.used(), shares.free(), shares.of("a"), shares.of("x")), (93, 7, 50, 0));
    assert!(shares.take(&tenant("x"), 4).is_none());
    let three = shares.take(&tenant("x"), 3).unwrap();
    drop((held, three));
    assert_eq!((shares.used(), shares.most(9)), (0, Vec::new()));
}

#[test]
fn firsts_are_for_those_who_hold_nothing_when_the_others_have_all() {
    let shares = Shares::with_firsts(8, 2);
    let held: Vec<_> = ["a", "b", "c", "d"].iter().map(|name| all(&shares, name)).collect();
    assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [4, 2, 1, 1], "as without them");
    assert!(shares.may_give(1) && !shares.may_give(2));
    let (e, f) = (all(&shares, "e"), all(&shares, "f"));
    assert_eq!((e.len(), f.len(), shares.used(), shares.free()), (1, 1, 10, 0));
    assert!(!shares.may_give(1) && shares.take(&tenant("g"), 1).is_none());
    drop(e);
    assert!(shares.take(&tenant("a"), 1).is_none(), "it has its share");
    assert!(shares.take(&tenant("g"), 1).is_some());
}

/// What `k` tenants hold that give back and take again for a long time.
#[test]
fn two_have_a_third_each_and_three_a_quarter() {
    for (tenants, each) in [(1, 60), (2, 40), (3, 30), (4, 24)] {
        let shares = Shares::new(120);
        let mut held: Vec<Vec<Held>> = NAMES[..tenants].iter().map(|name| all(&shares, name)).collect();
        for _ in 0..120 {
            for (name, held) in NAMES.iter().zip(&mut held) {
                held.pop();
                held.extend(all(&shares, name));
            }
        }
        let now: Vec<_> = held.iter().map(Vec::len).collect();
        assert!(now.iter().all(|held| held.abs_diff(each) <= 1), "{tenants} tenants: {now:?}");
    }
}

#[test]
fn the_last_unit_is_for_one_that_holds_nothing() {
    let shares = Shares::new(1);
    let only = shares.take(&tenant("a"), 1).unwrap();
    assert!(shares.take(&tenant("a"), 1).is_none() && shares.take(&tenant("b"), 1).is_none());
    drop(only);
    assert!(shares.take(&tenant("b"), 1).is_some());
    let nothing = Shares::new(0);
    assert!(nothing.take(&tenant("a"), 1).is_none());
    let zero = nothing.take(&tenant("a"), 0).unwrap();
    assert_eq!((zero.n(), nothing.most(1)), (0, Vec::new()), "who holds nothing is not in the map");
}

#[test]
fn absurd_numbers_are_refused() {
    let shares = Shares::new(usize::MAX);
    let half = shares.take(&tenant("a"), usize::MAX / 2).unwrap();
    for n in [1, 2, usize::MAX / 2, usize::MAX / 2 + 2, usize::MAX - 1, usize::MAX] {
        assert!(shares.take(&tenant("a"), n).is_none(), "{n}");
    }
    assert!(shares.take(&tenant("b"), usize::MAX).is_none());
    drop(half);
    assert_eq!(shares.used(), 0);
}

#[test]
fn what_one_holds_becomes_anothers_within_its_share() {
    let shares = Shares::new(10);
    let read = shares.take(&tenant(""), 3).unwrap().pass_to(&tenant("shop")).unwrap();
    assert_eq!((shares.of(""), shares.of("shop"), read.tenant().as_str()), (0, 3, "shop"));
    // Then 3 + 2 = 5 of ten are free: exactly its share. One more is not granted.
    let more = shares.take(&tenant(""), 2).unwrap().pass_to(&tenant("shop")).unwrap();
    assert!(shares.take(&tenant(""), 1).unwrap().pass_to(&tenant("shop")).is_none());
    assert_eq!((shares.used(), shares.of("shop"), shares.of("")), (5, 5, 0), "what is refused is given back");
    drop((read, more));
    assert_eq!(shares.used(), 0);
}

/// What a former process left is counted, however much it is; nobody gets anything while more is in use than there is.
#[test]
fn what_is_there_already_counts_beyond_the_share() {
    let shares = Shares::new(10);
    let mut former = shares.count(&tenant("a"), 12);
    assert_eq!((shares.used(), shares.free(), shares.of("a")), (12, 0, 12));
    assert!(shares.take(&tenant("a"), 1).is_none() && shares.take(&tenant("b"), 1).is_none());
    former.shrink(7);
    let newcomer = shares.take(&tenant("b"), 1).unwrap();
    assert!(shares.take(&tenant("a"), 1).is_none(), "it is still beyond");
    former.shrink(3);
    assert!(shares.take(&tenant("a"), 1).is_some() && shares.would_give(3, 4, 1) && !shares.would_give(3, 5, 2));
    let more = shares.count(&tenant("c"), 20);
    assert!(newcomer.pass_to(&tenant("d")).is_none(), "there is nothing free to be passed on");
    drop((former, more));
    assert_eq!(shares.used(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Take(usize, usize),
    Drop(usize),
    Shrink(usize, usize),
    Split(usize, usize),
    Join(usize, usize),
    PassTo(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let n = || prop_oneof![3 => 0..8_usize, 2 => 0..70_usize, 1 => Just(usize::MAX)];
    prop_oneof![
        6 => (0..NAMES.len(), n()).prop_map(|(name, n)| Step::Take(name, n)),
        3 => (0..50_usize).prop_map(Step::Drop),
        1 => (0..50_usize, n()).prop_map(|(held, to)| Step::Shrink(held, to)),
        1 => (0..50_usize, n()).prop_map(|(held, n)| Step::Split(held, n)),
        1 => (0..50_usize, 0..50_usize).prop_map(|(one, other)| Step::Join(one, other)),
        2 => (0..50_usize, 0..NAMES.len()).prop_map(|(held, name)| Step::PassTo(held, name)),
    ]
}

proptest! {
    /// Compared with a list of what everybody holds: granted if, and only if, the rule says so; and every count is right after each step.
    #[test]
    fn the_rule_is_kept_and_every_unit_is_counted(capacity in 0..64_usize, steps in prop::collection::vec(step(), 0..80)) {
        let shares = Shares::new(capacity);
        let mut held: Vec<Held> = Vec::new();
        let at = |held: &[Held], index: usize| (!held.is_empty()).then(|| index % held.len());
        for step in steps {
            let used: usize = held.iter().map(Held::n).sum();
            let of = |name: &str| held.iter().filter(|held| held.tenant.as_str() == name).map(Held::n).sum::<usize>();
            match step {
                Step::Take(name, n) => {
                    let (name, free) = (NAMES[name], capacity - used);
                    let before = of(name);
                    let by_rule = n == 0 || n <= free && ((before == 0 && n == 1) || before + n <= free - n);
                    let got = shares.take(&tenant(name), n);
                    prop_assert_eq!(got.is_some(), by_rule);
                    // The promise to a newcomer, apart from the rule.
                    prop_assert!(got.is_some() || before > 0 || free == 0 || n > 1.max(free / 2));
                    if got.is_some() && n > 0 {
                        prop_assert!(before + n <= 1.max(capacity / 2) && before + n <= 1.max(shares.free()));
                    }
                    held.extend(got);
                }
                Step::Drop(index) => if let Some(index) = at(&held, index) { drop(held.swap_remove(index)) },
                Step::Shrink(index, to) => if let Some(index) = at(&held, index) {
                    let before = held[index].n();
                    held[index].shrink(to);
                    prop_assert_eq!(held[index].n(), before.min(to));
                },
                Step::Split(index, n) => if let Some(index) = at(&held, index) {
                    let part = held[index].split(n);
                    held.push(part);
                },
                Step::Join(one, other) => if let (Some(one), Some(other)) = (at(&held, one), at(&held, other))
                    && one != other && held[one].tenant == held[other].tenant
                {
                    let other = held.remove(other.max(one));
                    let one = held.iter_mut().find(|held| held.tenant == other.tenant).unwrap();
                    one.join(other);
                },
                Step::PassTo(index, name) => if let Some(index) = at(&held, index) {
                    let (n, same) = (held[index].n(), held[index].tenant.as_str() == NAMES[name]);
                    let (before, free) = (of(NAMES[name]), capacity - used);
                    let by_rule = same || n == 0 || before + n <= free || (before == 0 && n == 1);
                    let passed = held.swap_remove(index).pass_to(&tenant(NAMES[name]));
                    prop_assert_eq!(passed.is_some(), by_rule);
                    held.extend(passed);
                },
            }
            let state = shares.lock();
            prop_assert_eq!(state.used, held.iter().map(Held::n).sum::<usize>());
            prop_assert!(state.used <= capacity);
            prop_assert!(state.by.values().all(|held| *held > 0), "nobody without anything is in the map");
            for name in NAMES {
                prop_assert_eq!(state.of(name), held.iter().filter(|held| held.tenant.as_str() == name).map(Held::n).sum::<usize>());
            }
        }
        drop(held);
        prop_assert!(shares.used() == 0 && shares.lock().by.is_empty());
    }
}

#[test]
fn many_threads_lose_and_gain_nothing() {
    let (shares, most) = (Shares::new(64), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let (shares, most) = (&shares, &most);
            scope.spawn(move || {
                let mut held = Vec::new();
                for turn in 0..5_000_usize {
                    held.extend(shares.take(&tenant(NAMES[(thread + turn) % NAMES.len()]), turn * 7 % 13));
                    most.fetch_max(shares.used(), Ordering::Relaxed);
                    if turn % 3 == 0 {
                        held.clear();
                    }
                }
            });
        }
    });
    assert!(most.load(Ordering::Relaxed) <= 64);
    assert!(shares.used() == 0 && shares.lock().by.is_empty());
}
