//! The largest counts among many keys, in bounded memory: the space-saving algorithm (Metwally, Agrawal and El Abbadi,
//! "Efficient computation of frequent and top-k elements in data streams", 2005). A key that has no counter when all
//! are taken gets the one with the lowest count, and remembers that count as what may be another's.

use std::{borrow::Borrow, hash::Hash};

use hashbrown::HashMap;

/// Counts by key, of `KINDS` kinds each. Until more than `MOST` keys have come all counts are exact. Afterwards every
/// key that has come more than once in `MOST` times is there, and no count is shown that its key does not have.
#[derive(Debug, Clone)]
pub struct SpaceSaving<K, const MOST: usize, const KINDS: usize = 1> {
    /// By a quick hash: keys that somebody has made to collide are `MOST` at most.
    counters: HashMap<K, Counter<KINDS>>,
    totals: [u64; KINDS],
    /// Keys that had the lowest count when it was last looked for: they are the next to lose their counters.
    lowest: Vec<K>,
    lowest_count: u64,
}

#[derive(Debug, Clone, Copy)]
struct Counter<const KINDS: usize> {
    /// How often the key has come since it has this counter.
    own: [u64; KINDS],
    /// The count of the keys before it.
    before: u64,
}

impl<const KINDS: usize> Counter<KINDS> {
    /// At least as often as the key has come.
    fn count(&self) -> u64 {
        self.before + self.own.iter().sum::<u64>()
    }
}

impl<K, const MOST: usize, const KINDS: usize> Default for SpaceSaving<K, MOST, KINDS> {
    fn default() -> Self {
        Self { counters: HashMap::new(), totals: [0; KINDS], lowest: Vec::new(), lowest_count: 0 }
    }
}

impl<K: Hash + Eq + Ord + Clone, const MOST: usize, const KINDS: usize> SpaceSaving<K, MOST, KINDS> {
    /// Counts a key, which is made `owned` where it gets a counter.
    pub fn note<Q>(&mut self, key: &Q, kind: usize, owned: impl FnOnce(&Q) -> K)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.totals[kind] += 1;
        if let Some(counter) = self.counters.get_mut(key) {
            counter.own[kind] += 1;
            return;
        }
        let before = if self.is_full() { self.take_lowest() } else { 0 };
        let mut own = [0; KINDS];
        own[kind] = 1;
        self.counters.insert(owned(key), Counter { own, before });
    }

    /// Counts a key that gets no counter.
    pub fn note_other(&mut self, kind: usize) {
        self.totals[kind] += 1;
    }

    /// Whether a key that has no counter would take the one of another.
    pub fn is_full(&self) -> bool {
        self.counters.len() >= MOST
    }

    /// Whether a key has a counter.
    pub fn knows<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.counters.contains_key(key)
    }

    /// Frees the counter with the lowest count, and returns that count. All counters are looked at only once for all
    /// that have the same lowest count.
    fn take_lowest(&mut self) -> u64 {
        loop {
            while let Some(key) = self.lowest.pop() {
                let is_lowest = self.counters.get(&key).is_some_and(|one| one.count() == self.lowest_count);
                if is_lowest {
                    self.counters.remove(&key);
                    return self.lowest_count;
                }
            }
            let Some(lowest) = self.counters.values().map(Counter::count).min() else { return 0 };
            self.lowest_count = lowest;
            let have_it = self.counters.iter().filter(|(_, one)| one.count() == lowest);
            self.lowest.extend(have_it.map(|(key, _)| key.clone()));
        }
    }

    /// What of the totals is not among the counts that are shown.
    pub fn others(&self) -> [u64; KINDS] {
        let mut others = self.totals;
        for one in self.counters.values() {
            others.iter_mut().zip(one.own).for_each(|(all, own)| *all -= own);
        }
        others
    }

    /// The keys that have a counter, with how often each has come at least.
    pub fn counts(&self) -> impl Iterator<Item = (&K, [u64; KINDS])> {
        self.counters.iter().map(|(key, one)| (key, one.own))
    }

    /// The keys that have come most often, with how often each has come at least.
    pub fn largest(&self, shown: usize) -> Vec<(&K, [u64; KINDS])> {
        let mut all: Vec<_> = self.counts().collect();
        let sum = |counts: &[u64; KINDS]| counts.iter().sum::<u64>();
        all.sort_unstable_by(|(a, many), (b, more)| sum(more).cmp(&sum(many)).then_with(|| a.cmp(b)));
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
            sketch.note(key, 0, |&key| key);
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
            prop_assert_eq!(sketch.counters.values().map(Counter::count).sum::<u64>(), total);
            let shown: u64 = sketch.counts().map(|(_, [own])| own).sum();
            prop_assert_eq!((sketch.totals, shown + sketch.others()[0]), ([total], total));
            for (key, one) in &sketch.counters {
                prop_assert!(one.own[0] <= exact[key] && exact[key] <= one.count());
                prop_assert!(one.before <= total / MOST as u64, "the error is bounded");
            }
            for (key, count) in exact {
                prop_assert!(count <= total / MOST as u64 || sketch.knows(&key), "{} is missing", key);
            }
        }

        #[test]
        fn few_keys_are_counted_exactly(keys in prop::collection::vec(0u8..MOST as u8, 0..200)) {
            let (sketch, exact) = counted(&keys);
            let shown: HashMap<u8, u64> = sketch.largest(MOST).into_iter().map(|(key, [n])| (*key, n)).collect();
            prop_assert_eq!(shown, exact);
            prop_assert_eq!(sketch.others(), [0]);
        }
    }

    #[test]
    fn the_largest_come_first_and_equal_ones_by_name() {
        let (sketch, _) = counted(&[3, 1, 2, 2, 1, 7, 2]);
        assert_eq!(sketch.largest(3), [(&2, [3]), (&1, [2]), (&3, [1])]);
        assert!(sketch.largest(0).is_empty());
    }

    #[test]
    fn the_last_key_that_came_is_always_there() {
        let (mut sketch, mut rng) = (SpaceSaving::<u32, MOST>::default(), fastrand::Rng::with_seed(1));
        for _ in 0..10_000 {
            let key = rng.u32(0..1000);
            sketch.note(&key, 0, |&key| key);
            assert!(sketch.knows(&key) && sketch.counters.len() <= MOST && sketch.lowest.len() <= MOST);
        }
    }
}
