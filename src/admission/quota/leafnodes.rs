//! How many leafnodes each account may have at once. A leafnode counts as a connection of its account as well.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, OnceLock, atomic::Ordering::Relaxed},
    time::Instant,
};

use crate::{
    admission::{
        client::Proof,
        params::Quota,
        quota::{
            account::Account,
            by_key::{KeySlot, QuotaByKey},
            lease::{Lease, Share, shared},
            warned::Warned,
        },
    },
    fleet::{
        key::Kind,
        lease::{allowance::LeaseWait, book::LeaseBook},
    },
    outcome::Refusal,
};

/// A keyed hash of an account's name: nobody can choose two that are taken for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct AccountKey(u64);

/// The leafnodes of every account that has any.
#[derive(Debug, Default)]
pub struct LeafnodeQuotas {
    by_account: Arc<QuotaByKey<AccountKey>>,
    seed: RandomState,
    /// Where the fleet shares quotas.
    book: OnceLock<Arc<LeaseBook>>,
}

/// One leafnode of an account, given back on drop.
#[derive(Debug)]
pub struct LeafnodeSlot {
    slot: KeySlot<AccountKey>,
    account: Arc<Account>,
}

impl Drop for LeafnodeSlot {
    fn drop(&mut self) {
        self.account.leafnodes.fetch_sub(1, Relaxed);
    }
}

impl LeafnodeQuotas {
    /// From now on the fleet shares the quotas, by the leases of `book`.
    pub fn share_quotas(&self, book: Arc<LeaseBook>) {
        let _ = self.book.set(book);
    }

    fn key(&self, account: &Account) -> AccountKey {
        AccountKey(self.seed.hash_one(account.name()))
    }

    fn share<'a>(&'a self, account: &'a Account) -> Option<Share<'a>> {
        // Leafnodes do not wait for a place: each comes back after its `reconnect_interval`.
        self.book.get().map(|book| Share { book, kind: Kind::Leafnodes, name: account.name(), may_wait: false })
    }

    /// Takes a place among the leafnodes of an account.
    ///
    /// # Errors
    /// [`Refusal::AccountLeafnodeQuota`]; nothing is taken then.
    pub fn enter(
        &self,
        account: &Arc<Account>,
        proof: Proof,
        now: Instant,
        warned: &Warned,
    ) -> Result<LeafnodeSlot, Refusal> {
        account.has_leafnode();
        let reason = Refusal::AccountLeafnodeQuota;
        let (key, quota) = (self.key(account), account.leafnode_quota());
        let warn = |_| warned.note(reason);
        let entered = self.by_account.enter_by(key, quota, proof, (now, now), self.share(account), warn);
        entered.map(|(slot, _)| LeafnodeSlot::new(slot, account)).map_err(|_| reason)
    }

    /// Takes a place whatever the limit, for a session that another process of weir has had until now.
    pub fn adopt(&self, account: &Arc<Account>, now: Instant) -> LeafnodeSlot {
        let (key, quota) = (self.key(account), account.leafnode_quota());
        LeafnodeSlot::new(self.by_account.adopt(key, quota, self.share(account), now), account)
    }

    /// A leafnode of this account waits for a place of this weir's lease; `None` where none will come, or the fleet
    /// does not share the quota.
    pub fn wait(&self, account: &Account, now: Instant) -> Option<LeaseWait> {
        let most = shared(account.leafnode_quota())?;
        self.book.get()?.allowance(Kind::Leafnodes, account.name(), Some(most)).wait(now)
    }

    /// Forgets the accounts without leafnodes.
    pub fn sweep(&self, now: Instant) {
        self.by_account.sweep(now);
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.by_account.is_empty()
    }
}

impl LeafnodeSlot {
    fn new(slot: KeySlot<AccountKey>, account: &Arc<Account>) -> Self {
        account.leafnodes.fetch_add(1, Relaxed);
        Self { slot, account: Arc::clone(account) }
    }

    /// Whether its account has no room for it any more, since known leafnodes have come.
    pub fn is_displaced(&self) -> bool {
        self.slot.is_displaced()
    }

    /// A hub has let it in: what it only claimed until now is its own.
    ///
    /// # Errors
    /// There is no room for it, since known leafnodes have come meanwhile.
    pub fn prove(&mut self, now: Instant) -> Result<(), Refusal> {
        self.slot.prove(now).map_err(|_| Refusal::AccountLeafnodeQuota)
    }

    /// The same is so of the places of the fleet's lease: it counts there as open.
    pub fn opened(&mut self) {
        if let Some(lease) = self.slot.lease_mut() {
            lease.opened();
        }
    }

    /// Whether the fleet shares the quota.
    pub fn is_shared(&self) -> bool {
        self.slot.lease().is_some_and(Lease::is_shared)
    }

