//! Token buckets (governor's GCRA), generic over their clock so that simulations own the time.

use std::{num::NonZeroU32, time::Duration};

use governor::{
    Quota as Bucket, RateLimiter,
    clock::{Clock, Reference},
    middleware::NoOpMiddleware,
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

/// One bucket.
pub struct Tokens<C: Clock> {
    limiter: RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
    clock: C,
    per_second: NonZeroU32,
}

impl<C: Clock + Clone> Tokens<C> {
    /// A full bucket.
    pub fn new(rate: Rate, clock: &C) -> Self {
        let bucket = Bucket::per_second(rate.per_second).allow_burst(rate.burst);
        Self {
            limiter: RateLimiter::direct_with_clock(bucket, clock.clone()),
            clock: clock.clone(),
            per_second: rate.per_second,
        }
    }

    /// Takes a token.
    ///
    /// # Errors
    /// How long until there is one; nothing is taken then.
    pub fn take(&self) -> Result<(), Duration> {
        self.limiter.check().map_err(|until| until.earliest_possible().duration_since(self.clock.now()).into())
    }

    /// Tokens per second.
    pub fn per_second(&self) -> NonZeroU32 {
        self.per_second
    }
}

impl<C: Clock> std::fmt::Debug for Tokens<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("per_second", &self.per_second).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    #[test]
    fn burst_then_pace() {
        let clock = FakeRelativeClock::default();
        let rate = Rate { per_second: 10.try_into().unwrap(), burst: 3.try_into().unwrap() };
        let tokens = Tokens::new(rate, &clock);
        assert_eq!((0..9).filter(|_| tokens.take().is_ok()).count(), 3);
        let wait = tokens.take().unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(100), "{wait:?}");
        clock.advance(wait);
        assert!(tokens.take().is_ok());
        assert!(tokens.take().is_err(), "a refusal takes nothing, and the next token is not there yet");
    }
}
