//! Requests that come at about the same time go to a store as one call.
//!
//! A mount asks for all its secrets at once, and Pods of a ServiceAccount share a login. So a call is full, or complete, after a moment. No
//! request waits longer than [`MOMENT`]. A request that is alone after that goes out by itself: then its wait and its cost are its own.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::{Duration, sleep};

/// How long other requests may join the first one.
const MOMENT: Duration = Duration::from_millis(1);

/// The requests that are gathered now, by what can go together. `A` is the request, and `R` its result.
#[derive(Debug)]
pub(in crate::backend) struct Gatherer<K, A, R> {
    /// At most as many as there are fetches now.
    now: Mutex<HashMap<K, Gathering<A, R>>>,
    /// How many gatherings have begun.
    begun: AtomicU64,
}

#[derive(Debug)]
struct Gathering<A, R> {
    /// Which gathering it is: the moment of another gathering does not count for this one.
    number: u64,
    waiting: Vec<(A, oneshot::Sender<R>)>,
}

/// What a request does after it has joined.
enum Joined<A, R> {
    /// Nothing: another request sends it.
    Another,
    /// It is the first of this gathering, and sends it after a moment.
    First(u64),
    /// It was the last for which there was room, and sends it now.
    Full(Gathering<A, R>),
}

// === impl Gatherer ===

impl<K, A, R> Default for Gatherer<K, A, R> {
    fn default() -> Self {
        Self { now: Mutex::default(), begun: AtomicU64::new(0) }
    }
}

impl<K, A, R> Gatherer<K, A, R>
where
    K: Clone + Eq + Hash + Send + 'static,
    A: PartialEq + Send + 'static,
    R: Send + 'static,
{
    /// The result of a call together with others, `most` at a time. `call` gives the result of each, in their order. `None`: this one has
    /// to be asked for by itself.
    ///
    /// What `call` holds lives as long as requests can be gathered under its key. So an address can be a part of the key.
    pub(in crate::backend) async fn join<F>(
        self: &Arc<Self>,
        key: K,
        asked: A,
        most: usize,
        call: impl FnOnce(Vec<A>) -> F + Send + 'static,
    ) -> Option<R>
    where
        F: Future<Output = Vec<Option<R>>> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        // This runs in a task: the request that began it may be gone before the others have their answers.
        match self.put(&key, (asked, answer), most)? {
            Joined::Another => {}
            Joined::First(number) => {
                let gatherer = Arc::clone(self);
                tokio::spawn(async move {
                    sleep(MOMENT).await;
                    if let Some(gathering) = gatherer.take(&key, number) {
                        gathering.send(call).await;
                    }
                });
            }
            Joined::Full(gathering) => {
                tokio::spawn(gathering.send(call));
            }
        }
        answered.await.ok()
    }

    /// `None`: another request already asks for the same.
    fn put(&self, key: &K, waiting: (A, oneshot::Sender<R>), most: usize) -> Option<Joined<A, R>> {
        let mut now = self.lock();
        let Some(gathering) = now.get_mut(key) else {
            let number = self.begun.fetch_add(1, Ordering::Relaxed);
            now.insert(key.clone(), Gathering { number, waiting: vec![waiting] });
            return Some(Joined::First(number));
        };
        if gathering.waiting.iter().any(|(other, _)| *other == waiting.0) {
            return None;
        }
        gathering.waiting.push(waiting);
        let is_full = gathering.waiting.len() >= most;
        Some(if is_full { now.remove(key).map_or(Joined::Another, Joined::Full) } else { Joined::Another })
    }

    /// `None`: it was full, and has been sent.
    fn take(&self, key: &K, number: u64) -> Option<Gathering<A, R>> {
        let mut now = self.lock();
        if now.get(key)?.number == number { now.remove(key) } else { None }
    }

    /// A panic elsewhere cannot leave the map half-changed: each step is one call of a map's method.
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Gathering<A, R>>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Gathering ===

