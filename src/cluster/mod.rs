//! What weir learns from the servers: a reading of each at an interval, over the cluster's system account or its
//! monitoring port; its INFO until that is known; the accounts' limits and counts; and lame duck mode.

mod access;
mod account_counts;
mod account_events;
mod account_limits;
pub mod account_lookup;
pub mod accounts;
mod answerers;
mod closed_connections;
pub mod discover;
mod error;
pub mod examine;
mod http_client;
mod lame_ducks;
pub mod own_client;
mod own_dial;
mod poller;
mod resolve;
pub mod system_account;
mod system_login;
mod told_to_go;
mod varz;
mod websocket_probe;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    advertised_info::AdvertisedInfo,
    cluster::{
        own_dial::OwnDial,
        poller::{Poller, is_due},
        resolve::keep_resolved,
        websocket_probe::WebSocketProbe,
    },
    net::timer,
    upstream::{Compatibility, Port, Server},
};

pub use self::{
    access::{ClusterAccess, PlainInfo},
    account_counts::account_counts,
    closed_connections::watch_closed_connections,
    lame_ducks::watch_lame_ducks,
    own_dial::read_info,
    resolve::look_up_first,
};

/// The shortest interval between weir's own dials of a server that does not answer.
const LEAST_DIAL_INTERVAL: Duration = Duration::from_millis(250);

/// Polls in a row without a reading that are no reason to look whether the server is there.
const FEW_UNREAD: u32 = 2;

/// Whether the server is to be dialled for what its readings say.
#[derive(Default)]
struct Wanted {
    whatever_the_load: AtomicBool,
    if_it_has_room: AtomicBool,
}

/// Watches one server until `stop`: its address, its readings if there is a way to read it, and its INFO.
pub async fn watch(
    server: Arc<Server>,
    advertised_info: Arc<AdvertisedInfo>,
    interval: Duration,
    compatibility: Compatibility,
    access: ClusterAccess,
    stop: CancellationToken,
) {
    let own = OwnDial::new(server, advertised_info, access, compatibility);
    let wanted = Wanted::default();
    // Apart, so that a server is read all the same while a dial or a look-up hangs.
    let watching = async {
        tokio::join!(
            keep_resolved(&own.server),
            read(&own, &wanted, interval),
            keep_dialled(&own, &wanted, interval),
            told_to_go::find_out(&own),
        );
    };
    tokio::select! {
        () = watching => {}
        () = stop.cancelled() => {}
    }
}

/// Reads the server at an interval, where there is a way to read it. Never returns.
async fn read(own: &OwnDial, wanted: &Wanted, interval: Duration) {
    let server = &own.server;
    let mut poller = Poller::new(own);
    let (mut restarts, mut is_several, mut is_stranger, mut unread) = (0, false, false, 0);
    loop {
        let is_read = poller.poll(own, interval).await;
        server.forget_old(timer::now());
        if std::mem::replace(&mut restarts, server.restarts()) != server.restarts() {
            info!(server = server.name(), "server has restarted");
        }
        if !std::mem::replace(&mut is_several, server.is_several()) && is_several {
            warn!(
                server = server.name(),
                address = server.address(),
                "several servers answer in turn: weir uses no reading of them; name each one in [[cluster.servers]]"
            );
        }
        unread = if is_read { 0 } else { u32::saturating_add(unread, 1) };
        let stranger = server.is_stranger();
        if stranger && !std::mem::replace(&mut is_stranger, stranger) {
            let cluster = server.cluster_name().0.flatten();
            warn!(
                server = server.name(),
                address = server.address(),
                cluster = cluster.as_deref().unwrap_or("none"),
                "a server of another cluster answers: weir sends no client there; if it is right, name all clusters in \
                 cluster.names"
            );
        } else if !stranger && std::mem::replace(&mut is_stranger, stranger) {
            info!(server = server.name(), "the name of its cluster is accepted");
        }
        // Only a dial shows whether it is a stranger still.
        if stranger {
            wanted.whatever_the_load.store(true, Relaxed);
        }
        // Without readings only a dial shows that a lame duck has been replaced.
        if poller.may_have_new_id(server) || !is_read && server.is_lame_duck(timer::now()) {
            wanted.whatever_the_load.store(true, Relaxed);
        }
        // Nor whether the server has gone, or only its readings have, while no client comes. A few that a busy server
        // answers late say nothing.
        if server.has_readings() && unread > FEW_UNREAD && is_due(unread) {
            wanted.if_it_has_room.store(true, Relaxed);
        }
        // Jittered, so that several weirs do not poll in step.
        sleep(interval.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
    }
}

/// Dials the server while its INFO is not known, while it does not answer, and when that is `wanted`. Never returns.
async fn keep_dialled(own: &OwnDial, wanted: &Wanted, interval: Duration) {
    let OwnDial { server, advertised_info, access, .. } = own;
    let (mut websocket, mut restarts) = (WebSocketProbe::default(), 0);
    loop {
        let whatever_the_load = wanted.whatever_the_load.swap(false, Relaxed);
        let if_it_has_room = wanted.if_it_has_room.swap(false, Relaxed);
        if whatever_the_load || if_it_has_room || own.is_needed() {
            own.look(whatever_the_load).await;
        }
        let has_restarted = std::mem::replace(&mut restarts, server.restarts()) != server.restarts();
        let knows_websocket = || advertised_info.knows_of(Port::WebSocket, server);
        if server.websocket().is_some() && (has_restarted || !knows_websocket()) {
            websocket.learn_info(server, advertised_info, access.websocket_tls.as_deref()).await;
        }
        sleep(interval.max(LEAST_DIAL_INTERVAL).mul_f64(0.9 + 0.2 * fastrand::f64())).await;
    }
}
