//! weir's own dials of the servers' WebSocket ports.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::{
    advertised_info::AdvertisedInfo,
    cluster::own_dial::INFO_TIMEOUT,
    dial,
    net::timer,
    tls::Connector,
    upstream::{Port, Server, Slot},
};

/// Looks for the INFO of a server's WebSocket port.
#[derive(Debug, Default)]
pub(super) struct WebSocketProbe {
    has_warned: bool,
}

impl WebSocketProbe {
    /// Dials the port as [`OwnDial`](crate::cluster::own_dial::OwnDial) dials the client port. One that does not
    /// answer, or that belongs to another server, is told of once.
    pub(super) async fn learn_info(
        &mut self,
        server: &Arc<Server>,
        advertised_info: &AdvertisedInfo,
        tls: Option<&Connector>,
    ) {
        let Some(_slot) = Slot::reserve(server, timer::now()) else { return };
        let Some(address) = server.websocket().map(|port| port.endpoint.address()) else { return };
        match dial::dial_websocket(server, tls, None, Instant::now() + INFO_TIMEOUT).await {
            Ok(connection) => {
                let info = connection.info();
                advertised_info.learn_at(Port::WebSocket, server, info);
                info!(server = server.name(), address, version = info.version(), "WebSocket port found");
                self.has_warned = false;
                let client_port = advertised_info.server_id(server);
                if client_port.is_some_and(|id| id != info.server_id()) {
                    warn!(
                        server = server.name(),
                        address, "the WebSocket port is another server's: its readings and counts will be wrong"
                    );
                }
            }
            // The server itself is there.
            Err(err) if !self.has_warned && advertised_info.knows(server) => {
                self.has_warned = true;
                warn!(server = server.name(), address, %err, "no INFO from the WebSocket port");
            }
            Err(err) => debug!(server = server.name(), address, %err, "no INFO from the WebSocket port yet"),
        }
    }
}
