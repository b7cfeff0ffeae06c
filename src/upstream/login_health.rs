//! Whether a server's logins end as the same logins end elsewhere.
//!
//! INFO is no answer to a login, and an authorization error is no success. A server that refuses a login, or leaves it
//! without an answer, while another server lets the same client in, ranks behind the servers whose logins succeed,
//! however empty it is. After a pause one client tries it again, and each trial that fails doubles the pause (with
//! jitter). A login that succeeds ends it. Another process at the same address is tried at once.
//!
//! The caller brings the evidence. A login that fails everywhere, or that nobody has tried elsewhere, is none: wrong
//! passwords say nothing about a server.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use strum::{EnumCount, IntoStaticStr, VariantArray};

use crate::{
    lapse::Lapse,
    upstream::pause::{LONGEST_PAUSE, growing_pause},
};

/// The first pause. It is longer than that of a server that refuses dials, since a trial costs its client more.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// A trial without an outcome after this time may be repeated: its client left, or its credential was wrong.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// A server may fail some logins and not others, for example those of an account that it does not know, and then begins
/// and ends to fail again and again. The log tells so once in this time.
const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// How a login failed at one server that succeeded at another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum LoginFailure {
    /// The server said no: mostly with an authorization error.
    Refused,
    /// The server did not answer in time.
    TimedOut,
}

impl LoginFailure {
    pub const ALL: [Self; Self::COUNT] = [Self::Refused, Self::TimedOut];

    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// What may be done with a server now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginStatus {
    /// Its logins succeed, as far as is known.
    Good,
    /// The pause is over: one client may try it.
    TrialDue,
    /// Others go first: the pause or a trial is not over.
    Failing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Good,
    Failing { since: Instant, until: Instant },
    Trial { began: Instant },
}

/// A server whose logins fail, as another process recalls it: since when, for how long yet others go first, and after
/// how many failures in a row.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RememberedLoginHealth {
    since: Lapse,
    failing: Lapse,
    failures: u32,
    told: Option<Lapse>,
    is_told: bool,
}

/// The state machine of one server.
#[derive(Debug)]
pub struct LoginHealth {
    state: State,
    /// Failures in a row.
    streak: u32,
    /// When the log was last told that it began.
    told_at: Option<Instant>,
    /// The log was told of this beginning, so it is told of the end.
    is_told: bool,
}

impl Default for LoginHealth {
    fn default() -> Self {
        Self { state: State::Good, streak: 0, told_at: None, is_told: false }
    }
}

impl LoginHealth {
    pub fn status(&self, now: Instant) -> LoginStatus {
        match self.failing_until() {
            None => LoginStatus::Good,
            Some(until) if now >= until => LoginStatus::TrialDue,
            Some(_) => LoginStatus::Failing,
        }
    }

    /// When the next trial is due; `None` while logins succeed.
    pub fn failing_until(&self) -> Option<Instant> {
        match self.state {
            State::Good => None,
            State::Failing { until, .. } => Some(until),
            State::Trial { began } => Some(began + TRIAL_TIMEOUT),
        }
    }

    /// A client is about to try a server whose trial is due.
    pub fn trial_began(&mut self, now: Instant) {
        if self.state != State::Good {
            self.state = State::Trial { began: now };
        }
    }

    /// A login has failed here that succeeded elsewhere. Returns the pause if the log is to tell that this begins.
    pub fn failed(&mut self, now: Instant, rng: &mut fastrand::Rng) -> Option<Duration> {
        // Logins that were under way when the first one failed say nothing new.
        if let State::Failing { until, .. } = self.state
            && now < until
        {
            return None;
        }
        let begins = self.state == State::Good;
        let pause = growing_pause(FIRST_PAUSE, self.streak, rng);
        self.streak = self.streak.saturating_add(1);
        self.state = State::Failing { since: now, until: now + pause };
        let is_due = self.told_at.is_none_or(|at| now.saturating_duration_since(at) >= TOLD_AGAIN_AFTER);
        if !begins || !is_due {
            return None;
        }
        (self.told_at, self.is_told) = (Some(now), true);
        Some(pause)
    }

    /// It is another process now, so a trial is due at once.
    pub fn restarted(&mut self) {
        self.streak = 0;
        if let State::Failing { since: at, .. } | State::Trial { began: at } = self.state {
            self.state = State::Failing { since: at, until: at };
        }
    }

    /// The server has let a client in. Returns whether the log is to tell that the failures are over.
    pub fn succeeded(&mut self) -> bool {
        self.state = State::Good;
        self.streak = 0;
        std::mem::take(&mut self.is_told)
    }

    /// What is known of it, for a process that takes over; `None` while its logins succeed.
    pub fn remembered(&self, now: Instant) -> Option<RememberedLoginHealth> {
        let (since, failing) = match self.state {
            State::Good => return None,
            State::Failing { since, until } => (Lapse::since(since, now), Lapse::until(until, now)),
            // The client of the trial is not there any more.
            State::Trial { began } => (Lapse::since(began, now), Lapse::default()),
        };
        let told = self.told_at.map(|at| Lapse::since(at, now));
        Some(RememberedLoginHealth { since, failing, failures: self.streak, told, is_told: self.is_told })
    }

