//! The connections of a quota whose clients only claim that it is theirs. They count in it, so that no client is let in
//! that it has no room for. But one that is known need not wait for them: it may take the place of one, whose client is
//! refused at its turn, or when the server has let it in. So strangers take nothing from those who have logged in
//! before.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::admission::client::Claim;

/// How many connections there are of each claim without proof.
#[derive(Debug, Default)]
pub struct UnprovenClaims {
    all: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    by_claim: HashMap<Claim, u32>,
    sum: u32,
}

impl UnprovenClaims {
    fn all(&self) -> MutexGuard<'_, Counts> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection of a claim, if `reserve` takes one.
    pub fn enter(&self, claim: Claim, reserve: impl FnOnce() -> bool) -> bool {
        let mut all = self.all();
        let reserved = reserve();
        if reserved {
            *all.by_claim.entry(claim).or_default() += 1;
            all.sum += 1;
        }
        reserved
    }

    /// Calls `with` the number of connections without proof; it does not change meanwhile.
    pub fn with_sum<T>(&self, with: impl FnOnce(u32) -> T) -> T {
        with(self.all().sum)
    }

    /// A connection of this claim has ended.
    pub fn leave(&self, claim: Claim) {
        let mut all = self.all();
        if let Entry::Occupied(mut entry) = all.by_claim.entry(claim) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
            all.sum -= 1;
        }
    }

    /// A server has let in a client with this claim: all others with it are as good. Calls `with` the number of
    /// connections without proof that are left.
    pub fn prove<T>(&self, claim: Claim, with: impl FnOnce(u32) -> T) -> T {
        let mut all = self.all();
        all.sum -= all.by_claim.remove(&claim).unwrap_or_default();
        with(all.sum)
    }

    /// Whether a quota that has room for `most` of `total` connections has none for a client with this claim any more,
    /// since known ones have come.
    pub fn is_displaced(&self, claim: Claim, total: u32, most: u32) -> bool {
        let all = self.all();
        let own = u32::from(all.by_claim.contains_key(&claim));
        total.saturating_sub(all.sum) + own > most
    }
}
