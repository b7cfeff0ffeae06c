//! How fast a number grows, how sure that is, and when it reaches a limit at this rate.
//!
//! Each step between two samples is one observation of the growth: their mean is the rate, and the spread of the steps
//! says how far the rate may be off. A straight line through the samples would not do: connections come and go by
//! themselves, so a number that only wanders makes a fine line now and then, and so does one burst.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Fewer steps than this say nothing.
const FEWEST_STEPS: usize = 6;
/// A rate that is not so many times its error is no growth.
const LEAST_CERTAINTY: f64 = 2.0;
/// From here on the growth is sure, if it has gone on for [`LONG`].
const MUCH_CERTAINTY: f64 = 5.0;
const SOME_CERTAINTY: f64 = 3.0;
const LONG: Duration = Duration::from_secs(300);
const SHORT: Duration = Duration::from_secs(60);

/// How sure a forecast is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sure {
    /// It may be chance.
    Low,
    Medium,
    High,
}

impl Sure {
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// How a number changes over time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Growth {
    /// Mean change; below zero where the number falls.
    pub per_second: f64,
    /// The standard error of that.
    pub error: f64,
    /// The time that was looked at.
    pub over: Duration,
}

/// When a growing number reaches a limit, if it grows on as it does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forecast {
    /// At the mean rate.
    pub at: Duration,
    /// At the rate and twice its error.
    pub earliest: Duration,
    /// At the rate less twice its error; never later than [`Forecast::LATEST`].
    pub latest: Duration,
    pub sure: Sure,
}

impl Growth {
    /// The growth over `samples`, the oldest first, each `every` after the one before; `None` for a few samples.
    pub fn of(samples: impl Iterator<Item = u32> + Clone, every: Duration) -> Option<Self> {
        let steps = samples.clone().zip(samples.skip(1)).map(|(before, after)| f64::from(after) - f64::from(before));
        let (mut count, mut sum, mut squares) = (0_usize, 0.0, 0.0);
        for step in steps {
            count += 1;
            sum += step;
            squares += step * step;
        }
        if count < FEWEST_STEPS {
            return None;
        }
        let n = count as f64;
        let mean = sum / n;
        let variance = ((squares - n * mean * mean) / (n - 1.0)).max(0.0);
        // Counts are whole: steps that are all alike are known no better than to a fraction of one connection in all.
        let error = (variance / n).sqrt().max(0.5 / n);
        let seconds = every.as_secs_f64();
        Some(Self { per_second: mean / seconds, error: error / seconds, over: every.mul_f64(n) })
    }

    /// How many times its error the rate is.
    pub fn certainty(&self) -> f64 {
        self.per_second / self.error
    }

    /// How sure it is that the number grows; `None` where that cannot be told from standing still.
    pub fn sure(&self) -> Option<Sure> {
        let certainty = self.certainty();
        match () {
            () if certainty < LEAST_CERTAINTY => None,
            () if certainty >= MUCH_CERTAINTY && self.over >= LONG => Some(Sure::High),
            () if certainty >= SOME_CERTAINTY && self.over >= SHORT => Some(Sure::Medium),
            () => Some(Sure::Low),
        }
    }

    /// Whether the number may still grow as `longer` says, which has looked at a longer time.
    fn agrees_with(&self, longer: &Self) -> bool {
        self.per_second + LEAST_CERTAINTY * self.error >= longer.per_second / 2.0
    }

    /// The present growth, of what a short and a long look say: the short one where it sees any, else the long one
    /// where the short one does not contradict it. `None` where the number does not grow.
    pub fn present(short: Option<Self>, long: Option<Self>) -> Option<Self> {
        let grows = |growth: &Self| growth.sure().is_some();
        match (short, long) {
            (Some(short), Some(long)) if grows(&long) && short.sure() <= long.sure() && short.agrees_with(&long) => {
                // A burst in the last minutes must not end the forecast of hours, nor the hours hide a faster growth.
                Some(if grows(&short) && short.per_second > 2.0 * long.per_second { short } else { long })
            }
            (Some(short), _) if grows(&short) => Some(short),
            (None, Some(long)) if grows(&long) => Some(long),
            _ => None,
        }
    }

    /// When a number that is `now` reaches `limit`; `None` where it does not grow, or would take longer than
    /// [`Forecast::LATEST`].
    pub fn reaches(&self, limit: f64, now: f64) -> Option<Forecast> {
        let sure = self.sure()?;
        let missing = (limit - now).max(0.0);
        let after = |rate: f64| {
            let seconds = if rate > 0.0 { missing / rate } else { f64::INFINITY };
            Duration::try_from_secs_f64(seconds).map_or(Forecast::LATEST, |time| time.min(Forecast::LATEST))
        };
        let at = after(self.per_second);
        let off = LEAST_CERTAINTY * self.error;
        let (earliest, latest) = (after(self.per_second + off), after(self.per_second - off));
        (at < Forecast::LATEST).then_some(Forecast { at, earliest, latest, sure })
    }
}

impl Forecast {
    /// Nobody acts on what is further away than 90 days.
    pub const LATEST: Duration = Duration::from_secs(90 * 24 * 3600);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVERY: Duration = Duration::from_secs(5);

