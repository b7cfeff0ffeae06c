//! A sharded map that knows how many entries it holds. `DashMap::len` and `is_empty` lock every shard, four for each
//! core, one after the other: too slow for every connect.

use std::{
    borrow::Borrow,
    hash::Hash,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use dashmap::{
    DashMap, Entry,
    mapref::{
        multiple::{RefMulti, RefMutMulti},
        one::{Ref, RefMut},
    },
};

/// The map. Its length may lag behind what is stored, but only while a call is under way.
#[derive(Debug)]
pub struct CountedMap<K: Eq + Hash, V> {
    map: DashMap<K, V>,
    len: AtomicUsize,
}

impl<K: Eq + Hash, V> Default for CountedMap<K, V> {
    fn default() -> Self {
        Self { map: DashMap::new(), len: AtomicUsize::new(0) }
    }
}

impl<K: Eq + Hash, V> CountedMap<K, V> {
    pub fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn contains_key(&self, key: &K) -> bool {
        !self.is_empty() && self.map.contains_key(key)
    }

    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<Ref<'_, K, V>>
    where
        K: Borrow<Q>,
    {
        if self.is_empty() { None } else { self.map.get(key) }
    }

    pub fn get_mut(&self, key: &K) -> Option<RefMut<'_, K, V>> {
        self.map.get_mut(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = RefMulti<'_, K, V>> {
        self.map.iter()
    }

    pub fn iter_mut(&self) -> impl Iterator<Item = RefMutMulti<'_, K, V>> {
        self.map.iter_mut()
    }

    /// The value of `key`, made where there is none; its shard is locked as long as the answer lives.
    pub fn get_or_insert_with(&self, key: K, make: impl FnOnce() -> V) -> RefMut<'_, K, V> {
        match self.map.entry(key) {
            Entry::Occupied(there) => there.into_ref(),
            Entry::Vacant(free) => {
                self.len.fetch_add(1, Relaxed);
                free.insert(make())
            }
        }
    }

    pub fn insert(&self, key: K, value: V) {
        match self.map.entry(key) {
            Entry::Occupied(mut there) => drop(there.insert(value)),
            // Counted while the shard is locked, so that no other thread takes the entry out before it is counted.
            Entry::Vacant(free) => {
                self.len.fetch_add(1, Relaxed);
                free.insert(value);
            }
        }
    }

    /// Removes the value of `key`; `false` where there was none.
    pub fn remove(&self, key: &K) -> bool {
        let was_there = !self.is_empty() && self.map.remove(key).is_some();
        if was_there {
            self.len.fetch_sub(1, Relaxed);
        }
        was_there
    }

    /// Changes the value of `key`, if there is one, and removes it where `change` says so.
    pub fn remove_if(&self, key: &K, change: impl FnOnce(&mut V) -> bool) {
        if self.map.remove_if_mut(key, |_, value| change(value)).is_some() {
            self.len.fetch_sub(1, Relaxed);
        }
    }

    pub fn retain(&self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        if self.is_empty() {
            return;
        }
        let mut gone = 0;
        self.map.retain(|key, value| {
            let keeps = keep(key, value);
            gone += usize::from(!keeps);
            keeps
        });
        self.len.fetch_sub(gone, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_that_of_the_map() {
        let counted = CountedMap::default();
        for n in [1, 2, 3, 2, 1] {
            counted.insert(n, n);
        }
        *counted.get_or_insert_with(4, || 4) += 1;
        *counted.get_or_insert_with(4, || 4) += 1;
        assert_eq!((counted.len(), counted.get(&4).map(|n| *n)), (4, Some(6)));
        counted.remove(&1);
        counted.remove(&1);
        counted.retain(|n, _| *n != 2);
        assert_eq!((counted.len(), counted.map.len()), (2, 2));
        assert!(!counted.contains_key(&2) && counted.contains_key(&3));
        counted.retain(|_, _| false);
        assert!(counted.is_empty() && counted.map.is_empty());
    }
}
