//! What the other weirs of the fleet hold of the servers: told to each server's count, and what weir tells them.

#[cfg(test)]
mod simulation;

use std::{sync::atomic::Ordering::Relaxed, time::Instant};

use crate::{
    fleet::{
        beat::ServerBeat,
        key::{Key, Keys, Kind},
        peers::Heard,
    },
    upstream::{InfoKind, InfoWhen, Port, Server, Servers, reconciled_count::OwnCounts},
};

impl Server {
    /// What the weirs of a fleet know it by: the name that it gives itself, which is one in a cluster, however each
    /// weir's configuration names and reaches it. Its address while that name is unknown, and where several servers
    /// answer there.
    pub fn fleet_key(&self, keys: &Keys) -> Key {
        let info = self.last_info(InfoKind { port: Port::Client, when: InfoWhen::Opens });
        let info = info.or_else(|| self.last_info(InfoKind { port: Port::WebSocket, when: InfoWhen::Opens }));
        match &info {
            Some(info) if !info.server_name().is_empty() && !self.is_several() => {
                keys.of(Kind::Server, info.server_name())
            }
            _ => keys.of(Kind::Server, self.address()),
        }
    }

    /// What weir tells its peers of it; `waiting` clients could go there.
    pub fn beat(&self, now: Instant, waiting: u32) -> ServerBeat {
        let OwnCounts { held, open, taken, released } = self.load().connections().own();
        ServerBeat {
            held,
            open,
            taken,
            released,
            handshakes: self.load().under_way(),
            waiting,
            limit: self.whole_limit(now),
            pace: self.pace_beat(now),
            done: self.counters().admitted.load(Relaxed),
        }
    }
}

/// What weir hears of its peers.
impl Servers {
    /// A peer has said what it holds.
    pub fn hear(&self, keys: &Keys, heard: &Heard, now: Instant) {
        if let Some(gone) = &heard.ends {
            self.peer_lost(gone.run);
        }
        let list = self.list();
        for server in list.iter() {
            server.load().connections().peer_says(&heard.of_server(server.fleet_key(keys)));
        }
        self.unseen.heard(heard.beat.run, (heard.sent(), heard.taken()), &list, now);
    }

    /// A peer's process has ended, and has given back all that it held.
    pub fn peer_ended(&self, run: u64, now: Instant) {
        let list = self.list();
        list.iter().for_each(|server| server.load().connections().peer_ended(run, now));
        self.unseen.gone(run, &list);
    }

    /// A peer is silent, or cannot be reached: what the servers counted of it counts until they say otherwise.
    pub fn peer_lost(&self, run: u64) {
        let list = self.list();
        list.iter().for_each(|server| server.load().connections().peer_lost(run));
        self.unseen.gone(run, &list);
    }
}
