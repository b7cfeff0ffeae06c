//! The accept check. It knows the source of a connection only: nothing that the client has said of itself counts.

use std::{net::IpAddr, sync::Arc, time::Instant};

use crate::{
    admission::{
        controller::Admission,
        queue::waiting::Waiter,
        quota::{
            account::AccountSlot,
            limit::{Limit, Permit},
            sources::SourceSlots,
            users_and_names::QuotaIdentity,
        },
    },
    outcome::Refusal,
};

/// What a connection holds from the accept check on; given back on drop.
#[derive(Debug)]
pub struct AcceptPermit {
    _client: Permit,
    _source: SourceSlots,
    /// In observe mode, why it would have been refused. It counts for no source then.
    would_refuse: Option<Refusal>,
}

impl AcceptPermit {
    /// The client would have been refused by the connect check: it counts for no source either.
    pub fn becomes_extra(&mut self) {
        self._source = SourceSlots::default();
    }

    /// In observe mode, why the connection would have been refused.
    pub fn would_refuse(&self) -> Option<Refusal> {
        self.would_refuse
    }
}

impl<W: Waiter> Admission<W> {
    /// The verdict on a connection from this source, and whether it is one of a leafnode: takes a connection slot and a
    /// token of the source, and a permit of the `limit` of clients unless it has one already. Who is refused for its
    /// source takes no client's place, not even for a moment.
    ///
    /// # Errors
    /// The reason to refuse with; no slot is kept then.
    pub fn at_accept(
        &self,
        client: Option<Permit>,
        limit: &Arc<Limit>,
        source: (IpAddr, bool),
        now: Instant,
    ) -> Result<AcceptPermit, Refusal> {
        if self.is_draining() {
            return Err(Refusal::Draining);
        }
        if client.is_none() && limit.is_full() {
            return Err(Refusal::ListenerFull);
        }
        self.accept(|| client.or_else(|| limit.try_acquire()), source, now)
    }

    /// A connection that has been accepted is one of a leafnode: its HTTP request says so. It counts among those of its
    /// source, too.
    ///
    /// # Errors
    /// [`Refusal::SourceLeafnodeQuota`]; nothing is kept then.
    pub fn becomes_leafnode(
        &self,
        mut permit: AcceptPermit,
        source: IpAddr,
        now: Instant,
    ) -> Result<AcceptPermit, Refusal> {
        if permit.would_refuse.is_none()
            && let Err(reason) = self.sources.becomes_leafnode(&mut permit._source, source, now, &self.warned)
        {
            permit.would_refuse = Some(self.unless_observing(reason)?);
            permit.becomes_extra();
        }
        Ok(permit)
    }

    /// The same as at the accept for a client that a server has put into the system account: it counts over the
    /// `limit` too.
    ///
    /// # Errors
    /// The reason to refuse with; nothing is taken then.
    pub fn accept_operator(
        &self,
        limit: &Arc<Limit>,
        source: (IpAddr, bool),
        now: Instant,
    ) -> Result<AcceptPermit, Refusal> {
        self.accept(|| Some(limit.acquire_over()), source, now)
    }

    /// What a session holds that another process of weir has had until now: it counts over all limits.
    pub fn adopt_accepted(&self, limit: &Arc<Limit>, source: (IpAddr, bool), now: Instant) -> AcceptPermit {
        let source = self.sources.adopt(source, now);
        AcceptPermit { _client: limit.acquire_over(), _source: source, would_refuse: None }
    }

    /// What such a session holds of its account, and of the quotas by user and name.
    pub fn adopt_session(
        &self,
        account: &Arc<str>,
        quota_identity: &QuotaIdentity,
        is_leafnode: bool,
        now: Instant,
    ) -> AccountSlot {
        let other_quotas = self.users_and_names.adopt(quota_identity, now);
        let slot = self.accounts.adopt_session(account, now).with_other_quotas(other_quotas);
        if !is_leafnode {
            return slot;
        }
        let leafnode = self.leafnodes.adopt(slot.account(), now);
        slot.with_leafnode(leafnode)
    }

    fn accept(
        &self,
        client: impl FnOnce() -> Option<Permit>,
        source: (IpAddr, bool),
        now: Instant,
    ) -> Result<AcceptPermit, Refusal> {
        let (source, would_refuse) = match self.sources.enter(source, now, &self.warned) {
            Ok(source) => (source, None),
            Err(reason) => (SourceSlots::default(), Some(self.unless_observing(reason)?)),
        };
        let client = client().ok_or(Refusal::ListenerFull)?;
        Ok(AcceptPermit { _client: client, _source: source, would_refuse })
    }
}
