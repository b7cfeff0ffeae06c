//! How the weirs of a fleet share the handshake limit of a server, so that a server that can do two logins at a time
//! gets two from all of them.
//!
//! Each weir knows by the last beats how many logins the others have under way on the server and how many clients wait
//! with them, and decides for itself. Nobody holds anything that would have to be given back, and no beat is waited
//! for: one that is lost costs a moment of too much or of too little.
//!
//! | what is known | how many logins this weir may have under way there |
//! |---|---|
//! | no other weir has a login there, or a client that waits | the limit |
//! | shares by demand ([`top_share`]) | its share, rounded down, at any time |
//! | a place is free beyond the shares, which are rounded down | one more, in its turn |
//! | logins take less than [`QUICK_LOGIN`] | its share, rounded up: turns would take longer than logins |
//!
//! **Turns.** A free place is for the weir whose next client is of the account that has had no turn for longest, in the
//! whole fleet; of several such, for the weir that has had none for longest. Beats carry numbers of turns for that:
//! each turn gets the next number after the highest that its weir has seen ([`Round`]), so that no clocks are compared.
//! The first in this order begins at once. The next one waits for [`STEP`], the one after it for twice that, and so on,
//! and begins only if the place is still free: so a turn that its weir does not take, or does not know of, is not lost.
//! Where nobody knows yet how long logins of an account take, all weirs wait for each other so, also those that have
//! nobody waiting: clients of an account that come to all weirs at the same moment would else be logged in at the same
//! moment, and their logins would be taken for as slow as they are then.
//!
//! The first of all, by its account, has the place of a login that has ended, also where one more was under way than
//! the limit: the others may go by a higher one, and would take the place.
//!
//! A storm comes to all weirs at about the same moment, when none knows yet what the others have, and each would take
//! what it finds free. So as long as another has told of nothing, a weir shares the limit equally with all, as if each
//! had as much to do: its part it has at once, and it goes beyond it in steps, by one login, by two, by four and so on.
//! A step is taken once a beat that tells of the step before has come back to the weir from its server, and after
//! [`HEARD_WITHIN`] at least: what others tell has come meanwhile, and busy servers take longer with both.
//!
//! A weir with its turn goes on for [`TURN`], unless a client of another account has to wait for it.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::fleet::{key::Key, link::OwnBeats, member::MemberId};

/// How long the second in the order of turns waits for the first. More than a beat takes from one weir to another.
const STEP: Duration = Duration::from_millis(8);
/// What others tell is heard within this time, also where all servers are busy with logins: then 99 of 100 beats take
/// 37 ms at most, measured with bcrypt on two cores.
const HEARD_WITHIN: Duration = Duration::from_millis(40);
/// A beat of this weir that has not come back for so long is waited for no longer.
const COMES_BACK_WITHIN: Duration = Duration::from_millis(250);
/// How long a weir goes on with its turn. Logins that take longer than this get a turn each.
const TURN: Duration = Duration::from_millis(50);
/// Logins that take less are over before other weirs have heard of them.
pub const QUICK_LOGIN: Duration = Duration::from_millis(10);
/// The place of a login that has ended is kept this long for the next one.
const KEPT_FOR: Duration = Duration::from_millis(2);
/// A weir whose clients have waited so long for a turn takes one, whatever the others say: each of them may have had
/// two by then. Whoever forges beats can delay turns, and not end them.
const LONGEST_WAIT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// The most accounts whose last turns are remembered.
const MOST_LANES: usize = 1024;

/// So many turns are caught up with at once: a weir that begins has missed all that others have had, and a number that
/// is made up must not bring the last one near.
const MOST_TURNS_AT_ONCE: u64 = 1 << 20;

/// Changes of how many logins are under way that are remembered.
const MOST_KEPT: usize = 64;

/// The account of a client, or its source where nobody has named the account.
pub type Lane = Key;

/// The order of turns in the whole fleet, as this weir has seen it.
#[derive(Debug, Default)]
pub struct Round {
    last: u64,
    /// The number of the last turn of each lane.
    lanes: HashMap<Lane, u64>,
}

impl Round {
    /// A client of this lane has its turn. Returns the number of the turn.
    pub fn take(&mut self, lane: Lane) -> u64 {
        self.note(lane, self.last.saturating_add(1));
        self.last
    }

