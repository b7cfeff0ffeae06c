//! What dials and logins show of a server: whether its ports answer, and whether it lets clients in.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use crate::upstream::{
    endpoint::Port,
    health::{Health, HealthStatus},
    server::{Server, State},
    snapshot::Timestamp,
};

/// What dials and handshakes show of it.
impl Server {
    /// Whether it did not answer when it was last dialled.
    pub fn is_ejected(&self) -> bool {
        self.state().health.ejected_until().is_some()
    }

    /// A dial of the client port ended with its INFO.
    pub fn dial_answered(&self) {
        self.answered(Port::Client);
    }

    /// A dial of this port ended with its INFO, after it `took` so long.
    pub fn dial_answered_in(&self, port: Port, took: Duration) {
        self.dial_times[port as usize].note(took);
        self.answered(port);
    }

    fn answered(&self, port: Port) {
        // Mostly the dial before it was answered too: nothing changes then, and the lock is spared.
        if self.has_own_health(port) || self.dials_have_failed.load(Relaxed) {
            self.change(|state| self.health_of(state, port).answered());
        }
    }

    /// How much of the time that a client has `left` a dial of this port is given.
    pub fn time_for_dial(&self, port: Port, left: Duration) -> Duration {
        self.dial_times[port as usize].part_of(left)
    }

    /// A dial of this port that was `given` so long had no INFO by then. Returns the pause when this ejects the server,
    /// or its WebSocket port, anew.
    pub fn dial_timed_out(
        &self,
        port: Port,
        now: Instant,
        given: Duration,
        rng: &mut fastrand::Rng,
    ) -> Option<Duration> {
        self.may_be_another_process();
        let usual = self.dial_times[port as usize].usual();
        self.change(|state| self.health_of(state, port).timed_out(now, (given, usual), rng))
    }

    /// A dial failed before INFO. Returns the pause when this ejects the server anew.
    pub fn dial_failed(&self, port: Port, now: Instant, rng: &mut fastrand::Rng) -> Option<Duration> {
        self.may_be_another_process();
        self.change(|state| self.health_of(state, port).failed(now, rng))
    }

    /// The same, where the dial was refused: no process listens at this port.
    pub fn dial_refused(&self, port: Port, now: Instant, rng: &mut fastrand::Rng) -> Option<Duration> {
        self.may_be_another_process();
        self.change(|state| self.health_of(state, port).refused(now, rng))
    }

    /// Whether its process has ended, as far as weir sees, and its connections with it: its last dial was refused. A
    /// server in lame duck mode refuses dials too, and keeps its clients for a while.
    pub fn is_gone(&self, now: Instant) -> bool {
        let state = self.state();
        state.health.is_refused() && state.lame_duck_until.is_none_or(|until| now >= until)
    }

    /// A dial of this port has ended, and said nothing of the server.
    pub fn dial_says_nothing(&self, port: Port, now: Instant) {
        self.change(|state| self.health_of(state, port).trial_says_nothing(now));
    }

    /// Whether all clients of weir use its WebSocket port from now on.
    pub(in crate::upstream) fn use_only_websocket(&self, only: bool) {
        self.only_websocket.store(only, Relaxed);
    }

    /// Whether the health of this port is a thing of its own. That of the WebSocket port is where other clients use the
    /// client port: a WebSocket port that is closed takes no server from those. Nor does a leafnode port.
    pub(super) fn has_own_health(&self, port: Port) -> bool {
        match port {
            Port::Client => false,
            Port::WebSocket => !self.only_websocket.load(Relaxed),
            Port::Leafnode => true,
        }
    }

    /// The health that dials of this port tell of.
    pub(super) fn health_of<'a>(&self, state: &'a mut State, port: Port) -> &'a mut Health {
        match port {
            Port::WebSocket if self.has_own_health(port) => &mut state.websocket_health,
            Port::Leafnode => &mut state.leafnode_health,
            Port::Client | Port::WebSocket => &mut state.health,
        }
    }

    /// Whether a client that has a slot here may dial this port. A WebSocket or leafnode port that does not answer is
    /// left alone, except by one client at a time that tries it. An unknown leafnode port is not dialled.
    pub fn may_dial(&self, port: Port, now: Instant) -> bool {
        if !self.has_own_health(port) {
            // The slot was reserved by that port's health.
            return true;
        }
        if port == Port::Leafnode && self.leafnode.endpoint().is_none() {
            return false;
        }
        self.change(|state| {
            // The slot may be the one for a trial of the client port, of which this client will learn nothing.
            state.health.trial_says_nothing(now);
            let health = self.health_of(state, port);
            match health.status(now) {
                HealthStatus::Up => true,
                HealthStatus::TrialDue => {
                    health.trial_began(now);
                    true
                }
                HealthStatus::Ejected => false,
            }
        })
    }

    /// A login failed here, and the same login, or one of the same account, succeeded elsewhere: clients go to other
    /// servers first. Returns the pause before the first trial if the log is to tell that this begins.
    pub fn login_failed(&self, now: Instant, rng: &mut fastrand::Rng) -> Option<Duration> {
        self.change(|state| state.login_health.failed(now, rng))
    }

    /// It has let a client in. Returns whether the log is to tell that its logins fail no more.
    pub fn login_succeeded(&self) -> bool {
        self.logins_fail() && self.change(|state| state.login_health.succeeded())
    }

    /// Whether logins failed here that succeeded elsewhere, and none has succeeded here since.
    pub fn logins_fail(&self) -> bool {
        self.snapshot.load().logins_failing_until > Timestamp::LONG_AGO
    }

    /// How long a handshake may be under way before it is overdue.
    pub fn overdue_after(&self) -> Duration {
        self.state().concurrency_limit.overdue_after()
    }

    /// Whether it has let anybody in since it was started, as far as weir has seen.
    pub fn has_logged_in_any(&self) -> bool {
        self.state().concurrency_limit.has_finished_any()
    }

    /// A handshake did not end in time.
    pub fn handshake_timed_out(&self) {
        self.change(|state| state.concurrency_limit.timed_out());
    }

    /// A lower bound of the logins it can take in a second, by how long logins have taken lately; `None` before the
    /// first.
    pub fn logins_per_second(&self) -> Option<f64> {
        self.state().concurrency_limit.logins_per_second()
    }
}
