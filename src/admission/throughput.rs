//! The service rate: how many clients a second the cluster takes while others wait. It is measured in windows, and only
//! while clients wait: what is done while nobody waits is less than what could be done.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::lapse::{self, Lapse};

/// A window is open for this long at least.
const WINDOW: Duration = Duration::from_millis(500);
/// A window with fewer completions than [`MIN_COMPLETIONS`] stays open until then: clients that come one by one are not
/// measured in half a second.
const LONGEST_WINDOW: Duration = Duration::from_secs(2);
const MIN_COMPLETIONS: u64 = 4;
/// With at least [`MANY_COMPLETIONS`] a window may close after this instead of [`WINDOW`]: clients that have to come
/// back should be told soon.
const SHORTEST_WINDOW: Duration = Duration::from_millis(100);
const MANY_COMPLETIONS: u64 = 32;
/// In a flood far more clients arrive than are served. weir is busy with the arrivals, and so are the cores that it
/// shares with others: what is served meanwhile is less than what can be. A flood has at least [`FLOOD`] arrivals in a
/// window, [`FLOOD_TIMES`] as many as completions, and counts as one for [`LONGEST_FLOOD`] after the first client has
/// begun to wait.
const FLOOD: u64 = 64;
const FLOOD_TIMES: u64 = 4;
const LONGEST_FLOOD: Duration = Duration::from_secs(1);
/// A rate that was measured longer ago says nothing about the next storm.
const STALE: Duration = Duration::from_secs(10);

/// A window, with the counts at its beginning.
#[derive(Debug, Clone, Copy)]
struct Window {
    since: Instant,
    finished: u64,
    arrived: u64,
}

/// No cluster takes more clients in a second, whatever another process says.
const MOST_A_SECOND: f64 = 1e7;

/// The service rate as another process recalls it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RememberedRate {
    measured: Lapse,
    rate: f64,
    uncertainty: f64,
}

/// Measures the service rate.
#[derive(Debug, Default)]
pub struct Throughput {
    /// Since when clients have waited without a break.
    busy_since: Option<Instant>,
    window: Option<Window>,
    /// When it was measured, and clients a second.
    rate: Option<(Instant, f64)>,
    /// Upper bound of the rate's error, as a fraction: the true rate may be `rate × (1 + uncertainty)`.
    uncertainty: f64,
}

impl Throughput {
    /// The rate, if it is known, for a process that takes over.
    pub fn remembered(&self, now: Instant) -> Option<RememberedRate> {
        let (at, rate) = self.rate.filter(|(at, _)| now.saturating_duration_since(*at) < STALE)?;
        Some(RememberedRate { measured: Lapse::since(at, now), rate, uncertainty: self.uncertainty })
    }

    /// What another process had measured at `then`, where nothing has been measured here.
    pub fn recall(&mut self, remembered: &RememberedRate, then: Instant) {
        if self.rate.is_none() {
            self.rate = Some((remembered.measured.before(then), lapse::within(remembered.rate, 0.0, MOST_A_SECOND)));
            self.uncertainty = lapse::within(remembered.uncertainty, 0.0, 1.0);
        }
    }

    /// Nobody waits: the window is given up.
    pub fn rest(&mut self) {
        (self.busy_since, self.window) = (None, None);
    }

    /// Clients wait. `finished` handshakes have ended in all, and `arrived` clients have joined the queue in all.
    pub fn update(&mut self, now: Instant, finished: u64, arrived: u64) {
        let busy_since = *self.busy_since.get_or_insert(now);
        let begun = Window { since: now, finished, arrived };
        let window = *self.window.get_or_insert(begun);
        let took = now.saturating_duration_since(window.since);
        let completions = finished.saturating_sub(window.finished);
        let arrivals = arrived.saturating_sub(window.arrived);
        let is_new = now.saturating_duration_since(busy_since) < LONGEST_FLOOD;
        if is_new && arrivals >= FLOOD.max(FLOOD_TIMES * completions) {
            self.window = Some(begun);
            return;
        }
        let many = completions >= MANY_COMPLETIONS && took >= SHORTEST_WINDOW;
        if !many && (took < WINDOW || completions < MIN_COMPLETIONS && took < LONGEST_WINDOW) {
            return;
        }
        let measured = completions as f64 / took.as_secs_f64();
        // The last window makes half of the rate, so that a cluster that slows down is noticed within seconds.
        let before = self.rate(now);
        self.rate = Some((now, before.map_or(measured, |rate| (rate + measured) / 2.0)));
        let is_uncertain = is_new && arrivals > completions;
        self.uncertainty = match before {
            None => f64::from(u8::from(is_uncertain)),
            Some(_) if is_uncertain => self.uncertainty,
            Some(_) => self.uncertainty / 2.0,
        };
        self.window = Some(begun);
    }

