//! Counts by a key that clients may make up, the largest of them by name.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// The most keys that are counted by name. The next one takes the place of the one with the lowest count, which is
/// added to that of all others.
pub(super) const MOST_NAMED: usize = 50;

/// Once all names are taken, one is given to another key no sooner than this after the last one was.
pub(super) const RENAMED_AFTER: Duration = Duration::from_secs(60);

/// `KINDS` counts by key, the largest of them by name.
#[derive(Debug)]
pub(super) struct Top<K, const KINDS: usize = 1> {
    named: HashMap<K, [u64; KINDS]>,
    others: [u64; KINDS],
    renamed_at: Option<Instant>,
}

impl<K, const KINDS: usize> Default for Top<K, KINDS> {
    fn default() -> Self {
        Self { named: HashMap::new(), others: [0; KINDS], renamed_at: None }
    }
}

impl<K: Hash + Eq + Clone, const KINDS: usize> Top<K, KINDS> {
    /// Counts one more of this kind.
    pub(super) fn note(&mut self, key: K, kind: usize, now: Instant) {
        if let Some(counts) = self.named.get_mut(&key) {
            counts[kind] += 1;
            return;
        }
        let is_full = self.named.len() >= MOST_NAMED;
        if is_full && self.renamed_at.is_some_and(|at| now.saturating_duration_since(at) < RENAMED_AFTER) {
            self.others[kind] += 1;
            return;
        }
        if is_full {
            let fewest = self.named.iter().min_by_key(|(_, counts)| counts.iter().sum::<u64>());
            if let Some(counts) = fewest.map(|(key, _)| key.clone()).and_then(|fewest| self.named.remove(&fewest)) {
                self.others.iter_mut().zip(counts).for_each(|(all, more)| *all += more);
                self.renamed_at = Some(now);
            }
        }
        self.named.entry(key).or_insert([0; KINDS])[kind] += 1;
    }

    /// The counts by key, and the sums of all others.
    pub(super) fn counts(&self) -> (impl Iterator<Item = (&K, [u64; KINDS])>, [u64; KINDS]) {
        (self.named.iter().map(|(key, counts)| (key, *counts)), self.others)
    }
}
