//! Keeps the addresses of a server's names, so that dials need no look-up: a look-up takes a thread, and a storm would
//! take many.
//!
//! Look-ups have a loop of their own: one that hangs delays no reading whose address is known.

use std::{net::SocketAddr, sync::Arc, time::Duration};

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

/// Keeps the addresses of a server's ports. Never returns.
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
    let client = keep(server.endpoint(), || warn_of_several(server));
    tokio::join!(client, monitor, websocket, keep_leafnode_port(server));
    std::future::pending().await
}

/// Keeps the addresses of one name. `changed` is called when it leads elsewhere than before. Returns if it is no name.
async fn keep(endpoint: &Endpoint, changed: impl Fn()) {
    if !is_name(endpoint) {
        return;
    }
    let mut next = Instant::now();
    loop {
        look_up_when_due(endpoint, &mut next, &changed).await;
        sleep(SHORT_INTERVAL).await;
    }
}

/// The same of the leafnode port, where leafnodes come through weir. Readings may name another one at any time. Never
/// returns.
async fn keep_leafnode_port(server: &Server) {
    let (mut known, mut next) = (None::<Arc<Endpoint>>, Instant::now());
    loop {
        let endpoint = server.leafnode().endpoint().filter(|_| server.leafnode().counts());
        if let Some(endpoint) = endpoint.filter(|endpoint| is_name(endpoint)) {
            if !known.as_ref().is_some_and(|known| Arc::ptr_eq(known, &endpoint)) {
                next = Instant::now();
            }
            look_up_when_due(&endpoint, &mut next, || ()).await;
            known = Some(endpoint);
        }
        sleep(SHORT_INTERVAL).await;
    }
}

fn is_name(endpoint: &Endpoint) -> bool {
    endpoint.address().parse::<SocketAddr>().is_err()
}

/// Looks a name up, if it is time to do so.
async fn look_up_when_due(endpoint: &Endpoint, next: &mut Instant, changed: impl Fn()) {
    if !endpoint.takes_lookup() && Instant::now() < *next {
        return;
    }
    match lookup_host(endpoint.address()).await {
        Ok(found) => {
            if endpoint.set_resolved(found.collect()) {
                changed();
            }
            *next = Instant::now() + INTERVAL;
        }
        // It keeps its last addresses.
        Err(err) => debug!(name = endpoint.address(), %err, "no address"),
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

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::upstream::{Params, ServerParams, Servers};

    async fn resolves(server: &Server) -> bool {
        let resolved = async {
            while server.leafnode().endpoint().is_none_or(|endpoint| endpoint.resolved().is_empty()) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = keep_resolved(server) => false,
            is_in_time = timeout(3 * SHORT_INTERVAL, resolved) => is_in_time.is_ok(),
        }
    }

    #[tokio::test]
    async fn the_name_of_a_leafnode_port_is_resolved_where_leafnodes_come() {
        let params = ServerParams { leafnode: Some("localhost:7422".into()), ..ServerParams::bare("127.0.0.1:4222") };
        let servers = Servers::new(&Params::bare(vec![params]));
        let server = servers.iter().next().unwrap();
        assert!(!resolves(&server).await, "nobody goes there");
        servers.count_leafnodes(true);
        assert!(resolves(&server).await);
    }
}
