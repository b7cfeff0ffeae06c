//! Connections and token buckets by key: by source, user or pattern of client names. Entries come and go; each is exact
//! while it is there, and their number is bounded.

use std::{
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    admission::{
        params::Quota,
        quota::{counted_map::CountedMap, rate::TokenBucket},
    },
    upstream::leaky_bucket::LeakyBucket,
};

/// The most keys that are remembered. With so many, a new key is over its rate until a sweep; known keys go on.
const MOST_KEYS: usize = 262_144;

#[derive(Debug)]
struct Entry {
    connections: u32,
    tokens: Option<TokenBucket>,
    /// Tokens that are promised and still to come, each for the time that one takes.
    promised: LeakyBucket,
    full_again_at: Option<Instant>,
}

/// Every key with a connection or a token bucket that is not full.
#[derive(Debug)]
pub struct QuotaByKey<K: Hash + Eq> {
    map: CountedMap<K, Entry>,
}

impl<K: Hash + Eq> Default for QuotaByKey<K> {
    fn default() -> Self {
        Self { map: CountedMap::default() }
    }
}

/// One connection of a key, given back on drop.
#[derive(Debug)]
pub struct KeySlot<K: Hash + Eq + Copy> {
    of: Arc<QuotaByKey<K>>,
    key: K,
}

impl<K: Hash + Eq + Copy> Drop for KeySlot<K> {
    fn drop(&mut self) {
        if let Some(mut entry) = self.of.map.get_mut(&self.key) {
            entry.connections -= 1;
        }
    }
}

impl<K: Hash + Eq + Copy> KeySlot<K> {
    /// Takes the token that was promised, once its time has come.
    pub fn redeem(&self, now: Instant) {
        if let Some(tokens) = self.of.map.get(&self.key).as_ref().and_then(|entry| entry.tokens.as_ref()) {
            // A rounding early or late makes no difference: promises are a token's time apart.
            let _ = tokens.take(now);
        }
    }
}

/// What a key has too many of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exceeded {
    /// Connections.
    Quota,
    /// New connections per second.
    Rate,
}

impl<K: Hash + Eq + Copy> QuotaByKey<K> {
    /// Takes a connection slot and a token of a key. With a quota that only warns both are taken as if there were
    /// enough, and `warn` is told what there was not.
    ///
    /// # Errors
    /// [`Exceeded`]; nothing is taken then.
    pub fn enter(
        self: &Arc<Self>,
        key: K,
        quota: Quota,
        now: Instant,
        warn: impl Fn(Exceeded),
    ) -> Result<KeySlot<K>, Exceeded> {
        self.enter_by(key, quota, now, now, warn).map(|(slot, _)| slot)
    }

    /// The same for a client that can wait until `latest`. A token that comes only later is promised, first come, first
    /// served; the time is when it comes, and [`KeySlot::redeem`] takes it then.
    ///
    /// # Errors
    /// [`Exceeded`]; nothing is taken or promised then.
    pub fn enter_by(
        self: &Arc<Self>,
        key: K,
        quota: Quota,
        now: Instant,
        latest: Instant,
        warn: impl Fn(Exceeded),
    ) -> Result<(KeySlot<K>, Option<Instant>), Exceeded> {
        let exceeded = |what: Exceeded| {
            if !quota.warn_only {
                return Err(what);
            }
            warn(what);
            Ok(())
        };
        if self.map.len() >= MOST_KEYS && !self.map.contains_key(&key) {
            return Err(Exceeded::Rate);
        }
        let mut entry = self.map.get_or_insert_with(key, || Entry {
            connections: 0,
            tokens: quota.rate.map(TokenBucket::new),
            promised: LeakyBucket::default(),
            full_again_at: None,
        });
        if quota.max_connections.is_some_and(|most| entry.connections >= most) {
            exceeded(Exceeded::Quota)?;
        }
        let mut promised = None;
        if let Some(tokens) = &entry.tokens {
            // Clients that were promised a token before go first.
            let comes = match entry.promised.empty_at(now) {
                Some(until) => Some(until + Duration::from_secs(1) / tokens.per_second().get()),
                None => tokens.take(now).err().map(|wait| now + wait),
            };
            match comes {
                Some(at) if quota.warn_only || at > latest => exceeded(Exceeded::Rate)?,
                comes => promised = comes,
            }
            if let Some(at) = promised {
                entry.promised = LeakyBucket::until(at);
            }
            // An upper bound: a bucket that was empty is full again after burst / rate.
            entry.full_again_at = quota.rate.map(|rate| {
                let from = promised.unwrap_or(now);
                from + Duration::from_secs_f64(f64::from(rate.burst.get()) / f64::from(rate.per_second.get()))
            });
        }
        entry.connections += 1;
        Ok((KeySlot { of: Arc::clone(self), key }, promised))
    }

    /// Forgets the keys without a connection whose bucket is full again.
    pub fn sweep(&self, now: Instant) {
        self.map.retain(|_, entry| entry.connections > 0 || entry.full_again_at.is_some_and(|at| now < at));
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::admission::Rate;

    const SECOND: Duration = Duration::from_secs(1);

    fn rate(per_second: u32, burst: u32) -> Quota {
        let rate = Rate { per_second: per_second.try_into().unwrap(), burst: burst.try_into().unwrap() };
        Quota { rate: Some(rate), ..Quota::default() }
    }

    #[test]
    fn tokens_to_come_are_promised_in_order_and_kept() {
        let (by_key, began) = (Arc::new(QuotaByKey::default()), Instant::now());
        let quota = rate(2, 1);
        let enter = |now: Instant, longest: Duration| {
            let entered = by_key.enter_by(7, quota, now, now + longest, |_| {});
            entered.map(|(slot, at)| (slot, at.map(|at| (at - began).as_millis())))
        };
        let (_first, at) = enter(began, SECOND).unwrap();
        assert_eq!(at, None);
        let (second, at) = enter(began, SECOND).unwrap();
        assert_eq!(at, Some(500));
        let (_third, at) = enter(began, SECOND).unwrap();
        assert_eq!(at, Some(1000));
        assert_eq!(enter(began, SECOND).unwrap_err(), Exceeded::Rate, "its token would come too late");
        // Half a second later the token of the second client is there, and no new client gets it.
        let (_fourth, at) = enter(began + SECOND / 2, SECOND).unwrap();
        assert_eq!(at, Some(1500));
        second.redeem(began + SECOND / 2);
        // Once the promises are kept, a new client finds the tokens that there are.
        let (_fifth, at) = enter(began + 5 * SECOND / 2, SECOND).unwrap();
        assert_eq!(at, None);
    }

    #[test]
    fn a_rate_that_only_warns_makes_nobody_wait() {
        let by_key = Arc::new(QuotaByKey::default());
        let (quota, now, warned) = (Quota { warn_only: true, ..rate(1, 1) }, Instant::now(), std::cell::Cell::new(0));
        let slots: Vec<_> = (0..5)
            .map(|_| by_key.enter_by(1, quota, now, now + SECOND, |_| warned.set(warned.get() + 1)).unwrap())
            .collect();
        assert!(slots.iter().all(|(_, at)| at.is_none()));
        assert_eq!(warned.get(), 4);
    }
}
