//! An account whose quota the weirs of a fleet share: its clients take a place of this weir's lease, or wait for one.

use std::{sync::Arc, time::Instant};

use super::{Account, AccountSlot, Allowance, Lease, LeaseBook, Proof, QuotaReached, Relaxed, SlotState};
use crate::{fleet::key::Kind, outcome::Refusal};

impl Account {
    /// From now on the fleet shares its quota. To be called before it has connections.
    pub(in crate::admission::quota) fn join(&self, book: &LeaseBook) {
        if !self.is_nobody {
            let allowance = book.allowance(Kind::Account, &self.name, self.shared_quota());
            let _ = self.allowance.set(allowance);
        }
    }

    /// The quota that the fleet shares: one that does more than warn.
    fn shared_quota(&self) -> Option<u32> {
        let is_shared = self.is_limited() && !self.limits.quota.warn_only();
        is_shared.then(|| self.max_connections())
    }

    /// The quota is another one by now.
    pub(in crate::admission::quota) fn share_quota(&self) {
        if let Some(allowance) = self.allowance.get() {
            allowance.set_quota(self.shared_quota());
        }
    }

    /// What this weir may have of its quota, where the fleet shares it.
    pub fn allowance(&self) -> Option<&Arc<Allowance>> {
        self.allowance.get()
    }

    /// Takes a connection slot within the lease. Unlike without a fleet, clients that are known do not take the places
    /// of others: both could be at the servers for a moment, and be one too many for the fleet.
    pub(super) fn enter_leased(
        self: &Arc<Self>,
        allowance: &Arc<Allowance>,
        proof: Proof,
        now: Instant,
    ) -> Result<AccountSlot, QuotaReached> {
        let place = allowance.take(now).ok_or(QuotaReached)?;
        // By the split, what the servers count is all that is known of others.
        let most = if allowance.is_by_floor(now) { self.most_in_all() } else { u32::MAX };
        let claim = proof.missing().filter(|_| self.is_limited() || self.has_rate());
        let is_entered = match claim {
            Some(claim) => self.unproven.enter(claim, || self.connections.reserve(most)),
            None => self.connections.reserve(most),
        };
        if !is_entered {
            return Err(QuotaReached);
        }
        if allowance.quota().is_none() && self.connections.total() > self.most_in_all() {
            self.warned.note(Refusal::AccountQuota);
        }
        let mut slot = AccountSlot::of_client(self, proof);
        slot.claim = claim.map(Box::new);
        slot.lease = Some(Box::new(Lease::Held(place)));
        Ok(slot)
    }

    /// Whether clients wait for a place of its lease.
    pub(in crate::admission::quota) fn is_waited_for(&self) -> bool {
        self.allowance.get().is_some_and(|allowance| allowance.is_waited_for())
    }

    /// A slot for a client that waits for a place of the lease; `None` where that is in vain, or there is no lease.
    pub(in crate::admission::quota) fn wait_for_lease(
        self: &Arc<Self>,
        proof: Proof,
        now: Instant,
    ) -> Option<AccountSlot> {
        let wait = self.allowance.get()?.wait(now)?;
        let mut slot = AccountSlot::of_client(self, proof);
        slot.claim = proof.missing().map(Box::new);
        slot.lease = Some(Box::new(Lease::Waits(wait)));
        Some(slot)
    }

    /// Counts a session that another process of weir has had until now, whatever the quota is.
    pub(in crate::admission::quota) fn adopt_session(self: &Arc<Self>) -> AccountSlot {
        self.connections.adopt();
        self.had_session.store(true, Relaxed);
        let mut slot = AccountSlot::new(self);
        slot.state = SlotState::Session;
        slot.lease = self.allowance.get().map(|allowance| Box::new(Lease::Held(allowance.take_over())));
        slot.lease_opened();
        slot
    }

    /// Counts a connection whatever the quota is.
    pub(in crate::admission::quota) fn enter_over(self: &Arc<Self>) -> AccountSlot {
        self.connections.reserve(u32::MAX);
        let mut slot = AccountSlot::new(self);
        slot.lease = self.allowance.get().map(|allowance| Box::new(Lease::Held(allowance.take_over())));
        slot
    }
}

