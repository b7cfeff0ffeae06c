//! The largest counts among many keys, in bounded memory: the space-saving algorithm (Metwally, Agrawal and El Abbadi,
//! "Efficient computation of frequent and top-k elements in data streams", 2005). A key that has no counter when all
//! are taken gets the one with the lowest count, and remembers that count as what may be another's.

use std::{borrow::Borrow, collections::HashMap, hash::Hash};

/// Counts by key. Until more than `MOST` keys have come all counts are exact. Afterwards every key that has come more
/// than once in `MOST` times is there, and no count is shown that its key does not have.
#[derive(Debug)]
pub struct SpaceSaving<K, const MOST: usize> {
    counters: HashMap<K, Counter>,
}

#[derive(Debug, Clone, Copy)]
struct Counter {
    /// At least as often as the key has come.
    count: u64,
    /// The part of it that may be of the keys before.
    not_its_own: u64,
}

impl<K, const MOST: usize> Default for SpaceSaving<K, MOST> {
    fn default() -> Self {
        Self { counters: HashMap::new() }
    }
}

impl<K: Hash + Eq + Ord, const MOST: usize> SpaceSaving<K, MOST> {
    /// Counts a key, which is made `owned` where it gets a counter.
    pub fn note<Q>(&mut self, key: &Q, owned: impl FnOnce(&Q) -> K)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        if let Some(counter) = self.counters.get_mut(key) {
            counter.count += 1;
            return;
        }
        let mut before = 0;
        if self.counters.len() >= MOST {
            let Some(lowest) = self.counters.values().map(|counter| counter.count).min() else { return };
            let mut is_first = true;
            self.counters.retain(|_, counter| counter.count > lowest || !std::mem::take(&mut is_first));
            before = lowest;
        }
        self.counters.insert(owned(key), Counter { count: before + 1, not_its_own: before });
    }

    /// The keys that have come most often, with how often each has come at least.
    pub fn largest(&self, shown: usize) -> Vec<(&K, u64)> {
        let mut all: Vec<_> = self.counters.iter().map(|(key, one)| (key, one.count - one.not_its_own)).collect();
        all.sort_unstable_by(|(a, many), (b, more)| more.cmp(many).then_with(|| a.cmp(b)));
        all.truncate(shown);
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOST: usize = 8;

    fn counted(keys: &[u8]) -> (SpaceSaving<u8, MOST>, HashMap<u8, u64>) {
        let (mut sketch, mut exact) = (SpaceSaving::default(), HashMap::new());
        for key in keys {
            sketch.note(key, |&key| key);
            *exact.entry(*key).or_default() += 1;
        }
        (sketch, exact)
    }

    proptest! {
        /// Keys as they come: some often, most of them seldom.
        #[test]
        fn no_key_is_shown_with_more_than_it_has_and_no_frequent_one_is_missing(
            keys in prop::collection::vec(prop_oneof![0u8..4, 0u8..=255], 0..600)
        ) {
            let (sketch, exact) = counted(&keys);
            let total = keys.len() as u64;
            prop_assert!(sketch.counters.len() <= MOST);
            prop_assert_eq!(sketch.counters.values().map(|one| one.count).sum::<u64>(), total);
            for (key, one) in &sketch.counters {
                prop_assert!(one.count - one.not_its_own <= exact[key] && exact[key] <= one.count);
                prop_assert!(one.not_its_own <= total / MOST as u64, "the error is bounded");
            }
            for (key, count) in exact {
                prop_assert!(count <= total / MOST as u64 || sketch.counters.contains_key(&key), "{} is missing", key);
            }
        }

        #[test]
        fn few_keys_are_counted_exactly(keys in prop::collection::vec(0u8..MOST as u8, 0..200)) {
            let (sketch, exact) = counted(&keys);
            let shown: HashMap<u8, u64> = sketch.largest(MOST).into_iter().map(|(key, n)| (*key, n)).collect();
            prop_assert_eq!(shown, exact);
        }
    }

    #[test]
    fn the_largest_come_first_and_equal_ones_by_name() {
        let (sketch, _) = counted(&[3, 1, 2, 2, 1, 7, 2]);
        assert_eq!(sketch.largest(3), [(&2, 3), (&1, 2), (&3, 1)]);
        assert!(sketch.largest(0).is_empty());
    }
}
