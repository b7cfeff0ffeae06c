//! Whether a server answers. A server whose dial fails is ejected for a pause; then one client tries it. Each failed
//! trial doubles the pause (with jitter), a successful one ends the ejection.
//!
//! A dial that times out is evidence about the server only if the dial was given a fair time. How long a dial may take
//! follows from what its client has left, and the last clients of a storm have little. Many such dials are evidence
//! once they have waited for a fair time in all, without any answer between.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::{
    lapse::Lapse,
    upstream::pause::{LONGEST_PAUSE, growing_pause},
};

/// The first pause after a failed dial.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// A trial without an outcome after this time may be repeated: its client left before the dial ended.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// A dial that was given less than this is no evidence about its server, however quick the server's dials usually are:
/// a lost packet or a busy machine costs as much.
const LEAST_FAIR_TIME: Duration = Duration::from_millis(250);
/// Nor is one that was given less than this many times what the server's dials usually take.
const FAIR_TIMES_USUAL: u32 = 3;

/// What may be done with a server now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthStatus {
    /// It may be dialled.
    Up,
    /// The pause is over: one client may try it.
    TrialDue,
    /// It is to be left alone: the pause or a trial is not over.
    Ejected,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Up,
    Ejected { until: Instant },
    Trial { began: Instant },
}

/// A server that does not answer, as another process recalls it: for how long yet it is left alone, and after how many
/// failures in a row.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RememberedHealth {
    ejected: Lapse,
    failures: u32,
}

/// The state machine of one server.
#[derive(Debug)]
pub struct Health {
    state: State,
    /// Failures in a row.
    streak: u32,
    /// The last dial was refused: no process listens there.
    is_refused: bool,
    /// How long dials have waited in vain since the last answer or failure; what several waited at once counts once.
    silent: Duration,
    /// The end of the last wait that `silent` counts.
    counted_until: Option<Instant>,
}

impl Default for Health {
    fn default() -> Self {
        Self { state: State::Up, streak: 0, is_refused: false, silent: Duration::ZERO, counted_until: None }
    }
}

impl Health {
    pub fn status(&self, now: Instant) -> HealthStatus {
        match self.ejected_until() {
            None => HealthStatus::Up,
            Some(until) if now >= until => HealthStatus::TrialDue,
            Some(_) => HealthStatus::Ejected,
        }
    }

    /// When the next trial is due; `None` while the server is up.
    pub fn ejected_until(&self) -> Option<Instant> {
        match self.state {
            State::Up => None,
            State::Ejected { until } => Some(until),
            State::Trial { began } => Some(began + TRIAL_TIMEOUT),
        }
    }

    /// A client is about to try a server whose trial is due.
    pub fn trial_began(&mut self, now: Instant) {
        if !matches!(self.state, State::Up) {
            self.state = State::Trial { began: now };
        }
    }

    /// A dial ended with the server's INFO.
    pub fn answered(&mut self) {
        self.state = State::Up;
        self.streak = 0;
        self.is_refused = false;
        self.silent = Duration::ZERO;
    }

    /// Whether the last dial was refused: no process listens there, so that no connection is there either.
    pub fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// Whether dials have failed, or waited in vain, since the last answer.
    pub fn has_failed(&self) -> bool {
        !matches!(self.state, State::Up) || !self.silent.is_zero()
    }

    /// A dial that was `given` so long had no INFO by then; dials here take the `usual` time. Like [`Health::failed`],
    /// where that was a fair time, or the last part of one.
    pub fn timed_out(
        &mut self,
        now: Instant,
        (given, usual): (Duration, Duration),
        rng: &mut fastrand::Rng,
    ) -> Option<Duration> {
        let since = self.counted_until.map_or(given, |until| now.saturating_duration_since(until).min(given));
        self.silent = (self.silent + since).max(given);
        self.counted_until = Some(now);
        self.is_refused = false;
        if self.silent >= LEAST_FAIR_TIME.max(usual * FAIR_TIMES_USUAL) {
            return self.failed(now, rng);
        }
        self.trial_says_nothing(now);
        None
    }

    /// The trial, if there is one, has ended without a word about the server: the next client may try.
    pub fn trial_says_nothing(&mut self, now: Instant) {
        if let State::Trial { .. } = self.state {
            self.state = State::Ejected { until: now };
        }
    }

    /// Like [`Health::failed`], where the dial was refused.
    pub fn refused(&mut self, now: Instant, rng: &mut fastrand::Rng) -> Option<Duration> {
        let pause = self.failed(now, rng);
        self.is_refused = true;
        pause
    }