    /// See [`AccountSlot::may_go_on`](super::account::AccountSlot::may_go_on).
    pub fn may_go_on(&self, now: Instant) -> bool {
        self.slot.lease().is_none_or(|lease| lease.may_go_on(now))
    }
}

impl Account {
    /// How many leafnodes it may have: as configured, else as the cluster says. Those of whom no server has named the
    /// account are of many accounts: each is asked for its quota once a server has.
    pub(super) fn leafnode_quota(&self) -> Quota {
        let max_connections = if self.is_known() { self.max_leafnodes() } else { None };
        Quota { max_connections, rate: None, warn_only: self.only_warns() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::{
        admission::{
            AccountLimits,
            client::Claim,
            quota::{accounts::Accounts, sources::Source},
        },
        identity::{Credential, Keys, UNKNOWN_ACCOUNT},
    };

    fn accounts(max_leafnodes: Option<u32>) -> Accounts {
        let limits = AccountLimits { max_leafnodes, ..AccountLimits::default() };
        Accounts::new(limits, HashMap::new(), Arc::default())
    }

    fn claim(user: &str) -> Claim {
        let keys = Keys::default();
        let credential = Credential::User(user);
        Claim { source: Source::NOWHERE, credential: keys.credential(credential) }
    }

    #[test]
    fn each_account_has_its_own_places_and_gets_them_back() {
        let (accounts, quotas, now) = (accounts(Some(2)), LeafnodeQuotas::default(), Instant::now());
        let [a, b] = ["A", "B"].map(|name| accounts.of_name(name, now));
        let enter = |account: &Arc<Account>| quotas.enter(account, Proof::Known, now, &Warned::default());
        let first = enter(&a).unwrap();
        let _second = enter(&a).unwrap();
        assert_eq!(enter(&a).unwrap_err(), Refusal::AccountLeafnodeQuota);
        let of_other = enter(&b).unwrap();
        drop(first);
        let again = enter(&a).unwrap();
        assert!(enter(&a).is_err());
        drop((again, of_other, _second));
        quotas.sweep(now);
        assert!(quotas.is_empty());
    }

    #[test]
    fn a_limit_may_change_and_none_may_be_allowed() {
        let (accounts, quotas, now) = (accounts(None), LeafnodeQuotas::default(), Instant::now());
        let account = accounts.of_name("A", now);
        let enter = || quotas.enter(&account, Proof::Known, now, &Warned::default());
        let all: Vec<_> = (0..5).map(|_| enter().unwrap()).collect();
        let set = |max_leafnodes, warn_only| {
            let quota = Quota { warn_only, ..Quota::default() };
            let limits = AccountLimits { max_leafnodes, quota, ..AccountLimits::default() };
            accounts.set_limits(limits, HashMap::new(), now);
        };
        set(Some(6), false);
        let sixth = enter().unwrap();
        assert!(enter().is_err(), "those that came without a limit count");
        set(Some(0), false);
        drop((all, sixth));
        assert!(enter().is_err());
        set(Some(0), true);
        let warned = Warned::default();
        assert!(quotas.enter(&account, Proof::Known, now, &warned).is_ok());
        assert_eq!(warned.of(Refusal::AccountLeafnodeQuota), 1);
        // Nobody knows yet whose they are.
        set(Some(0), false);
        let unknown = accounts.of_name(UNKNOWN_ACCOUNT, now);
        assert!(quotas.enter(&unknown, Proof::Known, now, &Warned::default()).is_ok());
    }

    #[test]
    fn the_cluster_says_it_where_the_configuration_is_silent() {
        let (accounts, quotas, now) = (accounts(None), LeafnodeQuotas::default(), Instant::now());
        let account = accounts.of_name("A", now);
        accounts.limited_by_cluster("A", None, Some(1));
        let _one = quotas.enter(&account, Proof::Known, now, &Warned::default()).unwrap();
        assert!(quotas.enter(&account, Proof::Known, now, &Warned::default()).is_err());
        accounts.limited_by_cluster("A", None, None);
        assert!(quotas.enter(&account, Proof::Known, now, &Warned::default()).is_ok());
    }

    #[test]
    fn who_only_claims_the_account_keeps_nobody_out() {
        let (accounts, quotas, now) = (accounts(Some(1)), LeafnodeQuotas::default(), Instant::now());
        let account = accounts.of_name("A", now);
        let enter = |proof| quotas.enter(&account, proof, now, &Warned::default());
        let mut stranger = enter(Proof::Missing(claim("a"))).unwrap();
        assert!(enter(Proof::Missing(claim("b"))).is_err());
        let known = enter(Proof::Known).unwrap();
        assert!(stranger.is_displaced());
        assert_eq!(stranger.prove(now), Err(Refusal::AccountLeafnodeQuota));
        drop(stranger);
        assert!(enter(Proof::Known).is_err());
        drop(known);
        quotas.sweep(now);
        assert!(quotas.is_empty());
    }
}
