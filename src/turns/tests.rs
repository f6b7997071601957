use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use tokio::time::{Duration, sleep, timeout};

use super::*;

mod schedule;

fn tenant(name: &str) -> Tenant {
    name.into()
}

fn never() -> Instant {
    Instant::now() + Duration::from_hours(24)
}

/// A slot at once, or none.
fn at_once(turns: &Turns, name: &str) -> Option<Turn> {
    turns.take(&tenant(name), never()).now_or_never().flatten()
}

fn all(turns: &Turns, name: &str) -> Vec<Turn> {
    std::iter::from_fn(|| at_once(turns, name)).collect()
}

/// The turn of one that waits in the lines, if it was served.
fn served(waiting: Waiting) -> Option<Turn> {
    waiting.turn(never()).now_or_never().flatten()
}

fn is_empty(turns: &Turns) -> bool {
    let Lines { next: _, waiting, by, round, drawn } = &*turns.lock();
    waiting.is_empty() && by.is_empty() && round.is_empty() && drawn.is_empty() && turns.slots().used() == 0
}

#[tokio::test]
async fn one_tenant_has_half_and_each_newcomer_its_share() {
    let turns = Turns::new(32);
    let shares: Vec<_> = ["a", "b", "c", "d"].map(|name| all(&turns, name)).into();
    assert_eq!(shares.iter().map(Vec::len).collect::<Vec<_>>(), [16, 8, 4, 2]);
    assert_eq!(all(&turns, "e").len(), 1, "somebody new finds one");
    drop(shares);
    assert_eq!(all(&turns, "f").len(), 16, "all came back");
}

#[tokio::test]
async fn a_lone_slot_is_everybodys() {
    let turns = Turns::new(0);
    let first = at_once(&turns, "a");
    assert!(first.is_some() && at_once(&turns, "a").is_none() && at_once(&turns, "b").is_none());
    drop(first);
    assert!(at_once(&turns, "b").is_some());
}

#[tokio::test]
async fn one_that_has_none_finds_a_turn_when_eight_others_have_all() {
    let turns = Turns::with_firsts(64);
    let held: Vec<_> = ["a", "b", "c", "d", "e", "f", "g", "h"].iter().map(|name| all(&turns, name)).collect();
    assert!(held[0].len() >= 25 && held.iter().all(|turns| !turns.is_empty()), "{:?}", held.iter().map(Vec::len).collect::<Vec<_>>());
    let (one, mut other) = (at_once(&turns, "victim").unwrap(), turns.line_up(&tenant("victim")));
    assert!((&mut other.served).now_or_never().is_none(), "only the first");
    drop(one);
    assert!(served(other).is_some(), "one after the other");
    drop(held);
    assert!(is_empty(&turns));
}

#[tokio::test]
async fn lines_are_served_round_and_a_long_one_holds_nobody_up() {
    let turns = Turns::new(2);
    let held = at_once(&turns, "a").unwrap();
    let other = at_once(&turns, "b").unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut waiting = Vec::new();
    for name in ["evil", "evil", "evil", "evil", "shop", "bank"] {
        let (turns, order) = (turns.clone(), Arc::clone(&order));
        waiting.push(tokio::spawn(async move {
            let turn = turns.take(&tenant(name), never()).await;
            order.lock().unwrap().push(name);
            tokio::task::yield_now().await;
            drop(turn);
        }));
        tokio::task::yield_now().await;
    }
    drop(held);
    for task in waiting {
        task.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), ["evil", "shop", "bank", "evil", "evil", "evil"]);
    drop(other);
    assert!(is_empty(&turns));
}

#[tokio::test]
async fn who_leaves_the_line_takes_no_slot_along() {
    let turns = Turns::new(2);
    let held = at_once(&turns, "a").unwrap();
    for _ in 0..1_000 {
        assert!(at_once(&turns, "a").is_none());
    }
    assert_eq!(turns.waiting(), 0, "those who left are forgotten");
    let name = tenant("a");
    let mut waiting = Box::pin(turns.take(&name, never()));
    assert!((&mut waiting).now_or_never().is_none());
    drop(held);
    // It was handed over, and nobody took it.
    assert_eq!((turns.waiting(), turns.slots().used()), (0, 1));
    drop(waiting);
    assert!(is_empty(&turns));
}

