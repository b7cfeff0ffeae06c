//! The clients that an operator has kicked for a time: they are refused until it is over.

use std::time::Instant;

use crate::{admission::quota::counted_map::CountedMap, identity::ClientKey, lapse::Lapse};

/// The most clients that are kept away at a time (about 4 MiB).
const MOST_KEPT_AWAY: usize = 65_536;

/// Until when each is kept away.
#[derive(Debug, Default)]
pub struct Kicked {
    until: CountedMap<ClientKey, Instant>,
}

impl Kicked {
    /// Keeps a client away until then, or as long as it has been told before. Returns `false` where as many are kept
    /// away as may be.
    pub fn keep_away(&self, client: ClientKey, until: Instant) -> bool {
        if self.until.len() >= MOST_KEPT_AWAY && !self.until.contains_key(&client) {
            return false;
        }
        let mut known = self.until.get_or_insert_with(client, || until);
        *known = until.max(*known);
        true
    }

    /// Whether a client is kept away. Costs nothing while nobody is.
    pub fn is_kept_away(&self, client: ClientKey, now: Instant) -> bool {
        self.until.get(&client).is_some_and(|until| now < *until)
    }

    /// How many are kept away.
    pub fn len(&self) -> usize {
        self.until.len()
    }

    /// Keeps nobody away any more. Returns how many were.
    pub fn forgive(&self) -> usize {
        let before = self.until.len();
        self.until.retain(|_, _| false);
        before
    }

    /// Those who are kept away, and for how long yet, for a process that takes over.
    pub fn remembered(&self, now: Instant) -> Vec<(ClientKey, Lapse)> {
        self.until.iter().map(|one| (*one.key(), Lapse::until(*one.value(), now))).collect()
    }

    /// Recalls what another process remembered at `then`.
    pub fn recall(&self, remembered: Vec<(ClientKey, Lapse)>, then: Instant) {
        remembered.into_iter().take(MOST_KEPT_AWAY).for_each(|(client, left)| {
            self.keep_away(client, left.after(then));
        });
    }

    pub fn sweep(&self, now: Instant) {
        if !self.until.is_empty() {
            self.until.retain(|_, until| now < *until);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_is_kicked_is_kept_away_for_its_time() {
        let (kicked, now) = (Kicked::default(), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        let [one, other] = [1, 2].map(ClientKey::from_raw);
        assert!(kicked.keep_away(one, at(10)) && kicked.keep_away(one, at(5)));
        assert!(kicked.is_kept_away(one, at(9)) && !kicked.is_kept_away(one, at(10)));
        assert!(!kicked.is_kept_away(other, now));
        kicked.sweep(at(9));
        assert_eq!(kicked.len(), 1);
        kicked.sweep(at(10));
        assert_eq!(kicked.len(), 0);
        assert!(kicked.keep_away(other, at(20)));
        assert_eq!((kicked.forgive(), kicked.is_kept_away(other, at(10))), (1, false));
    }

    #[test]
    fn who_is_kicked_is_kept_away_from_another_process_too() {
        let (old, new, now) = (Kicked::default(), Kicked::default(), Instant::now());
        let (one, there) = (ClientKey::from_raw(1), now + Duration::from_secs(1000));
        old.keep_away(one, now + Duration::from_secs(10));
        let text = serde_json::to_string(&old.remembered(now + Duration::from_secs(3))).unwrap();
        new.recall(serde_json::from_str(&text).unwrap(), there);
        let is_kept_away = |seconds| new.is_kept_away(one, there + Duration::from_secs(seconds));
        assert!(is_kept_away(6) && !is_kept_away(7));
        new.recall((0..2 * MOST_KEPT_AWAY as u64).map(|n| (ClientKey::from_raw(n), Lapse::default())).collect(), now);
        assert!(new.len() <= MOST_KEPT_AWAY && is_kept_away(6), "nobody is forgiven by it");
    }

    #[test]
    fn the_table_is_bounded() {
        let (kicked, now) = (Kicked::default(), Instant::now());
        let until = now + Duration::from_secs(1);
        for n in 0..MOST_KEPT_AWAY as u64 {
            assert!(kicked.keep_away(ClientKey::from_raw(n), until));
        }
        assert!(!kicked.keep_away(ClientKey::from_raw(u64::MAX), until));
        assert!(kicked.keep_away(ClientKey::from_raw(0), until), "whoever is there stays");
        assert_eq!(kicked.len(), MOST_KEPT_AWAY);
    }
}
