//! Connections and buckets by key: sources, users, names. Entries come and go; each is exact while it is there.

use std::{
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use governor::clock::Clock;

use super::{Quota, counted::Counted, rate::Tokens};

/// Keys that are remembered at most. Whoever comes beyond that is over its rate until a sweep; those known already go on.
const MOST_KEYS: usize = 262_144;

#[derive(Debug)]
struct Entry<C: Clock> {
    connections: u32,
    tokens: Option<Tokens<C>>,
    full_again_at: Option<Instant>,
}

/// Every key with a connection or a bucket that is not full.
#[derive(Debug)]
pub struct Ledger<K: Hash + Eq, C: Clock> {
    clock: C,
    map: Counted<K, Entry<C>>,
}

/// One connection of a key, given back on drop.
#[derive(Debug)]
pub struct LedgerSlot<K: Hash + Eq + Copy, C: Clock> {
    of: Arc<Ledger<K, C>>,
    key: K,
}

impl<K: Hash + Eq + Copy, C: Clock> Drop for LedgerSlot<K, C> {
    fn drop(&mut self) {
        if let Some(mut entry) = self.of.map.get_mut(&self.key) {
            entry.connections -= 1;
        }
    }
}

/// What a key has too many of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Connections.
    Quota,
    /// New connections per second.
    Rate,
}

impl<K: Hash + Eq + Copy, C: Clock + Clone> Ledger<K, C> {
    /// No key known.
    pub fn new(clock: C) -> Self {
        Self { clock, map: Counted::default() }
    }

    /// Takes a connection slot, and a token, of a key. Of a quota that only warns both are taken as if there were enough, and
    /// `warn` is told what there was not.
    ///
    /// # Errors
    /// [`Over`]; nothing is taken then.
    pub fn enter(
        self: &Arc<Self>,
        key: K,
        quota: Quota,
        now: Instant,
        warn: impl Fn(Over),
    ) -> Result<LedgerSlot<K, C>, Over> {
        let over = |what: Over| {
            if !quota.warn_only {
                return Err(what);
            }
            warn(what);
            Ok(())
        };
        if self.map.len() >= MOST_KEYS && !self.map.contains_key(&key) {
            return Err(Over::Rate);
        }
        let mut entry = self.map.get_or_insert_with(key, || Entry {
            connections: 0,
            tokens: quota.rate.map(|rate| Tokens::new(rate, &self.clock)),
            full_again_at: None,
        });
        if quota.max_connections.is_some_and(|most| entry.connections >= most) {
            over(Over::Quota)?;
        }
        if let Some(tokens) = &entry.tokens {
            tokens.take().or_else(|_| over(Over::Rate))?;
            // An upper bound: a bucket that was empty is full again after burst / rate.
            entry.full_again_at = quota.rate.map(|rate| {
                now + Duration::from_secs_f64(f64::from(rate.burst.get()) / f64::from(rate.per_second.get()))
            });
        }
        entry.connections += 1;
        Ok(LedgerSlot { of: Arc::clone(self), key })
    }

    /// Forgets the keys without a connection whose bucket is full again.
    pub fn sweep(&self, now: Instant) {
        self.map.retain(|_, entry| entry.connections > 0 || entry.full_again_at.is_some_and(|at| now < at));
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
}
