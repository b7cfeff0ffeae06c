//! Servers that come and go while weir runs.
//!
//! A server that is removed leaves as one that is drained does: it gets no clients, and its sessions end one after
//! another. It is forgotten with the last of them, and with all that was counted of it.

use std::sync::{Arc, MutexGuard, PoisonError, atomic::Ordering::Relaxed};

use crate::upstream::{
    Servers,
    id::ServerId,
    params::ServerParams,
    server::{Server, drain::Drain},
};

/// What has become of a request to drain a server, to undrain it or to remove it.
#[derive(Debug, Clone)]
pub enum Drained {
    /// It is done.
    Done(Arc<Server>),
    /// It was so before.
    Already(Arc<Server>),
    /// There is no such server, or it has been removed.
    Unknown,
}

impl Servers {
    /// Adds a server, with an id that no server had before. It gets clients from now on: without a reading or an INFO
    /// it is used as a server is right after weir's start.
    pub fn add(&self, params: ServerParams) -> Arc<Server> {
        let mut next_id = self.changing();
        let id = *next_id;
        *next_id = id.next();
        let server = Server::new(
            id,
            params,
            &self.params,
            self.origin.clone(),
            (Arc::clone(&self.listed), Arc::clone(&self.fleet)),
        );
        let server = Arc::new(server);
        server.leafnode().count(self.counts_leafnodes.load(Relaxed));
        server.use_only_websocket(self.only_websocket.load(Relaxed));
        let mut list = (**self.list.load()).clone();
        list.push(Arc::clone(&server));
        self.swap(list);
        server
    }

    fn changing(&self) -> MutexGuard<'_, ServerId> {
        // The list is swapped whole, so a panic elsewhere while it was locked spoils nothing.
        self.next_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn swap(&self, list: Vec<Arc<Server>>) {
        self.listed.store(list.len(), Relaxed);
        self.list.store(Arc::new(list));
    }

    /// Takes over what can change of a server without another connection to it: name, monitoring URL, and cap. The
    /// address, the WebSocket port and the leafnode port stay: a server at another address is another one. Returns the
    /// server and whether it is to be read elsewhere from now on, so that its watchers begin anew; `None` if it has
    /// gone.
    pub fn update(&self, id: ServerId, params: &ServerParams) -> Option<(Arc<Server>, bool)> {
        let _changing = self.changing();
        let server = self.get(id)?;
        let is_read_elsewhere = server.take_over(params);
        Some((server, is_read_elsewhere))
    }

    /// Gives a server no more clients until it is undrained. The caller ends its sessions.
    pub fn drain(&self, id: ServerId) -> Drained {
        self.set_drain(id, Drain::Drained)
    }

    /// Gives a server that was drained its share of new clients again.
    pub fn undrain(&self, id: ServerId) -> Drained {
        self.set_drain(id, Drain::Off)
    }

    /// Gives a server no more clients for good. The caller ends its sessions, and then calls [`Servers::forget`].
    pub fn remove(&self, id: ServerId) -> Drained {
        self.set_drain(id, Drain::Leaves)
    }

    fn set_drain(&self, id: ServerId, drain: Drain) -> Drained {
        let Some(server) = self.get(id) else { return Drained::Unknown };
        match server.set_drain(drain) {
            true => Drained::Done(server),
            false if server.drain() == Drain::Leaves && drain != Drain::Leaves => Drained::Unknown,
            false => Drained::Already(server),
        }
    }

    /// Forgets a server that has been removed, once nobody has a slot of it any more. Returns whether it is gone.
    pub fn forget(&self, id: ServerId) -> bool {
        let _changing = self.changing();
        let Some(server) = self.get(id) else { return true };
        if server.drain() != Drain::Leaves || server.load().held() > 0 {
            return false;
        }
        let list: Vec<_> = self.list.load().iter().filter(|one| one.id() != id).cloned().collect();
        self.swap(list);
        self.forgotten.fetch_add(1, Relaxed);
        true
    }

