//! A leaky bucket that takes the time as an argument. As in GCRA, its whole state is the time at which it will be
//! empty.

use std::time::{Duration, Instant};

/// The content of the bucket, expressed as the time that it takes to leak out. Empty by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeakyBucket {
    empty_at: Option<Instant>,
}

impl LeakyBucket {
    /// A bucket that is empty at `at`.
    pub fn until(at: Instant) -> Self {
        Self { empty_at: Some(at) }
    }

    /// When it will be empty; `None` if it is empty now.
    pub fn empty_at(self, now: Instant) -> Option<Instant> {
        self.empty_at.filter(|&at| now < at)
    }

    /// How long it takes until it is empty.
    pub fn level(self, now: Instant) -> Duration {
        self.empty_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    /// The bucket with `more` added at `now`.
    #[must_use]
    pub fn add(self, now: Instant, more: Duration) -> Self {
        Self::until(self.empty_at(now).unwrap_or(now) + more)
    }

    /// The bucket with `less` taken out again: it is never less than empty.
    #[must_use]
    pub fn without(self, less: Duration) -> Self {
        Self { empty_at: self.empty_at.and_then(|at| at.checked_sub(less)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_poured_in_leaks_out_at_its_rate() {
        let (mut bucket, now, second) = (LeakyBucket::default(), Instant::now(), Duration::from_secs(1));
        assert_eq!((bucket.level(now), bucket.empty_at(now)), (Duration::ZERO, None));
        for _ in 0..3 {
            bucket = bucket.add(now, second);
        }
        assert_eq!((bucket.level(now), bucket.empty_at(now)), (3 * second, Some(now + 3 * second)));
        bucket = bucket.add(now + second, second);
        assert_eq!(bucket.level(now + second), 3 * second, "one has leaked out, and one has come");
        assert_eq!(bucket.empty_at(now + 4 * second), None);
        assert_eq!(bucket.add(now + 9 * second, second).level(now + 9 * second), second, "it is never less than empty");
        assert_eq!(bucket.without(second).level(now + second), 2 * second);
        let empty = bucket.without(9 * second);
        assert_eq!((empty.level(now), empty.add(now, second).level(now)), (Duration::ZERO, second));
        assert_eq!(LeakyBucket::default().without(second), LeakyBucket::default());
    }
}
