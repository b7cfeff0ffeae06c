//! What weir remembers of clients across their connections: since when each has been refused, and whether its last
//! session was too short.

use std::time::{Duration, Instant};

use crate::{admission::quota::counted_map::CountedMap, identity::ClientKey};

/// The most clients that are remembered (about 10 MiB). With so many, others are not remembered; they rank as new.
const MOST_REMEMBERED: usize = 131_072;
/// A client that has not come for this long is forgotten. The slowest library at its defaults (JavaScript) comes back
/// every 20 s.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// A session shorter than this makes its client flapping (docs/contract.md, towards clients 7).
const SHORT_SESSION: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy)]
struct Record {
    first_refused: Option<Instant>,
    /// How often since it was last admitted.
    refusals: u16,
    flapped: bool,
    at: Instant,
}

/// A client's place among those that wait. The least goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seniority {
    /// Its last session was too short: it goes behind all others.
    pub flapping: bool,
    /// Since when it has been refused, or when it asks for the first time.
    pub since: Instant,
}

/// The clients that are remembered.
#[derive(Debug, Default)]
pub struct ClientHistory {
    map: CountedMap<ClientKey, Record>,
}

impl ClientHistory {
    /// The seniority of a client that asks at `now`.
    pub fn seniority(&self, client: ClientKey, now: Instant) -> Seniority {
        let record = self.map.get(&client).map(|record| *record);
        Seniority {
            flapping: record.is_some_and(|record| record.flapped),
            since: record.and_then(|record| record.first_refused).unwrap_or(now),
        }
    }

    fn note(&self, client: ClientKey, now: Instant, change: impl FnOnce(&mut Record)) {
        if self.map.len() >= MOST_REMEMBERED && !self.map.contains_key(&client) {
            return;
        }
        let new = || Record { first_refused: None, refusals: 0, flapped: false, at: now };
        let mut record = self.map.get_or_insert_with(client, new);
        record.at = now;
        change(&mut record);
    }

    /// The client was refused because of overload.
    pub fn refused(&self, client: ClientKey, now: Instant) {
        self.note(client, now, |record| {
            record.first_refused.get_or_insert(now);
            record.refusals = record.refusals.saturating_add(1);
        });
    }

    /// How often it has been refused since it was last admitted; 0 if it is not remembered.
    pub fn refusals(&self, client: ClientKey) -> u32 {
        self.map.get(&client).map_or(0, |record| u32::from(record.refusals))
    }

    /// The client was admitted: its waiting is over.
    pub fn admitted(&self, client: ClientKey) {
        self.map.remove(&client);
    }

    /// The client's session ended after it had `lived` so long.
    pub fn session_ended(&self, client: ClientKey, lived: Duration, now: Instant) {
        if lived < SHORT_SESSION {
            self.note(client, now, |record| record.flapped = true);
        }
    }

    /// Forgets the clients that have not come for [`FORGET_AFTER`].
    pub fn sweep(&self, now: Instant) {
        self.map.retain(|_, record| now.saturating_duration_since(record.at) < FORGET_AFTER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_refused_goes_first_and_the_flapping_last() {
        let (history, start) = (ClientHistory::default(), Instant::now());
        let second = |n| start + Duration::from_secs(n);
        let [old, young, new, flapping] = [1, 2, 3, 4].map(ClientKey::from_raw);
        history.refused(old, second(0));
        history.refused(young, second(1));
        history.refused(old, second(2));
        history.session_ended(flapping, Duration::from_secs(4), second(0));
        let mut order = [flapping, new, young, old];
        order.sort_by_key(|&client| history.seniority(client, second(3)));
        assert_eq!(order, [old, young, new, flapping]);
        assert_eq!(order.map(|client| history.refusals(client)), [2, 1, 0, 0]);
    }

    #[test]
    fn admission_and_time_wipe_the_slate() {
        let (history, now) = (ClientHistory::default(), Instant::now());
        let client = ClientKey::from_raw(1);
        history.refused(client, now);
        history.admitted(client);
        assert!(history.map.is_empty());
        history.session_ended(client, Duration::from_secs(6), now);
        assert!(history.map.is_empty(), "a session of decent length is not held against anyone");
        history.session_ended(client, Duration::from_secs(1), now);
        history.sweep(now + FORGET_AFTER);
        assert!(history.map.is_empty());
    }
}
