//! Tenants come, leave, go into other lines, draw and give back, in any order: after each step the rules are fulfilled.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Clone, Copy, Debug)]
enum Step {
    LineUp(usize),
    Stand(usize, usize),
    Leave(usize),
    Draw(usize, usize),
    /// All units of a turn come back, except this many.
    Keep(usize, usize),
    Shrink(usize, usize),
    EndTurn(usize),
    EndDrawn(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (at, name, n) = (|| 0..40_usize, || 0..NAMES.len(), || 0..12_usize);
    prop_oneof![
        5 => name().prop_map(Step::LineUp),
        2 => (at(), name()).prop_map(|(waiting, name)| Step::Stand(waiting, name)),
        2 => at().prop_map(Step::Leave),
        3 => (name(), n()).prop_map(|(name, n)| Step::Draw(name, n)),
        1 => (at(), n()).prop_map(|(turn, n)| Step::Keep(turn, n)),
        1 => (at(), n()).prop_map(|(drawn, to)| Step::Shrink(drawn, to)),
        4 => at().prop_map(Step::EndTurn),
        2 => at().prop_map(Step::EndDrawn),
    ]
}

/// What everybody has.
struct Scene {
    turns: Turns,
    waiting: Vec<Waiting>,
    running: Vec<Turn>,
    drawn: Vec<Drawn>,
    /// For each tenant that waits and holds nothing: which tenants got a turn since then, and which waited when it began.
    since: BTreeMap<&'static str, (Vec<Tenant>, BTreeSet<Tenant>)>,
}

impl Scene {
    fn new(units: usize, each: usize) -> Self {
        let (waiting, running, drawn) = (Vec::new(), Vec::new(), Vec::new());
        Self { turns: Turns::of_units(units, each), waiting, running, drawn, since: BTreeMap::new() }
    }

    fn play(&mut self, step: Step) {
        fn at<T>(all: &[T], index: usize) -> Option<usize> {
            (!all.is_empty()).then(|| index % all.len())
        }
        match step {
            Step::LineUp(name) => self.waiting.push(self.turns.line_up(&tenant(NAMES[name]))),
            Step::Stand(index, name) => {
                if let Some(index) = at(&self.waiting, index) {
                    self.waiting[index].ticket().stand(&tenant(NAMES[name]));
                }
            }
            Step::Leave(index) => drop(at(&self.waiting, index).map(|index| self.waiting.remove(index))),
            Step::Draw(name, n) => {
                let name = tenant(NAMES[name]);
                let goes_before = self.goes_before(&name);
                let drawn = self.turns.draw(&name, n);
                assert!(drawn.is_none() || !goes_before);
                self.drawn.extend(drawn);
            }
            Step::Keep(index, n) => {
                if let Some(index) = at(&self.running, index) {
                    let kept = self.running.swap_remove(index).keep(n);
                    assert_eq!(kept.n(), n.min(self.turns.each()));
                    self.drawn.push(kept);
                }
            }
            Step::Shrink(index, to) => {
                if let Some(index) = at(&self.drawn, index) {
                    self.drawn[index].shrink(to);
                }
            }
            Step::EndTurn(index) => drop(at(&self.running, index).map(|index| self.running.swap_remove(index))),
            Step::EndDrawn(index) => drop(at(&self.drawn, index).map(|index| self.drawn.swap_remove(index))),
        }
    }

    /// Takes what was handed out.
    fn take(&mut self) {
        for waiting in std::mem::take(&mut self.waiting) {
            let mut waiting = waiting;
            match waiting.served.try_recv() {
                Ok(turn) => self.running.push(turn),
                Err(_) => self.waiting.push(waiting),
            }
        }
    }

    /// Decides by what everybody has, and not by the lines' own state.
    fn goes_before(&self, name: &Tenant) -> bool {
        let lines = self.turns.lock();
        let has_turn = self.running.iter().any(|turn| turn.tenant() == name);
        lines.by.contains_key(name) && !has_turn || lines.by.keys().any(|waiting| self.of(waiting) == 0)
    }

