//! Taking over certificates, keys and revocation lists that have changed.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::tls::{BadFile, Connector, Terminator};

/// How often the files are looked at without a signal: whatever renews them rarely knows how to send one.
const LOOK: Duration = Duration::from_secs(10);
/// A certificate that expires within so many days is warned of when it is read.
const EXPIRES_SOON: f64 = 14.0;

/// Takes over what has changed, whenever it is `told` to and every few seconds, until `stop`. Whoever is connected notices nothing; what
/// cannot be used is complained of once and changes nothing.
pub async fn renew(
    listeners: Vec<(SocketAddr, Arc<Terminator>)>,
    servers: Option<Arc<Connector>>,
    told: Arc<Notify>,
    stop: CancellationToken,
) {
    listeners.iter().for_each(|(_, tls)| warn_of(tls));
    let renewing = async {
        loop {
            tokio::select! {
                () = told.notified() => {}
                () = sleep(LOOK) => {}
            }
            for (listener, tls) in &listeners {
                if renewed(&listener.to_string(), tls.reload()) {
                    warn_of(tls);
                }
            }
            if let Some(tls) = &servers {
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
        warn!(subject = one.subject, days = one.days_left().floor(), "certificate expires soon, or has");
    }
}

/// Tells of a renewal.
fn renewed(of: &str, outcome: Result<bool, Vec<BadFile>>) -> bool {
    match outcome {
        Ok(false) => {}
        Ok(true) => info!(of, "certificates renewed"),
        Err(ref bad) => bad.iter().for_each(|err| warn!(of, %err, "certificates not renewed")),
    }
    matches!(outcome, Ok(true))
}
