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

impl Rate {
    /// The time that one token takes.
    pub fn each(self) -> Duration {
        Duration::from_secs(1) / self.per_second.get()
    }

    /// The same in nanoseconds.
    fn per_token(self) -> u64 {
        1_000_000_000 / u64::from(self.per_second.get())
    }
}

/// A rate that may change while others read it; 0 stands for no limit.
#[derive(Debug)]
pub struct LiveRate(AtomicU64);

impl LiveRate {
    pub fn new(rate: Option<Rate>) -> Self {
        Self(AtomicU64::new(Self::packed(rate)))
    }

    pub fn set(&self, rate: Option<Rate>) {
        self.0.store(Self::packed(rate), Relaxed);
    }

    fn packed(rate: Option<Rate>) -> u64 {
        rate.map_or(0, |rate| u64::from(rate.per_second.get()) << 32 | u64::from(rate.burst.get()))
    }

    #[expect(clippy::cast_possible_truncation, reason = "the two halves of what was packed")]
    pub fn get(&self) -> Option<Rate> {
        let packed = self.0.load(Relaxed);
        Some(Rate { per_second: NonZeroU32::new((packed >> 32) as u32)?, burst: NonZeroU32::new(packed as u32)? })
    }
}

/// One token bucket, whose rate may change. Without a rate there is always a token.
#[derive(Debug)]
pub struct TokenBucket {
    rate: LiveRate,
    /// What 0 ns stands for.
    began: OnceLock<Instant>,
    /// When the bucket will be full again, in nanoseconds: its whole state.
    full_at: AtomicU64,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(rate: Option<Rate>) -> Self {
        Self { rate: LiveRate::new(rate), began: OnceLock::new(), full_at: AtomicU64::new(0) }
    }

    /// The rate; `None` is no limit.
    pub fn rate(&self) -> Option<Rate> {
        self.rate.get()
    }

    /// Changes the rate. As many tokens are missing as before, but no more than the new burst.
    pub fn set_rate(&self, rate: Option<Rate>, now: Instant) {
        let before = self.rate.get();
        if before == rate {
            return;
        }
        self.rate.set(rate);
        let now = self.nanos(now);
        let _ = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| {
            let Some((before, after)) = before.zip(rate) else { return Some(now.min(full_at)) };
            let missing = full_at.saturating_sub(now).div_ceil(before.per_token());
            Some(now.saturating_add(missing.min(after.burst.get().into()) * after.per_token()))
        });
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
        let Some(rate) = self.rate.get() else { return Ok(()) };
        let (now, one) = (self.nanos(now), rate.per_token());
        let latest = now.saturating_add(one * u64::from(rate.burst.get()));
        let taken = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| {
            Some(full_at.max(now) + one).filter(|full_at| *full_at <= latest)
        });
        taken.map(|_| ()).map_err(|full_at| Duration::from_nanos(full_at + one - latest))
    }

    /// Takes a token, or one that comes until `latest`: whoever comes after gets a later one. Returns whether there is
    /// one in time; nothing is taken if not.
    pub fn reserve(&self, now: Instant, latest: Instant) -> bool {
        let Some(rate) = self.rate.get() else { return true };
        let (now, latest, one) = (self.nanos(now), self.nanos(latest), rate.per_token());
        let latest = latest.saturating_add(one * u64::from(rate.burst.get()));
        let next = |full_at: u64| Some(full_at.max(now) + one).filter(|full_at| *full_at <= latest);
        self.full_at.fetch_update(Relaxed, Relaxed, next).is_ok()
    }

    /// All tokens that come until then are used.
    pub fn spent_until(&self, at: Instant) {
        let Some(rate) = self.rate.get() else { return };
        self.full_at.fetch_max(self.nanos(at).saturating_add(rate.per_token() * u64::from(rate.burst.get())), Relaxed);
    }

    /// Takes a token that has been used already, whether there is one or not. The bucket owes its burst at most.
    pub fn charge(&self, now: Instant) {
        let Some(rate) = self.rate.get() else { return };
        let (now, one) = (self.nanos(now), rate.per_token());
        let most = now.saturating_add(2 * one * u64::from(rate.burst.get()));
        let _ = self
            .full_at
            .fetch_update(Relaxed, Relaxed, |full_at| Some((full_at.max(now) + one).min(most.max(full_at))));
    }

    /// A bucket with as many tokens.
    pub fn copy(&self) -> Self {
        Self {
            rate: LiveRate::new(self.rate.get()),
            began: self.began.clone(),
            full_at: AtomicU64::new(self.full_at.load(Relaxed)),
        }
    }

    /// Whether no token is missing.
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at.load(Relaxed) <= self.nanos(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_pace() {
        let mut now = Instant::now();
        let rate = Rate { per_second: 10.try_into().unwrap(), burst: 3.try_into().unwrap() };
        let tokens = TokenBucket::new(Some(rate));
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
        let tokens = TokenBucket::new(Some(rate));
        assert!(tokens.is_full(now));
        (0..3).for_each(|_| tokens.charge(now));
        assert_eq!(tokens.take(now).unwrap_err(), Duration::from_millis(100));
        (0..9).for_each(|_| tokens.charge(now));
        assert_eq!(tokens.take(now).unwrap_err(), Duration::from_millis(400), "three are owed");
        assert!(!tokens.is_full(now + Duration::from_millis(599)) && tokens.is_full(now + Duration::from_millis(600)));
    }

    #[test]
    fn a_new_rate_keeps_what_was_taken_and_makes_nobody_wait_at_the_old_one() {
        let rate = |per_second: u32, burst: u32| {
            Some(Rate { per_second: per_second.try_into().unwrap(), burst: burst.try_into().unwrap() })
        };
        let now = Instant::now();
        let tokens = TokenBucket::new(rate(1, 10));
        (0..10).for_each(|_| tokens.take(now).unwrap());
        assert_eq!(tokens.take(now).unwrap_err(), Duration::from_secs(1));
        tokens.set_rate(rate(1000, 20), now);
        assert_eq!((0..30).filter(|_| tokens.take(now).is_ok()).count(), 10, "10 of 20 were taken before");
        assert_eq!(tokens.take(now).unwrap_err(), Duration::from_millis(1));
        tokens.set_rate(rate(10, 2), now);
        assert_eq!(tokens.take(now).unwrap_err(), Duration::from_millis(100), "no more than the burst is missing");
        tokens.set_rate(None, now);
        assert!((0..100).all(|_| tokens.take(now).is_ok()) && tokens.is_full(now));
        tokens.set_rate(rate(1, 3), now);
        assert_eq!((0..9).filter(|_| tokens.take(now).is_ok()).count(), 3, "what was free is not owed");
    }
}
