//! What each quota's part is while no leases are in force.

use std::{collections::VecDeque, time::Instant};

use super::Ledger;
use crate::fleet::{
    lease::{
        LeaseKey,
        allowance::{Floor, InVain},
        quota::IN_VAIN,
        surroundings::Surroundings,
    },
    share,
};

/// By what quotas are split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Split {
    may_split: bool,
    is_only: bool,
    live: u32,
    position: u32,
    in_vain: Vain,
}

/// Who waits in vain while quotas are split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vain {
    Nobody,
    /// Who has waited for long.
    Long,
    Everybody,
}

impl Ledger {
    /// By what quotas are split; `None`: leases are in force.
    pub(super) fn split_by(&self, now: Instant) -> Option<Split> {
        if self.standing.is_valid(now) {
            return None;
        }
        let Surroundings { live, position, others_have_leases, is_connected, is_early } = self.surroundings;
        let is_only = self.settings.is_split_only;
        // Who has been a member and is connected waits for the bucket: others may have leases.
        let may_split = is_only || !is_early && (!is_connected || !self.own.was_member() && !others_have_leases);
        // Who has had no lease yet and may not go by the split, since others have leases, gets one when the bucket
        // answers: its clients wait for that.
        let awaits_first = is_connected && !self.own.was_member() && !may_split;
        let has_hope = is_early || awaits_first || !self.standing.is_by_floors(now);
        let in_vain = match (has_hope, may_split) {
            (true, _) => Vain::Nobody,
            (false, true) => Vain::Everybody,
            // Most of the time the bucket answers again in a moment.
            (false, false) => Vain::Long,
        };
        Some(Split { may_split, is_only, live, position, in_vain })
    }

    /// What each quota's part is while this weir goes by the split.
    pub(super) fn split(&mut self, now: Instant, to_look_at: &VecDeque<LeaseKey>) {
        let Some(Split { may_split, is_only, live, position, in_vain }) = self.split_by else { return };
        let in_vain = match in_vain {
            Vain::Nobody => InVain::Nobody,
            Vain::Everybody => InVain::Everybody,
            Vain::Long => now.checked_sub(IN_VAIN).map_or(InVain::Nobody, InVain::Since),
        };
        for key in to_look_at {
            let Some(quota) = self.quotas.get_mut(key) else { continue };
            let allowance = quota.allowance.as_ref();
            let most = allowance.and_then(|allowance| allowance.quota()).filter(|_| may_split);
            let part = most.map_or(0, |most| share::equal(most, live, position));
            quota.splits(Floor { most: part, of: most.unwrap_or(0) }, is_only, in_vain);
            if quota.allowance.as_ref().is_some_and(|allowance| allowance.is_waited_for()) {
                self.due.mark(*key, quota);
            }
        }
    }
}
