//! The last minutes, second by second, in bounded memory: what pages and terminals draw.

use std::collections::VecDeque;

use crate::{
    outcome::Refusal,
    telemetry::{counters::Totals, storms::Sample},
};

/// What happened in one second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Second {
    /// Counted from weir's start on.
    pub number: u64,
    /// Its end, in milliseconds since 1970.
    pub unix_ms: u64,
    /// Connections that were accepted.
    pub arrived: u64,
    /// Clients that were admitted.
    pub admitted: u64,
    /// Clients that began to wait for their turn.
    pub held: u64,
    /// Clients that were refused, in the order of [`Refusal::ALL`].
    pub refused: [u32; Refusal::ALL.len()],
    /// Clients that waited for their turn at its end.
    pub waiting: u64,
    /// Sessions at its end.
    pub sessions: u64,
    /// The pace at its end, where it is known.
    pub pace: Option<f64>,
    /// What was relayed.
    pub relayed: Totals,
}

impl Second {
    fn between(number: u64, before: &Sample, now: &Sample) -> Self {
        let mut refused = [0; Refusal::ALL.len()];
        for (refused, (now, before)) in refused.iter_mut().zip(now.refused.iter().zip(before.refused)) {
            *refused = u32::try_from(now - before).unwrap_or(u32::MAX);
        }
        Self {
            number,
            unix_ms: now.unix_ms,
            arrived: now.arrived - before.arrived,
            admitted: now.admitted.saturating_sub(before.admitted),
            held: now.held - before.held,
            refused,
            waiting: now.waiting,
            sessions: now.sessions,
            pace: now.pace,
            relayed: now.relayed.since(before.relayed),
        }
    }

    /// Clients that were refused, for any reason.
    pub fn refused_in_all(&self) -> u64 {
        self.refused.iter().copied().map(u64::from).sum()
    }
}

/// The last [`Recent::KEPT`] seconds.
#[derive(Debug, Default)]
pub struct Recent {
    last: Option<Sample>,
    number: u64,
    seconds: VecDeque<Second>,
}

impl Recent {
    /// Ten minutes.
    pub const KEPT: usize = 600;

    /// A second has passed; `now` is what the counters say at its end. The first one is the beginning of the first
    /// second.
    pub fn second(&mut self, now: Sample) {
        let Some(before) = self.last.replace(now) else { return };
        self.number += 1;
        if self.seconds.len() == Self::KEPT {
            self.seconds.pop_front();
        }
        self.seconds.push_back(Second::between(self.number, &before, &now));
    }

    /// The number of the last second; 0 before the first one.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The seconds that are kept, the oldest first.
    pub fn seconds(&self) -> impl DoubleEndedIterator<Item = &Second> {
        self.seconds.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_differences_and_the_oldest_make_room() {
        let mut recent = Recent::default();
        let mut sample = Sample { arrived: 7, sessions: 3, ..Sample::default() };
        recent.second(sample);
        assert_eq!((recent.number(), recent.seconds().count()), (0, 0));
        for n in 0..Recent::KEPT as u64 + 5 {
            sample.arrived += n;
            sample.refused[Refusal::QueueFull as usize] += 2;
            sample.relayed.bytes_up += 10;
            sample.unix_ms += 1000;
            recent.second(sample);
        }
        assert_eq!((recent.number(), recent.seconds().count()), (Recent::KEPT as u64 + 5, Recent::KEPT));
        let numbers: Vec<_> = recent.seconds().map(|one| (one.number, one.arrived)).collect();
        assert_eq!((numbers[0], numbers[1]), ((6, 5), (7, 6)));
        let last = recent.seconds().next_back().unwrap();
        assert_eq!((last.refused_in_all(), last.relayed.bytes_up, last.sessions), (2, 10, 3));
        assert_eq!(last.refused[Refusal::QueueFull as usize], 2);
    }
}