    /// Another weir has told that a client of this lane has had the turn with this number. Returns whether that is
    /// news. To be called once for each turn of each weir: turns that begin before their weirs have heard of each other
    /// have the same number, and the lane has had all of them. One of these is news as long as no lane has had a later
    /// turn.
    pub fn heard(&mut self, lane: Lane, turn: u64) -> bool {
        let turn = turn.min(self.last.saturating_add(MOST_TURNS_AT_ONCE));
        let of_lane = self.of_lane(lane);
        let is_news = turn > of_lane || turn == of_lane && turn == self.last;
        if is_news {
            self.note(lane, turn);
        }
        is_news
    }

    /// The number of the last turn of this lane; 0 where it has had none of late.
    pub fn of_lane(&self, lane: Lane) -> u64 {
        self.lanes.get(&lane).copied().unwrap_or_default()
    }

    fn note(&mut self, lane: Lane, turn: u64) {
        self.last = self.last.max(turn);
        self.lanes.insert(lane, turn);
        if self.lanes.len() > MOST_LANES {
            let keep = self.last.saturating_sub(MOST_LANES as u64 / 2);
            self.lanes.retain(|_, turn| *turn >= keep);
        }
    }
}

/// The clients that wait at one weir.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// How many.
    pub clients: u32,
    /// Of how many accounts.
    pub lanes: u32,
    /// Whether the next of them goes before those of other accounts.
    pub has_priority: bool,
    /// Whose turn is next.
    pub lane: Lane,
    /// The number of the last turn of that lane that the weir has seen.
    pub lane_turn: u64,
}

impl Waiting {
    /// Nobody waits.
    pub const NOBODY: Self = Self { clients: 0, lanes: 0, has_priority: false, lane: Key::LOWEST, lane_turn: 0 };
}

/// What one weir has under way on one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InUse {
    /// Logins under way there, and the place that it keeps for its next one.
    pub places: u32,
    /// The handshake limit there, as the weir has found it.
    pub limit: u32,
    /// The number of its last turn there, and whose it was.
    pub turn: u64,
    pub lane: Lane,
}

/// Another weir of the fleet.
#[derive(Debug)]
struct Peer {
    id: MemberId,
    in_use: InUse,
    waiting: Waiting,
    /// It did not take its turn, so nobody waits for it until it is heard of again.
    has_missed: bool,
    /// By the last look, it goes before this weir.
    is_before: bool,
}

impl Peer {
    fn demand(&self) -> u32 {
        self.in_use.places.saturating_add(self.waiting.clients)
    }

    /// The order of its next client beside this weir's, whose order is `mine`. Where the account that it has told of
    /// has had a turn since, it goes on with another of its accounts. Nobody has told with which: it had its last turn
    /// later than the one that was next, and is taken for one like this weir's.
    fn lane_order(&self, round: &Round, mine: LaneOrder) -> LaneOrder {
        let Waiting { lanes, has_priority, lane, lane_turn, .. } = self.waiting;
        match lanes > 1 && round.of_lane(lane) > lane_turn {
            true => (!has_priority, mine.1.max(lane_turn.saturating_add(1))),
            false => lane_order(&self.waiting, round),
        }
    }
}

/// What a weir may do on a server now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// How many logins it may have under way there.
    pub logins: u32,
    /// When that may become more without a word of anybody.
    pub look_again: Option<Instant>,
}

/// What this weir itself has, and knows of the server.
#[derive(Debug, Clone, Copy)]
pub struct Own {
    /// The handshake limit of the server, for the whole fleet.
    pub limit: u32,
    /// How long logins have taken there of late.
    pub login: Option<Duration>,
    /// Logins under way.
    pub under_way: u32,
    pub waiting: Waiting,
    /// Nobody knows how long logins of the next client's account take.
    pub is_new: bool,
    /// Which of its beats have come back to it by now.
    pub beats: OwnBeats,
}

/// How weirs share one server, as one of them sees it.
#[derive(Debug)]
pub struct SharedPace {
    me: MemberId,
    peers: Vec<Peer>,
    turn: u64,
    lane: Lane,
    turn_ends: Option<Instant>,
    /// Until when the place of a login that has ended is kept for the next one.
    keeps_until: Option<Instant>,
    /// Places free by the last look, and since when.
    free: (u32, Option<Instant>),
    /// This weir's share by the last look.
    share: f64,
    steps: Steps,
    /// Since when clients wait here without a turn.
    waits_since: Option<Instant>,
    /// Logins under way, all weirs together, when the next client here became the first of all that wait.
    when_first: Option<u32>,
    /// When how many logins were under way, all weirs together: each is more than those that follow.
    most: VecDeque<(Instant, u32)>,
}

