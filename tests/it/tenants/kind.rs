//! A kind of hostile tenant: what it calls for, made for a node and a namespace.

use super::flood::{Calls, Flood, in_turn};
use super::node::{Limits, Node, SMALL};
use super::trial::{Trial, Verdict};
use tokio::time::Duration;

/// Pods that a hostile tenant has.
pub const PODS: usize = 64;

#[derive(Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    /// Calls in flight.
    pub at_once: usize,
    /// The Codes that its calls may get, in addition to those of the defence. Any other means that the kind is not what it says.
    pub may: &'static [&'static str],
    /// The backend of the small secret of the victim and the honest.
    pub victims: &'static str,
    /// Sets what it needs, and makes the calls.
    pub calls: fn(&Node, &str) -> Calls,
}

impl Kind {
    /// With the limits and the time of `make test`.
    pub async fn try_out(self) {
        self.try_with(SMALL, Duration::from_secs(2), 1).await.assert();
    }

    /// With this many namespaces at once, which share the calls in flight.
    pub async fn try_with(self, limits: Limits, time: Duration, namespaces: usize) -> Verdict {
        let node = Node::new(limits);
        let of = |number: usize| (self.calls)(&node, &format!("hostile-{number}"));
        let calls = together((0..namespaces).map(of).collect());
        let flood = Flood::new(self.at_once, calls);
        let trial = Trial { time, ..Trial::new(node, self.victims) };
        trial.run(self.name, self.at_once, self.may, async move |socket, told| flood.run(socket, told).await).await
    }
}

/// Those of several in turn.
pub fn together(all: Vec<Calls>) -> Calls {
    std::sync::Arc::new(move |number| all[number % all.len()](number / all.len()))
}

/// Objects of a class, each made by its number.
pub fn objects(count: usize, object: impl Fn(usize) -> String) -> String {
    (0..count).map(object).collect()
}

/// Calls of all the Pods for one class.
pub fn of_all_pods(node: &Node, namespace: &str, backend: &str, objects: &str) -> Calls {
    in_turn(node.pods(namespace, PODS, backend, objects))
}
