//! How few connections of one quota were open for certain: what the servers had of this weir at least.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::fleet::lease::allowance::Use;

/// How few connections were open for certain over the last seconds.
#[derive(Debug, Default)]
pub(super) struct Samples(VecDeque<(Instant, u32, u64)>);

impl Samples {
    /// So long is looked back at most.
    const KEPT: Duration = Duration::from_secs(12);

    /// To be called several times a second with what is used.
    pub fn note(&mut self, now: Instant, used: Use) {
        while self.0.len() > 1 && now.saturating_duration_since(self.0[0].0) > Self::KEPT {
            self.0.pop_front();
        }
        self.0.push_back((now, used.open, used.released));
    }

    /// The fewest that were open at any time since then; `None`: that was before the first look.
    pub fn least_since(&self, since: Instant) -> Option<u32> {
        let (last, begin) = (self.0.back()?, self.0.iter().rposition(|sample| sample.0 <= since)?);
        let pairs = self.0.range(begin..).zip(self.0.range(begin + 1..));
        // Those that were given back between two looks may all have been open, and none have come before them.
        let least = pairs.map(|(a, b)| a.1.saturating_sub(u32::try_from(b.2 - a.2).unwrap_or(u32::MAX))).min();
        Some(least.unwrap_or(last.1).min(last.1))
    }

    /// The fewest that were open, each over the last so many milliseconds: short times forget sooner, long ones are for
    /// those who read slowly.
    pub fn least(&self) -> Vec<(u32, u32)> {
        let Some(last) = self.0.back() else { return Vec::new() };
        let over = [2500, 5000, 11_000].into_iter().filter_map(|milliseconds: u32| {
            let since = last.0.checked_sub(Duration::from_millis(milliseconds.into()))?;
            Some((self.least_since(since)?, milliseconds))
        });
        over.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_between_two_looks_was_not_open_all_the_while() {
        let (mut samples, began) = (Samples::default(), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        for (seconds, open, released) in [(0, 10, 0), (1, 10, 3), (2, 12, 3), (3, 12, 3), (4, 12, 3), (5, 12, 3)] {
            samples.note(at(seconds), Use { open, released, ..Use::default() });
        }
        assert_eq!(samples.least_since(at(0)), Some(7));
        assert_eq!(samples.least_since(at(1)), Some(10));
        assert_eq!(samples.least_since(at(2)), Some(12));
        assert_eq!(samples.least_since(began - Duration::from_secs(1)), None);
        assert_eq!(samples.least(), [(12, 2500), (7, 5000)]);
    }
}
