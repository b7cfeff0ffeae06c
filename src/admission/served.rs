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
/// A figure older than this says nothing about the next storm.
const STALE: Duration = Duration::from_secs(10);

/// The measurement.
#[derive(Debug, Default)]
pub struct Served {
    /// Since when, without a break, somebody has waited, and how many had been served by then.
    window: Option<(Instant, u64)>,
    rate: Option<(Instant, f64)>,
}

impl Served {
    /// `finished` handshakes have ended in all, and somebody waits (or nobody does, and what is done now is less than what
    /// could be done).
    pub fn look(&mut self, now: Instant, finished: u64, somebody_waits: bool) {
        if !somebody_waits {
            self.window = None;
            return;
        }
        let (since, before) = *self.window.get_or_insert((now, finished));
        let (took, served) = (now.saturating_duration_since(since), finished.saturating_sub(before));
        let many = served >= MANY && took >= LEAST_WINDOW;
        if !many && (took < WINDOW || served < ENOUGH && took < LONGEST_WINDOW) {
            return;
        }
        let measured = served as f64 / took.as_secs_f64();
        // Half of the figure is the last window's, so that a cluster that slows down is noticed within seconds.
        let rate = self.rate(now).map_or(measured, |rate| (rate + measured) / 2.0);
        self.rate = Some((now, rate));
        self.window = Some((now, finished));
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
            served.look(at(tenth), tenth, false);
        }
        assert_eq!(served.rate(at(20)), None, "ten a second came, and more could have");
        for tenth in 20..60 {
            served.look(at(tenth), tenth * 80, true);
        }
        let rate = served.rate(at(60)).unwrap();
        assert!((790.0..810.0).contains(&rate), "{rate}");
        for tenth in 60..200 {
            served.look(at(tenth), 60 * 80 + tenth / 5, true);
            assert!(served.rate(at(tenth)).is_some_and(|rate| rate > 1.0), "two a second are not none");
        }
        served.look(at(200), 61 * 80, false);
        assert_eq!(served.rate(at(320)), None, "forgotten");
    }
}
