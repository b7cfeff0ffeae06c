//! What a connection takes of the limit of open files, from its accept on: the permit of one that is new, then that of
//! a client or one to be refused with. Without any, no further one is accepted.

use std::sync::Arc;

use crate::{
    admission::{Limit, Permit},
    outcome::Refusal,
    session::shared::Shared,
};

/// The place of one connection, given back on drop.
#[derive(Debug)]
pub enum ConnectionPermit {
    /// Nothing is known of it yet. Those of a source that has too many take no client's place while they are only new.
    New(Permit),
    /// Among the clients of its listener.
    Client(Permit),
    /// The listener, or the limit of open files, has room for no more: it is told so.
    Refusal(Permit),
}

impl ConnectionPermit {
    /// The permit of a client, or what it has instead.
    pub(super) fn split(self) -> (Option<Permit>, Option<Self>) {
        match self {
            Self::Client(permit) => (Some(permit), None),
            other => (None, Some(other)),
        }
    }

    /// The permit of a client of the listener if there is one, also if one has become free since the accept; else what
    /// it is refused with.
    pub(super) fn into_client(self, max_clients: &Arc<Limit>) -> Self {
        match self {
            Self::Client(permit) => Self::Client(permit),
            other => max_clients.try_acquire().map_or(other, Self::Client),
        }
    }
}

impl Shared {
    /// Whether a client that is refused for this reason is to be told at once: others need its descriptor to be
    /// refused with.
    pub(super) fn must_hurry(&self, reason: Refusal) -> bool {
        let is_at_accept =
            matches!(reason, Refusal::ListenerFull | Refusal::SourceQuota | Refusal::SourceLeafnodeQuota);
        is_at_accept && self.descriptors.refusing.in_use() >= self.descriptors.refusing.most() / 2
    }
}
