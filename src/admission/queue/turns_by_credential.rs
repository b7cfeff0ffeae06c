//! The order of clients whose account nobody knew when they came: in one lane, since one account may have any number of
//! credentials, in which these take turns, since each may be of another account. So a storm of one account does not
//! keep out the first client of another, whose later clients have a lane of their own.
//!
//! Credentials whose account a server has named since, and those that may be made up, each have every other turn:
//! whoever comes with a thousand made-up names takes no turns of the others.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};

use crate::{
    admission::queue::{
        known_first::KnownFirst,
        waiting::{QueueOrder, QueueRank},
    },
    identity::CredentialKey,
};

/// What a client shows to say who it is; `None`: nothing by which its account could be known later.
type Shown = Option<CredentialKey>;

/// The clients of one credential.
#[derive(Debug, Default)]
struct Line {
    /// Whether a server has named its account.
    is_named: bool,
    /// How many turns it has had, counted from those that others like it had when it became one of them.
    round: u64,
    waiting: BTreeSet<QueueOrder>,
    known_first: KnownFirst,
}

/// The place of a line among those like it: who waits for a place of a lease is behind all others, then who has had
/// fewer turns goes first, then the order of the queue decides.
type Place = (bool, u64, QueueOrder, Shown);

impl Line {
    /// Its next client to go.
    fn next(&self) -> Option<QueueOrder> {
        let first = *self.waiting.first()?;
        Some(self.known_first.next(first, |from| self.waiting.range(from..).next().copied()))
    }

    fn place(&self, credential: Shown) -> Option<Place> {
        let first = self.next()?;
        Some((first.0.waits_for_place, self.round, first, credential))
    }
}

/// Who of a lane goes first, where its credentials take turns.
#[derive(Debug, Default)]
pub struct TurnsByCredential {
    lines: HashMap<Shown, Line>,
    /// Each line exactly once: in the first those whose account nobody knows, in the second the others.
    sequences: [BTreeSet<Place>; 2],
    /// Whether the next turn is for one whose account a server has named.
    is_turn_of_named: bool,
}

impl TurnsByCredential {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whose turn is next, and the first client of it.
    pub fn first(&self) -> Option<(Shown, QueueOrder)> {
        let [next, other] = [self.is_turn_of_named, !self.is_turn_of_named].map(|named| self.first_of(named));
        let first = match (next, other) {
            (Some(next), Some(other)) => Some(if next.0 && !other.0 { other } else { next }),
            (next, other) => next.or(other),
        };
        first.map(|&(.., order, credential)| (credential, order))
    }

    /// The first known client of the credential whose turn is next.
    pub fn first_known(&self) -> Option<QueueOrder> {
        let (credential, _) = self.first()?;
        self.lines.get(&credential)?.waiting.first().copied()
    }

    fn first_of(&self, named: bool) -> Option<&Place> {
        self.sequences[usize::from(named)].first()
    }

    /// A client of this credential joins the lane.
    pub fn push(&mut self, credential: Shown, order: QueueOrder) {
        if !self.lines.contains_key(&credential) {
            let round = self.round_of(false);
            self.lines.insert(credential, Line { round, ..Line::default() });
        }
        self.change(credential, |line| _ = line.waiting.insert(order));
    }

    /// A client of this credential leaves it.
    pub fn remove(&mut self, credential: Shown, order: QueueOrder) {
        self.change(credential, |line| _ = line.waiting.remove(&order));
    }

    /// This credential has had a turn, with a client of this rank: not always the next one, which may lack a token.
    pub fn had_turn(&mut self, credential: Shown, rank: QueueRank) {
        self.is_turn_of_named = self.lines.get(&credential).is_some_and(|line| !line.is_named);
        self.change(credential, |line| {
            line.round += 1;
            line.known_first.had_turn(rank);
        });
    }

    /// A server has named the account of this credential.
    pub fn account_is_named(&mut self, credential: Shown) {
        let round = self.round_of(true);
        self.change(credential, |line| (line.is_named, line.round) = (true, round));
    }

    /// The round of those whose turn is next, of these.
    fn round_of(&self, named: bool) -> u64 {
        self.first_of(named).map_or(0, |&(_, round, ..)| round)
    }

    /// No more clients of the lane than these go before the last one of this credential.
    pub fn most_before(&self, credential: Shown) -> usize {
        let Some(line) = self.lines.get(&credential) else { return 0 };
        let [others, like_it] = [!line.is_named, line.is_named].map(|named| self.sequences[usize::from(named)].len());
        let turns = line.waiting.len().saturating_mul(like_it);
        turns.saturating_mul(if others > 0 { 2 } else { 1 }).saturating_sub(1)
    }

    /// Changes a line, and its place with it.
    fn change(&mut self, credential: Shown, change: impl FnOnce(&mut Line)) {
        let Some(line) = self.lines.get_mut(&credential) else { return };
        if let Some(before) = line.place(credential) {
            self.sequences[usize::from(line.is_named)].remove(&before);
        }
        change(line);
        match line.place(credential) {
            Some(place) => _ = self.sequences[usize::from(line.is_named)].insert(place),
            None => _ = self.lines.remove(&credential),
        }
    }
}
