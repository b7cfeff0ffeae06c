//! What a connection takes of the limit of open files, from its accept on: the permit of a client, or one to be refused
//! with. Without either, no further one is accepted.

use std::sync::Arc;

use crate::{
    admission::{Limit, Permit},
    net::accept::Pauses,
    outcome::Refusal,
    session::shared::Shared,
};

/// The place of one connection, given back on drop.
#[derive(Debug)]
pub enum ConnectionPermit {
    /// Among the clients of its listener.
    Client(Permit),
    /// The listener, or the limit of open files, has room for no more: it is told so.
    Refusal(Permit),
}

impl ConnectionPermit {
    /// The permit of a client, and the permit to be refused.
    pub(super) fn split(self) -> (Option<Permit>, Option<Permit>) {
        match self {
            Self::Client(permit) => (Some(permit), None),
            Self::Refusal(permit) => (None, Some(permit)),
        }
    }
}

/// The limit of open files, as far as clients are concerned.
#[derive(Debug, Default)]
pub struct Descriptors {
    /// The clients of all listeners together; `None` where their `max_clients` keeps them below what the limit carries.
    pub clients: Option<Arc<Limit>>,
    /// The listeners that cannot accept now.
    pub pauses: Arc<Pauses>,
}

impl Descriptors {
    /// Whether none is left for one more client.
    pub fn are_used_up(&self) -> bool {
        self.pauses.any() || self.clients.as_ref().is_some_and(|clients| clients.is_full())
    }
}

impl Shared {
    /// Whether a client that is refused for this reason is to be told at once: others need its descriptor to be
    /// refused with.
    pub(super) fn must_hurry(&self, reason: Refusal) -> bool {
        let is_at_accept = matches!(reason, Refusal::ListenerFull | Refusal::SourceQuota);
        is_at_accept && self.refusing.in_use() >= self.refusing.most() / 2
    }
}
