//! The port of a server for leafnodes: the configured one, else the one that the server's readings name.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Instant,
};

use arc_swap::ArcSwapOption;

use crate::upstream::{Servers, endpoint::Endpoint, params::Params, placement::Tier, server::Server};

/// The leafnodes of two servers may differ by one in so many without anybody waiting for the one that has fewer.
const ONE_IN: u32 = 32;

/// Where a server takes leafnodes.
#[derive(Debug)]
pub struct LeafnodePort {
    is_configured: bool,
    source_addresses: Vec<IpAddr>,
    endpoint: ArcSwapOption<Endpoint>,
    /// Whether the server's leafnodes count beside its connections.
    counts: AtomicBool,
    /// Leafnodes that come through weir, from their dial on.
    ours: AtomicU32,
    /// Of these, the ones that the server has let in.
    sessions: AtomicU32,
    /// The others, by the last reading.
    others: AtomicU32,
}

impl LeafnodePort {
    pub(super) fn new(configured: Option<String>, cluster: &Params) -> Self {
        let source_addresses = cluster.source_addresses.clone();
        let is_configured = configured.is_some();
        let endpoint = configured.map(|address| Arc::new(Endpoint::new(address, source_addresses.clone())));
        let [ours, sessions, others] = [(); 3].map(|()| AtomicU32::new(0));
        let (endpoint, counts) = (ArcSwapOption::new(endpoint), AtomicBool::new(false));
        Self { is_configured, source_addresses, endpoint, counts, ours, sessions, others }
    }

    /// The address, if it is known.
    pub fn endpoint(&self) -> Option<Arc<Endpoint>> {
        self.endpoint.load_full()
    }

    /// Whether the configuration names it.
    pub fn is_configured(&self) -> bool {
        self.is_configured
    }

    /// Whether leafnodes come through weir, so that the server's count is of both: its connections and its leafnodes.
    pub fn counts(&self) -> bool {
        self.counts.load(Relaxed)
    }

    /// The same, from the next reading on.
    pub(super) fn count(&self, count: bool) {
        self.counts.store(count, Relaxed);
    }

    /// A leafnode is about to be sent there.
    pub(super) fn begun(&self) {
        self.ours.fetch_add(1, Relaxed);
    }

    /// One has gone.
    pub(super) fn ended(&self) {
        self.ours.fetch_sub(1, Relaxed);
    }

    /// The server has let one in.
    pub(super) fn session_began(&self) {
        self.sessions.fetch_add(1, Relaxed);
    }

    /// One that it had let in has gone.
    pub(super) fn session_ended(&self) {
        self.sessions.fetch_sub(1, Relaxed);
    }

    /// Leafnodes that the server has let in through weir.
    pub fn sessions(&self) -> u32 {
        self.sessions.load(Relaxed)
    }

    /// Leafnodes that come through weir, from their dial on.
    pub fn ours(&self) -> u32 {
        self.ours.load(Relaxed)
    }

    /// All leafnodes that the server has, as far as is known.
    pub fn leafnodes(&self) -> u32 {
        self.ours().saturating_add(self.others.load(Relaxed))
    }

    /// The server counts so many leafnodes. Where some of weir's own are among them that it does not count yet, those
    /// of others are too few until the next reading: that makes servers uneven, and nothing else.
    pub(super) fn told_leafnodes(&self, counted: u32) {
        self.others.store(counted.saturating_sub(self.ours()), Relaxed);
    }

    /// A reading names this port, on the host of the server at `address`; `None` where it has none. What the
    /// configuration says stays.
    pub(super) fn told(&self, address: &str, port: Option<u16>) {
        if self.is_configured {
            return;
        }
        let told = port.and_then(|port| Some(format!("{}:{port}", address.rsplit_once(':')?.0)));
        let known = self.endpoint.load();
        if known.as_ref().map(|known| known.address()) != told.as_deref() {
            let endpoint = |address| Arc::new(Endpoint::new(address, self.source_addresses.clone()));
            self.endpoint.store(told.map(endpoint));
        }
    }
}

