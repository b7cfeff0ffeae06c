//! One pace for all weirs of a fleet: what each server's handshake limit leaves to this weir, what it tells the others,
//! and what it hears of them. The decisions are those of [`pace`](crate::fleet::pace).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    fleet::{
        Fleet,
        beat::{Beat, MOST_BASELINES, NextBeat, PaceBeat},
        key::{Key, Kind},
        link::OwnBeats,
        member::MemberId,
        pace::{InUse, Round, Waiting},
    },
    upstream::{Servers, concurrency::limit::Shown},
};

/// The most accounts of which baselines and names are remembered.
const MOST_ACCOUNTS: usize = 1024;

/// The client whose turn is next, or that is about to get one.
#[derive(Debug, Clone)]
pub struct NextClient {
    /// The lane in which it waits: the name of its account, or of its source.
    pub lane: Arc<str>,
    pub has_priority: bool,
    /// No login of its account has ended here.
    pub is_new: bool,
}

/// What all servers have in common of the pace.
#[derive(Debug)]
pub struct FleetPace {
    fleet: Arc<Fleet>,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) round: Round,
    pub(super) waiting: Waiting,
    /// Nobody knows how long logins of the next client's account take.
    pub(super) is_new: bool,
    /// Baselines that this weir or another has measured without another login beside.
    baselines: HashMap<Key, Duration>,
    /// Those that this weir has measured since its last beat.
    to_tell: BTreeMap<Key, Duration>,
    /// The lanes that have been next here, so that beats that speak of them are understood.
    names: HashMap<Key, Arc<str>>,
    /// The key of the lane that was next last: mostly it is the same again.
    last: Option<(Arc<str>, Key)>,
}

/// Beyond its bound a table is emptied: what it held is heard or measured again.
fn bounded<V>(table: &mut HashMap<Key, V>) -> &mut HashMap<Key, V> {
    if table.len() >= MOST_ACCOUNTS {
        table.clear();
    }
    table
}

impl FleetPace {
    pub fn new(fleet: Arc<Fleet>) -> Self {
        let state = State {
            round: Round::default(),
            waiting: Waiting::NOBODY,
            is_new: false,
            baselines: HashMap::new(),
            to_tell: BTreeMap::new(),
            names: HashMap::new(),
            last: None,
        };
        Self { fleet, state: Mutex::new(state) }
    }

    /// What this weir is called.
    pub fn id(&self) -> &MemberId {
        self.fleet.id()
    }

    /// The numbers of this weir's own beats.
    pub(super) fn own_beats(&self) -> OwnBeats {
        self.fleet.link().own_beats()
    }

    /// Whoever holds this asks for no other lock.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The others hear at once of what has changed.
    pub fn wake(&self) {
        self.fleet.link().beats().wake();
    }

    /// So many clients wait in so many lanes; `next` is whose turn is next.
    fn set_waiting(&self, (clients, lanes): (u32, u32), next: Option<&NextClient>) {
        let mut state = self.state();
        let Some(next) = next else {
            (state.waiting, state.is_new) = (Waiting::NOBODY, false);
            return;
        };
        let key = match &state.last {
            Some((lane, key)) if *lane == next.lane => *key,
            _ => self.fleet.keys().of(Kind::Account, &next.lane),
        };
        state.last = Some((Arc::clone(&next.lane), key));
        if !state.names.contains_key(&key) {
            bounded(&mut state.names).insert(key, Arc::clone(&next.lane));
        }
        let lane_turn = state.round.of_lane(key);
        state.waiting = Waiting { clients, lanes, has_priority: next.has_priority, lane: key, lane_turn };
        state.is_new = next.is_new && !state.baselines.contains_key(&key);
    }

    /// The baseline of this account, as another weir or this one has measured it; `measured` is what this weir has
    /// measured alone.
    pub fn baseline(&self, account: &str, measured: Option<Duration>) -> Option<Duration> {
        let key = self.fleet.keys().of(Kind::Account, account);
        let mut state = self.state();
        if let Some(measured) = measured
            && state.baselines.get(&key) != Some(&measured)
        {
            bounded(&mut state.baselines).insert(key, measured);
            if state.to_tell.len() < MOST_BASELINES {
                state.to_tell.insert(key, measured);
            }
        }
        state.baselines.get(&key).copied()
    }

