//! The limit of open files, as connections take of it: new ones, clients, and those that are being refused.

use std::sync::Arc;

use crate::{
    admission::{Limit, Permit},
    net::accept::Pauses,
    session::connection_permit::ConnectionPermit,
};

/// The limit of open files, as far as clients are concerned.
#[derive(Debug)]
pub struct Descriptors {
    /// The clients of all listeners together.
    pub clients: Arc<Limit>,
    /// What there is beside them.
    spare: Arc<Limit>,
    /// Connections that have been accepted, and have not been looked at.
    pub new: Arc<Limit>,
    /// Clients that are being refused.
    pub refusing: Arc<Limit>,
    /// The listeners that cannot accept now.
    pub pauses: Arc<Pauses>,
}

impl Descriptors {
    /// For so many clients, and so many connections beside them.
    pub fn new(clients: u32, spare: u32) -> Self {
        let whole = Limit::new(spare);
        Self {
            clients: Limit::new(clients),
            new: Limit::within(spare / 2, Some(Arc::clone(&whole))),
            refusing: Limit::within(spare, Some(Arc::clone(&whole))),
            spare: whole,
            pauses: Arc::default(),
        }
    }

    /// There may be so many from now on.
    pub fn set(&self, clients: u32, spare: u32) {
        self.clients.set_most(clients);
        self.spare.set_most(spare);
        self.new.set_most(spare / 2);
        self.refusing.set_most(spare);
    }

    /// What a client is refused with that has this permit, or none, if there is anything.
    pub(super) fn to_refuse_with(&self, permit: Option<ConnectionPermit>) -> Option<Permit> {
        match permit {
            Some(ConnectionPermit::New(permit)) => self.refusing.exchange(permit).ok(),
            Some(ConnectionPermit::Refusal(permit)) => Some(permit),
            Some(ConnectionPermit::Client(_)) | None => self.refusing.try_acquire(),
        }
    }

    /// Whether none is left for one more client.
    pub fn are_used_up(&self) -> bool {
        self.pauses.any() || self.clients.is_full()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Connections of one source are refused in their own tasks. Until those run, a client beside them finds its place.
    #[test]
    fn connections_that_nobody_has_looked_at_take_no_clients_place() {
        let (descriptors, max_clients) = (Descriptors::new(2, 8), Limit::new(2));
        let new: Vec<_> = (0..4).map_while(|_| descriptors.new.try_acquire().map(ConnectionPermit::New)).collect();
        assert_eq!((new.len(), max_clients.in_use(), descriptors.are_used_up()), (4, 0, false));
        assert!(descriptors.new.try_acquire().is_none(), "half of what there is beside clients");
        let mut new = new.into_iter();
        let client = new.next().unwrap().into_client(&max_clients);
        assert!(matches!(client, ConnectionPermit::Client(_)));
        assert_eq!((descriptors.new.in_use(), max_clients.in_use()), (3, 1));
        let refused: Vec<_> = new.map(|new| descriptors.to_refuse_with(Some(new))).collect();
        assert!(refused.iter().all(Option::is_some), "each is told");
        assert_eq!((descriptors.new.in_use(), descriptors.refusing.in_use(), max_clients.in_use()), (0, 3, 1));
        drop((client, refused));
        assert_eq!((descriptors.spare.in_use(), max_clients.in_use()), (0, 0));
    }
}
