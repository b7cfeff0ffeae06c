//! How fast a count grows, how far that is to be believed, and when the count reaches a limit at this rate: the one
//! estimate of which warnings, metrics, `/overviewz`, `weir top` and reports tell.
//!
//! The count is averaged over spans of one length, and each step between two spans is one observation of the growth:
//! the mean of the steps is the rate, and their spread says how far the rate may be off. Two other estimates would be
//! worse:
//!
//! - A straight line through the samples, judged by how much of their changes it explains. Connections come and go by
//!   themselves, and a count that only wanders makes a fine line now and then; one crowd makes a fair one.
//! - Steps between single samples. Their spread is that of what comes and goes within a second, in which a slow leak
//!   is lost; in the mean of a span it is not.
//!
//! Means of spans make the steps of a wandering count alike, one to the next (by a quarter), which would make chance
//! look surer than it is. So the error takes in how far neighbouring steps are alike, too.
//!
//! Three looks are taken ([`History`]): over minutes, an hour and hours. What the longer ones say counts while the
//! shorter ones do not contradict it ([`Growth::agrees_with`]).

mod history;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::history::{EVERY, History, Look};

/// Fewer steps than this say nothing: with those of the minutes, that is after three quarters of a minute.
const FEWEST_STEPS: usize = 8;
/// A rate that is not so many times its error is no growth.
const LEAST_CERTAINTY: f64 = 2.0;
/// From here on the confidence is medium, if the growth has gone on for [`SHORT`].
const SOME_CERTAINTY: f64 = 3.0;
/// From here on the confidence is high, if the growth has gone on for [`LONG`].
const MUCH_CERTAINTY: f64 = 5.0;
const SHORT: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(300);

/// How far a growth is to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, strum::IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Confidence {
    /// It may be chance.
    Low,
    Medium,
    High,
}

impl Confidence {
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// How a count changes over time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Growth {
    /// Mean change, in connections per second; below zero where the count falls.
    pub per_second: f64,
    /// The standard error of that.
    pub error: f64,
    /// The time that was looked at.
    pub over: Duration,
}

/// When a growing count reaches a limit, if it grows on as it does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forecast {
    /// At the mean rate.
    pub at: Duration,
    /// At the rate and twice its error.
    pub earliest: Duration,
    /// At the rate less twice its error; never later than [`Forecast::LATEST`].
    pub latest: Duration,
    pub confidence: Confidence,
}

impl Forecast {
    /// Nobody acts on what is further away than 90 days.
    pub const LATEST: Duration = Duration::from_secs(90 * 24 * 3600);
}

impl Growth {
    /// The growth over the means of spans, the oldest first; `None` for a few of them.
    pub fn of(look: Look<impl Iterator<Item = f64> + Clone>) -> Option<Self> {
        let Look { means, every } = look;
        let steps = means.clone().zip(means.skip(1)).map(|(before, after)| after - before);
        let (count, sum) = steps.clone().fold((0_usize, 0.0), |(count, sum), step| (count + 1, sum + step));
        if count < FEWEST_STEPS {
            return None;
        }
        let n = count as f64;
        let mean = sum / n;
        let (mut squares, mut neighbours, mut before) = (0.0, 0.0, 0.0);
        for step in steps {
            let off = step - mean;
            squares += off * off;
            neighbours += off * before;
            before = off;
        }
        // Steps that are unlike their neighbours, as those of noise are, would make the error less; that is left out.
        let variance = (squares + 2.0 * neighbours.max(0.0)) / (n - 1.0);
        // Counts are whole: steps that are all alike are known no better than to a fraction of one connection in all.
        let error = (variance / n).sqrt().max(0.5 / n);
        let seconds = every.as_secs_f64();
        Some(Self { per_second: mean / seconds, error: error / seconds, over: every.mul_f64(n) })
    }

    /// How many times its error the rate is.
    pub fn certainty(&self) -> f64 {
        self.per_second / self.error
    }

    /// How sure it is that the count grows; `None` where that cannot be told from standing still.
    pub fn confidence(&self) -> Option<Confidence> {
        let certainty = self.certainty();
        match () {
            () if certainty < LEAST_CERTAINTY => None,
            () if certainty >= MUCH_CERTAINTY && self.over >= LONG => Some(Confidence::High),
            () if certainty >= SOME_CERTAINTY && self.over >= SHORT => Some(Confidence::Medium),
            () => Some(Confidence::Low),
        }
    }

    /// Whether the growth may be nothing but chance.
    pub fn may_be_chance(&self) -> bool {
        self.confidence() <= Some(Confidence::Low)
    }

    /// Whether the count may still grow as `longer` says, which has looked at a longer time.
    pub fn agrees_with(&self, longer: &Self) -> bool {
        self.per_second + LEAST_CERTAINTY * self.error >= longer.per_second / 2.0
    }

    /// The present growth, of what a short and a long look say: the short one where it sees any, else the long one
    /// where the short one does not contradict it. `None` where the count does not grow.
    fn present(short: Option<Self>, long: Option<Self>) -> Option<Self> {
        let grows = |growth: &Self| growth.confidence().is_some();
        match (short, long) {
            (Some(short), Some(long))
                if grows(&long) && short.confidence() <= long.confidence() && short.agrees_with(&long) =>
            {
                // A burst in the last minutes must not end the forecast of hours, nor the hours hide a faster growth.
                Some(if grows(&short) && short.per_second > 2.0 * long.per_second { short } else { long })
            }
            (Some(short), _) if grows(&short) => Some(short),
            (None, Some(long)) if grows(&long) => Some(long),
            _ => None,
        }
    }

    /// When a count that is `now` reaches `limit`: at once where it has. `None` where it does not grow, or would take
    /// longer than [`Forecast::LATEST`].
    pub fn reaches(&self, limit: f64, now: f64) -> Option<Forecast> {
        let confidence = self.confidence()?;
        let missing = (limit - now).max(0.0);
        let after = |rate: f64| {
            let seconds = if rate > 0.0 { missing / rate } else { f64::INFINITY };
            Duration::try_from_secs_f64(seconds).map_or(Forecast::LATEST, |time| time.min(Forecast::LATEST))
        };
        let at = after(self.per_second);
        let off = LEAST_CERTAINTY * self.error;
        let (earliest, latest) = (after(self.per_second + off), after(self.per_second - off));
        (at < Forecast::LATEST).then_some(Forecast { at, earliest, latest, confidence })
    }
}
