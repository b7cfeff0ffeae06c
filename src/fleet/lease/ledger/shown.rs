//! What is seen of the leases.

use std::time::Instant;

use super::Ledger;
use crate::fleet::lease::{Holder, LeaseKey, record::Entry};

/// One lease, as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseOf {
    pub holder: Holder,
    pub lease: u32,
    /// What it may admit without a membership.
    pub floor: u32,
    pub want: u32,
    /// Its term has ended.
    pub is_ended: bool,
}

impl Ledger {
    /// Whether leases are in force.
    pub fn has_leases(&self, now: Instant) -> bool {
        self.standing.is_valid(now)
    }

    /// Whether this weir goes by leases, or by the floors of leases that it has had, and not by the split.
    pub fn goes_by_leases(&self) -> bool {
        self.own.was_member() && !self.settings.is_split_only
    }

    /// The leases of a quota.
    pub fn leases(&self, key: LeaseKey) -> Vec<LeaseOf> {
        let Some(quota) = self.quotas.get(&key) else { return Vec::new() };
        let lease = |(holder, entry): (&Holder, &Entry)| LeaseOf {
            holder: holder.clone(),
            lease: entry.n,
            floor: entry.f,
            want: entry.want,
            is_ended: self.is_ended(holder, entry),
        };
        quota.record.l.iter().map(lease).collect()
    }

    /// What came past weir under a quota, as the fleet has it.
    pub fn past(&self, key: LeaseKey) -> u32 {
        self.quotas.get(&key).map_or(0, |quota| quota.record.past)
    }

    /// Whether another weir has a lease of this quota.
    pub fn others_have(&self, key: LeaseKey) -> bool {
        let Some(quota) = self.quotas.get(&key) else { return false };
        quota.record.l.keys().any(|holder| *holder != self.me)
    }
}
