//! Slots that tenants share: each tenant has a line of its own for those who wait, and the lines are served round.
//!
//! A tenant is the namespace that kubelet says. It may take a slot as long as it then holds no more than are left free: alone it gets
//! half, and a newcomer always finds one. Tenants whose share is in use wait for a slot of their own to come back.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The slots. Clones are the same ones.
#[derive(Clone)]
pub struct Turns(Arc<Shared>);

/// A slot that is held until this is dropped.
pub struct Turn {
    /// `None`: it was handed to somebody who had left.
    of: Option<Arc<Shared>>,
    tenant: Arc<str>,
}

struct Shared {
    slots: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    used: usize,
    /// How many each tenant holds; without those that hold none.
    held: HashMap<Arc<str>, usize>,
    /// Who waits, by tenant; without empty lines.
    lines: HashMap<Arc<str>, VecDeque<oneshot::Sender<Turn>>>,
    /// The tenants of the lines, the next to be served first.
    round: VecDeque<Arc<str>>,
}

// === impl Turns ===

impl Turns {
    pub fn new(slots: usize) -> Self {
        Self(Arc::new(Shared { slots: slots.max(1), state: Mutex::default() }))
    }

    /// Waits for a slot. Dropping the future leaves the line.
    pub async fn take(&self, tenant: &str) -> Turn {
        loop {
            match self.0.take_or_wait(tenant.into()) {
                Ok(turn) => return turn,
                // Lines go when the slots go, and we hold those: it is never an error.
                Err(waiting) => {
                    if let Ok(turn) = waiting.await {
                        return turn;
                    }
                }
            }
        }
    }
}

// === impl Shared ===

impl Shared {
    fn take_or_wait(self: &Arc<Self>, tenant: Arc<str>) -> Result<Turn, oneshot::Receiver<Turn>> {
        let mut state = self.lock();
        state.forget_who_left(&tenant);
        if !state.lines.contains_key(&tenant) && self.may_have(&state, &tenant) {
            state.hold(&tenant);
            return Ok(Turn { of: Some(Arc::clone(self)), tenant });
        }
        let (sender, waiting) = oneshot::channel();
        state.line_up(tenant, sender);
        Err(waiting)
    }

    fn may_have(&self, state: &State, tenant: &str) -> bool {
        let held = state.held.get(tenant).copied().unwrap_or(0);
        state.used < self.slots && (held == 0 || held < self.slots - (state.used + 1))
    }

    /// Hands out what is free, a slot a tenant and round.
    fn serve(self: &Arc<Self>, state: &mut State) {
        let mut passed = 0;
        while passed < state.round.len() {
            let Some(tenant) = state.round.pop_front() else { return };
            let served = self.may_have(state, &tenant) && self.serve_first(state, &tenant);
            passed = if served { 0 } else { passed + 1 };
            if state.lines.get(&tenant).is_some_and(|line| !line.is_empty()) {
                state.round.push_back(tenant);
            } else {
                state.lines.remove(&tenant);
                passed = passed.saturating_sub(1);
            }
        }
    }

    /// The first of a line who is still there. Whether there was one.
    fn serve_first(self: &Arc<Self>, state: &mut State, tenant: &Arc<str>) -> bool {
        while let Some(first) = state.lines.get_mut(tenant).and_then(VecDeque::pop_front) {
            match first.send(Turn { of: Some(Arc::clone(self)), tenant: Arc::clone(tenant) }) {
                Ok(()) => {
                    state.hold(tenant);
                    return true;
                }
                // Not given back, since it was never taken.
                Err(mut turn) => turn.of = None,
            }
        }
        false
    }

    /// A panic elsewhere cannot leave the state half-changed: nothing in here panics.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn hold(&mut self, tenant: &Arc<str>) {
        self.used += 1;
        *self.held.entry(Arc::clone(tenant)).or_default() += 1;
    }

    fn let_go(&mut self, tenant: &Arc<str>) {
        self.used = self.used.saturating_sub(1);
        if let Some(held) = self.held.get_mut(tenant) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                self.held.remove(tenant);
            }
        }
    }

    fn line_up(&mut self, tenant: Arc<str>, sender: oneshot::Sender<Turn>) {
        if !self.lines.contains_key(&tenant) {
            self.round.push_back(Arc::clone(&tenant));
        }
        self.lines.entry(tenant).or_default().push_back(sender);
    }

    /// While no slot comes back, nobody else does: a line is never longer than those who wait.
    fn forget_who_left(&mut self, tenant: &Arc<str>) {
        let Some(line) = self.lines.get_mut(tenant) else { return };
        line.retain(|waiting| !waiting.is_closed());
        if line.is_empty() {
            self.lines.remove(tenant);
            self.round.retain(|waiting| waiting != tenant);
        }
    }
}

// === impl Turn ===

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(shared) = self.of.take() else { return };
        let mut state = shared.lock();
        state.let_go(&self.tenant);
        shared.serve(&mut state);
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").field("slots", &self.0.slots).field("used", &self.0.lock().used).finish()
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// A slot at once, or none.
    fn at_once(turns: &Turns, tenant: &str) -> Option<Turn> {
        turns.take(tenant).now_or_never()
    }

    fn all(turns: &Turns, tenant: &str) -> Vec<Turn> {
        std::iter::from_fn(|| at_once(turns, tenant)).collect()
    }

    #[test]
    fn one_tenant_has_half_and_each_newcomer_its_share() {
        let turns = Turns::new(32);
        let shares: Vec<_> = ["a", "b", "c", "d"].map(|tenant| all(&turns, tenant)).into();
        assert_eq!(shares.iter().map(Vec::len).collect::<Vec<_>>(), [16, 8, 4, 2]);
        assert_eq!(all(&turns, "e").len(), 1, "somebody new finds one");
        drop(shares);
        assert_eq!(all(&turns, "f").len(), 16, "all came back");
    }

    #[test]
    fn a_lone_slot_is_everybodys() {
        let turns = Turns::new(1);
        let first = at_once(&turns, "a");
        assert!(first.is_some() && at_once(&turns, "a").is_none() && at_once(&turns, "b").is_none());
        drop(first);
        assert!(at_once(&turns, "b").is_some());
    }

    #[tokio::test]
    async fn lines_are_served_round_and_a_long_one_holds_nobody_up() {
        let turns = Turns::new(2);
        let held = at_once(&turns, "a").unwrap();
        let other = at_once(&turns, "b").unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for tenant in ["evil", "evil", "evil", "evil", "shop", "bank"] {
            let (turns, order) = (turns.clone(), Arc::clone(&order));
            waiting.push(tokio::spawn(async move {
                let turn = turns.take(tenant).await;
                order.lock().unwrap().push(tenant);
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
        assert_eq!(turns.0.lock().used, 0);
    }

    #[tokio::test]
    async fn who_leaves_the_line_takes_no_slot_along() {
        let turns = Turns::new(2);
        let held = at_once(&turns, "a").unwrap();
        for _ in 0..1_000 {
            assert!(at_once(&turns, "a").is_none());
        }
        assert!(turns.0.lock().lines["a"].len() <= 1, "those who left are forgotten");
        let mut waiting = Box::pin(turns.take("a"));
        assert!((&mut waiting).now_or_never().is_none());
        drop(held);
        // It was handed over, and nobody took it.
        drop(waiting);
        let state = turns.0.lock();
        assert_eq!((state.used, state.held.len(), state.lines.len(), state.round.len()), (0, 0, 0, 0));
    }
}
