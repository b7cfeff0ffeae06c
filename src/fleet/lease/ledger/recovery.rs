//! A bucket that is lost with its leases, or has gone back to what it was before: weirs take their leases anew while
//! they have sessions by those of before.
//!
//! What each weir knew of the records goes into the new bucket by its first write there. But one may have raised its
//! lease at the last moment, and no other has seen it. So nobody's lease is more than it was before, or than it holds,
//! until all that lived have had the time to write theirs.

use std::time::{Duration, Instant};

use super::Ledger;
use crate::fleet::lease::{Holder, quota::SharedQuota};

/// All that live have found the new bucket within this: with the longest pause between two tries, and the answers.
const RECOVERED: Duration = Duration::from_secs(12);

/// A weir that has its membership again writes all its leases within this.
const WRITTEN: Duration = Duration::from_secs(2);

/// The time after a bucket was lost.
#[derive(Debug)]
pub(super) struct Recovery {
    since: Instant,
    /// Who lived, beside this weir.
    lived: Vec<Holder>,
    all_back_since: Option<Instant>,
}

impl Recovery {
    /// Whether those that lived may not have written yet what they have.
    fn is_open(&mut self, now: Instant, live: &[Holder]) -> bool {
        let are_back = self.lived.iter().all(|holder| live.contains(holder));
        self.all_back_since = self.all_back_since.filter(|_| are_back).or(are_back.then_some(now));
        let is_written = |since: Instant| now.saturating_duration_since(since) >= WRITTEN;
        !self.lived.is_empty() && !self.all_back_since.is_some_and(is_written)
    }
}

impl Ledger {
    /// The bucket was deleted, is another one, or has gone back: revisions begin anew. It has to be watched from its
    /// beginning.
    pub fn forget_bucket(&mut self, now: Instant) {
        self.recovers(now);
        let change = self.own.forget_bucket(now);
        self.change(change);
        self.sights.forget_bucket();
        self.under_way.clear();
        (self.own_under_way, self.has_gone_back, self.newest) = (false, false, 0);
        self.quotas.values_mut().for_each(SharedQuota::forget_bucket);
        // Whoever has a lease and does not come back is ended.
        let holders = self.quotas.values().flat_map(|quota| quota.record.l.keys()).filter(|holder| **holder != self.me);
        holders.for_each(|holder| self.sights.has_lease(now, holder));
        self.ended.clear();
        self.due.all();
    }

    /// Something that was known of the bucket is lost.
    pub(super) fn recovers(&mut self, now: Instant) {
        let mut lived: Vec<Holder> = self.sights.live().cloned().collect();
        lived.extend(self.recovery.take().into_iter().flat_map(|recovery| recovery.lived));
        lived.sort_unstable();
        lived.dedup();
        self.recovery = Some(Recovery { since: now, lived, all_back_since: None });
    }

    /// Whether the bucket has shown that it is not as it was, of which it says nothing itself: it has to be
    /// [forgotten](Self::forget_bucket), and watched from its beginning.
    pub fn has_gone_back(&self) -> bool {
        self.has_gone_back
    }

    /// The highest revision that was seen: the bucket has as many writes at least.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// To be called at each look: whether nobody's lease may rise beyond what it was before the bucket was lost.
    pub(super) fn is_recovering(&mut self, now: Instant) -> bool {
        let Some(recovery) = &mut self.recovery else { return false };
        if now.saturating_duration_since(recovery.since) >= RECOVERED {
            self.recovery = None;
            self.quotas.values_mut().for_each(SharedQuota::has_settled);
            self.due.all();
            return false;
        }
        recovery.is_open(now, &self.live)
    }
}
