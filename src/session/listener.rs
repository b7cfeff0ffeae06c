//! Per-listener state that its sessions share: the INFO they show, the connection limit, timeouts, TLS and WebSocket
//! rules.

use std::{net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;

use crate::{
    admission::{Limit, Permit},
    advertised_info::ListenerInfo,
    outcome::Refusal,
    protocol::websocket::upgrade::Rules,
    session::{context::End, passthrough::login::PassthroughListener, shared::Shared},
    tls::Terminator,
};

/// What the sessions of one listener share.
#[derive(Debug)]
pub struct Listener {
    /// The INFO that its clients see.
    pub info: Arc<ListenerInfo>,
    /// Its clients, at most `max_clients`.
    pub max_clients: Arc<Limit>,
    /// From accept to CONNECT.
    pub handshake_timeout: Duration,
    /// Load balancers whose PROXY header is expected and believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Where weir ends TLS itself.
    pub tls: Option<Arc<Terminator>>,
    /// Where clients speak WebSocket.
    pub websocket: Option<WebSocketListener>,
    /// Where TLS ends at the servers.
    pub passthrough: Option<PassthroughListener>,
}

impl Listener {
    /// Whether `peer` is a load balancer whose PROXY header is expected and believed.
    pub(super) fn trusts_proxy(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&peer))
    }

    /// Counts a connection of which something is read before the accept check.
    pub(super) fn count_before_check(&self, shared: &Shared) -> Result<Permit, End> {
        self.max_clients
            .try_acquire()
            .or_else(|| shared.refusing.try_acquire())
            .ok_or(End::Refused(Refusal::ListenerFull))
    }
}

/// What the WebSocket clients of a listener share.
#[derive(Debug)]
pub struct WebSocketListener {
    /// Which requests may open a WebSocket, and which of their headers and cookies weir looks at.
    pub rules: Rules,
    /// HTTP proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
}
