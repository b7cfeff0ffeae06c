//! Clients that get in whether the server has room or not, where weir only observes.

use std::time::Instant;

use crate::upstream::server::{Server, drain::Drain};

impl Server {
    /// Counts a handshake that is about to begin, with its slot, whatever the limits are. `false` where its operator
    /// drains the server.
    pub fn begin_handshake_over(&self, now: Instant) -> bool {
        let may = !self.is_draining();
        if may {
            self.handshake_begins(now);
            self.load().reserve_over();
        }
        may
    }

    /// Whether the only reason to send no client there is that it has said that it is full.
    pub fn is_only_full(&self, now: Instant) -> bool {
        let state = self.state();
        let lasts = |until: Option<Instant>| until.is_some_and(|until| now < until);
        let is_left_alone = lasts(state.lame_duck_until) || state.membership.is_stranger() || state.drain != Drain::Off;
        lasts(state.full_until) && !is_left_alone
    }
}
