//! Has the servers count connections for the ledger, while leases of weirs that have ended are to be taken back.

use std::{collections::HashMap, time::Duration};

use tokio::time::sleep;

use crate::{
    cluster::{ClusterAccess, account_counts},
    fleet::{key::Kind, lease::LeaseKey},
    fleet_link::FleetLink,
    net::timer,
    session::Shared,
};

/// How often it is looked whether anything is to be counted, and how often the servers count then.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Counts for ever.
pub(super) async fn run(link: &FleetLink, shared: &Shared, access: &ClusterAccess) {
    link.begin.cancelled().await;
    loop {
        sleep(LOOK_EVERY.mul_f64(0.8 + 0.4 * fastrand::f64())).await;
        let wanted = link.fleet.ledger().to_count();
        if wanted.is_empty() {
            continue;
        }
        let began = timer::now();
        let Some(counts) = account_counts(&shared.servers, access).await else { continue };
        let keys = link.fleet.keys();
        let counts: HashMap<_, _> =
            counts.into_iter().map(|(name, count)| (keys.of(Kind::Account, &name), count)).collect();
        let (now, mut ledger) = (timer::now(), link.fleet.ledger());
        for key in wanted.into_iter().filter(|key: &LeaseKey| key.kind == Kind::Account) {
            // Servers do not name accounts without a connection.
            ledger.counted(now, key, began, counts.get(&key.key).copied().unwrap_or(0));
        }
    }
}