impl AccountSlot {
    /// Whether its connection counts in its account: not while it waits for a place of a lease.
    pub(super) fn is_counted(&self) -> bool {
        !self.is_of_move && !self.awaits_place()
    }

    fn awaits_place(&self) -> bool {
        self.lease.as_deref().is_some_and(Lease::waits)
    }

    /// The quota of whose lease it waits for a place.
    pub fn waits_for(&self) -> Option<Refusal> {
        if self.awaits_place() { Some(Refusal::AccountQuota) } else { self.other_quotas.waits_for() }
    }

    /// Whether what it waits for will not come.
    pub fn waits_in_vain(&self) -> bool {
        self.lease.as_deref().is_some_and(Lease::waits_in_vain) || self.other_quotas.waits_in_vain()
    }

    /// Whether it waits for no place of a lease, or only for such as are free now.
    pub fn has_places_or_room(&self, now: Instant) -> bool {
        self.lease.as_deref().is_none_or(|lease| lease.has_place_or_room(now))
            && self.other_quotas.has_places_or_room(now)
    }

    /// Takes the places of leases that it waits for: all of them, or none and `false`.
    pub fn take_places(&mut self, now: Instant) -> bool {
        if !self.awaits_place() {
            return self.other_quotas.take_places(now);
        }
        let account = Arc::clone(&self.account);
        let Some(allowance) = account.allowance.get() else { return true };
        let proof = self.claim.as_deref().map_or(Proof::Known, |claim| Proof::Missing(*claim));
        let Ok(mut entered) = account.enter_leased(allowance, proof, now) else { return false };
        if !self.other_quotas.take_places(now) {
            return false;
        }
        // What was entered stays, and the slot that was made for it goes with the wish: it counts for nothing.
        std::mem::swap(&mut self.lease, &mut entered.lease);
        self.claim = entered.claim.take();
        true
    }

    /// Whether the fleet shares a quota that it counts for, so that [`AccountSlot::may_go_on`] has to be asked.
    pub fn is_shared(&self) -> bool {
        self.lease.as_deref().is_some_and(Lease::is_shared)
            || self.leafnode.as_ref().is_some_and(|leafnode| leafnode.is_shared())
            || self.other_quotas.is_shared()
    }

    /// Asked once the server is connected, before it is told whose connection it is: whether this weir's leases still
    /// have the place.
    ///
    /// # Errors
    /// The quota whose lease has none any more, since weir was stopped or cut off meanwhile.
    pub fn may_go_on(&self, now: Instant) -> Result<(), Refusal> {
        self.leafnode_may_go_on(now)?;
        match self.lease.as_deref() {
            Some(lease) if self.is_bounded() && !lease.may_go_on(now) => Err(Refusal::AccountQuota),
            _ => self.other_quotas.may_go_on(now),
        }
    }

    pub(super) fn lease_opened(&mut self) {
        if let Some(lease) = self.lease.as_deref_mut() {
            lease.opened();
        }
        if let Some(leafnode) = &mut self.leafnode {
            leafnode.opened();
        }
        self.other_quotas.opened();
    }

