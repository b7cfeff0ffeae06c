//! Handshakes that begin, and what they show once they have ended.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use crate::upstream::{
    concurrency::login_speed::ComparedLogin,
    health::HealthStatus,
    login_health::LoginStatus,
    server::{Server, drain::Drain},
};

impl Server {
    /// Counts a handshake that is about to begin, with its slot. `false` if no slot is free or the handshake limit is
    /// reached.
    pub fn begin_handshake(&self, now: Instant) -> bool {
        let limit = self.handshake_begins(now);
        let has_begun = self.load.reserve(limit);
        if has_begun {
            self.pace_began(now);
        }
        has_begun
    }

    /// A handshake begins in a slot that has been taken before, whatever the handshake limit: whoever moves clients
    /// sees to it that few do so at a time. `false` where the operator drains the server.
    pub fn promised_handshake_begins(&self, now: Instant) -> bool {
        let may = !self.is_draining();
        if may {
            self.handshake_begins(now);
            self.load.handshake_resumed();
            self.pace_began(now);
        }
        may
    }

    /// One more handshake is to begin. Returns how many may be under way.
    pub(super) fn handshake_begins(&self, now: Instant) -> u32 {
        self.change(|state| {
            if state.drain != Drain::Off {
                return 0;
            }
            let (dial, login) = (state.health.status(now), state.login_health.status(now));
            if dial == HealthStatus::TrialDue {
                state.health.trial_began(now);
            }
            if login == LoginStatus::TrialDue {
                state.login_health.trial_began(now);
            }
            // One client at a time tries a server that has failed, whatever its handshake limit: logins that hang may
            // have used that up.
            if dial == HealthStatus::TrialDue || login == LoginStatus::TrialDue {
                return u32::MAX;
            }
            if self.load.handshakes() == 0 {
                state.concurrency_limit.began_on_idle(now);
            }
            self.handshake_limit(state, now).min(self.allowance.load(Relaxed))
        })
    }

    /// Whether at most one handshake is under way, so that it takes as long as it takes alone.
    pub fn is_uncontended(&self) -> bool {
        self.load.handshakes() <= 1
    }

    /// A handshake ended with the server's PONG, and was `expected` to take no longer than that.
    pub fn handshake_finished(&self, now: Instant, login: ComparedLogin, expected: Duration) {
        let in_flight = self.load.handshakes();
        self.change(|state| {
            let in_flight = in_flight.saturating_add(state.under_way_elsewhere());
            state.concurrency_limit.finished(now, login.took, expected, in_flight);
            state.speed.login_ended(now, login);
        });
    }

    /// An overdue handshake ended with the server's PONG.
    pub fn overdue_finished(&self, now: Instant, login: ComparedLogin) {
        self.change(|state| {
            state.concurrency_limit.finished_overdue(login.took);
            state.speed.login_ended(now, login);
        });
    }
}
