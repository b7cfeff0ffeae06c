//! Connections and token buckets by key: by source, user or pattern of client names. Entries come and go; each is exact
//! while it is there, and their number is bounded.

mod remembered;
mod shared;

use std::{hash::Hash, sync::Arc, time::Instant};

pub use self::remembered::RememberedKey;
use self::shared::SharedKeys;
use crate::{
    admission::{
        client::{Claim, Proof},
        params::Quota,
        quota::{
            counted_map::CountedMap,
            lease::{Lease, Share, shared},
            rate::{Rate, TokenBucket},
            unproven::UnprovenClaims,
        },
    },
    fleet::lease::allowance::Allowance,
    upstream::leaky_bucket::LeakyBucket,
};

/// The most keys that are remembered. With so many, a new key is over its quota until a sweep; known keys go on. Where
/// the quota only warns, clients of a new key are let in and not counted.
const MOST_KEYS: usize = 262_144;

/// Tokens of one rate.
#[derive(Debug)]
struct Meter {
    tokens: TokenBucket,
    /// Tokens that are promised and still to come, each for the time that one takes.
    promised: LeakyBucket,
}

impl Meter {
    fn new(rate: Rate) -> Self {
        Self { tokens: TokenBucket::new(Some(rate)), promised: LeakyBucket::default() }
    }

    /// Takes a token, or promises one that comes later: when it does. Clients that were promised a token before go
    /// first.
    fn next(&self, now: Instant) -> Option<Instant> {
        match self.promised.empty_at(now) {
            Some(until) => Some(until + self.tokens.each()),
            None => self.tokens.take(now).err().map(|wait| now + wait),
        }
    }

    /// Changes the rate. Where it rises, newcomers come behind as many tokens as are promised, but at the new rate. The
    /// clients that were promised those keep the moments that they were told, so until the last of these at most the
    /// tokens of both rates are given: burst and tokens of the new one, and what was promised at the old one.
    fn set_rate(&mut self, rate: Rate, now: Instant) {
        let before = self.tokens.each();
        self.tokens.set_rate(Some(rate), now);
        let after = self.tokens.each();
        if after < before
            && let Some(until) = self.promised.empty_at(now)
        {
            let left = (until - now).mul_f64(after.as_secs_f64() / before.as_secs_f64());
            self.promised = LeakyBucket::until(now + left);
        }
    }

    /// One with as many tokens, and as many promised.
    fn copy(&self) -> Self {
        Self { tokens: self.tokens.copy(), promised: self.promised }
    }

    fn is_full(&self, now: Instant) -> bool {
        self.promised.empty_at(now).is_none() && self.tokens.is_full(now)
    }
}

#[derive(Debug)]
struct Entry {
    quota: Quota,
    connections: u32,
    /// Of all clients.
    all: Option<Meter>,
    /// For those who are known: what others use counts once a server has let them in. Made with the first client that
    /// is not known.
    known: Option<Box<Meter>>,
    unproven: Option<Box<UnprovenClaims>>,
    /// What this weir may have, where the fleet shares the quota.
    allowance: Option<Arc<Allowance>>,
    /// Whether the fleet shares the rate.
    is_rate_shared: bool,
    /// Clients that have come.
    taken: u64,
}

impl Entry {
    fn new(quota: Quota) -> Self {
        Self {
            quota,
            connections: 0,
            all: quota.rate.map(Meter::new),
            known: None,
            unproven: None,
            allowance: None,
            is_rate_shared: false,
            taken: 0,
        }
    }

    fn unproven_sum(&self) -> u32 {
        self.unproven.as_ref().map_or(0, |unproven| unproven.with_sum(|sum| sum))
    }

    /// The configuration has another quota for it by now. What it has counts under that.
    fn change(&mut self, quota: Quota, now: Instant) {
        self.quota = quota;
        if let Some(allowance) = &self.allowance {
            allowance.set_quota(shared(quota));
        }
        match quota.rate {
            None => (self.all, self.known) = (None, None),
            Some(rate) => {
                match &mut self.all {
                    Some(all) => all.set_rate(rate, now),
                    None => self.all = Some(Meter::new(rate)),
                }
                if let Some(known) = &mut self.known {
                    known.set_rate(rate, now);
                }
            }
        }
    }

    fn is_as_good_as_new(&self, now: Instant) -> bool {
        let is_full = |meter: Option<&Meter>| meter.is_none_or(|meter| meter.is_full(now));
        self.connections == 0 && is_full(self.all.as_ref()) && is_full(self.known.as_deref())
    }

