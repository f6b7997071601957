//! A bounded table that tenants share: when it is full, the tenant with most entries loses the one that it has not used for the longest
//! time.
//!
//! A tenant is the namespace that kubelet names. However much one tenant puts in, another tenant that has no more than it loses nothing.

use std::borrow::Borrow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::gathered::Gathering;

/// Limited by number ([`Shelf::new`]) or by weight ([`Shelf::of_bytes`]). Not synchronised: its owner has a lock around it.
pub struct Shelf<K, V, S = Gathering> {
    /// The largest weight of all entries together. If entries are counted, each weighs 1.
    capacity: usize,
    weight: usize,
    entries: HashMap<K, Entry<V>, S>,
    /// What each tenant has, without tenants that have nothing.
    held: HashMap<Arc<str>, Part<K>>,
    /// Counts the uses: the order of the last uses of the entries.
    uses: u64,
}

/// A [`Shelf`] by weight with its own lock; its values are given out as clones.
pub struct Kept<K, V, S = Gathering>(Mutex<Shelf<K, V, S>>);

struct Entry<V> {
    tenant: Arc<str>,
    used: u64,
    weight: usize,
    value: V,
}

/// One tenant's.
struct Part<K> {
    weight: usize,
    by_use: BTreeMap<u64, K>,
}

// === impl Shelf ===

impl<K, V> Shelf<K, V> {
    /// For at most this many entries; at least 1.
    pub fn new(capacity: usize) -> Self {
        Self::with_capacity(capacity)
    }

    /// For entries of this many bytes together, with the weights given to [`Shelf::put`].
    pub fn of_bytes(bytes: usize) -> Self {
        Self::with_capacity(bytes)
    }
}

impl<K, V, S: Default> Shelf<K, V, S> {
    /// As [`Shelf::new`] or [`Shelf::of_bytes`], for keys with another kind of hash.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), weight: 0, entries: HashMap::default(), held: HashMap::new(), uses: 0 }
    }
}

