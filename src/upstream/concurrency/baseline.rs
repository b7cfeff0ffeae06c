//! The least that a handshake of one kind takes, re-measured slowly.

use std::time::{Duration, Instant};

/// From when on what a handshake takes is counted. A server that has been dialled before its client came is a round trip quicker: a
/// kind of its own, with its own floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MeasuredFrom {
    /// The dial; CONNECT goes with it or behind it.
    Dial,
    /// CONNECT.
    Connect,
}

/// Handshakes in a row that took longer than they should.
#[derive(Debug, Clone, Copy)]
struct Slow {
    least: Duration,
    count: u32,
    /// When the first of them was over.
    since: Instant,
}

/// The measurement.
#[derive(Debug, Default, Clone, Copy)]
pub struct BaselineLatency {
    now: Option<Duration>,
    /// The least of the period that runs; it replaces `now` at its end, so that a floor can rise again.
    next: Option<Duration>,
    since: Option<Instant>,
    /// The uncontended ones since the last that took what it should.
    slow: Option<Slow>,
}

/// A handshake may take this many times its floor.
const TOLERATED: f64 = 1.5;
/// And this much more than its floor, whatever the floor: below it there is no telling waiting from noise.
const LEAST_TOLERANCE: Duration = Duration::from_millis(2);
/// A handshake has so many steps at which weir is waited for: dialled, INFO, PONG. By as many times what weir itself is late it may take
/// longer, up to the most.
const STEPS: u32 = 3;
const MOST_TOLERANCE: Duration = Duration::from_millis(20);
/// So many uncontended ones in a row that take longer are no accident: the server has become slower. Or so few over that time: what takes
/// long varies less.
const NO_ACCIDENT: u32 = 8;
const NO_ACCIDENT_FOR: (u32, Duration) = (3, Duration::from_secs(1));

/// What a handshake of this floor may take while weir is so `late` itself.
fn tolerated(floor: Duration, late: Duration) -> Duration {
    floor.mul_f64(TOLERATED).max(floor + (LEAST_TOLERANCE + STEPS * late).min(MOST_TOLERANCE))
}

impl BaselineLatency {
    /// How long a floor holds.
    const PERIOD: Duration = Duration::from_secs(60);

    /// Takes in what a handshake took while weir was so `late` itself; returns what it may take. Only of one that was `uncontended`, the
    /// only one on its server, does a floor rise: in a storm that is longer than a period even the least is not what a handshake takes
    /// alone, and a floor that followed would let more and more of them in at a time.
    pub fn record(&mut self, now: Instant, took: Duration, late: Duration, uncontended: bool) -> Duration {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= Self::PERIOD {
            self.now = self.next.take().or(self.now);
            self.since = Some(now);
        }
        if uncontended {
            self.next = Some(self.next.map_or(took, |least| least.min(took)));
        }
        if took <= self.now.map_or(took, |floor| tolerated(floor, late)) {
            self.slow = None;
        } else if uncontended {
            let slow = self.slow.get_or_insert(Slow { least: took, count: 0, since: now });
            (slow.least, slow.count) = (slow.least.min(took), slow.count + 1);
            let (few, time) = NO_ACCIDENT_FOR;
            if slow.count == NO_ACCIDENT || slow.count >= few && now.saturating_duration_since(slow.since) >= time {
                *self = Self { now: Some(slow.least), since: Some(now), ..Self::default() };
            }
        }
        let floor = self.now.map_or(took, |least| least.min(took));
        self.now = Some(floor);
        tolerated(floor, late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// The floor after one more, while weir is not late.
    fn after(floor: &mut BaselineLatency, now: Instant, took: Duration, uncontended: bool) -> Duration {
        floor.record(now, took, Duration::ZERO, uncontended);
        floor.now.unwrap()
    }

    #[test]
    fn it_falls_at_once_and_rises_slowly() {
        let (mut floor, now) = (BaselineLatency::default(), Instant::now());
        assert_eq!(after(&mut floor, now, 9 * MS, true), 9 * MS);
        assert_eq!(after(&mut floor, now, MS, true), MS);
        for second in 1..200 {
            after(&mut floor, now + Duration::from_secs(second), 15 * MS, true);
        }
        assert_eq!(after(&mut floor, now + Duration::from_secs(200), 16 * MS, true), 15 * MS);
    }

    #[test]
    fn a_server_that_has_become_slower_is_found_out_soon() {
        let (mut floor, now) = (BaselineLatency::default(), Instant::now());
        after(&mut floor, now, 10 * MS, true);
        for _ in 1..NO_ACCIDENT {
            assert_eq!(after(&mut floor, now, 100 * MS, true), 10 * MS);
        }
        after(&mut floor, now, 12 * MS, true);
        for n in 1..NO_ACCIDENT {
            // Those that come in between, with others beside them, say nothing.
            after(&mut floor, now, 900 * MS, false);
            assert_eq!(after(&mut floor, now, (90 + n) * MS, true), 10 * MS);
        }
        assert_eq!(after(&mut floor, now, 300 * MS, true), 91 * MS);
    }

    #[test]
    fn what_weir_is_late_is_not_the_servers_doing() {
        let may_take =
            |floor: u32, late: u32| BaselineLatency::default().record(Instant::now(), floor * MS, late * MS, true);
        assert_eq!([0, 1, 4, 6, 99].map(|late| may_take(1, late)), [3, 6, 15, 21, 21].map(|ms| ms * MS));
        assert_eq!([0, 1, 99].map(|late| may_take(100, late)), [150 * MS; 3]);
        let (mut floor, now) = (BaselineLatency::default(), Instant::now());
        for n in 0..100 {
            assert_eq!(
                floor.record(now, if n == 0 { MS } else { 20 * MS }, 7 * MS, true),
                21 * MS,
                "nor does it raise a floor"
            );
        }
    }

    #[test]
    fn a_long_storm_does_not_raise_it() {
        let (mut floor, now) = (BaselineLatency::default(), Instant::now());
        after(&mut floor, now, MS, true);
        for second in 1..1000 {
            assert_eq!(after(&mut floor, now + Duration::from_secs(second), 50 * MS, false), MS);
        }
    }
}