#[tokio::test]
async fn a_turn_that_was_not_taken_goes_to_the_next() {
    let turns = Turns::new(1);
    let held = at_once(&turns, "a").unwrap();
    let (first, second, third) = (turns.line_up(&tenant("a")), turns.line_up(&tenant("b")), turns.line_up(&tenant("a")));
    drop(held);
    drop(first);
    assert_eq!(turns.waiting(), 1, "the next has it");
    drop(second);
    assert!(served(third).is_some());
    assert!(is_empty(&turns));
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_when_it_was_to_end() {
    let turns = Turns::new(1);
    let held = at_once(&turns, "a");
    let began = Instant::now();
    assert!(turns.take(&tenant("b"), began + Duration::from_secs(7)).await.is_none());
    assert_eq!((began.elapsed().as_secs(), turns.waiting()), (7, 0));
    // A turn that comes at the very end counts.
    let waiting = turns.line_up(&tenant("b"));
    sleep(Duration::from_secs(1)).await;
    drop(held);
    assert!(waiting.turn(began).await.is_some());
    assert!(turns.take(&tenant("b"), began).await.is_some(), "no waiting was needed");
    assert!(is_empty(&turns));
}

/// Some that came first cannot be served now: they keep their places, and those behind them do not wait.
#[tokio::test]
async fn who_cannot_be_served_keeps_its_place() {
    let turns = Turns::new(4);
    let (a, b) = (all(&turns, "a"), all(&turns, "b"));
    assert_eq!((a.len(), b.len()), (2, 1));
    let blocked = turns.line_up(&tenant("a"));
    let c = served(turns.line_up(&tenant("c"))).unwrap();
    let (behind, behind_too) = (turns.line_up(&tenant("c")), turns.line_up(&tenant("b")));
    // All four are held. What comes back is for none of those that hold something, until it is enough for the first of them.
    drop(c);
    assert_eq!(turns.waiting(), 2, "the one that holds nothing now");
    drop((a, b));
    let order = [served(blocked).is_some(), served(behind).is_some(), served(behind_too).is_some()];
    assert_eq!((order, turns.waiting()), ([true; 3], 0));
    assert!(is_empty(&turns));
}

#[tokio::test]
async fn a_ticket_is_in_several_lines_and_the_first_turn_counts() {
    let turns = Turns::new(2);
    // One of "a" and one of "b" hold everything; "a" has its own line.
    let (a, b) = (at_once(&turns, "a").unwrap(), at_once(&turns, "b").unwrap());
    let first = turns.line_up(&tenant("a"));
    let flight = turns.line_up(&tenant("a"));
    let ticket = flight.ticket();
    for name in ["a", "c", "c", "d"] {
        ticket.stand(&tenant(name));
    }
    assert_eq!((turns.waiting(), turns.lock().by.len()), (2, 3));
    drop(b);
    let turn = served(flight).unwrap();
    assert_eq!(turn.tenant().as_str(), "c", "the line of its leader has to wait");
    assert_eq!((turns.waiting(), turns.lock().by.len()), (1, 1), "its other places are void");
    ticket.stand(&tenant("e"));
    assert_eq!(turns.lock().by.len(), 1, "it has been served");
    drop((a, turn));
    assert_eq!(served(first).unwrap().tenant().as_str(), "a");
    assert!(is_empty(&turns));
}

#[tokio::test]
async fn a_ticket_that_nobody_waits_with_leaves_all_lines() {
    let turns = Turns::new(1);
    let held = at_once(&turns, "a").unwrap();
    let flight = turns.line_up(&tenant("a"));
    let ticket = flight.ticket();
    ticket.stand(&tenant("b"));
    drop(flight);
    ticket.stand(&tenant("c"));
    assert!(turns.waiting() == 0 && turns.lock().by.is_empty() && turns.lock().round.is_empty());
    drop(held);
    assert!(is_empty(&turns));
    // If its tenant finds a turn at once, a place in that line is enough.
    let held = all(&turns, "a");
    let flight = turns.line_up(&tenant("a"));
    drop(held);
    assert!(served(flight).is_some() && is_empty(&turns));
}

#[tokio::test]
async fn a_party_waits_in_the_lines_of_all_its_tenants() {
    let turns = Turns::new(2);
    let (a, b) = (at_once(&turns, "a").unwrap(), at_once(&turns, "b").unwrap());
    let party = Party::of(tenant("a"));
    party.join(&tenant("c"));
    {
        let mut waiting = Box::pin(turns.take_for(&party, never()));
        assert!((&mut waiting).now_or_never().is_none());
        for name in ["d", "a", "d"] {
            party.join(&tenant(name));
        }
        assert_eq!((turns.waiting(), turns.lock().by.len()), (1, 3), "who joins later has a line too");
        drop(b);
        assert_eq!(waiting.now_or_never().flatten().unwrap().tenant().as_str(), "c");
    }
    // The next turn of the same party; and then nobody waits with it.
    let mut waiting = Box::pin(turns.take_for(&party, never()));
    drop(a);
    assert_eq!((&mut waiting).now_or_never().flatten().unwrap().tenant().as_str(), "a");
    drop(waiting);
    party.join(&tenant("e"));
    assert!(is_empty(&turns));
}

#[tokio::test]
async fn nothing_is_drawn_while_one_that_holds_nothing_waits() {
    // Turns of 10 units out of 40.
    let turns = Turns::of_units(40, 10);
    let (shop, bank) = (tenant("shop"), tenant("bank"));
    let mut drawn = turns.draw(&shop, 19).unwrap();
    assert!(turns.draw(&shop, 2).is_none(), "it has its share");
    let few = turns.draw(&bank, 5).unwrap();
    // It would hold 15, and 6 would be free.
    let waiting = turns.line_up(&bank);
    assert!(turns.draw(&bank, 1).is_none(), "it waits for its first turn");
    // What it holds itself is in its way, not what others hold.
    let other = turns.draw(&tenant("other"), 3).unwrap();
    drop(few);
    assert_eq!(turns.waiting(), 1, "10, and 8 would be free");
    assert!(turns.draw(&tenant("third"), 1).is_none(), "now it goes first");
    drop(other);
    let turn = served(waiting).unwrap();
    assert!(turns.draw(&tenant("third"), 1).is_some());
    // With a turn it draws like everybody else, while its second waits.
    let second = turns.line_up(&bank);
    drawn.shrink(14);
    let more = turns.draw(&bank, 1);
    assert!(more.is_some() && turns.waiting() == 1);
    drop((more, drawn));
    assert!(served(second).is_some());
    drop(turn);
    assert!(is_empty(&turns));
}

#[tokio::test]
async fn what_is_kept_of_a_turn_is_no_turn() {
    let turns = Turns::of_units(40, 10);
    let shop = tenant("shop");
    let kept = at_once(&turns, "shop").unwrap().keep(4);
    assert_eq!((kept.n(), turns.slots().of("shop")), (4, 4));
    let mut more = turns.draw(&shop, 2).unwrap();
    more.join(kept);
    let waiting = all(&turns, "shop");
    assert_eq!((more.n(), waiting.len()), (6, 1));
    drop(waiting);
    let turn = at_once(&turns, "bank").unwrap();
    let others = [turns.draw(&tenant("other"), 7).unwrap(), turns.draw(&tenant("other"), 1).unwrap()];
    let waiting = turns.line_up(&shop);
    assert!(turns.draw(&shop, 1).is_none(), "it has no turn, only what it kept of one");
    more.shrink(9);
    more.shrink(1);
    assert_eq!((more.n(), turns.lock().drawn["shop"]), (1, 1));
    drop(turn.keep(usize::MAX));
    assert!(served(waiting).is_some());
    drop((more, others));
    assert!(is_empty(&turns));
}

#[tokio::test]
async fn who_waits_for_turns_to_come_back_is_told_from_who_waits_in_vain() {
    let turns = Turns::new(8);
    let shop = tenant("shop");
    let mut under_way = all(&turns, "shop");
    assert_eq!((under_way.len(), turns.may_come(&shop)), (4, true), "all four may come back");
    let kept: Vec<_> = under_way.drain(..3).map(|turn| turn.keep(1)).collect();
    assert!(turns.may_come(&shop) && at_once(&turns, "shop").is_none());
    let other = turns.count(&tenant("other"), 3);
    assert!(!turns.may_come(&shop), "three, and five would be free of eight less three");
    drop((kept, other, under_way));
    let former = turns.count(&shop, 20);
    assert!(!turns.may_come(&shop) && !turns.may_come(&tenant("new")));
    let waiting = turns.line_up(&tenant("new"));
    drop(former);
    assert!(served(waiting).is_some(), "what was counted comes back to those who wait");
    assert!(is_empty(&turns));
}

/// Ten thousand tenants come and leave, and nothing of them stays.
#[tokio::test]
async fn nobody_is_remembered() {
    let turns = Turns::new(1);
    let held = at_once(&turns, "a");
    let waiting: Vec<_> = (0..10_000).map(|n| turns.line_up(&tenant(&format!("t{n}")))).collect();
    assert_eq!(turns.waiting(), 10_000);
    drop(waiting);
    drop(held);
    assert!(is_empty(&turns));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_lose_no_turn() {
    let (turns, at_work) = (Turns::new(5), Arc::new(AtomicUsize::new(0)));
    let mut all = tokio::task::JoinSet::new();
    for n in 0..64_u64 {
        let (turns, at_work) = (turns.clone(), Arc::clone(&at_work));
        all.spawn(async move {
            let name = tenant(if n % 2 == 0 { "a" } else { "b" });
            for round in 0..200_u64 {
                let mut waiting = Box::pin(turns.take(&name, never()));
                // Some leave, at any moment.
                let patience = if (n + round) % 5 == 0 { Duration::from_micros(n * round % 300) } else { Duration::from_mins(1) };
                let Ok(turn) = timeout(patience, &mut waiting).await else { continue };
                let _turn = turn.expect("there is time");
                assert!(at_work.fetch_add(1, Ordering::SeqCst) < 5);
                if round % 3 == 0 {
                    tokio::task::yield_now().await;
                }
                at_work.fetch_sub(1, Ordering::SeqCst);
            }
        });
    }
    timeout(Duration::from_mins(1), all.join_all()).await.expect("somebody waits for ever");
    assert!(is_empty(&turns));
}