    /// Upper bound of the service rate, in clients a second; `None` while it is unknown. At the beginning of a storm
    /// more clients may come than are served, though fewer than in a flood: then too weir is busy with them, and twice
    /// as many may be served once they are there. A client that is told too early that its turn comes too late is away
    /// for seconds.
    pub fn upper_rate(&self, now: Instant) -> Option<f64> {
        self.rate(now).map(|rate| rate * (1.0 + self.uncertainty))
    }

    /// The service rate, in clients a second; `None` while it is unknown.
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
    fn while_more_come_than_are_served_the_rate_may_be_higher() {
        let (mut throughput, start) = (Throughput::default(), Instant::now());
        let mut upper_rates = |ms: std::ops::Range<u64>, each: u64, come: u64| {
            let mut rates = Vec::new();
            for ms in ms.step_by(100) {
                throughput.update(start + Duration::from_millis(ms), ms * each, ms * come);
                rates.extend(throughput.upper_rate(start + Duration::from_millis(ms)));
            }
            rates
        };
        assert_eq!(upper_rates(0..400, 2, 5), [4000.0, 4000.0, 4000.0]);
        assert_eq!(upper_rates(400..800, 2, 2)[1..], [2500.0, 2250.0, 2125.0], "all are there");
        assert!(upper_rates(800..2000, 2, 1).last().is_some_and(|&rate| rate < 2001.0));
        assert!(upper_rates(2000..9000, 2, 3).last().is_some_and(|&rate| rate < 2001.0), "it is no new storm");
    }

    #[test]
    fn what_is_served_during_a_flood_says_little() {
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
        assert!(endless.rate(at(1200)).is_some(), "some floods do not end");
    }

    #[test]
    fn another_process_knows_the_rate_for_as_long() {
        let (mut old, start) = (Throughput::default(), Instant::now());
        let at = |tenths: u64| start + Duration::from_millis(tenths * 100);
        assert_eq!(old.remembered(start), None);
        for tenth in 0..20 {
            old.update(at(tenth), tenth * 40, 2 * tenth * 40);
        }
        let (then, there) = (at(40), at(100_000));
        let text = serde_json::to_string(&old.remembered(then)).unwrap();
        let mut new = Throughput::default();
        new.recall(&serde_json::from_str(&text).unwrap(), there);
        for seconds in 0..15 {
            let after = Duration::from_secs(seconds);
            let (was, is) = (old.rate(then + after), new.rate(there + after));
            assert_eq!(was.is_some(), is.is_some(), "after {seconds} s");
            assert!((was.unwrap_or(0.0) - is.unwrap_or(0.0)).abs() < 1e-6);
            let (was, is) = (old.upper_rate(then + after), new.upper_rate(there + after));
            assert!((was.unwrap_or(0.0) - is.unwrap_or(0.0)).abs() < 1e-6);
        }
        for made_up in [r#"{"rate":1e308,"uncertainty":1e308}"#, r#"{"rate":-1,"uncertainty":-1}"#, "{}"] {
            let mut new = Throughput::default();
            new.recall(&serde_json::from_str(made_up).unwrap(), there);
            let upper = new.upper_rate(there).unwrap();
            assert!((0.0..=2.0 * MOST_A_SECOND).contains(&upper), "{made_up}: {upper}");
        }
    }
}
