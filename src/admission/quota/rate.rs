//! Token buckets (GCRA), with the time as an argument.

use std::{
    num::NonZeroU32,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::lapse;

/// New connections per second, with the burst that may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// New connections per second, sustained.
    pub per_second: NonZeroU32,
    /// New connections at once after a quiet time.
    pub burst: NonZeroU32,
}

impl Rate {
    /// The time that one token takes, in nanoseconds.
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

/// The whole of a rate, in the parts by which weirs of a fleet share it.
const WHOLE: u32 = 1_000_000;

/// How a weir uses a rate that its fleet shares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateUse {
    /// Tokens per second of the whole rate.
    pub per_second: f64,
    /// What this weir has taken in all.
    pub taken: u64,
    /// Whether somebody has been without a token here since this was last asked.
    pub was_empty: bool,
    /// Until when tokens are promised, at the part of the rate that this weir had then.
    pub promised_until: Option<Instant>,
}

/// A bucket as another process recalls it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RememberedTokens {
    rate: Rate,
    /// How many tokens it has; fewer than none if it owes some.
    has: f64,
}

impl RememberedTokens {
    /// A full bucket.
    pub fn full(rate: Rate) -> Self {
        Self { rate, has: rate.burst.get().into() }
    }

    /// A bucket with this rate and as many tokens at `then`.
    pub fn bucket(&self, then: Instant) -> TokenBucket {
        let bucket = TokenBucket::new(Some(self.rate));
        bucket.recall(self, then);
        bucket
    }

    /// The rate by which it fills.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// How many tokens are missing.
    pub fn missing(&self) -> f64 {
        f64::from(self.rate.burst.get()) - self.has
    }
}

/// As far ahead as time is counted, so that nothing overflows that comes on top.
const LONGEST: u64 = u64::MAX / 2;

fn nanos_of(nanos: u128) -> u64 {
    u64::try_from(nanos).map_or(LONGEST, |nanos| nanos.min(LONGEST))
}

/// One token bucket, whose rate may change. Without a rate there is always a token.
#[derive(Debug)]
pub struct TokenBucket {
    rate: LiveRate,
    /// What 0 ns stands for.
    began: OnceLock<Instant>,
    /// When the bucket will be full again, in nanoseconds: its whole state.
    full_at: AtomicU64,
    /// What this weir has of the rate, in millionths.
    part: AtomicU32,
    /// There was no token when one was wanted, since this was last asked.
    was_empty: AtomicBool,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(rate: Option<Rate>) -> Self {
        Self {
            rate: LiveRate::new(rate),
            began: OnceLock::new(),
            full_at: AtomicU64::new(0),
            part: AtomicU32::new(WHOLE),
            was_empty: AtomicBool::new(false),
        }
    }

    /// What a token takes, and how many may come at once, of this weir's part of the rate.
    fn of_part(&self, rate: Rate) -> (u64, u64) {
        let (part, one, burst) = (self.part.load(Relaxed), rate.per_token(), u64::from(rate.burst.get()));
        if part == WHOLE {
            return (one, burst);
        }
        let (part, whole) = (u64::from(part.max(1)), u64::from(WHOLE));
        // A part is rounded down to a millionth: a third of six is two all the same.
        (one.saturating_mul(whole) / part, (burst * (part + 1) / whole).max(1))
    }

