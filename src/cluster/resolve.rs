//! Keeps the addresses of a server's names, so that dials need no look-up: a look-up takes a thread, and a storm would
//! take many.
//!
//! Look-ups have a loop of their own: one that hangs delays no reading whose address is known.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    net::lookup_host,
    time::{Instant, sleep},
};
use tracing::{debug, warn};

use crate::upstream::{Endpoint, Server};

/// A name is looked up again after this long, since the look-up of the system tells no TTL.
const INTERVAL: Duration = Duration::from_secs(10);
/// The same while the name has no address yet, and when a dial has failed.
const SHORT_INTERVAL: Duration = Duration::from_secs(1);

/// Keeps the addresses of a server's client port and monitoring port. Never returns.
pub(super) async fn keep_resolved(server: &Server) {
    let monitor = async {
        if let Some(monitor) = server.monitor() {
            keep(&monitor.endpoint, || ()).await;
        }
    };
    let websocket = async {
        if let Some(port) = server.websocket() {
            keep(&port.endpoint, || ()).await;
        }
    };
    tokio::join!(keep(server.endpoint(), || warn_of_several(server)), monitor, websocket);
    std::future::pending().await
}

/// Keeps the addresses of one name. `changed` is called when it leads elsewhere than before. Returns if it is no name.
async fn keep(endpoint: &Endpoint, changed: impl Fn()) {
    if endpoint.address().parse::<SocketAddr>().is_ok() {
        return;
    }
    let mut next = Instant::now();
    loop {
        if endpoint.takes_lookup() || Instant::now() >= next {
            match lookup_host(endpoint.address()).await {
                Ok(found) => {
                    if endpoint.set_resolved(found.collect()) {
                        changed();
                    }
                    next = Instant::now() + INTERVAL;
                }
                // It keeps its last addresses.
                Err(err) => debug!(name = endpoint.address(), %err, "no address"),
            }
        }
        sleep(SHORT_INTERVAL).await;
    }
}

/// Looks a name up that nobody has looked up yet.
pub async fn look_up_first(endpoint: &Endpoint) {
    if endpoint.resolved().is_empty()
        && let Ok(found) = lookup_host(endpoint.address()).await
    {
        endpoint.set_resolved(found.collect());
    }
}

/// A machine may have an address of each family. Several of one family are mostly several servers, which weir cannot
/// tell apart under one name.
fn warn_of_several(server: &Server) {
    let addresses = server.endpoint().most_of_a_family();
    if addresses > 1 {
        warn!(
            server = server.name(),
            address = server.address(),
            addresses,
            "the name leads to several addresses, of which weir uses one at a time; if they are several servers, name \
             each one in [[cluster.servers]]"
        );
    }
}
