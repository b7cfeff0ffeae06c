//! Takes back in records what weirs have left whose terms have ended.

use std::time::Instant;

use super::{Ledger, NOT_TOLD};
use crate::fleet::{
    key as of,
    lease::{
        LeaseKey,
        quota::SharedQuota,
        reclaim::{Whereabouts, left},
        record::Record,
        sights::Status,
    },
};

impl Ledger {
    /// Takes back what ended terms have left in a record. Returns whether anything was.
    pub(super) fn reclaim(
        &self,
        now: Instant,
        key: LeaseKey,
        quota: &SharedQuota,
        counted: Option<u32>,
        record: &mut Record,
    ) -> bool {
        let mut is_changed = false;
        let has_counts = match key.kind {
            of::Kind::Account => self.settings.has_counts,
            of::Kind::Server => self.settings.has_readings,
            // Servers count these for nobody.
            of::Kind::User | of::Kind::Name | of::Kind::Leafnodes => false,
        };
        let (is_past_known, mut left_by_gone) = (quota.knows_past(now), 0_u32);
        record.l.retain(|holder, entry| {
            if *holder == self.me {
                return true;
            }
            let (whereabouts, is_settled) = match self.sights.status(holder, entry) {
                Status::Lives => return true,
                Status::Left => (Whereabouts::Left, true),
                Status::Ended(since) => {
                    let gone = self.connections.gone_since(holder);
                    let whereabouts = match gone {
                        Some(gone) => Whereabouts::Gone(now.saturating_duration_since(gone)),
                        None if self.connections.is_there(holder) => Whereabouts::Connected,
                        None => Whereabouts::Unknown,
                    };
                    // As long as its connection was there it had its floor, and may have used it.
                    let began = gone.map_or(since, |gone| since.max(gone)) + self.settle(key);
                    (whereabouts, quota.reading.is_some_and(|reading| reading.began >= began))
                }
            };
            let counted = counted.filter(|_| is_settled);
            if is_past_known && counted.is_some() && matches!(whereabouts, Whereabouts::Gone(_)) {
                (left_by_gone, is_changed) = (left_by_gone.saturating_add(entry.n), true);
                return false;
            }
            let left = left(entry, whereabouts, counted, has_counts);
            is_changed |= left < entry.n || left == 0;
            entry.n = left;
            left > 0
        });
        // Whichever of them the rest is of, and whether it came through them at all: readings tell when it goes.
        record.past = record.past.saturating_add(left_by_gone.min(counted.unwrap_or_default()));
        is_changed
    }

    /// How many connections the servers may have had that are neither of weirs that live nor past weir; `None` while
    /// not all have told.
    pub(super) fn left_of(&self, now: Instant, key: LeaseKey, quota: &SharedQuota) -> Option<u32> {
        let reading = quota.reading.filter(|reading| reading.began > quota.past_changed_at)?;
        let own = quota.samples.as_ref().and_then(|samples| samples.least_since(reading.began));
        // What a weir has beyond its lease is in the record as past weir, and would be taken off twice.
        let own_lease = quota.record.l.get(&self.me).map_or(0, |entry| entry.n);
        let mut of_live = own.unwrap_or_default().min(own_lease);
        let others = quota.record.l.iter().filter(|(holder, _)| **holder != self.me);
        for (holder, entry) in others.filter(|(holder, entry)| !self.is_ended(holder, entry)) {
            let told = reading.after.and_then(|after| self.sights.told(now, holder, key, reading.began, after));
            match told {
                Some(told) => of_live = of_live.saturating_add(told.min(entry.n)),
                None if now.saturating_duration_since(reading.ended) < NOT_TOLD => return None,
                None => {}
            }
        }
        Some(reading.connections.saturating_sub(of_live.saturating_add(quota.record.past)))
    }
}
