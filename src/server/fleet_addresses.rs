//! Tells clients the addresses of the fleet's other weirs: new clients in the INFO that they get, connected ones by an
//! INFO of its own where the addresses have changed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{fleet::Fleet, relay::registry::Walk, session::Shared};

/// How often it is looked whether the addresses have changed.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// The pause after each slice of a walk over the sessions, 256 of them at most: they are told at no more than 50,000 a
/// second, each with some hundred bytes.
const BETWEEN_SLICES: Duration = Duration::from_millis(5);

/// Runs until `stop`.
pub async fn announce(shared: Arc<Shared>, stop: CancellationToken) {
    let Some(fleet) = &shared.fleet else { return };
    let announce = async {
        loop {
            sleep(LOOK_INTERVAL).await;
            if look(&shared, fleet) {
                tell_connected(&shared).await;
            }
        }
    };
    let _ = stop.run_until_cancelled(announce).await;
}

/// Returns whether connected clients are to be told.
fn look(shared: &Shared, fleet: &Fleet) -> bool {
    let now = Instant::now();
    let change = fleet.announcer().look(now, fleet.link().is_up());
    if let Some(addresses) = change.addresses {
        let all: Vec<_> = addresses.iter().collect();
        debug!(addresses = ?all, "clients are told other addresses of the fleet");
        shared.advertised_info.fleet_changed(addresses);
    }
    change.tell_connected
}

/// Has each session tell its client. One whose listener does not tell of the fleet, or whose client expects no INFO,
/// does nothing.
async fn tell_connected(shared: &Shared) {
    // No listener tells of the fleet.
    if shared.advertised_info.own_addresses().is_empty() {
        return;
    }
    let mut walk = Walk::default();
    while let Some(some) = shared.sessions.some(&mut walk) {
        some.iter().for_each(|session| session.request_info());
        sleep(BETWEEN_SLICES).await;
    }
}
