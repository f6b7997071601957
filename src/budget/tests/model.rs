//! Any number of mounts of any tenants, with a clock that the test moves: how they wait for each other, and that none waits for ever.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Weak};

use proptest::prelude::*;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use super::*;
use crate::turns::Turn;

/// One mount.
#[derive(Clone, Debug)]
struct Mount {
    tenant: usize,
    comes: u64,
    /// What it fetches at once: the bytes of each, and how long the store takes.
    parts: Vec<(usize, u64)>,
    /// Whether its parts are separate tasks, which continue when the mount is dropped.
    in_tasks: bool,
    /// How long its client takes to read the answer.
    reads: u64,
    /// When its client leaves, if it does.
    goes: Option<u64>,
}

/// What the mounts share, and what is seen of them.
struct Scene {
    budget: Budget,
    places: Turns,
    store: Turns,
    threads: Turns,
    purses: Mutex<Vec<Weak<Purse>>>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    wholes_at_once: usize,
    /// The tenants in the order in which they got wholes.
    order: Vec<String>,
    short: usize,
    too_large: usize,
    /// The tenants that were served, and when.
    served: Vec<(String, Instant)>,
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Nothing in here should wait for this long.
fn never() -> Instant {
    Instant::now() + Duration::from_hours(24 * 365)
}

fn name(tenant: usize) -> Tenant {
    format!("t{tenant}").as_str().into()
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

impl Scene {
    fn new(budget: Budget, places: usize, calls: usize, threads: usize) -> Arc<Self> {
        let (places, store, threads) = (Turns::new(places), Turns::new(calls), Turns::new(threads));
        Arc::new(Self { budget, places, store, threads, purses: Mutex::default(), seen: Mutex::default() })
    }

    async fn mount(self: Arc<Self>, mount: Mount) {
        let purse = self.purse(self.place(mount.tenant).await);
        let mut answer = self.work(&mount, &purse).await;
        if matches!(answer, Err(Unpaid::Short)) {
            self.seen().short += 1;
            // What its separate tasks still hold.
            purse.emptied().await;
            self.whole(&purse).await;
            answer = self.work(&mount, &purse).await;
        }
        let answer = match answer {
            Ok(answer) => answer,
            Err(Unpaid::Short) => panic!("short with a whole"),
            Err(Unpaid::TooLarge { .. }) => return self.seen().too_large += 1,
        };
        purse.settle();
        self.check();
        sleep(ms(mount.reads)).await;
        self.seen().served.push((purse.tenant().to_string(), Instant::now()));
        drop((answer, purse));
    }

    fn purse(&self, place: Turn) -> Arc<Purse> {
        let purse = Purse::new(&self.budget, place);
        self.purses.lock().unwrap().push(Arc::downgrade(&purse));
        purse
    }

    async fn place(&self, tenant: usize) -> Turn {
        self.places.take(&name(tenant), never()).await.unwrap()
    }

    /// One mount of those that never stop. If there is nothing to draw, the next one tries.
    async fn take_and_hold(&self, greedy: &Greedy) {
        let purse = self.purse(self.place(greedy.tenant).await);
        if greedy.takes_wholes {
            self.whole(&purse).await;
            sleep(ms(greedy.holds)).await;
        } else {
            match purse.spend(greedy.bytes) {
                Ok(_spent) => sleep(ms(greedy.holds)).await,
                Err(_) => sleep(ms(10)).await,
            }
        }
    }

    async fn whole(&self, purse: &Purse) {
        assert_eq!(purse.spent(), 0, "nobody waits with something in hand");
        purse.whole(never()).await.unwrap();
        let at_once = self.purses().iter().filter(|purse| purse.has_whole()).count();
        let mut seen = self.seen();
        seen.wholes_at_once = seen.wholes_at_once.max(at_once);
        seen.order.push(purse.tenant().to_string());
    }

    /// All parts at once; the first without enough bytes ends the others (separate tasks are ended through the purse). Then the answer,
    /// which is paid while the parts exist.
    async fn work(self: &Arc<Self>, mount: &Mount, purse: &Arc<Purse>) -> Result<Spent, Unpaid> {
        let parts = mount.parts.iter().map(|&(bytes, takes)| {
            let part = Arc::clone(self).part(Arc::clone(purse), bytes, takes);
            let in_tasks = mount.in_tasks;
            async move { if in_tasks { tokio::spawn(part).await.unwrap() } else { part.await } }
        });
        let parts = futures_util::future::try_join_all(parts).await?;
        let answer = purse.spend(parts.iter().map(Spent::n).max().unwrap_or_default())?;
        self.check();
        Ok(answer)
    }

    /// One answer of the store: a turn there, bytes as they come, and then a thread's turn, never both turns.
    async fn part(self: Arc<Self>, purse: Arc<Purse>, bytes: usize, takes: u64) -> Result<Spent, Unpaid> {
        let work = async {
            let turn = self.store.take(purse.tenant(), never()).await.unwrap();
            sleep(ms(takes)).await;
            let mut spent = purse.spend(bytes / 2)?;
            sleep(ms(1)).await;
            spent.more(bytes - bytes / 2)?;
            self.check();
            drop(turn);
            let _thread = self.threads.take(purse.tenant(), never()).await.unwrap();
            sleep(ms(1)).await;
            Ok(spent)
        };
        tokio::select! {
            biased;
            () = purse.came_short() => Err(Unpaid::Short),
            done = work => done,
        }
    }

    /// The purses and the real use are equal, to the byte; except for wholes that were handed over and not taken yet.
    fn check(&self) {
        let (slots, whole) = (self.budget.moving().slots(), self.budget.moving().each());
        let held = |purse: &Arc<Purse>| if purse.has_whole() { whole } else { purse.spent().saturating_sub(FREE) };
        let held: usize = self.purses().iter().map(held).sum();
        assert!(held <= slots.used() && (slots.used() - held).is_multiple_of(whole) && slots.used() <= slots.capacity());
    }

    /// Those that are still there.
    fn purses(&self) -> Vec<Arc<Purse>> {
        let mut purses = self.purses.lock().unwrap();
        purses.retain(|purse| purse.strong_count() > 0);
        purses.iter().filter_map(Weak::upgrade).collect()
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    fn is_as_before(&self) {
        for turns in [&self.places, &self.store, &self.threads, self.budget.moving()] {
            assert_eq!((turns.slots().used(), turns.waiting()), (0, 0));
        }
        assert!(self.purses().is_empty());
    }

    /// Until all have ended.
    async fn play(self: &Arc<Self>, mounts: Vec<Mount>) -> Duration {
        let (began, mut all) = (Instant::now(), JoinSet::new());
        for mount in mounts {
            let scene = Arc::clone(self);
            all.spawn(async move {
                sleep_until(began + ms(mount.comes)).await;
                let goes = mount.goes.map_or_else(never, |goes| began + ms(goes));
                let _ = tokio::time::timeout_at(goes, scene.mount(mount)).await;
            });
        }
        all.join_all().await;
        began.elapsed()
    }
}

/// Of 1,000 KiB that move, four wholes are 240 KiB each.
fn small_budget() -> Budget {
    let memory = (1_000 + 32 * 8) * 1024 * 8 / 3;
    let budget = Budget::new(memory, 50 * 1024, 40 * 1024, 8).unwrap();
    assert_eq!((budget.moving().slots().capacity() / 1024, budget.moving().each() / 1024), (1_000, 240));
    budget
}

fn mount() -> impl Strategy<Value = Mount> {
    let bytes = prop_oneof![2 => 0..20_000_usize, 3 => 20_000..200_000_usize, 1 => 200_000..400_000_usize];
    let parts = prop::collection::vec((bytes, 0..2_000_u64), 1..5);
    let (comes, reads, goes) = (prop_oneof![Just(0), 0..5_000_u64], 0..500_u64, prop::option::weighted(0.2, 0..20_000_u64));
    (0..4_usize, comes, parts, any::<bool>(), reads, goes).prop_map(|(tenant, comes, parts, in_tasks, reads, goes)| Mount {
        tenant,
        comes,
        parts,
        in_tasks,
        reads,
        goes,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Only mounts give up whose clients leave, and all end: while any mount is left, one of them works. So together they need at most the
    /// time that they need one after another, each twice.
    #[test]
    fn whatever_comes_all_end_and_nothing_is_left_behind(mounts in prop::collection::vec(mount(), 1..40)) {
        paused().block_on(async {
            let scene = Scene::new(small_budget(), 8, 3, 1);
            let last = mounts.iter().map(|mount| mount.comes).max().unwrap_or_default();
            let work: u64 = mounts.iter().map(|mount| 2 * mount.parts.iter().map(|(_, takes)| takes + 5).sum::<u64>() + mount.reads).sum();
            let all = mounts.len() - mounts.iter().filter(|mount| mount.goes.is_some()).count();
            let took = scene.play(mounts).await;
            assert!(took <= ms(last + work), "{took:?} instead of {:?}", ms(last + work));
            // Parts in tasks of their own may outlive their mount.
            sleep(ms(3_000 * 40)).await;
            scene.is_as_before();
            let seen = scene.seen();
            assert!(seen.served.len() + seen.too_large >= all && seen.wholes_at_once <= 3, "{seen:?}");
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Tenants that never stop: when one of their mounts gives something back, the next one takes it. One more tenant waits for a whole.
    /// Its other mounts that draw wait too, and at first it holds something itself.
    #[test]
    fn nobody_is_starved_of_a_whole(
        others in prop::collection::vec(greedy(), 2..16),
        (tenant, own, comes) in (0..4_usize, 0..300_000_usize, 0..3_000_u64),
    ) {
        // In its line it would wait for those who are before it.
        let others = others.into_iter().filter(|other| !(other.takes_wholes && other.tenant == tenant));
        waits_no_longer_than_it_must(tenant, own, comes, others.collect());
    }
}

/// A mount that is followed by an equal one for ever.
#[derive(Clone, Debug)]
struct Greedy {
    tenant: usize,
    bytes: usize,
    holds: u64,
    takes_wholes: bool,
}

fn greedy() -> impl Strategy<Value = Greedy> {
    (0..4_usize, 40_000..400_000_usize, 50..1_000_u64, prop::bool::weighted(0.2)).prop_map(|(tenant, bytes, holds, takes_wholes)| Greedy {
        tenant,
        bytes,
        holds,
        takes_wholes,
    })
}

fn waits_no_longer_than_it_must(tenant: usize, own: usize, comes: u64, others: Vec<Greedy>) {
    paused().block_on(async {
        let scene = Scene::new(small_budget(), 256, 1, 1);
        let (stop, mut all) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        let longest = others.iter().map(|other| other.holds).max().unwrap_or_default();
        let tenants_before = others.iter().filter(|other| other.takes_wholes).map(|other| other.tenant).collect::<BTreeSet<_>>().len();
        for other in others {
            let (scene, stop) = (Arc::clone(&scene), Arc::clone(&stop));
            all.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    scene.take_and_hold(&other).await;
                }
            });
        }
        sleep(ms(comes)).await;
        let [holds, waits] = [scene.place(tenant).await, scene.place(tenant).await].map(|place| scene.purse(place));
        let held = holds.spend(own);
        let waiting = tokio::spawn({
            let scene = Arc::clone(&scene);
            async move {
                let began = Instant::now();
                scene.whole(&waits).await;
                began.elapsed()
            }
        });
        sleep(ms(longest)).await;
        drop(held);
        let most = ms(longest) * (2 + u32::try_from(tenants_before).unwrap());
        let took = tokio::time::timeout(ms(longest) * 100, waiting).await.expect("it waits for ever").unwrap();
        // What its tenant holds; then what the others have drawn; then a whole of each tenant before it.
        assert!(took <= most, "{took:?} instead of {most:?}");
        stop.store(true, Ordering::Relaxed);
        all.join_all().await;
        drop(holds);
        scene.is_as_before();
    });
}

/// Six mounts of two tenants hold two thirds of everything, at any time: less than two wholes are free.
#[test]
fn draws_that_never_stop_starve_nobody() {
    let draw = |n: u64| Greedy { tenant: usize::from(n.is_multiple_of(2)), bytes: 140_000, holds: 500 + 7 * n, takes_wholes: false };
    for tenant in [0, 2] {
        waits_no_longer_than_it_must(tenant, 0, 2_000, (0..6).map(draw).collect());
    }
}

/// A node starts: 250 Pods of one namespace, each with 3 MB, which needs four times 3 MB.
#[test]
fn two_hundred_and_fifty_mounts_of_one_tenant_are_served_one_after_another() {
    paused().block_on(async {
        let scene = Scene::new(budget(), PLACES, 64, 1);
        let mount = |_| Mount { tenant: 0, comes: 0, parts: vec![(3_000_000, 100); 3], in_tasks: true, reads: 20, goes: None };
        let took = scene.play((0..250).map(mount).collect()).await;
        let seen = scene.seen();
        assert_eq!((seen.served.len(), seen.too_large, seen.wholes_at_once), (250, 0, 2));
        // The first three found 12 MB without a whole; after them two run at once.
        assert!(seen.short >= 240 && took < Duration::from_secs(30), "{took:?} {seen:?}");
        drop(seen);
        scene.is_as_before();
    });
}

#[test]
fn two_tenants_alternate_and_a_newcomer_is_next() {
    paused().block_on(async {
        let scene = Scene::new(budget(), PLACES, 64, 1);
        let large = |tenant, comes| Mount { tenant, comes, parts: vec![(3_500_000, 100); 3], in_tasks: true, reads: 20, goes: None };
        let mut mounts: Vec<_> = (0..40).map(|n| large(n / 20, 0)).collect();
        mounts.push(large(2, 1_000));
        let began = Instant::now();
        scene.play(mounts).await;
        let seen = scene.seen();
        let of = |tenant: &str, until: usize| seen.order[..until].iter().filter(|one| *one == tenant).count();
        let until = seen.order.len();
        assert!((1..until).all(|until| of("t0", until).abs_diff(of("t1", until)) <= 2), "{:?}", seen.order);
        assert!(of("t0", until) >= 18 && of("t1", until) >= 18 && seen.served.len() == 41);
        // A later tenant is served at once, while 30 others wait: they have left enough.
        let (_, at) = seen.served.iter().find(|(tenant, _)| tenant == "t2").unwrap();
        assert!(*at - began < ms(1_200));
        drop(seen);
        scene.is_as_before();
    });
}

/// The same without the test's clock: real threads, and as many at once as possible.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_lose_and_gain_nothing() {
    let scene = Scene::new(small_budget(), 16, 5, 1);
    let mut all = JoinSet::new();
    for n in 0..200_usize {
        let scene = Arc::clone(&scene);
        all.spawn(async move {
            let place = scene.places.take(&name(n % 3), soon()).await.unwrap();
            let purse = Purse::new(&scene.budget, place);
            for round in 0..40_usize {
                let spends = [1_000, 30_000, 90_000, 110_000].map(|bytes| {
                    let purse = Arc::clone(&purse);
                    tokio::spawn(async move { purse.spend(bytes / (1 + (n + round) % 3)) })
                });
                let spent = futures_util::future::join_all(spends).await.into_iter().map(Result::unwrap);
                let short = spent.collect::<Result<Vec<_>, _>>().is_err();
                if short {
                    purse.emptied().await;
                    if n.is_multiple_of(5) {
                        // Some leave the line at any moment.
                        let patience = Duration::from_micros((n * round % 300) as u64);
                        let _ = timeout(patience, purse.whole(soon())).await;
                    }
                    purse.whole(soon()).await.unwrap();
                } else if round.is_multiple_of(4) {
                    purse.settle();
                }
            }
        });
    }
    timeout(Duration::from_mins(1), all.join_all()).await.expect("somebody waits for ever");
    scene.is_as_before();
}