/// How far this weir has gone beyond its part of the limit, while others have told of nothing.
#[derive(Debug, Default)]
struct Steps {
    /// So many logins more than its part may be under way.
    beyond: u32,
    /// Since when as many are under way as may be, and the number of the beat that tells so.
    full: Option<(Instant, u64)>,
}

impl Steps {
    /// How many of the `allowed` logins may be under way now, with this `part` at once.
    fn allowance(&mut self, now: Instant, part: u32, own: Own, allowed: Allowance) -> Allowance {
        let at_once = part.saturating_add(self.beyond);
        if own.under_way >= at_once && allowed.logins > at_once {
            let (since, beat) = *self.full.get_or_insert((now, own.beats.begun + 1));
            let next_step = since + if own.beats.came_back < beat { COMES_BACK_WITHIN } else { HEARD_WITHIN };
            if now < next_step {
                return Allowance { logins: own.under_way, look_again: Some(next_step) };
            }
            *self = Self { beyond: (self.beyond * 2).clamp(1, own.limit), full: None };
        }
        Allowance { logins: allowed.logins.min(part.saturating_add(self.beyond)), ..allowed }
    }
}

/// The most that anybody gets of a `limit` by max-min fairness: who wants less has what it wants, the others have
/// this.
pub fn top_share(limit: f64, demands: &mut [u32]) -> f64 {
    demands.sort_unstable();
    let (mut left, mut sharers) = (limit, demands.len());
    for demand in demands {
        let each = left / sharers as f64;
        if f64::from(*demand) >= each {
            return each;
        }
        left -= f64::from(*demand);
        sharers -= 1;
    }
    f64::INFINITY
}

impl SharedPace {
    pub fn new(me: MemberId) -> Self {
        Self {
            me,
            peers: Vec::new(),
            turn: 0,
            lane: Key::LOWEST,
            turn_ends: None,
            keeps_until: None,
            free: (0, None),
            share: 0.0,
            steps: Steps::default(),
            waits_since: None,
            when_first: None,
            most: VecDeque::new(),
        }
    }

    /// Keeps in mind how many logins are under way, of which this weir has so many.
    fn note(&mut self, now: Instant, under_way: u32) {
        let all = under_way.saturating_add(self.others_under_way());
        while self.most.back().is_some_and(|(_, many)| *many <= all) {
            self.most.pop_back();
        }
        self.most.push_back((now, all));
        if self.most.len() > MOST_KEPT {
            self.most.pop_front();
        }
    }

    /// The most logins that were under way since then, all weirs together.
    pub fn most_since(&self, then: Instant) -> u32 {
        let before = self.most.iter().rev().find(|(at, _)| *at <= then);
        before.or(self.most.front()).map_or(0, |(_, many)| *many)
    }

    /// A peer has told what it has, while this weir has so many logins under way. Returns whether it has had another
    /// turn than was known.
    pub fn heard(&mut self, now: Instant, id: &MemberId, (in_use, waiting): (InUse, Waiting), under_way: u32) -> bool {
        let peer = Peer { id: id.clone(), in_use, waiting, has_missed: false, is_before: false };
        let turn_before = match self.peers.binary_search_by(|other| other.id.cmp(id)) {
            Ok(n) => std::mem::replace(&mut self.peers[n], peer).in_use.turn,
            Err(n) => {
                self.peers.insert(n, peer);
                0
            }
        };
        self.note(now, under_way);
        in_use.turn != turn_before
    }

    /// A peer has gone.
    pub fn forget(&mut self, id: &MemberId) {
        self.peers.retain(|peer| peer.id != *id);
    }

    /// This weir's share of the limit by the last look.
    pub fn share(&self) -> f64 {
        self.share
    }

    /// Whether any other weir is known.
    pub fn has_peers(&self) -> bool {
        !self.peers.is_empty()
    }

    /// Logins under way at the others.
    pub fn others_under_way(&self) -> u32 {
        self.peers.iter().map(|peer| peer.in_use.places).fold(0, u32::saturating_add)
    }

    /// Whether another weir has logins there, or clients that wait.
    pub fn is_shared(&self) -> bool {
        self.peers.iter().any(|peer| peer.demand() > 0)
    }

