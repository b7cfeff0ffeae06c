//! Has slots of nearly full servers leased, and tells the ledger what the servers and the other weirs say of them.

use std::{collections::HashMap, sync::Arc, time::Instant};

use crate::{fleet::lease::Holder, fleet_link::FleetLink, session::Shared, upstream::Around};

/// Looks at all servers while so many weirs live, this one included.
pub(super) fn look(link: &FleetLink, shared: &Shared, weirs: u32, now: Instant) {
    let fleet = &link.fleet;
    let queued = u32::try_from(shared.admission.queued()).unwrap_or(u32::MAX);
    let around = Around { book: fleet.leases(), weirs };
    shared.servers.share_slots(now, around, queued, |key| fleet.ledger().others_have(key));
    let to_count = fleet.ledger().to_count();
    let counts = shared.servers.slot_counts(&to_count);
    if counts.is_empty() {
        return;
    }
    let peers: HashMap<_, _> = {
        let peers = fleet.peers();
        peers.iter().map(|peer| (Holder::new(peer.id(), peer.last().run), Arc::clone(peer.last()))).collect()
    };
    counts.tell(now, &mut fleet.ledger(), &peers);
}
