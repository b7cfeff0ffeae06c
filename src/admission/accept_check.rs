//! The accept check. It knows the source of a connection only: nothing that the client has said of itself counts.

use std::{net::IpAddr, sync::Arc, time::Instant};

use crate::{
    admission::{
        controller::Admission,
        queue::waiting::Waiter,
        quota::{
            by_key::KeySlot,
            limit::{Limit, Permit},
            sources::Source,
        },
    },
    outcome::Refusal,
};

/// What a connection holds from the accept check on; given back on drop.
#[derive(Debug)]
pub struct AcceptPermit {
    _client: Permit,
    /// `None` where sources are not limited, and so not counted. On the heap, since every session has one.
    _source: Option<Box<KeySlot<Source>>>,
}

impl<W: Waiter> Admission<W> {
    /// The verdict on a connection with its permit of the limit of clients, which it has taken at accept if there was
    /// one: takes a connection slot and a token of the source.
    ///
    /// # Errors
    /// The reason to refuse with; nothing is kept then.
    pub fn at_accept(&self, client: Option<Permit>, source: IpAddr, now: Instant) -> Result<AcceptPermit, Refusal> {
        if self.is_draining() {
            return Err(Refusal::Draining);
        }
        let client = client.ok_or(Refusal::ListenerFull)?;
        let source = self.sources.enter(source, now, &self.warned)?;
        Ok(AcceptPermit { _client: client, _source: source })
    }

    /// The same for a client that a server has put into the system account: it counts over the `limit` too.
    ///
    /// # Errors
    /// The reason to refuse with; nothing is taken then.
    pub fn accept_operator(&self, limit: &Arc<Limit>, source: IpAddr, now: Instant) -> Result<AcceptPermit, Refusal> {
        let source = self.sources.enter(source, now, &self.warned)?;
        Ok(AcceptPermit { _client: limit.acquire_over(), _source: source })
    }
}
