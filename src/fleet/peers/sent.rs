//! When a peer's beats were sent, by the clock of this weir.

use std::time::{Duration, Instant};

/// A start that was seen this long ago counts no more: clocks run at slightly different speeds.
const REMEMBERED: Duration = Duration::from_secs(30);

/// Dates beats by the uptime in them. A beat cannot come before it was sent, so arrival less uptime is never before the
/// peer's start, and the earliest of those is the closest to it: off by the time that the quickest beat was under way.
#[derive(Debug, Default)]
pub struct SendTimes {
    /// The earliest start of the span that is going on, and when that began.
    current: Option<(Instant, Instant)>,
    /// The earliest start of the span before.
    before: Option<Instant>,
}

impl SendTimes {
    /// A beat with this uptime has come. Returns when it was sent, at the latest.
    pub fn note(&mut self, up_ms: u64, now: Instant) -> Instant {
        // A forged uptime may be before all time.
        if let Some(start) = now.checked_sub(Duration::from_millis(up_ms)) {
            self.current = Some(match self.current {
                Some((earliest, since)) if now.saturating_duration_since(since) < REMEMBERED => {
                    (earliest.min(start), since)
                }
                current => {
                    self.before = current.map(|(earliest, _)| earliest);
                    (start, now)
                }
            });
        }
        self.of(up_ms, now)
    }

    /// When the peer's clock showed this uptime: not after `now`, which is when the beat came.
    pub fn of(&self, up_ms: u64, now: Instant) -> Instant {
        let start = match (self.current, self.before) {
            (Some((current, _)), Some(before)) => current.min(before),
            (Some((current, _)), None) => current,
            (None, _) => return now,
        };
        start.checked_add(Duration::from_millis(up_ms)).map_or(now, |sent| sent.min(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_quickest_beat_dates_the_others() {
        let (mut times, start) = (SendTimes::default(), Instant::now() + ms(1_000_000));
        // Sent at 1,000, 1,250 and 1,500 ms, with delays of 40, 2 and 300 ms.
        assert_eq!(times.note(1_000, start + ms(1_040)), start + ms(1_040));
        assert_eq!(times.note(1_250, start + ms(1_252)), start + ms(1_252));
        assert_eq!(times.note(1_500, start + ms(1_800)), start + ms(1_502));
        assert_eq!(times.of(0, start + ms(1_800)), start + ms(2));
    }

    #[test]
    fn a_clock_that_runs_slow_is_followed_and_a_forged_uptime_is_harmless() {
        let (mut times, start) = (SendTimes::default(), Instant::now() + ms(1_000_000));
        for second in 0..300 {
            // The peer's clock loses 1 ms in each second.
            let at = start + ms(1000 * second);
            let off = at.saturating_duration_since(times.note(999 * second, at));
            assert!(off <= ms(60), "{off:?} after {second} s");
        }
        let now = start + ms(300_000);
        assert_eq!(times.note(u64::MAX, now), now);
        assert!(times.note(0, now) <= now);
    }
}
