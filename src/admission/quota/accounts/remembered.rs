//! The accounts in use, for a process that takes over.

use std::{cmp::Reverse, sync::Arc, time::Instant};

use super::Accounts;
use crate::{
    admission::quota::{
        account::{Account, remembered::RememberedAccount},
        logins::UsualLatencies,
    },
    upstream::{Addresses, concurrency::baseline::MeasuredFrom},
};

/// The most accounts that are written down, those that were used last first.
const MOST_REMEMBERED: usize = 16_384;
/// For so many pairs of an account and a server it is written down how logins end there. Accounts beyond that go
/// without.
const MOST_AT_SERVERS: usize = 65_536;

impl Accounts {
    /// What is known of the accounts in use.
    pub fn remembered(&self, servers: &Addresses, now: Instant) -> Vec<RememberedAccount> {
        // A shard of the table is locked while it is walked through: what is known is read later.
        let all = self.map.iter().map(|one| (one.value().used_at, Arc::clone(&one.value().account)));
        let mut all: Vec<_> = all.collect();
        if all.len() > MOST_REMEMBERED {
            all.sort_unstable_by_key(|(used_at, _)| Reverse(*used_at));
            all.truncate(MOST_REMEMBERED);
        }
        let mut left = MOST_AT_SERVERS;
        let remembered = |(_, account): &(_, Arc<Account>)| {
            let mut one = account.remembered(servers, now);
            one.logins.bound_servers(&mut left);
            one
        };
        all.iter().map(remembered).collect()
    }

    /// Recalls what another process knew of them at `then`, and what is `usual` by that. One that nobody uses here is
    /// forgotten as any other.
    pub fn recall(&self, remembered: &[RememberedAccount], servers: &Addresses, then: Instant, usual: &UsualLatencies) {
        for one in remembered.iter().take(MOST_REMEMBERED) {
            let name = Arc::from(one.name.as_str());
            self.with(&name, then, |account| {
                // Beyond the most accounts it is the one of all those whose account no server has named.
                if **account.name() == *one.name {
                    account.recall(one, servers, then);
                    for since in MeasuredFrom::ALL {
                        let least = account.measured_alone(since);
                        least.into_iter().for_each(|least| usual[since as usize].measured(least));
                    }
                }
            });
        }
    }
}
