use tokio::time::Duration;

use super::*;

fn lane(tenant: &str) -> Lane {
    at(tenant, None)
}

fn at(tenant: &str, address: Option<&str>) -> Lane {
    let store = StoreName { backend: "bao".parse().unwrap(), origin: Origin::new("https://bao") };
    Lane { store, server: Server::Leases(address.map(Arc::from)), tenant: tenant.into() }
}

fn after(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

/// Calls that are due and have this end.
fn due(calls: &mut Calls<u32>, lane: &Lane, tasks: std::ops::Range<u32>, ends: Instant) {
    for task in tasks {
        calls.join(lane);
        calls.put(lane, ends, task);
    }
}

fn all(calls: &mut Calls<u32>) -> Vec<(u32, Slot)> {
    std::iter::from_fn(|| calls.next()).collect()
}

fn tasks(calls: &[(u32, Slot)]) -> Vec<u32> {
    calls.iter().map(|(task, _)| *task).collect()
}

#[tokio::test(start_paused = true)]
async fn tenants_are_served_round_and_what_ends_first_is_first() {
    let mut calls = Calls::new();
    due(&mut calls, &lane("evil"), 0..1000, after(1));
    let mut under_way = all(&mut calls);
    assert_eq!(tasks(&under_way), [0, 1, 2, 3], "half of the eight");
    due(&mut calls, &lane("shop"), 2000..2003, after(9));
    due(&mut calls, &lane("shop"), 2003..2004, after(5));
    under_way.extend(all(&mut calls));
    assert_eq!(tasks(&under_way)[4..], [2003, 2000], "and half of the rest: what ends first is first");
    due(&mut calls, &lane("bank"), 3000..3009, after(9));
    due(&mut calls, &lane("mill"), 4000..4001, after(9));
    assert!(calls.next().is_none(), "nobody knows yet whether the store answers");
    for (_, slot) in std::mem::take(&mut under_way) {
        calls.over(slot, true);
    }
    for tenant in ["bank", "mill"] {
        calls.change(&lane(tenant), |queue| queue.work(&lane(tenant)).word = Word::Answered);
    }
    under_way.extend(all(&mut calls));
    let of = |who: u32| under_way.iter().filter(|(task, _)| task / 1000 == who).count();
    assert_eq!([0, 2, 3, 4].map(of), [2, 2, 1, 1], "each in its turn, and two are left for tenants that have less");
    due(&mut calls, &lane("farm"), 5000..5002, after(9));
    under_way.extend(all(&mut calls));
    assert_eq!(tasks(&under_way)[6..], [5000]);
    // From here on, each call that ends makes room for the next tenant of the round: one call each, however many calls evil has.
    let mut order = Vec::new();
    for _ in 0..10 {
        calls.over(under_way.remove(0).1, true);
        for (task, slot) in all(&mut calls) {
            order.push(task / 1000);
            under_way.push((task, slot));
        }
    }
    for round in order.windows(4) {
        assert!(round.iter().filter(|who| **who == 0).count() <= 2, "{order:?}");
    }
    assert!([0, 3, 5].iter().all(|who| order.contains(who)), "{order:?}");
}

#[tokio::test(start_paused = true)]
async fn calls_that_hang_leave_two_for_those_who_are_answered() {
    let mut calls = Calls::new();
    for n in 0..8 {
        due(&mut calls, &lane(&format!("evil-{n}")), n * 100..n * 100 + 50, after(1));
    }
    due(&mut calls, &lane("shop"), 900..902, after(60));
    let hung = all(&mut calls);
    assert_eq!(hung.len(), 6, "nobody has been answered yet");
    for (_, slot) in hung.into_iter().filter(|(task, _)| task % 100 == 0) {
        calls.over(slot, false);
    }
    let mut now = all(&mut calls);
    for task in [900, 901] {
        let shop = now.iter().position(|(other, _)| *other == task).unwrap();
        calls.over(now.swap_remove(shop).1, true);
        now.extend(all(&mut calls));
        assert!(now.len() <= 7);
    }
    // All calls that hang now hang for ever.
    for n in 0..20 {
        due(&mut calls, &lane("shop"), 1000 + n..1001 + n, after(60));
        let more = all(&mut calls);
        assert_eq!(tasks(&more), [1000 + n]);
        for (_, slot) in more {
            calls.over(slot, true);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_lane_is_asked_with_one_call_and_silent_lanes_of_a_server_with_one() {
    let mut calls = Calls::new();
    for (n, tenant) in (0..).step_by(100).zip(["shop", "bank"]) {
        due(&mut calls, &lane(tenant), n..n + 50, after(60));
    }
    let under_way = all(&mut calls);
    assert_eq!(under_way.len(), 5);
    for (_, slot) in under_way {
        calls.over(slot, false);
    }
    let probe = all(&mut calls);
    assert_eq!(probe.len(), 1, "of both namespaces together");
    // Another server goes on, and so does a namespace that is not silent.
    due(&mut calls, &at("shop", Some("https://other")), 200..201, after(60));
    due(&mut calls, &lane("mill"), 300..301, after(60));
    let others = all(&mut calls);
    assert_eq!(tasks(&others), [200, 300]);
    for (_, slot) in others {
        calls.over(slot, true);
    }
    assert!(all(&mut calls).is_empty());
    let (first, slot) = probe.into_iter().next().unwrap();
    calls.over(slot, false);
    let probe = all(&mut calls);
    assert!(probe.len() == 1 && probe[0].0 / 100 != first / 100, "each lane in its turn");
    let (second, slot) = probe.into_iter().next().unwrap();
    calls.over(slot, true);
    let under_way = all(&mut calls);
    let now = tasks(&under_way);
    let of = |task: u32| now.iter().filter(|other| **other / 100 == task / 100).count();
    assert!(of(first) == 1 && of(second) >= 3, "that one is at work again, and the other is asked: {now:?}");
}

/// Random steps: there are never more calls than allowed, nothing is lost, nothing comes twice, and nothing is left.
#[tokio::test(start_paused = true)]
async fn the_rules_hold_after_each_step() {
    let mut state = 11_u64;
    let mut roll = move |of: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % of
    };
    for _ in 0..200 {
        let mut calls = Calls::new();
        let (mut waiting, mut under_way) = (HashMap::new(), Vec::<(u32, Slot)>::new());
        let mut silent = BTreeSet::new();
        let name = |lane: &Lane| (lane.tenant.clone(), lane.server.clone());
        for task in 0..150 {
            match roll(6) {
                0..=2 => {
                    let tenant = format!("t{}", roll(4));
                    let address = format!("https://{}", roll(2));
                    let (lane, ends) = (at(&tenant, Some(&address)), after(roll(100)));
                    calls.join(&lane);
                    calls.put(&lane, ends, task);
                    waiting.insert(task, (lane, ends));
                }
                3 if !under_way.is_empty() => {
                    let (_, slot) = under_way.swap_remove(usize::try_from(roll(under_way.len() as u64)).unwrap());
                    let (lane, answered) = (Arc::clone(&slot.lane), roll(2) == 0);
                    if answered {
                        silent.remove(&name(&lane))
                    } else {
                        silent.insert(name(&lane))
                    };
                    calls.over(slot, answered);
                    calls.leave(&lane);
                }
                4 => {
                    if let Some(task) = waiting.keys().copied().min() {
                        let (lane, ends) = waiting.remove(&task).unwrap();
                        calls.withdraw(&lane, ends, task);
                        calls.leave(&lane);
                    }
                }
                _ => {
                    for (task, slot) in all(&mut calls) {
                        assert!(waiting.remove(&task).is_some(), "{task} was not due, or twice");
                        under_way.push((task, slot));
                    }
                }
            }
            assert!(under_way.len() <= AT_ONCE);
            assert!(under_way.iter().filter(|(_, slot)| slot.was != Word::Answered).count() <= DOUBTFUL);
            for server in ["https://0", "https://1"].map(|address| at("", Some(address)).server) {
                let probes = under_way.iter().filter(|(_, slot)| slot.was == Word::Silent && slot.lane.server == server).count();
                assert!(probes <= 1);
            }
        }
        // Each waiting call is made in the end, if the calls under way end.
        for _ in 0..1000 {
            under_way.extend(all(&mut calls));
            let Some((task, slot)) = under_way.pop() else { break };
            waiting.remove(&task);
            let lane = Arc::clone(&slot.lane);
            calls.over(slot, true);
            calls.leave(&lane);
        }
        assert!(waiting.is_empty() && under_way.is_empty() && calls.is_empty());
    }
}
