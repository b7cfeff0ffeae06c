//! How fast a count grows, and how long the room lasts: a straight line through its samples, in which recent samples
//! weigh more (exponentially weighted least squares), in constant memory whatever the count and the time.
//!
//! Two lines are kept, one of the last minutes and one of the last hours, and the one that fits better speaks: a leak
//! of one connection a minute shows in no two minutes, and a crowd that has just stopped coming shows for hours in the
//! longer one.

use std::time::{Duration, Instant};

/// A sample weighs half as much after this, in the two lines.
const HALF_LIVES: [Duration; 2] = [Duration::from_secs(120), Duration::from_secs(3600)];
/// Nothing is said before the samples span this.
const LEAST_SPAN: Duration = Duration::from_secs(30);
/// Nor before there are so many.
const LEAST_SAMPLES: f64 = 10.0;
/// How much of what the count did the line must explain (r², 0 to 1) for a growth to be told at all, and to be sure.
/// One step between two constants is a line to at most 0.75, see the tests: never a sure one.
const ROUGH: f64 = 0.5;
const SURE: f64 = 0.9;
/// A count that stays where it is counts as explained this far: in the last minutes that says more than a step in the
/// last hours, and less than a steady growth there.
const CONSTANT: f64 = 0.8;

/// How far a growth is to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Confidence {
    /// The count keeps to the line.
    Sure,
    /// It goes up and down around the line.
    Rough,
}

/// How a count changes at present.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outlook {
    /// Connections per second; negative for a count that falls.
    pub per_second: f64,
    pub confidence: Confidence,
}

impl Outlook {
    /// When a count that is `now` reaches `limit` at this growth: zero where it has, `None` where it does not grow, or
    /// not within a year.
    pub fn time_until(&self, now: u32, limit: u32) -> Option<Duration> {
        if now >= limit {
            return Some(Duration::ZERO);
        }
        let seconds = f64::from(limit - now) / self.per_second;
        (self.per_second > 0.0 && seconds < 365.0 * 86_400.0).then(|| Duration::from_secs_f64(seconds))
    }
}

/// The growth of one count.
#[derive(Debug, Clone, Default)]
pub struct Growth {
    first: Option<Instant>,
    last: Option<Instant>,
    lines: [Line; 2],
}

impl Growth {
    /// The count is `n` now. To be called about once a second; the distances may differ.
    pub fn note(&mut self, now: Instant, n: u32) {
        let passed = self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        self.first.get_or_insert(now);
        self.last = Some(now);
        for (line, half_life) in self.lines.iter_mut().zip(HALF_LIVES) {
            line.note(passed.as_secs_f64(), half_life.as_secs_f64(), n.into());
        }
    }

    /// The growth at present; `None` while there are too few samples, and where the count follows no line.
    pub fn outlook(&self) -> Option<Outlook> {
        let span = self.last?.saturating_duration_since(self.first?);
        if span < LEAST_SPAN {
            return None;
        }
        let lines = self.lines.iter().filter(|line| line.weight >= LEAST_SAMPLES).map(Line::slope_and_fit);
        let (per_second, fit) = lines.reduce(|best, other| if other.1 > best.1 { other } else { best })?;
        let confidence = if fit >= SURE || per_second == 0.0 { Confidence::Sure } else { Confidence::Rough };
        (fit >= ROUGH).then_some(Outlook { per_second, confidence })
    }
}

/// Means and sums of products around them, weighted; the time is counted from the last sample on.
#[derive(Debug, Clone, Default)]
struct Line {
    weight: f64,
    mean_time: f64,
    mean_count: f64,
    time_time: f64,
    time_count: f64,
    count_count: f64,
}

impl Line {
    fn note(&mut self, passed: f64, half_life: f64, n: f64) {
        let decay = 0.5_f64.powf(passed / half_life);
        self.mean_time -= passed;
        self.weight = self.weight * decay + 1.0;
        let (by_time, by_count) = (-self.mean_time, n - self.mean_count);
        self.mean_time += by_time / self.weight;
        self.mean_count += by_count / self.weight;
        self.time_time = self.time_time * decay - by_time * self.mean_time;
        self.time_count = self.time_count * decay + by_time * (n - self.mean_count);
        self.count_count = self.count_count * decay + by_count * (n - self.mean_count);
    }

