//! Counts logins that servers refused, by account and reason, and by source. Clients claim accounts and may have many
//! addresses, so both tables are bounded, and so is how often a name in them changes: Prometheus keeps each name that
//! it has ever seen. A source is an IPv4 address or the /64 of an IPv6 address.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use crate::{admission::Source, outcome::BadLogin, telemetry::top::Top};

#[derive(Debug, Default)]
pub struct BadLogins {
    by_account: Mutex<[Top<String>; BadLogin::ALL.len()]>,
    by_source: Mutex<Top<Source>>,
}

impl BadLogins {
    /// Counts a login that a server refused, under the account that the client claimed.
    pub fn note(&self, account: &str, source: IpAddr, why: BadLogin, now: Instant) {
        self.by_account.lock().unwrap_or_else(PoisonError::into_inner)[why as usize].note(&account.to_owned(), 0, now);
        self.by_source.lock().unwrap_or_else(PoisonError::into_inner).note(&source.into(), 0, now);
    }

    /// The counts for one reason, by account; `None` is all others.
    pub fn by_account(&self, why: BadLogin) -> Vec<(Option<String>, u64)> {
        let all = self.by_account.lock().unwrap_or_else(PoisonError::into_inner);
        let (named, others) = all[why as usize].counts();
        named.map(|(name, [n])| (Some(name.clone()), n)).chain((others[0] > 0).then_some((None, others[0]))).collect()
    }

    /// The counts by source; `None` is all others.
    pub fn by_source(&self) -> Vec<(Option<Source>, u64)> {
        let all = self.by_source.lock().unwrap_or_else(PoisonError::into_inner);
        let (named, others) = all.counts();
        named.map(|(source, [n])| (Some(*source), n)).chain((others[0] > 0).then_some((None, others[0]))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::top::{MOST_NAMED, RENAMED_AFTER};

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
