//! A bounded memory that forgets what was not asked for lately.
//!
//! Two halves: when the young one is full it becomes the old one, and the old one is forgotten. Invariant: it never holds
//! more than its bound.

use std::{borrow::Borrow, collections::HashMap, hash::Hash, mem};

#[derive(Debug)]
pub(super) struct Ages<K, V> {
    half: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash, V> Ages<K, V> {
    /// For at most `max` entries, and at least two.
    pub(super) fn new(max: usize) -> Self {
        Self {
            half: (max / 2).max(1),
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }

    /// Gives an entry, which makes it young again.
    pub(super) fn get<Q>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if let Some((key, value)) = self.old.remove_entry(key) {
            self.insert(key, value);
        }
        self.young.get(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        self.old.remove(&key);
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    pub(super) fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let old = self.old.remove(key);
        self.young.remove(key).or(old)
    }

    pub(super) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&K, &V) -> bool) {
        self.young.retain(|key, value| keep(key, value));
        self.old.retain(|key, value| keep(key, value));
    }

    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stays_and_the_bound_holds() {
        let mut ages = Ages::new(8);
        for number in 0..100 {
            ages.insert(number, number);
            assert!(ages.len() <= 8);
            assert_eq!(ages.get(&0), Some(&0), "{number}");
        }
        assert_eq!(ages.get(&50), None);
        assert_eq!(ages.remove(&0), Some(0));
        assert_eq!(ages.get(&0), None);
    }
}
