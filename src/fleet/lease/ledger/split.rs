//! What each quota's part is while no leases are in force.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::Ledger;
use crate::fleet::{
    lease::{
        Holder, LeaseKey,
        allowance::{Floor, InVain},
        membership::EXPIRE,
        quota::{IN_VAIN, SharedQuota},
        surroundings::Surroundings,
    },
    share,
};

/// By what quotas are split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Split {
    may_split: bool,
    is_only: bool,
    is_connected: bool,
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

/// Others have heard within this that a weir has leases again, split no more, and have told what they hold.
const OTHERS_HAVE_TOLD: Duration = Duration::from_millis(1500);

/// How far a weir that has gone by the split is with going by leases again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterSplit {
    /// It has split nothing since it had leases, or that is long ago.
    Over,
    Splits,
    /// It has leases again since then: others may let clients in by the split still.
    LeasedSince(Instant),
}

impl Ledger {
    /// To be called at each look, once it is known by what quotas are split.
    pub(super) fn look_after_split(&mut self, now: Instant) {
        let splits = self.split_by.is_some_and(|split| split.may_split && split.is_connected && !split.is_only);
        self.after_split = match (self.after_split, self.standing.is_valid(now)) {
            (_, false) if splits => AfterSplit::Splits,
            (AfterSplit::Splits, true) => AfterSplit::LeasedSince(now),
            (AfterSplit::LeasedSince(since), _) if now.saturating_duration_since(since) >= OTHERS_HAVE_TOLD => {
                self.due.all();
                AfterSplit::Over
            }
            (before, _) => before,
        };
    }

    /// Whether others may let clients in by the split of which this weir has not heard: it takes no more than it has.
    pub(super) fn is_after_split(&self) -> bool {
        matches!(self.after_split, AfterSplit::LeasedSince(_))
    }

    /// By what quotas are split; `None`: leases are in force.
    pub(super) fn split_by(&self, now: Instant) -> Option<Split> {
        if self.standing.is_valid(now) {
            return None;
        }
        let Surroundings { live, position, others_have_leases, is_connected, is_early } = self.surroundings;
        let is_only = self.settings.is_split_only;
        // Who has been a member and is connected waits for the bucket, as long as others may have leases.
        let have_others_none = || !others_have_leases && (!self.own.was_member() || self.has_nobody_leases(now));
        let may_split = is_only || !is_early && (!is_connected || have_others_none());
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
        Some(Split { may_split, is_only, is_connected, live, position, in_vain })
    }

    /// To be called at each look: whether somebody may have leases.
    pub(super) fn look_for_leases(&mut self, now: Instant) {
        let is_unheard = |holder: &Holder| !self.heard.contains_key(holder);
        if self.standing.is_valid(now) || self.surroundings.others_have_leases || self.sights.live().any(is_unheard) {
            self.leases_seen_at = now;
        }
    }

    /// Whether all weirs that the bucket knew are heard, and none has had leases for so long that each has told what it
    /// holds since: nobody gets another lease before the bucket answers.
    fn has_nobody_leases(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.leases_seen_at) >= EXPIRE
    }

    /// What each quota's part is while this weir goes by the split.
    pub(super) fn split(&mut self, now: Instant, to_look_at: &VecDeque<LeaseKey>) {
        let Some(Split { may_split, is_only, is_connected, live, position, in_vain }) = self.split_by else { return };
        let in_vain = match in_vain {
            Vain::Nobody => InVain::Nobody,
            Vain::Everybody => InVain::Everybody,
            Vain::Long => now.checked_sub(IN_VAIN).map_or(InVain::Nobody, InVain::Since),
        };
        for key in to_look_at {
            let Some(quota) = self.quotas.get_mut(key) else { continue };
            let allowance = quota.allowance.as_ref();
            let most = allowance.and_then(|allowance| allowance.quota()).filter(|_| may_split);
            let part = most.map_or(0, |most| match is_only || !is_connected {
                true => share::equal(most, live, position),
                false => part_beside(most, (live, position), quota, &self.me),
            });
            quota.splits(Floor { most: part, of: most.unwrap_or(0) }, is_only, in_vain);
            if quota.allowance.as_ref().is_some_and(|allowance| allowance.is_waited_for()) {
                self.due.mark(*key, quota);
            }
        }
    }
}

/// The equal part of a weir that hears the others, without what those have beyond theirs: the leases that they had,
/// which are in force again as soon as the bucket answers, connections, and what came past all weirs.
fn part_beside(most: u32, (live, position): (u32, u32), quota: &SharedQuota, me: &Holder) -> u32 {
    let most = most.saturating_sub(quota.record.past);
    let (own, part) = (share::equal(most, live, position), most / live.max(1));
    let leases = quota.record.l.iter().map(|(holder, entry)| (holder, entry.n));
    let held = quota.reports.iter().map(|(holder, report)| (holder, report.held));
    let mut has = BTreeMap::<&Holder, u32>::new();
    for (holder, many) in leases.chain(held).filter(|(holder, _)| *holder != me) {
        let most = has.entry(holder).or_default();
        *most = many.max(*most);
    }
    let beyond = has.values().map(|many| many.saturating_sub(part)).fold(0, u32::saturating_add);
    // What cannot be divided equally goes to some of the others, one each.
    let of_others = most.saturating_sub(own).saturating_sub(part.saturating_mul(live.saturating_sub(1)));
    own.saturating_sub(beyond.saturating_sub(of_others))
}