    fn growth(samples: &[u32]) -> Option<Growth> {
        Growth::of(samples.iter().copied(), EVERY)
    }

    #[test]
    fn a_steady_growth_is_measured_and_its_end_is_told() {
        let steady: Vec<u32> = (0..=60).map(|n| 100 + 5 * n).collect();
        let growth = growth(&steady).unwrap();
        assert!((growth.per_second - 1.0).abs() < 1e-9 && growth.over == Duration::from_secs(300));
        assert_eq!(growth.sure(), Some(Sure::High));
        let full = growth.reaches(1000.0, 400.0).unwrap();
        assert_eq!((full.at.as_secs(), full.sure), (600, Sure::High));
        assert!(full.earliest < full.at && full.at < full.latest && full.latest.as_secs() < 610, "{full:?}");
        assert_eq!(growth.reaches(300.0, 400.0).unwrap().at, Duration::ZERO, "it is past it");
        assert_eq!(growth.reaches(1e9, 400.0), None, "in thirty years");
    }

    #[test]
    fn a_burst_a_fall_and_a_few_samples_are_no_growth() {
        let mut burst = vec![10; 61];
        burst[30..].fill(500);
        assert_eq!(growth(&burst).unwrap().sure(), None, "one step of 490");
        let falls: Vec<u32> = (0..=60).map(|n| 1000 - 5 * n).collect();
        assert_eq!(growth(&falls).unwrap().sure(), None);
        assert_eq!(growth(&falls).unwrap().reaches(2000.0, 700.0), None);
        assert_eq!(growth(&[7; 61]).unwrap().sure(), None);
        assert_eq!(growth(&[1, 2, 3, 4, 5, 6]), None);
    }

    #[test]
    fn the_last_minutes_end_a_growth_and_show_a_faster_one() {
        let rate = |per_second: f64, error: f64, over: u64| {
            Some(Growth { per_second, error, over: Duration::from_secs(over) })
        };
        let hour = rate(1.0, 0.1, 3600);
        assert_eq!(Growth::present(rate(0.0, 0.1, 300), hour), None, "it has stopped");
        assert_eq!(Growth::present(rate(0.9, 0.6, 300), hour), hour, "the short look is not sure");
        assert_eq!(Growth::present(rate(9.0, 1.0, 300), hour), rate(9.0, 1.0, 300));
        assert_eq!(Growth::present(rate(1.1, 0.1, 300), hour), hour);
        assert_eq!(Growth::present(rate(1.1, 0.1, 300), rate(0.0, 0.1, 3600)), rate(1.1, 0.1, 300));
        assert_eq!(Growth::present(rate(1.1, 0.1, 300), None), rate(1.1, 0.1, 300));
        assert_eq!(Growth::present(None, None), None);
    }

    /// A number that wanders: each client leaves with the same chance, and as many come.
    fn wandering(rng: &mut fastrand::Rng, sessions: u32, minutes: usize) -> Vec<u32> {
        let mut now = sessions;
        let steps = (0..minutes * 12).map(|_| {
            let leave = (0..now).filter(|_| rng.f64() < 0.02).count() as u32;
            let come = (0..sessions).filter(|_| rng.f64() < 0.02).count() as u32;
            now = now - leave + come;
            now
        });
        steps.collect()
    }

    #[test]
    fn what_only_wanders_is_seldom_taken_for_growth() {
        let mut rng = fastrand::Rng::with_seed(7);
        let sure = |samples: Vec<u32>| growth(&samples).and_then(|growth| growth.sure());
        let looks: Vec<_> = (0..400).map(|_| sure(wandering(&mut rng, 200, 5))).collect();
        let (any, more) = (looks.iter().flatten().count(), looks.iter().flatten().filter(|s| **s > Sure::Low).count());
        // 2.3 and 0.13 of a hundred by chance alone.
        assert!(any <= 20 && more <= 3, "{any} and {more} of 400");
    }

    proptest! {
        /// Poisson-like arrivals at a rate are found, and the forecast holds the true time in most cases.
        #[test]
        fn a_noisy_growth_is_found(seed in any::<u64>(), per_step in 3.0f64..30.0) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut now = 50u32;
            let samples: Vec<u32> = (0..61).map(|_| {
                now += (0..100).filter(|_| rng.f64() < per_step / 100.0).count() as u32;
                now
            }).collect();
            let growth = growth(&samples).unwrap();
            prop_assert!(growth.sure() >= Some(Sure::Medium), "{growth:?}");
            prop_assert!((growth.per_second - per_step / 5.0).abs() <= 6.0 * growth.error, "{growth:?}");
            let forecast = growth.reaches(10_000.0, now.into()).unwrap();
            prop_assert!(forecast.earliest <= forecast.at && forecast.at <= forecast.latest);
        }

        #[test]
        fn any_samples_give_numbers(samples in prop::collection::vec(any::<u32>(), 0..80), limit in any::<u32>()) {
            if let Some(growth) = growth(&samples) {
                prop_assert!(growth.per_second.is_finite() && growth.error > 0.0 && growth.error.is_finite());
                if let Some(forecast) = growth.reaches(limit.into(), 0.0) {
                    prop_assert!(forecast.earliest <= forecast.at && forecast.at <= forecast.latest);
                }
            }
        }
    }
}
