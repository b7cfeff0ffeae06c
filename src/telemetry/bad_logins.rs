//! Counts logins that servers refused, by account and reason, and by source. An account is what the client claims, and an
//! attacker may have many addresses, so both tables are bounded.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use crate::outcome::BadLogin;

/// The most accounts, and sources, that are counted by name. The next one takes the place of the one with the fewest
/// logins, whose count is added to that of all others.
const MOST_NAMED: usize = 50;

/// Counts by key, the largest of them by name.
#[derive(Debug)]
struct Top<K> {
    named: HashMap<K, u64>,
    others: u64,
}

impl<K> Default for Top<K> {
    fn default() -> Self {
        Self { named: HashMap::new(), others: 0 }
    }
}

impl<K: Hash + Eq + Clone> Top<K> {
    fn note(&mut self, key: K) {
        if let Some(count) = self.named.get_mut(&key) {
            *count += 1;
            return;
        }
        if self.named.len() >= MOST_NAMED
            && let Some(fewest) = self.named.iter().min_by_key(|(_, count)| **count).map(|(key, _)| key.clone())
        {
            self.others += self.named.remove(&fewest).unwrap_or_default();
        }
        self.named.insert(key, 1);
    }

    /// The counts by key, and the sum of all others.
    fn counts(&self) -> (impl Iterator<Item = (&K, u64)>, u64) {
        (self.named.iter().map(|(key, count)| (key, *count)), self.others)
    }
}

#[derive(Debug, Default)]
pub struct BadLogins {
    by_account: Mutex<[Top<String>; BadLogin::ALL.len()]>,
    by_source: Mutex<Top<IpAddr>>,
}

impl BadLogins {
    /// Counts a login that a server refused, under the account that the client claimed.
    pub fn note(&self, account: &str, source: IpAddr, why: BadLogin) {
        self.by_account.lock().unwrap_or_else(PoisonError::into_inner)[why as usize].note(account.to_owned());
        self.by_source.lock().unwrap_or_else(PoisonError::into_inner).note(source);
    }

    /// The counts for one reason, by account; `None` is all others.
    pub fn by_account(&self, why: BadLogin) -> Vec<(Option<String>, u64)> {
        let all = self.by_account.lock().unwrap_or_else(PoisonError::into_inner);
        let (named, others) = all[why as usize].counts();
        named.map(|(name, n)| (Some(name.clone()), n)).chain((others > 0).then_some((None, others))).collect()
    }

    /// The counts by source; `None` is all others.
    pub fn by_source(&self) -> Vec<(Option<IpAddr>, u64)> {
        let all = self.by_source.lock().unwrap_or_else(PoisonError::into_inner);
        let (named, others) = all.counts();
        named.map(|(source, n)| (Some(*source), n)).chain((others > 0).then_some((None, others))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_keep_their_names_and_nothing_is_lost() {
        let bad = BadLogins::default();
        for n in 0..200u32 {
            bad.note("ORDERS", IpAddr::from([192, 0, 2, 1]), BadLogin::Violation);
            bad.note(&format!("claimed {n}"), IpAddr::from(n.to_be_bytes()), BadLogin::Violation);
        }
        let accounts = bad.by_account(BadLogin::Violation);
        assert!(accounts.contains(&(Some("ORDERS".into()), 200)) && accounts.len() <= MOST_NAMED + 1);
        assert_eq!(accounts.iter().map(|(_, n)| n).sum::<u64>(), 400);
        let sources = bad.by_source();
        assert!(sources.contains(&(Some(IpAddr::from([192, 0, 2, 1])), 200)));
        assert_eq!(sources.iter().map(|(_, n)| n).sum::<u64>(), 400);
        assert!(bad.by_account(BadLogin::TimedOut).is_empty());
    }
}