    /// The meter that says whether a client may come now.
    fn meter(&mut self, is_known: bool) -> Option<&mut Meter> {
        match &mut self.known {
            Some(known) if is_known => Some(known),
            _ => self.all.as_mut(),
        }
    }
}

/// Every key with a connection or a token bucket that is not full.
#[derive(Debug)]
pub struct QuotaByKey<K: Hash + Eq> {
    map: CountedMap<K, Entry>,
    shared: SharedKeys<K>,
}

impl<K: Hash + Eq> Default for QuotaByKey<K> {
    fn default() -> Self {
        Self { map: CountedMap::default(), shared: SharedKeys::default() }
    }
}

/// One connection of a key, given back on drop.
#[derive(Debug)]
pub struct KeySlot<K: Hash + Eq + Copy> {
    /// `None` where it could not be counted.
    of: Option<Arc<QuotaByKey<K>>>,
    key: K,
    /// What its client claims without proof.
    claim: Option<Box<Claim>>,
    /// Its place in what this weir may have, where the fleet shares the quota.
    lease: Option<Box<Lease>>,
}

impl<K: Hash + Eq + Copy> Drop for KeySlot<K> {
    fn drop(&mut self) {
        if let Some(mut entry) = self.of.as_ref().and_then(|of| of.map.get_mut(&self.key)) {
            entry.connections -= 1;
            if let Some((claim, unproven)) = self.claim.take().zip(entry.unproven.as_ref()) {
                unproven.leave(*claim);
            }
        }
    }
}

impl<K: Hash + Eq + Copy> KeySlot<K> {
    pub fn key(&self) -> K {
        self.key
    }