    /// A dial failed: it timed out, or ended before INFO. Returns the pause, for the log, if this ejects the server
    /// anew.
    pub fn failed(&mut self, now: Instant, rng: &mut fastrand::Rng) -> Option<Duration> {
        self.is_refused = false;
        self.silent = Duration::ZERO;
        // Dials that were under way when the server was ejected fail too. They say nothing new.
        if let State::Ejected { until } = self.state
            && now < until
        {
            return None;
        }
        let pause = growing_pause(FIRST_PAUSE, self.streak, rng);
        self.streak = self.streak.saturating_add(1);
        self.state = State::Ejected { until: now + pause };
        Some(pause)
    }

    /// The server's own start time has changed: it is another process now, so a trial is due at once, also where one is
    /// under way: it is with the process before, or its client has left.
    pub fn restarted(&mut self, now: Instant) {
        self.streak = 0;
        self.is_refused = false;
        if !matches!(self.state, State::Up) {
            self.state = State::Ejected { until: now };
        }
    }

    /// What is known of it, for a process that takes over; `None` while it is up.
    pub fn remembered(&self, now: Instant) -> Option<RememberedHealth> {
        let ejected = match self.state {
            State::Up => return None,
            State::Ejected { until } => Lapse::until(until, now),
            // The client of the trial is not there any more.
            State::Trial { .. } => Lapse::default(),
        };
        Some(RememberedHealth { ejected, failures: self.streak })
    }

