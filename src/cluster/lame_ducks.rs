//! Servers that go into lame duck mode, as they announce it over the system account.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    advertised_info::AdvertisedInfo,
    cluster::system_account::SystemAccount,
    net::timer,
    upstream::{Server, Servers},
};

/// The pause before it subscribes again.
const SUBSCRIBE_AGAIN: Duration = Duration::from_millis(50);

/// Listens for servers that go into lame duck mode, until `stop`. A server with a session through weir tells it there
/// too; a server without one tells it only here.
pub async fn watch_lame_ducks(
    system: SystemAccount,
    servers: Arc<Servers>,
    advertised_info: Arc<AdvertisedInfo>,
    stop: CancellationToken,
) {
    let watching = async {
        loop {
            if let Ok(mut events) = system.subscribe("$SYS.SERVER.*.LAMEDUCK").await {
                while let Some(event) = events.next().await {
                    let id = event.subject.split('.').nth(2).unwrap_or_default().to_owned();
                    let is_it = |server: &&Arc<Server>| advertised_info.server_id(server).as_deref() == Some(&id);
                    if let Some(server) = servers.list().iter().find(is_it) {
                        info!(server = server.name(), "server is in lame duck mode");
                        server.said_lame_duck(timer::now(), &id);
                    }
                }
            }
            // The connection begins anew.
            sleep(SUBSCRIBE_AGAIN).await;
        }
    };
    tokio::select! {
        () = watching => {}
        () = stop.cancelled() => {}
    }
}