    fn of(&self, name: &Tenant) -> usize {
        let running = self.running.iter().filter(|turn| turn.tenant() == name).map(|turn| turn.held.n()).sum::<usize>();
        running + self.drawn.iter().filter(|drawn| drawn.held.tenant() == name).map(Drawn::n).sum::<usize>()
    }

    fn check(&self) {
        let (units, each) = (self.turns.slots().capacity(), self.turns.each());
        let lines = self.turns.lock();
        let used: usize = NAMES.map(|name| self.of(&tenant(name))).iter().sum();
        assert!(used == self.turns.slots().used() && used <= units);
        assert_eq!(lines.waiting.len(), self.waiting.len(), "nobody is in a line who has left");
        let places: usize = lines.waiting.values().map(|waiter| waiter.places.len()).sum();
        assert_eq!(places, lines.by.values().map(|line| line.tickets.len()).sum::<usize>());
        assert!(lines.by.values().all(|line| !line.tickets.is_empty()), "no line without anybody");
        let round: BTreeMap<_, _> = lines.by.iter().map(|(name, line)| (line.place, name.clone())).collect();
        assert_eq!(round, lines.round);
        for name in NAMES {
            let drawn: usize = self.drawn.iter().filter(|drawn| drawn.held.tenant().as_str() == name).map(Drawn::n).sum();
            assert_eq!(lines.drawn.get(name).copied(), Some(drawn).filter(|drawn| *drawn > 0));
        }
        // Nobody waits that may have a turn.
        for name in lines.by.keys() {
            let (held, free) = (self.of(name), units - used);
            let may = free >= each && (held + each <= free - each || (held == 0 && each == 1));
            assert!(!may, "{name} waits with {held} held, {free} free");
        }
    }

    /// While a tenant that holds nothing waits, a tenant that waited before it gets one turn at most, and a later one gets none.
    fn nobody_is_overtaken(&mut self, before: &BTreeSet<Tenant>, served: &[Tenant]) {
        let waiting: BTreeSet<Tenant> = self.turns.lock().by.keys().cloned().collect();
        for name in NAMES {
            let me = tenant(name);
            if !waiting.contains(&me) || self.of(&me) > 0 {
                self.since.remove(name);
                continue;
            }
            if let Some((served_since, waited)) = self.since.get_mut(name) {
                served_since.extend(served.iter().cloned());
                for other in served_since.iter() {
                    assert!(waited.contains(other), "{other} came later than {name}");
                    assert!(served_since.iter().filter(|one| *one == other).count() <= 1, "{other} was served twice before {name}");
                }
            } else {
                self.since.insert(name, (Vec::new(), before.union(&waiting).cloned().collect()));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_hold_after_each_step(
        (units, each) in prop_oneof![(1..9_usize, Just(1)), (20..60_usize, Just(10))],
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let mut scene = Scene::new(units, each);
        for step in steps {
            let before: BTreeSet<Tenant> = scene.turns.lock().by.keys().cloned().collect();
            let had: Vec<Tenant> = scene.running.iter().map(|turn| turn.tenant().clone()).collect();
            let ends = !matches!(step, Step::EndTurn(_) | Step::Keep(..));
            scene.play(step);
            let running = scene.running.len();
            scene.take();
            scene.check();
            let served: Vec<Tenant> = scene.running[running..].iter().map(|turn| turn.tenant().clone()).collect();
            assert!(!ends || had.len() + served.len() == scene.running.len());
            scene.nobody_is_overtaken(&before, &served);
        }
        // All leave and give back, in any order.
        scene.running.clear();
        scene.take();
        scene.waiting.clear();
        scene.drawn.clear();
        scene.running.clear();
        assert!(is_empty(&scene.turns));
    }
}
