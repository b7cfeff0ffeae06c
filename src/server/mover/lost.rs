//! Tells how many sessions have gone on with another server after theirs was lost: sessions move by themselves then,
//! and a line for each would be thousands.

use std::time::{Duration, Instant};

use tracing::info;

use crate::{
    outcome::{MoveCause, MoveResult},
    telemetry::counters::Counters,
};

/// While sessions go on to move they are told of after this time.
const AT_LATEST: Duration = Duration::from_secs(10);

/// Sessions whose server was lost, since weir began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Lost {
    rehomed: u64,
    not_rehomed: u64,
}

/// What the log knows of them.
#[derive(Debug, Default)]
pub(super) struct Told {
    told: Lost,
    /// At the last look.
    seen: Lost,
    /// When it was seen first that there are some to tell of.
    since: Option<Instant>,
}

impl Told {
    /// A look at the counters. The log gets a line once their sessions have gone, or while they go on to go.
    pub(super) fn look(&mut self, counters: &Counters, now: Instant) {
        let count = |result| counters.moves(MoveCause::ServerLost, result);
        let lost = Lost { rehomed: count(MoveResult::Rehomed), not_rehomed: count(MoveResult::NotRehomed) };
        if let Some(Lost { rehomed, not_rehomed }) = self.news(lost, now) {
            info!(rehomed, not_rehomed, "sessions have lost their server");
        }
    }

    fn news(&mut self, lost: Lost, now: Instant) -> Option<Lost> {
        let is_going_on = std::mem::replace(&mut self.seen, lost) != lost;
        if lost == self.told {
            return None;
        }
        let since = *self.since.get_or_insert(now);
        if is_going_on && now.saturating_duration_since(since) < AT_LATEST {
            return None;
        }
        self.since = None;
        let before = std::mem::replace(&mut self.told, lost);
        Some(Lost { rehomed: lost.rehomed - before.rehomed, not_rehomed: lost.not_rehomed - before.not_rehomed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_line_once_all_have_gone_and_one_in_a_while_if_it_goes_on() {
        let (mut told, began) = (Told::default(), Instant::now());
        let mut news = |half_seconds: u32, rehomed, not_rehomed| {
            let now = began + Duration::from_millis(500) * half_seconds;
            told.news(Lost { rehomed, not_rehomed }, now).map(|lost| (lost.rehomed, lost.not_rehomed))
        };
        assert_eq!(
            [news(0, 0, 0), news(1, 300, 0), news(2, 900, 1), news(3, 900, 1)],
            [None, None, None, Some((900, 1))]
        );
        assert_eq!(news(4, 900, 1), None);
        let lines: Vec<_> = (0..=21).filter_map(|n| news(10 + n, 901 + u64::from(n), 1)).collect();
        assert_eq!(lines, [(21, 0)], "behind 10 s");
        assert_eq!(news(40, 922, 1), Some((1, 0)));
    }
}