    /// What another process knew at `then`, unless a login has shown more since.
    pub fn recall(&mut self, remembered: &RememberedLoginHealth, then: Instant) {
        if self.state == State::Good {
            let until = then + remembered.failing.duration().min(LONGEST_PAUSE * 2);
            *self = Self {
                state: State::Failing { since: remembered.since.before(then), until },
                streak: remembered.failures,
                told_at: remembered.told.map(|ago| ago.before(then)),
                is_told: remembered.is_told,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::pause::LONGEST_PAUSE;

    fn rng() -> fastrand::Rng {
        fastrand::Rng::with_seed(7)
    }

    #[test]
    fn pauses_grow_and_end_in_one_trial_at_a_time() {
        let (mut rng, mut now, mut health) = (rng(), Instant::now(), LoginHealth::default());
        assert_eq!(health.status(now), LoginStatus::Good);
        let mut longest = Duration::ZERO;
        for n in 0..20u32 {
            assert_eq!(health.failed(now, &mut rng).is_some(), n == 0, "told once");
            let pause = health.failing_until().unwrap() - now;
            let nominal = FIRST_PAUSE.saturating_mul(1 << n.min(16)).min(LONGEST_PAUSE);
            assert!(pause >= nominal / 2 && pause <= nominal * 3 / 2, "{n}: {pause:?}");
            longest = longest.max(pause);
            assert_eq!(health.status(now), LoginStatus::Failing);
            let until = health.failing_until();
            assert_eq!((health.failed(now, &mut rng), health.failing_until()), (None, until), "failures of one time");
            now += pause;
            assert_eq!(health.status(now), LoginStatus::TrialDue);
            health.trial_began(now);
            assert_eq!(health.status(now), LoginStatus::Failing, "one trial at a time");
        }
        assert!(longest > LONGEST_PAUSE / 2);
        assert!(health.succeeded(), "told");
        assert_eq!(health.status(now), LoginStatus::Good);
        assert!(!health.succeeded(), "nothing was over");
        let _ = health.failed(now, &mut rng);
        assert!(health.failing_until().unwrap() <= now + FIRST_PAUSE * 3 / 2, "the streak is forgotten");
    }

    #[test]
    fn a_trial_without_an_outcome_is_repeated() {
        let (mut rng, now, mut health) = (rng(), Instant::now(), LoginHealth::default());
        let pause = health.failed(now, &mut rng).unwrap();
        health.trial_began(now + pause);
        assert_eq!(health.status(now + pause + TRIAL_TIMEOUT), LoginStatus::TrialDue);
    }

    #[test]
    fn a_server_that_fails_only_some_logins_is_told_of_once_in_a_while() {
        let (mut rng, began, mut health) = (rng(), Instant::now(), LoginHealth::default());
        let (mut begins, mut ends) = (0, 0);
        for second in 0..120 {
            begins += u32::from(health.failed(began + Duration::from_secs(second), &mut rng).is_some());
            ends += u32::from(health.succeeded());
        }
        assert_eq!((begins, ends), (2, 2));
    }

    #[test]
    fn a_restart_makes_a_trial_due_at_once() {
        let (mut rng, mut now, mut health) = (rng(), Instant::now(), LoginHealth::default());
        health.restarted();
        assert_eq!(health.status(now), LoginStatus::Good);
        let _ = health.failed(now, &mut rng);
        for began in [false, true] {
            if began {
                health.trial_began(now);
            }
            health.restarted();
            assert_eq!(health.status(now), LoginStatus::TrialDue);
            now += FIRST_PAUSE;
        }
        assert!(health.succeeded(), "the log is told of the end");
    }

    #[test]
    fn a_trial_never_begins_on_a_good_server() {
        let (now, mut health) = (Instant::now(), LoginHealth::default());
        health.trial_began(now);
        assert_eq!(health.status(now), LoginStatus::Good);
    }

    #[test]
    fn another_process_sends_others_elsewhere_for_as_long_and_tells_the_end() {
        let (now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(7));
        let (mut old, mut new) = (LoginHealth::default(), LoginHealth::default());
        assert_eq!(old.remembered(now), None);
        assert!(old.failed(now, &mut rng).is_some());
        let there = now + Duration::from_secs(1000);
        let left = old.failing_until().unwrap() - now;
        let text = serde_json::to_string(&old.remembered(now)).unwrap();
        new.recall(&serde_json::from_str(&text).unwrap(), there);
        let micro = Duration::from_micros(1);
        assert_eq!(new.status(there + left - micro), LoginStatus::Failing);
        assert_eq!(new.status(there + left + micro), LoginStatus::TrialDue);
        assert_eq!(new.failed(there + left + micro, &mut rng), None, "the log has been told");
        assert!(new.succeeded(), "and is told of the end");
    }
}
