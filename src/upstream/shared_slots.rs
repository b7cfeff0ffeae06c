//! Slots of servers that the weirs of a fleet share by leases, over all servers: which are leased, how many this weir
//! wants of each, and what the ledger is told of them.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use crate::{
    fleet::{
        beat::Beat,
        key::Kind,
        lease::{Holder, LeaseKey, ledger::Ledger},
    },
    upstream::{Around, Server, Servers, placement::Tier, reconciled_count::LastCount},
};

impl Servers {
    /// Looks which servers' slots are to be leased, while `queued` clients wait; `others_lease` says whether another
    /// weir has a lease of one. To be called several times a second, where weir is in a fleet.
    pub fn share_slots(
        &self,
        now: Instant,
        around: Around<'_>,
        queued: u32,
        others_lease: impl Fn(LeaseKey) -> bool + Copy,
    ) {
        let list = self.list();
        list.iter().for_each(|server| server.look_at_slots(now, around, others_lease));
        if list.iter().all(|server| server.leased_slots().is_none()) {
            return;
        }
        // Those who wait go to all servers alike, by their room.
        let room = |server: &Server| match server.view(now).tier < Tier::Ejected {
            true => u64::from(server.load().ceiling().saturating_sub(server.load().projected())),
            false => 0,
        };
        let rooms: Vec<_> = list.iter().map(|server| room(server)).collect();
        let all = rooms.iter().sum::<u64>().max(1);
        for (server, room) in list.iter().zip(rooms) {
            if let Some(allowance) = server.leased_slots() {
                let waiting = (u64::from(queued) * room).div_ceil(all).min(room);
                allowance.wants(u32::try_from(waiting).unwrap_or(u32::MAX));
            }
        }
    }

    /// What the ledger is to be told of the servers whose slots are leased, and of those that it wants to be counted.
    pub fn slot_counts(&self, to_count: &[LeaseKey]) -> SlotCounts {
        let to_count: HashSet<_> = to_count.iter().filter(|key| key.kind == Kind::Server).collect();
        let of = |server: &Arc<Server>| {
            let (key, is_leased) = server.slots_key()?;
            let is_counted = to_count.contains(&key);
            let reading = || server.load().connections().last_reading();
            (is_leased || is_counted).then(|| SlotCount { key, is_leased, is_counted, reading: reading() })
        };
        SlotCounts(self.list().iter().filter_map(of).collect())
    }
}

#[derive(Debug)]
struct SlotCount {
    key: LeaseKey,
    is_leased: bool,
    is_counted: bool,
    reading: Option<LastCount>,
}

/// See [`Servers::slot_counts`].
#[derive(Debug)]
pub struct SlotCounts(Vec<SlotCount>);

impl SlotCounts {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells the ledger. `peers` are the other weirs that are heard, with their last beats.
    pub fn tell(self, now: Instant, ledger: &mut Ledger, peers: &HashMap<Holder, Arc<Beat>>) {
        for SlotCount { key, is_leased, is_counted, reading } in self.0 {
            if is_leased {
                for (holder, beat) in peers {
                    let held = beat.servers.get(&key.key).map_or(0, |one| one.held);
                    ledger.reported(now, holder, key, held, false);
                }
            }
            let Some(reading) = reading else { continue };
            if is_counted {
                ledger.counted(now, key, reading.asked, reading.counted);
            }
            // What a weir holds that lives and is not heard looks like what came past all weirs, and is in its lease.
            let is_heard = |holder: &Holder| holder == ledger.me() || peers.contains_key(holder);
            let all_heard = ledger.leases(key).iter().all(|one| one.is_ended || is_heard(&one.holder));
            if let Some(direct) = reading.direct.filter(|_| is_leased && all_heard) {
                ledger.beyond_live(now, key, direct, reading.asked);
            }
        }
    }
}
