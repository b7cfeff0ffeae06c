//! The last values of a number: every few seconds for the last minutes, and every minute for the last hour.

use std::{collections::VecDeque, time::Duration};

use crate::reports::growth::Growth;

/// The time from one sample to the next.
pub const EVERY: Duration = Duration::from_secs(5);
/// Samples in a minute.
const IN_A_MINUTE: u64 = 12;
/// Five minutes of them.
const RECENT: usize = 61;
/// An hour of one sample a minute.
const HOUR: usize = 61;

/// Samples of one number: 500 bytes at most.
#[derive(Debug, Clone, Default)]
pub struct History {
    recent: VecDeque<u32>,
    hour: VecDeque<u32>,
    /// Samples that have come in all.
    count: u64,
}

impl History {
    /// Takes in the next sample, [`EVERY`] after the last one.
    pub fn push(&mut self, value: u32) {
        if self.recent.len() >= RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(value);
        if self.count.is_multiple_of(IN_A_MINUTE) {
            if self.hour.len() >= HOUR {
                self.hour.pop_front();
            }
            self.hour.push_back(value);
        }
        self.count += 1;
    }

    /// The last sample.
    pub fn last(&self) -> u32 {
        self.recent.back().copied().unwrap_or(0)
    }

    /// The last minutes, and the time between their samples.
    pub fn recent(&self) -> (impl ExactSizeIterator<Item = u32> + Clone, Duration) {
        (self.recent.iter().copied(), EVERY)
    }

    /// The last hour, and the time between its samples.
    pub fn hour(&self) -> (impl ExactSizeIterator<Item = u32> + Clone, Duration) {
        (self.hour.iter().copied(), Duration::from_secs(60))
    }

    /// How fast the number grows now; `None` where it does not.
    pub fn growth(&self) -> Option<Growth> {
        let ((recent, every), (hour, minute)) = (self.recent(), self.hour());
        Growth::present(Growth::of(recent, every), Growth::of(hour, minute))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports::growth::Sure;

    #[test]
    fn both_times_are_kept_and_no_more() {
        let mut history = History::default();
        for n in 0..10_000 {
            history.push(n);
        }
        let (recent, hour) = (history.recent().0, history.hour().0);
        assert_eq!((recent.len(), hour.len(), history.last()), (RECENT, HOUR, 9999));
        assert_eq!(recent.min(), Some(9999 - 60));
        assert_eq!(hour.clone().zip(hour.skip(1)).map(|(a, b)| b - a).max(), Some(12));
    }

    #[test]
    fn a_growth_of_one_connection_in_a_minute_takes_minutes_to_see_and_is_sure_after_half_an_hour() {
        let mut history = History::default();
        let mut seen = Vec::new();
        for n in 0..12 * 40 {
            history.push(100 + n / 12);
            if n % 60 == 59 {
                seen.push(history.growth().and_then(|growth| growth.sure()));
            }
        }
        assert_eq!(seen.last(), Some(&Some(Sure::High)), "{seen:?}");
        let per_minute = history.growth().unwrap().per_second * 60.0;
        assert!((per_minute - 1.0).abs() < 0.1, "{per_minute}");
        (0..12 * 20).for_each(|_| history.push(139));
        assert!(history.growth().is_none(), "it has stopped");
    }
}