    /// What a beat says of whose turn is next, and of how long logins take. To be called once for each beat.
    pub fn next_beat(&self) -> NextBeat {
        let mut state = self.state();
        let micros = |least: Duration| u32::try_from(least.as_micros()).unwrap_or(u32::MAX);
        let logins = std::mem::take(&mut state.to_tell).into_iter().map(|(key, least)| (key, micros(least))).collect();
        let Waiting { clients, lanes, has_priority, lane, lane_turn } = state.waiting;
        NextBeat { clients, lanes, priority: has_priority, lane, lane_turn, logins }
    }
}

/// How beats say sums of fractions, and fractions.
const MILLI: f64 = 1000.0;

fn milli(fraction: f64) -> u64 {
    (fraction * MILLI) as u64
}

/// What a beat says of one server.
pub(super) fn pace_beat(in_use: InUse, limit: f64, shown: &Shown) -> PaceBeat {
    PaceBeat {
        places: in_use.places,
        turn: in_use.turn,
        lane: in_use.lane,
        limit_milli: milli(limit),
        finished: shown.finished,
        ratios_milli: milli(shown.ratios),
        unbounded_milli: milli(shown.unbounded_ratios),
        took_ms: milli(shown.seconds),
        timed_out: shown.timed_out,
    }
}

/// The opposite of [`pace_beat`].
pub(super) fn from_beat(beat: &PaceBeat) -> (InUse, f64, Shown) {
    let fraction = |milli: u64| milli as f64 / MILLI;
    let limit = fraction(beat.limit_milli);
    let shown = Shown {
        finished: beat.finished,
        ratios: fraction(beat.ratios_milli),
        unbounded_ratios: fraction(beat.unbounded_milli),
        seconds: fraction(beat.took_ms),
        timed_out: beat.timed_out,
    };
    (InUse { places: beat.places, limit: limit as u32, turn: beat.turn, lane: beat.lane }, limit, shown)
}

impl Servers {
    /// From now on weir is one of this fleet. The first caller counts.
    pub fn join(&self, fleet: &Arc<Fleet>) {
        let _ = self.fleet.set(Arc::new(FleetPace::new(Arc::clone(fleet))));
    }

    /// The pace that weir shares with others, where it is one of a fleet.
    pub fn fleet_pace(&self) -> Option<&Arc<FleetPace>> {
        self.fleet.get()
    }

    /// Looks how many logins each server may be given by this weir now, while so many clients wait in so many lanes.
    /// Returns whether there is something that the others should hear at once.
    pub fn share_pace(&self, now: Instant, waiting: (u32, u32), next: Option<&NextClient>) -> bool {
        let Some(fleet) = self.fleet.get() else { return false };
        fleet.set_waiting(waiting, next);
        let mut is_news = false;
        for server in self.list().iter() {
            is_news |= server.look_at_pace(now);
        }
        is_news
    }

    /// Another weir has told what it has. Returns the lanes of which it has had a turn.
    pub fn hear_pace(&self, now: Instant, beat: &Beat) -> Vec<Arc<str>> {
        let (Some(fleet), Some(next)) = (self.fleet.get(), &beat.next) else { return Vec::new() };
        let NextBeat { clients, lanes, priority, lane, lane_turn, .. } = next;
        let (clients, lanes, has_priority) = (*clients, *lanes, *priority);
        let waiting = Waiting { clients, lanes, has_priority, lane: *lane, lane_turn: *lane_turn };
        {
            let mut state = fleet.state();
            for (key, least) in next.baselines() {
                bounded(&mut state.baselines).insert(key, least);
            }
        }
        let mut turns = Vec::new();
        for server in self.list().iter() {
            let Some(pace) = beat.servers.get(&server.fleet_key(fleet.fleet.keys())).and_then(|one| one.pace.as_ref())
            else {
                continue;
            };
            let is_turn = server.hear_pace(now, &beat.id, pace, waiting);
            let mut state = fleet.state();
            if is_turn
                && pace.turn > 0
                && state.round.heard(pace.lane, pace.turn)
                && let Some(name) = state.names.get(&pace.lane)
            {
                turns.push(Arc::clone(name));
            }
        }
        turns
    }

