//! Counts by a key that clients may make up, the largest of them by name, for metrics: names change seldom, since
//! Prometheus keeps each name that it has ever seen.

use std::{
    hash::Hash,
    time::{Duration, Instant},
};

use crate::tally::SpaceSaving;

/// The most keys that are counted by name. The next one takes the place of the one with the lowest count, which is
/// added to that of all others.
pub(super) const MOST_NAMED: usize = 50;

/// Once all names are taken, one is given to another key no sooner than this after the last one was.
pub(super) const RENAMED_AFTER: Duration = Duration::from_secs(60);

/// `KINDS` counts by key, the largest of them by name.
#[derive(Debug)]
pub(super) struct Top<K, const KINDS: usize = 1> {
    counts: SpaceSaving<K, MOST_NAMED, KINDS>,
    renamed_at: Option<Instant>,
}

impl<K, const KINDS: usize> Default for Top<K, KINDS> {
    fn default() -> Self {
        Self { counts: SpaceSaving::default(), renamed_at: None }
    }
}

impl<K: Hash + Eq + Ord + Clone, const KINDS: usize> Top<K, KINDS> {
    /// Counts one more of this kind.
    pub(super) fn note(&mut self, key: &K, kind: usize, now: Instant) {
        if self.counts.is_full() && !self.counts.knows(key) {
            if self.renamed_at.is_some_and(|at| now.saturating_duration_since(at) < RENAMED_AFTER) {
                self.counts.note_other(kind);
                return;
            }
            self.renamed_at = Some(now);
        }
        self.counts.note(key, kind, K::clone);
    }

    /// The counts by key, and the sums of all others.
    pub(super) fn counts(&self) -> (impl Iterator<Item = (&K, [u64; KINDS])>, [u64; KINDS]) {
        (self.counts.counts(), self.counts.others())
    }
}