impl<A, R> Gathering<A, R> {
    /// Requests that are gone by now are left out.
    async fn send<F: Future<Output = Vec<Option<R>>>>(self, call: impl FnOnce(Vec<A>) -> F) {
        let (asked, answers): (Vec<_>, Vec<_>) = self.waiting.into_iter().filter(|(_, answer)| !answer.is_closed()).unzip();
        if asked.len() < 2 {
            return;
        }
        for (answer, found) in answers.into_iter().zip(call(asked).await) {
            if let Some(found) = found {
                // A request that is gone gets no answer.
                drop(answer.send(found));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    type Texts = Gatherer<&'static str, String, String>;

    async fn join(texts: &Arc<Texts>, key: &'static str, asked: &str, most: usize) -> Option<String> {
        let call = move |asked: Vec<String>| async move {
            let all = asked.join(" ");
            asked.iter().map(|one| (one != "unknown").then(|| format!("{one} of {all}"))).collect()
        };
        texts.join(key, asked.to_owned(), most, call).await
    }

    /// In the order of `asked`.
    async fn all(asked: &[(&'static str, &'static str)], most: usize) -> Vec<Option<String>> {
        let texts = Arc::default();
        let mut running = JoinSet::new();
        for (at, (key, asked)) in asked.iter().copied().enumerate() {
            let texts = Arc::clone(&texts);
            running.spawn(async move { (at, join(&texts, key, asked, most).await) });
        }
        let mut found = running.join_all().await;
        found.sort();
        assert!(texts.lock().is_empty(), "nothing is left of it");
        found.into_iter().map(|(_, found)| found).collect()
    }

    #[allow(clippy::unnecessary_wraps)] // it is compared with an option
    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[tokio::test]
    async fn what_comes_at_once_goes_together() {
        assert_eq!(all(&[("k", "a"), ("k", "b"), ("k", "unknown")], 5).await, [some("a of a b unknown"), some("b of a b unknown"), None]);
        assert_eq!(
            all(&[("k", "a"), ("k", "b"), ("k", "c"), ("k", "d")], 2).await,
            ["a of a b", "b of a b", "c of c d", "d of c d"].map(some)
        );
    }

    #[tokio::test]
    async fn one_alone_and_the_same_twice_ask_by_themselves() {
        assert_eq!(all(&[("k", "a"), ("l", "b"), ("l", "c")], 5).await, [None, some("b of b c"), some("c of b c")]);
        assert_eq!(all(&[("k", "a"), ("k", "a"), ("k", "b")], 5).await, [some("a of a b"), None, some("b of a b")]);
    }

    /// The request that began the call goes away, and then the one that filled it.
    #[tokio::test]
    async fn who_goes_away_takes_no_answer_of_others() {
        let texts: Arc<Texts> = Arc::default();
        for goes in [0, 2] {
            let mut running: Vec<_> = ["a", "b", "c"]
                .map(|asked| {
                    let texts = Arc::clone(&texts);
                    tokio::spawn(async move { join(&texts, "k", asked, 3).await })
                })
                .into();
            tokio::task::yield_now().await;
            running.remove(goes).abort();
            for found in running {
                assert!(found.await.unwrap().is_some());
            }
        }
    }

    /// The moment of one gathering does not send the next one early.
    #[tokio::test(start_paused = true)]
    async fn a_moment_is_its_own() {
        let texts: Arc<Texts> = Arc::default();
        let begin = |asked: &'static str| {
            let texts = Arc::clone(&texts);
            tokio::spawn(async move { join(&texts, "k", asked, 2).await })
        };
        let (a, b) = (begin("a"), begin("b"));
        tokio::task::yield_now().await;
        tokio::time::advance(MOMENT / 2).await;
        let c = begin("c");
        tokio::task::yield_now().await;
        tokio::time::advance(MOMENT * 2 / 3).await;
        tokio::task::yield_now().await;
        let d = begin("d");
        for (found, wanted) in [(a, "a of a b"), (b, "b of a b"), (c, "c of c d"), (d, "d of c d")] {
            assert_eq!(found.await.unwrap(), some(wanted));
        }
    }
}
