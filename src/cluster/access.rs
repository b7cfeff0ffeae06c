//! How weir reaches the servers, apart from their addresses.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{cluster::system_account::SystemAccount, dial::ServerTls, tls::Connector};

/// How weir reaches the servers, apart from their addresses.
#[derive(Debug, Clone)]
pub struct ClusterAccess {
    /// The connection to the system account, if there is a login for it.
    pub system: Option<SystemAccount>,
    /// weir's own TLS towards the servers, if they want it.
    pub tls: Option<Arc<Connector>>,
    /// weir's TLS towards the servers' WebSocket ports, where those have it.
    pub websocket_tls: Option<Arc<Connector>>,
    /// What the servers' INFO means where weir has no TLS of its own. The listeners tell, which a reload may change.
    pub plain_info: Arc<ArcSwap<PlainInfo>>,
}

/// What a server sends to a connection without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainInfo {
    /// INFO, which must not ask for TLS.
    NoTls,
    /// INFO, which may ask for TLS: its clients do that through weir (passthrough).
    ThenClientTls,
    /// Nothing: the server waits for TLS, which only the clients do with it (passthrough, TLS first).
    NotSent,
}

impl ClusterAccess {
    /// How a server is dialled to read its INFO; `None` if weir cannot read it.
    pub(super) fn server_tls(&self) -> Option<ServerTls<'_>> {
        match (&self.tls, **self.plain_info.load()) {
            (Some(tls), _) => Some(ServerTls::Weir(tls)),
            (None, PlainInfo::NoTls) => Some(ServerTls::None),
            (None, PlainInfo::ThenClientTls) => Some(ServerTls::Client),
            (None, PlainInfo::NotSent) => None,
        }
    }
}
