//! Servers that go into lame duck mode, as they announce it over the system account.

use std::sync::Arc;

use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    advertised_info::AdvertisedInfo,
    cluster::system_account::SystemAccount,
    net::timer,
    upstream::{Server, Servers},
};

/// Listens for servers that go into lame duck mode, until `stop`. A server with a session through weir tells it there
/// too; a server without one tells it only here.
pub async fn watch_lame_ducks(
    system: SystemAccount,
    servers: Arc<Servers>,
    advertised_info: Arc<AdvertisedInfo>,
    stop: CancellationToken,
) {
    let Ok(mut events) = system.subscribe("$SYS.SERVER.*.LAMEDUCK").await else {
        // The connection is closed for good, which happens only when weir ends.
        return stop.cancelled().await;
    };
    let watching = async {
        while let Some(event) = events.next().await {
            let id = event.subject.split('.').nth(2).unwrap_or_default().to_owned();
            let is_it = |server: &&Arc<Server>| advertised_info.server_id(server).as_deref() == Some(&id);
            if let Some(server) = servers.list().iter().find(is_it) {
                info!(server = server.name(), "server is in lame duck mode");
                server.said_lame_duck(timer::now(), &id);
            }
        }
    };
    tokio::select! {
        () = watching => {}
        () = stop.cancelled() => {}
    }
}
