//! Leafnodes of an account. Each counts as a connection, as at nats-server. What the cluster says of connections
//! (`conn` of the account's JWT) keeps clients out and no leafnode, for which it has a limit of its own (`leaf`); what
//! the configuration says keeps out both.

use std::{sync::Arc, time::Instant};

use super::{Account, AccountSlot, LeafnodeSlot, Lease, Proof, QuotaReached, Refusal, Relaxed};

impl Account {
    /// The most leafnodes it may have: as configured, else as the cluster says.
    pub(in crate::admission::quota) fn max_leafnodes(&self) -> Option<u32> {
        let by_cluster = || Some(self.leafnodes_by_cluster.load(Relaxed)).filter(|most| *most != u32::MAX);
        self.limits.max_leafnodes().or_else(by_cluster)
    }

    /// Whether its limits only warn.
    pub(in crate::admission::quota) fn only_warns(&self) -> bool {
        self.limits.quota.warn_only()
    }

    /// A leafnode of it has asked for a place.
    pub(in crate::admission::quota) fn has_leafnode(&self) {
        self.had_leafnode.store(true, Relaxed);
    }

    /// Whether the cluster is to be asked for its limits: the configuration has none of what it is in use for.
    pub(in crate::admission::quota) fn asks_cluster(&self) -> bool {
        let asks_for_leafnodes = self.had_leafnode.load(Relaxed) && self.limits.max_leafnodes().is_none();
        !self.has_configured_limit() || asks_for_leafnodes
    }

    /// Counts the connection of a leafnode beyond the limit that the cluster has told, which is for clients only.
    ///
    /// # Errors
    /// [`QuotaReached`]: the configuration has the limit. Nothing is taken then.
    pub(in crate::admission::quota) fn enter_leafnode(
        self: &Arc<Self>,
        proof: Proof,
    ) -> Result<AccountSlot, QuotaReached> {
        if self.has_configured_limit() {
            return Err(QuotaReached);
        }
        let claim = proof.missing();
        match claim {
            Some(claim) => self.unproven.enter(claim, || self.connections.reserve(u32::MAX)),
            None => self.connections.reserve(u32::MAX),
        };
        let mut slot = AccountSlot::of_client(self, proof);
        slot.claim = claim.map(Box::new);
        slot.lease = self.allowance.get().map(|allowance| Box::new(Lease::Held(allowance.take_over())));
        Ok(slot)
    }
}

impl AccountSlot {
    /// Holds a place among the leafnodes of its account too.
    pub fn with_leafnode(mut self, leafnode: LeafnodeSlot) -> Self {
        self.leafnode = Some(Box::new(leafnode));
        self
    }

    /// Whether it is a leafnode's.
    pub fn is_of_leafnode(&self) -> bool {
        self.leafnode.is_some()
    }

    /// Whether the limit of its account's connections holds for it.
    pub(super) fn is_bounded(&self) -> bool {
        !self.is_of_leafnode() || self.account.has_configured_limit()
    }

    pub(super) fn displaced_leafnode(&self) -> Option<Refusal> {
        self.leafnode.as_ref().filter(|leafnode| leafnode.is_displaced()).map(|_| Refusal::AccountLeafnodeQuota)
    }

    pub(super) fn prove_leafnode(&mut self, now: Instant) -> Result<(), Refusal> {
        self.leafnode.as_mut().map_or(Ok(()), |leafnode| leafnode.prove(now))
    }

    pub(super) fn leafnode_may_go_on(&self, now: Instant) -> Result<(), Refusal> {
        let may = self.leafnode.as_ref().is_none_or(|leafnode| leafnode.may_go_on(now));
        if may { Ok(()) } else { Err(Refusal::AccountLeafnodeQuota) }
    }
}
