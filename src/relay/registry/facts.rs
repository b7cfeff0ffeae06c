//! What a session is known by: who the client is and where it comes from, and where it is connected.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use strum::IntoStaticStr;

use crate::{
    identity::ClientKey,
    net::stream::TlsInUse,
    protocol::s2::Mode,
    relay::registry::Said,
    telemetry::moment::Moment,
    upstream::{Server, ServerId},
};

/// The kinds of listeners, by the names that `kind` has in the configuration.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum ListenerKind {
    #[default]
    Client,
    #[strum(serialize = "websocket")]
    WebSocket,
    Passthrough,
    Leafnode,
}

/// A listener, as those name it who look at its sessions. Leafnodes that come through a WebSocket listener have it by
/// another name than its clients: of kind `Leafnode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerName {
    pub address: SocketAddr,
    pub kind: ListenerKind,
    /// Whether it speaks WebSocket.
    pub is_websocket: bool,
}

impl ListenerName {
    /// Its `kind` in the configuration.
    pub fn configured_kind(&self) -> ListenerKind {
        if self.is_websocket { ListenerKind::WebSocket } else { self.kind }
    }
}

/// Where a client comes from: what a `SocketAddr` says but for the zone of a link-local address, in 20 bytes and not
/// 32, since each session keeps one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddress {
    ip: IpAddr,
    port: u16,
}

impl PeerAddress {
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        Self { ip: address.ip(), port: address.port() }
    }
}

impl From<PeerAddress> for SocketAddr {
    fn from(PeerAddress { ip, port }: PeerAddress) -> Self {
        Self::new(ip, port)
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::from(*self).fmt(f)
    }
}

/// What does not change while a session lives.
#[derive(Debug)]
pub struct SessionFacts {
    /// weir's number of the connection, which no other has.
    pub id: u64,
    pub accepted: Moment,
    /// Where the client comes from: the connection's peer, or who a trusted proxy says it is.
    pub peer: PeerAddress,
    pub listener: Arc<ListenerName>,
    /// User, name, language and version, as the client said.
    pub said: Said,
    /// It has logged in with a token, which is a secret and names nobody.
    pub by_token: bool,
    pub tls: Option<TlsInUse>,
    /// How a leafnode and weir compress what they send, where both do.
    pub compression: Option<Mode>,
    /// By what weir recognises the client when it comes back; `None` where TLS is passed through.
    pub client: Option<ClientKey>,
}

/// Where a session is connected.
#[derive(Debug, Clone, Default)]
pub struct AtServer {
    /// Its server; for a client that did not get in the last one that it was sent to, if any.
    pub server: Option<Arc<Server>>,
    /// The server's number of the connection; 0 where the server has told none.
    pub client_id: u64,
}

impl AtServer {
    pub fn name(&self) -> Option<&str> {
        self.server.as_deref().map(Server::name)
    }

    pub fn server_id(&self) -> ServerId {
        self.server.as_ref().map_or(ServerId::from_raw(0), |server| server.id())
    }
}

impl Default for ListenerName {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            kind: ListenerKind::default(),
            is_websocket: false,
        }
    }
}

impl SessionFacts {
    /// The user as nats-server's monitoring shows it.
    pub fn user_as_shown(&self) -> Option<&str> {
        if self.by_token { Some("[REDACTED]") } else { self.said.user() }
    }
}

/// A session of nobody, for tests.
impl Default for SessionFacts {
    fn default() -> Self {
        Self {
            id: 0,
            accepted: Moment::default(),
            peer: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into(),
            listener: Arc::default(),
            said: Said::default(),
            by_token: false,
            tls: None,
            compression: None,
            client: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::registry::SessionHandle;

    /// With its counts of owners it is a class of sizes of jemalloc, 256 B; one byte more takes 320 B of each session.
    #[test]
    fn a_handle_is_not_larger_than_its_class_of_sizes() {
        assert!(size_of::<SessionHandle>() + 2 * size_of::<usize>() <= 256, "{}", size_of::<SessionHandle>());
    }

    #[test]
    fn kinds_are_those_of_the_configuration() {
        let kinds = [ListenerKind::Client, ListenerKind::WebSocket, ListenerKind::Passthrough, ListenerKind::Leafnode];
        assert_eq!(kinds.map(<&str>::from), ["client", "websocket", "passthrough", "leafnode"]);
    }
}
