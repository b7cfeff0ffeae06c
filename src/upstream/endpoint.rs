//! Where a server is, and which of weir's own addresses connect to it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;

/// The ports of a server to which weir connects for clients. A server judges its clients by the port that they use
/// (`allowed_connection_types`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    Client,
    WebSocket,
}

/// The address of one port of a server.
#[derive(Debug)]
pub struct Endpoint {
    /// `host:port`.
    address: String,
    /// What the address last resolved to.
    resolved: ArcSwap<Vec<SocketAddr>>,
    /// Addresses of this machine to connect from, in turn.
    sources: Vec<IpAddr>,
    next_source: AtomicUsize,
}

impl Endpoint {
    pub fn new(address: String, sources: Vec<IpAddr>) -> Self {
        let resolved = ArcSwap::from_pointee(address.parse().into_iter().collect());
        Self { address, resolved, sources, next_source: AtomicUsize::new(0) }
    }

    /// `host:port`, as configured.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What the address last resolved to; empty before the first look-up.
    pub fn resolved(&self) -> Arc<Vec<SocketAddr>> {
        self.resolved.load_full()
    }

    /// Stores what the address resolves to now.
    pub fn set_resolved(&self, addresses: Vec<SocketAddr>) {
        if **self.resolved.load() != addresses {
            self.resolved.store(Arc::new(addresses));
        }
    }

    /// The addresses of this machine from which `to` may be connected, another one first at each call; none if the
    /// kernel is to choose.
    pub fn sources(&self, to: SocketAddr) -> impl Iterator<Item = IpAddr> + use<'_> {
        let first =
            if self.sources.is_empty() { 0 } else { self.next_source.fetch_add(1, Relaxed) % self.sources.len() };
        let (later, sooner) = self.sources.split_at(first);
        sooner.iter().chain(later).copied().filter(move |from| from.is_ipv4() == to.is_ipv4())
    }
}
