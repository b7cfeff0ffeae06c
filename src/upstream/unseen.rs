//! What peers place that weir has not heard of yet.
//!
//! Weirs that see the same counts all find the same server the emptiest. If each filled it alone, all of them together
//! would fill it several times over before the next beats show that. So weir takes its peers to do as it does itself:
//! for each client that it has placed on a server since a peer's last beat, the peer has placed there as many as its
//! pace is of weir's own. What chance adds keeps weirs of which each places a client now and then from choosing alike
//! (docs/decisions/0036-placement-of-a-fleet.md).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;

use crate::upstream::{Server, ServerId, placement::View};

/// A pace is forgotten by half in this time.
const HALF_LIFE: Duration = Duration::from_millis(500);

/// One client of weir's in this time stands for all that peers place meanwhile, however few weir's own are: about the
/// time between two beats of a peer that places clients.
const BETWEEN_BEATS: Duration = Duration::from_millis(250);

/// Two looks at a total that are closer than this are one.
const LEAST_BETWEEN: Duration = Duration::from_millis(1);

/// Clients in a second, by a total that grows.
#[derive(Debug, Default)]
struct Pace {
    total: u64,
    at: Option<Instant>,
    per_second: f64,
}

impl Pace {
    fn note(&mut self, at: Instant, total: u64) {
        let Some(before) = self.at else {
            (self.total, self.at) = (total, Some(at));
            return;
        };
        let between = at.saturating_duration_since(before);
        if between < LEAST_BETWEEN {
            return;
        }
        let now = total.saturating_sub(self.total) as f64 / between.as_secs_f64();
        let kept = 0.5_f64.powf(between.as_secs_f64() / HALF_LIFE.as_secs_f64());
        self.per_second = now + kept * (self.per_second - now);
        (self.total, self.at) = (total, Some(at));
    }
}

#[derive(Debug, Default)]
struct Peer {
    pace: Pace,
    /// What weir itself had placed on each server when the peer's last beat came.
    own_then: Vec<(ServerId, u64)>,
}

#[derive(Debug, Default)]
struct State {
    own: Pace,
    peers: HashMap<u64, Peer>,
}

/// What to add to the counts of servers.
#[derive(Debug)]
pub struct Factors {
    /// How many clients peers place for each of weir's own.
    ratio: f64,
    /// The sum over the peers of what weir itself had placed then, each times the peer's part of the ratio.
    then: Vec<(ServerId, f64)>,
}

impl Factors {
    /// The view of the server at this position with what peers may have placed there by now. A server that has room
    /// keeps it: whether there is room is known well enough (the soft counts), and what is not is for leases.
    pub fn add(&self, view: View, position: usize, server: &Server, seed: u64) -> View {
        let (id, own) = (server.id(), server.load().connections().taken() as f64);
        let then = self.then.get(position).filter(|(at, _)| *at == id);
        let since = then.map_or(0.0, |(_, then)| (self.ratio * own - then).max(0.0));
        let more = since + self.ratio * chance(seed, id);
        let most = view.ceiling.saturating_sub(1).max(view.projected);
        // `as` saturates.
        View { projected: view.projected.saturating_add(more as u32).min(most), ..view }
    }
}

/// A number from 0 to 1 that is another one for each server and seed: splitmix64.
fn chance(seed: u64, server: ServerId) -> f64 {
    let mut z = seed.wrapping_add((server.number() as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (z >> 11) as f64 / (1_u64 << 53) as f64
}

/// See the module.
#[derive(Debug, Default)]
pub struct Unseen {
    /// Whether there is anything to add, which takes one relaxed load to know.
    is_any: AtomicBool,
    factors: ArcSwapOption<Factors>,
    state: Mutex<State>,
}

impl Unseen {
    fn state(&self) -> MutexGuard<'_, State> {
        // Valid between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to add to counts; `None` while no peer places clients.
    #[inline]
    pub fn factors(&self) -> Option<Arc<Factors>> {
        if self.is_any.load(Relaxed) { self.factors.load_full() } else { None }
    }

    /// A beat of the process `run`, sent at `sent`, has come: it had placed `taken` clients on all servers together.
    pub fn heard(&self, run: u64, (sent, taken): (Instant, u64), servers: &[Arc<Server>], now: Instant) {
        let mut state = self.state();
        let own: Vec<_> = servers.iter().map(|one| (one.id(), one.load().connections().taken())).collect();
        state.own.note(now, own.iter().map(|(_, taken)| taken).sum());
        let peer = state.peers.entry(run).or_default();
        peer.pace.note(sent, taken);
        peer.own_then = own;
        self.changed(&state, servers);
    }

    /// This process places clients no more.
    pub fn gone(&self, run: u64, servers: &[Arc<Server>]) {
        let mut state = self.state();
        if state.peers.remove(&run).is_some() {
            self.changed(&state, servers);
        }
    }

    fn changed(&self, state: &State, servers: &[Arc<Server>]) {
        let own = state.own.per_second.max(1.0 / BETWEEN_BEATS.as_secs_f64());
        let (mut ratio, mut then) = (0.0, servers.iter().map(|one| (one.id(), 0.0)).collect::<Vec<_>>());
        for peer in state.peers.values() {
            let part = peer.pace.per_second / own;
            ratio += part;
            for (at, (id, sum)) in then.iter_mut().enumerate() {
                // Servers come and go; mostly they are at the same place in both lists. One that the list did not have
                // then has got none of weir's clients since.
                let own_then = peer.own_then.get(at).filter(|(then, _)| then == id);
                let own_then = own_then.or_else(|| peer.own_then.iter().find(|(then, _)| then == id));
                *sum += part * own_then.map_or_else(|| servers[at].load().connections().taken(), |(_, n)| *n) as f64;
            }
        }
        let is_any = ratio > 0.0;
        self.factors.store(is_any.then(|| Arc::new(Factors { ratio, then })));
        self.is_any.store(is_any, Relaxed);
    }
}
