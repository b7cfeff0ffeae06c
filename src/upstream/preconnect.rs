//! Connections dialled ahead of their clients: how many, how old, and when none.
//!
//! One that nobody takes has cost its server an accept for nothing, so there are only as many as are surely wanted: half of the
//! clients that came in the last time that one may live.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::upstream::placement::{Rank, View};

/// The part of a server's `auth_timeout` after which a connection is closed unless its CONNECT is on its way: the other half is
/// for the way there, and for a server that is slow in that moment.
const USED_WITHIN: f64 = 0.5;
/// None lives longer, however patient its server: a second says enough of who comes next.
const LONGEST_LIFE: Duration = Duration::from_secs(1);
/// So many slots of each server are left to clients, at least, and this part of what may be filled of it.
const LEAST_LEFT: u32 = 32;
const PART_LEFT: u32 = 10;

/// How long after the dial a connection may be used, in front of a server that waits for CONNECT for `auth_timeout`.
pub fn life(auth_timeout: Duration) -> Duration {
    auth_timeout.mul_f64(USED_WITHIN).min(LONGEST_LIFE)
}

/// Slots that are left to clients of a server of which `ceiling` may be filled.
pub fn left_to_clients(ceiling: u32) -> u32 {
    (ceiling / PART_LEFT).max(LEAST_LEFT)
}

/// Whether one may be dialled: its server is sure to have room and time for it.
pub fn may_dial(view: &View) -> bool {
    view.rank == Rank::Eligible && view.handshakes < view.handshake_limit && room(view) > left_to_clients(view.ceiling)
}

/// Whether those that are there may stay. They may where none would be dialled any more, or each client would move the line.
pub fn may_stay(view: &View) -> bool {
    view.rank == Rank::Eligible && room(view) >= left_to_clients(view.ceiling) / 2
}

fn room(view: &View) -> u32 {
    view.ceiling.saturating_sub(view.projected)
}

/// The clients that came to one server lately.
#[derive(Debug)]
pub struct Demand {
    most: usize,
    /// As many as matter.
    came: VecDeque<Instant>,
}

impl Demand {
    /// Nobody came; `most` connections will be wanted at most.
    pub fn new(most: usize) -> Self {
        Self { most, came: VecDeque::with_capacity(2 * most) }
    }

    /// A client came.
    pub fn came(&mut self, now: Instant) {
        if self.came.len() == 2 * self.most {
            self.came.pop_front();
        }
        self.came.push_back(now);
    }

    /// How many connections are wanted that live for `life`.
    pub fn wanted(&mut self, now: Instant, life: Duration) -> usize {
        while self.came.front().is_some_and(|at| now.saturating_duration_since(*at) >= life) {
            self.came.pop_front();
        }
        self.came.len() / 2
    }

    /// Whether nobody came lately, as far as was seen when last it was asked what is wanted.
    pub fn is_over(&self) -> bool {
        self.came.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::upstream::{Compatibility, Params, Reserve, Server, ServerParams, Servers, Slot};

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn only_half_of_the_timer_is_used_and_a_second_at_most() {
        assert_eq!(life(SECOND / 2), SECOND / 4);
        assert_eq!(life(2 * SECOND), SECOND);
        assert_eq!(life(60 * SECOND), SECOND);
    }

    #[test]
    fn as_many_as_are_sure_to_be_wanted() {
        let (mut demand, now) = (Demand::new(3), Instant::now());
        assert_eq!(demand.wanted(now, SECOND), 0);
        for (n, wanted) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (7, 3), (50, 3)] {
            demand.came(now);
            while demand.came.len() < n.min(6) {
                demand.came(now);
            }
            assert_eq!(demand.wanted(now, SECOND), wanted, "{n} came");
        }
        assert_eq!(demand.wanted(now + SECOND, SECOND), 0, "nobody comes any more");
        demand.came(now + SECOND);
        assert_eq!(demand.wanted(now + SECOND, SECOND), 0, "one says nothing");
    }

