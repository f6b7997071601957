use std::sync::Arc;

use futures_util::FutureExt;
use tokio::time::{Duration, Instant, timeout};

use super::*;

mod model;

/// The defaults of `limits`, with 1 MiB per secret: the raw body of a store is at most four times that, and 64 KiB.
const MOUNT_BYTES: usize = 7 * MIB / 2;
const BODY: usize = 4 * MIB + 64 * 1024;
const PLACES: usize = 512;

fn tenant(name: &str) -> Tenant {
    name.into()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_mins(1)
}

fn budget() -> Budget {
    Budget::new(MEMORY, MOUNT_BYTES, BODY, PLACES).unwrap()
}

/// The purse of a mount that has one of many places.
fn purse(budget: &Budget, name: &str) -> Arc<Purse> {
    Purse::new(budget, Turns::new(4).take(&tenant(name), soon()).now_or_never().flatten().unwrap())
}

fn used(budget: &Budget) -> usize {
    budget.moving().slots().used()
}

#[test]
fn the_parts_of_256_mib() {
    let budget = budget();
    assert_eq!(budget.moving().slots().capacity(), (96 - 16) * MIB);
    assert_eq!(budget.moving().each(), 4 * MOUNT_BYTES + BODY);
    assert_eq!(budget.calls().map(Shares::capacity), [16 * MIB, 16 * MIB]);
    assert_eq!(budget.kept().each().iter().map(|(_, bytes)| bytes).sum::<usize>(), 64 * MIB);
    // Nothing is given out twice, and a quarter not at all.
    for memory in [0, 1, 7, MIB + 3, 300 * MIB + 7, usize::MAX] {
        let Parts { kept, calls, moving } = Parts::of(memory);
        assert!(kept + calls + moving <= memory - memory / 4);
        assert!(moving >= memory / 8 * 3);
    }
}

#[test]
fn two_wholes_must_have_room() {
    let fault = |memory, mount_bytes, body, places| Budget::new(memory, mount_bytes, body, places).unwrap_err();
    insta::assert_snapshot!(fault(64 * MIB, MOUNT_BYTES, BODY, PLACES), @"limits.memory: 64MiB is not enough. Mounts can use 24MiB of it, and need 52.1MiB: 36.1MiB for two mounts of limits.mountBytes = 3.5MiB, and 16MiB for limits.mounts = 512 small ones (set limits.memory, or the container's memory limit, to at least 140MiB, or lower limits.mountBytes or limits.mounts)");
    assert!(fault(MEMORY, usize::MAX, 0, usize::MAX).starts_with("limits.memory: 256MiB is not enough"));
    assert!(Budget::new(64 * MIB, 512 * 1024, MIB + 64 * 1024, 128).is_ok());
    // The memory that the message asks for is enough, and hardly more than enough.
    for (mount_bytes, body, places) in [(MOUNT_BYTES, BODY, PLACES), (1, 0, 1), (MIB, MIB, 64), (200 * MIB, 1, 7)] {
        let enough: usize = (1..10_000).find(|memory| Budget::new(memory * MIB, mount_bytes, body, places).is_ok()).unwrap();
        let text = fault((enough - 1) * MIB, mount_bytes, body, places);
        assert!([enough, enough + 1].iter().any(|enough| text.contains(&format!("to at least {enough}MiB"))), "{enough}: {text}");
    }
}

/// Whatever one tenant takes, and in any order, another tenant finds a whole at once; except where the log warns.
#[tokio::test]
async fn one_tenant_leaves_the_others_a_whole() {
    let is_left = |budget: &Budget, draws_first: bool| {
        let (evil, moving) = (tenant("evil"), budget.moving());
        let mut drawn = Vec::new();
        let mut draw = |most: usize| {
            let mut n = most;
            while n > 0 {
                match moving.draw(&evil, n) {
                    Some(more) => drawn.push(more),
                    None => n /= 2,
                }
            }
        };
        draw(if draws_first { moving.each() / 3 } else { 0 });
        let _wholes: Vec<_> = std::iter::from_fn(|| moving.take(&evil, soon()).now_or_never().flatten()).collect();
        draw(moving.slots().capacity());
        moving.take(&tenant("shop"), soon()).now_or_never().flatten().is_some()
    };
    let with = |memory| Budget::new(memory * MIB, MOUNT_BYTES, BODY, PLACES).unwrap();
    for draws_first in [false, true] {
        assert!(is_left(&budget(), draws_first) && is_left(&with(236), draws_first) && is_left(&with(1_000), draws_first));
    }
    assert!(budget().doubt().is_none() && with(236).doubt().is_none());
    insta::assert_snapshot!(with(140).doubt().unwrap(), @"limits.memory: while the mounts of one namespace wait for a slow store, the largest mounts of all others may have to wait too (set limits.memory, or the container's memory limit, to at least 236MiB, or lower limits.mountBytes or limits.mounts)");
    assert!(!is_left(&with(140), false) && with(235).doubt().is_some());
}

