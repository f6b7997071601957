//! A bounded table that tenants share: when it is full, the tenant that has most of it loses what it has not used for the longest.
//!
//! A tenant is the namespace that kubelet says. However much one puts in, it pushes nothing out of another that has no more.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

/// Not synchronised: its owner has a lock around it.
pub struct Shelf<K, V> {
    capacity: usize,
    entries: HashMap<K, Entry<V>>,
    /// How many entries each tenant has; without those that have none.
    held: HashMap<Arc<str>, usize>,
    /// Counts the uses: the order in which entries were used last.
    uses: u64,
}

struct Entry<V> {
    tenant: Arc<str>,
    used: u64,
    value: V,
}

// === impl Shelf ===

impl<K: Clone + Eq + Hash, V> Shelf<K, V> {
    /// For at most so many entries; at least 1.
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), entries: HashMap::new(), held: HashMap::new(), uses: 0 }
    }

    /// The value, which is the last used from now on.
    pub fn find<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.uses += 1;
        let entry = self.entries.get_mut(key)?;
        entry.used = self.uses;
        Some(&entry.value)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.values().map(|entry| &entry.value)
    }

    /// Puts a value in, in the place of a former one of this key. What had to go for it; never something that `stays`, so that the shelf
    /// may hold more than it should while that is so.
    pub fn insert(&mut self, tenant: &str, key: K, value: V, stays: impl Fn(&V) -> bool) -> Option<V> {
        self.uses += 1;
        self.remove(&key);
        let tenant: Arc<str> = self.held.get_key_value(tenant).map_or_else(|| tenant.into(), |(known, _)| Arc::clone(known));
        *self.held.entry(Arc::clone(&tenant)).or_default() += 1;
        let gone = if self.entries.len() >= self.capacity { self.to_go(stays) } else { None };
        let gone = gone.and_then(|gone| self.remove(&gone));
        self.entries.insert(key, Entry { tenant, used: self.uses, value });
        gone
    }

    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let Entry { tenant, value, .. } = self.entries.remove(key)?;
        self.let_go(&tenant);
        Some(value)
    }

    /// Takes out what is not to be kept.
    pub fn retain(&mut self, mut keep: impl FnMut(&V) -> bool) {
        let mut gone = Vec::new();
        self.entries.retain(|_, entry| {
            let kept = keep(&entry.value);
            if !kept {
                gone.push(Arc::clone(&entry.tenant));
            }
            kept
        });
        for tenant in gone {
            self.let_go(&tenant);
        }
    }

    /// Of those that may go: of the tenants that have most, the entry that was not used for the longest.
    fn to_go(&self, stays: impl Fn(&V) -> bool) -> Option<K> {
        let of = |entry: &Entry<V>| self.held.get(&entry.tenant).copied().unwrap_or(0);
        let may_go = self.entries.iter().filter(|(_, entry)| !stays(&entry.value));
        may_go.min_by_key(|(_, entry)| (std::cmp::Reverse(of(entry)), entry.used)).map(|(key, _)| key.clone())
    }

    fn let_go(&mut self, tenant: &str) {
        if let Some(held) = self.held.get_mut(tenant) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                self.held.remove(tenant);
            }
        }
    }
}

/// Keys and values may be secret: neither is shown.
impl<K, V> fmt::Debug for Shelf<K, V> {
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
        assert_eq!((shelf.entries.len(), shelf.held["evil"], shelf.held["shop"]), (10, 7, 3));
        for n in 10..20 {
            assert!(shelf.insert("bank", n, n, |_| false).is_some_and(|gone| gone >= 10));
        }
        assert_eq!((shelf.held["evil"], shelf.held["shop"], shelf.held["bank"]), (3, 3, 4));
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
        assert_eq!((shelf.entries.len(), shelf.held.get("a"), shelf.held.get("b")), (2, Some(&1), Some(&1)));
        shelf.retain(|_| false);
        assert!(shelf.held.is_empty() && shelf.values().next().is_none());
    }
}
