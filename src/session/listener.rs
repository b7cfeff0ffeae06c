//! Per-listener state that its sessions share: the INFO they show, the connection limit, timeouts, TLS and WebSocket
//! rules.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use ipnet::IpNet;

use crate::{
    admission::{BySource, Limit, SourcePermit},
    advertised_info::ListenerInfo,
    protocol::{s2::Mode, websocket::upgrade::Rules},
    relay::registry::ListenerName,
    session::{connection_permit::ConnectionPermit, shared::Shared},
    tls::{HandshakeFirst, Terminator},
    upstream::concurrency::baseline::BaselineLatency,
};

/// What the sessions of one listener share.
#[derive(Debug)]
pub struct Listener {
    /// Its address and kind.
    pub name: Arc<ListenerName>,
    /// The INFO that its clients see.
    pub info: Arc<ListenerInfo>,
    /// Its clients, at most `max_clients`.
    pub max_clients: Arc<Limit>,
    /// Connections of balancers and proxies that have not said yet whose they are, by peer.
    pub before_check: Arc<BySource>,
    /// From accept to CONNECT in all; `None` gives each step what nats-server gives it.
    pub handshake_timeout: Option<Duration>,
    /// Load balancers whose PROXY header is expected and believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether their connections may come without one.
    pub header_is_optional: bool,
    /// Where weir ends TLS itself.
    pub tls: Option<Arc<Terminator>>,
    /// Where clients speak WebSocket.
    pub websocket: Option<WebSocketListener>,
    /// Where TLS ends at the servers.
    pub passthrough: Option<PassthroughListener>,
    /// Where clients are nats-servers that connect as leafnodes.
    pub is_for_leafnodes: bool,
    /// Whether and how it compresses what its leafnodes read.
    pub compression: Mode,
}

impl Listener {
    /// Whether `peer` is a load balancer whose PROXY header is expected and believed.
    pub(super) fn trusts_proxy(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&peer))
    }

    /// The permit of a connection that has been accepted. `None` while there is not even one to be refused with.
    pub fn permit(&self, shared: &Shared) -> Option<ConnectionPermit> {
        let descriptors = &shared.descriptors;
        let client = || self.max_clients.try_acquire().map(ConnectionPermit::Client);
        descriptors
            .new
            .try_acquire()
            .map(ConnectionPermit::New)
            .or_else(client)
            .or_else(|| descriptors.refusing.try_acquire().map(ConnectionPermit::Refusal))
    }

    /// Counts a connection of which something is read before the accept check. Those of one peer are a part of the
    /// listener's: one of several balancers that are believed keeps no other out.
    pub(super) fn count_before_check(&self, peer: IpAddr) -> Option<SourcePermit> {
        let most = (self.max_clients.most() / PART_BEFORE_CHECK).max(FEW_BEFORE_CHECK);
        self.before_check.try_acquire(peer.into(), |_| most)
    }
}

/// Of the clients of a listener, this part may be connections of one peer that have not said yet whose they are.
const PART_BEFORE_CHECK: u32 = 4;
/// So many may be, however few clients the listener takes.
const FEW_BEFORE_CHECK: u32 = 16;

/// What the WebSocket clients of a listener share.
#[derive(Debug)]
pub struct WebSocketListener {
    /// Which requests may open a WebSocket, and which of their headers and cookies weir looks at.
    pub rules: Rules,
    /// Further header lines of the answer that opens one, each with its line end.
    pub headers: Box<str>,
    /// A client that is silent for so long is pinged.
    pub ping_interval: Option<Duration>,
    /// HTTP proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The same listener for leafnodes, where it takes those.
    pub leafnodes: Option<Arc<Listener>>,
}

impl WebSocketListener {
    /// Whether `peer` is an HTTP proxy whose `X-Forwarded-For` is believed.
    pub(super) fn trusts_proxy(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&peer))
    }
}

/// How a listener passes TLS through.
#[derive(Debug)]
pub struct PassthroughListener {
    /// When the servers expect TLS to begin.
    pub handshake_first: HandshakeFirst,
    /// What a login takes on a server that has no other.
    pub(super) baseline: Mutex<BaselineLatency>,
}

impl PassthroughListener {
    /// For servers that expect TLS then.
    pub fn new(handshake_first: HandshakeFirst) -> Self {
        Self { handshake_first, baseline: Mutex::default() }
    }
}