#[test]
fn a_large_request_never_keeps_a_small_one_out() {
    let budget = budget();
    assert_eq!(budget.largest_request(), 4 * MIB);
    assert!(budget.read(4 * MIB).is_some() && budget.read(4 * MIB + 1).is_none());
    let large: Vec<_> = std::iter::from_fn(|| budget.read(MIB)).collect();
    assert_eq!(large.len(), 4, "each is there twice, and nobody knows whose they are: half of the half");
    let small: Vec<_> = std::iter::from_fn(|| budget.read(SMALL)).collect();
    assert_eq!(small.len(), 4 * MIB / SMALL);
    assert!(budget.read(usize::MAX).is_none() && budget.read(0).is_some());
    // When their tenant is known, the next can be read.
    let shop: Vec<_> = small.into_iter().map_while(|unread| unread.of(&tenant("shop"))).collect();
    assert!(shop.len() == 4 * MIB / SMALL && shop.iter().all(|held| held.tenant().as_str() == "shop"));
    assert!(budget.read(SMALL).unwrap().of(&tenant("shop")).is_none(), "it has its share, and hears so at once");
    let bank: Vec<_> = std::iter::from_fn(|| budget.read(SMALL)?.of(&tenant("bank"))).collect();
    assert_eq!(bank.len(), 2 * MIB / SMALL);
    drop((large, shop, bank));
    assert!(budget.calls().iter().all(|calls| calls.used() == 0));
}

#[tokio::test]
async fn the_first_32_kib_are_the_places() {
    let budget = budget();
    let purse = purse(&budget, "shop");
    let mut first = purse.spend(FREE - 5).unwrap();
    let rest = purse.spend(5).unwrap();
    assert_eq!((used(&budget), purse.spent()), (0, FREE));
    first.more(100).unwrap();
    assert_eq!((used(&budget), first.n()), (100, FREE + 95));
    drop(rest);
    assert_eq!(used(&budget), 95, "what is drawn comes back first");
    first.shrink(FREE + 90);
    first.shrink(usize::MAX);
    assert_eq!((used(&budget), first.n(), purse.spent()), (90, FREE + 90, FREE + 90));
    drop(first);
    assert_eq!((used(&budget), purse.spent()), (0, 0));
    assert_eq!(purse.spend(0).unwrap().n(), 0);
}

#[tokio::test]
async fn what_was_spent_holds_the_place() {
    let (budget, places) = (budget(), Turns::new(4));
    let purse = Purse::new(&budget, places.take(&tenant("shop"), soon()).await.unwrap());
    let answer = purse.spend(10).unwrap();
    drop(purse);
    assert_eq!(places.slots().of("shop"), 1);
    drop(answer);
    assert_eq!(places.slots().used(), 0);
}

#[tokio::test]
async fn a_lone_mount_gets_as_much_as_a_whole_and_no_more() {
    let budget = budget();
    let (purse, whole) = (purse(&budget, "shop"), budget.moving().each());
    let most = FREE + whole;
    let all = purse.spend(most).unwrap();
    assert_eq!(purse.spend(1).unwrap_err(), Unpaid::TooLarge { most });
    assert_eq!(purse.spend(usize::MAX).unwrap_err(), Unpaid::TooLarge { most });
    drop(all);
    assert!(purse.spend(most).is_ok(), "it has not come short");
    purse.whole(soon()).await.unwrap();
    let all = purse.spend(most).unwrap();
    assert_eq!((purse.spend(1).unwrap_err(), used(&budget)), (Unpaid::TooLarge { most }, whole));
    drop(all);
    drop(purse);
    assert_eq!(used(&budget), 0);
}

