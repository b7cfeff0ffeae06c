//! What a dial of one port takes, from its beginning to the server's INFO: the longest of late, forgotten by 5 % with
//! each shorter one. Every dial reads and writes it, so it has no lock.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// A dial is given this many times what dials usually take, where its client has so much left.
const MARGIN: f64 = 1.5;

/// In nanoseconds; 0 before the first answer.
#[derive(Debug, Default)]
pub struct DialTime(AtomicU64);

impl DialTime {
    /// A dial `took` so long. Of two that end in the same moment one may be lost, and the next one tells as much.
    pub fn note(&self, took: Duration) {
        let before = self.usual();
        let before = if before.is_zero() { took } else { before };
        let longest = took.max(before.mul_f64(0.95) + took.mul_f64(0.05));
        self.0.store(u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Zero before the first answer.
    pub fn usual(&self) -> Duration {
        Duration::from_nanos(self.0.load(Relaxed))
    }

    /// What dials took in another process, where none has ended in this one.
    pub fn recall(&self, usual: Duration) {
        if self.usual().is_zero() {
            self.0.store(u64::try_from(usual.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        }
    }

    /// How much of the time that a client has `left` a dial is given. The other half is for another server, unless
    /// dials here usually take longer than half: then another server's probably would too.
    pub fn part_of(&self, left: Duration) -> Duration {
        (left / 2).max(self.usual().mul_f64(MARGIN).min(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dial_is_given_what_dials_take() {
        let (ms, dial_time) = (Duration::from_millis, DialTime::default());
        assert_eq!(dial_time.part_of(ms(78)), ms(39));
        dial_time.note(ms(60));
        assert_eq!([78, 100, 1000].map(|left| dial_time.part_of(ms(left))), [78, 90, 500].map(ms));
    }

    #[test]
    fn long_dials_are_forgotten() {
        let (ms, dial_time) = (Duration::from_millis, DialTime::default());
        dial_time.note(ms(1));
        dial_time.note(ms(100));
        assert_eq!(dial_time.usual(), ms(100));
        (0..100).for_each(|_| dial_time.note(ms(1)));
        assert!(dial_time.usual() < ms(2), "{:?}", dial_time.usual());
    }
}
