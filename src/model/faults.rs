//! A list of faults for a message: the first of them, and the number of the others.
//!
//! The author of a class, or a store's answer, can be wrong a hundred thousand times at once. A message has room for a few dozen faults. So
//! the others are only counted.

use std::ops::Deref;

/// How many faults a list keeps.
pub const MAX_FAULTS: usize = 64;

/// Faults in the order in which they were found. As a slice it has those that are kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FaultList<T> {
    kept: Vec<T>,
    more: usize,
}

// === impl FaultList ===

impl<T> FaultList<T> {
    pub fn add(&mut self, fault: T) {
        self.add_with(|| fault);
    }

    /// The fault is made only if it is kept.
    pub fn add_with(&mut self, fault: impl FnOnce() -> T) {
        if self.is_full() { self.more += 1 } else { self.kept.push(fault()) }
    }

    /// Counts faults that nobody will read.
    pub fn count(&mut self, more: usize) {
        self.more += more;
    }

    /// Whether another fault would only be counted.
    pub fn is_full(&self) -> bool {
        self.kept.len() >= MAX_FAULTS
    }

    /// How many faults there are besides those that are kept.
    pub fn more(&self) -> usize {
        self.more
    }

    /// Sorts those that are kept.
    pub fn sort_by_key<K: Ord>(&mut self, key: impl FnMut(&T) -> K) {
        self.kept.sort_by_key(key);
    }
}

impl<T> Default for FaultList<T> {
    fn default() -> Self {
        Self { kept: Vec::new(), more: 0 }
    }
}

impl<T> Deref for FaultList<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.kept
    }
}

impl<T> Extend<T> for FaultList<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, faults: I) {
        faults.into_iter().for_each(|fault| self.add(fault));
    }
}

impl<T> FromIterator<T> for FaultList<T> {
    fn from_iter<I: IntoIterator<Item = T>>(faults: I) -> Self {
        let mut list = Self::default();
        list.extend(faults);
        list
    }
}

impl<T> IntoIterator for FaultList<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.kept.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a FaultList<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.kept.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_kept_and_the_others_counted() {
        let mut list: FaultList<usize> = (0..MAX_FAULTS + 5).collect();
        assert_eq!((list.len(), list.more(), list[0], list.last().copied()), (MAX_FAULTS, 5, 0, Some(MAX_FAULTS - 1)));
        list.add_with(|| panic!("nobody would read it"));
        list.count(10);
        assert_eq!((list.into_iter().count(), FaultList::from_iter([1]).more()), (MAX_FAULTS, 0));
    }
}
