//! Who has been moved of late: nobody is moved twice within an hour for the sake of balance.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::identity::ClientKey;

/// Nobody is moved for the sake of balance within this time after a move of that kind.
pub const REST: Duration = Duration::from_secs(3600);

/// The most clients that are remembered (about 4 MiB). Beyond that nobody is moved for the sake of balance.
const MOST: usize = 65_536;

/// The moves of the last hour.
///
/// Several sessions may belong to what weir takes for one client, as where clients without names share an address. Such
/// a client has as many moves in an hour as sessions: whichever sessions go, that is one move for each.
#[derive(Debug, Default)]
pub struct History {
    moves: HashMap<ClientKey, Moves>,
}

#[derive(Debug)]
struct Moves {
    last: Instant,
    count: u32,
}

impl History {
    /// Whether one more session of a client with so many sessions may be moved.
    pub fn may_move(&self, client: ClientKey, sessions: u32, now: Instant) -> bool {
        match self.moves.get(&client) {
            None => self.moves.len() < MOST,
            Some(moves) => now.saturating_duration_since(moves.last) >= REST || moves.count < sessions,
        }
    }

    /// A session of this client is being moved.
    pub fn moved(&mut self, client: ClientKey, now: Instant) {
        let moves = self.moves.entry(client).or_insert(Moves { last: now, count: 0 });
        if now.saturating_duration_since(moves.last) >= REST {
            moves.count = 0;
        }
        *moves = Moves { last: now, count: moves.count.saturating_add(1) };
    }

    /// Forgets what is over.
    pub fn sweep(&mut self, now: Instant) {
        self.moves.retain(|_, moves| now.saturating_duration_since(moves.last) < REST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{CredentialKey, Keys};

    #[test]
    fn nobody_is_moved_twice_within_an_hour() {
        let client = Keys::default().client([127, 0, 0, 1].into(), CredentialKey::from_raw(1), None);
        let (mut history, now) = (History::default(), Instant::now());
        assert!(history.may_move(client, 1, now));
        history.moved(client, now);
        let soon = now + REST - Duration::from_secs(1);
        assert!(!history.may_move(client, 1, soon));
        assert!(history.may_move(client, 2, soon), "another session of clients that look the same");
        assert!(history.may_move(client, 1, now + REST));
        history.sweep(soon);
        assert!(!history.may_move(client, 1, soon));
        history.sweep(now + REST);
        assert!(history.moves.is_empty());
    }
}
