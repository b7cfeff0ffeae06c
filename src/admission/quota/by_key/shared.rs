//! The rates of users and of patterns of names that the weirs of a fleet share: what each is called there, how it is
//! used, and which part of it weir has.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Instant,
};

use super::{Entry, Meter, QuotaByKey};
use crate::{
    admission::quota::rate::RateUse,
    fleet::{Fleet, key::Key},
};

/// Keys whose rates the fleet shares, by what its messages call them.
#[derive(Debug)]
pub(super) struct SharedKeys<K> {
    fleet: OnceLock<Arc<Fleet>>,
    keys: Mutex<BTreeMap<Key, K>>,
}

impl<K> Default for SharedKeys<K> {
    fn default() -> Self {
        Self { fleet: OnceLock::new(), keys: Mutex::default() }
    }
}

impl<K> SharedKeys<K> {
    fn keys(&self) -> MutexGuard<'_, BTreeMap<Key, K>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fleet shares the rate of this entry no longer.
    pub(super) fn forget(&self, entry: &mut Entry) {
        if std::mem::take(&mut entry.is_rate_shared)
            && let Some(shared_as) = entry.shared_as()
        {
            self.keys().remove(&shared_as);
        }
    }
}

impl Entry {
    /// What the fleet calls it.
    fn shared_as(&self) -> Option<Key> {
        self.allowance.as_ref().map(|allowance| allowance.key().key)
    }

    fn meters(&self) -> impl Iterator<Item = &Meter> {
        self.all.iter().chain(self.known.as_deref())
    }

    fn set_rate_part(&self, part: f64, now: Instant) {
        self.meters().for_each(|meter| _ = meter.tokens.set_part(part, now));
    }

    fn rate_use(&self, now: Instant) -> Option<RateUse> {
        let rate = self.quota.rate?;
        let promised_until = self.meters().filter_map(|meter| meter.promised.empty_at(now)).max();
        let was_empty = self.meters().fold(false, |any, meter| any | meter.tokens.take_was_empty());
        Some(RateUse {
            per_second: rate.per_second.get().into(),
            taken: self.taken,
            // Whoever waits for a token that is promised is without one as well.
            was_empty: was_empty || promised_until.is_some(),
            promised_until,
        })
    }
}

impl<K: Hash + Eq + Copy> QuotaByKey<K> {
    /// Weir is one of a fleet. To be called before the first client comes; the first caller counts.
    pub fn join(&self, fleet: &Arc<Fleet>) {
        let _ = self.shared.fleet.set(Arc::clone(fleet));
    }

    /// The fleet shares the rate of this key from now on if there is a rate, and else no longer.
    pub(super) fn share_rate(&self, key: K, entry: &mut Entry, now: Instant) {
        let Some(fleet) = self.shared.fleet.get() else { return };
        if entry.is_rate_shared == entry.quota.rate.is_some() {
            return;
        }
        self.shared.forget(entry);
        if entry.quota.rate.is_some()
            && let Some(shared_as) = entry.shared_as()
        {
            entry.is_rate_shared = true;
            self.shared.keys().insert(shared_as, key);
            // Until weirs have told each other what they want of it.
            entry.set_rate_part(fleet.peers().equal_part(), now);
        }
    }

    /// At most `most` rates that the fleet shares, and how they are used.
    pub fn rates(&self, most: usize, now: Instant) -> Vec<(Key, RateUse)> {
        let keys: Vec<_> = self.shared.keys().iter().take(most).map(|(shared_as, key)| (*shared_as, *key)).collect();
        keys.into_iter().filter_map(|(shared_as, key)| Some((shared_as, self.map.get(&key)?.rate_use(now)?))).collect()
    }

    /// What the fleet calls those whose rates it shares.
    pub fn rate_keys(&self) -> Vec<Key> {
        self.shared.keys().keys().copied().collect()
    }

    /// From now on this weir has this part of the rate that the fleet calls so, 0.0 to 1.0. It has none where it does
    /// not know it.
    pub fn set_rate_part(&self, shared_as: Key, part: f64, now: Instant) {
        let key = self.shared.keys().get(&shared_as).copied();
        if let Some(entry) = key.and_then(|key| self.map.get(&key)) {
            entry.set_rate_part(part, now);
        }
    }
}
