//! A connection of weir's own to a server, for the system account, the fleet or events. The server counts it as it
//! counts a client's, and so does weir: from before the dial, so that neither this weir nor its peers fill the server
//! meanwhile.

use std::sync::Arc;

use crate::{fleet::lease::allowance::LeasePlace, upstream::server::Server};

/// One connection of weir's own, given back on drop.
#[derive(Debug)]
pub struct OwnConnection {
    server: Arc<Server>,
    is_open: bool,
    /// What it has of this weir's lease, where weir is in a fleet. It goes after the connection has been given back.
    place: Option<LeasePlace>,
}

impl OwnConnection {
    /// Takes a connection of the server, whether one is free or not: the reserve is for this too.
    pub fn begin(server: &Arc<Server>) -> Self {
        let place = server.take_place_over();
        server.load().own_connection_begins();
        Self { server: Arc::clone(server), is_open: false, place }
    }

    /// The server has let weir in, so it counts the connection.
    pub fn opened(&mut self) {
        if !std::mem::replace(&mut self.is_open, true) {
            self.server.load().opened();
            self.place.iter_mut().for_each(LeasePlace::opened);
        }
    }
}

impl Drop for OwnConnection {
    fn drop(&mut self) {
        self.server.load().own_connection_ended(self.is_open);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::upstream::{Params, ServerParams, Servers, Slot};

    #[test]
    fn it_counts_from_before_the_dial_and_once_with_every_reading() {
        let params = ServerParams { max_connections: Some(3), ..ServerParams::bare("n1:4222") };
        let servers = Servers::new(&Params::bare(vec![params]));
        let (server, now) = (servers.iter().next().expect("one"), Instant::now());
        let load = server.load();
        let reading = |counted| {
            load.reconcile(load.begin_reading(now), now, counted);
            (load.projected(), load.held(), load.connections().own().held)
        };
        assert_eq!(reading(1), (1, 0, 0));
        let mut own = OwnConnection::begin(&server);
        assert_eq!((load.projected(), load.held(), load.connections().own().held), (2, 0, 1));
        // The server has seen it, or has not.
        assert_eq!(reading(1), (2, 0, 1));
        assert_eq!(reading(2), (2, 0, 1));
        own.opened();
        own.opened();
        assert_eq!((reading(2), load.connections().own().open), ((2, 0, 1), 1));
        let ceiling = load.ceiling() as usize;
        let slots: Vec<_> = std::iter::from_fn(|| Slot::reserve(&server, now)).take(10).collect();
        assert_eq!((slots.len(), load.projected() as usize), (ceiling - 2, ceiling), "no client gets its place");
        drop((own, slots));
        assert_eq!((reading(1), load.connections().own().open), ((1, 0, 0), 0));
    }
}
