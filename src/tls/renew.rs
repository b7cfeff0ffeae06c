//! Reloads certificates, keys and revocation lists that have changed.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::tls::{BadFile, Connector, Terminator};

/// How often the files are looked at without a signal. Few tools that renew certificates can send one.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// weir warns of a certificate, when it reads it, that expires within this many days.
const EXPIRES_SOON: f64 = 14.0;

/// Reloads what has changed at each notification and every few seconds, until `stop`. Connected clients notice nothing.
/// A file that cannot be used is logged once and changes nothing.
pub async fn renew(
    listeners: Vec<(SocketAddr, Arc<Terminator>)>,
    servers: Vec<Arc<Connector>>,
    reload: Arc<Notify>,
    stop: CancellationToken,
) {
    listeners.iter().for_each(|(_, tls)| warn_of(tls));
    let renewing = async {
        loop {
            tokio::select! {
                () = reload.notified() => {}
                () = sleep(LOOK_INTERVAL) => {}
            }
            for (listener, tls) in &listeners {
                if renewed(&listener.to_string(), tls.reload()) {
                    warn_of(tls);
                }
            }
            for tls in &servers {
                renewed("towards servers", tls.reload());
            }
        }
    };
    tokio::select! {
        () = renewing => {}
        () = stop.cancelled() => {}
    }
}

fn warn_of(tls: &Terminator) {
    for one in tls.in_use().iter().filter(|one| one.days_left() < EXPIRES_SOON) {
        warn!(subject = one.subject, days = one.days_left().floor(), "certificate has expired or expires soon");
    }
}

/// Logs the outcome of a reload, and returns whether there is something new.
fn renewed(of: &str, outcome: Result<bool, Vec<BadFile>>) -> bool {
    match outcome {
        Ok(false) => {}
        Ok(true) => info!(of, "certificates renewed"),
        Err(ref bad) => bad.iter().for_each(|err| warn!(of, %err, "certificates not renewed")),
    }
    matches!(outcome, Ok(true))
}