    /// What another process knew at `then`, unless a dial has shown more since.
    pub fn recall(&mut self, remembered: &RememberedHealth, then: Instant) {
        if !self.has_failed() {
            self.streak = remembered.failures;
            self.state = State::Ejected { until: then + remembered.ejected.duration().min(LONGEST_PAUSE * 2) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::pause::LONGEST_PAUSE;

    #[test]
    fn pauses_grow_and_end_in_one_trial() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut now = Instant::now();
        let mut health = Health::default();
        let mut longest = Duration::ZERO;
        for n in 0..20u32 {
            let pause = health.failed(now, &mut rng).expect("a trial's failure ejects anew");
            let nominal = FIRST_PAUSE.saturating_mul(1 << n.min(16)).min(LONGEST_PAUSE);
            assert!(pause >= nominal / 2 && pause <= nominal * 3 / 2, "{n}: {pause:?}");
            longest = longest.max(pause);
            assert_eq!(health.status(now), HealthStatus::Ejected);
            assert_eq!(health.failed(now, &mut rng), None, "late failures of the same outage");
            now += pause;
            assert_eq!(health.status(now), HealthStatus::TrialDue);
            health.trial_began(now);
            assert_eq!(health.status(now), HealthStatus::Ejected, "one trial at a time");
        }
        assert!(longest > LONGEST_PAUSE / 2);
        health.answered();
        assert_eq!(health.status(now), HealthStatus::Up);
        let pause = health.failed(now, &mut rng).unwrap();
        assert!(pause <= FIRST_PAUSE * 3 / 2, "the streak is forgotten");
    }

    #[test]
    fn a_dial_that_had_no_fair_time_is_no_evidence() {
        let (mut rng, mut now) = (fastrand::Rng::with_seed(7), Instant::now());
        let (ms, mut health) = (Duration::from_millis, Health::default());
        let mut timed_out = |health: &mut Health, now, given, usual| {
            let pause = health.timed_out(now, (ms(given), ms(usual)), &mut rng);
            health.answered();
            pause
        };
        assert_eq!(timed_out(&mut health, now, 39, 0), None);
        assert_eq!(timed_out(&mut health, now, 249, 60), None);
        assert_eq!(timed_out(&mut health, now, 299, 100), None);
        assert_eq!(health.status(now), HealthStatus::Up);
        let pause = health.timed_out(now, (ms(300), ms(100)), &mut rng).expect("three times the usual is fair");
        now += pause;
        health.trial_began(now);
        assert_eq!(health.timed_out(now, (ms(0), ms(100)), &mut rng), None);
        assert_eq!(health.status(now), HealthStatus::TrialDue, "the trial was none");
    }

    #[test]
    fn clients_without_time_are_no_evidence_and_a_server_that_never_answers_them_is_found_out() {
        let (mut rng, start) = (fastrand::Rng::with_seed(7), Instant::now());
        let ms = Duration::from_millis;
        let mut health = Health::default();
        let mut dial = |health: &mut Health, from: u64, to: u64| {
            health.timed_out(start + ms(to), (ms(to - from), Duration::ZERO), &mut rng).is_some()
        };
        for n in 0..1000 {
            assert!(!dial(&mut health, n, n), "no time at all");
        }
        // A hundred at once have waited for 200 ms, not for 20 s.
        for _ in 0..100 {
            assert!(!dial(&mut health, 1000, 1200));
        }
        health.answered();
        assert!(!dial(&mut health, 2000, 2240), "it has answered meanwhile");
        assert!(!dial(&mut health, 2100, 2240));
        assert!(dial(&mut health, 2230, 2250), "250 ms in all without an answer");
    }

    #[test]
    fn a_trial_by_clients_without_time_goes_on_with_the_next() {
        let (mut rng, now) = (fastrand::Rng::with_seed(7), Instant::now());
        let ms = Duration::from_millis;
        let mut health = Health::default();
        let due = now + health.failed(now, &mut rng).unwrap();
        for n in 0..10 {
            let began = due + ms(n * 25);
            assert_eq!(health.status(began), HealthStatus::TrialDue, "{n}");
            health.trial_began(began);
            let pause = health.timed_out(began + ms(25), (ms(25), Duration::ZERO), &mut rng);
            assert_eq!(pause.is_some(), n == 9, "10 trials of 25 ms each are a fair time");
        }
    }

    #[test]
    fn a_forgotten_trial_is_repeated() {
        let mut rng = fastrand::Rng::with_seed(7);
        let now = Instant::now();
        let mut health = Health::default();
        let pause = health.failed(now, &mut rng).unwrap();
        health.trial_began(now + pause);
        assert_eq!(health.status(now + pause + TRIAL_TIMEOUT), HealthStatus::TrialDue);
    }

    #[test]
    fn a_restart_ends_the_pause() {
        let mut rng = fastrand::Rng::with_seed(7);
        let now = Instant::now();
        let mut health = Health::default();
        for _ in 0..9 {
            let _ = health.failed(now + LONGEST_PAUSE * 9, &mut rng);
        }
        health.restarted(now);
        assert_eq!(health.status(now), HealthStatus::TrialDue);
        health.trial_began(now);
        assert_eq!(health.status(now), HealthStatus::Ejected, "its client may have left");
        health.restarted(now);
        assert_eq!(health.status(now), HealthStatus::TrialDue);
        health.answered();
        health.restarted(now);
        assert_eq!(health.status(now), HealthStatus::Up);
    }

    #[test]
    fn another_process_leaves_a_server_alone_for_as_long_and_tries_it_once() {
        let (now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(7));
        let mut old = Health::default();
        assert_eq!(old.remembered(now), None, "there is nothing to say of one that is up");
        assert!((0..3).all(|n| old.failed(now + n * LONGEST_PAUSE, &mut rng).is_some()));
        let (then, there) = (now + 2 * LONGEST_PAUSE, now + 100 * LONGEST_PAUSE);
        let left = old.ejected_until().unwrap() - then;
        let text = serde_json::to_string(&old.remembered(then)).unwrap();
        let recalled = |text: &str| {
            let mut new = Health::default();
            new.recall(&serde_json::from_str(text).unwrap(), there);
            new
        };
        let mut new = recalled(&text);
        assert_eq!(new.status(there), HealthStatus::Ejected);
        assert_eq!(new.status(there + left), HealthStatus::TrialDue);
        let pause = new.failed(there + left, &mut rng).unwrap();
        assert!(pause >= FIRST_PAUSE * 8 / 2, "the fourth failure in a row: {pause:?}");
        old.trial_began(then + left);
        let text = serde_json::to_string(&old.remembered(then + left)).unwrap();
        assert_eq!(recalled(&text).status(there), HealthStatus::TrialDue, "whose trial it was is gone");
        let made_up = recalled(r#"{"ejected":18446744073709551615,"failures":4294967295}"#);
        assert_eq!(made_up.status(there + LONGEST_PAUSE * 2), HealthStatus::TrialDue);
    }

    #[test]
    fn only_the_last_dial_says_that_no_process_is_there() {
        let (mut health, mut rng, now) = (Health::default(), fastrand::Rng::with_seed(7), Instant::now());
        let fair = (Duration::from_secs(2), Duration::from_millis(1));
        assert!(!health.is_refused());
        for end in 0..4 {
            health.refused(now, &mut rng);
            health.refused(now, &mut rng);
            assert!(health.is_refused());
            match end {
                0 => assert!(health.failed(now, &mut rng).is_none()),
                1 => assert!(health.timed_out(now, fair, &mut rng).is_none()),
                2 => health.answered(),
                _ => health.restarted(now),
            }
            assert!(!health.is_refused(), "a process may be there");
        }
    }
}