    /// The slope, per second, and what part of the count's changes it explains.
    fn slope_and_fit(&self) -> (f64, f64) {
        // Less than half a connection to and fro, on average: nothing, or what is left of a change long ago.
        if self.count_count < 0.25 * self.weight || self.time_time <= 0.0 {
            return (0.0, CONSTANT);
        }
        let slope = self.time_count / self.time_time;
        (slope, slope * self.time_count / self.count_count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The growth after a sample in each second.
    fn after(counts: impl IntoIterator<Item = u32>) -> Growth {
        let (start, mut growth) = (Instant::now(), Growth::default());
        for (second, n) in counts.into_iter().enumerate() {
            growth.note(start + SECOND * second as u32, n);
        }
        growth
    }

    #[test]
    fn a_leak_is_measured_within_a_minute() {
        let outlook = after((0..60).map(|n| 100 + n)).outlook().unwrap();
        assert!((outlook.per_second - 1.0).abs() < 1e-9, "{outlook:?}");
        assert_eq!(outlook.confidence, Confidence::Sure);
        assert_eq!(outlook.time_until(160, 400).map(|time| time.as_secs_f64().round()), Some(240.0));
        assert_eq!(outlook.time_until(400, 400), Some(Duration::ZERO));
    }

    #[test]
    fn a_slow_leak_among_noise_is_measured_within_hours() {
        let mut rng = fastrand::Rng::with_seed(7);
        let counts: Vec<u32> = (0..4 * 3600).map(|second| 1000 + second / 20 + rng.u32(0..40)).collect();
        let outlook = after(counts).outlook().unwrap();
        assert!((outlook.per_second - 0.05).abs() < 0.005, "{outlook:?}");
    }

    #[test]
    fn a_leak_that_shows_in_no_two_minutes_is_sure_within_hours() {
        let outlook = after((0..3 * 3600).map(|second| 100 + second / 600)).outlook().unwrap();
        assert!((outlook.per_second * 600.0 - 1.0).abs() < 0.1, "{outlook:?}");
        assert_eq!(outlook.confidence, Confidence::Sure);
    }

    #[test]
    fn what_is_constant_does_not_grow() {
        let outlook = after([70; 100]).outlook().unwrap();
        assert_eq!((outlook.per_second, outlook.confidence), (0.0, Confidence::Sure));
        assert_eq!(outlook.time_until(70, 100), None);
        assert!(after([70; 10]).outlook().is_none(), "ten seconds say nothing");
    }

    #[test]
    fn a_crowd_that_comes_at_once_is_no_sure_growth() {
        for at in [10, 30, 100, 1000] {
            for second in at + 1..3000 {
                let counts = (0..second).map(|second| if second < at { 100 } else { 900 });
                // Only now and then, since each look takes all the samples.
                if second % 97 != 0 {
                    continue;
                }
                if let Some(outlook) = after(counts).outlook().filter(|outlook| outlook.per_second > 0.01) {
                    assert_eq!(outlook.confidence, Confidence::Rough, "step at {at}, seen at {second}: {outlook:?}");
                }
            }
        }
        let calm = after((0..3000).map(|second| if second < 100 { 100 } else { 900 })).outlook().unwrap();
        assert_eq!(calm.per_second, 0.0, "it came long ago");
    }

    #[test]
    fn who_comes_and_goes_is_no_growth() {
        let mut rng = fastrand::Rng::with_seed(7);
        let counts: Vec<u32> = (0..600).map(|_| 500 + rng.u32(0..100)).collect();
        let outlook = after(counts).outlook();
        assert!(outlook.is_none(), "{outlook:?}");
    }

    proptest! {
        /// Any straight line is found, at any distances between the samples and from any height.
        #[test]
        fn a_line_is_found(per_second in -20.0..20.0_f64, from in 0.0..1e6_f64, ms in 200..5000_u64, samples in 200..400_u32) {
            let (start, mut growth) = (Instant::now(), Growth::default());
            let from = from + 40_000.0;
            for n in 0..samples {
                let passed = Duration::from_millis(ms) * n;
                let count = from + per_second * passed.as_secs_f64();
                growth.note(start + passed, count as u32);
            }
            let outlook = growth.outlook().unwrap();
            // Counts are whole numbers.
            prop_assert!((outlook.per_second - per_second).abs() < 0.05, "{outlook:?}");
        }

        /// Whatever the samples, the numbers are numbers.
        #[test]
        fn no_samples_break_it(samples in prop::collection::vec((0..10_000_u64, any::<u32>()), 0..300)) {
            let (mut now, mut growth) = (Instant::now(), Growth::default());
            for (ms, n) in samples {
                now += Duration::from_millis(ms);
                growth.note(now, n);
                if let Some(outlook) = growth.outlook() {
                    prop_assert!(outlook.per_second.is_finite());
                    let _ = outlook.time_until(n, u32::MAX);
                }
            }
        }
    }
}