    /// From now on this weir has this part of the rate, 0.0 to 1.0. It has no more tokens than before: those of a
    /// larger burst come with time, since nobody knows whether the weir that had the part has used them. Returns
    /// whether it had another part.
    pub fn set_part(&self, part: f64, now: Instant) -> bool {
        let part = ((part * f64::from(WHOLE)) as u32).clamp(1, WHOLE);
        let rate = self.rate.get();
        let before = rate.map(|rate| self.of_part(rate));
        let is_new = self.part.swap(part, Relaxed) != part;
        if is_new && let Some((rate, (one_before, burst_before))) = rate.zip(before) {
            let (now, (one, burst)) = (self.nanos(now), self.of_part(rate));
            let _ = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| {
                let (missing, full_before) = (full_at.saturating_sub(now), burst_before * one_before);
                let of_today = |nanos: u64| u128::from(nanos) * u128::from(one);
                // What there is and what is owed, to a part of a token, and neither to weir's advantage: parts change
                // with each beat, so what rounding to whole tokens would take away never came back.
                let has = of_today(full_before.saturating_sub(missing)) / u128::from(one_before);
                let owed = of_today(missing.saturating_sub(full_before)).div_ceil(u128::from(one_before));
                let full = u128::from(burst) * u128::from(one);
                Some(now.saturating_add(nanos_of(full - has.min(full) + owed)))
            });
        }
        is_new
    }

    /// Tokens per second, of this weir's part of the rate; `None` is no limit.
    pub fn per_second(&self) -> Option<f64> {
        let part = f64::from(self.part.load(Relaxed)) / f64::from(WHOLE);
        self.rate.get().map(|rate| f64::from(rate.per_second.get()) * part)
    }

    /// What a token takes, of this weir's part of the rate; nothing where there is no limit.
    pub fn each(&self) -> Duration {
        self.rate.get().map_or(Duration::ZERO, |rate| Duration::from_nanos(self.of_part(rate).0))
    }

    /// Whether there was no token when one was wanted, since this was last asked.
    pub fn take_was_empty(&self) -> bool {
        self.was_empty.load(Relaxed) && self.was_empty.swap(false, Relaxed)
    }

    /// A token took so long `before`: as many are missing as then, but no more than the burst.
    fn keep_missing(&self, before: u64, rate: Rate, now: Instant) {
        let (now, (one, burst)) = (self.nanos(now), self.of_part(rate));
        let _ = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| {
            let missing = u128::from(full_at.saturating_sub(now)) * u128::from(one);
            Some(now.saturating_add(nanos_of(missing.div_ceil(u128::from(before))).min(burst * one)))
        });
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
        if let Some((before, after)) = before.zip(rate) {
            return self.keep_missing(self.of_part(before).0, after, now);
        }
        let now = self.nanos(now);
        self.full_at.fetch_min(now, Relaxed);
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
        let (now, (one, burst)) = (self.nanos(now), self.of_part(rate));
        let latest = now.saturating_add(one * burst);
        let taken = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| {
            Some(full_at.max(now) + one).filter(|full_at| *full_at <= latest)
        });
        taken.map(|_| ()).map_err(|full_at| {
            self.was_empty.store(true, Relaxed);
            Duration::from_nanos(full_at + one - latest)
        })
    }

    /// Takes a token, or one that comes until `latest`: whoever comes after gets a later one. Returns whether there is
    /// one in time; nothing is taken if not.
    pub fn reserve(&self, now: Instant, latest: Instant) -> bool {
        let Some(rate) = self.rate.get() else { return true };
        let (now, latest, (one, burst)) = (self.nanos(now), self.nanos(latest), self.of_part(rate));
        let latest = latest.saturating_add(one * burst);
        let next = |full_at: u64| Some(full_at.max(now) + one).filter(|full_at| *full_at <= latest);
        self.full_at.fetch_update(Relaxed, Relaxed, next).is_ok()
    }

    /// All tokens that come until then are used.
    pub fn spent_until(&self, at: Instant) {
        let Some(rate) = self.rate.get() else { return };
        let (one, burst) = self.of_part(rate);
        self.full_at.fetch_max(self.nanos(at).saturating_add(one * burst), Relaxed);
    }

    /// Takes a token that has been used already, whether there is one or not. The bucket owes its burst at most.
    pub fn charge(&self, now: Instant) {
        let Some(rate) = self.rate.get() else { return };
        let (now, (one, burst)) = (self.nanos(now), self.of_part(rate));
        let most = now.saturating_add(2 * one * burst);
        let _ = self
            .full_at
            .fetch_update(Relaxed, Relaxed, |full_at| Some((full_at.max(now) + one).min(most.max(full_at))));
    }

    /// How many tokens it has, for a process that takes over; `None` where none is missing, or there is no rate.
    pub fn remembered(&self, now: Instant) -> Option<RememberedTokens> {
        let rate = self.rate.get()?;
        let (one, burst) = self.of_part(rate);
        let missing = self.full_at.load(Relaxed).saturating_sub(self.nanos(now));
        (missing > 0).then(|| RememberedTokens { rate, has: burst as f64 - missing as f64 / one as f64 })
    }

    /// It had as many tokens at `then`, in another process, and has no more now. It owes its burst at most.
    pub fn recall(&self, remembered: &RememberedTokens, then: Instant) {
        let Some(rate) = self.rate.get() else { return };
        let (one, burst) = self.of_part(rate);
        let most = burst as f64;
        let missing = (most - lapse::within(remembered.has, -most, most)) * one as f64;
        self.full_at.fetch_max(self.nanos(then).saturating_add(missing as u64), Relaxed);
    }

    /// A bucket with as many tokens.
    pub fn copy(&self) -> Self {
        Self {
            rate: LiveRate::new(self.rate.get()),
            began: self.began.clone(),
            full_at: AtomicU64::new(self.full_at.load(Relaxed)),
            part: AtomicU32::new(self.part.load(Relaxed)),
            was_empty: AtomicBool::new(false),
        }
    }

    /// Whether no token is missing.
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at.load(Relaxed) <= self.nanos(now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

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

    /// After a burst, a process that takes over gives the next token when this one would have given it; under another
    /// rate it gives no more tokens than there were.
    #[test]
    fn another_process_has_as_many_tokens() {
        let rate = |per_second: u32, burst: u32| {
            Some(Rate { per_second: per_second.try_into().unwrap(), burst: burst.try_into().unwrap() })
        };
        let (old, now) = (TokenBucket::new(rate(10, 20)), Instant::now());
        assert_eq!(old.remembered(now), None, "a full one needs no words");
        (0..15).for_each(|_| assert!(old.take(now).is_ok()));
        let there = now + Duration::from_secs(1000);
        let text = serde_json::to_string(&old.remembered(now)).unwrap();
        let remembered: RememberedTokens = serde_json::from_str(&text).unwrap();
        let taken = |rate, at: Instant| {
            let new = TokenBucket::new(rate);
            new.recall(&remembered, there);
            (0..100).take_while(|_| new.take(at).is_ok()).count()
        };
        assert_eq!(taken(rate(10, 20), there), 5);
        assert_eq!(taken(rate(10, 20), there + Duration::from_millis(301)), 8);
        assert_eq!(taken(rate(10, 3), there), 3);
        assert_eq!(taken(rate(1000, 50), there), 5);
        assert_eq!(taken(None, there), 100);
        let used = TokenBucket::new(rate(10, 20));
        (0..18).for_each(|_| assert!(used.take(there).is_ok()));
        used.recall(&remembered, there);
        assert_eq!((0..100).take_while(|_| used.take(there).is_ok()).count(), 2, "nothing is given back");
        for has in [f64::MIN, f64::MAX] {
            let new = RememberedTokens { rate: rate(10, 20).unwrap(), has }.bucket(there);
            assert!(new.is_full(there + Duration::from_secs(4)), "it owes no more than its burst");
        }
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
    fn weirs_that_share_a_rate_keep_to_it_together() {
        let mut now = Instant::now();
        let rate = Rate { per_second: 100.try_into().unwrap(), burst: 20.try_into().unwrap() };
        let weirs = [0.5, 0.3, 0.2].map(|part| {
            let tokens = TokenBucket::new(Some(rate));
            tokens.set_part(part, now);
            tokens
        });
        let mut taken = [0; 3];
        for _ in 0..10_000 {
            for (tokens, taken) in weirs.iter().zip(&mut taken) {
                *taken += u32::from(tokens.take(now).is_ok());
            }
            now += Duration::from_millis(1);
        }
        assert!(taken.iter().sum::<u32>() <= 10 * 100 + 20, "{taken:?} in 10 s");
        assert!(taken[0] >= 500 && taken[1] >= 300 && taken[2] >= 200, "{taken:?} in 10 s");
        assert!(weirs[0].take_was_empty() && !weirs[0].take_was_empty());
        weirs[2].set_part(1.0, now);
        assert!((0..9).filter(|_| weirs[2].take(now).is_ok()).count() <= 1, "what it had, and no burst");
        assert!(weirs[2].take(now).unwrap_err() <= Duration::from_millis(10), "the whole rate");
    }

    fn bucket(per_second: u32, burst: u32) -> TokenBucket {
        let [per_second, burst] = [per_second, burst].map(|n| n.try_into().unwrap());
        TokenBucket::new(Some(Rate { per_second, burst }))
    }

    /// How many tokens it has, to a part of one.
    fn has(tokens: &TokenBucket, now: Instant) -> f64 {
        let full = tokens.of_part(tokens.rate().unwrap()).1 as f64;
        tokens.remembered(now).map_or(full, |remembered| remembered.has)
    }

    /// Weirs tell each other every 100 ms what they want of a rate, and a token takes longer than that.
    #[test]
    fn a_part_that_changes_with_each_beat_fills_at_its_mean_rate() {
        let (mut now, beat) = (Instant::now(), Duration::from_millis(100));
        let tokens = bucket(10, 10);
        tokens.set_part(0.05, now);
        while tokens.take(now).is_ok() {}
        let mut taken = 0;
        for n in 0..600 {
            tokens.set_part(if n % 2 == 0 { 0.07 } else { 0.05 }, now);
            now += beat;
            taken += u32::from(tokens.take(now).is_ok());
        }
        assert!((34..=36).contains(&taken), "0.6 a second for a minute, and {taken} came");
    }

    #[test]
    fn a_rate_that_changes_again_and_again_fills_all_the_same() {
        let mut now = Instant::now();
        let rate =
            |per_second: u32| Some(Rate { per_second: per_second.try_into().unwrap(), burst: 5.try_into().unwrap() });
        let tokens = bucket(1, 5);
        (0..5).for_each(|_| tokens.take(now).unwrap());
        let mut taken = 0;
        for n in 0..100 {
            tokens.set_rate(rate(1 + n % 2), now);
            now += Duration::from_millis(200);
            taken += u32::from(tokens.take(now).is_ok());
        }
        assert!((29..=30).contains(&taken), "1.5 a second for 20 s, and {taken} came");
    }

    proptest! {
        /// A change of the part, or of the rate, gives no part of a token, and takes none but what the burst has no
        /// room for.
        #[test]
        fn a_change_neither_gives_nor_takes_a_token(
            (per_second, burst) in (1..50_u32, 1..50_u32),
            changes in vec((1..=1_000_000_u32, 0..3000_u64, 0..5_u32), 1..60),
            to in 1..50_u32,
        ) {
            let (mut now, tokens) = (Instant::now(), bucket(per_second, burst));
            for (part, after, takes) in changes {
                now += Duration::from_millis(after);
                (0..takes).for_each(|n| if n == 4 { tokens.charge(now) } else { _ = tokens.take(now) });
                let before = has(&tokens, now);
                tokens.set_part(f64::from(part) / 1e6, now);
                let (is, most) = (has(&tokens, now), tokens.of_part(tokens.rate().unwrap()).1 as f64);
                prop_assert!(is <= before + 1e-9 && is >= before.min(most) - 1e-6, "{before} and {is} of {most}");
            }
            let (before, (_, full)) = (has(&tokens, now), tokens.of_part(tokens.rate().unwrap()));
            tokens.set_rate(bucket(to, burst).rate(), now);
            let (is, missing) = (has(&tokens, now), full as f64 - before);
            let expected = full as f64 - missing.min(full as f64);
            prop_assert!((is - expected).abs() <= 1e-6, "{before} and {is}");
        }
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
