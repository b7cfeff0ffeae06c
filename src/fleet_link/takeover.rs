//! This weir's membership goes to the process that takes over, and comes from the one before.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::{
    fleet::takeover::{Before, FleetMark, FleetState},
    fleet_link::{FleetLink, beats, hearing},
    net::timer,
    session::Shared,
};

/// How long to wait for the answers of writes that are under way. What is not known by then the other process reads.
/// Leases are in force for 2.5 s after a write.
const ANSWERS_WITHIN: Duration = Duration::from_millis(300);

/// How often it is looked whether they have come.
const LOOK: Duration = Duration::from_millis(1);

/// A process that was the member for a few seconds has sent fewer beats.
const BEATS_OF_OTHER: u64 = 10_000;

impl FleetLink {
    /// Whether this process is the member of the fleet from now on: no other one goes before it.
    pub fn begin(&self) {
        self.begin.cancel();
    }

    /// Stops writing to the bucket and telling the others, and returns what another process needs to go on as this
    /// weir, and the moment of which that is. From now on this process takes no place of what the fleet shares.
    pub async fn give(&self, shared: &Shared) -> (FleetState, Instant) {
        self.fleet.ledger().stop_writing();
        let until = timer::now() + ANSWERS_WITHIN;
        while self.fleet.ledger().awaits_answers() && timer::now() < until {
            sleep(LOOK).await;
        }
        let now = timer::now();
        (self.fleet.give(beats::next_in_full(self, shared), now), now)
    }

    /// Whether another process has what this one was.
    pub fn is_given(&self) -> bool {
        self.fleet.ledger().is_given()
    }

    /// The other process is gone: this one is the member again.
    pub fn take_back(&self, shared: &Shared) {
        self.told().n += BEATS_OF_OTHER;
        self.fleet.ledger().take_back(timer::now());
        self.fleet.link().leases().wake();
        self.fleet.link().beats().wake();
        shared.arrived.notify_one();
    }

    /// How far this process is.
    pub fn mark(&self) -> FleetMark {
        FleetMark { term: self.fleet.ledger().last_term(), beat: self.told().n }
    }

    /// Goes on as the weir that another process was, which has ended without giving anything, and begins. That one was
    /// as far as `mark` a minute ago or two.
    pub fn begin_after(&self, shared: &Shared, mark: FleetMark) {
        self.told().n = mark.beat.saturating_add(BEATS_OF_OTHER);
        self.fleet.ledger().begin_after(mark.term, timer::now());
        self.begin();
        shared.arrived.notify_one();
    }

    /// Goes on as the weir that another process was at `then`, and begins.
    pub fn adopt(&self, shared: &Shared, state: FleetState, then: Instant) {
        let FleetState { ledger, beat, peers } = state;
        for peer in peers {
            hearing::take_over(self, shared, peer.beat, peer.heard.before(then));
        }
        self.fleet.ledger().adopt(&ledger, then, timer::now());
        let now = beats::next_in_full(self, shared);
        {
            let mut told = self.told();
            (told.n, told.before) = (beat.n, Before::between(&beat, &now));
        }
        self.begin();
        // Whoever waits for a place may have one.
        shared.arrived.notify_one();
    }
}