    /// Its place in what this weir may have, where the fleet shares the quota.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_deref()
    }

    /// The same, to take the place.
    pub fn lease_mut(&mut self) -> Option<&mut Lease> {
        self.lease.as_deref_mut()
    }

    /// Takes the token that was promised, once its time has come.
    pub fn redeem(&self, now: Instant) {
        let entry = self.of.as_ref().and_then(|of| of.map.get_mut(&self.key));
        if let Some(mut entry) = entry
            && let Some(meter) = entry.meter(self.claim.is_none())
        {
            // A rounding early or late makes no difference: promises are a token's time apart.
            let _ = meter.tokens.take(now);
        }
    }

    /// The token that was promised for then counts as taken then.
    pub fn redeem_at(&self, at: Instant) {
        let entry = self.of.as_ref().and_then(|of| of.map.get_mut(&self.key));
        if let Some(mut entry) = entry
            && let Some(meter) = entry.meter(self.claim.is_none())
        {
            meter.tokens.spent_until(at);
        }
    }

    /// Whether the key has no room for its client any more, since known ones have come.
    pub fn is_displaced(&self) -> bool {
        // Under a lease nobody takes the place of another.
        let claim = self.claim.as_deref().filter(|_| self.lease.is_none());
        let Some((claim, of)) = claim.zip(self.of.as_ref()) else { return false };
        let Some(entry) = of.map.get(&self.key) else { return false };
        let most = entry.quota.max_connections.filter(|_| !entry.quota.warn_only);
        let unproven = entry.unproven.as_ref().zip(most);
        unproven.is_some_and(|(unproven, most)| unproven.is_displaced(*claim, entry.connections, most))
    }

    /// A server has let its client in: what it only claimed until now is its own.
    ///
    /// # Errors
    /// There is no room for it, since known clients have come meanwhile.
    pub fn prove(&mut self, now: Instant) -> Result<(), Exceeded> {
        let Some((claim, of)) = self.claim.take().zip(self.of.as_ref()) else { return Ok(()) };
        let Some(entry) = of.map.get(&self.key) else { return Ok(()) };
        if let Some(known) = &entry.known {
            known.tokens.charge(now);
        }
        let most = entry.quota.max_connections.filter(|_| !entry.quota.warn_only);
        let left = entry.unproven.as_ref().map_or(0, |unproven| unproven.prove(*claim, |left| left));
        match most {
            Some(most) if self.lease.is_none() && entry.connections - left > most => Err(Exceeded::Quota),
            _ => Ok(()),
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
    /// Takes a connection slot of a key whatever its quota, and no token: the connection has been there before.
    pub fn adopt(self: &Arc<Self>, key: K, quota: Quota, share: Option<Share<'_>>, now: Instant) -> KeySlot<K> {
        if self.map.len() >= MOST_KEYS && !self.map.contains_key(&key) {
            return KeySlot { of: None, key, claim: None, lease: None };
        }
        let mut entry = self.map.get_or_insert_with(key, || Entry::new(quota));
        let entry = &mut *entry;
        if entry.quota != quota {
            entry.change(quota, now);
        }
        let lease = share.map(|share| {
            let allowance = entry.allowance.get_or_insert_with(|| share.allowance(quota));
            let mut lease = Lease::Held(allowance.take_over());
            lease.opened();
            Box::new(lease)
        });
        self.share_rate(key, entry, now);
        entry.connections += 1;
        KeySlot { of: Some(Arc::clone(self)), key, claim: None, lease }
    }

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
        self.enter_by(key, quota, Proof::Known, (now, now), None, warn).map(|(slot, _)| slot)
    }

    /// The same for a client that can wait until `latest`. A token that comes only later is promised, first come, first
    /// served; the time is when it comes, and [`KeySlot::redeem`] takes it then. Clients that are known notice nothing
    /// of those that are not.
    ///
    /// # Errors
    /// [`Exceeded`]; nothing is taken or promised then.
    pub fn enter_by(
        self: &Arc<Self>,
        key: K,
        quota: Quota,
        proof: Proof,
        (now, latest): (Instant, Instant),
        share: Option<Share<'_>>,
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
            exceeded(if quota.rate.is_some() { Exceeded::Rate } else { Exceeded::Quota })?;
            return Ok((KeySlot { of: None, key, claim: None, lease: None }, None));
        }
        let mut entry = self.map.get_or_insert_with(key, || Entry::new(quota));
        let entry = &mut *entry;
        if entry.quota != quota {
            entry.change(quota, now);
        }
        let claim = proof.missing();
        let others = if claim.is_some() { 0 } else { entry.unproven_sum() };
        let lease = match share {
            Some(share) => {
                let allowance = entry.allowance.get_or_insert_with(|| share.allowance(quota));
                let wait = || share.may_wait.then(|| allowance.wait(now)).flatten().map(Lease::Waits);
                // Who came before goes first.
                let first = if allowance.is_waited_for() { wait() } else { None };
                let place = first.or_else(|| allowance.take(now).map(Lease::Held)).or_else(wait);
                Some(place.ok_or(Exceeded::Quota)?)
            }
            None => None,
        };
        self.share_rate(key, entry, now);
        let is_leased = lease.as_ref().is_some_and(Lease::is_shared);
        if !is_leased && quota.max_connections.is_some_and(|most| entry.connections - others >= most) {
            exceeded(Exceeded::Quota)?;
        }
        if claim.is_some() && entry.known.is_none() {
            // Until now all were known.
            entry.known = entry.all.as_ref().map(|all| Box::new(all.copy()));
        }
        let mut promised = None;
        let has_two = entry.known.is_some();
        if let Some(meter) = entry.meter(claim.is_none()) {
            match meter.next(now) {
                Some(at) if quota.warn_only || at > latest => exceeded(Exceeded::Rate)?,
                next => promised = next,
            }
            if let Some(at) = promised {
                meter.promised = LeakyBucket::until(at);
            }
            if claim.is_none()
                && has_two
                && let Some(all) = &entry.all
            {
                all.tokens.charge(now);
            }
        }
        entry.connections += 1;
        entry.taken += 1;
        if let Some(claim) = claim.filter(|_| quota.max_connections.is_some()) {
            entry.unproven.get_or_insert_default().enter(claim, || true);
        }
        let lease = lease.map(Box::new);
        Ok((KeySlot { of: Some(Arc::clone(self)), key, claim: claim.map(Box::new), lease }, promised))
    }

    /// Forgets the keys without a connection whose bucket is full again.
    pub fn sweep(&self, now: Instant) {
        self.map.retain(|_, entry| {
            let stays = !entry.is_as_good_as_new(now);
            if !stays {
                self.shared.forget(entry);
            }
            stays
        });
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
    use std::time::Duration;

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
            let entered = by_key.enter_by(7, quota, Proof::Known, (now, now + longest), None, |_| {});
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

    /// A reload raises the rate while sixteen clients wait for tokens that were promised at the old one.
    #[test]
    fn a_raised_rate_leaves_nobody_behind_what_was_promised_at_the_old_one() {
        for proof in [Proof::Known, claim(1)] {
            let (by_key, now) = (Arc::new(QuotaByKey::default()), Instant::now());
            let enter = |quota, longest: u32| {
                let entered = by_key.enter_by(7, quota, proof, (now, now + longest * SECOND), None, |_| {});
                entered.map(|(slot, at)| (slot, at.map(|at| at - now)))
            };
            let mut slots: Vec<_> = (0..16).map(|_| enter(rate(1, 1), 20).unwrap()).collect();
            assert_eq!(slots[15].1, Some(15 * SECOND));
            slots.push(enter(rate(1000, 1), 1).expect("it comes soon"));
            assert_eq!(slots[16].1, Some(Duration::from_millis(16)), "behind fifteen others");
            slots.push(enter(rate(1, 1), 20).unwrap());
            assert_eq!(slots[17].1, Some(Duration::from_millis(1016)), "a lower rate is that of tokens to come");
        }
    }

    #[test]
    fn a_rate_that_only_warns_makes_nobody_wait() {
        let by_key = Arc::new(QuotaByKey::default());
        let (quota, now, warned) = (Quota { warn_only: true, ..rate(1, 1) }, Instant::now(), std::cell::Cell::new(0));
        let slots: Vec<_> = (0..5)
            .map(|_| {
                by_key
                    .enter_by(1, quota, Proof::Known, (now, now + SECOND), None, |_| warned.set(warned.get() + 1))
                    .unwrap()
            })
            .collect();
        assert!(slots.iter().all(|(_, at)| at.is_none()));
        assert_eq!(warned.get(), 4);
    }

    fn claim(n: u64) -> Proof {
        let source = std::net::IpAddr::from([192, 0, 2, 1]).into();
        Proof::Missing(Claim { source, credential: crate::identity::CredentialKey::from_raw(n) })
    }

    #[test]
    fn claims_take_no_slot_and_no_token_of_those_who_are_known() {
        let (by_key, now) = (Arc::new(QuotaByKey::default()), Instant::now());
        let quota = Quota { max_connections: Some(2), ..rate(1, 2) };
        let enter = |proof, at: Instant| by_key.enter_by(7, quota, proof, (at, at), None, |_| {}).map(|(slot, _)| slot);
        let [mut first, second] = [1, 2].map(|n| enter(claim(n), now).unwrap());
        assert_eq!(enter(claim(3), now).unwrap_err(), Exceeded::Quota);
        let known = [(); 2].map(|()| enter(Proof::Known, now).unwrap());
        assert!(first.is_displaced() && second.is_displaced());
        assert_eq!(first.prove(now), Err(Exceeded::Quota));
        drop((first, second, known));
        assert_eq!(enter(claim(3), now).unwrap_err(), Exceeded::Rate);
        assert_eq!(enter(Proof::Known, now).unwrap_err(), Exceeded::Rate, "the login of the first was good");
        by_key.sweep(now + 9 * SECOND);
        assert!(by_key.is_empty());
    }

    #[test]
    fn a_quota_that_only_warns_refuses_nobody_however_many_keys_there_are() {
        let (by_key, now) = (Arc::new(QuotaByKey::default()), Instant::now());
        let quota = Quota { max_connections: Some(1), ..Quota::default() };
        let slots: Vec<_> = (0..MOST_KEYS).map(|n| by_key.enter(n, quota, now, |_| {}).unwrap()).collect();
        assert_eq!(by_key.enter(MOST_KEYS, quota, now, |_| {}).unwrap_err(), Exceeded::Quota, "it has no rate");
        let warned = std::cell::Cell::new(0);
        let only_warns = Quota { warn_only: true, ..quota };
        let one_more = by_key.enter(MOST_KEYS, only_warns, now, |_| warned.set(warned.get() + 1));
        assert!(one_more.is_ok() && warned.get() == 1 && by_key.len() == MOST_KEYS);
        drop((slots, one_more));
        by_key.sweep(now);
        assert!(by_key.is_empty());
    }

    #[test]
    fn what_a_key_has_counts_under_a_new_quota() {
        let (by_key, now) = (Arc::new(QuotaByKey::default()), Instant::now());
        let enter = |quota| by_key.enter(7, quota, now, |_| {});
        let most = |most| Quota { max_connections: Some(most), ..Quota::default() };
        let mut held: Vec<_> = (0..5).map(|_| enter(most(5)).unwrap()).collect();
        assert_eq!(enter(most(3)).unwrap_err(), Exceeded::Quota);
        held.truncate(3);
        assert_eq!(enter(most(3)).unwrap_err(), Exceeded::Quota);
        held.push(enter(most(4)).unwrap());
        let limited = Quota { max_connections: Some(9), ..rate(1, 1) };
        held.push(enter(limited).unwrap());
        assert_eq!(enter(limited).unwrap_err(), Exceeded::Rate, "the rate is new");
        held.push(enter(Quota { max_connections: Some(9), ..rate(1, 2) }).unwrap());
        held.push(enter(most(9)).unwrap());
        assert_eq!(held.len(), 7);
        held.clear();
        by_key.sweep(now);
        assert!(by_key.is_empty());
    }
}
