//! What admission tells of those who wait, so that the weirs of a fleet share one pace, and what it hears.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    admission::{
        controller::Admission,
        queue::{Queue, waiting::Waiter},
        quota::account::{Account, AccountSlot},
    },
    fleet::{
        beat::{Beat, NextBeat},
        member::MemberId,
    },
    upstream::{NextClient, concurrency::baseline::MeasuredFrom},
};

/// Whether nobody here knows how long a login of this account takes.
fn is_new(account: &Account) -> bool {
    account.is_known() && account.login_time().is_zero()
}

impl<W: Waiter> Admission<W> {
    /// Looks how many logins each server may be given now, for those in the queue. Returns whether there is something
    /// that the other weirs should hear at once.
    pub(super) fn share_pace(&self, queue: &Queue<W>, now: Instant) -> bool {
        if self.servers.fleet_pace().is_none() {
            return false;
        }
        let next = queue.next_lane().map(|(lane, first, has_priority)| NextClient {
            lane: first.lane_by_now().unwrap_or_else(|| Arc::clone(lane)),
            has_priority,
            is_new: is_new(first.account.account()),
        });
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        self.servers.share_pace(now, (count(queue.len()), count(queue.lanes())), next.as_ref())
    }

    /// The same once turns have been given, and tells the others: not before, since a place that is free for a moment
    /// only is none for them.
    pub(super) fn tell_pace(&self, queue: &Queue<W>, now: Instant) {
        if let Some(fleet) = self.servers.fleet_pace()
            && self.share_pace(queue, now)
        {
            fleet.wake();
        }
    }

    /// The same for a client that has come while nobody waits.
    pub(super) fn share_pace_for(&self, account: &AccountSlot, now: Instant) {
        if self.servers.fleet_pace().is_none() {
            return;
        }
        let account = account.account();
        let has_priority = account.has_priority();
        let next = NextClient { lane: Arc::clone(account.name()), has_priority, is_new: is_new(account) };
        self.servers.share_pace(now, (1, 1), Some(&next));
    }

    /// A login has ended, and nobody waits here: others may need the place. Without a fleet it does nothing.
    pub fn look_at_pace(&self, now: Instant) {
        if let Some(fleet) = self.servers.fleet_pace()
            && self.queued() == 0
            && self.servers.share_pace(now, (0, 0), None)
        {
            fleet.wake();
        }
    }

    /// Another weir of the fleet has told what it has. [`Admission::next_turns`] says who may go by now.
    pub fn hear_pace(&self, now: Instant, beat: &Beat) {
        self.hear_rates(beat);
        let usual = &self.usual_latencies[MeasuredFrom::Dial as usize];
        beat.next.iter().flat_map(NextBeat::baselines).for_each(|(_, least)| usual.heard(least));
        let turns = self.servers.hear_pace(now, beat);
        if turns.is_empty() || self.queued() == 0 {
            return;
        }
        let mut state = self.queue_state();
        turns.iter().for_each(|lane| state.queue.had_turn_elsewhere(lane));
    }

    /// Another weir is gone.
    pub fn forget_pace(&self, id: &MemberId) {
        self.servers.forget_pace(id);
        self.forget_rates(id);
    }

    /// What this weir and the others have measured of the logins of an account is known to all.
    pub(super) fn share_baseline(&self, account: &Account, since: MeasuredFrom) {
        let Some(fleet) = self.servers.fleet_pace().filter(|_| account.is_known() && since == MeasuredFrom::Dial)
        else {
            return;
        };
        let least: Option<Duration> = fleet.baseline(account.name(), account.measured_alone(since));
        if let Some(least) = least {
            account.hear_baseline(since, least);
        }
    }
}
