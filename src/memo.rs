//! A bounded table of results. The entry with the oldest use is forgotten first.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// There are two generations. A look-up moves an entry to the young one; when that is full, it becomes the old one, and the former old one
/// is dropped. So a table of capacity `n` has at most `2n` entries, keeps the `n` entries used last, and every operation takes constant
/// time. The same is true for the weight, if there is a limit for it: each generation has at most that much.
pub struct Memo<K, V> {
    capacity: usize,
    max_weight: usize,
    weigh: fn(&V) -> usize,
    generations: Mutex<Generations<K, V>>,
}

struct Generations<K, V> {
    young: HashMap<K, V>,
    young_weight: usize,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash, V: Clone> Memo<K, V> {
    pub fn with_capacity(capacity: usize) -> Self {
        Self::with_bounds(capacity, usize::MAX, |_| 0)
    }

    /// Also limits the sum of weights. A value that alone weighs more than `max_weight` is not kept.
    pub fn with_bounds(capacity: usize, max_weight: usize, weigh: fn(&V) -> usize) -> Self {
        let generations = Generations { young: HashMap::new(), young_weight: 0, old: HashMap::new() };
        Self { capacity: capacity.max(1), max_weight, weigh, generations: Mutex::new(generations) }
    }

    pub fn find<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let mut generations = self.lock();
        if let Some(value) = generations.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = generations.old.remove_entry(key)?;
        self.insert_young(&mut generations, key, value.clone());
        Some(value)
    }

    /// Keeps the value, and returns how many others were forgotten to make room for it.
    pub fn insert(&self, key: K, value: V) -> usize {
        let mut generations = self.lock();
        generations.old.remove(&key);
        self.insert_young(&mut generations, key, value)
    }

    /// Whether there was an entry to forget.
    pub fn remove<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let mut generations = self.lock();
        let young = self.remove_young(&mut generations, key);
        generations.old.remove(key).is_some() || young
    }

    /// Forgets the entries that `keep` refuses, and returns how many stay.
    pub fn retain(&self, mut keep: impl FnMut(&V) -> bool) -> usize {
        let mut generations = self.lock();
        generations.old.retain(|_, value| keep(value));
        generations.young.retain(|_, value| keep(value));
        generations.young_weight = generations.young.values().map(self.weigh).sum();
        generations.young.len() + generations.old.len()
    }

    pub fn clear(&self) {
        let mut generations = self.lock();
        generations.young.clear();
        generations.young_weight = 0;
        generations.old.clear();
    }

    fn insert_young(&self, generations: &mut Generations<K, V>, key: K, value: V) -> usize {
        self.remove_young(generations, &key);
        let weight = (self.weigh)(&value);
        if weight > self.max_weight {
            return 0;
        }
        let mut forgotten = 0;
        if generations.young.len() >= self.capacity || generations.young_weight > self.max_weight - weight {
            forgotten = generations.old.len();
            generations.old = std::mem::take(&mut generations.young);
            generations.young_weight = 0;
        }
        generations.young_weight += weight;
        generations.young.insert(key, value);
        forgotten
    }

    fn remove_young<Q>(&self, generations: &mut Generations<K, V>, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let removed = generations.young.remove(key);
        generations.young_weight -= removed.as_ref().map_or(0, self.weigh);
        removed.is_some()
    }

    /// A panic elsewhere cannot leave the tables half-changed: each step above is one call of a map. (At worst the young table's weight is
    /// too high, and it becomes the old one early.)
    fn lock(&self) -> MutexGuard<'_, Generations<K, V>> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keys and values may be secret: neither is shown.
impl<K, V> fmt::Debug for Memo<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memo").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_keeps_what_was_used_last() {
        let memo = Memo::with_capacity(10);
        memo.insert("kept".to_owned(), 0);
        for n in 0..1_000 {
            memo.insert(format!("{n}"), n);
            assert_eq!(memo.find("kept"), Some(0));
        }
        let held = (0..1_000).filter(|n| memo.find(&format!("{n}")).is_some()).count();
        assert!((9..=20).contains(&held), "{held}");
    }

    #[test]
    fn weight_is_bounded_too() {
        let memo = Memo::with_bounds(1_000, 100, Vec::len);
        for n in 0..1_000_u32 {
            memo.insert(n % 50, vec![0_u8; 10]);
        }
        let held: usize = (0..50).filter_map(|n| memo.find(&n)).map(|value| value.len()).sum();
        assert!((90..=200).contains(&held), "{held}");
        assert_eq!(memo.insert(7, vec![0; 101]), 0);
        assert_eq!(memo.find(&7), None, "neither the heavy value nor the one it replaced");
        let memo = Memo::with_capacity(2);
        assert_eq!((0..7).map(|n| memo.insert(n, n)).collect::<Vec<_>>(), [0, 0, 0, 0, 2, 0, 2]);
    }

    #[test]
    fn what_is_not_to_be_kept_goes_from_both_generations() {
        let memo = Memo::with_bounds(10, 60, Vec::len);
        for n in 0..8_u8 {
            memo.insert(n, vec![n; 10]);
        }
        assert_eq!(memo.retain(|value| value[0] % 2 == 0), 4, "of six young ones and two old ones");
        assert_eq!((0..8_u8).filter(|n| memo.find(n).is_some()).collect::<Vec<_>>(), [0, 2, 4, 6]);
        assert_eq!(memo.lock().young_weight, 40);
        assert_eq!(memo.retain(|_| false), 0);
        assert_eq!(memo.lock().young_weight, 0);
    }

    #[test]
    fn a_newer_answer_replaces_an_older_one() {
        let memo = Memo::with_capacity(1);
        memo.insert(1, "old");
        memo.insert(2, "other");
        memo.insert(1, "new");
        assert_eq!(memo.find(&1), Some("new"));
        assert!(memo.remove(&1) && !memo.remove(&1));
        assert_eq!(memo.find(&1), None);
        memo.clear();
        assert_eq!(memo.find(&2), None);
    }
}
