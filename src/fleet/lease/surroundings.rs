//! What a ledger goes by that is not in the bucket.

use std::time::{Duration, Instant};

use crate::fleet::lease::reclaim::SETTLE;

/// What the rest of weir knows of the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Surroundings {
    /// Weirs whose beats arrive, this one included.
    pub live: u32,
    /// The place of this one among them, in the order of their ids, from 0 on.
    pub position: u32,
    /// Whether one of the others says that its leases are in force.
    pub others_have_leases: bool,
    /// Whether the fleet's connection is there.
    pub is_connected: bool,
    /// See [`Beginning`].
    pub is_early: bool,
}

/// So long after the fleet's connection is there, the others have been heard.
const OTHERS_HEARD: Duration = Duration::from_millis(1500);

/// So long after the servers are there, the fleet's connection is there too, or is not to be waited for any longer.
const CONNECTED: Duration = Duration::from_secs(5);

/// The time from when the servers are there until it is known who else is in the fleet. In it a weir that has no lease
/// admits nobody under a shared quota: all weirs that have been waiting for the servers would otherwise think to be
/// alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Beginning {
    reachable_since: Option<Instant>,
    connected_since: Option<Instant>,
    is_over: bool,
}

/// What the beginning depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reached {
    /// Some server can be reached.
    pub servers: bool,
    /// The fleet's connection is there.
    pub fleet: bool,
    /// The servers refuse the fleet's login: there will be no connection.
    pub is_refused: bool,
}

impl Beginning {
    /// Whether it still is the beginning. To be called several times in a second.
    pub fn look(&mut self, now: Instant, reached: Reached) -> bool {
        let Reached { servers, fleet, is_refused } = reached;
        if !servers {
            *self = Self::default();
            return true;
        }
        let reachable_since = *self.reachable_since.get_or_insert(now);
        self.connected_since = fleet.then(|| self.connected_since.unwrap_or(now));
        let passed = |since: Instant| now.saturating_duration_since(since);
        self.is_over |= passed(reachable_since) >= OTHERS_HEARD
            && match self.connected_since {
                Some(since) => passed(since) >= OTHERS_HEARD,
                None => is_refused || passed(reachable_since) >= CONNECTED,
            };
        !self.is_over
    }
}

/// How leases are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// No bucket is used: each weir has its part.
    pub is_split_only: bool,
    /// Whether servers count the connections of accounts.
    pub has_counts: bool,
    /// Whether servers tell how many connections they have.
    pub has_readings: bool,
    /// See [`SETTLE`].
    pub settle: Duration,
    /// Each quota is looked at at least once in so long, also if nothing is known to have happened to it.
    pub round: Duration,
}

/// What only time changes of a quota takes seconds: that nobody uses it any more, that its want is another one.
const ROUND: Duration = Duration::from_secs(2);

impl Default for Settings {
    fn default() -> Self {
        Self { is_split_only: false, has_counts: true, has_readings: true, settle: SETTLE, round: ROUND }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_beginning_until_the_others_can_have_been_heard() {
        let began = Instant::now();
        let ended = |looks: &[(u64, bool, bool, bool)]| {
            let mut beginning = Beginning::default();
            let mut end = None;
            for (at, servers, fleet, is_refused) in looks {
                let reached = Reached { servers: *servers, fleet: *fleet, is_refused: *is_refused };
                match beginning.look(began + Duration::from_millis(*at), reached) {
                    true => end = None,
                    false => end = end.or(Some(*at)),
                }
            }
            end
        };
        let (up, down) = (|at| (at, true, true, false), |at| (at, true, false, false));
        assert_eq!(ended(&[up(0), up(1400), up(1500)]), Some(1500));
        assert_eq!(ended(&[down(0), down(1500), down(2400), up(2500), up(3900), up(4000)]), Some(4000));
        assert_eq!(ended(&[down(0), down(4900)]), None, "the connection is still to come");
        assert_eq!(ended(&[down(0), down(5000)]), Some(5000), "nothing is waited for without end");
        assert_eq!(ended(&[down(0), down(100), (1500, true, false, true)]), Some(1500), "it will not come");
        assert_eq!(ended(&[up(0), up(1000), down(1100), up(2000), up(3400), up(3500)]), Some(3500), "it came anew");
        // Once it is over it stays so, whatever becomes of the connection, until there are no servers any more.
        assert_eq!(ended(&[up(0), up(1500), down(1600), up(1700)]), Some(1500));
        assert_eq!(ended(&[up(0), up(1500), (2000, false, false, false), up(2100), up(3600)]), Some(3600));
    }
}