impl Servers {
    /// The server to which a leafnode should go that has a slot `at` another one: it takes leafnodes, has room, and has
    /// far fewer of them. Leafnodes stay for long and are few, so that shares of `max_connections` do not tell them
    /// apart.
    pub fn evener_for_leafnode(&self, at: &Server, now: Instant) -> Option<Arc<Server>> {
        let list = self.list();
        let takes = |server: &&Arc<Server>| {
            let view = server.view(now);
            view.tier == Tier::Eligible && view.projected < view.ceiling && server.takes_leafnodes(now)
        };
        let fewest = list.iter().filter(takes).min_by_key(|server| server.leafnode().leafnodes())?;
        let fewer = fewest.leafnode().leafnodes();
        // The leafnode itself is among those of its server.
        let is_even = at.leafnode().leafnodes() <= fewer.saturating_add(1).saturating_add(fewer / ONE_IN);
        (fewest.id() != at.id() && !(is_even && at.takes_leafnodes(now))).then(|| Arc::clone(fewest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Port, ServerParams, Slot};

    /// A hub that was away is the one with the fewest leafnodes once its port is to be tried again: else it would get
    /// none for ever, since only leafnodes try that port.
    #[test]
    fn a_port_that_did_not_answer_is_tried_by_the_next_leafnode_after_a_pause() {
        let params = |n| ServerParams {
            leafnode: Some(format!("n{n}:7422")),
            max_connections: Some(10),
            ..ServerParams::bare(format!("n{n}:4222"))
        };
        let servers = Servers::new(&Params::bare(vec![params(1), params(2)]));
        let [first, second] = &servers.iter().collect::<Vec<_>>()[..] else { panic!("two") };
        let now = Instant::now();
        let _leafnodes = [(); 4].map(|()| {
            let mut slot = Slot::over(first, now).expect("a slot");
            slot.for_leafnode();
            slot
        });
        let evener = |now| servers.evener_for_leafnode(first, now).map(|server| server.id());
        assert_eq!(evener(now), Some(second.id()));
        let pause = second.dial_failed(Port::Leafnode, now, &mut fastrand::Rng::with_seed(1)).expect("a pause");
        assert_eq!(evener(now), None);
        let later = now + pause;
        assert_eq!(evener(later), Some(second.id()));
        assert!(second.may_dial(Port::Leafnode, later));
        assert_eq!(evener(later), None, "one tries it");
        second.dial_answered_in(Port::Leafnode, std::time::Duration::ZERO);
        assert_eq!(evener(later), Some(second.id()));
    }

    fn address(port: &LeafnodePort) -> Option<String> {
        port.endpoint().map(|endpoint| endpoint.address().to_owned())
    }

    #[test]
    fn a_reading_names_it_where_the_configuration_does_not() {
        let cluster = Params::bare(Vec::new());
        let found = LeafnodePort::new(None, &cluster);
        assert_eq!(address(&found), None);
        found.told("n1.example.com:4222", Some(7422));
        assert_eq!(address(&found).as_deref(), Some("n1.example.com:7422"));
        let before = found.endpoint().unwrap();
        found.told("n1.example.com:4222", Some(7422));
        assert!(Arc::ptr_eq(&before, &found.endpoint().unwrap()), "what it resolved to stays known");
        found.told("[::1]:4222", Some(7423));
        assert_eq!(address(&found).as_deref(), Some("[::1]:7423"));
        found.told("[::1]:4222", None);
        assert_eq!(address(&found), None, "it takes none any more");
        let given = LeafnodePort::new(Some("10.0.0.1:7422".into()), &cluster);
        given.told("n1:4222", Some(1));
        assert_eq!(address(&given).as_deref(), Some("10.0.0.1:7422"));
    }
}