impl<K: Clone + Eq + Hash, V, S: BuildHasher> Shelf<K, V, S> {
    /// The value. From now on it is the last used one.
    pub fn find<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.find_mut(key).map(|value| &*value)
    }

    /// As [`Shelf::find`]; the value may be changed, its weight stays.
    pub fn find_mut<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.uses += 1;
        let hardly_aged = self.entries.len() as u64 / 2;
        let entry = self.entries.get_mut(key)?;
        // An entry that is used all the time does not move at each use: in the newer half it is removed late enough, and a shelf that is
        // half empty removes nothing soon.
        if self.weight <= self.capacity / 2 || self.uses - entry.used <= hardly_aged {
            return Some(&mut entry.value);
        }
        if let Some(part) = self.held.get_mut(&entry.tenant)
            && let Some(key) = part.by_use.remove(&entry.used)
        {
            part.by_use.insert(self.uses, key);
        }
        entry.used = self.uses;
        Some(&mut entry.value)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.values().map(|entry| &entry.value)
    }

    /// As [`Shelf::values`]; the values may be changed, their weights stay.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.values_mut().map(|entry| &mut entry.value)
    }

    /// The weight of all entries together.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// The weight of a tenant's entries together.
    pub fn weight_of(&self, tenant: &str) -> usize {
        self.held.get(tenant).map_or(0, |part| part.weight)
    }

    /// Puts a value in, in place of a former one with this key. Returns what was removed for it; never an entry that `stays`, so the shelf
    /// may hold more than its limit while that is so.
    pub fn insert(&mut self, tenant: &str, key: K, value: V, stays: impl Fn(&V) -> bool) -> Option<V> {
        self.remove(&key);
        let gone = if self.weight >= self.capacity { self.to_go(self.weight_of(tenant) + 1, tenant, stays, false) } else { None };
        let gone = gone.and_then(|gone| self.remove(&gone));
        self.add(tenant, key, value, 1);
        gone
    }

    /// As [`Shelf::insert`], with a weight. There may be no room for it, because all other entries are of tenants that have less: then it
    /// is itself among the removed ones.
    pub fn put(&mut self, tenant: &str, key: K, value: V, weight: usize, stays: impl Fn(&V) -> bool) -> Vec<V> {
        self.remove(&key);
        let mut gone = Vec::new();
        while self.weight.saturating_add(weight) > self.capacity {
            let wanted = self.weight_of(tenant).saturating_add(weight);
            if let Some(key) = self.to_go(wanted, tenant, &stays, true).filter(|_| weight <= self.capacity) {
                gone.extend(self.remove(&key));
            } else if weight > self.capacity || self.to_go(wanted, tenant, |_| false, true).is_none() {
                gone.push(value);
                return gone;
            } else {
                break;
            }
        }
        self.add(tenant, key, value, weight);
        gone
    }

    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let Entry { tenant, used, weight, value } = self.entries.remove(key)?;
        self.let_go(&tenant, used, weight);
        Some(value)
    }

    /// Changes the largest weight of all entries together, and returns what was removed for that.
    pub fn resize(&mut self, capacity: usize) -> Vec<V> {
        self.capacity = capacity.max(1);
        let mut gone = Vec::new();
        while self.weight > self.capacity {
            let Some(key) = self.to_go(0, "", |_| false, false) else { break };
            gone.extend(self.remove(&key));
        }
        gone
    }

    /// Removes what `keep` refuses.
    pub fn retain(&mut self, mut keep: impl FnMut(&V) -> bool) {
        let mut gone = Vec::new();
        self.entries.retain(|_, entry| {
            let kept = keep(&entry.value);
            if !kept {
                gone.push((Arc::clone(&entry.tenant), entry.used, entry.weight));
            }
            kept
        });
        for (tenant, used, weight) in gone {
            self.let_go(&tenant, used, weight);
        }
    }

    /// Among the entries that may go: the one that was not used for the longest time, of the tenants that have most. `wanted` is what
    /// `tenant` will have; `only_more`: no other tenant that has less than that loses anything.
    fn to_go(&self, wanted: usize, tenant: &str, stays: impl Fn(&V) -> bool, only_more: bool) -> Option<K> {
        let mut most: Option<((usize, Reverse<u64>), &K)> = None;
        for (name, part) in &self.held {
            let has = if **name == *tenant { wanted } else { part.weight };
            if only_more && has < wanted || most.is_some_and(|((most, _), _)| has < most) {
                continue;
            }
            let may_go = |key: &K| self.entries.get(key).is_some_and(|entry| !stays(&entry.value));
            let oldest = part.by_use.iter().find(|(_, key)| may_go(key)).map(|(used, key)| ((has, Reverse(*used)), key));
            if oldest.is_some_and(|(rank, _)| most.is_none_or(|(most, _)| rank > most)) {
                most = oldest;
            }
        }
        most.map(|(_, key)| key.clone())
    }

    fn add(&mut self, tenant: &str, key: K, value: V, weight: usize) {
        self.uses += 1;
        let tenant: Arc<str> = self.held.get_key_value(tenant).map_or_else(|| tenant.into(), |(known, _)| Arc::clone(known));
        let part = self.held.entry(Arc::clone(&tenant)).or_insert_with(|| Part { weight: 0, by_use: BTreeMap::new() });
        part.weight += weight;
        part.by_use.insert(self.uses, key.clone());
        self.weight += weight;
        self.entries.insert(key, Entry { tenant, used: self.uses, weight, value });
    }

    fn let_go(&mut self, tenant: &str, used: u64, weight: usize) {
        self.weight -= weight;
        if let Some(part) = self.held.get_mut(tenant) {
            part.weight -= weight;
            part.by_use.remove(&used);
            if part.by_use.is_empty() {
                self.held.remove(tenant);
            }
        }
    }
}

// === impl Kept ===

impl<K, V, S: Default> Kept<K, V, S> {
    /// For values of this many bytes together.
    pub fn of_bytes(bytes: usize) -> Self {
        Self(Mutex::new(Shelf::with_capacity(bytes)))
    }
}

