//! Known clients go before others. But those keep coming in a storm that does not end, of clients that servers lose
//! again and again: so where both wait, one turn in ten is for a client that is not known, such as a new one of its
//! account.

use crate::admission::queue::waiting::{QueueOrder, QueueRank};

/// So many known clients go before one that is not known does, where both wait. Strangers that claim an account take no
/// more than what is left of its turns.
const KNOWN_IN_A_ROW: usize = 9;

/// How the clients of one line take turns.
#[derive(Debug, Default, Clone, Copy)]
pub struct KnownFirst {
    /// How many known clients have gone since the last other one.
    in_a_row: usize,
}

impl KnownFirst {
    /// Who goes next of those that wait: the `first` of all, or the first one like it that is not known. `first_from`
    /// looks for the first one at or behind a place.
    pub fn next(&self, first: QueueOrder, first_from: impl FnOnce(QueueOrder) -> Option<QueueOrder>) -> QueueOrder {
        if first.0.is_unknown() || self.in_a_row < KNOWN_IN_A_ROW {
            return first;
        }
        first_from((first.0.first_unknown(), 0)).filter(|unknown| unknown.0.is_like(first.0)).unwrap_or(first)
    }

    /// A client of this rank has had its turn.
    pub fn had_turn(&mut self, rank: QueueRank) {
        self.in_a_row = if rank.is_unknown() { 0 } else { self.in_a_row.saturating_add(1) };
    }

    /// How many clients like it go before one that is not known: `unknown` ones before it, and of those that are
    /// `known`.
    pub fn before_unknown(&self, unknown: usize, known: usize) -> usize {
        let turns = unknown.saturating_add(1).saturating_mul(KNOWN_IN_A_ROW);
        unknown + known.min(turns.saturating_sub(self.in_a_row))
    }

    /// The same for one that is known.
    pub fn before_known(&self, known: usize, unknown: usize) -> usize {
        known + unknown.min(known.saturating_add(self.in_a_row.min(KNOWN_IN_A_ROW)) / KNOWN_IN_A_ROW)
    }
}
