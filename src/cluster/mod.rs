//! What weir learns from the servers: a reading of each at an interval, over the cluster's system account or its
//! monitoring port; its INFO until that is known; the accounts' limits and counts; and lame duck mode.

mod access;
mod account_events;
pub mod account_lookup;
pub mod accounts;
mod error;
mod http_client;
mod lame_ducks;
mod poller;
pub mod system_account;
mod varz;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::lookup_host,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    advertised_info::AdvertisedInfo,
    cluster::{http_client::MonitorClient, poller::Poller},
    dial::{self, ServerTls},
    net::timer,
    protocol::proxy_header,
    tls::Connector,
    upstream::{Compatibility, Port, Server, Slot},
};

pub use self::{
    access::{ClusterAccess, PlainInfo},
    lame_ducks::watch_lame_ducks,
};

/// How long a server may take to send its INFO.
const INFO_TIMEOUT: Duration = Duration::from_secs(2);

/// Watches one server until `stop`: its address, its readings if there is a way to read it, and its INFO.
pub async fn watch(
    server: Arc<Server>,
    advertised_info: Arc<AdvertisedInfo>,
    interval: Duration,
    warn_at: f64,
    compatibility: Compatibility,
    access: ClusterAccess,
    stop: CancellationToken,
) {
    let watching = async {
        let monitor = server.monitor().map(|url| MonitorClient::new(url, access.tls.clone()));
        let mut poller = Poller::new(access.system.clone(), monitor);
        let mut near_full = false;
        let mut websocket = WebSocketProbe::default();
        loop {
            resolve(&server).await;
            let restarted = poller.poll(&server, &advertised_info, interval).await;
            if let Some(tls) = access.server_tls()
                && (restarted || !advertised_info.knows(server.index()) || poller.may_have_new_id(&server))
            {
                learn_info(&server, &advertised_info, tls, compatibility).await;
            }
            let knows_websocket = || advertised_info.knows_of(Port::WebSocket, server.index());
            if server.websocket().is_some() && (restarted || !knows_websocket()) {
                websocket.learn_info(&server, &advertised_info, access.websocket_tls.as_deref()).await;
            }
            warn_when_near_full(&server, warn_at, &mut near_full);
            // Jittered, so that several weirs do not poll in step.
            sleep(interval.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
        }
    };
    tokio::select! {
        () = watching => {}
        () = stop.cancelled() => {}
    }
}

/// Resolves the server's names again, so that dials need not: a look-up takes a thread, and a storm would take many.
async fn resolve(server: &Server) {
    for endpoint in [server.endpoint()].into_iter().chain(server.websocket().map(|port| &port.endpoint)) {
        if endpoint.address().parse::<SocketAddr>().is_ok() {
            continue;
        }
        // A name that does not resolve now keeps its last addresses.
        if let Ok(addresses) = lookup_host(endpoint.address()).await {
            endpoint.set_resolved(addresses.collect());
        }
    }
}

/// Reads a server's INFO by connecting and leaving again. That takes one of its slots for a moment, so weir does not do
/// it on a full server.
async fn learn_info(
    server: &Arc<Server>,
    advertised_info: &AdvertisedInfo,
    tls: ServerTls<'_>,
    compatibility: Compatibility,
) {
    let Some(_slot) = Slot::reserve(server, timer::now()) else { return };
    let header = if compatibility.proxy_protocol { proxy_header::LOCAL } else { b"" };
    match dial::dial(server, tls, header, Instant::now() + INFO_TIMEOUT).await {
        Ok(connection) => {
            let info = connection.info();
            advertised_info.learn(server.index(), info);
            info!(
                server = server.name(),
                address = server.address(),
                version = info.version(),
                nonce = info.nonce().is_some(),
                "server found"
            );
            for missing in compatibility.missing_features(info) {
                warn!(server = server.name(), "{missing}");
            }
        }
        Err(err) => debug!(server = server.name(), %err, "no INFO yet"),
    }
}

/// Looks for the INFO of a server's WebSocket port.
#[derive(Debug, Default)]
struct WebSocketProbe {
    has_warned: bool,
}

impl WebSocketProbe {
    /// As [`learn_info`]. A port that does not answer, or that belongs to another server, is told of once.
    async fn learn_info(&mut self, server: &Arc<Server>, advertised_info: &AdvertisedInfo, tls: Option<&Connector>) {
        let Some(_slot) = Slot::reserve(server, timer::now()) else { return };
        let Some(address) = server.websocket().map(|port| port.endpoint.address()) else { return };
        match dial::dial_websocket(server, tls, None, Instant::now() + INFO_TIMEOUT).await {
            Ok(connection) => {
                let info = connection.info();
                advertised_info.learn_at(Port::WebSocket, server.index(), info);
                info!(server = server.name(), address, version = info.version(), "WebSocket port found");
                self.has_warned = false;
                let client_port = advertised_info.server_id(server.index());
                if client_port.is_some_and(|id| id != info.server_id()) {
                    warn!(
                        server = server.name(),
                        address, "the WebSocket port is another server's: its readings and counts will be wrong"
                    );
                }
            }
            // The server itself is there.
            Err(err) if !self.has_warned && advertised_info.knows(server.index()) => {
                self.has_warned = true;
                warn!(server = server.name(), address, %err, "no INFO from the WebSocket port");
            }
            Err(err) => debug!(server = server.name(), address, %err, "no INFO from the WebSocket port yet"),
        }
    }
}

fn warn_when_near_full(server: &Server, warn_at: f64, near_full: &mut bool) {
    let (has, capacity) = (server.load().projected(), server.load().capacity());
    let near = f64::from(has) >= f64::from(capacity) * warn_at;
    if near && !*near_full {
        warn!(server = server.name(), connections = has, max_connections = capacity, "server is nearly full");
    }
    *near_full = near;
}