impl<K: Clone + Eq + Hash, V: Clone, S: BuildHasher> Kept<K, V, S> {
    pub fn find<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.lock().find(key).cloned()
    }

    /// Keeps a value with this weight for a tenant, and returns how many others were removed for it; or does not keep it, if the tenant has
    /// its share.
    pub fn keep(&self, tenant: &str, key: K, value: V, weight: usize) -> usize {
        let gone = self.lock().put(tenant, key, value, weight, |_| false);
        gone.len()
    }

    /// Whether there was anything to remove.
    pub fn remove<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        let gone = self.lock().remove(key);
        gone.is_some()
    }

    /// Removes what `keep` refuses, and returns how many entries stay.
    pub fn retain(&self, keep: impl FnMut(&V) -> bool) -> usize {
        let mut inner = self.lock();
        inner.retain(keep);
        inner.entries.len()
    }

    /// Each value, in any order.
    pub fn all(&self) -> Vec<V> {
        self.lock().values().cloned().collect()
    }

    /// As [`Shelf::resize`]: returns how many were removed.
    pub fn resize(&self, capacity: usize) -> usize {
        let gone = self.lock().resize(capacity);
        gone.len()
    }

    pub fn clear(&self) {
        self.lock().retain(|_| false);
    }

    /// The bytes that are kept now.
    pub fn weight(&self) -> usize {
        self.lock().weight()
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, Shelf<K, V, S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, V, S> fmt::Debug for Kept<K, V, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

/// Keys and values may be secret: neither is shown.
impl<K, V, S> fmt::Debug for Shelf<K, V, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shelf").field("capacity", &self.capacity).field("entries", &self.entries.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_most_loses_its_oldest() {
        let mut shelf = Shelf::new(10);
        for n in 0..3 {
            assert_eq!(shelf.insert("shop", n, n, |_| false), None);
        }
        let gone: Vec<_> = (100..1_000).filter_map(|n| shelf.insert("evil", n, n, |_| false)).collect();
        assert_eq!(gone, (100..993).collect::<Vec<_>>(), "its own, the oldest first");
        assert!((0..3).all(|n| shelf.find(&n) == Some(&n)));
        assert_eq!((shelf.entries.len(), shelf.weight_of("evil"), shelf.weight_of("shop")), (10, 7, 3));
        for n in 10..20 {
            assert!(shelf.insert("bank", n, n, |_| false).is_some_and(|gone| gone >= 10));
        }
        assert_eq!(["evil", "shop", "bank"].map(|name| shelf.weight_of(name)), [3, 3, 4]);
    }

    #[test]
    fn what_was_used_stays_longer_and_what_is_in_use_stays() {
        let mut shelf = Shelf::new(3);
        for n in 0..3 {
            shelf.insert("a", n, n, |_| false);
        }
        shelf.find(&0);
        assert_eq!(shelf.insert("a", 3, 3, |_| false), Some(1));
        assert_eq!(shelf.insert("a", 4, 4, |value| *value == 2), Some(0));
        assert_eq!(shelf.insert("a", 5, 5, |_| true), None);
        assert_eq!(shelf.entries.len(), 4, "rather too many than one that is in use");
        assert_eq!(shelf.insert("a", 5, 6, |_| true), None);
        assert_eq!(shelf.find(&5), Some(&6));
    }

    #[test]
    fn counts_are_right_whatever_is_taken_out() {
        let mut shelf = Shelf::new(10);
        for n in 0..6 {
            shelf.insert(if n % 2 == 0 { "a" } else { "b" }, n, n, |_| false);
        }
        assert_eq!(shelf.remove(&0), Some(0));
        assert_eq!(shelf.remove(&0), None);
        shelf.retain(|value| *value < 3);
        assert_eq!((shelf.entries.len(), shelf.weight_of("a"), shelf.weight_of("b")), (2, 1, 1));
        shelf.retain(|_| false);
        assert!(shelf.held.is_empty() && shelf.values().next().is_none());
    }

    #[test]
    fn weights_are_shared_too_and_who_has_less_loses_nothing() {
        let mut shelf = Shelf::of_bytes(1_000);
        assert!(shelf.put("shop", 0, 0, 300, |_| false).is_empty());
        for n in 1..=7 {
            assert!(shelf.put("evil", n, n, 100, |_| false).is_empty());
        }
        assert_eq!(shelf.put("evil", 8, 8, 150, |_| false), [1, 2], "its own, as many as it takes");
        assert_eq!(shelf.put("evil", 9, 9, 700, |_| false), [3, 4, 5, 6, 7, 8], "all it has, and nothing of another");
        assert_eq!(shelf.put("evil", 10, 10, 701, |_| false), [9, 10], "for this one there is no room");
        assert_eq!((shelf.weight(), shelf.weight_of("shop"), shelf.find(&0)), (300, 300, Some(&0)));
        assert_eq!(shelf.put("evil", 11, 11, usize::MAX, |_| false), [11]);
        assert!(shelf.put("evil", 12, 12, 700, |_| false).is_empty());
        assert_eq!(shelf.put("bank", 13, 13, 800, |_| false), [13], "it would have most");
        assert_eq!(shelf.put("bank", 14, 14, 400, |_| false), [12]);
        assert_eq!(shelf.put("shop", 0, 1, 100, |_| false), [0; 0], "in the place of a former one");
        assert!(shelf.put("bank", 15, 15, 600, |value| *value == 14).is_empty(), "rather too much than less of what is in use");
        assert_eq!((shelf.weight(), shelf.values().copied().min(), shelf.find(&15)), (1100, Some(1), Some(&15)));
        assert_eq!(shelf.put("mill", 16, 16, 900, |_| false), [14, 16], "who has more loses, as long as it has");
        assert_eq!(shelf.put("mill", 17, 17, 500, |_| false), [15]);
    }

    #[test]
    fn a_shelf_that_becomes_smaller_takes_from_who_has_most() {
        let mut shelf = Shelf::of_bytes(1_000);
        for n in 0..6 {
            shelf.put("evil", n, n, 100, |_| false);
        }
        shelf.put("shop", 6, 6, 300, |_| false);
        assert_eq!(shelf.resize(2_000), [0; 0]);
        assert_eq!(shelf.resize(600), [0, 1, 2]);
        assert_eq!((shelf.weight_of("evil"), shelf.weight_of("shop")), (300, 300));
        assert_eq!((shelf.resize(0).len(), shelf.weight()), (4, 0));
    }

    /// After any operations the sums are right; and a limited number of looks finds what must go.
    #[test]
    fn sums_and_orders_are_right_after_each_step() {
        let mut shelf = Shelf::of_bytes(500);
        let mut state = 1_u64;
        for step in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (key, tenant) = (state >> 33 & 63, ["a", "b", "c"][usize::try_from(state >> 40 & 3).unwrap().min(2)]);
            match state >> 45 & 7 {
                0 => _ = shelf.remove(&key),
                1 => _ = shelf.find(&key).copied(),
                2 => shelf.retain(|value| value % 7 != step % 7),
                _ => _ = shelf.put(tenant, key, step, usize::try_from(state >> 50 & 127).unwrap(), |value| value % 11 == 0),
            }
            let sum: usize = shelf.entries.values().map(|entry| entry.weight).sum();
            let stay: usize = shelf.entries.values().filter(|entry| entry.value % 11 == 0).map(|entry| entry.weight).sum();
            assert!(shelf.weight == sum && sum <= 500 + stay);
            for (tenant, part) in &shelf.held {
                let own = || shelf.entries.iter().filter(|(_, entry)| entry.tenant == *tenant);
                assert_eq!(part.weight, own().map(|(_, entry)| entry.weight).sum::<usize>());
                assert_eq!(part.by_use.len(), own().count());
                assert!(own().all(|(key, entry)| part.by_use.get(&entry.used) == Some(key)));
            }
            assert_eq!(shelf.held.values().map(|part| part.by_use.len()).sum::<usize>(), shelf.entries.len());
        }
    }
}