    /// What this weir tells the others.
    pub fn in_use(&self, now: Instant, under_way: u32, limit: u32) -> InUse {
        let kept = u32::from(self.keeps_until.is_some_and(|until| now < until));
        InUse { places: under_way + kept, limit, turn: self.turn, lane: self.lane }
    }

    /// Whether the others should hear at once of what this weir has by now, since they were `told` something else.
    pub fn is_news(&self, told: (InUse, Waiting), now: (InUse, Waiting), login: Option<Duration>) -> bool {
        let ((before, waited), (after, waits)) = (told, now);
        let has_begun = (waited.clients == 0) != (waits.clients == 0) || waited.has_priority != waits.has_priority;
        if login.is_some_and(|login| login < QUICK_LOGIN) {
            return has_begun;
        }
        // Who has several accounts waiting gives each its turn by the turns that it has had elsewhere.
        let has_gone_on = before.turn != after.turn && self.peers.iter().any(|peer| peer.waiting.lanes > 1);
        // All go by the highest limit that is told: where a weir has told a higher one than it goes by, others take
        // places that it finds taken.
        let has_place = before.places != after.places || before.limit != after.limit;
        has_begun || has_gone_on || has_place || waited.lane != waits.lane
    }

    /// How many logins this weir may have under way. To be asked again when a peer is heard of, when a login begins or
    /// ends, and then.
    pub fn allowance(&mut self, now: Instant, round: &Round, own: Own) -> Allowance {
        let allowed = self.by_what_is_heard(now, round, own);
        let any_is_silent = self.peers.iter().any(|peer| peer.demand() == 0);
        let part = if any_is_silent { own.limit.div_ceil(self.peers.len() as u32 + 1) } else { own.limit };
        let is_quick = own.login.is_some_and(|login| login < QUICK_LOGIN);
        if is_quick || own.under_way.saturating_add(own.waiting.clients.max(1)) <= part {
            self.steps = Steps::default();
            return allowed;
        }
        self.steps.allowance(now, part, own, allowed)
    }

    /// The same by what the others have told so far.
    fn by_what_is_heard(&mut self, now: Instant, round: &Round, own: Own) -> Allowance {
        let all_of = |logins: u32| Allowance { logins, look_again: None };
        if !self.is_shared() && (!own.is_new || self.peers.is_empty()) {
            self.share = own.limit.into();
            return all_of(own.limit);
        }
        let own = Own { limit: self.common_limit(own.limit), ..own };
        let mine = own.under_way.saturating_add(own.waiting.clients.max(1));
        let mut demands: Vec<u32> =
            self.peers.iter().map(Peer::demand).filter(|demand| *demand > 0).chain([mine]).collect();
        let top = top_share(own.limit.into(), &mut demands);
        self.share = top.min(own.limit.into());
        if own.login.is_some_and(|login| login < QUICK_LOGIN) {
            return all_of((top.ceil() as u32).clamp(1, own.limit.max(1)));
        }
        let share = |demand: u32| f64::from(demand).min(top) as u32;
        // A place beyond the limit is not kept: it would stay beyond it for as long as logins follow each other.
        let all = own.under_way.saturating_add(self.others_under_way());
        if all < own.limit && self.keeps_until.is_some_and(|until| now < until) {
            return all_of(own.under_way + 1);
        }
        let waits_since = *self.waits_since.get_or_insert(now);
        if own.waiting.clients == 0 {
            self.waits_since = None;
        } else if own.under_way == 0 && now >= waits_since + self.longest_wait(&own) {
            return all_of(1);
        }
        let my_lane = lane_order(&own.waiting, round);
        let waiting = || self.peers.iter().filter(|peer| peer.waiting.clients > 0 && !peer.has_missed);
        let is_older = |peer: &Peer| peer.lane_order(round, my_lane) < my_lane;
        let of_older_lanes = waiting().filter(|peer| is_older(peer)).count() as u32;
        let has_share = own.under_way < share(mine) && !own.is_new;
        // Others are kept their shares, but for a lane that has had no turn for longest.
        let is_first = own.waiting.clients > 0 && waiting().all(|peer| my_lane < peer.lane_order(round, my_lane));
        let used = |peer: &Peer| match is_first || has_share {
            true => peer.in_use.places,
            false => peer.in_use.places.max(share(peer.demand())),
        };
        let used = self.peers.iter().map(used).fold(own.under_way, u32::saturating_add);
        let mut free = own.limit.saturating_sub(used);
        self.when_first = match is_first && waiting().next().is_some() {
            true => self.when_first.or(Some(all)),
            false => None,
        };
        // The first of all has the place of a login that has ended, also where that one was beyond the limit.
        if all == own.limit && own.under_way < own.limit && self.when_first.is_some_and(|before| all < before) {
            free = 1;
        }
        if has_share && (of_older_lanes == 0 || free > of_older_lanes) {
            return all_of(share(mine));
        }
        if free == 0 && !has_share {
            self.free = (0, None);
            return all_of(own.under_way);
        }
        if self.free.0 != free {
            self.free = (free, Some(now));
        }
        let since = *self.free.1.get_or_insert(now);
        let my_order = (my_lane, self.turn, &self.me);
        let mut before_me = 0;
        for peer in &mut self.peers {
            peer.is_before = !peer.has_missed
                && match (peer.waiting.clients, is_older(peer)) {
                    (0, _) => own.is_new && peer.id < self.me,
                    (_, true) => true,
                    (_, false) if has_share => false,
                    (_, false) => {
                        let is_beyond = peer.in_use.places >= share(peer.demand());
                        is_beyond && (peer.lane_order(round, my_lane), peer.in_use.turn, &peer.id) < my_order
                    }
                };
            before_me += u32::from(peer.is_before);
        }
        let waits = before_me.saturating_sub(free.saturating_sub(1));
        let at = since + STEP * waits;
        if now >= at { all_of(own.under_way + 1) } else { Allowance { logins: own.under_way, look_again: Some(at) } }
    }

