//! Who has been refused longest, and whose last session was too short: bounded memory across a client's reconnects.

use std::time::{Duration, Instant};

use crate::{admission::quota::counted_map::CountedMap, identity::ClientKey};

/// Clients remembered at most (about 10 MiB). Beyond it newcomers are not remembered; they rank as new.
const MOST_REMEMBERED: usize = 131_072;
/// A client not seen for this long is forgotten: the slowest default client (JavaScript) comes back every 20 s.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// A session shorter than this makes its client flapping (design: conduct towards clients, rule 7).
const SHORT_SESSION: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy)]
struct Seen {
    first_refused: Option<Instant>,
    /// How often since it last got in.
    refusals: u16,
    flapped: bool,
    at: Instant,
}

/// A client's place among those who wait: earlier is sooner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seniority {
    /// Flapping clients go behind all others.
    pub flapping: bool,
    /// MeasuredFrom when it has been trying.
    pub since: Instant,
}

/// The memory.
#[derive(Debug, Default)]
pub struct ClientHistory {
    map: CountedMap<ClientKey, Seen>,
}

impl ClientHistory {
    /// The seniority of a client that asks at `now`.
    pub fn seniority(&self, client: ClientKey, now: Instant) -> Seniority {
        let seen = self.map.get(&client).map(|seen| *seen);
        Seniority {
            flapping: seen.is_some_and(|seen| seen.flapped),
            since: seen.and_then(|seen| seen.first_refused).unwrap_or(now),
        }
    }

    fn note(&self, client: ClientKey, now: Instant, change: impl FnOnce(&mut Seen)) {
        if self.map.len() >= MOST_REMEMBERED && !self.map.contains_key(&client) {
            return;
        }
        let new = || Seen { first_refused: None, refusals: 0, flapped: false, at: now };
        let mut seen = self.map.get_or_insert_with(client, new);
        seen.at = now;
        change(&mut seen);
    }

    /// The client was refused because of overload.
    pub fn refused(&self, client: ClientKey, now: Instant) {
        self.note(client, now, |seen| {
            seen.first_refused.get_or_insert(now);
            seen.refusals = seen.refusals.saturating_add(1);
        });
    }

    /// How often it has been refused since it last got in; 0 if it is not remembered.
    pub fn refusals(&self, client: ClientKey) -> u32 {
        self.map.get(&client).map_or(0, |seen| u32::from(seen.refusals))
    }

    /// The client was admitted: its waiting is over.
    pub fn admitted(&self, client: ClientKey) {
        self.map.remove(&client);
    }

    /// The client's session ended after it had `lived` so long.
    pub fn session_ended(&self, client: ClientKey, lived: Duration, now: Instant) {
        if lived < SHORT_SESSION {
            self.note(client, now, |seen| seen.flapped = true);
        }
    }

    /// Forgets those that have not been seen for a while.
    pub fn sweep(&self, now: Instant) {
        self.map.retain(|_, seen| now.saturating_duration_since(seen.at) < FORGET_AFTER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_refused_goes_first_and_the_flapping_last() {
        let (memory, start) = (ClientHistory::default(), Instant::now());
        let second = |n| start + Duration::from_secs(n);
        let [old, young, new, flapping] = [1, 2, 3, 4].map(ClientKey::from_raw);
        memory.refused(old, second(0));
        memory.refused(young, second(1));
        memory.refused(old, second(2));
        memory.session_ended(flapping, Duration::from_secs(4), second(0));
        let mut order = [flapping, new, young, old];
        order.sort_by_key(|&client| memory.seniority(client, second(3)));
        assert_eq!(order, [old, young, new, flapping]);
        assert_eq!(order.map(|client| memory.refusals(client)), [2, 1, 0, 0]);
    }

    #[test]
    fn admission_and_time_wipe_the_slate() {
        let (memory, now) = (ClientHistory::default(), Instant::now());
        let client = ClientKey::from_raw(1);
        memory.refused(client, now);
        memory.admitted(client);
        assert!(memory.map.is_empty());
        memory.session_ended(client, Duration::from_secs(6), now);
        assert!(memory.map.is_empty(), "a session of decent length is not held against anyone");
        memory.session_ended(client, Duration::from_secs(1), now);
        memory.sweep(now + FORGET_AFTER);
        assert!(memory.map.is_empty());
    }
}