    fn servers(max_connections: Option<u32>) -> Servers {
        let one = ServerParams { name: None, address: "127.0.0.1:1".into(), monitor: None, max_connections };
        Servers::new(&Params {
            poll_interval: SECOND,
            system: false,
            reserve: Reserve::Slots(0),
            warn_at: 0.8,
            slow_start: Duration::ZERO,
            close_spread: SECOND,
            compatibility: Compatibility::default(),
            source_addresses: Vec::new(),
            dial_ahead: 4,
            servers: vec![one],
        })
    }

    fn ahead(server: &Arc<Server>, now: Instant) -> Option<Slot> {
        let mut slot = Server::reserve_ahead(server, now)?;
        slot.opened();
        Some(slot)
    }

    #[test]
    fn a_slot_ahead_is_no_handshake_until_its_client_comes() {
        let (servers, now) = (servers(Some(1000)), Instant::now());
        let server = servers.iter().next().unwrap();
        let load = server.load();
        let dialling = Server::reserve_ahead(server, now).unwrap();
        assert_eq!((load.held(), load.ahead(), load.handshakes()), (1, 1, 0));
        drop(dialling);
        assert_eq!((load.held(), load.ahead(), load.handshakes()), (0, 0, 0));
        let mut slot = ahead(server, now).unwrap();
        assert_eq!((load.held(), load.ahead(), load.handshakes()), (1, 1, 0));
        slot.goes_on();
        assert_eq!((load.held(), load.ahead(), load.handshakes()), (1, 0, 1));
        slot.session_began();
        assert_eq!((load.held(), load.ahead(), load.handshakes(), load.sessions()), (1, 0, 0, 1));
        drop(slot);
        assert_eq!((load.held(), load.ahead(), load.handshakes(), load.sessions()), (0, 0, 0, 0));
    }

    #[test]
    fn clients_find_their_slots_whatever_is_dialled_ahead() {
        for capacity in [1, 20, 33, 100, 1000] {
            let (servers, now) = (servers(Some(capacity)), Instant::now());
            let server = servers.iter().next().unwrap();
            let all: Vec<_> = std::iter::from_fn(|| ahead(server, now)).take(2000).collect();
            let left = left_to_clients(capacity).min(capacity);
            assert_eq!(all.len() as u32, capacity - left);
            assert!(may_stay(&server.view(now)) || capacity < left_to_clients(capacity));
            let mut clients = Vec::new();
            while may_stay(&server.view(now)) {
                let mut slot = Server::reserve(server, now).expect("there is room");
                slot.session_began();
                clients.push(slot);
            }
            drop(all);
            while let Some(mut slot) = Server::reserve(server, now) {
                slot.session_began();
                clients.push(slot);
            }
            assert_eq!(clients.len() as u32, capacity);
            drop(clients);
            assert_eq!(server.load().held(), 0);
        }
    }

    #[test]
    fn none_for_a_server_that_is_busy_full_by_its_word_or_leaving() {
        let (servers, now) = (servers(Some(1000)), Instant::now());
        let server = servers.iter().next().unwrap();
        assert!(ahead(server, now).is_some());
        let busy: Vec<_> = std::iter::from_fn(|| Server::reserve(server, now)).collect();
        assert!(!busy.is_empty() && ahead(server, now).is_none());
        drop(busy);
        server.said_full(now);
        assert!(ahead(server, now).is_none() && !may_stay(&server.view(now)));
        assert!(ahead(server, now + 5 * SECOND).is_some());
        server.said_lame_duck();
        assert!(ahead(server, now + 5 * SECOND).is_none() && !may_stay(&server.view(now + 5 * SECOND)));
    }

    #[test]
    fn none_where_the_limit_is_unknown() {
        let unknown = servers(None);
        assert!(ahead(unknown.iter().next().unwrap(), Instant::now()).is_none());
    }
}
