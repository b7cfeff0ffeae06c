//! A server whose handshake limit weir shares with the other weirs of its fleet.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use crate::{
    fleet::{
        beat::PaceBeat,
        member::MemberId,
        pace::{InUse, Own, SharedPace, Waiting},
    },
    upstream::{
        concurrency::limit::Shown,
        fleet_pace::{FleetPace, from_beat, pace_beat},
        server::{Server, State},
    },
};

/// What is known of how the fleet shares the server.
#[derive(Debug)]
pub(super) struct SharedState {
    pace: SharedPace,
    /// What each peer has told last of its handshakes, and its limit.
    heard: Vec<(MemberId, Shown, f64)>,
    /// Logins under way by the last look: that there are fewer is seen by it.
    seen: u32,
    told: Option<(InUse, Waiting)>,
}

impl SharedState {
    fn new(me: &MemberId) -> Self {
        Self { pace: SharedPace::new(me.clone()), heard: Vec::new(), seen: 0, told: None }
    }

    fn mean_limit(&self) -> f64 {
        self.heard.iter().map(|(.., limit)| limit).sum::<f64>() / self.heard.len().max(1) as f64
    }
}

impl State {
    fn shared(&mut self, me: &MemberId) -> &mut SharedState {
        self.shared.get_or_insert_with(|| Box::new(SharedState::new(me)))
    }
}

impl Server {
    /// Looks how many logins this weir may have under way. Returns whether the others should hear at once of what it
    /// has by now.
    pub(in crate::upstream) fn look_at_pace(&self, now: Instant) -> bool {
        let Some(fleet) = self.fleet.get() else { return false };
        let mut state = self.state();
        self.set_allowance(&mut state, fleet, now);
        let (under_way, limit) = (self.load.handshakes(), state.concurrency_limit.limit());
        let login = state.concurrency_limit.mean_time();
        let waiting = fleet.state().waiting;
        let shared = state.shared(fleet.id());
        let has = (shared.pace.in_use(now, under_way, limit), waiting);
        shared.pace.has_peers() && shared.told.is_none_or(|told| shared.pace.is_news(told, has, login))
    }

    fn set_allowance(&self, state: &mut State, fleet: &FleetPace, now: Instant) {
        let (limit, under_way) = (self.handshake_limit(state, now), self.load.handshakes());
        let login = state.concurrency_limit.mean_time();
        let of_fleet = fleet.state();
        let shared = state.shared(fleet.id());
        if under_way < shared.seen {
            shared.pace.ended(now, &of_fleet.round, &of_fleet.waiting, under_way);
        }
        shared.seen = under_way;
        let (waiting, is_new) = (of_fleet.waiting, of_fleet.is_new);
        let own = Own { limit, login, under_way, waiting, is_new, beats: fleet.own_beats() };
        let allowance = shared.pace.allowance(now, &of_fleet.round, own);
        self.allowance.store(allowance.logins, Relaxed);
    }

    /// A login has begun.
    pub(super) fn pace_began(&self, now: Instant) {
        let Some(fleet) = self.fleet.get() else { return };
        let mut state = self.state();
        {
            let (mut of_fleet, under_way) = (fleet.state(), self.load.handshakes());
            let lane = of_fleet.waiting.lane;
            let shared = state.shared(fleet.id());
            shared.pace.began(now, &mut of_fleet.round, lane, under_way);
            shared.seen = under_way;
        }
        self.set_allowance(&mut state, fleet, now);
    }

    /// Whether no other login was under way beside one that has taken so long, through whatever weir.
    pub fn was_alone(&self, now: Instant, took: Duration) -> bool {
        if self.fleet.get().is_none() {
            return self.is_uncontended();
        }
        let began = now.checked_sub(took).unwrap_or(now);
        self.is_uncontended() && self.state().shared.as_ref().is_none_or(|shared| shared.pace.most_since(began) <= 1)
    }

    /// How many handshakes may be under way at once, through all weirs together.
    pub fn whole_limit(&self, now: Instant) -> u32 {
        self.handshake_limit(&self.state(), now)
    }

    /// This weir's share of that, which may be less than one; `None` where it is in no fleet, or has not looked yet.
    pub fn pace_share(&self) -> Option<f64> {
        self.fleet.get()?;
        self.state().shared.as_ref().map(|shared| shared.pace.share())
    }

    /// What this weir tells the others. `None` where it is in no fleet.
    pub fn pace_beat(&self, now: Instant) -> Option<PaceBeat> {
        let fleet = self.fleet.get()?;
        let waiting = fleet.state().waiting;
        let (mut state, under_way) = (self.state(), self.load.handshakes());
        let (limit, exact) = (state.concurrency_limit.limit(), state.concurrency_limit.exact());
        let shown = state.concurrency_limit.shown();
        let shared = state.shared(fleet.id());
        let in_use = shared.pace.in_use(now, under_way, limit);
        shared.told = Some((in_use, waiting));
        Some(pace_beat(in_use, exact, &shown))
    }

    /// Another weir has told what it has here. Returns whether it has had another turn here than was known.
    pub(in crate::upstream) fn hear_pace(
        &self,
        now: Instant,
        id: &MemberId,
        beat: &PaceBeat,
        waiting: Waiting,
    ) -> bool {
        let Some(fleet) = self.fleet.get() else { return false };
        let (in_use, limit, shown) = from_beat(beat);
        let under_way = self.load.handshakes();
        self.change(|state| {
            let shared = state.shared(fleet.id());
            let in_flight = under_way.saturating_add(shared.pace.others_under_way());
            let before = match shared.heard.iter_mut().find(|(other, ..)| other == id) {
                Some((_, before, its_limit)) => {
                    *its_limit = limit;
                    std::mem::replace(before, shown)
                }
                None => {
                    shared.heard.push((id.clone(), shown, limit));
                    shown
                }
            };
            let mean = shared.mean_limit();
            let is_turn = shared.pace.heard(now, id, (in_use, waiting), under_way);
            state.concurrency_limit.heard(now, &shown, &before, in_flight, mean);
            self.set_allowance(state, fleet, now);
            is_turn
        })
    }

    /// Another weir is gone.
    pub(in crate::upstream) fn forget_pace(&self, id: &MemberId) {
        if let Some(shared) = &mut self.state().shared {
            shared.pace.forget(id);
            shared.heard.retain(|(other, ..)| other != id);
        }
    }
}

impl State {
    pub(super) fn under_way_elsewhere(&self) -> u32 {
        self.shared.as_ref().map_or(0, |shared| shared.pace.others_under_way())
    }
}