    /// Limits of several weirs are never quite the same. All go by the highest, so that none waits for a place that the
    /// others take for theirs; but by no more than one above its own, since what others say is not trusted further.
    fn common_limit(&self, own: u32) -> u32 {
        let highest = self.peers.iter().map(|peer| peer.in_use.limit).max().unwrap_or_default();
        own.max(highest.min(own.saturating_add(1)))
    }

    fn longest_wait(&self, own: &Own) -> Duration {
        let Some(login) = own.login.filter(|_| !own.is_new) else { return LONGEST_WAIT.1 };
        let two_rounds = login.min(LONGEST_WAIT.1) * 2 * (self.peers.len() as u32 + 1) / own.limit.max(1);
        two_rounds.clamp(LONGEST_WAIT.0, LONGEST_WAIT.1)
    }

    /// This weir begins a login of this lane, and has so many under way with it.
    pub fn began(&mut self, now: Instant, round: &mut Round, lane: Lane, under_way: u32) {
        self.note(now, under_way);
        let goes_on = self.keeps_until.take().is_some_and(|until| now < until);
        if self.peers.is_empty() {
            return;
        }
        if !goes_on {
            self.turn_ends = Some(now + TURN);
            // Whoever was before this weir has had its time.
            if self.free.1.is_some_and(|since| now >= since + STEP) {
                self.peers.iter_mut().for_each(|peer| peer.has_missed |= std::mem::take(&mut peer.is_before));
            }
        }
        (self.free, self.waits_since, self.when_first) = ((0, None), None, None);
        self.turn = round.take(lane);
        self.lane = lane;
    }

    /// A login of this weir has ended; so many are under way without it.
    pub fn ended(&mut self, now: Instant, round: &Round, waiting: &Waiting, under_way: u32) {
        self.note(now, under_way);
        let goes_on = self.turn_ends.is_some_and(|until| now < until) && waiting.clients > 0 && self.is_shared();
        let mine = lane_order(waiting, round);
        let must_wait =
            |peer: &Peer| peer.waiting.clients > 0 && !peer.has_missed && peer.lane_order(round, mine) < mine;
        let keeps = goes_on && !self.peers.iter().any(must_wait);
        self.keeps_until = keeps.then(|| now + KEPT_FOR);
        if waiting.clients == 0 {
            self.steps = Steps::default();
        }
    }
}

/// Those that have priority first, then those of the account that has had no turn for longest.
type LaneOrder = (bool, u64);

/// The order of turns by whose clients wait.
fn lane_order(waiting: &Waiting, round: &Round) -> LaneOrder {
    (!waiting.has_priority, waiting.lane_turn.max(round.of_lane(waiting.lane)))
}

#[cfg(test)]
mod simulation;

#[cfg(test)]
mod tests;
