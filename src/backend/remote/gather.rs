//! Requests of about the same time that go to a store as one call.
//!
//! A mount asks for all its secrets at once, and Pods of a ServiceAccount share a login: so a call is full, or complete, after a moment.
//! Nobody waits for more than [`MOMENT`]. A request that is alone by then is asked by itself: it may be told to wait, and has a purse of its
//! own.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::{Duration, sleep};

/// How long others may join the first one.
const MOMENT: Duration = Duration::from_millis(1);

/// What is gathered now, by what can go together: `A` is asked, and `R` becomes of it.
#[derive(Debug)]
pub(in crate::backend) struct Gatherer<K, A, R> {
    /// As many as there are fetches under way at most.
    now: Mutex<HashMap<K, Gathering<A, R>>>,
    /// How many were begun.
    begun: AtomicU64,
}

#[derive(Debug)]
struct Gathering<A, R> {
    /// Which one it is: a moment that began with another is none of its.
    number: u64,
    waiting: Vec<(A, oneshot::Sender<R>)>,
}

/// What to do after joining.
enum Joined<A, R> {
    /// Nothing: somebody else sends it.
    Another,
    /// It is the first of this one: it is sent after a moment.
    First(u64),
    /// It was the last that found room.
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
    /// What became of it by a call with others, of `most` together. `call` says what became of each, in their order. `None`: it has to be
    /// asked for by itself.
    ///
    /// What `call` holds lives as long as anything can be gathered under its key: so an address can be a part of the key.
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
        // Tasks: who began it may be gone before the others have their answers.
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

    /// `None`: the same is asked for already.
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

    /// `None`: it was full, and is sent.
    fn take(&self, key: &K, number: u64) -> Option<Gathering<A, R>> {
        let mut now = self.lock();
        if now.get(key)?.number == number { now.remove(key) } else { None }
    }

    /// A panic elsewhere cannot leave the map half-changed: each step is one call of it.
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Gathering<A, R>>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Gathering ===

impl<A, R> Gathering<A, R> {
    /// Those who have gone meanwhile are not asked for.
    async fn send<F: Future<Output = Vec<Option<R>>>>(self, call: impl FnOnce(Vec<A>) -> F) {
        let (asked, answers): (Vec<_>, Vec<_>) = self.waiting.into_iter().filter(|(_, answer)| !answer.is_closed()).unzip();
        if asked.len() < 2 {
            return;
        }
        for (answer, found) in answers.into_iter().zip(call(asked).await) {
            if let Some(found) = found {
                // Who has gone now is not told.
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

    /// The one who began it, and the one who filled it.
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

    /// A moment that began with another does not send the next one early.
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