#[tokio::test]
async fn one_that_came_short_spends_nothing_until_it_has_a_whole() {
    let budget = budget();
    let crowd: Vec<_> = (0..3).map(|_| purse(&budget, "crowd")).collect();
    let held: Vec<_> = crowd.iter().map_while(|purse| purse.spend(FREE + 13 * MIB).ok()).collect();
    assert_eq!(held.len(), 3, "39 of 80 MiB");
    let own = purse(&budget, "crowd");
    let some = own.spend(FREE).unwrap();
    assert_eq!(own.spend(2 * MIB).unwrap_err(), Unpaid::Short);
    assert!(own.came_short().now_or_never().is_some());
    assert_eq!(own.spend(1).unwrap_err(), Unpaid::Short, "nor a byte of its free part");
    assert_eq!(own.whole(soon()).await, Err(NoWhole::Holding(FREE)));
    assert_eq!(budget.moving().waiting(), 0, "it does not wait with something in hand");
    let mut emptied = Box::pin(own.emptied());
    assert!((&mut emptied).now_or_never().is_none());
    drop(some);
    assert!(emptied.now_or_never().is_some());
    {
        let mut whole = Box::pin(own.whole(soon()));
        assert!((&mut whole).now_or_never().is_none());
        assert_eq!(own.spend(1).unwrap_err(), Unpaid::Short);
        // Its tenant waits for its first whole; others that hold nothing need not wait.
        assert_eq!(crowd[0].spend(1).unwrap_err(), Unpaid::Short);
        assert!(purse(&budget, "other").spend(FREE + MIB).is_ok());
    }
    assert_eq!(budget.moving().waiting(), 0, "who goes leaves the line");
    drop(held);
    own.whole(soon()).await.unwrap();
    let all = own.spend(FREE + budget.moving().each()).unwrap();
    drop((all, own, crowd));
    assert_eq!(used(&budget), 0);
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_whole_has_an_end() {
    let budget = budget();
    let purses: Vec<_> = ["a", "a", "b", "c"].iter().map(|name| purse(&budget, name)).collect();
    for purse in &purses[..3] {
        purse.whole(soon()).await.unwrap();
    }
    let mut waiting = Box::pin(purses[3].whole(soon()));
    assert!((&mut waiting).now_or_never().is_none());
    assert_eq!(purses[3].spend(1).unwrap_err(), Unpaid::Short, "nothing comes into the hand of one that waits");
    assert_eq!(waiting.await, Err(NoWhole::Late));
    drop(purses);
    assert_eq!((used(&budget), budget.moving().waiting()), (0, 0));
}

#[tokio::test]
async fn what_is_not_spent_of_a_whole_comes_back_at_the_end() {
    let budget = budget();
    let own = purse(&budget, "shop");
    own.whole(soon()).await.unwrap();
    own.whole(soon()).await.unwrap();
    let answer = own.spend(FREE + 3 * MIB).unwrap();
    assert_eq!(used(&budget), budget.moving().each());
    own.settle();
    assert_eq!((used(&budget), own.has_whole()), (3 * MIB, false));
    let more = own.spend(MIB).unwrap();
    assert_eq!(used(&budget), 4 * MIB, "as without a whole");
    drop((more, answer));
    assert_eq!(used(&budget), 0);
    // A small answer draws nothing.
    own.whole(soon()).await.unwrap();
    let answer = own.spend(FREE).unwrap();
    own.settle();
    own.settle();
    assert_eq!(used(&budget), 0);
    drop(answer);
}

/// Tasks that wait on their own get the report.
#[tokio::test]
async fn a_flight_hears_that_its_purse_came_short() {
    let budget = budget();
    let own = purse(&budget, "shop");
    let flight = tokio::spawn({
        let own = Arc::clone(&own);
        async move {
            let spent = own.spend(MIB).unwrap();
            own.came_short().await;
            drop(spent);
        }
    });
    tokio::task::yield_now().await;
    assert_eq!(own.spend(100 * MIB).unwrap_err(), Unpaid::TooLarge { most: FREE + budget.moving().each() });
    let others: Vec<_> = (0..3).map(|_| purse(&budget, "shop")).collect();
    let held: Vec<_> = others.iter().map_while(|purse| purse.spend(13 * MIB).ok()).collect();
    assert_eq!(own.spend(MIB).unwrap_err(), Unpaid::Short);
    timeout(Duration::from_secs(9), own.emptied()).await.unwrap();
    flight.await.unwrap();
    drop(held);
    assert_eq!(used(&budget), 0);
}