    /// It counts in no quota any more.
    pub(super) fn leaves_lease(&mut self) {
        if self.is_counted() {
            self.lease = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Duration};

    use super::*;
    use crate::{
        admission::{
            Source,
            client::Claim,
            params::{AccountLimits, Quota},
            quota::accounts::Accounts,
        },
        fleet::{key::Keys, lease::allowance::Standing},
        identity::{Credential, Keys as Credentials},
    };

    struct Test {
        accounts: Accounts,
        book: Arc<LeaseBook>,
        now: Instant,
    }

    impl Test {
        fn new() -> Self {
            let now = Instant::now();
            let book = LeaseBook::new(Keys::of_fleet("edge"), Standing::new(now));
            let quota = Quota { max_connections: Some(10), ..Quota::default() };
            let limits = AccountLimits { quota, ..AccountLimits::default() };
            let accounts = Accounts::new(limits, HashMap::new(), Arc::default());
            accounts.share_quotas(Arc::clone(&book));
            Self { accounts, book, now }
        }

        fn enter(&self, proof: Proof) -> Result<AccountSlot, QuotaReached> {
            self.accounts.enter_or_wait(&"A".into(), proof, self.now)
        }

        fn grant(&self, lease: u32) {
            self.book.grant(Kind::Account, "A", lease, self.now + Duration::from_secs(1));
        }

        fn held(&self) -> u32 {
            let account = self.accounts.find(&"A".into()).unwrap();
            let held = account.allowance().unwrap().usage().held;
            assert_eq!(account.connections.held(), held, "both count the same");
            held
        }
    }

    fn stranger() -> Proof {
        let credential = Credentials::default().credential(Credential::User("x"));
        Proof::Missing(Claim { source: Source::NOWHERE, credential })
    }

    #[test]
    fn who_finds_no_place_waits_and_counts_in_nothing_until_it_has_one() {
        let test = Test::new();
        let mut waiting: Vec<_> =
            [Proof::Known, stranger(), Proof::Known].map(|proof| test.enter(proof).unwrap()).into();
        assert_eq!(test.held(), 0);
        assert!(waiting.iter_mut().all(|slot| slot.waits_for() == Some(Refusal::AccountQuota)));
        assert!(waiting.iter_mut().all(|slot| !slot.take_places(test.now)), "there is no lease yet");
        test.grant(2);
        let has: Vec<bool> = waiting.iter_mut().map(|slot| slot.take_places(test.now)).collect();
        assert_eq!((has, test.held()), (vec![true, true, false], 2));
        assert!(!waiting[1].is_known() && waiting[1].waits_for().is_none());
        waiting[1].prove(test.now).unwrap();
        waiting[0].session_began();
        drop(waiting.remove(0));
        assert!(waiting[1].take_places(test.now), "one has gone");
        assert_eq!(test.held(), 2);
        test.book.in_vain(Kind::Account, "A", true);
        assert!(test.enter(Proof::Known).is_err(), "nobody will give back");
        drop(waiting);
        assert_eq!(test.held(), 0);
        assert_eq!(test.accounts.find(&"A".into()).unwrap().allowance().unwrap().usage().waiting, 0);
    }

    #[test]
    fn nobody_goes_on_to_a_server_once_the_lease_is_not_in_force() {
        let mut test = Test::new();
        let waits = test.enter(Proof::Known).unwrap();
        assert_eq!(waits.may_go_on(test.now), Err(Refusal::AccountQuota), "it has no place");
        test.grant(1);
        let mut slot = test.enter(Proof::Known).unwrap();
        assert_eq!(slot.may_go_on(test.now), Err(Refusal::AccountQuota), "somebody came before it");
        assert!(slot.take_places(test.now));
        assert_eq!(slot.may_go_on(test.now), Ok(()));
        test.now += Duration::from_secs(1);
        assert_eq!(slot.may_go_on(test.now), Err(Refusal::AccountQuota));
        let over = test.accounts.enter_anyway(&"A".into(), test.now);
        assert_eq!(test.held(), 2);
        drop((slot, over));
        assert_eq!(test.held(), 0);
    }

    #[test]
    fn an_account_without_a_quota_needs_no_lease_until_it_has_one() {
        let test = Test::new();
        let free = AccountLimits::default();
        test.accounts.set_limits(free, HashMap::new(), test.now);
        let held: Vec<_> = (0..20).map(|_| test.enter(Proof::Known).unwrap()).collect();
        assert!(held.iter().all(|slot| slot.waits_for().is_none() && !slot.is_shared()));
        let quota = Quota { max_connections: Some(10), ..Quota::default() };
        test.accounts.set_limits(AccountLimits { quota, ..free }, HashMap::new(), test.now);
        test.grant(10);
        assert!(held[0].is_shared() && test.enter(Proof::Known).unwrap().waits_for().is_some(), "all were counted");
        assert_eq!(test.held(), 20);
    }
}