    /// How many servers have been forgotten so far: whoever keeps something by server sees by it when to look.
    pub fn forgotten(&self) -> u64 {
        self.forgotten.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::upstream::{Params, Placement, Slot, Urgency, placement::Tier};

    fn params(name: &str) -> ServerParams {
        ServerParams {
            name: Some(name.into()),
            max_connections: Some(100),
            ..ServerParams::bare(format!("{name}:4222"))
        }
    }

    fn servers(names: &[&str]) -> Servers {
        Servers::new(&Params::bare(names.iter().map(|name| params(name)).collect()))
    }

    fn place(servers: &Servers) -> Option<Slot> {
        let mut rng = fastrand::Rng::with_seed(1);
        match servers.place(Instant::now(), &[], Urgency::Urgent, &mut rng) {
            Placement::Placed(slot) => Some(slot),
            Placement::Busy | Placement::Full => None,
        }
    }

    fn ids(servers: &Servers) -> Vec<usize> {
        servers.iter().map(|server| server.id().number()).collect()
    }

    #[test]
    fn an_id_is_never_used_again() {
        let servers = servers(&["n1", "n2"]);
        assert_eq!(ids(&servers), [0, 1]);
        let [first, _] = [0, 1].map(|n| servers.list()[n].id());
        assert!(matches!(servers.remove(first), Drained::Done(_)));
        assert!(servers.forget(first));
        let again = servers.add(params("n1"));
        assert_eq!((ids(&servers), again.id().number(), servers.len(), servers.forgotten()), (vec![1, 2], 2, 2, 1));
        assert!(servers.get(first).is_none());
        assert!(matches!(servers.drain(first), Drained::Unknown));
    }

    #[test]
    fn a_drained_server_gets_no_client_until_it_is_undrained() {
        let servers = servers(&["n1", "n2"]);
        let [drained, other] = [0, 1].map(|n| Arc::clone(&servers.list()[n]));
        assert!(matches!(servers.drain(drained.id()), Drained::Done(_)));
        assert!(matches!(servers.drain(drained.id()), Drained::Already(_)));
        let now = Instant::now();
        assert_eq!((drained.view(now).tier, drained.is_stranger()), (Tier::Excluded, false));
        assert!(Slot::reserve(&drained, now).is_none(), "whoever has chosen it before is too late");
        assert!(!drained.is_reachable(now));
        let slots: Vec<_> = (0..20)
            .map(|_| {
                let mut slot = place(&servers).unwrap();
                slot.session_began();
                slot
            })
            .collect();
        assert!(slots.iter().all(|slot| slot.server().id() == other.id()));
        assert!(matches!(servers.undrain(drained.id()), Drained::Done(_)));
        assert_eq!(place(&servers).unwrap().server().id(), drained.id(), "it is the emptiest");
        servers.drain(other.id());
        servers.drain(drained.id());
        assert!(place(&servers).is_none() && servers.can_use_none(now));
    }

    #[test]
    fn a_removed_server_is_forgotten_with_its_last_slot() {
        let servers = servers(&["n1"]);
        let mut slot = place(&servers).unwrap();
        slot.session_began();
        let id = slot.server().id();
        assert!(!servers.forget(id), "nobody has removed it");
        servers.remove(id);
        assert!(!servers.forget(id) && servers.len() == 1);
        assert!(matches!(servers.undrain(id), Drained::Unknown), "that is final");
        drop(slot);
        assert!(servers.forget(id) && servers.is_empty());
    }

    #[test]
    fn another_name_cap_and_monitor_are_taken_over() {
        let servers = servers(&["n1"]);
        let id = servers.list()[0].id();
        let new = ServerParams { max_connections: Some(7), ..params("n2") };
        let (server, is_read_elsewhere) = servers.update(id, &new).unwrap();
        assert_eq!((server.name(), server.load().capacity(), is_read_elsewhere), ("n2", 7, false));
        let monitor = Some("http://n1:8222".to_owned());
        let (server, is_read_elsewhere) = servers.update(id, &ServerParams { monitor, ..new }).unwrap();
        assert!(is_read_elsewhere && server.has_readings());
        assert!(!server.is_up(Instant::now() + Duration::from_secs(1)), "it has no reading yet");
    }
}
