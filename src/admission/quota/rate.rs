//! Token buckets (GCRA), with the time as an argument.

use std::{
    num::NonZeroU32,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// New connections per second, with the burst that may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// New connections per second, sustained.
    pub per_second: NonZeroU32,
    /// New connections at once after a quiet time.
    pub burst: NonZeroU32,
}

/// One token bucket.
#[derive(Debug)]
pub struct TokenBucket {
    rate: Rate,
    /// What 0 ns stands for.
    began: OnceLock<Instant>,
    /// When the bucket will be full again, in nanoseconds: its whole state.
    full_at: AtomicU64,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(rate: Rate) -> Self {
        Self { rate, began: OnceLock::new(), full_at: AtomicU64::new(0) }
    }

    /// The time that one token takes.
    fn per_token(&self) -> u64 {
        1_000_000_000 / u64::from(self.rate.per_second.get())
    }

    fn nanos(&self, now: Instant) -> u64 {
        let began = *self.began.get_or_init(|| now);
        u64::try_from(now.saturating_duration_since(began).as_nanos()).unwrap_or(u64::MAX / 2)
    }

    /// Takes a token.
    ///
    /// # Errors
    /// How long until there is one; nothing is taken then.
    pub fn take(&self, now: Instant) -> Result<(), Duration> {
        let (now, one) = (self.nanos(now), self.per_token());
        let latest = now.saturating_add(one * u64::from(self.rate.burst.get()));
        let taken = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| {
            Some(full_at.max(now) + one).filter(|full_at| *full_at <= latest)
        });
        taken.map(|_| ()).map_err(|full_at| Duration::from_nanos(full_at + one - latest))
    }

    /// Takes a token that has been used already, whether there is one or not. The bucket owes its burst at most.
    pub fn charge(&self, now: Instant) {
        let (now, one) = (self.nanos(now), self.per_token());
        let most = now.saturating_add(2 * one * u64::from(self.rate.burst.get()));
        let _ = self
            .full_at
            .fetch_update(Relaxed, Relaxed, |full_at| Some((full_at.max(now) + one).min(most.max(full_at))));
    }

    /// A bucket with as many tokens.
    pub fn copy(&self) -> Self {
        Self { rate: self.rate, began: self.began.clone(), full_at: AtomicU64::new(self.full_at.load(Relaxed)) }
    }

    /// Whether no token is missing.
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at.load(Relaxed) <= self.nanos(now)
    }

    /// Tokens per second.
    pub fn per_second(&self) -> NonZeroU32 {
        self.rate.per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_pace() {
        let mut now = Instant::now();
        let rate = Rate { per_second: 10.try_into().unwrap(), burst: 3.try_into().unwrap() };
        let tokens = TokenBucket::new(rate);
        assert_eq!((0..9).filter(|_| tokens.take(now).is_ok()).count(), 3);
        let wait = tokens.take(now).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(100), "{wait:?}");
        now += wait;
        assert!(tokens.take(now).is_ok());
        assert!(tokens.take(now).is_err(), "a refusal takes nothing, and the next token is not there yet");
        assert!(tokens.take(now - wait).is_err(), "a thread that read the time earlier finds no more than the others");
    }

    #[test]
    fn what_was_used_is_owed_up_to_the_burst() {
        let now = Instant::now();
        let rate = Rate { per_second: 10.try_into().unwrap(), burst: 3.try_into().unwrap() };
        let tokens = TokenBucket::new(rate);
        assert!(tokens.is_full(now));
        (0..3).for_each(|_| tokens.charge(now));
        assert_eq!(tokens.take(now).unwrap_err(), Duration::from_millis(100));
        (0..9).for_each(|_| tokens.charge(now));
        assert_eq!(tokens.take(now).unwrap_err(), Duration::from_millis(400), "three are owed");
        assert!(!tokens.is_full(now + Duration::from_millis(599)) && tokens.is_full(now + Duration::from_millis(600)));
    }
}
