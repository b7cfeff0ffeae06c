//! Token buckets: governor's GCRA, with the time as an argument.

use std::{
    num::NonZeroU32,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use governor::{
    Quota as GovernorQuota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};

/// New connections per second, with the burst that may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// New connections per second, sustained.
    pub per_second: NonZeroU32,
    /// New connections at once after a quiet time.
    pub burst: NonZeroU32,
}

/// The clock of one bucket: it shows the latest time that [`TokenBucket::take`] was called with. So governor needs no
/// clock of its own, and a simulation owns the time.
#[derive(Debug, Default)]
struct ArgumentClock {
    /// What 0 ns stands for.
    began: OnceLock<Instant>,
    nanos: AtomicU64,
}

impl ArgumentClock {
    /// Threads that read the time one after another may come here in another order: the clock never goes back.
    fn advance_to(&self, now: Instant) {
        let began = *self.began.get_or_init(|| now);
        let nanos = now.saturating_duration_since(began).as_nanos();
        self.nanos.fetch_max(u64::try_from(nanos).unwrap_or(u64::MAX), Relaxed);
    }
}

impl Clock for ArgumentClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(self.nanos.load(Relaxed))
    }
}

/// One token bucket.
#[derive(Debug)]
pub struct TokenBucket {
    limiter: RateLimiter<NotKeyed, InMemoryState, ArgumentClock, NoOpMiddleware<Nanos>>,
    per_second: NonZeroU32,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(rate: Rate) -> Self {
        let quota = GovernorQuota::per_second(rate.per_second).allow_burst(rate.burst);
        Self { limiter: RateLimiter::direct_with_clock(quota, ArgumentClock::default()), per_second: rate.per_second }
    }

    /// Takes a token.
    ///
    /// # Errors
    /// How long until there is one; nothing is taken then.
    pub fn take(&self, now: Instant) -> Result<(), Duration> {
        self.limiter.clock().advance_to(now);
        self.limiter.check().map_err(|until| until.wait_time_from(self.limiter.clock().now()))
    }

    /// Tokens per second.
    pub fn per_second(&self) -> NonZeroU32 {
        self.per_second
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
}