    /// Another weir is gone: what it had is free.
    pub fn forget_pace(&self, id: &MemberId) {
        self.list().iter().for_each(|server| server.forget_pace(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Params, Placement, ServerParams, Slot, Urgency, concurrency::login_speed::ComparedLogin};

    const MS: Duration = Duration::from_millis(1);

    /// One weir before one server.
    struct Weir {
        servers: Servers,
        fleet: Arc<Fleet>,
        beats: u64,
        rng: fastrand::Rng,
    }

    impl Weir {
        fn new(id: &str) -> Self {
            let server = ServerParams::bare("n1:4222");
            let mut rng = fastrand::Rng::with_seed(7);
            let fleet = Arc::new(Fleet::new("edge", MemberId::new(id).unwrap(), Instant::now(), &mut rng));
            let servers = Servers::new(&Params::bare(vec![server]));
            servers.join(&fleet);
            Self { servers, fleet, beats: 0, rng }
        }

        /// What it tells the others.
        fn beat(&mut self, now: Instant) -> Beat {
            self.beats += 1;
            let servers = self.servers.iter().map(|one| (one.fleet_key(self.fleet.keys()), one.beat(now, 0)));
            Beat {
                n: self.beats,
                up_ms: self.beats,
                next: self.servers.fleet_pace().map(|pace| pace.next_beat()),
                servers: servers.collect(),
                ..Beat::new(self.fleet.id().clone(), 1)
            }
        }

        /// A client of this account is next, of so many; it gets a slot if this weir may give it one.
        fn next(&mut self, now: Instant, account: &str, waiting: u32) -> Option<Slot> {
            let next = NextClient { lane: account.into(), has_priority: false, is_new: false };
            self.servers.share_pace(now, (waiting, 1), Some(&next));
            match self.servers.place(now, &[], Urgency::CanWait(1), &mut self.rng) {
                Placement::Placed(slot) => Some(slot),
                Placement::Busy | Placement::Full => None,
            }
        }

        fn ends(&self, now: Instant, mut slot: Slot) {
            slot.server().handshake_finished(now, ComparedLogin::uncompared(100 * MS), 100 * MS);
            slot.session_began();
        }
    }

    #[test]
    fn a_server_that_does_one_login_at_a_time_gets_one_from_two_weirs() {
        let (mut a, mut b, now) = (Weir::new("a"), Weir::new("b"), Instant::now());
        assert!(a.servers.hear_pace(now, &b.beat(now)).is_empty());
        b.servers.hear_pace(now, &a.beat(now));
        let slot = a.next(now, "A", 5).expect("the server is idle");
        assert!(a.next(now, "A", 4).is_none(), "its limit begins with one");
        b.servers.hear_pace(now, &a.beat(now));
        assert!(b.next(now, "A", 5).is_none(), "the other weir has that one");
        a.servers.hear_pace(now, &b.beat(now));
        // Other weirs see that the place is free, and whose turn it is.
        let later = now + 100 * MS;
        a.ends(later, slot);
        assert!(a.next(later, "A", 4).is_none(), "it has had its turn");
        b.servers.hear_pace(later, &a.beat(later));
        let limit = b.servers.iter().next().unwrap().view(later).handshake_limit;
        let slot = b.next(later, "A", 5);
        assert!(slot.is_some(), "it may have {limit}");
        let turns = a.servers.hear_pace(later, &b.beat(later));
        assert_eq!(turns, [Arc::from("A")], "the account goes behind the others here too");
        b.servers.forget_pace(a.fleet.id());
        a.servers.forget_pace(b.fleet.id());
        assert!(a.next(later + MS, "A", 4).is_some(), "the other weir is gone, and what it had");
    }

    #[test]
    fn baselines_are_told_once_and_known_to_all() {
        let (mut a, b, now) = (Weir::new("a"), Weir::new("b"), Instant::now());
        let of = |weir: &Weir, measured| weir.servers.fleet_pace().unwrap().baseline("A", measured);
        assert_eq!((of(&a, None), of(&a, Some(30 * MS))), (None, Some(30 * MS)));
        b.servers.hear_pace(now, &a.beat(now));
        assert_eq!(of(&b, None), Some(30 * MS));
        assert!(a.beat(now).next.unwrap().logins.is_empty(), "nothing is new");
    }
}
