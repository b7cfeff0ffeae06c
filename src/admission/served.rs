//! How many clients a second are served while others wait: what the cluster can do, as far as it has been seen.

use std::time::{Duration, Instant};

/// How long one measurement takes at least, and how long it goes on while fewer than [`ENOUGH`] were served: what comes one
/// by one is not measured in half a second.
const WINDOW: Duration = Duration::from_millis(500);
const LONGEST_WINDOW: Duration = Duration::from_secs(2);
const ENOUGH: u64 = 4;
/// So many are measured sooner: those who have to come back should know soon.
const MANY: u64 = 32;
const LEAST_WINDOW: Duration = Duration::from_millis(100);
/// Where far more come than are served, weir is busy with those who come, and so are the cores that it shares with others: what is
/// served meanwhile is less than what can be. So many at least, so many times those who are served, and for no longer than that.
const SWARM: u64 = 64;
const SWARM_TIMES: u64 = 4;
const LONGEST_SWARM: Duration = Duration::from_secs(1);
/// A figure older than this says nothing about the next storm.
const STALE: Duration = Duration::from_secs(10);

/// One measurement, and what had been counted by its beginning.
#[derive(Debug, Clone, Copy)]
struct Window {
    since: Instant,
    finished: u64,
    arrived: u64,
}

/// The measurement.
#[derive(Debug, Default)]
pub struct Served {
    /// Since when, without a break, somebody has waited.
    busy_since: Option<Instant>,
    window: Option<Window>,
    rate: Option<(Instant, f64)>,
}

impl Served {
    /// Nobody waits: what is done now is less than what could be done.
    pub fn rest(&mut self) {
        (self.busy_since, self.window) = (None, None);
    }

    /// Somebody waits. `finished` handshakes have ended in all, and so many have `arrived` to wait.
    pub fn look(&mut self, now: Instant, finished: u64, arrived: u64) {
        let busy_since = *self.busy_since.get_or_insert(now);
        let begun = Window { since: now, finished, arrived };
        let window = *self.window.get_or_insert(begun);
        let took = now.saturating_duration_since(window.since);
        let served = finished.saturating_sub(window.finished);
        let came = arrived.saturating_sub(window.arrived);
        if came >= SWARM.max(SWARM_TIMES * served) && now.saturating_duration_since(busy_since) < LONGEST_SWARM {
            self.window = Some(begun);
            return;
        }
        let many = served >= MANY && took >= LEAST_WINDOW;
        if !many && (took < WINDOW || served < ENOUGH && took < LONGEST_WINDOW) {
            return;
        }
        let measured = served as f64 / took.as_secs_f64();
        // Half of the figure is the last window's, so that a cluster that slows down is noticed within seconds.
        let rate = self.rate(now).map_or(measured, |rate| (rate + measured) / 2.0);
        self.rate = Some((now, rate));
        self.window = Some(begun);
    }

    /// Clients a second; `None` while unknown.
    pub fn rate(&self, now: Instant) -> Option<f64> {
        self.rate.filter(|(at, _)| now.saturating_duration_since(*at) < STALE).map(|(_, rate)| rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_done_while_somebody_waits_counts() {
        let (mut served, start) = (Served::default(), Instant::now());
        let at = |tenths: u64| start + Duration::from_millis(tenths * 100);
        for tenth in 0..20 {
            served.look(at(tenth), tenth, 0);
            served.rest();
        }
        assert_eq!(served.rate(at(20)), None, "ten a second came, and more could have");
        for tenth in 20..60 {
            served.look(at(tenth), tenth * 80, 0);
        }
        let rate = served.rate(at(60)).unwrap();
        assert!((790.0..810.0).contains(&rate), "{rate}");
        for tenth in 60..200 {
            served.look(at(tenth), 60 * 80 + tenth / 5, 0);
            assert!(served.rate(at(tenth)).is_some_and(|rate| rate > 1.0), "two a second are not none");
        }
        served.rest();
        assert_eq!(served.rate(at(320)), None, "forgotten");
    }

    #[test]
    fn while_a_swarm_arrives_what_is_served_says_little() {
        let (mut served, start) = (Served::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        for ms in 0..600 {
            served.look(at(ms), ms, ms * 15);
        }
        assert_eq!(served.rate(at(600)), None);
        for ms in 600..800 {
            served.look(at(ms), 600 + (ms - 600) * 9, 9000);
        }
        assert!(served.rate(at(800)).is_some_and(|rate| (8500.0..9500.0).contains(&rate)), "{served:?}");
        let mut endless = Served::default();
        for ms in 0..1200 {
            endless.look(at(ms), ms, ms * 15);
        }
        assert!(endless.rate(at(1200)).is_some(), "some swarms do not end");
    }
}
