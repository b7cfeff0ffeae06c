//! What weir remembers of clients across their connections: since when each has been refused, and whether its last
//! session was too short.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::{admission::quota::counted_map::CountedMap, identity::ClientKey, lapse::Lapse};

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

/// A client as another process recalls it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RememberedClient {
    key: ClientKey,
    /// When it was first refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_refused: Option<Lapse>,
    #[serde(default)]
    refusals: u16,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    flapped: bool,
    /// When it was last seen.
    #[serde(default)]
    at: Lapse,
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

    /// The clients that are remembered, for a process that takes over.
    pub fn remembered(&self, now: Instant) -> Vec<RememberedClient> {
        let client = |key, record: Record| RememberedClient {
            key,
            first_refused: record.first_refused.map(|at| Lapse::since(at, now)),
            refusals: record.refusals,
            flapped: record.flapped,
            at: Lapse::since(record.at, now),
        };
        self.map.iter().map(|one| client(*one.key(), *one.value())).collect()
    }

    /// Recalls what another process remembered at `then`. Clients that have come since are known better.
    pub fn recall(&self, remembered: Vec<RememberedClient>, then: Instant) {
        for one in remembered.into_iter().take(MOST_REMEMBERED.saturating_sub(self.map.len())) {
            let first_refused = one.first_refused.map(|ago| ago.before(then));
            let (refusals, flapped) = (one.refusals, one.flapped);
            self.map.get_or_insert_with(one.key, || Record {
                first_refused,
                refusals,
                flapped,
                at: one.at.before(then),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

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

    proptest! {
        /// Another process, on another clock, decides as this one would: who is first, how often each was refused, and
        /// who is forgotten when.
        #[test]
        fn another_process_ranks_clients_alike(
            events in vec((0..20_u64, 0..3_u8, 0..90_000_u64), 0..60),
            at in 0..90_000_u64,
            later in 0..70_000_u64,
        ) {
            let (old, new, start) = (ClientHistory::default(), ClientHistory::default(), Instant::now());
            let ms = Duration::from_millis;
            for (client, event, ms_after) in events {
                let (client, now) = (ClientKey::from_raw(client), start + ms(ms_after));
                match event {
                    0 => old.refused(client, now),
                    1 => old.session_ended(client, ms(ms_after % 7000), now),
                    _ => old.admitted(client),
                }
            }
            let (now, there) = (start + ms(90_000 + at), start + ms(1_000_000));
            let text = serde_json::to_string(&old.remembered(now)).unwrap();
            new.recall(serde_json::from_str(&text).unwrap(), there);
            old.sweep(now + ms(later));
            new.sweep(there + ms(later));
            for client in (0..20).map(ClientKey::from_raw) {
                let (was, is) = (old.seniority(client, now), new.seniority(client, there));
                prop_assert_eq!((now - was.since, was.flapping), (there - is.since, is.flapping));
                prop_assert_eq!(old.refusals(client), new.refusals(client));
            }
        }
    }

    #[test]
    fn what_is_recalled_is_bounded_and_what_is_newer_counts() {
        let (history, now) = (ClientHistory::default(), Instant::now());
        history.refused(ClientKey::from_raw(1), now);
        let one = |n| RememberedClient {
            key: ClientKey::from_raw(n),
            first_refused: Some(Duration::MAX.into()),
            refusals: u16::MAX,
            flapped: true,
            at: Duration::MAX.into(),
        };
        history.recall((0..2 * MOST_REMEMBERED as u64).map(one).collect(), now);
        assert!(history.map.len() <= MOST_REMEMBERED);
        assert!(!history.seniority(ClientKey::from_raw(1), now).flapping);
        history.refused(ClientKey::from_raw(2), now);
        assert_eq!(history.refusals(ClientKey::from_raw(2)), u32::from(u16::MAX));
        history.sweep(now);
        assert_eq!(history.map.len(), 2, "what is too old goes with the next sweep");
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
