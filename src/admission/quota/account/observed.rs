//! What observe mode notes in a slot: what enforce mode would have done with its client.

use std::time::Instant;

use super::{AccountSlot, Observed, Relaxed, UserAndNameSlots, Would};

impl AccountSlot {
    /// What enforce mode would have done with its client; `None` where it would have let it in at once.
    pub fn would(&self) -> Option<Would> {
        self.observed.as_deref().map(Observed::would)
    }

    /// Enforce mode would have held its client.
    pub(in crate::admission) fn is_observed(&mut self, observed: Observed) {
        self.observed = Some(Box::new(observed));
    }

    /// Its client does not wait any more. Returns when it would have had to be in.
    pub(in crate::admission) fn waits_no_longer(&mut self) -> Option<Instant> {
        self.observed.as_mut()?.waits_no_longer()
    }

    /// Enforce mode would have refused its client: it counts in no quota from now on.
    pub(in crate::admission) fn becomes_extra(&mut self, observed: Observed) {
        if !self.is_extra() {
            self.account.extra.fetch_add(1, Relaxed);
        }
        self.observed = Some(Box::new(observed));
        (self.other_quotas, self.leafnode) = (UserAndNameSlots::default(), None);
        if let Some(claim) = self.claim.take().filter(|_| self.is_counted()) {
            self.account.unproven.leave(*claim);
        }
        self.leaves_lease();
    }

    pub(super) fn is_extra(&self) -> bool {
        self.observed.as_deref().is_some_and(Observed::is_extra)
    }
}
