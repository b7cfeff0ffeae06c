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
pub struct Throughput {
    /// MeasuredFrom when, without a break, somebody has waited.
    busy_since: Option<Instant>,
    window: Option<Window>,
    rate: Option<(Instant, f64)>,
    /// How much more it may be than that, in parts of it.
    uncertainty: f64,
}

impl Throughput {
    /// Nobody waits: what is done now is less than what could be done.
    pub fn rest(&mut self) {
        (self.busy_since, self.window) = (None, None);
    }

    /// Somebody waits. `finished` handshakes have ended in all, and so many have `arrived` to wait.
    pub fn update(&mut self, now: Instant, finished: u64, arrived: u64) {
        let busy_since = *self.busy_since.get_or_insert(now);
        let begun = Window { since: now, finished, arrived };
        let window = *self.window.get_or_insert(begun);
        let took = now.saturating_duration_since(window.since);
        let throughput = finished.saturating_sub(window.finished);
        let came = arrived.saturating_sub(window.arrived);
        let is_new = now.saturating_duration_since(busy_since) < LONGEST_SWARM;
        if is_new && came >= SWARM.max(SWARM_TIMES * throughput) {
            self.window = Some(begun);
            return;
        }
        let many = throughput >= MANY && took >= LEAST_WINDOW;
        if !many && (took < WINDOW || throughput < ENOUGH && took < LONGEST_WINDOW) {
            return;
        }
        let measured = throughput as f64 / took.as_secs_f64();
        // Half of the figure is the last window's, so that a cluster that slows down is noticed within seconds.
        let before = self.rate(now);
        self.rate = Some((now, before.map_or(measured, |rate| (rate + measured) / 2.0)));
        let is_doubted = is_new && came > throughput;
        self.uncertainty = match before {
            None => f64::from(u8::from(is_doubted)),
            Some(_) if is_doubted => self.uncertainty,
            Some(_) => self.uncertainty / 2.0,
        };
        self.window = Some(begun);
    }

    /// What those who wait may hope for, in clients a second; `None` while unknown. At the beginning of a storm fewer may come than a
    /// swarm, but more than are served: then too weir is busy with them, and twice as many may be served once they are there. Who is
    /// told too early that there is no hope is away for seconds.
    pub fn upper_rate(&self, now: Instant) -> Option<f64> {
        self.rate(now).map(|rate| rate * (1.0 + self.uncertainty))
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
        let (mut throughput, start) = (Throughput::default(), Instant::now());
        let at = |tenths: u64| start + Duration::from_millis(tenths * 100);
        for tenth in 0..20 {
            throughput.update(at(tenth), tenth, 0);
            throughput.rest();
        }
        assert_eq!(throughput.rate(at(20)), None, "ten a second came, and more could have");
        for tenth in 20..60 {
            throughput.update(at(tenth), tenth * 80, 0);
        }
        let rate = throughput.rate(at(60)).unwrap();
        assert!((790.0..810.0).contains(&rate), "{rate}");
        for tenth in 60..200 {
            throughput.update(at(tenth), 60 * 80 + tenth / 5, 0);
            assert!(throughput.rate(at(tenth)).is_some_and(|rate| rate > 1.0), "two a second are not none");
        }
        throughput.rest();
        assert_eq!(throughput.rate(at(320)), None, "forgotten");
    }

    #[test]
    fn while_more_come_than_are_served_more_may_be_hoped_for() {
        let (mut throughput, start) = (Throughput::default(), Instant::now());
        let mut hopes = |ms: std::ops::Range<u64>, each: u64, come: u64| {
            let mut hopes = Vec::new();
            for ms in ms.step_by(100) {
                throughput.update(start + Duration::from_millis(ms), ms * each, ms * come);
                hopes.extend(throughput.upper_rate(start + Duration::from_millis(ms)));
            }
            hopes
        };
        assert_eq!(hopes(0..400, 2, 5), [4000.0, 4000.0, 4000.0]);
        assert_eq!(hopes(400..800, 2, 2)[1..], [2500.0, 2250.0, 2125.0], "all are there");
        assert!(hopes(800..2000, 2, 1).last().is_some_and(|&hope| hope < 2001.0));
        assert!(hopes(2000..9000, 2, 3).last().is_some_and(|&hope| hope < 2001.0), "it is no new storm");
    }

    #[test]
    fn while_a_swarm_arrives_what_is_served_says_little() {
        let (mut throughput, start) = (Throughput::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        for ms in 0..600 {
            throughput.update(at(ms), ms, ms * 15);
        }
        assert_eq!(throughput.rate(at(600)), None);
        for ms in 600..800 {
            throughput.update(at(ms), 600 + (ms - 600) * 9, 9000);
        }
        assert!(throughput.rate(at(800)).is_some_and(|rate| (8500.0..9500.0).contains(&rate)), "{throughput:?}");
        let mut endless = Throughput::default();
        for ms in 0..1200 {
            endless.update(at(ms), ms, ms * 15);
        }
        assert!(endless.rate(at(1200)).is_some(), "some swarms do not end");
    }
}
