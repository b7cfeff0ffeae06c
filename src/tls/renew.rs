//! Reloads certificates, keys and revocation lists that have changed.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::tls::{BadFile, Connector, Terminator};

/// How often the files are looked at without a signal. Few tools that renew certificates can send one.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Reloads what has changed at each notification and every few seconds, until `stop`. Connected clients notice nothing.
/// A file that cannot be used is logged once and changes nothing. Connectors have the name that the log knows them by.
pub async fn renew(
    listeners: impl Fn() -> Arc<Vec<(SocketAddr, Arc<Terminator>)>>,
    connectors: impl Fn() -> Vec<(&'static str, Arc<Connector>)>,
    reload: Arc<Notify>,
    stop: CancellationToken,
) {
    let renewing = async {
        loop {
            tokio::select! {
                () = reload.notified() => {}
                () = sleep(LOOK_INTERVAL) => {}
            }
            for (listener, tls) in listeners().iter() {
                tell(&listener.to_string(), tls.reload());
            }
            for (of, tls) in connectors() {
                tell(of, tls.reload());
            }
        }
    };
    tokio::select! {
        () = renewing => {}
        () = stop.cancelled() => {}
    }
}

/// Logs the outcome of a reload.
fn tell(of: &str, outcome: Result<bool, Vec<BadFile>>) {
    match outcome {
        Ok(false) => {}
        Ok(true) => info!(of, "certificates renewed"),
        Err(bad) => bad.iter().for_each(|err| warn!(of, %err, "certificates not renewed")),
    }
}
