//! What servers are called in a text for another process: by their addresses. Their ids and their order are its own.

use std::collections::HashMap;

use crate::upstream::{Servers, id::ServerId};

/// The servers of one moment, by id and by address.
#[derive(Debug, Default)]
pub struct Addresses {
    by_id: HashMap<ServerId, String>,
    by_address: HashMap<String, ServerId>,
}

impl Addresses {
    /// The address of a server, unless it has gone.
    pub fn of(&self, id: ServerId) -> Option<&str> {
        self.by_id.get(&id).map(String::as_str)
    }

    /// The server at an address, if there is one.
    pub fn id(&self, address: &str) -> Option<ServerId> {
        self.by_address.get(address).copied()
    }
}

impl FromIterator<(ServerId, String)> for Addresses {
    fn from_iter<T: IntoIterator<Item = (ServerId, String)>>(servers: T) -> Self {
        let by_id: HashMap<_, _> = servers.into_iter().collect();
        let by_address = by_id.iter().map(|(id, address)| (address.clone(), *id)).collect();
        Self { by_id, by_address }
    }
}

impl Servers {
    /// The servers by their addresses.
    pub fn addresses(&self) -> Addresses {
        self.list().iter().map(|server| (server.id(), server.address().to_owned())).collect()
    }
}
