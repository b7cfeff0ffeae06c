//! The least that a handshake of one kind takes, re-measured slowly.

use std::time::{Duration, Instant};

/// From when on what a handshake takes is counted. A server that has been dialled before its client came is a round trip quicker: a
/// kind of its own, with its own floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// The dial; CONNECT goes with it or behind it.
    Dial,
    /// CONNECT.
    Connect,
}

/// The measurement.
#[derive(Debug, Default, Clone, Copy)]
pub struct Floor {
    now: Option<Duration>,
    /// The least of the period that runs; it replaces `now` at its end, so that a floor can rise again.
    next: Option<Duration>,
    since: Option<Instant>,
    /// The least of the undisturbed ones since the last that took what it should, and how many they were.
    slow: Option<(Duration, u32)>,
}

/// A handshake may take this much more than its floor, whatever the floor: below it there is no telling waiting from noise,
/// and no harm in it.
const TOLERANCE: Duration = Duration::from_millis(20);
/// And this many times its floor.
const TOLERATED: f64 = 1.5;
/// So many undisturbed ones in a row that take longer are no accident: the server has become slower.
const NO_ACCIDENT: u32 = 8;

/// What a handshake of this floor may take.
pub fn tolerated(floor: Duration) -> Duration {
    floor.mul_f64(TOLERATED).max(floor + TOLERANCE)
}

impl Floor {
    /// How long a floor holds.
    const PERIOD: Duration = Duration::from_secs(60);

    /// Takes in what a handshake took; returns the floor. Only of one that was `undisturbed`, with hardly another on its server, does
    /// a floor rise: in a storm that is longer than a period even the least is not what a handshake takes alone, and a floor that
    /// followed would let more and more of them in at a time.
    pub fn sample(&mut self, now: Instant, took: Duration, undisturbed: bool) -> Duration {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= Self::PERIOD {
            self.now = self.next.take().or(self.now);
            self.since = Some(now);
        }
        if undisturbed {
            self.next = Some(self.next.map_or(took, |least| least.min(took)));
        }
        if took <= self.now.map_or(took, tolerated) {
            self.slow = None;
        } else if undisturbed {
            let (least, count) = self.slow.map_or((took, 1), |(least, count)| (least.min(took), count + 1));
            self.slow = Some((least, count));
            if count == NO_ACCIDENT {
                *self = Self { now: Some(least), since: Some(now), ..Self::default() };
            }
        }
        let floor = self.now.map_or(took, |least| least.min(took));
        self.now = Some(floor);
        floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn it_falls_at_once_and_rises_slowly() {
        let (mut floor, now) = (Floor::default(), Instant::now());
        assert_eq!(floor.sample(now, 9 * MS, true), 9 * MS);
        assert_eq!(floor.sample(now, MS, true), MS);
        for second in 1..200 {
            floor.sample(now + Duration::from_secs(second), 15 * MS, true);
        }
        assert_eq!(floor.sample(now + Duration::from_secs(200), 16 * MS, true), 15 * MS);
    }

    #[test]
    fn a_server_that_has_become_slower_is_found_out_soon() {
        let (mut floor, now) = (Floor::default(), Instant::now());
        floor.sample(now, 10 * MS, true);
        for _ in 1..NO_ACCIDENT {
            assert_eq!(floor.sample(now, 100 * MS, true), 10 * MS);
        }
        floor.sample(now, 12 * MS, true);
        for n in 1..NO_ACCIDENT {
            // Those that come in between, with others beside them, say nothing.
            floor.sample(now, 900 * MS, false);
            assert_eq!(floor.sample(now, (90 + n) * MS, true), 10 * MS);
        }
        assert_eq!(floor.sample(now, 300 * MS, true), 91 * MS);
    }

    #[test]
    fn a_long_storm_does_not_raise_it() {
        let (mut floor, now) = (Floor::default(), Instant::now());
        floor.sample(now, MS, true);
        for second in 1..1000 {
            assert_eq!(floor.sample(now + Duration::from_secs(second), 50 * MS, false), MS);
        }
    }
}
