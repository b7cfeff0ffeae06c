//! The clients of whom no server has named the account, whose limits are those of `[accounts.default]`.

use std::{sync::atomic::Ordering::Relaxed, time::Instant};

use super::Accounts;
use crate::{
    admission::params::{AccountLimits, Quota},
    identity::UNKNOWN_ACCOUNT,
};

impl Accounts {
    /// Servers name the account of each client that they let in, or can be asked for it. Until then the client is one
    /// of those whose account nobody has named, which are of many accounts: a quota that is for each account does not
    /// hold for all of them together. Each keeps that of its own account once a server has named it, before it is let
    /// in where the server says so itself.
    ///
    /// `max_handshakes` holds for all of them together even so: it protects an auth callout, and there is no later
    /// moment at which a login that is over could be counted. Where no server tells, those whose account nobody names
    /// stay such, and the quota holds for all of them together: no account has more than it may have then.
    pub fn are_named(&self, named: bool, now: Instant) {
        if self.named.load(Relaxed) != named && self.named.swap(named, Relaxed) != named {
            self.default_may_have_changed(now);
        }
    }

    /// A server has named this account for a client. One may be called as those are that nobody has named; clients of
    /// it cannot be told from those, so that its quota holds for all of them.
    pub fn is_named(&self, name: &str, now: Instant) {
        if name == UNKNOWN_ACCOUNT && !self.default_is_one.swap(true, Relaxed) {
            self.default_may_have_changed(now);
        }
    }

    fn default_may_have_changed(&self, now: Instant) {
        if let Some(entry) = self.map.get(UNKNOWN_ACCOUNT) {
            entry.account.set_limits(self.limits_of(UNKNOWN_ACCOUNT), now);
        }
    }

    /// The limits of the account of this name.
    pub(super) fn limits_of(&self, name: &str) -> AccountLimits {
        let limits = self.configured.load().of(name);
        let is_of_many = name == UNKNOWN_ACCOUNT && self.named.load(Relaxed) && !self.default_is_one.load(Relaxed);
        if !is_of_many {
            return limits;
        }
        let quota = Quota { max_connections: None, rate: None, ..limits.quota };
        AccountLimits { quota, ..limits }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, num::NonZeroU32, sync::Arc};

    use super::*;
    use crate::admission::{Rate, client::Proof, quota::account::AccountSlot};

    /// One connection, one new one, and one handshake for each account.
    fn one_each() -> AccountLimits {
        let rate = Rate { per_second: NonZeroU32::MIN, burst: NonZeroU32::MIN };
        let quota = Quota { max_connections: Some(1), rate: Some(rate), warn_only: false };
        AccountLimits { quota, max_handshakes: NonZeroU32::new(1), ..AccountLimits::default() }
    }

    fn come(accounts: &Accounts, name: &str, now: Instant) -> Option<AccountSlot> {
        accounts.enter(&name.into(), Proof::Known, now).ok().filter(|slot| slot.take_token(now))
    }

    #[test]
    fn a_quota_of_each_account_is_not_one_of_all_that_are_still_to_be_named() {
        let now = Instant::now();
        let accounts = Accounts::new(one_each(), HashMap::new(), Arc::default());
        accounts.are_named(true, now);
        let mut unknown: Vec<_> = (0..5).filter_map(|_| come(&accounts, UNKNOWN_ACCOUNT, now)).collect();
        assert_eq!(unknown.len(), 5);
        assert!(unknown[0].begin_handshake() && !unknown[1].begin_handshake(), "nothing settles that later");
        let of_a = [come(&accounts, "A", now), come(&accounts, "A", now)];
        assert!(of_a[0].is_some() && of_a[1].is_none(), "it is named");
        // The same holds for limits that a reload brings.
        accounts.set_limits(one_each(), HashMap::new(), now);
        assert!(come(&accounts, UNKNOWN_ACCOUNT, now).is_some());
    }

    #[test]
    fn it_is_one_of_all_whose_account_nobody_will_name() {
        let now = Instant::now();
        let accounts = Accounts::new(one_each(), HashMap::new(), Arc::default());
        let held = come(&accounts, UNKNOWN_ACCOUNT, now).unwrap();
        assert!(come(&accounts, UNKNOWN_ACCOUNT, now).is_none());
        accounts.are_named(true, now);
        let another = come(&accounts, UNKNOWN_ACCOUNT, now).unwrap();
        accounts.are_named(false, now);
        assert!(come(&accounts, UNKNOWN_ACCOUNT, now).is_none(), "both stay counted");
        drop((held, another));
    }

    #[test]
    fn an_account_that_is_called_as_they_are_keeps_its_quota() {
        let now = Instant::now();
        let accounts = Accounts::new(one_each(), HashMap::new(), Arc::default());
        accounts.are_named(true, now);
        let _held = come(&accounts, UNKNOWN_ACCOUNT, now).unwrap();
        accounts.is_named("A", now);
        let _another = come(&accounts, UNKNOWN_ACCOUNT, now).unwrap();
        accounts.is_named(UNKNOWN_ACCOUNT, now);
        assert!(come(&accounts, UNKNOWN_ACCOUNT, now).is_none());
    }
}
