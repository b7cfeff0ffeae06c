//! Whether a server answers. A server whose dial fails is ejected for a pause; then one client tries it. Each failed
//! trial doubles the pause (with jitter), a successful one ends the ejection.
//!
//! A dial that times out is evidence about the server only if the dial was given a fair time. How long a dial may take
//! follows from what its client has left, and the last clients of a storm have little. Many such dials are evidence
//! once they have waited for a fair time in all, without any answer between.

use std::time::{Duration, Instant};

use crate::upstream::pause::growing_pause;

/// The first pause after a failed dial.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// A trial without an outcome after this time may be repeated: its client left before the dial ended.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// A dial that was given less than this is no evidence about its server, however quick the server's dials usually are:
/// a lost packet or a busy machine costs as much.
const LEAST_FAIR_TIME: Duration = Duration::from_millis(250);
/// Nor is one that was given less than this many times what the server's dials usually take.
const FAIR_TIMES_USUAL: u32 = 3;
/// A dial is given this many times what the server's dials usually take, where its client has so much left.
const DIAL_MARGIN: f64 = 1.5;

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

/// The state machine of one server.
#[derive(Debug)]
pub struct Health {
    state: State,
    /// Failures in a row.
    streak: u32,
    /// What a dial takes, from its beginning to INFO: the longest of late, forgotten by 5 % with each shorter one.
    dial_time: Option<Duration>,
    /// How long dials have waited in vain since the last answer or failure; what several waited at once counts once.
    silent: Duration,
    /// The end of the last wait that `silent` counts.
    counted_until: Option<Instant>,
}

impl Default for Health {
    fn default() -> Self {
        Self { state: State::Up, streak: 0, dial_time: None, silent: Duration::ZERO, counted_until: None }
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
        self.silent = Duration::ZERO;
    }

    /// The same, after the dial `took` so long.
    pub fn answered_in(&mut self, took: Duration) {
        self.answered();
        let before = self.dial_time.unwrap_or(took);
        self.dial_time = Some(took.max(before.mul_f64(0.95) + took.mul_f64(0.05)));
    }

    /// How much of the time that a client has `left` a dial is given. The other half is for another server, unless this
    /// one's dials usually take longer than half: then another server's probably would too.
    pub fn time_for_dial(&self, left: Duration) -> Duration {
        let usual = self.dial_time.unwrap_or_default().mul_f64(DIAL_MARGIN);
        (left / 2).max(usual.min(left))
    }

    /// A dial that was `given` so long had no INFO by then. Like [`Health::failed`], where that was a fair time, or the
    /// last part of one.
    pub fn timed_out(&mut self, now: Instant, given: Duration, rng: &mut fastrand::Rng) -> Option<Duration> {
        let usual = self.dial_time.unwrap_or_default();
        let since = self.counted_until.map_or(given, |until| now.saturating_duration_since(until).min(given));
        self.silent = (self.silent + since).max(given);
        self.counted_until = Some(now);
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

    /// A dial failed: it was refused, timed out, or ended before INFO. Returns the pause, for the log, if this ejects
    /// the server anew.
    pub fn failed(&mut self, now: Instant, rng: &mut fastrand::Rng) -> Option<Duration> {
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

    /// The server's own start time has changed: it is another process now, so a trial is due at once.
    pub fn restarted(&mut self, now: Instant) {
        self.streak = 0;
        if let State::Ejected { until } = &mut self.state {
            *until = now;
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
        let ms = Duration::from_millis;
        let mut health = Health::default();
        assert_eq!(health.timed_out(now, ms(39), &mut rng), None);
        health.answered_in(ms(60));
        assert_eq!(health.timed_out(now, ms(249), &mut rng), None);
        health.answered_in(ms(100));
        assert_eq!(health.timed_out(now, ms(299), &mut rng), None);
        assert_eq!(health.status(now), HealthStatus::Up);
        let pause = health.timed_out(now, ms(300), &mut rng).expect("three times the usual is fair");
        now += pause;
        health.trial_began(now);
        assert_eq!(health.timed_out(now, ms(0), &mut rng), None);
        assert_eq!(health.status(now), HealthStatus::TrialDue, "the trial was none");
        for _ in 0..100 {
            health.answered_in(ms(1));
        }
        assert!(health.timed_out(now, ms(250), &mut rng).is_some(), "long dials are forgotten");
    }

    #[test]
    fn clients_without_time_are_no_evidence_and_a_server_that_never_answers_them_is_found_out() {
        let (mut rng, start) = (fastrand::Rng::with_seed(7), Instant::now());
        let ms = Duration::from_millis;
        let mut health = Health::default();
        let mut dial = |health: &mut Health, from: u64, to: u64| {
            health.timed_out(start + ms(to), ms(to - from), &mut rng).is_some()
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
            let pause = health.timed_out(began + ms(25), ms(25), &mut rng);
            assert_eq!(pause.is_some(), n == 9, "10 trials of 25 ms each are a fair time");
        }
    }

    #[test]
    fn a_dial_is_given_what_the_servers_dials_take() {
        let (ms, mut health) = (Duration::from_millis, Health::default());
        assert_eq!(health.time_for_dial(ms(78)), ms(39));
        health.answered_in(ms(60));
        assert_eq!([78, 100, 1000].map(|left| health.time_for_dial(ms(left))), [78, 90, 500].map(ms));
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
    }
}
