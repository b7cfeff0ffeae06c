//! Counts logins that servers refused, by account and reason, and by source. Clients claim accounts and may have many
//! addresses, so both tables are bounded, and so is how often a name in them changes: Prometheus keeps each name that
//! it has ever seen. A source is an IPv4 address or the /64 of an IPv6 address.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{admission::Source, outcome::BadLogin};

/// The most accounts, and sources, that are counted by name. The next one takes the place of the one with the fewest
/// logins, whose count is added to that of all others.
const MOST_NAMED: usize = 50;

/// Once all names are taken, one is given to another key no sooner than this after the last one was.
const RENAMED_AFTER: Duration = Duration::from_secs(60);

/// Counts by key, the largest of them by name.
#[derive(Debug)]
struct Top<K> {
    named: HashMap<K, u64>,
    others: u64,
    renamed_at: Option<Instant>,
}

impl<K> Default for Top<K> {
    fn default() -> Self {
        Self { named: HashMap::new(), others: 0, renamed_at: None }
    }
}

impl<K: Hash + Eq + Clone> Top<K> {
    fn note(&mut self, key: K, now: Instant) {
        if let Some(count) = self.named.get_mut(&key) {
            *count += 1;
            return;
        }
        let is_full = self.named.len() >= MOST_NAMED;
        if is_full && self.renamed_at.is_some_and(|at| now.saturating_duration_since(at) < RENAMED_AFTER) {
            self.others += 1;
            return;
        }
        if is_full && let Some(fewest) = self.named.iter().min_by_key(|(_, count)| **count).map(|(key, _)| key.clone())
        {
            self.others += self.named.remove(&fewest).unwrap_or_default();
            self.renamed_at = Some(now);
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
    by_source: Mutex<Top<Source>>,
}

impl BadLogins {
    /// Counts a login that a server refused, under the account that the client claimed.
    pub fn note(&self, account: &str, source: IpAddr, why: BadLogin, now: Instant) {
        self.by_account.lock().unwrap_or_else(PoisonError::into_inner)[why as usize].note(account.to_owned(), now);
        self.by_source.lock().unwrap_or_else(PoisonError::into_inner).note(source.into(), now);
    }

    /// The counts for one reason, by account; `None` is all others.
    pub fn by_account(&self, why: BadLogin) -> Vec<(Option<String>, u64)> {
        let all = self.by_account.lock().unwrap_or_else(PoisonError::into_inner);
        let (named, others) = all[why as usize].counts();
        named.map(|(name, n)| (Some(name.clone()), n)).chain((others > 0).then_some((None, others))).collect()
    }

    /// The counts by source; `None` is all others.
    pub fn by_source(&self) -> Vec<(Option<Source>, u64)> {
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
        let (bad, now) = (BadLogins::default(), Instant::now());
        for n in 0..200u32 {
            let at = now + RENAMED_AFTER * n;
            bad.note("ORDERS", IpAddr::from([192, 0, 2, 1]), BadLogin::Violation, at);
            bad.note(&format!("claimed {n}"), IpAddr::from(n.to_be_bytes()), BadLogin::Violation, at);
        }
        let accounts = bad.by_account(BadLogin::Violation);
        assert!(accounts.contains(&(Some("ORDERS".into()), 200)) && accounts.len() <= MOST_NAMED + 1);
        assert_eq!(accounts.iter().map(|(_, n)| n).sum::<u64>(), 400);
        let sources = bad.by_source();
        assert!(sources.contains(&(Some(IpAddr::from([192, 0, 2, 1]).into()), 200)));
        assert_eq!(sources.iter().map(|(_, n)| n).sum::<u64>(), 400);
        assert!(bad.by_account(BadLogin::TimedOut).is_empty());
    }

    #[test]
    fn names_do_not_come_and_go_with_each_login() {
        let (bad, now) = (BadLogins::default(), Instant::now());
        let mut names = std::collections::HashSet::new();
        for n in 0..10_000u32 {
            let source = format!("2001:db8:0:{:x}::{n:x}", n / 2).parse::<IpAddr>().unwrap();
            bad.note(&format!("claimed {n}"), source, BadLogin::Violation, now + Duration::from_millis(n.into()));
            names.extend(bad.by_source().into_iter().filter_map(|(source, _)| source));
        }
        assert_eq!(names.len(), MOST_NAMED + 1, "fifty, and one more in ten seconds");
        assert_eq!(bad.by_source().iter().map(|(_, n)| n).sum::<u64>(), 10_000);
        assert_eq!(bad.by_account(BadLogin::Violation).iter().map(|(_, n)| n).sum::<u64>(), 10_000);
    }
}
