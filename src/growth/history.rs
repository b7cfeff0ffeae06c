//! The means of a count over spans of time: of 5 s for the last minutes, of a minute for the last hour, and of six
//! minutes for the last six hours.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::growth::Growth;

/// The shortest span. Samples may come as often as one likes, or once in this time.
pub const EVERY: Duration = Duration::from_secs(5);
/// Shortest spans in a minute, and minutes in the longest span.
const PARTS: [u32; 2] = [12, 6];
/// The means that are kept of each length.
const KEPT: usize = 61;
/// After a longer time without a sample nobody knows what the count was, and all begins anew.
const LONGEST_GAP: Duration = Duration::from_secs(300);

/// Means of one count, over spans of one length: the oldest first.
#[derive(Debug, Clone, Copy)]
pub struct Look<M> {
    pub means: M,
    /// The length of a span.
    pub every: Duration,
}

/// The past of one count, in 800 bytes at most.
#[derive(Debug, Clone, Default)]
pub struct History {
    last: Option<(Instant, u32)>,
    /// What has passed of the shortest span that is under way, and the seconds of connections in it.
    passed: Duration,
    sum: f64,
    means: [VecDeque<f32>; 3],
    /// Of the longer spans that are under way: how many shorter ones are over, and their sum.
    parts: [(u32, f64); 2],
}

impl History {
    /// The count is `n` at `now`, and was until now what the last sample said. Returns whether a span is over, so that
    /// the growth may have changed.
    pub fn note(&mut self, now: Instant, n: u32) -> bool {
        let Some((at, before)) = self.last.replace((now, n)) else { return false };
        let mut passed = now.saturating_duration_since(at);
        if passed > LONGEST_GAP {
            *self = Self { last: Some((now, n)), ..Self::default() };
            return true;
        }
        let before = f64::from(before);
        let mut is_over = false;
        while passed >= EVERY - self.passed {
            let rest = EVERY - self.passed;
            let mean = (self.sum + before * rest.as_secs_f64()) / EVERY.as_secs_f64();
            (self.passed, self.sum) = (Duration::ZERO, 0.0);
            passed -= rest;
            self.push(mean);
            is_over = true;
        }
        self.passed += passed;
        self.sum += before * passed.as_secs_f64();
        is_over
    }

    fn push(&mut self, mut mean: f64) {
        for (length, means) in self.means.iter_mut().enumerate() {
            if means.len() >= KEPT {
                means.pop_front();
            }
            means.push_back(mean as f32);
            let (Some((count, sum)), Some(&needed)) = (self.parts.get_mut(length), PARTS.get(length)) else { return };
            *count += 1;
            *sum += mean;
            if *count < needed {
                return;
            }
            mean = *sum / f64::from(needed);
            (*count, *sum) = (0, 0.0);
        }
    }

    /// The last minutes, the last hour and the last hours.
    pub fn looks(&self) -> [Look<impl ExactSizeIterator<Item = f64> + Clone>; 3] {
        let minute = EVERY * PARTS[0];
        let every = [EVERY, minute, minute * PARTS[1]];
        std::array::from_fn(|length| Look {
            means: self.means[length].iter().map(|&mean| f64::from(mean)),
            every: every[length],
        })
    }

    /// How fast the count grows now; `None` where it does not, or nobody can tell.
    pub fn growth(&self) -> Option<Growth> {
        let [minutes, hour, hours] = self.looks().map(Growth::of);
        Growth::present(minutes, Growth::present(hour, hours))
    }
}
